"""Ends what a process has started."""

import os
import signal
import time

_MAX_KILLED = 1000  # of what a probe may have started
_STOP_S = 1.0


def kill_tree(pid: int) -> None:
    """SIGKILL to what a process has started, the last first; itself is its monitor's business, which has been told to stop it.

    Each is held by its descriptor before its parent is looked at, so that no other process is ever hit.
    """
    _await_stop(pid)
    known = [pid]
    for parent in known:  # grows meanwhile
        known += [child for child in _children(parent) if child not in known]
        if len(known) > _MAX_KILLED:
            break
    for child in reversed(known[1:]):
        try:
            pidfd = os.pidfd_open(child)
        except OSError:
            continue
        try:
            if _parent(child) in known:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(pidfd)


def _await_stop(pid: int) -> None:
    """Until it has stopped or ended; not for ever: one that waits for a dead file server does neither."""
    deadline_s = time.monotonic() + _STOP_S
    while time.monotonic() < deadline_s:
        try:
            if _fields(pid)[0] in ("T", "t", "Z", "X"):
                return
        except OSError:
            return
        time.sleep(0.001)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])


def _fields(pid: int) -> list[str]:
    """What /proc/PID/stat says after the name: state, parent ..."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()
