"""SELinux labels of what is mounted with `:z` (all containers share it) or `:Z` (this one's alone).

Without SELinux there is nothing to do: Docker accepts the options everywhere, and so does berth.
"""

import os

from berth import errors
from berth.linux import mount

ATTRIBUTE = "security.selinux"
_SHARED = "system_u:object_r:container_file_t:s0"
# A label on these would lock the host out of itself; the list that Docker's library has.
_NEVER = frozenset((
    "/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64", "/media", "/opt", "/proc", "/root",
    "/run", "/sbin", "/srv", "/sys", "/system", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
))  # fmt: skip


def label_of(kind: str, options: list[str]) -> str:
    """kind: 'z' or 'Z'; options: of --security-opt, where a container's own level may be named."""
    levels = [option.partition("level:")[2] for option in options if option.startswith(("label=level:", "label:level:"))]
    return f"{_SHARED.rpartition(':')[0]}:{levels[-1]}" if kind == "Z" and levels else _SHARED


def relabel(path: str, label: str, attribute: str = ATTRIBUTE) -> None:
    """Labels a file, or a tree without following a link in it."""
    clean = os.path.realpath(path)
    if clean in _NEVER:
        raise errors.InvalidParameter(f"SELinux relabeling of {path} is not allowed")
    value = label.encode() + b"\0"
    try:
        os.setxattr(clean, attribute, value)
        for _, directories, files, fd in os.fwalk(clean, follow_symlinks=False) if os.path.isdir(clean) else ():
            for name in (*directories, *files):
                _relabel_one(fd, name, attribute, value)
    except OSError as error:
        raise errors.SystemFailure(f"SELinux relabeling of {path}: {error.strerror}") from None


def _relabel_one(directory_fd: int, name: str, attribute: str, value: bytes) -> None:
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    except FileNotFoundError:
        return  # somebody was quicker
    try:
        os.setxattr(mount.fd_path(fd), attribute, value)
    finally:
        os.close(fd)
