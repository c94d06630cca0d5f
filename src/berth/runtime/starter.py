"""The starter: a short-lived child of the monitor that does the heavy part of a start, and ends.

An exec by our own runtime does without: its joiner (joining.py) is cloned into a cgroup.

It reads the bundle, plans, mounts the root file system and clones init with CLONE_PARENT, so that
init is the monitor's child and not the starter's. What all this touches of the launcher's memory
becomes private to the starter and goes with it: the monitor, which stays as long as the container,
keeps half of what it would need otherwise (bench/README.md).

    monitor ── fork ──▶ starter ── clone(CLONE_PARENT) ──▶ init, a child of the monitor
       ◀── "s" + JSON {pid, cgroup_path}, terminal ──┘  or "e" + JSON {kind, message}
"""

import os
import stat

from berth import errors
from berth.linux import cgroup, libc, mount, sockets
from berth.models.jsonlite import dumps, loads
from berth.runtime import container, external, joining, rehearsal
from berth.runtime.context import Launch
from berth.runtime.plan import Plan, Process
from berth.runtime.spec import load

MAX_MESSAGE_BYTES = 1 << 17
_MESSAGE_BYTES = 65536


class Result:
    """pid: of the program, a child of the caller; terminal_fd: -1 or the caller's; cgroup_path: '' if another's.

    leaves_others: whether other processes of the container may outlive it, which the kernel ends with a pid namespace of their own.
    """

    __slots__ = ("cgroup_path", "leaves_others", "pid", "terminal_fd")

    def __init__(self, pid: int, terminal_fd: int, cgroup_path: str, *, leaves_others: bool) -> None:
        self.pid = pid
        self.terminal_fd = terminal_fd
        self.cgroup_path = cgroup_path
        self.leaves_others = leaves_others


class ExecStarter:
    """Starts execs of our own runtime, for which there need be no second process."""

    def __init__(self, hosts: cgroup.Hierarchies, shared: libc.SharedPid) -> None:
        self._hosts = hosts
        self._shared = shared
        self.request = b""  # the message as it came: to encode it again would be memory of the monitor's

    def start(self, message: dict, init_pidfd: int, standard_fds: tuple[int, int, int] | None, lock_fd: int = -1) -> Result:
        """Starts what `message` describes; raises what went wrong."""
        if message["uid_mappings"]:
            uid = (message["process"].get("user") or {}).get("uid") or 0
            _give_pipes(standard_fds, container.host_id(message["uid_mappings"], uid))
        process, group, launch = self.plan(message)
        launch.standard_fds = standard_fds
        started = joining.execute(process, init_pidfd, message["pid"], group, launch, self._shared)
        return Result(started.pid, started.terminal_fd, "", leaves_others=True)

    def plan(self, message: dict) -> tuple[Process, cgroup.Cgroup, Launch]:
        """What is to be known of an exec before its joiner is cloned."""
        group = cgroup.open_cgroup(message["cgroup_path"], self._hosts)
        launch = Launch(message["seccomp_cache"])
        launch.seccomp_program = container.read_program(message["seccomp_path"]) if message["seccomp_path"] else b""
        profile = None
        if message["seccomp_path"] and not launch.seccomp_program:  # somebody has cleared the cache
            profile = load(message["bundle"])["linux"]["seccomp"]
        process = Process(message["process"], {"seccomp": profile}, message["annotations"])
        launch.namespaces = message["namespaces"]
        return process, group, launch

    def has_ended(self, *, wait: bool = True) -> bool:
        """Collects what `start` has left; without `wait`, False if it is not over yet."""
        return True

    def dismiss(self) -> None:
        """Lets go what nobody needs."""


class Starter(ExecStarter):
    """A starter that waits to be told what to start; owns the channel to it.

    Forked before anybody asks for it (launcher.Spare), so that a start need not wait for the fork. in_haste: somebody has
    asked already, and waits.
    """

    def __init__(self, hosts: cgroup.Hierarchies, shared: libc.SharedPid, *, in_haste: bool = False) -> None:
        super().__init__(hosts, shared)
        self._channel, theirs = sockets.channel()
        self._pid = libc.clone(0)
        if self._pid == 0:
            self._channel.close()
            _wait_and_run(theirs, hosts, in_haste=in_haste)
        theirs.close()
        sockets.make_room(self._channel, MAX_MESSAGE_BYTES)

    def start(self, message: dict, init_pidfd: int, standard_fds: tuple[int, int, int] | None, lock_fd: int = -1) -> Result:
        """Starts what `message` describes; raises the error that the starter reports.

        lock_fd: goes along and is held as long as the start lasts, also should the caller be killed.
        """
        if message["kind"] == "exec" and not message["runtime"]:
            self._channel.close()  # the starter goes while the joiner works
            return super().start(message, init_pidfd, standard_fds)
        if message["runtime"]:
            # runc and the like leave the container's first process to whoever takes orphans.
            libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
        sockets.send(self._channel, self.request, [*(standard_fds or ()), *([lock_fd] if lock_fd >= 0 else ())])
        report, fds = sockets.receive(self._channel, _MESSAGE_BYTES)
        self._channel.close()
        if report[:1] == b"s":
            values = loads(report[1:].decode())
            return Result(values["pid"], fds[0] if fds else -1, values["cgroup_path"], leaves_others=values["leaves_others"])
        _reap_all()
        if report[:1] == b"e":
            values = loads(report[1:].decode())
            raise errors.from_wire(values["kind"], values["message"])
        raise errors.SystemFailure("the container's starter was killed")

    def has_ended(self, *, wait: bool = True) -> bool:
        """Collects the starter, whose memory and mounts take the kernel longer than who waits for the start should wait."""
        return os.waitpid(self._pid, 0 if wait else os.WNOHANG)[0] != 0

    def dismiss(self) -> None:
        """Lets a starter go that nobody needs."""
        self._channel.close()
        self.has_ended()


def _reap_all() -> None:
    """Collects a first program whose start failed: it is our child, and dead or dying."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _wait_and_run(channel: sockets.socket, hosts: cgroup.Hierarchies, *, in_haste: bool) -> None:
    try:
        if not in_haste:
            rehearsal.rehearse(hosts)
        data, fds = sockets.receive(channel, MAX_MESSAGE_BYTES, 4)
        if not data:
            os._exit(0)  # dismissed, or the monitor is gone
        message = loads(data.decode())
        standard_fds = (fds[0], fds[1], fds[2]) if len(fds) >= 3 else None
        if message["kind"] == "exec":
            started, path, leaves_others = _start_external_exec(message, hosts, standard_fds), "", True
        else:
            started, path, leaves_others = _start_container(message, hosts, standard_fds)
        for fd in fds:
            os.close(fd)  # whoever reads what the program writes waits for the end of all who could
        report = b"s" + dumps({"pid": started.pid, "cgroup_path": path, "leaves_others": leaves_others}).encode()
        sockets.send(channel, report, [started.terminal_fd] if started.terminal_fd >= 0 else [])
    except BaseException as error:
        channel.send(b"e" + dumps(errors.to_wire(error)).encode())
    os._exit(0)


def _start_container(
    message: dict, hosts: cgroup.Hierarchies, standard_fds: tuple[int, int, int] | None
) -> tuple[container.Started, str, bool]:
    bundle = message["bundle"]
    spec = load(bundle)
    spec["process"].setdefault("env", []).extend(message.get("environment") or ())  # secrets: in no file
    linux = spec.get("linux") or {}
    peers: dict[str, int] = {}
    if message["sources"]:
        from berth.runtime import sources  # of few containers

        if not linux.get("uidMappings"):  # the kernel lets nothing of a user namespace spread to the host
            peers = sources.clone_peers(message["sources"])
    own_mount_namespace()
    target = f"{bundle}/{spec['root']['path']}"
    os.makedirs(target, mode=0o755, exist_ok=True)
    maps = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    owner = (container.host_id(maps[0]), container.host_id(maps[1])) if maps[0] else (0, 0)
    if message["rootfs"]:
        container.mount_root(message["rootfs"], target, *maps)
    _make_work_directory(target, spec["process"]["cwd"], owner)
    for source in message["sources"]:
        if message["runtime"] or source["at"] not in peers:
            sources.place(source, maps, peers.get(source["at"], -1))
    if message["runtime"]:
        _suit_external_runtime(message, hosts)
        return external_runtime(message).start(message["id"], bundle, standard_fds, message["state_dir"]), "", True
    plan = Plan(spec, bundle)
    if plan.uid_mappings:
        _give_pipes(standard_fds, container.host_id(plan.uid_mappings, plan.process.uid))
    launch = Launch(message["seccomp_cache"], clone_flags=libc.CLONE_PARENT)
    launch.standard_fds = standard_fds
    launch.peers = peers
    started, group = container.start(plan, hosts, launch)
    return started, group.path, not plan.clone_flags & libc.CLONE_NEWPID


def _start_external_exec(
    message: dict, hosts: cgroup.Hierarchies, standard_fds: tuple[int, int, int] | None
) -> container.Started:
    own_mount_namespace()
    _suit_external_runtime(message, hosts)
    pid_file = f"{message['state_dir']}/exec.{os.getpid()}.pid"
    runtime = external_runtime(message)
    return runtime.execute(message["id"], message["process"], standard_fds, message["state_dir"], pid_file)


def external_runtime(message: dict) -> external.ExternalRuntime:
    """The other runtime that a message names."""
    runtime = message["runtime"]
    return external.ExternalRuntime(runtime["command"], runtime["root"], f"{message['state_dir']}/runtime.log")


def own_mount_namespace() -> None:
    """The root file system is mounted where only this process and the container see it.

    It goes away with them, however they end. Unmounts on the host still come through (slave).
    """
    libc.unshare(libc.CLONE_NEWNS)
    mount.set_propagation("/", mount.MS_SLAVE | mount.MS_REC)


def _suit_external_runtime(message: dict, hosts: cgroup.Hierarchies) -> None:
    """crun refuses a hybrid host whose v2 hierarchy has a controller; in our namespace it need not see it."""
    if os.path.basename(message["runtime"]["command"]).startswith("crun") and hosts.version == 1 and hosts.v2:
        libc.umount2(hosts.v2, libc.MNT_DETACH)


def _give_pipes(fds: tuple[int, int, int] | None, uid: int) -> None:
    """Pipes to the program's user, who may want to open /dev/stdout again.

    Root of a user namespace cannot give them: whoever made them has no id in it.
    """
    for fd in fds or ():
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, uid, -1)


def _make_work_directory(root: str, cwd: str, owner: tuple[int, int]) -> None:
    """Makes the work directory if the image lacks it, as Docker does; owned by the container's root."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    path = ""
    try:
        for part in cwd.strip("/").split("/"):
            path = f"{path}/{part}"
            try:
                fd = mount.open_beneath(root_fd, path)
            except FileNotFoundError:
                fd = mount.make_beneath(root_fd, path, directory=True)
                os.chown(mount.fd_path(fd), *owner)
            os.close(fd)
    except OSError:
        pass  # init says what is wrong with it, in the container's own terms
    finally:
        os.close(root_fd)
