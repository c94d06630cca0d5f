"""The HTTP server on real sockets with no engine behind it: what clients probe, and what breaks parsers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("httptools", reason="the HTTP parser of the engine")

from berth.api import http1, routes
from berth.api.stubs import Stubs

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


def serving(path: Path, client: Callable[[str], Awaitable[None]], handler: http1.Handler | None = None) -> None:
    """Runs `client` against a server of the protocol; nothing may hang."""

    async def run() -> None:
        connections: set[http1.HttpProtocol] = set()
        answer = handler or routes.Api(None).handle  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: http1.HttpProtocol(answer, {"Server": "test"}, connections), str(path))
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
        ("POST /plugins/pull", 501, "plugins are not there"), ("GET /distribution/a/b/json", 501, "cannot talk to registries"),
        ("POST /auth", 501, "login to https://index.docker.io/v1/"), ("POST /session", 501, "cannot build images"),
        ("POST /build", 501, "cannot build images"), ("POST /networks/create", 501, "none and host"), ("GET /nowhere", 404, "page not found"),
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


def test_no_plugins_and_no_build_cache(socket_path: Path) -> None:
    assert json.loads(ask(socket_path, "GET", "/plugins").body) == []
    assert json.loads(ask(socket_path, "POST", "/build/prune").body)["SpaceReclaimed"] == 0


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
