"""Parsing for networks without an engine; the comparison with Docker's command line is in tests/integration/test_network_cli.py."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.cli import netflags
from berth.cli.fields import csv_fields, ip_address, port_range
from berth.cli.flags import Misuse, Parsed, Refused, UsageError, parse
from berth.cli.ipam import ipam_configs
from berth.cli.ports import ports, published
from berth.cli.ps import shown_ports
from berth.cli.runflags import CREATE_FLAGS
from berth.cli.table import go_time, natural
from berth.engine.nets import container as netcontainer

PORT = st.integers(1, 65535)
ADDRESS = st.ip_addresses()


def flags(*words: str) -> Parsed:
    return parse([*words], CREATE_FLAGS)


@given(st.text(max_size=40) | st.ip_addresses().map(str))
def test_an_address_is_what_python_takes_for_one(text: str) -> None:
    try:
        wanted = "" if "%" in text else str(ipaddress.ip_address(text))
    except ValueError:
        wanted = ""
    found = ip_address(text)
    assert bool(found) == bool(wanted)
    if found and ":" in text and "." not in found:  # Go writes mapped IPv4 addresses as IPv4
        assert found == wanted


@given(PORT, PORT)
def test_ranges_of_ports(first: int, last: int) -> None:
    assert port_range(f"{first}-{last}") == ((first, last) if first <= last else None)
    assert port_range(str(first)) == (first, first)


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "x", "65536", "1-65536", "1-2-3", "+1", " 1", "٣", "9" * 5000])
def test_what_is_no_port(text: str) -> None:
    assert port_range(text) is None


@given(ADDRESS, PORT, PORT, st.sampled_from(["tcp", "udp", "sctp"]), st.booleans())
def test_a_published_port_in_every_spelling(address: ipaddress.IPv4Address | ipaddress.IPv6Address, outside: int, inside: int, protocol: str, bare: bool) -> None:
    shown = f"[{address}]" if address.version == 6 and not bare else str(address)
    assert list(published(f"{shown}:{outside}:{inside}/{protocol}")) == [(f"{inside}/{protocol}", {"HostIp": str(address), "HostPort": str(outside)})]
    assert list(published(f"{shown}::{inside}/{protocol}")) == [(f"{inside}/{protocol}", {"HostIp": str(address), "HostPort": ""})]


@given(st.lists(st.tuples(PORT, PORT, st.integers(0, 20)), max_size=5))
def test_ranges_are_as_long_as_each_other(given_: list[tuple[int, int, int]]) -> None:
    specs = [(a, b, min(n, 65535 - a, 65535 - b)) for a, b, n in given_]
    exposed, bindings = ports([f"{a}-{a + n}:{b}-{b + n}" for a, b, n in specs], [])
    assert sum(map(len, bindings.values())) == sum(n + 1 for _, _, n in specs)
    assert exposed.keys() == bindings.keys() == {f"{b + i}/tcp" for _, b, n in specs for i in range(n + 1)}


@given(st.text(alphabet="0123456789:-/[].=tcpudx,", max_size=24))
def test_no_text_makes_another_error_and_the_engine_takes_what_comes_out(text: str) -> None:
    try:
        exposed, bindings = ports([text], [])
    except Refused:
        return
    if not any(key.startswith("0/") for key in bindings):  # Docker's command line lets port 0 pass, the engine does not
        netcontainer.container({"ExposedPorts": exposed}, {"PortBindings": bindings}, {})


@given(st.text(alphabet="name=n1,alipd-rvotgwy\"' ", max_size=30))
def test_no_network_makes_another_error(text: str) -> None:
    try:
        mode, endpoints = netflags.networks(flags("--network", text))
    except UsageError:
        return
    assert mode
    assert set(endpoints) <= {mode}


def test_the_engine_takes_what_the_flags_become() -> None:
    parsed = flags(
        "--network", "name=n1,alias=a,ip=10.1.0.5,mac-address=02-00-00-00-00-01,gw-priority=3", "--network", "n2", "--link", "x:y",
        "--add-host", "a=[::1]", "--dns", "1.1.1.1", "--dns-search", "x.y",
    )  # fmt: skip
    mode, endpoints = netflags.networks(parsed)
    host = {"NetworkMode": mode, "ExtraHosts": netflags.extra_hosts(parsed), "Dns": netflags.name_servers(parsed),
            "DnsSearch": netflags.search_domains(parsed), "Links": netflags.links(parsed)}  # fmt: skip
    found = netcontainer.container({}, host, endpoints)
    assert list(found.endpoints) == ["n1", "n2"]
    first = found.endpoints["n1"]
    assert (str(first.ipv4), first.mac, first.aliases, first.gw_priority, first.links) == ("10.1.0.5", "02:00:00:00:00:01", ("a",), 3, (("x", "y"),))
    assert (found.hosts, found.dns, found.dns_search) == ((("a", "::1"),), ("1.1.1.1",), ("x.y",))


def test_other_names_of_flags_keep_their_place() -> None:
    parsed = flags("--net", "a", "--network", "b", "--net=c", "--dns-opt", "x", "--dns-option", "y", "--net-alias", "z")
    assert (parsed.list("network"), parsed.list("dns-option"), parsed.list("network-alias")) == (["a", "b", "c"], ["x", "y"], ["z"])
    with pytest.raises(UsageError, match="unknown flag: --net"):
        parse(["--net", "a"], (("other", "", "string", "", ""),))


def test_lists_in_one_word() -> None:
    slices = (("alias", "", "stringSlice", "", ""), ("gateway", "", "ipSlice", "", ""))
    parsed = parse(["--alias", "a,b", "--alias", '"c,d",e', "--alias=", "--gateway=1,2"], slices)
    assert (parsed.list("alias"), parsed.list("gateway")) == (["a", "b", "c,d", "e"], ["1", "2"])
    with pytest.raises(UsageError, match='invalid argument "\\"a" for "--alias" flag'.replace("\\\\", "\\")):
        parse(["--alias", '"a'], slices)
    assert csv_fields('a,"b""c",') == ["a", 'b"c', ""]


def ipam(*words: str) -> list[dict]:
    from berth.cli.network import SYNTAX

    return ipam_configs(SYNTAX["network create"].parse([*words, "n"], "network create"))


def test_what_belongs_to_which_subnet() -> None:
    found = ipam("--subnet", "10.0.0.0/16", "--subnet", "fd00::/64", "--gateway", "fd00::9", "--gateway", "10.0.0.9", "--ip-range", "10.0.5.0/24",
                 "--aux-address", "a=fd00::7", "--aux-address", "b=10.0.0.7")  # fmt: skip
    assert found == [
        {"Subnet": "10.0.0.0/16", "IPRange": "10.0.5.0/24", "Gateway": "10.0.0.9", "AuxiliaryAddresses": {"b": "10.0.0.7"}},
        {"Subnet": "fd00::/64", "Gateway": "fd00::9", "AuxiliaryAddresses": {"a": "fd00::7"}},
    ]
    assert ipam() == []
    with pytest.raises(Misuse, match="overlaps"):
        ipam("--subnet", "10.0.0.0/8", "--subnet", "10.1.0.0/16")


def port(private: int, public: int = 0, address: str = "", kind: str = "tcp") -> dict:
    return {"PrivatePort": private, "Type": kind, **({"PublicPort": public, "IP": address} if public else {})}


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ([], ""), ([port(80)], "80/tcp"), ([port(81), port(80), port(83)], "80-81/tcp, 83/tcp"),
        ([port(80, 8080, "::"), port(80, 8080, "0.0.0.0")], "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
        ([port(80 + i, 80 + i, "::") for i in range(3)], "[::]:80-82->80-82/tcp"),
        ([port(80, 80, "0.0.0.0"), port(80, 80, "0.0.0.0")], "0.0.0.0:80->80/tcp"),
        ([port(53, 53, "0.0.0.0", "udp"), port(53, 53, "0.0.0.0"), port(54, 54, "0.0.0.0")], "0.0.0.0:53-54->53-54/tcp, 0.0.0.0:53->53/udp"),
    ],
)  # fmt: skip
def test_the_column_of_ports(given_: list[dict], text: str) -> None:
    assert shown_ports(given_) == text


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["n10", "n2", "n", "N1", "n-1"], key=natural) == ["N1", "n", "n2", "n10", "n-1"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-01-02T03:04:05.5Z", "2026-01-02 03:04:05.5 +0000 UTC"), ("2026-01-02T03:04:05+02:00", "2026-01-02 03:04:05 +0200 +0200"),
        ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00 +0000 UTC"), ("", ""),
    ],
)  # fmt: skip
def test_times_as_go_prints_them(text: str, shown: str) -> None:
    assert go_time(text).strip() == shown
