"""Work that waits for a client has a thread of its own: the engine's pool is for work that ends by itself.

A client that reads or sends slowly, or not at all, would else hold one of the pool's few threads, and a handful
of them the engine.
"""

import asyncio
import fcntl
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import IO, Protocol, TypeVar

from berth.http.body import Disconnected
from berth.http.exchange import Exchange

log = logging.getLogger("berth.api")

_T = TypeVar("_T")
_V = TypeVar("_V")
_PIPE_BYTES = 1 << 18


def in_own_thread(work: Callable[[], _T]) -> "asyncio.Future[_T]":
    """Starts `work`; the future has its result or what it raised."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            _tell(loop, future.set_exception, error, future)
        else:
            _tell(loop, future.set_result, result, future)

    threading.Thread(target=run, daemon=True).start()
    return future


def _tell(
    loop: asyncio.AbstractEventLoop, set_: Callable[[_V], None], value: _V, future: "asyncio.Future[_T]"
) -> None:
    try:
        loop.call_soon_threadsafe(lambda: None if future.done() else set_(value))
    except RuntimeError:
        pass  # the engine has ended meanwhile


async def read_pipe(fd: int, size: int) -> bytes:
    """What is in a pipe (O_NONBLOCK), waiting for some; b'' at its end."""
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            await _ready(fd)


async def _ready(fd: int) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_reader(fd, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        loop.remove_reader(fd)


async def write_pipe(fd: int, data: bytes) -> None:
    """All of `data` into a pipe (O_NONBLOCK), waiting for room; BrokenPipeError where nobody reads any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _room(fd)


async def _room(fd: int) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_writer(fd, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        loop.remove_writer(fd)


async def settle(worker: "asyncio.Future[_T]") -> None:
    """Waits for a worker to end, even if the request is cancelled meanwhile: what it works on is the request's."""
    while not worker.done():
        try:
            await asyncio.wait({worker})
        except asyncio.CancelledError:
            continue
    if not worker.cancelled():
        worker.exception()  # whoever waits here has an exception of their own


async def send_written(exchange: Exchange, write: Callable[[IO[bytes]], None]) -> None:
    """Runs `write` and sends what it writes. A failure cuts the stream off, so that it never looks whole."""
    try:
        await out_of_thread(exchange.send, write)
    except (Disconnected, asyncio.CancelledError):
        raise
    except Exception as error:
        log.error("%s %s: %s", exchange.method, exchange.path, error)
        raise Disconnected from error


async def out_of_thread(send: Callable[[bytes], Awaitable[None]], write: Callable[[IO[bytes]], None]) -> None:
    """Runs `write` in a thread of its own and gives `send` what it writes. What either raises is raised, of `send` first."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def run() -> None:
        with os.fdopen(write_end, "wb", buffering=_PIPE_BYTES) as out:
            write(out)

    os.set_blocking(read_end, False)
    fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    worker = in_own_thread(run)
    try:
        try:
            while data := await read_pipe(read_end, _PIPE_BYTES):
                await send(data)
        finally:
            os.close(read_end)
    except BaseException:
        await settle(worker)
        raise
    try:
        await worker
    finally:
        await settle(worker)


class Incoming(Protocol):
    """Bytes that come in: a request's body, an answer."""

    async def read(self) -> bytes:
        """The next ones, b'' at the end."""
        ...


async def in_thread_with_body(body: Incoming, work: Callable[[IO[bytes]], _T], stop: threading.Event | None = None) -> _T:
    """Runs `work` on a stream of the request's body. The body of a client that went away is an error. stop: is set where nobody wants the work."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def run() -> _T:
        with os.fdopen(read_end, "rb", buffering=_PIPE_BYTES) as stream:
            return work(stream)

    os.set_blocking(write_end, False)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    worker = in_own_thread(run)
    try:
        try:
            while data := await body.read():
                await write_pipe(write_end, data)
        except BrokenPipeError:
            pass  # the work has seen enough, or failed: it says which
        finally:
            os.close(write_end)
        return await asyncio.shield(worker)
    except BaseException:
        if stop:
            stop.set()
        raise
    finally:
        await settle(worker)
