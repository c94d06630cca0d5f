"""What an engine finds when it starts: disk and database may have been left to disagree."""

import hashlib
import os
import time
from contextlib import suppress

from berth.store.imagerecords import Image, Layer, short
from berth.store.imageremoval import ImageRemoval

_UNUSED_LAYER_S = 7 * 24 * 3600  # a pull that was cut off may go on for as long


class ImageMending(ImageRemoval):
    """The part of the store that makes them agree."""

    def reconcile(self) -> list[str]:
        """Makes disk and database agree after a crash; returns what was mended, in words."""
        unfinished = self.layers.empty_tmp()
        mended = [f"{unfinished} unfinished files in {self.layout.tmp} are removed"] if unfinished else []
        self.layout.drop_old_transfers(_UNUSED_LAYER_S)
        lost = set(self.layers.mend({layer.chain: layer.diff for layer in self._layers.values()}))
        for image in list(self._images.values()):
            if reason := self._lack(image, lost):
                self._drop([image], self.names_of(image.id) + self.digests_of(image.id), [])
                mended.append(f"image {short(image.id)} is dropped: {reason}; pull, load or import it again")
        dangling = [name for name, identity in self._tags.items() if identity not in self._images]
        dangling += [f"{name}@{digest}" for (name, digest), identity in self._digests.items() if identity not in self._images]
        if dangling:
            self._untag(dangling)
            mended.append(f"tags of images that are not there: {', '.join(dangling)}")
        stale = [layer for layer in self._layers.values() if layer.chain in lost or self._is_stale(layer)]
        kept = self.kept() - lost if stale else set()
        self._drop([], [], [layer for layer in stale if layer.chain not in kept])
        return mended + self._clear(self.layout.layers) + self._clear(self.layout.recipes) + self._fill_stubs()

    def _fill_stubs(self) -> list[str]:
        try:
            filled = self.layers.fill_stubs()
        except OSError as error:
            return [f"this kernel does not show files that share their content, and they cannot be copied: {error}; some images may not run"]
        return [f"{filled} layers have their files whole again: this kernel does not show those that share their content"] if filled else []

    def _lack(self, image: Image, lost: set[str]) -> str:
        """What an image needs and does not have, or ''."""
        if f"sha256:{hashlib.sha256(image.raw).hexdigest()}" != image.id:
            return "its configuration is damaged"
        if not image.config:
            return "its configuration is wrong"
        chain = image.chain
        while chain:
            layer = self._layers.get(chain)
            if layer is None or chain in lost:
                return f"layer {short(chain)} is gone"
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
