"""Reads json-file logs: the last N lines, a span of time, and what is added meanwhile."""

import calendar
import json
import os
import time
from collections.abc import Iterator

from berth.errors import InvalidParameter

_BLOCK_BYTES = 1 << 16


class LogReader:
    """Reads a log file forward, entry by entry; owns its descriptor."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=1 << 18)  # closed by close()
        self._partial = b""

    def seek_tail(self, lines: int) -> None:
        """Moves to the start of the last `lines` lines."""
        end = position = self._file.seek(0, os.SEEK_END)
        found = 0
        while position > 0:
            start = max(0, position - _BLOCK_BYTES)
            self._file.seek(start)
            block = self._file.read(position - start)
            for index in range(len(block) - 1, -1, -1):
                if block[index] == 0x0A and start + index != end - 1:
                    found += 1
                    if found == lines:
                        self._file.seek(start + index + 1)
                        return
            position = start
        self._file.seek(0 if lines else end)

    def entries(self) -> Iterator[tuple[str, bytes, str]]:
        """(stream, text, time) of every whole line up to the present end; call again for later ones."""
        while line := self._file.readline():
            if not line.endswith(b"\n"):
                self._partial += line
                return
            line, self._partial = self._partial + line, b""
            try:
                entry = json.loads(line)
                yield entry["stream"], entry["log"].encode(errors="replace"), entry["time"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a loss of power

    def close(self) -> None:
        self._file.close()


def parse_time(text: str) -> float:
    """`since` and `until`: seconds since the epoch (with a fraction) or RFC 3339; 0.0 for absent."""
    if not text or text == "0":
        return 0.0
    try:
        return float(text)
    except ValueError:
        pass
    return timestamp_s(text)


def timestamp_s(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time in UTC."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")
    except ValueError:
        raise InvalidParameter(f"invalid time {text!r}: expected seconds since 1970 or 2006-01-02T15:04:05Z") from None
