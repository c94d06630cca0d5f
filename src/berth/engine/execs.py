"""Exec: one more program in a running container, and what became of those that an earlier engine started."""

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable

from berth import errors
from berth.engine import bundle, execfiles, state
from berth.engine.containers import Container, ContainerService
from berth.engine.execbase import ExecBase
from berth.engine.hostfiles import start_ticks
from berth.engine.monitors import DirectConnection, Launcher, MonitorConnection, await_started, why_not_started
from berth.engine.proctree import kill_tree
from berth.engine.state import RESTARTING_TEXT
from berth.engine.tasks import Tasks
from berth.oci import users
from berth.runtime import frames
from berth.store import rootfiles

log = logging.getLogger("berth.containers")

_KEPT_AFTER_END_S = 300
_FILE_KEPT_AFTER_ASKED_S = 3  # for a client whose answer the engine did not live to send
_FIRST_RETRY_S, _MAX_RETRY_S = 0.005, 1.0
_EXIT_CODE_KILLED = 137


class Exec:
    """config: Docker's ExecConfig; kept for a while after its end, so that its exit code can be asked for.

    probe: of a health check; one that outlives its engine is ended, since nobody else would when its time is up.
    """

    def __init__(self, container: Container, config: dict, *, identity: str = "", probe: bool = False) -> None:
        self.id = identity or secrets.token_hex(32)
        self.container = container
        self.config = config
        self.probe = probe
        self.running = False
        self.pid = 0
        self.exit_code: int | None = None
        self.control: MonitorConnection | DirectConnection | None = None
        self.ended = asyncio.Event()
        self.asked = False  # for its exit code


class ExecService:
    """All execs of the engine's life, and those that an earlier engine left running or untold."""

    def __init__(
        self, containers: ContainerService, launcher: Launcher, tasks: Tasks, seccomp_cache: str
    ) -> None:
        self._containers = containers
        self._launcher = launcher
        self._tasks = tasks
        self._seccomp_cache = seccomp_cache
        self._by_id: dict[str, Exec] = {}
        containers.on_found.append(self._take_over)

    def find(self, identity: str) -> Exec:
        """By whole id, or NotFound in Docker's words."""
        try:
            return self._by_id[identity]
        except KeyError:
            raise errors.NotFound(f"No such exec instance: {identity}") from None

    def create(self, container: Container, config: dict, *, probe: bool = False) -> Exec:
        """Registers what is to be run; it starts with `start`."""
        self._check_running(container)
        command = config.get("Cmd") or []
        if not command or not all(isinstance(word, str) and "\0" not in word for word in command):
            raise errors.InvalidParameter("No exec command specified")
        exec_ = Exec(container, config, probe=probe)
        self._by_id[exec_.id] = exec_
        container.execs.append(exec_.id)
        self.publish(exec_, f"exec_create: {_shown(command)}")
        return exec_

    def check_startable(self, exec_: Exec) -> None:
        """Conflict for one that has been started, or whose container does not run."""
        self._check_running(exec_.container)
        if exec_.running or exec_.exit_code is not None:
            state_now = "has already run" if exec_.exit_code is not None else "is already running"
            raise errors.Conflict(f"exec command {exec_.id} {state_now}")

    async def start(self, exec_: Exec, wants: int, size: tuple[int, int]) -> MonitorConnection:
        """Starts it; returns a connection for its streams. Raises what went wrong."""
        self._begin(exec_)
        try:
            control, stream = [await MonitorConnection.of_socket(sock) for sock in self._ask(exec_, [0, wants], size)]
            try:
                report = await await_started(control)
            except BaseException:
                control.close()
                stream.close()
                raise
        except errors.BerthError as error:
            self._not_started(exec_, error)
            raise
        exec_.pid, exec_.control = report["pid"], control
        self._tasks.spawn(self._watch(exec_, control))
        return stream

    async def run(self, exec_: Exec, on_output: Callable[[bytes], None]) -> None:
        """Starts one whose output only the engine wants, and returns when it has ended. Raises what went wrong before.

        If cancelled, one that has started goes on, and its end is told as ever; one that has not is killed once it has.
        """
        self._begin(exec_)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        said: dict[bytes, bytes] = {}  # the frames of which there is one

        def on_frame(kind: bytes, payload: bytes) -> None:
            if kind in (frames.STDOUT, frames.STDERR):
                if not over.done():
                    on_output(payload)
            elif kind == frames.STARTED:
                exec_.pid, exec_.control = json.loads(payload)["pid"], connection
                if over.done():
                    self._tasks.spawn(self.kill(exec_))
            elif kind:
                said[kind] = payload
            elif exec_.control:
                self._monitor_gone(exec_, json.loads(said[frames.EXITED]) if frames.EXITED in said else None)
                if not over.done():
                    over.set_result(None)
            else:
                failure = why_not_started(frames.FAILED if frames.FAILED in said else b"", said.get(frames.FAILED, b""))
                if over.done():
                    self._not_started(exec_, failure)
                else:
                    over.set_exception(failure)

        try:
            (sock,) = self._ask(exec_, [frames.WANT_STDOUT | frames.WANT_STDERR], (0, 0))
            connection = DirectConnection(sock, on_frame)
            await over
        except errors.BerthError as error:
            self._not_started(exec_, error)
            raise

    def _begin(self, exec_: Exec) -> None:
        self.check_startable(exec_)
        exec_.running = True
        self.publish(exec_, f"exec_start: {_shown(exec_.config['Cmd'])}")

    def _not_started(self, exec_: Exec, error: errors.BerthError) -> None:
        exec_.running = False
        exec_.exit_code = error.exit_code if isinstance(error, errors.StartFailed) else 126
        self._remove_file(exec_)
        self._forget_later(exec_)

    def _ask(self, exec_: Exec, attach: list[int], size: tuple[int, int]) -> list[socket.socket]:
        """Sends the request; returns a socket for each of `attach`. The first is the one that tells of the end."""
        record = exec_.container.record
        pidfd = self._open_pidfd(record.pid, record.pid_start_ticks)
        kept_fds = self._create_file(exec_)
        pairs = [socket.socketpair() for _ in attach]
        try:
            own = {"attach": attach, "keep": execfiles.name_of(exec_.id) if kept_fds else ""}
            message = b'%b, %b' % (self._encoded(exec_, size)[:-1], json.dumps(own).encode()[1:])
            send = self._launcher.send_encoded if self._containers.runtime_message(record) else self._launcher.send_exec
            send(message, [pidfd, *kept_fds, *(theirs.fileno() for _, theirs in pairs)])
        except BaseException:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for fd in (pidfd, *kept_fds):
                os.close(fd)
            for _, theirs in pairs:
                theirs.close()
        return [ours for ours, _ in pairs]

    def _encoded(self, exec_: Exec, size: tuple[int, int]) -> bytes:
        """The message but for what is each exec's own; all probes of a run have one."""
        containers, container = self._containers, exec_.container
        base = container.exec_base
        if base is None or base.started_ns != container.record.started_ns:
            base = container.exec_base = ExecBase(containers.directory(container), self._seccomp_cache, container.record.started_ns)
        if not exec_.probe:
            return json.dumps(self._message(exec_, base, size)).encode()
        base.probe = base.probe or json.dumps(self._message(exec_, base, size)).encode()
        return base.probe

    def _open_pidfd(self, pid: int, ticks: int) -> int:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            raise errors.Conflict("the container is no longer running") from None
        if start_ticks(pid) != ticks:  # the number belongs to somebody else by now
            os.close(pidfd)
            raise errors.Conflict("the container is no longer running")
        return pidfd

    def _message(self, exec_: Exec, base: ExecBase, size: tuple[int, int]) -> dict:
        containers, container, config = self._containers, exec_.container, exec_.config
        record = container.record
        process = self._process(exec_, base.process, size)
        return {
            "kind": "exec", "id": record.id, "bundle": containers.directory(container), "pid": record.pid,
            "state_dir": containers.state_directory(container), "socket": "", "process": process,
            "seccomp_path": "" if config.get("Privileged") else base.seccomp_path, "annotations": base.annotations,
            "cgroup_path": base.cgroup_path, "uid_mappings": base.uid_mappings, "namespaces": base.namespaces,
            "runtime": containers.runtime_message(record), "terminal": bool(config.get("Tty")),
            "stdin": bool(config.get("AttachStdin")), "log": None, "exit_path": "",
            "seccomp_cache": self._seccomp_cache,
        }  # fmt: skip

    def _process(self, exec_: Exec, first: dict, size: tuple[int, int]) -> dict:
        """The container's own process description with what the exec changes."""
        config, host = exec_.config, exec_.container.record.host
        user = self._user(exec_)
        granted = bundle.granted_capabilities(
            {**host, "Privileged": True} if config.get("Privileged") else host, self._containers.host.bounding
        )
        given = {item.partition("=")[0] for item in config.get("Env") or []}
        environment = [item for item in first["env"] if item.partition("=")[0] not in given | {"HOME", "TERM"}]
        environment += [item for item in config.get("Env") or [] if "=" in item]
        if "HOME" not in given:
            environment.append(f"HOME={user.home}")
        if config.get("Tty") and "TERM" not in given:
            environment.append("TERM=xterm")
        process = {
            **first, "args": config["Cmd"], "env": environment, "terminal": bool(config.get("Tty")),
            "cwd": config.get("WorkingDir") or first["cwd"],
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids},
            "capabilities": bundle.capability_sets(granted, user.uid),
        }  # fmt: skip
        process.pop("consoleSize", None)
        if config.get("Tty") and all(size):
            process["consoleSize"] = {"height": size[0], "width": size[1]}
        if config.get("Privileged"):
            process.pop("apparmorProfile", None)
        if not process["cwd"].startswith("/"):
            raise errors.InvalidParameter(f"the working directory {process['cwd']!r} is invalid, it needs to be an absolute path")
        return process

    def _user(self, exec_: Exec) -> users.ResolvedUser:
        record = exec_.container.record
        try:
            root = os.open(f"/proc/{record.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise errors.Conflict("the container is no longer running") from None
        try:
            passwd = rootfiles.read_beneath(root, "etc/passwd")
            group = rootfiles.read_beneath(root, "etc/group")
        finally:
            os.close(root)
        text = exec_.config.get("User") or record.config.get("User") or ""
        return users.resolve(text, record.host.get("GroupAdd") or [], passwd, group)

    def _check_running(self, container: Container) -> None:
        if container.record.status == state.PAUSED:
            raise errors.Conflict(f"Container {container.record.id} is paused, unpause the container before exec")
        if container.record.status == state.RESTARTING:
            raise errors.Conflict(RESTARTING_TEXT.format(container.record.id))
        if not container.record.running:
            raise errors.Conflict(f"container {container.record.id} is not running")

    async def _watch(self, exec_: Exec, control: MonitorConnection) -> None:
        report = None
        async for kind, payload in control.frames():
            if kind == frames.EXITED:
                report = json.loads(payload)
        control.close()
        self._monitor_gone(exec_, report)

    def _monitor_gone(self, exec_: Exec, report: dict | None) -> None:
        exec_.control = None
        if report is None:  # the monitor was killed, or it had written its last line when we connected
            kept = execfiles.read(self._directory(exec_), exec_.id)
            report = kept.report if kept else None
        self._ended(exec_, report)

    def _ended(self, exec_: Exec, report: dict | None) -> None:
        exec_.exit_code = report["exit_code"] if report else _EXIT_CODE_KILLED
        exec_.running = False
        exec_.ended.set()
        self.publish(exec_, "exec_die", {"exitCode": str(exec_.exit_code)})
        if exec_.probe:
            self._remove_file(exec_)  # nobody asks for its exit code
        else:
            execfiles.note_told(self._directory(exec_), exec_.id)
        self._forget_later(exec_)

    def _forget_later(self, exec_: Exec, after_s: float = _KEPT_AFTER_END_S) -> None:
        if exec_.id in exec_.container.execs:
            exec_.container.execs.remove(exec_.id)
        asyncio.get_running_loop().call_later(after_s, self.drop, exec_)

    async def kill(self, exec_: Exec) -> None:
        """SIGKILL to a program that has started and all that it has started."""
        if exec_.control:
            await exec_.control.send_signal(signal.SIGSTOP)  # one that is just beginning must start nothing behind our back
            await asyncio.to_thread(kill_tree, exec_.pid)
        if exec_.control:
            await exec_.control.send_signal(signal.SIGKILL)

    def drop(self, exec_: Exec) -> None:
        """Forgets one whose exit code nobody will ask for."""
        self._by_id.pop(exec_.id, None)
        if not exec_.running:
            self._remove_file(exec_)
        if exec_.id in exec_.container.execs:
            exec_.container.execs.remove(exec_.id)

    # -- over the engine's end ------------------------------------------------------------------------

    def _directory(self, exec_: Exec) -> str:
        return self._containers.state_directory(exec_.container)

    def _create_file(self, exec_: Exec) -> list[int]:
        """The descriptor of the exec's file for its monitor; none where it cannot be made: then it is not kept."""
        try:
            return [execfiles.create(self._directory(exec_), exec_.id, exec_.config, probe=exec_.probe)]
        except OSError as error:
            log.warning("exec %s would be lost with the engine: %s", exec_.id, error)
            return []

    def _remove_file(self, exec_: Exec) -> None:
        execfiles.remove(self._directory(exec_), exec_.id)

    async def _take_over(self, container: Container) -> None:
        """Finds the execs of an earlier engine; tells of those that have ended, in the order of their ends."""
        directory = self._containers.state_directory(container)
        ended: list[tuple[int, Exec, dict | None]] = []
        for identity in execfiles.identities(directory):
            held = execfiles.is_held(directory, identity)
            kept = execfiles.read(directory, identity)
            if kept is None:
                execfiles.remove(directory, identity)
                continue
            exec_ = Exec(container, kept.config, identity=identity, probe=kept.probe)
            self._by_id[identity] = exec_
            if kept.report:
                exec_.pid, exec_.exit_code = kept.report.get("pid", 0), kept.report["exit_code"]
            if kept.told:
                exec_.exit_code = _EXIT_CODE_KILLED if exec_.exit_code is None else exec_.exit_code
                ended_s = kept.report["finished_ns"] / 1e9 if kept.report else 0
                self._forget_later(exec_, max(0.0, min(ended_s + _KEPT_AFTER_END_S - time.time(), _KEPT_AFTER_END_S)))
            elif held:
                exec_.running = True
                container.execs.append(identity)
                if not await self._reconnect(exec_):
                    self._tasks.spawn(self._reconnect_later(exec_))
            else:
                ended.append((kept.report["finished_ns"] if kept.report else 0, exec_, kept.report))
        for _, exec_, report in sorted(ended, key=lambda entry: entry[0]):
            self._ended(exec_, report)

    async def _reconnect_later(self, exec_: Exec) -> None:
        """Its monitor has not seen yet that the engine before is gone, or starts the program just now, or ends."""
        wait_s = _FIRST_RETRY_S
        while not await self._reconnect(exec_):
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_RETRY_S)

    async def _reconnect(self, exec_: Exec) -> bool:
        """Whether it is known by now what became of it."""
        directory = self._directory(exec_)
        if not execfiles.is_held(directory, exec_.id):
            kept = execfiles.read(directory, exec_.id)
            if kept and kept.report:
                exec_.pid = kept.report.get("pid", 0)
            self._ended(exec_, kept.report if kept else None)
            return True
        try:
            control = await MonitorConnection.of_directory(directory, execfiles.socket_of(exec_.id))
        except OSError:
            return False
        try:
            report = await await_started(control)
        except errors.BerthError:  # it has ended meanwhile
            control.close()
            return False
        exec_.pid, exec_.control = report["pid"], control
        if exec_.probe:
            await self.kill(exec_)
        self._tasks.spawn(self._watch(exec_, control))
        return True

    async def resize(self, exec_: Exec, rows: int, columns: int) -> None:
        if exec_.control is None:
            raise errors.Conflict(f"exec {exec_.id} is not running")
        await exec_.control.resize(rows, columns)

    def inspect(self, exec_: Exec) -> dict:
        """GET /exec/{id}/json."""
        if exec_.exit_code is not None and not exec_.asked:
            exec_.asked = True
            asyncio.get_running_loop().call_later(_FILE_KEPT_AFTER_ASKED_S, self._remove_file, exec_)
        config = exec_.config
        command = config["Cmd"]
        return {
            "ID": exec_.id, "Running": exec_.running, "ExitCode": exec_.exit_code, "Pid": exec_.pid,
            "ContainerID": exec_.container.record.id, "OpenStdin": bool(config.get("AttachStdin")),
            "OpenStdout": bool(config.get("AttachStdout")), "OpenStderr": bool(config.get("AttachStderr")),
            "CanRemove": False, "DetachKeys": config.get("DetachKeys") or "",
            "ProcessConfig": {
                "tty": bool(config.get("Tty")), "entrypoint": command[0], "arguments": command[1:],
                "privileged": bool(config.get("Privileged")), **({"user": config["User"]} if config.get("User") else {}),
            },
        }  # fmt: skip

    def publish(self, exec_: Exec, action: str, extra: dict[str, str] | None = None) -> None:
        self._containers.publish(exec_.container, action, {"execID": exec_.id, **(extra or {})})


def _shown(command: list[str]) -> str:
    """As Docker's events show it: the program, a space, the arguments, however many."""
    return f"{command[0]} {' '.join(command[1:])}"
