"""Looks at what was selected, path after path, without following a link: what a path means is not what it meant when somebody changed it."""

import os
import stat

from berth.build.files.places import changed
from berth.store.tarwriter import open_below, reopen


class Sources:
    """Beneath `root_fd`, which stays the caller's. Paths of one directory that come together need one look-up. Close it.

    Every method raises Conflict for what is not there any more, or for a link in its way.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._above, self._above_fd = "", os.dup(root_fd)

    def __enter__(self) -> "Sources":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._above_fd)

    def _directory(self, path: str) -> str:
        """Opens the directory that holds it -> its name there."""
        above, _, name = path.rpartition("/")
        if above != self._above:
            fd = open_below(self._root_fd, above, os.O_PATH | os.O_DIRECTORY)
            os.close(self._above_fd)
            self._above, self._above_fd = above, fd
        return name or "."

    def status(self, path: str) -> os.stat_result:
        try:
            return os.stat(self._directory(path), dir_fd=self._above_fd, follow_symlinks=False)
        except OSError as error:
            raise changed(path, error) from error

    def open(self, path: str) -> int:
        """An O_PATH descriptor, on whatever it is."""
        try:
            return os.open(self._directory(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._above_fd)
        except OSError as error:
            raise changed(path, error) from error

    def link(self, path: str) -> str:
        """The target of a link."""
        try:
            return os.readlink(self._directory(path), dir_fd=self._above_fd)
        except OSError as error:
            raise changed(path, error) from error

    def open_file(self, path: str) -> int:
        """A plain file, for reading."""
        fd = self.open(path)
        try:
            return reader(fd, path, os.fstat(fd))
        finally:
            os.close(fd)


def reader(fd: int, path: str, status: os.stat_result) -> int:
    """What an O_PATH descriptor is open on, for reading; nothing but a plain file, as opening a pipe or a device can wait or do something."""
    if not stat.S_ISREG(status.st_mode):
        raise changed(path)
    try:
        return reopen(fd, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise changed(path, error) from error


def same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether a file is the same and was not changed in between."""
    return (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) == (
        other.st_dev, other.st_ino, other.st_size, other.st_mtime_ns, other.st_ctime_ns,
    )  # fmt: skip
