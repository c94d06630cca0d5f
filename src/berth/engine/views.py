"""Records -> Docker's payloads: what `inspect`, `ps` and `images` show. Pure.

Source: Docker Engine API v1.51: ContainerInspectResponse, ContainerSummary, ImageInspect, ImageSummary.
"""

import time
from collections.abc import Callable

from berth.engine import defaults, events, health, logconfig, mountpoints, state
from berth.engine.nets import portmaps
from berth.engine.nets import views as netviews
from berth.engine.state import Record
from berth.errors import InvalidParameter
from berth.models.times import ZERO_TIME, rfc3339
from berth.models.units import duration

# Docker shows every field of HostConfig; these are its values when nobody set them.
_HOST_DEFAULTS: dict = {
    "Binds": None, "ContainerIDFile": "", "LogConfig": {"Type": "json-file", "Config": {}}, "NetworkMode": "default",
    "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": False, "VolumeDriver": "",
    "VolumesFrom": None, "ConsoleSize": [0, 0], "CapAdd": None, "CapDrop": None, "CgroupnsMode": "", "Dns": [],
    "DnsOptions": [], "DnsSearch": [], "ExtraHosts": None, "GroupAdd": None, "IpcMode": "private", "Cgroup": "",
    "Links": None, "OomScoreAdj": 0, "PidMode": "", "Privileged": False, "PublishAllPorts": False,
    "ReadonlyRootfs": False, "SecurityOpt": None, "UTSMode": "", "UsernsMode": "", "ShmSize": defaults.SHM_SIZE_BYTES,
    "Runtime": "", "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
    "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [],
    "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0, "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [], "DeviceCgroupRules": None,
    "DeviceRequests": None, "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": None, "OomKillDisable": None,
    "PidsLimit": None, "Ulimits": None, "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
    "MaskedPaths": list(defaults.MASKED_PATHS), "ReadonlyPaths": list(defaults.READONLY_PATHS),
}  # fmt: skip

_CONFIG_DEFAULTS: dict = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
    "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": [], "Cmd": None, "Image": "", "Volumes": None,
    "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": {},
}  # fmt: skip


_IMAGE_CONFIG_DEFAULTS: dict = {
    "User": "", "Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": None,
}  # fmt: skip


def status_text(record: Record) -> str:
    """`Up 3 minutes`, `Exited (0) 2 hours ago`: the STATUS column."""
    now_s = time.time()
    if record.running:
        text = f"Up {duration(now_s - record.started_ns / 1e9)}"
        if record.status == state.PAUSED:
            return f"{text} (Paused)"
        if record.health:
            status = record.health["Status"]
            return f"{text} (health: starting)" if status == health.STARTING else f"{text} ({status})"
        return text
    if record.status == state.RESTARTING:
        return f"Restarting ({record.exit_code}) {duration(now_s - record.finished_ns / 1e9)} ago"
    if record.status == state.CREATED:
        return "Created"
    if record.status == state.REMOVING:
        return "Removal In Progress"
    return f"Exited ({record.exit_code}) {duration(now_s - record.finished_ns / 1e9)} ago"


def command_of(record: Record) -> list[str]:
    """The whole command line: entrypoint and arguments."""
    return [*(record.config.get("Entrypoint") or []), *(record.config.get("Cmd") or [])]


def summary(record: Record, image_name: str, volume_path: Callable[[str], str]) -> dict:
    """An element of GET /containers/json. volume_path: where the files of a volume are."""
    return {
        "Id": record.id, "Names": [f"/{record.name}"], "Image": image_name, "ImageID": record.image_id,
        "Command": " ".join(f"'{word}'" if " " in word else word for word in command_of(record)), "Created": record.created_ns // 1_000_000_000, "Ports": portmaps.port_list(record),
        "Labels": record.config.get("Labels") or {}, "State": record.status, "Status": status_text(record),
        "HostConfig": {"NetworkMode": network_mode(record)},
        "NetworkSettings": {"Networks": netviews.settings_of(record)}, "Mounts": mount_points(record, volume_path),
    }  # fmt: skip


def network_mode(record: Record) -> str:
    """The mode as Docker shows it."""
    return record.host.get("NetworkMode") or "default"


def mount_points(record: Record, volume_path: Callable[[str], str]) -> list[dict]:
    """Docker's MountPoint list."""
    return [
        mountpoints.payload(point, volume_path(point.name) if point.kind == mountpoints.VOLUME else point.source)
        for point in mountpoints.of_record(record)
    ]  # fmt: skip


def inspect(
    record: Record, *, directory: str, lower: str, execs: list[str], platform: str, apparmor: str, volume_path: Callable[[str], str]
) -> dict:  # fmt: skip
    """GET /containers/{id}/json."""
    command = command_of(record)
    host = {**_HOST_DEFAULTS, **{key: value for key, value in record.host.items() if value is not None}}
    return {
        "Id": record.id, "Created": rfc3339(record.created_ns), "Path": command[0], "Args": command[1:],
        "State": {
            "Status": record.status, "Running": record.active, "Paused": record.status == state.PAUSED,
            "Restarting": record.status == state.RESTARTING, "OOMKilled": record.oom_killed, "Dead": False,
            "Pid": record.pid if record.running else 0, "ExitCode": record.exit_code, "Error": record.error,
            "StartedAt": rfc3339(record.started_ns), "FinishedAt": rfc3339(record.finished_ns),
            **({"Health": record.health} if record.health else {}),
        },
        "Image": record.image_id, "ResolvConfPath": f"{directory}/resolv.conf", "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts", "LogPath": _log_path(record, directory), "Name": f"/{record.name}",
        "RestartCount": record.restarts, "Driver": "overlay2", "Platform": platform, "MountLabel": "", "ProcessLabel": "",
        "AppArmorProfile": apparmor, "ExecIDs": execs or None, "HostConfig": host,
        "GraphDriver": {"Name": "overlay2", "Data": {
            "LowerDir": lower, "MergedDir": f"{directory}/rootfs", "UpperDir": f"{directory}/upper", "WorkDir": f"{directory}/work",
        }},
        "Mounts": mount_points(record, volume_path), "Config": {**_CONFIG_DEFAULTS, **record.config},
        "NetworkSettings": {
            "Bridge": "", **netviews.sandbox(record), "Ports": portmaps.port_map(record), "HairpinMode": False,
            "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None, **netviews.default_bridge(record),
            "Networks": netviews.settings_of(record),
        },
    }  # fmt: skip


def _log_path(record: Record, directory: str) -> str:
    """Of json-file alone, once it is there."""
    return logconfig.path_of(record, directory) if record.started_ns and logconfig.driver_of(record) == "json-file" else ""


def image_summary(image_id: str, config: dict, names: list[str], digests: list[str], size_bytes: int, parent: str) -> dict:
    """An element of GET /images/json; nobody has counted containers and shared bytes."""
    return {
        "Id": image_id, "ParentId": parent, "RepoTags": names, "RepoDigests": digests, "Created": created_s(config),
        "Size": size_bytes, "SharedSize": -1,
        "Labels": (config.get("config") or {}).get("Labels"), "Containers": -1,
    }  # fmt: skip


def image_inspect(
    image_id: str, config: dict, names: list[str], digests: list[str], *, size_bytes: int, layers: list[str], directories: list[str], parent: str, tagged_ns: int
) -> dict:
    """GET /images/{name}/json. directories: of the unpacked layers, topmost first."""
    data = {"UpperDir": directories[0]} if directories else {}
    if len(directories) > 1:
        data["LowerDir"] = ":".join(directories[1:])
    variant = {"Variant": config["variant"]} if config.get("variant") else {}
    return {
        "Id": image_id, "RepoTags": names, "RepoDigests": digests, "Parent": parent,
        "Comment": next((h.get("comment", "") for h in reversed(config.get("history") or [])), ""),
        "Created": config.get("created") or ZERO_TIME, "DockerVersion": config.get("docker_version") or "",
        "Author": config.get("author") or "", "Config": {**_IMAGE_CONFIG_DEFAULTS, **(config.get("config") or {})},
        "Architecture": config.get("architecture") or "", **variant,
        "Os": config.get("os") or "linux", "Size": size_bytes,
        "GraphDriver": {"Name": "overlay2", "Data": data},
        "RootFS": {"Type": "layers", "Layers": layers}, "Metadata": {"LastTagTime": rfc3339(tagged_ns)},
    }  # fmt: skip


def created_s(config: dict) -> int:
    """Seconds since the epoch of an image's `created`; 0 where it is absent or not a time."""
    return created_ns(config) // 1_000_000_000


def created_ns(config: dict) -> int:
    """The same in nanoseconds: of two images made within a second, one is older."""
    try:
        return events.moment_ns(str(config.get("created") or ""), "created", 0)
    except InvalidParameter:
        return 0
