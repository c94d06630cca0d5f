"""Several netlink requests in one system call, and answers that say why: for rtnetlink and nfnetlink.

The kernel works on a request within send(2): what it answers is there when that returns. So nothing here waits.

Source: netlink(7), linux/netlink.h; "extended ACK": Documentation/userspace-api/netlink/intro.rst.
"""

import errno
import os

from berth.linux import sockets
from berth.linux.netlink import HEADER, parse_attributes

AF_NETLINK, _SOCK_RAW, _SOL_NETLINK = 16, 3, 270
_MSG_DONTWAIT = 0x40
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 1, 10, 11, 12  # socket options
_ERROR, _DONE = 2, 3
REQUEST, ACK, REPLACE, EXCL, CREATE, APPEND, DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800, 0x300
_DUMP_INTERRUPTED, _ACK_TLVS = 0x10, 0x200
_ERR_MESSAGE = 1
_ERROR_BYTES = HEADER.size + 4 + HEADER.size  # header, struct nlmsgerr: error, the request's header; the rest of it is left out (CAP_ACK)
_RECEIVE_BYTES = 1 << 16
_DUMP_ATTEMPTS = 5


class Request:
    """One message to the kernel. about: what it does, for errors; harmless: numbers of errors that are none here."""

    __slots__ = ("about", "body", "flags", "harmless", "kind")

    def __init__(self, kind: int, flags: int, body: bytes, about: str, harmless: "tuple[int, ...]" = ()) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body
        self.about = about
        self.harmless = harmless


class Refused(OSError):
    """What the kernel said no to. position: of the request among those that were sent together; -1 for all of them."""

    def __init__(self, number: int, about: str, reason: str, position: int) -> None:
        super().__init__(number, f"{about}: {os.strerror(number)}" + (f" ({reason})" if reason else ""))
        self.position = position


class NetlinkSocket:
    """Close it. fd: a descriptor of a socket made elsewhere, which this takes over; without one, a socket is made here."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int, fd: "int | None" = None) -> None:
        if fd is None:
            self._socket = sockets.socket(AF_NETLINK, _SOCK_RAW | sockets.SOCK_CLOEXEC, protocol)
        else:
            self._socket = sockets.socket(AF_NETLINK, _SOCK_RAW, protocol, fd)
        self._sequence = int.from_bytes(os.urandom(3), "little")  # another object may have used the socket before
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                continue  # an older kernel: errors say less, dumps hold more

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """Its address, which messages that it causes carry."""
        port: int = self._socket.getsockname()[0]
        return port

    def set_option(self, level: int, option: int, value: "int | bytes") -> None:
        self._socket.setsockopt(level, option, value)

    def join(self, *groups: int) -> None:
        """Hears what the kernel tells everybody in these multicast groups: `receive`."""
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def do(self, *requests: Request, answered: int = -1) -> None:
        """All of them in order, in one system call; raises the first refusal after the last one was tried.

        answered: the position of the one whose answer ends it.
        """
        if not requests:
            return
        answered %= len(requests)
        first = self._send(requests, answered)
        last = first + answered
        refusal: Refused | None = None
        while data := self.receive():
            sequence, answer, _, flags = _head(data)
            if answer != _ERROR or not first <= sequence < first + len(requests):
                continue  # a leftover
            request = requests[sequence - first]
            number = -int.from_bytes(data[HEADER.size : HEADER.size + 4], "little", signed=True)
            if number and number not in request.harmless and refusal is None:
                refusal = Refused(number, request.about, _reason(data, flags), sequence - first)
            if sequence == last:
                break
        if refusal:
            raise refusal
        if not data:
            raise Refused(errno.EIO, requests[-1].about, "the kernel did not answer", -1)

    def ask(self, request: Request) -> "list[bytes]":
        """The bodies of what comes back, all of one state of the kernel's; raises Refused."""
        for _ in range(_DUMP_ATTEMPTS):
            found, whole = self._ask(request)
            if whole:
                break
        return found

    def _ask(self, request: Request) -> "tuple[list[bytes], bool]":
        sequence = self._send((request,), 0)
        found: list[bytes] = []
        whole = True
        while data := self.receive():
            while len(data) >= HEADER.size:
                answered, answer, length, flags = _head(data)
                if length < HEADER.size:
                    break
                if answered == sequence:
                    whole = whole and not flags & _DUMP_INTERRUPTED
                    if answer in (_ERROR, _DONE):
                        number = -int.from_bytes(data[HEADER.size : HEADER.size + 4], "little", signed=True)
                        if number > 0:
                            raise Refused(number, request.about, _reason(data[:length], flags), 0)
                        return found, whole
                    found.append(data[HEADER.size : length])
                data = data[-(-length // 4) * 4 :]
        return found, whole

    def _send(self, requests: "tuple[Request, ...]", answered: int) -> int:
        """Returns the first one's sequence number. Only one's success is answered; every failure is."""
        first = self._sequence + 1
        self._sequence += len(requests)
        parts = []
        for sequence, request in enumerate(requests, first):
            flags = request.flags | REQUEST | (ACK if sequence == first + answered else 0)
            parts.append(HEADER.pack(HEADER.size + len(request.body), request.kind, flags, sequence & 0xFFFFFFFF, 0))
            parts.append(request.body)
        self._socket.send(b"".join(parts))
        return first

    def receive(self) -> bytes:
        """The next datagram, b'' if there is none. ENOBUFS: some were lost."""
        try:
            return self._socket.recv(_RECEIVE_BYTES, _MSG_DONTWAIT)
        except BlockingIOError:
            return b""


def _head(data: bytes) -> "tuple[int, int, int, int]":
    """Sequence number, type, length and flags of a message."""
    length, answer, flags, sequence, _ = HEADER.unpack_from(data)
    return sequence, answer, length, flags


def _reason(message: bytes, flags: int) -> str:
    """The kernel's own words, if it has any."""
    if not flags & _ACK_TLVS:
        return ""
    words = parse_attributes(message[_ERROR_BYTES:]).get(_ERR_MESSAGE, b"")
    return words.rstrip(b"\0").decode("utf-8", "replace")
