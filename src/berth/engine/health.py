"""Health checks: when a command is run in a container, and what its exit codes say of it. Pure; probes.py runs them.

What is known is a part of the container's record, so that an engine that is killed goes on where it was.
Source: Docker Engine API v1.51, HealthConfig and Health; checked against dockerd.
"""

from berth.errors import InvalidParameter

STARTING, HEALTHY, UNHEALTHY, NONE = "starting", "healthy", "unhealthy", "none"
_KEPT_RESULTS = 5
MAX_OUTPUT_BYTES = 4096
_MIN_NS = 1_000_000
_DEFAULTS_NS = {"Interval": 30_000_000_000, "Timeout": 30_000_000_000, "StartPeriod": 0, "StartInterval": 5_000_000_000}
_DEFAULT_RETRIES = 3
_SHELL = ["/bin/sh", "-c"]


class Check:
    """What a Healthcheck says: the command, and times in seconds."""

    def __init__(self, command: list[str], healthcheck: dict) -> None:
        self.command = command
        self.interval_s, self.timeout_s, self.start_period_s, self.start_interval_s = (
            (healthcheck.get(key) or default) / 1e9 for key, default in _DEFAULTS_NS.items()
        )
        self.retries = healthcheck.get("Retries") or _DEFAULT_RETRIES

    def wait_s(self, status: str, since_start_s: float) -> float:
        """How long until the next probe: shorter while it may still be starting."""
        starting = status == STARTING and since_start_s < self.start_period_s
        return self.start_interval_s if starting else self.interval_s


def together_s(wait_s: float, now_s: float) -> float:
    """A wait changed by at most a thirtieth, so that checks of many containers come due at the same moments.

    One that comes right after another costs a third less than one that wakes an idle engine. now_s: of one clock for all.
    """
    step_s = wait_s / 15
    return round((now_s + wait_s) / step_s) * step_s - now_s


def check_of(config: dict) -> Check | None:
    """The check of a merged Config; None where there is none or it is switched off."""
    healthcheck = config.get("Healthcheck") or {}
    test = healthcheck.get("Test") or []
    if len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        return None
    command = test[1:] if test[0] == "CMD" else [*(config.get("Shell") or _SHELL), *test[1:]]
    return Check(command, healthcheck)


def validate(healthcheck: dict) -> None:
    """Refuses what Docker refuses, in its words."""
    for key in _DEFAULTS_NS:
        if 0 != (healthcheck.get(key) or 0) < _MIN_NS:
            raise InvalidParameter(f"{key} in Healthcheck cannot be less than 1ms")
    if (healthcheck.get("Retries") or 0) < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


def merged(own: dict | None, image: dict | None) -> dict | None:
    """A request's Healthcheck over the image's, field by field."""
    if own is None or image is None:
        return image if own is None else own
    return {**image, **{key: value for key, value in own.items() if value}}


def fresh(health: dict | None) -> dict:
    """What is known when a program has just started: nothing, but what was seen of the last run."""
    return {"Status": STARTING, "FailingStreak": 0, "Log": (health or {}).get("Log") or []}


def judge(health: dict, result: dict, check: Check, since_start_s: float) -> dict:
    """What is known after one more result. since_start_s: from the container's start to the probe's."""
    found = {**health, "Log": [*health["Log"], result][-_KEPT_RESULTS:]}
    if result["ExitCode"] == 0:
        return {**found, "Status": HEALTHY, "FailingStreak": 0}
    if health["Status"] == STARTING and since_start_s < check.start_period_s:
        return found
    streak = health["FailingStreak"] + 1
    return {**found, "FailingStreak": streak, "Status": UNHEALTHY if streak >= check.retries else health["Status"]}


def status_of(health: dict | None) -> str:
    """For the filter `health` of a list."""
    return str(health["Status"]) if health else NONE


def cut(output: bytes) -> str:
    """At most as much of a probe's output as is kept."""
    text = output[:MAX_OUTPUT_BYTES].decode(errors="replace")
    return f"{text}..." if len(output) > MAX_OUTPUT_BYTES else text
