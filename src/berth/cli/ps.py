"""berth ps: on the fast path, so it imports next to nothing."""

from berth.cli.client import query
from berth.cli.command import parse_command
from berth.cli.configfile import text_setting
from berth.cli.flags import Flag, Syntax, UsageError
from berth.cli.table import age, print_rows, shorten, size
from berth.models.jsonlite import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("all", "a", "bool", "", "Show stopped containers too"),
    ("filter", "f", "filter", "KEY=VALUE", "Only those that match, e.g. name=web or status=exited"),
    ("format", "", "string", "FORMAT", "table, json, 'table {{.ID}}\\t{{.Names}}' or a Go template"),
    ("last", "n", "int", "N", "The last N created, in any state (default -1: no limit)"),
    ("latest", "l", "bool", "", "The one created last, in any state"),
    ("no-trunc", "", "bool", "", "Do not shorten ids and commands"),
    ("quiet", "q", "bool", "", "Only ids"),
    ("size", "s", "bool", "", "Show sizes"),
)
SYNTAX = {"ps": Syntax("[OPTIONS]", _FLAGS, at_most=0)}
_COLUMNS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
    "Status": "STATUS", "Ports": "PORTS", "Names": "NAMES", "State": "STATE", "Size": "SIZE", "Labels": "LABELS",
    "Mounts": "MOUNTS", "Networks": "NETWORKS", "LocalVolumes": "LOCAL VOLUMES",
}  # fmt: skip


def parse_filters(items: "list[str]", flag: str = "-f, --filter") -> str:
    """`key=value` flags -> the JSON of the API's `filters`. flag: as the message shows it."""
    found: dict[str, dict[str, bool]] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise UsageError(f'invalid argument "{item}" for "{flag}" flag: bad format of filter (expected name=value)')
        found.setdefault(key.strip().lower(), {})[value.strip()] = True
    return dumps(found) if found else ""


def ps(call: "Invocation") -> int:
    """berth ps"""
    parsed = parse_command(call, SYNTAX)
    last = 1 if parsed.flag("latest") else parsed.number("last", -1)
    format_ = parsed.text("format") or text_setting(call.config, "psFormat")
    wants_size = parsed.flag("size") or ".Size" in format_ or "{{json .}}" in format_
    options = query(
        all=parsed.flag("all"), limit=last if last > 0 else None, filters=parse_filters(parsed.list("filter")), size=wants_size
    )
    containers = call.client.json("GET", f"/containers/json{options}")
    whole = parsed.flag("no-trunc")
    rows = [_row(container, whole) for container in containers]
    default = "ID Image Command RunningFor Status Ports Names" + (" Size" if parsed.flag("size") else "")
    print_rows(format_, _COLUMNS, rows, default, parsed.flag("quiet"), "ID")
    return 0


def shown_ports(ports: "list[dict[str, Any]]") -> str:
    """The PORTS column as Docker writes it: neighbours that go to the port of their own number are one range. Pure."""
    ports = sorted(ports, key=lambda port: (port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0), port["Type"]))
    groups: dict[tuple[str, str], list[int]] = {}  # address and protocol -> the first and the last of a range that may grow
    found, others = [], []
    for port in ports:
        number, address, kind = port["PrivatePort"], port.get("IP", ""), port["Type"]
        if address and port.get("PublicPort", 0) != number:
            others.append(f"{_host(address)}:{port.get('PublicPort', 0)}->{number}/{kind}")
            continue
        group = groups.setdefault((address, kind), [number, number])
        if number == group[1] + 1:
            group[1] = number
        elif number not in (group[0], group[1]):
            found.append(_range(address, kind, group))
            group[:] = [number, number]
    return ", ".join(found + [_range(address, kind, group) for (address, kind), group in groups.items()] + others)


def _range(address: str, kind: str, group: "list[int]") -> str:
    first, last = group
    text = str(first) if first == last else f"{first}-{last}"
    return f"{_host(address)}:{text}->{text}/{kind}" if address else f"{text}/{kind}"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _row(container: dict, whole: bool) -> "dict[str, Any]":
    from time import gmtime, strftime

    command = container["Command"]
    image = container["Image"]
    mounts = [mount.get("Name") or mount["Source"] for mount in container["Mounts"]]
    row = {
        "ID": container["Id"] if whole else container["Id"][:12],
        "Image": image if whole or not image.startswith("sha256:") else image[7:19],
        "Command": f'"{command if whole else shorten(command, 20)}"',
        "CreatedAt": strftime("%Y-%m-%d %H:%M:%S +0000 UTC", gmtime(container["Created"])),
        "RunningFor": age(container["Created"]), "Status": container["Status"], "Ports": shown_ports(container.get("Ports") or []),
        "Names": ",".join(name.removeprefix("/") for name in container["Names"]), "State": container["State"], "Size": "0B", "Platform": None,
        "Labels": ",".join(f"{k}={v}" for k, v in (container["Labels"] or {}).items()),
        "Mounts": ",".join(m if whole else shorten(m, 15) for m in mounts),
        "Networks": ",".join(container["NetworkSettings"]["Networks"]), "LocalVolumes": "0",
    }  # fmt: skip
    if "SizeRootFs" in container:  # of SizeRw a 0 is left out
        row["Size"] = f"{size(container.get('SizeRw', 0))} (virtual {size(container['SizeRootFs'])})"
    return row
