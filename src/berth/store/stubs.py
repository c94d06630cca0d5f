"""Layers with stubs (contents.py), looked at whole: what their files take; and filled, for a kernel that shows no stubs."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from berth.linux import libc, overlay
from berth.store.contents import copy, open_content

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS


def file_bytes(layers: str, recipes: str) -> int:
    """Of the files in all layers, and of the contents that only stubs have; what several share once."""
    seen: set[int] = set()
    total = 0
    for name in os.listdir(layers):
        data = f"{recipes}/{name}/data"
        has_stubs = are_in(data)
        for top in (f"{layers}/{name}", data) if has_stubs else (f"{layers}/{name}",):
            with suppress(FileNotFoundError):  # being removed
                total += _tree_bytes(top, seen, has_stubs=has_stubs)
    return total


def _tree_bytes(top: str, seen: set[int], *, has_stubs: bool) -> int:
    total = 0
    root = os.open(top, _DIRECTORY)
    try:
        for fd, _, entry in _files(root):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink > 1 and status.st_ino in seen:
                    continue
                seen.add(status.st_ino)
                if not (has_stubs and status.st_blocks * 512 < status.st_size and _is_stub(fd, entry.name)):
                    total += status.st_size
    finally:
        os.close(root)
    return total


def are_in(data: str) -> bool:
    """Whether a layer whose stubs' contents are in the directory `data` has any."""
    with suppress(FileNotFoundError), os.scandir(data) as entries:
        return any(True for _ in entries)
    return False


def fill(directories: list[str], data: str) -> None:
    """Gives every stub in the directories its content. Killed meanwhile, it is begun again: stubs stay such until all contents are on the disk."""
    roots = [os.open(top, _DIRECTORY) for top in directories if os.path.isdir(top)]
    data_fd = os.open(data, _DIRECTORY)
    try:
        found = [(root, path) for root in roots for fd, path, entry in _files(root) if _is_stub(fd, entry.name)]
        for root, path in found:
            with _opened(root, path, os.O_RDONLY) as fd:
                _write_content(fd, data_fd)
        libc.syncfs(data_fd)
        for root, path in found:
            with _opened(root, path, os.O_RDONLY) as fd:
                for key in (overlay.METACOPY, overlay.REDIRECT):  # in this order: without the first, the second means nothing
                    _remove_mark(fd, key)
    finally:
        for fd in (*roots, data_fd):
            os.close(fd)


def _remove_mark(fd: int, key: str) -> None:
    try:
        os.removexattr(fd, key)
    except OSError as error:
        if error.errno != errno.ENODATA:  # gone by another name of the same file
            raise


def _write_content(fd: int, data_fd: int) -> None:
    source = open_content(os.dup(fd), data_fd)
    try:
        target = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(target)
            copy(source, target)
            os.fchmod(target, status.st_mode & 0o7777)  # writing clears set-id bits
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


@contextmanager
def _opened(root_fd: int, path: str, flags: int) -> Iterator[int]:
    fd = libc.openat2(root_fd, path, flags | os.O_NOFOLLOW, _BENEATH)
    try:
        yield fd
    finally:
        os.close(fd)


def _files(root_fd: int) -> Iterator[tuple[int, str, "os.DirEntry[str]"]]:
    """All that is no directory: descriptor of the directory it is in, path below the root, entry. No path is longer than those of an archive."""
    pending = [""]
    while pending:
        path = pending.pop()
        with suppress(FileNotFoundError, NotADirectoryError), _opened(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY) as fd, os.scandir(fd) as entries:
            for entry in entries:
                below = f"{path}/{entry.name}" if path else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(below)
                else:
                    yield fd, below, entry


def _is_stub(fd: int, name: str) -> bool:
    try:
        os.getxattr(f"/proc/self/fd/{fd}/{name}", overlay.METACOPY, follow_symlinks=False)
        return True
    except OSError:
        return False
