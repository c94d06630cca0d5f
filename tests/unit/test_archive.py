"""Paths, names, modes and ids of docker cp; the tar writer; an unpacker that stays in a directory."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from berth.cli import cp
from berth.engine import archive
from berth.errors import InvalidParameter
from berth.linux import libc
from berth.store import tarwriter
from berth.store.tarwriter import TarWriter, joined
from berth.store.unpacking import Unpacker


@pytest.mark.parametrize(
    ("path", "cleaned", "member"),
    [
        ("/etc", "/etc", "etc"), ("etc/", "/etc/", "etc"), ("/etc/.", "/etc/.", "."), ("/", "/", "/"), ("/.", "/.", "."), (".", "/.", "."),
        ("//a//b/../c", "/a/c", "c"), ("/../../x", "/x", "x"), ("a/./b", "/a/b", "b"), ("", "/", "/"),
    ],
)  # fmt: skip
def test_clean(path: str, cleaned: str, member: str) -> None:
    assert (archive.clean(path), archive.member_name(cleaned)) == (cleaned, member)


def test_go_mode() -> None:
    assert archive.go_mode(stat.S_IFREG | 0o4755) == 0o755 | 1 << 23
    assert archive.go_mode(stat.S_IFDIR | 0o1777) == 0o777 | 1 << 31 | 1 << 20
    assert archive.go_mode(stat.S_IFLNK | 0o777) == 134218239
    assert archive.go_mode(stat.S_IFCHR | 0o666) == 0o666 | 1 << 26 | 1 << 21


def test_ids() -> None:
    maps = [{"containerID": 0, "hostID": 200000, "size": 65536}], [{"containerID": 0, "hostID": 300000, "size": 10}]
    assert archive.inside(maps)(200005, 300003) == (5, 3)
    assert archive.outside(maps)(5, 3) == (200005, 300003)
    assert archive.outside(maps)(5, 11) == (200005, 11)
    assert archive.inside(([], []))(4, 5) == (4, 5)


def test_canonical(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name, target in (("l", "/a"), ("a/up", "../../../a/b"), ("loop", "loop"), ("gone", "/no/where"), ("dots", "a/../l")):
        os.symlink(target, tmp_path / name)
    root = os.open(tmp_path, os.O_PATH)
    seen = {path: archive.canonical(root, path) for path in ("/l/b", "/a/up", "/gone", "/gone/x", "/dots/b", "/new/x")}
    assert seen == {"/l/b": "/a/b", "/a/up": "/a/b", "/gone": "/no/where", "/gone/x": "/no/where/x", "/dots/b": "/a/b", "/new/x": "/new/x"}
    assert archive.canonical(root, "/loop/x").startswith("/loop")
    os.close(root)


def written(path: Path, name: str) -> tarfile.TarFile:
    out = io.BytesIO()
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    writer = TarWriter(out)
    writer.add_tree(fd, name)
    writer.close()
    os.close(fd)
    out.seek(0)
    return tarfile.open(fileobj=out)


def test_writer(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/long-{}".format("x" * 120)).write_bytes(b"1" * 1025)
    (tmp_path / "f").write_bytes(b"abc")
    os.link(tmp_path / "f", tmp_path / "g")
    os.symlink("f", tmp_path / "s")
    os.mkfifo(tmp_path / "p")
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    with written(tmp_path, "top") as tar:
        infos = {info.name: info for info in tar.getmembers()}
        assert tar.extractfile("top/f").read() == b"abc"  # type: ignore[union-attr]
    assert infos["top"].isdir()
    assert infos["top/g"].islnk()
    assert infos["top/g"].linkname == "top/f"
    assert infos["top/s"].linkname == "f"
    assert infos["top/p"].isfifo()
    assert infos["top/d/long-" + "x" * 120].size == 1025
    assert "top/" + os.fsdecode(b"\xff") in infos
    with written(tmp_path, "") as tar:
        assert "f" in tar.getnames()
        assert "." not in tar.getnames()


def test_plain_header_is_tarfiles_own() -> None:
    for kind, name, link, size in (
        (tarfile.REGTYPE, "a", "", 1000), (tarfile.DIRTYPE, "d", "", 0), (tarfile.DIRTYPE, "./", "", 0), (tarfile.SYMTYPE, "l", "/x" * 50, 0),
        (tarfile.REGTYPE, "n" * 100, "", (1 << 33) - 1), (tarfile.LNKTYPE, "h", "a", 0), (tarfile.CHRTYPE, "c", "", 0),
    ):  # fmt: skip
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size, info.mode, info.uid, info.gid, info.mtime = kind, link, size, 0o4755, 7, 1000, 1795594961
        info.devmajor, info.devminor = 5, 1
        ours = tarwriter._plain_header(info)
        assert ours == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    for change in ({"name": "n" * 101}, {"name": "\u00e9"}, {"uid": 1 << 21}, {"size": 1 << 33}, {"mtime": -1}, {"pax_headers": {"a": "b"}}):
        info = tarfile.TarInfo("a")
        for key, value in change.items():
            setattr(info, key, value)
        assert tarwriter._plain_header(info) == b""


@pytest.mark.parametrize(("name", "path", "whole"), [("etc", "a", "etc/a"), (".", "a", "./a"), ("/", "a", "/a"), ("", "a", "a"), ("etc", "", "etc")])
def test_joined(name: str, path: str, whole: str) -> None:
    assert joined(name, path) == whole


def test_writer_reads_no_device_and_follows_no_link(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "passwd")
    with written(tmp_path / "passwd", "passwd") as tar:
        assert tar.getmember("passwd").issym()


def unpack(root: Path, members: list[tuple[str, bytes, str]], **options: object) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode, info.uid = kind, link, 0o755, os.getuid()
            info.gid = os.getgid()
            tar.addfile(info)
    buffer.seek(0)
    fd = os.open(root, os.O_RDONLY)
    try:
        Unpacker(fd, whiteouts=False, **options).unpack(buffer, lambda data: None)  # type: ignore[arg-type]
    finally:
        os.close(fd)


def test_unpacker_below_a_base(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir(mode=0o700)
    os.symlink("/elsewhere", tmp_path / "base/l")
    (tmp_path / "elsewhere").mkdir()
    unpack(tmp_path, [("./", tarfile.DIRTYPE, ""), ("f", tarfile.REGTYPE, ""), ("h", tarfile.LNKTYPE, "f"), ("l/x", tarfile.REGTYPE, "")], base="/base")
    assert (tmp_path / "base").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "base/h").stat().st_nlink == 2
    assert (tmp_path / "elsewhere/x").exists()  # a link is followed from the root, as the container would
    for name, kind in (("l", tarfile.DIRTYPE), ("f", tarfile.DIRTYPE)):
        with pytest.raises(InvalidParameter, match="cannot overwrite non-directory"):
            unpack(tmp_path, [(name, kind, "")], base="/base", keep_kinds=True)
    with pytest.raises(InvalidParameter, match='cannot overwrite directory "/base" with non-directory "/"'):
        unpack(tmp_path, [("base", tarfile.REGTYPE, "")], base="/", keep_kinds=True)
    with pytest.raises(InvalidParameter, match=r"'\.\.'"):
        unpack(tmp_path, [("x", tarfile.REGTYPE, "")], base="/base", rename=lambda name: "../x")


def test_filesystem_type() -> None:
    fd = os.open("/proc", os.O_PATH)
    assert libc.filesystem_type(fd) == 0x9FA0
    os.close(fd)


@pytest.mark.parametrize(("text", "expected"), [("c:/x", ("c", "/x")), ("/a:b", ("", "/a:b")), ("./a:b", ("", "./a:b")), ("a", ("", "a")), ("c:", ("c", "")), ("-", ("", "-"))])
def test_cp_arguments(text: str, expected: tuple[str, str]) -> None:
    assert cp.split_argument(text) == expected


def place(path: str, kind: str, rebased: str = "") -> cp.Place:
    return cp.Place(path, exists=kind != "none", is_directory=kind == "dir", rebased=rebased)


@pytest.mark.parametrize(
    ("source", "target", "directory", "change"),
    [
        (("/s/f", "file"), ("/t", "dir"), "/t", None), (("/s/f", "file"), ("/t/x", "file"), "/t", ("f", "x")),
        (("/s/f", "file"), ("/t/x", "none"), "/t", ("f", "x")), (("/s/d", "dir"), ("/t/x", "none"), "/t", ("d", "x")),
        (("/s/d/.", "dir"), ("/t/x", "none"), "/t", (".", "x")), (("/s/d", "dir"), ("/t/x/", "none"), "/t", ("d", "x")),
        (("/", "dir"), ("/t/x", "none"), "/t", ("/", "x")), (("/real", "file", "link"), ("/t", "dir"), "/t", ("real", "link")),
        (("/real", "file", "link"), ("/t/x", "none"), "/t", ("real", "x")),
    ],
)  # fmt: skip
def test_cp_destination(source: tuple, target: tuple, directory: str, change: tuple[str, str] | None) -> None:
    assert cp.destination(place(*source), place(*target)) == (directory, change)


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [(("/s", "dir"), ("/t", "file"), "cannot copy directory"), (("/s", "file"), ("/t/", "none"), "no such directory")],
)
def test_cp_refusals(source: tuple, target: tuple, text: str) -> None:
    with pytest.raises(cp._Refused, match=text):
        cp.destination(place(*source), place(*target))


def test_cp_renamed() -> None:
    assert cp.renamed("d/d/f", ("d", "x")) == "x/d/f"
    assert cp.renamed("/bin/sh", ("/", "x")) == "x/bin/sh"
    assert cp.renamed("./f", (".", "x")) == "x/f"
