"""Which images an archive offers: indexes that lead anywhere, documents that are anything; and what may be in a configuration."""

import contextlib
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import BerthError, DataLoss, InvalidParameter, NotFound
from berth.oci import platforms
from berth.store import archiveimages, compression
from berth.store.archive import Archive
from berth.store.layers import LayerStore
from berth.store.layout import Layout
from berth.store.naming import checked_config

INDEX, MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
LAYER = "sha256:" + "a" * 64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["manifests", "digest", "platform", "annotations", "config", "x"]), inner, max_size=3),
    max_leaves=12,
)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Maker:
    """An OCI layout in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def blob(self, value: object) -> dict:
        data = json.dumps(value).encode()
        self.blobs[digest_of(data)] = data
        return {"digest": digest_of(data), "size": len(data)}

    def image(self, platform: str = "linux/amd64") -> dict:
        os, architecture = platform.split("/")
        config = self.blob({"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}})
        manifest = self.blob({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []})
        return {**manifest, "mediaType": MANIFEST, "platform": {"os": os, "architecture": architecture}}

    def index(self, *entries: dict) -> dict:
        return {**self.blob({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}), "mediaType": INDEX}

    def read(self, top: Path, *entries: object, **more: bytes) -> "list[archiveimages.Group]":
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            files = {f"blobs/sha256/{digest[7:]}": data for digest, data in self.blobs.items()}
            for name, data in {**files, "index.json": json.dumps({"manifests": list(entries)}).encode(), **more}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        layers = LayerStore(Layout(str(top)))
        archive = Archive(layers)
        try:
            archive.read(io.BytesIO(buffer.getvalue()))
            return archiveimages.images_of(archive)
        finally:
            archive.close()
            layers.close()


def shown(groups: "list[archiveimages.Group]") -> list[list[str]]:
    return [[f"{' '.join(image.names)}{image.platform}{'' if image.open else '?'}" for image in group] for group in groups]


def test_groups(tmp_path: Path) -> None:
    made = Maker()
    amd, arm = made.image("linux/amd64"), made.image("linux/arm64")
    named = {"annotations": {"org.opencontainers.image.ref.name": "a:1"}}
    gone = {"digest": LAYER, "size": 1, "mediaType": MANIFEST, "platform": {"os": "linux", "architecture": "s390x"}}
    attestation = {**amd, "platform": {"os": "unknown", "architecture": "unknown"}}
    nested = {**made.index(amd, arm, gone, attestation, made.index(arm)), **named}
    assert shown(made.read(tmp_path, nested)) == [["a:1linux/amd64", "a:1linux/arm64", "a:1linux/s390x?", "a:1linux/arm64"]]
    assert shown(made.read(tmp_path, amd, arm)) == [["linux/amd64", "linux/arm64"]]
    assert shown(made.read(tmp_path, amd, amd)) == [["linux/amd64"], ["linux/amd64"]]
    assert shown(made.read(tmp_path, {**amd, **named}, arm)) == [["a:1linux/amd64"], ["linux/arm64"]]
    bare = {key: value for key, value in arm.items() if key != "platform"}
    assert shown(made.read(tmp_path, bare)) == [["linux/arm64"]]  # as its configuration says


def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "host", lambda: platforms.parse("linux/amd64"))

    def image(platform: str, *, there: bool = True) -> archiveimages.ArchivedImage:
        return archiveimages.ArchivedImage(platforms.parse(platform) if platform else None, ["x:1"], (lambda: (b"", [])) if there else None)

    def chosen(wanted: str, *groups: "archiveimages.Group") -> list[str]:
        return [str(one.platform) for one in archiveimages.choose(list(groups), platforms.parse(wanted) if wanted else None)[0]]

    both, arm = [image("linux/arm64"), image("linux/amd64")], [image("linux/arm64")]
    assert chosen("", both) == ["linux/amd64"]
    assert chosen("", arm) == ["linux/arm64"]
    assert chosen("", [*arm, image("linux/amd64", there=False)]) == ["linux/arm64"]
    assert chosen("linux/arm64", both, arm, [image("linux/s390x")]) == ["linux/arm64", "linux/arm64"]
    assert chosen("linux/arm64", [image("")]) == ["None"]
    for wanted, group, words in (
        ("", [image("linux/arm64"), image("linux/s390x")], "x:1 is for linux/arm64 and linux/s390x, not for this machine's linux/amd64"),
        ("linux/arm64", [image("linux/amd64")], "no image of the archive is for linux/arm64: x:1 is for linux/amd64"),
        ("", [image("linux/amd64", there=False)], "no image of the archive is whole: x:1 is listed for linux/amd64, and not in the archive"),
    ):
        with pytest.raises(NotFound) as raised:
            chosen(wanted, group)
        assert str(raised.value).startswith(words)


def test_indexes_that_multiply_or_lead_back(tmp_path: Path) -> None:
    made = Maker()
    entry = made.image()
    for _ in range(6):
        entry = made.index(*[entry] * 8)
    with pytest.raises(DataLoss, match="more than 10000 manifests"):
        made.read(tmp_path, entry)
    with pytest.raises(InvalidParameter, match="lists no image"):
        made.read(tmp_path)


@settings(max_examples=60, deadline=None)
@given(value=JSON, inner=JSON)
def test_documents_may_be_anything(tmp_path_factory: pytest.TempPathFactory, value: object, inner: object) -> None:
    made = Maker()
    entry = made.blob(inner)
    top = tmp_path_factory.mktemp("any")
    for entries in ((value,), ({**entry, "platform": value},), ({**entry, "mediaType": INDEX, "annotations": value},)):
        with contextlib.suppress(BerthError):
            made.read(top, *entries)


# -- configurations -----------------------------------------------------------------------------------


def config(**fields: object) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": [LAYER]}, **fields}).encode()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no JSON"), (b"[]", "it is no object"), (b"{}", "no list of sha256 digests"), (config(rootfs={"diff_ids": ["x"]}), "no list of sha256 digests"),
        (config(rootfs={"diff_ids": [5]}), r"rootfs.diff_ids\[0\]: 5 is not a string"), (config(config="x"), "config: 'x' is not an object"),
        (config(config={"Labels": ["a"]}), "config.Labels: .* is not an object"), (config(config={"Env": "A=1"}), "config.Env: 'A=1' is not a list"),
        (config(history=[None]), r"history\[0\]: null is not an object"), (config(history=[{"created_by": 9}]), r"history\[0\].created_by: 9 is not a string"),
        (config(created=5), "created: 5 is not a string"), (config(config={"StopTimeout": 1 << 70}), "config.StopTimeout: .* is not a whole number"),
        (config(architecture={}), "architecture: {} is not a string"), (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"), (b'{"a":"\xff"}', "no JSON"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(raw: bytes, words: str) -> None:
    with pytest.raises(DataLoss, match=words):
        checked_config(raw)


def test_a_configuration_is_read_as_docker_reads_it() -> None:
    found = checked_config(config(config={"cmd": "true", "Env": None, "Volumes": {"/v": None}, "Labels": {"a": "\ud800"}, "Other": 1}, author=None))
    assert found["config"] == {"Cmd": ["true"], "Volumes": {"/v": {}}, "Labels": {"a": "�"}, "Other": 1}
    assert "author" not in found


# -- bombs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gzip", "bz2", "lzma"])
def test_a_stream_that_expands_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(compression, "_BOMB_FROM_BYTES", 1 << 20)
    packed = __import__(name).compress(bytes(8 << 20))
    stream = compression.open_stream(io.BytesIO(packed))
    with pytest.raises(InvalidParameter, match="500 times as much: taken for a decompression bomb"):
        list(iter(lambda: stream.read(1 << 16), b""))
    mixed = __import__(name).compress((b"%05d" * 100) % tuple(range(100)) * 20 + bytes(1 << 19))
    assert len(compression.open_stream(io.BytesIO(mixed)).read(-1)) == 10_000 + (1 << 19)
