"""The flags of instructions, `COPY --link --chown=1:2`, in BuildKit's words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from berth.build.dockerfile.splitting import SplitError

BOOLEAN, TEXT, TEXTS = "boolean", "text", "texts"

KNOWN: Mapping[str, Mapping[str, str]] = {
    "FROM": {"platform": TEXT},
    "RUN": {"mount": TEXTS, "device": TEXTS, "network": TEXT, "security": TEXT},
    "COPY": {"from": TEXT, "chown": TEXT, "chmod": TEXT, "link": BOOLEAN, "parents": BOOLEAN, "exclude": TEXTS},
    "ADD": {
        "chown": TEXT, "chmod": TEXT, "link": BOOLEAN, "keep-git-dir": BOOLEAN, "checksum": TEXT, "unpack": BOOLEAN,
        "parents": BOOLEAN, "exclude": TEXTS,
    },
    "HEALTHCHECK": {"interval": TEXT, "timeout": TEXT, "start-period": TEXT, "start-interval": TEXT, "retries": TEXT},
}  # fmt: skip
BOOLEANS = ("true", "false")
UNCHECKED = ("ARG", "STOPSIGNAL")  # BuildKit never looks at theirs


class UnknownWord(SplitError):
    """`known`: among which the right word may be."""

    def __init__(self, reason: str, word: str, known: Sequence[str]) -> None:
        super().__init__(reason, word)
        self.known = tuple(known)


@dataclass(slots=True)
class Flags:
    """Without its value, a flag is '', None or empty, as its kind has it."""

    texts: dict[str, str] = field(default_factory=dict)
    booleans: dict[str, bool] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        return self.texts.get(name, default)

    def is_set(self, name: str) -> bool:
        return self.booleans.get(name, False)


def parse(given: Sequence[str], instruction: str) -> Flags:
    """SplitError names the flag that is wrong."""
    known = KNOWN.get(instruction, {})
    flags = Flags()
    if instruction in UNCHECKED:
        return flags
    for flag in given:
        shown, equals, value = flag.partition("=")
        name = shown[2:]
        kind = known.get(name)
        if kind is None:
            raise UnknownWord(f"unknown flag: {shown}", shown, [f"--{other}" for other in known])
        if name in flags.texts or name in flags.booleans:
            raise SplitError(f"duplicate flag specified: {shown}", shown)
        if (kind != BOOLEAN and not equals) or (kind == BOOLEAN and equals and not value):
            raise SplitError(f"missing a value on flag: {shown}", shown)
        if kind == BOOLEAN:
            flags.booleans[name] = _boolean(shown, value)
        elif kind == TEXT:
            flags.texts[name] = value
        else:
            flags.lists.setdefault(name, []).append(value)
    return flags


def _boolean(shown: str, value: str) -> bool:
    if value.lower() not in ("", "true", "false"):
        raise UnknownWord(f"expecting boolean value for flag {shown}, not: {value}", value, BOOLEANS)
    return value.lower() != "false"
