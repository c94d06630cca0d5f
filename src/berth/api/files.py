"""Endpoints for files of a container: archive out and in, changes, export, commit."""

import base64
import json

from berth import errors
from berth.api import shapes
from berth.api.changes import apply_changes
from berth.api.threads import in_thread_with_body, send_written
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route

_STAT = "X-Docker-Container-Path-Stat"


class Files:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("HEAD", "/containers/{id...}/archive", self.archive_stat), ("GET", "/containers/{id...}/archive", self.archive_get),
            ("PUT", "/containers/{id...}/archive", self.archive_put), ("GET", "/containers/{id...}/changes", self.changes),
            ("GET", "/containers/{id...}/export", self.export), ("POST", "/commit", self.commit),
        ]  # fmt: skip

    async def archive_stat(self, exchange: Exchange) -> None:
        name, path = exchange.parameters["id"], _path(exchange)
        found = await self._engine.archives.stat(self._engine.containers.find(name), name, path)
        exchange.respond(200, headers={_STAT: _encoded(found)})

    async def archive_get(self, exchange: Exchange) -> None:
        name, path = exchange.parameters["id"], _path(exchange)
        container = self._engine.containers.find(name)
        async with self._engine.archives.read(container, name, path) as (found, write):
            self._engine.containers.publish(container, "archive-path")
            exchange.start_stream("application/x-tar", headers={_STAT: _encoded(found)})
            await send_written(exchange, write)
        exchange.end_stream()

    async def archive_put(self, exchange: Exchange) -> None:
        name, path = exchange.parameters["id"], _path(exchange)
        container = self._engine.containers.find(name)
        keep, copy_ids = exchange.flag("noOverwriteDirNonDir"), exchange.flag("copyUIDGID")
        async with self._engine.archives.extract(container, name, path, keep_kinds=keep, copy_ids=copy_ids) as unpack:
            if not exchange.body.is_shorter_than(1, exchange.headers):  # an empty body is an archive of nothing
                await in_thread_with_body(exchange.body, unpack)
        self._engine.containers.publish(container, "extract-to-dir")
        exchange.respond(200)

    async def changes(self, exchange: Exchange) -> None:
        found = await self._engine.commits.changes(self._engine.containers.find(exchange.parameters["id"]))
        exchange.respond_json(json.dumps([{"Path": path, "Kind": kind} for path, kind in found] or None).encode())

    async def export(self, exchange: Exchange) -> None:
        container = self._engine.containers.find(exchange.parameters["id"])
        async with self._engine.commits.export(container) as write:
            self._engine.containers.publish(container, "export")
            exchange.start_stream("application/octet-stream")
            await send_written(exchange, write)
        exchange.end_stream()

    async def commit(self, exchange: Exchange) -> None:
        query = exchange.query
        config = shapes.shaped(await exchange.json(), shapes.CONFIG)
        container = self._engine.containers.find(query.get("container", ""))
        changed = apply_changes([line for text in exchange.query_lists.get("changes", []) for line in text.split("\n") if line.strip()])
        if "Env" in changed:
            given = [item.partition("=")[0] for item in changed["Env"]]
            changed["Env"] += [item for item in config.get("Env") or [] if item.partition("=")[0] not in given]
        if "Labels" in changed:
            changed["Labels"] = {**(config.get("Labels") or {}), **changed["Labels"]}
        repository, tag = query.get("repo", ""), query.get("tag", "")
        name = f"{repository}:{tag}" if repository and tag else repository
        image = await self._engine.commits.commit(
            container, name, config={**config, **changed}, author=query.get("author", ""), comment=query.get("comment", ""),
            pause=exchange.flag("pause", True),
        )  # fmt: skip
        exchange.respond(201, {"Id": image.id})


def _path(exchange: Exchange) -> str:
    path = exchange.file_path("path")
    if not path:
        raise errors.InvalidParameter("bad parameter: path cannot be empty")
    if "\0" in path:
        raise errors.InvalidParameter(f"bad parameter: path {path!r} has a NUL byte in it")
    return path


def _encoded(found: dict) -> str:
    return base64.b64encode(json.dumps(found, separators=(",", ":")).encode()).decode()
