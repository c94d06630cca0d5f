"""Messages from a thread that works to a coroutine that tells them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from berth.errors import SystemFailure

_T = TypeVar("_T")

_MOST_WAITING = 1000  # messages to a client that does not read; beyond them those that only draw are left out


class Feed:
    """`put` and `end` are the thread's, `messages` is the coroutine's. A reader far behind misses what would only be drawn over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[dict | None] = asyncio.Queue()
        self._error: BaseException | None = None
        self.ended = asyncio.Event()

    def put(self, message: dict) -> None:
        if not message.get("progressDetail") or self._queue.qsize() < _MOST_WAITING:
            self._call(self._queue.put_nowait, message)

    def end(self, error: BaseException | None = None) -> None:
        self._error = error
        self._call(self._queue.put_nowait, None)
        self._call(self.ended.set)

    def run(self, work: Callable[[], _T]) -> _T:
        """Does it, and ends; what it raises is also what `messages` raises."""
        try:
            result = work()
        except BaseException as error:
            self.end(error)
            raise
        self.end()
        return result

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the engine has ended meanwhile

    async def messages(self) -> AsyncIterator[dict]:
        """In order, until the end; then what went wrong is raised."""
        while (message := await self._queue.get()) is not None:
            yield message
        if isinstance(self._error, OSError):  # of the store: a full disk, for one
            raise not_written(self._error) from self._error
        if self._error:
            raise self._error


def not_written(error: OSError) -> SystemFailure:
    """What the store's disk had against an image, in words."""
    return SystemFailure(f"the image cannot be written to the disk: {error.strerror}")
