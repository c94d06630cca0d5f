"""An engine that does nothing: it writes down what a client asks and answers from a table, to compare two clients.

    with Recorder() as recorder:
        recorder.answers["GET /networks"] = (200, [])
        seen = recorder.run(["docker"], "network", "ls")     # seen.code, seen.output, seen.errors, seen.requests
"""

import json
import os
import re
import shutil
import socketserver
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import unquote

API = "1.50"  # the newest of Docker's CLI 28.2


class Request(NamedTuple):
    """target: method and path with its query, without the version."""

    target: str
    body: Any


class Seen(NamedTuple):
    code: int
    output: str
    errors: str
    requests: list[Request]


class _Server(socketserver.ThreadingUnixStreamServer):
    recorder: "Recorder"

    def __init__(self, path: str) -> None:
        super().__init__(path, _Handler)
        self._handlers: list[threading.Thread] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        handler = threading.Thread(target=self.process_request_thread, args=(request, client_address))
        self._handlers.append(handler)
        handler.start()

    def await_handlers(self) -> None:
        """Once the client has ended, each sees the end of its connection and closes it."""
        while self._handlers:
            self._handlers.pop().join()

    def get_request(self) -> Any:
        return self.socket.accept()[0], ("client", 0)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves without a farewell is no error; what else is wrong here, an answer that is missing tells."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = unquote(f"{self.command} {re.sub(r'^/v[0-9.]+', '', self.path)}")
        if self.path.endswith("/_ping"):
            self._answer(200, "OK")
            return
        recorder = self.server.recorder
        recorder.requests.append(Request(target, json.loads(body) if body else None))
        found = recorder.answers.get(target.partition("?")[0])
        if found is None:
            found = (201, {"Id": "a" * 64, "Warnings": []}) if target.partition("?")[0].endswith("/create") else (200, {})
        self._answer(*found)

    do_GET = do_POST = do_HEAD = do_DELETE = _handle

    def _answer(self, status: int, value: object) -> None:
        data = b"" if status == 204 else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (("Content-Type", "application/json"), ("Api-Version", API), ("Ostype", "linux"), ("Content-Length", str(len(data)))):
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class Recorder:
    """Serves until its block ends. answers: `METHOD /path` -> (status, JSON)."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: list[Request] = []
        self._top = tempfile.mkdtemp(prefix="berth-recorder-", dir="/var/tmp")
        self._server = _Server(f"{self._top}/socket")
        self._server.recorder = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.environ = {"PATH": os.environ["PATH"], "HOME": self._top, "DOCKER_HOST": f"unix://{self._top}/socket", "DOCKER_CONFIG": f"{self._top}/config"}

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self._top)

    def run(self, command: list[str], *words: str) -> Seen:
        self.requests = []
        done = subprocess.run(
            [*command, *words], env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        self._server.await_handlers()
        return Seen(done.returncode, done.stdout, done.stderr, self.requests)
