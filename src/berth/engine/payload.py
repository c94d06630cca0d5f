"""A create request: its JSON types, checked once before anything reads it, and an image's defaults under it. Pure.

Absent and null mean the default, as Go decodes them; fields that are not listed are kept and ignored.
Source: Docker Engine API v1.51, ContainerConfig and HostConfig.
"""

from berth.engine import health
from berth.errors import InvalidParameter

_TEXT, _NUMBER, _FLAG, _TEXTS, _MAP, _OBJECTS = "a string", "a number", "true or false", "a list of strings", "an object of strings", "a list of objects"
_OBJECT, _WORD_LISTS = "an object", "a list of lists of strings"

_CONFIG = {
    _TEXT: "Hostname Domainname User Image WorkingDir StopSignal",
    _FLAG: "AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce",
    _TEXTS: "Env Cmd Entrypoint OnBuild Shell", _MAP: "Labels", _NUMBER: "StopTimeout",
}  # fmt: skip
_HOST = {
    _TEXT: "NetworkMode PidMode IpcMode UTSMode UsernsMode CgroupnsMode CgroupParent Runtime VolumeDriver CpusetCpus"
    " CpusetMems Isolation Cgroup",
    _NUMBER: "Memory MemoryReservation MemorySwap MemorySwappiness NanoCpus CpuShares CpuPeriod CpuQuota"
    " CpuRealtimePeriod CpuRealtimeRuntime BlkioWeight PidsLimit ShmSize OomScoreAdj",
    _FLAG: "AutoRemove Privileged ReadonlyRootfs PublishAllPorts Init OomKillDisable",
    _TEXTS: "Binds CapAdd CapDrop Dns DnsOptions DnsSearch ExtraHosts GroupAdd SecurityOpt VolumesFrom Links"
    " DeviceCgroupRules MaskedPaths ReadonlyPaths",
    _MAP: "Sysctls Tmpfs Annotations StorageOpt",
    _OBJECTS: "Mounts Devices Ulimits DeviceRequests BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps"
    " BlkioDeviceReadIOps BlkioDeviceWriteIOps",
}  # fmt: skip
# Of the objects in the lists: HostConfig field -> member -> type.
_MEMBERS = {
    "Mounts": {"Type": _TEXT, "Source": _TEXT, "Target": _TEXT, "ReadOnly": _FLAG},
    "Devices": {"PathOnHost": _TEXT, "PathInContainer": _TEXT, "CgroupPermissions": _TEXT},
    "Ulimits": {"Name": _TEXT, "Soft": _NUMBER, "Hard": _NUMBER},
    "BlkioWeightDevice": {"Path": _TEXT, "Weight": _NUMBER},
    **{f"BlkioDevice{what}": {"Path": _TEXT, "Rate": _NUMBER} for what in ("ReadBps", "WriteBps", "ReadIOps", "WriteIOps")},
}  # fmt: skip
_MOUNT_OPTIONS = {
    "BindOptions": {"Propagation": _TEXT, "NonRecursive": _FLAG, "CreateMountpoint": _FLAG, "ReadOnlyNonRecursive": _FLAG,
                    "ReadOnlyForceRecursive": _FLAG, "IdMap": _TEXT},
    "VolumeOptions": {"NoCopy": _FLAG, "Labels": _MAP, "Subpath": _TEXT, "DriverConfig": _OBJECT, "IdMap": _TEXT},
    "TmpfsOptions": {"SizeBytes": _NUMBER, "Mode": _NUMBER, "Options": _WORD_LISTS}, "ImageOptions": {"Subpath": _TEXT},
}  # fmt: skip
_HEALTHCHECK = {
    "Test": _TEXTS, **dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"), _NUMBER),
}  # fmt: skip
_RESTART_POLICY = {"Name": _TEXT, "MaximumRetryCount": _NUMBER}
_OBJECT_FIELDS = ("LogConfig", "RestartPolicy", "PortBindings")
_INT64 = 1 << 63


def check(config: dict, host: dict) -> None:
    """Raises InvalidParameter with the JSON path of the first field of a wrong type."""
    for kind, fields in _CONFIG.items():
        for name in fields.split():
            _check(config, name, kind, name)
    for kind, fields in _HOST.items():
        for name in fields.split():
            _check(host, name, kind, f"HostConfig.{name}")
    for name, members in _MEMBERS.items():
        for index, item in enumerate(host.get(name) or []):
            for member, kind in members.items():
                _check(item, member, kind, f"HostConfig.{name}[{index}].{member}")
    for index, mount in enumerate(host.get("Mounts") or []):
        for name, members in _MOUNT_OPTIONS.items():
            _check_object(mount, name, f"HostConfig.Mounts[{index}].{name}")
            for member, kind in members.items():
                _check(mount.get(name) or {}, member, kind, f"HostConfig.Mounts[{index}].{name}.{member}")
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        for member, kind in {"Name": _TEXT, "Options": _MAP}.items():
            _check(driver, member, kind, f"HostConfig.Mounts[{index}].VolumeOptions.DriverConfig.{member}")
    for name in _OBJECT_FIELDS:
        _check_object(host, name, f"HostConfig.{name}")
    _check_object(config, "Healthcheck", "Healthcheck")
    _check_object(config, "Volumes", "Volumes")
    for name, kind in _HEALTHCHECK.items():
        _check(config.get("Healthcheck") or {}, name, kind, f"Healthcheck.{name}")
    for name, kind in _RESTART_POLICY.items():
        _check(host.get("RestartPolicy") or {}, name, kind, f"HostConfig.RestartPolicy.{name}")
    size = host.get("ConsoleSize")
    if size is not None and not (_is(size, list) and len(size) == 2 and all(_is(n, int) and 0 <= n <= 0xFFFF for n in size)):
        raise InvalidParameter(f"HostConfig.ConsoleSize: expected two numbers, got {size!r}")


def _check(holder: dict, name: str, kind: str, path: str) -> None:
    value = holder.get(name)
    if value is not None and not _fits(value, kind):
        raise InvalidParameter(f"invalid JSON: {path}: expected {kind}, got {value!r}"[:300])


def _check_object(holder: dict, name: str, path: str) -> None:
    value = holder.get(name)
    if value is not None and not _is(value, dict):
        raise InvalidParameter(f"invalid JSON: {path}: expected an object, got {value!r}"[:300])


def _fits(value: object, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str) and "\0" not in value
    if kind == _NUMBER:
        return _is(value, int) and -_INT64 <= value < _INT64  # type: ignore[operator]
    if kind == _FLAG:
        return isinstance(value, bool)
    if kind == _TEXTS:
        return isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value)
    if kind == _OBJECTS:
        return isinstance(value, list) and all(isinstance(item, dict) for item in value)
    if kind == _OBJECT:
        return isinstance(value, dict)
    if kind == _WORD_LISTS:
        return isinstance(value, list) and all(_fits(item, _TEXTS) for item in value)
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is(value: object, kind: type) -> bool:
    """isinstance, but a bool is no number."""
    return isinstance(value, kind) and not isinstance(value, bool)


def merged_config(config: dict, image: dict) -> dict:
    """A request's Config over an image's: what Docker takes from which."""
    merged = {key: value for key, value in config.items() if value is not None and key not in ("HostConfig", "NetworkingConfig")}
    entrypoint, command = config.get("Entrypoint"), config.get("Cmd")
    if not entrypoint or entrypoint == [""]:
        # An explicit [""] empties the image's entrypoint; then its Cmd does not apply either.
        if entrypoint == [""]:
            merged["Entrypoint"] = None
        else:
            merged["Entrypoint"] = image.get("Entrypoint")
            if not command:
                merged["Cmd"] = image.get("Cmd")
    given = [item.partition("=")[0] for item in config.get("Env") or []]
    inherited = [item for item in image.get("Env") or [] if item.partition("=")[0] not in given]
    # A name alone takes a variable away that the image has; one that is no name at all is refused (validate.py).
    merged["Env"] = inherited + [item for item in config.get("Env") or [] if "=" in item or not item]
    merged["Labels"] = {**(image.get("Labels") or {}), **(config.get("Labels") or {})}
    check = health.merged(config.get("Healthcheck"), image.get("Healthcheck"))
    if check:
        merged["Healthcheck"] = check
    for key in ("User", "WorkingDir", "StopSignal"):
        if not merged.get(key) and image.get(key):
            merged[key] = image[key]
    for key in ("ExposedPorts", "Volumes"):
        if image.get(key):
            merged[key] = {**image[key], **(merged.get(key) or {})}
    return merged
