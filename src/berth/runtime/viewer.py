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
    uid_mappings, gid_mappings: of the container; binds: (source, destination, read-only) of its host paths.
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
    container.mount_root(message["rootfs"], target, message["uid_mappings"], message["gid_mappings"])
    root = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for source, destination, read_only in message["binds"]:
        _bind(root, source, destination, read_only, bool(message["rootfs"].get("read_only")))
    return mount.clone_tree(root, recursive=True)


def _root_of(namespace_fd: int) -> int:
    """The root mount of a running container. Nothing may be imported here: it would come from the container's files."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    libc.setns(namespace_fd, libc.CLONE_NEWNS)
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return mount.clone_tree(root, recursive=False)
    finally:
        libc.setns(own, libc.CLONE_NEWNS)


def _bind(root: int, source: str, destination: str, read_only: bool, look_only: bool) -> None:
    """A host path where the container has it. What is gone from the host, or has no place yet, is left out."""
    try:
        source_fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
        if look_only:
            target = mount.open_beneath(root, destination)
        else:
            target = mount.make_beneath(root, destination, directory=mount.is_directory(source_fd))
    except FileNotFoundError:
        return
    tree = mount.clone_tree(source_fd, recursive=True)
    if read_only:
        mount.set_attributes(tree, set_=libc.MOUNT_ATTR_RDONLY, clear=0, recursive=True)
    mount.attach(tree, target)
    for fd in (source_fd, tree, target):
        os.close(fd)
