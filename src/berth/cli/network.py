"""berth network create, connect, disconnect, rm and ls; inspect is in inspect.py, prune in prune.py."""

from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import for_each, parse_command
from berth.cli.configfile import text_setting
from berth.cli.flags import Flag, Misuse, Parsed, Syntax, wrong_value
from berth.cli.ps import parse_filters
from berth.cli.table import print_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_CREATE: "tuple[Flag, ...]" = (
    ("attachable", "", "bool", "", "Let containers be attached by hand: in berth they always can"),
    ("aux-address", "", "map", "NAME=IP", "An address of a subnet that is another host's already"),
    ("config-from", "", "string", "NETWORK", "Take the options from a network made with --config-only"),
    ("config-only", "", "bool", "", "Keep options for other networks; nothing joins this one"),
    ("driver", "d", "string", "DRIVER", "bridge, macvlan or ipvlan (default bridge)"),
    ("gateway", "", "ipSlice", "IP", "Gateway of a subnet; the engine picks one where none is given"),
    ("ingress", "", "bool", "", "Of swarms: refused"),
    ("internal", "", "bool", "", "No way out to other networks, and none in"),
    ("ip-range", "", "ipNetSlice", "SUBNET", "Part of a subnet that containers get their addresses from"),
    ("ipam-driver", "", "string", "DRIVER", "Who manages addresses (default default)"),
    ("ipam-opt", "", "map", "KEY=VALUE", "Option of that one"),
    ("ipv4", "", "bool", "", "Give containers IPv4 addresses (default true)"),
    ("ipv6", "", "bool", "", "Give containers IPv6 addresses too"),
    ("label", "", "list", "KEY[=VALUE]", "Attach a label"),
    ("opt", "o", "map", "KEY=VALUE", "Option of the driver"),
    ("scope", "", "string", "SCOPE", "Accepted for Docker's sake: local"),
    ("subnet", "", "stringSlice", "SUBNET", "Addresses of the network, e.g. 172.30.0.0/16; the engine picks free ones where none is given"),
)
_CONNECT: "tuple[Flag, ...]" = (
    ("alias", "", "stringSlice", "NAME", "One more name of the container in the network"),
    ("driver-opt", "", "stringSlice", "KEY=VALUE", "Option of the driver for this container"),
    ("gw-priority", "", "int", "N", "The network with the highest number is the way out, also below 0 (default 0)"),
    ("ip", "", "ip", "IPV4", "IPv4 address, e.g. 172.30.100.104; the engine picks one where none is given"),
    ("ip6", "", "ip", "IPV6", "IPv6 address, e.g. 2001:db8::33; the engine picks one where none is given"),
    ("link", "", "list", "CONTAINER[:ALIAS]", "Know another container of the network by a name"),
    ("link-local-ip", "", "ipSlice", "IP", "One more address, of 169.254.0.0/16 or fe80::/10"),
)
_LS: "tuple[Flag, ...]" = (
    ("filter", "f", "filter", "KEY=VALUE", "Only those that match, e.g. driver=bridge or name=web"),
    ("format", "", "string", "FORMAT", "table, json, 'table {{.ID}}\\t{{.Name}}' or a Go template"),
    ("no-trunc", "", "bool", "", "Do not shorten ids"),
    ("quiet", "q", "bool", "", "Only ids"),
)
SYNTAX = {
    "network create": Syntax("[OPTIONS] NETWORK", _CREATE, at_least=1, at_most=1),
    "network connect": Syntax("[OPTIONS] NETWORK CONTAINER", _CONNECT, at_least=2, at_most=2),
    "network disconnect": Syntax(
        "[OPTIONS] NETWORK CONTAINER", (("force", "f", "bool", "", "Also where its network is broken"),), at_least=2, at_most=2
    ),
    "network rm": Syntax("NETWORK [NETWORK...]", (("force", "f", "bool", "", "One that does not exist is no error"),), at_least=1),
    "network ls": Syntax("[OPTIONS]", _LS, at_most=0),
}
_COLUMNS = {
    "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL",
    "Labels": "LABELS", "CreatedAt": "CREATED AT",
}  # fmt: skip


def create(call: "Invocation") -> int:
    """berth network create"""
    parsed = parse_command(call, SYNTAX)
    answer = call.client.json("POST", "/networks/create", network_config(parsed))
    if answer.get("Warning"):
        fail(f"WARNING: {answer['Warning']}")
    print(answer["Id"])
    return 0


def network_config(parsed: Parsed) -> "dict[str, Any]":
    """The body of POST /networks/create."""
    from berth.cli.ipam import ipam_configs

    body: dict[str, Any] = {
        "Name": parsed.arguments[0], "Driver": parsed.text("driver", "bridge"), "Scope": parsed.text("scope"),
        "IPAM": {"Driver": parsed.text("ipam-driver", "default"), "Options": _pairs(parsed.list("ipam-opt")), "Config": ipam_configs(parsed)},
        "Internal": parsed.flag("internal"), "Attachable": parsed.flag("attachable"), "Ingress": parsed.flag("ingress"),
        "ConfigOnly": parsed.flag("config-only"),
        "ConfigFrom": {"Network": parsed.text("config-from")} if parsed.text("config-from") else None,
        "Options": _pairs(parsed.list("opt")), "Labels": _labels(parsed.list("label")),
    }  # fmt: skip
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if parsed.given(flag):
            body[key] = parsed.flag(flag)
    return body


def _labels(items: "list[str]") -> "dict[str, str]":
    flag = next(flag for flag in _CREATE if flag[0] == "label")
    for item in items:
        if not item.partition("=")[0]:
            raise wrong_value(flag, item, f"invalid label '{item}': empty name")
    return _pairs(items)


def _pairs(items: "list[str]") -> "dict[str, str]":
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def connect(call: "Invocation") -> int:
    """berth network connect"""
    parsed = parse_command(call, SYNTAX)
    network, container = _named(parsed)
    call.client.request("POST", f"/networks/{quote(network)}/connect", {"Container": container, "EndpointConfig": _endpoint(parsed)})
    return 0


def _endpoint(parsed: Parsed) -> "dict[str, Any]":
    from berth.cli.netflags import EMPTY_ENDPOINT, an_ip, links

    flags = {flag[0]: flag for flag in _CONNECT}
    addresses: dict[str, Any] = {}
    for flag, key, version in (("ip", "IPv4Address", 4), ("ip6", "IPv6Address", 6)):
        if parsed.text(flag):
            addresses[key] = an_ip(parsed.text(flag), flags[flag], parsed.text(flag), version)
    if parsed.list("link-local-ip"):
        addresses["LinkLocalIPs"] = [an_ip(text, flags["link-local-ip"], text) for text in parsed.list("link-local-ip")]
    options = {}
    for text in parsed.list("driver-opt"):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise Misuse(f"invalid key/value pair format in driver options: {text!r}")
        options[key.strip()] = value.strip()
    return EMPTY_ENDPOINT | {
        "IPAMConfig": addresses, "Links": links(parsed, flags["link"]) or None, "Aliases": parsed.list("alias"), "DriverOpts": options,
        "GwPriority": parsed.number("gw-priority"),
    }  # fmt: skip


def disconnect(call: "Invocation") -> int:
    """berth network disconnect"""
    parsed = parse_command(call, SYNTAX)
    network, container = _named(parsed)
    call.client.request("POST", f"/networks/{quote(network)}/disconnect", {"Container": container, "Force": parsed.flag("force")})
    return 0


def _named(parsed: Parsed) -> "tuple[str, str]":
    """An empty name would be a part of the path that is not there."""
    network, container = parsed.arguments
    if not network.strip():
        raise Misuse("invalid network name or ID: value is empty")
    if not container.strip():
        raise Misuse("invalid container name or ID: value is empty")
    return network, container


def rm(call: "Invocation") -> int:
    """berth network rm"""
    parsed = parse_command(call, SYNTAX)

    def one(name: str) -> str:
        if not name.strip():
            raise Misuse("invalid network name or ID: value is empty")
        try:
            call.client.request("DELETE", f"/networks/{quote(name)}")
        except ApiError as error:
            if error.status == 404 and parsed.flag("force"):
                return ""
            raise
        return name

    return for_each(parsed.arguments, one)


def ls(call: "Invocation") -> int:
    """berth network ls"""
    from berth.cli.table import natural

    parsed = parse_command(call, SYNTAX)
    format_ = parsed.text("format") or text_setting(call.config, "networksFormat")
    found = call.client.json("GET", f"/networks{query(filters=parse_filters(parsed.list('filter')))}")
    rows = [_row(network, parsed.flag("no-trunc")) for network in sorted(found, key=lambda network: natural(network["Name"]))]
    print_rows(format_, _COLUMNS, rows, "ID Name Driver Scope", parsed.flag("quiet"), "ID")
    return 0


def _row(network: dict, whole: bool) -> "dict[str, str]":
    from berth.cli.table import go_time

    truth = {key: str(bool(network.get(field))).lower() for key, field in (("IPv4", "EnableIPv4"), ("IPv6", "EnableIPv6"), ("Internal", "Internal"))}
    return {
        "ID": network["Id"] if whole else network["Id"][:12], "Name": network["Name"], "Driver": network["Driver"], "Scope": network["Scope"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted((network.get("Labels") or {}).items())),
        "CreatedAt": go_time(network["Created"]), **truth,
    }  # fmt: skip
