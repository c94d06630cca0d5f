"""Unpacks an archive over what an earlier one has left, as if nothing were there: what both have stays, only what differs is written.

While an archive is an ordinary one (each name once, no link on the way to any), what it has not named yet counts as not there, and
goes at the end. The first entry that is not ordinary makes it go at once: the directory is then what the archive's entries up to
there make of an empty one, and all that follow are unpacked as there.
"""

import errno
import os
import stat

from berth.linux import libc
from berth.store.compression import ExactReader
from berth.store.tar import DIRECTORY, FILE, HARD_LINK, SYMLINK, Entry
from berth.store.trees import remove_tree
from berth.store.unpacking import Ids, Limits, Unpacker

_MOST_NAMES = 500_000  # that are kept in memory
_IMPLIED_MODE = stat.S_IFDIR | 0o755
_LABEL = "security.selinux"  # which a file has from its directory
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS


class Refresher(Unpacker):
    """Makes what is below `root_fd`, which nobody else changes meanwhile, what an Unpacker without whiteouts makes of an empty directory.

    Whatever is there already may be there: also what such an Unpacker, or one of these, has left half done.
    """

    def __init__(self, root_fd: int, *, ids: Ids, limits: Limits, open_end: bool = False) -> None:
        super().__init__(root_fd, whiteouts=False, base="/", ids=ids, limits=limits, make_room=self._sweep, open_end=open_end)
        self._owner_of = ids
        self._is_ordinary = True
        self._named: dict[str, set[str]] = {"": set()}  # of each directory that the archive has: the names in it
        self._count = 0

    def _parent(self, path: str) -> int:
        if self._is_ordinary and path not in self._named:
            self._imply(path)
        return super()._parent(path)

    def _make(self, entry: Entry, parts: list[str], parent: int, reader: ExactReader) -> None:
        path = "/".join(parts)
        if self._is_ordinary and not self._is_expected(entry, path):
            self._sweep()
        if self._is_ordinary and path not in self._named:
            self._name(path, is_directory=entry.kind == DIRECTORY)
            if self._keep(entry, path, parent, reader):
                return
        super()._make(entry, parts, parent, reader)

    def _set_directory_times(self) -> None:
        self._sweep()
        super()._set_directory_times()

    # -- what the archive has named -----------------------------------------------------------------------

    def _is_expected(self, entry: Entry, path: str) -> bool:
        """Whether the entry does what it does whatever is there that the archive has not named."""
        if self._has_named(path) and not (entry.kind == DIRECTORY and path in self._named):
            return False
        if entry.kind == HARD_LINK:
            target = "/".join(part for part in entry.link.split("/") if part not in ("", "."))
            return self._has_named(target) and target not in self._named
        return self._count < _MOST_NAMES

    def _has_named(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        return name in self._named.get(directory, ())

    def _name(self, path: str, *, is_directory: bool) -> None:
        directory, _, name = path.rpartition("/")
        self._named[directory].add(name)
        self._count += 1
        if is_directory:
            self._named[path] = set()

    def _imply(self, path: str) -> None:
        """Directories that the archive names only by what is in them are its own, too."""
        missing = []
        while path not in self._named:
            missing.append(path)
            path = path.rpartition("/")[0]
        for path in reversed(missing):
            directory, _, name = path.rpartition("/")
            if self._has_named(path):  # something that is no directory: a link, perhaps to one
                self._sweep()
                return
            parent = super()._parent(directory)
            if self._is_as_implied(name, parent):
                self._implied += 1
            else:
                self._replace(parent, name, path)
                self._make_parent(parent, name, path)
            self._name(path, is_directory=True)

    def _sweep(self) -> None:
        """Removes what the archive has not named; all that it has is what it would be in a directory that was empty."""
        if not self._is_ordinary:
            return
        self._is_ordinary = False
        for path, names in self._named.items():
            fd = libc.openat2(self._root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY, _BENEATH)
            try:
                for name in os.listdir(fd):
                    if name not in names:
                        remove_tree(fd, name)
            finally:
                os.close(fd)
        self._named = {}

    # -- what is there ------------------------------------------------------------------------------------

    def _is_as_implied(self, name: str, parent: int) -> bool:
        """Whether a directory is there as `_make_parent` makes it."""
        status = _status(name, parent)
        return bool(
            status and (status.st_mode, status.st_uid, status.st_gid) == (_IMPLIED_MODE, *self._owner_of(0, 0))
            and not _has_xattrs(_place(name, parent)) and not os.fstat(parent).st_mode & stat.S_ISGID
        )  # fmt: skip

    def _keep(self, entry: Entry, path: str, parent: int, reader: ExactReader) -> bool:
        """Whether the entry is in place, and its content read."""
        name = path.rpartition("/")[2]
        status = _status(name, parent)
        if status is None:
            return False
        if entry.kind == DIRECTORY:
            if stat.S_ISDIR(status.st_mode) and _has_xattrs(_place(name, parent)):
                self._replace(parent, name, path)
            return False
        owner = self._owner_of(entry.uid, entry.gid)
        if entry.xattrs or (status.st_nlink, status.st_uid, status.st_gid) != (1, *owner):
            return False
        if entry.kind == FILE and status.st_mode == stat.S_IFREG | entry.mode:
            return self._keep_file(entry, name, parent, reader, status)
        return entry.kind == SYMLINK and stat.S_ISLNK(status.st_mode) and self._keep_link(entry, name, parent)

    def _keep_file(self, entry: Entry, name: str, parent: int, reader: ExactReader, status: os.stat_result) -> bool:
        """Its content is compared as it arrives. No file is ever written to again: digests are kept by inode."""
        if entry.sparse is not None or status.st_size != entry.size_bytes:
            return False
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if _has_xattrs(fd):
                return False
            equal, other = self._compare(entry, fd, reader)
            if equal < entry.size_bytes:
                os.unlink(name, dir_fd=parent)
                self._write_after(entry, name, parent, reader, fd, equal, other)
                return True
            self.size_bytes += equal
            if status.st_mtime_ns != entry.mtime_ns:
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            return True
        finally:
            os.close(fd)

    def _keep_link(self, entry: Entry, name: str, parent: int) -> bool:
        if os.readlink(name, dir_fd=parent) != entry.link or _has_xattrs(_place(name, parent)):
            return False
        self.size_bytes += len(os.fsencode(entry.link))
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        return True


def _status(name: str, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _place(name: str, parent: int) -> str:
    """A path that is no longer than the kernel takes."""
    return f"/proc/self/fd/{parent}/{name}"


def _has_xattrs(target: int | str) -> bool:
    try:
        return os.listxattr(target, follow_symlinks=isinstance(target, int)) not in ([], [_LABEL])
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
