"""What the solver needs of the engine: images, containers for steps, views of layers, files of clients."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from berth import errors
from berth.build import graph

Output = Callable[[int, bytes], None]  # 1 or 2 as a program's own descriptors, and what it has written


class LayersLost(errors.DataLoss):
    """A cache elsewhere has promised layers that are not to be had."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A root file system. chain: of the topmost layer, '' for none; diffs: of all, bottom first; created_ns: of the topmost, where it is known."""

    chain: str
    diffs: tuple[str, ...]
    created_ns: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """Files that are no layer: a directory of the engine, open at `fd`, which whoever made it closes.

    identity: tells one state of it from another, where that is known without reading it; ignored: whether a path of it is left out.
    """

    fd: int
    path: str
    identity: str = ""
    ignore: Any = None


Result = Layers | Tree


@dataclass(frozen=True, slots=True)
class Finished:
    """How a step's program ended. layers: what it left, if it ended well."""

    exit_code: int
    layers: Layers | None
    reason: str = ""


@dataclass(slots=True)
class Given:
    """What a Run's mounts show: the results of its vertex's inputs, by number."""

    results: list[Result] = field(default_factory=list)


class Worker(Protocol):
    """One for each build."""

    async def image(self, source: graph.ImageSource, output: Output) -> Layers:
        """The layers of an image, which is pulled if it is not here."""
        ...

    async def context(self, name: str, paths: tuple[str, ...] | None, output: Output) -> Tree:
        """The files of a context, at least those that `paths` name (graph.context_paths)."""
        ...

    async def fetch(self, source: graph.UrlSource | graph.GitSource, output: Output) -> Tree:
        """Files from elsewhere; identity is set."""
        ...

    async def run(self, op: graph.Run, base: Layers, given: Given, output: Output) -> Finished:
        """A program in a container. Cancelled: it is killed and leaves nothing."""
        ...

    async def digest(self, op: graph.Copy | graph.Run, result: Result, mount: graph.Mount | None) -> str:
        """Of the contents that a Copy takes from a result, or that a mount shows of it."""
        ...

    async def copy(self, op: graph.Copy, base: Layers, source: Result) -> Layers:
        """A layer with files over base."""
        ...

    async def make_directory(self, op: graph.MakeDirectory, base: Layers) -> Layers:
        """base itself where it is there."""
        ...

    def keep(self, chain: str) -> bool:
        """Whether the layers of a chain are here or to be had, all of them; they stay until the build has ended."""
        ...

    async def bring(self, chain: str) -> None:
        """Fetches the layers of a chain that are elsewhere. LayersLost: `keep` says no to it from then on. So may whatever needs their files."""
        ...

    def diffs(self, chain: str) -> tuple[str, ...]:
        """Of a chain that `keep` says yes to, bottom first."""
        ...
