"""What daemon.json says of builds, under `builder`: how much their cache may take, and what steps may ask for. Pure.

    {"builder": {"gc": {"enabled": true, "defaultKeepStorage": "20GB"}, "entitlements": {"network-host": true, "security-insecure": false,
     "device": false}}}
"""

from dataclasses import dataclass
from typing import Any

from berth.engine import config_values as check
from berth.engine.config_values import Mistake

SHARE_OF_DISK = 0.1  # what the cache may take where nobody says, as with BuildKit
_SIZES = ("defaultMaxUsedSpace", "defaultKeepStorage", "defaultReservedSpace")


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """cache_bytes: how much is kept, 0 for SHARE_OF_DISK, None for all; host_network, insecure, device: whether a step may have it."""

    cache_bytes: int | None = 0
    host_network: bool = True
    insecure: bool = False
    device: bool = False


def settings(value: object) -> BuildSettings:
    """The value of `builder`; Mistake for what is none."""
    given = check.an_object(value)
    if unknown := set(given) - {"gc", "entitlements", "history"}:
        raise Mistake(f"has an unknown key: {sorted(unknown)[0]}; known are gc, entitlements, history")
    collect = _object(given, "gc")
    if unknown := set(collect) - {"enabled", "policy", "defaultMinFreeSpace", *_SIZES}:
        raise Mistake(f"gc has an unknown key: {sorted(unknown)[0]}")
    allowed = _object(given, "entitlements")
    if unknown := set(allowed) - {"network-host", "security-insecure", "device"}:
        raise Mistake(f"entitlements has an unknown key: {sorted(unknown)[0]}")
    kept: int | None = None if collect.get("enabled") is False else 0
    if kept is not None:
        kept = next((check.size_bytes(collect[name]) for name in _SIZES if collect.get(name)), 0)
    return BuildSettings(
        kept, host_network=check.boolean(allowed.get("network-host", True)), insecure=check.boolean(allowed.get("security-insecure", False)),
        device=check.boolean(allowed.get("device", False)),
    )


def _object(given: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(check.an_object(given.get(name) or {}))
