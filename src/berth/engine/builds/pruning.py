"""The cache of builds as people see it: what it holds, what that takes, and what goes when room is wanted."""

import os
from collections.abc import Callable, Iterable
from functools import partial

from berth import errors
from berth.build.cache import Cache, Record
from berth.engine.builds.mirrors import Mirrors
from berth.engine.builds.mounts import CacheMounts
from berth.engine.prune import tree_bytes, until
from berth.models import times
from berth.store.images import ImageStore

_FILTERS = ("until", "id", "parent", "type", "description", "inuse", "shared", "private", "unused-for", "label", "label!")
_SHOWN = 25
_MOUNT_KIND, _CONTEXT_KIND = "exec.cachemount", "source.local"


class _Directory:
    """What is kept beside results: a cache mount's, or a client's context."""

    def __init__(self, kind: str, name: str, description: str, used_s: float, *, in_use: bool, size: Callable[[], int], remove: Callable[[], object]) -> None:
        self.kind, self.name, self.description, self.used_s, self.in_use = kind, name, description, used_s, in_use
        self.size_bytes, self.remove = size, remove

    def payload(self) -> dict:
        when = times.rfc3339(int(self.used_s * 1e9))
        return {
            "ID": self.name, "Type": self.kind, "Description": self.description, "InUse": self.in_use, "Shared": False,
            "Size": self.size_bytes(), "CreatedAt": when, "LastUsedAt": when, "UsageCount": 1, "Parents": None,
        }  # fmt: skip


def _directories(mounts: CacheMounts, contexts: Mirrors) -> list[_Directory]:
    found = [
        _Directory(
            _MOUNT_KIND, name, f"cache mount {called}", used_s, in_use=name in mounts.used, size=partial(tree_bytes, mounts.path(name)),
            remove=partial(mounts.remove, name),
        )
        for name, called, used_s in mounts.all()
    ]  # fmt: skip
    return found + [
        _Directory(
            _CONTEXT_KIND, name, "local source for context", used_s, in_use=contexts.is_used(name), size=partial(int, size_bytes),
            remove=partial(contexts.remove, name),
        )
        for name, size_bytes, used_s in contexts.all()
    ]  # fmt: skip


class _Layers:
    """Which layers there are, which images have, and what each takes."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images
        self.used = {layer.chain for image in images.all() for layer in images.layers_of(image)}

    def size_bytes(self, chain: str, parent: str) -> int:
        """Of what a step added to the layers below it."""
        below = {layer.chain for layer in self._images.layers_below(parent) or []}
        return sum(layer.size_bytes for layer in self._images.layers_below(chain) or [] if layer.chain not in below)


def usage(cache: Cache, mounts: CacheMounts, contexts: Mirrors, images: ImageStore) -> list[dict]:
    """Docker's BuildCache entries; InUse: an image has the layer, so that it would not go with the record. Blocks."""
    layers = _Layers(images)
    found = [_payload(record, layers) for record in _steps(cache.all())]
    return found + [each.payload() for each in _directories(mounts, contexts)]


def _steps(records: Iterable[Record]) -> list[Record]:
    """One for each result: a result may have two keys."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        found[record.chain, record.description] = record
    return list(found.values())


def _payload(record: Record, layers: _Layers) -> dict:
    return {
        "ID": record.key[:_SHOWN], "Parents": [record.parent.removeprefix("sha256:")[:_SHOWN]] if record.parent else None, "Type": record.kind,
        "Description": record.description, "InUse": False, "Shared": record.chain in layers.used,
        "Size": layers.size_bytes(record.chain, record.parent), "CreatedAt": times.rfc3339(record.created_ns),
        "LastUsedAt": times.rfc3339(record.used_ns), "UsageCount": record.uses,
    }  # fmt: skip


def may_exceed(cache: Cache, mounts: CacheMounts, images: ImageStore, most_bytes: int) -> bool:
    """Whether a prune to so many bytes would find something; layers are counted first, which costs nothing. Blocks."""
    chains: set[str] = set()
    for record in cache.all():
        chains.update(layer.chain for layer in images.layers_below(record.chain) or [])
    used = {layer.chain for image in images.all() for layer in images.layers_of(image)}
    layers_bytes = sum(images.size_of(chain) for chain in chains - used)
    return layers_bytes > most_bytes or layers_bytes + sum(tree_bytes(mounts.path(name)) for name, _, _ in mounts.all()) > most_bytes


class Wanted:
    """What a prune may take. everything: also results whose layers images have; least_free_bytes: until the disk has so much."""

    def __init__(self, filters: dict[str, list[str]], *, everything: bool, most_bytes: int, least_free_bytes: int) -> None:
        for name in filters:
            if name not in _FILTERS:
                raise errors.InvalidParameter(f"invalid filter '{name}'; known: {', '.join(_FILTERS)}")
        self.filters = filters
        self.everything = everything
        self.most_bytes = most_bytes
        self.least_free_bytes = least_free_bytes
        self.until_s = until({"until": filters.get("until") or filters.get("unused-for") or []})

    def is_enough(self, left_bytes: int, images: ImageStore) -> bool:
        """Whether there is room by now, if it was room that somebody wanted."""
        if not (self.most_bytes or self.least_free_bytes):
            return False
        found = os.statvfs(images.layout.layers)
        return left_bytes <= (self.most_bytes or left_bytes) and found.f_bavail * found.f_frsize >= self.least_free_bytes

    def fits(self, used_s: float, kind: str, identity: str, description: str) -> bool:
        tests = {
            "type": lambda value: value == kind, "id": identity.startswith, "description": lambda value: value in description,
        }  # fmt: skip
        return used_s <= self.until_s and all(any(map(tests[key], values)) for key, values in self.filters.items() if key in tests)


def prune(cache: Cache, mounts: CacheMounts, contexts: Mirrors, images: ImageStore, wanted: Wanted) -> tuple[list[str], int]:
    """Those used least recently first -> their ids, and the bytes that this freed. Blocks."""
    layers = _Layers(images)
    found = usage(cache, mounts, contexts, images) if wanted.most_bytes else []
    left_bytes = sum(each["Size"] for each in found if wanted.everything or not each["Shared"])
    removed: list[str] = []
    reclaimed = 0
    records = cache.all()
    used_ns = {record.chain: record.used_ns for record in records}  # the latest: a result may have two keys
    order: list[tuple[float, Record | _Directory]] = [(used_ns[record.chain] / 1e9, record) for record in records]
    order += [(each.used_s, each) for each in _directories(mounts, contexts)]
    for used_s, each in sorted(order, key=lambda entry: entry[0]):
        if wanted.is_enough(left_bytes - reclaimed, images):
            break
        if isinstance(each, Record):
            if wanted.fits(used_s, each.kind, each.key, each.description) and (wanted.everything or each.chain not in layers.used):
                reclaimed += _drop(cache, images, layers, each)
                removed.append(each.key[:_SHOWN])
        elif wanted.fits(used_s, each.kind, each.name, each.description) and not each.in_use:
            reclaimed += each.size_bytes()
            each.remove()
            removed.append(each.name)
    return removed, reclaimed


def _drop(cache: Cache, images: ImageStore, layers: _Layers, record: Record) -> int:
    """Bytes that go with it: of layers that neither an image nor another record needs."""
    cache.drop([record.key])
    kept = layers.used | images.kept()
    going = [layer for layer in images.layers_below(record.chain) or [] if layer.chain not in kept]
    images.discard_layers(going)
    return sum(layer.size_bytes for layer in going)
