"""Media types of manifests, configurations and layers: OCI image specification 1.1 (media-types.md) and Docker's v2 schema 2. Pure."""

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_SCHEMA_1 = ("application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws")

DOCKER_LAYERS = (DOCKER_LAYER, "application/vnd.docker.image.rootfs.diff.tar")
DOCKER_FOREIGN = ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar")
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)
ACCEPTED = (DOCKER_MANIFEST, DOCKER_LIST, OCI_INDEX, OCI_MANIFEST)

_LAYER_STARTS = (OCI_LAYER, DOCKER_LAYERS[1])
_FOREIGN_STARTS = (OCI_FOREIGN, DOCKER_FOREIGN[1])


def is_layer(media_type: str) -> bool:
    """Whether this is a layer's tar, compressed or not, foreign ones too."""
    return media_type.startswith((*_LAYER_STARTS, *_FOREIGN_STARTS))


def oci_layer(media_type: str) -> str:
    """OCI's name for a kind of layer."""
    names = {
        DOCKER_LAYER: f"{OCI_LAYER}+gzip", DOCKER_LAYERS[1]: OCI_LAYER, DOCKER_FOREIGN[0]: f"{OCI_FOREIGN}+gzip", DOCKER_FOREIGN[1]: OCI_FOREIGN,
    }  # fmt: skip
    return names.get(media_type, media_type)


def is_foreign(media_type: str) -> bool:
    """Whether a registry need not have the layer: it is fetched from the descriptor's own `urls`, and never pushed."""
    return media_type.startswith(_FOREIGN_STARTS)
