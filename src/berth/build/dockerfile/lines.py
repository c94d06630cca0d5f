"""A file's bytes become logical lines: directives, comments, continuation lines, heredocs. Pure.

Source: BuildKit's frontend/dockerfile/parser. Bytes that are no UTF-8 are allowed in comments only.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from berth.build.dockerfile import splitting
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.instructions import Heredoc, Place, Warning
from berth.build.dockerfile.suggesting import nearest
from berth.build.dockerfile.words import Lexer, is_space
from berth.errors import TooLarge

MAX_BYTES = 16 << 20  # as BuildKit's client side has it
MAX_LINE_BYTES = (64 << 10) - 1  # Go's bufio.MaxScanTokenSize
_MAX_HEREDOCS = 100
_MAX_CHARACTERS = 1 << 20  # of one instruction; the kernel takes no argument longer than 128 KiB
_MARK = "\ufeff"
_DIRECTIVE = r"{}\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S.*)"  # the rest is stripped apart: `.+?\s*` takes quadratic time
_HASH = re.compile(_DIRECTIVE.format("#"))
_SLASHES = re.compile(_DIRECTIVE.format("//"))
_DIRECTIVES = ("syntax", "escape", "check")
_CONTINUED = {mark: re.compile(rf"(?:(?<=[^{re.escape(mark)}])|^){re.escape(mark)}[ \t]*\Z") for mark in "\\`"}
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)", re.ASCII)
_BARE = re.compile(r"\d*<<-?", re.ASCII)
_TABS = re.compile(r"^\t+", re.MULTILINE)
_HEREDOCS_IN = ("run", "copy", "add")


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction on one line. `comments` are those right above; heredocs' contents are as written, tabs and all."""

    text: str
    place: Place
    comments: tuple[str, ...]
    heredocs: tuple[Heredoc, ...]


class Source:
    """The physical lines of a file and its directives; knows where in it a word stands, for errors."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.warnings: list[Warning] = []
        if len(data) > MAX_BYTES:
            raise TooLarge(f"{name} exceeds maximum allowed size: {len(data)} bytes, at most {MAX_BYTES} are read")
        self.text = data.decode("utf-8", "surrogateescape").removeprefix(_MARK)
        if not self.text:
            raise DockerfileError("the Dockerfile cannot be empty", name=name)
        self.lines = self.text.split("\n")
        self.directives = self._directives()

    def directive(self, key: str) -> str:
        found = self.directives.get(key)
        return found[0] if found else ""

    def _directives(self) -> dict[str, tuple[str, int]]:
        """Those at the top of the file, with their lines. An interpreter line before them is skipped."""
        found: dict[str, tuple[str, int]] = {}
        for number, line in enumerate(self.lines, 1):
            if number == 1 and line.startswith("#!"):
                continue
            match = _HASH.fullmatch(line.rstrip("\r\n").lstrip())
            key = match[1].lower() if match else ""
            if match is None or key not in _DIRECTIVES:
                break
            if key in found:
                raise self.wrong(f"only one {key} parser directive can be used", Place(number, number), match[1])
            found[key] = (match[2].rstrip(), number)
        if "syntax" not in found and (other := self._other_syntax()):
            found["syntax"] = (other, 1)
        return found

    def _other_syntax(self) -> str:
        """`// syntax=` at the top and `{"syntax": …}`: files of other frontends, which are to say so."""
        for line in self.lines[1 if self.lines[0].startswith("#!") else 0 :]:
            match = _SLASHES.fullmatch(line.rstrip("\r"))
            if match is None:
                break
            if match[1].lower() == "syntax":
                return match[2].rstrip()
        if self.text[:1] != "{":
            return ""
        try:
            value = json.loads(self.text)
        except (ValueError, RecursionError):
            return ""
        syntax = value.get("syntax") if isinstance(value, dict) else ""
        return syntax if isinstance(syntax, str) else ""

    def wrong(self, reason: str, place: Place, word: str = "", *, known: tuple[str, ...] = ()) -> DockerfileError:
        """An error with the line and a caret under `word`, wherever it stands in the instruction."""
        number, column = place.line, -1
        if word:
            for number in range(place.line, min(place.end_line, place.line + 1000) + 1):
                column = self.lines[number - 1].find(word)
                if column >= 0:
                    break
        if column < 0:
            number, word = place.line, self.lines[place.line - 1].strip()
            column = max(0, self.lines[number - 1].find(word))
        at = Place(number, place.end_line, column)
        line = self.lines[number - 1].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return DockerfileError(reason, at, suggestion=nearest(word, known), name=self.name, line=line, length=len(word))


def logical_lines(source: Source, escape: str) -> Iterator[Line]:
    return _Reader(source, escape).read()


class _Reader:
    def __init__(self, source: Source, escape: str) -> None:
        self._source = source
        self._continued = _CONTINUED[escape]
        self._index = 0
        self._count = len(source.lines) - (source.lines[-1] == "")  # a last line end begins no line

    def _take(self) -> str:
        line = self._source.lines[self._index]
        self._index += 1
        if len(line) > MAX_LINE_BYTES or len(line.encode("utf-8", "surrogateescape")) > MAX_LINE_BYTES:
            place = Place(self._index, self._index)
            raise self._source.wrong(f"dockerfile line greater than max allowed size of {MAX_LINE_BYTES}", place)
        return line

    def read(self) -> Iterator[Line]:
        comments: list[str] = []
        directives = {number for _, number in self._source.directives.values()}
        while self._index < self._count:
            line = _lstrip(self._take().rstrip("\r"))
            if line.startswith("#"):
                if self._index in directives:
                    continue
                comment = line[1:].strip()
                if comment:
                    comments.append(comment)
                else:
                    comments = []
                continue
            if not line:
                comments = []
                continue
            start = self._index
            text = self._join(line)
            heredocs = self._heredocs(text, start)
            self._check_text(text, start)
            yield Line(text, Place(start, self._index), tuple(comments), heredocs)
            comments = []

    def _join(self, line: str) -> str:
        """The line with those that continue it; comments and empty lines between them are left out."""
        start, length = self._index, 0
        parts: list[str] = []
        empty = False
        while True:
            match = self._continued.search(line)
            parts.append(line[: match.start()] if match else line)
            length += len(line)
            if length > _MAX_CHARACTERS:
                raise self._source.wrong(f"one instruction is longer than {_MAX_CHARACTERS} characters", Place(start, self._index))
            if match is None:
                break
            while self._index < self._count:
                line = self._take().rstrip("\r")
                stripped = _lstrip(line)
                if stripped and not stripped.startswith("#"):
                    break
                empty = empty or not stripped
            else:
                break
        if empty:
            self._source.warnings.append(Warning("NoEmptyContinuation", "Empty continuation line", Place(self._index, self._index)))
        return "".join(parts)

    def _heredocs(self, text: str, start: int) -> tuple[Heredoc, ...]:
        if "<<" not in text or not can_hold_heredocs(text):
            return ()
        found: list[Heredoc] = []
        for heredoc in heredocs_of(text):
            if len(found) == _MAX_HEREDOCS:
                raise self._source.wrong(f"more than {_MAX_HEREDOCS} heredocs in one instruction", Place(start, self._index))
            content: list[str] = []
            first = self._index
            while self._index < self._count:
                line = self._take()
                end = line.rstrip("\r")
                if (end.lstrip("\t") if heredoc.chomp else end) == heredoc.name:
                    break
                content.append(line + "\n")
            else:
                reason = f"unterminated heredoc: no line is just {heredoc.name!r}"
                raise self._source.wrong(reason, Place(start, max(start, first)), "<<")
            whole = "".join(content)
            self._check_text(whole, start)
            found.append(Heredoc(heredoc.name, whole, heredoc.expand, heredoc.chomp))
        return tuple(found)

    def _check_text(self, text: str, start: int) -> None:
        if "\0" in text:
            raise self._source.wrong("the file has NUL bytes; if it is UTF-16, save it as UTF-8", Place(start, self._index), "\0")
        if not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text):
            raise self._source.wrong("not valid UTF-8", Place(start, self._index))


def _lstrip(line: str) -> str:
    index = 0
    while index < len(line) and is_space(line[index]):
        index += 1
    return line[index:]


def can_hold_heredocs(text: str) -> bool:
    """Whether the instruction is one whose `<<` begins heredocs: not the exec form, nor another instruction."""
    parts = splitting.split(text)
    if parts.keyword.lower() == "onbuild":
        parts = splitting.split(parts.arguments)
    if parts.keyword.lower() not in _HEREDOCS_IN:
        return False
    try:
        return splitting.json_list(parts.arguments) is None
    except splitting.SplitError:
        return False


def heredocs_of(text: str) -> list[Heredoc]:
    """The heredocs that a line begins, without their contents."""
    try:
        words = Lexer(text, {}, "\\", raw_quotes=True, raw_escapes=True, skip_unset=True).run()[1]
    except DockerfileError:
        return []
    return [heredoc for word in joined(words) if (heredoc := heredoc_of(word)) is not None]


def joined(words: list[str]) -> list[str]:
    """Words with `<<` and the name behind it, `<< EOF`, put together."""
    found: list[str] = []
    for word in words:
        if found and _BARE.fullmatch(found[-1]):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def heredoc_of(word: str) -> Heredoc | None:
    """`<<EOF`, `<<-EOF`, `3<<"EOF"`; None for what is none."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    try:
        plain = Lexer(match[3], {}, "\\", skip_unset=True).run()[1]
        raw = Lexer(match[3], {}, "\\", raw_quotes=True, skip_unset=True).run()[1]
    except DockerfileError:
        return None
    if len(plain) != 1 or len(raw) != 1:
        return None
    return Heredoc(plain[0], "", _quotes(plain[0]) == _quotes(raw[0]), match[2] == "-")


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def chomped(heredoc: Heredoc) -> str:
    return _TABS.sub("", heredoc.content) if heredoc.chomp else heredoc.content
