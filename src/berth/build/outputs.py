"""Where the result of a build goes: `-o type=…,key=value` as people write it, checked. Pure.

    store           the image store, under the tags (also `docker` without a `dest`, as buildx's --load)
    image           the store, or with push=true a registry
    local, tar      the files of the result: a directory, an archive; of several platforms a directory each
    oci, docker     an archive of the image; oci also as a directory (tar=false)

Source: https://docs.docker.com/build/exporters/
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.errors import InvalidParameter
from berth.oci import reference

STORE, IMAGE, LOCAL, TAR, OCI, DOCKER, CACHE_ONLY = "store", "image", "local", "tar", "oci", "docker", "cacheonly"
GZIP, ZSTD, UNCOMPRESSED = "gzip", "zstd", "uncompressed"
_HIGHEST_LEVEL = {GZIP: 9, ZSTD: 22, UNCOMPRESSED: 0}
_FILES = frozenset(("dest", "platform-split", "attestation-prefix", "attestation-inline"))
_PACKED = frozenset((
    "name", "push", "push-by-digest", "unpack", "store", "oci-mediatypes", "compression", "compression-level", "force-compression",
    "rewrite-timestamp", "oci-artifact", "dangling-name-prefix", "name-canonical", "registry.insecure",
))  # fmt: skip
_KEYS = {
    STORE: _PACKED, IMAGE: _PACKED, LOCAL: _FILES, TAR: _FILES, OCI: _PACKED | {"dest", "tar"}, DOCKER: _PACKED | {"dest", "tar", "context"},
    CACHE_ONLY: frozenset(),
}  # fmt: skip
_ANNOTATION = re.compile(r"annotation(?:-(manifest|manifest-descriptor|index|index-descriptor))?(?:\[([^\]]+)\])?\.(.+)", re.S)


@dataclass(frozen=True, slots=True)
class Compression:
    """Of layers. level: None for the usual one; force: also of layers that a registry has in another form."""

    kind: str = GZIP
    level: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Annotation:
    """What: manifest, manifest-descriptor, index or index-descriptor; platform: of which one, '' for all."""

    what: str
    platform: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Output:
    """One of a request. number: its place in it; names: of the image, beside the request's tags where there are none."""

    kind: str
    number: int
    names: tuple[str, ...] = ()
    push: bool = False
    store: bool = True
    by_digest: bool = False
    is_archive: bool = True
    oci_types: bool = True
    split: bool | None = None
    rewrite_times: bool = False
    compression: Compression = field(default_factory=Compression)
    annotations: tuple[Annotation, ...] = ()

    @property
    def to_store(self) -> bool:
        return self.kind in (STORE, IMAGE) and self.store

    @property
    def to_client(self) -> bool:
        return self.kind in (LOCAL, TAR, OCI, DOCKER)


def parse(number: int, given: Mapping[str, str]) -> Output:
    """InvalidParameter for what is no output."""
    kind = given.get("type", "")
    if kind == "registry":
        return parse(number, {"push": "true", "store": "false", **given, "type": IMAGE})
    if kind not in _KEYS:
        raise InvalidParameter(f"output type {kind!r} is not known: there are image, registry, local, tar, oci, docker and cacheonly")
    annotations = []
    for key, value in given.items():
        if found := _ANNOTATION.fullmatch(key):
            annotations.append(Annotation(found[1] or "manifest", found[2] or "", found[3], value))
        elif key != "type" and key not in _KEYS[kind]:
            raise InvalidParameter(f"output type {kind}: unknown key {key!r}; there are {', '.join(sorted(_KEYS[kind])) or 'none'}")
    if kind == DOCKER and "dest" not in given:
        kind = STORE
    names = tuple(reference.parse(name.strip()).familiar for name in given.get("name", "").split(",") if name.strip())
    push = _flag(given, "push", False) or _flag(given, "push-by-digest", False)
    if push and kind not in (IMAGE, STORE):
        raise InvalidParameter(f"output type {kind} cannot be pushed: use type=image,push=true or type=registry")
    return Output(
        kind=kind, number=number, names=names, push=push, store=_flag(given, "store", True), by_digest=_flag(given, "push-by-digest", False), is_archive=_flag(given, "tar", True),
        oci_types=_flag(given, "oci-mediatypes", True), split=_flag(given, "platform-split", True) if "platform-split" in given else None,
        rewrite_times=_flag(given, "rewrite-timestamp", False), compression=compression_of(given), annotations=tuple(annotations),
    )  # fmt: skip


def is_directory(given: Mapping[str, str]) -> bool:
    """Whether what a client gets of an output is to be unpacked into a directory; for the client."""
    return given.get("type") == LOCAL or (given.get("type") == OCI and given.get("tar", "true") in ("false", "0"))


def annotation(text: str) -> list[Annotation]:
    """One of `--annotation`: `[index,manifest[linux/amd64]:]key=value`."""
    head, equals, value = text.partition("=")
    if not equals:
        raise InvalidParameter(f"invalid annotation {text!r}, expected key=value")
    levels, colon, key = head.rpartition(":") if re.match(r"(manifest|index)\b", head) else ("", "", head)
    found = []
    for level in levels.split(",") if colon else ["manifest"]:
        match = re.fullmatch(r"(manifest|manifest-descriptor|index|index-descriptor)(?:\[([^\]]+)\])?", level.strip())
        if not match or not key:
            raise InvalidParameter(f"unknown annotation type {level!r}: manifest, manifest-descriptor, index and index-descriptor are known")
        found.append(Annotation(match[1], match[2] or "", key, value))
    return found


def _flag(given: Mapping[str, str], key: str, default: bool) -> bool:
    text = given.get(key)
    if text is None:
        return default
    if text.lower() in ("true", "1", ""):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise InvalidParameter(f"output: {key}={text!r} is neither true nor false")


def compression_of(given: Mapping[str, str]) -> Compression:
    """Of an output's keys, or of a cache's. InvalidParameter for what is none."""
    kind, level = given.get("compression", GZIP), given.get("compression-level", "")
    if kind not in _HIGHEST_LEVEL:
        raise InvalidParameter(f"unsupported layer compression type {kind!r}: there are gzip, zstd and uncompressed")
    if level and not (level.isascii() and level.isdigit() and int(level) <= _HIGHEST_LEVEL[kind]):
        raise InvalidParameter(f"compression-level={level!r} is not in the range of {kind}, 0 to {_HIGHEST_LEVEL[kind]}")
    return Compression(kind, int(level) if level else None, _flag(given, "force-compression", False))
