"""A pair of interfaces that leads from the host to the host: berth-out and berth-in.

What enters by berth-out comes in by berth-in as if from outside, with its source as it was. The address of berth-in is for the
kernel's check of sources, which an interface without any does not pass; nobody sends to it.
"""

import errno
import hashlib
from ipaddress import ip_address

from berth.errors import Conflict, SystemFailure
from berth.linux import rtrequests as rt
from berth.linux.netlinksocket import Refused
from berth.linux.rtnetlink import Link, Route
from berth.network import sysctl
from berth.network.model import Names
from berth.network.ruleset import Loop

_ALIAS = "berth loop"
_MTU_BYTES = 65535  # what comes in may have been put together from fragments
# Kept by RFC 3927 for nobody; the last number is the first that no other engine of this host has.
_SUBNETS = {"ip": "169.254.255.{}/32", "ip6": "fe80::be:{:x}/128"}
_LOOSE = 2


def ensure(route: Route, names: Names, *, six: bool) -> Loop:
    """Makes it, or sees that it is whole. Raises Conflict or SystemFailure."""
    try:
        near, far = route.find(names.loop_out), route.find(names.loop_in)
        for link in (near, far):
            if link and (link.kind != "veth" or link.alias != _ALIAS):
                raise Conflict(f"the interface {link.name} is not berth's, which needs the name for itself; remove or rename it")
        if near and far and near.parent == far.index and near.is_up and far.is_up and (found := _read(route, names, near)):
            if six <= ("ip6" in found.neighbours):
                return found
        for link in (near, far):
            if link:
                route.do(rt.delete_link(link.index, missing_ok=True))
        return _make(route, names, six)
    except Refused as error:
        raise SystemFailure(f"the way by which connections to published ports come in cannot be made: {error.strerror}") from None


def remove(route: Route, names: Names) -> None:
    """Takes it away; nothing where it is gone."""
    link = route.find(names.loop_out)
    if link and link.alias == _ALIAS:
        route.do(rt.delete_link(link.index, missing_ok=True))


def _read(route: Route, names: Names, near: Link) -> Loop | None:
    """What is there; None if a part is missing."""
    neighbours = {}
    for entry in route.routes():
        if entry.index == near.index:
            address = ip_address(entry.destination.partition("/")[0])
            neighbours["ip" if entry.version == 4 else "ip6"] = address.packed
    return Loop(names.loop_in, near.index, neighbours) if "ip" in neighbours else None


def _make(route: Route, names: Names, six: bool) -> Loop:
    mac = _mac(names.loop_in)
    route.do(
        rt.add_veth(names.loop_out, names.loop_in, mac=_mac(names.loop_out), peer_mac=mac, mtu=_MTU_BYTES),
        *(rt.set_link(name, alias=_ALIAS) for name in (names.loop_out, names.loop_in)),  # at once: what is left of us is known as ours
    )
    try:
        near, far = route.link(names.loop_out), route.link(names.loop_in)
        for link in (near, far):
            sysctl.write(f"ipv6/conf/{link.name}/disable_ipv6", "0" if six else "1")
            route.do(rt.no_link_local(link.index), rt.set_link(link.index, up=True))
        # Sources are elsewhere than berth-in: any way to them will do. Forwarding may be off for new interfaces.
        route.do(rt.set_ipv4(far.index, {rt.RP_FILTER: _LOOSE, rt.FORWARDING: 1}))
        neighbours = {}
        for family in ("ip", "ip6") if six else ("ip",):
            subnet = _take_subnet(route, _SUBNETS[family], near.index)
            address = subnet.partition("/")[0]
            route.do(rt.set_neighbour(near.index, address, mac))
            if family == "ip":
                route.do(rt.add_address(far.index, subnet))
            neighbours[family] = ip_address(address).packed
    except BaseException:
        route.do(rt.delete_link(names.loop_out, missing_ok=True))
        raise
    return Loop(names.loop_in, near.index, neighbours)


def _take_subnet(route: Route, pattern: str, index: int) -> str:
    for number in range(1, 255):
        subnet = pattern.format(number)
        try:
            route.do(rt.add_route(subnet, index=index))
        except Refused as error:
            if error.errno != errno.EEXIST:
                raise
            continue
        return subnet
    raise SystemFailure("254 engines have one on this host already")


def _mac(name: str) -> str:
    """udev leaves an address alone that was given (plumbing.py)."""
    return bytes((0x02, 0x42, *hashlib.sha256(name.encode()).digest()[:4])).hex(":")
