"""The names of containers, network by network, as the engine told them, and who sees which. Pure.

A name is kept as it is on the wire, in lower case (a label's length is never a letter), so that looking one up is one step
in a table. What Docker does with `name.network` and links is the model.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_KEPT_MOST_BYTES, _ALL_KEPT_MOST_BYTES, _KEPT_OVERHEAD_BYTES = 4 << 20, 64 << 20, 400


def to_wire(name: str) -> bytes:
    """A name in lower case without the root's label; b'' for one that DNS cannot carry."""
    return as_written(name).lower()


def as_written(name: str) -> bytes:
    """`to_wire` in the name's own case."""
    labels = [label.encode() for label in name.removesuffix(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        return b""
    wire = b"".join(bytes([len(label)]) + label for label in labels)
    return wire if len(wire) < 255 else b""


def reverse(address: str) -> bytes:
    """The name of an address in in-addr.arpa or ip6.arpa."""
    return to_wire(ipaddress.ip_address(address).reverse_pointer)


@dataclass(slots=True)
class Endpoint:
    """One container in a network. host: its first name as it was written."""

    host: str
    names: tuple[bytes, ...]
    reverses: tuple[bytes, ...]
    ipv4: tuple[bytes, ...]
    ipv6: tuple[bytes, ...]
    round: int


@dataclass(slots=True)
class Network:
    name: str = ""
    wire: bytes = b""
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    by_name: dict[bytes, dict[str, Endpoint]] = field(default_factory=dict)
    by_address: dict[bytes, dict[str, Endpoint]] = field(default_factory=dict)
    views: list["View"] = field(default_factory=list)
    round: int = 0


class View:
    """What containers in the same networks, and with the same links, see; answers made once are kept for all of them."""

    __slots__ = ("_kept_bytes", "_of", "count", "kept", "key", "links", "networks", "users")

    def __init__(self, of: "Names", key: tuple, networks: tuple[Network, ...], links: tuple[dict[bytes, bytes], ...]) -> None:
        self._of, self.key, self.networks, self.links = of, key, networks, links  # links: for each network
        self.users = self.count = 0  # count: of answers that were made, so that those not kept take turns too
        self.kept: dict[bytes, Callable[[], bytes]] = {}  # what follows from the names alone, so it goes when one of them changes
        self._kept_bytes = 0

    def keep(self, key: bytes, answer: Callable[[], bytes], size_bytes: int) -> None:
        """Bounded for a view and for all of them, as containers choose the questions."""
        size_bytes += len(key) + _KEPT_OVERHEAD_BYTES
        if self._kept_bytes + size_bytes > _KEPT_MOST_BYTES:
            self.forget()
        if self._of.kept_bytes + size_bytes > _ALL_KEPT_MOST_BYTES:
            self._of.forget()
        self.kept[key] = answer
        self._kept_bytes += size_bytes
        self._of.kept_bytes += size_bytes

    def forget(self) -> None:
        self.kept.clear()
        self._of.kept_bytes -= self._kept_bytes
        self._kept_bytes = 0


@dataclass(slots=True)
class Found:
    """What there is of a name: addresses, packed, of one network's containers."""

    ipv4: list[bytes]
    ipv6: list[bytes]


class Names:
    """All networks. `round` counts up whenever an engine begins to name everything anew."""

    def __init__(self) -> None:
        self.networks: dict[str, Network] = {}
        self.views: dict[tuple, View] = {}
        self.round = 0
        self.kept_bytes = 0  # of all views

    def forget(self) -> None:
        """Drops every kept answer."""
        for view in self.views.values():
            view.forget()

    # -- what the engine says ----------------------------------------------------------------------

    def set_network(self, identity: str, name: str) -> None:
        network = self._network(identity)
        network.round = self.round
        network.name, network.wire = name, to_wire(name)
        _changed(network)

    def remove_network(self, identity: str) -> None:
        if network := self.networks.get(identity):
            network.endpoints.clear()
            network.by_name.clear()
            network.by_address.clear()
            _changed(network)
            network.name, network.wire = "", b""
            self._forget(identity)

    def set_endpoint(self, network_id: str, identity: str, names: Sequence[str], addresses: Sequence[str]) -> None:
        network = self._network(network_id)
        packed = [ipaddress.ip_address(address).packed for address in addresses]
        endpoint = Endpoint(
            names[0] if names else "", tuple({wire: None for name in names if (wire := to_wire(name))}),
            tuple(reverse(address) for address in addresses), tuple(a for a in packed if len(a) == 4),
            tuple(a for a in packed if len(a) == 16), self.round,
        )  # fmt: skip
        self._remove(network, identity)
        network.endpoints[identity] = endpoint
        for table, keys in ((network.by_name, endpoint.names), (network.by_address, endpoint.reverses)):
            for key in keys:
                table.setdefault(key, {})[identity] = endpoint
        _changed(network)

    def remove_endpoint(self, network_id: str, identity: str) -> None:
        if network := self.networks.get(network_id):
            self._remove(network, identity)
            _changed(network)
            self._forget(network_id)

    def drop_unnamed(self) -> None:
        """Ends a round: what was not named in it goes."""
        for network_id, network in list(self.networks.items()):
            for identity in [identity for identity, endpoint in network.endpoints.items() if endpoint.round < self.round]:
                self._remove(network, identity)
            _changed(network)
            self._forget(network_id)

    def _network(self, identity: str) -> Network:
        return self.networks.setdefault(identity, Network())

    def _forget(self, identity: str) -> None:
        """Networks come and go: no trace is left of one that nobody names or sees."""
        network = self.networks[identity]
        if not (network.endpoints or network.views) and (network.round < self.round or not network.wire):
            del self.networks[identity]

    @staticmethod
    def _remove(network: Network, identity: str) -> None:
        endpoint = network.endpoints.pop(identity, None)
        if endpoint is None:
            return
        for table, keys in ((network.by_name, endpoint.names), (network.by_address, endpoint.reverses)):
            for key in keys:
                table[key].pop(identity, None)
                if not table[key]:
                    del table[key]

    # -- what a container sees ---------------------------------------------------------------------

    def take_view(self, networks: Sequence[str], links: Mapping[str, Mapping[str, str]]) -> View:
        """The view of a container, to be given back."""
        wires = tuple(
            tuple((to_wire(name), to_wire(target)) for name, target in sorted(links.get(identity, {}).items())) for identity in networks
        )
        key = (tuple(networks), wires)
        view = self.views.get(key)
        if view is None:
            view = self.views[key] = View(self, key, tuple(self._network(identity) for identity in networks), tuple(dict(pairs) for pairs in wires))
            for network in view.networks:
                network.views.append(view)
        view.users += 1
        return view

    def give_back(self, view: View) -> None:
        view.users -= 1
        if view.users == 0:
            view.forget()
            del self.views[view.key]
            for identity, network in zip(view.key[0], view.networks, strict=True):
                network.views.remove(view)
                if identity in self.networks:
                    self._forget(identity)


def _changed(network: Network) -> None:
    for view in network.views:
        view.forget()


def find(view: View, name: bytes) -> Found | None:
    """What a name, with the root's label, means in a view; None where it means nothing there.

    The first network that has addresses of a family gives them; a link comes before a name.
    """
    found: Found | None = None
    for head, suffix in _ways(name):
        for by_link in (True, False):
            for network, links in zip(view.networks, view.links, strict=True):
                if suffix and suffix != network.wire:
                    continue
                target = links.get(head)
                if (target is not None) != by_link:
                    continue
                endpoints = network.by_name.get(target if target is not None else head)
                if endpoints:
                    found = found or Found([], [])
                    found.ipv4 = found.ipv4 or [address for endpoint in endpoints.values() for address in endpoint.ipv4]
                    found.ipv6 = found.ipv6 or [address for endpoint in endpoints.values() for address in endpoint.ipv6]
        if found:
            return found
    return None


def host_of(view: View, name: bytes) -> str:
    """`container.network` for the reverse name of an address in a view; '' where nobody has it."""
    for network in view.networks:
        if endpoints := network.by_address.get(name[:-1]):
            host = next(reversed(endpoints.values())).host  # the last one: it came after whoever had the address before
            return f"{host}.{network.name}" if network.name else host
    return ""


def _ways(name: bytes) -> Iterator[tuple[bytes, bytes]]:
    """a.b.c as a name in any network, as a.b in network c, as a in network b.c."""
    whole, at, starts = name[:-1], 0, []
    yield whole, b""
    while at < len(whole):
        starts.append(at)
        at += 1 + whole[at]
    for start in reversed(starts[1:]):
        yield whole[:start], whole[start:]
