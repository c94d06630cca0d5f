"""What images, their names and their layers are called; and a configuration checked for what names need. Pure."""

import hashlib
import json

from berth.errors import DataLoss, InvalidParameter
from berth.oci import digest, reference


def chain_id(parent: str, diff: str) -> str:
    """OCI image specification, config.md#layer-chainid."""
    return diff if not parent else f"sha256:{hashlib.sha256(f'{parent} {diff}'.encode()).hexdigest()}"


def checked_config(raw: bytes) -> dict:
    """An image's configuration; DataLoss if it is none."""
    try:
        config = json.loads(raw)
        diffs = config["rootfs"]["diff_ids"]
        good = isinstance(diffs, list) and all(isinstance(d, str) and digest.is_sha256(d) for d in diffs)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise DataLoss("the image's configuration is not JSON with a list of sha256 digests at rootfs.diff_ids")
    return dict(config)


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
