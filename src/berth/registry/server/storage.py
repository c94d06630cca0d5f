"""Where a registry keeps its bytes: keys with content, in a directory; s3.py has the other one.

A key is a path of `/`-separated parts that the registry made from checked names. What is written appears whole or not
at all, and is on the disk when the call returns; whatever is killed meanwhile leaves a file that the next start removes.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from typing import Protocol

_TEMPORARY = "tmp-"


class Entry:
    """What one name below a prefix is. modified_s: seconds since 1970."""

    __slots__ = ("is_directory", "modified_s", "name", "size_bytes")

    def __init__(self, name: str, *, is_directory: bool = False, size_bytes: int = 0, modified_s: float = 0.0) -> None:
        self.name, self.is_directory, self.size_bytes, self.modified_s = name, is_directory, size_bytes, modified_s


class Content(Protocol):
    """An open blob. descriptor: a file of the kernel's, or -1 where `read` must be asked."""

    size_bytes: int
    descriptor: int

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes; blocks."""

    def close(self) -> None: ...


class Storage(Protocol):
    """May be called from several threads at once; every call may block."""

    def read(self, key: str) -> bytes | None: ...

    def write(self, key: str, data: bytes) -> None: ...

    def adopt(self, path: str, key: str) -> None:
        """Makes a finished local file the content of `key`; the file is gone afterwards."""

    def open(self, key: str) -> Content | None: ...

    def stat(self, key: str) -> Entry | None: ...

    def touch(self, key: str) -> None:
        """Makes `modified_s` now."""

    def delete(self, key: str) -> bool:
        """False if there was nothing."""

    def children(self, prefix: str) -> list[Entry]:
        """The names right below a prefix, sorted."""


class Directory:
    """A storage in a directory of this host, `root`, which it makes."""

    def __init__(self, root: str) -> None:
        self._root = root
        os.makedirs(root, mode=0o700, exist_ok=True)
        self._temporary = f"{root}/{_TEMPORARY}files"
        os.makedirs(self._temporary, mode=0o700, exist_ok=True)
        for name in os.listdir(self._temporary):  # of one that was killed
            os.unlink(f"{self._temporary}/{name}")
        self._counter = 0
        self._lock = threading.Lock()

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def read(self, key: str) -> bytes | None:
        try:
            with open(self._path(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def write(self, key: str, data: bytes) -> None:
        with self._lock:
            self._counter += 1
            temporary = f"{self._temporary}/{self._counter}"
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._place(temporary, key)

    def adopt(self, path: str, key: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            os.utime(fd)
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
        self._place(path, key)

    def _place(self, temporary: str, key: str) -> None:
        target = self._path(key)
        while True:  # `delete` may take away a directory that has just been made
            try:
                os.rename(temporary, target)
                break
            except FileNotFoundError:
                if not os.path.exists(temporary):
                    raise
                self._make_parents(os.path.dirname(target))
        _sync_directory(os.path.dirname(target))

    def _make_parents(self, directory: str) -> None:
        """A directory that a loss of power undid would take its file along."""
        missing = []
        while not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(one, 0o700)
            _sync_directory(os.path.dirname(one))

    def open(self, key: str) -> Content | None:
        try:
            return _OpenFile(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stat(self, key: str) -> Entry | None:
        try:
            found = os.stat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(
            os.path.basename(key), is_directory=stat.S_ISDIR(found.st_mode), size_bytes=found.st_size, modified_s=found.st_mtime
        )

    def touch(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(key))

    def delete(self, key: str) -> bool:
        try:
            os.unlink(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return False
        # Empty directories go too: a repository is there while something is in it. A writer makes its own anew.
        directory = os.path.dirname(self._path(key))
        with contextlib.suppress(OSError):
            while directory != self._root:
                os.rmdir(directory)
                directory = os.path.dirname(directory)
        return True

    def children(self, prefix: str) -> list[Entry]:
        return sorted(self._scan(prefix), key=lambda entry: entry.name)

    def _scan(self, prefix: str) -> Iterator[Entry]:
        try:
            with os.scandir(self._path(prefix)) as found:
                for one in found:
                    if one.name.startswith(_TEMPORARY):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        if one.is_dir(follow_symlinks=False):
                            yield Entry(one.name, is_directory=True)
                        else:
                            status = one.stat(follow_symlinks=False)
                            yield Entry(one.name, size_bytes=status.st_size, modified_s=status.st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            return


class _OpenFile:
    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.size_bytes = os.fstat(self.descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _sync_directory(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what was in it has been deleted meanwhile
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
