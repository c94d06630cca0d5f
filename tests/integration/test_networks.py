"""Containers in networks: they reach each other and the world, are reached, and leave nothing behind. Seen with ip, nft, curl and dig."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator

import netlab
import pytest
from harness import Engine, wait_until
from netlab import Lab

pytestmark = pytest.mark.root

Up = Callable[..., str]


@pytest.fixture
def start(net: Engine) -> Iterator[Up]:
    """Starts a container of `bb`; it is removed after the test."""
    started: list[str] = []

    def run(*options: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
        started.append(net.docker("run", "-d", *options, "bb", *command).stdout.strip())
        net.seen_ids.add(started[-1])
        return started[-1]

    yield run
    net.rm(*started)


@pytest.fixture
def network(net: Engine) -> Iterator[Callable[..., str]]:
    """Makes networks; they are removed after the test."""
    made: list[str] = []

    def create(name: str, *options: str) -> str:
        made.append(name)
        return net.docker("network", "create", *options, name).stdout.strip()

    yield create
    for name in made:
        net.docker("network", "rm", name, code=None)


def inspect(net: Engine, identity: str) -> dict:
    return dict(json.loads(net.docker("inspect", identity).stdout)[0])


def address(net: Engine, identity: str, name: str = "bridge") -> str:
    return str(inspect(net, identity)["NetworkSettings"]["Networks"][name]["IPAddress"])


HTTP = ("sh", "-c", "mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 80 -h /w")


# -- the default bridge -------------------------------------------------------------------------------


def test_has_an_address_and_a_way_out(net: Engine, lab: Lab, start: Up) -> None:
    one = start()
    found = json.loads(net.docker("exec", one, "ip", "address").stdout and lab.at("host", "nsenter", "-n", "-t", str(net.pid(one)), "ip", "-j", "address").stdout)
    eth = next(link for link in found if link["ifname"] == "eth0")
    assert eth["operstate"] == "UP"
    v4 = next(a for a in eth["addr_info"] if a["family"] == "inet")
    shown = inspect(net, one)["NetworkSettings"]
    assert (v4["local"], v4["prefixlen"]) == (shown["IPAddress"], shown["IPPrefixLen"]) == (shown["Networks"]["bridge"]["IPAddress"], 16)
    assert eth["address"] == shown["MacAddress"]
    assert net.docker("exec", one, "ping", "-c", "1", "-W", "2", netlab.FAR).returncode == 0
    bridge = inspect_network(net, "bridge")
    assert bridge["Containers"][one]["IPv4Address"] == f"{v4['local']}/16"


def inspect_network(net: Engine, name: str) -> dict:
    return dict(json.loads(net.docker("network", "inspect", name).stdout)[0])


def test_what_leaves_is_masqueraded(net: Engine, lab: Lab, start: Up) -> None:
    with lab.running("far", "python3", "-u", "-c", _SAY_PEER) as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        assert net.docker("exec", start(), "nc", "-w", "3", netlab.FAR, "7000").stdout.strip() == netlab.HOST_FAR


_SAY_PEER = """
import socket
server = socket.create_server(("", 7000))
print("ready")
while True:
    connection, peer = server.accept()
    connection.sendall((peer[0] + "\\n").encode())
    connection.close()
"""


def test_containers_reach_each_other(net: Engine, start: Up) -> None:
    one, other = start(), start(command=HTTP)
    wait_until(lambda: net.docker("exec", one, "wget", "-qO-", f"http://{address(net, other)}/", code=None).stdout == "hello\n", "the server")


def test_everything_goes_with_the_container(net: Engine, lab: Lab, start: Up) -> None:
    before = {link for link in lab.links() if link.startswith("veth")}
    one = start("-p", "18081:80")
    assert len({link for link in lab.links() if link.startswith("veth")}) == len(before) + 1
    assert "18081" in lab.rules()
    net.docker("rm", "-f", one)
    wait_until(lambda: {link for link in lab.links() if link.startswith("veth")} == before, "the veth pair")
    wait_until(lambda: "18081" not in lab.rules(), "the rule")
    wait_until(lambda: "18081" not in lab.at("host", "ss", "-Htan").stdout, "the port")


def test_an_address_is_not_given_again_at_once(net: Engine, start: Up) -> None:
    first = start()
    old = address(net, first)
    net.docker("rm", "-f", first)
    assert address(net, start()) != old


# -- published ports ----------------------------------------------------------------------------------


def test_a_published_port_is_reached_from_everywhere(net: Engine, lab: Lab, start: Up) -> None:
    start("-p", "18080:80", "--name", "web", command=HTTP)
    wait_until(lambda: lab.fetch("host", f"http://{netlab.HOST}:18080/") == "hello\n", "the server")
    assert lab.fetch("host", "http://127.0.0.1:18080/") == "hello\n"
    assert lab.fetch("client", f"http://{netlab.HOST}:18080/") == "hello\n"
    assert lab.fetch("far", f"http://{netlab.HOST_FAR}:18080/") == "hello\n"
    other = start()
    assert net.docker("exec", other, "wget", "-qO-", f"http://{netlab.HOST}:18080/").stdout == "hello\n"
    assert net.docker("exec", "web", "wget", "-qO-", f"http://{netlab.HOST}:18080/").stdout == "hello\n"  # hairpin
    assert net.docker("port", "web").stdout.splitlines()[0] == "80/tcp -> 0.0.0.0:18080"
    assert "0.0.0.0:18080->80/tcp" in net.docker("ps", "--filter", "name=web").stdout
    assert lab.fetch("client", f"http://{address(net, 'web')}/") == "", "what is not published is not reached from outside"


def test_the_true_source_is_seen(net: Engine, lab: Lab, start: Up) -> None:
    one = start("-p", "18082:80", command=("sh", "-c", "sleep 1000 | nc -l -p 80"))
    wait_until(lambda: ":80 " in net.docker("exec", one, "netstat", "-tln").stdout, "the server")
    with lab.running("client", "python3", "-c", f"import socket; socket.create_connection(('{netlab.HOST}', 18082)).recv(1)"):
        wait_until(lambda: f"{netlab.CLIENT}:" in net.docker("exec", one, "netstat", "-tn").stdout, "the client's address")


def test_the_hosts_firewall_decides(net: Engine, lab: Lab, start: Up) -> None:
    """moby issue 22054: a published port must not open what the host's firewall closed."""
    start("-p", "18083:80", command=HTTP)
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18083/") == "hello\n", "the server")
    lab.at("host", "nft", "add table inet fw; add chain inet fw input { type filter hook input priority 0; policy drop; }; "
           "add rule inet fw input ct state established,related accept; add rule inet fw input iifname lo accept")  # fmt: skip
    try:
        assert lab.fetch("client", f"http://{netlab.HOST}:18083/") == ""
        assert lab.fetch("host", "http://127.0.0.1:18083/") == "hello\n"
        lab.at("host", "nft", "add rule inet fw input tcp dport 18083 accept")
        assert lab.fetch("client", f"http://{netlab.HOST}:18083/") == "hello\n"
    finally:
        lab.at("host", "nft", "delete table inet fw")


def test_info_names_the_rule_that_decides(net: Engine, lab: Lab, start: Up) -> None:
    start("-p", "18091:80")
    assert "no firewall has rules for INPUT" in json.dumps(json.loads(net.docker("info", "-f", "json").stdout)["FirewallBackend"])
    lab.at("host", "nft", "add table inet fw; add chain inet fw input { type filter hook input priority 0; policy drop; }; "
           "add chain inet fw forward { type filter hook forward priority 0; policy drop; }")  # fmt: skip
    try:
        found = json.loads(net.docker("info", "-f", "json").stdout)
        assert "table inet fw, chain input" in json.dumps(found["FirewallBackend"])
        assert any("forward" in line and "nft insert rule inet fw forward" in line for line in found["Warnings"])
    finally:
        lab.at("host", "nft", "delete table inet fw")


def test_a_port_in_use_names_the_process(net: Engine, lab: Lab) -> None:
    with lab.running("host", "python3", "-u", "-c", "import socket, time; s = socket.create_server(('', 18084)); print('ready'); time.sleep(100)") as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        refused = net.docker("run", "--rm", "-p", "18084:80", "bb", "true", code=125)
        assert ("18084" in refused.stderr and "address already in use" in refused.stderr) or "port is already allocated" in refused.stderr
        assert f"python3 (pid {server.pid})" in refused.stderr
    assert net.docker("run", "--rm", "-p", "18084:80", "bb", "true").returncode == 0


def test_ports_of_ones_own_choice(net: Engine, lab: Lab, start: Up) -> None:
    one = start("-P", "--expose", "80", "-p", "80", command=HTTP)
    ports = inspect(net, one)["NetworkSettings"]["Ports"]["80/tcp"]
    port = ports[0]["HostPort"]
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:{port}/") == "hello\n", "the server")


_ECHO_UDP = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("ready")
while True:
    data, peer = server.recvfrom(1000)
    server.sendto(data + b" from " + peer[0].encode(), peer)
"""
_ASK_UDP = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(3)
client.sendto(b"hello", (sys.argv[1], 18085))
print(client.recv(1000).decode())
"""


def test_udp(net: Engine, lab: Lab, start: Up) -> None:
    one = start("-p", "18085:53/udp")
    command = ("nsenter", "-n", "-t", str(net.pid(one)), "python3", "-u", "-c", _ECHO_UDP)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == "ready\n"
            asked = lab.at("client", "python3", "-c", _ASK_UDP, netlab.HOST)
            assert asked.stdout == f"hello from {netlab.CLIENT}\n"
            assert lab.at("host", "python3", "-c", _ASK_UDP, "127.0.0.1").stdout.startswith("hello from ")
        finally:
            server.kill()


# -- networks of one's own ----------------------------------------------------------------------------


def test_names(net: Engine, network: Callable[..., str], start: Up) -> None:
    network("names")
    one = start("--network", "names", "--name", "alpha", "--network-alias", "first")
    start("--network", "names", "--name", "beta", command=HTTP)
    assert "nameserver 127.0.0.11" in net.docker("exec", one, "cat", "/etc/resolv.conf").stdout
    wait_until(lambda: net.docker("exec", one, "wget", "-qO-", "http://beta/", code=None).stdout == "hello\n", "the server, by its name")
    assert address(net, "alpha", "names") in net.docker("exec", "beta", "nslookup", "first").stdout
    net.docker("rename", "beta", "gamma")
    assert net.docker("exec", one, "wget", "-qO-", "http://gamma/").stdout == "hello\n"


def test_connect_and_disconnect_while_it_runs(net: Engine, network: Callable[..., str], start: Up) -> None:
    network("later")
    one, web = start(), start("--network", "later", "--name", "later-web", command=HTTP)
    assert net.docker("exec", one, "timeout", "3", "wget", "-qO-", f"http://{address(net, web, 'later')}/", code=None).stdout == ""
    net.docker("network", "connect", "--alias", "joined", "later", one)
    wait_until(lambda: net.docker("exec", one, "timeout", "3", "wget", "-qO-", "http://later-web/", code=None).stdout == "hello\n", "the server")
    assert "eth1" in net.docker("exec", one, "ip", "link").stdout
    net.docker("network", "disconnect", "later", one)
    assert "eth1" not in net.docker("exec", one, "ip", "link").stdout
    assert list(inspect(net, one)["NetworkSettings"]["Networks"]) == ["bridge"]


def test_networks_are_apart(net: Engine, network: Callable[..., str], start: Up) -> None:
    network("apart1")
    network("apart2")
    one, other = start("--network", "apart1"), start("--network", "apart2", command=HTTP)
    there = address(net, other, "apart2")
    wait_until(lambda: net.docker("exec", other, "wget", "-qO-", "http://127.0.0.1/", code=None).stdout == "hello\n", "the server")
    assert net.docker("exec", one, "timeout", "3", "wget", "-qO-", f"http://{there}/", code=None).stdout == ""


def test_internal(net: Engine, network: Callable[..., str], start: Up) -> None:
    network("inside", "--internal")
    one = start("--network", "inside")
    start("--network", "inside", "--name", "inside-web", command=HTTP)
    wait_until(lambda: net.docker("exec", one, "timeout", "3", "wget", "-qO-", "http://inside-web/", code=None).stdout == "hello\n", "the server")
    assert net.docker("exec", one, "ping", "-c", "1", "-W", "1", netlab.FAR, code=None).returncode != 0
    assert "default" not in net.docker("exec", one, "ip", "route").stdout


def test_a_static_address(net: Engine, network: Callable[..., str], start: Up) -> None:
    network("fixed", "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.254")
    one = start("--network", "fixed", "--ip", "10.77.0.77", "--mac-address", "02:42:0a:4d:00:99")
    assert address(net, one, "fixed") == "10.77.0.77"
    assert "02:42:0a:4d:00:99" in net.docker("exec", one, "ip", "link", "show", "eth0").stdout
    assert "default via 10.77.0.254" in net.docker("exec", one, "ip", "route").stdout
    refused = net.docker("run", "--rm", "--network", "fixed", "--ip", "10.77.0.77", "bb", "true", code=125)
    assert "Address already in use" in refused.stderr


def test_ipv6(net: Engine, lab: Lab, network: Callable[..., str], start: Up) -> None:
    network("six", "--ipv6", "--subnet", "2001:db8:77::/64")
    one = start("--network", "six", "--name", "six-web", "-p", "18086:80", command=HTTP)
    found = inspect(net, one)["NetworkSettings"]["Networks"]["six"]
    assert found["GlobalIPv6Address"].startswith("2001:db8:77::")
    other = start("--network", "six")
    wait_until(lambda: net.docker("exec", other, "wget", "-qO-", f"http://[{found['GlobalIPv6Address']}]/", code=None).stdout == "hello\n", "the server")
    assert lab.fetch("client", f"http://[{netlab.HOST6}]:18086/") == "hello\n"


def test_an_address_of_ones_choice_is_free_as_soon_as_its_container_has_ended(net: Engine, network: Callable[..., str], start: Up) -> None:
    """Compose stops a container and starts another one with the same address and port in the same moment."""
    network("again", "--subnet", "10.79.0.0/24")
    options = ("--network", "again", "--ip", "10.79.0.79", "-p", "18091:80")
    for _ in range(5):
        one = start(*options)
        net.docker("stop", "-t", "0", one)


# -- bad input ----------------------------------------------------------------------------------------


def test_refusals_leave_the_state_as_it_was(net: Engine, lab: Lab, network: Callable[..., str]) -> None:
    network("mine", "--subnet", "10.78.0.0/24")
    links, rules = lab.links(), lab.rules()
    for words, text in (
        (("create", "--subnet", "10.78.0.128/25", "other"), "Pool overlaps with other one on this address space"),
        (("create", "mine"), "network with name mine already exists"),
        (("create", "-d", "nope", "other"), 'plugin "nope" not found'),
        (("rm", "bridge"), "bridge is a pre-defined network and cannot be removed"),
        (("rm", "absent"), "network absent not found"),
        (("connect", "mine", "absent"), "No such container: absent"),
    ):  # fmt: skip
        assert text in net.docker("network", *words, code=1).stderr
    assert lab.links() == links
    assert lab.rules() == rules


def test_a_network_in_use_is_not_removed(net: Engine, network: Callable[..., str], start: Up) -> None:
    network("used")
    start("--network", "used", "--name", "user")
    assert "has active endpoints" in net.docker("network", "rm", "used", code=1).stderr
    net.docker("rm", "-f", "user")
    assert net.docker("network", "rm", "used").returncode == 0


def test_a_bridge_that_somebody_deletes_is_made_again(net: Engine, lab: Lab, network: Callable[..., str], start: Up) -> None:
    identity = network("deleted")
    lab.at("host", "ip", "link", "delete", f"br-{identity[:12]}")
    one = start("--network", "deleted")
    assert net.docker("exec", one, "ping", "-c", "1", "-W", "2", inspect(net, one)["NetworkSettings"]["Networks"]["deleted"]["Gateway"]).returncode == 0


# -- over an engine's end -----------------------------------------------------------------------------


def test_an_engine_that_is_killed_finds_everything_again(net: Engine, lab: Lab, network: Callable[..., str], start: Up) -> None:
    network("kept")
    start("--network", "kept", "--name", "kept-web", "-p", "18087:80", command=HTTP)
    one = start("--network", "kept")
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18087/") == "hello\n", "the server")
    before = address(net, "kept-web", "kept")
    net.kill()
    assert lab.fetch("client", f"http://{netlab.HOST}:18087/") == "hello\n", "rules need no engine"
    lab.at("host", "nft", "flush", "ruleset")
    net.start()
    assert lab.fetch("client", f"http://{netlab.HOST}:18087/") == "hello\n"
    assert address(net, "kept-web", "kept") == before
    assert net.docker("exec", one, "wget", "-qO-", "http://kept-web/").stdout == "hello\n"
    late = start("--network", "kept")
    assert address(net, late, "kept") not in (before, address(net, one, "kept"))
    assert net.docker("exec", late, "wget", "-qO-", "http://kept-web/").stdout == "hello\n"


def test_flushed_rules_come_back(net: Engine, lab: Lab, start: Up) -> None:
    start("-p", "18088:80", command=HTTP)
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18088/") == "hello\n", "the server")
    lab.at("host", "nft", "flush", "ruleset")
    wait_until(lambda: "18088" in lab.rules(), "the rules")
    assert lab.fetch("client", f"http://{netlab.HOST}:18088/") == "hello\n"


def test_restart_keeps_the_port(net: Engine, lab: Lab, start: Up) -> None:
    one = start("-p", "18089:80", command=HTTP)
    net.docker("restart", "-t", "0", one)
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18089/") == "hello\n", "the server")


def test_shares_another_containers_network(net: Engine, start: Up) -> None:
    one = start(command=HTTP)
    other = start("--network", f"container:{one}")
    wait_until(lambda: net.docker("exec", other, "wget", "-qO-", "http://127.0.0.1/", code=None).stdout == "hello\n", "the server")
    with contextlib.suppress(ValueError):
        assert net.docker("exec", other, "cat", "/etc/hosts").stdout == net.docker("exec", one, "cat", "/etc/hosts").stdout
