"""Published ports that no rule can lead on: from an IPv6 address of the host to a container that has IPv4 alone, and the other way round.

The kernel translates addresses, not families. So here a program of ours takes the connection and makes another one: the container sees
the host's address as the other end, as with Docker's proxy. What the host's firewall closed stays closed, as this is an ordinary socket.
"""

import asyncio
import contextlib
import socket
from typing import cast

from berth.network.model import PublishedPort

_PIECE_BYTES = 1 << 18
_BACKLOG = 128
_UDP_IDLE_S, _UDP_MAX_CLIENTS = 90.0, 1024


def is_needed(port: PublishedPort) -> bool:
    """Whether the host's address and the container's are of two families."""
    return port.host_address.version != port.address.version


class Relay:
    """Serves one held port until it is closed; the socket stays its holder's."""

    def __init__(self, port: PublishedPort, sock: socket.socket) -> None:
        self._port = port
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        mine = self._sock.dup()  # asyncio closes what it is given
        if self._port.protocol in ("tcp", "sctp"):  # of SCTP only the bytes go on, as with Docker's proxy: no streams, no bounds of messages
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its connections inherit it: the next holder need not wait for their end
            self._server = await asyncio.start_server(self._serve, sock=mine, backlog=_BACKLOG)
        else:
            loop = asyncio.get_running_loop()
            mine.setblocking(False)
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _UdpFront(str(self._port.address), self._port.port), sock=mine)

    def close(self) -> None:
        """Ends it, and every connection that it carries."""
        if self._server:
            self._server.close()
        if self._transport:
            self._transport.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._carry(reader, writer)
        writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(sock=await self._connected())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, there_writer))
                group.create_task(_pump(there_reader, writer))
        except* OSError:
            pass  # one side has gone; so does the other
        finally:
            there_writer.close()


    async def _connected(self) -> socket.socket:
        """To the container, the way that the client came."""
        family = socket.AF_INET if self._port.address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, self._sock.proto)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (str(self._port.address), self._port.port))
        except BaseException:
            sock.close()
            raise
        return sock


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, and its end: the other direction may go on."""
    while data := await reader.read(_PIECE_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class _UdpFront(asyncio.DatagramProtocol):
    """Towards the clients: a socket towards the container for each of them, as long as it is used."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        self._clients: dict[tuple, _UdpBack] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own class is none of this kind

    def datagram_received(self, data: bytes, client: tuple) -> None:
        back = self._clients.get(client)
        if back is None:
            if len(self._clients) >= _UDP_MAX_CLIENTS:
                return
            back = self._clients[client] = _UdpBack(self, client)
            asyncio.get_running_loop().create_task(back.open(self._target))
        back.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        for back in list(self._clients.values()):
            back.close()

    def forget(self, client: tuple) -> None:
        self._clients.pop(client, None)


class _UdpBack(asyncio.DatagramProtocol):
    """Towards the container, for one client."""

    def __init__(self, front: _UdpFront, client: tuple) -> None:
        self._front = front
        self._client = client
        self._waiting: list[bytes] = []
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, target: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=target)
        except OSError:
            self.close()
            return
        for data in self._waiting:
            self._transport.sendto(data)
        self._waiting.clear()
        self._used()

    def send(self, data: bytes) -> None:
        if self._transport:
            self._transport.sendto(data)
            self._used()
        elif len(self._waiting) < 16:
            self._waiting.append(data)

    def datagram_received(self, data: bytes, _: tuple) -> None:
        self._front.transport.sendto(data, self._client)
        self._used()

    def error_received(self, error: Exception) -> None:
        self.close()  # nobody listens there now; the next datagram tries again

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.close()
        self._front.forget(self._client)

    def _used(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_UDP_IDLE_S, self.close)
