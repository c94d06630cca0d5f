"""Reading Dockerfiles: whatever the bytes are, a Dockerfile or a DockerfileError, in bounded time; stages and scopes."""

import importlib.util
import json
import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from berth.build.dockerfile import checks, directives, lines, splitting, stages
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.expanding import expand_instruction
from berth.build.dockerfile.instructions import Arg, Copy, Env, From, Instruction, Place, Run
from berth.build.dockerfile.parse import parse, parse_trigger
from berth.build.dockerfile.scopes import Scope, global_variables, predefined
from berth.errors import InvalidParameter, TooLarge
from berth.oci.platforms import Platform

KEYWORDS = (
    "FROM RUN COPY ADD ENV LABEL ARG EXPOSE CMD ENTRYPOINT SHELL HEALTHCHECK ONBUILD USER WORKDIR VOLUME STOPSIGNAL MAINTAINER run FOO"
).split()  # fmt: skip
PIECES = [
    " ", "\t", "\\", "\\\n", "\n", "\r\n", "# c", "a", "b=c", "=", "'", '"', "$", "${x:-y}", "${", "}", "<<EOF", "<<-E", "<<'Q'", "<< E", "\nEOF\n", "\n\tE\n",
    "\nQ\n", "[", "]", '["a", "b"]', "[1]", "--", "--from=x", "--mount=type=bind,target=/a", "--mount=type=$x", "--network=none", "é", "`", "\0", "\x0b", "\x85",
    "scratch", "AS a", "CMD", "NONE", "--interval=1s", "80/tcp", "# escape=`\n", "# check=skip=all\n", "# syntax=x\n", "\ufeff", "\ud800",
]  # fmt: skip
word = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
line = st.builds(lambda keyword, space, rest: f"{keyword}{space}{rest}\n", st.sampled_from(KEYWORDS), st.sampled_from([" ", "\t", ""]), word)
files = st.builds(lambda head, body: head + "".join(body), word, st.lists(line, max_size=5))


def go_through(data: bytes) -> None:
    """Everything that is done with a file before anything runs."""
    dockerfile = parse(data)
    last = data.count(b"\n") + 1
    for one in [*dockerfile.global_args, *(one for stage in dockerfile.stages for one in (stage.base, *stage.instructions))]:
        assert 1 <= one.place.line <= one.place.end_line <= last
    checks.check(dockerfile, build_args={"x": "1"})
    stages.context_paths(dockerfile, "", {"x": "1"})


@given(files)
@settings(max_examples=500, deadline=None)
def test_files_of_pieces(text: str) -> None:
    try:
        go_through(text.encode("utf-8", "surrogatepass"))
    except DockerfileError:
        pass


@given(st.binary(max_size=200))
@example(b"FROM a\nRUN <<\xff\n\xff\n")
@example(b"\xef\xbb\xbf")
@example(b"#!\n")
@example(b"{}")
@example(b'{"syntax": 1}')
@settings(deadline=None)
def test_any_bytes(data: bytes) -> None:
    try:
        go_through(data)
    except DockerfileError:
        pass


KIB = 1 << 10
HEAD = b"FROM scratch\n"
HEAVY = {
    "comments": HEAD + b"# x\n" * (256 * KIB),
    "instructions": HEAD + b"RUN a\n" * 50_000,
    "stages": b"FROM a AS b\n" * 20_000,
    "chain": b"".join(b"FROM s%d AS s%d\n" % (number, number + 1) for number in range(1000)),
    "continuation": HEAD + b"RUN " + b"a \\\n" * (256 * KIB),
    "blank_continuation": HEAD + b"RUN \\\n" + b"\n" * KIB * KIB,
    "wrong_continuation": HEAD + b"RNU " + b"a \\\n" * (200 * KIB),
    "heredoc": HEAD + b"COPY <<E /x\n" + b"abc\n" * (512 * KIB) + b"E\n",
    "open_heredoc": HEAD + b"COPY <<E /x\n" + b"abc\n" * (512 * KIB),
    "heredocs": HEAD + b"RUN " + b"<<E " * (16 * KIB) + b"\n" + b"E\n" * (16 * KIB),
    "nested_json": HEAD + b"CMD " + b"[" * 60_000 + b"\n",
    "nested_variables": HEAD + b"LABEL a=" + b"${a:-" * 10_000 + b"\n",
    "doubling": HEAD + b"ENV a=xxxxxxxx\n" + b"ENV a=$a$a$a$a\n" * 40,
    "directive": b"# syntax=b" + b" " * 60_000 + b"c\nFROM a\n",
    "pattern": HEAD + b"ENV x=" + b"a" * 60_000 + b"\nLABEL a=${x#" + b"*a" * 20_000 + b"b}\n",
    "flags": HEAD + b"RUN " + b"--mount=type=bind,target=/a " * 2300 + b"a\n",
    "quotes": HEAD + b"ENV a=" + b"'\"" * 30_000 + b"\n",
    "many_variables": HEAD + b"".join(b"ENV a%d=1\nCOPY $a%d /\n" % (number, number) for number in range(3000)),
}


@pytest.mark.parametrize("name", HEAVY)
def test_bounded_time(name: str) -> None:
    started = time.process_time()
    try:
        go_through(HEAVY[name])
    except DockerfileError:
        pass
    assert time.process_time() - started < 10


def test_sizes() -> None:
    assert len(parse(HEAD + b"USER " + b"x" * (lines.MAX_LINE_BYTES - 5)).stages) == 1
    with pytest.raises(DockerfileError, match="greater than max allowed size of 65535"):
        parse(HEAD + b"USER " + b"x" * (lines.MAX_LINE_BYTES - 4))
    with pytest.raises(DockerfileError, match="greater than max allowed size"):
        parse(HEAD + b"USER " + "é".encode() * (lines.MAX_LINE_BYTES // 2))
    with pytest.raises(TooLarge, match="exceeds maximum allowed size"):
        parse(b"#" * (lines.MAX_BYTES + 1))
    with pytest.raises(DockerfileError, match="more than 100000 instructions"):
        parse(HEAD + b"RUN a\n" * 100_000)
    with pytest.raises(DockerfileError, match="more than 1000 stages"):
        parse(HEAD * 1001)
    with pytest.raises(DockerfileError, match="one instruction is longer than 1048576 characters"):
        parse(HEAD + b"RUN a \\\n" * 200_000)


def test_errors_are_for_programs_too() -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(b"FROM scratch\nRUN a \\\n  --x\nCOPY --form=a \\\n b c\n", "deploy/app.Dockerfile")
    error = caught.value
    assert isinstance(error, DockerfileError)
    assert (error.reason, error.suggestion) == ("unknown flag: --form (did you mean --from?)", "--from")
    assert error.place == Place(4, 5, 5)
    assert "\ndeploy/app.Dockerfile:4\n" in str(error)


def test_long_lines_are_shown_in_part() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(b"FROM scratch\nCOPY " + b"a " * 500 + b"--x b\tc --link \x1b[31m\nCOPY --foo a b\n")
    shown = str(caught.value).split("\n")
    assert shown[-2].strip() == "3 | COPY --foo a b"
    with pytest.raises(DockerfileError) as caught:
        parse(b"FROM scratch\nENV " + b"a=b " * 500 + b"wrong " + b"c=d\x1b " * 500)
    shown = str(caught.value).split("\n")
    assert len(shown[-2]) < 140
    at = shown[-1].index("^")
    assert shown[-2][at : at + 5] == "wrong"
    assert "\x1b" not in str(caught.value)


# --- stages and scopes

LINUX = Platform("linux", "amd64")


def test_no_index_beside_a_name() -> None:
    dockerfile = parse(b"FROM scratch AS a\nFROM scratch AS b\nFROM scratch\n")
    assert [stages.select(dockerfile, target).index for target in ("", "a", "B", "0", "2")] == [2, 0, 1, 0, 2]
    for target in ("3", "-1", "c", "99999999999"):
        with pytest.raises(DockerfileError, match="could not be found"):
            stages.select(dockerfile, target)
    assert stages.suggestion(dockerfile, "zzz") == ""


def test_of_two_stages_with_one_name_the_last_counts() -> None:
    dockerfile = parse(b"FROM one AS a\nFROM a AS b\nFROM two AS a\nFROM a\nCOPY --from=a / /\n")
    assert [stages.dependencies(stage, dockerfile) for stage in dockerfile.stages] == [{"one"}, {0}, {"two"}, {2}]


def test_a_trigger_of_a_stage_brings_its_stages_along() -> None:
    dockerfile = parse(b"FROM scratch AS tools\nFROM scratch AS a\nONBUILD COPY --from=tools x /\nFROM a\n")
    assert stages.dependencies(dockerfile.stages[1], dockerfile) == frozenset()
    assert stages.dependencies(dockerfile.stages[2], dockerfile) == {0, 1}


def test_remote_sources() -> None:
    remote = ["http://x/y", "https://x", "https://github.com/a/b.git#main", "git@github.com:a/b.git", "git://x/y", "ssh://git@x/y"]
    local = ["a", "github.com/a/b", "./http://x", "a@b", "ftp://x/y"]
    assert [stages.is_remote(source) for source in [*remote, *local]] == [True] * len(remote) + [False] * len(local)


def test_triggers_of_images() -> None:
    base = From(Place(3, 3), "FROM x", "x", "", "")
    trigger = parse_trigger("COPY <<E /x\na\nE", base)
    assert isinstance(trigger, Copy)
    assert (trigger.place, trigger.inline) == (base.place, (("E", "a\n"),))
    for wrong, reason in (("RUN a\nRUN b", "single expression"), ("FROM a", "isn't allowed"), ("", "cannot be empty"), ("X", "unknown instruction")):
        with pytest.raises(DockerfileError, match=reason):
            parse_trigger(wrong, base)


def test_the_environment_is_the_images_and_arguments_are_not() -> None:
    scope = Scope({"PATH": "/bin"}, {"B": "given"}, {"G": "global"}, "\\")
    for text in ("ARG A=1 B=2 G N", "ENV E=$A$B", "ARG E=arg", "ARG BUILDKIT_SBOM_SCAN_STAGE=true"):
        _, undefined = scope.step(only(text))
        assert not undefined
    assert scope.environment == {"PATH": "/bin", "E": "1given"}
    assert scope.variables == {"PATH": "/bin", "A": "1", "B": "given", "G": "global", "E": "arg"}
    assert scope.declared == {"A", "B", "G", "N", "E", "BUILDKIT_SBOM_SCAN_STAGE"}
    child = scope.child()
    assert child.variables == {"PATH": "/bin", "A": "1", "B": "given", "G": "global", "E": "arg"}  # what was set last, as in BuildKit
    child.step(only("ENV E=other"))
    assert scope.environment["E"] == "1given"


def test_predefined_arguments() -> None:
    found = predefined(LINUX, Platform("linux", "arm", "v7"), "final")
    assert found["BUILDPLATFORM"] == "linux/amd64"
    assert (found["TARGETPLATFORM"], found["TARGETOS"], found["TARGETARCH"], found["TARGETVARIANT"]) == ("linux/arm/v7", "linux", "arm", "v7")
    assert (found["TARGETSTAGE"], predefined(LINUX, LINUX)["TARGETSTAGE"]) == ("final", "default")
    dockerfile = parse(b"ARG TARGETOS\nARG X=${TARGETARCH}-$TARGETOS\nFROM scratch\n")
    assert global_variables(dockerfile, {"TARGETOS": "plan9"}, found)["X"] == "arm-plan9"


def only(text: str) -> Instruction:
    return parse(b"FROM scratch\n" + text.encode()).stages[0].instructions[0]


def test_expanding_leaves_the_original_alone() -> None:
    instruction = only("ENV a=$b c=$d")
    assert isinstance(instruction, Env)
    after, undefined = expand_instruction(instruction, {"b": "1"})
    assert (instruction.pairs, after.pairs, undefined) == ((("a", "$b"), ("c", "$d")), (("a", "1"), ("c", "")), {"d"})


def test_arguments_see_those_before_them() -> None:
    arg = only("ARG a=1 b=$a c=${c:-x} d")
    assert isinstance(arg, Arg)
    assert expand_instruction(arg, {})[0].pairs == (("a", "1"), ("b", "1"), ("c", "x"), ("d", None))
    assert expand_instruction(arg, {}, given={"a": "2", "d": ""})[0].pairs == (("a", "2"), ("b", "2"), ("c", "x"), ("d", ""))


def test_commands_are_never_expanded() -> None:
    for text in ("CMD echo $a", 'ENTRYPOINT ["$a"]', 'SHELL ["$a"]', "HEALTHCHECK CMD $a", "ONBUILD USER $a", "MAINTAINER $a", "RUN echo $a"):
        instruction = only(text)
        assert expand_instruction(instruction, {"a": "1"}) == (instruction, frozenset())


def test_a_wrong_mount_shows_its_word() -> None:
    run = only("RUN --mount=type=$T,target=/a x")
    assert isinstance(run, Run)
    with pytest.raises(DockerfileError, match='unsupported mount type "cash"'):
        expand_instruction(run, {"T": "cash"})


# --- a second reader: BuildKit's own parser, where the package `dockerfile` has brought it

ASK = """
import json, sys
import dockerfile
for path in sys.argv[1:]:
    text = open(path, "rb").read().decode("utf-8", "replace")
    read = [one for one in dockerfile.parse_string(text) if one.sub_cmd is None]
    print(json.dumps([
        [one.cmd.lower(), one.flags, one.start_line, one.end_line, [[doc.name, doc.content] for doc in one.heredocs]] for one in read
    ]))
"""


def test_as_buildkits_parser(pytestconfig: pytest.Config) -> None:
    """In a process of its own: the Go runtime in the package keeps descriptors."""
    if importlib.util.find_spec("dockerfile") is None:
        pytest.skip("the package dockerfile is not installed")
    right = [path.parent for path in (pytestconfig.rootpath / "tests/unit/dockerfiles").glob("*/result.json")]
    newer = ("heredoc_run_spaces", "cmd_nearly_json")  # than the parser in the package
    paths = [directory / "Dockerfile" for directory in right if directory.name not in newer]
    theirs = subprocess.run([sys.executable, "-c", ASK, *paths], capture_output=True, text=True, check=True).stdout.splitlines()
    for path, line in zip(paths, theirs, strict=True):
        assert as_buildkit(path.read_bytes().decode("utf-8", "replace")) == json.loads(line), path.parent.name


def as_buildkit(text: str) -> list[list[object]]:
    source = lines.Source(text.encode(), "Dockerfile")
    found: list[list[object]] = []
    for line in lines.logical_lines(source, directives.escape(source)):
        parts = splitting.split(line.text)
        if parts.keyword.lower() != "onbuild":
            documents = [[heredoc.name, heredoc.content] for heredoc in line.heredocs]
            found.append([parts.keyword.lower(), list(parts.flags), line.place.line, line.place.end_line, documents])
    return found
