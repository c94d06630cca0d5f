"""Images: configurations, names and the layers they share by chain id. Knows nothing of containers.

The id of an image is the digest of its configuration, as Docker's classic store has it. Records are kept in memory and
in the database; layers are `layers`', and what comes in is read by `bringing`, without the lock: only giving names
holds it. A layer can be here before its image: a pull that was cut off goes on with what it has.

Each part of the store is built on the one before: imageindex (looks up), imageremoval, imagemending (at a start), this.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import IO

from berth.errors import DataLoss
from berth.oci.platforms import Platform
from berth.store import bringing
from berth.store.archive import Progress
from berth.store.database import Statement
from berth.store.imagemending import ImageMending
from berth.store.imagerecords import Image, Layer, Source, digest_statements, source_statements, tag_statements
from berth.store.layers import Loose
from berth.store.naming import chain_id, checked_config, familiar, tag_name

__all__ = ["Image", "ImageStore", "Layer", "Source"]

log = logging.getLogger("berth.store")

_HELLO = "hello:latest"
_SYNC_AFTER_S = 2.0


class ImageStore(ImageMending):
    """All images of one data root."""

    _syncing: threading.Timer | None = None

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

    def _carried(self, text: str) -> Image | None:
        return bringing.carry_hello(self, _HELLO) if familiar(text) == _HELLO else None

    # -- changing ---------------------------------------------------------------------------------

    def tag(self, source: str, name: str) -> None:
        """Gives an image one more name; takes the name away from another that had it."""
        tag = tag_name(name)
        with self._lock:
            image = self.find(source)
            now_ns = time.time_ns()
            self._database.write_now(*tag_statements([tag], image.id, now_ns))
            self._note_tags([tag], image.id, now_ns)

    def _note_tags(self, names: list[str], identity: str, now_ns: int) -> None:
        self._tags.update(dict.fromkeys(names, identity))
        if names:
            self._tagged_ns[identity] = now_ns

    # -- bringing in ------------------------------------------------------------------------------

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
            if identity in self._images and self._has(identity, names, digests, sources, parent):
                return self._images[identity]  # no disk is waited for with what it knows
            statements: list[Statement] = [("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (identity, raw, chain))]
            if parent:
                statements.append(("INSERT OR REPLACE INTO parents VALUES (?, ?)", (identity, parent)))
            now_ns = time.time_ns()
            statements += tag_statements(list(names), identity, now_ns)
            statements += digest_statements(digests, identity) + source_statements(sources)
            self._database.write_now(*statements)
            image = self._images[identity] = Image(identity, raw, chain)
            if parent:
                self._parents[identity] = parent
            self._note_tags(list(names), identity, now_ns)
            self._digests.update(dict.fromkeys(digests, identity))
            self._sources.update({(source.diff, source.repository): source for source in sources})
            return image

    def _has(self, identity: str, names: Sequence[str], digests: Sequence[tuple[str, str]], sources: Sequence[Source], parent: str) -> bool:
        """Whether all of that is known of the image."""
        return (
            all(self._tags.get(name) == identity for name in names)
            and all(self._digests.get(name) == identity for name in digests)
            and all(source.is_same(self._sources.get((source.diff, source.repository))) for source in sources)
            and (not parent or self._parents.get(identity) == parent)
        )

    def note_source(self, source: Source) -> None:
        """A registry has a layer now; its image may never get there."""
        with self._lock:
            if any(layer.diff == source.diff for layer in self._layers.values()):
                self._database.write_now(*source_statements([source]))
                self._sources[(source.diff, source.repository)] = source

    def note_pushed(self, identity: str, digests: Sequence[tuple[str, str]], sources: Sequence[Source]) -> None:
        """A registry has the image now: (familiar repository, digest of its manifest), and where its layers are."""
        with self._lock:
            if identity not in self._images:
                return
            self._database.write_now(*digest_statements(digests, identity), *source_statements(sources))
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
