"""berth inspect, berth container inspect, berth image inspect."""

import sys

from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Syntax
from berth.models.jsonlite import dumps_as_go, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_FORMAT: Flag = ("format", "f", "string", "FORMAT", "json, or a Go template such as '{{.State.Pid}}'")
_SIZE: Flag = ("size", "s", "bool", "", "Show the sizes of containers")
_TYPE: Flag = ("type", "", "string", "TYPE", "container or image; without it, whichever there is")
_PLATFORM: Flag = ("platform", "", "string", "OS/ARCH", "Accepted for Docker's sake")
SYNTAX = {
    "inspect": Syntax("[OPTIONS] NAME|ID [NAME|ID...]", (_FORMAT, _SIZE, _TYPE), at_least=1),
    "container inspect": Syntax("[OPTIONS] CONTAINER [CONTAINER...]", (_FORMAT, _SIZE), at_least=1),
    "image inspect": Syntax("[OPTIONS] IMAGE [IMAGE...]", (_FORMAT, _PLATFORM), at_least=1),
}
_PATHS = {"container": "/containers/{}/json", "image": "/images/{}/json"}


def inspect(call: "Invocation") -> int:
    """berth inspect"""
    parsed = parse_command(call, SYNTAX)
    kind = call.name.removesuffix("inspect").strip() or parsed.text("type")
    if kind not in ("", *_PATHS):
        raise Misuse(f'unknown type: "{kind}": must be one of "container", "image"; the others come in later versions')
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
        print(dumps_as_go(found))
    else:
        from berth.cli.gotemplate import Template

        try:
            template = Template(format_)
        except Misuse as error:
            fail(str(error))
            return 64  # Docker's code for this one
        print("\n".join(template.render(item) for item in found))
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
