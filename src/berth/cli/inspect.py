"""berth inspect, berth container inspect, berth image inspect."""

import sys

from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, UsageError
from berth.models.jsonlite import dumps, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("format", "f", "string", "FORMAT", "json, or a Go template such as '{{.State.Pid}}'"),
    ("size", "s", "bool", "", "Show the sizes of containers"),
    ("type", "", "string", "TYPE", "container or image; without it, whichever there is"),
    ("platform", "", "string", "OS/ARCH", "Accepted for Docker's sake"),
)
_PATHS = {"container": "/containers/{}/json", "image": "/images/{}/json"}


def inspect(call: "Invocation") -> int:
    """berth inspect"""
    prefix = f"{call.kind} " if call.kind else ""
    usage = f"{prefix}inspect [OPTIONS] NAME|ID [NAME|ID...]"
    parsed = parse_command(call, _FLAGS, usage, "Print all that is known of containers and images", at_least=1)
    kind = call.kind or parsed.text("type")
    if kind not in ("", *_PATHS):
        raise UsageError(f'"{kind}" is not a valid value for --type; this version has container and image')
    found: list[Any] = []
    code = 0
    for name in parsed.arguments:
        try:
            found.append(_one(call, name, [kind] if kind else list(_PATHS), parsed.flag("size")))
        except ApiError as error:
            fail(f"Error: {error}" if not kind else f"Error response from daemon: {error}")
            code = 1
    format_ = parsed.text("format")
    if not format_:
        print(pretty(found))
    elif format_ == "json":
        for item in found:
            print(dumps(item))
    else:
        from berth.cli.gotemplate import Template

        template = Template(format_)
        for item in found:
            print(template.render(item))
    sys.stdout.flush()
    return code


def _one(call: "Invocation", name: str, kinds: "list[str]", size: bool) -> "Any":
    for kind in kinds:
        try:
            return call.client.json("GET", _PATHS[kind].format(quote(name)) + (query(size=size) if kind == "container" else ""))
        except ApiError as error:
            if error.status != 404 or len(kinds) == 1:
                raise
    raise ApiError(f"No such object: {name}", 404)
