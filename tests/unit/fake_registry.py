"""A registry that misbehaves on command, down to the byte: threads and sockets, no HTTP library.

    with FakeRegistry() as registry:
        digest = registry.add_blob(b"...")
        registry.rule("GET", "/blobs/", cut(100), times=1)       # the first such answer ends after 100 bytes of its body
        RegistryClient(registry.host, ...)
        registry.sent[digest] == [(0, 100), (100, 1000)]         # every byte of the blob that it put on the wire

Requests are answered properly (blobs with ranges, manifests, uploads that resume, tags) unless a rule says otherwise. It is
also a proxy: `CONNECT` and requests for whole URLs are answered by itself, for whatever host; `Request.proxied` names it.
An answer that is cut ends with a FIN, so that what was sent does arrive and counts may be compared exactly.
"""

import hashlib
import json
import re
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

Act = Callable[["Exchange"], None]


class Gone(Exception):
    """The connection is over."""


class Request:
    def __init__(self, method: str, target: str, headers: dict[str, str], proxied: str) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.proxied = proxied  # the host that was asked of us as a proxy, or ''

    def __repr__(self) -> str:
        return f"{self.method} {self.target}"


class Exchange:
    """One request and what is answered to it."""

    def __init__(self, registry: "FakeRegistry", sock: socket.socket, request: Request, rest: bytearray) -> None:
        self.registry = registry
        self.request = request
        self.sock = sock
        self._rest = rest
        length = request.headers.get("content-length")
        self._left = int(length) if length else 0
        self._chunked = request.headers.get("transfer-encoding") == "chunked"
        self.blob = ""  # whose bytes the body is made of, from `blob_start` on
        self.blob_start = 0

    def read_body(self, most: int | None = None) -> bytes:
        """The request's body, or its first `most` bytes."""
        if self._chunked:
            return self._read_chunks(most)
        size = self._left if most is None else min(most, self._left)
        data = _read(self.sock, self._rest, size)
        self._left -= len(data)
        return data

    def _read_chunks(self, most: int | None) -> bytes:
        parts = bytearray()
        while True:
            size = int(_line(self.sock, self._rest), 16)
            data = _read(self.sock, self._rest, size if most is None else min(size, most - len(parts)))
            parts += data
            if most is not None and len(parts) >= most:
                return bytes(parts)
            _line(self.sock, self._rest)
            if size == 0:
                self._chunked = False
                return bytes(parts)

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:
            raise Gone from None

    def send_body(self, data: bytes) -> None:
        """Counted, if it is a blob's."""
        self.send(data)
        if self.blob:
            with self.registry.lock:
                self.registry.sent[self.blob].append((self.blob_start, self.blob_start + len(data)))
            self.blob_start += len(data)

    def head(self, status: int, headers: dict[str, str], version: str = "1.1") -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.send(f"HTTP/{version} {status} Whatever\r\n{lines}\r\n".encode("latin-1"))

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A proper answer."""
        self.read_body()
        self.head(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.request.method != "HEAD":
            self.send_body(body)

    def error(self, status: int, code: str, message: str = "", headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.reply(status, body, {"Content-Type": "application/json", **(headers or {})})

    def close(self) -> None:
        """Ends the connection so that what was sent arrives."""
        raise Gone


# -- ways to misbehave ----------------------------------------------------------------------------------


def answer(status: int, body: bytes = b"", **headers: str) -> Act:
    """`retry_after="1"` becomes Retry-After."""
    return lambda exchange: exchange.reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def error(status: int, code: str, message: str = "", **headers: str) -> Act:
    return lambda exchange: exchange.error(status, code, message, {name.replace("_", "-"): value for name, value in headers.items()})


def raw(data: bytes, *, then_wait: bool = False) -> Act:
    """These bytes, then the end, or nothing more."""

    def act(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(data)
        if then_wait:
            exchange.registry.over.wait()
        exchange.close()

    return act


def hang_up(exchange: Exchange) -> None:
    exchange.close()


def stall(exchange: Exchange) -> None:
    """No answer, until the registry is closed."""
    exchange.registry.stalled.set()
    exchange.registry.over.wait()
    exchange.close()


def forever(start: bytes, piece: bytes, pause_s: float = 0.0) -> Act:
    """`start`, then `piece` again and again while the other side listens."""

    def act(exchange: Exchange) -> None:
        exchange.send(start)
        while not exchange.registry.over.wait(pause_s):
            exchange.send(piece)
        exchange.close()

    return act


def blob(exchange: Exchange, *, cut: int | None = None, stall: bool = False, ranges: bool = True, chunk: int = 0, version: str = "1.1") -> None:
    """The blob that the request names, or the part of it. cut: the answer ends after so many bytes; chunk: sent chunked."""
    registry, request = exchange.registry, exchange.request
    digest = urlsplit(request.target).path.rpartition("/")[2]
    data = registry.blobs[digest]
    start, end, status = 0, len(data), 200
    headers: dict[str, str] = {"Content-Type": "application/octet-stream"}
    if ranges and (found := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))):
        start, end, status = int(found[1]), min(len(data), int(found[2]) + 1), 206
        if start >= len(data):
            exchange.error(416, "UNKNOWN", "range not satisfiable")
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    if chunk:
        headers["Transfer-Encoding"] = "chunked"
    elif version == "1.1":
        headers["Content-Length"] = str(end - start)
    exchange.head(status, headers, version)
    exchange.blob, exchange.blob_start = digest, start
    stop = end if cut is None else min(end, start + cut)
    while chunk and exchange.blob_start < stop:
        piece = data[exchange.blob_start : min(stop, exchange.blob_start + chunk)]
        exchange.send(f"{len(piece):x};{'e' * 9}\r\n".encode())
        exchange.send_body(piece)
        exchange.send(b"\r\n")
    if not chunk:
        exchange.send_body(data[start:stop])
    if stop < end and stall:
        exchange.registry.stalled.set()
        exchange.registry.over.wait()
    if stop < end or version == "1.0":
        exchange.close()
    if chunk:
        exchange.send(b"0\r\n\r\n")


def of_blob(**ways: Any) -> Act:
    return lambda exchange: blob(exchange, **ways)


class FakeRegistry:
    """tls: a directory with server.crt and server.key; port: of one before. host: what to name it in references."""

    def __init__(self, tls: str = "", port: int = 0) -> None:
        self.connections = 0
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # by tag or digest, in every repository
        self.uploads: dict[str, bytearray] = {}
        self.requests: list[Request] = []
        self.sent: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.received: list[tuple[int, int]] = []  # of uploads: from where to where, as they came
        self.stalled = threading.Event()
        self.over = threading.Event()
        self.lock = threading.RLock()
        self._rules: list[list] = []
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(f"{tls}/server.crt", f"{tls}/server.key")
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> "FakeRegistry":
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.lock:
            for sock in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    # -- what it has and does -------------------------------------------------------------------------------

    def add_blob(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def add_manifest(self, tag: str, value: "dict | bytes", media_type: str) -> str:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.manifests[tag] = self.manifests[digest] = (media_type, body)
        return digest

    def rule(self, method: str, pattern: str, act: Act, times: int = -1) -> None:
        """Requests whose target the pattern is found in are answered by `act`, so many times; later rules come first."""
        with self.lock:
            self._rules.insert(0, [method, re.compile(pattern), act, times])

    def asked(self, method: str, pattern: str) -> list[Request]:
        with self.lock:
            return [request for request in self.requests if request.method == method and re.search(pattern, request.target)]

    # -- serving ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self.lock:
                if self.over.is_set():
                    sock.close()
                    return
                self.connections += 1
                self._open.add(sock)
                thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        sock: socket.socket = plain
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            first = sock.recv(1, socket.MSG_PEEK)
            if first == b"\x16" or (self._context and first not in (b"C", b"")):
                sock = self._wrap(sock)
            self._exchanges(sock, "")
        except (Gone, OSError, ValueError):
            pass
        finally:
            with self.lock:
                self._open.discard(plain)
                self._open.discard(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)  # what the peer still sends is read, or a reset could overtake our last bytes
                sock.settimeout(0.2)
                while not self.over.is_set() and sock.recv(65536):
                    pass
            sock.close()

    def _wrap(self, sock: socket.socket) -> socket.socket:
        if self._context is None:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")
            raise Gone
        wrapped = self._context.wrap_socket(sock, server_side=True)
        with self.lock:
            self._open.add(wrapped)
        return wrapped

    def _exchanges(self, sock: socket.socket, proxied: str) -> None:
        rest = bytearray()
        while True:
            words = _line(sock, rest).split(" ")
            if len(words) != 3:
                raise Gone
            headers = {}
            while line := _line(sock, rest):
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            method, target, _ = words
            host = proxied
            if "://" in target:
                parts = urlsplit(target)
                host, target = parts.netloc, parts.path + (f"?{parts.query}" if parts.query else "")
            request = Request(method, target, headers, target if method == "CONNECT" else host)
            with self.lock:
                self.requests.append(request)
            exchange = Exchange(self, sock, request, rest)
            act = self._act(request)
            act(exchange)
            if method == "CONNECT" and act == _tunnel:
                inner = self._wrap(sock)
                try:
                    self._exchanges(inner, target)
                finally:
                    with self.lock:
                        self._open.discard(inner)
                    inner.close()
            if exchange._left or exchange._chunked:
                raise Gone  # a body nobody has read

    def _act(self, request: Request) -> Act:
        with self.lock:
            for rule in self._rules:
                if rule[0] == request.method and rule[3] != 0 and rule[1].search(request.target):
                    rule[3] -= 1
                    act: Act = rule[2]
                    return act
        return _tunnel if request.method == "CONNECT" else _proper


def _tunnel(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 Connection established\r\n\r\n")


def _proper(exchange: Exchange) -> None:
    """What a registry answers."""
    registry, request = exchange.registry, exchange.request
    path = urlsplit(request.target).path
    query = {key: values[0] for key, values in parse_qs(urlsplit(request.target).query).items()}
    what, name = path.rpartition("/")[0].rpartition("/")[2], path.rpartition("/")[2]
    if path == "/v2/":
        exchange.reply(200, b"{}")
    elif "/blobs/uploads/" in path:
        _upload(exchange, name, query)
    elif what == "blobs":
        if name not in registry.blobs:
            exchange.error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        elif request.method == "HEAD":
            exchange.reply(200, registry.blobs[name])
        else:
            blob(exchange)
    elif what == "manifests" and request.method == "PUT":
        body = exchange.read_body()
        exchange.reply(201, headers={"Docker-Content-Digest": registry.add_manifest(name, body, request.headers.get("content-type", ""))})
    elif what == "manifests" and name in registry.manifests:
        media_type, body = registry.manifests[name]
        exchange.reply(200, body, {"Content-Type": media_type, "Docker-Content-Digest": "sha256:" + hashlib.sha256(body).hexdigest()})
    elif what == "manifests":
        exchange.error(404, "MANIFEST_UNKNOWN", "manifest unknown")
    else:
        exchange.reply(404, b"404 page not found\n", {"Content-Type": "text/plain"})


def _upload(exchange: Exchange, identity: str, query: dict[str, str]) -> None:
    registry, method = exchange.registry, exchange.request.method
    with registry.lock:
        known = registry.uploads.get(identity)
    here = {"Location": exchange.request.target.partition("?")[0]}
    if method == "POST":
        if query.get("mount") in registry.blobs:
            exchange.reply(201, headers={"Location": f"/v2/x/blobs/{query['mount']}"})
            return
        with registry.lock:
            identity = f"u{len(registry.uploads)}"
            registry.uploads[identity] = bytearray()
        exchange.reply(202, headers={"Location": f"{here['Location']}{identity}", "Range": "0-0"})
    elif known is None:
        exchange.error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    elif method == "PATCH":
        take(exchange)
    elif method == "GET":
        exchange.reply(204, headers={**here, "Range": f"0-{max(0, len(known) - 1)}"})
    elif method == "PUT":
        data = bytes(known)
        digest = registry.add_blob(data)
        if digest != query.get("digest"):
            exchange.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            return
        with registry.lock:
            del registry.uploads[identity]
        exchange.reply(201, headers={"Docker-Content-Digest": digest})
    else:
        exchange.reply(204)


def take(exchange: Exchange, most: int | None = None, keep: int | None = None) -> None:
    """The body of a PATCH. most: the connection ends after so many bytes; keep: of which the registry remembers these."""
    registry, target = exchange.registry, exchange.request.target.partition("?")[0]
    known = registry.uploads[target.rpartition("/")[2]]
    start = int(exchange.request.headers.get("content-range", str(len(known))).partition("-")[0])
    if start != len(known):
        exchange.error(416, "BLOB_UPLOAD_INVALID", "range invalid")
        return
    data = exchange.read_body(most)
    with registry.lock:
        registry.received.append((start, start + len(data)))
        known += data if keep is None else data[:keep]
    if most is not None:
        exchange.close()
    exchange.reply(202, headers={"Location": target, "Range": f"0-{max(0, len(known) - 1)}"})


def _line(sock: socket.socket, rest: bytearray) -> str:
    while b"\n" not in rest:
        data = sock.recv(65536)
        if not data:
            raise Gone
        rest += data
    end = rest.index(b"\n")
    line = rest[:end].decode("latin-1").rstrip("\r")
    del rest[: end + 1]
    return line


def _read(sock: socket.socket, rest: bytearray, size: int) -> bytes:
    while len(rest) < size:
        data = sock.recv(min(1 << 20, size - len(rest)))
        if not data:
            raise Gone
        rest += data
    data = bytes(rest[:size])
    del rest[:size]
    return data


def overlaps(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Bytes in more than one of the spans."""
    found, reached = [], 0
    for start, end in sorted(spans):
        if start < reached:
            found.append((start, min(end, reached)))
        reached = max(reached, end)
    return found
