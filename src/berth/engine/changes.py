"""What a container changed of its image: `docker diff`, and what a commit puts into its layer.

Three views of one tree are compared: the upper directory says where to look, the merged view what is there
now, the image's what was there before. So whiteouts, opaque and redirected directories need no knowledge of
how overlayfs marks them, but for one thing: below a marked directory the upper one does not tell all.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence

from berth.store.tarwriter import TarWriter, open_below

MODIFIED, ADDED, DELETED = 0, 1, 2
_MARKS = ("trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque", "user.overlay.redirect")
# What the runtime makes to mount on, where an image lacks it: nothing that the program did.
_MOUNT_POINTS = (
    "/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm", "/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc",
    "/proc", "/sys", "/.dockerenv",
)  # fmt: skip


def changes(upper: int, merged: int, image: int, more_places: Sequence[str] = ()) -> list[tuple[str, int]]:
    """(path, kind) of all that differs, parents first. Each descriptor is of a root (O_PATH).

    more_places: made to mount on, as _MOUNT_POINTS are, the innermost first.
    """
    found = _differences(upper, merged, image)
    _hide_mount_points(found, lambda path: _is_empty(merged, path), (*more_places, *_MOUNT_POINTS))
    return _sorted(found)


def changes_of_layers(uppers: Iterable[int], merged: int, image: int) -> list[tuple[str, int]]:
    """The same of layers that lie on `image` and make `merged`, without a thought of mount points."""
    found: dict[str, int] = {}
    for upper in uppers:
        found |= _differences(upper, merged, image)
    return _sorted(found)


def _sorted(found: dict[str, int]) -> list[tuple[str, int]]:
    _add_parents(found)
    return sorted(found.items(), key=lambda item: item[0].split("/"))


def _differences(upper: int, merged: int, image: int) -> dict[str, int]:
    found: dict[str, int] = {}
    pending = [("", False)]  # directory and whether the upper one does not tell all of it
    while pending:
        path, everything = pending.pop()
        names = _names(merged, path) | _names(image, path) if everything else _names(upper, path)
        for name in names:
            at = f"{path}/{name}" if path else name
            now, before = _status(merged, at), _status(image, at)
            if now is None:
                if before is not None:
                    found[f"/{at}"] = DELETED
                continue
            if before is None:
                found[f"/{at}"] = ADDED
            elif _differ(now, before) or _capability(merged, at, now) != _capability(image, at, before):
                found[f"/{at}"] = MODIFIED
            if stat.S_ISDIR(now.st_mode):
                kept = before is not None and stat.S_ISDIR(before.st_mode)
                # What is not in the image as a directory has nothing there to compare with; it is listed all the same.
                pending.append((at, everything or not kept or _marked(upper, at)))
    return found


def _names(root: int, path: str) -> set[str]:
    try:
        fd = open_below(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # not there, or a file: then it has no names in it
        return set()
    try:
        return set(os.listdir(fd))
    finally:
        os.close(fd)


def _status(root: int, path: str) -> os.stat_result | None:
    try:
        fd = open_below(root, path)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _differ(now: os.stat_result, before: os.stat_result) -> bool:
    """As Docker: a directory's size and time say nothing, they change with what is in it."""
    if (now.st_mode, now.st_uid, now.st_gid, now.st_rdev) != (before.st_mode, before.st_uid, before.st_gid, before.st_rdev):
        return True
    return not stat.S_ISDIR(now.st_mode) and (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size)


def _capability(root: int, path: str, status: os.stat_result) -> bytes:
    return _attribute(root, path, "security.capability") if stat.S_ISREG(status.st_mode) else b""


def _marked(upper: int, path: str) -> bool:
    return any(_attribute(upper, path, name) for name in _MARKS)


def _attribute(root: int, path: str, name: str) -> bytes:
    try:
        fd = open_below(root, path)
    except OSError:
        return b""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", name)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _is_empty(merged: int, path: str) -> bool:
    """An empty file, or any directory: what is in it has an entry of its own."""
    status = _status(merged, path.lstrip("/"))
    return status is not None and (stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_size == 0))


def write(writer: TarWriter, root: int, found: Iterable[tuple[str, int]]) -> None:
    """A layer of these changes, from the root that has them; deleted paths as OCI whiteouts."""
    for path, kind in found:
        if kind == DELETED:
            directory, _, name = path[1:].rpartition("/")
            writer.add_empty(f"{directory}/.wh.{name}" if directory else f".wh.{name}")
            continue
        try:
            fd = open_below(root, path[1:])
        except FileNotFoundError:
            continue  # of a container that was not paused
        try:
            writer.add(fd, path[1:])
        finally:
            os.close(fd)


def hidden_places(targets: Iterable[str]) -> list[str]:
    """Those and the directories above them, the innermost first: what a mount may have been the only reason for. Pure."""
    found: set[str] = set()
    for target in targets:
        path = target.rstrip("/")
        while path:
            found.add(path)
            path = path.rpartition("/")[0]
    return sorted(found, key=lambda path: (-path.count("/"), path))


def _hide_mount_points(found: dict[str, int], is_empty: Callable[[str], bool], places: Sequence[str]) -> None:
    for path in places:  # a directory after what may be in it
        if found.get(path) == ADDED and is_empty(path) and not any(other.startswith(f"{path}/") for other in found):
            del found[path]


def _add_parents(found: dict[str, int]) -> None:
    """A directory whose contents changed has changed, but for the root."""
    for path in list(found):
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found[parent] = MODIFIED
            parent = parent.rpartition("/")[0]
