"""Parameters that many groups of endpoints share. Pure."""

import json

from berth import errors
from berth.http.strict_json import parse_json_object
from berth.oci import platforms
from berth.oci.platforms import Platform


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


def platform_of(texts: list[str]) -> Platform | None:
    """The parameter `platform`, a JSON object as Docker's clients send it. InvalidParameter for anything else, and for more than one."""
    if len(texts) > 1:
        raise errors.InvalidParameter("several platforms: the store keeps one platform of each image, so name one")
    if not texts or not texts[0]:
        return None
    value = parse_json_object(texts[0].encode(errors="surrogateescape"))
    parts = [value.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) for part in parts):
        raise errors.InvalidParameter(f"platform: os, architecture and variant must be strings, not {texts[0][:200]}")
    if not (parts[0] and parts[1]):
        raise errors.InvalidParameter(f"platform: both os and architecture must be there, not {texts[0][:200]}")
    return platforms.parse("/".join(part for part in parts if part))
