"""A mixed load for an engine that is killed under it, and what must be true of each container afterwards.

Each worker has containers of its own and knows of each what may be: before it asks for a change, both what was and what will be;
once it has been answered, only what was asked for. What was under way when the engine was killed stays open between the two.
"""

import http.client
import itertools
import json
import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Callable

from harness import Engine, group_file, read, wait_until

GONE = "gone"
STOPPED, KILLED = 9, 137
# Counts aloud; says at a polite end how far it has come, so that a lost last line is seen.
COUNT = f'i=0; trap \'echo "bye $i"; exit {STOPPED}\' TERM; while :; do i=$((i+1)); echo "line $i"; sleep 0.05 & wait $!; done'
_LINES = 3000
_MIB = 1 << 20


class Box:
    """A container: every attribute is a set of what it may be now. runs: how often its program was started, -1 if unknown."""

    def __init__(self, kind: str, name: str, code: int = 0) -> None:
        self.kind = kind
        self.names = {name}
        self.states = {GONE}
        self.codes = {code}
        self.memory = {0}
        self.runs = 0
        self.id = ""
        self.open = False  # something was under way when the engine was killed
        self.execs: list[tuple[str, int]] = []

    @property
    def name(self) -> str:
        return next(iter(self.names))


class Worker:
    """Does one thing after the other to its containers until it is told to stop; `failures` are what no kill explains."""

    def __init__(self, engine: Engine, number: int, seed: int) -> None:
        self.engine = engine
        self.number = number
        self.chance = random.Random(seed)
        self.boxes: list[Box] = []
        self.count = 0
        self.images: list[str] = []
        self.failures: list[str] = []
        self.killing = threading.Event()
        self.readers: list[tuple[Box, str, subprocess.Popen[bytes]]] = []
        self.done: dict[str, int] = {}

    def work(self) -> None:
        """Until `killing` is set."""
        while not self.killing.is_set():
            action = self.chance.choice(self._possible())
            try:
                action()
            except _Killed:
                return
            self.done[action.__name__] = self.done.get(action.__name__, 0) + 1

    def _possible(self) -> list[Callable[[], None]]:
        makes = [self.make_counter, self.make_ender, self.make_retrier, self.run_and_remove, self.make_only]
        running = [box for box in self.boxes if box.kind == "counter" and box.states == {"running"}]
        if len(self.boxes) >= 6:
            makes = [self.run_and_remove, self.remove, self.remove]
        if not running:
            return makes
        return [*makes, self.execute, self.execute_detached, self.execute_detached, self.stop, self.kill, self.restart, self.pause, self.rename,
                self.update, self.commit, self.copy, self.follow, self.attach]  # fmt: skip

    # -- asking -----------------------------------------------------------------------------------

    def _docker(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(["docker", *words], env=self.engine.env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != code:
            self._failed(f"docker {words}: {done.returncode} {done.stdout[-500:]} {done.stderr}")
        return done.stdout

    def _failed(self, what: str) -> None:
        if not self.killing.is_set():
            self.failures.append(what)
        raise _Killed

    def _post(self, path: str, body: dict) -> dict:
        connection = http.client.HTTPConnection("d")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(f"{self.engine.exec}/berth.sock")
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._failed(f"POST {path}: {error!r}")
        finally:
            connection.close()
        if answer.status >= 300:
            self._failed(f"POST {path}: {answer.status} {text!r}")
        return dict(json.loads(text)) if text else {}

    def _new(self, kind: str, code: int = 0) -> Box:
        self.count += 1
        box = Box(kind, f"w{self.number}-{self.count}", code)
        self.boxes.append(box)
        return box

    def _counter(self) -> Box:
        return self.chance.choice([box for box in self.boxes if box.kind == "counter" and box.states == {"running"}])

    def _await_run(self, box: Box) -> None:
        """Until its newest run has said something: before it can hear a signal, and be stopped politely, it must have begun."""
        path = f"{self.engine.data}/containers/{box.id}/{box.id}-json.log"
        wait_until(lambda: self.killing.is_set() or read(path).count('"line 1\\n"') == box.runs, f"line 1 of {box.names}")

    def _run(self, box: Box, states: set[str], *words: str) -> None:
        """`run -d`; interrupted it may be there, with or without having been started."""
        box.open, box.states, box.runs = True, {GONE, "created", *states}, -1
        box.id = self._docker("run", "-d", "--network", "none", "--name", box.name, *words).strip()
        box.open, box.states, box.runs = False, states, 1

    # -- making -----------------------------------------------------------------------------------

    def make_counter(self) -> None:
        self._run(box := self._new("counter"), {"running"}, "bb", "sh", "-c", COUNT)
        self._await_run(box)

    def make_ender(self) -> None:
        box = self._new("ender", code := self.chance.randrange(1, 100))
        self._run(box, {"exited"}, "bb", "sh", "-c", f"seq 1 {_LINES}; exit {code}")

    def make_retrier(self) -> None:
        self._run(self._new("retrier", 3), {"exited"}, "--restart", "on-failure:3", "bb", "sh", "-c", "echo run; exit 3")

    def make_only(self) -> None:
        box = self._new("created")
        box.open, box.states = True, {GONE, "created"}
        self._docker("create", "--network", "none", "--name", box.name, "bb", "true")
        box.open, box.states = False, {"created"}

    def run_and_remove(self) -> None:
        box = self._new("removed", 5)
        box.open, box.states = True, {GONE, "created"}
        self._docker("run", "--rm", "--network", "none", "--name", box.name, "bb", "sh", "-c", "echo said; exit 5", code=5)
        box.open, box.states = False, {GONE}

    # -- changing ---------------------------------------------------------------------------------

    def stop(self) -> None:
        box = self._counter()
        box.open, box.states, box.codes = True, {"running", "exited"}, {STOPPED}
        self._docker("stop", box.name)
        box.open, box.states = False, {"exited"}

    def kill(self) -> None:
        box = self._counter()
        box.open, box.states, box.codes = True, {"running", "exited"}, {KILLED}
        self._docker("kill", box.name)
        box.open, box.states = False, {"exited"}

    def restart(self) -> None:
        box = self._counter()
        runs = box.runs
        box.open, box.states, box.codes, box.runs = True, {"running", "exited"}, {STOPPED}, -1
        self._docker("restart", box.name)
        box.open, box.states, box.runs = False, {"running"}, runs + 1
        self._await_run(box)

    def remove(self) -> None:
        box = self.chance.choice(self.boxes)
        box.open, box.states, box.codes = True, {GONE, *box.states, "exited"}, {*box.codes, KILLED}
        self._docker("rm", "-f", box.name)
        self.boxes.remove(box)

    def pause(self) -> None:
        box = self._counter()
        box.open, box.states = True, {"running", "paused"}
        self._docker("pause", box.name)
        box.open, box.states = False, {"paused"}
        if self.chance.random() < 0.7:
            box.open, box.states = True, {"running", "paused"}
            self._docker("unpause", box.name)
            box.open, box.states = False, {"running"}

    def rename(self) -> None:
        box = self._counter()
        self.count += 1
        old, new = box.name, f"w{self.number}-{self.count}"
        box.open, box.names = True, {old, new}
        self._docker("rename", old, new)
        box.open, box.names = False, {new}

    def update(self) -> None:
        box = self._counter()
        (old,), new = box.memory, self.chance.choice([40, 50, 60]) * _MIB
        box.open, box.memory = True, {old, new}
        self._docker("update", "--memory", str(new), "--memory-swap", str(2 * new), box.name)
        box.open, box.memory = False, {new}

    # -- using ------------------------------------------------------------------------------------

    def execute(self) -> None:
        code = self.chance.randrange(1, 100)
        self._docker("exec", self._counter().name, "sh", "-c", f"exit {code}", code=code)

    def execute_detached(self) -> None:
        box, code = self._counter(), self.chance.randrange(1, 100)
        script = f"sleep 0.{self.chance.randrange(9)}; exit {code}"
        identity = self._post(f"/containers/{box.name}/exec", {"Cmd": ["sh", "-c", script]})["Id"]
        self._post(f"/exec/{identity}/start", {"Detach": True})
        box.execs.append((identity, code))

    def commit(self) -> None:
        box = self._counter()
        self.count += 1
        tag = f"kept{self.number}:{self.count}"
        self._docker("commit", "--pause=false", box.name, tag)
        self.images.append(tag)

    def copy(self) -> None:
        box = self._counter()
        path = f"{self.engine.top}/copy{self.number}"
        text = f"{self.chance.random()}\n"
        with open(path, "w") as file:
            file.write(text)
        self._docker("cp", "-q", path, f"{box.name}:/tmp/copy")
        self._docker("cp", "-q", f"{box.name}:/tmp/copy", f"{path}.back")
        if read(f"{path}.back") != text:
            self.failures.append(f"{box.name}: the copy of {text!r} came back as {read(f'{path}.back')!r}")

    def follow(self) -> None:
        self._read(self._counter(), "logs", "-f")

    def attach(self) -> None:
        self._read(self._counter(), "attach", "--no-stdin", "--sig-proxy=false")

    def _read(self, box: Box, *words: str) -> None:
        path = f"{self.engine.top}/reader{self.number}-{len(self.readers)}"
        with open(path, "wb") as file:
            process = subprocess.Popen(["docker", *words, box.name], env=self.engine.env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.readers.append((box, path, process))


class _Killed(Exception):
    """The engine has gone under a request."""


# -- what must be true afterwards -----------------------------------------------------------------------


def check_box(engine: Engine, box: Box, inspected: dict[str, dict]) -> None:
    """inspected: `docker inspect` of all containers by name, of the engine that came after the kill."""
    found = [inspected[name] for name in box.names if name in inspected]
    assert len(found) <= 1, f"{box.kind} {box.names} is there twice"
    if not found:
        assert GONE in box.states, f"{box.kind} {box.names} is lost; it may be {box.states}"
        return
    identity = found[0]["Id"]
    settled: list[dict] = []

    def settles() -> bool:
        settled[:] = json.loads(engine.docker("inspect", identity, code=None).stdout)
        return settled[0]["State"]["Status"] in box.states if settled else GONE in box.states

    try:
        wait_until(settles, f"{box.kind} {box.names}", 30)
    except AssertionError:
        raise AssertionError(f"{box.kind} {box.names} {identity} may be {box.states}: {settled}") from None
    if not settled:
        return
    state, host = settled[0]["State"], settled[0]["HostConfig"]
    if state["Status"] == "exited":
        assert state["ExitCode"] in box.codes, f"{box.kind} {box.names} {identity}: {state} and not {box.codes}"
    assert host["Memory"] in box.memory, f"{box.names}: memory {host['Memory']}, not {box.memory}"
    if host["Memory"] and state["Status"] in ("running", "paused"):
        assert int(group_file(identity, "memory", "memory.limit_in_bytes")) == host["Memory"] or box.open, f"{box.names}: its cgroup"
    _check_log(engine, box, identity, state["Status"])
    interrupted = box.open and "created" not in box.states  # its removal was under way, and ended its restarts
    if box.kind == "retrier" and state["Status"] == "exited" and not interrupted:
        assert settled[0]["RestartCount"] == 3, f"{box.names}: {settled[0]['RestartCount']} restarts"
    _check_execs(engine, box, identity, state["Status"])


def _check_log(engine: Engine, box: Box, identity: str, status: str) -> None:
    """No line is lost, twice, or out of order: in the file, and in what `docker logs` makes of it."""
    if status == "created":
        return
    if box.kind == "counter":
        if box.runs > 0:
            wait_until(lambda: count_runs(log_text(engine, identity)) == box.runs, f"{identity}: not {box.runs} runs: {box.names}")
        shown = engine.docker("logs", identity).stdout
        written = log_text(engine, identity)
        assert written.startswith(shown), f"{identity}: logs differ from the file: {shown[-200:]!r}"
        count_runs(written)
        if status == "exited" and box.codes == {STOPPED} and not box.open:
            assert written.splitlines()[-1].startswith("bye"), f"{identity}: the last words are lost: {written[-100:]!r}"
        return
    expected = {"ender": "".join(f"{i}\n" for i in range(1, _LINES + 1)), "retrier": "run\n" * 4}.get(box.kind)
    if expected is not None and status == "exited" and KILLED not in box.codes:
        for text in (log_text(engine, identity), engine.docker("logs", identity).stdout):
            assert text == expected, f"{box.kind} {identity}: {len(text)} bytes of log, not {len(expected)}: {text[-100:]!r}"


def log_text(engine: Engine, identity: str) -> str:
    """What the json-file has, read by us."""
    lines = read(f"{engine.data}/containers/{identity}/{identity}-json.log").splitlines()
    return "".join(json.loads(line)["log"] for line in lines)


def count_runs(text: str) -> int:
    """Checks that each run counts from 1 in steps of one, and takes leave, if it does, with its last number."""
    last = runs = 0
    for line in text.splitlines():
        if found := re.fullmatch(r"bye (\d+)", line):
            assert int(found[1]) in (last, last + 1), f"{line} after {last}"
            continue
        number = int(line.removeprefix("line "))
        assert number in (last + 1, 1), f"line {number} after {last}"
        runs += number == 1
        last = number
    return runs


def _check_execs(engine: Engine, box: Box, identity: str, status: str) -> None:
    """Their exit codes, once the engine knows them; one that the end of its container took has 137."""
    if box.execs and status == "running" and not box.open:
        for exec_id, code in box.execs[-3:]:
            seen: list[dict] = []

            def ended(exec_id: str = exec_id, seen: list[dict] = seen) -> bool:
                command = ["curl", "-sS", "--unix-socket", f"{engine.exec}/berth.sock", f"http://d/exec/{exec_id}/json"]
                seen[:] = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout)]
                return not seen[0].get("Running")

            wait_until(ended, f"exec {exec_id}")
            codes = {code} if box.runs == 1 else {code, KILLED}
            assert seen[0].get("ExitCode") in codes, f"exec {exec_id} of {box.names}: {seen[0]}, not {codes}"
        box.execs.clear()  # the engine has said all of them once, and forgets them


def check_readers(worker: Worker) -> None:
    """What `logs -f` and `attach` gave until the kill is a part of the log without a gap."""
    for box, path, process in worker.readers:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"a reader of {box.names} still waits after its engine was killed") from None
        numbers = [int(found[1]) for found in re.finditer(r"^line (\d+)\n", read(path), re.M)]
        for before, after in itertools.pairwise(numbers):
            assert after in (before + 1, 1), f"{path}: {after} after {before}"
        os.unlink(path)
    worker.readers.clear()


def end_readers(worker: Worker) -> None:
    """Those that a failure left behind."""
    for _, _, process in worker.readers:
        process.kill()
        process.wait()
    worker.readers.clear()
