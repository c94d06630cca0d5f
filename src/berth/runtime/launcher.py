"""The launcher: one warmed-up, single-threaded process, the only one of the engine that forks.

    python -I -S <the berth package's runtime/launcher.py> SOCKET_FD

Receives one message (JSON, with descriptors) per container or exec on a SEQPACKET socket and forks a
monitor for it. It answers nothing: the monitor reports on the connection that came with the message.
It ends when the engine does; its monitors go on.
"""

import fcntl
import gc
import json
import os
import signal
import socket
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from berth.linux import cgroup, libc
from berth.runtime import monitor

MAX_MESSAGE_BYTES = 1 << 17
_MAX_FDS = 64
_SEALED = "BERTH_LAUNCHER_SEALED"
_F_SEAL_ALL = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def command(python: str, socket_fd: int) -> list[str]:
    """How to start it."""
    return [python, "-I", "-S", __file__, str(socket_fd)]


def main(argv: list[str]) -> int:
    """Entry point; argv[1] is the number of the engine's socket."""
    if not os.environ.pop(_SEALED, ""):
        _execute_sealed_copy(argv)
    # Nothing in a container may trace us or look into our descriptors; execve makes it dumpable again.
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    libc.set_process_name("berth-launcher")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine in the foreground
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps monitors
    sock = socket.socket(fileno=int(argv[1]))
    sock.set_inheritable(False)
    hosts = cgroup.hierarchies()
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection would write to every page that monitors share with us
    return serve(sock, hosts)


def serve(sock: socket.socket, hosts: cgroup.Hierarchies) -> int:
    """Forks a monitor for each message, until the engine closes its end."""
    while True:
        try:
            data, fds, flags, _ = socket.recv_fds(sock, MAX_MESSAGE_BYTES, _MAX_FDS)
        except ConnectionResetError:
            return 0
        if not data:
            return 0
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for fd in fds:
                os.close(fd)
            continue
        # _PyOS_AfterFork hooks have nothing to do here: one thread, no locks held.
        if os.fork() == 0:
            sock.close()
            _become_monitor(data, fds, hosts)
        for fd in fds:
            os.close(fd)


def _become_monitor(data: bytes, fds: list[int], hosts: cgroup.Hierarchies) -> None:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        libc.set_process_name("berth-monitor")
        message = json.loads(data)
        monitor.Monitor(message, hosts, fds).run()
        status = 0
    except BaseException as error:
        os.write(2, f"berth-monitor: {type(error).__name__}: {error}\n".encode())
    os._exit(status)


def _execute_sealed_copy(argv: list[str]) -> None:
    """Runs this program again from a sealed copy of the interpreter in memory.

    A container whose program is `/proc/self/exe` would otherwise hold the host's interpreter open,
    and could write to it once we are gone (CVE-2019-5736). The copy cannot be written by anybody.
    """
    copy = os.memfd_create("berth", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open("/proc/self/exe", "rb") as source:
        size = os.fstat(source.fileno()).st_size
        while os.sendfile(copy, source.fileno(), None, size):
            pass
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _F_SEAL_ALL)
    os.set_inheritable(int(argv[1]), True)
    # argv[0] stays the interpreter's real name: it is how Python finds its library.
    arguments = command(sys.executable, int(argv[1]))
    os.execve(copy, arguments, {**os.environ, _SEALED: "1"})


if __name__ == "__main__":
    sys.exit(main(sys.argv))
