"""A blob that arrives: written in pieces by several, in any order of chunks; read in order meanwhile; gone on with after a cut.

Two files hold it: the bytes, and beside them how much of each chunk is there. The second is mapped, so that a killed
engine has noted every byte it wrote without a system call. After a loss of power the digest tells.
"""

import fcntl
import mmap
import os
import struct
import threading
from contextlib import suppress
from typing import Protocol

from berth.errors import Cancelled, Conflict, DataLoss
from berth.oci import digest as digests

CHUNK_BYTES = 8 << 20
_MOST_CHUNKS = 1 << 14  # a size that a registry made up must not cost memory
_HEADER = struct.Struct("<8sQQ")  # magic, size of the blob, size of a chunk
_MAGIC = b"berthpt1"
_COUNT = struct.Struct("<Q")


class Partial:
    """directory: where the files are, the caller's to make; digest: names them; size_bytes: of the whole blob.

    Any thread may write; a chunk has one writer at a time. Raises Conflict if another process or object has it open.
    """

    def __init__(self, directory: str, digest: str, size_bytes: int, *, chunk_bytes: int = 0) -> None:
        if not digests.is_known(digest):
            raise DataLoss(f"{digest!r} is not a sha256 or sha512 digest")
        self.digest = digest
        self.size_bytes = size_bytes
        self.path = f"{directory}/{digests.hexadecimal(digest)}"
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._map: mmap.mmap | None = None
        self._fd = self._open_locked()
        try:
            self._open_counts(chunk_bytes or max(CHUNK_BYTES, -(-size_bytes // _MOST_CHUNKS)))
        except BaseException:
            os.close(self._fd)
            raise
        self._first = 0  # chunks before it are whole
        self._arrived = 0
        self._advance()

    def _open_locked(self) -> int:
        """The file of the bytes, ours alone; whoever had it before may have renamed it between our open and our lock."""
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self.path, follow_symlinks=False), os.fstat(fd)):
                        return fd
            except BlockingIOError:
                os.close(fd)
                raise Conflict(f"blob {self.digest} is being fetched already") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _open_counts(self, chunk_bytes: int) -> None:
        chunks = max(1, -(-self.size_bytes // chunk_bytes))
        length = _HEADER.size + chunks * _COUNT.size
        head = _HEADER.pack(_MAGIC, self.size_bytes, chunk_bytes)
        fd = os.open(f"{self.path}.counts", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size != length or os.pread(fd, _HEADER.size, 0) != head:
                os.ftruncate(self._fd, 0)
                os.ftruncate(fd, 0)
                os.ftruncate(fd, length)
                os.pwrite(fd, head, 0)
            self._map = mmap.mmap(fd, length)
        finally:
            os.close(fd)
        self._chunk_bytes, self._chunks = chunk_bytes, chunks
        have = os.fstat(self._fd).st_size
        for index in range(chunks):  # what a loss of power or a meddler left must not be taken for bytes
            start, end = self._bounds(index)
            if self._count(index) > max(0, min(end, have) - start):
                self._set_count(index, 0)

    def _bounds(self, index: int) -> tuple[int, int]:
        start = index * self._chunk_bytes
        return start, min(start + self._chunk_bytes, self.size_bytes)

    def _count(self, index: int) -> int:
        assert self._map is not None
        return int(_COUNT.unpack_from(self._map, _HEADER.size + index * _COUNT.size)[0])

    def _set_count(self, index: int, count: int) -> None:
        assert self._map is not None
        _COUNT.pack_into(self._map, _HEADER.size + index * _COUNT.size, count)

    def _advance(self) -> None:
        while self._first < self._chunks:
            start, end = self._bounds(self._first)
            self._arrived = start + self._count(self._first)
            if self._arrived < end:
                return
            self._first += 1
        self._arrived = self.size_bytes

    # -- writing --------------------------------------------------------------------------------------

    def missing(self) -> list[tuple[int, int]]:
        """(start, end) of what has to come, in order; each within one chunk."""
        spans = []
        with self._changed:
            for index in range(self._first, self._chunks):
                start, end = self._bounds(index)
                start += self._count(index)
                if start < end:
                    spans.append((start, end))
        return spans

    def missing_from(self, start: int, end: int) -> int:
        """The first byte of [start, end) that has to come, `end` if there is none."""
        with self._changed:
            while start < end:
                first, last = self._bounds(start // self._chunk_bytes)
                reached = first + self._count(start // self._chunk_bytes)
                if reached < last:
                    return min(max(start, reached), end)
                start = last
        return end

    @property
    def present_bytes(self) -> int:
        """How much is here, in whatever place."""
        with self._changed:
            return sum(self._count(index) for index in range(self._chunks))

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Bytes at `offset`, which must be where its chunk goes on; may run over into the next chunks. Cancelled after `fail`."""
        if self._error:
            raise Cancelled(f"blob {self.digest} is no longer wanted")
        view = memoryview(data)
        while view:
            index = offset // self._chunk_bytes
            start, end = self._bounds(index)
            if offset >= self.size_bytes or offset != start + self._count(index):
                raise DataLoss(f"blob {self.digest}: bytes for offset {offset}, where none are missing")
            part = view[: end - offset]
            written = os.pwrite(self._fd, part, offset)
            with self._changed:
                self._set_count(index, offset + written - start)
                if index == self._first:
                    self._advance()
                    self._changed.notify_all()
            offset += written
            view = view[written:]

    def fail(self, error: BaseException) -> None:
        """No more will come; readers get `error` once they have read what did."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    # -- reading --------------------------------------------------------------------------------------

    @property
    def arrived_bytes(self) -> int:
        """How far the bytes reach without a hole, now."""
        with self._changed:
            return self._arrived

    def wait(self, offset: int) -> int:
        """How far the bytes reach without a hole, once that is beyond `offset` or the end; what `fail` was told otherwise."""
        with self._changed:
            while self._arrived <= offset < self.size_bytes:
                if self._error:
                    raise self._error
                self._changed.wait()
            return self._arrived

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`, waiting for the first of them; b'' at the blob's end."""
        return os.pread(self._fd, min(size, self.wait(offset) - offset), offset)

    # -- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leaves the files for the next attempt. Whoever still waits for bytes gets an error."""
        with self._changed:
            self._error = self._error or Cancelled(f"blob {self.digest} is no longer fetched")
            self._changed.notify_all()
            if self._map is not None:
                self._map.close()
                self._map = None
                os.close(self._fd)

    def discard(self) -> None:
        """Removes both files: what came was wrong, or is no longer needed."""
        self._forget_counts()
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.close()

    def take(self, target: str) -> None:
        """Makes the whole blob, whose digest the caller has compared, visible as `target`; closes."""
        os.fsync(self._fd)
        self._forget_counts()  # first, while the name and so the lock are ours: afterwards both files may be another's
        os.rename(self.path, target)
        self.close()

    def _forget_counts(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}.counts")


class ArrivingReader:
    """A stream over a `Partial` from its start; `observer` sees each byte once, in order."""

    def __init__(self, partial: Partial, observer: "Observer | None" = None) -> None:
        self._partial = partial
        self._observer = observer
        self.offset = 0

    def read(self, size: int = -1) -> bytes:
        data = self._partial.read(self.offset, 1 << 20 if size < 0 else min(size, 1 << 20))
        self.offset += len(data)
        if self._observer and data:
            self._observer.update(data)
        return data

    def readinto(self, buffer: memoryview | bytearray) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    closed = False

    def close(self) -> None:
        """The partial blob stays open; it has another owner."""


class Observer(Protocol):
    """What hashlib's objects are."""

    def update(self, data: bytes, /) -> object: ...
