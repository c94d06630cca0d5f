"""The parent's side of a start: makes namespaces and cgroup around a child, and waits until it has execed.

One code for the engine's monitor (warm, through the launcher) and for a runtime called cold from a
command line. init.py draws the words that parent and child exchange.
"""

import errno
import os
import select
import struct

from berth import errors
from berth.linux import cgroup, libc, mount, overlay, signals, sockets
from berth.models.jsonlite import dumps, loads
from berth.runtime import enter, hooks, init
from berth.runtime.context import Context, Launch
from berth.runtime.plan import Plan, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from berth.runtime import netdevices

# What a joined or inherited namespace is called in /proc/PID/ns, and its flag for setns.
NAMESPACE_FILES = {
    "user": libc.CLONE_NEWUSER, "mnt": libc.CLONE_NEWNS, "uts": libc.CLONE_NEWUTS, "ipc": libc.CLONE_NEWIPC,
    "net": libc.CLONE_NEWNET, "cgroup": libc.CLONE_NEWCGROUP, "pid": libc.CLONE_NEWPID, "time": libc.CLONE_NEWTIME,
}  # fmt: skip
_MESSAGE_BYTES = 65536
_MOST_PROGRAM_BYTES = 1 << 20  # the kernel takes 4096 instructions of 8 bytes


class Started:
    """A running first program. terminal_fd: the pty's master, or -1; owned by the caller."""

    __slots__ = ("pid", "terminal_fd")

    def __init__(self, pid: int, terminal_fd: int) -> None:
        self.pid = pid
        self.terminal_fd = terminal_fd


def start(plan: Plan, hosts: cgroup.Hierarchies, launch: Launch) -> tuple[Started, cgroup.Cgroup]:
    """Runs the planned container; returns once its program has replaced init, or init waits at the gate.

    On failure nothing is left: the child is dead and the cgroup removed. Raises BerthError.
    """
    group = cgroup.open_cgroup(
        plan.cgroup_path, hosts, manager=launch.manager, rootless=launch.rootless, annotations=launch.state.get("annotations")
    )
    launch.on_group(group)
    group.create()
    try:
        group.apply(plan.resources)
        program = seccomp_program(plan.process.seccomp, launch.seccomp_cache)
        parent, child = sockets.channel()
        try:
            return _start_in(group, Context(plan, child, group, hosts, program, launch), parent), group
        finally:
            parent.close()
            child.close()  # it has been, unless init was never cloned
    except BaseException:
        group.kill()
        group.remove()
        raise


def _start_in(group: cgroup.Cgroup, context: Context, parent: sockets.socket) -> Started:
    """Clones init and takes it to its program, or to the gate; after an error it is dead."""
    plan, launch = context.plan, context.launch
    devices = None
    try:
        if plan.net_devices:
            from berth.runtime import netdevices

            devices = netdevices.Devices(plan.net_devices)
        pid = _clone_with_trees(context, parent)
        try:
            launch.on_cloned(pid, group)
            if plan.clone_flags & libc.CLONE_NEWUSER:
                _set_oom_score(plan.process, pid)
                write_id_maps(pid, plan.uid_mappings, plan.gid_mappings)
            if plan.user_namespace:
                tell(parent, b"m")
            launch.on_outside = lambda is_outside: _act_for(pid, plan, group if is_outside else None, devices)
            return Started(pid, _await_ready(parent, plan, launch, pid))
        except BaseException:
            _reap(pid)
            if devices:
                devices.give_back()
            raise
    finally:
        if devices:
            devices.close()


def _act_for(pid: int, plan: Plan, group: "cgroup.Cgroup | None", devices: "netdevices.Devices | None") -> None:
    """What init may not, or not from where it is: into its group first, as its scheduler depends on that."""
    if group:
        add_to_group(group, pid)
    if plan.process.is_scheduled:
        set_schedule(plan.process, pid)
    if devices:
        devices.move(pid)


def _clone_with_trees(context: Context, parent: sockets.socket) -> int:
    """Init's pid. Ends our copies of what only the child needs, its end of the channel included."""
    try:
        if context.plan.rare or not context.launch.pivot:
            from berth.runtime import mounts  # init must find it loaded

            context.trees = mounts.idmapped_trees(context.plan)
        return _clone(context.plan, context.launch, context, parent)
    finally:
        context.channel.close()
        for tree in context.trees:
            os.close(tree)


def _clone(plan: Plan, launch: Launch, context: Context, parent: sockets.socket) -> int:
    """Clones init and returns its pid; in the child it does not return."""
    disposable = bool(launch.clone_flags & libc.CLONE_PARENT)  # a starter: it ends once init runs
    if disposable:
        _enter_namespaces(plan, context)
    if disposable or not (plan.join or plan.new_time_namespace):
        pid = clone_init(plan.clone_flags | launch.clone_flags, context.cgroup)
        if pid == 0:
            parent.close()
            _become_init(context)
        return pid
    # A process between us and init enters the namespaces given by path: hooks, cgroups and the
    # container's state are our business, in the namespaces that we are in.
    shared = libc.SharedPids().take()
    between = os.fork()
    if between == 0:
        parent.close()
        try:
            shared.keep_from_children()
            if os.geteuid() == 0 or not plan.clone_flags & libc.CLONE_NEWUSER:
                # Init is seen from its birth where it joins a pid namespace. An ordinary user can write the
                # id maps of a dumpable process only, so there init does this later.
                libc.prctl(libc.PR_SET_DUMPABLE, 0)
            _enter_namespaces(plan, context)
            if clone_init(plan.clone_flags | libc.CLONE_PARENT, context.cgroup, shared) == 0:
                _become_init(context)
        except BaseException as error:
            init.report_failure(context.channel, error, None)
        os._exit(0)
    os.waitpid(between, 0)
    pid = shared.value
    if not pid:
        context.channel.close()
        await_exec(parent, launch)
        raise errors.SystemFailure("the process that joins the container's namespaces was killed")
    return pid


def clone_init(flags: int, group: cgroup.Cgroup, shared: "libc.SharedPid | None" = None) -> int:
    """Init is born in its cgroup where the kernel can do that (v2), and enters it by itself else, see `Cgroup.enter`."""
    address = shared.address if shared else 0
    cgroup_fd = group.open_to_clone_into()
    if cgroup_fd >= 0:
        try:
            pid = libc.clone_into_cgroup(flags, cgroup_fd, address)
            if pid == 0:
                group.is_birthplace()
            return pid
        except OSError:
            pass  # Linux 5.6; or what `add` explains better
        finally:
            os.close(cgroup_fd)
    try:
        return libc.clone(flags, address)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSPC):
            from berth.runtime import idmap

            raise idmap.why_no_namespaces(flags, error) from None
        raise


def _become_init(context: Context) -> "NoReturn":
    take_standard_fds(context.launch.standard_fds)
    init.run(context)
    os._exit(1)


def _set_oom_score(process: Process, pid: int) -> None:
    """For a child in a user namespace, which may not lower it: that takes the host's CAP_SYS_RESOURCE."""
    proc_fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        enter.set_oom_score(process, proc_fd)
    finally:
        os.close(proc_fd)


def set_schedule(process: Process, pid: int) -> None:
    from berth.runtime import schedule

    schedule.apply(process, pid)


def take_standard_fds(fds: tuple[int, int, int] | None) -> None:
    for number, fd in enumerate(fds or ()):
        os.dup2(fd, number)


def tell(channel: sockets.socket, word: bytes) -> None:
    try:
        channel.send(word)
    except (BrokenPipeError, ConnectionResetError):
        pass  # init has failed already and said why: await_exec reads it


def _await_ready(channel: sockets.socket, plan: Plan, launch: Launch, pid: int) -> int:
    """Runs the runtime's hooks when init asks for them; returns the terminal's descriptor or -1."""
    terminal_fd, word = await_exec(channel, launch)
    try:
        if word == b"h":
            state = {**launch.state, "status": "creating", "pid": pid}
            for point in hooks.RUNTIME_POINTS:
                hooks.run(plan.hooks.get(point) or [], point, state)
            tell(channel, b"k")
            again, word = await_exec(channel, launch)
            terminal_fd = max(terminal_fd, again)
        if launch.gate is not None and word != b"r":
            raise errors.StartFailed("the container's init was killed before it was ready")
    except BaseException:
        if terminal_fd >= 0:
            os.close(terminal_fd)
        raise
    return terminal_fd


def await_exec(channel: sockets.socket, launch: Launch) -> tuple[int, bytes]:
    """Reads what a child reports until it asks ("h"), is ready ("r") or has execed ("": the socket ends).

    Returns the terminal's descriptor or -1, and that word. Raises the error that the child reports.
    """
    terminal_fd = -1
    while True:
        try:
            message, fds = sockets.receive(channel, _MESSAGE_BYTES)
        except ConnectionResetError:
            continue  # said once, and first, where the child left a word of ours unread; what it reported comes after
        word = message[:1]
        if word == b"t" and fds:
            if terminal_fd >= 0:  # one is sent; more only by who traces the child
                os.close(terminal_fd)
            terminal_fd = fds[0]
        elif word == b"n" and fds:
            launch.on_listener(fds[0])
        elif word in (b"a", b"p"):
            launch.on_outside(word == b"a")
            tell(channel, b"c")
        elif word == b"q":
            launch.on_waiting()
            tell(channel, b"q")
            tell(channel, b"g")
        elif word == b"e":
            if terminal_fd >= 0:
                os.close(terminal_fd)
            report = loads(message[1:].decode())
            raise errors.from_wire(report["kind"], report["message"])
        elif word in (b"h", b"r", b""):
            return terminal_fd, word


def add_to_group(group: cgroup.Cgroup, pid: int, beside: int = 0) -> None:
    try:
        group.add(pid, beside=beside)
    except ProcessLookupError:
        pass  # it has failed already, and said why: await_exec reads it
    except OSError as error:
        raise errors.Conflict(f"the container's cgroup is gone: {error.strerror}") from error


def _reap(pid: int) -> None:
    """Kills the child and waits until it is dead; with CLONE_PARENT it is collected by somebody else."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    signals.pidfd_send(pidfd, signals.SIGKILL)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.close(pidfd)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def _enter_namespaces(plan: Plan, context: Context) -> None:
    # In a mount namespace given by path /proc is whatever its owner has put there (CVE-2025-52881).
    context.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _join_namespaces(plan)
    if plan.new_time_namespace:
        _make_time_namespace(plan.time_offsets, context.proc_fd)


def _join_namespaces(plan: Plan) -> None:
    """Enters namespaces given by path, the user namespace last: before it we have the host's rights over the others.

    What only the user namespace's root may enter is tried once more after it.
    """
    opened: list[tuple[int, str, int]] = []
    for flag, path in sorted(plan.join, key=lambda entry: entry[0] == libc.CLONE_NEWUSER):
        try:
            opened.append((flag, path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        except OSError as error:
            raise errors.InvalidSpec(f"linux.namespaces: {path}: {error.strerror}") from None
    for flag, path, fd in opened:
        if flag in plan.must_differ and _is_own_namespace(flag, fd):
            raise errors.InvalidSpec(f"{plan.must_differ[flag]}: would change the host: {path} is the runtime's own namespace")
    denied = []
    for flag, path, fd in opened:
        try:
            libc.setns(fd, flag)
        except PermissionError:
            denied.append((flag, path, fd))
        except OSError as error:
            raise errors.InvalidSpec(f"linux.namespaces: cannot join {path}: {error.strerror}") from None
    for flag, path, fd in denied:
        try:
            libc.setns(fd, flag)
        except OSError as error:
            raise errors.InvalidSpec(f"linux.namespaces: cannot join {path}: {error.strerror}") from None
    for _, _, fd in opened:
        os.close(fd)


def _is_own_namespace(flag: int, fd: int) -> bool:
    name = next(name for name, number in NAMESPACE_FILES.items() if number == flag)
    own, other = os.stat(f"/proc/self/ns/{name}"), os.fstat(fd)
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def _make_time_namespace(offsets: dict, proc_fd: int) -> None:
    """For the children to come; this process stays in its own (time_namespaces(7))."""
    try:
        os.stat("self/ns/time", dir_fd=proc_fd, follow_symlinks=False)
    except FileNotFoundError:
        raise errors.NotImplementedHere("this kernel has no time namespaces (CONFIG_TIME_NS)") from None
    try:
        libc.unshare(libc.CLONE_NEWTIME)
    except PermissionError:
        raise errors.Forbidden(
            "linux.namespaces: 'time': a time namespace is made before a user namespace is entered, so only root has it; leave it out"
        ) from None
    for clock, offset in offsets.items():
        line = f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}"
        try:
            enter.write_at(proc_fd, "self/timens_offsets", line)
        except OSError as error:
            raise errors.InvalidSpec(f"linux.timeOffsets.{clock}: {offset!r}: {error.strerror}") from None


def write_id_maps(pid: int, uid_mappings: list[dict], gid_mappings: list[dict]) -> None:
    """Writes /proc/PID/uid_map and gid_map."""
    for name, mappings in (("uid_map", uid_mappings), ("gid_map", gid_mappings)):
        text = "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)
        try:
            cgroup.write_file(f"/proc/{pid}/{name}", text)
        except PermissionError:
            from berth.runtime import idmap

            idmap.write(pid, name[:3], mappings)
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
    """Compiles a seccomp section, or takes it from `cache`, which is keyed by content; '' for no cache.

    Returns the flags (8 bytes) and the program, or b'' for none.
    """
    if not profile:
        return b""
    path = seccomp_path(profile, cache) if cache else ""
    if program := read_program(path):
        return program
    from berth.linux import seccomp  # not needed where the cache knows the profile

    flags = struct.pack("<Q", seccomp.filter_flags(profile))
    program = flags + seccomp.compile_profile(profile, libc.MACHINE)
    seccomp.check_kernel(profile, libc.seccomp_has_action, libc.seccomp_has_flag)
    if path:
        _keep(path, program)
    return program


def seccomp_path(profile: dict, cache: str) -> str:
    """The file in the cache where the compiled profile is or will be."""
    from _blake2 import blake2b  # hashlib brings all of OpenSSL along, 2 ms

    canonical = dumps([libc.MACHINE, profile]).encode()
    return f"{cache}/{blake2b(canonical, digest_size=32).hexdigest()}.bpf"


def read_program(path: str) -> bytes:
    """A compiled filter from the cache; b'' where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _MOST_PROGRAM_BYTES)
    finally:
        os.close(fd)


def _keep(path: str, program: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(program)
        os.rename(temporary, path)
    except OSError:
        pass  # a cache that cannot be written costs two milliseconds the next time


# -- the root file system ----------------------------------------------------------------------------


def mount_root(rootfs: dict, target: str, uid_mappings: list[dict], gid_mappings: list[dict]) -> None:
    """Mounts a container's overlay at `target`, in this process's own mount namespace.

    rootfs: {"lower": [topmost first], "data": a data-only layer or '', "options": of overlayfs, "upper": path, "work": path, "base": the
    directory that holds upper and work, "read_only": whether it is only looked at, "scratch": where changes go meanwhile that nobody keeps,
    if anywhere}. With id mappings every layer is seen through an idmapped mount, so nothing of an image is copied or chowned (Linux 5.19 for
    overlayfs); but for the data-only one, of which nothing shows but content. The upper directory is not idmapped: overlayfs
    makes its work directory as who mounts, the host's root, whom such a mount has no id for. It holds
    the host's ids, and its top belongs to the container's root.
    """
    lower, upper, work = list(rootfs["lower"]), rootfs["upper"], rootfs["work"]
    read_only = bool(rootfs.get("read_only"))
    if uid_mappings:
        userns = user_namespace_fd(uid_mappings, gid_mappings)
        try:
            views = f"{rootfs['base']}/idmapped"
            lower = [_idmapped(path, f"{views}/{number}", userns) for number, path in enumerate(lower)]
        finally:
            os.close(userns)
        if not read_only:
            os.chown(upper, host_id(uid_mappings), host_id(gid_mappings))
    if read_only:  # the upper directory may be another mount's at this moment: only looked at, it is one more layer
        scratch = rootfs.get("scratch") or ""
        lower, upper, work = [upper, *lower], *((f"{scratch}/upper", f"{scratch}/work") if scratch else ("", ""))
    options = [*rootfs["options"], *(["index=off"] if read_only else [])]
    overlay.mount(lower, upper, work, target, options, rootfs["data"])


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
