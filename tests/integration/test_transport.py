"""How the engine is reached: TCP, TLS, systemd's sockets, a group, many connections; with Docker's CLI, curl and openssl."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine, free_port, read, wait_until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a CA, a server and a client of it, both also as they were two days ago, and a stranger.

    ca.pem, {server,client,old-server,old-client,stranger}{,-key}.pem; and what Docker's command line wants of a directory.
    """
    top = str(tmp_path_factory.mktemp("tls"))

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=top, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name, usage, days in (("server", "serverAuth", "2"), ("client", "clientAuth", "2"), ("old-server", "serverAuth", "-1"), ("old-client", "clientAuth", "-1")):
        openssl("req", *new_key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        with open(f"{top}/{name}.ext", "w") as file:
            file.write(f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usage}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-out", f"{name}.pem",
                "-days", days, "-extfile", f"{name}.ext")  # fmt: skip
    openssl("req", "-x509", *new_key, "-keyout", "stranger-key.pem", "-out", "stranger.pem", "-subj", "/CN=stranger", "-days", "2")
    for directory, authority, client in ((".", "ca", "client"), ("expired", "ca", "old-client"), ("wrong-ca", "stranger", "client"),
                                         ("foreign", "ca", "stranger")):  # fmt: skip
        os.makedirs(f"{top}/{directory}", exist_ok=True)
        for given, docker in ((f"{authority}.pem", "ca.pem"), (f"{client}.pem", "cert.pem"), (f"{client}-key.pem", "key.pem")):
            if not os.path.exists(f"{top}/{directory}/{docker}"):
                os.symlink(f"{top}/{given}", f"{top}/{directory}/{docker}")
    return top


class Reached:
    """An engine on a unix socket, on TCP and on TCP with TLS."""

    def __init__(self, engine: Engine, port: int, certificates: str) -> None:
        self.engine, self.port, self.certificates = engine, port, certificates

    def docker(self, *words: str, **keywords: object) -> subprocess.CompletedProcess[bytes]:
        """Docker's CLI over TLS, with the client's certificate."""
        env = {**self.engine.env, "DOCKER_CERT_PATH": self.certificates, "DOCKER_TLS_VERIFY": "1", "DOCKER_HOST": f"tcp://127.0.0.1:{self.port}"}
        return subprocess.run(["docker", *words], env=env, capture_output=True, timeout=60, **keywords)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def reached(rootfs_tar: str, certificates: str) -> Iterator[Reached]:
    port = free_port()
    options = (
        "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", f"{certificates}/ca.pem", "--tlscert", f"{certificates}/server.pem",
        "--tlskey", f"{certificates}/server-key.pem",
    )  # fmt: skip
    engine = Engine(options, hosts=True)
    engine.docker("import", rootfs_tar, "bb")
    yield Reached(engine, port, certificates)
    engine.finish()


def test_tls_with_docker(reached: Reached) -> None:
    assert reached.docker("version", "--format", "{{.Server.Platform.Name}}").stdout == b"berth\n"
    done = reached.docker("run", "--rm", "--network", "none", "bb", "echo", "over TLS")
    assert (done.returncode, done.stdout) == (0, b"over TLS\n"), done.stderr


def test_tls_keeps_what_comes_after_a_half_close(reached: Reached) -> None:
    """asyncio's own TLS loses all of it."""
    identity = reached.engine.up()
    done = reached.docker("exec", "-i", identity, "sh", "-c", "cat; echo after; exit 7", input=b"before\n")
    assert (done.returncode, done.stdout) == (7, b"before\nafter\n"), done.stderr
    data = os.urandom(1 << 20) * 24
    done = reached.docker("exec", "-i", identity, "sha256sum", input=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    done = reached.docker("exec", "-i", identity, "sh", "-c", "cat > /tmp/x; cat /tmp/x", input=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    done = reached.docker("exec", "-i", identity, "cat", input=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest(), "both ways at once"
    reached.engine.rm(identity)


DOCKER_PY = """
import docker, sys
address, top = sys.argv[1:]

def client_as(name):
    tls = docker.tls.TLSConfig(client_cert=(f"{top}/{name}.pem", f"{top}/{name}-key.pem"), ca_cert=f"{top}/ca.pem", verify=True)
    return docker.DockerClient(base_url=address, tls=tls, timeout=60)

client = client_as("client")
container = client.containers.run("bb", ["sh", "-c", "echo up; read x; echo got $x"], detach=True, stdin_open=True, network_mode="none")
both = container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
stdin = container.attach_socket(params={"stdin": 1, "stream": 1})
stdin.send(b"it\\n")
print(both.output, b"".join(container.logs(stream=True, follow=True)), container.wait()["StatusCode"])
print(sum(map(len, container.get_archive("/bin/busybox")[0])))
container.remove(force=True)
try:
    client_as("stranger")
except docker.errors.DockerException as error:
    print("alert" in str(error) or "reset" in str(error) or "closed" in str(error))
"""


def test_docker_py_over_tls(reached: Reached) -> None:
    """In a process of its own: docker-py leaves sockets of TLS open."""
    pytest.importorskip("docker")
    # requests would take these for our CA
    env = {key: value for key, value in os.environ.items() if key not in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")}
    words = [sys.executable, "-c", DOCKER_PY, f"tcp://127.0.0.1:{reached.port}", reached.certificates]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    first, size, refused = done.stdout.splitlines()
    assert first == repr((b"out\n", b"err\n")) + " " + repr(b"up\ngot it\n") + " 0"
    assert int(size) > os.stat("/bin/busybox").st_size
    assert refused == "True"


def test_tls_lets_only_clients_of_the_ca_in(reached: Reached) -> None:
    top, url = reached.certificates, f"https://127.0.0.1:{reached.port}/_ping"

    def curl(*words: str, to: str = url) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["curl", "-sS", "-m", "20", *words, to], capture_output=True, text=True)

    good = curl("--cacert", f"{top}/ca.pem", "--cert", f"{top}/client.pem", "--key", f"{top}/client-key.pem")
    assert good.stdout == "OK", good.stderr
    assert curl("--cacert", f"{top}/ca.pem").returncode != 0
    assert curl("-k", "--cert", f"{top}/stranger.pem", "--key", f"{top}/stranger-key.pem").returncode != 0
    assert curl("--tls-max", "1.1", "-k").returncode != 0
    assert curl(to=url.replace("https", "http")).returncode != 0
    with socket.create_connection(("127.0.0.1", reached.port)) as half:  # a handshake that is never finished
        half.sendall(b"\x16\x03\x01")
        assert curl("--cacert", f"{top}/ca.pem", "--cert", f"{top}/client.pem", "--key", f"{top}/client-key.pem").stdout == "OK"
    assert "Traceback" not in reached.engine.log()


@pytest.mark.parametrize(("directory", "dockers", "berths"), [
    ("expired", "expired certificate", "certificate expired"), ("foreign", "unknown certificate authority", "unknown ca"),
    ("wrong-ca", "certificate signed by unknown authority", "certificate verify failed"),
])  # fmt: skip
def test_tls_says_what_is_wrong_with_a_certificate(reached: Reached, directory: str, dockers: str, berths: str) -> None:
    env = {**reached.engine.env, "DOCKER_CERT_PATH": f"{reached.certificates}/{directory}", "DOCKER_TLS_VERIFY": "1",
           "DOCKER_HOST": f"tcp://127.0.0.1:{reached.port}"}  # fmt: skip
    theirs = subprocess.run(["docker", "ps"], env=env, capture_output=True, text=True, timeout=60)
    ours = berth("ps", env=env)
    assert (theirs.returncode, ours.returncode) == (1, 1)
    assert dockers in theirs.stderr
    assert berths in ours.stderr.decode()


def test_an_engine_whose_certificate_has_expired(certificates: str) -> None:
    """No client that verifies lets itself in with it."""
    port = free_port()
    options = ("-H", f"tcp://127.0.0.1:{port}", "--tls", "--tlscert", f"{certificates}/old-server.pem", "--tlskey", f"{certificates}/old-server-key.pem")
    engine = Engine(options, hosts=True)
    try:
        env = {**engine.env, "DOCKER_CERT_PATH": certificates, "DOCKER_TLS_VERIFY": "1", "DOCKER_HOST": f"tcp://127.0.0.1:{port}"}
        assert "certificate has expired" in berth("ps", env=env).stderr.decode()
        assert "certificate has expired" in subprocess.run(["docker", "ps"], env=env, capture_output=True, text=True, timeout=60).stderr
        curl = subprocess.run(["curl", "-sS", "--cacert", f"{certificates}/ca.pem", f"https://127.0.0.1:{port}/_ping"], capture_output=True, text=True)
        assert curl.returncode == 60  # the peer's certificate is not good
    finally:
        engine.finish()


def test_two_thousand_idle_connections(reached: Reached) -> None:
    """The engine has the descriptors for them, serves others meanwhile, and its containers keep the usual limit."""
    engine = reached.engine
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, usual[1]), usual[1]))
    assert engine.process
    opened: list[socket.socket] = []
    try:
        before = int(read(f"/proc/{engine.process.pid}/statm").split()[1]) * 4096
        for number in range(2000):
            opened.append(socket.socket(socket.AF_UNIX))
            opened[-1].connect(f"{engine.exec}/berth.sock")
            if number % 2:
                opened[-1].sendall(b"GET /_ping HT")
        assert engine.docker("ps").returncode == 0
        wait_until(lambda: len(os.listdir(f"/proc/{engine.process.pid}/fd")) > 2000, "fewer than 2000 descriptors")  # type: ignore[union-attr]
        grown = int(read(f"/proc/{engine.process.pid}/statm").split()[1]) * 4096 - before
        assert grown < 40 << 20, f"{grown} bytes for 2000 connections"
        assert int(engine.sh("ulimit -n")) == usual[0]
    finally:
        for sock in opened:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    wait_until(lambda: len(os.listdir(f"/proc/{engine.process.pid}/fd")) < 100, "descriptors of connections")  # type: ignore[union-attr]


def refused(*options: str, tmp: str) -> str:
    """What an engine says that does not start."""
    command = [sys.executable, "-m", "berth.cli.engine_main", "--data-root", f"{tmp}/data", "--exec-root", f"{tmp}/exec", *options]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_addresses_that_are_refused(tmp_path: object, certificates: str) -> None:
    tmp = str(tmp_path)
    assert "gives root on this host to everyone who reaches 0.0.0.0" in refused("-H", "tcp://0.0.0.0:0", tmp=tmp)
    assert "gives root" in refused("-H", "tcp://:0", tmp=tmp)
    assert "expected unix:///path, tcp://host:port or fd://" in refused("-H", "http://x", tmp=tmp)
    assert "no sockets were handed over" in refused("-H", "fd://", tmp=tmp)
    assert "no such group" in refused("-G", "no-such-group", tmp=tmp)
    assert "--tlscert /nowhere.pem: No such file" in refused("-H", "tcp://127.0.0.1:0", "--tls", "--tlscert", "/nowhere.pem", tmp=tmp)
    mixed = ("--tls", "--tlscert", f"{certificates}/server.pem", "--tlskey", f"{certificates}/client-key.pem")
    assert "no certificate and its key" in refused("-H", "tcp://127.0.0.1:0", *mixed, tmp=tmp)


def test_plain_tcp_on_several_hosts_and_a_group() -> None:
    first, second = free_port(), free_port()
    options = ("-H", f"tcp://127.0.0.1:{first}", "-H", f"tcp://0.0.0.0:{second}", "--tls=false", "-G", "12345")
    engine = Engine(options, hosts=True)
    try:
        for port in (first, second):
            done = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{port}/_ping"], capture_output=True, text=True)
            assert done.stdout == "OK", done.stderr
        assert f"API is accessible on http://0.0.0.0:{second} without encryption" in engine.log()
        status = os.stat(f"{engine.exec}/berth.sock")
        assert (status.st_gid, status.st_mode & 0o777) == (12345, 0o660)
    finally:
        engine.finish()


def test_sockets_from_systemd(tmp_path: Path) -> None:
    """As systemd hands them over, and told when we are ready; the file is systemd's and stays."""
    path, told = str(tmp_path / "api.sock"), str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        listening.bind(path)
        listening.listen()
        notified.bind(told)
        notified.settimeout(60)
        number = listening.fileno()
        script = f'exec 3<&{number}; NOTIFY_SOCKET={told} LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=api.socket exec "$@"'
        engine = Engine(("-H", "fd://"), ("bash", "-c", script, "bash"), hosts=True, pass_fds=(number,))
        try:
            assert notified.recv(100) == b"READY=1"
            done = subprocess.run(["curl", "-sS", "--unix-socket", path, "http://x/info"], capture_output=True, text=True)
            assert json.loads(done.stdout)["DockerRootDir"] == engine.data
        finally:
            engine.finish()
        assert notified.recv(100) == b"STOPPING=1"
        assert os.path.exists(path)


# -- berth's own command line, and Docker's over ssh -----------------------------------------------------------

FAKE_SSH = """#!/bin/sh
# Runs the far side's command here, through a shell as sshd does.
echo "$@" >> "$SSH_LOG"
while [ "$1" != -- ] && [ "$1" != example ]; do shift; done
[ "$1" = -- ] && shift
shift
exec sh -c "$*"
"""


def berth(*words: str, env: dict[str, str], input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    main = f"{REPOSITORY}/src/berth/cli/__main__.py"
    given = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run([sys.executable, "-IS", main, *words], env=env, capture_output=True, timeout=60, **given)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def ssh_env(reached: Reached, tmp_path: Path) -> dict[str, str]:
    """An ssh that stays here, and `berth` and `docker` in PATH on the far side that know our engine."""
    for name, text in (
        ("ssh", FAKE_SSH),
        ("berth", f'#!/bin/sh\nDOCKER_HOST= BERTH_HOST=unix://{reached.engine.exec}/berth.sock exec {sys.executable} -IS {REPOSITORY}/src/berth/cli/__main__.py "$@"\n'),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "BERTH_"))}
    return {**env, "PATH": f"{tmp_path}:{env['PATH']}", "SSH_LOG": f"{tmp_path}/log", "DOCKER_CONFIG": f"{tmp_path}/config"}


def test_berth_over_tls_and_ssh(reached: Reached, ssh_env: dict[str, str]) -> None:
    identity = reached.engine.up()
    data = os.urandom(1 << 20) * 8
    over_tls = {**ssh_env, "DOCKER_HOST": f"tcp://127.0.0.1:{reached.port}", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": reached.certificates}
    over_ssh = {**ssh_env, "DOCKER_HOST": "ssh://me@example:2222"}
    path = {**ssh_env, "DOCKER_HOST": f"ssh://example{reached.engine.exec}/berth.sock"}
    for env in (over_tls, over_ssh, path):
        done = berth("exec", "-i", identity, "sh", "-c", "cat > /tmp/x; cat /tmp/x; exit 7", env=env, input=data)
        assert done.returncode == 7, done.stderr
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
        assert identity[:12].encode() in berth("ps", env=env).stdout
    assert read(ssh_env["SSH_LOG"]).splitlines()[0] == "-o ConnectTimeout=30 -T -l me -p 2222 -- example berth system dial-stdio"
    without = berth("ps", env={**over_tls, "DOCKER_CERT_PATH": "/nowhere"})
    assert without.returncode == 1
    assert b"TLS" in without.stderr
    assert berth("--tls", "ps", env={**over_tls, "DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": "/nowhere"}).returncode == 1, "no client certificate"
    assert b"Connection refused" in berth("-H", "tcp://127.0.0.1:1", "ps", env=ssh_env).stderr
    reached.engine.rm(identity)


def test_docker_over_ssh_to_berth(reached: Reached, ssh_env: dict[str, str], tmp_path: Path) -> None:
    """Docker's CLI runs `docker system dial-stdio` on the far side: there, `docker` is berth."""
    far = tmp_path / "far"
    far.mkdir()
    os.symlink(tmp_path / "berth", far / "docker")
    (tmp_path / "ssh").write_text(FAKE_SSH.replace("exec sh", f'PATH={far}:"$PATH" exec sh'))
    identity = reached.engine.up()
    env = {**ssh_env, "DOCKER_HOST": "ssh://me@example"}
    data = os.urandom(1 << 20) * 4
    done = subprocess.run(["docker", "exec", "-i", identity, "sh", "-c", "cat > /tmp/x; cat /tmp/x"], env=env, input=data, capture_output=True)
    assert done.stdout == data, done.stderr
    reached.engine.rm(identity)


def test_contexts_are_dockers(reached: Reached, ssh_env: dict[str, str]) -> None:
    """Made with the one command line, used with the other."""
    top, address = reached.certificates, f"tcp://127.0.0.1:{reached.port}"
    option = f"host={address},ca={top}/ca.pem,cert={top}/client.pem,key={top}/client-key.pem"

    def docker(*words: str) -> str:
        done = subprocess.run(["docker", *words], env=ssh_env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = berth("context", "create", "ours", "--docker", option, "--description", "made by berth", env=ssh_env)
    assert made.stdout == b"ours\n", made.stderr
    docker("context", "create", "theirs", "--docker", option)
    for name in ("ours", "theirs"):
        assert docker("--context", name, "version", "--format", "{{.Server.Platform.Name}}") == "berth\n"
        assert berth("--context", name, "version", "-f", "{{.Server.Platform.Name}}", env=ssh_env).stdout == b"berth\n"
        assert json.loads(berth("context", "inspect", name, env=ssh_env).stdout) == json.loads(docker("context", "inspect", name))
    berth("context", "use", "theirs", env=ssh_env)
    assert docker("context", "show") == "theirs\n"
    assert berth("version", "-f", "{{.Server.Platform.Name}}", env=ssh_env).stdout == b"berth\n"
    assert berth("version", "-f", "{{.Server.Platform.Name}}", env={**ssh_env, "DOCKER_CONTEXT": "ours"}).stdout == b"berth\n"
    names = [line.split() for line in berth("context", "ls", env=ssh_env).stdout.decode().splitlines()]
    assert [row[:2] for row in names[1:]] == [["default", "Current"], ["ours", "made"], ["theirs", "*"]]
    assert b"in use" in berth("context", "rm", "theirs", env=ssh_env).stderr
    assert berth("context", "rm", "-f", "theirs", "ours", env=ssh_env).returncode == 0
    assert docker("context", "ls", "-q") == "default\n"
    missing = berth("--context", "gone", "ps", env=ssh_env)
    assert (missing.returncode, b'context "gone": context not found' in missing.stderr) == (1, True)
    assert berth("-H", "unix:///x", "--context", "gone", "ps", env=ssh_env).returncode == 1


def test_systemd_units(tmp_path: Path) -> None:
    env = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
    root = ("--root-dir", str(tmp_path))
    assert berth("system", "service", *root, "status", env=env).returncode == 3
    done = berth("system", "service", "install", *root, "-G", "root", "--config-file", "/etc/berth/my file.json", env=env)
    assert done.returncode == 0, done.stderr
    service, unit = done.stdout.decode().split()
    assert "SocketGroup=root\n" in read(unit)
    assert 'engine -H fd:// --config-file "/etc/berth/my file.json"\n' in read(service)
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(["systemd-analyze", "verify", service, unit], capture_output=True, text=True)
        assert "berth" not in checked.stderr, checked.stderr
    assert b"berth.socket: installed" in berth("system", "service", *root, "status", env=env).stdout
    assert berth("system", "service", *root, "uninstall", env=env).returncode == 0
    assert not os.listdir(tmp_path / "etc/systemd/system")
    assert berth("system", "service", *root, "uninstall", env=env).returncode == 1
    assert berth("system", "service", "enable", env=env).returncode == 1


# -- daemon.json -------------------------------------------------------------------------------------------------


def test_configuration_file_and_reload(tmp_path: Path, rootfs_tar: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"labels": ["rack=7"], "default-shm-size": "32m", "log-level": "info"}))
    engine = Engine(("--config-file", str(file)))
    try:
        engine.docker("import", rootfs_tar, "bb")
        assert json.loads(engine.docker("info", "-f", "{{json .Labels}}").stdout) == ["rack=7"]
        assert "32768" in engine.sh("df -k /dev/shm")
        assert engine.process
        file.write_text(json.dumps({"labels": ["rack=8"], "debug": True, "data-root": "/elsewhere", "init": True, "runtimes": {"x": {"path": "/bin/x"}}}))
        os.kill(engine.process.pid, signal.SIGHUP)
        # the data root is a flag too: dockerd refuses such a file, and so do we
        wait_until(lambda: "specified both as a flag and in the configuration file: data-root" in engine.log(), "the refusal")
        file.write_text(json.dumps({"labels": ["rack=8"], "debug": True, "group": "root", "runtimes": {"x": {"path": "/bin/x"}}, "default-shm-size": "16m",
                                    "registry-mirrors": ["https://mirror.example"], "log-driver": "local", "iptables": False}))
        os.kill(engine.process.pid, signal.SIGHUP)
        wait_until(lambda: "only the next start of the engine will see it: group" in engine.log(), "the reload")
        assert engine.docker("info", "-f", "{{.Labels}} {{.Debug}} {{index .Runtimes \"x\"}}").stdout.startswith("[rack=8] true {{/bin/x ")
        assert "16384" in engine.sh("df -k /dev/shm")
        until = str(int(time.time()) + 1)  # of a span Docker's CLI keeps whole seconds
        events = engine.docker("events", "--since", "1h", "--until", until, "--filter", "type=daemon", "--format", "{{json .}}").stdout
        event = json.loads(events)
        assert event["Action"] == "reload"
        assert {"debug": "true", "labels": '["rack=8"]', "registry-mirrors": '["https://mirror.example/"]'}.items() <= event["Actor"]["Attributes"].items()
        assert engine.docker("info", "-f", "{{.LoggingDriver}} {{.RegistryConfig.Mirrors}}").stdout == "local [https://mirror.example/]\n"
        assert "iptables has no effect" in engine.log()
    finally:
        engine.finish()


def test_validate(tmp_path: Path, certificates: str) -> None:
    def validate(*options: str, value: object = None) -> tuple[int, str]:
        (tmp_path / "daemon.json").write_text(json.dumps(value or {}))
        command = [sys.executable, "-m", "berth.cli.engine_main", "--validate", "--config-file", str(tmp_path / "daemon.json"), *options]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"}, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stderr

    assert validate(value={"debug": True}) == (0, "configuration OK\n")
    code, said = validate("--debug", "-l", "loud", value={"debug": True, "nonsense": 1})
    assert code == 1
    assert "directives don't match any configuration option: nonsense" in said
    assert "both as a flag and in the configuration file: debug: (from flag: true, from file: true)" in said
    assert "--log-level: loud is not one of" in validate("-l", "loud")[1]
    assert "is not one of berth" in validate(value={"default-runtime": "gone"})[1]
    assert "No such file" in validate(value={"tls": True, "tlscert": "/nowhere/cert.pem"})[1]
    good = {"tlsverify": True, "tlscacert": f"{certificates}/ca.pem", "tlscert": f"{certificates}/server.pem", "tlskey": f"{certificates}/server-key.pem"}
    assert validate(value=good) == (0, "configuration OK\n")
    assert validate(value={"raw-logs": True}) == (0, "raw-logs has no effect: berth's log has full times and no colours anyway\nconfiguration OK\n")
    assert validate(value={"bip": "10.9.0.1/24"}) == (0, "configuration OK\n")
    assert "bridge and bip" in validate(value={"bip": "10.9.0.1/24", "bridge": "br9"})[1]
    assert "log-driver and log-opts: unknown log opt 'x'" in validate("--log-opt", "x=1", value={"log-driver": "json-file"})[1]
    assert validate("--log-opt", "max-size=1m", "--dns", "10.0.0.1", "--default-ulimit", "nofile=9:10", "--init")[0] == 0
    assert not os.path.exists(tmp_path / "data")


@pytest.mark.skipif(not shutil.which("dockerd"), reason="needs Debian's docker.io")
def test_the_words_for_flag_and_file_are_dockerds(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({
        "debug": True, "labels": ["a=b"], "hosts": ["unix:///tmp/x", "fd://"], "log-opts": {"max-size": "1m", "max-file": "2"},
        "registry-mirrors": ["https://a"], "shutdown-timeout": 5,
    }))  # fmt: skip
    flags = ("--config-file", str(file), "--debug=false", "--label", "c=d", "-H", f"unix://{tmp_path}/y", "--log-opt", "max-size=3m",
             "--registry-mirror", "https://b/", "--shutdown-timeout", "7")  # fmt: skip

    def said(*command: str) -> str:
        roots = ("--data-root", f"{tmp_path}/data", "--exec-root", f"{tmp_path}/exec")
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"}
        done = subprocess.run([*command, *roots, *flags], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        return done.stderr.partition(f"with file {file}: ")[2].strip()

    dockers = said("dockerd")
    assert dockers.startswith("the following directives are specified both as a flag and in the configuration file: debug: (from flag: ")
    assert said(sys.executable, "-m", "berth.cli.engine_main") == dockers


@pytest.mark.skipif(not shutil.which("dockerd"), reason="needs Debian's docker.io")
def test_every_flag_of_dockerds_is_understood(tmp_path: Path) -> None:
    """Taken, taken in vain or refused for a reason: for units that were written for dockerd."""
    page = subprocess.run(["dockerd", "--help"], capture_output=True, text=True, check=True).stdout
    flags = re.findall(r"^  (?:-\w, |    )--([\w-]+)(?: (list|string|int|ip|bytes|map|ulimit|runtime|pool-options))?(?:  |$)", page, re.MULTILINE)
    assert len(flags) > 70
    words = {"runtime": "x=/x", "map": "max-size=1m", "ulimit": "core=0", "bytes": "1m", "int": "7", "ip": "10.0.0.1", "": "false"}
    special = {
        "default-cgroupns-mode": "private", "default-ipc-mode": "private", "default-runtime": "berth", "exec-opt": "native.cgroupdriver=cgroupfs",
        "host": "fd://", "insecure-registry": "reg", "label": "a=b", "log-driver": "local", "log-level": "info", "registry-mirror": "https://m",
        "storage-driver": "overlay2", "seccomp-profile": "builtin", "dns": "10.0.0.1", "userns-remap": "", "config-file": "/dev/null",
        "bip": "10.9.0.1/24", "fixed-cidr": "10.9.0.0/25", "fixed-cidr-v6": "fd00::/80", "default-address-pool": "base=10.1.0.0/16,size=24",
    }  # fmt: skip
    given = [f"--{name}={special.get(name, words.get(kind, 'x'))}" for name, kind in flags if name not in ("help", "version")]
    command = [sys.executable, "-m", "berth.cli.engine_main", "--validate", *given]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"}, capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 1
    said = done.stderr.strip().removeprefix("berth engine: ").split("\n  ")
    refused = {"--api-cors-header", "--authorization-plugin", "--cpu-rt-period", "--cpu-rt-runtime", "--oom-score-adjust", "--storage-opt"}
    assert {line.partition(":")[0] for line in said} == refused, done.stderr
    assert all(" is not honoured: " in line for line in said)


def test_an_engine_that_takes_its_containers_with_it(rootfs_tar: str) -> None:
    engine = Engine(("--live-restore=false", "--shutdown-timeout", "1"))
    try:
        engine.docker("import", rootfs_tar, "bb")
        identity = engine.up(command=("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"))
        pid = engine.pid(identity)
        engine.stop()
        assert not os.path.exists(f"/proc/{pid}")
        engine.start()
        assert engine.state(identity)["ExitCode"] == 9
    finally:
        engine.finish()
