"""Names of images that are right at a glance: `re`, which reads the others, takes 5 ms to import. Pure."""

_MAX_CHARACTERS = 128


def is_plain(text: str) -> bool:
    """True only for what oci/reference.py accepts: repository and tag of letters and digits, with `-` between them."""
    name, colon, tag = text.partition(":")
    if not text.isascii() or len(text) > _MAX_CHARACTERS or name != name.lower() or (colon and not tag.replace(".", "").replace("-", "").isalnum()):
        return False
    return tag[:1] not in (".", "-") and all(_is_word(part) for part in name.split("/"))


def _is_word(text: str) -> bool:
    return text[:1].isalnum() and text[-1:].isalnum() and text.replace("-", "").isalnum()
