"""Secrets of `berth build`: in nothing that is kept, handed out or said, while the build runs and afterwards. grep looks, also in what is compressed."""

import base64
import gzip
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildcli import BERTH, Berth, dockerfile, run_berth, skopeo, with_libraries, write
from harness import Engine, wait_until
from registries import HAVE_DOCKER_REGISTRY, docker_registry

pytestmark = pytest.mark.root


@pytest.fixture
def engine(rootfs_tar: str) -> Iterator[Engine]:
    """One of its own, that logs all there is to log."""
    running = Engine(("--log-level", "debug"))
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


@pytest.fixture
def berth(engine: Engine, tmp_path: Path) -> Berth:
    """Runs `berth WORDS` in the directory of the build."""
    return lambda *words, **keywords: run_berth(engine, *words, cwd=tmp_path, **keywords)


def forms(secret: str) -> list[str]:
    """How it might be written somewhere."""
    return [secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex()]


def found_in(directory: str | Path, secrets: list[str]) -> list[str]:
    """Files below a directory with one of them, by grep."""
    words = [word for secret in secrets for form in forms(secret) for word in ("-e", form)]
    done = subprocess.run(["grep", "-rlaF", "--devices=skip", *words, str(directory)], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def unpacked(directory: Path) -> None:
    """What is compressed or an archive below a directory becomes plain, for grep."""
    for path in [each for each in directory.rglob("*") if each.is_file() and not each.is_symlink()]:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            path.write_bytes(gzip.decompress(data))


class Agent:
    """ssh-agent(1) with one key."""

    def __init__(self, key: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="berth-test-agent-", dir="/var/tmp"))
        self._process = subprocess.Popen(["ssh-agent", "-D", "-a", self.directory / "s"], stdout=subprocess.DEVNULL)
        wait_until((self.directory / "s").exists, "no agent")
        self.env = {"SSH_AUTH_SOCK": str(self.directory / "s")}
        subprocess.run(["ssh-add", "-q", key], env={**os.environ, **self.env}, check=True)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self.directory)


@pytest.mark.skipif(not (shutil.which("ssh-agent") and HAVE_DOCKER_REGISTRY), reason="needs ssh-agent and docker-registry")
def test_secrets_are_nowhere_afterwards(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    secret, other, password = (os.urandom(16).hex() for _ in range(3))
    with_libraries(str(shutil.which("ssh-add")), tmp_path / "context" / "programs")
    write(tmp_path, **{"context__programs__etc__passwd": "root:x:0:0::/:/bin/sh\n"})
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    private = (tmp_path / "key").read_text().splitlines()[2]
    dockerfile(
        tmp_path / "context",
        "FROM bb AS first\nCOPY programs /\n"
        "RUN --mount=type=secret,id=s test $(wc -c </run/secrets/s) = 32\n"
        "RUN --mount=type=secret,id=s,target=/root/.netrc,mode=0400 md5sum /root/.netrc >/sum\n"
        "FROM first\n"
        "RUN --mount=type=secret,id=v,env=V test ${#V} = 32 && env | md5sum >/env\n"
        "RUN --mount=type=ssh ssh-add -l >/agent\n"
        "RUN --mount=type=secret,id=s --mount=type=cache,target=/c --mount=type=tmpfs,target=/t cp /run/secrets/s /t/copy && echo kept >/c/file\n"
        "COPY --from=first /sum /sum\n",
    )  # fmt: skip
    write(tmp_path, secret=secret)
    (tmp_path / "out").mkdir()
    agent = Agent(tmp_path / "key")
    try:
        with docker_registry(auth=("user", password)) as registry:
            login = {"auths": {str(registry): {"auth": base64.b64encode(f"user:{password}".encode()).decode()}}}
            write(tmp_path, **{"login__config.json": json.dumps(login)})
            done = berth(
                "build", "-t", f"{registry}/app:1", "--push", "--secret", "id=s,src=secret", "--secret", "id=v,env=OTHER", "--ssh", "default",
                "--provenance", "mode=max", "--sbom", "true", "--metadata-file", "out/meta", "--iidfile", "out/id", "--progress", "rawjson",
                "--cache-to", "type=local,dest=out/cache,mode=max,include-mounts=true", "--cache-to", f"type=registry,ref={registry}/cache,mode=max",
                "-o", "type=oci,tar=false,dest=out/oci", "-o", "type=local,dest=out/files", "--why", "context",
                env={"OTHER": other, "DOCKER_CONFIG": f"{tmp_path}/login", **agent.env},
            )  # fmt: skip
            write(tmp_path / "out", said=done.stdout + done.stderr)
            skopeo("copy", "--all", "--src-tls-verify=false", "--src-creds", f"user:{password}", f"docker://{registry}/app:1", f"dir:{tmp_path}/out/pushed")
            shutil.copytree(registry.root, tmp_path / "out" / "registry")
            write(tmp_path / "out", log=registry.log())
    finally:
        agent.close()
    engine.docker("save", "-o", f"{tmp_path}/out/saved.tar", f"{registry}/app:1")
    for name, words in {
        "history": ("history", "--no-trunc", f"{registry}/app:1"), "inspect": ("image", "inspect", f"{registry}/app:1"), "df": ("system", "df", "-v"),
        "events": ("events", "--since", "1h", "--until", "0s"), "ps": ("ps", "-a", "--no-trunc"),
    }.items():  # fmt: skip
        write(tmp_path / "out", **{name: engine.docker(*words).stdout})
    write(tmp_path / "out", du=berth("buildx", "du", "--verbose").stdout)
    unpacked(tmp_path / "out")
    # what is looked for can be found: the steps themselves are in provenance, history and caches
    assert len(found_in(tmp_path / "out", ["md5sum /root/.netrc"])) > 5
    assert found_in(engine.top, ["md5sum /root/.netrc"])
    secrets = [secret, other, password, private]
    assert found_in(tmp_path / "out", secrets) == []
    assert found_in(engine.top, secrets) == []
    expected = subprocess.run(["md5sum"], input=secret, capture_output=True, text=True, check=True).stdout.split()[0]
    assert engine.run(f"{registry}/app:1", "cat", "/sum").stdout.split()[0] == expected


def test_while_the_step_runs_they_are_in_memory_alone(engine: Engine, tmp_path: Path) -> None:
    secret, other = os.urandom(16).hex(), os.urandom(16).hex()
    write(tmp_path, secret=secret)
    dockerfile(
        tmp_path,
        "FROM bb\nRUN --mount=type=secret,id=s --mount=type=secret,id=v,env=V --mount=type=cache,target=/c "
        "cat /run/secrets/s >/dev/null; touch /c/here; echo ready; until test -e /c/go; do sleep 0.05; done; test ${#V} = 32\n",
    )  # fmt: skip
    words = [*BERTH, "build", "--progress", "plain", "--secret", "id=s,src=secret", "--secret", "id=v,env=OTHER", "."]
    with subprocess.Popen(words, env={**engine.env, "OTHER": other}, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(line.endswith(" ready\n") for line in process.stderr)
        on_disk = found_in(engine.data, [secret, other])
        elsewhere = [path for path in found_in(engine.exec, [secret, other]) if file_system(path) != "tmpfs"]
        held = found_in(f"{engine.exec}/build/", [secret])
        logged = found_in(f"{engine.top}/engine.log", [secret, other])
        (here,) = Path(engine.data, "build", "mounts").rglob("here")
        (here.parent / "go").touch()
        rest = process.stderr.read()
        assert process.wait() == 0, rest
    assert (on_disk, elsewhere, logged, len(held)) == ([], [], [], 1)
    assert found_in(engine.top, [secret, other]) == []
    assert found_in("/dev/shm", [secret, other]) == []


def test_a_host_whose_run_has_no_programs(rootfs_tar: str, tmp_path: Path) -> None:
    """As on Debian, where /run has noexec: a script of a step runs all the same, and secrets are where they were."""
    mounted = 'for word; do [ "$before" = --exec-root ] && mkdir -p "$word/build" && mount -t tmpfs -o noexec none "$word/build"; before=$word; done; exec "$@"'
    engine = Engine(wrapper=("unshare", "-m", "--propagation", "slave", "sh", "-c", mounted, "sh"))
    try:
        engine.docker("import", rootfs_tar, "bb")
        write(tmp_path, secret="x")
        dockerfile(tmp_path, "FROM bb\nRUN --mount=type=secret,id=s <<E\n#!/bin/sh -e\ntest $(cat /run/secrets/s) = x\necho ran\nE\n")
        assert " ran\n" in run_berth(engine, "build", "--secret", "id=s,src=secret", ".", cwd=tmp_path).stderr
        assert not os.path.islink(f"{engine.exec}/build")
    finally:
        engine.finish()


def file_system(path: str) -> str:
    return subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=False).stdout.strip()


def test_a_step_that_fails_leaves_them_no_more(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    secret = os.urandom(16).hex()
    write(tmp_path, secret=secret)
    dockerfile(tmp_path, "FROM bb\nRUN --mount=type=secret,id=s cp /run/secrets/s /root/copy && exit 3\n")
    done = berth("build", "--secret", "id=s,src=secret", ".", code=1)
    assert "returned a non-zero code: 3" in done.stderr
    assert secret not in done.stdout + done.stderr
    assert found_in(engine.top, [secret]) == []


def test_an_argument_named_like_a_secret_warns(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nARG API_TOKEN\nENV DB_PASSWORD=x\nRUN true\n")
    done = berth("build", "--build-arg", "API_TOKEN=abc", ".")
    assert 'SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "API_TOKEN")' in done.stderr
    assert '(ENV "DB_PASSWORD")' in done.stderr


def test_secrets_that_cannot_be_had(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN --mount=type=secret,id=s,required true\n")
    assert "secret s: not found" in berth("build", ".", code=1).stderr
    write(tmp_path, large="x" * ((1 << 20) + 1))
    assert "more than 1 MiB" in berth("build", "--secret", "id=s,src=large", ".", code=1).stderr
    assert "VARIABLE is not set" in berth("build", "--secret", "id=s,env=VARIABLE", ".", code=1).stderr
    assert "is a directory" in berth("build", "--secret", "id=s,src=.", ".", code=1).stderr
