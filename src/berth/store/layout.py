"""Where the store keeps what, and how a file or directory becomes visible: whole or not at all.

    DATA_ROOT/
      content/sha256/<hex>    blobs as they came, immutable, named by their digest
      layers/<chain hex>/     unpacked layers, lower directories of overlayfs
      recipes/, pool/         what belongs to layers: see `layerstore`
      partial/                blobs that are being fetched, or were when the connection broke: see `partial`
      tmp/                    what is still being written; emptied at start-up
      unwritten/              markers of layers that the disk may not have yet, see layers.py
      aside/                  what no record names although records have been lost: for a person to look at
"""

import hashlib
import os
import tempfile
from typing import IO

from berth.store.trees import remove_tree

_COPY_BYTES = 1 << 20


class Layout:
    """The directories below one data root; made if missing."""

    def __init__(self, data_root: str) -> None:
        self._root = data_root
        self.content = f"{data_root}/content/sha256"
        self.layers = f"{data_root}/layers"
        self.recipes = f"{data_root}/recipes"
        self.pool = f"{data_root}/pool"
        self.partial = f"{data_root}/partial"
        self.tmp = f"{data_root}/tmp"
        self.unwritten = f"{data_root}/unwritten"
        for path in (self.content, self.layers, self.recipes, self.pool, self.partial, self.tmp, self.unwritten):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def blob(self, digest: str) -> str:
        """Path of a blob."""
        return f"{self.content}/{digest.removeprefix('sha256:')}"

    def layer(self, chain: str) -> str:
        """Path of an unpacked layer."""
        return f"{self.layers}/{chain.removeprefix('sha256:')}"

    def recipe(self, chain: str) -> str:
        """Directory of what makes a layer's archive from its files."""
        return f"{self.recipes}/{chain.removeprefix('sha256:')}"

    def unwritten_marker(self, chain: str) -> str:
        """Path of what says that a layer may not be on the disk yet."""
        return f"{self.unwritten}/{chain.removeprefix('sha256:')}"

    def empty_tmp(self) -> int:
        """Removes what an earlier engine left half-written -> how many; nothing else uses the directory by then."""
        fd = os.open(self.tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = os.listdir(fd)
            for name in names:
                remove_tree(fd, name)
            return len(names)
        finally:
            os.close(fd)

    def put_aside(self, path: str) -> str:
        """Moves a file or directory to `aside`, below the name of the directory it was in -> where it is now."""
        parent = f"{self._root}/aside/{os.path.basename(os.path.dirname(path))}"
        os.makedirs(parent, mode=0o700, exist_ok=True)
        target = f"{parent}/{os.path.basename(path)}"
        number = 0
        while os.path.lexists(target):
            number += 1
            target = f"{parent}/{os.path.basename(path)}.{number}"
        os.rename(path, target)
        return target

    def new_file(self) -> IO[bytes]:
        """A file to write in, with a name; for `keep_blob` or `unlink`."""
        return tempfile.NamedTemporaryFile(dir=self.tmp, delete=False)

    def new_directory(self) -> str:
        """A directory to write in; for `os.rename` or `remove_tree`."""
        return tempfile.mkdtemp(dir=self.tmp)

    def keep_blob(self, temporary: str, digest: str) -> None:
        """Makes a written and synced file visible as the blob `digest`, which the caller has verified."""
        os.chmod(temporary, 0o600)
        os.rename(temporary, self.blob(digest))

    def spool(self, source: IO[bytes]) -> tuple[str, str, int]:
        """Copies a stream to a temporary file -> its path, digest and size in bytes; synced."""
        hasher = hashlib.sha256()
        size = 0
        file = self.new_file()
        try:
            with file:
                while data := source.read(_COPY_BYTES):
                    hasher.update(data)
                    size += len(data)
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
        return file.name, f"sha256:{hasher.hexdigest()}", size
