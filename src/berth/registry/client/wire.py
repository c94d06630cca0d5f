"""Reading answers off a connection with bounds that http.client lacks: of time for a head, of speed for a body, of framing.

http.client's own buffer fills all it was given before it returns, and forgets what it has when the connection then
breaks; here every byte that came is handed on before an error is.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from berth.registry.client.tlsintls import TlsInTls

_AHEAD_BYTES = 64 << 10
_MOST_FRAMING_BYTES = 128 << 10
_HEAD_TIMEOUTS = 2  # a head may take so many times as long as the wait for one byte of it


class TooSlow(OSError):
    """Bytes come, but so few that it would never end."""


class Reader:
    """What http.client wants of a file. raw: the socket's, unbuffered; `sock` has the longest wait for one byte as its timeout."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._ahead = bytearray()
        self._at = self._end = 0  # of what is in `_ahead`
        self._patience_s = sock.gettimeout() or 0.0
        self._deadline_s = time.monotonic() + self._patience_s * _HEAD_TIMEOUTS if self._patience_s else float("inf")
        self._least_bytes_s = 0
        self._window_s = self._patience_s * 2 / 3
        self._waited_s = 0.0
        self._window_bytes = 0
        self._framing_bytes = 0
        self._in_head = True
        self._lines = 0

    def body(self, least_bytes_s: int) -> None:
        """The head has been read; from now on it is speed that counts."""
        self._least_bytes_s = least_bytes_s
        self._in_head = False
        if self._deadline_s != float("inf"):
            self._deadline_s = float("inf")
            self._sock.settimeout(self._patience_s)

    def content(self, count: int) -> None:
        """So much of the body was handed on, which makes up for as much framing."""
        self._framing_bytes = max(0, self._framing_bytes - count)

    @property
    def has_more(self) -> bool:
        """Whether bytes came that nobody has read: after an answer's end nobody has asked for them."""
        return self._at < self._end

    def _receive(self, view: memoryview) -> int:
        start_s = time.monotonic()
        if self._deadline_s != float("inf"):
            if start_s >= self._deadline_s:
                raise TimeoutError("the answer's head does not come to an end")
            self._sock.settimeout(min(self._patience_s, self._deadline_s - start_s))
        elif self._patience_s and self._waited_s >= self._window_s:
            speed = self._window_bytes / self._waited_s
            self._waited_s, self._window_bytes = 0.0, 0
            if speed < self._least_bytes_s:
                raise TooSlow(f"only {speed:.0f} bytes come in a second")
        count = self._raw.readinto(view) or 0
        self._waited_s += time.monotonic() - start_s
        self._window_bytes += count
        return count

    def receive(self, view: memoryview) -> int:
        """What is here, or what the next read brings; 0 at the end."""
        if self._at == self._end:
            return self._receive(view)
        count = min(len(view), self._end - self._at)
        view[:count] = self._ahead[self._at : self._at + count]
        self._at += count
        return count

    def read1(self, size: int) -> bytes:
        if size < 0:
            raise http.client.HTTPException("a chunk of negative size")
        self._fill()
        data = bytes(self._ahead[self._at : min(self._end, self._at + size)])
        self._at += len(data)
        return data

    def read(self, size: int) -> bytes:
        """Framing only, few bytes: `size` of them, or fewer at the end."""
        parts = []
        while size > 0 and (data := self.read1(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def readline(self, limit: int) -> bytes:
        """A line with its end, or what there is up to `limit` or the end."""
        parts: list[bytes] = []
        while limit > 0 and self._fill():
            stop = min(self._end, self._at + limit)
            stop = self._ahead.find(b"\n", self._at, stop) + 1 or stop
            parts.append(bytes(self._ahead[self._at : stop]))
            self._at = stop
            limit -= len(parts[-1])
            self._framing_bytes += len(parts[-1])
            if parts[-1].endswith(b"\n"):
                self._lines += 1
                break
        else:
            if limit > 0 and self._in_head and self._lines:  # http.client would take it for the head's end
                raise http.client.IncompleteRead(b"")
        if self._framing_bytes > _MOST_FRAMING_BYTES:
            raise http.client.HTTPException("more of headers and chunks' headers than of content")
        return b"".join(parts)

    def _fill(self) -> bool:
        """Whether there are bytes ahead, once some came or the end did."""
        if self._at == self._end:
            if not self._ahead:
                self._ahead = bytearray(_AHEAD_BYTES)
            self._at, self._end = 0, self._receive(memoryview(self._ahead))
        return self._at < self._end

    def flush(self) -> None:
        """Nothing is written here."""

    def close(self) -> None:
        self._raw.close()


class Response(http.client.HTTPResponse):
    """One whose body is read by `receive`."""

    def __init__(self, sock: socket.socket, *arguments: Any, **keywords: Any) -> None:
        super().__init__(sock, *arguments, **keywords)
        self.reader = Reader(self.fp.detach(), sock)
        self.fp: Any = self.reader

    def receive(self, view: memoryview) -> int:
        """Bytes of the body as soon as there are some, 0 at its end, which may be too early: see `length`."""
        if self.fp is None:
            return 0
        if self.chunked:
            data = self.read1(min(len(view), _AHEAD_BYTES))
            view[: len(data)] = data
            count = len(data)
        elif self.length is None:
            count = self.reader.receive(view)
        else:
            count = self.reader.receive(view[: self.length]) if self.length else 0
            self.length -= count
        if count:
            self.reader.content(count)
        else:
            self.close()
        return count


Dial = Callable[..., socket.socket]  # (host, port), timeout, source address, as socket.create_connection


class PlainConnection(http.client.HTTPConnection):
    response_class = Response

    def __init__(self, host: str, port: int, *, timeout: float, dial: Dial) -> None:
        super().__init__(host, port, timeout=timeout)
        self._create_connection = dial


class TlsConnection(http.client.HTTPSConnection):
    """name: whom the certificate is for, where that is not `host`."""

    response_class = Response

    def __init__(self, host: str, port: int, *, timeout: float, dial: Dial, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._create_connection = dial
        self._inner_context = context
        self._name = name

    def connect(self) -> None:
        """As http.client does it, but that what was dialled may speak TLS already."""
        http.client.HTTPConnection.connect(self)
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock = TlsInTls(self.sock, self._inner_context, self._name)
        else:
            self.sock = self._inner_context.wrap_socket(self.sock, server_hostname=self._name)
