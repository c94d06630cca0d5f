"""berth system df: what takes how much room, and what could be given back."""

from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.table import age, ago, print_rows, render, shorten, size
from berth.cli.volume import row
from berth.models.jsonlite import dumps_as_go
from berth.models.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("format", "", "string", "FORMAT", "table, json, or a Go template such as '{{.Type}}: {{.Size}}'"),
    ("verbose", "v", "bool", "", "Every image and container"),
)
SYNTAX = {"system df": Syntax("[OPTIONS]", _FLAGS, at_most=0)}
_COLUMNS = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
_ACTIVE = ("running", "paused", "restarting")


def df(call: "Invocation") -> int:
    """berth system df"""
    parsed = parse_command(call, SYNTAX)
    found = call.client.json("GET", "/system/df")
    images, containers, volumes, built = (found.get(key) or [] for key in ("Images", "Containers", "Volumes", "BuildCache"))
    if not parsed.flag("verbose"):
        print_rows(parsed.text("format"), _COLUMNS, summary(found["LayersSize"], images, containers, volumes, built), " ".join(_COLUMNS), False, "Type")
        return 0
    image_rows, container_rows = [row for image in images for row in image_lines(image)], [container_line(c) for c in containers]
    if parsed.text("format") not in ("", "table"):
        value = {"Images": image_rows, "Containers": container_rows, "Volumes": [row(volume) for volume in volumes], "BuildCache": [built_line(each) for each in built]}
        if parsed.text("format") == "json":
            print(dumps_as_go(value))
        else:
            from berth.cli.gotemplate import Template

            print(Template(parsed.text("format")).render(value))
        return 0
    _section("Images", "REPOSITORY TAG IMAGE_ID CREATED SIZE SHARED_SIZE UNIQUE_SIZE CONTAINERS", image_rows,
             "Repository Tag ID CreatedSince Size SharedSize UniqueSize Containers")  # fmt: skip
    _section("Containers", "CONTAINER_ID IMAGE COMMAND LOCAL_VOLUMES SIZE CREATED STATUS NAMES", container_rows,
             "ID Image Command LocalVolumes Size RunningFor Status Names")  # fmt: skip
    _section("Local Volumes", "VOLUME_NAME LINKS SIZE", [row(volume) for volume in volumes], "Name Links Size")
    print(f"Build cache usage: {human_size(sum(each['Size'] for each in built if not each['Shared']))}\n")
    rows = [built_line(each) for each in built]
    heads = ["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]
    print(render([heads, *([row[field] for field in "ID CacheType Size CreatedSince LastUsedSince UsageCount Shared".split()] for row in rows)]), end="")
    return 0


def _section(title: str, heads: str, rows: "list[dict[str, str]]", fields: str) -> None:
    print(f"{title} space usage:\n")
    print(render([[head.replace("_", " ") for head in heads.split()], *([row[field] for field in fields.split()] for row in rows)]))


def summary(layers_bytes: int, images: "list[dict]", containers: "list[dict]", volumes: "list[dict]", built: "list[dict]") -> "list[dict[str, str]]":
    """A line for each kind. An image in use holds what no other shares with it; the rest could go. Pure."""
    held = sum(image["Size"] - max(image["SharedSize"], 0) for image in images if image["Containers"])
    written = sum(container.get("SizeRw", 0) for container in containers)
    idle = sum(container.get("SizeRw", 0) for container in containers if container["State"] not in _ACTIVE)
    alone = sum(each["Size"] for each in built if not each["Shared"])
    busy = sum(each["Size"] for each in built if each["InUse"] and not each["Shared"])
    cache = _line("Build Cache", len(built), sum(each["InUse"] for each in built), alone, alone - busy)
    usage = [(volume["UsageData"]["Size"], bool(volume["UsageData"]["RefCount"])) for volume in volumes]
    kept, unused, used = sum(size for size, _ in usage), sum(size for size, used in usage if not used), sum(used for _, used in usage)
    return [
        _line("Images", len(images), sum(bool(image["Containers"]) for image in images), layers_bytes, layers_bytes - held),
        _line("Containers", len(containers), sum(c["State"] in _ACTIVE for c in containers), written, idle),
        _line("Local Volumes", len(volumes), used, kept, unused), {**cache, "Reclaimable": human_size(alone - busy)},
    ]  # fmt: skip


def _line(kind: str, count: int, active: int, total: int, reclaimable: int) -> "dict[str, str]":
    share = f" ({reclaimable * 100 // total}%)" if total else ""
    return {
        "Type": kind, "TotalCount": str(count), "Active": str(active), "Size": human_size(total),
        "Reclaimable": human_size(reclaimable) + share,
    }  # fmt: skip


def image_lines(image: dict) -> "list[dict[str, str]]":
    """One for each name."""
    shared = max(image["SharedSize"], 0)
    found = []
    for name in image["RepoTags"] or ["<none>:<none>"]:
        repository, _, tag = name.rpartition(":")
        found.append({
            "Repository": repository, "Tag": tag, "ID": image["Id"].removeprefix("sha256:")[:12], "CreatedSince": age(image["Created"]),
            "Size": size(image["Size"]), "SharedSize": human_size(shared), "UniqueSize": human_size(image["Size"] - shared),
            "Containers": str(image["Containers"]),
        })  # fmt: skip
    return found


def built_line(entry: dict) -> "dict[str, str]":
    """Of a build's result that is kept."""
    return {
        "ID": entry["ID"][:12] + ("*" if entry["InUse"] else ""), "CacheType": entry["Type"], "Size": human_size(entry["Size"]),
        "CreatedSince": ago(entry["CreatedAt"]), "LastUsedSince": ago(entry["LastUsedAt"]), "UsageCount": str(entry["UsageCount"]),
        "Shared": str(entry["Shared"]).lower(), "Description": entry["Description"], "Parent": ", ".join(entry.get("Parents") or []),
        "InUse": str(entry["InUse"]).lower(),
    }  # fmt: skip


def container_line(container: dict) -> "dict[str, str]":
    image = container["Image"]
    return {
        "ID": container["Id"][:12], "Image": image[7:19] if image.startswith("sha256:") else image,
        "Command": f'"{shorten(container["Command"], 20)}"',
        "LocalVolumes": str(sum(mount["Type"] == "volume" for mount in container["Mounts"])), "Size": size(container.get("SizeRw", 0)),
        "RunningFor": age(container["Created"]), "Status": container["Status"],
        "Names": ",".join(name.removeprefix("/") for name in container["Names"]),
    }  # fmt: skip
