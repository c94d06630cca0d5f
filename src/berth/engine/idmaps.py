"""Whose files a mount shows as whose: `idmap` of a bind mount or volume. Pure.

    idmap, idmap=owner      the owner of the source is the container's user in the container
    idmap=NAME, idmap=ID    ... is that user of the container
    idmap=uids=0-1000-1#1-2000-9;gids=0-1000-1
                            explicit, as crun has it: ranges FIRST-SEEN-SIZE, ids of the file system from FIRST on are
                            seen as ids from SEEN on, by number

In the first three exactly one user and one group are mapped: whatever is written belongs to the source's owner, and
nobody else's files can be made there.
"""

import re
from itertools import pairwise
from typing import Any

from berth.errors import InvalidParameter

OWNER = "owner"
_USER = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}\$?")
_RANGE = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,10})")
_MAX_IDS = (1 << 32) - 1
_MOST_RANGES = 340  # as the kernel, user_namespaces(7)
Maps = tuple[list[dict[str, int]], list[dict[str, int]]]


def of_options(options: list[str]) -> str:
    """Of `-v`: the checked text, or ''."""
    for option in options:
        if option == "idmap":
            return OWNER
        if option.startswith("idmap="):
            return checked(option.removeprefix("idmap="))
    return ""


def checked(text: str) -> str:
    """The same text; InvalidParameter for what is none of the four."""
    if text.startswith(("uids=", "gids=")):
        explicit(text)
    elif text and not _USER.fullmatch(text):
        raise InvalidParameter(
            f"invalid idmap: {text!r}: expected owner, a user of the container, or uids=FIRST-SEEN-SIZE;gids=FIRST-SEEN-SIZE"
        )
    return text


def explicit(text: str) -> Maps | None:
    """The maps that a text spells out; None for one that names a user."""
    if not text.startswith(("uids=", "gids=")):
        return None
    found: dict[str, list[dict[str, int]]] = {}
    for part in text.split(";"):
        name, _, ranges = part.partition("=")
        if name not in ("uids", "gids") or name in found:
            raise InvalidParameter(f"invalid idmap: {part!r} in {text!r} is not uids=FIRST-SEEN-SIZE or gids=FIRST-SEEN-SIZE")
        found[name] = [_range(one, text) for one in ranges.split("#")]
        if len(found[name]) > _MOST_RANGES:
            raise InvalidParameter(f"invalid idmap: {name} has {len(found[name])} ranges; the kernel takes {_MOST_RANGES}")
        for key in ("containerID", "hostID"):
            _refuse_overlap(name, found[name], key)
    if set(found) != {"uids", "gids"}:
        raise InvalidParameter(f"invalid idmap: expected both uids= and gids=, got {text!r}")
    return found["uids"], found["gids"]


def _range(text: str, whole: str) -> dict[str, int]:
    match = _RANGE.fullmatch(text)
    if not match:
        raise InvalidParameter(f"invalid idmap: {text!r} in {whole!r} is not FIRST-SEEN-SIZE, three numbers")
    first, seen, size = (int(number) for number in match.groups())
    if not size or max(first, seen) + size > _MAX_IDS:
        raise InvalidParameter(f"invalid idmap: {text!r} in {whole!r}: ids are below {_MAX_IDS}, and a range has one at least")
    return {"containerID": first, "hostID": seen, "size": size}


def _refuse_overlap(name: str, ranges: list[dict[str, int]], key: str) -> None:
    ordered = sorted(ranges, key=lambda entry: entry[key])
    for before, after in pairwise(ordered):
        if before[key] + before["size"] > after[key]:
            raise InvalidParameter(f"invalid idmap: {name}: two ranges have the id {after[key]} in common")


def of_owner(owner: tuple[int, int], seen: tuple[int, int]) -> Maps:
    """One user and one group. owner: of the source; seen: who that is in the container."""
    uids, gids = ([{"containerID": inside, "hostID": outside, "size": 1}] for inside, outside in zip(owner, seen, strict=True))
    return uids, gids


def unchanged(container: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> str:
    """The text for a mount whose files have, in a container of that user namespace, the ids that they have on disk."""
    uids, gids = ("#".join(f"{entry['containerID']}-{entry['containerID']}-{entry['size']}" for entry in own) for own in container)
    return f"uids={uids};gids={gids}"


def outside(maps: Maps, container: tuple[list[dict[str, Any]], list[dict[str, Any]]] | None) -> Maps:
    """What the kernel takes, which counts in ids of the host: those seen are the container's, in its user namespace if it has one."""
    if not container:
        return maps
    uids, gids = (_shifted(ranges, own) for ranges, own in zip(maps, container, strict=True))
    return uids, gids


def _shifted(ranges: list[dict[str, int]], own: list[dict[str, Any]]) -> list[dict[str, int]]:
    found = []
    for entry in ranges:
        last = entry["hostID"] + entry["size"]
        inside = next((m for m in own if m["containerID"] <= entry["hostID"] and last <= m["containerID"] + m["size"]), None)
        if inside is None:
            raise InvalidParameter(f"invalid idmap: the container's user namespace has no ids {entry['hostID']} to {last - 1}")
        found.append({**entry, "hostID": entry["hostID"] + inside["hostID"] - inside["containerID"]})
    return found
