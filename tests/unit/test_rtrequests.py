"""Requests of rtnetlink beside those that iproute2 6.1 sends for the same; taken with `strace -xx -e write=3`."""

import pytest

from berth.linux import rtrequests as rt
from berth.linux.netlinksocket import Request

INDEX = 3  # of d0, where these were taken
TAKEN = [
    ("ip link add name br0 type bridge mcast_snooping 0", rt.add_bridge("br0", snooping=False), 0x605,
     "0000000000000000000000000000000008000300627230001c0012000a00010062726964676500000c0002000500170000000000"),
    ("ip link add name v0 mtu 1400 type veth peer name v1 address 02:00:00:00:00:01 mtu 1400", rt.add_veth("v0", "v1", peer_mac="02:00:00:00:00:01", mtu=1400), 0x605,
     "00000000000000000000000000000000080004007805000007000300763000004000120008000100766574683400020030000100000000000000000000000000000000000a000100020000000001000008000400780500000700030076310000"),
    ("ip link set d0 up", rt.set_link(INDEX, up=True), 0x5, "00000000030000000100000001000000"),
    ("ip link set d0 addrgenmode none", rt.no_link_local(INDEX), 0x5, "0000000003000000000000000000000010001a000c000a000500080001000000"),
    ("ip link set d0 alias hello", rt.set_link(INDEX, alias="hello"), 0x5, "000000000300000000000000000000000900140068656c6c6f000000"),
    ("ip link add link d0 name m0 type macvlan mode bridge", rt.add_macvlan("m0", INDEX), 0x605,
     "000000000000000000000000000000000800050003000000070003006d3000001c0012000b0001006d6163766c616e000c0002000800010004000000"),
    ("ip link add link d0 name i0 type ipvlan mode l3 private", rt.add_ipvlan("i0", INDEX, mode="l3", flag="private"), 0x605,
     "0000000000000000000000000000000008000500030000000700030069300000240012000a0001006970766c616e00001400020006000100010000000600020001000000"),
    ("ip link add link d0 name d0.5 type vlan id 5", rt.add_vlan("d0.5", INDEX, 5), 0x605,
     "0000000000000000000000000000000008000500030000000900030064302e35000000001800120008000100766c616e0c0002000600010005000000"),
    ("ip addr add 10.1.0.1/24 broadcast 10.1.0.255 dev d0", rt.add_address(INDEX, "10.1.0.1/24"), 0x605,
     "0218000003000000080002000a010001080004000a0100ff080001000a010001"),
    ("ip addr add fd00::1/64 dev d0 nodad", rt.add_address(INDEX, "fd00::1/64"), 0x605,
     "0a4002000300000014000200fd00000000000000000000000000000114000100fd000000000000000000000000000001"),
    ("ip addr del 10.1.0.1/24 dev d0", rt.delete_address(INDEX, "10.1.0.1/24"), 0x5, "0218000003000000080002000a010001080001000a010001"),
    ("ip route add default via 10.0.0.1", rt.add_route("0.0.0.0/0", gateway="10.0.0.1"), 0x605, "02000000fe03000100000000080005000a000001"),
    ("ip route add 10.7.0.0/16 dev d0", rt.add_route("10.7.0.0/16", index=INDEX), 0x605, "02100000fe03fd0100000000080001000a0700000800040003000000"),
    ("ip route add default via 172.16.0.1 dev d0 onlink", rt.add_route("0.0.0.0/0", gateway="172.16.0.1", index=INDEX, on_link=True), 0x605,
     "02000000fe0300010400000008000500ac1000010800040003000000"),
    ("ip -6 route add 2001:db8::/32 via fd00::9 dev d0", rt.add_route("2001:db8::/32", gateway="fd00::9", index=INDEX), 0x605,
     "0a200000fe030001000000001400010020010db800000000000000000000000014000500fd0000000000000000000000000000090800040003000000"),
    ("ip neigh replace 10.0.0.7 lladdr 02:00:00:00:00:07 dev d0 nud permanent", rt.set_neighbour(INDEX, "10.0.0.7", "02:00:00:00:00:07"), 0x505,
     "020000000300000080000000080001000a0000070a0002000200000000070000"),
    ("ip link del br0", rt.delete_link(4), 0x5, "00000000040000000000000000000000"),
]  # fmt: skip
HEAD_BYTES = {rt.NEWLINK: 16, rt.DELLINK: 16, rt.NEWADDR: 8, rt.DELADDR: 8, rt.NEWROUTE: 12, rt.DELROUTE: 12, rt.NEWNEIGH: 12}
NESTED = {(18,), (18, 2), (18, 2, 1), (26,), (26, 10)}  # IFLA_LINKINFO, its INFO_DATA, a veth's peer; IFLA_AF_SPEC


def tree(data: bytes, path: tuple[int, ...] = (), kind: bytes = b"") -> dict[int, object]:
    """Attributes by number: their order means nothing. Texts with and without their zero at the end are the same."""
    found: dict[int, object] = {}
    while data:
        length, number = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
        value, here = data[4:length], (*path, number)
        if here == (18, 1):
            kind = value.rstrip(b"\0")
        if here == (18, 2, 1) and kind == b"veth":
            found[number] = (value[:16], tree(value[16:], ()))
        elif here in NESTED and here != (18, 2, 1):
            found[number] = tree(value, here, kind)
        else:
            found[number] = value.rstrip(b"\0") if here in ((3,), (20,), (18, 1)) else value
        data = data[-(-length // 4) * 4 :]
    return found


@pytest.mark.parametrize(("request_", "flags", "taken"), [entry[1:] for entry in TAKEN], ids=[entry[0] for entry in TAKEN])
def test_as_iproute2_has_it(request_: Request, flags: int, taken: str) -> None:
    theirs, head = bytes.fromhex(taken), HEAD_BYTES[request_.kind]
    assert request_.body[:head] == theirs[:head]
    assert tree(request_.body[head:]) == tree(theirs[head:])
    assert request_.flags | 0x5 == flags  # 5: a request, to be answered
    assert len(request_.body) % 4 == 0


def test_the_tree_sees_a_difference() -> None:
    assert tree(rt.add_ipvlan("i0", INDEX, mode="l2").body[16:]) != tree(rt.add_ipvlan("i0", INDEX, mode="l3").body[16:])
    assert tree(rt.add_veth("a", "b", mtu=1400).body[16:]) != tree(rt.add_veth("a", "c", mtu=1400).body[16:])


def test_a_link_by_name_or_index() -> None:
    assert rt.delete_link("br0").body == bytes(16) + b"\x08\0\x03\0br0\0"
    assert rt.set_link("br0", up=False).about == "set br0 down"
    assert rt.set_link(4, name="eth1").body == bytes.fromhex("00000000040000000000000000000000090003006574683100000000")


def test_link_local_addresses_have_their_scope() -> None:
    assert [rt.add_address(1, text).body[3] for text in ("169.254.1.1/30", "fe80::1/64", "10.0.0.1/8", "fd00::1/64")] == [253, 253, 0, 0]
