"""Connections to registries: kept open between requests, through proxies, with the certificates a registry needs.

A connection belongs to the thread that took it until it gives it back. `close` ends all of them, also those that
a thread is waiting on, which then sees an OSError.
"""

import http.client
import select
import socket
import ssl
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from berth.errors import InvalidParameter
from berth.registry.client import proxies
from berth.registry.client.keeping import Idle, Key
from berth.registry.client.proxies import Proxy, ProxyFailed
from berth.registry.client.settings import Settings
from berth.registry.client.tlsintls import shut_down
from berth.registry.client.wire import Dial, PlainConnection, TlsConnection

_MOST_IDLE = 8
_MOST_LEFT = 1  # of one kind, to the next session

# An answer's head has bounds of its own in http.client: 100 headers, 64 KiB a line.

class Connections:
    """The pool. `take` and `give` may be called from any thread. idle: connections that are this pool's from now on."""

    def __init__(self, settings: Settings, idle: Idle) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: Idle = {key: list(waiting) for key, waiting in idle.items()}
        self._taken: set[http.client.HTTPConnection] = set()
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self.closed = False

    def take(self, scheme: str, host: str, *, verify: bool) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it was used before (and so may have been closed by the other side meanwhile)."""
        key = (scheme, host, verify)
        with self._lock:
            if self.closed:
                raise OSError("the client is closed")
            if self._drop_ended(key):
                connection = self._idle[key].pop()
                self._taken.add(connection)
                return connection, True
        connection = self._new(scheme, host, verify)
        with self._lock:
            if not self.closed:
                self._taken.add(connection)
                return connection, False
        connection.close()
        raise OSError("the client is closed")

    def has(self, scheme: str, host: str, *, verify: bool) -> bool:
        """Whether one is open and waits."""
        with self._lock:
            return self._drop_ended((scheme, host, verify))

    def _drop_ended(self, key: Key) -> bool:
        """Under the lock. Whether the last of those that wait is alive; those after it that the other side has ended are closed."""
        waiting = self._idle.get(key, [])
        while waiting and not _is_quiet(waiting[-1]):
            waiting.pop().close()
        return bool(waiting)

    def release(self) -> Idle:
        """Connections that wait, for another pool; the others stay this one's."""
        with self._lock:
            left = {key: waiting[-_MOST_LEFT:] for key, waiting in self._idle.items() if waiting}
            for key, waiting in left.items():
                del self._idle[key][-len(waiting) :]
        return left

    def give(self, connection: http.client.HTTPConnection, scheme: str, host: str, *, verify: bool) -> None:
        """Back for the next request; its last response has been read to the end."""
        with self._lock:
            self._taken.discard(connection)
            waiting = self._idle.setdefault((scheme, host, verify), [])
            if not self.closed and len(waiting) < _MOST_IDLE and connection.sock is not None:
                waiting.append(connection)
                return
        connection.close()

    def drop(self, connection: http.client.HTTPConnection) -> None:
        """Its state is not known: it is closed."""
        with self._lock:
            self._taken.discard(connection)
        connection.close()

    def close(self) -> None:
        """Ends all; a thread that reads from one gets an error at once."""
        with self._lock:
            self.closed = True
            idle = [connection for waiting in self._idle.values() for connection in waiting]
            taken = list(self._taken)
            self._idle.clear()
        for connection in idle:
            connection.close()
        for connection in taken:
            sock = connection.sock  # its owner closes it
            if sock is not None:
                with suppress(OSError):
                    shut_down(sock)

    def _new(self, scheme: str, host: str, verify: bool) -> http.client.HTTPConnection:
        found = self._settings.proxy(scheme, host)
        proxy = proxies.parse(found) if found else None
        timeout_s = self._settings.timeout_s
        connection: PlainConnection | TlsConnection
        try:
            target = _split(host, 443 if scheme == "https" else 80)
            if scheme == "https":
                connection = TlsConnection(*target, timeout=timeout_s, dial=self._dial(proxy), context=self._context(host, verify), name=target[0])
                if proxy and proxy.scheme != "socks5":
                    connection.set_tunnel(*target, proxy.headers)
            else:
                connection = PlainConnection(*target, timeout=timeout_s, dial=self._dial(proxy))
        except (http.client.InvalidURL, ValueError) as error:
            raise InvalidParameter(f"{host[:200]!r} is not the address of a registry: {error}") from None
        try:
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except UnicodeError:  # of IDNA
            raise InvalidParameter(f"{host[:200]!r} is not the address of a registry") from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _dial(self, proxy: Proxy | None) -> Dial:
        """What connects to a registry, as far as the proxy if there is one. ProxyFailed where that cannot be reached."""
        def straight(address: tuple[str, int], timeout_s: float, *_: object) -> socket.socket:
            error: OSError | None = None
            for host in self._settings.addresses(address[0]) or [address[0]]:
                try:
                    return socket.create_connection((host, address[1]), timeout_s)
                except OSError as failed:
                    error = failed
            raise error or OSError("no address")

        def through(address: tuple[str, int], timeout_s: float, *_: object) -> socket.socket:
            assert proxy
            try:
                sock = socket.create_connection((proxy.host, proxy.port), timeout_s)
            except OSError as error:
                raise ProxyFailed(proxy.url, error) from None
            try:
                if proxy.scheme == "https":
                    sock = self._wrapped(sock, proxy)
                if proxy.scheme == "socks5":
                    proxies.socks5(sock, proxy, *address, timeout_s)
            except TimeoutError as error:
                sock.close()
                raise ProxyFailed(proxy.url, error) from None
            except BaseException:
                sock.close()
                raise
            return sock

        return through if proxy else straight

    def _wrapped(self, sock: socket.socket, proxy: Proxy) -> ssl.SSLSocket:
        try:
            return self._context(proxy.netloc, True).wrap_socket(sock, server_hostname=proxy.host)
        except OSError as error:
            raise ProxyFailed(proxy.url, error) from None

    def proxied(self, scheme: str, host: str) -> dict[str, str] | None:
        """Headers for a proxy that is asked for whole URLs; None where the request goes straight or through a tunnel."""
        found = self._settings.proxy(scheme, host) if scheme == "http" else ""
        proxy = proxies.parse(found) if found else None
        return proxy.headers if proxy and proxy.scheme != "socks5" else None

    def _context(self, host: str, verify: bool) -> ssl.SSLContext:
        with self._lock:
            context = self._contexts.get((host, verify))
            if context is None:
                context = self._contexts[(host, verify)] = self._make_context(host, verify)
            return context

    def _make_context(self, host: str, verify: bool) -> ssl.SSLContext:
        context = ssl.create_default_context() if verify else _unverified()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        authorities, pairs = self._settings.certificates(host)
        try:
            for file in authorities:
                context.load_verify_locations(file)
            for certificate, key in pairs:
                context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"a certificate for {host} in certs.d cannot be used: {error}") from None
        return context


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether there is nothing to read: neither an end nor an answer that nobody has asked for."""
    sock = connection.sock
    if sock is None:
        return False
    asked = select.poll()
    asked.register(sock.fileno(), select.POLLIN)
    return not asked.poll(0)


def _unverified() -> ssl.SSLContext:
    """Without the host's authorities, which take long to load and would not be asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _split(host: str, default_port: int) -> tuple[str, int]:
    """ValueError where there is no name, or the port is none."""
    parts = urlsplit(f"//{host}")
    if not parts.hostname or "@" in host:
        raise ValueError("no name of a host")
    return parts.hostname, default_port if parts.port is None else parts.port
