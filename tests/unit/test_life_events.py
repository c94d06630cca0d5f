"""Events: moments, filters, history, listeners that fall behind, and the lines that people read."""

import asyncio
import time

import pytest

from berth.cli import events as command
from berth.engine.events import EventBus, event_matches, moment_ns
from berth.errors import InvalidParameter

NOW_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("", 0), ("0", 0), ("1136073845", 1136073845 * SECOND), ("1136073845.000000001", 1136073845 * SECOND + 1), ("5.5", 5_500_000_000),
        ("2006-01-02T15:04:05Z", 1136214245 * SECOND), ("2006-01-02T15:04:05.123456789Z", 1136214245 * SECOND + 123456789),
        ("2006-01-02T15:04:05+07:00", (1136214245 - 7 * 3600) * SECOND), ("2006-01-02T15:04:05.5-00:30", (1136214245 + 1800) * SECOND + SECOND // 2),
        ("2006-01-02T15:04Z", 1136214240 * SECOND), ("2006-01-02Z", 1136160000 * SECOND), ("10m", NOW_NS - 600 * SECOND), ("0s", NOW_NS),
        ("1h30m", NOW_NS - 5400 * SECOND), ("-10s", NOW_NS + 10 * SECOND), ("1.5s", NOW_NS - 1_500_000_000),
    ],
)  # fmt: skip
def test_moments(text: str, expected_ns: int) -> None:
    assert moment_ns(text, "since", NOW_NS) == expected_ns


def test_a_moment_without_a_zone_is_local() -> None:
    assert moment_ns("2006-01-02T15:04:05", "since", 0) == int(time.mktime((2006, 1, 2, 15, 4, 5, 0, 0, -1))) * SECOND


@pytest.mark.parametrize("text", ["bogus", "2006-13-02", "2006-01-02T25:00:00Z", "1.2.3", "10", "٣", "5 s", "1e5", "nan", "inf", "9" * 200])
def test_what_is_no_moment(text: str) -> None:
    if text == "10":
        assert moment_ns(text, "since", 0) == 10 * SECOND
        return
    with pytest.raises(InvalidParameter, match=r"^until: "):
        moment_ns(text, "until", NOW_NS)


def event(kind: str, action: str, actor: str, **attributes: str) -> dict:
    return {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "scope": "local"}


HEALTH = event("container", "health_status: healthy", "abc", name="web", image="debian:12")
TAG = event("image", "tag", "sha256:1", name="host:5000/debian:12")
NETWORK = event("network", "connect", "n1", name="none", container="abcdef")


@pytest.mark.parametrize(
    ("which", "filters", "expected"),
    [
        (HEALTH, {"event": ["health_status"]}, True), (HEALTH, {"event": ["health_status: healthy"]}, True), (HEALTH, {"event": ["health"]}, False),
        (HEALTH, {"event": ["health_status", "die"]}, True), (HEALTH, {"event": ["health_status: un"]}, False), (HEALTH, {"image": ["debian"]}, True),
        (HEALTH, {"image": ["debian:12"]}, True), (HEALTH, {"image": ["deb"]}, False), (TAG, {"image": ["host:5000/debian"]}, True),
        (TAG, {"image": ["sha256:1"]}, True), (TAG, {"image": ["host"]}, False), (HEALTH, {"container": ["we"]}, True),
        (HEALTH, {"container": ["eb"]}, False), (NETWORK, {"container": ["abcd"]}, False), (TAG, {"container": ["host"]}, True),
        (NETWORK, {"network": ["n1"]}, True), (HEALTH, {"network": ["abc"]}, True), (HEALTH, {"daemon": ["abcd"]}, False), (HEALTH, {"scope": ["local"]}, True),
        (HEALTH, {"scope": ["swarm"]}, False), (HEALTH, {"unknown": ["x"]}, True), (HEALTH, {"type": []}, True), (HEALTH, {"type": ["image", "container"]}, True),
    ],
)  # fmt: skip
def test_filters(which: dict, filters: dict, expected: bool) -> None:
    assert event_matches(which, filters) is expected


def test_history_is_bounded_and_in_order() -> None:
    bus = EventBus()
    for number in range(3000):
        bus.publish("container", "start", str(number), {"image": "i"})
    kept = bus.past(1, 0)
    assert len(kept) == 1024
    assert [e["id"] for e in kept] == [str(n) for n in range(3000 - 1024, 3000)]
    times = [e["timeNano"] for e in kept]
    assert times == sorted(set(times))
    assert bus.past(0, 0) == []
    assert bus.past(0, times[1]) == kept[:2]
    assert bus.past(times[1], times[2]) == kept[1:3]
    assert (kept[0]["from"], kept[0]["status"]) == ("i", "start")


def test_a_listener_that_does_not_read_is_told_of_the_gap() -> None:
    async def scenario() -> None:
        bus = EventBus()
        slow, other = bus.listen(), bus.listen()
        for number in range(5000):
            bus.publish("container", "start", str(number), {})
            assert (await other.next() or {})["id"] == str(number)
        seen = []
        while (item := await slow.next()) is not None:
            seen.append(item["id"])
        assert seen == [str(n) for n in range(len(seen))]
        assert len(seen) == 1023
        bus.forget(other)
        bus.publish("container", "start", "x", {})

    asyncio.run(scenario())


def test_lines_as_docker_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    die = {**event("container", "die", "abc", name="web", exitCode="0"), "timeNano": 1136214245_000000042, "status": "die", "id": "abc", "from": "i"}
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert command.plain(die) == "2006-01-02T15:04:05.000000042Z container die abc (exitCode=0, name=web)"
    monkeypatch.setenv("TZ", "XXX-5:30")
    time.tzset()
    assert command.plain(die).startswith("2006-01-02T20:34:05.000000042+05:30 ")
    monkeypatch.undo()
    time.tzset()
    assert command._printer("{{.Action}} {{.Status}} {{.ID}} {{.From}} {{.Actor.Attributes.name}}")(die) == "die die abc i web"
    assert command._printer("json")(die).startswith('{"Type":"container"')
    assert command.plain(event("daemon", "reload", "x") | {"timeNano": 0}).endswith(" daemon reload x")
