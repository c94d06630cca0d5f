"""Networks and published ports as tables of nftables: what must hold, and how to get there from what does. Pure.

docs/network-firewall.md draws how a packet goes. One table in each family that is used, of one name; nothing outside of it.
Tables are described as `Chain` and `Set` objects and compared: where only elements of sets differ, only these are changed.
"""

from dataclasses import dataclass, field

from berth.errors import InvalidParameter
from berth.linux import nftmessages as nft
from berth.linux.netlinksocket import Request
from berth.network.model import BRIDGE, NAT_UNPROTECTED, ROUTED, Address, Names, Network, PublishedPort, Range

_RAW, _DSTNAT, _FILTER, _SRCNAT = -300, -100, 0, 100
_AFTER_EVERYBODY = 2000  # in the input hook: what any firewall refuses does not come here
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_VERSIONS = {"ip": 4, "ip6": 6}
_LOOPBACK6 = bytes(15) + b"\1"
GUARD = "guard"  # name of a chain


@dataclass(frozen=True, slots=True)
class Loop:
    """The way from the host to itself by which connections to published ports come in (firewall.py). index: of its near end."""

    inside: str
    index: int
    neighbours: dict[str, bytes]  # address of the far end by family


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[tuple[bytes, ...], ...]
    hook: str = ""
    kind: str = "filter"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Set:
    """elements: by what makes each of them one, so that no key is in twice; the value is the element as the kernel takes it."""

    key: tuple[nft.Field, ...]
    data: tuple[nft.Field, ...] = ()
    verdicts: bool = False
    intervals: bool = False
    elements: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[object, ...]:
        return self.key, self.data, self.verdicts, self.intervals


@dataclass(frozen=True, slots=True)
class Table:
    family: str
    name: str
    sets: dict[str, Set]
    chains: dict[str, Chain]


def tables(
    names: Names, networks: list[Network], ports: list[PublishedPort], loop: Loop | None, *,
    guarded: frozenset[str] = frozenset(), loopback6: bool = True,
) -> list[Table]:  # fmt: skip
    """What must be there. loop: None for ports that are led to containers before the host's firewall sees them ("direct").

    guarded: families in which the host forwards nothing but containers' packets. loopback6: whether ports are led from ::1.
    InvalidParameter for a port of two families.
    """
    bridges = [network for network in networks if network.driver == BRIDGE]
    _check(ports)
    found = []
    for family, version in _VERSIONS.items():
        own_ports = [port for port in ports if port.address.version == version]
        if own_ports or any(subnet.network.version == version for network in bridges for subnet in network.subnets):
            found.append(_table(family, names, bridges, own_ports, loop, family in guarded, loopback6))
    return found


def replacement(names: Names, wanted: list[Table], present: set[str]) -> list[Request]:
    """Puts all of it in, in place of what may be there. present: families that have a table of the name now."""
    requests = []
    for family in sorted(present | {table.family for table in wanted}):
        requests += [nft.add_table(family, names.table), nft.delete_table(family, names.table)]
    for table in wanted:
        requests += _creation(table)
    return requests


def difference(old: list[Table], new: list[Table]) -> list[Request] | None:
    """From one to the other by elements alone; None if that is not enough."""
    if [(table.family, table.chains, _shapes(table)) for table in old] != [(table.family, table.chains, _shapes(table)) for table in new]:
        return None
    changes = (Change.between(table, name, was.elements, after.sets[name].elements) for table, after in zip(old, new, strict=True) for name, was in table.sets.items())
    return [request for change in changes for request in change.requests()]


@dataclass(frozen=True, slots=True)
class Change:
    """Elements of one set that go and come, by their keys."""

    table: Table
    name: str
    gone: dict[bytes, bytes]
    come: dict[bytes, bytes]

    @classmethod
    def between(cls, table: Table, name: str, was: dict[bytes, bytes], now: dict[bytes, bytes]) -> "Change":
        gone = {key: element for key, element in was.items() if now.get(key) != element}
        return cls(table, name, gone, {key: element for key, element in now.items() if was.get(key) != element})

    def requests(self) -> list[Request]:
        own = (self.table.family, self.table.name, self.name)
        return [*nft.delete_elements(*own, list(self.gone.values())), *nft.add_elements(*own, list(self.come.values()))]

    def is_done(self) -> None:
        """Notes it in the table."""
        elements = self.table.sets[self.name].elements
        for key in self.gone:
            del elements[key]
        elements |= self.come


def changes_of_ports(tables: list[Table], gone: list[PublishedPort], come: list[PublishedPort]) -> list[Change] | None:
    """What else there must be when these ports go and come, whatever the number of others; None if that takes more than elements.

    InvalidParameter for a port of two families.
    """
    _check(come)
    found = []
    for family, version in _VERSIONS.items():
        went, came = ([port for port in ports if port.address.version == version] for ports in (gone, come))
        if not went and not came:
            continue
        table = next((table for table in tables if table.family == family), None)
        if table is None or not table.sets["sources"].elements:  # one that is there for ports alone comes and goes with them
            return None
        new = _port_elements(came)
        for name, old in _port_elements(went).items():
            if name in table.sets:
                have = table.sets[name].elements
                was = {key: have[key] for key in (*old, *new[name]) if key in have}
                found.append(Change.between(table, name, was, new[name]))
    return found


# -- the table of one family --------------------------------------------------------------------


def _table(family: str, names: Names, networks: list[Network], ports: list[PublishedPort], loop: Loop | None, guarded: bool, loopback6: bool) -> Table:
    address = nft.IPV4_ADDRESS if family == "ip" else nft.IPV6_ADDRESS
    version = _VERSIONS[family]
    bridges = [network.interface for network in networks]
    elements = _port_elements(ports)
    sets = {
        "bridges": _names(bridges),
        "internal": _names([network.interface for network in networks if network.internal]),
        "within": Set((nft.NAME, nft.NAME), elements=_elements([nft.name_bytes(name) * 2 for name in bridges])),
        "sources": _sources(family, networks),
        "ports": Set((nft.PROTOCOL, address, nft.PORT), (address, nft.PORT), elements=elements["ports"]),
        "any-ports": Set((nft.PROTOCOL, nft.PORT), (address, nft.PORT), elements=elements["any-ports"]),
    }
    chains = {
        "published": _published(family, address),
        **{f"from-{network.interface}": _from(network, family) for network in networks},
        "prerouting": _prerouting(loop),
        "output": _output(leave_loopback=family == "ip6" and not loopback6),
        "postrouting": _postrouting(family),
        "forward": _forward(_openings(family, address, networks), guarded),
    }
    # Only where there are such networks: whoever has none has nothing to read of them.
    if any(network.gateway_mode(version) == NAT_UNPROTECTED for network in networks):
        sets["open"] = _names([network.interface for network in networks if network.gateway_mode(version) == NAT_UNPROTECTED])
    if any(network.gateway_mode(version) == ROUTED for network in networks):
        sets["opened"] = Set((nft.PROTOCOL, address, nft.PORT), elements=elements["opened"])
    if guarded:
        chains[GUARD] = _guard()
    if family == "ip":
        chains["raw"] = _raw()
    if loop:
        sets["checked"] = Set((nft.PROTOCOL, address, nft.PORT), elements=elements["checked"])
        sets["any-checked"] = Set((nft.PROTOCOL, nft.PORT), elements=elements["any-checked"])
        chains["around"] = _around(family, loop)
        chains["input"] = _input(family, address, loop)
    return Table(family, names.table, sets, chains)


def _published(family: str, address: nft.Field) -> Chain:
    """Leads what is meant for a published port to its container."""
    result_port = nft.register_after(address)
    specific = (*_destination(family, address), nft.lookup("ports", into=1), nft.dnat(family, 1, result_port))
    any_address = (*_to_this_host(), *_protocol_and_port(), nft.lookup("any-ports", into=1), nft.dnat(family, 1, result_port))
    return Chain((specific, any_address))


def _from(network: Network, family: str) -> Chain:
    """How packets of a network leave, by their sources. A container that reaches one beside it by a published port must get its answers here."""
    own = (nft.meta(nft.OIFNAME), nft.equals(nft.name_bytes(network.interface)))
    rules = [(*own, *_was_led(), nft.masquerade()), (*own, nft.verdict(nft.RETURN))]
    if network.masquerade(_VERSIONS[family]):
        source = network.source(_VERSIONS[family])
        rules.append((nft.immediate(source.packed, 1), nft.snat(family, 1)) if source else (nft.masquerade(),))
    return Chain(tuple(rules))


def _prerouting(loop: Loop | None) -> Chain:
    if loop is None:
        return Chain(((_go("published"),),), "prerouting", "nat", _DSTNAT)
    from_containers = (nft.meta(nft.IIFNAME), nft.lookup("bridges"), _go("published"))
    around = (nft.meta(nft.IIFNAME), nft.equals(nft.name_bytes(loop.inside)), _go("published"))
    return Chain((from_containers, around), "prerouting", "nat", _DSTNAT)


def _output(*, leave_loopback: bool) -> Chain:
    """What the host itself sends."""
    to_loopback = (nft.payload(nft.NETWORK, 24, 16), nft.equals(_LOOPBACK6), nft.verdict(nft.RETURN))
    return Chain(((to_loopback,) if leave_loopback else ()) + ((_go("published"),),), "output", "nat", _DSTNAT)


def _postrouting(family: str) -> Chain:
    """From loopback to a published port: the container must see an address that it can answer to."""
    loopback = (nft.payload(nft.NETWORK, 12, 1), nft.equals(b"\x7f")) if family == "ip" else (nft.payload(nft.NETWORK, 8, 16), nft.equals(_LOOPBACK6))
    source = nft.payload(nft.NETWORK, 12, 4) if family == "ip" else nft.payload(nft.NETWORK, 8, 16)
    return Chain(
        ((*loopback, nft.meta(nft.OIFNAME), nft.lookup("bridges"), nft.masquerade()), (source, nft.lookup("sources", into=0))),
        "postrouting", "nat", _SRCNAT,
    )  # fmt: skip


def _openings(family: str, address: nft.Field, networks: list[Network]) -> list[tuple[bytes, ...]]:
    """Into networks that others have routes to: all of some, of some the published ports."""
    accept, modes = nft.verdict(nft.ACCEPT), {network.gateway_mode(_VERSIONS[family]) for network in networks}
    rules: list[tuple[bytes, ...]] = []
    if NAT_UNPROTECTED in modes:
        rules.append((nft.meta(nft.OIFNAME), nft.lookup("open"), accept))
    if ROUTED in modes:
        rules.append((*_destination(family, address), nft.lookup("opened"), accept))
    return rules


def _forward(openings: list[tuple[bytes, ...]], guarded: bool) -> Chain:
    """What may pass between containers and others. It accepts for this table alone: other tables may refuse what it accepts."""
    came, leaves, accept, drop = nft.meta(nft.IIFNAME), nft.meta(nft.OIFNAME), nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    ours = (nft.lookup("bridges"),)
    rules: list[tuple[bytes, ...]] = [
        (nft.conntrack(nft.CT_STATE), nft.any_bit(nft.ESTABLISHED | nft.RELATED), accept),
        (came, nft.meta(nft.OIFNAME, 2), nft.lookup("within"), accept),
        (came, nft.lookup("internal"), drop),
        (leaves, nft.lookup("internal"), drop),
        # Connection tracking does not know it, so it would leave with an address that means nothing outside.
        (came, *ours, nft.conntrack(nft.CT_STATE), nft.any_bit(nft.INVALID), drop),
        (leaves, *ours, *_was_led(), accept),
        *openings,
        (leaves, *ours, drop),
    ]
    if guarded:
        rules.append((nft.verdict(nft.GOTO, GUARD),))
    return Chain(tuple(rules), "forward", "filter", _FILTER)


def _guard() -> Chain:
    """Forwarding is on because of containers alone: the host must not be a router for others. That there is this chain says so.

    Other software that came later and found it on has bridges or pairs of interfaces too; hardware and tunnels have neither.
    """
    passing = [(nft.meta(key), nft.equals(nft.name_bytes(kind)), nft.verdict(nft.ACCEPT)) for kind in ("bridge", "veth") for key in (nft.IIFKIND, nft.OIFKIND)]
    return Chain((*passing, (nft.verdict(nft.DROP),)))


def _raw() -> Chain:
    """Bridges let 127.0.0.0/8 pass, for what the host sends; what a container sends must not reach the host's loopback (CVE-2020-8558)."""
    came = (nft.meta(nft.IIFNAME), nft.lookup("bridges"))
    return Chain(
        # Every packet of the host comes by here: what is seldom true, and cheap to see, first.
        tuple((nft.payload(nft.NETWORK, offset, 1), nft.equals(b"\x7f"), *came, nft.verdict(nft.DROP)) for offset in (12, 16)),
        "prerouting", "filter", _RAW,
    )  # fmt: skip


def _input(family: str, address: nft.Field, loop: Loop) -> Chain:
    """What every firewall has let in: the first packet of a connection to a published port is sent around."""
    new = (nft.conntrack(nft.CT_STATE), nft.any_bit(nft.NEW))
    # Every packet for the host comes by here, so nearly all leave by the first rule.
    known = (nft.conntrack(nft.CT_STATE), nft.any_bit(nft.ESTABLISHED | nft.RELATED), nft.verdict(nft.RETURN))
    around = nft.verdict(nft.GOTO, "around")
    # What the host sends itself was led already, or cannot be; what has been around once must not go again.
    done = tuple((nft.meta(nft.IIFNAME), nft.equals(nft.name_bytes(name)), nft.verdict(nft.RETURN)) for name in ("lo", loop.inside))
    return Chain(
        (
            known,
            *done,
            (*new, *_destination(family, address), nft.lookup("checked"), around),
            (*new, *_to_this_host(), *_protocol_and_port(), nft.lookup("any-checked"), around),
        ),
        "input", "filter", _AFTER_EVERYBODY,
    )  # fmt: skip


def _around(family: str, loop: Loop) -> Chain:
    send = (nft.immediate(loop.neighbours[family], 1), nft.immediate(nft.host_order(loop.index), 2), nft.duplicate(1, 2))
    return Chain((send, (nft.verdict(nft.DROP),)))


def _creation(table: Table) -> list[Request]:
    """Each thing after what it names."""
    own = (table.family, table.name)
    requests = [nft.add_table(*own)]
    for number, (name, kept) in enumerate(table.sets.items(), 1):
        requests.append(nft.add_set(*own, name, number, kept.key, data=kept.data, verdicts=kept.verdicts, intervals=kept.intervals))
    for name, chain in table.chains.items():
        requests.append(nft.add_chain(*own, name, hook=chain.hook, kind=chain.kind, priority=chain.priority))
    for name, kept in table.sets.items():
        requests += nft.add_elements(*own, name, list(kept.elements.values()))
    for name, chain in table.chains.items():
        requests += [nft.add_rule(*own, name, *rule) for rule in chain.rules]
    return requests


# -- parts of rules -----------------------------------------------------------------------------


def _go(chain: str) -> bytes:
    return nft.verdict(nft.JUMP, chain)


def _was_led() -> tuple[bytes, ...]:
    """Whether the connection's destination was changed."""
    return nft.conntrack(nft.CT_STATUS), nft.any_bit(nft.STATUS_DNAT)


def _to_this_host() -> tuple[bytes, ...]:
    return nft.address_type(), nft.equals(nft.host_order(nft.ADDRESS_LOCAL))


def _destination(family: str, address: nft.Field) -> tuple[bytes, ...]:
    """Loads protocol, address and port, as in sets of them."""
    offset = 16 if family == "ip" else 24
    port = nft.payload(nft.TRANSPORT, 2, 2, nft.register_after(nft.PROTOCOL, address))
    return nft.meta(nft.L4PROTO), nft.payload(nft.NETWORK, offset, address[1], nft.register_after(nft.PROTOCOL)), port


def _protocol_and_port() -> tuple[bytes, ...]:
    return nft.meta(nft.L4PROTO), nft.payload(nft.TRANSPORT, 2, 2, nft.register_after(nft.PROTOCOL))


# -- sets ---------------------------------------------------------------------------------------


def _shapes(table: Table) -> list[tuple[str, tuple[object, ...]]]:
    return [(name, kept.shape) for name, kept in table.sets.items()]


def _names(names: list[str]) -> Set:
    return Set((nft.NAME,), elements=_elements([nft.name_bytes(name) for name in names]))


def _elements(keys: list[bytes]) -> dict[bytes, bytes]:
    return {key: nft.element(key) for key in keys}


def _sources(family: str, networks: list[Network]) -> Set:
    elements = {}
    for network in networks:
        for subnet in network.subnets:
            if subnet.network.version == _VERSIONS[family]:
                first, after = _edges(subnet.network)
                elements[first] = nft.interval(first, after, nft.decision(nft.GOTO, f"from-{network.interface}"))
    address = nft.IPV4_ADDRESS if family == "ip" else nft.IPV6_ADDRESS
    return Set((address,), verdicts=True, intervals=True, elements=elements)


def _edges(subnet: Range) -> tuple[bytes, bytes]:
    """The first address of a subnet, and the one after its last: b"" if there is none."""
    size = subnet.max_prefixlen // 8
    after = int(subnet.broadcast_address) + 1
    return subnet.network_address.packed, b"" if after >> 8 * size else after.to_bytes(size, "big")


def _port_elements(ports: list[PublishedPort]) -> dict[str, dict[bytes, bytes]]:
    """Of each set that is about ports."""
    led = [port for port in ports if port.host_port]
    of_any, of_one = [port for port in led if _is_any(port)], [port for port in led if not _is_any(port)]
    return {
        "ports": _targets(of_one), "any-ports": _targets(of_any), "opened": _elements([_own_key(port) for port in ports if not port.host_port]),
        "checked": _keys([port for port in of_one if not port.host_address.is_loopback]), "any-checked": _keys(of_any),
    }  # fmt: skip


def _check(ports: list[PublishedPort]) -> None:
    for port in ports:
        if port.host_address.version != port.address.version:
            raise InvalidParameter(f"port {port.host_port} of {port.host_address} cannot lead to {port.address}: one is IPv4, the other IPv6")


def _targets(ports: list[PublishedPort]) -> dict[bytes, bytes]:
    return {_key(port): nft.element(_key(port), nft.value(nft.concatenation(port.address.packed, port.port.to_bytes(2, "big")))) for port in ports}


def _keys(ports: list[PublishedPort]) -> dict[bytes, bytes]:
    return _elements([_key(port) for port in ports])


def _key(port: PublishedPort) -> bytes:
    address = () if _is_any(port) else (port.host_address.packed,)
    return nft.concatenation(bytes((_PROTOCOLS[port.protocol],)), *address, port.host_port.to_bytes(2, "big"))


def _own_key(port: PublishedPort) -> bytes:
    """By the container's own address."""
    return nft.concatenation(bytes((_PROTOCOLS[port.protocol],)), port.address.packed, port.port.to_bytes(2, "big"))


def _is_any(port: PublishedPort) -> bool:
    address: Address = port.host_address
    return address.is_unspecified
