"""Limits, read from the files of cgroup v1."""

import os
import subprocess
from collections.abc import Callable

import pytest
from harness import GROUPS, Engine, comm, group_file, read, wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.isdir(f"{GROUPS}/memory"), reason="needs cgroup v1")]
Up = Callable[..., str]


@pytest.mark.parametrize(
    ("options", "controller", "file", "value"),
    [
        (("-m", "64m"), "memory", "memory.limit_in_bytes", str(64 << 20)),
        (("-m", "64m"), "memory", "memory.memsw.limit_in_bytes", str(128 << 20)),
        (("-m", "64m", "--memory-swap", "64m"), "memory", "memory.memsw.limit_in_bytes", str(64 << 20)),
        (("-m", "64m", "--memory-reservation", "32m"), "memory", "memory.soft_limit_in_bytes", str(32 << 20)),
        (("-m", "64m", "--memory-swappiness", "7"), "memory", "memory.swappiness", "7"),
        (("--cpu-shares", "77"), "cpu", "cpu.shares", "77"),
        (("--cpu-quota", "20000", "--cpu-period", "50000"), "cpu", "cpu.cfs_quota_us", "20000"),
        (("--cpu-quota", "20000", "--cpu-period", "50000"), "cpu", "cpu.cfs_period_us", "50000"),
        (("--cpus", "0.5"), "cpu", "cpu.cfs_quota_us", "50000"),
        (("--cpuset-cpus", "1"), "cpuset", "cpuset.cpus", "1"),
        (("--cpuset-mems", "0"), "cpuset", "cpuset.mems", "0"),
        (("--pids-limit", "42"), "pids", "pids.max", "42"),
        ((), "pids", "pids.max", "max"),
    ],
)
def test_limit(engine: Engine, up: Up, options: tuple[str, ...], controller: str, file: str, value: str) -> None:
    if not os.path.exists(f"{GROUPS}/{controller}/berth/{file}"):
        pytest.skip(f"this kernel has no {file}")
    identity = up(*options)
    assert group_file(identity, controller, file) == value
    assert str(engine.pid(identity)) in group_file(identity, controller, "cgroup.procs").split()


def test_block_io_throttle(engine: Engine, up: Up) -> None:
    disk = "/dev/vda"
    if not os.path.exists(disk):
        pytest.skip(f"no {disk}")
    number = os.stat(disk).st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    identity = up("--device-read-bps", f"{disk}:1mb", "--device-write-iops", f"{disk}:77")
    assert group_file(identity, "blkio", "blkio.throttle.read_bps_device") == f"{name} 1048576"
    assert group_file(identity, "blkio", "blkio.throttle.write_iops_device") == f"{name} 77"


def test_devices_are_an_allow_list(up: Up) -> None:
    rules = group_file(up(), "devices", "devices.list").splitlines()
    assert "a *:* rwm" not in rules
    assert {"c 1:3 rwm", "c 1:5 rwm", "c 5:2 rwm", "c 136:* rwm"} <= set(rules)
    assert group_file(up("--privileged"), "devices", "devices.list") == "a *:* rwm"


def test_exec_is_in_the_same_group_of_every_hierarchy(engine: Engine, up: Up) -> None:
    identity = up()
    first = engine.pid(identity)
    engine.docker("exec", "-d", identity, "sleep", "1001")

    def others() -> list[str]:
        return [pid for pid in group_file(identity, "pids", "cgroup.procs").split() if int(pid) != first and comm(int(pid)) == "sleep"]

    wait_until(lambda: len(others()) == 1, "the exec in the pids group")
    assert read(f"/proc/{others()[0]}/cgroup") == read(f"/proc/{first}/cgroup")
    assert identity in read(f"/proc/{first}/cgroup")


def test_pause_freezes(engine: Engine, up: Up) -> None:
    identity = up()
    engine.docker("pause", identity)
    assert group_file(identity, "freezer", "freezer.state") == "FROZEN"
    engine.docker("unpause", identity)
    assert group_file(identity, "freezer", "freezer.state") == "THAWED"


def test_fork_bomb_is_contained(engine: Engine, up: Up) -> None:
    identity = up("--pids-limit", "20", command=("sh", "-c", "f() { f | f & }; f; sleep 1000"))
    wait_until(lambda: "max" in (events := group_file(identity, "pids", "pids.events")) and events.split()[1] != "0", "no refused fork")
    assert int(group_file(identity, "pids", "pids.current") or 0) <= 20
    engine.rm(identity)
    wait_until(lambda: not os.path.exists(f"{GROUPS}/pids/berth/{identity}"), "its cgroup")


def test_out_of_memory(engine: Engine) -> None:
    identity = engine.up("-m", "16m", "--memory-swap", "16m", command=("sh", "-c", "tail -c 100m /dev/zero"))
    assert engine.docker("wait", identity).stdout.strip() == "137"
    state = engine.state(identity)
    assert state["OOMKilled"] is True
    assert state["ExitCode"] == 137
    engine.rm(identity)


def test_a_kill_is_no_oom(engine: Engine) -> None:
    identity = engine.up("-m", "16m")
    engine.docker("kill", identity)
    assert engine.state(identity)["OOMKilled"] is False
    engine.rm(identity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-m", "1m"), "Minimum memory limit"), (("--cpus", "99"), "CPUs available"), (("--cpuset-cpus", "77"), "77"),
        (("-m", "64m", "--memory-swap", "32m"), "memoryswap"), (("--cpu-quota", "5"), "quota"), (("--blkio-weight", "5"), "10 to 1000"),
    ],
)  # fmt: skip
def test_impossible_limit(engine: Engine, options: tuple[str, ...], message: str) -> None:
    before = set(engine.docker("ps", "-aq").stdout.split())
    assert message in engine.run(*options, "bb", "true", code=None).stderr
    assert set(engine.docker("ps", "-aq").stdout.split()) == before


def test_cgroup_parent(engine: Engine, up: Up) -> None:
    identity = up("--cgroup-parent", "/berth-test-parent")
    try:
        assert os.path.isdir(f"{GROUPS}/pids/berth-test-parent/{identity}")
        engine.rm(identity)
        wait_until(lambda: not os.path.exists(f"{GROUPS}/pids/berth-test-parent/{identity}"), "its cgroup")
    finally:
        subprocess.run(["sh", "-c", f"rmdir {GROUPS}/*/berth-test-parent"], check=False, stderr=subprocess.DEVNULL)
