"""berth's registry client against Debian's docker-registry; skopeo and curl say whether it is right."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

from berth.errors import BerthError, NotFound, Unauthorized, Unavailable
from berth.oci import reference
from berth.registry import media
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.registry.documents import Descriptor
from berth.store.partial import Partial

pytestmark = pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")

USER = ("alice", "correct horse")


@pytest.fixture(scope="module")
def registry() -> Iterator[Host]:
    with docker_registry() as host:
        yield host


@pytest.fixture(scope="module")
def locked() -> Iterator[Host]:
    """With TLS and a password."""
    with docker_registry(auth=USER, tls=True) as host:
        yield host


def client_of(host: str, credentials: "Credentials | None" = None, **settings: object) -> RegistryClient:
    given: dict = {"environment": {}, "certificate_directories": (), **settings}
    return RegistryClient(host, Settings(**given), credentials)


def push_image(client: RegistryClient, repository: str, tag: str, layers: "list[bytes]") -> str:
    """An image of these bytes as layers -> its digest."""
    descriptors = []
    for data in layers:
        digest, size, _ = client.upload(repository, lambda offset, data=data: io.BytesIO(data[offset:]), size_bytes=len(data))
        assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
        descriptors.append({"mediaType": media.DOCKER_LAYER, "digest": digest, "size": size})
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [entry["digest"] for entry in descriptors]}}).encode()
    config_digest, config_size, _ = client.upload(repository, lambda offset: io.BytesIO(config[offset:]))
    manifest = {
        "schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST, "layers": descriptors,
        "config": {"mediaType": media.DOCKER_CONFIG, "digest": config_digest, "size": config_size},
    }  # fmt: skip
    return client.put_manifest(repository, tag, json.dumps(manifest).encode(), media.DOCKER_MANIFEST)


def fetch(client: RegistryClient, directory: Path, repository: str, descriptor: Descriptor) -> bytes:
    partial = Partial(str(directory), descriptor.digest, descriptor.size_bytes)
    try:
        client.download(repository, descriptor, partial)
        with open(partial.path, "rb") as file:
            return file.read()
    finally:
        partial.discard()


def skopeo(*words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == code, done.stderr
    return done


def test_skopeo_reads_what_the_client_pushed(registry: Host, tmp_path: Path) -> None:
    layers = [os.urandom(100_000), b"", os.urandom(3)]
    with client_of(registry) as client:
        digest = push_image(client, "berth/pushed", "v1", layers)
    assert json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry}/berth/pushed:v1").stdout)["Digest"] == digest
    skopeo("copy", "--src-tls-verify=false", f"docker://{registry}/berth/pushed:v1", f"dir:{tmp_path}/copy")
    for data in layers:
        assert (tmp_path / "copy" / hashlib.sha256(data).hexdigest()).read_bytes() == data


def test_what_refers_to_an_image_is_listed_under_a_tag(registry: Host) -> None:
    """docker-registry 2 has no list of referrers; skopeo sees the tag that stands in."""
    empty = {"mediaType": media.OCI_EMPTY, "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(), "size": 2}
    with client_of(registry) as client:
        subject = push_image(client, "berth/signed", "v1", [b"x"])
        client.upload("berth/signed", lambda offset: io.BytesIO(b"{}"[offset:]))
        pushed = []
        for kind in ("signature", "sbom"):
            document = {
                "schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "artifactType": f"application/x-{kind}", "config": empty, "layers": [empty],
                "subject": {"mediaType": media.DOCKER_MANIFEST, "digest": subject, "size": 1}, "annotations": {"of": kind},
            }  # fmt: skip
            raw = json.dumps(document).encode()
            pushed.append(client.put_manifest("berth/signed", "sha256:" + hashlib.sha256(raw).hexdigest(), raw, media.OCI_MANIFEST))
        assert [entry.digest for entry in client.referrers("berth/signed", subject)] == pushed
    seen = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{registry}/berth/signed:{subject.replace(':', '-')}").stdout)
    assert [(entry["digest"], entry["artifactType"], entry["annotations"]) for entry in seen["manifests"]] == [
        (pushed[0], "application/x-signature", {"of": "signature"}), (pushed[1], "application/x-sbom", {"of": "sbom"}),
    ]  # fmt: skip


def test_a_password_over_tls(locked: Host) -> None:
    with client_of(locked) as nobody, pytest.raises(Unauthorized, match=r"failed with status: 401 Unauthorized"):
        nobody.login()
    with client_of(locked, Credentials(USER[0], "wrong")) as wrong, pytest.raises(Unauthorized):
        wrong.login()
    with client_of(locked) as nobody, pytest.raises(BerthError):
        nobody.manifest(reference.parse(f"{locked}/berth/none:v1"))
    with client_of(locked, Credentials(*USER)) as client:
        client.login()
        with pytest.raises(NotFound, match="manifest unknown"):
            client.manifest(reference.parse(f"{locked}/berth/none:v1"))
        digest = push_image(client, "berth/locked", "v1", [os.urandom(1000)])
    found = skopeo("inspect", "--tls-verify=false", "--creds", ":".join(USER), f"docker://{locked}/berth/locked:v1").stdout
    assert json.loads(found)["Digest"] == digest


class Cutter:
    """A way to the registry that breaks: each connection is cut once so many bytes have gone up, or come down, through it."""

    def __init__(self, host: str, *, up: "list[int]" = (), down: "list[int]" = ()) -> None:  # type: ignore[assignment]
        """up, down: of the connections that carry so much, one after the other."""
        self._target = host
        self.up, self.down = list(up), list(down)
        self.carried = {"up": 0, "down": 0}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> "Cutter":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            address, _, port = self._target.rpartition(":")
            server = socket.create_connection((address, int(port)))
            self._sockets += [client, server]
            for words in ((client, server, "up", self.up), (server, client, "down", self.down)):
                thread = threading.Thread(target=self._carry, args=words)
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, way: str, cuts: "list[int]") -> None:
        total = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    cut = cuts[0] if cuts else None
                    over = cut is not None and total + len(data) >= cut
                    if over:
                        cuts.pop(0)
                        data = data[: cut - total]  # type: ignore[operator]
                    self.carried[way] += len(data)
                sink.sendall(data)
                total += len(data)
                if over:
                    break
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR if sock is sink else socket.SHUT_RD)


BIG = random.Random(3).randbytes(3_000_000)


def test_a_push_that_is_cut_off_comes_to_its_end(registry: Host) -> None:
    with Cutter(registry, up=[500_000, 1_000_000]) as cutter, client_of(cutter.host, back_off_s=0.01) as client:
        digest, size, _ = client.upload("berth/cut", lambda offset: io.BytesIO(BIG[offset:]), size_bytes=len(BIG))
        assert cutter.up == []
    assert (digest, size) == ("sha256:" + hashlib.sha256(BIG).hexdigest(), len(BIG))
    url = f"{registry.url}/v2/berth/cut/blobs/{digest}"
    assert subprocess.run(["curl", "-sf", "--noproxy", "*", url], capture_output=True, check=True, timeout=60).stdout == BIG


def test_a_pull_that_is_cut_off_fetches_no_byte_twice(registry: Host, tmp_path: Path) -> None:
    with client_of(registry) as client:
        push_image(client, "berth/cut-pull", "v1", [BIG])
        (layer,) = client.manifest(reference.parse(f"{registry}/berth/cut-pull:v1")).layers
    with Cutter(registry, down=[400_000, 900_000, 1_000_000]) as cutter, client_of(cutter.host, back_off_s=0.01) as client:
        assert fetch(client, tmp_path, "berth/cut-pull", layer) == BIG
        assert cutter.down == []
        heads = cutter.carried["down"] - len(BIG)
        assert 0 < heads < 8000  # of four answers and `/v2/`; of the blob nothing came again


def test_the_client_reads_what_skopeo_pushed(registry: Host, tmp_path: Path) -> None:
    with client_of(registry) as client:
        layers = [gzip.compress(BIG, 1), gzip.compress(b"small")]
        push_image(client, "berth/first", "v1", layers)
        skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", "oci", f"docker://{registry}/berth/first:v1", f"docker://{registry}/skopeo/second:v2")
        found = client.manifest(reference.parse(f"{registry}/skopeo/second:v2"))
        assert found.media_type == media.OCI_MANIFEST
        assert [fetch(client, tmp_path, "skopeo/second", layer) for layer in found.layers] == layers
        assert client.tags(reference.parse(f"{registry}/skopeo/second")) == ["v2"]
        assert {"berth/first", "skopeo/second"} <= set(client.repositories())
        described = client.describe(reference.parse(f"{registry}/skopeo/second:v2"))
        assert described
        assert (described.digest, described.size_bytes) == (found.digest, len(found.raw))
        assert client.describe(reference.parse(f"{registry}/skopeo/second:v3")) is None


def test_a_blob_is_mounted_from_another_repository(registry: Host) -> None:
    with client_of(registry) as client:
        digest, _, _ = client.upload("berth/from", lambda offset: io.BytesIO(BIG[offset:]), size_bytes=len(BIG))
        assert client.blob_size("berth/to", digest) is None

        def never(offset: int) -> io.BytesIO:
            raise AssertionError("nothing should be sent")

        assert client.upload("berth/to", never, digest=digest, size_bytes=len(BIG), mount_from="berth/from") == (digest, len(BIG), True)
        assert client.blob_size("berth/to", digest) == len(BIG)


def test_referrers_and_deletes(registry: Host) -> None:
    with client_of(registry) as client:
        digest = push_image(client, "berth/gone", "v1", [b"layer"])
        assert client.referrers("berth/gone", digest) == []
        entry = {"mediaType": media.DOCKER_MANIFEST, "digest": digest, "size": 5, "artifactType": "x/signature"}
        index = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}).encode()
        client.put_manifest("berth/gone", digest.replace(":", "-"), index, media.OCI_INDEX)  # Distribution 2 has no referrers of its own
        assert [one.artifact_type for one in client.referrers("berth/gone", digest)] == ["x/signature"]
        assert client.referrers("berth/gone", digest, "x/other") == []
        client.delete_manifest("berth/gone", digest)
        with pytest.raises(NotFound, match=r"manifest for .*/berth/gone:v1 not found: manifest unknown"):
            client.manifest(reference.parse(f"{registry}/berth/gone:v1"))
        with pytest.raises(NotFound, match="manifest unknown"):
            client.delete_manifest("berth/gone", digest)
    skopeo("inspect", "--tls-verify=false", f"docker://{registry}/berth/gone:v1", code=1)


def test_a_certificate_in_certs_d(locked: Host) -> None:
    """As a mirror, whose certificate is checked also on loopback."""
    for trusted in (False, True):
        client = RegistryClient("docker.io", Settings(
            mirrors=[locked.url], environment={"HTTPS_PROXY": "http://127.0.0.1:1"}, certificate_directories=(locked.certs_d,) if trusted else (), attempts=1,
        ))  # fmt: skip
        with client, pytest.raises(Unavailable, match="connection refused"):  # of the proxy that Docker Hub is behind
            client.manifest(reference.parse("berth/mirrored:v1"))
        assert ("/v2/berth/mirrored/manifests/v1" in locked.log()) == trusted
