"""Runs health checks through the exec service, and keeps and tells what health.py makes of them."""

import asyncio
import time

from berth import errors
from berth.engine import health, state
from berth.engine.execs import Exec, ExecService
from berth.engine.registry import Container
from berth.engine.running import Running
from berth.engine.tasks import Tasks
from berth.models import durations, times

_SAVED_EVERY = 5  # results that change nothing


class HealthService:
    """A task for each running container that has a check."""

    def __init__(self, containers: Running, execs: ExecService, tasks: Tasks) -> None:
        self._containers = containers
        self._execs = execs
        self._tasks = tasks
        self.checks = 0  # since the engine started, and how many of them failed
        self.failed = 0
        containers.on_running.append(self._running)

    def _running(self, container: Container) -> None:
        check = health.check_of(container.record.config)
        if check:
            self._tasks.spawn(self._follow(container, check))

    async def _follow(self, container: Container, check: health.Check) -> None:
        """Probes until this run of the program has ended."""
        record = container.record
        run_ns = record.started_ns
        uneventful = 0
        while record.health:
            wait_s = health.together_s(check.wait_s(record.health["Status"], time.time() - run_ns / 1e9), time.monotonic())
            try:
                async with asyncio.timeout(wait_s):  # unlike wait_for it takes no task
                    await container.ended.wait()
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
            self.checks += 1
            self.failed += code != 0
            result = {"Start": times.rfc3339(started_ns), "End": times.rfc3339(time.time_ns()), "ExitCode": code, "Output": output}
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

        def keep(data: bytes) -> None:
            output.extend(data[: health.MAX_OUTPUT_BYTES + 1 - len(output)])

        try:
            exec_ = self._execs.create(container, {"Cmd": check.command, "AttachStdout": True, "AttachStderr": True}, probe=True)
            async with asyncio.timeout(check.timeout_s):
                await self._execs.run(exec_, keep)
        except TimeoutError:
            if exec_:
                await self._execs.kill(exec_)
            text = f"Health check exceeded timeout ({durations.text_of(round(check.timeout_s * 1e9))})"
            return -1, f"{text}: {health.cut(bytes(output))}" if output else text
        except (errors.BerthError, OSError) as error:
            return -1, str(error)
        finally:
            if exec_:
                self._execs.drop(exec_)
        return exec_.exit_code if exec_.exit_code is not None else -1, health.cut(bytes(output))
