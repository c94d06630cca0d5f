"""A registry's parts in one place, and what its handlers share."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from berth.http.exchange import Exchange
from berth.registry.server.access import Access, Identity
from berth.registry.server.contents import Contents
from berth.registry.server.index import Index
from berth.registry.server.metrics import Metrics
from berth.registry.server.options import Options
from berth.registry.server.refusals import Refused
from berth.registry.server.uploads import Uploads

if TYPE_CHECKING:
    from berth.registry.server.cache import Cache
    from berth.registry.server.collect import Collector

log = logging.getLogger("berth.registry")

_THREADS = 16
_PIECE_TIMEOUT_S = 60.0
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Registry:
    """cache: of another registry, or None; then nobody pushes here."""

    def __init__(self, options: Options, contents: Contents, uploads: Uploads, access: Access, index: Index, metrics: Metrics) -> None:
        self.options = options
        self.contents = contents
        self.uploads = uploads
        self.access = access
        self.index = index
        self.metrics = metrics
        self.cache: Cache | None = None
        self.collector: Collector | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="registry")

    async def run(self, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        """What blocks, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*arguments, **named))

    def close(self) -> None:
        if self.cache:
            self.cache.close()
        self.access.close()
        self._pool.shutdown(wait=True)
        self.uploads.close()


class Request:
    """One request, with what its path named and who asks. name: of the repository, or ''."""

    __slots__ = ("exchange", "parts", "who")

    def __init__(self, exchange: Exchange, parts: dict[str, str], who: Identity) -> None:
        self.exchange, self.parts, self.who = exchange, parts, who

    @property
    def name(self) -> str:
        return self.parts.get("name", "")

    async def piece(self) -> bytes:
        """The next bytes of the body, b'' at its end. Refused if none come for too long."""
        try:
            async with asyncio.timeout(_PIECE_TIMEOUT_S):
                return await self.exchange.body.read()
        except TimeoutError:
            raise Refused("UNKNOWN", f"nothing came for {_PIECE_TIMEOUT_S:.0f} s", status=408) from None

    def number(self, name: str, default: int, most: int) -> int:
        """A query parameter that counts."""
        text = self.exchange.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise Refused("PAGINATION_NUMBER_INVALID", f"{name}={text[:40]!r} is not a number")
        return min(int(text), most)
