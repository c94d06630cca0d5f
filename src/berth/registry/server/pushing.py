"""Blobs and manifests in: uploads in one piece, in chunks, resumed, given up, mounted; and what is removed."""

import asyncio
import errno
from urllib.parse import quote

from berth.registry.server import manifests, names
from berth.registry.server.pulling import checked_digest, unknown_blob
from berth.registry.server.refusals import Refused
from berth.registry.server.registry import Registry, Request
from berth.registry.server.uploads import Upload

_WRITE_BYTES = 1 << 20
_LOCK_TIMEOUT_S = 10.0


async def start(registry: Registry, request: Request) -> None:
    """POST: an upload begins; with `digest` the blob is in the body; with `mount` it may be another repository's."""
    query = request.exchange.query
    if query.get("mount") and await _mount(registry, request, query["mount"], query.get("from", "")):
        return
    digest = checked_digest(query["digest"]) if query.get("digest") else ""
    upload = await registry.run(registry.uploads.begin, request.name)
    async with upload.lock:
        if digest:
            await _receive(registry, request, upload)
            await _finish(registry, request, upload, digest)
        else:
            _respond_progress(request, upload, 202)


async def _mount(registry: Registry, request: Request, digest: str, source: str) -> bool:
    checked_digest(digest)
    if not names.is_name(source) or not registry.access.allows(request.who, "repository", source, "pull"):
        return False  # the specification: then it is an upload like any other
    if not await registry.run(registry.contents.mount, request.name, digest, source):
        return False
    _respond_created(request, digest)
    return True


async def append(registry: Registry, request: Request) -> None:
    """PATCH: the next bytes, streamed or a chunk with Content-Range."""
    upload = await _find(registry, request)
    async with _Locked(upload):
        await _chunk(registry, request, upload)
        _respond_progress(request, upload, 202)


async def finish(registry: Registry, request: Request) -> None:
    """PUT: the last bytes, if any, and the digest of all."""
    digest = checked_digest(request.exchange.query.get("digest", ""))
    upload = await _find(registry, request)
    async with _Locked(upload):
        await _chunk(registry, request, upload)
        await _finish(registry, request, upload, digest)


async def progress(registry: Registry, request: Request) -> None:
    """GET: how much is here."""
    upload = await _find(registry, request)
    async with _Locked(upload):  # what a broken connection has brought is on its way to the file
        _respond_progress(request, upload, 204)


async def cancel(registry: Registry, request: Request) -> None:
    """DELETE: the upload is given up."""
    upload = await _find(registry, request)
    async with _Locked(upload):
        await registry.run(registry.uploads.end, upload)
    request.exchange.respond(204)


async def _find(registry: Registry, request: Request) -> Upload:
    return await registry.run(registry.uploads.find, request.name, request.parts["upload"])


class _Locked:
    """The lock of an upload; Refused if another request keeps it."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(_LOCK_TIMEOUT_S):
                await self._upload.lock.acquire()
            if self._upload.closed:
                self._upload.lock.release()
                raise Refused("BLOB_UPLOAD_UNKNOWN", f"upload {self._upload.identity} has ended")
        except TimeoutError:
            raise Refused("BLOB_UPLOAD_INVALID", "another request is sending to this upload; ask again when it has ended", status=409) from None

    async def __aexit__(self, *_: object) -> None:
        self._upload.lock.release()


async def _chunk(registry: Registry, request: Request, upload: Upload) -> None:
    span = _content_range(request, upload)
    before = upload.size_bytes
    await _receive(registry, request, upload)
    if span and upload.size_bytes - before != span[1] - span[0] + 1:
        came = upload.size_bytes - before
        await registry.run(upload.cut, before)
        raise Refused("SIZE_INVALID", f"Content-Range says {span[0]}-{span[1]}, the body had {came} bytes")


def _content_range(request: Request, upload: Upload) -> tuple[int, int] | None:
    text = request.exchange.headers.get("content-range", "")
    if not text:
        return None
    first, dash, last = text.removeprefix("bytes ").partition("/")[0].strip().partition("-")
    if not (dash and all(word.isascii() and word.isdigit() and len(word) < 19 for word in (first, last))) or int(last) + 1 < int(first):
        raise Refused("BLOB_UPLOAD_INVALID", f"Content-Range {text[:100]!r} is not START-END")
    if int(first) != upload.size_bytes:
        raise Refused("RANGE_INVALID", f"the upload has {upload.size_bytes} bytes: the chunk must begin there, not at {first}", headers=_progress(upload))
    return int(first), int(last)


async def _receive(registry: Registry, request: Request, upload: Upload) -> None:
    """The body to its end into the upload. What came before a failure stays there, unless it is in the way: then the upload ends."""
    try:
        await _append(registry, request, upload)
    except (Refused, OSError) as error:
        if getattr(error, "code", "") == "SIZE_INVALID" or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
            await registry.run(registry.uploads.end, upload)
        raise


async def _append(registry: Registry, request: Request, upload: Upload) -> None:
    most = registry.options.most_blob_bytes
    pieces: list[bytes] = []
    waiting = 0
    try:
        while data := await request.piece():
            pieces.append(data)
            waiting += len(data)
            registry.metrics.received_bytes += len(data)
            if most and upload.size_bytes + waiting > most:
                raise Refused("SIZE_INVALID", f"a blob may have {most} bytes here (--max-blob-size)", status=413)
            if waiting >= _WRITE_BYTES:
                await registry.run(upload.append, pieces)
                pieces, waiting = [], 0
    finally:
        if pieces:
            await registry.run(upload.append, pieces)


async def _finish(registry: Registry, request: Request, upload: Upload, digest: str) -> None:
    have = await registry.run(upload.digest)
    if have != digest:
        await registry.run(registry.uploads.end, upload)
        raise Refused("DIGEST_INVALID", f"the bytes that came have digest {have}, not {digest}: send the blob again", detail={"digest": digest})
    await registry.run(registry.contents.add_blob, request.name, digest, upload.path)
    await registry.run(registry.uploads.end, upload)
    _respond_created(request, digest)


def _respond_created(request: Request, digest: str) -> None:
    request.exchange.respond(201, headers={"Location": f"/v2/{request.name}/blobs/{digest}", "Docker-Content-Digest": digest})


def _respond_progress(request: Request, upload: Upload, status: int) -> None:
    request.exchange.respond(status, headers=_progress(upload))


def _progress(upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{upload.name}/blobs/uploads/{upload.identity}", "Range": f"0-{max(0, upload.size_bytes - 1)}",
        "Docker-Upload-UUID": upload.identity,
    }  # fmt: skip


async def put_manifest(registry: Registry, request: Request) -> None:
    """PUT: a manifest under a tag or its digest."""
    reference, exchange = request.parts["reference"], request.exchange
    by_digest = names.looks_like_digest(reference)
    if by_digest:
        checked_digest(reference)
    elif not names.is_tag(reference):
        raise Refused("TAG_INVALID", f"{reference[:200]!r} is not a tag: up to 128 letters, digits, '_', '.' and '-'")
    raw = await _small_body(request)
    pushed = manifests.parse(raw, exchange.headers.get("content-type", ""))
    digest = pushed.document.digest
    if by_digest and digest != reference:
        raise Refused("DIGEST_INVALID", f"the manifest has digest {digest}, not {reference}")
    await registry.run(registry.contents.put_manifest, request.name, "" if by_digest else reference, pushed)
    await registry.run(registry.index.update, request.name)
    registry.metrics.pushes += 1
    headers = {"Location": f"/v2/{request.name}/manifests/{quote(digest, safe=':')}", "Docker-Content-Digest": digest}
    if pushed.document.subject:
        headers["OCI-Subject"] = pushed.document.subject.digest
    exchange.respond(201, headers=headers)


async def _small_body(request: Request) -> bytes:
    too_large = Refused("MANIFEST_INVALID", f"a manifest may have {manifests.MAX_BYTES} bytes", status=413)
    length = request.exchange.headers.get("content-length", "0")
    if length.isdigit() and int(length) > manifests.MAX_BYTES:
        raise too_large
    parts, size = [], 0
    while data := await request.piece():
        size += len(data)
        if size > manifests.MAX_BYTES:
            raise too_large
        parts.append(data)
    return b"".join(parts)


async def delete_manifest(registry: Registry, request: Request) -> None:
    """DELETE: a tag, or a manifest with its tags."""
    reference, contents = request.parts["reference"], registry.contents
    if names.looks_like_digest(reference):
        gone = await registry.run(contents.remove_manifest, request.name, checked_digest(reference))
    else:
        gone = names.is_tag(reference) and await registry.run(contents.remove_tag, request.name, reference)
    if not gone:
        raise Refused("MANIFEST_UNKNOWN", f"manifest {reference[:200]} is not in {request.name}")
    await registry.run(registry.index.update, request.name)
    request.exchange.respond(202)


async def delete_blob(registry: Registry, request: Request) -> None:
    """DELETE: the repository has the blob no more; the bytes go with the next collection."""
    digest = checked_digest(request.parts["digest"])
    if not await registry.run(registry.contents.remove_blob, request.name, digest):
        raise unknown_blob(request.name, digest)
    request.exchange.respond(202)
