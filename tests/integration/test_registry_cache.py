"""berth's registry as a cache of Debian's docker-registry: what it fetches, how often, and what it gives when that is gone."""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import wait_until
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry
from registry_host import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, RegistryHost, digest_of, registry_host

pytestmark = pytest.mark.skipif(not HAVE_DOCKER_REGISTRY or not shutil.which("htpasswd"), reason="needs Debian's docker-registry and apache2-utils")


class Upstream(RegistryHost):
    """The methods that push, on another registry."""

    def __init__(self, host: Host) -> None:
        self.address = str(host)


@pytest.fixture(scope="module")
def behind() -> Iterator[Host]:
    with docker_registry() as host:
        yield host


@pytest.fixture(scope="module")
def host(behind: Host) -> Iterator[RegistryHost]:
    with registry_host("--proxy-remote", behind.url) as running:
        yield running


def requests(log: str, method: str, path: str) -> int:
    """How often docker-registry was asked, by its own log."""
    return len(re.findall(rf'"{method} {re.escape(path)}[ ?]', log))


def blobs_of(manifest: bytes) -> "list[str]":
    value = json.loads(manifest)
    return [value["config"]["digest"], *(layer["digest"] for layer in value["layers"])]


def test_what_is_pulled_through_is_kept(behind: Host, host: RegistryHost) -> None:
    layer = os.urandom(3_000_000)
    digest = Upstream(behind).push("team/app", "1", layer)
    for turn in range(2):
        manifest = host.ask("GET", "/v2/team/app/manifests/1")
        assert (manifest.status, manifest.headers["Docker-Content-Digest"], digest_of(manifest.body)) == (200, digest, digest), turn
        for blob in blobs_of(manifest.body):
            assert digest_of(host.ask("GET", f"/v2/team/app/blobs/{blob}").body) == blob
    assert requests(behind.log(), "GET", f"/v2/team/app/blobs/{digest_of(layer)}") == 1
    assert requests(behind.log(), "GET", f"/v2/team/app/manifests/{digest}") == 1
    assert host.ask("GET", "/v2/team/app/tags/list").json["tags"] == ["1"]
    newer = Upstream(behind).push("team/app", "1", b"newer")
    assert host.ask("HEAD", "/v2/team/app/manifests/1").headers["Docker-Content-Digest"] == newer
    refused = host.ask("POST", "/v2/team/app/blobs/uploads/")
    assert (refused.status, refused.code) == (405, "UNSUPPORTED")
    assert host.ask("DELETE", f"/v2/team/app/manifests/{newer}").status == 405


def test_what_is_not_there(behind: Host, host: RegistryHost) -> None:
    Upstream(behind).push("team/there", "1", b"x")
    for path in ("team/there/manifests/2", "team/none/manifests/1", f"team/there/manifests/{digest_of(b'no')}", f"team/there/blobs/{digest_of(b'no')}",
                 "team/none/tags/list"):  # fmt: skip
        assert host.ask("GET", f"/v2/{path}").status == 404, path
        assert host.ask("HEAD", f"/v2/{path}").status == 404, path
    # A blob of one repository is another's only where the registry behind says so.
    blob = digest_of(b"x")
    assert host.ask("GET", f"/v2/team/there/blobs/{blob}").body == b"x"
    assert host.ask("GET", f"/v2/team/none/blobs/{blob}").status == 404


def test_a_range_and_a_head_of_what_is_not_here_yet(behind: Host, host: RegistryHost) -> None:
    digest = Upstream(behind).push_blob("team/range", b"0123456789")
    head = host.ask("HEAD", f"/v2/team/range/blobs/{digest}")
    assert (head.status, head.headers["Content-Length"]) == (200, "10")
    part = host.ask("GET", f"/v2/team/range/blobs/{digest}", headers={"Range": "bytes=2-4"})
    assert (part.status, part.body) == (206, b"234")


class Gate:
    """A registry with one image whose layer comes only as far as the test lets it. asked: how often for the layer.

    repositories: those that have it; all without.
    """

    def __init__(self, layer: bytes, *, lie: bool = False, repositories: tuple[str, ...] = ()) -> None:
        self.repositories = repositories
        self.layer, self.digest = layer, digest_of(layer)
        self.sent = bytes(len(layer)) if lie else layer
        config = b"{}"
        self.blobs = {digest_of(config): config}
        entries = [{"mediaType": kind, "digest": digest_of(data), "size": len(data)} for kind, data in ((OCI_CONFIG, config), (OCI_LAYER, layer))]
        self.manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}).encode()
        self.open, self.asked = threading.Event(), 0
        self.half = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                gate.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        if path == "/v2/":
            body, kind = b"{}", "application/json"
        elif "/manifests/" in path:
            body, kind = self.manifest, OCI_MANIFEST
        else:
            body, kind = self.blobs.get(path.rpartition("/")[2], self.sent), "application/octet-stream"
        if "/blobs/" in path and self.repositories and path.removeprefix("/v2/").partition("/blobs/")[0] not in self.repositories:
            handler.send_response(404)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        if "/manifests/" in path:
            handler.send_header("Docker-Content-Digest", digest_of(body))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if path.endswith(self.digest):
            self.asked += 1
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            self.half.set()
            self.open.wait(60)
            body = body[len(body) // 2 :]
        handler.wfile.write(body)

    def finish(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_many_clients_one_fetch_and_bytes_as_they_come() -> None:
    gate = Gate(os.urandom(4_000_000))
    try:
        with registry_host("--proxy-remote", gate.url) as host:
            results: list[bytes] = []
            firsts = [threading.Event() for _ in range(6)]

            def pull(first: threading.Event) -> None:
                connection = http.client.HTTPConnection(host.address, timeout=60)
                connection.request("GET", f"/v2/a/b/blobs/{gate.digest}")
                answer = connection.getresponse()
                data = answer.read(1_000_000)
                first.set()  # while the registry behind has sent no more than half
                results.append(data + answer.read())
                connection.close()

            threads = [threading.Thread(target=pull, args=(first,)) for first in firsts]
            for thread in threads:
                thread.start()
            assert all(first.wait(60) for first in firsts)
            assert not gate.open.is_set()
            gate.open.set()
            for thread in threads:
                thread.join(60)
            assert results == [gate.layer] * 6
            assert gate.asked == 1
            assert host.ask("GET", f"/v2/a/b/blobs/{gate.digest}").body == gate.layer
            assert gate.asked == 1
    finally:
        gate.finish()


def test_a_fetch_gives_nothing_to_a_repository_that_has_it_not() -> None:
    """While it runs and when it has ended; one that has the blob as well shares the fetch."""
    gate = Gate(os.urandom(4_000_000), repositories=("a/b", "a/c"))
    try:
        with registry_host("--proxy-remote", gate.url) as host:
            results: dict[str, bytes] = {}

            def pull(name: str) -> None:
                results[name] = host.ask("GET", f"/v2/{name}/blobs/{gate.digest}").body

            def refuses(name: str) -> None:
                for method, headers in (("GET", {}), ("GET", {"Range": "bytes=0-9"}), ("HEAD", {})):
                    answer = host.ask(method, f"/v2/{name}/blobs/{gate.digest}", headers=headers)
                    assert answer.status == 404
                    assert method == "HEAD" or answer.code == "BLOB_UNKNOWN"

            threads = [threading.Thread(target=pull, args=(name,)) for name in ("a/b", "a/c")]
            threads[0].start()
            assert gate.half.wait(60)
            refuses("a/other")
            threads[1].start()
            gate.open.set()
            for thread in threads:
                thread.join(60)
            assert results == {"a/b": gate.layer, "a/c": gate.layer}
            assert gate.asked == 1
            refuses("a/other")
            gate.repositories = ("none",)  # what was answered with bytes is kept, under its names alone
            assert [host.ask("GET", f"/v2/{name}/blobs/{gate.digest}").status for name in ("a/b", "a/c", "a/other")] == [200, 200, 404]
    finally:
        gate.finish()


def test_bytes_that_lie_reach_nobody_whole() -> None:
    gate = Gate(os.urandom(2_000_000), lie=True)
    gate.open.set()
    try:
        with registry_host("--proxy-remote", gate.url) as host:
            with pytest.raises(http.client.IncompleteRead):
                host.ask("GET", f"/v2/a/b/blobs/{gate.digest}")
            assert not list(Path(host.root, "content/blobs").glob(f"*/{gate.digest[7:]}"))
            wait_until(lambda: not os.listdir(f"{host.root}/fetching"), "files of a blob that lied", 30)
            wait_until(lambda: "came with digest" in host.log(), "no word of it in the log", 30)
    finally:
        gate.finish()


def test_a_fetch_that_was_killed_goes_on() -> None:
    gate = Gate(os.urandom(6_000_000))
    try:
        with registry_host("--proxy-remote", gate.url) as host:
            thread = threading.Thread(target=pull_from_a_registry_that_ends, args=(host, gate.digest))
            thread.start()
            assert gate.half.wait(60)
            wait_until(lambda: any(path.stat().st_size >= 1_000_000 for path in Path(host.root, "fetching").glob(gate.digest[7:])), "half a blob", 30)
            host.kill()
            thread.join(60)
            gate.open.set()
            host.start()
            assert host.ask("GET", f"/v2/a/b/blobs/{gate.digest}").body == gate.layer
            assert host.ask("GET", "/v2/_catalog").status == 200
    finally:
        gate.finish()


def pull_from_a_registry_that_ends(host: RegistryHost, digest: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        host.ask("GET", f"/v2/a/b/blobs/{digest}")


def test_the_registry_behind_is_gone() -> None:
    with docker_registry() as first:
        digest = Upstream(first).push("team/kept", "1", b"kept layer")
        host = RegistryHost("--proxy-remote", first.url)
        try:
            manifest = host.ask("GET", "/v2/team/kept/manifests/1").body
            for blob in blobs_of(manifest):
                host.ask("GET", f"/v2/team/kept/blobs/{blob}")
        except BaseException:
            host.finish()
            raise
    try:  # now it is gone
        for reference in ("1", digest):
            assert host.ask("GET", f"/v2/team/kept/manifests/{reference}").body == manifest
        for blob in blobs_of(manifest):
            assert digest_of(host.ask("GET", f"/v2/team/kept/blobs/{blob}").body) == blob
        assert host.ask("GET", "/v2/team/kept/tags/list").json["tags"] == ["1"]
        gone = host.ask("GET", "/v2/team/new/manifests/1")
        assert (gone.status, gone.code) == (502, "UNAVAILABLE")
    finally:
        host.finish()


def test_a_cache_has_bounds(behind: Host) -> None:
    upstream = Upstream(behind)
    layers = [os.urandom(1_000_000) for _ in range(6)]
    for number, layer in enumerate(layers):
        upstream.push("team/bounds", str(number), layer)
    with registry_host("--proxy-remote", behind.url, "--proxy-cache-size", "3m") as host:

        def kept() -> int:
            total = 0
            for path in Path(host.root, "content/blobs").glob("*/*"):
                with contextlib.suppress(FileNotFoundError):  # it may go meanwhile
                    total += path.stat().st_size
            return total

        for layer in layers:
            assert host.ask("GET", f"/v2/team/bounds/blobs/{digest_of(layer)}").body == layer
        wait_until(lambda: kept() <= 3 << 20, "more than the cache may have", 30)
        assert kept() > 1 << 20
        assert host.ask("GET", f"/v2/team/bounds/blobs/{digest_of(layers[0])}").body == layers[0]


def test_a_password_for_the_registry_behind(tmp_path: Path) -> None:
    with docker_registry(auth=("bob", "builder")) as behind:
        (tmp_path / "password").write_text("builder\n")
        basic = {"Authorization": "Basic " + base64.b64encode(b"bob:builder").decode()}
        upstream, data = Upstream(behind), b"behind a password"
        location = upstream.ask("POST", "/v2/secret/blobs/uploads/", headers=basic).headers["Location"]
        assert upstream.ask("PUT", f"{location}&digest={digest_of(data)}", data, basic).status == 201
        options = ("--proxy-remote", behind.url, "--proxy-username", "bob", "--proxy-password-file", f"{tmp_path}/password")
        with registry_host(*options) as host:
            assert host.ask("GET", f"/v2/secret/blobs/{digest_of(data)}").body == data
        with registry_host("--proxy-remote", behind.url) as stranger:
            assert stranger.ask("GET", f"/v2/secret/blobs/{digest_of(data)}").status == 404
