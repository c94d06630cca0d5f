"""Image references: `[registry/]repository[:tag][@digest]`. Pure.

Source: distribution/reference grammar. Names are kept in their familiar form, as Docker shows them:
`debian:latest` stands for docker.io/library/debian:latest.
"""

import re

from berth.errors import InvalidParameter
from berth.oci import digest as digests

_DEFAULT_REGISTRY, _LEGACY_REGISTRY, _OFFICIAL = "docker.io", "index.docker.io", "library/"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"  # labels need the dot between them, or matching takes exponential time
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_MAX_NAME_CHARACTERS = 255


class Reference:
    """registry and repository are full names; tag or digest may be ''."""

    __slots__ = ("digest", "registry", "repository", "tag")

    def __init__(self, registry: str, repository: str, tag: str, digest: str) -> None:
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest

    @property
    def familiar_name(self) -> str:
        """The name without tag, as people write it."""
        if self.registry != _DEFAULT_REGISTRY:
            return f"{self.registry}/{self.repository}"
        return self.repository.removeprefix(_OFFICIAL)

    @property
    def familiar(self) -> str:
        """Name with tag or digest, as people write it."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.familiar_name}{tag}{f'@{self.digest}' if self.digest else ''}"


def parse(text: str, *, default_tag: str = "latest") -> Reference:
    """Reads a reference; `default_tag` is used where neither tag nor digest is given.

    Raises InvalidParameter("invalid reference format...") as Docker words it.
    """
    rest, at, digest = text.partition("@")
    if at and not digests.is_known(digest):
        raise _invalid(text, f"{digest!r} is not a sha256 or sha512 digest")
    head, slash, tail = rest.rpartition("/")
    name, colon, tag = tail.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag")
    registry, repository = _split(f"{head}{slash}{name}")
    if not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f"{registry!r} is not the name of a registry")
    if not _REPOSITORY.fullmatch(repository):
        if _REPOSITORY.fullmatch(repository.lower()):
            raise InvalidParameter(f"invalid reference format: repository name ({repository}) must be lowercase")
        raise _invalid(text, f"{repository!r} is not the name of a repository")
    if len(repository) > _MAX_NAME_CHARACTERS:
        raise _invalid(text, f"the name is longer than {_MAX_NAME_CHARACTERS} characters")
    return Reference(registry, repository, tag or ("" if digest else default_tag), digest)


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or ("." not in first and ":" not in first and first != "localhost" and first == first.lower()):
        registry, repository = _DEFAULT_REGISTRY, name
    else:
        registry, repository = first, rest
    if registry == _LEGACY_REGISTRY:
        registry = _DEFAULT_REGISTRY
    if registry == _DEFAULT_REGISTRY and "/" not in repository:
        repository = _OFFICIAL + repository
    return registry, repository


def _invalid(text: str, reason: str) -> InvalidParameter:
    return InvalidParameter(f"invalid reference format: {text!r}: {reason}")


def is_image_id(text: str) -> bool:
    """Whether `text` can be (the start of) an image id, with or without `sha256:`."""
    return bool(re.fullmatch(r"(sha256:)?[0-9a-f]{1,64}", text))
