"""`berth COMMAND ...`: finds the command and imports only what it needs."""

import os
import sys

from berth.cli.client import ApiError, Client, NoEngine, StreamFailed, default_address, fail
from berth.cli.commands import COMMANDS, COMPLETE, GLOBAL_FLAGS, GROUPS, resolve
from berth.cli.flags import HelpRequested, Misuse, Parsed, UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.cli.dial import TlsFiles


class Invocation:
    """What a command gets: its words after the name, the engine's client, its name, and the one it was called by."""

    def __init__(self, client: Client, name: str, shown: str, words: "list[str]") -> None:
        self.client = client
        self.name = name
        self.shown = shown
        self.words = words
        self.config = ""  # the directory of contexts
        self.context = "default"  # the name of the engine's


def main(argv: "list[str]") -> int:
    """Runs a command line; returns its exit code. No traceback reaches a person unless asked for."""
    try:
        parsed = parse(argv, GLOBAL_FLAGS, interspersed=False)
    except HelpRequested:
        return _help([])
    except UsageError as error:
        fail(f"{error}\n\nUsage:  berth [OPTIONS] COMMAND [ARG...]\n\nRun 'berth --help' for more information")
        return error.code
    if parsed.flag("version"):
        from berth import VERSION

        print(f"berth version {VERSION}")
        return 0
    words = parsed.arguments
    if not words or words[0] == "help":
        return _help(words[1:])
    if words[0] == COMPLETE:
        return _complete(words[1:])
    name, shown, rest = resolve(words)
    if name:
        return _run(name, shown, rest, parsed)
    if words[0] in GROUPS and (len(words) == 1 or words[1] in ("--help", "-h")):
        return _help([words[0]])
    return _unknown(shown)


def _complete(words: "list[str]") -> int:
    from berth.cli.completing import main as complete

    return complete(words)


def address_of(parsed: Parsed) -> "tuple[str, str, str]":
    """(directory of contexts, address, context) of the engine that global flags and environment mean."""
    config = parsed.text("config") or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return config, *_where(parsed, config)


def _where(parsed: Parsed, config: str) -> "tuple[str, str]":
    """Address and context, one of them '', in Docker's order: -H, --context, DOCKER_HOST, DOCKER_CONTEXT, `context use`."""
    hosts, context, environ = parsed.list("host"), parsed.text("context"), os.environ
    if hosts and context:
        raise Misuse("conflicting options: cannot specify both --host and --context")
    host = (hosts[-1] if hosts else "") or ("" if context else environ.get("BERTH_HOST") or environ.get("DOCKER_HOST") or "")
    return host, "" if host else context or environ.get("DOCKER_CONTEXT") or _chosen_context(config)


def client_of(parsed: Parsed, config: str, host: str, context: str, *, may_start: bool = True) -> Client:
    """may_start: whether an engine of one's own may be started."""
    if context in ("", "default"):
        tls = _tls(parsed, config) if host.startswith("tcp://") else None
        return Client(host or default_address(), may_start=may_start and not host, tls=tls)
    from berth.cli.contextstore import find

    place = find(context, config)
    return Client(place.address, may_start=False, tls=place.tls)


def _chosen_context(config: str) -> str:
    try:
        with open(f"{config}/config.json") as file:
            if "currentContext" not in file.read():
                return "default"
    except OSError:
        return "default"
    from berth.cli.contextstore import current

    return current(config)


def _tls(parsed: Parsed, config: str) -> "TlsFiles | None":
    verify = parsed.flag("tlsverify", bool(os.environ.get("DOCKER_TLS_VERIFY")))
    if not (verify or parsed.flag("tls", bool(os.environ.get("DOCKER_TLS")))):
        return None
    from berth.cli.dial import TlsFiles

    base = os.environ.get("DOCKER_CERT_PATH") or config
    files = {}
    for flag, name in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
        default = f"{base}/{name}"
        files[flag] = parsed.text(flag) or (default if os.path.exists(default) else "")
    return TlsFiles(verify=verify, authority=files["tlscacert"], certificate=files["tlscert"], key=files["tlskey"])


def _run(name: str, shown: str, words: "list[str]", parsed: Parsed) -> int:
    module, function, _ = COMMANDS[name]
    if name == "oci":
        from berth.cli.oci.main import main as oci

        return oci(words)
    if name == "engine":
        return _exec_engine(words)
    command: Callable[[Invocation], int] = getattr(__import__(f"berth.cli.{module}", fromlist=[function]), function)
    try:
        config, host, context = address_of(parsed)
        # Contexts can be mended while the chosen one is broken; these others need no engine.
        needs_none = module in ("context", "contextfile", "completion", "manifest") or name == "logout"
        client = Client(default_address(), may_start=False) if needs_none else client_of(parsed, config, host, context)
        call = Invocation(client, name, shown, words)
        call.config, call.context = config, context or "default"
        code = command(call)
        sys.stdout.flush()
        return code
    except HelpRequested:
        return 0
    except UsageError as error:
        from berth.cli.helping import wrong_line

        fail(wrong_line(error, name, shown))
        return error.code
    except (NoEngine, StreamFailed) as error:
        return _failed(name, str(error))
    except ApiError as error:
        return _failed(name, f"Error response from daemon: {error}")
    except BrokenPipeError:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _failed(name, f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except Exception as error:
        if parsed.flag("debug"):
            raise
        return _failed(name, f"a mistake in berth itself: {type(error).__name__}: {error}; run with --debug for where")


def _failed(name: str, message: str) -> int:
    """Says it as Docker does. run ends with 125, for its other codes are its program's."""
    fail(f"berth: {message}\n\nRun 'berth run --help' for more information" if name == "run" else message)
    return 125 if name == "run" else 1


def _exec_engine(words: "list[str]") -> int:
    from berth.cli.autostart import engine_command

    command = engine_command()
    os.execv(command[0], [*command, *words])


def _help(words: "list[str]") -> int:
    """Of berth, a group or a command."""
    from berth.cli import helping

    if not words:
        print(helping.root(), end="")
        return 0
    if words[0] in GROUPS and len(words) == 1:
        print(helping.group(words[0]), end="")
        return 0
    name, shown, _ = resolve(words)
    return main([*words, "--help"]) if name else _unknown(shown)


def _unknown(shown: str) -> int:
    from berth.cli.helping import unknown

    fail(unknown(shown))
    return 1
