"""berth builder prune, and of Docker's buildx what makes sense where the engine is the only builder: prune, du, ls, inspect, version."""

from berth.cli.client import query
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Syntax
from berth.cli.prune import confirmed
from berth.cli.ps import parse_filters
from berth.cli.table import ago, binary_size, print_rows, render, size
from berth.models.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.flags import Parsed
    from berth.cli.main import Invocation

_FORCE: Flag = ("force", "f", "bool", "", "Do not ask")
_ALL: Flag = ("all", "a", "bool", "", "Also what images that are here were made of")
_FILTER: Flag = ("filter", "", "filter", "KEY=VALUE", "Only those that match: until, id, parent, type, description, inuse, shared, private")
_BUILDER: Flag = ("builder", "", "string", "NAME", "Accepted for Docker's sake: the engine is the only builder")
_DEBUG: Flag = ("debug", "D", "bool", "", "Accepted for Docker's sake")
_TIMEOUT: Flag = ("timeout", "", "duration", "TIME", "Accepted for Docker's sake (default 20s)")
_VERBOSE: Flag = ("verbose", "", "bool", "", "All that is known of each")
_BUILDER_PRUNE: "tuple[Flag, ...]" = (
    _ALL, _FILTER, _FORCE, ("keep-storage", "", "bytes", "BYTES", "How much may stay, that used last"),
)  # fmt: skip
_PRUNE: "tuple[Flag, ...]" = (
    _ALL, _BUILDER, _DEBUG, _FILTER, _FORCE, ("max-used-space", "", "bytes", "BYTES", "How much may stay"),
    ("min-free-space", "", "bytes", "BYTES", "How much of the disk is to be free"),
    ("reserved-space", "", "bytes", "BYTES", "How much stays in any case"), _TIMEOUT, _VERBOSE,
)  # fmt: skip
_DU: "tuple[Flag, ...]" = (
    _BUILDER, _DEBUG, _FILTER, ("format", "", "string", "FORMAT", "table, json, pretty, or a Go template (default pretty)"), _TIMEOUT, _VERBOSE,
)  # fmt: skip
_LS: "tuple[Flag, ...]" = (
    _DEBUG, ("format", "", "string", "FORMAT", "table, json or a Go template (default table)"),
    ("no-trunc", "", "bool", "", "Accepted for Docker's sake"), _TIMEOUT,
)  # fmt: skip
SYNTAX = {
    "builder prune": Syntax("[OPTIONS]", _BUILDER_PRUNE, at_most=0),
    "buildx prune": Syntax("[OPTIONS]", _PRUNE, at_most=0),
    "buildx du": Syntax("[OPTIONS]", _DU, at_most=0),
    "buildx ls": Syntax("[OPTIONS]", _LS, at_most=0),
    "buildx inspect": Syntax("[OPTIONS] [NAME]", (("bootstrap", "", "bool", "", "Accepted for Docker's sake"), _BUILDER, _DEBUG, _TIMEOUT), at_most=1),
    "buildx version": Syntax("", (_DEBUG,), at_most=0),
}
_QUESTION = "WARNING! This will remove {what} build cache. Are you sure you want to continue?"
_COLUMNS = {"ID": "ID", "Reclaimable": "RECLAIMABLE", "Size": "SIZE", "LastAccessed": "LAST ACCESSED"}


def prune(call: "Invocation") -> int:
    """berth builder prune, berth buildx prune"""
    parsed = parse_command(call, SYNTAX)
    everything = parsed.flag("all")
    filters = parse_filters(parsed.list("filter"), "--filter")
    what = "all" if everything else "all dangling"
    if not parsed.flag("force") and not confirmed(_QUESTION.format(what=what)):
        return 0
    before = {each["ID"]: each for each in _entries(call)} if call.name == "buildx prune" else {}
    keep = _bytes(parsed, "keep-storage")
    answer = call.client.json("POST", "/build/prune" + query(**{
        "all": everything, "filters": filters, "keep-storage": keep, "reserved-space": _bytes(parsed, "reserved-space") or keep,
        "max-used-space": _bytes(parsed, "max-used-space"), "min-free-space": _bytes(parsed, "min-free-space"),
    }))  # fmt: skip
    removed = answer["CachesDeleted"] or []
    if call.name == "builder prune":
        if removed:
            print("\n".join(["Deleted build cache objects:", *removed]) + "\n")
        print("Total reclaimed space:", human_size(answer["SpaceReclaimed"]))
        return 0
    gone = [before[identity] for identity in removed if identity in before]
    if gone:
        print(render([list(_COLUMNS.values()), *([row[key] for key in _COLUMNS] for row in map(_row, gone))]))
    print(f"Total:\t{human_size(answer['SpaceReclaimed'])}")
    return 0


def du(call: "Invocation") -> int:
    """berth buildx du"""
    parsed = parse_command(call, SYNTAX)
    entries = [each for each in _entries(call) if _fits(each, parsed.list("filter"))]
    form = parsed.text("format")
    if form not in ("", "pretty", "table"):
        print_rows(form, _COLUMNS, [_row(each) for each in entries], " ".join(_COLUMNS), False, "ID")
        return 0
    if parsed.flag("verbose"):
        for each in entries:
            print("\n".join(f"{key}:\t{value}" for key, value in _details(each)) + "\n")
    else:
        print(render([list(_COLUMNS.values()), *([row[key] for key in _COLUMNS] for row in map(_row, entries))]))
    shared = sum(each["Size"] for each in entries if each["Shared"])
    total = sum(each["Size"] for each in entries)
    if shared:
        print(f"Shared:\t\t{size(shared)}\nPrivate:\t{size(total - shared)}")
    print(f"Reclaimable:\t{size(sum(each['Size'] for each in entries if not each['InUse']))}\nTotal:\t\t{size(total)}")
    return 0


def ls(call: "Invocation") -> int:
    """berth buildx ls"""
    parsed = parse_command(call, SYNTAX)
    version = call.client.json("GET", "/version")
    row = {
        "Name": "default", "DriverEndpoint": "docker", "Status": "running", "Buildkit": f"berth {version['Version']}", "Platforms": _platforms(call),
    }  # fmt: skip
    columns = {"Name": "NAME/NODE", "DriverEndpoint": "DRIVER/ENDPOINT", "Status": "STATUS", "Buildkit": "BUILDKIT", "Platforms": "PLATFORMS"}
    form = parsed.text("format")
    if form not in ("", "table"):
        print_rows(form, columns, [row], " ".join(columns), False, "Name")
        return 0
    node = {**row, "Name": " \\_ default", "DriverEndpoint": "  \\_ default"}
    first = {**row, "Name": "default*", "Status": "", "Buildkit": "", "Platforms": ""}
    print(render([list(columns.values()), *([each[key] for key in columns] for each in (first, node))]))
    return 0


def inspect(call: "Invocation") -> int:
    """berth buildx inspect"""
    parsed = parse_command(call, SYNTAX)
    name = (parsed.arguments or [parsed.text("builder") or "default"])[0]
    if name not in ("default", call.context):
        raise Misuse(f'ERROR: no builder "{name}" found: there is the engine alone, called default')
    version = call.client.json("GET", "/version")
    lines = [
        ("Name:", name), ("Driver:", "docker"), ("", ""), ("Nodes:", ""), ("Name:", name), ("Endpoint:", call.client.address),
        ("Status:", "running"), ("BuildKit version:", f"berth {version['Version']}"), ("Platforms:", _platforms(call)),
    ]  # fmt: skip
    for head, text in lines:
        print(f"{head:<18}{text}".rstrip())
    return 0


def version(call: "Invocation") -> int:
    """berth buildx version"""
    parse_command(call, SYNTAX)
    from berth import VERSION

    print(f"berth {VERSION} builds by itself: no buildx is needed")
    return 0


def _platforms(call: "Invocation") -> str:
    info = call.client.json("GET", "/info")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(info["Architecture"], info["Architecture"])
    return f"linux/{machine}"


def _entries(call: "Invocation") -> "list[dict[str, Any]]":
    return call.client.json("GET", "/system/df?type=build-cache")["BuildCache"] or []


def _row(entry: "dict[str, Any]") -> "dict[str, str]":
    return {
        "ID": entry["ID"] + ("*" if entry["InUse"] else ""), "Reclaimable": str(not entry["InUse"]).lower(),
        "Size": size(entry["Size"]) + ("*" if entry["Shared"] else ""), "LastAccessed": ago(entry["LastUsedAt"]),
    }  # fmt: skip


def _details(entry: "dict[str, Any]") -> "list[tuple[str, str]]":
    parents = entry.get("Parents") or []
    found = [("ID", entry["ID"]), *([("Parents", ", ".join(parents))] if parents else [])]
    found += [("Created at", entry["CreatedAt"]), ("Mutable", "false"), ("Reclaimable", str(not entry["InUse"]).lower())]
    found += [("Shared", str(entry["Shared"]).lower()), ("Size", binary_size(entry["Size"])), ("Description", entry["Description"])]
    return [*found, ("Usage count", str(entry["UsageCount"])), ("Last used", ago(entry["LastUsedAt"])), ("Type", entry["Type"])]


def _fits(entry: "dict[str, Any]", filters: "list[str]") -> bool:
    for item in filters:
        key, _, value = item.partition("=")
        if key == "id" and not entry["ID"].startswith(value):
            return False
        if key == "type" and entry["Type"] != value:
            return False
        if key == "description" and value.lstrip("~=") not in entry["Description"]:
            return False
        wanted = {"inuse": entry["InUse"], "shared": entry["Shared"], "private": not entry["Shared"]}
        if key in wanted and not wanted[key]:
            return False
    return True


def _bytes(parsed: "Parsed", flag: str) -> int:
    text = parsed.text(flag)
    if not text:
        return 0
    from berth.cli.runconfig import size_bytes

    return size_bytes(text, f"--{flag}")

