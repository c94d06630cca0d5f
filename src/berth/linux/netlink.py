"""Netlink messages, and a small rtnetlink client: find a link, move and rename it, its addresses. No policy. More is in rtnetlink.py.

On `_socket` (sockets.py says why) and struct. A socket belongs to the network namespace it was made in
and stays there, whatever its process joins later.

Source: netlink(7), rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
"""

import os
import struct

from berth.linux import sockets

_AF_NETLINK, _SOCK_RAW, _SOCK_CLOEXEC, _NETLINK_ROUTE = 16, 3, 0x80000, 0
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _EXCL, _CREATE, _DUMP = 1, 4, 0x200, 0x400, 0x300
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
IFF_UP = 1
IFA_F_PERMANENT = 0x80
# What an address is made with; the other flags are the kernel's findings (tentative, deprecated ...).
_IFA_F_KEPT = 0x02 | 0x10 | 0x100 | 0x200 | 0x400  # NODAD, HOMEADDRESS, MANAGETEMPADDR, NOPREFIXROUTE, MCAUTOJOIN
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
LINK_HEADER = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
ADDRESS_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_MESSAGE_BYTES = 1 << 16


class Address:
    """One address of a link: scope 0 is global; attributes: those that `add_address` needs, by number."""

    __slots__ = ("attributes", "family", "flags", "prefix_length", "scope")

    def __init__(self, family: int, prefix_length: int, flags: int, scope: int, attributes: "dict[int, bytes]") -> None:
        self.family = family
        self.prefix_length = prefix_length
        self.flags = flags
        self.scope = scope
        self.attributes = attributes


def open_socket() -> int:
    """The descriptor of a rtnetlink socket in the network namespace that this process is in; the caller's to close."""
    fd: int = sockets.socket(_AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, _NETLINK_ROUTE).detach()
    return fd


class Client:
    """A netlink socket in the network namespace that this process is in. Close it."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self) -> None:
        self._socket = sockets.socket(_AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def link(self, name: str) -> "tuple[int, int]":
        """Index and IFF_* flags of a link; raises OSError(ENODEV)."""
        body = LINK_HEADER.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, os.fsencode(name) + b"\0")
        reply = self._ask(_GETLINK, 0, body)[0]
        _, _, index, flags, _ = LINK_HEADER.unpack_from(reply)
        return index, flags

    def set_up(self, index: int, up: bool) -> None:
        """Switches a link on or off."""
        self._ask(_NEWLINK, _ACK, LINK_HEADER.pack(0, 0, index, IFF_UP if up else 0, IFF_UP))

    def move(self, index: int, namespace_fd: int, name: str) -> None:
        """Moves a link into another network namespace under a name there, in one step; EEXIST if that is taken."""
        attributes = attribute(_IFLA_NET_NS_FD, struct.pack("=I", namespace_fd)) + attribute(_IFLA_IFNAME, os.fsencode(name) + b"\0")
        self._ask(_NEWLINK, _ACK, LINK_HEADER.pack(0, 0, index, 0, 0) + attributes)

    def addresses(self, index: int) -> "list[Address]":
        """All addresses of a link, of every family."""
        found = []
        for message in self._ask(_GETADDR, _DUMP, ADDRESS_HEADER.pack(0, 0, 0, 0, 0)):
            family, prefix_length, flags, scope, owner = ADDRESS_HEADER.unpack_from(message)
            if owner == index:
                attributes = parse_attributes(message[ADDRESS_HEADER.size :])
                if _IFA_FLAGS in attributes:  # all 32 bits; the header has room for 8
                    flags = int.from_bytes(attributes[_IFA_FLAGS], "little")
                found.append(Address(family, prefix_length, flags, scope, attributes))
        return found

    def add_address(self, index: int, address: Address) -> None:
        """Gives a link an address for good."""
        kept = {number: address.attributes[number] for number in (_IFA_LOCAL, _IFA_ADDRESS, _IFA_BROADCAST) if number in address.attributes}
        kept[_IFA_FLAGS] = struct.pack("=I", address.flags & _IFA_F_KEPT)
        head = ADDRESS_HEADER.pack(address.family, address.prefix_length, 0, address.scope, index)
        self._ask(_NEWADDR, _ACK | _CREATE | _EXCL, head + b"".join(attribute(*item) for item in kept.items()))

    def _ask(self, kind: int, flags: int, body: bytes) -> "list[bytes]":
        """Sends one request; the bodies of what comes back. Raises OSError."""
        self._sequence += 1
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags | _REQUEST, self._sequence, 0) + body)
        found: list[bytes] = []
        while True:
            data = self._socket.recv(_MESSAGE_BYTES)
            while len(data) >= HEADER.size:
                length, answer, _, _, _ = HEADER.unpack_from(data)
                payload, data = data[HEADER.size : length], data[-(-length // 4) * 4 :]
                if answer == _ERROR:
                    number = -int.from_bytes(payload[:4], "little", signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return found
                if answer == _DONE:
                    return found
                found.append(payload)
            if found and flags & _DUMP != _DUMP and not flags & _ACK:
                return found


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def parse_attributes(data: bytes) -> "dict[int, bytes]":
    found = {}
    while len(data) >= 4:
        length, number = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[number & 0x3FFF] = data[4:length]
        data = data[-(-length // 4) * 4 :]
    return found
