"""Events: what Docker's CLI and berth's see of each verb, in order, with filters and spans of time."""

import json
import os
import pty
import select
import socket
import subprocess
import sys
import time

import pytest
from harness import REPOSITORY, Engine, wait_until

pytestmark = pytest.mark.root


def now(engine: Engine) -> str:
    return f"{time.time():.9f}"


def seen(engine: Engine, since: str, *filters: str) -> list[dict]:
    words = [word for text in filters for word in ("--filter", text)]
    done = engine.docker("events", "--since", since, "--until", f"{time.time():.9f}", "--format", "{{json .}}", *words)
    return [json.loads(line) for line in done.stdout.splitlines()]


def actions(events: list[dict]) -> list[str]:
    return [event["Action"] for event in events]


def test_a_life_in_order(engine: Engine) -> None:
    since = now(engine)
    engine.docker("run", "-d", "--name", "ev", "--label", "a=b", "--network", "none", "bb", "sleep", "1000")
    identity = json.loads(engine.docker("inspect", "ev").stdout)[0]["Id"]
    engine.docker("pause", "ev")
    engine.docker("unpause", "ev")
    engine.docker("rename", "ev", "ev2")
    engine.docker("update", "--cpu-shares", "100", "ev2")
    engine.docker("exec", "ev2", "true")
    engine.docker("exec", "ev2", "nosuch", "x", code=127)
    engine.docker("kill", "-s", "USR1", "ev2")
    engine.docker("restart", "-t", "0", "ev2")
    engine.docker("stop", "-t", "0", "ev2")
    engine.docker("stop", "ev2")
    engine.docker("start", "ev2")
    engine.docker("rm", "-f", "ev2")
    events = seen(engine, since, f"container={identity}")
    # A program's streams end before its parent has its status: the next exec may come in between.
    assert actions(events).index("exec_die") > actions(events).index("exec_start: true ")
    assert [action for action in actions(events) if action != "exec_die"] == [
        "create", "start", "pause", "unpause", "rename", "update", "exec_create: true ", "exec_start: true ",
        "exec_create: nosuch x", "exec_start: nosuch x", "kill", "kill", "kill", "die", "stop", "start", "restart",
        "kill", "kill", "die", "stop", "start", "kill", "die", "destroy",
    ]  # fmt: skip
    assert {event["Actor"]["ID"] for event in events} == {identity}
    for event in events:
        attributes = event["Actor"]["Attributes"]
        assert (attributes["image"], attributes["a"], event["status"], event["from"]) == ("bb", "b", event["Action"], "bb")
    by_action = {event["Action"]: event["Actor"]["Attributes"] for event in reversed(events)}
    assert by_action["rename"]["oldName"] == "/ev"
    assert by_action["rename"]["name"] == "ev2"
    assert by_action["die"]["exitCode"] == "137"
    assert by_action["die"]["execDuration"].isdigit()
    assert [event["Actor"]["Attributes"]["signal"] for event in events if event["Action"] == "kill"] == ["10", "15", "9", "15", "9", "9"]
    assert by_action["exec_die"]["exitCode"] == "0"
    assert len(by_action["exec_die"]["execID"]) == 64


def test_attach_out_of_memory_and_health(engine: Engine) -> None:
    since = now(engine)
    assert engine.run("-m", "16m", "--name", "eater", "bb", "tail", "/dev/zero", code=137)
    assert actions(seen(engine, since, "container=eater")) == ["create", "attach", "start", "oom", "die", "destroy"]
    survivor = engine.up("--name", "survivor", "-m", "16m", command=("sh", "-c", "tail /dev/zero; echo on; sleep 1000"))
    wait_until(lambda: engine.docker("logs", survivor).stdout == "on\n", "it to go on")
    wait_until(lambda: "oom" in actions(seen(engine, since, "container=survivor")), "no event of it while it runs")
    assert (engine.state(survivor)["OOMKilled"], engine.state(survivor)["Running"]) == (True, True)
    engine.docker("kill", survivor)
    assert actions(seen(engine, since, "container=survivor")) == ["create", "start", "oom", "kill", "die"]
    engine.rm(survivor)
    identity = engine.up("--name", "checked", "--health-cmd", "true", "--health-interval", "100ms")
    wait_until(lambda: "health_status: healthy" in actions(seen(engine, since, "container=checked", "event=health_status")), "no health event")
    assert actions(seen(engine, since, "container=checked"))[2:4] == ["exec_create: /bin/sh -c true", "exec_start: /bin/sh -c true"]
    engine.rm(identity)


def test_detach_and_resize(engine: Engine) -> None:
    since = now(engine)
    master, slave = pty.openpty()
    process = subprocess.Popen(["docker", "run", "-it", "--name", "det", "--network", "none", "bb", "sh", "-c", "echo re''ady; cat"],
                               env=engine.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)  # fmt: skip
    os.close(slave)
    text = b""
    while b"ready" not in text:
        assert select.select([master], [], [], 10)[0], text
        text += os.read(master, 4096)
    os.write(master, b"\x10")
    os.write(master, b"\x11")
    process.wait(60)
    os.close(master)
    # Docker's CLI watches for the keys itself: no event, as with dockerd. One that does not gets it.
    assert actions(seen(engine, since, "container=det")) == ["create", "attach", "start"]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(f"{engine.exec}/berth.sock")
        raw.sendall(b"POST /containers/det/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
        raw.settimeout(60)
        assert raw.recv(4096).startswith(b"HTTP/1.1 101")
        raw.sendall(b"\x10\x11")
        while raw.recv(4096):
            pass
        raw.close()
    subprocess.run(["curl", "-sS", "-X", "POST", "--unix-socket", f"{engine.exec}/berth.sock", "http://x/containers/det/resize?h=20&w=30"], check=True)
    engine.rm("det")
    events = seen(engine, since, "container=det")
    assert actions(events)[3:] == ["attach", "detach", "resize", "kill", "die", "destroy"]
    assert (events[5]["Actor"]["Attributes"]["height"], events[5]["Actor"]["Attributes"]["width"]) == ("20", "30")


def test_filters_and_spans(engine: Engine) -> None:
    since = now(engine)
    engine.run("--name", "one", "--label", "x=1", "bb", "true")
    between = now(engine)
    engine.run("--name", "two", "--label", "x=2", "bb", "sh", "-c", "exit 3", code=3)
    engine.docker("tag", "bb", "ev-tag:1")
    engine.docker("rmi", "ev-tag:1")
    assert actions(seen(engine, since, "type=image")) == ["tag", "untag"]
    assert actions(seen(engine, since, "image=ev-tag")) == ["tag"]  # as with dockerd, an `untag` has the id alone
    assert {event["Actor"]["Attributes"]["name"] for event in seen(engine, since, "image=bb", "type=container")} == {"one", "two"}
    assert [e["Actor"]["Attributes"]["name"] for e in seen(engine, since, "label=x", "event=die")] == ["one", "two"]
    assert [e["Actor"]["Attributes"]["name"] for e in seen(engine, since, "label=x=2", "event=die")] == ["two"]
    assert {e["Actor"]["Attributes"]["name"] for e in seen(engine, between, "type=container")} == {"two"}
    assert seen(engine, since, "event=exec") == []
    assert "cannot be after" in engine.docker("events", "--since", "1h", "--until", "2h", code=1).stderr
    recent = engine.docker("events", "--since", "10m", "--until", "-1s", "--filter", "container=two", "--filter", "event=die").stdout
    assert "container die" in recent
    assert "exitCode=3, image=bb, name=two, x=2)" in recent


def test_live_events_end_at_until(engine: Engine) -> None:
    listening = subprocess.Popen(["docker", "events", "--until", f"{time.time() + 4:.3f}", "--filter", "container=live", "--format", "{{.Action}}"],
                                 env=engine.env, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert listening.stdout
    with listening.stdout:
        lines: list[str] = []
        while not lines and listening.poll() is None:  # until it listens
            engine.run("--name", "live", "bb", "true")
            if select.select([listening.stdout], [], [], 0.1)[0]:
                lines.append(listening.stdout.readline())
        lines += listening.stdout.readlines()
    assert listening.wait(60) == 0
    assert {"start\n", "die\n", "destroy\n"} <= set(lines)


def test_berths_own_command(engine: Engine) -> None:
    since = now(engine)
    engine.run("--name", "own", "bb", "true")

    def berth(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "berth.cli", *words], env={**engine.env, "PYTHONPATH": f"{REPOSITORY}/src"}, capture_output=True, text=True, timeout=60)

    span = ("--since", since, "--until", now(engine), "--filter", "container=own")
    ours = berth("events", *span)
    assert ours.stdout == engine.docker("events", *span).stdout
    assert ours.stdout.count("\n") == 5
    for format_ in ("{{json .}}", "json"):
        theirs = [json.loads(line) for line in engine.docker("events", "--format", format_, *span).stdout.splitlines()]
        assert [json.loads(line) for line in berth("events", "--format", format_, *span).stdout.splitlines()] == theirs
    format_ = "{{.Type}} {{.Status}} {{.ID}} {{.From}} {{.TimeNano}}"
    assert berth("system", "events", "--format", format_, *span).stdout == engine.docker("events", "--format", format_, *span).stdout
    assert berth("events", "--since", "bogus").returncode == 1
