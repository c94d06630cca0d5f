"""What completion answers, with an engine that is a table. The shells themselves: tests/integration/test_completion.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from berth.cli import completing
from berth.cli.commands import COMMANDS
from berth.cli.completevalues import ARGUMENTS, FILTERS, VALUES
from berth.cli.completing import candidates
from berth.cli.helping import syntax_of

MAIN = Path(__file__).resolve().parents[2] / "src/berth/cli/__main__.py"
NAMES = {
    "container": ["db", "job", "web"], "running": ["db", "web"], "stopped": ["job"], "paused": [], "image": ["bb", "bb:latest", "app:1"],
    "repository": ["bb", "app"], "registry": ["r.example.org"], "context": ["default", "far"], "runtime": ["berth", "runc"],
    "network": ["bridge", "host", "none", "shop"], "custom": ["shop"], "volume": ["cache", "data"],
}  # fmt: skip


def answers(*words: str) -> "list[str]":
    return [word for word, _ in candidates(list(words), lambda kind: [(name, "") for name in NAMES[kind]])]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], ["restart", "rename", "registry"]), (["container", "re"], ["rename", "restart", "remove"]), (["help", "ver"], ["version"]),
        (["help", "context", "sh"], ["show"]), (["oci", "sta"], ["start", "state"]), (["nonsense", ""], []),
        (["start", ""], ["job"]), (["stop", ""], ["db", "web"]), (["stop", "db", ""], ["web"]), (["unpause", ""], []),
        (["rm", "-f", "w"], ["web"]), (["logs", "db", ""], []), (["exec", "-it", ""], ["db", "web"]), (["exec", "web", ""], []),
        (["container", "rm", "j"], ["job"]), (["-H", "unix:///x", "rm", "j"], ["job"]), (["--host=unix:///x", "rm", "j"], ["job"]),
        (["run", "b"], ["bb", "bb:latest"]), (["run", "bb", ""], []), (["run", "bb", "--n"], []), (["run", "-e", "PATH=x", "a"], ["app:1"]),
        (["rmi", "bb", "b"], ["bb:latest"]), (["tag", "bb", ""], []), (["images", "a"], ["app"]),
        (["inspect", "b"], ["bb", "bb:latest", "bridge"]), (["context", "use", "f"], ["far"]), (["login", ""], ["r.example.org"]), (["pull", "a"], ["app:1"]), (["-c", "f"], ["far"]), (["--context=f"], ["--context=far"]),
        (["cp", "w"], ["web:", ":files"]), (["load", "-i", ""], [":files"]), (["load", "--input="], [":files"]), (["import", ""], [":files"]),
        (["run", "--env-file", ""], [":files"]), (["--config", ""], [":directories"]), (["run", "-v", "d"], ["data:", ":directories"]), (["volume", "rm", "data", ""], ["cache"]), (["volume", "create", ""], []), (["ps", "-f", "volume=c"], ["volume=cache"]),
        (["ps", "--no-t"], ["--no-trunc"]), (["ps", "--format", "j"], ["json"]), (["ps", "--format=j"], ["--format=json"]),
        (["ps", "--filter", "status=re"], ["status=restarting", "status=removing"]), (["ps", "--filter", "ancestor=a"], ["ancestor=app:1"]),
        (["ps", "-f", "labe"], ["label="]), (["ps", "-f", "network=s"], ["network=shop"]), (["ps", "--all="], ["--all=true", "--all=false"]), (["ps", ""], []),
        (["run", "--pull", "n"], ["never"]), (["run", "--pull=n"], ["--pull=never"]), (["run", "--runtime", ""], ["berth", "runc"]),
        (["run", "--cap-add", "SYS_P"], ["SYS_PACCT", "SYS_PTRACE"]), (["kill", "-s", "SIGH"], ["SIGHUP"]), (["kill", "-s"], ["-s"]),
        (["run", "--rm", "--restart", "on"], ["on-failure", "on-failure:"]), (["completion", "z"], ["zsh"]), (["rm", "--", "w"], ["web"]),
        (["rm", "--", "-"], []), (["top", "web", "-"], []), (["--tlsv"], ["--tlsverify"]), (["update", "--memory", ""], []),
        (["system", "service", "st"], ["status"]), (["ps", "--help"], ["--help"]), (["engine", "--data-root", ""], [":directories"]),
        (["run", "--network", "b"], ["bridge"]), (["run", "--network=s"], ["--network=shop"]), (["network", "rm", ""], ["shop"]),
        (["network", "connect", "s"], ["shop"]), (["network", "connect", "shop", "j"], ["job"]), (["network", "inspect", "h"], ["host"]),
        (["network", "create", "-d", "m"], ["macvlan"]), (["network", "create", "-o", "par"], ["parent="]), (["network", "create", ""], []),
        (["network", "connect", "--link", "d"], ["db"]), (["network", "ls", "-f", "driver=i"], ["driver=ipvlan"]),
    ],
)  # fmt: skip
def test_what_may_stand_there(words: "list[str]", found: "list[str]") -> None:
    assert answers(*words) == found


def test_flags_have_their_texts_and_short_forms() -> None:
    found = dict(candidates(["ps", "-"], lambda kind: []))
    assert found["--all"] == found["-a"] == "Show stopped containers too"
    assert "--help" in found
    assert set(dict(candidates(["ps", "--"], lambda kind: []))) == {word for word in found if word.startswith("--")}


def test_a_variable_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_TEST_VARIABLE", "x")
    assert answers("run", "-e", "BERTH_TEST_V") == ["BERTH_TEST_VARIABLE"]


def test_a_name_that_a_shell_would_take_apart_is_left_out() -> None:
    names = [("good", "a\x1b[31m b"), ("bad name", ""), ("bad\nname", ""), ("bad\x1b", "")]
    assert candidates(["rm", ""], lambda kind: names) == [("good", "a [31m b")]


def test_the_tables_name_commands_flags_and_kinds_that_are_there() -> None:
    assert set(ARGUMENTS) <= {*COMMANDS, "why"}
    takes = {name for name in COMMANDS if name not in ("oci", "why") and syntax_of(name).at_most != 0}  # type: ignore[union-attr]
    assert takes <= set(ARGUMENTS), "say what these take"
    kinds = {*NAMES, "file", "directory", "copy", "anything", "new"}
    assert {kind.removesuffix("...") for text in ARGUMENTS.values() for kind in text.split() if not kind.startswith("=")} <= kinds
    known = {flag[0] for name in COMMANDS if name not in ("oci", "why") for flag in syntax_of(name).flags}  # type: ignore[union-attr]
    assert {name.rpartition("--")[2] for name in VALUES} <= known | {"log-level"}
    assert set(FILTERS) == {name for name in COMMANDS if name not in ("oci", "why")
                            and any(flag[0] == "filter" for flag in syntax_of(name).flags)}  # type: ignore[union-attr]  # fmt: skip


def run(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-IS", str(MAIN), "__complete", *words], capture_output=True, text=True, check=False, env=environ)


def test_without_an_engine_it_is_silent_and_starts_none(tmp_path: Path) -> None:
    done = run("rm", "", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("-H", "nonsense://", "rm", "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run().stdout.startswith("run\t")
    assert list(tmp_path.iterdir()) == []


def test_only_an_engine_that_is_there_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from berth.cli import autostart

    asked = []
    monkeypatch.setattr("berth.cli.client.default_address", lambda: "unix:///nonexistent/berth.sock")
    monkeypatch.setattr("berth.cli.main.default_address", lambda: "unix:///nonexistent/berth.sock")
    monkeypatch.setattr(autostart, "start_engine", asked.append)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("BERTH_HOST", raising=False)
    assert completing.Engine([]).ask("container") == []
    assert asked == []


def test_an_engine_that_hangs_does_not_hang_the_shell(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        done = run("rm", "", DOCKER_HOST=f"unix://{tmp_path}/s")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        listening.settimeout(10)
        asked, _ = listening.accept()
        with asked:
            assert asked.recv(100).startswith(b"GET /v1.51/containers/json?all=1 ")
