"""What `-v`, `--mount`, `--tmpfs`, `--volumes-from` and an image's VOLUME ask for: parsed and checked.

Pure but for one look whether a source is there. Refusals are in Docker's words, as its clients show them to people.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from berth.engine import idmaps, volumerecord
from berth.engine.mountpoints import BIND, IMAGE, PROPAGATIONS, TMPFS, VOLUME, MountPoint
from berth.errors import InvalidParameter, NotFound

_FIELDS = {BIND: "BindOptions", TMPFS: "TmpfsOptions", VOLUME: "VolumeOptions", IMAGE: "ImageOptions"}
_MODES = {  # option of `-v` -> what it is about: of each kind there can be one
    **dict.fromkeys(PROPAGATIONS, "propagation"), "ro": "access", "rw": "access", "rro": "access", "z": "label", "Z": "label",
    **dict.fromkeys(("consistent", "cached", "delegated"), "consistency"), "nocopy": "copy",
}  # fmt: skip
_TMPFS_OPTIONS = ("exec", "noexec")
_NOT_HERE = {
    "cluster": "volumes of a cluster need a swarm, and this engine is in none",
    "npipe": "mount type unknown: named pipes are of Windows",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedMount:
    """A mount as it is asked for. point.name is '' for an anonymous volume; driver, labels, options: for a volume that is made."""

    point: MountPoint
    driver: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    make_source: bool = False


def wanted(host: dict[str, Any], volumes: dict[str, Any] | None, inherited: list[MountPoint]) -> list[WantedMount]:
    """All mounts of a container but its own pseudo file systems. volumes: of its Config; inherited: by --volumes-from."""
    given = [_of_bind(text, host.get("VolumeDriver") or "") for text in host.get("Binds") or []]
    given += [of_mount(mount) for mount in host.get("Mounts") or []]
    tmpfs = [target(path) for path in host.get("Tmpfs") or {}]
    taken: set[str] = set()
    for destination in [*(each.point.destination for each in given), *tmpfs]:
        if destination in taken:
            raise InvalidParameter(f"Duplicate mount point: {destination}")
        taken.add(destination)
    found = {point.destination: WantedMount(point=point) for point in inherited}
    for path in volumes or {}:
        point = MountPoint(kind=VOLUME, destination=target(f"/{path}"), anonymous=True, copy=True)
        if point.destination not in taken:
            found.setdefault(point.destination, WantedMount(point=point, driver=host.get("VolumeDriver") or ""))
    return list({**found, **{each.point.destination: each for each in given}}.values())


def of_old_record(host: dict[str, Any]) -> list[MountPoint]:
    """The mounts of a container that a version without volumes made; what is no mount any more is left out."""
    found = []
    for item in [*(host.get("Binds") or []), *(host.get("Mounts") or [])]:
        try:
            each = _of_bind(item, "") if isinstance(item, str) else of_mount({**item, "BindOptions": {**(item.get("BindOptions") or {}), "CreateMountpoint": True}}
                                                                              if item.get("Type") == BIND else item)  # fmt: skip
        except InvalidParameter:
            continue
        found.append(each.point)
    return found


def inherited(texts: list[str], mounts_of: Callable[[str], list[MountPoint]]) -> list[MountPoint]:
    """What `--volumes-from CONTAINER[:MODE]` brings. mounts_of: of a container by name, NotFound for none."""
    found: dict[str, MountPoint] = {}
    for text in texts:
        if not text:
            raise InvalidParameter("volumes-from specification cannot be an empty string")
        name, _, mode = text.partition(":")
        kinds = _check_mode(mode)
        if kinds & {"propagation", "copy", "idmap"}:
            raise InvalidParameter(f"invalid mode: {mode}")
        try:
            points = mounts_of(name)
        except NotFound as error:
            raise InvalidParameter(str(error)) from None  # "not found" of a create means the image to clients, who pull it
        read_only = not {"ro", "rro"}.isdisjoint(mode.split(","))
        for point in points:
            found[point.destination] = replace(point, mode="", read_only=point.read_only or read_only, copy=False)
    return list(found.values())


def target(path: str) -> str:
    """A place inside a container, clean; InvalidParameter for none."""
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")
    clean = os.path.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")
    if "\0" in clean:
        raise InvalidParameter(f"invalid mount path: {path!r}")
    return clean


# -- -v -----------------------------------------------------------------------------------------------


def _of_bind(text: str, driver: str) -> WantedMount:
    source, path, mode = _split(text)
    kinds = _check_mode(mode)
    options = mode.split(",") if mode else []
    propagation = next((option for option in options if option in PROPAGATIONS), "")
    kind = BIND if source.startswith("/") else VOLUME
    try:
        destination = target(path)
        if kind == VOLUME and propagation:
            raise InvalidParameter("field BindOptions must not be specified")
        if kind == BIND and "copy" in kinds:
            raise InvalidParameter("field VolumeOptions must not be specified")
        if kind == VOLUME and not source and not {"ro", "rro"}.isdisjoint(options):
            raise InvalidParameter("must not set ReadOnly mode when using anonymous volumes")
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {error}") from None
    point = MountPoint(
        kind=kind, destination=destination, mode=mode, read_only="ro" in options or "rro" in options,
        below="readonly" if "rro" in options else "", idmap=idmaps.of_options(options),
    )  # fmt: skip
    if kind == BIND:
        return WantedMount(point=replace(point, source=os.path.normpath("/" + source.lstrip("/")), propagation=propagation or "rprivate"), make_source=True)
    return _volume(replace(point, copy="nocopy" not in options), source, driver, {}, {})


def _split(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    good = text and not text.startswith(":") and len(parts) <= 3 and (len(parts) == 1 or parts[1])
    if not good or (len(parts) == 2 and _is_mode(parts[1])):  # `/path:ro` names no place for it
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    if len(parts) == 1:
        return "", text, ""
    return parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def _is_mode(text: str) -> bool:
    try:
        return bool(_check_mode(text))
    except InvalidParameter:
        return False


def _check_mode(text: str) -> set[str]:
    """What options that are known are about: one of each kind."""
    kinds: list[str] = []
    for option in text.split(",") if text else []:
        kind = "idmap" if option == "idmap" or option.startswith("idmap=") else _MODES.get(option)
        if kind is None or kind in kinds:
            raise InvalidParameter(f"invalid mode: {text}")
        kinds.append(kind)
    return set(kinds)


# -- --mount ------------------------------------------------------------------------------------------


def of_mount(mount: dict[str, Any]) -> WantedMount:
    """Docker's Mount."""
    kind = mount.get("Type") or ""
    try:
        return _checked_mount(kind, mount)
    except InvalidParameter as error:
        if str(error).startswith("create "):
            raise
        raise InvalidParameter(f'invalid mount config for type "{kind}": {error}') from None


def _checked_mount(kind: str, mount: dict[str, Any]) -> WantedMount:
    if kind in _NOT_HERE:
        raise InvalidParameter(_NOT_HERE[kind])
    if not mount.get("Target"):
        raise InvalidParameter("field Target must not be empty")
    if kind not in _FIELDS:
        raise InvalidParameter("mount type unknown")
    destination = target(mount["Target"])
    for other, name in _FIELDS.items():
        if other != kind and mount.get(name) is not None:
            raise InvalidParameter(f"field {name} must not be specified")
    point = MountPoint(kind=kind, destination=destination, read_only=bool(mount.get("ReadOnly")))
    options: dict[str, Any] = mount.get(_FIELDS[kind]) or {}
    return _MAKERS[kind](point, mount.get("Source") or "", options)


def _of_type_bind(point: MountPoint, source: str, options: dict[str, Any]) -> WantedMount:
    if not source:
        raise InvalidParameter("field Source must not be empty")
    if not source.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{source}' mount path must be absolute")
    propagation = options.get("Propagation") or "rprivate"
    if propagation not in PROPAGATIONS:
        raise InvalidParameter(f"invalid propagation mode: {propagation}")
    below = {"ReadOnlyNonRecursive": "writable", "ReadOnlyForceRecursive": "readonly"}
    chosen = [name for name in below if options.get(name)]
    for name in chosen:
        if not point.read_only:
            raise InvalidParameter(f"mount options conflict: !ReadOnly && BindOptions.{name}")
    if len(chosen) > 1:
        raise InvalidParameter("mount options conflict: BindOptions.ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
    recursive = not options.get("NonRecursive")
    if options.get("ReadOnlyForceRecursive") and not recursive:
        raise InvalidParameter("mount options conflict: BindOptions.NonRecursive && BindOptions.ReadOnlyForceRecursive")
    if not os.path.lexists(source) and not options.get("CreateMountpoint"):
        raise InvalidParameter(f"bind source path does not exist: {source}")
    found = replace(
        point, source=os.path.normpath("/" + source.lstrip("/")), propagation=propagation, recursive=recursive,
        below=below[chosen[0]] if chosen else "", idmap=idmaps.checked(options.get("IdMap") or ""),
    )  # fmt: skip
    return WantedMount(point=found, make_source=bool(options.get("CreateMountpoint")))


def _of_type_volume(point: MountPoint, source: str, options: dict[str, Any]) -> WantedMount:
    driver: dict[str, Any] = options.get("DriverConfig") or {}
    subpath = options.get("Subpath") or ""
    if not source and point.read_only:
        raise InvalidParameter("must not set ReadOnly mode when using anonymous volumes")
    if not source and subpath:
        raise InvalidParameter("must not set Subpath when using anonymous volumes")
    found = replace(point, copy=not options.get("NoCopy") and not subpath, subpath=_subpath(subpath), idmap=idmaps.checked(options.get("IdMap") or ""))
    return _volume(found, source, driver.get("Name") or "", options.get("Labels") or {}, driver.get("Options") or {})


def _of_type_tmpfs(point: MountPoint, source: str, options: dict[str, Any]) -> WantedMount:
    if source:
        raise InvalidParameter("field Source must not be specified")
    found = [f"size={options['SizeBytes']}"] if options.get("SizeBytes") else []
    found += [f"mode={options['Mode']:o}"] if options.get("Mode") else []
    for words in options.get("Options") or []:
        if len(words) not in (1, 2):
            raise InvalidParameter("invalid option array length")
        if words[0] not in _TMPFS_OPTIONS:
            raise InvalidParameter(f"invalid option: {words[0]}")
        found.append("=".join(words))
    return WantedMount(point=replace(point, options=tuple(found)))


def _of_type_image(point: MountPoint, source: str, options: dict[str, Any]) -> WantedMount:
    """Which image it is, is found out by who has them; nobody writes to one."""
    if not source:
        raise InvalidParameter("field Source must not be empty")
    return WantedMount(point=replace(point, name=source, read_only=True, subpath=_subpath(options.get("Subpath") or "")))


_MAKERS = {BIND: _of_type_bind, VOLUME: _of_type_volume, TMPFS: _of_type_tmpfs, IMAGE: _of_type_image}


def _subpath(text: str) -> str:
    """One that stays inside as far as its words go; links in it are looked at when it is mounted."""
    clean = os.path.normpath(text) if text else ""
    if clean.startswith(("/", "../")) or clean == ".." or "\0" in clean:
        raise InvalidParameter(f"subpath must be a relative path within the volume: {text!r}")
    return "" if clean == "." else clean


def _volume(point: MountPoint, name: str, driver: str, labels: dict[str, str], options: dict[str, str]) -> WantedMount:
    if name:
        volumerecord.check_name(name)
    # As dockerd has it: SELinux shall know a volume as shared, unless `-v` says otherwise.
    mode = point.mode or "z"
    return WantedMount(point=replace(point, name=name, mode=mode, anonymous=not name), driver=driver, labels=labels, options=options)
