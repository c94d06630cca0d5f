"""A container's cgroup: what v1 and v2 have in common, and the one that a container may do without."""

import errno
import os
import select

from berth.errors import BerthError, Conflict, InvalidParameter, NotFound, NotImplementedHere, SystemFailure
from berth.linux import cgroup_resources, signals
from berth.linux.cgroup_place import parse_own

DELEGATE = "have a cgroup delegated, as with: systemd-run --user --scope -p Delegate=yes COMMAND"
FREEZE_S = 5.0
_KILL_ROUNDS = 100
_ADD_TRIES = 5
Setting = tuple[str, str, str]  # path, value, what a person would call it


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


class GroupFiles(cgroup_resources.Files):
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
        self._born_inside = False  # this process, by clone3

    # What the versions differ in

    def create(self) -> None:
        """Makes the group in every hierarchy; what was made is removed again if one fails."""
        raise NotImplementedError

    def apply(self, resources: dict) -> None:
        """Writes an OCI `linux.resources`, to a new group or a running one. What is absent is left as it is.

        Raises an error that names the limit and the controller; of a running group, what was written
        before that stays written; cgroup_undo.py does better.
        """
        self.write(self.settings(resources))

    def settings(self, resources: dict) -> list[Setting]:
        """What `apply` writes, without device rules of v2."""
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

    def open_to_clone_into(self) -> int:
        """A descriptor for clone3(2) that puts a child here at birth, the caller's; -1 where that does not suffice."""
        return -1

    def is_birthplace(self) -> None:
        """Tells it that this process was cloned into it."""
        self._born_inside = True

    def enter(self) -> bool:
        """Sees to it that this process, which has one thread, is in the group in every hierarchy; False where only `add` can."""
        return self._born_inside

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

    def thaw(self) -> None:
        """So that who has SIGKILL can die, also in groups that the container made and froze."""
        self._thaw_all()

    def _thaw_all(self) -> None:
        """Undoes every freezer, also of groups below."""

    def remove(self) -> bool:
        """Removes the group and what the container made below it; False while a process is still in it."""
        gone = True
        for directory in self.directories:
            gone = remove_directory(directory) and gone
        return gone

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self.directories)

    def _make(self, directory: str, tries: int = 5) -> bool:
        """mkdir, also of what is above; whether it was not there before."""
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not tries:
                raise
            above = os.path.dirname(directory)
            try:
                os.makedirs(above, 0o755, exist_ok=True)
                self._made_above(above)
            except OSError as error:  # an engine that ended just now has removed it again, as nothing was in it
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
            return self._make(directory, tries - 1)
        return True

    def _made_above(self, directory: str) -> None:
        """What a group made on the way to this one needs."""

    def _cannot_make(self, error: OSError) -> BerthError:
        text = f"cannot make cgroup {self.path}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return SystemFailure(f"{text}; as an ordinary user, {DELEGATE}")
        return SystemFailure(text)

    def _refuse_frozen(self) -> None:
        """A group that was there before may have processes (the specification lets groups be shared), but a frozen one
        would stop the new process for good."""
        if self.live and self.frozen():
            raise Conflict(f"cgroup {self.path} exists and is frozen; thaw or remove it")

    def write(self, settings: list[Setting]) -> None:
        """One that its counterpart's old value forbids is tried again at the end."""
        refused: list[Setting] = []
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
            self.write(refused[:1])  # for the error
        self.write(refused)

    def _cannot_write(self, setting: Setting, error: OSError) -> BerthError:
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
            text += f"; as an ordinary user, {DELEGATE}"
        return InvalidParameter(text) if error.errno in (errno.EINVAL, errno.ERANGE) else SystemFailure(text)

    def _wont(self, frozen: bool, note: str = "") -> SystemFailure:
        from berth.linux import cgroup_tree

        still = cgroup_tree.describe_running(self.pids()) if frozen else ""
        wanted = "freeze" if frozen else "thaw"
        return SystemFailure(f"cgroup {self.path} does not {wanted} within {FREEZE_S:g} s{f': {still} goes on' if still else ''}{note}")


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
    return f"{error.strerror}; as an ordinary user, {DELEGATE}"


def remove_directory(directory: str) -> bool:
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


class NoCgroup(Cgroup):
    """A container that stays in the group of whoever starts it. `reason` says why it has none."""

    manager = "disabled"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, [])
        self.reason = reason

    def saved(self) -> dict:
        return {**super().saved(), "reason": self.reason}

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

    def enter(self) -> bool:
        return True

    def oom_kills(self) -> int:
        return 0

    def directory_of(self, controller: str) -> str:
        return ""

    def _paths(self) -> dict[str, str]:
        return {}

    def _lines(self) -> dict[str, str]:
        return {}
