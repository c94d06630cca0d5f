"""Variables by which a container knows what it is linked to on the default bridge (`--link db`): DB_PORT_5432_TCP_ADDR and the like. Pure.

Older than names of containers, and read by images to this day. Source: Docker's documentation of legacy container links.
"""

from collections.abc import Iterable, Sequence

_NOT_PASSED_ON = ("HOME", "PATH")
_LEAST_IN_A_RANGE = 3
Port = tuple[int, str]


def variables(path: str, address: str, exposed: Iterable[Port], environment: Iterable[str]) -> list[str]:
    """path: /own name/alias; exposed, environment: of the container at `address`."""
    prefix = path.rpartition("/")[2].upper().replace("-", "_")
    ports = sorted(exposed, key=lambda port: (port[0], port[1] != "tcp", port[1]))
    found = [f"{prefix}_PORT={_url(address, ports[0])}"] if ports else []
    for together in _ranges(ports):
        first, last = together[0], together[-1]
        name = _name(prefix, first)
        found += [f"{name}_START={_url(address, first)}", f"{name}_PORT_START={first[0]}"]
        found += [f"{name}_END={_url(address, last)}", f"{name}_PORT_END={last[0]}"]
    for port in ports:
        name = _name(prefix, port)
        found += [f"{name}={_url(address, port)}", f"{name}_ADDR={address}", f"{name}_PORT={port[0]}", f"{name}_PROTO={port[1]}"]
    found.append(f"{prefix}_NAME={path}")
    pairs = (item.partition("=") for item in environment)
    return found + [f"{prefix}_ENV_{name}={value}" for name, sign, value in pairs if sign and name not in _NOT_PASSED_ON]


def _ranges(ports: Sequence[Port]) -> list[list[Port]]:
    """Ports that follow each other, where they are several."""
    found: list[list[Port]] = []
    for port in ports:
        if found and port[0] <= found[-1][-1][0] + 1:
            found[-1].append(port)
        else:
            found.append([port])
    return [together for together in found if len(together) >= _LEAST_IN_A_RANGE]


def _name(prefix: str, port: Port) -> str:
    return f"{prefix}_PORT_{port[0]}_{port[1].upper()}"


def _url(address: str, port: Port) -> str:
    return f"{port[1]}://{address}:{port[0]}"
