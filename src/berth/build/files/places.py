"""Where a path leads beneath a root, links followed as if the root were `/`; also beneath one with a layer over it that is being written."""

import errno
import os
import stat
from collections.abc import Mapping

from berth.errors import Conflict, InvalidParameter
from berth.linux import libc
from berth.store.tarwriter import open_below

_MOST_LINKS = 255  # as filepath-securejoin has it


class Place:
    """path: without links, relative to the root, '' for the root itself. status: None where nothing is there."""

    __slots__ = ("path", "status")

    def __init__(self, path: str, status: os.stat_result | None) -> None:
        self.path = path
        self.status = status

    @property
    def is_directory(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)


def cleaned(path: str) -> str:
    """Relative to the root, '' for the root; `..` stops there."""
    path = os.path.normpath("/" + path).lstrip("/")
    if "\0" in path:
        raise InvalidParameter(f"{path!r} has a NUL byte in it, which no file's name has")
    return path


def look(root_fd: int, path: str) -> os.stat_result | None:
    """What is at a path in which no directory is a link; None where nothing is, or a link is in its way."""
    try:
        fd = open_below(root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def resolve(root_fd: int, path: str, *, follow_last: bool = True) -> Place:
    """As far as the path exists; what does not is taken for directories to be made."""
    return Resolver(root_fd).resolve(path, follow_last=follow_last)


class Resolver:
    """links: path -> target of the links over the root; a path that is there with '' is something else, which hides what the root has."""

    def __init__(self, root_fd: int, links: Mapping[str, str] | None = None) -> None:
        self._root_fd = root_fd
        self._links = links or {}

    def resolve(self, path: str, *, follow_last: bool = True) -> Place:
        pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        status: os.stat_result | None = None
        links = 0
        there = True
        while pending:
            part = pending.pop()
            if part == "..":
                done = done[:-1]
                there = True
                continue
            at = "/".join([*done, part])
            status, target = self._at(at) if there else (None, "")
            if target and (pending or follow_last):
                links += 1
                if links > _MOST_LINKS:
                    raise InvalidParameter(f"{path!r}: too many levels of symbolic links")
                if target.startswith("/"):
                    done = []
                pending += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]
                continue
            done.append(part)
            there = there and (status is not None or at in self._links)
        final = "/".join(done)
        return Place(final, look(self._root_fd, final))

    def _at(self, path: str) -> tuple[os.stat_result | None, str]:
        over = self._links.get(path)
        if over is not None:
            return None, over
        try:
            fd = open_below(self._root_fd, path)
        except (FileNotFoundError, NotADirectoryError):
            return None, ""
        try:
            status = os.fstat(fd)
            return status, os.readlink("", dir_fd=fd) if stat.S_ISLNK(status.st_mode) else ""
        finally:
            os.close(fd)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Opens a path, links followed inside the root."""
    return libc.openat2(root_fd, path or ".", flags, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS)


def changed(path: str, error: OSError | None = None) -> Conflict:
    """The error of a source that changes while it is read."""
    return Conflict(f"/{path} changed while the build read it{f' ({error.strerror or error})' if error else ''}; build again")
