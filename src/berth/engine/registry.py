"""The containers there are: their records in memory and in the database, and where their files are.

`ContainerService` (containers.py) is made of layers, each in a module of its own and knowing only those above it:

    Registry          finding, saving, telling
      Mounting        what it mounts, from its making to its end
      Preparing       a record -> the bundle and the launcher's message
        Running       start, stop, kill, restart policies, what becomes of a monitor
          Remounting  mounts changed while it runs
            Updating    limits, ports and mounts changed as one
              Restoring   what an earlier engine left
                ContainerService   create, rename, remove, streams
"""

import asyncio
import logging
import os
import socket
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from berth import errors
from berth.engine import bundle, views
from berth.engine.events import EventBus
from berth.engine.execbase import ExecBase
from berth.engine.monitors import Launcher, MonitorConnection
from berth.engine.mountpoints import IMAGE, of_record
from berth.engine.nets.endpointnames import endpoints_of
from berth.engine.nets.endpoints import Endpoints
from berth.engine.shown import Shown, with_field
from berth.engine.state import Record
from berth.engine.tasks import Tasks
from berth.engine.volumes import Volumes
from berth.linux import cgroup
from berth.runtime.container import host_id
from berth.store.database import Database, Statement
from berth.store.imagerecords import Lower
from berth.store.images import ImageStore

log = logging.getLogger("berth.containers")

SHORT = 12
_KEPT_REMOVED = 64


class Container:
    """A record and what only a running engine has."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.control: MonitorConnection | None = None
        self.monitor_gone = asyncio.Event()
        self.monitor_gone.set()
        self.pending_attach: list[tuple[socket.socket, int]] = []
        self.ended: asyncio.Event = asyncio.Event()
        self.exit_waiters: list[asyncio.Future[int]] = []
        self.removed_waiters: list[asyncio.Future[int]] = []
        self.holds_mounts = False  # it runs or is being started: its volumes are in use
        self.execs: list[str] = []
        self.exec_base: ExecBase | None = None
        self.shown = Shown()
        self.secrets: tuple[str, ...] = ()  # variables of its program that are written nowhere
        self.cancelled = False  # a person has ended this run: no restart after it
        self.restart_cancelled = asyncio.Event()


class Host:
    """What the engine found out about its host once, at start-up."""

    def __init__(self, *, machine: str, hosts: cgroup.Hierarchies, bounding: int, apparmor: bool, selinux: bool,
                 landlock_abi: int, init: str, runtimes: dict[str, str], remap: tuple[list[dict], list[dict]] | None,
                 default_runtime: str) -> None:  # fmt: skip
        self.machine = machine
        self.hosts = hosts
        self.bounding = bounding
        self.apparmor = apparmor
        self.selinux = selinux
        self.landlock_abi = landlock_abi
        self.init = init
        self.runtimes = runtimes
        self.remap = remap
        self.default_runtime = default_runtime

    @property
    def root_owner(self) -> tuple[int, int]:
        """Who root of a container is on the host."""
        return (host_id(self.remap[0]), host_id(self.remap[1])) if self.remap else (0, 0)


class Registry:
    """All containers of one data root, by id and name."""

    def __init__(
        self, *, data_root: str, exec_root: str, host: Host, database: Database, images: ImageStore,
        launcher: Launcher, events: EventBus, tasks: Tasks, volumes: Volumes, endpoints: Endpoints,
    ) -> None:  # fmt: skip
        self._data = f"{data_root}/containers"
        self._exec = f"{exec_root}/containers"
        self._seccomp_cache = f"{data_root}/cache/seccomp"
        self._runtime_root = f"{exec_root}/runtime"
        self.host = host
        self._database = database
        self._images = images
        self._launcher = launcher
        self._events = events
        self._tasks = tasks
        self._volumes = volumes
        self._endpoints = endpoints
        for path in (self._data, self._exec):
            os.makedirs(path, mode=0o711, exist_ok=True)
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._removed: deque[Record] = deque(maxlen=_KEPT_REMOVED)  # what `why` may still be asked of
        self.on_running: list[Callable[[Container], None]] = []  # told of each run, and of those found running
        self.on_found: list[Callable[[Container], Awaitable[None]]] = []  # told of each when the engine starts, before its end is

    # -- looking up -----------------------------------------------------------------------------

    def all(self) -> list[Container]:
        """Newest first; those that only run a build's step are no business of who asks."""
        found = [c for c in self._by_id.values() if c.record.step is None]
        return sorted(found, key=lambda c: c.record.created_ns, reverse=True)

    def lower_of(self, record: Record) -> Lower:
        """The layers below what a container writes; Conflict where they are gone."""
        try:
            if record.step is not None:
                return self._images.lower_of_chain(record.step)
            return self._images.lower(self._images.find(record.image_id))
        except errors.NotFound:
            raise errors.Conflict(f"image {record.image_id} of the container is gone; remove the container") from None

    def find(self, text: str) -> Container:
        """By id, name or start of an id. NotFound in the words Docker's clients match."""
        if not text:
            raise errors.InvalidParameter('invalid name or ID supplied: ""')
        name = text.removeprefix("/")
        found = self._by_id.get(text) or self._by_name.get(name)
        if found:
            return found
        matches = [c for identity, c in self._by_id.items() if text and identity.startswith(text)]
        if len(matches) > 1:
            raise errors.InvalidParameter(f"Multiple IDs found with provided prefix: {text}")
        if not matches:
            raise errors.NotFound(f"No such container: {text}")
        return matches[0]

    def find_removed(self, text: str) -> Record | None:
        """The last that had this id or name, or an id that begins so; of those removed since the engine started."""
        name = text.removeprefix("/")
        return next((r for r in reversed(self._removed) if name == r.name or (text and r.id.startswith(text))), None)

    def directory(self, container: Container) -> str:
        """Where a container's files are, below the data root."""
        return f"{self._data}/{container.record.id}"

    def state_directory(self, container: Container) -> str:
        """Where a container's sockets are, below the exec root."""
        return f"{self._exec}/{container.record.id}"

    def images_in_use(self) -> dict[str, str]:
        """Image id -> the container that uses it, in Docker's words; running ones before stopped."""
        found: dict[str, str] = {}
        for container in sorted(self._by_id.values(), key=lambda c: c.record.running):
            kind = "running" if container.record.running else "stopped"
            mounted = [point.source for point in of_record(container.record) if point.kind == IMAGE]
            for image in (*mounted, container.record.image_id):
                found[image] = f"{kind} container {container.record.id[:SHORT]}"
        return found

    def inspect(self, container: Container) -> dict:
        """Docker's inspect payload."""
        profile = "" if not self.host.apparmor else bundle.APPARMOR_DEFAULT
        try:
            lower = ":".join(self.lower_of(container.record).directories)
        except errors.Conflict:
            lower = ""
        return views.inspect(
            container.record, directory=self.directory(container), lower=lower, execs=container.execs, platform="linux", apparmor=profile,
            volume_path=self._volumes.mountpoint,
        )

    def inspect_json(self, container: Container, version: str, shaped: Callable[[dict], dict]) -> bytes:
        """The same as JSON; shaped: what the version of the API makes of it."""
        key = container.record.changes, version, *container.execs
        return container.shown.json("inspect", key, lambda: shaped(self.inspect(container)))

    def list_json(self, containers: list[Container], version: str) -> bytes:
        """The JSON of a list of ContainerSummary."""
        names: dict[tuple[str, str], str] = {}
        found = []
        for container in containers:
            record = container.record
            image = record.image_name, record.image_id
            if (name := names.get(image)) is None:
                name = names[image] = self.image_name(record)
            entry = container.shown.json("entry", (record.changes, version, name), partial(self._entry, record, name))
            found.append(with_field(entry, "Status", views.status_text(record)))
        return b"[%b]" % b", ".join(found)

    def summary(self, container: Container) -> dict:
        """An element of GET /containers/json."""
        return views.summary(container.record, self.image_name(container.record), self._volumes.mountpoint)

    def _entry(self, record: Record, image_name: str) -> dict:
        """A list's entry without what tells a time."""
        found = views.summary(record, image_name, self._volumes.mountpoint)
        del found["Status"]
        return found

    def image_name(self, record: Record) -> str:
        """What `ps` shows: the name given, unless it means another image by now."""
        try:
            same = self._images.find(record.image_name).id == record.image_id
        except errors.BerthError:
            same = False
        return record.image_name if same else record.image_id.removeprefix("sha256:")[:SHORT]

    def _group(self, container: Container) -> cgroup.Cgroup:
        parent = (container.record.host.get("CgroupParent") or "/berth").strip("/")
        return cgroup.open_cgroup(f"/{parent}/{container.record.id}", self.host.hosts)

    def group(self, container: Container) -> cgroup.Cgroup:
        """The container's cgroup, for who counts or lists what is in it."""
        return self._group(container)

    def _update_of(self, container: Container) -> Statement:
        record = container.record
        return "UPDATE containers SET name = ?, record = ? WHERE id = ?", (record.name, record.to_json(), record.id)

    async def save(self, container: Container) -> None:
        await self._database.write(self._update_of(container), lasting=not container.record.auto_remove)

    async def save_quietly(self, container: Container) -> None:
        """For what nobody asked for: a full disk must not keep what follows from being done."""
        try:
            await self.save(container)
        except (errors.SystemFailure, sqlite3.Error) as error:
            log.error("container %s cannot be saved: %s", container.record.id[:SHORT], error)

    def publish(self, container: Container, action: str, extra: dict[str, str] | None = None) -> None:
        record = container.record
        if record.step is not None:
            return  # the build tells
        attributes = {**(record.config.get("Labels") or {}), "image": record.image_name, "name": record.name, **(extra or {})}
        self._events.publish("container", action, record.id, attributes)

    def publish_network(self, container: Container, action: str) -> None:
        """`connect` or `disconnect` of the networks that the container is in while it runs; as Docker, also for `none`."""
        if container.record.step is not None:
            return
        for name in endpoints_of(container.record):
            if network := self._endpoints.network(name):
                attributes = {"container": container.record.id, "name": network.name, "type": network.driver}
                self._events.publish("network", action, network.id, attributes)
