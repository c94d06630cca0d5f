"""Connections that the kernel tracks, of one network namespace: found and forgotten. No policy.

Source: linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c.
"""

import errno
import struct

from berth.linux import netlinksocket
from berth.linux.netlink import attribute, parse_attributes
from berth.linux.netlinksocket import DUMP, Request
from berth.linux.nftmessages import FAMILIES, GENERIC_HEADER, nested

_NETLINK_NETFILTER = 12
_SUBSYSTEM, _GET, _DELETE = 1 << 8, 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE, _IP_DESTINATION = {"ip": 1, "ip6": 3}, {"ip": 2, "ip6": 4}
_PROTO_NUMBER, _PROTO_SOURCE, _PROTO_DESTINATION = 1, 2, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS, _BY_PROTOCOL, _BY_DESTINATION_PORT = 1, 2, 1 << 3, 1 << 5
_AT_ONCE = 200  # requests in one message


class Flow:
    """destination, port: where it was sent to; leads_to: the address and port that answer, which are others after DNAT."""

    __slots__ = ("_body", "destination", "leads_to", "port")

    def __init__(self, family: str, message: bytes) -> None:
        found = parse_attributes(message[GENERIC_HEADER.size :])
        sent, answered = (parse_attributes(found.get(number, b"")) for number in (_TUPLE_ORIG, _TUPLE_REPLY))
        self.destination = parse_attributes(sent.get(_TUPLE_IP, b"")).get(_IP_DESTINATION[family], b"")
        self.port = _port(sent, _PROTO_DESTINATION)
        self.leads_to = (parse_attributes(answered.get(_TUPLE_IP, b"")).get(_IP_SOURCE[family], b""), _port(answered, _PROTO_SOURCE))
        self._body = nested(_TUPLE_ORIG, found.get(_TUPLE_ORIG, b""))
        for number in (_ID, _ZONE):
            if number in found:
                self._body += attribute(number, found[number])

    def forgetting(self, family: str) -> Request:
        return Request(_SUBSYSTEM | _DELETE, 0, _head(family) + self._body, "forget a connection", (errno.ENOENT,))


class Conntrack:
    """A socket in the network namespace that this thread is in. Close it. Methods raise Refused, an OSError."""

    __slots__ = ("_netlink",)

    def __init__(self) -> None:
        self._netlink = netlinksocket.NetlinkSocket(_NETLINK_NETFILTER)

    def close(self) -> None:
        self._netlink.close()

    def flows(self, family: str, protocol: int, port: int) -> "list[Flow]":
        """Those that were sent to a port, of any address."""
        wanted = attribute(_PROTO_NUMBER, bytes((protocol,))) + attribute(_PROTO_DESTINATION, port.to_bytes(2, "big"))
        # The kernel chooses, from 5.8 on; an older one lists everything, and much of it.
        flags = attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_PROTOCOL | _BY_DESTINATION_PORT)) + attribute(_FILTER_REPLY_FLAGS, bytes(4))
        body = _head(family) + nested(_TUPLE_ORIG, nested(_TUPLE_PROTO, wanted)) + nested(_FILTER, flags)
        messages = self._netlink.ask(Request(_SUBSYSTEM | _GET, DUMP, body, "list connections"))
        return [flow for message in messages if _protocol(message) == protocol and (flow := Flow(family, message)).port == port]

    def forget(self, family: str, flows: "list[Flow]") -> None:
        """Their next packets are judged as those of new connections."""
        for at in range(0, len(flows), _AT_ONCE):
            self._netlink.do(*(flow.forgetting(family) for flow in flows[at : at + _AT_ONCE]))


def _head(family: str) -> bytes:
    return GENERIC_HEADER.pack(FAMILIES[family], 0, 0)


def _port(half: "dict[int, bytes]", number: int) -> int:
    return int.from_bytes(parse_attributes(half.get(_TUPLE_PROTO, b"")).get(number, b""), "big")


def _protocol(message: bytes) -> int:
    sent = parse_attributes(parse_attributes(message[GENERIC_HEADER.size :]).get(_TUPLE_ORIG, b""))
    return int.from_bytes(parse_attributes(sent.get(_TUPLE_PROTO, b"")).get(_PROTO_NUMBER, b""), "big")
