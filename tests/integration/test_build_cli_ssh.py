"""Repositories by ssh, through a real sshd on this host: with the agent that `berth build --ssh` lends, and with hosts that the engine's host knows."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildcli import dockerfile, run_berth, with_libraries, write
from harness import Engine, free_port, read, wait_until

SSHD = "/usr/sbin/sshd"
pytestmark = [pytest.mark.root, pytest.mark.skipif(not (os.path.exists(SSHD) and shutil.which("ssh-agent")), reason="needs Debian's openssh-server")]


class Server:
    """sshd with a repository. env: of the agent that has the one key that is let in; known: for /etc/ssh, where it is known."""

    def __init__(self, top: Path) -> None:
        self.port = free_port()
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", top / name], check=True)
        self.known = top / "known"
        write(top, known__ssh_known_hosts=f"[127.0.0.1]:{self.port} {(top / 'host.pub').read_text()}")
        write(top, work__Dockerfile="FROM bb\nCOPY f /f\n", work__f="by-ssh\n")
        for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "one")):
            subprocess.run(["git", *words], cwd=top / "work", check=True)
        subprocess.run(["git", "clone", "-q", "--bare", top / "work", top / "app.git"], check=True)
        self.url = f"ssh://root@127.0.0.1:{self.port}{top}/app.git"
        write(top, server=(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {top}/host\nAuthorizedKeysFile {top}/user.pub\nPidFile none\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
        ))  # fmt: skip
        self._made = not os.path.exists("/run/sshd")
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # where sshd locks up the process that talks to strangers
        self._log = str(top / "log")
        with open(self._log, "w") as log:
            self._sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(top / "server")], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._directory = tempfile.mkdtemp(prefix="berth-test-agent-", dir="/var/tmp")
        self.env = {"SSH_AUTH_SOCK": f"{self._directory}/s"}
        self._agent = subprocess.Popen(["ssh-agent", "-D", "-a", self.env["SSH_AUTH_SOCK"]], stdout=subprocess.DEVNULL)
        wait_until(lambda: self._sshd.poll() is not None or "listening on" in read(self._log), "sshd does not answer")
        assert self._sshd.poll() is None, read(self._log)
        wait_until(lambda: os.path.exists(self.env["SSH_AUTH_SOCK"]), "no agent")
        subprocess.run(["ssh-add", "-q", top / "user"], env={**os.environ, **self.env}, check=True)

    def close(self) -> None:
        for process in (self._sshd, self._agent):
            process.terminate()
            process.wait(60)
        shutil.rmtree(self._directory)
        if self._made:
            with contextlib.suppress(OSError):
                os.rmdir("/run/sshd")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("ssh"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def knowing(server: Server, rootfs_tar: str) -> Iterator[Engine]:
    """An engine whose host knows the server: in a mount namespace of its own, so that there is no trace on this one."""
    running = Engine(wrapper=("unshare", "-m", "--propagation", "slave", "sh", "-c", 'mount --bind "$0" /etc/ssh && exec "$@"', str(server.known)))
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


def test_a_context(knowing: Engine, server: Server, tmp_path: Path) -> None:
    run_berth(knowing, "build", "-t", "ssh:context", "--ssh", "default", server.url, cwd=tmp_path, env=server.env)
    assert knowing.run("ssh:context", "cat", "/f").stdout == "by-ssh\n"
    refused = run_berth(knowing, "build", server.url, cwd=tmp_path, env=server.env, code=1)  # nobody lends an agent
    assert "Permission denied" in refused.stderr
    other = run_berth(knowing, "build", "--ssh", f"other={server.env['SSH_AUTH_SOCK']}", server.url, cwd=tmp_path, code=1)
    assert "Permission denied" in other.stderr


def test_sources_of_a_build(knowing: Engine, server: Server, tmp_path: Path) -> None:
    dockerfile(tmp_path, f"FROM bb\nADD {server.url} /added\nCOPY --from=code f /copied\n")
    words = ("build", "-t", "ssh:sources", "--ssh", "default", "--build-context", f"code={server.url}#main", ".")
    run_berth(knowing, *words, cwd=tmp_path, env=server.env)
    assert knowing.run("ssh:sources", "cat", "/added/f", "/copied").stdout == "by-ssh\nby-ssh\n"
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"/var/tmp/berth-test" in read(str(path)).encode() and "git" in read(str(path))]


def test_a_server_that_nobody_knows(engine: Engine, server: Server, tmp_path: Path) -> None:
    done = run_berth(engine, "build", "--ssh", "default", server.url, cwd=tmp_path, env=server.env, code=1)
    assert "Host key verification failed" in done.stderr
    assert "add its key to /etc/ssh/ssh_known_hosts there" in done.stderr


def test_steps_side_by_side_share_an_agent(engine: Engine, server: Server, tmp_path: Path) -> None:
    with_libraries(str(shutil.which("ssh-add")), tmp_path / "programs")
    write(tmp_path, programs__etc__passwd="root:x:0:0::/:/bin/sh\n")
    stages = "".join(f"FROM base AS s{number}\nRUN --mount=type=ssh,mode=06{number % 3}0 ssh-add -l >/key{number}\n" for number in range(8))
    copies = "".join(f"COPY --from=s{number} /key{number} /\n" for number in range(8))
    dockerfile(tmp_path, f"FROM bb AS base\nCOPY programs /\n{stages}FROM scratch\n{copies}")
    run_berth(engine, "build", "--ssh", "default", "-o", "out", ".", cwd=tmp_path, env=server.env)
    assert {path.read_text().split()[-1] for path in (tmp_path / "out").iterdir()} == {"(ED25519)"}
