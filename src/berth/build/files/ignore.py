"""`.dockerignore`, as moby/patternmatcher reads it. Pure.

The last pattern that fits decides. What fits a directory fits all below it, and a later `!` takes single things in again. A pattern is asked
only while its answer could change something; what it was not asked about a directory it is not asked about what is below (moby's
MatchesUsingParentResults).
"""

import posixpath
import re
from collections.abc import Iterable, Sequence

from berth.errors import InvalidParameter

_BOM = b"\xef\xbb\xbf"
_MOST_REMEMBERED = 20_000
_Group = tuple[bool, re.Pattern[str]]  # whether it takes in again, and what fits


class Ignore:
    """Patterns in their order. Not for use by several threads at once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        cleaned = [pattern for text in patterns if (pattern := _cleaned(text))]
        self._groups = _groups(cleaned)
        self._again = [pattern[1:].split("/") for pattern in cleaned if pattern.startswith("!")]
        self._known: dict[str, int] = {}  # directory -> which groups fit it or something above it

    @classmethod
    def parse(cls, data: bytes) -> "Ignore":
        """The contents of a .dockerignore. InvalidParameter for a pattern that is none."""
        return cls(lines(data))

    def __bool__(self) -> bool:
        return bool(self._groups)

    def ignores(self, path: str) -> bool:
        """path: relative to the context, without `.`, `..` and trailing slash."""
        if not self._groups:
            return False
        directory = path.rpartition("/")[0]
        return self._asked(path, self._fits(directory) if directory else 0)[0]

    def may_contain(self, directory: str) -> bool:
        """Whether anything below an ignored directory can have been taken in again."""
        parts = directory.split("/")
        return any(_leads_below(pattern, parts) for pattern in self._again)

    def _fits(self, directory: str) -> int:
        """The bits of the groups that fit a directory or something above it."""
        known = self._known.get(directory)
        if known is not None:
            return known
        missing = []
        while directory and (known := self._known.get(directory)) is None:
            missing.append(directory)
            directory = directory.rpartition("/")[0]
        fits = known or 0
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        for below in reversed(missing):
            fits = self._asked(below, fits)[1]
            self._known[below] = fits
        return fits

    def _asked(self, path: str, above: int) -> tuple[bool, int]:
        """Whether it is ignored, and the bits of the groups that fit. above: those of its directory."""
        ignored, fits, bit = False, 0, 1
        for again, expression in self._groups:
            if above & bit or (again is ignored and expression.match(path)):
                ignored = not again
                fits |= bit
            bit <<= 1
        return ignored, fits


def lines(data: bytes) -> list[str]:
    """The patterns of a .dockerignore: without comments, whitespace and what a leading slash would mean."""
    found = []
    for line in data.removeprefix(_BOM).decode(errors="surrogateescape").split("\n"):
        if line.startswith("#") or not (pattern := line.strip()):
            continue
        again, pattern = pattern.startswith("!"), pattern.removeprefix("!").strip()
        if pattern:
            pattern = posixpath.normpath(pattern)
            pattern = pattern.lstrip("/") or "/"
        found.append(f"!{pattern}" if again else pattern)
    return found


def _cleaned(text: str) -> str:
    pattern = posixpath.normpath(text.strip()) if text.strip() else ""
    if pattern == "!":
        raise InvalidParameter('illegal exclusion pattern: "!"')
    return pattern


def _groups(patterns: Sequence[str]) -> list[_Group]:
    """Neighbours of one kind become one expression."""
    together: list[tuple[bool, list[str]]] = []
    for pattern in patterns:
        again = pattern.startswith("!")
        if not together or together[-1][0] is not again:
            together.append((again, []))
        together[-1][1].append(_expression(pattern[1:] if again else pattern))
    return [(again, re.compile(f"(?:{'|'.join(expressions)})\\Z", re.DOTALL)) for again, expressions in together]


_MOST_LOOSE_STARS = 2
# A token is a piece of an expression for one letter, or one of these.
_SLASH, _STAR, _STARS = "/", "*", "**"


def _expression(pattern: str) -> str:
    """A pattern as a regular expression for `match`. No path takes it longer than its length, or twice: it comes from a client.

    Of all ways to fit what is between two wildcards of a kind the first one is as good as any, so none is tried again: `(?>`.
    """
    if pattern.startswith(_STARS) and not _is_special(pattern[2:]):  # where moby compares the end alone
        rest = pattern[2:]
        return f"(?:.*{re.escape(rest)}|{re.escape(rest[1:])})" if rest.startswith("/") else f".*{re.escape(rest)}"
    tokens = _tokens(pattern)
    segments: list[list[str]] = [[]]
    loose = 0
    for index, token in enumerate(tokens):
        if token == _STARS and index and index < len(tokens) - 1 and segments[-1][-1:] not in ([], [_SLASH]):
            loose += 1
            segments[-1].append("(?:.*/)?")
        elif token == _STARS:
            segments.append([])
        else:
            segments[-1].append(token)
    if loose > _MOST_LOOSE_STARS:
        raise InvalidParameter(f"pattern {pattern!r} has more than {_MOST_LOOSE_STARS} '**' that are not the whole name of a directory")
    out = [_segment(segments[0])]
    for segment in segments[1:-1]:
        out.append(f"(?>(?:[^/]*/)*?{_segment(segment)})")
    if len(segments) > 1:
        out.append(".*" if tokens[-1] == _STARS else f"(?:.*/)?{_segment(segments[-1])}")
    return "".join(out)


def _segment(tokens: Sequence[str]) -> str:
    """What is between two `**`."""
    runs: list[str] = [""]
    for token in tokens:
        if token == _STAR:
            runs.append("")
        else:
            runs[-1] += token
    if len(runs) == 1:
        return runs[0]
    return runs[0] + "".join(f"(?>[^/]*?{run})" for run in runs[1:-1]) + f"[^/]*{runs[-1]}"


def _tokens(pattern: str) -> list[str]:
    found: list[str] = []
    index = 0
    while index < len(pattern):
        letter = pattern[index]
        if pattern.startswith(_STARS, index):
            found.append(_STARS)
            index += 2 + (pattern[index + 2 : index + 3] == "/")  # `**/` is any number of directories, none included
        elif letter == "[":
            expression, index = _class(pattern, index)
            found.append(expression)
        elif letter == "\\":
            letter, index = _letter(pattern, index)
            found.append(re.escape(letter))
        else:
            found.append({_STAR: _STAR, "?": "[^/]"}.get(letter) or re.escape(letter))
            index += 1
    return found


def _is_special(text: str) -> bool:
    return any(letter in "*?[]\\" for letter in text)


def _class(pattern: str, start: int) -> tuple[str, int]:
    """`[...]` as an expression, and the place behind it. Go's grammar: ranges, `^` in front, `\\` before any letter. No slash fits it."""
    index = start + 1
    negated = pattern[index : index + 1] == "^"
    index += negated
    ranges: list[str] = []
    while pattern[index : index + 1] != "]" or not ranges:
        low, index = _letter(pattern, index)
        high = low
        if pattern[index : index + 1] == "-":
            high, index = _letter(pattern, index + 1)
        ranges.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")  # Go takes the other order, and nothing fits it
    inside = "".join(ranges)
    if not inside:
        return ("[^/]" if negated else "(?!)"), index + 1
    return (f"[^/{inside}]" if negated else f"(?!/)[{inside}]"), index + 1


def _letter(pattern: str, index: int) -> tuple[str, int]:
    """A letter, escaped or not, and the place behind it."""
    letter = pattern[index : index + 1]
    if letter in ("", "-", "]"):
        raise _wrong(pattern)
    if letter == "\\":
        index += 1
        letter = pattern[index : index + 1]
        if not letter:
            raise _wrong(pattern)
    return letter, index + 1


def _wrong(pattern: str) -> InvalidParameter:
    return InvalidParameter(f"syntax error in pattern {pattern!r}: an unfinished '[...]' or a '\\' at its end")


def _leads_below(pattern: list[str], directory: list[str]) -> bool:
    """Whether something below `directory` can fit; more often yes than is true."""
    for part, name in zip(pattern, directory, strict=False):
        if "**" in part:
            return True
        if not re.match(f"(?:{_expression(part)})\\Z", name, re.DOTALL):
            return False
    return len(pattern) > len(directory)
