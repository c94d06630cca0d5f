"""Platforms: `os/architecture[/variant]`, and which of an index's manifests is the one to run. Pure.

Source: containerd's platforms package as Docker uses it: arm falls back to older variants, amd64 to lower levels.
"""

import platform
import re

from berth.errors import InvalidParameter

_ARCHITECTURES = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i486": "386", "i586": "386", "i686": "386",
    "armhf": "arm", "armel": "arm", "armv6l": "arm", "armv7l": "arm", "armv8l": "arm", "ppc64el": "ppc64le",
}  # fmt: skip
_MACHINE_VARIANTS = {"armv6l": "v6", "armv7l": "v7", "armv8l": "v8", "armhf": "v7", "armel": "v6"}
SYSTEMS = {
    "linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "aix", "android", "wasip1", "dragonfly", "hurd", "illumos", "ios", "js",
    "plan9", "zos", "unknown",
}  # fmt: skip
KNOWN = {
    "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le", "mips64p32", "mips64p32le",
    "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm", "unknown",
}  # fmt: skip
ARCHITECTURES = frozenset(KNOWN | _ARCHITECTURES.keys())  # in all spellings
_PART = re.compile(r"[a-z0-9_.-]+")
_ARM64_AS_ARM = 8  # an arm64 machine knows the instructions of arm/v8 and before
_DEFAULT_VARIANT = {"arm": "v7", "arm64": "v8"}


class Platform:
    """os and architecture in Go's words; variant is '' where there is but one."""

    __slots__ = ("architecture", "os", "variant")

    def __init__(self, os: str, architecture: str, variant: str = "") -> None:
        self.os = os
        self.architecture = architecture
        self.variant = variant

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def as_json(self) -> dict[str, str]:
        """As a descriptor has it."""
        return {"architecture": self.architecture, "os": self.os, **({"variant": self.variant} if self.variant else {})}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Platform) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def normalize(os: str, architecture: str, variant: str = "") -> Platform:
    """The one spelling of a platform: aarch64 -> arm64, arm64/v8 -> arm64, arm -> arm/v7."""
    os, architecture, variant = os.lower() or "linux", architecture.lower(), variant.lower()
    os = "darwin" if os == "macos" else os
    variant = variant or _MACHINE_VARIANTS.get(architecture, "")
    architecture = _ARCHITECTURES.get(architecture, architecture)
    if architecture == "arm":
        variant = variant or "v7"
        variant = variant if variant.startswith("v") else f"v{variant}"
    if (architecture, variant) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
        variant = ""
    return Platform(os, architecture, variant)


def parse(text: str) -> Platform:
    """`linux/arm64/v8`, `linux/amd64`, `arm64`, `linux`; InvalidParameter otherwise."""
    parts = text.lower().split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidParameter(f"{text!r} is not a platform: give os/architecture or os/architecture/variant, e.g. linux/arm64")
    if len(parts) > 1:
        return normalize(*parts)
    word = parts[0]
    if word in SYSTEMS:
        return normalize(word, host().architecture, host().variant)
    if _ARCHITECTURES.get(word, word) in KNOWN:
        return normalize("linux", word)
    raise InvalidParameter(f"{text!r}: unknown operating system or architecture; give os/architecture, e.g. linux/arm64")


def host() -> Platform:
    """Of the machine this runs on."""
    return normalize("linux", platform.machine())


def of_document(value: object) -> Platform | None:
    """A descriptor's `platform`, or the same fields of an image's configuration; None where they are missing."""
    if not isinstance(value, dict) or not isinstance(value.get("architecture"), str) or not value["architecture"]:
        return None
    os, variant = value.get("os"), value.get("variant")
    return normalize(os if isinstance(os, str) else "linux", value["architecture"], variant if isinstance(variant, str) else "")


def rank(wanted: Platform, offered: Platform) -> int | None:
    """How well `offered` serves one who wants `wanted`: 0 is exact, larger is worse, None not at all."""
    if wanted == offered:
        return 0
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return _as_32_bits(wanted, offered)
    have, want = _level(offered), _level(wanted)
    return want - have if have is not None and want is not None and have <= want else None


def _as_32_bits(wanted: Platform, offered: Platform) -> int | None:
    """An arm64 machine runs programs for arm, an amd64 one those for 386, where nothing better is offered."""
    if wanted.os != offered.os:
        return None
    if (wanted.architecture, offered.architecture) == ("arm64", "arm"):
        level = _level(offered)
        return 1000 - level if level is not None and level <= _ARM64_AS_ARM else None
    return 1000 if (wanted.architecture, offered.architecture) == ("amd64", "386") else None


def _level(value: Platform) -> int | None:
    digits = (value.variant or _DEFAULT_VARIANT.get(value.architecture, "v1")).removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else None


def choose(wanted: Platform, offered: list[Platform | None]) -> int | None:
    """Index of the best one offered, the first among equals; None where none fits."""
    ranked = [(worth, index) for index, one in enumerate(offered) if one and (worth := rank(wanted, one)) is not None]
    return min(ranked)[1] if ranked else None
