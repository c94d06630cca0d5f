"""Each request: to whom it goes, whether it may, what is answered where it fails, and what is noted of it."""

import errno
import logging
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from berth.errors import BerthError, Cancelled, DataLoss, Forbidden, InvalidParameter, NotFound, Unauthorized, Unavailable
from berth.http.body import Disconnected
from berth.http.exchange import Exchange, HeadAnswered
from berth.registry.server import listing, names, page, pulling, pushing, tokens
from berth.registry.server.access import Identity
from berth.registry.server.refusals import Refused
from berth.registry.server.registry import Registry, Request
from berth.registry.server.tokens import SERVICE

log = logging.getLogger("berth.registry")
access_log = logging.getLogger("berth.registry.access")

COMMON_HEADERS = {"Docker-Distribution-Api-Version": "registry/2.0", "X-Content-Type-Options": "nosniff"}
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")

Handler = Callable[[Registry, Request], Awaitable[None]]


class Route:
    """pattern: of the whole path; handlers: by method; deletes: whether DELETE needs that right, rather than that to push."""

    def __init__(self, shown: str, pattern: str, handlers: dict[str, Handler], *, deletes: bool = True) -> None:
        self.shown, self.pattern, self.handlers, self.deletes = shown, re.compile(pattern), handlers, deletes

    def action(self, method: str) -> str:
        """What a request does to the repository. Asking after an upload is part of pushing."""
        if not self.deletes:
            return "push"
        return {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(method, "push")


_READ = ("GET", "HEAD")
_REPOSITORY_ROUTES = [
    Route("/v2/{name}/blobs/uploads/", r"/v2/(?P<name>.+)/blobs/uploads/?", {"POST": pushing.start}, deletes=False),
    Route("/v2/{name}/blobs/uploads/{upload}", r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload>[^/]+)",
          {"GET": pushing.progress, "PATCH": pushing.append, "PUT": pushing.finish, "DELETE": pushing.cancel}, deletes=False),
    Route("/v2/{name}/manifests/{reference}", r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)",
          {**dict.fromkeys(_READ, pulling.manifest), "PUT": pushing.put_manifest, "DELETE": pushing.delete_manifest}),
    Route("/v2/{name}/blobs/{digest}", r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)",
          {**dict.fromkeys(_READ, pulling.blob), "DELETE": pushing.delete_blob}),
    Route("/v2/{name}/tags/list", r"/v2/(?P<name>.+)/tags/list", dict.fromkeys(_READ, listing.tags)),
    Route("/v2/{name}/referrers/{digest}", r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)", dict.fromkeys(_READ, listing.referrers)),
]  # fmt: skip
_BASE = Route("/v2/", r"/v2/?", dict.fromkeys(_READ, listing.base))
_OPEN_ROUTES = [
    Route("/token", r"/token", {"GET": tokens.get, "POST": tokens.post}),
    Route("/v1/_ping", r"/v1/_ping", dict.fromkeys(_READ, listing.ping)),
]
_INDEX_ROUTES = [
    Route("/v2/_catalog", r"/v2/_catalog", dict.fromkeys(_READ, listing.catalog)),
    Route("/v1/search", r"/v1/search", dict.fromkeys(_READ, listing.search)),
    Route("/", r"/", dict.fromkeys(_READ, page.front)),
]
_PAGE = Route("/r/{name}", r"/r/(?P<name>.+)", dict.fromkeys(_READ, page.repository))
_VERBS = {"pull": "pull from", "push": "push to", "delete": "delete in", "*": "list the"}


class App:
    """The handler of every connection."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def handle(self, exchange: Exchange) -> None:
        metrics = self._registry.metrics
        started_s, user = time.monotonic(), "-"
        exchange.route = "other"
        metrics.under_way += 1
        try:
            user = await self._answer(exchange) or "-"
        except HeadAnswered:
            pass
        except (Refused, BerthError, OSError) as error:
            self._refuse(exchange, error)
        except Disconnected:
            exchange.status = exchange.status or 499  # as nginx says it: the client has left
            raise
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.path)
            self._refuse(exchange, Refused("UNKNOWN", "a mistake in berth itself; its log says where"))
        finally:
            metrics.under_way -= 1
            seconds = time.monotonic() - started_s
            metrics.observe(exchange.method, exchange.route, exchange.status, seconds)
            agent = exchange.headers.get("user-agent", "-")
            access_log.info("%s %s %s %d %.3f %s", user, exchange.method, _shown(exchange.path), exchange.status, seconds, _shown(agent))

    async def _answer(self, exchange: Exchange) -> str:
        """Returns the name of whoever asked."""
        route, parts = _find(exchange.path)
        exchange.route = route.shown
        handler = route.handlers.get(exchange.method)
        if handler is None:
            raise Refused("UNSUPPORTED", f"{exchange.method} is not for {route.shown}", headers={"Allow": ", ".join(sorted(route.handlers))})
        if name := parts.get("name"):
            if not names.is_name(name):
                raise Refused("NAME_INVALID", f"{name[:300]!r} is not the name of a repository", detail={"name": name[:300]})
        who = Identity()
        if route not in _OPEN_ROUTES:
            who = await self._authorize(exchange, route, name or "")
        self._check_served(exchange, route)
        await handler(self._registry, Request(exchange, parts, who))
        return who.user

    def _check_served(self, exchange: Exchange, route: Route) -> None:
        if exchange.method in (*_READ, "POST") and route not in _REPOSITORY_ROUTES[:2]:
            return
        if self._registry.cache:
            raise Refused("UNSUPPORTED", f"this registry is a cache of {self._registry.options.remote}: push there")
        if route.action(exchange.method) == "delete" and not self._registry.options.deletes:
            raise Refused("UNSUPPORTED", "this registry was started with --no-delete")

    async def _authorize(self, exchange: Exchange, route: Route, name: str) -> Identity:
        """Refused with a challenge that tells the client what to come back with."""
        access = self._registry.access
        kind, subject, action = "repository", name, route.action(exchange.method)
        if route in _INDEX_ROUTES:
            kind, subject, action = "registry", "catalog", "*"
        elif route is _PAGE:
            action = "pull"
        wanted = "pull,push" if action == "push" else action
        scope = f"{kind}:{subject}:{wanted}" if route is not _BASE else ""
        try:
            header = exchange.headers.get("authorization", "")
            who = await access.identify(header, SERVICE)
            if route is _BASE:
                allowed = access.passwords is None or bool(who.user) or who.grants is not None
            else:
                allowed = access.allows(who, kind, subject, action)
            if not allowed and who.user and not access.may(who.user, kind, subject, action):
                raise Refused("DENIED", f"{who.user} may not {_VERBS[action]} {subject}: ask whoever runs this registry for the right")
            if not allowed:
                raise Refused("UNAUTHORIZED", f"authentication required for {scope or 'this registry'}")
        except Refused as error:
            if error.code != "UNAUTHORIZED":
                raise
            shown = route.shown in ("/", "/r/{name}", "/v1/search")
            error.headers["WWW-Authenticate"] = access.challenge(f"{self._origin(exchange)}/token", SERVICE, scope, page=shown)
            raise
        return who

    def _origin(self, exchange: Exchange) -> str:
        """As the client reaches this registry. What it sends as Host only comes back to itself."""
        options = self._registry.options
        if options.url:
            return options.url.rstrip("/")
        host = exchange.headers.get("host", "")
        return f"{'https' if options.tls_certificate else 'http'}://{host if _HOST.fullmatch(host) else options.addresses[0]}"

    def _refuse(self, exchange: Exchange, error: Exception) -> None:
        found = refusal_of(error)
        if found.status >= 500:
            log.error("%s %s: %s", exchange.method, _shown(exchange.path), found)
        if exchange.responded:
            raise Disconnected  # in the middle of a body the connection is all that can say so
        exchange.respond(found.status, found.body(), found.headers)


def _find(path: str) -> tuple[Route, dict[str, str]]:
    for route in [_BASE, _PAGE, *_OPEN_ROUTES, *_INDEX_ROUTES, *_REPOSITORY_ROUTES]:
        if found := route.pattern.fullmatch(path):
            return route, found.groupdict()
    raise Refused("UNKNOWN", "there is nothing at this path", status=404)


def refusal_of(error: Exception) -> Refused:
    """Any error as what a client is told."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InvalidParameter):
        return Refused("UNKNOWN", str(error), status=400)
    if isinstance(error, NotFound | Unauthorized):
        return Refused("MANIFEST_UNKNOWN", str(error))
    if isinstance(error, Forbidden):
        return Refused("DENIED", str(error))
    if isinstance(error, Cancelled):
        return Refused("UNAVAILABLE", "the registry is stopping: try again")
    if isinstance(error, DataLoss | Unavailable):
        return Refused("UNAVAILABLE", str(error), status=502)
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        status = HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.INTERNAL_SERVER_ERROR
        return Refused("UNKNOWN", "the registry's disk is full" if full else f"the registry's storage failed: {error.strerror}", status=status)
    return Refused("UNKNOWN", str(error))


def _shown(text: str) -> str:
    """Untrusted text in one line of the log."""
    return "".join(c if c.isprintable() else "?" for c in text[:500]).replace(" ", "%20")
