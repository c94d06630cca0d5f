"""The networks there are: their records in memory and in the database, and which subnets are taken. Changes nothing in the kernel."""

import hashlib
from collections.abc import Callable, Iterable

from berth import errors
from berth.engine.nets import records as netrecords
from berth.engine.nets.records import NetworkRecord
from berth.engine.nets.settings import NetworkSettings
from berth.network import addresses, model
from berth.network.model import Range, Subnet
from berth.store.database import Database

_DEFAULT_EXEC_ROOT = "/run/berth"


def instance_of(exec_root: str) -> str:
    """What tells an engine's interfaces and rules from those of other engines on the host; '' for the one in the default place."""
    return "" if exec_root == _DEFAULT_EXEC_ROOT else hashlib.sha256(exec_root.encode()).hexdigest()[:6]


class NetworkStore:
    """All networks by id. Memory is what is read; the database is written before anybody is told."""

    def __init__(
        self, database: Database, names: model.Names, settings: NetworkSettings, routed: Callable[[], Iterable[Range]],
        is_there: Callable[[str], bool],
    ) -> None:  # fmt: skip
        """routed: the subnets that the host has routes to, which no network of ours may hide; is_there: whether it has an interface."""
        self._database = database
        self.names = names
        self._routed = routed
        self.settings = settings
        self._is_there = is_there
        self._by_id: dict[str, NetworkRecord] = {}
        self._going: dict[str, NetworkRecord] = {}  # being removed: not found any more, but what they have is not free yet

    def load(self) -> list[str]:
        """Reads the records and makes the predefined networks where they are missing; returns what was mended, in words."""
        mended = []
        for identity, text in self._database.read("SELECT id, record FROM networks"):
            try:
                self._by_id[identity] = NetworkRecord.from_json(text)
            except ValueError as error:
                mended.append(f"network {identity[:12]} is dropped: its record is damaged ({error})")
                self._database.write_now(("DELETE FROM networks WHERE id = ?", (identity,)))
        for name in netrecords.PREDEFINED:
            if name == netrecords.BRIDGE and self.settings.bridge == "none":
                self._by_id.pop(netrecords.identity(name), None)
                continue
            old = self._by_id.get(netrecords.identity(name))
            new = self._predefined(name, old)
            if old is None or (vars(old) != vars(new)):
                self._database.write_now(("INSERT OR REPLACE INTO networks VALUES (?, ?)", (new.id, new.to_json())))
                self._by_id[new.id] = new
        return mended

    def _predefined(self, name: str, old: NetworkRecord | None) -> NetworkRecord:
        """As the engine's settings have it; the default bridge keeps the subnet that was picked for it once."""
        identity = netrecords.identity(name)
        if name != netrecords.BRIDGE:
            return old or NetworkRecord(name, model.HOST if name == netrecords.HOST else model.NULL, identity=identity)
        settings = self.settings
        subnets = list(settings.subnets)
        if not any(subnet.network.version == 4 for subnet in subnets):
            kept = next((subnet for subnet in old.subnets() if subnet.network.version == 4), None) if old else None
            if kept and not self._is_there(self.names.bridge) and any(addresses.overlap(kept.network, other) for other in self._routed()):
                kept = None  # somebody has come since who uses it, too; but containers that go on in it keep their addresses
            subnets.insert(0, kept or _with_gateway(self.free_subnet()))
        if settings.ipv6 and not any(subnet.network.version == 6 for subnet in subnets):
            subnets.append(_with_gateway(addresses.unique_local(hashlib.sha256(self.names.bridge.encode()).hexdigest())))
        options = {
            "com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.enable_ip_masquerade": "true", "com.docker.network.bridge.host_binding_ipv4": str(settings.binding or "0.0.0.0"),
            "com.docker.network.bridge.name": settings.bridge or self.names.bridge, "com.docker.network.driver.mtu": "1500", **settings.options,
        }  # fmt: skip
        ipam = {"Driver": "default", "Options": None, "Config": [netrecords.ipam_entry(subnet) for subnet in subnets]}
        record = NetworkRecord(name, model.BRIDGE, identity=identity, ipam=ipam, options=options, ipv6=len(subnets) > 1)
        record.created_ns = old.created_ns if old else record.created_ns
        return record

    # -- looking up -----------------------------------------------------------------------------

    def all(self) -> list[NetworkRecord]:
        """In the order of their names."""
        return sorted(self._by_id.values(), key=lambda record: record.name)

    def taking_up(self) -> list[NetworkRecord]:
        """Those whose names, subnets and interfaces nobody else may have now."""
        return [*self._by_id.values(), *self._going.values()]

    def find(self, text: str) -> NetworkRecord:
        """By id, name or start of an id. NotFound in the words Docker's clients match."""
        if found := self._by_id.get(text):
            return found
        if named := self.named(text):
            return named
        matches = [record for identity, record in self._by_id.items() if text and identity.startswith(text)]
        if len(matches) > 1:
            raise errors.InvalidParameter(f"network {text} is ambiguous ({len(matches)} matches found based on ID prefix)")
        if not matches:
            raise errors.NotFound(f"network {text} not found")
        return matches[0]

    def named(self, name: str) -> NetworkRecord | None:
        return next((record for record in self._by_id.values() if record.name == name), None)

    # -- subnets --------------------------------------------------------------------------------

    def free_subnet(self) -> Range:
        """One that neither the host nor a network of ours has. Conflict where there is none."""
        return addresses.free_subnet(self.settings.pools, [*self._routed(), *self._own()])

    def check_free(self, wanted: Range) -> None:
        """Forbidden in Docker's words for a subnet that overlaps with another network's."""
        for record in self._with_addresses():
            if any(addresses.overlap(wanted, subnet.network) for subnet in record.subnets()):
                raise errors.Forbidden(
                    f"Pool overlaps with other one on this address space: {wanted} has addresses of network {record.name}; choose another --subnet"
                )

    def _own(self) -> list[Range]:
        return [subnet.network for record in self._with_addresses() for subnet in record.subnets()]

    def _with_addresses(self) -> list[NetworkRecord]:
        """A configuration (--config-only) has none: they are those of the networks that are made from it."""
        return [record for record in self.taking_up() if not record.config_only]

    # -- changes --------------------------------------------------------------------------------

    async def add(self, record: NetworkRecord) -> None:
        self._by_id[record.id] = record
        try:
            await self._database.write(("INSERT INTO networks VALUES (?, ?)", (record.id, record.to_json())))
        except BaseException:
            del self._by_id[record.id]
            raise

    def hide(self, record: NetworkRecord) -> None:
        """It is being removed."""
        self._going[record.id] = self._by_id.pop(record.id)

    def show(self, record: NetworkRecord) -> None:
        """It could not be."""
        self._by_id[record.id] = self._going.pop(record.id)

    async def remove(self, record: NetworkRecord) -> None:
        """One that is hidden."""
        await self._database.write(("DELETE FROM networks WHERE id = ?", (record.id,)))
        self._going.pop(record.id, None)


def _with_gateway(network: Range) -> Subnet:
    return Subnet(network, addresses.first_host(network))
