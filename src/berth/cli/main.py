"""`berth COMMAND ...`: finds the command and imports only what it needs."""

import os
import sys

from berth.cli.client import ApiError, Client, NoEngine, default_address, fail
from berth.cli.flags import Flag, HelpRequested, Parsed, UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.cli.dial import TlsFiles

GLOBAL_FLAGS: "tuple[Flag, ...]" = (
    ("debug", "D", "bool", "", "Print a traceback where berth itself fails"),
    ("host", "H", "list", "URL", "Engine to connect to: unix:///path, tcp://host:port or ssh://[user@]host"),
    ("log-level", "l", "string", "LEVEL", "Accepted for Docker's sake"),
    ("context", "c", "string", "NAME", "Engine to connect to, by the name of its context"),
    ("config", "", "string", "DIR", "Where contexts and certificates are kept (default ~/.docker)"),
    ("tls", "", "bool", "", "Speak TLS to tcp://"),
    ("tlsverify", "", "bool", "", "Speak TLS, and only to an engine with a certificate of the CA"),
    ("tlscacert", "", "string", "FILE", "CA of the engine's certificate (default ca.pem in --config)"),
    ("tlscert", "", "string", "FILE", "Certificate of this client (default cert.pem in --config)"),
    ("tlskey", "", "string", "FILE", "Key of that certificate (default key.pem in --config)"),
    ("version", "v", "bool", "", "Print the version and leave"),
)

# command -> (module, function, one line of help)
COMMANDS: "dict[str, tuple[str, str, str]]" = {
    "run": ("run", "run", "Create and start a container from an image"),
    "create": ("run", "create", "Create a container without starting it"),
    "start": ("life", "start", "Start stopped containers"),
    "stop": ("life", "stop", "Stop running containers"),
    "restart": ("life", "restart", "Stop and start containers"),
    "kill": ("life", "kill", "Send a signal to running containers"),
    "rm": ("life", "rm", "Remove containers"),
    "wait": ("life", "wait", "Wait until containers stop, print their exit codes"),
    "pause": ("life", "pause", "Freeze all processes of containers"),
    "unpause": ("life", "unpause", "Let paused containers go on"),
    "update": ("update", "update", "Change limits and restart policy of containers"),
    "rename": ("life", "rename", "Give a container another name"),
    "ps": ("ps", "ps", "List containers"),
    "logs": ("logs", "logs", "Print what a container wrote"),
    "exec": ("exec", "exec_", "Run a command in a running container"),
    "cp": ("cp", "cp", "Copy files between a container and the local file system"),
    "diff": ("commit", "diff", "List what a container changed of its image's files"),
    "export": ("commit", "export", "Write a container's file system to an archive"),
    "commit": ("commit", "commit", "Make an image of a container's changes"),
    "top": ("top", "top", "Show the processes of a container"),
    "stats": ("stats", "stats", "Show what containers use, as it changes"),
    "port": ("top", "port", "List the published ports of a container"),
    "attach": ("attach", "attach", "Connect the terminal to a running container"),
    "inspect": ("inspect", "inspect", "Print all that is known of containers and images"),
    "images": ("images", "images", "List images"),
    "import": ("images", "import_", "Make an image from the tar of a file system"),
    "load": ("images", "load", "Bring in images from an archive"),
    "save": ("images", "save", "Write images to an archive"),
    "rmi": ("images", "rmi", "Remove images"),
    "tag": ("images", "tag", "Give an image another name"),
    "events": ("events", "events", "Print what happens to containers and images"),
    "container prune": ("prune", "container_prune", "Remove all containers that do not run"),
    "image prune": ("prune", "image_prune", "Remove images that are of no use"),
    "system prune": ("prune", "system_prune", "Remove what is of no use"),
    "system df": ("df", "df", "Show what takes how much room"),
    "info": ("system", "info", "Print what the engine and its host have"),
    "version": ("system", "version", "Print the versions of command and engine"),
    "system dial-stdio": ("dial", "dial_stdio", "Connect standard input and output to the engine"),
    "system service": ("service", "service", "Run the engine as a systemd service"),
    "context ls": ("context", "ls", "List contexts"),
    "context create": ("context", "create", "Give an engine a name"),
    "context use": ("context", "use", "Choose the engine of all further commands"),
    "context rm": ("context", "rm", "Forget contexts"),
    "context inspect": ("context", "inspect", "Print all that is known of contexts"),
    "engine": ("engine_main", "main", "Run the engine in the foreground"),
    "oci": ("oci.main", "main", "Run containers from OCI bundles without an engine, as runc does"),
}
_GROUPS = {
    "container": {**{name: name for name in (
        "run create start stop restart kill rm wait pause unpause update rename logs exec attach cp diff export commit "
        "top stats port").split()},
        "ls": "ps", "list": "ps", "ps": "ps", "inspect": "inspect", "remove": "rm",
        "prune": "container prune"},
    "image": {"ls": "images", "list": "images", "import": "import", "load": "load", "save": "save", "rm": "rmi",
              "remove": "rmi", "tag": "tag", "inspect": "inspect", "prune": "image prune"},
    "system": {"events": "events", "info": "info", "df": "system df", "prune": "system prune", "dial-stdio": "system dial-stdio",
               "service": "system service"},
    "context": {"ls": "context ls", "list": "context ls", "create": "context create", "use": "context use", "rm": "context rm",
                "remove": "context rm", "inspect": "context inspect"},
}  # fmt: skip


class Invocation:
    """What a command gets: its words after the name, the engine's client, and the name it was called by."""

    def __init__(self, client: Client, name: str, words: "list[str]", kind: str) -> None:
        self.client = client
        self.name = name
        self.words = words
        self.kind = kind  # 'container' or 'image' where called as `berth image inspect`, else ''
        self.config = ""  # the directory of contexts
        self.context = "default"  # the name of the engine's


def main(argv: "list[str]") -> int:
    """Runs a command line; returns its exit code. No traceback reaches a person unless asked for."""
    try:
        parsed = parse(argv, GLOBAL_FLAGS, interspersed=False)
    except HelpRequested:
        return _help(sys.stdout, 0)
    except UsageError as error:
        fail(f"berth: {error}\nSee 'berth --help'")
        return 125
    if parsed.flag("version"):
        from berth import VERSION

        print(f"berth version {VERSION}")
        return 0
    if not parsed.arguments:
        return _help(sys.stdout, 0)
    name, words = parsed.arguments[0], parsed.arguments[1:]
    if name == "help":
        return main([*words, "--help"]) if words else _help(sys.stdout, 0)
    kind = ""
    if name in _GROUPS:
        if not words or words[0] in ("--help", "-h"):
            return _group_help(name)
        kind, verb, words = name, words[0], words[1:]
        if verb not in _GROUPS[kind]:
            return _unknown(f"{kind} {verb}", list(_GROUPS[kind]), verb, kind)
        name = _GROUPS[kind][verb]
    if name not in COMMANDS:
        return _unknown(name, list(COMMANDS), name, "")
    return _run(name, words, kind, parsed)


def _where(parsed: Parsed, config: str) -> "tuple[str, str]":
    """Address and context, one of them '', in Docker's order: -H, --context, DOCKER_HOST, DOCKER_CONTEXT, `context use`."""
    hosts, context, environ = parsed.list("host"), parsed.text("context"), os.environ
    if hosts and context:
        raise UsageError("conflicting options: either specify --host or --context, not both")
    host = (hosts[-1] if hosts else "") or ("" if context else environ.get("BERTH_HOST") or environ.get("DOCKER_HOST") or "")
    return host, "" if host else context or environ.get("DOCKER_CONTEXT") or _chosen_context(config)


def _client(parsed: Parsed, config: str, host: str, context: str) -> Client:
    if context in ("", "default"):
        tls = _tls(parsed, config) if host.startswith("tcp://") else None
        return Client(host or default_address(), may_start=not host, tls=tls)
    from berth.cli.context import find

    place = find(context, config)
    return Client(place.address, may_start=False, tls=place.tls)


def _chosen_context(config: str) -> str:
    try:
        with open(f"{config}/config.json") as file:
            if "currentContext" not in file.read():
                return "default"
    except OSError:
        return "default"
    from berth.cli.context import current

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


def _run(name: str, words: "list[str]", kind: str, parsed: Parsed) -> int:
    module, function, _ = COMMANDS[name]
    if name == "oci":
        from berth.cli.oci.main import main as oci

        return oci(words)
    if name == "engine":
        return _exec_engine(words)
    command: Callable[[Invocation], int] = getattr(__import__(f"berth.cli.{module}", fromlist=[function]), function)
    errors_exit_code = 125 if name in ("run", "create", "exec") else 1
    try:
        config = parsed.text("config") or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        host, context = _where(parsed, config)
        # Contexts can be mended while the chosen one is broken.
        client = Client(default_address(), may_start=False) if module == "context" else _client(parsed, config, host, context)
        call = Invocation(client, name, words, kind)
        call.config, call.context = config, context or "default"
        code = command(call)
        sys.stdout.flush()
        return code
    except HelpRequested:
        return 0
    except UsageError as error:
        fail(f"berth {name}: {error}\n\nRun 'berth {name} --help' for more information")
        return 125
    except NoEngine as error:
        fail(f"berth: {error}")
        return errors_exit_code
    except ApiError as error:
        fail(f"Error response from daemon: {error}")
        return errors_exit_code
    except BrokenPipeError:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        fail(f"berth {name}: {error}")
        return errors_exit_code
    except Exception as error:
        if parsed.flag("debug"):
            raise
        fail(f"berth {name}: a mistake in berth itself: {type(error).__name__}: {error}; run with --debug for where")
        return errors_exit_code


def _exec_engine(words: "list[str]") -> int:
    from berth.cli.autostart import engine_command

    command = engine_command()
    os.execv(command[0], [*command, *words])


def _help(out: object, code: int) -> int:
    lines = ["Usage:  berth [OPTIONS] COMMAND", "", "Builds, ships and runs programs in Linux containers", "", "Commands:"]
    lines += [f"  {name:<10} {text}" for name, (_, _, text) in COMMANDS.items() if " " not in name]
    lines += ["", "Groups:", *(f"  {name:<10} {', '.join(verbs)}" for name, verbs in _GROUPS.items()), "", "Global options:"]
    for long, short, kind, placeholder, text in GLOBAL_FLAGS:
        head = f"-{short}, --{long}" if short else f"    --{long}"
        lines.append(f"  {head + ('' if kind == 'bool' else ' ' + placeholder):<24} {text}")
    lines += ["", "Environment: BERTH_HOST or DOCKER_HOST name the engine; without them berth starts one by itself.",
              "Run 'berth COMMAND --help' for a command's options."]  # fmt: skip
    print("\n".join(lines))
    return code


def _group_help(group: str) -> int:
    print(f"Usage:  berth {group} COMMAND\n\nCommands:")
    for verb, command in _GROUPS[group].items():
        print(f"  {verb:<10} {COMMANDS[command][2]}")
    return 0


def _unknown(shown: str, known: "list[str]", word: str, group: str) -> int:
    import difflib

    close = difflib.get_close_matches(word, known, 1)
    prefix = f"berth {group} " if group else "berth "
    hint = f"; did you mean '{prefix}{close[0]}'?" if close else ""
    fail(f"berth: '{shown}' is not a berth command{hint}\nSee 'berth --help'")
    return 1
