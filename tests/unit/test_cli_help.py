"""Pages of help: every command has words and examples that berth itself can read; slips of the pen get the nearest word."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from berth.cli import helping
from berth.cli.commands import COMMANDS, GLOBAL_FLAGS, GROUPS, resolve
from berth.cli.flags import Arity, Misuse, Syntax, UsageError, parse
from berth.cli.helping import grouped, nearest, option_lines, page, syntax_of, unknown, wrong_line
from berth.cli.texts import text_of

MAIN = Path(__file__).resolve().parents[2] / "src/berth/cli/__main__.py"
LISTED = [name for name in COMMANDS if name != "oci"]
EXAMPLES = [(name, line) for name in COMMANDS for _, text in text_of(name).examples for line in text.splitlines()]


def berth_lines(line: str) -> "list[list[str]]":
    """The words of each call of berth in a line of shell."""
    for bracket in ("$(", "<(", ")"):
        line = line.replace(bracket, " ; ")
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[list[str]] = []
    open_line = False
    for word in words:
        if word == "berth":
            found.append([])
            open_line = True
        elif set(word) <= set("|;&<>"):
            open_line = False
        elif open_line:
            found[-1].append(word)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_words_and_examples(name: str) -> None:
    text = text_of(name)
    assert all(paragraph.rstrip().endswith((".", "3")) for paragraph in text.description)
    assert text.examples
    assert text.see_also
    assert set(text.see_also) <= {*COMMANDS, "why"}
    assert name not in text.see_also
    assert any(words[: len(name.split())] == name.split() for _, example in text.examples for line in example.splitlines()
               for words in berth_lines(line)) or name == "oci"  # fmt: skip


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_an_example_parses(name: str, line: str) -> None:
    calls = berth_lines(line)
    assert calls or name in ("load", "oci")
    for position, words in enumerate(calls):
        top = parse(words, GLOBAL_FLAGS, interspersed=False)
        command, shown, rest = resolve(top.arguments)
        assert command, words
        syntax = syntax_of(command)
        if syntax:
            syntax.parse(rest + ["id"] * (position == 0 and "$(" in line), shown)


def test_the_example_check_sees_a_wrong_one() -> None:
    assert berth_lines("berth rm $(berth ps -aq) && x | berth load < f") == [["rm"], ["ps", "-aq"], ["load"]]
    with pytest.raises(UsageError):
        syntax_of("ps").parse(["--nope"], "ps")  # type: ignore[union-attr]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("columns", [60, 100])
def test_a_page(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    syntax = syntax_of(name)
    assert syntax
    text = page(name, name, syntax)
    lines = text.splitlines()
    assert lines[0] == f"Usage:  berth {name} {syntax.usage.splitlines()[0] if syntax.usage else ''}".rstrip()
    assert lines[lines.index("") + 1] == COMMANDS[name][2]
    assert all(f"--{flag[0]}" in text for flag in syntax.flags)
    free = [line for line in lines if not line.startswith(("Usage:", "\t", "    $ ", "  install", "  uninstall", "  status"))]
    assert [line for line in free if len(line) > columns] == []
    assert "\n\n\n" not in text


def test_every_group_of_flags_names_flags_that_are_there() -> None:
    spelled = {"use-api-socket"}
    windows = {"cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"}
    for name in LISTED:
        syntax, text = syntax_of(name), text_of(name)
        assert syntax
        known = {flag[0] for command in ("run", name) for flag in syntax_of(command).flags}  # type: ignore[union-attr]
        for title, names in text.groups:
            assert set(names.split()) <= known | spelled | windows | {"kernel-memory"}, (name, title)
        if text.groups:
            assert "Other options" not in [title for title, _ in grouped(syntax.flags, text.groups)] or name == "engine"


def test_pages_of_berth_and_of_groups() -> None:
    text = helping.root()
    assert all(f"  {name} " in text for name in COMMANDS if " " not in name)
    for group, verbs in GROUPS.items():
        assert f"  {group} " in text
        assert all(f"  {verb} " in helping.group(group) for verb in verbs if verb not in ("list", "remove", "ps", "b"))


def test_options_are_wrapped_beside_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    flags = (("env", "e", "list", "NAME[=VALUE]", "Set an environment variable; without a value, pass on your own"), ("quiet", "q", "bool", "", "Less"))
    assert option_lines(flags) == [
        "  -e, --env NAME[=VALUE] ...   Set an environment variable;", "                               without a value, pass on your",
        "                               own", "  -q, --quiet                  Less",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "meant"),
    [("rnu", "run"), ("runn", "run"), ("sotp", "stop"), ("strat", "start"), ("imgaes", "images"), ("conatiner", "container"),
     ("insepct", "inspect"), ("pss", "ps"), ("lgos", "logs"), ("exce", "exec"), ("restrat", "restart"), ("untag", "tag"), ("xyzzy", ""),
     ("q", ""), ("comp", "completion"), ("", "")],
)  # fmt: skip
def test_the_nearest_verb(word: str, meant: str) -> None:
    assert nearest(word, [*(name for name in COMMANDS if " " not in name), *GROUPS]) == meant


@pytest.mark.parametrize(
    ("shown", "said"),
    [("rnu", "berth: unknown command: berth rnu; did you mean 'berth run'?\n\nRun 'berth --help' for more information"),
     ("image lss", "berth: unknown command: berth image lss; did you mean 'berth image ls'?\n\nUsage:  berth image COMMAND\n\n"
                   "Run 'berth image --help' for more information"),
     ("xyzzy", "berth: unknown command: berth xyzzy\n\nRun 'berth --help' for more information")],
)  # fmt: skip
def test_an_unknown_command(shown: str, said: str) -> None:
    assert unknown(shown) == said


def test_what_is_said_of_a_wrong_line() -> None:
    assert wrong_line(UsageError("unknown flag: --x"), "ps", "container ls") == (
        "unknown flag: --x\n\nUsage:  berth container ls [OPTIONS]\n\nRun 'berth container ls --help' for more information"
    )
    assert wrong_line(Misuse("both make no sense"), "run", "run") == "both make no sense"


@pytest.mark.parametrize(
    ("syntax", "counts"),
    [(Syntax("", at_most=0), {0: "", 1: "accepts no arguments"}), (Syntax("", at_least=1), {0: "requires at least 1 argument", 9: ""}),
     (Syntax("", at_least=2, at_most=2), {1: "requires 2 arguments", 2: "", 3: "requires 2 arguments"}),
     (Syntax("", at_least=1, at_most=1), {0: "requires 1 argument", 2: "requires 1 argument"}),
     (Syntax("", at_least=1, at_most=2), {0: "requires at least 1 and at most 2 arguments"}),
     (Syntax("", at_most=1), {2: "requires at most 1 argument"})],
)  # fmt: skip
def test_numbers_of_arguments_in_dockers_words(syntax: Syntax, counts: "dict[int, str]") -> None:
    assert {count: syntax.wrong_count(count) for count in counts} == counts
    for count, wrong in counts.items():
        if wrong:
            with pytest.raises(Arity, match=f"'berth x' {wrong}"):
                syntax.parse(["a"] * count, "x")


@pytest.mark.parametrize(
    ("words", "code", "output", "errors"),
    [(("help", "ps"), 0, "Usage:  berth ps", ""), (("help",), 0, "Usage:  berth [OPTIONS] COMMAND", ""), (("help", "foo"), 1, "", "unknown command"),
     (("container", "ls", "--help"), 0, "Usage:  berth container ls [OPTIONS]", ""), (("context",), 0, "Usage:  berth context COMMAND", ""),
     (("ps", "--quite"), 125, "", "did you mean --quiet?"), (("--hots", "x", "ps"), 125, "", "did you mean --host?"),
     (("engine", "--data-rot", "x"), 125, "", "did you mean --data-root?"), (("completion", "tcsh"), 1, "", "bash, zsh, fish")],
)  # fmt: skip
def test_from_outside(words: "tuple[str, ...]", code: int, output: str, errors: str) -> None:
    done = subprocess.run([sys.executable, "-IS", str(MAIN), *words], capture_output=True, text=True, check=False)
    if words[0] == "engine" and "httptools" in done.stderr:
        pytest.skip("needs the engine's libraries")
    assert (done.returncode, done.stdout[: len(output)]) == (code, output)
    assert errors in done.stderr
    assert "Traceback" not in done.stderr
