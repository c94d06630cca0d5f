"""A build on a terminal: a header, a line for each step, under those that run the last lines of their output; drawn in place.

`frame` is pure: steps and a size in, lines out. Only lines that have changed are written, at most ten times a second, and the
cursor is moved in relative terms alone, so that what was on the terminal before stays.
"""

import os
import sys
from time import monotonic

from berth.build import kinds
from berth.cli.buildmodel import Model, Step, harmless, seconds
from berth.cli.buildprogress import Quiet, warning_lines
from berth.cli.terminal import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INTERVAL_S = 0.1
_MOST_OUTPUT = 6  # lines under a step that runs
_TIME_COLUMNS = 8
_UNKNOWN = (24, 80)
_COLOURS = {kinds.CACHED: "36", kinds.DONE: "32", kinds.FAILED: "31", kinds.CANCELLED: "33", kinds.STARTED: "1"}
_FAINT = "2"


class Marks:
    """The signs in front of lines."""

    def __init__(self, *, unicode: bool, colours: bool) -> None:
        self.colours = colours
        self.of = (
            {kinds.DONE: "✔", kinds.CACHED: "✔", kinds.FAILED: "✘", kinds.CANCELLED: "✘", kinds.PLANNED: "·"} if unicode
            else {kinds.DONE: "+", kinds.CACHED: "=", kinds.FAILED: "x", kinds.CANCELLED: "x", kinds.PLANNED: "."}
        )  # fmt: skip
        self.wheel = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if unicode else "-\\|/"
        self.bar, self.more = ("│", "…") if unicode else ("|", "~")

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colours and colour and text else text


# -- pure ---------------------------------------------------------------------------------------------------------


def width(text: str) -> int:
    """Columns that a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) or letter in "\u200b\u200d\ufe0f" else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def cut(text: str, columns: int, more: str = "…") -> str:
    """No wider than this, with a sign where something is missing."""
    if columns <= 0:
        return ""
    if text.isascii() and len(text) <= columns:
        return text
    if width(text) <= columns:
        return text
    found, taken = [], width(more)
    for letter in text:
        taken += width(letter)
        if taken > columns:
            break
        found.append(letter)
    return "".join(found) + more


def frame(model: Model, now_s: float, began_s: float, rows: int, columns: int, marks: Marks, *, why: bool = False, ended: str = "") -> "list[str]":
    """Lines of at most `columns - 1` columns; at most `rows - 1` of them, unless the build has ended: then all."""
    columns = max(1, columns - 1)  # a line that fills the terminal would wrap on some
    done, total = model.counts()
    head = f"[+] Building {seconds(now_s - began_s)} ({done}/{total})" + (f" {ended}" if ended else "")
    lines = [marks.paint(cut(head, columns, marks.more), "31" if ended in ("FAILED", "CANCELLED") else "34")]
    steps = [step for step in model.steps.values() if step.state != kinds.PLANNED]
    room = len(steps) * 1000 + 1 if ended else max(0, rows - 2)
    shown = _chosen(steps, room)
    hidden = len(steps) - len(shown)
    running = [step for step in shown if step.running and not ended]
    spare = room - len(shown) - (1 if hidden else 0)
    each = min(_MOST_OUTPUT, max(0, spare) // len(running)) if running else 0
    if hidden and room > 1:
        earlier = sum(step.ended for step in steps) - sum(step.ended for step in shown)
        lines.append(marks.paint(cut(f" {marks.more} {earlier} done, {hidden - earlier} more running" if hidden > earlier else f" {marks.more} {earlier} done", columns, marks.more), _FAINT))
    for step in shown:
        lines.append(_line(step, now_s, columns, marks, still=bool(ended)))
        if why and step.why and step.state != kinds.CACHED and (ended or step.running):
            lines.append(marks.paint(cut(f"   why: {step.why}", columns, marks.more), "33"))
        if step.running and not ended:
            lines += [marks.paint(cut(f"   {marks.bar} {harmless(text)}", columns, marks.more), _FAINT) for text in step.last_lines(each)] if each else []
    return lines if ended else lines[: max(1, rows - 1)]


def _chosen(steps: "list[Step]", room: int) -> "list[Step]":
    """As many as there is room for, a line for the others taken off: those that run, and the last that have ended; in their order."""
    if len(steps) <= room:
        return steps
    room = max(0, room - 1)
    order = sorted(steps, key=lambda step: (not step.running, -step.ended_ns if step.ended else step.number))
    kept = {step.number for step in order[:room]}
    return [step for step in steps if step.number in kept]


def _line(step: Step, now_s: float, columns: int, marks: Marks, *, still: bool) -> str:
    mark = marks.wheel[int(now_s * 10) % len(marks.wheel)] if step.running and not still else marks.of.get(step.state, marks.of[kinds.PLANNED])
    time = "cached" if step.state == kinds.CACHED else seconds(step.took_s(now_s))
    left = columns - 3 - _TIME_COLUMNS
    if left < 8:  # no room for times
        return cut(f" {mark} {step.label}", columns, marks.more)
    label = cut(step.label, left, marks.more)
    padded = label + " " * (left - width(label))
    return f" {marks.paint(mark, _COLOURS.get(step.state, ''))} {padded}{marks.paint(time.rjust(_TIME_COLUMNS), _FAINT)}"


def update(before: "list[str]", after: "list[str]", risen: int) -> str:
    """What turns the lines drawn before into these. risen: how far up the first of them is."""
    if before == after:
        return ""
    out = [f"\x1b[{risen}A\r"] if risen else ["\r"]
    for number, line in enumerate(after):
        same = number < len(before) and before[number] == line
        out.append("\n" if same else f"\x1b[2K{line}\n")
    if len(after) < len(before):
        out.append("\x1b[J")
    return "".join(out)


def plain_width(line: str) -> int:
    """Columns of a line with colours."""
    if "\x1b" in line:
        line = "".join(part.partition("m")[2] if number else part for number, part in enumerate(line.split("\x1b[")))
    return width(line)


# -- the terminal --------------------------------------------------------------------------------------------------


class Screen(Quiet):
    """Draws on the terminal behind a descriptor."""

    def __init__(self, fd: int, *, why: bool = False) -> None:
        super().__init__()
        self._fd = fd
        self._why = why
        encoding = (sys.stderr.encoding or "").lower().replace("-", "")
        self._marks = Marks(unicode=encoding == "utf8", colours="NO_COLOR" not in os.environ)
        self._began_s = monotonic()
        self._drawn: list[str] = []
        self._columns = 0
        self._next_s = 0.0
        self._changes = -1
        self._notes: list[str] = []

    def _size(self) -> "tuple[int, int]":
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:
            rows, columns = _UNKNOWN
        return rows or _UNKNOWN[0], columns or _UNKNOWN[1]

    def event(self, event: "dict[str, Any]") -> None:
        self.model.event(event, monotonic())

    def resized(self) -> None:
        self._next_s = 0.0
        self._changes = -1

    def note(self, text: str) -> None:
        self._notes.append(text)
        self.resized()

    def tick(self) -> "float | None":
        """Draws if it is time; whether a step runs decides on whether there is a next time."""
        now_s = monotonic()
        if now_s < self._next_s:
            return self._next_s - now_s
        running = any(step.running for step in self.model.steps.values())
        if running or self._changes != self.model.changes:
            self._changes = self.model.changes
            self._draw(now_s)
            self._next_s = now_s + _INTERVAL_S
        return _INTERVAL_S if running else None

    def _draw(self, now_s: float, ended: str = "") -> None:
        rows, columns = self._size()
        lines = frame(self.model, now_s, self._began_s, rows - len(self._notes), columns, self._marks, why=self._why, ended=ended)
        lines += [cut(text, columns - 1, self._marks.more) for text in self._notes]
        risen, before = self._risen(columns), self._drawn
        if columns != self._columns:
            before = [""] * risen  # a terminal that has been resized may have moved everything
        self._columns = columns
        if text := update(before, lines, risen):
            write_all(self._fd, text.encode(errors="replace"))
        self._drawn = lines

    def _risen(self, columns: int) -> int:
        """How far up the first line is: a terminal that became narrower has wrapped what was wider."""
        if not self._columns or columns >= self._columns:
            return len(self._drawn)
        return sum(max(1, -(-plain_width(line) // max(1, columns))) for line in self._drawn)

    def finish(self, *, failed: bool, names: "list[str]", image: str) -> None:
        """The last frame has all steps, and stays."""
        cancelled = any(step.state == kinds.CANCELLED for step in self.model.steps.values()) and self.model.failed() is None
        for step in self.model.steps.values():
            if step.running:
                step.state, step.ended_ns = kinds.CANCELLED, step.began_ns
        self._notes = []
        rows, _ = self._size()
        if len(self._drawn) >= rows:
            self._drawn = self._drawn[-(rows - 1) :]
        self._draw(monotonic(), "CANCELLED" if failed and cancelled else "FAILED" if failed else "FINISHED")
        out = []
        if image:
            out.append(f" {self._marks.paint(self._marks.of[kinds.DONE], '32')} {', '.join(map(harmless, names)) or 'image'} {image[:19]}")
        out += warning_lines(self.model.warnings) if self.model.warnings else []
        write_all(self._fd, "".join(f"{line}\n" for line in out).encode(errors="replace"))
