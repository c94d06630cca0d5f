"""What every group of endpoints needs to read a request: routes, and the parameters that many share. Pure."""

import json

from berth import errors
from berth.api.http1 import Handler

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


def parse_filters(text: str) -> dict[str, list[str]]:
    """`{"label":{"a=b":true}}` or `{"label":["a=b"]}` -> lists; InvalidParameter otherwise."""
    if not text:
        return {}
    try:
        value = json.loads(text)
        return {key: [str(v) for v in (values if isinstance(values, list) else dict(values))] for key, values in value.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise errors.InvalidParameter(f"invalid filters: {text[:200]!r}: expected a JSON object of lists") from None
