"""After a crash: an engine that starts finds out what became of the containers of the one before it."""

import asyncio
import contextlib
import logging
import os
import time

from berth import errors
from berth.engine import health, hostfiles, locks, mountrules, restarts, state, updates
from berth.engine.monitors import MonitorConnection, await_started
from berth.engine.registry import SHORT, Container
from berth.engine.running import await_end
from berth.engine.state import Record
from berth.engine.updating import Updating
from berth.linux import cgroup

log = logging.getLogger("berth.containers")

_STARTS_AT_ONCE = 4
_EXIT_CODE_UNKNOWN = 255  # as dockerd has it
_HOST_RESTARTED = "the host was restarted while the container ran; how its program ended is not known"
_MAX_WAIT_FOR_START_S, _LOOK_AGAIN_S = 10.0, 0.005


class Restoring(Updating):
    """Database, disk and what runs are made to agree once, at start-up."""

    async def restore(self) -> list[str]:
        """Reads all records and finds out what became of them; returns what was mended, in words."""
        mended = []
        incomplete = self._database.incomplete
        for identity, name, text in self._database.read("SELECT id, name, record FROM containers"):
            try:
                container = Container(Record.from_json(text))
                if container.record.mounts is None:
                    container.record.mounts = [point.to_dict() for point in mountrules.of_old_record(container.record.host)]
            except ValueError as error:
                mended.append(f"container {identity[:SHORT]} ({name}) is dropped: its record is damaged ({error})")
                self._database.write_now(("DELETE FROM containers WHERE id = ?", (identity,)))
                incomplete = True
                continue
            self._by_id[container.record.id] = self._by_name[container.record.name] = container
        for container in [c for c in self._by_id.values() if c.record.step is not None]:
            await self._end_step(container)
            mended.append(f"a step of a build that was under way is ended ({container.record.id[:SHORT]})")
        for container in sorted(self.all(), key=self._end_ns):  # their events in the order of what happened
            for told in self.on_found:
                await told(container)
            messages = [await self._reunite(container), *await self.finish_mounts(container), await self._removed_by_rm(container)]
            mended += [f"container {container.record.id[:SHORT]}: {message}" for message in messages if message]
        await asyncio.to_thread(self._remove_idle_groups)
        self._tasks.spawn(self._start_by_policy([c for c in self.all() if self._starts_with_engine(c)]))
        for base in (self._data, self._exec):
            orphans = [f"{base}/{name}" for name in os.listdir(base) if name not in self._by_id]
            if orphans and base == self._data and incomplete:
                mended += await asyncio.to_thread(self._put_aside, orphans)
            elif orphans:
                await asyncio.to_thread(self._remove_orphans, orphans)
                mended.append(f"{len(orphans)} directories of removed containers in {base}")
        return mended

    async def _end_step(self, container: Container) -> None:
        """Nobody waits for it any more: its client went with the engine."""
        with contextlib.suppress(OSError, errors.BerthError):
            connection = await self._find_monitor(container)
            connection.close()
        monitor = self._kill_leftovers(container)
        if not container.record.pid:  # its start was not written down: the group alone knows
            monitor = 0
        if monitor:
            await asyncio.to_thread(await_end, monitor)
        await asyncio.to_thread(self._remove_group, container)
        container.record.status = state.EXITED
        await self._forget(container)

    def _remove_idle_groups(self) -> None:
        """Of starts whose monitor was killed along with the engine."""
        names: set[str] = set()
        for directory in cgroup.open_cgroup("/berth", self.host.hosts).directories:
            try:
                names.update(os.listdir(directory))
            except OSError:
                continue  # nothing has run yet
        for name in names:
            container = self._by_id.get(name)
            if container and not container.record.active:
                self._remove_group(container)

    def remove_parent_group(self) -> None:
        """The group above those of containers goes with the engine, unless there is something in it: of containers that go on, or of another engine."""
        for directory in cgroup.open_cgroup("/berth", self.host.hosts).directories:
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _end_ns(self, container: Container) -> int:
        report = self._kept_report(container)
        return int(report["finished_ns"]) if report else time.time_ns()

    async def _removed_by_rm(self, container: Container) -> str:
        """One of --rm whose client or engine did not live to see it run or go: removed now, as dockerd does."""
        record = container.record
        if not record.auto_remove or record.active or record.status == state.REMOVING:
            return ""
        await self._forget(container)
        return "removed, as --rm has it"

    def _starts_with_engine(self, container: Container) -> bool:
        record = container.record
        return record.status == state.EXITED and restarts.starts_with_engine(
            restarts.policy_of(record.host), exit_code=record.exit_code, restarts=record.restarts,
            stopped_by_hand=record.stopped_by_hand,
        )  # fmt: skip

    async def _start_by_policy(self, containers: list[Container]) -> None:
        """Those first that no other container's namespaces are needed for; a few at a time."""
        gate = asyncio.Semaphore(_STARTS_AT_ONCE)

        async def one(container: Container) -> None:
            async with gate:
                try:
                    await self.start(container)
                except errors.BerthError as error:
                    log.warning("container %s cannot be started: %s", container.record.id[:SHORT], error)

        def joins(container: Container) -> bool:
            modes = (container.record.host.get(key) or "" for key in ("PidMode", "IpcMode", "NetworkMode"))
            return any(mode.startswith("container:") for mode in modes)

        for wave in (False, True):
            await asyncio.gather(*(one(container) for container in containers if joins(container) is wave))

    def _remove_orphans(self, paths: list[str]) -> None:
        for path in paths:
            self._end_group(os.path.basename(path))
        hostfiles.remove_directories(paths)

    def _end_group(self, name: str) -> None:
        if len(name) == 64:
            group = cgroup.open_cgroup(f"/berth/{name}", self.host.hosts)
            group.kill()
            group.remove()

    def _put_aside(self, paths: list[str]) -> list[str]:
        """For directories whose records may be among those lost: what runs in them cannot be reached any more."""
        mended = []
        for path in paths:
            name = os.path.basename(path)
            self._end_group(name)
            mended.append(f"container {name[:SHORT]} is in no record: its files are kept in {self._images.layout.put_aside(path)}")
        return mended

    def _note_start(self, record: Record) -> None:
        """A start that the engine before did not live to write down: by policy, or else by a person."""
        if record.status != state.RESTARTING:
            record.restarts = record.restart_delay_ms = 0
            record.stopped_by_hand = False
        record.exit_code, record.error, record.oom_killed = 0, "", False
        record.move(state.RUNNING)

    async def _unseen_run(self, container: Container) -> bool:
        """Whether it was started and has ended while no engine knew: its exit status tells, and counts."""
        record = container.record
        report = self._kept_report(container)
        if report is None or report["finished_ns"] <= record.finished_ns or record.status == state.REMOVING:
            return False
        self._note_start(record)
        # The bundle is written right before a start.
        record.started_ns = os.stat(f"{self.directory(container)}/config.json").st_mtime_ns
        await self._ended(container, report)
        return True

    async def _host_restarted(self, container: Container) -> None:
        """The container has ended with the host. What follows is no restart after a failure: policies start it as they do at boot."""
        report = self._kept_report(container) or {
            "exit_code": _EXIT_CODE_UNKNOWN, "finished_ns": max(hostfiles.booted_ns(), container.record.started_ns),
            "oom_killed": False, "error": _HOST_RESTARTED, "lost": "host",
        }  # fmt: skip
        container.cancelled = True
        await self._ended(container, report)

    async def _find_monitor(self, container: Container) -> MonitorConnection:
        """Waits for one that has been asked for and does not listen yet: the engine before was killed just now."""
        deadline_s = time.monotonic() + _MAX_WAIT_FOR_START_S
        while True:
            locked = locks.is_locked(f"{self.directory(container)}/config.json")
            try:
                return await MonitorConnection.of_directory(self.state_directory(container))
            except OSError:
                if not locked or time.monotonic() > deadline_s:
                    raise
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _reunite(self, container: Container) -> str:
        """Finds the monitor of a container that may run, or else what it left on disk."""
        record = container.record
        try:
            connection = await self._find_monitor(container)
            report = await await_started(connection)
        except (OSError, errors.BerthError):
            if not record.running and await self._unseen_run(container):
                return f"had been started; ended meanwhile with exit code {record.exit_code}"
            if record.status == state.RESTARTING:
                self._tasks.spawn(self._restart_when_due(container))
            if not record.running:
                return ""
            if record.boot_id not in ("", hostfiles.boot_id()):
                await self._host_restarted(container)
                return f"ended with the host, which was restarted; exit code {record.exit_code}"
            await self._monitor_lost(container)
            return f"ended meanwhile with exit code {record.exit_code}"
        was_running = record.running
        if not was_running:
            self._note_start(record)
        record.pid, record.started_ns = report["pid"], report["started_ns"]
        record.pid_start_ticks = hostfiles.start_ticks(record.pid)
        record.boot_id = hostfiles.boot_id()
        if health.check_of(record.config) and not record.health:
            record.health = health.fresh(None)
        container.control = connection
        container.monitor_gone.clear()
        mended = [] if was_running else ["had been started; found running"]
        self._endpoints.recall(record, self.directory(container))
        mended += await self._endpoints.restore(record)
        mended += [*self._look_at_freezer(container), *await self._finish_update(container)]
        self._tasks.spawn(self._watch(container, connection))
        await self.save(container)
        self._tell_running(container)
        if record.paused_for_commit:
            mended.append("was paused for a commit; unpaused")
            await self.unpause(container)
        return "; ".join(mended)

    def _look_at_freezer(self, container: Container) -> list[str]:
        """The kernel knows whether it is paused; the engine before may not have lived to write it down."""
        record = container.record
        frozen = self._group(container).frozen()
        if not frozen:
            record.paused_for_commit = False
        if frozen == (record.status == state.PAUSED):
            return []
        record.move(state.PAUSED if frozen else state.RUNNING)
        return [f"found {record.status}"]

    async def _finish_update(self, container: Container) -> list[str]:
        """Limits that were being written to its cgroup when the engine was killed: all of them, or none."""
        record = container.record
        changes, record.pending_update = record.pending_update, None
        if not changes:
            return []
        try:
            host = updates.merged(record.host, changes)
            await asyncio.to_thread(self._group(container).apply, updates.live_resources(host, changes))
        except errors.BerthError as error:
            return [f"an update could not be finished: {error}"]
        record.host = host
        return ["an update of its limits is finished"]
