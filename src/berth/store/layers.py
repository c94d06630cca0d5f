"""A layer's directory: unpacked from its blob, and unpacked anew where a loss of power may have cost it bytes.

A blob is synced before it has a name, the thousands of files of a layer are not: a sync takes seconds on a busy
disk, and the kernel writes them within half a minute anyway. Until then a marker says that the disk may not have them:

    DATA_ROOT/unwritten/<chain hex>.<boot id>

An engine that finds one of an earlier boot unpacks the layer again.
"""

import contextlib
import hashlib
import os
import threading

from berth.errors import DataLoss
from berth.store.compression import open_stream
from berth.store.layout import Layout
from berth.store.trees import remove_tree
from berth.store.unpacking import Unpacker

_WRITTEN_AFTER_S = 120.0  # the kernel's default is to write after 30 s


def unpack(layout: Layout, chain: str, diff: str, blob: str) -> int:
    """Unpacks to a temporary directory, compares the digest, and only then gives it its name -> bytes of its files."""
    directory = layout.new_directory()
    try:
        hasher = hashlib.sha256()
        os.chmod(directory, 0o755)
        root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unpacker = Unpacker(root_fd, whiteouts=True)
            with open(blob, "rb") as file:
                unpacker.unpack(open_stream(file), hasher.update)
        finally:
            os.close(root_fd)
        if f"sha256:{hasher.hexdigest()}" != diff:
            raise DataLoss(f"a layer's digest is sha256:{hasher.hexdigest()}, the image's configuration says {diff}")
        target = layout.layer(chain)
        remove_path(target)  # of an engine that was killed before it could write the record
        os.rename(directory, target)
    except BaseException:
        remove_path(directory)
        raise
    return unpacker.size_bytes


def remove_path(path: str) -> None:
    """Removes a file or directory, without following a link in it."""
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(parent, os.path.basename(path))
    finally:
        os.close(parent)


class Unwritten:
    """The markers below one data root."""

    def __init__(self, layout: Layout) -> None:
        self._directory = layout.unwritten
        with open("/proc/sys/kernel/random/boot_id") as file:
            self._boot = file.read().strip()

    def add(self, chain: str) -> None:
        """Before a layer's record is written; forgotten once the kernel must have written its files."""
        path = self._path(chain)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._forget_later([path])

    def discard(self, chain: str) -> None:
        """For a layer that is removed."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(chain))

    def of_earlier_boots(self) -> list[str]:
        """Chains whose directories may lack bytes; `forget` each that is mended. Those of this boot go in their time."""
        found = [name.split(".") for name in sorted(os.listdir(self._directory))]
        self._forget_later([f"{self._directory}/{chain}.{boot}" for chain, boot in found if boot == self._boot])
        return [f"sha256:{chain}" for chain, boot in found if boot != self._boot]

    def forget(self, chain: str) -> None:
        """Removes the markers that earlier boots left for a layer."""
        for name in os.listdir(self._directory):
            if name.startswith(f"{chain.removeprefix('sha256:')}.") and not name.endswith(self._boot):
                os.unlink(f"{self._directory}/{name}")

    def _path(self, chain: str) -> str:
        return f"{self._directory}/{chain.removeprefix('sha256:')}.{self._boot}"

    def _forget_later(self, paths: list[str]) -> None:
        def forget() -> None:
            for path in paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)

        if paths:
            timer = threading.Timer(_WRITTEN_AFTER_S, forget)
            timer.daemon = True
            timer.start()
