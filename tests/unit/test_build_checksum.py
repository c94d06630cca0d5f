"""Digests of what a COPY brings: they change with all that matters and with nothing else; the cache never lies."""

import io
import os
import shutil
import sqlite3
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.build.files import checksum
from berth.build.files.checksum import ChecksumCache, content_digest
from berth.build.files.context import receive_tar
from berth.build.files.selection import select
from berth.build.files.sources import Sources
from berth.errors import Conflict, InvalidParameter

AS_ROOT = os.geteuid() == 0
# VFS_CAP_REVISION_2 with CAP_NET_RAW permitted (capabilities(7)).
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "d/e").mkdir(parents=True)
    (top / "d/a").write_text("a")
    (top / "d/e/b").write_text("b")
    os.symlink("a", top / "d/link")
    os.chmod(top / "d/a", 0o644)
    return top


def digest(root: Path, *patterns: str, cache: ChecksumCache | None = None, with_owner: bool = False) -> str:
    fd = os.open(root, os.O_RDONLY)
    try:
        return content_digest(fd, select(fd, patterns or ["."]), cache, with_owner=with_owner)
    finally:
        os.close(fd)


def put(path: Path, text: str) -> None:
    path.write_text(text)


def relink(path: Path, target: str) -> None:
    path.unlink()
    os.symlink(target, path)


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda top: put(top / "d/a", "b"), lambda top: put(top / "d/a", ""), lambda top: os.chmod(top / "d/a", 0o755), lambda top: os.chmod(top / "d/e", 0o700),
        lambda top: os.rename(top / "d/a", top / "d/c"), lambda top: relink(top / "d/link", "b"), lambda top: (top / "d/new").write_text(""),
        lambda top: (top / "d/new").mkdir(), lambda top: replaced(top / "d/link", lambda path: path.write_text("a")), lambda top: (top / "d/a").unlink(),
        lambda top: replaced(top / "d/a", lambda path: path.mkdir()), lambda top: os.chmod(top / "d/a", 0o4644),
        pytest.param(lambda top: os.setxattr(top / "d/a", "security.capability", NET_RAW), marks=pytest.mark.skipif(not AS_ROOT, reason="needs root")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cached", [False, True])
def test_changes_with(root: Path, change: Callable[[Path], object], cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "_TICK_NS", 0)
    cache = ChecksumCache() if cached else None
    before = digest(root, cache=cache)
    assert digest(root, cache=cache) == before
    time.sleep(0.02)  # one tick of the kernel's clock for files; what changes within it the cache must not have, see below
    change(root)
    assert digest(root, cache=cache) == digest(root) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda top: os.utime(top / "d/a", (1, 1)), lambda top: os.utime(top / "d/e", (1, 1)), lambda top: os.setxattr(top / "d/a", "user.note", b"x"),
        lambda top: (top / "outside").write_text("x"), lambda top: os.chmod(top / "d", 0o700), lambda top: os.rename(top / "d", top / "e") or os.symlink("e", top / "d"),
    ],
)  # fmt: skip
def test_does_not_change_with(root: Path, change: Callable[[Path], object]) -> None:
    before = digest(root, "d")
    change(root)
    assert digest(root, "d") == before


@pytest.mark.root
def test_owner_counts_if_asked(root: Path) -> None:
    plain, owned = digest(root), digest(root, with_owner=True)
    os.chown(root / "d/a", 5, 6)
    os.chmod(root / "d/a", 0o644)
    assert digest(root) == plain
    assert digest(root, with_owner=True) != owned


def test_the_same_elsewhere(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    assert digest(root, with_owner=True) == digest(tmp_path / "copy", with_owner=True)


def test_no_two_trees_are_one(root: Path) -> None:
    """Names and contents do not run into each other, nor do directories and where a source was named."""
    (root / "x").mkdir()
    (root / "x/ab").write_text("c")
    (root / "y").mkdir()
    (root / "y/a").write_text("bc")
    assert digest(root, "x") != digest(root, "y")
    assert digest(root, "x/ab") != digest(root, "x")
    assert digest(root, "d/a", "d/e/b") != digest(root, "d/e/b", "d/a")


def test_one_that_changes_within_a_tick_is_not_remembered(root: Path) -> None:
    cache = ChecksumCache()
    for text in "123456789":
        (root / "d/a").write_text(text)
        os.utime(root / "d/a", ns=(0, 0))
        assert digest(root, cache=cache) == digest(root)


class Counting:
    """How often a file was opened to be read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        plain = Sources.open_file

        def counted(sources: Sources, path: str) -> int:
            self.paths.append(path)
            return plain(sources, path)

        monkeypatch.setattr(Sources, "open_file", counted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(checksum, "_TICK_NS", 0)
    return Counting(monkeypatch)


def test_unchanged_files_are_not_read_again(root: Path, tmp_path: Path, reads: Counting) -> None:
    path = str(tmp_path / "cache.db")
    cache = ChecksumCache(path)
    first = digest(root, cache=cache)
    assert sorted(reads.paths) == ["d/a", "d/e/b"]
    assert digest(root, cache=cache) == first
    cache.close()
    again = ChecksumCache(path)
    assert digest(root, cache=again) == first
    assert len(reads.paths) == 2
    (root / "d/e/b").write_text("bbb")
    assert digest(root, cache=again) != first
    assert reads.paths[2:] == ["d/e/b"]
    again.close()
    with sqlite3.connect(path) as database:  # the file is what it is said to be
        assert database.execute("SELECT count(*) FROM files").fetchone() == (2,)
    database.close()


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(4096)])
def test_a_damaged_file_is_made_anew(root: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(content)
    cache = ChecksumCache(str(path))
    assert digest(root, cache=cache) == digest(root)
    cache.close()
    again = ChecksumCache(str(path))
    again.close()


def test_several_threads(root: Path, tmp_path: Path) -> None:
    for number in range(300):
        (root / f"f{number}").write_text(str(number))
    cache = ChecksumCache(str(tmp_path / "c.db"))
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest(root, cache=cache))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.close()
    assert found == [digest(root)] * 6


def test_what_becomes_a_link_or_goes(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    fd = os.open(root, os.O_RDONLY)
    try:
        selected = select(fd, ["d"])
        os.rename(root / "d", root / "aside")
        os.symlink(str(tmp_path), root / "d")
        with pytest.raises(Conflict, match="changed while the build read it"):
            content_digest(fd, selected)
        (root / "d").unlink()
        os.rename(root / "aside", root / "d")
        (root / "d/a").unlink()
        with pytest.raises(Conflict):
            content_digest(fd, selected)
        os.symlink("/etc/passwd", root / "d/a")
        assert content_digest(fd, selected) != ""  # as the link that it is now
    finally:
        os.close(fd)


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    before = digest(root)
    os.mkfifo(root / "pipe")
    assert digest(root) != before


def test_a_tree_deeper_than_paths_are_long(root: Path) -> None:
    fd = os.open(root / "d", os.O_RDONLY)
    for _ in range(30):
        os.mkdir("n" * 200, dir_fd=fd)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(InvalidParameter, match="nested too deep"):
        digest(root)


def test_what_came_in_an_archive_is_not_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.link(root / "d/a", root / "d/linked")  # the link changes the file's ctime: those are read
    (root / "large").write_bytes(os.urandom(3 << 20))
    (root / "holes").write_bytes(bytes(3 << 20))
    data = subprocess.run(["tar", "-c", "-C", str(root), "."], capture_output=True, check=True).stdout
    into = tmp_path / "into"
    into.mkdir()
    cache = ChecksumCache()
    receive_tar(io.BytesIO(data), str(into), cache=cache)
    reads = Counting(monkeypatch)
    found = digest(into, cache=cache)
    assert sorted(set(reads.paths)) == ["d/a", "d/linked"]
    assert found == digest(into)
    with open(into / "large", "r+b") as file:
        file.write(b"changed")
    assert digest(into, cache=cache) == digest(into) != found
