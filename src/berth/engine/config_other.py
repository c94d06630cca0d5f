"""Keys of dockerd's daemon.json that change nothing here, and those that berth refuses because nothing would be worse.

A key goes to IDLE where berth lacks what it is about, so that leaving it aside lets nobody in and loses
nothing: its value is checked and a word said. What keeps somebody out or somewhere is REFUSED. Whoever
gives berth the thing moves the key to config.KEYS.
"""

from typing import Any

from berth.engine import config_values as check
from berth.engine.config_values import Check, Mistake

_RULES = "berth's rules are a table of its own in nftables, which touches nobody else's; see published-ports"
_SWARM = "berth is in no swarm"
_CONTAINERD = "berth runs containers without containerd"

IDLE: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(("allow-direct-routing", "ip6tables", "iptables"), (check.boolean, _RULES)),
    **dict.fromkeys(("bridge-accept-fwmark", "firewall-backend"), (check.string, _RULES)),
    "userland-proxy-path": (check.string, "what berth relays it relays itself"),
    **dict.fromkeys(("network-control-plane-mtu", "network-diagnostic-port"), (check.whole_number, _SWARM)),
    "cdi-spec-dirs": (check.strings, "berth has no CDI devices"),
    "node-generic-resources": (check.strings, _SWARM), "swarm-default-advertise-addr": (check.string, _SWARM),
    **dict.fromkeys(
        ("containerd", "containerd-namespace", "containerd-plugin-namespace", "containerd-plugins-namespace"), (check.string, _CONTAINERD)
    ),
    "cri-containerd": (check.boolean, _CONTAINERD),
    "features": (check.an_object, "berth has none of dockerd's features to switch"),
    "min-api-version": (check.string, "berth serves every version from 1.22"),
    "raw-logs": (check.boolean, "berth's log has full times and no colours anyway"),
}  # fmt: skip

REFUSED: dict[str, str] = {
    "authorization-plugins": "berth has no authorization plugins, and whom they keep out would come in",
    "selinux-enabled": "berth gives containers a label where --security-opt label=... asks for one, and no other",
    "storage-opts": "berth's storage has no options, and a limit that is not kept would not be noticed",
    "oom-score-adjust": "say OOMScoreAdjust= in the engine's systemd unit instead",
    "cpu-rt-period": "berth sets no real-time limits for all containers together",
    "cpu-rt-runtime": "berth sets no real-time limits for all containers together",
    "rootless": "this version of berth runs as root",
    "api-cors-header": "Docker has removed it too; put a proxy in front of the engine",
    "graph": "Docker has removed it too; use data-root",
    "cluster-store": "Docker has removed it too", "cluster-store-opts": "Docker has removed it too",
    "cluster-advertise": "Docker has removed it too", "disable-legacy-registry": "Docker has removed it too",
}  # fmt: skip


def _refused(words: str) -> Check:
    def check_(value: object) -> None:
        if value not in (False, 0, "", [], {}, None):
            raise Mistake(f"is not honoured: {words}")

    return check_


CHECKS: dict[str, Check] = {key: entry[0] for key, entry in IDLE.items()} | {key: _refused(words) for key, words in REFUSED.items()}


def flag_kind(key: str) -> str:
    """How the command line reads it, see cli.flags."""
    if key in IDLE:
        kinds: dict[Check, str] = {check.boolean: "bool", check.whole_number: "int"}
        lists = (check.strings, check.addresses, check.a_list, check.an_object)
        return "list" if IDLE[key][0] in lists else kinds.get(IDLE[key][0], "string")
    return {"authorization-plugins": "list", "storage-opts": "list", "selinux-enabled": "bool", "rootless": "bool"}.get(
        key, "int" if key.startswith(("cpu-rt-", "oom-")) else "string"
    )


def notes(settings: dict[str, Any]) -> list[str]:
    """What to tell whoever wrote keys that change nothing."""
    return [f"{key} has no effect: {IDLE[key][1]}" for key in settings if key in IDLE]
