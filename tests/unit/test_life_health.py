"""Health checks as tables: what a Healthcheck means, and what results make of a container's health."""

import pytest

from berth.cli.flags import UsageError, parse
from berth.cli.runconfig import container_config
from berth.cli.runflags import CREATE_FLAGS
from berth.engine import health, payload
from berth.errors import InvalidParameter
from berth.models import durations

CHECK = {"Test": ["CMD", "x"], "Retries": 2, "StartPeriod": 10_000_000_000}


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({}, None), ({"Healthcheck": None}, None), ({"Healthcheck": {}}, None), ({"Healthcheck": {"Test": []}}, None),
        ({"Healthcheck": {"Test": ["NONE"]}}, None), ({"Healthcheck": {"Test": [""]}}, None), ({"Healthcheck": {"Test": ["CMD"]}}, None),
        ({"Healthcheck": {"Test": ["FOO", "x"]}}, None),
        ({"Healthcheck": {"Test": ["CMD", "a", "b"]}}, ["a", "b"]),
        ({"Healthcheck": {"Test": ["CMD-SHELL", "a b"]}}, ["/bin/sh", "-c", "a b"]),
        ({"Healthcheck": {"Test": ["CMD-SHELL", "a b"]}, "Shell": ["bash", "-lc"]}, ["bash", "-lc", "a b"]),
    ],
)  # fmt: skip
def test_what_is_run(config: dict, command: list[str] | None) -> None:
    check = health.check_of(config)
    assert (check.command if check else None) == command


def test_the_times_of_a_check() -> None:
    plain = health.Check(["x"], {})
    assert (plain.interval_s, plain.timeout_s, plain.start_period_s, plain.start_interval_s, plain.retries) == (30, 30, 0, 5, 3)
    check = health.Check(["x"], {**CHECK, "Interval": 2_000_000_000, "StartInterval": 500_000_000})
    assert check.wait_s("starting", 9.9) == 0.5
    assert check.wait_s("starting", 10.0) == 2
    assert check.wait_s("healthy", 1.0) == 2


@pytest.mark.parametrize(
    ("codes", "since_start_s", "status", "streak"),
    [
        ("0", 0, "healthy", 0), ("1", 0, "starting", 0), ("1111", 5, "starting", 0), ("1", 10, "starting", 1), ("11", 10, "unhealthy", 2),
        ("111", 10, "unhealthy", 3), ("110", 10, "healthy", 0), ("01", 0, "healthy", 1), ("011", 0, "unhealthy", 2), ("0101", 0, "healthy", 1),
    ],
)  # fmt: skip
def test_what_results_make_of_it(codes: str, since_start_s: float, status: str, streak: int) -> None:
    found = health.fresh(None)
    for code in codes:
        found = health.judge(found, {"ExitCode": int(code)}, health.Check(["x"], CHECK), since_start_s)
    assert (found["Status"], found["FailingStreak"]) == (status, streak)
    assert [str(entry["ExitCode"]) for entry in found["Log"]] == list(codes)[-5:]


def test_the_log_keeps_five_and_outlives_a_start() -> None:
    found = health.fresh(None)
    for code in range(7):
        found = health.judge(found, {"ExitCode": code}, health.Check(["x"], {}), 0)
    assert [entry["ExitCode"] for entry in found["Log"]] == [2, 3, 4, 5, 6]
    assert health.fresh(found) == {"Status": "starting", "FailingStreak": 0, "Log": found["Log"]}
    assert (health.status_of(None), health.status_of(found)) == ("none", "unhealthy")


def test_output_is_cut() -> None:
    assert health.cut(b"x" * 4096) == "x" * 4096
    assert health.cut(b"x" * 4097) == "x" * 4096 + "..."
    assert health.cut(b"\xff") == "�"


@pytest.mark.parametrize(
    ("own", "image", "merged"),
    [
        (None, None, None), (None, {"Test": ["CMD", "i"]}, {"Test": ["CMD", "i"]}), ({"Test": ["NONE"]}, None, {"Test": ["NONE"]}),
        ({"Test": ["NONE"]}, {"Test": ["CMD", "i"], "Retries": 2}, {"Test": ["NONE"], "Retries": 2}),
        ({"Interval": 5}, {"Test": ["CMD", "i"], "Interval": 7}, {"Test": ["CMD", "i"], "Interval": 5}),
        ({"Test": [], "Interval": 0}, {"Test": ["CMD", "i"], "Interval": 7}, {"Test": ["CMD", "i"], "Interval": 7}),
    ],
)  # fmt: skip
def test_a_requests_check_over_an_images(own: dict | None, image: dict | None, merged: dict | None) -> None:
    assert health.merged(own, image) == merged
    assert payload.merged_config({"Healthcheck": own}, {"Healthcheck": image}).get("Healthcheck") == merged


@pytest.mark.parametrize("key", ["Interval", "Timeout", "StartPeriod", "StartInterval"])
@pytest.mark.parametrize("value", [1, 999_999, -1])
def test_times_that_are_refused(key: str, value: int) -> None:
    with pytest.raises(InvalidParameter, match=f"^{key} in Healthcheck cannot be less than 1ms$"):
        health.validate({key: value})
    health.validate({key: 0, "Retries": 0})
    health.validate({key: 1_000_000})


def test_types_are_checked() -> None:
    for check in ({"Test": "x"}, {"Interval": "1s"}, {"Retries": 1.5}, {"Test": [1]}):
        with pytest.raises(InvalidParameter, match="invalid JSON: Healthcheck"):
            payload.check({"Healthcheck": check}, {})
    with pytest.raises(InvalidParameter, match="cannot be negative"):
        health.validate({"Retries": -1})


@pytest.mark.parametrize(
    ("words", "check"),
    [
        ([], None), (["--no-healthcheck"], {"Test": ["NONE"]}),
        (["--health-cmd", "a b"], {"Test": ["CMD-SHELL", "a b"]}),
        (["--health-interval", "1m30s", "--health-retries", "2"], {"Interval": 90_000_000_000, "Retries": 2}),
        (["--health-timeout=1.5s", "--health-start-period=2ms", "--health-start-interval=1h"],
         {"Timeout": 1_500_000_000, "StartPeriod": 2_000_000, "StartInterval": 3_600_000_000_000}),
    ],
)  # fmt: skip
def test_flags(words: list[str], check: dict | None) -> None:
    assert container_config(parse([*words, "image"], CREATE_FLAGS)).get("Healthcheck") == check


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-healthcheck", "--health-cmd", "x"], "conflicts with"), (["--no-healthcheck", "--health-interval", "1s"], "conflicts with"),
        (["--health-retries", "-1"], "--health-retries cannot be negative"), (["--health-timeout", "-1s"], "--health-timeout cannot be negative"),
        (["--health-interval", "1x"], 'time: invalid duration "1x"'),
    ],
)  # fmt: skip
def test_flags_that_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        container_config(parse([*words, "image"], CREATE_FLAGS))


@pytest.mark.parametrize(
    ("text", "nanoseconds", "shown"),
    [
        ("0", 0, "0s"), ("1s", 10**9, "1s"), ("1h30m", 5400 * 10**9, "1h30m0s"), ("1.5s", 1_500_000_000, "1.5s"), ("90s", 90 * 10**9, "1m30s"),
        ("250ms", 250_000_000, "250ms"), ("1us", 1000, "1µs"), ("1.5µs", 1500, "1.5µs"), ("7ns", 7, "7ns"), ("-2s", -2 * 10**9, "-2s"),
        (".5s", 500_000_000, "500ms"), ("+1m", 60 * 10**9, "1m0s"), ("1h0.001s", 3600 * 10**9 + 10**6, "1h0m0.001s"),
    ],
)  # fmt: skip
def test_go_durations(text: str, nanoseconds: int, shown: str) -> None:
    assert durations.parse_ns(text) == nanoseconds
    assert durations.text_of(nanoseconds) == shown


@pytest.mark.parametrize("text", ["", "-", "1", "s", "1x", "1.2.3s", "1 s", ".s", "10000000h", "٣s"])
def test_what_is_no_go_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        durations.parse_ns(text)


@pytest.mark.parametrize("wait_s", [0.001, 0.5, 5.0, 30.0, 3600.0])
def test_checks_come_due_together_and_never_far_from_their_time(wait_s: float) -> None:
    moments = [1000.0 + number * wait_s / 97 for number in range(97)]
    waits = [health.together_s(wait_s, now_s) for now_s in moments]
    assert all(abs(found - wait_s) <= wait_s / 30 * 1.001 for found in waits)
    assert len({round((now_s + found) / wait_s, 6) for now_s, found in zip(moments, waits, strict=True)}) <= 16
    after = moments[0] + waits[0]
    assert health.together_s(wait_s, after) == pytest.approx(wait_s)  # and stay together
