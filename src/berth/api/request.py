"""Parameters that many groups of endpoints share. Pure."""

import json

from berth import errors


def parse_filters(text: str) -> dict[str, list[str]]:
    """`{"label":{"a=b":true}}` or `{"label":["a=b"]}` -> lists; InvalidParameter otherwise."""
    if not text:
        return {}
    try:
        value = json.loads(text)
        value = {} if value is None else value
        found = {key: list(values if isinstance(values, list) else dict(values or {})) for key, values in value.items()}
        if all(isinstance(item, str) for values in found.values() for item in values):
            return found
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    raise errors.InvalidParameter(f"invalid filters: {text[:200]!r}: expected a JSON object of lists of strings")
