"""Layers of caches elsewhere that are gone, damaged or out of reach by the time their files are needed."""

import gzip
import hashlib
import os
import sys
import tarfile
from pathlib import Path

import pytest
from buildhost import BuildHost, build_host, kinds
from registries import Host

pytestmark = pytest.mark.root

TEXT = (
    "FROM bb AS first\nRUN echo 1 >/first\n"
    "FROM bb AS tools\nRUN head -c 200000 /dev/urandom >/big && sha256sum </big >/sum\nRUN cp /big /bigger\n"
    "FROM bb\nCOPY --from=first /first /first\nCOPY --from=tools /sum /sum\nRUN --mount=type=bind,from=tools,target=/tools cp /tools/bigger /bigger\n"
)  # fmt: skip
CHANGED = TEXT.replace("echo 1", "echo 2")  # `first` is to be built, and the last step, which looks into `tools`
DAMAGE = """
import os, sys
kind, top, pid = sys.argv[1:4]
if kind == "away":
    os.kill(int(pid), 9)
for directory, _, names in os.walk(top):
    for name in names:
        path = f"{directory}/{name}"
        with open(path, "rb") as file:
            data = file.read()
        if data[:2] != b"\\x1f\\x8b" or len(data) < 100000:
            continue
        if kind == "gone":
            os.unlink(path)
        with open(path, "wb") if kind in ("damaged", "cut") else open(os.devnull, "wb") as file:
            file.write(data[:50000] + (bytes(10) + data[50010:] if kind == "damaged" else b""))
"""


def damage(kind: str, top: str, pid: int = 0) -> dict:
    """As the first step starts: the caches have been read, no layer of theirs is needed yet."""
    return {"step": "RUN echo 2", "run": [sys.executable, "-c", DAMAGE, kind, top, str(pid)]}


def check_result(path: Path) -> str:
    """What the build says of the file is true of it: both are of one and the same run of the stage `tools`."""
    with tarfile.open(path) as tar:
        said, big, first = (tar.extractfile(name).read() for name in ("sum", "bigger", "first"))  # type: ignore[union-attr]
    assert said.split()[0].decode() == hashlib.sha256(big).hexdigest()
    assert first == b"2\n"
    return hashlib.sha256(big).hexdigest()


def check_lost(host: BuildHost, place: dict, at: dict, path: Path, words: str) -> None:
    output = [{"type": "tar", "dest": str(path)}]
    found = host.build(CHANGED, cache_from=[place], at=at, outputs=output)
    made = check_result(path)
    warnings = [event["text"] for event in kinds(found, "warning")]
    assert len([text for text in warnings if "left out" in text]) in (1, 2), warnings  # one for each layer that was asked for
    assert any(words in text for text in warnings), warnings
    assert not kinds(found, "failed")
    assert any("RUN head" in event["label"] for event in kinds(found, "cached"))  # before it was lost
    assert any("RUN head" in event["label"] for event in kinds(found, "started"))
    found = host.build(CHANGED, outputs=output)  # what was made is in the cache, and not what was lost
    assert not [event for event in kinds(found, "started") if "RUN" in event["label"]]
    assert check_result(path) == made


@pytest.mark.parametrize(("kind", "words"), [("gone", "blob unknown"), ("damaged", "sha256:"), ("cut", "bytes by its manifest"), ("away", "its layers are")])
def test_of_a_registry(rootfs_tar: str, registry: Host, tmp_path: Path, kind: str, words: str) -> None:
    place = {"type": "registry", "ref": f"{registry}/cache:main"}
    with build_host({"bb": rootfs_tar}, [registry]) as first:
        first.build(TEXT, cache_to=[{**place, "mode": "max"}])
    with build_host({"bb": rootfs_tar}, [registry]) as second:
        check_lost(second, place, damage(kind, registry.root, registry.process.pid), tmp_path / "out", words)


def local_cache(rootfs_tar: str, top: Path) -> dict:
    with build_host({"bb": rootfs_tar}) as first:
        first.build(TEXT, cache_to=[{"type": "local", "dest": f"{top}/cache.tar", "mode": "max"}])
    with tarfile.open(top / "cache.tar") as tar:
        tar.extractall(top / "cache", filter="data")
    return {"type": "local", "src": f"{top}/cache"}


@pytest.mark.parametrize(("kind", "words"), [("gone", "has no blobs/"), ("damaged", "layer sha256:"), ("cut", "layer sha256:")])
def test_of_a_directory(rootfs_tar: str, tmp_path: Path, kind: str, words: str) -> None:
    place = local_cache(rootfs_tar, tmp_path)
    with build_host({"bb": rootfs_tar}) as second:
        check_lost(second, place, damage(kind, f"{tmp_path}/cache"), tmp_path / "out", words)


def test_another_cache_that_has_the_layer_gives_it(rootfs_tar: str, tmp_path: Path) -> None:
    place = local_cache(rootfs_tar, tmp_path)
    os.rename(tmp_path / "cache", tmp_path / "other")
    with tarfile.open(tmp_path / "cache.tar") as tar:
        tar.extractall(tmp_path / "cache", filter="data")
    with build_host({"bb": rootfs_tar}) as second:
        places = [place, {"type": "local", "src": f"{tmp_path}/other"}]
        found = second.build(CHANGED, cache_from=places, at=damage("gone", f"{tmp_path}/cache"), outputs=[{"type": "tar", "dest": f"{tmp_path}/out"}])
        check_result(tmp_path / "out")
        assert not [event for event in kinds(found, "started") if "RUN head" in event["label"]]


def test_an_archive_of_other_files_than_the_record_says(rootfs_tar: str, tmp_path: Path) -> None:
    place = local_cache(rootfs_tar, tmp_path)
    other = gzip.compress(bytes(10240))
    swap = "import os, sys\nfor name in os.listdir(sys.argv[1]):\n p = f'{sys.argv[1]}/{name}'\n if os.path.getsize(p) > 100000: open(p, 'wb').write(bytes.fromhex(sys.argv[2]))"
    at = {"step": "RUN echo 2", "run": [sys.executable, "-c", swap, f"{tmp_path}/cache/blobs/sha256", other.hex()]}
    with build_host({"bb": rootfs_tar}) as second:
        check_lost(second, place, at, tmp_path / "out", "unpacks to")


def test_a_cache_is_exported_without_what_is_lost(rootfs_tar: str, registry: Host, tmp_path: Path) -> None:
    """Nobody needs the files of `tools` here; an export to a directory does."""
    place = {"type": "registry", "ref": f"{registry}/cache:main"}
    text = TEXT.partition("FROM bb\n")[0] + "FROM bb\nCOPY --from=tools /sum /sum\nCOPY --from=first /first /first\n"
    with build_host({"bb": rootfs_tar}, [registry]) as first:
        first.build(text, cache_to=[{**place, "mode": "max"}])
    with build_host({"bb": rootfs_tar}, [registry]) as second:
        at = damage("gone", registry.root)
        to = [{"type": "local", "dest": f"{tmp_path}/cache.tar", "mode": "max"}]
        found = second.build(text.replace("echo 1", "echo 2"), cache_from=[place], at=at, cache_to=to)
        assert any("left out" in event["text"] for event in kinds(found, "warning"))
    with tarfile.open(tmp_path / "cache.tar") as tar:
        sizes = [member.size for member in tar if member.name.startswith("blobs/")]
    assert max(sizes) < 100_000 + os.path.getsize(rootfs_tar)
    with build_host({"bb": rootfs_tar}) as third:
        with tarfile.open(tmp_path / "cache.tar") as tar:
            tar.extractall(tmp_path / "cache", filter="data")
        found = third.build(text.replace("echo 1", "echo 2"), cache_from=[{"type": "local", "src": f"{tmp_path}/cache"}])
        started = [event["label"] for event in kinds(found, "started")]
        assert any("RUN head" in label for label in started)
        assert not any("RUN echo 2" in label for label in started)
