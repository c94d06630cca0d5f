"""What fields of `config.json` may not say together, and how a problem is worded. Pure.

A rule gets an object or array of which every part is right by itself, its JSON path, and `Problems`
to report to. `spec_fields` puts most rules beside the table they look at; those in `BETWEEN` look at
distant parts of the file, and name them, so that one wrong field is not complained of twice.

Source: OCI runtime specification 1.0 to 1.3; what the kernel refuses is named where it does.
"""

from berth.errors import InvalidSpec
from berth.models import jsonlite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Rule = Callable[[Any, str, "Problems"], None]

_MOST_LINES = 20
_MOST_PROBLEMS = 1000  # after which nobody reads on, and neither does the check
_MOST_CHARACTERS = 80
_NO_ID = (1 << 32) - 1


class Problems:
    """Collects what is wrong, so that a person mends a file once and not field by field."""

    __slots__ = ("count", "lines", "paths")

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[str] = []
        self.paths: list[str] = []

    def says(self, path: str, text: str) -> None:
        """Reports `text` about what stands at `path`; the path is the start of the line.

        Raises InvalidSpec itself once there are so many that the file is not what it was taken for.
        """
        self.count += 1
        if self.count <= _MOST_LINES:
            self.lines.append(f"{path}: {text}")
        self.paths.append(path)
        if self.count == _MOST_PROBLEMS:
            self.raise_any()

    def wrong(self, path: str, expected: str, value: object) -> None:
        """Reports a value that is not what was expected."""
        self.says(path, f"expected {expected}, got {show(value)}")

    def missing(self, path: str, expected: str) -> None:
        """Reports a required field that is absent or null."""
        self.says(path, f"is missing, expected {expected}")

    def raise_any(self) -> None:
        """Raises InvalidSpec with one line for each problem, the first twenty of them."""
        if self.count:
            more = self.count - len(self.lines)
            least = "at least " if self.count == _MOST_PROBLEMS else ""
            raise InvalidSpec("\n".join([*self.lines, *([f"and {least}{more} more"] if more else [])]))


def show(value: object) -> str:
    """A value as a message has it: JSON on one line, cut short. What a bundle says may be hostile and huge."""
    if isinstance(value, dict):
        return "an object" if value else "{}"
    if isinstance(value, list):
        return "an array" if value else "[]"
    try:
        text = jsonlite.dumps(value)
    except (TypeError, ValueError):  # an int of more digits than Python prints; not from JSON at all
        return f"a {type(value).__name__}"
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}... ({len(text)} characters)"


# -- rules of one object or array ------------------------------------------------------------------------


def no_two_of(field: str) -> "Callable[[list, str, Problems], None]":
    """No two entries of an array have the same `field`."""

    def rule(entries: list, path: str, found: Problems) -> None:
        seen: dict[str, int] = {}
        for index, entry in enumerate(entries):
            first = seen.setdefault(entry[field], index)
            if first != index:
                found.says(f"{path}[{index}].{field}", f"{show(entry[field])} is listed twice, first in {path}[{first}]")

    return rule


def one_of_both(first: str, second: str) -> "Callable[[dict, str, Problems], None]":
    """An entry sets at least one of two fields; with neither it says nothing."""

    def rule(entry: dict, path: str, found: Problems) -> None:
        if entry.get(first) is None and entry.get(second) is None:
            found.says(path, f"has neither {first} nor {second}, expected at least one")

    return rule


def errno_fits(action: str, errno: str) -> "Callable[[dict, str, Problems], None]":
    """An errno only goes with an action that returns one (config-linux.md#seccomp: MUST fail)."""

    def rule(entry: dict, path: str, found: Problems) -> None:
        if entry.get(errno) is not None and entry[action] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            found.says(
                f"{path}.{errno}",
                f"{entry[errno]} cannot go with {action} {entry[action]}, expected SCMP_ACT_ERRNO or SCMP_ACT_TRACE",
            )

    return rule


def metadata_has_listener(seccomp: dict, path: str, found: Problems) -> None:
    """config-linux.md#seccomp: metadata MUST NOT be set without a listener to send it to."""
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        found.says(f"{path}.listenerMetadata", f"{show(seccomp['listenerMetadata'])} is given without a listenerPath")


def soft_within_hard(limit: dict, path: str, found: Problems) -> None:
    """setrlimit(2): EINVAL. -1 is no limit, as in the files of cgroups and in Docker's API."""
    soft, hard = (value if value >= 0 else (1 << 64) - 1 for value in (limit["soft"], limit["hard"]))
    if soft > hard:
        found.says(f"{path}.soft", f"{limit['soft']} is above hard {limit['hard']}")


def scheduler_fits_policy(scheduler: dict, path: str, found: Problems) -> None:
    """sched_setattr(2): which policy takes which of the numbers."""
    policy = scheduler["policy"]
    if scheduler.get("priority") and policy not in ("SCHED_FIFO", "SCHED_RR"):
        found.says(f"{path}.priority", f"{scheduler['priority']} cannot go with policy {policy}, expected SCHED_FIFO or SCHED_RR")
    times = [scheduler.get(name) or 0 for name in ("runtime", "deadline", "period")]
    if policy != "SCHED_DEADLINE":
        for name, value in zip(("runtime", "deadline", "period"), times, strict=True):
            if value:
                found.says(f"{path}.{name}", f"{value} cannot go with policy {policy}, expected SCHED_DEADLINE")
    elif times[0] > times[1] or times[1] > (times[2] or times[1]):
        found.says(path, f"expected runtime <= deadline <= period, got {times[0]}, {times[1]}, {times[2]}")


def mapping_ends_within_ids(mapping: dict, path: str, found: Problems) -> None:
    """kernel/user_namespace.c, map_write(): the last id is below 4294967295, which is none."""
    for name in ("containerID", "hostID"):
        if mapping[name] + mapping["size"] > _NO_ID:
            found.says(f"{path}.size", f"{mapping['size']} ids from {name} {mapping[name]} go past the last id, {_NO_ID - 1}")


def mappings_are_apart(mappings: list, path: str, found: Problems) -> None:
    """kernel/user_namespace.c, mappings_overlap(): on neither side; and UID_GID_MAP_MAX_EXTENTS."""
    if len(mappings) > 340:
        found.says(path, f"has {len(mappings)} entries, the kernel takes at most 340")
    for name in ("containerID", "hostID"):
        end, last = 0, -1
        for index in sorted(range(len(mappings)), key=lambda index: mappings[index][name]):
            if mappings[index][name] < end:
                found.says(f"{path}[{index}].{name}", f"{mappings[index][name]} is also in the range of {path}[{last}]")
            if mappings[index][name] + mappings[index]["size"] > end:
                end, last = mappings[index][name] + mappings[index]["size"], index


def both_mappings(mount: dict, path: str, found: Problems) -> None:
    """config.md#mounts: uidMappings and gidMappings of a mount MUST be given together."""
    for name, other in (("uidMappings", "gidMappings"), ("gidMappings", "uidMappings")):
        if mount.get(name) and not mount.get(other):
            found.says(f"{path}.{other}", f"is missing, expected an array as there is {name}")


def device_has_numbers(device: dict, path: str, found: Problems) -> None:
    """config-linux.md#devices: REQUIRED unless it is a FIFO. A default of 0 would be another device."""
    for name in ("major", "minor"):
        if device["type"] != "p" and device.get(name) is None:
            found.missing(f"{path}.{name}", "a device number")


def net_names_are_apart(devices: dict, path: str, found: Problems) -> None:
    """Two devices cannot have one name in one namespace."""
    seen: dict[str, str] = {}
    for host_name, device in devices.items():
        name = device.get("name") or host_name
        first = seen.setdefault(name, host_name)
        if first != host_name:
            found.says(f"{path}[{show(host_name)}].name", f"{show(name)} is also the name of {path}[{show(first)}]")


def swap_holds_memory(memory: dict, path: str, found: Problems) -> None:
    """`swap` is memory and swap together; 0 is not set, -1 no limit."""
    swap, limit = memory.get("swap") or 0, memory.get("limit") or 0
    if 0 < swap < limit:
        found.says(f"{path}.swap", f"{swap} is below limit {limit}; it is the limit of memory and swap together")


def burst_within_quota(cpu: dict, path: str, found: Problems) -> None:
    """config-linux.md#cpu: MUST be no larger than any positive quota."""
    quota, burst = cpu.get("quota") or 0, cpu.get("burst") or 0
    if 0 < quota < burst:
        found.says(f"{path}.burst", f"{burst} is above quota {quota}")


def runtime_within_period(cpu: dict, path: str, found: Problems) -> None:
    """kernel/sched/rt.c, tg_rt_schedulable(): EINVAL."""
    runtime, period = cpu.get("realtimeRuntime") or 0, cpu.get("realtimePeriod") or 0
    if 0 < period < runtime:
        found.says(f"{path}.realtimeRuntime", f"{runtime} is above realtimePeriod {period}")


def nodes_fit_mode(policy: dict, path: str, found: Problems) -> None:
    """set_mempolicy(2): which mode takes nodes, and which cannot be without."""
    mode, nodes = policy["mode"], policy.get("nodes") or ""
    if nodes and mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        found.says(f"{path}.nodes", f"{show(nodes)} cannot go with mode {mode}, expected none")
    if not nodes and mode in ("MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED_MANY"):
        found.missing(f"{path}.nodes", f"a list of nodes for mode {mode}")


# -- rules between distant parts ---------------------------------------------------------------------------


def _namespaces(spec: dict) -> dict[str, str]:
    return {entry["type"]: entry.get("path") or "" for entry in (spec.get("linux") or {}).get("namespaces") or []}


def user_namespace_has_mappings(spec: dict, found: Problems) -> None:
    """Without a map every id in a new namespace is the overflow id; without the namespace a map is nobody's.

    A namespace that is joined has its map already; containerd gives it once more, which is no harm.
    """
    namespaces, linux = _namespaces(spec), spec.get("linux") or {}
    for name in ("uidMappings", "gidMappings"):
        given = linux.get(name)
        if given and "user" not in namespaces:
            found.says(f"linux.{name}", "expected a user namespace in linux.namespaces beside it, got none")
        if not given and namespaces.get("user") == "":
            found.says(f"linux.{name}", "is missing, a new user namespace needs uidMappings and gidMappings")


def names_need_uts(spec: dict, found: Problems) -> None:
    """config.md#hostname. With the host's namespace it would be the host that gets the name."""
    for name in ("hostname", "domainname"):
        if spec.get(name) and "uts" not in _namespaces(spec):
            found.says(name, f"{show(spec[name])} cannot be set without a uts namespace")


def offsets_need_time_namespace(spec: dict, found: Problems) -> None:
    """time_namespaces(7): offsets can be set only until the first process is in it, so it must be new."""
    if (spec.get("linux") or {}).get("timeOffsets") and _namespaces(spec).get("time") != "":
        found.says("linux.timeOffsets", "cannot be set without a new time namespace in linux.namespaces")


def net_devices_need_network(spec: dict, found: Problems) -> None:
    """config-linux.md#network-devices: there must be a namespace to move them to."""
    if (spec.get("linux") or {}).get("netDevices") and "network" not in _namespaces(spec):
        found.says("linux.netDevices", "cannot be moved without a network namespace in linux.namespaces")


# (what a rule looks at, the rule): it is left out where one of those is wrong already.
BETWEEN: "tuple[tuple[tuple[str, ...], Callable[[dict, Problems], None]], ...]" = (
    (("linux.namespaces", "linux.uidMappings", "linux.gidMappings"), user_namespace_has_mappings),
    (("linux.namespaces", "hostname", "domainname"), names_need_uts),
    (("linux.namespaces", "linux.timeOffsets"), offsets_need_time_namespace),
    (("linux.namespaces", "linux.netDevices"), net_devices_need_network),
)
