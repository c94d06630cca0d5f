"""Which addresses and subnets are taken, and which are picked next. Pure.

What is taken is never kept: the engine tells it anew from its records when it starts, so a crash neither leaks an address
nor gives one to two containers.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from berth.errors import Conflict, Forbidden, InvalidParameter
from berth.network.model import Address, Range, Subnet

# As Docker's: what it picks subnets from, and how large they are.
DEFAULT_POOLS: tuple[tuple[Range, int], ...] = (
    *((IPv4Network(f"172.{second}.0.0/16"), 16) for second in range(17, 32)), (IPv4Network("192.168.0.0/16"), 20),
)  # fmt: skip


class Pool:
    """The addresses of one subnet."""

    def __init__(self, subnet: Subnet) -> None:
        self._network = subnet.network
        self._range = subnet.range or subnet.network
        first, last = int(self._network.network_address), int(self._network.broadcast_address)
        # IPv6 has no broadcast address, but the first one is the routers' (RFC 4291 section 2.6.1).
        self._unusable = {first} if self._network.version == 6 else {first, last} if self._network.prefixlen < 31 else set()
        self._reserved = {int(address) for address in (subnet.gateway, *subnet.reserved.values()) if address}
        self._taken: set[int] = set()
        self._next = int(self._range.network_address)

    def __contains__(self, address: Address) -> bool:
        return address.version == self._network.version and address in self._network

    def take(self, wanted: Address | None = None) -> Address:
        """The address wanted, or the next free one. Forbidden for one that is taken, Conflict where none is free.

        Not the lowest free one: an address that was given back is not somebody else's at once, whom others would take for the old one.
        """
        if wanted is not None:
            self._check(wanted)
            self._taken.add(int(wanted))
            return wanted
        first, last = int(self._range.network_address), int(self._range.broadcast_address)
        for start, end in ((self._next, last), (first, self._next - 1)):
            for number in range(start, end + 1):
                if not self._is_used(number):
                    self._taken.add(number)
                    self._next = number + 1 if number < last else first
                    return self._network[number - int(self._network.network_address)]
        raise Conflict(
            f"no available IPv{self._network.version} addresses on this network's address pools: all of {self._range} are in use; "
            "remove containers, or make a network with a larger subnet"
        )

    def give_back(self, address: Address) -> None:
        self._taken.discard(int(address))

    def _check(self, wanted: Address) -> None:
        if wanted not in self:
            raise InvalidParameter(f"invalid address {wanted}: it is not in the network's subnet {self._network}")
        if int(wanted) in self._unusable:
            raise InvalidParameter(f"invalid address {wanted}: it stands for the whole subnet {self._network}, not for a host")
        if self._is_used(int(wanted)):
            raise Forbidden("Address already in use")

    def _is_used(self, number: int) -> bool:
        return number in self._taken or number in self._reserved or number in self._unusable


def free_subnet(pools: Iterable[tuple[Range, int]], taken: Iterable[Range]) -> Range:
    """The first subnet of the pools that overlaps with none of `taken`. Conflict where all do."""
    busy = list(taken)
    for pool, prefix_length in pools:
        for candidate in pool.subnets(new_prefix=max(prefix_length, pool.prefixlen)):
            if not any(overlap(candidate, other) for other in busy):
                return candidate
    raise Conflict("all predefined address pools have been fully subnetted: give the network a --subnet, or the engine more default-address-pools")


def overlap(one: Range, other: Range) -> bool:
    """Whether they share an address."""
    return one.version == other.version and one.overlaps(other)


def first_host(network: Range) -> Address:
    """The gateway where nobody names one."""
    return network[0] if network.num_addresses == 1 else network[1]


def unique_local(network_id: str) -> IPv6Network:
    """A /64 of the network's own, by its id (RFC 4193: fd, 40 bits that nobody else has, a subnet number)."""
    found = ip_network((int("fd" + network_id[:14], 16) << 64, 64))
    assert isinstance(found, IPv6Network)
    return found


def hardware_address(address: Address) -> str:
    """02:42 and the IPv4 address, as Docker makes it: neighbours' ARP entries stay right when an address is used again."""
    octets = b"\x02\x42" + address.packed[-4:]
    return ":".join(f"{octet:02x}" for octet in octets)
