"""Archives from web servers: what is wrong with a server is said, and takes no file of this machine's."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.api import fetching
from berth.api.fetching import WebArchive
from berth.errors import BerthError, Cancelled, DataLoss, InvalidParameter, Unavailable


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    secret = tmp_path / "secret"
    secret.write_text("secret")

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in ("/circle", "/file"):
                self.send_response(302)
                self.send_header("Location", "/circle" if self.path == "/circle" else f"file://{secret}")
                self.end_headers()
                return
            if self.path == "/none":
                self.send_error(404, "no such thing")
                return
            self.send_response(200)
            self.send_header("Content-Length", "1000" if self.path == "/cut" else "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def whole(url: str) -> bytes:
    archive = WebArchive(url)
    try:
        data = b""
        while piece := archive.read(3):
            data += piece
        return data
    finally:
        archive.close()


def test_an_archive(server: str) -> None:
    assert whole(f"{server}/five") == b"hello"


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("/none", Unavailable, "failed to GET .*/none with status 404 no such thing"), ("/cut", DataLoss, "cut off after 5 bytes: 1000 bytes were announced"),
        ("/circle", Unavailable, "infinite loop"), ("/file", Unavailable, "file:"),
    ],
)  # fmt: skip
def test_what_is_none(server: str, path: str, kind: "type[BerthError]", said: str) -> None:
    with pytest.raises(kind, match=said):
        whole(f"{server}{path}")


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:1/x", "http://[::/x", "http://127.0.0.1:99999/x"])
def test_addresses_where_nothing_is(url: str) -> None:
    with pytest.raises((Unavailable, InvalidParameter)):
        WebArchive(url)


def test_one_that_is_too_slow(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_SLOWEST_BYTES_S", 1 << 60)
    archive = WebArchive(f"{server}/five")
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.0)
    with pytest.raises(DataLoss, match="slower than"):
        archive.read(3)
    archive.close()


def test_one_that_nobody_wants_any_more(server: str) -> None:
    archive = WebArchive(f"{server}/five")
    archive.stop()
    with pytest.raises(Cancelled):
        archive.read(1)
    archive.close()
