"""Runs a registry until a signal: builds it, listens, collects garbage now and then, ends what is under way."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable

from berth import VERSION
from berth.errors import BerthError, Conflict, InvalidParameter, SystemFailure
from berth.http import tls
from berth.http.exchange import Exchange, Handler
from berth.http.protocol import HttpProtocol
from berth.models.prometheus import CONTENT_TYPE
from berth.registry.server.access import Access
from berth.registry.server.app import COMMON_HEADERS, App
from berth.registry.server.cache import Cache
from berth.registry.server.collect import Collector, Report
from berth.registry.server.contents import Contents
from berth.registry.server.index import Index
from berth.registry.server.metrics import Metrics
from berth.registry.server.options import Options
from berth.registry.server.passwords import Passwords
from berth.registry.server.registry import Registry
from berth.registry.server.rights import Rights
from berth.registry.server.storage import Directory, Storage
from berth.registry.server.uploads import Uploads

log = logging.getLogger("berth.registry")

CONTROL = "control.sock"
_LOCK = "lock"
_SAVE_EVERY_S = 10.0
_BACKLOG = 1024


def lock_root(root: str) -> int:
    """Makes the directory and returns a descriptor that keeps others from it; Conflict if one has it."""
    os.makedirs(root, mode=0o700, exist_ok=True)
    fd = os.open(f"{root}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Conflict(f"another registry serves {root}; stop it, or give --root another directory") from None
    return fd


def storage_of(options: Options) -> Storage:
    """As --s3 says, or below --root."""
    if not options.s3:
        return Directory(f"{options.root}/content")
    from berth.registry.server.s3 import bucket

    return bucket(options.s3, options.s3_endpoint, options.s3_region)


def build(options: Options) -> Registry:
    """All parts of a registry; reads the names of its repositories."""
    passwords = Passwords(options.htpasswd) if options.htpasswd else None
    access = Access(
        passwords, anonymous_pull=options.anonymous_pull, tokens=options.tokens, key_file=f"{options.root}/token.key",
        rights=Rights(options.rights) if options.rights else None,
    )  # fmt: skip
    contents = Contents(storage_of(options), grace_s=options.grace_s)
    uploads = Uploads(f"{options.root}/uploads")
    registry = Registry(options, contents, uploads, access, Index(contents), Metrics())
    registry.cache = Cache(registry, options) if options.remote else None
    registry.collector = Collector(contents, uploads, grace_s=options.grace_s, delete_untagged=options.delete_untagged)
    return registry


async def serve(options: Options, ready: Callable[[list[str]], None]) -> None:
    """Until SIGTERM or SIGINT. ready: called with the addresses once requests are answered. Raises BerthError."""
    options.check()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lock_root(options.root))
        context = tls.server_context(options.tls_certificate, options.tls_key, "") if options.tls_certificate else None
        loop.add_signal_handler(signal.SIGHUP, reload_certificate, context, options)
        sockets = [sock for address in options.addresses for sock in listen(address, "--addr", stack)]
        metrics_sockets = listen(options.metrics_address, "--metrics-addr", stack) if options.metrics_address else []
        control = _listen_control(options.root, stack)
        registry = build(options)
        stack.callback(registry.close)
        connections: set[HttpProtocol] = set()
        app = App(registry)
        headers = {**COMMON_HEADERS, "Server": f"berth/{VERSION}"}

        async def start(sock: socket.socket, handler: Handler, *, secure: bool) -> asyncio.AbstractServer:
            def accepted() -> asyncio.Protocol:
                protocol = HttpProtocol(handler, headers, connections)
                return tls.TlsProtocol(context, protocol) if secure and context else protocol

            return await loop.create_server(accepted, sock=sock, backlog=_BACKLOG)

        keeper = Keeper(registry)
        servers = [await start(sock, app.handle, secure=True) for sock in sockets]
        servers += [await start(sock, keeper.metrics, secure=False) for sock in metrics_sockets]
        servers.append(await start(control, keeper.control, secure=False))
        shown = [_shown(sock) for sock in sockets]
        metrics_shown = f", metrics on {_shown(metrics_sockets[0])}" if metrics_sockets else ""
        log.info("registry listening on %s%s", ", ".join(shown), metrics_shown)
        ready(shown)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (keeper.load(), keeper.save_often(), keeper.collect_often())]
            await stop.wait()
            for server in servers:
                server.close()
            log.info("stopping")
            await _drain(connections, options.stop_timeout_s)
            for task in tasks:
                task.cancel()
        await registry.run(registry.index.save)


def reload_certificate(context: ssl.SSLContext | None, options: Options) -> None:
    """For connections from now on; one that cannot be read leaves the old one."""
    if context is None:
        log.info("SIGHUP: there is no certificate to read anew")
        return
    try:
        tls.server_context(options.tls_certificate, options.tls_key, "")  # says what is wrong before anything has changed
        context.load_cert_chain(options.tls_certificate, options.tls_key)
        log.info("certificate %s read anew", options.tls_certificate)
    except (BerthError, OSError) as error:
        log.error("the certificate stays as it was: %s", error)


async def _drain(connections: set[HttpProtocol], timeout_s: float) -> None:
    """Idle connections end now, the others when they have answered, or when the time is up."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while connections and asyncio.get_running_loop().time() < deadline_s:
        for connection in list(connections):
            if connection.idle:
                connection.close()
        await asyncio.sleep(0.02)
    for connection in list(connections):
        connection.close()


class Keeper:
    """What goes on beside the requests: counts are saved, garbage is collected, the host's administrator is answered."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._collecting = asyncio.Lock()

    async def load(self) -> None:
        """Until it is done, search does not know every description."""
        await self._guarded(self._registry.run(self._registry.index.load), "reading the descriptions")

    async def save_often(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            await self._guarded(self._registry.run(self._registry.index.save), "saving pull counts")

    async def collect_often(self) -> None:
        every_s = self._registry.options.collect_every_s
        while every_s:
            await asyncio.sleep(every_s)
            await self._guarded(self.collect(), "garbage collection")

    async def _guarded(self, work: Awaitable[object], what: str) -> None:
        """None of this may end a registry that serves."""
        try:
            await work
        except (OSError, BerthError) as error:
            log.error("%s failed: %s", what, error)
        except Exception:
            log.exception("%s failed", what)

    async def collect(self, *, dry_run: bool = False) -> Report:
        """One collection after the other."""
        assert self._registry.collector is not None
        async with self._collecting:
            report = await self._registry.run(self._registry.collector.collect, dry_run=dry_run)
        metrics = self._registry.metrics
        metrics.collections += 1
        metrics.freed_bytes += 0 if dry_run else report.freed_bytes
        log.info("garbage collection%s: %s", " (dry run)" if dry_run else "", " ".join(f"{k}={v}" for k, v in report.as_json().items()))
        return report

    async def control(self, exchange: Exchange) -> None:
        """Requests of the socket that only this user and root can open."""
        if (exchange.method, exchange.path) != ("POST", "/collect"):
            exchange.respond(404, {"message": "there is nothing at this path"})
            return
        try:
            report = await self.collect(dry_run=exchange.flag("dry-run"))
        except (OSError, BerthError) as error:
            exchange.respond(500, {"message": str(error)})
            return
        exchange.respond(200, report.as_json())

    async def metrics(self, exchange: Exchange) -> None:
        registry = self._registry
        if exchange.path != "/metrics" or exchange.method not in ("GET", "HEAD"):
            exchange.respond_text(404, "404 page not found\n")
            return
        now: dict[str, Callable[[], float]] = {
            "repositories": lambda: len(registry.contents.names), "uploads_under_way": lambda: len(registry.uploads),
        }  # fmt: skip
        exchange.respond_text(200, registry.metrics.text(now), {"Content-Type": CONTENT_TYPE})


# -- sockets ------------------------------------------------------------------------------------------------


def listen(address: str, flag: str, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Sockets for HOST:PORT; an empty host is every address. stack: closes them."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidParameter(f"{flag} {address!r}: expected HOST:PORT, e.g. 0.0.0.0:5000")
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidParameter(f"{flag} {address!r}: {error.strerror}") from None
    sockets = []
    for family, kind, protocol, _, where in dict.fromkeys(found):
        sock = stack.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(where)
            sock.listen(_BACKLOG)
        except OSError as error:
            raise SystemFailure(f"cannot listen on {address}: {error.strerror}") from None
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _listen_control(root: str, stack: contextlib.ExitStack) -> socket.socket:
    path = f"{root}/{CONTROL}"
    _unlink(path)  # of one that was killed: the lock says that nobody has it
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    old_mask = os.umask(0o177)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{CONTROL}")  # a path may be longer than a socket's name
    finally:
        os.umask(old_mask)
        os.close(directory)
    stack.callback(_unlink, path)
    sock.listen(8)
    sock.setblocking(False)
    return sock


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
