"""Published ports and the walls between networks, from other hosts, containers and the host itself, with `nft` as second tool.

    client ──192.0.2.0/24── host ── br-web: one (10.9.0.2, fd00:9::2), two (10.9.0.3)
                              └──── br-db: three (10.8.0.2)
"""

import contextlib
import json
import select
import shutil
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from nethosts import Echo, Host, ask, ask_udp, connect, wait_for

from berth import errors
from berth.linux import nftmessages
from berth.network import firewall, plumbing, ruleset
from berth.network.model import Attachment, Names, Network, PublishedPort, Subnet

pytestmark = pytest.mark.root
WEB = Network("4f" * 32, "web", "bridge", "br-web", (
    Subnet(ip_network("10.9.0.0/24"), ip_address("10.9.0.1")), Subnet(ip_network("fd00:9::/64"), ip_address("fd00:9::1")),
))  # fmt: skip
DB = Network("77" * 32, "db", "bridge", "br-db", (Subnet(ip_network("10.8.0.0/24"), ip_address("10.8.0.1")),))
CLOSED = """
table inet theirs {
    chain input { type filter hook input priority 0; policy drop; iif lo accept; ct state established,related accept; meta l4proto { icmp, ipv6-icmp } accept; }
}
"""


def published(host_port: int = 8080, *, protocol: str = "tcp", on: str = "0.0.0.0", to: str = "10.9.0.2", port: int = 80, bridge: str = "br-web") -> PublishedPort:
    return PublishedPort(protocol, ip_address(on), host_port, ip_address(to), port, bridge)


BOTH = [published(), published(protocol="udp"), published(on="::", to="fd00:9::2"), published(protocol="udp", on="::", to="fd00:9::2")]


class World:
    """The hosts of the picture, and a firewall of berth's on one of them."""

    def __init__(self, *, direct: bool = False, networks: tuple[Network, ...] = (WEB, DB)) -> None:
        self.names = Names()
        self.host, self.client = Host("host"), Host("client")
        self.containers: dict[str, Host] = {}
        self.echoes: list[Echo] = []
        connect(self.host, self.client, subnet6="2001:db8:1")
        self.host.sysctl("net/ipv4/ip_forward", "0")
        self.host.sysctl("net/ipv6/conf/all/forwarding", "0")
        with self.host.inside():
            for network in networks:
                plumbing.ensure(self.host.route, network)
            self.firewall = firewall.Firewall(self.names, direct=direct)
            self.firewall.set_networks(networks)
        self.networks = networks

    def container(self, name: str, network: Network, number: int) -> Host:
        made = self.containers[name] = Host(name)
        gateways = [subnet.gateway for subnet in network.subnets if subnet.gateway]
        addresses = [ip_interface(f"{gateway + number - 1}/{subnet.network.prefixlen}") for gateway, subnet in zip(gateways, network.subnets, strict=True)]
        inside = Attachment("eth0", f"veth{name}", f"02:42:0a:09:00:{number:02x}", tuple(addresses), () if network.internal else tuple(gateways))
        plumbing.attach(self.host.route, made.route, made.fd, network, inside)
        return made

    def echo(self, host: Host, port: int) -> None:
        self.echoes.append(Echo(host, port))

    def client_address(self, *, six: bool = False) -> str:
        return "2001:db8:1::2" if six else "192.0.2.2"

    def do(self, work: Callable[[], object]) -> object:
        """In the host's namespace, for settings below /proc/sys."""
        with self.host.inside():
            return work()

    def explain(self) -> list[str]:
        with self.host.inside():
            return self.firewall.explain()

    def publish(self, *ports: PublishedPort) -> None:
        self.do(lambda: self.firewall.publish(ports))

    def close(self) -> None:
        for echo in self.echoes:
            echo.close()
        self.firewall.close()
        for host in (*self.containers.values(), self.client, self.host):
            host.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """With ports published, checked; tests may add rules of others and must take them away."""
    made = World()
    one, two, three = made.container("one", WEB, 2), made.container("two", WEB, 3), made.container("three", DB, 2)
    for container in (one, two, three):
        made.echo(container, 80)
    made.publish(*BOTH, published(9090, to="10.9.0.3", on="192.0.2.1"), published(9091, to="10.9.0.3", on="127.0.0.1"))
    yield made
    made.close()


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**options: object) -> World:
        made.append(World(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def closed(world: World) -> Iterator[World]:
    """The host's firewall lets nothing new in."""
    world.host.nft(CLOSED)
    yield world
    world.host.nft("delete table inet theirs")


# -- reached ------------------------------------------------------------------------------------


def test_from_another_host_with_its_own_address(world: World) -> None:
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    assert ask(world.client, "2001:db8:1::1", 8080) == "2001:db8:1::2"
    assert ask_udp(world.client, "192.0.2.1", 8080) == "192.0.2.2 1"
    assert ask_udp(world.client, "2001:db8:1::1", 8080) == "2001:db8:1::2 1"


def test_large_datagrams(world: World) -> None:
    """The first one is put together from fragments and goes around whole."""
    assert ask_udp(world.client, "192.0.2.1", 8080, size=9000) == "192.0.2.2 9000"
    assert ask_udp(world.client, "192.0.2.1", 8080, size=60000) == "192.0.2.2 60000"
    assert ask_udp(world.client, "2001:db8:1::1", 8080, size=9000) == "2001:db8:1::2 9000"


def test_packets_that_come_before_the_first_answer(world: World) -> None:
    """Several may be on the way around at once; none is lost, and none is doubled."""
    for number in range(20):
        with world.client.inside():
            asking = socket.socket(type=socket.SOCK_DGRAM)
        with asking:
            asking.settimeout(5)
            asking.connect(("192.0.2.1", 8080))
            for size in range(1, 11):
                asking.send(b"x" * size)
            assert sorted(int(asking.recv(100).split()[1]) for _ in range(10)) == list(range(1, 11)), number
            asking.settimeout(0.01)
            with pytest.raises(TimeoutError):
                asking.recv(100)


@pytest.mark.skipif(not shutil.which("iperf3"), reason="needs Debian's iperf3")
def test_much_at_once(worlds: Callable[..., World]) -> None:
    world = worlds(networks=(WEB,))
    one = world.container("one", WEB, 2)
    world.publish(published(5201, port=5201), published(5201, protocol="udp", port=5201))
    one.start("iperf3", "-s")
    wait_for(lambda: ":5201" in one.run("ss", "-Hlnt"), "iperf3 listens")
    sent = json.loads(world.client.run("iperf3", "-J", "-c", "192.0.2.1", "-n", "50M", "-P", "4"))
    assert sent["end"]["sum_sent"]["bytes"] >= 50_000_000
    assert sent["end"]["sum_received"]["bytes"] >= 10_000_000, "what is under way when the sender ends is not counted"
    sent = json.loads(world.client.run("iperf3", "-J", "-c", "192.0.2.1", "-u", "-b", "50M", "-n", "2M"))
    assert sent["end"]["sum"]["packets"] > 100
    assert sent["end"]["sum"]["lost_percent"] < 50


def test_nft_reads_it_as_it_was_meant(world: World) -> None:
    """What nft shows, given to nft in another namespace, is the same to the kernel, instruction by instruction."""
    fresh = Host("fresh")
    try:
        index = world.host.route.link("berth-out").index
        fresh.ip(f"link add berth-out index {index} type veth peer name berth-in")
        for family in ("ip", "ip6"):
            fresh.nft(world.host.run("nft", "list", "table", family, "berth"))
            ours, theirs = (instructions(host, family) for host in (world.host, fresh))
            assert len(ours) > 100
            assert ours == theirs
    finally:
        fresh.close()


def instructions(host: Host, family: str) -> list[str]:
    """Of all rules of berth's table, as the kernel has them."""
    return [line for line in host.run("nft", "--debug=netlink", "list", "table", family, "berth").splitlines() if line.startswith("  [")]


def test_from_the_host_by_each_of_its_addresses(world: World) -> None:
    assert ask(world.host, "127.0.0.1", 8080) == "10.9.0.1"
    assert ask(world.host, "127.7.7.7", 8080) == "10.9.0.1"
    assert ask(world.host, "192.0.2.1", 8080) == "192.0.2.1"
    assert ask(world.host, "10.9.0.1", 8080) == "10.9.0.1"
    assert ask(world.host, "2001:db8:1::1", 8080) == "2001:db8:1::1"
    assert ask_udp(world.host, "127.0.0.1", 8080) == "10.9.0.1 1"


@pytest.mark.parametrize("setting", ["0", "1"])
def test_from_ipv6_loopback(worlds: Callable[..., World], setting: str) -> None:
    """Where the kernel cannot do it, at least nobody waits: clients of `localhost` go on to 127.0.0.1."""
    world = worlds(networks=(WEB,))
    if not has_bridge_netfilter(world.host, setting):
        pytest.skip("the module br_netfilter is not there")
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH)
    assert ask(world.host, "::1", 8080) == ("fd00:9::1" if setting == "0" else "refused")
    assert ask(world.host, "localhost", 8080) in ("fd00:9::1", "10.9.0.1")
    assert ask(world.host, "2001:db8:1::1", 8080) == "2001:db8:1::1"


def has_bridge_netfilter(host: Host, setting: str) -> bool:
    """Sets whether packets that bridges pass go through the rules of IP."""
    try:
        for name in ("iptables", "ip6tables"):
            host.sysctl(f"net/bridge/bridge-nf-call-{name}", setting)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("setting", ["0", "1"])
def test_from_containers_whatever_bridges_do(worlds: Callable[..., World], setting: str) -> None:
    world = worlds(networks=(WEB,))
    if not has_bridge_netfilter(world.host, setting):
        pytest.skip("the module br_netfilter is not there")
    one, two = world.container("one", WEB, 2), world.container("two", WEB, 3)
    world.echo(one, 80)
    world.publish(*BOTH)
    for container in (one, two):
        assert ask(container, "192.0.2.1", 8080) == "10.9.0.1"
        assert ask(container, "2001:db8:1::1", 8080) == "fd00:9::1"
        assert ask_udp(container, "10.9.0.1", 8080) == "10.9.0.1 1"


def test_from_containers(world: World) -> None:
    """By the host's addresses: itself, one beside it, one of another network."""
    for name, seen in (("one", "10.9.0.1"), ("two", "10.9.0.1"), ("three", "10.9.0.1")):
        assert ask(world.containers[name], "192.0.2.1", 8080) == seen, name
        assert ask(world.containers[name], "10.9.0.1", 8080) == seen, name
        assert ask_udp(world.containers[name], "192.0.2.1", 8080) == f"{seen} 1", name
    assert ask(world.containers["one"], "2001:db8:1::1", 8080) == "fd00:9::1"


def test_one_address_of_the_host_only(world: World) -> None:
    assert ask(world.client, "192.0.2.1", 9090) == "192.0.2.2"
    assert ask(world.host, "127.0.0.1", 9090) == "refused"
    assert ask(world.host, "127.0.0.1", 9091) == "10.9.0.1"
    assert ask(world.client, "192.0.2.1", 9091) == "refused"


def test_loopback_is_reached_from_nowhere_else(world: World) -> None:
    """A host or a container beside us that sends to 127.0.0.1 by a route of its own (CVE-2020-8558)."""
    for neighbour, gateway in ((world.client, "192.0.2.1"), (world.containers["one"], "10.9.0.1")):
        neighbour.ip("address del 127.0.0.1/8 dev lo")
        neighbour.sysctl("net/ipv4/conf/eth0/route_localnet", "1")
        neighbour.ip(f"route add 127.0.0.1 via {gateway} dev eth0")
        assert ask(neighbour, "127.0.0.1", 9091, wait_s=0.5) == ""
        neighbour.ip("route del 127.0.0.1")
        neighbour.ip("address add 127.0.0.1/8 dev lo")


# -- what the host's firewall closed stays closed (moby issue 22054) -----------------------------


def test_closed_by_input(closed: World) -> None:
    for address in ("192.0.2.1", "2001:db8:1::1"):
        assert ask(closed.client, address, 8080, wait_s=0.5) == ""
        assert ask_udp(closed.client, address, 8080, wait_s=0.5) == ""
    assert ask(closed.host, "127.0.0.1", 8080) == "10.9.0.1"  # what the host sends itself is not its firewall's concern
    assert ask(closed.containers["two"], "192.0.2.1", 8080) == "10.9.0.1"


def test_opened_by_a_rule_for_the_hosts_port(closed: World) -> None:
    closed.host.nft("add rule inet theirs input tcp dport 8080 ip saddr 192.0.2.2 accept")
    assert ask(closed.client, "192.0.2.1", 8080) == "192.0.2.2"
    assert ask(closed.client, "192.0.2.1", 9090, wait_s=0.5) == ""
    closed.host.nft("add rule inet theirs input tcp dport 8080 accept")
    assert ask(closed.client, "2001:db8:1::1", 8080) == "2001:db8:1::2"
    closed.host.nft("add rule inet theirs input udp dport 8080 accept")
    assert ask_udp(closed.client, "192.0.2.1", 8080) == "192.0.2.2 1"


def test_refused_in_so_many_words(world: World) -> None:
    world.host.nft("table ip theirs { chain input { type filter hook input priority 10; tcp dport 8080 reject with tcp reset; }; }")
    assert ask(world.client, "192.0.2.1", 8080) == "refused"
    world.host.nft("delete table ip theirs")
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"


def test_iptables_decides_too(world: World) -> None:
    """ufw and many others speak iptables, which is nftables underneath."""
    world.host.run("iptables-nft", "-I", "INPUT", "-i", "eth0", "-p", "tcp", "--dport", "8080", "-j", "DROP")
    assert ask(world.client, "192.0.2.1", 8080, wait_s=0.5) == ""
    world.host.run("iptables-nft", "-F", "INPUT")
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    world.host.nft("delete table ip filter")


def test_strict_checks_of_sources(world: World) -> None:
    for name in ("all", "default", "eth0"):
        world.host.sysctl(f"net/ipv4/conf/{name}/rp_filter", "1")
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    for name in ("all", "default", "eth0"):
        world.host.sysctl(f"net/ipv4/conf/{name}/rp_filter", "0")


def test_direct_is_dockers_way(worlds: Callable[..., World]) -> None:
    world = worlds(direct=True)
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH)
    world.host.nft(CLOSED)
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    assert ask(world.client, "2001:db8:1::1", 8080) == "2001:db8:1::2"
    assert ask_udp(world.client, "192.0.2.1", 8080) == "192.0.2.2 1"
    assert ask(world.host, "127.0.0.1", 8080) == "10.9.0.1"
    assert "berth-out" not in world.host.ip("link show")
    assert world.explain()[0].startswith("Published ports: direct: reachable from everywhere, whatever the host's firewall says")


# -- walls --------------------------------------------------------------------------------------


def test_networks_are_apart(world: World) -> None:
    three, one = world.containers["three"], world.containers["one"]
    assert ask(world.containers["two"], "10.9.0.2", 80) == "10.9.0.3"
    assert ask(three, "10.9.0.2", 80, wait_s=0.5) == ""
    assert "100% packet loss" in three.ping("10.9.0.2", wait_s=1, check=False)
    assert ask(one, "10.8.0.2", 80, wait_s=0.5) == ""


def test_no_way_in_by_a_containers_own_address(world: World) -> None:
    world.client.ip("route add 10.9.0.0/24 via 192.0.2.1")
    assert ask(world.client, "10.9.0.2", 80, wait_s=0.5) == ""
    world.client.ip("route del 10.9.0.0/24")


def test_what_containers_send_has_the_hosts_address(world: World) -> None:
    with contextlib.closing(Echo(world.client, 7000)):
        assert ask(world.containers["one"], "192.0.2.2", 7000) == "192.0.2.1"
        assert ask(world.containers["one"], "2001:db8:1::2", 7000) == "2001:db8:1::1"
        assert ask_udp(world.containers["three"], "192.0.2.2", 7000) == "192.0.2.1 1"


def test_without_masquerading(worlds: Callable[..., World]) -> None:
    plain = Network(WEB.id, "web", "bridge", "br-web", WEB.subnets, options={"com.docker.network.bridge.enable_ip_masquerade": "false"})
    world = worlds(networks=(plain,))
    one = world.container("one", plain, 2)
    world.echo(one, 80)
    world.publish(*BOTH)
    world.echo(world.client, 7000)
    world.client.ip("route add 10.9.0.0/24 via 192.0.2.1")
    assert ask(one, "192.0.2.2", 7000) == "10.9.0.2"
    assert ask(one, "192.0.2.1", 8080) == "10.9.0.1"  # but itself by its published port


def test_an_internal_network(worlds: Callable[..., World]) -> None:
    inner = Network("99" * 32, "inner", "bridge", "br-inner", (Subnet(ip_network("10.7.0.0/24"), ip_address("10.7.0.1")),), internal=True)
    world = worlds(networks=(WEB, inner))
    one, five, six = world.container("one", WEB, 2), world.container("five", inner, 2), world.container("six", inner, 3)
    for host in (one, five, world.client):
        world.echo(host, 80)
    world.publish(*BOTH)
    assert ask(six, "10.7.0.2", 80) == "10.7.0.3"
    five.ip("route add default via 10.7.0.1")  # a container may try
    assert ask(five, "192.0.2.2", 80, wait_s=0.5) == ""
    assert ask(five, "10.9.0.2", 80, wait_s=0.5) == ""
    assert ask(five, "192.0.2.1", 8080, wait_s=0.5) == ""
    assert ask(one, "10.7.0.2", 80, wait_s=0.5) == ""
    assert ask(world.host, "10.7.0.2", 80) == "10.7.0.1"


# -- rules come, go, and come back ---------------------------------------------------------------


def test_unpublished(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH, published(9000))
    world.do(lambda: world.firewall.unpublish([published(9000), published(9999)]))
    assert ask(world.client, "192.0.2.1", 9000) == "refused"
    assert ask(world.host, "127.0.0.1", 9000) == "refused"
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    world.publish(published(8080, port=81))  # leads elsewhere now
    assert ask(world.client, "192.0.2.1", 8080) == "refused"


@pytest.mark.skipif(not shutil.which("conntrack"), reason="needs Debian's conntrack")
@pytest.mark.parametrize(("address", "own"), [("192.0.2.1", "192.0.2.2"), ("2001:db8:1::1", "2001:db8:1::2")])
def test_a_client_that_goes_on_sending(worlds: Callable[..., World], address: str, own: str) -> None:
    """UDP: before there is a container, while it restarts with another address, and when it is gone."""
    world = worlds(networks=(WEB,))
    one, two = world.container("one", WEB, 2), world.container("two", WEB, 3)
    world.echo(one, 80)
    world.echo(two, 80)
    six = ":" in address
    first, second = (published(9000, protocol="udp", on="::" if six else "0.0.0.0", to=to) for to in (("fd00:9::2", "fd00:9::3") if six else ("10.9.0.2", "10.9.0.3")))
    seen = lambda: world.host.run("conntrack", "-L", "-p", "udp", "-f", "ipv6" if six else "ipv4")  # noqa: E731
    world.echo(world.client, 9000)  # a port of the same number elsewhere: nothing of ours
    assert ask_udp(one, world.client_address(six=six), 9000).endswith(" 1")
    assert ask_udp(world.client, address, 9000, source_port=5555, wait_s=0.5) == ""
    world.publish(first)
    assert ask_udp(world.client, address, 9000, source_port=5555) == f"{own} 1"
    world.do(lambda: world.firewall.unpublish([first]))
    assert "sport=5555" not in seen()
    assert ask_udp(world.client, address, 9000, source_port=5555, wait_s=0.5) == ""
    world.publish(second)
    assert ask_udp(world.client, address, 9000, source_port=5555) == f"{own} 1"
    world.publish(first)  # leads elsewhere without having been away
    assert ask_udp(world.client, address, 9000, source_port=5555) == f"{own} 1"
    assert f"src={first.address} dst={own} sport=80" in seen()
    assert f"src={second.address} dst={own}" not in seen()
    assert f"dst={world.client_address(six=six)} sport" in seen()  # the other one's is still there


def test_what_went_around_does_not_go_again(world: World) -> None:
    """Packets of a connection that is tracked as the host's own are for the host: they must not run in circles."""
    before = world.host.route.link("berth-out").counters
    ask_udp(world.client, "192.0.2.1", 9095, source_port=5556, wait_s=0.2)  # refused, and remembered
    world.host.nft("add element ip berth any-checked { udp . 9095 }")
    ask_udp(world.client, "192.0.2.1", 9095, source_port=5556, wait_s=0.5)
    after = world.host.route.link("berth-out").counters
    world.host.nft("delete element ip berth any-checked { udp . 9095 }")
    assert before is not None
    assert after is not None
    assert after["tx_packets"] - before["tx_packets"] <= 2


def test_the_rules_of_others_stay_and_ours_go(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.host.nft(CLOSED + "table ip berthold { set s { type ipv4_addr; elements = { 10.0.0.1 } }; }")
    before, links = world.host.run("nft", "-a", "list", "table", "inet", "theirs"), world.host.ip("link show")
    world.publish(*BOTH)
    world.do(lambda: world.firewall.set_networks([WEB]))
    assert world.host.run("nft", "-a", "list", "table", "inet", "theirs") == before
    world.do(world.firewall.remove)
    world.do(world.firewall.remove)
    assert [line for line in world.host.ruleset().splitlines() if line.startswith("table")] == ["table inet theirs {", "table ip berthold {"]
    assert world.host.ip("link show") == links
    assert "169.254" not in world.host.ip("route show table all")
    assert "fe80::be:" not in world.host.ip("-6 route show table all")


def settle(world: World) -> float | None:
    """As the engine does it: waits for the descriptor."""
    delay, wait_s = None, 5.0
    while select.select([world.firewall], [], [], wait_s)[0]:
        delay, wait_s = world.do(world.firewall.on_readable) or delay, 0.1  # type: ignore[assignment]
    return delay


@pytest.mark.parametrize("blow", [
    "flush ruleset", "delete table ip berth", "flush table ip berth", "flush map ip berth any-ports", "delete rule ip6 berth input handle HANDLE",
])  # fmt: skip
def test_what_somebody_takes_away_comes_back(worlds: Callable[..., World], blow: str) -> None:
    world = worlds()
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH)
    settle(world)
    before = world.host.ruleset()
    handle = world.host.run("nft", "-a", "list", "chain", "ip6", "berth", "input").rpartition("# handle ")[2].split()[0]
    world.host.nft(blow.replace("HANDLE", handle))
    assert world.host.ruleset() != before
    assert settle(world) is None
    assert sorted(world.host.ruleset().splitlines()) == sorted(before.splitlines())
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"


def test_a_change_while_the_rules_are_away(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH)
    world.host.nft("flush ruleset")
    world.publish(published(9000))
    assert ask(world.client, "192.0.2.1", 9000) == "192.0.2.2"
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"


def test_no_endless_fight(worlds: Callable[..., World]) -> None:
    world = worlds()
    settle(world)
    delays: list[float | None] = []
    while not any(delays):
        world.host.nft("flush ruleset")
        delays.append(settle(world))
        assert len(delays) < 10
    assert delays[:4] == [None] * 4
    assert 0 < (delays[-1] or 0) <= 10
    assert "table ip berth" not in world.host.ruleset()


def test_the_changes_of_others_cost_nothing(worlds: Callable[..., World]) -> None:
    world = worlds()
    settle(world)
    handles = world.host.run("nft", "-a", "list", "table", "ip", "berth")
    world.host.nft(CLOSED)
    world.host.nft("delete table inet theirs")
    assert settle(world) is None
    assert world.host.run("nft", "-a", "list", "table", "ip", "berth") == handles


def test_the_loop_that_somebody_deleted(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH)
    world.host.ip("link del berth-out")
    world.publish(published(9000))
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"


def test_what_a_killed_engine_left_is_taken_over(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH, published(9000))
    world.firewall.close()
    with world.host.inside():
        world.firewall = firewall.Firewall(world.names)
        world.firewall.set_networks([WEB])
    assert "9000" not in world.host.ruleset()
    world.publish(*BOTH)
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"


def test_two_engines_on_one_host(worlds: Callable[..., World]) -> None:
    world = worlds(networks=(WEB,))
    world.echo(world.container("one", WEB, 2), 80)
    with world.host.inside():
        other = firewall.Firewall(Names.of("abc123"))
        plumbing.ensure(world.host.route, DB)
        other.set_networks([DB])
    world.echo(world.container("three", DB, 2), 80)
    world.publish(*BOTH)
    with world.host.inside():
        other.publish([published(9000, to="10.8.0.2", bridge="br-db")])
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    assert ask(world.client, "192.0.2.1", 9000) == "192.0.2.2"
    with world.host.inside():
        other.remove()
        other.close()
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"


def test_two_families_in_one_port(worlds: Callable[..., World]) -> None:
    world = worlds()
    before = world.host.ruleset()
    with pytest.raises(errors.InvalidParameter, match=r"port 8080 of :: cannot lead to 10\.9\.0\.2: one is IPv4, the other IPv6"):
        world.publish(published(on="::"))
    assert world.host.ruleset() == before


def test_an_interface_that_has_the_loops_name(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.host.ip("link add berth-in type bridge")
    with pytest.raises(errors.Conflict, match="the interface berth-in is not berth's"):
        world.publish(published())
    world.host.ip("link del berth-in")
    world.publish(published())


# -- forwarding ---------------------------------------------------------------------------------


def test_forwarding_is_for_containers_alone(worlds: Callable[..., World]) -> None:
    """It was off, so the host is no router for others; it is off again in the end."""
    world = worlds()
    other = Host("other")
    try:
        for host, name, address in ((world.host, "eth0", "198.51.100.1/24"), (world.client, "eth0", "198.51.100.2/24")):
            host.ip(f"link add link {name} name mv0 type macvlan mode bridge")  # interfaces of a kind that is neither bridge nor veth
            host.ip(f"address add {address} dev mv0")
            host.ip("link set mv0 up")
        connect(world.host, other, "203.0.113", ("eth5", "eth0"))
        world.host.ip("link add link eth5 name mv1 type macvlan mode bridge")
        world.host.ip("address flush dev eth5")
        world.host.ip("address add 203.0.113.1/24 dev mv1")
        world.host.ip("link set mv1 up")
        other.ip("route add default via 203.0.113.1")
        world.client.ip("route add 203.0.113.0/24 via 198.51.100.1")
        world.host.sysctl("net/ipv4/conf/all/arp_ignore", "1")  # eth0 does not answer for mv0
        assert world.host.sysctl("net/ipv6/conf/all/forwarding") == "1"
        other.ping("203.0.113.1")
        assert "100% packet loss" in world.client.ping("203.0.113.2", wait_s=1, check=False)
        assert [line for line in world.explain() if line.startswith("Forwarding: net.ipv4.ip_forward was off until berth set it")]
        world.firewall.close()
        with world.host.inside():  # the next engine knows
            world.firewall = firewall.Firewall(world.names)
            world.firewall.set_networks([WEB])
        assert "100% packet loss" in world.client.ping("203.0.113.2", wait_s=1, check=False)
        for network in (WEB, DB):
            plumbing.remove(world.host.route, network)
        world.do(world.firewall.remove)
        assert world.host.sysctl("net/ipv4/ip_forward") == "0"
        assert world.host.sysctl("net/ipv6/conf/all/forwarding") == "0"
        world.host.sysctl("net/ipv4/ip_forward", "1")
        world.client.ping("203.0.113.2")  # so it was berth that kept it away
    finally:
        other.close()


def test_a_host_that_forwards_keeps_the_routes_its_router_advertises(worlds: Callable[..., World]) -> None:
    world = worlds(networks=())
    world.host.ip("-6 route add 2001:db8:77::/64 dev eth0 proto ra")
    world.host.sysctl("net/ipv6/conf/eth0/accept_ra", "1")
    with world.host.inside():
        plumbing.ensure(world.host.route, WEB)
        world.firewall.set_networks([WEB])
    assert world.host.sysctl("net/ipv6/conf/eth0/accept_ra") == "2"


def test_an_internal_network_makes_no_router_of_the_host(worlds: Callable[..., World]) -> None:
    world = worlds(networks=(Network("99" * 32, "inner", "bridge", "br-inner", DB.subnets, internal=True),))
    assert world.host.sysctl("net/ipv4/ip_forward") == "0"


def test_forwarding_that_is_not_to_be_switched_on(worlds: Callable[..., World]) -> None:
    world = worlds(networks=())
    with world.host.inside():
        plumbing.ensure(world.host.route, WEB)
        world.firewall.close()
        world.firewall = firewall.Firewall(world.names, forward=False)
        world.firewall.set_networks([WEB])
        assert [line for line in world.explain() if line.startswith("WARNING")] == [
            "WARNING: net.ipv4.ip_forward is off: containers reach no other host and are reached from none by IPv4; run: sysctl -w net.ipv4.ip_forward=1",
            "WARNING: net.ipv6.conf.all.forwarding is off: containers reach no other host and are reached from none by IPv6; "
            "run: sysctl -w net.ipv6.conf.all.forwarding=1",
        ]
    assert world.host.sysctl("net/ipv4/ip_forward") == "0"
    assert "guard" not in world.host.ruleset()


# -- explained ----------------------------------------------------------------------------------


def test_which_rules_decide(worlds: Callable[..., World]) -> None:
    world = worlds()
    assert world.explain()[0] == "Published ports: checked: no firewall has rules for INPUT, so all of them are reachable"
    world.host.nft(CLOSED)
    assert world.explain()[0] == (
        "Published ports: checked: reachable as far as these let in what is meant for the host's port: "
        "table inet theirs, chain input (priority 0, policy drop, 3 rules)"
    )


def test_a_forward_chain_that_refuses(worlds: Callable[..., World]) -> None:
    """What is said to help does help."""
    world = worlds()
    one = world.container("one", WEB, 2)
    world.echo(one, 80)
    world.publish(*BOTH)
    world.echo(world.client, 7000)
    world.host.nft("table inet theirs { chain forward { type filter hook forward priority 0; policy drop; }; }")
    assert ask(one, "192.0.2.2", 7000, wait_s=0.5) == ""
    (warning,) = [line for line in world.explain() if line.startswith("WARNING")]
    assert warning.startswith("WARNING: table inet theirs, chain forward (priority 0, policy drop, 0 rules) refuses what containers send")
    for command in warning.partition("add: ")[2].split("; "):
        world.host.run(*command.split())
    assert not [line for line in world.explain() if line.startswith("WARNING")]
    assert ask(one, "192.0.2.2", 7000) == "192.0.2.1"
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"


def test_a_forward_chain_of_iptables(worlds: Callable[..., World]) -> None:
    world = worlds(networks=(WEB,))
    one = world.container("one", WEB, 2)
    world.echo(world.client, 7000)
    world.host.run("iptables-nft", "-P", "FORWARD", "DROP")
    assert ask(one, "192.0.2.2", 7000, wait_s=0.5) == ""
    (warning,) = [line for line in world.explain() if line.startswith("WARNING")]
    for command in warning.partition("add: ")[2].split("; "):
        world.host.run(*command.replace("iptables ", "iptables-nft ").split())
    assert ask(one, "192.0.2.2", 7000) == "192.0.2.1"
    assert not [line for line in world.explain() if line.startswith("WARNING")]


def test_a_chain_that_checks_sources(worlds: Callable[..., World]) -> None:
    """As firewalld's IPv6_rpfilter does; a rule that people copy from nftables' own pages."""
    world = worlds()
    world.echo(world.container("one", WEB, 2), 80)
    world.publish(*BOTH)
    world.host.nft("table inet theirs { chain pre { type filter hook prerouting priority -150; fib saddr . iif oif missing drop; }; }")
    assert ask(world.client, "192.0.2.1", 8080, wait_s=0.5) == ""
    (warning,) = [line for line in world.explain() if line.startswith("WARNING")]
    world.host.run(*warning.partition("other hosts; ")[2].split())
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    assert ask(world.client, "2001:db8:1::1", 8080) == "2001:db8:1::2"
    assert not [line for line in world.explain() if line.startswith("WARNING")]


def test_as_ufw_has_it(worlds: Callable[..., World]) -> None:
    """The chains that ufw makes with its defaults, cut down to what decides."""
    world = worlds(networks=(WEB,))
    for program, prefix in (("iptables-nft", "ufw"), ("ip6tables-nft", "ufw6")):
        for chain in ("input", "forward"):
            world.host.run(program, "-N", f"{prefix}-before-{chain}")
            world.host.run(program, "-A", f"{prefix}-before-{chain}", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
            world.host.run(program, "-A", chain.upper(), "-j", f"{prefix}-before-{chain}")
            world.host.run(program, "-P", chain.upper(), "DROP")
    (warning,) = [line for line in world.explain() if line.startswith("WARNING")]
    assert warning.startswith("WARNING: table ip filter, chain FORWARD (priority 0, policy drop, 1 rules) and table ip6 filter, chain FORWARD")
    assert warning.endswith("add: ufw route allow in on br-web; ufw route allow out on br-web")


def test_without_the_kernels_dup(worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for an expression that it does not have, the kernel refuses as it would if it lacked dup."""
    world = worlds()
    world.echo(world.container("one", WEB, 2), 80)
    monkeypatch.setattr(ruleset.nft, "duplicate", lambda *_: nftmessages.nested(1, b"\x08\0\1\0dpu\0"))
    world.publish(*BOTH)
    assert ask(world.client, "192.0.2.1", 8080) == "192.0.2.2"
    assert world.explain()[0].startswith("WARNING: published ports cannot be checked: this kernel lacks nft's dup")
    assert "berth-out" not in world.host.ip("link show")


def test_rules_of_iptables_legacy(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.host.run("iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP")
    with world.host.inside():
        found = [line for line in world.explain() if line.startswith("Legacy rules: iptables-legacy has some")]
    assert found
    world.host.run("iptables-legacy", "-F")


# -- nothing waits ------------------------------------------------------------------------------


def test_a_thousand_ports(worlds: Callable[..., World]) -> None:
    world = worlds()
    many = [published(10000 + number) for number in range(1000)]
    world.publish(*many)
    world.echo(world.container("one", WEB, 2), 80)
    assert ask(world.client, "192.0.2.1", 10999) == "192.0.2.2"
    world.do(lambda: world.firewall.unpublish(many))
    wait_for(lambda: "10999" not in world.host.ruleset(), "the ports are gone")
