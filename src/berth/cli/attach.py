"""berth attach."""

from berth.cli import terminal
from berth.cli.client import fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.run import exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("detach-keys", "", "string", "KEYS", "Keys that detach (default ctrl-p,ctrl-q)"),
    ("no-stdin", "", "bool", "", "Do not attach standard input"),
    ("sig-proxy", "", "bool", "", "Pass signals on to the program (default true)"),
)
SYNTAX = {"attach": Syntax("[OPTIONS] CONTAINER", _FLAGS, at_least=1, at_most=1)}


def attach(call: "Invocation") -> int:
    """berth attach"""
    parsed = parse_command(call, SYNTAX)
    client, name = call.client, quote(parsed.arguments[0])
    container = client.json("GET", f"/containers/{name}/json")
    identity, config, state = container["Id"], container["Config"], container["State"]
    if not state["Running"] or state["Paused"]:
        fail(f"You cannot attach to a {'paused' if state['Paused'] else 'stopped'} container, "
             f"{'unpause' if state['Paused'] else 'start'} it first")  # fmt: skip
        return 1
    tty, stdin = config["Tty"], config["OpenStdin"] and not parsed.flag("no-stdin")
    terminal.check_tty(stdin, tty)
    condition = "removed" if container["HostConfig"]["AutoRemove"] else "next-exit"
    waiting = client.request("POST", f"/containers/{identity}/wait?condition={condition}")
    options = query(stream=True, stdin=stdin, stdout=True, stderr=True, detachKeys=terminal.detach_keys(call, parsed))
    stream = client.hijack(f"/containers/{identity}/attach{options}")
    if parsed.flag("sig-proxy", True) and not tty:
        terminal.pass_signals_on(client, identity)
    with terminal.RawTerminal(tty and stdin):
        if tty and terminal.is_terminal():
            terminal.follow_size(client, f"/containers/{identity}")
        terminal.relay(stream, stdin=stdin, tty=tty)
    return exit_code(client, identity, waiting, tty=tty)
