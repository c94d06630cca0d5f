"""What people are told of an image: title, description, platforms, layers and their sizes. From untrusted documents; pure but for `read`."""

import json
from collections.abc import Callable
from typing import Any

from berth.errors import BerthError
from berth.registry import documents
from berth.registry.server.manifests import texts

_TITLE, _DESCRIPTION = "org.opencontainers.image.title", "org.opencontainers.image.description"
_MOST_CONFIG_BYTES = 4 << 20
_MOST_CHILDREN = 32
_MOST_TEXT = 500

Read = Callable[[str, int], bytes | None]  # digest, most bytes -> content


class Layer:
    __slots__ = ("digest", "media_type", "size_bytes")

    def __init__(self, digest: str, media_type: str, size_bytes: int) -> None:
        self.digest, self.media_type, self.size_bytes = digest, media_type, size_bytes


class Summary:
    """One manifest or index. images: of an index, its manifests."""

    __slots__ = ("description", "digest", "images", "kind", "layers", "platform", "size_bytes", "title")

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.kind = "image"
        self.title = self.description = self.platform = ""
        self.layers: list[Layer] = []
        self.images: list[Summary] = []
        self.size_bytes = 0  # as transferred: configuration and layers

    @property
    def words(self) -> str:
        """One line: the description, else the title."""
        return " ".join((self.description or self.title).split())[:_MOST_TEXT]


def summarize(raw: bytes, media_type: str, read: Read, *, nested: bool = False) -> Summary:
    """nested: whether this is of an index already, whose indexes are not looked into. BerthError for what is no manifest."""
    document = documents.parse(raw, media_type)
    found = Summary(document.digest)
    value = json.loads(raw)
    _describe(found, texts(value.get("annotations")))
    if document.is_index:
        found.kind = "index"
        if not nested:
            _add_images(found, document, read)
        return found
    found.layers = [Layer(layer.digest, layer.media_type, layer.size_bytes) for layer in document.layers]
    config = document.config
    found.size_bytes = sum(layer.size_bytes for layer in found.layers) + (config.size_bytes if config else 0)
    if config and config.size_bytes <= _MOST_CONFIG_BYTES:
        _read_config(found, read(config.digest, _MOST_CONFIG_BYTES))
    return found


def _add_images(found: Summary, document: documents.Document, read: Read) -> None:
    for entry in document.manifests[:_MOST_CHILDREN]:
        raw = read(entry.digest, documents.MAX_MANIFEST_BYTES)
        if raw is None:
            continue
        try:
            child = summarize(raw, entry.media_type, read, nested=True)
        except BerthError:
            continue
        child.platform = str(entry.platform) if entry.platform else child.platform
        found.images.append(child)
    found.platform = ", ".join(sorted({child.platform for child in found.images if child.platform and "unknown" not in child.platform}))
    layers = {layer.digest: layer.size_bytes for child in found.images for layer in child.layers}
    found.size_bytes = sum(layers.values())
    for child in found.images:
        found.title, found.description = found.title or child.title, found.description or child.description


def _read_config(found: Summary, raw: bytes | None) -> None:
    try:
        value: Any = json.loads(raw or b"")
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    system, architecture = value.get("os"), value.get("architecture")
    if isinstance(system, str) and isinstance(architecture, str):
        variant = value.get("variant")
        found.platform = "/".join([system, architecture, *([variant] if isinstance(variant, str) and variant else [])])[:100]
    inner = value.get("config")
    _describe(found, texts(inner.get("Labels")) if isinstance(inner, dict) else {})


def _describe(found: Summary, words: dict[str, str]) -> None:
    found.title = found.title or words.get(_TITLE, "")
    found.description = found.description or words.get(_DESCRIPTION, "")
