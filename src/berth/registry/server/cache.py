"""A registry as a cache of another one: what is asked for is fetched once, sent on as it comes, and kept."""

from berth.registry.server.contents import Manifest
from berth.registry.server.registry import Registry, Request


class Cache:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def manifest(self, name: str, reference: str) -> Manifest:
        raise NotImplementedError

    async def blob(self, request: Request, digest: str) -> None:
        raise NotImplementedError

    async def tags(self, name: str) -> list[str]:
        raise NotImplementedError

    async def referrers(self, name: str, digest: str) -> list[dict]:
        raise NotImplementedError
