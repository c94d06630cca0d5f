"""Contents that several layers have, stored once although owner, mode or time of the files differ.

    contents/<name>               one more link of the first file of a path and size, named by these two
    recipes/<chain>/data/<name>   one more link of a content that the layer's stubs need

A later file of the same path, size and content, which is compared as it arrives, becomes a clone where the file system has reflinks (xfs,
btrfs). Elsewhere it becomes a stub: a file without content that sends overlayfs to `contents`, which is a data-only layer of every
container whose image has stubs (linux/overlay.py). A container sees no difference, and the page cache holds one copy.

As in the pool, link counts say what is used: a file of `contents` with one link is of no use to anybody. A layer holds the contents of its
stubs by links of its own, so the layer that brought one may go before it.

Names begin as whiteouts do, because overlayfs looks for a stub's content in the layers below before it comes to the data-only one: there no
archive can put such a name (unpacking.py).
"""

import base64
import errno
import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress

from berth.linux import overlay
from berth.store.trees import remove_tree

PREFIX = ".wh..wh."
LEAST_BYTES = 4096 + 1  # a file of one block would save no more than the room that its stub takes
_NAME_CHARACTERS = 15  # with the prefix and a slash 24: what an inode of 256 bytes has room for beside the attribute's name
_COPY_BYTES = 1 << 20
_FICLONE = 0x40049409
_TRIED = b"content"
_CANNOT = frozenset((
    errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EIO, errno.EUCLEAN,
    errno.ENODATA,
))  # fmt: skip


def is_reserved(name: str) -> bool:
    """Whether no layer may have a file or directory of this name."""
    return name.startswith(PREFIX) and len(name) == len(PREFIX) + _NAME_CHARACTERS


class Contents:
    """The links below one directory, on the file system of the layers. Any thread may use it."""

    def __init__(self, directory: str, scratch: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.directory = directory
        self._scratch = scratch
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.lock = threading.RLock()  # what is found unused goes before anybody can begin to use it
        self._can: tuple[bool, bool] | None = None

    def close(self) -> None:
        os.close(self._fd)

    @property
    def can_clone(self) -> bool:
        """Whether two files of this file system can have the same blocks."""
        return self._tried()[0]

    @property
    def can_stub(self) -> bool:
        """Whether this kernel shows stubs: not before Linux 6.8, nor in a user namespace."""
        return self._tried()[1]

    def _tried(self) -> tuple[bool, bool]:
        if self._can is None:
            self._can = _try(self._scratch)
        return self._can

    @staticmethod
    def key(path: str, size_bytes: int) -> str:
        """What the content of a file is called, if it is the first of this path and size."""
        digest = hashlib.blake2b(f"{size_bytes} ".encode() + os.fsencode(path), digest_size=12).digest()
        return PREFIX + base64.urlsafe_b64encode(digest).decode()[:_NAME_CHARACTERS]

    def open(self, key: str) -> int:
        """A descriptor of a content, the caller's to close; -1 where there is none."""
        try:
            return os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return -1

    def put(self, path: str, fd: int, name: str, parent_fd: int) -> None:
        """Offers the content of a finished file, open at `fd`, to the layers to come, unless another one is offered already."""
        with suppress(FileExistsError):
            os.link(name, self.key(path, os.fstat(fd).st_size), src_dir_fd=parent_fd, dst_dir_fd=self._fd, follow_symlinks=False)

    def link(self, key: str, fd: int, name: str, parent_fd: int) -> bool:
        """Makes `name` one more link of a content, which is open at `fd`. False if it has too many, or is gone."""
        made = True
        with self.lock:
            try:
                os.link(key, name, src_dir_fd=self._fd, dst_dir_fd=parent_fd, follow_symlinks=False)
            except FileExistsError:
                made = False  # a layer has another stub of this content already
            except OSError:  # EMLINK: ext4 has 65,000; ENOENT: its last layer has just been removed
                return False
            same = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_ino == os.fstat(fd).st_ino
            if made and not same:
                os.unlink(name, dir_fd=parent_fd)  # another one took its place meanwhile
        return same

    def drop(self, key: str, status: os.stat_result) -> bool:
        """A link of what may be a content, with this status, leaves: if only `contents` would be left to hold it, it lets go. Whether it did."""
        if status.st_nlink == 2:
            with self.lock, suppress(FileNotFoundError):
                there = os.stat(key, dir_fd=self._fd, follow_symlinks=False)
                if there.st_ino == status.st_ino and there.st_nlink == 2:
                    os.unlink(key, dir_fd=self._fd)
                    return True
        return False

    def mend(self, data: str) -> bool:
        """After a loss of power: offers what a layer has in `data` again where it is offered no more. False where another content is."""
        try:
            fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            for name in os.listdir(fd):
                with suppress(FileExistsError):
                    os.link(name, name, src_dir_fd=fd, dst_dir_fd=self._fd, follow_symlinks=False)
                if os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino != os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_ino:
                    return False
            return True
        finally:
            os.close(fd)


def clone(source_fd: int, target_fd: int) -> None:
    """Gives an empty file the blocks of another. OSError where the file system cannot."""
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


def clone_or_copy(source_fd: int, target_fd: int) -> None:
    """The same; a copy where this one file cannot be cloned, as an xfs with a full group or a btrfs without copy-on-write for it says."""
    try:
        clone(source_fd, target_fd)
    except OSError:
        copy(source_fd, target_fd)


def copy(source_fd: int, target_fd: int) -> None:
    """The whole content of one file into another, which is empty or has the same size. OSError where there is no room."""
    offset = 0
    while data := os.pread(source_fd, _COPY_BYTES, offset):
        offset += os.pwrite(target_fd, data, offset)


def open_content(fd: int, data_fd: int) -> int:
    """What the open file of a layer contains -> a descriptor in its place, which is closed if it is a stub. data_fd: the layer's `data`."""
    redirect = overlay.redirect_of(fd)
    if redirect is None:
        return fd
    os.close(fd)
    if not redirect.startswith("/") or not is_reserved(redirect[1:]) or "/" in redirect[1:]:
        raise OSError(errno.EUCLEAN, f"a stub of the layer leads to {redirect!r}")
    return os.open(redirect[1:], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=data_fd)


def _try(scratch: str) -> tuple[bool, bool]:
    """(whether a clone, whether a stub can be made here and read): by making one of each."""
    top = tempfile.mkdtemp(dir=scratch)
    try:
        for name in ("layer", "below", "data"):
            os.mkdir(f"{top}/{name}")
        with open(f"{top}/data/content", "w+b") as content, open(f"{top}/layer/file", "w+b") as file:
            content.write(_TRIED)
            content.flush()
            return _can(clone, content.fileno(), file.fileno()), _can(_read_stub, top)
    finally:
        parent = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, os.path.basename(top))
        finally:
            os.close(parent)


def _can(function: Callable[..., None], *arguments: object) -> bool:
    try:
        function(*arguments)
        return True
    except OSError as error:
        if error.errno not in _CANNOT:
            raise  # a full disk says nothing of what the kernel can do
        return False


def _read_stub(top: str) -> None:
    """Through a mount that nobody else sees."""
    with open(f"{top}/layer/stub", "wb") as stub:
        overlay.make_stub(stub.fileno(), len(_TRIED), "/content")
    tree = overlay.filesystem([f"{top}/layer", f"{top}/below"], "", "", overlay.WITH_STUBS, f"{top}/data")
    try:
        fd = os.open("stub", os.O_RDONLY | os.O_CLOEXEC, dir_fd=tree)
        try:
            if os.read(fd, 2 * len(_TRIED)) != _TRIED:
                raise OSError(errno.EUCLEAN, "a stub without its content")
        finally:
            os.close(fd)
    finally:
        os.close(tree)
