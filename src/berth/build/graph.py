"""What a build has to do, as a graph: vertices that make root file systems or trees of files out of others. Pure.

A Dockerfile is one way to such a graph (planning.py); the solver (solver.py) knows nothing of Dockerfiles.

    ImageSource ─▶ Run ─▶ Copy ─▶ …        a root file system: layers, identified by the chain id of the topmost
    ContextSource, GitSource, UrlSource    a tree of files: what Copy takes from, and what is mounted

What a vertex does is its `op`, whose `definition` goes into the cache key with what the inputs turned out to be.
"""

import posixpath
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any

CACHE, BIND, TMPFS, SECRET, SSH = "cache", "bind", "tmpfs", "secret", "ssh"


class Op:
    """What a vertex does; subclasses are frozen dataclasses whose fields are JSON's types, tuples and such classes."""

    __slots__ = ()
    uncached: frozenset[str] = frozenset()  # fields that make no other result: they are no part of the key

    def definition(self) -> dict[str, Any]:
        """All that decides on the result, beside the inputs."""
        return {"op": type(self).__name__, **{name: _plain(getattr(self, name)) for name in _deciding(type(self))}}  # type: ignore[arg-type]


@cache
def _deciding(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if each.name not in kind.uncached)


def _plain(value: Any) -> Any:
    """As asdict has it, which copies every word."""
    if isinstance(value, tuple):
        return tuple(asdict(each) if isinstance(each, Mount) else each for each in value)
    return value


@dataclass(frozen=True, slots=True)
class ImageSource(Op):
    """The root file system of an image. digest: of its manifest or configuration, once it is known."""

    reference: str
    platform: str


@dataclass(frozen=True, slots=True)
class Scratch(Op):
    """An empty root file system."""


@dataclass(frozen=True, slots=True)
class ContextSource(Op):
    """The files that a client gives under a name; '' is the build context."""

    name: str


@dataclass(frozen=True, slots=True)
class UrlSource(Op):
    """One file from the web, in a directory of its own. checksum: `sha256:…` or ''; unnamed: it may be one whose name nobody says."""

    url: str
    checksum: str
    unnamed: bool = False


@dataclass(frozen=True, slots=True)
class GitSource(Op):
    """A repository's files. keep_git_directory: `.git` too."""

    url: str
    keep_git_directory: bool
    checksum: str


@dataclass(frozen=True, slots=True)
class Mount:
    """Of a Run. input: index of the vertex's input that it shows, 0 for none (the base is no mount); source: a path in it.

    kind cache: identity, sharing; secret, ssh: identity, required; env: the variable that a secret is given in, '' for a file.
    """

    kind: str
    target: str
    input: int = 0
    source: str = ""
    read_only: bool = True
    identity: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    env: str = ""


@dataclass(frozen=True, slots=True)
class Run(Op):
    """A program in a container over inputs[0]. script: what is put at `script_path` for it, '' for nothing.

    devices: (path on the host, whether it must be there); environment: in the order given; hidden: more of it, which is no part of the key (proxies, an emulator's settings), nor is platform.
    """

    uncached = frozenset(("hidden", "platform"))

    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    directory: str
    user: str
    mounts: tuple[Mount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[tuple[str, bool], ...] = ()
    script: str = ""
    hidden: tuple[tuple[str, str], ...] = ()
    hosts: tuple[str, ...] = ()
    limits: tuple[tuple[str, str], ...] = ()
    epoch: int | None = None
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Copy(Op):
    """Files of inputs[1] over inputs[0], as one layer. independent: made without looking at inputs[0] (`COPY --link`).

    inline: (name, content) of files that are given here. unpack: archives are unpacked; owner, mode: as in --chown, --chmod.
    """

    sources: tuple[str, ...]
    destination: str
    directory: str
    owner: str = ""
    mode: str = ""
    exclude: tuple[str, ...] = ()
    parents: bool = False
    unpack: bool = False
    independent: bool = False
    inline: tuple[tuple[str, str], ...] = ()
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class MakeDirectory(Op):
    """A directory in inputs[0], unless it is there. owner: as in --chown."""

    path: str
    epoch: int | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Vertex:
    """op over inputs. label: as progress shows it; slot: what tells that two builds mean the same step, for `--why`.

    instruction: the Dockerfile's words; line: where they are, 0 for nowhere; fresh: never taken from the cache.
    """

    op: Op
    inputs: tuple["Vertex", ...] = ()
    label: str = ""
    instruction: str = ""
    line: int = 0
    fresh: bool = False
    slot: str = ""
    platform: str = ""


@dataclass(slots=True)
class Step:
    """What an instruction adds to an image's history. vertex: that made its layer, None for one that has none."""

    created_by: str
    vertex: Vertex | None = None


@dataclass(slots=True)
class Target:
    """One image to build: its root file system and its configuration. base_history: of the image that it starts from."""

    platform: str
    vertex: Vertex
    config: dict[str, Any]
    author: str = ""
    base_history: list[dict[str, Any]] = field(default_factory=list)
    base_vertex: Vertex | None = None
    steps: list[Step] = field(default_factory=list)
    stage: str = ""


def in_order(vertices: Iterable[Vertex]) -> list[Vertex]:
    """These and all that they need, each after what it needs; without recursion: a stage may have thousands of steps."""
    found: dict[Vertex, None] = {}
    for vertex in vertices:
        pending: list[tuple[Vertex, bool]] = [(vertex, False)]
        while pending:
            each, ready = pending.pop()
            if each in found:
                continue
            if ready:
                found[each] = None
                continue
            pending.append((each, True))
            pending += [(below, False) for below in reversed(each.inputs) if below not in found]
    return list(found)


def context_paths(vertices: Iterable[Vertex]) -> dict[str, tuple[str, ...] | None]:
    """What of each context these vertices need, by its name: paths with COPY's wildcards; None for all of it."""
    found: dict[str, set[str]] = {}
    for vertex in in_order(vertices):
        for number, each in enumerate(vertex.inputs):
            if isinstance(each.op, ContextSource):
                paths = (posixpath.normpath(posixpath.join("/", path)).strip("/") for path in _sources(vertex.op, number))
                found.setdefault(each.op.name, set()).update(paths)
    return {name: None if "" in paths else tuple(sorted(paths)) for name, paths in found.items()}


def _sources(op: Op, number: int) -> Iterable[str]:
    """Paths in the input of this number that an operation reads; '/' for all, as of what it starts from."""
    if isinstance(op, Copy) and number:
        return op.sources
    if isinstance(op, Run) and number:
        return [mount.source or "/" for mount in op.mounts if mount.input == number]
    return ["/"]
