"""Plans of Dockerfiles that are long, deep or odd."""

import json
import time
from typing import Any

import pytest

from berth.build import advice, graph, planning
from berth.build.dockerfile.stages import nearest_platform
from berth.build.graph import Target
from berth.build.options import BaseImage, Options
from berth.build.planning import Planner
from berth.errors import InvalidParameter

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plan(text: str, config: dict[str, Any] | None = None, **options: Any) -> Target:
    dockerfile = planning.read(text.encode(), "Dockerfile")
    planner = Planner(dockerfile, Options(build_platform="linux/amd64", **options), "linux/amd64")
    return planner.plan({key: BaseImage("sha256:base", {"config": config or {}}) for key in planner.needed_bases()})


def steps(target: Target) -> list[graph.Run]:
    return [vertex.op for vertex in graph.in_order([target.vertex]) if isinstance(vertex.op, graph.Run)]


@pytest.mark.parametrize(
    "text",
    [
        "FROM bb\n" + "".join(f"RUN echo {number}\n" for number in range(5000)),
        "FROM bb\n" + "".join(f"ENV A{number}=x\n" for number in range(5000)),
        "FROM bb\n" + "".join(f"COPY f{number} /\n" for number in range(5000)),
        "FROM bb\n" + "".join(f"LABEL A{number}=x\nWORKDIR w{number}\n" for number in range(2500)),
    ],
)  # fmt: skip
def test_five_thousand_instructions(text: str) -> None:
    began_s = time.process_time()
    plan(text)
    assert time.process_time() - began_s < 2


@pytest.mark.parametrize(
    "stage", ["FROM s{0} AS s{1}\nRUN echo {0}\n", "FROM bb AS s{1}\nCOPY --from=s{0} /x /y\n", "FROM bb AS s{1}\nRUN --mount=type=bind,from=s{0},target=/x true\n"]
)  # fmt: skip
def test_a_thousand_stages_one_upon_the_other(stage: str) -> None:
    target = plan("FROM bb AS s0\n" + "".join(stage.format(number, number + 1) for number in range(999)))
    assert len(graph.in_order([target.vertex])) == 1000


def test_what_was_set_last_is_what_a_program_gets() -> None:
    """As in BuildKit, also where an ARG comes after an ENV; the image has what ENV said."""
    target = plan("FROM bb\nENV A=env\nARG A=arg\nRUN one\nARG B=arg\nENV B=env\nRUN two\nFROM 0\n", target="0")
    first, second = (dict(step.environment) for step in steps(target))
    assert (first["A"], second["A"], second["B"]) == ("arg", "arg", "env")
    assert target.config["Env"] == [f"PATH={PATH}", "A=env", "B=env"]
    assert [step.created_by for step in target.steps if step.created_by.startswith("RUN")] == [
        "RUN |1 A=arg /bin/sh -c one", "RUN |2 A=arg B=env /bin/sh -c two",
    ]  # fmt: skip


def test_an_image_says_where_its_programs_are() -> None:
    assert plan("FROM bb\n", {"Env": ["PATH=/bin"]}).config["Env"] == ["PATH=/bin"]
    assert plan("FROM bb\n", {"Env": ["A=b"]}).config["Env"] == ["A=b", f"PATH={PATH}"]
    assert plan("FROM scratch\n").config == {"WorkingDir": "/", "Env": [f"PATH={PATH}"]}


def test_proxies_have_both_spellings_and_are_in_no_key() -> None:
    (step,) = steps(plan("FROM bb\nRUN x\n", build_args={"HTTP_PROXY": "http://secret@p"}))
    assert dict(step.hidden) == {"HTTP_PROXY": "http://secret@p", "http_proxy": "http://secret@p"}
    assert "secret" not in json.dumps(step.definition())


def test_a_working_directory_is_the_users() -> None:
    target = plan("FROM bb\nUSER alice\nWORKDIR /w\n")
    assert isinstance(target.vertex.op, graph.MakeDirectory)
    assert target.vertex.op.owner == "alice"


def test_arguments_that_nobody_declares() -> None:
    dockerfile = planning.read(b"ARG A\nFROM bb\nARG B=1\n", "Dockerfile")
    given = dict.fromkeys(("A", "B", "C", "D", "HTTP_PROXY", "SOURCE_DATE_EPOCH", "BUILDKIT_X"), "1")
    assert advice.unused_arguments(dockerfile, given, {}) == "One or more build-args [C D] were not consumed"
    assert advice.unused_arguments(dockerfile, given, {("bb", ""): BaseImage("", {"config": {"OnBuild": ["ARG C=2", "RUN x"]}})}) == "One or more build-args [D] were not consumed"
    dockerfile = planning.read(b"ARG VERSION\nFROM bb\n", "Dockerfile")
    assert advice.unused_arguments(dockerfile, {"VERSOIN": "1"}, {}) == "One or more build-args [VERSOIN] were not consumed (did you mean VERSION?)"
    assert advice.unused_arguments(dockerfile, {"VERSION": "1"}, {}) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"no_cache_stages": frozenset({"build", "0", "1"})}, []),
        ({"no_cache_stages": frozenset({"biuld"})}, ["--no-cache-filter biuld: there is no such stage (did you mean build?)"]),
        ({"no_cache_stages": frozenset({"7"})}, ["--no-cache-filter 7: there is no such stage"]),
        ({"contexts": {"bb": "local", "docker.io/library/assets:latest": "local", "other": "local", "build": "local"}}, []),
        ({"contexts": {"asets": "local"}}, ["--build-context asets is not used (did you mean assets?)"]),
        ({"build_args": {"BUILDKIT_DOCKERFILE_CHECK": "skip=JSONArgsRecomended,UndefinedVar"}}, ["check: there is no rule JSONArgsRecomended (did you mean JSONArgsRecommended?)"]),
        ({"build_args": {"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}}, []),
    ],
)  # fmt: skip
def test_names_that_the_file_has_nothing_for(given: dict[str, Any], said: list[str]) -> None:
    dockerfile = planning.read(b"FROM bb AS build\nFROM bb\nCOPY --from=assets a b\n", "Dockerfile")
    assert advice.slips(dockerfile, Options(build_platform="linux/amd64", **given)) == said


@pytest.mark.parametrize(
    ("name", "meant"),
    [("biuld", "build"), ("Buidl", "build"), ("asets", "assets"), ("debain:12", "debian:12"), ("registry.example.org/app", ""), ("bb", ""), ("build", "")],
)  # fmt: skip
def test_what_was_meant_by_the_name_of_an_image(name: str, meant: str) -> None:
    dockerfile = planning.read(b"FROM bb AS build\nFROM bb\n", "Dockerfile")
    assert Planner(dockerfile, Options(build_platform="linux/amd64", contexts={"assets": "local"}), "linux/amd64").meant(name) == meant


@pytest.mark.parametrize(
    ("instruction", "said", "under"),
    [
        ("EXPOSE 80/tpc", 'invalid port: "80/tpc": invalid proto: tpc (did you mean tcp?)', "80/tpc"),
        ("STOPSIGNAL SIGTREM", "invalid signal: SIGTREM (did you mean SIGTERM?)", "SIGTREM"), ("STOPSIGNAL 0", "invalid signal: 0", "0"),
        ("STOPSIGNAL trem", "invalid signal: trem (did you mean TERM?)", "trem"),
        ("COPY --chmod=999 a b", "invalid chmod parameter: '999'", "999"), ("ADD --chmod=u+z a b", "invalid chmod parameter: 'u+z'", "u+z"),
        ("COPY https://example.org/a b", "source can't be a URL for COPY", "https://example.org/a"),
        ("COPY a git@example.org:a/b.git /c/", "source can't be a git ref for COPY", "git@example.org:a/b.git"),
        (f"ADD --checksum=sha256:{'0' * 64} https://example.org/a https://example.org/b /c/", "checksum can't be specified for multiple sources", "--checksum"),
        (f"ADD --checksum=sha256:{'0' * 64} a /c/", "checksum requires HTTP(S) or Git sources", "--checksum"),
        (f"ADD --checksum=sha265:{'0' * 64} https://example.org/a /c/", "(did you mean sha256?)", f"sha265:{'0' * 64}"),
        ("ADD --checksum=sha256:12 https://example.org/a /c/", "invalid checksum sha256:12: expected sha256: and 64 hexadecimal digits", "sha256:12"),
    ],
)  # fmt: skip
def test_what_is_wrong_once_variables_are_in(instruction: str, said: str, under: str) -> None:
    """As BuildKit has it, before anything is built; with the line and the place."""
    with pytest.raises(InvalidParameter) as caught:
        plan(f"FROM bb\n{instruction}\n")
    text = str(caught.value)
    assert said in text
    line, mark = text.splitlines()[-2:]
    assert line.startswith("   2 | ")
    assert line[mark.index("^") : mark.rindex("^") + 1] == under or len(line) > 100


def test_what_is_right_once_variables_are_in() -> None:
    plan(
        "FROM bb\nARG M=u=rwX,go=rX S=RTMIN+3\nCOPY --chmod=$M a b\nSTOPSIGNAL SIG$S\nADD --chmod=0644 git@example.org:a/b.git /c/\n"
        f"ADD --checksum=sha512:{'0' * 128} https://example.org/a /c\nADD --checksum=0123abc https://example.org/a.git /d\n"
    )


@pytest.mark.parametrize(
    ("platform", "meant"),
    [
        ("linux/amd46", "linux/amd64"), ("linx/arm64", "linux/arm64"), ("linux/amr/v7", "linux/arm/v7"), ("linux/aarch46", "linux/aarch64"), ("amd46", "amd64"),
        ("linux/amd64", ""), ("linux/arm/v6", ""), ("linux/x86_64", ""), ("linux", ""), ("linux/quantum", ""), ("arm64", ""), ("linux/mips64p32", ""),
    ],
)  # fmt: skip
def test_platforms_with_a_slip_in_them(platform: str, meant: str) -> None:
    assert nearest_platform(platform) == meant
    if meant:
        with pytest.raises(InvalidParameter, match=f"did you mean {meant}"):
            planning.platform_named(platform)


@pytest.mark.parametrize("name", ["alpine", "alpine:latest", "docker.io/library/alpine", "ALPINE"])
def test_a_named_context_is_found_as_an_image_is(name: str) -> None:
    target = plan(f"FROM {name}\nRUN true\n", contexts={"docker.io/library/alpine:latest": "docker-image://other"})
    (source,) = [vertex.op for vertex in graph.in_order([target.vertex]) if isinstance(vertex.op, graph.ImageSource)]
    assert source.reference == "other"


def test_a_named_context_of_another_tag_is_another_one() -> None:
    target = plan("FROM alpine:3\n", contexts={"alpine": "docker-image://other"})
    assert isinstance(target.vertex.op, graph.ImageSource)
    assert target.vertex.op.reference == "alpine:3"
