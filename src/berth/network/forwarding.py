"""Lets the host pass packets on, which it must for containers to reach others."""

from berth.errors import Forbidden
from berth.linux.rtnetlink import Route
from berth.network import sysctl

SETTINGS = {"ip": "ipv4/ip_forward", "ip6": "ipv6/conf/all/forwarding"}
_PROTOCOL_RA = 9  # rtnetlink.h: a route that a router advertised


def is_off(family: str) -> bool:
    """Whether the host forwards nothing of the family; not where the kernel does not have it."""
    return sysctl.read(SETTINGS[family]) == "0"


def enable(route: Route, family: str) -> None:
    """Raises Forbidden."""
    name = SETTINGS[family]
    if family == "ip6":
        _keep_advertised_routes(route)
    if not sysctl.write(name, "1"):
        setting = "net." + name.replace("/", ".")
        raise Forbidden(f"{setting} is off and cannot be set by the engine, so containers would reach no other host; run: sysctl -w {setting}=1")


def disable(route: Route, family: str) -> None:
    """After `enable` and the last network: off again, unless other software has a bridge and came to rely on it."""
    if not any(link.kind == "bridge" for link in route.links()):
        sysctl.write(SETTINGS[family], "0")


def _keep_advertised_routes(route: Route) -> None:
    """A host that forwards believes no router's advertisement unless told to (accept_ra 2): it would lose its own default route."""
    for index in {entry.index for entry in route.routes() if entry.version == 6 and entry.protocol == _PROTOCOL_RA}:
        link = route.find(index)
        if link and sysctl.read(f"ipv6/conf/{link.name}/accept_ra") == "1":
            sysctl.write(f"ipv6/conf/{link.name}/accept_ra", "2")
