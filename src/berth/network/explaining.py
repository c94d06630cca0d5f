"""Words for `berth info`: which of the host's rules decide on published ports and on what containers send, and what to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from berth.linux.netlinksocket import Refused
from berth.linux.nftables import Chain, Nftables
from berth.network import sysctl
from berth.network.model import Names

_LEGACY = {"ip": ("/proc/net/ip_tables_names", "iptables-legacy"), "ip6": ("/proc/net/ip6_tables_names", "ip6tables-legacy")}
_SPELLED = {"ip": "IPv4", "ip6": "IPv6"}
_SHOWN = 4  # interfaces that a line names
# An expression `fib` as the kernel gives it: name, attributes for register and result, flags.
_FIB_FLAGS = re.compile(rb"fib\0.{0,24}?\x08\0\x03\0\0\0\0(.)", re.DOTALL)
_SADDR_AND_IIF = 0x01 | 0x08


@dataclass(frozen=True, slots=True)
class Own:
    """What one engine has. lacks_loop: why its ports are direct although they should be checked; guarded: see ruleset.py."""

    names: Names
    direct: bool
    lacks_loop: str
    guarded: frozenset[str]
    bridges: tuple[str, ...]
    families: frozenset[str]


def lines(netfilter: Nftables, own: Own) -> list[str]:
    """One line each, "what: how"; those that begin with WARNING keep something from working or from being safe."""
    try:
        others = [chain for chain in netfilter.chains() if chain.hook and not _is_berths(chain, own.names)]
    except Refused as error:
        return [f"WARNING: the host's packet rules cannot be read: {error.strerror}"]
    found = [*_on_ports(others, own), *_on_forwarding(netfilter, others, own.bridges)]
    if not own.direct:
        found += _on_sources(netfilter, others, own.names)
    return [*found, *_on_legacy(own.bridges), *_on_settings(own)]


def _on_ports(others: list[Chain], own: Own) -> list[str]:
    if own.direct:
        warning = [f"WARNING: published ports cannot be checked: {own.lacks_loop}"] if own.lacks_loop else []
        return [*warning, "Published ports: direct: reachable from everywhere, whatever the host's firewall says of INPUT"]
    found = [chain for chain in others if chain.hook == "input" and chain.kind == "filter" and chain.family in ("inet", "ip", "ip6")]
    deciding = [_name(chain) for chain in found if chain.drops or chain.rules]
    if not deciding:
        return ["Published ports: checked: no firewall has rules for INPUT, so all of them are reachable"]
    return ["Published ports: checked: reachable as far as these let in what is meant for the host's port: " + "; ".join(deciding)]


def _on_forwarding(netfilter: Nftables, others: list[Chain], bridges: tuple[str, ...]) -> list[str]:
    """Chains that would drop what containers send. One that names every bridge is thought to let it pass."""
    refusing: dict[str, list[str]] = {}
    for chain in others:
        if chain.hook != "forward" or chain.kind != "filter" or not (chain.drops or chain.table == "firewalld"):
            continue
        missing = [bridge for bridge in bridges if not _mentions(netfilter, chain, bridge)]
        if missing:
            refusing.setdefault(_remedy(netfilter, chain, missing[:_SHOWN]), []).append(_name(chain))
    return [
        f"WARNING: {' and '.join(chains)} refuse{'s' if len(chains) == 1 else ''} what containers send to others and get from them, "
        f"which berth's rules cannot change; add: {remedy}"
        for remedy, chains in refusing.items()
    ]


def _remedy(netfilter: Nftables, chain: Chain, bridges: Sequence[str]) -> str:
    if chain.table == "firewalld":
        add = "; ".join(f"firewall-cmd --permanent --zone=trusted --add-interface={bridge}" for bridge in bridges)
        return f"{add}; firewall-cmd --reload"
    known = {found.name for found in netfilter.chains() if (found.family, found.table) == (chain.family, chain.table)}
    if known & {"ufw-before-forward", "ufw6-before-forward"}:
        return "; ".join(f"ufw route allow in on {bridge}; ufw route allow out on {bridge}" for bridge in bridges)
    if (chain.name, chain.table) == ("FORWARD", "filter") and chain.family in _LEGACY:  # of iptables-nft
        program = "iptables" if chain.family == "ip" else "ip6tables"
        at = "DOCKER-USER" if "DOCKER-USER" in known else "FORWARD"
        return "; ".join(f"{program} -I {at} -i {bridge} -j ACCEPT; {program} -I {at} -o {bridge} -j ACCEPT" for bridge in bridges)
    start = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    return "; ".join(f"{start} iifname {bridge} accept; {start} oifname {bridge} accept" for bridge in bridges)


def _on_sources(netfilter: Nftables, others: list[Chain], names: Names) -> list[str]:
    """Chains that drop what does not come by the way that leads back, as what goes around by the loop does not."""
    found = []
    for chain in others:
        if chain.hook != "prerouting" or chain.family not in ("inet", "ip", "ip6") or _mentions(netfilter, chain, names.loop_in):
            continue
        if any(_checks_way_back(rule) for rule in netfilter.rules(chain.family, chain.table)):
            remedy = f"nft insert rule {chain.family} {chain.table} {chain.name} iifname {names.loop_in} accept"
            if chain.table == "firewalld":
                remedy = "set IPv6_rpfilter=no in /etc/firewalld/firewalld.conf, and run: firewall-cmd --complete-reload"
            found.append(f"WARNING: {_name(chain)} checks by which interface packets come, so published ports are not reached from other hosts; {remedy}")
    return found


def _checks_way_back(rule: bytes) -> bool:
    """Whether it is of the kind `fib saddr . iif oif missing drop`."""
    flags = _FIB_FLAGS.search(rule)
    return flags is not None and flags[1][0] & _SADDR_AND_IIF == _SADDR_AND_IIF


def _on_legacy(bridges: tuple[str, ...]) -> list[str]:
    """Rules of iptables' older half: nftables does not show them, but they decide too."""
    found = []
    for path, program in _LEGACY.values():
        try:
            with open(path) as file:
                tables = file.read().split()
        except OSError:
            continue
        if "filter" in tables:
            add = f"{program} -I FORWARD -i BRIDGE -j ACCEPT; {program} -I FORWARD -o BRIDGE -j ACCEPT".replace("BRIDGE", bridges[0] if bridges else "BRIDGE")
            found.append(
                f"Legacy rules: {program} has some (see: {program} -S): its INPUT decides on published ports too, "
                f"and a FORWARD that drops keeps containers from others; then: {add}"
            )
    return found


def _on_settings(own: Own) -> list[str]:
    found = []
    for family, name in (("ip", "net.ipv4.ip_forward"), ("ip6", "net.ipv6.conf.all.forwarding")):
        if family in own.guarded:
            found.append(f"Forwarding: {name} was off until berth set it: only what is from or to a bridge or a pair of interfaces is forwarded")
        elif family in own.families and sysctl.read(name.removeprefix("net.").replace(".", "/")) == "0":
            found.append(f"WARNING: {name} is off: containers reach no other host and are reached from none by {_SPELLED[family]}; run: sysctl -w {name}=1")
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        if sysctl.read(f"bridge/{name}") == "1":
            found.append(f"Bridges: net.bridge.{name} is on: what containers of one network send each other passes the FORWARD chains of others too")
    return found


def _mentions(netfilter: Nftables, chain: Chain, interface: str) -> bool:
    """Whether a rule of the chain's table has the interface's name; what else it says is not read."""
    return any(interface.encode() + b"\0" in rule for rule in netfilter.rules(chain.family, chain.table))


def _is_berths(chain: Chain, names: Names) -> bool:
    """Of this engine, or of another one beside it."""
    return chain.table == names.table or (chain.table.startswith("berth-") and chain.family in _LEGACY)


def _name(chain: Chain) -> str:
    policy = "drop" if chain.drops else "accept"
    return f"table {chain.family} {chain.table}, chain {chain.name} (priority {chain.priority}, policy {policy}, {chain.rules} rules)"
