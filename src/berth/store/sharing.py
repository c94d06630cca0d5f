"""What layers have in common: whole files as hard links (pool.py), contents alone where the kernel can (contents.py)."""

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from berth.linux import overlay
from berth.store import contents
from berth.store.contents import Contents
from berth.store.pool import Pool

if TYPE_CHECKING:
    from berth.store.layout import Layout
    from berth.store.recipe import RecipeWriter
    from berth.store.tar import Entry


class Shared:
    """A file that may be the same as one that arrives, open at `fd`. Owned by the caller; a context manager."""

    __slots__ = ("_key", "_place", "_status", "fd")

    def __init__(self, place: Pool | Contents, key: str, fd: int) -> None:
        self._place = place
        self._key = key
        self._status = os.fstat(fd)
        self.fd = fd

    def __enter__(self) -> "Shared":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def link(self, entry: "Entry", name: str, parent_fd: int) -> bool:
        """Makes `name` one more link of it, if all but the content is equal, too."""
        has = self._status
        same = (stat.S_IMODE(has.st_mode), has.st_uid, has.st_gid, has.st_mtime_ns) == (entry.mode, entry.uid, entry.gid, entry.mtime_ns)
        if not same and isinstance(self._place, Contents):
            return False
        return self._place.link(self._key, self.fd, name, parent_fd)

    def writer(self, recipe: "RecipeWriter | None") -> Callable[[int], None] | None:
        """What gives a new file at a descriptor the same content without writing it; None where nothing can. recipe: of the file's layer."""
        place = self._place
        if not isinstance(place, Contents):
            return None
        if place.can_clone:
            return lambda fd: contents.clone_or_copy(self.fd, fd)
        if recipe and place.can_stub and place.link(self._key, self.fd, self._key, recipe.data_fd()):
            return lambda fd: overlay.make_stub(fd, self._status.st_size, f"/{self._key}")
        return None


class Sharing:
    """Of the layers of one data root. Any thread may use it."""

    def __init__(self, layout: "Layout") -> None:
        self.pool = Pool(layout.pool)
        self.contents = Contents(layout.contents, layout.tmp)

    def close(self) -> None:
        self.pool.close()
        self.contents.close()

    def _by_content(self, size_bytes: int) -> bool:
        return size_bytes >= contents.LEAST_BYTES and (self.contents.can_stub or self.contents.can_clone)

    def find(self, path: str, entry: "Entry") -> Shared | None:
        """What a file of a layer, which is still to come, may turn out to be the same as."""
        place: Pool | Contents
        if self._by_content(entry.size_bytes):
            place, key = self.contents, Contents.key(path, entry.size_bytes)
        else:
            place, key = self.pool, Pool.key(path, entry.size_bytes, entry.mode, entry.uid, entry.gid, entry.mtime_ns)
        fd = place.open(key)
        return Shared(place, key, fd) if fd >= 0 else None

    def offer(self, path: str, fd: int, name: str, parent_fd: int) -> None:
        """A finished file of a layer, open at `fd`, for the layers to come; where one is offered already, that stays."""
        place = self.contents if self._by_content(os.fstat(fd).st_size) else self.pool
        place.put(path, fd, name, parent_fd)

    def drop(self, path: str, status: os.stat_result) -> None:
        """The file `path` of a layer, with this status, leaves: if nothing but what is offered would hold it, it is offered no more."""
        if status.st_nlink != 2 or not stat.S_ISREG(status.st_mode):
            return
        if status.st_size < contents.LEAST_BYTES or not self.contents.drop(Contents.key(path, status.st_size), status):
            self.pool.drop(path, status)

    def unlink(self, path: str, name: str, parent_fd: int) -> None:
        """Removes the file `name` of a directory, `path` in its layer, and lets go of it as `drop` does: two who remove the last two names
        of a file do so one after the other."""
        with self.contents.lock:
            self.drop(path, os.stat(name, dir_fd=parent_fd, follow_symlinks=False))
            os.unlink(name, dir_fd=parent_fd)

    def release_data(self, data: str) -> None:
        """A layer no longer needs the contents in its directory `data`, which is left empty; nothing happens where there is none."""
        try:
            fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            for name in os.listdir(fd):
                with self.contents.lock:
                    self.contents.drop(name, os.stat(name, dir_fd=fd, follow_symlinks=False))
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def tidy(self) -> None:
        """After removals: nothing empty is left."""
        self.pool.tidy()
