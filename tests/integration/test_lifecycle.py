"""Exit codes, terminals, attach, logs, exec, and what survives a killed engine or monitor."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Engine, all_pids, comm, group_names, mounts, parent, read, status, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]


class Terminal:
    """Docker's CLI on a pseudo terminal."""

    def __init__(self, engine: Engine, *words: str, rows: int = 31, columns: int = 97) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.seen = b""

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            ["docker", *words], env=engine.env, stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal
        )
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, timeout_s: float = 60) -> None:
        """Reads until `text` comes; what came before it and itself is forgotten."""
        deadline = time.monotonic() + timeout_s
        while text.encode() not in self.seen:
            readable, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"{text!r} did not come: {self.seen!r}"
            try:
                data = os.read(self.master, 4096)
            except OSError:
                data = b""
            assert data, f"the terminal ended before {text!r}: {self.seen!r}"
            self.seen += data
        self.seen = self.seen.partition(text.encode())[2]

    def end(self) -> int:
        def drain() -> None:
            try:
                while os.read(self.master, 4096):
                    pass
            except OSError:
                pass

        reader = threading.Thread(target=drain)
        reader.start()
        code = self.process.wait(60)
        reader.join(60)
        os.close(self.master)
        return code


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("true",), 0, ""),
        (("sh", "-c", "exit 42"), 42, ""),
        (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137, ""),
        (("sh", "-c", "sh -c 'kill -TERM $$'; exit $?"), 143, ""),
        (("no-such-program",), 127, "no-such-program"),
        (("/no/such/program",), 127, "no such file or directory"),
        (("/etc/plain",), 126, "ermission denied"),
        (("/etc",), 126, "/etc"),
        (("foreign",), 125, "exec format error"),  # Docker's CLI knows no code for this text; see the next test
        (("noline",), 127, "no/such/interpreter"),
    ],
)
def test_exit_code(engine: Engine, words: tuple[str, ...], code: int, text: str) -> None:
    done = engine.run("bb", *words, code=code)
    assert text.lower() in done.stderr.lower()


def test_program_of_another_architecture(engine: Engine) -> None:
    identity = engine.docker("create", "--network", "none", "bb", "foreign").stdout.strip()
    assert "riscv64" in engine.docker("start", identity, code=1).stderr
    assert engine.state(identity)["ExitCode"] == 126
    engine.rm(identity)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("-u", "nobody-here"), 125, "unable to find user nobody-here"),
        (("-u", "0:nogroup-here"), 125, "unable to find group nogroup-here"),
        (("-w", "/etc/passwd"), None, "/etc/passwd"),
        (("-w", "relative"), 125, "relative"),
        (("-v", "relative/path:/x"), 125, "relative"),
        (("--name", "not/allowed"), 125, "Invalid container name"),
        (("--runtime", "no-such"), 125, "no-such"),
        (("--stop-signal", "NOPE"), 125, "NOPE"),
        (("-v", "/etc/passwd:/etc"), None, "director"),
    ],
)
def test_bad_request(engine: Engine, options: tuple[str, ...], code: int | None, text: str) -> None:
    before = set(os.listdir(f"{engine.data}/containers"))
    done = engine.run(*options, "bb", "true", code=code)
    assert done.returncode in (125, 126, 127)
    assert text in done.stderr
    wait_until(lambda: set(os.listdir(f"{engine.data}/containers")) <= before, "half-made containers")


def test_missing_image(engine: Engine) -> None:
    done = engine.docker("create", "--pull", "never", "no-such-image", code=1)
    assert "No such image: no-such-image:latest" in done.stderr
    assert engine.run("--pull", "never", "no-such-image", code=125).stderr


def test_failed_start_keeps_its_reason(engine: Engine) -> None:
    identity = engine.docker("create", "--network", "none", "bb", "nothing-here").stdout.strip()
    engine.docker("start", identity, code=1)
    state = engine.state(identity)
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "nothing-here" in state["Error"]
    engine.rm(identity)


def test_name_taken(engine: Engine) -> None:
    first = engine.up("--name", "taken")
    error = engine.run("--name", "taken", "bb", "true", code=125).stderr
    assert f'Conflict. The container name "/taken" is already in use by container "{first}"' in error
    engine.rm("taken")
    engine.run("--name", "taken", "bb", "true")


def test_streams_are_kept_apart(engine: Engine) -> None:
    done = engine.run("-i", "bb", "sh", "-c", "cat; echo err >&2", input="in\n")
    assert (done.stdout, done.stderr) == ("in\n", "err\n")


def test_a_megabyte_through(engine: Engine) -> None:
    text = "x" * 1023 + "\n"
    assert engine.run("-i", "bb", "cat", input=text * 1024).stdout == text * 1024


def test_terminal_and_window_size(engine: Engine) -> None:
    terminal = Terminal(engine, "run", "--rm", "-it", "--network", "none", "bb", "sh")
    terminal.type("tty; stty size; echo $TERM\n")
    terminal.expect("/dev/pts/0")
    terminal.expect("31 97")
    terminal.expect("xterm")
    terminal.resize(20, 60)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.type("while [ \"$(stty size)\" != '20 60' ]; do :; done; echo re''sized\n")
    terminal.expect("resized")
    terminal.type("exit 7\n")
    assert terminal.end() == 7


@pytest.mark.parametrize(("options", "keys"), [((), "\x10\x11"), (("--detach-keys", "ctrl-a,x"), "\x01x")])
def test_detach_keys(engine: Engine, options: tuple[str, ...], keys: str) -> None:
    terminal = Terminal(engine, "run", "-it", "--name", "detached", *options, "--network", "none", "bb", "sh", "-c", "echo re''ady; cat")
    terminal.expect("ready")
    for key in keys:
        terminal.type(key)
    terminal.end()
    assert engine.state("detached")["Running"] is True
    terminal = Terminal(engine, "attach", "detached")
    terminal.type("hello\n")
    terminal.expect("hello\r\nhello")
    terminal.type("\x04")
    assert terminal.end() == 0
    engine.rm("detached")


def test_interrupt_by_key(engine: Engine) -> None:
    terminal = Terminal(engine, "run", "--rm", "-it", "--network", "none", "bb", "sh", "-c", "trap 'echo cau''ght; exit 3' INT; echo re''ady; while :; do sleep 0.1; done")
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("caught")
    assert terminal.end() == 3


def test_exec(engine: Engine, up: Up) -> None:
    identity = up()
    assert engine.docker("exec", "-i", identity, "sh", "-c", "cat; exit 5", input="x", code=5).stdout == "x"
    assert engine.docker("exec", "-u", "alice", "-w", "/tmp", "-e", "A=1", identity, "sh", "-c", "id -u; pwd; echo $A").stdout.split() == ["1000", "/tmp", "1"]
    assert "nope" in engine.docker("exec", identity, "nope", code=127).stdout
    engine.docker("exec", identity, "/etc/plain", code=126)
    terminal = Terminal(engine, "exec", "-it", identity, "sh")
    terminal.type("stty size; tty; exit 9\n")
    terminal.expect("31 97")
    terminal.expect("/dev/pts/")
    assert terminal.end() == 9
    assert status(engine.pid(identity))["NSpid"].split()[-1] == "1"
    engine.docker("exec", "-d", identity, "sh", "-c", "exec sleep 1002")
    wait_until(lambda: "1002" in engine.docker("exec", identity, "ps").stdout, "no detached exec")
    engine.docker("kill", identity)
    assert "is not running" in engine.docker("exec", identity, "true", code=1).stderr


def test_attach_to_a_running_one(engine: Engine, up: Up) -> None:
    identity = up("-i", command=("sh", "-c", "read line; echo got $line; exit 6"))
    done = engine.docker("attach", identity, input="it\n", code=6)
    assert done.stdout == "got it\n"


def test_logs(engine: Engine) -> None:
    identity = engine.up(command=("sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.02; done; echo err >&2; printf unfinished"))
    engine.docker("wait", identity)
    done = engine.docker("logs", identity)
    assert done.stdout == "".join(f"line {i}\n" for i in range(1, 6)) + "unfinished"
    assert done.stderr == "err\n"
    assert engine.docker("logs", "--tail", "0", identity).stdout == ""
    tail = engine.docker("logs", "--tail", "3", identity)
    assert (tail.stdout + tail.stderr).count("line") + tail.stderr.count("err") + tail.stdout.count("unfinished") == 3
    stamped = engine.docker("logs", "-t", identity).stdout.splitlines()
    assert stamped[0].endswith("Z line 1")
    assert engine.docker("logs", "--since", stamped[3].split()[0], identity).stdout.startswith("line 4\n")
    assert engine.docker("logs", "--until", "2001-01-01T00:00:00Z", identity).stdout == ""
    engine.rm(identity)


def test_logs_follow_to_the_end(engine: Engine, up: Up) -> None:
    identity = up("-i", command=("sh", "-c", "echo first; read x; echo last"))
    follower = subprocess.Popen(["docker", "logs", "-f", identity], env=engine.env, stdout=subprocess.PIPE, text=True)
    assert follower.stdout
    with follower.stdout:
        assert follower.stdout.readline() == "first\n"
        engine.docker("attach", identity, input="go\n")
        assert follower.stdout.read() == "last\n"
    assert follower.wait(60) == 0


def test_wait_kill_stop_and_restart(engine: Engine, up: Up) -> None:
    identity = up("--stop-signal", "USR1", command=("sh", "-c", "trap 'exit 21' USR1; trap 'exit 22' HUP; echo up; while :; do sleep 0.05; done"))
    wait_until(lambda: engine.docker("logs", identity).stdout == "up\n", "no trap yet")
    engine.docker("stop", "-t", "10", identity)
    assert engine.docker("wait", identity).stdout == "21\n"
    engine.docker("start", identity)
    wait_until(lambda: engine.docker("logs", identity).stdout == "up\nup\n", "no trap yet")
    engine.docker("kill", "-s", "HUP", identity)
    assert engine.docker("wait", identity).stdout == "22\n"
    stubborn = up(command=("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    engine.docker("stop", "-t", "1", stubborn)
    assert engine.state(stubborn)["ExitCode"] == 137
    assert "is not running" in engine.docker("kill", stubborn, code=1).stderr
    engine.docker("stop", stubborn)


def test_rm(engine: Engine) -> None:
    identity = engine.up()
    assert "container is running" in engine.docker("rm", identity, code=1).stderr
    pid = engine.pid(identity)
    engine.docker("rm", "-f", identity)
    assert not os.path.exists(f"/proc/{pid}/ns/pid") or status(pid).get("State", "Z").startswith(("Z", "X"))
    assert f"No such container: {identity}" in engine.docker("rm", identity, code=1).stderr
    wait_until(lambda: identity not in os.listdir(f"{engine.data}/containers"), "its directory")


def test_ps_and_inspect(engine: Engine, up: Up) -> None:
    identity = up("--label", "who=me", "--name", "listed")
    for words in (("name=listed",), ("label=who=me", "status=running"), (f"id={identity[:8]}",), ("ancestor=bb", "name=listed")):
        filters = [part for word in words for part in ("--filter", word)]
        assert engine.docker("ps", "-q", "--no-trunc", *filters).stdout.split() == [identity]
    assert engine.docker("ps", "-aq", "--filter", "name=listed", "--filter", "status=exited").stdout == ""
    assert engine.docker("ps", "--filter", "name=listed", "--format", "{{.Image}} {{.Command}} {{.Names}}").stdout == 'bb "sleep 1000" listed\n'
    seen = json.loads(engine.docker("inspect", identity).stdout)[0]
    assert seen["Config"]["Labels"] == {"who": "me"}
    assert read(f"/proc/{seen['State']['Pid']}/cmdline") == "sleep\0001000\0"
    stop = engine.docker("run", "-d", "--name", "ended", "--network", "none", "bb", "sh", "-c", "exit 4").stdout.strip()
    engine.docker("wait", stop)
    assert engine.docker("ps", "-aq", "--no-trunc", "--filter", "exited=4", "--filter", "name=ended").stdout.split() == [stop]
    engine.rm(stop)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_lifecycle_with_another_runtime(engine: Engine, up: Up, runtime: str) -> None:
    identity = up("--runtime", runtime, "--init", command=("sleep", "1000"))
    engine.docker("stop", "-t", "5", identity)
    assert engine.state(identity)["ExitCode"] == 143
    engine.docker("start", identity)
    assert engine.state(identity)["Running"] is True
    terminal = Terminal(engine, "run", "--rm", "-it", "--runtime", runtime, "--network", "none", "bb", "sh")
    terminal.type("stty size; exit 3\n")
    terminal.expect("31 97")
    assert terminal.end() == 3
    assert "nothing-here" in engine.run("--runtime", runtime, "bb", "nothing-here", code=127).stderr


def monitor_of(pid: int) -> int:
    """The monitor is the nearest ancestor with that name."""
    above = parent(pid)
    while above > 1 and comm(above) != "berth-monitor":
        above = parent(above)
    assert above > 1, "no monitor above the container's process"
    return above


def test_killed_engine_finds_its_containers(own_engine: Engine) -> None:
    running = own_engine.up("-i", command=("sh", "-c", "echo before; trap 'echo after; exit 33' TERM; while :; do sleep 0.05; done"))
    ending = own_engine.up(command=("sh", "-c", "echo bye; sleep 0.3; echo gone; exit 44"))
    wait_until(lambda: own_engine.docker("logs", running).stdout == "before\n", "no output yet")
    pid = own_engine.pid(running)
    ticks = read(f"/proc/{pid}/stat").split()[21]
    last = own_engine.pid(ending)
    own_engine.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{last}"), "the second container")  # ends while nobody looks
    own_engine.start()
    assert own_engine.pid(running) == pid
    assert read(f"/proc/{pid}/stat").split()[21] == ticks
    assert own_engine.state(ending)["ExitCode"] == 44
    assert own_engine.docker("logs", ending).stdout == "bye\ngone\n"
    assert own_engine.docker("exec", running, "echo", "still").stdout == "still\n"
    own_engine.docker("stop", running)
    assert own_engine.state(running)["ExitCode"] == 33
    assert own_engine.docker("logs", running).stdout == "before\nafter\n"


def test_engine_killed_while_starting_containers(own_engine: Engine) -> None:
    """At whatever moment: every container there is afterwards is consistent, and all can be removed."""
    for delay_s in (0.0, 0.02, 0.05):
        clients = [
            subprocess.Popen(["docker", "run", "-d", "--network", "none", "bb", "sleep", "1000"], env=own_engine.env,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(6)
        ]  # fmt: skip
        clients[0].wait(60)
        time.sleep(delay_s)  # not to wait for something: to hit different moments
        own_engine.kill()
        for client in clients:
            client.wait(60)
        own_engine.start()
        for identity in own_engine.docker("ps", "-aq", "--no-trunc").stdout.split():
            own_engine.seen_ids.add(identity)
            state = own_engine.state(identity)
            assert state["Running"] == bool(state["Pid"]) == (state["Status"] == "running")
            if state["Running"]:
                assert read(f"/proc/{state['Pid']}/cmdline") == "sleep\0001000\0"
        own_engine.rm(*own_engine.docker("ps", "-aq").stdout.split())


@pytest.mark.parametrize("options", [(), ("--pid", "host"), ("--runtime", "runc"), ("--runtime", "crun")])
def test_killed_monitor_ends_its_container(engine: Engine, up: Up, options: tuple[str, ...]) -> None:
    identity = up(*options, command=("sh", "-c", "sleep 1003 & sleep 1003"))
    pid = engine.pid(identity)
    os.kill(monitor_of(pid), signal.SIGKILL)
    assert engine.docker("wait", identity).stdout == "137\n"
    state = engine.state(identity)
    assert state["ExitCode"] == 137
    assert "monitor was killed" in state["Error"]
    wait_until(lambda: not [p for p in all_pids() if read(f"/proc/{p}/cmdline") == "sleep\0001003\0"], "processes of it")
    wait_until(lambda: not any(identity in names for names in group_names().values()), "its cgroup")
    engine.docker("start", identity)
    assert engine.state(identity)["Running"] is True


def test_forty_containers_eight_at_a_time(engine: Engine, tmp_path: Path) -> None:
    mounts_before = mounts()
    directories = set(os.listdir(f"{engine.data}/containers"))
    assert engine.process
    gate, failures = threading.Semaphore(8), []
    # Descriptors of a warm engine: the thread pool and connections that are kept open.
    engine.run("bb", "true")
    before = len(os.listdir(f"/proc/{engine.process.pid}/fd"))

    def one(number: int) -> None:
        with gate:
            done = engine.run("--cidfile", str(tmp_path / str(number)), "bb", "sh", "-c", f"echo {number}; exit {number}", code=None)
            if (done.returncode, done.stdout) != (number, f"{number}\n"):
                failures.append((number, done.returncode, done.stdout, done.stderr))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    wait_until(lambda: set(os.listdir(f"{engine.data}/containers")) <= directories, "directories")
    ran = {path.read_text() for path in tmp_path.iterdir()}  # other engines on this host make and remove cgroups meanwhile
    assert len(ran) == 40
    wait_until(lambda: not any(names & ran for names in group_names().values()), "cgroups")
    assert not [line for line in mounts() - mounts_before if engine.top in line]
    wait_until(lambda: len(os.listdir(f"/proc/{engine.process.pid}/fd")) <= before + 2, "descriptors of the engine")
