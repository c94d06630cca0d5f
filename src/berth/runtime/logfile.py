"""A log file that turns over: `log`, and before it `log.1` (newest) to `log.N`, some of them as `log.N.gz`.

Appends whole entries in one write(2). On a full disk an append leaves the entries that fit and no part
of one; the container goes on. Compression is a child process's work, one file at a time: a fast
container is never stopped by it, and a file whose turn never comes is dropped uncompressed.

Readers need no lock: they open newest to oldest, and a turn meanwhile only shows them a file twice
(engine.logs).
"""

import os

from berth.linux import signals

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_GZIP_READ_BYTES = 1 << 18
_GZIP_LEVEL = 1  # six times as fast as the default level, for a tenth more bytes


class LogFile:
    """Owns the descriptor of the present file. max_bytes: 0 for a file that never turns."""

    __slots__ = ("_child", "_compress", "_fd", "_max_bytes", "_max_files", "_mode", "_path", "_size", "child_fd", "lost")

    def __init__(self, path: str, max_bytes: int = 0, max_files: int = 1, *, compress: bool = False, mode: int = 0o640) -> None:
        self._path = path
        self._max_bytes, self._max_files = max_bytes, max_files
        self._compress = compress
        self._mode = mode
        self._child = (0, 0)  # pid, number of the file that it compresses
        self.child_fd = -1  # a pidfd: readable once the child has ended, see `child_ended`
        self.lost = 0  # bytes that a full disk took
        self._fd = os.open(path, _FLAGS, mode)
        self._size = _whole_entries(self._fd)

    def position(self) -> tuple[int, int]:
        """Inode of the present file and the bytes in it."""
        return os.fstat(self._fd).st_ino, self._size

    def append(self, entries: bytes) -> None:
        """Entries that each end in a line feed."""
        if self._max_bytes and self._size >= self._max_bytes:
            self._turn()
        try:
            written = os.write(self._fd, entries)
        except OSError:
            written = 0
        if written < len(entries):
            written = self._append_rest(entries, written)
        self._size += written

    def _append_rest(self, entries: bytes, written: int) -> int:
        """After a short write: the rest, or else the file ends with the last whole entry."""
        try:
            while written < len(entries):
                written += os.write(self._fd, entries[written:])
            return written
        except OSError:
            whole = entries.rfind(b"\n", 0, written) + 1
            self.lost += len(entries) - whole
            try:
                os.ftruncate(self._fd, self._size + whole)
            except OSError:
                return written
            return whole

    # -- turning over ---------------------------------------------------------------------------

    def _turn(self) -> None:
        if self.child_fd >= 0:
            self._look_after_child(wait=False)
        new = f"{self._path}.new"
        try:
            # First, so that a disk without room for a file leaves all others where they are.
            fd = os.open(new, _FLAGS | os.O_TRUNC, self._mode)
        except OSError:
            return
        try:
            if self._max_files > 1:
                self._shift()
                os.rename(self._path, f"{self._path}.1")
            os.rename(new, self._path)
        except OSError:  # the directory is gone: go on with the file there is
            os.close(fd)
            return
        os.close(self._fd)
        self._fd, self._size = fd, 0
        self._start_compressing()

    def _shift(self) -> None:
        """Every older file gets the next number; the last one goes."""
        pid, number = self._child
        if pid:
            if number + 1 >= self._max_files:
                self._end_child()
            else:
                self._child = pid, number + 1
        for index in range(self._max_files - 1, 0, -1):
            for suffix in (".gz", ""):
                name = f"{self._path}.{index}{suffix}"
                try:
                    if index + 1 >= self._max_files:
                        os.unlink(name)
                    else:
                        os.rename(name, f"{self._path}.{index + 1}{suffix}")
                except FileNotFoundError:
                    pass

    def _start_compressing(self) -> None:
        if not self._compress or self._child[0]:
            return
        for number in range(1, self._max_files):
            try:
                source = os.open(f"{self._path}.{number}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                self._fork_compressor(source, number)
            except OSError:
                pass  # no process to be had: at the next turn
            os.close(source)
            return

    def _fork_compressor(self, source: int, number: int) -> None:
        pid = os.fork()
        if pid == 0:
            _compress_and_exit(source, f"{self._path}.gz.new", self._mode)
        self._child = pid, number
        self.child_fd = os.pidfd_open(pid)

    def child_ended(self) -> None:
        """To be called when `child_fd` is readable: puts the compressed file in the plain one's place, starts the next."""
        self._look_after_child(wait=True)
        self._start_compressing()

    def _look_after_child(self, *, wait: bool) -> None:
        pid, number = self._child
        ended, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
        if not ended:
            return
        self._forget_child()
        if status:
            self._compress = False  # no space, or no zlib: the plain file stays
            return
        try:
            os.rename(f"{self._path}.gz.new", f"{self._path}.{number}.gz")
            os.unlink(f"{self._path}.{number}")
        except OSError:
            pass

    def _end_child(self) -> None:
        os.kill(self._child[0], signals.SIGKILL)
        os.waitpid(self._child[0], 0)
        self._forget_child()
        try:
            os.unlink(f"{self._path}.gz.new")
        except OSError:
            pass

    def _forget_child(self) -> None:
        os.close(self.child_fd)
        self.child_fd = -1
        self._child = 0, 0

    def close(self) -> None:
        """Ends a compression that is under way: the container's end does not wait for it."""
        if self.child_fd >= 0:
            self._look_after_child(wait=False)
        if self.child_fd >= 0:
            self._end_child()
        os.close(self._fd)


def _whole_entries(fd: int) -> int:
    """Cuts off a last entry that a killed monitor or a loss of power left unfinished; the file's size."""
    size = os.fstat(fd).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return end


def _compress_and_exit(source: int, target: str, mode: int) -> None:
    """The child: keeps nothing of the container's open but the one file, and the least of the processor."""
    status = 1
    try:
        os.closerange(3, source)
        os.closerange(source + 1, os.sysconf("SC_OPEN_MAX"))
        os.nice(19)
        import zlib

        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
        while data := os.read(source, _GZIP_READ_BYTES):
            _write_all(fd, packer.compress(data))
        _write_all(fd, packer.flush())
        status = 0
    except BaseException:
        try:
            os.unlink(target)
        except OSError:
            pass
    finally:
        os._exit(status)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
