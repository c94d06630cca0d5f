"""Compresses layers into files, for archives and registries: a blob's digest and size must be known before it is sent."""

import hashlib
import importlib
import threading
import zlib
from typing import IO, Any

from berth.errors import Cancelled, NotImplementedHere
from berth.store.compression import Readable

_COPY_BYTES = 1 << 20
_GZIP = 31  # zlib's word for a gzip stream; its head carries neither name nor time
_USUAL_LEVEL = 6


def pack(
    stream: Readable, out: IO[bytes], kind: str, *, level: int | None = None, portable: bool = False, stop: threading.Event | None = None
) -> tuple[str, int]:
    """Writes `stream`, compressed -> digest and size. kind: gzip, zstd or uncompressed.

    portable: the same bytes on every machine: isal, ten times as fast, looks for matches in other ways on other processors. Cancelled once
    `stop` is set.
    """
    compressor = _compressor(kind, level, portable=portable)
    hasher, size = hashlib.sha256(), 0
    while True:
        if stop and stop.is_set():
            raise Cancelled("nobody wants the blob any more")
        data = stream.read(_COPY_BYTES)
        packed = compressor.compress(data) if data else compressor.flush()
        hasher.update(packed)
        size += len(packed)
        out.write(packed)
        if not data:
            return f"sha256:{hasher.hexdigest()}", size


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(kind: str, level: int | None, *, portable: bool) -> Any:
    if kind == "uncompressed":
        return _Plain()
    if kind == "zstd":
        return _zstd().ZstdCompressor(level=3 if level is None else level)
    if portable or level is not None:
        return zlib.compressobj(_USUAL_LEVEL if level is None else level, wbits=_GZIP)
    try:
        return importlib.import_module("isal.isal_zlib").compressobj(1, wbits=_GZIP)
    except ImportError:
        return zlib.compressobj(_USUAL_LEVEL, wbits=_GZIP)


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise NotImplementedHere("layers cannot be compressed with zstd: install the Python package backports.zstd")
