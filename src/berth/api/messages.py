"""Docker's streams of JSON messages: what a pull, push, load or import says as it goes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import IO

from berth import errors
from berth.api.threads import in_thread_with_body
from berth.engine.feed import Feed
from berth.http.body import Disconnected
from berth.http.exchange import Exchange

Put = Callable[[dict], None]


async def tell(exchange: Exchange, messages: AsyncIterator[dict]) -> None:
    """Sends a transfer's messages. What goes wrong before the first is the answer; later it is a message of its own."""
    try:
        async with contextlib.aclosing(messages) as told:  # type: ignore[type-var]
            async for message in told:
                if not exchange.streaming:
                    exchange.start_stream("application/json")
                await exchange.send_json(message)
    except errors.BerthError as error:
        if not exchange.streaming:
            raise
        await exchange.send_json({"errorDetail": {"message": str(error)}, "error": str(error)})
    if not exchange.streaming:
        exchange.start_stream("application/json")
    exchange.end_stream()


async def tell_of_body(exchange: Exchange, work: Callable[[IO[bytes], Put], Callable[[], list[dict]]]) -> None:
    """Runs `work` in a thread on the request's body, and sends what it puts while the body still comes.

    work: returns what makes the last messages, here in the loop.
    """
    feed = Feed(asyncio.get_running_loop())

    async def feeding() -> None:
        try:
            finish = await in_thread_with_body(exchange.body, lambda stream: work(stream, feed.put))
            for message in finish():
                feed.put(message)
            feed.end()
        except (errors.BerthError, OSError, Disconnected) as error:
            feed.end(error)

    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(feeding())
        try:
            await tell(exchange, feed.messages())
        except (errors.BerthError, OSError, Disconnected) as error:
            failure = error  # not out of the group, which would wrap it
            task.cancel()
    if failure:
        raise failure
