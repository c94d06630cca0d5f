"""Podman (Debian's) with `--runtime berth-oci`: everything it does to a container, and the same through runc."""

import json
import os
import pty
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from harness import GROUPS, mounts
from oci import BERTH, make_archive

if not (shutil.which("podman") and shutil.which("conmon")):
    pytest.skip("needs Debian's podman and conmon", allow_module_level=True)

_CONTAINERS_CONF = """
[engine]
events_logger = "file"
cgroup_manager = "cgroupfs"
runtime_supports_json = ["berth-oci", "runc"]
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:2048", "nproc=4096:4096"]
"""
LOOP = ("sh", "-c", 'trap "echo term; exit 3" TERM; echo up; while :; do sleep 0.05; done')


class Podman:
    """One with stores of its own. Call finish()."""

    def __init__(self) -> None:
        self.mounts_before = mounts()
        self.top = tempfile.mkdtemp(prefix="berth-podman-", dir="/var/tmp")
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{self.top}/graph"\nrunroot = "{self.top}/run"\n'
        for name, text in (("storage.conf", storage), ("containers.conf", _CONTAINERS_CONF)):
            with open(f"{self.top}/{name}", "w") as file:
                file.write(text)
        self.env = {
            **os.environ, "CONTAINERS_STORAGE_CONF": f"{self.top}/storage.conf", "CONTAINERS_CONF": f"{self.top}/containers.conf",
            "TMPDIR": self.top,  # and conmon leaves a file `oom` in its work directory
        }  # fmt: skip
        make_archive(f"{self.top}/rootfs.tar")
        self("import", f"{self.top}/rootfs.tar", "bb")

    def command(self, *words: str, runtime: str = BERTH) -> "list[str]":
        places = ("--root", f"{self.top}/graph", "--runroot", f"{self.top}/run", "--tmpdir", f"{self.top}/tmp")
        return ["podman", "--runtime", runtime, *places, "--cgroup-manager", "cgroupfs", *words]

    def __call__(self, *words: str, code: "int | None" = 0, runtime: str = BERTH, input: "str | None" = None) -> "subprocess.CompletedProcess[str]":
        stdin: dict = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(self.command(*words, runtime=runtime), env=self.env, cwd=self.top, capture_output=True, text=True, timeout=60, **stdin)
        assert code is None or done.returncode == code, f"podman {words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def in_terminal(self, *words: str, until: bytes = b"\n") -> str:
        """What podman says on a terminal of 20 lines by 60 columns."""
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        process = subprocess.Popen(self.command(*words), env=self.env, cwd=self.top, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        said = b""
        poll = select.poll()
        poll.register(master, select.POLLIN)
        while poll.poll(30_000):
            try:
                said += os.read(master, 4096)
            except OSError:
                break
        os.close(master)
        assert process.wait(30) == 0, said
        return said.decode()

    def finish(self) -> None:
        self("rm", "--all", "--force", "--time", "0")
        assert self("ps", "--all", "--quiet").stdout == ""
        assert not [name for name in os.listdir("/run/berth/oci") if name != "@seccomp" and os.path.exists(f"{self.top}/graph/vfs-containers/{name}")]
        left = [line for line in mounts() - self.mounts_before if self.top in line]
        for line in left:
            subprocess.run(["umount", "-l", line.split()[4]], check=False)
        shutil.rmtree(self.top)
        groups = [name for name in os.listdir(f"{GROUPS}/pids/libpod_parent") if name.startswith("libpod-")]
        assert not groups, f"cgroups are left: {groups}"


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    made = Podman()
    yield made
    made.finish()


def test_what_a_program_sees_is_what_runc_shows_it(podman: Podman) -> None:
    script = "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; id; ulimit -n; ls /dev; env | sort | grep -v HOSTNAME; cat /proc/self/oom_score_adj"
    for options in (
        (), ("--user", "1000:5"), ("--cap-drop", "all"), ("--cap-add", "sys_admin", "--user", "5"), ("--privileged",),
        ("--security-opt", "no-new-privileges"), ("--security-opt", "seccomp=unconfined"), ("--umask", "0077"),
        ("--oom-score-adj", "100"), ("--uidmap", "0:100000:2000", "--gidmap", "0:100000:2000"),
    ):  # fmt: skip
        words = ("run", "--rm", "--network", "none", *options, "bb", "sh", "-c", script)
        assert podman(*words).stdout == podman(*words, runtime="runc").stdout, options


@pytest.mark.parametrize(
    ("args", "code"),
    [(("sh", "-c", "exit 7"), 7), (("no-such",), 127), (("/etc/passwd",), 126), (("/no/such",), 127),
     (("sh", "-c", "a=x; while :; do a=$a$a; done"), 137)],
)  # fmt: skip
def test_exit_codes(podman: Podman, args: "tuple[str, ...]", code: int) -> None:
    for runtime in (BERTH, "runc") if code in (126, 127) else (BERTH,):
        podman("run", "--rm", "--network", "none", "--memory", "20m", "--memory-swap", "20m", "bb", *args, code=code, runtime=runtime)


def test_a_life(podman: Podman) -> None:
    podman("run", "--detach", "--name", "life", "--network", "none", "--memory", "64m", "--pids-limit", "33", "bb", *LOOP)
    assert podman("exec", "life", "echo", "in").stdout == "in\n"
    podman("exec", "life", "sh", "-c", "exit 9", code=9)
    podman("exec", "life", "no-such", code=127)
    podman("exec", "life", "/etc/passwd", code=126)
    assert podman("exec", "-i", "life", "cat", input="hello").stdout == "hello"
    assert podman("exec", "--user", "1000", "--workdir", "/tmp", "--env", "A=b", "life", "sh", "-c", "id -u; pwd; echo $A").stdout == "1000\n/tmp\nb\n"
    group = podman("inspect", "life", "--format", "{{.State.CgroupPath}}").stdout.strip()
    for file, value in (("memory/memory.limit_in_bytes", str(64 << 20)), ("pids/pids.max", "33")):
        with open(f"{GROUPS}/{file.split('/')[0]}{group}/{file.split('/')[1]}") as opened:
            assert opened.read().strip() == value
    podman("update", "--memory", "32m", "life")
    with open(f"{GROUPS}/memory{group}/memory.limit_in_bytes") as opened:
        assert opened.read().strip() == str(32 << 20)
    podman("pause", "life")
    assert podman("inspect", "life", "--format", "{{.State.Status}}").stdout == "paused\n"
    podman("unpause", "life")
    assert podman("top", "life", "pid", "comm").stdout.split()[:3] == ["PID", "COMMAND", "1"]
    assert podman("stats", "--no-stream", "--format", "{{.Name}}", "life").stdout == "life\n"
    podman("kill", "--signal", "TERM", "life")
    podman("wait", "life")
    podman("start", "life")
    podman("restart", "--time", "0", "life")
    podman("stop", "--time", "20", "life")
    found = json.loads(podman("inspect", "life").stdout)[0]["State"]
    assert (found["ExitCode"], found["Status"]) == (3, "exited")
    assert podman("logs", "life").stdout.split()[-2:] == ["up", "term"]
    podman("rm", "life")


def test_terminals(podman: Podman) -> None:
    words = ("sh", "-c", "tty; ls -l /proc/self/fd/0 | grep -c pts")
    assert podman.in_terminal("run", "--rm", "-it", "--network", "none", "bb", *words).split() == ["/dev/pts/0", "1"]
    podman("run", "--detach", "--name", "term", "--network", "none", "bb", "sleep", "1000")
    assert podman.in_terminal("exec", "-it", "term", *words).split() == ["/dev/pts/0", "1"]
    podman("rm", "--force", "--time", "0", "term")


def test_namespaces_are_shared(podman: Podman) -> None:
    podman("run", "--detach", "--name", "first", "--network", "none", "bb", "sleep", "1000")
    seen = podman("run", "--rm", "--pid", "container:first", "--network", "container:first", "--ipc", "container:first", "bb", "ps").stdout
    assert "sleep 1000" in seen
    namespaces = "for kind in pid ipc net; do readlink /proc/self/ns/$kind; done"
    inside = podman("exec", "first", "sh", "-c", namespaces).stdout
    assert podman("run", "--rm", "--pid", "container:first", "--network", "container:first", "--ipc", "container:first", "bb", "sh", "-c", namespaces).stdout == inside
    host = podman("run", "--rm", "--pid", "host", "--ipc", "host", "--network", "host", "bb", "sh", "-c", namespaces).stdout.split()
    assert host == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "net")]
    podman("rm", "--force", "--time", "0", "first")


def test_options_that_reach_the_runtime(podman: Podman) -> None:
    def run(*words: str, code: int = 0) -> str:
        return podman("run", "--rm", "--network", "none", *words, code=code).stdout

    assert run("--init", "--init-path", "/usr/bin/tini-static", "bb", "cat", "/proc/1/comm") == "podman-init\n"
    run("--read-only", "--read-only-tmpfs=false", "bb", "touch", "/x", code=1)
    run("--read-only", "bb", "touch", "/tmp/x")
    assert run("--hostname", "abc", "bb", "hostname") == "abc\n"
    assert run("--sysctl", "net.ipv4.ip_forward=1", "bb", "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    assert run("--tmpfs", "/q:size=1m,mode=1700", "bb", "stat", "-c", "%a", "/q") == "1700\n"
    run("--volume", "/etc:/h:ro", "bb", "touch", "/h/x", code=1)
    profile = f"{podman.top}/seccomp.json"
    with open(profile, "w") as file:
        json.dump({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}, file)
    assert "supported" in podman("run", "--rm", "--network", "none", "--security-opt", f"seccomp={profile}", "bb", "mkdir", "/x", code=1).stderr
    with open("/etc/hostname") as file:
        given = podman.command("run", "--rm", "--network", "none", "--preserve-fds", "1", "bb", "sh", "-c", "cat <&3")
        done = subprocess.run(["sh", "-c", 'exec "$@" 3</etc/hostname', "sh", *given], env=podman.env, capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == file.read()


def test_a_created_container_and_a_pod(podman: Podman) -> None:
    podman("create", "--name", "later", "--network", "none", "bb", "true")
    podman("init", "later")
    assert podman("inspect", "later", "--format", "{{.State.Status}}").stdout == "initialized\n"
    podman("start", "later")
    assert podman("wait", "later").stdout == "0\n"
    podman("rm", "later")
    podman("pod", "create", "--name", "pod", "--infra=false")
    assert podman("run", "--rm", "--pod", "pod", "--network", "none", "bb", "echo", "in").stdout == "in\n"
    podman("pod", "rm", "--force", "pod")


def test_errors_come_through_the_log(podman: Podman) -> None:
    said = podman("run", "--rm", "--network", "none", "bb", "no-such", code=127).stderr
    assert 'exec: "no-such": executable file not found in $PATH' in said
