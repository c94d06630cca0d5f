"""Options of the network drivers (`-o`): values that cannot be. Those that nobody knows are kept and change nothing, as in Docker. Pure."""

from collections.abc import Callable

from berth.engine.nets import fields
from berth.errors import InvalidParameter
from berth.network import model

BRIDGE_NAME = "com.docker.network.bridge.name"
GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv"  # and the family's digit
MTU = "com.docker.network.driver.mtu"
_MAX_MTU = 65535  # of a bridge, ETH_MAX_MTU
_MIN_MTU = 68  # RFC 791
_MACVLAN_MODES, _IPVLAN_MODES, _IPVLAN_FLAGS = ("bridge", "private", "passthru", "vepa"), ("l2", "l3", "l3s"), ("bridge", "private", "vepa")
_GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")


def check_options(driver: str, options: dict[str, str], *, internal: bool) -> None:
    for key, value in options.items():
        check = _CHECKS.get(driver, {}).get(key) or _COMMON.get(key)
        if check:
            check(key, value)
    for family in "46":
        if options.get(GATEWAY_MODE + family) == "isolated" and not internal:
            raise InvalidParameter("gateway mode 'isolated' can only be used for an internal network")


def _failed(key: str, value: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"failed to parse {key} value: {value} ({why})")


def _boolean(key: str, value: str) -> None:
    if fields.boolean(value) is None:
        raise _failed(key, value, f'strconv.ParseBool: parsing "{value}": invalid syntax')


def _mtu(key: str, value: str) -> None:
    digits = value.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise _failed(key, value, f'strconv.Atoi: parsing "{value}": invalid syntax')
    if len(digits) > 9 or (int(value) and not _MIN_MTU <= int(value) <= _MAX_MTU):
        raise InvalidParameter(f"invalid MTU number: {value}; expected {_MIN_MTU} to {_MAX_MTU}, or 0 for the kernel's own")


def _interface(key: str, value: str) -> None:
    if value and not fields.is_interface_name(value):
        raise _failed(key, value, "no name of an interface: at most 15 characters, no spaces, slashes and colons")


def _parent(key: str, value: str) -> None:
    _interface(key, value)
    if value == "lo":
        raise InvalidParameter("loopback interface is not a valid macvlan parent link")


def _prefix(key: str, value: str) -> None:
    """Of the names of interfaces in containers; a number follows."""
    if value and (not fields.is_interface_name(value) or len(value) > 12):
        raise _failed(key, value, "no beginning of an interface's name: at most 12 characters, no spaces, slashes and colons")


def _ipv4(key: str, value: str) -> None:
    found = fields.address(value)
    if found is None:
        raise _failed(key, value, "nil ip")
    if found.version != 4:
        raise _failed(key, value, "not an IPv4 address")


def _ipv6(key: str, value: str) -> None:
    found = fields.address(value)
    if found is None or found.version != 6:
        raise _failed(key, value, "not an IPv6 address")


def _gateway_mode(key: str, value: str) -> None:
    if value not in _GATEWAY_MODES:
        raise _failed(key, value, f"unknown gateway mode {value}; known: {', '.join(_GATEWAY_MODES)}")


def _mode(driver: str, what: str, known: tuple[str, ...], default: str) -> Callable[[str, str], None]:
    def check(key: str, value: str) -> None:
        if value and value not in known:
            raise InvalidParameter(
                f"requested {driver} {what} '{value}' is not valid, '{default}' {what} is the {driver} driver default; known: {', '.join(known)}"
            )

    return check


_COMMON: dict[str, Callable[[str, str], None]] = {
    MTU: _mtu, "com.docker.network.container_iface_prefix": _prefix,
    "com.docker.network.host_ipv4": _ipv4, "com.docker.network.host_ipv6": _ipv6,
}  # fmt: skip
_CHECKS: dict[str, dict[str, Callable[[str, str], None]]] = {
    model.BRIDGE: {
        BRIDGE_NAME: _interface, "com.docker.network.bridge.host_binding_ipv4": _ipv4,
        "com.docker.network.bridge.host_binding_ipv6": _ipv6, GATEWAY_MODE + "4": _gateway_mode, GATEWAY_MODE + "6": _gateway_mode,
        **dict.fromkeys((f"com.docker.network.bridge.{name}" for name in ("enable_icc", "enable_ip_masquerade", "inhibit_ipv4", "default_bridge")),
                        _boolean),
    },
    model.MACVLAN: {"parent": _parent, "macvlan_mode": _mode("macvlan", "mode", _MACVLAN_MODES, "bridge")},
    model.IPVLAN: {
        "parent": _parent, "ipvlan_mode": _mode("ipvlan", "mode", _IPVLAN_MODES, "l2"),
        "ipvlan_flag": _mode("ipvlan", "flag", _IPVLAN_FLAGS, "bridge"),
    },
}  # fmt: skip
