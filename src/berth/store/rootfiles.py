"""Files of a container or image, read without trusting it: every path is resolved beneath a root."""

import os
import stat

from berth.linux import libc, overlay
from berth.store.imagerecords import Lower

_MAX_FILE_BYTES = 4 << 20
_RESOLVE = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS


def read_merged(layers: Lower, path: str) -> str:
    """A text file as overlayfs would show it in layers; '' where there is none.

    A link is followed inside its own layer. Enough for /etc/passwd and /etc/group, and it needs no mount.
    """
    for directory in (*layers.directories, layers.data):
        try:
            root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found = _read(root, path)
        finally:
            os.close(root)
        if isinstance(found, str):
            return found
        if found:
            path = found.path
    return ""


class _Elsewhere:
    """Where a stub's content is, in a layer below."""

    __slots__ = ("path",)

    def __init__(self, path: str, redirect: str) -> None:
        self.path = redirect if redirect.startswith("/") else f"{path.rpartition('/')[0]}/{redirect}" if redirect else path


def read_beneath(root_fd: int, path: str) -> str:
    """A text file below a root; '' where there is none or it is not a plain file."""
    found = _read(root_fd, path)
    return found if isinstance(found, str) else ""


def _read(root_fd: int, path: str) -> str | _Elsewhere | None:
    try:
        # O_NONBLOCK: a pipe that the image put here must not stop the engine.
        fd = libc.openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, _RESOLVE)
    except OSError:
        return _whiteout_or_none(root_fd, path)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        if (redirect := overlay.redirect_of(fd)) is not None:
            return _Elsewhere(path, redirect)
        return file.read(_MAX_FILE_BYTES).decode(errors="replace")


def _whiteout_or_none(root_fd: int, path: str) -> str | None:
    """'' where this layer deletes the file (a 0/0 character device) or hides all below an opaque directory."""
    try:
        fd = libc.openat2(root_fd, path, os.O_PATH | os.O_NOFOLLOW, _RESOLVE)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        return "" if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0 else None
    finally:
        os.close(fd)
