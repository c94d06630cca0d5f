"""berth logs."""

from berth.cli import terminal
from berth.cli.client import query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("details", "", "bool", "", "Accepted for Docker's sake"),
    ("follow", "f", "bool", "", "Go on as more is written"),
    ("since", "", "string", "TIME", "From a time on: RFC 3339, seconds since 1970, or a span like 42m"),
    ("tail", "n", "string", "N", "The last N lines, or all (default)"),
    ("timestamps", "t", "bool", "", "Put the time before each line"),
    ("until", "", "string", "TIME", "Up to a time"),
)
_SPANS = {"s": 1, "m": 60, "h": 3600}


def moment(text: str) -> str:
    """A span back from now becomes seconds since 1970; anything else is the engine's to read."""
    import time

    rest, total = text, 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        if not digits or rest[digits : digits + 1] not in _SPANS:
            return text
        total += float(rest[:digits]) * _SPANS[rest[digits]]
        rest = rest[digits + 1 :]
    return f"{time.time() - total:.9f}" if text else ""


def logs(call: "Invocation") -> int:
    """berth logs"""
    summary = "Print what a container wrote"
    parsed = parse_command(call, _FLAGS, "logs [OPTIONS] CONTAINER", summary, at_least=1, at_most=1)
    tail = parsed.text("tail", "all")
    if tail != "all" and not tail.lstrip("-").isdigit():
        raise UsageError(f"invalid value {tail!r} for --tail: expected a number or all")
    name = quote(parsed.arguments[0])
    tty = call.client.json("GET", f"/containers/{name}/json")["Config"]["Tty"]
    options = query(
        stdout=True, stderr=True, follow=parsed.flag("follow"), timestamps=parsed.flag("timestamps"), tail=tail,
        since=moment(parsed.text("since")), until=moment(parsed.text("until")),
    )  # fmt: skip
    demultiplexer = terminal.Demultiplexer()
    for data in call.client.request("GET", f"/containers/{name}/logs{options}").pieces():
        if tty:
            terminal.write_all(1, data)
            continue
        for stream, piece in demultiplexer.feed(data):
            terminal.write_all(2 if stream == 2 else 1, piece)
    return 0
