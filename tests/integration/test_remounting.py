"""Mounts put into running containers and taken out of them, seen in /proc/PID/mountinfo and kept over restarts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine, mounts, wait_until
from parity import Peer

pytestmark = pytest.mark.root
BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
RUNTIMES = ("berth", "runc")


def update(engine: Engine, identity: str, *words: str, code: int = 0) -> str:
    """Its output and errors."""
    done = subprocess.run([*BERTH, "update", *words, identity], env=engine.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def mounted(engine: Engine, identity: str) -> dict[str, list[str]]:
    """Place -> the topmost mount's line of mountinfo."""
    with open(f"/proc/{engine.pid(identity)}/mountinfo") as file:
        return {fields[4]: fields for line in file if (fields := line.split(" "))}


def shown(engine: Engine, identity: str) -> dict[str, str]:
    return {point["Destination"]: point["Type"] for point in json.loads(engine.docker("inspect", identity).stdout)[0]["Mounts"]}


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    yield "t-live"
    users = engine.docker("ps", "-aq", "--filter", "volume=t-live").stdout.split()
    engine.rm(*users)
    engine.docker("volume", "rm", "-f", "t-live")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_all_kinds_come_and_go(engine: Engine, up: Callable[..., str], tmp_path: Path, volume: str, runtime: str) -> None:
    (tmp_path / "file").write_text("of the host\n")
    box = up("--runtime", runtime)
    added = ("--mount-add", f"type=bind,src={tmp_path},dst=/new/bind,readonly", "--mount-add", f"src={volume},dst=/vol", "--mount-add", "type=tmpfs,dst=/mem,tmpfs-size=1m",
             "--mount-add", "type=image,src=bb,dst=/img,image-subpath=etc", "--mount-add", f"type=bind,src={tmp_path}/file,dst=/one")  # fmt: skip
    assert update(engine, box, *added) == f"{box}\n"
    script = "cat /new/bind/file /one; touch /new/bind/x; touch /img/x; echo in > /vol/f; echo mem > /mem/f; cat /img/plain"
    seen = engine.docker("exec", box, "sh", "-c", script)
    assert seen.stdout == "of the host\nof the host\nnot a program\n"
    assert seen.stderr.count("Read-only file system") == 2
    assert shown(engine, box) == {"/new/bind": "bind", "/vol": "volume", "/mem": "tmpfs", "/img": "image", "/one": "bind"}
    before = mounted(engine, box)
    assert {"/new/bind", "/vol", "/mem", "/img", "/one"} <= set(before)
    engine.docker("restart", "-t", "0", box)
    after = mounted(engine, box)
    assert {"/new/bind", "/vol", "/mem", "/img", "/one"} <= set(after)
    for place in ("/new/bind", "/vol", "/mem", "/one"):
        assert after[place][5] == before[place][5], "the same options as before the restart"
    assert engine.docker("exec", box, "cat", "/vol/f").stdout == "in\n"
    update(engine, box, *(word for place in ("/new/bind", "/vol", "/mem", "/img", "/one") for word in ("--mount-rm", place)))
    assert not {"/new/bind", "/vol", "/mem", "/img", "/one"} & set(mounted(engine, box))
    assert shown(engine, box) == {}
    engine.docker("volume", "rm", volume)
    engine.docker("restart", "-t", "0", box)
    assert not {"/new/bind", "/vol", "/mem", "/img", "/one"} & set(mounted(engine, box))


def test_what_was_there_from_the_start_goes(engine: Engine, up: Callable[..., str], tmp_path: Path) -> None:
    box = up("-v", f"{tmp_path}:/a:ro", "-v", f"{tmp_path}:/b", "--mount", f"type=bind,src={tmp_path},dst=/c")
    update(engine, box, "--mount-rm", "/a", "--mount-rm", "/c", "--mount-add", f"type=bind,src={tmp_path},dst=/a")
    assert mounted(engine, box)["/a"][5].split(",")[0] == "rw"
    assert shown(engine, box) == {"/a": "bind", "/b": "bind"}
    host = json.loads(engine.docker("inspect", box).stdout)[0]["HostConfig"]
    assert host["Binds"] == [f"{tmp_path}:/b"]
    assert [mount["Target"] for mount in host["Mounts"]] == ["/a"]


def test_files_in_use_stay_until_they_are_closed(engine: Engine, up: Callable[..., str], tmp_path: Path) -> None:
    box = up("-v", f"{tmp_path}:/a", command=("sh", "-c", "exec 3>/a/open; cd /a; while sleep 0.05; do date >&3; done"))
    wait_until(lambda: (tmp_path / "open").exists(), "the program to begin")
    update(engine, box, "--mount-rm", "/a")
    assert "/a" not in mounted(engine, box)
    size = (tmp_path / "open").stat().st_size
    wait_until(lambda: (tmp_path / "open").stat().st_size > size, "the program to go on")


def test_into_one_that_does_not_run_and_into_one_that_is_paused(engine: Engine, tmp_path: Path, up: Callable[..., str]) -> None:
    (tmp_path / "f").write_text("later\n")
    identity = engine.docker("create", "--network", "none", "bb", "cat", "/x/f").stdout.strip()
    update(engine, identity, "--mount-add", f"type=bind,src={tmp_path},dst=/x")
    assert engine.docker("start", "-a", identity).stdout == "later\n"
    engine.rm(identity)
    box = up()
    engine.docker("pause", box)
    update(engine, box, "--mount-add", f"type=bind,src={tmp_path},dst=/x")
    assert "/x" in mounted(engine, box)
    engine.docker("unpause", box)


def test_no_link_leads_out(engine: Engine, up: Callable[..., str], tmp_path: Path) -> None:
    """`/evil` is a link to / and `/evil-up` one to ../../..: of the container, where the mount then is."""
    (tmp_path / "mark").write_text("")
    box, before = up(), mounts()
    engine.docker("exec", box, "sh", "-c", "ln -s /proc/1/root /magic; ln -s /nowhere/at/all /dangling; mkdir /swap; ln -s / /swap/x")
    update(engine, box, "--mount-add", f"type=bind,src={tmp_path},dst=/evil/tmp", "--mount-add", f"type=bind,src={tmp_path},dst=/evil-up/home",
           "--mount-add", f"type=bind,src={tmp_path},dst=/dangling")  # fmt: skip
    assert {"/tmp", "/home", "/nowhere/at/all"} <= set(mounted(engine, box))
    assert not [line for line in mounts() - before if str(tmp_path) in line]  # others' tests mount things, too
    assert not os.path.exists("/nowhere")
    said = update(engine, box, "--mount-add", f"type=bind,src={tmp_path},dst=/magic/tmp", code=1)
    assert "no place for a mount can be made at /magic/tmp in the container" in said
    update(engine, box, "--mount-rm", "/evil/tmp", "--mount-rm", "/evil-up/home", "--mount-rm", "/dangling")
    assert not {"/tmp", "/home", "/nowhere/at/all"} & set(mounted(engine, box))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mount-rm", "/nope"), "nothing is mounted at /nope"), (("--mount-rm", "relative"), "it is not an absolute path"),
        (("--mount-add", "type=bind,src=/tmp,dst=/there"), "Duplicate mount point: /there"), (("--mount-add", "type=tmpfs,dst=/mem"), "Duplicate mount point: /mem"),
        (("--mount-add", "type=bind,src=/no/such,dst=/x"), "bind source path does not exist: /no/such"), (("--mount-add", "type=bind,src=/tmp,dst=/"), "destination can't be '/'"),
        (("--mount-add", "type=bind,src=/tmp,dst=/proc/1"), "cannot mount at /proc/1 of a container that runs"), (("--mount-add", "type=bind,src=/tmp,dst=/dev"), "cannot mount at /dev"),
        (("--mount-add", "type=bind,src=/etc/passwd,dst=/tmp"), "cannot mount a file on /tmp, which is there as a directory"),
        (("--mount-add", "type=tmpfs,dst=/x,tmpfs-size=1m", "--mount-add", "type=bind,src=/tmp,dst=/etc/passwd"), "cannot mount a directory on /etc/passwd"),
        (("--mount-add", "type=bind,src=/proc,dst=/x,idmap"), "cannot be idmapped"), (("--mount-add", "type=image,src=nowhere,dst=/x"), "No such image: nowhere"),
        (("--mount-add", "src=t-never,dst=/x", "--mount-add", "type=bind,src=/tmp,dst=/bin/sh/x"), "no place for a mount can be made at /bin/sh/x"),
        (("--mount-rm", "/there", "--mount-add", "type=bind,src=/etc/passwd,dst=/tmp"), "cannot mount a file on /tmp"), (("--mount-add", "type=npipe,src=x,dst=/x"), "mount type unknown"),
        (("--mount-add", "src=t-live,dst=/x,volume-subpath=nope"), "subpath 'nope' of t-live: no such file or directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_leaves_all_as_it_was(engine: Engine, up: Callable[..., str], tmp_path: Path, volume: str, words: tuple[str, ...], message: str) -> None:
    box = up("-v", f"{tmp_path}:/there", "--tmpfs", "/mem")
    before = {place: fields[3:] for place, fields in mounted(engine, box).items()}
    volumes = set(engine.docker("volume", "ls", "-q").stdout.split())
    said = update(engine, box, *words, code=125 if "relative" in words else 1)
    assert message in said
    assert {place: fields[3:] for place, fields in mounted(engine, box).items()} == before
    assert shown(engine, box) == {"/there": "bind"}
    assert set(engine.docker("volume", "ls", "-q").stdout.split()) == volumes


def test_volumes_are_counted_and_mounted_as_they_come_and_go(engine: Engine, up: Callable[..., str], volume: str) -> None:
    engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", volume)
    path = f"{engine.data}/volumes/{volume}/_data"
    box = up()
    since = json.loads(engine.docker("info", "-f", "json").stdout)["SystemTime"]
    update(engine, box, "--mount-add", f"src={volume},dst=/etc")
    assert any(line.split()[4] == path for line in mounts())
    assert "passwd" in os.listdir(path), "filled with what the image has there"
    assert "volume is in use" in engine.docker("volume", "rm", volume, code=1).stderr
    update(engine, box, "--mount-rm", "/etc")
    wait_until(lambda: not any(line.split()[4] == path for line in mounts()), "a file system that nobody uses")
    events = Peer(f"{engine.exec}/berth.sock").ask("GET", f"/events?since={since}&until=0s").body
    assert [(e["Type"], e["Action"]) for e in events if e["Type"] == "volume" or e["Action"] == "update"] == [
        ("volume", "mount"), ("container", "update"), ("volume", "unmount"), ("container", "update")
    ]  # fmt: skip
    engine.docker("volume", "rm", volume)


def test_a_shared_mount_is_a_peer(engine: Engine, up: Callable[..., str], tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "shared", str(tmp_path)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(tmp_path)], check=True)
        (tmp_path / "sub").mkdir()
        box = up()
        update(engine, box, "--mount-add", f"type=bind,src={tmp_path},dst=/s,bind-propagation=rshared")
        subprocess.run(["mount", "-t", "tmpfs", "inner", str(tmp_path / "sub")], check=True)
        assert "/s/sub" in mounted(engine, box)
        update(engine, box, "--mount-rm", "/s")
        assert subprocess.run(["findmnt", "-n", str(tmp_path / "sub")], capture_output=True, check=False).returncode == 0, "the host's stays"
    finally:
        subprocess.run(["umount", "-R", str(tmp_path)], check=True)


def test_in_a_user_namespace(userns_engine: Engine, tmp_path: Path) -> None:
    engine = userns_engine
    (tmp_path / "f").write_text("")
    os.chown(tmp_path, 1234, 1234)
    box = engine.up()
    try:
        update(engine, box, "--mount-add", f"type=bind,src={tmp_path},dst=/made/here,idmap", "--mount-add", "type=tmpfs,dst=/mem")
        seen = engine.docker("exec", box, "sh", "-c", "touch /made/here/new /mem/x; stat -c '%u %g' /made /made/here").stdout
        assert seen == "0 0\n0 0\n"
        assert os.stat(tmp_path / "new").st_uid == 1234
        update(engine, box, "--mount-rm", "/made/here", "--mount-rm", "/mem")
        assert not {"/made/here", "/mem"} & set(mounted(engine, box))
    finally:
        engine.rm(box)


def test_over_the_api(engine: Engine, up: Callable[..., str], tmp_path: Path) -> None:
    peer, box = Peer(f"{engine.exec}/berth.sock"), up()
    added = {"MountAdd": [{"Type": "bind", "Source": str(tmp_path), "Target": "/x"}], "CpuShares": 100}
    assert peer.ask("POST", f"/containers/{box}/update", added).body == {"Warnings": None}
    assert "/x" in mounted(engine, box)
    for body in ({"MountAdd": "x"}, {"MountAdd": [1]}, {"MountAdd": [{"Type": "bind", "Source": "a\0b", "Target": "/y"}]}, {"MountRemove": [1]}, {"MountRemove": "x"},
                 {"MountAdd": [{}]}, {"MountRemove": [""]}):  # fmt: skip
        assert peer.ask("POST", f"/containers/{box}/update", body).status == 400, body
    assert peer.ask("POST", f"/containers/{box}/update", {"MountRemove": ["/x"]}).status == 200
    assert "/x" not in mounted(engine, box)
