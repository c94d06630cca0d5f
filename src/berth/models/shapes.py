"""What types the fields of a JSON object have, so that nobody behind meets another. Pure.

A shape is str, int, bool, object (anything), [shape] for a list, {"*": shape} for a map, {"Name": shape, ...} for an
object, or WORDS: a list of strings that old clients send as one string. As in Go, null is the same as absent, names
match in any case, and names that nobody knows are ignored; unlike in Go, they are passed on.
"""

from typing import Any

from berth.errors import InvalidParameter

Shape = Any

WORDS = "words"
_INT64 = 1 << 63

_HEALTH = {"Test": [str], "Interval": int, "Timeout": int, "Retries": int, "StartPeriod": int, "StartInterval": int}
CONFIG: Shape = {
    "Hostname": str, "Domainname": str, "User": str, "AttachStdin": bool, "AttachStdout": bool, "AttachStderr": bool,
    "ExposedPorts": {"*": object}, "Tty": bool, "OpenStdin": bool, "StdinOnce": bool, "Env": [str], "Cmd": WORDS,
    "Healthcheck": _HEALTH, "ArgsEscaped": bool, "Image": str, "Volumes": {"*": object}, "WorkingDir": str,
    "Entrypoint": WORDS, "NetworkDisabled": bool, "MacAddress": str, "OnBuild": [str], "Labels": {"*": str}, "StopSignal": str,
    "StopTimeout": int, "Shell": WORDS,
}  # fmt: skip

_WORDS = {str: "a string", int: "a whole number", bool: "true or false"}


def shaped(value: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The same with names in their own case and without nulls; InvalidParameter that names field and value."""
    return dict(_object(value, shape, ""))


def _check(value: object, shape: Shape, path: str) -> object:
    if shape is object:
        return value
    if shape == WORDS:
        return [value] if isinstance(value, str) else _list(value, str, path)
    if isinstance(shape, list):
        return _list(value, shape[0], path)
    if isinstance(shape, dict):
        return _object(value, shape, path)
    if not isinstance(value, shape) or (shape is int and (isinstance(value, bool) or not -_INT64 <= value < _INT64)):
        raise _wrong(path, value, _WORDS[shape])
    return value


def _list(value: object, shape: Shape, path: str) -> list[object]:
    if not isinstance(value, list):
        raise _wrong(path, value, "a list")
    return [_check(item, shape, f"{path}[{index}]") for index, item in enumerate(value)]


def _object(value: object, shape: dict[str, Shape], path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(path, value, "an object")
    prefix = f"{path}." if path else ""
    if shape.get("*") is object:  # Go's map to an empty structure: of it there is the key alone
        return {key: {} if item is None else item for key, item in value.items()}
    if "*" in shape:
        return {key: _check(item, shape["*"], f"{prefix}{key}") for key, item in value.items() if item is not None}
    found: dict[str, object] = {}
    by_lower: dict[str, str] = {}
    for key, item in value.items():
        if item is None:
            continue
        name = key
        if name not in shape:
            by_lower = by_lower or {known.lower(): known for known in shape}
            name = by_lower.get(key.lower(), key)
        found[name] = _check(item, shape[name], f"{prefix}{name}") if name in shape else item
    return found


def _wrong(path: str, value: object, wanted: str) -> InvalidParameter:
    shown = {True: "true", False: "false", None: "null"}.get(value, repr(value)) if isinstance(value, bool | None) else repr(value)
    return InvalidParameter(f"{path}: {shown[:200]} is not {wanted}")
