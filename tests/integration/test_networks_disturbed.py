"""What others do to berth's interfaces, rules and settings while containers run, with and without an engine: mended, or said."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator

import netlab
import pytest
from harness import Engine, all_pids, children, comm, read, wait_until
from netlab import CLIENT, FAR, HOST, Lab

from berth.engine.nets.store import instance_of
from berth.network.model import Names

pytestmark = pytest.mark.root
HTTP = ("sh", "-c", "mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 80 -h /w")
PORT = 18200


@pytest.fixture(scope="module")
def net(lab: Lab, rootfs_tar: str) -> Iterator[Engine]:
    """With a network `n` of two containers: `web`, which is published, and `asks`."""
    before = lab.links(), lab.rules()
    engine = netlab.engine_in(lab, rootfs_tar)
    engine.docker("network", "create", "n")
    engine.docker("run", "-d", "--network", "n", "--name", "web", "-p", f"{PORT}:80", "bb", *HTTP)
    engine.docker("run", "-d", "--network", "n", "--name", "asks", "bb", "sleep", "1000")
    yield engine
    engine.finish()
    assert (lab.links(), lab.rules()) == before


@pytest.fixture
def names(net: Engine) -> Names:
    return Names.of(instance_of(net.exec))


@pytest.fixture(autouse=True)
def works(net: Engine, lab: Lab) -> Iterator[None]:
    """Before and after each test: the port is reached, and names mean containers that answer."""
    _works(net, lab)
    yield
    _works(net, lab)


def _works(net: Engine, lab: Lab) -> None:
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:{PORT}/", timeout_s=1) == "hello\n", "the port", 20)
    wait_until(lambda: net.docker("exec", "asks", "timeout", "2", "wget", "-qO-", "http://web/", code=None).stdout == "hello\n", "the name", 20)
    assert net.docker("exec", "asks", "ping", "-c", "1", "-W", "3", FAR).returncode == 0


def inspect(net: Engine, identity: str) -> dict:
    return dict(json.loads(net.docker("inspect", identity).stdout)[0])


def place(net: Engine, identity: str, network: str = "n") -> dict:
    return dict(inspect(net, identity)["NetworkSettings"]["Networks"][network])


def bridge(net: Engine) -> str:
    return "br-" + net.docker("network", "inspect", "-f", "{{.Id}}", "n").stdout[:12]


def outside(net: Engine, identity: str, network: str = "n") -> str:
    return f"veth{place(net, identity, network)['EndpointID'][:7]}"


def since(net: Engine, words: str) -> Callable[[], bool]:
    """Whether the engine's log has had some words since now."""
    begun = len(net.log())
    return lambda: words in net.log()[begun:]


# -- interfaces ---------------------------------------------------------------------------------------


def test_a_pair_of_interfaces_is_deleted(net: Engine, lab: Lab) -> None:
    before, said = place(net, "web"), since(net, "its interface eth0 in network n was deleted, and is there again")
    lab.at("host", "ip", "link", "delete", outside(net, "web"))
    wait_until(said, "the message")
    assert place(net, "web") == before
    assert outside(net, "web") in lab.links(), net.log()[-2000:]


def test_a_container_with_rights_over_its_network_is_left_alone(net: Engine, lab: Lab) -> None:
    """It may have deleted its interface itself, as VPN clients do."""
    net.docker("run", "-d", "--network", "n", "--name", "admin", "--cap-add", "NET_ADMIN", "bb", "sleep", "1000")
    try:
        said = since(net, "a restart, or disconnecting and connecting that network, gives it another one")
        net.docker("exec", "admin", "ip", "link", "delete", "eth0")
        wait_until(said, "the message")
        assert "eth0" not in net.docker("exec", "admin", "ip", "link").stdout
        net.docker("network", "disconnect", "n", "admin")
        net.docker("network", "connect", "n", "admin")
        assert net.docker("exec", "admin", "wget", "-qO-", "http://web/").stdout == "hello\n"
        net.docker("exec", "admin", "ip", "address", "flush", "dev", "eth0")
        net.docker("exec", "admin", "ip", "link", "set", "eth0", "down")
        net.docker("exec", "admin", "ip", "link", "set", "eth0", "name", "mine")
        net.docker("network", "disconnect", "n", "admin")
        assert outside(net, "web") in lab.links()
        net.docker("network", "connect", "n", "admin")
        net.docker("exec", "admin", "ip", "route", "delete", "default")
        net.docker("restart", "-t", "0", "admin")
        assert net.docker("exec", "admin", "wget", "-qO-", "http://web/").stdout == "hello\n"
        assert net.docker("exec", "admin", "ping", "-c", "1", "-W", "3", FAR).returncode == 0
    finally:
        net.rm("admin")


def test_a_bridge_is_deleted(net: Engine, lab: Lab) -> None:
    name = bridge(net)
    lab.at("host", "ip", "link", "delete", name)
    wait_until(lambda: name in lab.links(), "the bridge")


@pytest.mark.parametrize("what", ["down", "address", "port", "port down"])
def test_a_bridge_is_changed(net: Engine, lab: Lab, what: str) -> None:
    name, pair = bridge(net), outside(net, "web")
    words = {
        "down": ("link", "set", name, "down"), "address": ("address", "flush", "dev", name), "port": ("link", "set", pair, "nomaster"),
        "port down": ("link", "set", pair, "down"),
    }[what]  # fmt: skip
    lab.at("host", "ip", *words)


def test_somebody_deletes_it_again_and_again(net: Engine, lab: Lab) -> None:
    """The engine does not spend its days on that, and mends it in the end."""
    name = bridge(net)
    for _ in range(8):
        lab.at("host", "ip", "link", "delete", name, check=False)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: name in lab.links(), "the bridge", 0.4)
    wait_until(lambda: name in lab.links(), "the bridge", 15)


def test_the_way_to_published_ports_is_deleted(net: Engine, lab: Lab, names: Names) -> None:
    lab.at("host", "ip", "link", "delete", names.loop_out)
    wait_until(lambda: names.loop_in in lab.links(), "the way")


def test_forwarding_is_switched_off(net: Engine, lab: Lab) -> None:
    """By a `sysctl --system`, say. It comes back for containers, and for nobody else (test_firewall.py)."""
    lab.at("host", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    wait_until(lambda: lab.at("host", "sysctl", "-n", "net.ipv4.ip_forward").stdout == "1\n", "forwarding")
    assert "chain guard" in lab.rules()


# -- rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["table", "chain", "rule", "element"])
def test_rules_are_deleted(net: Engine, lab: Lab, names: Names, what: str) -> None:
    before = lab.rules()
    table = ("ip", names.table)
    if what == "table":
        lab.at("host", "nft", "delete", "table", *table)
    elif what == "chain":
        lab.at("host", "nft", "flush", "chain", *table, "published")
    elif what == "rule":
        listed = lab.at("host", "nft", "-a", "list", "chain", *table, "prerouting").stdout
        handle = next(line.split()[-1] for line in listed.splitlines() if "jump published" in line)
        lab.at("host", "nft", "delete", "rule", *table, "prerouting", "handle", handle)
    else:
        address = place(net, "web")["IPAddress"]
        lab.at("host", "nft", "delete", "element", *table, "any-ports", f"{{ tcp . {PORT} : {address} . 80 }}")
    wait_until(lambda: lab.rules() == before, "the rules")


# -- without an engine --------------------------------------------------------------------------------


def test_everything_is_deleted_while_there_is_no_engine(net: Engine, lab: Lab, names: Names) -> None:
    before, rules, links = (place(net, "web"), place(net, "asks")), lab.rules(), lab.links()
    net.kill()
    lab.at("host", "ip", "link", "delete", bridge_of(links))
    lab.at("host", "ip", "link", "delete", names.loop_out)
    lab.at("host", "ip", "link", "delete", f"veth{before[0]['EndpointID'][:7]}")
    lab.at("host", "ip", "link", "set", f"veth{before[1]['EndpointID'][:7]}", "down")
    lab.at("host", "nft", "flush", "ruleset")
    lab.at("host", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    said = since(net, "its interface eth0 in network n was deleted, and is there again")
    net.start()
    assert said()
    assert (place(net, "web"), place(net, "asks")) == before
    assert lab.links() == links
    assert names.table in rules


def bridge_of(links: set[str]) -> str:
    return next(link for link in links if link.startswith("br-"))


def test_a_port_is_taken_while_there_is_no_engine(net: Engine, lab: Lab) -> None:
    net.kill()
    said = since(net, f"port {PORT}/tcp still leads to it, but is not held")
    listen = f"import socket, time; s = socket.create_server(('', {PORT})); print('ready'); time.sleep(100)"
    with lab.running("host", "python3", "-u", "-c", listen) as taker:
        assert taker.stdout
        assert taker.stdout.readline() == "ready\n"
        net.start()
        assert said()
        assert f"python3 (pid {taker.pid})" in net.log()
        _works(net, lab)
        refused = net.docker("restart", "-t", "0", "web", code=1).stderr
        assert f"python3 (pid {taker.pid})" in refused
    net.docker("start", "web")


def test_an_overlapping_route_comes_while_there_is_no_engine(net: Engine, lab: Lab) -> None:
    """Containers that go on keep their addresses; a new network is put elsewhere."""
    net.docker("run", "-d", "--name", "default", "bb", "sleep", "1000")
    before = place(net, "default", "bridge")
    subnet = net.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "bridge").stdout.strip()
    net.kill()
    lab.at("host", "ip", "route", "add", subnet, "via", CLIENT, "metric", "500")
    try:
        net.start()
        assert place(net, "default", "bridge") == before
        assert net.docker("exec", "default", "ping", "-c", "1", "-W", "3", before["Gateway"]).returncode == 0
        assert net.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "bridge").stdout.strip() == subnet
    finally:
        lab.at("host", "ip", "route", "delete", subnet, "via", CLIENT)
        net.rm("default")


def test_rules_and_bridges_of_others_are_left_alone(net: Engine, lab: Lab) -> None:
    lab.at("host", "nft", "add table inet mine; add chain inet mine c { type filter hook forward priority 7; }; add rule inet mine c counter")
    lab.at("host", "ip", "link", "add", "br-mine", "type", "bridge")
    lab.at("host", "ip", "link", "add", "veth1234567", "type", "veth", "peer", "name", "mine")
    mine = lab.at("host", "nft", "-s", "list", "table", "inet", "mine").stdout
    try:
        net.kill()
        net.start()
        net.docker("network", "create", "more")
        net.docker("network", "rm", "more")
        assert lab.at("host", "nft", "-s", "list", "table", "inet", "mine").stdout == mine
        assert {"br-mine", "veth1234567"} <= lab.links()
    finally:
        lab.at("host", "nft", "delete", "table", "inet", "mine")
        for name in ("br-mine", "mine"):
            lab.at("host", "ip", "link", "delete", name)


# -- helpers ------------------------------------------------------------------------------------------


def helper(net: Engine, name: str) -> int:
    assert net.process
    if name == "launcher":
        return net.launcher
    if name == "berth-plumber":
        return next((pid for family in children(net.process.pid) for pid in children(family) if comm(pid) == name), 0)
    return next((pid for pid in all_pids() if comm(pid) == name and net.exec in read(f"/proc/{pid}/cmdline")), 0)


@pytest.mark.parametrize("name", ["berth-plumber", "launcher", "berth-resolver"])
def test_helpers_are_killed(net: Engine, lab: Lab, name: str) -> None:
    """Containers start all the same, at once and several at a time."""
    before = place(net, "web")
    for _ in range(2):
        pid = helper(net, name)
        assert pid
        os.kill(pid, signal.SIGKILL)
        for _ in range(4):  # more than there are spares
            assert net.docker("run", "--rm", "--network", "n", "bb", "wget", "-qO-", f"http://{before['IPAddress']}/").stdout == "hello\n"
        wait_until(lambda: helper(net, name) not in (0, pid), "another one")  # noqa: B023
    assert net.docker("run", "--rm", "--network", "n", "bb", "wget", "-qO-", "http://web/").stdout == "hello\n"
    wait_until(lambda: len([link for link in lab.links() if link.startswith("veth")]) == 2, "pairs of interfaces")
