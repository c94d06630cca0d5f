"""How to write a layer's archive again, byte for byte, from the directory it was unpacked to.

A recipe holds every byte of the tar that is not a file's content (headers, padding, what follows the end), and for
each content the path to read it from. So a layer is on disk once, unpacked, and can still be pushed and saved with
the digest it came with. The idea is tar-split's; the format is ours:

    recipe      magic, size of the tar in bytes; then a gzip stream of frames: length of raw bytes, count of pieces,
                the bytes, path, (offset, length) of each piece
    left/N      what a later entry of the same archive took the place of, and left/paths, which says where it was
                and how many contents had come by then
    data/       contents that the layer's files have no copy of their own of (`contents`)
"""

import bisect
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

from berth.errors import DataLoss, InvalidParameter
from berth.linux import libc
from berth.store.compression import gzip
from berth.store.contents import open_content

_MAGIC = b"berthrc1"
_HEADER = struct.Struct("<8sQ")
_RAW = struct.Struct("<QI")  # length of raw bytes, count of pieces of the content that follows
_PATH = struct.Struct("<H")
_PIECE = struct.Struct("<QQ")
_FLUSH_BYTES = 1 << 20
_COPY_BYTES = 1 << 20
_MOST_PIECES = 1 << 22
_MOST_LEFT = 100_000
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS

Pieces = list[tuple[int, int]]  # (offset, length) of a file's content, as its archive has them


class RecipeWriter:
    """Sees a tar go by (`update`), and is told in front of each file's content (`content`) where it will be found.

    directory: made here; the recipe's own.
    """

    def __init__(self, directory: str) -> None:
        os.mkdir(directory, 0o700)
        self._directory = directory
        self._left_fd = self._data_fd = -1
        self._left = 0
        self._contents = 0
        self._file = open(f"{directory}/recipe", "xb")  # closed by `finish` or `close`
        self._file.write(_HEADER.pack(_MAGIC, 0))
        self._frames: IO[bytes] = gzip.open(self._file, "wb", compresslevel=1)
        self._raw: list[bytes] = []
        self._raw_bytes = 0
        self._content_left = 0
        self.size_bytes = 0  # of the tar so far
        self.raw_bytes = 0  # of it, what is no content

    def update(self, data: bytes) -> None:
        """The next bytes of the tar. Never both content and what follows it: who reads, reads exactly."""
        self.size_bytes += len(data)
        if self._content_left:
            self._content_left -= len(data)
            assert self._content_left >= 0
            return
        self._raw.append(data)
        self._raw_bytes += len(data)
        self.raw_bytes += len(data)
        if self._raw_bytes > _FLUSH_BYTES:
            self._frame("", [])

    def content(self, path: str, pieces: Pieces) -> None:
        """What comes next is the content of the file `path`."""
        pieces = [piece for piece in pieces if piece[1]]
        self._content_left = sum(length for _, length in pieces)
        if pieces:
            self._contents += 1
            self._frame(path, pieces)

    def take(self, path: str, name: str, parent_fd: int) -> None:
        """The file or directory `name` of `parent_fd`, which is `path` in the layer, gives way: it moves in here."""
        if self._left >= _MOST_LEFT:
            raise InvalidParameter(f"the archive has more than {_MOST_LEFT} entries that take the place of earlier ones: refused")
        if self._left_fd < 0:
            os.mkdir(f"{self._directory}/left", 0o700)
            self._left_fd = os.open(f"{self._directory}/left", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with open(f"{self._directory}/left/paths", "a") as file:  # first, for whoever cleans up after a kill
            file.write(json.dumps([path, self._contents]) + "\n")
        os.rename(name, str(self._left), src_dir_fd=parent_fd, dst_dir_fd=self._left_fd)
        self._left += 1

    def data_fd(self) -> int:
        """The directory `data`, made when first asked for; closed with the recipe."""
        if self._data_fd < 0:
            os.mkdir(f"{self._directory}/data", 0o700)
            self._data_fd = os.open(f"{self._directory}/data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._data_fd

    def _frame(self, path: str, pieces: Pieces) -> None:
        parts = [_RAW.pack(self._raw_bytes, len(pieces)), *self._raw]
        if pieces:
            name = os.fsencode(path)
            parts += [_PATH.pack(len(name)), name, *(_PIECE.pack(*piece) for piece in pieces)]
        self._frames.write(b"".join(parts))
        self._raw, self._raw_bytes = [], 0

    def finish(self) -> None:
        """The tar is over: the file is whole."""
        self._frame("", [])
        self._frames.close()
        self._file.seek(0)
        self._file.write(_HEADER.pack(_MAGIC, self.size_bytes))
        self.close()

    def close(self) -> None:
        """Without `finish`: what was written is of no use, and what could not be written, on a full disk, no matter."""
        with suppress(OSError):
            self._file.close()
        for fd in (self._left_fd, self._data_fd):
            if fd >= 0:
                os.close(fd)
        self._left_fd = self._data_fd = -1


class Left:
    """What gave way to later entries, of the recipe in `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = f"{directory}/left"
        self.paths: list[str] = []
        self._replaced: dict[str, list[tuple[int, int]]] = {}  # path -> (contents that had come, number), in order
        try:
            with open(f"{self._directory}/paths") as file:
                for number, line in enumerate(file):
                    path, contents = json.loads(line)
                    self.paths.append(path)
                    self._replaced.setdefault(path, []).append((contents, number))
        except (FileNotFoundError, ValueError):
            pass  # nothing gave way; or a loss of power took the list, and the digest will tell

    def find(self, path: str, content: int) -> tuple[str, str] | None:
        """(directory, path below it) of a content, by its number, if it has been replaced since: it, or a directory above it."""
        first, at, end = len(self.paths), "", len(path)
        while end > 0:
            there = path[:end]
            moves = self._replaced.get(there, [])
            index = bisect.bisect_left(moves, (content, -1))
            if index < len(moves) and moves[index][1] < first:
                first, at = moves[index][1], there
            end = path.rfind("/", 0, end)
        return (self._directory, f"{first}{path.removeprefix(at)}") if at else None


def tar_size_bytes(directory: str) -> int:
    """Of the tar that a recipe makes. DataLoss if it is none."""
    with open(f"{directory}/recipe", "rb") as file:
        return _read_header(file, file.name)


def _read_header(file: IO[bytes], path: str) -> int:
    head = file.read(_HEADER.size)
    if len(head) != _HEADER.size or not head.startswith(_MAGIC):
        raise DataLoss(f"{path} is damaged: not a recipe of a layer; pull or load the image again")
    return int(_HEADER.unpack(head)[1])


def read_tar(directory: str, root_fd: int, diff: str) -> Iterator[bytes]:
    """The tar's bytes. DataLoss at its end, or earlier, if they are not those whose digest is `diff`: a file was changed."""
    hasher = hashlib.sha256()
    try:
        with open(f"{directory}/recipe", "rb") as file:
            size = _read_header(file, file.name)
            data_fd = _open_data(directory)
            try:
                for data in _Reading(gzip.open(file, "rb"), root_fd, Left(directory), data_fd).tar():
                    size -= len(data)
                    hasher.update(data)
                    yield data
            finally:
                if data_fd >= 0:
                    os.close(data_fd)
    except (EOFError, struct.error, OSError, ValueError) as error:
        raise DataLoss(f"layer {diff} cannot be written again: {error}; pull or load the image again") from error
    if size or f"sha256:{hasher.hexdigest()}" != diff:
        raise DataLoss(f"layer {diff} has changed on disk, its files now make sha256:{hasher.hexdigest()}; pull or load the image again")


def _open_data(directory: str) -> int:
    """The contents of a layer's stubs; -1 where it has none."""
    try:
        return os.open(f"{directory}/data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


class _Reading:
    """Follows a recipe once."""

    def __init__(self, frames: IO[bytes], root_fd: int, left: Left, data_fd: int) -> None:
        self._frames = frames
        self._root_fd = root_fd
        self._left = left
        self._data_fd = data_fd
        self._contents = 0

    def tar(self) -> Iterator[bytes]:
        pending: list[bytes] = []  # small pieces go out together
        pending_bytes = 0
        for data in self._pieces():
            pending.append(data)
            pending_bytes += len(data)
            if pending_bytes >= _COPY_BYTES:
                yield b"".join(pending)
                pending, pending_bytes = [], 0
        if pending:
            yield b"".join(pending)

    def _pieces(self) -> Iterator[bytes]:
        while head := self._frames.read(_RAW.size):
            raw_bytes, pieces = _RAW.unpack(head)
            while raw_bytes:
                data = self._frames.read(min(raw_bytes, _COPY_BYTES))
                if not data:
                    raise ValueError("its recipe is cut off")
                raw_bytes -= len(data)
                yield data
            if pieces:
                yield from self._content(pieces)

    def _content(self, count: int) -> Iterator[bytes]:
        if count > _MOST_PIECES:
            raise ValueError(f"its recipe has a file of {count} pieces")
        (length,) = _PATH.unpack(self._frames.read(_PATH.size))
        path = os.fsdecode(self._frames.read(length))
        pieces = [_PIECE.unpack(self._frames.read(_PIECE.size)) for _ in range(count)]
        self._contents += 1
        fd = self._open(path)
        if self._data_fd >= 0:
            fd = open_content(fd, self._data_fd)
        try:
            for offset, left in pieces:
                while left:
                    data = os.pread(fd, min(left, _COPY_BYTES), offset)
                    if not data:
                        raise ValueError(f"{path!r} is shorter than it was")
                    yield data
                    offset += len(data)
                    left -= len(data)
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        found = self._left.find(path, self._contents) if self._left.paths else None
        if found is None:
            return libc.openat2(self._root_fd, path, os.O_RDONLY | os.O_NOFOLLOW, _BENEATH)
        left_fd = os.open(found[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return libc.openat2(left_fd, found[1], os.O_RDONLY | os.O_NOFOLLOW, _BENEATH)
        finally:
            os.close(left_fd)


class ChunkReader:
    """An iterator of bytes as a stream to read from."""

    def __init__(self, chunks: Iterator[bytes], close: Callable[[], None] = lambda: None) -> None:
        self._chunks = chunks
        self._close = close
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size:
            if not self._rest:
                data = next(self._chunks, b"")
                if not data:
                    break
                self._rest = memoryview(data)
            part = self._rest if size < 0 else self._rest[:size]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._rest = memoryview(b"")
        closing = getattr(self._chunks, "close", None)
        if closing:
            closing()
        self._close()
