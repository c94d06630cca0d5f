"""Streams of bytes, compressed or not, told apart by their first bytes. One module picks the codec.

isal gunzips at twice zlib's speed; where it is missing the standard library serves.
"""

import bz2
import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

from berth.errors import DataLoss, InvalidParameter, NotImplementedHere

try:
    gzip = importlib.import_module("isal.igzip")
except ImportError:  # a bare Python
    gzip = importlib.import_module("gzip")

_MAGIC_BYTES = 6
_BUFFER_BYTES = 1 << 20
_BOMB_FROM_BYTES, _BOMB_TIMES = 4 << 30, 500
_XZ_MEMORY_BYTES = 80 << 20  # `xz -9` needs 65 MiB


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    try:
        zstd = importlib.import_module("backports.zstd")
    except ImportError:
        raise NotImplementedHere("the archive is zstd-compressed; install the Python package backports.zstd") from None
    stream: IO[bytes] = zstd.open(file, "rb")
    return stream


class _XzReader(io.RawIOBase):
    """As lzma.open, but with a bound on the memory that an archive may ask for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = self._new()
        self._ended = False

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while view and not self._ended:
            data = b""
            if self._decoder.eof:
                data = self._next_stream()
            elif self._decoder.needs_input and not (data := self._file.read(_BUFFER_BYTES)):
                raise EOFError("compressed file ended before the end-of-stream marker was reached")
            if not self._ended and (out := self._decoder.decompress(data, len(view))):
                view[: len(out)] = out
                return len(out)
        return 0

    def _next_stream(self) -> bytes:
        """One more may follow, behind zeros; its first bytes."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest:
            more = self._file.read(_BUFFER_BYTES)
            if not more:
                self._ended = True
                return b""
            rest = more.lstrip(b"\0")
        self._decoder = self._new()
        return rest


def _open_xz(file: IO[bytes]) -> IO[bytes]:
    stream: IO[bytes] = io.BufferedReader(_XzReader(file), _BUFFER_BYTES)
    return stream


_FORMATS: list[tuple[bytes, Callable[[IO[bytes]], IO[bytes]]]] = [
    (b"\x1f\x8b", lambda file: gzip.open(file, "rb")),
    (b"\x28\xb5\x2f\xfd", _open_zstd),
    (b"\xfd7zXZ\x00", _open_xz),
    (b"BZh", lambda file: bz2.open(file, "rb")),
]


class Readable(Protocol):
    """What a stream must at least have."""

    def read(self, size: int, /) -> bytes: ...


class Closable(Readable, Protocol):
    """A stream with an owner."""

    def close(self) -> None: ...


class ExactReader:
    """Reads exactly as many bytes as asked for; everything else about an archive builds on that.

    open_end: an archive may end where its last file does, without padding and blocks of zeros, as those do that Docker's
    client sends with `build -f -`; Go's reader takes them.
    """

    def __init__(self, file: Readable, observer: Callable[[bytes], object] | None = None, *, open_end: bool = False) -> None:
        self._file = file
        self._observer = observer
        self._open_end = open_end

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes; b'' at the end. DataLoss if the compressed stream is broken."""
        try:
            data = self._file.read(size)
        except (EOFError, OSError, lzma.LZMAError, ValueError) as error:
            raise DataLoss(f"the archive is cut off or damaged: {error}") from error
        except Exception as error:  # isal and zstd have error types of their own
            if type(error).__module__.partition(".")[0] in ("isal", "backports", "zlib", "builtins", "compression"):
                raise DataLoss(f"the archive is cut off or damaged: {error}") from error
            raise
        if self._observer and data:
            self._observer(data)
        return data

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes, or DataLoss."""
        parts = []
        left = size
        while left:
            data = self.read_some(min(left, _BUFFER_BYTES))
            if not data:
                raise DataLoss(f"the archive ends {left} bytes too early")
            parts.append(data)
            left -= len(data)
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def read_or_end(self, size: int) -> bytes:
        """`size` bytes, or b'' where nothing more comes and that may be."""
        if not self._open_end:
            return self.read_exactly(size)
        first = self.read_some(size)
        return first if not first or len(first) == size else first + self.read_exactly(size - len(first))


class _Peeked:
    """A stream with some bytes put back in front."""

    def __init__(self, head: bytes, file: Readable) -> None:
        self._head = head
        self._file = file
        self.count = 0  # bytes that were read

    def readinto(self, buffer: memoryview | bytearray) -> int:
        """isal's gzip asks with this."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            data = self._file.read(size)
        elif size < 0:
            data, self._head = self._head + self._file.read(-1), b""
        else:
            data, self._head = self._head[:size], self._head[size:]
        self.count += len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    closed = False

    def close(self) -> None:
        pass


def prepended(head: bytes, file: Readable) -> IO[bytes]:
    """`file` with bytes that were read from it put back in front."""
    stream: IO[bytes] = _Peeked(head, file)  # type: ignore[assignment]
    return stream


class _Expanding:
    """What a compressed stream expands to, which is not without bound: gzip makes a thousandth of zeros, zstd a thirty thousandth."""

    def __init__(self, stream: IO[bytes], packed: _Peeked) -> None:
        self._stream = stream
        self._packed = packed
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._count += len(data)
        if self._count > _BOMB_FROM_BYTES and self._count > _BOMB_TIMES * self._packed.count:
            raise InvalidParameter(
                f"the archive expands from {self._packed.count} bytes to more than {self._count}, {_BOMB_TIMES} times as much: "
                "taken for a decompression bomb and refused"
            )
        return data

    def close(self) -> None:
        self._stream.close()


def is_compressed(head: bytes) -> bool:
    """Whether a stream that starts so is one that `open_stream` decompresses."""
    return any(head.startswith(magic) for magic, _ in _FORMATS)


def open_stream(file: Readable) -> IO[bytes]:
    """The decompressed stream of `file`, whatever it is compressed with; it is not closed. InvalidParameter where it is a bomb."""
    head = b""
    while len(head) < _MAGIC_BYTES:
        data = file.read(_MAGIC_BYTES - len(head))
        if not data:
            break
        head += data
    packed = _Peeked(head, file)
    for magic, opener in _FORMATS:
        if head.startswith(magic):
            return cast("IO[bytes]", _Expanding(opener(cast("IO[bytes]", packed)), packed))
    return cast("IO[bytes]", packed)


class GzipReader:
    """What a stream is when compressed, read as a stream; the same bytes each time. It owns the stream."""

    def __init__(self, stream: Closable) -> None:
        self._stream = stream
        self._compressor = _compressor()
        self._rest = memoryview(b"")
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        parts = []
        while size:
            if not self._rest and not self._more():
                break
            part = self._rest if size < 0 else self._rest[:size]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def _more(self) -> bool:
        while not self._rest and not self._ended:
            data = self._stream.read(_BUFFER_BYTES)
            self._ended = not data
            self._rest = memoryview(self._compressor.compress(data) if data else self._compressor.flush())
        return bool(self._rest)

    def close(self) -> None:
        self._stream.close()


def _compressor() -> Any:
    """gzip with a head that carries no time. isal's level 1 is ten times zlib's speed at four fifths of its gain."""
    try:
        return importlib.import_module("isal.isal_zlib").compressobj(1, wbits=31)
    except ImportError:
        return zlib.compressobj(6, wbits=31)
