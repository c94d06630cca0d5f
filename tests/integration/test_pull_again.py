"""A second pull of what is here: one question on a connection that was kept, and right whatever has happened to the registry meanwhile."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import Handmade, layer
from harness import Engine, wait_until
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry
from registry_host import registry_host, write_users

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY or not shutil.which("htpasswd"), reason="needs docker-registry and htpasswd")]

UP_TO_DATE = "Image is up to date"


@pytest.fixture(scope="module")
def puller() -> Iterator[Engine]:
    running = Engine()
    try:
        yield running
    finally:
        running.finish()


def connections(host: str) -> set[str]:
    """The clients' ends of those that are open to a port, by ss."""
    port = host.rpartition(":")[2]
    listed = subprocess.run(["ss", "-Htn", "state", "established", f"( dport = :{port} )"], capture_output=True, text=True, check=True).stdout
    return {line.split()[2] for line in listed.splitlines()}


def requests(host: Host) -> list[str]:
    """As docker-registry logs them."""
    return re.findall(r'"((?:GET|HEAD|POST) /[^ ]*) HTTP', host.log())


def test_one_request_and_no_new_connection(puller: Engine) -> None:
    with docker_registry() as host:
        Handmade(host).image("again", "1", [layer(("a", b"x")), layer(("b", b"y"))])
        puller.docker("pull", f"{host}/again:1")
        wait_until(lambda: "GET /v2/again/blobs/" in "".join(requests(host)), "the pull in the log")
        before, there = len(requests(host)), connections(host)
        assert len(there) == 1
        for _ in range(3):
            assert UP_TO_DATE in puller.docker("pull", f"{host}/again:1").stdout
        wait_until(lambda: len(requests(host)) >= before + 3, "the pulls in the log")
        assert requests(host)[before:] == ["GET /v2/again/manifests/1"] * 3
        assert connections(host) == there
        wait_until(lambda: connections(host) == set(), "connections that nobody uses are closed", 30)
        assert UP_TO_DATE in puller.docker("pull", f"{host}/again:1").stdout


def test_what_has_changed_comes(puller: Engine) -> None:
    with docker_registry() as host:
        for content in (b"one", b"two", b"one"):
            made = Handmade(host).image("changing", "1", [layer(("a", content))])
            assert "Downloaded newer image" in puller.docker("pull", f"{host}/changing:1").stdout
            assert puller.docker("inspect", "-f", "{{.Id}}", f"{host}/changing:1").stdout.strip() == made.config


def test_a_name_that_was_taken_away_comes_back_with_a_pull(puller: Engine) -> None:
    """Nothing is written where nothing changes; here something does."""
    with docker_registry() as host:
        Handmade(host).image("named", "1", [layer(("a", b"named"))])
        puller.docker("pull", f"{host}/named:1")
        puller.docker("tag", f"{host}/named:1", "kept:1")
        puller.docker("rmi", f"{host}/named:1")
        assert "Downloaded newer image" in puller.docker("pull", f"{host}/named:1").stdout
        assert puller.docker("images", "-q", f"{host}/named").stdout
        puller.docker("rmi", f"{host}/named:1", "kept:1")


def test_a_registry_that_restarts(puller: Engine, tmp_path: Path) -> None:
    port = 0
    for _ in range(3):
        with docker_registry(root=str(tmp_path), port=port) as host:
            if not port:
                Handmade(host).image("restarted", "1", [layer(("a", b"x"))])
                puller.docker("pull", f"{host}/restarted:1")
            assert UP_TO_DATE in puller.docker("pull", f"{host}/restarted:1").stdout
            port = int(host.rpartition(":")[2])
    assert "connection refused" in puller.docker("pull", f"{host}/restarted:1", code=1).stderr


@pytest.mark.parametrize("first", [False, True], ids=["http to https", "https to http"])
def test_a_registry_that_changes_its_scheme(puller: Engine, tmp_path: Path, first: bool) -> None:
    with docker_registry(root=str(tmp_path)) as host:
        Handmade(host).image("scheme", "1", [layer(("a", b"x"))])
    port = int(host.rpartition(":")[2])
    for tls in (first, not first, first):
        with docker_registry(root=str(tmp_path), port=port, tls=tls) as host:
            puller.docker("pull", f"{host}/scheme:1")
            assert UP_TO_DATE in puller.docker("pull", f"{host}/scheme:1").stdout


def test_nobody_gets_what_somebody_else_logged_in_for(puller: Engine, tmp_path: Path) -> None:
    """With passwords, by Debian's registry, and with tokens, by berth's."""
    files, copied = str(tmp_path / "files"), str(tmp_path / "copied")
    with docker_registry(root=files) as host:
        Handmade(host).image("locked", "1", [layer(("a", b"x"))])
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{host}/locked:1", f"dir:{copied}"], check=True)
    with docker_registry(root=files, auth=("alice", "secret")) as host:
        check_logins(puller, f"{host}/locked:1", host)
    with registry_host("--htpasswd", write_users(str(tmp_path / "users"), alice="secret")) as own:
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds=alice:secret", f"dir:{copied}", f"docker://{own.address}/locked:1"],
                       check=True)  # fmt: skip
        check_logins(puller, f"{own.address}/locked:1", own.address)


def check_logins(puller: Engine, name: str, address: str) -> None:
    puller.docker("login", "-u", "alice", "--password-stdin", address, input="secret")
    puller.docker("pull", name)
    assert UP_TO_DATE in puller.docker("pull", name).stdout
    assert "unauthorized" in puller.docker("login", "-u", "alice", "--password-stdin", address, input="wrong", code=1).stderr.lower()
    puller.docker("logout", address)
    assert "pull access denied" in puller.docker("pull", name, code=1).stderr
    puller.docker("login", "-u", "alice", "--password-stdin", address, input="secret")
    assert UP_TO_DATE in puller.docker("pull", name).stdout
    puller.docker("logout", address)
    puller.docker("rmi", name)


def test_an_engine_that_ends_leaves_no_connection() -> None:
    with docker_registry() as host:
        Handmade(host).image("again", "1", [layer(("a", b"x"))])
        engine = Engine()
        try:
            engine.docker("pull", f"{host}/again:1")
            assert connections(host)
            engine.stop()
            assert not connections(host)
            assert "Traceback" not in engine.log()
            engine.start()
        finally:
            engine.finish()
