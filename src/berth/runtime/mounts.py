"""Mounts that few containers ask for: idmapped ones, tmpcopyup, remounts, labels, and a root without pivot_root.

Imported before the clone (container.start), and only where a plan needs it: init's own start stays as
short as it is, and root of a user namespace may not be able to read this file.

Source: OCI runtime specification, config.md#mounts; mount_setattr(2); mount(2).
"""

import errno
import os

from berth.errors import InvalidSpec, NotImplementedHere
from berth.linux import confine, copying, libc, mount
from berth.runtime import operations
from berth.runtime.plan import IdMapped, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.runtime.context import Context

# statvfs(3) and mount(2) have the same numbers for these; all of them can be locked (mount_namespaces(7)).
_LOCKABLE = mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC | mount.MS_NOATIME | mount.MS_NODIRATIME


# -- in the parent: trees that only the host's root can make ------------------------------------------


def idmapped_trees(plan: Plan) -> "list[int]":
    """Detached mounts for plan.idmapped, in its order; descriptors owned by the caller.

    The kernel lets only who owns the file system's own user namespace map its ids, and that is the
    host's root: init, in a user namespace, could not (mount_setattr(2)).
    """
    trees: list[int] = []
    try:
        for entry in plan.idmapped:
            trees.append(_idmapped_tree(entry))
    except BaseException:
        for tree in trees:
            os.close(tree)
        raise
    return trees


def _idmapped_tree(entry: IdMapped) -> int:
    from berth.runtime import container

    try:
        source = os.open(entry.source, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidSpec(f"{entry.at}.source: bind source path does not exist: {entry.source}: {error.strerror}") from None
    try:
        tree = operations.clone_tree(entry.source, source, entry.recursive)
    finally:
        os.close(source)
    try:
        if entry.namespace:
            userns = os.open(entry.namespace, os.O_RDONLY | os.O_CLOEXEC)
        else:
            userns = container.user_namespace_fd(entry.uid_mappings, entry.gid_mappings)
        try:
            mount.set_attributes(tree, set_=0, clear=0, recursive=entry.whole_tree, userns_fd=userns)
        finally:
            os.close(userns)
        operations.change_tree(tree, entry.changes)
    except OSError as error:
        os.close(tree)
        raise NotImplementedHere(
            f"{entry.at}: {entry.source} cannot be idmapped: {os.strerror(error.errno or 0)}; that takes the host's root and a file system "
            "that supports it, such as ext4, xfs, btrfs or tmpfs (mount_setattr(2) lists them)"
        ) from None
    except BaseException:
        os.close(tree)
        raise
    return tree


# -- operations of init ---------------------------------------------------------------------------------


def attach_idmapped(context: "Context", number: int, destination: str) -> None:
    """Attaches the parent's tree of that number."""
    tree = context.trees[number]
    target = operations.open_target(context, destination, directory=mount.is_directory(tree))
    mount.attach(tree, target)
    os.close(target)
    os.close(tree)


def change_mount(context: "Context", destination: str, set_: int, clear: int) -> None:
    """Recursive attributes of a mount that is no bind mount."""
    top = mount.open_beneath(context.root_fd, destination)
    try:
        mount.set_attributes(top, set_=set_, clear=clear, recursive=True)
    finally:
        os.close(top)


def remount(context: "Context", destination: str, flags: int, cleared: int, data: "tuple[str, ...]") -> None:
    """New flags for what is mounted there already: of the mount with `bind`, of its file system without.

    As with runc: what is not among `flags` is switched off. Of what the kernel has locked, only what
    the bundle switched off by name is an error.
    """
    try:
        fd = mount.open_beneath(context.root_fd, destination)
    except FileNotFoundError:
        raise InvalidSpec(f"mounts: {destination}: option remount: it does not exist in the container") from None
    path = mount.fd_path(fd)
    text = ",".join(data) or None
    try:
        try:
            libc.mount(None, path, None, flags, text)
        except PermissionError:
            locked = os.fstatvfs(fd).f_flag & _LOCKABLE
            if not flags & mount.MS_BIND or locked & cleared:
                raise
            libc.mount(None, path, None, flags | locked, text)
    except OSError as error:
        raise InvalidSpec(
            f"mounts: {destination}: option remount: {os.strerror(error.errno or 0)}"
            + ("; it is not a mount, or an option is not one of its file system" if error.errno == errno.EINVAL else "")
            + ("; a user namespace cannot switch off what is on outside of it" if error.errno == errno.EPERM else "")
        ) from None
    finally:
        os.close(fd)


def require_selinux(context: "Context", label: str) -> None:
    """A label that nobody would enforce is not silently forgotten."""
    if not confine.selinux_enabled():
        raise NotImplementedHere(f"linux.mountLabel: {label!r}: this kernel has no SELinux, or no policy is loaded; leave it out")


def set_label(context: "Context", destination: str, label: str) -> None:
    """For a file system that does not take `context=`."""
    fd = mount.open_beneath(context.root_fd, destination)
    try:
        os.setxattr(mount.fd_path(fd), "security.selinux", label.encode() + b"\0")
    finally:
        os.close(fd)


def mount_copied(
    context: "Context", fstype: str, source: str, destination: str, flags: int, data: "tuple[str, ...]", keep_mode: bool
) -> None:  # fmt: skip
    """tmpcopyup: the file system begins with what the directory beneath it holds."""
    below = operations.open_target(context, destination, directory=True)  # stays on what is covered by the mount
    top = -1
    try:
        writable = flags & ~(mount.MS_RDONLY | mount.MS_NOSYMFOLLOW)
        operations.mount_filesystem(context, fstype, source, destination, writable, data, keep_mode)
        top = mount.open_beneath(context.root_fd, destination)
        if os.path.sameopenfile(below, top):
            raise InvalidSpec(f"mounts: {destination}: option tmpcopyup: nothing was mounted there")
        try:
            copying.Copy(top).directory(below, top, "", keep_mode)
        except OSError as error:
            raise InvalidSpec(
                f"mounts: {destination}: option tmpcopyup: {os.strerror(error.errno or 0)}"
                + ("; its size= is too small for what the directory holds" if error.errno == errno.ENOSPC else "")
            ) from None
        # Only now: a copy cannot be made into what is read-only.
        mount.set_attributes(top, set_=mount.attributes(flags & ~writable), clear=0)
    finally:
        os.close(below)
        if top >= 0:
            os.close(top)


# -- without pivot_root ------------------------------------------------------------------------------------


def move_root(context: "Context") -> None:
    """MS_MOVE and chroot, for a root on a ramdisk, from which pivot_root(2) cannot part.

    The host's mounts stay in this namespace, below the new root and out of sight. The kernel grants
    whoever has such a namespace new mounts of proc and sysfs as long as an uncovered one is in it
    (fs/namespace.c, mount_too_revealing), so those of the host go first: else masked paths could be
    had again from inside.
    """
    root = os.readlink(mount.fd_path(context.root_fd))
    mount.set_propagation("/", mount.MS_SLAVE | mount.MS_REC)  # no umount of ours may travel to the host
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        found = [line.split(" ") for line in file]
    for fields in reversed(found):
        top, at, fstype = fields[3], mount.plain(fields[4]), fields[fields.index("-") + 1]
        if fstype in ("proc", "sysfs") and top == "/" and not f"{at}/".startswith(f"{root}/"):
            _hide(at)
    libc.move_mount(context.root_fd, "", libc.AT_FDCWD, "/", libc.MOVE_MOUNT_F_EMPTY_PATH)
    os.fchdir(context.root_fd)
    os.chroot(".")
    os.chdir("/")


def _hide(at: str) -> None:
    """Unmounts, or covers what an outer user namespace has locked."""
    try:
        libc.umount2(at, libc.MNT_DETACH)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        libc.mount("tmpfs", at, "tmpfs", mount.MS_RDONLY, "size=0k,nr_inodes=2")


operations.OPERATIONS.update({
    function.__name__: function
    for function in (attach_idmapped, change_mount, remount, require_selinux, set_label, mount_copied)
})  # fmt: skip
