"""Unix sockets that carry descriptors, on `_socket` alone: `import socket` costs 3 ms of a cold start.

`_socket` is private to CPython; where it is missing, `socket` serves. Its objects lack `with`.
Source: unix(7), cmsg(3).
"""

import os
import struct

try:
    import _socket
except ImportError:
    import socket as _socket  # type: ignore[no-redef]

AF_UNIX, AF_INET = _socket.AF_UNIX, _socket.AF_INET
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = _socket.SOCK_STREAM, _socket.SOCK_DGRAM, _socket.SOCK_SEQPACKET
SOCK_CLOEXEC = _socket.SOCK_CLOEXEC
socket = _socket.socket


def channel() -> "tuple[socket, socket]":
    """Two ends for whole messages; both close-on-exec."""
    return _socket.socketpair(AF_UNIX, SOCK_SEQPACKET)


def make_room(sock: socket, size: int) -> None:
    """Lets one message of `size` bytes be on its way."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, size)


def send(sock: socket, data: bytes, fds: "list[int] | None" = None) -> None:
    """One message with descriptors; they are duplicated, the caller keeps its own."""
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    sock.sendmsg([data], rights)


def receive(sock: socket, size: int, max_fds: int = 1) -> "tuple[bytes, list[int]]":
    """One message and the descriptors that came with it, close-on-exec and the caller's; b'' at the end."""
    return receive_checked(sock, size, max_fds)[:2]


def receive_checked(sock: socket, size: int, max_fds: int, *, wait: bool = True) -> "tuple[bytes, list[int], bool]":
    """As `receive`, and whether it is whole: neither bytes nor descriptors were left out. Without `wait` BlockingIOError."""
    data, ancillary, flags, _ = sock.recvmsg(size, _socket.CMSG_SPACE(4 * max_fds), _socket.MSG_CMSG_CLOEXEC | (0 if wait else _socket.MSG_DONTWAIT))
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(payload) // 4}i", payload[: len(payload) // 4 * 4])
    return data, fds, not flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC)


def accept(listener: socket) -> socket:
    """accept(2); close-on-exec."""
    fd, _ = listener._accept()  # type: ignore[attr-defined]  # what is in socket.socket is Python on top of it
    return socket(fileno=fd)


def listen(directory_fd: int, name: str, kind: int = SOCK_SEQPACKET, backlog: int = 16) -> socket:
    """A listening socket `name` in an open directory, for its owner alone."""
    sock = socket(AF_UNIX, kind | _socket.SOCK_CLOEXEC)
    try:
        # Through a descriptor: a long path may not fit into sun_path (108 bytes).
        path = f"/proc/self/fd/{directory_fd}/{name}"
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(path: str, kind: int = SOCK_STREAM) -> socket:
    """A socket connected to the one at `path`, however long the path is; raises OSError."""
    directory, _, name = path.rpartition("/")
    directory_fd = os.open(directory or ("/" if path.startswith("/") else "."), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket(AF_UNIX, kind | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory_fd}/{name}")
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(directory_fd)


def pack_address(text: str) -> bytes:
    """The bytes of an IPv4 or IPv6 address; raises OSError."""
    return _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)


def address_text(data: bytes) -> str:
    """An address from its 4 or 16 bytes."""
    return _socket.inet_ntop(_socket.AF_INET6 if len(data) == 16 else _socket.AF_INET, data)
