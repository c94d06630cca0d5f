"""Endpoints about what containers and images use, and giving it back: top, stats, system df, prune."""

import json

from berth import errors
from berth.api import compat
from berth.api.request import parse_filters
from berth.api.streams import is_at_least
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route

_KINDS = ("container", "image", "volume", "build-cache")


class UsageEndpoints:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("GET", "/containers/{id...}/top", self.top), ("GET", "/containers/{id...}/stats", self.stats),
            ("GET", "/system/df", self.disk_usage),
            ("POST", "/containers/prune", self.prune_containers), ("POST", "/images/prune", self.prune_images),
            ("POST", "/volumes/prune", self.prune_volumes),
        ]  # fmt: skip

    async def top(self, exchange: Exchange) -> None:
        container = self._engine.containers.find(exchange.parameters["id"])
        exchange.respond(200, await self._engine.usage.top(container, exchange.query.get("ps_args", "")))

    async def stats(self, exchange: Exchange) -> None:
        container = self._engine.containers.find(exchange.parameters["id"])
        if not exchange.flag("stream", True):
            exchange.respond(200, await self._engine.usage.once(container, primed=not (exchange.flag("one-shot") and is_at_least(exchange, 41))))
            return
        exchange.start_stream("application/json")
        async for sample in self._engine.usage.stream(container):
            await exchange.send(json.dumps(sample).encode() + b"\n")
        exchange.end_stream()

    async def disk_usage(self, exchange: Exchange) -> None:
        kinds = set(exchange.query_lists.get("type", [])) - {""} if is_at_least(exchange, 42) else set()
        for kind in kinds - set(_KINDS):
            raise errors.InvalidParameter(f"unknown object type: {kind}")
        exchange.respond(200, compat.disk_usage(exchange.version, await self._engine.housekeeping.usage(kinds)))

    async def prune_containers(self, exchange: Exchange) -> None:
        removed, reclaimed = await self._engine.housekeeping.prune_containers(_filters(exchange))
        exchange.respond(200, {"ContainersDeleted": removed or None, "SpaceReclaimed": reclaimed})

    async def prune_images(self, exchange: Exchange) -> None:
        removed, reclaimed = await self._engine.housekeeping.prune_images(_filters(exchange))
        exchange.respond(200, {"ImagesDeleted": removed or None, "SpaceReclaimed": reclaimed})

    async def prune_volumes(self, exchange: Exchange) -> None:
        filters = _filters(exchange)
        wanted = filters.pop("all", [])
        everything = not is_at_least(exchange, 42)  # before that, there was no difference
        if wanted and not everything:
            if len(wanted) > 1 or wanted[0] not in ("0", "1", "false", "true"):
                raise errors.InvalidParameter(f"invalid filter 'all={wanted}'")
            everything = wanted[0] in ("1", "true")
        elif wanted:
            raise errors.InvalidParameter("invalid filter 'all'")
        removed, reclaimed = await self._engine.housekeeping.prune_volumes(filters, everything=everything)
        exchange.respond(200, {"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})


def _filters(exchange: Exchange) -> dict[str, list[str]]:
    return parse_filters(exchange.query.get("filters", ""))
