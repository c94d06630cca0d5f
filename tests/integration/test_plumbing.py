"""Bridges, pairs of interfaces and macvlan as `ip`, `bridge` and `ping` see them, in network namespaces of the tests' own."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from nethosts import Host, connect

from berth import errors
from berth.linux import rtrequests as rt
from berth.linux.netlinksocket import Refused
from berth.network import plumbing
from berth.network.model import Attachment, Network, Subnet

pytestmark = pytest.mark.root
ID = "4f2b" * 16


def network(**changes: object) -> Network:
    values: dict = {
        "id": ID, "name": "web", "driver": "bridge", "interface": "br-web",
        "subnets": (Subnet(ip_network("10.9.0.0/24"), ip_address("10.9.0.1")),),
    }  # fmt: skip
    return Network(**{**values, **changes})


DUAL = network(subnets=(*network().subnets, Subnet(ip_network("fd00:9::/64"), ip_address("fd00:9::1"))))


def attachment(number: int, *, six: bool = False, name: str = "eth0", **changes: object) -> Attachment:
    addresses, gateways = [ip_interface(f"10.9.0.{number}/24")], [ip_address("10.9.0.1")]
    if six:
        addresses.append(ip_interface(f"fd00:9::{number:x}/64"))
        gateways.append(ip_address("fd00:9::1"))
    values: dict = {
        "name": name, "outside": f"veth{number:07x}", "mac": f"02:42:0a:09:00:{number:02x}",
        "addresses": tuple(addresses), "gateways": tuple(gateways),
    }  # fmt: skip
    return Attachment(**{**values, **changes})


@pytest.fixture
def hosts() -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(what: str = "host") -> Host:
        made.append(Host(what))
        return made[-1]

    yield make
    for host in reversed(made):
        host.close()


@pytest.fixture
def host(hosts: Callable[..., Host]) -> Host:
    return hosts()


def ensure(host: Host, wanted: Network) -> None:
    with host.inside():
        plumbing.ensure(host.route, wanted)


def attach(host: Host, container: Host, wanted: Network, where: Attachment) -> None:
    plumbing.attach(host.route, container.route, container.fd, wanted, where)


def link(host: Host, name: str) -> dict:
    return host.ip_json(f"-d link show {name}")[0]


def addresses(host: Host, name: str) -> set[str]:
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in host.ip_json(f"address show {name}")[0]["addr_info"]}


def test_a_bridge_with_its_addresses_and_settings(host: Host) -> None:
    ensure(host, network(options={"com.docker.network.driver.mtu": "1400"}))
    found = link(host, "br-web")
    assert (found["linkinfo"]["info_kind"], found["mtu"], found["address"][:5]) == ("bridge", 1400, "02:42")
    assert "UP" in found["flags"]
    assert addresses(host, "br-web") == {"10.9.0.1/24"}
    assert host.sysctl("net/ipv4/conf/br-web/route_localnet") == "1"
    assert host.sysctl("net/ipv6/conf/br-web/disable_ipv6") == "1"
    before = host.ip("address show br-web")
    ensure(host, network(options={"com.docker.network.driver.mtu": "1400"}))  # and again: nothing to do
    assert host.ip("address show br-web") == before


def test_a_bridge_with_ipv6(host: Host) -> None:
    ensure(host, DUAL)
    assert {"10.9.0.1/24", "fd00:9::1/64"} <= addresses(host, "br-web")
    assert host.sysctl("net/ipv6/conf/br-web/accept_ra") == "0"


def test_a_bridge_is_mended(host: Host) -> None:
    ensure(host, DUAL)
    host.ip("address del 10.9.0.1/24 dev br-web")
    host.ip("address add 10.77.0.1/24 dev br-web")
    host.ip("link set br-web down")
    host.sysctl("net/ipv4/conf/br-web/route_localnet", "0")
    ensure(host, DUAL)
    assert "10.77.0.1/24" not in addresses(host, "br-web")
    assert {"10.9.0.1/24", "fd00:9::1/64"} <= addresses(host, "br-web")
    assert "UP" in link(host, "br-web")["flags"]
    assert host.sysctl("net/ipv4/conf/br-web/route_localnet") == "1"


def test_a_bridge_is_removed_unless_it_is_a_persons(host: Host) -> None:
    ensure(host, network())
    plumbing.remove(host.route, network())
    plumbing.remove(host.route, network())
    host.ip("link add br-web type bridge")
    host.ip("address add 10.77.0.1/24 dev br-web")
    ensure(host, network())
    assert addresses(host, "br-web") >= {"10.9.0.1/24", "10.77.0.1/24"}
    plumbing.remove(host.route, network())
    assert link(host, "br-web")


def test_a_name_that_is_something_elses(host: Host) -> None:
    host.ip("link add br-web type veth peer name other")
    with pytest.raises(errors.Conflict, match=r"network web: the interface br-web is a veth, not a bridge; remove it"):
        ensure(host, network())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "x" * 16, "../../kernel"])
def test_a_name_that_no_interface_can_have(host: Host, name: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="is no name for an interface"):
        ensure(host, network(interface=name))


def test_two_containers_reach_each_other_and_the_host(hosts: Callable[..., Host]) -> None:
    host, one, two = hosts(), hosts("one"), hosts("two")
    ensure(host, DUAL)
    attach(host, one, DUAL, attachment(2, six=True))
    attach(host, two, DUAL, attachment(3, six=True))
    inside = link(one, "eth0")
    assert (inside["address"], inside["mtu"]) == ("02:42:0a:09:00:02", 1500)
    assert {"10.9.0.2/24", "fd00:9::2/64"} <= addresses(one, "eth0")
    assert one.ip_json("address show eth0")[0]["addr_info"][0]["broadcast"] == "10.9.0.255"
    assert one.ip_json("route show default")[0]["gateway"] == "10.9.0.1"
    assert one.ip_json("-6 route show default")[0]["gateway"] == "fd00:9::1"
    assert link(host, "veth0000002")["master"] == "br-web"
    for target in ("10.9.0.3", "fd00:9::3", "10.9.0.1", "fd00:9::1"):  # at once: no address is being checked for duplicates
        one.ping(target)
    assert "inet" not in host.ip("address show veth0000002")  # no address, no packets of the host's own
    plumbing.remove_outside(host.route, "veth0000002")
    assert [entry["ifname"] for entry in one.ip_json("link show")] == ["lo"]
    plumbing.remove_outside(host.route, "veth0000002")  # it is gone already


def test_without_ipv6_a_container_makes_itself_no_address(hosts: Callable[..., Host]) -> None:
    host, one = hosts(), hosts("one")
    ensure(host, network())
    attach(host, one, network(), attachment(2))
    assert addresses(one, "eth0") == {"10.9.0.2/24"}


def test_containers_that_must_not_reach_each_other(hosts: Callable[..., Host]) -> None:
    host, one, two = hosts(), hosts("one"), hosts("two")
    apart = network(options={"com.docker.network.bridge.enable_icc": "false"})
    ensure(host, apart)
    attach(host, one, apart, attachment(2))
    attach(host, two, apart, attachment(3))
    one.ping("10.9.0.1")
    assert "100% packet loss" in one.ping("10.9.0.3", wait_s=1, check=False)


def test_a_bridge_that_somebody_deleted(hosts: Callable[..., Host]) -> None:
    """It is made anew with the same MAC address, and containers that run are on it again."""
    host, one, two = hosts(), hosts("one"), hosts("two")
    ensure(host, network())
    attach(host, one, network(), attachment(2))
    one.ping("10.9.0.1")
    mac = link(host, "br-web")["address"]
    host.ip("link del br-web")
    with pytest.raises(errors.NotFound, match="network web: the bridge br-web is gone"):
        attach(host, two, network(), attachment(3))
    ensure(host, network())
    attach(host, two, network(), attachment(3))
    assert link(host, "br-web")["address"] == mac
    one.ping("10.9.0.3")


def test_what_fails_leaves_nothing(hosts: Callable[..., Host]) -> None:
    host, one = hosts(), hosts("one")
    ensure(host, network())
    before = (host.ip("link show"), one.ip("link show"))
    with pytest.raises(errors.SystemFailure, match=r"network web: interface eth0: add route 0.0.0.0/0 via 10.9.0.255: .*invalid"):
        attach(host, one, network(), attachment(2, gateways=(ip_address("10.9.0.255"),)))
    with pytest.raises(errors.SystemFailure, match=r"interface eth0: add veth"):
        attach(host, one, network(), attachment(2, mac="01:00:5e:00:00:01"))  # a multicast address
    assert (host.ip("link show"), one.ip("link show")) == before
    one.ip("link add eth0 type bridge")
    with pytest.raises(errors.Conflict, match=r"interface eth0: add veth veth0000002: File exists"):
        attach(host, one, network(), attachment(2))
    assert host.ip("link show") == before[0]


def test_what_a_killed_engine_left_is_replaced(hosts: Callable[..., Host]) -> None:
    host, one, two = hosts(), hosts("one"), hosts("two")
    ensure(host, network())
    attach(host, one, network(), attachment(2))
    attach(host, two, network(), attachment(2))
    two.ping("10.9.0.1")
    assert [entry["ifname"] for entry in one.ip_json("link show")] == ["lo"]


def test_another_attachment_takes_over_the_default_route(hosts: Callable[..., Host]) -> None:
    host, one = hosts(), hosts("one")
    other = Network("77" * 32, "db", "bridge", "br-db", (Subnet(ip_network("10.8.0.0/24"), ip_address("10.8.0.1")),))
    ensure(host, DUAL)
    ensure(host, other)
    attach(host, one, DUAL, attachment(2, six=True))
    second = Attachment("eth1", "vethdb", "02:42:0a:08:00:02", (ip_interface("10.8.0.2/24"),))
    attach(host, one, other, second)
    assert one.ip_json("route show default")[0]["dev"] == "eth0"
    first, leads = attachment(2, six=True, gateways=()), replace(second, gateways=(ip_address("10.8.0.1"),))
    one.ip("link add own type bridge")
    one.ip("link set own up")
    one.ip("route add default dev own metric 7")  # of the container's root
    plumbing.set_gateways(one.route, [(DUAL, first), (other, leads)])
    assert [(entry.get("gateway"), entry["dev"]) for entry in one.ip_json("route show default")] == [("10.8.0.1", "eth1"), (None, "own")]
    assert one.ip_json("-6 route show default") == []
    plumbing.set_gateways(one.route, [(DUAL, attachment(2, six=True)), (other, second)])
    assert [entry["dev"] for entry in one.ip_json("route show default")] == ["eth0", "own"]
    assert one.ip_json("-6 route show default")[0]["gateway"] == "fd00:9::1"
    plumbing.set_gateways(one.route, [(DUAL, first), (other, second)])
    assert [entry["dev"] for entry in one.ip_json("route show default")] == ["own"]


def test_macvlan_on_a_parent(hosts: Callable[..., Host]) -> None:
    """Reached by another host on the same cable, under its own address."""
    host, far, one = hosts(), hosts("far"), hosts("one")
    connect(host, far, "10.9.0")
    shared = network(driver="macvlan", interface="eth0")
    ensure(host, shared)
    attach(host, one, shared, attachment(9, outside="", gateways=(ip_address("10.9.0.2"),)))
    found = link(one, "eth0")
    assert (found["linkinfo"]["info_data"]["mode"], found["address"]) == ("bridge", "02:42:0a:09:00:09")
    far.ping("10.9.0.9")
    plumbing.remove_outside(host.route, "veth0000009")  # it has none
    plumbing.remove_inside(one.route, "eth0")
    assert [entry["ifname"] for entry in one.ip_json("link show")] == ["lo"]
    plumbing.remove(host.route, shared)
    assert link(host, "eth0")  # it was there before


def test_macvlan_on_what_is_not_there(host: Host) -> None:
    with pytest.raises(errors.NotFound, match="network web: the parent interface eth7 does not exist"):
        ensure(host, network(driver="macvlan", interface="eth7"))
    with pytest.raises(errors.NotFound, match="network web: the parent interface eth7 does not exist"):
        ensure(host, network(driver="ipvlan", interface="eth7.50"))
    host.ip("link add eth7 type veth peer name eth8")
    with pytest.raises(errors.InvalidParameter, match="9999 is no number of a VLAN, which is 1 to 4094"):
        ensure(host, network(driver="macvlan", interface="eth7.9999"))


def test_a_mode_that_does_not_exist(hosts: Callable[..., Host]) -> None:
    host, one = hosts(), hosts("one")
    host.ip("link add eth7 type veth peer name eth8")
    with pytest.raises(errors.InvalidParameter, match="macvlan_mode 'fast' is not one of private, vepa, bridge, passthru"):
        attach(host, one, network(driver="macvlan", interface="eth7", options={"macvlan_mode": "fast"}), attachment(2))


def has_kind(host: Host, kind: str) -> bool:
    """Whether the kernel has it; asked with `ip`, so that it is not berth that says so."""
    answer = host.run("ip", "link", "add", "probe", *([] if kind == "dummy" else ["link", "lo"]), "type", kind, *(["id", "5"] if kind == "vlan" else []), check=False)
    host.run("ip", "link", "del", "probe", check=False)
    return "Unknown device type" not in answer


def test_macvlan_without_a_parent_has_a_dummy(hosts: Callable[..., Host]) -> None:
    host, one, two = hosts(), hosts("one"), hosts("two")
    alone = network(driver="macvlan", interface="", internal=True)
    if not has_kind(host, "dummy"):
        with pytest.raises(errors.NotImplementedHere, match="this kernel lacks it"):
            ensure(host, alone)
        return
    ensure(host, alone)
    assert link(host, "dm-4f2b4f2b4f2b")
    attach(host, one, alone, attachment(2))
    attach(host, two, alone, attachment(3))
    one.ping("10.9.0.3")
    plumbing.remove(host.route, alone)
    assert "dm-4f2b" not in host.ip("link show")


def test_ipvlan_on_a_parent(hosts: Callable[..., Host]) -> None:
    """l2: in the parent's subnet, with the parent's MAC address."""
    host, far, one = hosts(), hosts("far"), hosts("one")
    connect(host, far, "10.9.0")
    shared = network(driver="ipvlan", interface="eth0")
    ensure(host, shared)
    if not has_kind(host, "ipvlan"):
        with pytest.raises(errors.NotImplementedHere, match=r"interface eth0: add ipvlan .*; this kernel lacks it"):
            attach(host, one, shared, attachment(9, outside="", mac=""))
        return
    attach(host, one, shared, attachment(9, outside="", mac="", gateways=(ip_address("10.9.0.2"),)))
    found = link(one, "eth0")
    assert (found["linkinfo"]["info_data"]["mode"], found["address"]) == ("l2", link(host, "eth0")["address"])
    far.ping("10.9.0.9")
    plumbing.remove_inside(one.route, "eth0")
    assert [entry["ifname"] for entry in one.ip_json("link show")] == ["lo"]


def test_ipvlan_that_routes(hosts: Callable[..., Host]) -> None:
    """l3: a subnet of its own behind the host's address, default routes by the interface itself; private: not beside each other."""
    host, far, one, two = hosts(), hosts("far"), hosts("one"), hosts("two")
    if not has_kind(host, "ipvlan"):
        pytest.skip("this kernel has no ipvlan")
    connect(host, far)
    routed = network(driver="ipvlan", interface="eth0", subnets=DUAL.subnets, options={"ipvlan_mode": "l3"})
    ensure(host, routed)
    for number, container in ((2, one), (3, two)):
        where = attachment(number, six=True, outside="", mac="", gateways=(ip_address("0.0.0.0"), ip_address("::")))
        attach(host, container, routed, where)
    far.ip("route add 10.9.0.0/24 via 192.0.2.1")
    assert one.ip_json("route show default")[0]["dev"] == "eth0"
    assert one.ip_json("-6 route show default")[0]["dev"] == "eth0"
    one.ping("192.0.2.2")
    one.ping("10.9.0.3")
    plumbing.set_gateways(one.route, routed, attachment(2, outside="", mac="", gateways=()))
    assert one.ip_json("route show default") == []
    three = hosts("three")
    apart = network(driver="ipvlan", interface="eth1", options={"ipvlan_mode": "l2", "ipvlan_flag": "private"})
    connect(host, hosts("far2"), "10.10.0", ("eth1", "eth0"))
    attach(host, three, apart, attachment(4, outside="", mac=""))
    assert "private" in three.ip("-d link show eth0")


def test_a_vlans_interface_goes_with_the_last_network(host: Host) -> None:
    host.ip("link add eth7 type veth peer name eth8")
    one, two = network(driver="macvlan", interface="eth7.50"), network(driver="ipvlan", interface="eth7.50", id="33" * 32)
    if has_kind(host, "vlan"):
        with pytest.raises(errors.Conflict, match=r"the parent of eth7.50 is down; run: ip link set eth7 up"):
            ensure(host, one)
        assert "eth7.50" not in host.ip("link show")
    host.ip("link set eth7 up")
    if not has_kind(host, "vlan"):
        with pytest.raises(errors.NotImplementedHere, match=r"add vlan eth7.50: .*; this kernel lacks it"):
            ensure(host, one)
        return
    ensure(host, one)
    ensure(host, two)
    assert link(host, "eth7.50")["linkinfo"]["info_data"]["id"] == 50
    plumbing.remove(host.route, one)
    assert link(host, "eth7.50")
    plumbing.remove(host.route, two)
    assert "eth7.50" not in host.ip("link show")


def test_a_socket_made_elsewhere_works_there(hosts: Callable[..., Host]) -> None:
    """A socket whose descriptor was passed on works in the namespace where it was made."""
    one = hosts("one")
    from berth.linux.rtnetlink import Route

    route = Route(os.dup(one.route.fileno()))
    route.do(rt.add_bridge("br-there"))
    route.close()
    assert link(one, "br-there")


def test_links_routes_and_counters_as_ip_has_them(hosts: Callable[..., Host]) -> None:
    host, far = hosts(), hosts("far")
    connect(host, far, subnet6="2001:db8:1")
    host.ip("route add 198.51.100.0/24 via 192.0.2.2 metric 77")
    host.ip("route add unreachable 203.0.113.0/24")
    host.ip("route add default via 192.0.2.2 table 100")
    host.ping("192.0.2.2")
    seen = {(entry.destination, entry.gateway, entry.table) for entry in host.route.routes()}
    assert {
        ("192.0.2.0/24", "", 254), ("198.51.100.0/24", "192.0.2.2", 254), ("203.0.113.0/24", "", 254), ("", "192.0.2.2", 100), ("2001:db8:1::/64", "", 254),
    } <= seen  # fmt: skip
    assert not [entry for entry in seen if entry[0].startswith("127.")]
    for found in host.ip_json("-s -d link show"):
        ours = host.route.link(found["ifname"])
        assert (ours.index, ours.mtu, ours.mac) == (found["ifindex"], found["mtu"], found["address"])
        assert ours.kind == found.get("linkinfo", {}).get("info_kind", "")
        assert ours.counters is not None
        assert ours.counters["rx_packets"] <= found["stats64"]["rx"]["packets"] + 100
    assert host.route.link("eth0").counters["tx_packets"] > 0  # type: ignore[index]
    assert (host.route.link("eth0").index, "192.0.2.1/24") in host.route.addresses()


def test_an_error_says_why(host: Host) -> None:
    with pytest.raises(Refused, match=r"add route 0.0.0.0/0 via 192.0.2.9: Network is unreachable \(Nexthop has invalid gateway\)"):
        host.route.do(rt.add_route("0.0.0.0/0", gateway="192.0.2.9"))
    with pytest.raises(Refused) as caught:  # the others were done
        host.route.do(rt.add_bridge("br1"), rt.delete_link("nothing"), rt.add_bridge("br2"))
    assert caught.value.position == 1
    assert link(host, "br1")
    assert link(host, "br2")
