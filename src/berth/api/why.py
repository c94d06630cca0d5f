"""The endpoint that Docker lacks: why a container ended or would not start."""

from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route


class Why:
    """One handler."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [("GET", "/containers/{id...}/why", self.why)]

    async def why(self, exchange: Exchange) -> None:
        exchange.respond(200, await self._engine.why.of(exchange.parameters["id"]))
