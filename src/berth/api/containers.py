"""Container endpoints: life, list, inspect, attach, logs."""

import asyncio
import json
from collections.abc import Callable
from functools import partial

from berth import errors
from berth.api import compat, shapes, streams
from berth.api.request import parse_filters
from berth.engine import listing, logconfig, logs
from berth.engine.config import with_defaults
from berth.engine.containers import Container
from berth.engine.prune import tree_bytes
from berth.engine.service import Engine
from berth.http import websocket
from berth.http.exchange import Exchange
from berth.http.routing import Route
from berth.oci import platforms
from berth.runtime import frames

_NO_HOST_CONFIG_BYTES = 8  # what is shorter is no object with anything in it


class Containers:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("POST", "/containers/create", self.container_create), ("GET", "/containers/json", self.container_list),
            ("GET", "/containers/{id...}/json", self.container_inspect),
            ("POST", "/containers/{id...}/start", self.container_start),
            ("POST", "/containers/{id...}/stop", self.container_stop),
            ("POST", "/containers/{id...}/restart", self.container_restart),
            ("POST", "/containers/{id...}/kill", self.container_kill),
            ("POST", "/containers/{id...}/pause", self.container_pause),
            ("POST", "/containers/{id...}/unpause", self.container_unpause),
            ("POST", "/containers/{id...}/rename", self.container_rename),
            ("POST", "/containers/{id...}/update", self.container_update),
            ("POST", "/containers/{id...}/wait", self.container_wait),
            ("POST", "/containers/{id...}/attach", self.container_attach),
            ("GET", "/containers/{id...}/attach/ws", self.container_attach_websocket),
            ("POST", "/containers/{id...}/resize", self.container_resize),
            ("GET", "/containers/{id...}/logs", self.container_logs),
            ("DELETE", "/containers/{id...}", self.container_remove),
        ]

    def _container(self, exchange: Exchange) -> Container:
        return self._engine.containers.find(exchange.parameters["id"])

    async def container_create(self, exchange: Exchange) -> None:
        config = shapes.shaped(await exchange.json(), shapes.CREATE)
        host, networks = config.get("HostConfig") or {}, (config.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        compat.adjust_create(exchange.version, config, host, networks, has_v1=self._engine.host.hosts.version == 1)
        host = with_defaults(host, self._engine.options.container_defaults)
        text = "" if compat.before(exchange.version, 41) else exchange.query.get("platform", "")
        container, warnings = await self._engine.containers.create(
            exchange.query.get("name", ""), config, host, networks, platform=platforms.parse(text) if text else None
        )
        exchange.respond(201, {"Id": container.record.id, "Warnings": warnings})

    async def container_list(self, exchange: Exchange) -> None:
        service = self._engine.containers
        filters = parse_filters(exchange.query.get("filters", ""))
        listing.check(filters)
        limit = exchange.number("limit")
        everything = exchange.flag("all") or bool(limit and limit > 0) or "status" in filters
        found = [c for c in service.all() if everything or c.record.active]
        if filters:
            passes = listing.chooser(filters, lambda name: service.find(name).record.created_ns)
            found = [c for c in found if passes(c.record)]
        if limit and limit > 0:
            found = found[:limit]
        if not exchange.flag("size"):
            exchange.respond_json(service.list_json(found, exchange.version))
            return
        payloads = [service.summary(c) for c in found]
        for payload, container in zip(payloads, found, strict=True):
            image = self._engine.images.find(container.record.image_id)
            size = await asyncio.to_thread(tree_bytes, f"{service.directory(container)}/upper")
            payload |= {**({"SizeRw": size} if size else {}), "SizeRootFs": size + self._engine.images.size_bytes(image)}
        exchange.respond(200, payloads)

    async def container_inspect(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        if not exchange.flag("size"):
            shaped = partial(compat.container, exchange.version)
            exchange.respond_json(self._engine.containers.inspect_json(container, exchange.version, shaped))
            return
        payload = compat.container(exchange.version, self._engine.containers.inspect(container))
        image = self._engine.images.find(container.record.image_id)
        size = await asyncio.to_thread(tree_bytes, f"{self._engine.containers.directory(container)}/upper")
        exchange.respond(200, payload | {"SizeRw": size, "SizeRootFs": size + self._engine.images.size_bytes(image)})

    async def container_start(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        if streams.is_at_least(exchange, 24) and not exchange.body.is_shorter_than(_NO_HOST_CONFIG_BYTES, exchange.headers):
            raise errors.InvalidParameter(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
            )
        await self._engine.containers.start(container)
        exchange.respond(204)

    async def container_stop(self, exchange: Exchange) -> None:
        await self._engine.containers.stop(self._container(exchange), exchange.number("t"), _stop_signal(exchange))
        exchange.respond(204)

    async def container_restart(self, exchange: Exchange) -> None:
        await self._engine.containers.restart(
            self._container(exchange), exchange.number("t"), _stop_signal(exchange), called=exchange.parameters["id"]
        )  # fmt: skip
        exchange.respond(204)

    async def container_kill(self, exchange: Exchange) -> None:
        try:
            await self._engine.containers.kill(self._container(exchange), exchange.query.get("signal", ""))
        except (errors.Conflict, errors.NotFound) as error:
            raise type(error)(f"cannot kill container: {exchange.parameters['id']}: {error}") from None
        exchange.respond(204)

    async def container_pause(self, exchange: Exchange) -> None:
        await self._engine.containers.pause(self._container(exchange))
        exchange.respond(204)

    async def container_unpause(self, exchange: Exchange) -> None:
        await self._engine.containers.unpause(self._container(exchange))
        exchange.respond(204)

    async def container_rename(self, exchange: Exchange) -> None:
        name = exchange.query.get("name", "")
        if not name:
            raise errors.InvalidParameter("Neither old nor new names may be empty")
        await self._engine.containers.rename(self._container(exchange), name)
        exchange.respond(204)

    async def container_update(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        warnings = await self._engine.containers.update(container, shapes.shaped(await exchange.json(), shapes.UPDATE))
        exchange.respond(200, {"Warnings": warnings or None})

    async def container_remove(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        if exchange.flag("link"):
            raise errors.Conflict("Conflict, cannot remove the default link name of the container")
        await self._engine.containers.remove(container, force=exchange.flag("force"), volumes=exchange.flag("v"))
        exchange.respond(204)

    async def container_wait(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        knows_conditions = streams.is_at_least(exchange, 30)
        condition = exchange.query.get("condition", "") if knows_conditions else ""
        future = self._engine.containers.wait_registered(container, condition)
        if knows_conditions:
            # The head goes out at once: Docker's clients take it as "the wait is in place" before they start.
            exchange.start_stream("application/json")
            code = await future
        else:
            code = await future
            exchange.start_stream("application/json")
        await exchange.send_json({"StatusCode": code, **({"Error": {"Message": e}} if (e := _wait_error(container)) else {})})
        exchange.end_stream()

    async def container_attach(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        tty = bool(container.record.config.get("Tty"))

        def take_over() -> streams.Client:
            return exchange.hijack(streams.content_type(exchange, tty))

        await self._attach(exchange, container, take_over, multiplex=not tty)

    async def container_attach_websocket(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        self._engine.containers.check_attachable(container, exchange.parameters["id"])
        websocket.accept_key(exchange.headers)
        if not streams.is_at_least(exchange, 42):  # older clients get all there is
            exchange.query |= {"stdin": "1", "stdout": "1", "stderr": "1"}
        opcode = websocket.BINARY if streams.is_at_least(exchange, 28) else websocket.TEXT
        await self._attach(exchange, container, lambda: websocket.upgrade(exchange, opcode), multiplex=False)

    async def _attach(
        self, exchange: Exchange, container: Container, take_over: Callable[[], streams.Client], *, multiplex: bool
    ) -> None:
        """History, stream or both, as the query says, over what `take_over` makes of the connection."""
        config = container.record.config
        keys = streams.parse_detach_keys(exchange.query.get("detachKeys", ""))
        stdin = exchange.flag("stdin") and bool(config.get("OpenStdin"))
        wants = frames.WANT_STDIN if stdin else 0
        wants |= frames.WANT_STDOUT if exchange.flag("stdout") else 0
        wants |= frames.WANT_STDERR if exchange.flag("stderr") else 0
        form = streams.LogForm(_chosen(exchange), tty=not multiplex)
        service = self._engine.containers
        service.check_attachable(container, exchange.parameters["id"])
        history, monitor = None, None
        if exchange.flag("logs") and exchange.flag("stream"):
            history, monitor = await service.attach_with_history(container, wants, form)
        elif exchange.flag("logs"):
            history = service.history(container, form)
        elif exchange.flag("stream"):
            monitor = await service.attach(container, wants)
        try:
            client = take_over()
            if history:
                async for data in history:
                    await client.write(data)
        except BaseException:
            if monitor:
                monitor.close()
            raise
        finally:
            if history:
                history.close()
        if monitor is None:
            client.close()
            return
        if await streams.relay(
            client, monitor, stdin=stdin, close_stdin=bool(config.get("StdinOnce")), multiplex=multiplex,
            detach_keys=keys if config.get("Tty") else b"",
        ):  # fmt: skip
            service.publish(container, "detach")

    async def container_resize(self, exchange: Exchange) -> None:
        rows, columns = exchange.size("h", "height"), exchange.size("w", "width")
        await self._engine.containers.resize(self._container(exchange), rows, columns)
        exchange.respond(200)

    async def container_logs(self, exchange: Exchange) -> None:
        chosen = _chosen(exchange)
        if not chosen:
            raise errors.InvalidParameter("Bad parameters: you must choose at least one stream")
        container = self._container(exchange)
        tail_text = exchange.query.get("tail", "all") or "all"
        wanted = logs.Wanted(
            tail=int(tail_text) if tail_text.isascii() and tail_text.isdigit() and len(tail_text) < 20 else None,
            since_ns=logs.parse_time_ns(exchange.query.get("since", "")),
            until_ns=logs.parse_time_ns(exchange.query.get("until", "")), follow=exchange.flag("follow"),
        )  # fmt: skip
        tty = bool(container.record.config.get("Tty"))
        form = streams.LogForm(
            chosen, tty=tty, timestamps=exchange.flag("timestamps"), details=exchange.flag("details"),
            attrs=json.dumps(logconfig.attributes(container.record)),
        )  # fmt: skip
        pieces = await self._engine.containers.logs(container, wanted, form)
        try:
            exchange.start_stream(streams.content_type(exchange, tty))
            async for data in pieces:
                await exchange.send(data)
        finally:
            pieces.close()
        exchange.end_stream()


def _stop_signal(exchange: Exchange) -> str:
    return exchange.query.get("signal", "") if streams.is_at_least(exchange, 42) else ""


def _chosen(exchange: Exchange) -> set[str]:
    return {name for name in ("stdout", "stderr") if exchange.flag(name)}


def _wait_error(container: Container) -> str:
    return container.record.error if container.record.error and container.record.status != "exited" else ""
