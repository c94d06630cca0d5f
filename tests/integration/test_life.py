"""Waiting, removing, renaming, finding, stopping in time, --init, and how an end for want of memory is told from others."""

import http.client
import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Callable

import pytest
from harness import Engine, read, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]


class Waiting(http.client.HTTPConnection):
    """A POST /containers/NAME/wait whose head has come: the wait is in place."""

    def __init__(self, engine: Engine, name: str, condition: str = "") -> None:
        super().__init__("engine", timeout=60)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(f"{engine.exec}/berth.sock")
        self.request("POST", f"/v1.51/containers/{name}/wait" + (f"?condition={condition}" if condition else ""))
        self.response = self.getresponse()

    def answer(self) -> dict:
        with self.response:
            found = dict(json.load(self.response))
        self.close()
        return found


def call(engine: Engine, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("engine", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{engine.exec}/berth.sock")
    connection.request(method, path)
    response = connection.getresponse()
    with response:
        text = response.read().decode()
    connection.close()
    return response.status, json.loads(text)["message"] if text.strip() else ""


def create(engine: Engine, *options: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
    return engine.docker("create", "--network", "none", *options, "bb", *command).stdout.strip()


def test_the_three_conditions_of_wait(engine: Engine) -> None:
    identity = create(engine, command=("sh", "-c", "exit 7"))
    assert Waiting(engine, identity).answer() == {"StatusCode": 0}
    assert Waiting(engine, identity, "not-running").answer() == {"StatusCode": 0}
    next_exit, removed = Waiting(engine, identity, "next-exit"), Waiting(engine, identity, "removed")
    engine.docker("start", identity)
    assert next_exit.answer() == {"StatusCode": 7}
    assert Waiting(engine, identity).answer() == {"StatusCode": 7}
    again = Waiting(engine, identity, "next-exit")
    engine.docker("start", identity)
    assert again.answer() == {"StatusCode": 7}
    never = Waiting(engine, identity, "next-exit")
    engine.rm(identity)
    assert removed.answer() == never.answer() == {"StatusCode": 7}
    assert call(engine, "POST", f"/containers/{identity}/wait") == (404, f"No such container: {identity}")


def test_a_wait_tells_why_a_start_failed(engine: Engine) -> None:
    identity = create(engine, command=("nothing-here",))
    waiting = Waiting(engine, identity, "next-exit")
    engine.docker("start", identity, code=1)
    for answer in (waiting.answer(), Waiting(engine, identity).answer()):
        assert answer["StatusCode"] == 127
        assert "nothing-here" in answer["Error"]["Message"]
    engine.rm(identity)
    gone = create(engine, "--rm", command=("nothing-here",))
    removed = Waiting(engine, gone, "removed")
    engine.docker("start", gone, code=1)
    assert removed.answer()["StatusCode"] == 127
    assert "No such object" in engine.docker("inspect", gone, code=1).stderr


def test_a_wait_whose_client_left_is_forgotten(engine: Engine, up: Up) -> None:
    identity = up(command=("sh", "-c", "read x < /dev/null; sleep 1000"))
    for condition in ("", "next-exit", "removed"):
        waiting = Waiting(engine, identity, condition)
        waiting.response.close()
        waiting.close()
    engine.docker("kill", identity)
    assert Waiting(engine, identity).answer() == {"StatusCode": 137}


def test_wait_with_a_bad_condition(engine: Engine, up: Up) -> None:
    status, words = call(engine, "POST", f"/containers/{up()}/wait?condition=bogus")
    assert status == 400
    assert words.startswith('invalid condition: "bogus"')


def test_remove(engine: Engine) -> None:
    identity = engine.up("--name", "rmd")
    assert 'cannot remove container "/rmd": container is running: stop the container before removing or force remove' in engine.docker("rm", "rmd", code=1).stderr
    engine.docker("pause", "rmd")
    assert 'container "/rmd": container is paused and must be unpaused first' in engine.docker("rm", "rmd", code=1).stderr
    assert "Conflict, cannot remove the default link name of the container" in engine.docker("rm", "--link", "rmd", code=1).stderr
    engine.docker("rm", "-f", "-v", "rmd")  # also a paused one
    assert engine.docker("rm", "-f", "rmd").stderr.strip() == "Error response from daemon: No such container: rmd"
    assert "No such container: rmd" in engine.docker("rm", "rmd", code=1).stderr
    wait_until(lambda: identity not in os.listdir(f"{engine.data}/containers"), "its directory")


@pytest.mark.parametrize(
    ("new", "status", "words"),
    [
        ("taken", 409, 'Conflict. The container name "/taken" is already in use by container "'), ("/taken", 409, "Error when allocating new name: Conflict."),
        ("mine", 400, "Renaming a container with the same name as its current name"), ("%2Fmine", 400, "Renaming a container with the same name"),
        ("", 400, "Neither old nor new names may be empty"), ("%2F", 400, "Error when allocating new name: Invalid container name (/)"),
        ("a%2Fb", 400, "Invalid container name (/a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"), ("x", 400, "Invalid container name (/x)"),
    ],
)  # fmt: skip
def test_rename_refused(engine: Engine, new: str, status: int, words: str) -> None:
    identities = [create(engine, "--name", name) for name in ("mine", "taken")]
    found = call(engine, "POST", f"/containers/mine/rename?name={new}")
    engine.rm(*identities)
    assert found[0] == status
    assert words in found[1]


def test_rename_while_it_runs_and_over_a_killed_engine(own_engine: Engine) -> None:
    engine = own_engine
    identity = engine.up("--name", "before")
    engine.docker("rename", "before", "after")
    assert "No such container: before" in engine.docker("rename", "before", "x1", code=1).stderr
    other = engine.up("--name", "before")
    engine.kill()
    engine.start()
    names = engine.docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}").stdout.split("\n")
    assert {f"{identity} after", f"{other} before"} <= set(names)
    # A name comes before the start of an id.
    engine.docker("rename", "after", other[:12])
    assert json.loads(engine.docker("inspect", other[:12]).stdout)[0]["Id"] == identity
    assert json.loads(engine.docker("inspect", other[:13]).stdout)[0]["Id"] == other


def test_prefixes_of_ids(engine: Engine) -> None:
    identities = [create(engine) for _ in range(17)]
    first = sorted(identities)
    prefix = next(a[0] for a, b in itertools.pairwise(first) if a[0] == b[0])
    assert call(engine, "GET", f"/containers/{prefix}/json") == (400, f"Multiple IDs found with provided prefix: {prefix}")
    assert "Multiple IDs found with provided prefix" in engine.docker("start", prefix, code=1).stderr
    assert call(engine, "GET", "/containers/%20/json") == (404, "No such container:  ")
    engine.rm(*identities)


def test_stop_timeouts(engine: Engine) -> None:
    deaf = ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    identity = engine.up("--stop-timeout", "1", command=deaf)
    wait_until(lambda: engine.docker("logs", identity).stdout == "up\n", "no trap yet")
    before = time.monotonic()
    engine.docker("stop", identity)
    assert time.monotonic() - before > 0.9
    assert engine.state(identity)["ExitCode"] == 137
    engine.rm(identity)
    patient = engine.up("--stop-timeout", "100000", command=deaf)
    wait_until(lambda: engine.docker("logs", patient).stdout == "up\n", "no trap yet")
    engine.docker("stop", "-t", "0", patient)  # or else it would not come back
    engine.rm(patient)


@pytest.mark.parametrize("command", [("sleep", "1000"), ("sh", "-c", "(sleep 0.01 &); exec sleep 1000")])
def test_init(engine: Engine, up: Up, command: tuple[str, ...]) -> None:
    identity = up("--init", command=command)
    assert "docker-init" in read(f"/proc/{engine.pid(identity)}/cmdline")
    wait_until(lambda: " Z " not in engine.docker("exec", identity, "ps", "-o", "pid,stat,comm").stdout, "a zombie")
    engine.docker("stop", "-t", "5", identity)
    assert engine.state(identity)["ExitCode"] == 143
    assert json.loads(engine.docker("inspect", identity).stdout)[0]["HostConfig"]["Init"] is True


@pytest.mark.parametrize("runtime", ["berth", "runc", "crun"])
@pytest.mark.parametrize(
    ("script", "code", "killed"),
    [
        ("exec tail /dev/zero", 137, True), ("tail /dev/zero; echo on; exit 5", 5, True), ("kill -9 $$", 0, False), ("exit 137", 137, False),
    ],
)  # fmt: skip
def test_out_of_memory_is_told_from_killed(engine: Engine, runtime: str, script: str, code: int, killed: bool) -> None:
    # runc copies itself into memory that may count as the container's, so that with 16 MiB runc may be what is killed.
    identity = engine.up("-m", "64m", "--memory-swap", "64m", "--runtime", runtime, command=("sh", "-c", script))
    if script.startswith("kill"):  # the first process of a pid namespace is deaf to itself
        assert engine.docker("wait", identity).stdout == "0\n"
    engine.docker("wait", identity)
    state = engine.state(identity)
    assert (state["ExitCode"], state["OOMKilled"]) == (code, killed)
    engine.docker("start", identity)
    engine.docker("wait", identity)
    assert engine.state(identity)["OOMKilled"] is killed
    engine.rm(identity)


def test_killed_by_hand_is_not_out_of_memory(engine: Engine, up: Up) -> None:
    identity = up("-m", "16m")
    os.kill(engine.pid(identity), signal.SIGKILL)
    assert engine.docker("wait", identity).stdout == "137\n"
    assert engine.state(identity)["OOMKilled"] is False
    assert f"cannot kill container: {identity}: container {identity} is not running" in engine.docker("kill", identity, code=1).stderr
    assert "cannot kill container: nope: No such container: nope" in engine.docker("kill", "nope", code=1).stderr
