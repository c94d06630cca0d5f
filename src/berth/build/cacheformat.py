"""Results of builds as they are kept in a registry, a directory or an image: cache keys, the layers that they lead to, where these are. Pure.

A manifest whose configuration is ours and whose layers are layers of images, so that registries take it for an image:

    {"layers": [{"chain", "diff", "parent", "blob": n}],     blob: which of the manifest's layers it is
     "records": [{"key", "chain", "parent", "description", "kind", "created"}],
     "mounts": [{"name", "called", "blob": n}]}              cache mounts, as tar archives

In an image (inline) the configuration has a field with records alone, whose chains are numbers of layers from the bottom.

Whoever can write there can make a build believe anything of its steps, as with BuildKit's; but not that a layer has another content.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from berth.build.cache import Record
from berth.build.outputs import Compression, compression_of
from berth.errors import DataLoss, InvalidParameter
from berth.oci import reference
from berth.store.naming import chain_id

CONFIG_TYPE = "application/vnd.berth.buildcache.config.v1+json"
MOUNT_TYPE = "application/vnd.berth.buildcache.mount.v1.tar+gzip"
INLINE = "berth.buildcache.v1"
REGISTRY, LOCAL, INLINE_KIND = "registry", "local", "inline"
MIN, MAX = "min", "max"
MOST_BYTES = 16 << 20
_MOST_ENTRIES = 100_000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KEY = re.compile(r"[0-9a-f]{64}")
_MOUNT = re.compile(r"[0-9a-f]{32}(?:\.[0-9]{1,4})?")
_FROM_KEYS = frozenset(("type", "ref", "src", "digest", "tag", "store"))
_TO_KEYS = frozenset((
    "type", "ref", "dest", "mode", "tag", "compression", "compression-level", "force-compression", "oci-mediatypes", "image-manifest",
    "ignore-error", "include-mounts", "registry.insecure",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """One of `--cache-from` or `--cache-to`. number: its place among them; path: of the client's; in_store: an image of the store will do as well."""

    kind: str
    number: int
    ref: str = ""
    mode: str = MIN
    compression: Compression = field(default_factory=Compression)
    ignore_error: bool = False
    mounts: bool = False
    in_store: bool = False
    path: str = ""

    @property
    def shown(self) -> str:
        return self.ref or self.path or f"{self.kind} cache"


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """chain: with it on top; parent: without. blob: its number in the manifest."""

    chain: str
    diff: str
    parent: str
    blob: int


@dataclass(frozen=True, slots=True)
class CachedMount:
    """name: of its directory; called: as people know it."""

    name: str
    called: str
    blob: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache has: records by key, layers by chain id."""

    records: Mapping[str, Record]
    layers: Mapping[str, CacheLayer]
    mounts: tuple[CachedMount, ...] = ()


def source(number: int, given: Mapping[str, str]) -> Place:
    """One of `--cache-from`."""
    kind = _kind(given, _FROM_KEYS, "cache-from", (REGISTRY, LOCAL))
    if kind == LOCAL and not given.get("src"):
        raise InvalidParameter("cache-from type=local: no src=DIRECTORY")
    return Place(kind, number, _ref(given, "cache-from") if kind == REGISTRY else "", in_store=given.get("store") == "true", path=given.get("src", ""))


def target(number: int, given: Mapping[str, str]) -> Place:
    """One of `--cache-to`."""
    kind = _kind(given, _TO_KEYS, "cache-to", (REGISTRY, LOCAL, INLINE_KIND))
    mode = given.get("mode", MIN)
    if mode not in (MIN, MAX):
        raise InvalidParameter(f"cache-to: mode {mode!r} is neither min nor max")
    if kind == LOCAL and not given.get("dest"):
        raise InvalidParameter("cache-to type=local: no dest=DIRECTORY")
    if kind == INLINE_KIND and mode == MAX:
        raise InvalidParameter("cache-to type=inline: mode=max cannot be, an image has no layers but its own")
    true = ("true", "1")
    return Place(
        kind, number, _ref(given, "cache-to") if kind == REGISTRY else "", mode, compression_of(given), given.get("ignore-error") in true,
        given.get("include-mounts") in true, path=given.get("dest", ""),
    )  # fmt: skip


def _kind(given: Mapping[str, str], keys: frozenset[str], what: str, kinds: Sequence[str]) -> str:
    kind = given.get("type", REGISTRY)
    if kind not in kinds:
        raise InvalidParameter(f"{what}: type {kind!r} is not known; there are {', '.join(kinds)}")
    for key in given:
        if key not in keys:
            raise InvalidParameter(f"{what}: unknown key {key!r}; there are {', '.join(sorted(keys))}")
    return kind


def _ref(given: Mapping[str, str], what: str) -> str:
    if not given.get("ref"):
        raise InvalidParameter(f"{what} type=registry: no ref=NAME")
    return reference.parse(given["ref"]).familiar


# -- writing ----------------------------------------------------------------------------------------------------


def config(records: Iterable[Record], layers: Iterable[CacheLayer], mounts: Iterable[CachedMount], epoch: int | None) -> bytes:
    """The configuration of a cache's manifest."""
    return json.dumps({
        "layers": [{"chain": each.chain, "diff": each.diff, "parent": each.parent, "blob": each.blob} for each in layers],
        "records": [_told(each, each.chain, each.parent, epoch) for each in sorted(records, key=lambda record: record.key)],
        "mounts": [{"name": each.name, "called": each.called, "blob": each.blob} for each in mounts],
    }).encode(errors="surrogateescape")  # fmt: skip


def inline(records: Iterable[Record], chains: Sequence[str], epoch: int | None) -> list[dict[str, Any]]:
    """For an image's configuration. chains: of its layers, bottom first; records that lead elsewhere are left out."""
    numbers = {chain: number for number, chain in enumerate(["", *chains])}
    known = [each for each in records if each.chain in numbers and each.parent in numbers]
    return [_told(each, numbers[each.chain], numbers[each.parent], epoch) for each in sorted(known, key=lambda record: record.key)]


def _told(record: Record, chain: object, parent: object, epoch: int | None) -> dict[str, Any]:
    created_ns = record.created_ns if epoch is None else epoch * 10**9
    return {
        "key": record.key, "chain": chain, "parent": parent, "description": record.description, "kind": record.kind, "created": created_ns,
    }  # fmt: skip


# -- reading ----------------------------------------------------------------------------------------------------


def read(raw: bytes, blobs: int) -> Contents:
    """A manifest's configuration. blobs: how many layers the manifest has. DataLoss for what is wrong."""
    value = parsed(raw)
    layers: dict[str, CacheLayer] = {}
    for each in _list(value, "layers"):
        layer = CacheLayer(_text(each, "chain", _DIGEST), _text(each, "diff", _DIGEST), _text(each, "parent", None), _number(each, "blob", blobs))
        if layer.parent and not _DIGEST.fullmatch(layer.parent):
            raise DataLoss(f"the cache has a layer over {layer.parent[:100]!r}")
        if chain_id(layer.parent, layer.diff) != layer.chain:
            raise DataLoss(f"the cache calls layer {layer.diff} over {layer.parent or 'nothing'} {layer.chain}, which it is not")
        layers[layer.chain] = layer
    records = {record.key: record for each in _list(value, "records") if (record := _record(each, str(each.get("chain")), str(each.get("parent"))))}
    mounts = [CachedMount(_text(each, "name", _MOUNT), _text(each, "called", None)[:4096], _number(each, "blob", blobs)) for each in _list(value, "mounts")]
    return Contents(records, layers, tuple(mounts))


def read_inline(document: Mapping[str, Any]) -> Contents:
    """What an image's configuration says; nothing where it says nothing."""
    rootfs = document.get("rootfs")
    diffs = rootfs.get("diff_ids") if isinstance(rootfs, dict) else []
    if not isinstance(diffs, list) or not all(isinstance(diff, str) for diff in diffs):
        raise DataLoss("the image's configuration has no list of diff ids")
    chains, layers = [""], {}
    for number, diff in enumerate(diffs):
        chain = chain_id(chains[-1], diff)
        layers[chain] = CacheLayer(chain, diff, chains[-1], number)
        chains.append(chain)
    records = {}
    for each in _list(document, INLINE):
        above, below = _number(each, "chain", len(chains)), _number(each, "parent", len(chains))
        if record := _record(each, chains[above], chains[below]):
            records[record.key] = record
    return Contents(records, layers)


def parsed(raw: bytes) -> dict[str, Any]:
    """A configuration's object; DataLoss for what is none."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"the cache's configuration is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataLoss("the cache's configuration is JSON, but not an object")
    return value


def _list(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = value.get(name) or []
    if not isinstance(found, list) or len(found) > _MOST_ENTRIES or not all(isinstance(each, dict) for each in found):
        raise DataLoss(f"the cache's configuration has something else than a list of up to {_MOST_ENTRIES} objects at {name}")
    return found


def _text(value: Mapping[str, Any], name: str, pattern: "re.Pattern[str] | None") -> str:
    found = value.get(name)
    if not isinstance(found, str) or (pattern and not pattern.fullmatch(found)):
        raise DataLoss(f"the cache's configuration has {str(found)[:100]!r} for a {name}")
    return found


def _number(value: Mapping[str, Any], name: str, limit: int) -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < limit:
        raise DataLoss(f"the cache's configuration has {str(found)[:100]!r} for a {name}")
    return found


def _record(value: Mapping[str, Any], chain: str, parent: str) -> Record | None:
    """None for what another version may mean by it."""
    key, description, kind, created = value.get("key"), value.get("description"), value.get("kind"), value.get("created")
    right = isinstance(key, str) and _KEY.fullmatch(key) and isinstance(description, str) and isinstance(kind, str) and isinstance(created, int)
    if not right or not all(not each or _DIGEST.fullmatch(each) for each in (chain, parent)):
        return None
    return Record(str(key), chain, parent, str(description)[:4096], str(kind)[:64], abs(int(str(created))) % (1 << 62), 0, 0)


def chains_below(layers: Mapping[str, CacheLayer], chain: str) -> list[CacheLayer]:
    """From the top down, as far as they are known."""
    found: dict[str, CacheLayer] = {}
    while chain and chain in layers and chain not in found:
        found[chain] = layers[chain]
        chain = layers[chain].parent
    return list(found.values())
