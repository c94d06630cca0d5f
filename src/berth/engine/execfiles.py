"""What an exec leaves for an engine that did not start it: the file `exec-ID` in its container's run directory.

    {"config": {...}, "probe": false}    by the engine, before it asks for the exec
    {"pid": 7, "exit_code": 0, ...}      by the exec's monitor, when the program has ended
    {"told": true}                       by the engine that has sent `exec_die`

The monitor holds a lock on it until it has written its line: who gets the lock knows that no such line will come any more.
An engine that is killed finds the monitor on `exec-ID.sock`, which is there only after its connection has broken.
"""

import fcntl
import json
import os
import re

from berth.engine import locks

_NAME = re.compile(r"exec-[0-9a-f]{64}")
_MAX_BYTES = 4 << 20  # a request to make an exec is no larger


class Kept:
    """The contents of one. report: of its end, None for one that runs or was lost with its monitor."""

    def __init__(self, config: dict, *, probe: bool, report: dict | None, told: bool) -> None:
        self.config = config
        self.probe = probe
        self.report = report
        self.told = told


def name_of(identity: str) -> str:
    return f"exec-{identity}"


def socket_of(identity: str) -> str:
    return f"exec-{identity}.sock"


def create(directory: str, identity: str, config: dict, *, probe: bool) -> int:
    """Makes the file and locks it; returns the descriptor, with which the lock goes to the monitor."""
    fd = os.open(f"{directory}/{name_of(identity)}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, json.dumps({"config": config, "probe": probe}).encode() + b"\n")
    except OSError:  # the run directory is full
        os.close(fd)
        remove(directory, identity)
        raise
    return fd


def remove(directory: str, identity: str) -> None:
    for name in (name_of(identity), socket_of(identity)):
        try:
            os.unlink(f"{directory}/{name}")
        except OSError:
            pass


def note_told(directory: str, identity: str) -> None:
    """After `exec_die`: the next engine shall not send it again."""
    try:
        with open(f"{directory}/{name_of(identity)}", "r+") as file:  # never makes one: the container may be gone
            file.seek(0, os.SEEK_END)
            file.write('{"told": true}\n')
    except OSError:
        pass


def identities(directory: str) -> list[str]:
    """Of all execs that left a file."""
    try:
        return [name.removeprefix("exec-") for name in sorted(os.listdir(directory)) if _NAME.fullmatch(name)]
    except OSError:
        return []


def is_held(directory: str, identity: str) -> bool:
    """Whether a monitor still has something to write."""
    return locks.is_locked(f"{directory}/{name_of(identity)}")


def read(directory: str, identity: str) -> Kept | None:
    """None for what an engine did not live to write whole: nothing has been asked for then."""
    try:
        with open(f"{directory}/{name_of(identity)}") as file:
            return parse(file.read(_MAX_BYTES))
    except OSError:
        return None


def parse(text: str) -> Kept | None:
    """See `read`; later lines that are cut off or of an unknown kind count for nothing."""
    first, *others = text.split("\n")
    begin = _table(first)
    if not isinstance(begin.get("config"), dict):
        return None
    later = [_table(line) for line in others]
    report = next((line for line in later if isinstance(line.get("exit_code"), int)), None)
    return Kept(begin["config"], probe=bool(begin.get("probe")), report=report, told=any(line.get("told") for line in later))


def _table(line: str) -> dict:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
