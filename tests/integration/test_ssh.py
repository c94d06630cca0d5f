"""ssh:// through a real sshd on this host, which has keys and a configuration of its own; with Docker's CLI and berth's."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine, free_port, read, wait_until

SSHD = "/usr/sbin/sshd"
pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.exists(SSHD), reason="needs Debian's openssh-server")]

BERTH = f'exec {sys.executable} -IS {REPOSITORY}/src/berth/cli/__main__.py "$@"'


class Far:
    """An engine behind an sshd, and the two command lines on this side of it."""

    def __init__(self, engine: Engine, top: Path, port: int) -> None:
        self.engine, self.top, self.port = engine, top, port
        self.address = f"ssh://root@127.0.0.1:{port}"
        env = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "BERTH_", "SSH_"))}
        self.env = {**env, "PATH": f"{top}/near:{env['PATH']}", "DOCKER_CONFIG": f"{top}/config"}

    def run(self, program: str, *words: str, input: bytes | None = None, host: str | None = None) -> subprocess.CompletedProcess[bytes]:
        """`docker` or `berth`; host: '' for none."""
        command = ["docker"] if program == "docker" else [f"{self.top}/near/berth"]
        address = self.address if host is None else host
        given = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        options = ["-H", address] if address else []
        return subprocess.run([*command, *options, *words], env=self.env, capture_output=True, timeout=60, **given)  # type: ignore[call-overload,no-any-return]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def far(rootfs_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    top = tmp_path_factory.mktemp("ssh")
    engine = Engine()
    engine.docker("import", rootfs_tar, "bb")
    port = free_port()
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(top / name)], check=True)
    shutil.copy(top / "user.pub", top / "authorized")
    (top / "known").write_text(f"[127.0.0.1]:{port} {(top / 'host.pub').read_text()}")
    # The far side's programs: there, `docker` is berth, as the documents advise.
    for name in ("far/berth", "far/docker", "near/berth"):
        script(top / name, BERTH)
    script(top / "near/ssh", f'exec /usr/bin/ssh -F {top}/client "$@"')
    (top / "client").write_text(
        f"IdentityFile {top}/user\nIdentitiesOnly yes\nUserKnownHostsFile {top}/known\nGlobalKnownHostsFile /dev/null\n"
        "BatchMode yes\nStrictHostKeyChecking yes\nLogLevel ERROR\n"
    )
    (top / "server").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {top}/host\nAuthorizedKeysFile {top}/authorized\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
        f"SetEnv PATH={top}/far:/usr/bin:/bin BERTH_HOST=unix://{engine.exec}/berth.sock\n"
    )
    made = not os.path.exists("/run/sshd")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # where sshd locks up the process that talks to strangers
    with open(top / "sshd.log", "w") as log:
        sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(top / "server")], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: sshd.poll() is not None or answers(port), "sshd does not answer")
        assert sshd.poll() is None, read(str(top / "sshd.log"))
        yield Far(engine, top, port)
        engine.finish()  # nor may a dial-stdio be left
    finally:
        sshd.terminate()
        sshd.wait(60)
        if made:
            with contextlib.suppress(OSError):
                os.rmdir("/run/sshd")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


BOTH = pytest.mark.parametrize("program", ["docker", "berth"])


@BOTH
def test_containers_from_here(far: Far, program: str) -> None:
    data = os.urandom(1 << 20)
    done = far.run(program, "run", "--rm", "-i", "--network", "none", "bb", "sh", "-c", "cat; echo after; exit 7", input=data)
    assert done.returncode == 7, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data + b"after\n").digest()
    identity = far.engine.up()
    done = far.run(program, "exec", "-i", identity, "sh", "-c", "wc -c; echo after; echo wrong >&2; exit 3", input=data)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"%d\nafter\n" % len(data), b"wrong\n")
    assert identity[:12].encode() in far.run(program, "ps").stdout
    far.engine.rm(identity)


@BOTH
def test_logs_until_the_end(far: Far, program: str) -> None:
    command = ("sh", "-c", "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; usleep 20000; done")
    identity = far.engine.up(command=command)
    done = far.run(program, "logs", "-f", identity)
    assert done.stdout.decode().split("\n") == [*(f"line {number}" for number in range(1, 51)), ""], done.stderr
    far.engine.rm(identity)


@BOTH
def test_files_both_ways(far: Far, program: str, tmp_path: Path) -> None:
    identity = far.engine.up()
    (tmp_path / "there").write_bytes(os.urandom(2 << 20))
    assert far.run(program, "cp", str(tmp_path / "there"), f"{identity}:/tmp/x").returncode == 0
    assert far.run(program, "cp", f"{identity}:/tmp/x", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()
    far.engine.rm(identity)


def test_contexts(far: Far) -> None:
    """Made with the one command line, used with the other."""
    assert far.run("berth", "context", "create", "ours", "--docker", f"host={far.address}", host="").returncode == 0
    assert far.run("docker", "context", "create", "theirs", "--docker", f"host={far.address}", host="").returncode == 0
    expected = far.engine.docker("version", "--format", "{{json .Server.Version}}").stdout
    for program, name in (("docker", "ours"), ("berth", "theirs")):
        done = far.run(program, "--context", name, "version", "--format", "{{json .Server.Version}}", host="")
        assert json.loads(done.stdout) == json.loads(expected), done.stderr


@pytest.mark.parametrize(("change", "said"), [
    ("port", "Connection refused"), ("known", "Host key verification failed"), ("user", "Permission denied (publickey)"),
    ("program", "berth: command not found"),
])  # fmt: skip
def test_what_goes_wrong_is_said_in_sshs_words(far: Far, change: str, said: str) -> None:
    before = {path: path.read_text() for path in (far.top / "client", far.top / "known")}
    (far.top / "client").write_text(before[far.top / "client"].replace(f"{far.top}/{change}", f"{far.top}/stranger"))
    hidden = far.top / "far/berth"
    host = f"ssh://root@127.0.0.1:{free_port()}" if change == "port" else None
    try:
        if change == "program":
            hidden.rename(far.top / "away")
        done = far.run("berth", "ps", host=host)
    finally:
        for path, text in before.items():
            path.write_text(text)
        if change == "program":
            (far.top / "away").rename(hidden)
    said_here = done.stderr.decode()
    assert done.returncode == 1, said_here
    assert said in said_here
    assert "Traceback" not in said_here
    assert f"Cannot connect to the engine at {host or far.address}: ssh ended before an engine answered" in said_here
