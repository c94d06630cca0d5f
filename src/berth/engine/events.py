"""The event bus: Docker's events, to whoever listens. No history yet but a short one for `since`."""

import asyncio
import time
from collections import deque

_HISTORY = 256
_QUEUE = 1024


class EventBus:
    """Publishes to bounded queues: a listener that does not read is dropped, never waited for."""

    def __init__(self) -> None:
        self.history: deque[dict] = deque(maxlen=_HISTORY)
        self._listeners: set[asyncio.Queue[dict | None]] = set()

    def publish(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        """kind: container, image, ...; actor: the id."""
        now_ns = time.time_ns()
        event = {
            "Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "scope": "local",
            "time": now_ns // 1_000_000_000, "timeNano": now_ns,
        }  # fmt: skip
        if kind == "container":
            event |= {"status": action, "id": actor, "from": attributes.get("image", "")}
        self.history.append(event)
        for queue in list(self._listeners):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._listeners.discard(queue)

    def listen(self) -> "asyncio.Queue[dict | None]":
        queue: asyncio.Queue[dict | None] = asyncio.Queue(_QUEUE)
        self._listeners.add(queue)
        return queue

    def forget(self, queue: "asyncio.Queue[dict | None]") -> None:
        self._listeners.discard(queue)
