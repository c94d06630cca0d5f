"""Which handler a path belongs to. Pure."""

from berth.http.exchange import Handler

Route = tuple[str, str, Handler]  # method, pattern ({id} is one part, {name...} one or more), coroutine of one exchange


def match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    """Path parts against a pattern; `{name...}` takes one or more parts. None where it does not fit."""
    found: dict[str, str] = {}
    for index, word in enumerate(pattern):
        if word.endswith("...}"):
            tail = len(pattern) - index - 1
            if len(parts) < len(pattern) or (tail and parts[-tail:] != pattern[-tail:]):
                return None
            found[word[1:-4]] = "/".join(parts[index : len(parts) - tail])
            return found
        if index >= len(parts):
            return None
        if word.startswith("{"):
            found[word[1:-1]] = parts[index]
        elif word != parts[index]:
            return None
    return found if len(parts) == len(pattern) else None
