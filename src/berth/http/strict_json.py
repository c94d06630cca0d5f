"""JSON of a request, as strict as Go's and a little stricter. Pure."""

import json
from typing import Any

from berth.errors import InvalidParameter

_INT64 = 1 << 63


def parse_json_object(data: bytes) -> dict[str, Any]:
    """A request's body; {} for an empty one. Refuses what no field can hold: numbers beyond 64 bits, NaN, NUL, half characters."""
    if not data.strip():
        return {}
    try:
        value = json.loads(data, parse_int=_integer, parse_float=_float, parse_constant=_no_number)
        if b"\\u" in data:
            _check_text(value)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None
    if value is None:
        return {}  # as Go reads it: nothing is said
    if not isinstance(value, dict):
        raise InvalidParameter("invalid JSON: expected an object")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -_INT64 <= int(text) < _INT64:
        raise ValueError(f"the number {text[:40]} does not fit in 64 bits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _check_text(value: object) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{value[:200]!r} contains a NUL")
        value.encode()  # UnicodeEncodeError, a ValueError, for half of a surrogate pair
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_text(item)
