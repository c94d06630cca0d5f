"""Overlay mounts; and stubs: files that have all but their content, and say where that is.

A stub is what overlayfs makes of a file whose owner, mode or time a program changed (`metacopy`), and what berth makes where a
layer has a content that the store has already (store/contents.py): its content lies in a data-only layer, which shows nowhere else
in the mount. Nobody but the kernel and berth writes these marks: an archive's are refused, and a container sees and sets others.

Source: Documentation/filesystems/overlayfs.rst, "Metadata only copy up", "Data-only lower layers"; fs/overlayfs/params.c.
"""

import errno
import os

from berth.linux import libc

METACOPY, REDIRECT, OPAQUE = "trusted.overlay.metacopy", "trusted.overlay.redirect", "trusted.overlay.opaque"
MARKS = ("trusted.overlay.", "user.overlay.")  # what the names of all of overlayfs's own attributes start with
WITH_STUBS = ["metacopy=on"]
# OVL_MAX_STACK is 500; a data-only layer is one of them, and so is the empty directory over the layers of a mount that is only looked at.
MOST_LAYERS = 498


def filesystem(lower: list[str], upper: str, work: str, options: list[str], data: str = "") -> int:
    """A detached overlay mount through the new mount API -> descriptor.

    lower: topmost first; data: a data-only layer. Raises OSError(EINVAL or ENOSYS) on kernels that lack `lowerdir+` (before 6.7), or
    `datadir+` where there is `data` (6.8).
    """
    context = libc.fsopen("overlay")
    try:
        for directory in lower:
            libc.fsconfig(context, libc.FSCONFIG_SET_STRING, "lowerdir+", directory)
        if data:
            libc.fsconfig(context, libc.FSCONFIG_SET_STRING, "datadir+", data)
        if upper:
            libc.fsconfig(context, libc.FSCONFIG_SET_STRING, "upperdir", upper)
            libc.fsconfig(context, libc.FSCONFIG_SET_STRING, "workdir", work)
        libc.fsconfig(context, libc.FSCONFIG_SET_STRING, "source", "overlay")
        for option in options:
            key, separator, value = option.partition("=")
            command = libc.FSCONFIG_SET_STRING if separator else libc.FSCONFIG_SET_FLAG
            libc.fsconfig(context, command, key, value if separator else None)
        libc.fsconfig(context, libc.FSCONFIG_CMD_CREATE, None, None)
        return libc.fsmount(context)
    finally:
        os.close(context)


def mount(lower: list[str], upper: str, work: str, target: str, options: list[str], data: str = "") -> None:
    """Mounts an overlay at `target`; lower directories topmost first."""
    try:
        tree = filesystem(lower, upper, work, options, data)
    except OSError as error:
        if data or error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
        words = ["lowerdir=" + ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in lower), *options]
        words += [f"upperdir={upper}", f"workdir={work}"] if upper else []
        libc.mount("overlay", target, "overlay", 0, ",".join(words))
        return
    try:
        libc.move_mount(tree, "", libc.AT_FDCWD, target, libc.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def make_stub(fd: int, size_bytes: int, redirect: str) -> None:
    """Makes a stub of a new and empty file. redirect: absolute, from the top of the data-only layer."""
    os.ftruncate(fd, size_bytes)
    os.setxattr(fd, METACOPY, b"")
    os.setxattr(fd, REDIRECT, os.fsencode(redirect))


def redirect_of(fd: int) -> str | None:
    """Where the content of an open file is: a path from the top of the layers below, a name in its own directory, or '' for the same path
    in a layer below. None for a file that has its content."""
    try:
        os.getxattr(fd, METACOPY)
    except OSError:
        return None
    try:
        return os.fsdecode(os.getxattr(fd, REDIRECT))
    except OSError:
        return ""
