"""One small file of a context: a Dockerfile, a .dockerignore."""

import os
import stat

from berth.errors import TooLarge
from berth.linux import libc

_MOST_BYTES = 16 << 20
_RESOLVE = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS


def read_file(root_fd: int, path: str) -> bytes | None:
    """Its bytes; None where there is none, or it is no plain file. Links are followed inside the root alone. TooLarge."""
    try:
        fd = libc.openat2(root_fd, path.lstrip("/") or ".", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, _RESOLVE)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > _MOST_BYTES:
            raise TooLarge(f"{path}: {status.st_size} bytes are more than a file of this kind has, which is at most {_MOST_BYTES >> 20} MiB")
        return file.read(_MOST_BYTES)
