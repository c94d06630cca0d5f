"""The driver `local` with options: what is mounted at a volume's place while it is used, and limits of its size.

Options are those of mount(8), as Docker has them: type, device and o. An address in nfs's and cifs's `addr=` may be a
host's name. A limit is a project quota of the file system that the volumes are on (linux/quota.py).
"""

import os
import re
import socket

from berth import errors
from berth.engine.volumerecord import VolumeRecord
from berth.linux import libc, mount, quota

_BY_NAME = ("nfs", "nfs4", "cifs", "smb3")
_BUSY_FLAGS = 2  # MNT_DETACH: a program that lingers there must not keep the volume from being used again
_FIRST_PROJECT = 0x62657200  # "ber" and a byte: far from what people number by hand


def mount_once(record: VolumeRecord, at: str) -> None:
    """Mounts what the options say, unless that has been done."""
    if at in mount.mount_points():
        return
    kind, device = record.options.get("type", ""), record.options.get("device", "")
    parsed = mount.parse_options([option for option in record.options.get("o", "").split(",") if option])
    data = _with_addresses(parsed.data) if kind in _BY_NAME else parsed.data
    target = os.open(at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if parsed.flags & mount.MS_BIND:
            _bind(device, target, parsed)
        else:
            mount.mount_filesystem(target, kind, device, parsed.flags, data)
    except OSError as error:
        raise errors.SystemFailure(
            f"error while mounting volume '{at}': failed to mount local volume: mount {device}:{at}, "
            f"type: {kind or 'none'}, options: {record.options.get('o', '') or 'none'}: {os.strerror(error.errno or 0).lower()}"
        ) from None
    finally:
        os.close(target)


def _bind(device: str, target: int, options: mount.Options) -> None:
    source = os.open(device, os.O_PATH | os.O_CLOEXEC)
    try:
        tree = mount.clone_tree(source, recursive=bool(options.flags & mount.MS_REC))
    finally:
        os.close(source)
    try:
        set_, clear = mount.attribute_changes(options)
        mount.set_attributes(tree, set_=set_, clear=clear)
        mount.set_attributes(tree, set_=options.recursive_set, clear=options.recursive_clear, recursive=True)
        propagation = options.propagation or mount.MS_PRIVATE | mount.MS_REC  # a second copy must not follow the first by itself
        flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if propagation & mount.MS_REC else 0)
        libc.mount_setattr(tree, "", flags, propagation=propagation & ~mount.MS_REC)
        mount.attach(tree, target)
    finally:
        os.close(tree)


def _with_addresses(data: list[str]) -> list[str]:
    """`addr=NAME` -> `addr=ADDRESS`: the kernel looks nothing up."""
    found = []
    for option in data:
        name = option.removeprefix("addr=") if option.startswith("addr=") else ""
        if name and not re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]+", name):
            try:
                option = f"addr={socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]}"
            except OSError as error:
                raise errors.SystemFailure(f"error resolving passed in network volume address {name}: {error.strerror}") from None
        found.append(option)
    return found


def unmount(at: str) -> None:
    """Takes down what is mounted there, all of it."""
    while at in mount.mount_points():
        try:
            libc.umount2(at, _BUSY_FLAGS)
        except OSError as error:
            raise errors.SystemFailure(f"error while unmounting volume '{at}': {error}") from None


# -- limits ---------------------------------------------------------------------------------------------


def check_limit(record: VolumeRecord, top: str) -> None:
    """Refuses a size that nothing would hold to. top: the directory of all volumes."""
    if record.has_filesystem:
        raise errors.InvalidParameter(
            f"create {record.name}: quota size requested but no quota support: what is mounted there has a size of its own "
            "(for a tmpfs: o=size=…)"
        )
    if why := quota.why_not(top):
        raise errors.InvalidParameter(f"create {record.name}: quota size requested but no quota support: {why}")


def set_limit(record: VolumeRecord, path: str, top: str) -> None:
    """Of a volume's directory, before there is anything in it. Its project number is one that no other volume has: the directories are asked."""
    taken = {quota.project_of(f"{top}/{name}") for name in os.listdir(top)}
    number = next(n for n in range(_FIRST_PROJECT, _FIRST_PROJECT + len(taken) + 1) if n not in taken)
    try:
        quota.limit(path, number, record.size_bytes)
    except OSError as error:
        raise errors.SystemFailure(f"create {record.name}: the limit of its size cannot be set: {error}") from None
