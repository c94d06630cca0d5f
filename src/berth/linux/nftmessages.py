"""Requests of nftables: tables, chains, rules, sets and their elements, as bytes; for `Nftables.commit` (nftables.py). Pure.

    rule("ip", "t", "c", meta(IIFNAME), equals(name_bytes("eth0")), verdict(DROP))

A rule's expressions are the kernel's, in the order in which they run. Register 1 is the start of all of them; a field after
another one in a concatenation is at `register_after`.

Source: linux/netfilter/nf_tables.h, nfnetlink.h, nf_conntrack_common.h; nft(8) `--debug=netlink`.
"""

import struct

from berth.linux.netlink import attribute
from berth.linux.netlinksocket import APPEND, CREATE, Request

FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
SUBSYSTEM = 10 << 8
NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE, NEWSET, DELSET, NEWSETELEM, DELSETELEM, NEWGEN = 0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
GENERIC_HEADER = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
_NESTED = 0x8000
_TABLE_NAME, _TABLE_FLAGS = 1, 2
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE, _HOOK_NUMBER, _HOOK_PRIORITY = 1, 3, 4, 5, 7, 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _ELEMENT = 1, 2, 4, 1
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LEN, _SET_DATA_TYPE, _SET_DATA_LEN, _SET_ID, _SET_USERDATA = 1, 2, 3, 4, 5, 6, 7, 10, 13
_SET_INTERVAL, _SET_MAP = 0x4, 0x8
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS_LIST = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS, _INTERVAL_END = 1, 2, 3, 1
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN, _VERDICT_TYPE = 1, 2, 1, 2, 0xFFFFFF00
_HOST_ORDER_KEY = b"\0\4" + struct.pack("=I", 1)  # libnftnl: NFTNL_UDATA_SET_KEYBYTEORDER, host order
_ELEMENTS_A_MESSAGE = 400  # a list's length has 16 bits

# Kinds of fields: nft's number for it, bytes. They say how `nft list` shows a set; the kernel looks at bytes alone.
Field = tuple[int, int]
IPV4_ADDRESS, IPV6_ADDRESS, PROTOCOL, PORT, NAME = (7, 4), (8, 16), (12, 1), (13, 2), (41, 16)

# verdicts
DROP, ACCEPT, JUMP, GOTO, RETURN = 0, 1, -3, -4, -5
# keys of meta and ct; states and status of connections; types of addresses
IIFNAME, OIFNAME, L4PROTO, IIFKIND, OIFKIND = 6, 7, 16, 26, 27
CT_STATE, CT_STATUS = 0, 2
INVALID, ESTABLISHED, RELATED, NEW = 1, 2, 4, 8
STATUS_DNAT = 0x20
ADDRESS_LOCAL = 2
NETWORK, TRANSPORT = 1, 2  # where payload offsets count from


# -- objects ------------------------------------------------------------------------------------


def add_table(family: str, name: str) -> Request:
    """Nothing if it is there."""
    return _request(NEWTABLE, CREATE, family, _text(_TABLE_NAME, name) + _u32(_TABLE_FLAGS, 0), f"add table {family} {name}")


def delete_table(family: str, name: str) -> Request:
    return _request(DELTABLE, 0, family, _text(_TABLE_NAME, name), f"delete table {family} {name}")


def add_chain(family: str, table: str, name: str, *, hook: str = "", kind: str = "filter", priority: int = 0) -> Request:
    """hook: "" for a chain that others jump to. A chain with a hook accepts what its rules do not decide."""
    body = _text(_CHAIN_TABLE, table) + _text(_CHAIN_NAME, name)
    if hook:
        place = _u32(_HOOK_NUMBER, HOOKS[hook]) + attribute(_HOOK_PRIORITY, struct.pack(">i", priority))
        body += nested(_CHAIN_HOOK, place) + _u32(_CHAIN_POLICY, ACCEPT) + _text(_CHAIN_TYPE, kind)
    return _request(NEWCHAIN, CREATE, family, body, f"add chain {family} {table} {name}")


def add_rule(family: str, table: str, chain: str, *expressions: bytes) -> Request:
    """At the end of its chain."""
    body = _text(_RULE_TABLE, table) + _text(_RULE_CHAIN, chain) + nested(_RULE_EXPRESSIONS, b"".join(expressions))
    return _request(NEWRULE, CREATE | APPEND, family, body, f"add rule {family} {table} {chain}")


def add_set(
    family: str, table: str, name: str, number: int, key: "tuple[Field, ...]", *, data: "tuple[Field, ...]" = (),
    verdicts: bool = False, intervals: bool = False,
) -> Request:  # fmt: skip
    """A set of keys, or a map from keys to `data` or to verdicts. number: one of its own in a transaction."""
    flags = (_SET_MAP if data or verdicts else 0) | (_SET_INTERVAL if intervals else 0)
    body = _text(_SET_TABLE, table) + _text(_SET_NAME, name) + _u32(_SET_FLAGS, flags)
    body += _u32(_SET_KEY_TYPE, _kind(key)) + _u32(_SET_KEY_LEN, _length(key))
    if data:
        body += _u32(_SET_DATA_TYPE, _kind(data)) + _u32(_SET_DATA_LEN, _length(data))
    elif verdicts:
        body += _u32(_SET_DATA_TYPE, _VERDICT_TYPE) + _u32(_SET_DATA_LEN, 0)
    body += _u32(_SET_ID, number)
    if key == (NAME,):  # else nft shows an empty text
        body += attribute(_SET_USERDATA, _HOST_ORDER_KEY)
    return _request(NEWSET, CREATE, family, body, f"add set {family} {table} {name}")


def add_elements(family: str, table: str, name: str, elements: "list[bytes]") -> "list[Request]":
    return _elements(NEWSETELEM, CREATE, family, table, name, elements, "add elements to")


def delete_elements(family: str, table: str, name: str, elements: "list[bytes]") -> "list[Request]":
    """ENOENT, for all of them, if one is not there."""
    return _elements(DELSETELEM, 0, family, table, name, elements, "delete elements of")


def element(key: bytes, data: "bytes | None" = None) -> bytes:
    """data: of `value` or `decision`, for a map."""
    return nested(_ELEMENT, nested(_ELEMENT_KEY, value(key)) + (b"" if data is None else nested(_ELEMENT_DATA, data)))


def interval(first: bytes, after: bytes, data: "bytes | None" = None) -> bytes:
    """All keys from `first` to before `after`; past the last key there is, `after` is b""."""
    start = element(first, data)
    return start + nested(_ELEMENT, _u32(_ELEMENT_FLAGS, _INTERVAL_END) + nested(_ELEMENT_KEY, value(after))) if after else start


# -- expressions --------------------------------------------------------------------------------


def meta(key: int, register: int = 1) -> bytes:
    return _expression("meta", _u32(2, key) + _u32(1, register))


def conntrack(key: int, register: int = 1) -> bytes:
    return _expression("ct", _u32(2, key) + _u32(1, register))


def payload(base: int, offset: int, length: int, register: int = 1) -> bytes:
    return _expression("payload", _u32(1, register) + _u32(2, base) + _u32(3, offset) + _u32(4, length))


def equals(data: bytes, register: int = 1) -> bytes:
    return _compare(0, data, register)


def differs(data: bytes, register: int = 1) -> bytes:
    return _compare(1, data, register)


def any_bit(mask: int) -> bytes:
    """Whether the 32 bits that were loaded, in the host's order, have one of those in `mask`."""
    masked = _u32(1, 1) + _u32(2, 1) + _u32(3, 4) + nested(4, value(host_order(mask))) + nested(5, value(bytes(4)))
    return _expression("bitwise", masked) + differs(bytes(4))


def lookup(name: str, *, into: "int | None" = None, register: int = 1) -> bytes:
    """Goes on if a set has what was loaded. into: the register for what a map has there; 0 follows its verdict."""
    return _expression("lookup", _text(1, name) + _u32(2, register) + (b"" if into is None else _u32(3, into)))


def address_type(register: int = 1) -> bytes:
    """What the destination is to this host: compare with ADDRESS_LOCAL."""
    return _expression("fib", _u32(3, 2) + _u32(2, 3) + _u32(1, register))


def immediate(data: bytes, register: int = 1) -> bytes:
    return _expression("immediate", _u32(1, register) + nested(2, value(data)))


def verdict(code: int, chain: str = "") -> bytes:
    return _expression("immediate", _u32(1, 0) + nested(2, decision(code, chain)))


def dnat(family: str, address_register: int, port_register: int) -> bytes:
    return _expression("nat", _u32(1, 1) + _u32(2, FAMILIES[family]) + _u32(3, address_register) + _u32(5, port_register))


def snat(family: str, address_register: int) -> bytes:
    return _expression("nat", _u32(1, 0) + _u32(2, FAMILIES[family]) + _u32(3, address_register))


def masquerade() -> bytes:
    return _expression("masq", b"")


def duplicate(address_register: int, link_register: int) -> bytes:
    """Sends a copy by a link to the neighbour with an address; not for family inet."""
    return _expression("dup", _u32(1, address_register) + _u32(2, link_register))


def register_after(*fields: Field) -> int:
    """Where what follows these fields goes."""
    return 8 + sum(-(-length // 4) for _, length in fields)


# -- values -------------------------------------------------------------------------------------


def value(data: bytes) -> bytes:
    return attribute(_DATA_VALUE, data)


def decision(code: int, chain: str = "") -> bytes:
    """A verdict as a map has it."""
    body = attribute(_VERDICT_CODE, struct.pack(">i", code)) + (_text(_VERDICT_CHAIN, chain) if chain else b"")
    return nested(_DATA_VERDICT, body)


def name_bytes(name: str) -> bytes:
    """An interface's name as a key."""
    return name.encode().ljust(16, b"\0")


def host_order(number: int) -> bytes:
    """32 bits, as marks, indexes of links and kinds of addresses are."""
    return struct.pack("=I", number)


def concatenation(*fields: bytes) -> bytes:
    """Fields beside each other, each on 32 bits."""
    return b"".join(field + bytes(-len(field) % 4) for field in fields)


def nested(number: int, body: bytes) -> bytes:
    return attribute(number | _NESTED, body)


# -- parts --------------------------------------------------------------------------------------


def _request(kind: int, flags: int, family: str, body: bytes, about: str) -> Request:
    return Request(SUBSYSTEM | kind, flags, GENERIC_HEADER.pack(FAMILIES[family], 0, 0) + body, about)


def _elements(kind: int, flags: int, family: str, table: str, name: str, elements: "list[bytes]", verb: str) -> "list[Request]":
    head = _text(_ELEMENTS_TABLE, table) + _text(_ELEMENTS_SET, name)
    return [
        _request(kind, flags, family, head + nested(_ELEMENTS_LIST, b"".join(elements[at : at + _ELEMENTS_A_MESSAGE])), f"{verb} {family} {table} {name}")
        for at in range(0, len(elements), _ELEMENTS_A_MESSAGE)
    ]


def _expression(name: str, data: bytes) -> bytes:
    return nested(_ELEMENT, _text(1, name) + nested(2, data))


def _compare(operation: int, data: bytes, register: int) -> bytes:
    return _expression("cmp", _u32(1, register) + _u32(2, operation) + nested(3, value(data)))


def _kind(fields: "tuple[Field, ...]") -> int:
    kind = 0
    for number, _ in fields:
        kind = kind << 6 | number
    return kind


def _length(fields: "tuple[Field, ...]") -> int:
    """In bytes; beside others, each field is on 32 bits."""
    return fields[0][1] if len(fields) == 1 else sum(-(-length // 4) * 4 for _, length in fields)


def _text(number: int, text: str) -> bytes:
    return attribute(number, text.encode() + b"\0")


def _u32(number: int, value: int) -> bytes:
    return struct.pack("=HH", 8, number) + value.to_bytes(4, "big")
