"""Packet rules of one network namespace, through netlink: changed in transactions, listed, watched. No policy.

    nft = Nftables()
    nft.commit(add_table("ip", "t"), …)    # all of it or nothing; raises Refused

Requests are in nftmessages.py. Source: linux/netfilter/nf_tables.h, nfnetlink.h; net/netfilter/nfnetlink.c for batches.
"""

import errno
import os

from berth.linux import netlinksocket, sockets
from berth.linux import nftmessages as nft
from berth.linux.netlink import HEADER, attribute, parse_attributes
from berth.linux.netlinksocket import DUMP, Request

_NETLINK_NETFILTER, _GROUP_NFTABLES = 12, 7
_BATCH_BEGIN, _BATCH_END = 16, 17
_GETTABLE, _GETCHAIN, _GETRULE = 1, 4, 7
_TABLE_NAME, _RULE_TABLE = 1, 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_USE, _CHAIN_TYPE, _HOOK_NUMBER, _HOOK_PRIORITY = 1, 3, 4, 5, 6, 7, 1, 2
_FAMILIES = {number: name for name, number in nft.FAMILIES.items()}
_HOOKS = {number: name for name, number in nft.HOOKS.items()}
_SOL_SOCKET, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _MSG_DONTWAIT = 1, 32, 33, 0x40
_SENT_BYTES = 100_000  # what fits into a socket's buffer as it is
_WATCHED_BYTES = 1 << 22
DNS_TABLE, _DNS_ADDRESS, _DNS_PORT = "berth-dns", "127.0.0.11", 53
_UDP, _TCP = 17, 6
DSTNAT = -100  # priorities as nft names them


class Chain:
    """hook: "" for one that others jump to; kind: filter, nat or route; policy: whether it drops what no rule decides; rules: how many."""

    __slots__ = ("drops", "family", "hook", "kind", "name", "priority", "rules", "table")

    def __init__(self, message: bytes) -> None:
        self.family = _FAMILIES.get(message[0], str(message[0]))
        found = parse_attributes(message[nft.GENERIC_HEADER.size :])
        place = parse_attributes(found.get(_CHAIN_HOOK, b""))
        self.table, self.name, self.kind = (_text(found.get(number)) for number in (_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_TYPE))
        number = int.from_bytes(place.get(_HOOK_NUMBER, b""), "big")
        self.hook = _HOOKS.get(number, str(number)) if place else ""
        self.priority = int.from_bytes(place.get(_HOOK_PRIORITY, b""), "big", signed=True)
        self.drops = bool(place) and not int.from_bytes(found.get(_CHAIN_POLICY, b"\1"), "big")
        self.rules = int.from_bytes(found.get(_CHAIN_USE, b""), "big")


class Nftables:
    """A nfnetlink socket in the network namespace that this thread is in. Close it. Methods raise Refused, an OSError."""

    __slots__ = ("_netlink",)

    def __init__(self) -> None:
        self._netlink = netlinksocket.NetlinkSocket(_NETLINK_NETFILTER)

    @property
    def port(self) -> int:
        """By which events say who made them."""
        return self._netlink.port

    def close(self) -> None:
        self._netlink.close()

    def commit(self, *requests: Request) -> None:
        """All of them in one transaction: packets see none of it or everything."""
        if not requests:
            return
        size = sum(len(request.body) + HEADER.size for request in requests)
        if size > _SENT_BYTES:
            self._netlink.set_option(_SOL_SOCKET, _SO_SNDBUFFORCE, 2 * size)
        self._netlink.do(_edge(_BATCH_BEGIN), *requests, _edge(_BATCH_END), answered=len(requests))

    def tables(self) -> "list[tuple[str, str]]":
        """Family and name of each."""
        found = self._netlink.ask(Request(nft.SUBSYSTEM | _GETTABLE, DUMP, bytes(4), "list tables"))
        return [
            (_FAMILIES.get(message[0], str(message[0])), _text(parse_attributes(message[nft.GENERIC_HEADER.size :]).get(_TABLE_NAME)))
            for message in found
        ]

    def chains(self) -> "list[Chain]":
        return [Chain(message) for message in self._netlink.ask(Request(nft.SUBSYSTEM | _GETCHAIN, DUMP, bytes(4), "list chains"))]

    def rules(self, family: str, table: str) -> "list[bytes]":
        """All rules of a table, as the kernel has them."""
        body = nft.GENERIC_HEADER.pack(nft.FAMILIES[family], 0, 0) + attribute(_RULE_TABLE, table.encode() + b"\0")
        return self._netlink.ask(Request(nft.SUBSYSTEM | _GETRULE, DUMP, body, f"list rules of {family} {table}"))


class Event:
    """Something that was changed. kind: of nftmessages (DELTABLE …); port: of the socket that did it."""

    __slots__ = ("family", "kind", "port", "table")

    def __init__(self, kind: int, port: int, family: str, table: str) -> None:
        self.kind = kind
        self.port = port
        self.family = family
        self.table = table


class Watch:
    """Hears of every change to rules in a network namespace. Close it."""

    __slots__ = ("_netlink",)

    def __init__(self) -> None:
        self._netlink = netlinksocket.NetlinkSocket(_NETLINK_NETFILTER)
        try:
            self._netlink.set_option(_SOL_SOCKET, _SO_RCVBUFFORCE, _WATCHED_BYTES)
            self._netlink.join(_GROUP_NFTABLES)
        except BaseException:
            self._netlink.close()
            raise

    def fileno(self) -> int:
        return self._netlink.fileno()

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> "list[Event] | None":
        """What has happened since, oldest first; None if there was too much of it to know. Never waits."""
        events: list[Event] = []
        lost = False
        while True:
            try:
                data = self._netlink.receive()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if not data:
                return None if lost else events
            events += _events(data)


def lead_dns(udp_port: int, tcp_port: int) -> None:
    """In the network namespace that this thread is in: 127.0.0.11 port 53 leads to these ports of it. Raises OSError.

    Connection tracking turns the answers round. What an earlier call made is replaced.
    """
    address = sockets.pack_address(_DNS_ADDRESS)
    requests = [
        nft.add_table("ip", DNS_TABLE), nft.delete_table("ip", DNS_TABLE), nft.add_table("ip", DNS_TABLE),
        nft.add_chain("ip", DNS_TABLE, "output", hook="output", kind="nat", priority=DSTNAT),
    ]  # fmt: skip
    for protocol, port in ((_UDP, udp_port), (_TCP, tcp_port)):
        requests.append(nft.add_rule(
            "ip", DNS_TABLE, "output",
            nft.payload(nft.NETWORK, 16, 4), nft.equals(address),
            nft.meta(nft.L4PROTO), nft.equals(bytes((protocol,))),
            nft.payload(nft.TRANSPORT, 2, 2), nft.equals(_DNS_PORT.to_bytes(2, "big")),
            nft.immediate(address, 1), nft.immediate(port.to_bytes(2, "big"), 2), nft.dnat("ip", 1, 2),
        ))  # fmt: skip
    here = Nftables()
    try:
        here.commit(*requests)
    finally:
        here.close()


def _events(data: bytes) -> "list[Event]":
    events = []
    while len(data) >= HEADER.size:
        length, kind, _, _, port = HEADER.unpack_from(data)
        if length < HEADER.size + nft.GENERIC_HEADER.size:
            break
        if kind & 0xFF00 == nft.SUBSYSTEM:
            body = data[HEADER.size : length]
            # The first attribute of every kind of message but NEWGEN is the table's name.
            table = "" if kind & 0xFF == nft.NEWGEN else _text(parse_attributes(body[nft.GENERIC_HEADER.size :]).get(_TABLE_NAME))
            events.append(Event(kind & 0xFF, port, _FAMILIES.get(body[0], str(body[0])), table))
        data = data[-(-length // 4) * 4 :]
    return events


def _edge(kind: int) -> Request:
    """Begin or end of a transaction."""
    return Request(kind, 0, nft.GENERIC_HEADER.pack(0, 0, int.from_bytes(b"\0\x0a", "little")), "change packet rules")


def _text(data: "bytes | None") -> str:
    return os.fsdecode(data.rstrip(b"\0")) if data else ""
