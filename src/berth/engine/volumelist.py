"""Which volumes a list shows: Docker's filters. Pure.

Source: Docker Engine API v1.51, VolumeList; what the filters match was checked against dockerd.
"""

from collections.abc import Callable

from berth.engine import patterns, volumerecord
from berth.engine.volumerecord import VolumeRecord
from berth.errors import InvalidParameter

Filters = dict[str, list[str]]
_KNOWN = ("dangling", "driver", "label", "name")
_TRUE, _FALSE = ("1", "true"), ("0", "false")


def chooser(filters: Filters, is_used: Callable[[str], bool]) -> Callable[[VolumeRecord], bool]:
    """Whether a volume passes: any name and driver, every label. is_used: whether a container has it."""
    for key in filters:
        if key not in _KNOWN:
            raise InvalidParameter(f"invalid filter '{key}'")
    for value in filters.get("dangling", []):
        if value not in _TRUE + _FALSE:
            raise InvalidParameter(f"invalid filter 'dangling=[{' '.join(filters['dangling'])}]'")
    names = [patterns.compiled(text) for text in filters.get("name", [])]
    dangling = {value in _TRUE for value in filters.get("dangling", [])}
    drivers, labels = filters.get("driver", []), filters.get("label", [])

    def passes(record: VolumeRecord) -> bool:
        return (
            (not names or any(found(record.name) for found in names)) and (not drivers or volumerecord.LOCAL in drivers)
            and all(_has_label(record, text) for text in labels) and (len(dangling) != 1 or is_used(record.name) not in dangling)
        )  # fmt: skip

    return passes


def _has_label(record: VolumeRecord, text: str) -> bool:
    key, equals, value = text.partition("=")
    return record.labels.get(key) == value if equals else key in record.labels
