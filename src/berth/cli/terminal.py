"""Relays a hijacked stream to this process's standard streams: raw mode, window size, Docker's framing."""

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.client import Client, Response
    from berth.cli.flags import Parsed
    from berth.cli.main import Invocation

_READ_BYTES = 32768


class RawTerminal:
    """Standard input in raw mode inside a `with`; does nothing where it is not a terminal or not wanted."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and os.isatty(0)
        self._saved: list | None = None

    def __enter__(self) -> None:
        if self._wanted:
            import termios
            import tty

            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSANOW, self._saved)


def size() -> "tuple[int, int]":
    """Rows and columns of the terminal; (0, 0) where there is none."""
    for fd in (0, 1, 2):
        try:
            columns, rows = os.get_terminal_size(fd)
            return rows, columns
        except OSError:
            continue
    return 0, 0


def detach_keys(call: "Invocation", parsed: "Parsed") -> str:
    """--detach-keys, or what config.json says instead; '' for the engine's own."""
    from berth.cli.configfile import text_setting

    return parsed.text("detach-keys") or text_setting(call.config, "detachKeys")


def follow_size(client: "Client", path: str) -> None:
    """Tells the engine the window's size now and whenever it changes."""
    from _signal import SIGWINCH, signal  # type: ignore[import-not-found]

    def tell(*_: object) -> None:
        rows, columns = size()
        if rows and columns:
            try:
                client.request("POST", f"{path}/resize?h={rows}&w={columns}")
            except Exception:
                pass

    signal(SIGWINCH, tell)
    tell()


def pass_signals_on(client: "Client", identity: str) -> None:
    """--sig-proxy: signals to this process go to the container's program."""
    import _signal

    def forward(number: int, _frame: object) -> None:
        try:
            client.request("POST", f"/containers/{identity}/kill?signal={number}")
        except Exception:
            pass

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        _signal.signal(getattr(_signal, name), forward)


def relay(response: "Response", *, stdin: bool, tty: bool) -> None:
    """Until the engine closes the stream. stdin: whether standard input is passed on."""
    sock = response.sock
    demultiplexer = None if tty else Demultiplexer()
    _out(response.take_raw(), demultiplexer)
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    if stdin:
        poll.register(0, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                data = os.read(0, _READ_BYTES)
                if data:
                    try:
                        sock.sendall(data)
                        continue
                    except (BrokenPipeError, ConnectionResetError):
                        pass
                poll.unregister(0)
                try:
                    sock.shutdown(1)  # SHUT_WR: the program sees the end of its input, we still see its output
                except OSError:
                    pass
            else:
                try:
                    data = sock.recv(_READ_BYTES)
                except ConnectionResetError:
                    data = b""
                if not data:
                    return
                _out(data, demultiplexer)


def _out(data: bytes, demultiplexer: "Demultiplexer | None") -> None:
    if demultiplexer is None:
        write_all(1, data)
        return
    for stream, piece in demultiplexer.feed(data):
        write_all(2 if stream == 2 else 1, piece)


def write_all(fd: int, data: bytes) -> None:
    """Every byte, also to a slow or non-blocking reader."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


class Demultiplexer:
    """Docker's stream framing -> (stream, bytes); passes on parts of a frame as they come."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 1
        self._left = 0

    def feed(self, data: bytes) -> "list[tuple[int, bytes]]":
        found = []
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                found.append((self._stream, piece))
                continue
            need = 8 - len(self._head)
            self._head, data = self._head + data[:need], data[need:]
            if len(self._head) == 8:
                self._stream, self._left = self._head[0], int.from_bytes(self._head[4:], "big")
                self._head = b""
        return found


def is_terminal() -> bool:
    return os.isatty(0)


def check_tty(stdin: bool, tty: bool) -> None:
    """Docker refuses -it where standard input is no terminal."""
    if stdin and tty and not os.isatty(0):
        from berth.cli.flags import Misuse

        raise Misuse("the input device is not a TTY")


