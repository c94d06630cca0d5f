"""Which driver takes a container's output: from the `log` of a launcher's message, which engine.logconfig writes."""

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
        file = _file(settings)
        if driver == "local":
            return locallog.LocalLog(file)
        attrs = settings["attrs"]
        text = ""
        if attrs:
            import json  # what it brings along would be memory of every monitor

            # As Go writes it: sorted, no spaces.
            text = json.dumps(attrs, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return jsonlog.JsonLog(file, text)
    # Imported by the few monitors that need them: all others share what the launcher has.
    from berth.runtime import journald, syslog

    sent = (syslog.SyslogLog if driver == "syslog" else journald.JournaldLog)(settings)
    try:
        return CopiedLog(_file(settings["copy"]), sent) if "copy" in settings else sent
    except OSError:
        return sent  # a full disk keeps no container from starting; it has no copy then


def _file(settings: dict) -> LogFile:
    return LogFile(settings["path"], settings["max_bytes"], settings["max_files"], compress=settings["compress"])


class CopiedLog(locallog.LocalLog):
    """A log that is sent away, and kept here as by the driver `local`, so that `logs` has something to read."""

    __slots__ = ("_sent",)

    def __init__(self, file: LogFile, sent: jsonlog.Lines) -> None:
        super().__init__(file)
        self._sent = sent

    def _put(self, stream: str, batch: bytes, now_ns: int) -> None:
        super()._put(stream, batch, now_ns)
        self._sent._put(stream, batch, now_ns)

    def close(self) -> None:
        super().close()
        self._sent.close()


def _reason(error: OSError) -> str:
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
