"""The resolver process: the connection to the engine, what it says put into tables, and the sandboxes."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable

import dns.message
import dns.rdatatype

from berth.linux import libc, sockets
from berth.network import etcfiles
from berth.network.dns import answers, control, forwarding, names, questions
from berth.network.dns.channel import Channel
from berth.network.dns.serving import Counts, Sandbox, Surroundings

log = logging.getLogger("berth.resolver")


def main(engine_fd: int, exec_root: str) -> int:
    """Runs until nobody needs it. engine_fd: a connection to the engine."""
    os.set_inheritable(engine_fd, False)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.raiseExceptions = False  # the engine's log may be gone
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _rehearse()
    asyncio.run(Process(exec_root).run(socket.socket(fileno=engine_fd)))
    return 0


def _rehearse() -> None:
    """Whatever Python loads late is loaded now: later there may be no right to read it."""
    table = names.Names()
    table.set_network("", "network")
    table.set_endpoint("", "", ["name"], ["192.0.2.1"])
    view = table.take_view([""], {})
    for kind in ("A", "PTR"):
        data = dns.message.make_query("name", kind, use_edns=0).to_wire()
        if question := questions.parse(data):
            answers.of_names(view, question, data)
    gc.collect()
    gc.freeze()


class Process:
    """All state of the process; one connection to an engine at most, of which the newest counts."""

    def __init__(self, exec_root: str) -> None:
        self._directory = os.open(exec_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._names = names.Names()
        self._sandboxes: dict[str, Sandbox] = {}
        self._pidfds: dict[str, int] = {}
        self._engine: Channel | None = None
        self._counts = Counts()

    async def run(self, engine: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._listen()
        _give_up_capabilities()
        async with asyncio.TaskGroup() as tasks:
            self._forwarder = forwarding.Forwarder(tasks, forwarding.HostServers())
            self._around = Surroundings(tasks, self._forwarder, self._catch_up, self._counts)
            self._connected(engine)
            await self._end.wait()
            for sandbox in self._sandboxes.values():
                sandbox.close()
            sys.stderr.flush()
            os._exit(0)  # what is still out is for nobody

    # -- engines -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Takes the socket's place, whoever had it: the engine that started us is the only one."""
        new = f"{control.SOCKET_NAME}.{os.getpid()}"
        self._listener = socket.socket(fileno=sockets.listen(self._directory, new).detach())
        self._listener.setblocking(False)
        os.rename(new, control.SOCKET_NAME, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._own_inode = os.stat(control.SOCKET_NAME, dir_fd=self._directory).st_ino
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _stop_listening(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            self._connected(self._listener.accept()[0])

    def _connected(self, sock: socket.socket) -> None:
        channel = Channel(sock, self._heard, self._engine_gone)
        if channel.peer[1] not in (0, os.getuid()):
            channel.close()
            return
        if self._engine:
            self._engine.close()
        else:
            self._watch(False)
        self._engine = channel

    def _engine_gone(self) -> None:
        self._engine = None
        self._watch(True)
        self._end_if_unused()

    def _watch(self, is_alone: bool) -> None:
        """While there is no engine to say that a container has ended, its pidfd does."""
        for identity, pidfd in self._pidfds.items():
            if is_alone:
                self._loop.add_reader(pidfd, self._container_ended, identity)
            else:
                self._loop.remove_reader(pidfd)

    def _container_ended(self, identity: str) -> None:
        self._remove(identity)
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._engine or self._sandboxes:
            return
        with contextlib.suppress(OSError):
            if os.stat(control.SOCKET_NAME, dir_fd=self._directory).st_ino == self._own_inode:
                os.unlink(control.SOCKET_NAME, dir_fd=self._directory)
        self._accept()  # an engine may have come by just before
        if self._engine:
            self._stop_listening()
            self._listen()
        else:
            self._end.set()

    def _catch_up(self) -> bool:
        return self._engine.receive() if self._engine else False

    # -- messages ----------------------------------------------------------------------------------

    def _heard(self, message: dict, fds: list[int]) -> None:
        left = list(fds)
        try:
            operation: Callable[[dict, list[int]], None] | None = getattr(self, f"_do_{message.get('op')}", None)
            if operation:  # what a later version says besides is passed over
                operation(message, left)
        except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            log.error("the engine said what cannot be done: %s (%s: %s)", message.get("op"), type(error).__name__, error)
        finally:
            control.close_all(left)

    def _do_hello(self, message: dict, fds: list[int]) -> None:
        assert self._engine
        for identity, sandbox in self._sandboxes.items():
            pidfd = self._pidfds.get(identity, -1)
            fds = [os.dup(fd) for fd in (*sandbox.fds, pidfd) if fd >= 0]  # they may be closed before they are sent
            self._engine.send(control.encode("sandbox", id=identity), fds, close=fds)
        self._engine.send(control.encode("end", version=control.VERSION))

    def _do_leave(self, message: dict, fds: list[int]) -> None:
        self._end.set()

    def _do_sync(self, message: dict, fds: list[int]) -> None:
        self._names.round += 1

    def _do_synced(self, message: dict, fds: list[int]) -> None:
        self._names.drop_unnamed()

    def _do_network(self, message: dict, fds: list[int]) -> None:
        self._names.set_network(message["id"], message["name"])

    def _do_unnetwork(self, message: dict, fds: list[int]) -> None:
        self._names.remove_network(message["id"])

    def _do_endpoint(self, message: dict, fds: list[int]) -> None:
        self._names.set_endpoint(message["network"], message["id"], message["names"], message["addresses"])

    def _do_unendpoint(self, message: dict, fds: list[int]) -> None:
        self._names.remove_endpoint(message["network"], message["id"])

    def _do_add(self, message: dict, fds: list[int]) -> None:
        self._remove(message["id"])
        self._do_set(message, fds)

    def _do_set(self, message: dict, fds: list[int]) -> None:
        sandbox = self._sandboxes.get(message["id"])
        servers = forwarding.servers_of([server for server in message["upstreams"] if server != etcfiles.RESOLVER])  # that is ourselves
        view = self._names.take_view(message["networks"], message["links"])
        if sandbox is None:
            udp_fd, tcp_fd = fds
            sandbox = self._sandboxes[message["id"]] = Sandbox(self._around, udp_fd, tcp_fd)
            fds.clear()
        earlier, sandbox.view = sandbox.view, view
        if earlier:
            self._names.give_back(earlier)
        sandbox.servers, sandbox.forward, sandbox.single_labels = servers, message["forward"], message["single_labels"]

    def _do_watch(self, message: dict, fds: list[int]) -> None:
        if message["id"] in self._sandboxes and fds:
            if (earlier := self._pidfds.pop(message["id"], -1)) >= 0:
                os.close(earlier)
            self._pidfds[message["id"]] = fds.pop()

    def _do_remove(self, message: dict, fds: list[int]) -> None:
        self._remove(message["id"])

    def _do_ping(self, message: dict, fds: list[int]) -> None:
        assert self._engine
        self._engine.send(control.encode("reply"))

    def _do_stats(self, message: dict, fds: list[int]) -> None:
        assert self._engine
        stats = {
            "questions": self._counts.questions, "kept": self._counts.kept, "wrong": self._counts.wrong, "refused": self._counts.refused,
            "forwarded": self._forwarder.count, "cached": len(self._forwarder.cache), "cached_bytes": self._forwarder.cache.size_bytes,
            "sandboxes": len(self._sandboxes), "networks": len(self._names.networks),
            "endpoints": sum(len(network.endpoints) for network in self._names.networks.values()),
        }  # fmt: skip
        self._engine.send(control.encode("reply", stats=stats))

    def _remove(self, identity: str) -> None:
        if (pidfd := self._pidfds.pop(identity, -1)) >= 0:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
        if sandbox := self._sandboxes.pop(identity, None):
            sandbox.close()
            if sandbox.view:
                self._names.give_back(sandbox.view)


def _give_up_capabilities() -> None:
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.capset(0, 0, 0)
