"""POST /build: outputs, squash and cachefrom, as far as that request has a place for them."""

import http.client
import io
import json
import socket
import tarfile
from urllib.parse import urlencode

import pytest
from harness import Engine

pytestmark = pytest.mark.root


def build(engine: Engine, dockerfile: str, **query: str) -> tuple[int, list[dict]]:
    """(status, messages)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(dockerfile)
        tar.addfile(info, io.BytesIO(dockerfile.encode()))
    connection = http.client.HTTPConnection("engine", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{engine.exec}/berth.sock")
    try:
        connection.request("POST", f"/build?{urlencode(query)}", data.getvalue(), {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        return answer.status, [json.loads(line) for line in answer.read().splitlines() if line]
    finally:
        connection.close()


def identity(messages: list[dict]) -> str:
    return str(next(message["aux"]["ID"] for message in messages if "aux" in message))


def test_squash(engine: Engine) -> None:
    text = "FROM bb\nRUN echo 1 >/one && echo 2 >/two\nRUN rm /one\nENV A=1\n"
    status, messages = build(engine, text, squash="1", t="squashed")
    assert status == 200
    (found,) = json.loads(engine.docker("image", "inspect", "squashed").stdout)
    assert found["Id"] == identity(messages)
    assert len(found["RootFS"]["Layers"]) == 2
    assert engine.docker("run", "--rm", "squashed", "sh", "-c", "ls /one /two; echo $A", code=0).stdout == "/two\n1\n"
    history = engine.docker("history", "--no-trunc", "--format", "{{.Size}} {{.Comment}}", "squashed").stdout.splitlines()
    assert "merge sha256:" in history[0]
    assert all(line.startswith("0B") for line in history[1:4])


def test_cache_from_an_image_that_tells(engine: Engine) -> None:
    text = "FROM bb\nARG BUILDKIT_INLINE_CACHE\nRUN head -c 9 /dev/urandom >/mark\n"
    _, messages = build(engine, text, t="telling", buildargs=json.dumps({"BUILDKIT_INLINE_CACHE": "1"}))
    first = identity(messages)
    engine.docker("builder", "prune", "-af")
    plain = build(engine, text)[1]
    assert not [message for message in plain if "Using cache" in message.get("stream", "")]
    engine.docker("builder", "prune", "-af")
    found = build(engine, text, cachefrom=json.dumps(["nowhere.invalid/x", "telling"]), buildargs=json.dumps({"BUILDKIT_INLINE_CACHE": "1"}))[1]
    assert [message for message in found if "Using cache" in message.get("stream", "")]
    assert identity(found) == first


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"outputs": '[{"Type":"tar","Attrs":{"dest":"x"}}]'}, 501, "use `berth build`"), ({"outputs": "{}"}, 400, "not a JSON list"),
        ({"outputs": '[{"Type":"moon"}]'}, 400, "'moon' is not known"), ({"cachefrom": "[1]"}, 400, "list of strings"), ({"cachefrom": "x"}, 400, "JSON list"),
        ({"outputs": '[{"Type":"image","Attrs":{"push":"true"}}]'}, 400, "tag is needed"),
    ],
)  # fmt: skip
def test_what_has_no_place_there(engine: Engine, query: dict[str, str], status: int, words: str) -> None:
    found, messages = build(engine, "FROM bb\n", **query)
    assert found == status
    assert words in messages[0]["message"]


def test_outputs_that_have_one(engine: Engine) -> None:
    status, messages = build(engine, "FROM bb\nENV B=2\n", outputs='[{"Type":"image","Attrs":{"name":"other:3"}}]')
    assert status == 200
    (found,) = json.loads(engine.docker("image", "inspect", "other:3").stdout)
    assert found["Id"] == identity(messages)
