"""From a process in the container's namespaces to its program: what init and exec have in common.

    prepare          streams, limits, work directory, credentials; the program is looked up. What is still
                     needed (CAP_SYS_ADMIN for a filter without no-new-privileges) stays permitted.
    restrict         that filter, then the capabilities: from here on we have what the program will have
    restrict_last    a filter with no-new-privileges, which nothing but execve has to pass
"""

import errno
import fcntl
import os
import resource
import stat
import termios

from berth.errors import CommandNotExecutable, CommandNotFound, StartFailed
from berth.linux import capabilities, confine, libc, programs, signals
from berth.models.jsonlite import dumps
from berth.runtime.plan import Process, rlimit_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# What Python ignores, and what launcher and monitor do.
_IGNORED_SIGNALS = (
    signals.SIGPIPE, signals.SIGXFSZ, signals.SIGINT, signals.SIGTERM, signals.SIGCHLD, signals.SIGHUP, signals.SIGQUIT,
)  # fmt: skip
FDS_ABOVE_STDIO = 3
_NULL = os.makedev(1, 3)
_MOST_PASSWD_BYTES = 1 << 20


def set_oom_score(process: Process, proc_fd: int) -> None:
    """Writes oom_score_adj. Lowering it needs CAP_SYS_RESOURCE, so an unchanged value is not written."""
    if process.oom_score_adj is None:
        return
    fd = os.open("oom_score_adj", os.O_RDWR | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        if int(os.read(fd, 16)) != process.oom_score_adj:
            os.pwrite(fd, str(process.oom_score_adj).encode(), 0)
    except OSError as error:
        raise StartFailed(
            f"cannot set oom_score_adj to {process.oom_score_adj}: {error.strerror}; "
            "lowering it needs CAP_SYS_RESOURCE, which the runtime does not have"
        ) from None
    finally:
        os.close(fd)


def prepare(process: Process, lsm_proc_fd: int, *, new_keyring: bool = True) -> str:
    """Gives up all but what `restrict` needs, in the order in which each step still may; returns the program's path."""
    _confine_by_modules(process, lsm_proc_fd)
    if new_keyring:
        _join_keyring()
    if process.personality is not None:
        libc.personality(process.personality)
    _set_rlimits(process)
    if process.no_new_privileges:
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    entered = _change_directory(process.cwd, may_try_again=process.uid != 0)
    _take_ids(process)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)  # where fs.suid_dumpable is 1, the change of ids has set it
    if not entered:  # a directory that only its user may pass (a network file system that squashes root)
        _change_directory(process.cwd, may_try_again=False)
    os.umask(0o022 if process.umask is None else process.umask)
    _set_home(process, lsm_proc_fd)
    for number in _IGNORED_SIGNALS:  # execve would pass that on, and `stop` would have no effect
        signals.handle(number, signals.SIG_DFL)
    signals.mask(signals.SIG_SETMASK, [])
    return find_program(process)


def settle(process: Process, *, is_exec: bool) -> None:
    """What depends on the cgroup that the process is in by now: an exec's CPUs, and where memory comes from."""
    affinity = process.affinity if is_exec else None
    if affinity or process.memory_policy:
        from berth.runtime import schedule  # loaded by the plan

        if affinity:
            schedule.set_affinity(0, affinity[1], "final")
        if process.memory_policy:
            schedule.set_memory_policy(process.memory_policy)


def own_streams(process: Process, terminal_fd: int) -> None:
    """A session of its own, with the terminal (or -1) as 0, 1 and 2."""
    os.setsid()
    if terminal_fd >= 0:
        fcntl.ioctl(terminal_fd, termios.TIOCSCTTY, 0)
        for number in range(FDS_ABOVE_STDIO):
            os.dup2(terminal_fd, number)


def open_checked(path: str, flags: int, fits: "Callable[[os.stat_result], bool]", proc_fd: int) -> int:
    """Opens a path of the container for who may more than it: only once it is known to be what we want.

    To open a device is to act on it: a node with the numbers of the host's watchdog starts that, and an
    exec's joiner may not be in the devices cgroup yet; a fifo blocks. So the path is opened without
    effect first (O_PATH), looked at, and opened again through that descriptor. `proc_fd`: /proc/self as
    it was before the container's root was entered, whose procfs may be a fake. Raises OSError.
    """
    found = os.open(path, os.O_PATH | os.O_CLOEXEC | flags & os.O_NOFOLLOW)
    try:
        if not fits(os.fstat(found)):
            raise OSError(errno.ENXIO, "is not what its name says", path)
        return os.open(f"fd/{found}", flags & ~os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=proc_fd)
    finally:
        os.close(found)


def write_at(directory_fd: int, path: str, value: str) -> None:
    """One write(2) to a file below a descriptor."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def is_null(found: os.stat_result) -> bool:
    """Whether it is the null device; a block device can have the same numbers."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL


def swap_null(proc_fd: int) -> None:
    """The container's null device for the host's: root in here could chmod the host's through the descriptor."""
    null = -1
    for number in range(FDS_ABOVE_STDIO):
        if not is_null(os.fstat(number)):
            continue
        if null < 0:
            try:
                null = open_checked("/dev/null", os.O_RDWR | os.O_NOFOLLOW, is_null, proc_fd)
            except OSError:
                return  # a container without one keeps what it was given
        os.dup2(null, number)
    if null >= 0:
        os.close(null)


def give_streams(process: Process) -> None:
    """Pipes to the program's user: a pipe belongs to who made it, and only its owner can open /dev/stdout again."""
    for number in range(FDS_ABOVE_STDIO) if process.uid else ():
        found = os.fstat(number)  # the engine has done it for a user namespace, with the host's rights
        if stat.S_ISFIFO(found.st_mode) and found.st_uid != process.uid:
            try:
                os.fchown(number, process.uid, -1)
            except OSError as error:
                # Somebody else's pipe, in a user namespace: it can be written to, only not opened again.
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise


def close_others(preserve_fds: int, *keep: int) -> None:
    """Closes all but the standard streams, the first `preserve_fds` above them, and `keep` (or -1), which end with execve.

    Now and not by execve alone: what is in the container can see us from here on, and with CAP_SYS_PTRACE
    a descriptor of the host's procfs in /proc/PID/fd is a way out.
    """
    first = FDS_ABOVE_STDIO + preserve_fds
    for fd in sorted(fd for fd in keep if fd >= first):
        os.set_inheritable(fd, False)
        if fd > first:
            libc.close_range(first, fd - 1)
        first = fd + 1
    libc.close_range(first)
    for number in range(FDS_ABOVE_STDIO, FDS_ABOVE_STDIO + preserve_fds):
        os.set_inheritable(number, True)


def restrict(process: Process, program: bytes) -> "int | None":
    """Filter and capabilities, in this order, without no-new-privileges. Returns the filter's listener, if it has one."""
    listener = None
    if program and not process.no_new_privileges:
        # Without no-new-privileges the filter needs CAP_SYS_ADMIN, so it comes before the drop.
        listener = _install_seccomp(program)
    if process.limits_capabilities:
        libc.capset(process.effective, process.permitted, process.inheritable)
    return listener


def restrict_last(process: Process, program: bytes) -> "int | None":
    """The filter with no-new-privileges: nothing but execve has to pass it."""
    return _install_seccomp(program) if program and process.no_new_privileges else None


def _confine_by_modules(process: Process, proc_fd: int) -> None:
    if process.apparmor_profile:
        confine.apparmor_on_exec(process.apparmor_profile, proc_fd)
    if process.selinux_label:
        confine.selinux_on_exec(process.selinux_label, proc_fd)
    if process.landlock:
        confine.landlock_scope_abstract_sockets()


def _join_keyring() -> None:
    try:
        libc.keyctl_join_session_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EDQUOT):
            raise


def _set_rlimits(process: Process) -> None:
    for number, soft, hard in process.rlimits:
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError):
            have = resource.getrlimit(number)[1]
            raise StartFailed(
                f"cannot set ulimit {rlimit_name(number)} to {soft}:{hard}: the hard limit here is {have}, and raising "
                "it needs CAP_SYS_RESOURCE, which the runtime does not have; ask for less or start it with more"
            ) from None


def _change_directory(cwd: str, *, may_try_again: bool) -> bool:
    try:
        os.chdir(cwd)
    except PermissionError as error:
        if may_try_again:
            return False
        raise StartFailed(f"cannot change to work directory {cwd!r}: {error.strerror}") from None
    except OSError as error:
        raise StartFailed(f"cannot change to work directory {cwd!r}: {error.strerror}") from None
    # A directory outside the root, got at through an inherited descriptor, has no path here: getcwd
    # fails or says "(unreachable)" (CVE-2024-21626).
    try:
        inside = os.getcwd().startswith("/")
    except OSError:
        inside = False
    if not inside:
        raise StartFailed(f"work directory {cwd!r} is outside the container's root file system")
    return True


def _take_ids(process: Process) -> None:
    """User, groups, bounding, inheritable and ambient sets; what is permitted now stays permitted."""
    if not process.limits_capabilities:
        _set_ids(process)
        return
    _, permitted, _ = libc.capget()
    capabilities.drop_bounding(process.bounding)
    libc.prctl(libc.PR_SET_KEEPCAPS, 1)
    _set_ids(process)
    libc.prctl(libc.PR_SET_KEEPCAPS, 0)
    if missing := process.permitted & ~permitted:
        names = ", ".join(capabilities.names_of(missing))
        raise StartFailed(f"process.capabilities: {names} cannot be given: the runtime does not have it itself")
    # A set may not hold more than it may pass on (capset(2)), so inheritable is set with permitted still whole.
    libc.capset(permitted, permitted, process.inheritable)
    # The kernel refuses what is not inheritable; Podman and `runc spec` write such sets, and runc lets them be.
    capabilities.set_ambient(process.ambient & process.inheritable & permitted)


def _set_ids(process: Process) -> None:
    _set_groups(process)
    for what, number, call in (("gid", process.gid, os.setresgid), ("uid", process.uid, os.setresuid)):
        try:
            call(number, number, number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise StartFailed(f"process.user.{what}: {number} has no mapping in the container's user namespace") from None


def _set_groups(process: Process) -> None:
    if process.keeps_groups:
        return
    try:
        os.setgroups(process.additional_gids)
    except PermissionError:
        # A user namespace made without rights may not (user_namespaces(7): /proc/PID/setgroups is "deny").
        if process.additional_gids:
            raise StartFailed(
                f"process.user.additionalGids: {process.additional_gids} cannot be set in a user namespace without newgidmap"
            ) from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise StartFailed(f"process.user.additionalGids: not all of {process.additional_gids} have a mapping in the user namespace") from None


def _install_seccomp(program: bytes) -> "int | None":
    flags = int.from_bytes(program[:8], "little")
    try:
        result = libc.seccomp_set_filter(program[8:], flags)
    except OSError as error:
        raise StartFailed(f"cannot install the seccomp filter: {error}") from None
    return result if flags & libc.SECCOMP_FILTER_FLAG_NEW_LISTENER else None


def _set_home(process: Process, proc_fd: int) -> None:
    """HOME, where nobody set it: of the user in the container's /etc/passwd, as with runc and crun."""
    if any(item.startswith("HOME=") and len(item) > 5 for item in process.env):
        return
    process.env = [*(item for item in process.env if item != "HOME="), f"HOME={_home(process.uid, proc_fd)}"]


def _home(uid: int, proc_fd: int) -> str:
    try:
        fd = open_checked("/etc/passwd", os.O_RDONLY, lambda found: stat.S_ISREG(found.st_mode), proc_fd)
    except OSError:
        return "/"
    try:
        text = os.read(fd, _MOST_PASSWD_BYTES)
    finally:
        os.close(fd)
    wanted = str(uid).encode()
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 5 and fields[2] == wanted:
            home = os.fsdecode(fields[5])
            return home if home and "\0" not in home else "/"
    return "/"


# -- the program ------------------------------------------------------------------------------------


def environment(process: Process) -> "dict[str, str]":
    """The program's; of two values for one name the last counts."""
    return dict(item.partition("=")[::2] for item in process.env)


def find_program(process: Process) -> str:
    """The path to execute: the name looked up in the container's PATH as execvp(3) does."""
    name = process.args[0]
    if "/" in name:
        _check_program(name)
        return name
    search = environment(process).get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    denied = ""
    for directory in search.split(":"):
        candidate = f"{directory or '.'}/{name}"
        try:
            found = os.stat(candidate)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and os.access(candidate, os.X_OK):
            return candidate
        denied = denied or candidate
    if denied:
        raise CommandNotExecutable(f"exec: {dumps(name)}: {denied}: permission denied")
    raise CommandNotFound(f"exec: {dumps(name)}: executable file not found in $PATH")


def _check_program(path: str) -> None:
    """What can be told before `start`: Docker expects a missing program to fail `create` already."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _failure(path, error) from None
    if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK):
        raise _failure(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def execute(path: str, process: Process) -> None:
    """execve; raises what a person can act on."""
    try:
        os.execve(path, process.args, environment(process))
    except OSError as error:
        raise _failure(path, error) from None


def _failure(path: str, error: OSError) -> StartFailed:
    kind = CommandNotFound if error.errno in (errno.ENOENT, errno.ENOTDIR) else CommandNotExecutable
    reason = (error.strerror or "").lower()
    return kind(f"exec: {dumps(path)}: {reason}{_why_not(path, error.errno or 0)}")


def _why_not(path: str, error: int) -> str:
    """What the kernel's errno hides: a missing interpreter, a directory, another machine's program."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            return ": it is a directory"
        if not stat.S_ISREG(found.st_mode):
            return ": it is not a file"
        if not found.st_mode & 0o111:
            return ": it is not executable (chmod +x it in the image)"
        # By now it may be another file: a fifo must not hold us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            head = os.read(fd, programs.HEAD_BYTES)
        finally:
            os.close(fd)
    except OSError:
        return ""
    if head.startswith(b"#!"):
        if error == errno.ENOENT:
            return f": its interpreter {programs.script_interpreter(head)!r} does not exist in the container"
        return ""
    if programs.is_elf(head):
        if error == errno.ENOEXEC:
            return f": it is built for {programs.elf_machine(head)}, this machine is {libc.MACHINE}"
        if error == errno.ENOENT:
            return f": its interpreter {programs.elf_interpreter(head) or '?'!r} does not exist in the container"
    elif error == errno.ENOEXEC:
        return ": it is neither an ELF program nor a script that starts with '#!'"
    return ""
