"""The stream of POST /build, beside that of dockerd's classic builder: what docker-py and Docker's command line read of it."""

import json
import re
from typing import Any

import pytest
from dockerd import HAVE_DOCKERD
from test_build_parity import Side, arguments, context, ours, theirs

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKERD, reason="needs dockerd")]
__all__ = ["ours", "theirs"]


def streams(ours: Side, theirs: Side, dockerfile: str, options: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    return ours.post(context(dockerfile), options), theirs.post(context(dockerfile), options)


def text(lines: list[dict]) -> str:
    return "".join(line.get("stream", "") for line in lines)


def keys(lines: list[dict]) -> set[str]:
    return {key for line in lines for key in line}


def test_a_build_that_succeeds(ours: Side, theirs: Side) -> None:
    both = streams(ours, theirs, "FROM bb\nRUN echo to-be-seen; echo and-this >&2\nCOPY a /a\n", {"t": ["stream:1", "stream:two"]})
    for lines in both:
        said = text(lines)
        assert re.findall(r"^Step (\d)/(\d) : ([A-Z]+)", said, re.M) == [("1", "3", "FROM"), ("2", "3", "RUN"), ("3", "3", "COPY")]
        assert "to-be-seen\n" in said
        assert "and-this\n" in said
        short = re.findall(r"^Successfully built ([0-9a-f]{12})$", said, re.M)
        (aux,) = [line["aux"] for line in lines if "aux" in line]
        assert set(aux) == {"ID"}
        assert aux["ID"].startswith(f"sha256:{short[0]}")
        assert said.endswith(f"Successfully built {short[0]}\nSuccessfully tagged stream:1\nSuccessfully tagged stream:two\n")
    assert keys(both[0]) == keys(both[1]) == {"stream", "aux"}


def test_again_it_says_using_cache(ours: Side, theirs: Side) -> None:
    dockerfile = "FROM bb\nRUN echo cached >/f\n"
    streams(ours, theirs, dockerfile, {})
    for lines in streams(ours, theirs, dockerfile, {}):
        assert text(lines).count(" ---> Using cache\n") == 1


def test_quiet(ours: Side, theirs: Side) -> None:
    for lines in streams(ours, theirs, "FROM bb\nRUN echo not-to-be-seen\n", {"q": "1"}):
        assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", text(lines)), lines
        assert "not-to-be-seen" not in json.dumps(lines)


def test_quiet_and_failing(ours: Side, theirs: Side) -> None:
    here, there = streams(ours, theirs, "FROM bb\nRUN exit 5\n", {"q": "1"})
    assert here[-1]["error"] == there[-1]["error"] == "The command '/bin/sh -c exit 5' returned a non-zero code: 5"


def test_a_step_that_fails(ours: Side, theirs: Side) -> None:
    here, there = streams(ours, theirs, "FROM bb\nRUN echo last-words; exit 5\n", {})
    assert here[-1] == there[-1]
    assert here[-1]["errorDetail"] == {"code": 5, "message": "The command '/bin/sh -c echo last-words; exit 5' returned a non-zero code: 5"}
    for lines in (here, there):
        assert "last-words\n" in text(lines)
        assert "Successfully" not in text(lines)
        assert "aux" not in keys(lines)


def test_an_argument_that_nobody_consumes(ours: Side, theirs: Side) -> None:
    for lines in streams(ours, theirs, "FROM bb\nARG KNOWN\n", arguments(KNOWN="1", ZULU="2", ALPHA="3", HTTP_PROXY="x")):
        found = re.search(r"^\[Warning\] One or more build-args \[(.*)\] were not consumed$", text(lines), re.M)
        assert found, lines
        assert sorted(found[1].split()) == ["ALPHA", "ZULU"]


@pytest.mark.parametrize(
    ("dockerfile", "options"),
    [
        ("FROM bb\nRNU x\n", {}), ("", {}), ("FROM bb\n", {"dockerfile": "none"}), ("FROM bb\n", {"t": "UPPER"}), ("FROM bb\n", {"buildargs": "x"}),
        ("FROM bb\n", {"labels": "[1]"}), ("FROM bb\n", {"dockerfile": "../x"}), ("FROM bb\n", {"platform": "nonsense/x/y/z"}),
    ],
)  # fmt: skip
def test_what_is_wrong_before_anything_begins(ours: Side, theirs: Side, dockerfile: str, options: dict[str, Any]) -> None:
    """An answer of its own, no stream; Docker's clients show its message."""
    here, there = streams(ours, theirs, dockerfile, options)
    assert "error" in there[-1]
    assert (len(here), here[0].get("status")) == (1, 400), (here, there)
