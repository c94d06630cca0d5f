"""A push whose engine was killed: the next one asks the registry what it has and sends the rest, or all where that is of no use."""

import hashlib
import io
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fake_registry
from berth.errors import BerthError, Conflict, DataLoss, Unavailable
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.store import unsent
from berth.store.unsent import Unsent
from fake_registry import FakeRegistry, answer, error, hang_up, overlaps, take

RANDOM = random.Random(5).randbytes(300_000)
SHA = "sha256:" + hashlib.sha256(RANDOM).hexdigest()
DIFF = "sha256:" + "d" * 64


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as one:
        yield one


def upload(registry: FakeRegistry, directory: Path, data: bytes = RANDOM, **given: object) -> tuple[str, int, bool]:
    """One engine's life: what it noted is in the directory afterwards, unless the upload has ended."""
    values: dict = {"environment": {}, "certificate_directories": (), "timeout_s": 20.0, "back_off_s": 0.0, "attempts": 1, **given}
    memory = Unsent(str(directory), DIFF, f"{registry.host}/a/b")
    try:
        with RegistryClient(registry.host, Settings(**values)) as client:
            done = client.upload("a/b", lambda offset: io.BytesIO(data[offset:]), memory=memory)
        memory.forget()
        return done
    finally:
        memory.close()


def cut_off(registry: FakeRegistry, directory: Path, at: int = 100_000) -> None:
    registry.rule("PATCH", "", lambda exchange: take(exchange, at), times=1)
    with pytest.raises(Unavailable):
        upload(registry, directory)
    assert len(list(directory.iterdir())) == 1


@pytest.mark.parametrize("cut", [0, 2, 65_536, 299_999])
def test_the_next_push_goes_on_where_the_last_was_cut_off(registry: FakeRegistry, tmp_path: Path, cut: int) -> None:
    for at in (cut, (300_000 - cut) // 2):
        cut_off(registry, tmp_path, at)
    assert upload(registry, tmp_path) == (SHA, len(RANDOM), False)
    assert registry.blobs[SHA] == RANDOM
    assert overlaps(registry.received) == []
    assert sum(end - start for start, end in registry.received) == len(RANDOM)
    assert len(registry.asked("POST", "")) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("act", [error(404, "BLOB_UPLOAD_UNKNOWN"), error(400, "BLOB_UPLOAD_INVALID"), error(403, "DENIED"), answer(500), answer(200), hang_up])
def test_a_registry_that_has_forgotten_it_gets_all_of_it(registry: FakeRegistry, tmp_path: Path, act: fake_registry.Act) -> None:
    cut_off(registry, tmp_path)
    registry.rule("GET", "/uploads/", act)
    assert upload(registry, tmp_path) == (SHA, len(RANDOM), False)
    assert registry.received[-1] == (0, len(RANDOM))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [RANDOM[::-1], RANDOM[:50_000]], ids=["other bytes", "shorter"])
def test_bytes_that_are_not_those_of_the_last_push_are_sent_anew(registry: FakeRegistry, tmp_path: Path, data: bytes) -> None:
    """As after an update of the library that compresses."""
    cut_off(registry, tmp_path)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert upload(registry, tmp_path, data) == (digest, len(data), False)
    assert registry.blobs[digest] == data
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_is_damaged_is_sent_once_and_forgotten(registry: FakeRegistry, tmp_path: Path) -> None:
    class Damaged(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:
                raise DataLoss("the layer has been changed")
            return data

    memory = Unsent(str(tmp_path), DIFF, "x")
    with RegistryClient(registry.host, Settings(environment={})) as client, pytest.raises(DataLoss, match="has been changed"):
        client.upload("a/b", lambda offset: Damaged(RANDOM[offset:]), memory=memory)
    memory.close()
    assert len(registry.asked("DELETE", "/uploads/")) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_takes_nothing_more_does_not_stand_in_the_way_for_ever(registry: FakeRegistry, tmp_path: Path) -> None:
    cut_off(registry, tmp_path)
    registry.rule("PATCH", "", answer(503), times=3)
    with pytest.raises(Unavailable):
        upload(registry, tmp_path, attempts=3)
    assert upload(registry, tmp_path) == (SHA, len(RANDOM), False)
    assert registry.received[-1] == (0, len(RANDOM))


def test_a_registry_that_cannot_be_reached_is_gone_on_with_later(registry: FakeRegistry, tmp_path: Path) -> None:
    cut_off(registry, tmp_path)
    for method in ("GET", "POST"):
        registry.rule(method, "/uploads/", answer(503), times=1)
    with pytest.raises(BerthError):
        upload(registry, tmp_path)
    assert upload(registry, tmp_path) == (SHA, len(RANDOM), False)
    assert overlaps(registry.received) == []


@pytest.mark.parametrize("arrived", [True, False])
def test_a_push_that_was_killed_at_the_very_end(registry: FakeRegistry, tmp_path: Path, arrived: bool) -> None:
    def die(exchange: fake_registry.Exchange) -> None:
        if arrived:
            registry.add_blob(RANDOM)
            registry.uploads.clear()
        exchange.error(503, "UNAVAILABLE")

    registry.rule("PUT", "/uploads/", die, times=1)
    with pytest.raises(Unavailable):
        upload(registry, tmp_path)
    assert upload(registry, tmp_path) == (SHA, len(RANDOM), False)
    assert registry.received == [(0, len(RANDOM))]


KILLED = """
import io, random, sys
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.store.unsent import Unsent
host, directory, diff = sys.argv[1:]
data = random.Random(5).randbytes(300_000)
with RegistryClient(host, Settings(environment={})) as client:
    client.upload("a/b", lambda offset: io.BytesIO(data[offset:]), memory=Unsent(directory, diff, f"{host}/a/b"))
"""


def test_a_killed_push_has_noted_where_it_was(registry: FakeRegistry, tmp_path: Path) -> None:
    source = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "src")
    process = subprocess.Popen([sys.executable, "-c", KILLED, registry.host, str(tmp_path), DIFF], env={**os.environ, "PYTHONPATH": source})

    def kill(exchange: fake_registry.Exchange) -> None:
        process.kill()
        process.wait()
        take(exchange, 100_000)

    registry.rule("PATCH", "", kill, times=1)
    process.wait()
    assert upload(registry, tmp_path) == (SHA, len(RANDOM), False)
    assert overlaps(registry.received) == []


# -- the notes ------------------------------------------------------------------------------------------------


def read(directory: Path) -> tuple[str, str, int]:
    memory = Unsent(str(directory), DIFF, "x")
    try:
        return memory.location, memory.digest, memory.size_bytes
    finally:
        memory.close()


@pytest.mark.parametrize("text", [b"", b"{", b"[]\n", b"7\n", b'{"location": 1, "digest": "", "size": 0}\n', b'{"location": "http://x"}\n', b"\xff\n", b"x" * 20_000])
def test_notes_that_are_damaged_say_nothing(tmp_path: Path, text: bytes) -> None:
    memory = Unsent(str(tmp_path), DIFF, "x")
    memory.note("http://x/long")
    memory.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(text)
    assert read(tmp_path) == ("", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_notes_are_one_pushs_and_the_last_one_counts(tmp_path: Path) -> None:
    first = Unsent(str(tmp_path), DIFF, "x")
    with pytest.raises(Conflict):
        Unsent(str(tmp_path), DIFF, "x")
    Unsent(str(tmp_path), DIFF, "y").close()
    first.note("http://x/" + "l" * 1000)
    first.note("http://x/short", SHA, 5)
    unsent.drop_all(str(tmp_path))
    first.close()
    assert read(tmp_path) == ("http://x/short", SHA, 5)
    first = Unsent(str(tmp_path), DIFF, "x")
    first.note("http://x/" + "l" * 20_000)
    first.close()
    assert list(tmp_path.iterdir()) == []


def test_notes_go_with_their_layer(tmp_path: Path) -> None:
    other = "sha256:" + "e" * 64
    made: list[Callable[[], None]] = []
    for diff, name in ((DIFF, "x"), (DIFF, "y"), (other, "x")):
        memory = Unsent(str(tmp_path), diff, name)
        memory.note("http://x/")
        made.append(memory.close)
    for close in made:
        close()
    unsent.drop_all(str(tmp_path), DIFF)
    assert [path.name[0] for path in tmp_path.iterdir()] == ["e"]
    unsent.drop_all(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
