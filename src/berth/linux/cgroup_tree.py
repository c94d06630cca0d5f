"""The groups below a container's, which the container may have made, and the processes in them.

A container with its cgroup mounted writable names, nests, threads and freezes groups as it likes. So
nothing here goes by a path below the container's own group: it is walked by descriptors, one at a time
however deep it goes, following no links, and what it says about processes is checked again before one
of them is signalled.
"""

import errno
import os

from berth.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def groups(directory: str, *, remove: bool = False) -> "Iterator[int]":
    """A descriptor of every group from the deepest up to `directory`; each is valid until the next is asked for.

    remove: rmdir every group below `directory` after its turn, what is busy is left.
    """
    try:
        fd = os.open(directory, _DIRECTORY)
    except OSError:  # gone
        return
    names: list[str] = []  # of the groups between `directory` and fd
    unseen = [_children(fd)]
    try:
        while True:
            if unseen[-1]:
                name = unseen[-1].pop()
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=fd)
                except OSError:
                    continue
                os.close(fd)
                fd = below
                names.append(name)
                unseen.append(_children(fd))
                continue
            yield fd
            unseen.pop()
            if not names:
                return
            above = os.open("..", _DIRECTORY, dir_fd=fd)  # groups cannot be moved elsewhere
            os.close(fd)
            fd = above
            name = names.pop()
            if remove:
                try:
                    os.rmdir(name, dir_fd=fd)
                except OSError:
                    continue
    except OSError:  # removed under our feet
        return
    finally:
        os.close(fd)


def _children(fd: int) -> list[str]:
    try:
        if os.fstat(fd).st_nlink <= 2:  # kernfs counts directories alone
            return []
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def read_at(fd: int, name: str) -> str:
    """A group's file; '' if it has none or is gone. OSError for EOPNOTSUPP alone."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(file, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise
        return ""
    finally:
        os.close(file)


def write_at(fd: int, name: str, value: str) -> None:
    """Writes a group's file if it can be."""
    try:
        file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return
    try:
        os.write(file, value.encode())
    except OSError:
        pass
    finally:
        os.close(file)


def pids(directory: str) -> list[int]:
    """Every process in `directory` and below, each once, by its number in our pid namespace."""
    found: dict[int, None] = {}
    for fd in groups(directory):
        try:
            numbers = [int(line) for line in read_at(fd, "cgroup.procs").split()]
        except OSError:  # a threaded group does not tell processes
            numbers = [_process_of(int(line)) for line in read_at(fd, "cgroup.threads").split()]
        found.update(dict.fromkeys(numbers))
    found.pop(0, None)  # a process that our pid namespace does not have
    return list(found)


def _process_of(thread: int) -> int:
    try:
        with open(f"/proc/{thread}/status") as file:
            for line in file:
                if line.startswith("Tgid:"):
                    return int(line[5:])
    except OSError:
        pass
    return 0


def signal_process(pid: int, number: int, belongs: "Callable[[str], bool]") -> None:
    """Sends a signal if /proc/PID/cgroup says that the process belongs here.

    The pidfd comes first: whatever takes the number later, the signal goes to the process that was looked at.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            text = file.read()
        if belongs(text):
            signals.pidfd_send(pidfd, number)
    except (FileNotFoundError, ProcessLookupError):
        pass
    finally:
        os.close(pidfd)


def describe_running(numbers: list[int]) -> str:
    """Which of the processes do not stand still in a freezer, for an error message."""
    found = []
    for pid in numbers:
        try:
            with open(f"/proc/{pid}/status") as file:
                status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
            with open(f"/proc/{pid}/wchan") as file:
                where = file.read()
        except OSError:
            continue
        if "refrigerator" in where or "freezer_trap" in where:
            continue
        place = f" in {where}" if where not in ("", "0") else ""
        found.append(f"process {pid} ({status.get('Name', '?')}, state {status.get('State', '?')}{place})")
    return ", ".join(found[:3])
