"""Layers of COPY and ADD beside what the real BuildKit makes of the same Dockerfile: the one that is in dockerd."""

import gzip
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from served import Served

from berth.build.files import owners
from berth.build.files.context import Directory, receive_tar
from berth.build.files.copying import parse_chmod, write_copy, write_directory
from berth.build.files.selection import select
from berth.errors import InvalidParameter
from berth.store.tarwriter import TarWriter
from berth.store.unpacking import Unpacker

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKERD, reason="needs dockerd")]
TIME_S = 1_000_000_000

# Each has a root of its own, /N/, so that a single build answers all of them: (flags, sources, destination).
CASES: list[tuple[dict[str, str], list[str], str]] = [
    ({}, ["a"], "new"), ({}, ["a"], "new/"), ({}, ["a"], "there"), ({}, ["a"], "there/"), ({}, ["a"], "x/y/z"), ({}, ["a", "b"], "new/"), ({}, ["a", "b"], "there/"),
    ({}, ["d"], "new"), ({}, ["d"], "new/"), ({}, ["d"], "there"), ({}, ["d/"], "x/y/"), ({}, ["d/*"], "new/"), ({}, ["?"], "new/"), ({}, ["[ab]"], "there/"), ({}, ["nothing*", "a"], "new/"),
    ({}, ["a"], "link"), ({}, ["a"], "link/"), ({}, ["a"], "link/deep"), ({}, ["d"], "link"), ({}, ["a"], "file-link"), ({}, ["a"], "there/file-link"), ({}, ["a"], "dangling/"), ({}, ["d"], "dangling"),
    ({}, ["to-a"], "new/"), ({}, ["to-d"], "new"), ({}, ["to-d/one"], "new/"), ({}, ["links"], "new"), ({}, ["to-*"], "new/"), ({}, ["d/sub"], "there/sub"), ({}, ["d"], "has-sub"),
    ({"chown": "5:6"}, ["a"], "x/y"), ({"chown": "7"}, ["d"], "new"), ({"chown": "5:6"}, ["d"], "there"), ({"chown": "web:video"}, ["a"], "new/"), ({"chown": "web"}, ["d"], "x/y/z/"),
    ({"chmod": "640"}, ["a"], "new"), ({"chmod": "4711"}, ["a"], "x/y"), ({"chmod": "700"}, ["d"], "new"), ({"chmod": "750"}, ["links"], "there"),
    ({}, ["linked"], "new/"), ({}, ["suid"], "new/"), ({}, ["empty"], "new"), ({}, ["empty"], "there"), ({"add": "1"}, ["archive"], "new"), ({"add": "1"}, ["archive.tar.gz"], "there"),
    ({"add": "1"}, ["archive.tar.gz", "a"], "new/"), ({"add": "1"}, ["a"], "new/"), ({"add": "1", "chown": "5:6"}, ["archive"], "x/y/"), ({"add": "1"}, ["not.tar"], "new/"), ({"add": "1"}, ["with-archive"], "new"),
    ({}, ["archive"], "new/"), ({}, ["../../a"], "new/"), ({}, ["d/../b"], "new/"), ({}, ["./d/./sub"], "new"), ({}, ["d/"], "there/sticky"), ({}, ["d", "links"], "there/"),
]  # fmt: skip
WRONG: list[tuple[list[str], str]] = [
    (["nothing"], "/new"), (["a"], "/file/"), (["a"], "/file/x"), (["d"], "/file"), (["over"], "/there"), (["d"], "/sub-is-file"), (["d"], "/sub-is-link"), (["out/shadow"], "/new"), (["loop"], "/new"), (["broken"], "/new"),
]  # fmt: skip
PASSWD, GROUP = "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n", "root:x:0:\nvideo:x:44:\n"


# What the BuildKit of dockerd 20.10 has wrong and later ones do as we do: set-user-id by --chmod, --chown of an archive's members.
OLD = ("COPY --chmod=4711 a x/y", "ADD --chown=5:6 archive x/y/")


class Packed:
    """An archive, member by member, that both sides get."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w")

    def file(self, name: str, data: bytes = b"", mode: int = 0o644) -> "Packed":
        return self.member(name, tarfile.REGTYPE, mode, data=data or name.encode())

    def directory(self, name: str, mode: int = 0o755) -> "Packed":
        return self.member(name, tarfile.DIRTYPE, mode)

    def link(self, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> "Packed":
        return self.member(name, kind, 0o777 if kind == tarfile.SYMTYPE else 0o644, link=target)

    def member(self, name: str, kind: bytes, mode: int, *, data: bytes = b"", link: str = "", owner: int = 0) -> "Packed":
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.linkname, info.mtime, info.uid = kind, mode, len(data), link, TIME_S, owner
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def data(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


def archive() -> bytes:
    packed = Packed().directory("bin", 0o750).file("bin/tool", mode=0o4755).file("top").link("short", "bin/tool").link("same", "top", tarfile.LNKTYPE)
    return packed.member("owned", tarfile.REGTYPE, 0o600, data=b"x", owner=77).data()


def base(packed: Packed, at: str) -> None:
    """What is there before the COPY."""
    packed.directory(f"{at}there", 0o2751).file(f"{at}there/a", b"old").directory(f"{at}there/sub", 0o700).file(f"{at}there/sub/old").directory(f"{at}there/sticky", 0o1777)
    packed.file(f"{at}there/file").link(f"{at}there/file-link", "file").directory(f"{at}there/over")
    packed.link(f"{at}link", "there").link(f"{at}file-link", "there/file").link(f"{at}dangling", "gone/away").file(f"{at}file")
    packed.directory(f"{at}has-sub").directory(f"{at}has-sub/sub", 0o711).directory(f"{at}sub-is-file").file(f"{at}sub-is-file/sub").directory(f"{at}sub-is-link").link(f"{at}sub-is-link/sub", "../there")


def context(dockerfile: str, roots_count: int = 0) -> bytes:
    packed = Packed().file("Dockerfile", dockerfile.encode()).file("a").file("b", mode=0o755).directory("d", 0o711).file("d/one").directory("d/sub", 0o700).file("d/sub/two", mode=0o600)
    packed.link("to-a", "a").link("to-d", "d").directory("links").link("links/inside", "../a").link("links/nowhere", "nothing").file("links/f").link("out", "../../../etc").link("loop", "loop").link("broken", "gone")
    packed.directory("linked").file("linked/f").link("linked/g", "linked/f", tarfile.LNKTYPE).file("suid", mode=0o6755).directory("empty", 0o750).directory("over").file("over/over")
    packed.file("archive", archive()).file("archive.tar.gz", gzip.compress(archive(), mtime=0)).file("not.tar", b"text" * 500).directory("with-archive").file("with-archive/x.tar", archive())
    packed.directory("etc").file("etc/passwd", PASSWD.encode()).file("etc/group", GROUP.encode())
    roots = Packed()
    for number in range(roots_count):
        roots.directory(str(number))
        base(roots, f"{number}/")
    base(roots, "")
    return packed.file("roots.tar", roots.data()).data()


def instruction(flags: dict[str, str], sources: list[str], destination: str) -> str:
    words = ["ADD" if "add" in flags else "COPY", *(f"--{name}={value}" for name, value in flags.items() if name != "add"), *sources, destination]
    return " ".join(words)


BEGIN = "FROM scratch\nADD roots.tar /\nCOPY etc /etc\n"


class Asked:
    """dockerd's BuildKit, which takes its context from a web server."""

    def __init__(self, daemon: Dockerd) -> None:
        self._daemon = daemon
        self._served = Served()
        self._count = 0

    def close(self) -> None:
        self._served.close()

    def build(self, data: bytes) -> tuple[str, str]:
        """The image's id, or the error."""
        self._served.data = data
        self._count += 1
        remote = quote(self._served.address(self._count), safe="")
        command = ["curl", "-s", "--unix-socket", self._daemon.host.removeprefix("unix://"), "-X", "POST", f"http://d/build?version=2&remote={remote}&buildid=b{self._count}"]
        lines = [json.loads(line) for line in subprocess.run(command, capture_output=True, check=True, timeout=110).stdout.splitlines() if line]
        image = next((line["aux"]["ID"] for line in lines if line.get("id") == "moby.image.id"), "")
        return image, next((line["error"] for line in lines if "error" in line), "") or str(lines[-1].get("message", ""))

    def files(self, image: str, into: Path) -> Path:
        container = self._daemon("create", image, "none").stdout.strip()
        exported = subprocess.run(["docker", "export", container], env=self._daemon.env, capture_output=True, check=True).stdout
        into.mkdir()
        subprocess.run(["tar", "-x", "-p", "-C", str(into)], input=exported, check=True)
        return into


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    daemon = Dockerd("--storage-driver", "overlay2", image=False)
    found = Asked(daemon)
    yield found
    found.close()
    daemon.finish()


class Ours:
    """The same, step by step: each layer is unpacked over the root before the next is made."""

    def __init__(self, top: Path, data: bytes) -> None:
        (top / "context").mkdir(parents=True)
        (top / "root").mkdir()
        self.root = top / "root"
        self._context = top / "context"
        receive_tar(io.BytesIO(data), str(self._context))

    def run(self, flags: dict[str, str], sources: list[str], destination: str, workdir: str) -> None:
        out = io.BytesIO()
        with Directory(str(self._context)) as source, Directory(str(self.root)) as root:
            how: dict[str, Any] = {}
            if "chown" in flags:
                how["owner"] = owners.resolve(flags["chown"], root.fd)
            if "chmod" in flags:
                how["mode"] = parse_chmod(flags["chmod"])
            writer = TarWriter(out)
            write_directory(writer, root.fd, workdir)
            write_copy(writer, select(source.fd, sources), source.fd, root.fd, destination, workdir=workdir, unpack="add" in flags, several=len(sources) > 1, **how)
            writer.close()
        out.seek(0)
        with Directory(str(self.root)) as root:
            Unpacker(root.fd, whiteouts=True).unpack(out, lambda data: None)


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """All about every file, and the time where it is the context's and not that of the build."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = Path(path).read_bytes() if stat.S_ISREG(status.st_mode) else os.readlink(path).encode() if stat.S_ISLNK(status.st_mode) else b""
            links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
            found[os.path.relpath(path, top)] = (oct(status.st_mode), status.st_uid, status.st_gid, links, content, int(status.st_mtime) == TIME_S or stat.S_ISDIR(status.st_mode))
    return found


def test_as_buildkit_copies(asked: Asked, tmp_path: Path) -> None:
    dockerfile = BEGIN + "".join(f"WORKDIR /{number}\n{instruction(*case)}\n" for number, case in enumerate(CASES))
    data = context(dockerfile, len(CASES))
    image, error = asked.build(data)
    assert not error
    theirs = tree(asked.files(image, tmp_path / "theirs"))
    ours = Ours(tmp_path / "ours", data)
    ours.run({"add": "1"}, ["roots.tar"], "/", "/")
    ours.run({}, ["etc"], "/etc", "/")
    for number, case in enumerate(CASES):
        ours.run(*case, f"/{number}")
    found = tree(ours.root)
    made_by_docker = {"dev", "proc", "sys", "dev/console", "dev/pts", "dev/shm", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", ".dockerenv"}
    differing = []
    for number, case in enumerate(CASES):
        if instruction(*case) in OLD:
            continue
        at = f"{number}/"
        wanted, got = ({name: entry for name, entry in side.items() if name.startswith(at)} for side in (theirs, found))
        differing += [(instruction(*case), name, wanted.get(name), got.get(name)) for name in sorted(wanted.keys() | got.keys()) if wanted.get(name) != got.get(name)]
    assert differing == [], "\n".join(map(str, differing))
    assert {name for name in theirs if "/" not in name} - made_by_docker == {name for name in found if "/" not in name}


@pytest.mark.parametrize(("sources", "destination"), WRONG)
def test_what_buildkit_refuses(asked: Asked, tmp_path: Path, sources: list[str], destination: str) -> None:
    data = context(f"{BEGIN}{instruction({}, sources, destination)}\n")
    image, error = asked.build(data)
    assert not image
    assert error
    ours = Ours(tmp_path / "ours", data)
    ours.run({"add": "1"}, ["roots.tar"], "/", "/")
    with pytest.raises(InvalidParameter) as caught:
        ours.run({}, sources, destination, "/")
    if "not found" in error:
        assert "failed to compute cache key" in str(caught.value)
        assert "not found" in str(caught.value)
