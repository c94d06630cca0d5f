"""Kernel texts against the words of `runc events`. The whole is compared with runc itself in test_cgroups_direct."""

import pytest

from berth.linux import cgroup_stats

MAXIMUM = 18446744073709551615


@pytest.mark.parametrize(("text", "number", "limited"), [("5\n", 5, 5), ("max\n", MAXIMUM, 0), ("", 0, 0), ("-1\n", -1, -1)])
def test_numbers(text: str, number: int, limited: int) -> None:
    assert (cgroup_stats.number(text), cgroup_stats.limited(text)) == (number, limited)


@pytest.mark.parametrize(("text", "expected"), [("0-2,5\n", [0, 1, 2, 5]), ("0\n", [0]), ("\n", []), ("", []), ("1,3-4", [1, 3, 4])])
def test_ranges(text: str, expected: list[int]) -> None:
    assert cgroup_stats.ranges(text) == expected


def test_pairs_leave_out_what_is_no_number() -> None:
    assert cgroup_stats.pairs("a 1\nb x\nc\n\nd 22\n") == {"a": 1, "d": 22}


def test_pressure() -> None:
    text = "some avg10=0.12 avg60=1.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    assert cgroup_stats.pressure(text) == {
        "some": {"avg10": 0.12, "avg60": 1.0, "avg300": 0.0, "total": 77},
        "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0},
    }
    assert cgroup_stats.pressure("") == {}


BLOCK = "8:0 Read 12\n8:0 Write 0\n8:0 Total 12\n8:16 7\nTotal 12\n"
ROWS = [
    {"major": 8, "op": "Read", "value": 12}, {"major": 8, "op": "Write"}, {"major": 8, "op": "Total", "value": 12},
    {"major": 8, "minor": 16, "value": 7},
]  # fmt: skip


def test_block_rows() -> None:
    assert cgroup_stats.block_rows(BLOCK) == ROWS
    assert cgroup_stats.block_rows("Total 0\n") == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"blkio.throttle.io_serviced": BLOCK}, {"ioServicedRecursive": ROWS}),
        ({"blkio.throttle.io_serviced": BLOCK, "blkio.bfq.io_serviced_recursive": "8:0 Read 1\n"},
         {"ioServicedRecursive": [{"major": 8, "op": "Read", "value": 1}]}),
        ({"blkio.throttle.io_serviced_recursive": BLOCK, "blkio.bfq.io_serviced_recursive": "Total 0\n"}, {"ioServicedRecursive": ROWS}),
        ({"blkio.sectors_recursive": "8:0 9\n"}, {"sectorsRecursive": [{"major": 8, "value": 9}]}),
    ],
)  # fmt: skip
def test_block_io_of_version_1(files: dict[str, str], expected: dict) -> None:
    assert cgroup_stats.block_io_v1(lambda file: files.get(file, "")) == expected


def test_block_io_of_version_2() -> None:
    text = "8:0 rbytes=10 wbytes=0 rios=2 wios=3 dbytes=4 dios=5\n254:1 \n(unknown) rbytes=9\n"
    assert cgroup_stats.block_io_v2(lambda file: text if file == "io.stat" else "") == {
        "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 10}, {"major": 8, "op": "Write"}],
        "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 2}, {"major": 8, "op": "Write", "value": 3}],
    }


def test_cpu_of_version_2() -> None:
    text = "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 4\nnr_throttled 1\nthrottled_usec 6\n"
    assert cgroup_stats.cpu_v2(lambda file: text if file == "cpu.stat" else "") == {
        "usage": {"total": 30000, "kernel": 20000, "user": 10000},
        "throttling": {"periods": 4, "throttledPeriods": 1, "throttledTime": 6000},
    }


MEMORY = {"memory.stat": "anon 5\nfile 7\n", "memory.current": "100\n", "memory.max": "200\n", "memory.events": "low 0\nmax 3\noom_kill 1\n"}


@pytest.mark.parametrize(
    ("more", "swap"),
    [
        ({"memory.swap.current": "11\n", "memory.swap.max": "50\n"}, {"limit": 250, "usage": 111, "failcnt": 0}),
        ({"memory.swap.current": "0\n", "memory.swap.max": "max\n"}, {"limit": MAXIMUM, "usage": 100, "failcnt": 0}),
        ({"memory.swap.max": "1\n", "memory.max": "max\n"}, {"limit": MAXIMUM, "usage": 100, "failcnt": 0}),
    ],
)
def test_memory_of_version_2(more: dict[str, str], swap: dict) -> None:
    files = MEMORY | more | {"memory.peak": "150\n"}
    found = cgroup_stats.memory_v2(lambda file: files.get(file, ""))
    assert found["swap"] == swap
    assert found["usage"] == {"limit": cgroup_stats.number(files["memory.max"]), "usage": 100, "max": 150, "failcnt": 0}
    assert (found["cache"], found["raw"], found["event_count"]) == (7, {"anon": 5, "file": 7}, {"max": 3, "oom_kill": 1})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"hugetlb.2MB.limit_in_bytes": "9", "hugetlb.2MB.usage_in_bytes": "4", "hugetlb.2MB.max_usage_in_bytes": "5", "hugetlb.2MB.failcnt": "1"},
         {"2MB": {"usage": 4, "max": 5, "failcnt": 1}}),
        ({"hugetlb.2MB.limit_in_bytes": "9", "hugetlb.2MB.rsvd.limit_in_bytes": "9", "hugetlb.2MB.rsvd.usage_in_bytes": "6"},
         {"2MB": {"usage": 6, "failcnt": 0}}),
        ({"hugetlb.1GB.max": "max", "hugetlb.1GB.current": "3", "hugetlb.1GB.events": "max 2\n", "cgroup.procs": ""},
         {"1GB": {"usage": 3, "failcnt": 2}}),
        ({"pids.max": "1"}, {}),
    ],
)  # fmt: skip
def test_huge_pages(files: dict[str, str], expected: dict) -> None:
    assert cgroup_stats.huge_pages(lambda file: files.get(file, ""), list(files)) == expected


def test_cpuset_has_runc_s_order() -> None:
    files = {"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n", "cpuset.sched_relax_domain_level": "-1\n"}
    found = cgroup_stats.cpuset(lambda file: files.get(file, ""))
    assert list(found)[:3] == ["cpus", "cpu_exclusive", "mems"]
    assert (found["cpus"], found["mems"], found["sched_relax_domain_level"]) == ([0, 1], [0], -1)
    assert "cpus" not in cgroup_stats.cpuset(lambda file: "")
