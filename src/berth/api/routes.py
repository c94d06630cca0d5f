"""URL -> handler -> response: dispatch, API versions, and what becomes of errors.

Kinds of errors become HTTP status codes in `status_of`, and nowhere else. The handlers are in a module for
each group of endpoints: system, containers, execs, images; stubs answers for the parts of Docker that berth lacks.
"""

import logging
import posixpath
import re
import time
from urllib.parse import quote

from berth import API_VERSION, MIN_API_VERSION, errors
from berth.api.builds import Builds
from berth.api.containers import Containers
from berth.api.execs import Execs
from berth.api.files import Files
from berth.api.images import Images
from berth.api.metrics import ApiMetrics
from berth.api.networks import Networks
from berth.api.streams import version_numbers
from berth.api.stubs import Stubs
from berth.api.system import System
from berth.api.usage import UsageEndpoints
from berth.api.volumes import Volumes
from berth.api.why import Why
from berth.engine.service import Engine
from berth.http.body import Disconnected
from berth.http.exchange import Exchange, Handler, HeadAnswered
from berth.http.routing import match

log = logging.getLogger("berth.api")

_STATUS: list[tuple[type[errors.BerthError], int]] = [
    (errors.NotFound, 404), (errors.CommandNotFound, 400), (errors.CommandNotExecutable, 400),
    (errors.TooLarge, 413), (errors.InvalidParameter, 400), (errors.Conflict, 409), (errors.NotModified, 304),
    (errors.Unauthorized, 401), (errors.Forbidden, 403),
    (errors.NotImplementedHere, 501), (errors.Unavailable, 503), (errors.DataLoss, 400),
]  # fmt: skip


def status_of(error: errors.BerthError) -> int:
    """HTTP status of a kind of error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


class Api:
    """All groups of endpoints behind one dispatcher."""

    def __init__(self, engine: Engine) -> None:
        self.metrics = ApiMetrics()
        self._routes = [
            (method, pattern.strip("/").split("/"), handler)
            for group in (
                System(engine), Containers(engine), Execs(engine), Images(engine), Networks(engine), Files(engine), UsageEndpoints(engine),
                Volumes(engine), Builds(engine), Why(engine), Stubs(),
            )
            for method, pattern, handler in group.routes()
        ]

    async def handle(self, exchange: Exchange) -> None:
        """Dispatches one request, turns what is raised into a response, and counts it."""
        started_s = time.perf_counter()
        try:
            await self._handle(exchange)
        finally:
            self.metrics.observe(exchange, time.perf_counter() - started_s)

    async def _handle(self, exchange: Exchange) -> None:
        try:
            handler = self._resolve(exchange)
            await handler(exchange)
        except HeadAnswered:
            pass
        except errors.BerthError as error:
            log.info("%s %s: %s", exchange.method, exchange.path, error)
            if exchange.responded:
                raise Disconnected from error
            _refuse(exchange, status_of(error), str(error))
        except (OSError, Disconnected) as error:
            if exchange.responded or isinstance(error, Disconnected):
                raise Disconnected from error
            _refuse(exchange, 500, str(error))
        except Exception:
            log.exception("%s %s", exchange.method, exchange.path)
            if exchange.responded:
                raise
            _refuse(exchange, 500, "the engine made a mistake; its log has the details")

    def _resolve(self, exchange: Exchange) -> Handler:
        if (clean := _clean(exchange.path)) != exchange.path:
            return _moved(clean, exchange)
        parts = exchange.path.removeprefix("/").split("/")
        version = _version(parts[0])
        if version:
            parts.pop(0)
        exchange.version = version or API_VERSION
        if exchange.method == "OPTIONS":
            handler: Handler | None = _options
        else:
            handler = self._find(exchange.method, parts, exchange)
        if handler is None and exchange.method == "HEAD":
            handler = self._find("GET", parts, exchange)
        if handler is None:
            raise errors.NotFound("page not found")
        if version:
            _check_version(version)
        return handler

    def _find(self, method: str, parts: list[str], exchange: Exchange) -> Handler | None:
        for known, pattern, handler in self._routes:
            if known == method:
                found = match(pattern, parts)
                if found is not None:
                    exchange.parameters, exchange.route = found, "/" + "/".join(pattern).replace("...}", "}")
                    return handler
        return None


async def _options(exchange: Exchange) -> None:
    exchange.respond(200)


def _clean(path: str) -> str:
    """The path without empty parts, `.` and `..`; a slash at its end stays."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean if clean == "/" or not path.endswith("/") else f"{clean}/"


def _moved(path: str, exchange: Exchange) -> Handler:
    async def redirect(exchange: Exchange) -> None:
        exchange.respond(301, headers={"Location": quote(path) + (f"?{exchange.raw_query}" if exchange.raw_query else "")})

    return redirect


def _refuse(exchange: Exchange, status: int, message: str) -> None:
    if status == 304:
        exchange.respond(status)
    elif exchange.version and version_numbers(exchange.version) < (1, 24):  # clients of that age expect the bare text
        exchange.respond_text(status, f"{message}\n")
    else:
        exchange.respond(status, {"message": message})


def _version(part: str) -> str:
    """`v1.41` -> '1.41'; '' for what is no version. Docker takes digits and dots in any order for one."""
    return part[1:] if re.fullmatch(r"v[0-9.]{1,20}", part) else ""


def _check_version(version: str) -> None:
    if version_numbers(version) > version_numbers(API_VERSION):
        raise errors.InvalidParameter(f"client version {version} is too new. Maximum supported API version is {API_VERSION}")
    if version_numbers(version) < version_numbers(MIN_API_VERSION):
        raise errors.InvalidParameter(
            f"client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, "
            "please upgrade your client to a newer version"
        )
