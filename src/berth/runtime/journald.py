"""The log driver `journald`: its native protocol, a datagram of fields for each line.

A field is NAME=value and a line feed; a value with line feeds of its own comes after its length
(systemd's JOURNAL_NATIVE_PROTOCOL). A journal that takes nothing stops the container for a second at
most; then what it does not take is dropped.
"""

import os
import socket
import struct
import time

from berth.runtime.jsonlog import Lines

_SOCKET = "/run/systemd/journal/socket"
_ERROR, _INFO = 3, 6
_PATIENCE_S = 1.0
_RETRY_AFTER_S = 1.0


class JournaldLog(Lines):
    """settings: see engine.logconfig.message."""

    def __init__(self, settings: dict, path: str = _SOCKET) -> None:
        super().__init__()
        if not os.path.exists(path):
            raise OSError("journald is not enabled on this host")
        self._path = path
        self._fields = b"".join(field(name, value.encode()) for name, value in sorted(settings["fields"].items()))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_PATIENCE_S if settings["waits"] else 0)
        self._retry_s = 0.0
        self.lost = 0

    def _put(self, stream: str, batch: bytes, now_ns: int) -> None:
        head = self._fields + field("PRIORITY", b"%d" % (_ERROR if stream == "stderr" else _INFO))
        head += field("SYSLOG_TIMESTAMP", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9)).encode()
                      + b".%09dZ" % (now_ns % 10**9))  # fmt: skip
        if not batch.endswith(b"\n"):
            head += field("CONTAINER_PARTIAL_MESSAGE", b"true")
        for line in batch.removesuffix(b"\n").split(b"\n"):
            self._send(head + field("MESSAGE", line))

    def _send(self, entry: bytes) -> None:
        if time.monotonic() >= self._retry_s:
            try:
                self._socket.sendto(entry, self._path)
                return
            except OSError:
                self._retry_s = time.monotonic() + _RETRY_AFTER_S
        self.lost += 1

    def close(self) -> None:
        self._socket.close()


def field(name: str, value: bytes) -> bytes:
    """One field as journald reads it."""
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
