"""An image, or an index of several with their attestations, put together for one output; where layers go is the caller's."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from berth.build.attestations import Claim
from berth.build.imagedocuments import (
    Document,
    annotations_for,
    attestation_entry,
    attestation_manifest,
    index,
    manifest,
)
from berth.build.outputs import ZSTD, Annotation, Output
from berth.build.worker import Layers
from berth.engine.builds.blobs import gathered
from berth.oci import platforms
from berth.store.images import Layer

Describe = Callable[["Made", Layer], Awaitable[dict]]


@dataclass(slots=True)
class Made:
    """What a build has made for one platform. raw: the configuration; base: the image's that it began with."""

    platform: str
    result: Layers
    raw: bytes
    layers: list[Layer]
    base: Layers
    claims: list[Claim] = field(default_factory=list)


@dataclass(slots=True)
class Assembly:
    """top: what stands for the whole; blobs: configurations and statements; manifests: of images and attestations, below the top."""

    top: Document
    images: list[Document]
    blobs: list[Document]
    manifests: list[Document]


def is_oci(output: Output, annotations: Sequence[Annotation]) -> bool:
    """Docker's own types have no annotations and no zstd."""
    return output.oci_types or bool(annotations) or output.compression.kind == ZSTD


async def assemble(
    made: Sequence[Made], output: Output, names: Sequence[str], annotations: Sequence[Annotation], describe: Describe
) -> Assembly:
    """describe: makes a layer be where it is to go, and tells its descriptor there."""
    with_claims = any(each.claims for each in made)
    oci = is_oci(output, annotations) or with_claims
    found = Assembly(Document("", b""), [], [], [])
    entries, beside = [], []
    for each in made:
        layers = await gathered([describe(each, layer) for layer in each.layers])
        document = manifest(each.raw, layers, oci=oci, annotations=annotations_for(annotations, "manifest", each.platform))
        found.images.append(document)
        found.manifests.append(document)
        found.blobs.append(Document("", each.raw))
        entries.append(document.descriptor(
            annotations=annotations_for(annotations, "manifest-descriptor", each.platform), platform=platforms.parse(each.platform).as_json()
        ))  # fmt: skip
        if each.claims:
            statements = [(claim.kind, claim.about(names, each.platform, document.digest)) for claim in each.claims]
            config, attesting = attestation_manifest(statements)
            found.blobs += [config, *(statement for _, statement in statements)]
            found.manifests.append(attesting)
            beside.append(attestation_entry(attesting, document))
    if len(made) == 1 and not with_claims:
        found.top = found.images[0]
        found.manifests = []
    else:
        found.top = index([*entries, *beside], oci=oci, annotations=annotations_for(annotations, "index"))
    return found


def unique(documents: Iterable[Document]) -> list[Document]:
    return list({each.digest: each for each in documents}.values())
