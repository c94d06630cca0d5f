"""Flags of `run` and `create` -> the body of POST /containers/create. Pure, but for --env-file and profiles."""

import os

from berth.cli import mountspec, netflags
from berth.cli.flags import Parsed, Refused, UsageError, wrong_value
from berth.cli.ports import ports
from berth.cli.runflags import CREATE_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}

_HEALTH_TIMES = (
    ("health-interval", "Interval"), ("health-timeout", "Timeout"), ("health-start-period", "StartPeriod"),
    ("health-start-interval", "StartInterval"),
)  # fmt: skip


def _wrong(flag: str, text: str, why: str) -> UsageError:
    """A value that a flag cannot have; flag: with its dashes."""
    return wrong_value(next(entry for entry in CREATE_FLAGS if f"--{entry[0]}" == flag), text, why)


def size_bytes(text: str, flag: str) -> int:
    """`512m`, `1.5GiB`, `-1` -> bytes, as Docker reads them (powers of 1024)."""
    lower = text.strip().lower()
    number = lower.rstrip("kmgtpib")
    unit = lower[len(number) :].removesuffix("ib").removesuffix("b")
    try:
        if unit not in _UNITS:
            raise ValueError
        return int(float(number) * _UNITS[unit])
    except ValueError:
        raise _wrong(flag, text, f"invalid size: '{text}'; write e.g. 512m or 2g") from None


def container_config(parsed: Parsed) -> "dict[str, Any]":
    """Config, with HostConfig inside."""
    image, command = parsed.arguments[0], parsed.arguments[1:]
    stdin, attach = parsed.flag("interactive"), [name.lower() for name in parsed.list("attach")]
    for name in attach:
        if name not in ("stdin", "stdout", "stderr"):
            raise _wrong("--attach", name, "valid streams are STDIN, STDOUT and STDERR")
    foreground = not parsed.flag("detach")
    mode, endpoints = netflags.networks(parsed)
    exposed, bindings = ports(parsed.list("publish"), parsed.list("expose"))
    binds, volumes = mountspec.volumes(parsed.list("volume"))
    config: dict[str, Any] = {
        "Image": image, "Cmd": command or None, "Hostname": parsed.text("hostname"),
        "Domainname": parsed.text("domainname"), "User": parsed.text("user"), "Tty": parsed.flag("tty"),
        "OpenStdin": stdin, "StdinOnce": stdin and foreground,
        "AttachStdin": stdin and foreground and (not attach or "stdin" in attach),
        "AttachStdout": foreground and (not attach or "stdout" in attach),
        "AttachStderr": foreground and (not attach or "stderr" in attach),
        "Env": environment(parsed), "Labels": _labels(parsed), "WorkingDir": parsed.text("workdir"),
        "ExposedPorts": exposed, "Volumes": volumes,
        "HostConfig": _host(parsed) | {"NetworkMode": mode, "PortBindings": bindings, "Binds": binds or None},
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }  # fmt: skip
    if parsed.given("entrypoint"):
        config["Entrypoint"] = [parsed.text("entrypoint")]
    if parsed.text("stop-signal"):
        config["StopSignal"] = parsed.text("stop-signal")
    if parsed.given("stop-timeout"):
        config["StopTimeout"] = parsed.number("stop-timeout")
    config |= _health(parsed)
    return config


def _health(parsed: Parsed) -> "dict[str, Any]":
    """`--health-*` -> {"Healthcheck": ...}, or nothing where none is given: the image's own holds."""
    given = [flag for flag, _ in _HEALTH_TIMES if parsed.given(flag)]
    if not given and not parsed.text("health-cmd") and not parsed.number("health-retries"):
        return {"Healthcheck": {"Test": ["NONE"]}} if parsed.flag("no-healthcheck") else {}
    if parsed.flag("no-healthcheck"):
        raise Refused("--no-healthcheck conflicts with --health-* options")
    check: dict[str, Any] = {}
    if parsed.text("health-cmd"):
        check["Test"] = ["CMD-SHELL", parsed.text("health-cmd")]
    if parsed.number("health-retries") < 0:
        raise Refused("--health-retries cannot be negative")
    if parsed.number("health-retries"):
        check["Retries"] = parsed.number("health-retries")
    for flag, key in _HEALTH_TIMES:
        if parsed.given(flag):
            check[key] = duration_ns(parsed.text(flag), flag)
    return {"Healthcheck": check}


def duration_ns(text: str, flag: str) -> int:
    """`1m30s` -> nanoseconds; UsageError in Docker's words."""
    from berth.models import durations

    try:
        found = durations.parse_ns(text)
    except ValueError as error:
        raise _wrong(f"--{flag}", text, str(error)) from None
    if found < 0:
        raise Refused(f"--{flag} cannot be negative")
    return found


def environment(parsed: Parsed) -> "list[str]":
    """--env-file, then --env; a name alone passes the caller's own value on, if there is one."""
    found = []
    for path in parsed.list("env-file"):
        found += _file_lines(path)
    found += parsed.list("env")
    result = []
    for item in found:
        if not item or item.startswith("="):
            raise _wrong("--env", item, f"invalid environment variable: {item}")
        if "=" in item:
            result.append(item)
        elif item in os.environ:
            result.append(f"{item}={os.environ[item]}")
    return result


_PROXIES = (
    ("httpProxy", "HTTP_PROXY"), ("httpsProxy", "HTTPS_PROXY"), ("noProxy", "NO_PROXY"), ("ftpProxy", "FTP_PROXY"), ("allProxy", "ALL_PROXY"),
)  # fmt: skip


def proxy_variables(proxies: object, address: str, given: "list[str]") -> "list[str]":
    """`proxies` of config.json, for this engine or for all -> variables that are not `given`, in both their spellings. Pure."""
    chosen = (proxies.get(address) or proxies.get("default")) if isinstance(proxies, dict) else None
    known, found = {item.partition("=")[0] for item in given}, []
    for key, name in _PROXIES:
        value = chosen.get(key) if isinstance(chosen, dict) else None
        if value and isinstance(value, str):
            found += [f"{spelling}={value}" for spelling in (name, name.lower()) if spelling not in known]
    return found


def _file_lines(path: str) -> "list[str]":
    try:
        with open(path) as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise Refused(f"open {path}: {(error.strerror or '').lower()}") from None
    return [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _labels(parsed: Parsed) -> "dict[str, str]":
    items = [line for path in parsed.list("label-file") for line in _file_lines(path)] + parsed.list("label")
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def _pairs(items: "list[str]", flag: str) -> "dict[str, str]":
    for item in items:
        if "=" not in item:
            raise _wrong(flag, item, "expected KEY=VALUE")
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def _host(parsed: Parsed) -> "dict[str, Any]":
    if parsed.flag("rm") and parsed.text("restart") not in ("", "no"):
        raise Refused("conflicting options: cannot specify both --restart and --rm")
    host: dict[str, Any] = {
        "AutoRemove": parsed.flag("rm"), "Privileged": parsed.flag("privileged"),
        "PidMode": parsed.text("pid"), "IpcMode": parsed.text("ipc"), "UTSMode": parsed.text("uts"),
        "UsernsMode": parsed.text("userns"), "CgroupnsMode": parsed.text("cgroupns"),
        "CapAdd": parsed.list("cap-add") or None, "CapDrop": parsed.list("cap-drop") or None,
        "GroupAdd": parsed.list("group-add") or None, "SecurityOpt": [_security_option(o) for o in parsed.list("security-opt")],
        "ReadonlyRootfs": parsed.flag("read-only"), "Init": parsed.flag("init") or None, "Runtime": parsed.text("runtime"),
        "Dns": netflags.name_servers(parsed), "DnsSearch": netflags.search_domains(parsed), "DnsOptions": parsed.list("dns-option"),
        "ExtraHosts": netflags.extra_hosts(parsed) or None, "Annotations": _pairs(parsed.list("annotation"), "--annotation"),
        "Sysctls": _pairs(parsed.list("sysctl"), "--sysctl"), "CgroupParent": parsed.text("cgroup-parent"),
        "OomKillDisable": parsed.flag("oom-kill-disable") or None, "OomScoreAdj": parsed.number("oom-score-adj"),
        "Tmpfs": {path: options for path, _, options in (item.partition(":") for item in parsed.list("tmpfs"))},
        "Ulimits": [ulimit(item) for item in parsed.list("ulimit")], "Mounts": [mount_spec(m) for m in parsed.list("mount")],
        "Devices": [_device(item) for item in parsed.list("device")],
        "DeviceCgroupRules": parsed.list("device-cgroup-rule") or None,
        "LogConfig": {"Type": parsed.text("log-driver"), "Config": _pairs(parsed.list("log-opt"), "--log-opt")},
        "RestartPolicy": restart_policy(parsed.text("restart")),
        "CpuShares": parsed.number("cpu-shares"), "CpuPeriod": parsed.number("cpu-period"),
        "CpuQuota": parsed.number("cpu-quota"), "CpuRealtimePeriod": parsed.number("cpu-rt-period"),
        "CpuRealtimeRuntime": parsed.number("cpu-rt-runtime"), "CpusetCpus": parsed.text("cpuset-cpus"),
        "CpusetMems": parsed.text("cpuset-mems"), "BlkioWeight": parsed.number("blkio-weight"),
        "PublishAllPorts": parsed.flag("publish-all"), "VolumesFrom": parsed.list("volumes-from") or None,
        "VolumeDriver": parsed.text("volume-driver"), "Links": netflags.links(parsed) or None,
        "StorageOpt": _pairs(parsed.list("storage-opt"), "--storage-opt"),
    }  # fmt: skip
    if parsed.text("gpus"):
        host["DeviceRequests"] = [{"Driver": "", "Count": -1, "Options": {"gpus": parsed.text("gpus")}}]
    for flag, key in (
        ("memory", "Memory"), ("memory-reservation", "MemoryReservation"), ("memory-swap", "MemorySwap"), ("shm-size", "ShmSize"),
    ):  # fmt: skip
        if parsed.text(flag):
            host[key] = size_bytes(parsed.text(flag), f"--{flag}")
    if parsed.given("memory-swappiness"):
        host["MemorySwappiness"] = parsed.number("memory-swappiness")
    if parsed.given("pids-limit"):
        host["PidsLimit"] = parsed.number("pids-limit")
    if parsed.text("cpus"):
        host["NanoCpus"] = nano_cpus(parsed.text("cpus"))
    for flag, key, is_bytes in (
        ("device-read-bps", "BlkioDeviceReadBps", True), ("device-write-bps", "BlkioDeviceWriteBps", True),
        ("device-read-iops", "BlkioDeviceReadIOps", False), ("device-write-iops", "BlkioDeviceWriteIOps", False),
    ):  # fmt: skip
        host[key] = [_throttle(item, flag, is_bytes) for item in parsed.list(flag)]
    weights = [_throttle(item, "blkio-weight-device", False) for item in parsed.list("blkio-weight-device")]
    host["BlkioWeightDevice"] = [{"Path": weight["Path"], "Weight": weight["Rate"]} for weight in weights]
    if parsed.flag("tty"):
        from berth.cli.terminal import size

        host["ConsoleSize"] = list(size())
    return host


def restart_policy(text: str) -> "dict[str, Any]":
    """`on-failure:3` -> Docker's RestartPolicy; what it may be, the engine says."""
    name, colon, count = text.partition(":")
    if colon and (not name or ":" in count):
        raise Refused("invalid restart policy format: " + ("no policy provided before colon" if not name else "maximum retry count must be an integer"))
    try:
        return {"Name": name or "no", "MaximumRetryCount": int(count) if colon else 0}
    except ValueError:
        raise Refused("invalid restart policy format: maximum retry count must be an integer") from None


def nano_cpus(text: str) -> int:
    try:
        return round(float(text) * 1_000_000_000)
    except ValueError:
        raise _wrong("--cpus", text, f"failed to parse {text} as a number") from None


def _throttle(item: str, flag: str, is_bytes: bool) -> "dict[str, Any]":
    path, separator, rate = item.rpartition(":")
    if not separator or not path.startswith("/"):
        raise _wrong(f"--{flag}", item, "expected /dev/PATH:VALUE")
    if not is_bytes and not rate.isdigit():
        raise _wrong(f"--{flag}", item, f"{rate!r} is not a number")
    return {"Path": path, "Rate": size_bytes(rate, f"--{flag}") if is_bytes else int(rate)}


def _security_option(option: str) -> str:
    """A seccomp profile is sent by content; the engine may run elsewhere."""
    key, _, value = option.partition("=")
    if key != "seccomp" or value in ("unconfined", "builtin"):
        return option
    try:
        with open(value) as file:
            return f"seccomp={file.read()}"
    except OSError as error:
        raise Refused(f"opening seccomp profile ({value}) failed: {(error.strerror or '').lower()}") from None


def ulimit(item: str) -> "dict[str, Any]":
    name, separator, values = item.partition("=")
    soft, _, hard = values.partition(":")
    try:
        if not separator:
            raise ValueError
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise _wrong("--ulimit", item, "expected NAME=SOFT[:HARD]") from None


def _device(item: str) -> "dict[str, str]":
    parts = item.split(":")
    if len(parts) > 3 or not parts[0]:
        raise Refused(f"invalid device specification: {item}")
    source, target, mode = parts[0], parts[0], "rwm"
    if len(parts) == 3:
        target, mode = parts[1] or source, parts[2]
    elif len(parts) == 2:
        if parts[1] and set(parts[1]) <= set("rwm"):
            mode = parts[1]
        else:
            target = parts[1]
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}


def mount_spec(text: str, flag: str = "--mount") -> "dict[str, Any]":
    """`type=bind,source=/a,target=/b,readonly` -> Docker's Mount."""
    try:
        return mountspec.mount(text)
    except ValueError as error:
        raise _wrong(flag, text, str(error)) from None
