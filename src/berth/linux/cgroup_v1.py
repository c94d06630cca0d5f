"""OCI resources -> files of cgroup v1. Pure.

Source: OCI runtime spec config-linux.md#control-groups; Documentation/admin-guide/cgroup-v1.
"""

Setting = tuple[str, str, str, str]  # controller, file, value, what a person would call it


def settings(resources: dict) -> list[Setting]:
    """What to write, in the order the kernel accepts it."""
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *_pids(resources.get("pids") or {}),
        *_block_io(resources.get("blockIO") or {}),
        *_huge_pages(resources.get("hugepageLimits") or []),
        *_network(resources.get("network") or {}),
        *_devices(resources.get("devices") or []),
    ]


def _memory(memory: dict) -> list[Setting]:
    found: list[Setting] = []
    limit, swap = memory.get("limit"), memory.get("swap")
    # memsw may never be below limit: on the way up from "unlimited", limit goes first.
    if limit is not None:
        found.append(("memory", "memory.limit_in_bytes", str(limit), "the memory limit"))
    if swap is not None and swap != 0:
        found.append(("memory", "memory.memsw.limit_in_bytes", str(swap), "the memory and swap limit"))
    if memory.get("reservation") is not None:
        value = str(memory["reservation"])
        found.append(("memory", "memory.soft_limit_in_bytes", value, "the memory reservation"))
    if memory.get("kernelTCP") is not None:
        value = str(memory["kernelTCP"])
        found.append(("memory", "memory.kmem.tcp.limit_in_bytes", value, "the kernel TCP memory limit"))
    if memory.get("swappiness") is not None:
        found.append(("memory", "memory.swappiness", str(memory["swappiness"]), "the swappiness"))
    if memory.get("disableOOMKiller"):
        found.append(("memory", "memory.oom_control", "1", "switching the OOM killer off"))
    return found


def _cpu(cpu: dict) -> list[Setting]:
    names = (
        ("shares", "cpu", "cpu.shares", "the CPU shares"),
        ("period", "cpu", "cpu.cfs_period_us", "the CPU period"),
        ("quota", "cpu", "cpu.cfs_quota_us", "the CPU quota"),
        ("burst", "cpu", "cpu.cfs_burst_us", "the CPU burst"),
        ("realtimePeriod", "cpu", "cpu.rt_period_us", "the real-time CPU period"),
        ("realtimeRuntime", "cpu", "cpu.rt_runtime_us", "the real-time CPU runtime"),
        ("cpus", "cpuset", "cpuset.cpus", "the CPU set"),
        ("mems", "cpuset", "cpuset.mems", "the memory node set"),
        ("idle", "cpu", "cpu.idle", "the CPU idle class"),
    )
    return [(at, file, str(cpu[key]), what) for key, at, file, what in names if cpu.get(key) not in (None, "", 0)]


def _pids(pids: dict) -> list[Setting]:
    limit = pids.get("limit")
    if limit is None or limit == 0:
        return []
    return [("pids", "pids.max", "max" if limit < 0 else str(limit), "the process limit")]


def _block_io(block: dict) -> list[Setting]:
    found: list[Setting] = []
    if block.get("weight"):
        found.append(("blkio", "blkio.weight", str(block["weight"]), "the block I/O weight"))
    for device in block.get("weightDevice") or ():
        value = f"{device['major']}:{device['minor']} {device['weight']}"
        found.append(("blkio", "blkio.weight_device", value, "the block I/O weight of a device"))
    throttles = (
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
    )
    for key, file in throttles:
        for device in block.get(key) or ():
            value = f"{device['major']}:{device['minor']} {device['rate']}"
            found.append(("blkio", file, value, "a block I/O rate"))
    return found


def _huge_pages(limits: list[dict]) -> list[Setting]:
    return [
        ("hugetlb", f"hugetlb.{limit['pageSize']}.limit_in_bytes", str(limit["limit"]), "a huge page limit")
        for limit in limits
    ]


def _network(network: dict) -> list[Setting]:
    found: list[Setting] = []
    if network.get("classID"):
        found.append(("net_cls", "net_cls.classid", str(network["classID"]), "the network class"))
    for priority in network.get("priorities") or ():
        value = f"{priority['name']} {priority['priority']}"
        found.append(("net_prio", "net_prio.ifpriomap", value, "a network priority"))
    return found


def _devices(rules: list[dict]) -> list[Setting]:
    found: list[Setting] = []
    for rule in rules:
        kind = rule.get("type") or "a"
        file = "devices.allow" if rule.get("allow") else "devices.deny"
        if kind == "a":
            value = "a"
        else:
            value = f"{kind} {device_number(rule.get('major'))}:{device_number(rule.get('minor'))} {rule.get('access') or 'rwm'}"
        found.append(("devices", file, value, "a device rule"))
    return found


def device_number(number: int | None) -> str:
    """OCI says absent or -1 for every number, the kernel says '*'."""
    return "*" if number is None or number < 0 else str(number)


def oom_kills(oom_control: str) -> int:
    """The `oom_kill` counter of memory.oom_control (Linux 4.13 and later)."""
    for line in oom_control.splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
