"""The engine killed with SIGKILL at random moments under load; what is there afterwards is seen by others.

The load starts, ends and removes containers without a pause, so that the kill falls into creates, launches,
exits and removals alike. The seed is printed with a failure.
"""

import os
import random
import re
import subprocess
import threading

import pytest
from harness import Engine, all_pids, comm, parent, read, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_ROUNDS = 25


def _load(engine: Engine, stop: threading.Event, number: int) -> None:
    """Commands fail while no engine is there: that is the point."""
    verbs = [
        ["run", "--rm", "bb", "true"], ["run", "-d", "bb", "sleep", "1000"],
        ["run", "--name", f"end{number}", "bb", "sh", "-c", "echo said; exit 7"], ["rm", "-f", f"end{number}"],
    ]  # fmt: skip
    while not stop.is_set():
        for verb in verbs:
            if not stop.is_set():
                subprocess.run(["docker", *verb], env=engine.env, capture_output=True, stdin=subprocess.DEVNULL, check=False)


def _monitors(engine: Engine) -> dict[str, int]:
    """Container id -> pid of its monitor, from what their programs have mounted: not from the engine."""
    found = {}
    for pid in all_pids():
        match = re.search(re.escape(engine.data) + r"/containers/([0-9a-f]{64})/", read(f"/proc/{pid}/mountinfo"))
        if match and comm(parent(pid)) == "berth-monitor":
            found[match[1]] = parent(pid)
    return found


def test_killed_at_random_moments(own_engine: Engine) -> None:
    """After each kill: what ran runs, nothing is there twice, every directory and cgroup is somebody's."""
    engine = own_engine
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for round_ in range(_ROUNDS):
        stop = threading.Event()
        workers = [threading.Thread(target=_load, args=(engine, stop, number)) for number in range(2)]
        for worker in workers:
            worker.start()
        assert engine.process
        try:
            engine.process.wait(chance.uniform(0.02, 0.5))
        except subprocess.TimeoutExpired:
            pass  # the moment has come
        engine.kill()
        stop.set()
        for worker in workers:
            worker.join()
        running_before = _monitors(engine)
        engine.start()
        why = f"seed {seed}, round {round_}"
        listed = engine.docker("ps", "-aq", "--no-trunc").stdout.split()
        assert len(listed) == len(set(listed)), why

        def running_now() -> set[str]:
            return set(engine.docker("ps", "-q", "--no-trunc").stdout.split())

        wait_until(lambda: running_now() == set(_monitors(engine)), f"{why}: monitors of nobody, or none of somebody")
        running = running_now()
        for identity in set(running_before) & set(listed) - running:
            # It ended meanwhile; then its exit code is one of the load's.
            code = engine.docker("inspect", "-f", "{{.State.ExitCode}}", identity).stdout.strip()
            assert code in ("0", "7"), f"{why}: {identity} {code} {engine.log()[-2000:]}"
        assert set(os.listdir(f"{engine.data}/containers")) <= set(listed), why
        assert set(os.listdir(f"{engine.exec}/containers")) <= set(listed), why
        if listed:
            engine.docker("rm", "-f", *listed)
    assert "Traceback" not in engine.log(), engine.log()[-3000:]
