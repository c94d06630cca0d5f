"""Threads of a request's own: results, errors, cancellation, and pipes that are read without one."""

import asyncio
import os
import threading
import time
from typing import IO

import pytest

from berth.api.threads import in_own_thread, in_thread_with_body, read_pipe, settle
from berth.engine.tasks import to_its_end


class FakeBody:
    """A request's body of given pieces; waits for ever where one is None."""

    def __init__(self, *pieces: bytes | None) -> None:
        self._pieces = list(pieces)

    async def read(self) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if piece is None:
            await asyncio.Event().wait()
        return piece or b""


def test_result_and_error() -> None:
    async def run() -> None:
        assert await in_own_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await in_own_thread(lambda: 1 // 0)

    asyncio.run(run())


def test_read_pipe() -> None:
    async def run() -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        reading = asyncio.ensure_future(read_pipe(read_end, 10))
        await asyncio.sleep(0)
        os.write(write_end, b"abc")
        assert await reading == b"abc"
        os.close(write_end)
        assert await read_pipe(read_end, 10) == b""
        os.close(read_end)

    asyncio.run(run())


def test_body_reaches_the_thread() -> None:
    def count(stream: IO[bytes]) -> int:
        return len(stream.read())

    assert asyncio.run(in_thread_with_body(FakeBody(b"x" * 300000, b"yz"), count)) == 300002  # type: ignore[arg-type]
    assert asyncio.run(in_thread_with_body(FakeBody(b"x" * 3000000), lambda stream: 5)) == 5  # type: ignore[arg-type]


def test_cancelled_request_waits_for_its_thread() -> None:
    ended = threading.Event()

    def work(stream: IO[bytes]) -> None:
        stream.read()  # ends with the body
        time.sleep(0.05)
        ended.set()

    async def run() -> None:
        task = asyncio.ensure_future(in_thread_with_body(FakeBody(b"x", None), work))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(run())


def test_to_its_end() -> None:
    started, discarded = threading.Event(), []

    def work() -> str:
        started.set()
        time.sleep(0.05)
        return "result"

    async def run() -> None:
        assert await to_its_end(lambda: 3) == 3
        task = asyncio.ensure_future(to_its_end(work, discarded.append))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        failed = in_own_thread(lambda: 1 // 0)
        await settle(failed)
        assert isinstance(failed.exception(), ZeroDivisionError)

    asyncio.run(run())
    assert discarded == ["result"]
