"""ADD of an archive: its members become members of the layer, beneath the destination, as they go by.

An archive is as little trusted as in store/unpacking.py: no name with `..`, no hard link to what it did not bring or the destination does not
have; links on the way are followed inside the root, as if the archive were unpacked on top of it.
"""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator

from berth.build.files.layer import Layer, Owner
from berth.errors import BerthError, DataLoss, InvalidParameter
from berth.linux import overlay
from berth.store.compression import ExactReader, Readable, open_stream
from berth.store.tar import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK, Entry, read_entries, skip_padding
from berth.store.tarwriter import open_below, reopen

_READ_BYTES = 1 << 20
_MOST_ENTRIES = 1_000_000
_MOST_SKIPPED_BYTES = 2 << 30
_HOLES_FROM_BYTES, _HOLES_TIMES = 64 << 30, 500
_WHITEOUT = ".wh."


def is_archive(fd: int) -> bool:
    """Whether a plain file is a tar archive, compressed or not. By what it holds; the descriptor's offset is at the start again."""
    with os.fdopen(os.dup(fd), "rb") as file:
        try:
            file.seek(0)
            head = next(iter(read_entries(ExactReader(open_stream(file)))), None)
            return head is not None
        except (BerthError, OSError):
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)


def unpack(layer: Layer, stream: Readable, base: str, *, owner: Owner | None = None) -> None:
    """Everything in `stream`, compressed or not, beneath `base`, a path without links. owner: of all, or None for the archive's own.

    InvalidParameter or DataLoss for an archive that is bad; the layer is none then.
    """
    layer.directory(base)
    adding = _Adding(layer, base, owner)
    reader = ExactReader(open_stream(stream))
    for count, entry in enumerate(read_entries(reader)):
        if count == _MOST_ENTRIES:
            raise InvalidParameter(f"the archive has more than {_MOST_ENTRIES} entries: refused")
        adding.entry(entry, reader)
    skipped = 0
    while data := reader.read_some(_READ_BYTES):
        skipped += len(data)
        if skipped > _MOST_SKIPPED_BYTES:
            raise InvalidParameter(f"the archive has more than {_MOST_SKIPPED_BYTES} bytes that belong to no file: refused")


class _Adding:
    def __init__(self, layer: Layer, base: str, owner: Owner | None) -> None:
        self._layer = layer
        self._base = base
        self._owner = owner
        self._size_bytes = self._holes_bytes = 0

    def entry(self, entry: Entry, reader: ExactReader) -> None:
        path = self._path(entry, entry.name, "in its name")
        if not path:  # the archive's own top: the destination stays as it is
            _skip(reader, entry)
            return
        name = path.rpartition("/")[2]
        if name.startswith(_WHITEOUT):
            raise InvalidParameter(f"archive entry {entry.name!r}: a layer cannot have a name that begins with {_WHITEOUT!r}")
        makers: dict[bytes, Callable[[Entry, str, ExactReader], None]] = {
            FILE: self._file, HARD_LINK: self._hard_link, DIRECTORY: self._directory,
        }  # fmt: skip
        if entry.kind not in (FILE, HARD_LINK, DIRECTORY, SYMLINK, CHAR, BLOCK_DEVICE, FIFO):
            raise InvalidParameter(f"archive entry {entry.name!r} is of unknown kind {entry.kind!r}")
        makers.get(entry.kind, self._special)(entry, path, reader)

    def _path(self, entry: Entry, name: str, where: str) -> str:
        """Where the name is, its last part not followed; '' for the top. The directories on the way are in the layer afterwards."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise InvalidParameter(f"archive entry {entry.name!r} has {'..' if '..' in parts else 'NUL'!r} {where}; refused")
        if not parts:
            return ""
        above = self._layer.resolve("/".join([self._base, *parts[:-1]])).path
        self._layer.directory(above)
        return f"{above}/{parts[-1]}" if above else parts[-1]

    def _info(self, entry: Entry, path: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(path)
        info.mode = entry.mode
        info.uid, info.gid = self._owner or (entry.uid, entry.gid)
        info.mtime = self._layer.time_s(entry.mtime_ns)
        return info

    def _directory(self, entry: Entry, path: str, reader: ExactReader) -> None:
        info = self._info(entry, f"{path}/")
        info.type = tarfile.DIRTYPE
        self._layer.writer.put(info, _xattrs(entry))
        self._layer.note(path, is_directory=True)

    def _file(self, entry: Entry, path: str, reader: ExactReader) -> None:
        info = self._info(entry, path)
        info.size = entry.real_size_bytes
        self._size_bytes += entry.size_bytes
        self._holes_bytes += entry.real_size_bytes - entry.size_bytes
        if self._holes_bytes > _HOLES_FROM_BYTES and self._holes_bytes > _HOLES_TIMES * self._size_bytes:
            raise InvalidParameter(
                f"archive entry {entry.name!r}: {self._size_bytes} bytes with {self._holes_bytes} bytes of holes so far, more than "
                f"{_HOLES_TIMES} times as much: taken for a decompression bomb and refused"
            )
        if not self._layer.writer.put_stream(info, _xattrs(entry), _contents(entry, reader)):
            raise DataLoss(f"archive entry {entry.name!r} is not as long as it says")
        skip_padding(reader, entry.size_bytes)
        self._layer.note(path)

    def _special(self, entry: Entry, path: str, reader: ExactReader) -> None:
        info = self._info(entry, path)
        info.type, info.linkname = entry.kind, entry.link if entry.kind == SYMLINK else ""
        if entry.kind in (CHAR, BLOCK_DEVICE):
            info.devmajor, info.devminor = entry.major, entry.minor
            if entry.kind == CHAR and (entry.major, entry.minor) == (0, 0):
                raise InvalidParameter(f"archive entry {entry.name!r} is a character device 0:0, which in a layer hides what is below it: refused")
        self._layer.writer.put(info, {} if entry.kind == SYMLINK else _xattrs(entry))
        self._layer.note(path, link=entry.link if entry.kind == SYMLINK else "")

    def _hard_link(self, entry: Entry, path: str, reader: ExactReader) -> None:
        target = self._path(entry, entry.link, "in what it links to")
        info = self._info(entry, path)
        if target and self._layer.was_written(target) and not self._layer.is_directory(target):
            info.type, info.linkname = tarfile.LNKTYPE, target
            self._layer.writer.put(info)
            self._layer.note(path, link=self._layer.link(target))
            return
        status = self._layer.status(target) if target else None
        if status is None or not stat.S_ISREG(status.st_mode):
            raise InvalidParameter(f"archive entry {entry.name!r} is a hard link to {entry.link!r}, which is no file there: refused")
        self._copy_of_root(info, target, path)  # a layer cannot link to what is in another one

    def _copy_of_root(self, info: tarfile.TarInfo, target: str, path: str) -> None:
        found = open_below(self._layer.root_fd, target)
        try:
            fd = reopen(found, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        finally:
            os.close(found)
        with os.fdopen(fd, "rb", buffering=0) as file:
            info.size = os.fstat(fd).st_size
            if not self._layer.writer.put_stream(info, {}, iter(lambda: file.read(_READ_BYTES), b"")):
                raise DataLoss(f"/{target} changed while it was read")
        self._layer.note(path)


def _contents(entry: Entry, reader: ExactReader) -> Iterator[bytes]:
    """What a file holds, holes as zeros."""
    zeros = bytes(min(_READ_BYTES, entry.real_size_bytes)) if entry.sparse is not None else b""
    at = 0
    pieces = [(0, entry.size_bytes)] if entry.sparse is None else [*entry.sparse, (entry.real_size_bytes, 0)]
    for offset, length in pieces:
        while at < offset:
            step = min(offset - at, len(zeros))
            yield zeros[:step]
            at += step
        left = length
        while left:
            data = reader.read_exactly(min(left, _READ_BYTES))
            yield data
            left -= len(data)
        at = offset + length


def _xattrs(entry: Entry) -> dict[str, bytes]:
    """Not how overlayfs redirects and hides."""
    return {key: value for key, value in entry.xattrs.items() if not key.startswith(("trusted.", *overlay.MARKS))}


def _skip(reader: ExactReader, entry: Entry) -> None:
    left = entry.size_bytes
    while left:
        left -= len(reader.read_exactly(min(left, _READ_BYTES)))
    skip_padding(reader, entry.size_bytes)
