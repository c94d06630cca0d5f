"""berth stats as a person sees it: on a terminal it is drawn in place, sorted, with what begins meanwhile; piped it is plain."""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl

from harness import REPOSITORY, Engine

STATS = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py", "stats"]
FORMAT = ("--format", "table {{.Name}}\t{{.PIDs}}")


def read_until(fd: int, done: Callable[[str], bool], what: str) -> str:
    said, deadline = b"", time.monotonic() + 60
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not done(said.decode(errors="replace")):
        assert time.monotonic() < deadline, f"not seen in 60 s: {what}: {said!r}"
        if poll.poll(500):
            said += os.read(fd, 65536)
    return said.decode(errors="replace")


def last_frame(said: str) -> list[str]:
    """The lines of the last table that was drawn whole."""
    frames = [part for part in said.split("\033[H") if part.endswith("\033[J")]
    return re.sub(r"\033\[[0-9]*[A-Z]", "", frames[-1]).split() if frames else []


def test_on_a_terminal(engine: Engine, up: Callable[..., str]) -> None:
    names = [f"{letter}-screen-{os.getpid()}" for letter in "abc"]
    for name in names[:2]:
        up("--name", name)
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 100, 0, 0))
    process = subprocess.Popen(["setsid", "-c", "env", "--default-signal=INT", *STATS, *FORMAT], env=engine.env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    try:
        said = read_until(master, lambda said: said.count("\033[J") >= 2 and names[0] in said, "two tables")
        assert said.startswith("\033[2J\033[H")
        shown = last_frame(said)
        assert shown[:2] == ["NAME", "PIDS"]
        assert [name for name in shown if name in names] == sorted(names[:2])
        up("--name", names[2])
        said = read_until(master, lambda said: names[2] in last_frame(said), "the one that began meanwhile")
        assert [name for name in last_frame(said) if name in names] == sorted(names)
        engine.rm(names[0])
        read_until(master, lambda said: names[2] in last_frame(said) and names[0] not in last_frame(said), "a table without what was removed")
        os.write(master, b"\x03")
        read_until_end(master)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until_end(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            pass
    except OSError:
        pass


def test_piped(engine: Engine, up: Callable[..., str]) -> None:
    name = f"piped-{os.getpid()}"
    up("--name", name)
    with subprocess.Popen([*STATS, *FORMAT, name], env=engine.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            assert process.stdout
            said = read_until(process.stdout.fileno(), lambda said: said.count("PIDS") >= 2, "two tables")
        finally:
            process.send_signal(signal.SIGINT)
    assert "\033" not in said
    assert said.splitlines()[:2] == [f"{'NAME':<{len(name) + 3}}PIDS", f"{name}   1"]
