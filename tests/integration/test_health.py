"""Health checks, with Docker's CLI; what the probes leave is looked for in /proc."""

import io
import json
import os
import random
import signal
import subprocess
import tarfile
from collections.abc import Callable

import pytest
from harness import Engine, all_pids, read, resume, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]
FAST = ("--health-interval", "100ms", "--health-retries", "2")


def health(engine: Engine, identity: str) -> dict:
    return dict(engine.state(identity)["Health"])


def reaches(engine: Engine, identity: str, status: str) -> None:
    wait_until(lambda: health(engine, identity)["Status"] == status, f"no {status}")


def test_from_starting_to_healthy_to_unhealthy(engine: Engine, up: Up) -> None:
    identity = up(*FAST, "--health-cmd", "echo hi; test -e /ok")
    assert health(engine, identity)["Status"] == "starting"
    reaches(engine, identity, "unhealthy")
    assert "(unhealthy)" in engine.docker("ps", "--filter", f"id={identity}", "--format", "{{.Status}}").stdout
    engine.docker("exec", identity, "touch", "/ok")
    reaches(engine, identity, "healthy")
    seen = health(engine, identity)
    last = seen["Log"][-1]
    assert (seen["FailingStreak"], last["ExitCode"], last["Output"]) == (0, 0, "hi\n")
    assert last["Start"] < last["End"]
    wait_until(lambda: len(health(engine, identity)["Log"]) == 5, "less than five results")
    assert engine.docker("ps", "-q", "--no-trunc", "--filter", "health=healthy").stdout.split() == [identity]
    assert engine.docker("ps", "-q", "--filter", "health=unhealthy").stdout == ""
    assert "Unrecognised filter value for health: bogus" in engine.docker("ps", "--filter", "health=bogus", code=1).stderr
    engine.docker("exec", identity, "rm", "/ok")
    reaches(engine, identity, "unhealthy")
    engine.docker("kill", identity)
    assert health(engine, identity)["Status"] == "unhealthy"
    engine.docker("start", identity)
    assert health(engine, identity)["Status"] == "starting"


def test_no_failure_counts_in_the_start_period(engine: Engine, up: Up) -> None:
    identity = up(*FAST, "--health-start-period", "1h", "--health-start-interval", "50ms", "--health-cmd", "echo x; exit 1")
    wait_until(lambda: len(health(engine, identity)["Log"]) == 5, "less than five results")
    seen = health(engine, identity)
    assert (seen["Status"], seen["FailingStreak"]) == ("starting", 0)
    assert "(health: starting)" in engine.docker("ps", "--filter", f"id={identity}", "--format", "{{.Status}}").stdout


def test_a_probe_that_hangs_is_killed(engine: Engine, up: Up) -> None:
    identity = up(*FAST, "--health-timeout", "300ms", "--health-cmd", "echo begun; sleep 1004 & sleep 1004; echo no")
    reaches(engine, identity, "unhealthy")
    wanted = (-1, "Health check exceeded timeout (300ms): begun\n")  # without the last word where it had not come so far
    wait_until(lambda: wanted in [(entry["ExitCode"], entry["Output"]) for entry in health(engine, identity)["Log"]], "no such result")

    def started() -> set[int]:
        return {pid for pid in all_pids() if "1004" in read(f"/proc/{pid}/cmdline").split("\0")}

    before = started()
    wait_until(lambda: not before & started(), "what the probe started")


def test_a_probe_whose_time_is_up_before_it_starts_is_killed(own_engine: Engine) -> None:
    """A busy host: the launcher comes to it only after the timeout."""
    engine = own_engine
    word = f"10{random.randrange(10**6):06}"  # a time that no other test sleeps
    engine.up("--name", "late", *FAST, "--health-timeout", "300ms", "--health-cmd", f"sleep {word}")
    halted = engine.halt_helpers()
    try:
        done = len(health(engine, "late")["Log"])
        wait_until(lambda: len(health(engine, "late")["Log"]) >= min(done + 2, 5), "no probes that were given up")
    finally:
        resume(halted)
    engine.docker("exec", "late", "true")  # what was asked for before it has been handed out

    def probes() -> set[int]:
        return {pid for pid in all_pids() if word in read(f"/proc/{pid}/cmdline").split("\0")}

    before = probes()
    wait_until(lambda: not before & probes(), "probes that were given up")


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [("/no-such-thing", 127, "not found"), ("seq 100000", 0, "..."), ("kill -9 $$", 137, "")],
)
def test_results(engine: Engine, up: Up, command: str, code: int, output: str) -> None:
    identity = up(*FAST, "--health-cmd", command)
    wait_until(lambda: health(engine, identity)["Log"] != [], "no result")
    result = health(engine, identity)["Log"][0]
    assert result["ExitCode"] == code
    assert output in result["Output"]
    assert len(result["Output"]) <= 4096 + 3


def image_with_check(engine: Engine, name: str, check: dict) -> None:
    """`docker import` knows no HEALTHCHECK: the saved image's config is changed and loaded again."""
    saved = subprocess.run(["docker", "save", "bb"], env=engine.env, capture_output=True, check=True).stdout
    changed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(saved)) as old, tarfile.open(fileobj=changed, mode="w") as new:
        manifest = json.load(old.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(old.extractfile(manifest[0]["Config"]))  # type: ignore[arg-type]
        config.setdefault("config", {})["Healthcheck"] = check
        replaced = {"config.json": json.dumps(config).encode()}
        replaced["manifest.json"] = json.dumps([{**manifest[0], "Config": "config.json", "RepoTags": [f"{name}:latest"]}]).encode()
        for member in old:
            if member.isfile() and member.name in manifest[0]["Layers"]:
                new.addfile(member, old.extractfile(member))
        for path, data in replaced.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    subprocess.run(["docker", "load"], env=engine.env, input=changed.getvalue(), check=True, capture_output=True)


def test_an_images_check(engine: Engine, up: Up) -> None:
    image_with_check(engine, "checked", {"Test": ["CMD", "test", "-e", "/ok"], "Interval": 100_000_000, "Retries": 1})
    identity = up(image="checked")
    reaches(engine, identity, "unhealthy")
    other = up("--health-cmd", "true", image="checked")  # its interval still holds
    reaches(engine, other, "healthy")
    none = up("--no-healthcheck", image="checked")
    assert "Health" not in engine.state(none)
    assert engine.docker("ps", "-q", "--no-trunc", "--filter", "health=none", "--filter", f"id={none}").stdout.split() == [none]


def test_a_paused_container_is_left_alone(engine: Engine, up: Up) -> None:
    identity = up(*FAST, "--health-timeout", "5s", "--health-cmd", "true")
    reaches(engine, identity, "healthy")
    engine.docker("pause", identity)
    assert "(Paused)" in engine.docker("ps", "--filter", f"id={identity}", "--format", "{{.Status}}").stdout
    engine.docker("unpause", identity)
    before = health(engine, identity)["Log"][-1]["Start"]
    wait_until(lambda: health(engine, identity)["Log"][-1]["Start"] > before, "no probe after unpause")
    assert health(engine, identity)["Status"] == "healthy"


def test_it_goes_on_over_a_killed_engine(own_engine: Engine) -> None:
    engine = own_engine
    identity = engine.up(*FAST, "--health-cmd", "echo hi; test -e /ok")
    reaches(engine, identity, "unhealthy")
    pid = engine.pid(identity)
    engine.kill()
    engine.start()
    seen = health(engine, identity)
    assert (seen["Status"], seen["FailingStreak"] >= 2, engine.pid(identity)) == ("unhealthy", True, pid)
    engine.docker("exec", identity, "touch", "/ok")
    reaches(engine, identity, "healthy")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine.state(identity)["Status"] == "exited", "its end")


def test_a_probe_does_not_outlive_its_engine_for_long(own_engine: Engine) -> None:
    engine = own_engine
    identity = engine.up("--health-interval", "100ms", "--health-timeout", "1h", "--health-cmd", "sleep 1005 & sleep 1005")

    def probes() -> list[int]:
        return [pid for pid in all_pids() if read(f"/proc/{pid}/cmdline") == "sleep\0001005\0"]

    wait_until(lambda: len(probes()) == 2, "less than the two of a probe")
    before = set(probes())
    engine.kill()
    assert set(probes()) == before
    engine.start()
    wait_until(lambda: len(probes()) == 2 and not set(probes()) & before, "the probe of the engine before")
    engine.rm(identity)


def test_a_restarted_container_is_checked_anew(engine: Engine, up: Up) -> None:
    identity = up(*FAST, "--restart", "always", "--health-cmd", "test -e /ok", command=("sh", "-c", "touch /ok; sleep 1000"))
    reaches(engine, identity, "healthy")
    before = engine.pid(identity)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: engine.pid(identity) not in (0, before), "a restart")
    reaches(engine, identity, "healthy")
