"""What the simple commands share: parse, count the arguments, do one thing for each name."""

import sys

from berth.cli.client import ApiError, fail
from berth.cli.flags import HelpRequested, Misuse, Parsed, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.cli.main import Invocation


def parse_command(call: "Invocation", syntax: "dict[str, Syntax]") -> Parsed:
    """Flags and arguments by the module's table; prints the help where asked for (and raises HelpRequested)."""
    try:
        return syntax[call.name].parse(call.words, call.shown)
    except HelpRequested:
        from berth.cli.helping import page

        sys.stdout.write(page(call.name, call.shown, syntax[call.name]))
        raise


def for_each(names: "list[str]", work: "Callable[[str], str]") -> int:
    """Prints what `work` returns for each name, if anything; one failure does not keep the others from their turn."""
    code = 0
    for name in names:
        try:
            if said := work(name):
                print(said, flush=True)
        except (ApiError, Misuse) as error:
            sys.stdout.flush()
            fail(f"Error response from daemon: {error}" if isinstance(error, ApiError) else str(error))
            code = 1
    return code
