"""login and logout."""

import os
import sys

from berth.cli import configfile, credentials
from berth.cli.client import ApiError, fail
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Syntax
from berth.cli.progress import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.credentials import Login
    from berth.cli.main import Invocation

_LOGIN: "tuple[Flag, ...]" = (
    ("password", "p", "string", "TEXT", "Password or token; others can see it in the list of processes"),
    ("password-stdin", "", "bool", "", "Read the password from standard input"),
    ("username", "u", "string", "NAME", "Name of the user"),
)
SYNTAX = {
    "login": Syntax("[OPTIONS] [SERVER]", _LOGIN, at_most=1),
    "logout": Syntax("[SERVER]", at_most=1),
}
_MOST_PASSWORD_BYTES = 1 << 16
_UNENCRYPTED = """
WARNING! Your credentials are stored unencrypted in '{}'.
Configure a credential helper to remove this warning. See
https://docs.docker.com/go/credential-store/

"""


def login(call: "Invocation") -> int:
    """berth login"""
    parsed = parse_command(call, SYNTAX)
    user, password = parsed.text("username").strip(), parsed.text("password").strip()  # as Docker: who pastes them brings blanks
    for flag in ("username", "password"):
        if parsed.given(flag) and not parsed.text(flag):
            raise Misuse(f"{flag} is empty")
    if parsed.flag("password-stdin"):
        if password:
            raise Misuse("conflicting options: cannot specify both --password and --password-stdin")
        if not user:
            raise Misuse("the --password-stdin option requires --username to be set")
        data = sys.stdin.buffer.read(_MOST_PASSWORD_BYTES)
        password = data.decode(errors="surrogateescape").strip()
    elif password:
        fail("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    server = credentials.server_of(credentials.host_of(parsed.arguments[0])) if parsed.arguments else credentials.HUB
    known: Login = {} if user or password else _known(call, server)
    status = _with_known(call, known) if known.get("password") or known.get("identitytoken") else ""
    if not status:
        status = _with_asked(call, server, user, password, known.get("username", ""))
    if status:
        print(status)
    return 0


def _known(call: "Invocation", server: str) -> "Login":
    try:
        return credentials.find(call.config, server)
    except credentials.HelperError as error:
        fail(f"WARNING: {error}")
        return {}


def _with_known(call: "Invocation", known: "Login") -> str:
    """Tries what was stored; '' if the registry does not take it any more."""
    said = f" [Username: {printable(known['username'])}]" if known.get("username") else ""
    hint = " Info -> To login with a different account, run 'berth logout' followed by 'berth login'"
    sys.stderr.write(f"Authenticating with existing credentials...{said}\n\n{hint}\n\n\n")
    try:
        return _ask_engine(call, known)
    except ApiError as error:
        fail(f"Login did not succeed, error: Error response from daemon: {error}")
        return ""


def _with_asked(call: "Invocation", server: str, user: str, password: str, former_user: str) -> str:
    if not (user and password):
        user, password = _prompted(server, user, password, former_user)
    return _ask_engine(call, {"username": user, "password": password, "serveraddress": server})


def _ask_engine(call: "Invocation", login: "Login") -> str:
    """The engine tries the login at the registry; what it takes is kept."""
    answer = call.client.json("POST", "/auth", login) or {}
    if token := answer.get("IdentityToken"):
        login = {**login, "identitytoken": str(token)}
        login.pop("password", None)
    try:
        unencrypted = credentials.store(call.config, login)
    except credentials.HelperError as error:
        raise Misuse(f"Error saving credentials: {error}") from None
    if unencrypted:
        sys.stdout.flush()
        sys.stderr.write(_UNENCRYPTED.format(configfile.path_of(call.config)))
    return str(answer.get("Status") or "Login Succeeded")


def _prompted(server: str, user: str, password: str, former_user: str) -> "tuple[str, str]":
    if not os.isatty(0):
        raise Misuse("Error: Cannot perform an interactive login from a non TTY device")
    if not user:
        if server == credentials.HUB:
            print("Log in with the name and a password or personal access token of Docker Hub (https://hub.docker.com).\n")
        user = _read_line(f"Username ({former_user}): " if former_user else "Username: ").strip() or former_user
        if not user:
            raise Misuse("Error: Non-null Username Required")
    if not password:
        password = _read_unseen("Password: ")
        if not password:
            raise Misuse("Error: Password Required")
    return user, password


def _read_line(prompt: str) -> str:
    sys.stdout.write(prompt)
    sys.stdout.flush()
    return sys.stdin.readline().rstrip("\r\n")


def _read_unseen(prompt: str) -> str:
    """A line that the terminal does not show."""
    import termios

    saved = termios.tcgetattr(0)
    unseen = [*saved[:3], saved[3] & ~termios.ECHO, *saved[4:]]
    try:
        termios.tcsetattr(0, termios.TCSADRAIN, unseen)
        return _read_line(prompt)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
        print(flush=True)


def logout(call: "Invocation") -> int:
    """berth logout"""
    parsed = parse_command(call, SYNTAX)
    given = parsed.arguments[0] if parsed.arguments else credentials.HUB
    host = credentials.host_of(given)
    if credentials.server_of(host) == credentials.HUB:
        shown, forms = credentials.HUB, [credentials.HUB]
    else:
        shown, forms = host, list(dict.fromkeys([given, host, f"http://{host}", f"https://{host}"]))
    print("Removing login credentials for", shown, flush=True)
    problems = []
    for form in forms:  # each may have been written once
        try:
            credentials.erase(call.config, form)
        except credentials.HelperError as error:
            problems.append(f"{form}: {error}")
    if len(problems) == len(forms):
        fail("\n".join(["WARNING: could not erase credentials:", *problems]))
    return 0
