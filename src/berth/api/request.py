"""Parameters that many groups of endpoints share. Pure."""

import json

from berth import errors


def parse_filters(text: str) -> dict[str, list[str]]:
    """`{"label":{"a=b":true}}` or `{"label":["a=b"]}` -> lists; InvalidParameter otherwise."""
    if not text:
        return {}
    try:
        value = json.loads(text)
        return {key: [str(v) for v in (values if isinstance(values, list) else dict(values))] for key, values in value.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise errors.InvalidParameter(f"invalid filters: {text[:200]!r}: expected a JSON object of lists") from None
