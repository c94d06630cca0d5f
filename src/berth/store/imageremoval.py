"""Images and layers leave: names at once, files when nothing uses them and nobody holds them any more."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from berth.errors import Conflict
from berth.store import unsent
from berth.store.imageindex import ImageIndex
from berth.store.imagerecords import Image, Layer, repository_of, short, untag_statements
from berth.store.naming import familiar


class ImageRemoval(ImageIndex):
    """The part of the store that removes."""

    # -- an image ---------------------------------------------------------------------------------

    def remove(self, text: str, *, force: bool, in_use: dict[str, str], prune: bool = True) -> list[dict[str, str]]:
        """Removes a name, and with the last one the image and the layers nothing else uses.

        in_use: image id -> the container that uses it, in words. prune: also those without a name that it was made of.
        Returns Docker's list of {"Untagged": name} and {"Deleted": id}.
        """
        with self._lock:
            return self._take_away(text, force=force, in_use=in_use, prune=prune)

    def _take_away(self, text: str, *, force: bool, in_use: dict[str, str], prune: bool) -> list[dict[str, str]]:
        image = self.find(text)
        name = self._own_name(text, image)
        names = self.names_of(image.id) + self.digests_of(image.id)
        if name:
            going = self._going_with(name, names)
            if len(going) < len(names):
                return self._untag(going)
        elif len({repository_of(other) for other in names}) > 1 and not force:
            raise Conflict(
                f"unable to delete {short(image.id)} (must be forced) - image is referenced in multiple repositories"
            )
        user = in_use.get(image.id)
        if user and not force:
            raise Conflict(
                f"unable to remove repository reference {text!r} (must force) - {user} is using its referenced image "
                f"{short(image.id)}" if name else
                f"unable to delete {short(image.id)} (must be forced) - image is being used by {user}"
            )  # fmt: skip
        if user:
            if "running" in user:
                raise Conflict(f"unable to delete {short(image.id)} (cannot be forced) - image is being used by {user}")
            return self._untag(names)  # the layers stay for as long as the container does
        if self.children_of(image.id):
            if name:
                return self._untag(names)
            raise Conflict(f"unable to delete {short(image.id)} (cannot be forced) - image has dependent child images")
        return self._delete(self._doomed(image, in_use, prune=prune), names)

    def _own_name(self, text: str, image: Image) -> str:
        """The tag or digest reference by which `text` means the image; '' where it is an id."""
        name = familiar(text)
        return name if self._tags.get(name) == image.id or name in self.digests_of(image.id) else ""

    @staticmethod
    def _going_with(name: str, names: list[str]) -> list[str]:
        """What `rmi name` takes: with the last tag of a repository also that repository's digests, as Docker does."""
        repository = repository_of(name)
        same = [other for other in names if repository_of(other) == repository]
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
        self._database.write_now(*untag_statements(names))
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
        used = {layer.chain for other in self._images.values() if other not in images for layer in self.layers_of(other)} | self.kept()
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
            self.layers.remove(layer.chain)
        return removed

    def _drop(self, images: list[Image], names: list[str], layers: list[Layer]) -> None:
        """Takes them out of the database, in one transaction, and out of memory."""
        if not (images or names or layers):
            return
        statements = untag_statements(names)
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

    # -- layers -----------------------------------------------------------------------------------

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
                    self._drop_unused([self._layers[chain] for chain in going if chain in self._layers])

    def discard_layers(self, layers: Iterable[Layer]) -> None:
        """Removes those that no image uses, at once or when nobody holds them any more: what came with an image that was not to be had."""
        with self._lock:
            self._drop_unused(layers)

    def _drop_unused(self, layers: Iterable[Layer]) -> None:
        used = self._used()
        unused = [layer for layer in layers if layer.chain in self._layers and layer.chain not in used]
        self._leaving |= {layer.chain for layer in unused} & set(self._held)
        gone = [layer for layer in unused if layer.chain not in self._held]
        self._drop([], [], gone)
        for layer in gone:
            self.layers.remove(layer.chain)

    def discard_unused(self) -> int:
        """Removes every layer that no image uses, and what cut-off pulls and pushes have left to go on with -> bytes of files in them."""
        with self._lock:
            used = self._used()
            unused = [layer for layer in self._layers.values() if layer.chain not in used and layer.chain not in self._held]
            self._drop_unused(unused)
        unsent.drop_all(self.layout.uploads)
        return sum(layer.size_bytes for layer in unused) + self.layout.drop_all_partial()
