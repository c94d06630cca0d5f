"""Where dockerd's BuildKit takes a context from."""

import http.server
import threading


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
