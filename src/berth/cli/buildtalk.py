"""This side of a build's connection: one loop that shows what is told, answers what is asked, and never waits for one thing alone.

The words are in build/wire.py. Answers are generators of frames: of each one frame at a time goes out, when the connection has room.
"""

import os
import select

from berth.build import wire
from berth.cli import buildflags
from berth.cli.buildfiles import Context, Unreadable, Unwritable
from berth.cli.client import NoEngine

try:
    import _socket
except ImportError:
    import socket as _socket  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    from berth.cli.buildoutput import Output
    from berth.cli.client import Response

    class Display(Protocol):
        """Who shows a build."""

        def event(self, event: "dict[str, Any]") -> None: ...

        def tick(self) -> "float | None":
            """Draws what is due; seconds until the next time, None for none."""
            ...

        def resized(self) -> None: ...

        def note(self, text: str) -> None: ...


_READ_BYTES = 256 << 10
_MOST_SECRET_BYTES = 1 << 20


class Sources:
    """What there is to answer with. contexts: by name, '' for the build's; login: AuthConfig of a registry."""

    def __init__(
        self, contexts: "dict[str, Context]", *, secrets: "dict[str, buildflags.Secret]", agents: "dict[str, str]",
        outputs: "list[dict[str, str]]", login: "Callable[[str], dict[str, str]]", archive: bytes = b"",
    ) -> None:  # fmt: skip
        self.contexts, self.secrets, self.agents, self.outputs, self.login = contexts, secrets, agents, outputs, login
        self.archive = archive  # how the archive on standard input begins
        self._values: dict[str, bytes] = {}

    def secret(self, identity: str) -> bytes:
        """Unreadable where it is none. Read once: the file may be a pipe."""
        if identity not in self._values:
            self._values[identity] = self._read(identity)
        return self._values[identity]

    def _read(self, identity: str) -> bytes:
        secret = self.secrets.get(identity)
        if secret is None:
            raise Unreadable(f"there is no secret {identity}")
        if secret.variable:
            if secret.variable not in os.environ:
                raise Unreadable(f"secret {identity}: the variable {secret.variable} is not set")
            return os.environb[os.fsencode(secret.variable)]
        try:
            with open(secret.file, "rb") as file:
                value = file.read(_MOST_SECRET_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"secret {identity}: {secret.file}: {error.strerror}") from None
        if len(value) > _MOST_SECRET_BYTES:
            raise Unreadable(f"secret {identity}: {secret.file} has more than {_MOST_SECRET_BYTES >> 20} MiB")
        return value


class Talk:
    """One build. Close it, whatever happened."""

    def __init__(self, response: "Response", sources: Sources, display: "Display", wake_fd: int) -> None:
        self._sock = response.sock
        self._sources = sources
        self._display = display
        self._wake_fd = wake_fd
        self._decoder = wire.Decoder()
        self._first = response.take_raw()
        self._out: list[bytes] = []
        self._at = 0  # of the first frame, how much has gone
        self._answers: list[tuple[int, Iterator[bytes]]] = []  # by question
        self._agents: dict[int, _socket.socket] = {}
        self._stdin = -1  # the question that standard input answers
        self._outputs: dict[int, Output] = {}
        self._result: dict[str, Any] | None = None
        self._cancelled = False
        self._poll = select.poll()
        self.sent_bytes = 0

    def close(self) -> None:
        for output in self._outputs.values():
            output.abandon()
        for agent in self._agents.values():
            agent.close()
        self._sock.close()

    def run(self, request: "dict[str, Any]", interrupted: "Callable[[], int]") -> "dict[str, Any]":
        """The result. interrupted: how often the person wanted it to end. NoEngine where the engine goes away."""
        self._sock.setblocking(False)
        self._send(wire.encode(wire.REQUEST, request))
        self._poll.register(self._wake_fd, select.POLLIN)
        if self._first:
            self._take(self._first)
        while self._result is None:
            events = select.POLLIN | (select.POLLOUT if self._out or self._answers else 0)
            self._poll.register(self._sock, events)
            timeout_s = self._display.tick()
            for fd, what in self._poll.poll(None if timeout_s is None else max(1, int(timeout_s * 1000))):
                self._ready(fd, what)
            if interrupted() > self._cancelled:
                if self._cancelled:
                    raise KeyboardInterrupt
                self._cancelled = True
                self._send(wire.encode(wire.CANCEL, {}))
                self._display.note("cancelling; once more ends it without waiting")
        self._display.tick()
        return self._result

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def _ready(self, fd: int, what: int) -> None:
        if fd == self._wake_fd:
            os.read(fd, 100)
            self._display.resized()
        elif fd == self._sock.fileno():
            if what & select.POLLOUT:
                self._write()
            if what & ~select.POLLOUT:
                self._read()
        elif fd == 0 and self._stdin >= 0:
            self._from_stdin()
        else:
            self._from_agent(fd)

    # -- the connection -----------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise NoEngine("the engine closed the connection in the middle of the build")
        self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except ValueError as error:
            raise NoEngine(f"the engine says what this command does not know: {error}") from None
        for kind, payload in frames:
            if kind == wire.EVENT:
                self._display.event(wire.decode(payload))
            elif kind == wire.QUESTION:
                self._answer(wire.decode(payload))
            elif kind == wire.DATA:
                self._data(*wire.decode_data(payload))
            elif kind == wire.END:
                self._end(int(wire.decode(payload)["question"]))
            elif kind == wire.RESULT:
                self._result = wire.decode(payload)

    def _send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._write()

    def _write(self) -> None:
        """As much as goes without waiting."""
        try:
            while self._out or self._next():
                frame = self._out[0]
                count = self._sock.send(memoryview(frame)[self._at :])
                self.sent_bytes += count
                self._at += count
                if self._at == len(frame):
                    self._out.pop(0)
                    self._at = 0
        except BlockingIOError:
            pass
        except OSError:
            pass  # reading tells

    def _next(self) -> bool:
        """Puts a frame of the answer whose turn it is into the queue; whether there was one."""
        while self._answers:
            question, frames = self._answers.pop(0)
            try:
                self._out.append(next(frames))
                self._answers.append((question, frames))
            except StopIteration:
                self._out.append(_end(question))
            except Unreadable as error:
                self._out.append(_end(question, str(error)))
            return True
        return False

    # -- answers ------------------------------------------------------------------------------------------

    def _answer(self, asked: "dict[str, Any]") -> None:
        question, what = int(asked["question"]), asked.get("ask")
        try:
            if what in ("list", "files"):
                context = self._sources.contexts.get(str(asked.get("context")))
                if context is None:
                    raise Unreadable(f"there is no context {asked.get('context')!r}")
                frames = context.sending(question, asked["numbers"]) if what == "files" else _pieces(question, context.listing(asked.get("patterns")))
            elif what == "secret":
                frames = _pieces(question, self._sources.secret(str(asked.get("id"))))
            elif what == "auth":
                from berth.models.jsonlite import dumps

                frames = _pieces(question, dumps(self._sources.login(str(asked.get("registry")))).encode())
            elif what == "ssh":
                return self._open_agent(question, str(asked.get("id")))
            elif what == "output":
                return self._open_output(question, int(asked.get("number", -1)))
            elif what == "tar":
                return self._open_stdin(question)
            else:
                raise Unreadable(f"this command does not know {what!r}; it is older than the engine")
        except Unreadable as error:
            self._send(_end(question, str(error)))
            return None
        self._answers.append((question, frames))
        self._write()
        return None

    def _data(self, question: int, data: bytes) -> None:
        if question in self._agents:
            agent = self._agents[question]
            try:
                agent.setblocking(True)  # its words are few, and it waits for them
                agent.sendall(data)
                agent.setblocking(False)
            except OSError:
                self._close_agent(question)
        elif question in self._outputs:
            try:
                self._outputs[question].write(data)
            except Unwritable as error:
                self._outputs.pop(question).abandon()
                self._send(_end(question, str(error)))

    def _end(self, question: int) -> None:
        if question in self._agents:
            self._close_agent(question)
        elif question in self._outputs:
            try:
                self._outputs.pop(question).finish()
                self._send(_end(question))
            except Unwritable as error:
                self._send(_end(question, str(error)))

    def _open_output(self, question: int, number: int) -> None:
        from berth.cli import buildoutput

        if not 0 <= number < len(self._sources.outputs) or not (given := self._sources.outputs[number]).get("dest"):
            raise Unreadable(f"there is no output {number}")
        try:
            self._outputs[question] = buildoutput.opened(given)
        except Unwritable as error:
            raise Unreadable(str(error)) from None

    def _open_agent(self, question: int, identity: str) -> None:
        path = self._sources.agents.get(identity)
        if path is None:
            raise Unreadable(f"there is no ssh agent {identity}")
        agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            agent.connect(path)
        except OSError as error:
            agent.close()
            raise Unreadable(f"the ssh agent at {path} does not answer: {error.strerror}") from None
        agent.setblocking(False)
        self._agents[question] = agent
        self._poll.register(agent, select.POLLIN)

    def _from_agent(self, fd: int) -> None:
        question = next((number for number, agent in self._agents.items() if agent.fileno() == fd), -1)
        if question < 0:
            return
        try:
            data = self._agents[question].recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._send(wire.encode_data(question, data))
        else:
            self._close_agent(question)

    def _close_agent(self, question: int) -> None:
        agent = self._agents.pop(question)
        self._poll.unregister(agent)
        agent.close()
        self._send(_end(question))

    def _open_stdin(self, question: int) -> None:
        if self._sources.archive:
            self._send(wire.encode_data(question, self._sources.archive))
        self._stdin = question
        try:
            self._poll.register(0, select.POLLIN)
        except OSError:
            raise Unreadable("standard input is closed") from None

    def _from_stdin(self) -> None:
        if len(self._out) > 4:
            self._write()
            select.select([], [self._sock], [], 0.1)  # the engine is behind: the archive waits
            return
        data = os.read(0, wire.DATA_BYTES)
        if data:
            self._send(wire.encode_data(self._stdin, data))
            return
        self._poll.unregister(0)
        self._send(_end(self._stdin))
        self._stdin = -1


def _pieces(question: int, data: bytes) -> "Iterator[bytes]":
    for start in range(0, len(data), wire.DATA_BYTES):
        yield wire.encode_data(question, data[start : start + wire.DATA_BYTES])


def _end(question: int, error: str = "") -> bytes:
    return wire.encode(wire.END, {"question": question, **({"error": error} if error else {})})


class Interrupts:
    """Counts SIGINT and SIGTERM, and wakes a loop for these and for SIGWINCH; in a `with`."""

    def __init__(self) -> None:
        self.count = 0
        self.number = 0
        self.wake_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: list[tuple[int, Any]] = []

    def __enter__(self) -> "Interrupts":
        import _signal  # type: ignore[import-not-found]

        self._wake_before = _signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for name, handler in (("SIGINT", self._take), ("SIGTERM", self._take), ("SIGWINCH", lambda number, frame: None)):
            number = getattr(_signal, name)
            self._before.append((number, _signal.signal(number, handler)))
        return self

    def _take(self, number: int, _frame: object) -> None:
        self.count += 1
        self.number = number

    def __exit__(self, *_: object) -> None:
        import _signal

        _signal.set_wakeup_fd(self._wake_before)
        for number, handler in self._before:
            _signal.signal(number, handler)
        os.close(self.wake_fd)
        os.close(self._write_fd)

    def times(self) -> int:
        return self.count
