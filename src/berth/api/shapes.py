"""What types the fields of each request have; see models.shapes. Pure."""

from berth.models.shapes import CONFIG, WORDS, Shape, shaped

__all__ = [
    "CONFIG", "CREATE", "EXEC_CREATE", "EXEC_START", "HOST", "NETWORK_CONNECT", "NETWORK_CREATE", "NETWORK_DISCONNECT", "UPDATE",
    "VOLUME_CREATE", "WORDS", "shaped",
]  # fmt: skip

_LABELS = {"*": str}
_THROTTLE = [{"Path": str, "Rate": int}]
_SIZE = [int]

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
