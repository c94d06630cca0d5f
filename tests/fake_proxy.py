"""A proxy for tests: http, https or socks5 on a loopback port, which leads every name to one address.

    with FakeProxy("https", target=registry.host, tls=directory, who=("me", "secret")) as proxy:
        proxy.url            # https://me:secret@127.0.0.1:PORT
        proxy.asked          # what was asked for, as `CONNECT registry.test:443`, `GET http://…`, `SOCKS registry.test:443`
"""

import base64
import select
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Any


class FakeProxy:
    """kind: http, https (tls: a directory with server.crt and server.key) or socks5; who: name and password that it wants."""

    def __init__(self, kind: str, *, target: str, tls: str = "", who: "tuple[str, str] | None" = None) -> None:
        self.kind, self.who = kind, who
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._context: ssl.SSLContext | None = None
        if kind == "https":
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(f"{tls}/server.crt", f"{tls}/server.key")
        self.asked: list[str] = []
        self.passed_bytes = 0  # to clients
        self.refuse = 0  # a SOCKS error code
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{kind}://{f'{who[0]}:{who[1]}@' if who else ''}{self.host}"
        self._open: set[Any] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> "FakeProxy":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: Any) -> None:
        with suppress(OSError, ValueError, struct.error, IndexError):
            self._open.add(sock)
            if self._context:
                plain, sock = sock, self._context.wrap_socket(sock, server_side=True)
                self._open.discard(plain)
                self._open.add(sock)
            if first := self._socks(sock) if self.kind == "socks5" else self._http(sock):
                with socket.create_connection(self._target) as far:
                    self._open.add(far)
                    far.sendall(first.removeprefix(b"\0"))
                    self._pump(sock, far)
                    self._open.discard(far)
        self._open.discard(sock)
        sock.close()

    def _http(self, sock: Any) -> bytes:
        """-> what to begin with at the target, after a zero; b'' for nothing."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65536)
            if not data:
                return b""
            head += data
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        self.asked.append(f"{method} {target}")
        if self.who:
            wanted = f"Basic {base64.b64encode(':'.join(self.who).encode()).decode()}"
            if not any(line.lower() == f"proxy-authorization: {wanted}".lower() for line in lines):
                sock.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
                return b""
        if method == "CONNECT":
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            return b"\0"
        path = "/" + target.split("/", 3)[3]
        kept = [line for line in lines[1:] if not line.lower().startswith("proxy-")]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *kept]).encode("latin-1")

    def _socks(self, sock: Any) -> bytes:
        """RFC 1928 and 1929."""
        methods = _read(sock, _read(sock, 2)[1])
        wanted = 2 if self.who else 0
        sock.sendall(bytes([5, wanted if wanted in methods else 255]))
        if self.who:
            who = _read(sock, _read(sock, 2)[1]).decode()
            password = _read(sock, _read(sock, 1)[0]).decode()
            sock.sendall(bytes([1, (who, password) != self.who]))
        version, _, _, kind = _read(sock, 4)
        assert version == 5
        host = _read(sock, _read(sock, 1)[0]).decode() if kind == 3 else socket.inet_ntoa(_read(sock, 4))
        (port,) = struct.unpack(">H", _read(sock, 2))
        self.asked.append(f"SOCKS {host}:{port}")
        sock.sendall(bytes([5, self.refuse, 0, 1]) + bytes(6))
        return b"" if self.refuse else b"\0"

    def _pump(self, near: Any, far: Any) -> None:
        while True:
            ready = [near] if isinstance(near, ssl.SSLSocket) and near.pending() else select.select([near, far], [], [])[0]
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                self.passed_bytes += len(data) if source is far else 0
                (far if source is near else near).sendall(data)


def _read(sock: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ValueError
        data += more
    return data
