"""Programs for another processor: whether the kernel hands them to an emulator, and what to install if it does not.

Source: https://docs.kernel.org/admin-guide/binfmt-misc.html
"""

import os
import re
import struct

from berth.oci import platforms
from berth.oci.platforms import Platform

HANDLERS = "/proc/sys/fs/binfmt_misc"
_LITTLE, _BIG = 1, 2
_BITS_32, _BITS_64 = 1, 2
# e_machine of elf.h, class and byte order, by architecture in Go's words
_MACHINES = {
    "386": (3, _BITS_32, _LITTLE), "amd64": (62, _BITS_64, _LITTLE), "arm": (40, _BITS_32, _LITTLE), "arm64": (183, _BITS_64, _LITTLE),
    "loong64": (258, _BITS_64, _LITTLE), "mips": (8, _BITS_32, _BIG), "mipsle": (8, _BITS_32, _LITTLE), "mips64": (8, _BITS_64, _BIG),
    "mips64le": (8, _BITS_64, _LITTLE), "ppc64": (21, _BITS_64, _BIG), "ppc64le": (21, _BITS_64, _LITTLE), "riscv64": (243, _BITS_64, _LITTLE),
    "s390x": (22, _BITS_64, _BIG),
}  # fmt: skip
_EXECUTABLE = 2


def is_foreign(platform: str, host: Platform | None = None) -> bool:
    """Whether this machine's processor cannot run it by itself; '' is its own."""
    return bool(platform) and platforms.rank(host or platforms.host(), platforms.parse(platform)) is None


def elf_head(architecture: str) -> bytes:
    """How an executable for it begins; b'' for one that is not known."""
    if architecture not in _MACHINES:
        return b""
    machine, bits, order = _MACHINES[architecture]
    return b"\x7fELF" + bytes((bits, order, 1)) + bytes(9) + struct.pack("<HH" if order == _LITTLE else ">HH", _EXECUTABLE, machine)


def problem(platform: str, directory: str = HANDLERS) -> str:
    """Why programs for a platform do not run here, in words that help; '' where a handler takes them, in containers too."""
    architecture = platforms.parse(platform).architecture
    head, flaw = elf_head(architecture), ""
    for fields in _handlers(directory):
        if head and _takes(fields, head):
            if "F" in fields.get("flags", ""):
                return ""
            flaw = f"; the handler that is there runs {fields.get('interpreter', '')}, which no container has: register it with the flag F"
    return (
        f"this machine ({platforms.host()}) cannot run programs for {platform}{flaw or ', and binfmt_misc knows no emulator for them'}: install Debian's "
        "packages qemu-user-static and binfmt-support, or leave the step to the machine's own processor with FROM --platform=$BUILDPLATFORM"
    )


def _handlers(directory: str) -> list[dict[str, str]]:
    found = []
    try:
        if "disabled" in _read(f"{directory}/status"):
            return []
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    for name in names:
        if name not in ("status", "register"):
            text = _read(f"{directory}/{name}")
            if text.startswith("enabled"):
                found.append({key: value.strip() for key, value in re.findall(r"^(\w+):? (.*)$", text, re.M)})
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(4096)
    except OSError:
        return ""


def _takes(fields: dict[str, str], head: bytes) -> bool:
    try:
        magic, mask, offset = bytes.fromhex(fields.get("magic", "")), bytes.fromhex(fields.get("mask", "")), int(fields.get("offset", "0"))
    except ValueError:
        return False
    part = head[offset : offset + len(magic)]
    mask = mask or b"\xff" * len(magic)
    return bool(magic) and len(part) == len(magic) and all(a & m == b & m for a, b, m in zip(part, magic, mask, strict=False))
