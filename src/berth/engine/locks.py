"""Locks that go with a descriptor: whoever holds that, or a message in a queue that carries it, has something still to do."""

import fcntl
import os


def write_locked(path: str, text: str) -> int:
    """Writes a file; returns a descriptor with a lock on it, which goes with the descriptor to whoever gets that."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.ftruncate(fd, 0)
        with open(fd, "w", closefd=False) as file:
            file.write(text)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_locked(path: str) -> bool:
    """Whether a process has such a descriptor; False if there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
