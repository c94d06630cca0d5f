"""System endpoints: ping, version, info, events, and what networks and volumes there are."""

import asyncio
import time
from typing import Any

from berth import errors
from berth.api.http1 import Exchange
from berth.api.request import Route, parse_filters
from berth.engine import views
from berth.engine.logs import parse_time
from berth.engine.service import Engine


class System:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("GET", "/_ping", self.ping), ("HEAD", "/_ping", self.ping),
            ("GET", "/version", self.version), ("GET", "/info", self.info), ("GET", "/events", self.events),
            ("GET", "/networks", self.networks), ("GET", "/networks/{name}", self.network_inspect),
            ("GET", "/volumes", self.volumes),
        ]  # fmt: skip

    async def ping(self, exchange: Exchange) -> None:
        exchange.respond_text(200, "OK", {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"})

    async def version(self, exchange: Exchange) -> None:
        exchange.respond(200, self._engine.version())

    async def info(self, exchange: Exchange) -> None:
        exchange.respond(200, self._engine.info())

    async def networks(self, exchange: Exchange) -> None:
        exchange.respond(200, [_network(name) for name in ("host", "none")])

    async def network_inspect(self, exchange: Exchange) -> None:
        name = exchange.parameters["name"]
        if name not in ("host", "none"):
            raise errors.NotFound(f"network {name} not found")
        exchange.respond(200, _network(name))

    async def volumes(self, exchange: Exchange) -> None:
        exchange.respond(200, {"Volumes": [], "Warnings": None})

    async def events(self, exchange: Exchange) -> None:
        filters = parse_filters(exchange.query.get("filters", ""))
        bus = self._engine.events
        queue = bus.listen()
        until_s = parse_time(exchange.query.get("until", ""))
        since_s = parse_time(exchange.query.get("since", ""))
        exchange.start_stream("application/json")
        try:
            for event in [e for e in bus.history if since_s and e["timeNano"] / 1e9 >= since_s]:
                if event_matches(event, filters):
                    await exchange.send_json(event)
            async with asyncio.timeout(max(0.0, until_s - _now_s()) if until_s else None):
                while (item := await queue.get()) is not None:
                    if event_matches(item, filters):
                        await exchange.send_json(item)
        except TimeoutError:
            pass
        finally:
            bus.forget(queue)
        exchange.end_stream()


def event_matches(event: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    """Docker's event filters: any value of a key, every key."""
    attributes = event["Actor"]["Attributes"]
    for key, values in filters.items():
        if key in ("container", "image"):
            have = {event["Actor"]["ID"], attributes.get("name", "")} | ({attributes.get("image", "")} if key == "image" else set())
            good = any(v in have or event["Actor"]["ID"].startswith(v) for v in values)
            if key == "container" and event["Type"] != "container":
                good = False
        elif key == "event":
            good = any(event["Action"] == v or event["Action"].startswith(f"{v}:") for v in values)
        elif key == "type":
            good = event["Type"] in values
        elif key == "label":
            good = all((attributes.get(v.partition("=")[0]) == v.partition("=")[2]) if "=" in v else v in attributes for v in values)
        elif key == "scope":
            good = "local" in values
        else:
            good = True
        if not good:
            return False
    return True


def _network(name: str) -> dict[str, Any]:
    return {
        "Name": name, "Id": name, "Created": views.ZERO_TIME, "Scope": "local", "Driver": {"none": "null"}.get(name, name),
        "EnableIPv6": False, "IPAM": {"Driver": "default", "Options": None, "Config": []}, "Internal": False,
        "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False, "Containers": {},
        "Options": {}, "Labels": {},
    }  # fmt: skip


def _now_s() -> float:
    return time.time()
