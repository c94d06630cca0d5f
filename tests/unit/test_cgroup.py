"""What is written where: tables of OCI resources against the files of either version."""

import pytest

from berth.errors import InvalidParameter, InvalidSpec, NotImplementedHere
from berth.linux import cgroup, cgroup_v1, cgroup_v2, libc
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


@pytest.mark.parametrize("path", ["a", "/", "", "/a/../b", "/a//b", "/./a", "/a/.."])
def test_cgroup_paths_cannot_climb(path: str) -> None:
    with pytest.raises(InvalidParameter, match="must be absolute"):
        cgroup.open_cgroup(path, cgroup.Hierarchies({}, "/sys/fs/cgroup"))


def test_a_host_without_cgroups_is_told() -> None:
    with pytest.raises(NotImplementedHere, match="no cgroup hierarchy is mounted"):
        cgroup.open_cgroup("/a", cgroup.parse_mountinfo(""))


def test_a_limit_names_the_controller_that_is_missing() -> None:
    group = cgroup.open_cgroup("/a", cgroup.Hierarchies({"cpu": "/nowhere"}, ""))
    with pytest.raises(NotImplementedHere, match="controller 'pids' is not mounted on this host; the process limit needs it"):
        group.apply({"pids": {"limit": 5}})
    with pytest.raises(NotImplementedHere, match=r"this kernel has no cpu\.shares, needed for the CPU shares"):
        group.apply({"cpu": {"shares": 5}})


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
    ({"cpu": {"quota": 50000}}, ["cpu.max=50000 100000"]),
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
    import os

    try:
        os.close(libc.bpf_load_cgroup_device(cgroup_v2.device_program([DENY_ALL])))
    except OSError as error:
        pytest.skip(f"bpf(2) is not to be had here: {error}")
    os.close(libc.bpf_load_cgroup_device(cgroup_v2.device_program(rules)))
