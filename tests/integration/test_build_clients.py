"""Every flag of `docker build`, and docker-py's `images.build`, on berth and on dockerd: what a step sees and what the image is."""

import contextlib
import gc
import gzip
import io
import json
import os
import re
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildparts import docker, docker_build
from dockerd import HAVE_DOCKERD, Dockerd
from harness import GROUPS, Engine, read, wait_until
from served import serving

dockerpy = pytest.importorskip("docker")
from docker import errors as failures  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")]


class _Dockerd:
    """Debian's dockerd, as far as tests here use an engine."""

    def __init__(self, daemon: Dockerd) -> None:
        self.docker, self.env = daemon, daemon.env

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.docker("run", "--rm", "--network", "none", *words)


Side = Engine | _Dockerd


@pytest.fixture(params=["berth", pytest.param("dockerd", marks=pytest.mark.skipif(not HAVE_DOCKERD, reason="needs docker.io"))])
def side(request: pytest.FixtureRequest) -> Side:
    return request.getfixturevalue("engine") if request.param == "berth" else _Dockerd(request.getfixturevalue("real"))


def config(side: Side, image: str) -> dict:
    return dict(json.loads(side.docker("image", "inspect", image).stdout)[0]["Config"])


def said_by(side: Side, where: Path, script: str, *options: str) -> str:
    """What a step prints."""
    return docker_build(side, where, f"FROM bb\nRUN {script}\n", "--no-cache", *options).stdout


# -- docker build -------------------------------------------------------------------------------------------


def test_resources(side: Side, tmp_path: Path) -> None:
    group = "cat /sys/fs/cgroup"
    assert "\n67108864\n" in said_by(side, tmp_path, f"{group}/memory/memory.limit_in_bytes", "--memory", "64m")
    assert "\n83886080\n" in said_by(side, tmp_path, f"{group}/memory/memory.memsw.limit_in_bytes", "--memory", "64m", "--memory-swap", "80m")
    assert "\n300\n" in said_by(side, tmp_path, f"{group}/cpu/cpu.shares", "--cpu-shares", "300")
    text = said_by(side, tmp_path, f"{group}/cpu/cpu.cfs_quota_us {GROUPS}/cpu/cpu.cfs_period_us", "--cpu-quota", "30000", "--cpu-period", "60000")
    assert "\n30000\n60000\n" in text
    text = said_by(side, tmp_path, "grep _allowed_list /proc/self/status", "--cpuset-cpus", "0", "--cpuset-mems", "0")
    assert re.search(r"Cpus_allowed_list:\t0\nMems_allowed_list:\t0\n", text), text
    assert "\n8192\n" in said_by(side, tmp_path, "df -k /dev/shm | awk 'NR == 2 { print $2 }'", "--shm-size", "8m")
    text = said_by(side, tmp_path, "ulimit -n; ulimit -Hn; ulimit -c", "--ulimit", "nofile=123:456", "--ulimit", "core=0")
    assert "\n123\n456\n0\n" in text


def test_out_of_memory(engine: Engine, tmp_path: Path) -> None:
    done = docker_build(engine, tmp_path, "FROM bb\nRUN head -c 100m /dev/zero | tail\n", "--memory", "16m", code=None)
    assert done.returncode != 0
    assert "memory" in done.stderr


def test_cgroup_parent(side: Side, tmp_path: Path) -> None:
    name = f"berth-test-{uuid.uuid4().hex[:8]}"
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo in; sleep 1000\n")
    with subprocess.Popen(
        ["docker", "build", "--cgroup-parent", f"/{name}", str(tmp_path)], env={**side.env, "DOCKER_BUILDKIT": "0"}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as client:  # fmt: skip
        assert client.stdout
        assert any(line == "in\n" for line in client.stdout)
        below = [each.path for each in os.scandir(f"{GROUPS}/pids/{name}") if each.is_dir()]
        assert [read(f"{path}/cgroup.procs") for path in below if read(f"{path}/cgroup.procs")]
        client.kill()
    for controller in os.listdir(GROUPS):
        if os.path.isdir(f"{GROUPS}/{controller}/{name}"):
            wait_until(lambda c=controller: not [each for each in os.scandir(f"{GROUPS}/{c}/{name}") if each.is_dir()], "the step's group")
            os.rmdir(f"{GROUPS}/{controller}/{name}")


def test_network_and_hosts(engine: Engine, tmp_path: Path) -> None:
    text = said_by(engine, tmp_path, "cat /etc/hosts; ls /sys/class/net", "--add-host", "other:192.0.2.77", "--add-host", "six=2001:db8::7", "--network", "none")
    assert re.search(r"^192\.0\.2\.77\s+other$", text, re.M), text
    assert re.search(r"^2001:db8::7\s+six$", text, re.M), text
    assert re.search(r"^lo\n --->", text, re.M), text
    own = sorted(os.listdir("/sys/class/net"))
    assert "\n".join(own) in said_by(engine, tmp_path, "ls /sys/class/net", "--network", "host")
    identity = engine.up()
    try:
        text = said_by(engine, tmp_path, "readlink /proc/self/ns/net", "--network", f"container:{identity}")
        assert os.readlink(f"/proc/{engine.pid(identity)}/ns/net") in text
    finally:
        engine.rm(identity)
    assert "nowhere" in docker_build(engine, tmp_path, "FROM bb\nRUN true\n", "--no-cache", "--network", "nowhere", code=1).stderr
    kept = docker_build(engine, tmp_path, "FROM bb\nRUN true\n", "-t", "hosts", "--add-host", "other:192.0.2.77", "--no-cache")
    assert kept.returncode == 0
    assert "192.0.2.77" not in engine.run("hosts", "cat", "/etc/hosts").stdout


def test_names_labels_targets_and_arguments(side: Side, tmp_path: Path) -> None:
    text = "FROM bb AS one\nARG A=default\nARG B\nRUN echo got:$A:$B\nLABEL a=1 b=2\nFROM one AS two\nRUN echo not wanted\n"
    options = ("-t", "flags:1", "-t", "example.com/flags:2", "--target", "one", "--label", "b=3", "--label", "c", "--build-arg", "A=given", "--build-arg", "B")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Other").write_text(text)
    (tmp_path / "Dockerfile").write_text("FROM nowhere.invalid/x\n")
    environment = {**side.env, "B": "from-environment", "DOCKER_BUILDKIT": "0"}
    words = ["docker", "build", *options, "--file", str(tmp_path / "sub/Other"), "--iidfile", str(tmp_path / "id"), "--quiet", str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    identity = json.loads(side.docker("image", "inspect", "flags:1").stdout)[0]["Id"]
    assert done.stdout == f"{identity}\n"
    assert (tmp_path / "id").read_text().strip() == identity
    assert json.loads(side.docker("image", "inspect", "example.com/flags:2").stdout)[0]["Id"] == identity
    assert config(side, "flags:1")["Labels"] == {"a": "1", "b": "3", "c": ""}
    history = side.docker("history", "--no-trunc", "flags:1").stdout
    assert "got:$A:$B" in history
    assert "not wanted" not in history
    again = subprocess.run([word for word in words if word != "--quiet"], env=environment, capture_output=True, text=True, timeout=60)
    assert "Using cache" in again.stdout
    assert "Successfully tagged example.com/flags:2\n" in again.stdout
    again = subprocess.run([*(word for word in words if word != "--quiet"), "--no-cache"], env=environment, capture_output=True, text=True, timeout=60)
    assert "Using cache" not in again.stdout
    assert "\ngot:given:from-environment\n" in again.stdout
    unused = docker_build(side, tmp_path, "FROM bb\n", "--build-arg", "NOBODY=1")
    assert unused.stdout.count("[Warning] One or more build-args [NOBODY] were not consumed") == 1
    wrong = docker_build(side, tmp_path, "FROM bb AS stage\n", "--target", "stagr", code=1)
    assert "stagr" in wrong.stderr
    assert "Successfully built" in docker_build(side, tmp_path, "FROM bb\nRUN true\n", "--rm=false", "--force-rm", "--platform", "linux/amd64" if os.uname().machine == "x86_64" else "linux/arm64").stdout


def archive(files: dict[str, str], compress: bool = False) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue()) if compress else out.getvalue()


def test_contexts_on_standard_input(side: Side, tmp_path: Path) -> None:
    done = docker(side, "build", "-", input=b"FROM bb\nRUN echo from-input\n")
    assert "from-input\n" in done.stdout
    files = {"Dockerfile": "FROM bb\nCOPY a /\nRUN cat /a\n", "a": "of-the-archive\n", "sub/Other": "FROM bb\nCOPY sub /s\nRUN cat /s/Other | wc -l\n"}
    for compress in (False, True):
        assert "of-the-archive\n" in docker(side, "build", "--no-cache", "-", input=archive(files, compress)).stdout
    assert "\n3\n" in docker(side, "build", "-f", "sub/Other", "-", input=archive(files)).stdout
    (tmp_path / "a").write_text("of-the-directory\n")
    assert "of-the-directory\n" in docker(side, "build", "-f", "-", str(tmp_path), input=b"FROM bb\nCOPY a /\nRUN cat /a\n").stdout
    assert "of-the-directory\n" in docker(side, "build", "--compress", "--no-cache", "-f", "-", str(tmp_path), input=b"FROM bb\nCOPY a /\nRUN cat /a\n").stdout
    (tmp_path / ".dockerignore").write_text("a\n")
    refused = docker(side, "build", "-f", "-", str(tmp_path), input=b"FROM bb\nCOPY a /\nRUN cat /a\n", code=1)
    assert "not found" in refused.stderr


def test_context_of_a_repository(side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client clones it with the machine's git."""
    monkeypatch.setitem(side.env, "TMPDIR", str(tmp_path))  # where it leaves what it has cloned
    source = tmp_path / "source"
    source.mkdir()

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *words], cwd=source, check=True, capture_output=True)

    git("init", "-q", "-b", "master")
    (source / "Dockerfile").write_text("FROM bb\nCOPY f /\nRUN cat /f\n")
    (source / "f").write_text("of-master\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    git("checkout", "-qb", "other")
    (source / "deep").mkdir()
    (source / "deep/Dockerfile").write_text("FROM bb\nRUN echo of-the-branch\n")
    git("add", "-A")
    git("commit", "-qm", "two")
    git("checkout", "-q", "master")
    git("clone", "-q", "--bare", str(source), str(tmp_path / "bare.git"))
    subprocess.run(["git", "update-server-info"], cwd=tmp_path / "bare.git", check=True)
    with serving(tmp_path) as address:
        assert "of-master\n" in docker(side, "build", f"{address}/bare.git").stdout
        assert "of-the-branch\n" in docker(side, "build", f"{address}/bare.git#other:deep").stdout
        (tmp_path / "context.tar").write_bytes(archive({"Dockerfile": "FROM bb\nCOPY g /\nRUN cat /g\n", "g": "of-the-web\n"}))
        assert "of-the-web\n" in docker(side, "build", f"{address}/context.tar").stdout
        client = dockerpy.DockerClient(base_url=side.env["DOCKER_HOST"], timeout=60)
        _, log = client.images.build(path=f"{address}/bare.git#other:deep", nocache=True)  # which the engine clones
        assert "of-the-branch\n" in [each.get("stream") for each in log]
        client.close()


def test_pull(side: Side, tmp_path: Path) -> None:
    """--pull asks the registry although the image is here."""
    failed = docker_build(side, tmp_path, "FROM 127.0.0.1:9/none/bb\n", "--pull", code=1)
    assert "127.0.0.1:9" in failed.stderr
    side.docker("tag", "bb", "127.0.0.1:9/none/bb")
    assert "Successfully built" in docker_build(side, tmp_path, "FROM 127.0.0.1:9/none/bb\n").stdout
    assert "127.0.0.1:9" in docker_build(side, tmp_path, "FROM 127.0.0.1:9/none/bb\n", "--pull", code=1).stderr
    side.docker("rmi", "127.0.0.1:9/none/bb")


def test_a_failure_writes_no_id(side: Side, tmp_path: Path) -> None:
    docker_build(side, tmp_path, "FROM bb\nRUN false\n", "--iidfile", str(tmp_path / "id"), code=1)
    assert not (tmp_path / "id").exists()
    quiet = docker_build(side, tmp_path, "FROM bb\nRUN echo why-it-failed; exit 9\n", "--quiet", code=9)
    assert "returned a non-zero code: 9" in quiet.stderr
    assert "why-it-failed\n" in quiet.stderr
    assert quiet.stdout == ""


# -- docker-py ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(side: Side) -> Iterator["dockerpy.DockerClient"]:
    made = dockerpy.DockerClient(base_url=side.env["DOCKER_HOST"], timeout=60)
    yield made
    made.close()
    gc.collect()  # docker-py leaves the sockets of streams to it


@pytest.fixture
def client(side: Side) -> Iterator["dockerpy.DockerClient"]:
    with connected(side) as made:
        yield made


@pytest.fixture
def own_client(engine: Engine) -> Iterator["dockerpy.DockerClient"]:
    """Where dockerd does less: it squashes nothing, takes limits that are none, and knows no nearest word."""
    with connected(engine) as made:
        yield made


def text_of(log: object) -> str:
    return "".join(each.get("stream", "") for each in log)  # type: ignore[attr-defined]


def test_docker_py_builds_a_directory(client: "dockerpy.DockerClient", tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM bb AS first\nARG A\nARG H\nCOPY kept* /\nRUN echo $A; ls / ; cat /etc/hosts\nFROM first\nRUN echo never\n")
    (tmp_path / ".dockerignore").write_text("kept-not\n")
    for name in ("kept", "kept-not"):
        (tmp_path / name).write_text(name)
    options = {"path": str(tmp_path), "tag": "py:1", "buildargs": {"A": "argument"}, "labels": {"l": "m"}, "target": "first", "rm": True, "extra_hosts": {"peer": "192.0.2.9"}}
    image, log = client.images.build(**options)
    said = text_of(log)
    assert "argument\n" in said
    assert "kept\n" in said
    assert "kept-not" not in said
    assert "192.0.2.9\tpeer" in said
    assert "never" not in said
    assert image.tags == ["py:1"]
    assert image.labels == {"l": "m"}
    again, log = client.images.build(**options)
    assert again.id == image.id
    assert "Using cache" in text_of(log)
    _, log = client.images.build(**options, nocache=True)
    assert "Using cache" not in text_of(log)
    assert image.short_id.removeprefix("sha256:")[:10] in said


def test_docker_py_builds_a_file_and_an_archive(client: "dockerpy.DockerClient") -> None:
    image, log = client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN echo of-the-file\n"), container_limits={"memory": 64 << 20, "cpusetcpus": "0"}, shmsize=8 << 20, network_mode="none")
    assert "of-the-file\n" in text_of(log)
    assert image.id.startswith("sha256:")
    context = archive({"sub/Dockerfile": "FROM bb\nCOPY f /f\nRUN cat /f\n", "f": "of-the-archive\n"}, compress=True)
    _, log = client.images.build(fileobj=io.BytesIO(context), custom_context=True, dockerfile="sub/Dockerfile", encoding="gzip")
    assert "of-the-archive\n" in text_of(log)
    steps = list(client.api.build(fileobj=io.BytesIO(b"FROM bb\nRUN echo low\n"), decode=True, nocache=True))
    assert {"stream": "low\n"} in steps
    assert next(each["aux"]["ID"] for each in steps if "aux" in each).startswith("sha256:")
    raw = list(client.api.build(fileobj=io.BytesIO(b"FROM bb\nRUN echo quiet\n"), quiet=True))
    assert re.fullmatch(rb'\{"stream":\s?"sha256:[0-9a-f]{64}\\n"\}\s*', b"".join(raw))


def test_docker_py_squashes(own_client: "dockerpy.DockerClient", engine: Engine) -> None:
    """Docker's command line asks only a daemon with experimental features for that."""
    text = b"FROM bb\nRUN echo 1 >/one && echo 2 >/two\nRUN rm /one && echo 3 >/three\nENV A=b\n"
    image, _ = own_client.images.build(fileobj=io.BytesIO(text), squash=True, tag="squashed")
    below = own_client.images.get("bb").attrs["RootFS"]["Layers"]
    assert image.attrs["RootFS"]["Layers"][:-1] == below
    assert engine.run("squashed", "sh", "-c", "ls /one; cat /two /three; echo $A").stdout == "2\n3\nb\n"


def test_limits_that_are_none(own_client: "dockerpy.DockerClient") -> None:
    def answer(**parameters: str) -> str:
        made = own_client.api._post(own_client.api._url("/build"), params=parameters, data=archive({"Dockerfile": "FROM bb\nRUN true\n"}), headers={"Content-Type": "application/x-tar"})
        assert made.status_code == 400 or "errorDetail" in made.text, made.text
        return str(made.text)

    assert "memory" in answer(memory="lots")
    assert "lots" in answer(memory="lots")
    assert "ulimits" in answer(ulimits='["nofile"]')
    assert "ulimits" in answer(ulimits="{}")
    assert "9999" in answer(cpusetcpus="9999", nocache="1")


def test_docker_py_says_what_failed(own_client: "dockerpy.DockerClient") -> None:
    with pytest.raises(failures.BuildError) as caught:
        own_client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN echo before; exit 4\n"))
    assert "returned a non-zero code: 4" in str(caught.value)
    assert "before\n" in text_of(caught.value.build_log)
    with pytest.raises((failures.BuildError, failures.APIError)) as wrong:
        own_client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUNN x\n"))
    assert "RUN?" in str(wrong.value)
    with pytest.raises(failures.APIError) as empty:
        own_client.images.build(fileobj=io.BytesIO(b""), custom_context=True, dockerfile="nowhere")
    assert empty.value.response.status_code in (400, 500)
    with pytest.raises((failures.BuildError, failures.APIError)) as unknown:
        own_client.images.build(fileobj=io.BytesIO(b"FROM bb\n"), target="stage")
    assert "stage" in str(unknown.value)
