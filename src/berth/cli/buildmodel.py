"""What a build has told so far: its steps and their last words. Pure: times are handed in.

Lines that a program writes are made harmless here: what would steer a terminal is taken out.
"""

from berth.build import kinds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_LINES = 20  # of each step, for the screen and for what is said of a failure
_MOST_LINE_CHARACTERS = 4096
_ENDED = (kinds.CACHED, kinds.DONE, kinds.FAILED, kinds.CANCELLED)
IMAGES = "[internal] images"


class Step:
    """One vertex. state: a kind of event. lines: the last ones, each with seconds since its start; partial: the one not ended yet."""

    __slots__ = ("began_ns", "began_s", "ended_ns", "error", "exit_code", "label", "line", "lines", "number", "partial", "result", "said", "state", "why")

    def __init__(self, number: int, label: str, line: int) -> None:
        self.number, self.label, self.line = number, harmless(label), line
        self.state = kinds.PLANNED
        self.began_ns = self.ended_ns = 0
        self.began_s = 0.0  # by this side's clock
        self.lines: list[tuple[float, str]] = []
        self.said = 0  # lines that there were
        self.partial = ""
        self.error = self.why = self.result = ""
        self.exit_code = 0

    @property
    def running(self) -> bool:
        return self.state == kinds.STARTED

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    def took_s(self, now_s: float) -> float:
        """Seconds it took, or has taken so far. By the engine's clock once it has ended."""
        if self.ended:
            return max(0, self.ended_ns - self.began_ns) / 1e9 if self.began_ns else 0.0
        return max(0.0, now_s - self.began_s) if self.running else 0.0

    def last_lines(self, count: int) -> "list[str]":
        """The last ones, with the one that has not ended."""
        found = [text for _, text in self.lines[-count:]]
        return [*found, self.partial][-count:] if self.partial.strip() else found


class Model:
    """Events in, steps out."""

    def __init__(self) -> None:
        self.steps: dict[int, Step] = {}
        self.warnings: list[str] = []
        self.changes = 0  # grows with each event that shows

    def event(self, event: "dict[str, Any]", now_s: float) -> "Step | None":
        """The step that it is about."""
        kind, number, at_ns = str(event.get("kind")), int(event.get("vertex", 0)), int(event.get("at_ns", 0))
        self.changes += 1
        if kind == kinds.WARNING:
            self.warnings.append(harmless(str(event.get("text", ""))))
            return None
        step = self.steps.get(number)
        if step is None:
            label = str(event.get("label", "")) or (IMAGES if not number else f"step {number}")
            step = self.steps[number] = Step(number, label, int(event.get("line", 0)))
        if kind == kinds.PLANNED:
            self._pulled(at_ns)
            return step
        if kind == kinds.STARTED and step.ended:  # what a cache elsewhere had of it is lost
            step.began_ns = 0
        if kind in (kinds.STATUS, kinds.STARTED) or (kind in (kinds.LOG, *_ENDED) and not step.began_ns):
            self._begin(step, at_ns, now_s)
        if kind in (kinds.LOG, kinds.STATUS):
            self._say(step, str(event.get("text", "")), at_ns)
        elif kind == kinds.WHY:
            step.why = harmless(str(event.get("text", "")))
        elif kind in _ENDED:
            self._end(step, kind, at_ns)
            step.error, step.exit_code = harmless(str(event.get("text", ""))), int(event.get("exit_code", 0))
            step.result = str(event.get("result", ""))
        return step

    def _begin(self, step: Step, at_ns: int, now_s: float) -> None:
        if not step.began_ns:
            step.began_ns, step.began_s, step.state = at_ns or 1, now_s, kinds.STARTED

    def _end(self, step: Step, kind: str, at_ns: int) -> None:
        if step.partial:
            self._add(step, step.partial, at_ns)
            step.partial = ""
        step.state, step.ended_ns = kind, at_ns

    def _pulled(self, at_ns: int) -> None:
        """The plan is made once all base images are here."""
        pulling = self.steps.get(0)
        if pulling and pulling.running:
            self._end(pulling, kinds.DONE, at_ns)

    def _say(self, step: Step, text: str, at_ns: int) -> None:
        *whole, rest = (step.partial + text).split("\n")
        for line in whole:
            self._add(step, line, at_ns)
        step.partial = rest[-_MOST_LINE_CHARACTERS:]

    def _add(self, step: Step, line: str, at_ns: int) -> None:
        step.lines.append((max(0, at_ns - step.began_ns) / 1e9, line[-_MOST_LINE_CHARACTERS:]))
        step.said += 1
        if len(step.lines) > 10 * MOST_LINES:
            del step.lines[:-MOST_LINES]

    # -- as a whole ---------------------------------------------------------------------------------------

    def counts(self) -> "tuple[int, int]":
        """(steps that have ended, all)."""
        return sum(step.ended for step in self.steps.values()), len(self.steps)

    def failed(self) -> "Step | None":
        """The step that ended the build."""
        return next((step for step in self.steps.values() if step.state == kinds.FAILED), None)


def harmless(text: str) -> str:
    """One line without what would steer a terminal: of a line that was written anew (\\r) the last version, no escapes, no controls."""
    if text.isprintable():
        return text
    if "\r" in text:
        text = next((part for part in reversed(text.split("\r")) if part), "")
    if "\x1b" in text or "\x9b" in text:
        text = _without_escapes(text)
    text = text.expandtabs(8)
    return text if text.isprintable() else "".join(letter for letter in text if letter.isprintable() or letter == "\u00a0")


def _without_escapes(text: str) -> str:
    """ECMA-48: CSI up to its final byte, strings (OSC, DCS, ...) up to BEL or ST, all else one letter."""
    out = []
    index = 0
    while index < len(text):
        letter = text[index]
        index += 1
        if letter not in "\x1b\x9b":
            out.append(letter)
            continue
        kind = "[" if letter == "\x9b" else text[index : index + 1]
        index += letter == "\x1b"
        if kind == "[":
            while index < len(text) and not "@" <= text[index] <= "~":
                index += 1
            index += 1
        elif kind and kind in "]PX^_":
            while index < len(text) and text[index] not in "\x07\x9c" and text[index : index + 2] != "\x1b\\":
                index += 1
            index += 2 if text[index : index + 1] == "\x1b" else 1
        elif kind and " " <= kind <= "/":
            index += 1
    return "".join(out)


def seconds(value: float) -> str:
    """`0.1s`, `12.3s`, `2m03s`, `1h02m`."""
    if value < 99.95:
        return f"{value:.1f}s"
    whole = int(value + 0.5)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def failure(step: "Step | None", result: "dict[str, Any]") -> str:
    """What is said of a build that failed: the step, its last lines, the Dockerfile around it, the error."""
    lines = []
    if step is not None and step.state == kinds.FAILED and step.lines:
        lines += ["------", f" > {step.label}:"]
        lines += [f"{at_s:.3f} {harmless(text)}" for at_s, text in step.lines[-MOST_LINES:]]
        lines += ["------"]
    source = result.get("source")
    if isinstance(source, dict):
        lines += picture(source)
    error = "\n".join(harmless(line) for line in str(result.get("error", "")).split("\n"))
    return "\n".join([*lines, f"ERROR: failed to build: {error}"]) + "\n"


def picture(source: "dict[str, Any]") -> "list[str]":
    """Lines of a Dockerfile, those that are meant marked."""
    first, start, end = int(source["first"]), int(source["start"]), int(source["end"])
    rule = "-" * 20
    lines = [f"{harmless(str(source['name']))}:{start}", rule]
    for number, text in enumerate(source["lines"], first):
        lines.append(f"{number:4} | {'>>>' if start <= number <= end else '   '} {harmless(str(text))}".rstrip())
    return [*lines, rule]
