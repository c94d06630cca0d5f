"""Exec endpoints: create, start with its streams, resize, inspect."""

import asyncio

from berth import errors
from berth.api import shapes, streams
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route
from berth.runtime import frames


class Execs:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("POST", "/containers/{id...}/exec", self.exec_create),
            ("POST", "/exec/{id...}/start", self.exec_start), ("POST", "/exec/{id...}/resize", self.exec_resize),
            ("GET", "/exec/{id...}/json", self.exec_inspect),
        ]  # fmt: skip

    async def exec_create(self, exchange: Exchange) -> None:
        config = shapes.shaped(await exchange.json(), shapes.EXEC_CREATE)
        if not config.get("Cmd"):
            raise errors.InvalidParameter("No exec command specified")
        if not streams.is_at_least(exchange, 42):
            config.pop("ConsoleSize", None)
        container = self._engine.containers.find(exchange.parameters["id"])
        streams.parse_detach_keys(config.get("DetachKeys") or "", "escape keys")
        exec_ = self._engine.execs.create(container, config)
        exchange.respond(201, {"Id": exec_.id})

    async def exec_start(self, exchange: Exchange) -> None:
        request = shapes.shaped(await exchange.json(), shapes.EXEC_START)
        exec_ = self._engine.execs.find(exchange.parameters["id"])
        if not streams.is_at_least(exchange, 42):
            request.pop("ConsoleSize", None)
        config = exec_.config
        size = request.get("ConsoleSize") or config.get("ConsoleSize") or [0, 0]
        if len(size) != 2 or not all(0 <= number < 1 << 16 for number in size):
            raise errors.InvalidParameter(f"ConsoleSize: {size} is not [ROWS, COLUMNS]")
        wants = frames.WANT_STDIN if config.get("AttachStdin") else 0
        wants |= frames.WANT_STDOUT if config.get("AttachStdout") else 0
        wants |= frames.WANT_STDERR if config.get("AttachStderr") else 0
        detach = bool(request.get("Detach"))
        tty = bool(config.get("Tty"))
        content_type = streams.content_type(exchange, tty)
        keys = streams.parse_detach_keys(config.get("DetachKeys") or "")
        self._engine.execs.check_startable(exec_)
        # The head goes out before anything is started: docker-py loses output that comes in one piece with it.
        client = exchange.hijack(content_type) if not detach and "upgrade" in exchange.headers else None
        try:
            monitor = await self._engine.execs.start(exec_, 0 if detach else wants, (size[0], size[1]))
        except errors.BerthError as error:
            if client is None:
                raise
            # A client that asked for a stream gets the reason there, and the exit code when it inspects.
            text = f"{error}\r\n".encode()
            await client.write(text if tty else streams.multiplexed("stdout", text))
            client.close()
            return
        if detach:
            monitor.close()
            exchange.respond(200)
            return
        client = client or exchange.hijack(content_type)
        stdin = bool(config.get("AttachStdin"))
        if await streams.relay(client, monitor, stdin=stdin, close_stdin=True, multiplex=not tty, detach_keys=keys if tty else b""):
            self._engine.execs.publish(exec_, "exec_detach")

    async def exec_resize(self, exchange: Exchange) -> None:
        rows, columns = exchange.size("h", "height"), exchange.size("w", "width")
        await self._engine.execs.resize(self._engine.execs.find(exchange.parameters["id"]), rows, columns)
        exchange.respond(200)

    async def exec_inspect(self, exchange: Exchange) -> None:
        exec_ = self._engine.execs.find(exchange.parameters["id"])
        if exec_.exit_code is None and exec_.running and exec_.control is not None:
            # The streams end with the program; its status may be one frame behind them.
            try:
                await asyncio.wait_for(exec_.ended.wait(), 0.05)
            except TimeoutError:
                pass
        exchange.respond(200, self._engine.execs.inspect(exec_))
