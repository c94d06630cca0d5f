"""Network namespaces, made before anybody asks for them: the engine's end of the plumber (runtime/plumber.py says what it makes)."""

import asyncio
import json
import os
import socket
from collections import deque
from dataclasses import dataclass

from berth import errors
from berth.engine.monitors import Launcher
from berth.linux import sockets
from berth.runtime import plumber

_SPARES = 3


@dataclass(slots=True)
class DnsSockets:
    """Bound inside a namespace, where port 53 of 127.0.0.11 leads to them. Whoever takes them closes them."""

    udp_fd: int
    tcp_fd: int

    def close(self) -> None:
        for fd in (self.udp_fd, self.tcp_fd):
            os.close(fd)


@dataclass(slots=True)
class Namespace:
    """One that is nobody's yet, and a rtnetlink socket in it; `close` lets it go, unless a process has joined it.

    user_fd: the user namespace that owns it, -1 for the host's.
    """

    fd: int
    route_fd: int
    user_fd: int = -1

    @property
    def path(self) -> str:
        """By which another process of the host's finds it while this one has it open."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def user_path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.user_fd}" if self.user_fd >= 0 else ""

    def close(self) -> None:
        for fd in (self.fd, self.route_fd, self.user_fd):
            if fd >= 0:
                os.close(fd)


class Namespaces:
    """Owns the channel to the plumber and the spare namespaces. The plumber is started when first needed."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._channel: socket.socket | None = None
        self._asked: deque[asyncio.Future[list[int]]] = deque()  # the plumber answers in order
        self._spares: deque[Namespace] = deque()
        self._coming = 0  # spares that have been asked for
        self._tasks: set[asyncio.Task[None]] = set()

    def warm_up(self) -> None:
        """Asks for as many spares as are kept; does not wait."""
        while len(self._spares) + self._coming < _SPARES:
            self._coming += 1
            task = asyncio.get_running_loop().create_task(self._make_spare())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def take(self, mappings: tuple[list[dict], list[dict]] | None) -> Namespace:
        """A namespace with loopback up and nothing else. mappings: of ids, for one that a new user namespace owns, which is
        made when it is asked for. Raises SystemFailure or Unavailable."""
        if mappings:
            request = plumber.USER + json.dumps({"uid": mappings[0], "gid": mappings[1]}).encode()
            user_fd, namespace_fd, route_fd = await self._ask(request)
            return Namespace(namespace_fd, route_fd, user_fd)
        spare = self._spares.popleft() if self._spares else await self._make()
        self.warm_up()
        return spare

    async def enter(self, namespace_fd: int) -> int:
        """A rtnetlink socket in a namespace that is there; the caller's to close."""
        return (await self._ask(plumber.ENTER, namespace_fd))[0]

    async def dns_sockets(self, namespace_fd: int) -> DnsSockets:
        """DNS sockets in a namespace; the way to earlier ones ends."""
        return DnsSockets(*await self._ask(plumber.DNS, namespace_fd))

    async def set_sysctls(self, namespace_fd: int, values: dict[str, str]) -> None:
        """values: by name, net.ipv4.conf.eth0.log_martians. InvalidParameter for what the kernel does not take."""
        await self._ask(plumber.SYSCTLS + json.dumps(values).encode(), namespace_fd)

    def close(self) -> None:
        """Ends the plumber; what it made and somebody uses goes on."""
        for task in self._tasks:
            task.cancel()
        while self._spares:
            self._spares.popleft().close()
        self._lost()

    async def _make_spare(self) -> None:
        try:
            self._spares.append(await self._make())
        except errors.BerthError:
            pass  # whoever needs one asks for it, and hears why there is none
        finally:
            self._coming -= 1

    async def _make(self) -> Namespace:
        return Namespace(*await self._ask(plumber.NEW))

    async def _ask(self, request: bytes, *fds: int) -> list[int]:
        """Once more where the plumber is killed over it: nothing of what it had begun is left."""
        try:
            return await self._ask_once(request, *fds)
        except errors.Unavailable:
            return await self._ask_once(request, *fds)

    async def _ask_once(self, request: bytes, *fds: int) -> list[int]:
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(self._channel or self._start(), [request], list(fds))
        except OSError:  # it was killed
            self._lost()
            socket.send_fds(self._start(), [request], list(fds))
        self._asked.append(answer)
        return await answer

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._launcher.send({"kind": "plumb"}, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        self._channel = ours
        asyncio.get_running_loop().add_reader(ours, self._on_answer)
        return ours

    def _on_answer(self) -> None:
        assert self._channel is not None
        try:
            data, fds, _ = sockets.receive_checked(self._channel, plumber.MESSAGE_BYTES, plumber.MAX_FDS, wait=False)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._lost()
            return
        answer = self._asked.popleft()
        if data[:1] == plumber.REPORT and not answer.cancelled():
            answer.set_result(fds)
            return
        for fd in fds:
            os.close(fd)
        if not answer.cancelled():
            values = json.loads(data[1:])
            answer.set_exception(errors.from_wire(values["kind"], f"network namespace: {values['message']}"))

    def _lost(self) -> None:
        if self._channel:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
            self._channel = None
        while self._asked:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(errors.Unavailable("the process that makes network namespaces was killed; try again"))
