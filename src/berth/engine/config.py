"""daemon.json: the keys of dockerd's that berth honours. Reading tells all mistakes at once; the rest is pure.

A key is named as its flag, or as the plural of it (`hosts`, `labels`). One that is given in both places is
an error, as it is for dockerd: nobody could say which counts.
"""

import json
from collections.abc import Callable
from typing import Any

from berth.errors import InvalidParameter

DEFAULT_PATH = "/etc/berth/daemon.json"
LOG_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "fatal": 50}
# key -> the flag, where it has another name
_FLAGS = {"hosts": "host", "labels": "label", "runtimes": "add-runtime"}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_FILE_BYTES = 1 << 20

# Docker's, which berth cannot honour yet: told apart from slips of the pen.
_DOCKERS = """
allow-nondistributable-artifacts api-cors-header authorization-plugins bip bridge builder cdi-spec-dirs containerd
containerd-namespace containerd-plugin-namespace cpu-rt-period cpu-rt-runtime default-address-pools
default-gateway default-gateway-v6 default-network-opts dns dns-opts dns-search  experimental features fixed-cidr
fixed-cidr-v6 graph host-gateway-ip host-gateway-ips http-proxy https-proxy icc insecure-registries ip ip-forward
ip-forward-no-drop ip-masq ip6tables iptables ipv6 max-concurrent-downloads max-concurrent-uploads max-download-attempts mtu
network-control-plane-mtu no-proxy node-generic-resources oom-score-adjust proxies raw-logs registry-mirrors
seccomp-profile selinux-enabled storage-opts swarm-default-advertise-addr userland-proxy userland-proxy-path validate
""".split()


class Mistake(ValueError):
    """What is wrong with a value, to follow the key and the value."""


def read(path: str, *, must_exist: bool, flags: set[str]) -> dict[str, Any]:
    """The file's settings by key. flags: long names given on the command line. InvalidParameter lists all that is wrong."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if must_exist:
            raise InvalidParameter(f"--config-file {path}: No such file or directory") from None
        return {}
    except OSError as error:
        raise InvalidParameter(f"--config-file {path}: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise InvalidParameter(f"--config-file {path}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        return parse(data, flags)
    except InvalidParameter as error:
        raise InvalidParameter(f"unable to configure the engine with file {path}: {error}") from None


def parse(data: bytes, flags: set[str]) -> dict[str, Any]:
    """The same of the file's bytes."""
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(items)

    try:
        value = json.loads(data, object_pairs_hook=pairs) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidParameter("invalid JSON: expected an object")
    problems = [f"{name}: is there more than once" for name in twice]
    unknown = [key for key in value if key not in KEYS]
    problems += [_unknown(key) for key in unknown]
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key in KEYS:
            try:
                found[key] = KEYS[key](item)
            except Mistake as mistake:
                problems.append(f"{key}: {json.dumps(item)[:200]} {mistake}")
    both = [key for key in value if _FLAGS.get(key, key) in flags]
    if both:
        problems.append(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(f"{key} (from file: {json.dumps(value[key])[:200]})" for key in both)
        )
    if found.get("default-runtime") and "add-runtime" not in flags and "runtimes" in found:
        name = found["default-runtime"]
        if name not in (*found["runtimes"], "berth", "runc", "crun"):
            problems.append(f'default-runtime: "{name}" is not one of berth, {", ".join(found["runtimes"])}')
    if problems:
        raise InvalidParameter("\n  ".join(["", *problems]) if len(problems) > 1 else problems[0])
    return found


def _unknown(key: str) -> str:
    if key in _DOCKERS:
        return f"{key}: this version of berth does not honour it; remove it"
    import difflib

    close = difflib.get_close_matches(key, KEYS, 1)
    return f"the following directives don't match any configuration option: {key}" + (f" (did you mean {close[0]}?)" if close else "")


# -- values ---------------------------------------------------------------------------------------------------


def _string(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Mistake("is not a string")
    return value


def _path(value: object) -> str:
    text = _string(value)
    if not text.startswith("/"):
        raise Mistake("is not an absolute path")
    return text


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise Mistake("is not true or false")
    return value


def _seconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 1 << 31:
        raise Mistake("is not a number of seconds")
    return value


def _level(value: object) -> str:
    text = _string(value)
    if text not in LOG_LEVELS:
        raise Mistake(f"is not one of {', '.join(LOG_LEVELS)}")
    return text


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Mistake("is not a list of strings")
    return value


def _hosts(value: object) -> list[str]:
    for item in _strings(value):
        if not item.startswith(("unix:///", "tcp://", "fd://")):
            raise Mistake(f"has {json.dumps(item)}: expected unix:///path, tcp://host:port or fd://")
    return _strings(value)


def labels(value: object) -> list[str]:
    """`key=value` each, every key once."""
    seen: dict[str, str] = {}
    for item in _strings(value):
        key, equals, text = item.partition("=")
        if not key or not equals:
            raise Mistake(f"has {json.dumps(item)}: expected key=value")
        if seen.setdefault(key, text) != text:
            raise Mistake(f"has two values for {key}")
    return list(dict.fromkeys(_strings(value)))


def _runtimes(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Mistake("is not an object")
    found = {}
    for name, entry in value.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
            raise Mistake(f'has no "path" for {json.dumps(name)}')
        more = [key for key in entry if key != "path" and entry[key]]
        if more:
            raise Mistake(f"has {json.dumps(more[0])} for {json.dumps(name)}: this version of berth takes the path alone")
        found[name] = entry["path"]
    return found


def size_bytes(value: object) -> int:
    """67108864, "64m", "64MiB"."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        text = _string(value).strip().lower()
        digits = text.rstrip("kmgtib")
        unit = text[len(digits) :].removesuffix("ib").removesuffix("b") if text != digits else ""
        if not (digits.isascii() and digits.isdigit() and unit in _UNITS and len(digits) < 20):
            raise Mistake('is not a size such as "64m"')
        number = int(digits) * _UNITS[unit]
    if not 0 < number < 1 << 62:
        raise Mistake("is not a size above 0")
    return number


def _ulimits(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        raise Mistake("is not an object")
    found = []
    for name, limit in value.items():
        numbers = [limit.get(key) for key in ("Soft", "Hard")] if isinstance(limit, dict) else []
        if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise Mistake(f'has no {{"Soft": NUMBER, "Hard": NUMBER}} for {json.dumps(name)}')
        found.append({"Name": name, "Soft": numbers[0], "Hard": numbers[1]})
    return found


def _string_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise Mistake("is not an object of strings")
    return value


def _one_of(*words: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in words:
            raise Mistake(f"is not one of {', '.join(words)}")
        return str(value)

    return check


def _exec_opts(value: object) -> list[str]:
    for item in _strings(value):
        if item != "native.cgroupdriver=cgroupfs":
            raise Mistake(f"has {json.dumps(item)}: this version of berth has native.cgroupdriver=cgroupfs alone")
    return _strings(value)


KEYS: dict[str, Callable[[object], Any]] = {
    "data-root": _path, "exec-root": _path, "hosts": _hosts, "pidfile": _path, "log-level": _level, "debug": _bool,
    "userns-remap": _string, "default-runtime": _string, "runtimes": _runtimes, "init-path": _path, "group": _string,
    "tls": _bool, "tlsverify": _bool, "tlscacert": _path, "tlscert": _path, "tlskey": _path, "labels": labels,
    "metrics-addr": _string, "live-restore": _bool, "shutdown-timeout": _seconds, "storage-driver": _one_of("overlay2"),
    "exec-opts": _exec_opts, "init": _bool, "default-shm-size": size_bytes, "default-ulimits": _ulimits,
    "no-new-privileges": _bool, "cgroup-parent": _string, "default-ipc-mode": _one_of("private", "shareable"),
    "default-cgroupns-mode": _one_of("private", "host"), "log-driver": _string, "log-opts": _string_map,
}  # fmt: skip


# -- what new containers get where their request says nothing ----------------------------------------------------


def container_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are HostConfig's fields."""
    names = {
        "init": "Init", "default-shm-size": "ShmSize", "default-ulimits": "Ulimits", "no-new-privileges": "NoNewPrivileges",
        "cgroup-parent": "CgroupParent", "default-ipc-mode": "IpcMode", "default-cgroupns-mode": "CgroupnsMode",
    }  # fmt: skip
    found = {names[key]: value for key, value in settings.items() if key in names and value not in ("", [])}
    if settings.get("log-driver") or settings.get("log-opts"):
        found["LogConfig"] = {"Type": settings.get("log-driver", "json-file"), "Config": settings.get("log-opts", {})}
    return found


def with_defaults(host: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A request's HostConfig and what it leaves open."""
    found = dict(host)
    for key, value in defaults.items():
        if key == "NoNewPrivileges":
            options = host.get("SecurityOpt") or []
            if value and not any(option.startswith("no-new-privileges") for option in options):
                found["SecurityOpt"] = [*options, "no-new-privileges"]
        elif key == "Ulimits":
            given = host.get("Ulimits") or []
            found["Ulimits"] = [*given, *(limit for limit in value if limit["Name"] not in {each.get("Name") for each in given})]
        elif key == "LogConfig":
            log = host.get("LogConfig") or {}
            if (log.get("Type") or value["Type"]) == value["Type"]:
                found["LogConfig"] = {"Type": value["Type"], "Config": {**value["Config"], **(log.get("Config") or {})}}
        elif key == "Init":
            found.setdefault("Init", value)
        elif key == "CgroupnsMode" and host.get("Privileged"):
            continue
        else:
            found[key] = host.get(key) or value
    return found

