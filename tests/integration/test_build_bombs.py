"""ADD of archives that are bombs or lie: bounded memory, disk and time, words that say why, nothing left."""

import bz2
import contextlib
import gzip
import hashlib
import importlib
import lzma
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Engine, read, wait_until
from test_build_hard import build, connect, context, left

pytestmark = pytest.mark.root

_PIECE_BYTES = 16 << 20
_MOST_GROWTH_BYTES = 400 << 20


def zstd(data: bytes) -> bytes:
    return bytes(importlib.import_module("backports.zstd").compress(data))


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": xz, "zstd": zstd, "bzip2": bz2.compress}


def peak_bytes(engine: Engine) -> int:
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", read(f"/proc/{engine.process.pid}/status"))
    return int(found) << 10


@contextlib.contextmanager
def small_memory(engine: Engine) -> Iterator[None]:
    """By the kernel's account: the engine's most memory since now."""
    Path(f"/proc/{engine.process.pid}/clear_refs").write_text("5")
    before = peak_bytes(engine)
    yield
    assert peak_bytes(engine) - before < _MOST_GROWTH_BYTES


def moved_bytes(engine: Engine) -> int:
    """By the kernel's account: read and written so far."""
    assert engine.process
    return sum(int(value) for value in re.findall(r"[rw]char: (\d+)", read(f"/proc/{engine.process.pid}/io")))


def used_bytes(engine: Engine) -> int:
    return int(subprocess.run(["du", "-sxB1", engine.data], capture_output=True, text=True, check=False).stdout.split()[0])


def refused(engine: Engine, archive: bytes, words: str) -> str:
    before = used_bytes(engine)
    with small_memory(engine):
        said, error = build(engine, context("FROM bb\nADD bomb /there/\nRUN echo =$((6*7))=\n", {"bomb": archive}))
    assert words in error, (said, error)
    assert "=42=" not in said
    wait_until(lambda: left(engine) == [], f"left: {left(engine)}")
    assert used_bytes(engine) < before + (8 << 20)
    return error


def head(name: str, size: int, kind: bytes = b"0", more: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT) + more.ljust(-(-len(more) // 512) * 512, b"\0")


def record(key: str, value: bytes) -> bytes:
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return head("pax", len(records), kind, records)


@pytest.mark.parametrize("name", PACKERS)
def test_what_expands_without_end(engine: Engine, name: str) -> None:
    pack = PACKERS[name]
    pieces = (6 << 30) // _PIECE_BYTES
    archive = pack(head("zeros", 6 << 30)) + pack(bytes(_PIECE_BYTES)) * pieces
    refused(engine, archive, "taken for a decompression bomb")


def kept_as_it_is(engine: Engine, archive: bytes) -> None:
    """What has no readable head is no archive, but a file, as in Docker."""
    with small_memory(engine):
        said, error = build(engine, context("FROM bb\nADD bomb /there/\n", {"bomb": archive}), "kept")
    assert not error, said
    assert engine.run("kept", "sha256sum", "/there/bomb").stdout.split()[0] == hashlib.sha256(archive).hexdigest()
    wait_until(lambda: left(engine) == [], f"left: {left(engine)}")


def headers(kind: bytes, count: int) -> bytes:
    """A megabyte each, of records with other names."""
    return b"".join(
        gzip.compress(pax(b"".join(record(f"SCHILY.xattr.user.{piece}.{number}", b"v" * 64) for number in range(7000)), kind), 1) for piece in range(count)
    )


FILE = gzip.compress(head("f", 0))
END = gzip.compress(bytes(1024))


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_headers_that_belong_to_no_file(engine: Engine, kind: bytes) -> None:
    many = headers(kind, 300)
    kept_as_it_is(engine, many + FILE + END)
    refused(engine, FILE + many + FILE + END, "extended headers of more than")


def test_a_file_of_holes(engine: Engine) -> None:
    records = b"".join(record(key, value) for key, value in (
        ("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"holes"), ("GNU.sparse.realsize", b"%d" % (1 << 50)),
    ))  # fmt: skip
    refused(engine, pax(records) + head("holes", 512, more=b"0\n".ljust(512, b"\0")) + bytes(1024), "bytes of holes so far")


def test_a_chain_of_compressors_is_opened_once(engine: Engine) -> None:
    data = head("f", 0) + bytes(1024)
    for number in range(10):
        data = list(PACKERS.values())[number % 4](data)
    kept_as_it_is(engine, data)


def test_entries_that_lead_elsewhere(engine: Engine) -> None:
    """All below the destination, or along the image's own links; the host has none of it."""

    def entry(name: str, kind: bytes = b"0", link: str = "", device: tuple[int, int] = (0, 0), mode: int = 0o644) -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, (info.devmajor, info.devminor), info.mode = kind, link, device, mode
        return info.tobuf(tarfile.GNU_FORMAT)

    for bad, words in (
        (entry("../up"), "has '..' in its name"), (entry("a/../../up"), "has '..' in its name"), (entry("hard", b"1", "/etc/shadow-of-host"), "no file there"),
        (entry("hard", b"1", "../../etc/passwd"), "has '..' in what it links to"), (entry("null", b"3"), "character device 0:0"), (entry(".wh.x"), "begins with '.wh.'"),
        (entry("odd", b"Z"), "unknown kind"), (entry("f", b"0") + b"x" * 512, "a damaged one"),
    ):  # fmt: skip
        refused(engine, entry("first") + bad + bytes(1024), words)
    good = entry("/abs/olute") + entry("link", b"2", "../../../../../../var/outside") + entry("link/f") + entry("loop", b"2", "loop")
    good += entry("null", b"3", device=(1, 3), mode=0o666) + entry("fifo", b"6") + bytes(1024)
    said, error = build(engine, context("FROM bb\nADD good /there/\n", {"good": good}), "good")
    assert not error, said
    listed = engine.run("good", "find", "/there", "/var/outside").stdout.split()
    assert {"/there/abs/olute", "/there/link", "/var/outside/f", "/there/null", "/there/fifo", "/there/loop"} <= set(listed)
    assert engine.run("good", "stat", "-c", "%t:%T %F", "/there/null").stdout == "1:3 character special file\n"
    assert not os.path.lexists("/var/outside")
    refused(engine, entry("loop", b"2", "loop") + entry("loop/f") + bytes(1024), "loop")


def test_a_client_that_goes_ends_what_it_copies(engine: Engine) -> None:
    """A file of holes that would take hours to read, and a step whose changes would take minutes to write."""
    records = b"".join(record(key, value) for key, value in (
        ("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"holes"), ("GNU.sparse.realsize", b"%d" % (1 << 42)),
    ))  # fmt: skip
    sent = pax(records) + head("holes", 512, more=b"0\n".ljust(512, b"\0")) + context("FROM bb\nRUN true\nCOPY holes /there\n")
    written = context("FROM bb\nRUN truncate -s 4398046511104 /file\n")
    for data in (sent, written):
        before = moved_bytes(engine)
        with contextlib.closing(connect(engine)) as connection:
            connection.request("POST", "/build?networkmode=none", data, {"Content-Type": "application/x-tar"})
            wait_until(lambda before=before: moved_bytes(engine) > before + (1 << 30), "a gigabyte of it")  # type: ignore[misc]
        wait_until(lambda: left(engine) == [], f"left: {left(engine)}")


# -- contexts -------------------------------------------------------------------------------------------------------


def many_files(count: int) -> bytes:
    """An archive of empty files, less than two bytes each: all of it has arrived before the first of them are there."""
    block = bytearray(head("d/00000000", 0))
    rest = sum(block[:2]) + sum(block[10:148]) + 8 * 32 + sum(block[156:])
    parts = []
    for number in range(count):
        block[2:10] = b"%08d" % number
        block[148:156] = b"%06o\0 " % (rest + sum(block[2:10]))
        parts.append(bytes(block))
    data = b"".join(parts) + context("FROM scratch\nCOPY d /d\n")
    return bytes(importlib.import_module("backports.zstd").compress(data, 10))


def contexts(engine: Engine) -> int:
    """How many files all contexts of the engine have."""
    found = 0
    for _, _, names in os.walk(f"{engine.data}/build/contexts"):
        found += len(names)
    return found


@contextlib.contextmanager
def receiving(engine: Engine, data: bytes) -> Iterator[None]:
    """A client that has sent all of a context, which the engine is unpacking."""
    with contextlib.closing(connect(engine)) as connection:
        connection.request("POST", "/build?networkmode=none", data, {"Content-Type": "application/x-tar"})
        wait_until(lambda: contexts(engine) > 2000, "some files")
        yield


def test_a_client_that_goes_ends_what_it_has_sent(own_engine: Engine) -> None:
    with receiving(own_engine, many_files(200_000)):
        pass
    seen = contexts(own_engine)
    while now := contexts(own_engine):
        assert now < seen + 50_000
    wait_until(lambda: left(own_engine) == [], f"left: {left(own_engine)}")
    said, error = build(own_engine, context("FROM bb\nCOPY a /a\n"))
    assert not error, said


def test_an_engine_that_ends_waits_neither_for_a_context_nor_for_its_removal(own_engine: Engine) -> None:
    with receiving(own_engine, many_files(200_000)):
        wait_until(lambda: contexts(own_engine) > 50_000, "more files")
        own_engine.stop()
    seen = contexts(own_engine)
    assert 10_000 < seen < 200_000
    own_engine.start()
    said, error = build(own_engine, context("FROM bb\nCOPY a /a\n", {"large": os.urandom(100_000)}))
    assert not error, said
    wait_until(lambda: contexts(own_engine) < 10, "the rest of what the engine before had unpacked")
