"""Copies of clients' build contexts that outlive a build, so that the next one is sent, or at least writes, only what has changed.

    DATA_ROOT/build/contexts/<key>.<n>/files/    the mirror; one build at a time has it, another one gets another n
    DATA_ROOT/build/contexts/<key>.<n>/index     boot id and bytes in a line, then the listing (build/listing.py) that files/ agrees with

A mirror without an index is in the middle of a change, and so is one whose index an earlier boot wrote: nothing is synced to
disk, so a loss of power may have taken what the index says. Both are emptied. What is compared is whole lines of two listings;
only those that differ are looked at, so that 20,000 files that stay as they are cost no system call.

Of a context that comes as an archive all is sent. Its mirror has an index without a listing: the archive is compared with the files
themselves, so that neither a reboot nor an archive that ends half-way does harm.
"""

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterable
from typing import IO

from berth import errors
from berth.build import listing, wire
from berth.build.files.context import refresh_tar
from berth.build.listing import Entry
from berth.engine.hostfiles import boot_id, remove_directories
from berth.linux import libc
from berth.store.trees import remove_tree

MOST_BYTES = 8 << 30
MOST_MIRRORS = 100
_MOST_ENTRIES = 2_000_000
_COPY_BYTES = 1 << 20
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o7777
_UNSURE = listing.UNSURE[:-1]


def key_of(*parts: str) -> str:
    """The name of what a client calls a context."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


class Mirrors:
    """Those of one engine. Any thread may use it; all but `take` and `give_back` blocks. ending: ends what removes, for the next engine to go on."""

    def __init__(self, directory: str, ending: threading.Event | None = None) -> None:
        self._ending = ending
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self._used: set[str] = set()
        self._lock = threading.Lock()

    def take(self, key: str) -> "Mirror":
        """One that nobody has now; it is the caller's until it is given back."""
        with self._lock:
            names = (f"{key}.{number}" for number in range(len(self._used) + 1))
            name = next(name for name in names if name not in self._used)
            self._used.add(name)
        return Mirror(f"{self._directory}/{name}", key)

    def give_back(self, mirror: "Mirror") -> None:
        mirror.close()
        self._used.discard(os.path.basename(mirror.path))

    def all(self) -> list[tuple[str, int, float]]:
        """(name, bytes, when it was last used in seconds since the epoch)."""
        found = []
        for name in os.listdir(self._directory):
            with contextlib.suppress(OSError, ValueError), open(f"{self._directory}/{name}/index", "rb") as file:
                found.append((name, int(file.readline().split()[1]), os.fstat(file.fileno()).st_mtime))
        return found

    def is_used(self, name: str) -> bool:
        return name in self._used

    def remove(self, name: str) -> bool:
        """Whether it is gone: one that a build has stays."""
        with self._lock:
            if name in self._used:
                return False
            self._used.add(name)
        try:
            path = f"{self._directory}/{name}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}/index")  # first: half a mirror is none
            remove_directories([path], self._ending)
        finally:
            self._used.discard(name)
        return True

    def trim(self, most_bytes: int = MOST_BYTES, most: int = MOST_MIRRORS) -> None:
        """Those used least recently go, and those that nobody can use."""
        found = sorted(self.all(), key=lambda each: each[2], reverse=True)
        total = 0
        for number, (name, size_bytes, _) in enumerate(found):
            total += size_bytes
            if number >= most or total > most_bytes:
                self.remove(name)
        known = {name for name, _, _ in found}
        for name in os.listdir(self._directory):
            if name not in known:
                self.remove(name)


class Mirror:
    """One directory that becomes what a listing says: `compare`, then `receive` for the files it asks for, then `finish`; or else
    what an archive holds: `unpack`.

    Methods block. Whatever goes wrong, the next build begins with an empty one. Paths are a client's: each is resolved beneath
    the mirror's descriptor, where no link is followed.
    """

    def __init__(self, path: str, key: str) -> None:
        self.path = path
        self.files = f"{path}/files"
        self.fd = -1
        self.identity = ""
        self._key = key
        self._listing = b""
        self._size_bytes = 0
        self._wanted: list[tuple[int, Entry]] = []
        self._times: dict[str, int] = {}  # of directories whose contents change: what their mtime has to be again
        self._directory, self._directory_fd = "", -1
        self._changed = False

    def close(self) -> None:
        self._leave()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # -- what there is ----------------------------------------------------------------------------------

    def _open(self) -> bytes | None:
        """The listing that the files agree with; None for a mirror that is empty now."""
        known = None
        with contextlib.suppress(OSError, ValueError), open(f"{self.path}/index", "rb") as file:
            boot, size_bytes = file.readline().split()
            if boot == boot_id().encode():
                known, self._size_bytes = file.read(), int(size_bytes)
        if known is None:
            self._make_empty()
        self.fd = os.open(self.files, _DIRECTORY)
        return known

    def _make_empty(self) -> None:
        remove_directories([self.path])
        os.mkdir(self.path, 0o700)
        os.mkdir(self.files, 0o755)

    def _begin_change(self) -> None:
        if not self._changed:
            self._changed = True
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}/index")

    # -- comparing --------------------------------------------------------------------------------------

    def compare(self, told: bytes) -> list[int]:
        """Makes directories and links, removes what is gone -> numbers of the lines whose files are to be sent.

        InvalidParameter for a listing that is wrong.
        """
        known = self._open()
        self._listing = told
        if listing.UNSURE not in told:
            self.identity = f"context:{self._key}:{hashlib.sha256(told).hexdigest()}"
        if known == told and self.identity:
            return []
        before, now = set((known or b"").split(b"\n")), told.split(b"\n")
        if len(now) > _MOST_ENTRIES:
            raise errors.InvalidParameter(f"the context has more than {_MOST_ENTRIES} entries: write a .dockerignore")
        again = {line for line in now if line.endswith(_UNSURE)}
        after = set(now)
        gone, fresh = _parsed((before - after) | (again & before)), _parsed((after - before) | again)
        self._begin_change()
        try:
            self._remove(gone, fresh)
            self._make(gone, fresh)
        except OSError as error:
            raise _failed("", error) from error
        if files := {path for path, entry in fresh.items() if entry.is_file}:
            numbers = ((number, line) for number, line in enumerate(now) if line and (line not in before or line in again))
            self._wanted = [(number, entry) for number, line in numbers if (entry := listing.parse(line)).path in files]
        return [number for number, _ in self._wanted]

    def _remove(self, gone: dict[str, Entry], fresh: dict[str, Entry]) -> None:
        for path in sorted(gone, reverse=True):  # what is in a directory comes before it
            entry, successor = gone[path], fresh.get(path)
            if successor and successor.is_directory and entry.is_directory:
                continue
            self._size_bytes -= entry.size
            at, name = self._enter(path)
            if entry.is_directory:
                remove_tree(at, name)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=at)
            self._leave_if(path)

    def _make(self, gone: dict[str, Entry], fresh: dict[str, Entry]) -> None:
        for path in sorted(fresh):
            entry = fresh[path]
            self._size_bytes += entry.size
            if entry.is_file:
                continue
            at, name = self._enter(path)
            if entry.is_directory:
                if path not in gone or not gone[path].is_directory:
                    os.mkdir(name, 0o700, dir_fd=at)
                fd = libc.openat2(at, name, _DIRECTORY, _BENEATH)
                try:
                    os.fchmod(fd, entry.mode & _MODE)
                finally:
                    os.close(fd)
                self._times[path] = entry.mtime_ns
            else:
                os.symlink(entry.link, name, dir_fd=at)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=at, follow_symlinks=False)

    def _enter(self, path: str) -> tuple[int, str]:
        """(descriptor of its directory, its name there). The descriptor is for now: the next call may close it."""
        directory, _, name = path.rpartition("/")
        if self._directory_fd < 0 or directory != self._directory:
            self._leave()
            self._directory_fd = libc.openat2(self.fd, directory or ".", _DIRECTORY, _BENEATH)
            self._directory = directory
            if directory:
                self._times.setdefault(directory, os.fstat(self._directory_fd).st_mtime_ns)
        return self._directory_fd, name

    def _leave(self) -> None:
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    def _leave_if(self, path: str) -> None:
        if self._directory == path or self._directory.startswith(f"{path}/"):
            self._leave()
        self._times.pop(path, None)

    # -- receiving --------------------------------------------------------------------------------------

    def receive(self, stream: IO[bytes]) -> None:
        """The files that `compare` asked for, in its order. DataLoss for a stream that ends too early."""
        for number, entry in self._wanted:
            head = stream.read(wire.FILE_HEAD.size)
            if len(head) < wire.FILE_HEAD.size:
                raise errors.DataLoss(f"the client ended before it had sent {entry.path}")
            told, mode, size, mtime_ns = wire.FILE_HEAD.unpack(head)
            if told != number or size >> 62 or not stat.S_ISREG(mode):
                raise errors.DataLoss(f"the client sent something else than {entry.path}")
            try:
                self._receive(stream, entry, mode, size, mtime_ns)
            except OSError as error:
                raise _failed(entry.path, error) from error
            self._size_bytes += size - entry.size
        if stream.read(1):
            raise errors.DataLoss("the client sent more than it was asked for")

    def _receive(self, stream: IO[bytes], entry: Entry, mode: int, size: int, mtime_ns: int) -> None:
        at, name = self._enter(entry.path)
        # Never written in place: the digest of a file is kept by its inode.
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=at)
        except FileExistsError:
            os.unlink(name, dir_fd=at)
            fd = os.open(name, _NEW, 0o600, dir_fd=at)
        try:
            left = size
            while left:
                data = stream.read(min(left, _COPY_BYTES))
                if not data:
                    raise errors.DataLoss(f"the client ended {left} bytes before the end of {entry.path}")
                _write_all(fd, data)
                left -= len(data)
            os.fchmod(fd, mode & _MODE)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Makes it what the next build goes by."""
        try:
            for path in sorted(self._times, reverse=True):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    fd = libc.openat2(self.fd, path, _DIRECTORY, _BENEATH)
                    try:
                        os.utime(fd, ns=(self._times[path], self._times[path]))
                    finally:
                        os.close(fd)
            if self._changed:
                self._write_index()
            else:
                os.utime(f"{self.path}/index")
        except OSError as error:
            raise _failed("", error) from error
        self._changed = False

    def _write_index(self) -> None:
        with open(f"{self.path}/index.new", "wb") as file:
            file.write(b"%s %d\n" % (boot_id().encode(), max(0, self._size_bytes)))
            file.write(self._listing)
        os.rename(f"{self.path}/index.new", f"{self.path}/index")

    # -- archives ---------------------------------------------------------------------------------------

    def unpack(self, stream: IO[bytes], stop: threading.Event | None = None) -> None:
        """Makes it what an archive holds; errors are those of receive_tar."""
        if not os.path.isdir(self.files):
            self._make_empty()
        self.fd = os.open(self.files, _DIRECTORY)
        self._begin_change()
        self._size_bytes = refresh_tar(stream, self.fd, stop)
        self._write_index()


def _parsed(lines: Iterable[bytes]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for line in filter(None, lines):
        try:
            entry = listing.parse(line)
        except ValueError as error:
            raise errors.InvalidParameter(f"the client's list of its context: {error}") from None
        if entry.path in found:
            raise errors.InvalidParameter(f"the client's list of its context has {entry.path} twice")
        found[entry.path] = entry
    return found


def _failed(path: str, error: OSError) -> errors.BerthError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.SystemFailure(f"the build context does not fit on the engine's disk: {error.strerror}")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.EXDEV, errno.EISDIR, errno.EINVAL):
        return errors.InvalidParameter(f"the client's list of its context does not fit together at {path or error.filename or '/'}: {error.strerror}")
    return errors.SystemFailure(f"the build context could not be kept{f' at {path}' if path else ''}: {error.strerror}")


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
