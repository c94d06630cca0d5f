"""Patterns of `${name#pattern}`, `%` and `/`: `*` any text, `?` any character, neither a line's end. Pure.

Matching costs at most the product of the lengths: a pattern comes from a file that nobody has vouched for.
"""

_STAR, _ANY = "*", "?"
_Tokens = list[tuple[bool, str]]  # (is a wildcard, which or the letter)


def tokens(pattern: str) -> _Tokens:
    """ValueError in BuildKit's words for an escape that means nothing."""
    found: _Tokens = []
    index = 0
    while index < len(pattern):
        letter = pattern[index]
        index += 1
        if letter in (_STAR, _ANY):
            if not (found and letter == _STAR and found[-1] == (True, _STAR)):
                found.append((True, letter))
            continue
        if letter == "\\":
            following = pattern[index : index + 1]
            if following not in ("}", "/", _STAR, _ANY, "\\") or not following:
                raise ValueError(f"invalid escape '\\{following}'")
            letter = following
            index += 1
        found.append((False, letter))
    return found


def _ends(pattern: _Tokens, text: str, start: int) -> tuple[int, int]:
    """Where the shortest and the longest match from `start` end; -1 where there is none.

    Every set of places in the pattern is one integer: bit i, "the tokens before i have matched".
    """
    letters: dict[str, int] = {}
    any_letter = stars = 0
    for i, (wild, letter) in enumerate(pattern):
        if not wild:
            letters[letter] = letters.get(letter, 0) | 1 << i
        elif letter == _ANY:
            any_letter |= 1 << i
        else:
            stars |= 1 << i
    final = 1 << len(pattern)
    shortest = longest = -1
    places = 1
    places |= (places & stars) << 1  # stars are never neighbours
    for index in range(start, len(text) + 1):
        if places & final:
            longest = index
            shortest = index if shortest < 0 else shortest
        if index == len(text):
            break
        letter = text[index]
        moving = letters.get(letter, 0) | (0 if letter == "\n" else any_letter)
        places = (places & moving) << 1 | (0 if letter == "\n" else places & stars)
        places |= (places & stars) << 1
        if not places:
            break
    return shortest, longest


def without_prefix(pattern: str, text: str, *, longest: bool) -> str:
    end = _ends(tokens(pattern), text, 0)[longest]
    return text[end:] if end >= 0 else text


def without_suffix(pattern: str, text: str, *, longest: bool) -> str:
    end = _ends(tokens(pattern)[::-1], text[::-1], 0)[longest]
    return text[: len(text) - end] if end >= 0 else text


def replaced(pattern: str, text: str, replacement: str, *, everywhere: bool) -> str:
    """Longest match first; an empty match right behind another one does not count."""
    parts = tokens(pattern)
    starts = _starts(parts, text)
    result: list[str] = []
    index = copied = 0
    last_end = -1
    while index <= len(text):
        if not starts[index]:
            index += 1
            continue
        end = _ends(parts, text, index)[1]
        if end > index or index != last_end:
            result += [text[copied:index], replacement]
            copied = last_end = end
            if not everywhere:
                break
        index = max(end, index + 1)
    return "".join(result) + text[copied:]


def _starts(pattern: _Tokens, text: str) -> list[bool]:
    """For each place in the text, whether a match starts there: one pass over the text from its end."""
    back = pattern[::-1]
    letters: dict[str, int] = {}
    any_letter = stars = 0
    for i, (wild, letter) in enumerate(back):
        if not wild:
            letters[letter] = letters.get(letter, 0) | 1 << i
        elif letter == _ANY:
            any_letter |= 1 << i
        else:
            stars |= 1 << i
    final = 1 << len(back)
    found = [False] * (len(text) + 1)
    places = 0
    for index in range(len(text), -1, -1):
        places |= 1
        places |= (places & stars) << 1
        found[index] = bool(places & final)
        if index:
            letter = text[index - 1]
            moving = letters.get(letter, 0) | (0 if letter == "\n" else any_letter)
            places = (places & moving) << 1 | (0 if letter == "\n" else places & stars)
            places |= (places & stars) << 1
    return found
