"""The bytes that come in with a request, or after HTTP has left the connection."""

import asyncio
import contextlib
from collections import deque
from typing import Protocol

from berth.errors import InvalidParameter, TooLarge

_PAUSE_BYTES = 1 << 20
_RESUME_BYTES = 1 << 18
_DISCARD_TIMEOUT_S = 5.0


class Disconnected(Exception):
    """The client is gone; not an error of anybody here."""


class Source(Protocol):
    """Where a body comes from: its connection."""

    def write(self, data: bytes) -> None: ...

    def pause_reading(self, pauser: object) -> None: ...

    def resume_reading(self, pauser: object) -> None: ...


class Body:
    """Incoming bytes, bounded: reading from the socket pauses while the handler is behind."""

    def __init__(self, protocol: Source, *, expects: bool = False) -> None:
        self._protocol = protocol
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._expects = expects  # the client waits for `100 Continue` before it sends
        self._ended = False
        self._error: Exception | None = None
        self._ready = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether nothing more has to come."""
        return self._ended

    def is_shorter_than(self, limit_bytes: int, headers: dict[str, str]) -> bool:
        """Whether the head said so: a length that is not told counts as long."""
        return "transfer-encoding" not in headers and int(headers.get("content-length") or 0) < limit_bytes

    def feed(self, data: bytes) -> None:
        if not data:
            return  # to the reader, an empty piece would be the end
        self._chunks.append(data)
        self._size += len(data)
        if self._size > _PAUSE_BYTES:
            self._protocol.pause_reading(self)
        self._ready.set()

    def end(self, error: Exception | None = None) -> None:
        """No more will come; `error` is what the reader gets once it has read what did come."""
        if not self._ended:
            self._ended, self._error = True, error
        self._ready.set()

    async def read(self) -> bytes:
        """The next bytes, b'' at the end. Disconnected if the client went away within a body, InvalidParameter for a malformed one."""
        if self._expects:
            self._expects = False
            self._protocol.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._chunks:
            if self._error:
                raise self._error
            if self._ended:
                return b""
            self._ready.clear()
            await self._ready.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._size < _RESUME_BYTES:
            self._protocol.resume_reading(self)
        return data

    async def read_all(self, limit_bytes: int) -> bytes:
        parts, size = [], 0
        while data := await self.read():
            size += len(data)
            if size > limit_bytes:
                raise TooLarge(f"the request's body is larger than {limit_bytes} bytes")
            parts.append(data)
        return b"".join(parts)

    async def discard(self) -> bool:
        """Reads what nobody wanted; False if it is too much or does not come."""
        self._expects = False
        size = 0
        with contextlib.suppress(TimeoutError, InvalidParameter):
            async with asyncio.timeout(_DISCARD_TIMEOUT_S):
                while data := await self.read():
                    size += len(data)
                    if size > _PAUSE_BYTES:
                        return False
                return True
        return False
