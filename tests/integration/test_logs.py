"""Log drivers and `docker logs`, by Docker's CLI, curl, and the files themselves."""

import gzip
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from dockerd import Dockerd
from harness import Engine, free_port, mounts, parent, read, status, wait_until

pytestmark = pytest.mark.root
Up = Callable[..., str]


def directory(engine: Engine, identity: str) -> Path:
    return Path(f"{engine.data}/containers/{identity}")


def finished(engine: Engine, *options: str, command: tuple[str, ...]) -> str:
    identity = engine.up(*options, command=command)
    engine.docker("wait", identity)
    return identity


COUNT = ("sh", "-c", "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i; done")


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_it_turns_over_is_compressed_and_read_back(engine: Engine, driver: str) -> None:
    options = ("--log-driver", driver, "--log-opt", "max-size=40k", "--log-opt", "max-file=50", "--log-opt", "compress=true")
    script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); j=0; while [ $j -lt 20 ]; do j=$((j+1)); echo $i.$j some text; done; usleep 1000; done"
    identity = finished(engine, *options, command=("sh", "-c", script))
    expected = "".join(f"{i}.{j} some text\n" for i in range(1, 301) for j in range(1, 21))
    assert engine.docker("logs", identity).stdout == expected
    files = sorted(path.name for path in directory(engine, identity).rglob("*log*") if path.is_file())
    packed = [name for name in files if name.endswith(".gz")]
    assert packed, files
    text = gzip.decompress((directory(engine, identity) / packed[0]).read_bytes()).decode()
    assert " some text" in text
    assert text.endswith("\n")
    lines = expected.splitlines(keepends=True)
    for tail in (1, 100, 3000, 5999, 6001):
        assert engine.docker("logs", "--tail", str(tail), identity).stdout == "".join(lines[-tail:])
    assert not any(name.endswith(".new") for name in files)
    engine.rm(identity)


def test_the_default_is_bounded(engine: Engine) -> None:
    identity = finished(engine, command=("sh", "-c", "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 90000000"))
    sizes = [path.stat().st_size for path in directory(engine, identity).glob("*-json.log*")]
    assert len(sizes) == 5
    assert sum(sizes) < 110_000_000
    assert json.loads(engine.docker("inspect", identity).stdout)[0]["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}
    path = json.loads(engine.docker("inspect", identity).stdout)[0]["LogPath"]
    assert path == f"{directory(engine, identity)}/{identity}-json.log"
    last = subprocess.run(["tail", "-n", "1", path], capture_output=True, text=True, check=True).stdout
    assert json.loads(last)["stream"] == "stdout"
    engine.rm(identity)


def test_attributes_and_details(engine: Engine) -> None:
    options = ("--log-opt", "tag=x-{{.Name}}", "--log-opt", "env=A", "--log-opt", "labels=l", "-e", "A=b c", "-l", "l=m", "--name", "attrs")
    identity = finished(engine, *options, command=("sh", "-c", "echo out; printf unf"))
    entries = [json.loads(line) for line in (directory(engine, identity) / f"{identity}-json.log").read_text().splitlines()]
    assert [entry["attrs"] for entry in entries] == [{"A": "b c", "l": "m", "tag": "x-attrs"}] * 2
    stamp = entries[0]["time"]
    # As dockerd 20.10 has it.
    assert engine.docker("logs", "--details", "-t", identity).stdout.startswith(f"{stamp} A=b+c,l=m,tag=x-attrs out\n")
    assert engine.docker("logs", "--details", identity).stdout == "A=b+c,l=m,tag=x-attrs out\nA=b+c,l=m,tag=x-attrs unf"
    engine.rm(identity)


def test_refused(engine: Engine) -> None:
    for options, text in (
        (("--log-driver", "nope"), 'plugin "nope" not found'),
        (("--log-opt", "foo=1"), "unknown log opt 'foo' for json-file log driver"),
        (("--log-opt", "max-size=abc"), "failed to initialize logging driver: invalid size: 'abc'"),
        (("--log-driver", "syslog", "--log-opt", "syslog-address=foo"), "syslog-address should be in form proto://address, got foo"),
    ):
        assert text in engine.docker("create", *options, "bb", "true", code=1).stderr


def test_what_is_sent_away_can_be_read_here_too(engine: Engine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "syslog"))
        server.settimeout(60)
        options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{tmp_path}/syslog", "--log-opt", "tag={{.Name}}",
                   "--log-opt", "syslog-format=rfc5424", "--log-opt", "syslog-facility=local0", "--name", "tosyslog")  # fmt: skip
        identity = finished(engine, *options, command=("sh", "-c", "echo hello; echo more >&2"))
        messages = sorted(server.recv(1000) for _ in range(2))
        assert [message[:7] for message in messages] == [b"<131>1 ", b"<134>1 "]
        assert [message.partition(b" tosyslog - ")[2] for message in messages] == [b"more\n", b"hello\n"]
        read_back = engine.docker("logs", identity)
        assert (read_back.stdout, read_back.stderr) == ("hello\n", "more\n")
        engine.rm(identity)
        identity = finished(engine, *options, "--log-opt", "cache-disabled=true", command=("echo", "hello"))
    for name in (identity, finished(engine, "--log-driver", "none", command=("echo", "x"))):
        assert "configured logging driver does not support reading" in engine.docker("logs", name, code=1).stderr
        engine.rm(name)
    assert engine.run("--log-driver", "none", "bb", "echo", "seen").stdout == "seen\n"
    if not os.path.exists("/run/systemd/journal/socket"):
        failed = engine.docker("run", "--rm", "--network", "none", "--log-driver", "journald", "bb", "true", code=None)
        assert failed.returncode in (125, 128)
        assert "failed to initialize logging driver: journald is not enabled on this host" in failed.stderr


def test_syslog_over_tls(engine: Engine, tmp_path: Path) -> None:
    """To openssl, which asks for a certificate too and prints what it gets."""
    for name in ("server", "client"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-days", "2",
             "-keyout", f"{name}-key.pem", "-out", f"{name}.pem", "-addext", "subjectAltName=IP:127.0.0.1"],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
    port, got = free_port(), tmp_path / "got"
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", "server.pem", "-key", "server-key.pem", "-Verify", "1",
               "-verify_return_error", "-CAfile", "client.pem", "-quiet"]  # fmt: skip
    options: list[str] = ["--network", "none", "--log-driver", "syslog"]
    for option in (f"address=tcp+tls://127.0.0.1:{port}", f"tls-cert={tmp_path}/client.pem", f"tls-key={tmp_path}/client-key.pem"):
        options += ["--log-opt", f"syslog-{option}"]
    authority = ("--log-opt", f"syslog-tls-ca-cert={tmp_path}/server.pem")
    with open(got, "wb") as file, subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: reachable(port), "no server")
            for trusting, text in ((authority, "hello"), (("--log-opt", "syslog-tls-skip-verify=1"), "unseen")):
                engine.docker("run", "--rm", *options, *trusting, "bb", "echo", text)
                wait_until(lambda text=text: f": {text}\n".encode() in got.read_bytes(), f"no {text} in {got.read_bytes()!r}")  # type: ignore[misc]
            refused = engine.docker("run", "--rm", *options, "bb", "true", code=None)
            assert refused.returncode in (125, 128)
            assert "failed to initialize logging driver" in refused.stderr
            assert "certificate verify failed" in refused.stderr
        finally:
            server.kill()


def reachable(port: int) -> bool:
    """Without a connection, which this server would serve alone: from the kernel's table of listeners."""
    rows = [line.split() for line in read("/proc/net/tcp").splitlines()[1:]]
    return any(row[1] == f"0100007F:{port:04X}" and row[3] == "0A" for row in rows)


def test_times_and_streams(engine: Engine) -> None:
    identity = finished(engine, command=("sh", "-c", "for i in 1 2 3 4 5 6; do echo o$i; usleep 5000; echo e$i >&2; usleep 5000; done"))
    both = subprocess.run(["docker", "logs", "-t", identity], env=engine.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    lines = both.stdout.splitlines()
    assert [line.split()[1] for line in lines] == [f"{stream}{i}" for i in range(1, 7) for stream in "oe"]
    stamps = [line.split()[0] for line in lines]
    assert stamps == sorted(stamps)

    def logs(*options: str) -> str:
        done = engine.docker("logs", *options, identity)
        return done.stdout + done.stderr

    assert logs("--since", stamps[6]) == "o4\no5\no6\ne4\ne5\ne6\n"
    assert logs("--until", stamps[2]) == "o1\no2\ne1\n"
    assert logs("--since", stamps[2], "--until", stamps[3]) == "o2\ne2\n"
    assert logs("--since", stamps[2], "--tail", "3") == "o6\ne5\ne6\n"
    assert logs("--until", stamps[9], "--tail", "4") == "o5\ne5\n"
    assert logs("--since", "10m", "-f") == logs()
    assert logs("--since", "2001-01-01", "--until", "1h") == ""
    engine.rm(identity)


def test_follow_over_turns_to_the_end_and_a_removal(engine: Engine) -> None:
    options = ("-i", "--log-opt", "max-size=20k", "--log-opt", "max-file=20", "--log-opt", "compress=true")
    identity = engine.up(*options, command=("sh", "-c", "echo first; read x; i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i; done; read x"))
    followers = [
        subprocess.Popen(["docker", "logs", "-f", *more, identity], env=engine.env, stdout=subprocess.PIPE, text=True)
        for more in ((), ("--tail", "0"), ("--since", "1h"))
    ]
    assert followers[0].stdout
    assert followers[2].stdout
    assert followers[0].stdout.readline() == followers[2].stdout.readline() == "first\n"
    # Only `--tail 0` has shown nothing by which to know that it is there: its connection to the monitor is.
    monitor = parent(engine.pid(identity))
    wait_until(lambda: sum("socket" in os.readlink(f"/proc/{monitor}/fd/{fd}") for fd in os.listdir(f"/proc/{monitor}/fd")) >= 5, "followers")
    engine.docker("exec", identity, "sh", "-c", "echo > /proc/1/fd/0", code=None)
    subprocess.run(["docker", "attach", identity], env=engine.env, input=b"go\n", stdout=subprocess.DEVNULL, timeout=20, check=False)
    outputs = [follower.communicate(timeout=30)[0] for follower in followers]
    assert outputs[0] == outputs[2] == "".join(f"line {i}\n" for i in range(1, 4001))
    assert outputs[1] in (outputs[0], "first\n" + outputs[0])
    assert [follower.returncode for follower in followers] == [0, 0, 0]
    engine.rm(identity)

    identity = engine.up(command=("sh", "-c", "echo here; exec sleep 1000"))
    follower = subprocess.Popen(["docker", "logs", "-f", identity], env=engine.env, stdout=subprocess.PIPE, text=True)
    assert follower.stdout
    assert follower.stdout.readline() == "here\n"
    engine.rm(identity)
    assert follower.communicate(timeout=60)[0] == ""


def test_a_stalled_follower_stops_nobody(engine: Engine, up: Up) -> None:
    """Who reads the log is behind in the file, not in memory, and the container goes on."""
    def memory_kib(pid: int) -> int:
        return int(status(pid)["VmRSS"].split()[0])

    assert engine.process
    before_kib = memory_kib(engine.process.pid)
    line, lines = "0123456789" * 10, 600_000
    script = f"echo first; usleep 300000; yes {line} | head -n {lines}; echo done >&2; exec sleep 1000"
    identity = up("--log-opt", "max-size=-1", command=("sh", "-c", script))
    with subprocess.Popen(["docker", "logs", "-f", identity], env=engine.env, stdout=subprocess.PIPE) as follower:
        try:
            assert follower.stdout
            assert follower.stdout.read(6) == b"first\n"
            wait_until(lambda: "done" in engine.docker("logs", "--tail", "1", identity).stderr, "the end of the output", 60)
            assert memory_kib(engine.process.pid) - before_kib < 50_000
            assert memory_kib(parent(engine.pid(identity))) < 50_000
            digest, left = hashlib.sha256(), lines * (len(line) + 1)
            while left:
                data = follower.stdout.read(min(left, 1 << 16))
                digest.update(data)
                left -= len(data)
            assert digest.hexdigest() == hashlib.sha256(f"{line}\n".encode() * lines).hexdigest()
            engine.rm(identity)
            assert follower.wait(60) == 0
        finally:
            follower.kill()


@pytest.fixture
def small_disk_engine(rootfs_tar: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine whose containers are on a tmpfs of 8 MB."""
    running = Engine()
    running.docker("import", rootfs_tar, "bb")
    running.stop()
    path = f"{running.data}/containers"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    running.mounts_before = mounts()
    running.start()
    yield running
    try:
        running.rm(*running.docker("ps", "-aq").stdout.split())
        wait_until(lambda: os.listdir(path) == [], "directories")
        running.stop()
    finally:
        subprocess.run(["umount", path], check=True)
    running.start()
    running.mounts_before = mounts()
    running.finish()


def test_a_full_disk_stops_nobody(small_disk_engine: Engine) -> None:
    engine = small_disk_engine
    # 20 MB of output on 8 MB of disk; what the program then says must come, and its exit code be known.
    script = "yes 0123456789012345678901234567890123456789 | head -c 20500000; echo last; exit 7"
    done = engine.docker("run", "--name", "full", "--network", "none", "--log-opt", "max-size=-1", "bb", "sh", "-c", script, code=7)
    assert done.stdout.endswith("\nlast\n")
    assert len(done.stdout) == 20_500_005
    assert engine.docker("inspect", "-f", "{{.State.ExitCode}} {{.State.Running}}", "full").stdout == "7 false\n"
    logged = engine.docker("logs", "full").stdout
    assert logged.startswith("0123456789012345678901234567890123456789\n")
    # The last line is a short one: what is left of the last block may be enough for it.
    assert set(logged.splitlines()) - {"last"} == {"0123456789012345678901234567890123456789"}
    engine.docker("rm", "full")
    assert engine.run("bb", "echo", "again").stdout == "again\n"
    # Turning over, the log leaves room again and again.
    again = finished(engine, "--log-opt", "max-size=1m", "--log-opt", "max-file=3", command=("sh", "-c", f"{script}"))
    assert engine.docker("logs", "--tail", "1", again).stdout == "last\n"
    engine.rm(again)


def test_a_killed_monitor_and_engine_lose_no_whole_line(own_engine: Engine) -> None:
    engine = own_engine
    identity = engine.up("-i", command=("sh", "-c", "echo one; read x; echo two; read x"))
    wait_until(lambda: engine.docker("logs", identity).stdout == "one\n", "a line")
    engine.kill()
    engine.start()
    follower = subprocess.Popen(["docker", "logs", "-f", identity], env=engine.env, stdout=subprocess.PIPE, text=True)
    assert follower.stdout
    assert follower.stdout.readline() == "one\n"
    attached = subprocess.Popen(["docker", "attach", identity], env=engine.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert attached.stdin
    attached.stdin.write("x\n")
    attached.stdin.flush()
    assert follower.stdout.readline() == "two\n"
    os.kill(parent(engine.pid(identity)), 9)
    assert follower.communicate(timeout=60)[0] == ""
    attached.communicate(timeout=60)
    wait_until(lambda: not engine.state(identity)["Running"], "the end")
    assert engine.docker("logs", identity).stdout == "one\ntwo\n"


def test_tag_is_dockerds(engine: Engine, real: Dockerd) -> None:
    """One template of many parts; the ids in it are each engine's own."""
    parts = (
        "{{.ID}}", "{{.FullID}}", "{{.Name}}", "{{.ImageID}}", "{{.ImageFullID}}", "{{.ImageName}}", "{{.DaemonName}}", "{{.Command | upper}}",
        "{{.ExtraAttributes nil}}", '{{index (.ExtraAttributes nil) "app"}}', '{{printf "%5.3s|%q|%d" .Name .Name 5}}', "{{.ContainerLabels.nope}}",
        "{{range $i, $a := .ContainerArgs}}{{$i}}={{$a}} {{end}}", '{{with .ContainerLabels}}{{.app}}{{end}}', '{{print 1 2 "a" "b"}}', "{{.ContainerEnv}}",
    )  # fmt: skip
    found = []
    for docker in (real, engine.docker):
        words = ("run", "-d", "--name", "tagged", "--network", "none", "-l", "app=web", "-e", "A=b", "--log-opt", "labels=app", "--log-opt", "env-regex=^A")
        identity = docker(*words, "--log-opt", f"tag={' ~ '.join(parts)}", "bb", "echo", "hi", "you").stdout.strip()
        docker("wait", "tagged")
        image = docker("inspect", "-f", "{{.Image}}", "tagged").stdout.strip()
        details = unquote(docker("logs", "--details", "tagged").stdout)
        found.append(details.replace(identity, "ID").replace(identity[:12], "ID12").replace(image, "IMAGE").replace(image[:12], "IMAGE12"))
        docker("rm", "tagged")
    assert found[1] == found[0]
    assert "IMAGE12" in found[0]
