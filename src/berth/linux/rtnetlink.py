"""Links, addresses and routes of one network namespace, through netlink. No policy.

    route = Route()                      # of this process's namespace, or Route(fd): a socket made in another one
    route.do(rtrequests.add_bridge("br0"), rtrequests.set_link("br0", up=True))    # one system call; raises Refused
    route.link("br0").index

Requests are in rtrequests.py. Source: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h.
"""

import errno
import os
import struct

from berth.linux import netlink, netlinksocket
from berth.linux import rtrequests as rt
from berth.linux.netlink import ADDRESS_HEADER, LINK_HEADER, attribute, parse_attributes
from berth.linux.netlinksocket import DUMP, Refused, Request
from berth.linux.sockets import address_text

_NETLINK_ROUTE = 0
_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_TABLE_LOCAL, _CLONED = 255, 0x200
_COUNTERS = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")


class Link:
    """An interface. master, parent: indexes, 0 for none; kind: "" for hardware; mtu in bytes; counters: None where not asked for."""

    __slots__ = ("alias", "counters", "flags", "index", "kind", "mac", "master", "mtu", "name", "parent")

    def __init__(self, message: bytes) -> None:
        _, _, self.index, self.flags, _ = LINK_HEADER.unpack_from(message)
        found = parse_attributes(message[LINK_HEADER.size :])
        info = parse_attributes(found.get(rt.IFLA_LINKINFO, b""))
        self.name = _text(found.get(rt.IFLA_IFNAME))
        self.kind = _text(info.get(rt.INFO_KIND))
        self.alias = _text(found.get(rt.IFLA_ALIAS))
        self.mac = found.get(rt.IFLA_ADDRESS, b"").hex(":")
        self.master = _number(found.get(rt.IFLA_MASTER))
        self.parent = _number(found.get(rt.IFLA_LINK))
        self.mtu = _number(found.get(rt.IFLA_MTU))
        statistics = found.get(rt.IFLA_STATS64, b"")
        self.counters = dict(zip(_COUNTERS, struct.unpack_from("=8Q", statistics), strict=True)) if len(statistics) >= 64 else None

    @property
    def is_up(self) -> bool:
        """Whether it was switched on; it may have no carrier."""
        return bool(self.flags & netlink.IFF_UP)


class RouteEntry:
    """destination: a subnet, "" for the default route; gateway: "" for none; index: of the link, 0 for none (unreachable ...).

    protocol: who made it (rtnetlink.h).
    """

    __slots__ = ("destination", "gateway", "index", "metric", "protocol", "table", "version")

    def __init__(self, message: bytes) -> None:
        family, prefix_length, _, _, table, self.protocol, _, _, _ = rt.ROUTE_HEADER.unpack_from(message)
        found = parse_attributes(message[rt.ROUTE_HEADER.size :])
        self.version = 6 if family == rt.AF_INET6 else 4
        self.destination = f"{address_text(found[rt.RTA_DST])}/{prefix_length}" if rt.RTA_DST in found else ""
        self.gateway = address_text(found[rt.RTA_GATEWAY]) if rt.RTA_GATEWAY in found else ""
        self.index = _number(found.get(rt.RTA_OIF))
        self.metric = _number(found.get(rt.RTA_PRIORITY))
        self.table = _number(found.get(rt.RTA_TABLE)) or table


class Route:
    """A rtnetlink socket: works in the network namespace that it was made in, whatever its process has joined since. Close it.

    fd: a descriptor of such a socket, which this takes over. Every method raises Refused, an OSError.
    """

    __slots__ = ("_netlink",)

    def __init__(self, fd: "int | None" = None) -> None:
        self._netlink = netlinksocket.NetlinkSocket(_NETLINK_ROUTE, fd)

    def fileno(self) -> int:
        return self._netlink.fileno()

    def close(self) -> None:
        self._netlink.close()

    def do(self, *requests: Request) -> None:
        """All of them in order, in one system call. What one of them is refused keeps none of the others from being done."""
        self._netlink.do(*requests)

    def link(self, link: "str | int") -> Link:
        """ENODEV if there is none."""
        head, extra = (LINK_HEADER.pack(0, 0, link, 0, 0), b"") if isinstance(link, int) else (LINK_HEADER.pack(0, 0, 0, 0, 0), _name(link))
        found = self._netlink.ask(Request(_GETLINK, 0, head + extra, f"find {link}"))
        if not found:
            raise Refused(errno.ENODEV, f"find {link}", "", 0)
        return Link(found[0])

    def find(self, link: "str | int") -> "Link | None":
        """As `link`, None if there is none."""
        try:
            return self.link(link)
        except Refused as error:
            if error.errno in (errno.ENODEV, errno.EINVAL, errno.ERANGE):  # the latter: a name that none can have
                return None
            raise

    def links(self) -> "list[Link]":
        return [Link(message) for message in self._netlink.ask(Request(_GETLINK, DUMP, LINK_HEADER.pack(0, 0, 0, 0, 0), "list links"))]

    def addresses(self, index: int = 0) -> "list[tuple[int, str]]":
        """Index of the link and address with prefix length, of one link or all."""
        found = []
        for message in self._netlink.ask(Request(_GETADDR, DUMP, ADDRESS_HEADER.pack(0, 0, 0, 0, index), "list addresses")):
            _, prefix_length, _, _, owner = ADDRESS_HEADER.unpack_from(message)
            held = parse_attributes(message[ADDRESS_HEADER.size :])
            packed = held.get(rt.IFA_LOCAL) or held.get(rt.IFA_ADDRESS)
            if packed and index in (0, owner):
                found.append((owner, f"{address_text(packed)}/{prefix_length}"))
        return found

    def routes(self) -> "list[RouteEntry]":
        """Of all tables but the one for the host's own addresses."""
        messages = []
        for family in (rt.AF_INET, rt.AF_INET6):
            try:
                messages += self._netlink.ask(Request(_GETROUTE, DUMP, rt.ROUTE_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list routes"))
            except Refused as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # a kernel without IPv6
                    raise
        entries = [RouteEntry(message) for message in messages if not rt.ROUTE_HEADER.unpack_from(message)[8] & _CLONED]
        return [entry for entry in entries if entry.table != _TABLE_LOCAL]


def _name(name: str) -> bytes:
    return attribute(rt.IFLA_IFNAME, os.fsencode(name) + b"\0")


def _text(value: "bytes | None") -> str:
    return os.fsdecode(value.rstrip(b"\0")) if value else ""


def _number(value: "bytes | None") -> int:
    return int.from_bytes(value, "little") if value else 0
