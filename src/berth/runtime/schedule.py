"""Scheduler, I/O priority, CPU affinity and memory policy of a process: from the bundle's words to the kernel's numbers.

Imported only where a bundle has one of them. Scheduler and I/O priority are set by the parent, by pid:
a real-time policy takes CAP_SYS_NICE of the host, which root of a user namespace has not.

Source: OCI runtime specification, config.md#process and config-linux.md#memory-policy; sched_setattr(2),
ioprio_set(2), set_mempolicy(2); linux/sched.h, linux/ioprio.h, linux/mempolicy.h.
"""

import errno
import os
import struct

from berth.errors import InvalidSpec, StartFailed
from berth.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.runtime.plan import Process

_POLICIES = {name: number for number, name in enumerate(("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE"))}
_FLAGS = {
    name: 1 << bit
    for bit, name in enumerate(
        ("RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX")
    )
}
# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, util_min, util_max
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
_IO_CLASSES = {"RT": 1, "BE": 2, "IDLE": 3}
_IO_CLASS_SHIFT = 13
_MEMORY_MODES = {
    "DEFAULT": 0, "PREFERRED": 1, "BIND": 2, "INTERLEAVE": 3, "LOCAL": 4, "PREFERRED_MANY": 5, "WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
_MEMORY_FLAGS = {"STATIC_NODES": 1 << 15, "RELATIVE_NODES": 1 << 14, "NUMA_BALANCING": 1 << 13}
_MOST_NODES = 1 << 10  # CONFIG_NODES_SHIFT is at most 10
MOST_CPUS = 1 << 13  # the largest CONFIG_NR_CPUS


# -- words to numbers, pure --------------------------------------------------------------------------------


def scheduler(entry: dict) -> bytes:
    """process.scheduler as a struct sched_attr."""
    flags = sum({_FLAGS[name.removeprefix("SCHED_FLAG_")] for name in entry.get("flags") or []})
    times = (entry.get(name) or 0 for name in ("runtime", "deadline", "period"))
    policy = _POLICIES[entry["policy"].removeprefix("SCHED_")]
    return _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, flags, entry.get("nice") or 0, entry.get("priority") or 0, *times, 0, 0)


def io_priority(entry: dict) -> int:
    """process.ioPriority as IOPRIO_PRIO_VALUE has it."""
    return _IO_CLASSES[entry["class"].removeprefix("IOPRIO_CLASS_")] << _IO_CLASS_SHIFT | (entry.get("priority") or 0)


def affinity(entry: dict) -> "tuple[set[int], set[int]]":
    """process.execCPUAffinity: CPUs before and after the cgroup is entered. Of nothing said after, all that it has."""
    initial = numbers(entry.get("initial") or "", MOST_CPUS, "process.execCPUAffinity.initial")
    final = numbers(entry.get("final") or "", MOST_CPUS, "process.execCPUAffinity.final")
    return initial, final or (set(range(MOST_CPUS)) if initial else set())


def memory_policy(entry: dict) -> "tuple[int, bytes]":
    """linux.memoryPolicy: mode with its flags, and the mask of nodes in whole words."""
    mode = _MEMORY_MODES[entry["mode"].removeprefix("MPOL_")]
    mode |= sum({_MEMORY_FLAGS[name.removeprefix("MPOL_F_")] for name in entry.get("flags") or []})
    mask = sum(1 << node for node in numbers(entry.get("nodes") or "", _MOST_NODES, "linux.memoryPolicy.nodes"))
    words = -(-mask.bit_length() // 64)
    return mode, b"".join((mask >> 64 * word & (1 << 64) - 1).to_bytes(8, "little") for word in range(words))


def numbers(text: str, most: int, at: str) -> "set[int]":
    """A list of the kernel's such as `0-3,7` or `0-15:2/4` (two of every four); raises InvalidSpec above `most`."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        span, _, group = part.strip(" ").partition(":")
        first, _, last = span.partition("-")
        used, _, size = group.partition("/")
        start, end = int(first), int(last or first)
        if end >= most:
            raise InvalidSpec(f"{at}: {end} is more than the kernel knows, {most - 1} is the last")
        found.update(n for n in range(start, end + 1) if not group or (n - start) % int(size) < int(used))
    return found


# -- the kernel ------------------------------------------------------------------------------------------------


def apply(process: "Process", pid: int) -> None:
    """Scheduler and I/O priority of another process. Raises StartFailed."""
    if process.scheduler:
        try:
            libc.sched_setattr(pid, process.scheduler)
        except OSError as error:
            raise StartFailed(f"process.scheduler: {_shown(process.scheduler)}: {_why(error)}") from None
    if process.io_priority is not None:
        try:
            libc.ioprio_set(libc.IOPRIO_WHO_PROCESS, pid, process.io_priority)
        except OSError as error:
            level = process.io_priority & (1 << _IO_CLASS_SHIFT) - 1
            name = next(name for name, number in _IO_CLASSES.items() if number == process.io_priority >> _IO_CLASS_SHIFT)
            raise StartFailed(f"process.ioPriority: IOPRIO_CLASS_{name} {level}: {_why(error)}") from None


def set_affinity(pid: int, cpus: "set[int]", at: str) -> None:
    """CPUs that `pid` may run on, if any are said. Raises StartFailed."""
    if cpus:
        try:
            os.sched_setaffinity(pid, cpus)
        except OSError as error:
            raise StartFailed(
                f"process.execCPUAffinity.{at}: {os.strerror(error.errno or 0)}; the cgroup's cpuset, or the machine, has none of these CPUs"
            ) from None


def set_memory_policy(policy: "tuple[int, bytes]") -> None:
    """Of this process and what it executes. Raises StartFailed."""
    try:
        libc.set_mempolicy(*policy)
    except OSError as error:
        hint = {errno.EINVAL: "; a node is not there or not in the cgroup's cpuset, or mode and flags do not fit"}.get(error.errno or 0, "")
        raise StartFailed(f"linux.memoryPolicy: mode {policy[0]:#x}, nodes {policy[1].hex()}: {os.strerror(error.errno or 0)}{hint}") from None


def _shown(attributes: bytes) -> str:
    _, policy, flags, nice, priority, *_ = _ATTRIBUTES.unpack(attributes)
    name = next(name for name, number in _POLICIES.items() if number == policy)
    return f"SCHED_{name}, nice {nice}, priority {priority}, flags {flags:#x}"


def _why(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "Operation not permitted; it takes CAP_SYS_NICE, and CPU time for it in the cgroup (cpu.rt_runtime_us) or on all CPUs of the machine"
    return os.strerror(error.errno or 0)
