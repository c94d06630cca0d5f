"""Images: configurations, names and the layers they share by chain id. Knows nothing of containers.

The id of an image is the digest of its configuration, as Docker's classic store has it. Records are kept in memory and
in the database; layers are `layers`', and what comes in is read by `bringing`, without the lock: only giving names
holds it. A layer can be here before its image: a pull that was cut off goes on with what it has.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from berth.errors import Conflict, DataLoss, InvalidParameter, NotFound
from berth.oci import reference
from berth.oci.platforms import Platform
from berth.store import bringing, unsent
from berth.store.archive import Progress
from berth.store.database import Database, Statement
from berth.store.documents import Documents
from berth.store.foreign import ForeignLayers
from berth.store.layers import LayerStore, Loose
from berth.store.layout import Layout
from berth.store.naming import chain_id, checked_config, familiar, tag_name
from berth.store.unpacking import Limits

log = logging.getLogger("berth.store")

_HELLO = "hello:latest"
_SYNC_AFTER_S = 2.0
_UNUSED_LAYER_S = 7 * 24 * 3600  # a pull that was cut off may go on for as long


class Layer:
    """chain: identifies the layer with all below it; diff: digest of its tar; size_bytes: of its files."""

    __slots__ = ("chain", "diff", "parent", "size_bytes")

    def __init__(self, chain: str, diff: str, parent: str, size_bytes: int) -> None:
        self.chain = chain
        self.diff = diff
        self.parent = parent
        self.size_bytes = size_bytes


class Source:
    """A compressed form of a layer that a registry has: so a push need not send it."""

    __slots__ = ("diff", "digest", "media_type", "repository", "size_bytes")

    def __init__(self, diff: str, repository: str, digest: str, size_bytes: int, media_type: str) -> None:
        self.diff = diff
        self.repository = repository  # with its registry, in full
        self.digest = digest
        self.size_bytes = size_bytes
        self.media_type = media_type


class Image:
    """config: the parsed configuration; raw: its bytes, whose digest is `id`; chain: of the top layer or ''."""

    __slots__ = ("chain", "config", "id", "raw")

    def __init__(self, identity: str, raw: bytes, chain: str) -> None:
        self.id = identity
        self.raw = raw
        self.chain = chain
        self.config: dict = json.loads(raw)


class ImageStore:
    """All images of one data root."""

    def __init__(self, layout: Layout, database: Database, limits: Limits | None = None) -> None:
        self.layout = layout
        self.layers = LayerStore(layout, limits)
        self.foreign = ForeignLayers(database)
        self.documents = Documents(database)
        self._database = database
        self._lock = threading.RLock()
        self._syncing: threading.Timer | None = None
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
        self._tagged_ns: dict[str, int] = dict(database.read("SELECT image, at_ns FROM tagged"))

    def close(self) -> None:
        """Waits until all that was brought in is on the disk."""
        with self._lock:
            if self._syncing:
                self._syncing.cancel()
        self._sync()
        self.layers.close()

    def _sync_soon(self) -> None:
        """After a moment, in which more may come, and in a thread: nobody waits for the disk."""
        if self._syncing is None or not self._syncing.is_alive():
            self._syncing = threading.Timer(_SYNC_AFTER_S, self._sync)
            self._syncing.daemon = True
            self._syncing.start()

    def _sync(self) -> None:
        try:
            self.layers.sync()
        except OSError as error:
            log.warning("layers could not be written to the disk: %s; after a loss of power they may be gone", error)

    # -- looking up -------------------------------------------------------------------------------

    def all(self) -> list[Image]:
        """Every image, newest first."""
        return sorted(list(self._images.values()), key=lambda image: str(image.config.get("created")), reverse=True)

    def names_of(self, identity: str) -> list[str]:
        """The tags of an image, in the order of their full names, as Docker has them."""
        names = [name for name, image in list(self._tags.items()) if image == identity]
        return sorted(names, key=_full_name) if len(names) > 1 else names

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
        image = self._by_name(text) or self._by_id(text)
        if image is None and familiar(text) == _HELLO:
            image = bringing.carry_hello(self, _HELLO)
        if image is None:
            raise NotFound(f"No such image: {reference.parse(text).familiar}")
        return image

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
        found = []
        chain = image.chain
        while chain:
            layer = self._layers.get(chain)
            if layer is None:
                raise NotFound(f"No such image: {image.id}")  # it was removed meanwhile
            found.append(layer)
            chain = layer.parent
        return found[::-1]

    @contextmanager
    def holding_image(self, image: Image) -> Iterator[list[Layer]]:
        """The layers of an image, bottom first, that nobody may remove meanwhile. NotFound where it has just been removed."""
        with self._lock:
            layers = self.layers_of(image)
            holding = self.holding({layer.chain for layer in layers})
            holding.__enter__()
        try:
            yield layers
        finally:
            holding.__exit__(None, None, None)

    def lower_directories(self, image: Image) -> list[str]:
        """Unpacked layers as overlayfs takes them: topmost first."""
        return [self.layout.layer(layer.chain) for layer in reversed(self.layers_of(image))]

    def size_bytes(self, image: Image) -> int:
        """Bytes of files in all layers, shared ones included."""
        return sum(layer.size_bytes for layer in self.layers_of(image))

    # -- changing ---------------------------------------------------------------------------------

    def tag(self, source: str, name: str) -> None:
        """Gives an image one more name; takes the name away from another that had it."""
        tag = tag_name(name)
        with self._lock:
            image = self.find(source)
            now_ns = time.time_ns()
            self._database.write_now(*_tag_statements([tag], image.id, now_ns))
            self._note_tags([tag], image.id, now_ns)

    def _note_tags(self, names: list[str], identity: str, now_ns: int) -> None:
        self._tags.update(dict.fromkeys(names, identity))
        if names:
            self._tagged_ns[identity] = now_ns

    def remove(self, text: str, *, force: bool, in_use: dict[str, str], prune: bool = True) -> list[dict[str, str]]:
        """Removes a name, and with the last one the image and the layers nothing else uses.

        in_use: image id -> the container that uses it, in words. prune: also those without a name that it was made of.
        Returns Docker's list of {"Untagged": name} and {"Deleted": id}.
        """
        with self._lock:
            removed = self._take_away(text, force=force, in_use=in_use, prune=prune)
        self.layers.erase()
        return removed

    def _take_away(self, text: str, *, force: bool, in_use: dict[str, str], prune: bool) -> list[dict[str, str]]:
        image = self.find(text)
        name = self._own_name(text, image)
        names = self.names_of(image.id) + self.digests_of(image.id)
        if name:
            going = self._going_with(name, names)
            if len(going) < len(names):
                return self._untag(going)
        elif len({_repository(other) for other in names}) > 1 and not force:
            raise Conflict(
                f"unable to delete {_short(image.id)} (must be forced) - image is referenced in multiple repositories"
            )
        user = in_use.get(image.id)
        if user and not force:
            raise Conflict(
                f"unable to remove repository reference {text!r} (must force) - {user} is using its referenced image "
                f"{_short(image.id)}" if name else
                f"unable to delete {_short(image.id)} (must be forced) - image is being used by {user}"
            )  # fmt: skip
        if user:
            if "running" in user:
                raise Conflict(f"unable to delete {_short(image.id)} (cannot be forced) - image is being used by {user}")
            return self._untag(names)  # the layers stay for as long as the container does
        if self.children_of(image.id):
            if name:
                return self._untag(names)
            raise Conflict(f"unable to delete {_short(image.id)} (cannot be forced) - image has dependent child images")
        return self._delete(self._doomed(image, in_use, prune=prune), names)

    def _own_name(self, text: str, image: Image) -> str:
        """The tag or digest reference by which `text` means the image; '' where it is an id."""
        name = familiar(text)
        return name if self._tags.get(name) == image.id or name in self.digests_of(image.id) else ""

    @staticmethod
    def _going_with(name: str, names: list[str]) -> list[str]:
        """What `rmi name` takes: with the last tag of a repository also that repository's digests, as Docker does."""
        repository = _repository(name)
        same = [other for other in names if _repository(other) == repository]
        return same if all("@" in other for other in same if other != name) else [name]

    def _doomed(self, image: Image, in_use: dict[str, str], *, prune: bool) -> list[Image]:
        """The image, and the nameless ones that only it was made of."""
        found = [image]
        parent = self.parent_of(image.id)
        while prune and parent and not (
            self.names_of(parent) or set(self.children_of(parent)) - {found[-1].id} or parent in in_use
        ):
            found.append(self._images[parent])
            parent = self.parent_of(parent)
        return found

    def _untag(self, names: list[str]) -> list[dict[str, str]]:
        self._database.write_now(*_untag_statements(names))
        self._forget_names(names)
        self._drop_documents()
        return [{"Untagged": name} for name in names]

    def _forget_names(self, names: list[str]) -> None:
        for name in names:
            repository, at, digest = name.partition("@")
            if at:
                del self._digests[(repository, digest)]
            else:
                del self._tags[name]

    def _drop_documents(self) -> None:
        self.documents.drop_unused({digest for _, digest in self._digests}, self._images)

    def _delete(self, images: list[Image], names: list[str]) -> list[dict[str, str]]:
        """Takes images and their names away at once; files that nothing uses any more after that."""
        used = {layer.chain for other in self._images.values() if other not in images for layer in self.layers_of(other)}
        self._leaving |= {layer.chain for image in images for layer in self.layers_of(image)} & set(self._held) - used
        used |= set(self._held)
        removed = [{"Untagged": name} for name in names]
        gone: list[Layer] = []
        for number, image in enumerate(images):
            later = {layer.chain for other in images[number + 1 :] for layer in self.layers_of(other)}
            own = [layer for layer in reversed(self.layers_of(image)) if layer.chain not in used | later]
            removed += [{"Deleted": image.id}] + [{"Deleted": layer.chain} for layer in own]
            gone += own
        self._drop(images, names, gone)
        for layer in gone:
            self.layers.hide(layer.chain)
        return removed

    def _drop(self, images: list[Image], names: list[str], layers: list[Layer]) -> None:
        """Takes them out of the database, in one transaction, and out of memory."""
        if not (images or names or layers):
            return
        statements = _untag_statements(names)
        for image in images:
            statements.append(("DELETE FROM images WHERE id = ?", (image.id,)))
            statements += [(f"DELETE FROM {table} WHERE image = ?", (image.id,)) for table in ("parents", "tagged")]
        for layer in layers:
            statements.append(("DELETE FROM chains WHERE chain = ?", (layer.chain,)))
            if not any(other.diff == layer.diff for other in self._layers.values() if other not in layers):
                statements.append(("DELETE FROM sources WHERE diff = ?", (layer.diff,)))
        self._database.write_now(*statements)
        self._forget_names(names)
        for image in images:
            del self._images[image.id]
            self._parents.pop(image.id, None)
            self._tagged_ns.pop(image.id, None)
        self._drop_documents()
        for layer in layers:
            del self._layers[layer.chain]
        diffs = {layer.diff for layer in self._layers.values()}
        self._sources = {key: source for key, source in self._sources.items() if key[0] in diffs}
        for diff in {layer.diff for layer in layers} - diffs:
            unsent.drop_all(self.layout.uploads, diff)
        if layers:
            self.foreign.keep_only(diffs)

    # -- bringing in ------------------------------------------------------------------------------

    def has_layer(self, chain: str) -> bool:
        """Whether a layer is here, with an image or without."""
        return chain in self._layers

    def chain_of(self, diff: str) -> str:
        """Some layer of this tar; NotFound if there is none."""
        for layer in list(self._layers.values()):
            if layer.diff == diff:
                return layer.chain
        raise NotFound(f"no layer here has the digest {diff}")

    @contextmanager
    def holding(self, chains: Iterable[str]) -> Iterator[None]:
        """Layers that nobody may remove meanwhile, whether they are here yet or not; what was removed goes when it ends."""
        wanted = list(chains)
        with self._lock:
            for chain in wanted:
                self._held[chain] = self._held.get(chain, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for chain in wanted:
                    self._held[chain] -= 1
                    if not self._held[chain]:
                        del self._held[chain]
                if going := {chain for chain in wanted if chain in self._leaving and chain not in self._held}:
                    self._leaving -= going
                    self._hide_unused([self._layers[chain] for chain in going if chain in self._layers])
            if going:
                self.layers.erase()

    def keep_layers(self, loose: Sequence[tuple[Loose, str]]) -> list[Layer]:
        """Names loose layers, each with the chain id of its parent ('' for none): they stay, with an image or without.

        One that is here already is dropped. All or none.
        """
        with self._lock:
            new: list[Layer] = []
            try:
                for item, parent in loose:
                    chain = chain_id(parent, item.diff)
                    if chain in self._layers:
                        self.layers.drop(item)
                        continue
                    new.append(Layer(chain, item.diff, parent, item.size_bytes))
                    self.layers.name(item, chain)
                self._database.write_now(*(
                    ("INSERT OR REPLACE INTO chains VALUES (?, ?, ?, ?)", (l.chain, l.diff, l.parent, l.size_bytes)) for l in new
                ))  # fmt: skip
            except BaseException:
                for layer in new:
                    self.layers.remove(layer.chain)
                raise
            self._layers.update({layer.chain: layer for layer in new})
            self._sync_soon()
            return new

    def discard_layers(self, layers: Iterable[Layer]) -> None:
        """Removes those that no image uses, at once or when nobody holds them any more: what came with an image that was not to be had."""
        with self._lock:
            self._hide_unused(layers)
        self.layers.erase()

    def _hide_unused(self, layers: Iterable[Layer]) -> None:
        used = self._used()
        unused = [layer for layer in layers if layer.chain in self._layers and layer.chain not in used]
        self._leaving |= {layer.chain for layer in unused} & set(self._held)
        gone = [layer for layer in unused if layer.chain not in self._held]
        self._drop([], [], gone)
        for layer in gone:
            self.layers.hide(layer.chain)

    def discard_unused(self) -> int:
        """Removes every layer that no image uses, and what cut-off pulls and pushes have left to go on with -> bytes of files in them."""
        with self._lock:
            used = self._used()
            unused = [layer for layer in self._layers.values() if layer.chain not in used and layer.chain not in self._held]
            self._hide_unused(unused)
        self.layers.erase()
        unsent.drop_all(self.layout.uploads)
        return sum(layer.size_bytes for layer in unused) + self.layout.drop_all_partial()

    def _used(self) -> set[str]:
        return {layer.chain for image in self._images.values() for layer in self.layers_of(image)}

    def unpack_again(self, diff: str) -> Loose | None:
        """A second copy of a layer that is here, for another chain; None where there is none, or it has been changed."""
        with self._lock:
            chain = next((layer.chain for layer in self._layers.values() if layer.diff == diff), "")
            holding = self.holding([chain] if chain else [])
            holding.__enter__()
        try:
            if not chain or not self.layers.has_recipe(chain):
                return None
            stream = self.layers.tar(chain, diff)
            try:
                return self.layers.unpack(stream)
            except DataLoss:
                return None
            finally:
                stream.close()
        finally:
            holding.__exit__(None, None, None)

    def add_image(
        self, raw: bytes, *, names: Sequence[str] = (), digests: Sequence[tuple[str, str]] = (), sources: Sequence[Source] = (),
        parent: str = "",
    ) -> Image:  # fmt: skip
        """Registers a configuration whose layers are here, with its names; in one transaction.

        names: tags in familiar form; digests: (familiar repository, digest of a manifest); parent: id of the image it
        was made of. Raises DataLoss for a configuration that is none, or whose layers are not here.
        """
        config = checked_config(raw)
        with self._lock:
            chain = ""
            for diff in config["rootfs"]["diff_ids"]:
                chain = chain_id(chain, diff)
                if chain not in self._layers:
                    raise DataLoss(f"layer {diff} of the image is not here")
            identity = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            statements: list[Statement] = [("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (identity, raw, chain))]
            if parent:
                statements.append(("INSERT OR REPLACE INTO parents VALUES (?, ?)", (identity, parent)))
            now_ns = time.time_ns()
            statements += _tag_statements(list(names), identity, now_ns)
            statements += _digest_statements(digests, identity) + _source_statements(sources)
            self._database.write_now(*statements)
            image = self._images[identity] = Image(identity, raw, chain)
            if parent:
                self._parents[identity] = parent
            self._note_tags(list(names), identity, now_ns)
            self._digests.update(dict.fromkeys(digests, identity))
            self._sources.update({(source.diff, source.repository): source for source in sources})
            return image

    def note_source(self, source: Source) -> None:
        """A registry has a layer now; its image may never get there."""
        with self._lock:
            if any(layer.diff == source.diff for layer in self._layers.values()):
                self._database.write_now(*_source_statements([source]))
                self._sources[(source.diff, source.repository)] = source

    def note_pushed(self, identity: str, digests: Sequence[tuple[str, str]], sources: Sequence[Source]) -> None:
        """A registry has the image now: (familiar repository, digest of its manifest), and where its layers are."""
        with self._lock:
            if identity not in self._images:
                return
            self._database.write_now(*_digest_statements(digests, identity), *_source_statements(sources))
            self._digests.update(dict.fromkeys(digests, identity))
            self._sources.update({(source.diff, source.repository): source for source in sources})

    def forget_source(self, source: Source) -> None:
        """A registry has lost a layer that it had."""
        with self._lock:
            if self._sources.pop((source.diff, source.repository), None):
                self._database.write_now(("DELETE FROM sources WHERE diff = ? AND repository = ?", (source.diff, source.repository)))

    def load(self, stream: IO[bytes], wanted: Platform | None = None, progress: Progress | None = None) -> bringing.Loaded:
        """Reads an image archive; all of it or nothing of an image. NotFound if none of its images is for the platform."""
        return bringing.load(self, stream, wanted, progress)

    def import_filesystem(self, stream: IO[bytes], name: str, message: str, config: dict, platform: Platform) -> Image:
        """One layer from the tar of a file system; `config` is the image's `config` section."""
        return bringing.import_filesystem(self, stream, name, message, config, platform)

    def add_layer(
        self, parent: Image, path: str, *, config: dict, author: str, comment: str, created_by: str, name: str
    ) -> Image:
        """An image of one more layer, the archive at `path`, which is taken over; an empty one makes no layer."""
        return bringing.add_layer(
            self, parent, path, config=config, author=author, comment=comment, created_by=created_by, name=name
        )

    # -- taking out -------------------------------------------------------------------------------

    def save(self, names: list[str], out: IO[bytes]) -> None:
        """Writes images as an archive; a name without tag stands for all its tags."""
        chosen: dict[str, list[str]] = {}
        for name in names:
            for tag, identity in self.saved_names(name):
                tags = chosen.setdefault(identity, [])
                if tag and tag not in tags:
                    tags.append(tag)
        images = [(self._images[identity], tags) for identity, tags in chosen.items()]
        with self.holding({layer.chain for image, _ in images for layer in self.layers_of(image)}):
            bringing.save(self, images, out)

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

    # -- start-up ---------------------------------------------------------------------------------

    def reconcile(self) -> list[str]:
        """Makes disk and database agree after a crash; returns what was mended, in words."""
        unfinished = self.layers.empty_tmp()
        mended = [f"{unfinished} unfinished files in {self.layout.tmp} are removed"] if unfinished else []
        self.layout.drop_old_transfers(_UNUSED_LAYER_S)
        lost = set(self.layers.mend({layer.chain: layer.diff for layer in self._layers.values()}))
        for image in list(self._images.values()):
            if reason := self._lack(image, lost):
                self._drop([image], self.names_of(image.id) + self.digests_of(image.id), [])
                mended.append(f"image {_short(image.id)} is dropped: {reason}; pull, load or import it again")
        dangling = [name for name, identity in self._tags.items() if identity not in self._images]
        dangling += [f"{name}@{digest}" for (name, digest), identity in self._digests.items() if identity not in self._images]
        if dangling:
            self._untag(dangling)
            mended.append(f"tags of images that are not there: {', '.join(dangling)}")
        self._drop([], [], [layer for layer in self._layers.values() if layer.chain in lost or self._is_stale(layer)])
        return mended + self._clear(self.layout.layers) + self._clear(self.layout.recipes)

    def _lack(self, image: Image, lost: set[str]) -> str:
        """What an image needs and does not have, or ''."""
        if f"sha256:{hashlib.sha256(image.raw).hexdigest()}" != image.id:
            return "its configuration is damaged"
        chain = image.chain
        while chain:
            layer = self._layers.get(chain)
            if layer is None or chain in lost:
                return f"layer {_short(chain)} is gone"
            chain = layer.parent
        return ""

    def _is_stale(self, layer: Layer) -> bool:
        """Whether it came with a pull that did not end, long ago."""
        if any(layer in self.layers_of(image) for image in self._images.values()):
            return False
        with suppress(FileNotFoundError):
            return time.time() - os.stat(self.layout.recipe(layer.chain)).st_mtime > _UNUSED_LAYER_S
        return True

    def _clear(self, directory: str) -> list[str]:
        """Removes what no record names; keeps it where its record may be one of those lost."""
        mended = []
        known = {chain.removeprefix("sha256:") for chain in self._layers}
        for name in set(os.listdir(directory)) - known:
            if self._database.incomplete:
                mended.append(f"layer {name[:12]} is in no record: kept in {self.layout.put_aside(f'{directory}/{name}')}")
            else:
                self.layers.remove(name)
                mended.append(f"layer {name[:12]} is removed: no image uses it")
        return mended


def _full_name(name: str) -> str:
    parsed = reference.parse(name)
    return f"{parsed.registry}/{parsed.repository}:{parsed.tag}"


def _untag_statements(names: list[str]) -> list[Statement]:
    found: list[Statement] = []
    for name in names:
        repository, at, digest = name.partition("@")
        if at:
            found.append(("DELETE FROM digests WHERE name = ? AND digest = ?", (repository, digest)))
        else:
            found.append(("DELETE FROM tags WHERE name = ?", (name,)))
    return found


def _digest_statements(digests: Sequence[tuple[str, str]], identity: str) -> list[Statement]:
    return [("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (name, digest, identity)) for name, digest in digests]


def _source_statements(sources: Sequence[Source]) -> list[Statement]:
    return [
        ("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?)", (s.diff, s.repository, s.digest, s.size_bytes, s.media_type))
        for s in sources
    ]


def _repository(name: str) -> str:
    parsed = reference.parse(name)
    return parsed.familiar_name


def _tag_statements(names: list[str], identity: str, now_ns: int) -> list[Statement]:
    statements: list[Statement] = [("INSERT OR REPLACE INTO tags VALUES (?, ?)", (name, identity)) for name in names]
    return [*statements, ("INSERT OR REPLACE INTO tagged VALUES (?, ?)", (identity, now_ns))] if names else []


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:12]
