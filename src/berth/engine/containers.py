"""Containers: create, rename, remove, attach, logs; see registry.py for the layers below.

One lock per container. The database is written before anybody is told; memory is what is read.
"""

import contextlib
import os
import re
import secrets
import socket

from berth import errors
from berth.engine import bundle, imageplatform, logconfig, names, payload, state, validate
from berth.engine.logs import Form, LogReader, LogStream, Wanted
from berth.engine.monitors import MonitorConnection
from berth.engine.mounting import insertions
from berth.engine.mountrules import WantedMount
from berth.engine.nets import container as netcontainer
from berth.engine.nets import portmaps
from berth.engine.nets.endpoint import link
from berth.engine.nets.records import BRIDGE, HOST
from berth.engine.registry import SHORT, Container, Host
from berth.engine.restoring import Restoring
from berth.engine.state import Record
from berth.engine.volumerecord import VolumeRecord
from berth.oci import reference, users
from berth.oci.platforms import Platform

__all__ = ["Container", "ContainerService", "Host"]


_REMOVE_ATTEMPTS = 10


class ContainerService(Restoring):
    """All containers of one data root."""

    # -- create -----------------------------------------------------------------------------------

    async def create(
        self, name: str, config: dict, host: dict, endpoints: dict | None = None, *, platform: Platform | None = None
    ) -> tuple[Container, list[str]]:
        """Makes a container from Docker's Config, HostConfig and EndpointsConfig; returns it and warnings.

        platform: NotFound where the image is for another.
        """
        payload.check(config, host)
        wanted = config.get("Image") or ""
        if not wanted:
            raise errors.InvalidParameter("no image given: Config.Image is empty")
        reference.parse(wanted) if not reference.is_image_id(wanted) else None
        image = imageplatform.found(self._images, wanted, platform)
        if (host.get("NetworkMode") or "default") == "default":
            host["NetworkMode"] = mode = self._endpoints.default_mode
            endpoints = {mode if name == "default" else name: settings for name, settings in (endpoints or {}).items()}
        networking = netcontainer.container(config, host, endpoints or {}, (image.config.get("config") or {}).get("ExposedPorts"))
        config = payload.merged_config(config, image.config.get("config") or {})
        host["NetworkMode"] = networking.mode
        if bindings := host.get("PortBindings"):
            host["PortBindings"] = portmaps.whole(bindings)
        if self.host.hosts.version == 1:
            host.setdefault("OomKillDisable", False)
        policy = host.get("RestartPolicy") or {}
        host["RestartPolicy"] = {"Name": policy.get("Name") or "no", "MaximumRetryCount": policy.get("MaximumRetryCount") or 0}
        if (host.get("Memory") or 0) > 0 and not host.get("MemorySwap"):
            host["MemorySwap"] = 2 * host["Memory"]  # Docker's default; an update compares with it
        identity = secrets.token_hex(32)
        if not config.get("Hostname"):
            config["Hostname"] = os.uname().nodename if host.get("NetworkMode") == "host" else identity[:SHORT]
        validate.create(config, host, self.host.runtimes)
        host["Runtime"] = host.get("Runtime") or self.host.default_runtime
        self._check_shared(host)
        mounts = self._wanted_mounts(config, host)
        warnings = [*networking.warnings, *self._check_security(identity, config, host)]
        if name:
            validate.name(name)
            name = name.removeprefix("/")
            self._check_free(name)
        else:
            name = names.random_name(set(self._by_name))
        if host.get("Links"):
            host["Links"] = self._checked_links(name, host)
        record = Record(identity, name, image.id, wanted, config, host)
        record.endpoints = self._endpoints.wanted(networking, endpoints or {})
        container = Container(record)
        await self._add(container, mounts)
        self.publish(container, "create")
        return container, [*(imageplatform.warnings(image) if platform is None else []), *warnings]

    async def create_step(self, chain: str, config: dict, host: dict, mounts: list[WantedMount], secret_variables: tuple[str, ...] = ()) -> Container:
        """A container for a step of a build, with all that any other is kept apart by: over layers instead of an image, and in no list.

        secret_variables: NAME=value of its program, in memory alone. An engine that starts ends it.
        """
        payload.check(config, host)
        if (host.get("NetworkMode") or "default") == "default":
            host["NetworkMode"] = self._endpoints.default_mode
        networking = netcontainer.container(config, host, {})
        host["NetworkMode"] = networking.mode
        identity = secrets.token_hex(32)
        validate.create(config, host, self.host.runtimes)
        host["Runtime"] = self.host.default_runtime
        self._check_security(identity, config, host)
        record = Record(identity, f"build-{identity[:SHORT]}", "", "", config, host)
        record.step = chain
        record.endpoints = self._endpoints.wanted(networking, {})
        container = Container(record)
        container.secrets = secret_variables
        await self._add(container, mounts)
        return container

    async def _add(self, container: Container, mounts: list[WantedMount]) -> None:
        """Container and new volumes come into being in one transaction; if the volumes cannot be filled, neither was ever there."""
        record, inserted = container.record, False
        made: list[VolumeRecord] = []
        async with container.lock:
            try:
                async with self._settling(mounts) as (points, made):
                    self._check_free(record.name)  # there may have been a wait
                    record.mounts = [point.to_dict() for point in points]
                    self._by_id[record.id] = self._by_name[record.name] = container
                    inserted = True
                    insert = ("INSERT INTO containers VALUES (?, ?, ?)", (record.id, record.name, record.to_json()))
                    await self._database.write(*insertions(made), insert, lasting=bool(made) or not record.auto_remove)
                    await self._volumes.add(made)
                if await self._populate(container, mounted=False):
                    await self.save(container)
            except BaseException:
                if inserted:
                    await self._undo_create(container, made)
                raise

    def _check_shared(self, host: dict) -> None:
        for key in ("PidMode", "IpcMode", "NetworkMode"):
            mode = host.get(key) or ""
            if mode.startswith("container:"):
                try:
                    other = self.find(mode.partition(":")[2])
                except errors.NotFound as error:
                    # Clients take "not found" of a create for the image's, and pull it.
                    raise errors.InvalidParameter(str(error)) from None
                host[key] = f"container:{other.record.id}"

    def _checked_links(self, name: str, host: dict) -> list[str]:
        """As Docker shows them: /other:/own/alias. In a network of one's own they are the endpoint's."""
        if host["NetworkMode"] not in (BRIDGE, "default"):
            return list(host["Links"])
        found = []
        for text in host["Links"]:
            wanted, alias = link(text)
            try:
                other = self.find(wanted)
            except errors.BerthError as error:
                raise errors.InvalidParameter(f"could not get container for {wanted}: {error}") from None
            if (mode := other.record.host.get("NetworkMode") or "") == HOST:
                raise errors.InvalidParameter(
                    "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
                )
            if mode.startswith("container:"):
                other = self.find(mode.partition(":")[2])
            found.append(f"/{other.record.name}:/{name}/{alias}")
        return found

    async def _relink(self, old: str, name: str) -> None:
        """A container has another name, by which its links, and those to it, go."""
        for container in self.all():
            links = container.record.host.get("Links") or []
            renamed = [re.sub(rf"^/{re.escape(old)}:", f"/{name}:", text) for text in links]
            if container.record.name == name:
                renamed = [text.replace(f":/{old}/", f":/{name}/") for text in renamed]
            if renamed != links:
                container.record.host = {**container.record.host, "Links": renamed}
                await self.save_quietly(container)

    def _check_security(self, identity: str, config: dict, host: dict) -> list[str]:
        """Everything the specification would refuse is refused now and not at the start."""
        facts = self._facts(identity, host, users.ResolvedUser(0, 0, [], "/"), {}, check_only=True)
        bundle.specification(identity, config, host, facts)
        warnings = []
        self._check_host_has(host)
        have = self.host.hosts.controllers()
        for key, controller, words in (
            ("Memory", "memory", "memory limit"), ("PidsLimit", "pids", "pids limit"), ("CpuShares", "cpu", "CPU shares"),
        ):  # fmt: skip
            if (host.get(key) or 0) > 0 and controller not in have:
                raise errors.NotImplementedHere(f"your kernel does not support {words}: cgroup controller {controller!r} is missing")
        if (host.get("Memory") or 0) > 0 and host.get("OomKillDisable") and self.host.hosts.version == 2:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
            host["OomKillDisable"] = None
        return warnings

    async def rename(self, container: Container, name: str) -> None:
        """Gives a container another name."""
        if not name:
            raise errors.InvalidParameter("Neither old nor new names may be empty")
        shown = name if name.startswith("/") else f"/{name}"
        name = shown.removeprefix("/")
        async with container.lock:
            old = container.record.name
            if name == old:
                raise errors.InvalidParameter("Renaming a container with the same name as its current name")
            try:
                validate.name(shown)
                self._check_free(name)
            except errors.BerthError as error:
                raise type(error)(f"Error when allocating new name: {error}") from None
            if container.record.status == state.REMOVING:
                raise errors.NotFound(f"No such container: {container.record.id}")
            container.record.name = name
            self._by_name[name] = container  # both names are its own until the database has the new one
            try:
                await self.save(container)
            except BaseException:
                container.record.name = old
                del self._by_name[name]
                raise
            del self._by_name[old]
            await self._relink(old, name)
            await self._endpoints.renamed(container.record, self.directory(container))
            await self.save_quietly(container)
            self.publish(container, "rename", {"oldName": f"/{old}"})

    def _check_free(self, name: str) -> None:
        """Conflict in the words Docker's clients match if a container has this name."""
        if name in self._by_name:
            raise errors.Conflict(
                f'Conflict. The container name "/{name}" is already in use by container '
                f'"{self._by_name[name].record.id}". You have to remove (or rename) that container to be able to reuse that name.'
            )

    async def remove(self, container: Container, *, force: bool, volumes: bool = False) -> None:
        """Removes a container that does not run; with force, ends it first. volumes: its anonymous ones go with it."""
        record = container.record
        for _ in range(_REMOVE_ATTEMPTS):
            if record.active:
                if not force:
                    do = " and must be unpaused first" if record.status == state.PAUSED else ": stop the container before removing or force remove"
                    raise errors.Conflict(f'cannot remove container "/{record.name}": container is {record.status}{do}')
                with contextlib.suppress(errors.Conflict):  # it has ended by itself meanwhile, or somebody paused it
                    await self.kill(container, "SIGKILL", asked_by="rm")
            async with container.lock:
                if record.id not in self._by_id or record.status == state.REMOVING:
                    return
                if not record.active:  # else somebody has started it again
                    await self._forget(container, with_volumes=volumes or record.auto_remove)
                    return
        raise errors.Conflict(f'cannot remove container "/{record.name}": it is started again and again')

    # -- streams ------------------------------------------------------------------------------------

    async def attach(self, container: Container, wants: int) -> MonitorConnection | None:
        """A connection on which output comes and input goes; for one that is not started yet, too.

        None where the container has ended: there is nothing more to come.
        """
        connection = await self._attach_output(container, wants)
        self.publish(container, "attach")
        return connection

    def check_attachable(self, container: Container, name: str) -> None:
        """Conflict for one whose output cannot be had now. name: as the client gave it."""
        if container.record.status == state.PAUSED:
            raise errors.Conflict(f"container {name} is paused, unpause the container before attach")
        if container.record.status == state.RESTARTING:
            raise errors.Conflict(f"container {name} is restarting, wait until the container is running")

    async def _attach_output(self, container: Container, wants: int) -> MonitorConnection | None:
        if container.record.running:
            connection = await self._connect(container)
            if connection:
                await connection.attach(wants)
            return connection
        ours, theirs = socket.socketpair()
        entry = (theirs, wants)
        container.pending_attach.append(entry)
        connection = await MonitorConnection.of_socket(ours)
        connection.on_close = lambda: _withdraw(container, entry)
        return connection

    async def resize(self, container: Container, rows: int, columns: int) -> None:
        """Sets the size of the terminal; before the start it is kept for it."""
        if container.control is None or not container.record.running:
            raise errors.Conflict(f"container {container.record.id} is not running")
        await container.control.resize(rows, columns)
        self.publish(container, "resize", {"height": str(rows), "width": str(columns)})

    async def attach_with_history(
        self, container: Container, wants: int, form: Form
    ) -> tuple[LogStream, MonitorConnection | None]:
        """What the log has, and a connection on which all that is not in it comes: no byte twice, none left out."""
        reader, connection = self._reader(container), None
        try:
            if container.record.running:
                connection = await self._connect(container)
            if connection and reader:
                reader.end_at(*await connection.attach_after_log(wants))
            elif connection:
                await connection.attach(wants)
            connection = connection or await self._attach_output(container, wants)
            self.publish(container, "attach")
            return LogStream(reader, Wanted(), None, form), connection
        except BaseException:
            if reader:
                reader.close()
            if connection:
                connection.close()
            raise

    def history(self, container: Container, form: Form) -> LogStream:
        """What the log has now; nothing for a driver that keeps none here."""
        return LogStream(self._reader(container), Wanted(), None, form)

    async def logs(self, container: Container, wanted: Wanted, form: Form) -> LogStream:
        """The log as `form` has it; NotImplementedHere where none is kept here."""
        if not logconfig.kept_as(container.record):
            raise logconfig.unreadable()
        connection = await self._connect(container) if wanted.follow and container.record.running else None
        return LogStream(self._reader(container), wanted, connection, form)

    def _reader(self, container: Container) -> LogReader | None:
        path = logconfig.path_of(container.record, self.directory(container))
        return LogReader(path, logconfig.kept_as(container.record)) if path else None

    async def _connect(self, container: Container) -> MonitorConnection | None:
        """Another connection to the monitor; None once that is gone."""
        try:
            return await MonitorConnection.of_directory(self.state_directory(container))
        except OSError:
            return None


def _withdraw(container: Container, entry: tuple[socket.socket, int]) -> None:
    """Of a client that went before the start."""
    if entry in container.pending_attach:
        container.pending_attach.remove(entry)
        entry[0].close()
