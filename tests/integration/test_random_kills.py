"""The engine killed with SIGKILL at random moments under a mixed load; what is there afterwards is seen by others.

The seed is printed with a failure. BERTH_KILL_ROUNDS=300 for a night of it.
"""

import json
import os
import random
import re
import subprocess
import threading
import time

import pytest
from harness import Engine, all_pids, comm, group_names, parent, read, wait_until
from killload import Worker, check_box, check_readers, count_runs, end_readers, log_text

_ROUNDS = int(os.environ.get("BERTH_KILL_ROUNDS", "16"))
pytestmark = [pytest.mark.root, pytest.mark.timeout(120 + 10 * _ROUNDS)]

_HEALTHY = ("--health-cmd", "test ! -e /ill", "--health-interval", "300ms", "--health-retries", "1")


def programs(engine: Engine) -> dict[str, set[int]]:
    """Container id -> its processes, from what they have mounted: not from the engine."""
    found: dict[str, set[int]] = {}
    for pid in all_pids():
        match = re.search(re.escape(engine.data) + r"/containers/([0-9a-f]{64})/", read(f"/proc/{pid}/mountinfo"))
        if match and comm(pid) not in ("berth-monitor", "berth-spare"):
            found.setdefault(match[1], set()).add(pid)
    return found


def firsts(engine: Engine) -> dict[str, int]:
    """Container id -> its first process: the child of a monitor that is 1 in its pid namespace."""
    found = {}
    for identity, pids in programs(engine).items():
        for pid in pids:
            inside = re.search(r"^NSpid:.*\t(\d+)$", read(f"/proc/{pid}/status"), re.M)
            if inside and inside[1] == "1" and comm(parent(pid)) == "berth-monitor":
                assert identity not in found, f"{identity} has two first programs"
                found[identity] = pid
    return found


def inspect_all(engine: Engine) -> dict[str, dict]:
    """By name."""
    identities = engine.docker("ps", "-aq", "--no-trunc").stdout.split()
    assert len(identities) == len(set(identities))
    engine.seen_ids |= set(identities)
    done = engine.docker("inspect", *identities, code=None) if identities else None
    return {entry["Name"].removeprefix("/"): entry for entry in json.loads(done.stdout)} if done else {}


def run_and_kill(engine: Engine, workers: list[Worker], after_s: float) -> None:
    """The load for a while, then SIGKILL in the middle of it."""
    threads = [threading.Thread(target=worker.work) for worker in workers]
    for worker in workers:
        worker.killing.clear()
    for thread in threads:
        thread.start()
    assert engine.process
    try:
        engine.process.wait(after_s)
    except subprocess.TimeoutExpired:
        pass  # the moment has come
    assert engine.process.poll() is None, engine.log()
    for worker in workers:
        worker.killing.set()
    engine.kill()
    for thread in threads:
        thread.join()


def check_nothing_orphaned(engine: Engine) -> None:
    """Every program, directory, cgroup and exec's socket belongs to a container that there is, and the other way round."""

    def agree() -> bool:
        running = set(engine.docker("ps", "-q", "--no-trunc", "--filter", "status=running", "--filter", "status=paused").stdout.split())
        groups = {name for names in group_names().values() for name in names} & engine.seen_ids
        return running == set(firsts(engine)) == set(programs(engine)) and groups <= running

    try:
        wait_until(agree, "disagreement", 60)
    except AssertionError:
        running = engine.docker("ps", "-a", "--no-trunc").stdout
        groups = {at: names & engine.seen_ids for at, names in group_names().items()}
        raise AssertionError(f"programs {programs(engine)}\n{groups}\n{running}") from None
    for base in (engine.data, engine.exec):
        wait_until(lambda base=base: set(os.listdir(f"{base}/containers")) <= all_ids(engine), f"directories in {base}")  # type: ignore[misc]


def all_ids(engine: Engine) -> set[str]:
    return set(engine.docker("ps", "-aq", "--no-trunc").stdout.split())


def check_events(engine: Engine, since: str) -> None:
    """What the new engine told of what it found: nothing of which there is one end is told twice."""
    form = "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.execID}}"
    told = engine.docker("events", "--since", since, "--until", str(time.time()), "--format", form).stdout.splitlines()
    once = [line for line in told if line.split()[0] in ("exec_die", "destroy")]
    assert len(once) == len(set(once)), once


class Steady:
    """Two containers that live through all kills: one that is healthy, one that is restarted for ever."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.healthy = engine.up("--name", "healthy", *_HEALTHY, command=("sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"))
        self.restless = engine.up("--name", "restless", "--restart", "always", command=("sh", "-c", "echo up; exit 1"))
        self.pid = engine.pid(self.healthy)

    def check(self) -> None:
        """The same process, healthy, checked again by this engine; as many runs as the engine counts."""
        engine = self.engine
        assert engine.pid(self.healthy) == self.pid
        newest = self._health()["Log"][-1:]
        wait_until(lambda: self._health()["Log"][-1:] not in (newest, []), "health checks")
        seen = self._health()
        assert (seen["Status"], seen["FailingStreak"]) in (("healthy", 0), ("starting", 0)), seen
        starts = [entry["Start"] for entry in seen["Log"]]
        assert starts == sorted(set(starts)), starts
        assert count_runs(log_text(engine, self.healthy)) == 1

        def counted() -> bool:
            entry = json.loads(engine.docker("inspect", self.restless).stdout)[0]
            return bool(entry["State"]["Restarting"] and entry["RestartCount"] == log_text(engine, self.restless).count("up\n"))

        wait_until(counted, "runs that nobody counted")

    def _health(self) -> dict:
        return dict(self.engine.state(self.healthy)["Health"])


def test_killed_at_random_moments(own_engine: Engine) -> None:
    engine = own_engine
    seed = int(os.environ.get("BERTH_KILL_SEED") or random.randrange(1 << 32))
    chance = random.Random(seed)
    workers = [Worker(engine, number, chance.randrange(1 << 32)) for number in range(3)]
    steady = Steady(engine)
    for round_ in range(_ROUNDS):
        try:
            _round(engine, workers, steady, chance.uniform(0.02, 1.0))
        except BaseException as error:
            if hasattr(error, "add_note"):
                error.add_note(f"seed {seed}, round {round_}\n{engine.log()[-2000:]}")
            for worker in workers:
                end_readers(worker)
            raise
    print({name: sum(worker.done.get(name, 0) for worker in workers) for worker in workers for name in worker.done})
    assert "Traceback" not in engine.log(), engine.log()[-3000:]


def _round(engine: Engine, workers: list[Worker], steady: Steady, after_s: float) -> None:
    run_and_kill(engine, workers, after_s)
    assert not [worker.failures for worker in workers if worker.failures], [worker.failures for worker in workers]
    before = firsts(engine)
    since = str(time.time())
    engine.start()
    inspected = inspect_all(engine)
    ours = {name for worker in workers for box in worker.boxes for name in box.names} | {"healthy", "restless"}
    assert set(inspected) <= ours, f"containers of nobody: {set(inspected) - ours}"
    for worker in workers:
        for box in worker.boxes:
            check_box(engine, box, inspected)
        check_readers(worker)
        for tag in worker.images:
            engine.docker("image", "inspect", tag)
    steady.check()
    now = firsts(engine)
    settled = {inspected[name]["Id"] for worker in workers for box in worker.boxes if not box.open and box.kind == "counter"
               for name in box.names if name in inspected and box.states <= {"running", "paused"}}  # fmt: skip
    assert {identity: before.get(identity) for identity in settled} == {identity: now.get(identity) for identity in settled}
    check_nothing_orphaned(engine)
    check_events(engine, since)
    _tidy(engine, workers)


def _tidy(engine: Engine, workers: list[Worker]) -> None:
    """Removes what was left open, what has ended, and images: the load makes new ones."""
    there = inspect_all(engine)
    for worker in workers:
        left = [box for box in worker.boxes if box.open or box.states & {"exited", "created", "gone"}]
        names = [name for box in left for name in box.names if name in there]
        if names:
            engine.docker("rm", "-f", *names)
        worker.boxes = [box for box in worker.boxes if box not in left]
        if worker.images:
            engine.docker("rmi", *worker.images)
            worker.images.clear()
        for box in worker.boxes:
            if box.states == {"paused"}:
                engine.docker("unpause", box.name)
                box.states = {"running"}
