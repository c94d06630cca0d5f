"""The error of a Dockerfile that is wrong: where, what, and the nearest right word. Pure."""

from berth.build.dockerfile.instructions import Place
from berth.errors import InvalidParameter

_MAX_SHOWN_CHARACTERS = 120


class DockerfileError(InvalidParameter):
    """`reason` alone, the place, and the word that was probably meant ('' where none is near).

    Without a place, the file as a whole is wrong.
    """

    def __init__(
        self, reason: str, place: Place | None = None, *, suggestion: str = "", name: str = "Dockerfile", line: str = "", length: int = 1
    ) -> None:
        self.place = place
        self.suggestion = suggestion
        self.reason = f"{reason} (did you mean {suggestion}?)" if suggestion else reason
        super().__init__(_told(self.reason, place, name, line, length))


def _told(reason: str, place: Place | None, name: str, line: str, length: int) -> str:
    if place is None:
        return reason
    text = f"dockerfile parse error on line {place.line}: {reason}\n{name}:{place.line}"
    return text + "\n" + _picture(place, line, length) if line.strip() else text


def _picture(place: Place, line: str, length: int) -> str:
    """The line and a caret under the place, cut so that the place is in what is shown."""
    start = max(0, place.column - _MAX_SHOWN_CHARACTERS // 2)
    shown = line[start : start + _MAX_SHOWN_CHARACTERS]
    shown = "".join(letter if letter.isprintable() else " " if letter == "\t" else "?" for letter in shown)
    before = place.column - start
    number = f"{place.line:>4}"
    return f"{number} | {shown}\n{' ' * len(number)} | {' ' * before}{'^' * max(1, min(length, len(shown) - before))}"
