"""docker cp and berth cp: out, in, running, stopped, read-only, volumes; and archives and links that want to get out."""

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine, mounts, read, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]
SETUP = "mkdir -p /d/sub; echo hi >/d/f; ln -s f /d/l; ln -s /d /ld; chown 5:6 /d/f; chmod 4750 /d/f; ln -s /nowhere /dang; exec sleep 1000"


def cp(engine: Engine, tool: str, *words: str, code: int = 0, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """`docker cp` or `berth cp`."""
    command = ["docker", "cp"] if tool == "docker" else [sys.executable, "-m", "berth.cli", "cp"]
    env = {**engine.env, "PYTHONPATH": f"{REPOSITORY}/src"}
    done = subprocess.run([*command, *words], env=env, capture_output=True, timeout=60, input=input or b"")
    assert done.returncode == code, f"{command} {words}: exit {done.returncode}\n{done.stdout[:500]!r}\n{done.stderr!r}"
    return done


def curl(engine: Engine, method: str, path: str, data: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of a request."""
    body = ["--data-binary", "@-"] if data is not None else []
    command = ["curl", "-s", "-X", method, "-w", "\n%{http_code}", *body, "--unix-socket", f"{engine.exec}/berth.sock", f"http://x{path}"]
    out = subprocess.run(command, input=data, capture_output=True, timeout=60, check=True).stdout
    text, _, status = out.rpartition(b"\n")
    return int(status), text


def ready(engine: Engine, up: Up, *options: str) -> str:
    identity = up(*options, command=("sh", "-c", SETUP))
    wait_until(lambda: read(f"/proc/{engine.pid(identity)}/cmdline").startswith("sleep"), "the shell")
    return identity


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {info.name: info for info in tar.getmembers()}


def make_tar(*infos: tuple[str, bytes, str, bytes]) -> bytes:
    """(name, kind, link, data) of each member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, link, data in infos:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("tool", ["docker", "berth"])
@pytest.mark.parametrize("stopped", [False, True])
def test_out(engine: Engine, up: Up, tmp_path: Path, tool: str, stopped: bool) -> None:
    c = ready(engine, up)
    if stopped:
        engine.docker("stop", "-t", "0", c)
    found = members(cp(engine, tool, f"{c}:/d", "-").stdout)
    assert list(found) == ["d", "d/f", "d/l", "d/sub"]
    assert (found["d/f"].uid, found["d/f"].gid, found["d/f"].mode & 0o7777, found["d/f"].size) == (5, 6, 0o4750, 3)
    assert found["d/l"].linkname == "f"
    assert list(members(cp(engine, tool, f"{c}:/ld", "-").stdout)) == ["ld"]
    assert list(members(cp(engine, tool, f"{c}:/ld/", "-").stdout)) == ["ld", "ld/f", "ld/l", "ld/sub"]
    assert "./f" in members(cp(engine, tool, f"{c}:/ld/.", "-").stdout)
    cp(engine, tool, f"{c}:/d", f"{tmp_path}/new")
    assert (tmp_path / "new/f").read_text() == "hi\n"
    assert (tmp_path / "new/f").stat().st_uid == 0  # whose files they are where they go
    cp(engine, tool, f"{c}:/d", f"{tmp_path}/new")
    assert os.readlink(tmp_path / "new/d/l") == "f"
    cp(engine, tool, "-L", f"{c}:/d/l", f"{tmp_path}/")
    assert (tmp_path / "l").read_text() == "hi\n"
    assert not (tmp_path / "l").is_symlink()
    cp(engine, tool, f"{c}:/evil/etc/hostname", f"{tmp_path}/mine")
    if not stopped:
        assert (tmp_path / "mine").read_text() == c[:12] + "\n"
    assert not [line for line in mounts() - engine.mounts_before if engine.top in line]


@pytest.mark.parametrize("tool", ["docker", "berth"])
@pytest.mark.parametrize("stopped", [False, True])
def test_in(engine: Engine, up: Up, tmp_path: Path, tool: str, stopped: bool) -> None:
    c = ready(engine, up)
    if stopped:
        engine.docker("stop", "-t", "0", c)
    (tmp_path / "a").write_text("new\n")
    (tmp_path / "dir/deep").mkdir(parents=True)
    (tmp_path / "dir/deep/file").write_text("deep\n")
    os.chown(tmp_path / "a", 1000, 1000)
    for source, target in (("a", "/d"), ("a", "/d/b"), ("a", "/dang"), ("a", "/d/l"), ("a", "/ld/sub/"), ("dir", "/d"), ("dir/.", "/d/other")):
        cp(engine, tool, f"{tmp_path}/{source}", f"{c}:{target}")
    if stopped:
        engine.docker("start", c)
    script = "cat /d/a /d/b /nowhere /d/f /d/sub/a; cat /d/dir/deep/file /d/other/deep/file; stat -c %u:%g:%a /d/a; readlink /d/l; readlink /dang"
    if stopped:
        engine.docker("stop", "-t", "0", c)
        seen = "".join(
            tarfile.open(fileobj=io.BytesIO(cp(engine, tool, f"{c}:/d/{name}", "-").stdout)).extractfile(os.path.basename(name)).read().decode()  # type: ignore[union-attr]
            for name in ("a", "b", "sub/a", "dir/deep/file")
        )
        assert seen == "new\n" * 3 + "deep\n"
    else:
        assert engine.docker("exec", c, "sh", "-c", script).stdout == "new\n" * 5 + "deep\n" * 2 + "1000:1000:644\nf\n/nowhere\n"


def test_errors_in_dockers_words(engine: Engine, up: Up, tmp_path: Path) -> None:
    c = ready(engine, up, "--name", "wordy")
    (tmp_path / "a").write_text("a")
    (tmp_path / "dir").mkdir()
    for words, text in (
        (("wordy:/nope", "-"), "Error response from daemon: Could not find the file /nope in container wordy"),
        (("nope:/x", "-"), "Error response from daemon: No such container: nope"),
        (("wordy:/d/f/x", "-"), "not a directory"),
        ((f"{tmp_path}/a", "wordy:/no/where"), "Error response from daemon: Could not find the file /no in container wordy"),
        ((f"{tmp_path}/a", "wordy:/d/new/"), "no such directory"),
        ((f"{tmp_path}/dir", "wordy:/d/f"), "cannot copy directory"),
        ((f"{tmp_path}/gone", "wordy:/"), f"lstat {tmp_path}/gone: no such file or directory"),
        ((f"{tmp_path}/a/", "wordy:/"), "not a directory"),
        (("wordy:/d", f"{tmp_path}/a"), "cannot copy directory"),
        (("wordy:/d/f", f"{tmp_path}/no/y"), f'invalid output path: directory "{tmp_path}/no" does not exist'),
        (("wordy:/a", "wordy:/b"), "copying between containers is not supported"),
        (("wordy:/proc/version", "-"), "Could not find the file /proc/version in container wordy"),
    ):
        for tool in ("docker", "berth"):
            assert text in cp(engine, tool, *words, code=1).stderr.decode()
    status, body = curl(engine, "PUT", f"/containers/{c}/archive?path=/d/f", b"")
    assert (status, json.loads(body)["message"]) == (400, "extraction point is not a directory")
    assert curl(engine, "GET", f"/containers/{c}/archive")[0] == 400
    assert curl(engine, "PUT", f"/containers/{c}/archive?path=/d", b"junk" * 400)[0] == 400
    for name, kind, base in (("f", tarfile.DIRTYPE, "/d"), ("sub", tarfile.REGTYPE, "/d")):
        data = make_tar((name, kind, "", b""))
        status, body = curl(engine, "PUT", f"/containers/{c}/archive?path={base}&noOverwriteDirNonDir=1", data)
        assert status == 400
        assert b"cannot overwrite" in body
        assert curl(engine, "PUT", f"/containers/{c}/archive?path={base}", data)[0] == 200


def test_read_only_and_volumes(engine: Engine, up: Up, tmp_path: Path) -> None:
    volume, source = tmp_path / "v", tmp_path / "a"
    volume.mkdir()
    source.write_text("x")
    c = up("--read-only", "-v", f"{volume}:/ro:ro", "-v", f"{volume}:/rw", "--tmpfs", "/t")
    for stop in (False, True):
        if stop:
            engine.docker("stop", "-t", "0", c)
        for target, text in (("/", b"container rootfs is marked read-only"), ("/ro", b"mounted volume is marked read-only")):
            assert text in cp(engine, "docker", str(source), f"{c}:{target}", code=1).stderr
        cp(engine, "docker", str(source), f"{c}:/rw/{stop}")
        assert (volume / str(stop)).read_text() == "x"
        assert f"ro/{stop}" in members(cp(engine, "docker", f"{c}:/ro", "-").stdout)


def test_archive_mode_gives_files_to_the_containers_user(engine: Engine, up: Up, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    c = up("-u", "alice")
    for tool in ("docker", "berth"):
        cp(engine, tool, "-a", f"{tmp_path}/a", f"{c}:/tmp/{tool}")
        assert engine.docker("exec", c, "stat", "-c", "%u:%g", f"/tmp/{tool}").stdout == "1000:1000\n"


HOSTILE = {
    "dotdot": [("../../../../../../../../var/tmp/berth-evil", tarfile.REGTYPE, "", b"x")],
    "absolute": [("/var/tmp/berth-evil", tarfile.REGTYPE, "", b"x")],
    "a link of its own": [("l", tarfile.SYMTYPE, "/var/tmp", b""), ("l/berth-evil", tarfile.REGTYPE, "", b"x")],
    "a link of the image": [("evil/var/tmp/berth-evil", tarfile.REGTYPE, "", b"x")],
    "many levels up": [("evil-up/var/tmp/berth-evil", tarfile.REGTYPE, "", b"x")],
    "hard link": [("h", tarfile.LNKTYPE, "/../../../../../../etc/hostname", b"")],
    "hard link through a link": [("h", tarfile.LNKTYPE, "evil/../../../../etc/hostname", b"")],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("stopped", [False, True])
def test_hostile_archive_stays_inside(engine: Engine, up: Up, name: str, stopped: bool) -> None:
    before = os.stat("/etc/hostname").st_nlink
    c = up()
    engine.docker("exec", c, "mkdir", "-p", "/var/tmp")
    if stopped:
        engine.docker("stop", "-t", "0", c)
    status, _ = curl(engine, "PUT", f"/containers/{c}/archive?path=/", make_tar(*HOSTILE[name]))
    assert status in (200, 400)
    assert not os.path.lexists("/var/tmp/berth-evil")
    assert os.stat("/etc/hostname").st_nlink == before


def test_links_of_a_container_stay_inside(engine: Engine, up: Up) -> None:
    c = up(command=("sh", "-c", "ln -s /proc/1/root /r; ln -s /etc /e; ln -s /dev/zero /z; exec sleep 1000"))
    wait_until(lambda: read(f"/proc/{engine.pid(c)}/cmdline").startswith("sleep"), "the shell")
    for path in ("/evil/etc/hostname", "/evil-up/etc/hostname", "/e/hostname", "/evil/../evil/evil/etc/hostname"):
        status, body = curl(engine, "GET", f"/containers/{c}/archive?path={urllib.parse.quote(path)}")
        assert status == 200
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            inner = tar.extractfile("hostname")
            assert inner is not None
            assert inner.read().decode() == c[:12] + "\n"
    assert curl(engine, "GET", f"/containers/{c}/archive?path=/r/etc/hostname")[0] == 400
    # a device is copied as what it is, never opened
    assert members(curl(engine, "GET", f"/containers/{c}/archive?path=/dev/zero")[1])["zero"].ischr()


def test_racing_links(engine: Engine, up: Up) -> None:
    """A directory and a link to the host's own name for it, swapped as fast as a container can."""
    script = "mkdir /a /b; ln -s /../../../../var/tmp /l; while :; do mv -T /a /t; mv -T /l /a; mv -T /a /l; mv -T /t /a; done"
    c = up(command=("sh", "-c", script))
    data = make_tar(*(("a/berth-evil", tarfile.REGTYPE, "", b"x") for _ in range(50)))
    for _ in range(20):
        assert curl(engine, "PUT", f"/containers/{c}/archive?path=/", data)[0] in (200, 400)
        assert curl(engine, "GET", f"/containers/{c}/archive?path=/a/")[0] in (200, 400, 404, 409)
    assert not os.path.lexists("/var/tmp/berth-evil")


def test_deep_and_large(engine: Engine, up: Up, tmp_path: Path) -> None:
    c = up(command=("sh", "-c", "i=0; mkdir /deep; cd /deep; while [ $i -lt 600 ]; do mkdir x; cd x; i=$((i+1)); done; head -c 50000001 /dev/urandom >/big; exec sleep 1000"))
    wait_until(lambda: read(f"/proc/{engine.pid(c)}/cmdline").startswith("sleep"), "the shell", 30)
    assert len(members(curl(engine, "GET", f"/containers/{c}/archive?path=/deep")[1])) == 601
    cp(engine, "docker", f"{c}:/big", str(tmp_path))
    cp(engine, "berth", f"{tmp_path}/big", f"{c}:/back")
    engine.docker("exec", c, "cmp", "/big", "/back")


def test_user_namespace(userns_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    c = userns_engine.up(command=("sh", "-c", "echo hi >/mine; chown 7:8 /mine; exec sleep 1000"))
    for stop in (False, True):
        if stop:
            userns_engine.docker("stop", "-t", "0", c)
        else:
            wait_until(lambda: read(f"/proc/{userns_engine.pid(c)}/cmdline").startswith("sleep"), "the shell")
        found = members(cp(userns_engine, "docker", f"{c}:/mine", "-").stdout)["mine"]
        assert (found.uid, found.gid) == (7, 8)
        etc = members(cp(userns_engine, "docker", f"{c}:/etc/passwd", "-").stdout)["passwd"]
        assert (etc.uid, etc.gid) == (0, 0)
        cp(userns_engine, "docker", f"{tmp_path}/a", f"{c}:/etc/in-{stop}")
    userns_engine.docker("start", c)
    assert userns_engine.docker("exec", c, "stat", "-c", "%u:%g", "/etc/in-True", "/etc/in-False", "/etc").stdout == "0:0\n0:0\n0:0\n"
    userns_engine.rm(c)


def test_archive_of_a_created_container(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("echo from outside\n")
    c = engine.docker("create", "--network", "none", "bb", "sh", "/a").stdout.strip()
    cp(engine, "docker", f"{tmp_path}/a", f"{c}:/")
    assert engine.docker("start", "-a", c).stdout == "from outside\n"
    engine.rm(c)


def test_slow_clients_hold_nobody(engine: Engine, up: Up) -> None:
    """More of them than the engine has threads: half of a request, and an answer that nobody reads."""
    c = up(command=("sh", "-c", "head -c 20000000 /dev/urandom >/big; exec sleep 1000"))
    wait_until(lambda: read(f"/proc/{engine.pid(c)}/cmdline").startswith("sleep"), "the shell")
    assert engine.process
    before = len(os.listdir(f"/proc/{engine.process.pid}/fd"))
    clients = []
    for number in range(40):
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{engine.exec}/berth.sock")
        if number % 2:
            client.sendall(f"GET /containers/{c}/archive?path=/big HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        else:
            head = f"PUT /containers/{c}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
            client.sendall(head.encode() + make_tar(("a", tarfile.REGTYPE, "", b"x" * 3000))[:2000])
        clients.append(client)
    assert engine.docker("exec", c, "echo", "there").stdout == "there\n"
    assert members(cp(engine, "docker", f"{c}:/etc/passwd", "-").stdout)
    assert engine.docker("diff", c).stdout
    for client in clients:
        client.close()
    wait_until(lambda: len(os.listdir(f"/proc/{engine.process.pid}/fd")) <= before + 4, "descriptors of clients that left")  # type: ignore[union-attr]


def test_client_that_leaves_a_stopped_container(engine: Engine, up: Up) -> None:
    """It holds the container's lock only as long as it sends."""
    c = up()
    engine.docker("stop", "-t", "0", c)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{engine.exec}/berth.sock")
        head = f"PUT /containers/{c}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        client.sendall(head.encode() + make_tar(("a", tarfile.REGTYPE, "", b"x" * 3000))[:2000])
        starting = subprocess.Popen(["docker", "start", c], env=engine.env, stdout=subprocess.DEVNULL)
    assert starting.wait(60) == 0
    assert engine.docker("exec", c, "echo", "there").stdout == "there\n"
