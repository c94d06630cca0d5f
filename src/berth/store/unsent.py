"""A blob on its way to a registry: where the registry keeps what it has of it, noted so that a killed engine's successor goes on there.

    uploads/<diff hex>.<hash of the repository>     one line of JSON: location, and once all is sent digest and size

It is a hint, never believed alone: the registry is asked, and the bytes are compared with their digest as if none had been sent.
"""

import fcntl
import hashlib
import json
import os
from contextlib import suppress

from berth.errors import Conflict

_MOST_BYTES = 16 << 10  # a location that is longer is not worth keeping


class Unsent:
    """directory: where the files are; diff: the layer's; repository: with its registry. Conflict where another push has it open."""

    def __init__(self, directory: str, diff: str, repository: str) -> None:
        self._path = _path(directory, diff, repository)
        self.location = ""  # an address of the registry's, '' for none
        self.digest = ""  # of the whole blob, once it is known
        self.size_bytes = 0
        self._fd = self._open_locked()
        self._read()

    def _open_locked(self) -> int:
        """Ours alone; whoever had it before may have removed it between our open and our lock."""
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(fd)):
                        return fd
            except BlockingIOError:
                os.close(fd)
                raise Conflict("the layer is being pushed there already") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _read(self) -> None:
        line, end, _ = os.pread(self._fd, _MOST_BYTES, 0).partition(b"\n")  # what follows is a longer note's rest
        with suppress(ValueError, TypeError, KeyError):
            value = json.loads(line) if end else {}
            location, digest, size_bytes = value["location"], value["digest"], value["size"]
            if isinstance(location, str) and isinstance(digest, str) and isinstance(size_bytes, int):
                self.location, self.digest, self.size_bytes = location, digest, size_bytes

    def note(self, location: str, digest: str = "", size_bytes: int = 0) -> None:
        """One write, without waiting for the disk: after a loss of power, or where it is full, the blob is at worst sent again."""
        line = json.dumps({"location": location, "digest": digest, "size": size_bytes}).encode() + b"\n"
        if len(line) > _MOST_BYTES:
            self.forget()
            return
        self.location, self.digest, self.size_bytes = location, digest, size_bytes
        with suppress(OSError):
            os.pwrite(self._fd, line, 0)

    def forget(self) -> None:
        """The registry has nothing of the blob."""
        self.location, self.digest, self.size_bytes = "", "", 0
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """What was noted stays for the next push; where nothing is, the file goes."""
        if not self.location:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        os.close(self._fd)


def _path(directory: str, diff: str, repository: str) -> str:
    return f"{directory}/{diff.removeprefix('sha256:')}.{hashlib.sha256(repository.encode()).hexdigest()[:32]}"


def _drop(path: str) -> None:
    with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)


def drop(directory: str, diff: str, repository: str) -> None:
    """Removes what an engine that was killed at the end of the layer's push may have left."""
    _drop(_path(directory, diff, repository))


def drop_all(directory: str, diff: str = "") -> None:
    """Removes notes, or those of one layer, that no push is using."""
    start = f"{diff.removeprefix('sha256:')}." if diff else ""
    for name in os.listdir(directory):
        if name.startswith(start):
            _drop(f"{directory}/{name}")
