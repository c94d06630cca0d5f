"""All images of a data root in memory, to be looked up. Whoever changes something holds the lock (`ImageRemoval`, `ImageStore`)."""

import threading
from collections.abc import Callable

from berth.errors import InvalidParameter, NotFound
from berth.linux import overlay
from berth.oci import reference
from berth.store.database import Database
from berth.store.documents import Documents
from berth.store.foreign import ForeignLayers
from berth.store.imagerecords import Image, Layer, Lower, Source, full_name
from berth.store.layers import LayerStore
from berth.store.layout import Layout
from berth.store.naming import familiar
from berth.store.unpacking import Limits


class ImageIndex:
    """Configurations, names, and the layers they share by chain id, as the database has them."""

    def __init__(self, layout: Layout, database: Database, limits: Limits | None = None) -> None:
        self.layout = layout
        self.layers = LayerStore(layout, limits)
        self.foreign = ForeignLayers(database)
        self.documents = Documents(database)
        self._database = database
        self._lock = threading.RLock()
        self._held: dict[str, int] = {}  # chains that somebody is about to use
        self._leaving: set[str] = set()  # those of them that went out of use meanwhile: they go with the last who holds them
        self._layers = {row[0]: Layer(*row) for row in database.read("SELECT chain, diff, parent, size_bytes FROM chains")}
        self._images = {row[0]: Image(*row) for row in database.read("SELECT id, config, chain FROM images")}
        self._tags: dict[str, str] = dict(database.read("SELECT name, image FROM tags"))
        self._digests: dict[tuple[str, str], str] = {
            (name, digest): image for name, digest, image in database.read("SELECT name, digest, image FROM digests")
        }
        self._sources = {(row[0], row[1]): Source(*row) for row in database.read(
            "SELECT diff, repository, digest, size_bytes, media_type FROM sources"
        )}  # fmt: skip
        self._parents: dict[str, str] = dict(database.read("SELECT image, parent FROM parents"))
        self.kept_elsewhere: Callable[[], set[str]] = set  # chains that somebody beside the images needs: the cache of builds
        self._tagged_ns: dict[str, int] = dict(database.read("SELECT image, at_ns FROM tagged"))

    def all(self) -> list[Image]:
        """Every image, newest first."""
        return sorted(list(self._images.values()), key=lambda image: str(image.config.get("created")), reverse=True)

    def names_of(self, identity: str) -> list[str]:
        """The tags of an image, in the order of their full names, as Docker has them."""
        names = [name for name, image in list(self._tags.items()) if image == identity]
        return sorted(names, key=full_name) if len(names) > 1 else names

    def tagged(self, familiar: str) -> Image | None:
        """The image of a tag or a digest reference in familiar form; names only, no ids."""
        return self._by_name(familiar)

    def digests_of(self, identity: str) -> list[str]:
        """Where an image came from or went to: `repository@sha256:…` of its manifests, sorted."""
        return sorted(f"{name}@{digest}" for (name, digest), image in list(self._digests.items()) if image == identity)

    def by_id(self, identity: str) -> Image | None:
        """The image of a whole id."""
        return self._images.get(identity)

    def sources_of(self, diff: str) -> list[Source]:
        """Where a layer is known to be, in full names."""
        return [source for (there, _), source in list(self._sources.items()) if there == diff]

    def parent_of(self, identity: str) -> str:
        """The image that this one was committed on; '' for none, or one that is not here any more."""
        parent = self._parents.get(identity, "")
        return parent if parent in self._images else ""

    def children_of(self, identity: str) -> list[str]:
        """Images that were committed on this one."""
        return [image for image, parent in self._parents.items() if parent == identity and image in self._images]

    def tagged_ns(self, identity: str) -> int:
        """When an image last got a name here; 0 for never."""
        return self._tagged_ns.get(identity, 0)

    def find(self, text: str) -> Image:
        """By reference, id or start of an id. Raises NotFound in Docker's words; InvalidParameter for what is neither."""
        image = self._by_name(text) or self._by_id(text) or self._carried(text)
        if image is None:
            raise NotFound(f"No such image: {reference.parse(text).familiar}")
        return image

    def _carried(self, text: str) -> Image | None:
        """The image of that name that berth brings along, which is there once somebody asks for it."""
        return None

    def _by_name(self, text: str) -> Image | None:
        try:
            parsed = reference.parse(text)
        except InvalidParameter:
            return None
        if parsed.digest:  # of a manifest; an image that was never in a registry is known by its own id only
            there = self._digests.get((parsed.familiar_name, parsed.digest), "")
            return self._images.get(there) or self._images.get(parsed.digest)
        identity = self._tags.get(parsed.familiar)
        return self._images.get(identity) if identity else None

    def _by_id(self, text: str) -> Image | None:
        if not reference.is_image_id(text):
            return None
        wanted = "sha256:" + text.removeprefix("sha256:")
        found = [image for identity, image in self._images.items() if identity.startswith(wanted)]
        if len(found) > 1:
            raise InvalidParameter(f"image id {text!r} is ambiguous: it is the start of {len(found)} ids")
        return found[0] if found else None

    def layers_of(self, image: Image) -> list[Layer]:
        """Bottom first."""
        found = self.layers_below(image.chain)
        if found is None:
            raise NotFound(f"No such image: {image.id}")  # it was removed meanwhile
        return found

    def layers_below(self, chain: str) -> list[Layer] | None:
        """The layer of this chain id and all that it lies on, bottom first; None where one is not here."""
        found = []
        while chain:
            layer = self._layers.get(chain)
            if layer is None:
                return None
            found.append(layer)
            chain = layer.parent
        return found[::-1]

    def lower(self, image: Image) -> Lower:
        """Unpacked layers as overlayfs takes them."""
        return self._lower(self.layers_of(image))

    def lower_of_chain(self, chain: str) -> Lower:
        """The same of layers that need not be an image's; NotFound where one is not here."""
        layers = self.layers_below(chain)
        if layers is None:
            raise NotFound(f"layer {chain} is not here any more")
        return self._lower(layers)

    def _lower(self, layers: list[Layer]) -> Lower:
        chains = [layer.chain for layer in reversed(layers)]
        directories = [self.layout.layer(chain) for chain in chains]
        if any(self.layers.has_stubs(chain) for chain in chains):
            return Lower(directories, self.layers.data_layer(), overlay.WITH_STUBS)
        return Lower(directories, "", [])

    def size_bytes(self, image: Image) -> int:
        """Bytes of files in all layers, shared ones included."""
        return sum(layer.size_bytes for layer in self.layers_of(image))

    def size_of(self, chain: str) -> int:
        """Bytes of files in one layer; 0 for one that is not here."""
        layer = self._layers.get(chain)
        return layer.size_bytes if layer else 0

    def has_layer(self, chain: str) -> bool:
        """Whether a layer is here, with an image or without."""
        return chain in self._layers

    def chain_of(self, diff: str) -> str:
        """Some layer of this tar; NotFound if there is none."""
        for layer in list(self._layers.values()):
            if layer.diff == diff:
                return layer.chain
        raise NotFound(f"no layer here has the digest {diff}")

    def _used(self) -> set[str]:
        return {layer.chain for image in self._images.values() for layer in self.layers_of(image)} | self.kept()

    def kept(self) -> set[str]:
        """The layers that are needed elsewhere, with all that they lie on."""
        found: set[str] = set()
        for chain in self.kept_elsewhere():
            while chain and chain not in found and (layer := self._layers.get(chain)):
                found.add(chain)
                chain = layer.parent
        return found

    def saved_names(self, name: str) -> list[tuple[str, str]]:
        """What `name` means to `save`: (tag or '', image id) of each; NotFound if nothing."""
        try:
            bare = reference.parse(name, default_tag="")
        except InvalidParameter:
            bare = None
        if bare and not bare.tag and not bare.digest:
            prefix = f"{bare.familiar_name}:"
            found = [(tag, identity) for tag, identity in self._tags.items() if tag.startswith(prefix)]
            if found:
                return found
        image = self.find(name)
        tag = familiar(name)
        return [(tag if self._tags.get(tag) == image.id else "", image.id)]
