"""What the store knows of an image in memory, and the statements that keep it in the database."""

from collections.abc import Sequence
from contextlib import suppress

from berth.errors import DataLoss
from berth.oci import reference
from berth.store.database import Statement
from berth.store.naming import checked_config


class Layer:
    """chain: identifies the layer with all below it; diff: digest of its tar; size_bytes: of its files."""

    __slots__ = ("chain", "diff", "parent", "size_bytes")

    def __init__(self, chain: str, diff: str, parent: str, size_bytes: int) -> None:
        self.chain = chain
        self.diff = diff
        self.parent = parent
        self.size_bytes = size_bytes


class Source:
    """A compressed form of a layer that a registry has: so a push need not send it."""

    __slots__ = ("diff", "digest", "media_type", "repository", "size_bytes")

    def __init__(self, diff: str, repository: str, digest: str, size_bytes: int, media_type: str) -> None:
        self.diff = diff
        self.repository = repository  # with its registry, in full
        self.digest = digest
        self.size_bytes = size_bytes
        self.media_type = media_type

    def is_same(self, other: "Source | None") -> bool:
        return other is not None and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)


class Image:
    """config: the parsed configuration, {} where an older berth took one that is none; raw: its bytes, whose digest is `id`; chain: of the
    top layer or ''."""

    __slots__ = ("chain", "config", "id", "raw")

    def __init__(self, identity: str, raw: bytes, chain: str) -> None:
        self.id = identity
        self.raw = raw
        self.chain = chain
        self.config: dict = {}
        with suppress(DataLoss):
            self.config = checked_config(raw)


class Lower:
    """An image's layers as overlayfs takes them. directories: topmost first; data, options: see linux/overlay.py."""

    __slots__ = ("data", "directories", "options")

    def __init__(self, directories: list[str], data: str, options: list[str]) -> None:
        self.directories = directories
        self.data = data
        self.options = options

    def below(self, upper: str) -> "Lower":
        """With one more directory on top."""
        return Lower([upper, *self.directories], self.data, self.options)

    def fields(self) -> dict:
        """What `mount_root` of the runtime is told of them."""
        return {"lower": self.directories, "data": self.data, "options": self.options}


def full_name(name: str) -> str:
    parsed = reference.parse(name)
    return f"{parsed.registry}/{parsed.repository}:{parsed.tag}"


def untag_statements(names: list[str]) -> list[Statement]:
    found: list[Statement] = []
    for name in names:
        repository, at, digest = name.partition("@")
        if at:
            found.append(("DELETE FROM digests WHERE name = ? AND digest = ?", (repository, digest)))
        else:
            found.append(("DELETE FROM tags WHERE name = ?", (name,)))
    return found


def digest_statements(digests: Sequence[tuple[str, str]], identity: str) -> list[Statement]:
    return [("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (name, digest, identity)) for name, digest in digests]


def source_statements(sources: Sequence[Source]) -> list[Statement]:
    return [
        ("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?)", (s.diff, s.repository, s.digest, s.size_bytes, s.media_type))
        for s in sources
    ]


def repository_of(name: str) -> str:
    parsed = reference.parse(name)
    return parsed.familiar_name


def tag_statements(names: list[str], identity: str, now_ns: int) -> list[Statement]:
    statements: list[Statement] = [("INSERT OR REPLACE INTO tags VALUES (?, ?)", (name, identity)) for name in names]
    return [*statements, ("INSERT OR REPLACE INTO tagged VALUES (?, ?)", (identity, now_ns))] if names else []


def short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:12]
