"""Lists of manifests before they are pushed, in Docker's own files, so that both command lines see the same ones.

    ~/.docker/manifests/<list>/<image>   {"Ref", "Descriptor": {..., "platform"}, "Raw": base64, "SchemaV2Manifest" or "OCIManifest"}

<list> and <image> are whole names with `:` written as `-` and `/` as `_`.
"""

import binascii
import os

from berth.cli.contextstore import write_files
from berth.cli.flags import Misuse
from berth.models.jsonlite import dumps_as_go, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Entry = dict[str, Any]

_MOST_BYTES = 16 << 20


def _file_name(name: str) -> str:
    return name.replace(":", "-").replace("/", "_")


class Store:
    """Of one configuration directory. Names are whole ones."""

    def __init__(self, config: str) -> None:
        self._top = f"{config}/manifests"

    def entries(self, name: str) -> "list[Entry]":
        """What a list has, in the order of the files' names; [] where there is none."""
        directory = f"{self._top}/{_file_name(name)}"
        if not os.path.isdir(directory):
            return []
        return [_read(f"{directory}/{file}") for file in sorted(os.listdir(directory)) if not file.startswith(".")]

    def get(self, name: str, image: str) -> "Entry | None":
        path = f"{self._top}/{_file_name(name)}/{_file_name(image)}"
        return _read(path) if os.path.exists(path) else None

    def put(self, name: str, image: str, entry: "Entry") -> None:
        write_files(f"{self._top}/{_file_name(name)}", {_file_name(image): dumps_as_go(entry).encode()})

    def remove(self, name: str) -> bool:
        """Whether there was such a list."""
        directory = f"{self._top}/{_file_name(name)}"
        if not os.path.isdir(directory):
            return False
        for file in os.listdir(directory):
            os.unlink(f"{directory}/{file}")
        os.rmdir(directory)
        return True


def _read(path: str) -> "Entry":
    with open(path) as file:
        text = file.read(_MOST_BYTES)
    try:
        entry = dict(loads(text))
        descriptor = entry["Descriptor"]
        if not isinstance(entry["Ref"], str) or not all(key in descriptor for key in ("mediaType", "digest", "size")):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise Misuse(f"{path} is no manifest; remove the list with berth manifest rm, and create it again") from None
    return entry


def raw_of(entry: "Entry") -> bytes:
    """The manifest's own bytes; Misuse if they are not those that the descriptor names."""
    import hashlib

    try:
        raw = binascii.a2b_base64(str(entry.get("Raw") or ""))
    except ValueError:
        raw = b""
    if f"sha256:{hashlib.sha256(raw).hexdigest()}" != entry["Descriptor"]["digest"]:
        raise Misuse(f"{entry['Ref']}: what is kept of it has not the digest {entry['Descriptor']['digest']}; create the list again")
    return raw
