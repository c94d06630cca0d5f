"""Requests of rtnetlink, for `Route.do` (rtnetlink.py): what is asked for, as bytes. Pure.

A link is named by its name or its index; addresses, subnets and MAC addresses are text. `mtu` 0 and `mac` "" leave it to the kernel.

Source: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h, linux/veth.h.
"""

import errno
import os
import struct

from berth.linux import netlink
from berth.linux.netlink import ADDRESS_HEADER, LINK_HEADER, attribute
from berth.linux.netlinksocket import CREATE, EXCL, REPLACE, Request
from berth.linux.sockets import pack_address

NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE, NEWNEIGH = 16, 17, 20, 21, 24, 25, 28
AF_INET, AF_INET6 = 2, 10
ROUTE_HEADER = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEIGHBOUR_HEADER = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_ALIAS = 1, 3, 4, 5, 10, 18, 20
IFLA_STATS64, IFLA_NET_NS_FD = 23, 28
_IFLA_AF_SPEC, _IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 26, 1, 8, 1
INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_BR_MCAST_SNOOPING = 23
_BRPORT_MODE, _BRPORT_ISOLATED = 4, 33  # mode: hairpin
_VETH_PEER, _VLAN_ID = 1, 1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
FORWARDING, RP_FILTER, ROUTE_LOCALNET = 1, 8, 26  # IPV4_DEVCONF_*
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
TABLE_MAIN, _TABLE_LOCAL, _PROTOCOL_BOOT, _SCOPE_GLOBAL, _SCOPE_LINK, _SCOPE_HOST, _UNICAST, _LOCAL, _ONLINK = 254, 255, 3, 0, 253, 254, 1, 2, 4
_LAST_METRIC = 1 << 20  # routes that are there go first
_NDA_DST, _NDA_ADDRESS, _NUD_PERMANENT = 1, 2, 0x80


# -- links --------------------------------------------------------------------------------------


def add_bridge(name: str, *, mac: str = "", snooping: bool = True) -> Request:
    """A bridge; EEXIST if there is a link of that name. snooping: of multicast, which a kernel may lack.

    Its MTU holds against those of its ports only if set later (`set_link`).
    """
    options = b"" if snooping else attribute(_BR_MCAST_SNOOPING, b"\0")
    return _new(name, "bridge", _looks(mac, 0), options)


def add_dummy(name: str) -> Request:
    return _new(name, "dummy", b"", b"")


def add_veth(
    name: str, peer: str, *, peer_namespace_fd: "int | None" = None, mac: str = "", peer_mac: str = "", mtu: int = 0, master: int = 0
) -> Request:
    """A pair of links, the peer made in another network namespace at once; neither is up."""
    there = b"" if peer_namespace_fd is None else _u32(IFLA_NET_NS_FD, peer_namespace_fd)
    other = LINK_HEADER.pack(0, 0, 0, 0, 0) + _name(peer) + _looks(peer_mac, mtu) + there
    own = _looks(mac, mtu) + (_u32(IFLA_MASTER, master) if master else b"")
    return _new(name, "veth", own, attribute(_VETH_PEER, other))


def add_vlan(name: str, parent: int, number: int) -> Request:
    """An interface for VLAN `number` of the link with index `parent`."""
    return _new(name, "vlan", _u32(IFLA_LINK, parent), attribute(_VLAN_ID, struct.pack("=H", number)))


def add_macvlan(name: str, parent: int, *, mode: str = "bridge", namespace_fd: "int | None" = None, mac: str = "", mtu: int = 0) -> Request:
    options = _u32(1, MACVLAN_MODES[mode])
    return _new(name, "macvlan", _looks(mac, mtu) + _below(parent, namespace_fd), options)


def add_ipvlan(
    name: str, parent: int, *, mode: str = "l2", flag: str = "bridge", namespace_fd: "int | None" = None, mtu: int = 0
) -> Request:
    options = attribute(1, struct.pack("=H", IPVLAN_MODES[mode])) + attribute(2, struct.pack("=H", IPVLAN_FLAGS[flag]))
    return _new(name, "ipvlan", _looks("", mtu) + _below(parent, namespace_fd), options)


def delete_link(link: "str | int", *, missing_ok: bool = False) -> Request:
    head, extra = _link(link)
    return Request(DELLINK, 0, head + extra, f"delete {link}", (errno.ENODEV,) if missing_ok else ())


def set_link(
    link: "str | int", *, up: "bool | None" = None, name: str = "", mac: str = "", mtu: int = 0, master: "int | None" = None, alias: str = ""
) -> Request:
    """Changes what is given. master: index of a bridge, 0 for none."""
    flags, mask = (0, 0) if up is None else (netlink.IFF_UP if up else 0, netlink.IFF_UP)
    head, extra = _link(link, flags, mask)
    if name:  # by name and to a name: only with an index
        extra += _name(name)
    extra += _looks(mac, mtu)
    if master is not None:
        extra += _u32(IFLA_MASTER, master)
    if alias:
        extra += attribute(IFLA_ALIAS, os.fsencode(alias))
    words = [word for word, on in (("up", up), ("down", up is False), (f"name {name}", name), (f"mac {mac}", mac), (f"mtu {mtu}", mtu)) if on]
    return Request(NEWLINK, 0, head + extra, f"set {link} {' '.join(words)}".rstrip())


def set_bridge_port(link: "str | int", *, hairpin: bool = False, isolated: bool = False) -> Request:
    """isolated: it reaches no other isolated port of its bridge."""
    head, extra = _link(link)
    data = attribute(_BRPORT_MODE, bytes((hairpin,))) + attribute(_BRPORT_ISOLATED, bytes((isolated,)))
    info = attribute(_INFO_SLAVE_KIND, b"bridge\0") + attribute(_INFO_SLAVE_DATA, data)
    return Request(NEWLINK, 0, head + extra + attribute(IFLA_LINKINFO, info), f"set {link} as a bridge's port")


def set_ipv4(link: "str | int", settings: "dict[int, int]") -> Request:
    """What /proc/sys/net/ipv4/conf/LINK holds, by IPV4_DEVCONF_* number; needs no /proc."""
    head, extra = _link(link)
    conf = b"".join(_u32(number, value) for number, value in settings.items())
    body = head + extra + attribute(_IFLA_AF_SPEC, attribute(AF_INET, attribute(_IFLA_INET_CONF, conf)))
    return Request(NEWLINK, 0, body, f"set {link} ipv4 {settings}")


def no_link_local(link: "str | int") -> Request:
    """Lets a link have no IPv6 address that it makes for itself; nothing where the kernel has no IPv6."""
    head, extra = _link(link)
    spec = attribute(AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes((_ADDR_GEN_MODE_NONE,))))
    body = head + extra + attribute(_IFLA_AF_SPEC, spec)
    return Request(NEWLINK, 0, body, f"set {link} addrgenmode none", (errno.EAFNOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP))


# -- addresses, routes, neighbours --------------------------------------------------------------


def add_address(index: int, address: str, *, replace: bool = False) -> Request:
    """address: with its prefix length. Usable at once (no duplicate address detection); EEXIST if it is there, unless `replace`."""
    family, prefix_length, packed = _split(address)
    body = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if family == AF_INET and prefix_length < 31:
        broadcast = int.from_bytes(packed, "big") | (1 << 32 - prefix_length) - 1
        body += attribute(IFA_BROADCAST, broadcast.to_bytes(4, "big"))
    head = ADDRESS_HEADER.pack(family, prefix_length, _IFA_F_NODAD if family == AF_INET6 else 0, _scope(packed), index)
    return Request(NEWADDR, CREATE | (REPLACE if replace else EXCL), head + body, f"add address {address}")


def delete_address(index: int, address: str) -> Request:
    family, prefix_length, packed = _split(address)
    head = ADDRESS_HEADER.pack(family, prefix_length, 0, 0, index)
    return Request(DELADDR, 0, head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed), f"delete address {address}")


def add_route(destination: str, *, gateway: str = "", index: int = 0, on_link: bool = False, metric: int = 0, replace: bool = False) -> Request:
    """destination: a subnet, 0.0.0.0/0 or ::/0 for the default. on_link: the gateway is reached by `index`, whatever the routes say."""
    flags = CREATE | (REPLACE if replace else EXCL)
    return Request(NEWROUTE, flags, _route(destination, gateway, index, on_link, metric), f"add route {destination} via {gateway or index}")


def add_local_route(destination: str, index: int) -> Request:
    """What comes in by a link for these addresses is for this host; nothing if it is so already."""
    family, prefix_length, packed = _split(destination)
    head = ROUTE_HEADER.pack(family, prefix_length, 0, 0, _TABLE_LOCAL, _PROTOCOL_BOOT, _SCOPE_HOST, _LOCAL, 0)
    body = head + attribute(RTA_DST, packed) + _u32(RTA_OIF, index) + _u32(RTA_PRIORITY, _LAST_METRIC)
    return Request(NEWROUTE, CREATE | EXCL, body, f"add route local {destination} dev {index}", (errno.EEXIST,))


def delete_route(destination: str, *, gateway: str = "", index: int = 0, metric: int = 0, missing_ok: bool = False) -> Request:
    body = _route(destination, gateway, index, False, metric, any_scope=True)
    return Request(DELROUTE, 0, body, f"delete route {destination}", (errno.ESRCH,) if missing_ok else ())


def set_neighbour(index: int, address: str, mac: str) -> Request:
    """Who has `address` on a link: for good, never asked for."""
    packed = pack_address(address)
    head = _NEIGHBOUR_HEADER.pack(AF_INET6 if len(packed) == 16 else AF_INET, index, _NUD_PERMANENT, 0, 0)
    body = attribute(_NDA_DST, packed) + attribute(_NDA_ADDRESS, pack_mac(mac))
    return Request(NEWNEIGH, CREATE | REPLACE, head + body, f"set neighbour {address} {mac}")


# -- parts --------------------------------------------------------------------------------------


def pack_mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _new(name: str, kind: str, attributes: bytes, options: bytes) -> Request:
    info = attribute(INFO_KIND, kind.encode()) + (attribute(_INFO_DATA, options) if options else b"")
    body = LINK_HEADER.pack(0, 0, 0, 0, 0) + _name(name) + attributes + attribute(IFLA_LINKINFO, info)
    return Request(NEWLINK, CREATE | EXCL, body, f"add {kind} {name}")


def _link(link: "str | int", flags: int = 0, mask: int = 0) -> "tuple[bytes, bytes]":
    """Header and attribute that say which link is meant."""
    if isinstance(link, int):
        return LINK_HEADER.pack(0, 0, link, flags, mask), b""
    return LINK_HEADER.pack(0, 0, 0, flags, mask), _name(link)


def _name(name: str) -> bytes:
    return attribute(IFLA_IFNAME, os.fsencode(name) + b"\0")


def _looks(mac: str, mtu: int) -> bytes:
    return (attribute(IFLA_ADDRESS, pack_mac(mac)) if mac else b"") + (_u32(IFLA_MTU, mtu) if mtu else b"")


def _below(parent: int, namespace_fd: "int | None") -> bytes:
    return _u32(IFLA_LINK, parent) + (b"" if namespace_fd is None else _u32(IFLA_NET_NS_FD, namespace_fd))


def _u32(number: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, number, value)


def _split(subnet: str) -> "tuple[int, int, bytes]":
    """Family, prefix length and bytes of "10.0.0.1/8"."""
    text, _, prefix_length = subnet.partition("/")
    packed = pack_address(text)
    return (AF_INET6 if len(packed) == 16 else AF_INET), int(prefix_length), packed


def _scope(packed: bytes) -> int:
    is_link_local = packed[:2] == b"\xa9\xfe" if len(packed) == 4 else packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    return _SCOPE_LINK if is_link_local else _SCOPE_GLOBAL


def _route(destination: str, gateway: str, index: int, on_link: bool, metric: int, *, any_scope: bool = False) -> bytes:
    family, prefix_length, packed = _split(destination)
    scope = 255 if any_scope else _SCOPE_GLOBAL if gateway or family == AF_INET6 else _SCOPE_LINK  # 255: RT_SCOPE_NOWHERE
    head = ROUTE_HEADER.pack(
        family, prefix_length, 0, 0, TABLE_MAIN, 0 if any_scope else _PROTOCOL_BOOT, scope, 0 if any_scope else _UNICAST, _ONLINK if on_link else 0
    )
    body = attribute(RTA_DST, packed) if prefix_length else b""
    if gateway:
        body += attribute(RTA_GATEWAY, pack_address(gateway))
    if index:
        body += _u32(RTA_OIF, index)
    return head + body + (_u32(RTA_PRIORITY, metric) if metric else b"")
