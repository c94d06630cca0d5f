"""The launcher: one warmed-up, single-threaded process, the only one of the engine that forks.

    python -I -S <the berth package's runtime/launcher.py> SOCKET_FD

Receives one message (JSON, with descriptors) per container or exec on a SEQPACKET socket and forks a
monitor for it. It answers nothing: the monitor reports on the connection that came with the message.
It ends when the engine does; its monitors go on.
"""

import gc
import json
import os
import select
import signal
import socket
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from berth.linux import cgroup, cgroup_tree, libc  # noqa: F401 - cgroup_tree is warmed up for monitors
from berth.runtime import monitor, sealed, starter

MAX_MESSAGE_BYTES = starter.MAX_MESSAGE_BYTES
_MAX_FDS = 64
_SPARE_AFTER_S = 0.02


def command(python: str, socket_fd: int) -> list[str]:
    """How to start it."""
    return [python, "-I", "-S", __file__, str(socket_fd)]


def main(argv: list[str]) -> int:
    """Entry point; argv[1] is the number of the engine's socket."""
    sealed.ensure(inheritable_fds=(int(argv[1]),))
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
    """A monitor for each message, until the engine closes its end."""
    spare: Spare | None = Spare(sock, hosts)
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
        spare = spare or Spare(sock, hosts)
        spare.give(data, fds)
        spare = None
        for fd in fds:
            os.close(fd)
        # Not at once: the start that has just begun needs the processor more.
        if not select.select([sock], [], [], _SPARE_AFTER_S)[0]:
            spare = Spare(sock, hosts)


class Spare:
    """A monitor, and its starter, forked before anybody asks for them; owns the channel on which they wait.

    What a fork costs, and the pages that a child then copies, are paid for while nobody waits.
    """

    def __init__(self, sock: socket.socket, hosts: cgroup.Hierarchies) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # _PyOS_AfterFork hooks have nothing to do here: one thread, no locks held.
        if os.fork() == 0:
            sock.close()
            self._channel.close()
            _become_monitor(theirs, hosts)
        theirs.close()
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE_BYTES)

    def give(self, data: bytes, fds: list[int]) -> None:
        """The message that makes it somebody's monitor."""
        with self._channel:
            try:
                socket.send_fds(self._channel, [data], fds)
            except OSError:
                pass  # it was killed: who asked sees the end of its connection


def _become_monitor(channel: socket.socket, hosts: cgroup.Hierarchies) -> None:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        libc.set_process_name("berth-spare")
        waiting = starter.Starter(hosts)
        with channel:
            data, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, _MAX_FDS)
        if data:
            libc.set_process_name("berth-monitor")
            monitor.Monitor(json.loads(data), hosts, fds, waiting).run()
        else:  # the launcher has ended
            waiting.dismiss()
        status = 0
    except BaseException as error:
        os.write(2, f"berth-monitor: {type(error).__name__}: {error}\n".encode())
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
