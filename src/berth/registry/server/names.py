"""What the distribution specification lets a repository, a tag and a digest be called. Pure."""

import re

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OTHER_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_MAX_NAME_CHARACTERS = 255


def is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME_CHARACTERS and bool(_NAME.fullmatch(text))


def is_tag(text: str) -> bool:
    return bool(_TAG.fullmatch(text))


def is_digest(text: str) -> bool:
    """A digest that this registry computes: sha256."""
    return bool(_DIGEST.fullmatch(text))


def looks_like_digest(text: str) -> bool:
    """A digest of whatever algorithm: a tag has no colon."""
    return bool(_OTHER_DIGEST.fullmatch(text))
