"""Where the store keeps what, and how a file or directory becomes visible: whole or not at all.

    DATA_ROOT/
      layers/<chain hex>/     unpacked layers, lower directories of overlayfs
      recipes/, pool/, contents/   what belongs to layers: see `layers`
      partial/                blobs that are being fetched, or were when the connection broke: see `partial`
      uploads/                how far pushes have got that were cut off: see `unsent`
      tmp/                    what is still being written, or being removed; emptied at start-up
      unwritten/              markers of layers that the disk may not have yet, see `layers`
      aside/                  what no record names although records have been lost: for a person to look at
"""

import fcntl
import os
import tempfile
import time
from contextlib import suppress
from typing import IO

from berth.oci.digest import hexadecimal


class Layout:
    """The directories below one data root; made if missing."""

    def __init__(self, data_root: str) -> None:
        self._root = data_root
        self.layers = f"{data_root}/layers"
        self.recipes = f"{data_root}/recipes"
        self.pool = f"{data_root}/pool"
        self.contents = f"{data_root}/contents"
        self.partial = f"{data_root}/partial"
        self.uploads = f"{data_root}/uploads"
        self.tmp = f"{data_root}/tmp"
        self.unwritten = f"{data_root}/unwritten"
        for path in (self.layers, self.recipes, self.pool, self.contents, self.partial, self.uploads, self.tmp, self.unwritten):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def layer(self, chain: str) -> str:
        """Path of an unpacked layer."""
        return f"{self.layers}/{chain.removeprefix('sha256:')}"

    def recipe(self, chain: str) -> str:
        """Directory of what makes a layer's archive from its files."""
        return f"{self.recipes}/{chain.removeprefix('sha256:')}"

    def stub_data(self, chain: str) -> str:
        """Directory of the contents of a layer's stubs; there is none where there are no stubs."""
        return f"{self.recipe(chain)}/data"

    def unwritten_marker(self, chain: str) -> str:
        """Path of what says that a layer may not be on the disk yet."""
        return f"{self.unwritten}/{chain.removeprefix('sha256:')}"

    def drop_old_transfers(self, age_s: float) -> None:
        """Removes what was being fetched or sent and nobody has gone on with for so long."""
        for path in [f"{directory}/{name}" for directory in (self.partial, self.uploads) for name in os.listdir(directory)]:
            if time.time() - os.stat(path, follow_symlinks=False).st_mtime > age_s:
                os.unlink(path)

    def drop_partial(self, digest: str) -> int:
        """Removes what has come of a blob, if nobody is fetching it -> bytes on the disk."""
        path = f"{self.partial}/{hexadecimal(digest)}"
        with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever fetches has it locked
            os.unlink(path)
            os.unlink(f"{path}.counts")
            return os.fstat(file.fileno()).st_blocks * 512
        return 0

    def drop_all_partial(self) -> int:
        """The same for every blob."""
        return sum(self.drop_partial(name) for name in os.listdir(self.partial) if not name.endswith(".counts"))

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
        """A file to write in, with a name; whoever asks unlinks it."""
        return tempfile.NamedTemporaryFile(dir=self.tmp, delete=False)

    def new_directory(self) -> str:
        """A directory to write in; whoever asks renames or removes it."""
        return tempfile.mkdtemp(dir=self.tmp)
