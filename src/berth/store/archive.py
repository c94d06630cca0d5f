"""Reads the files of image archives, what `docker save` and OCI tools write; `archiveimages` says what images they are.

Nothing is written down to be read again: layers are unpacked while the archive goes by.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import partial
from typing import IO, TypeVar

from berth.errors import BerthError, DataLoss, InvalidParameter, NotImplementedHere
from berth.store.compression import ExactReader, is_compressed, open_stream, prepended
from berth.store.layers import LayerStore, Loose
from berth.store.tar import HARD_LINK, SYMLINK, read_entries, skip_padding

_MAX_JSON_BYTES = 8 << 20
_MAX_DOCUMENT_BYTES = 64 << 20
_MAX_MEMBERS = 100_000
_MAX_LINK_DEPTH = 8
_COPY_BYTES = 1 << 20
_BLOCK = 512
_LAYER_NAME = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.tar|/layer\.tar)?")
_Json = TypeVar("_Json", list, dict)

Progress = Callable[[str, int, int], None]  # what the layer is called, bytes of it that were read, bytes that it has


_MAGIC, _MAGIC_AT = b"ustar", 257  # of a tar's header; a layer may end where its last file does


class Member:
    """A file of the archive: a small document, or a layer unpacked as it went by, or neither. digest: of its bytes."""

    __slots__ = ("_error", "_loose", "data", "digest", "size_bytes")

    def __init__(self, size_bytes: int, digest: str, *, data: bytes | None = None, loose: Loose | None = None, error: BerthError | None = None) -> None:
        self.size_bytes = size_bytes
        self.digest = digest
        self.data = data
        self._loose = loose
        self._error = error

    def layer(self) -> Loose:
        """What an image means that has it for a layer. Raises what went wrong with it."""
        if self._error:
            raise self._error
        if self._loose is None:
            raise DataLoss(f"the archive has {self.digest} as a layer, which is no tar")
        return self._loose

    def drop(self, layers: LayerStore) -> None:
        if self._loose:
            layers.drop(self._loose)


class _Bounded:
    """One member's bytes as a stream, hashed unless somebody else does that."""

    def __init__(self, reader: ExactReader, size_bytes: int) -> None:
        self._reader = reader
        self._size_bytes = self._left = size_bytes
        self.hasher = hashlib.sha256()
        self.hashes = True
        self.progress: Callable[[int, int], None] | None = None

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = self._left
        data = self._reader.read_exactly(min(size, self._left, _COPY_BYTES)) if size and self._left else b""
        self._left -= len(data)
        if self.hashes:
            self.hasher.update(data)
        if self.progress:
            self.progress(self._size_bytes - self._left, self._size_bytes)
        return data

    def drain(self) -> None:
        while self.read(_COPY_BYTES):
            pass


class Archive:
    """An archive being read. Members are in any order and name each other, so what may be a layer is unpacked at once,
    under no name; `close` removes what no image took."""

    def __init__(self, layers: LayerStore, progress: Progress | None = None) -> None:
        self._layers = layers
        self._progress = progress
        self._members: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._document_bytes = 0
        self._layer_files = 0

    def read(self, stream: IO[bytes]) -> None:
        """Every member of the (possibly compressed) archive."""
        reader = ExactReader(open_stream(stream))
        for entry in read_entries(reader):
            name = clean(entry.name)
            if entry.is_file:
                if name in self._members:
                    self._members[name].drop(self._layers)
                self._members[name] = self._read_member(reader, name, entry.size_bytes)
                skip_padding(reader, entry.size_bytes)
            elif entry.kind == SYMLINK:
                self._links[name] = clean(os.path.join(os.path.dirname(name), entry.link))
            elif entry.kind == HARD_LINK:
                self._links[name] = clean(entry.link)
            if len(self._members) + len(self._links) > _MAX_MEMBERS:
                raise InvalidParameter(f"the archive has more than {_MAX_MEMBERS} files: it is no image's")
        while reader.read_some(_COPY_BYTES):
            pass

    def _read_member(self, reader: ExactReader, name: str, size: int) -> Member:
        bounded = _Bounded(reader, size)
        head = bounded.read(min(size, _BLOCK))
        stream = prepended(head, bounded)
        is_small = size < 2 * _BLOCK and not is_compressed(head) and head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC
        if head[:1] in (b"{", b"[", b"") or is_small:
            return self._read_document(stream, bounded, size)
        if self._progress:
            self._layer_files += 1
            bounded.progress = partial(self._progress, layer_name(name) or f"layer {self._layer_files}")
        try:
            loose = self._unpack(head, stream, bounded)
        except (DataLoss, InvalidParameter, NotImplementedHere) as error:
            bounded.drain()
            return Member(size, _hex(bounded), error=error)
        bounded.drain()
        return Member(size, _hex(bounded), loose=loose)

    def _unpack(self, head: bytes, stream: IO[bytes], bounded: _Bounded) -> Loose:
        """What is not compressed has one digest, as a member and as a layer: it is taken once."""
        if is_compressed(head):
            return self._layers.unpack(open_stream(stream))
        bounded.hasher, bounded.hashes = hashlib.sha256(), False
        try:
            return self._layers.unpack(stream, bounded.hasher)
        finally:
            bounded.hashes = True

    def _read_document(self, stream: IO[bytes], bounded: _Bounded, size: int) -> Member:
        data = None
        if size <= _MAX_JSON_BYTES:
            self._document_bytes += size
            if self._document_bytes > _MAX_DOCUMENT_BYTES:
                raise InvalidParameter(f"the archive has more than {_MAX_DOCUMENT_BYTES} bytes of documents: it is no image's")
            data = b"".join(iter(lambda: stream.read(_COPY_BYTES), b""))
        bounded.drain()
        return Member(size, _hex(bounded), data=data)

    def close(self) -> None:
        """What was taken has another name by now and stays."""
        for member in self._members.values():
            member.drop(self._layers)

    def __contains__(self, name: str) -> bool:
        return name in self._members or name in self._links

    def member(self, name: str) -> Member:
        """The file of a name, or the one that a link of the name leads to. DataLoss where there is none."""
        for _ in range(_MAX_LINK_DEPTH):
            if name in self._members:
                return self._members[name]
            if name not in self._links:
                raise DataLoss(f"the archive names {name!r} and does not hold it")
            name = self._links[name]
        raise DataLoss(f"the archive's links from {name!r} lead in a circle")

    def read_bytes(self, name: str) -> bytes:
        """A small document."""
        member = self.member(name)
        if member.data is None:
            raise DataLoss(f"{name!r} in the archive has {member.size_bytes} bytes; it should be a small document")
        return member.data

    def json(self, name: str, kind: type[_Json]) -> _Json:
        return parse(self.read_bytes(name), name, kind)


def _hex(bounded: _Bounded) -> str:
    return f"sha256:{bounded.hasher.hexdigest()}"


def clean(name: str) -> str:
    """A path within the archive, in one spelling; InvalidParameter for one that leads out of it."""
    clean = os.path.normpath(name.lstrip("/"))
    if clean.startswith(".."):
        raise InvalidParameter(f"archive entry {name!r} leads outside of the archive: refused")
    return clean


def layer_name(name: str) -> str:
    """The digest that a layer's file is named by, as people are told while nobody knows its own; '' where it has another name."""
    found = _LAYER_NAME.fullmatch(name)
    return found[1] if found else ""


def parse(data: bytes, name: str, kind: type[_Json]) -> _Json:
    """DataLoss where it is not JSON of this kind."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"{name!r} in the archive is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise DataLoss(f"{name!r} in the archive is JSON, but not {'a list' if kind is list else 'an object'}")
    return value
