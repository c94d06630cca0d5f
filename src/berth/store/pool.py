"""Files that several layers have in common, stored once: hard links to one inode, wherever nobody can tell the difference.

A hard link shares owner, mode and times along with the content, so a file is shared only where all of these agree, and
its path too: two names of one container never become one inode. Lower layers are not written to (overlayfs copies up
first), so sharing costs a running container nothing; it reads one copy from the page cache where there were several.

The pool is a directory of links named by what makes files equal except their content, which is compared before one is
taken. It needs no index and cannot disagree with the layers: a pool file with one link is of no use to anybody, and the
removal of a layer finds the ones it leaves by the same name.
"""

import hashlib
import os
from contextlib import suppress


class Pool:
    """The links below one directory, on the file system of the layers. Any thread may use it."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    @staticmethod
    def key(path: str, size_bytes: int, mode: int, uid: int, gid: int, mtime_ns: int) -> str:
        """Where in the pool a file is: everything but its content."""
        text = f"{size_bytes} {mode & 0o7777:o} {uid} {gid} {mtime_ns} ".encode() + os.fsencode(path)
        name = hashlib.blake2b(text, digest_size=20).hexdigest()
        return f"{name[:2]}/{name[2:]}"

    def _key_of(self, path: str, status: os.stat_result) -> str:
        return self.key(path, status.st_size, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)

    def open(self, key: str) -> int:
        """A descriptor of the pool's file, the caller's to close; -1 where there is none."""
        try:
            return os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return -1

    def link(self, key: str, fd: int, name: str, parent_fd: int) -> bool:
        """Makes `name` one more link of the pool's file, which is open at `fd`. False if it has too many, or is gone."""
        try:
            os.link(key, name, src_dir_fd=self._fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        except OSError:  # EMLINK: ext4 has 65,000; ENOENT: its last layer has just been removed
            return False
        made, had = os.stat(name, dir_fd=parent_fd, follow_symlinks=False), os.fstat(fd)
        if made.st_ino == had.st_ino:
            return True
        os.unlink(name, dir_fd=parent_fd)  # another one took its place meanwhile
        return False

    def put(self, path: str, fd: int, name: str, parent_fd: int) -> None:
        """Offers a finished file, open at `fd`, to the layers to come; where an equal one is offered already, that stays.

        Its key is what the disk says of it: a file system may have rounded its time.
        """
        key = self._key_of(path, os.fstat(fd))
        for _ in range(4):  # its directory may be removed as often as we make it; then the file is not shared
            try:
                os.link(name, key, src_dir_fd=parent_fd, dst_dir_fd=self._fd, follow_symlinks=False)
                return
            except FileExistsError:
                return
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(key[:2], 0o700, dir_fd=self._fd)

    def drop(self, path: str, status: os.stat_result) -> None:
        """The file `path` of a layer, with this status, leaves: if only the pool would be left to hold it, it lets go."""
        if status.st_nlink == 2:
            key = self._key_of(path, status)
            with suppress(FileNotFoundError):
                if os.stat(key, dir_fd=self._fd, follow_symlinks=False).st_ino == status.st_ino:
                    os.unlink(key, dir_fd=self._fd)

    def tidy(self) -> None:
        """Removes directories without files."""
        for name in os.listdir(self._fd):
            with suppress(OSError):  # not empty
                os.rmdir(name, dir_fd=self._fd)
