"""Descriptors and manifests of images, and the tree that both command lines draw of them."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import Handmade, Made, layer
from harness import REPOSITORY, Engine
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (HAVE_DOCKER_REGISTRY and shutil.which("skopeo")), reason="needs Debian's docker-registry and skopeo"),
]

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7")


class Lab:
    """An engine that has pulled from a registry: `multi`, of three platforms and an attestation, and `single`."""

    def __init__(self, engine: Engine, host: Host) -> None:
        self.engine, self.host = engine, host
        registry = Handmade(host)
        self.images: dict[str, Made] = {one: registry.image("multi", "", [layer(("name", one.encode() * 9000))], platform=one) for one in PLATFORMS}
        entries = [(made, platform) for platform, made in self.images.items()]
        plain = registry.index("multi", "plain", entries)
        index = registry.read_manifest("multi", plain)
        said = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": self.images["linux/amd64"].digest}
        index["manifests"].append({**index["manifests"][0], "platform": {"os": "unknown", "architecture": "unknown"}, "annotations": said})
        self.index = registry.manifest("multi", "1", index, index["mediaType"])
        self.single = registry.image("single", "2", [layer(("name", b"x" * 5000))])
        engine.docker("pull", "-q", f"{host}/multi:1")
        engine.docker("pull", "-q", f"{host}/single:2")

    def ask(self, path: str) -> "tuple[int, list | dict]":
        done = subprocess.run(
            ["curl", "-sS", "-g", "-w", "\n%{http_code}", "--unix-socket", f"{self.engine.exec}/berth.sock", f"http://d{path}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        body, _, status = done.stdout.strip().rpartition("\n")
        return int(status), json.loads(body)

    def raw(self, name: str) -> bytes:
        """What skopeo sees in the registry."""
        return subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{self.host}/{name}"], capture_output=True, check=True).stdout


@pytest.fixture
def lab(own_engine: Engine) -> Iterator[Lab]:
    with docker_registry() as host:
        yield Lab(own_engine, host)


def rows(lab: Lab) -> int:
    return int(subprocess.run(["sqlite3", f"{lab.engine.data}/berth.db", "SELECT count(*) FROM documents"], capture_output=True, text=True, check=True).stdout)


def test_descriptors_and_manifests(lab: Lab) -> None:
    multi, single = f"{lab.host}/multi:1", f"{lab.host}/single:2"
    used = lab.engine.docker("create", "--network", "none", multi, "true").stdout.strip()
    found = lab.ask(f"/v1.51/images/{multi}/json?manifests=1")[1]
    assert isinstance(found, dict)
    assert found["Descriptor"] == {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": lab.index, "size": len(lab.raw("multi:1"))}
    assert [(item["ID"], item["Kind"], item["Available"]) for item in found["Manifests"]] == [
        (lab.images["linux/amd64"].digest, "image", True), (lab.images["linux/arm64"].digest, "image", False),
        (lab.images["linux/arm/v7"].digest, "image", False), (lab.images["linux/amd64"].digest, "attestation", False),
    ]  # fmt: skip
    here, *others = found["Manifests"]
    assert here["ImageData"] == {"Platform": {"os": "linux", "architecture": "amd64"}, "Containers": [used], "Size": {"Unpacked": 9000 * len("linux/amd64")}}
    assert here["Size"]["Total"] == here["Size"]["Content"] + here["ImageData"]["Size"]["Unpacked"]
    assert 0 < here["Size"]["Content"] < 4000
    assert others[1]["ImageData"]["Platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    assert others[2]["AttestationData"] == {"For": lab.images["linux/amd64"].digest}
    # one that is no index; and one that no registry has had, whose manifest is the one that it is saved with
    [only] = lab.ask(f"/v1.51/images/{single}/json?manifests=1")[1]["Manifests"]  # type: ignore[call-overload]
    assert only["ID"] == only["Descriptor"]["digest"] == lab.single.digest
    bare = lab.ask("/v1.51/images/bb/json?manifests=1")[1]
    assert isinstance(bare, dict)
    assert "Descriptor" not in bare
    lab.engine.docker("save", "-o", f"{lab.engine.top}/bb.tar", "bb")
    saved = subprocess.run(["skopeo", "inspect", "--format", "{{.Digest}}", f"oci-archive:{lab.engine.top}/bb.tar"], capture_output=True, text=True, check=True)
    assert bare["Manifests"][0]["ID"] == saved.stdout.strip()
    # the list says the same; older versions do not
    listed = {image["Id"]: image for image in lab.ask("/v1.51/images/json?manifests=1")[1]}
    assert (listed[found["Id"]]["Manifests"], listed[found["Id"]]["Descriptor"]) == (found["Manifests"], found["Descriptor"])
    for path, fields in (
        ("/v1.51/images/json", {"Descriptor"}), ("/v1.47/images/json?manifests=1", {"Manifests"}), ("/v1.46/images/json?manifests=1", set()),
        (f"/v1.48/images/{multi}/json?manifests=1", {"Descriptor", "Manifests"}), (f"/v1.47/images/{multi}/json?manifests=1", set()),
    ):  # fmt: skip
        answer = lab.ask(path)[1]
        shown = next(image for image in answer if image["Id"] == found["Id"]) if isinstance(answer, list) else answer
        assert set(shown) & {"Descriptor", "Manifests"} == fields, path
    assert lab.ask(f"/v1.51/images/{multi}/json?manifests=1&platform=%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22amd64%22%7D")[0] == 400


def test_documents_come_and_go_with_their_images(lab: Lab) -> None:
    assert rows(lab) == 3  # an index, its manifest, a manifest
    lab.engine.stop()
    lab.engine.start()
    assert lab.ask(f"/v1.51/images/{lab.host}/multi:1/json")[1]["Descriptor"]["digest"] == lab.index  # type: ignore[call-overload]
    lab.engine.docker("tag", "bb", f"{lab.host}/bb:1")
    lab.engine.docker("push", "-q", f"{lab.host}/bb:1")
    pushed = lab.ask(f"/v1.51/images/{lab.host}/bb:1/json?manifests=1")[1]
    assert isinstance(pushed, dict)
    assert pushed["Descriptor"]["size"] == len(lab.raw("bb:1"))
    assert pushed["Descriptor"]["digest"] == pushed["Manifests"][0]["ID"] == pushed["RepoDigests"][0].partition("@")[2]
    lab.engine.docker("pull", "-q", "--platform", "linux/arm64", f"{lab.host}/multi:1")
    found = lab.ask(f"/v1.51/images/{lab.host}/multi:1/json?manifests=1")[1]
    assert [item["Available"] for item in found["Manifests"]] == [False, True, False, False]  # type: ignore[call-overload]
    lab.engine.docker("rmi", f"{lab.host}/multi:1", f"{lab.host}/single:2", f"{lab.host}/bb:1", "bb")
    lab.engine.docker("image", "prune", "-f")
    assert rows(lab) == 0


def on_terminal(program: list[str], env: dict[str, str], columns: int, *words: str) -> str:
    pid, fd = pty.fork()
    if pid == 0:
        os.read(0, 1)  # until the size is set
        os.execvpe(program[0], [*program, *words], env)
    out = b""
    try:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.write(fd, b"\n")
        while piece := os.read(fd, 65536):
            out += piece
    except OSError:
        pass  # the other end is closed
    finally:
        os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, out
    return out.decode()


def test_the_tree_is_dockers(lab: Lab) -> None:
    lab.engine.docker("tag", "bb", "bb:a-tag-that-is-much-longer-than-others")
    Path(f"{lab.engine.top}/empty.tar").write_bytes(layer(("empty", b"")))
    lab.engine.docker("import", f"{lab.engine.top}/empty.tar")
    identity = lab.engine.up(image="bb")
    for words in ((), ("-a",), ("bb",), ("nosuch",), ("--filter", "reference=*/multi")):
        tree = ["image", "ls", "--tree", *words]
        for columns in (0, 10, 30, 45, 60, 100, 200):
            theirs, ours = (on_terminal(program, lab.engine.env, columns, *tree) for program in (["docker"], BERTH))
            assert ours == theirs, (words, columns)
        theirs, ours = (subprocess.run([*program, *tree], env=lab.engine.env, capture_output=True, text=True, check=True).stdout for program in (["docker"], BERTH))
        assert ours == re.sub(r"\x1b\[[0-9;]*m", "", theirs), words  # Docker's colours its heading in a pipe, too
    assert "├─ linux/arm64" in on_terminal(BERTH, lab.engine.env, 100, "images", "--tree")
    for flag in ("-q", "--no-trunc", "--digests", "--format=json"):
        done = [subprocess.run([*program, "images", "--tree", flag], env=lab.engine.env, capture_output=True, text=True) for program in (["docker"], BERTH)]
        assert (done[1].returncode, done[1].stderr) == (done[0].returncode, done[0].stderr)
    lab.engine.rm(identity)
