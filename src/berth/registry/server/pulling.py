"""Manifests and blobs out: GET and HEAD, ranges."""

import asyncio
from collections.abc import Coroutine

from berth.http.body import Disconnected
from berth.http.exchange import Exchange
from berth.registry import media
from berth.registry.server import names
from berth.registry.server.contents import Manifest
from berth.registry.server.refusals import Refused
from berth.registry.server.registry import Registry, Request
from berth.registry.server.storage import Content

_SLICE_BYTES = 8 << 20
_SLOWEST_SLICE_S = 600.0


async def manifest(registry: Registry, request: Request) -> None:
    """By tag or digest."""
    name, reference = request.name, request.parts["reference"]
    found = await find_manifest(registry, name, reference)
    exchange = request.exchange
    if exchange.method == "GET" and found.media_type not in media.INDEXES:
        await registry.run(registry.index.pulled, name)  # an index is followed by the one image that was chosen from it
        registry.metrics.pulls += 1
    headers = {"Content-Type": found.media_type, "Docker-Content-Digest": found.digest, "ETag": f'"{found.digest}"'}
    if _unchanged(exchange, found.digest):
        exchange.respond(304, headers=headers)
    else:
        exchange.respond_bytes(200, found.raw, headers)


async def find_manifest(registry: Registry, name: str, reference: str) -> Manifest:
    """Refused (404) if there is none."""
    if registry.cache:
        return await registry.cache.manifest(name, reference)
    digest = reference
    if not names.looks_like_digest(reference):
        digest = await registry.run(registry.contents.resolve, name, reference) if names.is_tag(reference) else ""
    found = await registry.run(registry.contents.manifest, name, digest) if names.is_digest(digest) else None
    if found is None:
        if name not in registry.contents.names:
            raise Refused("NAME_UNKNOWN", f"repository {name} is not known here", detail={"name": name})
        raise Refused("MANIFEST_UNKNOWN", f"manifest {reference[:200]} is not in {name}", detail={"name": name, "reference": reference[:200]})
    return found


async def blob(registry: Registry, request: Request) -> None:
    """Whole or a range of it."""
    digest = checked_digest(request.parts["digest"])
    exchange = request.exchange
    if registry.cache and not await registry.run(registry.contents.blob, request.name, digest):
        await registry.cache.blob(request, digest)
        return
    if exchange.method == "HEAD":  # a client that is told so may count on it for a manifest it pushes
        await registry.run(registry.contents.blob, request.name, digest)
    content = await registry.run(registry.contents.open_blob, request.name, digest)
    if content is None:
        raise unknown_blob(request.name, digest)
    try:
        if registry.cache:
            registry.metrics.cache["hit"] += exchange.method == "GET"
        await send(registry, exchange, digest, content)
    finally:
        content.close()


async def send(registry: Registry, exchange: Exchange, digest: str, content: Content) -> None:
    """Answers with a blob that is here."""
    headers = blob_headers(digest)
    if _unchanged(exchange, digest):
        exchange.respond(304, headers=headers)
        return
    size = content.size_bytes
    start, end = 0, size
    status = 200
    span = byte_range(exchange.headers.get("range", ""), size)
    if span and exchange.method == "GET":
        start, end = span
        if start >= end:
            raise Refused("RANGE_INVALID", f"blob {digest} has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{size}"
    exchange.start_body(status, end - start, headers)
    await _body(registry, exchange, content, start, end)


async def _body(registry: Registry, exchange: Exchange, content: Content, start: int, end: int) -> None:
    """In slices: a client may be slow, but not for ever."""
    while start < end:
        size = min(end - start, _SLICE_BYTES)
        if content.descriptor >= 0:
            await patiently(exchange.send_file(content.descriptor, start, size))
        else:
            data = await registry.run(content.read, start, size)
            if len(data) != size:
                raise Disconnected
            await patiently(exchange.send_plain(data))
        registry.metrics.sent_bytes += size
        start += size


async def patiently(work: Coroutine[None, None, None]) -> None:
    """Ends a connection whose client takes too long over a slice."""
    try:
        async with asyncio.timeout(_SLOWEST_SLICE_S):
            await work
    except TimeoutError:
        raise Disconnected from None


def blob_headers(digest: str) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream", "Docker-Content-Digest": digest, "ETag": f'"{digest}"', "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000",
    }  # fmt: skip


def byte_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """[start, end) of a Range header; None for a header that asks for the whole, start == end for what is beyond the end."""
    unit, equals, spec = header.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip().lower() != "bytes" or not equals or not dash or "," in spec or not (first or last):
        return None
    if not all(word == "" or (word.isascii() and word.isdigit() and len(word) < 19) for word in (first, last)):
        return None
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    start, end = int(first), int(last) + 1 if last else size_bytes
    if last and end <= start:
        return None
    return (size_bytes, size_bytes) if start >= size_bytes else (start, min(end, size_bytes))


def checked_digest(text: str) -> str:
    """Refused for what is not a sha256 digest."""
    if not names.is_digest(text):
        raise Refused("DIGEST_INVALID", f"{text[:200]!r} is not a digest that this registry knows: sha256:, 64 hexadecimal digits")
    return text


def unknown_blob(name: str, digest: str) -> Refused:
    return Refused("BLOB_UNKNOWN", f"blob {digest} is not in {name}", detail={"digest": digest})


def _unchanged(exchange: Exchange, digest: str) -> bool:
    return f'"{digest}"' in exchange.headers.get("if-none-match", "")
