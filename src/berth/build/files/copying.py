"""COPY and ADD as the archive of the layer that they make: written straight from the sources, nothing is unpacked on the way."""

import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Sequence

from berth.build.files.archives import is_archive
from berth.build.files.archives import unpack as unpack_archive
from berth.build.files.layer import Layer, Owner
from berth.build.files.modes import ChangeMode, parse_chmod
from berth.build.files.places import changed, cleaned
from berth.build.files.selection import OTHER, Selected
from berth.build.files.sources import Sources, reader, same
from berth.errors import InvalidParameter
from berth.store.compression import Readable
from berth.store.tarwriter import TarWriter, kept_xattrs

__all__ = ["parse_chmod", "write_archive", "write_copy", "write_directory", "write_file"]
_READ_BYTES = 1 << 20
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE,
}  # fmt: skip
_WORDS = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "named pipe", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def write_copy(
    writer: TarWriter, selected: Sequence[Selected], source_fd: int, root_fd: int, destination: str, *, workdir: str = "/",
    owner: Owner | None = None, mode: ChangeMode | None = None, source_date_epoch: int | None = None, devices: bool = False,
    several: bool = False, unpack: bool = False, keep_archive_owners: bool = False,
) -> None:  # fmt: skip
    """Writes what COPY brings from `source_fd` over the root at `root_fd`; `writer` is not closed.

    destination: absolute, or relative to workdir. owner: of all that is copied, or None for the sources' own. devices: whether devices and
    named pipes are copied and not refused. several: whether the instruction named more than one source. unpack: ADD, which unpacks archives.
    keep_archive_owners: what is in those stays whose it is, whatever owner says.
    InvalidParameter where it cannot be; Conflict where a source changes meanwhile. After an error the archive is none.
    """
    layer = Layer(writer, root_fd, owner=owner or (0, 0), source_date_epoch=source_date_epoch)
    base, into = _destination(layer, selected, destination, workdir, several)
    with Sources(source_fd) as sources:
        copy = _Copy(layer, sources, owner=owner, mode=mode, devices=devices, unpacked_owner=None if keep_archive_owners else owner)
        rest = [item for item in selected if not (unpack and item.named and copy.unpack(item, base))]
        for path, item in _placed(rest, base, into).items():
            copy.entry(path, item)


def _placed(selected: Sequence[Selected], base: str, into: bool) -> dict[str, Selected]:
    """What comes where. The last one wins, in its place; a directory stays in front of what is in it."""
    entries: dict[str, Selected] = {}
    for item in selected:
        path = posixpath.join(base, item.target) if into or not item.named or item.target == "" else base
        path = path.rstrip("/")
        if path in entries and _is_directory(entries[path]) != _is_directory(item):
            raise _cannot_replace(path, _is_directory(item))
        if not _is_directory(item):
            entries.pop(path, None)
        if item.target or path not in entries:
            entries[path] = item
    return entries


def _is_directory(item: Selected) -> bool:
    return item.kind == "directory"


def _cannot_replace(path: str, is_directory: bool) -> InvalidParameter:
    return InvalidParameter(f"cannot copy to non-directory: /{path}" if is_directory else f"cannot replace to directory /{path} with file")


def _destination(layer: Layer, selected: Sequence[Selected], destination: str, workdir: str, several: bool) -> tuple[str, bool]:
    """Its path without links, and whether files go into it rather than in its place."""
    text = posixpath.join("/", workdir, destination or ".")
    place = layer.resolve(cleaned(text))
    is_meant = text.endswith(("/", "/.")) or destination in ("", ".")
    if place.status is not None and not place.is_directory and (is_meant or several or any(_is_directory(item) for item in selected)):
        raise InvalidParameter(f"cannot copy to non-directory: /{place.path}")
    files = [item for item in selected if item.named and not _is_directory(item)]
    if not (is_meant or place.is_directory) and (several or len(files) > 1):
        raise InvalidParameter(
            f"when using COPY with more than one source file, the destination must be a directory and end with a /: {destination!r}"
        )
    return place.path, is_meant or place.is_directory or several


class _Copy:
    def __init__(
        self, layer: Layer, sources: Sources, *, owner: Owner | None, mode: ChangeMode | None, devices: bool, unpacked_owner: Owner | None
    ) -> None:  # fmt: skip
        self._layer = layer
        self._sources = sources
        self._owner = owner
        self._unpacked_owner = unpacked_owner
        self._mode = mode
        self._devices = devices
        self._links: dict[tuple[int, int], str] = {}  # device and inode -> path of the first one

    def unpack(self, item: Selected, base: str) -> bool:
        """Whether it was an archive, which is in the layer now."""
        if item.kind != "file":
            return False
        fd = self._sources.open_file(item.path)
        with os.fdopen(fd, "rb") as file:
            if not is_archive(fd):
                return False
            file.seek(0)
            before = os.fstat(fd)
            unpack_archive(self._layer, file, base, owner=self._unpacked_owner)
            if not same(before, os.fstat(fd)):
                raise changed(item.path)
            return True

    def entry(self, path: str, item: Selected) -> None:
        """One of the selection, at its place."""
        layer = self._layer
        if not path:
            return  # the root itself, which keeps what it has
        fd = self._sources.open(item.path)
        try:
            status = os.fstat(fd)
            kind = stat.S_IFMT(status.st_mode)
            if (kind == stat.S_IFDIR) != _is_directory(item):
                raise changed(item.path)
            there = layer.status(path)
            if kind == stat.S_IFDIR:
                self._directory(path, item, fd, status, there)
                return
            layer.directory(path.rpartition("/")[0])
            if there is not None and stat.S_ISDIR(there.st_mode):
                raise _cannot_replace(path, False)
            self._other(path, item, fd, status)
        finally:
            os.close(fd)

    def _directory(self, path: str, item: Selected, fd: int, status: os.stat_result, there: os.stat_result | None) -> None:
        layer = self._layer
        if there is not None and not stat.S_ISDIR(there.st_mode):
            raise _cannot_replace(path, True)
        if item.target == "":
            layer.directory(path)  # what the contents go into is not what they come from
            return
        layer.directory(path.rpartition("/")[0])
        try:
            reader = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        except OSError as error:
            raise changed(item.path, error) from error
        try:
            layer.writer.put(self._info(status, f"{path}/"), kept_xattrs(reader))
        finally:
            os.close(reader)
        layer.note(path, is_directory=True, is_new=there is None)

    def _other(self, path: str, item: Selected, fd: int, status: os.stat_result) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFLNK) and (not self._devices or kind == stat.S_IFSOCK):
            if self._devices:
                return  # no archive can hold a socket, and nobody would listen
            raise InvalidParameter(f"/{item.path} is a {_WORDS.get(kind, OTHER)}: only files, directories and links are copied")
        info = self._info(status, path)
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            info.type, info.linkname = tarfile.LNKTYPE, self._links[key]
            self._layer.writer.put(info)
        elif kind == stat.S_IFREG:
            self._file(info, item, fd, status)
        else:
            if kind == stat.S_IFLNK:
                info.linkname = os.readlink("", dir_fd=fd)
            elif kind != stat.S_IFIFO:
                info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
            self._layer.writer.put(info)
        if status.st_nlink > 1:
            self._links.setdefault(key, path)
        self._layer.note(path, link=info.linkname if kind == stat.S_IFLNK else "")

    def _file(self, info: tarfile.TarInfo, item: Selected, path_fd: int, status: os.stat_result) -> None:
        fd = reader(path_fd, item.path, status)
        try:
            info.size = status.st_size
            complete = self._layer.writer.put_stream(info, kept_xattrs(fd), _contents(fd, status))
            if not (complete and same(status, os.fstat(fd))):
                raise changed(item.path)
        finally:
            os.close(fd)

    def _info(self, status: os.stat_result, name: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type = _KINDS[stat.S_IFMT(status.st_mode)]
        info.mode = stat.S_IMODE(status.st_mode)
        if self._mode and not stat.S_ISLNK(status.st_mode):
            info.mode = self._mode(info.mode, stat.S_ISDIR(status.st_mode)) & 0o7777
        info.uid, info.gid = self._owner or (status.st_uid, status.st_gid)
        info.mtime = self._layer.time_s(status.st_mtime_ns)
        return info


def _contents(fd: int, status: os.stat_result) -> Iterator[bytes]:
    """Chunks of a file; its holes are not read."""
    if status.st_size < _READ_BYTES or status.st_blocks * 512 >= status.st_size:
        while data := os.read(fd, _READ_BYTES):
            yield data
        return
    zeros = bytes(_READ_BYTES)
    at = 0
    while at < status.st_size:
        start = _seek(fd, at, os.SEEK_DATA, status.st_size)
        while at < start:
            yield zeros[: min(start - at, _READ_BYTES)]
            at += min(start - at, _READ_BYTES)
        end = _seek(fd, at, os.SEEK_HOLE, status.st_size) if at < status.st_size else at
        while at < end and (data := os.pread(fd, min(end - at, _READ_BYTES), at)):
            yield data
            at += len(data)
        if at < end:
            return


def _seek(fd: int, at: int, whence: int, size: int) -> int:
    try:
        return min(os.lseek(fd, at, whence), size)
    except OSError as error:
        if error.errno != errno.ENXIO:  # only a hole is left
            raise
        return size


def write_file(
    writer: TarWriter, root_fd: int, destination: str, name: str, content: bytes, *, workdir: str = "/", owner: Owner | None = None,
    mode: ChangeMode | None = None, source_date_epoch: int | None = None, several: bool = False,
) -> None:  # fmt: skip
    """A file that a heredoc holds, 0644; name: what it is called where the destination is a directory."""
    layer = Layer(writer, root_fd, owner=owner or (0, 0), source_date_epoch=source_date_epoch)
    item = Selected("", posixpath.basename(name), "file", named=True)
    base, into = _destination(layer, [item], destination, workdir, several)
    path = posixpath.join(base, item.target) if into else base
    layer.directory(path.rpartition("/")[0])
    if layer.is_directory(path):
        raise _cannot_replace(path, False)
    info = tarfile.TarInfo(path)
    info.mode = mode(0o644, False) & 0o7777 if mode else 0o644
    info.uid, info.gid = layer.owner
    info.mtime = layer.time_s()
    writer.put(info, data=content)


def write_archive(
    writer: TarWriter, stream: Readable, root_fd: int, destination: str, *, workdir: str = "/", owner: Owner | None = None,
    source_date_epoch: int | None = None,
) -> None:  # fmt: skip
    """An archive, compressed or not, unpacked beneath the directory `destination`."""
    layer = Layer(writer, root_fd, owner=owner or (0, 0), source_date_epoch=source_date_epoch)
    place = layer.resolve(cleaned(posixpath.join("/", workdir, destination or ".")))
    unpack_archive(layer, stream, place.path, owner=owner)


def write_directory(
    writer: TarWriter, root_fd: int, path: str, *, owner: Owner | None = None, source_date_epoch: int | None = None
) -> bool:
    """WORKDIR's directory, if it is not there -> whether anything was written."""
    layer = Layer(writer, root_fd, owner=owner or (0, 0), source_date_epoch=source_date_epoch)
    place = layer.resolve(cleaned(path))
    if place.is_directory:
        return False
    layer.directory(place.path)
    return True
