"""Unpacks tar archives into a directory, resolving every name beneath it. Streaming, one pass.

An archive is hostile until proved otherwise: names with `..` are refused, absolute ones are taken
from the root, links are followed only inside the root (openat2 RESOLVE_IN_ROOT), hard links must
point to something unpacked before. OCI whiteouts become overlayfs's own as they are met.

Source: OCI image specification, layer.md.
"""

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from berth.errors import InvalidParameter
from berth.linux import libc, overlay
from berth.store.compression import ExactReader, Readable
from berth.store.contents import is_reserved
from berth.store.recipe import RecipeWriter
from berth.store.sharing import Shared, Sharing
from berth.store.tar import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK, Entry, read_entries, skip_padding
from berth.store.trees import remove_tree

_COPY_BYTES = 1 << 20
_LEAST_HOLE_BYTES = 1 << 16
_ZEROS = bytes(_COPY_BYTES)
_ROOM_CHECK_BYTES = 32 << 20
_MOST_TIMES = 10_000
_MOST_PATH_BYTES = 4095
_IN_ROOT = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
Ids = Callable[[int, int], tuple[int, int]]


def same_ids(uid: int, gid: int) -> tuple[int, int]:
    """Owners as the archive or the disk has them."""
    return uid, gid


class Limits:
    """What an archive may cost before it is taken for an attack. reserve_bytes: of the disk, that stay free for others."""

    __slots__ = ("directories", "entries", "raw_bytes", "reserve_bytes")

    def __init__(
        self, *, entries: int = 1_000_000, directories: int = 400_000, raw_bytes: int = 2 << 30, reserve_bytes: int = 64 << 20
    ) -> None:
        self.entries = entries
        self.directories = directories
        self.raw_bytes = raw_bytes
        self.reserve_bytes = reserve_bytes


class DirectoryTimes:
    """Paths of directories and the times they get in the end, in the order they came: in memory as long as they are few."""

    def __init__(self) -> None:
        self.count = 0
        self._recent: list[tuple[str, int]] = []
        self._file: IO[str] | None = None

    def add(self, path: str, mtime_ns: int) -> None:
        self.count += 1
        self._recent.append((path, mtime_ns))
        if len(self._recent) >= _MOST_TIMES:
            if self._file is None:
                self._file = tempfile.TemporaryFile("w+")
            self._file.writelines(json.dumps(item) + "\n" for item in self._recent)
            self._recent = []

    def all(self) -> Iterator[tuple[str, int]]:
        if self._file:
            self._file.seek(0)
            for line in self._file:
                path, mtime_ns = json.loads(line)
                yield path, mtime_ns
        yield from self._recent

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


class Unpacker:
    """Writes members below `root_fd`, which stays the caller's.

    whiteouts: turn OCI whiteouts into overlayfs's. size_bytes: what files and links hold, when done.
    base: the directory below the root that the archive's names start from; it is there and keeps its own mode
    and owner. keep_kinds: no directory gives way to something else, nor the other way round. ids: an entry's
    owner -> the owner of what is made; None: whoever unpacks. rename: what an archive's name becomes. limits: refuses
    archives that want more. recipe: is told what the archive is made of. sharing: gives files and contents that are there already. make_room:
    called where the disk is full. skip: which entries are passed over. hashed: gets the SHA-256
    of each file without extended attributes, and its status when it is done. open_end: see ExactReader.
    """

    def __init__(
        self, root_fd: int, *, whiteouts: bool, base: str = "", keep_kinds: bool = False, ids: Ids | None = same_ids,
        rename: Callable[[str], str] = str, limits: Limits | None = None, recipe: RecipeWriter | None = None,
        sharing: Sharing | None = None, make_room: Callable[[], None] = lambda: None, skip: Callable[[Entry], bool] | None = None,
        hashed: Callable[[os.stat_result, bytes], None] | None = None, open_end: bool = False,
    ) -> None:  # fmt: skip
        self._root_fd = root_fd
        self._whiteouts = whiteouts
        self._base = None if base == "" else [part for part in base.split("/") if part]
        self._keep_kinds = keep_kinds
        self._ids = ids
        self._rename = rename
        self._limits = limits
        self._recipe = recipe
        self._sharing = sharing
        self._make_room = make_room
        self._passes_over = skip
        self._hashed = hashed
        self._open_end = open_end
        self._hashing: hashlib._Hash | None = None  # of the file that is being written
        self.entries = 0
        self._implied = 0  # directories that no entry names
        self._skipped_bytes = 0
        self._unchecked_bytes = 0
        self._linked: set[int] = set()  # inodes with several names in this archive
        self._parent_path: str | None = None
        self._parent_fd = -1
        self._parent_is_real = True
        self._directories = DirectoryTimes()
        self.size_bytes = 0

    def unpack(self, file: Readable, observer: Callable[[bytes], object]) -> None:
        """Everything in the decompressed stream `file`; `observer` sees every byte, also those after the end."""
        reader = ExactReader(file, observer, open_end=self._open_end)
        try:
            for entry in read_entries(reader):
                self._one(entry, reader)
                if self._limits:
                    self._check_limits(self._limits)
            while data := reader.read_some(_COPY_BYTES):
                self._count_skipped(len(data))
            self._set_directory_times()
        finally:
            self._directories.close()
            if self._parent_fd >= 0:
                os.close(self._parent_fd)
                self._parent_fd = -1

    def _check_limits(self, limits: Limits) -> None:
        self.entries += 1
        if self.entries > limits.entries:
            raise InvalidParameter(f"the archive has more than {limits.entries} entries: refused")
        if self._directories.count + self._implied > limits.directories:
            raise InvalidParameter(f"the archive has more than {limits.directories} directories: refused")
        if self._recipe and self._recipe.raw_bytes > limits.raw_bytes:
            raise InvalidParameter(f"the archive has more than {limits.raw_bytes} bytes that belong to no file: refused")

    def _count_skipped(self, count: int) -> None:
        self._skipped_bytes += count
        if self._limits and self._skipped_bytes > self._limits.raw_bytes:
            raise InvalidParameter(f"the archive has more than {self._limits.raw_bytes} bytes that belong to no file: refused")

    def _check_room(self, written: int) -> None:
        self._unchecked_bytes += written
        if self._limits is None or self._unchecked_bytes < _ROOM_CHECK_BYTES:
            return
        self._unchecked_bytes = 0
        if _room_bytes(self._root_fd) < self._limits.reserve_bytes:
            self._make_room()
        if _room_bytes(self._root_fd) < self._limits.reserve_bytes:
            raise OSError(errno.ENOSPC, f"no space left on device: less than {self._limits.reserve_bytes >> 20} MiB would stay free")

    def _set_directory_times(self) -> None:
        """Last, because every entry made in a directory changes its time."""
        for path, mtime_ns in self._directories.all():
            try:
                fd = libc.openat2(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, _IN_ROOT)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later entry took its place
                raise
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.close(fd)

    def _one(self, entry: Entry, reader: ExactReader) -> None:
        parts = [part for part in self._rename(entry.name).split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidParameter(f"archive entry {entry.name!r} has '..' in its name; it would leave the root: refused")
        if "\0" in entry.name or "\0" in entry.link:
            raise InvalidParameter(f"archive entry {entry.name!r} has a NUL byte in its name")
        if not parts:
            if entry.kind == DIRECTORY and self._base is None:
                self._finish(entry, self._root_fd)
            self._skip(reader, entry.size_bytes)
            skip_padding(reader, entry.size_bytes)
            return
        if (self._whiteouts and any(is_reserved(part) for part in parts)) or (self._passes_over and self._passes_over(entry)):
            self._skip(reader, entry.size_bytes)
            skip_padding(reader, entry.size_bytes)
            return
        parts = [*(self._base or ()), *parts]
        try:
            if self._recipe and len(os.fsencode("/".join(parts))) > _MOST_PATH_BYTES:  # it could not be opened again
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            parent = self._parent("/".join(parts[:-1]))
            if self._keep_kinds:
                self._refuse_other_kind(entry, parts, parent)
            self._make(entry, parts, parent, reader)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InvalidParameter(f"archive entry {entry.name!r} cannot be unpacked: {error.strerror}") from error
        except (OverflowError, ValueError) as error:  # an id, time or device number the kernel has no room for
            raise InvalidParameter(f"archive entry {entry.name!r} cannot be unpacked: {error}") from error
        skip_padding(reader, entry.size_bytes)

    def _make(self, entry: Entry, parts: list[str], parent: int, reader: ExactReader) -> None:
        name = parts[-1]
        if self._whiteouts and name.startswith(_WHITEOUT):
            if name == _OPAQUE:
                os.setxattr(f"/proc/self/fd/{parent}", overlay.OPAQUE, b"y")
            elif not name.startswith(".wh..wh."):  # aufs's own bookkeeping, of no use here
                hidden = name.removeprefix(_WHITEOUT)
                if hidden in ("", ".", ".."):  # ".wh..." would remove what is above the root
                    raise InvalidParameter(f"archive entry {entry.name!r} hides {hidden!r}, which is no name: refused")
                self._replace(parent, hidden, "/".join([*parts[:-1], hidden]))
                os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
            self._skip(reader, entry.size_bytes)
            return
        if entry.kind == FILE:
            self._make_file(entry, parts, parent, reader)
        elif entry.kind == DIRECTORY:
            self._make_directory(entry, parts, parent)
        elif entry.kind == HARD_LINK:
            self._make_hard_link(entry, parts, parent)
        else:
            self._make_special(entry, parts, parent)

    def _make_file(self, entry: Entry, parts: list[str], parent: int, reader: ExactReader) -> None:
        name = parts[-1]
        path = "/".join(parts) if self._parent_is_real else self._real_path(parent, name)
        self._replace(parent, name, path)
        if self._recipe:
            self._recipe.content(path, entry.sparse if entry.sparse is not None else [(0, entry.size_bytes)])
        if not (self._sharing and self._parent_is_real and entry.size_bytes and entry.sparse is None and not entry.xattrs):
            self._write_file(entry, name, parent, lambda fd: self._copy(entry, fd, reader))
        elif shared := self._sharing.find(path, entry):
            with shared:
                self._share_file(entry, name, parent, reader, shared)
        else:
            self._write_file(entry, name, parent, lambda fd: self._copy(entry, fd, reader), offer=path)

    def _share_file(self, entry: Entry, name: str, parent: int, reader: ExactReader, shared: Shared) -> None:
        """Its content is compared with one that is here as it arrives, and nothing written while it is the same."""
        equal, other = self._compare(entry, shared.fd, reader)
        if equal == entry.size_bytes:
            if shared.link(entry, name, parent):
                self.size_bytes += entry.size_bytes
                return
            if write := shared.writer(self._recipe):
                self._write_file(entry, name, parent, write)
                self.size_bytes += entry.size_bytes
                return
        self._write_after(entry, name, parent, reader, shared.fd, equal, other)

    def _compare(self, entry: Entry, fd: int, reader: ExactReader) -> tuple[int, bytes]:
        """How many bytes of the content that arrives are those of the file at `fd`, and those that were read and are not."""
        equal = 0
        while equal < entry.size_bytes:
            data = reader.read_exactly(min(entry.size_bytes - equal, _COPY_BYTES))
            if os.pread(fd, len(data), equal) != data:
                return equal, data
            equal += len(data)
        return equal, b""

    def _write_after(self, entry: Entry, name: str, parent: int, reader: ExactReader, source: int, equal: int, other: bytes) -> None:
        """A new file: what `_compare` found to be the same, from there; what it has read; and the rest of what arrives."""

        def write(fd: int) -> None:
            _copy_range(source, fd, equal)
            _write_all(fd, other)
            self._copy_bytes(entry.size_bytes - equal - len(other), fd, reader)
            self.size_bytes += entry.size_bytes

        self._write_file(entry, name, parent, write)

    def _write_file(self, entry: Entry, name: str, parent: int, write: Callable[[int], None], *, offer: str = "") -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            if self._hashed and entry.sparse is None and not entry.xattrs:
                self._hashing = hashlib.sha256()
            write(fd)
            self._finish(entry, fd)
            if self._hashed and self._hashing:
                self._hashed(os.fstat(fd), self._hashing.digest())
            self._hashing = None
            if offer and self._sharing:
                self._sharing.offer(offer, fd, name, parent)
        finally:
            os.close(fd)

    def _refuse_other_kind(self, entry: Entry, parts: list[str], parent: int) -> None:
        try:
            there = stat.S_ISDIR(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        if there != (entry.kind == DIRECTORY):
            path, base = "/" + "/".join(parts), "/" + "/".join(self._base or ())
            words = ("directory", "non-directory") if there else ("non-directory", "directory")
            raise InvalidParameter(f'cannot overwrite {words[0]} "{path}" with {words[1]} "{base}"')

    def _make_directory(self, entry: Entry, parts: list[str], parent: int) -> None:
        name = parts[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._replace(parent, name, "/".join(parts))
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._finish(entry, fd)
        finally:
            os.close(fd)
        self._directories.add("/".join(parts), entry.mtime_ns)

    def _make_hard_link(self, entry: Entry, parts: list[str], parent: int) -> None:
        name = parts[-1]
        target = [part for part in self._rename(entry.link).split("/") if part not in ("", ".")]
        if ".." in target or not target:
            raise InvalidParameter(
                f"archive entry {entry.name!r} is a hard link to {entry.link!r}, which leads outside of the root: refused"
            )
        self._replace(parent, name, "/".join(parts))
        source = self._open_directory("/".join([*(self._base or ()), *target[:-1]]))
        try:
            if self._sharing:
                self._unshare(self._real_path(source, target[-1]), target[-1], source)
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)
        self._apply_link_header(entry, name, parent)

    def _apply_link_header(self, entry: Entry, name: str, parent: int) -> None:
        """What a link's own header says of owner, mode and time holds for the file, as Docker has it."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        owner = self._ids(entry.uid, entry.gid) if self._ids else (status.st_uid, status.st_gid)
        same = (status.st_uid, status.st_gid) == owner and stat.S_IMODE(status.st_mode) == entry.mode and status.st_mtime_ns == entry.mtime_ns
        if same or not stat.S_ISREG(status.st_mode):
            return
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if (status.st_uid, status.st_gid) != owner:
                os.fchown(fd, *owner)  # which clears set-id bits and capabilities
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _unshare(self, path: str, name: str, parent: int) -> None:
        """A file that gets a second name in its layer is offered no more: what has several names is not told apart by one."""
        assert self._sharing
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_ino in self._linked:
            return
        self._sharing.drop(path, status)
        if os.stat(name, dir_fd=parent, follow_symlinks=False).st_nlink > 1:
            self._copy_apart(status, path, name, parent)
        self._linked.add(os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino)

    def _copy_apart(self, status: os.stat_result, path: str, name: str, parent: int) -> None:
        """Another inode of the same content under the same name; shared files have no xattrs."""
        entry = Entry()
        entry.mode, entry.uid, entry.gid, entry.mtime_ns = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        assert self._sharing
        try:
            self._sharing.unlink(path, name, parent)
            self._write_file(entry, name, parent, lambda fd: _copy_range(source, fd, status.st_size))
        finally:
            os.close(source)

    def _make_special(self, entry: Entry, parts: list[str], parent: int) -> None:
        name = parts[-1]
        self._replace(parent, name, "/".join(parts))
        if entry.kind == SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            self.size_bytes += len(os.fsencode(entry.link))
            self._chown_name(entry, name, parent)
        else:
            kinds = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
            if entry.kind not in kinds:
                raise InvalidParameter(f"archive entry {entry.name!r} is of unknown kind {entry.kind!r}")
            os.mknod(name, kinds[entry.kind] | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
            self._chown_name(entry, name, parent)
            os.chmod(f"/proc/self/fd/{parent}/{name}", entry.mode)
        for key, value in entry.xattrs.items():
            self._set_xattr(f"/proc/self/fd/{parent}/{name}", key, value, entry)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _chown_name(self, entry: Entry, name: str, parent: int) -> None:
        if self._ids:
            os.chown(name, *self._ids(entry.uid, entry.gid), dir_fd=parent, follow_symlinks=False)

    def _finish(self, entry: Entry, fd: int) -> None:
        if self._ids:
            os.fchown(fd, *self._ids(entry.uid, entry.gid))
        os.fchmod(fd, entry.mode)  # after the chown, which clears set-id bits
        for key, value in entry.xattrs.items():
            self._set_xattr(fd, key, value, entry)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _set_xattr(self, target: int | str, key: str, value: bytes, entry: Entry) -> None:
        # How overlayfs redirects and hides: an image must not speak that language.
        if key.startswith(("trusted.", *overlay.MARKS)):
            return
        try:
            os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise

    def _copy(self, entry: Entry, fd: int, reader: ExactReader) -> None:
        for offset, length in entry.sparse if entry.sparse is not None else [(0, entry.size_bytes)]:
            if entry.sparse is not None:
                os.lseek(fd, offset, os.SEEK_SET)
            self._copy_bytes(length, fd, reader)
        if entry.sparse is not None:
            os.ftruncate(fd, entry.real_size_bytes)
        self.size_bytes += entry.real_size_bytes

    def _copy_bytes(self, count: int, fd: int, reader: ExactReader) -> None:
        is_hole = False
        while count:
            data = reader.read_exactly(min(count, _COPY_BYTES))
            count -= len(data)
            if self._hashing:
                self._hashing.update(data)
            is_hole = len(data) >= _LEAST_HOLE_BYTES and _ZEROS.startswith(data)
            if is_hole:  # a file that was sparse before it came into an archive is sparse again
                os.lseek(fd, len(data), os.SEEK_CUR)
            else:
                _write_all(fd, data)
                self._check_room(len(data))
        if is_hole:
            os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))

    def _skip(self, reader: ExactReader, size: int) -> None:
        while size:
            data = reader.read_exactly(min(size, _COPY_BYTES))
            self._count_skipped(len(data))
            size -= len(data)

    def _replace(self, parent: int, name: str, path: str) -> None:
        """A later entry of the same name wins; a directory is only removed with what it holds."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if (self._sharing or self._recipe) and not self._parent_is_real:
            path = self._real_path(parent, name)
        is_directory = stat.S_ISDIR(status.st_mode)
        if self._sharing and not is_directory:
            self._sharing.drop(path, status)
        if is_directory:
            self._forget_parent()
        if self._recipe and (is_directory or stat.S_ISREG(status.st_mode)):
            self._recipe.take(path, name, parent)
        elif is_directory:
            remove_tree(parent, name)
        else:
            os.unlink(name, dir_fd=parent)

    def _forget_parent(self) -> None:
        if self._parent_fd >= 0:
            self._parent_path = None  # the descriptor is in use by the caller; it is closed when replaced

    def _parent(self, path: str) -> int:
        """Descriptor of the directory `path`, made if missing; kept for the entries that follow."""
        if path == self._parent_path:
            return self._parent_fd
        fd = self._open_directory(path)
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_fd, self._parent_path = fd, path
        self._parent_is_real = (self._sharing or self._recipe) is None or self._is_real(path)
        return fd

    def _real_path(self, parent: int, name: str) -> str:
        """The path below the root that a removal would meet `name` of the directory `parent` at."""
        below = os.readlink(f"/proc/self/fd/{parent}").removeprefix(os.readlink(f"/proc/self/fd/{self._root_fd}"))
        return f"{below}/{name}".lstrip("/")

    def _is_real(self, path: str) -> bool:
        """Whether no link is on the way: a removal must find what is offered by the path it meets it at."""
        try:
            os.close(libc.openat2(self._root_fd, path or ".", os.O_PATH, libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS))
        except OSError:
            return False
        return True

    def _open_directory(self, path: str) -> int:
        """Made if it is missing, and what is missing above it."""
        missing: list[str] = []
        at = path
        while (fd := self._open_existing(at)) < 0:
            missing.append(at)
            at = at.rpartition("/")[0]
        for below in reversed(missing):
            try:
                self._make_parent(fd, below.rpartition("/")[2], path)
            finally:
                os.close(fd)
            fd = libc.openat2(self._root_fd, below, os.O_RDONLY | os.O_DIRECTORY, _IN_ROOT)
        return fd

    def _open_existing(self, path: str) -> int:
        try:
            return libc.openat2(self._root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY, _IN_ROOT)
        except FileNotFoundError:
            return -1

    def _make_parent(self, parent: int, name: str, path: str) -> None:
        self._implied += 1
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            if self._ids:
                os.chown(name, *self._ids(0, 0), dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            raise InvalidParameter(f"archive entry below {path!r}: a link in its way leads nowhere") from None


def _room_bytes(fd: int) -> int:
    room = os.fstatvfs(fd)
    return room.f_bavail * room.f_frsize


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _copy_range(source_fd: int, target_fd: int, count: int) -> None:
    """The first `count` bytes, from one file's start to where the other is open."""
    offset = 0
    while offset < count:
        data = os.pread(source_fd, min(count - offset, _COPY_BYTES), offset)
        _write_all(target_fd, data)
        offset += len(data)
