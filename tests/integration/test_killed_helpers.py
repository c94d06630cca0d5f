"""The launcher and monitors killed with SIGKILL at random moments, while containers are started: docs/design.md's table."""

import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from harness import Engine, all_pids, children, comm, group_names, parent, read, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

_ROUNDS = int(os.environ.get("BERTH_KILL_ROUNDS", "8"))


def kill_one(engine: Engine, chance: random.Random, spared: int) -> None:
    """The launcher, or one of the monitors that it has made or keeps ready, with a starter at work or not."""
    try:
        launcher = engine.launcher
        monitors = [pid for pid in children(launcher) if pid != spared]
        starters = [pid for monitor in monitors for pid in children(monitor) if comm(pid).startswith("berth-")]
        os.kill(chance.choice([launcher, *monitors, *monitors, *starters]), signal.SIGKILL)
    except (StopIteration, ProcessLookupError):
        pass


def test_launcher_monitors_and_starters_killed_under_load(own_engine: Engine) -> None:
    """What ran goes on; what was under way fails with a word and leaves nothing, or succeeds; the next start succeeds."""
    engine, stop = own_engine, threading.Event()
    steady = engine.up()
    pid, seed = engine.pid(steady), random.randrange(1 << 32)
    chance, answers, spared = random.Random(seed), [], parent(pid)

    def load(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            words = ("run", "--network", "none", "--name", f"n{number}-{count}", "bb", "sh", "-c", "echo said; exit 7")
            done = engine.docker(*words, code=None)
            answers.append((words[4], done.returncode, done.stdout, done.stderr))

    workers = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(_ROUNDS):
        before = len(answers)
        time.sleep(chance.uniform(0.01, 0.2))  # not to wait for something: to hit different moments
        kill_one(engine, chance, spared)
        wait_until(lambda before=before: len(answers) > before + 2, f"no answers, seed {seed}")  # type: ignore[misc]
    stop.set()
    for worker in workers:
        worker.join()
    states = {entry["Name"][1:]: entry for entry in json.loads(engine.docker("inspect", *engine.docker("ps", "-aq").stdout.split()).stdout)}
    engine.seen_ids |= {entry["Id"] for entry in states.values()}
    for name, code, said, told in answers:
        state = states[name]["State"]
        if code == 7:
            assert (state["ExitCode"], said) == (7, "said\n"), f"seed {seed}: {state}"
        else:
            assert state["Status"] in ("created", "exited"), f"seed {seed}: {state} {told}"
            # 137: what was killed was the program itself, before it got its name.
            assert told or code == 137, f"seed {seed}: {name}: {code} without a word: {state}"
    assert [code for _, code, _, _ in answers].count(7) >= len(answers) // 2
    assert engine.pid(steady) == pid
    idle = engine.launcher
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: "Z" in read(f"/proc/{idle}/stat").rpartition(")")[2], "the launcher")
    assert engine.run("bb", "echo", "fine").stdout == "fine\n"
    running = {steady}
    wait_until(lambda: {n for names in group_names().values() for n in names} & engine.seen_ids <= running, "cgroups of failed starts")
    assert "Traceback" not in engine.log(), engine.log()[-3000:]


def monitor_of(pid: int) -> int:
    above = parent(pid)
    while above > 1 and comm(above) != "berth-monitor":
        above = parent(above)
    assert above > 1, f"{pid} {comm(pid)} has no monitor"
    return above


@pytest.mark.parametrize("engine_too", [False, True])
def test_monitors_killed(own_engine: Engine, engine_too: bool) -> None:
    """The container ends with 137 and says why, nothing of it goes on, its restart policy counts; an exec ends alone."""
    engine = own_engine
    word = f"10{random.randrange(10**6):06}"  # a time that no other test sleeps
    script = ("sh", "-c", f"sleep {word} & sleep {word}")

    def sleepers() -> set[int]:
        return {pid for pid in all_pids() if word in read(f"/proc/{pid}/cmdline") and comm(pid) == "sleep"}

    plain = engine.up("--label", "k", command=script)
    shared = engine.up("--label", "k", "--pid", "host", command=script)
    removed = engine.up("--label", "k", "--rm", command=script)
    again = engine.up("--label", "k", "--restart", "always", command=script)
    with_exec = engine.up(command=("sleep", "1000"))
    engine.docker("exec", "-d", with_exec, "sleep", word)
    wait_until(lambda: len(sleepers()) == 9, "not all of them")
    first = engine.pid(with_exec)
    (exec_pid,) = (pid for pid in sleepers() if os.path.samefile(f"/proc/{pid}/ns/pid", f"/proc/{first}/ns/pid"))
    (exec_id,) = json.loads(engine.docker("inspect", with_exec).stdout)[0]["ExecIDs"]
    monitors = [monitor_of(engine.pid(identity)) for identity in (plain, shared, removed, again)] + [monitor_of(exec_pid)]
    begun = engine.docker("create", "--network", "none", "bb", "true").stdout.strip()
    before = sleepers()
    if engine_too:
        engine.kill()
        for base in group_names():  # as a start leaves them that was killed along with the engine
            os.mkdir(f"{base}/{begun}")
    for monitor in random.sample(monitors, len(monitors)):
        os.kill(monitor, signal.SIGKILL)
    if engine_too:
        engine.start()
    wait_until(lambda: not before & sleepers(), "programs whose monitor was killed")
    for identity in (plain, shared):
        wait_until(lambda identity=identity: engine.state(identity)["Status"] == "exited", "no end")  # type: ignore[misc]
        state = engine.state(identity)
        assert state["ExitCode"] == 137
        assert "monitor was killed" in state["Error"], state
    wait_until(lambda: removed not in engine.docker("ps", "-aq", "--no-trunc").stdout, "one that was to be removed")
    wait_until(lambda: engine.state(again)["Running"] and len(sleepers()) == 2, "no restart")
    assert json.loads(engine.docker("inspect", again).stdout)[0]["RestartCount"] == 1
    command = ["curl", "-sS", "--fail", "--unix-socket", f"{engine.exec}/berth.sock", f"http://d/exec/{exec_id}/json"]

    def exec_code() -> object:
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["ExitCode"]

    wait_until(lambda: exec_code() == 137, "no end of the exec")
    assert engine.pid(with_exec) == first
    gone = {plain, shared, removed, begun}
    wait_until(lambda: not {n for names in group_names().values() for n in names} & gone, "cgroups")


def spares(launcher: int) -> list[int]:
    return [pid for pid in children(launcher) if comm(pid) == "berth-spare"]


def test_exec_goes_by_the_launcher_only_if_it_must(own_engine: Engine) -> None:
    """Its message goes straight to a spare monitor that the engine was told of; where that was killed, to the launcher."""
    engine = own_engine
    name, launcher = engine.up(), engine.launcher
    fds = f"/proc/{launcher}/fd"

    def handed_over() -> bool:
        """Both spares are there, and the launcher has kept the channel of one: with the engine's socket it has two."""
        try:
            sockets = [fd for fd in os.listdir(fds) if os.readlink(f"{fds}/{fd}").startswith("socket:")]
        except FileNotFoundError:  # closed meanwhile
            return False
        return len(spares(launcher)) == 2 and len(sockets) == 2

    wait_until(handed_over, "the spares")
    os.kill(launcher, signal.SIGSTOP)
    try:
        assert engine.docker("exec", name, "echo", "straight").stdout == "straight\n"
    finally:
        os.kill(launcher, signal.SIGCONT)
    wait_until(handed_over, "another spare")
    for pid in spares(launcher):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not spares(launcher), "the spares' end")
    done = engine.docker("exec", name, "echo", "around", code=None)
    # One that was killed is noticed by who has its channel: the engine sends again, the launcher tells by the end.
    assert (done.returncode, done.stdout) == (0, "around\n") or "monitor ended" in done.stdout + done.stderr
    assert engine.docker("exec", name, "echo", "again").stdout == "again\n"
    assert engine.launcher == launcher
