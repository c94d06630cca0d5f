"""The command line: parser, templates, tables, and what the fast path may import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.cli import table
from berth.cli.autostart import engine_command
from berth.cli.client import query, quote
from berth.cli.commands import COMMANDS
from berth.cli.flags import HelpRequested, UsageError, parse
from berth.cli.gotemplate import Template
from berth.cli.helping import help_text
from berth.cli.ps import parse_filters
from berth.cli.runconfig import container_config, size_bytes
from berth.cli.runflags import CREATE_FLAGS
from berth.cli.stats import screen
from berth.cli.terminal import Demultiplexer
from berth.models import jsonlite
from berth.models.units import duration

SOURCE = Path(__file__).resolve().parents[2] / "src"
FLAGS = (
    ("tty", "t", "bool", "", ""), ("interactive", "i", "bool", "", ""), ("env", "e", "list", "", ""),
    ("name", "", "string", "", ""), ("count", "n", "int", "", ""),
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "values", "arguments"),
    [
        (["-it", "image", "-e", "x"], {"interactive": True, "tty": True}, ["image", "-e", "x"]),
        (["--name=a", "image"], {"name": "a"}, ["image"]),
        (["--name", "a", "image"], {"name": "a"}, ["image"]),
        (["-e", "A=1", "-eB=2", "-e=C=3", "i"], {"env": ["A=1", "B=2", "C=3"]}, ["i"]),
        (["--tty=false", "i"], {"tty": False}, ["i"]),
        (["-n5", "--", "-x"], {"count": 5}, ["-x"]),
        (["-"], {}, ["-"]),
    ],
)
def test_flags(words, values, arguments):
    parsed = parse(words, FLAGS, interspersed=False)
    assert parsed.values == values
    assert parsed.arguments == arguments


def test_flags_after_arguments_where_they_may_be():
    parsed = parse(["one", "-t", "two"], FLAGS)
    assert parsed.arguments == ["one", "two"]
    assert parsed.flag("tty")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nam", "x"], "did you mean --name"), (["-z"], "unknown shorthand flag: 'z' in -z"),
        (["--name"], "flag needs an argument: --name"), (["-e"], "flag needs an argument: 'e'"),
        (["--count", "many"], "not a number"), (["--tty=maybe"], "expected true or false"),
    ],
)  # fmt: skip
def test_wrong_flags(words, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        parse(words, FLAGS)


def test_help_is_asked_for_and_lists_every_flag():
    with pytest.raises(HelpRequested):
        parse(["--help"], FLAGS)
    text = help_text("run [OPTIONS]", "Summary", CREATE_FLAGS)
    assert all(f"--{flag[0]}" in text for flag in CREATE_FLAGS)
    assert all(flag[4] for flag in CREATE_FLAGS), "every flag says what it does"


def config(*words):
    return container_config(parse([*words], CREATE_FLAGS, interspersed=False))


def test_run_config():
    body = config("-it", "-e", "A=1", "--memory", "512m", "--cpus", "1.5", "-v", "/a:/b:ro", "--ulimit", "nofile=10:20", "debian", "ls", "-l")
    host = body["HostConfig"]
    assert (body["Image"], body["Cmd"]) == ("debian", ["ls", "-l"])
    assert body["Tty"]
    assert body["OpenStdin"]
    assert body["Env"] == ["A=1"]
    assert host["Memory"] == 512 * 1024 * 1024
    assert host["NanoCpus"] == 1_500_000_000
    assert host["Binds"] == ["/a:/b:ro"]
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}]


def test_environment_by_name_alone_and_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSED_ON", "yes")
    monkeypatch.delenv("NOT_THERE", raising=False)
    file = tmp_path / "env"
    file.write_text("# comment\nFROM_FILE=1\n\n")
    body = config("--env-file", str(file), "-e", "PASSED_ON", "-e", "NOT_THERE", "x")
    assert body["Env"] == ["FROM_FILE=1", "PASSED_ON=yes"]


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,source=/a,target=/b,readonly", {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}),
        ("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777",
         {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 0o1777}}),
        ("type=bind,src=/a,dst=/b,bind-propagation=rslave",
         {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "rslave"}}),
    ],
)  # fmt: skip
def test_mount_flag(text, mount):
    assert config("--mount", text, "x")["HostConfig"]["Mounts"] == [mount]


@pytest.mark.parametrize("words", [
    ("--mount", "type=bind,source=/a", "x"), ("--mount", "bogus=1,target=/a", "x"), ("--ulimit", "nofile", "x"),
    ("--memory", "lots", "x"), ("--sysctl", "novalue", "x"), ("-e", "=x", "x"), ("-a", "nowhere", "x"),
    ("--device", "a:b:c:d", "x"), ("--device-read-bps", "x", "x"), ("--cpus", "two", "x"),
    ("--security-opt", "seccomp=/does/not/exist", "x"), ("--env-file", "/does/not/exist", "x"),
])  # fmt: skip
def test_wrong_run_flags(words):
    with pytest.raises(UsageError):
        config(*words)


@pytest.mark.parametrize(("text", "size"), [("1k", 1024), ("1KiB", 1024), ("2g", 2 << 30), ("1.5m", 1572864), ("10", 10), ("-1", -1)])
def test_sizes(text, size):
    assert size_bytes(text, "--memory") == size


DATA = {"ID": "abc", "N": 3, "L": ["x", "y"], "M": {"a b": 1}, "S": {"Pid": 7, "Up": True}, "None": None}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.ID}}", "abc"), ("{{.S.Pid}}", "7"), ("{{json .L}}", '["x","y"]'), ("{{.L}}", "[x y]"), ("{{.S}}", "map[Pid:7 Up:true]"),
        ("{{if .S.Up}}up{{else}}down{{end}}", "up"), ("{{range .L}}<{{.}}>{{end}}", "<x><y>"),
        ("{{range $i, $e := .L}}{{$i}}={{$e}};{{end}}", "0=x;1=y;"), ('{{index .M "a b"}}', "1"), ('{{join .L ","}}', "x,y"),
        ("{{upper .ID}}", "ABC"), ("{{.ID | upper | lower}}", "abc"), ('{{printf "%s-%d" .ID .N}}', "abc-3"),
        ("{{with .S}}{{.Pid}}{{end}}", "7"), ("{{len .L}}", "2"), ("{{if eq .N 3}}three{{end}}", "three"),
        ("{{(index .L 0)}}", "x"), ("a {{- .ID -}} b", "aabcb"), ("{{/* nothing */}}x", "x"), ("{{.None}}", "<no value>"),
        ("{{$x := .N}}{{$x}}", "3"), ("{{if and .S.Up (eq .ID \"abc\")}}both{{end}}", "both"), ("{{println .ID}}", "abc\n"),
        ("{{if false}}1{{else if true}}2{{end}}", "2"), ("{{range .Absent2}}{{end}}", None), ("{{.Nope}}", None), ("{{.ID", None),
        ("{{nofunction .ID}}", None), ("{{end}}", None), ("{{if .ID}}", None), ("{{$y}}", None), ("{{index .L 9}}", None),
    ],
)  # fmt: skip
def test_templates(template, text):
    if text is None:
        with pytest.raises(UsageError, match="template"):
            Template(template).render(DATA)
    else:
        assert Template(template).render(DATA) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_is_what_the_standard_library_says(value):
    assert json.loads(jsonlite.dumps(value)) == value
    assert jsonlite.loads(json.dumps(value)) == value
    assert json.loads(jsonlite.pretty(value)) == value


@pytest.mark.parametrize("text", ["", "{", "1 2", "nul"])
def test_json_that_is_none(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the standard library's own kind
        jsonlite.loads(text)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8), st.integers(1, 9))
def test_demultiplexer_at_any_split(frames, step):
    data = b"".join(bytes([stream, 0, 0, 0]) + len(piece).to_bytes(4, "big") + piece for stream, piece in frames)
    demultiplexer = Demultiplexer()
    seen = {1: b"", 2: b""}
    for start in range(0, len(data), step):
        for stream, piece in demultiplexer.feed(data[start : start + step]):
            seen[stream] += piece
    for stream in (1, 2):
        assert seen[stream] == b"".join(piece for which, piece in frames if which == stream)


def test_table_and_units():
    assert table.render([["A", "B"], ["long", "x"], ["much longer", ""]]) == "A             B\nlong          x\nmuch longer   \n"
    assert table.render([["A", "B"], ["long", "x"]]) == "A         B\nlong      x\n"
    assert [table.size(n) for n in (0, 910, 1500, 123_456_789, 2_000_000_000)] == ["0B", "910B", "1.5kB", "123MB", "2GB"]
    assert [duration(s) for s in (0, 1, 59, 60, 3600, 7300, 86400 * 3)] == [
        "Less than a second", "1 second", "59 seconds", "About a minute", "About an hour", "2 hours", "3 days"]  # fmt: skip
    assert table.shorten("abcdef", 4) == "abc…"


def test_urls():
    assert quote("a b/ü?") == "a%20b/%C3%BC%3F"
    assert query(a=True, b=False, c="", d="x/y", e=["1", "2"]) == "?a=1&d=x%2Fy&e=1&e=2"
    assert json.loads(parse_filters(["a=1", "a=2", "label=x=y"])) == {"a": {"1": True, "2": True}, "label": {"x=y": True}}
    with pytest.raises(UsageError):
        parse_filters(["nothing"])


def modules_of(*words):
    """What `berth WORDS` has imported when it is done, against a socket nobody listens on."""
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from berth.cli.main import main; "
        f"main(['-H', 'unix:///nonexistent/berth.sock', *{list(words)!r}]); print('|'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.strip().splitlines()[-1].split("|"))


SLOW = {"re", "json", "socket", "enum", "argparse", "typing", "dataclasses", "asyncio", "http.client", "logging", "subprocess", "signal"}


@pytest.mark.parametrize("words", [("ps",), ("run", "--rm", "x", "true"), ("images",), ("stop", "x")])
def test_the_fast_path_imports_nothing_slow(words):
    found = modules_of(*words)
    assert "berth.cli.main" in found
    assert not found & SLOW


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "engine"])
def test_every_command_has_a_help_page(name):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SOURCE / "berth/cli/__main__.py"), *name.split(), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage:  berth {name}")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["runn"], 1, "did you mean 'berth run'"), (["container", "lss"], 1, "did you mean 'berth container ls'"),
        (["run"], 1, "requires at least 1 argument"), (["ps", "--al"], 125, "did you mean --all"),
        (["-H", "unix:///nonexistent/b.sock", "ps"], 1, "is the engine running"),
        (["-H", "unix:///nonexistent/b.sock", "run", "x"], 125, "is the engine running"),
        (["-H", "tcp://127.0.0.1:1", "ps"], 1, "Connection refused"), (["-H", "http://x", "ps"], 1, "expected unix:///path"),
        (["-H", "ssh://-oProxyCommand=x", "ps"], 1, "expected ssh://"), (["-c", "no-such-context", "ps"], 1, "context not found"), (["stop"], 1, "requires at least 1 argument"),
    ],
)  # fmt: skip
def test_mistakes_get_a_message_and_no_traceback(words, code, said):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SOURCE / "berth/cli/__main__.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_started_by_itself_takes_no_module_from_the_callers_directory(tmp_path, monkeypatch):
    """It runs as root: `asyncio.py` lying in somebody's directory, or named by PYTHONPATH, must not become part of it."""
    pytest.importorskip("httptools")
    for name in ("asyncio", "logging", "sqlite3"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run([*engine_command(), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage:  berth engine")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a<b>&c", '"a\\u003cb\\u003e\\u0026c"'), ("é…日", '"é…日"'), ('say "x" \\ y', '"say \\"x\\" \\\\ y"'), ("line\nend\t\x01", '"line\\nend\\t\\u0001"'),
        ({"b": [1, None, True], "a": {}}, '{"b":[1,null,true],"a":{}}'), ([], "[]"), (1.5, "1.5"),
    ],
)  # fmt: skip
def test_json_as_go_writes_it(value, text):
    assert jsonlite.dumps_as_go(value) == text
    assert json.loads(text) == value


def test_json_over_several_lines():
    assert jsonlite.pretty({"a<": ["é", {}], "b": {}}) == '{\n    "a\\u003c": [\n        "é",\n        {}\n    ],\n    "b": {}\n}'


def test_a_list_in_every_format():
    columns = {"Name": "NAME", "Labels": "LABELS"}
    rows = [{"Name": "one", "Labels": "a=1,b=x=y"}, {"Name": "two", "Labels": ""}]

    def text(format_):
        return table.rows_text(format_, columns, rows, "Name Labels")

    assert text("") == text("table") == "NAME      LABELS\none       a=1,b=x=y\ntwo       \n"
    assert text("json") == '{"Labels":"a=1,b=x=y","Name":"one"}\n{"Labels":"","Name":"two"}\n'
    assert text("{{json .}}") == text("json")
    assert text('table {{.Name}}\\t{{.Label "b"}}') == "NAME      b\none       x=y\ntwo       \n"
    assert text('{{.Label "a"}}|{{.Label "none"}}') == "1|\n|\n"


def test_a_screen_is_drawn_in_place_and_never_longer_than_the_terminal():
    assert screen("a\nb\n", 10) == "\033[Ha\033[K\nb\033[K\n\033[J"
    lines = screen("".join(f"{i}\n" for i in range(9)), 5).split("\n")
    assert [line.replace("\033[K", "").replace("\033[H", "") for line in lines] == ["0", "1", "2", "... and 6 more", "\033[J"]
