"""URL -> handler -> response: dispatch, API versions, and what becomes of errors.

Kinds of errors become HTTP status codes in `status_of`, and nowhere else. The handlers are in a module for
each group of endpoints: system, containers, execs, images.
"""

import logging

from berth import API_VERSION, MIN_API_VERSION, errors
from berth.api.containers import Containers
from berth.api.execs import Execs
from berth.api.http1 import Disconnected, Exchange, Handler
from berth.api.images import Images
from berth.api.request import match
from berth.api.system import System
from berth.engine.service import Engine

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
    """All groups of endpoints behind one dispatcher."""

    def __init__(self, engine: Engine) -> None:
        self._routes = [
            (method, pattern.strip("/").split("/"), handler)
            for group in (System(engine), Containers(engine), Execs(engine), Images(engine))
            for method, pattern, handler in group.routes()
        ]

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
