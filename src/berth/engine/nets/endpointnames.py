"""What a container's record says of its networks. Pure."""

from typing import Any

from berth.engine.nets import records as netrecords
from berth.engine.nets.records import NetworkRecord
from berth.engine.state import Record


def mode_of(host: dict[str, Any]) -> str:
    """The network that `--network` names; Docker's clients say `default` for the default bridge."""
    mode: str = host.get("NetworkMode") or "default"
    return netrecords.BRIDGE if mode == "default" else mode


def has_own_namespace(record: Record) -> bool:
    """Whether it is in networks at all, and not in the host's namespace or another container's."""
    mode = mode_of(record.host)
    return mode not in (netrecords.HOST, netrecords.NONE) and not mode.startswith("container:")


def endpoints_of(record: Record) -> dict[str, dict[str, Any]]:
    """Network name -> {settings, network_id, live}; of a record from before there were networks, too."""
    if record.endpoints is not None:
        return record.endpoints
    if mode_of(record.host).startswith("container:"):
        return {}
    return {mode_of(record.host): {"settings": {}, "network_id": "", "live": None}}


def dns_names(record: Record, network: NetworkRecord, settings: dict[str, Any]) -> list[str]:
    """By which others in the network find it, in Docker's order; nothing on the default bridge."""
    if not network.is_user_defined:
        return []
    names = [record.name, *(settings.get("Aliases") or []), record.id[:12]]
    if record.config.get("Hostname"):
        names.append(record.config["Hostname"])
    return list(dict.fromkeys(names))


def may_change_itself(record: Record) -> bool:
    """Whether its root has rights over its network: then what is missing there may be missing on purpose."""
    added = {str(name).upper().removeprefix("CAP_") for name in record.host.get("CapAdd") or []}
    return bool(record.host.get("Privileged")) or bool(added & {"ALL", "NET_ADMIN"})
