"""What the steps of a build may use, as a client says it, and as a container's HostConfig has it. Pure."""

import json
from collections.abc import Iterable

from berth.errors import InvalidParameter

_NUMBERS = frozenset({"Memory", "MemorySwap", "ShmSize", "CpuShares", "CpuPeriod", "CpuQuota"})
_TEXTS = frozenset({"CpusetCpus", "CpusetMems", "CgroupParent"})
_LONGEST_NUMBER = 20


def host_config(limits: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Fields of a HostConfig and nothing else of one: InvalidParameter for other names, and for values that are none."""
    return {name: _value(name, text) for name, text in limits}


def _value(name: str, text: str) -> object:
    if name in _TEXTS:
        return text
    if name == "Ulimits":
        return _ulimits(text)
    if name not in _NUMBERS:
        raise InvalidParameter(f"a build has no limit {name!r}; it has {', '.join(sorted(_NUMBERS | _TEXTS | {'Ulimits'}))}")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < _LONGEST_NUMBER):
        raise InvalidParameter(f"limit {name}: {text[:200]!r} is not a number")
    return int(text)


def _ulimits(text: str) -> list[dict]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InvalidParameter(f'ulimits: {text[:200]!r} is not a JSON list of {{"Name": …, "Soft": …, "Hard": …}}')
    return found
