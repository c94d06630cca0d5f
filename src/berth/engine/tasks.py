"""Background work of the engine: what goes on after its request has been answered."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

log = logging.getLogger("berth.engine")
_T = TypeVar("_T")


class Tasks:
    """Background work of the engine, in one TaskGroup: a failure is logged and ends nothing else."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        self._group.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("background work failed")

    def in_thread(self, function, *arguments: object) -> None:  # type: ignore[no-untyped-def]
        """Runs a function in the thread pool and does not wait."""
        asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def whole(work: Awaitable[_T]) -> _T:
    """Awaits `work`, which is not cancelled with its caller but goes on to its end first: half of it would be left to nobody."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        raise


async def stoppable(work: Callable[[threading.Event], _T], halt: Callable[[], object] = lambda: None) -> _T:
    """Runs `work` in the thread pool. Cancelled: the event is set, `halt` called, which ends what looks at no event, and it is waited for."""
    stop = threading.Event()
    task = asyncio.ensure_future(to_its_end(lambda: work(stop)))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        halt()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # it may be about the stop
        raise


async def to_its_end(work: Callable[[], _T], discard: Callable[[_T], object] | None = None) -> _T:
    """Runs `work` in the thread pool and is not cancelled before it has ended: it uses what the caller owns.

    discard: what becomes of a result that nobody takes any more.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError:
                continue
        if future.exception() is None and discard:
            discard(future.result())
        raise
