"""The tag that stands in for the list of what refers to a manifest, where a registry has no such list. Pure.

Source: OCI distribution specification 1.1, "Referrers Tag Schema" and "Pushing Manifests with Subject".
"""

import json
import re

from berth.errors import DataLoss
from berth.registry import documents, media
from berth.registry.documents import Document

_NO_TAG = re.compile(r"[^a-zA-Z0-9._-]")
_MOST_ALGORITHM, _MOST_REFERENCE = 32, 64


def tag_of(digest: str) -> str:
    """`sha256-…`; of a longer digest as much as a tag may have."""
    algorithm, _, reference = digest.partition(":")
    return _NO_TAG.sub("-", f"{algorithm[:_MOST_ALGORITHM]}-{reference[:_MOST_REFERENCE]}")


def entry_of(document: Document) -> dict:
    """The descriptor of a manifest in its subject's list."""
    value = json.loads(document.raw)
    entry = document.descriptor.as_json()
    artifact_type, annotations = value.get("artifactType"), value.get("annotations")
    if artifact_type or document.config:
        entry["artifactType"] = artifact_type or (document.config.media_type if document.config else "")
    return {**entry, "annotations": annotations} if annotations else entry


def listed(index: bytes | None, entry: dict) -> bytes | None:
    """The list with one more entry; None where that is in it. index: None where there is no list yet."""
    if index is None:
        value: dict = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}
    else:
        if not documents.parse(index, media.OCI_INDEX).is_index:
            raise DataLoss("the tag for what refers to the manifest names something else than an index; it is left as it is")
        value = json.loads(index)
    if any(known.get("digest") == entry["digest"] for known in value["manifests"]):
        return None
    value["manifests"].append(entry)
    return json.dumps(value).encode()
