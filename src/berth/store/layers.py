"""Unpacked layers, each with what it takes to write its archive again. Knows no images.

    DATA_ROOT/
      layers/<chain hex>/     the files, a lower directory of overlayfs
      recipes/<chain hex>/    how to make the tar of them (`recipe`)
      pool/                   one more link of each file that layers may share (`pool`)
      unwritten/<chain hex>   the boot in which the layer was unpacked, until it is known to be on the disk

A layer is unpacked under a temporary name while it arrives, whoever it turns out to be, and gets its name by a rename
once its digest is known to be right.

Nobody waits for the disk: whoever brought layers calls `sync` once it has answered. After a loss of power in between,
`mend` reads those layers through and removes what did not get there.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress

from berth.errors import DataLoss
from berth.linux import libc
from berth.store.compression import Readable
from berth.store.layout import Layout
from berth.store.pool import Pool
from berth.store.recipe import ChunkReader, Left, RecipeWriter, read_tar, tar_size_bytes
from berth.store.trees import remove_tree
from berth.store.unpacking import Limits, Unpacker

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
        self._pool = Pool(layout.pool)
        self._hidden: list[str] = []
        self._removing = threading.Lock()  # two who let go of one file would each think that the other still has it

    def close(self) -> None:
        self._pool.close()

    def unpack(self, stream: Readable, hasher: "hashlib._Hash | None" = None) -> Loose:
        """Reads a tar, which is decompressed already, to its end. InvalidParameter, DataLoss or OSError leave nothing.

        hasher: a new one of SHA-256, for a caller that wants the digest of what was read even then.
        """
        directory = self._layout.new_directory()
        recipe = RecipeWriter(f"{directory}.recipe")
        try:
            hashing = hasher or hashlib.sha256()

            def observe(data: bytes) -> None:
                hashing.update(data)
                recipe.update(data)

            os.chmod(directory, 0o755)
            root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                unpacker = Unpacker(root_fd, whiteouts=True, limits=self._limits, recipe=recipe, pool=self._pool)
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
            self._remove(directory, f"{directory}.recipe")
            raise

    def name(self, loose: Loose, chain: str) -> None:
        """Makes a loose layer the one of `chain`; what an engine that was killed had put there goes."""
        self.remove(chain)
        self._write_marker(chain)
        os.rename(loose.recipe, self._layout.recipe(chain))
        os.rename(loose.directory, self._layout.layer(chain))

    def drop(self, loose: Loose) -> None:
        """Removes a loose layer; one that has been named meanwhile stays."""
        self._remove(loose.directory, loose.recipe)

    def remove(self, chain: str) -> None:
        """Removes a layer's files and what only it had in the pool; nothing happens where there is none."""
        self.hide(chain)
        self.erase()

    def hide(self, chain: str) -> None:
        """The first part of `remove`, which takes no time: the layer loses its name.

        A kill before `erase` leaves a temporary directory, which the next start removes.
        """
        with suppress(FileNotFoundError):
            os.unlink(self._layout.unwritten_marker(chain))
        doomed = self._layout.new_directory()
        for there, then in ((self._layout.layer(chain), doomed), (self._layout.recipe(chain), f"{doomed}.recipe")):
            with suppress(FileNotFoundError):
                os.rename(there, then)
        self._hidden.append(doomed)

    def erase(self) -> None:
        """Removes what `hide` has left, from whomever."""
        while self._hidden:
            with suppress(IndexError):
                doomed = self._hidden.pop()
                self._remove(doomed, f"{doomed}.recipe")
        with self._removing:
            pass  # what another one has taken is gone as well

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
        except (DataLoss, OSError):
            return False
        return True

    def _remove(self, directory: str, recipe: str) -> None:
        """Removes both with what only they had in the pool; either may be missing."""
        with self._removing:
            self._remove_now(directory, recipe)

    def _remove_now(self, directory: str, recipe: str) -> None:
        parent_path, _, name = directory.rpartition("/")
        parent = os.open(parent_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._release(directory, "")
            for number, path in enumerate(Left(recipe).paths):
                self._release(f"{recipe}/left/{number}", path)
            remove_tree(parent, name)
            remove_tree(parent, os.path.basename(recipe))
        finally:
            os.close(parent)

    def _release(self, directory: str, known_as: str) -> None:
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                self._pool.release(fd, known_as)
            else:
                self._pool.drop(known_as, status)
        finally:
            os.close(fd)

    def empty_tmp(self) -> int:
        """Removes what an earlier engine left half-made -> how many; nothing else uses the directory by then."""
        names = os.listdir(self._layout.tmp)
        for name in names:
            path = f"{self._layout.tmp}/{name}"
            self._remove(path, f"{path}.recipe")
        if names:
            self._pool.tidy()
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
        seen: set[int] = set()
        total = 0
        pending = [self._layout.layers]
        while pending:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    total += status.st_size
        return total


def _boot_id() -> str:
    with open(_BOOT_ID) as file:
        return file.read().strip()
