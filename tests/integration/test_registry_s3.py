"""berth's registry on S3: the same answers, and what is in the bucket, asked of a real S3-compatible server (moto) by curl."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness import read, wait_until
from registry_host import OCI_MANIFEST, RegistryHost, digest_of, registry_host

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("moto") or not importlib.util.find_spec("obstore"), reason="needs moto[server] and obstore"
)
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "of berth"}


def curl(*words: str, code: "int | None" = 0) -> str:
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *words], capture_output=True, text=True, timeout=60)
    assert code is None or done.returncode == code, done.stderr
    return done.stdout


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a server with a bucket `images`."""
    with tempfile.TemporaryDirectory() as top, open(f"{top}/log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **KEYS, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            wait_until(lambda: process.poll() is not None or ADDRESS.search(read(log.name)) is not None, "a server that does not say its address", 90)
            found = ADDRESS.search(read(log.name))
            assert found, read(log.name)
            url = found[0]
            curl("-f", "-X", "PUT", f"{url}/images")
            yield url
        finally:
            process.kill()
            process.wait()


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
        signed = ("--aws-sigv4", "aws:amz:us-east-1:s3", "--user", ":".join(KEYS.values()))
        assert curl("-f", *signed, f"{s3}/images/team/one/repositories/a/b/_tags/1") == digest
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
