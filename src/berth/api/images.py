"""Image endpoints: list, inspect, history, pull, push, search, import, load, save, tag, remove."""

import asyncio
import contextlib
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable
from typing import IO, Any, cast

from berth import errors
from berth.api import compat
from berth.api.request import parse_filters
from berth.api.threads import in_own_thread, in_thread_with_body, send_written, settle
from berth.engine import imagelist, registryauth, searchlist, views
from berth.engine.images import publish, publish_removed
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route
from berth.linux import libc
from berth.oci import reference
from berth.oci.reference import Reference
from berth.store import naming
from berth.store.images import Image


class Images:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("GET", "/images/json", self.image_list), ("POST", "/images/create", self.image_create),
            ("POST", "/images/load", self.image_load), ("GET", "/images/get", self.image_save),
            ("GET", "/images/{name...}/json", self.image_inspect), ("GET", "/images/{name...}/get", self.image_save),
            ("GET", "/images/{name...}/history", self.image_history),
            ("GET", "/images/search", self.image_search), ("POST", "/images/{name...}/push", self.image_push),
            ("GET", "/distribution/{name...}/json", self.distribution_inspect), ("POST", "/auth", self.auth),
            ("POST", "/images/{name...}/tag", self.image_tag), ("DELETE", "/images/{name...}", self.image_remove),
        ]  # fmt: skip

    async def image_list(self, exchange: Exchange) -> None:
        filters = parse_filters(exchange.query.get("filters", ""))
        if exchange.query.get("filter") and compat.before(exchange.version, 41):
            filters.setdefault("reference", []).append(exchange.query["filter"])
        found = imagelist.summaries(
            self._engine.images, filters, shared_size=exchange.flag("shared-size"), intermediate=exchange.flag("all")
        )
        exchange.respond(200, compat.image_summaries(exchange.version, found))

    async def image_inspect(self, exchange: Exchange) -> None:
        images = self._engine.images
        image = images.find(exchange.parameters["name"])
        found = views.image_inspect(
            image.id, image.config, images.names_of(image.id), images.digests_of(image.id), size_bytes=images.size_bytes(image),
            layers=[layer.diff for layer in images.layers_of(image)], directories=images.lower_directories(image),
            parent=images.parent_of(image.id), tagged_ns=images.tagged_ns(image.id),
        )  # fmt: skip
        exchange.respond(200, compat.image_inspect(exchange.version, found))

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
        identity = image.id
        for item in found:  # each step down is an image of its own, as long as one is known
            item |= {"Id": identity, "Tags": images.names_of(identity) or None}
            identity = images.parent_of(identity)
            if not identity:
                break
        exchange.respond(200, found)

    async def image_tag(self, exchange: Exchange) -> None:
        repository, tag = exchange.query.get("repo", ""), exchange.query.get("tag", "")
        name = f"{repository}:{tag}" if tag else repository
        await asyncio.to_thread(self._engine.images.tag, exchange.parameters["name"], name)
        image = self._engine.images.find(name)
        publish(self._engine.events, image, "tag", reference.parse(name).familiar)
        exchange.respond(201)

    async def image_remove(self, exchange: Exchange) -> None:
        name = exchange.parameters["name"]
        if not name.strip():
            raise errors.InvalidParameter("image name cannot be blank")
        image = self._engine.images.find(name)
        in_use = self._engine.containers.images_in_use()
        removed = await asyncio.to_thread(lambda: self._engine.images.remove(
            name, force=exchange.flag("force"), in_use=in_use, prune=not exchange.flag("noprune")
        ))
        publish_removed(self._engine.events, image, removed, by_id={"Untagged": naming.familiar(name)} not in removed)
        exchange.respond(200, removed)

    async def image_create(self, exchange: Exchange) -> None:
        source = exchange.query.get("fromSrc", "")
        if not source:
            await self._pull(exchange)
            return
        if source != "-" and not source.startswith(("http://", "https://")):
            raise errors.InvalidParameter(f"import from {source!r}: neither '-' nor an address that begins with http:// or https://")
        repository, tag = exchange.query.get("repo", ""), exchange.query.get("tag", "")
        name = f"{repository}:{tag}" if repository and tag else repository
        if name:
            reference.parse(name)
        config = apply_changes(exchange.query_lists.get("changes", []))
        message = exchange.query.get("message", "") or f"Imported from {source}"
        platform = exchange.query.get("platform", "")
        machine = platform.split("/")[1] if platform.count("/") else libc.MACHINE

        def bring(stream: IO[bytes]) -> Image:
            return self._engine.images.import_filesystem(stream, name, message, config, machine)

        await _tell(exchange, self._import(exchange, source, name, bring))

    async def _import(self, exchange: Exchange, source: str, name: str, bring: Callable[[IO[bytes]], Image]) -> AsyncIterator[dict]:
        if source == "-":
            image = await in_thread_with_body(exchange.body, bring)
        else:
            from berth.api.fetching import WebArchive  # brings urllib: not for every start of the engine

            archive = await in_own_thread(lambda: WebArchive(source))
            yield {"status": f"Downloading from {source}"}
            with contextlib.closing(archive):
                work = in_own_thread(lambda: bring(cast("IO[bytes]", archive)))
                try:
                    image = await asyncio.shield(work)
                finally:
                    archive.stop()
                    await settle(work)
        if name:
            publish(self._engine.events, image, "tag", reference.parse(name).familiar)
        publish(self._engine.events, image, "import")
        yield {"status": image.id}

    async def _pull(self, exchange: Exchange) -> None:
        name = pulled_name(exchange.query.get("fromImage", ""), exchange.query.get("tag", ""))
        credentials = registryauth.credentials_of(exchange.headers.get("x-registry-auth", ""))
        await _tell(exchange, self._engine.distribution.pull(name, exchange.query.get("platform", ""), credentials))

    async def image_push(self, exchange: Exchange) -> None:
        name = reference.parse(exchange.parameters["name"], default_tag="")
        if tag := exchange.query.get("tag", ""):
            name = reference.parse(f"{name.familiar_name}:{tag}")
        credentials = registryauth.credentials_of(exchange.headers.get("x-registry-auth", ""))
        await _tell(exchange, self._engine.distribution.push(name, credentials))

    async def image_search(self, exchange: Exchange) -> None:
        term = exchange.query.get("term", "")
        filters = parse_filters(exchange.query.get("filters", ""))
        wanted = searchlist.checked(filters)
        limit = exchange.number("limit")
        credentials = registryauth.credentials_of(exchange.headers.get("x-registry-auth", ""))
        try:
            found = await self._engine.distribution.search(term, 25 if limit is None else limit, credentials)
        except errors.Unauthorized as error:
            # At 401 Docker's command line asks for a name and password, also in a script, where it then waits for ever.
            raise errors.Forbidden(f"{error}; log in at the registry first") from None
        exchange.respond(200, searchlist.chosen(found, wanted))

    async def distribution_inspect(self, exchange: Exchange) -> None:
        name = reference.parse(exchange.parameters["name"])
        credentials = registryauth.credentials_of(exchange.headers.get("x-registry-auth", ""))
        exchange.respond(200, await self._engine.distribution.inspect(name, credentials))

    async def auth(self, exchange: Exchange) -> None:
        asked = await exchange.json(any_type=True)
        for key in ("username", "password", "identitytoken", "serveraddress"):
            if not isinstance(asked.get(key) or "", str):
                raise errors.InvalidParameter(f"{key}: {asked[key]!r} is not a string")
        address = asked.get("serveraddress") or ""
        token = await self._engine.distribution.login(address, registryauth.credentials_from(asked))
        exchange.respond(200, {"Status": "Login Succeeded", "IdentityToken": token})

    async def image_load(self, exchange: Exchange) -> None:
        loaded = await in_thread_with_body(exchange.body, self._engine.images.load)
        exchange.start_stream("application/json")
        for identity in dict.fromkeys(identity for _, identity in loaded):
            publish(self._engine.events, self._engine.images.find(identity), "load")
        for name, identity in loaded:
            text = f"Loaded image: {name}\n" if name else f"Loaded image ID: {identity}\n"
            await exchange.send_json({"stream": text})
        exchange.end_stream()

    async def image_save(self, exchange: Exchange) -> None:
        names = [exchange.parameters["name"]] if "name" in exchange.parameters else exchange.query_lists.get("names", [])
        if not names:
            raise errors.InvalidParameter("no image named: query parameter 'names' is empty")
        identities = dict.fromkeys(identity for name in names for _, identity in self._engine.images.saved_names(name))
        saved = [self._engine.images.find(identity) for identity in identities]
        exchange.start_stream("application/x-tar")
        await send_written(exchange, lambda out: self._engine.images.save(names, out))
        for image in saved:
            publish(self._engine.events, image, "save")
        exchange.end_stream()


async def _tell(exchange: Exchange, messages: AsyncIterator[dict]) -> None:
    """Sends a transfer's messages. What goes wrong before the first is the answer; later it is a message of its own."""
    try:
        async with contextlib.aclosing(messages) as told:  # type: ignore[type-var]
            async for message in told:
                if not exchange.streaming:
                    exchange.start_stream("application/json")
                await exchange.send_json(message)
    except errors.BerthError as error:
        if not exchange.streaming:
            raise
        await exchange.send_json({"errorDetail": {"message": str(error)}, "error": str(error)})
    if not exchange.streaming:
        exchange.start_stream("application/json")
    exchange.end_stream()


# -- pure helpers -----------------------------------------------------------------------------------------


_PORTS = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?")
def pulled_name(image: str, tag: str) -> Reference:
    """fromImage and tag of POST /images/create; without a tag in either, all tags are meant."""
    name = reference.parse(image, default_tag="")
    if not tag:
        return name
    return reference.parse(f"{name.familiar_name}@{tag}" if ":" in tag else f"{name.familiar_name}:{tag}")


_CHANGES = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")


def apply_changes(changes: list[str]) -> dict[str, Any]:
    """`--change` instructions -> an image's `config` section; InvalidParameter for any other instruction."""
    config: dict[str, Any] = {}
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        if word not in _CHANGES or not rest:
            raise errors.InvalidParameter(f"{word.lower()} is not a valid change command; known: {', '.join(_CHANGES)}")
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
            if not words and " " not in rest:
                raise errors.InvalidParameter(f"{word} must have two arguments")
            if word == "ENV":
                config["Env"] = config.get("Env", []) + [f"{key}={value}" for key, value in pairs]
            else:
                config["Labels"] = {**config.get("Labels", {}), **dict(pairs)}
        elif word == "EXPOSE":
            for port in rest.split():
                if not _PORTS.fullmatch(port):
                    raise errors.InvalidParameter(f"invalid containerPort: {port}")
            ports: dict[str, dict] = {port if "/" in port else f"{port}/tcp": {} for port in rest.split()}
            config["ExposedPorts"] = {**config.get("ExposedPorts", {}), **ports}
        elif word == "ONBUILD":
            config["OnBuild"] = [*config.get("OnBuild", []), rest]
        else:
            config[{"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}[word]] = rest
    return config
