"""berth cp: files into and out of containers, as an archive that is renamed on its way where it must be.

What is named how at the other end follows `cp -r`; the cases are Docker's (moby, pkg/archive/copy.go):
`destination`.
"""

import os
import stat

from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.models.jsonlite import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("archive", "a", "bool", "", "Archive mode: files belong to the container's user"),
    ("follow-link", "L", "bool", "", "Follow a symbolic link at SRC_PATH"),
    ("quiet", "q", "bool", "", "No line about what has been copied"),
)
_USAGE = "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tberth cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
SYNTAX = {"cp": Syntax(_USAGE, _FLAGS, at_least=2, at_most=2)}
_READ_BYTES = 1 << 18
_GO_DIRECTORY, _GO_LINK = 1 << 31, 1 << 27


class _Refused(Exception):
    """What cannot be copied as asked; the message is Docker's."""


class Place:
    """One end of a copy. rebased: the name it goes by where a link was followed to another one."""

    __slots__ = ("exists", "is_directory", "path", "rebased")

    def __init__(self, path: str, *, exists: bool, is_directory: bool, rebased: str = "") -> None:
        self.path = path
        self.exists = exists
        self.is_directory = is_directory
        self.rebased = rebased


def cp(call: "Invocation") -> int:
    """berth cp"""
    parsed = parse_command(call, SYNTAX)
    source_container, source = split_argument(parsed.arguments[0])
    target_container, target = split_argument(parsed.arguments[1])
    follow = parsed.flag("follow-link")
    try:
        if source_container and target_container:
            raise _Refused("copying between containers is not supported")
        if source_container:
            copied = _out(call, source_container, source, target, follow)
            where = target
        elif target_container:
            copied = _in(call, source, target_container, target, follow, parsed.flag("archive"))
            where = f"{target_container}:{target}"
        else:
            raise _Refused("must specify at least one container source")
    except _Refused as error:
        fail(str(error))
        return 1
    if not parsed.flag("quiet") and target != "-" and os.isatty(2):
        from berth.cli.table import size

        fail(f"Successfully copied {size(copied)} to {where}")
    return 0


def split_argument(text: str) -> "tuple[str, str]":
    """`CONTAINER:PATH` -> both; a path that is absolute, or starts with a dot, has no container."""
    if text.startswith("/"):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or container.startswith("."):
        return "", text
    return container, path


def split_path(path: str) -> "tuple[str, str]":
    """Directory and last part; a trailing '.' is a part of its own."""
    cleaned = os.path.normpath(path)
    if path.endswith("/.") or path == ".":
        return cleaned, "."
    return os.path.dirname(cleaned), os.path.basename(cleaned) or "/"


def destination(source: Place, target: Place) -> "tuple[str, tuple[str, str] | None]":
    """The directory to unpack in, and (old, new) name of the archive's first part, or None where it stays."""
    directory, base = split_path(target.path)
    if target.exists and target.is_directory:
        return target.path, (split_path(source.path)[1], source.rebased) if source.rebased else None
    if target.exists and source.is_directory:
        raise _Refused("cannot copy directory")
    if not target.exists and not source.is_directory and target.path.endswith(("/", "/.")):
        raise _Refused("no such directory")
    return directory, (split_path(source.path)[1], base)


def renamed(name: str, change: "tuple[str, str] | None") -> str:
    """A member's name with its first part changed."""
    if change is None:
        return name
    old, new = change
    return new + name if old == "/" else name.replace(old, new, 1)


# -- out of a container ------------------------------------------------------------------------------


def _out(call: "Invocation", container: str, source: str, target: str, follow: bool) -> int:
    if target != "-":
        # As it was written, but absolute: a trailing slash or dot says that it is a directory.
        directory = os.path.dirname(os.path.normpath(os.path.abspath(target)))
        if not os.path.isdir(directory):
            raise _Refused(f'invalid output path: directory "{directory}" does not exist')
        target = _absolute(target)
    place = Place(source, exists=True, is_directory=False)
    if follow:
        try:
            found = _stat(call, container, source)
        except ApiError:
            found = None  # the request for the archive says what is wrong
        if found and found["mode"] & _GO_LINK:
            link = found["linkTarget"]
            link = link if link.startswith("/") else f"{split_path(source)[0]}/{link}"
            place.path = link + source[len(source.rstrip("/")) :]
            if split_path(link)[1] != split_path(source)[1]:
                place.rebased = split_path(source)[1]
    response = call.client.request("GET", f"/containers/{quote(container)}/archive{query(path=place.path)}")
    place.is_directory = bool(_decoded(response.headers)["mode"] & _GO_DIRECTORY)
    pieces = response.pieces()
    if target == "-":
        return _to_standard_output(pieces)
    reader = _PiecesReader(pieces)
    _unpack(reader, place, target)
    return reader.size_bytes


def _absolute(path: str) -> str:
    ending = "/." if path.endswith("/.") else "/" if path.endswith("/") else ""
    return os.path.abspath(path).rstrip("/") + ending or "/"


def _to_standard_output(pieces: "Iterator[bytes]") -> int:
    from berth.cli.terminal import write_all

    total = 0
    for data in pieces:
        total += len(data)
        write_all(1, data)
    return total


def _unpack(reader: "_PiecesReader", source: Place, path: str) -> None:
    from berth.errors import BerthError
    from berth.store.unpacking import Unpacker

    directory, change = destination(source, _local_target(path))
    root = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rename = lambda name: renamed(name, change)  # noqa: E731
        unpacker = Unpacker(root, whiteouts=False, base="/", keep_kinds=True, ids=None, rename=rename)
        unpacker.unpack(reader, lambda data: None)
    except BerthError as error:
        raise _Refused(str(error)) from None
    finally:
        os.close(root)


def _local_target(path: str) -> Place:
    """What is at the local end; a link there is followed, also one that leads to nothing yet."""
    for _ in range(40):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return Place(path, exists=False, is_directory=False)
        except NotADirectoryError:
            raise _Refused("not a directory") from None
        if not stat.S_ISLNK(status.st_mode):
            return Place(path, exists=True, is_directory=stat.S_ISDIR(status.st_mode))
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise _Refused(f"{path}: too many levels of symbolic links")


class _PiecesReader:
    """A body as something to read from."""

    def __init__(self, pieces: "Iterator[bytes]") -> None:
        self._pieces = pieces
        self._rest = b""
        self.size_bytes = 0

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            data = next(self._pieces, None)
            if data is None:
                return b""
            self.size_bytes += len(data)
            self._rest = data
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


# -- into a container --------------------------------------------------------------------------------


def _in(call: "Invocation", source: str, container: str, target: str, follow: bool, archive: bool) -> int:
    place = _container_target(call, container, target)
    counted = [0]
    if source == "-":
        if not place.is_directory:
            raise _Refused(f'destination "{container}:{place.path}" must be a directory')
        directory, stream = place.path, _read(0)
    else:
        local = _local_source(_absolute(source), follow)
        directory, change = destination(local, place)
        stream = _archive(local, change)
    options = query(path=directory, noOverwriteDirNonDir="true", copyUIDGID=archive)

    def counting() -> "Iterator[bytes]":
        for data in stream:
            counted[0] += len(data)
            yield data

    path = f"/containers/{quote(container)}/archive{options}"
    call.client.request("PUT", path, stream=counting(), headers="Content-Type: application/x-tar\r\n")
    return counted[0]


def _container_target(call: "Invocation", container: str, path: str) -> Place:
    """The container's end; what cannot be looked at does not exist yet, and the copy says whether that matters."""
    try:
        found = _stat(call, container, path)
        if found["mode"] & _GO_LINK:
            link = found["linkTarget"]
            path = link if link.startswith("/") else f"{split_path(path)[0]}/{link}"
            found = _stat(call, container, path)
    except ApiError:
        return Place(path, exists=False, is_directory=False)
    return Place(path, exists=True, is_directory=bool(found["mode"] & _GO_DIRECTORY))


def _stat(call: "Invocation", container: str, path: str) -> dict:
    return _decoded(call.client.request("HEAD", f"/containers/{quote(container)}/archive{query(path=path)}").headers)


def _decoded(headers: "dict[str, str]") -> dict:
    from binascii import a2b_base64

    return dict(loads(a2b_base64(headers["x-docker-container-path-stat"]).decode()))


def _local_source(path: str, follow: bool) -> Place:
    rebased = ""
    named = split_path(path)[1]
    if follow:
        path = os.path.realpath(path) + path[len(path.rstrip("/")) :]
        rebased = named if split_path(path)[1] != named else ""
    try:
        status = os.lstat(path)
    except NotADirectoryError:
        raise _Refused("not a directory") from None
    except FileNotFoundError:
        raise _Refused(f"lstat {path}: no such file or directory") from None
    except OSError as error:
        raise _Refused(f"lstat {path}: {(error.strerror or '').lower()}") from None
    return Place(path, exists=True, is_directory=stat.S_ISDIR(status.st_mode), rebased=rebased)


def _read(fd: int) -> "Iterator[bytes]":
    while data := os.read(fd, _READ_BYTES):
        yield data


def _archive(source: Place, change: "tuple[str, str] | None") -> "Iterator[bytes]":
    """The archive of a local tree, written by a thread while it is read here."""
    import threading

    from berth.store.tarwriter import TarWriter

    directory = source.path.endswith(("/", "/."))
    fd = os.open(source.path, os.O_PATH | os.O_CLOEXEC | (0 if directory else os.O_NOFOLLOW))
    name = source.rebased or split_path(source.path)[1]
    if change:
        name = change[1]
    read_end, write_end = os.pipe()
    failure: list[BaseException] = []

    def write() -> None:
        try:
            with os.fdopen(write_end, "wb", buffering=_READ_BYTES) as out:
                writer = TarWriter(out)
                writer.add_tree(fd, name)
                writer.close()
        except BrokenPipeError:
            pass
        except BaseException as error:
            failure.append(error)

    worker = threading.Thread(target=write, daemon=True)
    worker.start()
    try:
        yield from _read(read_end)
    finally:
        os.close(read_end)
        worker.join()
        os.close(fd)
    if failure:
        raise failure[0]

