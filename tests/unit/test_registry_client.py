"""The registry client against a registry that misbehaves: right bytes or a clear error, in bounded time and memory."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_registry
from berth.errors import BerthError, Cancelled, DataLoss, InvalidParameter, NotFound, Unavailable
from berth.oci import reference
from berth.registry import media
from berth.registry.client import download
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.registry.documents import Descriptor
from berth.store.partial import Partial
from fake_registry import FakeRegistry, answer, error, forever, hang_up, of_blob, overlaps, raw, stall

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
    with client_of(registry.host, timeout_s=1.0, attempts=20) as client:
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


def test_foreign_layers_come_from_their_own_address(registry: FakeRegistry, tmp_path: Path) -> None:
    digest = registry.add_blob(RANDOM)
    registry.rule("GET", f"/v2/a/b/blobs/{digest}", error(404, "BLOB_UNKNOWN"))
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    with client_of(registry.host) as client, pytest.raises(NotFound):
        fetch(client, tmp_path, digest, len(RANDOM), media_type=foreign, urls=[f"http://{registry.host}/elsewhere/blobs/{digest}"])
    assert registry.asked("GET", "/elsewhere/") == []  # only over TLS


# -- trying again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [answer(429, Retry_After="0"), error(503, "UNAVAILABLE"), answer(502), hang_up, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal")])
def test_what_passes_is_waited_for(registry: FakeRegistry, act: fake_registry.Act) -> None:
    digest = add_image(registry)
    registry.rule("GET", "/manifests/", act, times=2)
    with client_of(registry.host) as client:
        assert client.manifest(reference.parse(f"{registry.host}/a/b:v1")).digest == digest


def test_what_does_not_pass_is_said_in_dockers_words(registry: FakeRegistry) -> None:
    registry.rule("GET", "/manifests/", error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit."))
    with client_of(registry.host) as client, pytest.raises(Unavailable, match=r"toomanyrequests: You have reached your pull rate limit\."):
        client.manifest(reference.parse(f"{registry.host}/a/b:v1"))
    assert len(registry.asked("GET", "/manifests/")) == 3


def test_an_idle_connection_that_was_closed_meanwhile_is_no_failure(registry: FakeRegistry) -> None:
    add_image(registry)
    with client_of(registry.host, attempts=1) as client:
        for _ in range(3):
            client.manifest(reference.parse(f"{registry.host}/a/b:v1"))
            with registry.lock:
                for sock in registry._open:
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
        (answer(200, b"<html>log in to the hotel's network</html>"), DataLoss, "a web page: is this the address of a registry"),
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
