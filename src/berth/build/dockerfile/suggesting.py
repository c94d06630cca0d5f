"""The nearest right word for a wrong one. Pure."""

from collections.abc import Iterable

_MAX_CHARACTERS = 64  # longer words are not compared: the work is the product of the lengths


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that a slip of the finger or two away would be `word`; '' where none is. Case does not count."""
    if not 1 < len(word) <= _MAX_CHARACTERS:
        return ""
    limit = max(1, len(word) // 3)
    best, best_distance = "", limit + 1
    for candidate in known:
        if not candidate or abs(len(candidate) - len(word)) > limit:
            continue
        found = _distance(word.lower(), candidate.lower())
        if found < best_distance:
            best, best_distance = candidate, found
    return best if best != word else ""


def _distance(one: str, other: str) -> int:
    """Letters put in, left out, changed, or swapped with their neighbour (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
