"""Attach and exec streams: a monitor's frames on one side, a client's connection on the other.

Without a terminal the two outputs are multiplexed as Docker does: one byte of stream (1 or 2), three
of zero, four of length, then the bytes.
"""

import asyncio
import json
import struct
from typing import Protocol
from urllib.parse import quote_plus

from berth.engine.logs import Run
from berth.engine.monitors import MonitorConnection
from berth.errors import InvalidParameter
from berth.http.body import Disconnected
from berth.http.exchange import Exchange
from berth.runtime import frames

RAW, MULTIPLEXED = "application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream"
_LAST_INPUT_S = 10
_DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


def content_type(exchange: Exchange, tty: bool) -> str:
    """Of a stream of output; older clients know one type only."""
    return MULTIPLEXED if is_at_least(exchange, 42) and not tty else RAW


def is_at_least(exchange: Exchange, minor: int) -> bool:
    """Whether the client speaks version 1.MINOR or later."""
    return version_numbers(exchange.version) >= (1, minor)


def version_numbers(version: str) -> tuple[int, ...]:
    """'1.41' -> (1, 41), to be compared."""
    return tuple(int(piece or 0) for piece in version.split("."))


def multiplexed(stream: str, data: bytes) -> bytes:
    """One piece of output in Docker's framing."""
    return struct.pack(">BxxxI", 2 if stream == "stderr" else 1, len(data)) + data


class _Heads(dict[int, bytes]):
    """Length -> frame header of one stream, made once."""

    def __init__(self, stream: str) -> None:
        super().__init__()
        self._number = 2 if stream == "stderr" else 1

    def __missing__(self, length: int) -> bytes:
        self[length] = head = struct.pack(">BxxxI", self._number, length)
        return head


class LogForm:
    """What a client of `logs` gets of a run: each entry a frame of its own, as clients that read by line expect.

    chosen: of `stdout` and `stderr`; attrs: of every entry that has none of its own, as JSON.
    """

    def __init__(self, chosen: set[str], *, tty: bool, timestamps: bool = False, details: bool = False, attrs: str = "") -> None:
        self._heads = None if tty else {name: _Heads(name) for name in chosen}
        self._chosen = chosen
        self._timestamps = timestamps
        self._details = details
        self._attrs = attrs

    def __call__(self, run: Run) -> bytes:
        if run.stream not in self._chosen:
            return b""
        prefix = f"{run.stamp} ".encode() if self._timestamps else b""
        if self._details:
            prefix += f"{details_text(run.attrs or self._attrs)} ".encode()
        ends = run.data.endswith(b"\n")
        lines = (run.data[:-1] if ends else run.data).split(b"\n")
        if self._heads is None:
            return b"".join((prefix, (b"\n" + prefix).join(lines), b"\n" if ends else b""))
        heads, more = self._heads[run.stream], len(prefix) + ends
        return b"\n".join([heads[len(line) + more] + prefix + line for line in lines]) + (b"\n" if ends else b"")


def details_text(attrs: str) -> str:
    """`k=v,k=v`, sorted and quoted, as `logs --details` shows attributes."""
    values = json.loads(attrs) if attrs else {}
    return ",".join(f"{quote_plus(str(k))}={quote_plus(str(v))}" for k, v in sorted(values.items()))


def parse_detach_keys(text: str, words: str = "detach keys") -> bytes:
    """`ctrl-p,ctrl-q` -> b'\\x10\\x11'; InvalidParameter, in Docker's words, for what is not a key."""
    found = bytearray()
    for key in (text or _DEFAULT_DETACH_KEYS).split(","):
        if len(key) == 1 and key.isascii():
            found += key.encode()
        elif key.startswith("ctrl-") and len(key) == 6 and ("a" <= key[5].lower() <= "z" or key[5] in "@[\\]^_"):
            found.append(ord(key[5].upper()) & 0x1F)
        else:
            raise InvalidParameter(f"Invalid {words} ({text}) provided")
    return bytes(found)


class DetachFilter:
    """Watches standard input for the detach keys; holds back a part that may be their beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the whole sequence was seen."""
        if not self._matched and self._keys[0] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            held = self._keys[: self._matched] + bytes((byte,))
            while not self._keys.startswith(held):  # the end of what is held may begin the keys again
                out.append(held[0])
                held = held[1:]
            self._matched = len(held)
            if held == self._keys:
                self._matched = 0
                return bytes(out), True
        return bytes(out), False


class Client(Protocol):
    """A connection that HTTP has left: exchange.Hijacked, websocket.WebSocket."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def gone(self) -> None: ...

    def close(self) -> None: ...


async def relay(
    client: Client, monitor: MonitorConnection, *, stdin: bool, close_stdin: bool, multiplex: bool, detach_keys: bytes
) -> bool:
    """Both directions until the program ends, the client goes, or detaches (then True). Closes both ends.

    close_stdin: whether the end of the client's input is the end of the program's too (StdinOnce).
    detach_keys: b'' where there is no terminal to type them at.
    """
    output = asyncio.ensure_future(_output(client, monitor, multiplex=multiplex))
    detach = DetachFilter(detach_keys) if detach_keys else None
    input_ = asyncio.ensure_future(_input(client, monitor, detach, pass_on=stdin, close=stdin and close_stdin))
    gone = asyncio.ensure_future(client.gone())
    try:
        # The end of input is not the end; a detach or a lost client is.
        while not (output.done() or gone.done()):
            await asyncio.wait({task for task in (output, input_, gone) if not task.done()}, return_when=asyncio.FIRST_COMPLETED)
            if input_.done() and input_.exception() is None and input_.result():
                break
        if gone.done() and not input_.done():  # what it sent before it left is the program's
            await asyncio.wait({input_}, timeout=_LAST_INPUT_S)
    finally:
        for task in (output, input_, gone):
            task.cancel()
        await asyncio.gather(output, input_, gone, return_exceptions=True)
        monitor.close()
        client.close()
    return not input_.cancelled() and input_.exception() is None and input_.result()


async def _output(client: Client, monitor: MonitorConnection, *, multiplex: bool) -> None:
    async for kind, payload in monitor.frames():
        if kind in (frames.STDOUT, frames.STDERR):
            data = multiplexed("stderr" if kind == frames.STDERR else "stdout", payload) if multiplex else payload
            await client.write(data)
        elif kind in (frames.EXITED, frames.FAILED):
            return


async def _input(
    client: Client, monitor: MonitorConnection, detach: DetachFilter | None, *, pass_on: bool, close: bool
) -> bool:
    """True if the person detached."""
    while data := await client.read():
        found = False
        if detach:
            data, found = detach.feed(data)
        if data and pass_on:
            await monitor.write(frames.STDIN, data)
        if found:
            return True
    if close:
        await monitor.write(frames.CLOSE)
    return False


__all__ = ["Disconnected", "multiplexed", "parse_detach_keys", "relay"]
