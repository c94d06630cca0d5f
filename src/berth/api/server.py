"""Listens where it was told to, serves until a signal, and leaves no socket behind."""

import asyncio
import contextlib
import grp
import logging
import os
import signal
import socket
import stat

from berth import API_VERSION, VERSION, errors
from berth.api.http1 import HttpProtocol
from berth.api.routes import Api
from berth.engine.options import Options
from berth.engine.service import Engine
from berth.engine.tasks import Tasks

log = logging.getLogger("berth.engine")

_GROUP = "docker"


async def serve(options: Options, ready_fd: int) -> None:
    """Runs an engine. ready_fd: gets a line once requests are served, or -1. Raises BerthError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        engine = Engine(options, tasks)
        connections: set[HttpProtocol] = set()
        paths: list[str] = []
        try:
            await engine.bring_up()
            api = Api(engine)
            headers = {"Api-Version": API_VERSION, "Docker-Experimental": "false", "Ostype": "linux", "Server": f"berth/{VERSION} (linux)"}
            servers = []
            for address in options.hosts:
                sock, path = listen(address)
                paths.append(path)
                servers.append(await loop.create_unix_server(lambda: HttpProtocol(api.handle, headers, connections), sock=sock))
            with open(options.pidfile, "w") as file:
                file.write(str(os.getpid()))
            paths.append(options.pidfile)
            log.info("API listening on %s", ", ".join(options.hosts))
            if ready_fd >= 0:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            await stop.wait()
            for server in servers:
                server.close()
        finally:
            for connection in list(connections):
                connection.close()
            for path in paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            engine.take_down()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()


def listen(address: str) -> tuple[socket.socket, str]:
    """A listening unix socket for `unix://PATH`, open to root and the group docker; and its path."""
    if not address.startswith("unix://"):
        raise errors.NotImplementedHere(f"--host {address!r}: this version of berth listens on unix:// addresses only")
    path = address.removeprefix("unix://")
    if not path.startswith("/"):
        raise errors.InvalidParameter(f"--host {address!r}: the path must be absolute, as in unix:///run/berth/berth.sock")
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    _clear_stale(path, address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except OSError as error:
        sock.close()
        raise errors.SystemFailure(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.close(directory)
        os.umask(old_mask)
    sock.listen(128)
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, 0, grp.getgrnam(_GROUP).gr_gid)
        os.chmod(path, 0o660)
    return sock, path


def _clear_stale(path: str, address: str) -> None:
    """Removes the socket of an engine that was killed; one that answers is somebody's."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise errors.Conflict(f"--host {address}: {path} exists and is not a socket; remove it or choose another")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise errors.Conflict(f"another engine is listening on {path}")
