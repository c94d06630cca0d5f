"""An engine of the tests' own, driven by Docker's CLI, and what other tools see of its containers."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from typing import Any

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUSYBOX = "/bin/busybox"
GROUPS = "/sys/fs/cgroup"


class Engine:
    """One engine process with roots of its own below a temporary directory."""

    def __init__(
        self, options: tuple[str, ...] = (), wrapper: tuple[str, ...] = (), *, hosts: bool = False, pass_fds: tuple[int, ...] = (),
        bridge: bool = False,
    ) -> None:  # fmt: skip
        """hosts: whether the options name addresses, so that the unix socket must be named too; bridge: whether it has the
        default network: one that runs in the machine's own network namespace leaves its interfaces and rules alone."""
        self.top = tempfile.mkdtemp(prefix="berth-test-", dir="/var/tmp")
        self.data, self.exec = f"{self.top}/data", f"{self.top}/exec"
        self.options = (*options, "-H", f"unix://{self.exec}/berth.sock") if hosts else options
        self.options += () if bridge else ("--bridge", "none")
        self.wrapper, self.pass_fds = wrapper, pass_fds
        self.mounts_before = mounts()
        self.seen_ids: set[str] = set()
        self.process: subprocess.Popen[bytes] | None = None
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{self.exec}/berth.sock", "DOCKER_CONFIG": f"{self.top}/config"}
        self.env.pop("DOCKER_CONTEXT", None)
        self.start()

    def start(self) -> None:
        """Starts the process and waits for its line on the ready descriptor."""
        ready, theirs = os.pipe()
        log = os.open(f"{self.top}/engine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        command = [
            *self.wrapper, sys.executable, "-m", "berth.cli.engine_main", "--data-root", self.data, "--exec-root", self.exec,
            "--ready-fd", str(theirs), *self.options,
        ]  # fmt: skip
        try:
            self.process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src", "BERTH_TEST": self.top}, pass_fds=[theirs, *self.pass_fds], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd=self.top, umask=0o022,
            )  # fmt: skip
        finally:
            os.close(theirs)
            os.close(log)
        line = os.read(ready, 100)
        os.close(ready)
        assert line.strip(), f"the engine did not start: {self.log()}"

    def log(self) -> str:
        with open(f"{self.top}/engine.log") as file:
            return file.read()

    @property
    def launcher(self) -> int:
        """The pid of the launcher: the engine's child of that name."""
        assert self.process
        names = ("berth-launcher", "memfd:berth", "python", "3")
        return next(pid for pid in children(self.process.pid) if comm(pid) in names and "resolver.py" not in read(f"/proc/{pid}/cmdline"))

    def halt_helpers(self) -> list[int]:
        """SIGSTOP to the launcher and the monitors that wait, so that nothing is begun; their pids, for `resume`."""
        launcher = self.launcher
        os.kill(launcher, signal.SIGSTOP)  # first: it makes the others
        wait_until(lambda: status(launcher).get("State", "")[:1] == "T", "the launcher's halt")
        halted = [launcher, *(pid for pid in children(launcher) if comm(pid) in ("berth-spare", "berth-launcher"))]
        for pid in halted:
            os.kill(pid, signal.SIGSTOP)
        return halted

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log()

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def docker(self, *words: str, code: int | None = 0, input: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs Docker's CLI; fails unless its exit code is `code` (None: any)."""
        done = subprocess.run(
            ["docker", *words], env=self.env, capture_output=True, text=True, timeout=timeout, errors="replace",
            **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}),
        )  # fmt: skip
        assert code is None or done.returncode == code, f"docker {words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, *words: str, code: int | None = 0, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """`docker run --rm --network none WORDS`."""
        return self.docker("run", "--rm", "--network", "none", *words, code=code, input=input)

    def sh(self, script: str, *options: str, code: int | None = 0) -> str:
        """Standard output and error of a shell script in a new container, in this order."""
        done = self.run(*options, "bb", "sh", "-c", script, code=code)
        return done.stdout + done.stderr

    def up(self, *options: str, command: tuple[str, ...] = ("sleep", "1000"), image: str = "bb") -> str:
        """Starts a container in the background and returns its id."""
        identity = self.docker("run", "-d", "--network", "none", *options, image, *command).stdout.strip()
        self.seen_ids.add(identity)
        return identity

    def state(self, identity: str) -> dict:
        return dict(json.loads(self.docker("inspect", identity).stdout)[0]["State"])

    def pid(self, identity: str) -> int:
        return int(self.state(identity)["Pid"])

    def rm(self, *identities: str) -> None:
        if identities:
            self.docker("rm", "-f", *identities)

    def finish(self) -> None:
        """Removes all containers, stops the engine and checks that nothing is left."""
        identities = self.docker("ps", "-aq", "--no-trunc").stdout.split()
        self.seen_ids |= set(identities)
        self.rm(*identities)
        wait_until(lambda: os.listdir(f"{self.data}/containers") == [], "container directories under the data root")
        wait_until(lambda: os.listdir(f"{self.exec}/containers") == [], "container directories under the exec root")
        for work in (f"{self.data}/build/work", f"{self.exec}/build"):
            wait_until(lambda work=work: not os.path.isdir(work) or os.listdir(work) == [], f"files of builds in {work}")
        # A monitor's cgroup is removed after everybody has been told.
        wait_until(lambda: not self.leftover_processes(but_engine=True), "processes")
        scratch = os.path.realpath(f"{self.exec}/build")  # may lead to the machine's shared memory
        self.stop()
        assert scratch.startswith(self.top) or not os.path.lexists(scratch), f"{scratch} of builds is left"
        wait_until(lambda: not self.leftover_processes(), "processes of the engine")
        assert not [line for line in mounts() - self.mounts_before if self.top in line]
        left = [f"{at}/{name}" for at, names in group_names().items() for name in names & self.seen_ids]
        assert not left, f"cgroups left: {left}"
        assert "Traceback" not in self.log(), self.log()
        shutil.rmtree(self.top)

    def leftover_processes(self, *, but_engine: bool = False) -> list[str]:
        """Monitors and anything else that has our directories open, as root or as work directory, or in its arguments."""
        assert self.process
        own = {self.process.pid, os.getpid()}
        launchers = set(children(self.process.pid))
        found = []
        for pid in all_pids() - own:
            if but_engine and (pid in launchers or comm(pid) in ("berth-spare", "berth-plumber", "berth-resolver")):
                continue  # what waits for the next container
            text = read(f"/proc/{pid}/cmdline") + read(f"/proc/{pid}/mountinfo") + read(f"/proc/{pid}/environ")
            if self.top in text or (launchers and parent(pid) in launchers):
                found.append(f"{pid} {comm(pid)}")
        return found


def sh_alone(side: Any, *words: str) -> str:
    """The output of a program in the network namespace of an engine or a dockerd; '' for one that fails."""
    command = ["nsenter", "-n", "-t", str(side.process.pid), *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=False).stdout


def resume(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """For what has no event to wait for; fails when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s} s there are still: {what}"
        time.sleep(0.01)


def free_port() -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read(path: str) -> str:
    """A file's text; '' if it (or its process) is gone."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status as a table."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in read(f"/proc/{pid}/status").splitlines())}


def all_pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; nobody may have waited for it yet."""
    return status(pid).get("State", "X")[0] in "ZX"


def comm(pid: int) -> str:
    return read(f"/proc/{pid}/comm").strip()


def parent(pid: int) -> int:
    return int(status(pid).get("PPid", "0"))


def children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += [int(word) for word in read(f"/proc/{pid}/task/{task}/children").split()]
    except OSError:
        pass
    return found


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def mounts() -> set[str]:
    return set(read("/proc/self/mountinfo").splitlines())


def group_names() -> dict[str, set[str]]:
    found = {}
    for controller in os.listdir(GROUPS):
        base = f"{GROUPS}/{controller}/berth"
        with contextlib.suppress(FileNotFoundError):  # an engine that ends takes it away, if it is empty
            found[base] = set(os.listdir(base))
    return found


def group_file(identity: str, controller: str, file: str) -> str:
    return read(f"{GROUPS}/{controller}/berth/{identity}/{file}").strip()


def make_rootfs_tar(path: str) -> None:
    """A root file system of busybox alone, with users, and things that escape attempts need."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tempfile.TemporaryDirectory() as top:
        for name in ("bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "home", "var", "usr/bin"):
            os.makedirs(f"{top}/{name}")
        os.chmod(top, 0o755)
        os.chmod(f"{top}/tmp", 0o1777)
        shutil.copy(BUSYBOX, f"{top}/bin/busybox")
        for applet in applets:
            if applet != "busybox":
                os.symlink("busybox", f"{top}/bin/{applet}")
        files = {
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home:/bin/sh\n",
            "etc/group": "root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n",
            "etc/plain": "not a program\n",
        }
        for name, text in files.items():
            with open(f"{top}/{name}", "w") as file:
                file.write(text)
        os.symlink("/", f"{top}/evil")
        os.symlink("../../../../../../..", f"{top}/evil-up")
        with open(f"{top}/bin/foreign", "wb") as file:  # an ELF header of a machine that this is not
            file.write(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(44))
        with open(f"{top}/bin/noline", "w") as file:
            file.write("#!/no/such/interpreter\n")
        for name in ("foreign", "noline"):
            os.chmod(f"{top}/bin/{name}", 0o755)
        with tarfile.open(path, "w") as tar:
            tar.add(top, arcname=".")
