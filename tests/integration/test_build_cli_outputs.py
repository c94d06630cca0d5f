"""`berth build`'s outputs and caches from end to end, over the session: directories and archives of the client's, a registry with a login."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine
from registries import HAVE_DOCKER_REGISTRY, docker_registry

pytestmark = pytest.mark.root

Build = Callable[..., "subprocess.CompletedProcess[str]"]
DOCKERFILE = "FROM bb\nCOPY a /a\nRUN head -c 9 /dev/urandom >/mark && ln /a /hard\n"


@pytest.fixture
def build(engine: Engine, tmp_path: Path) -> Build:
    """Runs `berth build WORDS context` in a directory; code: what it is to end with."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_text("A\n")

    def run(*words: str, text: str = DOCKERFILE, code: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        (context / "Dockerfile").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "berth.cli", "build", *words, "context"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env={**engine.env, "PYTHONPATH": f"{REPOSITORY}/src", **environment},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def skopeo(*words: str) -> dict:
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_directory_is_an_oci_layout(build: Build, tmp_path: Path) -> None:
    build("-t", "laid:out", "-o", "type=oci,tar=false,dest=layout", "--metadata-file", "meta", "--sbom=true")
    index = skopeo("inspect", "--raw", f"oci:{tmp_path}/layout")
    assert len(index["manifests"]) == 2
    meta = json.loads((tmp_path / "meta").read_text())
    top = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"][0]
    assert meta["containerimage.digest"] == meta["containerimage.descriptor"]["digest"] == top["digest"]
    assert meta["image.name"] == "docker.io/library/laid:out"
    assert "buildx.build.provenance" in meta


def test_a_cache_in_a_directory(engine: Engine, build: Build, tmp_path: Path) -> None:
    build("--no-cache", "-o", "files", "--cache-to", "type=local,dest=kept,mode=max")
    mark = (tmp_path / "files" / "mark").read_bytes()
    engine.docker("builder", "prune", "-af")
    done = build("-o", "again", "--cache-from", "type=local,src=kept", "--progress", "plain")
    assert (tmp_path / "again" / "mark").read_bytes() == mark
    assert (done.stdout + done.stderr).count("CACHED") == 2
    engine.docker("builder", "prune", "-af")
    build("-o", "third")
    assert (tmp_path / "third" / "mark").read_bytes() != mark


def test_the_same_digest_with_an_epoch(engine: Engine, build: Build, tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        os.utime(tmp_path / "context" / "a", (1_700_000_000 + number, 1_700_000_000 + number))
        text = "FROM scratch\nCOPY a /a\nCOPY --chown=1:2 a /b/c/\nENV A=1\n"
        build("-o", f"type=oci,dest={number}.tar", "--no-cache", "--provenance", "mode=max", text=text, SOURCE_DATE_EPOCH="1600000000")
        digests.append(subprocess.run(["sha256sum", str(tmp_path / f"{number}.tar")], capture_output=True, text=True).stdout.split()[0])
    assert digests[0] == digests[1]


@pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")
def test_a_registry_that_wants_a_login(engine: Engine, build: Build, tmp_path: Path) -> None:
    with docker_registry(auth=("user", "password")) as registry:
        name, cache = f"{registry}/private/x:1", f"{registry}/private/cache:1"
        refused = build("-t", name, "--push", code=1)
        assert "unauthorized" in (refused.stdout + refused.stderr).lower() or "no basic auth" in (refused.stdout + refused.stderr).lower()
        (tmp_path / "login").mkdir()
        auth = {"auths": {str(registry): {"auth": base64.b64encode(b"user:password").decode()}}}
        (tmp_path / "login" / "config.json").write_text(json.dumps(auth))
        login = {"DOCKER_CONFIG": str(tmp_path / "login")}
        build("-t", name, "--push", "--cache-to", f"type=registry,ref={cache},mode=max", **login)
        manifest = skopeo("inspect", "--raw", "--tls-verify=false", "--creds", "user:password", f"docker://{name}")
        assert len(manifest["layers"]) == 3
        engine.docker("builder", "prune", "-af")
        engine.docker("rmi", name)
        done = build("-t", name, "--cache-from", cache, "--progress", "plain", **login)
        assert (done.stdout + done.stderr).count("CACHED") == 2
