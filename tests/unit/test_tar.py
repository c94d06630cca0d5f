"""Archives as honest tools write them, and as nobody honest would. GNU tar and lstat are the second tools."""

import contextlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.errors import BerthError, DataLoss, InvalidParameter
from berth.store.tar import sum_of_bytes
from berth.store.trees import remove_tree
from berth.store.unpacking import Unpacker
from tarmembers import ME, archive, member

AS_ROOT = os.geteuid() == 0


def header(name: str, *, size: bytes = b"0", kind: bytes = b"0", checksum: int | None = None, **fields: bytes) -> bytes:
    """A header that tarfile would not write."""
    block = bytearray(512)
    places = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
              "link": (157, 100), "major": (329, 8), "minor": (337, 8)}  # fmt: skip
    values = {"name": name.encode(), "size": size, "mode": b"644", "uid": b"%o" % ME[0], "gid": b"%o" % ME[1], **fields}
    for key, value in values.items():
        start, length = places[key]
        block[start : start + length] = value[:length].ljust(length, b"\0")
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) if checksum is None else checksum)
    return bytes(block)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header("pax", size=b"%o" % len(records), kind=kind) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def record(key: str, value: bytes) -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


END = bytes(1024)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "a" / "root").mkdir(parents=True)
    return tmp_path / "a" / "root"


@pytest.fixture
def unpack(root: Path) -> Callable[..., int]:
    def run(data: bytes, *, whiteouts: bool = False) -> int:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        seen: list[bytes] = []
        try:
            unpacker = Unpacker(fd, whiteouts=whiteouts)
            unpacker.unpack(io.BytesIO(data), seen.append)
            assert b"".join(seen) == data, "the observer sees every byte, for the digest"
            return unpacker.size_bytes
        finally:
            os.close(fd)
            assert (root.parent.parent / "outside" / "secret").read_text() == "secret"
            assert sorted(os.listdir(root.parent.parent)) == ["a", "outside"]
            assert sorted(os.listdir(root.parent)) == ["root"]

    return run


# -- honest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_member(root: Path, unpack, format_: int) -> None:
    size = unpack(archive(
        member("./", tarfile.DIRTYPE), member("d/", tarfile.DIRTYPE, mode=0o1750), (member("d/file", mode=0o4711), b"hello"),
        member("d/link", tarfile.SYMTYPE, linkname="../nowhere"), member("hard", tarfile.LNKTYPE, linkname="./d/file", mode=0o4711),
        member("fifo", tarfile.FIFOTYPE, mode=0o600), member("empty"), (member("new/parents/file"), b"x" * 1000),
        format_=format_,
    ))  # fmt: skip
    assert size == 1005 + len("../nowhere")
    status = {path: os.lstat(root / path) for path in ("d", "d/file", "d/link", "hard", "fifo", "empty", "new/parents/file")}
    assert stat.S_IMODE(status["d"].st_mode) == 0o1750
    assert stat.S_IMODE(status["d/file"].st_mode) == 0o4711
    assert os.readlink(root / "d/link") == "../nowhere"
    assert status["hard"].st_ino == status["d/file"].st_ino
    assert stat.S_ISFIFO(status["fifo"].st_mode)
    assert status["empty"].st_size == 0
    assert (root / "new/parents/file").read_bytes() == b"x" * 1000
    assert {s.st_mtime_ns for s in status.values()} == {1_000_000_000 * 10**9}


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(root: Path, unpack, format_: int) -> None:
    name, target = "/".join(["é" * 40] * 5), "t" * 400
    unpack(archive((member(name), b"1"), member("l", tarfile.SYMTYPE, linkname=target), format_=format_))
    assert (root / name).read_bytes() == b"1"
    assert os.readlink(root / "l") == target


def test_a_split_name_of_ustar(root: Path, unpack) -> None:
    name = "d" * 90 + "/" + "f" * 90
    unpack(archive((member(name), b"1"), format_=tarfile.USTAR_FORMAT))
    assert (root / name).read_bytes() == b"1"


def test_absolute_names_start_at_the_root(root: Path, unpack) -> None:
    unpack(archive((member("/etc/berth-test"), b"1")))
    assert (root / "etc/berth-test").read_bytes() == b"1"
    assert not os.path.exists("/etc/berth-test")


def test_times_of_pax_have_nanoseconds(root: Path, unpack) -> None:
    unpack(pax(record("mtime", b"5.25")) + header("f") + END)
    assert os.lstat(root / "f").st_mtime_ns == 5_250_000_000


def test_numbers_of_gnu_in_base_256(root: Path, unpack) -> None:
    mtime = (1 << 95 | 5_000_000_000).to_bytes(12, "big")
    unpack(header("f", size=(1 << 95 | 3).to_bytes(12, "big"), mtime=mtime) + b"abc".ljust(512, b"\0") + END)
    assert (root / "f").read_bytes() == b"abc"
    assert os.lstat(root / "f").st_mtime == 5_000_000_000


def test_global_records_hold_until_overruled(root: Path, unpack) -> None:
    unpack(pax(record("mtime", b"7"), b"g") + header("a") + pax(record("mtime", b"8")) + header("b") + header("c") + END)
    assert [os.lstat(root / name).st_mtime for name in "abc"] == [7, 8, 7]


def test_later_members_win(root: Path, unpack) -> None:
    unpack(archive(
        (member("a"), b"1"), (member("a"), b"2"),
        member("d", tarfile.DIRTYPE), (member("d/x/y"), b"1"), (member("d"), b"now a file"),
        (member("f"), b"1"), member("f", tarfile.DIRTYPE), (member("f/in"), b"2"),
        member("e", tarfile.DIRTYPE, mtime=5), member("e", tarfile.DIRTYPE, mtime=6, mode=0o700),
        member("g", tarfile.DIRTYPE, mtime=5), member("g", tarfile.SYMTYPE, linkname="f", mtime=9),
    ))  # fmt: skip
    assert (root / "a").read_bytes() == b"2"
    assert (root / "d").read_bytes() == b"now a file"
    assert (root / "f/in").read_bytes() == b"2"
    assert os.lstat(root / "e").st_mtime == 6
    assert stat.S_IMODE(os.lstat(root / "e").st_mode) == 0o700
    assert os.lstat(root / "f").st_mtime == 1_000_000_000
    assert os.lstat(root / "g").st_mtime == 9


def test_links_inside_the_root_are_followed_as_the_container_would(root: Path, unpack) -> None:
    unpack(archive(
        member("usr/bin", tarfile.DIRTYPE), member("bin", tarfile.SYMTYPE, linkname="/usr/bin"), (member("bin/sh"), b"#!"),
        member("up", tarfile.SYMTYPE, linkname="../../../usr"), (member("up/x"), b"1"),
    ))  # fmt: skip
    assert (root / "usr/bin/sh").read_bytes() == b"#!"
    assert (root / "usr/x").read_bytes() == b"1"


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"], ["--format=ustar"], ["--format=v7"], ["--format=oldgnu"]])
@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
def test_what_gnu_tar_writes_it_reads_alike(tmp_path: Path, root: Path, unpack, options: list[str]) -> None:
    source = root.parent.parent.parent / f"{tmp_path.name}-source"
    source.mkdir()
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/file").write_bytes(os.urandom(70_000))
    (source / "link").symlink_to("deep/er")
    os.link(source / "deep/er/file", source / "hard")
    (source / "deep").chmod(0o711)
    data = subprocess.run(["tar", "-C", source, *options, "-cf", "-", "."], check=True, capture_output=True).stdout
    unpack(data)
    compared = subprocess.run(["tar", "-C", root, "-df", "-"], input=data, capture_output=True, check=False)
    assert (compared.returncode, compared.stdout) == (0, b"")


@pytest.mark.parametrize(
    "options", [["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))], ids=str
)
@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
def test_sparse_files(tmp_path: Path, root: Path, unpack, options: list[str]) -> None:
    source = root.parent.parent.parent / f"{tmp_path.name}-sparse"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        for number in range(30):  # more pieces than one header holds
            file.seek(number * 200_000)
            file.write(b"%d" % number * 3000)
        file.truncate(10_000_000)
    (source / "after").write_text("after")
    data = subprocess.run(
        ["tar", "-C", source, *options, "-S", "-cf", "-", "sparse", "after"], check=True, capture_output=True
    ).stdout
    assert len(data) < 5_000_000
    assert unpack(data) == 10_000_005
    assert (root / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (root / "after").read_text() == "after"
    assert os.lstat(root / "sparse").st_blocks * 512 < 5_000_000


def test_attributes(root: Path, unpack) -> None:
    records = record("SCHILY.xattr.user.x", b"v\0w") + record("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
    unpack(pax(records) + header("f") + END)
    try:
        assert os.getxattr(root / "f", "user.x") == b"v\0w"
    except OSError:
        pytest.skip("this file system keeps no user attributes")
    assert os.listxattr(root / "f") == ["user.x"]  # an image must not speak overlayfs's language


@pytest.mark.root
def test_owners_and_devices(root: Path, unpack) -> None:
    try:
        os.mknod(root / "probe", stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    os.unlink(root / "probe")
    unpack(archive(
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, uid=7, gid=8),
        member("disk", tarfile.BLKTYPE, devmajor=8, devminor=300), (member("f", uid=1000, gid=1001, mode=0o6755), b"1"),
        member("l", tarfile.SYMTYPE, linkname="f", uid=5, gid=6),
    ))  # fmt: skip
    null, disk, file, link = (os.lstat(root / name) for name in ("null", "disk", "f", "l"))
    assert (stat.S_ISCHR(null.st_mode), null.st_rdev, null.st_uid, null.st_gid) == (True, os.makedev(1, 3), 7, 8)
    assert stat.S_IMODE(null.st_mode) == 0o666
    assert (stat.S_ISBLK(disk.st_mode), disk.st_rdev) == (True, os.makedev(8, 300))
    assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode)) == (1000, 1001, 0o6755)
    assert (link.st_uid, link.st_gid) == (5, 6)


# -- whiteouts -----------------------------------------------------------------------------------


@pytest.mark.root
def test_whiteouts_become_overlayfs_own(root: Path, unpack) -> None:
    (root / "gone").mkdir()
    (root / "gone" / "x").write_text("x")
    try:
        unpack(archive(
            member("dir/.wh.old"), member(".wh.gone"), member("opaque/.wh..wh..opq"), (member("opaque/new"), b"1"),
            member(".wh..wh.plnk"), member(".wh..wh.aufs"),
        ), whiteouts=True)  # fmt: skip
    except InvalidParameter as error:
        if "not permitted" in str(error) or "not supported" in str(error):
            pytest.skip(f"whiteouts cannot be made here: {error}")
        raise
    for path in ("dir/old", "gone"):
        status = os.lstat(root / path)
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)
    assert os.getxattr(root / "opaque", "trusted.overlay.opaque") == b"y"
    assert (root / "opaque/new").read_bytes() == b"1"
    assert sorted(os.listdir(root)) == ["dir", "gone", "opaque"]


def test_without_whiteouts_they_are_names_like_others(root: Path, unpack) -> None:
    unpack(archive((member(".wh.x"), b"1"), (member(".wh..wh..opq"), b"2")))
    assert sorted(os.listdir(root)) == [".wh..wh..opq", ".wh.x"]


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh...", "a/b/.wh...", "a/.wh.."])
def test_a_whiteout_cannot_name_what_is_above(root: Path, unpack, name: str) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/keep").write_text("keep")
    with pytest.raises(InvalidParameter, match="refused"):
        unpack(archive(member(name)), whiteouts=True)
    assert (root / "a/b/keep").read_text() == "keep"


# -- hostile -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside/x", "a/../../outside/x", "..", "/../x", "a/.."])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_names_cannot_climb(unpack, name: str, kind: bytes) -> None:
    with pytest.raises(InvalidParameter, match=r"'\.\.' in its name"):
        unpack(archive(member(name, kind, linkname="x")))


@pytest.mark.parametrize("link", ["../../outside", "/../../outside", "../../../../../../../.."])
def test_a_file_through_a_link_stays_inside(tmp_path: Path, root: Path, unpack, link: str) -> None:
    absolute = str(tmp_path / "outside")
    for target in (link, absolute):
        with contextlib.suppress(InvalidParameter):  # refused, or unpacked beneath the root: either is safe
            unpack(archive(member("l", tarfile.SYMTYPE, linkname=target), (member("l/secret"), b"overwritten")))
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_a_file_over_a_link_replaces_the_link(tmp_path: Path, root: Path, unpack) -> None:
    target = str(tmp_path / "outside/secret")
    unpack(archive(member("l", tarfile.SYMTYPE, linkname=target), (member("l"), b"mine")))
    assert (root / "l").read_bytes() == b"mine"
    assert not (root / "l").is_symlink()


def test_a_directory_over_a_link_does_not_follow_it(tmp_path: Path, root: Path, unpack) -> None:
    before = os.lstat(tmp_path / "outside")
    target = str(tmp_path / "outside")
    unpack(archive(member("l", tarfile.SYMTYPE, linkname=target), member("l", tarfile.DIRTYPE, mode=0o700, mtime=1)))
    assert stat.S_ISDIR(os.lstat(root / "l").st_mode)
    after = os.lstat(tmp_path / "outside")
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)


@pytest.mark.parametrize("link", ["../../outside/secret", "a/../../../outside/secret", "", "/"])
def test_hard_links_stay_inside(unpack, link: str) -> None:
    with pytest.raises(InvalidParameter, match="leads outside of the root"):
        unpack(header("h", kind=b"1", link=link.encode()) + END)


def test_hard_links_do_not_follow_links_out(tmp_path: Path, root: Path, unpack) -> None:
    secret = str(tmp_path / "outside/secret")
    unpack(archive(member("s", tarfile.SYMTYPE, linkname=secret), member("h", tarfile.LNKTYPE, linkname="s")))
    assert (root / "h").is_symlink()
    directory = str(tmp_path / "outside")
    with pytest.raises(InvalidParameter):
        unpack(archive(member("d", tarfile.SYMTYPE, linkname=directory), member("h2", tarfile.LNKTYPE, linkname="d/secret")))


def test_hard_links_to_what_is_not_there(unpack) -> None:
    with pytest.raises(InvalidParameter, match="'h' cannot be unpacked"):
        unpack(archive(member("h", tarfile.LNKTYPE, linkname="absent")))


def test_what_the_root_holds_already_is_removed_without_following_links(tmp_path: Path, root: Path, unpack) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/out").symlink_to(tmp_path / "outside")
    unpack(archive((member("d"), b"1")))
    assert (root / "d").read_bytes() == b"1"


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 600, 1024, 1025])
def test_truncated_archives(unpack, cut: int) -> None:
    data = archive((member("a"), b"x" * 500), (member("b"), b"y" * 100), format_=tarfile.USTAR_FORMAT)[: 4 * 512]
    with pytest.raises(DataLoss, match="too early"):
        unpack(data[:-cut])


def test_wrong_checksums(unpack) -> None:
    with pytest.raises(DataLoss, match=r"no tar archive, .*; or its first header is damaged"):
        unpack(header("f", checksum=1) + END)
    damaged = bytearray(archive((member("f"), b""), (member("g"), b"")))
    damaged[512] ^= 1
    with pytest.raises(DataLoss, match="checksum is wrong"):
        unpack(bytes(damaged))
    with pytest.raises(DataLoss, match="the archive is empty"):
        unpack(b"")


@pytest.mark.parametrize("data", [bytes(512), b"\xff" * 512, b"\xff" * 256 + bytes(256), os.urandom(512), os.urandom(300), b""])
def test_sums_of_bytes(data: bytes) -> None:
    assert sum_of_bytes(data) == sum(data)


def test_a_checksum_of_signed_bytes_is_one(root: Path, unpack) -> None:
    block = bytearray(header("\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(b - 256 if b > 127 else b for b in block)
    unpack(bytes(block) + END)
    assert os.listdir(root) == ["\xe9"]


HUGE = ((1 << 95) | (1 << 90)).to_bytes(12, "big")
MANY_DIGITS = b"1" * 5000


@pytest.mark.parametrize(
    "data",
    [
        b"not a tar" * 100,
        header("f", size=b"zz"), header("f", size=b"-5"), header("f", size=b"\xff" * 12), header("f", size=HUGE),
        header("f", mtime=HUGE), header("f", uid=b"\x80" + b"\xff" * 7), header("f", gid=b"\xff" * 7 + b"\xf0"),
        header("f", mode=b"9"), header("c", kind=b"3", major=b"\x80" + b"\xff" * 7), header("odd", kind=b"q"),
        header("x", kind=b"x", size=b"77777777777"), header("L", kind=b"L", size=b"77777777777"),
        pax(b"5 abc"), pax(b"99999 a=b\n"), pax(b"0 a=b\n"), pax(MANY_DIGITS + b" a=b\n"), pax(b"x a=b\n"), pax(b"5"),
        *(pax(record(k, v)) + header("f") for k, v in (
            ("size", b"-1"), ("size", b"x"), ("size", MANY_DIGITS), ("uid", b"x"), ("uid", b"-5"), ("uid", MANY_DIGITS[:30]),
            ("mtime", b"x"), ("mtime", MANY_DIGITS[:40]), ("mtime", MANY_DIGITS), ("path", b"a\0b"), ("path", b"../x"),
            ("linkpath", b"a\0b"),
            ("GNU.sparse.realsize", b"x"), ("GNU.sparse.map", b"1"), ("GNU.sparse.map", b"1,2,3"), ("GNU.sparse.map", b"0,5"),
            ("GNU.sparse.map", b"a,b"), ("GNU.sparse.realsize", b"1" + b"0" * 30), ("GNU.sparse.realsize", b"-1"),
            ("GNU.sparse.name", b"../x"),
        )),
        *(pax(record("GNU.sparse.major", b"1") + record("GNU.sparse.realsize", b"10")) + header("f", size=b"1000") + text.ljust(512, b"\0")
          for text in (b"x\n", b"-1\n", b"99999999\n", b"1\n0\n", b"1\n5\n6\n", b"2\n0\n5\n0\n5\n", MANY_DIGITS[:500] + b"\n", b"1\n-5\n5\n")),
        header("s", kind=b"S", size=b"5"),
    ],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_nonsense_is_an_error_of_ours(unpack, data: bytes) -> None:
    with pytest.raises(BerthError):
        unpack(data + END)


def test_a_sparse_map_may_be_long_but_not_endless(unpack) -> None:
    records = record("GNU.sparse.major", b"1") + record("GNU.sparse.realsize", b"10")
    data = pax(records) + header("f", size=b"77777777") + b"1000000\n".ljust(512, b"0") + b"0" * (1 << 20)
    with pytest.raises(DataLoss):
        unpack(data)


def test_a_link_in_the_way_that_leads_nowhere(unpack) -> None:
    with pytest.raises(InvalidParameter, match="leads nowhere"):
        unpack(archive(member("l", tarfile.SYMTYPE, linkname="absent"), (member("l/f"), b"1")))


def test_loops_of_links(unpack) -> None:
    with pytest.raises(InvalidParameter):
        unpack(archive(
            member("a", tarfile.SYMTYPE, linkname="b"), member("b", tarfile.SYMTYPE, linkname="a"), (member("a/f"), b"1"),
        ))  # fmt: skip


def test_remove_tree(root: Path, tmp_path: Path) -> None:
    (root / "d/e/f").mkdir(parents=True)
    (root / "d/file").write_text("x")
    (root / "d/e/out").symlink_to(tmp_path / "outside")
    (root / "l").symlink_to(tmp_path / "outside")
    fd = os.open(root, os.O_RDONLY)
    try:
        for name in ("d", "l", "absent"):
            remove_tree(fd, name)
    finally:
        os.close(fd)
    assert os.listdir(root) == []
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_a_tree_deeper_than_the_stack_is_removed(tmp_path):
    """A container may nest directories without end; each level costs the remover neither stack nor descriptor."""
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    top = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_tree(top, "d")
        assert os.listdir(top) == []
    finally:
        os.close(top)


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_headers_in_front_of_one_member_have_a_bound(unpack, kind: bytes) -> None:
    one = record("SCHILY.xattr.user.a", b"v" * 500_000)
    with pytest.raises(DataLoss, match="extended headers of more than 4194304 bytes"):
        unpack((header("h", kind=kind, size=b"%o" % len(one)) + one.ljust(-(-len(one) // 512) * 512, b"\0")) * 9 + header("f") + bytes(1024))


def test_global_records_are_few(unpack) -> None:
    many = b"".join(record(f"k{number}", b"v") for number in range(101))
    with pytest.raises(DataLoss, match="more than 100 records"):
        unpack(header("h", kind=b"g", size=b"%o" % len(many)) + many.ljust(-(-len(many) // 512) * 512, b"\0") + header("f") + bytes(1024))
