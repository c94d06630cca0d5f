"""A build as it goes on, for people and scripts: on a terminal steps in place, piped a log as BuildKit writes it, or JSON.

A display is told events and asked for a tick in between; what it writes goes to standard error.
"""

import os
import sys
from time import monotonic

from berth.build import kinds
from berth.cli.buildmodel import Model, Step, harmless, seconds
from berth.cli.terminal import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.buildtalk import Display

_TURN_S = 3.0  # after this long a step that waits to be shown gets its turn, though another one goes on


def display_of(form: str, *, why: bool) -> "Display":
    """Of a form of buildflags.FORMS."""
    terminal = os.isatty(2) and os.environ.get("TERM", "") not in ("", "dumb")
    if form == "tty" and not terminal:
        from berth.cli.flags import Misuse

        raise Misuse("--progress tty: standard error is no terminal")
    if form == "quiet":
        return Quiet()
    if form == "rawjson":
        return RawJson()
    if form == "tty" or (form == "auto" and terminal):
        from berth.cli.buildscreen import Screen

        return Screen(2, why=why)
    return Plain(2, why=why, raw=not os.isatty(2))


class Quiet:
    """Says nothing, and knows what went wrong."""

    def __init__(self) -> None:
        self.model = Model()

    def event(self, event: "dict[str, Any]") -> None:
        self.model.event(event, monotonic())

    def tick(self) -> "float | None":
        return None

    def resized(self) -> None:
        pass

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def finish(self, *, failed: bool, names: "list[str]", image: str) -> None:
        """The end; nothing may be told any more."""


class Plain(Quiet):
    """`#5 [build 2/4] RUN make`, `#5 0.312 output`, `#5 DONE 1.2s`. raw: what programs write is passed on as it is."""

    def __init__(self, fd: int, *, why: bool = False, raw: bool = True) -> None:
        super().__init__()
        self._fd = fd
        self._why = why
        self._raw = raw
        self._numbers: dict[int, int] = {}  # a step's vertex -> its number, in the order of appearance
        self._waiting: dict[int, list[str]] = {}  # lines of steps whose turn it is not
        self._since: dict[int, float] = {}
        self._turn: int | None = None
        self._shown_lines: dict[int, int] = {}

    def event(self, event: "dict[str, Any]") -> None:
        now_s = monotonic()
        step = self.model.event(event, now_s)
        if step is None or step.state == kinds.PLANNED:
            return
        lines = self._waiting.setdefault(step.number, [])
        self._since.setdefault(step.number, now_s)
        self._new_output(step, lines)
        if str(event.get("kind")) in (kinds.CACHED, kinds.DONE, kinds.FAILED, kinds.CANCELLED):
            lines += self._end(step)
        self._write(self._due(now_s))

    def _new_output(self, step: Step, lines: "list[str]") -> None:
        new = step.said - self._shown_lines.get(step.number, 0)
        self._shown_lines[step.number] = step.said
        for at_s, text in step.lines[-new:] if new else ():
            lines.append(f"{at_s:.3f} {text if self._raw else harmless(text)}")

    def _end(self, step: Step) -> "list[str]":
        why = [f"WHY: {step.why}"] if self._why and step.why and step.state != kinds.CACHED else []
        if step.state == kinds.CACHED:
            return ["CACHED"]
        if step.state == kinds.FAILED:
            return [*why, f"ERROR: {step.error}"]
        if step.state == kinds.CANCELLED:
            return ["CANCELED"]
        return [*why, f"DONE {step.took_s(0):.1f}s"]

    def tick(self) -> "float | None":
        now_s = monotonic()
        self._write(self._due(now_s))
        waiting = [self._since[number] for number in self._waiting if number != self._turn and number in self._since]
        return max(0.0, min(waiting) + _TURN_S - now_s) + 0.01 if waiting else None

    def _due(self, now_s: float) -> "list[str]":
        """Lines to be written now: of the step whose turn it is, and of the next ones once it has ended or others have waited for long."""
        out = self._of(self._turn)
        while True:
            turn = self._turn
            ended = turn is None or self.model.steps[turn].ended
            waiting = sorted((since, number) for number, since in self._since.items() if number != turn and self._waiting.get(number))
            if not waiting or not (ended or waiting[0][0] + _TURN_S <= now_s):
                return out
            if turn is not None:
                out += [] if ended else [f"#{self._numbers[turn]} ..."]
                out.append("")
                self._since.pop(turn, None)
            self._turn = waiting[0][1]
            self._since[self._turn] = now_s
            step = self.model.steps[self._turn]
            number = self._numbers.setdefault(step.number, len(self._numbers) + 1)
            out.append(f"#{number} {step.label}")
            out += self._of(self._turn)

    def _of(self, number: "int | None") -> "list[str]":
        if number is None:
            return []
        return [f"#{self._numbers[number]} {line}" for line in self._waiting.pop(number, [])]

    def finish(self, *, failed: bool, names: "list[str]", image: str) -> None:
        """What waits is written, and what became of it."""
        out = []
        for step in self.model.steps.values():
            if step.running:
                step.state = kinds.CANCELLED
        while lines := self._due(monotonic() + 2 * _TURN_S):
            out += lines
        if image:
            number = len(self._numbers) + 1
            out += ["", f"#{number} [internal] result", f"#{number} writing image {image} done"]
            out += [f"#{number} naming to {harmless(name)} done" for name in names]
            out += [f"#{number} DONE 0.0s"]
        if self.model.warnings:
            out += ["", *warning_lines(self.model.warnings)]
        self._write([*out, ""] if failed and out else out)

    def _write(self, lines: "list[str]") -> None:
        if lines:
            write_all(self._fd, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def warning_lines(warnings: "list[str]") -> "list[str]":
    """At the end, as buildx says them."""
    return [f" {len(warnings)} warning{'s' if len(warnings) > 1 else ''} found:", *(f" - {text}" for text in warnings)]


class RawJson(Quiet):
    """A line of JSON for each event, in the form of BuildKit's `--progress rawjson` (its SolveStatus)."""

    def event(self, event: "dict[str, Any]") -> None:
        kind = str(event.get("kind"))
        step = self.model.event(event, monotonic())
        if kind == kinds.WARNING:
            value = _data(event)
            self._write({"warnings": [{"vertex": _digest(0), "level": 1, "short": value}]})
        elif step is not None and kind in (kinds.LOG, kinds.STATUS):
            log = {"vertex": _digest(step.number), "stream": int(event.get("stream", 1)), "data": _data(event), "timestamp": _time(event.get("at_ns", 0))}
            self._write({"logs": [log]})
        elif step is not None and kind == kinds.WHY:
            self._write({"statuses": [{"id": f"why: {step.why}", "vertex": _digest(step.number), "timestamp": _time(event.get("at_ns", 0))}]})
        elif step is not None:
            self._write({"vertexes": [_vertex(step)]})

    def _write(self, value: "dict[str, Any]") -> None:
        from berth.models.jsonlite import dumps

        write_all(2, f"{dumps(value)}\n".encode())

    def note(self, text: str) -> None:
        """There is nobody to read it."""


def _vertex(step: Step) -> "dict[str, Any]":
    found: dict[str, Any] = {"digest": _digest(step.number), "name": step.label}
    if step.began_ns:
        found["started"] = _time(step.began_ns)
    if step.ended:
        found["completed"] = _time(step.ended_ns)
    if step.state == kinds.CACHED:
        found["cached"] = True
    if step.state in (kinds.FAILED, kinds.CANCELLED):
        found["error"] = step.error or "canceled"
    return found


def _digest(number: int) -> str:
    """Stands for BuildKit's digest of a vertex: the same for all that is said of one."""
    return f"sha256:{number:064x}"


def _data(event: "dict[str, Any]") -> str:
    import binascii

    return binascii.b2a_base64(str(event.get("text", "")).encode(errors="surrogateescape"), newline=False).decode()


def _time(at_ns: int) -> str:
    from time import gmtime

    moment = gmtime(at_ns // 1_000_000_000)
    return f"{moment[0]:04}-{moment[1]:02}-{moment[2]:02}T{moment[3]:02}:{moment[4]:02}:{moment[5]:02}.{at_ns % 1_000_000_000:09}Z"


__all__ = ["Plain", "Quiet", "RawJson", "display_of", "seconds"]
