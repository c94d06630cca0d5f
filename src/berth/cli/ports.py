"""`--publish` and `--expose` -> ExposedPorts and PortBindings, as Docker's command line reads them. Pure."""

from berth.cli.fields import ip_address, port_range
from berth.cli.flags import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Binding = tuple[str, dict[str, str]]  # `80/tcp` and {HostIp, HostPort}

_PROTOCOLS = ("tcp", "udp", "sctp")


def ports(publish: "list[str]", expose: "list[str]") -> "tuple[dict[str, dict[str, str]], dict[str, list[dict[str, str]]]]":
    """(ExposedPorts, PortBindings)"""
    exposed: dict[str, dict[str, str]] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in publish:
        for port, binding in published(text):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    for text in expose:
        exposed |= {port: {} for port in _exposed(text)}
    return exposed, bindings


def published(text: str) -> "Iterator[Binding]":
    """`[[ADDRESS:][PORT[-PORT]]:]PORT[-PORT][/PROTOCOL]`, or `published=PORT,target=PORT,protocol=PROTOCOL`."""
    spec = _from_fields(text) if "=" in text else text
    rest, _, inside = spec.rpartition(":")
    address, _, outside = rest.rpartition(":")
    number, protocol = _split_protocol(inside)
    address = _address(address)
    if not number:
        raise Refused(f"no port specified: {spec}<empty>")
    target = port_range(number)
    if target is None:
        raise Refused(f"invalid containerPort: {number}")
    host = port_range(outside) if outside else None
    if outside and host is None:
        raise Refused(f"invalid hostPort: {outside}")
    if host and target[0] != target[1] and host[1] - host[0] != target[1] - target[0]:
        raise Refused(f"invalid ranges specified for container and host Ports: {number} and {outside}")
    if protocol not in _PROTOCOLS:
        raise Refused(f"invalid proto: {protocol}")
    for port in range(target[0], target[1] + 1):
        chosen = ""
        if host:  # one port inside and several outside: any of those
            chosen = f"{host[0]}-{host[1]}" if target[0] == target[1] and host[0] != host[1] else str(host[0] + port - target[0])
        yield f"{port}/{protocol}", {"HostIp": address, "HostPort": chosen}


def _address(text: str) -> str:
    if text.startswith("["):
        if not text.endswith("]"):
            raise Refused(f"invalid IP address {text}: missing ']' in address")
        text = text[1:-1]
    if text and not ip_address(text):
        raise Refused(f"invalid IP address: {text}")
    return text


def _from_fields(text: str) -> str:
    found = {"protocol": "tcp", "published": "", "target": ""}
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if not equals:
            raise Refused(f"invalid publish opts format (should be name=value but got '{field}')")
        found[key] = value
    return f"{found['published']}:{found['target']}/{found['protocol']}"


def _split_protocol(text: str) -> "tuple[str, str]":
    """`80`, `80/`, `80/UDP` -> number and protocol."""
    parts = text.split("/")
    return parts[0], (parts[1] if len(parts) > 1 else "").lower() or "tcp"


def _exposed(text: str) -> "list[str]":
    if ":" in text:
        raise Refused(f"invalid port format for --expose: {text}")
    number, protocol = _split_protocol(text)
    found = port_range(number)
    if found is None:
        raise Refused(f"invalid range format for --expose: {text}: expected PORT or PORT-PORT, each from 0 to 65535, the first no larger")
    if protocol not in _PROTOCOLS:
        raise Refused(f"invalid proto: {protocol}")
    return [f"{port}/{protocol}" for port in range(found[0], found[1] + 1)]
