"""berth-oci called by an ordinary user, with one id and with ranges from /etc/subuid; and by Podman for such a user.

The user is a number that nothing on the machine has; where a name is needed, /etc/passwd and /etc/subuid are
overlaid in a private mount namespace, so that the machine keeps no trace of it.
"""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import guest
import pytest
from harness import GROUPS, REPOSITORY
from oci import SLEEP, Oci, merged

pytestmark = pytest.mark.root

UID, OTHER_UID = 54_321, 54_322
FIRST, COUNT = 300_000, 65_536
_MAIN = f"{REPOSITORY}/src/berth/cli/oci/__main__.py"
v1 = pytest.mark.skipif(not os.path.isdir(f"{GROUPS}/pids"), reason="needs cgroup v1")


def _maps(kind: str = "uid", *more: dict) -> dict:
    return {f"{kind}Mappings": [{"containerID": 0, "hostID": UID, "size": 1}, *more]}


RANGE = {"containerID": 1, "hostID": FIRST, "size": COUNT}
ONE_ID: dict = {
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "user")],
        "resources": None, **_maps("uid"), **_maps("gid"),
    },
}  # fmt: skip
RANGES = merged(ONE_ID, {"linux": {**_maps("uid", RANGE), **_maps("gid", RANGE)}})


class User(Oci):
    """The runtime as a user without rights calls it; the state is where XDG_RUNTIME_DIR says."""

    def __init__(self, uid: int = UID, *, wrapper: "tuple[str, ...]" = (), groups: str = "", path: str = "") -> None:
        super().__init__()
        self.uid, self.wrapper = uid, wrapper
        self.runtime_dir = f"{self.top}/run"
        self.root = f"{self.runtime_dir}/berth/oci"
        os.mkdir(self.runtime_dir, 0o700)
        os.chown(self.runtime_dir, uid, uid)
        self.groups_option = f"--groups={groups}" if groups else "--clear-groups"
        self.path = path or os.environ["PATH"]

    def as_user(self, *words: str) -> "list[str]":
        return [
            *self.wrapper, "setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", self.groups_option,
            "env", f"XDG_RUNTIME_DIR={self.runtime_dir}", f"PATH={self.path}", *words,
        ]  # fmt: skip

    def command(self, *words: str) -> "list[str]":
        return self.as_user(python(), "-IS", _MAIN, *self.options, *words)

    def bundle(self, changes: "dict | None" = None, **keywords: Any) -> str:
        return super().bundle(merged(ONE_ID, changes or {}), **keywords)


def python() -> str:
    """One that others than root may execute."""
    for path in (sys.executable, "/usr/bin/python3"):
        allowed = subprocess.run(
            ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "sh", "-c", f"exec {path} -c 'import sys; assert sys.version_info > (3, 11)'"],
            capture_output=True, check=False,
        )  # fmt: skip
        if allowed.returncode == 0:
            return path
    pytest.skip("no Python 3.11 that an ordinary user may execute")


@pytest.fixture
def user() -> Iterator[User]:
    made = User()
    yield made
    made.finish()


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> "tuple[str, ...]":
    """A wrapper in whose mount namespace the user has a name, and FIRST to FIRST+COUNT as sub-ids."""
    top = tmp_path_factory.mktemp("etc")
    passwd = Path("/etc/passwd").read_text() + f"berthtest:x:{UID}:{UID}::/:/bin/sh\n"
    files = {"passwd": passwd, "subuid": f"berthtest:{FIRST}:{COUNT}\n", "subgid": f"berthtest:{FIRST}:{COUNT}\n"}
    for name, text in files.items():
        (top / name).write_text(text)
    script = f'for f in {" ".join(files)}; do mount --bind "$0/$f" /etc/$f || exit 99; done; exec "$@"'
    return ("unshare", "-m", "--propagation", "slave", "sh", "-c", script, str(top))


@pytest.fixture
def ranged(overlays: "tuple[str, ...]") -> Iterator[User]:
    """A user to whom /etc/subuid and subgid grant ids."""
    if not shutil.which("newuidmap"):
        pytest.skip("needs Debian's uidmap")
    made = User(wrapper=overlays)
    yield made
    made.finish()


def squeezed(text: str) -> "list[str]":
    return [" ".join(line.split()) for line in text.splitlines()]


# -- one id ----------------------------------------------------------------------------------------------


def test_one_id_takes_no_newuidmap() -> None:
    user = User(path="/nowhere")
    try:
        box = user.up()
        assert squeezed(box.proc("uid_map")) == squeezed(box.proc("gid_map")) == [f"0 {UID} 1"]
        assert box.proc("setgroups").strip() == "deny"
        assert box.status("Uid").split() == [str(UID)] * 4
        assert os.stat(f"/proc/{box.pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino
    finally:
        user.finish()


def test_life_of_a_container_through_its_owner(user: User) -> None:
    box = user.create(user.bundle())
    assert user.state(box.id)["status"] == "created"
    box.start()
    assert box.exec("id", "-u").stdout.strip() == "0"
    assert box.exec("sh", "-c", "readlink /proc/self/ns/user").stdout.strip() == os.readlink(f"/proc/{box.pid}/ns/user")
    assert json.loads(user.call("ps", "--format", "json", box.id).stdout) == [box.pid]
    assert "PID" in user.call("ps", box.id).stdout
    user.call("kill", box.id, "KILL")
    box.wait()
    assert user.state(box.id)["status"] == "stopped"
    user.call("delete", box.id)
    assert user.identities() == []


def test_kill_all_reaches_everybody_of_the_pid_namespace_without_a_cgroup(user: User) -> None:
    script = "trap 'exit 5' USR1; (trap 'echo child; exit 6' USR1; echo up; while :; do sleep 0.01; done) & while :; do sleep 0.01; done"
    box = user.up(args=["sh", "-c", script])
    _until(lambda: "up" in box.output())
    user.call("kill", "--all", box.id, "USR1")
    box.wait()
    _until(lambda: "child" in box.output() or not _alive(box.pid))


def _until(condition: "Callable[[], bool]", timeout_s: float = 60) -> None:
    from harness import wait_until

    wait_until(condition, "it does not come true", timeout_s)


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_devices_are_the_hosts(user: User) -> None:
    box = user.up()
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert box.mount(f"/dev/{name}")["fstype"] == "devtmpfs"
        assert os.stat(box.path(f"/dev/{name}")).st_rdev == os.stat(f"/dev/{name}").st_rdev
    assert box.exec("sh", "-c", "echo x >/dev/null; head -c 3 /dev/zero | wc -c").stdout.strip() == "3"


def test_sysfs_of_the_hosts_network_is_bound_and_read_only_all_the_way_down(user: User) -> None:
    box = user.up()
    assert box.mount("/sys")["fstype"] == "sysfs"
    lines = [line.split(" ") for line in box.proc("mountinfo").splitlines()]
    below = [fields for fields in lines if f"{fields[4]}/".startswith("/sys/")]
    assert below
    assert all(fields[5].split(",")[0] == "ro" for fields in below), below


def test_a_network_namespace_of_its_own_has_a_sysfs_of_its_own(user: User) -> None:
    kinds = ("pid", "ipc", "uts", "mount", "cgroup", "user", "network")
    box = user.up({"linux": {"namespaces": [{"type": kind} for kind in kinds]}})
    assert box.exec("ls", "/sys/class/net").stdout.split() == ["lo"]


def test_a_user_namespace_without_id_0(user: User) -> None:
    own = [{"containerID": 1000, "hostID": UID, "size": 1}]
    changes = {"linux": {"uidMappings": own, "gidMappings": own}, "process": {"user": {"uid": 1000, "gid": 1000}, "capabilities": None}}
    box = user.up(changes)
    assert squeezed(box.proc("uid_map")) == [f"1000 {UID} 1"]
    assert box.exec("id", "-u").stdout.strip() == "1000"


def test_terminal_goes_to_the_console_socket(user: User) -> None:
    path = f"{user.runtime_dir}/console.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        os.chown(path, UID, UID)
        listening.listen()
        box = user.create(user.bundle({"process": {"terminal": True}}, args=["sh", "-c", "tty; sleep 1000"]), "--console-socket", path).start()
        connection, _ = listening.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    try:
        assert os.read(fds[0], 100).strip() == b"/dev/pts/0"
        assert os.stat(box.path("/dev/console")).st_uid == UID
    finally:
        os.close(fds[0])


def test_hooks_run_as_the_user(user: User) -> None:
    names = ("createRuntime", "createContainer", "poststart", "poststop")
    directory = f"{user.top}/hooks"
    os.mkdir(directory)
    os.chown(directory, UID, UID)
    hooks = {name: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat >{directory}/{name}"]}] for name in names}
    box = user.up({"hooks": hooks})
    box.delete()
    assert sorted(os.listdir(directory)) == sorted(names)
    assert {os.stat(f"{directory}/{name}").st_uid for name in names} == {UID}


def test_groups_stay_where_they_cannot_be_dropped() -> None:
    user = User(groups=f"44,{UID}")
    try:
        assert user.up().status("Groups").split() == ["44", str(UID)]
    finally:
        user.finish()


# -- what cannot be had is said ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"process": {"user": {"uid": 5}}}, "process.user.uid: 5 has no mapping"),
        ({"process": {"user": {"uid": 0, "gid": 0, "additionalGids": [5]}}}, "process.user.additionalGids: [5] cannot be set"),
        ({"process": {"oomScoreAdj": -500}}, "oom_score_adj to -500"),
        ({"linux": {"resources": {"memory": {"limit": 1 << 26}}}}, "linux.resources.memory.limit is asked for, but no cgroup is delegated"),
        ({"linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount")], "uidMappings": None, "gidMappings": None}},
         "only with a 'user' namespace"),
        ({"linux": {"namespaces": [{"type": kind} for kind in ("ipc", "uts", "mount", "user")]}}, "a pid namespace of the container's own"),
        ({"linux": {"namespaces": [{"type": kind} for kind in ("pid", "uts", "mount", "user")]}}, "an ipc namespace of the container's own"),
        ({"linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "mount", "user", "time")]}}, "linux.namespaces: 'time'"),
    ],
)  # fmt: skip
def test_what_takes_rights_is_refused_with_a_reason(user: User, changes: dict, said: str) -> None:
    assert said in user.fails(changes)


def test_a_mount_with_an_id_that_is_not_mapped(user: User) -> None:
    mounts = [{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["gid=5"]}]
    assert "mounts[6].options: 'gid=5' has no mapping in linux.gidMappings" in user.fails(mounts=mounts)


def test_more_ids_without_newuidmap_name_it_and_subuid() -> None:
    user = User(path="/nowhere")
    try:
        text = user.fails(RANGES)
    finally:
        user.finish()
    assert "newuidmap" in text
    assert "/etc/subuid" in text
    assert f"your own id {UID}" in text


def test_exec_before_start_says_why_not(user: User) -> None:
    box = user.create(user.bundle())
    assert "'start' it first" in box.exec("id", code=255).stderr


def test_pause_without_a_cgroup_says_how_to_have_one(user: User) -> None:
    assert "no cgroup is delegated to this user" in user.call("pause", user.up().id, code=1).stderr


def test_state_is_for_the_user_alone(user: User) -> None:
    box = user.up()
    for path, mode in ((user.root, 0o1700), (os.path.dirname(user.root), 0o700)):
        found = os.stat(path)
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (mode, UID)
    other = User(OTHER_UID)
    try:
        for words in (("state", box.id), ("kill", box.id, "KILL"), ("delete", "--force", box.id), ("exec", box.id, "id")):
            text = other.call("--root", user.root, *words, code=None).stderr
            assert "another user" in text
    finally:
        other.finish()
    assert box.status("State")


def test_the_state_of_root_is_not_the_users(user: User) -> None:
    root = Oci()
    try:
        box = root.up()
        for words in (("state", box.id), ("kill", box.id, "KILL"), ("delete", "--force", box.id), ("exec", box.id, "id")):
            assert "belongs to another user" in user.call("--root", root.root, *words, code=None).stderr
        assert box.exec("id", "-u").stdout.strip() == "0"
    finally:
        root.finish()


# -- ranges of ids ------------------------------------------------------------------------------------------


def test_newuidmap_maps_what_subuid_grants(ranged: User) -> None:
    changes = merged(RANGES, {"process": {"user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}}})
    mounts = [{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "gid=5", "mode=620"]}]
    box = ranged.up(changes, mounts=mounts)
    assert squeezed(box.proc("uid_map")) == squeezed(box.proc("gid_map")) == [f"0 {UID} 1", f"1 {FIRST} {COUNT}"]
    assert box.status("Uid").split()[0] == str(FIRST + 999)
    assert box.status("Gid").split()[0] == str(FIRST + 1000)
    assert box.status("Groups").split() == [str(FIRST + 4), str(FIRST + 5)]
    assert f"gid={FIRST + 4}" in box.mount("/dev/pts")["super"]
    assert ranged.call("exec", "--user", "7", box.id, "id", "-u").stdout.strip() == "7"
    ranged.call("kill", box.id, "KILL")
    box.wait()


def test_the_pipes_of_a_program_belong_to_it(ranged: User) -> None:
    changes = merged(RANGES, {"process": {"user": {"uid": 1000, "gid": 1000}}})
    script = "echo one; echo two >/dev/stdout; stat -L -c %u /proc/self/fd/1"
    bundle = ranged.bundle(changes, args=["sh", "-c", script])
    # The pipe must be the user's own: `cat` is between it and the test.
    done = subprocess.run(
        ranged.as_user("sh", "-c", f'{python()} -IS {_MAIN} run --bundle "$0" "$1" | cat', bundle, ranged.identity()),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["one", "two", "1000"], done.stderr


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_what_newuidmap_says_is_passed_on(ranged: User, kind: str) -> None:
    changes = merged(RANGES, {"linux": _maps(kind, {"containerID": 1, "hostID": FIRST - 1, "size": 2})})
    text = ranged.fails(changes)
    assert f"linux.{kind}Mappings: new{kind}map 0 {UID} 1 1 {FIRST - 1} 2 exited with 1" in text
    assert "not allowed" in text
    assert f"/etc/sub{kind}" in text


def test_crun_s_annotation_keeps_the_groups(overlays: "tuple[str, ...]") -> None:
    user = User(wrapper=overlays, groups=f"44,{UID}")
    try:
        box = user.up(merged(RANGES, {"annotations": {"run.oci.keep_original_groups": "1"}}))
        assert box.status("Groups").split() == ["44", str(UID)]
        box.delete()
        assert user.up(RANGES).status("Groups").split() == []
    finally:
        user.finish()


# -- root of a user namespace -------------------------------------------------------------------------------


def test_root_without_rights_outside_is_noticed(user: User) -> None:
    """As Podman calls it for an ordinary user: euid 0, and no user namespace in the bundle."""
    user.wrapper = ()
    spec = {"linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")], "uidMappings": None, "gidMappings": None}}
    bundle = user.bundle(spec, args=["sh", "-c", "id -u; stat -c %t:%T /dev/null; echo x >/dev/null && echo fine"])
    for path, _, names in os.walk(bundle):
        for name in (path, *(f"{path}/{name}" for name in names)):
            os.chown(name, UID, UID, follow_symlinks=False)
    words = user.command("run", "--bundle", bundle, user.identity())
    at = words.index(python())
    done = subprocess.run([*words[:at], "unshare", "-Ur", *words[at:]], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.stdout.split() == ["0", "1:3", "fine"], done.stderr


# -- a delegated cgroup -------------------------------------------------------------------------------------


@v1
def test_delegated_groups_take_limits_and_the_freezer() -> None:
    """What is delegated of v1's hierarchies is used; a limit in another one is refused."""
    user = User()
    name = f"{user.name}-delegated"
    places = [f"{GROUPS}/{controller}/{name}" for controller in ("pids", "freezer")]
    try:
        for place in places:
            os.mkdir(place)
            for file in (place, f"{place}/cgroup.procs"):
                os.chown(file, UID, UID)
        script = "; ".join(f"echo $$ >{place}/cgroup.procs" for place in places)
        user.wrapper = ("sh", "-c", f'{script}; exec "$@"', "sh")
        box = user.up({"linux": {"resources": {"pids": {"limit": 33}}}})
        assert f":pids:/{name}/{box.id}" in box.proc("cgroup")
        assert Path(f"{places[0]}/{box.id}/pids.max").read_text().strip() == "33"
        user.call("pause", box.id)
        assert Path(f"{places[1]}/{box.id}/freezer.state").read_text().strip() == "FROZEN"
        assert user.state(box.id)["status"] == "paused"
        user.call("resume", box.id)
        user.call("update", "--pids-limit", "44", box.id)
        assert Path(f"{places[0]}/{box.id}/pids.max").read_text().strip() == "44"
        box.exec("true")
        assert "memory" in user.fails({"linux": {"resources": {"memory": {"limit": 1 << 26}}}})
    finally:
        user.wrapper = ()
        for identity in user.identities():
            user.call("delete", "--force", identity)
        for place in places:
            os.rmdir(place)
        user.finish()


# -- Podman ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def podman(overlays: "tuple[str, ...]") -> Iterator["Callable[..., subprocess.CompletedProcess[str]]"]:
    """Podman as the user, with its store and everything below a temporary directory, and an image `bb`."""
    if not shutil.which("podman") or not shutil.which("newuidmap"):
        pytest.skip("needs Debian's podman and uidmap")
    top = tempfile.mkdtemp(prefix="berth-podman-", dir="/var/tmp")
    for name in ("", "run", "home"):
        os.makedirs(f"{top}/{name}", exist_ok=True)
        os.chown(f"{top}/{name}", UID, UID)
        os.chmod(f"{top}/{name}", 0o755 if not name else 0o700)
    runtime = f"{top}/berth-oci"
    Path(runtime).write_text(f'#!/bin/sh\nexec {python()} -IS {_MAIN} "$@"\n')
    os.chmod(runtime, 0o755)
    environment = ["env", "-i", f"HOME={top}/home", "USER=berthtest", f"XDG_RUNTIME_DIR={top}/run", f"PATH={os.environ['PATH']}", "TMPDIR=/var/tmp"]
    base = [*overlays, "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *environment, "podman"]
    base += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", runtime]

    def call(*words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run([*base, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, cwd=top, check=False)
        assert done.returncode == code, f"podman {words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    rootfs = Oci()
    try:
        tree = f"{rootfs.bundle()}/rootfs"
        subprocess.run(["tar", "-C", tree, "-cf", f"{top}/bb.tar", "."], check=True)
    finally:
        rootfs.finish()
    call("import", f"{top}/bb.tar", "bb")
    yield call
    call("rm", "--all", "--force")
    pause = Path(f"{top}/run/libpod/tmp/pause.pid")
    if not pause.exists():
        pause = next(iter(Path(f"{top}/run").glob("**/pause.pid")), pause)
    if pause.exists():
        os.kill(int(pause.read_text()), 9)  # the process that keeps Podman's user namespace
    shutil.rmtree(top, ignore_errors=True)


def test_podman_runs_it_for_an_ordinary_user(podman: "Callable[..., subprocess.CompletedProcess[str]]") -> None:
    done = podman("run", "--rm", "--network", "none", "bb", "sh", "-c", "id -u; cat /proc/self/uid_map")
    assert squeezed(done.stdout) == ["0", f"0 {UID} 1", f"1 {FIRST} {COUNT}"]


def test_podman_s_options_for_an_ordinary_user(podman: "Callable[..., subprocess.CompletedProcess[str]]") -> None:
    words = ("--user", "1000", "--read-only", "--tmpfs", "/x:mode=1777", "bb", "sh", "-c", "id -u; touch /x/y && touch /z")
    done = podman("run", "--rm", "--network", "none", *words, code=1)
    assert done.stdout.strip() == "1000"
    assert "/z: Read-only file system" in done.stderr
    assert podman("run", "--rm", "--network", "host", "bb", "echo", "host").stdout.strip() == "host"
    assert podman("run", "--rm", "--network", "none", "bb", "sh", "-c", "exit 7", code=7).returncode == 7


def test_podman_executes_and_stops(podman: "Callable[..., subprocess.CompletedProcess[str]]") -> None:
    identity = podman("run", "--detach", "--network", "none", "bb", *SLEEP).stdout.strip()
    assert podman("exec", identity, "id", "-u").stdout.strip() == "0"
    assert podman("exec", "--user", "1000", identity, "id", "-u").stdout.strip() == "1000"
    podman("stop", "--time", "0", identity)
    assert podman("inspect", "--format", "{{.State.Status}}", identity).stdout.strip() == "exited"
    podman("rm", identity)


# -- cgroup v2 --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(200)
def test_a_delegated_group_of_v2() -> None:
    """In a throw-away machine; v2_rootless.py runs inside, as root that delegates and as the machine's user."""
    guest.need()
    with tempfile.TemporaryDirectory(prefix="berth-v2.") as directory:
        os.chmod(directory, 0o755)
        shutil.copytree(f"{REPOSITORY}/src", f"{directory}/src", ignore=shutil.ignore_patterns("__pycache__", "sealer"))
        shutil.copy(Path(__file__).with_name("v2_rootless.py"), directory)
        found = guest.findings(guest.run(directory, f"v2_rootless.py {guest.SHARE}", "--via", "uml", timeout_s=170))
    assert found["run"] == {"code": 0, "out": "0\n", "err": ""}
    assert found["limits"] == {"pids.max": "33", "memory.max": str(64 << 20)}
    assert found["cgroup"].startswith("0::/delegated/")
    assert found["uid_map"] == ["0 1000 1", "1 100000 65536"]
    assert found["frozen"] == "1"
    assert found["paused"] == "paused"
    assert found["exec"]["out"] == "0::/\n", found["exec"]
    assert found["mounted"] == "cgroup2"
    assert found["updated"] == "44"
    assert "no cgroup is delegated" in found["not delegated"]["err"]
    assert found["left"] == []
