"""stats, top, port: numbers against the cgroup's files and /proc, words against Docker's CLI."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from harness import REPOSITORY, Engine, children, group_file, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]
BUSY = ("sh", "-c", "sleep 1000 & while :; do :; done")


def berth(engine: Engine, *words: str, code: int = 0) -> str:
    env = {**engine.env, "PYTHONPATH": f"{REPOSITORY}/src"}
    done = subprocess.run([sys.executable, "-m", "berth.cli", *words], env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == code, f"{words}: {done.returncode} {done.stderr}"
    return done.stdout + done.stderr


def get(engine: Engine, path: str) -> dict:
    command = ["curl", "-s", "--unix-socket", f"{engine.exec}/berth.sock", f"http://x/v1.41{path}"]
    return dict(json.loads(subprocess.run(command, capture_output=True, timeout=30, check=True).stdout))


def test_numbers(engine: Engine, up: Up) -> None:
    c = up("-m", "64m", "--pids-limit", "30", command=BUSY)
    wait_until(lambda: group_file(c, "pids", "pids.current") == "2", "the second process")
    before = int(group_file(c, "cpuacct", "cpuacct.usage"))
    seen = get(engine, f"/containers/{c}/stats?stream=0")
    after = int(group_file(c, "cpuacct", "cpuacct.usage"))
    assert before <= seen["precpu_stats"]["cpu_usage"]["total_usage"] < seen["cpu_stats"]["cpu_usage"]["total_usage"] <= after
    assert seen["pids_stats"] == {"current": 2, "limit": 30}
    assert seen["memory_stats"]["limit"] == 64 << 20
    assert seen["memory_stats"]["usage"] <= seen["memory_stats"]["max_usage"] == int(group_file(c, "memory", "memory.max_usage_in_bytes"))
    assert seen["cpu_stats"]["online_cpus"] == os.cpu_count()
    assert (seen["name"][:1], seen["id"]) == ("/", c)
    assert "networks" not in seen
    once = get(engine, f"/containers/{c}/stats?stream=0&one-shot=1")
    assert once["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    percent = float(engine.docker("stats", "--no-stream", "--format", "{{.CPUPerc}}", c).stdout.rstrip("%\n"))
    assert 5 < percent < 120
    engine.docker("pause", c)
    for tool in (lambda *words: engine.docker(*words).stdout, lambda *words: berth(engine, *words)):
        name, share, memory, pids = tool("stats", "--no-stream", "--format", "{{.ID}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}", c).strip().split("|")
        assert (name, share, pids) == (c[:12], "0.00%", "2")
        assert memory.endswith(" / 64MiB")


def test_stream(engine: Engine, up: Up) -> None:
    c = up(command=BUSY)
    command = ["curl", "-sN", "--unix-socket", f"{engine.exec}/berth.sock", f"http://x/containers/{c}/stats"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as stream:
        assert stream.stdout
        samples = [json.loads(stream.stdout.readline()) for _ in range(3)]
        assert samples[0]["preread"] == "0001-01-01T00:00:00Z"
        assert samples[1]["precpu_stats"] == samples[0]["cpu_stats"]
        assert samples[2]["preread"] == samples[1]["read"]
        engine.docker("stop", "-t", "0", c)
        while (sample := json.loads(stream.stdout.readline()))["pids_stats"]:
            pass
        assert sample["id"] == c
        engine.docker("rm", c)
        assert stream.wait(60) == 0  # nothing more to come


def test_tables(engine: Engine, up: Up) -> None:
    c = up("--name", "listed-stats")
    stopped = engine.docker("create", "--network", "none", "--name", "not-running", "bb", "true").stdout.strip()
    ours, dockers = berth(engine, "stats", "--no-stream", "listed-stats", "not-running"), engine.docker("stats", "--no-stream", "listed-stats", "not-running").stdout
    for text in (ours, dockers):
        heads, first, second = text.splitlines()
        assert heads.split() == "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS".split()
        assert first.startswith(f"{c[:12]}   listed-stats   0.0")
        assert second.split() == [stopped[:12], "not-running", "0.00%", *"0B / 0B 0.00% 0B / 0B 0B / 0B 0".split()]
    everything = berth(engine, "stats", "-a", "--no-stream", "--format", "json").splitlines()
    assert {"listed-stats", "not-running"} <= {json.loads(line)["Name"] for line in everything}
    assert "not-running" not in berth(engine, "stats", "--no-stream")
    assert "No such container: nope" in berth(engine, "stats", "--no-stream", "nope", code=1)
    assert "No such container: nope" in engine.docker("stats", "--no-stream", "nope", code=1).stderr
    engine.rm(stopped)


def test_top(engine: Engine, up: Up) -> None:
    c = up(command=BUSY)
    pid = engine.pid(c)
    wait_until(lambda: bool(children(pid)), "the second process")
    both = [str(pid), str(children(pid)[0])]
    assert berth(engine, "top", c, "-o", "pid,user,args") == engine.docker("top", c, "-o", "pid,user,args").stdout
    assert [line.split()[1] for line in engine.docker("top", c).stdout.splitlines()[1:]] == both
    assert [line.split()[0] for line in engine.docker("top", c, "-o", "pid,comm").stdout.splitlines()[1:]] == both
    assert [line.split()[1] for line in engine.docker("top", c, "aux").stdout.splitlines()[1:]] == both  # -q and BSD options do not go together
    assert engine.docker("top", c, "-ef").stdout.splitlines()[1].endswith(BUSY[2])
    for words, text in (
        (("-o", "foo=PID"), 'specifying "foo=PID" is not allowed'), (("-o", "comm"), "Couldn't find PID field in ps output"), (("-Q",), "error running ps"),
    ):  # fmt: skip
        assert text in engine.docker("top", c, *words, code=1).stderr
    engine.docker("stop", "-t", "0", c)
    assert f"container {c} is not running" in engine.docker("top", c, code=1).stderr


def test_port(engine: Engine, up: Up) -> None:
    c = up()
    assert berth(engine, "port", c) == engine.docker("port", c).stdout == ""
    assert berth(engine, "port", c, "80", code=1) == engine.docker("port", c, "80", code=1).stderr == f"Error: No public port '80' published for {c}\n"
    assert "invalid port (x)" in berth(engine, "port", c, "x", code=1)
