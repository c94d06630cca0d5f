"""Names of containers: what the resolver (network/resolving.py) is told of those that run.

Docker's default bridge resolves no names: a container that is in no other network has the host's servers in its resolv.conf, and no
sandbox here. One that joins a network later gets one then.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from berth import errors
from berth.engine.nets.endpoint import link
from berth.engine.nets.namespaces import Namespaces
from berth.engine.nets.records import NetworkRecord
from berth.engine.state import Record
from berth.network.etcfiles import Wishes
from berth.network.resolving import Resolver

Place = tuple[NetworkRecord, dict[str, Any], dict[str, Any]]  # network, settings, live, as a record keeps them


class ContainerNames:
    """Tells the resolver. Its process is started with the first container that needs one."""

    def __init__(self, exec_root: str, namespaces: Namespaces, name_of: Callable[[str], str]) -> None:
        """name_of: the name of the container that an id or a name means, as links have it; NotFound."""
        self._exec_root = exec_root
        self._namespaces = namespaces
        self._name_of = name_of
        self._resolver: Resolver | None = None

    async def open(self) -> None:
        """Finds the resolver of an engine before, which goes on answering."""
        self._resolver = await Resolver.start(self._exec_root)

    def warm_up(self) -> None:
        """Somebody makes a network: the first container in it shall not wait for the process."""
        with contextlib.suppress(errors.Unavailable):  # said to whoever needs it
            self._to.warm_up()

    def close(self) -> None:
        if self._resolver:
            self._resolver.close()

    @property
    def _to(self) -> Resolver:
        assert self._resolver, "open() comes first"
        return self._resolver

    # -- one container --------------------------------------------------------------------------

    async def add(self, record: Record, places: Sequence[Place], namespace_fd: int) -> None:
        """Before its program runs: what it may ask, and what others may ask of it."""
        if not _has_resolver(places):
            return
        dns = await self._namespaces.dns_sockets(namespace_fd)
        await self._to.add_sandbox(record.id, dns.udp_fd, dns.tcp_fd, **self._view(record, places))
        await self._tell(places)

    async def watch(self, record: Record) -> None:
        """Its program runs: the resolver sees for itself when it ends, should no engine be there."""
        if record.id in self._to.known:
            with contextlib.suppress(ProcessLookupError):
                await self._to.watch_sandbox(record.id, os.pidfd_open(record.pid))

    async def change(self, record: Record, places: Sequence[Place], namespace_fd: int) -> None:
        """Its networks, or names, are others now. namespace_fd: its own, to be given sockets there if it needs them."""
        if record.id in self._to.known:
            await self._to.set_sandbox(record.id, **self._view(record, places))
        elif _has_resolver(places) and namespace_fd >= 0:
            await self.add(record, places, namespace_fd)
            await self.watch(record)
        await self._tell(places)

    async def leave(self, network: NetworkRecord, live: dict[str, Any]) -> None:
        """One container has left a network."""
        if network.is_user_defined:
            await self._to.remove_endpoint(network.id, live["id"])

    async def remove(self, identity: str, places: Sequence[tuple[NetworkRecord, dict[str, Any]]]) -> None:
        """It has ended."""
        for network, live in places:
            await self.leave(network, live)
        await self._to.remove_sandbox(identity)

    async def restore(self, record: Record, places: Sequence[Place]) -> None:
        """One that was found running by an engine that starts."""
        if not _has_resolver(places):
            return
        if record.id in self._to.known:
            await self.change(record, places, -1)
            return
        with contextlib.suppress(OSError, errors.SystemFailure):  # it ends just now
            fd = os.open(f"/proc/{record.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                await self.add(record, places, fd)
            finally:
                os.close(fd)
            await self.watch(record)

    async def restored(self) -> None:
        """All that run have been named."""
        await self._to.synced()

    async def forget(self, network: NetworkRecord) -> None:
        """A network that is removed."""
        await self._to.remove_network(network.id)

    async def _tell(self, places: Sequence[Place]) -> None:
        for network, _, live in places:
            if network.is_user_defined:
                await self._to.set_network(network.id, network.name)
                await self._to.add_endpoint(network.id, live["id"], live["dns_names"], [text.partition("/")[0] for text in live["addresses"]])

    def _view(self, record: Record, places: Sequence[Place]) -> dict[str, Any]:
        """What a container sees: the names of its own networks, and the world unless all of them are internal."""
        links: dict[str, dict[str, str]] = {}
        for network, settings, _ in places:
            for text in settings.get("Links") or []:
                other, alias = link(text)
                with contextlib.suppress(errors.BerthError):
                    links.setdefault(network.id, {})[alias] = self._name_of(other)
        return {
            "networks": [network.id for network, _, _ in places if network.is_user_defined], "upstreams": record.host.get("Dns") or [],
            "forward": any(not network.internal for network, _, _ in places), "links": links,
            "single_labels": not Wishes(options=record.host.get("DnsOptions") or ()).has_ndots,
        }  # fmt: skip


def _has_resolver(places: Sequence[Place]) -> bool:
    return any(network.is_user_defined for network, _, _ in places)


