"""history: the steps that made an image."""

from berth.cli.client import query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.pull import platform_json
from berth.cli.table import age, print_rows, shorten, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("format", "", "string", "FORMAT", "table, json, or a Go template"),
    ("human", "H", "bool", "", "Sizes and times as people read them (default true)"),
    ("no-trunc", "", "bool", "", "Do not shorten ids and commands"),
    ("platform", "", "string", "OS/ARCH", "History of the image of one platform"),
    ("quiet", "q", "bool", "", "Only ids"),
)
SYNTAX = {"history": Syntax("[OPTIONS] IMAGE", _FLAGS, at_least=1, at_most=1)}
_COLUMNS = {
    "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
}  # fmt: skip
_COMMAND_CHARACTERS = 45


def history(call: "Invocation") -> int:
    """berth history"""
    parsed = parse_command(call, SYNTAX)
    human, whole = parsed.flag("human", True), parsed.flag("no-trunc")
    path = f"/images/{quote(parsed.arguments[0])}/history{query(platform=platform_json(parsed.text('platform')))}"
    rows = [_row(step, human=human, whole=whole) for step in call.client.json("GET", path)]
    default = f"ID {'CreatedSince' if human else 'CreatedAt'} CreatedBy Size Comment"
    print_rows(parsed.text("format"), _COLUMNS, rows, default, parsed.flag("quiet"), "ID")
    return 0


def _row(step: dict, *, human: bool, whole: bool) -> "dict[str, str]":
    from time import localtime, strftime

    created, command = step["Created"], step["CreatedBy"].replace("\t", " ")
    at = strftime("%Y-%m-%dT%H:%M:%S%z", localtime(created))
    at = f"{at[:-5]}Z" if at.endswith("+0000") else f"{at[:-2]}:{at[-2:]}"
    return {
        "ID": step["Id"] if whole else step["Id"].removeprefix("sha256:")[:12], "CreatedAt": at, "CreatedSince": age(created) if human else at,
        "CreatedBy": command if whole else shorten(command, _COMMAND_CHARACTERS),
        "Size": size(step["Size"]) if human else str(step["Size"]), "Comment": step["Comment"],
    }  # fmt: skip
