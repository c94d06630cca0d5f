"""Ports of the host that lead to containers: held by a bound socket, so that nobody else gets them, and picked where any will do.

The sockets take no connection: rules lead packets on before they would reach one (firewall.py). `ss` shows those of UDP, and those of TCP
that a relay listens on; the others are bound and nothing else.
"""

import errno
import os
import socket
from collections.abc import Iterable

from berth.errors import Conflict, NotImplementedHere, SystemFailure
from berth.network.model import Address

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP), "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}  # fmt: skip
_EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"
_DEFAULT_EPHEMERAL = (49153, 65535)


class Held:
    """One port of one address of the host, held. sctp, which this kernel may lack, is held in the engine's book alone."""

    __slots__ = ("address", "port", "protocol", "socket")

    def __init__(self, protocol: str, address: Address, port: int, sock: socket.socket | None) -> None:
        self.protocol = protocol
        self.address = address
        self.port = port
        self.socket = sock

    def close(self) -> None:
        if self.socket:
            self.socket.close()
            self.socket = None


def hold(protocol: str, address: Address, port: int) -> Held:
    """Binds it. Conflict, in Docker's words and with the process that has it, where it is taken."""
    kind, number = _KINDS[protocol]
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, number)
    except OSError as error:
        if protocol == "sctp":
            return Held(protocol, address, port, None)
        raise NotImplementedHere(f"cannot publish port {port}/{protocol} on {address}: {error.strerror}") from None
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(sock, (str(address), port))
    except OSError as error:
        sock.close()
        raise _refusal(error, protocol, address, port) from None
    return Held(protocol, address, sock.getsockname()[1], sock)


def _bind(sock: socket.socket, place: tuple[str, int]) -> None:
    """Also where a relay's connections have just ended (TIME-WAIT); but nobody else may bind to it, so the option is off at last."""
    try:
        sock.bind(place)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or sock.type & 0xF != socket.SOCK_STREAM:
            raise
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def ephemeral(start: int) -> Iterable[int]:
    """The ports that Docker picks from where nobody names one, beginning at a place that `start` chooses, each once."""
    try:
        with open(_EPHEMERAL) as file:
            first, last = (int(word) for word in file.read().split())
    except (OSError, ValueError):
        first, last = _DEFAULT_EPHEMERAL
    count = last - first + 1
    return (first + (start + offset) % count for offset in range(count))


def allocated(protocol: str, address: Address, port: int, owner: str) -> str:
    """Docker's words for a port that somebody has. owner: '' where nobody knows who."""
    by = f" by {owner}" if owner else ""
    return (
        f"Bind for {_shown(address, port)} failed: port is already allocated: {port}/{protocol} is in use{by}; "
        "publish another port of the host, or end that first"
    )


def _refusal(error: OSError, protocol: str, address: Address, port: int) -> Exception:
    shown = _shown(address, port)
    if error.errno == errno.EADDRINUSE:
        return Conflict(allocated(protocol, address, port, holder(protocol, port)))
    if error.errno == errno.EADDRNOTAVAIL:
        return Conflict(f"cannot assign requested address: {shown}: the host has no such address; see `ip address`")
    return SystemFailure(f"cannot hold port {shown}/{protocol}: {error.strerror}")


def _shown(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


# -- who has it ---------------------------------------------------------------------------------------


def holder(protocol: str, port: int) -> str:
    """`nginx (pid 123)`, the process of the host that has a port; '' where it cannot be found."""
    inodes = {inode for suffix in ("", "6") for inode in _inodes(f"/proc/net/{protocol}{suffix}", port)}
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    own = str(os.getpid())
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            if any(_link(f"/proc/{pid}/fd/{fd}") in wanted for fd in os.listdir(f"/proc/{pid}/fd")):
                if pid == own:
                    return "another container of this engine"
                with open(f"/proc/{pid}/comm") as file:
                    return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue  # it has ended
    return ""


def _inodes(path: str, port: int) -> list[str]:
    """Of the sockets bound to a port, established connections left out (proc(5): sl, local, remote, state, … inode)."""
    found = []
    try:
        with open(path) as file:
            next(file, None)
            for line in file:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and fields[3] in ("0A", "07"):
                    found.append(fields[9])
    except OSError:
        pass
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
