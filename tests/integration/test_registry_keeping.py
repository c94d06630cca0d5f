"""berth's registry over time: garbage collection while it serves, kills, stopping, metrics, logs, and what it says when it cannot start."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY, wait_until
from prometheus_client.parser import text_string_to_metric_families
from registries import make_certificates
from registry_host import OCI_INDEX, OCI_MANIFEST, RegistryHost, digest_of, registry_host

OLD_S = 10 * 24 * 3600


@pytest.fixture
def host() -> Iterator[RegistryHost]:
    with registry_host("--gc-interval", "0s") as running:
        yield running


def berth(*words: str, code: int = 0, env: "dict[str, str] | None" = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "berth.cli", "registry", *words], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src", **(env or {})},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def make_old(host: RegistryHost) -> None:
    """As if everything had lain there for days."""
    then = time.time() - OLD_S
    for path in Path(host.root).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def blobs(host: RegistryHost) -> "set[str]":
    return {f"sha256:{path.name}" for path in Path(host.root, "content/blobs").glob("*/*")}


def collect(host: RegistryHost, *options: str) -> "tuple[int, ...]":
    """(blobs, bytes, links, manifests, uploads) that `berth registry gc` says it removed."""
    return tuple(int(word) for word in re.findall(r"\d+", berth("gc", "--root", host.root, *options)))


# -- the collector --------------------------------------------------------------------------------------------


def test_garbage_goes_while_the_registry_serves(host: RegistryHost) -> None:
    kept = host.push("keep", "1", b"kept layer")
    gone = host.push("drop", "1", b"only here", b"kept layer")
    loose = host.push_blob("loose", b"in no manifest")
    location = host.ask("POST", "/v2/keep/blobs/uploads/").headers["Location"]
    assert host.ask("DELETE", f"/v2/drop/manifests/{gone}").status == 202
    assert collect(host) == (0, 0, 0, 0, 0)  # all of it is young
    make_old(host)
    fresh = host.push_blob("fresh", b"for a manifest to come")
    before, sizes = blobs(host), {f"sha256:{path.name}": path.stat().st_size for path in Path(host.root, "content/blobs").glob("*/*")}
    would = collect(host, "--dry-run")
    assert blobs(host) == before
    removed = collect(host)
    assert removed[1] == sum(sizes[digest] for digest in before - blobs(host))
    assert (would[2], removed[2:]) == (removed[2], (4, 0, 1))
    assert before - blobs(host) == {digest_of(b"only here"), loose, gone}
    assert fresh in blobs(host)
    assert host.ask("GET", location).status == 404
    assert host.ask("GET", "/v2/keep/manifests/1").headers["Docker-Content-Digest"] == kept
    assert host.ask("GET", f"/v2/keep/blobs/{digest_of(b'kept layer')}").body == b"kept layer"
    assert not Path(host.root, "content/repositories/drop").exists()


def test_what_a_client_was_told_is_here_stays(host: RegistryHost) -> None:
    """docker asks HEAD for a layer, hears 200, does not send it, and names it in a manifest a while later."""
    layer = b"known layer"
    host.push("app", "1", layer)
    assert host.ask("DELETE", f"/v2/app/manifests/{host.ask('GET', '/v2/app/manifests/1').headers['Docker-Content-Digest']}").status == 202
    make_old(host)
    assert host.ask("HEAD", f"/v2/app/blobs/{digest_of(layer)}").status == 200
    collect(host)
    assert digest_of(layer) in blobs(host)
    assert host.ask("GET", f"/v2/app/blobs/{digest_of(layer)}").body == layer


def test_pushes_and_collections_at_once_lose_nothing(host: RegistryHost) -> None:
    failures: list[object] = []

    def push(worker: int) -> None:
        try:
            for turn in range(8):
                name, layers = f"at/once{worker}", [f"layer {worker} {turn % 2}".encode(), b"the same for all"]
                digest = host.push(name, "1", *layers)
                for layer in layers:
                    assert host.ask("GET", f"/v2/{name}/blobs/{digest_of(layer)}").body == layer
                if turn < 7:
                    assert host.ask("DELETE", f"/v2/{name}/manifests/{digest}").status == 202
                    # Nobody has used for days what nobody but this worker uses, and wants again two turns later.
                    links = [f"repositories/{name}/_blobs/{digest_of(layer)[7:]}" for layer in layers]
                    for key in [*links, *(f"blobs/{one[7:9]}/{one[7:]}" for one in (digest, digest_of(layers[0])))]:
                        with contextlib.suppress(FileNotFoundError):
                            os.utime(f"{host.root}/content/{key}", (time.time() - OLD_S,) * 2)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    collected = 0
    while any(thread.is_alive() for thread in threads):
        collected += collect(host)[0]
    for thread in threads:
        thread.join()
    assert not failures
    assert collected + collect(host)[0] > 0
    for worker in range(3):
        assert host.ask("GET", f"/v2/at/once{worker}/manifests/1").status == 200
        assert host.ask("GET", f"/v2/at/once{worker}/blobs/{digest_of(b'the same for all')}").status == 200


def test_manifests_without_a_tag() -> None:
    with registry_host("--gc-interval", "0s", "--delete-untagged") as host:
        old = host.push("app", "1", b"old")
        new = host.push("app", "1", b"new")
        raw = host.ask("GET", f"/v2/app/manifests/{new}").body
        child = host.push("app", "", b"child")
        entry = {"mediaType": OCI_MANIFEST, "digest": child, "size": len(host.ask("GET", f"/v2/app/manifests/{child}").body)}
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
        assert host.ask("PUT", "/v2/app/manifests/multi", index, {"Content-Type": OCI_INDEX}).status == 201
        signature = host.push("app", "", b"signature", subject={"mediaType": OCI_MANIFEST, "digest": new, "size": len(raw)})
        stale = host.push("app", "", b"stale", subject={"mediaType": OCI_MANIFEST, "digest": old, "size": 1})
        make_old(host)
        assert collect(host)[3] == 2
        for digest, status in ((old, 404), (stale, 404), (new, 200), (child, 200), (signature, 200)):
            assert host.ask("GET", f"/v2/app/manifests/{digest}").status == status


def test_collecting_where_nobody_serves() -> None:
    with registry_host() as host:
        host.push_blob("loose", b"bytes")
        host.push("kept", "1", b"layer")
        make_old(host)
        host.stop()
        assert collect(host)[:3] == (1, 5, 1)
        host.start()
        assert host.ask("GET", "/v2/kept/manifests/1").status == 200
        assert "another registry serves" in berth("serve", "--root", host.root, "--addr", "127.0.0.1:0", code=1)
    assert "there is no such directory" in berth("gc", "--root", host.root, code=1)


# -- kills and stops ------------------------------------------------------------------------------------------


def test_what_was_answered_outlives_a_kill() -> None:
    with registry_host() as host:
        known: list[str] = []
        stop = threading.Event()

        def push(worker: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    host.push(f"killed/w{worker}", f"t{number}", os.urandom(50_000))
                except (OSError, AssertionError):
                    return
                known.append(f"killed/w{worker}/manifests/t{number}")

        for _ in range(3):
            stop.clear()
            threads = [threading.Thread(target=push, args=(worker,)) for worker in range(3)]
            seen = len(known)
            for thread in threads:
                thread.start()
            wait_until(lambda seen=seen: len(known) > seen + 3, "too few pushes", 60)
            host.kill()
            stop.set()
            for thread in threads:
                thread.join()
            host.start()
            for path in known:
                manifest = host.ask("GET", f"/v2/{path}")
                assert manifest.status == 200, path
                layer = manifest.json["layers"][0]
                assert digest_of(host.ask("GET", f"/v2/{path.partition('/manifests')[0]}/blobs/{layer['digest']}").body) == layer["digest"]
            assert not os.listdir(f"{host.root}/content/tmp-files")
            for path in Path(host.root, "content/blobs").glob("*/*"):
                assert digest_of(path.read_bytes()) == f"sha256:{path.name}"


def test_a_hangup_ends_no_registry_without_a_certificate(host: RegistryHost) -> None:
    assert host.process
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "there is no certificate to read anew" in host.log(), "no word of it in the log", 30)
    assert host.ask("GET", "/v2/").status == 200


def test_a_stop_lets_requests_come_to_their_end(host: RegistryHost) -> None:
    data = os.urandom(30_000_000)
    digest = host.push_blob("stop", data)
    where = host.address.split(":")
    idle = socket.create_connection((where[0], int(where[1])), timeout=60)
    with socket.create_connection((where[0], int(where[1])), timeout=60) as sock:
        sock.sendall(f"GET /v2/stop/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = sock.recv(4096)
        assert host.process
        host.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "INFO berth.registry: stopping" in host.log(), "a registry that has not begun to stop", 30)
        with pytest.raises(OSError, match=r"refused|reset"), socket.create_connection((where[0], int(where[1])), timeout=60):
            pass
        while piece := sock.recv(1 << 20):
            received += piece
    idle.close()
    assert received.partition(b"\r\n\r\n")[2] == data
    assert host.process.wait(60) == 0
    assert not Path(host.root, "control.sock").exists()


# -- what it tells --------------------------------------------------------------------------------------------


def test_metrics_and_the_access_log(tmp_path: Path) -> None:
    with registry_host("--metrics-addr", "127.0.0.1:0", "--access-log", f"{tmp_path}/access") as host:
        host.push("m", "1", b"x" * 1000)
        host.ask("GET", "/v2/m/manifests/1")
        host.ask("GET", f"/v2/m/blobs/{digest_of(b'x' * 1000)}")
        host.ask("GET", "/v2/m/blobs/evil%0aline%20INFO", headers={"User-Agent": "agent of the tests"})
        address = re.search(r"metrics on (\S+)", host.log())
        assert address
        text = subprocess.run(["curl", "-sSf", f"http://{address[1]}/metrics"], capture_output=True, text=True, check=True).stdout
        values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
        assert values["berth_registry_pulls_total", ()] == 1
        assert values["berth_registry_pushes_total", ()] == 1
        assert values["berth_registry_blob_sent_bytes_total", ()] == 1000
        assert values["berth_registry_repositories", ()] == 1
        labels = (("code", "200"), ("method", "GET"), ("route", "/v2/{name}/manifests/{reference}"))
        assert values["berth_registry_requests_total", labels] == 1
        lines = (tmp_path / "access").read_text().splitlines()
        assert len(lines) == 8
        assert re.search(r"- GET /v2/m/manifests/1 200 \d+\.\d{3} ", lines[-3])
        assert re.search(r"GET /v2/m/blobs/evil\?line%20INFO 400 \d+\.\d{3} agent%20of%20the%20tests$", lines[-1])
        assert "/v2/m/" not in host.log()


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--addr", "nonsense"), "--addr 'nonsense': expected HOST:PORT"), (("--tlscert", "x"), "--tlscert and --tlskey: give both or neither"),
     (("--tlscert", "/no/cert", "--tlskey", "/no/key"), "--tlscert /no/cert: No such file"), (("--htpasswd", "/no/users"), "--htpasswd /no/users: No such file"),
     (("--anonymous-pull",), "--anonymous-pull: without --htpasswd"), (("--grace", "soon"), "--grace 'soon' is not a duration"),
     (("--proxy-remote", "example.org"), "--proxy-remote 'example.org': give an http or https URL"), (("--auth", "x"), "--auth 'x': expected token or basic"),
     (("--proxy-cache-size", "much"), "--proxy-cache-size 'much' is not a size"), (("--log-level", "loud"), "--log-level 'loud': expected debug"),
     (("--root", "/proc/nowhere"), "/proc/nowhere")],
)  # fmt: skip
def test_what_it_says_when_it_cannot_start(words: "tuple[str, ...]", message: str, tmp_path: Path) -> None:
    root = () if "--root" in words else ("--root", f"{tmp_path}/root")
    said = berth("serve", *root, "--addr", "127.0.0.1:0", *words, code=1)
    assert message in said


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    for module in ("bcrypt", "jwt", "obstore"):
        (tmp_path / f"without-{module}").mkdir()
        (tmp_path / f"without-{module}/sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    (tmp_path / "users").write_text("")
    serve = ("-c", "import sys; from berth.cli.registry_main import main; sys.exit(main(sys.argv[1:]))", "serve", "--root", f"{tmp_path}/root", "--addr", "127.0.0.1:0")
    for module, extra, words in (("bcrypt", "registry", ("--htpasswd", f"{tmp_path}/users")), ("jwt", "registry", ("--htpasswd", f"{tmp_path}/users")),
                                 ("obstore", "s3", ("--s3", "s3://x"))):  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/without-{module}:{REPOSITORY}/src"}
        done = subprocess.run([sys.executable, *serve, *words], capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 1
        assert f"needs the Python package {module}: pip install 'berth[{extra}]'" in done.stderr


def test_users_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("alice:$apr1$abc$def\n")
    said = berth("serve", "--root", f"{tmp_path}/root", "--addr", "127.0.0.1:0", "--htpasswd", f"{tmp_path}/users", code=1)
    assert "line 1: not `user:$2y$...`; only bcrypt is taken: htpasswd -B" in said
    make_certificates(str(tmp_path))
    said = berth("serve", "--root", f"{tmp_path}/root", "--addr", "127.0.0.1:0", "--tlscert", f"{tmp_path}/server.crt", "--tlskey", f"{tmp_path}/ca.key", code=1)
    assert "are no certificate and its key" in said
