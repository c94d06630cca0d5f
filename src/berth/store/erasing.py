"""Removes layers that have lost their names, in a thread of its own: a hundred thousand files take a disk minutes, and nobody waits for that.

A layer that is to go lies in `tmp`, its recipe beside it. An engine that is killed meanwhile leaves what is left there, and the next one goes on.
"""

import logging
import os
import stat
import threading

from berth.linux import libc
from berth.store.recipe import Left
from berth.store.sharing import Sharing
from berth.store.trees import remove_tree

log = logging.getLogger("berth.store")

_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Stopped(Exception):
    """The engine ends; the next one goes on."""


class Eraser:
    """Of the layers of one data root. The thread is there while it has something to do. Any thread may use it."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._pending: list[str] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def soon(self, directory: str) -> None:
        """Removes a directory of a layer, and its recipe, which is beside it as `.recipe`; either may be missing."""
        with self._changed:
            self._pending.append(directory)
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="erasing", daemon=True)
                self._thread.start()

    def now(self, directory: str) -> None:
        """The same before it returns."""
        parent_path, _, name = directory.rpartition("/")
        parent = os.open(parent_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._empty(parent, name, "")
            for number, path in enumerate(Left(f"{directory}.recipe").paths):
                self._empty(parent, f"{name}.recipe/left/{number}", path)
            self._sharing.release_data(f"{directory}.recipe/data")
            self._sharing.tidy()
            remove_tree(parent, f"{name}.recipe")
            remove_tree(parent, name)  # empty by now: the last of it that is seen
        finally:
            os.close(parent)

    def wait(self) -> None:
        """Until nothing is left to be removed."""
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None)

    def stop(self) -> None:
        """What is left stays for the next engine."""
        with self._changed:
            self._stopping = True
        self.wait()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping or not self._pending:
                    self._thread = None
                    self._changed.notify_all()
                    return
                directory = self._pending.pop(0)
            try:
                self.now(directory)
            except Stopped:
                pass
            except OSError as error:
                log.warning("a layer that nobody uses could not be removed: %s; the next engine tries it again", error)

    def _empty(self, parent_fd: int, name: str, known_as: str) -> None:
        """Removes all that is in a layer, or in what was `known_as` this path of one, and of what is offered what nobody else has."""
        try:
            top = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(top.st_mode):
            self._sharing.unlink(known_as, name, parent_fd)
            return
        root = os.open(name, _DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            for path in reversed(self._remove_files(root, known_as)):
                os.rmdir(path, dir_fd=root)
        finally:
            os.close(root)

    def _remove_files(self, root_fd: int, known_as: str) -> list[str]:
        """All but directories -> those below the root, each after the one it is in."""
        directories = [""]
        for path in directories:  # which grows
            fd = libc.openat2(root_fd, path or ".", _DIRECTORY, _BENEATH)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        below = f"{path}/{entry.name}" if path else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            directories.append(below)
                        elif entry.is_file(follow_symlinks=False):
                            self._sharing.unlink(f"{known_as}/{below}" if known_as else below, entry.name, fd)
                        else:
                            os.unlink(entry.name, dir_fd=fd)
                        if self._stopping and threading.current_thread() is self._thread:
                            raise Stopped
            finally:
                os.close(fd)
        return directories[1:]
