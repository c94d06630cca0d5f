"""What no client should send, sent to a whole engine: it says what is wrong, and answers the others meanwhile."""

import concurrent.futures
import contextlib
import json
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from harness import Engine, status, wait_until
from parity import Peer

_IDLE = 3000
_LIMIT_S = 30
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + b"\x00" * 160


@pytest.fixture
def peer(engine: Engine) -> Iterator[Peer]:
    """Answers before the test, and after it."""
    found = Peer(f"{engine.exec}/berth.sock")
    yield found
    assert found.ask("GET", "/_ping").body == "OK"
    assert "Traceback" not in engine.log()


@contextlib.contextmanager
def connected(peer: Peer) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_LIMIT_S)
        sock.connect(peer.path)
        yield sock


def said(sock: socket.socket) -> bytes:
    """All that comes until the engine closes."""
    found = b""
    while data := sock.recv(1 << 16):
        found += data
    return found


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"GET /info HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431, "larger than 65536 bytes"),
        (b"GET /info HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431, "larger than 65536 bytes"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 431, "larger than 65536 bytes"),
        (CLIENT_HELLO, 400, "malformed request"), (b"\0" * 100 + b"\r\n\r\n", 400, "malformed request"),
        (b"GET /info HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "malformed request"), (b"SSH-2.0-OpenSSH_9.2\r\n", 400, "malformed request"),
        (b"POST /containers/create HTTP/1.1\r\nConnection: close\r\nContent-Length: 9000000\r\n\r\n" + b" " * 9_000_000, 413, "larger than 8388608 bytes"),
        (b"POST /containers/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed request"),
    ],
    ids=["long header", "many headers", "long path", "TLS", "zeros", "negative length", "ssh", "long body", "bad chunk"],
)  # fmt: skip
def test_not_understood(peer: Peer, data: bytes, code: int, words: str) -> None:
    with connected(peer) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may say so before all of it is sent
            sock.sendall(data)
        answer = said(sock)
    assert answer.startswith(b"HTTP/1.1 %d " % code), answer[:200]
    assert words in json.loads(answer.partition(b"\r\n\r\n")[2])["message"]


def test_pipelined_and_then_garbage(peer: Peer) -> None:
    with connected(peer) as sock:
        sock.sendall(PING * 50 + b"\x16\x03\x01garbage\r\n\r\n" + PING)
        answer = said(sock)
    assert answer.count(b"HTTP/1.1 200 OK") == 50
    assert answer.count(b"HTTP/1.1 400 ") == 1
    assert answer.rindex(b"200 OK") < answer.index(b"400 ")


def test_half_a_request_does_nothing(peer: Peer) -> None:
    body = b'{"Image":"bb","Cmd":["true"],"HostConfig":{"NetworkMode":"none"}}'
    head = b"POST /containers/create?name=half HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (len(body) + 1)
    for cut in (10, len(head), len(head) + 20, len(head + body)):
        with connected(peer) as sock:
            sock.sendall((head + body)[:cut])
            sock.shutdown(socket.SHUT_WR)
            assert said(sock) == b""
    assert peer.ask("GET", "/containers/half/json").status == 404


def test_slow_writers(peer: Peer) -> None:
    """A byte now and then, from many at once: each gets its answer, and so do those who come between."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(peer)) for _ in range(100)]
        for at in range(0, len(PING), 4):
            for sock in slow:
                sock.sendall(PING[at : at + 4])
            assert peer.ask("GET", "/_ping").status == 200
        for sock in slow:
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_thousands_of_idle_connections(engine: Engine, peer: Peer) -> None:
    """Others are served, memory grows by little, and all descriptors come back."""
    assert engine.process
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(_IDLE + 500, before[1])), before[1]))
    descriptors = f"/proc/{engine.process.pid}/fd"
    used, memory_kib = len(os.listdir(descriptors)), int(status(engine.process.pid)["VmRSS"].split()[0])
    idle: list[socket.socket] = []
    try:
        for number in range(_IDLE):
            idle.append(socket.socket(socket.AF_UNIX))
            idle[-1].settimeout(_LIMIT_S)
            idle[-1].connect(peer.path)
            if number % 3 == 1:
                idle[-1].sendall(b"GET /_ping HT")  # half a head
            elif number % 3 == 2:
                idle[-1].sendall(PING)
            if number % 500 == 0:
                assert peer.ask("GET", "/containers/json").status == 200
        assert peer.ask("GET", "/info").status == 200
        grown_kib = int(status(engine.process.pid)["VmRSS"].split()[0]) - memory_kib
        assert grown_kib < _IDLE * 24, f"{grown_kib / _IDLE:.1f} KiB for each connection"
    finally:
        for sock in idle:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    wait_until(lambda: len(os.listdir(descriptors)) <= used + 10, "descriptors of connections that are closed", 60)


def test_a_container_that_is_being_removed(engine: Engine, peer: Peer) -> None:
    """Whatever is asked of it meanwhile: Docker's answers for what is not there or not possible now, and it does go."""
    asked = [
        ("GET", "json", None), ("POST", "start", None), ("POST", "stop?t=0", None), ("POST", "kill", None), ("POST", "pause", None), ("POST", "unpause", None),
        ("POST", "rename?name=gone2", None), ("POST", "update", {"CpuShares": 5}), ("POST", "exec", {"Cmd": ["true"]}), ("GET", "top", None),
        ("POST", "wait?condition=removed", None), ("GET", "changes", None), ("HEAD", "archive?path=/etc", None), ("GET", "stats?stream=0&one-shot=1", None),
        ("GET", "logs?stdout=1", None), ("POST", "restart?t=0", None), ("POST", "resize?h=1&w=1", None),
    ]  # fmt: skip
    identity = engine.up()
    with concurrent.futures.ThreadPoolExecutor(len(asked) + 2) as pool:
        answers = [pool.submit(peer.ask, method, f"/containers/{identity}/{what}", body) for method, what, body in asked]
        removals = [pool.submit(peer.ask, "DELETE", f"/containers/{identity}?force=1") for _ in range(2)]
        codes = {what: answer.result().status for (_, what, _), answer in zip(asked, answers, strict=True)}
        removed = [removal.result().status for removal in removals]
    assert set(codes.values()) <= {200, 201, 204, 304, 404, 409}, codes
    assert 204 in removed
    assert set(removed) <= {204, 404, 409}, removed
    assert peer.ask("GET", f"/containers/{identity}/json").status == 404
