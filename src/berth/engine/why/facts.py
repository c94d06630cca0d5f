"""Gathers what `why` judges by: the record, the log's end, the program's file, the kernel's log, who listens on a port."""

import asyncio
import json
import time

from berth import errors
from berth.engine import bundle, health, logconfig, state, views
from berth.engine.containers import ContainerService
from berth.engine.logs import Wanted
from berth.engine.registry import Container
from berth.engine.rootview import RootViews
from berth.engine.state import Record
from berth.engine.why import answering as why
from berth.engine.why import host as why_host
from berth.engine.why import program as why_program
from berth.engine.why import words as why_words
from berth.engine.why.model import Facts, ProgramFile
from berth.models import times

_TAIL_LINES, _LINE_CHARACTERS, _COMMAND_WORDS = 40, 1000, 64


class WhyService:
    """Answers for containers that are there, and for a few that were removed since the engine started."""

    def __init__(self, containers: ContainerService, roots: RootViews, data_root: str) -> None:
        self._containers = containers
        self._roots = roots
        self._data_root = data_root

    async def of(self, name: str) -> dict:
        """The answer's payload; NotFound, or InvalidParameter for a prefix of several ids."""
        try:
            container = self._containers.find(name)
        except errors.NotFound:
            record = self._containers.find_removed(name)
            if record is None:
                raise
            return payload(record, facts_of(record, removed=True))
        record = container.record
        lines = await self._lines(container) if record.end.get("exit_code") else []
        program = await self._program(container) if self._wants_program(record) else None
        return await asyncio.to_thread(self._judged, container, lines, program)

    def _judged(self, container: Container, lines: list[str], program: ProgramFile | None) -> dict:
        record = container.record
        gathered: dict = {"lines": lines, "program": program, "granted": self._granted(record)}
        if record.end.get("exit_code"):
            gathered |= {"seccomp": self._seccomp(container), "free": why_host.free(self._data_root)}
            gathered |= why_host.kernel_log(record.end)
        if record.host.get("NetworkMode") == "host" and why_words.says_in_use(lines):
            wanted = why_words.ports(facts_of(record, lines=lines))
            names = {one.record.id: one.record.name for one in self._containers.all()}
            gathered["listeners"] = why_host.listeners(wanted, names)
        return payload(record, facts_of(record, **gathered))

    async def _lines(self, container: Container) -> list[str]:
        """The last of the run that ended last, whatever came since."""
        end = container.record.end
        if not logconfig.kept_as(container.record):
            return []
        wanted = Wanted(tail=_TAIL_LINES, since_ns=end.get("started_ns") or 0, until_ns=end["finished_ns"])
        stream = await self._containers.logs(container, wanted, lambda run: run.data)
        try:
            text = b"".join([piece async for piece in stream])
        finally:
            stream.close()
        return [why_words.printable(line.rstrip("\r"))[:_LINE_CHARACTERS] for line in text.decode(errors="replace").split("\n") if line.strip()]

    def _wants_program(self, record: Record) -> bool:
        """Ours says itself what is wrong with a program; other runtimes do not, and nobody has tried yet what is only created."""
        if record.status == state.CREATED and not record.error:
            return True
        failed = record.error or record.end.get("exit_code")
        return bool(failed and self._containers.host.runtimes.get(record.host.get("Runtime") or ""))

    async def _program(self, container: Container) -> ProgramFile | None:
        config = container.record.config
        environment = dict(item.partition("=")[::2] for item in bundle.environment(config, "", ""))
        try:
            async with self._roots.live(container, write=False) as root:
                command = views.command_of(container.record)
                return await asyncio.to_thread(why_program.look, root, command[0], config.get("WorkingDir") or "/", environment.get("PATH", ""))
        except (errors.BerthError, OSError, IndexError):
            return None

    def _granted(self, record: Record) -> frozenset[str]:
        try:
            return frozenset(bundle.granted_capabilities(record.host, self._containers.host.bounding))
        except errors.BerthError:
            return frozenset()

    def _seccomp(self, container: Container) -> dict | None:
        try:
            with open(f"{self._containers.directory(container)}/config.json") as file:
                found = json.load(file)["linux"].get("seccomp")
        except (OSError, ValueError, KeyError):
            return None
        return found if isinstance(found, dict) else None


def facts_of(record: Record, *, removed: bool = False, **gathered: object) -> Facts:
    """What the record alone says, and what was gathered."""
    check = health.check_of(record.config)
    return Facts(
        name=record.name, status=record.status, now_ns=time.time_ns(), started_ns=record.started_ns, exit_code=record.exit_code,
        error=record.error, oom_killed=record.oom_killed, end=record.end, host=record.host,
        command=[word[:_LINE_CHARACTERS] for word in views.command_of(record)[:_COMMAND_WORDS]],
        user=record.config.get("User") or "", open_stdin=bool(record.config.get("OpenStdin")), restarts=record.restarts,
        restart_due_ns=record.restart_due_ns, health=record.health, health_command=check.command if check else [], removed=removed,
        **gathered,  # type: ignore[arg-type]
    )  # fmt: skip


def payload(record: Record, facts: Facts) -> dict:
    """GET /containers/{id}/why."""
    verdict = why.judge(facts)
    end = record.end
    return {
        "Id": record.id, "Name": f"/{record.name}", "Status": "removed" if facts.removed else record.status,
        "Reason": verdict.reason, "Likely": verdict.likely, "Summary": verdict.sentence, "Advice": verdict.advice,
        "ExitCode": end.get("exit_code", record.exit_code), "Signal": end.get("signal") or 0, "OOMKilled": bool(end.get("oom_killed")),
        "MemoryLimit": end.get("memory_limit_bytes") or 0, "MemoryPeak": end.get("memory_peak_bytes") or 0,
        "Asked": [{"Signal": one["signal"], "By": one["by"], "At": times.rfc3339(one["at_ns"])} for one in end.get("asked") or []],
        "Error": record.error, "StartedAt": times.rfc3339(end.get("started_ns") or record.started_ns),
        "FinishedAt": times.rfc3339(record.finished_ns), "RestartCount": record.restarts, "Log": facts.lines[-10:],
    }  # fmt: skip
