"""Which driver takes a container's output: from the `log` of a launcher's message, which engine.logconfig writes."""

import json

from berth import errors
from berth.runtime import jsonlog, locallog
from berth.runtime.logfile import LogFile

FILE_DRIVERS = ("json-file", "local")


def open_log(settings: dict | None) -> jsonlog.Lines | None:
    """The driver that a message describes; None for `none`. Raises SystemFailure in Docker's words."""
    if settings is None:
        return None
    try:
        return _open(settings)
    except OSError as error:
        raise errors.SystemFailure(f"failed to initialize logging driver: {_reason(error)}") from error


def _open(settings: dict) -> jsonlog.Lines:
    driver = settings["driver"]
    if driver in FILE_DRIVERS:
        file = LogFile(settings["path"], settings["max_bytes"], settings["max_files"], compress=settings["compress"])
        if driver == "local":
            return locallog.LocalLog(file)
        attrs = settings["attrs"]
        # As Go writes it: sorted, no spaces.
        text = json.dumps(attrs, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if attrs else ""
        return jsonlog.JsonLog(file, text)
    # Imported by the few monitors that need them: all others share what the launcher has.
    from berth.runtime import journald, syslog

    return (syslog.SyslogLog if driver == "syslog" else journald.JournaldLog)(settings)


def _reason(error: OSError) -> str:
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
