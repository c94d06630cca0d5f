"""Counters in Docker's words for both cgroup versions; ps's tables; the columns of berth stats."""

import pytest

from berth.cli import stats as cli
from berth.engine import stats
from berth.errors import InvalidParameter, SystemFailure
from berth.linux import cgroup_stats

PROC_STAT = "cpu  100 0 50 800 10 0 5 3 0 0\ncpu0 50 0 25 400 5 0 2 1 0 0\ncpu1 50 0 25 400 5 0 3 2 0 0\nintr 1\n"
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0: 5000 50 1 2 0 0 0 0 7000 70 3 4 0 0 0 0
"""


def counted_v2() -> dict:
    files = {
        "cpu.stat": "usage_usec 2000\nuser_usec 1500\nsystem_usec 500\nnr_periods 3\nnr_throttled 1\nthrottled_usec 7\n",
        "memory.stat": "anon 10\nfile 20\ninactive_file 5\n", "memory.current": "100\n", "memory.max": "max\n", "memory.peak": "120\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n", "memory.events": "oom 0\n",
    }  # fmt: skip

    def read(name: str) -> str:
        return files.get(name, "")

    return {
        "cpu": cgroup_stats.cpu_v2(read), "memory": cgroup_stats.memory_v2(read), "blkio": cgroup_stats.block_io_v2(read),
        "pids": {"current": 4, "limit": 9},
    }  # fmt: skip


def test_payload_v2() -> None:
    seen = stats.payload(counted_v2(), PROC_STAT, 1000, v2=True)
    assert seen["cpu_stats"]["cpu_usage"] == {"total_usage": 2_000_000, "usage_in_kernelmode": 500_000, "usage_in_usermode": 1_500_000}
    assert seen["cpu_stats"]["throttling_data"] == {"periods": 3, "throttled_periods": 1, "throttled_time": 7000}
    assert seen["memory_stats"] == {"usage": 100, "stats": {"anon": 10, "file": 20, "inactive_file": 5}, "limit": 1000}
    assert seen["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "read", "value": 1}, {"major": 8, "minor": 0, "op": "write", "value": 2},
    ]  # fmt: skip
    assert seen["blkio_stats"]["sectors_recursive"] is None
    assert seen["pids_stats"] == {"current": 4, "limit": 9}
    assert cli.memory(seen["memory_stats"]) == (95, 1000)
    assert cli.block_io(seen["blkio_stats"]) == (1, 2)


def test_host_cpu() -> None:
    assert stats.host_cpu(PROC_STAT) == (965 * (1_000_000_000 // stats._TICKS), 2)
    assert stats.memory_total_bytes("MemTotal:  4 kB\nMemFree: 1 kB\n") == 4096


def test_interfaces() -> None:
    assert stats.interfaces(NET_DEV) == {"eth0": {
        "rx_bytes": 5000, "rx_packets": 50, "rx_errors": 1, "rx_dropped": 2,
        "tx_bytes": 7000, "tx_packets": 70, "tx_errors": 3, "tx_dropped": 4,
    }}  # fmt: skip


def test_processes() -> None:
    table = "UID   PID  PPID CMD\nroot  10    1   sh -c  x\nroot  11   10   other\nroot   -    -   thread of other\nroot  12    1   mine\nroot   -    -   thread\n"
    found = stats.processes(table, {10, 12})
    assert found["Titles"] == ["UID", "PID", "PPID", "CMD"]
    assert found["Processes"] == [["root", "10", "1", "sh -c  x"], ["root", "12", "1", "mine"], ["root", "-", "-", "thread"]]
    with pytest.raises(SystemFailure, match="Couldn't find PID field"):
        stats.processes("A B\n1 2\n", set())
    with pytest.raises(SystemFailure, match="Unexpected pid 'x'"):
        stats.processes("PID\nx\n", set())


def test_ps_that_refuses() -> None:
    with pytest.raises(InvalidParameter, match="error running ps"):
        stats._ps(["--no-such-option"], [1])


def test_columns() -> None:
    now = {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2}
    assert cli.cpu_percent(now, {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000}) == 40.0
    assert cli.cpu_percent(now, {}) == 0.0
    sample = {
        "id": "a" * 64, "name": "/n", "cpu_stats": now, "memory_stats": {"usage": 2 << 20, "limit": 4 << 20, "stats": {"total_inactive_file": 1 << 20}},
        "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 7}, "eth1": {"rx_bytes": 500, "tx_bytes": 0}}, "pids_stats": {"current": 3},
        "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "Sync", "value": 9}, {"op": "Write", "value": 1}]},
    }  # fmt: skip
    assert cli.row("n", sample, {}, False) == {
        "Container": "n", "ID": "a" * 12, "Name": "n", "CPUPerc": "0.00%", "MemUsage": "1MiB / 4MiB", "MemPerc": "25.00%", "NetIO": "2kB / 7B",
        "BlockIO": "4.1kB / 1B", "PIDs": "3",
    }  # fmt: skip
