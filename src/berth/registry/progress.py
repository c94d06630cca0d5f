"""What is said of a transfer while it goes on: the messages that Docker's clients draw. Any thread may report."""

import math
import threading
import time
from collections.abc import Callable

from berth.models import units
from berth.oci.digest import hexadecimal

Report = Callable[[dict], None]

_LEAST_INTERVAL_S = 0.1
_BAR = 50


def bar(current: int, total: int) -> str:
    """`[====>    ]     12MB/30MB`, which clients without a drawing of their own print."""
    if total <= 0:
        return units.human_size(current)
    done = min(_BAR, current * _BAR // total)
    return f"[{'=' * done}>{' ' * (_BAR - done)}] {units.human_size(current):>8}/{units.human_size(total)}"


class Line:
    """The line of a layer, or of all where identity is ''. `say` is always sent, `advance` as often as eyes can follow, and its end."""

    def __init__(self, report: Report, identity: str) -> None:
        self._report = report
        self._identity = identity
        self._lock = threading.Lock()
        self._sent_s = 0.0
        self._status, self._current = "", -1

    def say(self, status: str) -> None:
        """A line without a bar; what `advance` had under way is over."""
        with self._lock:
            self._status, self._sent_s = status, 0.0
            self._report({"status": status, "progressDetail": {}, "id": self._identity})

    def retrying(self, wait_s: float) -> None:
        """Nothing happens for so long, in Docker's words."""
        seconds = max(1, math.ceil(wait_s))
        self.say(f"Retrying in {seconds} second{'s' if seconds > 1 else ''}")

    def advance(self, status: str, current: int, total: int) -> None:
        """How far it has got; total: 0 where nobody knows."""
        with self._lock:
            now_s = time.monotonic()
            soon = now_s - self._sent_s < _LEAST_INTERVAL_S and (current < total or total <= 0)
            if status == self._status and (soon or current == self._current):
                return
            self._status, self._sent_s, self._current = status, now_s, current
            detail = {"current": current, "total": total} if total > 0 else {"current": current}
            identity = {"id": self._identity} if self._identity else {}
            self._report({"status": status, "progressDetail": detail, "progress": bar(current, total), **identity})


def short(digest: str) -> str:
    """As people see digests."""
    return hexadecimal(digest)[:12]
