"""System calls: one function per call, named after it, arguments in the kernel's order, no policy.

The only module that uses ctypes. Every failure is an `OSError` whose text names the call and its
arguments. Calls that glibc 2.36 does not wrap go through `syscall(2)` by number; a machine whose
numbers are not listed is refused, never guessed.
"""

import ctypes
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock over the call: the child of a raw clone must still hold it.
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)

MACHINE = os.uname().machine

# Calls added since Linux 5.1 have one number on every architecture.
_COMMON = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "clone3": 435, "close_range": 436, "openat2": 437, "mount_setattr": 442, "quotactl_fd": 443,
    "landlock_create_ruleset": 444, "landlock_restrict_self": 446,
}  # fmt: skip
_NUMBERS = {
    "x86_64": {
        "clone": 56, "pivot_root": 155, "keyctl": 250, "seccomp": 317, "bpf": 321, "capget": 125, "capset": 126,
        "sched_setattr": 314, "ioprio_set": 251, "set_mempolicy": 238, "renameat2": 316,
    },
    "aarch64": {
        "clone": 220, "pivot_root": 41, "keyctl": 219, "seccomp": 277, "bpf": 280, "capget": 90, "capset": 91,
        "sched_setattr": 274, "ioprio_set": 30, "set_mempolicy": 237, "renameat2": 276,
    },
}  # fmt: skip


def _number(name: str) -> int:
    if name in _COMMON:
        return _COMMON[name]
    try:
        return _NUMBERS[MACHINE][name]
    except KeyError:
        raise OSError(38, f"berth does not know the number of {name}(2) on {MACHINE}") from None


class _Attr(ctypes.Structure):
    pass


class MountAttr(_Attr):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _check(result: int, call: str, *arguments: object) -> int:
    if result < 0:
        error = ctypes.get_errno()
        shown = ", ".join(repr(a.decode(errors="replace") if isinstance(a, bytes) else a) for a in arguments)
        raise OSError(error, f"{call}({shown}): {os.strerror(error)}")
    return result


def _path(value: str | bytes | None) -> bytes | None:
    return os.fsencode(value) if value is not None else None


_libc.syscall.restype = ctypes.c_long
_libc_with_gil.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
]  # fmt: skip
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_libc.setdomainname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_libc.personality.argtypes = [ctypes.c_ulong]


def _syscall(name: str, *arguments: object) -> int:
    """Calls by number. Integers are widened to 64 bits: a bare int would be cut to 32."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_libc.syscall(ctypes.c_long(_number(name)), *wide))


# -- processes and namespaces ------------------------------------------------------------------

CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


CLONE_PARENT_SETTID = 0x00100000


def clone(flags: int, parent_tid: int = 0) -> int:
    """clone(2) used as fork(2) with `flags` of CLONE_NEW*; returns 0 in the child. SIGCHLD on exit.

    parent_tid: address where the kernel writes the child's pid as the caller sees it, see SharedPid.
    Only for single-threaded processes: Python's own after-fork work is skipped, and with one
    thread there is nothing for it to mend.
    """
    sigchld = 17
    zero = ctypes.c_long(0)
    where = ctypes.c_long(parent_tid)
    flags |= CLONE_PARENT_SETTID if parent_tid else 0
    # x86-64 and aarch64 agree on the first three: flags, stack, parent_tid.
    result = _libc_with_gil.syscall(
        ctypes.c_long(_number("clone")), ctypes.c_long(flags | sigchld), zero, where, zero, zero
    )
    return _check(int(result), "clone", hex(flags))


CLONE_INTO_CGROUP = 0x200000000


def clone_into_cgroup(flags: int, cgroup_fd: int, parent_tid: int = 0) -> int:
    """clone3(2) as `clone`, with the child born in the cgroup v2 directory `cgroup_fd`; Linux 5.7."""
    sigchld = 0 if flags & CLONE_PARENT else 17  # with CLONE_PARENT it is the caller's own
    flags |= CLONE_INTO_CGROUP | (CLONE_PARENT_SETTID if parent_tid else 0)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    arguments = (ctypes.c_uint64 * 11)(flags, 0, 0, parent_tid, sigchld, 0, 0, 0, 0, 0, cgroup_fd)
    result = _libc_with_gil.syscall(
        ctypes.c_long(_number("clone3")), ctypes.byref(arguments), ctypes.c_long(ctypes.sizeof(arguments))
    )
    return _check(int(result), "clone3", hex(flags), cgroup_fd)


class SharedPids:
    """A page shared with children to come, for `clone` to leave pids in: no system call of the child's is needed.

    Made once in a launcher: what ctypes builds for it would be memory of each monitor's own.
    """

    __slots__ = ("_base", "_map", "_next")

    def __init__(self) -> None:
        import mmap

        self._map = mmap.mmap(-1, mmap.PAGESIZE)  # anonymous and MAP_SHARED
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._next = 0

    def take(self) -> "SharedPid":
        """A place in it; it is taken again a thousand later."""
        offset, self._next = self._next, (self._next + 4) % len(self._map)
        self._map[offset : offset + 4] = bytes(4)
        return SharedPid(self._map, offset, self._base + offset)


class SharedPid:
    """A place for one pid, 0 until `clone` has left one at its `address`."""

    __slots__ = ("_map", "_offset", "address")

    def __init__(self, shared: "mmap.mmap", offset: int, address: int) -> None:
        self._map, self._offset, self.address = shared, offset, address

    @property
    def value(self) -> int:
        return int.from_bytes(self._map[self._offset : self._offset + 4], "little")

    def keep_from_children(self) -> None:
        """The caller's children to come lack the page (MADV_DONTFORK): who traces one cannot write another pid there."""
        import mmap  # loaded: this object is there

        self._map.madvise(mmap.MADV_DONTFORK)


def unshare(flags: int) -> None:
    """unshare(2)"""
    _check(_libc.unshare(flags), "unshare", hex(flags))


def setns(fd: int, nstype: int) -> None:
    """setns(2); `fd` of a namespace file or a pidfd."""
    _check(_libc.setns(fd, nstype), "setns", fd, hex(nstype))


PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)"""
    return _check(_libc.prctl(option, arg2, arg3, arg4, arg5), "prctl", option, arg2, arg3)


def set_process_name(name: str) -> None:
    """What `ps` shows of this process, at most 15 bytes; proc(5), /proc/PID/comm.

    Not prctl(PR_SET_NAME): the buffer that ctypes makes for it is 40 pages of a forked process's own memory.
    """
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, name.encode()[:15])
    finally:
        os.close(fd)


def personality(persona: int) -> None:
    """personality(2)"""
    _check(_libc.personality(persona), "personality", hex(persona))


def sethostname(name: str) -> None:
    """sethostname(2)"""
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), "sethostname", name)


def setdomainname(name: str) -> None:
    """setdomainname(2)"""
    raw = name.encode()
    _check(_libc.setdomainname(raw, len(raw)), "setdomainname", name)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling thread; each argument is a mask of 64 capability bits."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, pid 0 = self
    low = 0xFFFFFFFF
    data = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    result = _syscall("capset", ctypes.byref(header), ctypes.byref(data))
    _check(result, "capset", hex(effective), hex(permitted), hex(inheritable))


def capget() -> tuple[int, int, int]:
    """capget(2) of the calling thread -> effective, permitted, inheritable as masks of 64 bits."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_syscall("capget", ctypes.byref(header), ctypes.byref(data)), "capget")
    low_to_high = [data[i] | data[i + 3] << 32 for i in range(3)]
    return low_to_high[0], low_to_high[1], low_to_high[2]


def keyctl_join_session_keyring() -> None:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL): a fresh, anonymous keyring for the container."""
    _check(_syscall("keyctl", 1, 0, 0, 0, 0), "keyctl", "KEYCTL_JOIN_SESSION_KEYRING")


def sched_setattr(pid: int, attributes: bytes) -> None:
    """sched_setattr(2); attributes: a struct sched_attr, whose first field is its size"""
    _check(_syscall("sched_setattr", pid, ctypes.c_char_p(attributes), 0), "sched_setattr", pid)


IOPRIO_WHO_PROCESS = 1


def ioprio_set(which: int, who: int, ioprio: int) -> None:
    """ioprio_set(2)"""
    _check(_syscall("ioprio_set", which, who, ioprio), "ioprio_set", which, who, hex(ioprio))


def set_mempolicy(mode: int, nodemask: bytes) -> None:
    """set_mempolicy(2); nodemask: whole 64-bit words in the machine's order, b'' for NULL"""
    # The kernel takes one bit off what it is told (mm/mempolicy.c, get_nodes), so one more is said.
    bits = len(nodemask) * 8 + 1 if nodemask else 0
    result = _syscall("set_mempolicy", mode, ctypes.c_char_p(nodemask or None), bits)
    _check(result, "set_mempolicy", hex(mode), nodemask.hex())


# -- mounts ------------------------------------------------------------------------------------

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None) -> None:
    """mount(2)"""
    result = _libc.mount(_path(source), _path(target), _path(fstype), flags, _path(data))
    _check(result, "mount", source, target, fstype, hex(flags), data)


def umount2(target: str, flags: int) -> None:
    """umount2(2)"""
    _check(_libc.umount2(_path(target), flags), "umount2", target, flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)"""
    result = _syscall("pivot_root", ctypes.c_char_p(_path(new_root)), ctypes.c_char_p(_path(put_old)))
    _check(result, "pivot_root", new_root, put_old)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2) -> descriptor of a mount"""
    result = _syscall("open_tree", dirfd, ctypes.c_char_p(_path(path)), flags)
    return _check(result, "open_tree", dirfd, path, hex(flags))


def move_mount(from_dirfd: int, from_path: str, to_dirfd: int, to_path: str, flags: int) -> None:
    """move_mount(2)"""
    result = _syscall(
        "move_mount", from_dirfd, ctypes.c_char_p(_path(from_path)), to_dirfd, ctypes.c_char_p(_path(to_path)), flags
    )
    _check(result, "move_mount", from_dirfd, from_path, to_dirfd, to_path, hex(flags))


def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """fsopen(2) -> descriptor of a file-system context"""
    return _check(_syscall("fsopen", ctypes.c_char_p(_path(fstype)), flags), "fsopen", fstype)


def fsconfig(fd: int, command: int, key: str | None, value: str | None, aux: int = 0) -> None:
    """fsconfig(2)"""
    result = _syscall(
        "fsconfig", fd, command, ctypes.c_char_p(_path(key)), ctypes.c_char_p(_path(value)), aux
    )
    _check(result, "fsconfig", fd, command, key, value)


def fsmount(fd: int, flags: int = FSMOUNT_CLOEXEC, attributes: int = 0) -> int:
    """fsmount(2) -> descriptor of a detached mount"""
    return _check(_syscall("fsmount", fd, flags, attributes), "fsmount", fd, hex(attributes))


def mount_setattr(
    dirfd: int, path: str, flags: int, *, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, userns_fd: int = 0
) -> None:
    """mount_setattr(2)"""
    attr = MountAttr(attr_set, attr_clr, propagation, userns_fd)
    size = ctypes.sizeof(attr)
    result = _syscall("mount_setattr", dirfd, ctypes.c_char_p(_path(path)), flags, ctypes.byref(attr), size)
    _check(result, "mount_setattr", dirfd, path, hex(attr_set), hex(attr_clr))


CLOSE_RANGE_CLOEXEC = 4


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2); without `last` to the last possible descriptor"""
    _check(_syscall("close_range", first, last, flags), "close_range", first, last, flags)


RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
_OPENAT2_TRIES = 128  # as runc's


def openat2(dirfd: int, path: str | bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2) -> descriptor, always close-on-exec

    A rename or mount anywhere on the host while a `..` is resolved makes it EAGAIN: then it is tried again.
    """
    how = OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.sizeof(how)
    for _ in range(_OPENAT2_TRIES):
        result = _syscall("openat2", dirfd, ctypes.c_char_p(_path(path)), ctypes.byref(how), size)
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(result, "openat2", dirfd, path, hex(flags))


def quotactl_fd(fd: int, command: int, identity: int, data: bytearray) -> None:
    """quotactl_fd(2); data: the structure that the command takes or fills"""
    buffer = (ctypes.c_char * len(data)).from_buffer(data)
    _check(_syscall("quotactl_fd", fd, command, identity, ctypes.byref(buffer)), "quotactl_fd", fd, hex(command), identity)


RENAME_NOREPLACE = 1


def renameat2(from_dirfd: int, from_path: str | bytes, to_dirfd: int, to_path: str | bytes, flags: int) -> None:
    """renameat2(2)"""
    result = _syscall("renameat2", from_dirfd, ctypes.c_char_p(_path(from_path)), to_dirfd, ctypes.c_char_p(_path(to_path)), flags)
    _check(result, "renameat2", from_dirfd, from_path, to_dirfd, to_path, flags)


def filesystem_type(fd: int) -> int:
    """fstatfs(2) -> f_type, the magic number of the file system; an O_PATH descriptor will do"""
    buffer = (ctypes.c_long * 32)()
    _check(_libc.fstatfs(fd, ctypes.byref(buffer)), "fstatfs", fd)
    return int(buffer[0])


def syncfs(fd: int) -> None:
    """syncfs(2): waits until what the descriptor's file system holds in memory is on its disk"""
    _check(_libc.syncfs(fd), "syncfs", fd)


# -- BPF, seccomp, Landlock -----------------------------------------------------------------------

BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
BPF_F_REPLACE = 4

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_GET_ACTION_AVAIL = 2
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32


class SockFprog(ctypes.Structure):
    """struct sock_fprog of seccomp(2)."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def seccomp_set_filter(program: bytes, flags: int) -> int:
    """seccomp(SECCOMP_SET_MODE_FILTER); `program` is an array of struct sock_filter, 8 bytes each.

    Returns the listener's descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER (the kernel makes it
    close-on-exec), else 0.
    """
    fprog = SockFprog(len(program) // 8, program)
    result = _syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog))
    if result > 0 and flags & SECCOMP_FILTER_FLAG_TSYNC and not flags & SECCOMP_FILTER_FLAG_NEW_LISTENER:
        # Not a failure in the kernel's return value, but no thread has the filter then, the caller's included.
        raise OSError(errno.ESRCH, f"seccomp(TSYNC): thread {result} cannot be given the filter")
    return _check(result, "seccomp", "SECCOMP_SET_MODE_FILTER", hex(flags), f"{len(program) // 8} instructions")


def seccomp_has_action(action: int) -> bool:
    """seccomp(SECCOMP_GET_ACTION_AVAIL); `action` is a SECCOMP_RET_* without data"""
    return _syscall("seccomp", SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(ctypes.c_uint32(action))) == 0


def seccomp_has_flag(flag: int) -> bool:
    """seccomp(SECCOMP_SET_MODE_FILTER) without a program: EFAULT if it knows the flag, EINVAL if not"""
    if flag == SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV:
        flag |= SECCOMP_FILTER_FLAG_NEW_LISTENER  # EINVAL alone
    return _syscall("seccomp", SECCOMP_SET_MODE_FILTER, flag, None) != 0 and ctypes.get_errno() == errno.EFAULT


def bpf_load_cgroup_device(instructions: bytes) -> int:
    """bpf(BPF_PROG_LOAD) of a cgroup device program -> descriptor"""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache")
    attributes = bytearray(128)
    head = (ctypes.c_uint32 * 2)(BPF_PROG_TYPE_CGROUP_DEVICE, len(instructions) // 8)
    pointers = (ctypes.c_uint64 * 2)(ctypes.addressof(code), ctypes.addressof(licence))
    attributes[:8], attributes[8:24] = bytes(head), bytes(pointers)
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = _syscall("bpf", BPF_PROG_LOAD, ctypes.byref(buffer), len(attributes))
    return _check(result, "bpf", "BPF_PROG_LOAD", f"{len(instructions) // 8} instructions")


def bpf_attach(cgroup_fd: int, program_fd: int, flags: int = BPF_F_ALLOW_MULTI, replace_fd: int = 0) -> None:
    """bpf(BPF_PROG_ATTACH) of a device program to a cgroup v2 directory"""
    attributes = (ctypes.c_uint32 * 32)(cgroup_fd, program_fd, BPF_CGROUP_DEVICE, flags, replace_fd)
    result = _syscall("bpf", BPF_PROG_ATTACH, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _check(result, "bpf", "BPF_PROG_ATTACH", cgroup_fd, program_fd, flags, replace_fd)


def bpf_detach(cgroup_fd: int, program_fd: int) -> None:
    """bpf(BPF_PROG_DETACH) of a device program from a cgroup v2 directory"""
    attributes = (ctypes.c_uint32 * 32)(cgroup_fd, program_fd, BPF_CGROUP_DEVICE)
    result = _syscall("bpf", BPF_PROG_DETACH, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _check(result, "bpf", "BPF_PROG_DETACH", cgroup_fd, program_fd)


def bpf_query(cgroup_fd: int) -> tuple[int, list[int]]:
    """bpf(BPF_PROG_QUERY) -> flags and identities of the device programs attached to this very cgroup"""
    identities = (ctypes.c_uint32 * 64)()
    attributes = (ctypes.c_uint32 * 32)(cgroup_fd, BPF_CGROUP_DEVICE)
    address = ctypes.addressof(identities)
    attributes[4], attributes[5], attributes[6] = address & 0xFFFFFFFF, address >> 32, len(identities)
    result = _syscall("bpf", BPF_PROG_QUERY, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _check(result, "bpf", "BPF_PROG_QUERY", cgroup_fd)
    return attributes[3], list(identities[: attributes[6]])


def bpf_program_fd(identity: int) -> int:
    """bpf(BPF_PROG_GET_FD_BY_ID) -> descriptor"""
    attributes = (ctypes.c_uint32 * 32)(identity)
    result = _syscall("bpf", BPF_PROG_GET_FD_BY_ID, ctypes.byref(attributes), ctypes.sizeof(attributes))
    return _check(result, "bpf", "BPF_PROG_GET_FD_BY_ID", identity)


LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET = 1


def landlock_abi() -> int:
    """landlock_create_ruleset(NULL, 0, VERSION) -> ABI version, 0 where the kernel has no Landlock"""
    return max(0, _syscall("landlock_create_ruleset", 0, 0, LANDLOCK_CREATE_RULESET_VERSION))


def landlock_create_ruleset(handled_fs: int, handled_net: int, scoped: int) -> int:
    """landlock_create_ruleset(2) -> descriptor"""
    attributes = (ctypes.c_uint64 * 3)(handled_fs, handled_net, scoped)
    result = _syscall("landlock_create_ruleset", ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    return _check(result, "landlock_create_ruleset", handled_fs, handled_net, scoped)


def landlock_restrict_self(ruleset_fd: int) -> None:
    """landlock_restrict_self(2)"""
    _check(_syscall("landlock_restrict_self", ruleset_fd, 0), "landlock_restrict_self", ruleset_fd)
