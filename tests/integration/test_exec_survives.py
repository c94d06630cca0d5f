"""Execs over an engine that is killed: they go on, their exit codes and events are there, once each.

Whether a program runs is seen in /proc, what berth says of it is read with curl.
"""

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest
from harness import Engine, all_pids, read, resume, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def get(engine: Engine, path: str) -> dict:
    command = ["curl", "-sS", "--fail", "--unix-socket", f"{engine.exec}/berth.sock", f"http://d{path}"]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout))


def exec_ids(engine: Engine, identity: str) -> list[str]:
    return list(get(engine, f"/containers/{identity}/json")["ExecIDs"] or [])


def running(command: str) -> list[int]:
    """Processes whose arguments end with `command`."""
    return [pid for pid in all_pids() if read(f"/proc/{pid}/cmdline").replace("\0", " ").strip().endswith(command)]


def waiting_exec(engine: Engine, identity: str, word: str, code: int) -> tuple[str, int]:
    """A detached exec that exits with `code` once /WORD is there; its id and its pid."""
    before = set(exec_ids(engine, identity))
    script = f"until [ -e /{word} ]; do sleep 0.02; done; : {secrets.token_hex(4)}; exit {code}"
    engine.docker("exec", "-d", identity, "sh", "-c", script)
    wait_until(lambda: len(running(script)) == 1, "no exec")
    (found,) = set(exec_ids(engine, identity)) - before
    return found, running(script)[0]


def exec_ends(engine: Engine, since: str) -> list[tuple[str, str]]:
    form = "{{.Actor.Attributes.execID}} {{.Actor.Attributes.exitCode}}"
    seen = engine.docker("events", "--since", since, "--until", str(time.time()), "--filter", "event=exec_die", "--format", form).stdout
    return [(line.split()[0], line.split()[1]) for line in seen.splitlines()]


def let_end(container: int, *waits: tuple[str, int]) -> None:
    """Makes the files that execs wait for, one after the other, from outside: no engine need run."""
    for word, pid in waits:
        with open(f"/proc/{container}/root/{word}", "w"):
            pass
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), f"the exec that waits for {word}")  # type: ignore[misc]


def test_it_goes_on_and_its_end_is_told(own_engine: Engine) -> None:
    engine = own_engine
    identity = engine.up()
    found, pid = waiting_exec(engine, identity, "go", 7)
    engine.kill()
    engine.start()
    seen = get(engine, f"/exec/{found}/json")
    assert (seen["Running"], seen["ExitCode"], seen["Pid"]) == (True, None, pid)
    assert seen["ProcessConfig"]["entrypoint"] == "sh"
    assert exec_ids(engine, identity) == [found]
    since = str(time.time())
    engine.docker("exec", identity, "touch", "/go")
    wait_until(lambda: (found, "7") in exec_ends(engine, since), "no exec_die")
    seen = get(engine, f"/exec/{found}/json")
    assert (seen["Running"], seen["ExitCode"]) == (False, 7)
    assert exec_ids(engine, identity) == []
    assert [code for name, code in exec_ends(engine, since) if name == found] == ["7"]


def test_ends_that_no_engine_saw(own_engine: Engine) -> None:
    """Told once, in order, and before the end of the container; known to the engine after that too."""
    engine = own_engine
    identity = engine.up()
    first, first_pid = waiting_exec(engine, identity, "one", 8)
    second, second_pid = waiting_exec(engine, identity, "two", 9)
    third, _ = waiting_exec(engine, identity, "never", 10)
    container = engine.pid(identity)
    engine.kill()
    let_end(container, ("two", second_pid), ("one", first_pid))
    os.kill(container, signal.SIGKILL)
    wait_until(lambda: os.path.exists(f"{engine.data}/containers/{identity}/exit.json"), "no exit status")
    wait_until(lambda: not os.path.exists(f"{engine.exec}/containers/{identity}/exec-{third}.sock"), "the monitor of the third")
    since = str(time.time())
    engine.start()
    told = exec_ends(engine, since)
    assert told == [(second, "9"), (first, "8"), (third, "137")]
    ends = engine.docker("events", "--since", since, "--until", str(time.time()), "--filter", "type=container", "--format", "{{.Action}}").stdout.split()
    assert ends == ["exec_die", "exec_die", "exec_die", "die"]
    for again in (False, True):
        codes = [get(engine, f"/exec/{name}/json")["ExitCode"] for name in (first, second, third)]
        assert (again, codes) == (again, [8, 9, 137])
        since = str(time.time())
        engine.kill()
        engine.start()
        assert exec_ends(engine, since) == []


def test_ends_of_containers_that_no_engine_saw(own_engine: Engine) -> None:
    """Their events, and those of what follows from --rm and a restart policy, in the order in which they ended."""
    engine = own_engine
    wait = "until [ -e /go ]; do sleep 0.02; done; "
    limit = ("--memory", "16m", "--memory-swap", "16m")
    again = engine.up("--name", "again", "--restart", "on-failure:1", command=("sh", "-c", f"{wait} exit 5"))
    greedy = engine.up("--name", "greedy", *limit, command=("sh", "-c", f"{wait} exec tail /dev/zero"))
    removed = engine.up("--name", "removed", "--rm", command=("sh", "-c", f"{wait} exit 4"))
    pids = [engine.pid(identity) for identity in (greedy, removed, again)]
    engine.kill()
    for pid in pids:
        let_end(pid, ("go", pid))
    since = str(time.time())
    engine.start()
    wait_until(lambda: engine.state(again)["Status"] == "exited", "a restart")
    form = "{{.Actor.Attributes.name}} {{.Action}} {{.Actor.Attributes.exitCode}}"
    told = engine.docker("events", "--since", since, "--until", str(time.time()), "--filter", "type=container", "--format", form).stdout
    seen = [line.replace(" <no value>", "").strip() for line in told.splitlines()]
    assert seen == ["greedy oom", "greedy die 137", "removed die 4", "removed destroy", "again die 5", "again start", "again die 5"]
    assert not os.path.exists(f"{engine.data}/containers/{removed}")


def test_input_ends_with_the_engine_and_a_terminal_stays(own_engine: Engine) -> None:
    engine = own_engine
    identity = engine.up()
    script = "cat >/got; exit 5"
    with subprocess.Popen(["docker", "exec", "-i", identity, "sh", "-c", script], env=engine.env, stdin=subprocess.PIPE) as client:
        assert client.stdin
        client.stdin.write(b"some")
        client.stdin.flush()
        wait_until(lambda: read(f"{engine.data}/containers/{identity}/upper/got") == "some", "no input")
        (found,) = exec_ids(engine, identity)
        engine.kill()
    body = json.dumps({"Cmd": ["sh", "-c", "trap 'stty size >/size; exit 3' WINCH; touch /ready; while :; do sleep 0.05; done"], "Tty": True})
    engine.start()
    wait_until(lambda: get(engine, f"/exec/{found}/json")["ExitCode"] == 5, "the end of one whose input has ended")

    def post(path: str, body: str) -> str:
        command = ["curl", "-sS", "--fail", "-X", "POST", "--unix-socket", f"{engine.exec}/berth.sock", f"http://d{path}",
                   "-H", "Content-Type: application/json", "-d", body]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    terminal = json.loads(post(f"/containers/{identity}/exec", body))["Id"]
    post(f"/exec/{terminal}/start", '{"Detach": true, "Tty": true}')
    upper = f"{engine.data}/containers/{identity}/upper"
    wait_until(lambda: os.path.exists(f"{upper}/ready"), "no terminal")
    engine.kill()
    engine.start()
    post(f"/exec/{terminal}/resize?h=33&w=77", "")
    wait_until(lambda: get(engine, f"/exec/{terminal}/json")["ExitCode"] == 3, "the end after a resize")
    assert read(f"{upper}/size") == "33 77\n"


@pytest.mark.parametrize("command", [("nosuch",), ("true",)])
def test_one_that_is_over_leaves_no_file(engine: Engine, up: Callable[..., str], command: tuple[str, ...]) -> None:
    """The file of an exec goes when it could not start; otherwise some time after its exit code was asked for."""
    identity = up()
    engine.docker("exec", identity, *command, code=None)
    directory = f"{engine.exec}/containers/{identity}"
    wait_until(lambda: not [name for name in os.listdir(directory) if name.startswith("exec-")], "files of an exec", 30)


@pytest.mark.parametrize("words", [("start", "late"), ("exec", "-d", "there", "sh", "-c", "sleep 1; exit 6")])
def test_what_the_launcher_has_not_come_to_yet(own_engine: Engine, words: tuple[str, ...]) -> None:
    """A start and an exec that were asked for and not begun when the engine was killed are the next engine's, and its alone."""
    engine = own_engine
    engine.docker("create", "--name", "late", "--network", "none", "bb", "sleep", "1000")
    identity = engine.up("--name", "there")
    bundle = engine.docker("inspect", "-f", "{{.Id}}", "late").stdout.strip()
    run_directory = f"{engine.exec}/containers/{identity}"
    halted = engine.halt_helpers()
    client = subprocess.Popen(["docker", *words], env=engine.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    starting = threading.Thread(target=engine.start)
    try:

        def asked_for() -> bool:
            paths = [f"{engine.data}/containers/{bundle}/config.json", *(f"{run_directory}/{n}" for n in os.listdir(run_directory) if n[:5] == "exec-")]
            return any(os.path.exists(path) and subprocess.run(["flock", "-n", "-s", path, "true"], check=False).returncode for path in paths)

        wait_until(asked_for, "no request")
        engine.kill()
        starting.start()
        starting.join(2)  # without a lock it would be ready by now
    finally:
        resume(halted)
        client.wait()
    starting.join()
    if words[0] == "start":
        assert engine.state("late")["Running"]
        assert read(f"/proc/{engine.pid('late')}/cmdline") == "sleep\0001000\0"
    else:
        (found,) = exec_ids(engine, identity)
        wait_until(lambda: get(engine, f"/exec/{found}/json")["ExitCode"] == 6, "no end")
