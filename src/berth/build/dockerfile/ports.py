"""`EXPOSE`: `80`, `80/udp`, `8000-8010`, and the forms with an address or a host's port, which say nothing more. Pure."""

import ipaddress
import re

from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.suggesting import nearest

_PROTOCOLS = ("tcp", "udp", "sctp")
_NUMBER = re.compile(r"[0-9]{1,6}")
_MAX_PORT = 65535


def protocol(port: str) -> str:
    """As written; '' where none is."""
    return port.rpartition(":")[2].partition("/")[2]


def exposed(port: str) -> tuple[str, ...]:
    """`port/protocol` for each port of a word of EXPOSE; DockerfileError, without a place, for what is none."""
    head, _, container = port.rpartition(":")
    address, _, host = head.rpartition(":")
    numbers, _, kind = container.partition("/")
    if not numbers:
        raise DockerfileError(f'invalid port: "{port}": no port specified')
    kind = kind.lower() or "tcp"
    if kind not in _PROTOCOLS:
        raise DockerfileError(f'invalid port: "{port}": invalid proto: {kind}', suggestion=nearest(kind, _PROTOCOLS))
    if address:
        _check_address(address)
    first, last = _range(numbers, "containerPort")
    if host:
        host_first, host_last = _range(host, "hostPort")
        if last - first != host_last - host_first and first != last:
            raise DockerfileError(f"invalid ranges specified for container and host Ports: {numbers} and {host}")
    return tuple(f"{number}/{kind}" for number in range(first, last + 1))


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        raise DockerfileError(f"invalid IP address: {text}") from None


def _range(text: str, what: str) -> tuple[int, int]:
    start, dash, end = text.partition("-")
    end = end if dash else start
    if not (_NUMBER.fullmatch(start) and _NUMBER.fullmatch(end)) or not 0 <= int(start) <= int(end) <= _MAX_PORT:
        raise DockerfileError(f"invalid {what}: {text}")
    return int(start), int(end)
