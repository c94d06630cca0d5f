"""Mounts: options to flags (pure), and mounting on descriptors so that no path is resolved twice.

Every target inside a container's root is opened once, beneath the root's descriptor, and mounted on
through that descriptor (`move_mount` with an empty path, or `/proc/self/fd/N` for mount(2)): between
the look-up and the mount nobody can swap it for a link (CVE-2021-30465).

Source: mount(2), mount_setattr(2), fsopen(2) as in Linux 6.1; OCI runtime spec, config.md#mounts.
"""

import errno
import os
import stat

from berth.errors import InvalidSpec
from berth.linux import libc

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_MANDLOCK, MS_DIRSYNC, MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME = 64, 128, 256, 1024, 2048
MS_BIND, MS_MOVE, MS_REC, MS_SILENT = 4096, 8192, 16384, 32768
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_I_VERSION, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 23, 1 << 24, 1 << 25

_SET = {
    "ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "sync": MS_SYNCHRONOUS,
    "mand": MS_MANDLOCK, "dirsync": MS_DIRSYNC, "noatime": MS_NOATIME, "nodiratime": MS_NODIRATIME,
    "bind": MS_BIND, "rbind": MS_BIND | MS_REC, "relatime": MS_RELATIME, "strictatime": MS_STRICTATIME,
    "iversion": MS_I_VERSION, "lazytime": MS_LAZYTIME, "remount": MS_REMOUNT, "silent": MS_SILENT,
    "nosymfollow": MS_NOSYMFOLLOW,
}  # fmt: skip
_CLEAR = {
    "rw": MS_RDONLY, "suid": MS_NOSUID, "dev": MS_NODEV, "exec": MS_NOEXEC, "async": MS_SYNCHRONOUS,
    "nomand": MS_MANDLOCK, "atime": MS_NOATIME, "diratime": MS_NODIRATIME, "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME, "noiversion": MS_I_VERSION, "nolazytime": MS_LAZYTIME, "loud": MS_SILENT,
    "symfollow": MS_NOSYMFOLLOW, "defaults": 0,
}  # fmt: skip
_ATIME = MS_NOATIME | MS_RELATIME | MS_STRICTATIME
PROPAGATION = {
    "private": MS_PRIVATE, "rprivate": MS_PRIVATE | MS_REC, "slave": MS_SLAVE, "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED, "rshared": MS_SHARED | MS_REC, "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}  # fmt: skip
# Attributes that apply to a whole tree at once, through mount_setattr with AT_RECURSIVE: option -> (field, value).
# The access times are one field of three bits, so whatever sets one clears all; 0 in it is relatime.
_RECURSIVE = {
    **{
        option: change
        for on, off, attribute in (
            ("rro", "rrw", libc.MOUNT_ATTR_RDONLY), ("rnosuid", "rsuid", libc.MOUNT_ATTR_NOSUID),
            ("rnodev", "rdev", libc.MOUNT_ATTR_NODEV), ("rnoexec", "rexec", libc.MOUNT_ATTR_NOEXEC),
            ("rnodiratime", "rdiratime", libc.MOUNT_ATTR_NODIRATIME),
            ("rnosymfollow", "rsymfollow", libc.MOUNT_ATTR_NOSYMFOLLOW),
        )
        for option, change in ((on, (attribute, attribute)), (off, (attribute, 0)))
    },
    **{
        option: (libc.MOUNT_ATTR__ATIME, kind)
        for option, kind in (
            ("rnoatime", libc.MOUNT_ATTR_NOATIME), ("rstrictatime", libc.MOUNT_ATTR_STRICTATIME), ("rrelatime", 0),
            ("ratime", 0), ("rnorelatime", 0), ("rnostrictatime", 0),
        )
    },
}  # fmt: skip
_ATTR_OF_FLAG = {
    MS_RDONLY: libc.MOUNT_ATTR_RDONLY, MS_NOSUID: libc.MOUNT_ATTR_NOSUID, MS_NODEV: libc.MOUNT_ATTR_NODEV,
    MS_NOEXEC: libc.MOUNT_ATTR_NOEXEC, MS_NODIRATIME: libc.MOUNT_ATTR_NODIRATIME,
    MS_NOSYMFOLLOW: libc.MOUNT_ATTR_NOSYMFOLLOW, MS_NOATIME: libc.MOUNT_ATTR_NOATIME,
    MS_STRICTATIME: libc.MOUNT_ATTR_STRICTATIME,
}  # fmt: skip


_MOST_LINKS = 40  # as the kernel, path_resolution(7)


class Options:
    """Parsed mount options.

    flags: MS_* bits; cleared: MS_* bits a person switched off; propagation: MS_* or 0;
    recursive_set, recursive_clear: MOUNT_ATTR_* bits; data: what is left, for the file system;
    idmap: "idmap", "ridmap" or ""; maps: what crun's idmap=MAPS says; copy_up: OCI's tmpcopyup.
    """

    __slots__ = ("cleared", "copy_up", "data", "flags", "idmap", "maps", "propagation", "recursive_clear", "recursive_set")

    def __init__(self) -> None:
        self.flags = self.cleared = self.propagation = self.recursive_set = self.recursive_clear = 0
        self.data: list[str] = []
        self.idmap = self.maps = ""
        self.copy_up = False


def parse_options(options: list[str]) -> Options:
    """OCI mount options -> Options. Of two that contradict each other the last counts. What is not an
    option of mount(8) is file-system data."""
    parsed = Options()
    for option in options:
        if option in _SET:
            flag = _SET[option]
            if flag & _ATIME:
                parsed.flags &= ~_ATIME
            parsed.flags |= flag
            parsed.cleared &= ~flag
        elif option in _CLEAR:
            parsed.flags &= ~_CLEAR[option]
            parsed.cleared |= _CLEAR[option]
        elif option in PROPAGATION:
            parsed.propagation = PROPAGATION[option]
        elif option in _RECURSIVE:
            field, set_ = _RECURSIVE[option]
            clear = field if field == libc.MOUNT_ATTR__ATIME else field & ~set_
            parsed.recursive_set = parsed.recursive_set & ~field | set_
            parsed.recursive_clear = parsed.recursive_clear & ~field | clear
        elif option in ("idmap", "ridmap"):
            parsed.idmap = option
        elif option.startswith(("idmap=", "ridmap=")):
            parsed.idmap, _, parsed.maps = option.partition("=")
        elif option == "tmpcopyup":
            parsed.copy_up = True
        else:
            parsed.data.append(option)
    return parsed


def option_names() -> list[str]:
    """Every option that is not a file system's own."""
    return [*_SET, *_CLEAR, *PROPAGATION, *_RECURSIVE, "idmap", "ridmap", "tmpcopyup"]


def attributes(flags: int) -> int:
    """MS_* bits -> MOUNT_ATTR_* bits."""
    return sum(attr for flag, attr in _ATTR_OF_FLAG.items() if flags & flag)


def attribute_changes(options: Options) -> tuple[int, int]:
    """MOUNT_ATTR_* bits to set and to clear on an existing mount, for what a person asked for."""
    set_ = attributes(options.flags)
    clear = attributes(options.cleared) & ~set_
    # relatime is 0 in the field of access times: there is no bit to set, only others to clear.
    return set_, clear | (libc.MOUNT_ATTR__ATIME if options.flags & MS_RELATIME else 0)


# -- opening beneath a root ----------------------------------------------------------------------


def open_beneath(root_fd: int, path: str, flags: int = os.O_PATH) -> int:
    """Opens `path` as a process whose root is `root_fd` would, links included; never leaves the root.

    Magic links (/proc/*/fd, /proc/*/root) are refused: they lead out of any root.
    """
    return libc.openat2(root_fd, path or "/", flags, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS)


def make_beneath(root_fd: int, path: str, *, directory: bool, mode: int = 0o755) -> int:
    """Opens `path` beneath `root_fd` (O_PATH), making what is missing of it, also behind a link that dangles.

    directory: whether the last part is made as a directory or an empty file.
    Returns a descriptor owned by the caller. Raises OSError; InvalidSpec if a part is not a directory.
    """
    try:
        return open_beneath(root_fd, path)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidSpec(f"mount destination {path!r} has a part '..' that does not exist")
    return _make_parts(root_fd, parts, directory, mode, _MOST_LINKS)


def _make_parts(root_fd: int, parts: list[str], directory: bool, mode: int, links: int) -> int:
    parent = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    done = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        above, done = done, f"{done}/{part}"
        try:
            child = open_beneath(root_fd, done)
        except FileNotFoundError:
            try:
                child = _make_one(parent, part, directory or not last, mode)
            except FileExistsError:
                # A link that dangles, as /etc/resolv.conf of many an image: made is what it points to, in the root.
                if not links:
                    raise OSError(errno.ELOOP, f"{done}: {os.strerror(errno.ELOOP)}") from None
                target = os.readlink(part, dir_fd=parent)
                whole = "/".join(("" if target.startswith("/") else above, target, *parts[number + 1 :]))
                return _make_parts(root_fd, [p for p in whole.split("/") if p not in ("", ".")], directory, mode, links - 1)
            finally:
                os.close(parent)
        else:
            os.close(parent)
        parent = child
    return parent


def _make_one(parent: int, name: str, directory: bool, mode: int) -> int:
    if directory:
        os.mkdir(name, mode, dir_fd=parent)
    else:
        # O_EXCL and O_NOFOLLOW: a dangling link of the image is not followed to somewhere else.
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=parent))
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def fd_path(fd: int) -> str:
    """A path that names what `fd` is open on, for calls that take only paths."""
    return f"/proc/self/fd/{fd}"


# -- mounting ------------------------------------------------------------------------------------


def mount_filesystem(target_fd: int, fstype: str, source: str, flags: int, data: list[str]) -> None:
    """Mounts a new file system of `fstype` on the directory `target_fd`."""
    libc.mount(source, fd_path(target_fd), fstype, flags, ",".join(data) or None)


def empty_directory() -> int:
    """A detached, empty and read-only directory that takes no file -> descriptor, owned by the caller."""
    context = libc.fsopen("tmpfs")
    try:
        for key, value in (("size", "0k"), ("nr_inodes", "2"), ("mode", "755")):
            libc.fsconfig(context, libc.FSCONFIG_SET_STRING, key, value)
        libc.fsconfig(context, libc.FSCONFIG_SET_FLAG, "ro", None)
        libc.fsconfig(context, libc.FSCONFIG_CMD_CREATE, None, None)
        return libc.fsmount(context, attributes=libc.MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)


def clone_tree(source_fd: int, *, recursive: bool) -> int:
    """A detached copy of the mount (or tree of mounts) at `source_fd` -> descriptor, owned by the caller."""
    flags = libc.OPEN_TREE_CLONE | libc.OPEN_TREE_CLOEXEC | libc.AT_EMPTY_PATH
    return libc.open_tree(source_fd, "", flags | (libc.AT_RECURSIVE if recursive else 0))


def attach(tree_fd: int, target_fd: int) -> None:
    """Attaches a detached mount at `target_fd`."""
    libc.move_mount(tree_fd, "", target_fd, "", libc.MOVE_MOUNT_F_EMPTY_PATH | libc.MOVE_MOUNT_T_EMPTY_PATH)


def set_attributes(tree_fd: int, *, set_: int, clear: int, recursive: bool = False, userns_fd: int = 0) -> None:
    """mount_setattr on a mount that a descriptor names; atime bits are replaced as one field."""
    if (set_ | clear) & libc.MOUNT_ATTR__ATIME:
        clear |= libc.MOUNT_ATTR__ATIME
    if userns_fd:
        set_ |= libc.MOUNT_ATTR_IDMAP
    if set_ or clear:
        flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if recursive else 0)
        libc.mount_setattr(tree_fd, "", flags, attr_set=set_, attr_clr=clear, userns_fd=userns_fd)


def set_propagation(path: str, propagation: int) -> None:
    """mount(2) with one of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, with or without MS_REC."""
    libc.mount(None, path, None, propagation, None)


def plain(text: str) -> str:
    """A path of mountinfo, in which space, tab, line break and backslash are octal."""
    for written, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(written, character)
    return text


def mount_points() -> dict[str, str]:
    """Where something is mounted in this process's mount namespace -> the type of what is on top there."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        found = [line.split(" ") for line in file]
    return {plain(fields[4]): fields[fields.index("-") + 1] for fields in found}


def is_directory(fd: int) -> bool:
    """Whether an O_PATH descriptor is open on a directory."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)
