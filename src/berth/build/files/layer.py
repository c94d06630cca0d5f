"""A layer's archive in the making, over a root that is only looked at.

It gets an entry for every directory on the way to what it brings: one that is there keeps its mode, owner and time, which whoever unpacks the
layer would not know otherwise; one that is not is made, 0755.
"""

import os
import stat
import tarfile
import time

from berth.build.files.places import Place, Resolver, look
from berth.errors import InvalidParameter
from berth.store.tarwriter import TarWriter, kept_xattrs, open_below

Owner = tuple[int, int]
_MOST_NOTED_BYTES, _NOTE_BYTES = 512 << 20, 200  # in memory: of all paths, and of what each of them takes beside its letters


class Layer:
    """A layer that is being written over the root open at `root_fd`. owner: of what it has to make on the way."""

    def __init__(self, writer: TarWriter, root_fd: int, *, owner: Owner = (0, 0), source_date_epoch: int | None = None) -> None:
        self.writer = writer
        self.root_fd = root_fd
        self.owner = owner
        self._epoch = source_date_epoch
        self._now = int(time.time()) if source_date_epoch is None else source_date_epoch
        self._written: dict[str, str] = {}  # path -> target of a link, '' of anything else
        self._directories: set[str] = set()  # of those written
        self._missing: set[str] = set()  # directories that the root does not have
        self._noted_bytes = 0

    def time_s(self, mtime_ns: int | None = None) -> int:
        """Of a file that has one, or of one that is made: never later than SOURCE_DATE_EPOCH."""
        seconds = self._now if mtime_ns is None else mtime_ns // 1_000_000_000
        return seconds if self._epoch is None else min(seconds, self._epoch)

    def resolve(self, path: str) -> Place:
        """Where a path leads in the root with this layer over it; the status is the root's."""
        return Resolver(self.root_fd, self._written).resolve(path)

    def status(self, path: str) -> os.stat_result | None:
        """What the root has at a path without links."""
        above = path.rpartition("/")[0]
        if above in self._missing:
            return None
        return look(self.root_fd, path)

    def is_directory(self, path: str) -> bool:
        """In the layer, or in the root where the layer has nothing there."""
        if not path or path in self._directories:
            return True
        if path in self._written:
            return False
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def was_written(self, path: str) -> bool:
        return path in self._written

    def link(self, path: str) -> str:
        """The target of a link that has been written; '' of anything else."""
        return self._written.get(path, "")

    def note(self, path: str, *, link: str = "", is_directory: bool = False, is_new: bool = False) -> None:
        """Remembers an entry that has been written. is_new: the root has nothing there."""
        self._noted_bytes += len(path) + _NOTE_BYTES
        if self._noted_bytes > _MOST_NOTED_BYTES:
            raise InvalidParameter(f"the names of {len(self._written)} files take more than {_MOST_NOTED_BYTES >> 20} MiB of memory: refused")
        if is_new:
            self._missing.add(path)
        self._written[path] = link
        if is_directory:
            self._directories.add(path)
        else:
            self._directories.discard(path)

    def directory(self, path: str) -> None:
        """Sees to it that a directory is in the layer with all on the way, whether the root has it or not."""
        wanted = []
        while path and path not in self._directories:
            wanted.append(path)
            path = path.rpartition("/")[0]
        for each in reversed(wanted):
            self._directory(each)

    def _directory(self, path: str) -> None:
        if path in self._written:
            raise InvalidParameter(f"cannot copy to non-directory: /{path}")
        status = self.status(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise InvalidParameter(f"cannot copy to non-directory: /{path}")
        info = tarfile.TarInfo(f"{path}/")
        info.type = tarfile.DIRTYPE
        xattrs: dict[str, bytes] = {}
        if status is None:
            info.mode, (info.uid, info.gid), info.mtime = 0o755, self.owner, self.time_s()
        else:
            info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
            info.mtime = self.time_s(status.st_mtime_ns)  # where no layer lists it, it is as old as the engine's copy
            xattrs = self._xattrs(path)
        self.writer.put(info, xattrs)
        self.note(path, is_directory=True, is_new=status is None)

    def _xattrs(self, path: str) -> dict[str, bytes]:
        fd = open_below(self.root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return kept_xattrs(fd)
        finally:
            os.close(fd)
