"""Connections to registries: kept open between requests, through proxies, with the certificates a registry needs.

A connection belongs to the thread that took it until it gives it back. `close` ends all of them, also those that
a thread is waiting on, which then sees an OSError.
"""

import http.client
import socket
import ssl
import threading
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from berth.errors import InvalidParameter
from berth.registry.client.challenge import Credentials
from berth.registry.client.settings import Settings
from berth.registry.client.wire import PlainConnection, TlsConnection

_MOST_IDLE = 8

# An answer's head has bounds of its own in http.client: 100 headers, 64 KiB a line.

Key = tuple[str, str, bool]  # scheme, host with port, whether certificates are checked


class Connections:
    """The pool. `take` and `give` may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: dict[Key, list[http.client.HTTPConnection]] = {}
        self._taken: set[http.client.HTTPConnection] = set()
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self.closed = False

    def take(self, scheme: str, host: str, *, verify: bool) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it was used before (and so may have been closed by the other side meanwhile)."""
        key = (scheme, host, verify)
        with self._lock:
            if self.closed:
                raise OSError("the client is closed")
            waiting = self._idle.get(key)
            if waiting:
                connection = waiting.pop()
                self._taken.add(connection)
                return connection, True
        connection = self._new(scheme, host, verify)
        with self._lock:
            if not self.closed:
                self._taken.add(connection)
                return connection, False
        connection.close()
        raise OSError("the client is closed")

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
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _new(self, scheme: str, host: str, verify: bool) -> http.client.HTTPConnection:
        proxy = self._settings.proxy(scheme, host)
        timeout_s = self._settings.timeout_s
        connection: PlainConnection | TlsConnection
        try:
            target = _split(host, 443 if scheme == "https" else 80)
            address = _split_proxy(proxy) if proxy else target
            if scheme == "https":
                connection = TlsConnection(*address, timeout=timeout_s, context=self._context(host, verify))
                if proxy:
                    connection.set_tunnel(*target, _proxy_headers(proxy))
            else:
                connection = PlainConnection(*address, timeout=timeout_s)
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

    def proxied(self, scheme: str, host: str) -> dict[str, str] | None:
        """Headers for a proxy that is asked for whole URLs; None where the request goes straight or through a tunnel."""
        proxy = self._settings.proxy(scheme, host) if scheme == "http" else ""
        return _proxy_headers(proxy) if proxy else None

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


def _split_proxy(proxy: str) -> tuple[str, int]:
    parts = urlsplit(proxy)
    if parts.scheme != "http":
        raise InvalidParameter(f"proxy {_without_password(proxy)!r}: only proxies with http:// are known")
    return _split(parts.netloc.rpartition("@")[2], 80)


def _without_password(proxy: str) -> str:
    return f"{proxy.partition('://')[0]}://{proxy.rpartition('@')[2].rpartition('://')[2]}"[:200]


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    return {"Proxy-Authorization": Credentials(unquote(parts.username), unquote(parts.password or "")).basic}
