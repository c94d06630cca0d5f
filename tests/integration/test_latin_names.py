"""Names that are not UTF-8, in every place where an archive has names: in and out by registry and by archive, with skopeo and umoci."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import Handmade, Made, layer, member
from harness import REPOSITORY, Engine
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry
from test_distribution import busybox, diffs, leftovers, skopeo

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]

LONG = "é" * 120  # beyond the 100 bytes of a header
SEEN = {
    b"caf\xe9": b"file", b"d\xff": b"directory", b"d\xff/\xe0 l'int\xe9rieur": b"within", b"hard\xe9": b"file", b"soft\xe9": b"caf\xe9",
    b"\xe9" * 120: b"long", b"d\xff/" + b"\xe9" * 120: b"long within", b"\xc3\xa9": b"utf-8", b"mixed\xc3\xa9\xe9": b"mixed",
}  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with docker_registry() as found:
        yield found


@pytest.fixture(scope="module")
def other() -> Iterator[Host]:
    with docker_registry() as found:
        yield found


@pytest.fixture(scope="module")
def puller() -> Iterator[Engine]:
    running = Engine()
    yield running
    for identity in set(running.docker("images", "-aq", "--no-trunc").stdout.split()):
        running.docker("rmi", "-f", identity, code=None)
    left = leftovers(running)
    running.finish()
    assert left == []


def by_gnu() -> list[bytes]:
    """Names as they are, the long ones in members of their own; and a layer that removes some."""
    def latin(name: bytes) -> str:
        return name.decode("latin-1")

    lower = layer(
        member("d\xff", tarfile.DIRTYPE), (member("caf\xe9", uname="ren\xe9", gname="\xe9quipe"), b"file"), ("d\xff/\xe0 l'int\xe9rieur", b"within"),
        member("hard\xe9", tarfile.LNKTYPE, linkname="caf\xe9"), member("soft\xe9", tarfile.SYMTYPE, linkname="caf\xe9"), (LONG, b"long"),
        (f"d\xff/{LONG}", b"long within"), (latin(b"\xc3\xa9"), b"utf-8"), (latin(b"mixed\xc3\xa9\xe9"), b"mixed"), ("gone\xe9", b"gone"),
        member("opaque\xe9", tarfile.DIRTYPE), ("opaque\xe9/old\xe9", b"old"), encoding="latin-1",
    )  # fmt: skip
    upper = layer(member(".wh.gone\xe9"), member("opaque\xe9", tarfile.DIRTYPE), member("opaque\xe9/.wh..wh..opq"), ("opaque\xe9/new\xe9", b"new"), encoding="latin-1")
    return [lower, upper]


def by_pax(top: Path, *, binary: bool) -> bytes:
    """By GNU tar, with what POSIX has for it: `hdrcharset=BINARY`; or bytes where UTF-8 should be, as Go's library writes them."""
    if not binary:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
            for name in (b"go\xe9", b"go" + b"\xe9" * 120):
                info = tarfile.TarInfo("plain")
                info.size = 2
                info.pax_headers = {"path": os.fsdecode(name)}
                tar.addfile(info, io.BytesIO(b"go"))
        return buffer.getvalue()
    top.mkdir()
    for name in (b"pax\xe9", b"pax" + b"\xe9" * 120):
        Path(os.fsdecode(bytes(top) + b"/" + name)).write_bytes(b"pax")
    words = ["tar", "--sort=name", "--owner=0", "--group=0", "--mtime=@1000000000", "--format=posix", "-C", str(top), "-cf", "-", "."]
    return subprocess.run(words, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}).stdout


def look(root: bytes) -> dict[bytes, bytes]:
    """Every file below a directory, by its name's bytes: what it holds or leads to."""
    found = {}
    for top, directories, files in os.walk(root):
        for name in directories:
            if any(byte > 127 for byte in name):
                found[os.path.relpath(top + b"/" + name, root)] = b"directory"
        for name in files:
            path = top + b"/" + name
            if any(byte > 127 for byte in os.path.relpath(path, root)):
                found[os.path.relpath(path, root)] = os.readlink(path) if os.path.islink(path) else Path(os.fsdecode(path)).read_bytes()
    return found


def umoci_sees(layout: Path, tag: str, bundle: Path) -> dict[bytes, bytes]:
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)], check=True, capture_output=True, timeout=60)
    return look(bytes(bundle / "rootfs"))


def container_sees(engine: Engine, name: str) -> dict[bytes, bytes]:
    """Through the engine's own `export`, whose archive Python's module reads."""
    identity = engine.docker("create", "--network", "none", name, "true").stdout.strip()
    try:
        done = subprocess.run(["docker", "export", identity], env=engine.env, capture_output=True, check=True, timeout=60)
    finally:
        engine.docker("rm", identity)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout), encoding="utf-8", errors="surrogateescape") as tar:
        for info in tar:
            name_ = os.fsencode(info.name.rstrip("/"))
            if any(byte > 127 for byte in name_):
                file = tar.extractfile(info) if info.isreg() or info.islnk() else None
                found[name_] = b"directory" if info.isdir() else file.read() if file else os.fsencode(info.linkname)
    return found


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("pax")
    return Handmade(host).image("latin/names", "1", [busybox(), *by_gnu(), by_pax(top / "binary", binary=True), by_pax(top, binary=False)])


EXPECTED = SEEN | {
    b"opaque\xe9": b"directory", b"opaque\xe9/new\xe9": b"new", b"pax\xe9": b"pax", b"pax" + b"\xe9" * 120: b"pax", b"go\xe9": b"go", b"go" + b"\xe9" * 120: b"go",
}  # fmt: skip


def test_from_a_registry_to_a_registry(made: Made, host: Host, other: Host, puller: Engine, tmp_path: Path) -> None:
    """To one that has none of it, so that every layer's archive is made again."""
    name, pushed = f"{host}/latin/names:1", f"{other}/latin/names:1"
    puller.docker("pull", name)
    assert diffs(puller, name) == made.diffs
    assert container_sees(puller, name) == EXPECTED
    puller.docker("tag", name, pushed)
    assert puller.docker("push", pushed).stdout.count(": Pushed") == len(made.diffs)
    skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{pushed}", f"oci:{tmp_path}/layout:1")
    config = json.loads(skopeo("inspect", "--config", f"oci:{tmp_path}/layout:1"))
    assert config["rootfs"]["diff_ids"] == made.diffs
    assert unpacked_diffs(tmp_path / "layout") == made.diffs
    assert umoci_sees(tmp_path / "layout", "1", tmp_path / "bundle") == EXPECTED
    puller.docker("rmi", name, pushed)


def unpacked_diffs(layout: Path) -> list[str]:
    """Of the layers of a layout's one image, decompressed by gzip."""
    def blob(digest: str) -> Path:
        return layout / "blobs/sha256" / digest.removeprefix("sha256:")

    top = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return [
        f"sha256:{hashlib.sha256(subprocess.run(['gzip', '-dc', str(blob(entry['digest']))], capture_output=True, check=True).stdout).hexdigest()}"
        for entry in json.loads(blob(top).read_text())["layers"]
    ]  # fmt: skip


def test_by_archive_and_back(made: Made, host: Host, puller: Engine, tmp_path: Path) -> None:
    name = f"{host}/latin/names:1"
    puller.docker("pull", name)
    puller.docker("tag", name, "latin:1")
    identity = puller.docker("inspect", "-f", "{{.Id}}", name).stdout
    puller.docker("save", "-o", f"{tmp_path}/saved.tar", "latin:1")
    skopeo("copy", "-q", f"docker-archive:{tmp_path}/saved.tar", f"oci:{tmp_path}/layout:1")
    assert unpacked_diffs(tmp_path / "layout") == made.diffs
    assert umoci_sees(tmp_path / "layout", "1", tmp_path / "bundle") == EXPECTED
    puller.docker("rmi", name, "latin:1")
    # what skopeo writes, in both forms
    skopeo("copy", "-q", f"oci:{tmp_path}/layout:1", f"docker-archive:{tmp_path}/docker.tar:latin:2")
    skopeo("copy", "-q", f"oci:{tmp_path}/layout:1", f"oci-archive:{tmp_path}/oci.tar:latin:3")
    for archive in ("saved", "docker", "oci"):
        said = puller.docker("load", "-i", f"{tmp_path}/{archive}.tar").stdout
        loaded = said.split(": ", 1)[1].strip().removeprefix("ID: ")
        assert diffs(puller, loaded) == made.diffs
        assert container_sees(puller, loaded) == EXPECTED
        assert archive != "saved" or puller.docker("inspect", "-f", "{{.Id}}", loaded).stdout == identity  # skopeo writes a configuration of its own
        puller.docker("rmi", "-f", loaded)


@pytest.mark.usefixtures("made")
def test_layers_that_umoci_and_berth_make(host: Host, other: Host, puller: Engine, tmp_path: Path) -> None:
    """umoci's repack and berth's commit write archives of such files themselves."""
    name = f"{host}/latin/names:1"
    skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/layout:1")
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:1", f"{tmp_path}/bundle"], check=True, capture_output=True)
    root = bytes(tmp_path / "bundle/rootfs")
    Path(os.fsdecode(root + b"/repacked\xe9")).write_bytes(b"repacked")
    os.unlink(root + b"/caf\xe9")
    subprocess.run(["umoci", "repack", "--image", f"{tmp_path}/layout:2", f"{tmp_path}/bundle"], check=True, capture_output=True)
    skopeo("copy", "-q", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:2", f"docker://{host}/latin/repacked:2")
    puller.docker("pull", f"{host}/latin/repacked:2")
    expected = {path: data for path, data in EXPECTED.items() if path != b"caf\xe9"} | {b"repacked\xe9": b"repacked"}
    assert container_sees(puller, f"{host}/latin/repacked:2") == expected
    script = r"printf committed > /$(printf 'committed\351'); rm /$(printf 'repacked\351')"
    puller.docker("run", "--name", "latin-names", "--network", "none", f"{host}/latin/repacked:2", "sh", "-c", script)
    puller.docker("commit", "latin-names", f"{other}/latin/committed:3")
    puller.docker("rm", "latin-names")
    expected = {path: data for path, data in expected.items() if path != b"repacked\xe9"} | {b"committed\xe9": b"committed"}
    puller.docker("push", f"{other}/latin/committed:3")
    skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{other}/latin/committed:3", f"oci:{tmp_path}/back:3")
    assert umoci_sees(tmp_path / "back", "3", tmp_path / "bundle-3") == expected
    puller.docker("rmi", f"{host}/latin/repacked:2", f"{other}/latin/committed:3")


@pytest.mark.parametrize("tool", ["docker", "berth"])
def test_copies_of_names_that_are_no_utf8(puller: Engine, made: Made, host: Host, tmp_path: Path, tool: str) -> None:
    """Out and in again, by paths that are no UTF-8 themselves."""
    name, top = f"{host}/latin/names:1", os.fsencode(tmp_path)
    puller.docker("pull", name)
    identity = puller.docker("create", "--network", "none", name, "sh", "-c", "cat new* && ls d*").stdout.strip()
    command: list = ["docker", "cp"] if tool == "docker" else [sys.executable, "-m", "berth.cli", "cp"]
    env = {**puller.env, "PYTHONPATH": f"{REPOSITORY}/src"}

    def cp(source: bytes, target: bytes, code: int = 0) -> str:
        done = subprocess.run([*command, source, target], env=env, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stderr.decode(errors="replace")

    try:
        at = identity.encode()
        for path in (b"caf\xe9", b"d\xff", b"hard\xe9", b"mixed\xc3\xa9\xe9", b"\xe9" * 120, b"opaque\xe9"):
            cp(at + b":/" + path, top)
        expected = {key: value for key, value in EXPECTED.items() if not key.startswith((b"soft", b"go", b"pax", b"\xc3\xa9"))}
        assert look(top) == expected
        (tmp_path / "new").write_bytes(b"new\n")
        cp(top + b"/new", at + b":/new\xe9")
        cp(top + b"/caf\xe9", at + b":/d\xff/\xfe")
        cp(top + b"/new", at + b":/d\xff")
        started = subprocess.run(["docker", "start", "-a", identity], env=puller.env, capture_output=True, timeout=60, check=True).stdout
        assert started.split(b"\n")[0] == b"new"
        out = subprocess.run([*command, at + b":/d\xff/\xfe", "-"], env=env, capture_output=True, timeout=60, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(out), encoding="utf-8", errors="surrogateescape") as tar:
            assert [os.fsencode(name) for name in tar.getnames()] == [b"\xfe"]
        assert "Could not find the file /none" in cp(at + b":/none\xe9", top, 1)
    finally:
        puller.docker("rm", "-f", identity)
