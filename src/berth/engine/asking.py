"""Questions to a process that the launcher forks for one piece of work: a viewer, one that mounts into a container."""

import json
import os
import socket

from berth import errors
from berth.engine.monitors import Launcher
from berth.engine.tasks import to_its_end

_TIMEOUT_S = 30
_REPORT_BYTES = 65536


async def ask(launcher: Launcher, message: dict, fds: list[int], what: str) -> int:
    """Sends a message with descriptors; returns the one that comes back, the caller's, or -1. Raises the error that is reported.

    what: it does, for the errors that nobody reports.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            launcher.send(message, [theirs.fileno(), *fds])
        ours.settimeout(_TIMEOUT_S)
    except BaseException:
        ours.close()
        raise
    return await to_its_end(lambda: _receive(ours, what), _discard)


def _discard(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _receive(channel: socket.socket, what: str) -> int:
    with channel:
        try:
            report, fds, _, _ = socket.recv_fds(channel, _REPORT_BYTES, 1)
        except TimeoutError:
            raise errors.Unavailable(f"the process that {what} has not answered in time") from None
    for fd in fds:
        os.set_inheritable(fd, False)
    if report == b"r":
        return fds[0] if fds else -1
    for fd in fds:
        os.close(fd)
    if report[:1] == b"e":
        values = json.loads(report[1:])
        raise errors.from_wire(values["kind"], values["message"])
    raise errors.SystemFailure(f"the process that {what} was killed")
