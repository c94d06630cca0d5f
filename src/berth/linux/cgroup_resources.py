"""What cgroup v1 and v2 share in reading an OCI `linux.resources`. Pure.

Source: OCI runtime spec config-linux.md#control-groups. A limit of 0 means "not given", as runc has it.
"""

from berth.errors import Conflict, InvalidSpec


class Files:
    """What settings may depend on: the group's files as they are. This one is of a group just made."""

    live = False  # whether processes may already be limited by what the files say

    def read(self, file: str) -> str:
        """The file's text without white space around it; '' if the group has no such file."""
        return ""

    def has(self, file: str) -> bool:
        return False


FRESH = Files()

THROTTLES = (  # key, v1's file, v2's word in io.max
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def page_size(limit: dict) -> str:
    """A huge page size as file names have it. It becomes part of a path, so nothing else passes."""
    text = limit["pageSize"]
    if len(text) < 3 or not (text[:-2].isascii() and text[:-2].isdigit()) or text[-2:] not in ("KB", "MB", "GB"):
        raise InvalidSpec(f"linux.resources.hugepageLimits: page size {text!r} must be like 64KB, 2MB or 1GB")
    return str(text)


def check_swap(memory: dict) -> None:
    """`swap` counts memory and swap together, so it cannot be less than `limit`."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if 0 < swap < limit or (swap > 0 and limit < 0):
        raise InvalidSpec(
            f"linux.resources.memory.swap: {swap} is less than the memory limit of {limit}; it counts memory and swap together"
        )


def check_usage(memory: dict, key: str, usage: str) -> None:
    """`checkBeforeUpdate`: a limit below what is in use would make the kernel kill somebody."""
    value = memory.get(key) or 0
    if memory.get("checkBeforeUpdate") and value > 0 and usage and value < int(usage):
        raise Conflict(f"linux.resources.memory.{key}: {value} is below the current usage of {usage} bytes")


def swappiness(memory: dict) -> int | None:
    value = memory.get("swappiness")
    if value is None or value == -1:  # Docker's word for "not given"
        return None
    if not 0 <= value <= 100:
        raise InvalidSpec(f"linux.resources.memory.swappiness: {value} must be 0 to 100")
    return int(value)


def idle_steps(idle: int | None, weighted: bool, live: bool) -> tuple[str, str]:
    """What to write to cpu.idle before and after the weight: the kernel refuses weights to an idle group."""
    if idle is None or (idle == 0 and not live):
        return "", ""
    if idle == 0:
        return "0", ""
    return "0" if weighted and live else "", str(idle)


def rdma(limits: dict) -> list[str]:
    """Lines for rdma.max, which is the same in both versions."""
    lines = []
    for device, limit in limits.items():
        parts = [f"{word}={limit[key]}" for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
                 if limit.get(key) is not None]  # fmt: skip
        if not parts or not device or any(c.isspace() for c in device):
            raise InvalidSpec(f"linux.resources.rdma: device {device!r} needs a name without spaces and at least one of"
                              " hcaHandles and hcaObjects")  # fmt: skip
        lines.append(f"{device} {' '.join(parts)}")
    return lines


def asked(resources: dict, path: str = "linux.resources") -> str:
    """The JSON path of the first limit that is really given, '' if none is.

    Device rules do not count: every bundle has them, and whoever cannot write a cgroup can make no
    device either.
    """
    for key, value in resources.items():
        if path == "linux.resources" and key == "devices":
            continue
        if isinstance(value, dict):
            found = asked(value, f"{path}.{key}")
            if found:
                return found
        elif key != "checkBeforeUpdate" and value and not (key == "swappiness" and value == -1):
            return f"{path}.{key}"
        elif key == "swappiness" and value == 0 and value is not None:
            return f"{path}.{key}"
    return ""
