"""Containers: create, start, stop, kill, remove, wait, attach, and what becomes of them after a crash.

One lock per container, taken only here. The database is written before anybody is told; memory is
what is read. A running container has a monitor, and the engine one connection to it (`control`).
"""

import asyncio
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator

from berth import errors
from berth.engine import bundle, defaults, hostfiles, names, payload, rootfiles, state, users, validate, views
from berth.engine.events import EventBus
from berth.engine.logs import LogReader, timestamp_s
from berth.engine.monitors import Launcher, MonitorConnection, await_started
from berth.engine.state import Record
from berth.engine.tasks import Tasks
from berth.linux import cgroup, grace
from berth.oci import reference
from berth.runtime import frames
from berth.runtime.container import host_id
from berth.store.database import Database
from berth.store.images import ImageStore

log = logging.getLogger("berth.containers")

_KILLED_MONITOR = "the container's monitor was killed, and the container with it"
_EXIT_CODE_KILLED = 137
_SHORT = 12


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
        self.execs: list[str] = []


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


class ContainerService:
    """All containers of one data root."""

    def __init__(
        self, *, data_root: str, exec_root: str, host: Host, database: Database, images: ImageStore,
        launcher: Launcher, events: EventBus, tasks: Tasks,
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
        for path in (self._data, self._exec):
            os.makedirs(path, mode=0o711, exist_ok=True)
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._warmed_s = 0.0

    # -- looking up -----------------------------------------------------------------------------

    def all(self) -> list[Container]:
        """Newest first."""
        return sorted(self._by_id.values(), key=lambda c: c.record.created_ns, reverse=True)

    def find(self, text: str) -> Container:
        """By id, name or start of an id. NotFound in the words Docker's clients match."""
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

    def directory(self, container: Container) -> str:
        """Where a container's files are, below the data root."""
        return f"{self._data}/{container.record.id}"

    def state_directory(self, container: Container) -> str:
        """Where a container's sockets are, below the exec root."""
        return f"{self._exec}/{container.record.id}"

    def log_path(self, container: Container) -> str:
        return f"{self.directory(container)}/{container.record.id}-json.log"

    def images_in_use(self) -> dict[str, str]:
        """Image id -> the container that uses it, in Docker's words; running ones before stopped."""
        found: dict[str, str] = {}
        for container in sorted(self._by_id.values(), key=lambda c: c.record.running):
            kind = "running" if container.record.running else "stopped"
            found[container.record.image_id] = f"{kind} container {container.record.id[:_SHORT]}"
        return found

    def inspect(self, container: Container) -> dict:
        """Docker's inspect payload."""
        profile = "" if not self.host.apparmor else bundle.APPARMOR_DEFAULT
        return views.inspect(
            container.record, directory=self.directory(container), execs=container.execs, platform="linux", apparmor=profile
        )

    def image_name(self, record: Record) -> str:
        """What `ps` shows: the name given, unless it means another image by now."""
        try:
            same = self._images.find(record.image_name).id == record.image_id
        except errors.BerthError:
            same = False
        return record.image_name if same else record.image_id.removeprefix("sha256:")[:_SHORT]

    # -- create -----------------------------------------------------------------------------------

    async def create(self, name: str, config: dict, host: dict) -> tuple[Container, list[str]]:
        """Makes a container from Docker's Config and HostConfig; returns it and warnings."""
        self._warm_up()
        payload.check(config, host)
        wanted = config.get("Image") or ""
        if not wanted:
            raise errors.InvalidParameter("no image given: Config.Image is empty")
        reference.parse(wanted) if not reference.is_image_id(wanted) else None
        image = self._images.find(wanted)
        config = payload.merged_config(config, image.config.get("config") or {})
        host.setdefault("NetworkMode", "default")
        identity = secrets.token_hex(32)
        if not config.get("Hostname"):
            config["Hostname"] = os.uname().nodename if host.get("NetworkMode") == "host" else identity[:_SHORT]
        validate.create(config, host, self.host.runtimes)
        host["Runtime"] = host.get("Runtime") or self.host.default_runtime
        self._check_shared(host)
        warnings = self._check_security(identity, config, host)
        name = name.removeprefix("/")
        if name:
            validate.name(name)
            if name in self._by_name:
                raise errors.Conflict(
                    f'Conflict. The container name "/{name}" is already in use by container '
                    f'"{self._by_name[name].record.id}". You have to remove (or rename) that container to be able to reuse that name.'
                )
        else:
            name = names.random_name(set(self._by_name))
        hostfiles.make_bind_sources(host)
        record = Record(identity, name, image.id, wanted, config, host)
        container = Container(record)
        self._by_id[identity] = self._by_name[name] = container
        try:
            await self._database.write(("INSERT INTO containers VALUES (?, ?, ?)", (identity, name, record.to_json())))
        except BaseException:
            del self._by_id[identity], self._by_name[name]
            raise
        self._publish(container, "create")
        return container, warnings

    def _warm_up(self) -> None:
        """A start follows a create within milliseconds: spend them, see linux.grace."""
        now_s = time.monotonic()
        if now_s - self._warmed_s > 0.005:
            self._warmed_s = now_s
            self._tasks.in_thread(grace.wait, self.host.hosts.v1)

    def _check_shared(self, host: dict) -> None:
        for key in ("PidMode", "IpcMode", "NetworkMode"):
            mode = host.get(key) or ""
            if mode.startswith("container:"):
                other = self.find(mode.partition(":")[2])
                host[key] = f"container:{other.record.id}"

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

    def _check_host_has(self, host: dict) -> None:
        """What was asked for by name and this host cannot give is an error, never silence."""
        if self.host.remap and host.get("Privileged") and host.get("UsernsMode") != "host":
            raise errors.InvalidParameter(
                "privileged mode is incompatible with user namespaces. You must run the container in the host namespace "
                "when running privileged mode: add --userns host"
            )
        if self.host.hosts.version == 2:
            for key, words in (
                ("MemorySwappiness", "a swappiness for each container"), ("CpuRealtimePeriod", "real-time CPU periods"),
                ("CpuRealtimeRuntime", "real-time CPU runtimes"),
            ):  # fmt: skip
                if host.get(key) not in (None, 0, -1):
                    raise errors.NotImplementedHere(f"{key}: cgroup v2 does not have {words}; leave it out on this host")

    # -- start ------------------------------------------------------------------------------------

    async def start(self, container: Container) -> None:
        """Starts the program; NotModified if it runs. A failure is kept in the record and raised."""
        async with container.lock:
            record = container.record
            if record.status == state.PAUSED:
                raise errors.Conflict("cannot start a paused container, try unpause instead")
            if record.running:
                raise errors.NotModified(f"container {record.id[:_SHORT]} is already running")
            if record.status == state.REMOVING:
                raise errors.Conflict(f"container {record.id[:_SHORT]} is marked for removal and cannot be started")
            # The last run's monitor still takes the cgroup and the mount down.
            await container.monitor_gone.wait()
            try:
                connection, report = await self._launch(container)
            except errors.BerthError as error:
                await self._start_failed(container, error)
                raise
            record.move(state.RUNNING)
            record.pid, record.started_ns = report["pid"], report["started_ns"]
            record.pid_start_ticks = hostfiles.start_ticks(record.pid)
            record.finished_ns, record.exit_code, record.error, record.oom_killed = 0, 0, "", False
            container.ended.clear()
            container.control = connection
            container.monitor_gone.clear()
            await self._save(container)
            self._publish(container, "start")
            self._tasks.spawn(self._watch(container, connection))

    async def _launch(self, container: Container) -> tuple[MonitorConnection, dict]:
        message = self._prepare(container)
        ours, theirs = socket.socketpair()
        attached, container.pending_attach = container.pending_attach, []
        try:
            message["attach"] = [0, *(wants for _, wants in attached)]
            self._launcher.send(message, [theirs.fileno(), *(sock.fileno() for sock, _ in attached)])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for sock, _ in attached:
                sock.close()
        connection = await MonitorConnection.of_socket(ours)
        try:
            return connection, await await_started(connection)
        except BaseException:
            connection.close()
            raise

    def _prepare(self, container: Container) -> dict:
        """Writes the bundle; returns the launcher's message."""
        record, directory = container.record, self.directory(container)
        state_dir = self.state_directory(container)
        for path in (directory, f"{directory}/upper", f"{directory}/work", state_dir):
            os.makedirs(path, mode=0o755 if path.endswith("upper") else 0o700, exist_ok=True)
        try:
            image = self._images.find(record.image_id)
        except errors.NotFound:
            raise errors.Conflict(f"image {record.image_id} of the container is gone; remove the container") from None
        lower = self._images.lower_directories(image)
        host = record.host
        user = self._resolve_user(container, [f"{directory}/upper", *lower])
        shared = {}
        for key in ("PidMode", "IpcMode", "NetworkMode"):
            mode = host.get(key) or ""
            if mode.startswith("container:"):
                other = self.find(mode.partition(":")[2])
                if not other.record.running:
                    raise errors.Conflict(f"cannot join {key} of container {other.record.id[:_SHORT]}: it is not running")
                shared[mode.partition(":")[2]] = other.record.pid
        facts = self._facts(record.id, host, user, shared)
        spec = bundle.specification(record.id, record.config, host, facts)
        linux = spec["linux"]
        owner = [host_id(linux[key]) if linux.get(key) else 0 for key in ("uidMappings", "gidMappings")]
        hostfiles.write_etc_files(record, directory, owner)
        with open(f"{directory}/config.json", "w") as file:
            json.dump(spec, file)
        if not lower:
            empty = f"{directory}/empty"
            os.makedirs(empty, exist_ok=True)
            lower = [empty]
        driver = (host.get("LogConfig") or {}).get("Type") or "json-file"
        exit_path = f"{directory}/exit.json"
        if os.path.exists(exit_path):
            os.unlink(exit_path)
        return {
            "kind": "start", "id": record.id, "bundle": directory, "state_dir": state_dir, "socket": "monitor.sock",
            "rootfs": {"lower": lower, "upper": f"{directory}/upper", "work": f"{directory}/work", "base": directory},
            "runtime": self.runtime_message(record),
            "terminal": bool(record.config.get("Tty")), "stdin": bool(record.config.get("OpenStdin")),
            "log_path": self.log_path(container) if driver == "json-file" else "",
            "exit_path": exit_path, "seccomp_cache": self._seccomp_cache,
        }  # fmt: skip

    def runtime_message(self, record: Record) -> dict | None:
        """Which other runtime starts this container, for the launcher; None for berth's own."""
        name = record.host.get("Runtime") or self.host.default_runtime
        command = self.host.runtimes[name]
        return {"command": command, "root": f"{self._runtime_root}-{name}"} if command else None

    def _resolve_user(self, container: Container, directories: list[str]) -> users.ResolvedUser:
        passwd = rootfiles.read_merged(directories, "etc/passwd")
        group = rootfiles.read_merged(directories, "etc/group")
        record = container.record
        return users.resolve(record.config.get("User") or "", record.host.get("GroupAdd") or [], passwd, group)

    def _facts(
        self, identity: str, host: dict, user: users.ResolvedUser, shared: dict[str, int], *, check_only: bool = False
    ) -> bundle.Facts:
        devices = [entry for device in host.get("Devices") or [] for entry in validate.device_entries(device)]
        if host.get("Privileged"):
            devices = hostfiles.host_devices()
        if check_only:
            shared = dict.fromkeys(self._by_id, 1)
        if host.get("Init") and not self.host.init:
            raise errors.NotImplementedHere("--init needs a static init program; install Debian's package tini")
        remap = None if host.get("UsernsMode") == "host" or host.get("Privileged") else self.host.remap
        return bundle.Facts(
            machine=self.host.machine, bounding=self.host.bounding, apparmor=self.host.apparmor,
            selinux=self.host.selinux, cgroup_version=self.host.hosts.version, landlock_abi=self.host.landlock_abi,
            id_maps=remap, init=self.host.init, shared_pids=shared, user=user,
            directory=f"{self._data}/{identity}", devices=devices,
        )  # fmt: skip

    async def _start_failed(self, container: Container, error: errors.BerthError) -> None:
        record = container.record
        record.error = str(error)
        record.exit_code = error.exit_code if isinstance(error, errors.StartFailed) else 128
        for waiter in container.exit_waiters:
            if not waiter.done():
                waiter.set_result(record.exit_code)
        container.exit_waiters.clear()
        if record.auto_remove:
            await self._forget(container)
        else:
            await self._save(container)

    # -- while it runs ------------------------------------------------------------------------------

    async def _watch(self, container: Container, connection: MonitorConnection) -> None:
        """Follows a monitor to its end; whatever happens to it, the container ends too."""
        reported = False
        async for kind, data in connection.frames():
            if kind == frames.EXITED:
                reported = True
                await self._ended(container, json.loads(data))
        connection.close()
        if not reported:
            await self._monitor_lost(container)
        container.control = None
        container.monitor_gone.set()

    async def _monitor_lost(self, container: Container) -> None:
        """The monitor was killed: its last words may be on disk; if not, the container is ended here."""
        report = self._kept_report(container)
        if report is None:
            self._kill_leftovers(container)
            report = {
                "exit_code": _EXIT_CODE_KILLED, "finished_ns": time.time_ns(), "oom_killed": False,
                "error": _KILLED_MONITOR,
            }  # fmt: skip
        await asyncio.to_thread(self._remove_group, container)
        await self._ended(container, report)

    def _kept_report(self, container: Container) -> dict | None:
        try:
            with open(f"{self.directory(container)}/exit.json") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return None

    def _kill_leftovers(self, container: Container) -> None:
        """SIGKILL to the first program, if the pid still is that process, and to all in its cgroup."""
        record = container.record
        if record.pid and hostfiles.start_ticks(record.pid) == record.pid_start_ticks:
            try:
                os.kill(record.pid, 9)
            except ProcessLookupError:
                pass
        self._group(container).kill()

    def _group(self, container: Container) -> cgroup.Cgroup:
        parent = (container.record.host.get("CgroupParent") or "/berth").strip("/")
        return cgroup.open_cgroup(f"/{parent}/{container.record.id}", self.host.hosts)

    def _remove_group(self, container: Container) -> None:
        group = self._group(container)
        deadline = time.monotonic() + 5
        while not group.remove() and time.monotonic() < deadline:
            group.kill()
            time.sleep(0.01)

    async def _ended(self, container: Container, report: dict) -> None:
        record = container.record
        if not record.running:
            return
        record.move(state.EXITED)
        record.exit_code, record.finished_ns = report["exit_code"], report["finished_ns"]
        record.oom_killed, record.error = report["oom_killed"], report.get("error", "")
        record.pid = 0
        if record.oom_killed:
            self._publish(container, "oom")
        self._publish(container, "die", {"exitCode": str(record.exit_code)})
        if record.auto_remove:
            await self._forget(container)
        else:
            await self._save(container)
        container.ended.set()
        for waiter in container.exit_waiters:
            if not waiter.done():
                waiter.set_result(record.exit_code)
        container.exit_waiters.clear()

    # -- signals and ends ---------------------------------------------------------------------------

    async def kill(self, container: Container, signal_text: str) -> None:
        """Sends a signal, SIGKILL by default; Conflict if the container does not run."""
        number = validate.signal_number(signal_text or "SIGKILL")
        record = container.record
        if not record.running or container.control is None:
            raise errors.Conflict(f"cannot kill container: {record.id}: container {record.id} is not running")
        if record.status == state.PAUSED and number == 9:
            await self.unpause(container)
        await container.control.send_signal(number)
        self._publish(container, "kill", {"signal": str(number)})
        if number == 9:
            await container.ended.wait()

    async def stop(self, container: Container, timeout_s: int | None, signal_text: str) -> None:
        """The stop signal, then SIGKILL after the timeout (negative: never). NotModified if not running."""
        record = container.record
        if not record.running or container.control is None:
            raise errors.NotModified(f"container {record.id[:_SHORT]} is already stopped")
        if record.status == state.PAUSED:
            await self.unpause(container)
        number = validate.signal_number(signal_text or record.config.get("StopSignal") or defaults.STOP_SIGNAL)
        if timeout_s is None:
            configured = record.config.get("StopTimeout")
            timeout_s = defaults.STOP_TIMEOUT_S if configured is None else configured
        await container.control.send_signal(number)
        self._publish(container, "kill", {"signal": str(number)})
        try:
            await asyncio.wait_for(container.ended.wait(), None if timeout_s < 0 else timeout_s)
        except TimeoutError:
            if container.control:
                await container.control.send_signal(9)
            await container.ended.wait()
        self._publish(container, "stop")

    async def restart(self, container: Container, timeout_s: int | None, signal_text: str) -> None:
        """stop, then start."""
        try:
            await self.stop(container, timeout_s, signal_text)
        except errors.NotModified:
            pass
        await self.start(container)
        self._publish(container, "restart")

    async def pause(self, container: Container) -> None:
        """Freezes every process of the container."""
        async with container.lock:
            if container.record.status == state.PAUSED:
                raise errors.Conflict(f"Container {container.record.id} is already paused")
            if not container.record.running:
                raise errors.Conflict(f"Container {container.record.id} is not running")
            await asyncio.to_thread(self._group(container).freeze, True)
            container.record.move(state.PAUSED)
            await self._save(container)
            self._publish(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Lets it go on."""
        async with container.lock:
            if container.record.status != state.PAUSED:
                raise errors.Conflict(f"Container {container.record.id} is not paused")
            await asyncio.to_thread(self._group(container).freeze, False)
            container.record.move(state.RUNNING)
            await self._save(container)
            self._publish(container, "unpause")

    async def rename(self, container: Container, name: str) -> None:
        """Gives a container another name."""
        name = name.removeprefix("/")
        validate.name(name)
        if name in self._by_name:
            raise errors.Conflict(
                f'Conflict. The container name "/{name}" is already in use by container '
                f'"{self._by_name[name].record.id}". You have to remove (or rename) that container to be able to reuse that name.'
            )
        old = container.record.name
        container.record.name = name
        self._by_name[name] = container
        del self._by_name[old]
        await self._save(container)
        self._publish(container, "rename", {"oldName": f"/{old}"})

    def wait_registered(self, container: Container, condition: str) -> "asyncio.Future[int]":
        """A future of the exit code: 'not-running' (default), 'next-exit' or 'removed'."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if condition == "removed":
            container.removed_waiters.append(future)
        elif condition == "next-exit" or container.record.running:
            container.exit_waiters.append(future)
        elif condition in ("", "not-running"):
            future.set_result(container.record.exit_code)
        else:
            raise errors.InvalidParameter(f"invalid condition: {condition!r}; expected not-running, next-exit or removed")
        return future

    async def remove(self, container: Container, *, force: bool) -> None:
        """Removes a container that does not run; with force, ends it first."""
        record = container.record
        if record.running:
            if not force:
                raise errors.Conflict(
                    f"cannot remove container {json.dumps('/' + record.name)}: container is running: stop the container "
                    "before removing or force remove"
                )
            await self.kill(container, "SIGKILL")
        async with container.lock:
            if record.id in self._by_id and record.status != state.REMOVING:
                await self._forget(container)

    async def _forget(self, container: Container) -> None:
        """Takes a container out of database and memory; its files go when its monitor has gone."""
        record = container.record
        record.move(state.REMOVING)
        await self._database.write(("DELETE FROM containers WHERE id = ?", (record.id,)))
        self._by_id.pop(record.id, None)
        if self._by_name.get(record.name) is container:
            del self._by_name[record.name]
        self._publish(container, "destroy")
        for sock, _ in container.pending_attach:
            sock.close()
        for waiter in container.removed_waiters:
            if not waiter.done():
                waiter.set_result(record.exit_code)
        self._tasks.spawn(self._remove_files(container))

    async def _remove_files(self, container: Container) -> None:
        await container.monitor_gone.wait()
        await asyncio.to_thread(hostfiles.remove_directories, [self.directory(container), self.state_directory(container)])

    # -- streams ------------------------------------------------------------------------------------

    async def attach(self, container: Container, wants: int) -> MonitorConnection | None:
        """A connection on which output comes and input goes; for one that is not started yet, too.

        None where the container has ended: there is nothing more to come.
        """
        record = container.record
        if record.running:
            try:
                connection = await MonitorConnection.of_directory(self.state_directory(container))
            except OSError:
                return None
            await connection.attach(wants)
            return connection
        if record.status == state.PAUSED:
            raise errors.Conflict(f"Container {record.id} is paused. Unpause the container before attach")
        ours, theirs = socket.socketpair()
        container.pending_attach.append((theirs, wants))
        return await MonitorConnection.of_socket(ours)

    async def resize(self, container: Container, rows: int, columns: int) -> None:
        """Sets the size of the terminal; before the start it is kept for it."""
        if container.control is None or not container.record.running:
            raise errors.Conflict(f"container {container.record.id} is not running")
        await container.control.resize(rows, columns)

    async def logs(
        self, container: Container, *, follow: bool, tail: int | None, since_s: float, until_s: float
    ) -> AsyncIterator[tuple[str, bytes, str]]:
        """(stream, text, time) of each line; with follow, until the container ends."""
        if ((container.record.host.get("LogConfig") or {}).get("Type") or "json-file") != "json-file":
            raise errors.NotImplementedHere("configured logging driver does not support reading")
        connection = await self._follow_connection(container) if follow else None
        try:
            reader = LogReader(self.log_path(container))
        except FileNotFoundError:
            if connection is None:
                return
            open(self.log_path(container), "ab").close()
            reader = LogReader(self.log_path(container))
        try:
            if tail is not None:
                reader.seek_tail(tail)
            while True:
                for entry in reader.entries():
                    if since_s and timestamp_s(entry[2]) < since_s:
                        continue
                    if until_s and timestamp_s(entry[2]) > until_s:
                        return
                    yield entry
                if connection is None:
                    return
                kind, _ = await connection.read()
                if not kind or kind == frames.EXITED:
                    connection.close()
                    connection = None
        finally:
            reader.close()
            if connection:
                connection.close()

    async def _follow_connection(self, container: Container) -> MonitorConnection | None:
        if not container.record.running:
            return None
        # Lines are in the file before the frame that announces them is sent.
        return await self.attach(container, frames.WANT_STDOUT | frames.WANT_STDERR)

    # -- after a crash --------------------------------------------------------------------------------

    async def restore(self) -> list[str]:
        """Reads all records and finds out what became of them; returns what was mended, in words."""
        mended = []
        for _, _, text in self._database.read("SELECT id, name, record FROM containers"):
            container = Container(Record.from_json(text))
            self._by_id[container.record.id] = self._by_name[container.record.name] = container
            message = await self._reunite(container)
            if message:
                mended.append(f"container {container.record.id[:_SHORT]}: {message}")
        for base in (self._data, self._exec):
            orphans = [f"{base}/{name}" for name in os.listdir(base) if name not in self._by_id]
            if orphans:
                await asyncio.to_thread(self._remove_orphans, orphans)
                mended.append(f"{len(orphans)} directories of removed containers in {base}")
        return mended

    def _remove_orphans(self, paths: list[str]) -> None:
        for path in paths:
            name = os.path.basename(path)
            if len(name) == 64:
                group = cgroup.open_cgroup(f"/berth/{name}", self.host.hosts)
                group.kill()
                group.remove()
        hostfiles.remove_directories(paths)

    async def _reunite(self, container: Container) -> str:
        """Finds the monitor of a container that may run, or else what it left on disk."""
        record = container.record
        try:
            connection = await MonitorConnection.of_directory(self.state_directory(container))
            report = await await_started(connection)
        except (OSError, errors.BerthError):
            if not record.running:
                return ""
            await self._monitor_lost(container)
            return f"ended meanwhile with exit code {record.exit_code}"
        was_running = record.running
        if not was_running:
            record.move(state.RUNNING)
        record.pid, record.started_ns = report["pid"], report["started_ns"]
        record.pid_start_ticks = hostfiles.start_ticks(record.pid)
        container.control = connection
        container.monitor_gone.clear()
        self._tasks.spawn(self._watch(container, connection))
        await self._save(container)
        return "" if was_running else "had been started; found running"

    async def _save(self, container: Container) -> None:
        record = container.record
        await self._database.write(
            ("UPDATE containers SET name = ?, record = ? WHERE id = ?", (record.name, record.to_json(), record.id))
        )

    def _publish(self, container: Container, action: str, extra: dict[str, str] | None = None) -> None:
        record = container.record
        attributes = {**(record.config.get("Labels") or {}), "image": record.image_name, "name": record.name, **(extra or {})}
        self._events.publish("container", action, record.id, attributes)
