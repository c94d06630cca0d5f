"""Manifests and indexes as a registry gives them: untrusted JSON in, checked records out. Pure.

Source: OCI image specification 1.1, manifest.md and image-index.md; Docker's image manifest version 2, schema 2.
"""

import json
from typing import Any

from berth.errors import DataLoss, InvalidParameter, NotImplementedHere
from berth.oci import digest as digests
from berth.oci import platforms
from berth.registry import media

MAX_MANIFEST_BYTES = 4 << 20  # what registries accept, and Docker reads
_MAX_LAYERS = 1000
_MAX_MANIFESTS = 4096
_MAX_SIZE_BYTES = 1 << 43


class Descriptor:
    """What is named by a digest. platform: None where the descriptor has none; urls: of foreign layers."""

    __slots__ = ("annotations", "artifact_type", "digest", "media_type", "platform", "size_bytes", "urls")

    def __init__(
        self, media_type: str, digest: str, size_bytes: int, *, platform: platforms.Platform | None = None,
        annotations: dict[str, str] | None = None, urls: list[str] | None = None, artifact_type: str = "",
    ) -> None:  # fmt: skip
        self.media_type = media_type
        self.digest = digest
        self.size_bytes = size_bytes
        self.platform = platform
        self.annotations = annotations or {}
        self.urls = urls or []
        self.artifact_type = artifact_type

    def as_json(self) -> dict[str, Any]:
        """The three fields every descriptor has."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


class Document:
    """A manifest or an index: its bytes, their digest, and what they say. Of `manifests` and `layers` one is empty.

    digest: sha256; known_as: the digest that the registry names it by, which may be of another algorithm.
    """

    __slots__ = ("config", "digest", "known_as", "layers", "manifests", "media_type", "raw", "subject")

    def __init__(self, raw: bytes, media_type: str) -> None:
        self.raw = raw
        self.digest = self.known_as = digest_of(raw)
        self.media_type = media_type
        self.config: Descriptor | None = None
        self.layers: list[Descriptor] = []
        self.manifests: list[Descriptor] = []
        self.subject: Descriptor | None = None

    @property
    def is_index(self) -> bool:
        return self.media_type in media.INDEXES

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))


def digest_of(data: bytes) -> str:
    """`sha256:…` of these bytes."""
    return digests.of(data)


def parse(raw: bytes, content_type: str) -> Document:
    """Reads a manifest or an index. DataLoss for what is none; NotImplementedHere for Docker's schema 1."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if raw[:200].lstrip().startswith(b"<"):
            raise DataLoss("the registry answered with a web page instead of a manifest: is this the address of a registry?") from None
        raise DataLoss(f"the registry's manifest is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataLoss("the registry's manifest is JSON, but not an object")
    media_type = _media_type(value, content_type)
    document = Document(raw, media_type)
    if document.is_index:
        document.manifests = _descriptors(value, "manifests", _MAX_MANIFESTS)
        if document.digest in {entry.digest for entry in document.manifests}:
            raise DataLoss(f"index {document.digest} lists itself")
    else:
        document.config = _descriptor(value.get("config"), "config")
        document.layers = _descriptors(value, "layers", _MAX_LAYERS)
    if value.get("subject") is not None:
        document.subject = _descriptor(value["subject"], "subject")
    return document


def _media_type(value: dict, content_type: str) -> str:
    """The document's own word before the header's; without either, what its fields tell (OCI: mediaType may be left out)."""
    header = content_type.partition(";")[0].strip().lower()
    own = value.get("mediaType")
    if value.get("schemaVersion") == 1 or header in media.DOCKER_SCHEMA_1:
        raise NotImplementedHere("the image has a manifest of Docker's schema 1, out of use since 2019: push it again with a newer client")
    if "layers" in value and "manifests" in value:
        raise DataLoss("the registry's manifest has both `layers` and `manifests`: refused as ambiguous (OCI image specification 1.1)")
    for word in (own, header):
        if word in (*media.INDEXES, *media.MANIFESTS):
            if (word in media.INDEXES) != ("manifests" in value):
                raise DataLoss(f"the registry's manifest says it is {word}, which its fields contradict")
            return str(word)
    if "manifests" in value:
        return media.OCI_INDEX
    if "layers" in value and "config" in value:
        return media.OCI_MANIFEST
    raise DataLoss(f"the registry answered with {(_text(own) or header or 'something')[:100]!r}, which is neither manifest nor index")


def _descriptors(value: dict, field: str, most: int) -> list[Descriptor]:
    found = value.get(field)
    if not isinstance(found, list):
        raise DataLoss(f"the registry's manifest has no list at `{field}`")
    if len(found) > most:
        raise DataLoss(f"the registry's manifest lists {len(found)} {field}; more than {most} is refused")
    return [_descriptor(item, f"{field}[{index}]") for index, item in enumerate(found)]


def _descriptor(item: object, where: str) -> Descriptor:
    if not isinstance(item, dict):
        raise DataLoss(f"the registry's manifest has no descriptor at `{where}`")
    digest, size = item.get("digest"), item.get("size")
    if not isinstance(digest, str) or not digests.is_known(digest):
        raise DataLoss(f"the registry's manifest has {_shown(digest)} at `{where}.digest`, which is not a sha256 or sha512 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE_BYTES:
        raise DataLoss(f"the registry's manifest has {_shown(size)} at `{where}.size`, which is not a size in bytes")
    annotations, urls = item.get("annotations"), item.get("urls")
    return Descriptor(
        _text(item.get("mediaType")), digest, size, platform=platforms.of_document(item.get("platform")),
        annotations={key: _text(text) for key, text in annotations.items()} if isinstance(annotations, dict) else {},
        urls=[url for url in urls if isinstance(url, str)] if isinstance(urls, list) else [], artifact_type=_text(item.get("artifactType")),
    )  # fmt: skip


def _text(value: object) -> str:
    """Never str() of what JSON made: a value as deep as JSON may be is too deep for repr."""
    return value if isinstance(value, str) else ""


def _shown(value: object) -> str:
    return repr(value)[:100] if isinstance(value, str | int | float) else "nothing" if value is None else f"a JSON {type(value).__name__}"


def choose(index: Document, wanted: platforms.Platform) -> Descriptor:
    """The manifest of an index for a platform; InvalidParameter that names what there is."""
    entries = [entry for entry in index.manifests if entry.annotations.get("vnd.docker.reference.type") != "attestation-manifest"]
    found = platforms.choose(wanted, [entry.platform for entry in entries])
    if found is None and len(entries) == 1 and entries[0].platform is None:
        found = 0  # an index of one image that does not say what it is for
    if found is None:
        offered = ", ".join(sorted({str(entry.platform) for entry in entries if entry.platform})) or "none"
        raise InvalidParameter(f"no matching manifest for {wanted} in the manifest list entries; there are: {offered}")
    return entries[found]


def check(data: bytes, digest: str, what: str) -> bytes:
    """`data`, if it has this digest; DataLoss otherwise."""
    have = digests.of(data, digest)
    if have != digest:
        raise DataLoss(f"{what} {digest} came from the registry with digest {have}: it was changed on the way or in the registry")
    return data
