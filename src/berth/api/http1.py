"""HTTP/1.1 on a transport: requests in, responses and streams out, and taking the connection over.

Parsing is httptools' (llhttp); everything after the head of an upgrade request, and the hijacked
stream itself, is ours. One `Exchange` at a time: pipelined requests wait, and reading pauses while many do.

Nothing a client sends or leaves out may hold the engine: heads and JSON bodies have a size and a time; a
client that has gone, even with its sending side closed long before, is noticed (`_watch_peer`).
"""

import asyncio
import contextlib
import json
import logging
import select
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
_MAX_PIPELINED = 16
_MAX_CONNECTIONS = 8192
_HEAD_TIMEOUT_S = 30.0
_JSON_TIMEOUT_S = 60.0
_DISCARD_TIMEOUT_S = 5.0
_LINGER_S = 2.0
_PEER_CHECK_S = 2.0
_INT64 = 1 << 63

Handler = Callable[["Exchange"], Awaitable[None]]


class Disconnected(Exception):
    """The client is gone; not an error of anybody here."""


class HeadAnswered(Exception):
    """A HEAD request has its answer; the stream that GET would send stays unsent."""


class Body:
    """Incoming bytes, bounded: reading from the socket pauses while the handler is behind."""

    def __init__(self, protocol: "HttpProtocol", *, expects: bool = False) -> None:
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

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > _BODY_PAUSE_BYTES:
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
        if self._size < _BODY_RESUME_BYTES:
            self._protocol.resume_reading(self)
        return data

    async def read_all(self, limit_bytes: int) -> bytes:
        parts, size = [], 0
        while data := await self.read():
            size += len(data)
            if size > limit_bytes:
                raise InvalidParameter(f"the request's body is larger than {limit_bytes} bytes")
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
                    if size > _BODY_PAUSE_BYTES:
                        return False
                return True
        return False


class Exchange:
    """One request and its response."""

    def __init__(
        self, protocol: "HttpProtocol", method: str, target: bytes, headers: dict[str, str], *, old: bool = False
    ) -> None:
        self._protocol = protocol
        url = httptools.parse_url(target)
        query = (url.query or b"").decode("ascii", "replace")
        self.method = method
        self.path = unquote((url.path or b"/").decode("ascii", "replace"))
        self.query_lists = parse_qs(query, keep_blank_values=True) if query else {}
        self.query = {key: values[-1] for key, values in self.query_lists.items()}
        self.headers = headers
        self.body = Body(protocol, expects=headers.get("expect", "").lower() == "100-continue")
        self.parameters: dict[str, str] = {}
        self.version = ""
        self.route = ""  # the pattern that matched
        self.status = 0
        self.responded = False
        self.streaming = False
        self.keep_alive = True
        self.fault: tuple[int, str] | None = None  # no request at all: what to answer
        self._chunked = not old  # HTTP/1.0 reads until the connection closes

    # -- request ------------------------------------------------------------------------------------

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} where there is none. InvalidParameter otherwise."""
        if self.body.complete:
            data = await self.body.read_all(_MAX_JSON_BYTES)
        else:
            try:
                async with asyncio.timeout(_JSON_TIMEOUT_S):
                    data = await self.body.read_all(_MAX_JSON_BYTES)
            except TimeoutError:
                raise InvalidParameter(f"the request's body did not come within {_JSON_TIMEOUT_S:.0f} s") from None
        return parse_json_object(data)

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
        digits = text[1:] if text[0] in "+-" else text
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and -_INT64 <= int(text) < _INT64):
            raise InvalidParameter(f"query parameter {name}: {text[:200]!r} is not a number")
        return int(text)

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

    def start_stream(self, content_type: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Begins a chunked response; `send` and `end_stream` follow."""
        self.streaming = True
        self._head(status, {"Content-Type": content_type, **({"Transfer-Encoding": "chunked"} if self._chunked else {}), **(headers or {})})
        if self.method == "HEAD":
            raise HeadAnswered

    async def send(self, data: bytes) -> None:
        """One chunk; waits while the client is behind. Disconnected once it is gone."""
        if data:
            self._protocol.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            await self._protocol.drain()

    async def send_json(self, value: object) -> None:
        """One JSON line of a stream."""
        await self.send(json.dumps(value).encode() + b"\r\n")

    def end_stream(self) -> None:
        if self._chunked:
            self._protocol.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.responded, self.status = True, status
        if not self.keep_alive:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**self._protocol.common_headers, **headers}.items()]
        self._protocol.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))

    def hijack(self, content_type: str, *, head: str = "") -> "Hijacked":
        """Takes the connection over for raw bytes both ways, as `101 UPGRADED` or, unasked, as 200; or with a head of its own."""
        if self.method == "HEAD":
            raise InvalidParameter(f"HEAD {self.path}: a stream both ways has no head alone; ask with GET or POST")
        self.responded = self.streaming = True
        self.status = 101 if "upgrade" in self.headers else 200
        if head:
            pass
        elif "upgrade" in self.headers:
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

    def write_now(self, data: bytes) -> None:
        """A last word: whether the client is behind or gone is no matter."""
        self._protocol.write(data)

    async def gone(self) -> None:
        """Returns once the client has left altogether, not only finished sending."""
        await self._protocol.lost.wait()

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
        self._count(len(name) + len(value))
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


# -- JSON, as strict as Go's and a little stricter ------------------------------------------------------------


def parse_json_object(data: bytes) -> dict[str, Any]:
    """A request's body; {} for an empty one. Refuses what no field can hold: numbers beyond 64 bits, NaN, NUL, half characters."""
    if not data.strip():
        return {}
    try:
        value = json.loads(data, parse_int=_integer, parse_float=_float, parse_constant=_no_number)
        if b"\\u" in data:
            _check_text(value)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidParameter("invalid JSON: expected an object")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -_INT64 <= int(text) < _INT64:
        raise ValueError(f"the number {text[:40]} does not fit in 64 bits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _check_text(value: object) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{value[:200]!r} contains a NUL")
        value.encode()  # UnicodeEncodeError, a ValueError, for half of a surrogate pair
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_text(item)
