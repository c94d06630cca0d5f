"""`berth build --cache-to` and `--cache-from`, from one engine to another that knows nothing: what was made there is not made again."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
from buildcli import Berth, Done, cached, dockerfile, raw, run_berth, write
from harness import Engine
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

pytestmark = pytest.mark.root
# Whatever runs again writes something else.
NONCES = (
    "FROM bb AS tools\nRUN cat /proc/sys/kernel/random/uuid >/first\nRUN cp /first /second\n"
    "FROM bb\nCOPY a /a\nCOPY --from=tools /second /from-tools\nRUN cat /a /proc/sys/kernel/random/uuid >/last\n"
)  # fmt: skip
STEPS = 5
PLAIN = ("--progress", "plain")
Second = Berth


@pytest.fixture
def context(tmp_path: Path) -> Path:
    dockerfile(tmp_path, NONCES)
    write(tmp_path, a="A\n")
    return tmp_path


@pytest.fixture
def first(engine: Engine, context: Path) -> Berth:
    """Builds on an engine whose cache is not asked."""
    return lambda *words, **keywords: run_berth(engine, "build", "--no-cache", *PLAIN, *words, ".", cwd=context, **keywords)


@pytest.fixture
def second(own_engine: Engine, context: Path) -> Second:
    """Builds on another one."""
    return lambda *words, **keywords: run_berth(own_engine, "build", *PLAIN, *words, ".", cwd=context, **keywords)


def nonces(top: Path) -> list[str]:
    return [(top / name).read_text() for name in ("from-tools", "last")]


def same(context: Path, first: Berth, second: Second, to: str, source: str, **login: str) -> Done:
    """The second engine's files are the first one's."""
    first("-o", "made", "--cache-to", to, env=login)
    done = second("-o", "again", "--cache-from", source, env=login)
    assert nonces(context / "again") == nonces(context / "made")
    return done


def checked(layout: Path) -> dict:
    """The index of an OCI layout, all of whose blobs are what they are called."""
    for blob in (layout / "blobs" / "sha256").iterdir():
        assert subprocess.run(["sha256sum", blob], capture_output=True, text=True, check=True).stdout.split()[0] == blob.name
    return dict(json.loads((layout / "index.json").read_text()))


def test_a_directory(context: Path, first: Berth, second: Second) -> None:
    done = same(context, first, second, "type=local,dest=kept,mode=max", "type=local,src=kept")
    assert cached(done) == STEPS
    assert checked(context / "kept")["manifests"]


def test_a_directory_that_is_read_and_written(context: Path, first: Berth, second: Second) -> None:
    """As in pipelines: each run goes on with what the last one left."""
    place = ("--cache-from", "type=local,src=kept", "--cache-to", "type=local,dest=kept,mode=max")
    first("-o", "made", *place)
    second("-o", "again", *place)
    assert nonces(context / "again") == nonces(context / "made")
    write(context, a="B\n")
    second("-o", "changed", *place)
    assert nonces(context / "changed")[0] == nonces(context / "made")[0]
    assert nonces(context / "changed")[1] != nonces(context / "made")[1]
    layout = checked(context / "kept")
    (manifest,) = layout["manifests"]
    listed = json.loads((context / "kept" / "blobs" / "sha256" / manifest["digest"].removeprefix("sha256:")).read_text())
    assert all((context / "kept" / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")).exists() for layer in listed["layers"])


def test_mode_min(context: Path, first: Berth, second: Second) -> None:
    first("-o", "made", "--cache-to", "type=local,dest=kept")
    done = second("-o", "again", "--cache-from", "type=local,src=kept", "-t", "x")
    assert nonces(context / "again")[0] != nonces(context / "made")[0]  # the first stage is no part of the result
    assert cached(done) < STEPS


def test_a_registry(context: Path, first: Berth, second: Second, registry: Host) -> None:
    done = same(context, first, second, f"type=registry,ref={registry}/cache:max,mode=max", f"{registry}/cache:max")
    assert cached(done) == STEPS
    assert len(raw(f"docker://{registry}/cache:max")["layers"]) == STEPS + 1  # and the base's
    write(context, a="B\n")
    second("-o", "changed", "--cache-from", f"type=registry,ref={registry}/cache:max")
    assert nonces(context / "changed")[0] == nonces(context / "made")[0]


def test_a_registry_with_a_login(context: Path, first: Berth, second: Second) -> None:
    if not HAVE_DOCKER_REGISTRY:
        pytest.skip("needs Debian's docker-registry")
    with docker_registry(auth=("user", "password")) as host:
        write(context, **{"login__config.json": json.dumps({"auths": {str(host): {"auth": base64.b64encode(b"user:password").decode()}}})})
        place = f"type=registry,ref={host}/cache,mode=max"
        assert "no basic auth" in first("--cache-to", place, code=1).stderr
        assert first("--cache-to", f"{place},ignore-error=true").stderr.count("no basic auth") >= 1
        done = same(context, first, second, place, f"type=registry,ref={host}/cache", DOCKER_CONFIG=str(context / "login"))
        assert cached(done) == STEPS


@pytest.mark.parametrize("words", [("--cache-to", "type=inline"), ("--build-arg", "BUILDKIT_INLINE_CACHE=1")])
def test_inline(context: Path, first: Berth, second: Second, registry: Host, words: tuple[str, ...]) -> None:
    """In the image: its own layers, no other stage's."""
    text = "FROM bb\nCOPY a /a\nRUN cat /proc/sys/kernel/random/uuid >/from-tools; cp /from-tools /last\nENV A=1\n"
    dockerfile(context, text)
    name = f"{registry}/app:1"
    first("-t", name, "--push", "-o", "made", *words)
    done = second("-o", "again", "--cache-from", name)
    assert cached(done) == 2
    assert nonces(context / "again") == nonces(context / "made")
    assert cached(second("-t", name, "--push", "--cache-from", name, *words)) == 2


def test_what_is_damaged_is_made_again(context: Path, first: Berth, second: Second) -> None:
    first("-o", "made", "--cache-to", "type=local,dest=kept,mode=max")
    for blob in (context / "kept" / "blobs" / "sha256").iterdir():
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            blob.write_bytes(blob.read_bytes()[:-20] + bytes(20))
    done = second("-o", "again", "--cache-from", "type=local,src=kept")
    assert "is left out, and the steps that led there are built" in done.stderr
    assert nonces(context / "again") != nonces(context / "made")
    (context / "kept" / "index.json").write_text("{")
    done = second("-o", "again", "--cache-from", "type=local,src=kept")
    assert "index.json" in done.stderr
    assert nonces(context / "again") != nonces(context / "made")
    assert "cannot be used" in second("-o", "again", "--cache-from", "127.0.0.1:9/none").stderr
    assert "cache nowhere cannot be used" in second("-o", "again", "--cache-from", "type=local,src=nowhere").stderr


def test_places_that_are_none(first: Berth, second: Second) -> None:
    assert "'s3'" in second("--cache-to", "type=s3,bucket=x", code=1).stderr
    assert "src" in second("--cache-from", "type=local", code=1).stderr
    assert "dest" in second("--cache-to", "type=local", code=1).stderr
    assert "mode" in second("--cache-to", "type=local,dest=x,mode=most", code=1).stderr
