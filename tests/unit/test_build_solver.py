"""The solver with a worker that only notes what it is asked for."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.build import graph, progress
from berth.build.cache import Cache, Record, key_of
from berth.build.graph import Vertex
from berth.build.progress import Event
from berth.build.solver import Shared, Solver, StepFailed
from berth.build.worker import Finished, Given, Layers, LayersLost, Output, Result, Tree


class Worker:
    """Layers are called by what made them. gates: operations that wait; fails: commands that end with 3.

    gone: chains that are not here; elsewhere: those that a cache elsewhere has; lost: those that it only says to have.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.contents = "1"
        self.gates: dict[str, asyncio.Event] = {}
        self.fails: set[str] = set()
        self.gone: set[str] = set()
        self.elsewhere: set[str] = set()
        self.lost: set[str] = set()
        self.killed: list[str] = []
        self.running = self.most = 0

    async def image(self, source: graph.ImageSource, output: Output) -> Layers:
        return Layers(source.reference, (source.reference,))

    async def context(self, name: str, paths: tuple[str, ...] | None, output: Output) -> Tree:
        return Tree(-1, "/context")

    async def fetch(self, source: graph.UrlSource | graph.GitSource, output: Output) -> Tree:
        return Tree(-1, "/fetched", "fetched")

    async def run(self, op: graph.Run, base: Layers, given: Given, output: Output) -> Finished:
        word = op.words[0]
        for each in [base, *given.results[1:]]:
            await self.bring(each.chain if isinstance(each, Layers) else "")
        self.ran.append(word)
        output(1, f"{word} says\n".encode())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if word in self.gates:
                await self.gates[word].wait()
        except asyncio.CancelledError:
            self.killed.append(word)
            raise
        finally:
            self.running -= 1
        if word in self.fails:
            return Finished(3, None)
        self.gone.discard(f"{base.chain}+{word}")
        return Finished(0, Layers(f"{base.chain}+{word}", (*base.diffs, word)))

    async def digest(self, op: graph.Copy | graph.Run, result: Result, mount: graph.Mount | None) -> str:
        return self.contents

    async def copy(self, op: graph.Copy, base: Layers, source: Result) -> Layers:
        self.ran.append("copy")
        return Layers(f"{base.chain}+copy{self.contents}", (*base.diffs, f"copy{self.contents}"))

    async def make_directory(self, op: graph.MakeDirectory, base: Layers) -> Layers:
        return base

    def keep(self, chain: str) -> bool:
        return chain not in self.gone

    async def bring(self, chain: str) -> None:
        if chain in self.elsewhere:
            await asyncio.sleep(0)
            if lost := {each for each in self.lost if chain.startswith(each)}:
                self.gone |= {each for each in self.elsewhere if any(each.startswith(below) for below in lost)}
                self.elsewhere -= self.gone
                raise LayersLost(chain)
        if chain in self.gone:
            raise LayersLost(chain)

    def diffs(self, chain: str) -> tuple[str, ...]:
        return tuple(chain.split("+"))


async def turns_until(condition: Callable[[], bool]) -> None:
    """Gives the others their turns; no time is waited for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


BASE = Vertex(graph.ImageSource("base", "linux/amd64"), label="base")


def run(word: str, base: Vertex = BASE, *, fresh: bool = False, slot: str = "") -> Vertex:
    op = graph.Run(words=(word,), environment=(), directory="/", user="")
    return Vertex(op, (base,), label=word, instruction=f"RUN {word}", fresh=fresh, slot=slot)


def copy(base: Vertex, source: Vertex, **fields: object) -> Vertex:
    op = graph.Copy(sources=("a",), destination="/", directory="/", **fields)  # type: ignore[arg-type]
    return Vertex(op, (base, source), label="copy", instruction="COPY a /", slot="copy")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    cache = Cache(str(tmp_path))
    yield Shared(cache)
    cache.close()


def solve(shared: Shared, worker: Worker, *vertices: Vertex) -> list[Event]:
    events: list[Event] = []
    asyncio.run(Solver(worker, shared, events.append).solve(list(vertices)))
    return events


def kinds(events: list[Event], kind: str) -> list[int]:
    return [event.vertex for event in events if event.kind == kind]


def test_every_vertex_once_and_in_order(shared: Shared) -> None:
    worker = Worker()
    first = run("a")
    events = solve(shared, worker, run("c", run("b", first)), run("d", first))
    assert sorted(worker.ran) == ["a", "b", "c", "d"]
    assert worker.ran.index("a") == 0
    assert [event.label for event in events if event.kind == progress.PLANNED] == ["base", "a", "b", "c", "d"]


def test_a_second_build_finds_all(shared: Shared) -> None:
    worker = Worker()
    solve(shared, worker, run("b", run("a")))
    events = solve(shared, worker, run("b", run("a")))
    assert worker.ran == ["a", "b"]
    assert len(kinds(events, progress.CACHED)) == 2


def test_what_is_not_here_any_more_is_made_again(shared: Shared) -> None:
    worker = Worker()
    solve(shared, worker, run("b", run("a")))
    worker.gone.add("base+a+b")
    solve(shared, worker, run("b", run("a")))
    assert worker.ran == ["a", "b", "b"]


def test_contents_decide_on_a_copy(shared: Shared) -> None:
    worker = Worker()
    context = Vertex(graph.ContextSource(""), label="context")
    solve(shared, worker, copy(BASE, context))
    solve(shared, worker, copy(BASE, context))
    assert worker.ran == ["copy"]
    worker.contents = "2"
    events = solve(shared, worker, copy(BASE, context))
    assert worker.ran == ["copy", "copy"]
    assert [event.text for event in events if event.kind == progress.WHY] == ["files that it copies have changed"]


def test_a_stage_made_anew_with_the_same_files_costs_nothing_behind_it(shared: Shared) -> None:
    worker = Worker()
    solve(shared, worker, copy(BASE, run("one")))
    solve(shared, worker, copy(BASE, run("other")))
    assert worker.ran == ["one", "copy", "other"]


def test_fresh_vertices_run_again_and_so_does_nothing_that_sees_the_same(shared: Shared) -> None:
    worker = Worker()
    solve(shared, worker, run("b", run("a")))
    solve(shared, worker, run("b", run("a", fresh=True)))
    assert worker.ran == ["a", "b", "a"]


def test_side_by_side(shared: Shared) -> None:
    async def both() -> None:
        worker = Worker()
        worker.gates = {"a": asyncio.Event(), "b": asyncio.Event()}
        work = asyncio.create_task(Solver(worker, shared, lambda event: None).solve([run("a"), run("b")]))
        await turns_until(lambda: worker.running == 2)
        for gate in worker.gates.values():
            gate.set()
        await work
        assert worker.most == 2

    asyncio.run(both())


def test_a_failure_ends_the_others_and_keeps_what_was_made(shared: Shared) -> None:
    async def go() -> None:
        worker = Worker()
        worker.gates = {"slow": asyncio.Event()}
        worker.fails = {"bad"}
        events: list[Event] = []
        with pytest.raises(StepFailed, match=r"The command 'bad' returned a non-zero code: 3") as caught:
            await Solver(worker, shared, events.append).solve([run("bad", run("good")), run("slow")])
        assert caught.value.exit_code == 3
        assert worker.killed == ["slow"]
        assert [event.exit_code for event in events if event.kind == progress.FAILED] == [3]
        again = Worker()
        await Solver(again, shared, lambda event: None).solve([run("good")])
        assert again.ran == []

    asyncio.run(go())


def test_two_builds_of_the_same_and_one_that_goes(shared: Shared) -> None:
    async def go() -> None:
        worker = Worker()
        gate = worker.gates["a"] = asyncio.Event()
        said: list[Event] = []
        first = asyncio.create_task(Solver(worker, shared, lambda event: None).solve([run("a")]))
        await turns_until(lambda: bool(worker.ran))
        second = asyncio.create_task(Solver(worker, shared, said.append).solve([run("a")]))
        await turns_until(lambda: any(event.kind == progress.LOG for event in said))  # what was said before it came is said again
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        assert [layers.chain for layers in await second] == ["base+a"]
        assert (worker.ran, worker.killed) == (["a"], [])

    asyncio.run(go())


def test_the_last_who_goes_ends_the_work(shared: Shared) -> None:
    async def go() -> None:
        worker = Worker()
        worker.gates["a"] = asyncio.Event()
        build = asyncio.create_task(Solver(worker, shared, lambda event: None).solve([run("a")]))
        await turns_until(lambda: bool(worker.ran))
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await build
        assert worker.killed == ["a"]

    asyncio.run(go())


def test_why_names_the_step_before(shared: Shared) -> None:
    worker = Worker()
    solve(shared, worker, run("b", run("a", slot="1"), slot="2"))
    events = solve(shared, worker, run("b", run("changed", slot="1"), slot="2"))
    assert [event.text for event in events if event.kind == progress.WHY] == [
        "the command was 'a' and is 'changed'", "the step before it was made anew: changed",
    ]  # fmt: skip


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"no database at all" * 100)
    cache = Cache(str(tmp_path))
    cache.put("k", "chain", "", "RUN a", "exec")
    cache.close()
    again = Cache(str(tmp_path))
    found = again.find("k")
    assert found is not None
    assert found.chain == "chain"
    again.close()


def test_keys_tell_inputs_and_operations_apart() -> None:
    keys = {key_of({"op": "Run", "words": words}, inputs) for words in (["a"], ["a", ""]) for inputs in (["x"], ["x", ""], ["", "x"])}
    assert len(keys) == 6


def test_thousands_of_steps_fail_and_are_cancelled_without_recursion(shared: Shared) -> None:
    """Each waits for the one before; what ends them must not go through all of them on the stack."""
    last = run("first")
    for number in range(5000):
        last = run(f"s{number}", last)
    worker = Worker()
    worker.fails.add("first")
    with pytest.raises(StepFailed):
        solve(shared, worker, last)

    async def cancelled() -> None:
        worker = Worker()
        worker.gates["first"] = asyncio.Event()
        task = asyncio.ensure_future(Solver(worker, shared, lambda event: None).solve([last]))
        await turns_until(lambda: worker.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.killed == ["first"]

    asyncio.run(cancelled())


# -- layers of caches elsewhere -----------------------------------------------------------------------------------


def solve_from(shared: Shared, worker: Worker, known: dict[str, Record], *vertices: Vertex) -> list[Event]:
    events: list[Event] = []
    asyncio.run(Solver(worker, shared, events.append, known.get).solve(list(vertices)))
    return events


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Record]:
    """What another engine has made of `a`, `b` over it, and `side`."""
    cache = Cache(str(tmp_path / "other"))
    solve(Shared(cache), Worker(), run("b", run("a")), run("side"))
    cache.close()
    return {record.key: record for record in cache.all()}


CHAINS = {"base+a", "base+a+b", "base+side"}


@pytest.mark.parametrize(("lost", "ran"), [("base+a", ["a", "b", "c"]), ("base+a+b", ["b", "c"])])
def test_layers_that_are_lost_are_made_anew_with_what_is_over_them(shared: Shared, known: dict[str, Record], lost: str, ran: list[str]) -> None:
    worker = Worker()
    worker.elsewhere, worker.lost = set(CHAINS), {lost}
    events = solve_from(shared, worker, known, run("c", run("b", run("a"))))
    assert worker.ran == ran
    assert not kinds(events, progress.FAILED)
    assert {event.result for event in events if event.kind == progress.DONE} >= {"base+a+b", "base+a+b+c"}
    solve_from(shared, worker, known, run("c", run("b", run("a"))))
    assert worker.ran == ran


def test_what_nobody_looks_into_may_be_lost(shared: Shared, known: dict[str, Record]) -> None:
    worker = Worker()
    worker.elsewhere, worker.lost = set(CHAINS), {"base+side"}
    solve_from(shared, worker, known, run("c", run("b", run("a"))))
    assert worker.ran == ["c"]


def test_a_result_that_is_lost_is_made_here(shared: Shared, known: dict[str, Record]) -> None:
    worker = Worker()
    worker.elsewhere, worker.lost = set(CHAINS), {"base+a"}
    solve_from(shared, worker, known, run("b", run("a")), run("side"))
    assert worker.ran == ["a", "b"]


def test_what_does_not_need_what_is_lost_goes_on(shared: Shared, known: dict[str, Record]) -> None:
    worker = Worker()
    worker.elsewhere, worker.lost = set(CHAINS), {"base+a"}

    async def build() -> None:
        worker.gates = {"long": asyncio.Event()}
        task = asyncio.ensure_future(Solver(worker, shared, lambda event: None, known.get).solve([run("b", run("a")), run("long")]))
        await turns_until(lambda: "base+a" in worker.gone and worker.ran == ["long"])
        worker.gates["long"].set()
        await task

    asyncio.run(build())
    assert worker.ran == ["long", "a", "b"]
    assert worker.killed == []


def test_the_one_who_waits_for_another_builds_work_makes_what_that_has_lost(shared: Shared, known: dict[str, Record]) -> None:
    first, second = Worker(), Worker()
    first.elsewhere, first.lost = set(CHAINS), {"base+a"}
    second.elsewhere = set(CHAINS)

    async def build() -> None:
        vertices = [run("c", run("b", run("a")))]
        await asyncio.gather(*(Solver(each, shared, lambda event: None, known.get).solve(vertices) for each in (first, second)))

    asyncio.run(build())
    assert sorted(first.ran + second.ran) in (["a", "b", "c"], ["a", "b", "c", "c"])
    assert "a" in first.ran
