"""Image endpoints: list, inspect, history, pull, push, search, tag, remove; `imagefiles` has those that read and write files."""

import asyncio
import contextlib

from berth import errors
from berth.api import compat
from berth.api.imagefiles import ImageFiles
from berth.api.messages import tell
from berth.api.request import parse_filters, platform_of
from berth.engine import imagelist, imagemanifests, imageplatform, registryauth, searchlist, views
from berth.engine.images import publish, publish_removed
from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route
from berth.oci import reference
from berth.oci.platforms import Platform
from berth.oci.reference import Reference
from berth.store import naming
from berth.store.images import Image


class Images:
    """Handlers; they see the engine's services and the exchange, no kernel and no files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._files = ImageFiles(engine)

    def routes(self) -> list[Route]:
        return [
            ("GET", "/images/json", self.image_list), ("POST", "/images/create", self.image_create),
            ("GET", "/images/{name...}/json", self.image_inspect), ("GET", "/images/{name...}/history", self.image_history),
            ("GET", "/images/search", self.image_search), ("POST", "/images/{name...}/push", self.image_push),
            ("GET", "/distribution/{name...}/json", self.distribution_inspect), ("POST", "/auth", self.auth),
            ("POST", "/images/{name...}/tag", self.image_tag), ("DELETE", "/images/{name...}", self.image_remove),
            *self._files.routes(),
        ]  # fmt: skip

    async def image_list(self, exchange: Exchange) -> None:
        filters = parse_filters(exchange.query.get("filters", ""))
        if exchange.query.get("filter") and compat.before(exchange.version, 41):
            filters.setdefault("reference", []).append(exchange.query["filter"])
        found = imagelist.summaries(
            self._engine.images, filters, shared_size=exchange.flag("shared-size"), intermediate=exchange.flag("all")
        )
        images = self._engine.images
        chosen = [image for payload in found if (image := images.by_id(payload["Id"]))]
        with_manifests = exchange.flag("manifests") and not compat.before(exchange.version, 47)
        listed = await asyncio.to_thread(self._manifests, chosen, self._users()) if with_manifests else {}
        described = {image.id: {"Descriptor": descriptor} for image in chosen if (descriptor := imagemanifests.descriptor(images, image))}
        found = [{**payload, **described.get(payload["Id"], {}), **listed.get(payload["Id"], {})} for payload in found]
        exchange.respond(200, compat.image_summaries(exchange.version, found))

    def _users(self) -> dict[str, list[str]]:
        """By image id: the containers made of it."""
        found: dict[str, list[str]] = {}
        for container in self._engine.containers.all():
            found.setdefault(container.record.image_id, []).append(container.record.id)
        return found

    def _manifests(self, chosen: list[Image], users: dict[str, list[str]]) -> dict[str, dict]:
        """By image id: the field `Manifests`. Blocks."""
        found = {}
        for image in chosen:
            with contextlib.suppress(errors.NotFound, FileNotFoundError):  # it was removed meanwhile
                found[image.id] = {"Manifests": imagemanifests.manifests(self._engine.images, image, users.get(image.id, []))}
        return found

    async def image_inspect(self, exchange: Exchange) -> None:
        images = self._engine.images
        wanted, with_manifests = _platform(exchange, 49), exchange.flag("manifests") and not compat.before(exchange.version, 48)
        if wanted and with_manifests:
            raise errors.InvalidParameter("conflicting options: manifests and platform options cannot both be set")
        image = imageplatform.found(images, exchange.parameters["name"], wanted)
        listed = await asyncio.to_thread(self._manifests, [image], self._users()) if with_manifests else {}
        found = views.image_inspect(
            image.id, image.config, images.names_of(image.id), images.digests_of(image.id), size_bytes=images.size_bytes(image),
            layers=[layer.diff for layer in images.layers_of(image)], directories=images.lower(image).directories,
            parent=images.parent_of(image.id), tagged_ns=images.tagged_ns(image.id),
        )  # fmt: skip
        if descriptor := imagemanifests.descriptor(images, image):
            found["Descriptor"] = descriptor
        found |= listed.get(image.id, {})
        exchange.respond(200, compat.image_inspect(exchange.version, found))

    async def image_history(self, exchange: Exchange) -> None:
        images = self._engine.images
        image = imageplatform.found(images, exchange.parameters["name"], _platform(exchange, 48))
        sizes = iter(images.layers_of(image))
        found = []
        for entry in image.config.get("history") or []:
            layer = None if entry.get("empty_layer") else next(sizes, None)  # a history may be longer than there are layers
            size = layer.size_bytes if layer else 0
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
        wanted = None if compat.before(exchange.version, 50) else platform_of(exchange.query_lists.get("platforms", []))
        image = imageplatform.found(self._engine.images, name, wanted)
        in_use = self._engine.containers.images_in_use()
        removed = await asyncio.to_thread(lambda: self._engine.images.remove(
            name, force=exchange.flag("force"), in_use=in_use, prune=not exchange.flag("noprune")
        ))
        publish_removed(self._engine.events, image, removed, by_id={"Untagged": naming.familiar(name)} not in removed)
        exchange.respond(200, removed)

    async def image_create(self, exchange: Exchange) -> None:
        if exchange.query.get("fromSrc", ""):
            await self._files.image_import(exchange)
        else:
            await self._pull(exchange)

    async def _pull(self, exchange: Exchange) -> None:
        name = pulled_name(exchange.query.get("fromImage", ""), exchange.query.get("tag", ""))
        credentials = registryauth.credentials_for(name.registry, exchange.headers)
        await tell(exchange, self._engine.distribution.pull(name, exchange.query.get("platform", ""), credentials))

    async def image_push(self, exchange: Exchange) -> None:
        name = reference.parse(exchange.parameters["name"], default_tag="")
        if tag := exchange.query.get("tag", ""):
            name = reference.parse(f"{name.familiar_name}:{tag}")
        credentials = registryauth.credentials_for(name.registry, exchange.headers)
        await tell(exchange, self._engine.distribution.push(name, credentials, _platform(exchange, 46)))

    async def image_search(self, exchange: Exchange) -> None:
        term = exchange.query.get("term", "")
        filters = parse_filters(exchange.query.get("filters", ""))
        wanted = searchlist.checked(filters)
        limit = exchange.number("limit")
        credentials = registryauth.credentials_for(registryauth.split_term(term)[0], exchange.headers)
        try:
            found = await self._engine.distribution.search(term, 25 if limit is None else limit, credentials)
        except errors.Unauthorized as error:
            # At 401 Docker's command line asks for a name and password, also in a script, where it then waits for ever.
            raise errors.Forbidden(f"{error}: log in at {registryauth.split_term(term)[0]} first, or again") from None
        exchange.respond(200, searchlist.chosen(found, wanted))

    async def distribution_inspect(self, exchange: Exchange) -> None:
        name = reference.parse(exchange.parameters["name"])
        credentials = registryauth.credentials_for(name.registry, exchange.headers)
        exchange.respond(200, await self._engine.distribution.inspect(name, credentials))

    async def auth(self, exchange: Exchange) -> None:
        asked = await exchange.json(any_type=True)
        for key in ("username", "password", "identitytoken", "serveraddress"):
            if not isinstance(asked.get(key) or "", str):
                raise errors.InvalidParameter(f"{key}: {asked[key]!r} is not a string")
        address = asked.get("serveraddress") or ""
        token = await self._engine.distribution.login(address, registryauth.credentials_from(asked))
        exchange.respond(200, {"Status": "Login Succeeded", "IdentityToken": token})


# -- pure helpers -----------------------------------------------------------------------------------------


def _platform(exchange: Exchange, minor: int) -> Platform | None:
    """The parameter of that name, which clients before 1.MINOR do not mean."""
    return None if compat.before(exchange.version, minor) else platform_of(exchange.query_lists.get("platform", []))


def pulled_name(image: str, tag: str) -> Reference:
    """fromImage and tag of POST /images/create; without a tag in either, all tags are meant."""
    name = reference.parse(image, default_tag="")
    if not tag:
        return name
    return reference.parse(f"{name.familiar_name}@{tag}" if ":" in tag else f"{name.familiar_name}:{tag}")
