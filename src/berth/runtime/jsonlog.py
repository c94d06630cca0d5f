"""Docker's json-file log: one JSON object a line, `{"log":"text\\n","stream":"stdout","time":"RFC 3339"}`.

A line longer than 16 KiB is written in parts, and only the last of them ends in a line feed, as
Docker's readers expect. Written with one template: `json.dumps` costs seven times as much.
"""

import os
import time
from json.encoder import encode_basestring  # the C function where there is one

_MAX_LINE_BYTES = 16384


class JsonLog:
    """Appends to a log file; owns its descriptor."""

    __slots__ = ("_fd", "_partial", "_second", "_second_text")

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._partial: dict[str, bytes] = {}
        self._second = -1
        self._second_text = ""

    def write(self, stream: str, data: bytes) -> None:
        """Takes what a stream gave, in any pieces; complete lines go to the file in one write(2)."""
        pending = self._partial.pop(stream, b"") + data
        lines = pending.split(b"\n")
        rest = lines.pop()
        entries = []
        now = self._timestamp()
        for line in lines:
            entries += self._split(stream, line + b"\n", now)
        while len(rest) >= _MAX_LINE_BYTES:
            entries.append(_entry(stream, rest[:_MAX_LINE_BYTES], now))
            rest = rest[_MAX_LINE_BYTES:]
        if rest:
            self._partial[stream] = rest
        self._append(entries)

    def flush(self) -> None:
        """Writes what came without a line feed; at the end of a stream."""
        now = self._timestamp()
        self._append([_entry(stream, rest, now) for stream, rest in self._partial.items()])
        self._partial.clear()

    def _split(self, stream: str, line: bytes, now: str) -> list[str]:
        if len(line) <= _MAX_LINE_BYTES:
            return [_entry(stream, line, now)]
        return [
            _entry(stream, line[start : start + _MAX_LINE_BYTES], now) for start in range(0, len(line), _MAX_LINE_BYTES)
        ]

    def _append(self, entries: list[str]) -> None:
        if entries:
            try:
                os.write(self._fd, "".join(entries).encode())
            except OSError:
                pass  # a full disk must not stop the container; the lines are lost, its output still flows

    def _timestamp(self) -> str:
        now_ns = time.time_ns()
        second, nanosecond = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{nanosecond:09d}Z"


def _entry(stream: str, data: bytes, now: str) -> str:
    return f'{{"log":{encode_basestring(data.decode(errors="replace"))},"stream":"{stream}","time":"{now}"}}\n'
