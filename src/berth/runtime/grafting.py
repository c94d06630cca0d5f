"""Mounts put into a running container, and taken out of it: open_tree and move_mount from a process that joins it.

    engine ── launcher ── {"kind": "graft", ...}, socket, pidfd ──▶ this process
       ◀── "r", or "e" + JSON {kind, message} ──┘

What is mounted is made first, on the host's side, as detached trees. Then the process joins the container's mount
namespace, where every path is resolved beneath the container's root: a link that leads out of it leads nowhere. From then
on nothing may be imported and no path of /proc looked up by name: both would be the container's files.
"""

import os
import stat

from berth import errors
from berth.linux import libc, mount, sockets
from berth.models.jsonlite import dumps
from berth.runtime import operations, sources, starter

Maps = tuple[list[dict], list[dict]]


def serve(message: dict, fds: "list[int]") -> None:
    """Does what `message` asks for in the container of the second of `fds`, a pidfd, and reports on the first; takes both over.

    remove: places of mounts; add: {destination, source, options} of new ones, with options as OCI has them and a source
    that is a path, a table (sources.py) or None for a tmpfs. again: an engine that was killed has begun with it, so that some
    of it may be done already. uid_mappings, gid_mappings: of the container's user namespace.
    """
    channel = sockets.socket(fileno=fds[0])
    try:
        _graft(message, fds[1])
        sockets.send(channel, b"r", [])
    except BaseException as error:
        sockets.send(channel, b"e" + dumps(errors.to_wire(error)).encode(), [])


def _graft(message: dict, pidfd: int) -> None:
    maps: Maps = message["uid_mappings"], message["gid_mappings"]
    tables = [entry["source"] for entry in message["add"] if isinstance(entry["source"], dict)]
    peers = {} if maps[0] else sources.clone_peers(tables)
    starter.own_mount_namespace()
    made = [-1 if entry["source"] is None else _tree(entry, maps, peers) for entry in message["add"]]
    place = _Container(pidfd, in_user_namespace=bool(maps[0]))
    # In memory only now: it belongs to the container's user namespace.
    trees = [tree if tree >= 0 else _memory(entry["destination"], mount.parse_options(entry["options"])) for entry, tree in zip(message["add"], made, strict=True)]
    undo: list[tuple[str, int]] = []
    try:
        for destination in message["remove"]:
            if place.is_mount(destination):
                undo.append((destination, place.copy_of(destination)))
                place.unmount(destination)
        for entry, tree in zip(message["add"], trees, strict=True):
            if not (message["again"] and place.has(tree, entry["destination"], by_inode=isinstance(entry["source"], str))):
                place.attach(tree, entry["destination"], like_below=entry["source"] is None and "mode=" not in ",".join(entry["options"]))
                undo.append((entry["destination"], -1))
    except BaseException:
        for destination, copy in reversed(undo):
            place.unmount(destination) if copy < 0 else place.attach(copy, destination)
        raise


def _tree(entry: dict, maps: Maps, peers: "dict[str, int]") -> int:
    options = mount.parse_options(entry["options"])
    source = entry["source"]
    if isinstance(source, dict):
        tree = peers.get(source["at"], -1)
        tree = tree if tree >= 0 else sources.tree(source, maps)
    else:
        source_fd = sources.open_path(source)
        tree = mount.clone_tree(source_fd, recursive=bool(options.flags & mount.MS_REC))
        os.close(source_fd)
    operations.change_tree(tree, (*mount.attribute_changes(options), options.recursive_set, options.recursive_clear, options.propagation))
    return tree


def _memory(destination: str, options: mount.Options) -> int:
    context = libc.fsopen("tmpfs")
    try:
        libc.fsconfig(context, libc.FSCONFIG_SET_STRING, "source", "tmpfs")
        for option in options.data:
            key, equals, value = option.partition("=")
            libc.fsconfig(context, libc.FSCONFIG_SET_STRING if equals else libc.FSCONFIG_SET_FLAG, key, value if equals else None)
        libc.fsconfig(context, libc.FSCONFIG_CMD_CREATE, None, None)
        return libc.fsmount(context, attributes=mount.attributes(options.flags))
    except OSError as error:
        raise errors.InvalidParameter(f"tmpfs does not take the options {','.join(options.data)!r} at {destination}: {error.strerror}") from None
    finally:
        os.close(context)


class _Container:
    """The container's mount namespace, which this process has joined for good."""

    def __init__(self, pidfd: int, *, in_user_namespace: bool) -> None:
        # The host's: what is mounted at /proc in there is the container's affair.
        self._proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.setns(pidfd, libc.CLONE_NEWNS | (libc.CLONE_NEWUSER if in_user_namespace else 0))
        except ProcessLookupError:
            raise errors.Conflict("the container is no longer running") from None
        if in_user_namespace:  # what is made for a mount belongs to the container's root
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_mount(self, destination: str) -> bool:
        """Whether something is mounted right there: it is on another mount than its directory."""
        try:
            place = mount.open_beneath(self._root, destination)
        except (FileNotFoundError, NotADirectoryError):
            return False
        parent = self._directory_of(place, destination)
        try:
            return self._mount_id(place) != self._mount_id(parent)
        finally:
            os.close(place)
            os.close(parent)

    def has(self, tree: int, destination: str, *, by_inode: bool) -> bool:
        """Whether it is mounted there already. by_inode: it shows what is there elsewhere, too, by which it is known."""
        if not self.is_mount(destination):
            return False
        place = mount.open_beneath(self._root, destination)
        try:
            return not by_inode or os.path.samestat(os.fstat(place), os.fstat(tree))
        finally:
            os.close(place)

    def _directory_of(self, place: int, destination: str) -> int:
        if mount.is_directory(place):
            return libc.openat2(place, "..", os.O_PATH, libc.RESOLVE_NO_MAGICLINKS)
        return mount.open_beneath(self._root, os.path.dirname(destination))

    def _mount_id(self, fd: int) -> str:
        info = os.open(f"fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            text = os.read(info, 4096).decode()
        finally:
            os.close(info)
        return next(line.split()[1] for line in text.splitlines() if line.startswith("mnt_id:"))

    def copy_of(self, destination: str) -> int:
        place = mount.open_beneath(self._root, destination)
        try:
            return mount.clone_tree(place, recursive=True)
        finally:
            os.close(place)

    def attach(self, tree: int, destination: str, *, like_below: bool = False) -> None:
        """like_below: a tmpfs with the mode of the directory that it covers, as at a start."""
        try:
            target = mount.make_beneath(self._root, destination, directory=mount.is_directory(tree))
        except OSError as error:
            raise errors.Conflict(f"no place for a mount can be made at {destination} in the container: {os.strerror(error.errno or 0).lower()}") from None
        try:
            if mount.is_directory(target) != mount.is_directory(tree):
                kinds = ("a file", "a directory")
                have, want = kinds[mount.is_directory(target)], kinds[mount.is_directory(tree)]
                raise errors.Conflict(f"cannot mount {want} on {destination}, which is there as {have}")
            if like_below:
                os.fchdir(tree)
                os.chmod(".", stat.S_IMODE(os.fstat(target).st_mode))
            mount.attach(tree, target)
        finally:
            os.close(target)

    def unmount(self, destination: str) -> None:
        """What is on top there; programs that have files of it open keep them."""
        place = mount.open_beneath(self._root, destination)
        os.fchdir(self._proc)
        try:
            # Else what is mounted beneath would go from the host, too, if that is a peer.
            libc.mount_setattr(place, "", libc.AT_EMPTY_PATH | libc.AT_RECURSIVE, propagation=mount.MS_PRIVATE)
            libc.umount2(f"fd/{place}", libc.MNT_DETACH)
        except OSError as error:
            raise errors.Conflict(f"what is mounted at {destination} cannot be taken away: {os.strerror(error.errno or 0).lower()}") from None
        finally:
            os.close(place)
