"""What the API says of manifests: `Descriptor`, and `Manifests` where a client asks for them (`docker image ls --tree`).

The store keeps one platform of an image, unpacked, and no blobs. So the manifest of that one is available, and what else its
index lists is not. `Content` is what the store keeps beside the files: configuration, manifest, and what it takes to write the
layers' archives again.

Source: Docker Engine API 1.48 and later: OCIDescriptor, ImageManifestSummary.
"""

from typing import Any

from berth.errors import BerthError
from berth.oci import platforms
from berth.registry import documents
from berth.store.archivewriter import MANIFEST_TYPE, manifest_of
from berth.store.documents import Kept
from berth.store.images import Image, ImageStore

_TYPE, _FOR = "vnd.docker.reference.type", "vnd.docker.reference.digest"


def descriptor(store: ImageStore, image: Image) -> dict[str, Any] | None:
    """Of what an image's name stands for in a registry, an index where there is one; None where no registry has had it."""
    kept = _targets(store, image)
    return _descriptor(kept[0]) if kept else None


def manifests(store: ImageStore, image: Image, containers: list[str]) -> list[dict[str, Any]]:
    """All that the image's index lists; of an image without one, its own manifest. Blocks. containers: ids of those that use it."""
    own = next((kept for kept in _targets(store, image) if kept.config), None)
    index = next((kept for kept in _targets(store, image) if not kept.config), None)
    listed = _listed(store, index) if index else []
    found = []
    for entry in listed:
        kept = None if _is_attestation(entry) else store.documents.of(entry.digest)
        if kept and kept.config == image.id:
            found.append(_available(store, image, _with_platform(_descriptor(kept), entry.platform), containers))
        else:
            found.append(_missing(entry))
    if not any(item["Available"] for item in found):
        saved = manifest_of(image.raw, [(layer.diff, store.layers.tar_size_bytes(layer.chain)) for layer in store.layers_of(image)])
        what = _descriptor(own) if own else {"mediaType": MANIFEST_TYPE, "digest": documents.digest_of(saved), "size": len(saved)}
        found.append(_available(store, image, what, containers))
    return found


def _targets(store: ImageStore, image: Image) -> list[Kept]:
    """Documents of the digests that an image is known by: indexes first."""
    digests = dict.fromkeys(name.partition("@")[2] for name in store.digests_of(image.id))
    return sorted((kept for digest in digests if (kept := store.documents.of(digest))), key=lambda kept: bool(kept.config))


def _listed(store: ImageStore, index: Kept) -> list[documents.Descriptor]:
    try:
        return documents.parse(store.documents.read(index.digest), index.media_type).manifests
    except BerthError:
        return []  # it went with its image just now


def _descriptor(kept: Kept) -> dict[str, Any]:
    return {"mediaType": kept.media_type, "digest": kept.digest, "size": kept.size_bytes}


def _with_platform(found: dict[str, Any], platform: platforms.Platform | None) -> dict[str, Any]:
    return {**found, "platform": platform.as_json()} if platform else found


def _available(store: ImageStore, image: Image, what: dict[str, Any], containers: list[str]) -> dict[str, Any]:
    layers = store.layers_of(image)
    content = len(image.raw) + what["size"] + sum(store.layers.recipe_bytes(layer.chain) for layer in layers)
    unpacked = sum(layer.size_bytes for layer in layers)
    platform = platforms.of_document(image.config) or platforms.Platform("linux", "")
    return {
        "ID": what["digest"], "Descriptor": what, "Available": True, "Size": {"Content": content, "Total": content + unpacked}, "Kind": "image",
        "ImageData": {"Platform": platform.as_json(), "Containers": containers, "Size": {"Unpacked": unpacked}},
    }  # fmt: skip


def _is_attestation(entry: documents.Descriptor) -> bool:
    return entry.annotations.get(_TYPE) == "attestation-manifest"


def _missing(entry: documents.Descriptor) -> dict[str, Any]:
    found = {
        "ID": entry.digest, "Descriptor": _with_platform(entry.as_json(), entry.platform), "Available": False, "Size": {"Content": 0, "Total": 0},
    }  # fmt: skip
    if _is_attestation(entry):
        return {**found, "Kind": "attestation", "AttestationData": {"For": entry.annotations.get(_FOR, "")}}
    if entry.platform is None:
        return {**found, "Kind": "unknown"}
    return {**found, "Kind": "image", "ImageData": {"Platform": entry.platform.as_json(), "Containers": [], "Size": {"Unpacked": 0}}}
