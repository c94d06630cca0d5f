"""Copies a tree of files, entry by entry through descriptors: owners, modes, times, extended attributes, hard links, holes.

The source may be an image's or a container's: a link in it is copied as a link and never followed, and another file system
that is mounted in it is not entered. The target is an empty directory that nobody else writes to.
"""

import errno
import os
import stat

from berth.linux import libc, mount

_CHUNK = 1 << 20
_MOST_LEVELS = 128  # each takes three descriptors, of which a process has a thousand
# What a tmpfs or a user namespace cannot hold is left behind; nobody could have used it there.
_XATTR_REFUSED = (errno.EOPNOTSUPP, errno.EPERM)


class Copy:
    """One copy into the directory `top`, a descriptor of the caller's. Raises OSError."""

    __slots__ = ("_level", "_made", "_top")

    def __init__(self, top: int) -> None:
        self._top = top
        self._made: dict[tuple[int, int], str] = {}  # files with several names: device and inode -> path below top
        self._level = 0

    def directory(self, source: int, target: int, path: str, whole: bool) -> None:
        """`whole`: mode and owner too, and not only what is inside. path: of the target below top."""
        self._level += 1
        if self._level > _MOST_LEVELS:
            raise OSError(errno.ELOOP, f"directories are nested more than {_MOST_LEVELS} deep")
        reader = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
        try:
            names = os.listdir(reader)
            for name in names:
                self._entry(reader, target, name, f"{path}/{name}" if path else name)
            if whole:
                copy_attributes(source, target, os.fstat(source))
        finally:
            os.close(reader)
        self._level -= 1

    def _entry(self, source: int, target: int, name: str, path: str) -> None:
        flags = os.O_PATH | os.O_NOFOLLOW
        try:
            fd = libc.openat2(source, name, flags, libc.RESOLVE_BENEATH | libc.RESOLVE_NO_XDEV)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            os.mkdir(name, 0o755, dir_fd=target)  # another file system is mounted there
            return
        try:
            found = os.fstat(fd)
            same = self._made.get((found.st_dev, found.st_ino))
            if same is not None:
                os.link(same, name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
                return
            if not self._make(fd, found, source, target, name, path):
                return
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                self._made[found.st_dev, found.st_ino] = path
        finally:
            os.close(fd)

    def _make(self, fd: int, found: os.stat_result, source: int, target: int, name: str, path: str) -> bool:
        """Whether there is a copy now."""
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink("", dir_fd=fd), name, dir_fd=target)
        elif kind == stat.S_IFREG:
            _contents(fd, target, name, found.st_size)
        else:
            try:
                os.mknod(name, kind | 0o600, found.st_rdev, dir_fd=target)
            except PermissionError:
                return False  # a device, in a user namespace: nobody could open it on such a tmpfs
        copy = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            if kind == stat.S_IFDIR:
                self.directory(fd, copy, path, True)
            else:
                copy_attributes(fd, copy, found)
        finally:
            os.close(copy)
        return True


def _contents(fd: int, target: int, name: str, size_bytes: int) -> None:
    # The descriptor is known to be on a regular file, so opening it anew cannot wait or follow anything.
    reader = os.open(mount.fd_path(fd), os.O_RDONLY | os.O_CLOEXEC)
    try:
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            _data(reader, writer, size_bytes)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _data(reader: int, writer: int, size_bytes: int) -> None:
    """What is not a hole (lseek(2), SEEK_DATA); a hole at the end, too, counts to the size."""
    at = 0
    while at < size_bytes:
        try:
            at = os.lseek(reader, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = os.lseek(reader, at, os.SEEK_HOLE)
        os.lseek(reader, at, os.SEEK_SET)
        os.lseek(writer, at, os.SEEK_SET)
        while at < end:
            sent = os.sendfile(writer, reader, None, min(_CHUNK, end - at))
            if not sent:
                break  # it has been cut off meanwhile
            at += sent
        at = max(at, end)
    if os.fstat(writer).st_size < size_bytes:
        os.ftruncate(writer, size_bytes)


def copy_attributes(source: int, target: int, found: os.stat_result) -> None:
    """Owner, mode, extended attributes and times; through /proc/self/fd, as neither descriptor is open for reading."""
    at = mount.fd_path(target)
    os.chown(at, found.st_uid, found.st_gid)  # of the link itself where it is one: a magic link is followed once
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(at, stat.S_IMODE(found.st_mode))  # after chown, which clears set-user-id
    came_from = mount.fd_path(source)
    for name in os.listxattr(came_from):
        try:
            os.setxattr(at, name, os.getxattr(came_from, name))
        except OSError as error:
            if error.errno not in _XATTR_REFUSED:
                raise
    os.utime(at, ns=(found.st_atime_ns, found.st_mtime_ns))
