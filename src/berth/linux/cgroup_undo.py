"""Limits of a running group changed, all of them or none: what its files said before is written back."""

import os
import re

from berth.errors import BerthError, NotFound, SystemFailure
from berth.linux.cgroup_base import Cgroup, Setting, read_file

_DEVICE = re.compile(r"[0-9]+:[0-9]+")
_TURNS = 2  # one of a pair can be refused until the other is back


def change(group: Cgroup, resources: dict) -> list[Setting]:
    """Like `apply`, but all or nothing. Returns what `put_back` takes."""
    wanted = group.settings(resources)
    had = [(path, before(os.path.basename(path), value, read_file(path)), what) for path, value, what in reversed(wanted)]
    try:
        group.write(wanted)
    except BerthError:
        put_back(group, had)
        raise
    return had


def put_back(group: Cgroup, had: list[Setting]) -> None:
    """SystemFailure, after all else is back, with what the kernel does not take: a memory limit below what is in use by now."""
    refused: dict[Setting, BerthError] = {}
    for _ in range(_TURNS):
        refused = {setting: error for setting in (refused or had) if (error := _write(group, setting))}
        if not refused:
            return
    raise SystemFailure("; ".join(map(str, refused.values())))


def before(name: str, value: str, text: str) -> str:
    """What brings a file back to `text`, which it had, once `value` has been written to it. Pure."""
    lines, words = text.strip().splitlines(), value.split()
    if len(words) > 1:  # one line of several, by its first word
        for line in lines:
            if line.split()[:1] == words[:1]:
                return line
        if _DEVICE.fullmatch(words[0]):
            return f"{words[0]} {_unlimited(name, words[1:])}"
    return lines[0] if lines else "\n"


def _unlimited(name: str, words: list[str]) -> str:
    if name == "io.max":
        return " ".join(f"{word.partition('=')[0]}=max" for word in words)
    return "default" if name.startswith("io.") else "0"


def _write(group: Cgroup, setting: Setting) -> BerthError | None:
    try:
        group.write([setting])
    except NotFound:
        return None  # the group is gone, and limits nobody
    except BerthError as error:
        return error
    return None
