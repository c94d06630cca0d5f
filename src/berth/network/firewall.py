"""Packet rules of networks and published ports: put in, changed, watched and put back, explained.

    firewall = Firewall(names)
    firewall.set_networks([…]); firewall.publish([…]); firewall.unpublish([…])
    loop.add_reader(firewall.fileno(), …)   # and call on_readable(), which puts back what somebody else has taken away

Published ports are `checked` or `direct`; docs/network-firewall.md says how a packet goes. The rules of others are never touched.
One thread at a time; nothing waits.
"""

import errno
import time
from collections import deque
from collections.abc import Iterable

from berth.errors import BerthError, Forbidden, NotImplementedHere, SystemFailure
from berth.linux import nftables
from berth.linux import nftmessages as nft
from berth.linux.netlinksocket import Refused, Request
from berth.linux.rtnetlink import Route
from berth.network import explaining, forwarding, loop, ruleset, stale, sysctl
from berth.network.model import BRIDGE, Names, Network, PublishedPort

_DELETIONS = {nft.DELTABLE, nft.DELCHAIN, nft.DELRULE, nft.DELSET, nft.DELSETELEM}
# Whoever takes rules away again and again is not fought: after some times, it is tried seldom.
_RESTORES, _WITHIN_S = 5, 10.0
_RETRY_S = 1.0


class Firewall:
    """The tables of one engine. Opens its sockets at once, touches nothing until there is a network. Close it."""

    def __init__(self, names: Names, *, direct: bool = False, forward: bool = True, guard: bool = True) -> None:
        """forward: whether forwarding is switched on where it is off. guard: where forwarding was off, keep the host from forwarding anything but containers' packets."""
        self._names = names
        self._direct = direct
        self._forward = forward
        self._guard = guard
        self._networks: list[Network] = []
        self._ports: dict[tuple[object, ...], PublishedPort] = {}
        self._loop: ruleset.Loop | None = None
        self._lacks_loop = ""  # why ports are led directly although they should be checked
        self._trouble = ""
        self._guarded: frozenset[str] = frozenset()
        self._tables: list[ruleset.Table] | None = None  # what the kernel has; None: nothing is known of it
        self._loopback6 = True  # whether they lead from ::1
        self._restored: deque[float] = deque(maxlen=_RESTORES)
        try:
            self._nft = nftables.Nftables()
        except OSError as error:
            raise NotImplementedHere(f"this kernel has no nfnetlink ({error.strerror}), which bridge networks need") from None
        try:
            self._watch = nftables.Watch()
        except BaseException:
            self._nft.close()
            raise
        self._route = Route()

    def close(self) -> None:
        """Lets go of the sockets; the rules stay."""
        for held in (self._nft, self._watch, self._route):
            held.close()

    # -- what must hold -------------------------------------------------------------------------

    def set_networks(self, networks: Iterable[Network], ports: Iterable[PublishedPort] | None = None) -> None:
        """All networks that the host is ready for. Raises Forbidden, NotImplementedHere or SystemFailure; then nothing has changed.

        ports: all that are published, for an engine that starts: those that go on are led all the time.
        """
        wanted = list(networks)
        if self._tables is None:
            self._guarded |= self._find_guards()
        routed = [network for network in wanted if network.driver == BRIDGE and not network.internal]
        families = {family for network in routed for family in _families(network)}
        before, off = self._guarded, {family for family in families if self._forward and forwarding.is_off(family)}
        if self._guard:
            self._guarded |= off
        try:
            # The guard comes first: an engine that is killed here leaves no host that forwards everything.
            self._change(wanted, self._ports if ports is None else {_key(port): port for port in ports})
        except BaseException:
            self._guarded = before
            raise
        for family in sorted(off):
            forwarding.enable(self._route, family)

    def publish(self, ports: Iterable[PublishedPort], *, instead_of: Iterable[PublishedPort] = ()) -> None:
        """Leads ports to containers; one that is led already is led anew. Raises as `set_networks`, and InvalidParameter.

        instead_of: those that are not led any more from the same moment on.
        """
        come, wanted = {_key(port): port for port in ports}, dict(self._ports)
        gone = [port for key in map(_key, instead_of) if (port := wanted.pop(key, None))]
        wanted |= come
        if not self._change_ports(gone, list(come.values()), wanted):
            self._change(self._networks, wanted)
        stale.forget(self._route, gone, published=False)
        stale.forget(self._route, list(come.values()), published=True)

    def unpublish(self, ports: Iterable[PublishedPort]) -> None:
        self.publish((), instead_of=ports)

    def mend_loop(self) -> None:
        """Should somebody have deleted it; raises as `set_networks`."""
        if self._tables and not self._has_loop(self._networks, self._ports):
            self._replace(self._networks, self._ports)

    def remove(self) -> None:
        """Takes away all of it, also what an engine of the same name has left that was killed."""
        for family in sorted(self._guarded | self._find_guards()):  # while the guard is there: it says so should we be killed here
            forwarding.disable(self._route, family)
        self._replace([], {})
        self._drop_loop()
        self._guarded = frozenset()
        self._tables = None

    # -- what others do -------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when somebody has changed packet rules."""
        return self._watch.fileno()

    def on_readable(self) -> float | None:
        """Puts back what has been taken away of ours. Returns seconds after which to call `restore`, if that is to be done later."""
        events = self._watch.read()
        if self._tables is None:
            return None
        ours = self._nft.port
        if events is None or any(event.kind in _DELETIONS and event.table == self._names.table and event.port != ours for event in events):
            return self.restore()
        return None

    def restore(self) -> float | None:
        """Puts everything in anew; as `on_readable`. What keeps it from that is in `explain`."""
        if self._tables is None:
            return None
        now = time.monotonic()
        if len(self._restored) == _RESTORES and now - self._restored[0] < _WITHIN_S:
            return self._restored[0] + _WITHIN_S - now
        self._restored.append(now)
        try:
            self._replace(self._networks, self._ports)
        except BerthError as error:
            self._trouble = f"WARNING: the packet rules were taken away and could not be put back: {error}"
            return _RETRY_S
        self._trouble = ""
        return None

    def explain(self) -> list[str]:
        """For `berth info`: what decides on published ports and on what containers may send, one line each."""
        lines = [self._trouble] if self._trouble else []
        routed = [network for network in self._networks if network.driver == BRIDGE and not network.internal]
        own = explaining.Own(
            self._names, self._is_direct, self._lacks_loop, self._guarded,
            tuple(network.interface for network in routed), frozenset(family for network in routed for family in _families(network)),
        )  # fmt: skip
        return lines + explaining.lines(self._nft, own)

    # -- how it gets there ----------------------------------------------------------------------

    def _change_ports(self, gone: list[PublishedPort], come: list[PublishedPort], ports: dict[tuple[object, ...], PublishedPort]) -> bool:
        """By their own elements: it takes no longer where there are many. Whether it could be done."""
        if not self._tables or self._loopback6 != _leads_loopback6() or not self._has_loop(self._networks, ports):
            return False
        changes = ruleset.changes_of_ports(self._tables, gone, come)
        if changes is None or not self._try([request for change in changes for request in change.requests()]):
            return False
        for change in changes:
            change.is_done()
        self._ports = ports
        return True

    def _change(self, networks: list[Network], ports: dict[tuple[object, ...], PublishedPort]) -> None:
        """By as little as will do."""
        if self._tables and self._has_loop(networks, ports):
            wanted = self._wanted(networks, ports)
            requests = ruleset.difference(self._tables, wanted)
            if requests is not None and self._try(requests):
                self._is_now(networks, ports, wanted)
                return
        self._replace(networks, ports)

    def _try(self, requests: list[Request]) -> bool:
        """Whether it could be done. If not, somebody has changed our tables: they are replaced."""
        try:
            self._nft.commit(*requests)
        except Refused:
            return False
        return True

    def _replace(self, networks: list[Network], ports: dict[tuple[object, ...], PublishedPort]) -> None:
        """All of it, in one transaction."""
        if self._needs_loop(ports):
            self._loop = loop.ensure(self._route, self._names, six=_uses_ipv6(networks, ports))
        wanted = self._wanted(networks, ports)
        try:
            self._nft.commit(*ruleset.replacement(self._names, wanted, self._present()))
        except Refused as error:
            if self._loop is None or "around" not in str(error):
                raise _failure(error) from None
            self._lacks_loop = "this kernel lacks nft's dup (CONFIG_NFT_DUP_IPV4, CONFIG_NFT_DUP_IPV6)"
            self._drop_loop()
            self._replace(networks, ports)
            return
        self._is_now(networks, ports, wanted)
        if not wanted:
            self._drop_loop()

    def _is_now(self, networks: list[Network], ports: dict[tuple[object, ...], PublishedPort], tables: list[ruleset.Table]) -> None:
        self._networks, self._ports, self._tables, self._loopback6 = networks, ports, tables, _leads_loopback6()

    def _needs_loop(self, ports: dict[tuple[object, ...], PublishedPort]) -> bool:
        """Once it is there it stays, so that ports come and go by elements alone."""
        return not self._is_direct and bool(ports or self._loop)

    def _has_loop(self, networks: list[Network], ports: dict[tuple[object, ...], PublishedPort]) -> bool:
        """Whether the loop that is needed is there: somebody may have deleted it."""
        if not self._needs_loop(ports):
            return True
        if self._loop is None or _uses_ipv6(networks, ports) > ("ip6" in self._loop.neighbours):
            return False
        link = self._route.find(self._names.loop_out)
        return link is not None and link.index == self._loop.index

    def _drop_loop(self) -> None:
        self._loop = None
        try:
            loop.remove(self._route, self._names)
        except Refused as error:
            raise SystemFailure(f"the interface {self._names.loop_out} cannot be removed: {error.strerror}") from None

    def _wanted(self, networks: list[Network], ports: dict[tuple[object, ...], PublishedPort]) -> list[ruleset.Table]:
        return ruleset.tables(self._names, networks, list(ports.values()), self._loop, guarded=self._guarded, loopback6=_leads_loopback6())

    @property
    def _is_direct(self) -> bool:
        return self._direct or bool(self._lacks_loop)

    def _present(self) -> set[str]:
        """Families that have a table of our name."""
        try:
            return {family for family, table in self._nft.tables() if table == self._names.table}
        except Refused as error:
            raise _failure(error) from None

    def _find_guards(self) -> frozenset[str]:
        """Families in which an engine before this one turned forwarding on."""
        try:
            return frozenset(chain.family for chain in self._nft.chains() if (chain.table, chain.name) == (self._names.table, ruleset.GUARD))
        except Refused as error:
            raise _failure(error) from None


def _leads_loopback6() -> bool:
    """With this setting answers reach the host's IPv6 with ::1 in them already, which drops what comes from outside to ::1.

    Then the kernel refuses connections to [::1] at once, and clients go on to 127.0.0.1.
    """
    return sysctl.read("bridge/bridge-nf-call-ip6tables") != "1"


def _uses_ipv6(networks: Iterable[Network], ports: dict[tuple[object, ...], PublishedPort]) -> bool:
    return any(network.has_ipv6 for network in networks) or any(port.address.version == 6 for port in ports.values())


def _families(network: Network) -> tuple[str, ...]:
    return ("ip", "ip6") if network.has_ipv6 else ("ip",)


def _key(port: PublishedPort) -> tuple[object, ...]:
    return (port.protocol, port.host_address, port.host_port) if port.host_port else (port.protocol, port.address, port.port, "opened")


def _failure(error: Refused) -> BerthError:
    text = f"packet rules: {error.strerror}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return Forbidden(f"{text}; the engine needs CAP_NET_ADMIN in the host's network namespace")
    if error.errno in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENOENT):
        return NotImplementedHere(f"{text}; bridge networks need a kernel with nftables, NAT and connection tracking (modules nf_tables, nft_nat, nft_masq, nft_ct, nft_fib)")
    return SystemFailure(text)
