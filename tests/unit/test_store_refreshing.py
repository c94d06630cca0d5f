"""Archives unpacked one over the other: what comes to be is what the last one alone makes of an empty directory."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from berth.build.files.context import receive_tar, refresh_tar
from berth.errors import BerthError
from berth.store import refreshing

FILE, DIRECTORY, SYMLINK, HARD_LINK, FIFO = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE
NAMES = ["a", "b", "d", "a/b", "d/a", "d/b", "d/a/b", "./d/./b", "/d/a", "x/y/z", ".wh.a", "d/.wh..wh..opq", "../a", "."]
TARGETS = ["a", "b", "d", "/d", "../d", "..", "/", "../../outside", "d/a", "/nowhere", "x/y"]


def entry(name, kind=FILE, data=b"", mode=0o644, mtime=1000, link="", xattr=""):
    return name, kind, data, mode, mtime, link, xattr


def archive(entries, uid=0):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, data, mode, mtime, link, xattr in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.linkname, info.uid = kind, mode, mtime, link, uid
            info.size = len(data) if kind == FILE else 0
            if xattr:
                info.pax_headers = {"SCHILY.xattr.user.test": xattr}
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def refresh(data, path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return refresh_tar(io.BytesIO(data), fd)
    finally:
        os.close(fd)


def outcome(work):
    """The error's kind and words, or None."""
    try:
        work()
    except BerthError as error:
        return type(error).__name__, str(error)
    return None


def tree(top):
    """path -> all that an archive can say of it; files with several names by the least of these. A directory that no entry dated has no date."""
    found, names = {}, {}
    for at, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = f"{at}/{name}"
            status = os.lstat(path)
            mode, relative = status.st_mode, os.path.relpath(path, top)
            content = os.readlink(path) if stat.S_ISLNK(mode) else Path(path).read_bytes() if stat.S_ISREG(mode) else b""
            mtime = 0 if stat.S_ISDIR(mode) and status.st_mtime > 1_000_000 else status.st_mtime_ns
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
            if not stat.S_ISDIR(mode):
                names.setdefault(status.st_ino, set()).add(relative)
            found[relative] = (mode, status.st_uid, status.st_gid, mtime, content, xattrs, status.st_ino)
    return {path: (*rest, min(names.get(inode, {path}))) for path, (*rest, inode) in found.items()}


entries = st.builds(
    entry, st.sampled_from(NAMES), st.sampled_from([FILE, FILE, FILE, DIRECTORY, DIRECTORY, SYMLINK, HARD_LINK, FIFO]),
    st.sampled_from([b"", b"one", b"two", b"three"]), st.sampled_from([0o644, 0o755, 0o4755, 0o2755]), st.integers(1000, 1002),
    st.sampled_from(TARGETS), st.sampled_from(["", "", "", "value"]),
)  # fmt: skip
archives = st.lists(entries, max_size=8)
orderly = st.lists(
    st.builds(
        entry, st.sampled_from(["a", "b", "d/a", "d/b", "x/y/z"]), st.sampled_from([FILE, FILE, FILE, SYMLINK]),
        st.sampled_from([b"one", b"two"]), st.sampled_from([0o644, 0o755]), st.integers(1000, 1001), st.sampled_from(TARGETS),
    ),
    max_size=5, unique_by=lambda each: each[0],
)  # fmt: skip


def check(sequence):
    top = tempfile.mkdtemp(prefix="berth-refreshing-")
    try:
        for name in ("again", "outside"):
            os.mkdir(f"{top}/{name}")
        Path(top, "outside/a").write_text("untouched")
        for number, data in enumerate(sequence):
            os.mkdir(f"{top}/{number}")
            expected = outcome(lambda n=number, d=data: receive_tar(io.BytesIO(d), f"{top}/{n}"))
            assert outcome(lambda d=data: refresh(d, f"{top}/again")) == expected
            if expected is None:
                assert tree(f"{top}/again") == tree(f"{top}/{number}")
        assert sorted(os.listdir(top)) == sorted(["again", "outside", *map(str, range(len(sequence)))])
        assert os.listdir(f"{top}/outside") == ["a"]
        assert Path(top, "outside/a").read_text() == "untouched"
    finally:
        shutil.rmtree(top)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(archives, orderly), min_size=2, max_size=3))
@example([[entry("a", SYMLINK, link="d"), entry("d", DIRECTORY)], [entry("a/b", data=b"one")]])
@example([[entry("a", SYMLINK, link="../outside")], [entry("a", DIRECTORY), entry("a/a", data=b"new")]])
@example([[entry("d", DIRECTORY), entry("d/a", data=b"one")], [entry("d", SYMLINK, link="/")]])
@example([[entry("a", data=b"one"), entry("b", HARD_LINK, link="a")], [entry("a", data=b"one"), entry("b", data=b"one")]])
@example([[entry("a", data=b"one")], [entry("b", HARD_LINK, link="a")]])
@example([[entry("d", DIRECTORY, xattr="value"), entry("d/a", data=b"one")], [entry("d", DIRECTORY), entry("d/a", data=b"one"), entry("d", DIRECTORY)]])
@example([[entry("a", data=b"one", xattr="value")], [entry("a", data=b"one")]])
@example([[entry("d", DIRECTORY, mode=0o755), entry("d/a/b", data=b"one")], [entry("d", DIRECTORY, mode=0o2755), entry("d/a/b", data=b"one")]])
def test_what_comes_to_be_is_the_last_archive(sequence):
    check([archive(each) for each in sequence])


@settings(max_examples=50, deadline=None)
@given(archives, archives, st.integers(0, 6000))
def test_an_archive_that_ends_half_way_does_no_harm(first, second, length):
    data = archive(first)
    check([data, archive(second)[:length], data])


def files_of(count, changed=()):
    found = [entry("d", DIRECTORY, mode=0o755)]
    found += [entry(f"d/{number}", data=b"new" if number in changed else b"old", mtime=1000) for number in range(count)]
    return [*found, entry("link", SYMLINK, link="d/1", mode=0o777)]


def inodes(top):
    """What GNU find says: name, inode, when it was last changed in any way."""
    done = subprocess.run(["find", str(top), "-type", "f", "-printf", r"%P %i %C@\n"], capture_output=True, text=True, check=True)
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_only_what_differs_is_written(tmp_path):
    refresh(archive(files_of(20)), tmp_path)
    before = inodes(tmp_path)
    size = refresh(archive(files_of(20, changed=[7])), tmp_path)
    after = inodes(tmp_path)
    assert [name for name in before if after[name] != before[name]] == ["d/7"]
    assert after["d/7"][0] != before["d/7"][0]  # digests are kept by inode
    assert (tmp_path / "d/7").read_bytes() == b"new"
    assert size == 20 * 3 + len("d/1")


def test_another_time_is_set_and_the_file_stays(tmp_path):
    refresh(archive([entry("a", data=b"one", mtime=1000)]), tmp_path)
    inode = os.stat(tmp_path / "a").st_ino
    refresh(archive([entry("a", data=b"one", mtime=2000)]), tmp_path)
    assert (os.stat(tmp_path / "a").st_ino, os.stat(tmp_path / "a").st_mtime) == (inode, 2000)


def test_a_large_file_that_differs_late(tmp_path):
    data = os.urandom(3 << 20)
    for content in (data, data[:-1] + b"?", b"?" + data[1:], data[: 2 << 20] + b"?" + data[(2 << 20) + 1 :]):
        refresh(archive([entry("a", data=content)]), tmp_path)
        assert (tmp_path / "a").read_bytes() == content


def test_devices_are_not_opened_and_give_way(tmp_path):
    os.mknod(tmp_path / "a", stat.S_IFCHR | 0o644, os.makedev(1, 3))
    os.mkfifo(tmp_path / "b")
    refresh(archive([entry("a", data=b"one"), entry("b", data=b"two")]), tmp_path)
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"one", b"two"]


def test_owners_are_not_the_clients(tmp_path):
    refresh(archive([entry("a", data=b"one")], uid=1000), tmp_path)
    os.chown(tmp_path / "a", 5, 5)
    refresh(archive([entry("a", data=b"one")], uid=1000), tmp_path)
    assert (os.stat(tmp_path / "a").st_uid, os.stat(tmp_path / "a").st_gid) == (0, 0)


def test_more_names_than_are_kept_in_memory(monkeypatch):
    monkeypatch.setattr(refreshing, "_MOST_NAMES", 5)
    check([archive(files_of(20)), archive(files_of(15, changed=[9]))])


def test_a_full_disk_lets_what_the_archive_has_not_go_at_once(tmp_path, monkeypatch):
    from berth.store import unpacking

    (tmp_path / "old").write_bytes(bytes(1000))
    monkeypatch.setattr(unpacking, "_ROOM_CHECK_BYTES", 1)
    monkeypatch.setattr(unpacking, "_room_bytes", lambda fd: 0 if os.path.exists(tmp_path / "old") else 1 << 40)
    refresh(archive([entry("a", data=b"one"), entry("b", data=b"two")]), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("data", [b"", b"text" * 500, b"\x1f\x8bjunk"])
def test_what_is_no_archive(tmp_path, data):
    check([archive([entry("a", data=b"one")]), data])
