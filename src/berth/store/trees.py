"""Removes trees that somebody else filled."""

import os
import threading
from collections.abc import Callable

_MAX_DEPTH = 64


class _Stopped(Exception):
    pass


def remove_tree(parent_fd: int, name: str, stop: threading.Event | None = None) -> None:
    """Removes `name` and all below it without following a link; what is gone already is no error.

    A container can nest directories deeper than this process has stack or descriptors: what is too deep
    is moved up beside `name` and removed in a turn of its own. stop: leaves the rest where it is.
    """
    pending = [name]
    try:
        while pending:
            _remove_level(parent_fd, pending.pop(), parent_fd, pending, 0, stop or threading.Event())
    except _Stopped:
        pass


def _remove_level(parent_fd: int, name: str, top_fd: int, pending: list[str], depth: int, stop: threading.Event) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError:
        _ignore_missing(os.unlink, name, parent_fd)
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if stop.is_set():
                    raise _Stopped
                if not entry.is_dir(follow_symlinks=False):
                    _ignore_missing(os.unlink, entry.name, fd)
                elif depth < _MAX_DEPTH:
                    _remove_level(fd, entry.name, top_fd, pending, depth + 1, stop)
                else:
                    moved = f".removing-{os.urandom(8).hex()}"
                    os.rename(entry.name, moved, src_dir_fd=fd, dst_dir_fd=top_fd)
                    pending.append(moved)
    finally:
        os.close(fd)
    _ignore_missing(os.rmdir, name, parent_fd)


def _ignore_missing(remove: Callable[..., None], name: str, dir_fd: int) -> None:
    """Somebody else may be removing the same tree: an engine at its start, a container's end."""
    try:
        remove(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
