"""Runs a bundle with another OCI runtime's command line: runc, crun, youki, runsc.

The monitor is the subreaper (runtime.starter sets that): the runtime's own process ends after
`create`, and the container's first process becomes the monitor's child.
"""

import os

from berth.errors import CommandNotExecutable, CommandNotFound, StartFailed
from berth.linux import sockets
from berth.models.jsonlite import dumps, loads
from berth.runtime.container import Started


class ExternalRuntime:
    """command: path of the runtime; root: its state directory; log: where it writes what went wrong."""

    __slots__ = ("command", "log", "root")

    def __init__(self, command: str, root: str, log: str) -> None:
        self.command = _found(command)
        self.root = root
        self.log = log

    def start(self, identity: str, bundle: str, fds: tuple[int, int, int] | None, state_dir: str) -> Started:
        """create and start; fds: what becomes the program's 0, 1, 2, or None for a terminal."""
        pid_file = f"{state_dir}/pid"
        if os.path.exists(f"{self.root}/{identity}"):
            self.delete(identity)  # the last run's monitor was killed before it could
        arguments = ["create", "--bundle", bundle, "--pid-file", pid_file]
        terminal_fd = self._with_console(arguments, [identity], fds, state_dir)
        try:
            self._run(["start", identity], None)
        except BaseException:
            self.delete(identity)
            raise
        with open(pid_file) as file:
            return Started(int(file.read()), terminal_fd)

    def execute(
        self, identity: str, process: dict, fds: tuple[int, int, int] | None, state_dir: str, pid_file: str
    ) -> Started:
        """exec --detach with a process description."""
        description = f"{pid_file}.process.json"
        with open(description, "w") as file:
            file.write(dumps(process))
        arguments = ["exec", "--detach", "--process", description, "--pid-file", pid_file]
        try:
            terminal_fd = self._with_console(arguments, [identity], fds, state_dir)
            with open(pid_file) as file:
                return Started(int(file.read()), terminal_fd)
        finally:
            for path in (description, pid_file):
                if os.path.exists(path):
                    os.unlink(path)

    def delete(self, identity: str) -> None:
        """delete --force; what is gone already is no error."""
        try:
            self._run(["delete", "--force", identity], None)
        except StartFailed:
            pass

    def _with_console(
        self, arguments: list[str], tail: list[str], fds: tuple[int, int, int] | None, state_dir: str
    ) -> int:
        if fds is not None:
            self._run([*arguments, *tail], fds)
            return -1
        # Named through a descriptor of ours: a path below a long --exec-root may not fit into sun_path (108 bytes).
        directory = os.open(state_dir, os.O_PATH | os.O_CLOEXEC)
        path = f"/proc/{os.getpid()}/fd/{directory}/console.{os.getpid()}.sock"
        listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_CLOEXEC)
        try:
            listener.bind(path)
            listener.listen(1)
            # The runtime connects while it runs, which the backlog takes; it is accepted after.
            self._run([*arguments, "--console-socket", path, *tail], None)
            listener.setblocking(False)
            connection = sockets.accept(listener)
            connection.setblocking(True)
            return sockets.receive(connection, 4096)[1][0]
        finally:
            listener.close()
            if os.path.exists(path):
                os.unlink(path)
            os.close(directory)

    def _run(self, arguments: list[str], fds: tuple[int, int, int] | None) -> None:
        argv = [self.command, "--root", self.root, "--log", self.log, "--log-format", "json", *arguments]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds or (null, null, null))]
        try:
            pid = os.posix_spawn(self.command, argv, dict(os.environ), file_actions=actions)
        except OSError as error:
            raise StartFailed(f"runtime {self.command!r} cannot be run: {error.strerror}") from None
        finally:
            os.close(null)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise self._failure(arguments[0])

    def _failure(self, verb: str) -> StartFailed:
        message = f"{os.path.basename(self.command)} {verb} failed"
        try:
            with open(self.log) as file:
                entries = [loads(line) for line in file if line.strip()]
            message = next(e["msg"] for e in reversed(entries) if e.get("level", "error") in ("error", "fatal"))
        except (OSError, ValueError, StopIteration, KeyError):
            pass
        lower = message.lower()
        if "executable file not found" in lower or "no such file or directory" in lower:
            # Docker's CLI knows the exit code from these words, as runc writes them.
            return CommandNotFound(message.replace("No such file", "no such file"))
        if "permission denied" in lower or "exec format error" in lower:
            return CommandNotExecutable(message)
        return StartFailed(message)


def _found(command: str) -> str:
    """Where PATH has it. Not shutil.which: shutil brings three compression libraries, which every monitor would have mapped."""
    for directory in os.environ.get("PATH", os.defpath).split(":") if "/" not in command else ():
        path = f"{directory or '.'}/{command}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return command
