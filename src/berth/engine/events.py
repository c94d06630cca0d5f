"""The event bus: Docker's events, to whoever listens, and the last ones for who asks `since`.

Source: Docker Engine API v1.51, EventMessage and its filters; what they match was checked against dockerd.
"""

import asyncio
import calendar
import re
import time
from collections import Counter, deque

from berth.errors import InvalidParameter
from berth.models import durations

_HISTORY = 1024
_QUEUE = 1024
_FUZZY_EVENTS = frozenset(("health_status", "exec_create", "exec_start"))
_NAMES = frozenset(("container", "daemon", "network", "plugin", "volume", "node", "service", "secret", "config"))
_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2})(?::(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?)?)?(Z|[+-]\d{2}:\d{2})?", re.ASCII)
_UNIX = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)


class Listener:
    """One reader's queue: `next` gives events in order, None once it has fallen too far behind or the bus is closed."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[dict | None] = asyncio.Queue(_QUEUE)

    def put(self, event: dict) -> bool:
        """False if it is full: then the reader is told, after what it has not read yet, that there is a gap."""
        if self._queue.qsize() < _QUEUE - 1:
            self._queue.put_nowait(event)
            return True
        self._queue.put_nowait(None)
        return False

    async def next(self) -> dict | None:
        return await self._queue.get()


class EventBus:
    """Publishes to bounded queues: a listener that does not read is dropped, never waited for."""

    def __init__(self) -> None:
        self.history: deque[dict] = deque(maxlen=_HISTORY)
        self._listeners: set[Listener] = set()
        self._last_ns = 0
        self.counts: Counter[tuple[str, str]] = Counter()  # by type and action

    def publish(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        """kind: container, image, ...; actor: the id."""
        # Every event has a time of its own, so that `since` with the last one seen repeats nothing else.
        now_ns = self._last_ns = max(time.time_ns(), self._last_ns + 1)
        event = {
            "Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "scope": "local",
            "time": now_ns // 1_000_000_000, "timeNano": now_ns,
        }  # fmt: skip
        if kind in ("container", "image"):  # what clients before API 1.22 read
            event |= {"status": action, **({"id": actor} if actor else {})}
        if kind == "container" and attributes.get("image"):
            event["from"] = attributes["image"]
        self.history.append(event)
        self.counts[kind, action.partition(":")[0]] += 1
        for listener in list(self._listeners):
            if not listener.put(event):
                self._listeners.discard(listener)

    def past(self, since_ns: int, until_ns: int) -> list[dict]:
        """What is kept of a span, oldest first; until_ns: 0 for no end. Nothing if neither is given."""
        if not since_ns and not until_ns:
            return []
        return [e for e in self.history if e["timeNano"] >= since_ns and (not until_ns or e["timeNano"] <= until_ns)]

    def listen(self) -> Listener:
        listener = Listener()
        self._listeners.add(listener)
        return listener

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)


def moment_ns(text: str, name: str, now_ns: int) -> int:
    """`since` and `until`: seconds since 1970, RFC 3339 (also cut short), or a span back from now; 0 for absent."""
    if not text:
        return 0
    if found := _UNIX.fullmatch(text):
        return int(found[1]) * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))
    if found := _RFC3339.fullmatch(text):
        date, hour, minute, second, fraction, zone = found.groups()
        try:
            parsed = time.strptime(f"{date} {hour or '00'}:{minute or '00'}:{second or '00'}", "%Y-%m-%d %H:%M:%S")
            seconds = int(time.mktime(parsed)) if zone is None else calendar.timegm(parsed) - _offset_s(zone)
        except (ValueError, OverflowError):
            raise InvalidParameter(f"{name}: {text!r} is no time of the calendar") from None
        return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
    try:
        return max(now_ns - durations.parse_ns(text), 1)
    except ValueError:
        raise InvalidParameter(
            f"{name}: failed to parse {text[:100]!r} as a time or duration: expected e.g. 1136073845, 2006-01-02T15:04:05Z or 10m"
        ) from None


def _offset_s(zone: str) -> int:
    if zone == "Z":
        return 0
    seconds = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return -seconds if zone[0] == "-" else seconds


def event_matches(event: dict, filters: dict[str, list[str]]) -> bool:
    """Docker's event filters: any value of a key, all labels, every key; a key it does not know matches all."""
    return all(_matches(event, key, values) for key, values in filters.items() if values)


def _matches(event: dict, key: str, values: list[str]) -> bool:
    actor, attributes = event["Actor"]["ID"], event["Actor"]["Attributes"]
    if key == "event":
        if _FUZZY_EVENTS & set(values):
            return any(event["Action"].startswith(value) for value in values)
        return event["Action"] in values
    if key == "type":
        return event["Type"] in values
    if key == "scope":
        return event.get("scope", "local") in values
    if key == "label":
        return all(
            attributes.get(name) == value if sign else name in attributes
            for name, sign, value in (text.partition("=") for text in values)
        )
    if key == "image":
        name = attributes.get("name" if event["Type"] == "image" else "image", "")
        return bool({actor, name, _without_tag(actor), _without_tag(name)} & set(values))
    if key in _NAMES:  # of an object of any type: dockerd compares without looking which
        return any(text.startswith(value) for value in values for text in (actor, attributes.get("name", "")))
    return True


def _without_tag(name: str) -> str:
    """`host:5000/debian:12` -> `host:5000/debian`."""
    head, colon, tag = name.partition("@")[0].rpartition(":")
    return head if colon and "/" not in tag else name
