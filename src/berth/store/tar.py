"""Unpacks tar archives into a directory, resolving every name beneath it. Streaming, one pass.

An archive is hostile until proved otherwise: names with `..` are refused, absolute ones are taken
from the root, links are followed only inside the root (openat2 RESOLVE_IN_ROOT), hard links must
point to something unpacked before. OCI whiteouts become overlayfs's own as they are met.

Formats: POSIX ustar and pax, GNU long names and sparse files. Source: pax(5), tar(5); OCI image
specification, layer.md.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO

from berth.errors import DataLoss, InvalidParameter
from berth.linux import libc
from berth.store.compression import ExactReader

_BLOCK = 512
_COPY_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20  # of pax records and long names: what no honest archive reaches
_MAX_SPARSE_MAP_BYTES = 64 << 20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_ZERO_BLOCK = bytes(_BLOCK)
_MAX_REMOVE_DEPTH = 64
Ids = Callable[[int, int], tuple[int, int]]
_FILE, _HARD_LINK, _SYMLINK, _CHAR, _BLOCK_DEVICE, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"


def same_ids(uid: int, gid: int) -> tuple[int, int]:
    """Owners as the archive or the disk has them."""
    return uid, gid


class Entry:
    """One member. size_bytes: of the data in the archive; sparse: (offset, length) pairs or None."""

    __slots__ = (
        "gid", "kind", "link", "major", "minor", "mode", "mtime_ns", "name", "real_size_bytes", "size_bytes",
        "sparse", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self) -> None:
        self.name = self.link = ""
        self.kind = _FILE
        self.mode = self.uid = self.gid = self.size_bytes = self.mtime_ns = self.major = self.minor = 0
        self.real_size_bytes = 0
        self.sparse: list[tuple[int, int]] | None = None
        self.xattrs: dict[str, bytes] = {}

    @property
    def is_file(self) -> bool:
        return self.kind == _FILE


def read_entries(reader: ExactReader) -> Iterator[Entry]:
    """The members in order. Who iterates must read each one's data (`size_bytes`, then `skip_padding`)."""
    global_pax: dict[str, bytes] = {}
    pax: dict[str, bytes] = {}
    long_name = long_link = None
    while True:
        block = reader.read_exactly(_BLOCK)
        if block == _ZERO_BLOCK:
            return
        _check_sum(block)
        kind, size = block[156:157], _number(block[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MAX_HEADER_BYTES:
                raise DataLoss(f"an extended header claims {size} bytes; more than {_MAX_HEADER_BYTES} is refused")
            data = reader.read_exactly(size)
            skip_padding(reader, size)
            if kind == b"x":
                pax = {**pax, **_pax_records(data)}
            elif kind == b"g":
                global_pax = {**global_pax, **_pax_records(data)}
            elif kind == b"L":
                long_name = data.rstrip(b"\0")
            else:
                long_link = data.rstrip(b"\0")
            continue
        yield _entry(block, kind, size, {**global_pax, **pax}, long_name, long_link, reader)
        pax, long_name, long_link = {}, None, None


def skip_padding(reader: ExactReader, size: int) -> None:
    """Data is padded to whole blocks."""
    if size % _BLOCK:
        reader.read_exactly(_BLOCK - size % _BLOCK)


def _check_sum(block: bytes) -> None:
    """Sum of the header's bytes with the sum's own field as spaces; old writers summed signed bytes."""
    stored = _number(block[148:156])
    head = block[:148] + b"        " + block[156:]
    if sum(head) != stored and sum(b - 256 if b > 127 else b for b in head) != stored:
        raise DataLoss("not a tar archive, or a damaged one: a header's checksum is wrong")


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base-256 where the top bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] == 0xFF:
            value -= 1 << (8 * len(field) - 1)
        return value
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise DataLoss(f"not a tar archive, or a damaged one: {field!r} is not a number") from None


def _pax_records(data: bytes) -> dict[str, bytes]:
    records: dict[str, bytes] = {}
    sparse: list[bytes] = []
    while data:
        length_text, space, _ = data.partition(b" ")
        # Few digits, because int() refuses thousands of them with an error of another kind.
        if not space or len(length_text) > 8 or not length_text.isdigit() or not 0 < int(length_text) <= len(data):
            raise DataLoss("a pax header has a record of impossible length")
        if data[int(length_text) - 1 : int(length_text)] != b"\n":
            raise DataLoss("a pax header has a record that does not end where it says")
        record = data[len(length_text) + 1 : int(length_text) - 1]
        data = data[int(length_text) :]
        key, _, value = record.partition(b"=")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # format 0.0 repeats its keys
            sparse.append(value)
        records[key.decode(errors="surrogateescape")] = value
    if sparse:
        records["GNU.sparse.map"] = b",".join(sparse)
    return records


def _entry(
    block: bytes, kind: bytes, size: int, pax: dict[str, bytes], long_name: bytes | None, long_link: bytes | None,
    reader: ExactReader,
) -> Entry:  # fmt: skip
    entry = Entry()
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345] and not long_name:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    entry.name = os.fsdecode(pax.get("path", long_name or name))
    entry.link = os.fsdecode(pax.get("linkpath", long_link or block[157:257].split(b"\0", 1)[0]))
    entry.kind = {b"\0": _FILE, b"7": _FILE, b"S": _FILE}.get(kind, kind)
    if entry.kind == _FILE and entry.name.endswith("/"):  # how the oldest tars wrote directories
        entry.kind = _DIRECTORY
    entry.mode = _number(block[100:108]) & 0o7777
    entry.uid, entry.gid = _pax_number(pax, "uid", block[108:116]), _pax_number(pax, "gid", block[116:124])
    entry.major, entry.minor = _number(block[329:337]), _number(block[337:345])
    entry.size_bytes = _pax_number(pax, "size", block[124:136])
    if entry.size_bytes < 0:
        raise DataLoss(f"{entry.name!r} claims a size of {entry.size_bytes} bytes")
    if entry.kind in (_HARD_LINK, _SYMLINK, _CHAR, _BLOCK_DEVICE, _DIRECTORY, _FIFO):
        entry.size_bytes = 0
    entry.mtime_ns = _time_ns(pax["mtime"]) if "mtime" in pax else _number(block[136:148]) * 1_000_000_000
    entry.real_size_bytes = entry.size_bytes
    for key, value in pax.items():
        if key.startswith("SCHILY.xattr."):
            entry.xattrs[key.removeprefix("SCHILY.xattr.")] = value
    if kind == b"S":
        _old_gnu_sparse(entry, block, reader)
    elif any(key.startswith("GNU.sparse.") for key in pax):
        _pax_sparse(entry, pax, reader)
    return entry


def _pax_number(pax: dict[str, bytes], key: str, field: bytes) -> int:
    if key not in pax:
        return _number(field)
    try:
        return int(pax[key])
    except ValueError:
        raise DataLoss(f"a pax header gives {pax[key]!r} as {key}") from None


def _time_ns(text: bytes) -> int:
    seconds, _, fraction = text.partition(b".")
    try:
        return int(seconds or b"0") * 1_000_000_000 + int((fraction + b"000000000")[:9])
    except ValueError:
        raise DataLoss(f"a pax header gives {text!r} as a time") from None


def _old_gnu_sparse(entry: Entry, block: bytes, reader: ExactReader) -> None:
    pairs = [(_number(block[o : o + 12]), _number(block[o + 12 : o + 24])) for o in range(386, 482, 24)]
    entry.real_size_bytes = _number(block[483:495])
    more = block[482]
    while more:
        block = reader.read_exactly(_BLOCK)
        pairs += [(_number(block[o : o + 12]), _number(block[o + 12 : o + 24])) for o in range(0, 504, 24)]
        more = block[504]
    entry.sparse = _checked_sparse(entry, [pair for pair in pairs if pair[1]], entry.size_bytes)


def _pax_sparse(entry: Entry, pax: dict[str, bytes], reader: ExactReader) -> None:
    """GNU's formats 0.0, 0.1 (map in the header) and 1.0 (map in front of the data)."""
    try:
        entry.real_size_bytes = int(pax.get("GNU.sparse.realsize") or pax.get("GNU.sparse.size") or 0)
        if "GNU.sparse.name" in pax:
            entry.name = os.fsdecode(pax["GNU.sparse.name"])
        if pax.get("GNU.sparse.major") == b"1":
            numbers, used = _sparse_map_in_data(reader)
            entry.size_bytes -= used
        else:
            numbers = [int(text) for text in pax.get("GNU.sparse.map", b"").split(b",") if text]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise DataLoss(f"{entry.name!r} has a sparse map that is not made of pairs of numbers") from None
    entry.sparse = _checked_sparse(entry, pairs, entry.size_bytes)


def _sparse_map_in_data(reader: ExactReader) -> tuple[list[int], int]:
    blocks = [reader.read_exactly(_BLOCK)]
    count = int(blocks[0].partition(b"\n")[0])
    if not 0 <= count <= _MAX_HEADER_BYTES:
        raise DataLoss(f"a sparse map claims {count} pieces")
    line_feeds = blocks[0].count(b"\n")
    while line_feeds < 2 * count + 1:
        blocks.append(reader.read_exactly(_BLOCK))
        line_feeds += blocks[-1].count(b"\n")
        if len(blocks) * _BLOCK > _MAX_SPARSE_MAP_BYTES:
            raise DataLoss(f"a sparse map of {count} pieces does not end")
    lines = b"".join(blocks).split(b"\n")
    return [int(line) for line in lines[1 : 2 * count + 1]], len(blocks) * _BLOCK


def _checked_sparse(entry: Entry, pairs: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > entry.real_size_bytes:
            raise DataLoss(f"{entry.name!r} has a sparse map that contradicts itself")
        end = offset + length
    if sum(length for _, length in pairs) != size:
        raise DataLoss(f"{entry.name!r} has a sparse map that does not fit its data")
    return pairs


# -- unpacking -----------------------------------------------------------------------------------


class Unpacker:
    """Writes members below `root_fd`, which stays the caller's.

    whiteouts: turn OCI whiteouts into overlayfs's. size_bytes: what files and links hold, when done.
    base: the directory below the root that the archive's names start from; it is there and keeps its own mode
    and owner. keep_kinds: no directory gives way to something else, nor the other way round. ids: an entry's
    owner -> the owner of what is made; None: whoever unpacks. rename: what an archive's name becomes.
    """

    def __init__(
        self, root_fd: int, *, whiteouts: bool, base: str = "", keep_kinds: bool = False, ids: Ids | None = same_ids,
        rename: Callable[[str], str] = str,
    ) -> None:  # fmt: skip
        self._root_fd = root_fd
        self._whiteouts = whiteouts
        self._base = None if base == "" else [part for part in base.split("/") if part]
        self._keep_kinds = keep_kinds
        self._ids = ids
        self._rename = rename
        self._parent_path: str | None = None
        self._parent_fd = -1
        self._directories: dict[str, int] = {}  # path -> time of change, in the order they came
        self.size_bytes = 0

    def unpack(self, file: IO[bytes], observer: Callable[[bytes], object]) -> None:
        """Everything in the decompressed stream `file`; `observer` sees every byte, also those after the end."""
        reader = ExactReader(file, observer)
        try:
            for entry in read_entries(reader):
                self._one(entry, reader)
            while reader.read_some(_COPY_BYTES):
                pass
            self._set_directory_times()
        finally:
            if self._parent_fd >= 0:
                os.close(self._parent_fd)
                self._parent_fd = -1

    def _set_directory_times(self) -> None:
        """Last, because every entry made in a directory changes its time."""
        resolve = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
        for path, mtime_ns in self._directories.items():
            try:
                fd = libc.openat2(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve)
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
            if entry.kind == _DIRECTORY and self._base is None:
                self._finish(entry, self._root_fd)
            self._skip(reader, entry.size_bytes)
            skip_padding(reader, entry.size_bytes)
            return
        parts = [*(self._base or ()), *parts]
        try:
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
                os.setxattr(f"/proc/self/fd/{parent}", "trusted.overlay.opaque", b"y")
            elif not name.startswith(".wh..wh."):  # aufs's own bookkeeping, of no use here
                hidden = name.removeprefix(_WHITEOUT)
                if hidden in ("", ".", ".."):  # ".wh..." would remove what is above the root
                    raise InvalidParameter(f"archive entry {entry.name!r} hides {hidden!r}, which is no name: refused")
                self._replace(parent, hidden)
                os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
            self._skip(reader, entry.size_bytes)
            return
        if entry.kind == _FILE:
            self._replace(parent, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=parent)
            try:
                self._copy(entry, fd, reader)
                self._finish(entry, fd)
            finally:
                os.close(fd)
        elif entry.kind == _DIRECTORY:
            self._make_directory(entry, parts, parent)
        elif entry.kind == _HARD_LINK:
            self._make_hard_link(entry, name, parent)
        else:
            self._make_special(entry, name, parent)

    def _refuse_other_kind(self, entry: Entry, parts: list[str], parent: int) -> None:
        try:
            there = stat.S_ISDIR(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        if there != (entry.kind == _DIRECTORY):
            path, base = "/" + "/".join(parts), "/" + "/".join(self._base or ())
            words = ("directory", "non-directory") if there else ("non-directory", "directory")
            raise InvalidParameter(f'cannot overwrite {words[0]} "{path}" with {words[1]} "{base}"')

    def _make_directory(self, entry: Entry, parts: list[str], parent: int) -> None:
        name = parts[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._finish(entry, fd)
        finally:
            os.close(fd)
        self._directories["/".join(parts)] = entry.mtime_ns

    def _make_hard_link(self, entry: Entry, name: str, parent: int) -> None:
        target = [part for part in self._rename(entry.link).split("/") if part not in ("", ".")]
        if ".." in target or not target:
            raise InvalidParameter(
                f"archive entry {entry.name!r} is a hard link to {entry.link!r}, which leads outside of the root: refused"
            )
        self._replace(parent, name)
        source = self._open_directory("/".join([*(self._base or ()), *target[:-1]]))
        try:
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _make_special(self, entry: Entry, name: str, parent: int) -> None:
        self._replace(parent, name)
        if entry.kind == _SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            self.size_bytes += len(os.fsencode(entry.link))
            self._chown_name(entry, name, parent)
        else:
            kinds = {_CHAR: stat.S_IFCHR, _BLOCK_DEVICE: stat.S_IFBLK, _FIFO: stat.S_IFIFO}
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
        # trusted.overlay.* is how overlayfs redirects and hides: an image must not speak that language.
        if key.startswith("trusted."):
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
            while length:
                data = reader.read_exactly(min(length, _COPY_BYTES))
                _write_all(fd, data)
                length -= len(data)
        if entry.sparse is not None:
            os.ftruncate(fd, entry.real_size_bytes)
        self.size_bytes += entry.real_size_bytes

    def _skip(self, reader: ExactReader, size: int) -> None:
        while size:
            size -= len(reader.read_exactly(min(size, _COPY_BYTES)))

    def _replace(self, parent: int, name: str) -> None:
        """A later entry of the same name wins; a directory is only removed with what it holds."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            remove_tree(parent, name)
            self._forget_parent()

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
        return fd

    def _open_directory(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            return libc.openat2(self._root_fd, path or ".", flags, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS)
        except FileNotFoundError:
            parent_path, _, name = path.rpartition("/")
            parent = self._open_directory(parent_path)
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
                if self._ids:
                    os.chown(name, *self._ids(0, 0), dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                raise InvalidParameter(f"archive entry below {path!r}: a link in its way leads nowhere") from None
            finally:
                os.close(parent)
            return libc.openat2(self._root_fd, path, flags, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def remove_tree(parent_fd: int, name: str) -> None:
    """Removes `name` and all below it without following a link; what is gone already is no error.

    A container can nest directories deeper than this process has stack or descriptors: what is too deep
    is moved up beside `name` and removed in a turn of its own.
    """
    pending = [name]
    while pending:
        _remove_level(parent_fd, pending.pop(), parent_fd, pending, 0)


def _remove_level(parent_fd: int, name: str, top_fd: int, pending: list[str], depth: int) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError:
        _ignore_missing(os.unlink, name, parent_fd)
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    _ignore_missing(os.unlink, entry.name, fd)
                elif depth < _MAX_REMOVE_DEPTH:
                    _remove_level(fd, entry.name, top_fd, pending, depth + 1)
                else:
                    moved = f".removing-{os.urandom(8).hex()}"
                    os.rename(entry.name, moved, src_dir_fd=fd, dst_dir_fd=top_fd)
                    pending.append(moved)
    finally:
        os.close(fd)
    _ignore_missing(os.rmdir, name, parent_fd)


def _ignore_missing(remove: Callable[..., None], name: str, dir_fd: int) -> None:
    """Somebody else may be removing the same tree: an engine at its start, a container's end."""
    try:
        remove(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
