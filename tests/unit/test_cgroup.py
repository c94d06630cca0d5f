"""What is written where: tables of OCI resources against the files of either version."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.errors import Conflict, InvalidParameter, InvalidSpec, NotFound, NotImplementedHere
from berth.linux import cgroup, cgroup_base, cgroup_resources, cgroup_tree, cgroup_v1, cgroup_v2, libc
from bpf import device_model, run_device

V2_ONLY = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
V1 = """\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
32 31 0:28 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,release_agent=/lib/systemd,name=systemd
33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
34 31 0:30 / /sys/fs/cgroup/memory rw shared:16 - cgroup cgroup rw,memory
35 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,clone_children
36 31 0:32 / /sys/fs/cgroup/pids rw shared:1 master:2 - cgroup none rw,pids
37 31 0:30 / /other/memory rw - cgroup cgroup rw,memory
"""
HYBRID = V1 + "38 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_mountinfo_of_version_2() -> None:
    hosts = cgroup.parse_mountinfo(V2_ONLY)
    assert (hosts.version, hosts.v1, hosts.v2) == (2, {}, "/sys/fs/cgroup")


def test_mountinfo_of_version_1() -> None:
    hosts = cgroup.parse_mountinfo(V1)
    assert hosts.version == 1
    assert hosts.v2 == ""
    assert hosts.v1 == {
        "name=systemd": "/sys/fs/cgroup/systemd", "cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory", "cpuset": "/sys/fs/cgroup/cpuset", "pids": "/sys/fs/cgroup/pids",
    }  # fmt: skip
    assert hosts.controllers() == ["cpu", "cpuacct", "cpuset", "memory", "pids"]


def test_mountinfo_of_a_hybrid_host() -> None:
    hosts = cgroup.parse_mountinfo(HYBRID)
    assert (hosts.version, hosts.v2) == (1, "/sys/fs/cgroup/unified")
    group = cgroup.open_cgroup("/berth/x", hosts)
    assert isinstance(group, cgroup.CgroupV1)
    assert group.directories[0] == "/sys/fs/cgroup/pids/berth/x"
    assert sorted(group.directories) == sorted({*(f"{at}/berth/x" for at in hosts.v1.values()), f"{hosts.v2}/berth/x"})


def test_named_hierarchies_alone_leave_version_2() -> None:
    text = V1.splitlines()[1] + "\n" + V2_ONLY
    hosts = cgroup.parse_mountinfo(text)
    assert hosts.version == 2
    assert isinstance(cgroup.open_cgroup("/a", hosts), cgroup.CgroupV2)


@pytest.mark.parametrize("path", ["/", "", "/a/../b", "/a/..", "..", "../a", "a/../..", "/.", "/a\0b", "/a\nb"])
def test_cgroup_paths_cannot_climb(path: str) -> None:
    with pytest.raises(InvalidParameter, match="must name a group"):
        cgroup.open_cgroup(path, cgroup.Hierarchies({}, "/sys/fs/cgroup"))


@pytest.mark.parametrize(
    ("path", "clean"), [("/a//b", "/a/b"), ("/./a", "/a"), ("/a/", "/a"), ("a/./b/", "a/b"), ("a:b:c", "a:b:c"), ("/..a", "/..a")]
)
def test_clean_paths(path: str, clean: str) -> None:
    assert cgroup.clean_path(path) == clean


def test_a_host_without_cgroups_is_told() -> None:
    with pytest.raises(NotImplementedHere, match="no cgroup hierarchy is mounted"):
        cgroup.open_cgroup("/a", cgroup.parse_mountinfo(""))


def test_an_unknown_manager_is_told() -> None:
    with pytest.raises(InvalidParameter, match="'cgroupsfs' must be one of cgroupfs, systemd, disabled"):
        cgroup.open_cgroup("/a", cgroup.Hierarchies({}, "/x"), manager="cgroupsfs")


def test_a_limit_names_the_controller_that_is_missing(tmp_path: Path) -> None:
    group = cgroup.open_cgroup("/a", cgroup.Hierarchies({"cpu": str(tmp_path)}, ""))
    with pytest.raises(NotImplementedHere, match="controller 'pids' is not mounted on this host; the process limit needs it"):
        group.apply({"pids": {"limit": 5}})
    with pytest.raises(NotFound, match=r"cannot set the CPU shares: cgroup .*/a does not exist"):
        group.apply({"cpu": {"shares": 5}})
    (tmp_path / "a").mkdir()
    with pytest.raises(NotImplementedHere, match=r"this kernel has no cpu\.shares, needed for the CPU shares"):
        group.apply({"cpu": {"shares": 5}})


class Files(cgroup_resources.Files):
    """A group's files for the tables; live unless said otherwise."""

    def __init__(self, files: dict[str, str], live: bool = True) -> None:
        self.files, self.live = files, live

    def read(self, file: str) -> str:
        return self.files.get(file, "")

    def has(self, file: str) -> bool:
        return file in self.files


V1_CASES = [
    ({"memory": {"limit": 100, "swap": 200}}, ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=200"]),
    ({"memory": {"limit": 100, "swap": -1}}, ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=-1"]),
    ({"memory": {"reservation": 7, "kernelTCP": 8}}, ["memory.soft_limit_in_bytes=7", "memory.kmem.tcp.limit_in_bytes=8"]),
    ({"memory": {"swappiness": 0}}, ["memory.swappiness=0"]),
    ({"memory": {"disableOOMKiller": True}}, ["memory.oom_control=1"]),
    ({"memory": {"disableOOMKiller": False, "swap": 0}}, []),
    ({"cpu": {"shares": 512, "quota": -1, "period": 50000}}, ["cpu.shares=512", "cpu.cfs_period_us=50000", "cpu.cfs_quota_us=-1"]),
    ({"cpu": {"cpus": "0-3", "mems": "0"}}, ["cpuset.cpus=0-3", "cpuset.mems=0"]),
    ({"cpu": {"shares": 0, "cpus": ""}}, []),
    ({"cpu": {"realtimePeriod": 9, "realtimeRuntime": 8}}, ["cpu.rt_period_us=9", "cpu.rt_runtime_us=8"]),
    ({"pids": {"limit": 10}}, ["pids.max=10"]),
    ({"pids": {"limit": -1}}, ["pids.max=max"]),
    ({"pids": {"limit": 0}}, []),
    ({"pids": {}}, []),
    ({"blockIO": {"weight": 300}}, ["blkio.weight=300"]),
    ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}, ["blkio.weight_device=8:0 10"]),
    (
        {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 5}, {"major": 8, "minor": 2, "rate": 6}]}},
        ["blkio.throttle.read_bps_device=8:1 5", "blkio.throttle.read_bps_device=8:2 6"],
    ),
    ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}, ["hugetlb.2MB.limit_in_bytes=4"]),
    (
        {"network": {"classID": 3, "priorities": [{"name": "eth0", "priority": 2}]}},
        ["net_cls.classid=3", "net_prio.ifpriomap=eth0 2"],
    ),
    (
        {"devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": -1, "access": "r"}]},
        ["devices.deny=a", "devices.allow=c 1:* r"],
    ),
    ({}, []),
    ({"memory": None, "devices": None}, []),
]


@pytest.mark.parametrize(("resources", "expected"), V1_CASES)
def test_files_of_version_1(resources: dict, expected: list[str]) -> None:
    assert [f"{file}={value}" for _, file, value, _ in cgroup_v1.settings(resources)] == expected


def test_version_1_names_the_controller_of_every_file() -> None:
    for resources, _ in V1_CASES:
        for controller, file, _, what in cgroup_v1.settings(resources):
            assert file.startswith(controller)
            assert what


V2_CASES = [
    ({"memory": {"limit": 100, "swap": 300}}, ["memory.swap.max=200", "memory.max=100"]),
    ({"memory": {"limit": 100, "swap": 100}}, ["memory.swap.max=0", "memory.max=100"]),
    ({"memory": {"limit": 100, "swap": -1}}, ["memory.swap.max=max", "memory.max=100"]),
    ({"memory": {"limit": -1, "swap": -1}}, ["memory.swap.max=max", "memory.max=max"]),
    ({"memory": {"reservation": 7}}, ["memory.low=7"]),
    ({"cpu": {"shares": 1024}}, ["cpu.weight=39"]),
    ({"cpu": {"quota": 50000}}, ["cpu.max=50000"]),
    ({"cpu": {"quota": 50000, "period": 20000}}, ["cpu.max=50000 20000"]),
    ({"cpu": {"quota": -1, "period": 20000}}, ["cpu.max=max 20000"]),
    ({"cpu": {"period": 20000}}, ["cpu.max=max 20000"]),
    ({"cpu": {"burst": 5, "idle": 1}}, ["cpu.max.burst=5", "cpu.idle=1"]),
    ({"cpu": {"cpus": "1", "mems": "0"}}, ["cpuset.cpus=1", "cpuset.mems=0"]),
    ({"pids": {"limit": 10}}, ["pids.max=10"]),
    ({"pids": {"limit": -1}}, ["pids.max=max"]),
    ({"blockIO": {"weight": 1000}}, ["io.weight=default 10000"]),
    ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}, ["io.weight=8:0 1"]),
    (
        {"blockIO": {key: [{"major": 8, "minor": 0, "rate": 5}] for key in (
            "throttleWriteIOPSDevice", "throttleReadBpsDevice", "throttleReadIOPSDevice", "throttleWriteBpsDevice",
        )}},
        ["io.max=8:0 rbps=5", "io.max=8:0 wbps=5", "io.max=8:0 riops=5", "io.max=8:0 wiops=5"],
    ),
    ({"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}, ["hugetlb.1GB.max=0"]),
    ({"unified": {"memory.high": "5", "pids.max": "3"}}, ["memory.high=5", "pids.max=3"]),
    ({}, []),
]  # fmt: skip


@pytest.mark.parametrize(("resources", "expected"), V2_CASES)
def test_files_of_version_2(resources: dict, expected: list[str]) -> None:
    assert [f"{file}={value}" for file, value, _ in cgroup_v2.settings(resources)] == expected


LIVE_V1_CASES: list[tuple[dict, dict[str, str], list[str]]] = [
    ({"memory": {"limit": -1}}, {"memory.memsw.limit_in_bytes": "9"}, ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]),
    ({"memory": {"limit": -1}}, {}, ["memory.limit_in_bytes=-1"]),
    ({"memory": {"limit": 0, "reservation": 0, "kernelTCP": 0, "swappiness": -1, "kernel": 5}}, {}, []),
    ({"memory": {"disableOOMKiller": False}}, {}, ["memory.oom_control=0"]),
    ({"memory": {"useHierarchy": True}}, {"memory.use_hierarchy": "1"}, []),
    ({"memory": {"useHierarchy": True}}, {"memory.use_hierarchy": "0"}, ["memory.use_hierarchy=1"]),
    ({"memory": {"useHierarchy": False}}, {"memory.use_hierarchy": "1"}, ["memory.use_hierarchy=0"]),
    ({"memory": {"limit": 10, "checkBeforeUpdate": True}}, {"memory.usage_in_bytes": "10"}, ["memory.limit_in_bytes=10"]),
    ({"memory": {"limit": -1, "checkBeforeUpdate": True}}, {"memory.usage_in_bytes": "10"}, ["memory.limit_in_bytes=-1"]),
    ({"cpu": {"burst": 0, "idle": 0}}, {}, ["cpu.idle=0", "cpu.cfs_burst_us=0"]),
    ({"cpu": {"shares": 5, "idle": 1}}, {}, ["cpu.idle=0", "cpu.shares=5", "cpu.idle=1"]),
    ({"cpu": {"shares": 5, "idle": 0}}, {}, ["cpu.idle=0", "cpu.shares=5"]),
    ({"blockIO": {"weight": 30, "leafWeight": 40}}, {"blkio.weight": ""}, ["blkio.weight=30", "blkio.leaf_weight=40"]),
    (
        {"blockIO": {"weight": 30, "weightDevice": [{"major": 8, "minor": 0, "weight": 7, "leafWeight": 6}]}},
        {"blkio.bfq.weight": ""},
        ["blkio.bfq.weight=30", "blkio.bfq.weight_device=8:0 7", "blkio.leaf_weight_device=8:0 6"],
    ),
    ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}, {"hugetlb.2MB.rsvd.limit_in_bytes": "0"},
     ["hugetlb.2MB.limit_in_bytes=4", "hugetlb.2MB.rsvd.limit_in_bytes=4"]),
    ({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 9}, "rxe3": {"hcaObjects": 0}}}, {},
     ["rdma.max=mlx5_1 hca_handle=3 hca_object=9", "rdma.max=rxe3 hca_object=0"]),
]  # fmt: skip


@pytest.mark.parametrize(("resources", "files", "expected"), LIVE_V1_CASES)
def test_files_of_a_live_group_of_version_1(resources: dict, files: dict[str, str], expected: list[str]) -> None:
    assert [f"{file}={value}" for _, file, value, _ in cgroup_v1.settings(resources, Files(files))] == expected


NULL_ONLY = [{"allow": False}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]


@pytest.mark.parametrize(
    ("current", "rules", "expected"),
    [
        ("a *:* rwm", NULL_ONLY, ["devices.deny=a", "devices.allow=c 1:3 rwm"]),
        ("c 1:3 rwm", NULL_ONLY, []),
        ("c 1:5 rwm\nc 1:3 r", NULL_ONLY, ["devices.allow=c 1:3 mw", "devices.deny=c 1:5 mrw"]),
        ("c 1:3 rwm", [{"allow": True}], ["devices.allow=a"]),
        ("b *:* m", [{"allow": False}], ["devices.deny=b *:* m"]),
        ("c 1:3 rwm", [], []),
        ("", NULL_ONLY, ["devices.deny=a", "devices.allow=c 1:3 rwm"]),
        ("c 1:3 rwm", [*NULL_ONLY, {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"}], ["devices.deny=c 1:3 w"]),
    ],
)
def test_devices_of_a_live_group_are_changed_and_not_replayed(current: str, rules: list[dict], expected: list[str]) -> None:
    found = cgroup_v1.settings({"devices": rules}, Files({"devices.list": current}))
    assert [f"{file}={value}" for _, file, value, _ in found] == expected


LIVE_V2_CASES: list[tuple[dict, dict[str, str], list[str]]] = [
    ({"memory": {"limit": -1}}, {}, ["memory.swap.max=max", "memory.max=max"]),
    ({"memory": {"swap": 300}}, {"memory.max": "100"}, ["memory.swap.max=200"]),
    ({"memory": {"limit": 0, "swap": 0, "reservation": 0, "disableOOMKiller": False, "useHierarchy": True, "kernel": 9}}, {}, []),
    ({"cpu": {"period": 20000}}, {"cpu.max": "7000 100000"}, ["cpu.max=7000 20000"]),
    ({"cpu": {"period": 20000}}, {"cpu.max": "max 100000"}, ["cpu.max=max 20000"]),
    ({"cpu": {"quota": -1}}, {"cpu.max": "7000 100000"}, ["cpu.max=max"]),
    ({"cpu": {"shares": 1024, "idle": 1, "burst": 0}}, {}, ["cpu.idle=0", "cpu.weight=39", "cpu.max.burst=0", "cpu.idle=1"]),
    ({"blockIO": {"weight": 500}}, {"io.bfq.weight": ""}, ["io.bfq.weight=500"]),
    ({"blockIO": {"weight": 500}}, {"io.bfq.weight": "", "io.weight": ""}, ["io.bfq.weight=500", "io.weight=default 4950"]),
    ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}, {"io.bfq.weight": ""}, ["io.bfq.weight=8:0 10"]),
    ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}}, {}, ["io.max=8:0 rbps=max"]),
    ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}, {"hugetlb.2MB.rsvd.max": ""}, ["hugetlb.2MB.max=4", "hugetlb.2MB.rsvd.max=4"]),
    ({"rdma": {"mlx5_1": {"hcaHandles": 3}}}, {}, ["rdma.max=mlx5_1 hca_handle=3"]),
    ({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2", "cgroup.max.depth": "3"}}, {},
     ["io.max=8:0 rbps=1", "io.max=8:16 rbps=2", "cgroup.max.depth=3"]),
    ({"network": {"classID": 0, "priorities": []}, "cpu": {"realtimeRuntime": 0}}, {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("resources", "files", "expected"), LIVE_V2_CASES)
def test_files_of_a_live_group_of_version_2(resources: dict, files: dict[str, str], expected: list[str]) -> None:
    assert [f"{file}={value}" for file, value, _ in cgroup_v2.settings(resources, Files(files))] == expected


@pytest.mark.parametrize(
    ("resources", "path"),
    [
        ({"memory": {"kernelTCP": 1}}, "memory.kernelTCP"), ({"memory": {"swappiness": 0}}, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller"), ({"memory": {"useHierarchy": False}}, "memory.useHierarchy"),
        ({"cpu": {"realtimeRuntime": 1}}, "cpu.realtimeRuntime"), ({"cpu": {"realtimePeriod": 1}}, "cpu.realtimePeriod"),
        ({"blockIO": {"leafWeight": 10}}, "blockIO.leafWeight"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}}, "blockIO.weightDevice.leafWeight"),
        ({"network": {"classID": 1}}, "network.classID"),
        ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "network.priorities"),
    ],
)  # fmt: skip
def test_version_2_names_what_only_version_1_has(resources: dict, path: str) -> None:
    with pytest.raises(NotImplementedHere, match=rf"^linux\.resources\.{path}: this host has cgroup v2"):
        cgroup_v2.settings(resources)


def test_version_1_has_no_unified_files() -> None:
    with pytest.raises(NotImplementedHere, match=r"linux\.resources\.unified\.memory\.high"):
        cgroup_v1.settings({"unified": {"memory.high": "1"}})


@pytest.mark.parametrize(
    "name",
    ["../memory.max", "a/b.c", ".x", "memory", "memory.", "", "memory.\0", "memory.max\n", "cgroup.procs", "cgroup.kill", "cgroup.type",
     "cgroup.freeze", "cgroup.threads", "cgroup.subtree_control", "mémory.max"],
)  # fmt: skip
def test_unified_takes_names_of_limits_alone(name: str) -> None:
    with pytest.raises(InvalidSpec, match=r"linux\.resources\.unified"):
        cgroup_v2.settings({"unified": {name: "1"}})


SETTINGS: list[Callable[[dict, cgroup_resources.Files], object]] = [cgroup_v1.settings, cgroup_v2.settings]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", ["../../x", "2mb", "MB", "2MB/../x", "", "-2MB", "2 MB", "²MB"])
def test_a_page_size_cannot_lead_elsewhere(settings: Callable, size: str) -> None:
    with pytest.raises(InvalidSpec, match="must be like 64KB"):
        settings({"hugepageLimits": [{"pageSize": size, "limit": 1}]}, cgroup_resources.FRESH)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"limit": 200, "swap": 100}}, r"memory\.swap: 100 is less than the memory limit of 200"),
        ({"rdma": {"mlx5_1": {}}}, r"rdma: device 'mlx5_1'"),
        ({"rdma": {"a b": {"hcaHandles": 1}}}, r"rdma: device 'a b'"),
    ],
)
def test_contradictions(settings: Callable, resources: dict, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        settings(resources, cgroup_resources.FRESH)


@pytest.mark.parametrize("settings", SETTINGS)
def test_check_before_update(settings: Callable) -> None:
    files = Files({"memory.usage_in_bytes": "500", "memory.current": "500"})
    with pytest.raises(Conflict, match=r"memory\.limit: 499 is below the current usage of 500 bytes"):
        settings({"memory": {"limit": 499, "checkBeforeUpdate": True}}, files)
    assert settings({"memory": {"limit": 499}}, files)


def test_swappiness_has_a_range() -> None:
    with pytest.raises(InvalidSpec, match=r"swappiness: 101 must be 0 to 100"):
        cgroup_v1.settings({"memory": {"swappiness": 101}})


ASKED: list[tuple[dict, str]] = [
    ({}, ""),
    ({"devices": [{"allow": False}]}, ""),
    ({"memory": {"limit": 0, "disableOOMKiller": False, "checkBeforeUpdate": True, "swappiness": -1}, "pids": {}}, ""),
    ({"memory": None, "hugepageLimits": [], "unified": {}}, ""),
    ({"memory": {"limit": 5}}, "linux.resources.memory.limit"),
    ({"memory": {"swappiness": 0}}, "linux.resources.memory.swappiness"),
    ({"unified": {"memory.high": "5"}}, "linux.resources.unified.memory.high"),
    ({"blockIO": {"weightDevice": [{"major": 8}]}}, "linux.resources.blockIO.weightDevice"),
]


@pytest.mark.parametrize(("resources", "path"), ASKED)
def test_what_is_asked_for(resources: dict, path: str) -> None:
    assert cgroup_resources.asked(resources) == path


def test_a_disabled_group_does_nothing_and_says_so() -> None:
    group = cgroup.open_cgroup("/x", cgroup.Hierarchies({}, "/nowhere"), manager="disabled")
    group.create()
    group.apply({"devices": NULL_ONLY})
    group.add(os.getpid())
    group.kill()
    group.signal_all(signal.SIGTERM)
    assert (group.directories, group.pids(), group.frozen(), group.exists(), group.remove()) == ([], [], False, False, True)
    with pytest.raises(NotImplementedHere, match=r"linux\.resources\.memory\.limit is asked for, but the cgroup manager is 'disabled'"):
        group.apply({"memory": {"limit": 5}})
    with pytest.raises(NotImplementedHere, match="cannot be paused"):
        group.freeze(True)
    assert cgroup.reopen(json.loads(json.dumps(group.saved())), cgroup.Hierarchies({}, "/x")).manager == "disabled"


# -- where a group is ------------------------------------------------------------------------------

OWN = "9:name=systemd:/\n8:pids:/a\n4:memory:/process_api/x:y\n2:cpu,cpuacct:/\n0::/user.slice/s.scope\n"


def test_own_paths() -> None:
    assert cgroup.parse_own(OWN) == {
        "name=systemd": "/", "pids": "/a", "memory": "/process_api/x:y", "cpu": "/", "cpuacct": "/", "": "/user.slice/s.scope",
    }  # fmt: skip


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_own", lambda: cgroup.parse_own(OWN))


@pytest.mark.usefixtures("own")
def test_a_relative_path_of_version_1_is_below_our_own_groups() -> None:
    hosts = cgroup.Hierarchies({"pids": "/p", "memory": "/m", "cpu": "/c", "cpuacct": "/c"}, "/u")
    group = cgroup.open_cgroup("x/y", hosts)
    assert group.directories == ["/p/a/x/y", "/m/process_api/x:y/x/y", "/c/x/y", "/u/user.slice/s.scope/x/y"]
    again = cgroup.reopen(json.loads(json.dumps(group.saved())), hosts)
    assert again.directories == group.directories
    assert again.directory_of("memory") == "/m/process_api/x:y/x/y"
    assert again.directory_at("/c") == "/c/x/y"
    assert again.directory_at("/nowhere") == ""


@pytest.mark.usefixtures("own")
def test_a_relative_path_of_version_2_is_beside_our_own_group() -> None:
    group = cgroup.open_cgroup("x", cgroup.Hierarchies({}, "/u"))
    assert group.directories == ["/u/user.slice/x"]
    assert group.path == "/user.slice/x"
    assert cgroup.reopen(group.saved(), cgroup.Hierarchies({}, "/u")).directories == group.directories


@pytest.mark.usefixtures("own")
def test_a_mount_that_shows_less_than_the_hierarchy() -> None:
    """A container in a container: its mount shows /process_api as the root."""
    text = "34 31 0:30 /process_api /m rw - cgroup cgroup rw,memory\n35 31 0:31 /elsewhere /p rw - cgroup cgroup rw,pids\n"
    hosts = cgroup.parse_mountinfo(text)
    assert hosts.roots == {"/m": "/process_api", "/p": "/elsewhere"}
    assert cgroup.open_cgroup("g", hosts).directories == ["/p/g", "/m/x:y/g"]
    group = cgroup.open_cgroup("/g", hosts)
    assert group.directories == ["/p/g", "/m/g"]
    assert group._belongs("4:memory:/process_api/g\n")
    assert group._belongs("4:memory:/process_api/g/below\n")
    assert group._belongs("4:memory:/\n8:pids:/elsewhere/g\n")
    assert not group._belongs("4:memory:/process_api/gg\n8:pids:/g\n2:cpu:/process_api/g\n0::/process_api/g\n")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("writable", "path", "expected"),
    [
        (("user.slice/s.scope",), "/x", "/user.slice/s.scope/x"),
        (("user.slice/s.scope", "user.slice"), "/x", "/user.slice/x"),
        (("user.slice/s.scope", "user.slice"), "x", "/user.slice/x"),
        (("user.slice/s.scope", "user.slice"), "/user.slice/x/y", "/user.slice/x/y"),
        (("user.slice",), "/x", None),
        ((), "/x", None),
    ],
)
def test_rootless_groups_are_in_what_is_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: tuple[str, ...], path: str, expected: str | None
) -> None:
    allowed = {str(tmp_path / name) for name in writable} | {str(tmp_path / name / "cgroup.procs") for name in writable}
    monkeypatch.setattr(os, "access", lambda name, mode: name in allowed)
    group = cgroup.open_cgroup(path, cgroup.Hierarchies({}, str(tmp_path)), rootless=True)
    if expected:
        assert group.directories == [f"{tmp_path}{expected}"]
        return
    group.create()
    group.apply({"devices": NULL_ONLY})
    with pytest.raises(NotImplementedHere, match=r"linux\.resources\.pids\.limit .* systemd-run --user --scope -p Delegate=yes"):
        group.apply({"pids": {"limit": 5}})


@pytest.mark.usefixtures("own")
def test_rootless_version_1_leaves_out_what_is_not_delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda name, mode: name.startswith("/p/a"))
    group = cgroup.open_cgroup("/x", cgroup.Hierarchies({"pids": "/p", "memory": "/m"}, ""), rootless=True)
    assert group.directories == ["/p/a/x"]
    with pytest.raises(NotImplementedHere, match="controller 'memory' is not delegated to this user; the memory limit needs it: have a"):
        group.apply({"memory": {"limit": 5}})


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"], ["cpu.cfs_quota_us", "cpu.cfs_burst_us"]])
def test_a_pair_is_written_in_the_order_that_the_kernel_takes(monkeypatch: pytest.MonkeyPatch, order: list[str]) -> None:
    """The first of the pair is refused until the second is written."""
    written: list[str] = []

    def write(path: str, value: str) -> None:
        if os.path.basename(path) == order[0] and not written:
            raise OSError(22, "Invalid argument")
        written.append(os.path.basename(path))

    monkeypatch.setattr(cgroup_base, "write_file", write)
    group = cgroup.CgroupV2("/x", cgroup.Hierarchies({}, "/u"))
    group.write([(f"/u/x/{name}", "1", "it") for name in order])
    assert written == order[::-1]


def test_a_pair_that_is_wrong_in_any_order_names_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: str, value: str) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(cgroup_base, "write_file", write)
    group = cgroup.CgroupV2("/x", cgroup.Hierarchies({}, "/u"))
    with pytest.raises(InvalidParameter, match=r"cannot set a: '1' to cpu\.max: Invalid argument"):
        group.write([("/u/x/cpu.max", "1", "a"), ("/u/x/cpu.max.burst", "1", "b")])


# -- groups below ----------------------------------------------------------------------------------


def test_a_tree_is_walked_from_below_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "x").mkdir(parents=True)
    (outside / "cgroup.procs").write_text("1\n")
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    (top / "link").symlink_to(outside)
    for path, text in (("", "5\n0\n"), ("a", "7\n5\n"), ("a/b", "6\n")):
        (top / path / "cgroup.procs").write_text(text)
    (top / "c" / "cgroup.procs").symlink_to(outside / "cgroup.procs")
    names = [os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) for fd in cgroup_tree.groups(str(top))]
    assert names.index("b") < names.index("a") < names.index("top")
    assert sorted(names) == ["a", "b", "c", "top"]
    assert sorted(cgroup_tree.pids(str(top))) == [5, 6, 7]
    assert cgroup_tree.pids(str(top / "link")) == []
    assert cgroup_tree.pids(str(tmp_path / "gone")) == []


def test_a_tree_deeper_than_a_path_may_be_is_removed(tmp_path: Path) -> None:
    """A container may nest groups until no path reaches the last."""
    name, depth = "x" * 200, 60
    top = str(tmp_path / "top")
    os.mkdir(top)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert cgroup_base.remove_directory(top)
    assert not os.path.exists(top)


def test_a_process_outside_is_not_signalled() -> None:
    """The number in cgroup.procs may be somebody else's by the time it is used."""
    seen: list[str] = []

    def belongs(text: str) -> bool:
        seen.append(text)
        return False

    cgroup_tree.signal_process(os.getpid(), signal.SIGKILL, belongs)  # we live on
    assert seen == [Path("/proc/self/cgroup").read_text()]
    cgroup_tree.signal_process(0, signal.SIGKILL, belongs)
    assert len(seen) == 1


def test_what_does_not_freeze_is_named() -> None:
    assert cgroup_tree.describe_running([os.getpid()]).startswith(f"process {os.getpid()} (")
    assert cgroup_tree.describe_running([2**22 + 1]) == ""


@pytest.mark.parametrize("memory", [{"swap": 100}, {"swap": 100, "limit": -1}, {"swap": 100, "limit": 0}])
def test_version_2_has_no_total_of_memory_and_swap(memory: dict) -> None:
    with pytest.raises(InvalidSpec, match=r"linux\.resources\.memory\.swap"):
        cgroup_v2.settings({"memory": memory})


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 0), (1, 1), (2, 1), (3, 1), (100, 4), (1024, 39), (262144, 10000), (999999, 10000)]
)
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert cgroup_v2.weight_of_shares(shares) == weight


@pytest.mark.parametrize(("block", "weight"), [(0, 0), (10, 1), (500, 4950), (1000, 10000)])
def test_weight_of_blkio(block: int, weight: int) -> None:
    assert cgroup_v2.weight_of_blkio(block) == weight


def test_weights_rise_with_shares() -> None:
    weights = [cgroup_v2.weight_of_shares(n) for n in range(2, 262145, 1111)]
    assert weights == sorted(weights)
    assert {1 <= w <= 10000 for w in weights} == {True}


@pytest.mark.parametrize(
    ("text", "kills"),
    [("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3), ("oom_kill_disable 0\nunder_oom 1\n", 0), ("", 0)],
)
def test_oom_kills(text: str, kills: int) -> None:
    assert cgroup_v1.oom_kills(text) == kills


@pytest.mark.parametrize(("number", "text"), [(None, "*"), (-1, "*"), (0, "0"), (136, "136")])
def test_device_numbers(number: int | None, text: str) -> None:
    assert cgroup_v1.device_number(number) == text


DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW_ALL = {"allow": True}
NULL_RW = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
RULES = {
    "nothing": [],
    "deny all": [DENY_ALL],
    "privileged": [{"allow": True, "access": "rwm"}],
    "null": [DENY_ALL, NULL_RW],
    "null, in two": [DENY_ALL, {**NULL_RW, "access": "r"}, {**NULL_RW, "access": "w"}],
    "all but writing null": [ALLOW_ALL, {**NULL_RW, "allow": False, "access": "w"}],
    "all nodes": [DENY_ALL, {"allow": True, "type": "c", "access": "m"}, {"allow": True, "type": "b", "access": "m"}],
    "terminals": [DENY_ALL, {"allow": True, "type": "c", "major": 136, "minor": -1, "access": "rwm"}],
    "minor only": [DENY_ALL, {"allow": True, "type": "b", "major": None, "minor": 3}],
    "taken back": [DENY_ALL, NULL_RW, {**NULL_RW, "allow": False, "access": "r"}, {"allow": False, "type": "b"}],
    "overruled": [NULL_RW, DENY_ALL],
    "type a by name": [{"allow": False, "type": "a"}, NULL_RW],
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
def test_device_program_decides_as_the_rules_say(rules: list[dict]) -> None:
    program = cgroup_v2.device_program(rules)
    for kind, type_ in (("b", 1), ("c", 2)):
        for access in range(1, 8):
            letters = "".join(letter for letter, bit in (("m", 1), ("r", 2), ("w", 4)) if access & bit)
            for major, minor in ((1, 3), (1, 5), (136, 0), (136, 7), (0, 3), (8, 0)):
                got = run_device(program, type_, access, major, minor)
                assert got == device_model(rules, kind, letters, major, minor), (kind, letters, major, minor)


def test_a_denied_access_is_not_smuggled_in_with_an_allowed_one() -> None:
    program = cgroup_v2.device_program(RULES["all but writing null"])
    assert run_device(program, 2, 2, 1, 3)
    assert not run_device(program, 2, 4, 1, 3)
    assert not run_device(program, 2, 2 | 4, 1, 3)


@pytest.mark.root
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
def test_the_kernel_takes_the_device_program(rules: list[dict]) -> None:
    try:
        os.close(libc.bpf_load_cgroup_device(cgroup_v2.device_program([DENY_ALL])))
    except OSError as error:
        pytest.skip(f"bpf(2) is not to be had here: {error}")
    os.close(libc.bpf_load_cgroup_device(cgroup_v2.device_program(rules)))
