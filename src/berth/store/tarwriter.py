"""Writes tar archives of directory trees, streaming: what `cp`, `export` and `commit` hand out.

The tree may belong to a running container: everything is opened beneath its start, no link is followed,
only plain files are read, and a file that shrinks meanwhile is padded to the size that its header says.

Format: pax, times in whole seconds, as Docker writes it.
"""

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO

from berth.errors import Conflict
from berth.linux import libc
from berth.store.tar import sum_of_bytes
from berth.store.unpacking import Ids, same_ids

_COPY_BYTES = 1 << 20
_BLOCK = 512
_MAX_ID, _MAX_SIZE = 1 << 21, 1 << 33  # what the digits of a plain header hold
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE,
}  # fmt: skip
# File systems of the kernel's own (statfs f_type), which hold no files that could be copied: proc, sysfs, cgroup,
# cgroup2, devpts, mqueue, debugfs, tracefs, bpf, securityfs, selinux, binfmt_misc.
KERNEL_FILESYSTEMS = frozenset((
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x19800202, 0x64626720, 0x74726163, 0xCAFE4A11, 0x73636673,
    0xF97CFF8C, 0x42494E4D,
))  # fmt: skip


def reopen(fd: int, flags: int) -> int:
    """Opens what an O_PATH descriptor is open on, without another look-up of its name."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def open_below(start_fd: int, path: str, flags: int = os.O_PATH | os.O_NOFOLLOW) -> int:
    """Opens `path` beneath `start_fd` where no part of it is a link."""
    return libc.openat2(start_fd, path or ".", flags, _BENEATH)


def on_kernel_filesystem(fd: int) -> bool:
    """Whether a descriptor is open on a file system of KERNEL_FILESYSTEMS."""
    return libc.filesystem_type(fd) in KERNEL_FILESYSTEMS


class TarWriter:
    """Writes members to `out`, which stays the caller's. ids: a file's owner -> the owner in the archive; latest_s: of times, if any is too late.

    once: Conflict for a second member of a name, unless both are directories.
    """

    def __init__(self, out: IO[bytes], ids: Ids = same_ids, *, latest_s: int | None = None, once: bool = False) -> None:
        self._latest_s = latest_s
        self._seen: dict[str, bool] | None = {} if once else None  # names so far, and whether each is a directory
        self._out = out
        self._ids = ids
        self._links: dict[tuple[int, int], str] = {}  # device and inode -> name of the first member
        self.size_bytes = 0  # what the files hold

    def add_tree(self, fd: int, name: str) -> None:
        """What `fd` (O_PATH) is open on, under `name`; a directory with all below it.

        name: 'etc', './' or '' for a root whose members start with their own names and which has no member itself.
        """
        status = os.fstat(fd)
        if not stat.S_ISDIR(status.st_mode):
            self.add(fd, name)
            return
        # One descriptor at a time, however deep a container nests; a path longer than the kernel takes is an error.
        pending = [""]
        while pending:
            path = pending.pop()
            try:
                directory = open_below(fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went away meanwhile
            try:
                if name or path:
                    self._add_directory(directory, joined(name, path))
                if on_kernel_filesystem(directory):
                    continue
                subdirectories = []
                for child in sorted(os.listdir(directory)):
                    at = f"{path}/{child}" if path else child
                    if not self._add_child(directory, child, joined(name, at)):
                        subdirectories.append(at)
                pending += reversed(subdirectories)
            finally:
                os.close(directory)

    def _add_child(self, directory: int, child: str, name: str) -> bool:
        """False where it is a directory, whose turn comes."""
        try:
            fd = os.open(child, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            return True
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                return False
            self.add(fd, name)
            return True
        finally:
            os.close(fd)

    def _add_directory(self, fd: int, name: str) -> None:
        info = self._info(os.fstat(fd), name if name.endswith("/") else f"{name}/")
        self._head(info, kept_xattrs(fd))

    def add(self, fd: int, name: str) -> None:
        """One member, without what may be below it. A socket is left out, as tar cannot hold it."""
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            self._add_directory(fd, name)
            return
        if kind not in _KINDS:
            return
        info = self._info(status, name)
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            if key in self._links:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, self._links[key], 0
                self._head(info, {})
                return
            self._links[key] = name
        if kind == stat.S_IFLNK:
            info.linkname = os.readlink("", dir_fd=fd)
            self._head(info, {})
        elif kind == stat.S_IFREG:
            self._add_file(fd, info)
        else:
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
            self._head(info, {})

    def _add_file(self, fd: int, info: tarfile.TarInfo) -> None:
        # The inode is known to be a plain file: what the name means by now does not matter.
        file = reopen(fd, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            info.size = os.fstat(file).st_size
            self._head(info, kept_xattrs(file))
            left = info.size
            while left and (data := os.read(file, min(left, _COPY_BYTES))):
                self._out.write(data)
                left -= len(data)
            self.size_bytes += info.size
            for length in _pieces(left + -info.size % _BLOCK):
                self._out.write(bytes(length))
        finally:
            os.close(file)

    def add_empty(self, name: str) -> None:
        """An empty plain file: a whiteout."""
        self._head(tarfile.TarInfo(name), {})

    def put(self, info: tarfile.TarInfo, xattrs: dict[str, bytes] | None = None, data: bytes = b"") -> None:
        """A member that somebody else described, with what it holds; `info.size` follows from that."""
        info.size = len(data)
        self._head(info, xattrs or {})
        self._out.write(data)
        self._pad(len(data))
        self.size_bytes += len(data)

    def put_stream(self, info: tarfile.TarInfo, xattrs: dict[str, bytes], chunks: Iterable[bytes]) -> bool:
        """A member whose `info.size` bytes come from `chunks`. False where there are more or fewer of them, after which the archive is none."""
        self._head(info, xattrs)
        left = info.size
        for data in chunks:
            left -= len(data)
            if left < 0:
                return False
            self._out.write(data)
        self._pad(info.size)
        self.size_bytes += info.size
        return not left

    def _pad(self, size: int) -> None:
        if size % _BLOCK:
            self._out.write(bytes(-size % _BLOCK))

    def _info(self, status: os.stat_result, name: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type = _KINDS[stat.S_IFMT(status.st_mode)]
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = self._ids(status.st_uid, status.st_gid)
        info.mtime = int(status.st_mtime_ns // 1_000_000_000)
        if self._latest_s is not None:
            info.mtime = min(info.mtime, self._latest_s)
        return info

    def _head(self, info: tarfile.TarInfo, xattrs: dict[str, bytes]) -> None:
        if self._seen is not None:
            name = info.name.rstrip("/")
            if name in self._seen and not (self._seen[name] and info.isdir()):
                raise Conflict(f"{name} is there twice")
            self._seen[name] = info.isdir()
        info.pax_headers = {f"SCHILY.xattr.{key}": value.decode(errors="surrogateescape") for key, value in xattrs.items()}
        self._out.write(_plain_header(info) or info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def close(self) -> None:
        """The two empty blocks at the end; `out` stays open."""
        self._out.write(bytes(2 * _BLOCK))


def _plain_header(info: tarfile.TarInfo) -> bytes:
    """What tobuf makes where nothing needs a pax header, in a fifth of the time; b'' where something does."""
    name, link = info.name, info.linkname
    if info.type == tarfile.DIRTYPE and not name.endswith("/"):
        name += "/"
    numbers = (info.uid, info.gid, info.devmajor, info.devminor)
    if (
        info.pax_headers or not (name.isascii() and link.isascii()) or len(name) > 100 or len(link) > 100
        or not 0 <= min(numbers) <= max(numbers) < _MAX_ID or not 0 <= info.mtime < _MAX_SIZE or info.size >= _MAX_SIZE
    ):  # fmt: skip
        return b""
    fields = (info.mode, info.uid, info.gid, info.size, int(info.mtime))
    head = name.encode().ljust(100, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % fields
    device = b"%07o\0%07o\0" % (info.devmajor, info.devminor) if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else bytes(16)
    tail = info.type + link.encode().ljust(100, b"\0") + b"ustar\00000" + bytes(64) + device + bytes(167)
    return head + b"%06o\0 " % (sum_of_bytes(head + b"        " + tail)) + tail


def joined(name: str, path: str) -> str:
    """A member's name: that of the start and the path below it."""
    return f"{name.removesuffix('/')}/{path}" if name and path else name or path


def _pieces(length: int) -> Iterator[int]:
    while length > 0:
        yield min(length, _COPY_BYTES)
        length -= _COPY_BYTES


def kept_xattrs(fd: int) -> dict[str, bytes]:
    """What a copy keeps: capabilities and a user's own. Not what overlayfs or a security module wrote."""
    found = {}
    try:
        for key in os.listxattr(fd):
            if key == "security.capability" or key.startswith("user."):
                found[key] = os.getxattr(fd, key)
    except OSError:
        pass
    return found
