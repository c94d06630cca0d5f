"""One end of the connection between engine and resolver: messages that are sent without waiting, and handed on as they come.

See control.py for what they say.
"""

import asyncio
import collections
import socket
import struct
from collections.abc import Callable, Sequence

from berth import errors
from berth.network.dns import control


class Channel:
    """Owns a SEQPACKET socket. What does not fit into it now waits here, with its descriptors.

    on_message gets the message and its descriptors, which are its own then; on_end is called once, when the other end is gone.
    """

    def __init__(self, sock: socket.socket, on_message: Callable[[dict, list[int]], None], on_end: Callable[[], None]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * control.MAX_MESSAGE_BYTES)
        self._sock = sock
        self.on_message, self.on_end = on_message, on_end
        self._loop = asyncio.get_running_loop()
        self._waiting: collections.deque[tuple[bytes, Sequence[int], Sequence[int]]] = collections.deque()
        self.is_open = True
        self._loop.add_reader(sock.fileno(), self.receive)

    @property
    def peer(self) -> tuple[int, int]:
        """Pid and uid of the process that connected, listened or made the pair."""
        pid, uid, _ = struct.unpack("3i", self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid

    def send(self, message: bytes, fds: Sequence[int] = (), *, close: Sequence[int] = ()) -> None:
        """Never waits. fds are duplicated by it, so they stay open until then; those of `close` are closed after it, or with the channel.

        Raises InvalidParameter for a message that is too long, before anything else.
        """
        if len(message) > control.MAX_MESSAGE_BYTES:
            raise errors.InvalidParameter(f"{len(message)} bytes of names are more than the resolver takes ({control.MAX_MESSAGE_BYTES})")
        if not self.is_open:
            control.close_all(close)
            return
        self._waiting.append((message, fds, close))
        if len(self._waiting) == 1 and not self._flush():
            self._loop.add_writer(self._sock.fileno(), self._flush_later)

    def _flush(self) -> bool:
        """Whether nothing waits any more."""
        while self._waiting:
            message, fds, close = self._waiting[0]
            try:
                socket.send_fds(self._sock, [message], fds)
            except BlockingIOError:
                return False
            except OSError:
                pass  # the other end is gone, as `receive` will learn
            self._waiting.popleft()
            control.close_all(close)
        return True

    def _flush_later(self) -> None:
        if self._flush():
            self._loop.remove_writer(self._sock.fileno())

    def receive(self) -> bool:
        """Hands on what has come; whether that was anything."""
        count = 0
        while self.is_open:
            try:
                message, fds = control.receive(self._sock)
            except BlockingIOError:
                break
            except ValueError:
                continue
            except OSError:
                message, fds = {}, []
            if not message:
                self.close()
                self.on_end()
                break
            count += 1
            self.on_message(message, fds)
        return count > 0

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            for _, _, close in self._waiting:
                control.close_all(close)
            self._waiting.clear()
