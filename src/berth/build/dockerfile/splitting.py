"""One logical line becomes its parts: the instruction's name, flags, and arguments of several kinds. Pure."""

import json
import re
from dataclasses import dataclass

from berth.build.dockerfile.words import is_space

SPACES = re.compile(r"[\t\v\f\r ]+")


class SplitError(ValueError):
    """What is wrong, and the word that is."""

    def __init__(self, reason: str, word: str = "") -> None:
        super().__init__(reason)
        self.word = word


@dataclass(frozen=True, slots=True)
class Parts:
    """arguments: what follows the flags, as written."""

    keyword: str
    flags: tuple[str, ...]
    arguments: str


def split(line: str) -> Parts:
    pieces = SPACES.split(line.strip(), maxsplit=1)
    if len(pieces) < 2:
        return Parts(pieces[0], (), "")
    flags, index = _flags(pieces[1])
    return Parts(pieces[0], flags, pieces[1][index:].strip())


def _flags(text: str) -> tuple[tuple[str, ...], int]:
    """The words at the front that begin with `--`, their quotes and escapes taken off, and where they end."""
    found: list[str] = []
    index = 0
    while True:
        while index < len(text) and is_space(text[index]):
            index += 1
        if not text.startswith("--", index):
            return tuple(found), index
        word, index = _flag(text, index)
        if word == "--":
            return tuple(found), index
        if word:
            found.append(word)


def _flag(text: str, index: int) -> tuple[str, int]:
    letters: list[str] = []
    quote = ""
    while index < len(text):
        letter = text[index]
        index += 1
        if quote:
            if letter == quote:
                quote = ""
                continue
        elif is_space(letter):
            break
        elif letter in "'\"":
            quote = letter
            continue
        if letter == "\\":  # whatever the escape character of the file is
            letter = text[index : index + 1]
            index += 1
        letters.append(letter)
    return "".join(letters), index


def words(text: str, escape: str) -> list[str]:
    """Words at spaces that are neither quoted nor escaped; quotes and escapes stay in."""
    found: list[str] = []
    letters: list[str] = []
    quote = ""
    index = 0
    begun = False
    while index < len(text):
        letter = text[index]
        index += 1
        if not quote and is_space(letter):
            if begun and letters:
                found.append("".join(letters))
            letters, begun = [], False
            continue
        begun = True
        if letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == escape and quote != "'":
            if index == len(text):
                break  # an escape at the very end is dropped
            letters.append(letter)
            letter = text[index]
            index += 1
        letters.append(letter)
    if begun and letters:
        found.append("".join(letters))
    return found


def pairs(text: str, instruction: str, escape: str) -> list[tuple[str, str, bool]]:
    """`name=value …`, or the old `name value`, which the third field tells."""
    found = words(text, escape)
    if not found:
        return []
    if "=" not in found[0]:
        pieces = SPACES.split(text, maxsplit=1)
        if len(pieces) < 2:
            raise SplitError(f"{instruction} must have two arguments", pieces[0])
        return [(pieces[0], pieces[1], True)]
    result = []
    for word in found:
        name, equals, value = word.partition("=")
        if not equals:
            raise SplitError(f"Syntax error - can't find = in {json.dumps(word, ensure_ascii=False)}. Must be of the form: name=value", word)
        result.append((name, value, False))
    return result


def json_list(text: str) -> list[str] | None:
    """The strings of a JSON list; None where the text is none, so that it is the shell form."""
    text = text.lstrip()
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(word, str) for word in value):
        raise SplitError("when using JSON array syntax, arrays must be comprised of strings only", text)
    return [_well_formed(word) for word in value]


def _no_constant(text: str) -> None:
    raise ValueError(text)  # NaN and Infinity are no JSON


def _well_formed(word: str) -> str:
    r"""Halves of surrogate pairs (`"\ud800"`) become U+FFFD, as in Go."""
    return word.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not word.isascii() else word


def words_or_json(text: str) -> tuple[list[str], bool]:
    """Arguments of COPY, ADD and VOLUME; whether they were JSON."""
    found = json_list(text)
    if found is not None:
        return found, True
    return (SPACES.split(text) if text else []), False
