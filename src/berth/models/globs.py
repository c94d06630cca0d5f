"""Go's path.Match, which Docker's `reference` filter uses: `*` and `?` stop at a slash, unlike Python's fnmatch. Pure."""

# A character that fits: whether the ranges say what must not be, and the ranges. None stands for `*`.
_Token = tuple[bool, list[tuple[str, str]]] | None


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text fits; ValueError in Go's words for a pattern that is none.

    Only the last `*` is ever made longer, so that no pattern takes more than len(pattern) * len(text) steps.
    """
    tokens = _tokens(pattern)
    token = at = 0
    star, star_at = -1, 0
    while at < len(text):
        if token < len(tokens) and tokens[token] is None:
            star, star_at = token, at
            token += 1
        elif token < len(tokens) and _fits(tokens[token], text[at]):
            token, at = token + 1, at + 1
        elif star >= 0 and text[star_at] != "/":
            star_at += 1
            token, at = star + 1, star_at
        else:
            return False
    return all(rest is None for rest in tokens[token:])


def _fits(token: _Token, letter: str) -> bool:
    return token is not None and any(low <= letter <= high for low, high in token[1]) is not token[0]


def _tokens(pattern: str) -> list[_Token]:
    found: list[_Token] = []
    index = 0
    while index < len(pattern):
        letter = pattern[index]
        if letter == "*":
            found.append(None)
            index += 1
        elif letter == "?":
            found.append((True, [("/", "/")]))
            index += 1
        elif letter == "[":
            token, index = _class(pattern, index + 1)
            found.append(token)
        else:
            literal, index = _literal(pattern, index)
            found.append((False, [(literal, literal)]))
    return found


def _class(pattern: str, index: int) -> tuple[_Token, int]:
    """What follows a `[`, and the place behind its `]`."""
    negated = pattern[index : index + 1] == "^"
    index += negated
    ranges: list[tuple[str, str]] = []
    while pattern[index : index + 1] != "]" or not ranges:
        low, index = _literal(pattern, index, inside=True)
        high = low
        if pattern[index : index + 1] == "-":
            high, index = _literal(pattern, index + 1, inside=True)
        ranges.append((low, high))
    return (negated, ranges), index + 1


def _literal(pattern: str, index: int, *, inside: bool = False) -> tuple[str, int]:
    """One character, escaped or not, and the place behind it."""
    letter = pattern[index : index + 1]
    if letter == "\\":
        index += 1
        letter = pattern[index : index + 1]
    elif inside and letter in ("-", "]"):
        letter = ""
    if not letter:
        raise ValueError("syntax error in pattern")
    return letter, index + 1
