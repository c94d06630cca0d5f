"""`berth engine`: runs the engine in the foreground. Not on the CLI's fast path: it may import all."""

import asyncio
import logging
import os
import sys
import time

from berth.cli.engine_flags import FLAGS, SYNTAX
from berth.cli.engine_settings import OTHER_FLAGS, options_of
from berth.cli.flags import HelpRequested, Syntax, UsageError
from berth.cli.helping import page, wrong_line
from berth.engine.config_values import LOG_LEVELS
from berth.engine.options import Options, find_runtimes, id_mappings
from berth.errors import BerthError

log = logging.getLogger("berth.engine")


def main(words: list[str]) -> int:
    """Exit code of `berth engine WORDS`."""
    try:
        parsed = Syntax("[OPTIONS]", FLAGS + OTHER_FLAGS, at_most=0).parse(words, "engine")
    except HelpRequested:
        sys.stdout.write(page("engine", "engine", SYNTAX["engine"]))
        return 0
    except UsageError as error:
        sys.stderr.write(wrong_line(error, "engine", "engine") + "\n")
        return error.code
    try:
        options, notes = options_of(parsed)
        if parsed.flag("validate"):
            _validate(options)
            sys.stderr.write("".join(f"{note}\n" for note in notes) + "configuration OK\n")
            return 0
        _start_log(options)
        for note in notes:
            log.warning("%s", note)
        from berth.api.server import serve

        asyncio.run(serve(options, parsed.number("ready-fd", -1), lambda: options_of(parsed)))
    except BaseExceptionGroup as group:
        return _report([error for error in group.exceptions if not isinstance(error, asyncio.CancelledError)])
    except (BerthError, OSError) as error:
        return _report([error])
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    return 0


def _start_log(options: Options) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if options.log_format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=LOG_LEVELS[options.log_level], handlers=[handler])


class _JsonLines(logging.Formatter):
    """--log-format json: level, msg and time, as dockerd's."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        now = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.created % 1 * 1e9):09d}Z"
        level = record.levelname.lower().replace("critical", "fatal")
        text = record.getMessage() + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")
        return json.dumps({"level": level, "msg": text, "time": now})


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
