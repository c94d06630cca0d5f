"""HTTP/1.1 on a transport: requests in, responses and streams out, and taking the connection over.

Parsing is httptools' (llhttp); everything after the head of an upgrade request, and the hijacked
stream itself, is ours. One `Exchange` at a time: pipelined requests wait.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

import httptools

from berth.errors import InvalidParameter

log = logging.getLogger("berth.api")

_MAX_HEADER_BYTES = 64 * 1024
_MAX_JSON_BYTES = 8 << 20
_BODY_PAUSE_BYTES = 1 << 20
_BODY_RESUME_BYTES = 1 << 18

Handler = Callable[["Exchange"], Awaitable[None]]


class Disconnected(Exception):
    """The client is gone; not an error of anybody here."""


class HeadAnswered(Exception):
    """A HEAD request has its answer; the stream that GET would send stays unsent."""


class Body:
    """Incoming bytes, bounded: reading from the socket pauses while the handler is behind."""

    def __init__(self, protocol: "HttpProtocol") -> None:
        self._protocol = protocol
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._broken = False
        self._ready = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > _BODY_PAUSE_BYTES:
            self._protocol.pause_reading()
        self._ready.set()

    def end(self, *, broken: bool = False) -> None:
        self._ended = True
        self._broken = self._broken or broken
        self._ready.set()

    async def read(self) -> bytes:
        """The next bytes, b'' at the end. Disconnected if the client went away within a body."""
        while not self._chunks:
            if self._broken:
                raise Disconnected
            if self._ended:
                return b""
            self._ready.clear()
            await self._ready.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._size < _BODY_RESUME_BYTES:
            self._protocol.resume_reading()
        return data

    async def read_all(self, limit_bytes: int) -> bytes:
        parts, size = [], 0
        while data := await self.read():
            size += len(data)
            if size > limit_bytes:
                raise InvalidParameter(f"the request's body is larger than {limit_bytes} bytes")
            parts.append(data)
        return b"".join(parts)


class Exchange:
    """One request and its response."""

    def __init__(self, protocol: "HttpProtocol", method: str, target: bytes, headers: dict[str, str]) -> None:
        self._protocol = protocol
        url = httptools.parse_url(target)
        self.method = method
        self.path = unquote((url.path or b"/").decode("ascii", "replace"))
        self.query = {k: v[-1] for k, v in parse_qs((url.query or b"").decode("ascii", "replace"), keep_blank_values=True).items()}
        self.query_lists = parse_qs((url.query or b"").decode("ascii", "replace"), keep_blank_values=True)
        self.headers = headers
        self.body = Body(protocol)
        self.parameters: dict[str, str] = {}
        self.version = ""
        self.responded = False

    # -- request ------------------------------------------------------------------------------------

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} where there is none. InvalidParameter otherwise."""
        data = await self.body.read_all(_MAX_JSON_BYTES)
        if not data.strip():
            return {}
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidParameter(f"invalid JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidParameter("invalid JSON: expected an object")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean query parameter as Docker reads it: '', 0, no, false, none are false."""
        if name not in self.query:
            return default
        return self.query[name].strip().lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str) -> int | None:
        """An integer query parameter; InvalidParameter for anything else."""
        text = self.query.get(name, "")
        if text == "":
            return None
        try:
            return int(text)
        except ValueError:
            raise InvalidParameter(f"query parameter {name}: {text!r} is not a number") from None

    # -- response -------------------------------------------------------------------------------------

    def respond(self, status: int, value: object = None, headers: dict[str, str] | None = None) -> None:
        """A whole response: JSON of `value`, or nothing."""
        data = b"" if value is None else json.dumps(value).encode() + b"\n"
        fields = {"Content-Type": "application/json"} if value is not None else {}
        if status not in (204, 304):
            fields["Content-Length"] = str(len(data))
        self._head(status, {**fields, **(headers or {})})
        self._protocol.write(b"" if self.method == "HEAD" else data)

    def respond_text(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        """A whole plain-text response."""
        data = text.encode()
        fields = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(data)), **(headers or {})}
        self._head(status, fields)
        self._protocol.write(b"" if self.method == "HEAD" else data)

    def start_stream(self, content_type: str, status: int = 200) -> None:
        """Begins a chunked response; `send` and `end_stream` follow."""
        self._head(status, {"Content-Type": content_type, "Transfer-Encoding": "chunked"})
        if self.method == "HEAD":
            raise HeadAnswered

    async def send(self, data: bytes) -> None:
        """One chunk; waits while the client is behind. Disconnected once it is gone."""
        if data:
            self._protocol.write(b"%x\r\n%b\r\n" % (len(data), data))
            await self._protocol.drain()

    async def send_json(self, value: object) -> None:
        """One JSON line of a stream."""
        await self.send(json.dumps(value).encode() + b"\r\n")

    def end_stream(self) -> None:
        self._protocol.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.responded = True
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**self._protocol.common_headers, **headers}.items()]
        self._protocol.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))

    def hijack(self, content_type: str) -> "Hijacked":
        """Takes the connection over for raw bytes both ways, as `101 UPGRADED` or, unasked, as 200."""
        if self.method == "HEAD":
            raise InvalidParameter(f"HEAD {self.path}: a stream both ways has no head alone; ask with GET or POST")
        self.responded = True
        if "upgrade" in self.headers:
            head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n"
        self._protocol.write(head.encode())
        return self._protocol.take_over()


class Hijacked:
    """A raw two-way stream where HTTP was."""

    def __init__(self, protocol: "HttpProtocol", body: Body) -> None:
        self._protocol = protocol
        self._body = body

    async def read(self) -> bytes:
        """Bytes from the client; b'' once it has closed its sending side."""
        try:
            return await self._body.read()
        except Disconnected:
            return b""

    async def write(self, data: bytes) -> None:
        """Bytes to the client, waiting while it is behind; Disconnected once it is gone."""
        self._protocol.write(data)
        await self._protocol.drain()

    def close(self) -> None:
        self._protocol.close()


class HttpProtocol(asyncio.Protocol):
    """One connection. `handler` is called for each request and must respond."""

    def __init__(self, handler: Handler, common_headers: dict[str, str], connections: set["HttpProtocol"]) -> None:
        self._handler = handler
        self.common_headers = common_headers
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._raw: Body | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost = asyncio.Event()
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._paused = False

    # -- transport's side -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.lost.set()
        self._writable.set()
        self._end_bodies(broken=True)
        # A handler that waits for something of its own is told by cancellation.
        if self._task and not (self._raw or self._task.done()):
            self._task.cancel()

    def eof_received(self) -> bool:
        self._end_bodies(broken=self._raw is None)
        if self._raw is None and self._current is None:
            return False
        if self._raw is None:
            self.lost.set()
        return True  # keep our side open: the client may only have finished sending

    def _end_bodies(self, *, broken: bool) -> None:
        if self._raw:
            self._raw.end()
        elif self._exchange:
            self._exchange.body.end(broken=broken)

    def data_received(self, data: bytes) -> None:
        if self._raw:
            self._raw.feed(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # llhttp stops after the head: what follows is the body of the request, then the raw stream.
            self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._reject(400, f"malformed request: {error}")
        except InvalidParameter as error:
            self._reject(431, str(error))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- parser's side ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._headers, self._header_bytes = b"", {}, 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise InvalidParameter(f"the request's head is larger than {_MAX_HEADER_BYTES} bytes")

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode("ascii")
        self._exchange = Exchange(self, method, self._url, self._headers)
        if self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._waiting.append(self._exchange)
        self._next()

    def on_body(self, data: bytes) -> None:
        if self._exchange:
            self._exchange.body.feed(data)

    def on_message_complete(self) -> None:
        if self._exchange and "upgrade" not in self._exchange.headers:
            self._exchange.body.end()
            self._exchange = None

    def _after_upgrade(self, rest: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        length = int(exchange.headers.get("content-length") or 0)
        self._raw = _UpgradeBody(self, exchange, length)
        self._raw.feed(rest)

    def _reject(self, status: int, message: str) -> None:
        exchange = Exchange(self, "GET", b"/", {})
        exchange.respond(status, {"message": message}, {"Connection": "close"})
        self.close()

    # -- handler's side -----------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._current is None and self._waiting and not self.lost.is_set():
            self._current = self._waiting.popleft()
            # The one place a task is made by hand: its owner is the connection, which cancels it.
            self._task = asyncio.get_running_loop().create_task(self._run(self._current))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
            hijacked = isinstance(self._raw, Body) and not isinstance(self._raw, _UpgradeBody)
            if not hijacked:
                await self._discard(exchange)
        except (Disconnected, asyncio.CancelledError):
            self.close()
        except Exception:
            log.exception("request %s %s failed", exchange.method, exchange.path)
            self.close()
        finally:
            self._current = None
            if exchange.headers.get("connection", "").lower() == "close" and self._raw is None:
                self.close()
            self._next()

    async def _discard(self, exchange: Exchange) -> None:
        """Reads a body nobody wanted, so that the next request starts where it should; gives up on a large one."""
        if isinstance(self._raw, _UpgradeBody):
            self.close()
            return
        if exchange.body._ended and not exchange.body._chunks:
            return
        size = 0
        while data := await exchange.body.read():
            size += len(data)
            if size > _BODY_PAUSE_BYTES:
                self.close()
                return

    def take_over(self) -> Hijacked:
        if isinstance(self._raw, _UpgradeBody):
            body = self._raw.raw
        else:
            body = Body(self)
            self._raw = body
            if self._transport and self._transport.is_closing():
                body.end()
        self._raw = body
        return Hijacked(self, body)

    def write(self, data: bytes) -> None:
        if data and self._transport and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        if self._transport is None or self._transport.is_closing():
            raise Disconnected
        if not self._writable.is_set():
            await self._writable.wait()
            if self._transport.is_closing():
                raise Disconnected

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def pause_reading(self) -> None:
        if self._transport and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


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

    def end(self, *, broken: bool = False) -> None:
        self._exchange.body.end(broken=bool(self._left))
        self.raw.end()
