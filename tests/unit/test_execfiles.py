"""The file of an exec as different ends of an engine leave it."""

import os
import resource
import signal

import pytest

from berth.engine import execfiles

CONFIG = '{"config": {"Cmd": ["true"]}, "probe": true}'
REPORT = '{"pid": 7, "exit_code": 3, "finished_ns": 5}'


@pytest.mark.parametrize("text", ["", "{", '{"config": {"Cmd', '{"config": []}', "[]", REPORT])
def test_what_was_not_written_whole_is_nothing(text: str) -> None:
    assert execfiles.parse(text) is None


@pytest.mark.parametrize(
    ("lines", "exit_code", "told"),
    [
        ((), None, False), ((REPORT,), 3, False), ((REPORT, '{"told": true}'), 3, True), (('{"told": true}',), None, True),
        ((REPORT[:9],), None, False), (('{"exit_code": "3"}',), None, False), (("[]", "nonsense", REPORT), 3, False),
    ],
)  # fmt: skip
def test_the_lines_after_the_first(lines: tuple[str, ...], exit_code: int | None, told: bool) -> None:
    kept = execfiles.parse("\n".join([CONFIG, *lines]) + "\n")
    assert kept
    assert (kept.config, kept.probe, kept.told) == ({"Cmd": ["true"]}, True, told)
    assert (kept.report["exit_code"] if kept.report else None) == exit_code


def test_the_lock_goes_with_the_descriptor(tmp_path: os.PathLike[str]) -> None:
    directory, identity = str(tmp_path), "a" * 64
    assert execfiles.identities(directory) == []
    fd = execfiles.create(directory, identity, {"Cmd": ["x"]}, probe=False)
    other = os.dup(fd)  # as the monitor's
    os.close(fd)
    assert execfiles.is_held(directory, identity)
    os.write(other, REPORT.encode() + b"\n")
    os.close(other)
    assert not execfiles.is_held(directory, identity)
    execfiles.note_told(directory, identity)
    kept = execfiles.read(directory, identity)
    assert kept
    assert (kept.told, bool(kept.report)) == (True, True)
    assert execfiles.identities(directory) == [identity]
    execfiles.remove(directory, identity)
    execfiles.note_told(directory, identity)  # makes no file anew
    assert os.listdir(directory) == []


def test_one_that_cannot_be_written_is_not_there(tmp_path: os.PathLike[str]) -> None:
    """A full run directory: an exec runs all the same, and no part of a file stays."""
    directory, limits = str(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            execfiles.create(directory, "b" * 64, {"Cmd": ["x"]}, probe=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(directory) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors
