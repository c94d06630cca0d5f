"""Log files: what is written, that it turns over and is compressed, full disks, and reading all of it back."""

import gzip
import json
import os
import random
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.engine import logs
from berth.runtime import jsonlog, locallog
from berth.runtime.logfile import LogFile

DRIVERS = {"json-file": jsonlog.JsonLog, "local": locallog.LocalLog}
Writer = jsonlog.JsonLog | locallog.LocalLog


def writer(path: Path, driver: str = "json-file", *limits: int, compress: bool = False) -> Writer:
    return DRIVERS[driver](LogFile(str(path), *limits, compress=compress))


def logged(path: Path, *writes: tuple[str, bytes]) -> list[dict]:
    log = writer(path)
    for stream, data in writes:
        log.write(stream, data)
    log.flush()
    log.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def entries(path: Path, driver: str = "json-file", tail: int | None = None) -> list[tuple[str, bytes]]:
    """What a reader sees, entry by entry."""
    reader = logs.LogReader(str(path), driver)
    if tail is not None:
        reader.seek_tail(tail)
    found = []
    while (runs := reader.runs()) is not None:
        for run in runs:
            found += [(run.stream, line) for line in run.data.splitlines(keepends=True)]
    reader.close()
    return found


def test_log_lines(tmp_path: Path) -> None:
    found = logged(
        tmp_path / "log", ("stdout", b"one\ntw"), ("stderr", b"e\n"), ("stdout", b"o\n\n"), ("stdout", b'"\\\x00\xff\t'),
    )  # fmt: skip
    assert [(e["stream"], e["log"]) for e in found] == [
        ("stdout", "one\n"), ("stderr", "e\n"), ("stdout", "two\n"), ("stdout", "\n"), ("stdout", '"\\\x00�\t'),
    ]  # fmt: skip
    assert all(len(e["time"]) == len("2006-01-02T15:04:05.000000000Z") and e["time"].endswith("Z") for e in found)


@pytest.mark.parametrize("length", [16383, 16384, 16385, 50000])
def test_long_lines_are_written_in_parts(tmp_path: Path, length: int) -> None:
    found = logged(tmp_path / "log", ("stdout", b"x" * length), ("stdout", b"\n"))
    assert "".join(e["log"] for e in found) == "x" * length + "\n"
    assert all(len(e["log"]) <= 16384 for e in found)
    assert [e["log"].endswith("\n") for e in found] == [False] * (len(found) - 1) + [True]


def test_a_part_never_ends_within_a_character(tmp_path: Path) -> None:
    text = "x" + "€" * 20000
    assert "".join(e["log"] for e in logged(tmp_path / "log", ("stdout", text.encode()))) == text


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.one_of(
    st.binary(max_size=200), st.text(alphabet='a"\\\n\r\t\x1b\x7fé€😀n', max_size=100).map(str.encode),
))))  # fmt: skip
def test_every_byte_comes_back(tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, bytes]]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    for driver in DRIVERS:
        log = writer(path.with_name(driver), driver)
        for stream, data in writes:
            log.write(stream, data)
        log.flush()
        log.close()
        found = entries(path.with_name(driver), driver)
        for name in ("stdout", "stderr"):
            sent = b"".join(data for stream, data in writes if stream == name)
            if driver == "json-file":  # which has text, not bytes
                assert b"".join(line for stream, line in found if stream == name).decode() == b"".join(
                    line.decode(errors="replace").encode() for line in sent.splitlines(keepends=True)
                ).decode()
            else:
                assert b"".join(line for stream, line in found if stream == name) == sent
        for line in path.with_name("json-file").read_bytes().splitlines():
            assert set(json.loads(line)) == {"log", "stream", "time"}


def wait_for_child(log: Writer) -> None:
    while log.child_fd >= 0:
        assert select.select([log.child_fd], [], [], 10)[0]
        log.child_ended()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_log_turns_over_and_is_compressed(tmp_path: Path, driver: str) -> None:
    path = tmp_path / "log"
    log = writer(path, driver, 2000, 4, compress=True)
    for number in range(300):
        log.write("stdout", b"line %d\n" % number)
        wait_for_child(log)
    log.close()
    assert {p.name for p in tmp_path.iterdir()} == {"log", "log.1.gz", "log.2.gz", "log.3.gz"}
    assert gzip.decompress((tmp_path / "log.1.gz").read_bytes()).endswith(b"\n")
    assert all(len(gzip.decompress(p.read_bytes())) < 2200 for p in tmp_path.glob("*.gz"))
    found = entries(path, driver)
    last = [("stdout", b"line %d\n" % number) for number in range(300)][-len(found) :]
    assert found == last
    for tail in (0, 1, 7, 50, len(found) - 1, len(found), 1000):
        assert entries(path, driver, tail) == (last[-tail:] if tail else [])


def test_without_compression_and_with_one_file(tmp_path: Path) -> None:
    log = writer(tmp_path / "log", "json-file", 1000, 2)
    for number in range(100):
        log.write("stderr", b"%d\n" % number)
    log.close()
    assert {p.name for p in tmp_path.iterdir()} == {"log", "log.1"}
    only = writer(tmp_path / "one", "json-file", 1000, 1)
    for number in range(100):
        only.write("stderr", b"%d\n" % number)
    only.close()
    assert not list(tmp_path.glob("one.*"))
    assert (tmp_path / "one").stat().st_size < 1100


def test_a_reader_follows_over_turns(tmp_path: Path) -> None:
    path, sent, got = tmp_path / "log", [], []
    log = writer(path, "json-file", 3000, 8, compress=True)
    log.write("stdout", b"first\n")
    reader = logs.LogReader(str(path), "json-file")
    dice = random.Random(4)
    for number in range(500):
        log.write("stdout", b"%d\n" % number)
        sent.append(b"%d\n" % number)
        if dice.random() < 0.2:
            wait_for_child(log)
        if dice.random() < 0.03:
            while (runs := reader.runs()) is not None:
                got += [line for run in runs for line in run.data.splitlines(keepends=True)]
    log.close()
    while (runs := reader.runs()) is not None:
        got += [line for run in runs for line in run.data.splitlines(keepends=True)]
    reader.close()
    assert got == [b"first\n", *sent]


def test_an_unfinished_entry_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logged(path, ("stdout", b"one\ntwo\n"))
    with path.open("ab") as file:
        file.write(b'{"log":"cut o')
    assert entries(path) == [("stdout", b"one\n"), ("stdout", b"two\n")]
    logged(path, ("stdout", b"three\n"))
    assert [line for _, line in entries(path)] == [b"one\n", b"two\n", b"three\n"]
    with path.open("ab") as file:
        file.write(b"nonsense\n" + b"\0" * 100 + b'\n{"log":1}\n{"stream":"stdout","log":"other\\n","time":"2020-01-01T00:00:00.5Z"}\n')
    logged_again = writer(path)
    logged_again.write("stdout", b"four\n")
    logged_again.close()
    assert [line for _, line in entries(path)] == [b"one\n", b"two\n", b"three\n", b"other\n", b"four\n"]


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A disk with so many bytes left."""
    left = [1 << 30]
    real = os.write

    def write(fd: int, data: bytes) -> int:
        size = min(left[0], len(data))
        if not size:
            raise OSError(28, "No space left on device")
        left[0] -= size
        return real(fd, data[:size])

    monkeypatch.setattr(os, "write", write)

    def has(size: int) -> None:
        left[0] = size

    yield has
    left[0] = 1 << 30


def test_a_full_disk_leaves_no_part_of_an_entry(tmp_path: Path, no_space: Callable[[int], None]) -> None:
    log = writer(tmp_path / "log")
    log.write("stdout", b"one\n")
    for size in (0, 1, 70, 100, 150):
        no_space(size)
        log.write("stdout", b"two\nthree\nfour\n")
    no_space(1 << 20)
    log.write("stdout", b"five\n")
    log.close()
    found = [line for _, line in entries(tmp_path / "log")]
    assert found[0] == b"one\n"
    assert found[-1] == b"five\n"
    assert set(found) <= {b"one\n", b"two\n", b"three\n", b"four\n", b"five\n"}
    assert all(json.loads(line) for line in (tmp_path / "log").read_text().splitlines())


def test_the_tail_of_a_large_file_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logged(path, ("stdout", b"last\n"))
    size = 1 << 30
    entry = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(size)  # a hole: whoever reads it all takes a second
        file.write(b"\n" + entry * 3)
    reads = []
    real = os.pread

    def count(fd: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return real(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", count)
        assert entries(path, tail=3) == [("stdout", b"last\n")] * 3
    assert sum(reads) < 2 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0), ("0", 0), ("12", 12 * 10**9), ("12.5", 12_500_000_000), ("1.000000001", 1_000_000_001),
        ("1970-01-01T00:00:01Z", 10**9), ("1970-01-01T00:00:01.25Z", 1_250_000_000),
        ("1970-01-01T01:00:01.123456789+01:00", 1_123_456_789),
    ],
)  # fmt: skip
def test_times(text: str, expected: int) -> None:
    assert logs.parse_time_ns(text) == expected


@pytest.mark.parametrize("text", ["abc", "1.5.5", "2020-13-01T00:00:00Z", "99999999999999999999", "-", "--5", "\u00b2", "1.\u0663"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(logs.InvalidParameter, match="invalid time"):
        logs.parse_time_ns(text)


def test_stamps() -> None:
    assert logs.stamp_of(1_500_000_000) == "1970-01-01T00:00:01.500000000Z"
    assert logs.full_stamp("1970-01-01T00:00:01.5Z") == "1970-01-01T00:00:01.500000000Z"
    assert logs.full_stamp("1970-01-01T00:00:01Z") == "1970-01-01T00:00:01.000000000Z"


def test_no_room_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files there are stay where they are, and the present one goes on."""
    log = writer(tmp_path / "log", "json-file", 1000, 3)
    for number in range(30):
        log.write("stdout", b"%d\n" % number)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return real(path, flags, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for number in range(30, 60):
            log.write("stdout", b"%d\n" % number)
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before
    log.close()
    found = entries(tmp_path / "log")
    assert found[-30:] == [("stdout", b"%d\n" % number) for number in range(30, 60)]
