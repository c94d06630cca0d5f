"""Pulls and pushes that are cut off, meet each other, or bring what is wrong: nothing comes twice, nothing stays behind."""

import hashlib
import json
import os
import random
import re
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from handmade import OCI_INDEX, Handmade, Made, Proxy, digest_of, layer, member
from harness import Engine, status, wait_until
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry
from test_distribution import MOST_MEMORY_KB, busybox, leftovers, missing_bytes, shell, skopeo

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]

BASE = busybox()
IN_FLIGHT_BYTES = 512 << 10  # of a blob, in sockets
PATIENCE_S = 60  # for what takes a moment on an idle machine


class SmallEngine(Engine):
    """Its data root is a file system of its own, and small."""

    def start(self) -> None:
        if not os.path.ismount(self.data):
            self.data = tempfile.mkdtemp(prefix="berth-small-", dir="/var/tmp")  # not below `top`, which no process may have in its mounts
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", self.data], check=True)
        super().start()

    def stop(self) -> None:
        super().stop()
        subprocess.run(["umount", self.data], check=True)
        os.rmdir(self.data)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with docker_registry() as found:
        yield found


@pytest.fixture(scope="module")
def registry(host: Host) -> Handmade:
    return Handmade(host)


@pytest.fixture
def proxy(host: Host) -> Iterator[Proxy]:
    with Proxy(host) as found:
        yield found


def finish(engine: Engine) -> None:
    """Removes every image: then nothing of the store may be left, nor may it have taken more memory than a pull may."""
    assert engine.process
    most_kb = int(status(engine.process.pid)["VmHWM"].split()[0])
    for identity in set(engine.docker("images", "-aq", "--no-trunc").stdout.split()):
        engine.docker("rmi", "-f", identity, code=None, timeout=PATIENCE_S)
    left = leftovers(engine)
    engine.finish()
    assert left == []
    assert most_kb < MOST_MEMORY_KB


@pytest.fixture(scope="module")
def cut() -> Iterator[Engine]:
    running = Engine()
    yield running
    finish(running)


@pytest.fixture(scope="module")
def small() -> Iterator[Engine]:
    running = SmallEngine()
    yield running
    finish(running)


@contextmanager
def started(engine: Engine, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Docker's CLI at work meanwhile."""
    process = subprocess.Popen(["docker", *words], env=engine.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def succeeded(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return said


def random_layer(name: str, size: int) -> bytes:
    return layer((name, os.urandom(size)))


def blob_sizes(made: Made) -> dict[str, int]:
    return {entry["digest"]: entry["size"] for entry in [*made.manifest["layers"], made.manifest["config"]]}


# -- cut off ----------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_killed_goes_on_where_it_was(registry: Handmade, proxy: Proxy, cut: Engine) -> None:
    """Nothing comes twice but what was in flight, wherever the pull was: what had reached the engine is on the disk."""
    made = registry.image("cut/killed", "1", [BASE, *(random_layer(f"f{number}", 4 << 20) for number in range(3))])
    total, seed = sum(blob_sizes(made).values()), random.randrange(1 << 30)
    stops = sorted(random.Random(seed).sample(range(1 << 16, total - (1 << 16)), 3))
    missing = missing_bytes(cut, made)
    for before, stop in pairwise([0, *stops]):
        proxy.bodies.clear()
        proxy.reached.clear()
        proxy.stop_after = stop - before
        with started(cut, "pull", f"{proxy.host}/cut/killed:1"):
            assert proxy.reached.wait(PATIENCE_S)
            wait_until(lambda: _is_here(cut, proxy, made, missing), f"bytes on the way (stops {stops}, seed {seed})", PATIENCE_S)  # noqa: B023
            cut.kill()
        proxy.stop_after = None
        wait_until(lambda: not proxy.passing, "connections of the killed engine")
        missing = missing_bytes(cut, made)
        cut.start()
        wait_until(lambda: os.listdir(f"{cut.data}/tmp") == [], "what the killed engine had unpacked")
    proxy.bodies.clear()
    cut.docker("pull", f"{proxy.host}/cut/killed:1", timeout=PATIENCE_S)
    assert {digest: proxy.sent_bytes(digest) for digest in made.blobs} == missing, (stops, seed, proxy.bodies)
    assert shell(cut, f"{proxy.host}/cut/killed:1", "cat /f2 | wc -c") == f"{4 << 20}\n"
    cut.docker("rmi", f"{proxy.host}/cut/killed:1")
    assert leftovers(cut) == []


def _is_here(engine: Engine, proxy: Proxy, made: Made, before: dict[str, int]) -> bool:
    """Whether what the proxy has sent of each blob is on the engine's disk, as a partial blob or unpacked. before: what was missing then."""
    now = missing_bytes(engine, made)
    return all(before[digest] - now[digest] >= proxy.sent_bytes(digest) - IN_FLIGHT_BYTES for digest in now)


def test_a_client_that_leaves_ends_its_pull(registry: Handmade, proxy: Proxy, cut: Engine) -> None:
    made = registry.image("cut/left", "1", [BASE, random_layer("a", 2 << 20), random_layer("b", 2 << 20)])
    sizes = blob_sizes(made)
    proxy.stop_after = 3 << 20
    with started(cut, "pull", f"{proxy.host}/cut/left:1") as client:
        assert proxy.reached.wait(PATIENCE_S)
        wait_until(lambda: _is_here(cut, proxy, made, sizes), "bytes on the way", PATIENCE_S)
        client.kill()
        # the registry says nothing meanwhile: the engine has to see by itself that nobody listens
        wait_until(lambda: os.listdir(f"{cut.data}/tmp") == [], "half-unpacked layers", PATIENCE_S)
    proxy.stop_after = None
    cut.docker("pull", f"{proxy.host}/cut/left:1", timeout=PATIENCE_S)
    assert sum(proxy.sent_bytes(digest) for digest in made.blobs) <= sum(sizes[digest] for digest in made.blobs) + IN_FLIGHT_BYTES
    cut.docker("rmi", f"{proxy.host}/cut/left:1")
    assert leftovers(cut) == []


def test_prune_removes_what_a_pull_has_left(registry: Handmade, proxy: Proxy, cut: Engine) -> None:
    registry.image("cut/never", "1", [random_layer("a", 2 << 20)])
    proxy.stop_after = 1 << 20
    with started(cut, "pull", f"{proxy.host}/cut/never:1") as client:
        assert proxy.reached.wait(PATIENCE_S)
        assert cut.docker("image", "prune", "-f").stdout == "Total reclaimed space: 0B\n"  # all of it is in use
        client.kill()
        wait_until(lambda: os.listdir(f"{cut.data}/tmp") == [], "half-unpacked layers", PATIENCE_S)
    assert os.listdir(f"{cut.data}/partial")
    # the pull lets go of its layers a moment after its files
    wait_until(lambda: bool(cut.docker("image", "prune", "-f")) and leftovers(cut) == [], "layers and partial blobs", PATIENCE_S)


def test_two_pulls_of_overlapping_images_at_once(registry: Handmade, proxy: Proxy, cut: Engine) -> None:
    shared = random_layer("shared", 2 << 20)
    one = registry.image("cut/one", "1", [BASE, shared, random_layer("one", 1 << 20)])
    two = registry.image("cut/two", "1", [BASE, shared, random_layer("two", 1 << 20)])
    proxy.rate_bytes_s = 8 << 20
    names = [f"{proxy.host}/cut/{name}:1" for name in ("one", "one", "two")]
    with started(cut, "pull", names[0]) as first, started(cut, "pull", names[1]) as second, started(cut, "pull", names[2]) as third:
        for each in (first, second, third):
            succeeded(each)
    sizes = blob_sizes(one) | blob_sizes(two)
    for digest in {*one.blobs, *two.blobs}:
        assert proxy.sent_bytes(digest) == sizes[digest]
    for name in ("one", "two"):
        assert shell(cut, f"{proxy.host}/cut/{name}:1", f"cat /shared /{name} | wc -c") == f"{3 << 20}\n"
        cut.docker("rmi", f"{proxy.host}/cut/{name}:1")
    assert leftovers(cut) == []


def test_a_layer_that_is_here_does_not_come_again(registry: Handmade, proxy: Proxy, cut: Engine) -> None:
    """One that an image has twice, and one that lies on other layers in another image."""
    twice = random_layer("twice", 200_000)
    one = registry.image("cut/twice", "1", [BASE, twice, layer(member(".wh.twice")), twice])
    other = registry.image("cut/elsewhere", "1", [twice, BASE])
    for name in ("twice", "elsewhere"):
        cut.docker("pull", f"{proxy.host}/cut/{name}:1", timeout=PATIENCE_S)
        assert shell(cut, f"{proxy.host}/cut/{name}:1", "wc -c </twice") == "200000\n"
    sizes = blob_sizes(one) | blob_sizes(other)
    assert {digest: proxy.sent_bytes(digest) for digest in {*one.blobs, *other.blobs}} == {digest: sizes[digest] for digest in {*one.blobs, *other.blobs}}
    for name in ("twice", "elsewhere"):
        cut.docker("rmi", f"{proxy.host}/cut/{name}:1")
    assert leftovers(cut) == []


@pytest.mark.parametrize("good", [True, False], ids=["and comes", "and is wrong"])
def test_a_base_is_removed_while_an_image_on_it_is_pulled(registry: Handmade, proxy: Proxy, cut: Engine, good: bool) -> None:
    upper = random_layer("upper", 1 << 20)
    registry.image("cut/base", "1", [BASE])
    made = registry.image("cut/upper", "1", [BASE, upper], diffs=None if good else [digest_of(BASE), "sha256:" + "1" * 64])
    cut.docker("pull", f"{proxy.host}/cut/base:1", timeout=PATIENCE_S)
    proxy.stop_after = proxy.blob_bytes + 300_000
    with started(cut, "pull", f"{proxy.host}/cut/upper:1") as pull:
        assert proxy.reached.wait(PATIENCE_S)
        assert "Deleted: " + made.config not in cut.docker("rmi", f"{proxy.host}/cut/base:1").stdout
        proxy.stop_after = None
        said, _ = pull.communicate(timeout=PATIENCE_S)
        assert (pull.returncode == 0) is good, said
    assert proxy.sent_bytes(made.blobs[0]) == blob_sizes(made)[made.blobs[0]]
    if good:
        assert shell(cut, f"{proxy.host}/cut/upper:1", "wc -c < /upper") == f"{1 << 20}\n"
        cut.docker("rmi", f"{proxy.host}/cut/upper:1")
    assert leftovers(cut) == []


def test_a_push_that_is_killed_can_be_made_again(registry: Handmade, proxy: Proxy, cut: Engine, tmp_path: Path) -> None:
    for name, data in (("base", BASE), ("other", random_layer("x", 3 << 20))):
        (tmp_path / f"{name}.tar").write_bytes(data)
        cut.docker("import", str(tmp_path / f"{name}.tar"), f"{proxy.host}/cut/pushed-{name}:1")
    proxy.stop_after = 1 << 20
    with started(cut, "push", f"{proxy.host}/cut/pushed-other:1"):
        assert proxy.reached.wait(PATIENCE_S)
        cut.kill()
    proxy.stop_after = None
    cut.start()
    for name in ("base", "other"):
        cut.docker("push", f"{proxy.host}/cut/pushed-{name}:1", timeout=PATIENCE_S)
        skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{registry.host}/cut/pushed-{name}:1", f"oci:{tmp_path}/{name}:1")
        cut.docker("rmi", f"{proxy.host}/cut/pushed-{name}:1")
    assert leftovers(cut) == []


# -- wrong ------------------------------------------------------------------------------------------------------------


def _changed(registry: Handmade, proxy: Proxy) -> None:
    made = registry.image("bad/changed", "1", [BASE, random_layer("x", 100_000)])
    proxy.change = lambda path, body: body[:-9] + b"x" + body[-8:] if path.endswith(made.blobs[1]) else body


def _truncated(registry: Handmade, proxy: Proxy) -> None:
    tar = random_layer("x", 100_000)
    blob = subprocess.run(["gzip", "-n"], input=tar, capture_output=True, check=True).stdout[:-5000]
    registry.image("bad/truncated", "1", [BASE, tar], blobs=[BASE, blob])


def _shorter(registry: Handmade, proxy: Proxy) -> None:
    registry.image("bad/shorter", "1", [BASE, random_layer("x", 100_000)], descriptors=lambda index, entry: {**entry, "size": entry["size"] - index * 10})


def _other_diff(registry: Handmade, proxy: Proxy) -> None:
    registry.image("bad/diff", "1", [BASE, random_layer("x", 100)], diffs=[digest_of(BASE), "sha256:" + "2" * 64])


def _few_diffs(registry: Handmade, proxy: Proxy) -> None:
    registry.image("bad/few", "1", [BASE, random_layer("x", 100)], diffs=[digest_of(BASE)])


def _escape(registry: Handmade, proxy: Proxy) -> None:
    registry.image("bad/escape", "1", [BASE, layer(("../../../../../../var/tmp/berth-evil", b"x"))])


def _nested(registry: Handmade, proxy: Proxy) -> None:
    made = registry.image("bad/nested", "", [BASE])
    inner = registry.index("bad/nested", "inner", [(made, "linux/amd64")])
    entry = {"mediaType": OCI_INDEX, "digest": inner, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}
    entry["size"] = len(registry.ask("GET", f"/v2/bad/nested/manifests/{inner}", None, {"Accept": OCI_INDEX})[2])
    registry.manifest("bad/nested", "1", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}, OCI_INDEX)


def _page(registry: Handmade, proxy: Proxy) -> None:
    registry.image("bad/page", "1", [BASE])
    proxy.change = lambda path, body: b"<html>Welcome to the hotel's network</html>" if "/manifests/" in path else body


def _not_a_tar(registry: Handmade, proxy: Proxy) -> None:
    data = b"this is no archive" * 1000
    registry.image("bad/text", "1", [BASE, data])


WRONG: dict[str, tuple[Callable[[Handmade, Proxy], None], str]] = {
    "changed": (_changed, "came from the registry with digest"), "truncated": (_truncated, "cut off or damaged|too early"), "shorter": (_shorter, "digest|damaged|size|bytes"),
    "diff": (_other_diff, "unpacks to sha256:"), "few": (_few_diffs, "lists 2 layers"), "escape": (_escape, "would leave the root"),
    "nested": (_nested, "leads to another index"), "page": (_page, "digest|web page"), "text": (_not_a_tar, "archive"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_leaves_nothing(registry: Handmade, proxy: Proxy, cut: Engine, kind: str) -> None:
    prepare, expected = WRONG[kind]
    prepare(registry, proxy)
    before = leftovers(cut)
    done = cut.docker("pull", f"{proxy.host}/bad/{kind}:1", code=1, timeout=PATIENCE_S)
    assert re.search(expected, done.stderr), done.stderr
    assert "Traceback" not in cut.log()
    assert leftovers(cut) == before
    assert not os.path.lexists("/var/tmp/berth-evil")


@pytest.mark.parametrize("how", ["gzip", "zstd", "xz"])
def test_a_disk_that_is_full_stays_as_it_was(registry: Handmade, proxy: Proxy, small: Engine, tmp_path: Path, how: str) -> None:
    """A layer of 400 MB of the same byte, by a pull and by a load: less than the file system has goes into it."""
    name = f"{registry.host}/full/good:1"
    registry.image("full/good", "1", [BASE])
    small.docker("pull", name)
    blob, diff = _bomb(how)
    made = registry.image(f"full/{how}", "1", [BASE, b""], blobs=[BASE, blob], diffs=[digest_of(BASE), diff])
    before, free = leftovers(small), os.statvfs(small.data).f_bfree
    said = small.docker("pull", f"{proxy.host}/full/{how}:1", code=1, timeout=PATIENCE_S).stderr
    assert re.search("[Nn]o space left|stay free on the disk", said), said
    assert leftovers(small) == before
    config = registry.ask("GET", f"/v2/full/{how}/blobs/{made.config}")[2]
    (tmp_path / "archive.tar").write_bytes(layer(
        ("config.json", config), ("base.tar", BASE), ("bomb.tar", blob),
        ("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["bomb:1"], "Layers": ["base.tar", "bomb.tar"]}]).encode()),
    ))  # fmt: skip
    said = small.docker("load", "-i", f"{tmp_path}/archive.tar", code=1, timeout=PATIENCE_S).stderr
    assert re.search("[Nn]o space left|stay free on the disk", said), said
    assert leftovers(small) == before
    assert free - os.statvfs(small.data).f_bfree < 200  # blocks; the database's journal may have grown
    assert shell(small, name, "echo works") == "works\n"


def _bomb(how: str) -> tuple[bytes, str]:
    """A tar with one file of 400 MB, compressed as it is made -> the blob, the tar's digest."""

    info = member("ones")
    info.size = 400 << 20
    hasher, piece = hashlib.sha256(), b"\1" * (1 << 20)  # zeros would be a hole
    process = subprocess.Popen([how, "-1", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()))  # type: ignore[union-attr]
    reader.start()
    for part in (info.tobuf(tarfile.PAX_FORMAT), *[piece] * 400, bytes(1024)):
        hasher.update(part)
        process.stdin.write(part)
    process.stdin.close()
    reader.join()
    process.stdout.close()
    assert process.wait() == 0
    return output[0], f"sha256:{hasher.hexdigest()}"
