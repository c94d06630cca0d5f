"""Downloads for ADD and for contexts, from servers that are honest, slow, cut off and hostile; curl is the second client."""

import contextlib
import gzip
import hashlib
import http.server
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.build.files import fetching
from berth.build.files.context import from_url
from berth.build.files.fetching import Fetched, fetch, name_of, shown
from berth.errors import BerthError, Cancelled, DataLoss, InvalidParameter, TooLarge, Unavailable
from tarmembers import archive, member

sys.path.insert(0, str(Path(__file__).parent.parent))
from certificates import make_certificates
from fake_proxy import FakeProxy

CONTENT = b"what is fetched" * 1000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MODIFIED = "Sun, 09 Sep 2001 01:46:40 GMT"
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """Answers of its own for each path; `asked` has what came."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                outer.answers.get(self.path, lambda handler: give(handler, b"not here", status=404))(self)
                self.close_connection = True

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02))
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def secure(self, directory: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{directory}/server.crt", f"{directory}/server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://{self.host}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def give(handler: http.server.BaseHTTPRequestHandler, data: bytes = CONTENT, *, status: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def into(tmp_path: Path) -> str:
    return str(tmp_path / "file")


def left(into: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(into)))


def test_a_file(server: Server, into: str) -> None:
    server.answers["/d/f.txt?x=1"] = lambda handler: give(handler, ETag='"1"', Last_Modified=MODIFIED)
    found = fetch(f"{server.url}/d/f.txt?x=1#part", checksum=DIGEST, into=into)
    assert (found.path, found.name, found.etag, found.last_modified, found.digest) == (into, "f.txt", '"1"', MODIFIED, DIGEST)
    assert Path(into).read_bytes() == CONTENT
    status = os.stat(into)
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o600, 1_000_000_000)
    assert left(into) == ["file"]
    if shutil.which("curl"):
        assert subprocess.run(["curl", "-s", "--noproxy", "*", f"{server.url}/d/f.txt?x=1"], capture_output=True).stdout == CONTENT


def test_without_a_time_it_is_of_the_beginning(server: Server, into: str) -> None:
    server.answers["/f"] = lambda handler: give(handler, Last_Modified="nonsense")
    fetch(f"{server.url}/f", into=into)
    assert os.stat(into).st_mtime == 0


@pytest.mark.parametrize("checksum", ["sha256:" + "0" * 64, f"sha512:{'0' * 128}"])
def test_another_digest(server: Server, into: str, checksum: str) -> None:
    server.answers["/f"] = give
    with pytest.raises(DataLoss, match=f"digest mismatch .* is {DIGEST}, and was to be {checksum}"):
        fetch(f"{server.url}/f", checksum=checksum, into=into)
    assert left(into) == []


def test_sha512(server: Server, into: str) -> None:
    server.answers["/f"] = give
    assert fetch(f"{server.url}/f", checksum=f"sha512:{hashlib.sha512(CONTENT).hexdigest()}", into=into).digest == DIGEST


@pytest.mark.parametrize("checksum", ["sha256:abc", "md5:" + "0" * 32, "0" * 64, "sha256:" + "G" * 64])
def test_checksums_that_are_none(server: Server, into: str, checksum: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid checksum"):
        fetch(f"{server.url}/f", checksum=checksum, into=into)
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "disposition", "expected"),
    [
        ("http://h/a/b.txt", "", "b.txt"), ("http://h/a/b%20c", "", "b c"), ("http://h/", "", ""), ("http://h", "", ""), ("http://h/a/", "", ""), ("http://h/a/..", "", ""), ("http://h/a%2Fb", "", "b"),
        ("http://h/", 'attachment; filename="x.tar"', "x.tar"), ("http://h/", 'attachment; filename="../../etc/x"', "x"), ("http://h/", 'attachment; filename=".."', ""), ("http://h/a", 'attachment; filename="x"', "a"),
        ("http://h/" + "n" * 300, "", ""), ("http://h/", "attachment; filename*=UTF-8''%e2%82%ac", "€"), ("http://h/a%00b", "", ""), ("http://h/x;y", "", "x;y"),
    ],
)  # fmt: skip
def test_names(url: str, disposition: str, expected: str) -> None:
    assert name_of(url, disposition) == expected


def test_a_name_from_the_server(server: Server, into: str) -> None:
    server.answers["/"] = lambda handler: give(handler, Content_Disposition='attachment; filename="f.bin"')
    assert fetch(server.url, into=into).name == "f.bin"


# -- redirects --------------------------------------------------------------------------------------


def to(location: str, status: int = 302) -> Answer:
    return lambda handler: give(handler, b"", status=status, Location=location)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(server: Server, into: str, status: int) -> None:
    server.answers.update({"/a/b": to("../c", status), "/c": to(f"{server.url}/d"), "/d": give})
    found = fetch(f"{server.url}/a/b", into=into)
    assert (found.digest, found.name) == (DIGEST, "b")


def test_ten_redirects_and_no_more(server: Server, into: str) -> None:
    for number in range(20):
        server.answers[f"/{number}"] = to(f"/{number + 1}")
    server.answers["/20"] = give
    assert fetch(f"{server.url}/10", into=into).digest == DIGEST
    os.unlink(into)
    with pytest.raises(InvalidParameter, match="stopped after 10 redirects"):
        fetch(f"{server.url}/9", into=into)
    assert left(into) == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "http://", "http://[::1", "http://h/a b"])
def test_redirects_that_lead_nowhere(server: Server, into: str, location: str) -> None:
    server.answers["/f"] = to(location)
    with pytest.raises((InvalidParameter, Unavailable)):
        fetch(f"{server.url}/f", into=into)
    assert left(into) == []


def test_names_and_passwords(server: Server, into: str) -> None:
    other = Server()
    try:
        other.answers["/f"] = give
        server.answers.update({"/f": to("/g"), "/g": to(f"{other.url}/f")})
        fetch(f"http://me:p%40ss@{server.host}/f", into=into)
        assert [headers.get("authorization") for _, headers in server.asked] == ["Basic bWU6cEBzcw=="] * 2
        assert [headers.get("authorization") for _, headers in other.asked] == [None]
    finally:
        other.close()
    os.unlink(into)
    with pytest.raises(InvalidParameter) as caught:
        fetch(f"http://me:secret@{server.host}/nothing", into=into)
    assert "secret" not in str(caught.value)
    assert shown("http://me:secret@h:1/x?y") == "http://h:1/x?y"


# -- what goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kind"), [(404, InvalidParameter), (403, InvalidParameter), (500, Unavailable), (503, Unavailable), (429, Unavailable), (206, InvalidParameter), (304, InvalidParameter)])
def test_other_answers(server: Server, into: str, status: int, kind: type[BerthError]) -> None:
    server.answers["/f"] = lambda handler: give(handler, b"", status=status)
    with pytest.raises(kind, match=f"the server answers {status}"):
        fetch(f"{server.url}/f", into=into)


def test_cut_off(server: Server, into: str) -> None:
    server.answers["/f"] = lambda handler: give(handler, length=len(CONTENT) + 1)
    with pytest.raises(DataLoss, match=f"cut off after {len(CONTENT)}"):
        fetch(f"{server.url}/f", into=into)
    assert left(into) == []


def chunked(data: bytes, *, end: bool) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if end else b""))

    return answer


def test_chunked(server: Server, into: str) -> None:
    server.answers.update({"/f": chunked(CONTENT, end=True), "/g": chunked(CONTENT, end=False)})
    assert fetch(f"{server.url}/f", into=into).digest == DIGEST
    os.unlink(into)
    with pytest.raises(DataLoss, match="cut off"):
        fetch(f"{server.url}/g", into=into)
    assert left(into) == []


@pytest.mark.parametrize("announced", [True, False])
def test_too_large(server: Server, into: str, announced: bool) -> None:
    server.answers["/f"] = give if announced else chunked(CONTENT, end=True)
    with pytest.raises(TooLarge):
        fetch(f"{server.url}/f", into=into, most_bytes=100)
    assert left(into) == []


def test_nobody_there(into: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match="refused"):
        fetch(f"http://127.0.0.1:{port}/f", into=into)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"])
def test_no_web_server(into: str, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection, contextlib.suppress(OSError):  # the client may have heard enough
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises((Unavailable, DataLoss)):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/f", into=into)
        thread.join()


def test_slow_and_unwanted(server: Server, into: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), threading.Event()

    def trickle(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not end.wait(0.02):
            try:
                handler.wfile.write(b"x")
                begun.set()
            except OSError:
                return

    server.answers["/f"] = trickle
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.5)
    with pytest.raises(Unavailable, match="less than 1024 bytes a second"):
        fetch(f"{server.url}/f", into=into)
    begun.clear()
    stop = threading.Event()
    thread = threading.Thread(target=lambda: begun.wait() and stop.set())
    thread.start()
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 30)
    with pytest.raises(Cancelled):
        fetch(f"{server.url}/f", into=into, stop=stop)
    thread.join()
    end.set()
    assert left(into) == []


@pytest.mark.parametrize("url", ["", "f", "/f", "ftp://h/f", "file:///etc/passwd", "http:///f", "http://h:99999/f", "http://h:x/f", "http://h/a b", "http://h/\r\nx: y", "http://[::1/f"])
def test_urls_that_are_none(into: str, url: str) -> None:
    with pytest.raises(InvalidParameter, match="is no address of a web server"):
        fetch(url, into=into)


def test_letters_beyond_ascii(server: Server, into: str) -> None:
    server.answers["/%E2%82%AC"] = give
    assert fetch(f"{server.url}/€", into=into).name == "€"


def test_what_is_there_is_not_written_over(server: Server, into: str) -> None:
    server.answers["/f"] = give
    os.symlink("/etc/passwd", f"{into}.partial")
    with pytest.raises(FileExistsError):
        fetch(f"{server.url}/f", into=into)
    assert Path("/etc/passwd").read_bytes() != CONTENT


# -- once more --------------------------------------------------------------------------------------


def test_nothing_has_changed(server: Server, into: str) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        give(handler, b"", status=304) if handler.headers["If-None-Match"] == '"1"' else give(handler, ETag='"1"')

    server.answers["/f"] = answer
    first = fetch(f"{server.url}/f", into=into)
    assert fetch(f"{server.url}/f", into=f"{into}2", known=first, checksum=DIGEST) is first
    with pytest.raises(DataLoss):
        fetch(f"{server.url}/f", into=f"{into}2", known=first, checksum="sha256:" + "0" * 64)
    old = Fetched(into, "f", etag='"0"', last_modified="", digest=DIGEST)
    assert fetch(f"{server.url}/f", into=f"{into}2", known=old) is not old
    assert left(into) == ["file", "file2"]


def test_by_time(server: Server, into: str) -> None:
    server.answers["/f"] = lambda handler: give(handler, Last_Modified=MODIFIED)
    first = fetch(f"{server.url}/f", into=into)
    fetch(f"{server.url}/f", into=f"{into}2", known=first)
    assert server.asked[1][1]["if-modified-since"] == MODIFIED


# -- proxies, TLS -----------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path_factory: pytest.TempPathFactory, server: Server) -> ssl.SSLContext:
    directory = str(tmp_path_factory.mktemp("tls"))
    make_certificates(directory, names=("files.test",))
    server.secure(directory)
    return ssl.create_default_context(cafile=f"{directory}/ca.crt")


def test_tls(server: Server, into: str, secure: ssl.SSLContext) -> None:
    server.answers["/f"] = give
    assert fetch(f"{server.url}/f", into=into, tls=secure).digest == DIGEST
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(f"{server.url}/f", into=f"{into}2")


def test_never_from_https_to_http(server: Server, into: str, secure: ssl.SSLContext) -> None:
    server.answers["/f"] = to("http://127.0.0.1/x")
    with pytest.raises(InvalidParameter, match="not encrypted: refused"):
        fetch(f"{server.url}/f", into=into, tls=secure)


def test_proxies(server: Server, into: str) -> None:
    server.answers["/f"] = give
    with FakeProxy("http", target=server.host, who=("me", "secret")) as proxy:
        for number, environment in enumerate(({"http_proxy": proxy.url}, {"HTTP_PROXY": proxy.url}, {"all_proxy": proxy.url}, {"http_proxy": proxy.url, "no_proxy": "other.test"})):
            fetch("http://files.test/f", into=f"{into}{number}", environment=environment)
        assert proxy.asked == ["GET http://files.test/f"] * 4
        for environment in ({"http_proxy": proxy.url, "no_proxy": "files.test"}, {"http_proxy": proxy.url, "NO_PROXY": ".test"}, {"http_proxy": proxy.url, "no_proxy": "*"}, {"https_proxy": proxy.url}):
            with pytest.raises(Unavailable):
                fetch("http://files.test/f", into=into, environment=environment)
        assert len(proxy.asked) == 4
        fetch(f"{server.url}/f", into=into, environment={"http_proxy": proxy.url})  # what is on this host is reached directly
        assert len(proxy.asked) == 4
    assert "proxy-authorization" not in server.asked[0][1]


def test_a_tunnel(server: Server, into: str, secure: ssl.SSLContext) -> None:
    server.answers["/f"] = give
    with FakeProxy("http", target=server.host) as proxy:
        assert fetch("https://files.test/f", into=into, tls=secure, environment={"https_proxy": proxy.url}).digest == DIGEST
        assert proxy.asked == ["CONNECT files.test:443"]


# -- contexts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress])
def test_a_context_that_is_an_archive(server: Server, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = archive((member("Dockerfile"), b"FROM scratch\n"), member("d", tarfile.DIRTYPE), (member("d/f"), b"1"))
    server.answers["/context"] = lambda handler: give(handler, pack(data))
    top = tmp_path / "into"
    top.mkdir()
    assert from_url(f"{server.url}/context", str(top)) == f"sha256:{hashlib.sha256(pack(data)).hexdigest()}"
    assert sorted(os.listdir(top)) == ["Dockerfile", "d"]


def test_a_context_that_is_a_dockerfile(server: Server, tmp_path: Path) -> None:
    server.answers["/Dockerfile.x"] = lambda handler: give(handler, b"FROM scratch\n")
    assert from_url(f"{server.url}/Dockerfile.x", str(tmp_path)) == f"sha256:{hashlib.sha256(b'FROM scratch' + bytes([10])).hexdigest()}"
    assert os.listdir(tmp_path) == ["Dockerfile"]
    assert (tmp_path / "Dockerfile").read_bytes() == b"FROM scratch\n"


def test_a_context_that_is_neither(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = lambda handler: give(handler, bytes(17 << 20))
    with pytest.raises(InvalidParameter, match="no tar archive, and too large for a Dockerfile"):
        from_url(f"{server.url}/x", str(tmp_path))
    assert os.listdir(tmp_path) == []


