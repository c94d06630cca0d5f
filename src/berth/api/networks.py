"""Network endpoints."""

from typing import Any

from berth import errors
from berth.api import compat, shapes
from berth.api.request import parse_filters
from berth.engine.nets import payload as netpayload
from berth.engine.nets.networks import NetworkService
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route


class Networks:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _networks(self) -> NetworkService:
        return self._engine.networks

    def routes(self) -> list[Route]:
        return [
            ("GET", "/networks", self.list), ("POST", "/networks/create", self.create), ("POST", "/networks/prune", self.prune),
            ("GET", "/networks/{id}", self.inspect), ("DELETE", "/networks/{id}", self.remove),
            ("POST", "/networks/{id}/connect", self.connect), ("POST", "/networks/{id}/disconnect", self.disconnect),
        ]  # fmt: skip

    async def list(self, exchange: Exchange) -> None:
        found = self._networks.listed(parse_filters(exchange.query.get("filters", "")), containers=compat.before(exchange.version, 28))
        exchange.respond(200, [compat.network(exchange.version, entry) for entry in found])

    async def inspect(self, exchange: Exchange) -> None:
        if not exchange.parameters["id"]:  # `/networks/` is another name of the list
            await self.list(exchange)
            return
        scope = exchange.query.get("scope", "")
        if scope not in ("", "local"):
            raise errors.NotFound(f"network {exchange.parameters['id']} not found")
        network = self._networks.store.find(exchange.parameters["id"])
        exchange.respond(200, compat.network(exchange.version, self._networks.inspect(network)))

    async def create(self, exchange: Exchange) -> None:
        body = shapes.shaped(await exchange.json(), shapes.NETWORK_CREATE)
        compat.adjust_network(exchange.version, body)
        network, warnings = await self._networks.create(netpayload.network_create(body))
        exchange.respond(201, {"Id": network.id, "Warning": "; ".join(warnings)})

    async def remove(self, exchange: Exchange) -> None:
        await self._networks.remove(self._networks.store.find(exchange.parameters["id"]))
        exchange.respond(204)

    async def connect(self, exchange: Exchange) -> None:
        body: dict[str, Any] = shapes.shaped(await exchange.json(), shapes.NETWORK_CONNECT)
        network = self._networks.store.find(exchange.parameters["id"])
        request = netpayload.connect(body, network.name)
        container = self._engine.containers.find(request.container)
        await self._networks.connect(network, container, body.get("EndpointConfig") or {})
        exchange.respond(200)

    async def disconnect(self, exchange: Exchange) -> None:
        request = netpayload.disconnect(shapes.shaped(await exchange.json(), shapes.NETWORK_DISCONNECT))
        container = self._engine.containers.find(request.container)
        await self._networks.disconnect(exchange.parameters["id"], container, force=request.force)
        exchange.respond(200)

    async def prune(self, exchange: Exchange) -> None:
        removed = await self._networks.prune(parse_filters(exchange.query.get("filters", "")))
        exchange.respond(200, {"NetworksDeleted": removed or None})
