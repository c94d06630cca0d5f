"""`--build-context NAME=oci-layout://…`: layouts that skopeo and umoci have made, as base images and to copy from."""

import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from buildcli import BERTH, Berth, dockerfile, run_berth
from harness import Engine, wait_until

pytestmark = [
    pytest.mark.root, pytest.mark.skipif(not (shutil.which("skopeo") and shutil.which("umoci")), reason="needs skopeo and umoci"),
]  # fmt: skip


def run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def berth(engine: Engine, tmp_path: Path) -> Berth:
    """Runs `berth WORDS` in the directory of the build."""
    return lambda *words, **keywords: run_berth(engine, *words, cwd=tmp_path, **keywords)


@pytest.fixture(scope="module")
def made(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with the images `one` and `two`, whose /which says so, and which are of layers that no engine has."""
    top = tmp_path_factory.mktemp("layouts")
    engine.docker("save", "-o", str(top / "bb.tar"), "bb")
    for tag in ("one", "two"):
        run("skopeo", "copy", "--quiet", f"docker-archive:{top}/bb.tar", f"oci:{top}/layout:{tag}")
        run("umoci", "unpack", "--image", f"{top}/layout:{tag}", f"{top}/{tag}")
        (top / tag / "rootfs" / "which").write_text(f"{tag} {os.urandom(4).hex()}\n")
        run("umoci", "repack", "--image", f"{top}/layout:{tag}", f"{top}/{tag}")
        run("umoci", "config", "--image", f"{top}/layout:{tag}", "--config.env", f"WHICH={tag}")
    run("umoci", "gc", "--layout", f"{top}/layout")
    return top / "layout"


@pytest.fixture
def layout(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "layout"))


def document(layout: Path, digest: str) -> dict[str, Any]:
    return dict(json.loads(blob(layout, digest).read_bytes()))


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def listed(layout: Path, tag: str) -> dict[str, Any]:
    """The entry of index.json."""
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    return next(each for each in entries if each["annotations"]["org.opencontainers.image.ref.name"] == tag)


def put(layout: Path, value: dict[str, Any]) -> dict[str, Any]:
    """A document into the layout -> its descriptor."""
    data = json.dumps(value).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob(layout, digest).write_bytes(data)
    return {"mediaType": value["mediaType"], "digest": digest, "size": len(data)}


def test_as_a_base_image(engine: Engine, berth: Berth, layout: Path, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM base\nRUN echo \"$WHICH\" >/env\nFROM bb\nCOPY --from=base /which /\nCOPY --from=0 /env /\n")
    done = berth("build", "-t", "layout:one", "--build-context", f"base=oci-layout://{layout}:one", ".")
    assert "FROM base" in done.stderr
    assert engine.docker("run", "--rm", "layout:one", "cat", "/which", "/env").stdout.split()[::2] == ["one", "one"]
    dockerfile(tmp_path, "FROM base\nLABEL a=b\n")
    berth("build", "-t", "layout:two", "--build-context", f"base=oci-layout://{layout}:two", ".")
    image = json.loads(engine.docker("image", "inspect", "layout:two").stdout)[0]
    theirs = json.loads(run("skopeo", "inspect", "--config", f"oci:{layout}:two"))
    assert image["RootFS"]["Layers"] == theirs["rootfs"]["diff_ids"]
    assert image["Config"]["Env"][:1] == theirs["config"]["Env"] == ["WHICH=two"]  # and a PATH, as BuildKit adds one
    # The layout's own image is in no list, and what builds keep of it can be seen and removed.
    own = {document(layout, listed(layout, tag)["digest"])["config"]["digest"] for tag in ("one", "two")}
    assert not own & set(engine.docker("images", "-aq", "--no-trunc").stdout.split())
    assert "image of OCI layout base" in berth("buildx", "du", "--verbose").stdout


def test_nothing_is_sent_twice(engine: Engine, berth: Berth, layout: Path, tmp_path: Path) -> None:
    context = ("--build-context", f"base=oci-layout://{layout}:one")
    dockerfile(tmp_path, "FROM bb\nCOPY --from=base /which /\n")
    berth("build", *context, ".")
    for layer in document(layout, listed(layout, "one")["digest"])["layers"]:
        blob(layout, layer["digest"]).unlink()
    berth("build", "--no-cache", "-t", "layout:again", *context, ".")
    assert engine.docker("run", "--rm", "layout:again", "cat", "/which").stdout.startswith("one ")
    berth("builder", "prune", "--all", "--force")
    assert "OCI layout base: it has no blobs/sha256/" in berth("build", "--no-cache", *context, ".", code=1).stderr


def test_what_is_meant(engine: Engine, berth: Berth, layout: Path, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM base\n")

    def built(reference: str) -> str:
        berth("build", "-t", "layout:meant", "--build-context", f"base=oci-layout://{reference}", ".")
        return engine.docker("run", "--rm", "layout:meant", "cat", "/which").stdout.split()[0]

    assert built(f"{layout}@{listed(layout, 'two')['digest']}") == "two"
    assert built(f"{layout}:one@{listed(layout, 'two')['digest']}") == "two"
    assert built("layout:two") == "two"  # beside where the command runs
    failed = berth("build", "--build-context", f"base=oci-layout://{layout}", ".", code=1).stderr
    assert "it holds several images: name one by :TAG or @DIGEST; there are: one, two" in failed
    assert "no image has the tag three; there are: one, two" in berth("build", "--build-context", f"base=oci-layout://{layout}:three", ".", code=1).stderr
    run("umoci", "remove", "--image", f"{layout}:two")
    assert built(str(layout)) == "one"


def test_platforms(engine: Engine, berth: Berth, layout: Path, tmp_path: Path) -> None:
    def index(*entries: dict[str, Any]) -> dict[str, Any]:
        return {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list(entries)}

    run("umoci", "config", "--image", f"{layout}:two", "--architecture", "arm64")
    one, two = ({key: listed(layout, tag)[key] for key in ("mediaType", "digest", "size")} for tag in ("one", "two"))
    both = put(layout, index({**one, "platform": {"os": "linux", "architecture": "amd64"}}, {**two, "platform": {"os": "linux", "architecture": "arm64"}}))
    (layout / "index.json").write_text(json.dumps(index(both)))
    dockerfile(tmp_path, "FROM base\n")
    context = ("--build-context", f"base=oci-layout://{layout}")
    berth("build", "-t", "layout:here", *context, ".")
    assert engine.docker("run", "--rm", "layout:here", "cat", "/which").stdout.startswith("one ")
    berth("build", "--platform", "linux/amd64,linux/arm64", "--output", "type=oci,dest=both.tar", *context, ".")
    run("skopeo", "copy", "--quiet", "--all", f"oci-archive:{tmp_path}/both.tar", f"oci:{tmp_path}/both:x")
    found = {
        arch: json.loads(run("skopeo", "inspect", "--config", "--override-arch", arch, f"oci:{tmp_path}/both:x"))["config"]["Env"][0]
        for arch in ("amd64", "arm64")
    }
    assert found == {"amd64": "WHICH=one", "arm64": "WHICH=two"}
    failed = berth("build", "--platform", "linux/s390x", *context, ".", code=1).stderr
    assert "OCI layout base: no matching manifest for linux/s390x" in failed


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_what_was_changed_is_refused(engine: Engine, berth: Berth, layout: Path, tmp_path: Path, what: str) -> None:
    if images := engine.docker("images", "-q", "layout").stdout.split():
        engine.docker("rmi", "--force", *set(images))
    berth("builder", "prune", "--all", "--force")
    digest = listed(layout, "one")["digest"]
    manifest = document(layout, digest)
    place = blob(layout, {"manifest": digest, "config": manifest["config"]["digest"], "layer": manifest["layers"][-1]["digest"]}[what])
    data = bytearray(place.read_bytes())
    data[5 if what == "layer" else -3] ^= 0x20  # of a gzip head the time, which no decompressor minds
    place.write_bytes(data)
    before = set(os.listdir(f"{engine.data}/layers")) if os.path.isdir(f"{engine.data}/layers") else set()
    dockerfile(tmp_path, "FROM base\n")
    failed = berth("build", "--build-context", f"base=oci-layout://{layout}:one", ".", code=1).stderr
    assert f"OCI layout base: blobs/sha256/{place.name} has digest sha256:" in failed
    after = set(os.listdir(f"{engine.data}/layers")) if before else set()
    assert after <= before


def test_what_is_no_layout(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM base\n")
    failed = berth("build", "--build-context", "base=oci-layout://nowhere:x", ".", code=1).stderr
    assert "nowhere: no such directory" in failed
    (tmp_path / "empty").mkdir()
    assert "so it is no OCI layout" in berth("build", "--build-context", "base=oci-layout://empty", ".", code=1).stderr
    (tmp_path / "empty" / "index.json").write_text("[]")
    assert "OCI layout base: " in berth("build", "--build-context", "base=oci-layout://empty", ".", code=1).stderr
    assert "no digest" in berth("build", "--build-context", "base=oci-layout://empty@sha256:12", ".", code=1).stderr


def test_an_archive_without_its_last_padding(engine: Engine, berth: Berth, layout: Path, tmp_path: Path) -> None:
    """As `umoci insert` writes layers; dockerd takes them."""
    (tmp_path / "small").write_text("small\n")
    run("umoci", "insert", "--image", f"{layout}:one", str(tmp_path / "small"), "/small")
    manifest = document(layout, listed(layout, "one")["digest"])
    top = gzip.decompress(blob(layout, manifest["layers"][-1]["digest"]).read_bytes())
    assert len(top) % 512  # else this tests nothing
    dockerfile(tmp_path, "FROM base\n")
    berth("build", "-t", "layout:small", "--build-context", f"base=oci-layout://{layout}:one", ".")
    assert engine.docker("run", "--rm", "layout:small", "cat", "/small").stdout == "small\n"
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), "layout:small")
    engine.docker("rmi", "layout:small")
    berth("builder", "prune", "--all", "--force")
    # skopeo compares each layer of the archive with its digest
    run("skopeo", "copy", "--quiet", f"docker-archive:{tmp_path}/saved.tar", f"docker-archive:{tmp_path}/copied.tar:layout:small")
    engine.docker("load", "-i", str(tmp_path / "copied.tar"))
    assert engine.docker("run", "--rm", "layout:small", "cat", "/small").stdout == "small\n"


class Stopping:
    """A socket in front of the engine's: one connection, of which no more than so many bytes of the client come through."""

    def __init__(self, engine: Engine, path: str, most_bytes: int) -> None:
        self.held = threading.Event()
        self._gone = threading.Event()
        self._target = engine.env["DOCKER_HOST"].removeprefix("unix://")
        self._most_bytes = most_bytes
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """The connection goes, as with a client that is killed."""
        self._gone.set()
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            back = threading.Thread(target=self._back, args=(server, client))
            back.start()
            left = self._most_bytes
            while left and (data := client.recv(min(left, 1 << 16))):
                left -= len(data)
                server.sendall(data)
            self.held.set()
            self._gone.wait()
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(1 << 16):
            try:
                client.sendall(data)
            except OSError:
                pass


def test_a_client_that_goes_in_the_middle_of_a_layer(engine: Engine, berth: Berth, layout: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    run("umoci", "unpack", "--image", f"{layout}:one", str(tmp_path / "new" / "one"))
    (tmp_path / "new" / "one" / "rootfs" / "large").write_bytes(os.urandom(8 << 20))
    run("umoci", "repack", "--image", f"{layout}:one", str(tmp_path / "new" / "one"))
    layers, loose, work = f"{engine.data}/layers", f"{engine.data}/tmp", f"{engine.data}/build/work"
    dockerfile(tmp_path, "FROM base\n")
    build = ("build", "-t", "layout:large", "--build-context", f"base=oci-layout://{layout}:one", ".")
    relay = Stopping(engine, str(tmp_path / "s"), 6 << 20)
    before = set(os.listdir(layers))
    client = subprocess.Popen([*BERTH, *build], cwd=tmp_path, env={**engine.env, "DOCKER_HOST": f"unix://{tmp_path}/s"}, stderr=subprocess.PIPE)
    relay.held.wait()
    wait_until(lambda: bool(os.listdir(loose)), "a layer on its way")
    client.kill()
    client.communicate()
    relay.close()
    wait_until(lambda: not os.listdir(loose) and not os.listdir(work), "what the build left")
    assert set(os.listdir(layers)) <= before
    berth(*build)
    assert engine.docker("run", "--rm", "layout:large", "sh", "-c", "wc -c </large").stdout.strip() == str(8 << 20)
