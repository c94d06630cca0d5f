"""Images made by hand, put into a registry request by request, and a proxy in front of it that counts, slows down and cuts.

    registry = Handmade(host)                       # of registries.docker_registry
    made = registry.image("some/name", "1", [layer(("etc/a", b"x")), ...], compression="zstd", oci=True)
    with Proxy(host) as proxy:                      # proxy.host is what clients are given
        proxy.rate_bytes_s = 1 << 20
        proxy.sent_bytes("sha256:...")
"""

import contextlib
import hashlib
import http.client
import io
import json
import select
import socket
import subprocess
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
DOCKER_MANIFEST, DOCKER_LIST = DOCKER + "distribution.manifest.v2+json", DOCKER + "distribution.manifest.list.v2+json"
OCI_MANIFEST, OCI_INDEX = OCI + "manifest.v1+json", OCI + "index.v1+json"
_SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "": ""}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mtime = kind, 1_000_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def layer(*members: "tarfile.TarInfo | tuple[tarfile.TarInfo | str, bytes]", encoding: str = "utf-8") -> bytes:
    """A tar of these, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT if encoding != "utf-8" else tarfile.PAX_FORMAT, encoding=encoding) as tar:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            info = member(info) if isinstance(info, str) else info
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def compress(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return subprocess.run(["gzip", "-n", "-1"], input=data, capture_output=True, check=True).stdout
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-1"], input=data, capture_output=True, check=True).stdout
    return data


class Made:
    """What was pushed: digests of the manifest, the configuration (the image's id), the blobs and the tars."""

    def __init__(self, digest: str, config: str, blobs: list[str], diffs: list[str], manifest: dict) -> None:
        self.digest, self.config, self.blobs, self.diffs, self.manifest = digest, config, blobs, diffs, manifest

    @property
    def chains(self) -> list[str]:
        found: list[str] = []
        for diff in self.diffs:
            found.append(digest_of(f"{found[-1]} {diff}".encode()) if found else diff)
        return found


class Handmade:
    """Puts blobs and manifests of any kind into a registry."""

    def __init__(self, host: str) -> None:
        self.host = str(host)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def blob(self, repository: str, data: bytes) -> str:
        digest = digest_of(data)
        status, headers, _ = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202
        path = headers["location"].split(self.host, 1)[-1]
        status, _, said = self.ask("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", data, {"Content-Type": "application/octet-stream"})
        assert status == 201, said
        return digest

    def manifest(self, repository: str, tag: str, document: dict | bytes, media_type: str) -> str:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        status, _, said = self.ask("PUT", f"/v2/{repository}/manifests/{tag or digest_of(raw)}", raw, {"Content-Type": media_type})
        assert status == 201, said
        return digest_of(raw)

    def read_manifest(self, repository: str, reference: str) -> dict:
        accept = ", ".join((DOCKER_MANIFEST, OCI_MANIFEST, DOCKER_LIST, OCI_INDEX))
        status, _, raw = self.ask("GET", f"/v2/{repository}/manifests/{reference}", None, {"Accept": accept})
        assert status == 200, raw
        return dict(json.loads(raw))

    def image(
        self, repository: str, tag: str, tars: list[bytes], *, compression: "str | list[str]" = "gzip", oci: bool = True,
        config: dict | None = None, diffs: list[str] | None = None, blobs: list[bytes] | None = None, platform: str = "linux/amd64",
        descriptors: Callable[[int, dict], dict] = lambda index, descriptor: descriptor, absent: tuple[str, ...] | list[str] = (),
    ) -> Made:  # fmt: skip
        """diffs: what the configuration says instead of the truth; blobs: what is uploaded instead; descriptors: may change each.

        absent: digests of blobs that are not uploaded.
        """
        how = [compression] * len(tars) if isinstance(compression, str) else compression
        data = blobs or [compress(tar, one) for tar, one in zip(tars, how, strict=True)]
        for one in set(data):
            if digest_of(one) not in absent:
                self.blob(repository, one)
        real = diffs or [digest_of(tar) for tar in tars]
        system, architecture, *variant = platform.split("/")
        document = {
            "architecture": architecture, "os": system, **({"variant": variant[0]} if variant else {}), "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **(config or {})}, "rootfs": {"type": "layers", "diff_ids": real},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "by hand"} for _ in real],
        }  # fmt: skip
        raw = json.dumps(document).encode()
        self.blob(repository, raw)
        kinds = [(OCI + "layer.v1.tar" + _SUFFIX[one]) if oci or one == "zstd" else DOCKER + "image.rootfs.diff.tar" + one.replace("gzip", ".gzip") for one in how]
        layers = [descriptors(index, {"mediaType": kind, "digest": digest_of(one), "size": len(one)}) for index, (kind, one) in enumerate(zip(kinds, data, strict=True))]
        manifest = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST if oci else DOCKER_MANIFEST, "layers": layers,
            "config": {"mediaType": OCI + "config.v1+json" if oci else DOCKER + "container.image.v1+json", "digest": digest_of(raw), "size": len(raw)},
        }  # fmt: skip
        digest = self.manifest(repository, tag, manifest, str(manifest["mediaType"]))
        return Made(digest, digest_of(raw), [digest_of(one) for one in data], real, manifest)

    def index(self, repository: str, tag: str, entries: list[tuple[Made, str]], *, oci: bool = True) -> str:
        """An index of images that are there, each with its platform ('' for none)."""
        found = []
        for made, platform in entries:
            raw = json.dumps(made.manifest).encode()
            entry: dict[str, Any] = {"mediaType": made.manifest["mediaType"], "digest": made.digest, "size": len(raw)}
            if platform:
                system, architecture, *variant = platform.split("/")
                entry["platform"] = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
            found.append(entry)
        kind = OCI_INDEX if oci else DOCKER_LIST
        return self.manifest(repository, tag, {"schemaVersion": 2, "mediaType": kind, "manifests": found}, kind)


class Proxy:
    """Stands between a client and a registry on a loopback port of its own.

    rate_bytes_s: of each answer's body, 0 for as fast as it goes; `stop_after` bytes of blobs in all, every answer waits until
    it is None again or the proxy ends; change: sees (path, body) of each answer and may return another body.
    """

    def __init__(self, registry: str) -> None:
        self.registry = str(registry)
        self.rate_bytes_s = 0
        self.stop_after: int | None = None
        self.change: Callable[[str, bytes], bytes] | None = None
        self.bodies: Counter[str] = Counter()  # path -> bytes that went to clients
        self.received_bytes = 0  # of uploads
        self.uploads: Counter[str] = Counter()  # the same by path
        self.passing = 0  # requests under way
        self.asked: list[tuple[str, str]] = []
        self.reached = threading.Event()  # stop_after
        self._ended = threading.Event()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError, OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return lambda: proxy._pass(self)
                raise AttributeError(name)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False  # server_close waits for them
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                proxy._connections.append(connection)
                return connection, address

        self._connections: list[socket.socket] = []
        self._server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        for connection in self._connections:  # an engine keeps those that it may need again
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def sent_bytes(self, digest: str) -> int:
        """Of a blob, to all clients."""
        with self._lock:
            return sum(count for path, count in self.bodies.items() if path.endswith(digest))

    @property
    def blob_bytes(self) -> int:
        with self._lock:
            return sum(count for path, count in self.bodies.items() if "/blobs/" in path)

    def _pass(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.asked.append((handler.command, handler.path))
            self.passing += 1
        connection = http.client.HTTPConnection(self.registry, timeout=120)
        try:
            headers = {key: value for key, value in handler.headers.items() if key.lower() not in ("connection",)}
            body: Any = None
            if length := int(handler.headers.get("Content-Length") or 0):
                body = self._slowed(handler.rfile, length, handler.path)
            elif handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
                headers.pop("Transfer-Encoding", None)
                body = self._chunks(handler)
            connection.request(handler.command, handler.path, body, headers, encode_chunked=body is not None and "Content-Length" not in handler.headers)
            self._answer(handler, connection.getresponse())
        finally:
            connection.close()
            with self._lock:
                self.passing -= 1

    def _slowed(self, file: Any, length: int, path: str) -> Any:
        while length:
            data = file.read(min(length, 1 << 16))
            if not data:
                raise ConnectionError("the client is gone")
            length -= len(data)
            self._count_up(len(data), path)
            yield data

    def _chunks(self, handler: BaseHTTPRequestHandler) -> Any:
        file = handler.rfile
        while size := int(_line(file).split(b";")[0], 16):
            yield from self._slowed(file, size, handler.path)
            file.readline()
        file.readline()

    def _count_up(self, count: int, path: str) -> None:
        with self._lock:
            self.uploads[path.partition("?")[0]] += count
            self.received_bytes += count
            received = self.received_bytes
        self._wait(received, count)

    def _wait(self, total: int, count: int) -> None:
        if self.rate_bytes_s:
            time.sleep(count / self.rate_bytes_s)
        while self.stop_after is not None and total >= self.stop_after:
            self.reached.set()
            if self._ended.wait(0.05):
                raise ConnectionError("the proxy ends")

    def _answer(self, handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse) -> None:
        changed = self.change(handler.path, answer.read()) if self.change and handler.command == "GET" else None
        handler.send_response_only(answer.status, answer.reason)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding") and not (changed is not None and key.lower() == "content-length"):
                handler.send_header(key, value)
        if changed is not None:
            handler.send_header("Content-Length", str(len(changed)))
        elif answer.getheader("Content-Length") is None:
            handler.send_header("Content-Length", "0")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        source: Any = io.BytesIO(changed) if changed is not None else answer
        piece = 1 << 14
        while data := source.read(piece):
            if _is_gone(handler.connection):
                raise ConnectionError("the client is gone")
            handler.wfile.write(data)
            with self._lock:
                self.bodies[handler.path.partition("?")[0]] += len(data)
            if "/blobs/" in handler.path:
                self._wait(self.blob_bytes, len(data))


def _line(file: Any) -> bytes:
    """ConnectionError at the end: a request that was cut off is cut off for the registry, too."""
    line: bytes = file.readline()
    if not line:
        raise ConnectionError("the client is gone")
    return line


def _is_gone(connection: socket.socket) -> bool:
    """Whether the other end has closed; what is written to it would count and not arrive."""
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return any(events & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
