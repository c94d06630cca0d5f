"""OCI resources -> files of cgroup v1. Pure.

Source: OCI runtime spec config-linux.md#control-groups; Documentation/admin-guide/cgroup-v1.
"""

from berth.errors import NotImplementedHere
from berth.linux import cgroup_resources
from berth.linux.cgroup_resources import FRESH, Files

Setting = tuple[str, str, str, str]  # controller, file, value, what a person would call it


def settings(resources: dict, files: Files = FRESH) -> list[Setting]:
    """What to write. `memory.kernel` is left out: kernels since 5.16 take it and do nothing, as runc does.

    Pairs that limit each other (memory and memsw; quota, period and burst) can be refused in one order
    and not in the other, depending on the old values: whoever writes tries those again at the end.
    """
    if resources.get("unified"):
        first = next(iter(resources["unified"]))
        raise NotImplementedHere(f"linux.resources.unified.{first}: this host's controllers are in cgroup v1, which has no such files")
    return [
        *_memory(resources.get("memory") or {}, files),
        *_cpu(resources.get("cpu") or {}, files),
        *_pids(resources.get("pids") or {}),
        *_block_io(resources.get("blockIO") or {}, files),
        *_huge_pages(resources.get("hugepageLimits") or [], files),
        *_network(resources.get("network") or {}),
        *(("rdma", "rdma.max", line, "an RDMA limit") for line in cgroup_resources.rdma(resources.get("rdma") or {})),
        *_devices(resources.get("devices") or [], files),
    ]


_MEMSW = "memory.memsw.limit_in_bytes"


def _memory(memory: dict, files: Files) -> list[Setting]:
    found: list[Setting] = []
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    cgroup_resources.check_swap(memory)
    if memory.get("checkBeforeUpdate"):
        cgroup_resources.check_usage(memory, "limit", files.read("memory.usage_in_bytes"))
        cgroup_resources.check_usage(memory, "swap", files.read("memory.memsw.usage_in_bytes"))
    if limit < 0 and not swap and files.has(_MEMSW):
        swap = -1  # "unlimited" alone would be cut at the old sum of memory and swap
    # memsw may never be below limit: on the way up from "unlimited", limit goes first.
    if limit:
        found.append(("memory", "memory.limit_in_bytes", str(limit), "the memory limit"))
    if swap:
        found.append(("memory", _MEMSW, str(swap), "the memory and swap limit"))
    if memory.get("reservation"):
        value = str(memory["reservation"])
        found.append(("memory", "memory.soft_limit_in_bytes", value, "the memory reservation"))
    if memory.get("kernelTCP"):
        value = str(memory["kernelTCP"])
        found.append(("memory", "memory.kmem.tcp.limit_in_bytes", value, "the kernel TCP memory limit"))
    swappiness = cgroup_resources.swappiness(memory)
    if swappiness is not None:
        found.append(("memory", "memory.swappiness", str(swappiness), "the swappiness"))
    if memory.get("disableOOMKiller"):
        found.append(("memory", "memory.oom_control", "1", "switching the OOM killer off"))
    elif memory.get("disableOOMKiller") is False and files.live:
        found.append(("memory", "memory.oom_control", "0", "switching the OOM killer on"))
    hierarchy = memory.get("useHierarchy")
    if hierarchy is not None and files.read("memory.use_hierarchy") != str(int(hierarchy)):
        # Linux 5.11 and later know nothing but 1, and refuse 0.
        found.append(("memory", "memory.use_hierarchy", str(int(hierarchy)), "hierarchical memory accounting (useHierarchy)"))
    return found


def _cpu(cpu: dict, files: Files) -> list[Setting]:
    names = (
        ("shares", "cpu", "cpu.shares", "the CPU shares"),
        ("period", "cpu", "cpu.cfs_period_us", "the CPU period"),
        ("quota", "cpu", "cpu.cfs_quota_us", "the CPU quota"),
        ("burst", "cpu", "cpu.cfs_burst_us", "the CPU burst"),
        ("realtimePeriod", "cpu", "cpu.rt_period_us", "the real-time CPU period"),
        ("realtimeRuntime", "cpu", "cpu.rt_runtime_us", "the real-time CPU runtime"),
        ("cpus", "cpuset", "cpuset.cpus", "the CPU set"),
        ("mems", "cpuset", "cpuset.mems", "the memory node set"),
    )
    before, after = cgroup_resources.idle_steps(cpu.get("idle"), bool(cpu.get("shares")), files.live)
    found: list[Setting] = []
    if before:
        found.append(("cpu", "cpu.idle", before, "the CPU idle class"))
    for key, at, file, what in names:
        value = cpu.get(key)
        if value or (key == "burst" and value == 0 and files.live):
            found.append((at, file, str(value), what))
    if after:
        found.append(("cpu", "cpu.idle", after, "the CPU idle class"))
    return found


def _pids(pids: dict) -> list[Setting]:
    limit = pids.get("limit")
    if limit is None or limit == 0:
        return []
    return [("pids", "pids.max", "max" if limit < 0 else str(limit), "the process limit")]


def _block_io(block: dict, files: Files) -> list[Setting]:
    """Since CFQ went (Linux 5.0) weights are BFQ's, whose files have its name in theirs."""
    found: list[Setting] = []
    weight = ("blkio.weight", "blkio.weight_device")
    weights = block.get("weight") or block.get("weightDevice")
    if weights and not files.has(weight[0]) and files.has("blkio.bfq.weight"):
        weight = ("blkio.bfq.weight", "blkio.bfq.weight_device")
    if block.get("weight"):
        found.append(("blkio", weight[0], str(block["weight"]), "the block I/O weight"))
    if block.get("leafWeight"):
        found.append(("blkio", "blkio.leaf_weight", str(block["leafWeight"]), "the block I/O leaf weight"))
    for device in block.get("weightDevice") or ():
        number = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            found.append(("blkio", weight[1], f"{number} {device['weight']}", "the block I/O weight of a device"))
        if device.get("leafWeight"):
            value = f"{number} {device['leafWeight']}"
            found.append(("blkio", "blkio.leaf_weight_device", value, "the block I/O leaf weight of a device"))
    for key, file, _ in cgroup_resources.THROTTLES:
        for device in block.get(key) or ():
            value = f"{device['major']}:{device['minor']} {device['rate']}"
            found.append(("blkio", file, value, "a block I/O rate"))
    return found


def _huge_pages(limits: list[dict], files: Files) -> list[Setting]:
    """Both what is used and, where the kernel counts it, what is reserved: mmap fails then, no SIGBUS later."""
    found: list[Setting] = []
    for limit in limits:
        size, value = cgroup_resources.page_size(limit), str(limit["limit"])
        found.append(("hugetlb", f"hugetlb.{size}.limit_in_bytes", value, "a huge page limit"))
        if files.has(f"hugetlb.{size}.rsvd.limit_in_bytes"):
            found.append(("hugetlb", f"hugetlb.{size}.rsvd.limit_in_bytes", value, "a huge page limit"))
    return found


def _network(network: dict) -> list[Setting]:
    found: list[Setting] = []
    if network.get("classID"):
        found.append(("net_cls", "net_cls.classid", str(network["classID"]), "the network class"))
    for priority in network.get("priorities") or ():
        value = f"{priority['name']} {priority['priority']}"
        found.append(("net_prio", "net_prio.ifpriomap", value, "a network priority"))
    return found


# -- devices ---------------------------------------------------------------------------------------

_EVERYTHING = "a *:* rwm"
DeviceList = dict[tuple[str, str], str]  # (type, "major:minor") -> letters allowed


def _devices(rules: list[dict], files: Files) -> list[Setting]:
    """One write for each rule, in order; in a live group only the difference, allowing first.

    Replaying "deny all, allow null" on a running container would take /dev/null away for a moment, and
    the kernel refuses "deny all" to a group that has groups below it.
    """
    current = files.read("devices.list") if files.live and rules else ""
    target = device_list(rules) if current and current != _EVERYTHING else None
    if target is not None:
        return _transition(_parse_devices(current), target)
    return [_device_setting(bool(rule.get("allow")), device_rule(rule)) for rule in rules]


def _device_setting(allow: bool, value: str) -> Setting:
    return ("devices", "devices.allow" if allow else "devices.deny", value, "a device rule")


def device_rule(rule: dict) -> str:
    kind = rule.get("type") or "a"
    if kind == "a":
        return "a"
    return f"{kind} {device_number(rule.get('major'))}:{device_number(rule.get('minor'))} {rule.get('access') or 'rwm'}"


def device_number(number: int | None) -> str:
    """OCI says absent or -1 for every number, the kernel says '*'."""
    return "*" if number is None or number < 0 else str(number)


def device_list(rules: list[dict]) -> DeviceList | None:
    """What devices.list would say after these rules; None where all is allowed but for exceptions."""
    found: DeviceList | None = None
    for rule in rules:
        value = device_rule(rule)
        if value == "a":
            found = None if rule.get("allow") else {}
        elif found is not None:
            kind, number, letters = value.split()
            have = set(found.get((kind, number), ""))
            have = have | set(letters) if rule.get("allow") else have - set(letters)
            found[kind, number] = "".join(sorted(have))
    return found


def _parse_devices(text: str) -> DeviceList:
    found: DeviceList = {}
    for line in text.splitlines():
        kind, number, letters = line.split()
        found[kind, number] = "".join(sorted(set(found.get((kind, number), "")) | set(letters)))
    return found


def _transition(current: DeviceList, target: DeviceList) -> list[Setting]:
    found: list[Setting] = []
    for allow, have, want in ((True, current, target), (False, target, current)):
        for key, letters in want.items():
            missing = "".join(letter for letter in letters if letter not in have.get(key, ""))
            if missing:
                found.append(_device_setting(allow, f"{key[0]} {key[1]} {missing}"))
    return found


def oom_kills(oom_control: str) -> int:
    """The `oom_kill` counter of memory.oom_control (Linux 4.13 and later)."""
    for line in oom_control.splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
