"""Ports of a container as payloads write them: `80/tcp`, HostPort `8080` or `8000-8010`. Pure."""

import re
from dataclasses import dataclass
from typing import Any

from berth.engine.nets import fields
from berth.errors import InvalidParameter
from berth.network.model import Address

PROTOCOLS = ("tcp", "udp", "sctp")
_NUMBER = re.compile(r"0*[0-9]{1,5}")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class PortBinding:
    """One way from the host to a port. host_address: None for any of both families.

    host_ports: the first and the last that may be taken; (0, 0) for one of the engine's choice. given: as the client
    wrote address and port, for HostConfig.
    """

    port: int
    protocol: str = "tcp"
    host_address: Address | None = None
    host_ports: tuple[int, int] = (0, 0)
    given: tuple[str, str] = ("", "")


def port_bindings(ports: dict[str, Any]) -> tuple[PortBinding, ...]:
    """HostConfig.PortBindings; each binding once."""
    found: list[PortBinding] = []
    for key, items in ports.items():
        number, protocol = container_port(key)
        for item in fields.objects({"PortBindings": items}, "PortBindings"):
            found.append(_binding(number, protocol, item))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class PortChanges:
    """Of an update."""

    add: tuple[PortBinding, ...] = ()
    remove: tuple[PortBinding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


def port_changes(request: dict[str, Any]) -> PortChanges:
    """PublishAdd and PublishRemove: [{HostIp, HostPort, ContainerPort, Protocol}]."""
    return PortChanges(*(_changes(request.get(key) or [], key) for key in ("PublishAdd", "PublishRemove")))


def _changes(items: list[dict[str, Any]], key: str) -> tuple[PortBinding, ...]:
    found = []
    for item in fields.objects({key: items}, key):
        port = item.get("ContainerPort")
        text = str(port) if isinstance(port, int) and not isinstance(port, bool) else fields.text(item, "ContainerPort")
        number, protocol = container_port(f"{text}/{fields.text(item, 'Protocol') or 'tcp'}" if "/" not in text else text)
        found.append(_binding(number, protocol, item))
    return tuple(dict.fromkeys(found))


def exposed(ports: dict[str, Any], *, strict: bool = False) -> dict[tuple[int, str], None]:
    """Config.ExposedPorts -> (number, protocol), in their order. A range, which images may have, stands for each of its ports.

    strict: whether what is no port is an error. It is left out otherwise: an image that notes one has to run all the same.
    """
    found: dict[tuple[int, str], None] = {}
    for key in ports:
        text, _, protocol = key.partition("/")
        try:
            first, last = _range(text)
            if not first:
                raise InvalidParameter(f'invalid port specification: "{text}"')
            found |= dict.fromkeys((number, _protocol(protocol)) for number in range(first, last + 1))
        except InvalidParameter:
            if strict:
                raise
    return found


def container_port(key: str) -> tuple[int, str]:
    """`80`, `80/udp` -> (80, "udp")."""
    text, _, protocol = key.partition("/")
    number = _number(text)
    if not number:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return number, _protocol(protocol)


def _binding(number: int, protocol: str, item: dict[str, Any]) -> PortBinding:
    address, ports = fields.text(item, "HostIp"), fields.text(item, "HostPort")
    plain = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    found = fields.address(plain)
    if address and found is None:
        raise InvalidParameter(f'invalid host IP address for port {number}/{protocol}: "{address}"')
    return PortBinding(port=number, protocol=protocol, host_address=found, host_ports=_range(ports) if ports else (0, 0), given=(plain, ports))


def _protocol(text: str) -> str:
    protocol = text.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {text}; known: {', '.join(PROTOCOLS)}")
    return protocol


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    low, high = _number(first), _number(last) if dash else _number(first)
    if low is None or high is None or low > high or (dash and not low):
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return low, high


def _number(text: str) -> int | None:
    if not (text.isascii() and _NUMBER.fullmatch(text)):
        return None
    return int(text) if int(text) <= _MAX_PORT else None
