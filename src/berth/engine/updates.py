"""`POST /containers/{id}/update`: what a request changes in a HostConfig, and in a live cgroup. Pure but for stat.

Absent, null, 0 and empty mean "as it is". Source: Docker Engine API v1.51, ContainerUpdate; refusals checked
against dockerd.
"""

import errno

from berth.engine import bundle, payload, restarts, validate
from berth.errors import BerthError, Conflict, InvalidParameter

_DEVICE_LISTS = (
    "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps",
)  # fmt: skip
_NUMBERS = (
    "Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuShares", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod",
    "CpuRealtimeRuntime", "BlkioWeight",
)  # fmt: skip
_TEXTS = ("CpusetCpus", "CpusetMems")
NO_WEIGHT = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."


def refusal(error: BerthError) -> BerthError:
    """What the kernel does not take of a running container is the request's fault, not the engine's."""
    number = error.__cause__.errno if isinstance(error.__cause__, OSError) else 0
    if number == errno.EBUSY:  # a memory limit below what is in use
        return Conflict(str(error))
    return InvalidParameter(str(error)) if number in (errno.EINVAL, errno.ERANGE, errno.ENODEV) else error


def wanted(request: dict) -> dict:
    """What of a request's body changes something; raises InvalidParameter for what no container could have."""
    payload.check({}, request)
    found = {key: request[key] for key in (*_NUMBERS, *_TEXTS, *_DEVICE_LISTS) if request.get(key)}
    validate.limits(found, update=True)
    if request.get("PidsLimit") is not None:
        found["PidsLimit"] = max(request["PidsLimit"], 0)  # 0: no limit
    policy = request.get("RestartPolicy") or {}
    if policy.get("Name"):
        restarts.check(policy, auto_remove=False)
        found["RestartPolicy"] = {"Name": policy["Name"], "MaximumRetryCount": policy.get("MaximumRetryCount") or 0}
    return found


def merged(host: dict, changes: dict) -> dict:
    """The HostConfig after it; Conflict in Docker's words where one does not go with the other."""
    _check_against(host, changes)
    found = {**host, **changes}
    memory, swap = found.get("Memory") or 0, found.get("MemorySwap") or 0
    if 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory > 0 and (found.get("MemoryReservation") or 0) > memory:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    return found


def _check_against(host: dict, changes: dict) -> None:
    if changes.get("RestartPolicy", {}).get("Name", restarts.NO) != restarts.NO and host.get("AutoRemove"):
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
    for key, words in (("CpuPeriod", "CPU Period"), ("CpuQuota", "CPU Quota")):
        if changes.get("NanoCpus") and (host.get(key) or 0) > 0:
            raise Conflict(f"Conflicting options: Nano CPUs cannot be updated as {words} has already been set")
        if changes.get(key) and (host.get("NanoCpus") or 0) > 0:
            raise Conflict(f"Conflicting options: {words} cannot be updated as NanoCPUs has already been set")
    old_swap = host.get("MemorySwap") or 0
    if changes.get("Memory") and not changes.get("MemorySwap") and 0 <= old_swap < changes["Memory"]:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )


def live_resources(host: dict, changes: dict) -> dict:
    """OCI resources that bring a running container from what it has to `host`; only what was asked for is written."""
    limits = {key: host[key] for key in changes if key not in ("RestartPolicy", "PidsLimit")}
    if "Memory" in changes:
        limits["MemorySwap"] = host.get("MemorySwap") or 0
    found = bundle.resources(limits, False, [])
    del found["devices"]
    if "Memory" not in changes and "MemorySwap" in changes:
        found["memory"] = {**found.get("memory", {}), "swap": host["MemorySwap"]}
    if "PidsLimit" in changes:
        found["pids"] = {"limit": changes["PidsLimit"] or -1}
    return found
