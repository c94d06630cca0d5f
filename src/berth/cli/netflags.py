"""Flags of `run` and `create` that are about networks and names -> NetworkMode, EndpointsConfig and others. Pure.

What the command line can see to be wrong is said here; the rest is the engine's to refuse.
"""

from berth.cli.fields import csv_fields, ip_address
from berth.cli.flags import Parsed, Refused, wrong_value
from berth.cli.runflags import CREATE_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.flags import Flag, UsageError

_PREDEFINED = ("default", "bridge", "host", "none")
_HEX = "0123456789abcdefABCDEF"
EMPTY_ENDPOINT = {
    "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "DriverOpts": None, "GwPriority": 0, "NetworkID": "",
    "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0, "DNSNames": None,
}  # fmt: skip


def flag_of(name: str) -> "Flag":
    return next(entry for entry in CREATE_FLAGS if entry[0] == name)


def wrong(flag: str, text: str, why: str) -> "UsageError":
    return wrong_value(flag_of(flag), text, why)


# -- networks -----------------------------------------------------------------------------------------


def networks(parsed: Parsed) -> "tuple[str, dict[str, dict[str, Any]]]":
    """(NetworkMode, EndpointsConfig). The flags without a network's name in them are for the first network."""
    attachments = [_attachment(text) for text in parsed.list("network")] or [{"name": "default"}]
    _apply_flags(attachments[0], parsed)
    endpoints: dict[str, dict[str, Any]] = {}
    for attachment in attachments:
        name = attachment["name"]
        found = _endpoint(attachment)
        if name in endpoints:
            raise Refused(f'network "{name}" is specified multiple times')
        endpoints[name] = found
    if 0 < sum(_is_user_defined(name) for name in endpoints) < len(endpoints):
        raise Refused("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    mode = str(attachments[0]["name"])
    if len(endpoints) == 1 and parsed.list("network") and endpoints[mode] == EMPTY_ENDPOINT:
        endpoints = {}  # the mode says it
    return mode, endpoints


def _is_user_defined(name: str) -> bool:
    return name not in _PREDEFINED and not name.startswith("container:")


def _attachment(text: str) -> "dict[str, Any]":
    """`NAME`, or `name=NAME,alias=...,ip=...` -> what was given, by the flags' names."""
    if "=" not in text:
        return {"name": text}
    found: dict[str, Any] = {}
    try:
        fields = csv_fields(text)
    except ValueError as error:
        raise wrong("network", text, str(error)) from None
    for field in fields:
        key, equals, value = field.partition("=")
        key, value = key.strip().lower(), value.strip()
        if not equals or not key:
            raise wrong("network", text, f"invalid field {field}")
        if key == "alias":
            found.setdefault("network-alias", []).append(value)
        elif key == "link-local-ip":
            found.setdefault(key, []).append(an_ip(value, flag_of("network"), text))
        elif key in ("ip", "ip6"):
            found[key] = an_ip(value, flag_of("network"), text, 4 if key == "ip" else 6)
        elif key in ("name", "mac-address"):
            found[key] = value
        elif key == "driver-opt":
            option, is_pair, setting = value.partition("=")
            if not is_pair or not option:
                raise wrong("network", text, "invalid key value pair format in driver options")
            found.setdefault(key, {})[option.strip()] = setting.strip()
        elif key == "gw-priority":
            found[key] = _priority(value, text)
        else:
            raise wrong("network", text, f"invalid field key {key}")
    if not found.get("name"):
        raise wrong("network", text, "network name/id is not specified")
    return found


def _priority(value: str, text: str) -> int:
    digits = value[1:] if value[:1] in ("+", "-") else value
    if not (digits.isascii() and digits.isdigit()):
        raise wrong("network", text, f"invalid gw-priority ({value}): invalid syntax")
    if len(digits) > 19 or not -1 << 63 <= int(value) < 1 << 63:
        raise wrong("network", text, f"invalid gw-priority ({value}): value out of range")
    return int(value)


def an_ip(value: str, flag: "Flag", text: str, version: int = 0) -> str:
    """value: itself, or what stands for it in `text`, the flag's. version: 4, 6, or 0 for either."""
    if not ip_address(value) or (version and (":" in value) != (version == 6)):
        raise wrong_value(flag, text, f"{value!r} is no {f'IPv{version}' if version else 'IP'} address")
    return value


def _apply_flags(first: "dict[str, Any]", parsed: Parsed) -> None:
    """Those without a network's name."""
    for flag, words in (
        ("network-alias", "alias"), ("ip", "IPv4 address"), ("ip6", "IPv6 address"), ("mac-address", "MAC address"),
        ("link-local-ip", "link-local IP addresses"),
    ):  # fmt: skip
        value = parsed.values.get(flag)
        if not value:
            continue
        if first.get(flag):
            raise Refused(f"conflicting options: cannot specify both --{flag} and per-network {words}")
        first[flag] = value
    for flag, version in (("ip", 4), ("ip6", 6)):
        if parsed.text(flag):
            an_ip(parsed.text(flag), flag_of(flag), parsed.text(flag), version)
    for text in parsed.list("link-local-ip"):
        an_ip(text, flag_of("link-local-ip"), text)
    if _is_user_defined(first["name"]) and links(parsed):
        first["links"] = links(parsed)


def _endpoint(attachment: "dict[str, Any]") -> "dict[str, Any]":
    """EndpointSettings, all fields there as Go writes them."""
    name = attachment["name"]
    if not name.strip():
        raise Refused("no name set for network")
    if attachment.get("network-alias") and not _is_user_defined(name):
        raise Refused("network-scoped aliases are only supported for user-defined networks")
    mac = attachment.get("mac-address") or ""
    if mac and not _is_mac(mac.strip()):
        raise Refused(f"{mac} is not a valid mac address")
    addresses = {"IPv4Address": attachment.get("ip"), "IPv6Address": attachment.get("ip6"), "LinkLocalIPs": attachment.get("link-local-ip")}
    return EMPTY_ENDPOINT | {
        "IPAMConfig": {key: value for key, value in addresses.items() if value} or None, "Links": attachment.get("links"),
        "Aliases": attachment.get("network-alias"), "MacAddress": mac, "DriverOpts": attachment.get("driver-opt"),
        "GwPriority": attachment.get("gw-priority", 0),
    }  # fmt: skip


def _is_mac(text: str) -> bool:
    """What Go's net.ParseMAC takes, of the length that interfaces have."""
    for separator, length in ((":", 2), ("-", 2), (".", 4)):
        parts = text.split(separator)
        if len(parts) == 12 // length and all(len(part) == length and all(letter in _HEX for letter in part) for part in parts):
            return True
    return False


# -- names --------------------------------------------------------------------------------------------


def links(parsed: Parsed, flag: "Flag | None" = None) -> "list[str]":
    """`--link`; flag: of another command than run and create."""
    for text in parsed.list("link"):
        if not text:
            raise wrong_value(flag or flag_of("link"), text, "empty string specified for links")
        if text.count(":") > 1:
            raise wrong_value(flag or flag_of("link"), text, f"bad format for links: {text}")
    return parsed.list("link")


def extra_hosts(parsed: Parsed) -> "list[str]":
    """`NAME=ADDRESS`, `NAME:ADDRESS`, an IPv6 address also in brackets -> `NAME:ADDRESS`, which is what the API has."""
    found = []
    for text in parsed.list("add-host"):
        name, sign, address = text.partition("=" if "=" in text else ":")
        if not sign or not name or ":" in name:
            raise wrong("add-host", text, f'bad format for add-host: "{text}"')
        if len(address) > 2 and address.startswith("[") and address.endswith("]"):
            address = address[1:-1]
        if address != "host-gateway" and not ip_address(address.strip()):
            raise wrong("add-host", text, f'invalid IP address in add-host: "{address}"')
        found.append(f"{name}:{address}")
    return found


def name_servers(parsed: Parsed) -> "list[str]":
    found = []
    for text in parsed.list("dns"):
        address = ip_address(text.strip())
        if not address:
            raise wrong("dns", text, f"IP address is not correctly formatted: {text}")
        found.append(address)
    return found


def search_domains(parsed: Parsed) -> "list[str]":
    found = []
    for text in parsed.list("dns-search"):
        domain = text.strip()
        if domain != ".":
            domain = domain.removesuffix(".")
            if len(domain) > 254 or not any(letter.isalpha() for letter in domain) or not all(map(_is_label, domain.split("."))):
                raise wrong("dns-search", text, f"{text} is not a valid domain")
        found.append(domain)
    return found


def _is_label(text: str) -> bool:
    return text.isascii() and text.replace("-", "a").isalnum() and not text.startswith("-") and not text.endswith("-")
