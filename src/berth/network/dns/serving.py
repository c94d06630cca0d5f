"""The sockets of one container: questions come in, answers go out; none of them can hold up, fill or end the process.

What is asked often is answered from the view's kept answers, with the question's id put in front, and nothing is parsed.
"""

import asyncio
import functools
import logging
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dns.rcode

from berth.network.dns import answers, forwarding, questions, replies
from berth.network.dns.names import View
from berth.network.dns.upstream import Server

log = logging.getLogger("berth.resolver")

_UDP_BYTES = 4096
_ROUND, _SLOW_COST = 64, 8  # datagrams of one container before others have their turn, if they are kept; of one that is not
_MOST_FORWARDED = 128  # of one container at a time; more are refused
_MOST_CONNECTIONS, _MOST_AT_ONCE, _IDLE_S = 32, 32, 10.0
_ACCEPT_AGAIN_S = 1.0

Send = Callable[[bytes], None]


@dataclass(slots=True)
class Counts:
    """Of the whole process."""

    questions: int = 0
    kept: int = 0
    wrong: int = 0
    refused: int = 0


@dataclass(slots=True)
class Surroundings:
    """What all sandboxes share. catch_up: acts on what the engine has said by now; whether it had said anything."""

    tasks: asyncio.TaskGroup
    forwarder: forwarding.Forwarder
    catch_up: Callable[[], bool]
    counts: Counts


class Sandbox:
    """One container; owns its two sockets."""

    def __init__(self, around: Surroundings, udp_fd: int, tcp_fd: int) -> None:
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._udp, self._tcp = socket.socket(fileno=udp_fd), socket.socket(fileno=tcp_fd)
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        self._connections: set[_Connection] = set()
        self._forwarded = 0
        self.view: View | None = None
        self.servers: Sequence[Server] = ()
        self.forward = self.single_labels = True
        self._loop.add_reader(udp_fd, self._udp_readable)
        self._loop.add_reader(tcp_fd, self._accept)

    @property
    def is_open(self) -> bool:
        return self._udp.fileno() >= 0

    @property
    def fds(self) -> list[int]:
        """Its sockets, UDP first."""
        return [self._udp.fileno(), self._tcp.fileno()]

    def close(self) -> None:
        if self.is_open:
            for sock in (self._udp, self._tcp):
                self._loop.remove_reader(sock.fileno())
                sock.close()
            for connection in list(self._connections):
                connection.abort()

    # -- UDP ---------------------------------------------------------------------------------------

    def _udp_readable(self) -> None:
        """Answers what has come, up to a round."""
        receive, send, counts, left = self._udp.recvfrom, self._udp.sendto, self._around.counts, _ROUND
        assert self.view
        kept = self.view.kept
        try:
            while left > 0:
                data, peer = receive(_UDP_BYTES)
                counts.questions += 1
                if turn := kept.get(data[2:]):
                    left -= 1
                    counts.kept += 1
                    send(data[:2] + turn(), peer)
                    continue
                left -= _SLOW_COST
                self._answer(data, functools.partial(self._send, peer))
                kept = self.view.kept
        except OSError:
            return  # nothing more, or nobody there to take it, or closed meanwhile

    def _send(self, peer: object, answer: bytes) -> None:
        try:
            self._udp.sendto(answer, peer)  # type: ignore[call-overload]
        except OSError:
            pass  # an answer may get lost; the question comes again

    # -- an answer ---------------------------------------------------------------------------------

    def _answer(self, data: bytes, send: Send, *, tcp: bool = False) -> bool:
        """Calls `send` once, now or later; False for what is no question and gets no answer."""
        assert self.view
        try:
            question = questions.parse(data)
        except questions.Wrong as wrong:
            self._around.counts.wrong += 1
            send(data[:2] + wrong.answer)
            return True
        if question is None:
            self._around.counts.wrong += 1
            return False
        answer = answers.of_names(self.view, question, data, tcp=tcp)
        if answer is None and self._around.catch_up():
            answer = answers.of_names(self.view, question, data, tcp=tcp)
        if answer is None and (rcode := self._rcode_of_other(question)) is not None:
            answer = questions.without_records(question, rcode)
        if answer is not None:
            send(data[:2] + answer)
            return True
        self._forwarded += 1
        limit_bytes = questions.TCP_BYTES if tcp else question.limit_bytes
        self._around.forwarder.ask(question, self.servers, functools.partial(self._forwarded_answer, data[:2], question, limit_bytes, send))
        return True

    def _rcode_of_other(self, question: questions.Question) -> int | None:
        """How a question that is not about a container is answered here; None to forward it."""
        if not self.forward or not self.is_open:
            return int(dns.rcode.SERVFAIL)
        is_single = len(question.name) == question.name[0] + 2
        if is_single and not self.single_labels and question.kind in (questions.A, questions.AAAA):
            return int(dns.rcode.NOERROR)  # without an address, so that the client goes on with its search list
        if self._forwarded >= _MOST_FORWARDED:
            self._around.counts.refused += 1
            return int(dns.rcode.SERVFAIL)
        return None

    def _forwarded_answer(self, identity: bytes, question: questions.Question, limit_bytes: int, send: Send, wire: bytes) -> None:
        self._forwarded -= 1
        if self.is_open:
            send(identity + replies.passed_on(wire, question, limit_bytes))

    # -- TCP ---------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._tcp.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptors left: not again and again at once
            log.warning("a connection cannot be taken: %s", error)
            self._loop.remove_reader(self._tcp.fileno())
            self._loop.call_later(_ACCEPT_AGAIN_S, self._accept_again)
            return
        if len(self._connections) >= _MOST_CONNECTIONS:
            min(self._connections, key=lambda connection: connection.active_s).abort()
        connection = _Connection(self._connections, self._question)
        self._around.tasks.create_task(self._take(sock, connection))

    def _accept_again(self) -> None:
        if self.is_open:
            self._loop.add_reader(self._tcp.fileno(), self._accept)

    async def _take(self, sock: socket.socket, connection: "_Connection") -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError:
            sock.close()

    def _question(self, data: bytes, send: Send) -> bool:
        self._around.counts.questions += 1
        assert self.view
        if turn := self.view.kept.get(answers.kept_key(data, True)):
            self._around.counts.kept += 1
            send(data[:2] + turn())
            return True
        return self._answer(data, send, tcp=True)


class _Connection(asyncio.Protocol):
    """One connection: questions behind each other, answers as they are ready; one that is idle is closed.

    It is not read from while many answers are due or the client does not take those that there are. among: where it is
    while it is open.
    """

    def __init__(self, among: "set[_Connection]", ask: Callable[[bytes, Send], bool]) -> None:
        self._among, self._ask = among, ask
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._due = 0  # answers
        self._is_full = self._has_ended = self._is_awaited = False
        self.active_s = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._among.add(self)
        self._look_later(_IDLE_S)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._among.discard(self)

    def abort(self) -> None:
        self._among.discard(self)
        if self._transport:
            self._transport.abort()

    def _look_later(self, wait_s: float) -> None:
        asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        if self._transport:
            left_s = self.active_s + _IDLE_S - time.monotonic()
            if left_s <= 0:
                self.abort()
            else:
                self._look_later(left_s)

    def data_received(self, data: bytes) -> None:
        self.active_s = time.monotonic()
        self._data += data
        self._go_on()

    def eof_received(self) -> bool:
        """A client may say that it asks no more before it has read the answers."""
        self._has_ended = True
        return not self._is_done

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.active_s = time.monotonic()
        self._go_on()

    def _go_on(self) -> None:
        """Asks what has come in whole, a few at a time; reads on only if more can be asked."""
        at, left = 0, _ROUND // _SLOW_COST
        while self._transport and left and self._due < _MOST_AT_ONCE and not self._is_full and len(self._data) >= at + 2:
            (length,) = struct.unpack_from("!H", self._data, at)
            message = bytes(self._data[at + 2 : at + 2 + length])
            if len(message) < length:
                break
            at += 2 + length
            left -= 1
            self._due += 1
            if not self._ask(message, self._send):
                self.abort()
                return
        del self._data[:at]
        if self._transport is None or self._close_if_done():
            return
        if left and self._due < _MOST_AT_ONCE and not self._is_full and not self._has_ended:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
        if not left:
            self._go_on_later()  # after others had their turn

    def _go_on_later(self) -> None:
        if not self._is_awaited:
            self._is_awaited = True
            asyncio.get_running_loop().call_soon(self._go_on_now)

    def _go_on_now(self) -> None:
        self._is_awaited = False
        self._go_on()

    @property
    def _is_done(self) -> bool:
        """Whether nothing more is to be said: what is left is no whole question, and will not be."""
        return self._has_ended and self._due == 0 and (len(self._data) < 2 or len(self._data) < 2 + int.from_bytes(self._data[:2]))

    def _close_if_done(self) -> bool:
        if (is_done := self._is_done) and self._transport:
            self._transport.close()
        return is_done

    def _send(self, answer: bytes) -> None:
        was_many = self._due >= _MOST_AT_ONCE
        self._due -= 1
        self.active_s = time.monotonic()
        if self._transport:
            self._transport.write(struct.pack("!H", len(answer)) + answer)
            if not self._close_if_done() and was_many:
                self._go_on_later()
