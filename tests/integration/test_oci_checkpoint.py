"""checkpoint and restore: what criu is told, what is said when it cannot, and the whole way where a kernel lets it.

criu 3.17 cannot start on kernels from 6.13 on (the vDSO has moved), so the whole way is gone in a machine with an older
one, with the criu of this machine; v2_checkpoint.py runs inside.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guest
import pytest
from harness import REPOSITORY
from oci import Oci, with_user_namespace

pytestmark = pytest.mark.root
needs_criu = pytest.mark.skipif(not shutil.which("criu"), reason="needs Debian's criu")
FAKE = """#!/bin/sh
printf '%s\\n' "$@" >{top}/words
readlink /proc/self/ns/mnt /proc/self/fd/* >{top}/seen
cat /proc/self/cgroup >{top}/cgroup
while [ $# -gt 0 ]; do [ "$1" = --pidfile ] && pidfile=$2; shift; done
[ -z "$pidfile" ] && exit 0
sleep 1000 >/dev/null 2>&1 & echo $! >"$pidfile"
"""


@pytest.fixture
def oci() -> Iterator[Oci]:
    made = Oci()
    yield made
    made.finish()


@pytest.fixture
def fake(oci: Oci) -> str:
    """A program in criu's place that writes down how it was called; restores a sleep."""
    path = f"{oci.top}/criu"
    Path(path).write_text(FAKE.format(top=oci.top))
    os.chmod(path, 0o755)
    oci.options = ("--criu", path)
    return path


def words(oci: Oci) -> "list[str]":
    return Path(f"{oci.top}/words").read_text().splitlines()


def after(found: "list[str]", word: str) -> "list[str]":
    return [found[index + 1] for index, one in enumerate(found) if one == word]


def test_what_criu_is_told_to_dump(oci: Oci, fake: str) -> None:
    os.mkdir(f"{oci.top}/data")
    box = oci.up(mounts=[{"destination": "/srv/data", "type": "bind", "source": f"{oci.top}/data", "options": ["rbind"]}])
    images = f"{oci.top}/images"
    flags = ["--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--leave-running", "--auto-dedup", "--link-remap"]
    flags += ["--manage-cgroups-mode", "full", "--empty-ns", "network", "--page-server", "10.0.0.1:99", "--tcp-skip-in-flight"]
    oci.call("checkpoint", "--image-path", images, "--work-path", f"{oci.top}/work", *flags, box.id)
    found = words(oci)
    assert found[0] == "dump"
    assert after(found, "--tree") == [str(box.pid)]
    assert (after(found, "--images-dir"), after(found, "--work-dir")) == ([images], [f"{oci.top}/work"])
    told = {"--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--leave-running", "--auto-dedup", "--link-remap", "--skip-in-flight"}
    assert told <= set(found)
    assert "--manage-cgroups=full" in found
    assert (after(found, "--empty-ns"), after(found, "--address"), after(found, "--port")) == (["net"], ["10.0.0.1"], ["99"])
    assert "mnt[/srv/data]:/srv/data" in after(found, "--external")
    names = json.loads(Path(f"{images}/descriptors.json").read_text())
    output = os.stat(f"{oci.top}/{box.id}.out")
    assert names[1].startswith("file[")
    assert names[1].endswith(f":{output.st_ino:x}]")
    assert names[1] in after(found, "--external")
    assert os.stat(images).st_mode & 0o777 == 0o700
    assert oci.state(box.id)["status"] == "running"


def test_images_of_a_user_namespace_are_open_to_its_root_alone(oci: Oci, fake: str) -> None:
    box = oci.up(with_user_namespace())
    oci.call("checkpoint", "--image-path", f"{oci.top}/images", "--leave-running", box.id)
    found = os.stat(f"{oci.top}/images")
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o710, 0, 200_000)
    external = after(words(oci), "--external")
    assert "mnt[/dev/null]:/dev/null" in external


def test_a_destination_behind_a_link_is_named_by_where_it_is(oci: Oci, fake: str) -> None:
    bundle = oci.bundle(mounts=[{"destination": "/link/x", "type": "bind", "source": oci.top, "options": ["rbind"]}])
    os.mkdir(f"{bundle}/rootfs/real")
    os.symlink("/real", f"{bundle}/rootfs/link")
    box = oci.create(bundle).start()
    oci.call("checkpoint", "--image-path", f"{oci.top}/images", "--leave-running", box.id)
    assert "mnt[/real/x]:/link/x" in after(words(oci), "--external")


def test_pre_dump_and_its_child(oci: Oci, fake: str) -> None:
    box = oci.up()
    oci.call("checkpoint", "--pre-dump", "--image-path", f"{oci.top}/one", box.id)
    assert words(oci)[0] == "pre-dump"
    assert "--track-mem" in words(oci)
    oci.call("checkpoint", "--leave-running", "--parent-path", "../one", "--image-path", f"{oci.top}/two", box.id)
    assert after(words(oci), "--prev-images-dir") == ["../one"]
    for parent, said in (("../none", "there is no directory"), (f"{oci.top}/one", "must be relative")):
        done = oci.call("checkpoint", "--parent-path", parent, "--image-path", f"{oci.top}/two", box.id, code=1)
        assert said in done.stderr


def test_without_leave_running_nothing_is_left_but_images(oci: Oci, fake: str) -> None:
    box = oci.up()
    oci.call("checkpoint", "--image-path", f"{oci.top}/images", box.id)
    box.wait()
    oci.assert_nothing_left(box.id)


def test_what_criu_is_told_to_restore(oci: Oci, fake: str) -> None:
    """The fake makes a process; everything around it is the real thing."""
    images = f"{oci.top}/images"
    os.mkdir(images)
    Path(f"{images}/descriptors.json").write_text('["/dev/null", "pipe:[123]", "file[1a:2b]"]')
    changes = {"linux": {"resources": {"pids": {"limit": 77}}}}
    bundle = oci.bundle(changes, mounts=[{"destination": "/srv/new", "type": "bind", "source": "data", "options": ["rbind"]}])
    os.mkdir(f"{bundle}/data")
    identity = oci.identity()
    pid_file = f"{oci.top}/pid"
    oci.call("restore", "--detach", "--bundle", bundle, "--image-path", images, "--pid-file", pid_file, identity,
             "--lsm-profile", "apparmor:x", "--tcp-close", stdout=None, stderr=None, capture_output=False)  # fmt: skip
    found = words(oci)
    assert found[0] == "restore"
    assert {"--restore-detached", "--restore-sibling", "--tcp-close"} <= set(found)
    assert after(found, "--root") == [f"{bundle}/rootfs"]
    assert f"mnt[/srv/new]:{bundle}/data" in after(found, "--external")
    assert [one.partition(":")[2] for one in after(found, "--inherit-fd")] == ["pipe:[123]", "file[1a:2b]"]
    assert after(found, "--lsm-profile") == ["apparmor:x"]
    assert any(word.endswith(f"/{identity}") for word in after(found, "--cgroup-root"))
    assert os.path.isdir(f"{bundle}/rootfs/srv/new")
    assert Path(f"{oci.top}/seen").read_text().splitlines()[0] != os.readlink("/proc/self/ns/mnt")
    assert f"/{identity}" in Path(f"{oci.top}/cgroup").read_text()
    state = oci.state(identity)
    assert (state["status"], state["pid"]) == ("running", int(Path(pid_file).read_text()))
    assert f"/{identity}" in Path(f"/proc/{state['pid']}/cgroup").read_text()


@pytest.mark.parametrize("text", ['["pipe:[1]", "mnt[/]:/", "x"]', '["pipe:[1:2]", "file[/etc]", "tty[1:2]"]', '[":[1]", "", "pipe:[]"]'])
def test_names_that_are_no_stream_are_not_passed_on(oci: Oci, fake: str, text: str) -> None:
    images = f"{oci.top}/images"
    os.mkdir(images)
    Path(f"{images}/descriptors.json").write_text(text)
    oci.call("restore", "--detach", "--bundle", oci.bundle(), "--image-path", images, oci.identity(), capture_output=False)
    assert [one.partition(":")[2] for one in after(words(oci), "--inherit-fd")] == (["pipe:[1]"] if "pipe:[1]" in text else [])


@pytest.mark.parametrize("text", ["{}", '["a", "b", "c", "d"]', "[1, 2, 3]", "[", ""])
def test_a_damaged_descriptors_json(oci: Oci, fake: str, text: str) -> None:
    images = f"{oci.top}/images"
    os.mkdir(images)
    Path(f"{images}/descriptors.json").write_text(text)
    identity = oci.identity()
    assert "descriptors.json" in oci.call("restore", "--bundle", oci.bundle(), "--image-path", images, identity, code=1).stderr
    oci.assert_nothing_left(identity)


# -- what cannot be done ------------------------------------------------------------------------------------


def test_no_criu(oci: Oci) -> None:
    box = oci.up()
    for option in ((), ("--criu", "/no/such/criu")):
        oci.options = option
        text = oci.call("checkpoint", box.id, code=1, cwd=oci.top, env={**os.environ, "PATH": "/bin:/usr/bin"}).stderr
        assert "install it (Debian: criu)" in text
        assert (option or ("", "criu"))[1] in text
    assert not os.path.exists(f"{oci.top}/checkpoint")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--manage-cgroups-mode", "hard"), "'hard' is not one of soft, full, strict, ignore"), (("--empty-ns", "pid"), "--empty-ns 'pid'"),
        (("--page-server", "host"), "is not ADDRESS:PORT"), (("--status-fd", "99"), "--status-fd 99: it is not open"),
    ],
)  # fmt: skip
def test_wrong_flags(oci: Oci, fake: str, flags: "tuple[str, ...]", said: str) -> None:
    box = oci.up()
    assert said in oci.call("checkpoint", "--image-path", f"{oci.top}/images", *flags, box.id, code=1).stderr


def test_states_that_cannot_be_saved(oci: Oci, fake: str) -> None:
    box = oci.create(oci.bundle())
    assert "it is created" in oci.call("checkpoint", "--image-path", f"{oci.top}/i", box.id, code=1).stderr
    box.start()
    oci.call("kill", box.id, "KILL")
    box.wait()
    assert "it is stopped" in oci.call("checkpoint", "--image-path", f"{oci.top}/i", box.id, code=1).stderr
    assert not os.path.exists(f"{oci.top}/i")


def test_a_terminal(oci: Oci, fake: str) -> None:
    images = f"{oci.top}/images"
    os.mkdir(images)
    bundle = oci.bundle({"process": {"terminal": True}})
    assert "process.terminal" in oci.call("restore", "--bundle", bundle, "--image-path", images, oci.identity(), code=1).stderr


def test_rootless(oci: Oci, fake: str) -> None:
    box = oci.up()
    assert "take the host's root" in oci.call("--rootless", "true", "checkpoint", "--image-path", f"{oci.top}/i", box.id, code=1).stderr


def test_nothing_to_restore(oci: Oci, fake: str) -> None:
    bundle, identity = oci.bundle(), oci.identity()
    assert "is no directory" in oci.call("restore", "--bundle", bundle, "--image-path", f"{oci.top}/none", identity, code=1).stderr
    os.mkdir(f"{oci.top}/empty")
    assert "has no checkpoint" in oci.call("restore", "--bundle", bundle, "--image-path", f"{oci.top}/empty", identity, code=1).stderr
    oci.assert_nothing_left(identity)


@needs_criu
def test_the_end_of_the_real_criu_s_log_is_in_the_error(oci: Oci) -> None:
    """Where criu cannot even start; the container goes on."""
    if subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0:
        pytest.skip("criu works on this kernel; the machine's test goes the whole way")
    box = oci.up()
    text = oci.call("checkpoint", "--image-path", f"{oci.top}/images", box.id, code=1).stderr
    assert "criu dump failed with exit code" in text
    assert f"its log is {oci.top}/images/dump.log" in text
    assert "Error (" in text
    assert oci.state(box.id)["status"] == "running"
    box.exec("true")


# -- the whole way --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def findings() -> "dict[str, Any]":
    """What v2_checkpoint.py printed in a machine whose kernel this machine's criu can work on."""
    guest.need()
    if not shutil.which("criu"):
        pytest.skip("needs Debian's criu on this machine")
    with tempfile.TemporaryDirectory(prefix="berth-criu.") as directory:
        shutil.copytree(f"{REPOSITORY}/src", f"{directory}/src", ignore=shutil.ignore_patterns("__pycache__", "sealer"))
        shutil.copy(Path(__file__).with_name("v2_checkpoint.py"), directory)
        criu = str(shutil.which("criu"))
        shutil.copy(criu, directory)
        os.mkdir(f"{directory}/lib")
        for line in subprocess.run(["ldd", criu], capture_output=True, text=True, check=True).stdout.splitlines():
            name, _, rest = line.strip().partition(" => ")
            if rest and not name.startswith(("libc.", "libm.")):
                shutil.copy(rest.split(" ")[0], f"{directory}/lib/{name}")
        found = guest.findings(guest.run(directory, f"v2_checkpoint.py {guest.SHARE}", timeout_s=570))
    if found["check"]:
        pytest.skip(f"criu cannot work in the machine either: {found['check']}")
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["plain", "user"])
def test_a_container_goes_on_where_it_was(findings: "dict[str, Any]", kind: str) -> None:
    found = findings[kind]
    assert found["checkpoint"]["code"] == 0, found["checkpoint"]
    assert found["after"] == {"list": [], "groups": [], "pid": False}
    assert found["restore"]["code"] == 0, found["restore"]
    before, counted = found["counted before"], found["counted after"]
    assert counted[: len(before)] == before
    assert counted == list(range(1, len(counted) + 1)), "it began anew, or left something out"
    assert len(counted) > len(before)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["plain", "user"])
def test_what_it_was_confined_by_is_there_again(findings: "dict[str, Any]", kind: str) -> None:
    found = findings[kind]
    assert found["confined before"] == found["confined after"]
    assert found["confined after"]["Seccomp"] == "2"
    assert found["namespaces"] == [], "these are the host's"
    assert found["cgroup"] == f"0::/{kind}"
    assert found["pids.max"] == "50"
    assert found["mounts before"] == found["mounts after"]
    assert found["exec"]["out"] == "from the host\n", found["exec"]
    assert found["end"] == {"list": [], "groups": [], "mounts": []}


@pytest.mark.timeout(600)
def test_pre_dump_leave_running_and_a_restore_in_the_foreground(findings: "dict[str, Any]") -> None:
    found = findings["pre-dump"]
    assert found["pre-dump"]["code"] == found["leave"]["code"] == 0, found
    assert found["status"] == "running"
    assert found["parent"] == "../pre"
    assert found["checkpoint"]["code"] == 0, found["checkpoint"]
    assert found["foreground"] == 7
    assert found["end"] == {"list": [], "groups": [], "mounts": []}
