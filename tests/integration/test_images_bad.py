"""Images that are wrong, by both command lines: the reason is said, nothing of them stays, and what lists images goes on. A full disk."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from handmade import DOCKER_MANIFEST, Handmade, digest_of, layer
from harness import REPOSITORY, Engine
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
PROGRAMS = [["docker"], BERTH]

CONFIGURATIONS = {
    "config": ({"config": "x"}, "config: 'x' is not an object"), "labels": ({"config": {"Labels": ["a"]}}, "config.Labels: ['a'] is not an object"),
    "history": ({"history": [None]}, "history[0]: null is not an object"), "created": ({"created": 5}, "created: 5 is not a string"),
    "architecture": ({"architecture": ["x"]}, "architecture: ['x'] is not a string"), "timeout": ({"config": {"StopTimeout": 10**30}}, "is not a whole number"),
}  # fmt: skip


@pytest.fixture(scope="module")
def registry() -> Iterator[Handmade]:
    with docker_registry() as host:
        yield Handmade(host)


def tree(engine: Engine) -> set[str]:
    """Everything the store has on disk, but for the database."""
    found = set()
    for top, names, files in os.walk(engine.data):
        names[:] = [name for name in names if name not in ("containers", "cache", "unwritten", "records")]
        found |= {f"{top}/{name}" for name in names + files if not name.startswith("berth.db")}
    return found


def run(program: list[str], engine: Engine, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*program, *words], env=engine.env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


def refused(engine: Engine, words: tuple[str, ...], said: str) -> None:
    """By both command lines, with these words; nothing is left and everything can be listed."""
    before, images = tree(engine), engine.docker("images", "-aq", "--no-trunc").stdout
    for program in PROGRAMS:
        done = run(program, engine, *words)
        assert done.returncode == 1, done
        assert said in done.stderr
        assert len(done.stderr) < 1000
        assert run(program, engine, "images", "-aq", "--no-trunc").stdout == images
        assert run(program, engine, "system", "df").returncode == 0
    assert tree(engine) == before


def config_of(tar: bytes, **fields: object) -> bytes:
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]}, **fields}).encode()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_of_other_types(registry: Handmade, engine: Engine, tmp_path: Path, name: str) -> None:
    """From a registry and in an archive: before it was refused, nothing that lists images worked any more."""
    fields, said = CONFIGURATIONS[name]
    tar = layer(("file", name.encode()))
    blob, raw = gzip.compress(tar), config_of(tar, **fields)
    registry.blob("bad/config", blob)
    registry.blob("bad/config", raw)
    registry.manifest("bad/config", name, {
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest_of(raw), "size": len(raw)},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest_of(blob), "size": len(blob)}],
    }, DOCKER_MANIFEST)  # fmt: skip
    refused(engine, ("pull", f"{registry.host}/bad/config:{name}"), said)
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        manifest = json.dumps([{"Config": "config.json", "RepoTags": ["bad:1"], "Layers": ["layer.tar"]}]).encode()
        for member, data in (("config.json", raw), ("layer.tar", tar), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    refused(engine, ("load", "-i", str(tmp_path / "bad.tar")), said)


def test_a_layer_that_is_broken_is_named(registry: Handmade, engine: Engine) -> None:
    tar = layer(("file", os.urandom(200_000)))
    for tag, data, said in (
        ("short", gzip.compress(tar[:100_000]), "the archive ends"), ("cut", gzip.compress(tar)[:-50_000], "cut off or damaged"),
        ("none", gzip.compress(b"hello" * 1000), "this is no tar archive"),
    ):  # fmt: skip
        made = registry.image("bad/layer", tag, [tar], blobs=[data])
        refused(engine, ("pull", f"{registry.host}/bad/layer:{tag}"), f"layer {made.blobs[0]} of {registry.host}/bad/layer:{tag}: ")
        refused(engine, ("pull", f"{registry.host}/bad/layer:{tag}"), said)


def test_what_is_no_archive_is_said(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "it"
    for data, said in ((b"", "the archive is empty"), (b"<html>not found</html>" * 99, "this is no tar archive, nor one compressed with"), (os.urandom(9000), "this is no tar archive")):
        path.write_bytes(data)
        refused(engine, ("load", "-i", str(path)), said)
        refused(engine, ("import", str(path), "bad"), said)


# -- a full disk --------------------------------------------------------------------------------------


class Small(Engine):
    """An engine whose data root is a file system of 200 MiB, in a mount namespace of its own."""

    def __init__(self) -> None:
        script = 'mount -t tmpfs -o size=200m tmpfs "$0" && exec "$@"'
        top = tempfile.mkdtemp(prefix="berth-small-", dir="/var/tmp")
        super().__init__(("--data-root", top), ("unshare", "-m", "--propagation", "slave", "sh", "-c", script, top))
        assert self.process
        self.data = f"/proc/{self.process.pid}/root{top}"  # where it can be seen
        self.small_top = top

    def free_bytes(self) -> int:
        found = os.statvfs(self.data)
        return found.f_bavail * found.f_frsize


@pytest.fixture
def small() -> Iterator[Small]:
    engine = Small()
    yield engine
    engine.finish()
    os.rmdir(engine.small_top)


def test_a_full_disk_leaves_the_store_as_it_was(small: Small, tmp_path: Path) -> None:
    """While layers are written, one or several at once; and a disk on which not even a record can be changed."""
    with docker_registry() as host:
        names = fill(host)
        small.docker("pull", "-q", names["small"])
        for number, name in enumerate(("one", "many")):
            path = tmp_path / f"{name}.tar"
            subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{names[name]}", f"docker-archive:{path}:big:{number}"], check=True)
        (tmp_path / "root.tar").write_bytes(layer(("file", os.urandom(220 << 20))))
        free = small.free_bytes()
        for words in (("pull", names["one"]), ("pull", names["many"]), ("load", "-i", f"{tmp_path}/many.tar"), ("import", f"{tmp_path}/root.tar", "x")):
            refused(small, words, "the image cannot be written to the disk: ")
            assert abs(small.free_bytes() - free) < 1 << 20, words
        filled(small, names["small"])


def fill(host: Host) -> dict[str, str]:
    registry = Handmade(host)
    made: dict[str, Callable[[], list[bytes]]] = {
        "small": lambda: [layer(("s", os.urandom(1 << 20)))], "one": lambda: [layer(("b", os.urandom(220 << 20)))],
        "many": lambda: [layer((f"b{number}", os.urandom(40 << 20))) for number in range(5)],
    }  # fmt: skip
    for name, tars in made.items():
        registry.image("disk", name, tars(), compression="")
    return {name: f"{host}/disk:{name}" for name in made}


def filled(small: Small, name: str) -> None:
    """Somebody else takes all that there is."""
    path = f"{small.data}/somebody"
    try:
        with open(path, "wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
    except OSError:
        pass
    for program in PROGRAMS:
        done = run(program, small, "tag", name, "other:1")
        assert "nothing was changed, for the records cannot be written to" in done.stderr
        assert name.rpartition(":")[0] in run(program, small, "images").stdout
    os.unlink(path)
    small.docker("tag", name, "other:1")
    small.docker("rmi", "other:1", name)
