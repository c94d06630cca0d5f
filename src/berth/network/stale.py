"""Connections without connection: a UDP client that goes on sending keeps the way that its first packet took.

Without this, a client that sends while a container restarts would never reach it again (moby issue 8795).
"""

import contextlib
from ipaddress import ip_address, ip_interface

from berth.linux.conntrack import Conntrack, Flow
from berth.linux.rtnetlink import Route
from berth.network.model import PublishedPort

_NUMBERS = {"udp": 17, "sctp": 132}  # a new TCP connection has a way of its own


def forget(route: Route, ports: list[PublishedPort], *, published: bool) -> None:
    """After ports were published or unpublished: what goes elsewhere than it would now. Where the kernel cannot, it stays until it times out."""
    concerned = [port for port in ports if port.protocol in _NUMBERS and port.host_port]
    if not concerned:
        return
    with contextlib.suppress(OSError):
        here = {ip_interface(text).ip.packed for _, text in route.addresses()} if published else set()
        conntrack = Conntrack()
        try:
            for port in concerned:
                family = "ip" if port.address.version == 4 else "ip6"
                flows = conntrack.flows(family, _NUMBERS[port.protocol], port.host_port)
                conntrack.forget(family, [flow for flow in flows if _is_stale(flow, port, here, published)])
        finally:
            conntrack.close()


def _is_stale(flow: Flow, port: PublishedPort, here: set[bytes], published: bool) -> bool:
    leads_here = flow.leads_to == (port.address.packed, port.port)
    if not published:
        return leads_here
    if port.host_address.is_unspecified:
        return not leads_here and (flow.destination in here or ip_address(flow.destination).is_loopback)
    return not leads_here and flow.destination == port.host_address.packed
