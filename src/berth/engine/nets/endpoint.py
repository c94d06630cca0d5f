"""EndpointSettings: what a client wants of a container's place in a network. Checked and typed. Pure.

Words: Docker 28's, `invalid endpoint settings:` and then each problem.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from berth.engine.nets import fields
from berth.errors import InvalidParameter
from berth.network.model import Address, Subnet

PREDEFINED = ("bridge", "default", "host", "none")
SYSCTLS, INTERFACE_NAME = "com.docker.network.endpoint.sysctls", "com.docker.network.endpoint.ifname"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRequest:
    """mac: '' for one of the engine's choice. links: (container, alias). aliases: each once, as given."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    link_local: tuple[Address, ...] = ()
    mac: str = ""
    aliases: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    driver_opts: dict[str, str] = field(default_factory=dict)
    gw_priority: int = 0

    @property
    def sysctls(self) -> dict[str, str]:
        """Of the interface, by their names with IFNAME in them: net.ipv4.conf.IFNAME.log_martians."""
        given = [item for item in self.driver_opts.get(SYSCTLS, "").split(",") if item]
        return {name.replace(".ifname.", ".IFNAME."): value for name, _, value in (item.partition("=") for item in given)}


def endpoint(settings: dict[str, Any], network: str) -> EndpointRequest:
    """network: its name. What depends on its subnets is for `check_addresses`."""
    given = fields.an_object(settings, "IPAMConfig")
    v4, v6, local = fields.text(given, "IPv4Address"), fields.text(given, "IPv6Address"), fields.texts(given, "LinkLocalIPs")
    aliases, options = fields.texts(settings, "Aliases"), fields.string_map(settings, "DriverOpts")
    problems = []
    if network in PREDEFINED or network.startswith("container:"):
        if v4 or v6:
            problems.append("user specified IP address is supported on user defined networks only")
        if aliases:
            problems.append("network-scoped alias is supported only for containers in user defined networks")
    ipv4, ipv6 = fields.address(v4), fields.address(v6)
    if v4 and not (isinstance(ipv4, IPv4Address) and not ipv4.is_unspecified):
        problems.append(f"invalid IPv4 address: {v4}")
    if v6 and not (isinstance(ipv6, IPv6Address) and not ipv6.is_unspecified and not ipv6.ipv4_mapped):
        problems.append(f"invalid IPv6 address: {v6}")
    link_local = [_link_local(item, problems) for item in local]
    problems += _wrong_names(aliases, "alias") + _wrong_options(options)
    mac = ""
    try:
        mac = fields.mac(fields.text(settings, "MacAddress")) if fields.text(settings, "MacAddress") else ""
        links = tuple(link(item) for item in fields.texts(settings, "Links"))
    except InvalidParameter as error:
        problems.append(str(error))
    if problems:
        raise InvalidParameter(f"invalid endpoint settings:\n{fields.joined(problems)}")
    return EndpointRequest(
        ipv4=ipv4 if isinstance(ipv4, IPv4Address) else None, ipv6=ipv6 if isinstance(ipv6, IPv6Address) else None,
        link_local=tuple(item for item in link_local if item), mac=mac, aliases=tuple(dict.fromkeys(aliases)), links=links,
        driver_opts=dict(options), gw_priority=fields.number(settings, "GwPriority"),
    )  # fmt: skip


def check_addresses(request: EndpointRequest, subnets: Iterable[Subnet]) -> None:
    """subnets: those that whoever made the network chose, of both families; in none of the others can one choose an address."""
    chosen, problems = list(subnets), []
    for wanted in (request.ipv4, request.ipv6):
        same = [subnet for subnet in chosen if wanted and subnet.network.version == wanted.version]
        if wanted and not same:
            problems.append("user specified IP address is supported only when connecting to networks with user configured subnets")
        elif wanted and not any(wanted in subnet.network for subnet in same):
            problems.append(f"no configured subnet or ip-range contain the IP address {wanted}")
    if problems:
        raise InvalidParameter(f"invalid endpoint settings:\n{fields.joined(problems)}")


def link(text: str) -> tuple[str, str]:
    """`container`, `container:alias` -> (container, alias)."""
    parts = text.split(":")
    if not text:
        raise InvalidParameter("empty string specified for links")
    if len(parts) > 2 or not parts[0]:
        raise InvalidParameter(f"bad format for links: {text}")
    # What inspect shows of a link is /child:/parent/alias; clients send it back.
    name, alias = parts[0], parts[-1]
    if len(parts) == 2 and name.startswith("/"):
        name, alias = name[1:], alias.rpartition("/")[2]
    if problems := _wrong_names([alias], "alias of a link"):
        raise InvalidParameter(problems[0])
    return name, alias


def _link_local(text: str, problems: list[str]) -> Address | None:
    found = fields.address(text)
    if found is None or found.is_unspecified:
        problems.append(f"invalid link-local IP address: {text}")
    elif not found.is_link_local:
        problems.append(f"invalid link local IP address: {text}")
    return found


def _wrong_names(names: Iterable[str], what: str) -> list[str]:
    """They stand in /etc/hosts and in answers of the name server: no spaces, nothing that is not printed."""
    return [f"invalid {what} {name!r}: expected a name without spaces" for name in names
            if not name or not name.isprintable() or any(letter.isspace() for letter in name)]  # fmt: skip


def _wrong_options(options: dict[str, str]) -> list[str]:
    problems = []
    for sysctl in options[SYSCTLS].split(",") if SYSCTLS in options else []:
        name = sysctl.split(".", 4)
        if len(name) != 5 or name[1] not in ("ipv4", "ipv6", "mpls") or name[3] not in ("IFNAME", "ifname") or "/" in sysctl:
            problems.append(
                f"unrecognised network interface sysctl '{sysctl}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', "
                "'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
    if INTERFACE_NAME in options and not fields.is_interface_name(options[INTERFACE_NAME]):
        problems.append(f"invalid interface name {options[INTERFACE_NAME]!r}: at most 15 characters, no spaces, slashes and colons")
    return problems
