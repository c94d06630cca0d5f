"""`RUN --mount=`: a line of CSV whose fields may hold variables. Pure.

Read twice: as the file is parsed, for what is wrong whatever the variables are, and once they are known.
"""

import re
from collections.abc import Callable

from berth.build.dockerfile.flags import BOOLEANS, UnknownWord
from berth.build.dockerfile.instructions import Mount
from berth.build.dockerfile.splitting import SplitError

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_KEYS = (
    "type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw", "required", "size", "id",
    "sharing", "mode", "uid", "gid", "env",
)  # fmt: skip
_SYNONYMS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([kmgtpe]?)i?b?", re.IGNORECASE | re.ASCII)
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^",]*))(?=,|\Z)')
_MAX_ID = (1 << 32) - 1
_KNOWN_OWNERS = ("secret", "ssh", "cache")

Expander = Callable[[str], str]


def parse(text: str, expander: Expander | None = None) -> Mount:
    """SplitError for what is wrong. Without an expander, fields with variables are left as they are."""
    found: dict[str, str] = {}
    open_fields = False
    for field in fields(text, "mounts"):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key not in _KEYS:
            raise UnknownWord(f"unexpected key '{key}' in '{field}'", key, _KEYS)
        key = _SYNONYMS.get(key, key)
        if not equals:
            if key not in ("readonly", "readwrite", "required"):
                raise SplitError(f"invalid field '{field}' must be a key=value pair", field)
            value = "true"
        if key == "from" and re.search(r"\$.", value):
            raise SplitError("'from' doesn't support variable expansion, define alias stage instead", field)
        if expander is not None:
            value = expander(value)
        elif "$" in value:
            open_fields = True
            if key != "type":
                found[key] = value
            continue
        _check(key, value, field)
        if key == "readwrite":
            key, value = "readonly", "false" if value in TRUE else "true"
        found[key] = value
    if not open_fields:
        _check_together(found)
    return _mount(found, text)


def fields(text: str, what: str) -> list[str]:
    """As Go's encoding/csv reads one line: a quotation mark begins a field or is wrong."""
    if not text:
        raise SplitError(f"failed to parse csv {what}: EOF", f"--{what[:-1]}")
    found: list[str] = []
    index = 0
    while index <= len(text):
        match = _FIELD.match(text, index)
        if match is None:
            raise SplitError(f"failed to parse csv {what}: a quotation mark in the wrong place of {text}", text)
        found.append(match[1].replace('""', '"') if match[1] is not None else match[2])
        index = match.end() + 1
    return found


def _check(key: str, value: str, field: str) -> None:
    if key == "type" and value.lower() not in _TYPES:
        raise UnknownWord(f'unsupported mount type "{value}"', value, _TYPES)
    if key in ("readonly", "readwrite", "required") and value not in TRUE + FALSE:
        raise UnknownWord(f"invalid value for {key}: {value}", value, BOOLEANS)
    if key == "sharing" and value.lower() not in _SHARING:
        raise UnknownWord(f'unsupported sharing value "{value}"', value, _SHARING)
    if key == "mode" and not (re.fullmatch("[0-7]+", value) and int(value, 8) <= _MAX_ID):
        raise SplitError(f"invalid value {value} for mode", field)
    if key in ("uid", "gid") and not (re.fullmatch("[0-9]{1,20}", value) and int(value) <= _MAX_ID):
        raise SplitError(f"invalid value {value} for {key}", field)
    if key == "size" and size_bytes(value) is None:
        raise SplitError(f"invalid value for size: {value}", field)


def _check_together(found: dict[str, str]) -> None:
    """What is not for mounts of this type."""
    type_ = found.get("type", "bind").lower()
    if "required" in found and type_ not in ("secret", "ssh"):
        raise SplitError(f"unexpected key 'required' for mount type '{type_}'", "required")
    if "size" in found and type_ != "tmpfs":
        raise SplitError(f"unexpected key 'size' for mount type '{type_}'", "size")
    if "env" in found and type_ != "secret":
        raise SplitError(f"unexpected key 'env' for mount type '{type_}'", "env")
    for key in ("mode", "uid", "gid"):
        if key in found and type_ not in _KNOWN_OWNERS:
            raise SplitError(f'{key} not allowed for "{type_}" type mounts', key)
    if "sharing" in found and type_ != "cache":
        raise SplitError(f"invalid cache sharing set for {type_} mount", "sharing")
    if type_ == "secret":
        _check_secret(found)


def _check_secret(found: dict[str, str]) -> None:
    if found.get("from"):
        raise SplitError("secret mount should not have a from", "from")
    if not any(found.get(key) for key in ("source", "target", "id", "env")):
        raise SplitError("invalid secret mount. one of source, target required", "secret")
    if found.get("source") and found.get("id"):
        raise SplitError("both source and id can't be set", "source")


def _mount(found: dict[str, str], text: str) -> Mount:
    type_ = found.get("type", "bind").lower()
    return Mount(
        type=type_,
        source=found.get("source", ""),
        target=found.get("target", ""),
        from_=found.get("from", ""),
        read_only=found["readonly"] in TRUE if "readonly" in found else type_ not in ("cache", "tmpfs"),
        id=found.get("id", ""),
        sharing=found.get("sharing", "shared").lower(),
        required=found.get("required", "") in TRUE,
        mode=_number(found.get("mode", ""), 8),
        uid=_number(found.get("uid", ""), 10) or 0,
        gid=_number(found.get("gid", ""), 10) or 0,
        size_bytes=size_bytes(found.get("size", "")) or 0,
        env=found.get("env", ""),
        text=text,
    )


def _number(text: str, base: int) -> int | None:
    """None for what is not given or not yet known."""
    return int(text, base) if text.isascii() and text.isdigit() else None


def size_bytes(text: str) -> int | None:
    """`64m`, `1.5G`, `1024`: powers of 1024 as Docker's units have them; None for what is no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    whole, _, fraction = match[1].partition(".")
    unit = 1 << 10 * " kmgtpe".index(match[2].lower() or " ")
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
