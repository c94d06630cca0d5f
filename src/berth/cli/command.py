"""What the simple commands share: parse, count the arguments, do one thing for each name."""

import sys

from berth.cli.client import ApiError, fail
from berth.cli.flags import Flag, HelpRequested, Parsed, UsageError, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.cli.main import Invocation


def parse_command(
    call: "Invocation", flags: "tuple[Flag, ...]", usage: str, summary: str, *, at_least: int = 0, at_most: int = -1,
    interspersed: bool = True,
) -> Parsed:  # fmt: skip
    """Flags and arguments; prints the help where asked for (and raises HelpRequested)."""
    try:
        parsed = parse(call.words, flags, interspersed=interspersed)
    except HelpRequested:
        sys.stdout.write(help_text(usage, summary, flags))
        raise
    count = len(parsed.arguments)
    if count < at_least:
        raise UsageError(f"'berth {call.name}' requires at least {at_least} argument{'s' if at_least > 1 else ''}")
    if at_most >= 0 and count > at_most:
        raise UsageError(f"'berth {call.name}' accepts at most {at_most} argument{'s' if at_most > 1 else ''}, got {count}")
    return parsed


def for_each(names: "list[str]", work: "Callable[[str], str]") -> int:
    """Prints what `work` returns for each name; one failure does not keep the others from their turn."""
    code = 0
    for name in names:
        try:
            print(work(name), flush=True)
        except ApiError as error:
            fail(f"Error response from daemon: {error}")
            code = 1
    return code
