"""The monitor: parent of one container's first program (or of one exec'd program), until that ends.

It owns the terminal or the pipes, writes the log, takes connections on `monitor.sock`, and keeps
the exit status in a file before it tells anybody: an engine that is killed and started again loses
neither a line nor a status. It is forked from the launcher and keeps little memory of its own.
"""

import fcntl
import os
import select
import struct
import termios
import time

from berth import errors
from berth.linux import cgroup, cgroup_end, signals, sockets
from berth.models.jsonlite import dumps, loads
from berth.runtime import frames, jsonlog, logdrivers, starter

_READ_BYTES = 65536  # a pipe's worth
# A reader that is slower than the container stops it, as a full pipe would, once this much waits.
_MAX_PENDING_BYTES = 256 * 1024
_DRAIN_TIMEOUT_MS = 2000
_BACKLOG = 128
_STARTER_ENDS_MS = 50
_KEPT_SIGNALS, _MAX_WORD_BYTES = 8, 32

_READ, _WRITE = select.POLLIN, select.POLLOUT
_ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL
# An exec's message with nothing in it, for `rehearse`.
_REHEARSED = dumps({
    "kind": "exec", "id": "", "pid": 0, "keep": "", "attach": [], "socket": "", "state_dir": "", "bundle": "", "runtime": None,
    "terminal": False, "stdin": False, "log": None, "exit_path": "", "uid_mappings": [], "cgroup_path": "/rehearsed",
    "namespaces": 0, "seccomp_cache": "", "seccomp_path": "", "annotations": {},
    "process": {
        "args": ["true"], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 0,
        "capabilities": {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
    },
})  # fmt: skip


class Connection:
    """One client; owns its socket."""

    __slots__ = ("asked_for_log", "decoder", "pending", "seen_log", "sock", "wants")

    def __init__(self, sock: sockets.socket, wants: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.wants = wants
        self.pending = bytearray()
        self.decoder = frames.Decoder()
        self.asked_for_log = False
        self.seen_log = 0  # how often the log had grown when this client was told last


class Monitor:
    """message: what the launcher received, which engine.containers and engine.execs write; waiting: does the start."""

    def __init__(self, message: dict, hosts: cgroup.Hierarchies, fds: list[int], waiting: starter.ExecStarter) -> None:
        self.message = message
        self.starter: starter.ExecStarter | None = waiting
        self.hosts = hosts
        self.is_exec = message["kind"] == "exec"
        first_fd = fds.pop(0)
        self.init_pidfd, self.start_fd = (first_fd, -1) if self.is_exec else (-1, first_fd)
        # An exec's own file, see engine.execfiles, and whose connection tells whether the engine lives.
        self.kept_fd = fds.pop(0) if self.is_exec and message["keep"] else -1
        self.engine_fd = fds[0] if self.is_exec and fds else -1
        wants = message["attach"]
        self.connections = {
            fd: Connection(sockets.socket(fileno=fd), want) for fd, want in zip(fds, wants, strict=True)
        }
        self.poll = select.poll()
        self.outputs: dict[int, tuple[bytes, str]] = {}  # descriptor -> frame kind, stream name
        self.stdin_fd = -1
        self.stdin_pending = bytearray()
        self.stdin_closing = False
        self.terminal_fd = -1
        self.log: jsonlog.Lines | None = None
        self.log_growths = 0
        self.listener: sockets.socket | None = None
        self.pid = 0
        self.pidfd = -1
        self.group: cgroup.Cgroup | None = None
        self.leaves_others = True
        self.started_frame = b""
        self.exit_frame = b""
        self.asked_by = ""
        self.signals: list[dict] = []  # the last that were asked for here

    # -- start --------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole life of the monitor."""
        try:
            self._start()
        except BaseException as error:
            self._report_failure(error)
            return
        self._serve()

    def _start(self) -> None:
        self._open_log()
        self._listen(self.message["socket"])
        child_fds = self._make_pipes()
        try:
            assert self.starter is not None
            started = self.starter.start(self.message, self.init_pidfd, child_fds, self.start_fd)
        finally:
            for fd in (*(child_fds or ()), *([self.start_fd] if self.start_fd >= 0 else ())):
                os.close(fd)
        self.pid = started.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.leaves_others = started.leaves_others
        if started.cgroup_path:
            self.group = cgroup.open_cgroup(started.cgroup_path, self.hosts)
        if started.terminal_fd >= 0:
            self.terminal_fd = started.terminal_fd
            os.set_blocking(self.terminal_fd, False)
            self.outputs[self.terminal_fd] = (frames.STDOUT, "stdout")
            self.stdin_fd = self.terminal_fd
        started_at_ns = time.time_ns()
        report = {"pid": self.pid, "monitor": os.getpid(), "started_ns": started_at_ns}
        self.started_frame = frames.encode(frames.STARTED, dumps(report).encode())
        self._tell_all(self.started_frame)

    def _open_log(self) -> None:
        """One that is sent somewhere; a file is opened by the first output, see `_opened_log`."""
        if self.message["log"] and self.message["log"]["driver"] not in logdrivers.FILE_DRIVERS:
            self.log = logdrivers.open_log(self.message["log"])

    def _opened_log(self) -> jsonlog.Lines | None:
        """What a monitor never runs it need not keep in memory: a silent container's does without all of it."""
        if self.log is None and self.message["log"]:
            try:
                self.log = logdrivers.open_log(self.message["log"])
            except errors.BerthError:
                pass  # a full disk: the next output tries again
        return self.log

    def _listen(self, name: str) -> None:
        if not name:
            return
        # Through a descriptor: a path below a long --exec-root may not fit into sun_path (108 bytes).
        directory = os.open(self.message["state_dir"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{directory}/{name}"
            if os.path.exists(path):
                os.unlink(path)
            self.listener = sockets.listen(directory, name, sockets.SOCK_STREAM, _BACKLOG)
        finally:
            os.close(directory)
        self.listener.setblocking(False)

    def _make_pipes(self) -> tuple[int, int, int] | None:
        """Pipes for the three streams; returns the child's ends. None where there is a terminal."""
        if self.message["terminal"]:
            return None
        if self.message["stdin"]:
            child_in, self.stdin_fd = os.pipe()
            os.set_blocking(self.stdin_fd, False)
        else:
            child_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        out_read, child_out = os.pipe()
        err_read, child_err = os.pipe()
        for fd in (out_read, err_read):
            os.set_blocking(fd, False)
        self.outputs = {out_read: (frames.STDOUT, "stdout"), err_read: (frames.STDERR, "stderr")}
        return child_in, child_out, child_err

    def _report_failure(self, error: BaseException) -> None:
        payload = dumps(errors.to_wire(error)).encode()
        self._clear_away()
        self._tell_all(frames.encode(frames.FAILED, payload))
        self._flush_all(_DRAIN_TIMEOUT_MS)

    # -- serve --------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            self._register()
            events = self.poll.poll(_STARTER_ENDS_MS if self.starter else None)
            if self.starter and self.starter.has_ended(wait=False):
                self.starter = None
            for fd, event in events:
                if fd == self.pidfd:
                    self._finish()
                    return
                self._handle(fd, event)

    def _register(self) -> None:
        """Says anew what to wait for: a handful of descriptors, so nothing is kept up to date by hand."""
        wanted = {self.pidfd: _READ}
        if self.listener:
            wanted[self.listener.fileno()] = _READ
        if self.log and self.log.child_fd >= 0:
            wanted[self.log.child_fd] = _READ
        stalled = any(len(c.pending) > _MAX_PENDING_BYTES for c in self.connections.values())
        for fd in self.outputs:
            if not stalled:
                wanted[fd] = _READ
        if self.stdin_pending and self.stdin_fd >= 0:
            wanted[self.stdin_fd] = wanted.get(self.stdin_fd, 0) | _WRITE
        stdin_full = len(self.stdin_pending) > _MAX_PENDING_BYTES
        for fd, connection in self.connections.items():
            read = 0 if stdin_full and connection.wants & frames.WANT_STDIN else _READ
            wanted[fd] = read | (_WRITE if connection.pending else 0)
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        self.poll = poll

    def _handle(self, fd: int, event: int) -> None:
        if self.listener and fd == self.listener.fileno():
            self._accept()
        elif fd in self.connections:
            self._handle_connection(self.connections[fd], event)
        elif self.log and fd == self.log.child_fd:
            self.log.child_ended()
        else:
            if event & _WRITE and fd == self.stdin_fd:
                self._write_stdin()
            if fd in self.outputs and event & (_READ | _ENDED):
                self._read_output(fd)

    def _accept(self) -> None:
        assert self.listener is not None
        while True:
            try:
                sock = sockets.accept(self.listener)
            except OSError:
                return
            connection = Connection(sock, 0)
            self.connections[sock.fileno()] = connection
            self._send(connection, self.started_frame + self.exit_frame)

    def _handle_connection(self, connection: Connection, event: int) -> None:
        if event & _WRITE:
            self._send(connection, b"")
        if connection.sock.fileno() < 0 or not event & (_READ | _ENDED):
            return
        try:
            data = connection.sock.recv(_READ_BYTES)
            received = connection.decoder.feed(data)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ValueError):
            data, received = b"", []
        for kind, payload in received:
            self._handle_frame(connection, kind, payload)
        if not data:
            self._drop(connection)

    def _handle_frame(self, connection: Connection, kind: bytes, payload: bytes) -> None:
        if kind == frames.STDIN and not self.stdin_closing:
            self.stdin_pending += payload
            self._write_stdin()
        elif kind == frames.CLOSE:
            self.stdin_closing = self.terminal_fd < 0
            self._write_stdin()
        elif kind == frames.RESIZE and len(payload) == 4 and self.terminal_fd >= 0:
            rows, columns = struct.unpack(">HH", payload)
            fcntl.ioctl(self.terminal_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        elif kind == frames.SIGNAL and len(payload) == 1 and not self.exit_frame:
            self._send_signal(payload[0])
        elif kind == frames.ASKED and len(payload) <= _MAX_WORD_BYTES:
            self.asked_by = payload.decode("ascii", "replace")
        elif kind == frames.ATTACH and len(payload) == 1:
            connection.wants = payload[0]
        elif kind == frames.HISTORY and len(payload) == 1:
            self._tell_history(connection, payload[0])
        elif kind == frames.LOG:
            connection.asked_for_log = True
            self._tell_log(connection)

    def _send_signal(self, number: int) -> None:
        asked = {"signal": number, "by": self.asked_by, "at_ns": time.time_ns()}
        self.signals, self.asked_by = [*self.signals, asked][-_KEPT_SIGNALS:], ""
        try:
            signals.pidfd_send(self.pidfd, number)
        except OSError:
            pass

    def _tell_history(self, connection: Connection, wants: int) -> None:
        """Where the log ends, and that from there on the output comes here, without a gap and not twice."""
        log = self._opened_log()
        inode, size = log.position() if log else (0, 0)
        answer = frames.encode(frames.HISTORY, dumps({"inode": inode, "bytes": size}).encode())
        for stream, rest in log.unfinished().items() if log else ():
            kind, bit = (frames.STDERR, frames.WANT_STDERR) if stream == "stderr" else (frames.STDOUT, frames.WANT_STDOUT)
            answer += frames.encode(kind, rest) if wants & bit else b""
        connection.wants = wants
        self._send(connection, answer)

    def _tell_log(self, connection: Connection) -> None:
        """One frame for any number of lines: what a reader of the log is behind is in the file and not in memory."""
        if connection.asked_for_log and connection.seen_log != self.log_growths:
            connection.asked_for_log = False
            connection.seen_log = self.log_growths
            self._send(connection, frames.encode(frames.LOG))

    def _drop(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        self.connections.pop(fd, None)
        connection.sock.close()
        if self.is_exec and not self.exit_frame and self.pidfd >= 0:
            self._go_on_without(fd, connection)

    def _go_on_without(self, fd: int, connection: Connection) -> None:
        """An exec whose engine is gone waits for the next one; input can come from nobody else than who is gone."""
        if connection.wants & frames.WANT_STDIN and not self.stdin_closing:
            self.stdin_closing = self.terminal_fd < 0
            self._write_stdin()
        if fd == self.engine_fd and self.kept_fd >= 0:
            self.engine_fd = -1
            try:
                self._listen(f"{self.message['keep']}.sock")
            except OSError:
                self.listener = None  # the container's directory is being removed

    def _write_stdin(self) -> None:
        if self.stdin_fd < 0:
            self.stdin_pending.clear()
            return
        while self.stdin_pending:
            try:
                written = os.write(self.stdin_fd, self.stdin_pending[:_READ_BYTES])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # the program closed its end
                self.stdin_pending.clear()
                break
            del self.stdin_pending[:written]
        if self.stdin_closing:
            os.close(self.stdin_fd)
            self.stdin_fd = -1

    def _read_output(self, fd: int) -> int:
        """Passes on what is there; returns how many bytes that were."""
        kind, stream = self.outputs[fd]
        try:
            data = os.read(fd, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:  # EIO: the last holder of the terminal is gone
            data = b""
        if not data:
            del self.outputs[fd]
            if fd != self.terminal_fd:
                os.close(fd)
            return 0
        log = self.log or self._opened_log()
        if log:
            log.write(stream, data)
            self.log_growths += 1
        wanted = frames.WANT_STDOUT if kind == frames.STDOUT else frames.WANT_STDERR
        frame = b""
        for connection in list(self.connections.values()):
            if connection.wants & wanted:
                frame = frame or frames.encode(kind, data)
                self._send(connection, frame)
            if connection.asked_for_log:
                self._tell_log(connection)
        return len(data)

    def _send(self, connection: Connection, frame: bytes) -> None:
        connection.pending += frame
        try:
            while connection.pending:
                sent = connection.sock.send(connection.pending)
                del connection.pending[:sent]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(connection)

    def _tell_all(self, frame: bytes) -> None:
        for connection in list(self.connections.values()):
            self._send(connection, frame)

    # -- end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        seen_ns = time.time_ns()  # before it is collected: what somebody starts once it is gone ends later
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._end_others()
        self._drain()
        if self.log:
            self.log.flush()
            self.log.close()
        report = {
            "exit_code": 128 - code if code < 0 else code,
            "finished_ns": seen_ns if self.is_exec else time.time_ns(),  # a container's after its last line in the log
            "oom_killed": bool(self.group and self.group.oom_kills()),
        }
        if code or report["oom_killed"] or self.signals:
            report |= self._circumstances(status)
        self._keep(report)
        self.exit_frame = frames.encode(frames.EXITED, dumps(report).encode())
        self._tell_all(self.exit_frame)
        self._clean_up()
        self._linger()

    def _circumstances(self, status: int) -> dict:
        """What `berth why` tells a program's end by, of one that did not just do its work and leave."""
        return {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "core": os.WCOREDUMP(status), "pid": self.pid,
            "asked": self.signals, **(cgroup_end.counters(self.group) if self.group else {}),
        }  # fmt: skip

    def _end_others(self) -> None:
        """Without a pid namespace of its own the container's other processes outlive its first one."""
        if self.group and self.leaves_others and not self.is_exec:
            self.group.kill()

    def _drain(self) -> None:
        """Reads what is still in the pipes, also for a client that stalls: it is no more than they hold.

        An exec's pipes may stay open in what it left behind: only what was there at its end counts.
        """
        if self.is_exec:
            for fd in list(self.outputs):
                left = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
                while left > 0 and (size := self._read_output(fd)):
                    left -= size
            return
        deadline = time.monotonic() + _DRAIN_TIMEOUT_MS / 1000
        while self.outputs:
            poll = select.poll()
            for fd in self.outputs:
                poll.register(fd, _READ)
            events = poll.poll(max(0, int((deadline - time.monotonic()) * 1000)))
            if not events or time.monotonic() > deadline:
                return
            for fd, _ in events:
                self._read_output(fd)

    def _linger(self) -> None:
        """Stays for clients that are behind, however slow, as long as they are there; lets go of all others."""
        for fd in (self.pidfd, self.stdin_fd, self.terminal_fd, *self.outputs):
            if fd >= 0:
                _close(fd)
        for connection in list(self.connections.values()):
            if not connection.pending:
                self._drop(connection)
        while self.connections:
            self._flush_all(None)
            for connection in list(self.connections.values()):
                if not connection.pending:
                    self._drop(connection)

    def _keep(self, report: dict) -> None:
        """The exit status on disk, whole or not at all, before anybody hears of it."""
        if self.kept_fd >= 0:
            self._keep_exec(report)
        path = self.message["exit_path"]
        if not path:
            return
        temporary = f"{path}.new"
        try:
            with open(temporary, "w") as file:
                file.write(dumps(report))
                file.flush()
                if self.message["exit_lasts"]:
                    os.fdatasync(file.fileno())
            os.rename(temporary, path)
        except OSError:
            pass  # the container's directory is being removed, or the disk is full: the frame still goes out

    def _keep_exec(self, report: dict) -> None:
        """The lock goes with the descriptor: after the line."""
        try:
            os.write(self.kept_fd, dumps({**report, "pid": self.pid}).encode() + b"\n")
        except OSError:
            pass  # a full run directory: the frame still goes out
        os.close(self.kept_fd)
        self.kept_fd = -1

    def _flush_all(self, timeout_ms: int | None) -> None:
        """Sends what waits to readers that read; once all stall for `timeout_ms` they are given up."""
        while True:
            poll = select.poll()
            waiting = {fd: c for fd, c in self.connections.items() if c.pending}
            if not waiting:
                return
            for fd in waiting:
                poll.register(fd, _WRITE)
            events = poll.poll(timeout_ms)
            if not events:
                return
            for fd, _ in events:
                self._send(waiting[fd], b"")

    def _clean_up(self) -> None:
        """After everybody has been told: what a next start of the same container must not meet."""
        if self.starter:
            self.starter.has_ended()
        self._unlink_socket()
        if self.message["runtime"] and not self.is_exec:
            starter.external_runtime(self.message).delete(self.message["id"])
        if self.group and not self.is_exec:
            cgroup.end_and_remove(self.group)

    def _unlink_socket(self) -> None:
        if self.listener:
            self.listener.close()
            self.listener = None
            self._unlink(self.message["socket"] or f"{self.message['keep']}.sock")

    def _clear_away(self) -> None:
        """What never ran leaves nothing."""
        self._unlink_socket()
        if self.kept_fd >= 0:
            self._unlink(self.message["keep"])

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(f"{self.message['state_dir']}/{name}")
        except OSError:
            pass


def rehearse(waiting: starter.ExecStarter, hosts: cgroup.Hierarchies) -> None:
    """Goes an exec's way up to the clone, for nothing: what that writes to is memory of this process's own from then on.

    Of a forked interpreter's time half goes into copying such pages, here before anybody waits for it.
    """
    message = loads(_REHEARSED)
    rehearsed = Monitor(message, hosts, [-1], waiting)
    child_fds = rehearsed._make_pipes() or ()
    waiting.plan(message)
    for fd in (*child_fds, *rehearsed.outputs):
        os.close(fd)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # the terminal is input and output: one descriptor
