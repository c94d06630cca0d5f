"""Starts an engine in the background when none listens on the default socket, so that one command suffices."""

import fcntl
import os
import sys

from berth.cli.client import NoEngine

_READY_TIMEOUT_MS = 30_000


def engine_command() -> "list[str]":
    """How to run the engine with the interpreter that has its libraries."""
    return module_command("berth.cli.engine_main")


def module_command(module: str) -> "list[str]":
    """How to run the `main(words)` of a module of ours as a process of its own."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {source!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"
    # -I: neither the caller's directory nor PYTHONPATH may put a module of theirs into a process that may run as root.
    return [sys.executable, "-I", "-c", code]


def start_engine(socket_path: str) -> None:
    """Starts it and returns once it serves; NoEngine with the end of its log if it does not."""
    if os.geteuid() != 0:
        raise NoEngine(
            f"Cannot connect to the engine at unix://{socket_path}, and only root can start one yet: run with sudo, "
            "or start the engine as root and name it with -H"
        )
    exec_root = os.path.dirname(socket_path)
    os.makedirs(exec_root, mode=0o711, exist_ok=True)
    lock = os.open(f"{exec_root}/autostart.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once start one engine
    try:
        if _answers(socket_path):
            return
        _spawn_and_wait(exec_root)
    finally:
        os.close(lock)


def _answers(path: str) -> bool:
    import _socket

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
        return True
    except OSError:
        return False
    finally:
        sock.close()


def _spawn_and_wait(exec_root: str) -> None:
    import select

    here, there = os.pipe()
    log_path = f"{exec_root}/engine.log"
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    start = os.fstat(log).st_size
    os.set_inheritable(there, True)
    command = [*engine_command(), "--ready-fd", str(there)]
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    # A session of its own, or Ctrl-C in this terminal would end the engine too.
    os.posix_spawn(command[0], command, dict(os.environ), file_actions=actions, setsid=True)
    os.close(there)
    poll = select.poll()
    poll.register(here, select.POLLIN)
    ready = poll.poll(_READY_TIMEOUT_MS) and os.read(here, 16)
    for fd in (here, log, null):
        os.close(fd)
    if not ready:
        with open(log_path) as file:
            file.seek(start)
            tail = "".join(file.readlines()[-5:]).rstrip()
        raise NoEngine(f"the engine could not be started; its log {log_path} says:\n{tail}")
