"""Runs an engine that kills itself right before its N-th file operation, SQL statement or message. For test_killpoints.py.

    python killpoints.py CONTROL PYTHON -m berth.cli.engine_main ARGUMENTS...

Nothing in the engine knows of it: Python's audit events tell of file operations and messages with descriptors, SQLite's
trace of statements; open, os.write, os.pwrite, os.fsync, socket.send, socket.sendall, sqlite3.connect and what asks the kernel by netlink are
wrapped besides. What the engine starts is another program, without any of this.

CONTROL is a file of three numbers that both sides map: 0, or which turn of counting it is, which kind to kill at (0:
none), and at which occurrence of it. What is counted goes to CONTROL.log, one `KIND WHAT` a line.
"""

import builtins
import mmap
import os
import runpy
import signal
import socket
import sqlite3
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from berth.linux import netlinksocket

KINDS = ("", "file", "sql", "message", "kernel")
LAYOUT = struct.Struct("=III")
_CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Points:
    """Counts what happens, and ends the process when the time has come."""

    def __init__(self, control: str) -> None:
        with open(control, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), LAYOUT.size)
        self._log = os.open(f"{control}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._write = os.write
        self._counts = dict.fromkeys(KINDS, 0)
        self._turn = 0
        self._lock = threading.Lock()

    def at(self, kind: str, what: object) -> None:
        turn, kill_kind, kill_at = LAYOUT.unpack(self._memory[:])
        if not turn:
            return
        with self._lock:
            if turn != self._turn:
                self._turn, self._counts = turn, dict.fromkeys(KINDS, 0)
            self._counts[kind] += 1
            self._write(self._log, f"{kind} {what}\n".encode(errors="replace"))
            if KINDS[kill_kind] == kind and self._counts[kind] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, values: tuple) -> None:
        """sys.addaudithook."""
        if event == "open":
            if isinstance(values[0], (str, bytes)) and values[2] & _WRITING:
                self.at("file", f"open {values[0]!r}")
        elif event in _CHANGES:
            self.at("file", f"{event} {values[0]!r}")
        elif event == "socket.sendmsg":
            self.at("message", "sendmsg")

    def before(self, kind: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, told of before each call."""

        def told(*args: Any, **keywords: Any) -> Any:
            if args[-1:] != (b"\0",):  # asyncio waking itself
                self.at(kind, name)
            return function(*args, **keywords)

        return told


def _install(points: Points) -> None:
    sys.addaudithook(points.audit)
    os.write = points.before("file", "write", os.write)
    os.pwrite = points.before("file", "pwrite", os.pwrite)
    os.fsync = points.before("file", "fsync", os.fsync)
    socket.socket.send = points.before("message", "send", socket.socket.send)  # type: ignore[method-assign]
    socket.socket.sendall = points.before("message", "sendall", socket.socket.sendall)  # type: ignore[method-assign]
    real_open, real_connect, real_ask = builtins.open, sqlite3.connect, netlinksocket.NetlinkSocket._send

    def opened(file: Any, mode: str = "r", *args: Any, **keywords: Any) -> Any:
        """A file that was opened for writing is empty until something is written."""
        result = real_open(file, mode, *args, **keywords)
        if set(mode) & set("wax+"):
            points.at("file", f"opened {file!r}")
        return result

    def connected(*args: Any, **keywords: Any) -> sqlite3.Connection:
        connection = real_connect(*args, **keywords)
        connection.set_trace_callback(lambda text: points.at("sql", text[:60].split("\n")[0]))
        return connection

    def asked(sock: Any, requests: Any, answered: int) -> int:
        """What changes something; what is asked for only reads."""
        if not any(request.flags & netlinksocket.DUMP == netlinksocket.DUMP or request.about.startswith("find ") for request in requests):
            points.at("kernel", "; ".join(request.about for request in requests))
        return real_ask(sock, requests, answered)

    netlinksocket.NetlinkSocket._send = asked  # type: ignore[method-assign]
    builtins.open = opened
    sqlite3.connect = connected


if __name__ == "__main__":
    _install(Points(sys.argv[1]))
    sys.argv = sys.argv[4:]  # what follows PYTHON -m is the module
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
