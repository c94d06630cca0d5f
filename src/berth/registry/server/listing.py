"""What there is: tags, repositories, referrers, and Docker's search."""

import json
from urllib.parse import urlencode

from berth.registry import media
from berth.registry.server.pulling import checked_digest
from berth.registry.server.refusals import Refused
from berth.registry.server.registry import Registry, Request

_MOST_ENTRIES = 10_000
_DEFAULT_CATALOG = 1000
_DEFAULT_RESULTS, _MOST_RESULTS = 25, 100


async def base(registry: Registry, request: Request) -> None:
    """GET /v2/: this is a registry, and whoever asks is let in."""
    request.exchange.respond(200, {})


async def tags(registry: Registry, request: Request) -> None:
    name = request.name
    if registry.cache:
        found = await registry.cache.tags(name)
    else:
        found = await registry.run(registry.contents.tags, name)
        if not found and name not in registry.contents.names:
            raise Refused("NAME_UNKNOWN", f"repository {name} is not known here", detail={"name": name})
    page, headers = _page(request, found, _MOST_ENTRIES)
    request.exchange.respond(200, {"name": name, "tags": page}, headers)


async def catalog(registry: Registry, request: Request) -> None:
    seen = sorted(name for name in list(registry.contents.names) if registry.access.sees(request.who, name))
    page, headers = _page(request, seen, _DEFAULT_CATALOG)
    request.exchange.respond(200, {"repositories": page}, headers)


def _page(request: Request, entries: list[str], default: int) -> tuple[list[str], dict[str, str]]:
    """The part of a sorted list that `n` and `last` ask for, and the Link to the next one."""
    count = request.number("n", default, _MOST_ENTRIES)
    last = request.exchange.query.get("last", "")
    left = [entry for entry in entries if entry > last]
    page = left[:count]
    if len(left) <= count or not page:
        return page, {}
    return page, {"Link": f'<{request.exchange.path}?{urlencode({"n": count, "last": page[-1]})}>; rel="next"'}


async def referrers(registry: Registry, request: Request) -> None:
    """An index of what has this manifest as its subject; also of one that is not here."""
    digest = checked_digest(request.parts["digest"])
    wanted = request.exchange.query.get("artifactType", "")
    if registry.cache:
        found = await registry.cache.referrers(request.name, digest)
    else:
        found = await registry.run(registry.contents.referrers, request.name, digest)
    headers = {"Content-Type": media.OCI_INDEX}
    if wanted:
        found = [entry for entry in found if entry.get("artifactType") == wanted]
        headers["OCI-Filters-Applied"] = "artifactType"
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": found}
    request.exchange.respond_bytes(200, json.dumps(index).encode(), headers)


async def ping(registry: Registry, request: Request) -> None:
    """GET /v1/_ping: what Docker's engine asks before it searches."""
    request.exchange.respond(200, {"standalone": True}, {"X-Docker-Registry-Version": "0.9.1", "X-Docker-Registry-Standalone": "True"})


async def search(registry: Registry, request: Request) -> None:
    """GET /v1/search?q=TERM&n=LIMIT, as Docker's engine asks it."""
    term = request.exchange.query.get("q", "")[:1000]
    count = request.number("n", _DEFAULT_RESULTS, _MOST_RESULTS) or _DEFAULT_RESULTS
    results = await registry.run(registry.index.search, term, count, lambda name: registry.access.sees(request.who, name))
    request.exchange.respond(
        200, {"query": term, "num_results": len(results), "num_pages": 1, "page": 1, "page_size": count, "results": results}
    )
