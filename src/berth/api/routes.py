"""URL -> service call -> JSON: the Docker Engine API as far as berth serves it.

A handler is a coroutine of one exchange; `ROUTES` names every one once. Kinds of errors become HTTP
status codes in `status_of`, and nowhere else.
"""

import asyncio
import fnmatch
import json
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from berth import API_VERSION, MIN_API_VERSION, errors
from berth.api import streams
from berth.api.http1 import Body, Disconnected, Exchange, Handler
from berth.engine import views
from berth.engine.containers import Container
from berth.engine.logs import parse_time
from berth.engine.service import Engine
from berth.linux import libc
from berth.oci import reference
from berth.runtime import frames

log = logging.getLogger("berth.api")

_STATUS: list[tuple[type[errors.BerthError], int]] = [
    (errors.NotFound, 404), (errors.CommandNotFound, 400), (errors.CommandNotExecutable, 400),
    (errors.InvalidParameter, 400), (errors.Conflict, 409), (errors.NotModified, 304), (errors.Forbidden, 403),
    (errors.NotImplementedHere, 501), (errors.Unavailable, 503), (errors.DataLoss, 400),
]  # fmt: skip


def status_of(error: errors.BerthError) -> int:
    """HTTP status of a kind of error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


class Api:
    """The handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._routes = [(method, pattern.strip("/").split("/"), handler) for method, pattern, handler in self._table()]

    def _table(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/_ping", self.ping), ("HEAD", "/_ping", self.ping),
            ("GET", "/version", self.version), ("GET", "/info", self.info), ("GET", "/events", self.events),
            ("POST", "/containers/create", self.container_create), ("GET", "/containers/json", self.container_list),
            ("GET", "/containers/{id}/json", self.container_inspect),
            ("POST", "/containers/{id}/start", self.container_start),
            ("POST", "/containers/{id}/stop", self.container_stop),
            ("POST", "/containers/{id}/restart", self.container_restart),
            ("POST", "/containers/{id}/kill", self.container_kill),
            ("POST", "/containers/{id}/pause", self.container_pause),
            ("POST", "/containers/{id}/unpause", self.container_unpause),
            ("POST", "/containers/{id}/rename", self.container_rename),
            ("POST", "/containers/{id}/wait", self.container_wait),
            ("POST", "/containers/{id}/attach", self.container_attach),
            ("POST", "/containers/{id}/resize", self.container_resize),
            ("POST", "/containers/{id}/exec", self.exec_create),
            ("GET", "/containers/{id}/logs", self.container_logs),
            ("DELETE", "/containers/{id}", self.container_remove),
            ("POST", "/exec/{id}/start", self.exec_start), ("POST", "/exec/{id}/resize", self.exec_resize),
            ("GET", "/exec/{id}/json", self.exec_inspect),
            ("GET", "/images/json", self.image_list), ("POST", "/images/create", self.image_create),
            ("POST", "/images/load", self.image_load), ("GET", "/images/get", self.image_save),
            ("GET", "/images/{name...}/json", self.image_inspect), ("GET", "/images/{name...}/get", self.image_save),
            ("GET", "/images/{name...}/history", self.image_history),
            ("POST", "/images/{name...}/tag", self.image_tag), ("DELETE", "/images/{name...}", self.image_remove),
            ("GET", "/networks", self.networks), ("GET", "/networks/{name}", self.network_inspect),
            ("GET", "/volumes", self.volumes),
        ]  # fmt: skip

    async def handle(self, exchange: Exchange) -> None:
        """Dispatches one request and turns what is raised into a response."""
        try:
            handler = self._resolve(exchange)
            await handler(exchange)
        except errors.BerthError as error:
            log.info("%s %s: %s", exchange.method, exchange.path, error)
            if exchange.responded:
                raise Disconnected from error
            exchange.respond(status_of(error), None if isinstance(error, errors.NotModified) else {"message": str(error)})
        except (OSError, Disconnected) as error:
            if exchange.responded or isinstance(error, Disconnected):
                raise Disconnected from error
            exchange.respond(500, {"message": str(error)})
        except Exception:
            log.exception("%s %s", exchange.method, exchange.path)
            if exchange.responded:
                raise
            exchange.respond(500, {"message": "the engine made a mistake; its log has the details"})

    def _resolve(self, exchange: Exchange) -> Handler:
        parts = exchange.path.strip("/").split("/")
        if parts[0].startswith("v1.") and parts[0].isascii() and parts[0][3:].isdigit() and len(parts[0]) < 8:
            exchange.version = parts.pop(0)[1:]
            if int(exchange.version[2:]) > int(API_VERSION[2:]):
                raise errors.InvalidParameter(
                    f"client version {exchange.version} is too new. Maximum supported API version is {API_VERSION}"
                )
            if int(exchange.version[2:]) < int(MIN_API_VERSION[2:]):
                raise errors.InvalidParameter(
                    f"client version {exchange.version} is too old. Minimum supported API version is {MIN_API_VERSION}, "
                    "please upgrade your client to a newer version"
                )
        allowed = False
        for method, pattern, handler in self._routes:
            found = match(pattern, parts)
            if found is not None:
                if method == exchange.method:
                    exchange.parameters = found
                    return handler
                allowed = True
        if allowed:
            raise errors.NotFound(f"{exchange.method} is not allowed for {exchange.path}")
        raise errors.NotFound("page not found")

    def _container(self, exchange: Exchange) -> Container:
        return self._engine.containers.find(exchange.parameters["id"])

    # -- system -------------------------------------------------------------------------------------

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

    # -- containers ---------------------------------------------------------------------------------

    async def container_create(self, exchange: Exchange) -> None:
        config = await exchange.json()
        host = config.get("HostConfig") or {}
        if not isinstance(host, dict):
            raise errors.InvalidParameter("HostConfig: expected an object")
        host = {key: value for key, value in host.items() if value is not None}
        networks = (config.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        for name in networks:
            if name not in ("default", "none", "host", host.get("NetworkMode")):
                raise errors.NotImplementedHere(f"network {name!r}: this version of berth has the networks none and host")
        container, warnings = await self._engine.containers.create(exchange.query.get("name", ""), config, host)
        exchange.respond(201, {"Id": container.record.id, "Warnings": warnings})

    async def container_list(self, exchange: Exchange) -> None:
        service = self._engine.containers
        filters = parse_filters(exchange.query.get("filters", ""))
        limit = exchange.number("limit")
        everything = exchange.flag("all") or bool(limit and limit > 0) or bool(set(filters) & {"status", "exited"})
        found = [c for c in service.all() if everything or c.record.running]
        found = [c for c in found if self._matches(c, filters)]
        if limit and limit > 0:
            found = found[:limit]
        payloads = [views.summary(c.record, service.image_name(c.record)) for c in found]
        if exchange.flag("size"):
            for payload, container in zip(payloads, found, strict=True):
                image = self._engine.images.find(container.record.image_id)
                size = await asyncio.to_thread(_tree_bytes, f"{service.directory(container)}/upper")
                payload |= {"SizeRw": size, "SizeRootFs": size + self._engine.images.size_bytes(image)}
        exchange.respond(200, payloads)

    def _matches(self, container: Container, filters: dict[str, list[str]]) -> bool:
        record = container.record
        labels = record.config.get("Labels") or {}
        checks: dict[str, Callable[[str], bool]] = {
            "id": lambda v: record.id.startswith(v),
            "name": lambda v: v.lstrip("^/").rstrip("$") == record.name if v.endswith("$") else v.lstrip("^/") in record.name,
            "status": lambda v: record.status == v,
            "exited": lambda v: record.status == "exited" and str(record.exit_code) == v,
            "ancestor": lambda v: record.image_name in (v, f"{v}:latest") or record.image_id.removeprefix("sha256:").startswith(v),
            "label": lambda v: (labels.get(v.partition("=")[0]) == v.partition("=")[2]) if "=" in v else v in labels,
            "network": lambda v: v == ("none" if views.network_mode(record) == "default" else views.network_mode(record)),
            "before": lambda v: record.created_ns < self._engine.containers.find(v).record.created_ns,
            "since": lambda v: record.created_ns > self._engine.containers.find(v).record.created_ns,
            "volume": lambda v: any(v in (m["Source"], m["Destination"]) for m in views.mount_points(record)),
            "health": lambda v: v == "none", "publish": lambda v: False, "expose": lambda v: False,
            "is-task": lambda v: v in ("0", "false"), "isolation": lambda v: v == "default",
        }  # fmt: skip
        for key, values in filters.items():
            if key not in checks:
                raise errors.InvalidParameter(f"invalid filter '{key}'")
            combine = all if key == "label" else any
            if values and not combine(checks[key](value) for value in values):
                return False
        return True

    async def container_inspect(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        payload = self._engine.containers.inspect(container)
        if exchange.flag("size"):
            image = self._engine.images.find(container.record.image_id)
            size = await asyncio.to_thread(_tree_bytes, f"{self._engine.containers.directory(container)}/upper")
            payload |= {"SizeRw": size, "SizeRootFs": size + self._engine.images.size_bytes(image)}
        exchange.respond(200, payload)

    async def container_start(self, exchange: Exchange) -> None:
        await self._engine.containers.start(self._container(exchange))
        exchange.respond(204)

    async def container_stop(self, exchange: Exchange) -> None:
        await self._engine.containers.stop(self._container(exchange), exchange.number("t"), exchange.query.get("signal", ""))
        exchange.respond(204)

    async def container_restart(self, exchange: Exchange) -> None:
        await self._engine.containers.restart(self._container(exchange), exchange.number("t"), exchange.query.get("signal", ""))
        exchange.respond(204)

    async def container_kill(self, exchange: Exchange) -> None:
        await self._engine.containers.kill(self._container(exchange), exchange.query.get("signal", ""))
        exchange.respond(204)

    async def container_pause(self, exchange: Exchange) -> None:
        await self._engine.containers.pause(self._container(exchange))
        exchange.respond(204)

    async def container_unpause(self, exchange: Exchange) -> None:
        await self._engine.containers.unpause(self._container(exchange))
        exchange.respond(204)

    async def container_rename(self, exchange: Exchange) -> None:
        await self._engine.containers.rename(self._container(exchange), exchange.query.get("name", ""))
        exchange.respond(204)

    async def container_remove(self, exchange: Exchange) -> None:
        await self._engine.containers.remove(self._container(exchange), force=exchange.flag("force"))
        exchange.respond(204)

    async def container_wait(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        future = self._engine.containers.wait_registered(container, exchange.query.get("condition", ""))
        # The head goes out at once: Docker's clients take it as "the wait is in place" before they start.
        exchange.start_stream("application/json")
        code = await future
        await exchange.send_json({"StatusCode": code, **({"Error": {"Message": e}} if (e := _wait_error(container)) else {})})
        exchange.end_stream()

    async def container_attach(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        record = container.record
        tty = bool(record.config.get("Tty"))
        keys = streams.parse_detach_keys(exchange.query.get("detachKeys", ""))
        stdin = exchange.flag("stdin") and bool(record.config.get("OpenStdin"))
        wants = frames.WANT_STDIN if stdin else 0
        wants |= frames.WANT_STDOUT if exchange.flag("stdout") else 0
        wants |= frames.WANT_STDERR if exchange.flag("stderr") else 0
        monitor = await self._engine.containers.attach(container, wants) if exchange.flag("stream") else None
        modern = exchange.version and int(exchange.version[2:]) >= 42
        client = exchange.hijack(streams.MULTIPLEXED if modern and not tty else streams.RAW)
        if exchange.flag("logs"):
            logs = self._engine.containers.logs(container, follow=False, tail=None, since_s=0, until_s=0)
            async for stream, data, _ in logs:
                if wants & (frames.WANT_STDERR if stream == "stderr" else frames.WANT_STDOUT):
                    await client.write(data if tty else streams.multiplexed(stream, data))
        if monitor is None:
            client.close()
            return
        once = bool(record.config.get("StdinOnce"))
        await streams.relay(client, monitor, stdin=stdin, close_stdin=once, tty=tty, detach_keys=keys)

    async def container_resize(self, exchange: Exchange) -> None:
        rows, columns = exchange.number("h") or 0, exchange.number("w") or 0
        await self._engine.containers.resize(self._container(exchange), rows, columns)
        exchange.respond(200)

    async def container_logs(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        chosen = {name for name in ("stdout", "stderr") if exchange.flag(name)}
        if not chosen:
            raise errors.InvalidParameter("Bad parameters: you must choose at least one stream")
        tail_text = exchange.query.get("tail", "all") or "all"
        tail = int(tail_text) if tail_text.isdigit() else None
        follow, timestamps = exchange.flag("follow"), exchange.flag("timestamps")
        tty = bool(container.record.config.get("Tty"))
        entries = self._engine.containers.logs(
            container, follow=follow, tail=tail, since_s=parse_time(exchange.query.get("since", "")),
            until_s=parse_time(exchange.query.get("until", "")),
        )  # fmt: skip
        modern = exchange.version and int(exchange.version[2:]) >= 42
        exchange.start_stream(streams.MULTIPLEXED if modern and not tty else streams.RAW)
        batch = bytearray()
        async for stream, data, stamp in entries:
            if stream in chosen:
                data = f"{stamp} ".encode() + data if timestamps else data
                batch += data if tty else streams.multiplexed(stream, data)
            if len(batch) > 32768 or follow:
                await exchange.send(bytes(batch))
                batch.clear()
        await exchange.send(bytes(batch))
        exchange.end_stream()

    # -- exec ---------------------------------------------------------------------------------------

    async def exec_create(self, exchange: Exchange) -> None:
        container = self._container(exchange)
        exec_ = self._engine.execs.create(container, await exchange.json())
        exchange.respond(201, {"Id": exec_.id})

    async def exec_start(self, exchange: Exchange) -> None:
        exec_ = self._engine.execs.find(exchange.parameters["id"])
        request = await exchange.json()
        config = exec_.config
        size = request.get("ConsoleSize") or config.get("ConsoleSize") or [0, 0]
        wants = frames.WANT_STDIN if config.get("AttachStdin") else 0
        wants |= frames.WANT_STDOUT if config.get("AttachStdout") else 0
        wants |= frames.WANT_STDERR if config.get("AttachStderr") else 0
        detach = bool(request.get("Detach"))
        tty = bool(config.get("Tty"))
        modern = exchange.version and int(exchange.version[2:]) >= 42
        content_type = streams.MULTIPLEXED if modern and not tty else streams.RAW
        try:
            monitor = await self._engine.execs.start(exec_, 0 if detach else wants, (size[0], size[1]))
        except errors.StartFailed as error:
            if detach or "upgrade" not in exchange.headers:
                raise
            # A client that asked for a stream gets the reason there, and the exit code when it inspects.
            client = exchange.hijack(content_type)
            text = f"{error}\r\n".encode()
            await client.write(text if tty else streams.multiplexed("stdout", text))
            client.close()
            return
        if detach:
            monitor.close()
            exchange.respond(200)
            return
        client = exchange.hijack(content_type)
        keys = streams.parse_detach_keys(config.get("DetachKeys") or "")
        stdin = bool(config.get("AttachStdin"))
        await streams.relay(client, monitor, stdin=stdin, close_stdin=True, tty=tty, detach_keys=keys)

    async def exec_resize(self, exchange: Exchange) -> None:
        exec_ = self._engine.execs.find(exchange.parameters["id"])
        await self._engine.execs.resize(exec_, exchange.number("h") or 0, exchange.number("w") or 0)
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

    # -- images -------------------------------------------------------------------------------------

    async def image_list(self, exchange: Exchange) -> None:
        images = self._engine.images
        filters = parse_filters(exchange.query.get("filters", ""))
        payloads = []
        for image in images.all():
            labels = (image.config.get("config") or {}).get("Labels") or {}
            names = images.names_of(image.id)
            if filters.get("reference"):
                names = [n for n in names if any(reference_matches(n, pattern) for pattern in filters["reference"])]
                if not names:
                    continue
            if filters.get("dangling"):
                if (filters["dangling"][0] in ("true", "1")) == bool(names):
                    continue
            if not all((labels.get(v.partition("=")[0]) == v.partition("=")[2]) if "=" in v else v in labels for v in filters.get("label", [])):
                continue
            users = sum(c.record.image_id == image.id for c in self._engine.containers.all())
            payloads.append(views.image_summary(image.id, image.config, names, images.size_bytes(image), users))
        exchange.respond(200, payloads)

    async def image_inspect(self, exchange: Exchange) -> None:
        images = self._engine.images
        image = images.find(exchange.parameters["name"])
        layers = [layer.diff for layer in images.layers_of(image)]
        exchange.respond(200, views.image_inspect(image.id, image.config, images.names_of(image.id), images.size_bytes(image), layers))

    async def image_history(self, exchange: Exchange) -> None:
        images = self._engine.images
        image = images.find(exchange.parameters["name"])
        sizes = iter(images.layers_of(image))
        found = []
        for entry in image.config.get("history") or []:
            size = 0 if entry.get("empty_layer") else next(sizes).size_bytes
            found.append({
                "Id": "<missing>", "Created": views.created_s(entry), "CreatedBy": entry.get("created_by", ""), "Tags": None,
                "Size": size, "Comment": entry.get("comment", ""),
            })  # fmt: skip
        found.reverse()
        if found:
            found[0] |= {"Id": image.id, "Tags": images.names_of(image.id) or None}
        exchange.respond(200, found)

    async def image_tag(self, exchange: Exchange) -> None:
        repository, tag = exchange.query.get("repo", ""), exchange.query.get("tag", "")
        name = f"{repository}:{tag}" if tag else repository
        await asyncio.to_thread(self._engine.images.tag, exchange.parameters["name"], name)
        image = self._engine.images.find(name)
        self._engine.events.publish("image", "tag", image.id, {"name": name})
        exchange.respond(201)

    async def image_remove(self, exchange: Exchange) -> None:
        name = exchange.parameters["name"]
        identity = self._engine.images.find(name).id
        in_use = self._engine.containers.images_in_use()
        removed = await asyncio.to_thread(lambda: self._engine.images.remove(name, force=exchange.flag("force"), in_use=in_use))
        for item in removed:
            action = "untag" if "Untagged" in item else "delete"
            if action == "untag" or item.get("Deleted") == identity:
                self._engine.events.publish("image", action, identity, {"name": next(iter(item.values()))})
        exchange.respond(200, removed)

    async def image_create(self, exchange: Exchange) -> None:
        source = exchange.query.get("fromSrc", "")
        if not source:
            name = exchange.query.get("fromImage", "")
            tag = exchange.query.get("tag", "")
            full = reference.parse(f"{name}@{tag}" if ":" in tag else f"{name}:{tag}" if tag else name).familiar
            raise errors.NotFound(
                f"pull access denied for {full}: it is not in this engine's store, and this version of berth cannot "
                "pull from registries yet; bring it in with load or import"
            )
        if source != "-":
            raise errors.NotImplementedHere(f"import from {source!r}: berth reads the archive from the client; use '-' or a file")
        repository, tag = exchange.query.get("repo", ""), exchange.query.get("tag", "")
        name = f"{repository}:{tag}" if repository and tag else repository
        if name:
            reference.parse(name)
        config = apply_changes(exchange.query_lists.get("changes", []))
        message = exchange.query.get("message", "") or "Imported from -"
        platform = exchange.query.get("platform", "")
        machine = platform.split("/")[1] if platform.count("/") else libc.MACHINE
        images = self._engine.images
        image = await in_thread_with_body(
            exchange.body, lambda stream: images.import_filesystem(stream, name, message, config, machine)
        )
        self._engine.events.publish("image", "import", image.id, {"name": name or image.id})
        exchange.start_stream("application/json")
        await exchange.send_json({"status": image.id})
        exchange.end_stream()

    async def image_load(self, exchange: Exchange) -> None:
        loaded = await in_thread_with_body(exchange.body, self._engine.images.load)
        exchange.start_stream("application/json")
        for name, identity in loaded:
            text = f"Loaded image: {name}\n" if name else f"Loaded image ID: {identity}\n"
            self._engine.events.publish("image", "load", identity, {"name": name or identity})
            await exchange.send_json({"stream": text})
        exchange.end_stream()

    async def image_save(self, exchange: Exchange) -> None:
        names = [exchange.parameters["name"]] if "name" in exchange.parameters else exchange.query_lists.get("names", [])
        if not names:
            raise errors.InvalidParameter("no image named: query parameter 'names' is empty")
        for name in names:
            self._engine.images.saved_names(name)
        exchange.start_stream("application/x-tar")
        read_end, write_end = os.pipe()
        failure: list[BaseException] = []

        def write() -> None:
            try:
                with os.fdopen(write_end, "wb") as out:
                    self._engine.images.save(names, out)
            except BrokenPipeError:
                pass
            except BaseException as error:
                failure.append(error)

        worker = threading.Thread(target=write, daemon=True)
        worker.start()
        with os.fdopen(read_end, "rb", buffering=0) as source:
            while data := await asyncio.to_thread(source.read, 1 << 18):
                await exchange.send(data)
        await asyncio.to_thread(worker.join)
        if failure:
            log.error("save failed: %s", failure[0])
            raise Disconnected  # the client sees a cut-off stream, not a short archive that looks whole
        exchange.end_stream()


# -- pure helpers -----------------------------------------------------------------------------------------


def match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    """Path parts against a pattern; `{name...}` takes one or more parts. None where it does not fit."""
    found: dict[str, str] = {}
    for index, word in enumerate(pattern):
        if word.endswith("...}"):
            tail = len(pattern) - index - 1
            if len(parts) < len(pattern) or (tail and parts[-tail:] != pattern[-tail:]):
                return None
            found[word[1:-4]] = "/".join(parts[index : len(parts) - tail])
            return found
        if index >= len(parts):
            return None
        if word.startswith("{"):
            found[word[1:-1]] = parts[index]
        elif word != parts[index]:
            return None
    return found if len(parts) == len(pattern) else None


def parse_filters(text: str) -> dict[str, list[str]]:
    """`{"label":{"a=b":true}}` or `{"label":["a=b"]}` -> lists; InvalidParameter otherwise."""
    if not text:
        return {}
    try:
        value = json.loads(text)
        return {key: [str(v) for v in (values if isinstance(values, list) else dict(values))] for key, values in value.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise errors.InvalidParameter(f"invalid filters: {text[:200]!r}: expected a JSON object of lists") from None


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


def reference_matches(name: str, pattern: str) -> bool:
    """Docker's `reference` filter: a shell pattern on the name, with or without the tag."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition(":")[0], pattern)


_CHANGES = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")


def apply_changes(changes: list[str]) -> dict[str, Any]:
    """`--change` instructions -> an image's `config` section; InvalidParameter for any other instruction."""
    config: dict[str, Any] = {}
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        if word not in _CHANGES or not rest:
            raise errors.InvalidParameter(f"{word or change!r} is not a valid change command; known: {', '.join(_CHANGES)}")
        if word in ("CMD", "ENTRYPOINT", "VOLUME"):
            try:
                value = json.loads(rest) if rest.startswith("[") else None
            except (ValueError, RecursionError):
                value = [None]
            if value is not None and not all(isinstance(item, str) for item in value):
                raise errors.InvalidParameter(f"--change {change!r}: not a JSON list of strings")
            if word == "VOLUME":
                config["Volumes"] = {**config.get("Volumes", {}), **{path: {} for path in value or rest.split()}}
            else:
                config[word.capitalize()] = value if value is not None else ["/bin/sh", "-c", rest]
        elif word in ("ENV", "LABEL"):
            try:
                words = shlex.split(rest) if "=" in rest.split()[0] else []
            except ValueError as error:
                raise errors.InvalidParameter(f"--change {change!r}: {error}") from None
            pairs = [item.partition("=")[::2] for item in words] or [rest.partition(" ")[::2]]
            if word == "ENV":
                config["Env"] = config.get("Env", []) + [f"{key}={value}" for key, value in pairs]
            else:
                config["Labels"] = {**config.get("Labels", {}), **dict(pairs)}
        elif word == "EXPOSE":
            ports: dict[str, dict] = {port if "/" in port else f"{port}/tcp": {} for port in rest.split()}
            config["ExposedPorts"] = {**config.get("ExposedPorts", {}), **ports}
        elif word == "ONBUILD":
            config["OnBuild"] = [*config.get("OnBuild", []), rest]
        else:
            config[{"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}[word]] = rest
    return config


async def in_thread_with_body(body: Body, work: Callable[[IO[bytes]], Any]) -> Any:
    """Runs `work` in a thread on a stream of the request's body. The body of a client that went away is an error."""
    read_end, write_end = os.pipe()

    def run() -> Any:
        with os.fdopen(read_end, "rb") as stream:
            return work(stream)

    worker = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        try:
            while data := await body.read():
                await asyncio.to_thread(_write_all, write_end, data)
        except BrokenPipeError:
            pass  # the work has seen enough, or failed: it says which
        except Disconnected:
            os.close(write_end)
            write_end = -1
            await asyncio.gather(worker, return_exceptions=True)
            raise
    finally:
        if write_end >= 0:
            os.close(write_end)
    return await worker


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _network(name: str) -> dict[str, Any]:
    return {
        "Name": name, "Id": name, "Created": views.ZERO_TIME, "Scope": "local", "Driver": {"none": "null"}.get(name, name),
        "EnableIPv6": False, "IPAM": {"Driver": "default", "Options": None, "Config": []}, "Internal": False,
        "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False, "Containers": {},
        "Options": {}, "Labels": {},
    }  # fmt: skip


def _tree_bytes(path: str) -> int:
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(f"{directory}/{name}").st_size
            except OSError:
                continue
    return total


def _wait_error(container: Container) -> str:
    return container.record.error if container.record.error and container.record.status != "exited" else ""


def _now_s() -> float:
    return time.time()
