"""Checks a create request: everything that can be known to be wrong before a start. Pure but for stat.

Raises InvalidParameter in Docker's words where its clients know them, NotImplementedHere for what
this version of berth cannot do yet and was asked for by name: never silence.
"""

import os
import re
import signal
import stat as modes

from berth.engine import defaults, health, logconfig, restarts
from berth.errors import InvalidParameter, NotImplementedHere

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_ULIMITS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
).split()
_MIN_CPU_QUOTA, _MIN_CPU_PERIOD, _MAX_CPU_PERIOD = 1000, 1000, 1_000_000
_MAX_HOST_NAME_CHARACTERS = 63
_LEAST = {  # -1: no limit
    "MemorySwap": -1, "MemoryReservation": -1, "CpuShares": 0, "CpuQuota": -1, "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
}  # fmt: skip
_RATES = ("BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps")
_CPU_SETS = (
    ("CpusetCpus", "CPUs", "/sys/devices/system/cpu/online"), ("CpusetMems", "mems", "/sys/devices/system/node/online"),
)  # fmt: skip


def name(text: str) -> None:
    """A container's name, which may begin with a slash."""
    if not _NAME.fullmatch(text.removeprefix("/")):
        raise InvalidParameter(
            f"Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )


def create(config: dict, host: dict, runtimes: dict[str, str]) -> None:
    """The merged Config and the HostConfig of a new container."""
    if not (config.get("Entrypoint") or []) + (config.get("Cmd") or []):
        raise InvalidParameter("no command specified")
    restarts.check(host.get("RestartPolicy") or {}, bool(host.get("AutoRemove")))
    health.validate(config.get("Healthcheck") or {})
    _later_issues(config, host)
    _namespaces(host)
    _words(config, host)
    limits(host)
    for device in host.get("Devices") or []:
        device_entries(device)
    if host.get("Runtime") and host["Runtime"] not in runtimes:
        raise InvalidParameter(f"unknown or invalid runtime name: {host['Runtime']}; known: {', '.join(sorted(runtimes))}")
    if config.get("StopSignal"):
        signal_number(config["StopSignal"])
    host_name = config.get("Hostname") or ""
    if len(host_name) > _MAX_HOST_NAME_CHARACTERS or "\0" in host_name:
        raise InvalidParameter(f"invalid hostname format: {host_name!r}: at most {_MAX_HOST_NAME_CHARACTERS} characters")
    working = config.get("WorkingDir") or ""
    if working and not working.startswith("/"):
        raise InvalidParameter(f"the working directory '{working}' is invalid, it needs to be an absolute path")
    host["LogConfig"] = logconfig.checked(host.get("LogConfig"))


def _words(config: dict, host: dict) -> None:
    """Texts that have a form."""
    for item in config.get("Env") or []:
        if not item.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {item}")
    isolation = host.get("Isolation") or "default"
    if isolation.lower() != "default":
        raise InvalidParameter(f"invalid isolation: \"{isolation}\" - linux only supports 'default'")
    for key, what in (("IOMaximumIOps", "IOPs"), ("IOMaximumBandwidth", "IO bandwidth")):
        if host.get(key):
            raise InvalidParameter(f"invalid QoS settings: linux does not support configuration of maximum {what}")


def _later_issues(config: dict, host: dict) -> None:
    if host.get("DeviceRequests"):
        raise NotImplementedHere("--gpus and other device requests are not there yet in this version of berth; use --device")
    if host.get("StorageOpt"):
        raise NotImplementedHere("--storage-opt is not there yet in this version of berth")


def _namespaces(host: dict) -> None:
    allowed = {
        "PidMode": ("", "host"), "UTSMode": ("", "host"), "UsernsMode": ("", "host"),
        "IpcMode": ("", "host", "private", "shareable", "none"), "CgroupnsMode": ("", "host", "private"),
    }  # fmt: skip
    for key, values in allowed.items():
        value = host.get(key) or ""
        shared = value.startswith("container:") and key in ("PidMode", "IpcMode")
        if key == "CgroupnsMode" and value not in values:
            raise InvalidParameter(f"invalid cgroup namespace mode: {value}; expected host or private")
        if value not in values and not shared:
            raise InvalidParameter(f"invalid {key}: {value!r}; expected one of {', '.join(v for v in values if v)}")


def limits(host: dict, *, update: bool = False) -> None:
    """Resource limits; of an update only what can be known without the rest."""
    memory, swap = host.get("Memory") or 0, host.get("MemorySwap") or 0
    if memory and memory < defaults.MIN_MEMORY_BYTES:
        raise InvalidParameter(f"Minimum memory limit allowed is 6MB, not {memory} bytes")
    for key, least in _LEAST.items():
        if (host.get(key) or 0) < least:
            raise InvalidParameter(f"invalid {key}: {host[key]}: it cannot be less than {least}")
    for key in _RATES:
        for device in host.get(key) or []:
            if (device.get("Rate") or 0) < 0:
                raise InvalidParameter(f"invalid {key}: {device['Rate']} for {device.get('Path')}: it cannot be negative")
    reservation = host.get("MemoryReservation") or 0
    if 0 < reservation < defaults.MIN_MEMORY_BYTES:
        raise InvalidParameter(f"Minimum memory reservation allowed is 6MB, not {reservation} bytes")
    if 0 < memory < reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if swap > 0 and not memory and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    swappiness = host.get("MemorySwappiness")
    if swappiness is not None and swappiness != -1 and not 0 <= swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    for key, words in (("CpuPeriod", "CPU Period"), ("CpuQuota", "CPU Quota")):
        if host.get("NanoCpus") and host.get(key):
            raise InvalidParameter(f"Conflicting options: Nano CPUs and {words} cannot both be set")
    available = os.cpu_count() or 1
    if (host.get("NanoCpus") or 0) < 0 or (host.get("NanoCpus") or 0) > available * 1_000_000_000:
        raise InvalidParameter(f"range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available")
    if 0 < (host.get("CpuQuota") or 0) < _MIN_CPU_QUOTA:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.get("CpuPeriod") and not _MIN_CPU_PERIOD <= host["CpuPeriod"] <= _MAX_CPU_PERIOD:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    for key, words, file in _CPU_SETS:
        _cpu_set(host.get(key) or "", words, file)
    weight = host.get("BlkioWeight") or 0
    if weight and not 10 <= weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if not -1000 <= (host.get("OomScoreAdj") or 0) <= 1000:
        raise InvalidParameter(f"Invalid value {host['OomScoreAdj']}, range for oom score adj is [-1000, 1000]")
    if (host.get("ShmSize") or 0) < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    for limit in host.get("Ulimits") or []:
        if limit.get("Name") not in _ULIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.get('Name')}; known: {' '.join(_ULIMITS)}")
        if limit.get("Hard", 0) >= 0 and limit.get("Soft", 0) > limit.get("Hard", 0):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit['Soft']} > {limit['Hard']}"
            )


def _cpu_set(text: str, words: str, file: str) -> None:
    """A list such as `0-2,4`, of what the host has."""
    if not text:
        return
    try:
        with open(file) as opened:
            available = opened.read().strip()
    except OSError:
        return
    wanted = number_set(text)
    if wanted is None:
        raise InvalidParameter(f"Invalid value {text} for cpuset {words.lower()}: invalid format: {text}")
    if not wanted <= (number_set(available) or set()):
        shown = {"CPUs": "CPUs", "mems": "memory nodes"}[words]
        raise InvalidParameter(f"Requested {shown} are not available - requested {text}, available: {available}")


def number_set(text: str) -> set[int] | None:
    """`0-2,4` -> {0, 1, 2, 4}; None where it is no such list."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit() and len(first) < 6):
            return None
        if dash and not (last.isascii() and last.isdigit() and len(last) < 6 and int(first) <= int(last)):
            return None
        found |= set(range(int(first), int(last or first) + 1))
    return found


def device_entries(device: dict) -> list[dict]:
    """`--device` -> [{OCI device fields, "rule"}]; a directory stands for every device below it."""
    source = device.get("PathOnHost") or ""
    target = device.get("PathInContainer") or source
    access = device.get("CgroupPermissions") or "rwm"
    if not set(access) <= set("rwm"):
        raise InvalidParameter(f"invalid device mode {access!r} for {source}: expected letters of rwm")
    try:
        status = os.stat(source)
    except OSError as error:
        raise InvalidParameter(f"error gathering device information while adding custom device {source!r}: {error.strerror}") from None
    if modes.S_ISDIR(status.st_mode):
        entries = []
        for name_ in sorted(os.listdir(source)):
            try:
                entries += device_entries({**device, "PathOnHost": f"{source}/{name_}", "PathInContainer": f"{target}/{name_}"})
            except InvalidParameter:
                continue
        return entries
    kinds = {modes.S_IFCHR: "c", modes.S_IFBLK: "b"}
    kind = kinds.get(modes.S_IFMT(status.st_mode))
    if kind is None:
        raise InvalidParameter(f"error gathering device information while adding custom device {source!r}: not a device node")
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return [{
        "path": target, "type": kind, "major": major, "minor": minor, "fileMode": modes.S_IMODE(status.st_mode),
        "uid": status.st_uid, "gid": status.st_gid,
        "rule": {"allow": True, "type": kind, "major": major, "minor": minor, "access": access},
    }]  # fmt: skip


def signal_number(text: str) -> int:
    """A name with or without SIG, or a number; raises InvalidParameter in Docker's words."""
    plain = text.upper().removeprefix("SIG")
    if plain.isascii() and plain.isdigit() and len(plain) < 4:
        number = int(plain)
    elif plain.startswith("RTMIN") or plain.startswith("RTMAX"):
        base = signal.SIGRTMIN if plain.startswith("RTMIN") else signal.SIGRTMAX
        offset = plain[5:] or "+0"
        number = int(base) + int(offset) if re.fullmatch(r"[+-][0-9]{1,3}", offset) else 0
    else:
        found = getattr(signal, f"SIG{plain}", None)
        number = int(found) if isinstance(found, signal.Signals) else 0
    if not 0 < number < signal.NSIG:
        raise InvalidParameter(f"invalid signal: {text}")
    return number
