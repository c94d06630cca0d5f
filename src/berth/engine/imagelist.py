"""Which images `images` lists, and what it says of each: Docker's filters, digests and shared sizes.

Source: Docker Engine API v1.51, ImageList; what the filters match was checked against dockerd.
"""

import time

from berth.engine import events, views
from berth.errors import InvalidParameter
from berth.models import globs
from berth.store.images import Image, ImageStore

Filters = dict[str, list[str]]

_KNOWN = ("before", "dangling", "label", "reference", "since", "until")


def summaries(store: ImageStore, filters: Filters, *, shared_size: bool = False, intermediate: bool = False) -> list[dict]:
    """GET /images/json, newest first. intermediate: also those without a name that others were made of (`--all`)."""
    for key in filters:
        if key not in _KNOWN:
            raise InvalidParameter(f"invalid filter '{key}'")
    dangling = dangling_of(filters)
    after_ns, before_ns = _span(store, filters)
    counted = shared_bytes(store) if shared_size else {}
    found = []
    for image in store.all():
        created_ns = views.created_ns(image.config)
        if not after_ns < created_ns < before_ns or not has_labels(labels_of(image), filters.get("label", [])):
            continue
        patterns = filters.get("reference", [])
        names, digests = (chosen_names(of(image.id), patterns) for of in (store.names_of, store.digests_of))
        nameless = not names and not digests
        if (patterns and nameless) or (dangling is True and names) or (dangling is False and nameless):
            continue
        if nameless and not intermediate and store.children_of(image.id):
            continue
        size_bytes = store.size_bytes(image)
        payload = views.image_summary(image.id, image.config, names, digests, size_bytes, store.parent_of(image.id))
        found.append({**payload, "SharedSize": counted.get(image.id, -1)})
    return found


def shared_bytes(store: ImageStore) -> dict[str, int]:
    """By image: bytes of those of its layers that another image has, too."""
    users: dict[str, int] = {}
    layers = {image.id: store.layers_of(image) for image in store.all()}
    for own in layers.values():
        for layer in own:
            users[layer.chain] = users.get(layer.chain, 0) + 1
    return {identity: sum(layer.size_bytes for layer in own if users[layer.chain] > 1) for identity, own in layers.items()}


def _span(store: ImageStore, filters: Filters) -> tuple[int, float]:
    """Times of creation that are wanted lie between these two, in nanoseconds: the images themselves are not."""
    after_ns, before_ns = -1, float("inf")
    for name in filters.get("since", []):
        after_ns = max(after_ns, views.created_ns(store.find(name).config))
    for name in filters.get("before", []):
        before_ns = min(before_ns, views.created_ns(store.find(name).config))
    for text in filters.get("until", []):
        before_ns = min(before_ns, events.moment_ns(text, "until", time.time_ns()))
    return after_ns, before_ns


# -- pure ---------------------------------------------------------------------------------------------


def labels_of(image: Image) -> dict[str, str]:
    return (image.config.get("config") or {}).get("Labels") or {}


def has_labels(labels: dict[str, str], wanted: list[str]) -> bool:
    """All of `key` and `key=value`."""
    return all(labels.get(key) == value if sign else key in labels for key, sign, value in (text.partition("=") for text in wanted))


def dangling_of(filters: Filters) -> bool | None:
    """The filter's value; None without it."""
    values = filters.get("dangling", [])
    if not values:
        return None
    if len(values) > 1 or values[0] not in ("1", "true", "0", "false"):
        raise InvalidParameter(f"invalid filter 'dangling=[{' '.join(values)}]'")
    return values[0] in ("1", "true")


def chosen_names(names: list[str], patterns: list[str]) -> list[str]:
    """The names, tags or digests, that one of the patterns fits; all without a pattern."""
    return [name for name in names if not patterns or any(reference_matches(name, pattern) for pattern in patterns)]


def reference_matches(name: str, pattern: str) -> bool:
    """Docker's `reference` filter: a pattern on the name, with or without the tag or digest."""
    bare = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    try:
        return globs.matches(pattern, name) or globs.matches(pattern, bare)
    except ValueError as error:
        raise InvalidParameter(f"invalid filter 'reference={pattern}': {error}") from None
