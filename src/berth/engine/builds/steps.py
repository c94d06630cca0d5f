"""A build's `RUN`: a container over the layers so far, whose changes become the next layer.

It has what every container has, and no more rights; it differs in what it is made from and in that nobody sees it in a list.
"""

import contextlib
import os
import posixpath
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from berth import errors
from berth.build import graph
from berth.build.worker import Finished, Given, Layers, Output, Tree
from berth.engine import idmaps
from berth.engine.builds import limits
from berth.engine.builds.mounts import CacheMounts, Fill, Secrets
from berth.engine.changes import hidden_places
from berth.engine.commit import Commits
from berth.engine.containers import ContainerService
from berth.engine.mountpoints import BIND, CHAIN, IMAGE, TMPFS, MountPoint
from berth.engine.mountrules import WantedMount
from berth.engine.registry import Container
from berth.engine.tasks import stoppable, whole
from berth.runtime import frames
from berth.store.images import ImageStore
from berth.store.layering import make_layer

_SCRIPT_PLACE = "/dev/pipes"
_LEAST_BYTES = 1 << 20
_MOST_PROCESSES = 8_192  # of one step, where nobody says otherwise: a fork bomb must not take the host along


class Steps:
    """Runs the steps of one engine's builds."""

    def __init__(self, containers: ContainerService, commits: Commits, images: ImageStore, caches: CacheMounts) -> None:
        self._containers = containers
        self._commits = commits
        self._images = images
        self._caches = caches

    async def run(
        self, op: graph.Run, base: Layers, given: Given, output: Output, *, secrets: Secrets, keep: Callable[[str], object], scratch: str,
        script: Callable[[], str], fill: Fill,
    ) -> Finished:  # fmt: skip
        """scratch: a directory in memory for secrets; script: makes one, not there, where programs may run: /run has noexec on Debian; keep: see make_layer; fill: see CacheMounts. Cancelled: nothing is left."""
        async with AsyncExitStack() as stack:
            mounts, variables = await self._mounts(op, given, secrets, stack, scratch, script, fill)
            container = await whole(self._containers.create_step(base.chain, _config(op), _host(op), mounts, variables))
            try:
                code = await self._run(container, output)
                if code:
                    full = "" if container.record.error else _full(self._containers.directory(container))
                    return Finished(code, None, "it ran out of memory" if container.record.oom_killed else container.record.error or full)
                await container.monitor_gone.wait()
                chain = await self._layer(container, op, base, keep)
                return Finished(0, Layers(chain, self._diffs(chain)))
            finally:
                await whole(self._remove(container))

    def _diffs(self, chain: str) -> tuple[str, ...]:
        return tuple(layer.diff for layer in self._images.layers_below(chain) or [])

    async def _run(self, container: Container, output: Output) -> int:
        """Starts the program and follows it to its end -> exit code."""
        ended = self._containers.wait_registered(container, "next-exit")
        connection = await self._containers.attach(container, frames.WANT_STDOUT | frames.WANT_STDERR)
        try:
            await whole(self._containers.start(container))  # its program would run on although nobody knew
            if connection:
                async for kind, data in connection.frames():
                    if kind in (frames.STDOUT, frames.STDERR):
                        output(1 if kind == frames.STDOUT else 2, data)
            return await ended
        except errors.StartFailed as error:
            output(2, f"{error}\n".encode())
            return error.exit_code
        finally:
            if connection:
                connection.close()

    async def _layer(self, container: Container, op: graph.Run, base: Layers, keep: Callable[[str], object]) -> str:
        hidden = hidden_places([*(mount.target for mount in op.mounts if mount.target), *([_SCRIPT_PLACE] if op.script else [])])
        async with self._commits.writing(container, hidden=hidden, latest_s=op.epoch) as write:
            return await stoppable(lambda stop: make_layer(self._images, base.chain, write, keep, stop))

    async def _remove(self, container: Container) -> None:
        with contextlib.suppress(errors.NotModified, errors.Conflict):
            await self._containers.remove(container, force=True)
        await container.monitor_gone.wait()

    # -- what it has mounted --------------------------------------------------------------------------------

    async def _mounts(
        self, op: graph.Run, given: Given, secrets: Secrets, stack: AsyncExitStack, scratch: str, script: Callable[[], str], fill: Fill
    ) -> tuple[list[WantedMount], tuple[str, ...]]:
        found: list[MountPoint] = []
        variables: list[str] = []
        for mount in op.mounts:
            if mount.kind == graph.BIND:
                found.append(_shown(mount, given.results[mount.input]))
            elif mount.kind == graph.TMPFS:
                size = (f"size={mount.size_bytes}",) if mount.size_bytes else ()
                found.append(MountPoint(kind=TMPFS, destination=mount.target, options=("exec", "dev", "suid", "mode=1777", *size)))
            elif mount.kind == graph.CACHE:
                path = await stack.enter_async_context(self._caches.use(mount, fill))
                found.append(self._with_own_ids(MountPoint(kind=BIND, destination=mount.target, source=path, read_only=mount.read_only), op))
            else:
                point, variable = await secrets.mount(mount, scratch)
                found += [self._with_own_ids(point, op)] if point else []
                variables += [variable] if variable else []
        if op.script:
            found.append(MountPoint(kind=BIND, destination=_SCRIPT_PLACE, source=_script(op, script()), read_only=True))
        found.sort(key=lambda point: point.destination.count("/"))
        return [WantedMount(point=point) for point in found], tuple(variables)

    def _with_own_ids(self, point: MountPoint, op: graph.Run) -> MountPoint:
        """One whose files have the ids on disk that a step sees, whatever user namespace it is in: a cache stays of use with another."""
        remap = self._containers.host.remap
        return replace(point, idmap=idmaps.unchanged(remap)) if remap and op.security != "insecure" else point


def _full(directory: str) -> str:
    """Words for a disk that has no room any more: programs that fail of it do not always say so."""
    found = os.statvfs(directory)
    is_full = found.f_bavail * found.f_frsize < _LEAST_BYTES or (found.f_files and not found.f_favail)
    return "no space is left on the engine's disk" if is_full else ""


def _shown(mount: graph.Mount, result: Layers | Tree) -> MountPoint:
    source = CHAIN + result.chain if isinstance(result, Layers) else result.path
    if isinstance(result, Layers) and not result.chain:
        raise errors.InvalidParameter(f"mount at {mount.target}: scratch has no files to mount")
    return MountPoint(
        kind=IMAGE, destination=mount.target, source=source, name=mount.source or "/", read_only=mount.read_only,
        subpath=posixpath.normpath(mount.source).strip("/").removeprefix("./") if mount.source.strip("/.") else "",
    )  # fmt: skip


def _script(op: graph.Run, directory: str) -> str:
    os.chmod(directory, 0o755)
    path = f"{directory}/{posixpath.basename(op.words[0])}"
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(op.script)
    os.chmod(path, 0o755)
    return directory


def _config(op: graph.Run) -> dict:
    named = {} if op.network == "host" or op.network.startswith("container:") else {"Hostname": "berth-build"}
    return {
        "Cmd": list(op.words), "Env": [f"{key}={value}" for key, value in (*op.environment, *op.hidden)], "WorkingDir": op.directory,
        "User": op.user, "AttachStdout": True, "AttachStderr": True, **named,
    }  # fmt: skip


def _host(op: graph.Run) -> dict:
    return {
        "NetworkMode": op.network or "default", "LogConfig": {"Type": "none", "Config": {}}, "ExtraHosts": list(op.hosts),
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "Privileged": op.security == "insecure",
        "Devices": [{"PathOnHost": path, "PathInContainer": path} for path, required in op.devices if required or os.path.exists(path)],
        "PidsLimit": _MOST_PROCESSES, **limits.host_config(op.limits),
    }  # fmt: skip
