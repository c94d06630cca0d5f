"""A root file system for who is not in the container: mounted in a namespace of its own, handed out as a descriptor.

    engine ── launcher ── {"kind": "view", ...}, socket ──▶ viewer
       ◀── "r", descriptor of a detached tree of mounts ──┘  or "e" + JSON {kind, message}

The viewer ends at once. The tree goes away with the last descriptor on it, however its owner ends: there is
no mount anybody could see or would have to take down.
"""

import os

from berth import errors
from berth.linux import libc, mount, sockets
from berth.models.jsonlite import dumps
from berth.runtime import container, starter


def serve(message: dict, fds: list[int]) -> None:
    """Makes the view that `message` describes and sends it on the first of `fds`, which it takes over.

    rootfs: as for a start, with read_only where nothing is to be written; target: a directory to mount on;
    uid_mappings, gid_mappings: of the container; binds: (source, destination, read-only) of what it has from the host,
    where a source is a path or a table (sources.py).
    Without rootfs, the root of the mount namespace that the second of `fds` is open on, and nothing mounted in it.
    """
    channel = sockets.socket(fileno=fds[0])
    try:
        sockets.send(channel, b"r", [_view(message) if message["rootfs"] else _root_of(fds[1])])
    except BaseException as error:
        sockets.send(channel, b"e" + dumps(errors.to_wire(error)).encode())


def _view(message: dict) -> int:
    starter.own_mount_namespace()
    target = message["target"]
    if not os.path.isdir(target):
        os.mkdir(target, 0o755)  # not its parents: they are gone where the container is being removed
    rootfs, maps = message["rootfs"], (message["uid_mappings"], message["gid_mappings"])
    look_only = bool(rootfs.get("read_only"))
    if look_only and message["binds"]:
        rootfs = {**rootfs, "scratch": _scratch(rootfs)}
    container.mount_root(rootfs, target, *maps)
    root = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for source, destination, read_only in message["binds"]:
        _bind(root, source, destination, read_only, maps)
    if look_only:
        mount.set_attributes(root, set_=libc.MOUNT_ATTR_RDONLY, clear=0)
    return mount.clone_tree(root, recursive=True)


def _scratch(rootfs: dict) -> str:
    """In memory, for this view alone: a container that was never started has no places yet for what it mounts."""
    at = f"{rootfs['base']}/scratch"
    os.makedirs(at, mode=0o700, exist_ok=True)
    libc.mount("tmpfs", at, "tmpfs", mount.MS_NODEV | mount.MS_NOSUID, "mode=700,size=1m")
    for name in ("upper", "work"):
        os.mkdir(f"{at}/{name}", 0o755)
    top = os.stat(rootfs["upper"])
    os.chown(f"{at}/upper", top.st_uid, top.st_gid)
    os.chmod(f"{at}/upper", top.st_mode & 0o7777)
    return at


def _root_of(namespace_fd: int) -> int:
    """The root mount of a running container. Nothing may be imported here: it would come from the container's files."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    libc.setns(namespace_fd, libc.CLONE_NEWNS)
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return mount.clone_tree(root, recursive=False)
    finally:
        libc.setns(own, libc.CLONE_NEWNS)


def _bind(root: int, source: "str | dict", destination: str, read_only: bool, maps: "tuple[list[dict], list[dict]]") -> None:
    """What the container has from the host, in its place. What is gone from the host is left out."""
    try:
        tree = _tree_of(source, maps)
    except (FileNotFoundError, errors.BerthError):
        return  # a start would say what is wrong with it
    try:
        target = mount.make_beneath(root, destination, directory=mount.is_directory(tree))
        if read_only:
            mount.set_attributes(tree, set_=libc.MOUNT_ATTR_RDONLY, clear=0, recursive=True)
        mount.attach(tree, target)
        os.close(target)
    finally:
        os.close(tree)


def _tree_of(source: "str | dict", maps: "tuple[list[dict], list[dict]]") -> int:
    if isinstance(source, dict):
        from berth.runtime import sources

        return sources.tree(source, maps)
    source_fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        return mount.clone_tree(source_fd, recursive=True)
    finally:
        os.close(source_fd)
