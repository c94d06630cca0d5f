"""search: images in a registry's index."""

from berth.cli import credentials
from berth.cli.client import query
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.progress import printable
from berth.cli.ps import parse_filters
from berth.cli.table import print_rows, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("filter", "f", "filter", "KEY=VALUE", "Only those that match: is-official=true, stars=N"),
    ("format", "", "string", "FORMAT", "table, json, or a Go template"),
    ("limit", "", "int", "N", "At most so many, 1 to 100"),
    ("no-trunc", "", "bool", "", "Do not shorten descriptions"),
)
SYNTAX = {"search": Syntax("[OPTIONS] TERM", _FLAGS, at_least=1, at_most=1)}
_COLUMNS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}
_DESCRIPTION_CHARACTERS = 45


def search(call: "Invocation") -> int:
    """berth search"""
    parsed = parse_command(call, SYNTAX)
    term = parsed.arguments[0]
    format_ = parsed.text("format")
    options = query(term=term, limit=parsed.number("limit") or None, filters=parse_filters(parsed.list("filter")))
    found = call.client.request("GET", f"/images/search{options}", headers=credentials.header(call.config, registry_of(term))).json() or []
    rows = [_row(entry, as_json=format_ == "json", whole=parsed.flag("no-trunc")) for entry in found]
    print_rows(format_, _COLUMNS, rows, "Name Description StarCount IsOfficial", False, "Name")
    return 0


def registry_of(term: str) -> str:
    """`host:5000/word` is looked for at host:5000, all else at Docker Hub."""
    first, slash, _ = term.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def _row(entry: dict, *, as_json: bool, whole: bool) -> "dict[str, str]":
    description = printable(str(entry.get("description") or "").replace("\n", " ").replace("\r", " "))
    official = bool(entry.get("is_official"))
    return {
        "Name": printable(str(entry.get("name") or "")), "Description": description if whole else shorten(description, _DESCRIPTION_CHARACTERS),
        "StarCount": str(entry.get("star_count") or 0), "IsOfficial": str(official).lower() if as_json else "[OK]" if official else "",
    }  # fmt: skip
