"""What tables are made of networks and ports, and how one state becomes the next: pure."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import errors
from berth.linux import nftmessages as nft
from berth.network import ruleset
from berth.network.model import Names, Network, PublishedPort, Subnet

NAMES = Names()
LOOP = ruleset.Loop("berth-in", 7, {"ip": ip_address("169.254.255.1").packed, "ip6": ip_address("fe80::be:1").packed})
FOUR, SIX = Subnet(ip_network("10.9.0.0/24"), ip_address("10.9.0.1")), Subnet(ip_network("fd00:9::/64"), ip_address("fd00:9::1"))


def network(name: str = "web", *subnets: Subnet, **changes: object) -> Network:
    return Network(**{"id": name * 8, "name": name, "driver": "bridge", "interface": f"br-{name}", "subnets": subnets or (FOUR,), **changes})  # type: ignore[arg-type]


def port(number: int = 8080, *, on: str = "0.0.0.0", to: str = "10.9.0.2", protocol: str = "tcp") -> PublishedPort:
    return PublishedPort(protocol, ip_address(on), number, ip_address(to), 80, "br-web")


def tables(networks: list[Network], ports: list[PublishedPort], loop: ruleset.Loop | None = LOOP, **more: object) -> dict[str, ruleset.Table]:
    return {table.family: table for table in ruleset.tables(NAMES, networks, ports, loop, **more)}  # type: ignore[arg-type]


def test_only_families_that_are_used() -> None:
    assert tables([], []) == {}
    assert list(tables([network()], [])) == ["ip"]
    assert list(tables([network("web", FOUR, SIX)], [])) == ["ip", "ip6"]
    assert list(tables([], [port(on="::", to="fd00:9::2")])) == ["ip6"]
    assert tables([network(driver="macvlan")], []) == {}


def test_where_a_port_stands() -> None:
    """Any address or one; what is for loopback alone is never expected from outside."""
    sets = tables([network()], [port(), port(81, on="192.0.2.1"), port(82, on="127.0.0.1"), port(83, protocol="udp")])["ip"].sets
    sizes = {name: len(kept.elements) for name, kept in sets.items()}
    assert (sizes["any-ports"], sizes["ports"], sizes["any-checked"], sizes["checked"]) == (2, 2, 2, 1)
    assert b"\6\0\0\0\x1f\x90\0\0" in sets["any-ports"].elements
    assert b"\6\0\0\0\xc0\0\2\1\0\x51\0\0" in sets["ports"].elements


def test_direct_has_no_way_around() -> None:
    table = tables([network()], [port()], None)["ip"]
    assert not {"input", "around"} & set(table.chains)
    assert not {"checked", "any-checked"} & set(table.sets)
    assert table.chains["prerouting"].rules == ((nft.verdict(nft.JUMP, "published"),),)
    checked = tables([network()], [port()])["ip"]
    assert (checked.chains["input"].hook, checked.chains["input"].priority) == ("input", 2000)
    assert len(checked.chains["prerouting"].rules) == 2


def test_a_port_of_two_families() -> None:
    with pytest.raises(errors.InvalidParameter, match=r"port 8080 of :: cannot lead to 10\.9\.0\.2"):
        tables([network()], [port(on="::")])


def test_masquerading() -> None:
    plain = network(options={"com.docker.network.bridge.enable_ip_masquerade": "false"})
    assert [len(tables([each], [])["ip"].chains["from-br-web"].rules) for each in (network(), plain)] == [3, 2]


@pytest.mark.parametrize(("subnet", "after"), [
    ("10.9.0.0/24", "10.9.1.0"), ("0.0.0.0/0", ""), ("255.255.255.0/24", ""), ("fd00::/64", "fd00:0:0:1::"), ("ffff::/16", ""), ("10.0.0.0/32", "10.0.0.1"),
])  # fmt: skip
def test_a_subnet_at_the_end_of_all_addresses(subnet: str, after: str) -> None:
    """An interval needs an end, but there is no address after the last one."""
    found = ip_network(subnet)
    family = "ip" if found.version == 4 else "ip6"
    (element,) = tables([network("web", Subnet(found, None))], [])[family].sets["sources"].elements.values()
    end = nft.interval(b"", ip_address(after).packed)[len(nft.element(b"")) :] if after else b""
    goes = nft.decision(nft.GOTO, "from-br-web")
    assert element == nft.element(found.network_address.packed, goes) + end


def test_ports_come_and_go_by_elements_alone() -> None:
    before = ruleset.tables(NAMES, [network()], [port(), port(81)], LOOP)
    after = ruleset.tables(NAMES, [network()], [port(), port(82)], LOOP)
    requests = ruleset.difference(before, after)
    assert requests is not None
    assert [request.about for request in requests] == [
        "delete elements of ip berth any-ports", "add elements to ip berth any-ports",
        "delete elements of ip berth any-checked", "add elements to ip berth any-checked",
    ]  # fmt: skip
    assert ruleset.difference(before, before) == []


def test_a_port_that_leads_elsewhere_is_taken_out_first() -> None:
    before, after = (ruleset.tables(NAMES, [network()], [port(to=to)], LOOP) for to in ("10.9.0.2", "10.9.0.3"))
    requests = ruleset.difference(before, after)
    assert [request.about.split()[0] for request in requests or []] == ["delete", "add"]


def test_what_elements_cannot_do() -> None:
    before = ruleset.tables(NAMES, [network()], [], LOOP)
    assert ruleset.difference(before, ruleset.tables(NAMES, [network(), network("db", Subnet(ip_network("10.8.0.0/24"), None))], [], LOOP)) is None
    assert ruleset.difference(before, ruleset.tables(NAMES, [network("web", FOUR, SIX)], [], LOOP)) is None
    assert ruleset.difference(before, ruleset.tables(NAMES, [network()], [], None)) is None
    assert ruleset.difference(before, []) is None


def test_a_replacement_takes_away_what_is_there() -> None:
    requests = ruleset.replacement(NAMES, [], {"ip6"})
    assert [request.about for request in requests] == ["add table ip6 berth", "delete table ip6 berth"]
    abouts = [request.about for request in ruleset.replacement(NAMES, ruleset.tables(NAMES, [network()], [port()], LOOP), {"ip6"})]
    assert abouts[:5] == ["add table ip berth", "delete table ip berth", "add table ip6 berth", "delete table ip6 berth", "add table ip berth"]
    # each thing after what it names
    assert max(at for at, about in enumerate(abouts) if about.startswith(("add set", "add chain"))) < abouts.index("add rule ip berth published")


def test_names_of_another_engine() -> None:
    own = ruleset.tables(Names.of("abc123"), [network()], [], LOOP)
    assert own[0].name == "berth-abc123"


MODE = "com.docker.network.bridge.gateway_mode_ipv"


def test_gateway_modes_by_family() -> None:
    """Rules and sets are there only where a network needs them; nothing is translated on the way out of a routed one."""
    routed = network("web", FOUR, SIX, options={f"{MODE}4": "routed"})
    opened = [port(0), port(0, on="::", to="fd00:9::2"), port(8080, on="::", to="fd00:9::2")]
    four, six = tables([routed], opened)["ip"], tables([routed], opened)["ip6"]
    assert list(four.sets["opened"].elements) == [b"\6\0\0\0\n\x09\0\2\0\x50\0\0"]
    assert len(four.chains["from-br-web"].rules) == 2
    assert "opened" not in six.sets
    assert len(six.chains["from-br-web"].rules) == 3
    assert len(six.sets["any-ports"].elements) == 1
    plain = tables([network("web", FOUR, SIX)], [])["ip"]
    assert not {"open", "opened"} & set(plain.sets)
    assert len(four.chains["forward"].rules) == len(plain.chains["forward"].rules) + 1
    unprotected = tables([network(options={f"{MODE}4": "nat-unprotected"})], [])["ip"]
    assert list(unprotected.sets["open"].elements) == [nft.name_bytes("br-web")]
    assert len(unprotected.chains["from-br-web"].rules) == 3


def test_the_source_of_what_leaves() -> None:
    chosen = tables([network(options={"com.docker.network.host_ipv4": "192.0.2.1"})], [])["ip"]
    assert chosen.chains["from-br-web"].rules[-1] == (nft.immediate(ip_address("192.0.2.1").packed, 1), nft.snat("ip", 1))


def test_which_gateways_are_the_hosts() -> None:
    assert [str(address) for address in network("web", FOUR, SIX).host_addresses()] == ["10.9.0.1/24", "fd00:9::1/64"]
    assert [str(address) for address in network("web", FOUR, SIX, options={f"{MODE}6": "isolated"}).host_addresses()] == ["10.9.0.1/24"]
    inhibited = network("web", FOUR, SIX, options={"com.docker.network.bridge.inhibit_ipv4": "true"})
    assert [str(address) for address in inhibited.host_addresses()] == ["fd00:9::1/64"]


PORTS = st.lists(
    st.builds(
        port, st.integers(8080, 8083), on=st.sampled_from(["0.0.0.0", "192.0.2.1", "127.0.0.1"]), to=st.sampled_from(["10.9.0.2", "10.9.0.3"]),
        protocol=st.sampled_from(["tcp", "udp"]),
    ) | st.builds(port, st.integers(8080, 8083), on=st.sampled_from(["::", "::1", "2001:db8::1"]), to=st.just("fd00:9::2"))
    | st.builds(port, st.just(0), on=st.just("0.0.0.0"), to=st.sampled_from(["10.9.0.2", "10.9.0.3"]), protocol=st.sampled_from(["tcp", "udp"])),
    max_size=6,
)  # fmt: skip


def _place(one: PublishedPort) -> tuple[object, ...]:
    return (one.protocol, one.host_address, one.host_port) if one.host_port else (one.protocol, one.address)


@given(PORTS, PORTS, st.sets(st.integers(0, 5)), st.sampled_from([LOOP, None]), st.booleans())
def test_ports_alone_change_what_all_together_would(had: list[PublishedPort], come: list[PublishedPort], going: set[int], loop: ruleset.Loop | None, routed: bool) -> None:
    """The same elements, and the same requests, as when both states are made and compared."""
    networks = [network("web", FOUR, SIX, options={"com.docker.network.bridge.gateway_mode_ipv4": "routed"} if routed else {})]
    before = {_place(one): one for one in had}
    added = {_place(one): one for one in come}
    gone = [one for number, one in enumerate(before.values()) if number in going]
    after = {place: one for place, one in before.items() if one not in gone} | added
    old, new = (ruleset.tables(NAMES, networks, list(ports.values()), loop) for ports in (before, after))
    changes = ruleset.changes_of_ports(old, gone, list(added.values()))
    assert changes is not None
    wanted = ruleset.difference(old, new)
    assert wanted is not None
    assert sorted(request.about for change in changes for request in change.requests()) == sorted(request.about for request in wanted)
    for change in changes:
        change.is_done()
    assert [(table.family, {name: kept.elements for name, kept in table.sets.items()}) for table in old] == [
        (table.family, {name: kept.elements for name, kept in table.sets.items()}) for table in new
    ]  # fmt: skip


def test_ports_that_bring_a_table_of_their_own_are_more_than_elements() -> None:
    old = ruleset.tables(NAMES, [network()], [], LOOP)
    assert ruleset.changes_of_ports(old, [], [port(on="::", to="fd00:9::2")]) is None
    with_it = ruleset.tables(NAMES, [network()], [port(on="::", to="fd00:9::2")], LOOP)
    assert ruleset.changes_of_ports(with_it, [port(on="::", to="fd00:9::2")], []) is None
    with pytest.raises(errors.InvalidParameter, match=r"cannot lead to 10\.9\.0\.2"):
        ruleset.changes_of_ports(old, [], [port(on="::")])
