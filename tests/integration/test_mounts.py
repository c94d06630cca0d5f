"""Mounts of containers: of host paths with all their options, whose files are whose, parts of volumes, images, memory."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine, wait_until

pytestmark = pytest.mark.root
RUNTIMES = ("berth", "runc")


def line_of(engine: Engine, at: str, *options: str) -> list[str]:
    """The line of mountinfo about what is mounted there."""
    text = engine.sh("cat /proc/self/mountinfo", *options)
    return next(fields for line in text.splitlines() if (fields := line.split(" "))[4] == at)


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    """A person's directory: uid 1234, gid 4321."""
    directory = tmp_path / "own"
    directory.mkdir()
    (directory / "file").write_text("mine\n")
    for path in (directory, directory / "file"):
        os.chown(path, 1234, 4321)
    os.chmod(directory, 0o700)
    os.chmod(directory / "file", 0o600)
    return directory


def owner(path: Path) -> tuple[int, int]:
    found = subprocess.run(["stat", "-c", "%u %g", str(path)], capture_output=True, text=True, check=True).stdout.split()
    return int(found[0]), int(found[1])


# -- whose files are whose ------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("options", "ids"), [((), "0 0"), (("--user", "alice"), "1000 1000"), (("--user", "77:88", "--cap-drop", "ALL"), "77 88")])
def test_a_persons_files_are_the_containers_users(engine: Engine, owned: Path, runtime: str, options: tuple[str, ...], ids: str) -> None:
    """moby issue 2259. Nothing is chowned, and what is made belongs to the person."""
    script = "cat /m/file; stat -c '%u %g' /m /m/file; echo new > /m/new; mkdir /m/dir; ln -s x /m/link; mv /m/file /m/moved"
    seen = engine.sh(script, "--runtime", runtime, "-v", f"{owned}:/m:idmap", *options)
    assert seen == f"mine\n{ids}\n{ids}\n"
    assert {path.name: owner(path) for path in (owned, *owned.iterdir())} == dict.fromkeys(("own", "new", "dir", "link", "moved"), (1234, 4321))


def test_nobody_elses_files_can_be_made(engine: Engine, owned: Path) -> None:
    (owned / "roots").write_text("")
    os.chown(owned, 1234, 4321)
    seen = engine.sh("stat -c '%u' /m/roots; chown 5 /m/file; echo x > /m/x; chmod 4755 /m/x", "-v", f"{owned}:/m:idmap", "--user", "0")
    assert seen == "65534\nchown: /m/file: Value too large for defined data type\n"
    assert owner(owned / "file") == owner(owned / "x") == (1234, 4321)
    assert owner(owned / "roots") == (0, 0)
    denied = engine.sh("echo x > /m/y || true", "-v", f"{owned}:/m:idmap=alice", "--user", "0", code=None)
    assert "can't create" in denied, "root of the container is nobody there, as only alice is somebody"
    assert not (owned / "y").exists()


def test_other_spellings(engine: Engine, owned: Path) -> None:
    stat = "stat -c '%u %g' /m/file"
    assert engine.sh(stat, "-v", f"{owned}:/m:ro,idmap=alice") == "1000 1000\n"
    assert engine.sh(stat, "-v", f"{owned}:/m:idmap=77") == "77 0\n"
    assert engine.sh(stat, "-v", f"{owned}:/m:idmap=uids=1234-5-1;gids=4321-6-1") == "5 6\n"
    assert engine.sh(stat, "-v", f"{owned}/file:/m/file:idmap") == "0 0\n"
    made = engine.sh("touch /m/a; chown 9:9 /m/a", "-v", f"{owned}:/m:idmap=uids=1234-0-1#100-1-50;gids=4321-0-1#200-1-50")
    assert made == ""
    assert owner(owned / "a") == (108, 208)
    berth = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py", "run", "--rm", "--network", "none"]
    command = [*berth, "--mount", f"type=bind,src={owned},dst=/m,idmap", "bb", "sh", "-c", stat]
    assert subprocess.run(command, env=engine.env, capture_output=True, text=True, check=True).stdout == "0 0\n"


def test_of_a_volume(engine: Engine) -> None:
    engine.sh("chown 1234:4321 /d; touch /d/f; chown 1234:4321 /d/f", "-v", "t-idmap:/d")
    try:
        assert engine.sh("stat -c '%u %g' /d/f; touch /d/g", "-v", "t-idmap:/d:idmap", "--user", "alice") == "1000 1000\n"
        assert engine.sh("stat -c '%u %g' /d/g", "-v", "t-idmap:/d") == "1234 4321\n"
    finally:
        engine.docker("volume", "rm", "t-idmap")


def test_in_a_user_namespace(userns_engine: Engine, owned: Path) -> None:
    seen = userns_engine.sh("stat -c '%u %g' /m/file; echo x > /m/new", "-v", f"{owned}:/m:idmap")
    assert seen == "0 0\n"
    assert owner(owned / "new") == (1234, 4321)


@pytest.mark.parametrize(
    ("source", "option", "message"),
    [
        ("/proc", "idmap", "idmap of /proc: its file system, proc, cannot be idmapped here: invalid argument"),
        ("/tmp", "idmap=nobody-there", "unable to find user nobody-there: no matching entries in passwd file"),
        ("/tmp", "idmap=uids=0-0-1", "invalid idmap: expected both uids= and gids="), ("/tmp", "idmap=a b", "invalid idmap: 'a b'"),
    ],
)  # fmt: skip
def test_what_cannot_be_idmapped(engine: Engine, source: str, option: str, message: str) -> None:
    done = engine.docker("run", "--rm", "--network", "none", "-v", f"{source}:/m:{option}", "bb", "true", code=125)
    assert message in done.stderr


def test_a_file_system_beneath_that_cannot_be_idmapped(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", str(tmp_path / "inner")], check=True)
    try:
        done = engine.docker("run", "--rm", "--network", "none", "-v", f"{tmp_path}:/m:idmap", "bb", "true", code=125)
        assert f"or it is one of those mounted below it: {tmp_path}/inner (proc): bind-recursive=disabled leaves them out" in done.stderr
    finally:
        subprocess.run(["umount", str(tmp_path / "inner")], check=True)


# -- host paths -------------------------------------------------------------------------------------------------


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with a tmpfs mounted below it."""
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "nested", str(tmp_path / "sub")], check=True)
    yield tmp_path
    subprocess.run(["umount", "-R", str(tmp_path / "sub")], check=True)


@pytest.mark.parametrize(
    ("options", "top", "below"),
    [
        ("", True, True), ("readonly", False, False), ("readonly,bind-recursive=writable", False, True),
        ("readonly,bind-recursive=readonly,bind-propagation=rprivate", False, False), ("bind-recursive=disabled", True, None),
        ("bind-nonrecursive,readonly", False, None),
    ],
)  # fmt: skip
def test_read_only_and_what_is_beneath(engine: Engine, nested: Path, options: str, top: bool, below: bool | None) -> None:
    spec = f"type=bind,src={nested},dst=/m" + (f",{options}" if options else "")
    seen = engine.sh("touch /m/x 2>/dev/null && echo top; touch /m/sub/x 2>/dev/null && echo sub; grep -c ' /m/sub ' /proc/self/mountinfo; true", "--mount", spec)
    assert ("top" in seen) is top
    assert seen.strip().endswith("0" if below is None else "1")
    if below is not None:
        assert ("sub" in seen) is below


def test_short_spelling_of_read_only(engine: Engine, nested: Path) -> None:
    for mode in ("ro", "rro"):
        seen = engine.sh("touch /m/x; touch /m/sub/x", "-v", f"{nested}:/m:{mode}", code=1)
        assert seen.count("Read-only file system") == 2


def test_read_only_on_the_host_stays_so(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    subprocess.run(["mount", "--bind", str(tmp_path / "from"), str(tmp_path / "to")], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(tmp_path / "to")], check=True)
        assert "Read-only file system" in engine.sh("touch /m/x", "-v", f"{tmp_path}/to:/m", code=1)
    finally:
        subprocess.run(["umount", str(tmp_path / "to")], check=True)


def test_sources_that_are_missing(engine: Engine, tmp_path: Path) -> None:
    engine.sh("true", "-v", f"{tmp_path}/made:/m")
    assert (tmp_path / "made").is_dir()
    done = engine.docker("run", "--rm", "--network", "none", "--mount", f"type=bind,src={tmp_path}/not,dst=/m", "bb", "true", code=125)
    assert f'invalid mount config for type "bind": bind source path does not exist: {tmp_path}/not' in done.stderr
    assert not (tmp_path / "not").exists()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "shared"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shared", str(directory)], check=True)
    subprocess.run(["mount", "--make-shared", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "-R", str(directory)], check=True)


def mounted(path: Path) -> bool:
    return subprocess.run(["findmnt", "-n", str(path)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("mode", "out", "into"), [("rshared", True, True), ("rslave", False, True), ("rprivate", False, False)])
def test_propagation(engine: Engine, up: Callable[..., str], shared: Path, runtime: str, mode: str, out: bool, into: bool) -> None:
    """out: what the container mounts is there on the host; into: what the host mounts is there in the container."""
    (shared / "inner").mkdir()
    (shared / "outer").mkdir()
    box = up("--runtime", runtime, "-v", f"{shared}:/s:{mode}", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined")
    engine.docker("exec", box, "mount", "-t", "tmpfs", "inner", "/s/inner")
    assert mounted(shared / "inner") is out
    subprocess.run(["mount", "-t", "tmpfs", "outer", str(shared / "outer")], check=True)
    seen = engine.docker("exec", box, "cat", "/proc/self/mountinfo").stdout
    assert (" /s/outer " in seen) is into
    subprocess.run(["umount", str(shared / "outer")], check=True)
    assert " /s/outer " not in engine.docker("exec", box, "cat", "/proc/self/mountinfo").stdout
    assert json.loads(engine.docker("inspect", box).stdout)[0]["Mounts"][0]["Propagation"] == mode


def test_propagation_of_what_is_private(engine: Engine, tmp_path: Path) -> None:
    """In Docker's words: such a mount would be shared with nobody."""
    subprocess.run(["mount", "-t", "tmpfs", "private", str(tmp_path)], check=True)
    subprocess.run(["mount", "--make-private", str(tmp_path)], check=True)
    try:
        for mode, words in (("rshared", "it is not a shared mount"), ("slave", "it is not a shared or slave mount")):
            done = engine.docker("run", "--rm", "--network", "none", "-v", f"{tmp_path}:/m:{mode}", "bb", "true", code=125)
            assert f"path {tmp_path} is mounted on {tmp_path} but {words}" in done.stderr
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# -- in memory ----------------------------------------------------------------------------------------------------


def test_tmpfs(engine: Engine) -> None:
    seen = line_of(engine, "/t", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1750,readonly")
    assert seen[seen.index("-") + 1] == "tmpfs"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(seen[5].split(","))
    assert {"size=1024k", "mode=1750"} <= set(seen[-1].strip().split(","))
    assert engine.sh("dd if=/dev/zero of=/t/f bs=1M count=2 2>&1 | tail -1; touch /u/x; ls /u", "--tmpfs", "/t:size=1m", "--tmpfs", "/u").endswith("x\n")


# -- parts of volumes, and images -----------------------------------------------------------------------------------


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    engine.sh(
        "cd /d; mkdir -p a/b; echo inside > a/b/f; ln -s a/b rel; ln -s /etc abs; ln -s ../../.. up; ln -s a/b/../../../.. sly; ln -s /proc/self/root magic",
        "-v", "t-parts:/d",
    )  # fmt: skip
    yield "t-parts"
    engine.docker("volume", "rm", "-f", "t-parts")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_part_of_a_volume(engine: Engine, volume: str, runtime: str) -> None:
    def seen(subpath: str, script: str) -> str:
        return engine.sh(script, "--runtime", runtime, "--mount", f"src={volume},dst=/m,volume-subpath={subpath}")

    assert seen("a/b", "cat /m/f; echo more > /m/g") == "inside\n"
    assert seen("rel", "cat /m/g") == "more\n"
    assert seen("a/b/f", "cat /m") == "inside\n"
    path = engine.docker("volume", "inspect", "-f", "{{.Mountpoint}}", volume).stdout.strip()
    assert sorted(os.listdir(f"{path}/a/b")) == ["f", "g"]


@pytest.mark.parametrize(
    ("subpath", "message"),
    [("abs", "it leads out of it"), ("up", "it leads out of it"), ("sly", "it leads out of it"), ("magic/etc", "leads out|too many|not permitted"), ("no", "no such file or directory"),
     ("a/b/f/x", "not a directory"), ("../x", "subpath must be a relative path within the volume"), ("/a", "subpath must be a relative path within the volume")],
)  # fmt: skip
def test_what_leads_out_of_a_volume(engine: Engine, volume: str, subpath: str, message: str) -> None:
    done = engine.docker("run", "--rm", "--network", "none", "--mount", f"src={volume},dst=/m,volume-subpath={subpath}", "bb", "ls", "/m", code=None)
    assert done.returncode in (125, 127)
    assert re.search(message, done.stderr)


def test_a_part_that_is_swapped_all_the_time(engine: Engine, volume: str, up: Callable[..., str]) -> None:
    """A container makes the part a link to / and a directory in turns: another one sees the directory, or does not start."""
    up("-v", f"{volume}:/d", command=("sh", "-c", "cd /d; while :; do ln -sfn / swap; rm swap; mkdir swap; echo in > swap/mark; rm -r swap; done"))
    for _ in range(20):
        done = engine.docker("run", "--rm", "--network", "none", "--mount", f"src={volume},dst=/m,volume-subpath=swap", "bb", "ls", "-A", "/m", code=None)
        assert done.returncode in (0, 125, 127)
        assert done.stdout in ("", "mark\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_as_a_mount(engine: Engine, runtime: str) -> None:
    seen = engine.sh("cat /m/etc/plain; touch /m/x; touch /p/x; cat /p/plain", "--runtime", runtime, "--mount", "type=image,src=bb,dst=/m",
                     "--mount", "type=image,src=bb,dst=/p,image-subpath=etc")  # fmt: skip
    assert seen.startswith("not a program\nnot a program\n")
    assert seen.count("Read-only file system") == 2


def test_an_image_that_is_mounted_is_in_use(engine: Engine) -> None:
    made = engine.up(command=("sh", "-c", "echo layer > /layer; sleep 1000"))
    wait_until(lambda: os.path.exists(f"/proc/{engine.pid(made)}/root/layer"), "its file")
    engine.docker("commit", made, "t-mounted")
    engine.rm(made)
    user = engine.docker("create", "--network", "none", "--mount", "type=image,src=t-mounted,dst=/m", "bb", "cat", "/m/layer").stdout.strip()
    try:
        engine.docker("tag", "t-mounted", "t-other")
        engine.docker("rmi", "t-other")
        assert "is using its referenced image" in engine.docker("rmi", "t-mounted", code=1).stderr
        assert engine.docker("start", "-a", user).stdout == "layer\n"
        (point,) = json.loads(engine.docker("inspect", user).stdout)[0]["Mounts"]
        assert (point["Type"], point["Name"], point["RW"]) == ("image", "t-mounted", False)
    finally:
        engine.rm(user)
        engine.docker("rmi", "t-mounted")
    done = engine.docker("create", "--network", "none", "--mount", "type=image,src=t-nowhere,dst=/m", "bb", "true", code=1)
    assert "mount at /m: No such image: t-nowhere:latest" in done.stderr


def test_an_image_in_a_user_namespace(userns_engine: Engine) -> None:
    assert userns_engine.sh("stat -c '%u %g' /m/etc/plain", "--mount", "type=image,src=bb,dst=/m") == "0 0\n"


@pytest.mark.parametrize("kind", ["cluster", "npipe", "nope"])
def test_types_that_are_not_there(engine: Engine, kind: str) -> None:
    done = engine.docker("create", "--network", "none", "--mount", f"type={kind},src=x,dst=/m", "bb", "true", code=1)
    assert f'invalid mount config for type "{kind}": ' in done.stderr


def test_labels_are_taken_without_selinux(engine: Engine, tmp_path: Path) -> None:
    for mode in ("z", "Z", "ro,Z"):
        assert engine.sh("echo ok", "-v", f"{tmp_path}:/m:{mode}") == "ok\n"
