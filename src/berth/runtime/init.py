"""The child's side: from a clone of the monitor, in new namespaces, to execve of the container's program.

    monitor (parent)                          init (child)
       |  clone(new namespaces)                  |
       |---- "m": id maps are written ---------->|  only with a new user namespace
       |                                         |  enters its cgroup
       |<--- "a": put me there, "p": the rest ---|  only where it cannot, or with a scheduler or network devices
       |                                         |  root, mounts, devices ...
       |<--- "t" + descriptor of the pty --------|  only with a terminal
       |---- "c": you are in your cgroup ------->|  only after "a" or "p"
       |<--- "h": run the runtime's hooks -------|  only with prestart or createRuntime hooks
       |---- "k": they succeeded --------------->|
       |                                         |  pivot_root, masks, credentials, seccomp, capabilities
       |<--- "n" + descriptor of the listener ---|  only with SCMP_ACT_NOTIFY (after "r" with no-new-privileges)
       |---- "g": the agent has it ------------->|
       |<--- "r": ready -------------------------|  only with a gate: what follows waits for `start`,
       |                                         |  which connects, says "s", and is then the parent
       |<--- end of file: execve succeeded ------|  the socket is close-on-exec
       |<--- "e" + JSON {kind, message} ---------|  or: why it did not

Nothing is parsed or imported here: `run` executes operations that `runtime.plan` decided on.
"""

import errno
import os
import select

from berth.errors import BerthError
from berth.linux import libc, signals, sockets
from berth.models.jsonlite import dumps
from berth.runtime import enter, hooks
from berth.runtime.context import Context, await_parent
from berth.runtime.operations import OPERATIONS, open_host_paths
from berth.runtime.plan import Operation, Process

_MESSAGE_BYTES = 32768


def run(context: Context) -> None:
    """Executes the plan and becomes the program; never returns."""
    operation: Operation | None = None
    process = context.plan.process
    try:
        die_with_parent(context.channel)
        _enter_cgroup(context)
        # The host's procfs, opened while it still is the host's: see confine._write_attribute.
        if context.proc_fd < 0:  # else the parent did, before it joined somebody's mount namespace
            context.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        context.lsm_proc_fd = os.open("self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=context.proc_fd)
        if context.plan.user_namespace:
            await_parent(context.channel, b"m")
            open_host_paths(context)
            become_root_of_user_namespace(process)  # the parent has set the OOM score
        else:
            enter.set_oom_score(process, context.lsm_proc_fd)
        # Nothing in a container may trace us or look into our descriptors; execve makes it dumpable again.
        # Not before the maps are written: an ordinary user may write those of a dumpable process only.
        libc.prctl(libc.PR_SET_DUMPABLE, 0)
        for operation in context.plan.operations:
            OPERATIONS[operation.name](context, *operation.arguments)
        operation = None
        # A work directory of /proc/self/fd/N finds nothing (CVE-2024-21626).
        for fd in (context.root_fd, *context.opened.values()):
            os.close(fd)
        _enter_program(context)
    except BaseException as error:
        report_failure(context.channel, error, operation)
    os._exit(1)


def _enter_cgroup(context: Context) -> None:
    """First of all: whatever we use, and whoever we become, counts as the container's.

    With a mount namespace given by path, what is at the group's path may be anything: the parent does it.
    """
    plan = context.plan
    is_foreign = any(flag == libc.CLONE_NEWNS for flag, _ in plan.join)
    is_outside = is_foreign or not context.cgroup.enter()
    context.has_asked = is_outside or plan.process.is_scheduled or bool(plan.net_devices)
    if context.has_asked:
        context.channel.send(b"a" if is_outside else b"p")


def _enter_program(context: Context) -> None:
    process, launch = context.plan.process, context.launch
    enter.own_streams(process, context.terminal_fd)
    if context.terminal_fd < 0:
        enter.swap_null(context.lsm_proc_fd)
        enter.give_streams(process)
    enter.settle(process, is_exec=False)
    path = enter.prepare(process, context.lsm_proc_fd, new_keyring=launch.new_keyring)
    gate_fd = launch.gate.fileno() if launch.gate is not None else -1
    enter.close_others(launch.preserve_fds, context.channel.fileno(), gate_fd)
    # The change of uid has cleared it; a container that outlives its runtime lets go of it here.
    libc.prctl(libc.PR_SET_PDEATHSIG, signals.SIGKILL if launch.die_with_parent else 0)
    # Before the wait: who shares our pid namespace can see us from now on with no more than the program will have.
    hand_over_listener(context.channel, enter.restrict(process, context.seccomp_program))
    if launch.gate is not None:
        _await_start(context)
    if found := context.plan.hooks.get("startContainer"):
        _run_start_hooks(context, found)
    hand_over_listener(context.channel, enter.restrict_last(process, context.seccomp_program))
    enter.execute(path, process)


def _await_start(context: Context) -> None:
    """Tells `create` that all is ready, then waits for `start`, which hears of the rest."""
    assert context.launch.gate is not None
    context.channel.send(b"r")
    context.channel.close()
    fd, _ = context.launch.gate._accept()  # type: ignore[attr-defined]
    context.channel = sockets.socket(fileno=fd)
    context.launch.gate.close()
    await_parent(context.channel, b"s")


def _run_start_hooks(context: Context, found: "list[dict]") -> None:
    """In a child that is as restricted as the program will be: these hooks are programs of the container."""
    process = context.plan.process
    reader, writer = sockets.channel()
    pid = libc.clone(0)
    if pid == 0:
        try:
            enter.restrict_last(process, context.seccomp_program)
            state = {**context.launch.state, "status": "created", "pid": os.getppid()}
            hooks.run(found, "startContainer", state, enter.environment(process))
        except BaseException as error:
            report_failure(writer, error, None)
        os._exit(0)
    writer.close()
    message, _ = sockets.receive(reader, 65536)
    reader.close()
    os.waitpid(pid, 0)
    if message:
        from berth import errors
        from berth.models.jsonlite import loads

        report = loads(message[1:].decode())
        raise errors.from_wire(report["kind"], report["message"])


def hand_over_listener(channel: sockets.socket, listener: "int | None") -> None:
    """The descriptor on which a seccomp filter asks goes to the parent, who sends it where the bundle says."""
    if listener is not None:
        sockets.send(channel, b"n", [listener])
        os.close(listener)
        await_parent(channel, b"g")


def report_failure(channel: sockets.socket, error: BaseException, operation: Operation | None) -> None:
    """Tells the parent why; the kind goes along so that the exit code survives the way to the client."""
    if isinstance(error, BerthError):
        kind, message = type(error).__name__, str(error)
    elif operation is not None:
        kind, message = "StartFailed", f"{operation.name} {_shown(operation)}: {error}"
    else:
        kind, message = "StartFailed", f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
    try:
        channel.send(b"e" + dumps({"kind": kind, "message": message}).encode(errors="replace")[:_MESSAGE_BYTES])
    except OSError:
        pass  # nobody is left to hear it


def _shown(operation: Operation) -> str:
    return " ".join(repr(a) for a in operation.arguments if isinstance(a, str))


def die_with_parent(channel: sockets.socket) -> None:
    libc.prctl(libc.PR_SET_PDEATHSIG, signals.SIGKILL)
    # The parent may have died before the call; then the channel is at its end already.
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLHUP)
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        os._exit(1)


def become_root_of_user_namespace(process: Process) -> None:
    try:
        if not process.keeps_groups:
            os.setgroups([])
    except PermissionError:
        pass  # a namespace made without rights: user_namespaces(7), /proc/PID/setgroups
    for set_ids in (os.setresgid, os.setresuid):
        try:
            set_ids(0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # A namespace without id 0; what the work ahead needs are its capabilities, and we have those.
