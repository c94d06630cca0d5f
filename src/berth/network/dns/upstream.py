"""Asking servers of the world: a fresh socket and number for every question, TCP where an answer is cut, the next server after a while.

The socket is connected, so that only the server's own datagrams come in (and its host's "port unreachable"); the kernel picks
the port at random. Source: RFC 5452.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import dns.exception

from berth.network.dns import replies
from berth.network.dns.questions import TCP_BYTES, Question

PORT = 53
_NEXT_AFTER_S, _TOTAL_S = 1.5, 4.5  # a libc asks again after 5
_LEAST_TRIES = 3
_LAST_FOR_S = 30.0  # a server that did not answer is asked after the others for so long


class Server(NamedTuple):
    address: str
    port: int = PORT

    @classmethod
    def of_text(cls, text: str) -> "Server":
        """`192.0.2.1`, `fe80::1%eth0`, or with a port, `192.0.2.1#5353`; ValueError for anything else."""
        address, _, port = text.partition("#")
        ipaddress.ip_address(address)
        if not 0 < (number := int(port or PORT)) < 1 << 16:
            raise ValueError(text)
        return cls(address, number)

    def connect(self, kind: int) -> tuple[socket.socket, tuple]:
        """A socket and what to connect it to."""
        if ":" not in self.address:
            return _socket(socket.AF_INET, kind), (self.address, self.port)
        address, _, zone = self.address.partition("%")
        scope = (int(zone) if zone.isdigit() else socket.if_nametoindex(zone)) if zone else 0
        return _socket(socket.AF_INET6, kind), (address, self.port, 0, scope)


class Upstream:
    """Remembers which servers did not answer."""

    def __init__(self) -> None:
        self._silent_until: dict[Server, float] = {}

    async def ask(self, servers: Sequence[Server], question: Question, flags: int) -> replies.Reply | None:
        """The first final answer, else the last one of any kind, None if nobody said anything.

        A server that is slow may still answer while the next one is asked.
        """
        waiting = list(self._in_order(servers))
        last: replies.Reply | None = None
        running: dict[asyncio.Task[replies.Reply | None], Server] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TOTAL_S), asyncio.TaskGroup() as group:
                while waiting or running:
                    if waiting:
                        server = waiting.pop(0)
                        running[group.create_task(_try(server, question, flags))] = server
                    patience_s = _NEXT_AFTER_S if waiting else None
                    done, _ = await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                    if not done:
                        self._silent_until[server] = time.monotonic() + _LAST_FOR_S
                    for task in done:
                        server = running.pop(task)
                        if reply := task.result():
                            self._silent_until.pop(server, None)
                            last = last if last and last.is_final else reply
                    if last and last.is_final:
                        for task in running:
                            task.cancel()
                        break
        return last

    def _in_order(self, servers: Sequence[Server]) -> Iterator[Server]:
        now_s = time.monotonic()
        ordered = sorted(servers, key=lambda server: self._silent_until.get(server, 0) > now_s)
        return itertools.islice(itertools.cycle(ordered), max(_LEAST_TRIES, len(ordered)))


async def _try(server: Server, question: Question, flags: int) -> replies.Reply | None:
    try:
        reply = await _over_udp(server, question, flags)
        return await _over_tcp(server, question, flags) if reply.is_truncated else reply
    except (OSError, EOFError, dns.exception.DNSException, replies.NotOurs):
        return None


async def _over_udp(server: Server, question: Question, flags: int) -> replies.Reply:
    identity = os.urandom(2)
    sock, address = server.connect(socket.SOCK_DGRAM)
    with sock:
        sock.connect(address)
        sock.send(replies.query(question, identity, flags))
        while True:
            with contextlib.suppress(replies.NotOurs):
                return replies.parse(await asyncio.get_running_loop().sock_recv(sock, TCP_BYTES), question, identity)


async def _over_tcp(server: Server, question: Question, flags: int) -> replies.Reply:
    loop, identity = asyncio.get_running_loop(), os.urandom(2)
    sock, address = server.connect(socket.SOCK_STREAM)
    with sock:
        await loop.sock_connect(sock, address)
        message = replies.query(question, identity, flags)
        await loop.sock_sendall(sock, struct.pack("!H", len(message)) + message)
        (length,) = struct.unpack("!H", await _read(sock, 2))
        return replies.parse(await _read(sock, length), question, identity)


async def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := await asyncio.get_running_loop().sock_recv(sock, count - len(data))):
            raise EOFError
        data += more
    return data


def _socket(family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock
