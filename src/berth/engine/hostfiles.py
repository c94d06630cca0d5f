"""Small work on the host's files for a container: what it is given, and what is left of it."""

import functools
import os
import threading
import time

from berth import errors
from berth.engine import validate
from berth.store.trees import remove_tree


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its pid it names it for good. 0 if gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError):
        return 0


def own_oom_score() -> int:
    """The engine's oom_score_adj, which what it starts inherits."""
    return int(_read("/proc/self/oom_score_adj") or 0)


def parent(pid: int) -> int:
    """The pid of a process's parent; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


@functools.cache
def boot_id() -> str:
    """Names the time since the host was booted."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def booted_ns() -> int:
    """When the host was booted, in nanoseconds since the epoch."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def make_bind_sources(sources: list[str]) -> None:
    """`-v` makes a missing source directory, `--mount` only when told to."""
    for source in sources:
        try:
            os.makedirs(source, exist_ok=True)
        except FileExistsError:
            continue  # a file is a source too
        except OSError as error:
            raise errors.InvalidParameter(f"error while creating mount source path '{source}': {error.strerror}") from None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def host_devices() -> list[dict]:
    """Every device node below /dev, for --privileged; terminals and what the runtime makes are left out."""
    found: list[dict] = []
    for directory, names_, files in os.walk("/dev"):
        names_[:] = [name for name in names_ if name not in ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts")]
        for name in files:
            path = f"{directory}/{name}"
            if path in ("/dev/console", "/dev/ptmx", "/dev/tty") or os.path.islink(path):
                continue
            try:
                found += [{**entry, "rule": {"allow": True}} for entry in validate.device_entries({"PathOnHost": path})]
            except errors.InvalidParameter:
                continue
    return found


def empty_directory(path: str) -> None:
    """Removes all that is in it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            remove_tree(fd, name)
    finally:
        os.close(fd)


def remove_directories(paths: list[str], stop: threading.Event | None = None) -> None:
    """Removes trees without following a link in them. stop: leaves the rest where it is."""
    for path in paths:
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, os.path.basename(path), stop)
        finally:
            os.close(parent)


