"""Why a step missed the cache."""

import pytest

from berth.build import graph, why

RUN = graph.Run(words=("/bin/sh", "-c", "make"), environment=(("PATH", "/bin"), ("A", "1")), directory="/", user="")


def now(op: graph.Run = RUN, **more: object) -> dict:
    return {**why.fields(op), "base": "sha256:1", **more}


def test_a_step_never_built() -> None:
    assert why.explain(None, now(), fresh=False, earlier="") == "never built before in this place"


def test_one_after_another_that_was_made_anew() -> None:
    before = now()
    assert why.explain(before, {**before, "base": "sha256:2"}, fresh=False, earlier="[2/3] RUN a") == "the step before it was made anew: [2/3] RUN a"
    assert why.explain(before, {**before, "base": "sha256:2"}, fresh=False, earlier="") == "the layers below it are others"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"words": ["make"]}, {"words": ("make", "all")}, "the command was 'make' and is 'make all'"),
        ({"variable A": "1"}, {"variable A": "2"}, "variable A was '1' and is '2'"), ({}, {"variable B": "2"}, "variable B is new: '2'"),
        ({"user": "3"}, {}, "the user is gone, it was '3'"), ({"files": "x"}, {"files": "y"}, "files that it copies have changed"),
        ({"mount /m": "x"}, {"mount /m": "y"}, "files mounted at /m have changed"),
    ],
)  # fmt: skip
def test_the_input_that_changed_is_named(before: dict, after: dict, words: str) -> None:
    assert why.explain({"base": "1", **before}, {"base": "2", **after}, fresh=False, earlier="earlier") == words


def test_asked_for_and_gone() -> None:
    assert why.explain(now(), now(), fresh=True, earlier="") == "asked for without the cache"
    assert "removed from the cache" in why.explain(now(), now(), fresh=False, earlier="")


def test_tuples_and_lists_are_the_same() -> None:
    assert "removed" in why.explain({"words": ["a"], "mounts": [[1, 2]]}, {"words": ("a",), "mounts": ((1, 2),)}, fresh=False, earlier="")
