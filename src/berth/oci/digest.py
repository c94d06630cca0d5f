"""Digests: `sha256:…`, which berth computes, and `sha512:…`, which a registry may name things by. Pure.

Source: OCI image specification 1.1, descriptor.md#registered-algorithms.
"""

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_KNOWN = re.compile(rf"{_SHA256.pattern}|sha512:[0-9a-f]{{128}}")


def is_sha256(text: str) -> bool:
    """Whether `text` is a whole sha256 digest."""
    return bool(_SHA256.fullmatch(text))


def is_known(text: str) -> bool:
    """Whether `text` is a whole digest that can be compared."""
    return bool(_KNOWN.fullmatch(text))


def hasher(digest: str) -> "hashlib._Hash":
    """A new one of the algorithm of a known digest."""
    import hashlib  # not for every command line that reads a name

    return hashlib.new(digest.partition(":")[0])


def of(data: bytes, like: str = "sha256:") -> str:
    """The digest of these bytes, by the algorithm of another one."""
    found = hasher(like)
    found.update(data)
    return text_of(found)


def text_of(found: "hashlib._Hash") -> str:
    """What has been hashed, as a digest."""
    return f"{found.name}:{found.hexdigest()}"


def hexadecimal(digest: str) -> str:
    """Without the algorithm, as files are named: of different algorithms it is of different length."""
    return digest.rpartition(":")[2]
