"""OCI resources -> files of cgroup v2, and device rules -> an eBPF program. Pure but for the attaching.

Source: OCI runtime spec config-linux.md#control-groups and config-linux.md#unified;
Documentation/admin-guide/cgroup-v2.rst; the v1 to v2 formulas are those runc and crun agreed on.
"""

import os
import struct

from berth.errors import InvalidSpec
from berth.linux import libc

Setting = tuple[str, str, str]  # file, value, what a person would call it


def settings(resources: dict) -> list[Setting]:
    """What to write, in the order the kernel accepts it."""
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *_pids(resources.get("pids") or {}),
        *_block_io(resources.get("blockIO") or {}),
        *_huge_pages(resources.get("hugepageLimits") or []),
        *((file, str(value), f"{file} (unified)") for file, value in (resources.get("unified") or {}).items()),
    ]


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


def _memory(memory: dict) -> list[Setting]:
    found: list[Setting] = []
    limit, swap = memory.get("limit"), memory.get("swap")
    if swap:
        found.append(("memory.swap.max", swap_of_memsw(swap, limit or 0), "the memory and swap limit"))
    if limit is not None:
        found.append(("memory.max", _maximum(limit), "the memory limit"))
    if memory.get("reservation") is not None:
        found.append(("memory.low", _maximum(memory["reservation"]), "the memory reservation"))
    return found


def _cpu(cpu: dict) -> list[Setting]:
    found: list[Setting] = []
    if cpu.get("shares"):
        found.append(("cpu.weight", str(weight_of_shares(cpu["shares"])), "the CPU shares"))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        limit = str(quota) if quota and quota > 0 else "max"
        found.append(("cpu.max", f"{limit} {period or 100000}", "the CPU quota"))
    if cpu.get("burst"):
        found.append(("cpu.max.burst", str(cpu["burst"]), "the CPU burst"))
    if cpu.get("idle") is not None:
        found.append(("cpu.idle", str(cpu["idle"]), "the CPU idle class"))
    if cpu.get("cpus"):
        found.append(("cpuset.cpus", cpu["cpus"], "the CPU set"))
    if cpu.get("mems"):
        found.append(("cpuset.mems", cpu["mems"], "the memory node set"))
    return found


def _pids(pids: dict) -> list[Setting]:
    limit = pids.get("limit")
    return [] if limit in (None, 0) else [("pids.max", _maximum(limit), "the process limit")]


def _block_io(block: dict) -> list[Setting]:
    found: list[Setting] = []
    if block.get("weight"):
        found.append(("io.weight", f"default {weight_of_blkio(block['weight'])}", "the block I/O weight"))
    for device in block.get("weightDevice") or ():
        value = f"{device['major']}:{device['minor']} {weight_of_blkio(device['weight'])}"
        found.append(("io.weight", value, "the block I/O weight of a device"))
    throttles = (
        ("throttleReadBpsDevice", "rbps"), ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"), ("throttleWriteIOPSDevice", "wiops"),
    )  # fmt: skip
    for key, name in throttles:
        for device in block.get(key) or ():
            value = f"{device['major']}:{device['minor']} {name}={device['rate']}"
            found.append(("io.max", value, "a block I/O rate"))
    return found


def _huge_pages(limits: list[dict]) -> list[Setting]:
    return [(f"hugetlb.{limit['pageSize']}.max", str(limit["limit"]), "a huge page limit") for limit in limits]


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


def attach_device_filter(directory: str, rules: list[dict]) -> None:
    """Loads the program and attaches it to the cgroup at `directory`; the group then keeps it alive."""
    program_fd = libc.bpf_load_cgroup_device(device_program(rules))
    try:
        cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.bpf_attach(cgroup_fd, program_fd)
        finally:
            os.close(cgroup_fd)
    finally:
        os.close(program_fd)
