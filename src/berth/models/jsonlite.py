"""JSON through the C halves of the standard library's codec: `import json` costs 7 ms, this 0.2.

`_json` is private to CPython; where it is missing, `json` itself serves.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

def _refuse(name: object) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _no_value(value: object) -> None:
    raise TypeError(f"{type(value).__name__} is no JSON value")


try:
    from _json import encode_basestring_ascii as _quote
    from _json import make_encoder as _make_encoder
    from _json import make_scanner as _make_scanner

    class _Context:
        strict = False
        object_hook = object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = staticmethod(_refuse)

    _scan = _make_scanner(_Context())  # type: ignore[arg-type]
    # markers, default, encoder, indent, separators, sort_keys, skipkeys, allow_nan: as json.encoder calls it
    _encode = _make_encoder(None, _no_value, _quote, None, ":", ",", False, False, True)

    def loads(text: str) -> "Any":
        """The value; ValueError where there is none or something follows it."""
        try:
            value, end = _scan(text, len(text) - len(text.lstrip()))
        except StopIteration:
            raise ValueError(f"not JSON: {text[:80]!r}") from None
        except SystemError:  # it wanted json.decoder's error and did not find that imported
            import json

            json.loads(text)  # raises it, with the place
            raise
        if text[end:].strip():
            raise ValueError(f"more than one JSON value: {text[end : end + 80]!r}")
        return value

    def dumps(value: object) -> str:
        """Compact JSON of dict, list, tuple, str, int, float, bool and None; TypeError for anything else."""
        return "".join(_encode(value, 0))

except ImportError:
    import json

    loads = json.loads  # type: ignore[assignment]

    def dumps(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    _quote = json.dumps


def _quote_as_go(text: str) -> str:
    """As Go writes a string: letters as they are, but what could be markup, and two line ends of JavaScript, escaped."""
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if text.isprintable() else _quote(text)
    for letter in "<>&":
        quoted = quoted.replace(letter, f"\\u{ord(letter):04x}")
    return quoted


def dumps_as_go(value: object) -> str:
    """Compact JSON as Docker's command line prints it."""
    if isinstance(value, str):
        return _quote_as_go(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quote_as_go(str(key))}:{dumps_as_go(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps_as_go, value)) + "]"
    return dumps(value)


def pretty(value: object, indent: str = "") -> str:
    """JSON over several lines, four spaces a level, as `docker inspect` prints it."""
    deeper = indent + "    "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{_quote_as_go(str(k))}: {pretty(v, deeper)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(deeper + pretty(v, deeper) for v in value) + f"\n{indent}]"
    return dumps_as_go(value)
