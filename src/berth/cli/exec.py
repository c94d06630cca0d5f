"""berth exec."""

from berth.cli import terminal
from berth.cli.client import ApiError, fail, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.run import code_of_start_error
from berth.cli.runconfig import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("detach", "d", "bool", "", "Run it in the background"),
    ("detach-keys", "", "string", "KEYS", "Keys that detach from a terminal (default ctrl-p,ctrl-q)"),
    ("env", "e", "list", "NAME[=VALUE]", "Set an environment variable"),
    ("env-file", "", "list", "FILE", "Read environment variables from a file"),
    ("interactive", "i", "bool", "", "Keep standard input open"),
    ("privileged", "", "bool", "", "Give it all capabilities"),
    ("tty", "t", "bool", "", "Give it a terminal"),
    ("user", "u", "string", "USER[:GROUP]", "Run as a user, by name or number"),
    ("workdir", "w", "string", "DIR", "Working directory inside the container"),
)
SYNTAX = {"exec": Syntax("[OPTIONS] CONTAINER COMMAND [ARG...]", _FLAGS, at_least=2, interspersed=False)}


def exec_(call: "Invocation") -> int:
    """berth exec"""
    parsed = parse_command(call, SYNTAX)
    detach, tty, stdin = parsed.flag("detach"), parsed.flag("tty"), parsed.flag("interactive")
    if not detach:
        terminal.check_tty(stdin, tty)
    name, command = parsed.arguments[0], parsed.arguments[1:]
    config = {
        "Cmd": command, "AttachStdin": stdin and not detach, "AttachStdout": not detach, "AttachStderr": not detach,
        "Tty": tty, "DetachKeys": terminal.detach_keys(call, parsed), "Env": environment(parsed), "User": parsed.text("user"),
        "WorkingDir": parsed.text("workdir"), "Privileged": parsed.flag("privileged"),
    }  # fmt: skip
    try:
        identity = call.client.json("POST", f"/containers/{quote(name)}/exec", config)["Id"]
    except ApiError as error:
        fail(f"Error response from daemon: {error}")
        return 1
    body = {"Detach": detach, "Tty": tty, "ConsoleSize": list(terminal.size()) if tty else None}
    try:
        if detach:
            call.client.request("POST", f"/exec/{identity}/start", body)
            return 0
        stream = call.client.hijack(f"/exec/{identity}/start", body)
    except ApiError as error:
        fail(f"Error response from daemon: {error}")
        return {125: 1}.get(code_of_start_error(str(error)), code_of_start_error(str(error)))
    with terminal.RawTerminal(tty and stdin):
        if tty and terminal.is_terminal():
            terminal.follow_size(call.client, f"/exec/{identity}")
        terminal.relay(stream, stdin=stdin, tty=tty)
    answer = call.client.json("GET", f"/exec/{identity}/json")
    return int(answer["ExitCode"] or 0)
