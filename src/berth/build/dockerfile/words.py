"""Quotes, escapes and variables in a word of a Dockerfile, as BuildKit's shell lexer reads them. Pure.

It is not a shell: `$(…)` and backquotes mean nothing. A result is bounded, as `ENV A=$A$A` repeated would not be.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from berth.build.dockerfile import patterns
from berth.build.dockerfile.errors import DockerfileError

_SPECIAL = "@*#?-$!0"  # POSIX's special parameters: never set in a build
_MAX_DEPTH = 50
_MAX_CHARACTERS = 1 << 20
_NOT_SPACES = "\x1c\x1d\x1e\x1f"  # spaces to Python, none to Unicode's White_Space


@dataclass(frozen=True, slots=True)
class Expanded:
    """used: variables that were asked for and are set; undefined: those that are not."""

    text: str
    used: frozenset[str]
    undefined: frozenset[str]


def is_space(letter: str) -> bool:
    return letter.isspace() and letter not in _NOT_SPACES


def expand(word: str, variables: Mapping[str, str], escape: str = "\\", *, quotes: bool = True) -> Expanded:
    """One word in, one word out. DockerfileError, without a place, for what cannot be read.

    Without `quotes`, quotation marks are text: so it is in heredocs.
    """
    lexer = Lexer(word, variables, escape, skip_quotes=not quotes)
    text, _ = lexer.run()
    return Expanded(text, frozenset(lexer.used), frozenset(lexer.undefined))


def split_expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """One word in, as many out as its values have spaces between them."""
    return Lexer(word, variables, escape).run()[1]


class _Words:
    """The words of a text: split at spaces which are neither quoted nor escaped."""

    __slots__ = ("_letters", "found")

    def __init__(self) -> None:
        self.found: list[str] = []
        self._letters: list[str] = []

    def add(self, text: str) -> None:
        for letter in text:
            if is_space(letter):
                self.end()
            else:
                self._letters.append(letter)

    def add_raw(self, text: str) -> None:
        self._letters.append(text)

    def end(self) -> None:
        word = "".join(self._letters)
        if word:
            self.found.append(word)
            self._letters = []


class Lexer:
    """Reads a text once. `raw_quotes` and `raw_escapes` keep the marks; `skip_unset` leaves what is not set as it is written."""

    def __init__(
        self, text: str, variables: Mapping[str, str], escape: str, *, raw_quotes: bool = False, raw_escapes: bool = False,
        skip_quotes: bool = False, skip_unset: bool = False,
    ) -> None:  # fmt: skip
        self._text, self._variables, self._escape = text, variables, escape
        self._raw_quotes, self._raw_escapes = raw_quotes, raw_escapes
        self._skip_quotes, self._skip_unset = skip_quotes, skip_unset
        self._index = self._depth = self._made = 0
        self.used: set[str] = set()
        self.undefined: set[str] = set()

    def run(self) -> tuple[str, list[str]]:
        try:
            return self._until("", self._raw_escapes)
        except DockerfileError as error:
            raise DockerfileError(f"failed to process {_quoted(self._text)}: {error.reason}") from None

    def _peek(self) -> str:
        return self._text[self._index : self._index + 1]

    def _next(self) -> str:
        letter = self._text[self._index : self._index + 1]
        self._index += 1
        return letter

    def _counted(self, text: str) -> str:
        self._made += len(text)
        if self._made > _MAX_CHARACTERS:
            raise DockerfileError(f"the result is longer than {_MAX_CHARACTERS} characters")
        return text

    def _until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Up to the character `stop`, which is taken, or '' for the end."""
        before, self._raw_escapes = self._raw_escapes, raw_escapes
        result: list[str] = []
        words = _Words()
        while letter := self._peek():
            if letter == stop:
                break
            if letter == "$":
                text = self._dollar()
                words.add(text)
            elif letter in "'\"" and not self._skip_quotes:
                text = self._single() if letter == "'" else self._double()
                words.add_raw(text)
            elif letter == self._escape:
                text = self._escaped()
                words.add_raw(text)
            else:
                text = self._next()
                words.add(text)
            result.append(text)
        self._raw_escapes = before
        if stop and self._next() != stop:
            raise DockerfileError(f"unexpected end of statement while looking for matching {stop}")
        words.end()
        return "".join(result), words.found

    def _escaped(self) -> str:
        mark = self._next()
        return (mark if self._raw_escapes else "") + self._next()

    def _single(self) -> str:
        end = self._text.find("'", self._index + 1)
        if end < 0:
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        text = self._text[self._index + 1 : end]
        self._index = end + 1
        return f"'{text}'" if self._raw_quotes else text

    def _double(self) -> str:
        self._next()
        mark = '"' if self._raw_quotes else ""
        result = [mark]
        while letter := self._peek():
            if letter == '"':
                self._next()
                return "".join(result) + mark
            if letter == "$":
                result.append(self._dollar())
                continue
            letter = self._next()
            if letter == self._escape:
                if self._raw_escapes:
                    result.append(letter)
                if not self._peek():
                    break
                if self._peek() in ('"', "$", self._escape):
                    letter = self._next()
            result.append(letter)
        raise DockerfileError("unexpected end of statement while looking for matching double-quote")

    def _name(self) -> str:
        start = self._index
        letter = self._peek()
        if letter.isdecimal():
            while self._peek().isdecimal():
                self._index += 1
        elif letter and letter in _SPECIAL:
            self._index += 1
        else:
            while (letter := self._peek()) == "_" or letter.isalpha() or letter.isdecimal():
                self._index += 1
        return self._text[start : self._index]

    def _value(self, name: str) -> str | None:
        value = self._variables.get(name)
        (self.undefined if value is None else self.used).add(name)
        return value

    def _dollar(self) -> str:
        start = self._index
        self._next()
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return f"${name}" if value is None and self._skip_unset else self._counted(value or "")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise DockerfileError(f"variables nested deeper than {_MAX_DEPTH}")
        self._next()
        text = self._braces(start)
        self._depth -= 1
        return self._counted(text)

    def _braces(self, start: int) -> str:
        if not self._peek():
            raise DockerfileError("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise DockerfileError("syntax error: bad substitution")
        name = self._name()
        sign = self._next()
        if not sign:
            raise DockerfileError("syntax error: missing '}'")
        if sign == "}":
            value = self._value(name)
            return self._text[start : self._index] if value is None and self._skip_unset else value or ""
        if sign == "/":
            return self._replaced(name, start)
        colon = sign == ":"
        modifier = self._next() if colon else sign
        if modifier not in ("+", "-", "?", "#", "%") or not modifier:
            raise self._unsupported(sign + modifier if colon else sign)
        word = self._word("}", modifier in "#%")
        value = self._value(name)
        if value is None and self._skip_unset:
            return self._text[start : self._index]
        return self._modified(name, modifier, word, value, colon)

    def _unsupported(self, sign: str) -> DockerfileError:
        known = ":- - :+ + :? ? # ## % %% / //"
        return DockerfileError(f"unsupported modifier ({sign}) in substitution; there are {known}")

    def _word(self, stop: str, raw_escapes: bool, missing: str = "") -> str:
        try:
            return self._until(stop, raw_escapes)[0]
        except DockerfileError:
            if self._index >= len(self._text):
                raise DockerfileError(f"syntax error: missing '{stop}'{missing}") from None
            raise

    def _modified(self, name: str, modifier: str, word: str, value: str | None, colon: bool) -> str:
        empty = value is None or (colon and not value)
        if modifier == "-":
            return word if empty else value or ""
        if modifier == "+":
            return "" if empty else word
        if modifier == "?":
            if empty:
                how = "unset" if value is None else "empty"
                raise DockerfileError(f"{name}: {word or f'is not allowed to be {how}'}")
            return value or ""
        longest = word.startswith(modifier)
        cut = patterns.without_prefix if modifier == "#" else patterns.without_suffix
        try:
            return cut(word[longest:], value or "", longest=longest)
        except ValueError as error:
            raise DockerfileError(f"invalid pattern ({word[longest:]}) in substitution: {error}") from None

    def _replaced(self, name: str, start: int) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._next()
        pattern = self._word("/", True, " in ${}")
        replacement = self._word("}", True)
        value = self._value(name)
        if value is None and self._skip_unset:
            return self._text[start : self._index]
        try:
            return patterns.replaced(pattern, value or "", replacement, everywhere=everywhere)
        except ValueError as error:
            raise DockerfileError(f"invalid pattern ({pattern}) in substitution: {error}") from None


def _quoted(text: str) -> str:
    shown = text if len(text) <= 200 else text[:200] + "…"
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
