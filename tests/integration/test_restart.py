"""Restart policies, with Docker's CLI, over an engine that is killed as well."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from harness import Engine, read, wait_until

pytestmark = pytest.mark.root


def inspected(engine: Engine, name: str) -> dict:
    return dict(json.loads(engine.docker("inspect", name).stdout)[0])


def status(engine: Engine, name: str) -> tuple[str, int]:
    seen = inspected(engine, name)
    return seen["State"]["Status"], seen["RestartCount"]


def lines(engine: Engine, name: str) -> list[str]:
    return engine.docker("logs", name).stdout.splitlines()


def test_on_failure_gives_up(engine: Engine) -> None:
    identity = engine.up("--restart", "on-failure:2", command=("sh", "-c", "echo x; exit 3"))
    wait_until(lambda: status(engine, identity) == ("exited", 2), "restarts")
    seen = inspected(engine, identity)
    assert (seen["State"]["ExitCode"], seen["State"]["Running"], seen["State"]["Restarting"]) == (3, False, False)
    assert seen["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert lines(engine, identity) == ["x"] * 3
    engine.docker("start", identity)  # a person's start begins to count anew
    wait_until(lambda: len(lines(engine, identity)) == 6, "restarts after a start by hand")
    wait_until(lambda: status(engine, identity) == ("exited", 2), "restarts")
    engine.rm(identity)


def test_on_failure_is_content_with_success(engine: Engine) -> None:
    identity = engine.up("--restart", "on-failure", command=("true",))
    assert engine.docker("wait", identity).stdout == "0\n"
    assert status(engine, identity) == ("exited", 0)
    engine.rm(identity)


def test_in_the_foreground_the_first_end_counts(engine: Engine) -> None:
    done = engine.docker("run", "--name", "fore", "--network", "none", "--restart", "on-failure:1", "bb", "sh", "-c", "echo x; exit 3", code=3)
    assert done.stdout == "x\n"
    wait_until(lambda: status(engine, "fore") == ("exited", 1), "a restart")
    engine.rm("fore")


@pytest.mark.parametrize(("verb", "words"), [("stop", ()), ("kill", ()), ("kill", ("-s", "HUP"))])
def test_the_wait_can_be_ended(engine: Engine, verb: str, words: tuple[str, ...]) -> None:
    identity = engine.up("--restart", "always", command=("sh", "-c", "echo x; exit 3"))
    # After a few restarts the waits are long enough to meet one.
    wait_until(lambda: status(engine, identity)[0] == "restarting" and status(engine, identity)[1] >= 4, "a wait")
    engine.docker(verb, *words, identity)
    assert engine.state(identity)["Status"] == "exited"
    before = lines(engine, identity)
    engine.docker("start", identity)
    wait_until(lambda: len(lines(engine, identity)) > len(before) + 1, "it to be restarted after a start by hand")
    engine.docker("rm", "-f", identity)
    wait_until(lambda: identity not in os.listdir(f"{engine.data}/containers"), "its directory")


def test_what_one_that_waits_is_and_refuses(engine: Engine) -> None:
    identity = engine.up("--restart", "always", command=("sh", "-c", "echo x; exit 3"))
    wait_until(lambda: status(engine, identity)[0] == "restarting" and status(engine, identity)[1] >= 6, "a long wait", 30)
    state = engine.state(identity)
    assert (state["Running"], state["Restarting"], state["Pid"], state["ExitCode"]) == (True, True, 0, 3)
    assert "Restarting (3)" in engine.docker("ps", "--filter", f"id={identity}", "--format", "{{.Status}}").stdout
    assert engine.docker("ps", "-q", "--no-trunc", "--filter", "status=restarting").stdout.split() == [identity]
    for refused in (("exec", identity, "true"), ("pause", identity), ("attach", identity), ("top", identity)):
        assert "wait until" in engine.docker(*refused, code=1).stderr
    assert "container is restarting: stop the container before removing or force remove" in engine.docker("rm", identity, code=1).stderr
    engine.docker("rm", "-f", identity)


def test_stop_ends_a_run_for_good(engine: Engine) -> None:
    for policy in ("always", "unless-stopped", "on-failure"):
        identity = engine.up("--restart", policy)
        engine.docker("stop", "-t", "0", identity)
        assert status(engine, identity) == ("exited", 0)
        engine.docker("restart", "-t", "0", identity)
        assert status(engine, identity) == ("running", 0)
        os.kill(engine.pid(identity), signal.SIGKILL)  # nobody asked the engine for it
        wait_until(lambda identity=identity: status(engine, identity) == ("running", 1), "it to be restarted")
        engine.rm(identity)


def test_requests_that_are_refused(engine: Engine) -> None:
    assert "cannot specify both --restart and --rm" in engine.run("--restart", "always", "bb", "true", code=125).stderr
    for policy, words in (("bogus", "unknown policy 'bogus'"), ("always:3", "maximum retry count can only be used with 'on-failure'"),
                          ("on-failure:-1", "maximum retry count cannot be negative")):  # fmt: skip
        assert words in engine.docker("run", "--restart", policy, "--network", "none", "bb", "true", code=125).stderr


def test_a_failed_start_by_hand_is_not_tried_again(engine: Engine) -> None:
    identity = engine.docker("create", "--restart", "always", "--network", "none", "bb", "nothing-here").stdout.strip()
    engine.docker("start", identity, code=1)
    assert status(engine, identity) == ("created", 0)
    engine.rm(identity)


def test_policies_over_a_killed_engine(own_engine: Engine) -> None:
    engine = own_engine
    made = {
        "stopped-always": ("always", "sleep 1000"), "stopped-unless": ("unless-stopped", "sleep 1000"),
        "stopped-failure": ("on-failure", "sleep 1000"), "runs": ("always", "sleep 1000"),
        "waits": ("on-failure", "echo x; exit 3"), "dies-unless": ("unless-stopped", "exec sleep 1001"),
        "dies-failure": ("on-failure", "exec sleep 1001"), "dies-no": ("no", "exec sleep 1001"),
    }  # fmt: skip
    for name, (policy, script) in made.items():
        engine.up("--name", name, "--restart", policy, command=("sh", "-c", script))
    engine.docker("create", "--name", "never-started", "--restart", "always", "--network", "none", "bb", "true")
    engine.docker("stop", "-t", "0", *[name for name in made if name.startswith("stopped")])
    dying = [engine.pid(name) for name in made if name.startswith("dies")]
    running = engine.pid("runs")
    wait_until(lambda: status(engine, "waits")[0] == "restarting" and status(engine, "waits")[1] >= 3, "a wait")
    counted = status(engine, "waits")[1]
    engine.kill()
    for pid in dying:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(read(f"/proc/{pid}/cmdline") for pid in dying), "the killed ones")
    engine.start()
    for name in ("stopped-always", "dies-unless", "dies-failure"):
        wait_until(lambda name=name: status(engine, name)[0] == "running", f"{name} to run")
    assert engine.pid("runs") == running
    wait_until(lambda: status(engine, "waits")[1] > counted, "the policy to go on")
    for name, expected in (("stopped-unless", "exited"), ("stopped-failure", "exited"), ("dies-no", "exited"), ("never-started", "created")):
        assert status(engine, name)[0] == expected, name


def test_every_run_counts_over_an_engine_killed_at_random(own_engine: Engine) -> None:
    """Each run writes a line, so lines, the count and the policy's maximum must agree whenever the engine was killed."""
    engine, seed = own_engine, random.randrange(1 << 32)
    chance = random.Random(seed)
    names = [f"counted{number}" for number in range(4)]
    for name in names:
        engine.up("--name", name, "--restart", "on-failure:5", command=("sh", "-c", "echo x; exit 3"))
    by_hand = engine.up("--restart", "unless-stopped")
    engine.docker("stop", "-t", "0", by_hand)
    for _ in range(15):
        time.sleep(chance.random() * 0.3)  # not to wait for something: to hit different moments
        engine.kill()
        time.sleep(chance.random() * 0.2)
        engine.start()
    for name in names:
        wait_until(lambda name=name: status(engine, name) == ("exited", 5), f"restarts of {name}; seed {seed}", 30)
        assert lines(engine, name) == ["x"] * 6, f"seed {seed}"
        assert engine.state(name)["ExitCode"] == 3
    assert status(engine, by_hand) == ("exited", 0)


def test_a_reboot(own_engine: Engine) -> None:
    """The run directory is gone, and with it all that ran."""
    engine = own_engine
    for name, policy in (("r-always", "always"), ("r-unless", "unless-stopped"), ("r-failure", "on-failure"), ("r-no", "no")):
        engine.up("--name", name, "--restart", policy)
    stopped = engine.up("--name", "r-stopped", "--restart", "unless-stopped")
    engine.docker("stop", "-t", "0", stopped)
    pids = [engine.pid(name) for name in ("r-always", "r-unless", "r-failure", "r-no")]
    engine.kill()
    for pid in pids:
        os.kill(int(read(f"/proc/{pid}/status").partition("PPid:")[2].split()[0]), signal.SIGKILL)  # its monitor: no last words
    wait_until(lambda: not any(read(f"/proc/{pid}/cmdline") for pid in pids), "containers")
    shutil.rmtree(engine.exec)
    engine.start()
    for name in ("r-always", "r-unless", "r-failure"):
        wait_until(lambda name=name: status(engine, name)[0] == "running", f"{name} to run")
    assert [engine.state(name)["Status"] for name in ("r-no", "r-stopped")] == ["exited", "exited"]
    assert engine.state("r-no")["ExitCode"] == 137


def test_an_engine_that_stops_its_containers_is_no_person(rootfs_tar: str) -> None:
    engine = Engine(("--live-restore=false", "--shutdown-timeout", "1"))
    engine.docker("import", rootfs_tar, "bb")
    for policy in ("unless-stopped", "on-failure", "no"):
        engine.up("--name", policy, "--restart", policy, "--stop-timeout", "0")
    engine.up("--name", "waits", "--restart", "always", command=("sh", "-c", "exit 3"))
    wait_until(lambda: status(engine, "waits")[0] == "restarting" and status(engine, "waits")[1] >= 3, "a wait")
    counted = status(engine, "waits")[1]
    engine.stop()
    engine.start()
    for name in ("unless-stopped", "on-failure"):
        wait_until(lambda name=name: status(engine, name)[0] == "running", f"{name} to run")
    wait_until(lambda: status(engine, "waits")[1] > counted, "the policy to go on")
    assert status(engine, "no")[0] == "exited"
    engine.docker("rm", "-f", "waits")
    engine.finish()
