"""OCI resources -> files of cgroup v2, and device rules -> an eBPF program. Pure but for the attaching.

Source: OCI runtime spec config-linux.md#control-groups and config-linux.md#unified;
Documentation/admin-guide/cgroup-v2.rst; the v1 to v2 formulas are those runc and crun agreed on.
"""

import errno
import os
import struct

from berth.errors import InvalidSpec, NotImplementedHere
from berth.linux import cgroup_resources, libc
from berth.linux.cgroup_resources import FRESH, Files

Setting = tuple[str, str, str]  # file, value, what a person would call it


def settings(resources: dict, files: Files = FRESH) -> list[Setting]:
    """What to write. Quota and burst limit each other: whoever writes tries a refused one again at the end."""
    _refuse_version_1(resources)
    return [
        *_memory(resources.get("memory") or {}, files),
        *_cpu(resources.get("cpu") or {}, files),
        *_pids(resources.get("pids") or {}),
        *_block_io(resources.get("blockIO") or {}, files),
        *_huge_pages(resources.get("hugepageLimits") or [], files),
        *(("rdma.max", line, "an RDMA limit") for line in cgroup_resources.rdma(resources.get("rdma") or {})),
        *_unified(resources.get("unified") or {}),
    ]


# What v2 has no file for. `memory.kernel` is not here: v1 kernels since 5.16 ignore it, and so does runc.
_VERSION_1_ONLY = (
    ("memory", "kernelTCP"), ("memory", "disableOOMKiller"), ("cpu", "realtimePeriod"), ("cpu", "realtimeRuntime"),
    ("blockIO", "leafWeight"), ("network", "classID"), ("network", "priorities"),
)  # fmt: skip


def _refuse_version_1(resources: dict) -> None:
    named = [f"{part}.{key}" for part, key in _VERSION_1_ONLY if (resources.get(part) or {}).get(key)]
    memory = resources.get("memory") or {}
    if cgroup_resources.swappiness(memory) is not None:
        named.append("memory.swappiness")
    if memory.get("useHierarchy") is False:
        named.append("memory.useHierarchy")
    if any(device.get("leafWeight") for device in (resources.get("blockIO") or {}).get("weightDevice") or ()):
        named.append("blockIO.weightDevice.leafWeight")
    if named:
        raise NotImplementedHere(f"linux.resources.{named[0]}: this host has cgroup v2, which has nothing like it; leave it out")


def weight_of_shares(shares: int) -> int:
    """cpu.shares (2 to 262144, default 1024) -> cpu.weight (1 to 10000, default 100)."""
    if shares == 0:
        return 0
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def weight_of_blkio(weight: int) -> int:
    """blkio.weight (10 to 1000) -> io.weight (1 to 10000)."""
    return 0 if weight == 0 else 1 + (weight - 10) * 9999 // 990


def swap_of_memsw(memsw_bytes: int, memory_bytes: int) -> str:
    """v1 counts memory and swap together, v2 counts swap alone; 'max' for unlimited."""
    if memsw_bytes < 0:
        return "max"
    if memory_bytes <= 0:
        raise InvalidSpec("linux.resources.memory.swap: cgroup v2 counts swap alone, so it needs memory.limit besides")
    return str(max(0, memsw_bytes - memory_bytes))


def _maximum(value: int) -> str:
    return "max" if value < 0 else str(value)


def _memory(memory: dict, files: Files) -> list[Setting]:
    found: list[Setting] = []
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if memory.get("checkBeforeUpdate"):
        cgroup_resources.check_usage(memory, "limit", files.read("memory.current"))
    if swap > 0 and limit == 0 and files.live:
        have = files.read("memory.max")
        limit_for_swap = int(have) if have.isdigit() else 0
    else:
        limit_for_swap = limit
    if swap:
        value = swap_of_memsw(swap, limit_for_swap)
        cgroup_resources.check_swap({"limit": limit_for_swap, "swap": swap})
        if value != "max" and memory.get("checkBeforeUpdate"):
            cgroup_resources.check_usage({**memory, "swap": int(value)}, "swap", files.read("memory.swap.current"))
        found.append(("memory.swap.max", value, "the memory and swap limit"))
    elif limit < 0:
        found.append(("memory.swap.max", "max", "the memory and swap limit"))
    if limit:
        found.append(("memory.max", _maximum(limit), "the memory limit"))
    if memory.get("reservation"):
        found.append(("memory.low", _maximum(memory["reservation"]), "the memory reservation"))
    return found


def _cpu(cpu: dict, files: Files) -> list[Setting]:
    found: list[Setting] = []
    before, after = cgroup_resources.idle_steps(cpu.get("idle"), bool(cpu.get("shares")), files.live)
    if before:
        found.append(("cpu.idle", before, "the CPU idle class"))
    if cpu.get("shares"):
        found.append(("cpu.weight", str(weight_of_shares(cpu["shares"])), "the CPU shares"))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        # One number alone leaves the period as it is; for the quota its old value has to be said again.
        limit = _maximum(quota) if quota else (files.read("cpu.max").partition(" ")[0] or "max")
        found.append(("cpu.max", f"{limit} {period}" if period else limit, "the CPU quota"))
    burst = cpu.get("burst")
    if burst or (burst == 0 and files.live):
        found.append(("cpu.max.burst", str(burst), "the CPU burst"))
    if after:
        found.append(("cpu.idle", after, "the CPU idle class"))
    if cpu.get("cpus"):
        found.append(("cpuset.cpus", cpu["cpus"], "the CPU set"))
    if cpu.get("mems"):
        found.append(("cpuset.mems", cpu["mems"], "the memory node set"))
    return found


def _pids(pids: dict) -> list[Setting]:
    limit = pids.get("limit")
    return [] if limit in (None, 0) else [("pids.max", _maximum(limit), "the process limit")]


def _block_io(block: dict, files: Files) -> list[Setting]:
    """Weights are BFQ's (1 to 1000, as v1 had them) or iocost's (1 to 10000): of the one that is there, of both if both."""
    found: list[Setting] = []
    weights = block.get("weight") or block.get("weightDevice")
    bfq = bool(weights) and files.has("io.bfq.weight")
    cost = not bfq or files.has("io.weight")
    if block.get("weight") and bfq:
        found.append(("io.bfq.weight", str(block["weight"]), "the block I/O weight"))
    if block.get("weight") and cost:
        found.append(("io.weight", f"default {weight_of_blkio(block['weight'])}", "the block I/O weight"))
    for device in block.get("weightDevice") or ():
        if device.get("weight"):  # a disk has one scheduler, and whose it is not refuses
            file, weight = ("io.bfq.weight", device["weight"]) if bfq else ("io.weight", weight_of_blkio(device["weight"]))
            found.append((file, f"{device['major']}:{device['minor']} {weight}", "the block I/O weight of a device"))
    for key, _, name in cgroup_resources.THROTTLES:
        for device in block.get(key) or ():
            value = f"{device['major']}:{device['minor']} {name}={device['rate'] or 'max'}"
            found.append(("io.max", value, "a block I/O rate"))
    return found


def _huge_pages(limits: list[dict], files: Files) -> list[Setting]:
    found: list[Setting] = []
    for limit in limits:
        size, value = cgroup_resources.page_size(limit), str(limit["limit"])
        found.append((f"hugetlb.{size}.max", value, "a huge page limit"))
        if files.has(f"hugetlb.{size}.rsvd.max"):
            found.append((f"hugetlb.{size}.rsvd.max", value, "a huge page limit"))
    return found


# Files of the core that are limits. The others would move, stop or kill: cgroup.procs takes any pid of
# the host, so a bundle that may write it is not confined to itself.
_CORE_LIMITS = ("cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure")


def _unified(files: dict) -> list[Setting]:
    found: list[Setting] = []
    for file, text in files.items():
        plain = file.isascii() and file.replace(".", "").replace("_", "").replace("-", "").isalnum()
        controller, _, rest = file.partition(".")
        if not plain or not controller or not rest:
            raise InvalidSpec(f"linux.resources.unified: {file!r} is not the name of a cgroup file, like memory.high")
        if controller == "cgroup" and file not in _CORE_LIMITS:
            raise InvalidSpec(f"linux.resources.unified.{file}: not a limit; of cgroup.* only {', '.join(_CORE_LIMITS)} may be set")
        # The spec's example has two lines in io.max; the kernel takes one line in each write.
        found += [(file, line, f"{file} (unified)") for line in str(text).splitlines() or [""]]
    return found


# -- the device program --------------------------------------------------------------------------
#
# struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }: access in the upper 16 bits
# (1 mknod, 2 read, 4 write), type in the lower 16 (1 block, 2 char). Rules are tested from the last
# to the first, so that, as in v1, a later rule overrules an earlier one, each access for itself: an
# allowing rule strikes what it allows off the request, a denying one denies if any of it is left.

_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPE = {"b": 1, "c": 2}
_R0, _R1, _R2, _R3, _R4, _R5 = range(6)
_LDX_W, _MOV_IMM, _MOV_REG, _AND_IMM, _RSH_IMM, _EXIT = 0x61, 0xB7, 0xBC, 0x54, 0x74, 0x95
_JEQ_IMM, _JNE_IMM = 0x15, 0x55


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, immediate)


def device_program(rules: list[dict]) -> bytes:
    """OCI device rules -> eBPF instructions; what no rule names is denied."""
    program = [
        _instruction(_LDX_W, _R2, _R1, 0), _instruction(_AND_IMM, _R2, immediate=0xFFFF),
        _instruction(_LDX_W, _R3, _R1, 0), _instruction(_RSH_IMM, _R3, immediate=16),
        _instruction(_LDX_W, _R4, _R1, 4), _instruction(_LDX_W, _R5, _R1, 8),
    ]  # fmt: skip
    for rule in reversed(rules):
        body = [_instruction(_MOV_IMM, _R0, immediate=int(bool(rule.get("allow")))), _instruction(_EXIT)]
        program += _device_tests(rule, len(body)) + body
        if _matches_all(rule):
            break  # nothing before it can matter, and the verifier refuses unreachable code
    else:
        program += [_instruction(_MOV_IMM, _R0, immediate=0), _instruction(_EXIT)]
    return b"".join(program)


def _matches_all(rule: dict) -> bool:
    return (rule.get("type") or "a") == "a"


def _device_tests(rule: dict, body_length: int) -> list[bytes]:
    """Tests that jump past the body when the rule does not match."""
    if _matches_all(rule):
        return []
    flat = [_jump_unless(_R2, _TYPE["b" if rule["type"] == "b" else "c"])]
    for register, key in ((_R4, "major"), (_R5, "minor")):
        number = rule.get(key)
        if number is not None and number >= 0:
            flat.append(_jump_unless(register, number))
    named = sum(_ACCESS[letter] for letter in set(rule.get("access") or "rwm"))
    if named != 7 and rule.get("allow"):
        flat += [_instruction(_AND_IMM, _R3, immediate=~named & 7), _jump_unless(_R3, 0)]
    elif named != 7:
        flat += [
            _instruction(_MOV_REG, _R1, _R3), _instruction(_AND_IMM, _R1, immediate=named), _instruction(_JEQ_IMM, _R1),
        ]  # fmt: skip
    for index, instruction in enumerate(flat):
        if instruction[0] in (_JNE_IMM, _JEQ_IMM):
            past = len(flat) - index - 1 + body_length
            flat[index] = instruction[:2] + struct.pack("<h", past) + instruction[4:]
    return flat


def _jump_unless(register: int, value: int) -> bytes:
    return _instruction(_JNE_IMM, register, immediate=value)


def attach_device_filter(directory: str, rules: list[dict], live: bool = False) -> None:
    """Loads the program and attaches it to the cgroup at `directory`; the group then keeps it alive.

    All programs of a group must allow an access, so in a live group the old one has to go: first to
    last there is always one attached.
    """
    program_fd = libc.bpf_load_cgroup_device(device_program(rules))
    try:
        cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if live:
                _replace_device_filters(cgroup_fd, program_fd)
            else:
                libc.bpf_attach(cgroup_fd, program_fd)
        finally:
            os.close(cgroup_fd)
    finally:
        os.close(program_fd)


def _replace_device_filters(cgroup_fd: int, program_fd: int) -> None:
    flags, identities = libc.bpf_query(cgroup_fd)
    if identities and not flags & libc.BPF_F_ALLOW_MULTI:
        libc.bpf_attach(cgroup_fd, program_fd, flags)  # a group that takes one program replaces it by itself
        return
    old_fds: list[int] = []
    try:
        for identity in identities:
            old_fds.append(libc.bpf_program_fd(identity))
        if len(old_fds) == 1:
            try:
                libc.bpf_attach(cgroup_fd, program_fd, libc.BPF_F_ALLOW_MULTI | libc.BPF_F_REPLACE, old_fds[0])
                return
            except OSError as error:
                if error.errno != errno.EINVAL:  # before Linux 5.6 there is no BPF_F_REPLACE
                    raise
        libc.bpf_attach(cgroup_fd, program_fd)
        for old_fd in old_fds:
            libc.bpf_detach(cgroup_fd, old_fd)
    finally:
        for old_fd in old_fds:
            os.close(old_fd)
