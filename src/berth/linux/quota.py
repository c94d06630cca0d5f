"""Project quotas: a limit for what is below one directory, on ext4 and xfs.

A directory's files inherit its project number, and the file system counts what files of a number hold.
Source: quotactl(2), ioctl_xfs_fsgetxattr(2), linux/quota.h.
"""

import errno
import fcntl
import os
import struct

from berth.linux import libc

_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
_ATTRIBUTES = struct.Struct("=IIIII8x")  # flags, extent size, extents, project, copy-on-write extent size
_PROJECT = 3
_INHERITED = 0x200  # FS_XFLAG_PROJINHERIT
_PROJECT_QUOTA = 2
_GET_INFO, _SET_QUOTA = (command << 8 | _PROJECT_QUOTA for command in (0x800005, 0x800008))
_INFO_BYTES = 24
_LIMITS = struct.Struct("=8QI4x")  # struct if_dqblk: hard and soft limit in blocks, ..., which of them counts
_BLOCK_BYTES, _BLOCK_LIMITS_COUNT = 1024, 1


def why_not(path: str) -> str:
    """Why no limit can be set on the file system of `path`, for people; '' if one can."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.quotactl_fd(fd, _GET_INFO, 0, bytearray(_INFO_BYTES))
        return ""
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
            return f"the file system of {path} keeps no project quotas; mount it with prjquota (ext4 made with -O project,quota, or xfs)"
        return f"the file system of {path} does not say whether it keeps quotas: {os.strerror(error.errno or 0)}"
    finally:
        os.close(fd)


def project_of(path: str) -> int:
    """The project number of a directory; 0 for none, and where there are no such numbers."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(_ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size)))[_PROJECT])
    except OSError:
        return 0
    finally:
        os.close(fd)


def limit(path: str, project: int, size_bytes: int) -> None:
    """Gives an empty directory a project number, and the number a limit, which holds before anything is in it. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        blocks = -(-size_bytes // _BLOCK_BYTES)
        libc.quotactl_fd(fd, _SET_QUOTA, project, bytearray(_LIMITS.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS_COUNT)))
        values = list(_ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))))
        values[0], values[_PROJECT] = values[0] | _INHERITED, project
        fcntl.ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(*values))
    finally:
        os.close(fd)
