"""Tells of processes that the kernel killed for want of memory when it happens, and not only at a container's end."""

import asyncio
import logging

from berth import errors
from berth.engine.registry import Container
from berth.engine.running import Running
from berth.engine.tasks import Tasks
from berth.linux import cgroup, cgroup_stats

# v1 rings before it kills, and counts after it.
_UNTIL_COUNTED_S = (0.005, 0.02, 0.1, 0.5)

log = logging.getLogger("berth.containers")


class OomWatcher:
    """One descriptor for each running container that has a memory limit; the others' kills are told at their end."""

    def __init__(self, containers: Running, tasks: Tasks) -> None:
        self._containers = containers
        self._tasks = tasks
        containers.on_running.append(self._running)

    def _running(self, container: Container) -> None:
        if (container.record.host.get("Memory") or 0) > 0:
            self._tasks.spawn(self._watch(container))

    async def _watch(self, container: Container) -> None:
        record = container.record
        group = self._containers.group(container)
        try:
            notifier = cgroup_stats.oom_notifier(group)
        except errors.BerthError as error:
            log.info("container %s: %s", record.id[:12], error)
            return
        loop, rung, run_ns = asyncio.get_running_loop(), asyncio.Event(), record.started_ns
        with notifier:
            loop.add_reader(notifier.fileno(), lambda: self._ring(notifier, rung))
            # What happened before we listened counts, unless an earlier engine has told it.
            told = group.oom_kills() if record.oom_killed else 0
            try:
                while record.started_ns == run_ns and record.running:
                    told = await self._tell(container, group, told)
                    if not await self._rings(container, rung):
                        return
                    for wait_s in _UNTIL_COUNTED_S:
                        if group.oom_kills() > told:
                            break
                        await asyncio.sleep(wait_s)
            finally:
                loop.remove_reader(notifier.fileno())

    def _ring(self, notifier: cgroup_stats.OomNotifier, rung: asyncio.Event) -> None:
        if notifier.read() is None:  # the group has no process any more; the end is the monitor's to tell
            asyncio.get_running_loop().remove_reader(notifier.fileno())
        rung.set()

    async def _rings(self, container: Container, rung: asyncio.Event) -> bool:
        """True at the next news, False once the container has ended."""
        waits = [asyncio.ensure_future(event.wait()) for event in (rung, container.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        rung.clear()
        return not container.ended.is_set()

    async def _tell(self, container: Container, group: cgroup.Cgroup, told: int) -> int:
        kills = group.oom_kills()
        if kills > told:
            container.record.oom_killed = True
            self._containers.publish(container, "oom")
            await self._containers.save_quietly(container)
        return kills
