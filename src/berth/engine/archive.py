"""Files of a container, out and in: what `docker cp` and the archive endpoints do.

A path is cleaned as text, as Docker does it, and from then on resolved by the kernel beneath the root's
descriptor: nothing that a container can put in the way leads out of it.
"""

import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO

from berth import errors
from berth.engine.mountpoints import of_record
from berth.engine.registry import Container
from berth.engine.rootview import Maps, RootViews
from berth.linux import libc
from berth.models import times
from berth.oci import users
from berth.store import rootfiles
from berth.store.compression import open_stream
from berth.store.tarwriter import TarWriter, on_kernel_filesystem
from berth.store.unpacking import Ids, Unpacker

_RESOLVE = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
_MAX_LINKS = 40
_ATTEMPTS = 8
# Go's os.FileMode, which the stat header carries.
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}  # fmt: skip
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}

Writer = Callable[[IO[bytes]], None]


class Archives:
    """Reads and writes files of containers, running or not."""

    def __init__(self, roots: RootViews) -> None:
        self._roots = roots

    async def stat(self, container: Container, name: str, path: str) -> dict:
        """Docker's ContainerPathStat of what `path` names; a link is not followed but for a trailing slash.

        name: what the client called the container.
        """
        async with self._roots.live(container, write=False) as root:
            fd = _open(root, path, name)
            try:
                return _path_stat(root, fd, clean(path))
            finally:
                os.close(fd)

    @asynccontextmanager
    async def read(self, container: Container, name: str, path: str) -> AsyncIterator[tuple[dict, Writer]]:
        """The stat of `path`, and a function that writes its archive; it blocks, and is of use within the context."""
        ids = inside(self._roots.maps(container))
        async with self._roots.live(container, write=False) as root:
            fd = _open(root, path, name)
            try:
                first = member_name(clean(path))

                def write(out: IO[bytes]) -> None:
                    writer = TarWriter(out, ids)
                    writer.add_tree(fd, first)
                    writer.close()

                yield _path_stat(root, fd, clean(path)), write
            finally:
                os.close(fd)

    @asynccontextmanager
    async def extract(
        self, container: Container, name: str, path: str, *, keep_kinds: bool, copy_ids: bool
    ) -> AsyncIterator[Callable[[IO[bytes]], None]]:
        """A function that unpacks an archive in the directory `path`, which is there; blocks.

        keep_kinds: no directory gives way to something else nor the other way round; copy_ids: all that is made
        belongs to the container's user and not to the archive's owners.
        """
        maps = self._roots.maps(container)
        async with self._roots.live(container, write=True) as root:
            target = canonical(root, clean(path))
            self._check_target(root, container, name, path, target)
            ids = self._owner(root, container, maps) if copy_ids else outside(maps)

            def unpack(stream: IO[bytes]) -> None:
                unpacker = Unpacker(root, whiteouts=False, base=target, keep_kinds=keep_kinds, ids=ids)
                unpacker.unpack(open_stream(stream), lambda data: None)

            yield unpack

    def _check_target(self, root: int, container: Container, name: str, path: str, target: str) -> None:
        fd = _open(root, target, name, shown=path, follow=True)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise errors.InvalidParameter("extraction point is not a directory")
            if on_kernel_filesystem(fd):
                raise errors.InvalidParameter(f"{path} is on a file system of the kernel's own: nothing can be copied there")
        finally:
            os.close(fd)
        within = [point for point in of_record(container.record) if _is_below(target, point.destination)]
        if not within:
            if container.record.host.get("ReadonlyRootfs"):
                raise errors.InvalidParameter("container rootfs is marked read-only")
        elif max(within, key=lambda point: len(point.destination)).read_only:
            raise errors.InvalidParameter("mounted volume is marked read-only")

    def _owner(self, root: int, container: Container, maps: Maps) -> Ids:
        user = container.record.config.get("User") or ""
        if not user:
            return outside(maps)
        passwd, group = (rootfiles.read_beneath(root, f"etc/{name}") for name in ("passwd", "group"))
        resolved = users.resolve(user, [], passwd, group)
        owner = outside(maps)(resolved.uid, resolved.gid)
        return lambda uid, gid: owner


# -- paths ------------------------------------------------------------------------------------------


def clean(path: str) -> str:
    """An absolute path without `..` and doubled slashes; a trailing '/' or '/.', which asks to follow a link, stays."""
    cleaned = os.path.normpath("/" + path.lstrip("/"))
    if path.endswith("/.") or path == ".":
        return cleaned.rstrip("/") + "/."
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def member_name(cleaned: str) -> str:
    """What the archive's first member is called: the last part of the path asked for, whatever it leads to."""
    return cleaned.rstrip("/").rpartition("/")[2] or "/"


def _open(root: int, path: str, name: str, *, shown: str = "", follow: bool = False) -> int:
    """An O_PATH descriptor of a path beneath the root, or the error in Docker's words."""
    cleaned = clean(path)
    directory = cleaned.endswith(("/", "/."))
    flags = os.O_PATH | (os.O_DIRECTORY if directory else 0 if follow else os.O_NOFOLLOW)
    try:
        fd = _open_settled(root, cleaned, flags)
    except FileNotFoundError:
        raise _not_found(shown or path, name) from None
    except OSError as error:
        raise errors.InvalidParameter(f"lstat {cleaned}: {os.strerror(error.errno or 0).lower()}") from None
    if not stat.S_ISDIR(os.fstat(fd).st_mode) and on_kernel_filesystem(fd):
        os.close(fd)
        raise _not_found(shown or path, name)
    return fd


def _not_found(path: str, name: str) -> errors.NotFound:
    return errors.NotFound(f"Could not find the file {path} in container {name}")


def _open_settled(root: int, path: str, flags: int) -> int:
    """The kernel gives up (EAGAIN) where somebody renames directories in the way; not at once, here."""
    for _ in range(_ATTEMPTS):
        try:
            return libc.openat2(root, path, flags, _RESOLVE)
        except BlockingIOError:
            continue
    raise errors.Conflict(f"{path}: directories in its way are being moved around; try again")


def canonical(root: int, path: str) -> str:
    """The path without links, as far as it exists; for texts and for names, never to be opened without a check."""
    pending, links = [p for p in path.split("/") if p not in ("", ".")], 0
    done: list[str] = []
    while pending:
        part = pending.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        try:
            fd = _open_settled(root, "/" + "/".join([*done, part]), os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return "/" + "/".join([*done, part, *pending])
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode) or links == _MAX_LINKS:
                done.append(part)
                continue
            target = os.readlink("", dir_fd=fd)
        except OSError:
            done.append(part)
            continue
        finally:
            os.close(fd)
        links += 1
        done = [] if target.startswith("/") else done
        pending = [p for p in target.split("/") if p not in ("", ".")] + pending
    return "/" + "/".join(done)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _path_stat(root: int, fd: int, cleaned: str) -> dict:
    status = os.fstat(fd)
    target = canonical(root, cleaned) if stat.S_ISLNK(status.st_mode) else ""
    return {
        "name": member_name(cleaned), "size": status.st_size, "mode": go_mode(status.st_mode),
        "mtime": times.rfc3339(status.st_mtime_ns), "linkTarget": target,
    }  # fmt: skip


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    return mode & 0o777 | _GO_KINDS.get(stat.S_IFMT(mode), 0) | sum(go for bit, go in _GO_BITS.items() if mode & bit)


# -- ids --------------------------------------------------------------------------------------------


def _mapped(value: int, mappings: list[dict], source: str, target: str) -> int:
    for entry in mappings:
        if entry[source] <= value < entry[source] + entry["size"]:
            return int(entry[target] + value - entry[source])
    return value


def inside(maps: Maps) -> Ids:
    """Ids of the host -> ids of the container, where it has a user namespace."""
    return lambda uid, gid: (_mapped(uid, maps[0], "hostID", "containerID"), _mapped(gid, maps[1], "hostID", "containerID"))


def outside(maps: Maps) -> Ids:
    """Ids of the container -> ids of the host."""
    return lambda uid, gid: (_mapped(uid, maps[0], "containerID", "hostID"), _mapped(gid, maps[1], "containerID", "hostID"))
