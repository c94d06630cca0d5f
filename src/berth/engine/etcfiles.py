"""A container's hostname, hosts and resolv.conf: where the facts for their texts (network/etcfiles.py) come from, and how they are written.

hosts is made anew with each start, as addresses are; hostname and a resolv.conf that somebody has edited stay.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_interface
from typing import Any

from berth import errors
from berth.engine.nets import linkenv
from berth.engine.nets import ports as netports
from berth.engine.nets.endpoint import link
from berth.engine.nets.endpointnames import endpoints_of, mode_of
from berth.engine.nets.records import BRIDGE, HOST, NetworkRecord
from berth.engine.state import Record
from berth.network import etcfiles
from berth.network.etcfiles import ResolvConf, Wishes

Place = tuple[NetworkRecord, dict[str, Any], dict[str, Any]]  # network, settings, live, as a record keeps them

FILES = ("hostname", "hosts", "resolv.conf")
_MADE, _NEXT = "resolv.conf.made", "resolv.conf.next"  # what stands in resolv.conf unless somebody has edited it; the latter while it is made


def write(
    record: Record, directory: str, owner: Sequence[int], places: Sequence[Place], *, gateways: Sequence[str], find: Callable[[str], Record]
) -> None:  # fmt: skip
    """Before a start. owner: the host's ids of the container's root, who may edit them; gateways: what host-gateway stands for;
    find: the container that an id or a name means, as links have it; NotFound."""
    check_links(record, find)
    host_name = record.config.get("Hostname") or ""
    if not os.path.exists(f"{directory}/hostname"):
        _write(f"{directory}/hostname", f"{host_name}\n", owner)
    if places or not os.path.exists(f"{directory}/hosts"):
        _write(f"{directory}/hosts", _hosts(record, places, gateways, find), owner)
    if not _is_edited(directory):
        _remake(directory, _resolv_conf(record, places), lambda path, text: _write(path, text, owner))


def change(record: Record, directory: str, places: Sequence[Place], *, gone: Sequence[str], have: Sequence[str]) -> None:
    """Networks of a running container have changed. The files are what is mounted there: they stay the same ones.

    gone: addresses that it had; have: those that it has, of which hosts gets the lines that it lacks.
    """
    names = etcfiles.own_names(record.config.get("Hostname") or "", record.config.get("Domainname") or "")
    text = read(f"{directory}/hosts")
    there = {line.split()[0] for line in text.splitlines() if line.split()} - set(gone)
    come = [(address, names) for address in have if address not in there]
    _write_in_place(f"{directory}/hosts", etcfiles.changed_hosts(text, gone=gone, come=come))
    if not _is_edited(directory):
        _remake(directory, _resolv_conf(record, places), _write_in_place)


def follow(record: Record, directory: str, other: Record, find: Callable[[str], Record]) -> None:
    """A container that this running one may be linked to has started again, maybe at another address."""
    text = read(f"{directory}/hosts")
    moved = text
    for alias, linked, addresses in _linked(record, find):
        if linked.id == other.id:
            moved = etcfiles.moved_hosts(moved, alias, addresses)
    if moved != text:
        _write_in_place(f"{directory}/hosts", moved)


def _hosts(record: Record, places: Sequence[Place], gateways: Sequence[str], find: Callable[[str], Record]) -> str:
    extra = etcfiles.extra_hosts(record.host.get("ExtraHosts") or [], gateways)
    if mode_of(record.host) == HOST and (text := read("/etc/hosts")):
        return text + "".join(f"{address}\t{name}\n" for address, name in extra)
    names = etcfiles.own_names(record.config.get("Hostname") or "", record.config.get("Domainname") or "")
    own = [(str(ip_interface(text).ip), names) for _, _, live in places for text in live["addresses"]]
    return etcfiles.hosts(extra=extra, links=_links(record, find), own=own)


def _links(record: Record, find: Callable[[str], Record]) -> list[tuple[str, str]]:
    """`--link` on the default bridge: the other container's addresses there, with the alias and its own names."""
    found = []
    for alias, other, addresses in _linked(record, find):
        names = dict.fromkeys((alias, other.config.get("Hostname") or other.id[:12], other.name))
        found += [(address, " ".join(names)) for address in addresses]
    return found


def _linked(record: Record, find: Callable[[str], Record]) -> Iterator[tuple[str, Record, list[str]]]:
    """Alias, other container and its addresses, of all links on the default bridge."""
    if not _on_bridge(record):
        return
    for text in record.host.get("Links") or []:
        name, alias = link(text)
        other = find(name)
        yield alias, other, [str(ip_interface(address).ip) for address in _on_bridge(other)]


def _on_bridge(record: Record) -> list[str]:
    """Its addresses there."""
    live = (endpoints_of(record).get(BRIDGE) or {}).get("live") or {}
    return list(live.get("addresses", ()))


def link_variables(record: Record, find: Callable[[str], Record]) -> list[str]:
    """What the environment says of linked containers."""
    found: list[str] = []
    for alias, other, addresses in _linked(record, find):
        if not addresses:  # `check_links` says what is wrong
            continue
        ports = netports.exposed(other.config.get("ExposedPorts") or {})
        found += linkenv.variables(f"/{record.name}/{alias}", addresses[0], ports, other.config.get("Env") or [])
    return found


def check_links(record: Record, find: Callable[[str], Record]) -> None:
    """Docker starts nothing that is linked to what does not run, or is not beside it."""
    for text in record.host.get("Links") or []:
        other = find(link(text)[0])
        if other.running and _on_bridge(record) and not _on_bridge(other):
            raise errors.Conflict(f"Cannot link to /{other.name}, as it does not belong to the default network")
        if not other.running:
            raise errors.Conflict(f"Cannot link to a non running container: /{other.name} AS /{record.name}/{link(text)[1]}")


def _resolv_conf(record: Record, places: Sequence[Place]) -> str:
    wishes = Wishes(*(tuple(record.host.get(key) or ()) for key in ("Dns", "DnsSearch", "DnsOptions")))
    text = read(etcfiles.HOST_FILE)
    if mode_of(record.host) == HOST:
        return etcfiles.resolv_conf_host(text, wishes)
    if any(network.is_user_defined for network, _, _ in places):
        return etcfiles.resolv_conf_network(etcfiles.parse(text), wishes)
    return etcfiles.resolv_conf_bridge(_servers(text), wishes, ipv6=any(":" in address for _, _, live in places for address in live["addresses"]))


def _servers(text: str) -> ResolvConf:
    """systemd-resolved's own servers in place of its address, which no container can reach."""
    found = etcfiles.parse(text)
    if found.is_only_resolved and (better := read(etcfiles.RESOLVED_FILE)):
        return etcfiles.parse(better, etcfiles.RESOLVED_FILE)
    return found


def _is_edited(directory: str) -> bool:
    """Whether somebody has changed resolv.conf since it was made; of one that an engine before made, nobody knows: it stays."""
    path = f"{directory}/resolv.conf"
    return os.path.lexists(path) and read(path) not in (read(f"{directory}/{_MADE}"), read(f"{directory}/{_NEXT}"))


def _remake(directory: str, text: str, write_file: Callable[[str, str], None]) -> None:
    """An engine that is killed anywhere in between leaves what one of the two copies has: it is not taken for a person's."""
    _write(f"{directory}/{_NEXT}", text, (0, 0))
    write_file(f"{directory}/resolv.conf", text)
    os.rename(f"{directory}/{_NEXT}", f"{directory}/{_MADE}")


def read(path: str) -> str:
    """'' for a file that is not there. A container's root may have put anything in its own: no link is followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NOFOLLOW if not path.startswith("/etc/") else 0))
    except OSError:
        return ""
    with open(fd, errors="surrogateescape") as file:
        return file.read()


def _write(path: str, text: str, owner: Sequence[int]) -> None:
    with open(f"{path}.new", "w", errors="surrogateescape") as file:  # one that exists is whole: an engine may be killed here
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
        os.fchown(file.fileno(), *owner)
    os.rename(f"{path}.new", path)


def _write_in_place(path: str, text: str) -> None:
    """One write, with blank lines where the old text was longer: an engine that is killed here leaves no half a line."""
    data = text.encode(errors="surrogateescape")
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.pwrite(fd, data.ljust(os.fstat(fd).st_size, b"\n"), 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
