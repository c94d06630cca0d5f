"""Contexts that come as archives, build after build: what is in the image, what the engine keeps of them and writes again."""

import contextlib
import io
import json
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest
from buildparts import REPOSITORY, docker, docker_build
from harness import Engine, wait_until

pytestmark = pytest.mark.root

COPY = "FROM bb\nCOPY . /all\n"
PADDING = os.urandom(100_000)  # more than what is unpacked without a mirror


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "d" / "e").mkdir(parents=True)
    (top / "big").write_bytes(PADDING)
    for number in range(20):
        (top / "d" / f"f{number}").write_text(f"{number}\n")
    (top / "d" / "e" / "x").write_text("x\n")
    (top / "link").symlink_to("d/f1")
    (top / "Dockerfile").write_text(COPY)
    return top


def build(engine: Engine, top: Path, tag: str, *options: str) -> None:
    docker(engine, "build", "-t", tag, *options, str(top))


def layer_of(engine: Engine, image: str, into: Path) -> Path:
    """What the last layer of an image has below /all, by `docker save` and GNU tar."""
    into.mkdir()
    saved = subprocess.run(["docker", "save", image], env=engine.env, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        layer = archive.extractfile(manifest["Layers"][-1]).read()  # type: ignore[union-attr]
    subprocess.run(["tar", "-x", "-p", "-C", str(into)], input=layer, check=True)
    return into / "all"


def listed(top: Path) -> list[str]:
    """GNU find: kinds, modes, targets; times of what is no directory, in seconds, as archives have them."""
    words = ["(", "-type", "d", "-printf", r"%P d %m\n", ")", "-o", "-printf", r"%P %y %m %n %l %Ts\n"]
    return sorted(subprocess.run(["find", str(top), "-mindepth", "1", *words], capture_output=True, text=True, check=True).stdout.splitlines())


def same(one: Path, other: Path) -> None:
    subprocess.run(["diff", "-r", "--no-dereference", str(one), str(other)], check=True)
    assert listed(one) == listed(other)


def mirrors(engine: Engine) -> list[str]:
    return sorted(os.listdir(f"{engine.data}/build/contexts"))


def inodes(engine: Engine) -> dict[str, tuple[int, int]]:
    """Of the only mirror: path -> inode and when it was last changed in any way."""
    (name,) = mirrors(engine)
    top = f"{engine.data}/build/contexts/{name}/files"
    paths = [f"{at}/{file}" for at, _, files in os.walk(top) for file in files]
    return {os.path.relpath(path, top): (os.lstat(path).st_ino, os.lstat(path).st_ctime_ns) for path in paths}


def test_only_what_has_changed_is_written(own_engine: Engine, source: Path, tmp_path: Path) -> None:
    build(own_engine, source, "archives:1")
    same(source, layer_of(own_engine, "archives:1", tmp_path / "first"))
    before = inodes(own_engine)

    (source / "d" / "f7").write_text("8\n")
    os.utime(source / "d" / "f7", (1_700_000_000,) * 2)
    build(own_engine, source, "archives:2")  # another tag of the same name
    same(source, layer_of(own_engine, "archives:2", tmp_path / "second"))
    after = inodes(own_engine)
    assert {path for path in before if before[path] != after[path] and path != "link"} == {"d/f7"}

    size, time_ns = os.stat(source / "d" / "f8").st_size, os.stat(source / "d" / "f8").st_mtime_ns
    (source / "d" / "f8").write_text("?" * size)
    os.utime(source / "d" / "f8", ns=(time_ns, time_ns))  # neither size nor time tell
    build(own_engine, source, "archives:3")
    same(source, layer_of(own_engine, "archives:3", tmp_path / "third"))


def test_what_is_gone_goes_and_kinds_change(own_engine: Engine, source: Path, tmp_path: Path) -> None:
    changes = [
        "true",
        "rm -r d/e d/f1 link && mkdir link && echo in >link/in && rm d/f2 && ln -s /etc/passwd d/f2 && chmod 700 d && chmod 4755 d/f3",
        "rm -r link d/f2 && echo file >link && mkdir -p d/f2/deep/er && echo new >d/f2/deep/er/file && ln d/f4 d/hard",
        "rm d/hard && cp -p d/f4 d/hard && rm -r d/f2 && ln -s .. d/f2 && mkdir d/e && echo y >d/e/x",
        "rm -r d && ln -s link d",
    ]
    for number, change in enumerate(changes):
        subprocess.run(change, shell=True, cwd=source, check=True)
        build(own_engine, source, f"kinds:{number}")
        same(source, layer_of(own_engine, f"kinds:{number}", tmp_path / str(number)))
    assert len(mirrors(own_engine)) == 1


def test_what_an_archive_places_leads_nowhere_later(own_engine: Engine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("untouched")
    way = f"../../../../../..{outside}"

    def archive(*members: tuple[str, bytes, str]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, kind, value in [("Dockerfile", tarfile.REGTYPE, COPY), ("big", tarfile.REGTYPE, "x" * 100_000), *members]:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "" if kind == tarfile.REGTYPE else value
                info.mode, info.size = 0o755, len(value) if kind == tarfile.REGTYPE else 0
                tar.addfile(info, io.BytesIO(value.encode()))
        return out.getvalue()

    def built(data: bytes) -> subprocess.CompletedProcess[str]:
        return docker(own_engine, "build", "-t", "hostile", "-", input=data, code=None)

    for target in (str(outside), way):
        assert built(archive(("d", tarfile.SYMTYPE, target), ("e", tarfile.SYMTYPE, target))).returncode == 0
        assert built(archive(("d", tarfile.DIRTYPE, ""), ("d/x", tarfile.REGTYPE, "new"), ("e/x", tarfile.REGTYPE, "new"))).returncode == 0
        top = layer_of(own_engine, "hostile", tmp_path / f"layer{len(target)}")
        assert [(top / name).read_text() for name in ("d/x", "e/x")] == ["new", "new"]
        assert not (top / "d").is_symlink()
    assert built(archive(("d", tarfile.SYMTYPE, str(outside)), ("h", tarfile.LNKTYPE, f"{way}/x"))).returncode != 0
    built(archive(("d", tarfile.SYMTYPE, str(outside)), ("d/x", tarfile.REGTYPE, "evil")))  # below the mirror's own root, if anywhere
    assert built(archive(("d", tarfile.DIRTYPE, ""), ("../x", tarfile.REGTYPE, "evil"))).returncode != 0
    assert os.listdir(outside) == ["x"]
    assert (outside / "x").read_text() == "untouched"


def test_two_builds_at_once_have_a_directory_each(own_engine: Engine, source: Path, tmp_path: Path) -> None:
    (source / "Dockerfile").write_text("FROM bb\nCOPY . /all\nRUN sleep 1000\n")
    waiting = subprocess.Popen(
        ["docker", "build", "-t", "both", str(source)], env={**own_engine.env, "DOCKER_BUILDKIT": "0"}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert waiting.stdout
        assert any("RUN sleep" in line for line in waiting.stdout)
        (source / "Dockerfile").write_text(COPY)
        (source / "d" / "f1").write_text("of the other\n")
        build(own_engine, source, "both")
        same(source, layer_of(own_engine, "both", tmp_path / "layer"))
        first, second = mirrors(own_engine)
        assert first.partition(".")[0] == second.partition(".")[0]
    finally:
        waiting.terminate()
        waiting.communicate()


def test_a_client_that_goes_half_way_does_no_harm(own_engine: Engine, source: Path, tmp_path: Path) -> None:
    build(own_engine, source, "half")
    (source / "big").write_bytes(os.urandom(1 << 20))
    data = subprocess.run(["tar", "-c", "-C", str(source), "."], capture_output=True, check=True).stdout
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(own_engine.env["DOCKER_HOST"].removeprefix("unix://"))
        client.sendall(b"POST /v1.41/build?t=half HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: %d\r\n\r\n" % len(data))
        client.sendall(data[: len(data) // 2])
    wait_until(lambda: all(os.path.exists(f"{own_engine.data}/build/contexts/{name}/index") for name in mirrors(own_engine)), "half a mirror")
    build(own_engine, source, "half")
    same(source, layer_of(own_engine, "half", tmp_path / "layer"))


def test_what_is_kept_is_counted_and_pruned(own_engine: Engine, source: Path) -> None:
    build(own_engine, source, "counted")

    def kept() -> list[dict]:
        shown = docker(own_engine, "system", "df", "-v", "--format", "{{json .BuildCache}}").stdout
        return [each for each in json.loads(shown) if each["CacheType"] == "source.local"]

    (entry,) = kept()
    assert entry["Size"] == "100kB"
    assert "Total reclaimed space" in docker(own_engine, "builder", "prune", "-af").stdout
    assert kept() == []
    assert mirrors(own_engine) == []
    build(own_engine, source, "counted")
    assert len(kept()) == 1


def test_a_small_context_is_not_kept(own_engine: Engine, tmp_path: Path) -> None:
    docker_build(own_engine, tmp_path, COPY, "-t", "small")
    assert mirrors(own_engine) == []


@pytest.mark.parametrize("size", [10, 100_000])
def test_any_user_may_look_into_a_mounted_context(own_engine: Engine, tmp_path: Path, size: int) -> None:
    text = "FROM bb\nUSER 1000\nRUN --mount=type=bind,target=/in wc -c </in/file\n"
    docker_build(own_engine, tmp_path, text, "-t", "mounted", files={"file": "x" * size})


def test_berth_build_with_an_archive(own_engine: Engine, source: Path, tmp_path: Path) -> None:
    words = [f"{REPOSITORY}/berth", "build", "-t", "piped", "-"]
    for number in range(2):
        (source / "d" / "f3").write_text(f"{number} in turn\n")
        data = subprocess.run(["tar", "-c", "-C", str(source), "."], capture_output=True, check=True).stdout
        subprocess.run(words, input=data, env={**own_engine.env, "BERTH_HOST": own_engine.env["DOCKER_HOST"]}, capture_output=True, check=True)
        same(source, layer_of(own_engine, "piped", tmp_path / str(number)))
    assert len(mirrors(own_engine)) == 1
