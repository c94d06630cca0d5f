"""What a group's counters say of a container that has just ended: they go with the group."""

from berth.linux.cgroup_base import Cgroup, GroupFiles

# v1 writes "no limit" as the largest number of pages, v2 as "max".
_UNLIMITED_BYTES = 1 << 62


def counters(group: Cgroup) -> dict[str, int]:
    """Memory limit and peak in bytes, and how often a new process was refused; what is unlimited or not known is left out."""
    files = GroupFiles(group)
    limit = _number(files.read("memory.limit_in_bytes") or files.read("memory.max"))
    peak = _number(files.read("memory.max_usage_in_bytes") or files.read("memory.peak"))
    events = files.read("pids.events").split()
    found = {
        "memory_limit_bytes": limit if limit < _UNLIMITED_BYTES else 0, "memory_peak_bytes": peak,
        "pids_limit": _number(files.read("pids.max")), "pids_refused": _number(events[1]) if events[:1] == ["max"] else 0,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
