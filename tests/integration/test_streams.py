"""Attach and exec streams: nothing lost, doubled or out of order, whatever the speeds; websockets; clients that stall."""

import base64
import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from harness import Engine, parent, read, status, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]


class Stream:
    """A hijacked connection, by hand."""

    def __init__(self, engine: Engine, path: str, *, method: str = "POST", headers: str = "Connection: Upgrade\r\nUpgrade: tcp\r\n",
                 body: bytes = b"") -> None:  # fmt: skip
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(f"{engine.exec}/berth.sock")
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: d\r\n{headers}{kind}\r\n".encode() + body)
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(1)
            assert data, self.buffer
            self.buffer += data
        self.head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1])

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = self.sock.recv(1 << 16)
            if not data:
                break
            self.buffer += data
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def frame(self) -> tuple[int, bytes]:
        """One multiplexed frame; (0, b'') at the end."""
        head = self.exactly(8)
        if len(head) < 8:
            assert not head
            return 0, b""
        stream, length = struct.unpack(">BxxxI", head)
        payload = self.exactly(length)
        assert len(payload) == length
        return stream, payload

    def rest(self) -> bytes:
        found = [self.buffer]
        self.buffer = b""
        while data := self.sock.recv(1 << 16):
            found.append(data)
        return b"".join(found)

    def rest_of(self) -> dict[int, bytes]:
        """Everything to come, by stream."""
        found = {1: bytearray(), 2: bytearray()}
        while (one := self.frame())[0]:
            found[one[0]] += one[1]
        return {stream: bytes(data) for stream, data in found.items()}

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def attach(engine: Engine, identity: str, query: str, **more: object) -> Stream:
    return Stream(engine, f"/v1.43/containers/{identity}/attach?{query}", **more)  # type: ignore[arg-type]


ALL = "stream=1&stdin=1&stdout=1&stderr=1"


def test_heads(engine: Engine, up: Up) -> None:
    plain, terminal = up("-i", command=("cat",)), up("-it", command=("cat",))
    for identity, version, kind in (
        (plain, "v1.43", b"application/vnd.docker.multiplexed-stream"), (plain, "v1.41", b"application/vnd.docker.raw-stream"),
        (terminal, "v1.43", b"application/vnd.docker.raw-stream"),
    ):  # fmt: skip
        path = f"/{version}/containers/{identity}/attach?{ALL}"
        with Stream(engine, path) as upgraded:
            assert upgraded.head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
            assert b"Upgrade: tcp" in upgraded.head
            assert kind in upgraded.head
        with Stream(engine, path, headers="") as unasked:
            assert unasked.head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert kind in unasked.head


@pytest.mark.parametrize("seed", range(4))
def test_both_directions_at_any_speed(engine: Engine, seed: int) -> None:
    """8 MB through `cat` and back, in pieces of any size, with pauses on either side."""
    dice = random.Random(seed)
    data = dice.randbytes(8 << 20)
    # Not `run -d`, which leaves the program its input open when a client's ends.
    identity = engine.docker("create", "-i", "--network", "none", "--log-driver", "none", "bb", "tee", "/dev/stderr").stdout.strip()
    engine.seen_ids.add(identity)
    engine.docker("start", identity)
    with attach(engine, identity, ALL) as stream:
        def write() -> None:
            mine, at = random.Random(seed + 100), 0
            while at < len(data):
                size = mine.choice((1, 100, 5000, 70_000, 700_000))
                stream.sock.sendall(data[at : at + size])
                at += size
                if mine.random() < 0.1:
                    time.sleep(mine.random() / 50)  # the speed of a writer, not a synchronisation
            stream.sock.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        found = {1: hashlib.sha256(), 2: hashlib.sha256()}
        sizes = {1: 0, 2: 0}
        while (one := stream.frame())[0]:
            found[one[0]].update(one[1])
            sizes[one[0]] += len(one[1])
            if dice.random() < 0.02:
                time.sleep(dice.random() / 50)
        writer.join()
    engine.rm(identity)
    assert sizes == {1: len(data), 2: len(data)}
    assert {digest.hexdigest() for digest in found.values()} == {hashlib.sha256(data).hexdigest()}


def test_exec_both_directions(engine: Engine, up: Up) -> None:
    identity = up()
    data = random.Random(9).randbytes(6 << 20)
    done = subprocess.run(["docker", "exec", "-i", identity, "cat"], env=engine.env, input=data, capture_output=True, timeout=60, check=True)
    assert done.stdout == data
    create = ["curl", "-sS", "--unix-socket", f"{engine.exec}/berth.sock", "-H", "Content-Type: application/json", "-d",
              '{"AttachStdin":true,"AttachStdout":true,"Cmd":["sha256sum"]}', f"http://d/v1.43/containers/{identity}/exec"]  # fmt: skip
    made = subprocess.run(create, capture_output=True, text=True, check=True).stdout
    found = re.search(r'"Id": ?"([0-9a-f]+)"', made)
    assert found
    with Stream(engine, f"/v1.43/exec/{found[1]}/start", headers="", body=b'{"Detach":false}') as stream:
        assert stream.status == 200
        stream.sock.sendall(data)
        stream.sock.shutdown(socket.SHUT_WR)
        assert hashlib.sha256(data).hexdigest().encode() in stream.rest_of()[1]


def exec_of(engine: Engine, identity: str, *command: str) -> str:
    status, made = answer_of(engine, "POST", f"/containers/{identity}/exec", {"AttachStdout": True, "AttachStderr": True, "Cmd": command})
    assert status == 201, made
    return str(made["Id"])


def answer_of(engine: Engine, method: str, path: str, body: object = None) -> tuple[int, dict]:
    client = http.client.HTTPConnection("d")
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect(f"{engine.exec}/berth.sock")
    try:
        client.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = client.getresponse()
        return response.status, json.loads(response.read())
    finally:
        client.close()


@pytest.mark.parametrize(("command", "code", "said"), [(("no-such-program",), 127, b"no-such-program"), (("echo", "hi"), 0, b"hi\n")])
def test_nothing_comes_in_one_piece_with_the_head(engine: Engine, up: Up, command: tuple[str, ...], code: int, said: bytes) -> None:
    """docker-py throws away what it reads along with the head: an exec's first words wait until the head has been read."""
    made = exec_of(engine, up(), *command)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(f"{engine.exec}/berth.sock")
        head = f"POST /v1.43/exec/{made}/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        sock.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        wait_until(lambda: answer_of(engine, "GET", f"/exec/{made}/json")[1]["ExitCode"] is not None, "no end", 60)
        found = sock.recv(1 << 16)
        assert found.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert found.endswith(b"\r\n\r\n")
        assert found.count(b"\r\n\r\n") == 1
        rest = b""
        while data := sock.recv(1 << 16):
            rest += data
    assert said in rest
    assert answer_of(engine, "GET", f"/exec/{made}/json")[1]["ExitCode"] == code


def test_many_attachments_see_the_same(engine: Engine, up: Up) -> None:
    identity = up("-i", command=("sh", "-c", "read go; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done"))
    streams: list[Stream] = []
    results: list[bytes] = []
    starters = [threading.Thread(target=lambda: streams.append(attach(engine, identity, "stream=1&stdout=1"))) for _ in range(150)]
    for thread in starters:
        thread.start()
    for thread in starters:
        thread.join()
    readers = [threading.Thread(target=lambda s=s: results.append(s.rest_of()[1])) for s in streams]
    for thread in readers:
        thread.start()
    with attach(engine, identity, "stream=1&stdin=1") as last:
        last.sock.sendall(b"go\n")
        for thread in readers:
            thread.join(30)
    for stream in streams:
        stream.sock.close()
    assert len(results) == 150
    assert set(results) == {b"".join(b"%d\n" % i for i in range(1, 3001))}


def test_history_and_live_without_gap_or_doubling(engine: Engine, up: Up) -> None:
    script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i; printf 'half '; done; echo end >&2; exec sleep 1000"
    identity = up("-i", "--log-opt", "max-size=100k", "--log-opt", "max-file=100", "--log-opt", "compress=true", command=("sh", "-c", script))
    expected = b"".join(b"%d\nhalf " % i for i in range(1, 60001))
    for _ in range(6):
        with attach(engine, identity, "stream=1&logs=1&stdout=1&stderr=1") as stream:
            got = bytearray()
            while not stream_ended(stream, got):
                pass
            assert bytes(got) == expected
    assert engine.state(identity)["Running"]


def stream_ended(stream: Stream, got: bytearray) -> bool:
    """Adds a frame; whether the last line has come on standard error, and all before it on standard output."""
    number, payload = stream.frame()
    assert number
    if number == 1:
        got += payload
        return False
    assert payload == b"end\n"
    while not got.endswith(b"60000\nhalf "):
        number, payload = stream.frame()
        assert number == 1
        got += payload
    return True


def test_a_stalled_client_neither_ends_nor_bloats_anything(engine: Engine) -> None:
    """It stops the container as a full pipe would; what waits for it is bounded; when it reads again all is there."""
    identity = engine.up("-i", "--log-driver", "none", command=("sh", "-c", "read go; yes 0123456789 | head -c 44000000; echo end"))
    assert engine.process
    before = int(status(engine.process.pid)["VmRSS"].split()[0])
    with attach(engine, identity, ALL) as stream:
        stream.sock.sendall(b"go\n")
        monitor = parent(engine.pid(identity))
        # The output comes to rest: nothing moves any more.
        seen = [-1, -2]
        while seen[-1] != seen[-2]:
            time.sleep(0.2)
            seen.append(int(read(f"/proc/{monitor}/io").split()[1]))
        assert seen[-1] < 4_000_000
        assert int(status(engine.process.pid)["VmRSS"].split()[0]) - before < 20_000
        assert int(status(monitor)["VmRSS"].split()[0]) < 40_000
        assert engine.docker("exec", identity, "echo", "others work").stdout == "others work\n"
        text = stream.rest_of()[1]
    assert text == b"0123456789\n" * 4_000_000 + b"end\n"
    engine.rm(identity)


def test_a_container_ends_while_its_client_stalls(engine: Engine) -> None:
    identity = engine.up("-i", command=("sh", "-c", "read go; yes 0123456789 | head -c 550000; echo end; exit 4"))
    with attach(engine, identity, ALL) as stream:
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.sock.sendall(b"go\n")
        # 550 kB are more than the pipes hold and less than all on the way: it ends, and everybody else hears of it.
        assert engine.docker("wait", identity).stdout == "4\n"
        assert engine.docker("logs", "--tail", "1", identity).stdout == "end\n"
        engine.docker("start", identity)
        assert engine.state(identity)["Running"]
        assert stream.rest_of()[1] == b"0123456789\n" * 50_000 + b"end\n"
    engine.rm(identity)


def test_a_stopped_docker_cli_is_let_go_by_a_kill(engine: Engine) -> None:
    identity = engine.up("-i", command=("sh", "-c", "read go; yes"))
    client = subprocess.Popen(["docker", "attach", identity], env=engine.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin
    assert client.stdout
    client.stdin.write(b"go\n")
    client.stdin.flush()
    assert client.stdout.read(2) == b"y\n"
    client.send_signal(signal.SIGSTOP)
    engine.docker("kill", identity)
    assert engine.state(identity)["ExitCode"] == 137
    client.send_signal(signal.SIGCONT)
    client.communicate(timeout=60)
    engine.rm(identity)


def test_a_client_that_leaves_is_forgotten(engine: Engine, up: Up) -> None:
    identity = up("-i", command=("sleep", "1000"))
    created = engine.docker("create", "-i", "--network", "none", "bb", "true").stdout.strip()
    assert engine.process
    directory = f"/proc/{engine.process.pid}/fd"
    engine.docker("exec", identity, "true")
    wait_until(lambda: engine.docker("ps", "-q").returncode == 0, "an answer")
    before = len(os.listdir(directory))
    for name in (identity, created):
        streams = [attach(engine, name, ALL + "&logs=1") for _ in range(10)]
        assert len(os.listdir(directory)) > before + 10
        for stream in streams:
            stream.sock.close()
        wait_until(lambda: len(os.listdir(directory)) <= before + 1, "descriptors of clients that left")
    engine.rm(created)


def websocket_key() -> str:
    return base64.b64encode(os.urandom(16)).decode()


def upgrade(engine: Engine, identity: str, query: str) -> Stream:
    headers = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {websocket_key()}\r\n"
    return Stream(engine, f"/v1.43/containers/{identity}/attach/ws?{query}", method="GET", headers=headers)


def send(stream: Stream, opcode: int, payload: bytes, *, final: bool = True) -> None:
    mask = os.urandom(4)
    size = struct.pack(">B", 0x80 | len(payload)) if len(payload) < 126 else struct.pack(">BH", 0x80 | 126, len(payload))
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    stream.sock.sendall(bytes(((0x80 if final else 0) | opcode,)) + size + mask + masked)


def message(stream: Stream) -> tuple[int, bytes]:
    head = stream.exactly(2)
    if len(head) < 2:
        return 0, b""
    length = head[1]
    if length >= 126:
        length = int.from_bytes(stream.exactly(2 if length == 126 else 8), "big")
    return head[0] & 0x0F, stream.exactly(length)


@pytest.fixture
def cat(engine: Engine) -> Iterator[str]:
    identity = engine.up("-i", command=("cat",))
    yield identity
    engine.rm(identity)


def test_websocket(engine: Engine, cat: str) -> None:
    with upgrade(engine, cat, ALL) as stream:
        assert stream.head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: " in stream.head
        send(stream, 2, b"hello\n")
        assert message(stream) == (2, b"hello\n")
        send(stream, 9, b"are you there")
        assert message(stream) == (10, b"are you there")
        send(stream, 2, b"one ", final=False)
        send(stream, 9, b"")
        send(stream, 0, b"two\n")
        got = [message(stream), message(stream)]
        while b"".join(payload for opcode, payload in got if opcode == 2) != b"one two\n":
            got.append(message(stream))
        assert (10, b"") in got
        send(stream, 2, b"x" * 40_000 + b"\n")
        back = b""
        while len(back) < 40_001:
            back += message(stream)[1]
        assert back == b"x" * 40_000 + b"\n"
        send(stream, 8, struct.pack(">H", 1000) + b"bye")
        assert message(stream) == (8, struct.pack(">H", 1000))
        assert message(stream) == (0, b"")
    assert engine.state(cat)["Running"]
    with upgrade(engine, cat, "stream=1&logs=1&stdout=1") as stream:
        got = message(stream)[1]
        while not got.endswith(b"x\n"):
            got += message(stream)[1]
        assert got == b"hello\none two\n" + b"x" * 40_000 + b"\n"
        engine.docker("kill", cat)
        assert message(stream) == (8, struct.pack(">H", 1000))


def test_websockets_that_break_the_protocol(engine: Engine, cat: str) -> None:
    for data, code in (
        (b"\x82\x05hello", 1002), (struct.pack(">BBQ", 0x82, 0xFF, 1 << 40) + b"mask", 1009), (b"\xf2\x80mask", 1002),
        (b"\x80\x80mask", 1002),
    ):  # fmt: skip
        with upgrade(engine, cat, ALL) as stream:
            stream.sock.sendall(data)
            opcode, payload = message(stream)
            assert opcode == 8
            assert struct.unpack(">H", payload[:2]) == (code,)
            assert message(stream) == (0, b"")
    for headers in (
        "", "Connection: Upgrade\r\nUpgrade: tcp\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: {websocket_key()}\r\n",
    ):  # fmt: skip
        with Stream(engine, f"/v1.43/containers/{cat}/attach/ws?{ALL}", method="GET", headers=headers) as stream:
            assert stream.status == 400
    with Stream(engine, f"/v1.43/containers/nope/attach/ws?{ALL}", method="GET", headers="") as stream:
        assert stream.status == 404
    assert engine.state(cat)["Running"]


def test_heads_of_streams_leak_nothing(engine: Engine, cat: str) -> None:
    assert engine.process
    directory = f"/proc/{engine.process.pid}/fd"
    before = len(os.listdir(directory))
    for _ in range(20):
        client = http.client.HTTPConnection("d")
        client.sock = socket.socket(socket.AF_UNIX)
        client.sock.connect(f"{engine.exec}/berth.sock")
        client.request("HEAD", f"/v1.43/containers/{cat}/logs?stdout=1&follow=1")
        assert client.getresponse().status == 200
        client.close()
    wait_until(lambda: len(os.listdir(directory)) <= before + 1, "descriptors")
