"""What a pushed manifest says, checked before anything of it is kept. Pure."""

import json

from berth.errors import DataLoss, NotImplementedHere
from berth.registry import documents, media
from berth.registry.documents import Descriptor, Document
from berth.registry.server import names
from berth.registry.server.refusals import Refused

MAX_BYTES = documents.MAX_MANIFEST_BYTES
_MAX_ANNOTATION_BYTES = 64 << 10


class Pushed:
    """A manifest that is well formed. blobs and manifests: what the repository must have for it."""

    __slots__ = ("annotations", "artifact_type", "blobs", "document", "manifests", "media_type")

    def __init__(self, document: Document, annotations: dict[str, str], artifact_type: str) -> None:
        self.document = document
        self.media_type = document.media_type
        self.annotations = annotations
        self.artifact_type = artifact_type
        self.blobs: list[Descriptor] = []
        if document.config:
            self.blobs = [document.config, *(layer for layer in document.layers if not (media.is_foreign(layer.media_type) and layer.urls))]
        self.manifests: list[Descriptor] = document.manifests

    def as_referrer(self) -> dict:
        """Its descriptor in the list of what refers to its subject."""
        entry: dict = self.document.descriptor.as_json()
        if self.artifact_type:
            entry["artifactType"] = self.artifact_type
        if self.annotations and len(json.dumps(self.annotations)) <= _MAX_ANNOTATION_BYTES:
            entry["annotations"] = self.annotations
        return entry


def parse(raw: bytes, content_type: str) -> Pushed:
    """Refused (MANIFEST_INVALID) says what is wrong."""
    try:
        document = documents.parse(raw, content_type)
    except (DataLoss, NotImplementedHere) as error:
        raise Refused("MANIFEST_INVALID", str(error).replace("the registry's manifest", "the manifest")) from None
    named = [document.config, document.subject, *document.layers, *document.manifests]
    if other := next((one.digest for one in named if one and not names.is_digest(one.digest)), ""):
        raise Refused("MANIFEST_INVALID", f"the manifest names {other[:100]}, and digests are sha256 here")
    value = json.loads(raw)
    said, header = value.get("mediaType"), content_type.partition(";")[0].strip().lower()
    if said is not None and header and said != header:
        raise Refused("MANIFEST_INVALID", f"the manifest's mediaType is {str(said)[:100]!r}, its Content-Type {header[:100]!r}: they must be the same")
    artifact_type = value.get("artifactType") or (document.config.media_type if document.config else "")
    return Pushed(document, texts(value.get("annotations")), artifact_type if isinstance(artifact_type, str) else "")


def texts(value: object) -> dict[str, str]:
    """Of an untrusted object, what is text by name."""
    return {key: text for key, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}
