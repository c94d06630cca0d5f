"""berth events."""

import sys

from berth.cli.client import query
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.ps import parse_filters
from berth.models.jsonlite import dumps_as_go

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("filter", "f", "filter", "KEY=VALUE", "Only those that match, e.g. event=die, container=web, type=image or label=a=b"),
    ("format", "", "string", "FORMAT", "json, or a Go template such as '{{.Action}} {{.Actor.ID}}'"),
    ("since", "", "string", "TIME", "From a time on: RFC 3339, seconds since 1970, or a span like 42m"),
    ("until", "", "string", "TIME", "Up to a time"),
)
SYNTAX = {"events": Syntax("[OPTIONS]", _FLAGS, at_most=0)}


def events(call: "Invocation") -> int:
    """berth events"""
    parsed = parse_command(call, SYNTAX)
    line = _printer(parsed.text("format"))
    options = query(since=parsed.text("since"), until=parsed.text("until"), filters=parse_filters(parsed.list("filter")))
    for event in call.client.request("GET", f"/events{options}").lines():
        sys.stdout.write(line(event) + "\n")
        sys.stdout.flush()
    return 0


def _printer(format_: str) -> "Callable[[Any], str]":
    if not format_:
        return plain
    if format_ in ("json", "{{json .}}"):
        return dumps_as_go
    from berth.cli.gotemplate import Template

    template = Template(format_)
    return lambda event: template.render(with_go_names(event))


def with_go_names(event: "dict[str, Any]") -> "dict[str, Any]":
    """The fields that templates know by names other than the API's."""
    names = {"Status": "status", "ID": "id", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano"}
    return {**event, **{name: event.get(key, "") for name, key in names.items()}}


def plain(event: "dict[str, Any]") -> str:
    """`2006-01-02T15:04:05.000000000Z container die ID (exitCode=0, image=debian, name=web)`."""
    from time import localtime, strftime

    seconds, rest = divmod(event["timeNano"], 1_000_000_000)
    local = localtime(seconds)
    zone = strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    actor = event["Actor"]
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    text = f"{strftime('%Y-%m-%dT%H:%M:%S', local)}.{rest:09d}{zone} {event['Type']} {event['Action']} {actor['ID']}"
    return f"{text} ({attributes})" if attributes else text
