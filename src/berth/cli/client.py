"""The engine's client: HTTP/1.1 over a unix socket with as little as possible imported.

`_socket` (0.3 ms) instead of `socket` (7 ms) or `http.client` (26 ms); it is private to CPython, so
`socket` serves where it is missing.
"""

import os
import sys

from berth.models.jsonlite import dumps, loads

try:
    import _socket
except ImportError:
    import socket as _socket  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from berth.cli.dial import TlsFiles

_RECEIVE_BYTES = 65536
_API = "/v1.51"


class ApiError(Exception):
    """The engine refused: its message and status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NoEngine(Exception):
    """Nothing answers at the address."""


class StreamFailed(Exception):
    """The engine had begun to answer, and then said what went wrong."""


class Response:
    """A response whose body is read on demand; owns its connection."""

    def __init__(self, sock: "_socket.socket", head_only: bool = False) -> None:
        self.sock = sock
        self._buffer = b""
        head = self._until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        self._left = int(self.headers.get("content-length") or 0)
        self._until_closed = "content-length" not in self.headers and not self._chunked and self.status == 200
        if head_only or self.status in (204, 304):
            self._left, self._until_closed = 0, False

    def _more(self) -> bool:
        try:
            data = self.sock.recv(_RECEIVE_BYTES)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._more():
                raise NoEngine("the engine closed the connection before it answered")
        head, self._buffer = self._buffer.split(mark, 1)
        return head

    def take_raw(self) -> bytes:
        """What came behind the head, for a connection that is no longer HTTP."""
        data, self._buffer = self._buffer, b""
        return data

    def pieces(self) -> "Iterator[bytes]":
        """The body as it comes."""
        if self._chunked:
            while size := int(self._until(b"\r\n"), 16):
                while len(self._buffer) < size + 2:
                    if not self._more():
                        raise NoEngine("the engine closed the connection in the middle of an answer")
                data, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
                yield data
            return
        while self._until_closed or self._left:
            if not self._buffer and not self._more():
                if self._left:
                    raise NoEngine("the engine closed the connection in the middle of an answer")
                return
            data, self._buffer = self._buffer, b""
            self._left = max(0, self._left - len(data))
            yield data

    def json(self) -> "Any":
        text = b"".join(self.pieces()).decode()
        return loads(text) if text.strip() else None

    def lines(self) -> "Iterator[Any]":
        """JSON values of a stream, one a line."""
        rest = b""
        for data in self.pieces():
            rest += data
            while b"\n" in rest:
                line, rest = rest.split(b"\n", 1)
                if line.strip():
                    yield loads(line.decode())


class Client:
    """Requests to one engine; a connection each."""

    def __init__(self, address: str, *, may_start: bool, tls: "TlsFiles | None" = None) -> None:
        self.address = address
        self._may_start = may_start
        self._tls = tls
        self._api = _API
        self._may_be_older = not may_start  # an engine that somebody else chose: another version, or Docker
        self.path = address.removeprefix("unix://")

    def connect(self) -> "_socket.socket":
        """A connected socket; starts an engine where that is this command's to do."""
        if not self.address.startswith("unix://"):
            from berth.cli.dial import connect

            return connect(self.address, self._tls)
        for attempt in (1, 2):
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                sock.connect(self.path)
                return sock
            except OSError as error:
                sock.close()
                if not self._may_start or attempt == 2 or isinstance(error, PermissionError):
                    raise NoEngine(_no_engine(self.address, error, self._may_start)) from None
            from berth.cli.autostart import start_engine

            start_engine(self.path)
        raise NoEngine(f"Cannot connect to the engine at {self.address}")

    def request(
        self, method: str, path: str, body: object = None, *, headers: str = "", stream: "Iterator[bytes] | None" = None, live: bool = False
    ) -> Response:
        """Sends a request; ApiError for a status of 400 and above. live: whether the answer is read while the stream still goes out."""
        if stream is not None and self._may_be_older:
            self.request("GET", "/version")  # a stream cannot be sent twice
        try:
            return self._request(method, path, body, headers, stream, live)
        except ApiError as error:
            if not self._speak_as(str(error)):
                raise
        return self._request(method, path, body, headers, stream, live)

    def _speak_as(self, refusal: str) -> bool:
        """Whether an older engine has said which version of the API it speaks; that is spoken from now on."""
        newest = refusal.partition("is too new. Maximum supported API version is ")[2].split(" ")[0]
        if not self._may_be_older or not newest.replace(".", "").isdigit():
            return False
        self._api, self._may_be_older = f"/v{newest}", False
        return True

    def _request(self, method: str, path: str, body: object, headers: str, stream: "Iterator[bytes] | None", live: bool) -> Response:
        sock = self.connect()
        data = b"" if body is None else dumps(body).encode()
        head = f"{method} {self._api}{path} HTTP/1.1\r\nHost: berth\r\nUser-Agent: berth\r\n{headers}"
        if stream is not None:
            head += "Transfer-Encoding: chunked\r\n"
        elif method in ("POST", "PUT"):
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        try:
            sock.sendall(head.encode() + b"\r\n" + data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # reading tells: an answer, or that there is none
        if stream is not None:
            if live and self._tls is None:  # TLS is for one thread alone
                self._send_beside(sock, stream)
            else:
                self._send_stream(sock, stream)
        try:
            response = Response(sock, method == "HEAD")
        except NoEngine:
            if not self.address.startswith("ssh://"):
                raise
            raise NoEngine(
                f"Cannot connect to the engine at {self.address}: ssh ended before an engine answered, for the reason it gives; "
                "on the far side it runs 'berth system dial-stdio'"
            ) from None
        if response.status >= 400:
            answer = response.json()
            raise ApiError(str((answer or {}).get("message", f"status {response.status}")), response.status)
        return response

    def _send_stream(self, sock: "_socket.socket", stream: "Iterator[bytes]") -> None:
        try:
            for data in stream:
                if data:
                    sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the engine has seen enough; its answer says why

    def _send_beside(self, sock: "_socket.socket", stream: "Iterator[bytes]") -> None:
        """In a thread, which ends with the process at the latest. What cannot be read ends the request, and so the answer."""
        import _thread

        def run() -> None:
            try:
                self._send_stream(sock, stream)
            except OSError as error:
                fail(f"the input cannot be read: {error.strerror}")
                sock.shutdown(_socket.SHUT_RDWR)

        _thread.start_new_thread(run, ())

    def json(self, method: str, path: str, body: object = None) -> "Any":
        return self.request(method, path, body).json()

    def hijack(self, path: str, body: object = None) -> Response:
        """A request whose connection becomes a raw stream."""
        return self.request("POST", path, body, headers="Connection: Upgrade\r\nUpgrade: tcp\r\n")


def _no_engine(address: str, error: OSError, started: bool) -> str:
    if isinstance(error, PermissionError):
        return f"permission denied while trying to connect to the engine at {address}: run as root or as a member of its group"
    hint = "see the engine's log" if started else "is the engine running? (berth engine)"
    return f"Cannot connect to the engine at {address}: {error.strerror}; {hint}"


def default_address() -> str:
    """The socket of this user's own engine."""
    if os.geteuid() == 0:
        return "unix:///run/berth/berth.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"unix://{runtime}/berth/berth.sock"


def quote(text: str) -> str:
    """Percent-encodes a path part or query value; `urllib` costs 10 ms."""
    safe = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/@"
    return "".join(c if c in safe else "".join(f"%{b:02X}" for b in c.encode(errors="surrogateescape")) for c in text)


def query(**values: object) -> str:
    """`?a=b&c=d` of what is not None or ''; booleans as 1, lists repeated."""
    parts = []
    for key, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if item is None or item == "" or item is False:
                continue
            parts.append(f"{key}={quote('1' if item is True else str(item)).replace('/', '%2F')}")
    return "?" + "&".join(parts) if parts else ""


def fail(message: str) -> None:
    """An error line on standard error."""
    sys.stderr.write(message.rstrip() + "\n")
