"""berth inspect, and the same of containers, images, networks and volumes."""

import sys

from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Parsed, Syntax
from berth.models.jsonlite import dumps_as_go, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_FORMAT: Flag = ("format", "f", "string", "FORMAT", "json, or a Go template such as '{{.State.Pid}}'")
_SIZE: Flag = ("size", "s", "bool", "", "Show the sizes of containers")
_TYPE: Flag = ("type", "", "string", "TYPE", "container, image, network or volume; without it, whichever there is")
_PLATFORM: Flag = ("platform", "", "string", "OS/ARCH", "Refuse images of another platform")
_VERBOSE: Flag = ("verbose", "v", "bool", "", "Accepted for Docker's sake: there is more of networks of swarms only")
SYNTAX = {
    "inspect": Syntax("[OPTIONS] NAME|ID [NAME|ID...]", (_FORMAT, _SIZE, _TYPE), at_least=1),
    "container inspect": Syntax("[OPTIONS] CONTAINER [CONTAINER...]", (_FORMAT, _SIZE), at_least=1),
    "image inspect": Syntax("[OPTIONS] IMAGE [IMAGE...]", (_FORMAT, _PLATFORM), at_least=1),
    "volume inspect": Syntax("[OPTIONS] VOLUME [VOLUME...]", (_FORMAT,), at_least=1),
    "network inspect": Syntax("[OPTIONS] NETWORK [NETWORK...]", (_FORMAT, _VERBOSE), at_least=1),
}
_PATHS = {"container": "/containers/{}/json", "image": "/images/{}/json", "network": "/networks/{}", "volume": "/volumes/{}"}


def inspect(call: "Invocation") -> int:
    """berth inspect"""
    parsed = parse_command(call, SYNTAX)
    kind = call.name.removesuffix("inspect").strip() or parsed.text("type")
    if kind not in ("", *_PATHS):
        raise Misuse(f'unknown type: "{kind}": must be one of "container", "image", "network", "volume"; the others come in later versions')
    found: list[Any] = []
    code = 0
    for name in parsed.arguments:
        if kind == "network" and not name.strip():
            raise Misuse("invalid network name or ID: value is empty")
        try:
            found.append(_one(call, name, [kind] if kind else list(_PATHS), parsed))
        except ApiError as error:
            fail(f"Error: {error}" if not kind else f"Error response from daemon: {error}")
            code = 1
    format_ = parsed.text("format")
    if not format_:
        print(pretty(found))
    elif format_ == "json":
        print(dumps_as_go(found))
    else:
        from berth.cli.gotemplate import Template

        try:
            template = Template(format_)
        except Misuse as error:
            fail(str(error))
            return 64  # Docker's code for this one
        for item in found:
            _mark_maps(item)
        print("\n".join(template.render(item) for item in found))
    sys.stdout.flush()
    return code


# What is a map of names in Docker: a name that is not there is no mistake in a template.
_MAPS = (
    ("NetworkSettings", "Networks"), ("NetworkSettings", "Ports"), ("Config", "Labels"), ("Config", "ExposedPorts"),
    ("HostConfig", "PortBindings"), ("Containers",), ("Labels",), ("Options",),
)  # fmt: skip


def _mark_maps(item: "dict[str, Any]") -> None:
    from berth.models.gotemplate import Map

    for *path, last in _MAPS:
        holder: Any = item
        for name in path:
            holder = holder.get(name) or {}
        if isinstance(holder.get(last), dict):
            holder[last] = Map(sorted(holder[last].items()))


def _one(call: "Invocation", name: str, kinds: "list[str]", parsed: Parsed) -> "Any":
    options = {"container": query(size=parsed.flag("size")), "network": query(verbose="true" if parsed.flag("verbose") else None)}
    if parsed.text("platform"):
        from berth.cli.pull import platform_json

        options["image"] = query(platform=platform_json(parsed.text("platform")))
    for kind in kinds:
        try:
            return call.client.json("GET", _PATHS[kind].format(quote(name)) + options.get(kind, ""))
        except ApiError as error:
            if error.status != 404 or len(kinds) == 1:
                raise
    raise ApiError(f"No such object: {name}", 404)
