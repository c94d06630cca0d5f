"""berth's registry client against Debian's docker-registry; skopeo and curl say whether it is right."""

import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

from berth.errors import BerthError, NotFound, Unauthorized
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
