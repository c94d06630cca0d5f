"""What networks need of the kernel: bridges, pairs of interfaces, macvlan and ipvlan, addresses and routes.

        the host's namespace           │  a container's namespace
                                       │
    other hosts ── eth0 … berth0 ── veth1a2b3c4 ──┼── eth0 10.0.0.2, default route by 10.0.0.1
                          10.0.0.1     │
                                       │
    other hosts ── eth0 (the parent) ──┼── eth0, macvlan or ipvlan

A link that berth made says so: its alias is "berth" and the ids of the networks it is for, or of a pair's end on the host the name of
its bridge, which no other engine has. So nothing is removed that was there before, and a bridge that is made anew gets the interfaces
of running containers back.

Nothing here waits; one attachment is two system calls' worth of messages. `route` is always a socket of the host's namespace.
"""

import errno
import hashlib
import re
from collections.abc import Sequence

from berth.errors import BerthError, Conflict, Forbidden, InvalidParameter, NotFound, NotImplementedHere, SystemFailure
from berth.linux import rtrequests as rt
from berth.linux.netlinksocket import Refused, Request
from berth.linux.rtnetlink import Link, Route
from berth.network import sysctl
from berth.network.model import BRIDGE, IPVLAN, MACVLAN, Address, Attachment, Network

_MARK = "berth"
# One that the kernel makes is checked for duplicates for a second or two, in which the host asks no neighbour for its address.
_LINK_LOCAL = "fe80::1/64"
_VLAN = re.compile(r"(?P<parent>.+)\.(?P<number>[0-9]{1,4})")
_DUMMY_PREFIX = {MACVLAN: "dm-", IPVLAN: "di-"}  # Docker's names


def ensure(route: Route, network: Network) -> None:
    """Makes what the network needs of the host, or mends it. That the host forwards is firewall.py's.

    Raises Conflict, Forbidden, InvalidParameter, NotFound, NotImplementedHere or SystemFailure.
    """
    try:
        if network.driver == BRIDGE:
            _ensure_bridge(route, network)
        elif network.driver in _DUMMY_PREFIX:
            _ensure_parent(route, network)
    except Refused as error:
        raise _failure(error, network) from None


def remove(route: Route, network: Network) -> None:
    """Takes away what berth made for the network; nothing where it is gone already."""
    try:
        if network.driver == BRIDGE:
            bridge = route.find(network.interface)
            if bridge and owners(bridge):
                route.do(rt.delete_link(bridge.index, missing_ok=True))
        elif network.driver in _DUMMY_PREFIX:
            _remove_parent(route, network)
    except Refused as error:
        raise _failure(error, network) from None


def attach(host: Route, inside: Route, inside_netns_fd: int, network: Network, attachment: Attachment) -> None:
    """A container's interface with its addresses and routes, up. What was begun is undone if it fails.

    NotFound if the bridge or the parent is gone: `ensure` makes it anew.
    """
    try:
        if network.driver == BRIDGE:
            made = attachment.name
            _add_pair(host, inside_netns_fd, network, attachment)
        else:
            made = _add_child(host, inside_netns_fd, network, attachment)
        index = inside.link(made).index
        try:
            _settle(inside, index, made, attachment)
        except BaseException:
            inside.do(rt.delete_link(index, missing_ok=True))
            raise
    except Refused as error:
        raise _failure(error, network, attachment) from None


def remove_outside(route: Route, outside: str) -> None:
    """Removes the host's end of a pair, and with it the container's; nothing where it is gone, or was none, as with other drivers."""
    try:
        route.do(rt.delete_link(outside, missing_ok=True))
    except Refused as error:
        raise SystemFailure(f"the interface {outside} cannot be removed: {error.strerror}") from None


def remove_inside(inside: Route, name: str) -> None:
    """Removes a container's interface from within: the way for macvlan and ipvlan, of which the host has no end."""
    try:
        inside.do(rt.delete_link(name, missing_ok=True))
    except Refused as error:
        raise SystemFailure(f"the interface {name} cannot be removed: {error.strerror}") from None


def set_gateways(inside: Route, places: Sequence[tuple[Network, Attachment]]) -> None:
    """Default routes of a container by these, all that it has, in place of those by them. What its root has made by others stays."""
    requests = []
    found = [(network, attachment, link.index) for network, attachment in places if (link := inside.find(attachment.name))]
    indexes = {index for _, _, index in found}
    for entry in inside.routes():
        if not entry.destination and entry.table == rt.TABLE_MAIN and entry.index in indexes:
            old = rt.delete_route(_default(entry.version), gateway=entry.gateway, index=entry.index, metric=entry.metric, missing_ok=True)
            requests.append(old)
    for _, attachment, index in found:
        requests += _default_routes(attachment, index)
    try:
        inside.do(*requests)
    except Refused as error:
        raise SystemFailure(f"default route: {error.strerror}") from None


# -- bridges ------------------------------------------------------------------------------------


def _ensure_bridge(route: Route, network: Network) -> None:
    name = _checked(network.interface, network)
    bridge = route.find(name)
    is_new = bridge is None
    if bridge is None:
        route.do(rt.add_bridge(name, mac=_mac(network.id)), rt.no_link_local(name), rt.set_link(name, alias=f"{_MARK} {network.id}"))
        bridge = route.link(name)
    elif bridge.kind != "bridge":
        raise Conflict(
            f"network {network.name}: the interface {name} is {_kind(bridge)}, not a bridge; "
            "remove it, or give the network another name with com.docker.network.bridge.name"
        )
    if owners(bridge):  # a person's own bridge keeps its settings
        sysctl.write(f"ipv6/conf/{name}/disable_ipv6", "0" if network.has_ipv6 else "1")
        sysctl.write(f"ipv6/conf/{name}/accept_ra", "0")
    elif network.has_ipv6:
        sysctl.write(f"ipv6/conf/{name}/disable_ipv6", "0")
    # What comes from 127.0.0.1 may leave by the bridge: a published port is reached from loopback.
    changes = [rt.set_ipv4(bridge.index, {rt.ROUTE_LOCALNET: 1})]
    if network.mtu not in (0, bridge.mtu):
        changes.append(rt.set_link(bridge.index, mtu=network.mtu))
    changes += _address_changes(route, network, bridge)
    if not bridge.is_up:
        changes.append(rt.set_link(bridge.index, up=True))
    if network.has_ipv6:  # the same for ::1: answers from containers come in by the bridge
        changes.append(rt.add_local_route("::1/128", bridge.index))
    if is_new:
        changes += _take_back(route, network, bridge)
    route.do(*changes)


def _address_changes(route: Route, network: Network, bridge: Link) -> list[Request]:
    wanted = [str(address) for address in network.host_addresses()]
    if network.has_ipv6 and owners(bridge):
        wanted.append(_LINK_LOCAL)
    had = [address for _, address in route.addresses(bridge.index)]
    changes = [rt.add_address(bridge.index, address) for address in wanted if address not in had]
    if owners(bridge):
        changes += [rt.delete_address(bridge.index, address) for address in had if address not in wanted and not address.startswith("fe80:")]
    return changes


def _take_back(route: Route, network: Network, bridge: Link) -> list[Request]:
    """The interfaces of running containers, after somebody has deleted the bridge."""
    found = [link for link in route.links() if link.kind == "veth" and network.interface in owners(link)]
    return [request for link in found for request in back_to(network, link, bridge.index)]


def back_to(network: Network, link: Link, bridge: int) -> list[Request]:
    """Puts the host's end of a pair where it belongs."""
    changes = [rt.set_link(link.index, master=bridge, up=True)]
    if not network.icc:
        changes.append(rt.set_bridge_port(link.index, isolated=True))
    return changes


def _mac(what: str) -> str:
    """Always the same for a bridge: one without an address of its own changes it with its ports, and containers remember it.

    What the kernel chooses by itself, systemd's udev changes a moment later (MACAddressPolicy).
    """
    digest = hashlib.sha256(what.encode()).digest()
    return bytes((0x02, 0x42, *digest[:4])).hex(":")


# -- containers' interfaces ---------------------------------------------------------------------


def _add_pair(host: Route, inside_netns_fd: int, network: Network, attachment: Attachment) -> None:
    bridge = host.find(network.interface)
    if bridge is None or bridge.kind != "bridge":
        raise NotFound(f"network {network.name}: the bridge {network.interface} is gone")
    outside = attachment.outside
    requests = [
        rt.add_veth(
            outside, attachment.name, peer_namespace_fd=inside_netns_fd, mac=_mac(outside), peer_mac=attachment.mac,
            mtu=network.mtu or bridge.mtu, master=bridge.index,
        ),
        # The host speaks to the container as the bridge. An address of its own would cost packets for every container.
        rt.no_link_local(outside),
        rt.set_link(outside, up=True, alias=f"{_MARK} {network.interface}"),
    ]  # fmt: skip
    hairpin = any(sysctl.read(f"bridge/bridge-nf-call-{program}") == "1" for program in ("iptables", "ip6tables"))
    if hairpin or not network.icc:
        # With those settings a packet that a container sends to its own published port does not leave the bridge.
        requests.append(rt.set_bridge_port(outside, hairpin=hairpin, isolated=not network.icc))
    try:
        host.do(*requests)
    except Refused as error:
        stale = host.find(outside)
        if error.position > 0 and stale:
            host.do(rt.delete_link(outside, missing_ok=True))
        elif error.errno == errno.EEXIST and stale and stale.kind == "veth" and owners(stale):  # of an engine that was killed here
            host.do(rt.delete_link(stale.index, missing_ok=True))
            host.do(*requests)
            return
        raise


def _add_child(host: Route, inside_netns_fd: int, network: Network, attachment: Attachment) -> str:
    """A macvlan or ipvlan interface in the container's namespace, and its name for now: kernels before 6.15 make it in the host's first."""
    parent = host.find(parent_of(network))
    if parent is None:
        raise NotFound(f"network {network.name}: the parent interface {parent_of(network)} is gone")
    name = "b" + hashlib.sha256(f"{network.id} {attachment.mac} {attachment.addresses}".encode()).hexdigest()[:14]
    if network.driver == MACVLAN:
        host.do(rt.add_macvlan(
            name, parent.index, mode=_option(network, "macvlan_mode", rt.MACVLAN_MODES, "bridge"),
            namespace_fd=inside_netns_fd, mac=attachment.mac, mtu=network.mtu,
        ))  # fmt: skip
    else:
        host.do(rt.add_ipvlan(
            name, parent.index, mode=_option(network, "ipvlan_mode", rt.IPVLAN_MODES, "l2"),
            flag=_option(network, "ipvlan_flag", rt.IPVLAN_FLAGS, "bridge"), namespace_fd=inside_netns_fd, mtu=network.mtu,
        ))  # fmt: skip
    return name


def _settle(inside: Route, index: int, made: str, attachment: Attachment) -> None:
    """Gives the interface `made` its name, addresses and routes."""
    if made != attachment.name:
        inside.do(rt.set_link(index, name=attachment.name))
    requests = [rt.add_address(index, str(address)) for address in attachment.addresses]
    if all(address.version == 4 for address in attachment.addresses):
        requests.insert(0, rt.no_link_local(index))
    inside.do(*requests, rt.set_link(index, up=True), *_default_routes(attachment, index))


def _default_routes(attachment: Attachment, index: int) -> list[Request]:
    """gateways: 0.0.0.0 or :: stands for the interface itself (ipvlan's l3)."""
    requests = []
    for gateway in attachment.gateways:
        if gateway.is_unspecified:
            requests.append(rt.add_route(_default(gateway.version), index=index))
        else:
            requests.append(rt.add_route(_default(gateway.version), gateway=str(gateway), index=index, on_link=_is_far(gateway, attachment)))
    return requests


def _is_far(gateway: Address, attachment: Attachment) -> bool:
    return not gateway.is_link_local and all(gateway not in address.network for address in attachment.addresses)


def _default(version: int) -> str:
    return "0.0.0.0/0" if version == 4 else "::/0"


# -- parents of macvlan and ipvlan --------------------------------------------------------------


def parent_of(network: Network) -> str:
    """The interface that a macvlan or ipvlan is on; a network without one has a dummy of its own, so it reaches nobody outside."""
    return network.interface or _DUMMY_PREFIX[network.driver] + network.id[:12]


def _ensure_parent(route: Route, network: Network) -> None:
    """An interface that is there is used as it is; a dummy and a VLAN's (eth0.50) are made."""
    name = _checked(parent_of(network), network)
    parent = route.find(name)
    if parent is None:
        try:
            route.do(_new_parent(route, network, name), rt.set_link(name, alias=f"{_MARK} {network.id}", up=True))
        except Refused as error:
            if error.position == 0:  # it could not be made
                raise
            route.do(rt.delete_link(name, missing_ok=True))
            if error.errno == errno.ENETDOWN:
                raise Conflict(f"network {network.name}: the parent of {name} is down; run: ip link set {name.rpartition('.')[0]} up") from None
            raise
    elif (known := owners(parent)) and network.id not in known:
        route.do(rt.set_link(parent.index, alias=" ".join((_MARK, *known, network.id)), up=True))
    elif known and not parent.is_up:
        route.do(rt.set_link(parent.index, up=True))


def _new_parent(route: Route, network: Network, name: str) -> Request:
    if not network.interface:
        return rt.add_dummy(name)
    found = _VLAN.fullmatch(name)
    lower = route.find(found["parent"]) if found else None
    if found is None or lower is None:
        missing = found["parent"] if found else name
        raise NotFound(f"network {network.name}: the parent interface {missing} does not exist; `ip link` shows those that do")
    if not 1 <= int(found["number"]) <= 4094:
        raise InvalidParameter(f"network {network.name}: parent {name}: {found['number']} is no number of a VLAN, which is 1 to 4094")
    return rt.add_vlan(name, lower.index, int(found["number"]))


def _remove_parent(route: Route, network: Network) -> None:
    parent = route.find(parent_of(network))
    known = owners(parent) if parent else []
    if parent is None or network.id not in known:
        return
    rest = [owner for owner in known if owner != network.id]
    route.do(rt.set_link(parent.index, alias=" ".join((_MARK, *rest))) if rest else rt.delete_link(parent.index, missing_ok=True))


# -- parts --------------------------------------------------------------------------------------


def owners(link: Link) -> list[str]:
    """Ids of the networks, or the name of the bridge, that berth made a link for; none if it did not make it."""
    words = link.alias.split()
    return words[1:] if words[:1] == [_MARK] else []


def _checked(name: str, network: Network) -> str:
    """A name that an interface can have; it is a part of paths below /proc/sys too."""
    if not 0 < len(name.encode()) < 16 or name in (".", "..") or re.search(r"[/:\s\0]", name):
        raise InvalidParameter(f"network {network.name}: {name!r} is no name for an interface: 1 to 15 bytes without spaces, slashes and colons")
    return name


def _option(network: Network, key: str, known: dict[str, int], default: str) -> str:
    value = network.options.get(key) or default
    if value not in known:
        raise InvalidParameter(f"network {network.name}: {key} {value!r} is not one of {', '.join(known)}")
    return value


def _kind(link: Link) -> str:
    return f"a {link.kind}" if link.kind else "a network card"


def _failure(error: Refused, network: Network, attachment: Attachment | None = None) -> BerthError:
    """What the kernel refused, as a kind that says what to do."""
    where = f"network {network.name}: " + (f"interface {attachment.name}: " if attachment else "")
    text = f"{where}{error.strerror}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return Forbidden(f"{text}; the engine needs CAP_NET_ADMIN in the host's network namespace")
    if error.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return NotImplementedHere(f"{text}; this kernel lacks it")
    if error.errno == errno.EINVAL and network.driver == MACVLAN and network.options.get("macvlan_mode") == "passthru":
        return Conflict(f"{text}; {parent_of(network)} is in use: passthru gives it to one container alone")
    if error.errno in (errno.EEXIST, errno.EBUSY):
        return Conflict(f"{text}; `ip address` shows what is there")
    return SystemFailure(text)
