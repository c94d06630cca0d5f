"""Completion in the shells themselves: bash, zsh and fish, asked as they ask themselves and typed at on a terminal."""

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from harness import REPOSITORY, Engine

RUNS, ENDED, PREFIX = "complete-it-runs", "complete-it-ended", "complete-it-"
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "bind 'set enable-bracketed-paste off'; source <(berth completion bash); echo rea''dy\n"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -D -u; source <(berth completion zsh); echo rea''dy\n"),
    "fish": (["fish", "--no-config", "-i"], "berth completion fish | source; echo rea''dy\n"),
}


@pytest.fixture(scope="module")
def environ(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables of a shell that has `berth` in its PATH, and an engine with a container that runs and one that does not."""
    top = tmp_path_factory.mktemp("shell")
    (top / "bin").mkdir()
    berth = top / "bin" / "berth"
    berth.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {REPOSITORY}/src/berth/cli/__main__.py "$@"\n')
    berth.chmod(0o755)
    (top / "files").mkdir()
    (top / "files" / "settings.env").write_text("A=1\n")
    engine.docker("run", "-d", "--network", "none", "--name", RUNS, "bb", "sleep", "1000")
    engine.docker("create", "--network", "none", "--name", ENDED, "bb", "true")
    yield {
        "PATH": f"{top}/bin:/usr/bin:/bin", "HOME": str(top), "TERM": "dumb", "DOCKER_HOST": engine.env["DOCKER_HOST"], "LC_ALL": "C.UTF-8",
        "PWD": f"{top}/files",
    }  # fmt: skip
    engine.rm(RUNS, ENDED)


def ask_bash(environ: dict[str, str], line: str) -> list[str]:
    """What bash has in COMPREPLY for a line whose end is the cursor; words as bash takes them apart."""
    words: list[str] = []
    for word in line.split(" "):
        parts = [""]
        for letter in word:
            if letter in "=:":
                parts += [letter, ""]
            else:
                parts[-1] += letter
        words += [part for part in parts if part] or [""]
        if word and word[-1] in "=:":
            words.append("")
    script = (
        f"source <(berth completion bash); COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({shlex.join(words)})\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _berth; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", script], env=environ, cwd=environ["PWD"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def ask_fish(environ: dict[str, str], line: str) -> list[str]:
    script = f"berth completion fish | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environ, cwd=environ["PWD"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return [row.partition("\t")[0] for row in done.stdout.splitlines()]


# line -> what stands there in fish, which keeps words whole
CASES = [
    ("berth rena", ["rename"]), (f"berth stop {PREFIX}", [RUNS]), (f"berth container start {PREFIX}", [ENDED]),
    (f"berth rm {PREFIX}", [ENDED, RUNS]), ("berth run b", ["bb", "bb:latest"]), ("berth run bb:l", ["bb:latest"]),
    ("berth ps --no-t", ["--no-trunc"]), ("berth ps --format=j", ["--format=json"]), ("berth run --env-file ", ["settings.env"]),
    (f"berth cp {PREFIX}r", [f"{RUNS}:"]), ("berth ps --filter status=ex", ["status=exited"]), ("berth context use d", ["default"]),
    (f"berth stop {RUNS} {PREFIX}", []), ("berth run bb c", []),
]  # fmt: skip


@pytest.mark.parametrize(("line", "found"), CASES)
def test_bash(environ: dict[str, str], line: str, found: list[str]) -> None:
    typed = line.rpartition(" ")[2]
    cut = max(typed.rfind(":"), typed.rfind("=")) + 1  # bash completes behind these
    assert sorted(ask_bash(environ, line)) == sorted(word[cut:] for word in found)


@pytest.mark.parametrize(("line", "found"), CASES)
def test_fish(environ: dict[str, str], line: str, found: list[str]) -> None:
    if not shutil.which("fish"):
        pytest.skip("needs Debian's fish")
    assert sorted(ask_fish(environ, line)) == sorted(found)


class Typed:
    """A shell on a terminal."""

    def __init__(self, shell: str, environ: dict[str, str]) -> None:
        command, setup = SHELLS[shell]
        self.master, slave = pty.openpty()
        # setsid -c: fish wants the terminal to be its own.
        self.process = subprocess.Popen(["setsid", "-c", *command], env=environ, cwd=environ["PWD"], stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.said = ""
        try:
            self.type(setup)
            assert self.says("ready", 60), self.said
        except BaseException:
            self.close()
            raise

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def says(self, text: str, seconds: float) -> bool:
        """Reads until the screen has said it; what was said before does not count."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        while text not in self.said:
            if time.monotonic() > deadline:
                return False
            if poll.poll(500):
                self.said += os.read(self.master, 4096).decode(errors="replace")
        self.said = self.said.partition(text)[2]
        return True

    def completes(self, line: str, rest: str) -> bool:
        """Types the line and a tab, again where the shell was not yet listening (ctrl-u takes the line away)."""
        for _ in range(6):
            self.type(f"\x15{line}\t")
            if self.says(rest, 10):
                return True
        return False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.parametrize("shell", SHELLS)
def test_typed_at_a_terminal(environ: dict[str, str], shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs Debian's {shell}")
    typed = Typed(shell, environ)
    try:
        for line, rest in (
            (f"berth stop {PREFIX}", "runs"), (f"berth start {PREFIX}", "ended"), ("berth ps --no-t", "runc"), ("berth inspect --type=cont", "ainer"),
            ("berth run bb:la", "test"), ("berth run --env-file sett", "ings.env"), ("berth system serv", "ice"),
        ):  # fmt: skip
            assert typed.completes(line, rest), typed.said
    finally:
        typed.close()


def test_the_scripts_say_nothing_without_an_engine(environ: dict[str, str]) -> None:
    elsewhere = {**environ, "DOCKER_HOST": "unix:///nonexistent/berth.sock"}
    assert ask_bash(elsewhere, "berth stop ") == []
    assert ask_bash(elsewhere, "berth sto") == ["stop"]
