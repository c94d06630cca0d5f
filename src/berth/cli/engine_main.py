"""`berth engine`: runs the engine in the foreground. Not on the CLI's fast path: it may import all."""

import asyncio
import json
import logging
import os
import sys

from berth.cli.flags import Flag, HelpRequested, Parsed, UsageError, help_text, parse
from berth.engine import config
from berth.engine.config import LOG_LEVELS
from berth.engine.options import Options, find_runtimes, from_settings, id_mappings
from berth.errors import BerthError, InvalidParameter

FLAGS: tuple[Flag, ...] = (
    ("add-runtime", "", "list", "NAME=PATH", "Register another OCI runtime (may be given several times)"),
    ("config-file", "", "string", "FILE", "Configuration in JSON (default /etc/berth/daemon.json, where it is there)"),
    ("data-root", "", "string", "DIR", "Where images and containers are kept (default /var/lib/berth)"),
    ("debug", "D", "bool", "", "Log everything; the same as --log-level debug"),
    ("default-runtime", "", "string", "NAME", "Runtime for containers that name none (default berth)"),
    ("exec-root", "", "string", "DIR", "Where sockets and pids are kept (default /run/berth)"),
    ("group", "G", "string", "GROUP", "Group that may open the unix sockets (default docker, where there is one)"),
    ("host", "H", "list", "URL", "Address to listen on: unix:///path, tcp://host:port or fd:// (several; default EXEC_ROOT/berth.sock)"),
    ("init-path", "", "string", "PATH", "Program for containers started with --init"),
    ("label", "", "list", "KEY=VALUE", "Label of the engine, shown by info (several)"),
    ("live-restore", "", "bool", "", "Leave containers running when the engine ends (default true)"),
    ("log-level", "l", "string", "LEVEL", "debug, info, warn, error or fatal (default info)"),
    ("metrics-addr", "", "string", "HOST:PORT", "Address that serves /metrics to Prometheus"),
    ("pidfile", "p", "string", "PATH", "File for the engine's pid (default EXEC_ROOT/engine.pid)"),
    ("ready-fd", "", "int", "FD", "Descriptor that gets a line when requests are served"),
    ("shutdown-timeout", "", "int", "SECONDS", "With --live-restore=false: how long containers get to stop (default 15)"),
    ("tls", "", "bool", "", "Speak TLS on tcp://; =false allows tcp:// without TLS for everyone"),
    ("tlscacert", "", "string", "FILE", "CA whose clients --tlsverify lets in (default ~/.docker/ca.pem)"),
    ("tlscert", "", "string", "FILE", "Certificate of the engine (default ~/.docker/cert.pem)"),
    ("tlskey", "", "string", "FILE", "Key of that certificate (default ~/.docker/key.pem)"),
    ("tlsverify", "", "bool", "", "Speak TLS, and only with clients that have a certificate of the CA"),
    ("userns-remap", "", "string", "USER", "Run containers in a user namespace: default, USER or USER:GROUP"),
    ("validate", "", "bool", "", "Check the configuration, say so, and leave"),
)
_SUMMARY = """Run berth's engine in the foreground

The engine keeps images and containers below --data-root and answers the Docker Engine API on every
--host. Stopping it (SIGINT or SIGTERM) leaves containers running; the next engine on the same roots
finds them. Several engines run side by side if each has roots of its own."""


def main(words: list[str]) -> int:
    """Exit code of `berth engine WORDS`."""
    try:
        parsed = parse(words, FLAGS)
        if parsed.arguments:
            raise UsageError(f"berth engine accepts no arguments, got {parsed.arguments[0]!r}")
    except HelpRequested:
        sys.stdout.write(help_text("engine [OPTIONS]", _SUMMARY, FLAGS))
        return 0
    except UsageError as error:
        sys.stderr.write(f"berth engine: {error}\n\nRun 'berth engine --help' for the options\n")
        return 125
    try:
        options = options_of(parsed)
        if parsed.flag("validate"):
            _validate(options)
            sys.stderr.write("configuration OK\n")
            return 0
        logging.basicConfig(
            level=LOG_LEVELS[options.log_level], stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        from berth.api.server import serve

        asyncio.run(serve(options, parsed.number("ready-fd", -1), lambda: options_of(parsed)))
    except BaseExceptionGroup as group:
        return _report([error for error in group.exceptions if not isinstance(error, asyncio.CancelledError)])
    except (BerthError, OSError) as error:
        return _report([error])
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    return 0


def options_of(parsed: Parsed) -> Options:
    """Flags and configuration file together."""
    flags = {name: value for name, value in parsed.values.items() if name not in ("config-file", "ready-fd", "validate")}
    path = parsed.text("config-file", config.DEFAULT_PATH)
    settings = config.read(path, must_exist=parsed.given("config-file"), flags=set(flags))
    problems = []
    for name, value in flags.items():
        key = {"host": "hosts", "label": "labels", "add-runtime": "runtimes"}.get(name, name)
        try:
            settings[key] = _runtimes(parsed.list(name)) if key == "runtimes" else config.KEYS[key](_absolute(key, value))
        except config.Mistake as mistake:
            problems.append(f"--{name}: {value if isinstance(value, str) else json.dumps(value)} {mistake}")
    if problems:
        raise InvalidParameter("\n  ".join(problems))
    return from_settings(settings)


def _absolute(key: str, value: object) -> object:
    """Paths of the command line may be relative to where it was given."""
    is_path = key in ("data-root", "exec-root", "pidfile", "init-path", "tlscacert", "tlscert", "tlskey")
    return os.path.abspath(value) if is_path and isinstance(value, str) and value else value


def _runtimes(items: list[str]) -> dict[str, str]:
    found = {}
    for item in items:
        name, _, path = item.partition("=")
        if not name or not path:
            raise config.Mistake("is not NAME=PATH")
        found[name] = path
    return found


def _validate(options: Options) -> None:
    """What can be known to be wrong without starting anything."""
    from berth.api.listen import tls_context

    find_runtimes(options)
    tls_context(options)
    id_mappings(options.userns_remap)


def _report(failures: "list[BaseException]") -> int:
    for error in failures:
        if isinstance(error, BerthError | OSError):
            sys.stderr.write(f"berth engine: {error}\n")
        elif isinstance(error, BaseExceptionGroup):
            return _report(list(error.exceptions))
        else:
            raise error
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    sys.exit(main(sys.argv[1:]))
