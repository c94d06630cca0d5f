"""What a mount of a container shows, where that is more than a path of the host: made by the starter, or by a viewer.

A source is a table:

    at          a place in the container's own directory; what is made is mounted there, in the starter's mount namespace,
                and the bundle names it as the source of a bind mount: any runtime takes that
    path        of the host; or `layers`: an image's, as `container.mount_root` takes them
    subpath     what of it is meant: resolved beneath it, whatever links a container has put there
    seen        [uid, gid] of the host: the owner of what is mounted is seen as these; or uid_mappings and gid_mappings
    discarded   whether an image can be written to, and nothing of that is kept
    propagation 'shared' or 'slave': it is to be a peer, or a follower, of the mount that it is a copy of
    shown       how people call it

Imported only where a container has such a source.
"""

import errno
import os

from berth.errors import Conflict, InvalidSpec, NotImplementedHere
from berth.linux import libc, mount
from berth.runtime import container, operations

Maps = tuple[list[dict], list[dict]]


def clone_peers(sources: "list[dict]") -> "dict[str, int]":
    """Detached trees of those that are to be peers of the host's mounts, by `at`; owned by the caller.

    To be called in the mount namespace whose peers they are: the starter's own only follows it.
    """
    found: dict[str, int] = {}
    for source in sources:
        if source["propagation"] == "shared":
            found[source["at"]] = tree(source, ([], []))
    return found


def place(source: dict, maps: Maps, tree_fd: int = -1) -> None:
    """Mounts a source at its place. maps: of the container's user namespace; tree_fd: the tree, if there is one already."""
    made = tree_fd if tree_fd >= 0 else tree(source, maps)
    try:
        at = source["at"]
        os.makedirs(os.path.dirname(at), mode=0o700, exist_ok=True)
        if mount.is_directory(made):
            os.makedirs(at, exist_ok=True)
        else:
            os.close(os.open(at, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        target = os.open(at, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        mount.attach(made, target)
        os.close(target)
    finally:
        if tree_fd < 0:
            os.close(made)


def tree(source: dict, maps: Maps) -> int:
    """A detached tree of mounts -> descriptor, owned by the caller."""
    top = _open_image(source, maps) if source.get("layers") is not None else open_path(source["path"])
    try:
        inner = _beneath(top, source) if source["subpath"] else os.dup(top)
    finally:
        os.close(top)
    try:
        if source["propagation"]:
            _check_peers(inner, source)
        made = _clone(source, inner)
        try:
            _map_ids(made, inner, source)
        except BaseException:
            os.close(made)
            raise
        return made
    finally:
        os.close(inner)


def _clone(source: dict, inner: int) -> int:
    if source.get("layers") is not None:
        return mount.clone_tree(inner, recursive=source["recursive"])
    return operations.clone_tree(source["path"], inner, source["recursive"])


def open_path(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidSpec(f"bind source path does not exist: {path}: {error.strerror}") from None


def _beneath(top: int, source: dict) -> int:
    """Held from here on: what somebody makes of the path afterwards changes nothing."""
    try:
        return libc.openat2(top, source["subpath"], os.O_PATH, libc.RESOLVE_BENEATH | libc.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        why = "it leads out of it" if error.errno == errno.EXDEV else os.strerror(error.errno or 0).lower()
        raise Conflict(f"subpath {source['subpath']!r} of {source['shown']}: {why}") from None


def _open_image(source: dict, maps: Maps) -> int:
    """The image's root as a container has it, read-only or with a layer of its own."""
    at, base, writable = f"{source['at']}.image", f"{source['at']}.base", bool(source.get("discarded"))
    for path in (at, f"{base}/empty", f"{base}/work"):
        os.makedirs(path, mode=0o755, exist_ok=True)
    work = f"{base}/work" if writable else ""
    rootfs = {**source["layers"], "upper": f"{base}/empty", "work": work, "base": base, "read_only": not writable}
    container.mount_root(rootfs, at, *maps)
    return os.open(at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


# -- ids --------------------------------------------------------------------------------------------------


def _map_ids(made: int, inner: int, source: dict) -> None:
    uids, gids = source["uid_mappings"], source["gid_mappings"]
    if source["seen"]:
        owner = os.fstat(inner)
        uids, gids = (
            [{"containerID": own, "hostID": seen, "size": 1}] for own, seen in zip((owner.st_uid, owner.st_gid), source["seen"], strict=True)
        )
    if not uids:
        return
    userns = container.user_namespace_fd(uids, gids)
    try:
        mount.set_attributes(made, set_=0, clear=0, recursive=True, userns_fd=userns)
    except OSError as error:
        raise NotImplementedHere(f"idmap of {source['shown']}: {_why_not_mapped(error, inner)}") from None
    finally:
        os.close(userns)


def _why_not_mapped(error: OSError, inner: int) -> str:
    fields = _mount_of(inner)
    fstype, at = fields[fields.index("-") + 1], mount.plain(fields[4])
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split(" ") for line in file]
    below = [f"{mount.plain(line[4])} ({line[line.index('-') + 1]})" for line in lines if mount.plain(line[4]).startswith(f"{at.rstrip('/')}/")]
    inside = os.readlink(mount.fd_path(inner))
    below = [text for text in below if text.startswith(f"{inside.rstrip('/')}/")]
    text = f"its file system, {fstype}, cannot be idmapped here: {os.strerror(error.errno or 0).lower()}"
    if below:
        text += f"; or it is one of those mounted below it: {', '.join(below[:5])}: bind-recursive=disabled leaves them out"
    return f"{text}. ext4, xfs, btrfs and tmpfs can be on every kernel since 6.3 (mount_setattr(2)); else chown a copy, or run the container as the owner"


# -- propagation --------------------------------------------------------------------------------------------


def _check_peers(inner: int, source: dict) -> None:
    """Docker's refusals: a copy of a private mount would be shared with nobody."""
    fields = _mount_of(inner)
    optional = [field.partition(":")[0] for field in fields[6 : fields.index("-")]]
    wanted = ("shared",) if source["propagation"] == "shared" else ("shared", "master")
    if not set(wanted) & set(optional):
        words = "not a shared mount" if source["propagation"] == "shared" else "not a shared or slave mount"
        raise Conflict(f"path {source['shown']} is mounted on {mount.plain(fields[4])} but it is {words}")


def _mount_of(fd: int) -> "list[str]":
    """The line of mountinfo about the mount that a descriptor is on."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        identity = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return next(fields for line in file if (fields := line.split(" "))[0] == identity)

