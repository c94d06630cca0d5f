"""What is asked of a build, and what is known of the images that it begins with. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OCI_LAYOUT = "oci-layout://"
# Arguments that need no ARG, and make no other result: https://docs.docker.com/reference/dockerfile/#predefined-args
PROXIES = frozenset(
    name for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for name in (word, word.upper())
)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a build, beside the Dockerfile.

    platforms: to build for, the engine's own first where none is named; contexts: names that mean something else than the Dockerfile says,
    `docker-image://…`, `oci-layout://` and the name itself, an address or what the client serves; epoch: SOURCE_DATE_EPOCH; no_cache: of all, or of
    the stages in no_cache_stages.
    """

    build_platform: str
    platforms: tuple[str, ...] = ()
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    network: str = ""
    limits: tuple[tuple[str, str], ...] = ()
    epoch: int | None = None
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    slot: str = ""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """What is known of an image. config: the parsed configuration document; identity: its digest."""

    identity: str
    config: Mapping[str, Any]


Bases = Mapping[tuple[str, str], BaseImage]  # by reference and platform


def split_pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value
