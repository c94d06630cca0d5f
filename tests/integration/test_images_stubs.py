"""Images whose layers have contents in common, but not times: containers see files of their own. find, sha256sum, tar and skopeo tell."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Engine, wait_until
from test_distribution import diffs, leftovers, skopeo
from test_prune import df, file_bytes

_HAS_STUBS = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 8)
pytestmark = [pytest.mark.root, pytest.mark.skipif(not _HAS_STUBS, reason="berth makes stubs since Linux 6.8")]

BIG = os.urandom(300_000)
USERS = b"root:x:0:0:root:/root:/bin/sh\nada:x:1234:1235::/:/bin/sh\n" + b"# so long that it is worth a stub\n" * 200


def restamped(rootfs_tar: str, seconds: int, uid: int = 0) -> bytes:
    """The tests' root file system with a few large files more, every file a little older or newer."""
    buffer = io.BytesIO()
    with tarfile.open(rootfs_tar) as old, tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as new:
        for item in old:
            if item.name.lstrip("./") != "etc/passwd":
                item.mtime = 1_000_000_000 + seconds
                new.addfile(item, old.extractfile(item) if item.isreg() else None)
        for name, data in (("big", BIG), ("d/more", BIG[:5000]), ("etc/passwd", USERS)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.gid, info.mode = len(data), 1_000_000_000 + seconds, uid, uid, 0o4755 if uid else 0o644
            new.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(params=["engine", "userns_engine"])
def either(request: pytest.FixtureRequest, rootfs_tar: str, tmp_path: Path) -> Iterator[Engine]:
    """An engine with images stub:1 and stub:2, whose files differ in owner, mode or time alone."""
    engine: Engine = request.getfixturevalue(request.param)
    for number, data in ((1, restamped(rootfs_tar, 0)), (2, restamped(rootfs_tar, 5, 7))):
        (tmp_path / "rootfs.tar").write_bytes(data)
        engine.docker("import", str(tmp_path / "rootfs.tar"), f"stub:{number}")
    yield engine
    engine.docker("rmi", "stub:2", "stub:1", code=None)


def layer_of(engine: Engine, image: str) -> str:
    return str(json.loads(engine.docker("inspect", "--type", "image", image).stdout)[0]["GraphDriver"]["Data"]["UpperDir"])


def stubs(directory: str) -> set[str]:
    """Files that take no room, by find."""
    out = subprocess.run(["find", directory, "-type", "f", "-size", "+0", "-printf", "%b %P\\n"], capture_output=True, text=True, check=True).stdout
    return {line.partition(" ")[2] for line in out.splitlines() if line.startswith("0 ")}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_container_sees_files_of_its_own(either: Engine) -> None:
    assert stubs(layer_of(either, "stub:1")) == set()
    assert stubs(layer_of(either, "stub:2")) == {"big", "d/more", "etc/passwd"}, "the shell has several names"
    script = "stat -c '%u %a %Y %h %b' /big /d/more; sha256sum </big; cmp -n 5000 /big /d/more; ls -A /"
    for image, seen in (("stub:1", "0 644 1000000000"), ("stub:2", "7 4755 1000000005")):
        lines = either.run(image, "sh", "-c", script).stdout.splitlines()
        assert [line.split() for line in lines[:2]] == [[*seen.split(), lines[0].split()[3], "592"], [*seen.split(), lines[1].split()[3], "16"]]
        assert lines[2] == f"{digest(BIG)}  -"
        assert not [name for name in lines if name.startswith((".wh", "contents"))]
    assert either.run("-u", "ada", "stub:2", "id", "-u").stdout == "1234\n"
    assert either.run("--mount", "type=image,source=stub:2,target=/img", "bb", "sha256sum", "/img/big").stdout == f"{digest(BIG)}  /img/big\n"
    assert either.run("-v", "/d", "stub:2", "sha256sum", "/d/more").stdout == f"{digest(BIG[:5000])}  /d/more\n", "copied into a volume"


def test_what_a_container_changes_of_stubs(either: Engine, tmp_path: Path) -> None:
    script = "chmod 600 /big; chown 9:9 /etc/passwd; mv /d/more /d/moved; cp /bin/busybox /bin/copy; exec sleep 1000"
    c = either.docker("run", "-d", "--network", "none", "stub:2", "sh", "-c", script).stdout.strip()
    either.seen_ids.add(c)
    wait_until(lambda: "sleep" in either.docker("top", c).stdout, "the script")
    try:
        assert either.docker("exec", "-u", "ada", c, "id", "-u").stdout == "1234\n"
        changed = set(either.docker("diff", c).stdout.split("\n"))
        assert {"C /big", "C /etc/passwd", "D /d/more", "A /d/moved", "A /bin/copy"} <= changed
        either.docker("restart", "-t", "0", c)  # its user comes from a file whose owner it has changed, and only that
        assert either.docker("exec", "-u", "ada", c, "id", "-u").stdout == "1234\n"
        either.docker("kill", c)
        either.docker("cp", f"{c}:/big", str(tmp_path / "big"))
        assert (tmp_path / "big").read_bytes() == BIG
        either.docker("export", "-o", str(tmp_path / "exported.tar"), c)
        with tarfile.open(tmp_path / "exported.tar") as tar:
            moved = tar.extractfile("d/moved")
            assert moved
            assert moved.read() == BIG[:5000]
        either.docker("commit", c, "stub:3")
        script = "stat -c '%u %a' /big /etc/passwd; cat /big /d/moved | sha256sum; cmp /bin/busybox /bin/copy && echo same"
        assert either.run("stub:3", "sh", "-c", script).stdout == f"7 600\n9 755\n{digest(BIG + BIG[:5000])}  -\nsame\n"
        assert either.run("-u", "ada", "stub:3", "id", "-u").stdout == "1234\n"
    finally:
        either.rm(c)
        either.docker("rmi", "stub:3", code=None)


def test_marks_that_a_program_sets_are_no_stubs(either: Engine) -> None:
    """As one with CAP_SYS_ADMIN may: overlayfs keeps them apart from its own."""
    c = either.up(image="stub:2")
    try:
        path = f"/proc/{either.pid(c)}/root/own"
        Path(path).write_bytes(b"own")
        os.chmod(path, 0o644)
        for name, value in (("metacopy", b"y"), ("redirect", b"/etc/passwd")):
            os.setxattr(path, f"trusted.overlay.{name}", value)
        upper = f"{either.data}/containers/{c}/upper/own"
        assert not {"trusted.overlay.metacopy", "trusted.overlay.redirect"} & set(os.listxattr(upper))
        either.docker("restart", "-t", "0", c)
        assert either.docker("exec", c, "cat", "/own").stdout == "own"
    finally:
        either.rm(c)


def test_archives_and_removal(engine: Engine, rootfs_tar: str, tmp_path: Path) -> None:
    """What is saved is what came; the image that brought the contents goes first."""
    before = set(leftovers(engine))
    used = df(engine)["LayersSize"]
    archives = [restamped(rootfs_tar, 0), restamped(rootfs_tar, 5, 7)]
    sizes = []
    for number, data in enumerate(archives):
        (tmp_path / "rootfs.tar").write_bytes(data)
        engine.docker("import", str(tmp_path / "rootfs.tar"), f"stub:{number}")
        sizes.append(df(engine)["LayersSize"])
    empty = sum(os.stat(f"{layer_of(engine, 'stub:1')}/{name}").st_size for name in stubs(layer_of(engine, "stub:1")))
    assert empty > len(BIG)
    assert sizes[0] - used > len(BIG)
    assert 0 < sizes[1] - sizes[0] < 30_000, "small files alone"
    assert sizes[1] == file_bytes(f"{engine.data}/layers") - empty
    engine.docker("rmi", "stub:0")
    assert df(engine)["LayersSize"] - used > len(BIG)
    assert engine.run("stub:1", "sha256sum", "/big").stdout == f"{digest(BIG)}  /big\n"
    assert diffs(engine, "stub:1") == [f"sha256:{digest(archives[1])}"]
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), "stub:1")
    skopeo("copy", "-q", "--dest-decompress", f"docker-archive:{tmp_path}/saved.tar", f"dir:{tmp_path}/copied")
    assert (tmp_path / "copied" / digest(archives[1])).read_bytes() == archives[1]
    engine.docker("rmi", "stub:1")
    assert set(leftovers(engine)) == before


def test_directories_and_links_that_a_program_moves(either: Engine, tmp_path: Path) -> None:
    """Renaming a directory of an image copies nothing: what is below is read from the image, stubs too, also by commit, export, cp and diff."""
    script = "mv /d /e && mkdir /d && echo new >/d/more && ln /big /e/link && chmod 640 /e/more && truncate -s 100 /etc/passwd && mkdir -p /.wh..wh.012345678901234"
    c = either.docker("create", "--network", "none", "stub:2", "sh", "-c", script).stdout.strip()
    either.seen_ids.add(c)
    try:
        assert either.docker("start", "-a", c).stdout == ""
        changed = set(either.docker("diff", c).stdout.split("\n"))
        assert {"A /e", "A /e/more", "A /e/link", "C /d", "C /d/more", "C /etc/passwd"} <= changed
        assert "D /d/more" not in changed
        either.docker("cp", f"{c}:/e", str(tmp_path))
        assert [(tmp_path / "e" / name).read_bytes() for name in ("more", "link")] == [BIG[:5000], BIG]
        either.docker("commit", c, "stub:3")
        script = "stat -c %a /e/more; cat /e/more /e/link /big | sha256sum; cat /d/more; wc -c </etc/passwd"
        assert either.run("stub:3", "sh", "-c", script).stdout == f"640\n{digest(BIG[:5000] + BIG + BIG)}  -\nnew\n100\n"
        assert not [name for name in either.run("stub:3", "ls", "-A", "/").stdout.split() if name.startswith(".wh")]
    finally:
        either.rm(c)
        either.docker("rmi", "stub:3", code=None)


def test_copies_over_stubs(either: Engine, tmp_path: Path) -> None:
    """`cp` into a container that does not run, and into one that does."""
    (tmp_path / "big").write_bytes(b"short")
    c = either.docker("create", "--network", "none", "stub:2", "sleep", "1000").stdout.strip()
    either.seen_ids.add(c)
    try:
        either.docker("cp", str(tmp_path / "big"), f"{c}:/big")
        either.docker("start", c)
        assert either.docker("exec", c, "cat", "/big").stdout == "short"
        either.docker("cp", str(tmp_path / "big"), f"{c}:/d/more")
        assert either.docker("exec", c, "sh", "-c", "cat /d/more; echo x >>/etc/passwd; tail -c 2 /etc/passwd; wc -c </etc/passwd").stdout == (
            f"shortx\n{len(USERS) + 2}\n"
        )
        assert either.run("stub:2", "sh", "-c", "cat /big /etc/passwd | sha256sum").stdout == f"{digest(BIG + USERS)}  -\n"
    finally:
        either.rm(c)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_other_runtimes_see_them_too(engine: Engine, rootfs_tar: str, tmp_path: Path, runtime: str) -> None:
    if not shutil.which(runtime):
        pytest.skip(f"needs {runtime}")
    for number in range(2):
        (tmp_path / "rootfs.tar").write_bytes(restamped(rootfs_tar, number))
        engine.docker("import", str(tmp_path / "rootfs.tar"), f"stub:{number}")
    assert "big" in stubs(layer_of(engine, "stub:1"))
    assert engine.run("--runtime", runtime, "stub:1", "sha256sum", "/big").stdout == f"{digest(BIG)}  /big\n"
    engine.docker("rmi", "stub:0", "stub:1")
