"""container, image, network, volume and system prune: what goes is said before, and asked for."""

import sys

from berth.cli.client import query
from berth.cli.command import parse_command
from berth.cli.configfile import setting
from berth.cli.flags import Flag, Misuse, Syntax
from berth.cli.ps import parse_filters
from berth.models.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FILTER: Flag = ("filter", "", "filter", "KEY=VALUE", "Only those that match: label, label!, until (e.g. until=24h)")
_FORCE: Flag = ("force", "f", "bool", "", "Do not ask")
_ALL: Flag = ("all", "a", "bool", "", "All images that no container uses, not only those without a name")
_VOLUMES: Flag = ("volumes", "", "bool", "", "Anonymous volumes too")
_ALL_VOLUMES: Flag = ("all", "a", "bool", "", "Those with a name too, not only anonymous ones")
_FILTER_VOLUMES: Flag = ("filter", "", "filter", "KEY=VALUE", "Only those that match: label, label!")
SYNTAX = {
    "container prune": Syntax("[OPTIONS]", (_FILTER, _FORCE), at_most=0),
    "image prune": Syntax("[OPTIONS]", (_ALL, _FILTER, _FORCE), at_most=0),
    "network prune": Syntax("[OPTIONS]", (_FILTER, _FORCE), at_most=0),
    "volume prune": Syntax("[OPTIONS]", (_ALL_VOLUMES, _FILTER_VOLUMES, _FORCE), at_most=0),
    "system prune": Syntax("[OPTIONS]", (_ALL, _FILTER, _FORCE, _VOLUMES), at_most=0),
}


def container_prune(call: "Invocation") -> int:
    """berth container prune"""
    parsed = parse_command(call, SYNTAX)
    if not parsed.flag("force") and not confirmed("WARNING! This will remove all stopped containers.\nAre you sure you want to continue?"):
        return 0
    return _report(_containers(call, parsed.list("filter")))


def image_prune(call: "Invocation") -> int:
    """berth image prune"""
    parsed = parse_command(call, SYNTAX)
    everything = parsed.flag("all")
    what = "all images without at least one container associated to them" if everything else "all dangling images"
    if not parsed.flag("force") and not confirmed(f"WARNING! This will remove {what}.\nAre you sure you want to continue?"):
        return 0
    return _report(_images(call, parsed.list("filter"), everything))


def network_prune(call: "Invocation") -> int:
    """berth network prune"""
    parsed = parse_command(call, SYNTAX)
    parse_filters(parsed.list("filter"), "--filter")  # before anybody is asked
    question = "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue?"
    if not parsed.flag("force") and not confirmed(question):
        return 0
    if text := _networks(call, parsed.list("filter"))[0]:
        print(text)
    return 0


def volume_prune(call: "Invocation") -> int:
    """berth volume prune"""
    parsed = parse_command(call, SYNTAX)
    filters = parsed.list("filter")
    parse_filters(filters, "--filter")
    if parsed.flag("all"):
        if any(item.partition("=")[0] == "all" for item in filters):
            raise Misuse("conflicting options: cannot specify both --all and --filter all=1")
        filters = [*filters, "all=true"]
    everything = any(item in ("all=1", "all=true") for item in filters)
    what = "all local" if everything else "anonymous local"
    question = f"WARNING! This will remove {what} volumes not used by at least one container.\nAre you sure you want to continue?"
    if not parsed.flag("force") and not confirmed(question):
        return 0
    return _report(_volumes(call, filters))


def system_prune(call: "Invocation") -> int:
    """berth system prune"""
    parsed = parse_command(call, SYNTAX)
    filters, everything = parsed.list("filter"), parsed.flag("all")
    if parsed.flag("volumes") and any(item.partition("=")[0] == "until" for item in filters):
        raise Misuse('ERROR: The "until" filter is not supported with "--volumes"')
    warnings = ["all stopped containers", "all networks not used by at least one container"]
    warnings += ["all anonymous volumes not used by at least one container"] if parsed.flag("volumes") else []
    warnings += ["all images without at least one container associated to them"] if everything else ["all dangling images"]
    warnings += ["all build cache" if everything else "unused build cache"]
    text = "WARNING! This will remove:\n" + "".join(f"  - {warning}\n" for warning in warnings)
    if filters:
        text += "\n  Items to be pruned will be filtered with:\n" + "".join(f"  - {item}\n" for item in sorted(filters))
    if not parsed.flag("force") and not confirmed(f"{text}\nAre you sure you want to continue?"):
        return 0
    parts = [_containers(call, filters), _networks(call, filters)]
    parts += [_volumes(call, filters)] if parsed.flag("volumes") else []
    return _report(*parts, _images(call, filters, everything), _built(call, filters, everything))


def confirmed(question: str) -> bool:
    """Asks; only a yes is one."""
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() == "y"


def _containers(call: "Invocation", filters: "list[str]") -> "tuple[str, int]":
    filters = with_settings(filters, setting(call.config, "pruneFilters"))
    answer = call.client.json("POST", f"/containers/prune{query(filters=parse_filters(filters))}")
    deleted = answer["ContainersDeleted"] or []
    return "".join(["Deleted Containers:\n", *(f"{identity}\n" for identity in deleted)]) if deleted else "", answer["SpaceReclaimed"]


def _networks(call: "Invocation", filters: "list[str]") -> "tuple[str, int]":
    filters = with_settings(filters, setting(call.config, "pruneFilters"))
    names = call.client.json("POST", f"/networks/prune{query(filters=parse_filters(filters))}")["NetworksDeleted"] or []
    return "".join(["Deleted Networks:\n", *(f"{name}\n" for name in names)]) if names else "", 0


def _volumes(call: "Invocation", filters: "list[str]") -> "tuple[str, int]":
    filters = with_settings(filters, setting(call.config, "pruneFilters"))
    answer = call.client.json("POST", f"/volumes/prune{query(filters=parse_filters(filters))}")
    names = answer["VolumesDeleted"] or []
    return "".join(["Deleted Volumes:\n", *(f"{name}\n" for name in names)]) if names else "", answer["SpaceReclaimed"]


def _images(call: "Invocation", filters: "list[str]", everything: bool) -> "tuple[str, int]":
    filters = with_settings(filters, setting(call.config, "pruneFilters"))
    wanted = parse_filters([*filters, f"dangling={'false' if everything else 'true'}"])
    answer = call.client.json("POST", f"/images/prune{query(filters=wanted)}")
    lines = [f"{word.lower()}: {value}\n" for item in answer["ImagesDeleted"] or [] for word, value in item.items()]
    return "".join(["Deleted Images:\n", *lines]) if lines else "", answer["SpaceReclaimed"]


def _built(call: "Invocation", filters: "list[str]", everything: bool) -> "tuple[str, int]":
    """As Docker's command line: the build cache knows no labels, and is left alone where some are asked for."""
    filters = with_settings(filters, setting(call.config, "pruneFilters"))
    if any(item.startswith("label") for item in filters):
        return "", 0
    answer = call.client.json("POST", f"/build/prune{query(all=everything, filters=parse_filters(filters))}")
    removed = answer["CachesDeleted"] or []
    return "".join(["Deleted build cache objects:\n", *(f"{identity}\n" for identity in removed)]) if removed else "", answer["SpaceReclaimed"]


def with_settings(filters: "list[str]", standing: object) -> "list[str]":
    """Those given, and those of config.json that do not contradict them: a label that is asked for is not also shut out. Pure."""
    found = list(filters)
    for item in standing if isinstance(standing, list) else []:
        key, _, value = str(item).partition("=")
        opposite = {"label": "label!", "label!": "label"}.get(key)
        if not (opposite and f"{opposite}={value}" in filters):
            found.append(str(item))
    return found


def _report(*parts: "tuple[str, int]") -> int:
    for text, _ in parts:
        if text:
            print(text)
    print("Total reclaimed space:", human_size(sum(reclaimed for _, reclaimed in parts)))
    return 0
