"""What a client asks of a build, and what a build asks of its client."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from berth.build.planning import Options
from berth.build.worker import Output, Tree
from berth.oci.reference import Reference


class Client(Protocol):
    """Who asked for the build."""

    async def dockerfile(self) -> tuple[bytes, str]:
        """Its text and how people call it."""
        ...

    async def context(self, name: str, into: str, output: Output) -> Tree:
        """The files that are called so, in a directory `into`, which is the build's, or somewhere else. NotFound for a name that is none."""
        ...

    async def secret(self, identity: str) -> bytes | None: ...

    async def ssh_socket(self, identity: str, uid: int, gid: int, mode: int) -> str | None: ...

    async def pull(self, name: Reference, platform: str, tell: Callable[[str], None]) -> None: ...

    def proxies(self) -> Mapping[str, str]:
        """Environment variables for what the engine fetches."""
        ...


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """options: see planning; tags: names for the image; pull: look for newer base images; squash: one layer over the base.

    outputs: where the result goes, as a person says it; none: into the store.
    """

    options: Options
    tags: tuple[str, ...] = ()
    pull: bool = False
    squash: bool = False
    outputs: tuple[Mapping[str, str], ...] = ()
    check_only: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Built:
    """image: id in the store, '' if it went elsewhere; metadata: for --metadata-file."""

    image: str
    metadata: Mapping[str, Any]
