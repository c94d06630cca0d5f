"""`berth why` on real ends: what the kernel, a person or the program itself did, and what is said of it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine, parent, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]


def berth_why(engine: Engine, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "berth.cli", "-H", engine.env["DOCKER_HOST"], "why", *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"}, capture_output=True, text=True, timeout=60)


def line(engine: Engine, name: str) -> str:
    """What `berth why NAME` prints: one line, exit code 0."""
    done = berth_why(engine, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return done.stdout


def answer(engine: Engine, name: str) -> dict:
    done = berth_why(engine, "--format", "json", name)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def ended(engine: Engine, up: Up) -> Callable[..., str]:
    """Runs a container to its end."""

    def run(*command: str, options: tuple[str, ...] = ()) -> str:
        identity = up(*options, command=command)
        engine.docker("wait", identity)
        return identity

    return run


@pytest.fixture
def made(engine: Engine) -> Iterator[Callable[..., str]]:
    """Creates containers, and removes them after the test."""
    found: list[str] = []

    def create(*words: str) -> str:
        found.append(engine.docker("create", "--network", "none", *words).stdout.strip())
        return found[-1]

    yield create
    engine.rm(*found)


def test_exit_codes(engine: Engine, ended: Callable[..., str]) -> None:
    assert "exit code 0" in line(engine, ended("true"))
    said = line(engine, ended("sh", "-c", "echo started; echo 'no config given' >&2; exit 3"))
    assert "exit code 3" in said
    assert "'no config given'" in said
    said = line(engine, ended("sh", "-c", "sh -c 'kill -9 $$'; exit $?"))
    assert "a shell or init says so when a program under it was ended by SIGKILL" in said


def test_out_of_memory_is_told_from_a_plain_kill(engine: Engine, ended: Callable[..., str], up: Up) -> None:
    starved = answer(engine, ended("tail", "/dev/zero", options=("--memory", "16m")))
    assert (starved["Reason"], starved["Signal"], starved["ExitCode"], starved["MemoryLimit"]) == ("oom", 9, 137, 16 << 20)
    assert 15 << 20 < starved["MemoryPeak"] <= 16 << 20
    assert "limit 16 MiB" in starved["Summary"]
    child = answer(engine, ended("sh", "-c", "tail /dev/zero; exit 5", options=("--memory", "16m")))
    assert (child["Reason"], child["Signal"], child["ExitCode"]) == ("oom", 0, 5)
    killed = up("--memory", "16m")
    os.kill(engine.pid(killed), 9)
    engine.docker("wait", killed)
    assert answer(engine, killed)["Reason"] == "signal"
    assert "nobody had asked berth for it" in line(engine, killed)


def test_who_asked(engine: Engine, up: Up) -> None:
    stopped = up(command=("sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"))
    wait_until(lambda: "ready" in engine.docker("logs", stopped).stdout, "a trap")
    engine.docker("stop", stopped)
    assert "exit code 0 on SIGTERM, which `stop` sent" in line(engine, stopped)
    engine.docker("start", stopped)
    engine.docker("kill", stopped)
    assert "was killed (SIGKILL) by `kill`" in line(engine, stopped)
    deaf = up()  # sleep has no handler, and is process 1
    engine.docker("stop", "-t", "0", deaf)
    said = line(engine, deaf)
    assert re.search(r"did not end on SIGTERM within \d+ s and was killed by `stop`", said)
    assert "--init" in said


def test_who_asked_is_known_after_the_engine_was_killed(own_engine: Engine) -> None:
    """The engine dies between its signal and the container's end."""
    engine = own_engine
    script = "trap 'echo got; while [ ! -e /go ]; do sleep 0.05; done; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    identity = engine.up(command=("sh", "-c", script))
    wait_until(lambda: "ready" in engine.docker("logs", identity).stdout, "a trap")
    root = f"/proc/{engine.pid(identity)}/root"
    stopping = subprocess.Popen(["docker", "stop", "-t", "60", identity], env=engine.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: "got" in engine.docker("logs", identity).stdout, "the signal")
    engine.kill()
    stopping.wait()
    Path(f"{root}/go").touch()
    engine.start()
    engine.docker("wait", identity)
    assert "exit code 0 on SIGTERM, which `stop` sent" in line(engine, identity)


def test_a_monitor_that_was_killed(engine: Engine, up: Up) -> None:
    identity = up()
    os.kill(parent(engine.pid(identity)), signal.SIGKILL)
    engine.docker("wait", identity)
    assert "its monitor, the process of berth beside it, had been killed" in line(engine, identity)


def test_what_would_not_start(engine: Engine, made: Callable[..., str]) -> None:
    cases = {
        "nothere": ("not-found", "executable file not found"), "echo hi": ("not-found", "leave the quotes out"),
        "noline": ("interpreter", "'/no/such/interpreter' does not exist"), "foreign": ("architecture", "built for riscv64"),
        "/etc": ("directory", "it is a directory"), "/etc/plain": ("permission", "not executable"),
    }  # fmt: skip
    for program, (reason, words) in cases.items():
        identity = made("bb", program)
        foreseen = answer(engine, identity)
        assert foreseen["Reason"] == "created"
        assert "would not start" in foreseen["Summary"], program
        engine.docker("start", identity, code=1)
        assert answer(engine, identity)["Reason"] == reason
        assert words in line(engine, identity)
    good = made("bb", "true")
    assert line(engine, good).endswith("was created and never started. `berth start` starts it.\n")


def test_a_loader_that_is_missing_and_a_script_from_windows(engine: Engine, made: Callable[..., str], tmp_path: Path) -> None:
    loaded = Path(os.path.realpath("/bin/ls")).read_bytes()  # dynamic, and busybox's image has no C library
    for name, content, words in (("ls", loaded, "linked for another C library"), ("dos", b"#!/bin/sh\r\necho x\r\n", "Windows line ends")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
        identity = made("bb", f"/{name}")
        engine.docker("cp", str(tmp_path / name), f"{identity}:/{name}")
        assert "would not start" in line(engine, identity)
        engine.docker("start", identity, code=1)
        assert words in line(engine, identity)


def test_what_is_denied(engine: Engine, ended: Callable[..., str], tmp_path: Path) -> None:
    mount = ("mount", "-t", "tmpfs", "x", "/tmp")
    refused = answer(engine, ended(*mount))
    assert (refused["Reason"], refused["Likely"]) == ("capability", True)
    assert "--cap-add SYS_ADMIN" in refused["Advice"]
    assert answer(engine, ended(*mount, options=("--cap-add", "SYS_ADMIN")))["Reason"] == "done"  # the advice was right
    profile = tmp_path / "profile.json"
    for action, reason, words in (("SCMP_ACT_ERRNO", "seccomp", "denies mount"), ("SCMP_ACT_KILL_PROCESS", "seccomp", "mount")):
        profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": action}]}))
        found = answer(engine, ended(*mount, options=("--cap-add", "SYS_ADMIN", "--security-opt", f"seccomp={profile}")))
        assert found["Reason"] == reason
        assert words in found["Summary"]
        assert found["Signal"] == (31 if "KILL" in action else 0)


def test_a_port_in_use_names_who_has_it(engine: Engine) -> None:
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        identity = engine.docker("run", "-d", "--network", "host", "bb", "nc", "-l", "-p", str(port)).stdout.strip()
        try:
            engine.docker("wait", identity)
            said = line(engine, identity)
        finally:
            engine.rm(identity)
    assert f"port {port} is in use by" in said
    assert f"(process {os.getpid()} of the host)" in said


def test_what_a_file_system_refuses(engine: Engine, ended: Callable[..., str]) -> None:
    assert "--tmpfs" in line(engine, ended("touch", "/x", options=("--read-only",)))
    full = answer(engine, ended("dd", "if=/dev/zero", "of=/small/x", "bs=1M", "count=4", options=("--tmpfs", "/small:size=1m")))
    assert full["Reason"] == "disk"


def test_running_paused_unhealthy_restarting(engine: Engine, up: Up) -> None:
    sick = up("--health-cmd", "echo 'no answer'; exit 1", "--health-interval", "50ms", "--health-retries", "1")
    wait_until(lambda: engine.state(sick)["Health"]["Status"] == "unhealthy", "a failing check", 30)
    assert "unhealthy" in line(engine, sick)
    assert "'no answer'" in line(engine, sick)
    engine.docker("pause", sick)
    assert "is paused" in line(engine, sick)
    engine.docker("unpause", sick)
    again = up("--restart", "always", command=("sh", "-c", "echo broken; exit 4"))
    waiting = "under its policy always, because it ended by itself with exit code 4; its last words: 'broken'"
    wait_until(lambda: waiting in line(engine, again), "a wait", 30)


def test_stopped_while_it_waits_to_be_restarted(engine: Engine, up: Up) -> None:
    identity = up("--restart", "always", command=("sh", "-c", "exit 4"))
    for _ in range(5):  # it may be running just when it is stopped
        wait_until(lambda: answer(engine, identity)["RestartCount"] >= 3, "restarts", 30)
        engine.docker("stop", identity)
        if "waited to be restarted when `stop` ended that; before, it ended by itself with exit code 4" in line(engine, identity):
            return
        engine.docker("start", identity)
    pytest.fail("never stopped while it waited")


def test_removed_and_unknown(engine: Engine) -> None:
    name = f"why-{os.getpid()}"
    engine.run("--name", name, "bb", "sh", "-c", "exit 9", code=9)
    assert "was removed with --rm; before that, it ended by itself with exit code 9" in line(engine, name)
    done = berth_why(engine, "nobody-has-this-name")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such container: nobody-has-this-name" in done.stderr


def test_a_failed_run_points_here(engine: Engine) -> None:
    command = [sys.executable, "-m", "berth.cli", "-H", engine.env["DOCKER_HOST"], "run", "--rm", "--network", "none", "bb", "foreign"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 126
    hint = done.stderr.rpartition("'berth why ")[2].partition("'")[0]
    assert "for x86_64" in line(engine, hint) or "for aarch64" in line(engine, hint)


def test_nothing_the_program_says_reaches_the_terminal_as_a_command(engine: Engine, ended: Callable[..., str]) -> None:
    said = line(engine, ended("sh", "-c", "printf '\\033]0;title\\007\\033[31mbad\\n'; exit 2"))
    assert "bad" in said
    assert not set(said) & {"\x1b", "\x07"}
