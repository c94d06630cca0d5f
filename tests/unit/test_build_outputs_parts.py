"""What of builds' outputs decides without an engine: -o, annotations, provenance, package lists, emulators, compression."""

import gzip
import hashlib
import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from berth.build import outputs, provenance, sbom, sbompackages
from berth.build.attestations import Claim, wanted
from berth.build.graph import ContextSource, Copy, GitSource, ImageSource, Run, Vertex
from berth.build.imagedocuments import Document, attestation_manifest, index, manifest
from berth.build.options import Options
from berth.build.worker import Layers
from berth.engine.builds import emulation
from berth.engine.builds.request import BuildRequest, filled
from berth.errors import Cancelled, InvalidParameter
from berth.oci.platforms import Platform
from berth.store.packing import pack

OPTIONS = Options(build_platform="linux/amd64", build_args={"TOKEN": "hidden"}, labels={"l": "m"}, contexts={"c": "https://me:pw@host/r.git"})


def test_outputs_as_people_write_them() -> None:
    found = outputs.parse(3, {"type": "image", "name": "a,b:2", "push": "true", "compression": "zstd", "compression-level": "19"})
    assert (found.number, found.names, found.push, found.to_store) == (3, ("a:latest", "b:2"), True, True)
    assert found.compression == outputs.Compression("zstd", 19)
    registry = outputs.parse(0, {"type": "registry"})
    assert (registry.push, registry.to_store) == (True, False)
    assert outputs.parse(0, {"type": "docker"}).kind == outputs.STORE
    assert outputs.parse(0, {"type": "docker", "dest": "-"}).to_client
    assert outputs.is_directory({"type": "oci", "tar": "false"})
    assert not outputs.is_directory({"type": "oci"})


@pytest.mark.parametrize(
    "given",
    [
        {}, {"type": "local", "push": "true"}, {"type": "oci", "push": "true"}, {"type": "image", "push": "perhaps"}, {"type": "image", "name": "UPPER"},
        {"type": "image", "compression-level": "10"}, {"type": "image", "compression": "zstd", "compression-level": "23"},
        {"type": "image", "compression-level": "-1"}, {"type": "tar", "annotations.x": "y"},
    ],
)  # fmt: skip
def test_outputs_that_are_none(given: dict) -> None:
    with pytest.raises(InvalidParameter):
        outputs.parse(0, given)


def test_annotations() -> None:
    assert outputs.annotation("a.b=c=d") == [outputs.Annotation("manifest", "", "a.b", "c=d")]
    assert outputs.annotation("index,manifest[linux/arm64]:k=v") == [
        outputs.Annotation("index", "", "k", "v"), outputs.Annotation("manifest", "linux/arm64", "k", "v"),
    ]  # fmt: skip
    given = {"type": "oci", "annotation-manifest[linux/amd64].x.y": "1", "annotation.z": "2"}
    assert [(each.what, each.platform, each.key) for each in outputs.parse(0, given).annotations] == [("manifest", "linux/amd64", "x.y"), ("manifest", "", "z")]
    with pytest.raises(InvalidParameter):
        outputs.annotation("index,everything:k=v")


def test_what_the_command_line_says_besides() -> None:
    request = filled(BuildRequest(OPTIONS, extra={"attest": [{"type": "provenance", "mode": "max"}], "cache_from": [{"type": "registry", "ref": "x"}], "annotations": ["a=b"]}))
    assert request.attests == {"provenance": {"mode": "max"}}
    assert request.cache_from == ({"type": "registry", "ref": "x"},)
    assert request.annotations == ("a=b",)
    for extra in ({"attest": "x"}, {"cache_to": [{"a": 1}]}, {"annotations": [1]}):
        with pytest.raises(InvalidParameter):
            filled(BuildRequest(OPTIONS, extra=extra))


# -- provenance ---------------------------------------------------------------------------------------------------


def facts(options: Options = OPTIONS) -> tuple[provenance.Facts, Vertex]:
    base = Vertex(ImageSource("debian:12", "linux/amd64"))
    source = Vertex(GitSource("https://user:secret@host/x.git#v1", False, "a" * 40))
    copied = Vertex(Copy(("/",), "/x", "/"), (base, source), label="[1/2] ADD x")
    run = Vertex(Run(("/bin/sh", "-c", "true"), (("TOKEN", "hidden"),), "/", ""), (copied,), label="RUN true")
    digest = "sha256:" + "b" * 64
    found = provenance.Facts(options, ("Dockerfile", b"FROM debian:12\n"), {("debian:12", "linux/amd64"): digest}, {run: Layers("c", ("d",))}, 10**18, 2 * 10**18, "id")
    return found, run


@pytest.mark.parametrize("version", ["v0.2", "v1"])
def test_provenance_of_mode_min_tells_no_values(version: str) -> None:
    found, target = facts()
    text = json.dumps(provenance.predicate(provenance.parse({"version": version}), found, target, "linux/amd64"))
    assert "hidden" not in text
    assert "secret" not in text
    assert "pw@" not in text
    assert "pkg:docker/debian@12?platform=linux%2Famd64" in text
    assert "a" * 40 in text
    most = json.dumps(provenance.predicate(provenance.parse({"version": version, "mode": "max"}), found, target, "linux/amd64"))
    assert "build-arg:TOKEN" in most
    assert "secret" not in most
    assert "https://host/x.git" in most


def test_provenance_fields_of_the_specifications() -> None:
    found, target = facts()
    old = provenance.predicate(provenance.parse({}), found, target, "linux/amd64")
    assert set(old) == {"builder", "buildType", "materials", "invocation", "metadata"}
    assert set(old["invocation"]) == {"configSource", "parameters", "environment"}
    assert old["metadata"]["buildStartedOn"] == "2001-09-09T01:46:40Z"
    assert old["metadata"]["completeness"] == {"parameters": False, "environment": True, "materials": False}
    new = provenance.predicate(provenance.parse({"version": "v1", "builder-id": "https://b"}), found, target, "linux/amd64")
    assert set(new) == {"buildDefinition", "runDetails"}
    assert set(new["buildDefinition"]) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert new["runDetails"]["builder"] == {"id": "https://b"}


def test_provenance_is_the_same_each_time_with_an_epoch() -> None:
    texts = []
    for _ in range(2):
        found, target = facts(Options(build_platform="linux/amd64", epoch=5))
        texts.append(json.dumps(provenance.predicate(provenance.parse({"mode": "max"}), found, target, "linux/amd64")))
    assert texts[0] == texts[1]
    assert "buildStartedOn" not in texts[0]


def test_contexts_are_no_materials() -> None:
    found, _ = facts()
    target = Vertex(Copy(("a",), "/", "/"), (Vertex(ImageSource("x", "linux/amd64")), Vertex(ContextSource(""))))
    predicate = provenance.predicate(provenance.parse({}), found, target, "linux/amd64")
    assert [each["uri"] for each in predicate["materials"]] == ["pkg:docker/x@latest?platform=linux%2Famd64"]
    assert predicate["metadata"]["completeness"]["materials"] is False


def test_attestation_manifest() -> None:
    statement = Claim("https://spdx.dev/Document", {}).about(["n:1"], "linux/amd64", "sha256:" + "0" * 64)
    config, found = attestation_manifest([("https://spdx.dev/Document", statement)])
    value = json.loads(found.raw)
    assert value["layers"][0]["annotations"] == {"in-toto.io/predicate-type": "https://spdx.dev/Document"}
    assert value["config"]["digest"] == config.digest
    assert json.loads(config.raw)["rootfs"]["diff_ids"] == [statement.digest]
    assert wanted({"sbom": {"disabled": "true"}, "provenance": {}}) == {"provenance": {}}


def test_documents_are_the_same_in_any_order_of_annotations() -> None:
    config = b'{"architecture":"amd64"}'
    made = {manifest(config, [], oci=True, annotations=dict(pairs)).raw for pairs in ((("a", "1"), ("b", "2")), (("b", "2"), ("a", "1")))}
    assert len(made) == 1
    assert json.loads(index([], oci=False, annotations={}).raw)["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert Document("x", b"y").descriptor(platform=None) == {"mediaType": "x", "digest": f"sha256:{hashlib.sha256(b'y').hexdigest()}", "size": 1}


# -- packages -----------------------------------------------------------------------------------------------------


def test_packages_of_this_machine_as_dpkg_lists_them() -> None:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        text = Path("/var/lib/dpkg/status").read_text(errors="replace")
        found = {(each.name, each.version, each.architecture) for each in sbompackages.of_dpkg(text, "p", ("debian", "12"))}
    finally:
        os.close(fd)
    listed = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"], capture_output=True, text=True, check=True)
    expected = {tuple(line.split()[1:]) for line in listed.stdout.splitlines() if line.startswith("installed ")}
    assert found == expected


def test_packages_of_a_root(tmp_path: Path) -> None:
    files = {
        "etc/os-release": 'ID=alpine\nVERSION_ID="3.19.1"\n', "lib/apk/db/installed": "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nF:lib\n\nP:zlib\nV:1.3\n",
        "usr/lib/python3/site-packages/My_Pkg-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: My.Pkg\nVersion: 1.0\nLicense: BSD\n\nName: not-this\n",
        "srv/node_modules/left-pad/package.json": '{"name": "left-pad", "version": "1.3.0", "license": "WTFPL"}', "srv/package.json": '{"name": "own", "version": "0"}',
        "srv/node_modules/bad/package.json": "[" * 100_000, "srv/node_modules/left-pad/lib/package.json": '{"name": "inner", "version": "1"}',
        "var/lib/dpkg/status.d/base": "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "srv/node_modules/evil").mkdir()
    (tmp_path / "srv/node_modules/evil/package.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "srv/node_modules/evil/METADATA")
    (tmp_path / "loop").symlink_to(".")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        found = sbom.scan(fd)
    finally:
        os.close(fd)
    assert [sbom.purl(each) for each in found.packages] == [
        "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19.1", "pkg:apk/alpine/zlib@1.3?distro=alpine-3.19.1",
        "pkg:deb/alpine/base-files@12.4?arch=amd64&distro=alpine-3.19.1", "pkg:npm/left-pad@1.3.0", "pkg:pypi/my-pkg@1.0",
    ]  # fmt: skip
    document = sbom.spdx(found, name="n", namespace="urn:x", created="2020-01-01T00:00:00Z")
    assert {"spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace", "creationInfo", "packages", "relationships"} <= set(document)
    identities = [each["SPDXID"] for each in document["packages"]]
    assert len(set(identities)) == len(identities) == 6
    assert {each["relatedSpdxElement"] for each in document["relationships"]} == set(identities)


def test_a_root_with_too_much_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / f"d{number}").mkdir()
    monkeypatch.setattr(sbom, "MOST_DIRECTORIES", 10)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        assert sbom.scan(fd).truncated
    finally:
        os.close(fd)


# -- emulators ----------------------------------------------------------------------------------------------------

HOST = Platform("linux", "amd64")
ARM64 = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: {flags}\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"


@pytest.mark.parametrize(
    ("platform", "files", "words"),
    [
        ("linux/arm64", {"qemu-aarch64": ARM64.format(flags="POCF")}, ""), ("linux/arm64", {"qemu-aarch64": ARM64.format(flags="OC")}, "the flag F"),
        ("linux/riscv64", {"qemu-aarch64": ARM64.format(flags="F")}, "qemu-user-static"), ("linux/arm64", {}, "qemu-user-static"),
        ("linux/arm64", {"qemu-aarch64": ARM64.format(flags="F").replace("enabled", "disabled")}, "qemu-user-static"),
        ("linux/arm64", {"status": "disabled\n", "qemu-aarch64": ARM64.format(flags="F")}, "qemu-user-static"),
    ],
)  # fmt: skip
def test_emulators(tmp_path: Path, platform: str, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = emulation.problem(platform, str(tmp_path))
    assert (words in found) if words else found == ""


def test_which_platforms_are_foreign() -> None:
    assert [emulation.is_foreign(text, HOST) for text in ("linux/amd64", "linux/386", "", "linux/arm64", "linux/amd64/v3")] == [False, False, False, True, True]


# -- compression --------------------------------------------------------------------------------------------------


def test_packing(tmp_path: Path) -> None:
    data = os.urandom(1000) * 4000
    made = {}
    for level in (None, 1, 9):
        out = io.BytesIO()
        digest, size = pack(io.BytesIO(data), out, "gzip", level=level, portable=True)
        assert digest == f"sha256:{hashlib.sha256(out.getvalue()).hexdigest()}"
        assert size == len(out.getvalue())
        (tmp_path / "x.gz").write_bytes(out.getvalue())
        assert subprocess.run(["gzip", "-dc", str(tmp_path / "x.gz")], capture_output=True, check=True).stdout == data
        made[level] = out.getvalue()
    assert made[1] != made[9]
    plain = io.BytesIO()
    assert pack(io.BytesIO(data), plain, "uncompressed")[1] == len(data)
    fast = io.BytesIO()
    pack(io.BytesIO(data), fast, "gzip")
    assert gzip.decompress(fast.getvalue()) == data
    assert fast.getvalue()[4:8] == bytes(4)


def test_packing_stops() -> None:
    class Set:
        def is_set(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        pack(io.BytesIO(b"x"), io.BytesIO(), "gzip", stop=Set())  # type: ignore[arg-type]
