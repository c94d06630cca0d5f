"""Volumes: kept, copied into, used, counted, removed; seen by findmnt, stat, Docker's CLI and docker-py."""

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator

import pytest
from harness import Engine, mounts, wait_until
from parity import Peer

pytestmark = pytest.mark.root


@pytest.fixture
def names(engine: Engine) -> Iterator[Callable[[str], str]]:
    """Names of volumes that are removed after the test, with what has them."""
    made: list[str] = []

    def name(text: str) -> str:
        made.append(f"t-{text}")
        return made[-1]

    yield name
    for each in made:
        users = engine.docker("ps", "-aq", "--filter", f"volume={each}").stdout.split()
        engine.rm(*users)
    if made:
        engine.docker("volume", "rm", "-f", *made)


@pytest.fixture(scope="module")
def content(engine: Engine) -> Iterator[str]:
    """An image with a directory of all kinds of files, and another place that leads there."""
    script = """
mkdir -p /data/sub/deep /data/empty; cd /data; echo one > file; ln file hard; ln -s file soft; ln -s /etc/passwd out
mkfifo pipe; mknod null c 1 3; echo s > suid; chown 1000:50 suid sub; chmod 4750 suid; chmod 2775 sub; chmod 0711 /data; chown 7:8 /data
truncate -s 8M hole; echo x > sub/deep/x; chmod 400 sub/deep/x; touch -d '2001-02-03 04:05:06' file; ln -s /data /leads; touch /plainfile
"""
    made = engine.up(command=("sh", "-c", f"{script}\nsleep 1000"))
    engine.docker("exec", made, "sh", "-c", "until [ -e /plainfile ]; do sleep 0.05; done")
    os.setxattr(f"/proc/{engine.pid(made)}/root/data/file", "user.kind", b"test")
    engine.docker("commit", "--change", "VOLUME /data", made, "t-content")
    engine.docker("commit", made, "t-plain")
    engine.rm(made)
    yield "t-plain"
    engine.docker("rmi", "t-content", "t-plain")


def mountpoint(engine: Engine, name: str) -> str:
    return engine.docker("volume", "inspect", "-f", "{{.Mountpoint}}", name).stdout.strip()


def below(engine: Engine) -> set[str]:
    """What is mounted below the engine's volumes, as findmnt sees it."""
    found = subprocess.run(["findmnt", "-rn", "-o", "TARGET"], capture_output=True, text=True, check=True).stdout.split()
    return {target for target in found if target.startswith(f"{engine.data}/volumes/")}


def volumes(engine: Engine) -> set[str]:
    return set(engine.docker("volume", "ls", "-q").stdout.split())


# -- keeping ------------------------------------------------------------------------------------------------


def test_a_volume_outlives_its_containers(engine: Engine, names: Callable[[str], str]) -> None:
    name = names("keep")
    engine.sh("echo kept > /d/file; chown 1000 /d/file", "-v", f"{name}:/d")
    path = mountpoint(engine, name)
    assert path == f"{engine.data}/volumes/{name}/_data"
    with open(f"{path}/file") as file:
        assert (file.read(), os.fstat(file.fileno()).st_uid) == ("kept\n", 1000)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    assert engine.sh("cat /other/file; touch /other/x 2>&1 || true", "-v", f"{name}:/other:ro") == "kept\ntouch: /other/x: Read-only file system\n"
    line = next(line for line in engine.sh("cat /proc/self/mountinfo", "-v", f"{name}:/d").splitlines() if " /d " in line)
    assert line.split()[3].endswith(f"/volumes/{name}/_data")


def test_two_share_one(engine: Engine, names: Callable[[str], str], up: Callable[..., str]) -> None:
    name = names("share")
    first = up("-v", f"{name}:/a")
    engine.docker("exec", first, "sh", "-c", "echo seen > /a/f")
    assert engine.sh("cat /b/f", "--mount", f"src={name},dst=/b,readonly") == "seen\n"


def test_anonymous_volumes_go_with_their_containers(engine: Engine) -> None:
    before = volumes(engine)
    kept = engine.docker("create", "--network", "none", "-v", "/a", "--mount", "dst=/b", "bb", "true").stdout.strip()
    made = volumes(engine) - before
    assert len(made) == 2
    assert all(len(name) == 64 for name in made)
    engine.docker("rm", kept)
    assert volumes(engine) - before == made
    engine.docker("volume", "rm", *made)
    removed = engine.docker("create", "--network", "none", "-v", "/a", "bb", "true").stdout.strip()
    engine.docker("rm", "-v", removed)
    engine.sh("touch /a/x", "-v", "/a")
    wait_until(lambda: volumes(engine) == before, "anonymous volumes of --rm")
    assert {name for name in os.listdir(f"{engine.data}/volumes")} >= before
    assert not [name for name in os.listdir(f"{engine.data}/volumes") if len(name) == 64 and name not in before]


def test_volumes_from(engine: Engine, names: Callable[[str], str], up: Callable[..., str]) -> None:
    name, before = names("from"), volumes(engine)
    source = up("-v", f"{name}:/n", "-v", "/anon", "-v", "/usr:/h:ro", "--tmpfs", "/t")
    engine.docker("exec", source, "sh", "-c", "echo x > /anon/x; echo y > /n/y")
    seen = engine.sh("cat /anon/x /n/y; touch /n/z; touch /h/z; ls -d /t", "--volumes-from", f"{source}:ro", code=1)
    assert seen.startswith("x\ny\n")
    assert seen.count("Read-only file system") == 2
    user = engine.docker("create", "--network", "none", "--volumes-from", source, "-v", "/more", "bb", "true").stdout.strip()
    engine.docker("rm", "-f", "-v", source)
    anonymous = volumes(engine) - before - {name}
    assert len(anonymous) == 2  # the one they share, and its own
    engine.docker("rm", "-v", user)
    assert volumes(engine) - before == {name}


def test_an_images_volume(engine: Engine, content: str, names: Callable[[str], str]) -> None:
    before = volumes(engine)
    assert engine.docker("run", "--rm", "--network", "none", "t-content", "cat", "/data/sub/deep/x").stdout == "x\n"
    identity = engine.docker("create", "--network", "none", "t-content", "true").stdout.strip()
    (point,) = json.loads(engine.docker("inspect", identity).stdout)[0]["Mounts"]
    assert (point["Type"], point["Destination"], point["Driver"], point["RW"], point["Mode"], point["Propagation"]) == ("volume", "/data", "local", True, "", "")
    assert os.path.exists(f"{point['Source']}/sub/deep/x")
    engine.docker("rm", "-v", identity)
    name = names("given")
    engine.docker("run", "--rm", "--network", "none", "-v", f"{name}:/data", "t-content", "true")
    wait_until(lambda: volumes(engine) - before == {name}, "an anonymous volume beside the one that was given")


# -- copying ------------------------------------------------------------------------------------------------


def listing(engine: Engine, *options: str, image: str, path: str = "/data") -> list[str]:
    """Names, kinds, modes, owners, sizes, blocks, times, contents of what is at a path."""
    script = f"cd {path}; find . | sort | while read f; do stat -c '%n %F %a %u %g %t:%T %Y' \"$f\"; [ -f \"$f\" ] && md5sum < \"$f\"; readlink \"$f\"; done; true"
    return engine.docker("run", "--rm", "--network", "none", *options, image, "sh", "-c", script).stdout.splitlines()


def test_an_images_files_are_copied(engine: Engine, content: str, names: Callable[[str], str]) -> None:
    name = names("copy")
    wanted = listing(engine, image=content)
    assert len(wanted) > 20
    assert listing(engine, "-v", f"{name}:/data", image=content) == wanted
    path = mountpoint(engine, name)
    assert os.getxattr(f"{path}/file", "user.kind") == b"test"
    assert os.stat(f"{path}/file").st_ino == os.stat(f"{path}/hard").st_ino
    top = os.stat(path)
    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (7, 8, 0o711)
    assert os.listdir(os.path.dirname(path)) == ["_data"]


def test_only_an_empty_volume_is_filled(engine: Engine, content: str, names: Callable[[str], str]) -> None:
    full, bare, made = names("full"), names("bare"), names("made")
    engine.sh("touch /d/mine", "-v", f"{full}:/d")
    run = ("run", "--rm", "--network", "none")
    assert engine.docker(*run, "-v", f"{full}:/data", content, "ls", "/data").stdout == "mine\n"
    assert engine.docker(*run, "-v", f"{bare}:/data:nocopy", content, "ls", "/data").stdout == ""
    assert engine.docker(*run, "--mount", f"src={bare},dst=/data,volume-nocopy", content, "ls", "/data").stdout == ""
    identity = engine.docker("create", "--network", "none", "-v", f"{made}:/data", content, "true").stdout.strip()
    path = mountpoint(engine, made)
    assert os.path.exists(f"{path}/sub/deep/x"), "filled when the container is made, as by Docker"
    subprocess.run(["find", path, "-mindepth", "1", "-delete"], check=True)
    engine.docker("start", "-a", identity)
    assert os.listdir(path) == [], "what somebody has emptied since stays empty"


def test_where_a_link_of_the_image_leads(engine: Engine, content: str, names: Callable[[str], str]) -> None:
    """`/leads` is a link to /data, `/evil` one to / of the container: never of the host."""
    first, second = names("leads"), names("evil")
    run = ("run", "--rm", "--network", "none")
    assert engine.docker(*run, "-v", f"{first}:/leads", content, "cat", "/leads/sub/deep/x").stdout == "x\n"
    engine.docker("create", "--network", "none", "--name", "t-evil", "-v", f"{second}:/evil/etc", content, "true")
    assert sorted(os.listdir(mountpoint(engine, second))) == ["group", "passwd", "plain"]
    engine.docker("rm", "t-evil")


def test_a_file_where_a_volume_shall_be(engine: Engine, content: str, names: Callable[[str], str]) -> None:
    name, before = names("onfile"), volumes(engine)
    done = engine.docker("create", "--network", "none", "-v", f"{name}:/plainfile", "-v", "/anon", content, "true", code=1)
    assert "cannot mount volume over existing file, file exists /plainfile" in done.stderr
    assert volumes(engine) == before, "neither the container nor its volumes are there"
    assert not [n for n in os.listdir(f"{engine.data}/volumes") if n not in before]


def test_a_volume_in_use_is_filled_in_its_place(engine: Engine, content: str, names: Callable[[str], str], up: Callable[..., str]) -> None:
    """A running container has it mounted, empty: what another one brings is seen by both."""
    name = names("inplace")
    first = up("-v", f"{name}:/v")
    engine.docker("run", "--rm", "--network", "none", "-v", f"{name}:/data", content, "true")
    assert engine.docker("exec", first, "cat", "/v/sub/deep/x").stdout == "x\n"


def test_owners_in_a_user_namespace(userns_engine: Engine) -> None:
    engine = userns_engine
    seen = engine.sh("stat -c '%u %g' /d /etc/passwd; echo x > /d/f; chown 5 /d/f", "-v", "t-owner:/d", "-v", "t-filled:/etc")
    assert seen == "0 0\n0 0\n"
    path = mountpoint(engine, "t-owner")
    assert (os.stat(path).st_uid, os.stat(f"{path}/f").st_uid) == (200000, 200005)
    filled = mountpoint(engine, "t-filled")
    assert os.stat(f"{filled}/passwd").st_uid == 200000
    engine.docker("volume", "rm", "t-owner", "t-filled")


# -- use and removal ------------------------------------------------------------------------------------------


def test_what_a_container_has_is_not_removed(engine: Engine, names: Callable[[str], str]) -> None:
    name = names("used")
    ids = sorted(engine.docker("create", "--network", "none", "-v", f"{name}:/d", "bb", "true").stdout.strip() for _ in range(2))
    done = engine.docker("volume", "rm", name, code=1)
    assert done.stderr.startswith(f"Error response from daemon: remove {name}: volume is in use - [")
    assert all(identity in done.stderr for identity in ids)
    assert engine.docker("volume", "rm", "-f", name, code=1).stderr == done.stderr
    engine.docker("rm", *ids)
    engine.docker("volume", "rm", name)
    assert not os.path.exists(f"{engine.data}/volumes/{name}")
    assert engine.docker("volume", "rm", name, code=1).stderr == f"Error response from daemon: get {name}: no such volume\n"


def test_made_again_with_the_same_and_with_other_options(engine: Engine, names: Callable[[str], str]) -> None:
    name = names("again")
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m")
    for words in (options, options, ()):
        assert engine.docker("volume", "create", *words, name).stdout == f"{name}\n"
    done = engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", name, code=1)
    assert "a volume of that name is there with other options: device=tmpfs, o=size=1m, type=tmpfs" in done.stderr
    assert engine.docker("volume", "inspect", "-f", "{{.Options.o}}", name).stdout == "size=1m\n"


def test_prune(own_engine: Engine) -> None:
    engine = own_engine
    engine.docker("volume", "create", "--label", "a=b", "named")
    engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "optioned")
    anonymous = engine.docker("volume", "create").stdout.strip()
    used = engine.docker("create", "--network", "none", "-v", "/x", "-v", "used:/u", "bb", "true").stdout.strip()
    with open(f"{mountpoint(engine, anonymous)}/f", "wb") as file:
        file.write(b"12345")
    mine = {point["Name"] for point in json.loads(engine.docker("inspect", used).stdout)[0]["Mounts"]}
    pruned = engine.docker("volume", "prune", "-f").stdout
    assert pruned == f"Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: 5B\n"
    assert volumes(engine) == {"named", "optioned"} | mine
    assert engine.docker("volume", "prune", "-af", "--filter", "label!=a").stdout == "Total reclaimed space: 0B\n"
    assert engine.docker("volume", "prune", "-af").stdout == "Deleted Volumes:\nnamed\n\nTotal reclaimed space: 0B\n"
    engine.docker("rm", used)
    assert volumes(engine) == {"optioned"} | mine
    assert engine.docker("system", "prune", "-f", "--volumes").stdout.startswith("Deleted Volumes:\n")
    assert volumes(engine) == {"optioned", "used"}


def test_system_df(engine: Engine, names: Callable[[str], str]) -> None:
    name = names("df")
    engine.sh("dd if=/dev/zero of=/d/f bs=1000 count=3 2>/dev/null; ln /d/f /d/g", "-v", f"{name}:/d")
    engine.docker("create", "--network", "none", "-v", f"{name}:/d", "bb", "true")
    found = Peer(f"{engine.exec}/berth.sock").ask("GET", "/system/df?type=volume").body
    assert [v["UsageData"] for v in found["Volumes"] if v["Name"] == name] == [{"RefCount": 1, "Size": 3000}]
    assert set(found) == {"Volumes"}
    lines = [line.split() for line in engine.docker("system", "df", "-v").stdout.splitlines()]
    assert [name, "1", "3kB"] in lines


# -- options ---------------------------------------------------------------------------------------------------


def test_mounted_on_first_use_and_unmounted_at_last_use(engine: Engine, names: Callable[[str], str], up: Callable[..., str]) -> None:
    name = names("memory")
    engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=1000,noexec", name)
    path = mountpoint(engine, name)
    assert path not in below(engine)
    first, second = up("-v", f"{name}:/m"), up("-v", f"{name}:/n:ro")
    found = subprocess.run(["findmnt", "-n", "-o", "FSTYPE,SIZE,OPTIONS", path], capture_output=True, text=True, check=True).stdout.split()
    assert found[:2] == ["tmpfs", "1M"]
    assert {"noexec", "uid=1000", "size=1024k"} <= set(found[2].split(","))
    engine.docker("exec", first, "sh", "-c", "echo shared > /m/f")
    assert engine.docker("exec", second, "cat", "/n/f").stdout == "shared\n"
    engine.rm(first)
    assert path in below(engine), "the other one has it still"
    engine.docker("restart", "-t", "0", second)
    engine.docker("kill", second)
    wait_until(lambda: path not in below(engine), "a volume's file system that nobody uses")
    engine.docker("start", second)
    assert path in below(engine)
    assert engine.docker("exec", second, "ls", "/n").stdout == ""
    engine.rm(second)
    wait_until(lambda: path not in below(engine), "a volume's file system that nobody uses")


def test_content_of_the_image_in_a_volume_in_memory(engine: Engine, content: str, names: Callable[[str], str]) -> None:
    name = names("filled")
    engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", name)
    for _ in range(2):  # it is empty each time
        assert engine.docker("run", "--rm", "--network", "none", "-v", f"{name}:/data", content, "sh", "-c", "ls -A /data; cat /data/sub/deep/x").stdout == (
            "empty\nfile\nhard\nhole\nnull\nout\npipe\nsoft\nsub\nsuid\nx\n"
        )
    wait_until(lambda: not below(engine), "a volume's file system that nobody uses")


def test_a_directory_of_the_host_by_name(engine: Engine, names: Callable[[str], str], tmp_path: object) -> None:
    name = names("bound")
    (tmp_path / "f").write_text("of the host\n")  # type: ignore[operator]
    engine.docker("volume", "create", "--opt", "type=none", "--opt", "o=bind,ro", "--opt", f"device={tmp_path}", name)
    assert engine.sh("cat /d/f; touch /d/x 2>&1 || true", "-v", f"{name}:/d") == "of the host\ntouch: /d/x: Read-only file system\n"
    wait_until(lambda: not below(engine), "a volume's file system that nobody uses")
    engine.docker("volume", "rm", name)
    assert (tmp_path / "f").exists()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "none", "o": "bind", "device": "/no/such"}, "failed to mount local volume: mount /no/such:"),
        ({"type": "nosuchfs", "device": "x"}, "no such device"), ({"type": "tmpfs", "device": "tmpfs", "o": "nonsense=1"}, "invalid argument"),
        ({"type": "nfs", "device": ":/x", "o": "addr=no.such.host.invalid"}, "error resolving passed in network volume address no.such.host.invalid"),
    ],
)  # fmt: skip
def test_what_cannot_be_mounted(engine: Engine, names: Callable[[str], str], options: dict[str, str], message: str) -> None:
    name = names("wrong")
    engine.docker("volume", "create", *[word for key, value in options.items() for word in ("--opt", f"{key}={value}")], name)
    done = engine.docker("run", "--rm", "--network", "none", "-v", f"{name}:/d", "bb", "true", code=None)
    assert done.returncode in (125, 127)  # Docker's command line looks for "no such file"
    assert message in done.stderr
    assert not below(engine)


def test_a_size_that_nothing_would_hold_to_is_refused(engine: Engine) -> None:
    """Where the file system keeps project quotas: tests/integration/v2_host.py."""
    done = engine.docker("volume", "create", "--opt", "size=1m", "t-limited", code=1)
    assert "create t-limited: quota size requested but no quota support: the file system of" in done.stderr
    assert "prjquota" in done.stderr
    assert "t-limited" not in volumes(engine)


# -- looking ----------------------------------------------------------------------------------------------------


def test_files_of_a_container_that_does_not_run(engine: Engine, names: Callable[[str], str], tmp_path: object) -> None:
    """docker cp sees its volumes, also of one that was never started; diff and export do not."""
    plain, memory = names("cp"), names("cpm")
    engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", memory)
    engine.sh("echo in > /d/f", "-v", f"{plain}:/d")
    made = engine.docker("create", "--network", "none", "-v", f"{plain}:/a/b", "-v", f"{memory}:/m", "-v", f"{plain}:/r:ro", "bb", "true").stdout.strip()
    engine.docker("cp", f"{made}:/a/b/f", f"{tmp_path}/out")
    with open(f"{tmp_path}/out") as file:
        assert file.read() == "in\n"
    engine.docker("cp", f"{tmp_path}/out", f"{made}:/a/b/back")
    assert os.path.exists(f"{mountpoint(engine, plain)}/back")
    assert "mounted volume is marked read-only" in engine.docker("cp", f"{tmp_path}/out", f"{made}:/r/x", code=1).stderr
    wait_until(lambda: not below(engine), "a volume's file system that nobody uses")
    assert " /a/b/" not in engine.docker("diff", made).stdout
    names_ = subprocess.run(["tar", "-t"], input=subprocess.run(["docker", "export", made], env=engine.env, capture_output=True, check=True).stdout,
                            capture_output=True, check=True).stdout.decode().split()  # fmt: skip
    assert not [name for name in names_ if name.startswith("a/b/") and name != "a/b/"]


def test_lists_and_filters(engine: Engine, names: Callable[[str], str]) -> None:
    one, two = names("list-one"), names("list-two")
    engine.docker("volume", "create", "--label", "k=v", one)
    engine.docker("create", "--network", "none", "-v", f"{two}:/d", "--name", "t-list", "bb", "true")

    def listed(*filters: str) -> list[str]:
        words = [word for text in ("name=t-list", *filters) for word in ("--filter", text)]
        return engine.docker("volume", "ls", "-q", *words).stdout.split()

    assert listed() == [one, two]
    assert listed("dangling=true") == [one]
    assert listed("dangling=false") == [two]
    assert listed("label=k") == listed("label=k=v") == [one]
    assert listed("label=k=x") == listed("driver=nope") == []
    assert engine.docker("ps", "-a", "--filter", f"volume={two}", "--format", "{{.Names}} {{.Mounts}}").stdout == f"t-list {two}\n"
    assert engine.docker("ps", "-a", "--filter", "volume=/d", "--format", "{{.Names}}").stdout == "t-list\n"


def test_events(engine: Engine, names: Callable[[str], str]) -> None:
    """In Docker's order; see test_volumes_dockerd.py for the same of dockerd."""
    name = names("events")
    peer = Peer(f"{engine.exec}/berth.sock")
    since = json.loads(engine.docker("info", "-f", "json").stdout)["SystemTime"]
    engine.sh("true", "-v", f"{name}:/d:ro", "--name", "t-events")
    engine.docker("volume", "rm", name)
    found = peer.ask("GET", f"/events?since={since}&until=0s").body
    seen = [(e["Type"], e["Action"], e["Actor"]["ID"] == name) for e in found if e["Type"] in ("volume", "container") and e["Action"] != "attach"]
    assert seen == [
        ("volume", "create", True), ("container", "create", False), ("volume", "mount", True), ("container", "start", False),
        ("container", "die", False), ("volume", "unmount", True), ("container", "destroy", False), ("volume", "destroy", True),
    ]  # fmt: skip
    mounted = next(e for e in found if e["Action"] == "mount")["Actor"]["Attributes"]
    assert (mounted["destination"], mounted["driver"], mounted["read/write"], mounted["propagation"]) == ("/d", "local", "false", "")


def test_docker_py(engine: Engine) -> None:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=f"unix://{engine.exec}/berth.sock")
    try:
        volume = client.volumes.create("t-py", labels={"a": "b"})
        assert volume.attrs["Labels"] == {"a": "b"}
        output = client.containers.run("bb", "sh -c 'echo py > /v/f; cat /v/f'", volumes={"t-py": {"bind": "/v", "mode": "rw"}}, network_mode="none", remove=True)
        assert output == b"py\n"
        mount = docker.types.Mount("/w", "t-py", type="volume", read_only=True)
        assert client.containers.run("bb", "cat /w/f", mounts=[mount], network_mode="none", remove=True) == b"py\n"
        assert [found.name for found in client.volumes.list(filters={"label": "a=b"})] == ["t-py"]
        volume.remove()
        with pytest.raises(docker.errors.NotFound):
            client.volumes.get("t-py")
    finally:
        client.close()


def test_nothing_is_left_mounted(engine: Engine) -> None:
    assert not [line for line in mounts() if f"{engine.data}/volumes" in line]


# -- an engine that is killed -------------------------------------------------------------------------------------


def test_over_a_kill_of_the_engine(own_engine: Engine) -> None:
    """A file system that a container uses stays mounted; one that nobody uses any more goes."""
    engine = own_engine
    for name in ("stays", "goes"):
        engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", name)
    first, second = engine.up("-v", "stays:/s", "-v", "/anon"), engine.up("-v", "goes:/g")
    engine.docker("exec", first, "sh", "-c", "echo over > /s/f; echo anon > /anon/f")
    assert len(below(engine)) == 2
    pid = engine.pid(second)
    engine.kill()
    os.kill(pid, 9)
    engine.start()
    wait_until(lambda: below(engine) == {f"{engine.data}/volumes/stays/_data"}, "a file system of an ended container")
    assert engine.docker("exec", first, "cat", "/s/f", "/anon/f").stdout == "over\nanon\n"
    assert engine.docker("volume", "rm", "stays", code=1).stderr.startswith("Error response from daemon: remove stays: volume is in use")
    engine.docker("rm", "-f", "-v", first, second)
    wait_until(lambda: not below(engine), "a file system of a removed container")
    assert volumes(engine) == {"stays", "goes"}
