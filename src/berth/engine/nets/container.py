"""What a container's create request says of networks: checked and typed in one go, `container(config, host, endpoints)`. Pure.

Words are Docker 28's. What dockerd takes and then drops or trips over at the start (a protocol that nobody knows, a host
address that is none, a host name with a line break that would be written to /etc/hosts) is InvalidParameter here.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from berth.engine.nets import fields
from berth.engine.nets.endpoint import EndpointRequest, endpoint, link
from berth.engine.nets.ports import PortBinding, exposed, port_bindings
from berth.errors import InvalidParameter

HOST_GATEWAY = "host-gateway"
NO_OTHER_NETWORK = "container sharing network namespace with another container or host cannot be connected to any other network"
NOT_WITH_HOST = "container cannot be disconnected from host network or connected to host network"
NOT_WITH_NONE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
_PORTS_DISCARDED = "Published ports are discarded when using host network mode"
_MAC_DEPRECATED = "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerNetworking:
    """mode: bridge (never default), none, host, container:ID, or a network's name or id.

    endpoints: the networks to join by the names that the client gave; empty for host, none and container. hosts: (name,
    address or host-gateway) for /etc/hosts. links: those of the default bridge. bindings: empty where ports are discarded.
    exposed: ports that are known, (number, protocol), also those of bindings; publish_all opens them all.
    """

    mode: str = "bridge"
    endpoints: dict[str, EndpointRequest] = field(default_factory=dict)
    bindings: tuple[PortBinding, ...] = ()
    exposed: tuple[tuple[int, str], ...] = ()
    publish_all: bool = False
    links: tuple[tuple[str, str], ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def joins(self) -> str:
        """The container whose network it shares, by the client's name for it; '' for none."""
        return self.mode.removeprefix("container:") if self.mode.startswith("container:") else ""


def container(config: dict[str, Any], host: dict[str, Any], endpoints: dict[str, Any], image_ports: dict[str, Any] | None = None) -> ContainerNetworking:
    """config: as the client sent it, without what the image adds; image_ports: the image's ExposedPorts."""
    mode = network_mode(host)
    _check_conflicts(config, host, mode)
    _check_names(config)
    bindings = port_bindings(fields.an_object(host, "PortBindings"))
    known = {**exposed(fields.an_object(config, "ExposedPorts"), strict=True), **exposed(image_ports or {}), **{(b.port, b.protocol): None for b in bindings}}
    warnings = []
    if mode == "host" and fields.an_object(host, "PortBindings"):
        warnings.append(_PORTS_DISCARDED)
    if mode in ("host", "none"):
        bindings = ()
    wanted = _endpoints(endpoints, mode)
    if mac := fields.text(config, "MacAddress"):
        warnings.append(_MAC_DEPRECATED)
        wanted = _with_mac(wanted, mode, fields.mac(mac))
    return ContainerNetworking(
        mode=mode, endpoints=wanted, bindings=bindings, exposed=tuple(known),
        publish_all=fields.flag(host, "PublishAllPorts") and mode not in ("host", "none"),
        links=tuple(link(item) for item in fields.texts(host, "Links")),
        hosts=tuple(extra_host(item) for item in fields.texts(host, "ExtraHosts")),
        dns=tuple(name_server(item) for item in fields.texts(host, "Dns") if item),
        dns_search=tuple(_word(item, "DNS search domain") for item in fields.texts(host, "DnsSearch") if item),
        dns_options=tuple(_word(item, "DNS option") for item in fields.texts(host, "DnsOptions") if item),
        warnings=tuple(warnings),
    )  # fmt: skip


def network_mode(host: dict[str, Any]) -> str:
    """Of HostConfig; default is bridge."""
    mode = fields.text(host, "NetworkMode") or "bridge"
    if mode in ("container", "container:"):
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    if not mode.isprintable():
        raise InvalidParameter(f"invalid network mode: {mode!r}")
    return "bridge" if mode == "default" else mode


def _check_conflicts(config: dict[str, Any], host: dict[str, Any], mode: str) -> None:
    """Docker's, in Docker's order: who shares a container's network has none of his own to say anything of."""
    if mode.startswith("container:"):
        conflicts = (
            (fields.text(config, "Hostname"), "hostname and the network mode"),
            (fields.texts(host, "Links"), "container type network can't be used with links. This would result in undefined behavior"),
            (fields.texts(host, "Dns"), "dns and the network mode"),
            (fields.texts(host, "ExtraHosts"), "custom host-to-IP mapping and the network mode"),
            (fields.text(config, "MacAddress"), "mac-address and the network mode"),
            (fields.an_object(host, "PortBindings") or fields.flag(host, "PublishAllPorts"), "port publishing and the container type network mode"),
            (fields.an_object(config, "ExposedPorts"), "port exposing and the container type network mode"),
        )  # fmt: skip
        for given, words in conflicts:
            if given:
                raise InvalidParameter(f"conflicting options: {words}")
    if fields.text(host, "UTSMode") == "host" and fields.text(config, "Hostname"):
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if mode in ("host", "none") and fields.text(config, "MacAddress"):
        raise InvalidParameter("conflicting options: mac-address and the network mode")
    if mode == "host" and fields.texts(host, "Links"):
        raise InvalidParameter("conflicting options: host type networking can't be used with links. This would result in undefined behavior")


def _check_names(config: dict[str, Any]) -> None:
    """They are written to /etc/hosts and /etc/hostname."""
    for key, what in (("Hostname", "hostname"), ("Domainname", "domainname")):
        name = fields.text(config, key)
        if not name.isprintable() or any(letter.isspace() for letter in name):
            raise InvalidParameter(f"invalid {what} format: {name!r}: no spaces and no control characters")


def _endpoints(given: dict[str, Any], mode: str) -> dict[str, EndpointRequest]:
    """Whom nobody gave an endpoint gets a plain one in the network of his mode. As in Docker, who names others joins them alone."""
    wanted: dict[str, EndpointRequest] = {}
    for name, settings in given.items():
        if settings is None:
            raise InvalidParameter(f"no EndpointSettings for {name}")
        if not isinstance(settings, dict):
            raise fields.wrong(f"EndpointsConfig.{name}", settings, "an object")
        name = "bridge" if name == "default" else name
        if fields.text(settings, "MacAddress") and (name in ("host", "none") or name.startswith("container:")):
            raise InvalidParameter("conflicting options: mac-address and the network mode")
        try:
            wanted[name] = endpoint(settings, name)
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid config for network {name}: {error}") from None
    if mode.startswith("container:"):
        return {}
    others = [name for name in wanted if name != mode]
    if others and (mode == "host" or "host" in wanted):
        raise InvalidParameter(NOT_WITH_HOST)
    if (len(wanted) > 1 and "none" in wanted) or (others and mode == "none"):
        raise InvalidParameter(NOT_WITH_NONE)
    if mode in ("host", "none"):
        return {}
    return wanted or {mode: EndpointRequest()}


def _with_mac(wanted: dict[str, EndpointRequest], mode: str, mac: str) -> dict[str, EndpointRequest]:
    """Config.MacAddress, which old clients send, is that of the first network."""
    if mode not in wanted:
        raise InvalidParameter(
            "if a container-wide MAC address is supplied, HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
        )
    if wanted[mode].mac not in ("", mac):
        raise InvalidParameter(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty"
        )
    return {**wanted, mode: replace(wanted[mode], mac=mac)}


def extra_host(text: str) -> tuple[str, str]:
    """`name:address` -> (name, address or host-gateway). An IPv6 address may stand in brackets."""
    name, colon, address = text.partition(":")
    if not colon or not name or not name.isprintable() or any(letter.isspace() for letter in name):
        raise InvalidParameter(f'bad format for add-host: "{text}"')
    plain = address.strip()
    plain = plain[1:-1] if plain.startswith("[") and plain.endswith("]") else plain
    if address != HOST_GATEWAY and fields.address(plain) is None:
        raise InvalidParameter(f'invalid IP address in add-host: "{address}"')
    return name, plain


def name_server(text: str) -> str:
    """An address; of the link-local ones also with a zone."""
    plain, percent, zone = text.partition("%")
    if fields.address(plain) is None or (percent and not fields.is_interface_name(zone)):
        raise InvalidParameter(f"bad nameserver address: {text!r} is not an ip address")
    return text


def _word(text: str, what: str) -> str:
    if not text.isprintable() or any(letter.isspace() for letter in text):
        raise InvalidParameter(f"invalid {what}: {text!r}: no spaces and no control characters")
    return text
