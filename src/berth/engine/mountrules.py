"""What `-v`, `--mount` and `--tmpfs` of a create request may say. Pure but for one look whether a source is there.

Refusals are in Docker's words, as its clients show them to people.
"""

import os
import re

from berth.engine import bundle
from berth.errors import InvalidParameter, NotImplementedHere

_OPTIONS = {"bind": "BindOptions", "tmpfs": "TmpfsOptions", "volume": "VolumeOptions"}
_LATER = ("volume", "image", "cluster")
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def check(host: dict) -> None:
    """Every mount of a HostConfig; raises InvalidParameter for the first that cannot be."""
    for text in host.get("Binds") or []:
        _bind(text)
    for path in host.get("Tmpfs") or {}:
        _target(path)
    for mount in host.get("Mounts") or []:
        _mount(mount)
    seen: set[str] = set()
    for destination in [*(mount["destination"] for mount in bundle.user_binds(host)), *(host.get("Tmpfs") or {})]:
        clean = os.path.normpath(destination)
        if clean in seen:
            raise InvalidParameter(f"Duplicate mount point: {clean}")
        seen.add(clean)


def _target(path: str) -> None:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")
    if os.path.normpath("/" + path.lstrip("/")) == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")


def _bind(text: str) -> None:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise InvalidParameter(f"invalid volume specification: '{text}': expected HOST-PATH:CONTAINER-PATH[:OPTIONS]")
    if len(parts) == 3:
        _check_mode(parts[2])
    try:
        _target(parts[1])
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid mount config for type \"bind\": {error}") from None
    if parts[0].startswith("/"):
        return
    if not _VOLUME_NAME.fullmatch(parts[0]):
        raise InvalidParameter(
            f'create {parts[0]}: "{parts[0]}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
            "are allowed. If you intended to pass a host directory, use absolute path"
        )
    raise NotImplementedHere(f"volume {parts[0]!r}: volumes by name are not there yet in this version of berth; give a host path")


def _check_mode(text: str) -> None:
    """Options that are known, one of each kind."""
    kinds: list[str] = []
    for option in text.split(","):
        if option not in bundle.BIND_OPTIONS:
            raise InvalidParameter(f"invalid mode: {text}")
        kinds.append(bundle.BIND_OPTIONS[option])
    if len(set(kinds)) != len(kinds):
        raise InvalidParameter(f"invalid mode: {text}")


def _mount(mount: dict) -> None:
    kind = mount.get("Type") or ""
    if kind in _LATER:
        raise NotImplementedHere(f"mount type {kind!r} is not there yet in this version of berth; it has bind and tmpfs")
    try:
        _check_mount(kind, mount)
    except InvalidParameter as error:
        raise InvalidParameter(f'invalid mount config for type "{kind}": {error}') from None


def _check_mount(kind: str, mount: dict) -> None:
    source, target = mount.get("Source") or "", mount.get("Target") or ""
    if not target:
        raise InvalidParameter("field Target must not be empty")
    if kind not in ("bind", "tmpfs"):
        raise InvalidParameter("mount type unknown")
    _target(target)
    for other, field in _OPTIONS.items():
        if other != kind and mount.get(field) is not None:
            raise InvalidParameter(f"field {field} must not be specified")
    if kind == "tmpfs":
        if source:
            raise InvalidParameter("field Source must not be specified")
        return
    if not source:
        raise InvalidParameter("field Source must not be empty")
    if not source.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{source}' mount path must be absolute")
    options = mount.get("BindOptions") or {}
    if (options.get("Propagation") or "rprivate") not in bundle.PROPAGATIONS:
        raise InvalidParameter(f"invalid propagation mode: {options['Propagation']}")
    if not os.path.lexists(source) and not options.get("CreateMountpoint"):
        raise InvalidParameter(f"bind source path does not exist: {source}")
