"""The mounts of a container: what its record keeps of each, what its runtime is told, what clients see. Pure.

A record keeps them as they were settled when the container was made (`mounts`): which volume an anonymous one is, what
`--volumes-from` meant then. A record of a version that had no volumes has none; then the HostConfig says all.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from berth.engine import idmaps
from berth.engine.state import Record

BIND, VOLUME, TMPFS, IMAGE = "bind", "volume", "tmpfs", "image"
CHAIN = "chain:"  # before the chain id of layers that a build's step has mounted, in the place of an image's id
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_BELOW_TOO, _BELOW_NOT = "", "writable"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint:
    """One mount. destination: clean and absolute, inside the container; source: a host path, or an image's id, or with
    a build's step what it has mounted as if it were an image's: layers (CHAIN) or a directory.

    name: a volume's, or how the image was called; mode: the third part of `-v`, as shown; below: what read-only means
    for mounts beneath a bind ("", "writable" or "readonly"); copy: whether the image's content may still have to be
    copied into the volume; anonymous: whether the volume goes with the last container; idmap: see idmaps.py; options: of a tmpfs.
    """

    kind: str
    destination: str
    source: str = ""
    name: str = ""
    mode: str = ""
    read_only: bool = False
    propagation: str = ""
    recursive: bool = True
    below: str = _BELOW_TOO
    copy: bool = False
    anonymous: bool = False
    subpath: str = ""
    idmap: str = ""
    options: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For a record; what is as it is by default is left out."""
        return {key: value for key, value in asdict(self).items() if value != _DEFAULTS.get(key)}

    @classmethod
    def of_dict(cls, found: Mapping[str, Any]) -> "MountPoint":
        return cls(**{**found, "options": tuple(found.get("options") or ())})

    @property
    def label(self) -> str:
        """How SELinux is to know it: 'z' (all containers share it), 'Z' (this one's alone) or ''."""
        return next((option for option in self.mode.split(",") if option in ("z", "Z")), "")


_DEFAULTS = {"source": "", "name": "", "mode": "", "read_only": False, "propagation": "", "recursive": True, "below": "", "copy": False,
             "anonymous": False, "subpath": "", "idmap": "", "options": ()}  # fmt: skip


def of_record(record: Record) -> list[MountPoint]:
    """The mounts of a container, as they were settled when it was made."""
    return [MountPoint.of_dict(found) for found in record.mounts or []]


def oci_mount(point: MountPoint, source: str) -> dict[str, Any]:
    """What the runtime mounts. source: the path where it finds what the mount shows."""
    if point.kind == TMPFS:
        return tmpfs(point.destination, [*point.options, *(["ro"] if point.read_only else [])])
    # Not "rw": what is read-only on the host stays so.
    access = ["ro"] if point.read_only else []
    # ro holds for the mounts beneath too, unless somebody says otherwise: a writable hole in a read-only bind helps nobody.
    if point.read_only and point.recursive and point.below != _BELOW_NOT:
        access.append("rro")
    return bind(source, point.destination, ["rbind" if point.recursive else "bind", point.propagation or "rprivate", *access])


def is_plain(point: MountPoint) -> bool:
    """Whether what it shows is a path of the host and no more."""
    peers = point.propagation.removeprefix("r") in ("shared", "slave")
    return not (point.kind == IMAGE or point.subpath or point.idmap or peers)


def source_of(
    point: MountPoint, at: str, path: str, layers: dict | None, user_of: Callable[[str], tuple[int, int]], id_maps: idmaps.Maps | None
) -> dict[str, Any]:
    """For a mount that is not plain: what the starter mounts at `at` (runtime/sources.py). user_of: see Mounting."""
    explicit = idmaps.explicit(point.idmap)
    seen: idmaps.Maps = ([], [])
    if point.idmap and not explicit:
        seen = idmaps.outside(idmaps.of_owner((0, 0), user_of("" if point.idmap == idmaps.OWNER else point.idmap)), id_maps)
    uids, gids = idmaps.outside(explicit, id_maps) if explicit else ([], [])
    return {
        "at": at, "path": path, "layers": layers, "subpath": point.subpath, "shown": point.name or point.source, "recursive": point.recursive,
        "seen": [ids[0]["hostID"] for ids in seen if ids], "uid_mappings": uids, "gid_mappings": gids,
        "propagation": {"shared": "shared", "slave": "slave"}.get(point.propagation.removeprefix("r"), ""),
        "discarded": point.kind == IMAGE and not point.read_only,
    }  # fmt: skip


def whole(path: str, at: str) -> dict[str, Any]:
    """For a path all of which is mounted as it is, as `source_of`."""
    return {
        "at": at, "path": path, "layers": None, "subpath": "", "shown": path, "recursive": True, "seen": [], "uid_mappings": [], "gid_mappings": [],
        "propagation": "", "discarded": False,
    }  # fmt: skip


def bind(source: str, destination: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": options}


def tmpfs(destination: str, given: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", *given]}


def payload(point: MountPoint, source: str) -> dict[str, Any]:
    """Docker's MountPoint. source: of a volume, where it is on the host."""
    named = {"Name": point.name} if point.kind in (VOLUME, IMAGE) else {}
    driver = {"Driver": "local"} if point.kind == VOLUME else {}
    return {
        "Type": point.kind, **named, "Source": source, "Destination": point.destination, **driver, "Mode": point.mode,
        "RW": not point.read_only, "Propagation": point.propagation,
    }  # fmt: skip
