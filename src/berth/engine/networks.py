"""The networks that every engine has, none and host, as Docker's clients see them. Pure."""

import hashlib
from collections.abc import Callable
from typing import Any

from berth.engine.state import Record
from berth.errors import InvalidParameter

DRIVERS = {"host": "host", "none": "null"}


def identity(name: str) -> str:
    """The id of a network: 64 hexadecimal digits, as Docker's have; the same on every engine."""
    return hashlib.sha256(f"berth network {name}".encode()).hexdigest()


def find(text: str) -> str:
    """A name, an id or the start of one -> the name; '' for none of them."""
    if text in DRIVERS:
        return text
    return next((name for name in DRIVERS if text and identity(name).startswith(text)), "")


def of_record(record: Record) -> str:
    """The network that a container is in while it runs; '' for one that shares another container's."""
    mode = record.host.get("NetworkMode") or "default"
    return "none" if mode == "default" else "" if mode.startswith("container:") else mode


def event(record: Record) -> tuple[str, dict[str, str]] | None:
    """Id and attributes of the events `connect` and `disconnect` of a container; None for one that joins no network."""
    name = of_record(record)
    return (identity(name), {"container": record.id, "name": name, "type": DRIVERS[name]}) if name in DRIVERS else None


def endpoint(record: Record) -> dict[str, Any]:
    """NetworkSettings.Networks of a container: the network has its id there from the first start on."""
    name = of_record(record)
    return {name: {
        "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "DriverOpts": None, "GwPriority": 0,
        "NetworkID": identity(name) if record.started_ns else "", "EndpointID": _endpoint_id(record) if record.running else "",
        "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }} if name else {}  # fmt: skip


def payload(name: str, records: list[Record], created: str) -> dict[str, Any]:
    """GET /networks/{name}; records: of all containers."""
    inside = {
        record.id: {"Name": record.name, "EndpointID": _endpoint_id(record), "MacAddress": "", "IPv4Address": "", "IPv6Address": ""}
        for record in records if record.running and of_record(record) == name
    }  # fmt: skip
    return {
        "Name": name, "Id": identity(name), "Created": created, "Scope": "local", "Driver": DRIVERS[name],
        "EnableIPv6": False, "IPAM": {"Driver": "default", "Options": None, "Config": []}, "Internal": False,
        "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False, "Containers": inside,
        "Options": {}, "Labels": {},
    }  # fmt: skip


def _endpoint_id(record: Record) -> str:
    return hashlib.sha256(f"berth endpoint {record.id} {record.started_ns}".encode()).hexdigest()


# -- lists --------------------------------------------------------------------------------------------

_TESTS: dict[str, Callable[[str, str], bool]] = {
    "name": lambda name, value: _has_part(name, value), "id": lambda name, value: _has_part(identity(name), value),
    "driver": lambda name, value: DRIVERS[name] == value, "scope": lambda name, value: value == "local",
    "type": lambda name, value: value == "builtin", "label": lambda name, value: False,
    "dangling": lambda name, value: value in ("0", "false"),  # predefined ones never are
}  # fmt: skip


def chosen(filters: dict[str, list[str]]) -> list[str]:
    """The names that GET /networks lists: any value of a key, every key."""
    for key, values in filters.items():
        if key not in _TESTS:
            raise InvalidParameter(f"invalid filter '{key}'")
        for value in values:
            if value not in {"type": ("builtin", "custom"), "dangling": ("0", "1", "false", "true")}.get(key, (value,)):
                raise InvalidParameter(f"invalid filter: '{key}'='{value}'")
    return [name for name in DRIVERS if all(any(_TESTS[key](name, value) for value in values) for key, values in filters.items() if values)]


def _has_part(text: str, pattern: str) -> bool:
    """Docker takes a regular expression; of these two names, its anchors are all that anybody needs."""
    part = pattern.removeprefix("^").removesuffix("$")
    from_start, to_end = pattern.startswith("^"), pattern.endswith("$")
    return part in text and (not from_start or text.startswith(part)) and (not to_end or text.endswith(part)) and (
        not (from_start and to_end) or text == part
    )
