"""diff, export and commit: what became of a container's files."""

import os

from berth.cli.client import fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_COMMIT: "tuple[Flag, ...]" = (
    ("author", "a", "string", "TEXT", "Author, e.g. 'Ada <ada@example.org>'"),
    ("change", "c", "list", "INSTRUCTION", "Apply a Dockerfile instruction, e.g. 'CMD [\"bash\"]'"),
    ("message", "m", "string", "TEXT", "Comment in the image's history"),
    ("no-pause", "", "bool", "", "Let the container go on meanwhile"),
    ("pause", "p", "bool", "", "Let the container stand still meanwhile: the older form of --no-pause (default true)"),
)
_EXPORT: "tuple[Flag, ...]" = (("output", "o", "string", "FILE", "Write to a file instead of standard output"),)
SYNTAX = {
    "diff": Syntax("CONTAINER", at_least=1, at_most=1),
    "export": Syntax("[OPTIONS] CONTAINER", _EXPORT, at_least=1, at_most=1),
    "commit": Syntax("[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", _COMMIT, at_least=1, at_most=2),
}


def diff(call: "Invocation") -> int:
    """berth diff"""
    parsed = parse_command(call, SYNTAX)
    for change in call.client.json("GET", f"/containers/{quote(parsed.arguments[0])}/changes") or []:
        print("CAD"[change["Kind"]], change["Path"])
    return 0


def export(call: "Invocation") -> int:
    """berth export"""
    parsed = parse_command(call, SYNTAX)
    output = parsed.text("output")
    if not output and os.isatty(1):
        fail("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return 1
    directory = os.path.dirname(output) or "."
    if output and not os.path.isdir(directory):
        fail(f'failed to export container: invalid output path: directory "{directory}" does not exist')
        return 1
    pieces = call.client.request("GET", f"/containers/{quote(parsed.arguments[0])}/export").pieces()
    from berth.cli.terminal import write_all

    if not output:
        for data in pieces:
            write_all(1, data)
        return 0
    # Beside the target first: what is cut off half-way never takes the name of something whole.
    temporary = f"{output}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for data in pieces:
            write_all(fd, data)
        os.rename(temporary, output)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return 0


def commit(call: "Invocation") -> int:
    """berth commit"""
    parsed = parse_command(call, SYNTAX)
    container, name = parsed.arguments[0], (parsed.arguments[1:] or [""])[0]
    if "@" in name:
        raise Misuse(f"{name}: an image is committed to a name and tag, not to a digest")
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
    options = query(
        container=container, repo=repository, tag=tag, author=parsed.text("author"), comment=parsed.text("message"),
        changes=parsed.list("change"), pause=None if parsed.flag("pause", True) and not parsed.flag("no-pause") else "0",
    )  # fmt: skip
    print(call.client.json("POST", f"/commit{options}", {})["Id"])
    return 0
