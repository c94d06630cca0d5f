"""Containers that run: start, stop, kill, pause, and what becomes of them when their programs or monitors end.

A running container has a monitor, and the engine one connection to it (`control`).
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import socket
import time

from berth import errors
from berth.engine import defaults, etcfiles, health, hostfiles, locks, restarts, state, validate
from berth.engine.monitors import MonitorConnection, await_started
from berth.engine.nets.namespaces import Namespace
from berth.engine.preparing import Preparing
from berth.engine.registry import SHORT, Container
from berth.runtime import frames

log = logging.getLogger("berth.containers")

_KILLED_MONITOR = "the container's monitor was killed, and the container with it"
_UNREACHABLE_MONITOR = "the container's monitor could not be reached, its socket is gone: ended"
_EXIT_CODE_KILLED = 137
_LAST_WORDS_S = 5.0
_MAX_TIMEOUT_S = 1 << 31
_PAUSE_CHECK_S = 0.5
_MAX_WAIT_FOR_STARTER_S, _LOOK_AGAIN_S = 5.0, 0.005


class Running(Preparing):
    """One lock per container, taken only here and in the layers below. The database is written before anybody is told."""

    # -- start ------------------------------------------------------------------------------------

    async def start(self, container: Container) -> None:
        """Starts the program; NotModified if it runs. A failure is kept in the record and raised."""
        async with container.lock:
            record = container.record
            if record.status == state.PAUSED:
                raise errors.Conflict("cannot start a paused container, try unpause instead")
            if record.active:
                raise errors.NotModified(f"container {record.id[:SHORT]} is already running")
            if record.status == state.REMOVING:
                raise errors.Conflict(f"container {record.id[:SHORT]} is marked for removal and cannot be started")
            container.cancelled = record.stopped_by_hand = False
            record.restarts = record.restart_delay_ms = 0
            await self._start_locked(container)

    async def _start_locked(self, container: Container) -> None:
        record = container.record
        # The last run's monitor still takes the cgroup and the mount down.
        await container.monitor_gone.wait()
        connected = False
        try:
            await self._hold_mounts(container)
            namespace = await self._join_networks(container)
            connected = True
            connection, report = await self._launch(container, namespace)
        except BaseException as error:
            self._release_mounts(container)
            self._endpoints.detach(record)
            if not isinstance(error, errors.BerthError):
                raise
            await asyncio.to_thread(self._clear_start, container)
            await self._start_failed(container, error, connected=connected)
            raise
        record.move(state.RUNNING)
        record.pid, record.started_ns = report["pid"], report["started_ns"]
        record.pid_start_ticks = hostfiles.start_ticks(record.pid)
        record.boot_id = hostfiles.boot_id()
        record.exit_code, record.error, record.oom_killed = 0, "", False
        record.health = health.fresh(record.health) if health.check_of(record.config) else None
        container.ended.clear()
        container.control = connection
        container.monitor_gone.clear()
        await self._endpoints.started(record)
        self._tell_linked(record)
        await self.save(container)
        self.publish_network(container, "connect")
        self._publish_mounts(container)
        self.publish(container, "start")
        self._tasks.spawn(self._watch(container, connection))
        self._tell_running(container)

    def _tell_linked(self, record: state.Record) -> None:
        """Running containers that are linked to this one find it at its new address."""
        for other in self.all():
            if other.record.running and other.record.host.get("Links"):
                with contextlib.suppress(OSError, errors.BerthError):
                    etcfiles.follow(other.record, self.directory(other), record, lambda text: self.find(text).record)

    def _tell_running(self, container: Container) -> None:
        for told in self.on_running:
            told(container)

    async def _join_networks(self, container: Container) -> Namespace | None:
        """To its networks."""
        self._make_directories(container)
        return await self._endpoints.attach(container.record, self.directory(container), self.mappings(container.record))

    async def _launch(self, container: Container, namespace: Namespace | None) -> tuple[MonitorConnection, dict]:
        """namespace: closed here."""
        try:
            return await self._launch_in(container, namespace)
        finally:
            if namespace:
                namespace.close()  # its program keeps it

    async def _launch_in(self, container: Container, namespace: Namespace | None) -> tuple[MonitorConnection, dict]:
        message, lock_fd = self._prepare(container, namespace)
        ours, theirs = socket.socketpair()
        attached, container.pending_attach = container.pending_attach, []
        try:
            message["attach"] = [0, *(wants for _, wants in attached)]
            self._launcher.send(message, [lock_fd, theirs.fileno(), *(sock.fileno() for sock, _ in attached)])
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(lock_fd)
            theirs.close()
            for sock, _ in attached:
                sock.close()
        connection = await MonitorConnection.of_socket(ours)
        try:
            return connection, await await_started(connection)
        except BaseException:
            connection.close()
            raise

    def _clear_start(self, container: Container) -> None:
        """A starter whose monitor was killed may still be at it, and leave a cgroup, as one that was killed itself does."""
        deadline_s = time.monotonic() + _MAX_WAIT_FOR_STARTER_S
        while locks.is_locked(f"{self.directory(container)}/config.json") and time.monotonic() < deadline_s:
            time.sleep(_LOOK_AGAIN_S)
        self._remove_group(container)

    async def _start_failed(self, container: Container, error: errors.BerthError, *, connected: bool) -> None:
        record = container.record
        if connected:
            self.publish_network(container, "connect")
        self._publish_mounts(container)
        if connected:
            self.publish_network(container, "disconnect")
        self._publish_unmounts(container)
        record.error = str(error)
        record.exit_code = error.exit_code if isinstance(error, errors.StartFailed) else 128
        if record.status == state.RESTARTING:
            record.move(state.EXITED)
        self._tell_waiters(container)
        if record.auto_remove:
            await self._forget(container)
        else:
            await self.save(container)

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
        """The monitor was killed or cannot be reached: its last words may be on disk; if not, the container is ended here."""
        report = self._kept_report(container)
        if report is None:
            monitor = self._kill_leftovers(container)
            if monitor:
                await asyncio.to_thread(await_end, monitor)  # it may have something to say after all
            unreachable = monitor and not self._has_socket(container)
            report = self._kept_report(container) or {
                "exit_code": _EXIT_CODE_KILLED, "finished_ns": time.time_ns(), "oom_killed": False,
                "error": _UNREACHABLE_MONITOR if unreachable else _KILLED_MONITOR, "lost": "socket" if unreachable else "monitor",
            }  # fmt: skip
            if unreachable and report.get("signal") == 9:
                report["lost"] = "socket"  # the signal was ours
        await asyncio.to_thread(self._remove_group, container)
        await self._ended(container, report)

    def _has_socket(self, container: Container) -> bool:
        """A monitor that was killed leaves its socket's file behind; it may still be there itself, on its way out."""
        return os.path.exists(f"{self.state_directory(container)}/monitor.sock")

    def _kept_report(self, container: Container) -> dict | None:
        try:
            with open(f"{self.directory(container)}/exit.json") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return None

    def _kill_leftovers(self, container: Container) -> int:
        """SIGKILL to the first program, if the pid still is that process, and to all in its cgroup -> pid of its monitor or 0."""
        record, monitor = container.record, 0
        if record.pid and hostfiles.start_ticks(record.pid) == record.pid_start_ticks:
            monitor = hostfiles.parent(record.pid)
            try:
                os.kill(record.pid, 9)
            except ProcessLookupError:
                pass
        self._group(container).kill()
        return monitor if monitor > 1 else 0

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
        record.exit_code, record.finished_ns = report["exit_code"], report["finished_ns"]
        delay_ms = self._restart_delay_ms(container)
        record.move(state.EXITED if delay_ms is None else state.RESTARTING)
        oom_told = record.oom_killed
        record.oom_killed, record.error = oom_told or report["oom_killed"], report.get("error", "")
        if not record.oom_killed and self.host.runtimes.get(record.host.get("Runtime") or ""):  # the monitor has no group of it to count in
            record.oom_killed = self._group(container).oom_kills() > 0
        record.end = {**report, "oom_killed": record.oom_killed, "started_ns": record.started_ns}
        record.pid = 0
        if record.health:
            record.health = {**record.health, "Status": health.UNHEALTHY}
        if record.oom_killed and not oom_told:
            self.publish(container, "oom")
        ran_s = max(0, record.finished_ns - record.started_ns) // 1_000_000_000
        self.publish(container, "die", {"exitCode": str(record.exit_code), "execDuration": str(ran_s)})
        self.publish_network(container, "disconnect")
        self._endpoints.detach(record)
        self._publish_unmounts(container)
        self._release_mounts(container)
        if record.auto_remove:
            await self._forget(container)
        else:
            await self.save_quietly(container)
        container.ended.set()
        self._tell_waiters(container)
        if record.status == state.RESTARTING:
            self._tasks.spawn(self._restart_when_due(container))

    def _tell_waiters(self, container: Container) -> None:
        _resolve(container.exit_waiters, container.record.exit_code)

    # -- restart policies ---------------------------------------------------------------------------

    def _restart_delay_ms(self, container: Container) -> int | None:
        """Decides what becomes of one that ended, and keeps it in the record: an engine killed now goes on with it."""
        record = container.record
        delay_ms = restarts.next_delay_ms(
            restarts.policy_of(record.host), exit_code=record.exit_code, restarts=record.restarts,
            ran_s=(record.finished_ns - record.started_ns) / 1e9, last_delay_ms=record.restart_delay_ms,
            cancelled=container.cancelled, stopped_by_hand=record.stopped_by_hand,
        )  # fmt: skip
        if delay_ms is not None:
            record.restarts += 1
            record.restart_delay_ms, record.restart_due_ns = delay_ms, time.time_ns() + delay_ms * 1_000_000
            container.restart_cancelled.clear()
        return delay_ms

    async def _restart_when_due(self, container: Container) -> None:
        record = container.record
        left_s = restarts.left_s(record.restart_due_ns, time.time_ns(), record.restart_delay_ms)
        try:
            await asyncio.wait_for(container.restart_cancelled.wait(), left_s)
            return
        except TimeoutError:
            pass
        async with container.lock:
            if record.status != state.RESTARTING or container.cancelled:
                return
            try:
                await self._start_locked(container)
            except errors.BerthError as error:
                log.warning("container %s cannot be restarted: %s", record.id[:SHORT], error)

    async def _end_by_hand(self, container: Container, asked_by: str) -> bool:
        """Notes that a person ends this run; True if it only waited to be restarted: then it has ended now."""
        record = container.record
        container.cancelled = True
        if not record.stopped_by_hand:
            record.stopped_by_hand = True
            if restarts.policy_of(record.host).name != restarts.NO:
                await self.save(container)
        if record.status != state.RESTARTING:
            return False
        async with container.lock:  # it may be starting just now
            if record.status != state.RESTARTING:
                return False
            record.move(state.EXITED)
            record.end = {**record.end, "cancelled_by": asked_by}
            container.restart_cancelled.set()
            await self.save(container)
            self._tell_waiters(container)
        return True

    # -- signals and ends ---------------------------------------------------------------------------

    async def kill(self, container: Container, signal_text: str, *, asked_by: str = "kill") -> None:
        """Sends a signal, SIGKILL by default; Conflict if the container does not run."""
        number = validate.signal_number(signal_text or "SIGKILL")
        record = container.record
        if record.active and self._ends(container, number) and await self._end_by_hand(container, asked_by):
            return
        if record.status == state.PAUSED and self._ends(container, number):
            await self._thaw(container)
        if not record.running or container.control is None:
            raise errors.Conflict(f"container {record.id} is not running")
        await container.control.send_signal(number, asked_by)
        self.publish(container, "kill", {"signal": str(number)})
        if number == 9:
            await self._await_killed(container)

    async def _thaw(self, container: Container) -> None:
        """unpause, where somebody else may be quicker."""
        with contextlib.suppress(errors.Conflict):
            await self.unpause(container)

    async def _await_killed(self, container: Container) -> None:
        """The end after SIGKILL, which does not reach a frozen process: a pause that came between is undone."""
        while not container.ended.is_set():
            if container.record.status == state.PAUSED:
                await self._thaw(container)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(container.ended.wait(), _PAUSE_CHECK_S)

    def _ends(self, container: Container, number: int) -> bool:
        """Whether Docker takes a signal for a person's wish to end: any, unless the container names its stop signal."""
        own = container.record.config.get("StopSignal")
        return not own or number in (9, validate.signal_number(own))

    async def stop(
        self, container: Container, timeout_s: int | None, signal_text: str, *, by_hand: bool = True, asked_by: str = "stop"
    ) -> None:
        """The stop signal, then SIGKILL after the timeout (negative: never). NotModified if not running."""
        record = container.record
        if not record.active:
            raise errors.NotModified(f"container {record.id[:SHORT]} is already stopped")
        number = validate.signal_number(signal_text or record.config.get("StopSignal") or defaults.STOP_SIGNAL)
        if by_hand and record.active and await self._end_by_hand(container, asked_by):
            self.publish(container, "stop")
            return
        container.cancelled = True
        if record.status == state.PAUSED:
            await self._thaw(container)
        if not record.running or container.control is None:
            raise errors.NotModified(f"container {record.id[:SHORT]} is already stopped")
        if timeout_s is None:
            configured = record.config.get("StopTimeout")
            timeout_s = defaults.STOP_TIMEOUT_S if configured is None else configured
        await container.control.send_signal(number, asked_by)
        self.publish(container, "kill", {"signal": str(number)})
        try:
            await asyncio.wait_for(container.ended.wait(), None if timeout_s < 0 else min(timeout_s, _MAX_TIMEOUT_S))
        except TimeoutError:
            if container.control:
                await container.control.send_signal(9, asked_by)
                self.publish(container, "kill", {"signal": "9"})
            await self._await_killed(container)
        self.publish(container, "stop")

    async def restart(self, container: Container, timeout_s: int | None, signal_text: str, *, called: str) -> None:
        """stop, then start. called: as the client names it, for errors."""
        try:
            with contextlib.suppress(errors.NotModified):
                await self.stop(container, timeout_s, signal_text, asked_by="restart")
            await self.start(container)
        except errors.BerthError as error:
            raise type(error)(f"Cannot restart container {called}: {error}") from error
        self.publish(container, "restart")

    async def pause(self, container: Container, *, for_commit: bool = False) -> None:
        """Freezes every process of the container. for_commit: an engine that starts undoes it."""
        async with container.lock:
            if container.record.status == state.PAUSED:
                raise errors.Conflict(f"Container {container.record.id} is already paused")
            if container.record.status == state.RESTARTING:
                raise errors.Conflict(state.RESTARTING_TEXT.format(container.record.id))
            if not container.record.running:
                raise errors.Conflict(f"Container {container.record.id} is not running")
            container.record.paused_for_commit = for_commit
            if for_commit:
                await self.save(container)
            try:
                await asyncio.to_thread(self._group(container).freeze, True)
            except FileNotFoundError:  # it ends just now
                raise errors.Conflict(f"Container {container.record.id} is not running") from None
            container.record.move(state.PAUSED)
            await self.save(container)
            self.publish(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Lets it go on."""
        async with container.lock:
            if container.record.status != state.PAUSED:
                raise errors.Conflict(f"Container {container.record.id} is not paused")
            await asyncio.to_thread(self._group(container).freeze, False)
            container.record.move(state.RUNNING)
            container.record.paused_for_commit = False
            await self.save(container)
            self.publish(container, "unpause")

    def wait_registered(self, container: Container, condition: str) -> "asyncio.Future[int]":
        """A future of the exit code: 'not-running' (default), 'next-exit' or 'removed'."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if condition not in ("", "not-running", "next-exit", "removed"):
            raise errors.InvalidParameter(f'invalid condition: "{condition}"; expected not-running, next-exit or removed')
        if condition in ("", "not-running") and not container.record.active:
            future.set_result(container.record.exit_code)
            return future
        waiters = container.removed_waiters if condition == "removed" else container.exit_waiters
        waiters.append(future)
        # One whose client has left must not stay for as long as the container runs.
        future.add_done_callback(lambda done: waiters.remove(done) if done in waiters else None)
        return future

    async def _forget(self, container: Container, *, with_volumes: bool = True) -> None:
        """Takes a container out of database and memory; its files go when its monitor has gone. with_volumes: anonymous ones, too."""
        record = container.record
        self._removed.append(record.remnant())
        before = record.status
        record.move(state.REMOVING)
        try:
            left = await self._delete(container, with_volumes=with_volumes)
        except errors.SystemFailure:  # a disk that is full, maybe of its files: those go in any case, and make room for the record of that
            try:
                await asyncio.to_thread(hostfiles.empty_directory, f"{self.directory(container)}/upper")
                left = await self._delete(container, with_volumes=with_volumes)
            except (errors.SystemFailure, OSError):
                record.status = before
                raise
        self._by_id.pop(record.id, None)
        if self._by_name.get(record.name) is container:
            del self._by_name[record.name]
        self.publish(container, "destroy")
        for sock, _ in container.pending_attach:
            sock.close()
        _resolve(container.removed_waiters, record.exit_code)
        _resolve(container.exit_waiters, record.exit_code)  # one that was never started
        self._tasks.spawn(self._remove_files(container, left))

    async def _remove_files(self, container: Container, more: list[str]) -> None:
        await container.monitor_gone.wait()
        await asyncio.to_thread(hostfiles.remove_directories, [*more, self.directory(container), self.state_directory(container)])


def await_end(pid: int) -> None:
    """Until a process has ended, within reason."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([pidfd], [], [], _LAST_WORDS_S)
    finally:
        os.close(pidfd)


def _resolve(waiters: list[asyncio.Future[int]], exit_code: int) -> None:
    for waiter in list(waiters):
        if not waiter.done():
            waiter.set_result(exit_code)
    waiters.clear()
