"""Docker's command line, command by command and flag by flag: berth has it, or a list says which issue brings it."""

import json
from pathlib import Path

import pytest

from berth.cli.commands import COMMANDS, GLOBAL_FLAGS, GROUPS, resolve
from berth.cli.flags import Flag, UsageError, parse
from berth.cli.helping import syntax_of

FILE = Path(__file__).resolve().parents[1] / "data" / "docker_cli.json"
FACTS = json.loads(FILE.read_text())

BUILD = "issue 7: build"
SWARM = "no issue: the engine is in no swarm, and answers so"
PLUGINS = "no issue: the engine has no plugins, and answers so"
EXPERIMENTAL = "no issue: experimental in Docker"
# Whole commands, by how their names begin.
LATER = {
    "docker bake": BUILD,
    "docker config": SWARM, "docker node": SWARM, "docker secret": SWARM, "docker service": SWARM, "docker stack": SWARM,
    "docker swarm": SWARM, "docker plugin": PLUGINS, "docker checkpoint": EXPERIMENTAL,
}  # fmt: skip
FLAGS_LATER = {
    "--use-api-socket": "no issue: experimental in Docker; the socket can be mounted with --volume",
    "--checkpoint": EXPERIMENTAL, "--checkpoint-dir": EXPERIMENTAL,
}  # fmt: skip
# What differs although it is there, and why.
OTHER_DEFAULTS = {
    "--config": "~/.docker", "--tlscacert": "ca.pem in --config", "--tlscert": "cert.pem in --config", "--tlskey": "key.pem in --config",
}  # fmt: skip
# Of which berth takes several words where Docker's own command line takes one: buildx does as well.
SEVERAL = ("--host", "--platform", "--cache-from")
# Docker's word for "nothing given"; what happens then is the engine's affair, and berth's text may say it.
ZERO = ("", "0", "0s", "<nil>")


def later(command: str) -> str:
    return next((issue for prefix, issue in LATER.items() if command == prefix or command.startswith(f"{prefix} ")), "")


HERE = sorted(command for command in FACTS["commands"] if not later(command) and command != "docker")


def differences(flags: "tuple[Flag, ...]", facts: "list[list[str]]") -> "list[str]":
    """What Docker has and `flags` have not, or otherwise."""
    ours = {f"--{flag[0]}": flag for flag in flags}
    found = []
    for name, shorthand, kind, default in facts:
        flag = ours.get(name)
        if flag is None:
            if name not in FLAGS_LATER and name != "--help":  # which every command has
                found.append(f"{name} is missing")
            continue
        if name in FLAGS_LATER:
            found.append(f"{name} is there: take it off the list")
        if shorthand != (f"-{flag[1]}" if flag[1] else ""):
            found.append(f"{name}: -{flag[1]} for {shorthand}")
        if kind != flag[2] and not (name in SEVERAL and flag[2] == "list"):
            found.append(f"{name}: {flag[2]} for {kind}")
        wanted = OTHER_DEFAULTS.get(name, default)
        if wanted not in ZERO and f"(default {wanted}" not in flag[4]:
            found.append(f"{name}: its text names no default {wanted}: {flag[4]}")
    return found


def test_there_are_facts() -> None:
    assert len(HERE) > 70
    assert sum(len(flags) for flags in FACTS["commands"].values()) > 700


@pytest.mark.parametrize("command", HERE)
def test_a_command_has_dockers_flags(command: str) -> None:
    name, _, rest = resolve(command.split()[1:])
    assert name, f"{command} is missing"
    assert rest == []
    syntax = syntax_of(name)
    assert syntax
    assert differences(syntax.flags, FACTS["commands"][command]) == []


def test_global_flags() -> None:
    assert differences(GLOBAL_FLAGS, FACTS["global_flags"]) == []


def test_what_comes_later_is_not_there_yet() -> None:
    there = [command for command in FACTS["commands"] if later(command) and resolve(command.split()[1:])[0]]
    assert there == [], "take these off the list"


def test_the_check_sees_what_is_wrong() -> None:
    flags = (("all", "", "bool", "", "x"), ("last", "n", "string", "N", "x (default -1)"), ("filter", "f", "filter", "", "x"))
    facts = [["--all", "-a", "bool", ""], ["--last", "-n", "int", "-2"], ["--size", "-s", "bool", ""], ["--filter", "-f", "filter", ""]]
    assert differences(flags, facts) == [
        "--all: - for -a", "--last: string for int", "--last: its text names no default -2: x (default -1)", "--size is missing",
    ]  # fmt: skip


def test_long_and_short_forms_are_one_command() -> None:
    for group, verbs in GROUPS.items():
        for verb, command in verbs.items():
            assert command in COMMANDS
            assert resolve([group, verb, "x"]) == (command, f"{group} {verb}", ["x"])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "oci"])
def test_each_flag_takes_a_value_of_its_kind(name: str) -> None:
    syntax = syntax_of(name)
    assert syntax
    names = [flag[0] for flag in syntax.flags] + [flag[1] for flag in syntax.flags if flag[1]]
    assert len(set(names)) == len(names)
    for long, short, kind, _, text in syntax.flags:
        assert text
        words = [f"--{long}"] if kind == "bool" else [f"--{long}", "7"]
        shorts = [f"-{short}", *words[1:]]
        value = parse(words, syntax.flags).values[long]
        assert not short or parse(shorts, syntax.flags).values[long] == value
        assert value in (True, 7, "7", ["7"])


def test_a_number_that_cannot_be_negative() -> None:
    with pytest.raises(UsageError, match='invalid argument "-1" for "--blkio-weight" flag'):
        parse(["--blkio-weight", "-1"], (("blkio-weight", "", "uint16", "N", ""),))
