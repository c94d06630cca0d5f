"""Requests of nftables beside those that nft 1.0.6 sends for the same; taken with `strace -xx -e write=3`.

nft also numbers the sets that it names, and keeps notes for itself on how they are written: neither is compared.
"""

import pytest

from berth.linux import nftmessages as nft
from berth.linux.netlinksocket import Request

A = bytes((10, 9, 0, 0))
PORT_KEY = (nft.PROTOCOL, nft.IPV4_ADDRESS, nft.PORT)
TAKEN = [
    ("chain published { }", nft.add_chain("ip", "t", "published"), "0200000006000100740000000e0003007075626c6973686564000000"),
    ("type filter hook prerouting priority -300", nft.add_chain("ip", "t", "raw", hook="prerouting", priority=-300),
     "02000000060001007400000008000300726177000b00070066696c746572000014000480080001000000000008000200fffffed4"),
    ("type nat hook postrouting priority 100", nft.add_chain("ip", "t", "postrouting", hook="postrouting", kind="nat", priority=100),
     "02000000060001007400000010000300706f7374726f7574696e6700080007006e6174001400048008000100000000040800020000000064"),
    ("set bridges { type ifname; }", nft.add_set("ip", "t", "bridges", 1, (nft.NAME,)),
     "0200000006000100740000000c000200627269646765730008000300000000000800040000000029080005000000001008000a00000000010a000d000004010000000000"),
    ("elements = { \"br-web\" }", nft.add_elements("ip", "t", "bridges", [nft.element(nft.name_bytes("br-web"))])[0],
     "0200000006000100740000000c00020062726964676573000800040000000001200003801c000180180001801400010062722d77656200000000000000000000"),
    ("map sources { type ipv4_addr : verdict; flags interval; }",
     nft.add_set("ip", "t", "sources", 2, (nft.IPV4_ADDRESS,), verdicts=True, intervals=True),
     "0200000006000100740000000c000200736f757263657300080003000000000c0800040000000007080005000000000408000600ffffff00080007000000000008000a000000000216000d000004020000000104000000000604000000000000"),
    ("elements = { 10.9.0.0/24 : goto a }", nft.add_elements("ip", "t", "sources", [
        nft.nested(1, b"\x08\0\3\0\0\0\0\1" + nft.nested(1, nft.value(bytes(4)))),  # nft's own: that nothing is before the first
        nft.interval(A, bytes((10, 9, 1, 0)), nft.decision(nft.GOTO, "a"))])[0],
     "0200000006000100740000000c000200736f75726365730008000400000000025c0003801800018008000300000000010c0001800800010000000000280002800c000180080001000a090000180002801400028008000100fffffffc06000200610000001800038008000300000000010c000180080001000a090100"),
    ("map ports { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }",
     nft.add_set("ip", "t", "ports", 3, PORT_KEY, data=(nft.IPV4_ADDRESS, nft.PORT)),
     "0200000006000100740000000a000200706f7274730000000800030000000008080004000000c1cd080005000000000c08000600000001cd080007000000000808000a00000000032a000d00000400000000010400000000030800040d0000000100040800040d00000001000604000000000000"),
    ("elements = { tcp . 192.0.2.1 . 8080 : 10.9.0.2 . 80 }", nft.add_elements("ip", "t", "ports", [
        nft.element(nft.concatenation(b"\6", bytes((192, 0, 2, 1)), b"\x1f\x90"), nft.value(nft.concatenation(bytes((10, 9, 0, 2)), b"\0P")))])[0],
     "0200000006000100740000000a000200706f72747300000008000400000000032c00038028000180140001801000010006000000c00002011f900000100002800c0001000a09000200500000"),
    ("oifname \"br-web\" ct status dnat masquerade", nft.add_rule("ip", "t", "a",
        nft.meta(nft.OIFNAME), nft.equals(nft.name_bytes("br-web")), nft.conntrack(nft.CT_STATUS), nft.any_bit(nft.STATUS_DNAT), nft.masquerade()),
     "02000000060001007400000006000200610000000401048024000180090001006d6574610000000014000280080002000000000708000100000000013800018008000100636d70002c00028008000100000000010800020000000000180003801400010062722d776562000000000000000000002000018007000100637400001400028008000200000000020800010000000001440001800c0001006269747769736500340002800800010000000001080002000000000108000300000000040c00048008000100200000000c00058008000100000000002c00018008000100636d700020000280080001000000000108000200000000010c000380080001000000000014000180090001006d6173710000000004000280"),
    ("dnat ip to meta l4proto . ip daddr . th dport map @ports", nft.add_rule("ip", "t", "published",
        nft.meta(nft.L4PROTO), nft.payload(nft.NETWORK, 16, 4, nft.register_after(nft.PROTOCOL)),
        nft.payload(nft.TRANSPORT, 2, 2, nft.register_after(nft.PROTOCOL, nft.IPV4_ADDRESS)),
        nft.lookup("ports", into=1), nft.dnat("ip", 1, nft.register_after(nft.IPV4_ADDRESS))),
     "0200000006000100740000000e0002007075626c6973686564000000f800048024000180090001006d657461000000001400028008000200000000100800010000000001340001800c0001007061796c6f616400240002800800010000000009080002000000000108000300000000100800040000000004340001800c0001007061796c6f61640024000280080001000000000a080002000000000208000300000000020800040000000002380001800b0001006c6f6f6b7570000028000280080002000000000108000300000000010a000100706f727473000000080004000000000330000180080001006e617400240002800800010000000001080002000000000208000300000000010800050000000009"),
    ("fib daddr type local drop", nft.add_rule("ip", "t", "published",
        nft.address_type(), nft.equals(nft.host_order(nft.ADDRESS_LOCAL)), nft.verdict(nft.DROP)),
     "0200000006000100740000000e0002007075626c6973686564000000880004802800018008000100666962001c0002800800030000000002080002000000000308000100000000012c00018008000100636d700020000280080001000000000108000200000000000c0003800800010002000000300001800e000100696d6d6564696174650000001c0002800800010000000000100002800c0002800800010000000000"),
    ("iifname @bridges ip saddr 127.0.0.0/8 drop", nft.add_rule("ip", "t", "raw",
        nft.meta(nft.IIFNAME), nft.lookup("bridges"), nft.payload(nft.NETWORK, 12, 1), nft.equals(b"\x7f"), nft.verdict(nft.DROP)),
     "0200000006000100740000000800020072617700e800048024000180090001006d657461000000001400028008000200000000060800010000000001300001800b0001006c6f6f6b757000002000028008000200000000010c00010062726964676573000800040000000001340001800c0001007061796c6f6164002400028008000100000000010800020000000001080003000000000c08000400000000012c00018008000100636d700020000280080001000000000108000200000000000c000380050001007f000000300001800e000100696d6d6564696174650000001c0002800800010000000000100002800c0002800800010000000000"),
    ("ip saddr vmap @sources", nft.add_rule("ip", "t", "postrouting", nft.payload(nft.NETWORK, 12, 4), nft.lookup("sources", into=0)),
     "02000000060001007400000010000200706f7374726f7574696e670070000480340001800c0001007061796c6f6164002400028008000100000000010800020000000001080003000000000c0800040000000004380001800b0001006c6f6f6b7570000028000280080002000000000108000300000000000c000100736f7572636573000800040000000002"),
    ("iifname != \"lo\" return", nft.add_rule("ip", "t", "postrouting", nft.meta(nft.IIFNAME), nft.differs(nft.name_bytes("lo")), nft.verdict(nft.RETURN)),
     "02000000060001007400000010000200706f7374726f7574696e67009000048024000180090001006d6574610000000014000280080002000000000608000100000000013800018008000100636d70002c0002800800010000000001080002000000000118000380140001006c6f0000000000000000000000000000300001800e000100696d6d6564696174650000001c0002800800010000000000100002800c00028008000100fffffffb"),
    ("dup to 169.254.255.1 device lo", nft.add_rule("ip", "t", "around",
        nft.immediate(bytes((169, 254, 255, 1)), 1), nft.immediate(nft.host_order(1), 2), nft.duplicate(1, 2)),
     "0200000006000100740000000b00020061726f756e6400007c0004802c0001800e000100696d6d6564696174650000001800028008000100000000010c00028008000100a9feff012c0001800e000100696d6d6564696174650000001800028008000100000000020c00028008000100010000002000018008000100647570001400028008000100000000010800020000000002"),
    ("jump a", nft.add_rule("ip", "t", "around", nft.verdict(nft.JUMP, "a")),
     "0200000006000100740000000b00020061726f756e6400003c000480380001800e000100696d6d656469617465000000240002800800010000000000180002801400028008000100fffffffd0600020061000000"),
]  # fmt: skip
CHAIN_POLICY = 5  # nft leaves it to the kernel, which takes the same one


def tree(data: bytes) -> list[tuple[int, object]]:
    """Attributes, sorted: their order means nothing but in lists, where all have one number."""
    found: list[tuple[int, object]] = []
    while data:
        length, number = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
        value = data[4:length]
        found.append((number & 0x3FFF, tree(value) if number & 0x8000 else value))
        data = data[-(-length // 4) * 4 :]
    return sorted(found, key=lambda entry: entry[0])


def compared(kind: int, data: bytes) -> list[tuple[int, object]]:
    found = tree(data)
    if kind == nft.NEWSET:
        return [entry for entry in found if entry[0] != 13 or (4, (0x29).to_bytes(4, "big")) in found]
    if kind == nft.NEWSETELEM:
        # nft counts the elements of a list; the kernel looks at their order alone
        return [(number, [entry[1] for entry in value] if number == 3 else value) for number, value in found if number != 4]  # type: ignore[attr-defined]
    if kind == nft.NEWCHAIN:
        return [entry for entry in found if entry[0] != CHAIN_POLICY]
    return without_set_numbers(found)


def without_set_numbers(entries: list[tuple[int, object]]) -> list[tuple[int, object]]:
    """The same rule, its lookups without the number of their set."""
    if (1, b"lookup\0") in entries:
        return [(number, [entry for entry in value if entry[0] != 4] if isinstance(value, list) else value) for number, value in entries]
    return [(number, without_set_numbers(value) if isinstance(value, list) else value) for number, value in entries]


@pytest.mark.parametrize(("request_", "taken"), [entry[1:] for entry in TAKEN], ids=[entry[0] for entry in TAKEN])
def test_as_nft_has_it(request_: Request, taken: str) -> None:
    theirs, kind = bytes.fromhex(taken), request_.kind & 0xFF
    assert request_.body[:4] == theirs[:4]
    assert compared(kind, request_.body[4:]) == compared(kind, theirs[4:])
    assert len(request_.body) % 4 == 0


def test_the_comparison_sees_a_difference() -> None:
    one, other = (nft.add_rule("ip", "t", "a", nft.lookup(name, into=1)) for name in ("ports", "sorts"))
    assert compared(nft.NEWRULE, one.body[4:]) != compared(nft.NEWRULE, other.body[4:])


def test_registers_of_concatenations() -> None:
    assert nft.register_after(nft.PROTOCOL) == 9
    assert nft.register_after(nft.PROTOCOL, nft.IPV6_ADDRESS) == 13
    assert nft.register_after(nft.PROTOCOL, nft.IPV4_ADDRESS, nft.PORT) == 11


def test_many_elements_are_several_messages() -> None:
    """A list's length has 16 bits."""
    elements = [nft.element(number.to_bytes(16, "big"), nft.value(bytes(20))) for number in range(1000)]
    requests = nft.add_elements("ip6", "t", "s", elements)
    assert len(requests) == 3
    assert all(len(request.body) < 65536 for request in requests)
    assert requests[0].body.endswith(elements[399])
