"""Layers of COPY and ADD, unpacked by GNU tar and by the store over the root that they were made for."""

import contextlib
import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from berth.build.files import owners
from berth.build.files.context import Directory, receive_tar, refresh_tar
from berth.build.files.copying import parse_chmod, write_archive, write_copy, write_directory, write_file
from berth.build.files.selection import select
from berth.engine.hostfiles import remove_directories
from berth.errors import BerthError, Cancelled, Conflict, DataLoss, InvalidParameter
from berth.store.tarwriter import TarWriter
from berth.store.unpacking import Limits, Unpacker
from tarmembers import archive, member

pytestmark = pytest.mark.root

NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # capabilities(7)
EPOCH = 1_500_000_000


class Place:
    """A source, a root and the layer that copies from one over the other."""

    def __init__(self, tmp_path: Path) -> None:
        self.top = tmp_path
        self.source, self.root = tmp_path / "source", tmp_path / "root"
        self.source.mkdir()
        self.root.mkdir()
        self.layer = b""

    def made(self, write: Callable[[TarWriter, int, int], object]) -> "Place":
        out = io.BytesIO()
        with Directory(str(self.source)) as source, Directory(str(self.root)) as root:
            writer = TarWriter(out)
            write(writer, source.fd, root.fd)
            writer.close()
        self.layer = out.getvalue()
        return self

    def copy(self, patterns: str | Sequence[str], destination: str, *, select_with: dict[str, Any] | None = None, **how: Any) -> "Place":
        patterns = [patterns] if isinstance(patterns, str) else patterns

        def write(writer: TarWriter, source: int, root: int) -> None:
            chosen = select(source, patterns, **(select_with or {}))
            write_copy(writer, chosen, source, root, destination, several=len(patterns) > 1, **how)

        return self.made(write)

    @property
    def members(self) -> list[tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.layer)) as found:
            return found.getmembers()

    @property
    def names(self) -> list[str]:
        return [info.name for info in self.members]

    def unpacked(self) -> Path:
        """What the store makes of root and layer; GNU tar has to make the same."""
        results = []
        for tool in ("store", "tar"):
            into = self.top / f"merged-{tool}"
            shutil.rmtree(into, ignore_errors=True)
            subprocess.run(["cp", "-a", str(self.root), str(into)], check=True)
            if tool == "tar":
                command = ["tar", "-x", "--xattrs", "--xattrs-include=*", "--keep-directory-symlink", "-p", "-C", str(into)]
                subprocess.run(command, input=self.layer, check=True)
            else:
                with Directory(str(into)) as directory:
                    Unpacker(directory.fd, whiteouts=False).unpack(io.BytesIO(self.layer), lambda data: None)
            results.append(tree(into))
        assert results[0] == results[1]
        return self.top / "merged-store"


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """All about every file."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
            found[os.path.relpath(path, top)] = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), status.st_nlink if files else 0, content, xattrs)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def fill(top: Path, *names: str) -> None:
    for name in names:
        path = top / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {name}")
            os.utime(path, (1_000_000_000, 1_000_000_000))


# -- destinations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "destination", "expected"),
    [
        ("a", "/new", ["new"]), ("a", "/new/", ["new", "new/a"]), ("a", "new", ["work", "work/new"]), ("a", ".", ["work", "work/a"]), ("a", "./", ["work", "work/a"]),
        ("a", "/there", ["there", "there/a"]), ("a", "/there/", ["there", "there/a"]), ("a", "/x/y/z", ["x", "x/y", "x/y/z"]), ("a", "/", ["a"]),
        (["a", "b"], "/new/", ["new", "new/a", "new/b"]), (["a", "b"], "/there", ["there", "there/a", "there/b"]), ("d", "/new", ["new", "new/one", "new/sub", "new/sub/two"]),
        ("d", "/there", ["there", "there/one", "there/sub", "there/sub/two"]), ("d/", "/", ["one", "sub", "sub/two"]), ("?", "/new/", None), ("d/*", "/new/", ["new", "new/one", "new/two"]),
        ("a", "/link", ["there", "there/a"]), ("a", "/link/deep", ["there", "there/deep"]), ("a", "/dangling", ["gone", "gone/away"]), ("d", "/dangling", ["gone", "gone/away", "gone/away/one", "gone/away/sub", "gone/away/sub/two"]),
        ("a", "/out/x", ["etc", "etc/x"]), ("a", "/../../x", ["x"]), ("a", "/there/file", ["there", "there/file"]), ("nothing*", "/new/", []),
        ("a", "/new/.", ["new", "new/a"]), ("a", "", ["work", "work/a"]),
    ],
)  # fmt: skip
def test_destinations(place: Place, sources: str | list[str], destination: str, expected: list[str] | None) -> None:
    fill(place.source, "a", "b", "d/one", "d/sub/two")
    fill(place.root, "there/file", "work/")
    os.symlink("there", place.root / "link")
    os.symlink("/gone/away", place.root / "dangling")
    os.symlink("../../../etc", place.root / "out")
    place.copy(sources, destination, workdir="/work")
    if expected is None:
        expected = ["new", "new/a", "new/b", "new/one", "new/sub", "new/sub/two"]
    assert place.names == expected
    place.unpacked()
    for info in place.members:
        if info.isreg():
            assert info.mtime == 1_000_000_000


@pytest.mark.parametrize(
    ("sources", "destination", "words"),
    [
        ("a", "/file/", "cannot copy to non-directory: /file"), ("a", "/file/x", "cannot copy to non-directory: /file"), ("d", "/file", "cannot copy to non-directory: /file"),
        (["a", "b"], "/file", "cannot copy to non-directory: /file"), (["a", "b"], "/new", "must be a directory and end with a /"), ("[ab]", "/new", "must be a directory and end with a /"),
        ("e", "/there", "cannot replace to directory /there/sub with file"), ("d", "/other", "cannot copy to non-directory: /other/sub"), ("d", "/linked", "cannot copy to non-directory: /linked/sub"),
        (["d", "e"], "/new/", "cannot replace to directory /new/sub with file"), (["e", "d"], "/new/", "cannot copy to non-directory: /new/sub"), ("a", "/loop/x", "too many levels"),
    ],
)  # fmt: skip
def test_what_cannot_be(place: Place, sources: str | list[str], destination: str, words: str) -> None:
    fill(place.source, "a", "b", "d/sub/two", "e/sub")
    fill(place.root, "file", "there/sub/", "other/sub", "linked/")
    os.symlink("/there", place.root / "linked/sub")
    os.symlink("loop", place.root / "loop")
    with pytest.raises(InvalidParameter, match=words):
        place.copy(sources, destination)


def test_what_is_there_keeps_what_it_is(place: Place) -> None:
    """Parents have to be in the layer, or overlayfs shows them as whoever unpacks it makes them."""
    fill(place.root, "a/b/")
    os.chmod(place.root / "a", 0o2750)
    os.chown(place.root / "a/b", 7, 8)
    os.chmod(place.root / "a/b", 0o1777)
    for name in ("a/b", "a"):
        os.utime(place.root / name, (1_100_000_000, 1_100_000_000))
    fill(place.source, "d/f")
    os.chmod(place.source / "d", 0o700)
    place.copy("d", "/a/b", owner=(3, 4))
    found = {info.name: (info.mode, info.uid, info.gid, info.mtime) for info in place.members}
    assert found["a"] == (0o2750, 0, 0, 1_100_000_000)
    assert found["a/b"] == (0o1777, 7, 8, 1_100_000_000)
    merged = place.unpacked()
    assert stat.S_IMODE(os.stat(merged / "a").st_mode) == 0o2750
    assert os.stat(merged / "a/b").st_mtime == 1_100_000_000


def test_what_is_made(place: Place) -> None:
    fill(place.source, "d/sub/f")
    os.chmod(place.source / "d", 0o711)
    os.chmod(place.source / "d/sub", 0o700)
    place.copy("d", "/x/y", owner=(3, 4), source_date_epoch=EPOCH)
    found = {info.name: (info.mode, info.uid, info.gid, info.mtime) for info in place.members}
    assert found["x"] == (0o755, 3, 4, EPOCH)
    assert found["x/y"] == (0o755, 3, 4, EPOCH)  # as BuildKit has it: only what is below the source is copied
    assert found["x/y/sub"] == (0o700, 3, 4, EPOCH)  # younger than that, in truth
    assert found["x/y/sub/f"][1:] == (3, 4, 1_000_000_000)


def test_subdirectories_that_are_there_get_the_sources_mode(place: Place) -> None:
    """As BuildKit has it: all but the top."""
    fill(place.root, "there/sub/old")
    fill(place.source, "d/sub/new")
    os.chmod(place.source / "d/sub", 0o700)
    os.chmod(place.source / "d", 0o700)
    merged = place.copy("d", "/there").unpacked()
    assert stat.S_IMODE(os.stat(merged / "there/sub").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(merged / "there").st_mode) == 0o755
    assert sorted(os.listdir(merged / "there/sub")) == ["new", "old"]


def test_a_file_replaces_a_link(place: Place) -> None:
    fill(place.root, "there/", "precious")
    os.symlink("/precious", place.root / "there/f")
    fill(place.source, "f")
    merged = place.copy("f", "/there/").unpacked()
    assert (merged / "there/f").read_text() == "content of f"
    assert (merged / "precious").read_text() == "content of precious"


def test_the_last_one_wins(place: Place) -> None:
    fill(place.source, "d/f", "e/f", "e/g")
    os.link(place.source / "d/f", place.source / "d/h")
    place.copy(["d", "e"], "/new/")
    merged = place.unpacked()
    assert place.names == ["new", "new/h", "new/f", "new/g"]
    assert (merged / "new/f").read_text() == "content of e/f"
    assert (merged / "new/h").read_text() == "content of d/f"


def test_the_same_every_time(place: Place) -> None:
    fill(place.source, *(f"d{n % 7}/f{n}" for n in range(50)))
    first = place.copy(".", "/x/", source_date_epoch=EPOCH, owner=(0, 0)).layer
    shutil.copytree(place.source, place.top / "again", symlinks=True)
    shutil.rmtree(place.source)
    os.rename(place.top / "again", place.source)
    assert place.copy(".", "/x/", source_date_epoch=EPOCH, owner=(0, 0)).layer == first


# -- what is kept -----------------------------------------------------------------------------------


def test_links_modes_owners_and_attributes(place: Place) -> None:
    fill(place.source, "d/f", "d/tool", "d/plain")
    source = place.source / "d"
    os.link(source / "f", source / "g")
    os.symlink("/nowhere/../f", source / "s")
    os.chown(source / "tool", 11, 12)
    os.chmod(source / "tool", 0o6755)
    os.setxattr(source / "plain", "security.capability", NET_RAW)
    os.setxattr(source / "plain", "user.note", b"kept\xff")
    os.setxattr(source / "plain", "trusted.overlay.opaque", b"y")
    (source / os.fsdecode(b"caf\xe9")).write_text("latin-1")
    (source / ("long-" * 45)).write_text("a long name")
    merged = place.copy("d", "/d").unpacked() / "d"
    assert os.stat(merged / "f").st_ino == os.stat(merged / "g").st_ino
    assert os.readlink(merged / "s") == "/nowhere/../f"
    assert os.stat(merged / "tool")[4:6] == (11, 12)
    assert stat.S_IMODE(os.stat(merged / "tool").st_mode) == 0o6755
    assert os.getxattr(merged / "plain", "security.capability") == NET_RAW
    assert os.getxattr(merged / "plain", "user.note") == b"kept\xff"
    assert "trusted.overlay.opaque" not in os.listxattr(merged / "plain")
    assert (merged / os.fsdecode(b"caf\xe9")).read_text() == "latin-1"
    assert (merged / ("long-" * 45)).read_text() == "a long name"
    assert "cap_net_raw" in subprocess.run(["getcap", str(merged / "plain")], capture_output=True, text=True).stdout if shutil.which("getcap") else True


def test_owner_and_mode_of_all(place: Place) -> None:
    fill(place.source, "d/sub/f")
    os.chmod(place.source / "d/sub/f", 0o4755)
    os.symlink("f", place.source / "d/s")
    place.copy("d", "/d", owner=(5, 6), mode=parse_chmod("u=rwX,go=rX"))
    found = {info.name: (info.mode, info.uid, info.gid) for info in place.members}
    assert found == {"d": (0o755, 5, 6), "d/s": (0o777, 5, 6), "d/sub": (0o755, 5, 6), "d/sub/f": (0o755, 5, 6)}
    place.copy("d", "/d", mode=parse_chmod("640"))
    assert {info.name: info.mode for info in place.members} == {"d": 0o755, "d/s": 0o777, "d/sub": 0o640, "d/sub/f": 0o640}


def test_sparse_files_stay_sparse(place: Place) -> None:
    """In the archive they are not, for whoever reads those; on the disk they are again."""
    size = 40 << 20
    with open(place.source / "sparse", "wb") as file:
        file.truncate(size)
        file.seek(9 << 20)
        file.write(b"middle" * 1000)
    merged = place.copy("sparse", "/sparse").unpacked()
    assert len(place.layer) > size
    assert os.stat(merged / "sparse").st_size == size
    assert os.stat(merged / "sparse").st_blocks * 512 < 4 << 20
    assert (merged / "sparse").read_bytes() == (place.source / "sparse").read_bytes()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)), lambda path: os.mknod(path, stat.S_IFSOCK)])
def test_what_is_no_file(place: Place, make: Callable[[Path], None]) -> None:
    (place.source / "d").mkdir()
    make(place.source / "d/odd")
    with pytest.raises(InvalidParameter, match=r"/d/odd is a (named pipe|device|socket): only files"):
        place.copy("d", "/d")
    place.copy("d", "/d", devices=True)
    is_socket = stat.S_ISSOCK(os.stat(place.source / "d/odd").st_mode)
    assert place.names == (["d"] if is_socket else ["d", "d/odd"])
    place.unpacked()


def test_parents_and_exclude(place: Place) -> None:
    fill(place.source, "a/b/c.txt", "a/b/c.md", "a/d/e.txt")
    os.chmod(place.source / "a/b", 0o700)
    place.copy("**/*.txt", "/x/", select_with={"parents": True, "exclude": ["a/d"]})
    assert place.names == ["x", "x/a", "x/a/b", "x/a/b/c.txt"]
    assert place.members[2].mode == 0o700


# -- what changes meanwhile -------------------------------------------------------------------------


class Meddling(io.BytesIO):
    """Does something once the archive has come to a certain size."""

    def __init__(self, after: int, what: Callable[[], object]) -> None:
        super().__init__()
        self._after, self._what, self._done = after, what, False

    def write(self, data: Any) -> int:
        if not self._done and self.tell() + len(data) >= self._after:
            self._done = True
            self._what()
        return super().write(data)


@pytest.mark.parametrize("what", ["grow", "shrink", "rewrite", "link", "gone"])
def test_a_source_that_changes(place: Place, what: str) -> None:
    size = 6 << 20
    path = place.source / "d/big"
    path.parent.mkdir()
    path.write_bytes(b"x" * size)
    (place.source / "d/z").write_text("z")

    def change() -> None:
        if what == "grow":
            with open(path, "ab") as file:
                file.write(b"y" * (3 << 20))
        elif what == "shrink":
            os.truncate(path, 100)
        elif what == "rewrite":
            time.sleep(0.02)  # a tick of the kernel's clock, without which nobody could tell
            with open(path, "r+b") as file:
                file.write(b"y")
        else:
            os.unlink(place.source / "d/z")
            if what == "link":
                os.symlink("/etc/passwd", place.source / "d/z")

    with Directory(str(place.source)) as source, Directory(str(place.root)) as root:
        chosen = select(source.fd, ["d"])
        out = Meddling(2 << 20, change)
        if what == "link":  # what it is by now is copied, which is a link: never what it leads to
            write_copy(TarWriter(out), chosen, source.fd, root.fd, "/d")
            assert b"root:" not in out.getvalue()
            return
        with pytest.raises(Conflict, match=r"/d/(big|z) changed while the build read it"):
            write_copy(TarWriter(out), chosen, source.fd, root.fd, "/d")


def test_a_directory_swapped_for_a_link(place: Place) -> None:
    (place.top / "outside").mkdir()
    (place.top / "outside/f").write_text("secret")
    fill(place.source, "d/f")
    os.symlink(str(place.top / "outside"), place.source / "link")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(place.source / "d", place.source / "aside")
            os.rename(place.source / "link", place.source / "d")
            os.rename(place.source / "d", place.source / "link")
            os.rename(place.source / "aside", place.source / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            with contextlib.suppress(BerthError, OSError):
                place.copy("d", "/d")
                assert b"secret" not in place.layer
    finally:
        stop.set()
        thread.join()


# -- ADD of archives --------------------------------------------------------------------------------


def packed(data: bytes, how: str) -> bytes:
    if how == "plain":
        return data
    program = {"gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd"}[how]
    if not shutil.which(program):
        pytest.skip(f"no {program}")
    return subprocess.run([program, "-c"], input=data, capture_output=True, check=True).stdout


@pytest.fixture
def tarball(place: Place) -> bytes:
    """Made by GNU tar."""
    top = place.top / "packed"
    fill(top, "bin/tool", "share/doc", "top")
    os.chmod(top / "bin/tool", 0o4755)
    os.chown(top / "share/doc", 9, 10)
    os.link(top / "top", top / "linked")
    os.symlink("bin/tool", top / "short")
    (top / os.fsdecode(b"caf\xe9")).write_text("latin-1")
    os.chmod(top / "share", 0o700)
    return subprocess.run(["tar", "-c", "--xattrs", "--format=pax", "-C", str(top), "."], capture_output=True, check=True).stdout


@pytest.mark.parametrize("how", ["plain", "gzip", "bzip2", "xz", "zstd"])
def test_add_unpacks_by_content(place: Place, tarball: bytes, how: str) -> None:
    (place.source / "not-called-tar").write_bytes(packed(tarball, how))
    fill(place.root, "opt/old")
    os.chmod(place.root / "opt", 0o711)
    merged = place.copy("not-called-tar", "/opt", unpack=True).unpacked()
    expected = tree(place.top / "packed")
    found = tree(merged / "opt")
    assert found.pop("old")
    assert found == expected
    assert stat.S_IMODE(os.stat(merged / "opt").st_mode) == 0o711
    place.copy("not-called-tar", "/opt/", unpack=True, owner=(1, 2))
    assert {(info.uid, info.gid) for info in place.members if info.name != "opt"} == {(1, 2)}


@pytest.mark.parametrize("content", [b"", b"text", bytes(10240), b"\x1f\x8b" + b"junk" * 100, b"BZh9junk", b"x" * 512])
def test_add_copies_what_is_no_archive(place: Place, content: bytes) -> None:
    (place.source / "a.tar.gz").write_bytes(content)
    merged = place.copy("a.tar.gz", "/x/", unpack=True).unpacked()
    assert (merged / "x/a.tar.gz").read_bytes() == content


def test_add_of_a_compressed_file_that_is_no_archive(place: Place) -> None:
    data = packed(b"text" * 1000, "gzip")
    (place.source / "text.gz").write_bytes(data)
    assert (place.copy("text.gz", "/", unpack=True).unpacked() / "text.gz").read_bytes() == data


def test_only_named_archives_are_unpacked(place: Place, tarball: bytes) -> None:
    fill(place.source, "d/")
    (place.source / "d/a.tar").write_bytes(tarball)
    assert place.copy("d", "/d", unpack=True).names == ["d", "d/a.tar"]


def added(place: Place, data: bytes, destination: str = "/opt", **how: Any) -> Place:
    return place.made(lambda writer, source, root: write_archive(writer, io.BytesIO(data), root, destination, **how))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([member("../x")], r"has '\.\.' in its name"), ([member("a/../../x")], r"has '\.\.' in its name"), ([member("h", tarfile.LNKTYPE, linkname="../../etc/passwd")], r"has '\.\.' in what it links to"),
        ([member("h", tarfile.LNKTYPE, linkname="etc/passwd")], "is no file there"), ([member("d/.wh.x")], "cannot have a name that begins with"), ([member("x", b"V")], "unknown kind"),
        ([member("c", tarfile.CHRTYPE)], "character device 0:0"), ([member("f"), member("f/x")], "cannot copy to non-directory: /opt/f"),
    ],
)  # fmt: skip
def test_hostile_archives(place: Place, members: list[tarfile.TarInfo], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        added(place, archive(*members))


def test_an_archive_follows_links_inside_the_root(place: Place) -> None:
    """Its own and the image's; as if it were unpacked in place."""
    fill(place.root, "etc/old", "opt/")
    os.symlink("/etc", place.root / "opt/conf")
    data = archive(
        (member("conf/new"), b"1"), member("mine", tarfile.SYMTYPE, linkname="../../../../etc"), (member("mine/newer"), b"2"), (member("/abs"), b"3"),
        member("dir", tarfile.DIRTYPE), member("dir", tarfile.SYMTYPE, linkname="/etc"), (member("dir/newest"), b"4"),
    )  # fmt: skip
    added(place, data)
    assert [name for name in place.names if name.startswith("etc")] == ["etc", "etc/new", "etc/newer", "etc/newest"]
    assert "opt/abs" in place.names


def test_a_hard_link_to_what_the_image_has(place: Place) -> None:
    fill(place.root, "opt/old")
    merged = added(place, archive(member("new", tarfile.LNKTYPE, linkname="old"))).unpacked()
    assert (merged / "opt/new").read_text() == "content of opt/old"


def test_sparse_members(place: Place) -> None:
    top = place.top / "holes"
    top.mkdir()
    with open(top / "f", "wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"data")
    data = subprocess.run(["tar", "-cS", "-C", str(top), "f"], capture_output=True, check=True).stdout
    assert len(data) < 100_000
    assert (added(place, data).unpacked() / "opt/f").read_bytes() == (top / "f").read_bytes()


def test_directories_that_no_entry_names_may_be_deep(place: Place) -> None:
    name = "d/" * 1900 + "f"
    assert added(place, archive(member(name))).names == ["opt", *("opt/" + name[: 2 * depth - 1] for depth in range(1, 1901)), f"opt/{name}"]


def test_names_that_fill_the_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.build.files.layer._MOST_NOTED_BYTES", 300_000)
    added(place, archive(*(member(f"{number:0100}") for number in range(900))))
    with pytest.raises(InvalidParameter, match="of memory: refused"):
        added(place, archive(*(member(f"{number:0200}") for number in range(900))))


def test_cut_off(place: Place, tarball: bytes) -> None:
    for at in (100, 700, len(tarball) // 2 // 512 * 512):
        with pytest.raises(DataLoss):
            added(place, tarball[:at])


# -- heredocs, WORKDIR ------------------------------------------------------------------------------


def test_write_file(place: Place) -> None:
    fill(place.root, "there/")
    for destination, expected in (("/there", "there/EOF"), ("/there/", "there/EOF"), ("/x/run.sh", "x/run.sh"), ("rel", "work/rel")):
        place.made(lambda writer, source, root, to=destination: write_file(writer, root, to, "EOF", b"hello\n", workdir="/work", owner=(1, 2), mode=parse_chmod("755"), source_date_epoch=5))
        last = place.members[-1]
        assert (last.name, last.mode, last.uid, last.gid, last.mtime) == (expected, 0o755, 1, 2, 5)
        assert (place.unpacked() / expected).read_bytes() == b"hello\n"


def test_write_directory(place: Place) -> None:
    fill(place.root, "there/", "file")
    os.symlink("there", place.root / "link")
    wrote: list[bool] = []
    for path in ("/there", "/link", "/", "/link/../there"):
        place.made(lambda writer, source, root, to=path: wrote.append(write_directory(writer, root, to)))
        assert place.names == []
    place.made(lambda writer, source, root: wrote.append(write_directory(writer, root, "/link/a/b", source_date_epoch=7)))
    assert [(info.name, info.mode) for info in place.members] == [("there", 0o755), ("there/a", 0o755), ("there/a/b", 0o755)]
    assert wrote == [False, False, False, False, True]
    for path in ("/file", "/file/x"):
        with pytest.raises(InvalidParameter, match="cannot copy to non-directory: /file"):
            place.made(lambda writer, source, root, to=path: write_directory(writer, root, to))


# -- owners and modes -------------------------------------------------------------------------------


def test_owners(place: Place) -> None:
    fill(place.root, "etc/")
    (place.root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n12:x:55:56::/:/bin/sh\n")
    (place.root / "etc/group").write_text("root:x:0:\nvideo:x:44:\n")
    with Directory(str(place.root)) as root:
        for text, expected in (("web", (33, 34)), ("web:video", (33, 44)), ("7", (7, 7)), ("7:8", (7, 8)), ("0:video", (0, 44)), ("33", (33, 33)), ("12", (12, 12)), ("web:9", (33, 9))):
            assert owners.resolve(text, root.fd) == expected, text
        for text in ("nobody", "web:nothing", "", ":", "web:", ":video", "a:b:c", "99999999999", "-1"):
            with pytest.raises(InvalidParameter):
                owners.resolve(text, root.fd)


def test_owners_by_a_passwd_that_leads_out(place: Place) -> None:
    fill(place.root, "etc/")
    os.symlink("/etc/passwd", place.root / "etc/passwd")
    with Directory(str(place.root)) as root, pytest.raises(InvalidParameter):
        owners.resolve("root", root.fd)


@pytest.mark.parametrize("before", [0o644, 0o755, 0o4711, 0o2000, 0o1777, 0])
@pytest.mark.parametrize("is_directory", [False, True])
@pytest.mark.parametrize(
    "text", ["755", "0644", "4755", "u=rwX,go=rX", "a+x", "go-w", "u+s,g-s", "+t", "o=u", "g=o,u-x", "ug=rw,o=", "a=r,u+w", "u=rwx,g=u-w", "-X", "a+X", "u=s", "=rw"],
)  # fmt: skip
def test_modes_as_chmod_sets_them(tmp_path: Path, text: str, is_directory: bool, before: int) -> None:
    path = tmp_path / "x"
    if is_directory:
        path.mkdir()
    else:
        path.touch()
    os.chmod(path, before)
    subprocess.run(["chmod", text, str(path)], check=True, umask=0)
    after = stat.S_IMODE(os.stat(path).st_mode)
    if is_directory and text.isdigit():
        after = int(text, 8)  # chmod(1) keeps a directory's set-group-id there, BuildKit does not
    assert parse_chmod(text)(before, is_directory) == after


@pytest.mark.parametrize("text", ["", "8", "99999", "777777", "u", "rwx", "u=q", "u=rw;go=r", "-1", "0x1", "u=rwx,", "u=ug", "１"])
def test_modes_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid chmod parameter"):
        parse_chmod(text)


# -- contexts ---------------------------------------------------------------------------------------


def received(place: Place, data: bytes, **how: Any) -> Path:
    into = place.top / "into"
    into.mkdir()
    receive_tar(io.BytesIO(data), str(into), **how)
    return into


@pytest.mark.parametrize("how", ["plain", "gzip", "bzip2", "xz", "zstd"])
def test_contexts(place: Place, tarball: bytes, how: str) -> None:
    into = received(place, packed(tarball, how))
    ours, theirs = tree(into), tree(place.top / "packed")
    assert {name: (0, 0) for name in ours} == {name: entry[1:3] for name, entry in ours.items()}
    assert {name: (entry[0], *entry[3:]) for name, entry in ours.items()} == {name: (entry[0], *entry[3:]) for name, entry in theirs.items()}


@pytest.mark.parametrize("members", [[member("../x")], [member("l", tarfile.SYMTYPE, linkname="/etc"), (member("l/x"), b"1")], [member("h", tarfile.LNKTYPE, linkname="../x")]])
def test_hostile_contexts(place: Place, members: list[Any]) -> None:
    with contextlib.suppress(BerthError):
        into = received(place, archive(*members))
        assert os.readlink(into / "l") == "/etc"
        assert (into / "etc/x").exists()
    assert not (place.top / "x").exists()
    assert not os.path.exists("/etc/x")


def test_contexts_that_are_none(place: Place) -> None:
    for index, data in enumerate((b"", b"text" * 500, b"\x1f\x8bjunk")):
        into = place.top / f"into{index}"
        into.mkdir()
        with pytest.raises((DataLoss, InvalidParameter)):
            receive_tar(io.BytesIO(data), str(into))


def test_contexts_have_a_bound_and_an_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive(*(member(f"f{number}") for number in range(7)))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled, match="not wanted"):
        received(place, data, stop=stop)
    assert os.listdir(place.top / "into") == []
    monkeypatch.setattr("berth.build.files.context._LIMITS", Limits(entries=6))
    with pytest.raises(InvalidParameter, match="more than 6 entries"):
        receive_tar(io.BytesIO(data), str(place.top / "into"))
    with Directory(str(place.top / "into")) as there, pytest.raises(InvalidParameter, match="more than 6 entries"):
        refresh_tar(io.BytesIO(data), there.fd)


def test_a_removal_that_is_stopped_leaves_the_rest(tmp_path: Path) -> None:
    fill(tmp_path, *(f"top/{name}/f" for name in "abc"))
    stop = threading.Event()
    stop.set()
    remove_directories([str(tmp_path / "top")], stop)
    assert len(list((tmp_path / "top").rglob("f"))) == 3
    remove_directories([str(tmp_path / "top")])
    assert not (tmp_path / "top").exists()
