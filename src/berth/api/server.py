"""Serves until a signal, at every address it was told, and leaves no socket behind."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable

from berth import API_VERSION, VERSION
from berth.api.listen import Listener, listen_all, listen_metrics
from berth.api.metrics import MetricsPage
from berth.api.routes import Api
from berth.engine.options import Options
from berth.engine.service import Engine
from berth.engine.tasks import Tasks
from berth.errors import BerthError
from berth.http.exchange import Handler
from berth.http.protocol import HttpProtocol
from berth.http.tls import TlsProtocol

log = logging.getLogger("berth.engine")


async def serve(options: Options, ready_fd: int, reread: Callable[[], tuple[Options, list[str]]]) -> None:
    """Runs an engine. ready_fd: gets a line once requests are served, or -1; reread: the options anew, for SIGHUP. Raises BerthError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        engine = Engine(options, tasks)
        connections: set[HttpProtocol] = set()
        listeners: list[Listener] = []
        pidfile = ""
        try:
            listeners = listen_all(options)
            metrics_listeners = [Listener(sock) for sock in listen_metrics(options.metrics_addr)] if options.metrics_addr else []
            await engine.bring_up()
            raise_descriptor_limit()
            loop.add_signal_handler(signal.SIGHUP, _reload, engine, reread)
            api = Api(engine)
            experimental = "true" if options.experimental else "false"
            headers = {"Api-Version": API_VERSION, "Docker-Experimental": experimental, "Ostype": "linux", "Server": f"berth/{VERSION} (linux)"}
            servers = [await _serve(listener, api.handle, headers, connections) for listener in listeners]
            page = MetricsPage(engine, api.metrics)
            servers += [await _serve(listener, page.handle, {}, connections) for listener in metrics_listeners]
            with open(options.pidfile, "w") as file:
                file.write(str(os.getpid()))
            pidfile = options.pidfile
            log.info("API listening on %s", ", ".join(options.hosts))
            if ready_fd >= 0:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            notify("READY=1")
            await stop.wait()
            engine.ending.set()
            notify("STOPPING=1")
            for server in servers:
                server.close()
            if not options.live_restore:
                await engine.stop_containers()
        finally:
            for connection in list(connections):
                connection.close()
            for path in [*(listener.path for listener in listeners), pidfile]:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            await engine.take_down()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()


async def _serve(
    listener: Listener, handler: Handler, headers: dict[str, str], connections: set[HttpProtocol]
) -> asyncio.AbstractServer:
    def accepted() -> asyncio.Protocol:
        protocol = HttpProtocol(handler, headers, connections)
        return TlsProtocol(listener.context, protocol) if listener.context else protocol

    # create_server for unix sockets too: create_unix_server would remove the file of a socket that is systemd's.
    return await asyncio.get_running_loop().create_server(accepted, sock=listener.sock, backlog=1024)


def _reload(engine: Engine, reread: Callable[[], tuple[Options, list[str]]]) -> None:
    try:
        options, notes = reread()
        for note in notes:
            log.warning("%s", note)
        engine.reload(options)
    except BerthError as error:
        log.error("configuration not reloaded, the old one stays: %s", error)


def notify(state: str) -> None:
    """Tells systemd, where it is systemd that started us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), address.replace("@", "\0", 1))


def raise_descriptor_limit() -> None:
    """A connection is a descriptor; the soft limit is for programs that use select. The launcher keeps it for containers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
