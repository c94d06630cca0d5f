"""What init does to the container's namespaces, one function for each operation of `runtime.plan`.

All of it is the child's side, with the runtime's rights, before the container's program is looked at. A path
of the container is opened beneath the descriptor of its root, once, and used by descriptor from then on.
"""

import errno
import fcntl
import os
import stat
import struct
import termios

from berth.errors import InvalidSpec
from berth.linux import libc, mount, sockets
from berth.runtime import enter, hooks
from berth.runtime.context import Context, await_parent
from berth.runtime.plan import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# asm-generic/ioctls.h; the same on every architecture berth knows
_TIOCGPTPEER, _TIOCSPTLCK = 0x5441, 0x40045431
_MULTIPLEXER = os.makedev(5, 2)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
# For root of a user namespace.
_NEEDED_TO_MOUNT = {
    "proc": "it takes a pid namespace of the container's own, and a /proc of ours that nothing is mounted over",
    "mqueue": "it takes an ipc namespace of the container's own",
}


def open_host_paths(context: Context) -> None:
    """Opens root and bind sources while we still are the host's root.

    Root of a user namespace is nobody in particular to the host: it could not pass the engine's own
    directories, nor a person's private ones that are given with -v.
    """
    for operation in context.plan.operations:
        if operation.name in ("prepare_root", "bind_mount", "make_device"):
            path = str(operation.arguments[0])
            try:
                opened = _open_root(context, path) if operation.name == "prepare_root" else os.open(path, os.O_PATH | os.O_CLOEXEC)
                context.opened[path] = opened
            except OSError:
                pass  # the operation says what is wrong with it


def _open_root(context: Context, path: str) -> int:
    """The root's directory, the caller's. What leads to it may be links of the host, it is none itself, as with runc.

    Whoever can write where it is could otherwise make the host's root the container's, even while we look.
    """
    if path in context.opened:
        return _open_host_path(context, path)
    parent, name = os.path.split(path.rstrip("/"))
    return libc.openat2(libc.AT_FDCWD, f"{os.path.realpath(parent)}/{name}", os.O_PATH | os.O_DIRECTORY, libc.RESOLVE_NO_SYMLINKS)


def _open_host_path(context: Context, path: str) -> int:
    """An O_PATH descriptor that the caller owns."""
    if path in context.opened:
        return fcntl.fcntl(context.opened[path], fcntl.F_DUPFD_CLOEXEC, 3)
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def prepare_root(context: Context, root_path: str, propagation: int) -> None:
    mount.set_propagation("/", propagation)
    try:
        root_fd = _open_root(context, root_path)
    except OSError as error:
        raise InvalidSpec(f"root.path: {root_path!r}: {error.strerror}") from None
    # pivot_root wants a mount point, and one of our own whose propagation we may choose.
    tree = mount.clone_tree(root_fd, recursive=True)
    mount.attach(tree, root_fd)
    os.close(root_fd)
    context.root_fd = tree


def mount_filesystem(
    context: Context, fstype: str, source: str, destination: str, flags: int, data: tuple[str, ...], keep_mode: bool
) -> None:
    """keep_mode: a tmpfs over a directory that is there has that directory's mode, as with runc."""
    if keep_mode:
        data = (*_mode_beneath(context, destination), *data)
    at = open_target(context, destination, directory=True)
    try:
        if fstype in ("proc", "sysfs"):
            _refuse_link_parent(context, destination, at)
        try:
            mount.mount_filesystem(at, fstype, source, flags, list(data))
        except OSError as error:
            if fstype != "sysfs" or error.errno != errno.EPERM:
                raise InvalidSpec(f"mounts: {destination}: {_why_not_mounted(error, fstype, source, data)}") from None
            # A user namespace may not mount sysfs over a network namespace it does not own.
            _bind(context, "/sys", at, True, (0, 0, mount.attributes(flags), 0, 0))
    finally:
        os.close(at)


def _mode_beneath(context: Context, destination: str) -> tuple[str, ...]:
    try:
        fd = mount.open_beneath(context.root_fd, destination)
    except FileNotFoundError:
        return ()
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    os.close(fd)
    return (f"mode={mode:o}",)


def _why_not_mounted(error: OSError, fstype: str, source: str, data: tuple[str, ...]) -> str:
    if error.errno == errno.ENODEV:
        return f"type {fstype!r} is not a file system of this kernel"
    if error.errno == errno.EINVAL:
        return f"{fstype} does not take the options {','.join(data)!r}, or {source!r} as its source"
    hint = f"; {_NEEDED_TO_MOUNT.get(fstype, 'in a user namespace only some can be mounted')}" if error.errno == errno.EPERM else ""
    return f"cannot mount {fstype} from {source!r}: {os.strerror(error.errno or 0)}{hint}"


def _refuse_link_parent(context: Context, destination: str, target: int) -> None:
    """proc and sys are mounted where the name says: an image whose /proc is a link is refused (CVE-2019-19921)."""
    seen = libc.openat2(
        context.root_fd, destination, os.O_PATH, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_SYMLINKS
    )  # fmt: skip
    same = os.path.sameopenfile(seen, target)
    os.close(seen)
    if not same:
        raise InvalidSpec(f"mounts: {destination} is a symbolic link in the root file system")


def bind_mount(
    context: Context, source: str, destination: str, recursive: bool, changes: "tuple[int, int, int, int, int]"
) -> None:
    peer = context.launch.peers.get(source, -1)
    try:
        source_fd = os.dup(peer) if peer >= 0 else _open_host_path(context, source)
    except OSError as error:
        raise InvalidSpec(f"bind source path does not exist: {source}: {error.strerror}") from None
    is_directory = mount.is_directory(source_fd)
    os.close(source_fd)
    at = open_target(context, destination, directory=is_directory)
    try:
        if peer >= 0:
            change_tree(peer, changes)
            mount.attach(peer, at)
        else:
            _bind(context, source, at, recursive, changes)
    except PermissionError as error:
        raise InvalidSpec(
            f"mounts: {destination}: {source}: {os.strerror(error.errno or 0)}; what is read-only, nosuid, nodev, noexec or noatime "
            "outside of a user namespace stays so in it: leave out the options that say otherwise"
        ) from None
    finally:
        os.close(at)


def _bind(
    context: Context, source: str, at: int, recursive: bool, changes: "tuple[int, int, int, int, int]" = (0, 0, 0, 0, 0)
) -> None:
    source_fd = _open_host_path(context, source)
    tree = clone_tree(source, source_fd, recursive)
    try:
        change_tree(tree, changes)
        mount.attach(tree, at)
    finally:
        os.close(tree)
        os.close(source_fd)


def change_tree(tree: int, changes: "tuple[int, int, int, int, int]") -> None:
    """Sets and clears attributes of a tree's top, then of the whole of it, then its propagation.

    While it is still detached: it is never seen without them. What is not named stays as it is, which
    is what the kernel asks of flags that a user namespace has locked (mount_namespaces(7)).
    """
    set_, clear, recursive_set, recursive_clear, propagation = changes
    mount.set_attributes(tree, set_=set_, clear=clear)
    mount.set_attributes(tree, set_=recursive_set, clear=recursive_clear, recursive=True)
    if propagation:
        flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if propagation & mount.MS_REC else 0)
        libc.mount_setattr(tree, "", flags, propagation=propagation & ~mount.MS_REC)


def clone_tree(source: str, source_fd: int, recursive: bool) -> int:
    """A detached copy of a tree; /proc/PID/root/... names one in another mount namespace.

    The kernel copies only trees of the caller's own namespace, so we go there for that one call
    (--ipc container:ID: /dev/shm of the other container).
    """
    parts = source.split("/", 4)
    if parts[1] != "proc" or parts[3:4] != ["root"] or not parts[2].isdigit():
        return mount.clone_tree(source_fd, recursive=recursive)
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{parts[2]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(there, libc.CLONE_NEWNS)
        try:
            return mount.clone_tree(source_fd, recursive=recursive)
        finally:
            libc.setns(here, libc.CLONE_NEWNS)
    finally:
        os.close(here)
        os.close(there)


def set_mount_propagation(context: Context, destination: str, propagation: int) -> None:
    fd = mount.open_beneath(context.root_fd, destination)
    mount.set_propagation(mount.fd_path(fd), propagation)
    os.close(fd)


def open_target(context: Context, destination: str, *, directory: bool) -> int:
    fd = mount.make_beneath(context.root_fd, destination, directory=directory)
    if mount.is_directory(fd) != directory:
        os.close(fd)
        have, want = ("a file", "a directory") if directory else ("a directory", "a file")
        # dockerd looks for "not a directory", and takes "is a directory" for a program that is one.
        raise InvalidSpec(
            f"cannot mount {want} on {destination}, which is there as {have}: not a directory; "
            "are you trying to mount a directory onto a file (or vice-versa)?"
        )
    return fd


def enter_cgroup(context: Context, new_namespace: bool) -> None:
    """From here on we are in the container's cgroup, and that is the root of a new namespace."""
    if context.in_cgroup:
        return
    if context.has_asked:
        await_parent(context.channel, b"c")
    context.in_cgroup = True
    if new_namespace:
        libc.unshare(libc.CLONE_NEWCGROUP)


def mount_cgroup(context: Context, destination: str, flags: int) -> None:
    target = open_target(context, destination, directory=True)
    read_only = mount.attributes(flags)
    if context.hosts.version == 2:
        if context.plan.new_cgroup_namespace:
            _mount_cgroup2(context, target, flags)
        else:
            _bind(context, context.hosts.v2, target, True, (read_only, 0, 0, 0, 0))
        os.close(target)
        return
    # v1: one directory for each hierarchy, showing the container's own group as its root.
    writable = flags & ~mount.MS_RDONLY
    mount.mount_filesystem(target, "tmpfs", "tmpfs", writable, ["mode=755"])
    os.close(target)
    top = mount.open_beneath(context.root_fd, destination)  # new and empty: what is in it is ours
    seen = set()
    for name, mount_point in context.hosts.v1.items():
        base = os.path.basename(mount_point)
        if mount_point not in seen:
            seen.add(mount_point)
            group = context.cgroup.directory_at(mount_point)
            os.mkdir(base, 0o755, dir_fd=top)
            inner = os.open(base, os.O_PATH | os.O_CLOEXEC, dir_fd=top)
            _bind(context, group if os.path.isdir(group) else mount_point, inner, False, (read_only, 0, 0, 0, 0))
            os.close(inner)
        plain = name.removeprefix("name=")
        if plain != base:
            os.symlink(base, plain, dir_fd=top)
    mount.set_attributes(top, set_=mount.attributes(flags & mount.MS_RDONLY), clear=0)
    os.close(top)


def _mount_cgroup2(context: Context, target: int, flags: int) -> None:
    """The container's own group as the root; bound where it cannot be mounted, as with runc.

    EPERM: a user namespace that is not the cgroup namespace's. EBUSY: the host's own is there already, with
    the host's /sys that is bound for want of a network namespace. A whole tree is shown read-only at most:
    some of it may be delegated to the user who is root in here.
    """
    try:
        mount.mount_filesystem(target, "cgroup2", "cgroup", flags, [])
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EBUSY):
            raise
    own = context.cgroup.directory_at(context.hosts.v2)
    shown = mount.attributes(flags) | (0 if own else libc.MOUNT_ATTR_RDONLY)
    _bind(context, own or context.hosts.v2, target, not own, (0, 0, shown, 0, 0))


def make_device(
    context: Context, path: str, kind: str, major: int, minor: int, mode: int, uid: int, gid: int, bind: bool
) -> None:
    file_type = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[kind]
    number = os.makedev(major, minor) if kind != "p" else 0
    if bind:  # mknod is not allowed in a user namespace, so the host's node shows through
        _bind_device(context, path, file_type, number)
        return
    parent_path, name = os.path.split(path)
    parent = mount.make_beneath(context.root_fd, parent_path, directory=True)
    try:
        try:
            os.mknod(name, file_type | mode, number, dir_fd=parent)
        except FileExistsError:
            have = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if have.st_rdev != number or stat.S_IFMT(have.st_mode) != file_type:
                raise InvalidSpec(f"linux.devices: {path} exists in the container and is not that device") from None
        except PermissionError:
            if kind == "p":
                raise
            _bind_device(context, path, file_type, number)  # the runtime itself is in a user namespace
            return
        os.chmod(f"{mount.fd_path(parent)}/{name}", mode)  # mknod obeys the umask, the spec does not
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def _bind_device(context: Context, path: str, file_type: int, number: int) -> None:
    """The host's node of the same path, if it is that device: what a name stands for is not the bundle's to say."""
    try:
        source = _open_host_path(context, path)
    except OSError as error:
        raise InvalidSpec(f"linux.devices: {path}: in a user namespace it must be there on the host: {error.strerror}") from None
    try:
        have = os.fstat(source)
        if have.st_rdev != number or stat.S_IFMT(have.st_mode) != file_type:
            raise InvalidSpec(f"linux.devices: {path} on the host, to be bound in a user namespace, is not that device")
        tree = mount.clone_tree(source, recursive=False)
    finally:
        os.close(source)
    target = open_target(context, path, directory=False)
    mount.attach(tree, target)
    os.close(tree)
    os.close(target)


def make_link(context: Context, target: str, path: str) -> None:
    parent_path, name = os.path.split(path)
    parent = mount.make_beneath(context.root_fd, parent_path, directory=True)
    try:
        os.symlink(target, name, dir_fd=parent)
    except FileExistsError:
        pass  # the image brings its own, as it may
    finally:
        os.close(parent)


def open_console(context: Context) -> None:
    """A pty of the container's own devpts; its other end goes to the parent, its name to /dev/console."""
    try:
        master = open_multiplexer(context.root_fd, context.lsm_proc_fd)
    except OSError as error:
        raise InvalidSpec(f"process.terminal: /dev/pts is not a devpts file system; mount one there: {error.strerror}") from None
    context.terminal_fd = unlock_terminal(master, context.plan.process)
    target = open_target(context, "/dev/console", directory=False)
    # The slave as the kernel gave it to us, not what has its name by now (CVE-2025-52565).
    tree = mount.clone_tree(context.terminal_fd, recursive=False)
    mount.attach(tree, target)
    for fd in (target, tree):
        os.close(fd)
    hand_over_terminal(context.channel, master)


def open_multiplexer(root_fd: int, proc_fd: int) -> int:
    """A new pty's master, of the devpts at /dev/pts beneath `root_fd`; its links are not followed. Raises OSError."""
    resolve = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_SYMLINKS
    found = libc.openat2(root_fd, "/dev/pts/ptmx", os.O_PATH, resolve)
    try:  # looked at before it is opened, see enter.open_checked
        have = os.fstat(found)
        if not stat.S_ISCHR(have.st_mode) or have.st_rdev != _MULTIPLEXER:
            raise OSError(errno.ENOTTY, "/dev/pts/ptmx is not a terminal multiplexer")
        return os.open(f"fd/{found}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=proc_fd)
    finally:
        os.close(found)


def unlock_terminal(master: int, process: Process) -> int:
    """The slave of `master`, sized and owned for the process. No path is looked up: TIOCGPTPEER."""
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave: int = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    height, width = process.console_size
    if height and width:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    if process.uid:
        os.fchown(slave, process.uid, -1)
    return slave


def hand_over_terminal(channel: sockets.socket, master: int) -> None:
    """Sends the master to the parent and forgets it."""
    sockets.send(channel, b"t", [master])
    os.close(master)


def write_sysctl(context: Context, path: str, value: str) -> None:
    try:
        enter.write_at(context.proc_fd, f"sys/{path}", value)
    except OSError as error:
        raise InvalidSpec(f"linux.sysctl: cannot set {path.replace('/', '.')} to {value!r}: {error.strerror}") from None


def raise_loopback(context: Context) -> None:
    """A new network namespace has `lo`, but switched off; netdevice(7)."""
    sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)  # any socket takes these; netdevice(7)
    request = fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
    flags = struct.unpack_from("16sh", request)[1]
    fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    sock.close()


def set_hostname(context: Context, name: str) -> None:
    libc.sethostname(name)


def set_domainname(context: Context, name: str) -> None:
    libc.setdomainname(name)


def run_create_hooks(context: Context) -> None:
    """createRuntime's (and prestart's) in the parent, then createContainer's here; hooks.py says when which."""
    found = context.plan.hooks
    if any(point in found for point in hooks.RUNTIME_POINTS):
        context.channel.send(b"h")
        await_parent(context.channel, b"k")
    state = {**context.launch.state, "status": "creating", "pid": os.getpid()}
    hooks.run(found.get("createContainer") or [], "createContainer", state)


def pivot(context: Context) -> None:
    """Makes the container's root the root, with nothing of the host left to reach where the kernel can do that."""
    if context.launch.pivot:
        _pivot_root(context)
    else:
        from berth.runtime import mounts  # loaded by container.start

        mounts.move_root(context)
    os.close(context.root_fd)
    context.root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _pivot_root(context: Context) -> None:
    """The new root over the old one, then the old one is let go.

    pivot_root(".", ".") stacks both at one place and needs no directory inside the image; see the
    NOTES of pivot_root(2).
    """
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(context.root_fd)
    libc.pivot_root(".", ".")
    os.fchdir(old)
    # Unmounting must not travel to the host, also where the plan keeps the root shared.
    mount.set_propagation(".", mount.MS_SLAVE | mount.MS_REC)
    libc.umount2(".", libc.MNT_DETACH)
    os.close(old)
    os.chdir("/")


def make_readonly(context: Context, path: str) -> None:
    try:
        fd = mount.open_beneath(context.root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    tree = mount.clone_tree(fd, recursive=True)
    mount.set_attributes(tree, set_=libc.MOUNT_ATTR_RDONLY, clear=0, recursive=True)
    mount.attach(tree, fd)
    os.close(tree)
    os.close(fd)


def mask(context: Context, path: str) -> None:
    """An empty read-only directory or /dev/null over `path`, so that nothing below it can be read."""
    try:
        fd = mount.open_beneath(context.root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if mount.is_directory(fd):
        # No path is looked up: a /proc/self/fd/N would be in the container's procfs, or what is there for one.
        tree = mount.empty_directory()
    else:
        null = libc.openat2(context.root_fd, "/dev/null", os.O_PATH | os.O_NOFOLLOW, libc.RESOLVE_IN_ROOT)
        # What is bound must be the null device and not a link the image put there (CVE-2025-31133).
        if not enter.is_null(os.fstat(null)):
            raise InvalidSpec(f"cannot mask {path}: /dev/null in the container is not the null device")
        tree = mount.clone_tree(null, recursive=False)
        os.close(null)
    mount.attach(tree, fd)
    os.close(tree)
    os.close(fd)


def set_root_propagation(context: Context, propagation: int) -> None:
    mount.set_propagation("/", propagation)


def make_root_readonly(context: Context) -> None:
    mount.set_attributes(context.root_fd, set_=libc.MOUNT_ATTR_RDONLY, clear=0)


OPERATIONS: "dict[str, Callable[..., None]]" = {
    function.__name__: function
    for function in (
        prepare_root, mount_filesystem, bind_mount, set_mount_propagation, enter_cgroup, mount_cgroup, make_device, make_link, open_console,
        write_sysctl, raise_loopback, set_hostname, set_domainname, run_create_hooks, pivot, make_readonly, mask, set_root_propagation,
        make_root_readonly,
    )
}  # fmt: skip
