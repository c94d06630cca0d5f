"""The JSON of what `ps` and `inspect` show of a container, kept until the container changes.

A list of a thousand containers is asked for often and changes little. A record counts its changes (state.Record);
what else an answer depends on is part of the key. Words that contain times ("Up 3 minutes") are never kept.
"""

import json
from collections.abc import Callable, Hashable


class Shown:
    """What was last shown of one container; a form (as "entry") is kept once, for the key it was last asked with."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Hashable, bytes]] = {}

    def json(self, form: str, key: Hashable, make: Callable[[], dict]) -> bytes:
        """JSON of what `make` returns, made again if `key` is another one than the last time."""
        kept = self._kept.get(form)
        if kept is None or kept[0] != key:
            self._kept[form] = kept = key, json.dumps(make()).encode()
        return kept[1]


def with_field(data: bytes, name: str, text: str) -> bytes:
    """The same object with one more field. data: a JSON object with at least one."""
    return b'%b, "%b": %b}' % (data[:-1], name.encode(), json.dumps(text).encode())
