"""berth volume create, ls, rm and update; inspect is in inspect.py, prune in prune.py."""

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

_OF_SWARMS = "Of volumes of a swarm"
_AVAILABILITY: Flag = ("availability", "", "string", "STATE", f"{_OF_SWARMS}: refused (default active)")
_CREATE: "tuple[Flag, ...]" = (
    _AVAILABILITY,
    ("driver", "d", "string", "DRIVER", "Who keeps the files: there is one (default local)"),
    ("group", "", "string", "NAME", f"{_OF_SWARMS}: refused"),
    ("label", "", "list", "KEY[=VALUE]", "Attach a label"),
    ("limit-bytes", "", "bytes", "BYTES", f"{_OF_SWARMS}: refused"),
    ("name", "", "string", "NAME", "The name, where it is not an argument"),
    ("opt", "o", "map", "KEY=VALUE", "Option of the driver: type, device, o or size"),
    ("required-bytes", "", "bytes", "BYTES", f"{_OF_SWARMS}: refused"),
    ("scope", "", "string", "SCOPE", f"{_OF_SWARMS}: refused (default single)"),
    ("secret", "", "map", "KEY=VALUE", f"{_OF_SWARMS}: refused"),
    ("sharing", "", "string", "MODE", f"{_OF_SWARMS}: refused (default none)"),
    ("topology-preferred", "", "list", "KEY=VALUE", f"{_OF_SWARMS}: refused"),
    ("topology-required", "", "list", "KEY=VALUE", f"{_OF_SWARMS}: refused"),
    ("type", "", "string", "TYPE", f"{_OF_SWARMS}: refused (default block)"),
)
_CLUSTER_FLAGS = (
    "availability", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing", "topology-preferred", "topology-required", "type",
)  # fmt: skip
_LS: "tuple[Flag, ...]" = (
    ("cluster", "", "bool", "", "Volumes of a swarm: there are none"),
    ("filter", "f", "filter", "KEY=VALUE", "Only those that match: dangling, driver, label, name"),
    ("format", "", "string", "FORMAT", "table, json, 'table {{.Name}}\\t{{.Driver}}' or a Go template"),
    ("quiet", "q", "bool", "", "Only names"),
)
SYNTAX = {
    "volume create": Syntax("[OPTIONS] [VOLUME]", _CREATE, at_most=1),
    "volume ls": Syntax("[OPTIONS]", _LS, at_most=0),
    "volume rm": Syntax("[OPTIONS] VOLUME [VOLUME...]", (("force", "f", "bool", "", "One that does not exist is no error"),), at_least=1),
    "volume update": Syntax("[OPTIONS] [VOLUME]", (_AVAILABILITY,), at_least=1, at_most=1),
}
_COLUMNS = {
    "Driver": "DRIVER", "Name": "VOLUME NAME", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS", "Links": "LINKS", "Size": "SIZE",
    "Group": "GROUP", "Availability": "AVAILABILITY", "Status": "STATUS",
}  # fmt: skip


def create(call: "Invocation") -> int:
    """berth volume create"""
    parsed = parse_command(call, SYNTAX)
    if parsed.text("name") and parsed.arguments:
        raise Misuse("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
    print(call.client.json("POST", "/volumes/create", volume_config(parsed))["Name"])
    return 0


def volume_config(parsed: Parsed) -> "dict[str, Any]":
    """The body of POST /volumes/create."""
    labels = next(flag for flag in _CREATE if flag[0] == "label")
    for item in parsed.list("label"):
        if not item.partition("=")[0]:
            raise wrong_value(labels, item, f"invalid label '{item}': empty name")
    body: dict[str, Any] = {
        "Name": (parsed.arguments or [parsed.text("name")])[0], "Driver": parsed.text("driver", "local"), "DriverOpts": _pairs(parsed.list("opt")),
        "Labels": _pairs(parsed.list("label")),
    }  # fmt: skip
    for flag in ("limit-bytes", "required-bytes"):
        if parsed.text(flag):
            _check_size(parsed.text(flag), flag)
    if any(parsed.given(flag) for flag in _CLUSTER_FLAGS):
        body["ClusterVolumeSpec"] = {}  # which the engine refuses, whatever is in it
    return body


def _check_size(text: str, flag: str) -> None:
    from berth.cli.flags import UsageError
    from berth.cli.runconfig import size_bytes

    try:
        size_bytes(text, "--memory")
    except UsageError:
        raise wrong_value(next(entry for entry in _CREATE if entry[0] == flag), text, f"invalid size: '{text}'") from None


def _pairs(items: "list[str]") -> "dict[str, str]":
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def ls(call: "Invocation") -> int:
    """berth volume ls"""
    parsed = parse_command(call, SYNTAX)
    found = call.client.json("GET", f"/volumes{query(filters=parse_filters(parsed.list('filter')))}")
    cluster = parsed.flag("cluster")
    volumes = [] if cluster else found["Volumes"] or []
    format_ = parsed.text("format") or text_setting(call.config, "volumesFormat")
    default = "Name Group Driver Availability Status" if cluster else "Driver Name"
    print_rows(format_, _COLUMNS, [row(volume) for volume in volumes], default, parsed.flag("quiet"), "Name")
    return 0


def row(volume: "dict[str, Any]") -> "dict[str, Any]":
    """What a line of a list can show. Pure."""
    from berth.cli.table import size

    labels, usage = volume.get("Labels") or {}, volume.get("UsageData")
    return {
        "Driver": volume["Driver"], "Name": volume["Name"], "Scope": volume["Scope"], "Mountpoint": volume["Mountpoint"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Links": str(usage["RefCount"]) if usage else "N/A", "Size": size(usage["Size"]) if usage else "N/A",
        "Group": "N/A", "Availability": "N/A", "Status": "N/A",
    }  # fmt: skip


def rm(call: "Invocation") -> int:
    """berth volume rm"""
    parsed = parse_command(call, SYNTAX)
    options = query(force=parsed.flag("force"))

    def one(name: str) -> str:
        if not name.strip():
            raise Misuse("invalid volume name or ID: value is empty")
        call.client.request("DELETE", f"/volumes/{quote(name)}{options}")
        return name

    return for_each(parsed.arguments, one)


def update(call: "Invocation") -> int:
    """berth volume update"""
    parsed = parse_command(call, SYNTAX)
    try:
        call.client.json("GET", f"/volumes/{quote(parsed.arguments[0])}")
    except ApiError as error:
        fail(f"Error response from daemon: {error}")
        return 1
    fail("can only update cluster volumes")
    return 1
