"""Endpoints about what containers use: top, stats."""

import json

from berth.api.http1 import Exchange
from berth.api.request import Route
from berth.engine.service import Engine


class UsageEndpoints:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [("GET", "/containers/{id}/top", self.top), ("GET", "/containers/{id}/stats", self.stats)]

    async def top(self, exchange: Exchange) -> None:
        container = self._engine.containers.find(exchange.parameters["id"])
        exchange.respond(200, await self._engine.usage.top(container, exchange.query.get("ps_args", "")))

    async def stats(self, exchange: Exchange) -> None:
        container = self._engine.containers.find(exchange.parameters["id"])
        if not exchange.flag("stream", True):
            exchange.respond(200, await self._engine.usage.once(container, primed=not exchange.flag("one-shot")))
            return
        exchange.start_stream("application/json")
        async for sample in self._engine.usage.stream(container):
            await exchange.send(json.dumps(sample).encode() + b"\n")
        exchange.end_stream()
