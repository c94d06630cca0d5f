"""The engine's handle to the resolver process (resolver.py): which containers ask, and which names there are.

    resolver = await Resolver.start(exec_root)              # finds one that outlived an earlier engine, or starts none yet
    await resolver.set_network(network.id, network.name)
    await resolver.add_sandbox(container_id, udp_fd, tcp_fd, networks=[network.id])
    await resolver.add_endpoint(network.id, endpoint_id, ["web", "0123456789ab", "alias"], ["172.18.0.2"])
    await resolver.synced()                                 # once, after everything that there is has been named

Every method but `start`, `flushed` and `stats` only puts a message into a socket, or behind others that wait, and never
suspends. All of it may be called in any order, for what is known already too. What was said is kept here: a resolver that
is killed is started again and told everything, and gets the same sockets, so that not even the questions that wait in
them are lost.

Descriptors: `add_sandbox` and `watch_sandbox` take over what they are given, whatever happens; the handle keeps them open
until `remove_sandbox` or `close`. They hold the container's network namespace.
"""

import asyncio
import collections
import contextlib
import functools
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from berth import errors
from berth.linux import sockets
from berth.network import resolver as process
from berth.network.dns import control
from berth.network.dns.channel import Channel

log = logging.getLogger("berth.network.resolver")

_ANSWER_TIMEOUT_S = 5.0
_RESTART_S = 1.0  # between two that ended by themselves


@dataclass(slots=True)
class _Sandbox:
    fds: list[int]
    pidfd: int = -1
    fields: dict = field(default_factory=dict)  # as sent; empty: one of an earlier engine's, not named by this one yet

    @property
    def every_fd(self) -> list[int]:
        return [*self.fds, self.pidfd] if self.pidfd >= 0 else self.fds


class Resolver:
    """Owns the connection to the process and a duplicate of every socket that is served there."""

    def __init__(self, exec_root: str) -> None:
        self._exec_root = exec_root
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._sandboxes: dict[str, _Sandbox] = {}
        self._networks: dict[str, str] = {}
        self._endpoints: dict[str, dict[str, bytes]] = {}  # by network, then endpoint: the message
        self._replies: collections.deque[asyncio.Future[dict]] = collections.deque()
        self._started_s = 0.0
        self._again: asyncio.TimerHandle | None = None

    # -- the process -------------------------------------------------------------------------------

    @classmethod
    async def start(cls, exec_root: str) -> "Resolver":
        """Connects to the resolver that an earlier engine left, if there is one: `known` are the containers that it serves."""
        handle = cls(exec_root)
        try:
            sock = socket.socket(fileno=sockets.connect(f"{exec_root}/{control.SOCKET_NAME}", sockets.SOCK_SEQPACKET).detach())
        except OSError:
            return handle
        await handle._take_over(sock)
        return handle

    @property
    def known(self) -> frozenset[str]:
        """The sandboxes that need no `add_sandbox`: those added, and after `start` those that an earlier engine's resolver serves."""
        return frozenset(self._sandboxes)

    @property
    def pid(self) -> int:
        """Of the process; 0 where there is none."""
        if self._channel is None:
            return 0
        return self._process.pid if self._process else self._channel.peer[0]

    def warm_up(self) -> None:
        """Starts the process if there is none; else the first sandbox does."""
        if self._channel is None and self._again is None:
            self._spawn()

    def close(self) -> None:
        """Disconnects; the process goes on as long as it has a container to answer."""
        if self._again:
            self._again.cancel()
            self._again = None
        self._disconnect()
        if self._process and self._process.poll() is None:
            self._process.returncode = 0  # it outlives us: nobody waits for it
        for sandbox in self._sandboxes.values():
            control.close_all(sandbox.every_fd)
        self._sandboxes.clear()

    async def _take_over(self, sock: socket.socket) -> None:
        """Learns what an earlier engine's resolver has; one of another version has to go, as has one that does not answer."""
        version: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        channel = Channel(sock, functools.partial(self._told, version), functools.partial(_failed, version))
        channel.send(control.encode("hello", version=control.VERSION))
        pid = channel.peer[0]
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                if await version == control.VERSION:
                    channel.on_message, channel.on_end = self._heard, self._lost
                    channel.send(control.encode("sync"))
                    self._channel = channel
                    return
            log.info("the resolver of an earlier version hands its containers over")
            channel.send(control.encode("leave"))
        except (EOFError, TimeoutError):
            log.warning("the resolver with pid %d does not answer; another one is started", pid)
            _kill(pid)
        channel.close()
        if self._sandboxes:
            self._spawn_again()

    def _told(self, version: "asyncio.Future[str]", message: dict, fds: list[int]) -> None:
        """What an earlier engine's resolver says of itself, up to `end`."""
        if message["op"] == "sandbox" and len(fds) >= 2:
            self._sandboxes[message["id"]] = _Sandbox(fds[:2], fds[2] if len(fds) > 2 else -1)
            return
        control.close_all(fds)
        if message["op"] == "end" and not version.done():
            version.set_result(str(message["version"]))

    def _spawn(self) -> None:
        if importlib.util.find_spec("dns") is None:
            raise errors.Unavailable("names of containers need the Python package dnspython; install it, in a clone with tools/setup")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                process.command(sys.executable, theirs.fileno(), self._exec_root),
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
            )  # fmt: skip
        self._started_s = time.monotonic()
        self._channel = Channel(ours, self._heard, self._lost)
        for identity, name in self._networks.items():
            self._send(control.encode("network", id=identity, name=name))
        for endpoints in self._endpoints.values():
            for message in endpoints.values():
                self._send(message)
        for identity, sandbox in self._sandboxes.items():
            if sandbox.fields:
                self._send_sandbox("add", identity, sandbox)

    def _disconnect(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
        while self._replies:
            if not (reply := self._replies.popleft()).done():
                reply.set_exception(errors.Unavailable("the resolver has ended"))

    def _lost(self) -> None:
        """The process has ended: another one, at once or, if this one was short-lived, a little later."""
        log.warning("the resolver has ended; it is started again")
        self._disconnect()
        if self._process:
            self._process.kill()  # it has ended, or is about to, or is of no use any more
            self._process.wait()
            self._process = None
        self._spawn_later(max(0.0, self._started_s + _RESTART_S - time.monotonic()) if self._started_s else 0.0)

    def _spawn_later(self, wait_s: float) -> None:
        self._again = asyncio.get_running_loop().call_later(wait_s, self._spawn_again)

    def _spawn_again(self) -> None:
        self._again = None
        try:
            self._spawn()
        except (OSError, errors.BerthError) as error:
            log.error("the resolver cannot be started: %s", error)
            self._disconnect()
            self._spawn_later(_RESTART_S)

    # -- messages ----------------------------------------------------------------------------------

    def _send(self, message: bytes, fds: Sequence[int] = (), *, close: Sequence[int] = ()) -> None:
        """Sends it; where there is no process it is lost, and the next one is told all that is known here."""
        if self._channel:
            self._channel.send(message, fds, close=close)
        else:
            control.close_all(close)

    def _heard(self, message: dict, fds: list[int]) -> None:
        control.close_all(fds)
        if message.get("op") == "reply" and self._replies and not (reply := self._replies.popleft()).done():
            reply.set_result(message)

    async def _ask(self, operation: str) -> dict:
        self.warm_up()
        if self._channel is None:
            raise errors.Unavailable("the resolver is being started again")
        reply: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        self._send(control.encode(operation))
        return await reply

    async def flushed(self) -> None:
        """Returns once the process has acted on all that was said before; raises Unavailable if it ends meanwhile, or has."""
        await self._ask("ping")

    async def stats(self) -> dict[str, int]:
        """What the process has counted since it was started: questions, forwarded, sandboxes, names …"""
        return dict((await self._ask("stats"))["stats"])

    # -- names -------------------------------------------------------------------------------------

    async def set_network(self, network_id: str, name: str) -> None:
        """name: containers answer to `container.name` too."""
        self._networks[network_id] = name
        self._send(control.encode("network", id=network_id, name=name))

    async def remove_network(self, network_id: str) -> None:
        """With all its endpoints."""
        self._networks.pop(network_id, None)
        self._endpoints.pop(network_id, None)
        self._send(control.encode("unnetwork", id=network_id))

    async def add_endpoint(self, network_id: str, endpoint_id: str, names: Sequence[str], addresses: Sequence[str]) -> None:
        """Names of one endpoint in a network, with or without addresses so far; an endpoint that exists is replaced.

        names: the container's own first (the answer to a question for the name of an address), then its short id and its aliases.
        Several endpoints may have one name: all of their addresses are the answer.
        """
        message = control.encode("endpoint", network=network_id, id=endpoint_id, names=list(names), addresses=list(addresses))
        self._send(message)
        self._endpoints.setdefault(network_id, {})[endpoint_id] = message

    async def remove_endpoint(self, network_id: str, endpoint_id: str) -> None:
        self._endpoints.get(network_id, {}).pop(endpoint_id, None)
        self._send(control.encode("unendpoint", network=network_id, id=endpoint_id))

    # -- containers --------------------------------------------------------------------------------

    async def add_sandbox(
        self, sandbox_id: str, udp_fd: int, tcp_fd: int, *, networks: Sequence[str], upstreams: Sequence[str] = (), forward: bool = True,
        links: Mapping[str, Mapping[str, str]] | None = None, single_labels: bool = True,
    ) -> None:  # fmt: skip
        """A container that asks on these sockets (both bound, the second one listening), which are the handle's from now on.

        networks: whose names it sees, the first one that has a name answers; upstreams: addresses of the servers that are asked
        for all else, none for the host's own as /etc/resolv.conf names them at the time; forward: False where all its networks
        are internal; links: by network, names that this container alone has for others'; single_labels: whether a name without
        a dot is forwarded (not if `--dns-opt ndots:N` with N above 0 was given).
        """
        sandbox = _Sandbox([udp_fd, tcp_fd], fields=_fields(networks, upstreams, forward, links, single_labels))
        try:
            await self.remove_sandbox(sandbox_id)
            self.warm_up()
            self._send_sandbox("add", sandbox_id, sandbox)
        except BaseException:
            control.close_all(sandbox.fds)
            raise
        self._sandboxes[sandbox_id] = sandbox

    async def set_sandbox(
        self, sandbox_id: str, *, networks: Sequence[str], upstreams: Sequence[str] = (), forward: bool = True,
        links: Mapping[str, Mapping[str, str]] | None = None, single_labels: bool = True,
    ) -> None:  # fmt: skip
        """As `add_sandbox` for one that is in `known`: with the sockets that it has. KeyError for one that is not."""
        sandbox = self._sandboxes[sandbox_id]
        sandbox.fields = _fields(networks, upstreams, forward, links, single_labels)
        self._send_sandbox("set", sandbox_id, sandbox)

    async def watch_sandbox(self, sandbox_id: str, pidfd: int) -> None:
        """Has the process end a sandbox by itself while no engine is connected, once the pidfd, the handle's from now on, says so."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            os.close(pidfd)
            return
        earlier, sandbox.pidfd = sandbox.pidfd, pidfd
        self._send(control.encode("watch", id=sandbox_id), [pidfd], close=[earlier] * (earlier >= 0))

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Closes its sockets, here and there; nothing if there is none."""
        with contextlib.suppress(KeyError):
            self._drop(sandbox_id)

    async def synced(self) -> None:
        """All that exists has been named: what an earlier engine's resolver has besides is dropped."""
        for identity in [identity for identity, sandbox in self._sandboxes.items() if not sandbox.fields]:
            self._drop(identity)
        self._send(control.encode("synced"))

    def _send_sandbox(self, operation: str, identity: str, sandbox: _Sandbox) -> None:
        self._send(control.encode(operation, id=identity, **sandbox.fields), sandbox.fds)
        if sandbox.pidfd >= 0:
            self._send(control.encode("watch", id=identity), [sandbox.pidfd])

    def _drop(self, identity: str) -> None:
        sandbox = self._sandboxes.pop(identity)
        self._send(control.encode("remove", id=identity), close=sandbox.every_fd)


def _fields(
    networks: Sequence[str], upstreams: Sequence[str], forward: bool, links: Mapping[str, Mapping[str, str]] | None, single_labels: bool
) -> dict:
    return {
        "networks": list(networks), "upstreams": list(upstreams), "forward": forward,
        "links": {network: dict(names) for network, names in (links or {}).items()}, "single_labels": single_labels,
    }  # fmt: skip


def _failed(version: "asyncio.Future[str]") -> None:
    if not version.done():
        version.set_exception(EOFError())


def _kill(pid: int) -> None:
    """Ends the resolver at the other end, unless it has ended already."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/comm") as file:
            if file.read().strip() == process.NAME:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)
