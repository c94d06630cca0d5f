"""The launcher: one warmed-up, single-threaded process, the only one of the engine that forks.

    python -I -S <the berth package's runtime/launcher.py> SOCKET_FD

Receives one message (JSON, with descriptors) per container or exec on a SEQPACKET socket and forks a
monitor for it. It answers nothing: the monitor reports on the connection that came with the message.
It ends when the engine does; its monitors go on.

    engine ── message ──▶ launcher ── message ──▶ spare monitor
       ◀── SPARE + its channel ──┘                spare monitor for an exec
       ────────── message of an exec ───────────────▶
       ── TAKEN ──▶ another one
"""

import gc
import os
import select
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

try:
    import _blake2  # noqa: F401 - for monitors: the name of a compiled filter; loading it takes longer than using it
except ImportError:
    pass
from berth.linux import cgroup, cgroup_tree, libc, signals, sockets  # noqa: F401 - cgroup_tree is warmed up for monitors
from berth.models.jsonlite import loads
from berth.runtime import monitor, plumber, sealed, starter, viewer

MAX_MESSAGE_BYTES = starter.MAX_MESSAGE_BYTES
_MAX_FDS = 64
_SPARE_AFTER_S = 0.015  # an exec is over by then
SPARE, TAKEN = b"s", b"t"


def command(python: str, socket_fd: int) -> list[str]:
    """How to start it."""
    return [python, "-I", "-S", __file__, str(socket_fd)]


def main(argv: list[str]) -> int:
    """Entry point; argv[1] is the number of the engine's socket."""
    sealed.ensure(inheritable_fds=(int(argv[1]),))
    # Nothing in a container may trace us or look into our descriptors; execve makes it dumpable again.
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    libc.set_process_name("berth-launcher")
    signals.handle(signals.SIGINT, signals.SIG_IGN)  # Ctrl-C is for the engine in the foreground
    signals.handle(signals.SIGCHLD, signals.SIG_IGN)  # the kernel reaps monitors
    sock = sockets.socket(fileno=int(argv[1]))
    os.set_inheritable(sock.fileno(), False)
    hosts = cgroup.hierarchies()
    pids = libc.SharedPids()
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection would write to every page that monitors share with us
    return serve(sock, hosts, pids)


def serve(sock: sockets.socket, hosts: cgroup.Hierarchies, pids: libc.SharedPids) -> int:
    """A monitor for each message, until the engine closes its end."""
    spare: Spare | None = Spare(hosts, pids.take(), [sock])
    handed_over = False
    while True:
        # Not at once: the start that has just begun needs the processor more.
        if (spare is None or not handed_over) and not select.select([sock], [], [], _SPARE_AFTER_S)[0]:
            spare = spare or Spare(hosts, pids.take(), [sock])
            if not handed_over:
                Spare(hosts, pids.take(), [sock, spare.channel], for_exec=True).hand_over(sock)
                handed_over = True
        try:
            data, fds, whole = sockets.receive_checked(sock, MAX_MESSAGE_BYTES, _MAX_FDS)
        except ConnectionResetError:
            continue  # said once, and first, where the engine left a SPARE unread; what it asked for comes after
        if not data:
            return 0
        if not whole:
            for fd in fds:
                os.close(fd)
            continue
        if data == TAKEN:
            handed_over = False
            continue
        spare = spare or Spare(hosts, pids.take(), [sock], in_haste=True)
        spare.give(data, fds)
        spare = None
        for fd in fds:
            os.close(fd)


class Spare:
    """A monitor, and its starter, forked before anybody asks for them; owns the channel on which they wait.

    What a fork costs, and the pages that a child then copies, are paid for while nobody waits. not_theirs: what they
    must not keep open. for_exec: one without starter, which is good for execs by our own runtime alone. in_haste: somebody has
    asked already.
    """

    def __init__(
        self, hosts: cgroup.Hierarchies, shared: libc.SharedPid, not_theirs: list[sockets.socket], *, for_exec: bool = False,
        in_haste: bool = False,
    ) -> None:  # fmt: skip
        self.channel, theirs = sockets.channel()
        # _PyOS_AfterFork hooks have nothing to do here: one thread, no locks held.
        if libc.clone(0) == 0:
            for sock in (*not_theirs, self.channel):
                sock.close()
            _become_monitor(theirs, hosts, starter.ExecStarter(hosts, shared) if for_exec else None, shared, in_haste=in_haste)
        theirs.close()
        sockets.make_room(self.channel, MAX_MESSAGE_BYTES)

    def give(self, data: bytes, fds: list[int]) -> None:
        """The message that makes it somebody's monitor."""
        try:
            sockets.send(self.channel, data, fds)
        except OSError:
            pass  # it was killed: who asked sees the end of its connection
        self.channel.close()

    def hand_over(self, sock: sockets.socket) -> None:
        """The channel to the engine, so that an exec need not come by here."""
        try:
            sockets.send(sock, SPARE, [self.channel.fileno()])
        except OSError:
            pass  # the engine has ended
        self.channel.close()


def _become_monitor(
    channel: sockets.socket, hosts: cgroup.Hierarchies, waiting: "starter.ExecStarter | None", shared: libc.SharedPid, *, in_haste: bool
) -> None:
    status = 1
    try:
        os.setsid()
        signals.handle(signals.SIGCHLD, signals.SIG_DFL)
        signals.handle(signals.SIGTERM, signals.SIG_IGN)
        libc.set_process_name("berth-spare")
        rehearsing = waiting is not None
        waiting = waiting or starter.Starter(hosts, shared, in_haste=in_haste)
        if rehearsing:
            monitor.rehearse(waiting, hosts)
        data, fds = sockets.receive(channel, MAX_MESSAGE_BYTES, _MAX_FDS)
        channel.close()
        if data:
            message = loads(data.decode())
            if message["kind"] == "view":
                waiting.dismiss()
                viewer.serve(message, fds)
            elif message["kind"] == "graft":
                waiting.dismiss()
                from berth.runtime import grafting  # seldom

                grafting.serve(message, fds)
            elif message["kind"] == "plumb":
                waiting.dismiss()
                plumber.serve(fds)
            else:
                libc.set_process_name("berth-monitor")
                waiting.request = data
                monitor.Monitor(message, hosts, fds, waiting).run()
        else:  # the launcher has ended
            waiting.dismiss()
        status = 0
    except BaseException as error:
        os.write(2, f"berth-monitor: {type(error).__name__}: {error}\n".encode())
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
