"""`update` of running and stopped containers with Docker's CLI, looked for in the cgroup files, over a killed engine too."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from harness import REPOSITORY, Engine, group_file, wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.isdir("/sys/fs/cgroup/memory"), reason="looks at cgroup v1's files")]
Up = Callable[..., str]


def limits(identity: str) -> list[str]:
    """memory, memory and swap, reservation, shares, quota, period, CPUs, processes."""
    files = (("memory", "memory.limit_in_bytes"), ("memory", "memory.memsw.limit_in_bytes"), ("memory", "memory.soft_limit_in_bytes"),
             ("cpu", "cpu.shares"), ("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.cfs_period_us"), ("cpuset", "cpuset.cpus"), ("pids", "pids.max"))  # fmt: skip
    return [group_file(identity, controller, file) for controller, file in files]


ALL = ("-m", "32m", "--memory-swap", "48m", "--memory-reservation", "16m", "--cpu-shares", "512", "--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "50")
EXPECTED = [str(32 << 20), str(48 << 20), str(16 << 20), "512", "50000", "100000", "0", "50"]


@pytest.mark.parametrize("options", [("-m", "64m"), (), ("--runtime", "runc")])
def test_a_running_container(engine: Engine, up: Up, options: tuple[str, ...]) -> None:
    identity = up(*options)
    assert engine.docker("update", *ALL, identity).stdout == f"{identity}\n"
    assert limits(identity) == EXPECTED
    engine.docker("update", "-m", "24m", "--pids-limit", "-1", identity)
    assert limits(identity) == [str(24 << 20), *EXPECTED[1:-1], "max"]
    host = json.loads(engine.docker("inspect", identity).stdout)[0]["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (24 << 20, 48 << 20, 500_000_000, 0)
    engine.docker("restart", "-t", "0", identity)
    assert limits(identity) == [str(24 << 20), *EXPECTED[1:-1], "max"]


def test_a_stopped_container_has_it_at_its_start(engine: Engine) -> None:
    identity = engine.docker("create", "--network", "none", "bb", "sleep", "1000").stdout.strip()
    engine.docker("update", *ALL, identity)
    engine.docker("start", identity)
    assert limits(identity) == EXPECTED
    engine.rm(identity)


def test_requests_that_are_refused_change_nothing(engine: Engine, up: Up) -> None:
    identity = up("-m", "64m")
    before = limits(identity)
    for words, said in (
        (("-m", "1m"), "Minimum memory limit allowed is 6MB"), (("-m", "256m"), "update the memoryswap at the same time"),
        (("--memory-swap", "32m"), "Minimum memoryswap limit should be larger"), (("--cpus", "4000"), "CPUs available"),
        (("--cpuset-cpus", "4000"), "Requested CPUs are not available"), (("--restart", "bogus"), "unknown policy 'bogus'"),
        (("--restart", "always:2"), "maximum retry count can only be used with 'on-failure'"),
    ):  # fmt: skip
        assert said in engine.docker("update", *words, identity, code=1).stderr
    assert limits(identity) == before
    assert "No such container: nope" in engine.docker("update", "--cpus", "1", "nope", code=1).stderr


def test_what_the_kernel_refuses_is_said(engine: Engine, up: Up) -> None:
    identity = up("--tmpfs", "/t", "-m", "64m", command=("sh", "-c", "dd if=/dev/zero of=/t/x bs=1M count=40; echo full; sleep 1000"))
    wait_until(lambda: engine.docker("logs", identity).stdout == "full\n", "the memory to be filled")
    before = limits(identity)
    done = engine.docker("update", "-m", "8m", "--memory-swap", "8m", "--cpu-shares", "512", "--pids-limit", "7", identity, code=1)
    assert limits(identity) == before, "nor what it would have taken"
    assert f"Cannot update container {identity}: " in done.stderr
    assert json.loads(engine.docker("inspect", identity).stdout)[0]["HostConfig"]["Memory"] == 64 << 20


def test_the_policy_of_a_running_container(own_engine: Engine) -> None:
    engine = own_engine
    identity = engine.up()
    engine.docker("update", "--restart", "on-failure:1", identity)
    engine.kill()
    engine.start()
    os.kill(engine.pid(identity), signal.SIGKILL)
    wait_until(lambda: json.loads(engine.docker("inspect", identity).stdout)[0]["RestartCount"] == 1, "a restart")
    wait_until(lambda: engine.state(identity)["Status"] == "running", "it to run")
    engine.docker("update", "--restart", "no", identity)
    os.kill(engine.pid(identity), signal.SIGKILL)
    wait_until(lambda: engine.state(identity)["Status"] == "exited", "its end")
    with_rm = engine.up("--rm")
    assert "AutoRemove is enabled" in engine.docker("update", "--restart", "always", with_rm, code=1).stderr


def test_berths_own_command(engine: Engine, up: Up) -> None:
    identity = up()
    environment = {**engine.env, "PYTHONPATH": f"{REPOSITORY}/src"}

    def berth(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "berth.cli", "update", *words], env=environment, capture_output=True, text=True)

    done = berth(*ALL, identity)
    assert (done.returncode, done.stdout) == (0, f"{identity}\n")
    assert limits(identity) == EXPECTED
    assert (berth(identity).returncode, berth(identity).stderr) == (1, "you must provide one or more flags when using this command\n")
    done = berth("--cpus", "1", "nope", identity)
    assert (done.returncode, done.stdout) == (1, f"{identity}\n")
