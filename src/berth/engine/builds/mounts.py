"""What a build's step has mounted beside files: cache directories, which builds share, and secrets, which are in memory alone."""

import asyncio
import contextlib
import hashlib
import itertools
import os
import posixpath
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from berth import errors
from berth.build import graph
from berth.engine.hostfiles import remove_directories
from berth.engine.mountpoints import BIND, MountPoint

SHARED, PRIVATE, LOCKED = "shared", "private", "locked"
_DEFAULT_SECRETS = "/run/secrets"
_FileMode = 0o400


class Ask(Protocol):
    """A build's client: knows secrets and has an agent for ssh."""

    async def secret(self, identity: str) -> bytes | None: ...

    async def ssh_socket(self, identity: str, uid: int, gid: int, mode: int) -> str | None: ...


Fill = Callable[[graph.Mount, str], Awaitable[None]]


class Secrets:
    """Of one build."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._number = 0

    async def mount(self, mount: graph.Mount, scratch: str) -> tuple[MountPoint | None, str]:
        """What is mounted, and the variable it is given in; neither where there is none and none is required."""
        if mount.kind == graph.SSH:
            return await self._agent(mount)
        identity = mount.identity or posixpath.basename(mount.target)
        value = await self._ask.secret(identity)
        if value is None:
            if mount.required:
                raise errors.InvalidParameter(f"secret {identity}: not found; give it with --secret id={identity},src=FILE")
            return None, ""
        variable = f"{mount.env}={value.decode(errors='surrogateescape')}" if mount.env else ""
        if mount.env and not mount.target:
            return None, variable
        self._number += 1
        path = f"{scratch}/secret-{self._number}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(value)
            os.fchown(fd, mount.uid, mount.gid)
            os.fchmod(fd, _FileMode if mount.mode is None else mount.mode)
        target = mount.target or f"{_DEFAULT_SECRETS}/{identity}"
        return MountPoint(kind=BIND, destination=target, source=path, read_only=True), variable

    async def _agent(self, mount: graph.Mount) -> tuple[MountPoint | None, str]:
        identity = mount.identity or "default"
        path = await self._ask.ssh_socket(identity, mount.uid, mount.gid, 0o600 if mount.mode is None else mount.mode)
        if path is None:
            if mount.required:
                raise errors.InvalidParameter(f"no ssh agent {identity!r}: give one with --ssh {identity}")
            return None, ""
        target = mount.target or "/run/buildkit/ssh_agent.0"
        return MountPoint(kind=BIND, destination=target, source=path), f"SSH_AUTH_SOCK={target}"


class CacheMounts:
    """The directories of `--mount=type=cache`, below one directory. Used from the loop alone."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self._locks: dict[str, asyncio.Lock] = {}
        self.used: Counter[str] = Counter()  # those that steps have now

    @asynccontextmanager
    async def use(self, mount: graph.Mount, fill: Fill) -> AsyncIterator[str]:
        """The path of its directory, for as long as a step has it. fill: puts into a new one what `from=` names."""
        name = hashlib.sha256((mount.identity or mount.target).encode()).hexdigest()[:32]
        if mount.sharing == PRIVATE:
            number = next(each for each in itertools.count() if not self.used[f"{name}.{each}"])
            name = f"{name}.{number}"
        async with self._locks.setdefault(name, asyncio.Lock()) if mount.sharing == LOCKED else contextlib.nullcontext():
            self.used[name] += 1
            try:
                yield await self._made(name, mount, fill)
            finally:
                self.used[name] -= 1
                if not self.used[name]:
                    del self.used[name]

    async def _made(self, name: str, mount: graph.Mount, fill: Fill) -> str:
        path = self.path(name)
        if self._make(path, mount) and mount.input:
            try:
                await fill(mount, path)
            except BaseException:
                self.remove(name)  # the next one begins anew
                raise
        return path

    def _make(self, path: str, mount: graph.Mount) -> bool:
        """Whether it is new; its other file says what it is called, and when it was last used."""
        with open(f"{path}.about", "w") as file:
            file.write(f"{mount.identity or mount.target}\n")
        if os.path.isdir(path):
            return False
        os.mkdir(path, 0o700)
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, 0o755 if mount.mode is None else mount.mode)
        return True

    def all(self) -> list[tuple[str, str, float]]:
        """(name, what it is called, when it was last used, in seconds since the epoch)."""
        found = []
        for name in os.listdir(self._directory):
            if name.endswith(".about"):
                with open(f"{self._directory}/{name}") as file:
                    found.append((name.removesuffix(".about"), file.read().strip(), os.fstat(file.fileno()).st_mtime))
        return found

    def path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def remove(self, name: str) -> None:
        """One that no step has now. Blocks."""
        doomed = f"{self._directory}/{name}.gone-{time.time_ns()}"
        os.rename(f"{self._directory}/{name}", doomed)
        os.unlink(f"{self._directory}/{name}.about")
        remove_directories([doomed])
