"""`--mount` and `--volume` as Docker's command line reads them -> the engine's Mounts, Binds and Volumes. Pure but for the current directory."""

import os

from berth.cli.fields import csv_fields
from berth.cli.flags import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_ALONE = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src", "idmap")
_OPTIONS = {"bind": "BindOptions", "volume": "VolumeOptions", "image": "ImageOptions", "tmpfs": "TmpfsOptions"}
_RECURSION = {"enabled": "", "disabled": "NonRecursive", "writable": "ReadOnlyNonRecursive", "readonly": "ReadOnlyForceRecursive"}


def mount(text: str) -> "dict[str, Any]":
    """`type=bind,source=/a,target=/b,readonly` -> Docker's Mount; ValueError in Docker's words."""
    found: dict[str, Any] = {"Type": "volume"}
    options: dict[str, dict[str, Any]] = {}
    fields = csv_fields(text)
    if not fields:
        raise ValueError("EOF")
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals and key not in _ALONE:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if not _of_all(found, key, value, equals) and not _of_one_type(found, options, key, value, equals):
            raise ValueError(f"unexpected key '{field.partition('=')[0]}' in '{field}'")
    _check(found, options)
    return found | {_OPTIONS[kind]: values for kind, values in options.items()}


def _of_all(found: "dict[str, Any]", key: str, value: str, equals: str) -> bool:
    if key == "type":
        found["Type"] = value.lower()
    elif key in ("source", "src"):
        found["Source"] = os.path.abspath(value) if value.startswith(".") else value
    elif key in ("target", "dst", "destination"):
        found["Target"] = value
    elif key in ("readonly", "ro"):
        found["ReadOnly"] = _truth(key, value, equals)
    elif key == "consistency":
        found["Consistency"] = value.lower()
    else:
        return False
    return True


def _of_one_type(found: "dict[str, Any]", options: "dict[str, dict[str, Any]]", key: str, value: str, equals: str) -> bool:
    """Whether it is an option of one type of mounts; empty ones are there as Docker's are."""
    if key == "idmap":  # not in Docker; of bind mounts and volumes
        options.setdefault("volume" if found["Type"] == "volume" else "bind", {})["IdMap"] = value if equals else "owner"
        return True
    kind, _, rest = key.partition("-")
    taken = _TAKERS.get(kind, {}).get(rest)
    if taken is None:
        return False
    if key == "bind-recursive":
        if value not in _RECURSION:
            raise ValueError(f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")')
        if value == "enabled":
            return True
    taken(options.setdefault(kind, {}), key, value, equals)
    return True


def _check(found: "dict[str, Any]", options: "dict[str, dict[str, Any]]") -> None:
    if not found["Type"]:
        raise ValueError("type is required")
    if not found.get("Target"):
        raise ValueError("target is required")
    for kind in options:
        if found["Type"] != kind:
            raise ValueError(f"cannot mix '{kind}-*' options with mount type '{found['Type']}'")
    bind = options.get("bind", {})
    for name, word in (("ReadOnlyNonRecursive", "writable"), ("ReadOnlyForceRecursive", "readonly")):
        if bind.get(name) and not found.get("ReadOnly"):
            raise ValueError(f"option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")


def _truth(key: str, value: str, equals: str) -> bool:
    if equals and value not in _TRUE + _FALSE:
        raise ValueError(f"invalid value for {key}: {value}")
    return not equals or value in _TRUE


def _propagation(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    options["Propagation"] = value.lower()


def _recursive(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    options[_RECURSION[value]] = True


def _not_recursive(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    if _truth(key, value, equals):
        options["NonRecursive"] = True


def _create_source(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    if _truth(key, value, equals):
        options["CreateMountpoint"] = True


def _no_copy(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    if _truth(key, value, equals):
        options["NoCopy"] = True


def _label(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    name, _, text = value.partition("=")
    options.setdefault("Labels", {})[name] = text


def _driver(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    options.setdefault("DriverConfig", {})["Name"] = value


def _driver_option(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    name, _, text = value.partition("=")
    options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = text


def _subpath(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    options["Subpath"] = value


def _size(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    from berth.cli.flags import UsageError
    from berth.cli.runconfig import size_bytes

    try:
        options["SizeBytes"] = size_bytes(value, "--mount")
    except UsageError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _mode(options: "dict[str, Any]", key: str, value: str, equals: str) -> None:
    if not (value and all(digit in "01234567" for digit in value) and len(value) < 11):
        raise ValueError(f"invalid value for {key}: {value}")
    options["Mode"] = int(value, 8)


_TAKERS: "dict[str, dict[str, Any]]" = {
    "bind": {"propagation": _propagation, "recursive": _recursive, "nonrecursive": _not_recursive, "create-src": _create_source},
    "volume": {"nocopy": _no_copy, "label": _label, "driver": _driver, "opt": _driver_option, "subpath": _subpath},
    "image": {"subpath": _subpath}, "tmpfs": {"size": _size, "mode": _mode},
}  # fmt: skip


# -- --volume -----------------------------------------------------------------------------------------------


def volumes(given: "list[str]") -> "tuple[list[str], dict[str, dict[str, Any]]]":
    """(Binds, Volumes): what has a source, and paths alone, which become anonymous volumes."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, Any]] = {}
    for text in given:
        parts = text.split(":")
        if not text:
            raise Refused("invalid empty volume spec")
        if len(parts) > 3:
            raise Refused(f"invalid spec: {text}: too many colons")
        if len(parts) > 1 and not parts[0]:
            raise Refused(f"invalid spec: {text}: empty section between colons")
        if len(parts) == 1:
            anonymous[text] = {}
        elif parts[0].startswith("."):
            binds.append(":".join([os.path.abspath(parts[0]), *parts[1:]]))
        else:
            binds.append(text)
    return binds, anonymous
