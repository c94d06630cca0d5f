"""What the engine keeps of a network, and of a container's place in one. Pure; the database keeps both as JSON.

A container's record has `endpoints`: the name of a network -> {"settings", "network_id", "live"}. settings: Docker's
EndpointSettings as a client gave them; live: what the container has there while it runs, None while it does not:

    {"id", "interface", "outside", "mac", "addresses": ["172.18.0.2/16", …], "gateways": […], "dns_names": […], "routers": […]}

A record has `ports`, too: what is published while it runs, [{"protocol", "host_address", "host_port", "port", "interface"}].
"""

import hashlib
import json
import secrets
import time
from ipaddress import ip_address, ip_network
from typing import Any

from berth.network import model
from berth.network.model import Subnet

BRIDGE, HOST, NONE = "bridge", "host", "none"  # the networks that are always there, by name
PREDEFINED = (BRIDGE, HOST, NONE)
_INTERFACE_ID_DIGITS = 12


def identity(name: str) -> str:
    """The id of a predefined network: 64 hexadecimal digits; the same on every engine, so that records outlive a lost database."""
    return hashlib.sha256(f"berth network {name}".encode()).hexdigest()


class NetworkRecord:
    """One network. ipam: Docker's IPAM with every subnet and gateway filled in; interface: of the host ("" for none)."""

    def __init__(
        self, name: str, driver: str, *, identity: str = "", interface: str | None = None, ipam: dict[str, Any] | None = None,
        options: dict[str, str] | None = None, labels: dict[str, str] | None = None, internal: bool = False, attachable: bool = False,
        ipv4: bool = True, ipv6: bool = False, config_from: str = "", config_only: bool = False,
    ) -> None:  # fmt: skip
        self.id = identity or secrets.token_hex(32)
        self.name = name
        self.driver = driver
        self.created_ns = time.time_ns()
        self.ipam = ipam or {"Driver": "default", "Options": None, "Config": []}
        self.options = options or {}
        self.labels = labels or {}
        self.internal = internal
        self.attachable = attachable
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.config_from = config_from
        self.config_only = config_only
        self.interface = self._interface() if interface is None else interface
        self.chosen: list[str] = []  # the subnets that a client named: in these, clients name addresses, too

    def _interface(self) -> str:
        if self.driver == model.BRIDGE:
            return self.options.get("com.docker.network.bridge.name") or f"br-{self.id[:_INTERFACE_ID_DIGITS]}"
        return self.options.get("parent", "") if self.driver in (model.MACVLAN, model.IPVLAN) else ""

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED

    @property
    def has_addresses(self) -> bool:
        """Whether containers get interfaces in it."""
        return self.driver not in (model.HOST, model.NULL)

    @property
    def is_user_defined(self) -> bool:
        """Whether names are resolved in it, which Docker's default bridge leaves to links."""
        return not self.predefined

    def subnets(self) -> tuple[Subnet, ...]:
        found = []
        for entry in self.ipam["Config"] or []:
            reserved = {name: ip_address(text) for name, text in (entry.get("AuxiliaryAddresses") or {}).items()}
            found.append(Subnet(
                ip_network(entry["Subnet"]), ip_address(entry["Gateway"].partition("/")[0]) if entry.get("Gateway") else None,
                ip_network(entry["IPRange"], strict=False) if entry.get("IPRange") else None, reserved,
            ))  # fmt: skip
        return tuple(found)

    def chosen_subnets(self) -> tuple[Subnet, ...]:
        return tuple(subnet for subnet in self.subnets() if str(subnet.network) in self.chosen)

    def as_model(self) -> model.Network:
        """As the kernel's side knows it."""
        return model.Network(self.id, self.name, self.driver, self.interface, self.subnets(), self.internal, self.options)

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "NetworkRecord":
        record = cls.__new__(cls)
        record.__dict__.update(json.loads(text))
        return record


def endpoint_id() -> str:
    """Of a container's place in a network, a new one each time it starts."""
    return secrets.token_hex(32)


def ipam_entry(subnet: Subnet) -> dict[str, Any]:
    """An element of IPAM.Config."""
    entry: dict[str, Any] = {"Subnet": str(subnet.network)}
    if subnet.range:
        entry["IPRange"] = str(subnet.range)
    if subnet.gateway:
        entry["Gateway"] = str(subnet.gateway)
    if subnet.reserved:
        entry["AuxiliaryAddresses"] = {name: str(address) for name, address in subnet.reserved.items()}
    return entry
