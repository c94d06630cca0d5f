"""Answers of upstream servers for as long as they may be kept; bounded in number and bytes, the one longest unused goes first."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from berth.network.dns.replies import Reply

_MOST_ENTRIES, _MOST_BYTES = 10_000, 8 << 20
_OVERHEAD_BYTES = 500  # of an entry, roughly


class Cache:
    """Pure but for the clock."""

    def __init__(self, most_entries: int = _MOST_ENTRIES, most_bytes: int = _MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_entries, self._most_bytes, self._clock = most_entries, most_bytes, clock
        self._entries: OrderedDict[Hashable, tuple[Reply, float]] = OrderedDict()  # with its end
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> bytes | None:
        """An answer without its id, its times to live counted down."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        reply, end_s = entry
        left_s = end_s - self._clock()
        if left_s <= 0:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return reply.aged(int(left_s))

    def put(self, key: Hashable, reply: Reply) -> None:
        """Nothing where it may not be kept."""
        if reply.keep_s <= 0:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = (reply, self._clock() + reply.keep_s)
        self.size_bytes += _size(reply)
        while len(self._entries) > self._most_entries or self.size_bytes > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        self.size_bytes -= _size(self._entries.pop(key)[0])


def _size(reply: Reply) -> int:
    return len(reply.wire) + 8 * len(reply.ttls) + _OVERHEAD_BYTES
