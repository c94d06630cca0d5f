"""Layers that a registry only names: fetched from their own addresses, and not sent on, unless the registry is one that may have them."""

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import DOCKER, DOCKER_MANIFEST, OCI, OCI_MANIFEST, Handmade, Made, compress, digest_of, layer
from harness import Engine
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry
from registry_host import registry_host
from test_distribution import busybox, diffs, leftovers, shell, skopeo

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]

NAMES_URLS = {"validation": {"manifests": {"urls": {"allow": [".*"]}}}}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with docker_registry(config=NAMES_URLS) as found:
        yield found


@pytest.fixture(scope="module")
def registry(host: Host) -> Handmade:
    return Handmade(host)


@pytest.fixture(scope="module")
def other() -> Iterator[Host]:
    with docker_registry(config=NAMES_URLS) as found:
        yield found


@pytest.fixture(scope="module")
def puller() -> Iterator[Engine]:
    running = Engine()
    yield running
    for identity in set(running.docker("images", "-aq", "--no-trunc").stdout.split()):
        running.docker("rmi", "-f", identity, code=None)
    left = leftovers(running)
    running.finish()
    assert left == []


class Site:
    """A web server that is no registry. asked: the paths, as they were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, self.headers.get("Authorization")))
                body = site.files.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    found = Site()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def foreign_image(registry: Handmade, site: Site, repository: str, *, oci: bool) -> tuple[Made, bytes, dict]:
    """Of two layers; the upper one is only on the site, at the second of its addresses -> with its blob and its descriptor."""
    tar = layer(("licensed", os.urandom(200_000)))
    blob = compress(tar, "gzip")
    site.files[f"/{digest_of(blob)}"] = blob
    kind = OCI + "layer.nondistributable.v1.tar+gzip" if oci else DOCKER + "image.rootfs.foreign.diff.tar.gzip"
    foreign = {"mediaType": kind, "size": len(blob), "digest": digest_of(blob), "urls": [f"{site.url}/gone", f"{site.url}/{digest_of(blob)}"]}
    made = registry.image(repository, "1", [busybox(), tar], oci=oci, descriptors=lambda index, entry: foreign if index else entry, absent=[digest_of(blob)])
    return made, blob, foreign


def status_of(url: str) -> str:
    """By curl."""
    return subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-I", url], capture_output=True, text=True, check=True, timeout=60).stdout


def manifest_of(name: str) -> dict:
    return dict(json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")))


@pytest.mark.parametrize("oci", [True, False], ids=["oci", "docker"])
def test_a_foreign_layer_is_fetched_from_its_address_and_not_pushed(
    registry: Handmade, other: Host, puller: Engine, site: Site, oci: bool, tmp_path: Path
) -> None:  # fmt: skip
    made, blob, foreign = foreign_image(registry, site, f"foreign/{oci}".lower(), oci=oci)
    name, digest = f"{registry.host}/foreign/{oci}:1".lower(), digest_of(blob)
    puller.docker("pull", name)
    assert diffs(puller, name) == made.diffs
    assert shell(puller, name, "wc -c < /licensed") == "200000\n"
    assert [path for path, who in site.asked if digest in path and who is None] == [f"/{digest}"]
    assert status_of(f"{registry.host}/v2/foreign/{str(oci).lower()}/blobs/{digest}") == "404"
    puller.kill()  # what the layer is must be known to the next engine, too
    puller.start()
    pushed = f"{other}/foreign/pushed-{oci}:1".lower()
    puller.docker("tag", name, pushed)
    said = puller.docker("push", pushed).stdout
    assert f"{made.diffs[1][7:19]}: Skipped foreign layer" in said
    assert said.count("Skipped") == 1
    sent = manifest_of(pushed)
    assert sent["mediaType"] == (OCI_MANIFEST if oci else DOCKER_MANIFEST)
    assert sent["layers"][1] == foreign
    assert status_of(f"{other}/v2/foreign/pushed-{oci}/blobs/{digest}".lower()) == "404"
    assert status_of(f"{other}/v2/foreign/pushed-{oci}/blobs/{sent['layers'][0]['digest']}".lower()) == "200"
    skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{pushed}", f"dir:{tmp_path}/copied")
    assert (tmp_path / "copied" / digest[7:]).read_bytes() == blob  # skopeo reads the addresses, too
    # again, and by another engine, which has it from the site
    assert "Skipped foreign layer" in puller.docker("push", pushed).stdout
    puller.docker("rmi", name, pushed)
    puller.docker("pull", pushed)
    assert diffs(puller, pushed) == made.diffs
    puller.docker("rmi", pushed)


def test_registries_that_may_have_foreign_layers(registry: Handmade, other: Host, site: Site) -> None:
    """`allow-nondistributable-artifacts`: such a layer is sent as any other, and named as an ordinary one, as by dockerd."""
    foreign_image(registry, site, "foreign/allowed", oci=False)
    port = other.rpartition(":")[2]
    for allowed in (str(other), "127.0.0.0/8", "127.0.0.1"):
        engine = Engine(("--allow-nondistributable-artifacts", allowed))
        try:
            name, pushed = f"{registry.host}/foreign/allowed:1", f"127.0.0.1:{port}/foreign/allowed-{len(allowed)}:1"
            engine.docker("pull", name)
            engine.docker("tag", name, pushed)
            said = engine.docker("push", pushed).stdout
            assert "Skipped" not in said
            top = manifest_of(pushed)["layers"][1]
            assert (top["mediaType"], "urls" in top) == (DOCKER + "image.rootfs.diff.tar.gzip", False)
            assert status_of(f"{other}/v2/foreign/allowed-{len(allowed)}/blobs/{top['digest']}") == "200"
            # and not to the others, nor because it was sent there
            engine.docker("tag", name, f"localhost:{port}/foreign/no:1")
            if allowed != "127.0.0.0/8":
                assert "Skipped foreign layer" in engine.docker("push", f"localhost:{port}/foreign/no:1").stdout
            engine.docker("rmi", name, pushed, f"localhost:{port}/foreign/no:1")
            assert leftovers(engine) == []
        finally:
            engine.finish()



def test_pushed_to_berths_registry(registry: Handmade, puller: Engine, site: Site) -> None:
    _, blob, foreign = foreign_image(registry, site, "foreign/own", oci=True)
    with registry_host() as team:
        name, pushed = f"{registry.host}/foreign/own:1", f"{team.address}/own:1"
        puller.docker("pull", name)
        puller.docker("tag", name, pushed)
        assert "Skipped foreign layer" in puller.docker("push", pushed).stdout
        assert manifest_of(pushed)["layers"][1] == foreign
        assert status_of(f"{team.address}/v2/own/blobs/{digest_of(blob)}") == "404"
        puller.docker("rmi", name, pushed)


def test_one_that_is_nowhere_or_has_been_changed(registry: Handmade, puller: Engine, site: Site) -> None:
    before = leftovers(puller)
    _, blob, _ = foreign_image(registry, site, "foreign/bad", oci=True)
    site.files[f"/{digest_of(blob)}"] = blob[:-1] + b"x"
    assert "came from the registry with digest" in puller.docker("pull", f"{registry.host}/foreign/bad:1", code=1).stderr
    del site.files[f"/{digest_of(blob)}"]
    assert "404" in puller.docker("pull", f"{registry.host}/foreign/bad:1", code=1).stderr
    puller.docker("image", "prune", "-f")
    assert leftovers(puller) == before
