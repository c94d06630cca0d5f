"""One request and its response, and the raw stream that a connection can become."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

import httptools

from berth.errors import InvalidParameter
from berth.http.body import Body, Disconnected, Source
from berth.http.strict_json import parse_json_object

_MAX_JSON_BYTES = 8 << 20
_JSON_TIMEOUT_S = 60.0
_INT64 = 1 << 63

Handler = Callable[["Exchange"], Awaitable[None]]


class Connection(Source, Protocol):
    """What an exchange needs of its connection."""

    common_headers: dict[str, str]
    lost: asyncio.Event

    async def drain(self) -> None: ...

    async def taken(self) -> None: ...

    async def send_file(self, descriptor: int, offset: int, size: int) -> None: ...

    def take_over(self) -> "Hijacked": ...

    def close(self) -> None: ...


class HeadAnswered(Exception):
    """A HEAD request has its answer; the stream that GET would send stays unsent."""


class Exchange:
    """One request and its response."""

    def __init__(
        self, protocol: Connection, method: str, target: bytes, headers: dict[str, str], *, old: bool = False
    ) -> None:
        self._protocol = protocol
        url = httptools.parse_url(target)
        query = (url.query or b"").decode("ascii", "replace")
        self.method = method
        self.raw_query = query
        self.path = unquote((url.path or b"/").decode("ascii", "replace"))
        self.query_lists = parse_qs(query, keep_blank_values=True) if query else {}
        self.query = {key: values[-1] for key, values in self.query_lists.items()}
        self.headers = headers
        self.body = Body(protocol, expects=headers.get("expect", "").lower() == "100-continue")
        self.parameters: dict[str, str] = {}
        self.version = ""
        self.route = ""  # the pattern that matched, its parameters as {name}
        self.status = 0
        self.responded = False
        self.streaming = False
        self.keep_alive = True
        self.fault: tuple[int, str] | None = None  # no request at all: what to answer
        self._chunked = not old  # HTTP/1.0 reads until the connection closes

    # -- request ------------------------------------------------------------------------------------

    async def json(self, *, any_type: bool = False) -> dict[str, Any]:
        """The body as a JSON object; {} where there is none. InvalidParameter otherwise.

        any_type: whether it may say that it is something else than JSON; one that says nothing may always come.
        """
        kind = self.headers.get("content-type", "")
        if kind and not any_type and kind.partition(";")[0].strip().lower() != "application/json":
            raise InvalidParameter(f"unsupported Content-Type header ({kind[:200]}): must be 'application/json'")
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

    def file_path(self, name: str) -> str:
        """A path of a file, '' where there is none: bytes that are no UTF-8 stay what they are, as `os.fsencode` takes them."""
        return parse_qs(self.raw_query, keep_blank_values=True, errors="surrogateescape").get(name, [""])[-1]

    def size(self, name: str, what: str) -> int:
        """A size of a terminal, which must be there."""
        text = self.query.get(name, "")
        if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 1 << 32):
            raise InvalidParameter(f"invalid resize {what} {json.dumps(text[:200])}: it is not a whole number below 4294967296")
        return int(text)

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
        if value is not None:
            self.respond_json(json.dumps(value).encode(), status, headers)
            return
        fields = {} if status in (204, 304) else {"Content-Length": "0"}
        self._head(status, {**fields, **(headers or {})})

    def respond_json(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """A whole response of JSON that is encoded already."""
        fields = {"Content-Type": "application/json", **({} if status in (204, 304) else {"Content-Length": str(len(data) + 1)})}
        self._head(status, {**fields, **(headers or {})}, b"%b\n" % data)

    def respond_text(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        """A whole plain-text response."""
        data = text.encode()
        fields = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(data)), **(headers or {})}
        self._head(status, fields, data)

    def respond_bytes(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """A whole response of any type; `headers` names it."""
        self._head(status, {"Content-Length": str(len(data)), **headers}, data)

    def start_body(self, status: int, size_bytes: int, headers: dict[str, str]) -> None:
        """Begins a response of a known size; `send_plain` and `send_file` give its body."""
        self.streaming = True
        self._head(status, {"Content-Length": str(size_bytes), **headers})
        if self.method == "HEAD":
            raise HeadAnswered

    async def send_plain(self, data: bytes) -> None:
        """Bytes of a body of a known size; waits while the client is behind. Disconnected once it is gone."""
        self._protocol.write(data)
        await self._protocol.drain()

    async def send_file(self, descriptor: int, offset: int, size: int) -> None:
        """The same from an open file, by the kernel where there is no TLS. Disconnected if the file is shorter or the client gone."""
        await self._protocol.send_file(descriptor, offset, size)

    def start_stream(self, content_type: str, status: int = 200, headers: dict[str, str] | None = None, first: bytes = b"") -> None:
        """Begins a chunked response, with a first chunk where that is known; `send` and `end_stream` follow."""
        self.streaming = True
        chunked = {"Transfer-Encoding": "chunked"} if self._chunked else {}
        self._head(status, {"Content-Type": content_type, **chunked, **(headers or {})}, self._chunk(first))
        if self.method == "HEAD":
            raise HeadAnswered

    async def send(self, data: bytes) -> None:
        """One chunk; waits while the client is behind. Disconnected once it is gone."""
        if data:
            self._protocol.write(self._chunk(data))
            await self._protocol.drain()

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self._chunked else data

    async def send_json(self, value: object) -> None:
        """One JSON line of a stream."""
        await self.send(json.dumps(value).encode() + b"\r\n")

    def end_stream(self, last: bytes = b"") -> None:
        """last: one more chunk."""
        self._protocol.write(self._chunk(last) + (b"0\r\n\r\n" if self._chunked else b""))

    def _head(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Sends the head, and a body where that is known: one write is one system call for both, and for the client too."""
        self.responded, self.status = True, status
        if not self.keep_alive:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**self._protocol.common_headers, **headers}.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        self._protocol.write(head if self.method == "HEAD" else head + body)

    def hijack(self, content_type: str, *, head: str = "") -> "Hijacked":
        """Takes the connection over for raw bytes both ways, as `101 UPGRADED` or, unasked, as 200; or with a head of its own."""
        if self.method == "HEAD":
            raise InvalidParameter(f"HEAD {self.path}: a stream both ways has no head alone; ask with GET or POST")
        self.responded = self.streaming = True
        self.status = 101 if "upgrade" in self.headers else 200
        if head:
            pass
        elif "upgrade" in self.headers:
            head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{self._common()}\r\n"
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{self._common()}\r\n"
        self._protocol.write(head.encode())
        return self._protocol.take_over()

    async def gone(self) -> None:
        """Returns once the client has left altogether, not only finished sending."""
        await self._protocol.lost.wait()

    def _common(self) -> str:
        return "".join(f"{name}: {value}\r\n" for name, value in self._protocol.common_headers.items())


class Hijacked:
    """A raw two-way stream where HTTP was."""

    def __init__(self, protocol: Connection, body: Body) -> None:
        self._protocol = protocol
        self._body = body
        self._begun = False

    async def read(self) -> bytes:
        """Bytes from the client; b'' once it has closed its sending side."""
        try:
            return await self._body.read()
        except Disconnected:
            return b""

    async def write(self, data: bytes) -> None:
        """Bytes to the client, waiting while it is behind; Disconnected once it is gone.

        The first wait until the client has read the head: docker-py loses what it reads in one piece with it.
        """
        if not self._begun:
            self._begun = True
            await self._protocol.taken()
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
