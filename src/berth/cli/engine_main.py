"""`berth engine`: runs the engine in the foreground. Not on the CLI's fast path: it may import all."""

import asyncio
import logging
import os
import sys

from berth.cli.flags import Flag, HelpRequested, UsageError, help_text, parse
from berth.engine.options import Options
from berth.errors import BerthError

FLAGS: tuple[Flag, ...] = (
    ("add-runtime", "", "list", "NAME=PATH", "Register another OCI runtime (may be given several times)"),
    ("data-root", "", "string", "DIR", "Where images and containers are kept (default /var/lib/berth)"),
    ("debug", "D", "bool", "", "Log everything; the same as --log-level debug"),
    ("default-runtime", "", "string", "NAME", "Runtime for containers that name none (default berth)"),
    ("exec-root", "", "string", "DIR", "Where sockets and pids are kept (default /run/berth)"),
    ("group", "G", "string", "GROUP", "Group that may open the unix sockets (default docker, where there is one)"),
    ("host", "H", "list", "URL", "Address to listen on: unix:///path, tcp://host:port or fd:// (several; default EXEC_ROOT/berth.sock)"),
    ("init-path", "", "string", "PATH", "Program for containers started with --init"),
    ("log-level", "l", "string", "LEVEL", "debug, info, warn, error or fatal (default info)"),
    ("pidfile", "p", "string", "PATH", "File for the engine's pid (default EXEC_ROOT/engine.pid)"),
    ("ready-fd", "", "int", "FD", "Descriptor that gets a line when requests are served"),
    ("tls", "", "bool", "", "Speak TLS on tcp://; =false allows tcp:// without TLS for everyone"),
    ("tlscacert", "", "string", "FILE", "CA whose clients --tlsverify lets in (default ~/.docker/ca.pem)"),
    ("tlscert", "", "string", "FILE", "Certificate of the engine (default ~/.docker/cert.pem)"),
    ("tlskey", "", "string", "FILE", "Key of that certificate (default ~/.docker/key.pem)"),
    ("tlsverify", "", "bool", "", "Speak TLS, and only with clients that have a certificate of the CA"),
    ("userns-remap", "", "string", "USER", "Run containers in a user namespace: default, USER or USER:GROUP"),
)
_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "fatal": 50}
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
        level = "debug" if parsed.flag("debug") else parsed.text("log-level", "info")
        if level not in _LEVELS:
            raise UsageError(f"--log-level {level!r} is not one of {', '.join(_LEVELS)}")
    except HelpRequested:
        sys.stdout.write(help_text("engine [OPTIONS]", _SUMMARY, FLAGS))
        return 0
    except UsageError as error:
        sys.stderr.write(f"berth engine: {error}\n\nRun 'berth engine --help' for the options\n")
        return 125
    logging.basicConfig(
        level=_LEVELS[level], stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        options = Options(
            data_root=parsed.text("data-root", "/var/lib/berth"), exec_root=parsed.text("exec-root", "/run/berth"),
            hosts=parsed.list("host"), pidfile=parsed.text("pidfile"), log_level=level,
            userns_remap=parsed.text("userns-remap"), default_runtime=parsed.text("default-runtime", "berth"),
            add_runtime=parsed.list("add-runtime"), init_path=parsed.text("init-path"), group=parsed.text("group"),
            tls=parsed.flag("tls") if parsed.given("tls") else None, tlsverify=parsed.flag("tlsverify"),
            tlscacert=parsed.text("tlscacert"), tlscert=parsed.text("tlscert"), tlskey=parsed.text("tlskey"),
        )  # fmt: skip
        from berth.api.server import serve

        asyncio.run(serve(options, parsed.number("ready-fd", -1)))
    except BaseExceptionGroup as group:
        return _report([error for error in group.exceptions if not isinstance(error, asyncio.CancelledError)])
    except (BerthError, OSError) as error:
        return _report([error])
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    return 0


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
