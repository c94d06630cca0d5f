"""Plans of Dockerfiles that are long, deep or odd."""

import json
import time
from typing import Any

import pytest

from berth.build import graph, planning
from berth.build.graph import Target
from berth.build.planning import BaseImage, Options, Planner

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
    assert planning.unused_arguments(dockerfile, given, {}) == ["C", "D"]
    assert planning.unused_arguments(dockerfile, given, {("bb", ""): BaseImage("", {"config": {"OnBuild": ["ARG C=2", "RUN x"]}})}) == ["D"]


@pytest.mark.parametrize("name", ["alpine", "alpine:latest", "docker.io/library/alpine", "ALPINE"])
def test_a_named_context_is_found_as_an_image_is(name: str) -> None:
    target = plan(f"FROM {name}\nRUN true\n", contexts={"docker.io/library/alpine:latest": "docker-image://other"})
    (source,) = [vertex.op for vertex in graph.in_order([target.vertex]) if isinstance(vertex.op, graph.ImageSource)]
    assert source.reference == "other"


def test_a_named_context_of_another_tag_is_another_one() -> None:
    target = plan("FROM alpine:3\n", contexts={"alpine": "docker-image://other"})
    assert isinstance(target.vertex.op, graph.ImageSource)
    assert target.vertex.op.reference == "alpine:3"
