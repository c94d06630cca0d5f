"""What the engine keeps of a volume; what names and options it may have, and how Docker's clients see it. Pure.

Source: Docker Engine API v1.51, Volume and VolumeCreateRequest; refusals checked against dockerd.
"""

import json
import re
import secrets
import time
from typing import Any

from berth.errors import InvalidParameter, NotFound

LOCAL = "local"  # the one driver
ANONYMOUS_LABEL = "com.docker.volume.anonymous"  # Docker's mark on those that nobody named
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MAX_NAME_BYTES = 255 - len(".removed.")  # it is a directory's, with what removing puts before it
_OPTIONS = ("type", "o", "device", "size")
_NEEDS = (("device", ("type",)), ("type", ("device",)), ("o", ("device", "type")))
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([kmgtp]?)i?b?", re.IGNORECASE)


class VolumeRecord:
    """One volume. labels, options: as given; created_ns: nanoseconds since the epoch."""

    def __init__(self, name: str, labels: dict[str, str], options: dict[str, str]) -> None:
        self.name = name
        self.labels = labels
        self.options = options
        self.created_ns = time.time_ns()

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS_LABEL in self.labels

    @property
    def has_filesystem(self) -> bool:
        """Whether something is mounted where its files are, as long as a container uses it."""
        return bool(self.options.get("device") or self.options.get("type"))

    @property
    def size_bytes(self) -> int:
        """The limit of its size; 0 for none."""
        return size_bytes(self.options.get("size", "0"))

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "VolumeRecord":
        record = cls.__new__(cls)
        record.__dict__.update(json.loads(text))
        return record


def new_name() -> str:
    """Of an anonymous volume: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def check_name(name: str) -> None:
    """InvalidParameter in Docker's words for what cannot be a volume's name."""
    if len(name) == 1:
        raise InvalidParameter(f"create {name}: volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
            "are allowed. If you intended to pass a host directory, use absolute path"
        )
    if len(name) > _MAX_NAME_BYTES:
        raise InvalidParameter(f"create {name[:40]}…: a volume's name has at most {_MAX_NAME_BYTES} characters, this one has {len(name)}")


def check_driver(name: str, driver: str) -> None:
    """NotFound in Docker's words: volume plugins are not there."""
    if driver not in ("", LOCAL):
        raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')


def check_options(name: str, options: dict[str, str]) -> None:
    """Options of the local driver; what they amount to, mounting shows."""
    for key in options:
        if key not in _OPTIONS:
            raise InvalidParameter(f'create {name}: invalid option: "{key}"')
    try:
        size_bytes(options.get("size", "0"))
    except InvalidParameter as error:
        raise InvalidParameter(f"create {name}: {error}") from None
    for key, needed in _NEEDS:
        for other in needed if key in options else ():
            if other not in options:
                raise InvalidParameter(f'create {name}: missing required option: "{other}"')
    if "\0" in "".join(options.values()):
        raise InvalidParameter(f"create {name}: an option has a zero byte in it")


def size_bytes(text: str) -> int:
    """`10m`, `1.5GiB` -> bytes, in powers of 1024, as Docker reads them."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def payload(record: VolumeRecord, mountpoint: str) -> dict[str, Any]:
    """Docker's Volume."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created_ns // 1_000_000_000))
    return {
        "CreatedAt": created, "Driver": LOCAL, "Labels": record.labels or None, "Mountpoint": mountpoint, "Name": record.name,
        "Options": record.options or None, "Scope": "local",
    }  # fmt: skip
