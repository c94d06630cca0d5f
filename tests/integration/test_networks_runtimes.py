"""Networks of containers in user namespaces (`--userns-remap`), and of those that runc and crun run: the same as of others."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Engine, namespace, read, wait_until
from netlab import CLIENT, FAR, HOST, HOST6, HTTP, Lab, gets, inside, interfaces
from parity import Peer

pytestmark = pytest.mark.root
Up = Callable[..., str]
_FIRST_ID = 300000
_UDP = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("ready")
while True:
    _, peer = server.recvfrom(1000)
    server.sendto(peer[0].encode(), peer)
"""


@pytest.fixture(scope="module")
def subids(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("subid") / "subid"
    file.write_text(f"remapped:{_FIRST_ID}:65536\n")
    return str(file)


@pytest.fixture(scope="module", params=["userns", "runc", "crun"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param != "userns" and not shutil.which(request.param):
        pytest.skip(f"needs Debian's {request.param}")
    return str(request.param)


@pytest.fixture(scope="module")
def net(kind: str, lab: Lab, rootfs_tar: str, subids: str) -> Iterator[Engine]:
    before = lab.links(), lab.rules()
    options = ("--userns-remap", "remapped") if kind == "userns" else ("--default-runtime", kind)
    script = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'
    wrapper = (*lab.enter("host"), "unshare", "-m", "--propagation", "slave", "sh", "-c", script, subids)
    running = Engine(options, wrapper if kind == "userns" else lab.enter("host"), bridge=True)
    os.chmod(running.top, 0o711)  # as directories above a data root are: runc and crun go by paths
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()
    assert (lab.links(), lab.rules()) == before


def inspect(net: Engine, identity: str) -> dict[str, Any]:
    return dict(json.loads(net.docker("inspect", identity).stdout)[0])


def address(net: Engine, identity: str, name: str) -> str:
    return str(inspect(net, identity)["NetworkSettings"]["Networks"][name]["IPAddress"])


def owner_of(net: Engine, identity: str) -> str:
    """The user namespace that a container's network namespace belongs to."""
    with open(f"/proc/{net.pid(identity)}/ns/net") as file:
        script = f"import fcntl, os; print(os.readlink('/proc/self/fd/%d' % fcntl.ioctl({file.fileno()}, 0xB701)))"
        return subprocess.run(["python3", "-c", script], pass_fds=[file.fileno()], capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_what_it_says(net: Engine, kind: str, start: Up) -> None:
    """Who runs it, and that its root owns its network as far as it may."""
    box = start()
    own = namespace(net.pid(box), "user")
    assert (own != namespace("self", "user")) == (kind == "userns")
    assert owner_of(net, box) == own
    uids = read(f"/proc/{net.pid(box)}/uid_map").split()
    assert uids[:2] == ["0", str(_FIRST_ID) if kind == "userns" else "0"]
    assert (inspect(net, box)["HostConfig"]["Runtime"] == kind) == (kind != "userns")


def test_published_ports(net: Engine, lab: Lab, start: Up) -> None:
    web = start("-p", "18500:80", "-p", "127.0.0.1:18501:80", "-p", "18500:53/udp", command=HTTP)
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18500/") == "hello\n", "the server")
    assert lab.fetch("client", f"http://[{HOST6}]:18500/", "-g") == "hello\n"
    assert lab.fetch("host", "http://127.0.0.1:18501/") == "hello\n"
    assert lab.fetch("client", f"http://{HOST}:18501/") == ""
    assert gets(net, start(), f"http://{HOST}:18500/"), "from another container"
    assert gets(net, web, f"http://{HOST}:18500/"), "from itself"
    ask = f"import socket; s = socket.socket(2, 2); s.settimeout(3); s.sendto(b'x', ({HOST!r}, 18500)); print(s.recv(100).decode(), end='')"
    with subprocess.Popen(("nsenter", "-n", "-t", str(net.pid(web)), "python3", "-u", "-c", _UDP), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == "ready\n"
            assert lab.at("client", "python3", "-c", ask).stdout == CLIENT
        finally:
            server.kill()
    assert net.docker("exec", web, "ping", "-c", "1", "-W", "3", FAR).returncode == 0


def test_ports_of_a_container_that_runs(net: Engine, lab: Lab, start: Up) -> None:
    peer, web = Peer(f"{net.exec}/berth.sock"), start("-p", "18510:80", command=HTTP)
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18510/") == "hello\n", "the server")
    body = {"PublishAdd": [{"HostPort": "18511", "ContainerPort": 80}], "PublishRemove": [{"HostPort": "18510", "ContainerPort": 80}]}
    assert peer.ask("POST", f"/containers/{web}/update", body).status == 200
    assert lab.fetch("client", f"http://{HOST}:18511/") == "hello\n"
    assert lab.fetch("client", f"http://{HOST}:18510/") == ""


def test_names_addresses_and_networks_of_ones_own(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("u-one", "--subnet", "10.62.1.0/24")
    network("u-two", "--ipv6", "--subnet", "10.62.2.0/24", "--subnet", "2001:db8:64::/64", "--internal")
    web = start("--network", "name=u-one,ip=10.62.1.77,alias=site", "--name", "u-web", "-p", "18520:80", command=HTTP)
    asks = start("--network", "u-one")
    wait_until(lambda: gets(net, asks, "http://site/"), "its alias")
    assert gets(net, asks, "http://u-web/")
    assert "10.62.1.77" in net.docker("exec", asks, "nslookup", "u-web", "127.0.0.11").stdout
    assert "10.62.1.77" in net.docker("exec", web, "cat", "/etc/hosts").stdout
    net.docker("network", "connect", "--alias", "side", "u-two", web)
    net.docker("network", "connect", "u-two", asks)
    assert set(interfaces(net, web)) == {"eth0", "eth1"}
    assert gets(net, asks, "http://side/")
    assert inside(net, web, "ip", "-6", "address", "show", "eth1").count("2001:db8:64::") == 1
    net.docker("network", "disconnect", "u-one", web)
    assert set(interfaces(net, web)) == {"eth1"}
    assert lab.fetch("client", f"http://{HOST}:18520/") == "", "the network that is left leads nowhere"
    net.docker("network", "connect", "u-one", web)
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18520/") == "hello\n", "its port")
    net.docker("restart", "-t", "0", web)
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18520/") == "hello\n", "its port after a restart")


def test_over_a_killed_engine(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("u-kept")
    web = start("--network", "u-kept", "--name", "u-kept-web", "--restart", "always", "-p", "18530:80", command=HTTP)
    asks = start("--network", "u-kept")
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18530/") == "hello\n", "the server")
    net.kill()
    lab.at("host", "nft", "flush", "ruleset")
    net.start()
    assert lab.fetch("client", f"http://{HOST}:18530/") == "hello\n"
    assert gets(net, asks, "http://u-kept-web/")
    net.docker("network", "disconnect", "u-kept", asks)
    net.docker("network", "connect", "u-kept", asks)
    assert gets(net, asks, f"http://{address(net, web, 'u-kept')}/")
    os.kill(net.pid(web), 9)
    wait_until(lambda: inspect(net, web)["RestartCount"] == 1 and net.state(web)["Running"], "a restart")
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18530/") == "hello\n", "the server again")


def test_what_its_root_may_do_there(net: Engine, lab: Lab, start: Up) -> None:
    """With NET_ADMIN it is master of its own network, and of nobody else's."""
    host = lab.links(), lab.rules()
    box = start("--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_unprivileged_port_start=0", "--sysctl", "net.ipv4.ping_group_range=0 100")
    assert net.docker("exec", box, "ip", "address", "add", "10.63.0.1/32", "dev", "eth0").returncode == 0
    assert "10.63.0.1/32" in interfaces(net, box)["eth0"]["addresses"]
    assert net.docker("exec", box, "cat", "/proc/sys/net/ipv4/ping_group_range").stdout.split() == ["0", "100"]
    net.rm(box)
    wait_until(lambda: (lab.links(), lab.rules()) == host, "the host as it was")
    plain = start()
    assert net.docker("exec", plain, "ip", "address", "add", "10.63.0.1/32", "dev", "eth0", code=None).returncode != 0
    assert net.docker("exec", plain, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward", code=None).returncode != 0


def test_other_modes(net: Engine, kind: str, lab: Lab, start: Up) -> None:
    start(command=HTTP)
    none = start("--network", "none")
    assert interfaces(net, none) == {}
    if kind == "userns":
        assert "--userns=host switches them off" in net.docker("run", "--rm", "--network", "host", "bb", "true", code=125).stderr
        apart = start("--userns", "host", "-p", "18540:80", command=HTTP)
        assert namespace(net.pid(apart), "user") == namespace("self", "user")
        wait_until(lambda: lab.fetch("client", f"http://{HOST}:18540/") == "hello\n", "one without a user namespace beside the others")
        refused = net.docker("run", "--rm", "--network", f"container:{apart}", "bb", "true", code=125).stderr
        assert "it has no user namespace; run both with --userns=host" in refused
    else:
        host = start("--network", "host")
        assert net.process
        assert namespace(net.pid(host), "net") == namespace(net.process.pid, "net")
        assert "to-client" in net.docker("exec", host, "ip", "link").stdout


def test_another_containers_network(net: Engine, kind: str, lab: Lab, start: Up) -> None:
    web = start("-p", "18541:80")
    shares = start("--network", f"container:{web}", command=HTTP)
    assert namespace(net.pid(shares), "net") == namespace(net.pid(web), "net")
    assert namespace(net.pid(shares), "user") == namespace(net.pid(web), "user")
    assert net.docker("exec", shares, "cat", "/etc/hosts").stdout == net.docker("exec", web, "cat", "/etc/hosts").stdout
    wait_until(lambda: gets(net, web, "http://127.0.0.1/"), "the server of the other one")
    assert lab.fetch("client", f"http://{HOST}:18541/") == "hello\n"
    net.docker("exec", shares, "touch", "/made")
    with open(f"/proc/{net.pid(shares)}/root/made") as file:
        assert os.fstat(file.fileno()).st_uid == (_FIRST_ID if kind == "userns" else 0)
    net.docker("restart", "-t", "0", web)
    net.docker("restart", "-t", "0", shares)
    assert namespace(net.pid(shares), "net") == namespace(net.pid(web), "net")
    shared = "net", "pid", "ipc"
    inner = start(*(word for what in shared for word in (f"--{what}", f"container:{web}")))
    assert [namespace(net.pid(inner), what) for what in shared] == [namespace(net.pid(web), what) for what in shared]
    net.docker("exec", web, "touch", "/dev/shm/seen")
    assert net.docker("exec", inner, "ls", "/dev/shm").stdout == "seen\n"
    if kind == "userns":
        refused = net.docker("run", "--rm", "--pid", f"container:{web}", "bb", "true", code=125).stderr
        assert f"add --network container:{web}" in refused


def test_a_start_that_fails_leaves_nothing(net: Engine, lab: Lab) -> None:
    before = lab.links(), lab.rules()
    done = net.docker("run", "--rm", "-p", "18550:80", "bb", "/no/such/program", code=None)
    assert done.returncode in (127, 1), done
    wait_until(lambda: (lab.links(), lab.rules()) == before or ("18550" not in lab.rules() and lab.links() == before[0]), "what it had")
    assert not lab.at("host", "python3", "-c", "import socket; socket.create_server(('', 18550))", check=False).returncode


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_other_runtimes_in_user_namespaces(net: Engine, kind: str, lab: Lab, start: Up, runtime: str) -> None:
    if kind != "userns" or not shutil.which(runtime):
        pytest.skip(f"needs user namespaces and Debian's {runtime}")
    web = start("--runtime", runtime, "-p", "18560:80", command=HTTP)
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18560/") == "hello\n", "the server")
    assert owner_of(net, web) == namespace(net.pid(web), "user") != namespace("self", "user")
    shares = start("--runtime", runtime, "--network", f"container:{web}")
    assert gets(net, shares, "http://127.0.0.1/")
    assert namespace(net.pid(shares), "user") == namespace(net.pid(web), "user")
    found = os.stat(f"{net.data}/containers/{web}")
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, _FIRST_ID, 0o710), "open to nobody but them"
