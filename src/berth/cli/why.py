"""berth why."""

from berth.cli.client import ApiError, fail, quote
from berth.cli.command import parse_command
from berth.cli.flags import Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

SYNTAX = {
    "why": Syntax(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        (
            ("format", "f", "string", "FORMAT", "json, or a Go template such as '{{.Reason}}'"),
            ("verbose", "v", "bool", "", "Print what is known besides, and the last lines of the log"),
        ),
        at_least=1,
    ),
}
_FACTS = ("Reason", "Status", "ExitCode", "Signal", "OOMKilled", "MemoryLimit", "MemoryPeak", "RestartCount", "Error", "StartedAt", "FinishedAt")


def why(call: "Invocation") -> int:
    """berth why"""
    parsed = parse_command(call, SYNTAX)
    format_ = parsed.text("format")
    code = 0
    for name in parsed.arguments:
        try:
            answer = call.client.json("GET", f"/containers/{quote(name)}/why")
        except ApiError as error:
            fail(f"Error response from daemon: {error}")
            code = 1
            continue
        _print(answer, format_, parsed.flag("verbose"))
    return code


def _print(answer: "dict[str, Any]", format_: str, verbose: bool) -> None:
    if format_ == "json":
        from berth.models.jsonlite import dumps

        print(dumps(answer))
    elif format_:
        from berth.cli.gotemplate import Template

        print(Template(format_).render(answer))
    else:
        print(line(answer))
        if verbose:
            print("\n".join(facts(answer)))


def line(answer: "dict[str, Any]") -> str:
    """The one line: name, what is so, what to do."""
    advice = answer["Advice"]
    do = f" {advice[0].upper()}{advice[1:]}." if advice else ""
    return f"{answer['Name'].lstrip('/')} {answer['Summary']}.{do}"


def facts(answer: "dict[str, Any]") -> "list[str]":
    """The lines of --verbose."""
    found = [f"  {key:<13} {answer[key]}" for key in _FACTS if answer[key] not in (0, "", False) or key == "ExitCode"]
    found += [f"  {'Asked':<13} signal {one['Signal']} by {one['By'] or 'somebody'} at {one['At']}" for one in answer["Asked"]]
    return found + [f"  {'Log':<13} {text}" for text in answer["Log"]]
