"""`berth oci [GLOBAL OPTIONS] VERB ...`: finds the verb, imports what it needs, and says what went wrong.

Errors go to standard error and to --log, as text or as one JSON object a line, which is what containerd
and Podman read them from. Exit codes are runc's: 1 for an error, 255 for one of `exec`, else the program's.
"""

import os
import sys

from berth.cli.flags import Flag, HelpRequested, Parsed, UsageError, parse
from berth.errors import BerthError, InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.runtime.lifecycle import Settings

GLOBAL_FLAGS: "tuple[Flag, ...]" = (
    ("root", "", "string", "DIR", "Where the state of containers is kept (/run/berth/oci)"),
    ("log", "", "string", "FILE", "Write errors and warnings there as well"),
    ("log-format", "", "string", "FORMAT", "'text' or 'json'"),
    ("log-level", "", "string", "LEVEL", "'error', 'warning' or 'debug'"),
    ("debug", "", "bool", "", "Print a traceback where the runtime itself fails"),
    ("cgroup-manager", "", "string", "MANAGER", "'cgroupfs', 'systemd' or 'disabled'"),
    ("systemd-cgroup", "", "bool", "", "The same as --cgroup-manager systemd: cgroupsPath is slice:prefix:name"),
    ("rootless", "", "string", "WORD", "'true', 'false' or 'auto': whether to do without what only root may"),
    ("criu", "", "string", "PATH", "criu to use for checkpoint and restore"),
    ("version", "v", "bool", "", "Print the version and leave"),
)

# verb -> (module, function, one line of help)
VERBS: "dict[str, tuple[str, str, str]]" = {
    "create": ("start", "create", "Make a container from a bundle; its program waits for 'start'"),
    "start": ("start", "start", "Let the program of a created container run"),
    "run": ("start", "run", "Create, start, wait and delete in one"),
    "exec": ("start", "exec_", "Run one more program in a container"),
    "state": ("query", "state_verb", "Print a container's state as JSON"),
    "list": ("query", "list_", "List containers"),
    "ps": ("query", "ps", "List the processes of a container"),
    "events": ("query", "events", "Print resource usage and OOM events as JSON lines"),
    "features": ("query", "features", "Print what this runtime and host can do, as JSON"),
    "spec": ("spec", "spec", "Write a config.json to begin with"),
    "kill": ("change", "kill", "Send a signal to a container"),
    "delete": ("change", "delete", "Remove what is left of a container"),
    "pause": ("change", "pause", "Freeze all processes of a container"),
    "resume": ("change", "resume", "Let a paused container go on"),
    "update": ("change", "update", "Change the limits of a live container"),
    "checkpoint": ("checkpoint", "checkpoint", "Save a running container to files, with criu"),
    "restore": ("checkpoint", "restore", "Start a container from such files, with criu"),
}
_LOG_LEVELS = ("error", "warning", "info", "debug")


class Invocation:
    """What a verb gets: its words, the global options, and where warnings go."""

    def __init__(self, name: str, words: "list[str]", options: Parsed) -> None:
        self.name = name
        self.words = words
        self.options = options

    def settings(self) -> "Settings":
        """Raises InvalidParameter for global options that contradict each other or name nothing."""
        from berth.runtime.lifecycle import Settings

        rootless = _is_rootless(self.options.text("rootless", "auto"))
        manager = self.options.text("cgroup-manager", "systemd" if self.options.flag("systemd-cgroup") else "cgroupfs")
        if manager not in ("cgroupfs", "systemd", "disabled"):
            raise InvalidParameter(f"--cgroup-manager {manager!r} is not one of cgroupfs, systemd, disabled")
        root = os.path.abspath(self.options.text("root") or default_root())
        return Settings(root, manager=manager, rootless=rootless, warn=lambda text: log("warning", text, self.options))


def default_root() -> str:
    """Where state is kept without --root; on a tmpfs, as it means nothing after a reboot."""
    if os.geteuid() == 0:
        # As root of a user namespace somebody set up for an ordinary user (Podman's), whose directory it is.
        if not (os.environ.get("XDG_RUNTIME_DIR") and os.environ.get("USER") != "root" and _is_nested()):
            return "/run/berth/oci"
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.geteuid()}'}/berth/oci"


def _is_rootless(word: str) -> bool:
    if word not in ("auto", "true", "false"):
        raise InvalidParameter(f"--rootless {word!r} is not one of auto, true, false")
    return os.geteuid() != 0 or _is_nested() if word == "auto" else word == "true"


def _is_nested() -> bool:
    """Whether root here is only a user namespace's: proc(5), uid_map."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def main(argv: "list[str]") -> int:
    """Runs one verb; returns its exit code."""
    try:
        parsed = parse(argv, GLOBAL_FLAGS, interspersed=False)
        _check_log(parsed)
    except HelpRequested:
        return _help()
    except UsageError as error:
        sys.stderr.write(f"berth oci: {error}\nSee 'berth oci --help'\n")
        return 1
    if parsed.flag("version"):
        return _version()
    if not parsed.arguments or parsed.arguments[0] in ("help", "h"):
        return main([*parsed.arguments[1:2], "--help"]) if parsed.arguments[1:] else _help()
    name = parsed.arguments[0]
    if name not in VERBS:
        sys.stderr.write(_unknown(name))
        return 1
    return _run(Invocation(name, parsed.arguments[1:], parsed))


def _check_log(parsed: Parsed) -> None:
    if parsed.text("log-format", "text") not in ("text", "json"):
        raise UsageError(f"--log-format {parsed.text('log-format')!r} is not one of text, json")
    if parsed.text("log-level", "warning") not in _LOG_LEVELS:
        raise UsageError(f"--log-level {parsed.text('log-level')!r} is not one of {', '.join(_LOG_LEVELS)}")


def _run(call: Invocation) -> int:
    module, function, _ = VERBS[call.name]
    failed = 255 if call.name == "exec" else 1
    try:
        verb: Callable[[Invocation], int] = getattr(__import__(f"berth.cli.oci.{module}", fromlist=[function]), function)
        return verb(call)
    except HelpRequested:
        return 0
    except UsageError as error:
        log("error", f"{error}; run 'berth oci {call.name} --help' for the options", call.options)
    except BerthError as error:
        log("error", str(error), call.options)
    except BrokenPipeError:
        os.dup2(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC), 1)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        log("error", str(error), call.options)
    except Exception as error:
        if call.options.flag("debug"):
            raise
        log("error", f"a mistake in berth itself: {type(error).__name__}: {error}; run with --debug for where", call.options)
    return failed


def log(level: str, text: str, options: Parsed) -> None:
    """One line to standard error, and to --log in the format asked for."""
    if _LOG_LEVELS.index(level) > _LOG_LEVELS.index(options.text("log-level", "debug" if options.flag("debug") else "warning")):
        return
    import time

    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if options.text("log-format") == "json":
        from berth.models.jsonlite import dumps

        line = dumps({"level": level, "msg": text, "time": stamp})
    else:
        from berth.models.jsonlite import dumps

        line = f"time={dumps(stamp)} level={level} msg={dumps(text)}"
    path = options.text("log")
    if path and path != "/dev/stderr":
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
            os.write(fd, f"{line}\n".encode(errors="replace"))
            os.close(fd)
        except OSError as error:
            sys.stderr.write(f"berth oci: cannot write to the log {path!r}: {error.strerror}\n")
    elif options.text("log-format") == "json":
        sys.stderr.write(f"{line}\n")
        return
    sys.stderr.write(f"berth oci: {text}\n" if level == "error" else f"berth oci: {level}: {text}\n")


def _version() -> int:
    from berth import VERSION
    from berth.runtime.features import SPEC_VERSION

    print(f"berth-oci version {VERSION}\nspec: {SPEC_VERSION}")
    return 0


def _help() -> int:
    lines = ["Usage:  berth oci [OPTIONS] VERB", "", "Runs containers from OCI bundles, as runc and crun do, one call a step", "", "Verbs:"]
    lines += [f"  {name:<11} {text}" for name, (_, _, text) in VERBS.items()]
    lines += ["", "Options:"]
    for long, short, kind, placeholder, text in GLOBAL_FLAGS:
        head = f"-{short}, --{long}" if short else f"    --{long}"
        lines.append(f"  {head + ('' if kind == 'bool' else ' ' + placeholder):<30} {text}")
    lines += ["", "'berth-oci' is the same program under one name, for configuration files: podman --runtime /path/to/berth-oci,",
              "dockerd --add-runtime berth=/path/to/berth-oci.", "Run 'berth oci VERB --help' for a verb's options."]  # fmt: skip
    print("\n".join(lines))
    return 0


def _unknown(name: str) -> str:
    from berth.cli.helping import nearest

    close = nearest(name, list(VERBS))
    hint = f"; did you mean 'berth oci {close}'?" if close else ""
    return f"berth oci: {name!r} is not a verb of the runtime{hint}\nSee 'berth oci --help'\n"


def parse_verb(
    call: Invocation, flags: "tuple[Flag, ...]", usage: str, *, at_least: int = 1, at_most: int = 1, interspersed: bool = True
) -> Parsed:
    """A verb's flags and arguments; prints the help where asked for."""
    try:
        parsed = parse(call.words, flags, interspersed=interspersed)
    except HelpRequested:
        from berth.cli.helping import help_text

        sys.stdout.write(help_text(f"oci {usage}", VERBS[call.name][2], flags))
        raise
    count = len(parsed.arguments)
    if count < at_least:
        raise UsageError(f"'berth oci {usage}': an argument is missing")
    if at_most >= 0 and count > at_most:
        raise UsageError(f"'berth oci {usage}' takes no more arguments, got {parsed.arguments[at_most]!r}")
    return parsed
