"""docker-py's networks as people use them, on berth and on dockerd, each in a network namespace of its own."""

import contextlib
import gc
import uuid
from collections.abc import Callable, Iterator

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from harness import Engine, sh_alone, wait_until

docker = pytest.importorskip("docker")
from docker import errors as failures  # noqa: E402
from docker.types import EndpointConfig, IPAMConfig, IPAMPool  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")]

ALONE = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
HTTP = ["sh", "-c", "mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 80 -h /w"]


@pytest.fixture(scope="module", params=["berth", pytest.param("dockerd", marks=pytest.mark.skipif(not HAVE_DOCKERD, reason="needs docker.io"))])
def side(request: pytest.FixtureRequest, rootfs_tar: str) -> Iterator[Engine | Dockerd]:
    if request.param == "berth":
        made: Engine | Dockerd = Engine(wrapper=ALONE, bridge=True)
        assert isinstance(made, Engine)
        made.docker("import", rootfs_tar, "bb")
    else:
        made = Dockerd("--bridge=", "--iptables=true", "--storage-driver", "overlay2", wrapper=ALONE)
    yield made
    made.finish()


@pytest.fixture
def client(side: Engine | Dockerd) -> Iterator["docker.DockerClient"]:
    made = docker.DockerClient(base_url=side.env["DOCKER_HOST"], timeout=60)
    yield made
    made.close()
    gc.collect()


def name_of() -> str:
    return f"py-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def network(client: "docker.DockerClient") -> Iterator[Callable]:
    """Networks that are removed after the test."""
    made = []

    def create(**options: object) -> "docker.models.networks.Network":
        made.append(client.networks.create(options.pop("name", name_of()), **options))
        return made[-1]

    yield create
    for each in made:
        with contextlib.suppress(failures.NotFound):
            each.remove()


@pytest.fixture
def start(client: "docker.DockerClient", network: Callable) -> Iterator[Callable]:
    """Containers that are removed after the test, and before networks."""
    made = []

    def run(command: object = ("sleep", "1000"), **options: object) -> "docker.models.containers.Container":
        made.append(client.containers.run("bb", command, **{"detach": True, "name": name_of(), **options}))
        made[-1].reload()
        return made[-1]

    yield run
    for container in made:
        with contextlib.suppress(failures.NotFound):
            container.remove(force=True)


def reaches(container: "docker.models.containers.Container", url: str) -> bool:
    code, output = container.exec_run(["timeout", "3", "wget", "-qO-", url])
    return code == 0 and output == b"hello\n"


def test_create_list_get_remove(client: "docker.DockerClient", network: Callable) -> None:
    made = network(driver="bridge", labels={"py": "1"}, options={"com.docker.network.bridge.enable_icc": "true"}, internal=True)
    assert made.short_id == made.id[:12] if len(made.short_id) == 12 else made.id.startswith(made.short_id)
    assert (made.attrs["Driver"], made.attrs["Labels"], made.attrs["Internal"], made.containers) == ("bridge", {"py": "1"}, True, [])
    assert client.networks.get(made.name).id == client.networks.get(made.id).id == made.id
    assert [each.id for each in client.networks.list(names=[made.name])] == [each.id for each in client.networks.list(ids=[made.id])] == [made.id]
    assert [each.id for each in client.networks.list(filters={"label": "py=1"})] == [made.id]
    assert {"bridge", "host", "none"} <= {each.name for each in client.networks.list()}
    with pytest.raises(failures.APIError) as conflict:
        client.networks.create(made.name, check_duplicate=True)
    assert conflict.value.status_code == 409
    made.remove()
    with pytest.raises(failures.NotFound):
        client.networks.get(made.id)
    with pytest.raises(failures.APIError) as forbidden:
        client.networks.get("bridge").remove()
    assert forbidden.value.status_code == 403


def test_addresses(network: Callable, start: Callable, client: "docker.DockerClient") -> None:
    made = network(ipam=IPAMConfig(pool_configs=[IPAMPool(subnet="10.88.0.0/24", gateway="10.88.0.254", iprange="10.88.0.128/25", aux_addresses={"a": "10.88.0.128"})]))
    one = start(network=made.name, networking_config={made.name: EndpointConfig(client.api._version, ipv4_address="10.88.0.7", aliases=["seven"])})
    found = one.attrs["NetworkSettings"]["Networks"][made.name]
    assert (found["IPAddress"], found["Gateway"], found["IPPrefixLen"]) == ("10.88.0.7", "10.88.0.254", 24)
    assert "seven" in found["Aliases"]
    other = start(network=made.name)
    assert other.attrs["NetworkSettings"]["Networks"][made.name]["IPAddress"] == "10.88.0.129"
    made.reload()
    assert {each.id for each in made.containers} == {one.id, other.id}
    assert other.exec_run(["ping", "-c", "1", "-W", "2", "seven"]).exit_code == 0


def test_connect_and_disconnect(network: Callable, start: Callable) -> None:
    made, other_net = network(), network(ipam=IPAMConfig(pool_configs=[IPAMPool(subnet="10.89.0.0/24")]))
    web = start(HTTP, network=made.name, name=(name := name_of()))
    one = start()
    made.connect(one, aliases=["mine"])
    wait_until(lambda: reaches(one, f"http://{name}/"), "the server")
    other_net.connect(one.name, ipv4_address="10.89.0.9", links=None, driver_opt={"a": "b"})
    one.reload()
    assert set(one.attrs["NetworkSettings"]["Networks"]) == {"bridge", made.name, other_net.name}
    assert one.attrs["NetworkSettings"]["Networks"][other_net.name]["IPAddress"] == "10.89.0.9"
    with pytest.raises(failures.APIError) as twice:
        made.connect(one)
    assert twice.value.status_code == 403
    with pytest.raises(failures.APIError) as busy:
        made.remove()
    assert busy.value.status_code == 403
    made.disconnect(one)
    assert not reaches(one, f"http://{web.attrs['NetworkSettings']['Networks'][made.name]['IPAddress']}/")
    with pytest.raises(failures.APIError):
        made.disconnect(one)
    other_net.disconnect(one, force=True)


def test_ports(side: Engine | Dockerd, start: Callable) -> None:
    one = start(HTTP, ports={"80/tcp": 18100, "81/tcp": None, "82/udp": ("127.0.0.1", 18102), "83/tcp": [18103, 18104], "84/tcp": ("127.0.0.1", None)})
    ports = one.ports
    assert {place["HostPort"] for place in ports["80/tcp"]} == {"18100"}
    assert ports["82/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "18102"}]
    assert {place["HostPort"] for place in ports["83/tcp"]} == {"18103", "18104"}
    assert all(int(place["HostPort"]) > 1024 for place in ports["81/tcp"] + ports["84/tcp"])
    bindings = one.attrs["HostConfig"]["PortBindings"]
    assert (bindings["80/tcp"], bindings["82/udp"]) == ([{"HostIp": "", "HostPort": "18100"}], [{"HostIp": "127.0.0.1", "HostPort": "18102"}])
    wait_until(lambda: sh_alone(side, "curl", "-s", "-m", "3", "http://127.0.0.1:18100/") == "hello\n", "the server")
    with pytest.raises(failures.APIError) as taken:
        start(ports={"80/tcp": 18100})
    assert "port is already allocated" in str(taken.value)
    every = start(HTTP, publish_all_ports=True, ports={"80/tcp": None})
    assert every.ports["80/tcp"][0]["HostIp"] == "0.0.0.0"


def test_names_and_modes(network: Callable, start: Callable, client: "docker.DockerClient") -> None:
    web = start(HTTP, name=(name := name_of()))
    linked = start(links={name: "other"}, extra_hosts={"far": "192.0.2.9"}, dns=["192.0.2.53"], dns_search=["a.example"], dns_opt=["rotate"], hostname="me", domainname="here")
    wait_until(lambda: reaches(linked, "http://other/"), "the linked server")
    assert linked.attrs["HostConfig"]["Links"] == [f"/{name}:/{linked.name}/other"]
    assert b"192.0.2.9\tfar" in linked.exec_run(["cat", "/etc/hosts"]).output
    assert {b"nameserver 192.0.2.53", b"search a.example", b"options rotate"} <= set(linked.exec_run(["cat", "/etc/resolv.conf"]).output.splitlines())
    assert linked.exec_run(["hostname"]).output == b"me\n"
    shared = start(network_mode=f"container:{web.id}")
    assert reaches(shared, "http://127.0.0.1/")
    assert client.containers.run("bb", ["cat", "/proc/net/dev"], network_mode="none", remove=True).count(b":") == 1
    assert start(network_mode="host").attrs["HostConfig"]["NetworkMode"] == "host"
    with pytest.raises(failures.APIError) as absent:
        start(network="no-such-network")
    assert absent.value.status_code == 404
    mine = network()
    by_mode = start(network_mode=mine.name)
    assert list(by_mode.attrs["NetworkSettings"]["Networks"]) == [mine.name]


def test_prune(client: "docker.DockerClient", network: Callable, start: Callable) -> None:
    used, unused = network(labels={"prune": "me"}), network(labels={"prune": "me"})
    start(network=used.name)
    assert client.networks.prune(filters={"label": "prune=other"})["NetworksDeleted"] is None
    assert client.networks.prune(filters={"label": "prune=me"})["NetworksDeleted"] == [unused.name]
