"""Layers with stubs (contents.py), looked at whole: what their files take; and filled, for a kernel that shows no stubs."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

from berth.linux import libc, overlay
from berth.store.contents import open_content

_COPY_BYTES = 1 << 20


def file_bytes(layers: str, recipes: str) -> int:
    """Of the files in all layers, and of the contents that only stubs have; what several share once."""
    seen: set[int] = set()
    total = 0
    for name in os.listdir(layers):
        data = f"{recipes}/{name}/data"
        has_stubs = are_in(data)
        for top in (f"{layers}/{name}", data) if has_stubs else (f"{layers}/{name}",):
            for entry in _files(top):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1 and status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                    if not (has_stubs and status.st_blocks * 512 < status.st_size and _is_stub(entry.path)):
                        total += status.st_size
    return total


def are_in(data: str) -> bool:
    """Whether a layer whose stubs' contents are in the directory `data` has any."""
    with suppress(FileNotFoundError), os.scandir(data) as entries:
        return any(True for _ in entries)
    return False


def fill(directories: list[str], data: str) -> None:
    """Gives every stub in the directories its content. Killed meanwhile, it is begun again: stubs stay such until all contents are on the disk."""
    data_fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = [entry.path for top in directories for entry in _files(top) if _is_stub(entry.path)]
        for path in found:
            _write_content(path, data_fd)
        libc.syncfs(data_fd)
        for path in found:
            for key in (overlay.METACOPY, overlay.REDIRECT):  # in this order: without the first, the second means nothing
                _remove_mark(path, key)
    finally:
        os.close(data_fd)


def _remove_mark(path: str, key: str) -> None:
    try:
        os.removexattr(path, key, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENODATA:  # gone by another name of the same file
            raise


def _write_content(path: str, data_fd: int) -> None:
    source = open_content(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), data_fd)
    try:
        target = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status, offset = os.fstat(target), 0
            while data := os.pread(source, _COPY_BYTES, offset):
                offset += os.pwrite(target, data, offset)
            os.fchmod(target, status.st_mode & 0o7777)  # writing clears set-id bits
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _files(top: str) -> Iterator[os.DirEntry[str]]:
    """All that is no directory."""
    pending = [top]
    while pending:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry


def _is_stub(path: str) -> bool:
    try:
        os.getxattr(path, overlay.METACOPY, follow_symlinks=False)
        return True
    except OSError:
        return False
