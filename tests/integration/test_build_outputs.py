"""Where builds' results go: archives, files, registries; the same bytes on two engines; attestations. skopeo, tar and sha256sum look too."""

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildhost import BuildHost, build_host, kinds
from dockerd import Dockerd
from registries import HAVE_DOCKER_REGISTRY, docker_registry

pytestmark = pytest.mark.root

STAGES = (
    "FROM bb AS one\nWORKDIR /srv\nRUN mkdir -p deep/er && echo made >deep/er/file && ln deep/er/file hard && ln -s hard soft && chmod 4755 hard\n"
    "COPY a.txt sub/ ./\nFROM bb\nARG WHO=nobody\nENV WHO=$WHO\nADD a.txt /added\nCOPY --from=one /srv /srv\n"
    "RUN echo $WHO >/who && touch /now && rm /etc/plain\nLABEL l=$WHO\nCMD [\"cat\", \"/who\"]\n"
)  # fmt: skip


@pytest.fixture
def host(rootfs_tar: str) -> Iterator[BuildHost]:
    with build_host({"bb": rootfs_tar}) as running:
        yield running


@pytest.fixture
def context(tmp_path: Path) -> str:
    top = tmp_path / "context"
    (top / "sub").mkdir(parents=True)
    (top / "a.txt").write_text("A\n")
    (top / "sub" / "b").write_text("B\n")
    return str(top)


def skopeo(*words: str) -> str:
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw(where: str, *options: str) -> dict:
    return dict(json.loads(skopeo("inspect", "--raw", *options, where)))


def checked_layout(path: str) -> dict[str, bytes]:
    """The members of an OCI archive; every blob has its digest for a name."""
    with tarfile.open(path) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    for name, data in found.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2]
    return found


def test_archives_hold_the_image(host: BuildHost, context: str, tmp_path: Path) -> None:
    found = host.build(
        STAGES, context=context, tags=["name/out:1"],
        outputs=[{"type": "oci", "dest": str(tmp_path / "oci.tar")}, {"type": "docker", "dest": str(tmp_path / "docker.tar")}, {"type": "image"}],
    )  # fmt: skip
    assert found["image"].startswith("sha256:")
    seen = json.loads(skopeo("inspect", f"oci-archive:{tmp_path}/oci.tar"))
    assert seen["Labels"] == {"l": "nobody"}
    manifest = raw(f"oci-archive:{tmp_path}/oci.tar")
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    assert manifest["config"]["digest"] == found["image"]
    members = list(checked_layout(str(tmp_path / "oci.tar")))
    layers = [f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}" for layer in manifest["layers"]]
    assert [name for name in members if name in layers] == layers  # not as they happened to be compressed
    skopeo("copy", f"docker-archive:{tmp_path}/docker.tar", f"dir:{tmp_path}/copy")
    with open(tmp_path / "copy" / "manifest.json") as file:
        assert json.load(file)["config"]["digest"] == found["image"]
    assert found["metadata"]["containerimage.config.digest"] == found["image"]
    assert found["metadata"]["image.name"] == "docker.io/name/out:1"


@pytest.mark.parametrize(("compression", "suffix"), [("gzip", "+gzip"), ("zstd", "+zstd"), ("uncompressed", "")])
def test_compression(host: BuildHost, tmp_path: Path, compression: str, suffix: str) -> None:
    path = tmp_path / "out.tar"
    found = host.build("FROM bb\nRUN seq 5000 >/s\n", outputs=[{"type": "oci", "dest": str(path), "compression": compression}])
    manifest = raw(f"oci-archive:{path}")
    assert [layer["mediaType"] for layer in manifest["layers"]] == [f"application/vnd.oci.image.layer.v1.tar{suffix}"] * 2
    assert found["image"] == ""
    skopeo("copy", f"oci-archive:{path}", f"dir:{tmp_path}/copy")  # decompresses and compares with the configuration's diff ids
    assert found["metadata"]["containerimage.digest"] == f"sha256:{subprocess.run(['sha256sum', f'{tmp_path}/copy/manifest.json'], capture_output=True, text=True).stdout.split()[0]}"


def test_files_of_the_result(host: BuildHost, context: str, tmp_path: Path) -> None:
    for kind in ("local", "tar"):
        host.build(STAGES, context=context, outputs=[{"type": kind, "dest": str(tmp_path / kind)}])
        listed = subprocess.run(["tar", "-tvf", str(tmp_path / kind)], capture_output=True, text=True, check=True).stdout
        assert " srv/soft -> hard" in listed
        assert " srv/deep/er/file link to srv/hard" in listed
        assert "-rwsr-xr-x" in listed
        assert " etc/plain" not in listed
        with tarfile.open(tmp_path / kind) as tar:
            assert tar.extractfile("who").read() == b"nobody\n"  # type: ignore[union-attr]


def test_scratch_has_no_files(host: BuildHost, tmp_path: Path) -> None:
    host.build("FROM scratch\nENV A=1\n", outputs=[{"type": "tar", "dest": str(tmp_path / "t")}, {"type": "oci", "dest": str(tmp_path / "o")}])
    assert subprocess.run(["tar", "-tf", str(tmp_path / "t")], capture_output=True, text=True, check=True).stdout == ""
    assert raw(f"oci-archive:{tmp_path}/o")["layers"] == []


@pytest.mark.parametrize("attests", [{}, {"provenance": {"mode": "max"}, "sbom": {}}])
def test_two_engines_make_the_same_bytes(rootfs_tar: str, context: str, tmp_path: Path, attests: dict) -> None:
    """Another engine, files with other times, another order of making them, another time of day."""
    made = []
    for number in range(2):
        with build_host({}) as host:
            base = host.build("FROM scratch\nADD rootfs.tar /\n", context=os.path.dirname(rootfs_tar), epoch=1_600_000_000, tags=["bb"])
            for path in Path(context).rglob("*"):
                os.utime(path, (1_650_000_000 + number * 977, 1_650_000_000 + number * 1977))
            found = host.build(
                STAGES, context=context, epoch=1_600_000_000, build_args={"WHO": "you"}, attests=attests, tags=["same:1"],
                outputs=[{"type": "oci", "dest": str(tmp_path / f"{number}.tar")}, {"type": "tar", "dest": str(tmp_path / f"{number}.files")}],
            )  # fmt: skip
            made.append((base["image"], found["metadata"]["containerimage.digest"]))
    assert made[0] == made[1]
    sums = subprocess.run(["sha256sum", *(str(tmp_path / f"{number}.{kind}") for kind in ("tar", "files") for number in range(2))], capture_output=True, text=True)
    digests = [line.split()[0] for line in sums.stdout.splitlines()]
    assert digests[0] == digests[1]
    assert digests[2] == digests[3]
    members = checked_layout(str(tmp_path / "0.tar"))
    layers = [data for data in members.values() if data[:2] == b"\x1f\x8b"]
    assert layers
    assert all(data[3:8] == bytes(5) for data in layers)  # neither a name nor a time in gzip's head
    with tarfile.open(tmp_path / "0.files") as tar:
        assert max(member.mtime for member in tar) <= 1_600_000_000


def test_attestations_in_the_index(host: BuildHost, context: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/out.tar"
    found = host.build(
        "FROM bb\nARG TOKEN\nCOPY status /var/lib/dpkg/status\n"
        "RUN --mount=type=secret,id=s mkdir -p /app/node_modules/@a/b && echo '{\"name\":\"@a/b\",\"version\":\"1.2\",\"license\":\"MIT\"}' "
        ">/app/node_modules/@a/b/package.json\n",
        context=_with(context, "status", "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n"),
        build_args={"TOKEN": "told-to-nobody"}, secrets={"s": "never-seen"}, tags=["att:1"], attests={"provenance": {}, "sbom": {}},
        outputs=[{"type": "oci", "dest": path}],
    )  # fmt: skip
    members = checked_layout(path)
    assert b"never-seen" not in b"".join(members.values())
    top = json.loads(members["index.json"])["manifests"]
    assert [entry["annotations"]["io.containerd.image.name"] for entry in top] == ["docker.io/library/att:1"]
    index = json.loads(_blob(members, top[0]["digest"]))
    assert found["metadata"]["containerimage.digest"] == top[0]["digest"]
    image, attestation = index["manifests"]
    assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attestation["annotations"] == {
        "vnd.docker.reference.digest": image["digest"], "vnd.docker.reference.type": "attestation-manifest",
    }  # fmt: skip
    manifest = json.loads(_blob(members, attestation["digest"]))
    statements = {layer["annotations"]["in-toto.io/predicate-type"]: json.loads(_blob(members, layer["digest"])) for layer in manifest["layers"]}
    provenance, sbom = statements["https://slsa.dev/provenance/v0.2"], statements["https://spdx.dev/Document"]
    for statement in (provenance, sbom):
        assert statement["_type"] == "https://in-toto.io/Statement/v0.1"
        assert statement["subject"][0]["digest"] == {"sha256": image["digest"].removeprefix("sha256:")}
        assert statement["subject"][0]["name"].startswith("pkg:docker/att@1?platform=linux%2F")
    assert "told-to-nobody" not in json.dumps(provenance)
    assert {"builder", "buildType", "materials", "invocation", "metadata"} <= set(provenance["predicate"])
    assert [each["uri"].partition("?")[0] for each in provenance["predicate"]["materials"]] == ["pkg:docker/bb@latest"]
    packages = {each["name"]: each for each in sbom["predicate"]["packages"]}
    assert packages["libc6"]["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/libc6@2.36-9?arch=amd64"
    assert packages["b"]["externalRefs"][0]["referenceLocator"] == "pkg:npm/%40a/b@1.2"
    assert (sbom["predicate"]["spdxVersion"], sbom["predicate"]["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    manifest = raw(f"oci-archive:{path}")
    assert [entry["digest"] for entry in manifest["manifests"]] == [image["digest"], attestation["digest"]]


def _with(context: str, name: str, text: str) -> str:
    Path(context, name).write_text(text)
    return context


def _blob(members: dict[str, bytes], digest: str) -> bytes:
    return members[f"blobs/sha256/{digest.removeprefix('sha256:')}"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"outputs": [{"type": "oops"}]}, "output type 'oops' is not known"), ({"outputs": [{"type": "oci", "dest": "x", "colour": "red"}]}, "unknown key 'colour'"),
        ({"outputs": [{"type": "image", "push": "true"}]}, "tag is needed when pushing"), ({"outputs": [{"type": "oci", "compression": "lz4"}]}, "lz4"),
        ({"outputs": [{"type": "docker", "dest": "x"}], "platforms": ["linux/amd64", "linux/arm64"]}, "use type=oci"),
        ({"outputs": [{"type": "oci", "rewrite-timestamp": "true"}]}, "SOURCE_DATE_EPOCH"), ({"attests": {"provenance": {"mode": "most"}}}, "'most'"),
        ({"attests": {"virus": {}}}, "'virus'"), ({"annotations": ["nothing"]}, "expected key=value"),
        ({"annotations": ["index:a=b"]}, "need an index"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_built(host: BuildHost, fields: dict, words: str) -> None:
    (found,) = host.run({"dockerfile": "FROM bb\nRUN echo x\n", **fields})
    assert words in found["error"]
    assert found["events"] == []


@pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")
def test_pushes(rootfs_tar: str, context: str, tmp_path: Path) -> None:
    with docker_registry() as registry, build_host({"bb": rootfs_tar}, [registry]) as host:
        name = f"{registry}/some/image:1"
        found = host.build(
            STAGES, context=context, tags=[name], attests={"provenance": {"version": "v1"}}, annotations=["index,manifest:org.example=yes"],
            outputs=[{"type": "image", "push": "true"}],
        )  # fmt: skip
        index = raw(f"docker://{name}", "--tls-verify=false")
        assert index["annotations"] == {"org.example": "yes"}
        assert found["metadata"]["containerimage.descriptor"]["mediaType"] == index["mediaType"] == "application/vnd.oci.image.index.v1+json"
        digest = f"sha256:{hashlib.sha256(skopeo('inspect', '--raw', '--tls-verify=false', f'docker://{name}').encode()).hexdigest()}"
        assert found["metadata"]["containerimage.digest"] == digest
        skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path}/copy")
        assert "org.example" in (tmp_path / "copy" / "manifest.json").read_text()
        again = host.build(STAGES, context=context, tags=[name], outputs=[{"type": "registry"}, {"type": "image", "push-by-digest": "true", "oci-mediatypes": "false"}])
        assert again["metadata"]["containerimage.descriptor"]["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
        assert not [event for event in again["events"] if "pushing layer" in event.get("text", "")]
        manifest = raw(f"docker://{name}", "--tls-verify=false")
        assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


def foreign_rootfs(path: Path, rootfs_tar: str, machine: int) -> str:
    """The same files, with a shell that begins as a program for another processor does."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + machine.to_bytes(2, "little") + bytes(44)
    with tarfile.open(rootfs_tar) as source, tarfile.open(path, "w") as out:
        for member in source:
            if member.name in ("./bin/sh", "bin/sh"):
                member.type, member.linkname, member.size, member.mode = tarfile.REGTYPE, "", len(head), 0o755
                out.addfile(member, io.BytesIO(head))
            else:
                out.addfile(member, source.extractfile(member) if member.isfile() else None)
    return str(path)


CROSS = (
    "FROM --platform=$BUILDPLATFORM bb AS compiler\nARG TARGETARCH BUILDARCH\nRUN echo made on $BUILDARCH for $TARGETARCH >/program\n"
    "FROM scratch\nCOPY --from=compiler /program /program\nENV A=1\n"
)  # fmt: skip


def test_several_platforms_without_an_emulator(host: BuildHost, tmp_path: Path) -> None:
    own = host.build("FROM bb\nARG BUILDARCH\nRUN echo $BUILDARCH >/arch\n", outputs=[{"type": "tar", "dest": str(tmp_path / "own")}])
    assert own["image"] == ""
    with tarfile.open(tmp_path / "own") as tar:
        arch = tar.extractfile("arch").read().decode().strip()  # type: ignore[union-attr]
    other = "arm64" if arch == "amd64" else "amd64"
    outputs = [{"type": "oci", "dest": str(tmp_path / "oci")}, {"type": "tar", "dest": str(tmp_path / "tar")}, {"type": "image"}]
    found = host.build(CROSS, platforms=[f"linux/{arch}", f"linux/{other}"], tags=["cross:1"], outputs=outputs)
    index = raw(f"oci-archive:{tmp_path}/oci")
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == [arch, other]
    for each in (arch, other):
        seen = json.loads(skopeo("inspect", "--override-arch", each, f"oci-archive:{tmp_path}/oci"))
        assert seen["Architecture"] == each
        with tarfile.open(tmp_path / "tar") as tar:
            assert tar.extractfile(f"linux_{each}/program").read().decode() == f"made on {arch} for {each}\n"  # type: ignore[union-attr]
    (warning,) = [event["text"] for event in found["events"] if event["kind"] == "warning"]
    assert f"linux/{arch} is there now, linux/{other} only where" in warning
    assert set(found["metadata"]) >= {f"buildx.build.provenance/linux/{each}" for each in (arch, other)}


def test_a_step_for_another_processor_says_what_is_missing(rootfs_tar: str, tmp_path: Path) -> None:
    foreign = foreign_rootfs(tmp_path / "foreign.tar", rootfs_tar, 22)
    with build_host({"bb": f"{foreign}|linux/s390x"}) as host:
        (found,) = host.run({"dockerfile": "FROM bb\nRUN echo never\n", "platforms": ["linux/s390x"]})
    if not os.path.exists("/proc/sys/fs/binfmt_misc/qemu-s390x"):
        assert "cannot run programs for linux/s390x" in found["error"]
        assert "qemu-user-static" in found["error"]
        assert "$BUILDPLATFORM" in found["error"]


def test_directories_that_no_layer_lists(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        info = tarfile.TarInfo("opt/deep/file")
        info.mtime = 1_500_000_000
        tar.addfile(info)
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "f").write_text("f")
    layers = []
    for number in range(2):
        with build_host({"bb": str(tmp_path / "base.tar")}) as host:
            path = str(tmp_path / f"{number}.tar")
            host.build("FROM bb\nCOPY f /opt/deep/\n", context=str(tmp_path / "context"), epoch=1_600_000_000, outputs=[{"type": "oci", "dest": path}])
            layers.append([layer["digest"] for layer in raw(f"oci-archive:{path}")["layers"]])
    assert layers[0] == layers[1]


@pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")
def test_base_images_of_several_platforms(rootfs_tar: str, tmp_path: Path) -> None:
    """Each target has its own base from an index; the name stays with this machine's image, and the next build asks nobody."""
    with docker_registry() as registry, build_host({"bb": rootfs_tar}, [registry]) as host:
        base = f"{registry}/base:1"
        context = tmp_path / "context"
        context.mkdir()
        for number in range(20):
            (context / f"f{number}").write_text("x" * number)
        pair = ["linux/amd64", "linux/arm64"]
        host.build("FROM scratch\nARG TARGETARCH\nCOPY . /files/\nLABEL arch=$TARGETARCH\nENV MADE_FOR=$TARGETARCH\n", context=str(context), platforms=pair, tags=[base], outputs=[{"type": "registry"}])
        name = f"{registry}/made:1"
        dockerfile = f"FROM {base}\nCOPY f1 /more\n"
        with build_host({}, [registry]) as other:
            for _ in range(2):
                found = other.build(dockerfile, context=str(context), platforms=pair, tags=[name], outputs=[{"type": "registry"}])
                for arch in ("amd64", "arm64"):
                    seen = json.loads(skopeo("inspect", "--config", "--tls-verify=false", "--override-arch", arch, f"docker://{name}"))
                    assert (seen["architecture"], seen["config"]["Env"][-1]) == (arch, f"MADE_FOR={arch}")
                assert not kinds(found, "failed")
            own = "amd64" if os.uname().machine == "x86_64" else "arm64"
            (alone,) = other.run({"dockerfile": f"FROM {base}\n", "outputs": [{"type": "oci", "dest": str(tmp_path / "o")}]})
            assert raw(f"oci-archive:{tmp_path}/o", "--config")["config"]["Env"][-1] == f"MADE_FOR={own}"
            assert "error" not in alone
        asked = registry.log().count('"GET /v2/base/manifests/1 HTTP')
        assert asked == 2, asked  # once for each platform


def test_a_push_that_is_cancelled_leaves_nothing(rootfs_tar: str) -> None:
    """The registry takes the connection and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        registry = f"127.0.0.1:{silent.getsockname()[1]}"
        with build_host({"bb": rootfs_tar}, [registry]) as host:
            fields = {"tags": [f"{registry}/x:1"], "outputs": [{"type": "registry"}], "cancel_on": "pushing"}
            (found,) = host.run({"dockerfile": "FROM bb\nRUN echo kept >/x\n", **fields})
            assert "cancelled" in found["error"]
            again = host.build("FROM bb\nRUN echo kept >/x\n")
            assert kinds(again, "cached")


def test_a_disk_that_is_full_is_said(rootfs_tar: str, tmp_path: Path) -> None:
    with build_host({"bb": rootfs_tar}) as host:
        host.build("FROM bb\n")
        (found,) = host.run({"dockerfile": "FROM bb\n", "outputs": [{"type": "oci", "dest": "/dev/full"}]})
        assert "No space left on device" in found["error"]
        found = host.build("FROM bb\n", attests={"sbom": {}}, annotations=["a=b"])
        assert any("the store keeps no attestations" in event["text"] for event in found["events"] if event["kind"] == "warning")


@pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")
def test_dockerd_takes_what_is_made(real: Dockerd, rootfs_tar: str, context: str, tmp_path: Path) -> None:
    """An archive, and from a registry an index with attestations, in OCI's types and in Docker's."""
    with docker_registry() as registry, build_host({"bb": rootfs_tar}, [registry]) as host:
        path, names = tmp_path / "docker.tar", [f"{registry}/with/{kind}:1" for kind in ("oci", "docker")]
        dockers = {"type": "image", "push": "true", "name": names[1], "oci-mediatypes": "false"}
        found = host.build(STAGES, context=context, tags=["archived:1"], outputs=[{"type": "docker", "dest": str(path)}, dockers])
        host.build(STAGES, context=context, attests={"provenance": {}, "sbom": {}}, outputs=[{"type": "registry", "name": names[0]}])
        real("load", "-i", str(path))
        for name in names:
            real("pull", name)
        for name in ("archived:1", *names):
            assert json.loads(real("image", "inspect", name).stdout)[0]["Id"] == found["image"]
            assert real("run", "--rm", "--network", "none", name).stdout == "nobody\n"
            real("rmi", name)


@pytest.mark.parametrize("step", ["exporting to oci", "exporting cache", "listing packages"])
def test_an_engine_that_is_killed_meanwhile(rootfs_tar: str, tmp_path: Path, step: str) -> None:
    """The next one has what was built and nothing else of it."""
    build = {
        "dockerfile": "FROM bb\nRUN echo kept >/x\n", "attests": {"sbom": {}}, "outputs": [{"type": "oci", "dest": str(tmp_path / "o")}],
        "cache_to": [{"type": "local", "dest": str(tmp_path / "c")}],
    }  # fmt: skip
    with build_host({"bb": rootfs_tar}) as host:
        host.run({**build, "kill_on": step}, code=-signal.SIGKILL)
        (again,) = host.run(build)
        assert [event["label"].rpartition("] ")[2] for event in kinds(again, "cached")] == ["RUN echo kept >/x"]
        checked_layout(str(tmp_path / "o"))
