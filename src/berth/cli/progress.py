"""What a pull, push, load or import says as it goes: Docker's stream of JSON messages, drawn for a person.

On a terminal each id (a layer's) has one line, which is written anew in place. Piped, what is no count is a plain line.
"""

import os
import sys

from berth.cli.client import StreamFailed
from berth.models.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TextIO

_BAR_CELLS = 50
_LEAST_INTERVAL_S = 0.1
_BAR_FROM_COLUMNS, _TIME_FROM_COLUMNS, _UNKNOWN_COLUMNS = 110, 50, 200


def show(messages: "Iterable[dict[str, Any]]", out: "TextIO | None" = None) -> None:
    """Draws until the stream ends; StreamFailed for an error among the messages. out: standard output unless given."""
    out = out or sys.stdout
    fd = out.fileno()
    screen = Screen(fd if os.isatty(fd) else -1)
    for message in messages:
        out.write(screen.draw(message))
        out.flush()
        fail_of(message)


def sending(pieces: "Iterable[bytes]", total_bytes: int) -> "Iterator[bytes]":
    """The pieces, and on the terminal how many went by; nothing of that stays. total_bytes: 0 where nobody knows."""
    import time

    columns = Screen(1).columns()
    sent_bytes, shown_s = 0, 0.0
    try:
        for data in pieces:
            yield data
            sent_bytes += len(data)
            if time.monotonic() - shown_s >= _LEAST_INTERVAL_S:
                shown_s = time.monotonic()
                sys.stdout.write(f"\x1b[2K\rImporting {bar({'current': sent_bytes, 'total': total_bytes}, columns)}")
                sys.stdout.flush()
    finally:
        sys.stdout.write("\x1b[2K\r")


def wait(messages: "Iterable[dict[str, Any]]") -> None:
    """Reads the stream and shows nothing of it; StreamFailed as `show`."""
    for message in messages:
        fail_of(message)


def fail_of(message: "dict[str, Any]") -> None:
    """Raises StreamFailed if the message is an error."""
    detail = message.get("errorDetail") or {}
    if text := detail.get("message") or message.get("error"):
        raise StreamFailed(printable(str(text), keep="\n\t"))


class Screen:
    """Messages -> what to write. fd: the terminal's, -1 where there is none."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: dict[str, int] = {}  # id -> its line, counted from the first

    def draw(self, message: "dict[str, Any]") -> str:
        """The text of one message. Errors and what is for programs alone (`aux`) have none."""
        if message.get("aux") is not None or message.get("error") or message.get("errorDetail"):
            return ""
        identity, progress = printable(str(message.get("id") or "")), message.get("progressDetail")
        terminal = self._fd >= 0
        before, down = "", 0
        if identity and progress is not None:
            if identity not in self._lines:
                self._lines[identity] = len(self._lines)
                before = "\n" if terminal else ""
            down = len(self._lines) - self._lines[identity]
        else:
            self._lines = {}  # lines above this one stay as they are
        text = self._text(message, identity, progress)
        if not terminal or not down:
            return before + text
        return f"{before}\x1b[{down}A{text}\x1b[{down}B"

    def _text(self, message: "dict[str, Any]", identity: str, progress: "dict[str, Any] | None") -> str:
        status = printable(str(message.get("status") or ""), keep="\n\t")
        head = f"{identity}: " if identity else ""
        if stream := message.get("stream"):
            return head + printable(str(stream), keep="\n\t\r\x1b")
        if progress is None:
            return f"{head}{status}\n"
        if self._fd < 0:
            return "" if bar(progress, _UNKNOWN_COLUMNS) else f"{head}{status}\n"
        return f"\x1b[2K\r{head}{status} {bar(progress, self.columns())}\r"

    def columns(self) -> int:
        try:
            return os.get_terminal_size(self._fd).columns or _UNKNOWN_COLUMNS
        except OSError:
            return _UNKNOWN_COLUMNS


def bar(progress: "dict[str, Any]", columns: int) -> str:
    """`[====>      ]  1.2MB/4.5MB 12s` for so wide a terminal; '' where nothing is counted."""
    current, total = int(progress.get("current") or 0), int(progress.get("total") or 0)
    units = printable(str(progress.get("units") or ""))
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{current} {units}" if units else f"{human_size(current):>8}"
    cells = min(int(current / total * 100) // 2, _BAR_CELLS)
    drawn = f"[{'=' * cells}>{' ' * (_BAR_CELLS - cells)}] " if columns > _BAR_FROM_COLUMNS else ""
    if progress.get("hidecounts"):
        numbers = ""
    elif units:
        numbers = f"{current}/{total} {units}" if current <= total else f"{current} {units}"
    else:
        numbers = f"{human_size(current):>8}" + (f"/{human_size(total)}" if current <= total else "")
    return drawn + numbers + (_left(progress, cells) if columns > _TIME_FROM_COLUMNS else "")


def _left(progress: "dict[str, Any]", cells: int) -> str:
    """How long the rest takes, if it goes on as before."""
    start, current = progress.get("start") or 0, progress.get("current") or 0
    if start <= 0 or current <= 0 or cells >= _BAR_CELLS:
        return ""
    import time

    from berth.models.durations import text_of

    left_s = round((time.time() - start) / current * (progress["total"] - current))
    return " " + text_of(max(0, left_s) * 1_000_000_000)


def printable(text: str, keep: str = "") -> str:
    """Without what would steer the terminal: a registry has its hand in these words."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else "�" for letter in text)
