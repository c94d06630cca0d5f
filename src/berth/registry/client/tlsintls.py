"""TLS to a registry within TLS to its proxy: Python's wrapped sockets cannot be wrapped once more.

As much of a socket as `http.client` and `wire` use. It belongs to one thread at a time, as a connection does.
"""

import io
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

_PIECE_BYTES = 64 << 10
_Result = TypeVar("_Result")


class TlsInTls:
    """outer: connected and greeted, ours from now on. The handshake is made here; ssl.SSLError or OSError where it fails."""

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        self.outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._readers = 0
        self._closed = False
        self._work(self._inner.do_handshake)

    def _work(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        while True:
            try:
                result, wants_more = function(*arguments), False
            except ssl.SSLWantReadError:
                wants_more = True
            finally:
                if data := self._outgoing.read():
                    self.outer.sendall(data)
            if not wants_more:
                return result
            if data := self.outer.recv(_PIECE_BYTES):
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._work(self._inner.write, view[:_PIECE_BYTES]) :]

    def recv_into(self, view: memoryview) -> int:
        try:
            data = self._work(self._inner.read, len(view))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # the length of what came tells whether that was its end
            return 0
        view[: len(data)] = data
        return len(data)

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:
        """For reading. The connection is open until its readers are closed, too."""
        assert mode == "rb"
        self._readers += 1
        return io.BufferedReader(_Raw(self))

    def release(self) -> None:
        """A reader is closed."""
        self._readers -= 1
        self._close_if_done()

    def close(self) -> None:
        self._closed = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closed and not self._readers:
            self.outer.close()

    def fileno(self) -> int:
        return self.outer.fileno()

    def settimeout(self, timeout_s: float | None) -> None:
        self.outer.settimeout(timeout_s)

    def gettimeout(self) -> float | None:
        return self.outer.gettimeout()

    def setsockopt(self, *arguments: Any) -> None:
        self.outer.setsockopt(*arguments)


class _Raw(io.RawIOBase):
    def __init__(self, owner: TlsInTls) -> None:
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._owner.recv_into(memoryview(buffer).cast("B"))

    def close(self) -> None:
        if not self.closed:
            self._owner.release()
        super().close()


def shut_down(sock: "socket.socket | TlsInTls") -> None:
    """Whoever waits for it, in another thread, sees the end."""
    plain = sock.outer if isinstance(sock, TlsInTls) else sock
    socket.socket.shutdown(plain, socket.SHUT_RDWR)
