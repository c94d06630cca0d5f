"""The host's side of all networks: the engine's one netlink socket and its rules, each used by one thread at a time.

What a network needs of the host is made when a container first needs it, and mended when it has gone.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import TypeVar

from berth import errors
from berth.engine.nets.namespaces import Namespace
from berth.engine.nets.settings import NetworkSettings
from berth.engine.tasks import Tasks, to_its_end
from berth.linux import linkwatch, rtnetlink
from berth.linux import rtrequests as rt
from berth.network import firewall, leftovers, model, plumbing, relay
from berth.network.model import Attachment, Network, PublishedPort, Range

log = logging.getLogger("berth.networks")

_T = TypeVar("_T")
_MEND_AFTER_S = 0.05  # what is done to one interface concerns others a moment later
_MENDS, _MENDS_WITHIN_S = 5, 10.0
_KERNEL_KEEPS_S, _LOOK_AGAIN_S = 1.0, 0.02


class HostNetworks:
    """Opens its sockets when they are first needed: an engine whose containers have no networks touches nothing."""

    def __init__(self, names: model.Names, settings: NetworkSettings, tasks: Tasks) -> None:
        self._names = names
        self._settings = settings
        self._lock = threading.Lock()
        self._route: rtnetlink.Route | None = None
        self._firewall: firewall.Firewall | None = None
        self._watching = 0  # the descriptor on which the kernel tells of changes to rules
        self._links: linkwatch.LinkWatch | None = None
        self._later: set[asyncio.TimerHandle] = set()
        self._mended: deque[float] = deque(maxlen=_MENDS)
        self._is_mending = False
        self._tasks = tasks
        self._up: dict[str, Network] = {}  # networks by id that the host has been made ready for
        self._bridges: dict[int, str] = {}  # their ids by the indexes of their interfaces
        self.on_lost: Callable[[set[str]], None] = _nothing  # told of interfaces that somebody has deleted, by name
        self.binding = settings.binding
        self.has_ipv6 = os.path.exists("/proc/net/if_inet6")

    # -- asked by the services ------------------------------------------------------------------

    def routed(self) -> list[Range]:
        """The subnets that the host has routes to by other interfaces than the default bridge of ours; blocks."""
        with self._lock:
            own = self._routes().find(self._names.bridge)
            index = own.index if own else -1
            return [ip_network(route.destination) for route in self._routes().routes() if route.destination and route.index != index]

    def is_there(self, name: str) -> bool:
        """Whether the host has an interface of that name; blocks."""
        with self._lock:
            return self._routes().find(name) is not None

    async def up(self, network: Network) -> None:
        """Makes sure of what the network needs of the host."""
        if network.id not in self._up:
            await self._run(lambda: self._make(network))

    async def down(self, network: Network) -> None:
        """Takes all of it away."""
        await self._run(lambda: self._unmake(network))

    async def names_inside(self, namespace: Namespace) -> set[str]:
        """Of the interfaces that a container has, its own too."""
        return await self._run(lambda: self._in_namespace(namespace, lambda inside: {link.name for link in inside.links()}))

    async def attach(self, network: Network, attachment: Attachment, namespace: Namespace) -> None:
        """Interfaces, addresses and routes in a container's namespace.

        On a macvlan or ipvlan, the kernel keeps what a container had that has just ended for a moment: its address, or the parent itself.
        """
        until_s = time.monotonic() + (_KERNEL_KEEPS_S if network.driver != model.BRIDGE else 0)
        while True:
            try:
                return await self._run(lambda: self._attach(network, attachment, namespace))
            except (errors.SystemFailure, errors.Conflict):
                if time.monotonic() >= until_s:
                    raise
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def detach(self, outside: str) -> None:
        """Removes the host's end of a pair, and with it the other one; nothing where it is gone, or was none."""
        await to_its_end(lambda: _remove_outside(outside))

    async def remove_inside(self, namespace: Namespace, name: str) -> None:
        """An interface of a container that goes on."""
        await self._run(lambda: self._in_namespace(namespace, lambda inside: plumbing.remove_inside(inside, name)))

    async def set_gateways(self, leading: Sequence[tuple[Network, Attachment]], namespace: Namespace) -> None:
        """Default routes of a container that goes on, by all that it has."""
        await self._run(lambda: self._in_namespace(namespace, lambda inside: plumbing.set_gateways(inside, leading)))

    async def publish(self, published: Sequence[PublishedPort], *, instead_of: Sequence[PublishedPort] = ()) -> None:
        """Those that are not relayed; in one step with taking others away."""
        come, gone = _led(published), _led(instead_of)
        if come or gone:
            await self._run(lambda: self._rules().publish(come, instead_of=gone))

    async def unpublish(self, published: Sequence[PublishedPort]) -> None:
        await self.publish((), instead_of=published)

    async def restore(
        self, networks: Sequence[Network], forgotten: Sequence[Network], published: Sequence[PublishedPort], outsides: Collection[str]
    ) -> set[str]:  # fmt: skip
        """After an engine that was killed: everything as it must be, whatever is left of what it made; what nobody needs is removed.

        forgotten: networks that nobody needs, of which something may be there; outsides: the host's ends of containers' interfaces.
        Returns those that are not there.
        """
        return await self._run(lambda: self._restore(networks, forgotten, _led(published), outsides))

    async def lost(self, outsides: Collection[str]) -> set[str]:
        """Which of these ends of containers' interfaces are gone; others are put where they belong."""
        return await self._run(lambda: leftovers.lost(self._routes(), list(self._up.values()), outsides))

    # -- what others do -------------------------------------------------------------------------

    def watch(self) -> None:
        """Puts back what somebody else takes away, as soon as the kernel says so."""
        loop = asyncio.get_running_loop()
        if self._firewall and not self._watching:
            self._watching = self._firewall.fileno()
            loop.add_reader(self._watching, self._on_rules_changed)
        if self._up and not self._links:
            self._links = linkwatch.LinkWatch()
            loop.add_reader(self._links.fileno(), self._on_links_changed)

    def _on_rules_changed(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._watching)  # until what came has been read, by a thread
        self._tasks.spawn(self._put_back(lambda: self._rules().on_readable()))

    async def _put_back(self, restore: Callable[[], float | None]) -> None:
        later_s = await self._run(restore)
        if not self._watching:
            return
        asyncio.get_running_loop().add_reader(self._watching, self._on_rules_changed)
        if later_s is not None:
            self._after(later_s, lambda: self._tasks.spawn(self._put_back(lambda: self._rules().restore())))

    def _on_links_changed(self) -> None:
        assert self._links
        events = self._links.read()
        if events is None:  # too much has happened to know
            self._mend_later()
            return
        names = {event.name for event in events if event.kind == rt.DELLINK}
        bridges = {network.interface for network in self._up.values()}
        concerned = names & {*bridges, self._names.loop_in, self._names.loop_out} or any(event.index in self._bridges for event in events)
        if concerned or any(event.kind == linkwatch.NEWNETCONF for event in events):
            self._mend_later()
        if others := {event.name for event in events if event.name} - bridges:
            self.on_lost(others)

    def _mend_later(self) -> None:
        """Soon; whoever breaks it again and again is not fought."""
        now = time.monotonic()
        wait_s = _MEND_AFTER_S
        if len(self._mended) == _MENDS and now - self._mended[0] < _MENDS_WITHIN_S:
            wait_s = self._mended[0] + _MENDS_WITHIN_S - now
        if not self._is_mending:
            self._is_mending = True
            self._after(wait_s, lambda: self._tasks.spawn(self._mend()))

    async def _mend(self) -> None:
        self._is_mending = False
        self._mended.append(time.monotonic())
        await self._run(self._mend_all)

    def _after(self, wait_s: float, work: Callable[[], None]) -> None:
        def due() -> None:
            self._later.discard(handle)
            work()

        handle = asyncio.get_running_loop().call_later(wait_s, due)
        self._later.add(handle)

    # -- threads --------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], _T]) -> _T:
        def locked() -> _T:
            with self._lock:
                return work()

        result = await to_its_end(locked)
        self.watch()
        return result

    # -- done by a thread -----------------------------------------------------------------------

    def _routes(self) -> rtnetlink.Route:
        if self._route is None:
            self._route = rtnetlink.Route()
        return self._route

    def _rules(self) -> firewall.Firewall:
        if self._firewall is None:
            self._firewall = self._new_firewall()
        return self._firewall

    def _new_firewall(self) -> firewall.Firewall:
        settings = self._settings
        return firewall.Firewall(self._names, direct=settings.direct, forward=settings.forward, guard=settings.guard)

    def _ensure(self, network: Network) -> None:
        plumbing.ensure(self._routes(), network)
        self._up[network.id] = network
        if network.driver == model.BRIDGE and (bridge := self._routes().find(network.interface)):  # it may be gone again
            self._bridges[bridge.index] = network.id

    def _mend_all(self) -> None:
        """Interfaces, forwarding, and the way by which published ports come in."""
        for network in list(self._up.values()):
            with _said(f"network {network.name}"):
                self._ensure(network)
        with _said("forwarding"):
            self._rules().set_networks(list(self._up.values()))
        with _said("the way to published ports"):
            self._rules().mend_loop()

    def _make(self, network: Network) -> None:
        self._ensure(network)
        self._rules().set_networks(list(self._up.values()))

    def _unmake(self, network: Network) -> None:
        self._bridges = {index: identity for index, identity in self._bridges.items() if identity != network.id}
        if self._up.pop(network.id, None):
            self._rules().set_networks(list(self._up.values()))
        plumbing.remove(self._routes(), network)

    def _attach(self, network: Network, attachment: Attachment, namespace: Namespace) -> None:
        if network.id not in self._up:
            self._make(network)

        def attach(inside: rtnetlink.Route) -> None:
            plumbing.attach(self._routes(), inside, namespace.fd, network, attachment)

        try:
            self._in_namespace(namespace, attach)
        except errors.NotFound:  # somebody has deleted the bridge under us
            self._make(network)
            self._in_namespace(namespace, attach)

    def _in_namespace(self, namespace: Namespace, work: Callable[[rtnetlink.Route], _T]) -> _T:
        inside = rtnetlink.Route(os.dup(namespace.route_fd))
        try:
            return work(inside)
        finally:
            inside.close()

    def _restore(
        self, networks: Sequence[Network], forgotten: Sequence[Network], published: list[PublishedPort], outsides: Collection[str]
    ) -> set[str]:  # fmt: skip
        there = [network for network in forgotten if leftovers.is_there(self._routes(), network)]
        for network in (*networks, *there):
            with _said(f"network {network.name}"):
                self._ensure(network)
        if self._up:
            self._rules().set_networks(list(self._up.values()), published)
        else:
            self._forget_rules()
        leftovers.remove_strays(self._routes(), list(self._up.values()), outsides)
        return leftovers.lost(self._routes(), list(self._up.values()), outsides)

    def _forget_rules(self) -> None:
        """Of an engine that was killed, and of which no container goes on."""
        with contextlib.suppress(errors.BerthError):  # a kernel without packet rules has none of ours
            rules = self._new_firewall()
            try:
                rules.remove()
            finally:
                rules.close()

    def explain(self) -> list[str]:
        """For `info`: which rules of the host decide on published ports; blocks."""
        with self._lock:
            try:
                return self._rules().explain()
            except errors.BerthError as error:
                return [f"WARNING: {error}"]

    def close(self, *, leave: bool) -> None:
        """Lets go of the sockets. leave: containers go on, and what they need of the host stays; else all of it is removed."""
        loop = asyncio.get_running_loop()
        if self._watching:
            loop.remove_reader(self._watching)
            self._watching = 0
        if self._links:
            loop.remove_reader(self._links.fileno())
            self._links.close()
        for handle in self._later:
            handle.cancel()
        with self._lock:
            if not leave:
                for network in self._up.values():
                    with contextlib.suppress(errors.BerthError):
                        plumbing.remove(self._routes(), network)
                if self._firewall:
                    self._firewall.remove()
            if self._firewall:
                self._firewall.close()
            if self._route:
                self._route.close()


def _nothing(_: object) -> None:
    pass


def _remove_outside(outside: str) -> None:
    """By a socket of its own: the kernel takes some 20 ms for it, in which others may ask it for other things."""
    route = rtnetlink.Route()
    try:
        plumbing.remove_outside(route, outside)
    finally:
        route.close()


def _led(published: Iterable[PublishedPort]) -> list[PublishedPort]:
    """Those that rules lead; the others are relayed."""
    return [port for port in published if not relay.is_needed(port)]


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """One that cannot be mended keeps no other from it."""
    try:
        yield
    except errors.BerthError as error:
        log.error("%s is not as it was: %s", what, error)
