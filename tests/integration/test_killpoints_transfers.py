"""The engine killed right before a file operation, SQL statement or message of a pull or a push, and the same once more.

The store is in order, what is done again fetches and sends what is missing to the byte, and a prune leaves nothing. What
was missing is read from the engine's and the registry's files, and what went over the wire is counted by a proxy in between.
BERTH_KILLPOINTS=all tries every point (minutes).
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator

import pytest
from handmade import Handmade, Made, Proxy, digest_of, layer
from harness import Engine, wait_until
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry
from registry_host import RegistryHost, registry_host
from test_distribution import missing_bytes, skopeo
from test_killpoints import Killed, chosen_points

pytestmark = [
    pytest.mark.root, pytest.mark.timeout(3600 if os.environ.get("BERTH_KILLPOINTS") else 120),
    pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry"),
]  # fmt: skip

_CONFIG_BYTES = 2000  # of a configuration, which is always sent as a whole


@pytest.fixture(scope="module")
def killed(rootfs_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    engine = Killed(str(tmp_path_factory.mktemp("killpoints") / "control"))
    engine.engine.docker("import", rootfs_tar, "bb")
    yield engine
    engine.engine.finish()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with docker_registry() as found:
        yield found


@pytest.fixture(scope="module")
def team() -> Iterator[RegistryHost]:
    with registry_host() as found:
        yield found


def files(engine: Engine) -> set[str]:
    """All that the store has of layers and transfers, in whatever state."""
    return {
        f"{top}/{name}" for directory in ("layers", "recipes", "pool", "contents", "partial", "uploads", "tmp")
        for top, names, files in os.walk(f"{engine.data}/{directory}") for name in names + files
    }  # fmt: skip


def tars(archive: bytes) -> list[str]:
    """Digests of the layers of what `save` wrote."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        listed = tar.extractfile("manifest.json")
        assert listed
        found = []
        for name in json.loads(listed.read())[0]["Layers"]:
            member = tar.extractfile(name)
            assert member
            found.append(f"sha256:{hashlib.sha256(member.read()).hexdigest()}")
        return found


def remove(killed: Killed) -> None:
    """Every image but the shell's, and what transfers have left."""
    killed.clean()
    killed.do("POST", "/images/prune")
    killed.wait_until_removed()


def die_at(killed: Killed, kind: str, at: int, method: str, path: str) -> str:
    """The request, and the engine killed at a point of it, or after its end -> what the point was, '' for the end."""
    killed.count(kind, at)
    killed.ask(method, path)
    killed.leave_alone()
    seen = killed.points()
    killed.forget_points()
    killed.engine.kill()
    return (seen or ["none"])[-1] if sum(point.startswith(f"{kind} ") for point in seen) >= at else ""


def points_of(killed: Killed, method: str, path: str) -> list[str]:
    killed.count()
    killed.do(method, path)
    killed.leave_alone()
    found = killed.points()
    killed.forget_points()
    return found


# -- pull -------------------------------------------------------------------------------------------------------------


def once_more(killed: Killed, proxy: Proxy, made: Made, path: str, before: set[str]) -> None:
    """After a restart: what is missing is fetched and nothing else, and it all goes again."""
    killed.check()
    missing = missing_bytes(killed.engine, made)
    proxy.bodies.clear()
    killed.do("POST", path)
    assert {digest: proxy.sent_bytes(digest) for digest in missing} == missing
    saved = killed.do("GET", f"/images/{proxy.host}/kp/pulled:1/get")
    assert isinstance(saved, bytes)
    assert tars(saved) == made.diffs
    killed.check()
    assert os.listdir(f"{killed.engine.data}/partial") == []
    remove(killed)
    assert files(killed.engine) == before


def test_killed_within_a_pull(killed: Killed, host: Host) -> None:
    made = Handmade(host).image("kp/pulled", "1", [layer((f"f{number}", os.urandom(900_000))) for number in range(3)], oci=False)
    with Proxy(host) as proxy:
        path = f"/images/create?fromImage={proxy.host}/kp/pulled&tag=1"
        remove(killed)
        before = files(killed.engine)
        todo = chosen_points(0, points_of(killed, "POST", path)) + chosen_points(1, points_of(killed, "POST", path))
        hit = 0
        for kind, at in todo:
            remove(killed)
            last = die_at(killed, kind, at, "POST", path)
            hit += bool(last)
            killed.engine.start()
            try:
                once_more(killed, proxy, made, path, before)
            except AssertionError as error:
                raise AssertionError(f"pull, killed before {kind} {at} ({last}): {error}\n{killed.engine.log()[-3000:]}") from error
        assert hit >= (len(todo) + 1) // 2, f"only {hit} of {len(todo)} points were met"


def test_killed_within_a_pull_and_pruned(killed: Killed, host: Host) -> None:
    """Nobody goes on with it."""
    Handmade(host).image("kp/pruned", "1", [layer((f"f{number}", os.urandom(300_000))) for number in range(2)], oci=False)
    path = f"/images/create?fromImage={host}/kp/pruned&tag=1"
    remove(killed)
    before = files(killed.engine)
    points = points_of(killed, "POST", path)
    for kind, at in chosen_points(1, points):
        remove(killed)
        die_at(killed, kind, at, "POST", path)
        killed.engine.start()
        killed.check()
        remove(killed)
        assert files(killed.engine) == before, (kind, at)


# -- push -------------------------------------------------------------------------------------------------------------


class Pushing:
    """Pushes of one archive's image, each to a repository of its own, to `berth registry serve` behind a proxy."""

    def __init__(self, killed: Killed, team: RegistryHost, proxy: Proxy, archive: bytes) -> None:
        self.killed, self.team, self.proxy, self.archive = killed, team, proxy, archive
        self.number = 0

    def fresh(self) -> str:
        """The image without a place where it was pushed to; returns the request."""
        self.number += 1
        remove(self.killed)
        self.killed.do("POST", "/images/load", self.archive)
        self.killed.do("POST", f"/images/kp-pushed:1/tag?repo={self.name}&tag=1")
        self.proxy.uploads.clear()
        return f"/images/{self.name}/push?tag=1"

    @property
    def name(self) -> str:
        return f"{self.proxy.host}/kp/{self.number}"

    def unfinished(self) -> dict[str, int]:
        """Bytes that the registry has of each upload to this repository, by its files."""
        found = {}
        for identity in os.listdir(f"{self.team.root}/uploads"):
            with open(f"{self.team.root}/uploads/{identity}/name") as file:
                if file.read() == f"kp/{self.number}":
                    found[identity] = os.stat(f"{self.team.root}/uploads/{identity}/data").st_size
        return found

    def sent(self) -> dict[str, int]:
        return {path.rpartition("/")[2]: count for path, count in self.proxy.uploads.items() if "/blobs/uploads/" in path}

    def settled(self) -> bool:
        """Whether all that the proxy was sent is with the registry, if the upload goes on."""
        sent = self.sent()
        return not self.proxy.passing and all(sent.get(identity, 0) == size for identity, size in self.unfinished().items())

    def once_more(self, path: str) -> None:
        wait_until(self.settled, f"bytes on the way: {self.sent()}, {self.unfinished()}")
        had = sum(self.sent().values())
        self.proxy.uploads.clear()
        self.killed.do("POST", path)
        layers = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{self.name}:1"))["layers"]
        more = sum(self.sent().values())
        assert 0 <= had + more - sum(entry["size"] for entry in layers) <= _CONFIG_BYTES, (had, more, layers)
        skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{self.name}:1", f"dir:{self.team.top}/copy-{self.number}")
        assert os.listdir(f"{self.killed.engine.data}/uploads") == []


@pytest.fixture
def pushing(killed: Killed, team: RegistryHost) -> Iterator[Pushing]:
    with Proxy(team.address) as proxy:
        yield Pushing(killed, team, proxy, docker_archive("kp-pushed:1", *(layer((f"f{number}", os.urandom(1_500_000))) for number in range(2))))
        remove(killed)


def docker_archive(name: str, *layers: bytes) -> bytes:
    """As `docker save` writes it."""
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in layers]}}
    names = [f"{number}.tar" for number in range(len(layers))]
    listed = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    return layer(("config.json", json.dumps(config).encode()), *zip(names, layers, strict=True), ("manifest.json", json.dumps(listed).encode()))


def test_killed_within_a_push(pushing: Pushing) -> None:
    killed = pushing.killed
    remove(killed)
    before = files(killed.engine)
    todo = chosen_points(0, points_of(killed, "POST", pushing.fresh())) + chosen_points(1, points_of(killed, "POST", pushing.fresh()))
    hit = 0
    for kind, at in todo:
        path = pushing.fresh()
        last = die_at(killed, kind, at, "POST", path)
        hit += bool(last)
        killed.engine.start()
        try:
            killed.check()
            pushing.once_more(path)
            killed.check()
            remove(killed)
            assert files(killed.engine) == before
        except AssertionError as error:
            raise AssertionError(f"push, killed before {kind} {at} ({last}): {error}\n{killed.engine.log()[-3000:]}") from error
    assert hit >= (len(todo) + 1) // 2, f"only {hit} of {len(todo)} points were met"


def test_a_client_that_leaves_its_push(pushing: Pushing) -> None:
    """The engine sees it, and has noted how far it was."""
    killed, proxy, path = pushing.killed, pushing.proxy, pushing.fresh()
    proxy.stop_after = 1 << 20
    client = subprocess.Popen(["docker", "push", f"{pushing.name}:1"], env=killed.engine.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert proxy.reached.wait(60)
    client.kill()
    client.wait()
    proxy.stop_after = None
    pushing.once_more(path)


def test_killed_within_a_push_and_pruned(pushing: Pushing) -> None:
    """A prune forgets what the registry has of it, too."""
    killed, proxy, path = pushing.killed, pushing.proxy, pushing.fresh()
    proxy.stop_after = 1 << 20
    client = threading.Thread(target=killed.ask, args=("POST", path))
    client.start()
    assert proxy.reached.wait(60)
    killed.engine.kill()
    client.join()
    proxy.stop_after = None
    killed.engine.start()
    assert os.listdir(f"{killed.engine.data}/uploads")
    killed.do("POST", "/images/prune")
    assert os.listdir(f"{killed.engine.data}/uploads") == []
    killed.do("POST", path)
