"""daemon.json: the keys of dockerd's. Reading tells all mistakes at once; the rest is pure.

A key is named as its flag, or as the plural of it (`hosts`, `labels`). One that is given in both places is
an error, as it is for dockerd: nobody could say which counts.
"""

import json
from typing import Any

from berth.engine import config_values as check
from berth.engine import logconfig
from berth.engine.builds import settings
from berth.engine.config_other import CHECKS
from berth.engine.config_values import Check, Mistake
from berth.engine.nets import settings as netsettings
from berth.errors import InvalidParameter

DEFAULT_PATH = "/etc/berth/daemon.json"
# key -> the flag, where it has another name
FLAG_NAMES = {
    "hosts": "host", "labels": "label", "runtimes": "add-runtime", "log-opts": "log-opt", "dns-opts": "dns-opt", "exec-opts": "exec-opt",
    "default-ulimits": "default-ulimit", "registry-mirrors": "registry-mirror", "insecure-registries": "insecure-registry",
    "authorization-plugins": "authorization-plugin", "storage-opts": "storage-opt", "node-generic-resources": "node-generic-resource",
    "default-address-pools": "default-address-pool", "default-network-opts": "default-network-opt", "cdi-spec-dirs": "cdi-spec-dir",
    "features": "feature", "host-gateway-ips": "host-gateway-ip",
}  # fmt: skip
_MAX_FILE_BYTES = 1 << 20


def read(path: str, *, must_exist: bool, flags: dict[str, Any]) -> dict[str, Any]:
    """The file's settings by key. flags: values of the command line by long name. InvalidParameter lists all that is wrong."""
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


def parse(data: bytes, flags: dict[str, Any]) -> dict[str, Any]:
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
    problems += [_unknown(key) for key in value if key not in _CHECKS]
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key in _CHECKS:
            try:
                found[key] = _CHECKS[key](item)
            except Mistake as mistake:
                problems.append(f"{key}: {json.dumps(item)[:200]} {mistake}")
    problems += _given_twice(value, flags) + _contradictions(found, flags)
    if problems:
        raise InvalidParameter("\n  ".join(["", *problems]) if len(problems) > 1 else problems[0])
    return found


def _given_twice(value: dict[str, Any], flags: dict[str, Any]) -> list[str]:
    """In dockerd's words, values as Go writes them."""
    value = {**value, **(value["proxies"] if isinstance(value.get("proxies"), dict) else {})}
    both = sorted(key for key in value if FLAG_NAMES.get(key, key) in flags)
    if not both:
        return []
    found = {key: (flags[FLAG_NAMES.get(key, key)], value[key]) for key in both}
    rows = [f"{key}: (from flag: {_go(flag)}, from file: {_go(there)})" for key, (flag, there) in found.items()]
    return [f"the following directives are specified both as a flag and in the configuration file: {', '.join(rows)}"]


def _go(value: object) -> str:
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_go(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_go, value))}]"
    if isinstance(value, str):
        return check.masked(value)
    return str(value).lower() if isinstance(value, bool) else "<nil>" if value is None else str(value)


def _contradictions(found: dict[str, Any], flags: dict[str, Any]) -> list[str]:
    """Values that are right by themselves and not together."""
    problems = [f"{key}: is given beside proxies, too" for key in found.get("proxies", {}) if key in found]
    if found.get("default-runtime") and "add-runtime" not in flags and "runtimes" in found:
        name = found["default-runtime"]
        if name not in (*found["runtimes"], "berth", "runc", "crun"):
            problems.append(f'default-runtime: "{name}" is not one of berth, {", ".join(found["runtimes"])}')
    if not {"log-driver", "log-opt"} & set(flags):
        problems += log_problems(found)
    return problems


def log_problems(settings: dict[str, Any]) -> list[str]:
    """Of the log that new containers get; dockerd finds some of it when the first of them starts."""
    try:
        logconfig.checked({"Type": settings.get("log-driver") or "", "Config": settings.get("log-opts") or {}})
    except InvalidParameter as error:
        return [f"log-driver and log-opts: {error}"]
    return []


def _unknown(key: str) -> str:
    import difflib

    close = difflib.get_close_matches(key, _CHECKS, 1)
    return f"the following directives don't match any configuration option: {key}" + (f" (did you mean {close[0]}?)" if close else "")


KEYS: dict[str, Check] = {
    "data-root": check.path, "exec-root": check.path, "hosts": check.hosts, "pidfile": check.path, "log-level": check.level,
    "log-format": check.one_of("text", "json"), "debug": check.boolean, "userns-remap": check.string, "default-runtime": check.string,
    "runtimes": check.runtimes, "init-path": check.path, "group": check.string, "tls": check.boolean, "tlsverify": check.boolean,
    "tlscacert": check.path, "tlscert": check.path, "tlskey": check.path, "labels": check.labels, "metrics-addr": check.string,
    "live-restore": check.boolean, "shutdown-timeout": check.seconds, "storage-driver": check.one_of("overlay2"),
    "exec-opts": check.exec_opts, "init": check.boolean, "default-shm-size": check.size_bytes, "default-ulimits": check.ulimits,
    "no-new-privileges": check.boolean, "cgroup-parent": check.string, "default-ipc-mode": check.one_of("private", "shareable"),
    "default-cgroupns-mode": check.one_of("private", "host"), "log-driver": check.string, "log-opts": check.string_map,
    "seccomp-profile": check.seccomp_profile, "dns": check.addresses, "dns-opts": check.strings, "dns-search": check.strings,
    "registry-mirrors": check.mirrors, "insecure-registries": check.insecure_registries,
    "allow-nondistributable-artifacts": check.registries,
    "http-proxy": check.proxy, "https-proxy": check.proxy, "no-proxy": check.string, "proxies": check.proxies,
    "max-concurrent-downloads": check.whole_number, "max-concurrent-uploads": check.whole_number,
    "max-download-attempts": check.positive_number,
    **dict.fromkeys(("icc", "ip-forward", "ip-forward-no-drop", "ip-masq", "ipv6", "userland-proxy"), check.boolean), "bridge": netsettings.interface,
    **dict.fromkeys(("bip", "bip6", "fixed-cidr", "fixed-cidr-v6"), check.subnet),
    **dict.fromkeys(("default-gateway", "default-gateway-v6", "ip"), check.address), "host-gateway-ip": check.address, "host-gateway-ips": check.addresses,
    "mtu": check.whole_number, "default-address-pools": netsettings.address_pools, "default-network-opts": netsettings.network_options,
    "builder": settings.settings, "experimental": check.boolean, "published-ports": check.one_of("checked", "direct"),
}  # fmt: skip
_CHECKS: dict[str, Check] = KEYS | CHECKS


# -- what new containers get where their request says nothing ----------------------------------------------------


def container_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are HostConfig's fields."""
    names = {
        "init": "Init", "default-shm-size": "ShmSize", "default-ulimits": "Ulimits", "no-new-privileges": "NoNewPrivileges",
        "cgroup-parent": "CgroupParent", "default-ipc-mode": "IpcMode", "default-cgroupns-mode": "CgroupnsMode",
        "dns": "Dns", "dns-opts": "DnsOptions", "dns-search": "DnsSearch",
    }  # fmt: skip
    found = {names[key]: value for key, value in settings.items() if key in names and value not in ("", [])}
    if settings.get("seccomp-profile", {"name": "builtin"})["name"] != "builtin":
        found["Seccomp"] = settings["seccomp-profile"]["option"]
    if settings.get("log-driver") or settings.get("log-opts"):
        found["LogConfig"] = {"Type": settings.get("log-driver", "json-file"), "Config": settings.get("log-opts", {})}
    return found


def with_defaults(host: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A request's HostConfig and what it leaves open."""
    found = dict(host)
    for key, value in defaults.items():
        if key == "NoNewPrivileges":
            options = found.get("SecurityOpt") or []
            if value and not any(option.startswith("no-new-privileges") for option in options):
                found["SecurityOpt"] = [*options, "no-new-privileges"]
        elif key == "Seccomp":
            options = found.get("SecurityOpt") or []
            if not host.get("Privileged") and not any(option.startswith(("seccomp=", "seccomp:")) for option in options):
                found["SecurityOpt"] = [*options, f"seccomp={value}"]
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
