"""What types the fields of a request have, so that no handler meets another. Pure.

A shape is str, int, bool, object (anything), [shape] for a list, {"*": shape} for a map, {"Name": shape, ...} for an
object, or WORDS: a list of strings that old clients send as one string. As in Go, null is the same as absent, names
match in any case, and names that nobody knows are ignored; unlike in Go, they are passed on.
"""

from typing import Any

from berth.errors import InvalidParameter

Shape = Any

WORDS = "words"
_LABELS = {"*": str}
_THROTTLE = [{"Path": str, "Rate": int}]
_SIZE = [int]

_HEALTH = {"Test": [str], "Interval": int, "Timeout": int, "Retries": int, "StartPeriod": int, "StartInterval": int}
CONFIG: Shape = {
    "Hostname": str, "Domainname": str, "User": str, "AttachStdin": bool, "AttachStdout": bool, "AttachStderr": bool,
    "ExposedPorts": {"*": object}, "Tty": bool, "OpenStdin": bool, "StdinOnce": bool, "Env": [str], "Cmd": WORDS,
    "Healthcheck": _HEALTH, "ArgsEscaped": bool, "Image": str, "Volumes": {"*": object}, "WorkingDir": str,
    "Entrypoint": WORDS, "NetworkDisabled": bool, "MacAddress": str, "OnBuild": [str], "Labels": _LABELS, "StopSignal": str,
    "StopTimeout": int, "Shell": WORDS,
}  # fmt: skip
_MOUNT = {
    "Target": str, "Source": str, "Type": str, "ReadOnly": bool, "Consistency": str,
    "BindOptions": {"Propagation": str, "NonRecursive": bool, "CreateMountpoint": bool, "ReadOnlyNonRecursive": bool,
                    "ReadOnlyForceRecursive": bool, "IdMap": str},
    "VolumeOptions": {"NoCopy": bool, "Labels": _LABELS, "DriverConfig": {"Name": str, "Options": _LABELS}, "Subpath": str, "IdMap": str},
    "ImageOptions": {"Subpath": str}, "TmpfsOptions": {"SizeBytes": int, "Mode": int, "Options": [[str]]},
}  # fmt: skip
RESOURCES: Shape = {
    "CpuShares": int, "Memory": int, "CgroupParent": str, "BlkioWeight": int,
    "BlkioWeightDevice": [{"Path": str, "Weight": int}], "BlkioDeviceReadBps": _THROTTLE, "BlkioDeviceWriteBps": _THROTTLE,
    "BlkioDeviceReadIOps": _THROTTLE, "BlkioDeviceWriteIOps": _THROTTLE, "CpuPeriod": int, "CpuQuota": int,
    "CpuRealtimePeriod": int, "CpuRealtimeRuntime": int, "CpusetCpus": str, "CpusetMems": str,
    "Devices": [{"PathOnHost": str, "PathInContainer": str, "CgroupPermissions": str}], "DeviceCgroupRules": [str],
    "DeviceRequests": [{"Driver": str, "Count": int, "DeviceIDs": [str], "Capabilities": [[str]], "Options": _LABELS}],
    "KernelMemory": int, "KernelMemoryTCP": int, "MemoryReservation": int, "MemorySwap": int, "MemorySwappiness": int,
    "NanoCpus": int, "OomKillDisable": bool, "Init": bool, "PidsLimit": int,
    "Ulimits": [{"Name": str, "Soft": int, "Hard": int}], "CpuCount": int, "CpuPercent": int, "IOMaximumIOps": int,
    "IOMaximumBandwidth": int,
}  # fmt: skip
_RESTART = {"Name": str, "MaximumRetryCount": int}
HOST: Shape = RESOURCES | {
    "Binds": [str], "ContainerIDFile": str, "LogConfig": {"Type": str, "Config": _LABELS}, "NetworkMode": str,
    "PortBindings": {"*": [{"HostIp": str, "HostPort": str}]}, "RestartPolicy": _RESTART, "AutoRemove": bool,
    "VolumeDriver": str, "VolumesFrom": [str], "Mounts": [_MOUNT], "ConsoleSize": _SIZE, "Annotations": _LABELS,
    "CapAdd": [str], "CapDrop": [str], "CgroupnsMode": str, "Dns": [str], "DnsOptions": [str], "DnsSearch": [str],
    "ExtraHosts": [str], "GroupAdd": [str], "IpcMode": str, "Cgroup": str, "Links": [str], "OomScoreAdj": int, "PidMode": str,
    "Privileged": bool, "PublishAllPorts": bool, "ReadonlyRootfs": bool, "SecurityOpt": [str], "StorageOpt": _LABELS,
    "Tmpfs": _LABELS, "UTSMode": str, "UsernsMode": str, "ShmSize": int, "Sysctls": _LABELS, "Runtime": str, "Isolation": str,
    "MaskedPaths": [str], "ReadonlyPaths": [str],
}  # fmt: skip
_ENDPOINT = {
    "IPAMConfig": {"IPv4Address": str, "IPv6Address": str, "LinkLocalIPs": [str]}, "Links": [str], "MacAddress": str,
    "Aliases": [str], "DriverOpts": _LABELS, "GwPriority": int, "NetworkID": str,
}  # fmt: skip
VOLUME_CREATE: Shape = {"Name": str, "Driver": str, "DriverOpts": _LABELS, "Labels": _LABELS, "ClusterVolumeSpec": object}
_IPAM_CONFIG = {"Subnet": str, "IPRange": str, "Gateway": str, "AuxiliaryAddresses": _LABELS, "AuxAddress": _LABELS}
NETWORK_CREATE: Shape = {
    "Name": str, "CheckDuplicate": bool, "Driver": str, "Scope": str, "Internal": bool, "Attachable": bool, "Ingress": bool,
    "ConfigOnly": bool, "ConfigFrom": {"Network": str}, "IPAM": {"Driver": str, "Config": [_IPAM_CONFIG], "Options": _LABELS},
    "EnableIPv4": bool, "EnableIPv6": bool, "Options": _LABELS, "Labels": _LABELS,
}  # fmt: skip
NETWORK_CONNECT: Shape = {"Container": str, "EndpointConfig": _ENDPOINT}
NETWORK_DISCONNECT: Shape = {"Container": str, "Force": bool}
CREATE: Shape = CONFIG | {"HostConfig": HOST, "NetworkingConfig": {"EndpointsConfig": {"*": _ENDPOINT}}}
_PORT_CHANGE = {"HostIp": str, "HostPort": str, "ContainerPort": object, "Protocol": str}
UPDATE: Shape = RESOURCES | {"MountAdd": [_MOUNT], "MountRemove": [str], "RestartPolicy": _RESTART, "PublishAdd": [_PORT_CHANGE], "PublishRemove": [_PORT_CHANGE]}
EXEC_CREATE: Shape = {
    "AttachStdin": bool, "AttachStdout": bool, "AttachStderr": bool, "ConsoleSize": _SIZE, "DetachKeys": str, "Tty": bool,
    "Env": [str], "Cmd": [str], "Privileged": bool, "User": str, "WorkingDir": str,
}  # fmt: skip
EXEC_START: Shape = {"Detach": bool, "Tty": bool, "ConsoleSize": _SIZE}

_WORDS = {str: "a string", int: "a whole number", bool: "true or false"}


def shaped(value: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The same with names in their own case and without nulls; InvalidParameter that names field and value."""
    return dict(_object(value, shape, ""))


def _check(value: object, shape: Shape, path: str) -> object:
    if shape is object:
        return value
    if shape == WORDS:
        return [value] if isinstance(value, str) else _list(value, str, path)
    if isinstance(shape, list):
        return _list(value, shape[0], path)
    if isinstance(shape, dict):
        return _object(value, shape, path)
    if not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
        raise _wrong(path, value, _WORDS[shape])
    return value


def _list(value: object, shape: Shape, path: str) -> list[object]:
    if not isinstance(value, list):
        raise _wrong(path, value, "a list")
    return [_check(item, shape, f"{path}[{index}]") for index, item in enumerate(value)]


def _object(value: object, shape: dict[str, Shape], path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(path, value, "an object")
    prefix = f"{path}." if path else ""
    if "*" in shape:
        return {key: _check(item, shape["*"], f"{prefix}{key}") for key, item in value.items() if item is not None}
    found: dict[str, object] = {}
    by_lower: dict[str, str] = {}
    for key, item in value.items():
        if item is None:
            continue
        name = key
        if name not in shape:
            by_lower = by_lower or {known.lower(): known for known in shape}
            name = by_lower.get(key.lower(), key)
        found[name] = _check(item, shape[name], f"{prefix}{name}") if name in shape else item
    return found


def _wrong(path: str, value: object, wanted: str) -> InvalidParameter:
    shown = {True: "true", False: "false", None: "null"}.get(value, repr(value)) if isinstance(value, bool | None) else repr(value)
    return InvalidParameter(f"{path}: {shown[:200]} is not {wanted}")
