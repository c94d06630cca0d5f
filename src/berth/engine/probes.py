"""Runs health checks through the exec service, and keeps and tells what health.py makes of them."""

import asyncio
import os
import signal
import time

from berth import errors
from berth.engine import health, hostfiles, state, views
from berth.engine.execs import Exec, ExecService
from berth.engine.registry import Container
from berth.engine.running import Running
from berth.engine.tasks import Tasks
from berth.models import durations
from berth.runtime import frames

_SAVED_EVERY = 5  # results that change nothing
_MAX_KILLED = 1000  # of what a probe may have started


class HealthService:
    """A task for each running container that has a check."""

    def __init__(self, containers: Running, execs: ExecService, tasks: Tasks) -> None:
        self._containers = containers
        self._execs = execs
        self._tasks = tasks
        containers.on_running.append(self._running)

    def _running(self, container: Container) -> None:
        check = health.check_of(container.record.config)
        if check:
            self._tasks.spawn(self._follow(container, check))

    async def _follow(self, container: Container, check: health.Check) -> None:
        """Probes until this run of the program has ended."""
        await asyncio.to_thread(self._end_old_probe, container)
        record = container.record
        run_ns = record.started_ns
        uneventful = 0
        while record.health:
            wait_s = check.wait_s(record.health["Status"], time.time() - run_ns / 1e9)
            try:
                await asyncio.wait_for(container.ended.wait(), wait_s)
                return
            except TimeoutError:
                pass
            if record.status == state.PAUSED:
                continue
            started_ns = time.time_ns()
            code, output = await self._probe(container, check)
            if record.started_ns != run_ns or not record.running:
                return
            if record.status == state.PAUSED:
                continue  # it was held up: this says nothing of its health
            before = record.health
            result = {"Start": views.rfc3339(started_ns), "End": views.rfc3339(time.time_ns()), "ExitCode": code, "Output": output}
            record.health = health.judge(before, result, check, (started_ns - run_ns) / 1e9)
            changed = any(before[key] != record.health[key] for key in ("Status", "FailingStreak"))
            uneventful = 0 if changed else uneventful + 1
            if changed or uneventful % _SAVED_EVERY == 0:
                await self._containers.save_quietly(container)
            if before["Status"] != record.health["Status"]:
                self._containers.publish(container, f"health_status: {record.health['Status']}")

    async def _probe(self, container: Container, check: health.Check) -> tuple[int, str]:
        """Exit code and output of one run; -1 for one that could not start or took too long."""
        output = bytearray()
        exec_: Exec | None = None
        try:
            exec_ = self._execs.create(container, {"Cmd": check.command, "AttachStdout": True, "AttachStderr": True})
            async with asyncio.timeout(check.timeout_s):
                stream = await self._execs.start(exec_, frames.WANT_STDOUT | frames.WANT_STDERR, (0, 0))
                self._note(container, exec_.pid)
                try:
                    async for kind, data in stream.frames():
                        if kind in (frames.STDOUT, frames.STDERR):
                            output += data[: health.MAX_OUTPUT_BYTES + 1 - len(output)]
                finally:
                    stream.close()
                await exec_.ended.wait()
        except TimeoutError:
            if exec_ and exec_.control:
                await asyncio.to_thread(kill_tree, exec_.pid)
                await exec_.control.send_signal(signal.SIGKILL)
            text = f"Health check exceeded timeout ({durations.text_of(round(check.timeout_s * 1e9))})"
            return -1, f"{text}: {health.cut(bytes(output))}" if output else text
        except (errors.BerthError, OSError) as error:
            return -1, str(error)
        finally:
            if exec_:
                self._execs.drop(exec_)
                self._note(container, 0)
        return exec_.exit_code if exec_.exit_code is not None else -1, health.cut(bytes(output))

    # -- a probe that outlives its engine: nobody would end it when its time is up -----------------------

    def _note(self, container: Container, pid: int) -> None:
        """Keeps which process is the probe now, 0 for none, where the next engine finds it."""
        try:
            with open(f"{self._containers.state_directory(container)}/probe", "w") as file:
                file.write(f"{pid} {hostfiles.start_ticks(pid)}" if pid else "")
        except OSError:
            pass  # the container is being removed

    def _end_old_probe(self, container: Container) -> None:
        try:
            with open(f"{self._containers.state_directory(container)}/probe") as file:
                pid, ticks = (int(word) for word in file.read().split())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return
        try:
            if ticks and hostfiles.start_ticks(pid) == ticks:
                kill_tree(pid)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(pidfd)


def kill_tree(pid: int) -> None:
    """SIGKILL to what a process has started, the last first; itself is its monitor's business.

    Each is held by its descriptor before its parent is looked at, so that no other process is ever hit.
    """
    known = [pid]
    for parent in known:  # grows meanwhile
        known += [child for child in _children(parent) if child not in known]
        if len(known) > _MAX_KILLED:
            break
    for child in reversed(known[1:]):
        try:
            pidfd = os.pidfd_open(child)
        except OSError:
            continue
        try:
            if _parent(child) in known:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(pidfd)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
