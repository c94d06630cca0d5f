"""Files of a container or image, read without trusting it: every path is resolved beneath a root."""

import os
import stat

from berth.linux import libc

_MAX_FILE_BYTES = 4 << 20
_RESOLVE = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS


def read_merged(directories: list[str], path: str) -> str:
    """A text file as overlayfs would show it in layers, topmost first; '' where there is none.

    A link is followed inside its own layer. Enough for /etc/passwd and /etc/group, and it needs no mount.
    """
    for directory in directories:
        try:
            root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found = _read(root, path)
        finally:
            os.close(root)
        if found is not None:
            return found
    return ""


def read_beneath(root_fd: int, path: str) -> str:
    """A text file below a root; '' where there is none or it is not a plain file."""
    return _read(root_fd, path) or ""


def _read(root_fd: int, path: str) -> str | None:
    try:
        # O_NONBLOCK: a pipe that the image put here must not stop the engine.
        fd = libc.openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, _RESOLVE)
    except OSError:
        return _whiteout_or_none(root_fd, path)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
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
