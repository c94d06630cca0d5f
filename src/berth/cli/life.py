"""start, stop, restart, kill, rm, wait, pause, unpause, rename."""

from berth.cli import terminal
from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import for_each, parse_command
from berth.cli.flags import Flag, Misuse, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_START: "tuple[Flag, ...]" = (
    ("attach", "a", "bool", "", "Attach output and forward signals"),
    ("detach-keys", "", "string", "KEYS", "Keys that detach from a terminal (default ctrl-p,ctrl-q)"),
    ("interactive", "i", "bool", "", "Attach standard input too"),
)
_STOP: "tuple[Flag, ...]" = (
    ("signal", "s", "string", "SIGNAL", "Signal to send first (default the container's stop signal)"),
    ("timeout", "t", "int", "S", "Seconds to wait before SIGKILL (-1: for ever)"),
    ("time", "", "int", "S", "The same as --timeout"),
)
_RM: "tuple[Flag, ...]" = (
    ("force", "f", "bool", "", "Kill it first if it runs"),
    ("link", "l", "bool", "", "Remove a link of that name (there are none yet)"),
    ("volumes", "v", "bool", "", "Remove anonymous volumes too"),
)
_KILL: "tuple[Flag, ...]" = (("signal", "s", "string", "SIGNAL", "Signal to send (default SIGKILL)"),)
_CONTAINERS, _WITH_OPTIONS = "CONTAINER [CONTAINER...]", "[OPTIONS] CONTAINER [CONTAINER...]"
SYNTAX = {
    "start": Syntax(_WITH_OPTIONS, _START, at_least=1),
    "stop": Syntax(_WITH_OPTIONS, _STOP, at_least=1),
    "restart": Syntax(_WITH_OPTIONS, _STOP, at_least=1),
    "kill": Syntax(_WITH_OPTIONS, _KILL, at_least=1),
    "rm": Syntax(_WITH_OPTIONS, _RM, at_least=1),
    "wait": Syntax(_CONTAINERS, at_least=1),
    "pause": Syntax(_CONTAINERS, at_least=1),
    "unpause": Syntax(_CONTAINERS, at_least=1),
    "rename": Syntax("CONTAINER NEW_NAME", at_least=2, at_most=2),
}


def start(call: "Invocation") -> int:
    """berth start"""
    parsed = parse_command(call, SYNTAX)
    if parsed.flag("attach") or parsed.flag("interactive"):
        if len(parsed.arguments) > 1:
            raise Misuse("you cannot start and attach multiple containers at once")
        return _start_attached(call, parsed.arguments[0], parsed.flag("interactive"), terminal.detach_keys(call, parsed))

    failed: list[str] = []

    def one(name: str) -> str:
        failed.append(name)
        call.client.request("POST", f"/containers/{quote(name)}/start")
        failed.remove(name)
        return name

    code = for_each(parsed.arguments, one)
    if failed:
        fail(f"failed to start containers: {', '.join(failed)}")
    return code


def _start_attached(call: "Invocation", name: str, interactive: bool, keys: str) -> int:
    from berth.cli.run import code_of_start_error, exit_code

    client = call.client
    container = client.json("GET", f"/containers/{quote(name)}/json")
    identity, config = container["Id"], container["Config"]
    tty, stdin = config["Tty"], interactive and config["OpenStdin"]
    options = query(stream=True, stdin=stdin, stdout=True, stderr=True, detachKeys=keys)
    attached = client.hijack(f"/containers/{identity}/attach{options}")
    condition = "removed" if container["HostConfig"]["AutoRemove"] else "next-exit"
    waiting = client.request("POST", f"/containers/{identity}/wait?condition={condition}")
    try:
        client.request("POST", f"/containers/{identity}/start")
    except ApiError as error:
        fail(f"Error response from daemon: {error}")
        return code_of_start_error(str(error))
    if not tty:
        terminal.pass_signals_on(client, identity)
    with terminal.RawTerminal(tty and stdin):
        if tty and terminal.is_terminal():
            terminal.follow_size(client, f"/containers/{identity}")
        terminal.relay(attached, stdin=stdin, tty=tty)
    return exit_code(client, identity, waiting, tty=tty)


def _stop_or_restart(call: "Invocation", verb: str) -> int:
    parsed = parse_command(call, SYNTAX)
    seconds = parsed.values.get("timeout", parsed.values.get("time"))

    def one(name: str) -> str:
        call.client.request("POST", f"/containers/{quote(name)}/{verb}{query(t=seconds, signal=parsed.text('signal'))}")
        return name

    return for_each(parsed.arguments, one)


def stop(call: "Invocation") -> int:
    """berth stop"""
    return _stop_or_restart(call, "stop")


def restart(call: "Invocation") -> int:
    """berth restart"""
    return _stop_or_restart(call, "restart")


def kill(call: "Invocation") -> int:
    """berth kill"""
    parsed = parse_command(call, SYNTAX)

    def one(name: str) -> str:
        call.client.request("POST", f"/containers/{quote(name)}/kill{query(signal=parsed.text('signal'))}")
        return name

    return for_each(parsed.arguments, one)


def rm(call: "Invocation") -> int:
    """berth rm"""
    parsed = parse_command(call, SYNTAX)

    def one(name: str) -> str:
        options = query(force=parsed.flag("force"), v=parsed.flag("volumes"), link=parsed.flag("link"))
        try:
            call.client.request("DELETE", f"/containers/{quote(name)}{options}")
        except ApiError as error:
            if not (parsed.flag("force") and error.status == 404):
                raise
            fail(f"Error response from daemon: {error}")
            return ""
        return name

    return for_each(parsed.arguments, one)


def wait(call: "Invocation") -> int:
    """berth wait"""
    parsed = parse_command(call, SYNTAX)
    return for_each(parsed.arguments, lambda name: str(call.client.json("POST", f"/containers/{quote(name)}/wait")["StatusCode"]))


def _simple(call: "Invocation", verb: str) -> int:
    parsed = parse_command(call, SYNTAX)

    def one(name: str) -> str:
        call.client.request("POST", f"/containers/{quote(name)}/{verb}")
        return name

    return for_each(parsed.arguments, one)


def pause(call: "Invocation") -> int:
    """berth pause"""
    return _simple(call, "pause")


def unpause(call: "Invocation") -> int:
    """berth unpause"""
    return _simple(call, "unpause")


def rename(call: "Invocation") -> int:
    """berth rename"""
    parsed = parse_command(call, SYNTAX)
    old, new = parsed.arguments
    try:
        call.client.request("POST", f"/containers/{quote(old)}/rename{query(name=new)}")
    except ApiError as error:
        fail(f"Error response from daemon: {error}\nfailed to rename container named {old}")
        return 1
    return 0
