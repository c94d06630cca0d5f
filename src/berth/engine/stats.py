"""What a container uses, in Docker's words, and what runs in it: `stats` and `top`.

Source: Docker Engine API v1.51, ContainerStatsResponse; the counters are linux.cgroup_stats'. Docker writes
them as runc does for cgroup v1, and with other words for v2.
"""

import asyncio
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator

from berth import errors
from berth.engine import state
from berth.engine.containers import ContainerService
from berth.engine.registry import Container
from berth.engine.state import RESTARTING_TEXT
from berth.linux import cgroup_stats
from berth.models import times

_INTERVAL_S = 1.0
_PS_TIMEOUT_S = 10
_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK_IO = {
    "io_service_bytes_recursive": "ioServiceBytesRecursive", "io_serviced_recursive": "ioServicedRecursive",
    "io_queue_recursive": "ioQueueRecursive", "io_service_time_recursive": "ioServiceTimeRecursive",
    "io_wait_time_recursive": "ioWaitTimeRecursive", "io_merged_recursive": "ioMergedRecursive",
    "io_time_recursive": "ioTimeRecursive", "sectors_recursive": "sectorsRecursive",
}  # fmt: skip
_NET_FIELDS = ("bytes", "packets", "errors", "dropped")
_NO_CPU = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}  # fmt: skip


class Usage:
    """Samples containers' counters; lists their processes."""

    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers

    async def once(self, container: Container, *, primed: bool) -> dict:
        """One payload; primed: with the counters of a second before, so that a share can be computed."""
        before = await self._sample(container) if primed else {}
        if before and container.record.running:
            await asyncio.sleep(_INTERVAL_S)
        return _with_previous(container, await self._sample(container), before)

    async def stream(self, container: Container) -> AsyncIterator[dict]:
        """A payload a second until the container is removed; one that does not run has nothing but its name."""
        before: dict = {}
        while True:
            sample = await self._sample(container)
            yield _with_previous(container, sample, before)
            before = sample
            await asyncio.sleep(_INTERVAL_S)
            if not self._is_known(container):
                return

    def _is_known(self, container: Container) -> bool:
        try:
            return self._containers.find(container.record.id) is container
        except errors.NotFound:
            return False

    async def _sample(self, container: Container) -> dict:
        """{} for one that does not run."""
        if not container.record.running:
            return {}
        return await asyncio.to_thread(self._read, container)

    def _read(self, container: Container) -> dict:
        group = self._containers.group(container)
        counted = cgroup_stats.stats(group)
        if not group.exists():
            return {}  # it ended meanwhile
        sample = payload(counted, _text("/proc/stat"), memory_total_bytes(_text("/proc/meminfo")), v2=self._containers.host.hosts.version == 2)
        networks = self._networks(container)
        return {"read": times.rfc3339(time.time_ns()), **sample, **({"networks": networks} if networks else {})}

    def _networks(self, container: Container) -> dict:
        pid = container.record.pid
        try:
            if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                return {}  # the host's counters say nothing of the container
        except OSError:
            return {}
        return interfaces(_text(f"/proc/{pid}/net/dev"))

    async def top(self, container: Container, arguments: str) -> dict:
        """The container's processes as the host's `ps` shows them. arguments: ps's, '-ef' by default."""
        arguments = arguments or "-ef"
        wrong = re.search(r"\s+(\w*)=\s*(PID\S*)", arguments)
        if wrong:
            raise errors.InvalidParameter(f'specifying "{wrong[1]}={wrong[2]}" is not allowed')
        if container.record.status == state.RESTARTING:
            raise errors.Conflict(RESTARTING_TEXT.format(container.record.id))
        if "\0" in arguments:
            raise errors.InvalidParameter(f"ps_args: {arguments!r} has a NUL byte in it")
        if not container.record.running:
            raise errors.Conflict(f"container {container.record.id} is not running")
        pids = await asyncio.to_thread(self._containers.group(container).pids)
        table = await asyncio.to_thread(_ps, arguments.split(" "), pids)
        self._containers.publish(container, "top")
        return processes(table, set(pids))


def _with_previous(container: Container, sample: dict, before: dict) -> dict:
    record = container.record
    names = {"name": f"/{record.name}", "id": record.id}
    if not sample:
        return {
            "read": times.ZERO_TIME, "preread": times.ZERO_TIME, "pids_stats": {}, "blkio_stats": dict.fromkeys(_BLOCK_IO),
            "num_procs": 0, "storage_stats": {}, "cpu_stats": _NO_CPU, "precpu_stats": _NO_CPU, "memory_stats": {}, **names,
        }  # fmt: skip
    preread = before.get("read", times.ZERO_TIME)
    return {"read": sample["read"], "preread": preread, **sample, "precpu_stats": before.get("cpu_stats", _NO_CPU), **names}


# -- pure ---------------------------------------------------------------------------------------------


def payload(counted: dict, proc_stat: str, memory_bytes: int, *, v2: bool) -> dict:
    """Counters of cgroup_stats.stats as Docker's; proc_stat: /proc/stat; memory_bytes: what the host has."""
    memory = counted["memory"]
    limit = min(memory["usage"]["limit"], memory_bytes) or memory_bytes
    usage = memory["usage"].get("usage", 0)
    shown: dict = {"usage": usage}
    if not v2:
        shown["max_usage"] = memory["usage"].get("max", 0)
    shown |= {"stats": memory.get("raw") or {}, "limit": limit}
    if not v2 and memory["usage"]["failcnt"]:
        shown["failcnt"] = memory["usage"]["failcnt"]
    block = counted["blkio"]
    nothing: list | None = None if v2 else []
    return {
        "pids_stats": counted["pids"],
        "blkio_stats": {key: [_block_row(row, v2=v2) for row in block.get(name, [])] or nothing for key, name in _BLOCK_IO.items()},
        "num_procs": 0, "storage_stats": {}, "cpu_stats": _cpu(counted["cpu"], proc_stat), "memory_stats": shown,
    }  # fmt: skip


def _block_row(row: dict, *, v2: bool) -> dict:
    operation = row.get("op", "")
    return {
        "major": row.get("major", 0), "minor": row.get("minor", 0), "op": operation.lower() if v2 else operation,
        "value": row.get("value", 0),
    }  # fmt: skip


def _cpu(counted: dict, proc_stat: str) -> dict:
    usage, throttling = counted["usage"], counted["throttling"]
    shown = {
        "total_usage": usage.get("total", 0), "percpu_usage": usage.get("percpu"),
        "usage_in_kernelmode": usage["kernel"], "usage_in_usermode": usage["user"],
    }  # fmt: skip
    if not shown["percpu_usage"]:
        del shown["percpu_usage"]
    total_ns, processors = host_cpu(proc_stat)
    return {
        "cpu_usage": shown, "system_cpu_usage": total_ns, "online_cpus": processors,
        "throttling_data": {
            "periods": throttling.get("periods", 0), "throttled_periods": throttling.get("throttledPeriods", 0),
            "throttled_time": throttling.get("throttledTime", 0),
        },
    }  # fmt: skip


def host_cpu(proc_stat: str) -> tuple[int, int]:
    """Nanoseconds of all processors together, idle ones included, and how many there are."""
    total_ns, processors = 0, 0
    for line in proc_stat.splitlines():
        fields = line.split()
        if fields and fields[0] == "cpu":
            total_ns = sum(map(int, fields[1:8])) * (1_000_000_000 // _TICKS)
        elif fields and fields[0].startswith("cpu"):
            processors += 1
    return total_ns, processors


def memory_total_bytes(meminfo: str) -> int:
    """MemTotal of /proc/meminfo."""
    return next((int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemTotal:")), 0)


def interfaces(net_dev: str) -> dict[str, dict[str, int]]:
    """/proc/PID/net/dev without the loopback interface."""
    found = {}
    for line in net_dev.splitlines():
        name, colon, rest = line.partition(":")
        fields = rest.split()
        if colon and len(fields) >= 12 and name.strip() != "lo":
            numbers = list(map(int, fields))
            found[name.strip()] = {
                **{f"rx_{field}": numbers[index] for index, field in enumerate(_NET_FIELDS)},
                **{f"tx_{field}": numbers[8 + index] for index, field in enumerate(_NET_FIELDS)},
            }
    return found


def processes(table: str, pids: set[int]) -> dict:
    """ps's table -> Docker's, of `pids` alone; threads without a pid of their own stay with their process."""
    lines = table.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise errors.SystemFailure("Couldn't find PID field in ps output")
    column, rows, within = titles.index("PID"), [], False
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) <= column:
            continue
        text = fields[column]
        if text != "-":
            if not text.isdigit():
                raise errors.SystemFailure(f"Unexpected pid '{text}' in ps output")
            within = int(text) in pids
        if within:
            rows.append([field.rstrip() for field in fields])
    return {"Processes": rows, "Titles": titles}


def _ps(arguments: list[str], pids: list[int]) -> str:
    """Of these processes alone where ps can be told so, or else of all."""
    chosen = [f"-q{','.join(map(str, pids))}"] if pids else []
    for extra in (chosen, []):
        try:
            done = subprocess.run(
                ["ps", *arguments, *extra], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PS_TIMEOUT_S, check=False,
                env={key: value for key, value in os.environ.items() if key != "COLUMNS"},  # else it cuts commands off
            )
        except OSError as error:
            raise errors.SystemFailure(f"error running ps: {error.strerror}: install Debian's package procps") from None
        except subprocess.TimeoutExpired:
            raise errors.Unavailable(f"ps gave no answer within {_PS_TIMEOUT_S} s") from None
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
    message = (done.stderr or done.stdout).decode(errors="replace").strip()
    raise errors.InvalidParameter(f"error running ps: {message.splitlines()[0] if message else f'exit status {done.returncode}'}")


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
