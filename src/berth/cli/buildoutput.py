"""Where a build's result is written on this side: an archive in a file or on standard output, or files below a directory."""

import os

from berth.cli.buildfiles import Unwritable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Output(Protocol):
        """Gets bytes, and then either `finish` or `abandon`. The first two raise Unwritable."""

        def write(self, data: bytes) -> None: ...

        def finish(self) -> None: ...

        def abandon(self) -> None: ...


def opened(given: "dict[str, str]") -> "Output":
    """Of a request's output that has a `dest`. Unwritable."""
    try:
        if is_directory(given):
            return Directory(given["dest"])
        return Stream() if given["dest"] == "-" else File(given["dest"])
    except OSError as error:
        raise Unwritable(f"{given['dest']}: {error.strerror}") from None


def is_directory(given: "dict[str, str]") -> bool:
    """As build/outputs.py has it, whose imports are slow."""
    return given.get("type") == "local" or (given.get("type") == "oci" and given.get("tar", "true") in ("false", "0"))


class Stream:
    """Standard output."""

    def write(self, data: bytes) -> None:
        from berth.cli.terminal import write_all

        try:
            write_all(1, data)
        except OSError as error:
            raise Unwritable(f"standard output: {error.strerror}") from None

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class File:
    """One that appears whole: it is written beside its place."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = f"{path}.{os.getpid()}.tmp"
        self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise Unwritable(f"{self._path}: {error.strerror}") from None

    def finish(self) -> None:
        self._close()
        try:
            os.rename(self._temporary, self._path)
        except OSError as error:
            os.unlink(self._temporary)
            raise Unwritable(f"{self._path}: {error.strerror}") from None

    def abandon(self) -> None:
        if self._fd >= 0:
            self._close()
            os.unlink(self._temporary)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1


class Directory:
    """Files as whoever runs this; an archive leads nowhere but below the directory, links or not. Unpacked in a thread of its own."""

    def __init__(self, path: str) -> None:
        import threading

        os.makedirs(path, exist_ok=True)
        self._path = path
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        read_fd, self._fd = os.pipe2(os.O_CLOEXEC)
        self._error = ""
        self._thread = threading.Thread(target=self._unpack, args=(read_fd,))
        self._thread.start()

    def _unpack(self, read_fd: int) -> None:
        from berth.errors import BerthError
        from berth.store.unpacking import Unpacker

        with os.fdopen(read_fd, "rb") as stream:
            try:
                Unpacker(self._root, whiteouts=False, base="/", ids=None).unpack(stream, lambda data: None)
            except (BerthError, OSError) as error:
                self._error = str(error)

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            self._join()
            raise Unwritable(f"{self._path}: {self._error or 'the archive ended early'}") from None

    def finish(self) -> None:
        self._join()
        if self._error:
            raise Unwritable(f"{self._path}: {self._error}")

    def abandon(self) -> None:
        self._join()

    def _join(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._thread.join()
            os.close(self._root)


def check(outputs: "list[dict[str, str]]") -> str:
    """What is wrong with where outputs go, before anything is built; '' for nothing."""
    taken = [each["dest"] for each in outputs if each.get("dest")]
    if taken.count("-") > 1:
        return "only one output can go to standard output"
    for each in outputs:
        if each.get("dest") == "-" and os.isatty(1):
            return f"dest file is required for {each['type']} exporter. refusing to write to console"
        dest: Any = each.get("dest", "")
        if dest not in ("", "-") and not is_directory(each) and os.path.isdir(dest):
            return f"{dest} is a directory: {each['type']} output is a file"
    return ""
