"""The endpoints of builds. What serves them is imported with the first request: no start of an engine pays for it."""

from functools import cached_property
from typing import TYPE_CHECKING

from berth.engine.service import Engine
from berth.http.exchange import Exchange
from berth.http.routing import Route

if TYPE_CHECKING:
    from berth.api.build import Build
    from berth.api.buildsession import BuildSessions


class Builds:
    """Handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        return [
            ("POST", "/build", self.build), ("POST", "/build/prune", self.prune), ("POST", "/build/cancel", self.cancel),
            ("POST", "/berth/build", self.session),
        ]  # fmt: skip

    @cached_property
    def _archives(self) -> "Build":
        from berth.api.build import Build

        return Build(self._engine)

    @cached_property
    def _sessions(self) -> "BuildSessions":
        from berth.api.buildsession import BuildSessions

        return BuildSessions(self._engine)

    async def build(self, exchange: Exchange) -> None:
        await self._archives.build(exchange)

    async def prune(self, exchange: Exchange) -> None:
        await self._archives.prune(exchange)

    async def cancel(self, exchange: Exchange) -> None:
        await self._archives.cancel(exchange)

    async def session(self, exchange: Exchange) -> None:
        await self._sessions.session(exchange)
