"""A container's root file system as a descriptor: of the running container itself, or a view made by the launcher.

Whoever has it resolves paths with openat2 beneath it (RESOLVE_IN_ROOT); nothing of it is a path of the host.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from berth import errors
from berth.engine import hostfiles, state
from berth.engine.asking import ask
from berth.engine.containers import ContainerService
from berth.engine.monitors import Launcher
from berth.engine.registry import Container
from berth.store.imagerecords import Lower
from berth.store.images import ImageStore

Maps = tuple[list[dict], list[dict]]


class RootViews:
    """Makes views; knows where a container's layers are and whose ids its files have."""

    def __init__(self, containers: ContainerService, images: ImageStore, launcher: Launcher) -> None:
        self._containers = containers
        self._images = images
        self._launcher = launcher

    def maps(self, container: Container) -> Maps:
        """The container's id mappings; empty without a user namespace."""
        host, remap = container.record.host, self._containers.host.remap
        return ([], []) if remap is None or host.get("UsernsMode") == "host" or host.get("Privileged") else remap

    @asynccontextmanager
    async def live(self, container: Container, *, write: bool) -> AsyncIterator[int]:
        """The root as the container has it, bind mounts and all; of a running one with its tmpfs too.

        write: keeps a container that does not run from being started or removed meanwhile.
        """
        async with AsyncExitStack() as stack:
            root = self._open_of_running(container, "root", os.O_PATH | os.O_DIRECTORY)
            if root < 0 and write:
                await stack.enter_async_context(container.lock)
                root = self._open_of_running(container, "root", os.O_PATH | os.O_DIRECTORY)
                if root >= 0:
                    await stack.aclose()  # it has been started while we waited: nothing to keep it from
                else:
                    await container.monitor_gone.wait()
            if root >= 0:
                stack.callback(os.close, root)
            else:
                view = self._view(container, self._lower(container), read_only=not write, binds=True)
                root = await stack.enter_async_context(view)
            yield root

    @asynccontextmanager
    async def merged(self, container: Container) -> AsyncIterator[int]:
        """Image and changes, without anything mounted in it; only to be looked at."""
        namespace = self._open_of_running(container, "ns/mnt", os.O_RDONLY)
        if namespace < 0:
            async with self._view(container, self._lower(container), read_only=True, binds=False) as root:
                yield root
            return
        try:
            root = await self._ask({"kind": "view", "rootfs": None}, [namespace])
        finally:
            os.close(namespace)
        try:
            yield root
        finally:
            os.close(root)

    def image(self, container: Container) -> AbstractAsyncContextManager[int]:
        """The image alone."""
        nothing = self._empty(container, "no-upper")
        return self._view(container, self._lower(container), read_only=True, binds=False, upper=nothing)

    def upper(self, container: Container) -> str:
        """The directory of what the container changed, with overlayfs's marks; made if it never started."""
        path = f"{self._containers.directory(container)}/upper"
        os.makedirs(path, mode=0o755, exist_ok=True)
        return path

    def _open_of_running(self, container: Container, name: str, flags: int) -> int:
        """A file below /proc/PID of the first program, or -1 if it does not run."""
        record = container.record
        if not record.running:
            return -1
        try:
            fd = os.open(f"/proc/{record.pid}/{name}", flags | os.O_CLOEXEC)
        except OSError:
            return -1
        if hostfiles.start_ticks(record.pid) == record.pid_start_ticks:
            return fd
        os.close(fd)  # the number belongs to somebody else by now
        return -1

    def _lower(self, container: Container) -> Lower:
        found = self._containers.lower_of(container.record)
        return found if found.directories else found.below(self._empty(container))

    def _empty(self, container: Container, name: str = "empty") -> str:
        path = f"{self._containers.directory(container)}/{name}"
        os.makedirs(path, exist_ok=True)
        return path

    async def of_layers(self, chain: str, scratch: str) -> int:
        """The root that layers make, to be looked at; the caller's to close. scratch: a directory of the caller's own.

        Seen with the ids that layers have in the store, whatever containers' are mapped to.
        """
        lower = self._images.lower_of_chain(chain)
        for name in ("upper", "work", "rootfs"):
            os.makedirs(f"{scratch}/{name}", mode=0o755, exist_ok=True)
        rootfs = {**lower.fields(), "upper": f"{scratch}/upper", "work": f"{scratch}/work", "base": scratch, "read_only": True}
        return await self._ask(
            {"kind": "view", "target": f"{scratch}/rootfs", "uid_mappings": [], "gid_mappings": [], "rootfs": rootfs, "binds": []}, []
        )

    @asynccontextmanager
    async def _view(
        self, container: Container, lower: Lower, *, read_only: bool, binds: bool, upper: str = ""
    ) -> AsyncIterator[int]:
        if container.record.status == state.REMOVING:
            raise errors.Conflict(f"container {container.record.id} is marked for removal")
        directory = self._containers.directory(container)
        work = f"{directory}/work"
        os.makedirs(work, mode=0o700, exist_ok=True)
        maps = self.maps(container)
        rootfs = {
            **lower.fields(), "upper": upper or self.upper(container), "work": work, "base": directory, "read_only": read_only,
        }  # fmt: skip
        message = {
            "kind": "view", "target": f"{directory}/rootfs", "uid_mappings": maps[0], "gid_mappings": maps[1], "rootfs": rootfs,
            "binds": self._containers.mounts_to_view(container, lower) if binds else [],
        }  # fmt: skip
        async with self._containers.volumes_held(container) if binds else AsyncExitStack():
            root = await self._ask(message, [])
            try:
                yield root
            finally:
                os.close(root)

    async def _ask(self, message: dict, fds: list[int]) -> int:
        return await ask(self._launcher, message, fds, "mounts a container's root file system")
