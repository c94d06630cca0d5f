"""`berth run` and `berth create`: flags to Docker's Config and HostConfig, then attach, start, wait."""

import os
import sys

from berth.cli import terminal
from berth.cli.client import ApiError, fail, query
from berth.cli.command import parse_command
from berth.cli.configfile import setting
from berth.cli.flags import Flag, Misuse, Parsed, Refused, Syntax
from berth.cli.runflags import CREATE_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.client import Client, Response
    from berth.cli.main import Invocation

_RUN_ONLY: "tuple[Flag, ...]" = (
    ("detach", "d", "bool", "", "Run in the background and print the container's id"),
    ("detach-keys", "", "string", "KEYS", "Keys that detach from a terminal (default ctrl-p,ctrl-q)"),
    ("sig-proxy", "", "bool", "", "Pass signals on to the program (default true)"),
)
_USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
SYNTAX = {
    "run": Syntax(_USAGE, tuple(sorted(CREATE_FLAGS + _RUN_ONLY)), at_least=1, interspersed=False),
    "create": Syntax(_USAGE, CREATE_FLAGS, at_least=1, interspersed=False),
}


def create(call: "Invocation") -> int:
    """berth create"""
    parsed = parse_command(call, SYNTAX)
    print(_create(call, parsed))
    return 0


def run(call: "Invocation") -> int:
    """berth run"""
    parsed = parse_command(call, SYNTAX)
    detach, tty, stdin = parsed.flag("detach"), parsed.flag("tty"), parsed.flag("interactive")
    if detach and parsed.list("attach"):
        raise Misuse("conflicting options: cannot specify both --attach and --detach")
    if not detach:
        terminal.check_tty(stdin, tty)
    identity = _create(call, parsed)
    if detach:
        _start(call.client, identity)
        print(identity)
        return 0
    return _run_attached(call, parsed, identity, tty=tty, stdin=stdin)


def _run_attached(call: "Invocation", parsed: Parsed, identity: str, *, tty: bool, stdin: bool) -> int:
    client = call.client
    wanted = [name.lower() for name in parsed.list("attach")]
    output = not wanted or "stdout" in wanted
    errors = not wanted or "stderr" in wanted
    stdin = stdin and (not wanted or "stdin" in wanted)
    options = query(stream=True, stdin=stdin, stdout=output, stderr=errors, detachKeys=terminal.detach_keys(call, parsed))
    attached = client.hijack(f"/containers/{identity}/attach{options}")
    condition = "removed" if parsed.flag("rm") else "next-exit"
    waiting = client.request("POST", f"/containers/{identity}/wait?condition={condition}")
    _start(client, identity)
    if parsed.flag("sig-proxy", True) and not tty:
        terminal.pass_signals_on(client, identity)
    with terminal.RawTerminal(tty and stdin):
        if tty and terminal.is_terminal():
            terminal.follow_size(client, f"/containers/{identity}")
        terminal.relay(attached, stdin=stdin, tty=tty)
    return exit_code(client, identity, waiting, tty=tty)


def exit_code(client: "Client", identity: str, waiting: "Response", *, tty: bool) -> int:
    """The program's exit code; 0 where a person detached and it still runs."""
    if tty:  # the stream also ends where the person typed the detach keys
        try:
            if client.json("GET", f"/containers/{identity}/json")["State"]["Running"]:
                fail("read escape sequence")
                return 0
        except ApiError:
            pass  # removed already: the wait has its code
    answer = waiting.json()
    return int((answer or {}).get("StatusCode", 125))


def _start(client: "Client", identity: str) -> None:
    try:
        client.request("POST", f"/containers/{identity}/start")
    except ApiError as error:
        fail(f"berth: Error response from daemon: {error}\n\nRun 'berth why {identity[:12]}' for what to do")
        sys.exit(code_of_start_error(str(error)))


def code_of_start_error(message: str) -> int:
    """127 not found, 126 not executable, 125 anything else: what Docker's command line makes of the text."""
    if "executable file not found" in message or "no such file or directory" in message:
        return 127
    if "permission denied" in message or "exec format error" in message or "is a directory" in message:
        return 126
    return 125


def _pull(call: "Invocation", parsed: Parsed, *, missing: bool) -> bool:
    """Whether the image was pulled: an id is no name to pull by."""
    from berth.cli.pull import fetch_for_run

    return fetch_for_run(call, parsed.arguments[0], parsed.text("platform"), missing=missing, quiet=parsed.flag("quiet"))


def _create(call: "Invocation", parsed: Parsed) -> str:
    from berth.cli.runconfig import container_config, proxy_variables

    cidfile = parsed.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise Refused(f"container ID file found, make sure the other container isn't running or delete {cidfile}")
    body: dict[str, Any] = container_config(parsed)
    if proxies := setting(call.config, "proxies"):
        body["Env"] += proxy_variables(proxies, call.client.address, body["Env"])
    pull = parsed.text("pull", "missing")
    if pull not in ("missing", "never", "always"):
        raise Refused(f"invalid pull option: '{pull}': must be one of \"always\", \"missing\" or \"never\"")
    path = f"/containers/create{query(name=parsed.text('name'), platform=parsed.text('platform'))}"
    if pull == "always":
        _pull(call, parsed, missing=False)
    try:
        answer = call.client.json("POST", path, body)
    except ApiError as error:
        if error.status != 404 or pull != "missing" or "No such image" not in str(error) or not _pull(call, parsed, missing=True):
            raise
        answer = call.client.json("POST", path, body)
    for warning in answer.get("Warnings") or []:
        fail(f"WARNING: {warning}")
    if cidfile:
        with open(cidfile, "w") as file:
            file.write(answer["Id"])
    return str(answer["Id"])
