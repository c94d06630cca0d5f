"""The registry client against a registry that misbehaves: right bytes or a clear error, in bounded time and memory."""

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fake_registry
from berth.errors import BerthError, Cancelled, Conflict, DataLoss, InvalidParameter, NotFound, Unauthorized, Unavailable
from berth.oci import reference
from berth.registry import media
from berth.registry.client import download, failures
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.registry.documents import Descriptor
from berth.registry.progress import Line
from berth.store.partial import Partial
from fake_registry import FakeRegistry, answer, error, forever, hang_up, of_blob, overlaps, raw, stall, take

RANDOM = random.Random(5).randbytes(300_000)
SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "src")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as one:
        yield one


def client_of(host: str, credentials: Credentials | None = None, cancelled: threading.Event | None = None, **given: object) -> RegistryClient:
    values: dict = {"environment": {}, "certificate_directories": (), "timeout_s": 20.0, "back_off_s": 0.0, "attempts": 3, **given}
    return RegistryClient(host, Settings(**values), credentials, cancelled)


def fetch(client: RegistryClient, directory: Path, digest: str, size: int, *, chunk_bytes: int = 0, media_type: str = "", urls: "list[str] | None" = None) -> bytes:
    """Downloads into a partial, which stays if that fails."""
    partial = Partial(str(directory), digest, size, chunk_bytes=chunk_bytes)
    try:
        client.download("a/b", Descriptor(media_type or media.DOCKER_LAYER, digest, size, urls=urls), partial)
        with open(partial.path, "rb") as file:
            data = file.read()
        partial.discard()
        return data
    finally:
        partial.close()


# -- downloads: no byte twice ------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 65_535, 65_536, 65_537, 100_000, 299_999])
def test_a_download_goes_on_where_it_was_cut_off(registry: FakeRegistry, tmp_path: Path, cut: int) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(cut=cut), times=2)
    with client_of(registry.host, attempts=5) as client:
        assert fetch(client, tmp_path, digest, len(RANDOM)) == RANDOM
    assert overlaps(registry.sent[digest]) == []


def test_who_waits_is_told_for_how_long(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", answer(503), times=2)
    registry.rule("PATCH", "", answer(503), times=1)
    said: list[dict] = []
    line = Line(said.append, "0123")
    with client_of(registry.host, back_off_s=0.01) as client:
        partial = Partial(str(tmp_path), digest, len(RANDOM))
        client.download("a/b", Descriptor("", digest, len(RANDOM)), partial, waiting=line.retrying)
        partial.discard()
        client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM), waiting=line.retrying)
    line.retrying(1.2)
    assert [one["status"] for one in said] == ["Retrying in 1 second"] * 3 + ["Retrying in 2 seconds"]


def test_a_download_that_was_given_up_goes_on_in_the_next_client(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    for cut in (10, 60_000):
        registry.rule("GET", "/blobs/", of_blob(cut=cut), times=1)
        with client_of(registry.host, attempts=1) as client, pytest.raises(Unavailable, match=r"broke off|early"):
            fetch(client, tmp_path, digest, len(RANDOM))
    with client_of(registry.host) as client:
        assert fetch(client, tmp_path, digest, len(RANDOM)) == RANDOM
    assert overlaps(registry.sent[digest]) == []


@pytest.mark.parametrize("ways", [{"stall": True}, {"chunk": 1000}, {"version": "1.0"}], ids=lambda ways: next(iter(ways)))
def test_what_came_before_a_stall_or_a_cut_in_a_chunk_is_kept(registry: FakeRegistry, tmp_path: Path, ways: dict) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(cut=123_456, **ways), times=1)
    with client_of(registry.host, timeout_s=2.5 if "stall" in ways else 20.0) as client:
        assert fetch(client, tmp_path, digest, len(RANDOM)) == RANDOM
    assert overlaps(registry.sent[digest]) == []


DOWNLOADER = """
import sys
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.registry.documents import Descriptor
from berth.store.partial import Partial
host, directory, digest, size = sys.argv[1:]
partial = Partial(directory, digest, int(size), chunk_bytes=65536)
RegistryClient(host, Settings(environment={}, certificate_directories=())).download("a/b", Descriptor("", digest, int(size)), partial)
"""


@pytest.mark.parametrize("cut", [1, 65_536, 200_001])
def test_a_killed_downloader_has_noted_every_byte(registry: FakeRegistry, tmp_path: Path, cut: int) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(cut=cut, stall=True), times=1)
    process = subprocess.Popen([sys.executable, "-c", DOWNLOADER, registry.host, str(tmp_path), digest, str(len(RANDOM))], env={**os.environ, "PYTHONPATH": SOURCE})
    try:
        assert registry.stalled.wait(60)
        await_size(tmp_path / digest.removeprefix("sha256:"), cut, process)
    finally:
        process.send_signal(signal.SIGSTOP)  # between two instructions, wherever it is
        process.kill()
        process.wait()
    with client_of(registry.host) as client:
        assert fetch(client, tmp_path, digest, len(RANDOM), chunk_bytes=65536) == RANDOM
    assert overlaps(registry.sent[digest]) == []


def await_size(path: Path, size: int, process: "subprocess.Popen[bytes]") -> None:
    """Until the process has noted so many bytes."""
    pause = threading.Event()
    for _ in range(6000):
        counts = Path(f"{path}.counts")
        if counts.exists() and sum(int.from_bytes(counts.read_bytes()[at : at + 8], "little") for at in range(24, counts.stat().st_size, 8)) == size:
            return
        assert process.poll() is None
        pause.wait(0.01)
    raise AssertionError(f"{path} does not reach {size} bytes")


def test_a_large_blob_comes_in_several_ranges_each_byte_once(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_LEAST_PARALLEL_BYTES", 200_000)
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(cut=9_000), times=3)
    with client_of(registry.host, attempts=9) as client:
        assert fetch(client, tmp_path, digest, len(RANDOM), chunk_bytes=20_000) == RANDOM
    assert overlaps(registry.sent[digest]) == []
    assert len(registry.sent[digest]) >= 15


def test_a_registry_that_forgets_ranges_half_way(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Honest first, then the whole blob whatever is asked, and that cut off too: the bytes are right."""
    monkeypatch.setattr(download, "_LEAST_PARALLEL_BYTES", 200_000)
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(ranges=False))
    registry.rule("GET", "/blobs/", of_blob(ranges=False, cut=150_000), times=1)
    registry.rule("GET", "/blobs/", of_blob(), times=3)
    with client_of(registry.host) as client:
        assert fetch(client, tmp_path, digest, len(RANDOM), chunk_bytes=20_000) == RANDOM


@pytest.mark.parametrize("present", [[1], [0, 2], [0, 1, 3, 14], list(range(15))])
def test_without_ranges_only_the_holes_are_written(registry: FakeRegistry, tmp_path: Path, present: "list[int]") -> None:
    digest = registry.add_blob(RANDOM)
    partial = Partial(str(tmp_path), digest, len(RANDOM), chunk_bytes=20_000)
    for index in present:
        partial.write(index * 20_000, RANDOM[index * 20_000 : (index + 1) * 20_000])
    partial.close()
    registry.rule("GET", "/blobs/", of_blob(ranges=False))
    with client_of(registry.host) as client:
        assert fetch(client, tmp_path, digest, len(RANDOM), chunk_bytes=20_000) == RANDOM
    assert len(registry.asked("GET", "/blobs/")) == (0 if len(present) == 15 else 1)


def test_a_registry_that_gives_a_byte_an_answer_is_given_up(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(cut=1))
    with client_of(registry.host, attempts=4) as client, pytest.raises(Unavailable, match="tried 4 times"):
        fetch(client, tmp_path, digest, len(RANDOM))
    assert len(registry.asked("GET", "/blobs/")) == 4


def test_a_trickle_is_given_up(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", forever(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", b"x", 0.05))
    with client_of(registry.host, attempts=2, timeout_s=0.5) as client, pytest.raises(Unavailable, match=r"bytes come in a second|nothing came"):
        fetch(client, tmp_path, digest, len(RANDOM))


ENDLESS = {
    "header": forever(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 7),
    "trickled header": forever(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x", 0.05),
    "headers": forever(b"HTTP/1.1 200 OK\r\n", b"X-Many: 1\r\n" * 9),
    "continue": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk size": forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 999),
    "trailer": forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: 1\r\n" * 1000),
    "small chunks": forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 9999),
    "negative chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
    "stall": stall,
    "hang up": hang_up,
    "half a head": raw(b"HTTP/1.1 200 OK\r\nContent-Le", then_wait=True),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "nothing of it": raw(b"\0" * 100_000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_without_an_end_comes_to_one(registry: FakeRegistry, tmp_path: Path, name: str) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/(blobs|manifests)/", ENDLESS[name])
    with client_of(registry.host, attempts=2, timeout_s=0.2) as client:
        with pytest.raises((Unavailable, DataLoss)):
            fetch(client, tmp_path, digest, len(RANDOM))
        with pytest.raises((Unavailable, DataLoss)):
            client.manifest(reference.parse(f"{registry.host}/a/b:v1"))


SIZE = {"Content-Length": "300000"}


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (answer(200, RANDOM[:-1]), DataLoss, "has 300000 bytes by its manifest, and the registry has 299999"),
        (answer(200, RANDOM + b"x"), DataLoss, "and the registry has 300001"),
        (answer(206, RANDOM[:50], Content_Range="bytes 7-56/300000"), DataLoss, "answered with 'bytes 7-56/300000'"),
        (answer(206, RANDOM[:50], Content_Range="bytes 0-49/50"), DataLoss, "answered with"),
        (answer(206, RANDOM[:50]), DataLoss, "answered with ''"),
        (answer(416), DataLoss, "less than was asked for"),
        (answer(404, b"<html>not here</html>", Content_Type="text/html"), NotFound, "with a web page: is this the address of a registry"),
        (error(404, "BLOB_UNKNOWN"), NotFound, "blob unknown: blob unknown to registry"),
        (error(403, "DENIED"), BerthError, "denied: requested access to the resource is denied"),
        (error(500, "UNKNOWN", "disk on fire"), Unavailable, "disk on fire.*tried 3 times"),
        (answer(302), Unavailable, "redirects to ''"),
        (answer(302, Location="http://["), Unavailable, "which is no address to ask"),
        (answer(302, Location="http://h:99999/"), Unavailable, "which is no address to ask"),
        (answer(302, Location="file:///etc/passwd"), Unavailable, "which is no address to ask"),
        (answer(302, Location="http://127.0.0.1 /x"), Unavailable, "which is no address to ask"),
        (answer(302, Location="http://\xe9/x"), Unavailable, "which is no address to ask"),
        (answer(302, Location="/v2/a/b/blobs/x"), Unavailable, "more than 10 redirects"),
        (answer(302, Location="http://" + "a" * 70 + ".test/"), InvalidParameter, "is not the address"),
    ],
)  # fmt: skip
def test_a_blob_that_is_not_as_said(registry: FakeRegistry, tmp_path: Path, act: fake_registry.Act, kind: type, words: str) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", act)
    with client_of(registry.host) as client, pytest.raises(kind, match=words):
        fetch(client, tmp_path, digest, len(RANDOM))


def test_readers_of_a_download_that_fails_get_its_error(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(cut=100))
    partial = Partial(str(tmp_path), digest, len(RANDOM))
    seen: list[object] = []

    def read() -> None:
        try:
            seen.append(partial.read(0, 1000))
            partial.read(300, 1)  # after three attempts with 100 bytes each
        except BerthError as error:
            seen.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with client_of(registry.host) as client, pytest.raises(Unavailable) as caught:
        client.download("a/b", Descriptor("", digest, len(RANDOM)), partial)
    reader.join()
    assert len(seen[0]) in range(1, 301)
    assert seen[1] is caught.value
    partial.close()


def test_a_full_disk_is_nobody_elses_fault(registry: FakeRegistry) -> None:
    digest = registry.add_blob(RANDOM)
    with client_of(registry.host) as client:
        partial = Partial("/dev/shm", digest, len(RANDOM))
        try:
            partial._fd, kept = os.open("/dev/full", os.O_WRONLY), partial._fd
            with pytest.raises(OSError, match="No space left on device"):
                client.download("a/b", Descriptor("", digest, len(RANDOM)), partial)
            os.close(partial._fd)
            partial._fd = kept
        finally:
            partial.discard()


def test_cancelling_ends_a_download_that_stalls(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", "/blobs/", of_blob(cut=1000, stall=True))
    cancelled = threading.Event()
    failures: list[BaseException] = []
    client = client_of(registry.host, None, cancelled, timeout_s=600.0)

    def work() -> None:
        try:
            fetch(client, tmp_path, digest, len(RANDOM))
        except BerthError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert registry.stalled.wait(60)
    cancelled.set()
    client.close()
    thread.join(60)
    assert isinstance(failures[0], Cancelled)


FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest.mark.parametrize("act", [error(404, "BLOB_UNKNOWN"), error(401, "UNAUTHORIZED"), answer(503), hang_up])
def test_foreign_layers_come_from_their_own_address(registry: FakeRegistry, tmp_path: Path, act: fake_registry.Act) -> None:
    """The first that has it, whatever the registry and the others answer."""
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", f"/v2/a/b/blobs/{digest}", act)
    with FakeRegistry() as site:
        site.add_blob(RANDOM)
        site.rule("GET", "^/blobs/", of_blob(cut=100_000), times=1)
        urls = ["ftp://x/y", "http://user@[", "http://127.0.0.1:1/none", f"http://{site.host}/no/blobs/sha256:0", f"http://{site.host}/blobs/{digest}"]
        with client_of(registry.host, ALICE) as client:
            assert fetch(client, tmp_path, digest, len(RANDOM), media_type=FOREIGN, urls=urls) == RANDOM
        assert overlaps(site.sent[digest]) == []
        assert all("authorization" not in request.headers for request in site.requests)


def test_a_foreign_layer_that_is_nowhere(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    with client_of(registry.host) as client:
        for urls in ([], ["http://127.0.0.1:1/none", f"http://{registry.host}/blobs/{digest}"]):
            with pytest.raises(NotFound, match="blob unknown"):
                fetch(client, tmp_path, digest, 10, media_type=FOREIGN, urls=urls)
        registry.rule("GET", "/elsewhere/", answer(503))
        with pytest.raises(Unavailable, match="tried 3 times"):
            fetch(client, tmp_path, digest, 10, media_type=FOREIGN, urls=[f"http://{registry.host}/elsewhere/", f"http://{registry.host}/blobs/{digest}"])


# -- trying again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [answer(429, Retry_After="0"), error(503, "UNAVAILABLE"), answer(502), hang_up, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal")])
def test_what_passes_is_waited_for(registry: FakeRegistry, act: fake_registry.Act) -> None:
    digest = add_image(registry)
    registry.rule("GET", "/manifests/", act, times=2)
    with client_of(registry.host) as client:
        assert client.manifest(reference.parse(f"{registry.host}/a/b:v1")).digest == digest


def test_what_does_not_pass_is_said_in_dockers_words(registry: FakeRegistry) -> None:
    registry.rule("GET", "/manifests/", error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit."))
    with client_of(registry.host) as client, pytest.raises(Unavailable, match="toomanyrequests: You have reached your pull rate limit; the registry limits"):
        client.manifest(reference.parse(f"{registry.host}/a/b:v1"))
    assert len(registry.asked("GET", "/manifests/")) == 3


def test_an_idle_connection_that_was_closed_meanwhile_is_no_failure(registry: FakeRegistry) -> None:
    add_image(registry)
    with client_of(registry.host, attempts=1) as client:
        for _ in range(3):
            client.manifest(reference.parse(f"{registry.host}/a/b:v1"))
            with registry.lock:
                for sock in registry._open:
                    with contextlib.suppress(OSError):  # one of an earlier round, which its thread has not put away yet
                        sock.shutdown(2)


def add_image(registry: FakeRegistry, tag: str = "v1") -> str:
    config = registry.add_blob(b'{"architecture":"amd64","os":"linux"}')
    layer = registry.add_blob(RANDOM)
    return registry.add_manifest(tag, {
        "schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": {"mediaType": media.OCI_CONFIG, "digest": config, "size": 37},
        "layers": [{"mediaType": media.DOCKER_LAYER, "digest": layer, "size": len(RANDOM)}],
    }, media.OCI_MANIFEST)  # fmt: skip


# -- manifests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n{", then_wait=True), DataLoss, "4294967296 bytes; more than 4194304 is refused"),
        (forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"), DataLoss, "more than 4194304 bytes: refused"),
        (forever(b"HTTP/1.0 200 OK\r\n\r\n", b" " * 65536), DataLoss, "more than 4194304 bytes: refused"),
        (answer(200, b"<html>log in to the hotel's network</html>"), DataLoss, "a web page instead of a manifest: is this the address of a registry"),
        (answer(200, b"[" * 100_000), DataLoss, "is not JSON"),
        (answer(200, b"9" * 100_000), DataLoss, "is not JSON"),
        (answer(200, b'"' + b"\xff" * 9 + b'"'), DataLoss, "is not JSON"),
        (answer(200, b"[]"), DataLoss, "not an object"),
        (answer(200, b"{}"), DataLoss, "neither manifest nor index"),
        (answer(200, b"{}", Docker_Content_Digest="sha256:" + "0" * 64), DataLoss, "came from the registry with digest"),
        (answer(404, b"no such page", Content_Type="text/plain"), NotFound, "manifest for .*/a/b:v1 not found"),
        (error(404, "MANIFEST_UNKNOWN", "manifest unknown"), NotFound, "manifest for .*/a/b:v1 not found: manifest unknown: manifest unknown"),
        (error(404, "NAME_UNKNOWN"), NotFound, "repository .*/a/b not found: name unknown: repository name not known to registry"),
        (error(403, "DENIED", "no\x1b[31m \r\nway"), NotFound, r"pull access denied for .*/a/b, .*: denied: no \[31m   way"),
    ],
)  # fmt: skip
def test_manifests_that_are_none(registry: FakeRegistry, act: fake_registry.Act, kind: type, words: str) -> None:
    registry.rule("GET", "/manifests/", act)
    with client_of(registry.host) as client, pytest.raises(kind, match=words):
        client.manifest(reference.parse(f"{registry.host}/a/b:v1"))


def test_an_index_that_lists_itself_is_not_what_it_says(registry: FakeRegistry) -> None:
    wanted = "sha256:" + "1" * 64
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [{"mediaType": media.OCI_INDEX, "digest": wanted, "size": 100}]}
    registry.add_manifest("v1", index, media.OCI_INDEX)
    registry.manifests[wanted] = registry.manifests["v1"]
    with client_of(registry.host) as client:
        found = client.manifest(reference.parse(f"{registry.host}/a/b:v1")).manifests[0].digest
        with pytest.raises(DataLoss, match=f"manifest {wanted} came from the registry with digest"):
            client.manifest(reference.parse(f"{registry.host}/a/b@{found}"))


def test_describing_believes_no_digest_that_is_none(registry: FakeRegistry) -> None:
    digest = add_image(registry)
    with client_of(registry.host) as client:
        name = reference.parse(f"{registry.host}/a/b:v1")
        honest = client.describe(name)
        assert honest
        assert honest.digest == digest
        assert honest.size_bytes > 100
        registry.rule("HEAD", "/manifests/", answer(200, Docker_Content_Digest="../../etc/passwd"))
        other = client.describe(name)
        assert other
        assert other.digest == digest
        registry.rule("HEAD", "/manifests/", answer(404))
        assert client.describe(name) is None


# -- who one is, and to whom that is told ------------------------------------------------------------------------

ALICE = Credentials("alice", "secret")
BEARER = 'Bearer realm="{}/token",service="registry.test"'


def lock(registry: FakeRegistry, realm: str = "", accepted: str = "Bearer good") -> None:
    """Everything below /v2/ needs this authorization."""
    challenge = BEARER.format(realm or registry.url) if accepted.startswith("Bearer") else 'Basic realm="x"'

    def act(exchange: fake_registry.Exchange) -> None:
        if exchange.request.headers.get("authorization") == accepted:
            fake_registry._proper(exchange)
        else:
            exchange.error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

    for method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"):
        registry.rule(method, "^/v2/", act)


def name_in(registry: FakeRegistry, tag: str = "v1") -> reference.Reference:
    return reference.parse(f"{registry.host}/a/b:{tag}")


def test_a_token_is_fetched_once_and_again_when_it_is_no_longer_taken(registry: FakeRegistry) -> None:
    digest = add_image(registry)
    lock(registry)
    registry.rule("GET", "^/token", answer(200, b'{"token":"good"}'))
    with client_of(registry.host, ALICE) as client:
        for _ in range(3):
            assert client.manifest(name_in(registry)).digest == digest
        (asked,) = registry.asked("GET", "^/token")
        assert asked.target == "/token?service=registry.test&account=alice&scope=repository%3Aa%2Fb%3Apull"
        assert asked.headers["authorization"] == "Basic YWxpY2U6c2VjcmV0"
        lock(registry, accepted="Bearer better")
        registry.rule("GET", "^/token", answer(200, b'{"access_token":"better"}'))
        assert client.manifest(name_in(registry)).digest == digest
        assert len(registry.asked("GET", "^/token")) == 2


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (answer(200, b'{"token":"other"}'), NotFound, "unauthorized: authentication required"),
        (answer(200, b'{"token":"a\\r\\nX-Injected: 1"}'), Unauthorized, "without a token"),
        (answer(200, '{"token":"\u20ac"}'.encode()), Unauthorized, "without a token"),
        (answer(200, b"{}"), Unauthorized, "without a token"),
        (answer(200, b"<html>"), Unauthorized, "without a token"),
        (answer(200, b"[" * 9999), Unauthorized, "without a token"),
        (answer(200, b" " * (2 << 20)), Unauthorized, "without a token"),
        (answer(401, b'{"details":"incorrect username or password"}'), NotFound, "pull access denied for .*unauthorized: incorrect username or password"),
        (answer(503), Unavailable, "received unexpected HTTP status: 503 Service Unavailable"),
        (answer(302, Location="/token"), Unavailable, "302"),
        (hang_up, Unavailable, "EOF"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), Unavailable, "broke off"),
    ],
)  # fmt: skip
def test_token_servers_that_give_none(registry: FakeRegistry, act: fake_registry.Act, kind: type, words: str) -> None:
    add_image(registry)
    lock(registry)
    registry.rule("GET", "^/token", act)
    with client_of(registry.host, ALICE) as client, pytest.raises(kind, match=words):
        client.manifest(name_in(registry))
    assert len(registry.requests) < 12


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Bearer", 'Bearer realm=""', 'Bearer realm="http://["', 'Bearer realm="file:///x"', 'Bearer realm="http://h:99999/"', "Basic"])
def test_challenges_nobody_can_answer(registry: FakeRegistry, challenge: str) -> None:
    registry.rule("GET", "/manifests/", error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge))
    with client_of(registry.host) as client, pytest.raises((NotFound, Unavailable)):
        client.manifest(name_in(registry))


def test_a_refresh_token_stands_for_the_password(registry: FakeRegistry) -> None:
    add_image(registry)
    lock(registry)
    bodies: list[bytes] = []

    def token(exchange: fake_registry.Exchange) -> None:
        bodies.append(exchange.read_body())
        exchange.reply(200, b'{"access_token":"good"}')

    registry.rule("POST", "^/token", token)
    with client_of(registry.host, Credentials("<token>", identity_token="refresh+me")) as client:
        client.manifest(name_in(registry))
    assert bodies == [b"grant_type=refresh_token&service=registry.test&client_id=berth&refresh_token=refresh%2Bme&scope=repository%3Aa%2Fb%3Apull"]


def test_a_login_brings_a_refresh_token_where_there_is_one(registry: FakeRegistry) -> None:
    lock(registry)
    registry.rule("GET", "^/token", answer(200, b'{"token":"good","refresh_token":"keep me"}'))
    with client_of(registry.host, ALICE) as client:
        assert client.login() == ""  # it goes into a file and a header: nothing with blanks in it
    registry.rule("GET", "^/token", answer(200, b'{"token":"good","refresh_token":"keep-me"}'))
    with client_of(registry.host, ALICE) as client:
        assert client.login() == "keep-me"
    assert registry.asked("GET", "^/token")[0].target == "/token?service=registry.test&account=alice&client_id=berth&offline_token=true"
    registry.rule("GET", "^/token", answer(200, b'{"token":"good"}'))
    with client_of(registry.host, ALICE) as client:
        assert client.login() == ""


def test_many_threads_at_once_are_let_in_by_a_password(registry: FakeRegistry) -> None:
    """Each is refused first, none takes the other's answer to that for its own failure."""
    add_image(registry)
    together = threading.Barrier(4)
    failures: list[BaseException] = []

    def refuse(exchange: fake_registry.Exchange) -> None:
        together.wait(60)
        exchange.error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="x"'})

    lock(registry, accepted=ALICE.basic)
    registry.rule("GET", "/manifests/", refuse, times=4)
    with client_of(registry.host, ALICE) as client:

        def work() -> None:
            try:
                client.manifest(name_in(registry))
            except BerthError as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_wrong_password_is_tried_once(registry: FakeRegistry) -> None:
    lock(registry, accepted="Basic other")
    with client_of(registry.host, ALICE) as client, pytest.raises(Unauthorized, match=f"login attempt to {registry.url}/v2/ failed with status: 401 Unauthorized"):
        client.login()
    assert [request.headers.get("authorization") for request in registry.asked("GET", "^/v2/$")] == [None, None, ALICE.basic]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_what_one_logged_in_with_stays_here_when_the_blob_lies_elsewhere(registry: FakeRegistry, tmp_path: Path, status: int) -> None:
    digest = registry.add_blob(RANDOM)
    lock(registry, accepted=ALICE.basic)
    with FakeRegistry() as other:
        other.add_blob(RANDOM)
        redirect = answer(status, Location=f"{other.url}/store/blobs/{digest}")
        registry.rule("GET", "/blobs/", lambda exchange: redirect(exchange) if "authorization" in exchange.request.headers else lock_out(exchange))
        other.rule("GET", "/blobs/", of_blob(cut=100_000), times=1)
        with client_of(registry.host, ALICE) as client:
            assert fetch(client, tmp_path, digest, len(RANDOM)) == RANDOM
        assert all("authorization" not in request.headers for request in other.requests)
        assert overlaps(other.sent[digest]) == []


def lock_out(exchange: fake_registry.Exchange) -> None:
    exchange.error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="x"'})


def test_another_host_that_asks_for_the_password_gets_none(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    lock(registry, accepted=ALICE.basic)
    with FakeRegistry() as other:
        other.rule("GET", "", lock_out)
        redirect = answer(307, Location=f"{other.url}/blobs/{digest}")
        registry.rule("GET", "/blobs/", lambda exchange: redirect(exchange) if "authorization" in exchange.request.headers else lock_out(exchange))
        with client_of(registry.host, ALICE) as client, pytest.raises(Unauthorized):
            fetch(client, tmp_path, digest, len(RANDOM))
        assert [request.headers.get("authorization") for request in other.requests] == [None]


# -- mirrors ---------------------------------------------------------------------------------------------------


def hub_of(mirror: FakeRegistry, hub: FakeRegistry, credentials: Credentials | None = None, **given: object) -> RegistryClient:
    """A client of Docker Hub, for which `hub` stands in: the last of the mirrors is asked as the registry itself."""
    client = client_of("docker.io", credentials, mirrors=[mirror.url], **given)
    endpoint = client.settings.endpoints("docker.io", pull=True)[-1]
    endpoint.scheme, endpoint.host = "http", hub.host
    client._session._answering = {True: endpoint, False: endpoint}
    return client


def test_a_mirror_is_asked_first(registry: FakeRegistry, tmp_path: Path) -> None:
    with FakeRegistry() as hub:
        digest = add_image(registry)
        with hub_of(registry, hub) as client:
            found = client.manifest(reference.parse("a/b:v1"))
            assert found.digest == digest
            assert fetch(client, tmp_path, found.layers[0].digest, len(RANDOM)) == RANDOM
        assert hub.requests == []


@pytest.mark.parametrize("act", [error(404, "MANIFEST_UNKNOWN"), error(500, "UNKNOWN"), hang_up, stall, answer(200, b"<html>"), error(401, "DENIED", WWW_Authenticate='Basic realm="x"'), answer(302, Location="http://[")])
def test_a_mirror_that_fails_is_passed_over(registry: FakeRegistry, act: fake_registry.Act) -> None:
    with FakeRegistry() as hub:
        digest = add_image(hub)
        registry.rule("GET", "", act)
        with hub_of(registry, hub, ALICE, timeout_s=1.0) as client:
            assert client.manifest(reference.parse("a/b:v1")).digest == digest
        assert 1 <= len(registry.requests) <= 2
        assert all("authorization" not in request.headers for request in registry.requests)


def test_a_mirror_that_fails_half_way_is_gone_on_without(registry: FakeRegistry, tmp_path: Path) -> None:
    with FakeRegistry() as hub:
        add_image(hub)
        add_image(registry)
        registry.rule("GET", "/blobs/", error(500, "UNKNOWN"))
        registry.rule("GET", "/blobs/", of_blob(cut=70_000), times=1)
        with hub_of(registry, hub) as client:
            found = client.manifest(reference.parse("a/b:v1"))
            layer = found.layers[0].digest
            assert fetch(client, tmp_path, layer, len(RANDOM)) == RANDOM
            assert client.config("a/b", Descriptor("", found.config.digest, 37)) == hub.blobs[found.config.digest]  # type: ignore[union-attr]
        assert registry.sent[layer] + hub.sent[layer] == [(0, 70_000), (70_000, 300_000)]


def test_a_mirror_gets_no_password_of_the_registry(registry: FakeRegistry) -> None:
    with FakeRegistry() as hub:
        add_image(registry)
        digest = add_image(hub)
        lock(registry)
        lock(hub)
        registry.rule("GET", "^/token", answer(200, b'{"token":"good"}'))
        hub.rule("GET", "^/token", answer(200, b'{"token":"good"}'))
        with hub_of(registry, hub, ALICE) as client:
            assert client.manifest(reference.parse("a/b:v1")).digest == digest
        assert all(request.headers.get("authorization", "Bearer") [:6] == "Bearer" for request in registry.requests)
        for credentials in (Credentials(registry_token="mine"), Credentials("alice", identity_token="mine")):
            with hub_of(registry, hub, credentials) as client:
                client.manifest(reference.parse("a/b:v1"))
        assert all("mine" not in request.headers.get("authorization", "") for request in registry.requests)
        assert registry.asked("POST", "") == []


# -- lists ------------------------------------------------------------------------------------------------------


def test_pages_are_followed_and_circles_are_not(registry: FakeRegistry) -> None:
    page = '{{"name":"a/b","tags":{}}}'
    registry.rule("GET", r"/tags/list\?n=1000$", answer(200, page.format('["a",7]').encode(), Link='</v2/a/b/tags/list?last=a>; rel="next"'))
    registry.rule("GET", r"/tags/list\?last=a$", answer(200, page.format('["b"]').encode()))
    with client_of(registry.host) as client:
        assert client.tags(name_in(registry)) == ["a", "b"]
        registry.rule("GET", r"/tags/list\?last=a$", answer(200, page.format("null").encode(), Link="</v2/a/b/tags/list?n=1000>; rel=next"))
        with pytest.raises(DataLoss, match="goes in circles"):
            client.tags(name_in(registry))
        count = iter(range(10_000))
        registry.rule("GET", "/tags/list", lambda exchange: exchange.reply(200, b"{}", {"Link": f'</v2/a/b/tags/list?last={next(count)}>; rel="next"'}))
        with pytest.raises(DataLoss, match="more than 1000 pages"):
            client.tags(name_in(registry))
        registry.rule("GET", "/tags/list", answer(200, b"{}", Link="<http://[>; rel=next"))
        with pytest.raises(DataLoss, match="leads to"):
            client.tags(name_in(registry))
        registry.rule("GET", "/tags/list", error(404, "NAME_UNKNOWN"))
        with pytest.raises(NotFound, match="not found: name unknown"):
            client.tags(name_in(registry))


def test_referrers_fall_back_to_their_tag(registry: FakeRegistry) -> None:
    digest = "sha256:" + "1" * 64
    entries = [{"mediaType": media.OCI_MANIFEST, "digest": "sha256:" + str(n) * 64, "size": 1, "artifactType": f"x/{n}"} for n in (2, 3)]
    with client_of(registry.host) as client:
        assert client.referrers("a/b", digest) == []
        registry.add_manifest(digest.replace(":", "-"), {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}, media.OCI_INDEX)
        assert [entry.digest[7] for entry in client.referrers("a/b", digest)] == ["2", "3"]
        assert [entry.digest[7] for entry in client.referrers("a/b", digest, "x/3")] == ["3"]
        registry.rule("GET", "/referrers/", answer(200, b'{"layers":[],"config":{"digest":"sha256:%s","size":1}}' % (b"4" * 64)))
        with pytest.raises(DataLoss, match="which its fields contradict"):
            client.referrers("a/b", digest)


def referring(subject: str, **more: object) -> bytes:
    empty = {"mediaType": media.OCI_EMPTY, "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "size": 2}
    of = {"mediaType": media.OCI_MANIFEST, "digest": subject, "size": 7}
    return json.dumps({"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": empty, "layers": [empty], "subject": of, **more}).encode()


@pytest.mark.parametrize(("subject", "tag"), [("sha256:" + "1" * 64, "sha256-" + "1" * 64), ("sha512:" + "2" * 128, "sha512-" + "2" * 64)])
def test_a_push_keeps_the_list_of_referrers_where_the_registry_does_not(registry: FakeRegistry, subject: str, tag: str) -> None:
    pushed = [referring(subject, artifactType="x/1", annotations={"a": "b"}), referring(subject)]
    with client_of(registry.host) as client:
        first, second = (client.put_manifest("a/b", f"v{number}", raw, media.OCI_MANIFEST) for number, raw in enumerate(pushed))
        client.put_manifest("a/b", "again", pushed[0], media.OCI_MANIFEST)
        assert [entry.digest for entry in client.referrers("a/b", subject)] == [first, second]
    kind, raw = registry.manifests[tag]
    assert kind == media.OCI_INDEX
    assert json.loads(raw) == {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [
        {"mediaType": media.OCI_MANIFEST, "digest": first, "size": len(pushed[0]), "artifactType": "x/1", "annotations": {"a": "b"}},
        {"mediaType": media.OCI_MANIFEST, "digest": second, "size": len(pushed[1]), "artifactType": media.OCI_EMPTY},
    ]}  # fmt: skip


def test_a_registry_that_lists_referrers_itself(registry: FakeRegistry) -> None:
    subject = "sha256:" + "1" * 64
    registry.rule("PUT", "/manifests/", answer(201, OCI_Subject=subject))
    with client_of(registry.host) as client:
        client.put_manifest("a/b", "v1", referring(subject), media.OCI_MANIFEST)
    assert len(registry.asked("PUT", "")) == 1
    assert registry.asked("GET", "/manifests/") == []


def test_a_list_of_referrers_that_others_change_meanwhile(registry: FakeRegistry) -> None:
    subject, tag = "sha256:" + "1" * 64, "sha256-" + "1" * 64
    other = {"mediaType": media.OCI_MANIFEST, "digest": "sha256:" + "9" * 64, "size": 1, "data": "kept as it is"}

    def change(exchange: fake_registry.Exchange) -> None:
        registry.add_manifest(tag, {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [other]}, media.OCI_INDEX)
        exchange.error(412, "DENIED", "the tag has another ETag")

    registry.rule("PUT", tag, change, times=1)
    with client_of(registry.host) as client:
        pushed = client.put_manifest("a/b", "v1", referring(subject), media.OCI_MANIFEST)
        assert [entry["digest"] for entry in json.loads(registry.manifests[tag][1])["manifests"]] == [other["digest"], pushed]
        assert json.loads(registry.manifests[tag][1])["manifests"][0] == other
        registry.rule("PUT", tag, error(412, "DENIED"))
        with pytest.raises(Conflict, match="changed by others all the time"):
            client.put_manifest("a/b", "v1", referring(subject, artifactType="x/2"), media.OCI_MANIFEST)


def test_a_tag_of_referrers_that_is_something_else_stays(registry: FakeRegistry) -> None:
    subject, tag = "sha256:" + "1" * 64, "sha256-" + "1" * 64
    registry.add_manifest(tag, json.loads(referring(subject)), media.OCI_MANIFEST)
    before = registry.manifests[tag]
    with client_of(registry.host) as client, pytest.raises(DataLoss, match="names something else than an index"):
        client.put_manifest("a/b", "v1", referring(subject), media.OCI_MANIFEST)
    assert registry.manifests[tag] == before


def test_digests_of_another_algorithm(registry: FakeRegistry, tmp_path: Path) -> None:
    """What a registry names by sha512 is compared by it; by one that nobody knows, by nothing."""
    digest = add_image(registry)
    raw = registry.manifests["v1"][1]
    sha512 = "sha512:" + hashlib.sha512(raw).hexdigest()
    registry.manifests[sha512] = registry.manifests["v1"]
    with client_of(registry.host) as client:
        found = client.manifest(reference.parse(f"{registry.host}/a/b@{sha512}"))
        assert (found.digest, found.known_as) == (digest, sha512)
        for claimed, known_as in ((sha512, sha512), ("blake3:00", digest)):
            registry.rule("GET", "/manifests/v1", answer(200, raw, Content_Type=media.OCI_MANIFEST, Docker_Content_Digest=claimed))
            assert client.manifest(name_in(registry)).known_as == known_as
        registry.rule("GET", "/manifests/", answer(200, raw + b" ", Content_Type=media.OCI_MANIFEST, Docker_Content_Digest=sha512))
        for name in (name_in(registry), reference.parse(f"{registry.host}/a/b@{sha512}")):
            with pytest.raises(DataLoss, match="came from the registry with digest sha512:"):
                client.manifest(name)
        blob = "sha512:" + hashlib.sha512(RANDOM).hexdigest()
        registry.blobs[blob] = RANDOM
        assert fetch(client, tmp_path, blob, len(RANDOM)) == RANDOM


# -- uploads -----------------------------------------------------------------------------------------------------


def source(data: bytes) -> "Callable[[int], io.BytesIO]":
    return lambda offset: io.BytesIO(data[offset:])


SHA = "sha256:" + hashlib.sha256(RANDOM).hexdigest()


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize("cut", [0, 2, 65_536, 299_999])
def test_an_upload_goes_on_where_it_was_cut_off(registry: FakeRegistry, cut: int, known: bool) -> None:
    registry.rule("PATCH", "", lambda exchange: take(exchange, cut), times=2)
    with client_of(registry.host, attempts=5) as client:
        done = client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM) if known else None, digest=SHA if known else "")
    assert done == (SHA, len(RANDOM), False)
    assert registry.blobs[SHA] == RANDOM
    assert overlaps(registry.received) == []


@pytest.mark.parametrize("keep", [0, 1, 1000])
def test_a_registry_that_forgets_what_it_got_is_given_up(registry: FakeRegistry, keep: int) -> None:
    registry.rule("PATCH", "", lambda exchange: take(exchange, 100_000, keep))
    with client_of(registry.host, attempts=4) as client, pytest.raises(Unavailable, match="tried 4 times"):
        client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM))
    assert len(registry.asked("PATCH", "")) == 4
    assert len(registry.asked("DELETE", "/uploads/")) == 1


@pytest.mark.parametrize(
    "act",
    [error(404, "BLOB_UPLOAD_UNKNOWN"), error(416, "BLOB_UPLOAD_INVALID"), error(503, "UNAVAILABLE"), error(429, "TOOMANYREQUESTS"), hang_up,
     raw(b"HTTP/1.1 202 Accepted\r\n")],
)  # fmt: skip
def test_an_upload_that_is_refused_once_is_taken_up_again(registry: FakeRegistry, act: fake_registry.Act) -> None:
    registry.rule("PATCH", "", act, times=1)
    registry.rule("GET", "/uploads/", error(404, "BLOB_UPLOAD_UNKNOWN"), times=1)
    with client_of(registry.host) as client:
        assert client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM))[0] == SHA
    assert registry.blobs[SHA] == RANDOM


def test_a_token_that_ends_during_an_upload(registry: FakeRegistry) -> None:
    lock(registry)
    registry.rule("GET", "^/token", answer(200, b'{"token":"better"}'))
    registry.rule("GET", "^/token", answer(200, b'{"token":"good"}'), times=1)

    def expire(exchange: fake_registry.Exchange) -> None:
        lock(registry, accepted="Bearer better")
        exchange.error(401, "UNAUTHORIZED", "token expired", {"WWW-Authenticate": BEARER.format(registry.url)})

    registry.rule("PATCH", "", expire, times=1)
    with client_of(registry.host, ALICE) as client:
        assert client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM))[0] == SHA
    assert registry.blobs[SHA] == RANDOM
    assert "scope=repository%3Aa%2Fb%3Apull%2Cpush" in registry.asked("GET", "^/token")[0].target


def test_a_mount_sends_nothing_and_one_that_is_refused_sends_all(registry: FakeRegistry) -> None:
    registry.add_blob(RANDOM)
    with client_of(registry.host) as client:
        assert client.upload("a/b", source(RANDOM), digest=SHA, size_bytes=len(RANDOM), mount_from="c/d") == (SHA, len(RANDOM), True)
        assert registry.received == []
        assert registry.asked("POST", "")[0].target == f"/v2/a/b/blobs/uploads/?mount={SHA}&from=c%2Fd"
        for act in (error(403, "DENIED"), error(401, "UNAUTHORIZED"), error(404, "NAME_UNKNOWN")):
            registry.received.clear()
            registry.rule("POST", "mount=", act)
            assert client.upload("a/b", source(RANDOM), digest=SHA, size_bytes=len(RANDOM), mount_from="c/d") == (SHA, len(RANDOM), False)
            assert registry.received == [(0, len(RANDOM))]


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (answer(202), Unavailable, "without saying where"),
        (answer(202, Location="http://["), Unavailable, "which is no address to ask"),
        (answer(202, Location="gopher://x/"), Unavailable, "which is no address to ask"),
        (answer(201, Location="/x"), Unavailable, "is there that nobody has sent"),
        (error(403, "DENIED"), BerthError, "denied: requested access to the resource is denied"),
        (error(400, "NAME_INVALID", "no such name"), InvalidParameter, "name invalid: no such name"),
        (answer(500), Unavailable, "received unexpected HTTP status: 500 Internal Server Error"),
    ],
)  # fmt: skip
def test_uploads_that_do_not_begin(registry: FakeRegistry, act: fake_registry.Act, kind: type, words: str) -> None:
    registry.rule("POST", "", act)
    with client_of(registry.host) as client, pytest.raises(kind, match=words):
        client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM))


def test_a_registry_that_claims_to_have_more_than_was_sent(registry: FakeRegistry) -> None:
    registry.rule("PATCH", "", hang_up)
    registry.rule("GET", "/uploads/", answer(204, Range="0-300000"))
    with client_of(registry.host) as client, pytest.raises(Unavailable, match="claims to have 300001 bytes of a blob of which"):
        client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM))


def test_the_answer_to_the_end_of_an_upload_gets_lost(registry: FakeRegistry) -> None:
    def lose(exchange: fake_registry.Exchange) -> None:
        registry.add_blob(RANDOM)
        registry.uploads.clear()
        exchange.close()

    registry.rule("PUT", "/uploads/", lose, times=1)
    with client_of(registry.host) as client:
        assert client.upload("a/b", source(RANDOM), size_bytes=len(RANDOM)) == (SHA, len(RANDOM), False)


@pytest.mark.parametrize("said", [len(RANDOM) - 1, len(RANDOM) + 1])
def test_a_file_of_another_size_than_said_is_not_sent_as_if(registry: FakeRegistry, said: int) -> None:
    with client_of(registry.host) as client, pytest.raises(DataLoss):
        client.upload("a/b", source(RANDOM), digest=SHA, size_bytes=said)
    assert registry.blobs == {}
    assert all(request.method in ("GET", "POST", "PATCH", "DELETE") for request in registry.requests)


def test_why_an_upload_is_refused_is_heard_while_it_is_sent(registry: FakeRegistry) -> None:
    """The registry answers at once and listens no more, as one whose limit of size is passed."""
    large = RANDOM * 100

    def refuse(exchange: fake_registry.Exchange) -> None:
        exchange.read_body(100_000)
        body = b'{"errors":[{"code":"SIZE_INVALID","message":"too large for this registry"}]}'
        exchange.head(413, {"Content-Length": str(len(body)), "Connection": "close"})
        exchange.send(body)
        exchange.sock.shutdown(2)
        exchange.close()

    registry.rule("PATCH", "", refuse)
    with client_of(registry.host) as client, pytest.raises(BerthError, match="too large for this registry"):
        client.upload("a/b", source(large), size_bytes=len(large))


def test_a_registry_that_stops_reading_is_given_up(registry: FakeRegistry) -> None:
    large = RANDOM * 100
    registry.rule("PATCH", "", stall)
    with client_of(registry.host, attempts=2, timeout_s=0.3) as client, pytest.raises(Unavailable, match="i/o timeout"):
        client.upload("a/b", source(large), size_bytes=len(large))


def test_a_manifest_that_is_stored_as_another(registry: FakeRegistry) -> None:
    registry.rule("PUT", "/manifests/", answer(201, Docker_Content_Digest="sha256:" + "0" * 64))
    with client_of(registry.host) as client, pytest.raises(DataLoss, match="the registry stored manifest"):
        client.put_manifest("a/b", "v1", b"{}", media.OCI_MANIFEST)


def test_a_refusal_without_a_body_says_what_it_means() -> None:
    """As to HEAD; which question a registry refuses first is chance."""
    assert failures.refusal(401, "", b"").words == "unauthorized: authentication required"
    assert failures.refusal(403, "text/plain", b" \n").words == "denied: requested access to the resource is denied"
    assert failures.refusal(418, "", b"").words == "the registry answered 418"
