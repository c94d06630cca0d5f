"""berth.linux.cgroup against the real kernel: v1 (hybrid) here, v2 in a throw-away machine.

v2_cgroups.py runs inside of that machine and reports what the kernel's files say; here it is judged.
"""

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import guest
import pytest
from harness import BUSYBOX, GROUPS, wait_until

from berth.errors import BerthError, Conflict, InvalidParameter, NotImplementedHere, SystemFailure
from berth.linux import cgroup, cgroup_base, cgroup_stats, cgroup_tree

pytestmark = [pytest.mark.root]
v1 = pytest.mark.skipif(not os.path.isdir(f"{GROUPS}/memory"), reason="needs cgroup v1")

_MEBI = 1 << 20
_REPOSITORY = Path(__file__).resolve().parents[2]
_NUMBERS = itertools.count()
DENY_ALL = {"allow": False, "access": "rwm"}
NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
ZERO = {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"}


def _text(group: cgroup.Cgroup, file: str) -> str:
    """A file of the group, by its own path: what other tools see."""
    controller = file.partition(".")[0].replace("cgroup", "pids")
    return Path(f"{GROUPS}/{controller}{group.path}/{file}").read_text().strip()


@pytest.fixture
def group() -> Iterator[cgroup.Cgroup]:
    made = cgroup.open_cgroup(f"/berth-direct/{os.getpid()}-{next(_NUMBERS)}", cgroup.hierarchies())
    made.create()
    yield made
    made.kill()
    wait_until(made.remove, f"{made.path} does not go")
    assert not any(os.path.exists(directory) for directory in made.directories)
    cgroup.open_cgroup("/berth-direct", cgroup.hierarchies()).remove()


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts programs; what still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(*command: str, group: cgroup.Cgroup | None = None) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(_end, process)
            if group:
                group.add(process.pid)
            return process

        yield start


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _line(process: subprocess.Popen[bytes], text: str = "") -> str:
    """Writes a line to the program, and reads one."""
    assert process.stdin
    assert process.stdout
    if text:
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
    return process.stdout.readline().decode().strip()


# -- every resource --------------------------------------------------------------------------------

DISK = next((f"{os.major(n)}:{os.minor(n)}" for name in ("vda", "sda") if os.path.exists(f"/dev/{name}")
             for n in [os.stat(f"/dev/{name}").st_rdev]), "")  # fmt: skip
_NUMBER = dict(zip(("major", "minor"), map(int, DISK.split(":")), strict=True)) if DISK else {}

V1_FRESH: list[tuple[dict, dict[str, str]]] = [
    ({"memory": {"limit": 64 * _MEBI, "swap": 96 * _MEBI}},
     {"memory.limit_in_bytes": str(64 * _MEBI), "memory.memsw.limit_in_bytes": str(96 * _MEBI)}),
    ({"memory": {"reservation": _MEBI, "kernelTCP": _MEBI, "swappiness": 3}},
     {"memory.soft_limit_in_bytes": str(_MEBI), "memory.kmem.tcp.limit_in_bytes": str(_MEBI), "memory.swappiness": "3"}),
    ({"memory": {"useHierarchy": True, "swappiness": 0}}, {"memory.use_hierarchy": "1", "memory.swappiness": "0"}),
    ({"cpu": {"shares": 77, "quota": 30000, "period": 60000, "burst": 9000}},
     {"cpu.shares": "77", "cpu.cfs_quota_us": "30000", "cpu.cfs_period_us": "60000", "cpu.cfs_burst_us": "9000"}),
    ({"cpu": {"cpus": "0", "mems": "0", "idle": 1}}, {"cpuset.cpus": "0", "cpuset.mems": "0", "cpu.idle": "1"}),
    ({"pids": {"limit": 17}}, {"pids.max": "17"}),
    ({"pids": {"limit": -1}}, {"pids.max": "max"}),
    ({"blockIO": {"weight": 300}}, {"blkio.bfq.weight": "300"}),
    ({"blockIO": {"throttleReadBpsDevice": [{**_NUMBER, "rate": 11}], "throttleWriteBpsDevice": [{**_NUMBER, "rate": 12}],
                  "throttleReadIOPSDevice": [{**_NUMBER, "rate": 13}], "throttleWriteIOPSDevice": [{**_NUMBER, "rate": 14}]}},
     {"blkio.throttle.read_bps_device": f"{DISK} 11", "blkio.throttle.write_bps_device": f"{DISK} 12",
      "blkio.throttle.read_iops_device": f"{DISK} 13", "blkio.throttle.write_iops_device": f"{DISK} 14"}),
    ({"devices": [DENY_ALL, NULL]}, {"devices.list": "c 1:3 rwm"}),
    ({"devices": [{"allow": True}]}, {"devices.list": "a *:* rwm"}),
    ({}, {"pids.max": "max", "cpu.shares": "1024", "devices.list": "a *:* rwm"}),
]  # fmt: skip


@v1
@pytest.mark.parametrize(("resources", "expected"), V1_FRESH)
def test_resources_of_version_1(group: cgroup.Cgroup, resources: dict, expected: dict[str, str]) -> None:
    for file in expected:
        if not os.path.exists(f"{group.directory_of(file.partition('.')[0])}/{file}"):
            pytest.skip(f"this kernel has no {file}")
    group.apply(resources)
    assert {file: _text(group, file) for file in expected} == expected


UPDATES: list[tuple[list[dict], dict[str, str]]] = [
    ([{"memory": {"limit": 64 * _MEBI, "swap": 64 * _MEBI}}, {"memory": {"limit": 128 * _MEBI, "swap": 256 * _MEBI}}],
     {"memory.limit_in_bytes": str(128 * _MEBI), "memory.memsw.limit_in_bytes": str(256 * _MEBI)}),
    ([{"memory": {"limit": 128 * _MEBI, "swap": 256 * _MEBI}}, {"memory": {"limit": 32 * _MEBI, "swap": 64 * _MEBI}}],
     {"memory.limit_in_bytes": str(32 * _MEBI), "memory.memsw.limit_in_bytes": str(64 * _MEBI)}),
    ([{"memory": {"limit": 64 * _MEBI, "swap": 64 * _MEBI}}, {"memory": {"limit": -1}}],
     {"memory.limit_in_bytes": "9223372036854771712", "memory.memsw.limit_in_bytes": "9223372036854771712"}),
    ([{"memory": {"limit": 64 * _MEBI, "swap": 64 * _MEBI}}, {"memory": {"swap": -1}}, {"memory": {"limit": 96 * _MEBI}}],
     {"memory.limit_in_bytes": str(96 * _MEBI), "memory.memsw.limit_in_bytes": "9223372036854771712"}),
    ([{"memory": {"limit": 64 * _MEBI}}, {"memory": {"limit": 0, "swap": 0}}], {"memory.limit_in_bytes": str(64 * _MEBI)}),
    ([{"cpu": {"quota": 50000, "burst": 50000}}, {"cpu": {"quota": 10000, "burst": 5000}}],
     {"cpu.cfs_quota_us": "10000", "cpu.cfs_burst_us": "5000"}),
    ([{"cpu": {"quota": 50000, "burst": 50000}}, {"cpu": {"quota": 90000, "burst": 80000}}, {"cpu": {"burst": 0}}],
     {"cpu.cfs_quota_us": "90000", "cpu.cfs_burst_us": "0"}),
    ([{"cpu": {"quota": 50000}}, {"cpu": {"quota": -1}}], {"cpu.cfs_quota_us": "-1"}),
    ([{"cpu": {"idle": 1}}, {"cpu": {"idle": 0, "shares": 55}}], {"cpu.idle": "0", "cpu.shares": "55"}),
    ([{"cpu": {"idle": 1}}, {"cpu": {"idle": 1, "shares": 55}}], {"cpu.idle": "1"}),
    ([{"memory": {"disableOOMKiller": True}}, {"memory": {"disableOOMKiller": False}}], {"memory.oom_control": "oom_kill_disable 0"}),
    ([{"memory": {"disableOOMKiller": True}}, {"memory": {"limit": 64 * _MEBI}}], {"memory.oom_control": "oom_kill_disable 1"}),
    ([{"cpu": {"cpus": "0"}}, {"cpu": {"cpus": "0-1"}}], {"cpuset.cpus": "0-1"}),
    ([{"pids": {"limit": 7}}, {"pids": {"limit": 9}}, {"pids": {"limit": 0}}, {"cpu": {"shares": 6}}], {"pids.max": "9"}),
    ([{"devices": [DENY_ALL, NULL]}, {"devices": [DENY_ALL, ZERO, {**NULL, "access": "r"}]}], {"devices.list": "c 1:3 r\nc 1:5 rwm"}),
    ([{"blockIO": {"throttleReadBpsDevice": [{**_NUMBER, "rate": 11}]}}, {"blockIO": {"throttleReadBpsDevice": [{**_NUMBER, "rate": 0}]}}],
     {"blkio.throttle.read_bps_device": ""}),
]  # fmt: skip


@v1
@pytest.mark.parametrize(("steps", "expected"), UPDATES)
def test_updates_of_a_live_group(
    group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]], steps: list[dict], expected: dict[str, str]
) -> None:
    for file in expected:
        if not os.path.exists(f"{group.directory_of(file.partition('.')[0])}/{file}"):
            pytest.skip(f"this kernel has no {file}")
    group.apply(steps[0])
    run("sleep", "1000", group=group)
    again = cgroup.open_cgroup(group.path, cgroup.hierarchies())
    for resources in steps[1:]:
        again.apply(resources)
    assert {file: "\n".join(sorted(_text(group, file).splitlines()[:2] if "oom" not in file else _text(group, file).splitlines()[:1]))
            for file in expected} == expected  # fmt: skip


@v1
def test_quota_and_period_below_a_limited_parent(group: cgroup.Cgroup) -> None:
    """The parent allows half a CPU, so either number alone may ask for more than that in between."""
    parent = os.path.dirname(group.directory_of("cpu"))
    Path(f"{parent}/cpu.cfs_quota_us").write_text("50000")
    try:
        for period, quota in ((100000, 50000), (20000, 10000), (500000, 250000), (1000000, 100000), (10000, 5000)):
            group.apply({"cpu": {"quota": quota, "period": period}})
            assert (_text(group, "cpu.cfs_quota_us"), _text(group, "cpu.cfs_period_us")) == (str(quota), str(period))
        with pytest.raises(InvalidParameter, match=r"cannot set the CPU quota: '90000' to cpu\.cfs_quota_us: Invalid argument"):
            group.apply({"cpu": {"quota": 90000}})
    finally:
        Path(f"{parent}/cpu.cfs_quota_us").write_text("-1")


@v1
def test_real_time(group: cgroup.Cgroup) -> None:
    if not os.path.exists(f"{group.directory_of('cpu')}/cpu.rt_runtime_us"):
        pytest.skip("this kernel has no real-time groups")
    parent = os.path.dirname(group.directory_of("cpu"))
    Path(f"{parent}/cpu.rt_runtime_us").write_text("100000")
    try:
        for runtime, period in ((50000, 1000000), (9000, 100000), (90000, 2000000)):
            group.apply({"cpu": {"realtimeRuntime": runtime, "realtimePeriod": period}})
            assert (_text(group, "cpu.rt_runtime_us"), _text(group, "cpu.rt_period_us")) == (str(runtime), str(period))
    finally:
        Path(f"{group.directory_of('cpu')}/cpu.rt_runtime_us").write_text("0")
        Path(f"{parent}/cpu.rt_runtime_us").write_text("0")


@v1
@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"rdma": {"mlx5_1": {"hcaHandles": 3}}}, "controller 'rdma' is not mounted on this host; an RDMA limit needs it"),
        ({"network": {"classID": 3}}, "controller 'net_cls' is not mounted on this host; the network class needs it"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, "controller 'hugetlb' is not mounted"),
        ({"blockIO": {"leafWeight": 30}}, r"this kernel has no blkio\.leaf_weight, needed for the block I/O leaf weight"),
        ({"memory": {"useHierarchy": False}}, r"cannot set hierarchical memory accounting \(useHierarchy\): '0'"),
        ({"unified": {"memory.high": "1"}}, r"linux\.resources\.unified\.memory\.high"),
        ({"cpu": {"cpus": "0-999"}}, "cannot set the CPU set: '0-999' to cpuset.cpus"),
        ({"cpu": {"shares": 9, "quota": 5}}, r"cannot set the CPU quota: '5' to cpu\.cfs_quota_us: Invalid argument"),
    ],
)
def test_what_this_host_lacks_is_named(group: cgroup.Cgroup, resources: dict, message: str) -> None:
    if next(iter(resources)) in ("rdma", "network", "hugepageLimits") and os.path.isdir(f"{GROUPS}/{message.split(chr(39))[1]}"):
        pytest.skip("this host has it")
    with pytest.raises(BerthError, match=message):
        group.apply(resources)


@v1
def test_a_limit_below_the_usage(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    hog = run("python3", "-c", "import sys; input(); x = b'x' * (48 << 20); print('full', flush=True); sys.stdin.read()", group=group)
    assert _line(hog, "go") == "full"
    with pytest.raises(Conflict, match=rf"memory\.limit: {4 * _MEBI} is below the current usage of \d+ bytes"):
        group.apply({"memory": {"limit": 4 * _MEBI, "checkBeforeUpdate": True}})
    if int(_text(group, "memory.memsw.usage_in_bytes")) > 0:
        group.apply({"memory": {"swappiness": 0}})
        with pytest.raises(SystemFailure, match=r"memory\.(memsw\.)?limit_in_bytes: .* \(\d+ bytes are in use\)"):
            group.apply({"memory": {"swap": 4 * _MEBI, "limit": 4 * _MEBI}})


# -- where it is -----------------------------------------------------------------------------------


@v1
def test_a_relative_path_is_below_our_own_groups() -> None:
    hosts = cgroup.hierarchies()
    group = cgroup.open_cgroup(f"berth-relative-{os.getpid()}", hosts)
    group.create()
    try:
        process = subprocess.Popen(["sleep", "1000"])
        group.add(process.pid)
        ours, theirs = (Path(f"/proc/{pid}/cgroup").read_text().splitlines() for pid in ("self", process.pid))
        for own, its in zip(ours, theirs, strict=True):
            assert its == f"{own.rstrip('/')}/berth-relative-{os.getpid()}"
        again = cgroup.reopen(json.loads(json.dumps(group.saved())), hosts)
        assert again.pids() == [process.pid]
        again.kill()
        assert process.wait() == -signal.SIGKILL
    finally:
        wait_until(group.remove, "the group does not go")


_AS_NOBODY = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from berth import errors
from berth.linux import cgroup
print("ready", flush=True)
input()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = {}
group = cgroup.open_cgroup("/mine", cgroup.hierarchies(), rootless=True)
group.create()
found["directories"] = group.directories
try:
    group.apply({"devices": [{"allow": False}], "pids": {"limit": 23}})
    group.add(os.getpid())
    found["own"] = open("/proc/self/cgroup").read()
except errors.BerthError as error:
    found["error"] = str(error)
try:
    group.apply({"memory": {"limit": 1 << 26}})
except errors.BerthError as error:
    found["memory"] = str(error)
print(json.dumps(found), flush=True)
input()
"""


@v1
@pytest.mark.parametrize("delegated", [True, False])
def test_an_ordinary_user(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]], delegated: bool) -> None:
    program = run("python3", "-c", _AS_NOBODY, str(_REPOSITORY / "src"), group=group)
    assert _line(program) == "ready"
    if delegated:
        for name in ("", "cgroup.procs"):
            os.chown(f"{group.directory_of('pids')}/{name}", 65534, 65534)
    found = json.loads(_line(program, "go"))
    if delegated:
        assert found["directories"] == [f"{group.directory_of('pids')}/mine"]
        assert f":pids:{group.path}/mine\n" in found["own"]
        assert Path(f"{group.directory_of('pids')}/mine/pids.max").read_text() == "23\n"
        assert "'memory' is not delegated to this user; the memory limit needs it: have a cgroup delegated" in found["memory"]
    else:
        assert found["directories"] == []
        assert "linux.resources.pids.limit is asked for, but no cgroup is delegated to this user" in found["error"]
        assert "systemd-run --user --scope -p Delegate=yes" in found["error"]


# -- processes -------------------------------------------------------------------------------------


@v1
def test_the_group_is_in_every_hierarchy(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = run("sleep", "1000", group=group)
    lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
    assert {line.split(":", 2)[2] for line in lines} == {group.path}
    assert group.pids() == [process.pid]
    with pytest.raises(ProcessLookupError):
        group.add(2**22 + 1)


@v1
def test_freezing(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    for _ in range(5):
        run("sh", "-c", "while :; do /bin/true; done", group=group)
    assert not group.frozen()
    group.freeze(True)
    assert _text(group, "freezer.state") == "FROZEN"
    assert group.frozen()
    with pytest.raises(Conflict, match="exists and is frozen"):
        cgroup.open_cgroup(group.path, cgroup.hierarchies()).create()
    group.freeze(False)
    assert _text(group, "freezer.state") == "THAWED"
    assert not group.frozen()


@v1
def test_what_does_not_thaw_is_told(group: cgroup.Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_base, "FREEZE_S", 0.05)
    below = cgroup.open_cgroup(f"{group.path}/below", cgroup.hierarchies())
    below.create()
    group.freeze(True)
    try:
        with pytest.raises(SystemFailure, match=r"does not thaw within 0\.05 s: a group above it is frozen"):
            below.freeze(False)
    finally:
        group.freeze(False)


@v1
def test_a_frozen_container_dies(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = run("sleep", "1000", group=group)
    group.freeze(True)
    group.kill()
    assert process.wait(60) == -signal.SIGKILL


@v1
def test_a_hostile_tree_dies_and_goes(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Mechanism: the container has its cgroups writable, nests groups of any name, hides processes in them, each hierarchy
    another, and freezes those: a runtime that looks at its own group alone leaves them running, and the group for good."""
    processes = [run("sleep", "1000", group=group) for _ in range(6)]
    hidden = []
    for process, directory in zip(processes, group.directories, strict=False):
        below = f"{directory}/a b/..%2f/é"
        os.makedirs(below)
        if "cpuset" in directory:
            for file, above in itertools.product(("cpuset.cpus", "cpuset.mems"), ("a b", "a b/..%2f", "a b/..%2f/é")):
                Path(f"{directory}/{above}/{file}").write_text(Path(f"{directory}/{file}").read_text())
        Path(f"{below}/cgroup.procs").write_text(str(process.pid))
        hidden.append(below)
    freezer = f"{group.directory_of('freezer')}/frozen/deep"
    os.makedirs(freezer)
    Path(f"{freezer}/cgroup.procs").write_text(str(processes[0].pid))
    Path(f"{freezer}/freezer.state").write_text("FROZEN")
    assert sorted(group.pids()) == sorted(process.pid for process in processes)
    group.kill()
    assert {process.wait(60) for process in processes} == {-signal.SIGKILL}
    wait_until(group.remove, "the hostile tree does not go")
    assert not any(os.path.exists(directory) for directory in group.directories)


@v1
def test_a_process_hidden_from_one_hierarchy_dies(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Mechanism: a container that can write the host's pids hierarchy leaves it, where the runtime would look first."""
    process = run("sleep", "1000", group=group)
    Path(f"{GROUPS}/pids/cgroup.procs").write_text(str(process.pid))
    assert group.pids() == []
    group.kill()
    assert process.wait(60) == -signal.SIGKILL


@v1
def test_nothing_outside_is_killed(
    group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mechanism: between the read of cgroup.procs and the signal the number is somebody else's."""
    inside, outside = run("sleep", "1000", group=group), run("sh", "-c", "read x; echo alive")
    monkeypatch.setattr(cgroup_tree, "pids", lambda directory: [outside.pid, inside.pid, 0, 1, os.getpid()])
    group.kill()
    group.signal_all(signal.SIGTERM)
    assert inside.wait(60) == -signal.SIGKILL
    assert _line(outside, "x") == "alive"


@v1
def test_a_fork_bomb_dies(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    group.apply({"pids": {"limit": 60}})
    bomb = run("sh", "-c", "read x; f() { f | f & }; f; sleep 1000", group=group)
    assert bomb.stdin
    bomb.stdin.write(b"\n")
    bomb.stdin.flush()
    wait_until(lambda: _text(group, "pids.events") != "max 0", "no refused fork")
    group.kill()
    assert bomb.wait(60) == -signal.SIGKILL
    wait_until(lambda: _text(group, "cgroup.procs") == "", "processes are left")


@v1
def test_signals_reach_everybody(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    script = "trap 'echo got' USR1; echo ready; while :; do read x || sleep 1; done"
    programs = [run("sh", "-c", script, group=group) for _ in range(3)]
    assert [_line(program) for program in programs] == ["ready"] * 3
    group.signal_all(signal.SIGUSR1)
    for program in programs:
        assert _line(program, "wake") == "got"
    group.signal_all(signal.SIGKILL)
    assert {program.wait(60) for program in programs} == {-signal.SIGKILL}


@v1
def test_groups_deeper_than_any_path(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Mechanism: nested until no path of 4096 bytes reaches the process at the bottom."""
    process = run("sleep", "1000", group=group)
    fd = os.open(group.directory_of("pids"), os.O_RDONLY)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=fd)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=fd)
    os.write(procs, str(process.pid).encode())
    os.close(procs)
    os.close(fd)
    assert group.pids() == [process.pid]
    group.kill()
    assert process.wait(60) == -signal.SIGKILL
    wait_until(group.remove, "the deep tree does not go")


# -- statistics and events -------------------------------------------------------------------------


@pytest.fixture
def runc_container(tmp_path: Path) -> Iterator[str]:
    if not shutil.which("runc"):
        pytest.skip("no runc to compare with")
    identity = f"berth-stats-{os.getpid()}"
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, tmp_path / "rootfs/bin/busybox")
    subprocess.run(["runc", "spec"], cwd=tmp_path, check=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/busybox", "sleep", "1000"]}
    config["linux"]["cgroupsPath"] = f"/berth-direct-{identity}"
    config["linux"]["resources"] |= {"pids": {"limit": 44}, "memory": {"limit": 64 * _MEBI}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = ["runc", "--root", str(tmp_path / "root")]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "run", "-d", "-b", str(tmp_path), identity], check=True, **quiet)  # type: ignore[call-overload]
    yield subprocess.run([*command, "events", "--stats", identity], check=True, capture_output=True, text=True).stdout
    subprocess.run([*command, "delete", "-f", identity], check=True)


def _shape(value: object) -> object:
    return {key: _shape(item) for key, item in value.items()} if isinstance(value, dict) else type(value)


@v1
def test_statistics_are_what_runc_says(runc_container: str) -> None:
    theirs = json.loads(runc_container)["data"]
    group = cgroup.open_cgroup(f"/berth-direct-berth-stats-{os.getpid()}", cgroup.hierarchies())
    ours = json.loads(json.dumps(cgroup_stats.stats(group)))
    raw = ours["memory"]["raw"]
    assert ours["cpu"]["usage"]["total"] >= theirs["cpu"]["usage"]["total"]
    assert raw["hierarchical_memory_limit"] == theirs["memory"]["raw"]["hierarchical_memory_limit"] == 64 * _MEBI
    assert list(ours) == list(theirs)
    assert _shape(ours) == _shape(theirs)
    assert [list(ours[key]) for key in ours if isinstance(ours[key], dict)] == [list(theirs[key]) for key in theirs if isinstance(theirs[key], dict)]
    for key in ("cpuset", "pids", "hugetlb", "intel_rdt", "network_interfaces", "blkio"):
        assert ours[key] == theirs[key]
    for key in ("usage", "swap", "kernel", "kernelTCP"):
        assert ours["memory"][key]["limit"] == theirs["memory"][key]["limit"]


@v1
def test_out_of_memory_is_told(group: cgroup.Cgroup, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    group.apply({"memory": {"limit": 16 * _MEBI, "swap": 16 * _MEBI}})
    with cgroup_stats.oom_notifier(group) as notifier:
        poll = select.poll()
        poll.register(notifier, select.POLLIN)
        assert notifier.read() == 0
        assert poll.poll(0) == []
        hog = run("python3", "-c", "input(); b'x' * (100 << 20)", group=group)
        assert hog.stdin
        hog.stdin.write(b"\n")
        hog.stdin.flush()
        assert poll.poll(20_000)
        assert (notifier.read() or 0) >= 1
        group.kill()
        hog.wait(60)
        wait_until(group.remove, "the group does not go")
        assert poll.poll(20_000)
        assert notifier.read() is None
    assert isinstance(group.oom_kills(), int)


def test_events_need_a_memory_controller() -> None:
    with pytest.raises(NotImplementedHere, match="no memory controller"):
        cgroup_stats.oom_notifier(cgroup.open_cgroup("/x", cgroup.Hierarchies({"pids": "/nowhere"}, "")))


# -- version 2 -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    """What v2_cgroups.py printed."""
    guest.need()
    with tempfile.TemporaryDirectory(prefix="berth-v2-cgroups.") as directory:
        shutil.copytree(_REPOSITORY / "src", f"{directory}/src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(Path(__file__).with_name("v2_cgroups.py"), directory)
        return guest.findings(guest.run(directory, f"v2_cgroups.py {guest.SHARE}/src", "--via", "uml", timeout_s=100))


def _of(findings: dict[str, Any], feature: str) -> dict[str, Any]:
    found: dict[str, Any] = findings[feature]
    assert "error" not in found, found["error"]
    return found


def test_v2_resources(findings: dict[str, Any]) -> None:
    found = _of(findings, "resources")
    assert found["files"] == {
        "memory.max": str(64 * _MEBI), "memory.swap.max": str(32 * _MEBI), "memory.low": str(_MEBI), "memory.high": str(48 * _MEBI),
        "cpu.weight": "20", "cpu.max": "50000 200000", "cpu.max.burst": "10000", "pids.max": "17", "cgroup.max.depth": "5",
        "io.max": f"{found['disk']} rbps=11 wbps=12 riops=13 wiops=14",
    }  # fmt: skip


def test_v2_updates(findings: dict[str, Any]) -> None:
    found = _of(findings, "updates")
    assert found["period alone"] == "50000 100000"
    assert found["quota alone"] == "20000 100000"
    assert found["unlimited"] == "max 100000"
    assert found["less quota and burst"] == ["10000 100000", "5000"]
    assert found["memory up"] == [str(128 * _MEBI), str(64 * _MEBI)]
    assert found["swap alone"] == [str(128 * _MEBI), str(2 * _MEBI)]
    assert found["memory unlimited"] == ["max", "max"]
    assert "is below the current usage of" in found["checked"]
    if "idle" in found:
        assert found["idle"] == ["1", "0", "20"]


def test_v2_what_is_lacking_is_named(findings: dict[str, Any]) -> None:
    found = _of(findings, "lacking")
    assert "linux.resources.network.classID: this host has cgroup v2" in found["network"]
    assert "cgroup controller 'nosuch' is not available" in found["unified"]
    assert "nosuch.file" in found["unified"]
    assert "this kernel has no memory.nosuch" in found["file"]
    if "hugetlb" not in findings["controllers"]:
        assert "cgroup controller 'hugetlb' is not available" in found["hugetlb"]
    assert "'rdma'" in found["rdma"]


def test_v2_device_program_is_replaced(findings: dict[str, Any]) -> None:
    found = _of(findings, "devices")
    assert found["programs"] == [1, 1, 1, 1]
    assert found["first"] == {"null": "fine", "zero": "Operation not permitted"}
    assert found["second"] == {"null": "Operation not permitted", "zero": "fine"}
    assert found["two attached"] == 2
    assert found["both replaced"] == 1
    assert found["everything"] == {"null": "fine", "zero": "fine"}


def test_v2_freezing(findings: dict[str, Any]) -> None:
    found = _of(findings, "freezing")
    assert found["frozen"] == [True, "1", True]
    assert found["thawed"] == [False, "0"]
    assert "exists and is frozen" in found["create"]
    assert "does not thaw within 0.05 s: a group above it is frozen" in found["parent"]
    assert found["killed"] == -signal.SIGKILL


def test_v2_hostile_tree(findings: dict[str, Any]) -> None:
    found = _of(findings, "hostile")
    assert found["seen"] == found["started"]
    for way in ("with cgroup.kill", "without cgroup.kill"):
        assert set(found[way]) == {-signal.SIGKILL}
    assert found["left"] == []


def test_v2_threaded_groups(findings: dict[str, Any]) -> None:
    found = _of(findings, "threaded")
    assert found["type"] == "threaded"
    assert found["seen"]
    assert found["killed"] == -signal.SIGKILL
    assert found["removed"]


def test_v2_inner_processes(findings: dict[str, Any]) -> None:
    found = _of(findings, "inner")
    assert "hands controllers to groups below it (cgroup.subtree_control)" in found["refused"]
    assert found["beside"].endswith("/init")


def test_v2_delegation(findings: dict[str, Any]) -> None:
    found = _of(findings, "delegation")
    assert found["delegated"]["directories"] == ["/sys/fs/cgroup/user/mine"]
    assert found["delegated"]["pids.max"] == "23"
    assert found["delegated"]["own"] == "0::/user/mine"
    assert found["alone"]["directories"] == []
    assert "systemd-run --user --scope -p Delegate=yes" in found["alone"]["error"]


def test_v2_statistics(findings: dict[str, Any]) -> None:
    found = _of(findings, "statistics")
    data = found["data"]
    assert list(data) == ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"]
    assert data["cpu"]["usage"]["total"] >= 10_000_000
    assert data["cpu"]["usage"]["total"] % 1000 == 0
    assert data["memory"]["usage"]["limit"] == 64 * _MEBI
    assert data["memory"]["usage"]["usage"] >= 8 * _MEBI
    assert data["memory"]["swap"]["limit"] == 96 * _MEBI
    assert data["memory"]["raw"]["anon"] >= 8 * _MEBI
    assert data["pids"] == {"current": 1, "limit": 17}


def test_v2_out_of_memory_is_told(findings: dict[str, Any]) -> None:
    found = _of(findings, "out_of_memory")
    assert found["before"] == 0
    assert found["events"] >= 1
    assert found["kills"] == found["events"]
    assert found["ended"] is None


def test_v2_nothing_is_left(findings: dict[str, Any]) -> None:
    assert findings["left"] == []
