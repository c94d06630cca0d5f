"""A build context on this side: what it holds, as the engine is told, and its files, as the engine asks for them.

Nothing is given out that was not listed, and .dockerignore decides on what is. Only what the Dockerfile reads is looked at; a
link on the way to it makes that all, for where links lead is the engine's to say.
"""

import os
import sys
from time import time_ns

from berth.build import wire
from berth.build.listing import line
from berth.cli.flags import Misuse

try:
    from _stat import S_ISDIR, S_ISLNK, S_ISREG
except ImportError:
    from stat import S_ISDIR, S_ISLNK, S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from berth.build.files.ignore import Ignore

# Within a tick of the kernel's clock a file may change again, and its times would not.
_TICK_NS = 50_000_000
_WILD = "*?[\\"


class Unreadable(Exception):
    """Something of the context cannot be read; says what."""


class Unwritable(Exception):
    """What could not be written on this side, and why."""


class Context:
    """One directory. ignore: None where nothing is left out."""

    def __init__(self, directory: str, ignore: "Ignore | None" = None) -> None:
        self.directory = os.path.realpath(directory)
        self._ignore = ignore
        self._paths: list[str] = []  # by number

    # -- the listing --------------------------------------------------------------------------------------

    def listing(self, patterns: "list[str] | None") -> bytes:
        """Lines of what the patterns name, None for all. Unreadable."""
        self._paths = paths = []
        lines = []
        try:
            starts = [""] if patterns is None else self._starts(patterns)
            for text, path in self._lines(starts):
                lines.append(text)
                paths.append(path)
        except OSError as error:
            raise Unreadable(f"{error.filename}: {error.strerror}") from None
        lines.append("")
        return "\n".join(lines).encode()

    def _lines(self, starts: "list[str]") -> "Iterator[tuple[str, str]]":
        told: set[str] = set()
        now_ns = time_ns()
        for start in starts:
            above = start.split("/")[:-1]
            for depth in range(1, len(above) + 1):
                directory = "/".join(above[:depth])
                if directory not in told:
                    told.add(directory)
                    yield self._one(directory, os.lstat(f"{self.directory}/{directory}"), now_ns)
            if not start:
                yield from self._walk("", now_ns)
                continue
            status = os.lstat(f"{self.directory}/{start}")
            if S_ISDIR(status.st_mode):
                if self._enters(start):
                    yield self._one(start, status, now_ns)
                    yield from self._walk(start, now_ns)
            elif not (self._ignore and self._ignore.ignores(start)) and (S_ISREG(status.st_mode) or S_ISLNK(status.st_mode)):
                yield self._one(start, status, now_ns)

    def _enters(self, directory: str) -> bool:
        return self._ignore is None or not self._ignore.ignores(directory) or self._ignore.may_contain(directory)

    def _walk(self, start: str, now_ns: int) -> "Iterator[tuple[str, str]]":
        """What is below a directory, each after the directory that it is in."""
        ignore, top = self._ignore, self.directory
        pending: list[tuple[str, list[tuple[str, os.stat_result]]]] = [(start, [])]
        while pending:
            at, waiting = pending.pop()
            below = []
            with os.scandir(f"{top}/{at}" if at else top) as entries:
                found = sorted(entries, key=_name)
            prefix = f"{at}/" if at else ""
            for entry in found:
                path = prefix + entry.name
                hidden = ignore is not None and ignore.ignores(path)
                if hidden and not (entry.is_dir(follow_symlinks=False) and ignore and ignore.may_contain(path)):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it went away meanwhile
                mode = status.st_mode
                if S_ISDIR(mode):
                    if hidden:  # it is there if something in it is
                        below.append((path, [*waiting, (path, status)]))
                        continue
                    below.append((path, []))
                elif not (S_ISREG(mode) or S_ISLNK(mode)):
                    continue  # a socket, a pipe, a device: no file that could be copied
                while waiting:
                    above, seen = waiting.pop(0)
                    yield self._one(above, seen, now_ns)
                if S_ISREG(mode):
                    changed_ns = status.st_ctime_ns
                    yield line(path, mode, status.st_size, status.st_mtime_ns, "", changed_ns if changed_ns < now_ns - _TICK_NS else 0), path
                else:
                    yield self._one(path, status, now_ns)
            below.reverse()
            pending += below

    def _one(self, path: str, status: os.stat_result, now_ns: int) -> "tuple[str, str]":
        mode = status.st_mode
        if S_ISREG(mode):
            stamp = status.st_ctime_ns if status.st_ctime_ns < now_ns - _TICK_NS else 0
            return line(path, mode, status.st_size, status.st_mtime_ns, "", stamp), path
        link = os.readlink(f"{self.directory}/{path}") if S_ISLNK(mode) else ""
        return line(path, mode, 0, status.st_mtime_ns, link, 1), path

    # -- what is wanted of it -----------------------------------------------------------------------------

    def _starts(self, patterns: "list[str]") -> "list[str]":
        """Files and directories that the patterns name, none below another; [''] for all."""
        found: set[str] = set()
        for pattern in patterns:
            places = self._places(pattern.split("/"))
            if places is None:
                return [""]
            found |= places
        return [path for path in sorted(found) if not any(path[:index] in found for index, letter in enumerate(path) if letter == "/")]

    def _places(self, parts: "list[str]") -> "set[str] | None":
        """Of one pattern; None where all may be meant."""
        at = [""]
        for number, part in enumerate(parts):
            if "**" in part or "\\" in part:
                return None if "" in at else set(at)
            at = [path for directory in at for path in self._matching(directory, part)]
            for path in at:
                if os.path.islink(f"{self.directory}/{path}"):
                    return None
            if number < len(parts) - 1:
                at = [path for path in at if os.path.isdir(f"{self.directory}/{path}")]
        return set(at)

    def _matching(self, directory: str, part: str) -> "list[str]":
        prefix = f"{directory}/" if directory else ""
        if not any(letter in part for letter in _WILD):
            return [prefix + part] if os.path.lexists(f"{self.directory}/{prefix}{part}") else []
        from berth.models.globs import matches

        try:
            return [prefix + name for name in os.listdir(f"{self.directory}/{directory}") if matches(part, name)]
        except ValueError:
            return []  # the engine says what is wrong with it

    # -- its files ----------------------------------------------------------------------------------------

    def sending(self, question: int, numbers: "Iterable[list[int]]") -> "Iterator[bytes]":
        """Frames with the files of these numbers, from first to last. Unreadable."""
        parts: list[bytes] = []
        size = 0
        for first, last in numbers:
            if not 0 <= first <= last < len(self._paths):
                raise Unreadable(f"the engine asks for file {last} of {len(self._paths)}")
            for number in range(first, last + 1):
                for data in self._file(number):
                    parts.append(data)
                    size += len(data)
                    if size >= wire.DATA_BYTES:
                        yield wire.encode_data(question, b"".join(parts))
                        parts, size = [], 0
        if parts:
            yield wire.encode_data(question, b"".join(parts))

    def _file(self, number: int) -> "Iterator[bytes]":
        path = self._paths[number]
        try:
            fd = os.open(f"{self.directory}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise Unreadable(f"{path} in the build context cannot be read: {error.strerror}") from None
        try:
            status = os.fstat(fd)
            if not S_ISREG(status.st_mode):
                raise Unreadable(f"{path} in the build context is no file any more; build again")
            yield wire.FILE_HEAD.pack(number, status.st_mode, status.st_size, status.st_mtime_ns)
            left = status.st_size
            while left:
                data = os.read(fd, min(left, wire.DATA_BYTES))
                if not data:
                    raise Unreadable(f"{path} in the build context became shorter while it was read; build again")
                left -= len(data)
                yield data
        except OSError as error:
            raise Unreadable(f"{path} in the build context cannot be read: {error.strerror}") from None
        finally:
            os.close(fd)

    def hides(self, path: str) -> bool:
        """Whether .dockerignore is why something is not there."""
        return self._ignore is not None and os.path.lexists(f"{self.directory}/{path}") and self._ignore.ignores(path)


def _name(entry: "os.DirEntry[str]") -> str:
    return entry.name


# -- Dockerfile and .dockerignore -------------------------------------------------------------------------------


def read_dockerfile(context: str, file: str) -> "tuple[str, str, str]":
    """(path, text, name for people) of the Dockerfile in a directory; Misuse where it cannot be read. '-': standard input."""
    if file == "-":
        return "", _decoded(sys.stdin.buffer.read()), "Dockerfile"
    path = file or os.path.join(context, "Dockerfile")
    if not file and not os.path.exists(path) and os.path.exists(lower := os.path.join(context, "dockerfile")):
        path = lower
    try:
        with open(path, "rb") as opened:
            return path, _decoded(opened.read()), os.path.basename(path) if not file else file
    except FileNotFoundError:
        raise Misuse(
            f"failed to read dockerfile: open {path}: no such file or directory"
            + ("" if file else "; name another one with --file, and the directory of its files as PATH")
        ) from None
    except OSError as error:
        raise Misuse(f"failed to read dockerfile: open {path}: {error.strerror}") from None


def read_ignore(context: str, dockerfile: str) -> "Ignore | None":
    """The Dockerfile's own .dockerignore, or else the context's; None for none that says something. Misuse."""
    for path in (f"{dockerfile}.dockerignore" if dockerfile else "", os.path.join(context, ".dockerignore")):
        if not path:
            continue
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Misuse(f"{path} cannot be read: {error.strerror}") from None
        from berth.build.files.ignore import Ignore
        from berth.errors import InvalidParameter

        try:
            return Ignore.parse(data) or None
        except InvalidParameter as error:
            raise Misuse(f"{path}: {error}") from None
    return None


def _decoded(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
