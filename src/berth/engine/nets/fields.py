"""Fields of a network's payload: their JSON types, addresses and names as Docker's Go reads them. Pure.

The API has checked the types of what it knows (api/shapes.py); here nothing is taken for granted, so that no payload makes a 500.
"""

import json
import re
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any

from berth.errors import InvalidParameter
from berth.network.model import Address

# What Go's strconv.ParseBool takes.
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
_INTERFACE = re.compile(r"[^\s/:\0]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.IGNORECASE)


# -- JSON ---------------------------------------------------------------------------------------------


def text(holder: dict[str, Any], key: str) -> str:
    """'' where it is absent."""
    value = holder.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise wrong(key, value, "a string")
    return value


def flag(holder: dict[str, Any], key: str, default: bool = False) -> bool:
    value = holder.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(key, value, "true or false")
    return value


def number(holder: dict[str, Any], key: str) -> int:
    value = holder.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not -1 << 63 <= value < 1 << 63:
        raise wrong(key, value, "a whole number")
    return value


def texts(holder: dict[str, Any], key: str) -> list[str]:
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise wrong(key, value, "a list of strings")
    return value


def string_map(holder: dict[str, Any], key: str) -> dict[str, str]:
    value = holder.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) and "\0" not in name + item for name, item in value.items()):
        raise wrong(key, value, "an object of strings")
    return value


def an_object(holder: dict[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(key, value, "an object")
    return value


def objects(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong(key, value, "a list of objects")
    return value


def wrong(key: str, value: object, wanted: str) -> InvalidParameter:
    return InvalidParameter(f"invalid JSON: {key}: expected {wanted}, got {json.dumps(value, default=str)[:200]}")


def joined(problems: list[str]) -> str:
    """All of them, in Docker's form: one as it is, several as a list."""
    return problems[0] if len(problems) == 1 else "\n".join(f"* {problem}" for problem in problems)


# -- values -------------------------------------------------------------------------------------------


def boolean(value: str) -> bool | None:
    """None for what Go takes for no bool."""
    return value in _TRUE if value in _TRUE + _FALSE else None


def address(value: str) -> Address | None:
    """None for what is no address, or is one of a zone."""
    try:
        return None if "%" in value else ip_address(value)
    except ValueError:
        return None


def prefix(value: str) -> IPv4Interface | IPv6Interface | None:
    """`10.1.0.0/16`; host bits may be set. None for what is no such thing: a mask in dots is not, and no length is not."""
    length = value.partition("/")[2]
    if "%" in value or not _PREFIX.fullmatch(length):
        return None
    try:
        return ip_interface(value)
    except ValueError:
        return None


def mac(value: str) -> str:
    """In lower case with colons; InvalidParameter for what no interface of a container can have."""
    if not _MAC.fullmatch(value):
        raise InvalidParameter(f"invalid MAC address {value}")
    octets = bytes.fromhex(re.sub("[:.-]", "", value))
    if octets[0] & 1 or not any(octets):
        kind = "the address of a group of hosts (its first octet is odd)" if any(octets) else "no address"
        raise InvalidParameter(f"invalid MAC address {value}: it is {kind}")
    return octets.hex(":")


def is_interface_name(value: str) -> bool:
    """What the kernel takes for a name of an interface (dev_valid_name)."""
    return bool(_INTERFACE.fullmatch(value)) and len(value.encode()) < 16 and value not in (".", "..")


def family(value: Address) -> str:
    return "IPv6" if isinstance(value, IPv6Address) else "IPv4"
