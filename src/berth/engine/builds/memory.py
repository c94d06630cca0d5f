"""A directory in memory, for what must not reach a disk: secrets, while a step has them."""

import logging
import os
import tempfile
from contextlib import suppress

from berth.linux import libc

log = logging.getLogger("berth.engine")

_SHARED = "/dev/shm"  # shm_overview(7): a tmpfs
_IN_MEMORY = (0x01021994, 0x858458F6)  # f_type of tmpfs and ramfs, statfs(2)


def make(path: str) -> None:
    """Makes the directory `path`; where it would be on a disk, a link to one of nobody else's on the machine's shared memory."""
    if os.path.islink(path) and not os.path.isdir(path):
        os.unlink(path)  # the machine has been booted since
    elif not os.path.islink(path):
        with suppress(OSError):
            os.rmdir(path)
    if os.path.isdir(path):
        return
    if _in_memory(os.path.dirname(path)):
        os.mkdir(path, 0o700)
    elif _in_memory(_SHARED):
        os.symlink(tempfile.mkdtemp(prefix="berth-build-", dir=_SHARED), path)
    else:
        log.warning("secrets of builds reach a disk while a step has them: neither %s nor %s is in memory", os.path.dirname(path), _SHARED)
        os.mkdir(path, 0o700)


def remove(path: str) -> None:
    """What `make` made, if it is empty."""
    if not os.path.islink(path):
        with suppress(OSError):
            os.rmdir(path)
        return
    with suppress(OSError):
        os.rmdir(os.readlink(path))
    if not os.path.isdir(path):
        os.unlink(path)


def _in_memory(path: str) -> bool:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return libc.filesystem_type(fd) in _IN_MEMORY
    finally:
        os.close(fd)
