"""The verbs of `berth oci` as runc has them: states, output, exit codes, descriptors, hooks, and what a kill leaves.

What a container is like inside is for test_oci_fields; that Podman and dockerd are content, for the tests of their name.
"""

import json
import os
import random
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import GROUPS, REPOSITORY
from oci import Oci

LOOP = ["sh", "-c", 'trap "exit 4" TERM; echo up; while :; do sleep 0.05; done']
POINTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@pytest.fixture(scope="module")
def oci() -> Iterator[Oci]:
    made = Oci()
    yield made
    made.finish()


@pytest.fixture(scope="module")
def runc() -> Iterator[Oci]:
    """The same bundles through runc, to compare with."""
    if not shutil.which("runc"):
        pytest.skip("needs runc")
    made = Oci("runc")
    yield made
    made.finish()


# -- states and exit codes -------------------------------------------------------------------------------


def test_a_life_step_by_step(oci: Oci) -> None:
    box = oci.create(oci.bundle(args=LOOP))
    assert oci.state(box.id)["status"] == "created"
    assert oci.call("exec", box.id, "echo", "in").stdout == "in\n"  # runc allows it
    oci.call("pause", box.id)
    assert oci.state(box.id)["status"] == "paused"
    assert "resume it first" in oci.call("start", box.id, code=1).stderr
    oci.call("resume", box.id)
    assert oci.state(box.id)["status"] == "created"
    box.start()
    assert oci.state(box.id)["status"] == "running"
    assert "already running" in oci.call("start", box.id, code=1).stderr
    assert "cannot delete" in oci.call("delete", box.id, code=1).stderr
    oci.call("pause", box.id)
    assert "--ignore-paused" in oci.call("exec", box.id, "true", code=255).stderr
    assert "not running" in oci.call("pause", box.id, code=1).stderr
    oci.call("resume", box.id)
    assert "not paused" in oci.call("resume", box.id, code=1).stderr
    oci.call("kill", box.id, "0")
    oci.call("kill", box.id)
    box.wait()
    found = oci.state(box.id)
    assert (found["status"], found["pid"]) == ("stopped", 0)
    for words, code in (
        (("kill", box.id), 1), (("start", box.id), 1), (("pause", box.id), 1), (("exec", box.id, "true"), 255),
        (("ps", box.id), 1), (("events", "--stats", box.id), 1), (("update", "--pids-limit", "9", box.id), 1),
    ):  # fmt: skip
        assert box.id in oci.call(*words, code=code).stderr
    oci.call("kill", "--all", box.id, "KILL")
    oci.call("delete", box.id)
    assert "does not exist" in oci.call("state", box.id, code=1).stderr
    oci.call("delete", "--force", box.id)


def test_delete_of_a_created_container_ends_it(oci: Oci) -> None:
    box = oci.create(oci.bundle())
    assert "exists" in oci.call("create", "--bundle", oci.bundle(), box.id, code=1).stderr
    oci.call("delete", box.id, timeout=60)
    box.wait()


@pytest.mark.parametrize(
    ("args", "code"),
    [(["sh", "-c", "exit 7"], 7), (["no-such"], 1), (["/etc/passwd"], 1), (["sh", "-c", "kill -KILL $$"], 137)],
)
def test_run_ends_as_its_program_did(oci: Oci, runc: Oci, args: list[str], code: int) -> None:
    def without_pid_namespace(spec: dict) -> None:  # in one of its own a first program cannot kill itself
        spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "pid"]

    for runtime in (oci, runc):
        runtime.run(runtime.bundle(args=args, edit=without_pid_namespace), code=code)


def test_exec_ends_as_its_program_did(oci: Oci) -> None:
    box = oci.up()
    assert box.exec("sh", "-c", "exit 9", code=9).stderr == ""
    box.exec("sh", "-c", "kill -KILL $$", code=137)
    for _ in range(20):  # whichever of parent and child is first
        assert "permission denied" in box.exec("/etc/passwd", code=255).stderr
    assert "not found in $PATH" in box.exec("no-such", code=255).stderr
    box.delete()


@pytest.mark.parametrize("identity", ["a/b", "..", ".", "", "a b", "ä", "a" * 1025])
def test_illegal_ids(oci: Oci, identity: str) -> None:
    assert "invalid container id" in oci.call("run", "--bundle", oci.bundle(), identity, code=1).stderr


@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete", "ps", "pause", "resume", "events", "update"])
def test_a_container_that_is_not_there(oci: Oci, verb: str) -> None:
    assert "'none' does not exist" in oci.call(verb, "none", code=1).stderr


def test_wrong_words_are_named(oci: Oci) -> None:
    assert "--nope" in oci.call("run", "--nope", "x", code=1).stderr
    assert "'extra'" in oci.call("state", "x", "extra", code=1).stderr
    assert "'nope'" in oci.call("nope", code=1).stderr
    assert "'xml'" in oci.call("list", "--format=xml", code=1).stderr
    assert "slice:prefix:name" in oci.call(
        "--systemd-cgroup", "run", "--bundle", oci.bundle({"linux": {"cgroupsPath": "/a/b"}}), oci.identity(), code=1
    ).stderr


# -- output ------------------------------------------------------------------------------------------------


def test_state_and_list_have_runcs_keys(oci: Oci, runc: Oci) -> None:
    boxes = [runtime.up({"annotations": {"a": "b"}}) for runtime in (oci, runc)]
    ours, theirs = (box.oci.state(box.id) for box in boxes)
    assert set(ours) == set(theirs)
    assert {**ours, "id": 0, "pid": 0, "bundle": 0, "rootfs": 0, "created": 0, "owner": 0, "ociVersion": 0} == {
        **theirs, "id": 0, "pid": 0, "bundle": 0, "rootfs": 0, "created": 0, "owner": 0, "ociVersion": 0,
    }  # fmt: skip
    tables = [box.oci.call("list").stdout.splitlines() for box in boxes]
    rows = [next(line for line in table if box.id in line) for table, box in zip(tables, boxes, strict=True)]
    for head, row in zip((table[0] for table in tables), rows, strict=True):
        assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
        assert [head.index(name) for name in head.split()] == [row.index(cell) for cell in row.split()]
    (entry,) = [e for e in json.loads(oci.call("list", "-f", "json").stdout) if e["id"] == boxes[0].id]
    assert entry["owner"] == "root"
    assert boxes[0].id in oci.call("list", "--quiet").stdout.split()
    for box in boxes:
        box.delete()


def test_ps_and_events(oci: Oci, runc: Oci) -> None:
    stats = []
    for runtime in (oci, runc):
        box = runtime.up()
        assert json.loads(runtime.call("ps", "--format", "json", box.id).stdout) == [box.pid]
        assert runtime.call("ps", box.id, "-o", "pid,comm").stdout.split() == ["PID", "COMMAND", str(box.pid), "sleep"]
        stats.append(json.loads(runtime.call("events", "--stats", box.id).stdout))
        box.delete()
    ours, theirs = stats
    assert ours["type"] == theirs["type"] == "stats"
    assert set(ours["data"]) >= set(theirs["data"]) - {"intel_rdt", "network_interfaces"}
    assert set(ours["data"]["memory"]) >= {"usage", "swap", "raw"}
    assert set(ours["data"]["cpu"]["usage"]) == set(theirs["data"]["cpu"]["usage"])


def test_update_from_flags_a_file_and_standard_input(oci: Oci) -> None:
    box = oci.up()

    def value(file: str) -> str:
        group = next(line.split(":", 2) for line in box.proc("cgroup").splitlines() if line.split(":")[1] == file.split(".")[0])
        with open(f"{GROUPS}/{file.split('.')[0]}{group[2]}/{file}") as opened:
            return opened.read().strip()

    oci.call("update", "--memory=32m", "--pids-limit", "44", "--cpu-share", "300", box.id)
    assert (value("memory.limit_in_bytes"), value("pids.max"), value("cpu.shares")) == (str(32 << 20), "44", "300")
    path = f"{oci.top}/resources.json"
    with open(path, "w") as file:
        json.dump({"pids": {"limit": 45}}, file)
    oci.call("update", f"--resources={path}", box.id)
    assert value("pids.max") == "45"
    oci.call("update", "-r", "-", box.id, input='{"pids": {"limit": -1}}')
    assert value("pids.max") == "max"
    assert "standard input: " in oci.call("update", "-r", "-", box.id, code=1, input="{").stderr
    assert "--memory 'x'" in oci.call("update", "--memory", "x", box.id, code=1).stderr
    box.delete()


def test_the_log_that_containerd_and_conmon_read(oci: Oci) -> None:
    path = f"{oci.top}/log.json"
    options = ("--log", path, "--log-format=json")
    oci.call(*options, "run", "--bundle", oci.bundle(args=["no-such"]), oci.identity(), code=1)
    oci.call(*options, "exec", "none", "true", code=255)
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    assert [set(line) for line in lines] == [{"level", "msg", "time"}] * 2
    assert lines[0]["level"] == "error"
    assert "executable file not found in $PATH" in lines[0]["msg"]


# -- descriptors -------------------------------------------------------------------------------------------


def test_sockets_of_systemd_and_preserved_descriptors(oci: Oci, runc: Oci) -> None:
    program = ["sh", "-c", 'echo "$LISTEN_FDS $LISTEN_PID"; cat <&3; cat <&4']
    script = 'exec 3<"$1" 4<"$2"; shift 2; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    paths = []
    for text in ("first", "second"):
        paths.append(f"{oci.top}/{text}")
        with open(paths[-1], "w") as file:
            file.write(f"{text}\n")
    for runtime in (oci, runc):
        command = runtime.command("run", "--preserve-fds", "1", "--bundle", runtime.bundle(args=program), runtime.identity())
        done = subprocess.run(["sh", "-c", script, "sh", *paths, *command], capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == "1 1\nfirst\nsecond\n"
    # Meant for another process: not ours to pass on.
    done = oci.run(oci.bundle(args=["sh", "-c", "echo $LISTEN_FDS; ls /proc/self/fd"]), env={**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert done.stdout.split() == ["0", "1", "2", "3"]
    assert "descriptor 3 is not open" in oci.run(oci.bundle(), "--preserve-fds", "1", code=1).stderr


def test_the_hosts_null_device_stays_outside(oci: Oci) -> None:
    oci.run(oci.bundle(args=["sh", "-c", "chmod 600 /proc/self/fd/0"]))
    box = oci.up()
    box.exec("sh", "-c", "chmod 600 /proc/self/fd/0")
    box.delete()
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666


def test_a_terminal_and_a_pid_file(oci: Oci) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = f"{oci.top}/console.sock"
        listener.bind(path)
        listener.listen()
        listener.settimeout(60)
        bundle = oci.bundle({"process": {"terminal": True, "consoleSize": {"height": 7, "width": 70}}}, args=["sh", "-c", "stty size; exec sleep 1000"])
        box = oci.create(bundle, f"--console-socket={path}", "--pid-file", f"{oci.top}/pid")
        with open(f"{oci.top}/pid") as file:
            assert file.read() == str(box.pid)
        box.start()
        with listener.accept()[0] as connection:
            _, fds, _, _ = socket.recv_fds(connection, 100, 1)
        said = b""
        while b"\n" not in said:
            said += os.read(fds[0], 100)
        assert said.split() == [b"7", b"70"]
        os.close(fds[0])
        box.delete()
    terminal = {"process": {"terminal": True}}
    assert "--console-socket" in oci.run(oci.bundle(terminal), "--detach", code=1).stderr
    assert "/nowhere" in oci.run(oci.bundle(terminal), "--detach", "--console-socket", "/nowhere", code=1).stderr


def test_exec_as_somebody_else(oci: Oci) -> None:
    box = oci.up()
    words = ("--user", "1000:5", "-g", "7", "-g", "8", "--cwd", "/tmp", "-e", "A=b", "--no-new-privs")
    done = oci.call("exec", *words, box.id, "sh", "-c", 'id; pwd; echo "$A $HOME"; grep NoNewPrivs /proc/self/status')
    assert done.stdout.split("\n")[:4] == ["uid=1000 gid=5 groups=7,8", "/tmp", "b /", "NoNewPrivs:\t1"]
    process = {"args": ["id", "-u"], "cwd": "/", "user": {"uid": 3, "gid": 3}}
    path = f"{oci.top}/process.json"
    with open(path, "w") as file:
        json.dump(process, file)
    assert oci.call("exec", "--process", path, box.id).stdout == "3\n"
    pid_file = f"{oci.top}/exec.pid"
    detached = oci.command("exec", "--detach", "--pid-file", pid_file, box.id, "sleep", "1000")
    subprocess.run(detached, check=True, timeout=20, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # it keeps them open
    with open(pid_file) as file:
        pid = int(file.read())
    assert sorted(json.loads(oci.call("ps", "-f", "json", box.id).stdout)) == sorted([box.pid, pid])
    box.delete()


def test_exec_into_a_group_below(oci: Oci) -> None:
    box = oci.up()
    groups = {line.split(":")[1]: line.split(":", 2)[2] for line in box.proc("cgroup").splitlines()}
    made = []
    for name in os.listdir(GROUPS):
        path = f"{GROUPS}/{name}{groups.get(name if name in groups else f'name={name}' if name != 'unified' else '', '/none')}"
        if os.path.isdir(path):
            os.mkdir(f"{path}/below")
            made.append(f"{path}/below")
            for file in ("cpuset.cpus", "cpuset.mems") if name == "cpuset" else ():
                with open(f"{path}/{file}") as source, open(f"{path}/below/{file}", "w") as target:
                    target.write(source.read())
    assert made

    def inside(*words: str) -> dict[str, str]:
        lines = oci.call("exec", *words, box.id, "cat", "/proc/self/cgroup").stdout.splitlines()
        return {line.split(":")[1]: line.split(":", 2)[2] for line in lines}

    assert set(inside("--cgroup", "below").values()) == {"/below"}
    assert inside("--cgroup=/below")["pids"] == "/below"
    mixed = inside("--cgroup", "cpu,memory:below", "--cgroup", "pids:/")
    assert (mixed["cpu"], mixed["memory"], mixed["pids"], mixed["freezer"]) == ("/below", "/below", "/", "/")
    for word, said in (("none", "does not exist"), ("foo:below", "no controller 'foo'"), ("../..", "lead out"), ("a:b:c", "'a:b:c'")):
        assert said in oci.call("exec", "--cgroup", word, box.id, "true", code=255).stderr
    for path in made:
        os.rmdir(path)
    box.delete()


# -- hooks -------------------------------------------------------------------------------------------------


def _hooked(oci: Oci, **changes: object) -> "tuple[str, str]":
    """A bundle with a hook at every point that writes point, status and pid to a file; and that file's path."""
    bundle = oci.bundle(args=["sh", "-c", "echo program >>/log/log"])
    log = f"{bundle}/log"
    os.mkdir(log)
    with open(f"{bundle}/config.json") as file:
        spec = json.load(file)
    spec["mounts"].append({"destination": "/log", "type": "bind", "source": log, "options": ["rbind", "rw"]})
    spec["hooks"] = {}
    for point in POINTS:
        where = "/log/log" if point == "startContainer" else f"{log}/log"
        sh = "/bin/sh" if point == "startContainer" else shutil.which("sh")
        script = f'read -r state; echo "{point} $0 $A $(echo "$state" | tr , "\\n" | grep status)" >>{where}'
        spec["hooks"][point] = [{"path": sh, "args": ["sh", "-c", script, "zero"], "env": ["A=b", "PATH=/bin:/usr/bin"], "timeout": 10}]
    for point, hook in changes.items():
        spec["hooks"][point] = hook
    oci.write_spec(bundle, spec)
    return bundle, f"{log}/log"


def _lines(path: str) -> "list[str]":
    with open(path) as file:
        return [line.replace('"', "").replace("{", "").replace("}", "").strip() for line in file]


def test_hooks_in_order_with_the_state_of_each_point(oci: Oci, runc: Oci) -> None:
    seen = []
    for runtime in (oci, runc):
        bundle, log = _hooked(runtime)
        box = runtime.create(bundle)
        at_create = _lines(log)
        box.start()
        box.wait()
        box.delete()
        seen.append((at_create, [line for line in _lines(log) if "poststart" not in line]))
        if runtime is oci:
            assert _lines(log)[:4] == [*at_create, "startContainer zero b status:created"]
            assert sorted(_lines(log)[4:6]) == ["poststart zero b status:running", "program"]  # at the same time
    ours, theirs = seen
    assert ours[0] == [f"{point} zero b status:creating" for point in POINTS[:3]]
    assert ours[1][5:] == ["poststop zero b status:stopped"]
    # runc 1.1 runs poststart at the end of `create`; the specification, and we, after `start`.
    assert (ours[0], ours[1]) == ([line for line in theirs[0] if "poststart" not in line], theirs[1])


@pytest.mark.parametrize("point", POINTS[:5])
def test_a_hook_that_fails_ends_the_container(oci: Oci, point: str) -> None:
    sh = "/bin/sh"
    bundle, log = _hooked(oci, **{point: [{"path": sh, "args": ["sh", "-c", "echo because >&2; exit 3"]}]})
    said = oci.run(bundle, code=1).stderr
    assert f"hooks.{point}[0]" in said
    assert "exited with 3: because" in said
    lines = [line.split()[0] for line in _lines(log)] if os.path.exists(log) else []
    assert lines[-1:] == ["poststop"]  # runtime.md#lifecycle: as after delete
    assert ("program" in lines) == (point == "poststart") or point == "poststart"
    oci.assert_nothing_left()


def test_a_poststop_hook_that_fails_is_a_warning_and_the_next_one_runs(oci: Oci) -> None:
    bundle, log = _hooked(oci)
    with open(f"{bundle}/config.json") as file:
        spec = json.load(file)
    spec["hooks"]["poststop"].insert(0, {"path": "/nonexistent"})
    oci.write_spec(bundle, spec)
    done = oci.run(bundle)
    assert "hooks.poststop[0]: /nonexistent" in done.stderr
    assert _lines(log)[-1].startswith("poststop")


def test_a_hook_has_only_its_time(oci: Oci) -> None:
    bundle, _ = _hooked(oci, createRuntime=[{"path": shutil.which("sleep"), "args": ["sleep", "100"], "timeout": 1}])
    assert "longer than its timeout of 1 s" in oci.run(bundle, code=1, timeout=60).stderr
    oci.assert_nothing_left()


# -- many at once, and killed at any moment ------------------------------------------------------------------


def test_twenty_at_once(oci: Oci) -> None:
    bundle = oci.bundle(args=["true"])

    def life(number: int) -> None:
        identity = f"{oci.name}-many-{number}"
        box = oci.create(bundle, identity=identity).start()
        box.wait()
        oci.call("delete", identity)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(life, range(20)))
    oci.assert_nothing_left()


def test_create_killed_at_any_moment_leaves_what_delete_removes(oci: Oci) -> None:
    bundle = oci.bundle()
    began = time.monotonic()
    with open(os.devnull, "w") as devnull:
        subprocess.run(oci.command("create", "--bundle", bundle, f"{oci.name}-timed"), check=True, stdin=subprocess.DEVNULL, stdout=devnull, stderr=devnull)
    whole_s = time.monotonic() - began
    oci.call("delete", "--force", f"{oci.name}-timed")
    chance = random.Random(1)
    for turn in range(50):
        identity = f"{oci.name}-killed-{turn}"
        process = subprocess.Popen(
            oci.command("create", "--bundle", bundle, identity), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        pidfd = os.pidfd_open(process.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(chance.uniform(0, 1.1 * whole_s) * 1000)
        process.kill()
        process.wait()
        os.close(pidfd)
        oci.call("list")
        oci.call("delete", "--force", identity, timeout=60)
        oci.assert_nothing_left()


@pytest.mark.parametrize("words", [["oci"], ["--debug", "oci"]])
def test_the_same_under_berth_oci(oci: Oci, words: list[str]) -> None:
    """`berth oci` is berth-oci; behind a global option the way there is another one."""
    bundle = oci.bundle(args=["sh", "-c", "readlink /proc/self/ns/pid; exit 4"])
    done = subprocess.run(
        [f"{REPOSITORY}/berth", *words, "--root", oci.root, "run", "--bundle", bundle, oci.identity()],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.strip() != os.readlink("/proc/self/ns/pid")
