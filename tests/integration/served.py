"""Web servers on this machine that builds take contexts from: files, one archive, Git repositories."""

import contextlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path


class Served:
    """A web server that has one archive: dockerd's BuildKit takes its context from there."""

    def __init__(self) -> None:
        self.data = b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.data)))
                self.send_header("Content-Type", "application/x-tar")
                self.end_headers()
                self.wfile.write(outer.data)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02))
        self._thread.start()

    def address(self, number: int) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{number}.tar"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """A web server of these files -> its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: object, **named: object) -> None:
            super().__init__(*words, directory=str(directory), **named)  # type: ignore[arg-type]

        def log_message(self, *words: object) -> None:
            pass

    with _running(Handler) as address:
        yield address


@contextlib.contextmanager
def serving_git(directory: Path, seen: list[str]) -> Iterator[str]:
    """Git's own server for http (git-http-backend(1)) of the repositories below a directory -> its address. seen: gets the requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            seen.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}".rstrip())
            environment = {
                "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(directory), "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": self.command, "PATH_INFO": path,
                "QUERY_STRING": query, "CONTENT_TYPE": self.headers.get("Content-Type", ""), "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1", "GIT_CONFIG_GLOBAL": "/dev/null",
            }  # fmt: skip
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            done = subprocess.run(["git", "-c", "safe.directory=*", "http-backend"], env=environment, input=body, capture_output=True, timeout=60)
            head, _, rest = done.stdout.partition(b"\r\n\r\n")
            fields = [line.split(": ", 1) for line in head.decode().splitlines()]
            self.send_response(int(dict(fields).get("Status", "200").split()[0]))
            for name, value in fields:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(rest)

        do_GET = do_POST = _answer

    with _running(Handler) as address:
        yield address


@contextlib.contextmanager
def _running(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
