"""What a list and an inspect keep of a container, and when they make it anew; the filters of a list."""

import json

import pytest

from berth import errors
from berth.engine import listing
from berth.engine.shown import Shown, with_field
from berth.engine.state import EXITED, RUNNING, Record


def record(**fields: object) -> Record:
    made = Record("ab" * 32, "web-1", "sha256:" + "cd" * 32, "shop:1", {"Labels": {"tier": "front", "empty": ""}}, {})
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_every_field_that_is_set_counts_as_a_change() -> None:
    made = record()
    for name in vars(made):
        before = made.changes
        setattr(made, name, getattr(made, name))
        assert made.changes > before, name
    before = made.changes
    made.move(RUNNING)
    assert made.changes > before


def test_the_count_is_not_saved() -> None:
    made = record()
    assert "changes" not in json.loads(made.to_json())
    again = Record.from_json(made.to_json())
    before = again.changes
    again.error = "x"
    assert again.changes == before + 1


def test_kept_until_the_key_changes() -> None:
    shown, made = Shown(), 0

    def make() -> dict:
        nonlocal made
        made += 1
        return {"made": made}

    assert [shown.json("entry", 1, make), shown.json("entry", 1, make)] == [b'{"made": 1}'] * 2
    assert shown.json("entry", 2, make) == b'{"made": 2}'
    assert shown.json("inspect", 2, make) == b'{"made": 3}'  # each form for itself
    assert shown.json("entry", 2, make) == b'{"made": 2}'
    assert shown.json("entry", 1, make) == b'{"made": 4}'  # only the last is kept


@pytest.mark.parametrize("text", ["Up 3 minutes", 'a "quote" \\ and \u20ac\n'])
def test_one_more_field(text: str) -> None:
    assert json.loads(with_field(b'{"Id": "x}"}', "Status", text)) == {"Id": "x}", "Status": text}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True), ({"id": ["ab"]}, True), ({"id": ["ba"]}, False), ({"id": ["ba", "ab"]}, True), ({"id": []}, True),
        ({"name": ["eb"]}, True), ({"name": ["^/web-1$"]}, True), ({"name": ["web$"]}, False),
        ({"status": ["exited"]}, True), ({"status": ["running"]}, False), ({"exited": ["3"]}, True), ({"exited": ["0"]}, False),
        ({"label": ["tier"]}, True), ({"label": ["tier=front"]}, True), ({"label": ["tier", "none"]}, False),
        ({"label": ["tier="]}, False), ({"label": ["empty="]}, True), ({"status": ["exited"], "label": ["none"]}, False),
        ({"ancestor": ["shop:1"]}, True), ({"ancestor": ["cdcd"]}, True), ({"ancestor": ["shop"]}, False),
        ({"network": ["none"]}, True), ({"network": ["host"]}, False), ({"volume": ["/data"]}, False), ({"health": ["none"]}, True),
        ({"before": ["later"]}, True), ({"before": ["earlier"]}, False), ({"since": ["earlier"]}, True), ({"since": ["later"]}, False),
        ({"publish": ["80"]}, False), ({"is-task": ["false"]}, True), ({"is-task": ["true"]}, False), ({"isolation": ["default"]}, True),
    ],
)  # fmt: skip
def test_filters(filters: dict[str, list[str]], expected: bool) -> None:
    listing.check(filters)
    passes = listing.chooser(filters, {"earlier": 100, "later": 300}.__getitem__)
    assert passes(record(created_ns=200, status=EXITED, exit_code=3)) is expected


@pytest.mark.parametrize("filters", [{"nonsense": ["1"]}, {"status": ["gone"]}, {"health": ["fine"]}])
def test_filters_that_are_refused(filters: dict[str, list[str]]) -> None:
    with pytest.raises(errors.InvalidParameter):
        listing.check(filters)
