"""docker-py 7 as people use it, on berth and on dockerd: what holds there must hold here."""

import contextlib
import gc
import io
import json
import os
import socket
import struct
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from dockerd import HAVE_DOCKERD
from harness import wait_until

docker = pytest.importorskip("docker")
from docker import errors as failures  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")]

LOOP = 'trap "echo term; exit 3" TERM; echo up; while :; do sleep 0.05; done'


@pytest.fixture(params=["berth", pytest.param("dockerd", marks=pytest.mark.skipif(not HAVE_DOCKERD, reason="needs docker.io"))])
def client(request: pytest.FixtureRequest) -> Iterator["docker.DockerClient"]:
    side = request.getfixturevalue("engine" if request.param == "berth" else "real")
    made = docker.DockerClient(base_url=side.env["DOCKER_HOST"], timeout=60)
    yield made
    made.close()
    gc.collect()  # docker-py leaves the sockets of streams to it


def name_of() -> str:
    return f"py-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def start(client: "docker.DockerClient") -> Iterator[Callable]:
    """Containers that are removed after the test."""
    made = []

    def run(command: object = ("sleep", "1000"), **options: object) -> "docker.models.containers.Container":
        made.append(client.containers.run("bb", command, **{"detach": True, "network_mode": "none", "name": name_of(), **options}))
        return made[-1]

    yield run
    for container in made:
        with contextlib.suppress(failures.NotFound):
            container.remove(force=True)


NONE = {"network_mode": "none"}


def test_run_in_the_foreground(client: "docker.DockerClient") -> None:
    run = client.containers.run
    assert run("bb", ["echo", "hi"], remove=True, **NONE) == b"hi\n"
    assert run("bb", "echo 'a b' c", remove=True, **NONE) == b"a b c\n"
    both = ["sh", "-c", "echo out; echo err >&2"]
    assert run("bb", both, remove=True, stdout=False, stderr=True, **NONE) == b"err\n"
    assert run("bb", both, remove=True, stdout=True, stderr=False, **NONE) == b"out\n"
    assert sorted(run("bb", both, remove=True, stdout=True, stderr=True, **NONE).split()) == [b"err", b"out"]
    assert b"".join(run("bb", ["sh", "-c", "echo 1; echo 2"], remove=True, stream=True, **NONE)) == b"1\n2\n"
    assert run("bb", ["sh", "-c", "echo $A-$B; pwd; id -u; hostname"], remove=True, environment={"A": "1", "B": "x y"}, working_dir="/tmp",
               user="1000", hostname="here", **NONE) == b"1-x y\n/tmp\n1000\nhere\n"  # fmt: skip
    assert run("bb", ["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"], remove=True, mem_limit="32m", **NONE) == b"33554432\n"
    assert run("bb", ["sh", "-c", "ls -d /t /v; cat /v/f"], remove=True, tmpfs={"/t": "size=1m"}, volumes={__file__: {"bind": "/v/f", "mode": "ro"}},
               entrypoint=None, **NONE).startswith(b"/t\n/v\n\"\"\"docker-py")  # fmt: skip


def test_run_that_fails(client: "docker.DockerClient") -> None:
    with pytest.raises(failures.ContainerError) as failed:
        client.containers.run("bb", ["sh", "-c", "echo bad >&2; exit 7"], remove=True, **NONE)
    assert (failed.value.exit_status, failed.value.stderr, failed.value.image) == (7, b"bad\n", "bb")
    with pytest.raises(failures.ImageNotFound):
        client.api.create_container("no-such-image", "true")
    with pytest.raises(failures.APIError) as unknown:
        client.containers.run("bb", "nosuch-program", name=(name := name_of()), **NONE)
    assert unknown.value.status_code == 400
    assert "executable file not found" in unknown.value.explanation
    client.containers.get(name).remove()
    with pytest.raises(failures.NotFound) as absent:
        client.containers.get("no-such-container")
    assert absent.value.explanation == "No such container: no-such-container"


def test_life(client: "docker.DockerClient", start: Callable) -> None:
    container = start(["sh", "-c", LOOP], labels={"py": "1"}, stop_signal="SIGTERM")
    assert container.status == "created"
    container.reload()
    assert (container.status, container.labels) == ("running", {"py": "1"})
    assert container.attrs["State"]["Running"] is True
    wait_until(lambda: container.logs() == b"up\n", "no output")
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename(renamed := name_of())
    assert client.containers.get(renamed).id == container.id
    assert container.short_id == container.id[:12]
    assert [each.id for each in client.containers.list(filters={"label": "py=1", "name": renamed})] == [container.id]
    assert container.update(mem_limit="64m", memswap_limit="64m")["Warnings"] in (None, [])
    container.reload()
    assert container.attrs["HostConfig"]["Memory"] == 64 << 20
    assert next(row[-1] for row in container.top()["Processes"]).startswith("sh -c trap")
    assert container.top(ps_args="-o pid,comm")["Titles"] == ["PID", "COMMAND"]
    container.stop(timeout=20)
    assert container.wait()["StatusCode"] == 3
    assert container.logs() == b"up\nterm\n"
    container.restart(timeout=0)
    container.reload()
    assert container.status == "running"
    container.kill()
    assert container.wait()["StatusCode"] == 137
    with pytest.raises(failures.APIError) as conflict:
        container.kill()
    assert conflict.value.status_code == 409
    container.start()
    with pytest.raises(failures.APIError) as running:
        container.remove()
    assert running.value.status_code == 409
    container.remove(force=True)
    with pytest.raises(failures.NotFound):
        container.reload()


def test_wait_conditions(client: "docker.DockerClient") -> None:
    container = client.containers.create("bb", ["sh", "-c", "read x; exit $x"], stdin_open=True, auto_remove=True, **NONE)
    results: dict[str, object] = {}

    def wait(condition: str) -> None:
        results[condition] = container.wait(condition=condition)["StatusCode"]

    threads = [threading.Thread(target=wait, args=(condition,)) for condition in ("next-exit", "removed")]
    for thread in threads:
        thread.start()
    assert container.wait(condition="not-running")["StatusCode"] == 0  # created: it does not run
    stdin = container.attach_socket(params={"stdin": 1, "stream": 1})
    container.start()
    stdin._sock.sendall(b"5\n")
    for thread in threads:
        thread.join(30)
    stdin.close()
    assert results == {"next-exit": 5, "removed": 5}


def test_exec(start: Callable, client: "docker.DockerClient") -> None:
    container = start()
    assert container.exec_run("echo hi") == (0, b"hi\n")
    code, reason = container.exec_run("no-such-program")  # 126 until Docker 28
    assert code in ((127,) if client.version()["Platform"]["Name"] == "berth" else (126, 127)), code
    assert b"no-such-program" in reason
    both = ["sh", "-c", "echo out; echo err >&2; exit 4"]
    assert container.exec_run(both, demux=True) == (4, (b"out\n", b"err\n"))
    assert container.exec_run(both, stderr=False) == (4, b"out\n")
    assert container.exec_run(["true"], demux=True) == (0, (None, None))
    code, chunks = container.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True)
    assert (code, b"".join(chunks)) == (None, b"1\n2\n")
    code, pairs = container.exec_run(both, stream=True, demux=True)
    seen = list(pairs)
    assert b"".join(out for out, _ in seen if out) == b"out\n"
    assert b"".join(err for _, err in seen if err) == b"err\n"
    assert container.exec_run("tty", tty=True) == (0, b"/dev/pts/0\r\n")
    assert container.exec_run(["sh", "-c", "id -u; pwd; echo $A"], user="alice", workdir="/tmp", environment=["A=b"]) == (0, b"1000\n/tmp\nb\n")
    assert container.exec_run("sleep 1000", detach=True) == (None, "")
    code, raw = container.exec_run(["cat"], stdin=True, socket=True)
    raw._sock.sendall(b"echoed\n")
    raw._sock.shutdown(socket.SHUT_WR)
    data = b""
    while piece := raw._sock.recv(4096):
        data += piece
    raw.close()
    assert data == struct.pack(">BxxxL", 1, 7) + b"echoed\n"
    identity = client.api.exec_create(container.id, ["sh", "-c", "exit 9"])["Id"]
    client.api.exec_start(identity)
    shown = client.api.exec_inspect(identity)
    assert (shown["ExitCode"], shown["Running"], shown["ContainerID"]) == (9, False, container.id)
    with pytest.raises(failures.NotFound):
        client.api.exec_inspect("0" * 64)
    container.kill()
    with pytest.raises(failures.APIError) as conflict:
        container.exec_run("true")
    assert conflict.value.status_code == 409


def test_attach(start: Callable) -> None:
    container = start(["sh", "-c", 'while read line; do echo "got $line"; [ $line != last ] || exit 6; echo "e $line" >&2; done'], stdin_open=True)
    outputs = container.attach(stream=True, logs=True, demux=True)
    raw = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 0, "stream": 1})
    raw._sock.sendall(b"one\n")
    header = raw.read(8)
    kind, size = struct.unpack(">BxxxL", header)
    assert (kind, raw.read(size)) == (1, b"got one\n")
    assert next(outputs) in ((b"got one\n", None), (None, b"e one\n"))
    raw._sock.sendall(b"last\n")
    raw.close()
    assert b"".join(out for out, _ in outputs if out).endswith(b"got last\n")
    assert container.wait()["StatusCode"] == 6


def test_terminal_and_resize(start: Callable) -> None:
    container = start(["sh", "-c", "read x; stty size; exit 2"], tty=True, stdin_open=True)
    container.resize(height=31, width=97)
    raw = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    raw._sock.sendall(b"\n")
    data = b""
    while piece := raw._sock.recv(4096):
        data += piece
    raw.close()
    assert data.endswith(b"31 97\r\n")
    assert container.wait()["StatusCode"] == 2


def test_logs(start: Callable) -> None:
    container = start(["sh", "-c", "echo error >&2; for i in 1 2 3 4 5; do echo line $i; done; read x; echo last"], stdin_open=True)
    wait_until(lambda: container.logs().count(b"\n") == 6, "no six lines")
    assert container.logs(stderr=False, tail=6) == b"".join(b"line %d\n" % number for number in range(1, 6))
    assert container.logs(stdout=False) == b"error\n"
    assert b"".join(container.logs(stream=True, follow=False, tail="all")).count(b"\n") == 6
    first = container.logs(timestamps=True, stderr=False).splitlines()[0]
    assert first.split(b" ", 1)[1] == b"line 1"
    assert first.startswith(b"20")
    assert container.logs(since=int(time.time()) + 1000) == b""
    assert container.logs(until=1) == b""
    stream = container.logs(stream=True, follow=True)
    lines = b""
    raw = container.attach_socket(params={"stdin": 1, "stream": 1})
    raw._sock.sendall(b"\n")
    for piece in stream:
        lines += piece
    raw.close()
    assert lines.endswith(b"last\n")
    assert lines.count(b"\n") == 7


def test_archives_diff_and_export(start: Callable) -> None:
    container = start()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("put/file")
        info.size, info.mode = 5, 0o640
        tar.addfile(info, io.BytesIO(b"hello"))
    assert container.put_archive("/tmp", data.getvalue()) is True
    assert container.exec_run("cat /tmp/put/file").output == b"hello"
    chunks, status = container.get_archive("/tmp/put/file")
    assert (status["name"], status["size"], status["linkTarget"]) == ("file", 5, "")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        assert tar.getnames() == ["file"]
        file = tar.extractfile("file")
        assert file
        assert file.read() == b"hello"
    with pytest.raises(failures.NotFound):
        container.get_archive("/nowhere")
    with pytest.raises(failures.NotFound):
        container.put_archive("/nowhere", data.getvalue())
    changed = {(each["Path"], each["Kind"]) for each in container.diff()}
    assert {("/tmp", 0), ("/tmp/put", 1), ("/tmp/put/file", 1)} <= changed
    with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as tar:
        assert {"bin/busybox", "tmp/put/file"} <= set(tar.getnames())


def test_stats_and_events(client: "docker.DockerClient", start: Callable) -> None:
    since = time.time() - 1
    container = start(mem_limit="64m")
    once = container.stats(stream=False)
    assert once["memory_stats"]["limit"] == 64 << 20
    assert {"cpu_stats", "precpu_stats", "pids_stats", "blkio_stats", "read", "name", "id"} <= set(once)
    samples = container.stats(decode=True, stream=True)
    assert next(samples)["id"] == next(samples)["id"] == container.id
    samples.close()
    stream = client.events(since=since, filters={"container": container.id, "type": "container"}, decode=True)
    assert [next(stream)["Action"] for _ in range(2)] == ["create", "start"]
    container.kill()
    assert {next(stream)["status"] for _ in range(2)} == {"kill", "die"}
    stream.close()
    text = b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in client.events(since=since, until=time.time()))
    assert any(json.loads(line)["id"] == container.id for line in text.splitlines() if "id" in json.loads(line))


def test_images(client: "docker.DockerClient", start: Callable) -> None:
    container = start(["sh", "-c", "echo made > /made"])
    assert container.wait()["StatusCode"] == 0
    repository = f"py/{uuid.uuid4().hex[:8]}"
    image = container.commit(repository, "1", message="words", author="me", changes=["LABEL py=image", "ENV A=b"], conf={"Cmd": ["cat", "/made"]})
    try:
        assert image.tags == [f"{repository}:1"]
        assert image.labels == {"py": "image"}
        assert image.attrs["Comment"] == "words"
        assert image.attrs["Author"] == "me"
        assert client.containers.run(image, remove=True, **NONE) == b"made\n"
        assert image.history()[0]["Comment"] == "words"
        assert image.tag(repository, "2") is True
        image.reload()
        assert image.tags == [f"{repository}:1", f"{repository}:2"]
        assert [each.id for each in client.images.list(repository)] == [image.id]
        assert [each.id for each in client.images.list(filters={"label": "py=image", "reference": f"{repository}:2"})] == [image.id]
        assert client.images.get(image.short_id).id == image.id
        saved = b"".join(image.save(named=f"{repository}:2"))
        client.images.remove(f"{repository}:1")
        client.images.remove(f"{repository}:2")
        with pytest.raises(failures.ImageNotFound):
            client.images.get(image.id)
        loaded = client.images.load(saved)
        assert [(each.id, each.tags) for each in loaded] == [(image.id, [f"{repository}:2"])]
        (user := client.containers.create(f"{repository}:2", **NONE))
        with pytest.raises(failures.APIError) as used:
            client.images.remove(f"{repository}:2")
        assert used.value.status_code == 409
        user.remove()
    finally:
        with contextlib.suppress(failures.ImageNotFound):
            client.images.remove(image.id, force=True)
    with pytest.raises(failures.ImageNotFound) as absent:
        client.images.get("py-no-such:1")
    assert absent.value.explanation == "No such image: py-no-such:1" or "no such image" in absent.value.explanation
    imported = json.loads(client.api.import_image_from_data(io.BytesIO(b"\0" * 1024).getvalue(), repository=repository, tag="empty").splitlines()[0])
    assert client.images.get(f"{repository}:empty").id == imported["status"]
    client.images.remove(f"{repository}:empty")


def test_lists_and_prune(client: "docker.DockerClient", start: Callable) -> None:
    label = uuid.uuid4().hex
    one, two = start(labels={"py": label}), start(["true"], labels={"py": label, "done": "yes"})
    two.wait()
    mine = {"label": f"py={label}"}
    assert [each.id for each in client.containers.list(filters=mine)] == [one.id]
    assert [each.id for each in client.containers.list(all=True, filters=mine)] == [two.id, one.id]
    assert [each.id for each in client.containers.list(all=True, limit=1, filters=mine)] == [two.id]
    assert [each.id for each in client.containers.list(all=True, filters={**mine, "exited": 0})] == [two.id]
    assert [each.id for each in client.containers.list(all=True, filters={**mine, "status": "running"})] == [one.id]
    assert [each.id for each in client.containers.list(all=True, filters={**mine, "before": two.id})] == [one.id]
    assert [each.id for each in client.containers.list(all=True, filters={**mine, "since": one.id})] == [two.id]
    assert [each.id for each in client.containers.list(all=True, sparse=True, filters=mine, ignore_removed=True)] == [two.id, one.id]
    pruned = client.containers.prune(filters=mine)
    assert (pruned["ContainersDeleted"], pruned["SpaceReclaimed"]) == ([two.id], 0)
    assert client.images.prune(filters={"label": label})["ImagesDeleted"] is None
    assert client.volumes.prune(filters={"label": label})["SpaceReclaimed"] == 0


def test_networks_that_are_there(client: "docker.DockerClient", start: Callable) -> None:
    container = start()
    none = client.networks.get("none")
    assert (none.name, none.attrs["Driver"], len(none.id)) == ("none", "null", 64)
    assert container.id in [each.id for each in none.containers]
    assert client.networks.get(none.id[:20]).id == none.id
    assert [each.name for each in client.networks.list(names=["^host$"])] == ["host"]
    assert [each.id for each in client.networks.list(ids=[none.id[:12]])] == [none.id]
    assert {"none", "host"} <= {each.name for each in client.networks.list()}
    assert container.attrs["NetworkSettings"]["Networks"]["none"]["NetworkID"] in ("", none.id)
    with pytest.raises(failures.NotFound):
        client.networks.get("py-no-such")


def test_system(client: "docker.DockerClient") -> None:
    assert client.ping() is True
    version = client.version()
    assert {"Version", "ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion", "Components"} <= set(version)
    info = client.info()
    assert info["OSType"] == "linux"
    assert {"ID", "Containers", "Images", "Driver", "NCPU", "MemTotal", "Name", "ServerVersion", "SecurityOptions", "Plugins"} <= set(info)
    usage = client.df()
    assert {"LayersSize", "Images", "Containers", "Volumes"} <= set(usage)
    with pytest.raises(failures.APIError) as refused:
        client.login("user", "password", registry="http://127.0.0.1:1/v2/")
    assert refused.value.status_code >= 400
    with pytest.raises(failures.APIError):
        client.images.pull("127.0.0.1:1/nothing", tag="1")
    with pytest.raises(failures.APIError) as alone:
        client.nodes.list()
    assert alone.value.status_code == 503


@pytest.mark.parametrize("version", ["auto", "1.24", "1.30", "1.41"])
def test_low_level(client: "docker.DockerClient", version: str) -> None:
    api = docker.APIClient(base_url=f"unix://{client.api._custom_adapter.socket_path}", version=version, timeout=60)
    try:
        if version != "auto":
            assert api.api_version == version
        host = api.create_host_config(network_mode="none", binds=["/etc/hostname:/h:ro"], restart_policy={"Name": "no"}, cap_drop=["ALL"])
        made = api.create_container("bb", ["sh", "-c", "cat /h; read x; echo $x"], host_config=host, stdin_open=True, environment={"x": "y"}, labels=["a", "b"])
        try:
            api.start(made["Id"])
            wait_until(lambda: api.logs(made["Id"]) == os.uname().nodename.encode() + b"\n", "no output")
            shown = api.inspect_container(made["Id"])
            assert (shown["State"]["Status"], shown["Config"]["Labels"]) == ("running", {"a": "", "b": ""})
            assert [each["Id"] for each in api.containers(filters={"id": made["Id"]})] == [made["Id"]]
            run = api.exec_create(made["Id"], "echo low")
            assert api.exec_start(run["Id"]) == b"low\n"
            api.stop(made["Id"], timeout=0)
            assert api.wait(made["Id"])["StatusCode"] == 137
            assert "/etc" not in [each["Path"] for each in api.diff(made["Id"]) or []]
            image = api.commit(made["Id"], repository=f"py/low{uuid.uuid4().hex[:8]}")
            assert api.inspect_image(image["Id"])["Id"] == image["Id"]
            assert image["Id"] in [each["Id"] for each in api.images(all=True)]
            api.remove_image(image["Id"], force=True)
        finally:
            api.remove_container(made["Id"], force=True, v=True)
        if version == "1.24":
            with pytest.raises(failures.InvalidVersion):
                api.prune_containers()  # docker-py refuses by itself
    finally:
        api.close()
