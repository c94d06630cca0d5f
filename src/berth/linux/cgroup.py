"""cgroups: which hierarchies the host has, and one manager for either version.

    Hierarchies          what is mounted where, read once from mountinfo
    Cgroup               one container's group: create, add, apply, freeze, kill, remove
      CgroupV1           a directory in every v1 hierarchy (and in v2's `unified` on a hybrid host)
      CgroupV2           one directory

What to write is decided by pure functions in `cgroup_v1` and `cgroup_v2`; this module writes it.
"""

import errno
import os
import signal

from berth.errors import InvalidParameter, NotImplementedHere, SystemFailure
from berth.linux import cgroup_v1, cgroup_v2


class Hierarchies:
    """v1: controller -> mount point (named hierarchies as `name=systemd`); v2: mount point or ''."""

    __slots__ = ("v1", "v2")

    def __init__(self, v1: dict[str, str], v2: str) -> None:
        self.v1 = v1
        self.v2 = v2

    @property
    def version(self) -> int:
        """2 only where every controller is in the unified hierarchy."""
        return 1 if any(not name.startswith("name=") for name in self.v1) else 2

    def controllers(self) -> list[str]:
        """Names of the resource controllers that a container can be limited by."""
        if self.version == 1:
            return sorted(name for name in self.v1 if not name.startswith("name="))
        with open(f"{self.v2}/cgroup.controllers") as file:
            return sorted(file.read().split())


def parse_mountinfo(text: str) -> Hierarchies:
    """The hierarchies in a /proc/PID/mountinfo text; where one is mounted twice the first counts."""
    v1: dict[str, str] = {}
    v2 = ""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        mount_point = left.split()[4]
        fields = right.split()
        if not fields or fields[0] not in ("cgroup", "cgroup2"):
            continue
        if fields[0] == "cgroup2":
            v2 = v2 or mount_point
            continue
        generic = {"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"}
        for option in fields[2].split(","):
            if option not in generic and not option.startswith("release_agent="):
                v1.setdefault(option, mount_point)
    return Hierarchies(v1, v2)


def hierarchies() -> Hierarchies:
    """The host's hierarchies as this process sees them."""
    with open("/proc/self/mountinfo") as file:
        return parse_mountinfo(file.read())


def open_cgroup(path: str, hosts: Hierarchies) -> "Cgroup":
    """The manager for the group `path` (absolute, from the root of each hierarchy); makes nothing yet."""
    parts = path.strip("/").split("/")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise InvalidParameter(f"cgroup path {path!r} must be absolute and have no '.' or '..' in it")
    if not hosts.v1 and not hosts.v2:
        raise NotImplementedHere("no cgroup hierarchy is mounted on this host; mount one at /sys/fs/cgroup")
    return CgroupV2(path, hosts) if hosts.version == 2 else CgroupV1(path, hosts)


def write_file(path: str, value: str) -> None:
    """One write(2), as the kernel's files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read_file(path: str) -> str:
    """The whole of a small file; '' where it does not exist or its cgroup is gone."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


class Cgroup:
    """One container's group. `directories` are all it has; the first one is where processes are listed."""

    def __init__(self, path: str, directories: list[str]) -> None:
        self.path = path
        self.directories = directories

    def create(self) -> None:
        """Makes the group in every hierarchy; what was made is removed again if one fails."""
        raise NotImplementedError

    def apply(self, resources: dict) -> None:
        """Writes an OCI `linux.resources`. Raises an error that names the limit and the controller."""
        raise NotImplementedError

    def freeze(self, frozen: bool) -> None:
        """Stops or continues every process of the group."""
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many processes the kernel killed here for want of memory."""
        raise NotImplementedError

    def add(self, pid: int) -> None:
        """Moves a process into the group, in every hierarchy."""
        for directory in self.directories:
            write_file(f"{directory}/cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """Every process in the group and in the groups the container made below it."""
        found: list[int] = []
        for directory, _, _ in os.walk(self.directories[0]):
            found += [int(line) for line in read_file(f"{directory}/cgroup.procs").split()]
        return found

    def kill(self) -> None:
        """SIGKILL to all, until none is left to signal; frozen ones are thawed to die."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def remove(self) -> bool:
        """Removes the group and what the container made below it; False while a process is still in it."""
        gone = True
        for directory in self.directories:
            for path, _, _ in os.walk(directory, topdown=False):
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    gone = False
        return gone

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self.directories)

    def _write(self, path: str, value: str, what: str) -> None:
        try:
            write_file(path, value)
        except FileNotFoundError:
            raise NotImplementedHere(f"this kernel has no {os.path.basename(path)}, needed for {what}") from None
        except OSError as error:
            name = os.path.basename(path)
            raise SystemFailure(f"cannot set {what}: {value!r} to {name}: {error.strerror}") from error


class CgroupV1(Cgroup):
    def __init__(self, path: str, hosts: Hierarchies) -> None:
        self._at = {name: mount_point + path for name, mount_point in hosts.v1.items()}
        mount_points = dict.fromkeys(hosts.v1.values())  # cpu and cpuacct may share one
        directories = [mount_point + path for mount_point in mount_points]
        if hosts.v2:
            directories.append(hosts.v2 + path)
        first = self._at.get("pids") or directories[0]
        super().__init__(path, sorted(directories, key=lambda d: d != first))

    def create(self) -> None:
        made: list[str] = []
        try:
            for directory in self.directories:
                os.makedirs(directory, exist_ok=True)
                made.append(directory)
            if "cpuset" in self._at:
                _inherit_cpuset(self._at["cpuset"])
        except OSError as error:
            _remove_quietly(made)
            raise SystemFailure(f"cannot make cgroup {self.path}: {error.strerror}") from error

    def apply(self, resources: dict) -> None:
        for controller, file, value, what in cgroup_v1.settings(resources):
            if controller not in self._at:
                raise NotImplementedHere(f"cgroup controller {controller!r} is not mounted on this host; {what} needs it")
            self._write(f"{self._at[controller]}/{file}", value, what)

    def freeze(self, frozen: bool) -> None:
        if "freezer" not in self._at:
            raise NotImplementedHere("cgroup controller 'freezer' is not mounted on this host; pause needs it")
        file = f"{self._at['freezer']}/freezer.state"
        while True:  # FREEZING may stick while a process forks; writing again moves it on (freezer-subsystem.txt)
            write_file(file, "FROZEN" if frozen else "THAWED")
            if read_file(file).strip() == ("FROZEN" if frozen else "THAWED"):
                return

    def oom_kills(self) -> int:
        text = read_file(f"{self._at.get('memory', '')}/memory.oom_control")
        return cgroup_v1.oom_kills(text)


class CgroupV2(Cgroup):
    def __init__(self, path: str, hosts: Hierarchies) -> None:
        self._root = hosts.v2
        self.directory = hosts.v2 + path
        super().__init__(path, [self.directory])

    def create(self) -> None:
        try:
            self._enable_controllers()
            os.makedirs(self.directory, exist_ok=True)
        except OSError as error:
            raise SystemFailure(f"cannot make cgroup {self.path}: {error.strerror}") from error

    def _enable_controllers(self) -> None:
        """Switches every controller on from the root down to the group's parent."""
        parent = self._root
        for part in self.path.strip("/").split("/"):
            available = read_file(f"{parent}/cgroup.controllers").split()
            enabled = read_file(f"{parent}/cgroup.subtree_control").split()
            for name in available:
                if name not in enabled:
                    try:
                        write_file(f"{parent}/cgroup.subtree_control", f"+{name}")
                    except OSError as error:
                        # EBUSY: processes in the parent ("no internal processes"); the limit that
                        # needs the controller will say so, the others need not fail.
                        if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
                            raise
            parent = f"{parent}/{part}"
            os.makedirs(parent, exist_ok=True)

    def apply(self, resources: dict) -> None:
        have = read_file(f"{self.directory}/cgroup.controllers").split()
        for file, value, what in cgroup_v2.settings(resources):
            controller = file.partition(".")[0]
            if controller not in have and controller != "cgroup":
                raise NotImplementedHere(
                    f"cgroup controller {controller!r} is not available in {self.path} on this host; {what} needs it"
                )
            self._write(f"{self.directory}/{file}", value, what)
        if resources.get("devices"):
            cgroup_v2.attach_device_filter(self.directory, resources["devices"])

    def freeze(self, frozen: bool) -> None:
        write_file(f"{self.directory}/cgroup.freeze", "1" if frozen else "0")
        while f"frozen {int(frozen)}" not in read_file(f"{self.directory}/cgroup.events"):
            if not self.exists():
                return
            os.sched_yield()

    def kill(self) -> None:
        try:
            write_file(f"{self.directory}/cgroup.kill", "1")
        except OSError:  # before Linux 5.14
            super().kill()

    def oom_kills(self) -> int:
        for line in read_file(f"{self.directory}/memory.events").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset is empty and takes no process; copies CPUs and memory nodes from above."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        _inherit_file(directory, file)


def _inherit_file(directory: str, file: str) -> str:
    value = read_file(f"{directory}/{file}").strip()
    if not value:
        value = _inherit_file(os.path.dirname(directory), file)
        write_file(f"{directory}/{file}", value)
    return value


def _remove_quietly(directories: list[str]) -> None:
    for directory in directories:
        try:
            os.rmdir(directory)
        except OSError:
            continue


def warm_up(hosts: Hierarchies) -> None:
    """Pays now for what the next move of a process into a cgroup would wait for.

    The first move after a quiet spell waits for an RCU grace period (cgroup_threadgroup_rwsem, 8 to
    20 ms measured); those soon after it do not. Moving this process to where it already is counts.
    """
    text = read_file("/proc/self/cgroup")
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        mount_point = hosts.v1.get(controllers.split(",")[0]) if controllers else hosts.v2
        if mount_point:
            try:
                write_file(f"{mount_point}{path}/cgroup.procs", str(os.getpid()))
            except OSError:
                continue
            return
