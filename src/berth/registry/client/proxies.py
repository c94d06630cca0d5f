"""Proxies as the environment names them, and the greeting of SOCKS 5 (RFC 1928, RFC 1929)."""

import socket
import struct
import time
from urllib.parse import unquote, urlsplit

from berth.errors import InvalidParameter
from berth.registry.client.challenge import Credentials

_PORTS = {"http": 80, "https": 443, "socks5": 1080}
_REFUSALS = {
    1: "general failure", 2: "not allowed by its rules", 3: "network is unreachable", 4: "no route to host", 5: "connection refused",
    6: "it took too long", 7: "it knows no connect", 8: "it knows no such address",
}  # fmt: skip
_NO_AUTHENTICATION, _PASSWORD, _NONE = 0, 2, 255


class ProxyFailed(OSError):
    """No connection to the proxy itself. url: of the proxy, without a password; cause: why."""

    def __init__(self, url: str, cause: Exception) -> None:
        super().__init__(str(cause))
        self.url = url
        self.cause = cause


class Proxy:
    """scheme: http, https or socks5; who: '' for nobody in particular."""

    __slots__ = ("host", "password", "port", "scheme", "who")

    def __init__(self, scheme: str, host: str, port: int, who: str = "", password: str = "") -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.who = who
        self.password = password

    @property
    def netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Without the password."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def headers(self) -> dict[str, str]:
        """Of a request that the proxy itself reads."""
        return {"Proxy-Authorization": Credentials(self.who, self.password).basic} if self.who or self.password else {}


def parse(text: str) -> Proxy:
    """InvalidParameter for what is none, or one that nobody here can talk to."""
    shown = f"{text.partition('://')[0]}://{text.rpartition('@')[2].rpartition('://')[2]}"[:200]
    try:
        parts = urlsplit(text)
        scheme = {"socks5h": "socks5"}.get(parts.scheme, parts.scheme)  # names are the proxy's to look up in either case, as Go has it
        if scheme not in _PORTS:
            raise InvalidParameter(f"proxy {shown!r}: only proxies with http://, https:// and socks5:// are known")
        if not parts.hostname:
            raise ValueError("no name of a host")
        port = _PORTS[scheme] if parts.port is None else parts.port
        return Proxy(scheme, parts.hostname, port, unquote(parts.username or ""), unquote(parts.password or ""))
    except ValueError as error:
        raise InvalidParameter(f"proxy {shown!r} is not the address of one: {error}") from None


def socks5(sock: socket.socket, proxy: Proxy, host: str, port: int, timeout_s: float) -> None:
    """Has the proxy at the other end connect to a host, whose name it looks up. OSError where it will not."""
    deadline_s = time.monotonic() + timeout_s
    methods = bytes([_NO_AUTHENTICATION, _PASSWORD] if proxy.headers else [_NO_AUTHENTICATION])
    sock.sendall(bytes([5, len(methods)]) + methods)
    version, method = _receive(sock, 2, deadline_s)
    if version != 5:
        raise OSError("Tunnel: what answers is no SOCKS 5 proxy")
    if method == _PASSWORD and proxy.headers:
        who, password = proxy.who.encode()[:255], proxy.password.encode()[:255]
        sock.sendall(bytes([1, len(who)]) + who + bytes([len(password)]) + password)
        if _receive(sock, 2, deadline_s)[1]:
            raise OSError("Tunnel: name or password is wrong")
    elif method != _NO_AUTHENTICATION:
        raise OSError("Tunnel: it wants a name and a password" if method == _NONE and not proxy.headers else "Tunnel: it wants another way to log in")
    name = host.encode("idna")
    sock.sendall(bytes([5, 1, 0, 3, len(name)]) + name + struct.pack(">H", port))
    _, code, _, kind = _receive(sock, 4, deadline_s)
    if code:
        raise OSError(f"Tunnel: {_REFUSALS.get(code, f'error {code}')}")
    size = {1: 4, 4: 16}.get(kind) or _receive(sock, 1, deadline_s)[0]
    _receive(sock, size + 2, deadline_s)  # where it connected from
    sock.settimeout(timeout_s)


def _receive(sock: socket.socket, count: int, deadline_s: float) -> bytes:
    data = b""
    while len(data) < count:
        sock.settimeout(max(0.001, deadline_s - time.monotonic()))
        more = sock.recv(count - len(data))
        if not more:
            raise OSError("Tunnel: it closed the connection")
        data += more
    return data
