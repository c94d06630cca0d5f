"""What images, their names and their layers are called; and a configuration checked for what names need. Pure."""

import hashlib
import json
from typing import Any

from berth.errors import DataLoss, InvalidParameter
from berth.models.shapes import CONFIG, Shape, shaped
from berth.oci import digest, reference

EMPTY_TAR = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"  # the diff id of no files: 1024 zero bytes
_HISTORY = {"created": str, "created_by": str, "author": str, "comment": str, "empty_layer": bool}
_CONFIGURATION: Shape = {  # OCI image specification, config.md, and what Docker adds
    "architecture": str, "os": str, "variant": str, "os.version": str, "os.features": [str], "created": str, "author": str, "comment": str,
    "docker_version": str, "config": CONFIG, "rootfs": {"type": str, "diff_ids": [str]}, "history": [_HISTORY],
}  # fmt: skip


def chain_id(parent: str, diff: str) -> str:
    """OCI image specification, config.md#layer-chainid."""
    return diff if not parent else f"sha256:{hashlib.sha256(f'{parent} {diff}'.encode()).hexdigest()}"


def checked_config(raw: bytes) -> dict:
    """An image's configuration, every known field of its type and without nulls; DataLoss if it is none."""
    try:
        value = json.loads(raw)
        if b"\\ud" in raw.lower():
            value = _whole(value)
        if not isinstance(value, dict):
            raise InvalidParameter("it is no object")
        config = shaped(value, _CONFIGURATION)
    except InvalidParameter as error:
        raise DataLoss(f"the image's configuration is wrong: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"the image's configuration is no JSON: {str(error) or 'it is nested too deeply'}") from None
    diffs = config.get("rootfs", {}).get("diff_ids")
    if diffs is None or not all(digest.is_sha256(diff) for diff in diffs):
        raise DataLoss("the image's configuration has no list of sha256 digests at rootfs.diff_ids")
    return config


def _whole(value: Any) -> Any:
    """Half characters (`\\ud800` alone) become U+FFFD, as Go reads them: no string with one can be written anywhere."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {_whole(key): _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def tag_name(name: str) -> str:
    """The familiar form of a name to give; InvalidParameter for one with a digest."""
    parsed = reference.parse(name)
    if parsed.digest:
        raise InvalidParameter(f"refusing to create a tag with a digest reference: {name!r}")
    if parsed.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return parsed.familiar


def familiar(text: str) -> str:
    """A reference as people write it; '' for what is none."""
    try:
        return reference.parse(text).familiar
    except InvalidParameter:
        return ""
