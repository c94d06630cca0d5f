"""A blob that arrives in pieces: what is there is known to the byte, whoever writes, reads, closes or is killed."""

import fcntl
import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from berth.errors import Cancelled, Conflict, DataLoss
from berth.registry.client.download import merged
from berth.store.partial import ArrivingReader, Partial

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "src")
DATA = random.Random(7).randbytes(1000)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Arrivals(RuleBasedStateMachine):
    """Against a set of the offsets that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = f"/dev/shm/berth-partial-{os.getpid()}-{id(self)}"
        os.mkdir(self.directory)

    @initialize(size=st.integers(0, 1000), chunk=st.sampled_from([1, 7, 100, 999, 1000, 5000]))
    def begin(self, size: int, chunk: int) -> None:
        self.size, self.chunk = size, chunk
        self.there: set[int] = set()
        self.partial = Partial(self.directory, DIGEST, size, chunk_bytes=chunk)

    @precondition(lambda self: self.partial.missing())
    @rule(which=st.integers(0, 50), share=st.floats(0, 1))
    def write(self, which: int, share: float) -> None:
        spans = merged(self.partial.missing())
        start, end = spans[which % len(spans)]
        end = start + max(1, round((end - start) * share))
        self.partial.write(start, memoryview(DATA)[start:end])
        self.there |= set(range(start, end))

    @rule(offset=st.integers(0, 1100), length=st.integers(1, 50))
    def write_elsewhere(self, offset: int, length: int) -> None:
        """Not where the chunk goes on: refused, and nothing is changed."""
        if any(start == offset for start, _ in self.partial.missing()):
            return
        with pytest.raises(DataLoss, match="where none are missing"):
            self.partial.write(offset, bytes(length))

    @rule()
    def reopen(self) -> None:
        self.partial.close()
        self.partial = Partial(self.directory, DIGEST, self.size, chunk_bytes=self.chunk)

    @rule(keep=st.integers(0, 1000))
    def lose_the_end(self, keep: int) -> None:
        """As after a loss of power: the counts are on the disk, the bytes are not."""
        self.partial.close()
        path = f"{self.directory}/{DIGEST.removeprefix('sha256:')}"
        os.truncate(path, min(keep, os.path.getsize(path)))
        self.partial = Partial(self.directory, DIGEST, self.size, chunk_bytes=self.chunk)
        present = {offset for offset in self.there if offset not in self.missing()}
        assert all(offset < keep for offset in present)
        self.there = present

    def missing(self) -> set[int]:
        return {offset for start, end in self.partial.missing() for offset in range(start, end)}

    @invariant()
    def all_is_known(self) -> None:
        if not hasattr(self, "partial"):
            return
        assert self.missing() == set(range(self.size)) - self.there
        assert self.partial.present_bytes == len(self.there)
        reached = next((offset for offset in range(self.size) if offset not in self.there), self.size)
        assert self.partial.arrived_bytes == reached
        assert self.partial.missing_from(0, self.size) == reached
        if reached:
            assert self.partial.read(0, 2000) == DATA[:reached]
        for start, end in self.partial.missing():
            assert start // self.chunk == (end - 1) // self.chunk

    def teardown(self) -> None:
        if hasattr(self, "partial"):
            self.partial.discard()
        assert os.listdir(self.directory) == []
        os.rmdir(self.directory)


TestArrivals = Arrivals.TestCase
TestArrivals.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("seed", range(4))
def test_writers_of_chunks_and_a_reader_at_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    partial = Partial(str(tmp_path), DIGEST, 1000, chunk_bytes=50)
    spans = partial.missing()
    chance.shuffle(spans)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: ArrivingReaderOf.read(17), b"")))
    ArrivingReaderOf = ArrivingReader(partial)
    reader.start()

    def write(mine: "list[tuple[int, int]]") -> None:
        for start, end in mine:
            for at in range(start, end, 7):
                partial.write(at, DATA[at : min(end, at + 7)])

    writers = [threading.Thread(target=write, args=(spans[index::3],)) for index in range(3)]
    for thread in writers:
        thread.start()
    for thread in (*writers, reader):
        thread.join()
    assert b"".join(got) == DATA
    partial.take(f"{tmp_path}/whole")
    assert os.listdir(tmp_path) == ["whole"]
    assert (tmp_path / "whole").read_bytes() == DATA


def test_nobody_else_may_have_it_open(tmp_path: Path) -> None:
    partial = Partial(str(tmp_path), DIGEST, 1000)
    with pytest.raises(Conflict, match="is being fetched already"):
        Partial(str(tmp_path), DIGEST, 1000)
    code = "import sys; from berth.store.partial import Partial; Partial(*sys.argv[1:3], 1000)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), DIGEST], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": SOURCE})
    assert "is being fetched already" in done.stderr
    partial.close()
    Partial(str(tmp_path), DIGEST, 1000).discard()


@pytest.mark.parametrize("way", ["take", "discard"])
def test_the_lock_is_on_the_name_not_on_a_file_that_had_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Between the second's open and its lock, the first gives the file another name, or none, and lets go of it."""
    first = Partial(str(tmp_path), DIGEST, 10)
    first.write(0, DATA[:10])
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if first._map is not None:
            first.take(f"{tmp_path}/taken") if way == "take" else first.discard()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    second = Partial(str(tmp_path), DIGEST, 10)
    assert second.missing() == [(0, 10)]
    second.write(0, b"other")
    with open(second.path, "rb") as file:
        assert file.read() == b"other"
    if way == "take":
        assert (tmp_path / "taken").read_bytes() == DATA[:10]
    second.discard()


@pytest.mark.parametrize("end", ["fail", "close", "discard"])
def test_a_reader_that_waits_is_told(tmp_path: Path, end: str) -> None:
    partial = Partial(str(tmp_path), DIGEST, 1000)
    partial.write(0, DATA[:10])
    got: list[object] = [partial.read(5, 100)]

    def read() -> None:
        try:
            partial.read(10, 1)
        except (Cancelled, DataLoss) as error:
            got.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    if end == "fail":
        partial.fail(DataLoss("first"))
        partial.fail(DataLoss("second"))
    getattr(partial, "close" if end == "fail" else end)()
    reader.join()
    assert got[0] == DATA[5:10]
    assert str(got[1]) == ("first" if end == "fail" else f"blob {DIGEST} is no longer fetched")


@pytest.mark.parametrize("damage", [b"", b"x" * 40, b"berthpt1" + b"\xff" * 32, None])
def test_counts_that_are_damaged_count_for_nothing(tmp_path: Path, damage: "bytes | None") -> None:
    partial = Partial(str(tmp_path), DIGEST, 1000, chunk_bytes=500)
    partial.write(0, DATA[:600])
    partial.close()
    counts = Path(f"{partial.path}.counts")
    if damage is None:  # more than the chunk can hold
        counts.write_bytes(counts.read_bytes()[:24] + (1 << 60).to_bytes(8, "little") * 2)
    else:
        counts.write_bytes(damage)
    partial = Partial(str(tmp_path), DIGEST, 1000, chunk_bytes=500)
    assert partial.missing() == [(0, 500), (500, 1000)]
    partial.discard()


def test_another_size_begins_anew(tmp_path: Path) -> None:
    partial = Partial(str(tmp_path), DIGEST, 1000)
    partial.write(0, DATA)
    partial.close()
    partial = Partial(str(tmp_path), DIGEST, 999)
    assert partial.present_bytes == 0
    partial.discard()


def test_a_size_that_was_made_up_costs_nothing(tmp_path: Path) -> None:
    partial = Partial(str(tmp_path), DIGEST, 1 << 43)
    assert len(partial.missing()) <= 1 << 14
    assert os.path.getsize(f"{partial.path}.counts") < 1 << 18
    partial.discard()


@pytest.mark.parametrize("digest", ["", "sha256:", "../../etc/passwd", "sha256:" + "A" * 64, DIGEST + "/x", "sha512:" + "a" * 64])
def test_no_path_is_made_of_what_is_no_digest(tmp_path: Path, digest: str) -> None:
    with pytest.raises(DataLoss, match="is not a sha256 or sha512 digest"):
        Partial(str(tmp_path), digest, 10)
    assert os.listdir(tmp_path) == []


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / DIGEST.removeprefix("sha256:")).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        Partial(str(tmp_path), DIGEST, 10)
    assert (tmp_path / "victim").read_text() == "precious"


WRITER = """
import sys
from berth.store.partial import Partial
partial = Partial(sys.argv[1], sys.argv[2], 1 << 20, chunk_bytes=1000)
print("go", flush=True)
for start, end in partial.missing():
    for at in range(start, end):
        partial.write(at, bytes([at % 251]))
"""




@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.05])
def test_a_killed_writer_has_noted_what_it_wrote(tmp_path: Path, pause_s: float) -> None:
    """Wherever the kill comes: at most the write under way is not noted, and what is noted is right."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), DIGEST], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SOURCE})
    try:
        assert process.stdout
        assert process.stdout.readline() == b"go\n"
        threading.Event().wait(pause_s)
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    partial = Partial(str(tmp_path), DIGEST, 1 << 20, chunk_bytes=1000)
    noted = partial.present_bytes
    with open(partial.path, "rb") as file:
        written = file.read()
    assert len(written) - noted in (0, 1)
    assert written == bytes(at % 251 for at in range(len(written)))
    partial.discard()
