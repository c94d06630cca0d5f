"""An image's content copied into an empty volume, so that a half copy is never taken for a whole one.

    .new        being copied; thrown away by whoever finds it
    .ready      whole, and on the disk: its entries move into the volume one by one; whoever finds it goes on with that

Both are beside the files of the volume (`_data`), or in them where another file system is mounted there: renaming needs one
file system. The volume's own directory stays the one it is: a running container may have it mounted.
"""

import errno
import os
import stat

from berth import errors
from berth.linux import copying, libc
from berth.store.trees import remove_tree

NEW, READY = ".new", ".ready"
_INSIDE = ".berth-copy"  # what both begin with where they are in the volume
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """A volume's files, and where what is copied waits. Owns two descriptors; a context manager."""

    def __init__(self, mountpoint: str) -> None:
        self.data = os.open(mountpoint, _DIRECTORY)
        beside = os.open(os.path.dirname(mountpoint), _DIRECTORY)
        if os.fstat(beside).st_dev == os.fstat(self.data).st_dev and not _is_mount_point(mountpoint):
            self.staging, self._prefix = beside, ""
        else:
            os.close(beside)
            self.staging, self._prefix = os.dup(self.data), _INSIDE

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.data)
        os.close(self.staging)

    @property
    def new(self) -> str:
        return self._prefix + NEW

    @property
    def ready(self) -> str:
        return self._prefix + READY

    def is_empty(self) -> bool:
        return not [name for name in os.listdir(self.data) if not name.startswith(_INSIDE)]


def _is_mount_point(path: str) -> bool:
    """Also of a bind mount of the same file system, over whose border nothing can be renamed."""
    parent = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(libc.openat2(parent, os.path.basename(path), os.O_PATH, libc.RESOLVE_NO_XDEV))
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return True
    finally:
        os.close(parent)


def populate(mountpoint: str, source: int) -> None:
    """Copies what `source` is open on, a directory, into the volume if that is empty. Raises BerthError; then nothing of it is there."""
    with Place(mountpoint) as place:
        finish(place)
        if not place.is_empty():
            return
        try:
            os.mkdir(place.new, 0o700, dir_fd=place.staging)
            target = os.open(place.new, _DIRECTORY, dir_fd=place.staging)
            try:
                copying.Copy(target).directory(source, target, "", True)
                libc.syncfs(target)  # else a loss of power could leave names without what they name
            finally:
                os.close(target)
            os.rename(place.new, place.ready, src_dir_fd=place.staging, dst_dir_fd=place.staging)
        except OSError as error:
            remove_tree(place.staging, place.new)
            raise errors.SystemFailure(f"the image's files cannot be copied to {mountpoint}: {error}") from error
        finish(place)


def finish(place: Place) -> bool:
    """What an earlier copy left: thrown away, or brought to its end; whether there was something."""
    remove_tree(place.staging, place.new)
    try:
        ready = os.open(place.ready, _DIRECTORY, dir_fd=place.staging)
    except FileNotFoundError:
        return False
    try:
        top = os.fstat(ready)
        for name in os.listdir(ready):
            try:
                libc.renameat2(ready, name, place.data, name, libc.RENAME_NOREPLACE)
            except FileExistsError:
                pass  # a container has made it meanwhile: what is newer stays
        copying.copy_attributes(ready, place.data, top)
    finally:
        os.close(ready)
    remove_tree(place.staging, place.ready)
    return True


def mend(mountpoint: str) -> bool:
    """At start-up, of a volume that is no mount point; whether there was something."""
    directory = os.path.dirname(mountpoint)
    if not any(os.path.lexists(f"{directory}/{name}") for name in (NEW, READY)):
        return False
    with Place(mountpoint) as place:
        return finish(place)


# -- what an image has there ----------------------------------------------------------------------------


def may_have(layers: list[str], path: str) -> bool:
    """Whether an image of these layers may have something at `path`. Quick: only where this is so is it worth mounting the image."""
    for layer in layers:
        root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(libc.openat2(root, path.strip("/"), os.O_PATH | os.O_NOFOLLOW, libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS))
            return True
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                return True  # a link on the way: where it leads, only the whole image says
        finally:
            os.close(root)
    return False


def open_content(root: int, path: str) -> int:
    """What the image has at `path`, beneath its root; -1 for nothing. InvalidParameter for what is no directory."""
    try:
        found = libc.openat2(root, path, os.O_PATH, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise
    if not stat.S_ISDIR(os.fstat(found).st_mode):
        os.close(found)
        raise errors.InvalidParameter(f"cannot mount volume over existing file, file exists {path}")
    return found
