"""Drivers of networks and their options, by Docker's command line on berth. Seen with ip, curl, ss and nft from hosts around."""

import ipaddress
import json
from collections.abc import Callable, Iterator

import netlab
import pytest
from harness import Engine, wait_until
from netlab import HTTP, Lab

pytestmark = pytest.mark.root

Up = Callable[..., str]
BRIDGE = "com.docker.network.bridge"


@pytest.fixture
def start(net: Engine, network: Up) -> Iterator[Up]:
    """After `network`, so that containers go first."""
    with netlab.containers(net) as run:
        yield run


def in_network(net: Engine, identity: str, name: str) -> dict:
    return dict(netlab.settings(net, identity)["Networks"][name])


def leaves_with(net: Engine, lab: Lab, identity: str) -> str:
    """The address that a host far away sees."""
    with lab.running("far", "python3", "-u", "-c", netlab.SAY_PEER) as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        return net.docker("exec", identity, "nc", "-w", "3", netlab.FAR, "7000", code=None).stdout.strip()


def addresses_of(lab: Lab, link: str) -> list[str]:
    """IPv4, of one of the host's interfaces."""
    found = json.loads(lab.at("host", "ip", "-4", "-j", "address", "show", link).stdout)
    return [entry["local"] for each in found for entry in each.get("addr_info", ())]


# -- bridges ------------------------------------------------------------------------------------------


def test_the_bridge_itself(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("named", "--subnet", "10.65.0.0/24", "-o", f"{BRIDGE}.name=br-named", "-o", "com.docker.network.driver.mtu=1400",
            "-o", "com.docker.network.container_iface_prefix=lan")  # fmt: skip
    found = netlab.interfaces(net, start("--network", "named"))
    bridge = json.loads(lab.at("host", "ip", "-d", "-j", "link", "show", "br-named").stdout)[0]
    assert bridge["linkinfo"]["info_kind"] == "bridge"
    assert addresses_of(lab, "br-named") == ["10.65.0.1"]
    assert list(found) == ["lan0"]
    assert (found["lan0"]["mtu"], bridge["mtu"]) == (1400, 1400)


def test_no_talk_between_containers(net: Engine, network: Up, start: Up) -> None:
    network("quiet", "-o", f"{BRIDGE}.enable_icc=false")
    one, other = start("--network", "quiet"), start("--network", "quiet", "--name", "quiet-web", command=HTTP)
    wait_until(lambda: netlab.gets(net, other, "http://127.0.0.1/"), "the server")
    assert not netlab.gets(net, one, "http://quiet-web/")


def test_what_packets_leave_with(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("plain", "--subnet", "10.66.0.0/24", "-o", f"{BRIDGE}.enable_ip_masquerade=false")
    network("from-elsewhere", "-o", f"com.docker.network.host_ipv4={netlab.HOST}")
    plain, other = start("--network", "plain"), start("--network", "from-elsewhere")
    assert leaves_with(net, lab, plain) == in_network(net, plain, "plain")["IPAddress"]
    assert leaves_with(net, lab, other) == netlab.HOST


def test_where_ports_are_published(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("local-ports", "-o", f"{BRIDGE}.host_binding_ipv4=127.0.0.1")
    one = start("--network", "local-ports", "-p", "18050:80", "-p", f"{netlab.HOST}:18051:80", command=HTTP)
    assert net.docker("port", one, "80").stdout.split() == ["127.0.0.1:18050", f"{netlab.HOST}:18051"]
    wait_until(lambda: lab.fetch("host", "http://127.0.0.1:18050/") == "hello\n", "the server")
    assert lab.fetch("client", f"http://{netlab.HOST}:18050/", timeout_s=1) == ""
    assert lab.fetch("client", f"http://{netlab.HOST}:18051/") == "hello\n"


# -- gateway modes ------------------------------------------------------------------------------------


def routed(*versions: int) -> list[str]:
    return [word for version in versions for word in ("-o", f"{BRIDGE}.gateway_mode_ipv{version}=routed")]


def test_routed(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    """Published ports at the container's own address, nothing else, and nothing is translated."""
    network("routed", "--ipv6", "--subnet", "10.67.0.0/24", "--subnet", "2001:db8:67::/64", *routed(4, 6))
    serve = ("sh", "-c", "mkdir /w; echo hello >/w/index.html; httpd -p 81 -h /w; exec httpd -f -p 80 -h /w")
    one = start("--network", "routed", "-p", "18060:80", "-p", "127.0.0.1:18061:81", command=serve)
    found = in_network(net, one, "routed")
    own, own6 = found["IPAddress"], found["GlobalIPv6Address"]
    wait_until(lambda: lab.fetch("host", f"http://{own}/") == "hello\n", "the server")
    assert lab.fetch("client", f"http://{own}/") == "hello\n"
    assert lab.fetch("client", f"http://[{own6}]/", "-g") == "hello\n"
    assert lab.fetch("client", f"http://{own}:81/", timeout_s=1) == ""
    assert lab.fetch("host", f"http://{own}:81/") == "hello\n"
    assert lab.fetch("client", f"http://{netlab.HOST}:18060/", timeout_s=1) == ""
    assert netlab.settings(net, one)["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "::", "HostPort": ""}], "81/tcp": None}
    assert net.docker("ps", "--format", "{{.Ports}}", "--filter", f"id={one}").stdout.strip() == "80-81/tcp"
    assert netlab.gets(net, start(), f"http://{own}/")  # from another network as from any other host
    assert leaves_with(net, lab, one) == own
    net.kill()
    net.start()
    assert lab.fetch("client", f"http://{own}/") == "hello\n"
    assert lab.fetch("client", f"http://{own}:81/", timeout_s=1) == ""
    net.docker("stop", "-t", "0", one)
    wait_until(lambda: own not in lab.rules(), "what was open")


def test_routed_beside_the_way_out(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    """A container that is led out by another network is reached by both."""
    network("side", "--subnet", "10.68.0.0/24", *routed(4))
    one = start("-p", "18062:80", command=HTTP)
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18062/") == "hello\n", "the server")
    before = netlab.settings(net, one)["Ports"]["80/tcp"]
    net.docker("network", "connect", "side", one)
    own = in_network(net, one, "side")["IPAddress"]
    assert f"tcp . {own} . 80" in lab.rules()
    assert lab.fetch("client", f"http://{netlab.HOST}:18062/") == "hello\n"
    assert {"HostIp": "0.0.0.0", "HostPort": ""} in netlab.settings(net, one)["Ports"]["80/tcp"]
    net.docker("network", "disconnect", "side", one)
    assert own not in lab.rules()
    assert lab.fetch("client", f"http://{netlab.HOST}:18062/") == "hello\n"
    assert netlab.settings(net, one)["Ports"]["80/tcp"] == before


def test_routed_in_one_family(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("mixed", "--ipv6", "--subnet", "2001:db8:68::/64", *routed(6))
    one = start("--network", "mixed", "-p", "18064:80", command=HTTP)
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18064/") == "hello\n", "the server")
    assert lab.fetch("client", f"http://[{in_network(net, one, 'mixed')['GlobalIPv6Address']}]/", "-g") == "hello\n"
    assert netlab.settings(net, one)["Ports"]["80/tcp"] == [{"HostIp": "::", "HostPort": ""}, {"HostIp": "0.0.0.0", "HostPort": "18064"}]


def test_nat_unprotected(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("unprotected", "--subnet", "10.69.0.0/24", "-o", f"{BRIDGE}.gateway_mode_ipv4=nat-unprotected")
    one = start("--network", "unprotected", "-p", "18063:80", command=HTTP)
    own = in_network(net, one, "unprotected")["IPAddress"]
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18063/") == "hello\n", "the server")
    assert lab.fetch("client", f"http://{own}/") == "hello\n"
    assert leaves_with(net, lab, one) == netlab.HOST_FAR


def test_isolated(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    """Not even the host is in it."""
    refused = net.docker("network", "create", "-o", f"{BRIDGE}.gateway_mode_ipv4=isolated", "alone", code=1)
    assert "gateway mode 'isolated' can only be used for an internal network" in refused.stderr
    identity = network("alone", "--internal", "--subnet", "10.70.0.0/24", "-o", f"{BRIDGE}.gateway_mode_ipv4=isolated")
    one, other = start("--network", "alone"), start("--network", "alone", "--name", "alone-web", command=HTTP)
    assert addresses_of(lab, f"br-{identity[:12]}") == []
    assert in_network(net, one, "alone")["IPAddress"] == "10.70.0.1"
    wait_until(lambda: netlab.gets(net, one, "http://alone-web/"), "the server")
    assert lab.fetch("host", f"http://{in_network(net, other, 'alone')['IPAddress']}/", timeout_s=1) == ""


def test_somebody_elses_gateway(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    identity = network("inhibited", "--subnet", "10.71.0.0/24", "--gateway", "10.71.0.254", "-o", f"{BRIDGE}.inhibit_ipv4=true")
    one = start("--network", "inhibited")
    assert addresses_of(lab, f"br-{identity[:12]}") == []
    assert netlab.routes(net, one)["default"] == "10.71.0.254"


# -- addresses and configurations ---------------------------------------------------------------------


def test_subnets(net: Engine, network: Up, start: Up) -> None:
    network("pool", "--subnet", "10.72.0.0/16", "--ip-range", "10.72.5.0/24", "--gateway", "10.72.0.1", "--aux-address", "a=10.72.5.0", "--aux-address", "b=10.72.5.1")
    assert in_network(net, start("--network", "pool"), "pool")["IPAddress"] == "10.72.5.2"
    network("ula", "--ipv6")
    assert ipaddress.ip_address(in_network(net, start("--network", "ula"), "ula")["GlobalIPv6Address"]) in ipaddress.ip_network("fd00::/8")
    network("only6", "--ipv4=false", "--ipv6")
    one, other = start("--network", "only6"), start("--network", "only6", "--name", "only6-web", command=HTTP)
    assert in_network(net, other, "only6")["IPAddress"] == ""
    assert not [text for text in netlab.interfaces(net, one)["eth0"]["addresses"] if "." in text]
    wait_until(lambda: netlab.gets(net, one, "http://only6-web/"), "the server")
    assert "ipv4 pool is empty" in net.docker("network", "create", "--ipam-driver", "null", "nothing", code=1).stderr


def test_configurations(net: Engine, network: Up, start: Up) -> None:
    network("conf", "--config-only", "--subnet", "10.73.0.0/24", "-o", "com.docker.network.driver.mtu=1300")
    net.docker("network", "create", "--config-from", "conf", "of-conf")
    try:
        one = start("--network", "of-conf")
        eth = netlab.interfaces(net, one)["eth0"]
        assert (eth["mtu"], eth["addresses"][0]) == (1300, "10.73.0.2/24")
        assert "is in use by network of-conf" in net.docker("network", "rm", "conf", code=1).stderr
        assert net.docker("run", "--rm", "--network", "conf", "bb", "true", code=None).returncode != 0
        net.rm(one)
    finally:
        net.docker("network", "rm", "of-conf", code=None)


# -- macvlan and ipvlan -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "reach"), [("bridge", True), ("private", False), ("vepa", False)])
def test_macvlan(net: Engine, lab: Lab, network: Up, start: Up, mode: str, reach: bool) -> None:
    """Containers beside the host on its own network: other hosts see them, and in some modes they each other."""
    network("lan", "-d", "macvlan", "--subnet", "192.0.2.0/24", "--gateway", netlab.CLIENT, "--ip-range", "192.0.2.128/25", "-o", "parent=to-client", "-o", f"macvlan_mode={mode}")
    one, other = start("--network", "lan"), start("--network", "lan", command=HTTP)
    found = netlab.interfaces(net, one)["eth0"]
    assert (found["linkinfo"]["info_kind"], found["linkinfo"]["info_data"]["mode"]) == ("macvlan", mode)
    own = in_network(net, other, "lan")["IPAddress"]
    wait_until(lambda: lab.fetch("client", f"http://{own}/") == "hello\n", "the server")
    assert netlab.gets(net, one, f"http://{own}/") == reach
    assert netlab.routes(net, one)["default"] == netlab.CLIENT
    net.rm(one, other)
    assert "to-client" in lab.links()


def test_macvlan_passthru(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    lab.at("host", "ip", "link", "add", "pass0", "up", "type", "veth", "peer", "name", "pass1")
    try:
        network("pass", "-d", "macvlan", "--subnet", "10.74.0.0/24", "-o", "parent=pass0", "-o", "macvlan_mode=passthru")
        one = start("--network", "pass")
        assert netlab.interfaces(net, one)["eth0"]["linkinfo"]["info_data"]["mode"] == "passthru"
        assert "pass0 is in use: passthru gives it to one container alone" in net.docker("run", "--rm", "--network", "pass", "bb", "true", code=125).stderr
        net.docker("restart", "-t", "0", one)
        net.rm(one)
        assert net.docker("run", "--rm", "--network", "pass", "bb", "true").returncode == 0
    finally:
        lab.at("host", "ip", "link", "delete", "pass0")


def test_a_vlan(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    made = lab.at("client", "ip", "link", "add", "link", "to-host", "name", "to-host.50", "type", "vlan", "id", "50", check=False)
    if made.returncode:
        refused = net.docker("network", "create", "-d", "macvlan", "--subnet", "10.75.0.0/24", "-o", "parent=to-client.50", "tagged", code=1)
        assert "this kernel lacks it" in refused.stderr
        assert "tagged" not in net.docker("network", "ls").stdout
        pytest.skip("this kernel has no VLANs")
    try:
        lab.at("client", "ip", "address", "add", "10.75.0.1/24", "dev", "to-host.50")
        lab.at("client", "ip", "link", "set", "to-host.50", "up")
        network("tagged", "-d", "macvlan", "--subnet", "10.75.0.0/24", "--gateway", "10.75.0.1", "-o", "parent=to-client.50")
        one = start("--network", "tagged")
        assert net.docker("exec", one, "ping", "-c", "1", "-W", "3", "10.75.0.1").returncode == 0
        assert "to-client.50" in lab.links()
        net.rm(one)
        net.docker("network", "rm", "tagged")
        assert "to-client.50" not in lab.links()
    finally:
        lab.at("client", "ip", "link", "delete", "to-host.50")


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan(net: Engine, lab: Lab, network: Up, start: Up, mode: str) -> None:
    network("ipv", "-d", "ipvlan", "--subnet", "10.76.0.0/24", "-o", "parent=to-client", "-o", f"ipvlan_mode={mode}")
    tried = lab.at("host", "ip", "link", "add", "probe0", "link", "to-client", "type", "ipvlan", "mode", mode, check=False)
    if tried.returncode:
        assert "this kernel lacks it" in net.docker("run", "--rm", "--network", "ipv", "bb", "true", code=125).stderr
        pytest.skip(f"this kernel has no ipvlan of mode {mode}")
    lab.at("host", "ip", "link", "delete", "probe0")
    lab.at("client", "ip", "route", "replace", "10.76.0.0/24", "dev", "to-host")
    one, other = start("--network", "ipv"), start("--network", "ipv", command=HTTP)
    found = netlab.interfaces(net, one)["eth0"]
    assert (found["linkinfo"]["info_kind"], found["linkinfo"]["info_data"]["mode"]) == ("ipvlan", mode)
    shown = in_network(net, other, "ipv")
    assert shown["MacAddress"] == ""
    assert netlab.routes(net, one)["default"] == ("10.76.0.1" if mode == "l2" else "eth0")
    wait_until(lambda: netlab.gets(net, one, f"http://{shown['IPAddress']}/"), "the server")
    assert "do not support custom mac address" in net.docker("run", "--rm", "--network", "ipv", "--mac-address", "02:42:0a:4c:00:09", "bb", "true", code=125).stderr
