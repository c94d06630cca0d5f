"""Solves a graph: every vertex that is needed once, those that do not wait for each other side by side, nothing twice.

A vertex's cache key is made of its operation and of what its inputs turned out to be: chain ids of layers, digests of the contents that
are used. A Copy from another stage has a second key, with that stage's chain id, which is known without reading a file.

Steps with equal keys that are under way in several builds are one piece of work; it goes on for as long as somebody waits for it.

A step that is found in a cache elsewhere has layers there, which may turn out to be lost once their files are needed. What waits for them is passed
over, the rest goes on to its end, and another pass makes what is missing, and all that depends on it, anew.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from berth import errors
from berth.build import graph, progress, why
from berth.build.cache import Cache, Record, key_of
from berth.build.graph import Vertex
from berth.build.progress import Event, Report
from berth.build.worker import Finished, Given, Layers, LayersLost, Output, Result, Tree, Worker

MOST_STEPS = 16  # containers of one engine's builds at a time
MOST_LOG_BYTES = 64 << 20  # of one step: whoever listens may be slow, and what is said waits in memory
_REMEMBERED_BYTES = 1 << 20  # for who comes later


class StepFailed(errors.InvalidParameter):
    """A program ended with an error. exit_code: its own; vertex: of the step."""

    def __init__(self, text: str, exit_code: int, vertex: Vertex) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.vertex = vertex


class _Work:
    """One step under way, and who listens. What has been said is said again to who comes later."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Layers] | None = None
        self.listeners: list[Output] = []
        self.said: deque[tuple[int, bytes]] = deque()
        self.waiting = 0
        self._said_bytes = self._remembered_bytes = 0

    def output(self, stream: int, data: bytes) -> None:
        before, self._said_bytes = self._said_bytes, self._said_bytes + len(data)
        if before > MOST_LOG_BYTES:
            return
        if self._said_bytes > MOST_LOG_BYTES:
            stream, data = 2, f"\n[output clipped: a step may write {MOST_LOG_BYTES >> 20} MiB]\n".encode()
        self.said.append((stream, data))
        self._remembered_bytes += len(data)
        while self._remembered_bytes > _REMEMBERED_BYTES and len(self.said) > 1:
            self._remembered_bytes -= len(self.said.popleft()[1])
        for listener in self.listeners:
            listener(stream, data)


class Shared:
    """What the builds of one engine have in common."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.gate = asyncio.Semaphore(MOST_STEPS)
        self._under_way: dict[str, _Work] = {}

    async def once(
        self, key: str, output: Output, make: Callable[[Output], Awaitable[Layers]], led: "set[asyncio.Task[Layers]]"
    ) -> Layers:
        """The result of `make`, which somebody else may be at already. led: gets the task, if not: it may outlast this call."""
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _Work()
            work.task = asyncio.ensure_future(self._run(key, work, make))
            led.add(work.task)
        assert work.task
        for stream, data in work.said:
            output(stream, data)
        work.listeners.append(output)
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        except asyncio.CancelledError:
            if work.waiting == 1 and not work.task.done():
                self._forget(key, work)  # whoever comes now begins anew
                work.task.cancel()
                await asyncio.wait({work.task})
            raise
        finally:
            work.waiting -= 1
            work.listeners.remove(output)

    async def _run(self, key: str, work: _Work, make: Callable[[Output], Awaitable[Layers]]) -> Layers:
        try:
            async with self.gate:
                return await make(work.output)
        finally:
            self._forget(key, work)

    def _forget(self, key: str, work: _Work) -> None:
        if self._under_way.get(key) is work:
            del self._under_way[key]


class Solver:
    """One build."""

    def __init__(self, worker: Worker, shared: Shared, report: Report, elsewhere: Callable[[str], Record | None] = lambda key: None) -> None:
        """elsewhere: records that are not in the cache, of registries and directories."""
        self.used: dict[tuple[str, str], Record] = {}  # by chain and parent: what this build has found or made
        self._elsewhere = elsewhere
        self._worker = worker
        self._shared = shared
        self._report = report
        self._results: dict[Vertex, Result] = {}
        self._solved: dict[Vertex, asyncio.Event] = {}  # no task waits for a task: cancelling a chain of thousands would be recursion
        self._numbers: dict[Vertex, int] = {}
        self._inputs: dict[str, dict[str, Any]] = {}
        self._missed: set[Vertex] = set()
        self._led: set[asyncio.Task[Layers]] = set()
        self._paths: dict[str, tuple[str, ...] | None] = {}  # what is needed of each context

    # -- from outside -----------------------------------------------------------------------------------

    def announce(self, vertices: list[Vertex]) -> list[Vertex]:
        """Numbers the vertices that these need, in the order of the Dockerfile, and tells of them."""
        found = graph.in_order(vertices)
        for each in found:
            self._number(each)
        return found

    async def solve(self, vertices: list[Vertex]) -> list[Layers]:
        """The layers that each of these makes, which are here. A failure ends what is under way; what was made stays in the cache."""
        needed = self.announce(vertices)
        self._paths = graph.context_paths(vertices)
        try:
            while left := [each for each in needed if each not in self._results]:
                await self._pass(left, set(vertices))
                if any(each not in self._results for each in left):
                    self._forget_lost(needed)
        except BaseExceptionGroup as found:
            raise _first(found) from None
        finally:
            self._shared.cache.note_inputs(self._inputs)
        return [result for vertex in vertices if isinstance(result := self._results[vertex], Layers)]

    async def _pass(self, left: list[Vertex], wanted: set[Vertex]) -> None:
        """Solves these, but for what needs layers that turn out to be lost. wanted: what is to be here at the end."""
        self._solved = {each: asyncio.Event() for each in left}
        async with asyncio.TaskGroup() as group:
            for each in left:
                group.create_task(self._guarded(each, bring=each in wanted))

    def _forget_lost(self, needed: list[Vertex]) -> None:
        """Results whose layers cannot be had, and those that depend on them."""
        for each in needed:
            result = self._results.get(each)
            lost = isinstance(result, Layers) and not self._worker.keep(result.chain)
            if lost or any(below not in self._results for below in each.inputs):
                self._results.pop(each, None)
        self.used = {key: record for key, record in self.used.items() if self._worker.keep(record.chain)}

    @property
    def under_way(self) -> "set[asyncio.Task[Layers]]":
        """What this build began and others still wait for; it needs the worker."""
        return {task for task in self._led if not task.done()}

    @property
    def results(self) -> dict[Vertex, Result]:
        """Of the vertices that have been solved."""
        return self._results

    # -- vertices -----------------------------------------------------------------------------------------

    def _number(self, vertex: Vertex) -> int:
        if vertex not in self._numbers:
            self._numbers[vertex] = len(self._numbers) + 1
            self._tell(progress.PLANNED, vertex, label=vertex.label, instruction=vertex.instruction, line=vertex.line)
        return self._numbers[vertex]

    def _tell(self, kind: str, vertex: Vertex, **fields: Any) -> None:
        self._report(Event(kind, self._numbers[vertex], time.time_ns(), **fields))

    async def _guarded(self, vertex: Vertex, *, bring: bool) -> None:
        for each in vertex.inputs:
            if each in self._solved:
                await self._solved[each].wait()  # one that fails ends the group
        try:
            if all(each in self._results for each in vertex.inputs):
                result = await self._solve(vertex, [self._results[each] for each in vertex.inputs])
                if bring and isinstance(result, Layers):
                    await self._worker.bring(result.chain)
                self._results[vertex] = result
        except LayersLost:
            pass  # the next pass's
        except asyncio.CancelledError:
            self._tell(progress.CANCELLED, vertex)
            raise
        except Exception as error:
            self._tell(progress.FAILED, vertex, text=str(error), exit_code=getattr(error, "exit_code", 0))
            raise
        self._solved[vertex].set()

    async def _solve(self, vertex: Vertex, inputs: list[Result]) -> Result:
        op = vertex.op
        output = self._output(vertex)
        if isinstance(op, graph.Scratch):
            self._tell(progress.STARTED, vertex)
            self._done(vertex, Layers("", ()))
            return Layers("", ())
        if isinstance(op, graph.ImageSource):
            self._tell(progress.STARTED, vertex)
            return self._done(vertex, await self._worker.image(op, output))
        if isinstance(op, graph.ContextSource):
            self._tell(progress.STARTED, vertex)
            return self._done(vertex, await self._worker.context(op.name, self._paths.get(op.name), output))
        if isinstance(op, (graph.UrlSource, graph.GitSource)):
            self._tell(progress.STARTED, vertex)
            return self._done(vertex, await self._worker.fetch(op, output))
        base = inputs[0]
        if not isinstance(base, Layers):
            base = await self._worker.copy(_ALL, Layers("", ()), base)  # FROM a named context
        return await self._layers(vertex, base, inputs)

    def _done(self, vertex: Vertex, result: Result) -> Result:
        shown = result.chain or "" if isinstance(result, Layers) else result.identity
        self._tell(progress.DONE, vertex, result=shown)
        return result

    def _output(self, vertex: Vertex) -> Output:
        def tell(stream: int, data: bytes) -> None:
            self._tell(progress.LOG, vertex, stream=stream, text=data.decode(errors="surrogateescape"))

        return tell

    # -- steps that make layers -------------------------------------------------------------------------------

    async def _layers(self, vertex: Vertex, base: Layers, inputs: list[Result]) -> Layers:
        op = vertex.op
        quick = self._quick_key(op, base, inputs)
        if quick and not vertex.fresh and (found := self._find(quick)):
            return self._cached(vertex, found)
        digests = await self._digests(op, inputs)
        below = "" if isinstance(op, graph.Copy) and op.independent else base.chain
        key = key_of(op.definition(), [below, *digests.values()])
        self._note(vertex, op, base, digests)
        if not vertex.fresh and (found := await self._find_over(key, op, base)):
            if quick:
                self._shared.cache.put(quick, found.chain, base.chain, vertex.instruction, _kind(op), found.created_ns)
            return self._cached(vertex, found)
        self._explain(vertex, op)
        self._missed.add(vertex)
        self._tell(progress.STARTED, vertex)
        once = key if not vertex.fresh else f"{key} {id(self)}"
        made = await self._shared.once(f"{once} {base.chain}", self._output(vertex), lambda output: self._make(vertex, base, inputs, output), self._led)
        self._worker.keep(made.chain)  # another build may have made it
        for each in {key, quick} - {""}:
            record = self._shared.cache.put(each, made.chain, base.chain, vertex.instruction, _kind(op), made.created_ns)
            self.used[made.chain, base.chain] = record
        self._tell(progress.DONE, vertex, result=made.chain)
        return made

    def _quick_key(self, op: graph.Op, base: Layers, inputs: list[Result]) -> str:
        """Of what is known without looking at contents; '' where a tree is among the inputs whose state has no name."""
        identities = []
        for each in inputs[1:]:
            identity = each.chain if isinstance(each, Layers) else each.identity
            if not identity and not (isinstance(each, Layers)):
                return ""
            identities.append(identity)
        return key_of({**op.definition(), "quick": True}, [base.chain, *identities])

    async def _digests(self, op: graph.Op, inputs: list[Result]) -> dict[str, str]:
        """Of the contents that the operation sees of each input but the base."""
        if isinstance(op, graph.Copy):
            return {"files": await self._worker.digest(op, inputs[1], None)} if op.sources else {}
        found = {}
        if isinstance(op, graph.Run):
            for mount in op.mounts:
                if mount.input and mount.kind == graph.BIND:
                    found[f"mount {mount.target}"] = await self._worker.digest(op, inputs[mount.input], mount)
        return found

    def _find(self, key: str) -> Layers | None:
        record = self._shared.cache.find(key)
        if record and not self._worker.keep(record.chain):
            self._shared.cache.drop([key])
            record = None
        record = record or self._elsewhere(key)
        if record is None or not self._worker.keep(record.chain):
            return None
        self.used[record.chain, record.parent] = record
        return Layers(record.chain, self._worker.diffs(record.chain), record.created_ns)

    async def _find_over(self, key: str, op: graph.Op, base: Layers) -> Layers | None:
        """A result that was made over the same layers. (One made over others, of `COPY --link`, is made again: that costs no more than links.)"""
        found = self._find(key)
        if found and isinstance(op, graph.Copy) and op.independent and found.diffs[: len(base.diffs)] != base.diffs:
            return None
        return found

    def _cached(self, vertex: Vertex, found: Layers) -> Layers:
        self._tell(progress.CACHED, vertex, result=found.chain)
        return found

    def _note(self, vertex: Vertex, op: graph.Op, base: Layers, digests: dict[str, str]) -> None:
        if vertex.slot:
            self._inputs[vertex.slot] = {**why.fields(op), "base": base.chain, **digests}

    def _explain(self, vertex: Vertex, op: graph.Op) -> None:
        if not vertex.slot:
            return
        earlier = next((each for each in vertex.inputs if each in self._missed), None)
        before = self._shared.cache.inputs_before(vertex.slot)
        text = why.explain(before, self._inputs.get(vertex.slot, {}), fresh=vertex.fresh, earlier=earlier.label if earlier else "")
        self._tell(progress.WHY, vertex, text=text)

    async def _make(self, vertex: Vertex, base: Layers, inputs: list[Result], output: Output) -> Layers:
        op = vertex.op
        if isinstance(op, graph.Copy):
            made = await self._worker.copy(op, base, inputs[1])
        elif isinstance(op, graph.MakeDirectory):
            made = await self._worker.make_directory(op, base)
        else:
            assert isinstance(op, graph.Run)
            finished: Finished = await self._worker.run(op, base, Given(inputs), output)
            if finished.layers is None:
                raise StepFailed(_why_failed(op, finished), finished.exit_code, vertex)
            made = finished.layers
        return Layers(made.chain, made.diffs, time.time_ns())


_ALL = graph.Copy(sources=("/",), destination="/", directory="/")


def _why_failed(op: graph.Run, finished: Finished) -> str:
    """In the words that Docker's clients know."""
    text = f"The command '{' '.join(op.words)}' returned a non-zero code: {finished.exit_code}"
    return f"{text} ({finished.reason})" if finished.reason else text


def _kind(op: graph.Op) -> str:
    return "exec" if isinstance(op, graph.Run) else "regular"


def _first(found: BaseExceptionGroup) -> BaseException:
    """The failure that ended the others."""
    for each in found.exceptions:
        if isinstance(each, BaseExceptionGroup):
            return _first(each)
        if not isinstance(each, asyncio.CancelledError):
            return each
    return found


__all__ = ["Shared", "Solver", "StepFailed", "Tree"]
