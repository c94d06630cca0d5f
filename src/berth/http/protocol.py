"""HTTP/1.1 on a transport: requests in, responses and streams out, and taking the connection over.

Parsing is httptools' (llhttp); everything after the head of an upgrade request, and the hijacked
stream itself, is ours. One `Exchange` at a time: pipelined requests wait, and reading pauses while many do.

Nothing a client sends or leaves out may hold the engine: heads and JSON bodies have a size and a time; a
client that has gone, even with its sending side closed long before, is noticed (`_watch_peer`).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable

import httptools

from berth.errors import InvalidParameter
from berth.http.body import Body, Disconnected
from berth.http.exchange import Exchange, Handler, Hijacked
from berth.http.tls import TlsTransport

log = logging.getLogger("berth.api")

_MAX_HEADER_BYTES = 64 * 1024
_MAX_PIPELINED = 16
_MAX_CONNECTIONS = 8192
_HEAD_TIMEOUT_S = 30.0
_LINGER_S = 2.0
_PEER_CHECK_S = 2.0
_PIECE_BYTES = 1 << 20
_TAKEN_TIMEOUT_S = 30.0


class HttpProtocol(asyncio.Protocol):
    """One connection. `handler` is called for each request and must respond."""

    def __init__(self, handler: Handler, common_headers: dict[str, str], connections: set["HttpProtocol"]) -> None:
        self._handler = handler
        self.common_headers = common_headers
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None  # whose body is coming in
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None  # whose handler runs
        self._raw: Body | None = None
        self._hijacked = False
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost = asyncio.Event()
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._in_head = False
        self._upgrade = False  # what the head of the last request said; a trailer may say otherwise
        self._fault: tuple[int, str] | None = None
        self._deaf = False  # what still comes in is thrown away
        self._ended = False  # the client has finished sending
        self._pausers: set[object] = set()
        self._timer: asyncio.TimerHandle | None = None

    # -- transport's side -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._connections.add(self)
        if len(self._connections) > _MAX_CONNECTIONS:
            victim = next((other for other in self._connections if other.idle and other is not self), self)
            log.warning("more than %d connections: one that was idle is closed", _MAX_CONNECTIONS)
            victim.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.lost.set()
        self._writable.set()
        self._stop_timer()
        self._end_bodies()
        # What only tells something is told to nobody; what changes something is done to its end.
        running = self._current
        if running and self._task and not self._hijacked and (running.streaming or running.method in ("GET", "HEAD")):
            self._task.cancel()

    def eof_received(self) -> bool:
        self._ended = True
        self._end_bodies()
        if self._deaf or (self._raw is None and self._current is None):
            return False
        self._watch_peer()
        return True  # keep our side open: the client may only have finished sending

    def _end_bodies(self) -> None:
        if self._raw:
            self._raw.end()
        elif self._exchange:
            self._exchange.body.end(Disconnected())

    def _watch_peer(self) -> None:
        """asyncio looks no more at a socket whose peer has finished sending, or that is paused: whether it is gone is ours to see."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        if self.lost.is_set() or sock is None or sock.fileno() < 0 or not (self._ended or self._pausers):
            return
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLHUP | select.POLLERR)
        if poll.poll(0):
            self._transport.abort()
        else:
            self._start_timer(_PEER_CHECK_S, self._watch_peer)

    def data_received(self, data: bytes) -> None:
        if self._raw:
            self._raw.feed(data)
            return
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # llhttp stops after the head: what follows is the body of the request, then the raw stream.
            self._after_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._reject(*(self._fault or (400, f"malformed request: {error}")))
            return
        if self._in_head:
            self._header_bytes += len(data)  # llhttp gives us a header only once it is whole
            if self._header_bytes > _MAX_HEADER_BYTES:
                self._reject(431, f"the request's head is larger than {_MAX_HEADER_BYTES} bytes")
            elif self._timer is None:
                self._start_timer(_HEAD_TIMEOUT_S, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            self._reject(408, f"the request's head did not come within {_HEAD_TIMEOUT_S:.0f} s")

    def _start_timer(self, delay_s: float, work: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(delay_s, work)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- parser's side ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._headers, self._header_bytes, self._in_head = b"", {}, 0, True

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(": \r\n"))
        if self._in_head:  # else a trailer: nobody asked for one, and it must not change what was decided
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            self._fault = (431, f"the request's head is larger than {_MAX_HEADER_BYTES} bytes")
            raise InvalidParameter(self._fault[1])

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._header_bytes = 0
        if not self._ended:
            self._stop_timer()
        parser, upgrade = self._parser, self._parser.should_upgrade()
        try:
            exchange = Exchange(
                self, parser.get_method().decode("ascii"), self._url, self._headers, old=parser.get_http_version() == "1.0"
            )
        except httptools.HttpParserInvalidURLError:
            self._fault = (400, f"malformed request: {self._url[:200]!r} is not a URL")
            raise InvalidParameter(self._fault[1]) from None
        if upgrade and "transfer-encoding" in self._headers:
            self._fault = (400, "malformed request: an upgrade with Transfer-Encoding; send Content-Length")
            raise InvalidParameter(self._fault[1])
        exchange.keep_alive = parser.should_keep_alive() and not upgrade
        self._exchange, self._upgrade = exchange, upgrade
        self._enqueue(exchange)

    def _enqueue(self, exchange: Exchange) -> None:
        self._waiting.append(exchange)
        if len(self._waiting) > _MAX_PIPELINED:
            self.pause_reading(self._waiting)
        self._next()

    def on_body(self, data: bytes) -> None:
        if self._exchange:
            self._exchange.body.feed(data)

    def on_message_complete(self) -> None:
        if self._exchange and not self._upgrade:
            self._exchange.body.end()
            self._exchange = None

    def _after_upgrade(self, rest: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._reject(400, "malformed request: an upgrade in a trailer")
            return
        length = int(exchange.headers.get("content-length") or 0)
        self._raw = _UpgradeBody(self, exchange, length)
        self._raw.feed(rest)

    def _reject(self, status: int, message: str) -> None:
        """The end of understanding: what came before is answered, then this, then nothing more."""
        self._deaf = True
        self._in_head = False
        if self._exchange:
            self._exchange.body.end(InvalidParameter(message))
            self._exchange.keep_alive = False
            return
        exchange = Exchange(self, "GET", b"/", {})
        exchange.body.end()
        exchange.fault, exchange.keep_alive = (status, message), False
        self._enqueue(exchange)

    # -- handler's side -----------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Between requests."""
        return self._current is None and self._raw is None

    def _next(self) -> None:
        if self._current or self.lost.is_set():
            return
        if self._waiting:
            self._current = self._waiting.popleft()
            if not self._waiting:
                self.resume_reading(self._waiting)
            # The one place a task is made by hand: its owner is the connection, which cancels it.
            self._task = asyncio.get_running_loop().create_task(self._run(self._current))
        elif self._ended and not self._hijacked:
            self.close()

    async def _run(self, exchange: Exchange) -> None:
        try:
            if exchange.fault:
                exchange.respond(exchange.fault[0], {"message": exchange.fault[1]})
            else:
                await self._handler(exchange)
            if not self._hijacked:
                await self._finish(exchange)
        except (Disconnected, asyncio.CancelledError):
            self.close()
        except Exception:
            log.exception("request %s %s failed", exchange.method, exchange.path)
            self.close()
        finally:
            self._current = None
            self._next()

    async def _finish(self, exchange: Exchange) -> None:
        """Waits until the answer is on its way, and brings the connection to where the next request starts."""
        await self.drain()
        if exchange.keep_alive and (exchange.body.complete or await exchange.body.discard()):
            return
        self._waiting.clear()
        if self._transport and self._transport.can_write_eof() and not (self._ended or (exchange.body.complete and not self._deaf)):
            # Closing over unread input would reset the connection and with it the answer.
            self._deaf = True
            self._raw = None
            self._pausers.clear()
            with contextlib.suppress(OSError):  # ENOTCONN: a client that has left already
                self._transport.write_eof()
            self._transport.resume_reading()
            self._start_timer(_LINGER_S, self.close)
        else:
            self.close()

    def take_over(self) -> Hijacked:
        """The connection as a raw stream; HTTP is over on it."""
        body = self._raw.raw if isinstance(self._raw, _UpgradeBody) else Body(self)
        if self._ended or self._transport is None or self._transport.is_closing():
            body.end()
        self._raw, self._hijacked = body, True
        return Hijacked(self, body)

    def write(self, data: bytes) -> None:
        if data and self._transport and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Waits while the client is behind. Disconnected once it is gone."""
        if self._transport is None or self._transport.is_closing():
            raise Disconnected
        if not self._writable.is_set():
            await self._writable.wait()
            if self._transport.is_closing():
                raise Disconnected

    async def taken(self) -> None:
        """Returns once the client has read all that was written, where the kernel tells: on unix sockets. Not for ever."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        if sock is None or sock.family != socket.AF_UNIX:
            return
        loop, delay_s = asyncio.get_running_loop(), 0.0
        deadline_s = loop.time() + _TAKEN_TIMEOUT_S
        while not self.lost.is_set() and sock.fileno() >= 0 and _unread_bytes(sock.fileno()) and loop.time() < deadline_s:
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s + 0.0005, 0.02)

    async def send_file(self, descriptor: int, offset: int, size: int) -> None:
        """Bytes of a file; the kernel copies them where the transport is a plain socket. Disconnected if the client or the file ends early."""
        await self.drain()
        assert self._transport is not None
        if isinstance(self._transport, TlsTransport):
            await self._send_pieces(descriptor, offset, size)
            return
        file = open(descriptor, "rb", buffering=0, closefd=False)
        try:
            sent = await asyncio.get_running_loop().sendfile(self._transport, file, offset, size, fallback=False)
        except OSError:
            sent = -1
        finally:
            file.close()
        if sent != size:
            self._transport.abort()
            raise Disconnected

    async def _send_pieces(self, descriptor: int, offset: int, size: int) -> None:
        while size:
            data = os.pread(descriptor, min(size, _PIECE_BYTES), offset)
            if not data:
                self.close()
                raise Disconnected
            self.write(data)
            await self.drain()
            offset, size = offset + len(data), size - len(data)

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def pause_reading(self, pauser: object) -> None:
        """pauser: who is behind; reading goes on when nobody is."""
        if self._transport and not self._transport.is_closing():
            if not self._pausers:
                self._transport.pause_reading()
                if self._raw:
                    self._start_timer(_PEER_CHECK_S, self._watch_peer)
            self._pausers.add(id(pauser))

    def resume_reading(self, pauser: object) -> None:
        if id(pauser) in self._pausers:
            self._pausers.discard(id(pauser))
            if not self._pausers and self._transport and not self._transport.is_closing():
                self._transport.resume_reading()


def _unread_bytes(descriptor: int) -> int:
    """What a unix socket's peer has not read yet."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])


class _UpgradeBody(Body):
    """After the head of an upgrade request: first its body (by Content-Length), then raw bytes."""

    def __init__(self, protocol: HttpProtocol, exchange: Exchange, length: int) -> None:
        super().__init__(protocol)
        self._exchange = exchange
        self._left = length
        self.raw = Body(protocol)
        if not length:
            exchange.body.end()

    def feed(self, data: bytes) -> None:
        if self._left:
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            self._exchange.body.feed(part)
            if not self._left:
                self._exchange.body.end()
        if data:
            self.raw.feed(data)

    def end(self, error: Exception | None = None) -> None:
        self._exchange.body.end(Disconnected() if self._left else None)
        self.raw.end()
