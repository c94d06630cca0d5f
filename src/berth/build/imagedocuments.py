"""Manifests and indexes of images that were built, and how attestations lie beside them. Pure; the same bytes for the same image.

Sources: OCI image specification 1.1; for attestations https://docs.docker.com/build/metadata/attestations/attestation-storage/
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from berth.build.outputs import Annotation
from berth.oci import platforms

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
IN_TOTO = "application/vnd.in-toto+json"
_SUFFIXES = {"gzip": "+gzip", "zstd": "+zstd", "uncompressed": ""}


@dataclass(frozen=True, slots=True)
class Document:
    """A blob that is small enough to be held."""

    media_type: str
    raw: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.raw).hexdigest()}"

    def descriptor(self, **more: Any) -> dict[str, Any]:
        found = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw)}
        return {**found, **{key: value for key, value in more.items() if value}}


def layer_type(compression: str, *, oci: bool) -> str:
    """Docker has no name for zstd."""
    if oci or compression == "zstd":
        return OCI_LAYER + _SUFFIXES[compression]
    return DOCKER_LAYER + {"gzip": ".gzip", "uncompressed": ""}[compression]


def document(media_type: str, value: Mapping[str, Any]) -> Document:
    return Document(media_type, json.dumps(value, indent=2, ensure_ascii=False).encode(errors="surrogateescape"))


def manifest(config: bytes, layers: Sequence[Mapping[str, Any]], *, oci: bool, annotations: Mapping[str, str]) -> Document:
    """Of one image. layers: their descriptors, bottom first."""
    kind = OCI_MANIFEST if oci else DOCKER_MANIFEST
    named = Document(OCI_CONFIG if oci else DOCKER_CONFIG, config)
    return document(kind, {
        "schemaVersion": 2, "mediaType": kind, "config": named.descriptor(), "layers": list(layers),
        **({"annotations": dict(sorted(annotations.items()))} if annotations else {}),
    })  # fmt: skip


def index(entries: Iterable[Mapping[str, Any]], *, oci: bool, annotations: Mapping[str, str]) -> Document:
    """entries: descriptors of manifests."""
    kind = OCI_INDEX if oci else DOCKER_LIST
    return document(kind, {
        "schemaVersion": 2, "mediaType": kind, "manifests": list(entries),
        **({"annotations": dict(sorted(annotations.items()))} if annotations else {}),
    })  # fmt: skip


def attestation_manifest(statements: Sequence[tuple[str, Document]]) -> tuple[Document, Document]:
    """(configuration, manifest) of what holds an image's statements. statements: type of the predicate, the statement."""
    diffs = [each.digest for _, each in statements]
    config = document(OCI_CONFIG, {
        "architecture": "unknown", "os": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs},
    })  # fmt: skip
    layers = [each.descriptor(annotations={"in-toto.io/predicate-type": kind}) for kind, each in statements]
    found = document(OCI_MANIFEST, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor(), "layers": layers})
    return config, found


def attestation_entry(found: Document, subject: Document) -> dict[str, Any]:
    """How an index lists it: for a platform that nobody has, with what it is about."""
    return found.descriptor(
        annotations={"vnd.docker.reference.digest": subject.digest, "vnd.docker.reference.type": "attestation-manifest"},
        platform={"architecture": "unknown", "os": "unknown"},
    )  # fmt: skip


def annotations_for(wanted: Iterable[Annotation], what: str, platform: str = "") -> dict[str, str]:
    """Those of one place, for one platform."""
    return {
        each.key: each.value for each in wanted
        if each.what == what and (not each.platform or not platform or platforms.parse(each.platform) == platforms.parse(platform))
    }  # fmt: skip
