"""Fixtures: a root file system, and one engine for the whole session."""

import os
import shutil
from collections.abc import Callable, Iterator

import netlab
import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from harness import BUSYBOX, Engine, make_rootfs_tar
from netlab import Lab
from oci import Oci
from registries import HAVE_DOCKER_REGISTRY, docker_registry
from registries import Host as RegistryHost


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Escape, isolation and all else here needs root and busybox-static on a host with cgroup v1."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here) and not os.path.exists(BUSYBOX):
            item.add_marker(pytest.mark.skip(reason="needs Debian's busybox-static"))


@pytest.fixture(scope="session")
def rootfs_tar(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("rootfs") / "rootfs.tar")
    make_rootfs_tar(path)
    return path


@pytest.fixture(scope="session")
def engine(rootfs_tar: str) -> Iterator[Engine]:
    """An engine with the image `bb`; at the end nothing of it may be left."""
    running = Engine()
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


@pytest.fixture(scope="session")
def real() -> Iterator[Dockerd]:
    """Debian's dockerd with the same image `bb`, for tests that ask both the same."""
    if not HAVE_DOCKERD:
        pytest.skip("needs Debian's docker.io")
    try:
        daemon = Dockerd("--storage-driver", "overlay2")
    except AssertionError:  # on a file system that no overlay can be on
        daemon = Dockerd()
    yield daemon
    daemon.finish()


@pytest.fixture(scope="session")
def userns_engine(rootfs_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One with --userns-remap. /etc/subuid and subgid are overlaid in a mount namespace of its own: no trace on the host."""
    file = tmp_path_factory.mktemp("subid") / "subid"
    file.write_text("remapped:200000:65536\n")
    script = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'
    wrapper = ("unshare", "-m", "--propagation", "slave", "sh", "-c", script, str(file))
    running = Engine(("--userns-remap", "remapped"), wrapper)
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


@pytest.fixture
def own_engine(rootfs_tar: str) -> Iterator[Engine]:
    """One for a test that kills it."""
    running = Engine()
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


@pytest.fixture
def up(engine: Engine) -> Iterator[Callable[..., str]]:
    """Starts containers that are removed after the test."""
    started: list[str] = []

    def start(*options: str, **keywords: object) -> str:
        started.append(engine.up(*options, **keywords))  # type: ignore[arg-type]
        return started[-1]

    yield start
    engine.rm(*started)


@pytest.fixture
def oci() -> Iterator[Oci]:
    """./berth-oci with a state directory of its own; at the end nothing of it may be left."""
    runtime = Oci()
    yield runtime
    runtime.finish()


@pytest.fixture
def runc() -> Iterator[Oci]:
    """Debian's runc, for the same bundles."""
    if not shutil.which("runc"):
        pytest.skip("needs Debian's runc")
    runtime = Oci("runc")
    yield runtime
    runtime.finish()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Several hosts, each a network namespace; `host` is the one that an engine has."""
    hosts = Lab()
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def net(lab: Lab, rootfs_tar: str) -> Iterator[Engine]:
    """An engine with a bridge, which leaves no interface and no rule."""
    links, rules = lab.links(), lab.rules()
    running = netlab.engine_in(lab, rootfs_tar)
    yield running
    running.finish()
    assert lab.links() == links
    assert lab.rules() == rules


@pytest.fixture
def start(net: Engine) -> Iterator[Callable[..., str]]:
    """Starts containers of `net` that are removed after the test."""
    with netlab.containers(net) as run:
        yield run


@pytest.fixture
def network(net: Engine) -> Iterator[Callable[..., str]]:
    """The same of networks."""
    with netlab.networks(net) as create:
        yield create


@pytest.fixture
def registry() -> Iterator[RegistryHost]:
    """Debian's docker-registry; some modules have one of another kind under this name."""
    if not HAVE_DOCKER_REGISTRY:
        pytest.skip("needs Debian's docker-registry")
    with docker_registry() as running:
        yield running
