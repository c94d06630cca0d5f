"""What is there of networks after an engine was killed, or after somebody else was at the host's interfaces: found, put back, removed."""

from collections.abc import Collection, Sequence

from berth.errors import SystemFailure
from berth.linux import rtrequests as rt
from berth.linux.netlinksocket import Refused
from berth.linux.rtnetlink import Link, Route
from berth.network import plumbing
from berth.network.model import BRIDGE, IPVLAN, MACVLAN, Network


def is_there(route: Route, network: Network) -> bool:
    """Whether berth made something for the network that is still there."""
    if network.driver not in (BRIDGE, MACVLAN, IPVLAN):
        return False
    link = route.find(network.interface if network.driver == BRIDGE else plumbing.parent_of(network))
    return bool(link and network.id in plumbing.owners(link))


def remove_strays(route: Route, networks: Sequence[Network], outsides: Collection[str]) -> None:
    """Interfaces of containers that never ran. outsides: the host's ends of all others in these networks."""
    bridges = {network.interface for network in networks}
    try:
        for link in route.links():
            if link.kind == "veth" and link.name not in outsides and bridges.intersection(plumbing.owners(link)):
                route.do(rt.delete_link(link.index, missing_ok=True))
    except Refused as error:
        raise SystemFailure(f"interfaces of containers that never ran: {error.strerror}") from None


def lost(route: Route, networks: Sequence[Network], outsides: Collection[str]) -> set[str]:
    """Which of the host's ends of containers' interfaces are gone. One that was switched off, or taken out of its bridge, is put back."""
    by_name = {network.interface: network for network in networks if network.driver == BRIDGE}
    gone = set()
    for name in outsides:
        link = route.find(name)
        if link is None or link.kind != "veth":
            gone.add(name)
        elif network := next((by_name[owner] for owner in plumbing.owners(link) if owner in by_name), None):
            _put_back(route, network, link)
    return gone


def _put_back(route: Route, network: Network, link: Link) -> None:
    bridge = route.find(network.interface)
    if bridge and (link.master != bridge.index or not link.is_up):
        try:
            route.do(*plumbing.back_to(network, link, bridge.index))
        except Refused as error:
            raise SystemFailure(f"interface {link.name}: {error.strerror}") from None
