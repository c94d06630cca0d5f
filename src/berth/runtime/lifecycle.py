"""What the command line of an OCI runtime does to a container: create, start, kill, delete and the others.

Cold: each verb is a process of its own, and `runtime.state` is what one leaves for the next. The
engine goes another way in (launcher, monitor) to the same `runtime.container`.
Source: OCI runtime specification, runtime.md#operations.
"""

import os
import select
import time

from berth import errors
from berth.linux import cgroup, libc, signals, sockets
from berth.models.jsonlite import loads
from berth.runtime import container as processes
from berth.runtime import hooks, joining, spec
from berth.runtime.context import Launch
from berth.runtime.plan import Plan, Process
from berth.runtime.state import CREATED, CREATING, PAUSED, RUNNING, START_SOCKET, STOPPED, Container, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_KILL_TIMEOUT_MS = 10_000
# `@` is no character of a container's id, so no container can be called so.
_CACHE = "@seccomp"


class Settings:
    """What holds for every container of one call. root: of the state; manager: cgroupfs, systemd or disabled."""

    __slots__ = ("hosts", "manager", "root", "rootless", "warn")

    def __init__(self, root: str, *, manager: str, rootless: bool, warn: "Callable[[str], None]") -> None:
        self.root = root
        self.manager = manager
        self.rootless = rootless
        self.warn = warn
        self.hosts = cgroup.hierarchies()

    def load(self, identity: str) -> Container:
        """Raises NotFound."""
        return Container.load(self.root, identity)

    def launch(self) -> Launch:
        """With what is the same for every start."""
        launch = Launch(f"{self.root}/{_CACHE}", die_with_parent=False)
        launch.manager, launch.rootless = self.manager, self.rootless
        return launch


# -- create, start, run ---------------------------------------------------------------------------------


def create(settings: Settings, identity: str, bundle: str, config: "str | None", launch: Launch, *, gate: bool) -> "tuple[Container, processes.Started]":
    """A container from a bundle; with `gate` its program waits for `start`, else it runs. The caller unlocks it.

    After an error nothing of it is left. Raises BerthError.
    """
    try:
        bundle = os.path.realpath(bundle, strict=True)
    except OSError as error:
        raise errors.InvalidParameter(f"bundle {bundle!r}: {error.strerror}") from None
    document = spec.load(bundle, config)
    plan = Plan(document, bundle)
    plan.process.env = [*plan.process.env, *launch.environment]
    plan.cgroup_path = plan.cgroup_path or default_cgroup_path(identity, settings)
    container = Container.create(settings.root, identity)
    try:
        container.write("config.json", document)
        launch.on_group = lambda group: container.save(
            ociVersion=document["ociVersion"], bundle=bundle, rootfs=os.path.realpath(plan.root_path), created=now(),
            owner=os.geteuid(), annotations=document.get("annotations") or {}, creating=gate,
            # Before it is made: should we be killed then, `delete` knows where to look. A scope ends by itself.
            **({"cgroup": group.saved()} if group.manager == "cgroupfs" else {}),
        )  # fmt: skip
        launch.state = hooks.state(identity, document, bundle, status=CREATING, pid=0)
        launch.on_cloned = lambda pid, group: container.save(pid=pid, start_time=start_time(pid), cgroup=group.saved())
        launch.on_listener = lambda fd: _send_listener(container, document, fd)
        if gate:
            launch.gate = _make_gate(container)
        try:
            started, _ = processes.start(plan, settings.hosts, launch)
        finally:
            if launch.gate is not None:
                launch.gate.close()
        return container, started
    except BaseException:
        _forget(container, document, settings)
        raise


def default_cgroup_path(identity: str, settings: Settings) -> str:
    """Where a container without linux.cgroupsPath goes."""
    if settings.manager == "systemd":
        return f"{'user' if settings.rootless else 'system'}.slice:berth:{identity}"
    return f"/{identity}"


def _make_gate(container: Container) -> sockets.socket:
    directory_fd = container.open()
    try:
        return sockets.listen(directory_fd, START_SOCKET)
    finally:
        os.close(directory_fd)


def _send_listener(container: Container, document: dict, fd: int) -> None:
    from berth.runtime import notify

    profile = document["linux"]["seccomp"]
    try:
        state = state_of(container, CREATING if container.values.get("creating") else CREATED)
        metadata = profile.get("listenerMetadata") or ""
        notify.send_listener(profile["listenerPath"], fd, state, metadata, container.values["pid"])
    finally:
        os.close(fd)


def _forget(container: Container, document: dict, settings: Settings) -> None:
    """The end of a create that failed: runtime.md#lifecycle goes on with what follows `delete`."""
    reached_hooks = bool(container.values.get("pid"))
    state = state_of(container, STOPPED)
    container.remove()
    if reached_hooks:
        for problem in hooks.run_all((document.get("hooks") or {}).get("poststop") or [], "poststop", state):
            settings.warn(problem)


def created(container: Container) -> None:
    """Everything that belongs to `create` is done: others may have the container."""
    if container.values.get("creating"):
        container.save(creating=False)
    container.unlock()


def start(settings: Settings, container: Container) -> None:
    """Lets the program of a created container run; returns once it has replaced init. Raises Conflict, StartFailed."""
    status = container.status(settings.hosts)
    if status != CREATED:
        why = {STOPPED: "a container that has stopped", PAUSED: "a paused container, resume it first"}
        raise errors.Conflict(f"cannot start {why.get(status, f'an already {status} container')}: {container.id}")
    directory_fd = container.open()
    try:
        channel = sockets.connect(f"/proc/self/fd/{directory_fd}/{START_SOCKET}", sockets.SOCK_SEQPACKET)
        # Whoever finds the socket gone knows that the container is no longer just created; should we be
        # killed before the word is out, init sees the end of the channel and ends.
        os.unlink(START_SOCKET, dir_fd=directory_fd)
    except OSError as error:
        raise errors.Conflict(f"container {container.id} does not wait to be started: {error.strerror}") from None
    finally:
        os.close(directory_fd)
    document = container.spec()
    launch = settings.launch()
    launch.on_listener = lambda fd: _send_listener(container, document, fd)
    try:
        processes.tell(channel, b"s")
        processes.await_exec(channel, launch)
    finally:
        channel.close()
    run_poststart(settings, container, document)


def run_poststart(settings: Settings, container: Container, document: dict) -> None:
    """Hooks after the program has started; one that fails ends the container, as with runc."""
    found = (document.get("hooks") or {}).get("poststart") or []
    try:
        hooks.run(found, "poststart", state_of(container, RUNNING))
    except errors.BerthError:
        _end(settings, container)
        raise


# -- the other verbs -----------------------------------------------------------------------------------


def state_of(container: Container, status: str) -> dict:
    """runtime.md#state; with what runc adds."""
    values = container.values
    found = {
        "ociVersion": values.get("ociVersion") or "1.0.0", "id": container.id,
        "pid": values.get("pid") or 0 if status != STOPPED else 0, "status": status, "bundle": values.get("bundle") or "",
        "rootfs": values.get("rootfs") or "", "created": values.get("created") or "", "owner": _user_name(values.get("owner")),
    }  # fmt: skip
    if values.get("annotations"):
        found["annotations"] = values["annotations"]
    return found


def _user_name(uid: "int | None") -> str:
    """From /etc/passwd; `pwd` would ask every name service there is."""
    for line in cgroup.read_file("/etc/passwd").splitlines() if uid is not None else ():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(uid):
            return fields[0]
    return ""


def kill(settings: Settings, container: Container, number: int, *, everyone: bool) -> None:
    """A signal to the first program, or to every process of the container. Conflict if it does not run."""
    status = container.status(settings.hosts)
    group = container.group(settings.hosts)
    own_pids = _has_own_pid_namespace(container)
    if group and group.manager == "disabled" and everyone and number != signals.SIGKILL and status != STOPPED:
        _signal_members(container, number)
        return
    if group and group.manager == "disabled":
        group = None  # SIGKILL to the first program ends its pid namespace
    # Without a pid namespace of its own the others outlive the first program, so SIGKILL means them too.
    if group and (everyone or (number == signals.SIGKILL and not own_pids)):
        if status == STOPPED and not everyone:
            raise errors.Conflict(f"container {container.id} is not running")
        group.signal_all(number)
        if status == PAUSED and number == signals.SIGKILL:
            group.freeze(False)
        return
    if status in (STOPPED, CREATING) or not _signal(container, number):
        raise errors.Conflict(f"container {container.id} is not running")
    if number == signals.SIGKILL and group:  # a frozen process of cgroup v1 dies only once it is thawed
        if status == PAUSED:
            group.freeze(False)
        group.thaw()


def members(settings: Settings, container: Container) -> "list[int]":
    """Every process of a container that runs; where it has no cgroup to tell, those of its pid namespace."""
    group = running_group(settings, container)
    return _pid_namespace_of(container) if group.manager == "disabled" else group.pids()


def _pid_namespace_of(container: Container) -> "list[int]":
    """Processes in the pid namespace of the first program; that one alone where the namespace is not its own."""
    first = container.pid
    if not _has_own_pid_namespace(container):
        return [first] if first else []
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _same_pid_namespace(pid, first)]


def _same_pid_namespace(pid: int, other: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(f"/proc/{other}/ns/pid").st_ino
    except OSError:  # it is gone, or another user's
        return False


def _signal_members(container: Container, number: int) -> None:
    for pid in _pid_namespace_of(container):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid == container.pid or _same_pid_namespace(pid, container.pid):  # once more, now that it is held
                signals.pidfd_send(pidfd, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)


def _has_own_pid_namespace(container: Container) -> bool:
    try:
        namespaces = (container.spec().get("linux") or {}).get("namespaces") or []
    except errors.DataLoss:
        return False
    return any(entry["type"] == "pid" and not entry.get("path") for entry in namespaces)


def _signal(container: Container, number: int) -> bool:
    """Whether the first program was there to get it; never another process that has its pid by now."""
    pidfd = open_init(container)
    if pidfd < 0:
        return False
    try:
        signals.pidfd_send(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    except PermissionError:
        raise errors.Forbidden(f"no permission to signal container {container.id}; it belongs to another user") from None
    finally:
        os.close(pidfd)


def open_init(container: Container) -> int:
    """A pidfd of the first program; -1 if it is gone. Its start time is looked at after it is held."""
    pid = int(container.values.get("pid") or 0)
    try:
        pidfd = os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        return -1
    if pidfd >= 0 and container.pid != pid:
        os.close(pidfd)
        return -1
    return pidfd


def delete(settings: Settings, container: Container, *, force: bool) -> None:
    """Undoes `create`. Conflict for a container that runs, unless forced; a created one is ended first."""
    container.lock()  # waits for a create that is not done; a killed one holds nothing
    try:
        container.read()  # what that create has written meanwhile
    except errors.DataLoss:
        if not force:
            raise
    status = container.status(settings.hosts)
    if status in (RUNNING, PAUSED) and not force:
        container.unlock()
        raise errors.Conflict(f"cannot delete container {container.id} that is not stopped: {status}; kill it first, or use --force")
    _end(settings, container)
    group = container.group(settings.hosts)
    if group:
        # Killed before it had a process: whoever is in a group that was there already is not ours to kill.
        cgroup.end_and_remove(group, kill=bool(container.values.get("pid")))
    poststop: list[dict] = []
    try:
        poststop = (container.spec().get("hooks") or {}).get("poststop") or []
    except errors.DataLoss:
        pass  # killed before it was written, or damaged: what is left of the container goes all the same
    state = state_of(container, STOPPED)
    container.remove()
    for problem in hooks.run_all(poststop, "poststop", state):
        settings.warn(problem)


def _end(settings: Settings, container: Container) -> None:
    """SIGKILL, and waits until the first program is dead."""
    pidfd = open_init(container)
    if pidfd < 0:
        return
    try:
        signals.pidfd_send(pidfd, signals.SIGKILL)
        group = container.group(settings.hosts)
        if group and group.frozen():
            group.freeze(False)
        if group:
            group.thaw()  # the first program ends after all others of its pid namespace, the frozen ones too
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_KILL_TIMEOUT_MS):
            raise errors.SystemFailure(f"container {container.id}: its process {container.pid} does not die; see /proc/{container.pid}/stack")
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def pause(settings: Settings, container: Container, frozen: bool) -> None:
    """Freezes or thaws. Conflict in any other state."""
    status = container.status(settings.hosts)
    if status != (RUNNING if frozen else PAUSED) and not (frozen and status == CREATED):
        raise errors.Conflict(f"container {container.id} is {status}, not {'running' if frozen else 'paused'}")
    group = container.group(settings.hosts)
    if group is None:
        raise errors.Conflict(f"container {container.id} has no cgroup to freeze")
    group.freeze(frozen)


def running_group(settings: Settings, container: Container) -> cgroup.Cgroup:
    """The cgroup of a container that has not stopped."""
    group = container.group(settings.hosts)
    if container.status() == STOPPED or group is None:
        raise errors.Conflict(f"container {container.id} is not running")
    return group


def update(settings: Settings, container: Container, resources: dict) -> None:
    """New limits for a live container, kept for `state` to come. Raises what the first refused one says."""
    group = running_group(settings, container)
    group.apply(resources)
    document = container.spec()
    linux = document.setdefault("linux", {})
    kept = linux.get("resources") or {}
    for section, values in resources.items():
        kept[section] = {**(kept.get(section) or {}), **values} if isinstance(values, dict) else values
    linux["resources"] = kept
    container.write("config.json", document)


# -- exec ---------------------------------------------------------------------------------------------


def execute(settings: Settings, container: Container, process: dict, launch: Launch, *, ignore_paused: bool, below: "dict[str, str] | None" = None) -> processes.Started:
    """One more program in a container. process: as in config.json, checked here. Raises Conflict, StartFailed.

    below: of controllers ('' for all), the group below the container's own that the program goes to.
    """
    spec.check_process(process)
    status = container.status(settings.hosts)
    if status in (STOPPED, CREATING):
        raise errors.Conflict(f"cannot exec in a {status} container: {container.id}")
    if status == PAUSED and not ignore_paused:
        raise errors.Conflict(f"cannot exec in a paused container: {container.id} (use --ignore-paused)")
    document = container.spec()
    group = container.group(settings.hosts)
    if below:
        group = _group_below(group, below, settings)
    launch.on_listener = lambda fd: _send_listener(container, document, fd)
    linux = document.get("linux") or {}
    planned = Process(process, linux, document.get("annotations") or {})
    planned.env = [*planned.env, *launch.environment]
    pidfd = open_init(container)
    if pidfd < 0:
        raise errors.Conflict(f"cannot exec in a stopped container: {container.id}")
    try:
        return joining.execute(planned, pidfd, container.values["pid"], group, launch)
    finally:
        os.close(pidfd)


def _group_below(group: "cgroup.Cgroup | None", below: "dict[str, str]", settings: Settings) -> cgroup.Cgroup:
    saved = group.saved() if group else {}
    paths = dict(saved.get("paths") or {})
    if not paths:
        raise errors.InvalidParameter("--cgroup: the container has no cgroup of its own")
    for controller, path in below.items():
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise errors.InvalidParameter(f"--cgroup {path!r}: '..' would lead out of the container's cgroup")
        names = [controller] if controller else list(paths)
        for name in names:
            if name not in paths:
                known = ", ".join(sorted(filter(None, paths))) or "none: cgroup v2 has one path for all, without a prefix"
                raise errors.InvalidParameter(f"--cgroup {controller}:{path}: the container has no controller {controller!r}; there is {known}")
            paths[name] = "/".join([paths[name], *parts])
            if not os.path.isdir(paths[name]):
                raise errors.InvalidParameter(f"--cgroup {path!r}: {paths[name]} does not exist; --cgroup takes a group that is there already")
    return cgroup.reopen({**saved, "manager": "cgroupfs", "paths": paths}, settings.hosts)


def now() -> str:
    """RFC 3339, in nanoseconds."""
    now_ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 1_000_000_000)) + f".{now_ns % 1_000_000_000:09d}Z"


# -- descriptors and files of the caller ----------------------------------------------------------------


def write_pid_file(path: str, pid: int) -> None:
    """Whole or not at all: whoever waits for it never reads half a number."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w") as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise errors.InvalidParameter(f"cannot write the pid file {path!r}: {error.strerror}") from None


def connect_console(path: str) -> sockets.socket:
    """The socket that takes the terminal's master; connected before anything is made."""
    try:
        return sockets.connect(path)
    except OSError as error:
        raise errors.InvalidParameter(f"cannot connect to the console socket {path!r}: {error.strerror}") from None


def send_console(sock: sockets.socket, terminal_fd: int) -> None:
    """Hands the terminal's master over; closes both."""
    try:
        sockets.send(sock, b"/dev/ptmx", [terminal_fd])
    except OSError as error:
        raise errors.SystemFailure(f"cannot send the terminal to the console socket: {error.strerror}") from None
    finally:
        sock.close()
        os.close(terminal_fd)


def send_pidfd(path: str, pid: int) -> None:
    """runc 1.2's --pidfd-socket."""
    pidfd = os.pidfd_open(pid)
    try:
        sock = sockets.connect(path)
        try:
            sockets.send(sock, b"pidfd", [pidfd])
        finally:
            sock.close()
    except OSError as error:
        raise errors.InvalidParameter(f"cannot send a pidfd to the socket {path!r}: {error.strerror}") from None
    finally:
        os.close(pidfd)


def become_subreaper() -> None:
    """What the container leaves without a parent becomes ours to reap."""
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)


def read_json(text: str, what: str) -> dict:
    """An object given by a person; InvalidParameter names what it was."""
    try:
        value = loads(text)
    except ValueError as error:
        raise errors.InvalidParameter(f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise errors.InvalidParameter(f"{what}: expected an object, got {text[:40]!r}")
    return value
