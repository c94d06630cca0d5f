"""cgroups: which hierarchies the host has, and one manager for either version.

    Hierarchies          what is mounted where, read once from mountinfo
    Cgroup               one container's group: create, add, apply, freeze, kill, remove
      CgroupV1           a directory in every v1 hierarchy (and in v2's `unified` on a hybrid host)
      CgroupV2           one directory
      NoCgroup           none: `--cgroup-manager disabled`, or a user to whom nothing is delegated

What to write is decided by pure functions in `cgroup_v1` and `cgroup_v2`; this module writes it. Groups
that the container made below its own are the business of `cgroup_tree`.

Where a path leads. Absolute: from the root of each hierarchy, as mounted. Relative: as runc has it, v1:
below the group that this process is in, in each hierarchy; v2: beside it, as a group with processes in
it cannot hand controllers down. As an ordinary user (`rootless`): below the topmost group, going up from
this process's own, that the user may write; whatever is not delegated is left out, and asking for a
limit there is an error. Such a place depends on who asks, so a state file keeps `saved()`.
"""

import errno
import os
import select
import time

from berth.errors import BerthError, Conflict, InvalidParameter, NotFound, NotImplementedHere, SystemFailure
from berth.linux import cgroup_resources, cgroup_v1, cgroup_v2, signals

MANAGERS = ("cgroupfs", "systemd", "disabled")

_FREEZE_S = 5.0
_KILL_ROUNDS = 100
_ADD_TRIES = 5
_DELEGATE = "have a cgroup delegated, as with: systemd-run --user --scope -p Delegate=yes COMMAND"


class Hierarchies:
    """v1: controller -> mount point (named hierarchies as `name=systemd`); v2: mount point or ''.

    roots: mount point -> the group that is seen there, '/' if not named; only a container's mounts show another.
    """

    __slots__ = ("roots", "v1", "v2")

    def __init__(self, v1: dict[str, str], v2: str, roots: dict[str, str] | None = None) -> None:
        self.v1 = v1
        self.v2 = v2
        self.roots = roots or {}

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

    def mount_points(self) -> dict[str, str]:
        """Name -> mount point, the unified hierarchy as ''."""
        return {**self.v1, "": self.v2} if self.v2 else self.v1


def parse_mountinfo(text: str) -> Hierarchies:
    """The hierarchies in a /proc/PID/mountinfo text; where one is mounted twice the first counts."""
    v1: dict[str, str] = {}
    v2 = ""
    roots: dict[str, str] = {}
    generic = {"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        if not right.startswith("cgroup"):
            continue
        root, mount_point = left.split()[3:5]
        fields = right.split()
        if root != "/":
            roots.setdefault(mount_point, root)
        if fields[0] == "cgroup2":
            v2 = v2 or mount_point
            continue
        for option in fields[2].split(","):
            if option not in generic and not option.startswith("release_agent="):
                v1.setdefault(option, mount_point)
    return Hierarchies(v1, v2, roots)


def hierarchies() -> Hierarchies:
    """The host's hierarchies as this process sees them."""
    with open("/proc/self/mountinfo") as file:
        return parse_mountinfo(file.read())


def parse_own(text: str) -> dict[str, str]:
    """A /proc/PID/cgroup text as controller -> path; v2's line has the controller ''."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = path
    return found


def _own() -> dict[str, str]:
    with open("/proc/self/cgroup") as file:
        return parse_own(file.read())


# -- where a group is ------------------------------------------------------------------------------


def open_cgroup(path: str, hosts: Hierarchies, *, manager: str = "cgroupfs", rootless: bool = False) -> "Cgroup":
    """The manager for the group `path`, see above for where it is; makes nothing yet."""
    if manager == "disabled":
        return NoCgroup(path, "the cgroup manager is 'disabled'")
    if manager == "systemd":
        from berth.linux import cgroup_systemd  # type: ignore[attr-defined,unused-ignore]

        group: Cgroup = cgroup_systemd.open_cgroup(path, hosts)
        return group
    if manager != "cgroupfs":
        raise InvalidParameter(f"cgroup manager {manager!r} must be one of {', '.join(MANAGERS)}")
    clean = clean_path(path)
    if not hosts.v1 and not hosts.v2:
        raise NotImplementedHere("no cgroup hierarchy is mounted on this host; mount one at /sys/fs/cgroup")
    if clean.startswith("/") and not rootless:
        return CgroupV2(clean, hosts) if hosts.version == 2 else CgroupV1(clean, hosts)
    own = _own()
    if hosts.version == 2:
        place = _place(clean, own.get("", "/"), hosts.v2, hosts, beside=True, rootless=rootless)
        if not place:
            return NoCgroup(path, f"no cgroup is delegated to this user; {_DELEGATE}")
        return CgroupV2(place, hosts, rootless)
    at = {}
    for name, mount_point in hosts.mount_points().items():
        place = _place(clean, own.get(name, "/"), mount_point, hosts, beside=False, rootless=rootless)
        if place:
            at[name] = mount_point + place
    if not at:
        return NoCgroup(path, f"no cgroup is delegated to this user; {_DELEGATE}")
    return CgroupV1(clean, hosts, at, rootless)


def clean_path(path: str) -> str:
    """Without '//', '/./' and a '/' at the end; a group must be named, and nothing may climb."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path or "\n" in path:
        raise InvalidParameter(f"cgroup path {path!r} must name a group and have no '..' in it")
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def _place(path: str, own: str, mount_point: str, hosts: Hierarchies, *, beside: bool, rootless: bool) -> str:
    """Where `path` is below the mount point, for a process whose own group is `own`; '' if not to be had."""
    own = _below_root(own, hosts.roots.get(mount_point, "/"))
    if not rootless:
        return f"{os.path.dirname(own).rstrip('/') if beside else own}/{path}"
    base = _topmost_writable(mount_point, own)
    if base is None:
        return ""
    return path if path.startswith(f"{base}/") else f"{base}/{path.lstrip('/')}"


def _below_root(own: str, root: str) -> str:
    """A path of /proc/PID/cgroup as it is below a mount that shows `root`; '' for the mount itself."""
    root, own = root.rstrip("/"), own.rstrip("/")
    if not own.startswith(f"{root}/") or own.startswith(f"{root}/.."):
        return ""
    return own[len(root) :]


def _topmost_writable(mount_point: str, own: str) -> str | None:
    """The highest group, from `own` up without a gap, in which this user may make groups and move processes."""
    found = None
    while True:
        directory = mount_point + own
        if not os.access(directory, os.W_OK | os.X_OK) or not os.access(f"{directory}/cgroup.procs", os.W_OK):
            return found
        found = own
        if not own:
            return found
        own = os.path.dirname(own).rstrip("/")


def reopen(saved: dict, hosts: Hierarchies) -> "Cgroup":
    """The group of which a state file has kept `saved()`: the same directories, whoever asks."""
    if saved["manager"] != "cgroupfs":
        return open_cgroup(saved["path"], hosts, manager=saved["manager"])
    if hosts.version == 2:
        return CgroupV2(saved["paths"][""][len(hosts.v2) :], hosts, saved["rootless"])
    return CgroupV1(saved["path"], hosts, dict(saved["paths"]), saved["rootless"])


# -- files -----------------------------------------------------------------------------------------


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
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    except OSError:
        return ""
    finally:
        os.close(fd)


class _GroupFiles(cgroup_resources.Files):
    """A group's files by name; the controller is what is before the first dot."""

    def __init__(self, group: "Cgroup") -> None:
        self.group = group
        self.live = group.live

    def read(self, file: str) -> str:
        directory = self.group.directory_of(file.partition(".")[0])
        return read_file(f"{directory}/{file}").strip() if directory else ""

    def has(self, file: str) -> bool:
        directory = self.group.directory_of(file.partition(".")[0])
        return bool(directory) and os.access(f"{directory}/{file}", os.F_OK)


# What may be refused only because of its counterpart's old value, and taken once that is written.
_PAIRED = frozenset((
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.cfs_burst_us",
    "cpu.rt_period_us", "cpu.rt_runtime_us", "cpu.max", "cpu.max.burst",
))  # fmt: skip


class Cgroup:
    """One container's group. `directories` are all it has; the first one is where processes are listed."""

    manager = "cgroupfs"

    def __init__(self, path: str, directories: list[str], rootless: bool = False) -> None:
        self.path = path
        self.directories = directories
        self.rootless = rootless
        self.live = True  # until create() has made it

    # What the versions differ in

    def create(self) -> None:
        """Makes the group in every hierarchy; what was made is removed again if one fails."""
        raise NotImplementedError

    def apply(self, resources: dict) -> None:
        """Writes an OCI `linux.resources`, to a new group or a running one. What is absent is left as it is.

        Raises an error that names the limit and the controller; of a running group, what was written
        before that stays written.
        """
        raise NotImplementedError

    def freeze(self, frozen: bool) -> None:
        """Stops or continues every process of the group; returns when the kernel says that it is so."""
        raise NotImplementedError

    def frozen(self) -> bool:
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many processes the kernel killed here for want of memory."""
        raise NotImplementedError

    def directory_of(self, controller: str) -> str:
        """Where the controller's files of this group are; '' if nowhere."""
        raise NotImplementedError

    def _paths(self) -> dict[str, str]:
        raise NotImplementedError

    def _lines(self) -> dict[str, str]:
        """Controller -> the path that /proc/PID/cgroup has for processes of this very group."""
        raise NotImplementedError

    # What is the same in both

    def saved(self) -> dict:
        """For `reopen`, as JSON. `paths` is controller -> directory, v2's as ''."""
        return {"manager": self.manager, "path": self.path, "rootless": self.rootless, "paths": self._paths()}

    def directory_at(self, mount_point: str) -> str:
        """The group's directory in the hierarchy mounted there; '' if it has none."""
        return next((path for path in self.directories if path.startswith(f"{mount_point}/")), "")

    def add(self, pid: int, beside: int = 0) -> None:
        """Moves a process into the group, in every hierarchy.

        beside: a process of the container; where it has moved itself further down, as an init system
        with its cgroup writable does, the group itself takes no process and that one's place is used.
        Raises OSError if the process or the group is gone, BerthError for what can be explained.
        """
        text = str(pid)
        for directory in self.directories:
            try:
                _write_retrying(f"{directory}/cgroup.procs", text)
            except FileNotFoundError:
                if not self.rootless or directory == self.directories[0]:
                    raise
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM):
                    raise
                if error.errno == errno.EBUSY and beside and self._add_beside(directory, text, beside):
                    continue
                raise SystemFailure(f"cannot move process {pid} into cgroup {directory}: {_why_not_added(error)}") from error

    def _add_beside(self, directory: str, text: str, beside: int) -> bool:
        own = parse_own(read_file(f"/proc/{beside}/cgroup"))
        for name, path in self._lines().items():
            if self._paths().get(name) == directory and own.get(name, "").startswith(f"{path}/"):
                below = own[name][len(path) :]
                if ".." in below.split("/"):
                    return False
                write_file(f"{directory}{below}/cgroup.procs", text)
                return True
        return False

    def pids(self) -> list[int]:
        """Every process in the group and in the groups the container made below it."""
        from berth.linux import cgroup_tree

        return cgroup_tree.pids(self.directories[0]) if self.directories else []

    def signal_all(self, number: int) -> None:
        """A signal to every process, also to those that come while others are signalled."""
        if number == signals.SIGKILL:
            self.kill()
            return
        seen: set[int] = set()
        for _ in range(_KILL_ROUNDS):
            if not self._signal(number, seen, again=False):
                return

    def kill(self) -> None:
        """SIGKILL to all, until none is left to signal; frozen ones are thawed to die.

        They count as members until the kernel has reaped them: `remove` says when they are gone.
        """
        seen: set[int] = set()
        for turn in range(_KILL_ROUNDS):
            if turn:
                self._hold()  # what forks faster than it is killed stands still from here on
            new = self._signal(signals.SIGKILL, seen, again=True)
            self._thaw_all()
            if not new:
                return

    def _signal(self, number: int, seen: set[int], *, again: bool) -> bool:
        """Whether there was somebody not `seen` before."""
        from berth.linux import cgroup_tree

        new = False
        for directory in self._listing():
            for pid in cgroup_tree.pids(directory):
                if pid not in seen or again:
                    cgroup_tree.signal_process(pid, number, self._belongs)
                new = new or pid not in seen
                seen.add(pid)
        return new

    def _listing(self) -> list[str]:
        """In which directories to look for processes to signal."""
        return self.directories

    def _belongs(self, text: str) -> bool:
        """Whether a /proc/PID/cgroup text is that of a process in this group or below."""
        own = parse_own(text)
        return any(own.get(name) == path or own.get(name, "").startswith(f"{path}/") for name, path in self._lines().items())

    def _hold(self) -> None:
        """Asks the freezer to stop everybody, without waiting."""

    def _thaw_all(self) -> None:
        """Undoes every freezer, also of groups below."""

    def remove(self) -> bool:
        """Removes the group and what the container made below it; False while a process is still in it."""
        gone = True
        for directory in self.directories:
            gone = _remove(directory) and gone
        return gone

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self.directories)

    def _make(self, directory: str) -> bool:
        """mkdir, also of what is above; whether it was not there before."""
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return False
        except FileNotFoundError:
            above = os.path.dirname(directory)
            os.makedirs(above, 0o755, exist_ok=True)
            self._made_above(above)
            return self._make(directory)
        return True

    def _made_above(self, directory: str) -> None:
        """What a group made on the way to this one needs."""

    def _cannot_make(self, error: OSError) -> BerthError:
        text = f"cannot make cgroup {self.path}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return SystemFailure(f"{text}; as an ordinary user, {_DELEGATE}")
        return SystemFailure(text)

    def _refuse_frozen(self) -> None:
        """A group that was there before may have processes (the specification lets groups be shared), but a frozen one
        would stop the new process for good."""
        if self.live and self.frozen():
            raise Conflict(f"cgroup {self.path} exists and is frozen; thaw or remove it")

    def _write_all(self, settings: list[tuple[str, str, str]]) -> None:
        """Path, value and meaning of each; one that its counterpart's old value forbids is tried again at the end."""
        refused: list[tuple[str, str, str]] = []
        for setting in settings:
            try:
                write_file(setting[0], setting[1])
            except OSError as error:
                if error.errno != errno.EINVAL or os.path.basename(setting[0]) not in _PAIRED or len(settings) == 1:
                    raise self._cannot_write(setting, error) from error
                refused.append(setting)
        if not refused:
            return
        if len(refused) == len(settings):
            self._write_all(refused[:1])  # for the error
        self._write_all(refused)

    def _cannot_write(self, setting: tuple[str, str, str], error: OSError) -> BerthError:
        path, value, what = setting
        name = os.path.basename(path)
        if error.errno == errno.ENOENT and not os.path.isdir(os.path.dirname(path)):
            return NotFound(f"cannot set {what}: cgroup {os.path.dirname(path)} does not exist")
        if error.errno in (errno.ENOENT, errno.ENODEV) and not os.path.exists(path):
            return NotImplementedHere(f"this kernel has no {name}, needed for {what}")
        text = f"cannot set {what}: {value!r} to {name}: {error.strerror}"
        if error.errno == errno.EBUSY and name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            usage = read_file(path.replace("limit_in_bytes", "usage_in_bytes")).strip()
            text += f" ({usage} bytes are in use)"
        if self.rootless and error.errno in (errno.EACCES, errno.EPERM):
            text += f"; as an ordinary user, {_DELEGATE}"
        return SystemFailure(text)

    def _wont(self, frozen: bool, note: str = "") -> SystemFailure:
        from berth.linux import cgroup_tree

        still = cgroup_tree.describe_running(self.pids()) if frozen else ""
        wanted = "freeze" if frozen else "thaw"
        return SystemFailure(f"cgroup {self.path} does not {wanted} within {_FREEZE_S:g} s{f': {still} goes on' if still else ''}{note}")


def _write_retrying(path: str, value: str) -> None:
    """EINVAL comes and goes while systemd or the container rearranges groups, as EAGAIN while the process forks."""
    for tries_left in range(_ADD_TRIES - 1, -1, -1):
        try:
            write_file(path, value)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EAGAIN) or not tries_left:
                raise
            select.poll().poll(10)


def _why_not_added(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return (
            "it hands controllers to groups below it (cgroup.subtree_control), so it can have no processes of its own;"
            " the container has moved its processes further down"
        )
    if error.errno == errno.EOPNOTSUPP:
        return "it is in or above a threaded group (cgroup.type), which takes no processes of its own"
    return f"{error.strerror}; as an ordinary user, {_DELEGATE}"


def _remove(directory: str) -> bool:
    """rmdir; False while there are processes in it. Groups below it make it busy, too."""
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    from berth.linux import cgroup_tree

    for _ in cgroup_tree.groups(directory, remove=True):
        pass
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
            raise
        return error.errno == errno.ENOENT
    return True


class CgroupV1(Cgroup):
    def __init__(self, path: str, hosts: Hierarchies, at: dict[str, str] | None = None, rootless: bool = False) -> None:
        """at: controller -> directory, where that is not simply `path` below every mount point."""
        self._hosts = hosts
        if at is None:
            at = {name: mount_point + path for name, mount_point in hosts.mount_points().items()}
        self._at = at
        directories = list(dict.fromkeys(at.values()))  # cpu and cpuacct may share one
        first = at.get("pids")
        if first and directories[0] != first:
            directories.remove(first)
            directories.insert(0, first)
        super().__init__(path, directories, rootless)

    def directory_of(self, controller: str) -> str:
        return self._at.get(controller, "")

    def _paths(self) -> dict[str, str]:
        return self._at

    def _lines(self) -> dict[str, str]:
        mount_points, found = self._hosts.mount_points(), {}
        for name, directory in self._at.items():
            root = self._hosts.roots.get(mount_points[name], "/").rstrip("/")
            found[name] = root + directory[len(mount_points[name]) :]
        return found

    def create(self) -> None:
        made: list[str] = []
        try:
            for directory in self.directories:
                if self._make(directory):
                    made.append(directory)
            if "cpuset" in self._at:
                _inherit_cpuset(self._at["cpuset"])
            self.live = len(made) < len(self.directories)
            self._refuse_frozen()
        except OSError as error:
            _remove_quietly(made)
            raise self._cannot_make(error) from error
        except BerthError:
            _remove_quietly(made)
            raise

    def _made_above(self, directory: str) -> None:
        """A cpuset that is ours fills the ones made in it: two reads and two writes less for each container."""
        if directory == os.path.dirname(self._at.get("cpuset", "")):
            _inherit_cpuset(directory)
            write_file(f"{directory}/cgroup.clone_children", "1")

    def apply(self, resources: dict) -> None:
        settings = []
        for controller, file, value, what in cgroup_v1.settings(resources, _GroupFiles(self)):
            directory = self._at.get(controller)
            if directory:
                settings.append((f"{directory}/{file}", value, what))
            elif controller not in self._hosts.v1:
                raise NotImplementedHere(f"cgroup controller {controller!r} is not mounted on this host; {what} needs it")
            elif controller != "devices":  # whoever cannot write it cannot make devices either
                raise NotImplementedHere(f"cgroup controller {controller!r} is not delegated to this user; {what} needs it: {_DELEGATE}")
        self._write_all(settings)

    def freeze(self, frozen: bool) -> None:
        if "freezer" not in self._at:
            raise NotImplementedHere("cgroup controller 'freezer' is not mounted or delegated here; pause needs it")
        file = f"{self._at['freezer']}/freezer.state"
        wanted = "FROZEN" if frozen else "THAWED"
        deadline = time.monotonic() + _FREEZE_S
        pause_ms = 0
        while True:  # FREEZING may stick while a process forks; writing again moves it on (freezer-subsystem.txt)
            write_file(file, wanted)
            if read_file(file).strip() == wanted:
                return
            if time.monotonic() > deadline:
                break
            select.poll().poll(pause_ms)
            pause_ms = min(pause_ms + 1, 10)
        note = ""
        if frozen:
            error = self._wont(frozen)
            write_file(file, "THAWED")
            raise error
        if read_file(f"{self._at['freezer']}/freezer.parent_freezing").strip() == "1":
            note = ": a group above it is frozen"
        raise self._wont(frozen, note)

    def frozen(self) -> bool:
        directory = self._at.get("freezer", "")
        state = read_file(f"{directory}/freezer.state").strip() if directory else ""
        return state == "FROZEN" or (state == "FREEZING" and read_file(f"{directory}/freezer.self_freezing").strip() == "1")

    def kill(self) -> None:
        if "" in self._at:
            try:
                write_file(f"{self._at['']}/cgroup.kill", "1")  # all of a hybrid host's group at one stroke
            except OSError:
                pass
        super().kill()

    def _hold(self) -> None:
        if "freezer" in self._at:
            try:
                write_file(f"{self._at['freezer']}/freezer.state", "FROZEN")
            except OSError:
                pass

    def _thaw_all(self) -> None:
        """SIGKILL does not reach through v1's freezer, and the container may have frozen groups below its own."""
        from berth.linux import cgroup_tree

        if "freezer" in self._at:
            for fd in cgroup_tree.groups(self._at["freezer"]):
                cgroup_tree.write_at(fd, "freezer.state", "THAWED")

    def oom_kills(self) -> int:
        text = read_file(f"{self._at.get('memory', '')}/memory.oom_control")
        return cgroup_v1.oom_kills(text)


class CgroupV2(Cgroup):
    def __init__(self, path: str, hosts: Hierarchies, rootless: bool = False) -> None:
        self._root = hosts.v2
        self._shown = hosts.roots.get(hosts.v2, "/").rstrip("/")
        self.directory = hosts.v2 + path
        super().__init__(path, [self.directory], rootless)

    def directory_of(self, controller: str) -> str:
        return self.directory

    def _paths(self) -> dict[str, str]:
        return {"": self.directory}

    def _lines(self) -> dict[str, str]:
        return {"": self._shown + self.path}

    def create(self) -> None:
        try:
            self._enable_controllers()
            self.live = not self._make(self.directory)
        except OSError as error:
            raise self._cannot_make(error) from error
        self._refuse_frozen()

    def _enable_controllers(self) -> None:
        """Switches every controller on from the root down to the group's parent.

        One write for all of them; the kernel takes all or none, so one by one if it takes none. A group
        with processes keeps its controllers: it could hand down some, but then nothing below it takes a
        process ("domain invalid"). The limit that needs the controller will say so, the others need not fail.
        """
        parent = self._root
        for part in self.path.strip("/").split("/"):
            enabled = read_file(f"{parent}/cgroup.subtree_control").split()
            missing = [name for name in read_file(f"{parent}/cgroup.controllers").split() if name not in enabled]
            if missing and not self._is_occupied(parent) and not _enable(parent, missing):
                for name in missing if len(missing) > 1 else ():
                    _enable(parent, [name])
            parent = f"{parent}/{part}"
            if parent != self.directory:
                self._make(parent)

    def apply(self, resources: dict) -> None:
        settings = []
        have: list[str] | None = None
        for file, value, what in cgroup_v2.settings(resources, _GroupFiles(self)):
            controller = file.partition(".")[0]
            if have is None:
                have = read_file(f"{self.directory}/cgroup.controllers").split()
            if controller not in have and controller != "cgroup":
                raise NotImplementedHere(self._no_controller(controller, what))
            if file == "memory.swap.max" and value in ("max", "0") and not os.access(f"{self.directory}/{file}", os.F_OK):
                continue  # a kernel without swap: nothing to forbid
            settings.append((f"{self.directory}/{file}", value, what))
        self._write_all(settings)
        if resources.get("devices"):
            self._filter_devices(resources["devices"])

    def _is_occupied(self, directory: str) -> bool:
        """Whether there are processes in it; the real root, which has no type, may have them and hand down all the same."""
        return os.path.exists(f"{directory}/cgroup.type") and bool(read_file(f"{directory}/cgroup.procs"))

    def _no_controller(self, controller: str, what: str) -> str:
        text = f"cgroup controller {controller!r} is not available in {self.path} on this host; {what} needs it"
        above = os.path.dirname(self.directory)
        while len(above) >= len(self._root):
            if controller in read_file(f"{above}/cgroup.controllers").split():
                text += f": {above} has it but does not hand it down"
                if self._is_occupied(above):
                    text += ", as there are processes in it"
                break
            above = os.path.dirname(above)
        return f"{text}; {_DELEGATE}" if self.rootless else text

    def _filter_devices(self, rules: list[dict]) -> None:
        try:
            cgroup_v2.attach_device_filter(self.directory, rules, self.live)
        except OSError as error:
            # Without privilege there is no BPF, but no way to make a device either; denying one that
            # the user may open would be wished for in vain, and that is said.
            denied = any(not rule.get("allow") and (rule.get("type") or "a") != "a" for rule in rules)
            if self.rootless and not denied and error.errno in (errno.EPERM, errno.EACCES):
                return
            raise SystemFailure(f"cannot set the device rules of cgroup {self.path}: {error.strerror}") from error

    def freeze(self, frozen: bool) -> None:
        deadline = time.monotonic() + _FREEZE_S
        with open(f"{self.directory}/cgroup.events", "rb", buffering=0) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            write_file(f"{self.directory}/cgroup.freeze", "1" if frozen else "0")
            while True:
                try:
                    events.seek(0)
                    if b"frozen %d" % frozen in events.read(4096):
                        return
                except OSError:  # the group is gone
                    return
                left_ms = int((deadline - time.monotonic()) * 1000)
                if left_ms <= 0:
                    break
                poll.poll(left_ms)
        error = self._wont(frozen, "" if frozen else ": a group above it is frozen")
        if frozen:
            write_file(f"{self.directory}/cgroup.freeze", "0")
        raise error

    def frozen(self) -> bool:
        return "frozen 1" in read_file(f"{self.directory}/cgroup.events")

    def kill(self) -> None:
        try:
            write_file(f"{self.directory}/cgroup.kill", "1")
        except OSError:  # before Linux 5.14, or the container has made its group a threaded one
            super().kill()

    def _hold(self) -> None:
        try:
            write_file(f"{self.directory}/cgroup.freeze", "1")
        except OSError:
            pass

    def oom_kills(self) -> int:
        for line in read_file(f"{self.directory}/memory.events").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0


class NoCgroup(Cgroup):
    """A container that stays in the group of whoever starts it. `reason` says why it has none."""

    manager = "disabled"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, [])
        self.reason = reason

    def create(self) -> None:
        pass

    def apply(self, resources: dict) -> None:
        limit = cgroup_resources.asked(resources)
        if limit:
            raise NotImplementedHere(f"{limit} is asked for, but {self.reason}")

    def freeze(self, frozen: bool) -> None:
        raise NotImplementedHere(f"a container without a cgroup cannot be paused: {self.reason}")

    def frozen(self) -> bool:
        return False

    def oom_kills(self) -> int:
        return 0

    def directory_of(self, controller: str) -> str:
        return ""

    def _paths(self) -> dict[str, str]:
        return {}

    def _lines(self) -> dict[str, str]:
        return {}


def _enable(parent: str, names: list[str]) -> bool:
    try:
        write_file(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))
    except OSError as error:
        # EBUSY: processes in the parent ("no internal processes"); EACCES: not delegated.
        if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM):
            raise
        return False
    return True


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset is empty and takes no process; copies CPUs and memory nodes from above.

    A group that we made above this one has cgroup.clone_children, with which the kernel copies them.
    """
    if read_file(f"{directory}/cpuset.mems").strip():
        return
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
