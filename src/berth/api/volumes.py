"""Volume endpoints."""

from typing import Any

from berth import errors
from berth.api import shapes
from berth.api.request import parse_filters
from berth.engine import volumelist, volumerecord
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route

_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'
)


class Volumes:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("GET", "/volumes", self.list), ("POST", "/volumes/create", self.create), ("GET", "/volumes/{name...}", self.inspect),
            ("PUT", "/volumes/{name...}", self.update), ("DELETE", "/volumes/{name...}", self.remove),
        ]  # fmt: skip

    async def list(self, exchange: Exchange) -> None:
        filters = parse_filters(exchange.query.get("filters", ""))
        passes = volumelist.chooser(filters, lambda name: bool(self._engine.containers.users_of_volume(name)))
        found = [self._payload(volume.record) for volume in self._engine.volumes.all() if passes(volume.record)]
        exchange.respond(200, {"Volumes": found, "Warnings": None})

    async def create(self, exchange: Exchange) -> None:
        body: dict[str, Any] = shapes.shaped(await exchange.json(), shapes.VOLUME_CREATE)
        if body.get("ClusterVolumeSpec") is not None:
            raise errors.Unavailable(_NO_MANAGER)
        volume = await self._engine.volumes.create(
            body.get("Name") or "", body.get("Driver") or "", body.get("Labels") or {}, body.get("DriverOpts") or {}
        )
        exchange.respond(201, self._payload(volume.record))

    async def inspect(self, exchange: Exchange) -> None:
        exchange.respond(200, self._payload(self._engine.volumes.find(exchange.parameters["name"]).record))

    async def update(self, exchange: Exchange) -> None:
        """Only volumes of a cluster have anything that can be changed."""
        raise errors.Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def remove(self, exchange: Exchange) -> None:
        try:
            await self._engine.volumes.remove(exchange.parameters["name"])
        except errors.NotFound:
            if not exchange.flag("force"):
                raise
        exchange.respond(204)

    def _payload(self, record: volumerecord.VolumeRecord) -> dict[str, Any]:
        return volumerecord.payload(record, self._engine.volumes.mountpoint(record.name))
