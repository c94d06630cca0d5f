"""dockerd (Debian's) with berth-oci as its default runtime: what Docker's CLI does, and the same through runc."""

import os
import pty
import select
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from dockerd import Dockerd
from harness import GROUPS, wait_until
from oci import BERTH, make_archive

if not (shutil.which("dockerd") and shutil.which("containerd-shim-runc-v2")):
    pytest.skip("needs Debian's docker.io", allow_module_level=True)

LOOP = ("sh", "-c", 'trap "echo term; exit 3" TERM; echo up; while :; do sleep 0.05; done')


class Daemon(Dockerd):
    """One whose containers berth-oci runs."""

    def __init__(self) -> None:
        ulimits = {"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}}}
        super().__init__("--add-runtime", f"berth={BERTH}", "--default-runtime", "berth", config=ulimits, image=False)
        make_archive(f"{self.top}/rootfs.tar")
        self("import", f"{self.top}/rootfs.tar", "bb")

    def in_terminal(self, *words: str) -> str:
        """What the CLI says on a terminal."""
        master, slave = pty.openpty()
        process = subprocess.Popen(["docker", *words], env=self.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
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


@pytest.fixture(scope="module")
def docker() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.finish()


@pytest.mark.parametrize(
    ("args", "code"),
    [(("sh", "-c", "exit 42"), 42), (("no-such",), 127), (("/etc/passwd",), 126), (("/no/such",), 127), (("/etc",), 126),
     (("sh", "-c", "a=x; while :; do a=$a$a; done"), 137)],
)  # fmt: skip
def test_exit_codes(docker: Daemon, args: "tuple[str, ...]", code: int) -> None:
    for runtime in ("berth", "runc") if code in (126, 127) else ("berth",):
        docker("run", "--runtime", runtime, "--rm", "--memory", "20m", "--memory-swap", "20m", "bb", *args, code=code)


def test_a_mount_that_cannot_be_is_the_daemons_error(docker: Daemon) -> None:
    for runtime in ("berth", "runc"):
        said = docker("run", "--runtime", runtime, "--rm", "--volume", "/etc/passwd:/etc", "bb", "true", code=125).stderr
        assert "Are you trying to mount a directory onto a file" in said


def test_what_a_program_sees_is_what_runc_shows_it(docker: Daemon) -> None:
    script = "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; id; ulimit -n; ls /dev; env | sort | grep -v HOSTNAME; cat /proc/self/oom_score_adj; ls -l /proc/self/fd/0"
    for options in (
        (), ("--user", "1000:5", "--group-add", "7"), ("--cap-drop", "all", "--cap-add", "chown"),
        ("--security-opt", "no-new-privileges"), ("--security-opt", "seccomp=unconfined"), ("--oom-score-adj", "100"),
        ("--network", "none", "--pid", "host", "--ipc", "host", "--uts", "host", "--userns", "host"),
    ):  # fmt: skip
        seen = []
        for runtime in ("berth", "runc"):
            out = docker("run", "--runtime", runtime, "--rm", *options, "bb", "sh", "-c", script).stdout
            seen.append([" ".join(line.split()[:1] + line.split()[-3:]) if "/fd/0" in line else line for line in out.splitlines()])
        assert seen[0] == seen[1], options


def test_a_life(docker: Daemon) -> None:
    identity = docker("run", "--detach", "--name", "life", "--memory", "64m", "bb", *LOOP).stdout.strip()
    assert docker("exec", "life", "echo", "in").stdout == "in\n"
    docker("exec", "life", "sh", "-c", "exit 9", code=9)
    for _ in range(5):
        assert "permission denied" in "".join((done := docker("exec", "life", "/etc/passwd", code=126)).stdout + done.stderr)
    assert docker("exec", "-i", "life", "cat", input="hello").stdout == "hello"
    assert docker("exec", "--user", "1000", "--workdir", "/tmp", "--env", "A=b", "life", "sh", "-c", "id -u; pwd; echo $A $HOME").stdout == "1000\n/tmp\nb /\n"
    docker("update", "--memory", "32m", "--memory-swap", "32m", "--pids-limit", "44", "life")
    for file, value in (("memory/memory.limit_in_bytes", str(32 << 20)), ("pids/pids.max", "44")):
        controller, name = file.split("/")
        with open(f"{GROUPS}/{controller}/{docker.name}/{identity}/{name}") as opened:
            assert opened.read().strip() == value
    docker("pause", "life")
    assert docker("inspect", "life", "--format", "{{.State.Status}}").stdout == "paused\n"
    assert "paused" in docker("exec", "life", "true", code=1).stderr
    docker("unpause", "life")
    wait_until(lambda: "sleep 0.05" in docker("top", "life").stdout, "no sleep: between two of them there is none")
    assert docker("stats", "--no-stream", "--format", "{{.Name}}", "life").stdout == "life\n"
    docker("kill", "--signal", "TERM", "life")
    assert docker("wait", "life").stdout == "3\n"
    docker("start", "life")
    docker("restart", "--time", "0", "life")
    docker("stop", "--time", "20", "life")
    assert docker("inspect", "life", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}").stdout == "3 false\n"
    assert docker("logs", "life").stdout.split()[-2:] == ["up", "term"]
    docker("rm", "life")


def test_terminals(docker: Daemon) -> None:
    words = ("sh", "-c", "tty; stat -c %u /dev/pts/0")
    assert docker.in_terminal("run", "--rm", "-it", "--user", "1000", "bb", *words).split() == ["/dev/pts/0", "1000"]
    docker("run", "--detach", "--name", "term", "bb", "sleep", "1000")
    assert docker.in_terminal("exec", "-it", "--user", "1000", "term", *words).split() == ["/dev/pts/0", "1000"]
    docker("rm", "--force", "term")


def test_namespaces_are_shared(docker: Daemon) -> None:
    docker("run", "--detach", "--name", "first", "--network", "none", "--ipc", "shareable", "bb", "sleep", "1000")
    namespaces = "for kind in pid ipc net; do readlink /proc/self/ns/$kind; done"
    shared = ("--pid", "container:first", "--ipc", "container:first", "--network", "container:first")
    assert docker("run", "--rm", *shared, "bb", "sh", "-c", namespaces).stdout == docker("exec", "first", "sh", "-c", namespaces).stdout
    host = docker("run", "--rm", "--pid", "host", "--ipc", "host", "--network", "host", "bb", "sh", "-c", namespaces).stdout.split()
    assert host == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "net")]
    docker("rm", "--force", "first")


def test_options_that_reach_the_runtime(docker: Daemon) -> None:
    def run(*words: str, code: int = 0) -> str:
        return docker("run", "--rm", *words, code=code).stdout

    assert run("--init", "bb", "cat", "/proc/1/comm") == "docker-init\n"
    run("--read-only", "--tmpfs", "/tmp", "bb", "sh", "-c", "touch /tmp/x && ! touch /x")
    assert run("--hostname", "abc", "--domainname", "def", "bb", "sh", "-c", "hostname; cat /proc/sys/kernel/domainname") == "abc\ndef\n"
    assert run("--network", "none", "--sysctl", "net.ipv4.ip_forward=1", "bb", "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    assert run("--shm-size", "1m", "bb", "df", "/dev/shm").split()[-5:-4] == ["1024"]
    run("--volume", "/etc:/h:ro", "bb", "touch", "/h/x", code=1)
    limits = ("--cpus", "0.5", "--cpu-shares", "100", "--cpuset-cpus", "0", "--pids-limit", "20", "--memory", "100m")
    files = ("cpu/cpu.cfs_quota_us", "cpu/cpu.shares", "cpuset/cpuset.cpus", "pids/pids.max", "memory/memory.limit_in_bytes")
    assert run(*limits, "bb", "cat", *(f"/sys/fs/cgroup/{file}" for file in files)).split() == ["50000", "100", "0", "20", str(100 << 20)]
    assert set(run("--cgroupns", "private", "bb", "sh", "-c", "cut -d: -f3 /proc/self/cgroup").split()) == {"/"}


def test_health_and_restart_policy(docker: Daemon) -> None:
    docker("run", "--detach", "--name", "well", "--health-cmd", "exit 0", "--health-interval", "1s", "bb", "sleep", "1000")
    docker("run", "--detach", "--name", "again", "--restart", "on-failure:2", "bb", "false")
    events = ("events", "--since", "0", "--filter", "container=well", "--filter", "event=health_status")
    with subprocess.Popen(["docker", *events], env=docker.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as watching:
        assert watching.stdout
        assert b"healthy" in watching.stdout.readline()
        watching.terminate()
    docker("wait", "again")
    assert docker("inspect", "again", "--format", "{{.RestartCount}}").stdout == "2\n"
    docker("rm", "--force", "well", "again")
