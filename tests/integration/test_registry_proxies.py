"""Pulls and pushes through proxies: one with TLS, told in daemon.json, and the SOCKS proxy of a real ssh. curl says the proxies are proxies."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Engine, free_port, read, wait_until
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry
from test_distribution import skopeo
from test_ssh import SSHD, answers

from certificates import make_certificates
from fake_proxy import FakeProxy

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]

NAME = "registry.test"  # in the certificates of the tests; only a proxy knows where it is


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with docker_registry(tls=True) as found:
        yield found


@contextlib.contextmanager
def engine_of(rootfs_tar: str, top: Path, settings: dict, authorities: str) -> Iterator[Engine]:
    """An engine that trusts these authorities only."""
    (top / "daemon.json").write_text(json.dumps(settings))
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = authorities
    try:
        engine = Engine(("--config-file", f"{top}/daemon.json"))
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before
    try:
        engine.docker("import", rootfs_tar, "bb")
        yield engine
    finally:
        engine.finish()


def to_and_fro(engine: Engine, host: Host, repository: str) -> None:
    """A push and a pull by the name that only the proxy knows; skopeo sees the image at the registry's own address."""
    there = f"{NAME}:{host.rpartition(':')[2]}/{repository}:1"
    engine.docker("tag", "bb", there)
    engine.docker("push", there)
    config = json.loads(skopeo("inspect", "--config", "--tls-verify=false", f"docker://{host}/{repository}:1"))
    assert config["rootfs"]["diff_ids"] == json.loads(engine.docker("inspect", "bb").stdout)[0]["RootFS"]["Layers"]
    engine.docker("rmi", there)
    engine.docker("rmi", "bb")
    engine.docker("pull", there)
    assert engine.run(there, "echo", "works").stdout == "works\n"
    engine.docker("rmi", there)


def curl(*words: str) -> str:
    done = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_proxy_with_tls(host: Host, rootfs_tar: str, tmp_path: Path) -> None:
    make_certificates(str(tmp_path))
    both = tmp_path / "both.crt"
    both.write_text((tmp_path / "ca.crt").read_text() + Path(host.ca).read_text())
    with FakeProxy("https", target=str(host), tls=str(tmp_path), who=("me", "secret")) as proxy:
        port = host.rpartition(":")[2]
        assert curl("--proxy-cacert", f"{tmp_path}/ca.crt", "--cacert", host.ca, "-x", proxy.url, f"https://{NAME}:{port}/v2/") == "200"
        assert proxy.asked == [f"CONNECT {NAME}:{port}"]
        with engine_of(rootfs_tar, tmp_path, {"proxies": {"https-proxy": proxy.url, "no-proxy": "other.test"}}, str(both)) as engine:
            assert engine.docker("info", "-f", "{{.HTTPSProxy}} {{.NoProxy}}").stdout == f"https://xxxxx:xxxxx@{proxy.host} other.test\n"
            to_and_fro(engine, host, "through/tls")
            assert len(proxy.asked) > 1
            assert proxy.passed_bytes > 500_000  # all that was pulled
            assert set(proxy.asked) == {f"CONNECT {NAME}:{port}"}
        with engine_of(rootfs_tar, tmp_path, {"proxies": {"https-proxy": proxy.url}}, host.ca) as engine:
            said = engine.docker("pull", f"{NAME}:{port}/through/tls:1", code=1).stderr
            assert "proxyconnect tcp: x509: certificate signed by unknown authority" in said
            assert "secret" not in said


@pytest.fixture
def socks(tmp_path: Path) -> Iterator[str]:
    """The address of `ssh -D`, whose sshd knows where the registry is."""
    if not os.path.exists(SSHD):
        pytest.skip("needs Debian's openssh-server")
    port, dynamic = free_port(), free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
    (tmp_path / "server").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    made = not os.path.exists("/run/sshd")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    script = f'mount --bind {tmp_path}/hosts /etc/hosts && exec {SSHD} -D -e -f {tmp_path}/server'
    near = [
        "ssh", "-N", "-D", f"127.0.0.1:{dynamic}", "-p", str(port), "-i", f"{tmp_path}/user", "-F", "/dev/null", "-o", "BatchMode=yes",
        "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "ExitOnForwardFailure=yes", "root@127.0.0.1",
    ]  # fmt: skip
    with contextlib.ExitStack() as stack, open(tmp_path / "log", "w") as log:
        for command, where in ((["unshare", "-m", "--propagation", "private", "sh", "-c", script], port), (near, dynamic)):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            wait_until(lambda: process.poll() is not None or answers(where), "nobody answers")  # noqa: B023
            assert process.poll() is None, read(str(tmp_path / "log"))
        yield f"127.0.0.1:{dynamic}"
    if made:
        with contextlib.suppress(OSError):
            os.rmdir("/run/sshd")


def test_a_socks_proxy(host: Host, rootfs_tar: str, tmp_path: Path, socks: str) -> None:
    port = host.rpartition(":")[2]
    assert curl("--cacert", host.ca, "-x", f"socks5h://{socks}", f"https://{NAME}:{port}/v2/") == "200"
    with engine_of(rootfs_tar, tmp_path, {"proxies": {"https-proxy": f"socks5://{socks}"}}, host.ca) as engine:
        to_and_fro(engine, host, "through/ssh")
        assert "the proxy refused: Tunnel: " in engine.docker("pull", f"{NAME}:1/none:1", code=1).stderr
