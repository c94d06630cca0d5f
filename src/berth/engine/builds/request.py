"""What a client asks of a build, and what a build asks of its client."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any, Protocol, TypeVar

from berth import errors
from berth.build.options import Options
from berth.build.provenance import Origin
from berth.build.worker import Output, Tree
from berth.oci.reference import Reference
from berth.registry.client.challenge import Credentials

T = TypeVar("T")
CACHE_CONTEXT = "cache:"  # and a number: the context that is directory `src` of that one of cache_from


class Client(Protocol):
    """Who asked for the build. Whoever made it closes it by `BuildService.let_go`."""

    async def close(self) -> None:
        """What it had its files in goes."""
        ...

    async def dockerfile(self) -> tuple[bytes, str]:
        """Its text and how people call it."""
        ...

    async def context(self, name: str, paths: tuple[str, ...] | None, into: str, output: Output) -> Tree:
        """The files that are called so, in a directory `into`, which is the build's, or somewhere else. NotFound for a name that is none.

        paths: what is needed of them, with COPY's wildcards; None for all.
        """
        ...

    async def layout_file(self, name: str, path: str, read: Callable[[IO[bytes]], T]) -> T:
        """What `read` makes, in a thread, of a file in the OCI layout that is called so. NotFound where it is not there."""
        ...

    def origin(self) -> Origin | None:
        """Where the build context was fetched from, once it was; None for one that the client has itself."""
        ...

    async def secret(self, identity: str) -> bytes | None: ...

    async def ssh_socket(self, identity: str, uid: int, gid: int, mode: int) -> str | None: ...

    async def pull(self, name: Reference, platform: str, tell: Callable[[str], None]) -> None: ...

    async def credentials(self, registry: str) -> Credentials:
        """For what is pushed to a registry, or read of it beside images."""
        ...

    async def output(self, number: int, write: Callable[[IO[bytes]], None]) -> None:
        """Calls write, in a thread, with a stream to the client, for its output of that number; what write raises is raised here.

        Numbers count the request's outputs from 0, and go on with its cache_to. A tar archive, to be kept as `dest` or to be unpacked into
        the directory `dest`: see outputs.is_directory.
        """
        ...

    def proxies(self) -> Mapping[str, str]:
        """Environment variables for what the engine fetches."""
        ...


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """options: see build/options.py; tags: names for the image; pull: look for newer base images; squash: one layer over the base.

    outputs: where the result goes, as a person says it (build/outputs.py); none: into the store. cache_from, cache_to: as `--cache-from`
    and `--cache-to` say it, also in their short form (build/cacheformat.py). attests: "provenance" and "sbom", each with its parameters, of what
    is wanted; annotations: as in `--annotation`, `[level[platform]:]key=value`. layouts: see layouts.py, by the name of a context.
    """

    options: Options
    tags: tuple[str, ...] = ()
    pull: bool = False
    squash: bool = False
    outputs: tuple[Mapping[str, str], ...] = ()
    cache_from: tuple[Mapping[str, str], ...] = ()
    cache_to: tuple[Mapping[str, str], ...] = ()
    layouts: Mapping[str, str] = field(default_factory=dict)
    attests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    annotations: tuple[str, ...] = ()
    check_only: bool = False
    allow: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def filled(request: BuildRequest) -> BuildRequest:
    """With what `extra` says of caches, attestations and annotations in its fields. InvalidParameter for values of other types."""
    extra = request.extra
    attests = {each.get("type", ""): {key: value for key, value in each.items() if key != "type"} for each in _tables(extra, "attest")}
    annotations = extra.get("annotations") or []
    if not isinstance(annotations, (list, tuple)) or not all(isinstance(each, str) for each in annotations):
        raise errors.InvalidParameter("annotations are no list of strings")
    return replace(
        request, cache_from=request.cache_from or _tables(extra, "cache_from"), cache_to=request.cache_to or _tables(extra, "cache_to"),
        attests=request.attests or attests, annotations=request.annotations or tuple(annotations),
    )  # fmt: skip


def _tables(extra: Mapping[str, Any], name: str) -> tuple[dict[str, str], ...]:
    found = extra.get(name) or []
    if not isinstance(found, (list, tuple)) or not all(isinstance(each, dict) for each in found):
        raise errors.InvalidParameter(f"{name} is no list of tables")
    if not all(isinstance(value, str) for each in found for value in each.values()):
        raise errors.InvalidParameter(f"{name} has values that are no strings")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Built:
    """image: id in the store, '' if it went elsewhere; metadata: for --metadata-file."""

    image: str
    metadata: Mapping[str, Any]
