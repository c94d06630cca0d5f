"""`--log-driver` and `--log-opt`: checked in Docker's words, and turned into what a monitor needs to know. Pure but for stat.

Docker checks the names of options when a container is made and most values only when it starts; here
all of them are checked at once, with the same texts.
"""

import os
import re
import time

from berth.engine.state import Record
from berth.errors import InvalidParameter, NotImplementedHere
from berth.models import gotemplate

DEFAULT_DRIVER = "json-file"
DRIVERS = ("journald", "json-file", "local", "none", "syslog")
FILE_DRIVERS = ("json-file", "local")

# Docker's json-file grows without end unless told otherwise; ours turns, so that no log fills a disk.
_DEFAULT_MAX_BYTES, _DEFAULT_MAX_FILES = 20_000_000, 5
_MAX_FILES = 1000

_ATTRIBUTES = {"labels", "labels-regex", "env", "env-regex", "tag"}
_CACHE = "cache-"
_EVERYWHERE = {"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
_OPTIONS = {
    "json-file": _ATTRIBUTES | {"max-size", "max-file", "compress"},
    "local": {"max-size", "max-file", "compress"},
    "journald": _ATTRIBUTES,
    "syslog": _ATTRIBUTES | {
        "syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key",
        "syslog-tls-skip-verify",
    },
}  # fmt: skip
_UNKNOWN = {"local": "unknown log opt '{}' for log driver local"}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgGtTpP]?)[iI]?[bB]?")
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_FACILITIES = {
    name: number for number, name in enumerate(
        "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp".split()
    )
} | {f"local{number}": 16 + number for number in range(8)}  # fmt: skip
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_SCHEMES = ("tcp", "udp", "unix", "unixgram", "tcp+tls")
_MAX_TAG_CHARACTERS = 1024
_SHORT = 12


def checked(config: dict | None) -> dict:
    """A request's LogConfig with its defaults filled in; InvalidParameter for what no driver takes."""
    driver = (config or {}).get("Type") or DEFAULT_DRIVER
    options = (config or {}).get("Config") or {}
    if not isinstance(driver, str) or not isinstance(options, dict) or not all(isinstance(v, str) for v in options.values()):
        raise InvalidParameter("invalid JSON: HostConfig.LogConfig: expected a Type and a Config of strings")
    if driver not in DRIVERS:
        raise InvalidParameter(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    if driver == "none":
        return {"Type": driver, "Config": options}
    _check_mode(options)
    if options.get("cache-disabled", "") not in ("", *_TRUE, *_FALSE):
        raise InvalidParameter(f"invalid value for option cache-disabled: {options['cache-disabled']}")
    for key in options:
        if key not in _OPTIONS[driver] | _EVERYWHERE:
            raise InvalidParameter(_UNKNOWN.get(driver, f"unknown log opt '{{}}' for {driver} log driver").format(key))
    if driver == "syslog":
        syslog_address(options.get("syslog-address", ""))
        syslog_facility(options.get("syslog-facility", ""))
        if options.get("syslog-format", "") not in _FORMATS:
            raise InvalidParameter("Invalid syslog format")
    try:
        file_limits(driver, options)
        _cache_limits(options)
        _check_tag(options.get("tag", ""))
        for key in ("labels-regex", "env-regex"):
            _pattern(options.get(key, ""))
    except InvalidParameter as error:
        raise InvalidParameter(f"failed to initialize logging driver: {error}") from None
    return {"Type": driver, "Config": options}


def _check_mode(options: dict[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            size_bytes(options["max-buffer-size"])
        except InvalidParameter as error:
            raise InvalidParameter(f"error parsing option max-buffer-size: {error}") from None


def driver_of(record: Record) -> str:
    """The name of a container's log driver."""
    return (record.host.get("LogConfig") or {}).get("Type") or DEFAULT_DRIVER


def kept_as(record: Record) -> str:
    """The driver in whose format a container's log is here: `local` for the copy of one that is sent away; '' for none."""
    driver = driver_of(record)
    options = (record.host.get("LogConfig") or {}).get("Config") or {}
    if driver in FILE_DRIVERS:
        return driver
    return "" if driver == "none" or options.get("cache-disabled") in _TRUE else "local"


def path_of(record: Record, directory: str) -> str:
    """Where a container's log is; '' where none is kept here."""
    if driver_of(record) in FILE_DRIVERS:
        return f"{directory}/{record.id}-json.log" if driver_of(record) == "json-file" else f"{directory}/container.log"
    return f"{directory}/container-cached.log" if kept_as(record) else ""


def message(record: Record, directory: str) -> dict | None:
    """The `log` of the launcher's message, see runtime.logdrivers; None for no log."""
    driver = driver_of(record)
    if driver == "none":
        return None
    options = (record.host.get("LogConfig") or {}).get("Config") or {}
    found: dict = {"driver": driver, "attrs": attributes(record)}
    if driver in FILE_DRIVERS:
        return found | _file(path_of(record, directory), file_limits(driver, options))
    if kept_as(record):
        found["copy"] = _file(path_of(record, directory), _cache_limits(options))
    found |= {"tag": _tag(options.get("tag") or "{{.ID}}", record), "waits": options.get("mode") != "non-blocking"}
    if driver == "journald":
        fields = {
            "CONTAINER_ID": record.id[:_SHORT], "CONTAINER_ID_FULL": record.id, "CONTAINER_NAME": record.name,
            "IMAGE_NAME": record.image_name, "CONTAINER_TAG": found["tag"], "SYSLOG_IDENTIFIER": found["tag"],
        }  # fmt: skip
        return found | {"fields": {_journal_name(k): v for k, v in found["attrs"].items() if k != "tag"} | fields}
    scheme, address = syslog_address(options.get("syslog-address", ""))
    tls = {key.removeprefix("syslog-tls-"): value for key, value in options.items() if key.startswith("syslog-tls-")}
    return found | {
        "scheme": scheme, "address": address, "facility": syslog_facility(options.get("syslog-facility", "")),
        "format": options.get("syslog-format", ""), "tls": tls, "host": os.uname().nodename,
    }  # fmt: skip


# -- files ------------------------------------------------------------------------------------------


def size_bytes(text: str, unit: int = 1000) -> int:
    """`20m`, `1.5 GB`: what Docker's units package reads; InvalidParameter in its words."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(found[1]) * unit ** (" kmgtp".index(found[2].lower() or " ")))


def _file(path: str, limits: tuple[int, int, bool]) -> dict:
    return {"path": path, "max_bytes": limits[0], "max_files": limits[1], "compress": limits[2]}


def _cache_limits(options: dict[str, str]) -> tuple[int, int, bool]:
    """Of the copy that is kept of what is sent away."""
    return file_limits("local", {key.removeprefix(_CACHE): value for key, value in options.items() if key.startswith(_CACHE)})


def file_limits(driver: str, options: dict[str, str]) -> tuple[int, int, bool]:
    """Bytes of a file (0: without end), number of files, whether older ones are compressed."""
    if driver not in FILE_DRIVERS:
        return 0, 1, False
    max_bytes = _max_size(driver, options["max-size"]) if "max-size" in options else _DEFAULT_MAX_BYTES
    # As with Docker, who gives json-file a size and no number gets one file.
    max_files = _DEFAULT_MAX_FILES if driver == "local" or "max-size" not in options else 1
    if "max-file" in options:
        text = options["max-file"]
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
        max_files = int(text)
        if max_files < 1:
            raise InvalidParameter("max-file cannot be less than 1")
        if max_files > _MAX_FILES:
            raise InvalidParameter(f"max-file cannot be more than {_MAX_FILES}, got {text}")
    compress = _flag(driver, options["compress"]) if "compress" in options else driver == "local"
    if compress and (max_files == 1 or not max_bytes):
        if driver == "local":
            raise InvalidParameter("compression cannot be enabled when max file count is 1")
        raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
    return max_bytes, max_files, compress


def _max_size(driver: str, text: str) -> int:
    if text == "-1":
        return 0
    try:
        size = size_bytes(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid value for max-size: {text}: {error}" if driver == "local" else str(error)) from None
    if size <= 0:
        raise InvalidParameter("max-size must be a positive number")
    return size


def _flag(driver: str, text: str) -> bool:
    if text not in _TRUE + _FALSE:
        words = f'strconv.ParseBool: parsing "{text}": invalid syntax'
        raise InvalidParameter(f"error reading compress log option: {words}" if driver == "local" else words)
    return text in _TRUE


# -- attributes -------------------------------------------------------------------------------------


def attributes(record: Record) -> dict[str, str]:
    """What `labels`, `env` and `tag` put beside each line."""
    found = _chosen(record)
    tag = ((record.host.get("LogConfig") or {}).get("Config") or {}).get("tag")
    return found | {"tag": _tag(tag, record)} if tag else found


def _chosen(record: Record) -> dict[str, str]:
    """Labels and variables that the options name."""
    options = (record.host.get("LogConfig") or {}).get("Config") or {}
    labels = record.config.get("Labels") or {}
    environment = dict(item.split("=", 1) for item in record.config.get("Env") or [] if "=" in item)
    found: dict[str, str] = {}
    for key, values in (("labels", labels), ("env", environment)):
        names = [name for name in options.get(key, "").split(",") if name]
        pattern = _pattern(options.get(f"{key}-regex", ""))
        found |= {k: v for k, v in values.items() if k in names or (pattern and pattern.search(k))}
    return found


def _pattern(text: str) -> "re.Pattern[str] | None":
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InvalidParameter(f"error parsing regexp: {error.msg}: `{text}`") from None


def _tag(template: str, record: Record) -> str:
    """A tag's text: Go's template over what Docker's logging drivers know of a container."""
    try:
        return gotemplate.Template(template).render(_tag_fields(record)) if "{{" in template else template
    except gotemplate.TemplateError as error:
        raise InvalidParameter(f"failed to initialize logging driver: {_worded(error)}") from None


def _check_tag(template: str) -> None:
    """Its form, and the names of its fields; what its functions make of a container's values shows when it starts."""
    if len(template) > _MAX_TAG_CHARACTERS:
        raise InvalidParameter(f"tag: {len(template)} characters; a template has at most {_MAX_TAG_CHARACTERS}")
    if "{{" not in template:
        return
    nobody = Record("0" * 64, "", f"sha256:{'0' * 64}", "", {}, {})
    try:
        gotemplate.Template(template).render(_tag_fields(nobody))
    except (gotemplate.UnknownField, gotemplate.ParseError) as error:
        raise InvalidParameter(_worded(error)) from None
    except gotemplate.TemplateError:
        pass


def _worded(error: gotemplate.TemplateError) -> str:
    text = str(error).removeprefix("template parsing error: ").removeprefix("template: ").removeprefix("wrong arguments: ")
    return f"template: log-tag:1: {text}"


def _tag_fields(record: Record) -> dict[str, object]:
    """moby's logger.Info: its methods and fields, by name."""
    options = (record.host.get("LogConfig") or {}).get("Config") or {}
    command = [*(record.config.get("Entrypoint") or []), *(record.config.get("Cmd") or [])]
    created_ns = record.created_ns

    def extra(_: object = None) -> gotemplate.Map:
        return gotemplate.Map(_chosen(record))

    return {
        "ID": record.id[:_SHORT], "FullID": record.id, "Name": record.name, "ImageID": record.image_id[:_SHORT],
        "ImageFullID": record.image_id, "ImageName": record.image_name, "DaemonName": "docker", "Hostname": os.uname().nodename,
        "Command": " ".join(command), "ExtraAttributes": extra, "Config": gotemplate.Map(options),
        "ContainerID": record.id, "ContainerName": f"/{record.name}", "ContainerEntrypoint": command[0] if command else "",
        "ContainerArgs": command[1:], "ContainerImageID": record.image_id, "ContainerImageName": record.image_name,
        "ContainerCreated": _go_time(created_ns), "ContainerEnv": record.config.get("Env") or [],
        "ContainerLabels": gotemplate.Map(record.config.get("Labels") or {}), "LogPath": "",
    }  # fmt: skip


def _go_time(at_ns: int) -> str:
    """As Go prints a time."""
    fraction = f".{at_ns % 10**9:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ns // 10**9)) + f"{fraction} +0000 UTC"


def _journal_name(key: str) -> str:
    """journald takes capitals, digits and underscores; none may come first."""
    return re.sub(r"[^A-Z0-9_]", "_", key.upper()).lstrip("_0123456789")[:64] or "ATTRIBUTE"


# -- syslog -----------------------------------------------------------------------------------------


def syslog_facility(text: str) -> int:
    """A name or a number; `daemon` where there is none."""
    if not text:
        return _FACILITIES["daemon"]
    number = int(text) if re.fullmatch(r"[0-9]{1,2}", text) else _FACILITIES.get(text, -1)
    if not 0 <= number <= 23:
        raise InvalidParameter("invalid syslog facility")
    return number


def syslog_address(text: str) -> tuple[str, str]:
    """Scheme, and a path or HOST:PORT; ('', '') for this host's own syslog."""
    if not text:
        return "", ""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise InvalidParameter(f"syslog-address should be in form proto://address, got {text}")
    if scheme.startswith("unix"):
        if not os.path.exists(rest):
            raise InvalidParameter(f"stat {rest}: no such file or directory")
        return scheme, rest
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest.rstrip("/"), "6514" if scheme == "tcp+tls" else "514"
    if not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise InvalidParameter(f'parse "{text}": invalid port ":{port}" after host')
    return scheme, f"{host}:{port}"


def unreadable() -> NotImplementedHere:
    """What `logs` of a container whose log is not kept here is told."""
    return NotImplementedHere("configured logging driver does not support reading")
