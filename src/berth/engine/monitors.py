"""The engine's end of launcher and monitors: sends start requests, reads and writes frames."""

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable

from berth import errors
from berth.linux import sockets
from berth.runtime import frames, launcher

_CONNECT_TIMEOUT_S, _CONNECT_AGAIN_S = 5.0, 0.005
_READ_BYTES = 65536


class Launcher:
    """Owns the launcher process and the socket to it; starts it again should it die."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._descriptor_limits = resource.getrlimit(resource.RLIMIT_NOFILE)  # containers get these, not what the engine has later

    def start(self) -> None:
        """Starts the process; it warms up while the engine goes on starting."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                launcher.command(sys.executable, theirs.fileno()),
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, self._descriptor_limits)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, launcher.MAX_MESSAGE_BYTES)
        self._socket = ours

    def send(self, message: dict, fds: list[int]) -> None:
        """Asks for a monitor. The descriptors are duplicated: the caller closes its own."""
        self.send_encoded(json.dumps(message).encode(), fds)

    def send_encoded(self, data: bytes, fds: list[int]) -> None:
        """As `send`, of a message that is JSON already."""
        if len(data) > launcher.MAX_MESSAGE_BYTES:
            raise errors.InvalidParameter(f"the start request has {len(data)} bytes, more than the launcher takes")
        for attempt in (1, 2):
            try:
                if self._socket is None:
                    self.start()
                assert self._socket is not None
                socket.send_fds(self._socket, [data], fds)
                return
            except OSError as error:
                self.close()
                if attempt == 2:
                    raise errors.Unavailable(f"the launcher does not take requests: {error.strerror}") from error

    def send_exec(self, data: bytes, fds: list[int]) -> None:
        """As `send_encoded`, of an exec by our own runtime: straight to the monitor that waits for one, if there is one."""
        if spare := self._take_spare():
            with spare, contextlib.suppress(OSError):
                socket.send_fds(spare, [data], fds)
                return
        self.send_encoded(data, fds)

    def _take_spare(self) -> socket.socket | None:
        if self._socket is None:
            return None
        try:
            _, fds, _ = sockets.receive_checked(self._socket, 1, 1, wait=False)  # socket.recv_fds passes no flags on
            if not fds:
                return None
            spare = socket.socket(fileno=fds[0])
            self._socket.send(launcher.TAKEN)
        except OSError:
            return None
        return spare

    def close(self) -> None:
        """Ends the launcher; its monitors go on."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self._process:
            self._process.wait()
            self._process = None


class MonitorConnection:
    """One connection to a monitor; owns its socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.on_close: Callable[[], None] = _nothing

    @classmethod
    async def of_socket(cls, sock: socket.socket) -> "MonitorConnection":
        """Takes over a connected socket."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 18)
        return cls(reader, writer)

    @classmethod
    async def of_directory(cls, directory: str, name: str = "monitor.sock") -> "MonitorConnection":
        """Connects to a monitor's socket in a container's run directory; OSError if nobody listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await _connect(sock, f"/proc/self/fd/{fd}/{name}")
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(fd)
        return await cls.of_socket(sock)

    async def read(self) -> tuple[bytes, bytes]:
        """The next frame; (b'', b'') once the monitor is gone."""
        try:
            header = await self._reader.readexactly(frames.HEADER_BYTES)
            kind, length = frames.decode_header(header)
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError, ValueError):
            return b"", b""

    async def frames(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Every frame until the monitor is gone."""
        while (frame := await self.read())[0]:
            yield frame

    async def write(self, kind: bytes, payload: bytes = b"") -> None:
        """Sends a frame, waiting while the monitor's end is full; silent once it is gone."""
        try:
            self._writer.write(frames.encode(kind, payload))
            await self._writer.drain()
        except OSError:
            pass

    async def attach(self, wants: int) -> None:
        await self.write(frames.ATTACH, bytes([wants]))

    async def attach_after_log(self, wants: int) -> tuple[int, int]:
        """As attach; returns the inode of the log and its bytes after which all that comes is new."""
        await self.write(frames.HISTORY, bytes([wants]))
        async for kind, payload in self.frames():
            if kind == frames.HISTORY:
                report = json.loads(payload)
                return report["inode"], report["bytes"]
        return 0, 0

    async def log_growth(self) -> bool:
        """Waits until there is more in the log than at the last call; False once the container has ended."""
        await self.write(frames.LOG)
        async for kind, _ in self.frames():
            if kind in (frames.LOG, frames.EXITED):
                return kind == frames.LOG
        return False

    async def resize(self, rows: int, columns: int) -> None:
        await self.write(frames.RESIZE, struct.pack(">HH", rows & 0xFFFF, columns & 0xFFFF))

    async def send_signal(self, number: int, asked_by: str = "") -> None:
        """asked_by: a word that the monitor keeps with the exit status, so that it is known whoever is killed next."""
        if asked_by:  # a frame of its own: a monitor of an earlier version passes over it
            await self.write(frames.ASKED, asked_by.encode())
        await self.write(frames.SIGNAL, bytes([number]))

    def close(self) -> None:
        self._writer.close()
        self.on_close()


class DirectConnection:
    """A connection to a monitor whose frames are handed to a function as they come; owns its socket.

    For what is short and frequent: it takes no task and no asyncio transport, which cost more than a health check's frames.
    """

    def __init__(self, sock: socket.socket, on_frame: Callable[[bytes, bytes], None]) -> None:
        """on_frame: gets kind and payload; (b'', b'') once the monitor is gone, after which the connection is closed."""
        sock.setblocking(False)
        self._sock = sock
        self._decoder = frames.Decoder()
        self._on_frame = on_frame
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
            found = self._decoder.feed(data)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ValueError):
            data, found = b"", []
        for kind, payload in found:
            self._on_frame(kind, payload)
        if not data:
            self.close()
            self._on_frame(b"", b"")

    async def resize(self, rows: int, columns: int) -> None:
        """Has no terminal."""

    async def send_signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._sock.send(frames.encode(frames.SIGNAL, bytes([number])))

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()


def _nothing() -> None:
    pass


async def _connect(sock: socket.socket, path: str) -> None:
    """Many at once wait for each other: a full backlog is no refusal."""
    deadline_s = time.monotonic() + _CONNECT_TIMEOUT_S
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(_CONNECT_AGAIN_S)


async def await_started(connection: MonitorConnection) -> dict:
    """Waits for S or F. Returns S's report; raises the error that F carries."""
    kind, payload = await connection.read()
    if kind == frames.STARTED:
        return dict(json.loads(payload))
    raise why_not_started(kind, payload)


def why_not_started(kind: bytes, payload: bytes) -> errors.BerthError:
    """The error that a monitor reports with the first frame, or by its end."""
    if kind == frames.FAILED:
        report = json.loads(payload)
        return errors.from_wire(report["kind"], report["message"])
    return errors.SystemFailure("the container's monitor ended before it could start anything; see the engine's log")
