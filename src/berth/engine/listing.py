"""Filters of `GET /containers/json`: which containers a list shows. Pure."""

import re
from collections.abc import Callable
from typing import Any

from berth.engine import health, patterns, views
from berth.engine.mountpoints import of_record
from berth.engine.state import Record
from berth.errors import InvalidParameter

Test = Callable[[Record, Any], bool]

_VALUES = {
    "status": ("created", "running", "paused", "restarting", "removing", "exited", "dead"),
    "health": (health.STARTING, health.HEALTHY, health.UNHEALTHY, health.NONE),
}  # fmt: skip


def check(filters: dict[str, list[str]]) -> None:
    """Refuses keys and values that Docker refuses, also where there is nothing to filter."""
    for key, values in filters.items():
        if key not in _TESTS:
            raise InvalidParameter(f"invalid filter '{key}'")
        for value in values:
            _check_form(key, value)
            if value not in _VALUES.get(key, (value,)):
                words = f"Unrecognised filter value for {key}: {value}" if key == "health" else f"invalid filter '{key}={value}'"
                raise InvalidParameter(words)


def _check_form(key: str, value: str) -> None:
    if key == "exited" and not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        raise InvalidParameter(f"invalid filter 'exited={value}': it is not a number")
    if key in ("publish", "expose") and not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?(/[a-z]+)?", value):
        raise InvalidParameter(f"invalid filter '{key}={value}': expected PORT, FIRST-LAST or either with /PROTOCOL")
    if key == "is-task" and value not in ("0", "1", "false", "true"):
        raise InvalidParameter(f"invalid filter 'is-task=[{value}]'")


def chooser(filters: dict[str, list[str]], created_ns: Callable[[str], int]) -> Callable[[Record], bool]:
    """Whether a record passes: any value of a key, all labels, every key. created_ns: when a container that is named was made.

    What is the same for every record is done here, once.
    """
    tests: list[tuple[Test, list[Any], bool]] = []
    prepare: Callable[[str], Any]
    for key, values in filters.items():
        prepare = {"before": created_ns, "since": created_ns, "name": patterns.compiled}.get(key, str)
        if values:
            tests.append((_TESTS[key], [prepare(value) for value in values], key == "label"))

    def passes(record: Record) -> bool:
        for test, values, every in tests:
            found = (test(record, value) for value in values)
            if not (all(found) if every else any(found)):
                return False
        return True

    return passes


def _has_label(record: Record, value: str) -> bool:
    name, sign, text = value.partition("=")
    labels = record.config.get("Labels") or {}
    return labels.get(name) == text if sign else name in labels


def _is_of(record: Record, value: str) -> bool:
    return record.image_name in (value, f"{value}:latest") or record.image_id.removeprefix("sha256:").startswith(value)


def _is_in(record: Record, value: str) -> bool:
    mode = views.network_mode(record)
    return value == ("none" if mode == "default" else mode)


def _has_volume(record: Record, value: str) -> bool:
    return any(value in (point.name or point.source, point.destination) for point in of_record(record))


_TESTS: dict[str, Test] = {
    "id": lambda record, value: record.id.startswith(value),
    "name": lambda record, found: found(record.name) or found(f"/{record.name}"),
    "status": lambda record, value: record.status == value,
    "exited": lambda record, value: record.status == "exited" and str(record.exit_code) == value,
    "ancestor": _is_of, "label": _has_label, "network": _is_in,
    "before": lambda record, time_ns: record.created_ns < time_ns, "since": lambda record, time_ns: record.created_ns > time_ns,
    "volume": _has_volume, "health": lambda record, value: value == health.status_of(record.health),
    "publish": lambda record, value: False, "expose": lambda record, value: False,
    "is-task": lambda record, value: value in ("0", "false"), "isolation": lambda record, value: value == "default",
}  # fmt: skip
