"""The HTTP server on real sockets with no engine behind it: what clients probe, and what breaks parsers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("httptools", reason="the HTTP parser of the engine")

from berth.api import routes
from berth.api.stubs import Stubs
from berth.errors import InvalidParameter
from berth.http import body, protocol
from berth.http import exchange as exchanges
from berth.http.exchange import Exchange, Handler
from berth.http.protocol import HttpProtocol
from berth.http.strict_json import parse_json_object

NO_MANAGER = 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'


class Answer:
    """One response: status, headers by lower-case name, body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
    body = b"" if head else await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(lines[0].split()[1]), headers, body)


def serving(path: Path, client: Callable[[str], Awaitable[None]], handler: Handler | None = None) -> None:
    """Runs `client` against a server of the protocol; nothing may hang."""

    async def run() -> None:
        connections: set[HttpProtocol] = set()
        answer = handler or routes.Api(None).handle  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: HttpProtocol(answer, {"Server": "test"}, connections), str(path))
        try:
            async with asyncio.timeout(20):
                await client(str(path))
        finally:
            server.close()
            for connection in list(connections):
                connection.close()
            await server.wait_closed()

    asyncio.run(run())


def ask(path: Path, method: str, target: str, body: bytes = b"") -> Answer:
    """One request on a connection of its own."""
    found = []

    async def client(address: str) -> None:
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        found.append(await read_answer(reader, head=method == "HEAD"))
        writer.close()

    serving(path, client)
    return found[0]


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.mark.parametrize("version", ["", "/v1.22", "/v1.30", "/v1.51"])
@pytest.mark.parametrize("endpoint", [
    "GET /swarm", "POST /swarm/update", "GET /services", "GET /services/x", "DELETE /nodes/x", "GET /tasks/x/logs", "POST /secrets/create",
    "GET /configs", "POST /services/x/update",
])  # fmt: skip
def test_an_engine_in_no_swarm(socket_path: Path, version: str, endpoint: str) -> None:
    method, target = endpoint.split()
    answer = ask(socket_path, method, version + target)
    assert answer.status == 503
    if version == "/v1.22":  # older than JSON errors
        assert (answer.headers["content-type"], answer.body.decode()) == ("text/plain; charset=utf-8", NO_MANAGER + "\n")
    else:
        assert answer.message == NO_MANAGER


@pytest.mark.parametrize(
    ("endpoint", "status", "message"),
    [
        ("POST /swarm/leave", 503, "This node is not part of a swarm"), ("POST /swarm/init", 501, "swarms are not there"),
        ("GET /plugins/a/b:c/json", 404, 'plugin "a/b:c" not found'), ("DELETE /plugins/x", 404, 'plugin "x" not found'),
        ("POST /plugins/pull", 501, "plugins are not there"), ("POST /session", 501, "does not speak BuildKit's protocol"),
        ("POST /grpc", 501, "does not speak BuildKit's protocol"), ("GET /nowhere", 404, "page not found"),
        ("PUT /swarm", 404, "page not found"), ("GET /v1.24/nowhere", 404, "page not found"), ("GET /v1.52/swarm", 400, "client version 1.52 is too new"),
    ],
)  # fmt: skip
def test_parts_of_docker_that_are_not_there(socket_path: Path, endpoint: str, status: int, message: str) -> None:
    answer = ask(socket_path, *endpoint.split())
    assert answer.status == status
    assert message in answer.message


@pytest.mark.parametrize(("body", "said"), [(b'{"username":1}', "username: 1 is not a string"), (b"[]", "expected an object")])
def test_auth_looks_at_its_body(socket_path: Path, body: bytes, said: str) -> None:
    answer = ask(socket_path, "POST", "/auth", body)
    assert answer.status == 400
    assert said in answer.message


def test_no_plugins(socket_path: Path) -> None:
    assert json.loads(ask(socket_path, "GET", "/plugins").body) == []


def test_head_where_get_is(socket_path: Path) -> None:
    answer = ask(socket_path, "HEAD", "/v1.40/plugins")
    assert (answer.status, answer.headers["content-length"]) == (200, "3")
    assert ask(socket_path, "HEAD", "/nowhere").status == 404
    assert ask(socket_path, "HEAD", "/auth").status == 404, "only POST is there"


def test_options_are_answered(socket_path: Path) -> None:
    assert ask(socket_path, "OPTIONS", "/anything").status == 200


@pytest.mark.parametrize("target", ["/v1.22/info", "/v1.21/info"])
def test_too_old(socket_path: Path, target: str) -> None:
    answer = ask(socket_path, "GET", target.replace("info", "plugins"))
    if target == "/v1.22/info":
        assert answer.status == 200
    else:
        assert answer.status == 400
        assert b"client version 1.21 is too old. Minimum supported API version is 1.22, please upgrade" in answer.body


def test_every_stub_is_an_endpoint_of_its_own() -> None:
    endpoints = [(method, pattern) for method, pattern, _ in Stubs().routes()]
    assert len(endpoints) == len(set(endpoints))


# -- what breaks parsers ----------------------------------------------------------------------------------------


async def echo(exchange: Exchange) -> None:
    """Answers with what was asked; /json parses, /deaf ignores the body, /stream sends for ever, /raw hijacks."""
    if exchange.path == "/json":
        try:
            exchange.respond(200, await exchange.json())
        except InvalidParameter as error:
            exchange.respond(400, {"message": str(error)})
    elif exchange.path == "/stream":
        exchange.start_stream("text/plain")
        for _ in range(3):
            await exchange.send(b"abc")
        exchange.end_stream()
    elif exchange.path == "/raw":
        client = exchange.hijack("x/y")
        while data := await client.read():
            await client.write(data.upper())
        await client.write(b"END")
        client.close()
    else:
        exchange.respond(200, {"path": exchange.path, "query": exchange.query})


def talk(path: Path, data: bytes, *, eof: bool = False, handler: Handler = echo) -> bytes:
    """Everything that comes back for `data` until the server closes."""
    found = []

    async def client(address: str) -> None:
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(data)
        if eof:
            writer.write_eof()
        found.append(await reader.read())
        writer.close()

    serving(path, client, handler)
    return found[0]


LONG = b"x" * 70_000


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"nonsense\r\n\r\n", 400, b"malformed request"), (b"\x16\x03\x01\x02\x00\x01\x00", 400, b"malformed request"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, b"Invalid HTTP version"), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"malformed"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, b"Invalid char"), (b"GET http://[ HTTP/1.1\r\n\r\n", 400, b"is not a URL"),
        (b"CONNECT a:443 HTTP/1.1\r\n\r\n", 400, b"is not a URL"), (b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n", 400, b"malformed"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c: d\r\nContent-Length: x\r\n\r\n", 400, b"malformed"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, b"Duplicate Content-Length"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b"malformed"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400, b"overflow"),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, b"malformed"),
        (b"POST /json HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"malformed request"),
        (b"POST /json HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}garbage\r\n", 400, b"malformed request"),
        (b"POST /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b"send Content-Length"),
        (b"GET /" + LONG + b" HTTP/1.1\r\n\r\n", 431, b"larger than 65536 bytes"), (b"GET /" + LONG, 431, b"larger than"),
        (b"GET / HTTP/1.1\r\nA: " + LONG + b"\r\n\r\n", 431, b"larger than"), (b"GET / HTTP/1.1\r\nA: " + LONG, 431, b"larger than"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 40_000, 431, b"larger than"),
        (b"POST /json HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 40_000, 400, b"larger than"),
    ],
)  # fmt: skip
def test_malformed_requests(socket_path: Path, data: bytes, status: int, said: bytes) -> None:
    """An answer that says what is wrong, then the end; never a reset before the answer could be read."""
    answer = talk(socket_path, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
    assert said in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "invalid JSON"), (b"[1]", "expected an object"), (b'"x"', "expected an object"), (b'{"a":NaN}', "NaN is no number"),
        (b'{"a":1e999}', "the number 1e999 is too large"), (b'{"a":9223372036854775808}', "9223372036854775808 does not fit in 64 bits"),
        (b'{"a":' + b"9" * 5000 + b"}", "does not fit"), (b'{"a":["\\u0000"]}', "contains a NUL"), (b'{"\\ud800":1}', "surrogates not allowed"),
        (b"\xff\xfe{", "invalid JSON"), (b"[" * 100_000, "invalid JSON"), (b'{"a":1}{}', "invalid JSON"),
    ],
)  # fmt: skip
def test_json_that_is_none(socket_path: Path, body: bytes, said: str) -> None:
    async def parse(exchange: Exchange) -> None:
        await echo(exchange)

    head = b"POST /json HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = talk(socket_path, head + body, handler=parse)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert said in json.loads(answer.partition(b"\r\n\r\n")[2])["message"]


def test_json_that_looks_like_a_nul_and_is_none() -> None:
    assert parse_json_object(b'{"Cmd":["printf","\\\\u0000"]}') == {"Cmd": ["printf", "\\u0000"]}
    assert parse_json_object(b" ") == {}
    assert parse_json_object(b'{"a":-9223372036854775808,"b":1.5,"c":"\\u00e4"}') == {"a": -(2**63), "b": 1.5, "c": "ä"}


def test_the_body_of_an_upgrade_may_come_after_its_head(socket_path: Path) -> None:
    """The Docker CLI writes head and body of `exec start` apart; nothing between them is not the end of the body."""

    began = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        began.set()
        asked = await exchange.json()
        client = exchange.hijack("x/y")
        while data := await client.read():
            await client.write(data.upper())
        await client.write(json.dumps(asked).encode())
        client.close()

    answers = []

    async def client(address: str) -> None:
        reader, writer = await asyncio.open_unix_connection(address)
        body = b'{"Tty":true}'
        writer.write(b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: %d\r\n\r\n" % len(body))
        await writer.drain()
        await asyncio.wait_for(began.wait(), 5)
        writer.write(body + b"data")
        writer.write_eof()
        answers.append(await reader.read())
        writer.close()

    serving(socket_path, client, handler)
    assert answers[0].endswith(b'DATA{"Tty": true}')


def test_a_body_too_large(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_MAX_JSON_BYTES", 1000)
    answer = talk(socket_path, b"POST /json HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n" + b" " * 3_000_000)
    assert b"400 Bad Request" in answer, "what this server says to all that is wrong"
    assert b"larger than 1000 bytes" in answer


def test_slow_heads_and_bodies(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (protocol, "_HEAD_TIMEOUT_S"), (exchanges, "_JSON_TIMEOUT_S"), (body, "_DISCARD_TIMEOUT_S"), (protocol, "_LINGER_S")
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 0.05)
    assert b"HTTP/1.1 408 " in talk(socket_path, b"GET / HTTP/1.1\r\nHos")
    answer = talk(socket_path, b"POST /json HTTP/1.1\r\nContent-Length: 5\r\n\r\n{")
    assert b"400 Bad" in answer
    assert b"did not come within" in answer
    assert b"200 OK" in talk(socket_path, b"POST /deaf HTTP/1.1\r\nContent-Length: 5\r\n\r\n{"), "a body that nobody wanted"


def test_half_requests(socket_path: Path) -> None:
    assert talk(socket_path, b"GET / HT", eof=True) == b""
    assert talk(socket_path, b"", eof=True) == b""
    assert talk(socket_path, b"POST /json HTTP/1.1\r\nContent-Length: 5\r\n\r\n{", eof=True) == b""


def test_pipelined_requests_are_answered_in_order(socket_path: Path) -> None:
    count = 500
    data = b"".join(b"GET /%d HTTP/1.1\r\n\r\nPOST /json HTTP/1.1\r\nContent-Length: 7\r\n\r\n{\"a\":1}" % n for n in range(count))
    answer = talk(socket_path, data, eof=True)
    assert answer.count(b"HTTP/1.1 200 OK") == 2 * count
    places = [answer.index(b'"path": "/%d"' % n) for n in range(count)]
    assert places == sorted(places)


def test_what_comes_before_garbage_is_answered(socket_path: Path) -> None:
    answer = talk(socket_path, b"GET /first HTTP/1.1\r\n\r\nGET /second HTTP/1.1\r\n\r\ngarbage\r\n\r\n")
    assert answer.count(b"200 OK") == 2
    assert answer.count(b"400 Bad Request") == 1
    assert answer.index(b"/second") < answer.index(b"400 Bad")


def test_http_1_0_reads_until_the_end(socket_path: Path) -> None:
    answer = talk(socket_path, b"GET /stream HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nabcabcabc")
    assert b"chunked" not in answer
    assert talk(socket_path, b"GET /x HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_upgrades(socket_path: Path) -> None:
    """The body of an upgrade request, bytes glued behind it, and half-closing; and one that is not taken up."""
    head = b"POST /raw HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"
    answer = talk(socket_path, head + b"glued", eof=True)
    assert answer.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    assert answer.endswith(b"\r\n\r\nGLUEDEND")
    plain = talk(socket_path, b"GET /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert plain.startswith(b"HTTP/1.1 200 OK")
    assert b"\r\nConnection: close\r\n" in plain
    two = talk(socket_path, b"GET /x HTTP/1.1\r\nUpgrade: h2c\r\n\r\nGET /y HTTP/1.1\r\n\r\n", eof=True)
    assert two.count(b"200 OK") == 2, "Upgrade without Connection: Upgrade is only a header"


def test_trailers_change_nothing(socket_path: Path) -> None:
    data = b"POST /json HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nExpect: 100-continue\r\n%b\r\nGET /y HTTP/1.1\r\n\r\n"
    assert talk(socket_path, data % b"", eof=True).count(b"200 OK") == 2
    assert talk(socket_path, data % b"Connection: Upgrade\r\nUpgrade: tcp\r\n", eof=True).startswith(b"HTTP/1.1 200 OK")


def test_continue_is_said_when_the_body_is_wanted(socket_path: Path) -> None:
    seen = []

    async def client(address: str) -> None:
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(b"POST /json HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"{}")
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    serving(socket_path, client, echo)
    assert seen[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert seen[1].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("method", "path", "cancelled"), [("GET", "/a", True), ("POST", "/a", False), ("POST", "/stream", True)])
def test_a_client_that_leaves(socket_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str, cancelled: bool) -> None:
    """Even one that had finished sending first. What changes something goes on; what only tells ends."""
    monkeypatch.setattr(protocol, "_PEER_CHECK_S", 0.02)
    ends: list[str] = []
    started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        if exchange.path == "/stream":
            exchange.start_stream("x/y")
        started.set()
        try:
            await go_on.wait()
            ends.append("whole")
        except asyncio.CancelledError:
            ends.append("cancelled")
        finally:
            ended.set()

    async def client(address: str) -> None:
        _, writer = await asyncio.open_unix_connection(address)
        writer.write(f"{method} {path} HTTP/1.1\r\n\r\n".encode())
        writer.write_eof()
        await started.wait()
        await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        if not cancelled:
            go_on.set()
        await ended.wait()

    serving(socket_path, client, slow)
    assert ends == ["cancelled" if cancelled else "whole"]


def test_a_client_that_does_not_read_holds_no_memory(socket_path: Path) -> None:
    """Answers to pipelined requests wait for the client, they do not pile up."""
    served = 0

    async def large(exchange: Exchange) -> None:
        nonlocal served
        served += 1
        exchange.respond(200, {"data": "x" * 100_000})

    async def client(address: str) -> None:
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 200)
        await asyncio.sleep(0.1)  # the server would answer all in this time
        assert served < 20
        total = 0
        while total < 200 * 100_000:
            total += len(await reader.read(1 << 20))
        writer.close()

    serving(socket_path, client, large)
    assert served == 200


def test_too_many_connections(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is idle makes room; a new one is served."""
    monkeypatch.setattr(protocol, "_MAX_CONNECTIONS", 5)

    async def client(address: str) -> None:
        opened = [await asyncio.open_unix_connection(address) for _ in range(20)]
        reader, writer = opened[-1]
        writer.write(b"GET /x HTTP/1.1\r\n\r\n")
        assert (await read_answer(reader)).status == 200
        for _, each in opened:
            each.close()

    serving(socket_path, client, echo)
