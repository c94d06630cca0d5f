"""The parent's side of a start: makes namespaces and cgroup around a child, and waits until it has execed.

One code for the engine's monitor and for a runtime called cold from a command line.
"""

import hashlib
import json
import os
import select
import signal
import socket
import struct

from berth import errors
from berth.linux import cgroup, libc, mount, seccomp
from berth.runtime import init
from berth.runtime.plan import Plan, Process

# What a joined or inherited namespace is called in /proc/PID/ns, and its flag for setns.
_NAMESPACE_FILES = {
    "user": libc.CLONE_NEWUSER, "mnt": libc.CLONE_NEWNS, "uts": libc.CLONE_NEWUTS, "ipc": libc.CLONE_NEWIPC,
    "net": libc.CLONE_NEWNET, "cgroup": libc.CLONE_NEWCGROUP, "pid": libc.CLONE_NEWPID, "time": libc.CLONE_NEWTIME,
}  # fmt: skip
_MESSAGE_BYTES = 65536


class Started:
    """A running first program. terminal_fd: the pty's master, or -1; owned by the caller."""

    __slots__ = ("pid", "terminal_fd")

    def __init__(self, pid: int, terminal_fd: int) -> None:
        self.pid = pid
        self.terminal_fd = terminal_fd


def start(
    plan: Plan, hosts: cgroup.Hierarchies, standard_fds: tuple[int, int, int] | None, seccomp_cache: str,
    *, clone_flags: int = 0,
) -> tuple[Started, cgroup.Cgroup]:
    """Runs the planned container; returns once its program has replaced init.

    standard_fds: what becomes 0, 1 and 2 (not for terminals). seccomp_cache: directory of compiled
    filters. clone_flags: more flags for clone(2), e.g. CLONE_PARENT. On failure nothing is left: the
    child is dead and the cgroup removed. Raises BerthError.
    """
    program = seccomp_program(plan.process.seccomp, seccomp_cache)
    group = cgroup.open_cgroup(plan.cgroup_path, hosts)
    group.create()
    try:
        group.apply(plan.resources)
        _join_namespaces(plan)
        if plan.new_time_namespace:
            _make_time_namespace(plan.time_offsets)
        parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with parent:
            with child:
                pid = libc.clone(plan.clone_flags | clone_flags)
                if pid == 0:
                    parent.close()
                    _take_standard_fds(standard_fds)
                    init.run(init.Context(plan, child, group, hosts, program))
            try:
                if plan.clone_flags & libc.CLONE_NEWUSER:
                    _set_oom_score(plan.process, pid)
                    write_id_maps(pid, plan.uid_mappings, plan.gid_mappings)
                    _tell(parent, b"m")
                # Init makes its mounts meanwhile: the first move after a quiet spell waits for an RCU
                # grace period (cgroup_threadgroup_rwsem), some 10 ms.
                group.add(pid)
                _tell(parent, b"c")
                return Started(pid, _await_exec(parent)), group
            except BaseException:
                _reap(pid)
                raise
    except BaseException:
        group.kill()
        group.remove()
        raise


def _set_oom_score(process: Process, pid: int) -> None:
    """For a child in a user namespace, which may not lower it: that takes the host's CAP_SYS_RESOURCE."""
    proc_fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        init.set_oom_score(process, proc_fd)
    finally:
        os.close(proc_fd)


def _take_standard_fds(fds: tuple[int, int, int] | None) -> None:
    for number, fd in enumerate(fds or ()):
        os.dup2(fd, number)


def _tell(channel: socket.socket, word: bytes) -> None:
    try:
        channel.send(word)
    except (BrokenPipeError, ConnectionResetError):
        pass  # init has failed already and said why: _await_exec reads it


def _await_exec(channel: socket.socket) -> int:
    """Reads what init reports until the socket ends; returns the terminal's descriptor or -1."""
    terminal_fd = -1
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 1)
        except ConnectionResetError:
            message, fds = b"", []
        if message[:1] == b"t" and fds:
            terminal_fd = fds[0]
        elif message[:1] == b"e":
            if terminal_fd >= 0:
                os.close(terminal_fd)
            report = json.loads(message[1:])
            raise errors.from_wire(report["kind"], report["message"])
        elif not message:
            return terminal_fd


def _reap(pid: int) -> None:
    """Kills the child and waits until it is dead; with CLONE_PARENT it is collected by somebody else."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.close(pidfd)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def _join_namespaces(plan: Plan) -> None:
    """Enters namespaces given by path, while this process still has the host's rights over them."""
    for flag, path in plan.join:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.InvalidSpec(f"linux.namespaces: {path}: {error.strerror}") from None
        try:
            libc.setns(fd, flag)
        except OSError as error:
            raise errors.InvalidSpec(f"linux.namespaces: cannot join {path}: {error.strerror}") from None
        finally:
            os.close(fd)


def _make_time_namespace(offsets: dict) -> None:
    """For the children to come; this process stays in its own (time_namespaces(7))."""
    if not os.path.exists("/proc/self/ns/time"):
        raise errors.NotImplementedHere("this kernel has no time namespaces (CONFIG_TIME_NS)")
    libc.unshare(libc.CLONE_NEWTIME)
    for clock, offset in offsets.items():
        line = f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}"
        try:
            cgroup.write_file("/proc/self/timens_offsets", line)
        except OSError as error:
            raise errors.InvalidSpec(f"linux.timeOffsets.{clock}: {offset!r}: {error.strerror}") from None


def write_id_maps(pid: int, uid_mappings: list[dict], gid_mappings: list[dict]) -> None:
    """Writes /proc/PID/uid_map and gid_map."""
    for name, mappings in (("uid_map", uid_mappings), ("gid_map", gid_mappings)):
        text = "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)
        try:
            cgroup.write_file(f"/proc/{pid}/{name}", text)
        except OSError as error:
            raise errors.InvalidSpec(f"linux.{name[:3]}Mappings: {text.strip()!r}: {error.strerror}") from None


def user_namespace_fd(uid_mappings: list[dict], gid_mappings: list[dict]) -> int:
    """A descriptor of a new user namespace with these maps and nobody in it, for idmapped mounts."""
    here, there = os.pipe()
    pid = libc.clone(libc.CLONE_NEWUSER)
    if pid == 0:
        os.close(there)
        os.read(here, 1)  # until the parent has what it wants, or is gone
        os._exit(0)
    os.close(here)
    try:
        write_id_maps(pid, uid_mappings, gid_mappings)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(there)
        os.waitpid(pid, 0)


def seccomp_program(profile: dict | None, cache: str) -> bytes:
    """Compiles a seccomp section, or takes it from `cache`, which is keyed by content.

    Returns the flags (8 bytes) and the program, or b'' for none.
    """
    if not profile:
        return b""
    canonical = json.dumps([libc.MACHINE, profile], sort_keys=True).encode()
    path = f"{cache}/{hashlib.sha256(canonical).hexdigest()}.bpf"
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        pass
    flags = struct.pack("<Q", seccomp.filter_flags(profile))
    program = flags + seccomp.compile_profile(profile, libc.MACHINE)
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(cache, mode=0o700, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(program)
        os.rename(temporary, path)
    except OSError:
        pass  # a cache that cannot be written costs two milliseconds the next time
    return program


# -- exec -----------------------------------------------------------------------------------------


def execute(
    process: Process, init_pidfd: int, init_pid: int, cgroup_path: str, hosts: cgroup.Hierarchies,
    standard_fds: tuple[int, int, int] | None, seccomp_cache: str, *, clone_flags: int = 0,
) -> Started:  # fmt: skip
    """Runs one more program in the container of `init_pidfd`; returns once it has execed.

    The pidfd is what is joined: a pid could be another process by now. Raises BerthError.
    """
    program = seccomp_program(process.seccomp, seccomp_cache)
    flags = _foreign_namespaces(init_pid)
    if flags & libc.CLONE_NEWPID:
        libc.setns(init_pidfd, libc.CLONE_NEWPID)  # only for children
    group = cgroup.open_cgroup(cgroup_path, hosts)
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with parent:
        with child:
            pid = libc.clone(clone_flags)
            if pid == 0:
                parent.close()
                _take_standard_fds(standard_fds)
                _run_exec(process, init_pidfd, flags & ~libc.CLONE_NEWPID, child, group, hosts, program)
        try:
            group.add(pid)
            _tell(parent, b"c")
            return Started(pid, _await_exec(parent))
        except OSError as error:
            _reap(pid)
            raise errors.Conflict(f"the container is no longer running: {error.strerror}") from error
        except BaseException:
            _reap(pid)
            raise


def _foreign_namespaces(pid: int) -> int:
    """Flags of the namespaces in which `pid` is not where we are; joining one's own user namespace fails."""
    flags = 0
    for name, flag in _NAMESPACE_FILES.items():
        try:
            theirs, ours = os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
        except FileNotFoundError:
            if os.path.exists(f"/proc/self/ns/{name}"):
                raise errors.Conflict("the container is no longer running") from None
            continue  # a kind of namespace this kernel does not have
        if theirs.st_ino != ours.st_ino:
            flags |= flag
    return flags


def _run_exec(
    process: Process, init_pidfd: int, flags: int, channel: socket.socket, group: cgroup.Cgroup,
    hosts: cgroup.Hierarchies, program: bytes,
) -> None:  # fmt: skip
    context = init.Context(None, channel, group, hosts, program)  # type: ignore[arg-type]
    try:
        libc.prctl(libc.PR_SET_PDEATHSIG, 9)
        context.lsm_proc_fd = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        init.set_oom_score(process, context.lsm_proc_fd)
        init.await_parent(channel, b"c")
        if flags:
            libc.setns(init_pidfd, flags)
        if flags & libc.CLONE_NEWUSER:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        if process.terminal:
            root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            path, flags = "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY
            master = libc.openat2(root_fd, path, flags, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_SYMLINKS)
            if os.fstat(master).st_rdev != os.makedev(5, 2):
                raise errors.InvalidSpec("process.terminal: /dev/pts/ptmx in the container is not a terminal multiplexer")
            context.terminal_fd = init.unlock_terminal(master, process)
            init.hand_over_terminal(channel, master)
        init.enter_process(process, context)
    except BaseException as error:
        init.report_failure(channel, error, None)
    os._exit(1)


# -- the root file system ----------------------------------------------------------------------------


def mount_root(rootfs: dict, target: str, uid_mappings: list[dict], gid_mappings: list[dict]) -> None:
    """Mounts a container's overlay at `target`, in this process's own mount namespace.

    rootfs: {"lower": [topmost first], "upper": path, "work": path, "base": the directory that holds
    upper and work}. With id mappings every layer is seen through an idmapped mount, so nothing of an
    image is copied or chowned (Linux 5.19 for overlayfs). The upper directory is not idmapped: overlayfs
    makes its work directory as who mounts, the host's root, whom such a mount has no id for. It holds
    the host's ids, and its top belongs to the container's root.
    """
    lower, upper, work = list(rootfs["lower"]), rootfs["upper"], rootfs["work"]
    if uid_mappings:
        userns = user_namespace_fd(uid_mappings, gid_mappings)
        try:
            views = f"{rootfs['base']}/idmapped"
            lower = [_idmapped(path, f"{views}/{number}", userns) for number, path in enumerate(lower)]
        finally:
            os.close(userns)
        os.chown(upper, host_id(uid_mappings), host_id(gid_mappings))
    mount.mount_overlay(lower, upper, work, target, [])


def host_id(mappings: list[dict], inside: int = 0) -> int:
    """What an id of the container is on the host; raises InvalidSpec where it has no mapping."""
    for entry in mappings:
        first = int(entry["containerID"])
        if first <= inside < first + int(entry["size"]):
            return int(entry["hostID"]) + inside - first
    raise errors.InvalidSpec(f"linux.uidMappings, gidMappings: id {inside} of the container has no mapping")


def _idmapped(path: str, at: str, userns_fd: int) -> str:
    os.makedirs(at, mode=0o700, exist_ok=True)
    source = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = mount.clone_tree(source, recursive=False)
    try:
        mount.set_attributes(tree, set_=0, clear=0, userns_fd=userns_fd)
        libc.move_mount(tree, "", libc.AT_FDCWD, at, libc.MOVE_MOUNT_F_EMPTY_PATH)
    except OSError as error:
        raise errors.NotImplementedHere(
            f"user namespaces need idmapped mounts, which {path} does not support here: {error.strerror} "
            "(Linux 5.19 or newer, on ext4, xfs, btrfs or tmpfs)"
        ) from None
    finally:
        os.close(tree)
        os.close(source)
    return at
