"""Restart policies: whether a container that ended is started again, and after how long. Pure.

The wait begins at 100 ms, doubles with every restart up to a minute, and begins anew once the program has
run for ten seconds. Source: Docker's documentation of `docker run --restart`; checked against dockerd.
"""

from berth.errors import InvalidParameter

NO, ALWAYS, UNLESS_STOPPED, ON_FAILURE = "no", "always", "unless-stopped", "on-failure"
_FIRST_DELAY_MS, _MAX_DELAY_MS = 100, 60_000
_LONG_RUN_S = 10.0


class Policy:
    """name: one of the four; maximum: of on-failure, 0 for no limit."""

    def __init__(self, name: str, maximum: int = 0) -> None:
        self.name = name
        self.maximum = maximum


def policy_of(host: dict) -> Policy:
    """The policy of a HostConfig that `check` has passed."""
    found = host.get("RestartPolicy") or {}
    return Policy(found.get("Name") or NO, found.get("MaximumRetryCount") or 0)


def check(policy: dict, auto_remove: bool) -> None:
    """Refuses what Docker refuses, in its words."""
    name, maximum = policy.get("Name") or NO, policy.get("MaximumRetryCount") or 0
    if not isinstance(name, str) or name not in (NO, ALWAYS, UNLESS_STOPPED, ON_FAILURE):
        raise InvalidParameter(f"invalid restart policy: unknown policy '{name}'; use one of '{NO}', '{ALWAYS}', "
                               f"'{ON_FAILURE}', or '{UNLESS_STOPPED}'")  # fmt: skip
    if not isinstance(maximum, int) or isinstance(maximum, bool):
        raise InvalidParameter(f"invalid JSON: HostConfig.RestartPolicy.MaximumRetryCount: expected a number, got {maximum!r}")
    if maximum < 0:
        only = "" if name == ON_FAILURE else "can only be used with 'on-failure' and "
        raise InvalidParameter(f"invalid restart policy: maximum retry count {only}cannot be negative")
    if maximum and name != ON_FAILURE:
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if auto_remove and name != NO:
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def next_delay_ms(
    policy: Policy, *, exit_code: int, restarts: int, ran_s: float, last_delay_ms: int, cancelled: bool, stopped_by_hand: bool
) -> int | None:
    """How long to wait before the next start of a program that ended; None: it stays as it is.

    restarts: how often it was restarted since a person started it. last_delay_ms: 0 before the first time.
    cancelled: a person has ended this run. stopped_by_hand: the same, but kept over the engine's end.
    """
    if policy.name == ALWAYS:
        wanted = True
    elif policy.name == UNLESS_STOPPED:
        wanted = not stopped_by_hand
    elif policy.name == ON_FAILURE:
        wanted = exit_code != 0 and (not policy.maximum or restarts < policy.maximum)
    else:
        wanted = False
    if cancelled or not wanted:
        return None
    if last_delay_ms == 0 or ran_s >= _LONG_RUN_S:
        return _FIRST_DELAY_MS
    return min(2 * last_delay_ms, _MAX_DELAY_MS)


def starts_with_engine(policy: Policy, *, exit_code: int, restarts: int, stopped_by_hand: bool) -> bool:
    """Whether a container that has ended is started when the engine is: `always` even if a person had stopped it.

    One with on-failure is where an engine that ended stopped its containers.
    """
    if policy.name == ON_FAILURE:
        return exit_code != 0 and not stopped_by_hand and (not policy.maximum or restarts < policy.maximum)
    return policy.name == ALWAYS or (policy.name == UNLESS_STOPPED and not stopped_by_hand)


def left_s(due_ns: int, now_ns: int, delay_ms: int) -> float:
    """What is left of a wait; a clock that was set back does not make it longer."""
    return min(max(due_ns - now_ns, 0) / 1e9, delay_ms / 1000)
