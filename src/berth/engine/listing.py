"""Filters of `GET /containers/json`: which containers a list shows. Pure."""

from collections.abc import Callable
from typing import Any

from berth.engine import health, views
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
            if value not in _VALUES.get(key, (value,)):
                words = f"Unrecognised filter value for {key}: {value}" if key == "health" else f"invalid filter '{key}={value}'"
                raise InvalidParameter(words)


def chooser(filters: dict[str, list[str]], created_ns: Callable[[str], int]) -> Callable[[Record], bool]:
    """Whether a record passes: any value of a key, all labels, every key. created_ns: when a container that is named was made.

    What is the same for every record is done here, once.
    """
    tests: list[tuple[Test, list[Any], bool]] = []
    for key, values in filters.items():
        if values:
            times = [created_ns(value) for value in values] if key in ("before", "since") else values
            tests.append((_TESTS[key], times, key == "label"))

    def passes(record: Record) -> bool:
        for test, values, every in tests:
            found = (test(record, value) for value in values)
            if not (all(found) if every else any(found)):
                return False
        return True

    return passes


def _has_name(record: Record, value: str) -> bool:
    bare = value.lstrip("^/")
    return bare.rstrip("$") == record.name if value.endswith("$") else bare in record.name


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
    return any(value in (point["Source"], point["Destination"]) for point in views.mount_points(record))


_TESTS: dict[str, Test] = {
    "id": lambda record, value: record.id.startswith(value), "name": _has_name,
    "status": lambda record, value: record.status == value,
    "exited": lambda record, value: record.status == "exited" and str(record.exit_code) == value,
    "ancestor": _is_of, "label": _has_label, "network": _is_in,
    "before": lambda record, time_ns: record.created_ns < time_ns, "since": lambda record, time_ns: record.created_ns > time_ns,
    "volume": _has_volume, "health": lambda record, value: value == health.status_of(record.health),
    "publish": lambda record, value: False, "expose": lambda record, value: False,
    "is-task": lambda record, value: value in ("0", "false"), "isolation": lambda record, value: value == "default",
}  # fmt: skip
