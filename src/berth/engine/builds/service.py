"""Builds, as the engine does them: a Dockerfile and a client's files become an image.

    DATA_ROOT/build/cache.db, mounts/    see build/cache.py, mounts.py
    DATA_ROOT/build/contexts/            see mirrors.py
    DATA_ROOT/build/work/<build>/        what one build has unpacked and mounted; emptied at start-up
    EXEC_ROOT/build/<build>/             in memory, see memory.py: its secrets, and sockets of agents
"""

import asyncio
import os
import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from berth import errors
from berth.build.cache import Cache
from berth.build.files.checksum import ChecksumCache
from berth.build.options import Options
from berth.build.progress import Report
from berth.build.solver import Shared
from berth.engine.builds import memory, pruning
from berth.engine.builds.bases import Bases
from berth.engine.builds.imports import Imports
from berth.engine.builds.job import BuildJob
from berth.engine.builds.layouts import Layouts
from berth.engine.builds.mirrors import Mirrors
from berth.engine.builds.mounts import CacheMounts
from berth.engine.builds.request import BuildRequest, Built, Client, filled
from berth.engine.builds.settings import SHARE_OF_DISK, BuildSettings
from berth.engine.builds.steps import Steps
from berth.engine.builds.worker import BuildWorker
from berth.engine.commit import Commits
from berth.engine.containers import ContainerService
from berth.engine.events import EventBus
from berth.engine.hostfiles import remove_directories
from berth.engine.images import publish
from berth.engine.rootview import RootViews
from berth.engine.tasks import to_its_end, whole
from berth.store.images import ImageStore

if TYPE_CHECKING:
    from berth.engine.distribution import Distribution


class BuildService:
    """The builds of one engine. Made with the first one, or with the first question about its cache."""

    def __init__(
        self, *, data_root: str, exec_root: str, containers: ContainerService, roots: RootViews, images: ImageStore, commits: Commits,
        events: EventBus, distribution: "Callable[[], Distribution]", settings: Callable[[], BuildSettings], ending: threading.Event,
    ) -> None:  # fmt: skip
        """ending: set when the engine ends, and waits for no file to be removed any more."""
        self._ending = ending
        self._directory = f"{data_root}/build"
        self._scratch = f"{exec_root}/build"
        memory.make(self._scratch)
        os.makedirs(f"{self._directory}/work", mode=0o700, exist_ok=True)
        self.cache = Cache(self._directory)
        self.checksums = ChecksumCache(f"{self._directory}/checksums.db")
        self.mounts = CacheMounts(f"{self._directory}/mounts")
        self.contexts = Mirrors(f"{self._directory}/contexts", ending)
        self._roots = roots
        self._images = images
        self._events = events
        self._distribution = distribution
        self._steps = Steps(containers, commits, images, self.mounts)
        self._shared = Shared(self.cache)
        self._bases = Bases(images, self._directory)
        self._running: dict[str, asyncio.Task[Built]] = {}
        self._settings = settings
        self._cleaning: asyncio.Task[None] | None = None
        self._unseen = False  # whether a build has ended since that began
        self._afterwards: dict[Client, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._afterwards:
            clients = list(self._afterwards)
            await asyncio.gather(*self._afterwards.values(), return_exceptions=True)
            for client in clients:
                self._afterwards.pop(client, None)
        await asyncio.gather(*([self._cleaning] if self._cleaning else []), return_exceptions=True)
        self.cache.close()
        self.checksums.close()

    def cancel(self, identity: str) -> None:
        """Ends a build by its id; nothing happens where there is none."""
        if task := self._running.get(identity):
            task.cancel()

    # -- a build ------------------------------------------------------------------------------------------

    async def build(self, request: BuildRequest, client: Client, report: Report, identity: str = "") -> Built:
        """Errors are BerthErrors. Cancelled: nothing of it is left but what the cache has."""
        identity = identity or secrets.token_hex(8)
        name = secrets.token_hex(8)
        task = asyncio.ensure_future(self._build(request, client, report, name))
        self._running[identity] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled() or task.exception():
                raise errors.Conflict("the build was cancelled") from None
            raise
        finally:
            self._running.pop(identity, None)

    async def _build(self, request: BuildRequest, client: Client, report: Report, name: str) -> Built:
        directory, scratch = f"{self._directory}/work/{name}", f"{self._scratch}/{name}"
        imports = Imports(self._images)
        worker = BuildWorker(
            images=self._images, roots=self._roots, steps=self._steps, client=client, checksums=self.checksums, directory=directory,
            scratch=scratch, pull=request.pull, bases=self._bases, imports=imports, allowed=self._allowed(request),
            layouts=Layouts(self._images, self.cache, client, request.layouts),
        )  # fmt: skip
        try:
            return await BuildJob(
                request=filled(request), client=client, report=report, worker=worker, imports=imports, images=self._images, cache=self.cache,
                mounts=self.mounts, shared=self._shared, distribution=self._distribution, publish=partial(publish, self._events),
            ).run()  # fmt: skip
        except OSError as error:
            raise errors.SystemFailure(f"the build cannot go on: {error.strerror or error}") from error
        finally:
            after = self._afterwards[client] = asyncio.create_task(self._after(worker, imports, [directory, scratch]))
            if not worker.shared():
                await whole(after)

    async def _after(self, worker: BuildWorker, imports: Imports, directories: list[str]) -> None:
        """What a build leaves goes; a step that another build waits for still needs it."""
        while shared := worker.shared():
            await asyncio.wait(shared)
        imports.settle(self.cache)
        await imports.close()
        await worker.close()
        if there := _existing(directories):
            await to_its_end(lambda: remove_directories(there, self._ending))

    async def let_go(self, client: Client) -> None:
        """Closes a client that has its answer: when no other build waits for a step any more that reads its files."""
        after = self._afterwards.get(client)
        if after is None or after.done():
            self._afterwards.pop(client, None)
            await client.close()
            self._clean()
            return

        async def close() -> None:
            await asyncio.wait({after})
            await client.close()
            self._clean()

        self._afterwards[client] = task = asyncio.create_task(close())
        task.add_done_callback(lambda _: self._afterwards.pop(client, None))

    def _clean(self) -> None:
        """Begins to; once more, if it is under way and may not have seen the last build."""
        self._unseen = True
        if self._cleaning is None or self._cleaning.done():
            self._cleaning = asyncio.create_task(self._clean_up())

    async def _clean_up(self) -> None:
        while self._unseen:
            self._unseen = False
            await asyncio.to_thread(self._keep_small)

    def _allowed(self, request: BuildRequest) -> frozenset[str]:
        """What steps may ask for: the client must say so, and the engine's configuration must not forbid it."""
        settings = self._settings()
        found = {"network.host"} if settings.host_network else set()
        found |= {"security.insecure"} & set(request.allow) if settings.insecure else set()
        return frozenset(found | {each for each in request.allow if settings.device and each.partition("=")[0] == "device"})

    def _keep_small(self) -> None:
        """After a build, while nobody waits: what was used is written down, and what the cache holds too much of goes. Blocks."""
        self.cache.flush()
        most = self._settings().cache_bytes
        if most is None:
            return
        if not most:
            disk = os.statvfs(self._directory)
            most = int(disk.f_blocks * disk.f_frsize * SHARE_OF_DISK)
        if pruning.may_exceed(self.cache, self.mounts, self._images, most):
            pruning.prune(self.cache, self.mounts, self.contexts, self._images, pruning.Wanted({}, everything=False, most_bytes=most, least_free_bytes=0))

    # -- the cache ------------------------------------------------------------------------------------------

    def new_directory(self) -> str:
        """For what a client sends, on the store's file system; the caller removes it."""
        path = f"{self._directory}/work/{secrets.token_hex(8)}"
        os.mkdir(path, 0o700)
        return path

    def new_scratch(self) -> str:
        """The same in memory, for what must not reach a disk."""
        path = f"{self._scratch}/{secrets.token_hex(8)}"
        os.mkdir(path, 0o700)
        return path

    def remove_directory(self, path: str) -> None:
        """One that `new_directory` or `new_scratch` made. Blocks."""
        remove_directories([path], self._ending)

    async def prune(
        self, *, everything: bool, filters: dict[str, list[str]], keep_bytes: int, most_bytes: int, least_free_bytes: int
    ) -> tuple[list[str], int]:
        """Removes records, those used least recently first, and what only they kept -> their ids, and bytes."""
        most_bytes = min(keep_bytes or most_bytes, most_bytes or keep_bytes)
        wanted = pruning.Wanted(filters, everything=everything, most_bytes=most_bytes, least_free_bytes=least_free_bytes)
        removed, reclaimed = await asyncio.to_thread(pruning.prune, self.cache, self.mounts, self.contexts, self._images, wanted)
        self._events.publish("builder", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    def usage(self) -> list[dict]:
        """The entries of `system df`'s build cache. Blocks."""
        return pruning.usage(self.cache, self.mounts, self.contexts, self._images)


def _existing(paths: list[str]) -> list[str]:
    return [path for path in paths if os.path.lexists(path)]


__all__ = ["BuildService", "Options"]
