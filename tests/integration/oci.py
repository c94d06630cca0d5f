"""An OCI runtime of the tests' own: bundles made from busybox, its verbs as methods, and what it leaves behind.

    oci = Oci()                                    # ./berth-oci; Oci("runc") for the same bundle through another
    oci.run(oci.bundle(args=["id"])).stdout        # to the end
    box = oci.up({"hostname": "box"})              # created and started, sleeps
    box.pid, box.exec("hostname").stdout, box.proc("mountinfo")
    oci.finish()                                   # the fixture `oci` does it: nothing may be left
"""

import copy
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from harness import BUSYBOX, GROUPS, REPOSITORY

BERTH = f"{REPOSITORY}/berth-oci"
SLEEP = ["sleep", "1000"]
_CAPABILITIES = [
    f"CAP_{name}"
    for name in "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT"
    " KILL AUDIT_WRITE".split()
]
_NOTHING = ["nosuid", "noexec", "nodev"]
SPEC: dict = {
    "ociVersion": "1.1.0",
    "root": {"path": "rootfs"},
    "process": {
        "args": SLEEP, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        "capabilities": {kind: _CAPABILITIES for kind in ("bounding", "effective", "permitted")},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _NOTHING},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*_NOTHING, "mode=1777"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _NOTHING},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_NOTHING, "ro"]},
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}  # fmt: skip


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes`: objects are merged, everything else is replaced, None takes a field away."""
    result = copy.deepcopy(base)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def with_user_namespace(changes: "dict | None" = None, first: int = 200_000) -> dict:
    """Changes that give a container a user namespace whose root is `first` on the host."""
    mappings = [{"containerID": 0, "hostID": first, "size": 65536}]
    kinds = ("pid", "network", "ipc", "uts", "mount", "cgroup", "user")
    return merged(
        {"linux": {"namespaces": [{"type": kind} for kind in kinds], "uidMappings": mappings, "gidMappings": mappings}}, changes or {}
    )


class Box:
    """A container that was created: its id, the pid of its first program, and what the kernel's files say of it."""

    def __init__(self, oci: "Oci", identity: str, pid: int) -> None:
        self.oci, self.id, self.pid = oci, identity, pid

    def start(self) -> "Box":
        self.oci.call("start", self.id)
        return self

    def exec(self, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Runs `words` in it through the runtime's exec."""
        return self.oci.call("exec", self.id, *words, code=code)

    def exec_detached(self, *words: str) -> int:
        """The same for a program that stays; its pid."""
        path = f"{self.oci.top}/exec.pid"
        # Not captured: a pipe would not end before the program does.
        self.oci.call("exec", "--detach", "--pid-file", path, self.id, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path) as file:
            return int(file.read())

    def proc(self, name: str) -> str:
        """A file of /proc/PID."""
        with open(f"/proc/{self.pid}/{name}", errors="replace") as file:
            return file.read()

    def status(self, field: str) -> str:
        """A field of /proc/PID/status, such as 'Uid'."""
        return next(line.split(":", 1)[1].strip() for line in self.proc("status").splitlines() if line.startswith(f"{field}:"))

    def mount(self, at: str) -> "dict[str, str]":
        """The topmost mount at a path of the container: options, propagation, fstype, source, super, from mountinfo."""
        found: dict[str, str] = {}
        for line in self.proc("mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            fields, (fstype, source, *extra) = left.split(" "), right.split(" ")
            if fields[4] == at:
                found = {
                    "root": fields[3], "options": fields[5], "propagation": " ".join(fields[6:]),
                    "fstype": fstype, "source": source, "super": extra[0] if extra else "",
                }  # fmt: skip
        return found

    def path(self, inside: str) -> str:
        """A path of the container as the host reaches it; only for what the test itself put there."""
        return f"/proc/{self.pid}/root{inside}"

    def output(self) -> str:
        """What its first program has written so far."""
        with open(f"{self.oci.top}/{self.id}.out", errors="replace") as file:
            return file.read()

    def wait(self, timeout_s: float = 60) -> None:
        """Until its first program has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(timeout_s * 1000)
        os.close(pidfd)
        assert ended, f"{self.id} still runs after {timeout_s} s: {self.output()}"

    def delete(self) -> None:
        self.oci.call("delete", "--force", self.id)


class Oci:
    """A runtime with a state directory and bundles below a temporary directory. Call finish()."""

    def __init__(self, runtime: str = BERTH, root: str = "", *, options: "tuple[str, ...]" = ()) -> None:
        self.top = tempfile.mkdtemp(prefix="berth-oci-", dir="/var/tmp")
        os.chmod(self.top, 0o755)  # root of a user namespace passes here as a stranger
        self.name = os.path.basename(self.top)
        self.root = root or f"{self.top}/state"
        self.runtime, self.options = runtime, options
        self._count = 0

    def bundle(
        self, changes: "dict | None" = None, *, args: "list[str] | None" = None, mounts: "list[dict] | None" = None,
        edit: "Callable[[dict], None] | None" = None,
    ) -> str:  # fmt: skip
        """A new bundle: SPEC with `changes` merged in, `args`, more `mounts`, then `edit`ed; returns its directory."""
        spec = merged(SPEC, changes or {})
        if args is not None:
            spec["process"]["args"] = args
        spec["mounts"] += mounts or []
        if edit:
            edit(spec)
        self._count += 1
        directory = f"{self.top}/bundle{self._count}"
        make_rootfs(f"{directory}/rootfs")
        if mappings := spec["linux"].get("uidMappings"):
            give_tree(f"{directory}/rootfs", mappings[0]["hostID"])
        self.write_spec(directory, spec)
        return directory

    @staticmethod
    def write_spec(bundle: str, spec: dict) -> None:
        with open(f"{bundle}/config.json", "w") as file:
            json.dump(spec, file)

    def identity(self) -> str:
        """A new id, which no other test has; cgroups without a path of their own are called so too."""
        self._count += 1
        return f"{self.name}-{self._count}"

    def command(self, *words: str) -> "list[str]":
        return [self.runtime, "--root", self.root, *self.options, *words]

    def call(
        self, *words: str, code: "int | None" = 0, input: "str | None" = None, timeout: float = 60, **keywords: object
    ) -> "subprocess.CompletedProcess[str]":
        """One call of the runtime, whose exit code must be `code` (None: any). keywords: of subprocess.run."""
        stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **stdin}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(*words), text=True, timeout=timeout, errors="replace", **{**streams, **keywords}
        )  # type: ignore[call-overload]
        assert code is None or done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, bundle: str, *words: str, code: "int | None" = 0, **keywords: object) -> "subprocess.CompletedProcess[str]":
        """A container from start to end; `words` are options of `run`."""
        return self.call("run", *words, "--bundle", bundle, self.identity(), code=code, **keywords)  # type: ignore[arg-type]

    def create(self, bundle: str, *words: str, identity: str = "", **keywords: object) -> Box:
        """A created container, whose output goes to a file that Box.output reads."""
        identity = identity or self.identity()
        path = f"{self.top}/{identity}"
        with open(f"{path}.out", "w") as output, open(f"{path}.err", "w+") as problems:
            # A pipe would not end before the container does.
            done = subprocess.run(
                self.command("create", *words, "--bundle", bundle, identity), stdin=subprocess.DEVNULL, stdout=output,
                stderr=problems, timeout=60, **keywords,
            )  # type: ignore[call-overload] # fmt: skip
            problems.seek(0)
            assert done.returncode == 0, f"create {words}: exit {done.returncode}\n{problems.read()}"
        return Box(self, identity, self.state(identity)["pid"])

    def up(self, changes: "dict | None" = None, *words: str, **keywords: object) -> Box:
        """A started container from a new bundle; keywords are those of `bundle`, words options of `create`."""
        return self.create(self.bundle(changes, **keywords), *words).start()  # type: ignore[arg-type]

    def fails(self, changes: "dict | None" = None, *words: str, code: int = 1, **keywords: object) -> str:
        """What `run` of a bundle that cannot work says; nothing of it may be left by then."""
        return self.refuses(self.bundle(changes, **keywords), *words, code=code)  # type: ignore[arg-type]

    def refuses(self, bundle: str, *words: str, code: int = 1) -> str:
        """The same for a bundle that is there."""
        identity = self.identity()
        done = self.call("run", *words, "--bundle", bundle, identity, code=code)
        self.assert_nothing_left(identity, bundle)
        return done.stderr

    def state(self, identity: str) -> dict:
        found: dict = json.loads(self.call("state", identity).stdout)
        return found

    def identities(self) -> "list[str]":
        """Ids of the containers that the runtime lists."""
        return [entry["id"] for entry in json.loads(self.call("list", "--format", "json").stdout) or []]

    def finish(self) -> None:
        """Deletes every container; fails if a process, mount, cgroup or directory of the runtime is left then."""
        try:
            for identity in self.identities():
                self.call("delete", "--force", identity)
            self.assert_nothing_left()
        finally:
            shutil.rmtree(self.top, ignore_errors=True)

    def assert_nothing_left(self, identity: str = "", bundle: str = "") -> None:
        """For when no container of this runtime should be there, or none of that id and bundle."""
        name, top = identity or self.name, bundle or self.top
        names = os.listdir(self.root) if os.path.isdir(self.root) else []
        names = [entry for entry in names if (entry == identity if identity else not entry.startswith("@"))]
        assert not names, f"state directories are left: {names}"
        for pid in (found := self.processes(name, top)):
            _await_end(pid)  # berth's own helpers may outlive a call by some milliseconds
        assert not found or not (found := self.processes(name, top)), f"processes are left: {found}"
        with open("/proc/self/mountinfo") as file:
            mounts = [line for line in file if top in line]
        assert not mounts, f"mounts are left: {mounts}"
        assert not (groups := self.groups(name)), f"cgroups are left: {groups}"

    def processes(self, name: str = "", top: str = "") -> "dict[int, str]":
        """Processes that have anything of ours as root, work directory, program or argument: pid -> which."""
        name, top = name or self.name, top or self.top
        found = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid == os.getpid() or _is_dead(pid):
                continue
            for link in ("root", "cwd", "exe"):
                try:
                    target = os.readlink(f"/proc/{pid}/{link}")
                except OSError:
                    continue
                if f"{target}/".startswith(f"{top}/"):
                    found[pid] = f"{link}: {target}"
            try:
                with open(f"/proc/{pid}/cmdline", errors="replace") as file:
                    line = file.read().replace("\0", " ")
                with open(f"/proc/{pid}/cgroup") as file:
                    groups = file.read()
            except OSError:
                continue
            if name in line or f"/{name}" in groups:
                found[pid] = line
        return found

    def groups(self, prefix: str = "") -> "list[str]":
        """cgroups, one or two levels down in any hierarchy, that have one of our ids as their name."""
        top = [f"{GROUPS}/{name}" for name in os.listdir(GROUPS)]
        levels = [*top, *(f"{path}/{name}" for path in top for name in _names(path))]
        return [
            f"{path}/{name}"
            for path in levels
            for name in _names(path)
            if name.startswith(prefix or self.name) and os.path.isdir(f"{path}/{name}")
        ]


def _is_dead(pid: int) -> bool:
    """Gone, or a zombie that waits for the machine's init."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def _await_end(pid: int, timeout_s: float = 30) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(timeout_s * 1000)
    os.close(pidfd)


def make_rootfs(path: str) -> None:
    """busybox, the links to it, and the few directories and files that images have."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        os.makedirs(f"{path}/{name}")
    os.chmod(f"{path}/tmp", 0o1777)
    shutil.copy(BUSYBOX, f"{path}/bin/busybox")
    for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            os.symlink("busybox", f"{path}/bin/{applet}")
    for name, text in (("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\n")):
        with open(f"{path}/etc/{name}", "w") as file:
            file.write(text)


def give_tree(path: str, uid: int) -> None:
    """chown of everything, for the root of a user namespace."""
    for directory, _, names in os.walk(path):
        os.chown(directory, uid, uid)
        for name in names:
            os.chown(f"{directory}/{name}", uid, uid, follow_symlinks=False)


def make_archive(path: str) -> None:
    """The same as a tar file, for `podman import` and `docker import`; any user may pass its root."""
    directory = tempfile.mkdtemp(dir="/var/tmp")
    try:
        make_rootfs(f"{directory}/rootfs")
        os.chmod(f"{directory}/rootfs", 0o755)
        subprocess.run(["tar", "-C", f"{directory}/rootfs", "-cf", path, "."], check=True)
    finally:
        shutil.rmtree(directory)


def _names(path: str) -> "list[str]":
    """In a directory; of one that others take away meanwhile, none."""
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
