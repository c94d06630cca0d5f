"""What a group uses, in the words of `runc events`, and being told when it is out of memory.

    stats(group)          the `data` of `runc events --stats ID`, from v1's files or v2's
    oom_notifier(group)   something to poll for OOM kills

Source: runc's types/events.go: numbers that are 0 are left out where it says omitempty. What v2 counts
alone (swap) is summed up as v1 did, as runc does.
"""

import os
import select

from berth.errors import NotImplementedHere
from berth.linux import cgroup

_UNLIMITED = 2**64 - 1
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def stats(group: cgroup.Cgroup) -> dict:
    """What the group uses now. A controller that is not there has its empty value."""

    def read(file: str) -> str:
        directory = group.directory_of("cpuacct" if file.startswith("cpuacct.") else file.partition(".")[0])
        return cgroup.read_file(f"{directory}/{file}") if directory else ""

    v1 = isinstance(group, cgroup.CgroupV1)
    try:
        names = os.listdir(group.directory_of("hugetlb")) if group.directory_of("hugetlb") else []
    except OSError:
        names = []
    pids = {"current": number(read("pids.current")), "limit": limited(read("pids.max"))}
    return {
        "cpu": cpu_v1(read) if v1 else cpu_v2(read),
        "cpuset": cpuset(read) if v1 else cpuset(lambda file: ""),
        "memory": memory_v1(read) if v1 else memory_v2(read),
        "pids": _without_zeros(pids),
        "blkio": block_io_v1(read) if v1 else block_io_v2(read),
        "hugetlb": huge_pages(read, names),
        "intel_rdt": {},
        "network_interfaces": None,
    }


# -- small parsers ---------------------------------------------------------------------------------

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], str]


def number(text: str) -> int:
    """One number of a file; 'max' is as much as there can be, nothing is 0."""
    text = text.strip()
    return _UNLIMITED if text == "max" else int(text or 0)


def limited(text: str) -> int:
    """The same, with 0 for no limit."""
    return 0 if text.strip() == "max" else number(text)


def pairs(text: str) -> dict[str, int]:
    """Lines of a name and a number, by name."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            found[name] = int(value)
    return found


def ranges(text: str) -> list[int]:
    """'0-2,5' -> 0, 1, 2, 5."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def pressure(text: str) -> dict:
    """A pressure file as runc has it: {} where the kernel counts none."""
    found: dict[str, dict] = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = dict(field.split("=") for field in fields)
        found[kind] = {key: float(values[key]) for key in ("avg10", "avg60", "avg300")} | {"total": int(values["total"])}
    return found


def _without_zeros(values: dict) -> dict:
    return {key: value for key, value in values.items() if value}


def _with_pressure(values: dict, text: str) -> dict:
    return {**values, "psi": pressure(text)} if text else values


# -- cpu -------------------------------------------------------------------------------------------


def cpu_v1(read: "Read") -> dict:
    usage: dict[str, object] = {"total": number(read("cpuacct.usage"))}
    usage["percpu"] = [int(part) for part in read("cpuacct.usage_percpu").split()]
    rows = [line.split() for line in read("cpuacct.usage_all").splitlines()[1:]]  # cpu user system
    usage["percpu_kernel"] = [int(row[2]) for row in rows]
    usage["percpu_user"] = [int(row[1]) for row in rows]
    ticks = pairs(read("cpuacct.stat"))
    times = {"kernel": ticks.get("system", 0) * _TICK_NS, "user": ticks.get("user", 0) * _TICK_NS}
    stat = pairs(read("cpu.stat"))
    throttled = _throttling(stat, stat.get("throttled_time", 0))
    return {"usage": _without_zeros(usage) | times, "throttling": throttled}


def cpu_v2(read: "Read") -> dict:
    stat = pairs(read("cpu.stat"))
    usage = _without_zeros({"total": stat.get("usage_usec", 0) * 1000})
    usage |= {"kernel": stat.get("system_usec", 0) * 1000, "user": stat.get("user_usec", 0) * 1000}
    throttled = _throttling(stat, stat.get("throttled_usec", 0) * 1000)
    return _with_pressure({"usage": usage, "throttling": throttled}, read("cpu.pressure"))


def _throttling(stat: dict[str, int], time_ns: int) -> dict:
    values = {"periods": stat.get("nr_periods", 0), "throttledPeriods": stat.get("nr_throttled", 0), "throttledTime": time_ns}
    return _without_zeros(values)


_CPUSET = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
    "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


def cpuset(read: "Read") -> dict:
    flags = {name: number(read(f"cpuset.{name}")) for name in _CPUSET}
    cpus, mems = ranges(read("cpuset.cpus")), ranges(read("cpuset.mems"))
    found: dict[str, object] = {"cpus": cpus} if cpus else {}
    found["cpu_exclusive"] = flags.pop("cpu_exclusive")
    return found | ({"mems": mems} if mems else {}) | flags


# -- memory ----------------------------------------------------------------------------------------


def _entry(usage: int, limit: int, peak: int = 0, failures: int = 0) -> dict:
    return {"limit": limit, **_without_zeros({"usage": usage, "max": peak}), "failcnt": failures}


def memory_v1(read: "Read") -> dict:
    raw = pairs(read("memory.stat"))
    found: dict[str, object] = _without_zeros({"cache": raw.get("cache", 0)})
    for key, part in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        names = ("usage_in_bytes", "limit_in_bytes", "max_usage_in_bytes", "failcnt")
        found[key] = _entry(*(number(read(f"memory.{part}{name}")) for name in names))
    return found | _without_zeros({"raw": dict(sorted(raw.items()))})


def memory_v2(read: "Read") -> dict:
    raw = pairs(read("memory.stat"))
    usage, limit = number(read("memory.current")), number(read("memory.max"))
    swap, swap_limit = number(read("memory.swap.current")), number(read("memory.swap.max"))
    both = swap_limit if swap_limit == _UNLIMITED else min(swap_limit + limit, _UNLIMITED)
    found = {
        **_without_zeros({"cache": raw.get("file", 0)}),
        "usage": _entry(usage, limit, number(read("memory.peak"))),
        "swap": _entry(swap + usage, both),
        "kernel": _entry(0, 0),
        "kernelTCP": _entry(0, 0),
        **_without_zeros({"raw": dict(sorted(raw.items()))}),
    }
    return _with_pressure(found, read("memory.pressure")) | {"event_count": _without_zeros(pairs(read("memory.events")))}


# -- block I/O and huge pages ----------------------------------------------------------------------

_BLOCK_V1 = (
    ("ioServiceBytesRecursive", "io_service_bytes"), ("ioServicedRecursive", "io_serviced"), ("ioQueueRecursive", "io_queued"),
    ("ioServiceTimeRecursive", "io_service_time"), ("ioWaitTimeRecursive", "io_wait_time"), ("ioMergedRecursive", "io_merged"),
    ("ioTimeRecursive", "time"), ("sectorsRecursive", "sectors"),
)  # fmt: skip


def block_io_v1(read: "Read") -> dict:
    """BFQ's counters or CFQ's; what neither scheduler did not count, the throttler has."""
    found: dict[str, list[dict]] = {}
    for key, name in _BLOCK_V1:
        for file in (f"bfq.{name}_recursive", f"{name}_recursive", f"throttle.{name}_recursive", f"throttle.{name}"):
            rows = block_rows(read(f"blkio.{file}"))
            if rows:
                found[key] = rows
                break
    return found


def block_rows(text: str) -> list[dict]:
    """Lines like '8:0 Read 4096' or '8:0 17', without the totals."""
    rows = []
    for line in text.splitlines():
        fields = line.split()
        major, colon, minor = fields[0].partition(":")
        if colon:
            row = {"major": int(major), "minor": int(minor), "op": fields[1] if len(fields) == 3 else "", "value": int(fields[-1])}
            rows.append(_without_zeros(row))
    return rows


_BLOCK_V2 = {
    "rbytes": ("ioServiceBytesRecursive", "Read"), "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"), "wios": ("ioServicedRecursive", "Write"),
}  # fmt: skip


def block_io_v2(read: "Read") -> dict:
    found: dict[str, list[dict]] = {}
    for line in read("io.stat").splitlines():
        device, *fields = line.split()
        major, _, minor = device.partition(":")
        for field in fields:
            word, _, value = field.partition("=")
            if word in _BLOCK_V2 and minor:
                key, op = _BLOCK_V2[word]
                row = {"major": int(major), "minor": int(minor), "op": op, "value": int(value)}
                found.setdefault(key, []).append(_without_zeros(row))
    return _with_pressure(dict(found), read("io.pressure"))


def huge_pages(read: "Read", names: list[str]) -> dict:
    """names: the files of the controller's directory. Reservations are counted where the kernel counts them."""
    found = {}
    for name in sorted(names):
        size, _, rest = name.removeprefix("hugetlb.").partition(".")
        if not name.startswith("hugetlb.") or rest not in ("limit_in_bytes", "max"):
            continue
        part = f"hugetlb.{size}.rsvd" if f"hugetlb.{size}.rsvd.{rest}" in names else f"hugetlb.{size}"
        if rest == "max":
            usage, peak, failures = number(read(f"{part}.current")), 0, pairs(read(f"hugetlb.{size}.events")).get("max", 0)
        else:
            usage, peak, failures = (number(read(f"{part}.{file}")) for file in ("usage_in_bytes", "max_usage_in_bytes", "failcnt"))
        found[size] = {**_without_zeros({"usage": usage, "max": peak}), "failcnt": failures}
    return found


# -- out of memory ---------------------------------------------------------------------------------


class OomNotifier:
    """`fileno()` becomes readable when something happened, `read()` says what.

    v1 has an eventfd for the group, v2 wakes whoever polls memory.events, and cgroup.events when the
    last process has gone; an epoll descriptor makes one of them.
    """

    def __init__(self, group: cgroup.Cgroup) -> None:
        self._group = group
        self._count = group.oom_kills()
        self._epoll = select.epoll()
        self._fds: list[int] = []
        self._v1 = isinstance(group, cgroup.CgroupV1)
        try:
            if self._v1:
                self._watch_v1(group.directory_of("memory"))
            else:
                self._watch_v2(group.directory_of("memory"))
        except OSError as error:
            self.close()
            raise NotImplementedHere(f"cannot wait for OOM events of cgroup {group.path}: {error.strerror}") from error

    def _watch_v1(self, directory: str) -> None:
        self._fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            cgroup.write_file(f"{directory}/cgroup.event_control", f"{self._fds[0]} {control}")
        finally:
            os.close(control)
        self._epoll.register(self._fds[0], select.EPOLLIN)

    def _watch_v2(self, directory: str) -> None:
        for name in ("memory.events", "cgroup.events"):
            fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            self._fds.append(fd)
            os.read(fd, 4096)  # news is what comes after a read
            self._epoll.register(fd, select.EPOLLPRI)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def read(self) -> int | None:
        """How many OOM events since the last call; None once the group is gone or has no process any more."""
        if self._v1:
            return self._read_v1()
        try:
            texts = [os.pread(fd, 4096, 0).decode() for fd in self._fds[:2]]
        except OSError:
            return None
        count = pairs(texts[0]).get("oom_kill", 0)
        new, self._count = count - self._count, count
        if "populated 0" in texts[1]:
            if new == 0:
                return None
            if len(self._fds) == 2:  # the end has been read together with events: say it the next time
                self._fds.append(os.eventfd(1, os.EFD_CLOEXEC))
                self._epoll.register(self._fds[2], select.EPOLLIN)
        return new

    def _read_v1(self) -> int | None:
        try:
            events = os.eventfd_read(self._fds[0])
        except BlockingIOError:
            events = 0
        # The kernel also rings when the group is removed.
        return events if self._group.exists() and os.path.isdir(self._group.directory_of("memory")) else None

    def close(self) -> None:
        self._epoll.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def __enter__(self) -> "OomNotifier":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def oom_notifier(group: cgroup.Cgroup) -> OomNotifier:
    """Waits for OOM kills in the group. Raises NotImplementedHere where the kernel tells of none."""
    if not group.directory_of("memory"):
        raise NotImplementedHere(f"cgroup {group.path} has no memory controller; OOM events need it")
    return OomNotifier(group)
