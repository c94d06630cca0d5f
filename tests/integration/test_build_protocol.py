"""`POST /berth/build` as docs/api.md has it: a client that knows nothing but that page, and uses nothing of berth's."""

import hashlib
import io
import json
import socket
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Engine

pytestmark = pytest.mark.root
_HEAD = b"POST /berth/build HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: berth-build\r\n\r\n"


class Client:
    """One connection. files: of the context, by path; secrets: by id."""

    def __init__(self, engine: Engine, *, files: dict[str, bytes] | None = None, secrets: dict[str, bytes] | None = None, archive: bytes = b"") -> None:
        self.files, self.secrets, self.archive = files or {}, secrets or {}, archive
        self.events: list[dict] = []
        self.asked: list[dict] = []
        self.outputs: dict[int, bytes] = {}
        self._numbers: dict[int, int] = {}
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(engine.env["DOCKER_HOST"].removeprefix("unix://"))
        self.sock.sendall(_HEAD)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")

    def send(self, kind: bytes, payload: bytes) -> None:
        self.sock.sendall(kind + struct.pack(">I", len(payload)) + payload)

    def tell(self, kind: bytes, **fields: Any) -> None:
        self.send(kind, json.dumps(fields).encode())

    def frames(self) -> Iterator[tuple[bytes, bytes]]:
        with self.sock.makefile("rb") as stream:
            while head := stream.read(5):
                kind, length = struct.unpack(">cI", head)
                yield kind, stream.read(length)

    def build(self, **request: Any) -> dict:
        self.tell(b"R", **request)
        result: dict = {}
        for kind, payload in self.frames():
            if kind == b"P":
                self.events.append(json.loads(payload))
            elif kind == b"Q":
                self._answer(json.loads(payload))
            elif kind == b"D":
                (number,) = struct.unpack(">I", payload[:4])
                self.outputs[self._numbers[number]] += payload[4:]
            elif kind == b"E":
                self.tell(b"E", question=json.loads(payload)["question"])
            elif kind == b"X":
                result = json.loads(payload)
        self.sock.close()
        return result

    def _answer(self, asked: dict) -> None:
        self.asked.append(asked)
        number, what = asked["question"], asked["ask"]
        if what == "output":
            self._numbers[number], self.outputs[asked["number"]] = asked["number"], b""
            return
        names = sorted(self.files)
        data = b""
        if what == "list":
            lines = [json.dumps([name, 0o100644, len(self.files[name]), 1_600_000_000_000_000_000, "", len(self.files[name])]) for name in names]
            data = "".join(f"{line}\n" for line in lines).encode()
        elif what == "files":
            for first, last in asked["numbers"]:
                for each in range(first, last + 1):
                    held = self.files[names[each]]
                    data += struct.pack(">IIQq", each, 0o100644, len(held), 1_600_000_000_000_000_000) + held
        elif what == "secret":
            data = self.secrets[asked["id"]]
        elif what == "tar":
            data = self.archive
        elif what == "auth":
            data = b"{}"
        for start in range(0, len(data), 100):  # in as many pieces as one likes
            self.send(b"D", struct.pack(">I", number) + data[start : start + 100])
        self.tell(b"E", question=number)


def context(name: str) -> dict:
    return {"kind": "local", "name": f"test:{name}"}


def text(dockerfile: str) -> dict:
    return {"text": dockerfile, "name": "Dockerfile"}


def test_a_build(engine: Engine) -> None:
    client = Client(engine, files={"a": b"A" * 1000, "b": b"B"}, secrets={"s": b"hush"})
    steps = "FROM bb\nARG X\nCOPY a /a\nRUN --mount=type=secret,id=s test $(cat /run/secrets/s) = hush && echo said $X && echo err >&2\n"
    result = client.build(context=context("one"), dockerfile=text(steps), tags=["protocol:1"], build_args={"X": "x"}, secrets=["s"], labels={"l": "1"})
    image = json.loads(engine.docker("image", "inspect", "protocol:1").stdout)[0]
    assert (result["image"], result["metadata"]["containerimage.config.digest"]) == (image["Id"], image["Id"])
    assert image["Config"]["Labels"] == {"l": "1"}
    assert engine.run("protocol:1", "wc", "-c", "/a").stdout == "1000 /a\n"
    assert [each["ask"] for each in client.asked] == ["list", "files", "secret"]
    assert client.asked[0]["patterns"] == ["a"]
    assert {each["kind"] for each in client.events} >= {"planned", "started", "done", "log"}
    logs = {stream: "".join(each["text"] for each in client.events if each["kind"] == "log" and each.get("stream") == stream) for stream in (1, 2)}
    assert "said x\n" in logs[1]
    assert "err\n" in logs[2]
    planned = {each["vertex"]: each for each in client.events if each["kind"] == "planned"}
    assert {each["line"] for each in planned.values() if "RUN" in each["label"]} == {4}
    # what the engine has is not asked for again
    again = Client(engine, files={"a": b"A" * 1000, "b": b"B"}, secrets={"s": b"hush"})
    assert again.build(context=context("one"), dockerfile=text(steps), build_args={"X": "x"}, secrets=["s"])["image"]
    assert [each["ask"] for each in again.asked] == ["list"]
    assert any(each["kind"] == "cached" for each in again.events)


def test_an_archive_and_outputs(engine: Engine) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, data in (("Other", b"FROM scratch\nCOPY f /f\n"), ("f", b"F\n")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    client = Client(engine, archive=held.getvalue())
    outputs = [{"type": "tar", "dest": "x"}, {"type": "oci", "dest": "y"}]
    result = client.build(context={"kind": "tar"}, file="Other", outputs=outputs, cache_to=[{"type": "local", "dest": "z", "mode": "max"}], epoch=1_600_000_000)
    assert result["image"] == ""
    listed = [subprocess.run(["tar", "-t"], input=client.outputs[number], capture_output=True, check=True).stdout.decode().split() for number in range(3)]
    assert listed[0] == ["f"]
    assert "index.json" in listed[1]
    assert "index.json" in listed[2]
    with tarfile.open(fileobj=io.BytesIO(client.outputs[1])) as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        manifest = tar.extractfile(f"blobs/sha256/{index['manifests'][0]['digest'].removeprefix('sha256:')}").read()  # type: ignore[union-attr]
    assert result["metadata"]["containerimage.digest"] == f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def test_failures_and_the_end(engine: Engine) -> None:
    result = Client(engine).build(context={"kind": "none"}, dockerfile=text("FROM bb\nRUN exit 3\n"))
    assert (result["exit_code"], result["source"]["start"]) == (3, 2)
    assert "returned a non-zero code: 3" in result["error"]
    assert Client(engine).build(context={"kind": "nonsense"}, dockerfile=text("FROM bb\nCOPY a /\n"))["kind"] == "NotFound"
    assert Client(engine).build(tags=5)["kind"] == "InvalidParameter"
    called = Client(engine).build(context={"kind": "none"}, dockerfile=text("FROM bb\nCMD echo\n"), call="check")["called"]
    assert (called["exit_code"], "JSONArgsRecommended" in called["text"]) == (1, True)
    client = Client(engine)
    client.tell(b"R", context={"kind": "none"}, dockerfile=text("FROM bb\nRUN echo begun; sleep 1000\n"))
    for kind, payload in client.frames():
        event = json.loads(payload)
        if kind == b"P" and event["kind"] == "log" and "begun" in event["text"]:
            client.tell(b"C")
        if kind == b"X":
            assert "cancelled" in event["error"]
            break
    client.sock.close()


@pytest.mark.parametrize("sent", [b"", b"R\x00\x00\x00\x02[]", b"R\xff\xff\xff\xff", b"Z\x00\x00\x00\x02{}", b"R\x00\x00\x00\x05{\"a\":", b"D\x00\x00\x00\x01x"])
def test_nonsense_is_refused(engine: Engine, sent: bytes, tmp_path: Path) -> None:
    client = Client(engine)
    client.sock.sendall(sent)
    client.sock.shutdown(socket.SHUT_WR)
    answers = [json.loads(payload) for kind, payload in client.frames() if kind == b"X"]
    client.sock.close()
    assert all(answer["error"] for answer in answers)
    assert "Traceback" not in engine.log()


def test_without_the_headers(engine: Engine) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(engine.env["DOCKER_HOST"].removeprefix("unix://"))
        sock.sendall(b"POST /v1.51/berth/build HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
