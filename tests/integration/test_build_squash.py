"""`--squash`: Docker's command line asks for it only of an engine that calls itself experimental, as daemon.json may say; on berth and on dockerd."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buildcli import dockerfile, run_berth
from dockerd import HAVE_DOCKERD, Dockerd
from harness import Engine

pytestmark = pytest.mark.root
LEGACY = {"DOCKER_BUILDKIT": "0"}
TEXT = "FROM bb\nRUN echo gone >/one && echo 2 >/two\nRUN rm /one\nENV A=1\n"


@pytest.fixture
def experimental(rootfs_tar: str, tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "daemon.json").write_text(json.dumps({"experimental": True}))
    running = Engine(("--config-file", str(tmp_path / "daemon.json")))
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


@pytest.fixture
def theirs() -> Iterator[Dockerd]:
    daemon = Dockerd("--storage-driver", "overlay2", config={"experimental": True})
    yield daemon
    daemon.finish()


def squashed(docker: Callable, env: dict[str, str], context: Path) -> tuple:
    env.update(LEGACY)
    dockerfile(context, TEXT)
    docker("build", "--squash", "-t", "squashed", str(context))
    image = json.loads(docker("image", "inspect", "squashed").stdout)[0]
    said = docker("run", "--rm", "--network", "none", "squashed", "sh", "-c", "ls /one; cat /two; echo $A", code=None)
    info, version = (json.loads(docker(word, "--format", "{{json .}}").stdout) for word in ("info", "version"))
    server = version["Server"]
    details = next(each["Details"] for each in server["Components"] if each["Name"] == "Engine")
    words = (details["Experimental"], info["ExperimentalBuild"], "experimental" in docker("build", "--help").stdout)
    return len(image["RootFS"]["Layers"]), said.stdout, words


def test_dockers_command_line_squashes(experimental: Engine, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    found = squashed(experimental.docker, experimental.env, tmp_path / "context")
    assert found[:2] == (2, "2\n1\n")
    assert found[2][:2] == ("true", True)
    assert "Experimental: true" in experimental.docker("info").stdout
    assert "Experimental:     true" in run_berth(experimental, "version", cwd=tmp_path).stdout
    assert "--squash" in experimental.docker("build", "--help").stdout


@pytest.mark.skipif(not HAVE_DOCKERD, reason="needs docker.io")
def test_as_dockerd_does(experimental: Engine, theirs: Dockerd, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    assert squashed(experimental.docker, experimental.env, tmp_path / "ours") == squashed(theirs, theirs.env, tmp_path / "theirs")


def test_without_it_the_command_line_refuses(engine: Engine, tmp_path: Path) -> None:
    dockerfile(tmp_path, TEXT)
    env = dict(engine.env)
    engine.env.update(LEGACY)
    try:
        refused = engine.docker("build", "--squash", str(tmp_path), code=1)
    finally:
        engine.env.clear()
        engine.env.update(env)
    assert '"--squash" is only supported on a Docker daemon with experimental features enabled' in refused.stderr
    assert engine.docker("version", "--format", "{{.Server.Experimental}}").stdout == "false\n"
    run_berth(engine, "build", "--squash", "-t", "squashed", ".", cwd=tmp_path)  # which needs none of it
    assert len(json.loads(engine.docker("image", "inspect", "squashed").stdout)[0]["RootFS"]["Layers"]) == 2
