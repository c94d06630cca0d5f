"""Restart policies as a table: when, how long, how often; and what a request may ask for."""

import pytest

from berth.cli.flags import UsageError
from berth.cli.runconfig import restart_policy
from berth.engine import restarts
from berth.engine.restarts import Policy
from berth.engine.state import Record
from berth.errors import InvalidParameter


@pytest.mark.parametrize(
    ("policy", "changes", "delay_ms"),
    [
        (Policy("no"), {}, None),
        (Policy("no"), {"exit_code": 1}, None),
        (Policy("always"), {}, 100),
        (Policy("always"), {"exit_code": 1}, 100),
        (Policy("always"), {"cancelled": True}, None),
        (Policy("always"), {"stopped_by_hand": True}, 100),
        (Policy("unless-stopped"), {}, 100),
        (Policy("unless-stopped"), {"stopped_by_hand": True}, None),
        (Policy("unless-stopped"), {"cancelled": True, "stopped_by_hand": True}, None),
        (Policy("on-failure"), {}, None),
        (Policy("on-failure"), {"exit_code": 1}, 100),
        (Policy("on-failure"), {"exit_code": 137, "restarts": 1000}, 100),
        (Policy("on-failure", 3), {"exit_code": 1, "restarts": 2}, 100),
        (Policy("on-failure", 3), {"exit_code": 1, "restarts": 3}, None),
        (Policy("on-failure", 3), {"exit_code": 1, "restarts": 4}, None),
        (Policy("always"), {"last_delay_ms": 100}, 200),
        (Policy("always"), {"last_delay_ms": 200}, 400),
        (Policy("always"), {"last_delay_ms": 51_200}, 60_000),
        (Policy("always"), {"last_delay_ms": 60_000}, 60_000),
        (Policy("always"), {"last_delay_ms": 60_000, "ran_s": 9.9}, 60_000),
        (Policy("always"), {"last_delay_ms": 60_000, "ran_s": 10.0}, 100),
        (Policy("always"), {"last_delay_ms": 400, "ran_s": -5.0}, 800),
    ],
)
def test_what_becomes_of_one_that_ended(policy: Policy, changes: dict, delay_ms: int | None) -> None:
    plain = {"exit_code": 0, "restarts": 0, "ran_s": 1.0, "last_delay_ms": 0, "cancelled": False, "stopped_by_hand": False}
    assert restarts.next_delay_ms(policy, **{**plain, **changes}) == delay_ms


@pytest.mark.parametrize(
    ("policy", "exit_code", "by_hand", "expected"),
    [
        (Policy("no"), 1, False, False), (Policy("always"), 0, False, True), (Policy("always"), 0, True, True),
        (Policy("unless-stopped"), 0, False, True), (Policy("unless-stopped"), 0, True, False), (Policy("on-failure"), 0, False, False),
        (Policy("on-failure"), 143, False, True), (Policy("on-failure"), 143, True, False), (Policy("on-failure", 2), 143, False, False),
        (Policy("on-failure", 3), 143, False, True),
    ],
)  # fmt: skip
def test_what_the_engines_start_starts(policy: Policy, exit_code: int, by_hand: bool, expected: bool) -> None:
    assert restarts.starts_with_engine(policy, exit_code=exit_code, restarts=2, stopped_by_hand=by_hand) is expected


@pytest.mark.parametrize(("due_ns", "now_ns", "left_s"), [(5_000_000_000, 4_500_000_000, 0.5), (1, 5, 0.0), (9_000_000_000, 0, 1.0)])
def test_what_is_left_of_a_wait(due_ns: int, now_ns: int, left_s: float) -> None:
    assert restarts.left_s(due_ns, now_ns, 1000) == left_s


@pytest.mark.parametrize(
    ("policy", "auto_remove", "words"),
    [
        ({"Name": "bogus"}, False, "invalid restart policy: unknown policy 'bogus'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
        ({"Name": "always", "MaximumRetryCount": 3}, False, "invalid restart policy: maximum retry count can only be used with 'on-failure'"),
        ({"Name": "no", "MaximumRetryCount": -3}, False, "can only be used with 'on-failure' and cannot be negative"),
        ({"Name": "on-failure", "MaximumRetryCount": -3}, False, "invalid restart policy: maximum retry count cannot be negative"),
        ({"Name": "on-failure", "MaximumRetryCount": "3"}, False, "MaximumRetryCount: expected a number"),
        ({"Name": 3}, False, "unknown policy '3'"),
        ({"Name": "always"}, True, "can't create 'AutoRemove' container with restart policy"),
    ],
)  # fmt: skip
def test_policies_that_are_refused(policy: dict, auto_remove: bool, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        restarts.check(policy, auto_remove)
    assert words in str(caught.value)


@pytest.mark.parametrize("policy", [{}, {"Name": ""}, {"Name": "no"}, {"Name": "on-failure", "MaximumRetryCount": 3}, {"Name": "always"}])
def test_policies_that_are_taken(policy: dict) -> None:
    restarts.check(policy, auto_remove=policy.get("Name") in (None, "", "no"))


@pytest.mark.parametrize(
    ("text", "policy"),
    [("", ("no", 0)), ("always", ("always", 0)), ("on-failure:3", ("on-failure", 3)), ("on-failure:-2", ("on-failure", -2)), ("x", ("x", 0))],
)
def test_the_command_lines_policy(text: str, policy: tuple[str, int]) -> None:
    assert tuple(restart_policy(text).values()) == policy


@pytest.mark.parametrize("text", [":3", "on-failure:x", "on-failure:3:4", "on-failure:"])
def test_command_line_policies_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid restart policy format"):
        restart_policy(text)


def test_a_record_of_an_earlier_version_gets_the_new_fields() -> None:
    record = Record.from_json('{"id": "x", "status": "exited"}')
    assert (record.restarts, record.restart_delay_ms, record.stopped_by_hand, record.active) == (0, 0, False, False)
    record.move("running")
    record.move("restarting")
    assert (record.running, record.active) == (False, True)
