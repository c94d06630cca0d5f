"""berth logs."""

from berth.cli import terminal
from berth.cli.client import fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("details", "", "bool", "", "Show labels, variables and tag kept with --log-opt"),
    ("follow", "f", "bool", "", "Go on as more is written"),
    ("since", "", "string", "TIME", "From a time on: 2006-01-02T15:04:05, seconds since 1970, or a span like 42m"),
    ("tail", "n", "string", "N", "The last N lines (default all)"),
    ("timestamps", "t", "bool", "", "Put the time before each line"),
    ("until", "", "string", "TIME", "Up to a time"),
)
SYNTAX = {"logs": Syntax("[OPTIONS] CONTAINER", _FLAGS, at_least=1, at_most=1)}
_SPANS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
# Without a zone they mean this machine's, which need not be the engine's.
_LOCAL_TIMES = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d")


def moment(name: str, text: str) -> str:
    """A span back from now, or a time of here, as seconds since 1970; one with a zone is the engine's to read."""
    import time

    if not text or text.replace(".", "", 1).isdigit() or text.endswith("Z") or "+" in text or (text[-6:-5] == "-" and "T" in text):
        return text
    span = _span_s(text)
    if span is not None:
        return f"{time.time() - span:.9f}"
    whole, _, fraction = text.partition(".")
    for form in _LOCAL_TIMES:
        try:
            return f"{int(time.mktime(time.strptime(whole, form)))}.{fraction or 0}"
        except ValueError:
            continue
    raise ValueError(f'invalid value for "{name}": failed to parse value as time or duration: "{text}"')


def _span_s(text: str) -> "float | None":
    """`1h30m`, `-1.5s`: Go's durations; None for anything else."""
    sign = -1 if text.startswith("-") else 1
    rest, total = text.lstrip("+-"), 0.0
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = next((unit for unit in ("ms", "us", "µs", "ns", "h", "m", "s") if rest.startswith(unit)), "")
        if not unit or number.count(".") > 1 or number in ("", "."):
            return None
        total += float(number) * _SPANS[unit]
        rest = rest[len(unit) :]
    return sign * total


def logs(call: "Invocation") -> int:
    """berth logs"""
    parsed = parse_command(call, SYNTAX)
    tail = parsed.text("tail", "all")
    try:
        since, until = moment("since", parsed.text("since")), moment("until", parsed.text("until"))
    except ValueError as error:
        fail(str(error))
        return 1
    name = quote(parsed.arguments[0])
    tty = call.client.json("GET", f"/containers/{name}/json")["Config"]["Tty"]
    options = query(
        stdout=True, stderr=True, follow=parsed.flag("follow"), timestamps=parsed.flag("timestamps"), tail=tail,
        details=parsed.flag("details"), since=since, until=until,
    )  # fmt: skip
    demultiplexer = terminal.Demultiplexer()
    for data in call.client.request("GET", f"/containers/{name}/logs{options}").pieces():
        if tty:
            terminal.write_all(1, data)
            continue
        for stream, piece in demultiplexer.feed(data):
            terminal.write_all(2 if stream == 2 else 1, piece)
    return 0
