"""The real dockerd (Debian's docker.io), for tests that ask Docker what is right.

    with dockerd() as host:                        # unix://…/socket, with the image `bb` of the tests' busybox
        subprocess.run(["docker", "-H", host, "run", "--rm", "bb", "true"])
    with dockerd("--storage-driver", "overlay2"):  # any flag of dockerd
    daemon = Dockerd(); daemon("ps", "-a").stdout; daemon.finish()

It has roots of its own, no bridge and no firewall rules, so give containers `--network none` or `host` (what a client asks
for by default, `bridge`, becomes `none`). At the end its containers are removed and nothing of it may be left.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator

from harness import GROUPS, make_rootfs_tar, mounts

HAVE_DOCKERD = bool(shutil.which("dockerd") and shutil.which("containerd"))


@contextlib.contextmanager
def dockerd(*options: str, image: bool = True) -> Iterator[str]:
    """Yields the address of a daemon that answers. image: import busybox as `bb`."""
    daemon = Dockerd(*options, image=image)
    try:
        yield daemon.host
    finally:
        daemon.finish()


class Dockerd:
    """One daemon. `self(*words)` runs Docker's CLI on it. Call finish()."""

    def __init__(self, *options: str, config: "dict | None" = None, image: bool = True, wrapper: "tuple[str, ...]" = ()) -> None:
        """config: what daemon.json holds; wrapper: a command that executes dockerd, in namespaces of its own for example."""
        self.mounts_before = mounts()
        self.top = tempfile.mkdtemp(prefix="berth-dockerd-", dir="/var/tmp")
        self.name = os.path.basename(self.top)
        self.host = f"unix://{self.top}/socket"
        self.env = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.top}/config"}
        self.env.pop("DOCKER_CONTEXT", None)
        with open(f"{self.top}/daemon.json", "w") as file:
            json.dump(config or {}, file)
        driver = () if "--storage-driver" in options else ("--storage-driver", "vfs")
        with open(f"{self.top}/log", "w") as log:
            self.process = subprocess.Popen(
                [*wrapper, "dockerd", "--config-file", f"{self.top}/daemon.json", "--data-root", f"{self.top}/data", "--exec-root", f"{self.top}/exec",
                 "--host", self.host, "--pidfile", f"{self.top}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none",
                 "--cgroup-parent", f"/{self.name}", *driver, *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self._await_ready()
            if image:
                make_rootfs_tar(f"{self.top}/rootfs.tar")
                self("import", f"{self.top}/rootfs.tar", "bb")
        except BaseException:
            self.finish(check=False)
            raise

    def _await_ready(self) -> None:
        pidfd = os.pidfd_open(self.process.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        for _ in range(600):
            if self("version", code=None).returncode == 0 or poll.poll(100):
                break
        os.close(pidfd)
        if self("version", code=None).returncode != 0:
            raise AssertionError(f"dockerd does not answer:\n{self.log()[-4000:]}")

    def log(self) -> str:
        with open(f"{self.top}/log", errors="replace") as file:
            return file.read()

    def __call__(self, *words: str, code: "int | None" = 0, input: "str | None" = None, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Runs Docker's CLI; fails unless its exit code is `code` (None: any)."""
        stdin: dict = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(["docker", *words], env=self.env, capture_output=True, text=True, errors="replace", timeout=timeout, **stdin)
        assert code is None or done.returncode == code, f"docker {words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def finish(self, check: bool = True) -> None:
        """Removes the containers, stops the daemon. Nothing of a container may be left: its state, its cgroup, its mounts."""
        left: list[str] = []
        try:
            if ids := self("ps", "--all", "--quiet", code=0 if check else None).stdout.split():
                self("rm", "--force", *ids, code=0 if check else None)
            states = f"{self.top}/exec/runtime-runc/moby"
            left += [name for name in os.listdir(states) if not name.startswith("@")] if os.path.isdir(states) else []
            left += [path for group in self._groups() for name in os.listdir(group) if name != "buildkit" and os.path.isdir(path := f"{group}/{name}")]
        finally:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for group in self._groups():
                for path in (f"{group}/buildkit", group):  # BuildKit keeps one for all its steps
                    with contextlib.suppress(OSError):
                        os.rmdir(path)
            for line in mounts() - self.mounts_before:
                if self.top in line:
                    left += [line] if "/exec/netns" not in line else []
                    subprocess.run(["umount", "-l", line.split()[4]], check=False)
            shutil.rmtree(self.top, ignore_errors=True)
        assert not (check and left), f"left behind: {left}"

    def _groups(self) -> "list[str]":
        paths = [f"{GROUPS}/{name}/{self.name}" for name in os.listdir(GROUPS)] + [f"{GROUPS}/{self.name}"]
        return [path for path in paths if os.path.isdir(path)]
