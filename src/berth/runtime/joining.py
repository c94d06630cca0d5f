"""Exec: one more program in a container, whose rights nobody in there ever sees exceeded.

      parent (monitor, or a cold runtime)      joiner                               program
         |  clone                                |                                    |
         |                                       |  enters the cgroup                 |
         |<--- "a": put me into the cgroup ------|  only where it cannot by itself    |
         |                                       |  enters the namespaces             |
         |<--- "t" + descriptor of the pty ------|  only with a terminal              |
         |---- "c": you are in the cgroup ------>|  only after "a"                    |
         |                                       |  credentials, seccomp, ...         |
         |                                       |  clone(CLONE_PARENT), ends ------->|
         |<--- "q": my scheduler, please ---------------------------------------------|  only with one asked for
         |---- "q" ------------------------------------------------------------------>|
         |<--- end of file, or "e" + JSON --------------------------------------------|  execve

The joiner is in the container's namespaces but not in its pid namespace (setns changes that of
children only), so nothing in there can see it, far less trace it, while it still has rights that
the container lacks (CVE-2016-9962). What is cloned into the pid namespace has the program's own.
"""

import os

from berth import errors
from berth.linux import cgroup, libc, signals, sockets
from berth.runtime import enter, init, operations
from berth.runtime.container import (
    NAMESPACE_FILES,
    Started,
    add_to_group,
    await_exec,
    clone_init,
    seccomp_program,
    set_schedule,
    take_standard_fds,
)  # fmt: skip
from berth.runtime.context import Launch, await_parent
from berth.runtime.plan import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def execute(
    process: Process, init_pidfd: int, init_pid: int, group: "cgroup.Cgroup | None", launch: Launch,
    shared: "libc.SharedPid | None" = None,
) -> Started:  # fmt: skip
    """Runs one more program in the container of `init_pidfd`; returns once it has execed, as a child of the caller.

    The pidfd is what is joined: a pid could be another process by now. shared: a place for the program's pid, if there is
    one already. Raises BerthError.
    """
    parent, child = sockets.channel()
    shared = shared or libc.SharedPids().take()
    launch.on_waiting = lambda: set_schedule(process, shared.value)
    joiner = clone_init(0, group) if group and not process.affinity else libc.clone(0)
    if joiner == 0:
        parent.close()
        join_and_execute(process, init_pidfd, init_pid, group, launch, child, shared)
    child.close()
    if process.affinity:
        _limit_cpus(process.affinity[0], joiner, parent)
    if group:
        launch.on_outside = lambda _: add_to_group(group, joiner, init_pid)
    return _await_joined(parent, joiner, shared, launch)


def _limit_cpus(cpus: "set[int]", joiner: int, channel: sockets.socket) -> None:
    """execCPUAffinity.initial: where the joiner runs until it is in the container's cgroup."""
    from berth.runtime import schedule

    try:
        schedule.set_affinity(joiner, cpus, "initial")
    except BaseException:
        channel.close()
        _collect(joiner)
        raise


def _await_joined(channel: sockets.socket, joiner: int, shared: libc.SharedPid, launch: Launch) -> Started:
    """The parent's side once there is a joiner: what that asks for and reports. Closes the channel."""
    try:
        terminal_fd, _ = await_exec(channel, launch)
    except BaseException:
        channel.close()  # a joiner that waits for a word ends now
        _collect(joiner)
        if shared.value:
            _collect(shared.value)
        raise
    channel.close()
    _collect(joiner)
    pid = shared.value
    if not pid:
        if terminal_fd >= 0:
            os.close(terminal_fd)
        raise errors.SystemFailure("the process that joins the container was killed")
    return Started(pid, terminal_fd)


def _collect(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def join_and_execute(
    process: Process, init_pidfd: int, init_pid: int, group: "cgroup.Cgroup | None", launch: Launch, channel: sockets.socket,
    shared: libc.SharedPid,
) -> "NoReturn":  # fmt: skip
    """The joiner; draws on nothing of the parent's but the channel and the page for the program's pid."""
    try:
        # Ends with the parent, should that be killed while we wait for something.
        init.die_with_parent(channel)
        take_standard_fds(launch.standard_fds)
        outside = _is_outside(group, process)
        if outside:
            channel.send(b"a")  # the parent does it while we go on
        program = launch.seccomp_program or seccomp_program(process.seccomp, launch.seccomp_cache)
        proc_fd = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        enter.set_oom_score(process, proc_fd)
        flags = _foreign_namespaces(init_pid) if launch.namespaces is None else launch.namespaces
        if flags:
            _join(init_pidfd, flags)
        libc.prctl(libc.PR_SET_DUMPABLE, 0)
        if flags & libc.CLONE_NEWUSER:
            init.become_root_of_user_namespace(process)
        terminal_fd = _open_terminal(process, channel, proc_fd) if process.terminal else -1
        if terminal_fd < 0:
            enter.swap_null(proc_fd)
            enter.give_streams(process)
        path = enter.prepare(process, proc_fd, new_keyring=launch.new_keyring)
        enter.close_others(launch.preserve_fds, channel.fileno(), terminal_fd)
        shared.keep_from_children()
        if outside:
            await_parent(channel, b"c")
        enter.settle(process, is_exec=True)
        listener = enter.restrict(process, program)
        init.hand_over_listener(channel, listener)
        if libc.clone(libc.CLONE_PARENT, shared.address) == 0:
            enter.own_streams(process, terminal_fd)
            if launch.die_with_parent:
                libc.prctl(libc.PR_SET_PDEATHSIG, signals.SIGKILL)
            if process.is_scheduled:
                _await_schedule(channel)
            init.hand_over_listener(channel, enter.restrict_last(process, program))
            enter.execute(path, process)
    except BaseException as error:
        init.report_failure(channel, error, None)
    os._exit(0)


def _is_outside(group: "cgroup.Cgroup | None", process: Process) -> bool:
    """Whether the parent must put us into the group. Before a seccomp filter or another root can be in the way."""
    return group is not None and (process.affinity is not None or not group.enter())


def _join(init_pidfd: int, flags: int) -> None:
    try:
        libc.setns(init_pidfd, flags)
    except ProcessLookupError:
        raise errors.Conflict("the container is no longer running") from None


def _await_schedule(channel: sockets.socket) -> None:
    """The parent sets scheduler and I/O priority of the very process that becomes the program: what makes
    that may not be inherited (SCHED_FLAG_RESET_ON_FORK), or forbid the clone (SCHED_DEADLINE).

    With read and write, which no seccomp filter of a program that does anything denies.
    """
    os.write(channel.fileno(), b"q")
    if os.read(channel.fileno(), 1) != b"q":
        os._exit(1)


def _foreign_namespaces(pid: int) -> int:
    """Flags of the namespaces in which `pid` is not where we are; joining one's own user namespace fails."""
    flags = 0
    for name, flag in NAMESPACE_FILES.items():
        try:
            theirs, ours = os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
        except PermissionError:
            raise errors.Forbidden(
                "the container's init may not be looked into: it belongs to another user, or it is created and not started "
                "yet, and then root alone may; 'start' it first"
            ) from None
        except FileNotFoundError:
            if os.path.exists(f"/proc/self/ns/{name}"):
                raise errors.Conflict("the container is no longer running") from None
            continue  # a kind of namespace this kernel does not have
        if theirs.st_ino != ours.st_ino:
            flags |= flag
    return flags


def _open_terminal(process: Process, channel: sockets.socket, proc_fd: int) -> int:
    """A pty of the container's devpts; its master goes to the parent."""
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        master = operations.open_multiplexer(root_fd, proc_fd)
    except OSError as error:
        raise errors.InvalidSpec(f"process.terminal: no terminal can be had in the container: {error}") from None
    finally:
        os.close(root_fd)
    terminal_fd = operations.unlock_terminal(master, process)
    operations.hand_over_terminal(channel, master)
    return terminal_fd
