"""Reads and checks an OCI bundle's `config.json`. Errors start with the JSON path of what is wrong.

The specification stays a plain dict: unknown fields are kept, and a start needs no second model.
Source: OCI runtime specification 1.2, config.md and config-linux.md.
"""

import json
import os

from berth.errors import InvalidSpec, NotImplementedHere

_NO_ID = (1 << 32) - 1
_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")

# JSON path (without array indices) -> (type, required). Only fields that the runtime acts on.
_FIELDS: dict[str, tuple[type, bool]] = {
    "ociVersion": (str, True),
    "root": (dict, True),
    "root.path": (str, True),
    "root.readonly": (bool, False),
    "hostname": (str, False),
    "domainname": (str, False),
    "mounts": (list, False),
    "process": (dict, True),
    "process.args": (list, True),
    "process.env": (list, False),
    "process.cwd": (str, True),
    "process.terminal": (bool, False),
    "process.user": (dict, False),
    "process.user.uid": (int, False),
    "process.user.gid": (int, False),
    "process.user.umask": (int, False),
    "process.user.additionalGids": (list, False),
    "process.capabilities": (dict, False),
    "process.rlimits": (list, False),
    "process.noNewPrivileges": (bool, False),
    "process.oomScoreAdj": (int, False),
    "process.apparmorProfile": (str, False),
    "process.selinuxLabel": (str, False),
    "linux": (dict, False),
    "linux.namespaces": (list, False),
    "linux.uidMappings": (list, False),
    "linux.gidMappings": (list, False),
    "linux.devices": (list, False),
    "linux.cgroupsPath": (str, False),
    "linux.resources": (dict, False),
    "linux.sysctl": (dict, False),
    "linux.seccomp": (dict, False),
    "linux.maskedPaths": (list, False),
    "linux.readonlyPaths": (list, False),
    "linux.rootfsPropagation": (str, False),
    "linux.timeOffsets": (dict, False),
    "annotations": (dict, False),
}
_STRING_LISTS = ("process.args", "process.env", "linux.maskedPaths", "linux.readonlyPaths")


def load(bundle: str) -> dict:
    """The checked specification of the bundle directory; raises InvalidSpec."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            spec = json.loads(file.read())
    except FileNotFoundError:
        raise InvalidSpec(f"{path}: no such file; a bundle is a directory with config.json in it") from None
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"{path}: not JSON: {error}") from None
    check(spec)
    return dict(spec)


def check(spec: object) -> None:
    """Raises InvalidSpec for the first field that cannot be used, NotImplementedHere for one berth lacks."""
    if not isinstance(spec, dict):
        raise InvalidSpec(f"config.json: expected an object, got {type(spec).__name__}")
    for path, (kind, required) in _FIELDS.items():
        _check_field(spec, path, kind, required)
    version = spec["ociVersion"]
    if not version.startswith("1."):
        raise InvalidSpec(f"ociVersion: {version!r} is not a version 1 of the specification")
    if not spec["process"]["args"]:
        raise InvalidSpec("process.args: is empty; there is no program to run")
    if not spec["process"]["cwd"].startswith("/"):
        raise InvalidSpec(f"process.cwd: {spec['process']['cwd']!r} is not an absolute path")
    _check_user(spec["process"].get("user") or {})
    _check_mounts(spec.get("mounts") or [])
    linux = spec.get("linux") or {}
    _check_namespaces(linux.get("namespaces") or [])
    _check_rlimits(spec["process"].get("rlimits") or [])
    if linux.get("intelRdt"):
        raise NotImplementedHere("linux.intelRdt: berth does not drive resctrl yet; leave it out")


def _check_field(spec: dict, path: str, kind: type, required: bool) -> None:
    parent, _, name = path.rpartition(".")
    holder: object = spec
    for part in parent.split(".") if parent else ():
        holder = holder.get(part) if isinstance(holder, dict) else None
    if not isinstance(holder, dict):
        return
    value = holder.get(name)
    if value is None:
        if required:
            raise InvalidSpec(f"{path}: is missing")
        return
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidSpec(f"{path}: expected {_word(kind)}, got {value!r}")
    if path in _STRING_LISTS and isinstance(value, list):
        for index, item in enumerate(value):
            if not isinstance(item, str) or "\0" in item:
                raise InvalidSpec(f"{path}[{index}]: expected a string without NUL, got {item!r}")


def _word(kind: type) -> str:
    return {str: "a string", bool: "true or false", int: "a number", list: "an array", dict: "an object"}[kind]


def _check_user(user: dict) -> None:
    # To setresuid(2), -1 (which is 4294967295) means "as it is", and it is 0.
    ids = [(key, user.get(key)) for key in ("uid", "gid")]
    ids += [(f"additionalGids[{index}]", gid) for index, gid in enumerate(user.get("additionalGids") or [])]
    for key, value in ids:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _NO_ID):
            raise InvalidSpec(f"process.user.{key}: {value!r} is not an id from 0 to {_NO_ID - 1}")
    umask = user.get("umask")
    if umask is not None and not 0 <= umask <= 0o777:
        raise InvalidSpec(f"process.user.umask: {umask} is not a mask from 0 to {0o777}")


def _check_mounts(mounts: list) -> None:
    for index, mount in enumerate(mounts):
        if not isinstance(mount, dict):
            raise InvalidSpec(f"mounts[{index}]: expected an object, got {mount!r}")
        destination = mount.get("destination")
        if not isinstance(destination, str) or not destination.startswith("/"):
            raise InvalidSpec(f"mounts[{index}].destination: {destination!r} is not an absolute path")
        options = mount.get("options") or []
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise InvalidSpec(f"mounts[{index}].options: expected an array of strings, got {options!r}")


def _check_namespaces(namespaces: list) -> None:
    seen = set()
    for index, namespace in enumerate(namespaces):
        kind = namespace.get("type") if isinstance(namespace, dict) else None
        if kind not in _NAMESPACES:
            raise InvalidSpec(f"linux.namespaces[{index}].type: {kind!r} is not one of {', '.join(_NAMESPACES)}")
        if kind in seen:
            raise InvalidSpec(f"linux.namespaces[{index}].type: {kind!r} is listed twice")
        seen.add(kind)


def _check_rlimits(rlimits: list) -> None:
    for index, limit in enumerate(rlimits):
        if not isinstance(limit, dict) or not isinstance(limit.get("type"), str):
            raise InvalidSpec(f"process.rlimits[{index}].type: is missing")
        for key in ("soft", "hard"):
            value = limit.get(key)
            if not isinstance(value, int) or not -1 <= value < 1 << 64:
                raise InvalidSpec(f"process.rlimits[{index}].{key}: {value!r} is not an unsigned 64-bit number")
        if limit["soft"] > limit["hard"] >= 0:
            raise InvalidSpec(f"process.rlimits[{index}]: soft {limit['soft']} is above hard {limit['hard']}")
