"""Regular expressions of clients, in filters. Pure.

Docker's own take a time that is linear in the text; Python's can take one without end. So what makes them slow is not
taken: repeats of a group, references, looking around, and more than a few repeats or groups.
"""

import re
from collections.abc import Callable

_MAX_CHARACTERS = 256
_MAX_REPEATS = _MAX_GROUPS = 3
_SLOW = re.compile(r"\)[*+?{]|\(\?|\\[0-9]|[*+}][*+{]")


def compiled(pattern: str) -> Callable[[str], bool]:
    """Whether a text is the pattern itself or has a match of it. What is no expression, or would be slow, is a plain part of a text."""
    literal = pattern.strip("^$")
    plain = _SLOW.search(pattern) is not None or len(pattern) > _MAX_CHARACTERS
    plain = plain or len(re.findall(r"[*+?{]", pattern)) > _MAX_REPEATS or pattern.count("(") > _MAX_GROUPS
    try:
        expression = None if plain else re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        expression = None
    if expression is None:
        return lambda text: text == pattern or literal in text
    return lambda text: text == pattern or expression.search(text[:_MAX_CHARACTERS]) is not None
