"""Hears when links or addresses of a network namespace go, when links are switched off, and when its forwarding is changed.

What is made and switched on, which is most of it, the kernel keeps to itself: a socket filter sees to that.

Source: rtnetlink(7), socket(7) SO_ATTACH_FILTER, linux/filter.h, linux/netconf.h.
"""

import array
import errno
import os
import struct

from berth.linux import netlinksocket
from berth.linux import rtrequests as rt
from berth.linux.netlink import ADDRESS_HEADER, HEADER, LINK_HEADER, parse_attributes

_NETLINK_ROUTE = 0
_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS, _GROUP_IPV4_SETTINGS, _GROUP_IPV6_SETTINGS = 1, 5, 9, 24, 25
NEWNETCONF = 80
_SOL_SOCKET, _SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 1, 26, 33
_WATCHED_BYTES = 1 << 20
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _IF_SET, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x45, 0x06
_KIND_AT, _FLAGS_AT, _INDEX_AT, _ALL_LINKS, _WHOLE = 4, 24, 24, 0xFFFFFFFF, 1 << 18


class Event:
    """kind: DELLINK, NEWLINK (of one that is off), DELADDR or NEWNETCONF; index and name of the link, 0 and "" where it has none to do with it."""

    __slots__ = ("index", "kind", "name")

    def __init__(self, kind: int, index: int = 0, name: str = "") -> None:
        self.kind = kind
        self.index = index
        self.name = name


class LinkWatch:
    """Of the network namespace that this thread is in. Close it."""

    __slots__ = ("_netlink",)

    def __init__(self) -> None:
        self._netlink = netlinksocket.NetlinkSocket(_NETLINK_ROUTE)
        try:
            code = array.array("B", b"".join(_filter()))
            self._netlink.set_option(_SOL_SOCKET, _SO_RCVBUFFORCE, _WATCHED_BYTES)
            self._netlink.set_option(_SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(code) // 8, code.buffer_info()[0]))
            self._netlink.join(_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS, _GROUP_IPV4_SETTINGS, _GROUP_IPV6_SETTINGS)
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
            if event := _event(data):
                events.append(event)


def _event(data: bytes) -> "Event | None":
    """Of a notification, which is one message."""
    if len(data) < HEADER.size:
        return None
    length, kind, _, _, _ = HEADER.unpack_from(data)
    body = data[HEADER.size : length]
    if kind == NEWNETCONF:
        return Event(kind)
    if kind == rt.DELADDR and len(body) >= ADDRESS_HEADER.size:
        return Event(kind, ADDRESS_HEADER.unpack_from(body)[4])
    if kind in (rt.NEWLINK, rt.DELLINK) and len(body) >= LINK_HEADER.size:
        found = parse_attributes(body[LINK_HEADER.size :])
        return Event(kind, LINK_HEADER.unpack_from(body)[2], os.fsdecode(found.get(rt.IFLA_IFNAME, b"").rstrip(b"\0")))
    return None


def _filter() -> "list[bytes]":
    """In the kernel's language for socket filters: each test names how many instructions to pass over if it holds, and if not."""
    return [
        _step(_LOAD_HALF, _KIND_AT),
        _step(_IF_EQUAL, _swapped(rt.DELLINK), 7, 0),
        _step(_IF_EQUAL, _swapped(rt.DELADDR), 6, 0),
        _step(_IF_EQUAL, _swapped(NEWNETCONF), 3, 0),
        _step(_IF_EQUAL, _swapped(rt.NEWLINK), 0, 5),
        _step(_LOAD_BYTE, _FLAGS_AT if struct.pack("=H", 1)[0] else _FLAGS_AT + 3),
        _step(_IF_SET, 1, 3, 2),  # IFF_UP
        _step(_LOAD_WORD, _INDEX_AT),
        _step(_IF_EQUAL, _ALL_LINKS, 0, 1),  # the setting for the whole namespace
        _step(_RETURN, _WHOLE),
        _step(_RETURN, 0),
    ]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _swapped(kind: int) -> int:
    """A message's type as a filter reads it: in the network's order of bytes."""
    return int.from_bytes(struct.pack("=H", kind), "big")
