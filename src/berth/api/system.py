"""System endpoints: ping, version, info, events, and what volumes there are."""

import asyncio
import time

from berth import errors
from berth.api import compat
from berth.api.request import parse_filters
from berth.engine import events
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route


class System:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("GET", "/_ping", self.ping), ("HEAD", "/_ping", self.ping),
            ("GET", "/version", self.version), ("GET", "/info", self.info), ("GET", "/events", self.events),
        ]  # fmt: skip

    async def ping(self, exchange: Exchange) -> None:
        exchange.respond_text(200, "OK", {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Swarm": "inactive"})

    async def version(self, exchange: Exchange) -> None:
        exchange.respond(200, self._engine.version())

    async def info(self, exchange: Exchange) -> None:
        exchange.respond(200, compat.info(exchange.version, self._engine.info()))

    async def events(self, exchange: Exchange) -> None:
        filters = parse_filters(exchange.query.get("filters", ""))
        now_ns = time.time_ns()
        since_ns, until_ns = (events.moment_ns(exchange.query.get(name, ""), name, now_ns) for name in ("since", "until"))
        if since_ns and until_ns and since_ns > until_ns:
            raise errors.InvalidParameter(
                f"`since` time ({since_ns // 1_000_000_000}) cannot be after `until` time ({until_ns // 1_000_000_000})"
            )
        bus = self._engine.events
        listener = bus.listen()  # before the past is read: nothing falls between
        try:
            exchange.start_stream("application/json")
            for event in bus.past(since_ns, until_ns):
                if events.event_matches(event, filters):
                    await exchange.send_json(event)
            async with asyncio.timeout(max(0.0, (until_ns - time.time_ns()) / 1e9) if until_ns else None):
                while (item := await listener.next()) is not None:
                    if events.event_matches(item, filters):
                        await exchange.send_json(item)
        except TimeoutError:
            pass
        finally:
            bus.forget(listener)
        exchange.end_stream()
