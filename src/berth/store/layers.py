"""Unpacked layers, each with what it takes to write its archive again. Knows no images.

    DATA_ROOT/
      layers/<chain hex>/     the files, a lower directory of overlayfs
      recipes/<chain hex>/    how to make the tar of them (`recipe`)
      pool/, contents/        one more link of each file, or content, that layers may share (`sharing`)
      unwritten/<chain hex>   the boot in which the layer was unpacked, until it is known to be on the disk

A layer is unpacked under a temporary name while it arrives, whoever it turns out to be, and gets its name by a rename
once its digest is known to be right.

Nobody waits for the disk: whoever brought layers calls `sync` once it has answered. After a loss of power in between,
`mend` reads those layers through and removes what did not get there.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress

from berth.errors import DataLoss
from berth.linux import libc
from berth.store import stubs
from berth.store.compression import Readable
from berth.store.erasing import Eraser
from berth.store.layout import Layout
from berth.store.recipe import ChunkReader, RecipeWriter, read_tar, tar_size_bytes
from berth.store.sharing import Sharing
from berth.store.unpacking import Limits, Unpacker

_MOST_AT_ONCE = 20_000  # files are removed in a second or less; who brings more does not wait for that
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Loose:
    """A layer that has been unpacked and has no name yet. diff: digest of its tar."""

    __slots__ = ("diff", "directory", "recipe", "size_bytes", "tar_bytes")

    def __init__(self, directory: str, recipe: str, diff: str, *, size_bytes: int, tar_bytes: int) -> None:
        self.directory = directory
        self.recipe = recipe
        self.diff = diff
        self.size_bytes = size_bytes
        self.tar_bytes = tar_bytes


class LayerStore:
    """The layers of one data root. Any thread may unpack; naming and removing are the caller's to order."""

    def __init__(self, layout: Layout, limits: Limits | None = None) -> None:
        self._layout = layout
        self._limits = limits or Limits()
        self._sharing = Sharing(layout)
        self._eraser = Eraser(self._sharing)

    def close(self) -> None:
        self._eraser.stop()
        self._sharing.close()

    def unpack(self, stream: Readable, hasher: "hashlib._Hash | None" = None) -> Loose:
        """Reads a tar, which is decompressed already, to its end. InvalidParameter, DataLoss or OSError leave nothing, soon.

        hasher: a new one of SHA-256, for a caller that wants the digest of what was read even then.
        """
        directory = self._layout.new_directory()
        recipe = RecipeWriter(f"{directory}.recipe")
        unpacker: Unpacker | None = None
        try:
            hashing = hasher or hashlib.sha256()

            def observe(data: bytes) -> None:
                hashing.update(data)
                recipe.update(data)

            os.chmod(directory, 0o755)
            root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                unpacker = Unpacker(
                    root_fd, whiteouts=True, limits=self._limits, recipe=recipe, sharing=self._sharing,
                    make_room=self._eraser.wait, open_end=True,  # as umoci insert writes them; who knows a digest compares it
                )  # fmt: skip
                unpacker.unpack(stream, observe)
                recipe.finish()
            finally:
                os.close(root_fd)
            return Loose(
                directory, f"{directory}.recipe", f"sha256:{hashing.hexdigest()}", size_bytes=unpacker.size_bytes,
                tar_bytes=recipe.size_bytes,
            )  # fmt: skip
        except BaseException:
            recipe.close()
            many = unpacker is not None and unpacker.entries > _MOST_AT_ONCE
            (self._eraser.soon if many else self._eraser.now)(directory)
            raise

    def name(self, loose: Loose, chain: str) -> None:
        """Makes a loose layer the one of `chain`; what an engine that was killed had put there goes."""
        self.remove(chain)
        self._write_marker(chain)
        os.rename(loose.recipe, self._layout.recipe(chain))
        os.rename(loose.directory, self._layout.layer(chain))

    def drop(self, loose: Loose) -> None:
        """Removes a loose layer; one that has been named meanwhile stays."""
        self._eraser.now(loose.directory)

    def remove(self, chain: str) -> None:
        """The layer loses its name, which takes no time, and soon its files and what only it had of what layers share.

        Nothing happens where there is none. A kill leaves a temporary directory, which the next start removes.
        """
        with suppress(FileNotFoundError):
            os.unlink(self._layout.unwritten_marker(chain))
        layer, recipe = self._layout.layer(chain), self._layout.recipe(chain)
        if not os.path.lexists(layer) and not os.path.lexists(recipe):
            return
        doomed = self._layout.new_directory()
        for there, then in ((layer, doomed), (recipe, f"{doomed}.recipe")):
            with suppress(FileNotFoundError):
                os.rename(there, then)
        self._eraser.soon(doomed)

    def wait_until_removed(self) -> None:
        """Until the files of removed layers are gone."""
        self._eraser.wait()

    # -- on the disk ----------------------------------------------------------------------------------

    def _write_marker(self, chain: str) -> None:
        with open(self._layout.unwritten_marker(chain), "w") as file:
            file.write(_boot_id())

    def sync(self) -> None:
        """Waits until every layer named before is on the disk."""
        waiting = os.listdir(self._layout.unwritten)
        if not waiting:
            return
        fd = os.open(self._layout.layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.syncfs(fd)
        finally:
            os.close(fd)
        for name in waiting:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._layout.unwritten}/{name}")

    def mend(self, diffs: dict[str, str]) -> list[str]:
        """At a start: the layers, of chain id -> diff id, that a loss of power has taken; they are removed."""
        lost = [chain for chain, diff in diffs.items() if not os.path.isdir(self._layout.layer(chain)) or not self._survived(chain, diff)]
        for chain in lost:
            self.remove(chain)
        return lost

    def _survived(self, chain: str, diff: str) -> bool:
        try:
            with open(self._layout.unwritten_marker(chain)) as file:
                if file.read(64) == _boot_id():
                    return True
        except FileNotFoundError:
            return True
        try:
            stream = self.tar(chain, diff)
            while stream.read(1 << 20):
                pass
            return self._sharing.contents.mend(self._layout.stub_data(chain))
        except (DataLoss, OSError):
            return False

    def empty_tmp(self) -> int:
        """At a start: what an earlier engine left half-made, or half-removed, is removed soon -> how many there are."""
        names = os.listdir(self._layout.tmp)
        for name in {name.removesuffix(".recipe") for name in names}:
            self._eraser.soon(f"{self._layout.tmp}/{name}")
        return len(names)

    # -- taking out -----------------------------------------------------------------------------------

    def has_recipe(self, chain: str) -> bool:
        """Whether `tar` can make the layer's archive."""
        return os.path.exists(f"{self._layout.recipe(chain)}/recipe")

    def tar_size_bytes(self, chain: str) -> int:
        """Of the archive that `tar` makes."""
        return tar_size_bytes(self._layout.recipe(chain))

    def recipe_bytes(self, chain: str) -> int:
        """Of the files that `tar` needs beside the layer's own."""
        top = self._layout.recipe(chain)
        return sum(os.stat(f"{at}/{name}", follow_symlinks=False).st_size for at, _, names in os.walk(top) for name in names)

    def tar(self, chain: str, diff: str) -> ChunkReader:
        """The layer's archive as it came, uncompressed. DataLoss when it is read to its end and is not `diff`. Close it."""

        def chunks() -> Iterator[bytes]:
            try:
                root_fd = os.open(self._layout.layer(chain), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise DataLoss(f"layer {chain} has lost its files; pull or load the image again") from None
            try:
                yield from read_tar(self._layout.recipe(chain), root_fd, diff)
            finally:
                os.close(root_fd)

        return ChunkReader(chunks())

    # -- what it costs --------------------------------------------------------------------------------

    def file_bytes(self) -> int:
        """Of the files in all layers, one that several share once."""
        return stubs.file_bytes(self._layout.layers, self._layout.recipes)

    # -- as overlayfs takes them ----------------------------------------------------------------------

    def has_stubs(self, chain: str) -> bool:
        """Whether a container that has the layer needs overlay.WITH_STUBS; also where they have been filled since: it may have made some itself."""
        return os.path.isdir(self._layout.stub_data(chain))

    def data_layer(self) -> str:
        """The data-only layer below layers with stubs; '' where the kernel has no such."""
        return self._sharing.contents.directory if self._sharing.contents.can_stub else ""

    def fill_stubs(self) -> int:
        """At a start: where the kernel shows no stubs (any more), layers get all their contents -> how many layers."""
        waiting = [name for name in os.listdir(self._layout.recipes) if stubs.are_in(self._layout.stub_data(name))]
        if not waiting or self._sharing.contents.can_stub:
            return 0
        for name in waiting:
            stubs.fill([self._layout.layer(name), f"{self._layout.recipe(name)}/left"], self._layout.stub_data(name))
            self._sharing.release_data(self._layout.stub_data(name))
        return len(waiting)


def _boot_id() -> str:
    with open(_BOOT_ID) as file:
        return file.read().strip()
