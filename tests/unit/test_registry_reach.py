"""How registries are reached: TLS and certs.d, insecure ones, proxies; and what a hostile one can make a client hold in memory."""

import io
import random
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fake_registry
from berth.errors import BerthError, Cancelled, InvalidParameter, Unavailable
from berth.oci import reference
from berth.registry import media
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.registry.documents import Descriptor
from berth.store.partial import Partial
from certificates import make_certificates
from fake_proxy import FakeProxy
from fake_registry import FakeRegistry, answer, forever, of_blob, raw, stall

ALICE = Credentials("alice", "secret")
NAME = "registry.test"  # what the certificate is for; nobody resolves it but the proxy


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("tls"))
    make_certificates(directory)
    return directory


@pytest.fixture
def registry(tls: str) -> Iterator[FakeRegistry]:
    """With TLS, and a proxy as well: `CONNECT` leads to itself."""
    with FakeRegistry(tls) as one:
        one.add_manifest("v1", {"schemaVersion": 2, "manifests": []}, media.OCI_INDEX)
        yield one


def client_of(host: str, registry: FakeRegistry, *, certs_d: object = "/nonexistent", credentials: Credentials | None = None, **given: object) -> RegistryClient:
    """One that reaches everything but loopback through `registry`."""
    environment = {"HTTPS_PROXY": f"http://{registry.host}", "HTTP_PROXY": f"http://{registry.host}"}
    values: dict = {"environment": environment, "certificate_directories": (str(certs_d),), "timeout_s": 20.0, "back_off_s": 0.0, "attempts": 2, **given}
    return RegistryClient(host, Settings(**values), credentials)


def ask(client: RegistryClient, host: str) -> None:
    with client:
        assert client.manifest(reference.parse(f"{host}/a/b:v1")).manifests == []


def trust(tmp_path: Path, tls: str, host: str, *names: str) -> Path:
    (tmp_path / host).mkdir(parents=True)
    for name in names or ("ca.crt",):
        shutil.copy(f"{tls}/{name}", tmp_path / host)
    return tmp_path


# -- TLS ---------------------------------------------------------------------------------------------------------


def test_an_authority_nobody_trusts(registry: FakeRegistry) -> None:
    with pytest.raises(Unavailable, match=rf'Get "https://{NAME}/v2/a/b/manifests/v1": x509: certificate signed by unknown authority .*certs.d/{NAME}/ca.crt'):
        ask(client_of(NAME, registry), NAME)
    assert registry.asked("GET", "") == []
    assert len(registry.asked("CONNECT", "")) == 1  # it would be no better the next time


@pytest.mark.parametrize("host", [NAME, f"{NAME}:5000"])
def test_an_authority_in_certs_d(registry: FakeRegistry, tmp_path: Path, tls: str, host: str) -> None:
    ask(client_of(host, registry, certs_d=trust(tmp_path, tls, host)), host)
    assert [request.proxied for request in registry.asked("GET", "/manifests/")] == [host if ":" in host else f"{host}:443"]


def test_an_authority_of_another_registry(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    with pytest.raises(Unavailable, match="x509"):
        ask(client_of(NAME, registry, certs_d=trust(tmp_path, tls, f"{NAME}:5000")), NAME)


def test_a_certificate_for_another_name(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    with pytest.raises(Unavailable, match="x509: certificate is not valid for this name"):
        ask(client_of("other.test", registry, certs_d=trust(tmp_path, tls, "other.test")), "other.test")


def test_files_in_certs_d_that_are_no_certificates(registry: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "ca.crt").write_text("nonsense")
    with pytest.raises(InvalidParameter, match=f"a certificate for {NAME} in certs.d cannot be used"):
        ask(client_of(NAME, registry, certs_d=tmp_path), NAME)


def test_a_client_certificate(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    assert registry._context
    registry._context.load_verify_locations(f"{tls}/ca.crt")
    registry._context.verify_mode = 2  # type: ignore[assignment]  # ssl.CERT_REQUIRED
    with pytest.raises(Unavailable):
        ask(client_of(NAME, registry, certs_d=trust(tmp_path / "without", tls, NAME)), NAME)
    ask(client_of(NAME, registry, certs_d=trust(tmp_path / "with", tls, NAME, "ca.crt", "client.cert", "client.key")), NAME)


@pytest.mark.parametrize("insecure", [NAME, f"{NAME}:443", "none"])
def test_an_insecure_registry_need_not_be_trusted(registry: FakeRegistry, insecure: str) -> None:
    host = f"{NAME}:443" if insecure.endswith("443") else NAME
    client = client_of(host, registry, insecure=[insecure])
    if insecure == "none":
        with pytest.raises(Unavailable, match="x509"):
            ask(client, host)
    else:
        ask(client, host)


def test_no_way_from_https_to_http(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    registry.rule("GET", "/manifests/", answer(302, Location="http://plain.test/v2/a/b/manifests/v1"))
    with pytest.raises(Unavailable, match=r"redirects from https to 'http://plain.test/.*refused"):
        ask(client_of(NAME, registry, certs_d=trust(tmp_path, tls, NAME)), NAME)
    assert registry.asked("GET", "")[-1].proxied == f"{NAME}:443"


def test_no_password_to_a_token_server_without_tls(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    challenge = 'Bearer realm="http://plain.test/token",service="x"'
    registry.rule("GET", "/manifests/", answer(401, WWW_Authenticate=challenge))
    registry.rule("GET", "/token", answer(200, b'{"token":"t"}'))
    certs = trust(tmp_path, tls, NAME)
    with pytest.raises(BerthError, match=r"wants the password sent to http://plain.test/token without TLS: refused"):
        ask(client_of(NAME, registry, certs_d=certs, credentials=ALICE), NAME)
    assert registry.asked("GET", "/token") == []


def test_no_foreign_layer_without_tls_where_the_registry_has_it(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    """A manifest must not make the engine ask whoever listens around it."""
    data = bytes(1000)
    digest = registry.add_blob(data)
    registry.rule("GET", f"/v2/a/b/blobs/{digest}", answer(404))
    foreign = Descriptor(media.DOCKER_FOREIGN[0], digest, len(data), urls=["http://169.254.169.254/latest", f"https://{NAME}/other/blobs/{digest}"])
    partial = Partial(str(tmp_path), digest, len(data))
    with client_of(NAME, registry, certs_d=trust(tmp_path, tls, NAME)) as client:
        client.download("a/b", foreign, partial)
    partial.discard()
    assert [request.target for request in registry.asked("GET", "")] == [f"/v2/a/b/blobs/{digest}", f"/other/blobs/{digest}"]


# -- registries without TLS -----------------------------------------------------------------------------------------


def test_plain_http_on_loopback_and_where_it_was_allowed(tls: str) -> None:
    with FakeRegistry() as plain:
        plain.add_manifest("v1", {"schemaVersion": 2, "manifests": []}, media.OCI_INDEX)
        ask(client_of(plain.host, plain), plain.host)
        ask(client_of(NAME, plain, insecure=[NAME]), NAME)
        assert plain.asked("GET", "/manifests/")[-1].proxied == NAME
        with pytest.raises(Unavailable, match="http: server gave HTTP response to HTTPS client"):
            ask(client_of(NAME, plain), NAME)


def test_a_name_of_this_machine_without_tls() -> None:
    """Wherever it leads by the time of the connection."""
    with FakeRegistry() as plain:
        plain.add_manifest("v1", {"schemaVersion": 2, "manifests": []}, media.OCI_INDEX)
        port = plain.host.rpartition(":")[2]
        host = f"here.invalid:{port}"
        ask(client_of(host, plain, environment={}, look_up=lambda name: ["::1", "127.0.0.1"]), host)
        assert plain.asked("GET", "/manifests/")[-1].headers["host"] == host
        with pytest.raises(Unavailable, match="no such host"):
            ask(client_of(host, plain, environment={}, attempts=1, look_up=lambda name: ["127.0.0.1", "192.0.2.1"]), host)


def test_nobody_there() -> None:
    with FakeRegistry() as gone:
        pass
    with pytest.raises(Unavailable, match=rf'Get "http://{gone.host}/v2/": dial tcp {gone.host}: connect: connection refused'):
        ask(client_of(gone.host, gone), gone.host)
    with pytest.raises(Unavailable, match=rf'Get "https://{NAME}/v2/a/b/manifests/v1": proxyconnect tcp: dial tcp {gone.host}: connect: connection refused'):
        ask(client_of(NAME, gone), NAME)
    client = RegistryClient("no.invalid", Settings(environment={}, certificate_directories=(), attempts=1, timeout_s=5.0))
    with pytest.raises(Unavailable, match=r'Get "https://no.invalid/v2/a/b/manifests/v1": (dial tcp: lookup no.invalid: no such host|dial tcp no.invalid: i/o timeout)'):
        ask(client, "no.invalid")


# -- proxies ------------------------------------------------------------------------------------------------------


def test_a_proxy_is_told_its_own_password_and_not_the_registrys(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    proxy = {"HTTPS_PROXY": f"http://me:p%40ss@{registry.host}", "HTTP_PROXY": f"http://me:p%40ss@{registry.host}"}
    mine = Credentials("me", "p@ss").basic
    ask(client_of(NAME, registry, certs_d=trust(tmp_path, tls, NAME), environment=proxy), NAME)
    assert registry.asked("CONNECT", "")[0].headers["proxy-authorization"] == mine
    assert all("proxy-authorization" not in request.headers for request in registry.asked("GET", ""))
    with FakeRegistry() as plain:
        plain.add_manifest("v1", {"schemaVersion": 2, "manifests": []}, media.OCI_INDEX)
        environment = {name: url.replace(registry.host, plain.host) for name, url in proxy.items()}
        ask(client_of(NAME, plain, insecure=[NAME], environment=environment, credentials=ALICE), NAME)
        assert {request.headers.get("proxy-authorization") for request in plain.asked("GET", "/manifests/")} == {mine}


def test_a_proxy_that_refuses(registry: FakeRegistry) -> None:
    registry.rule("CONNECT", "", raw(b"HTTP/1.1 407 Who are you\r\n\r\n"))
    with pytest.raises(Unavailable, match="the proxy refused: Tunnel connection failed: 407 Who are you"):
        ask(client_of(NAME, registry), NAME)


@pytest.mark.parametrize("act", [forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 999), forever(b"HTTP/1.1 2", b"0", 0.02), forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n")])
def test_a_proxy_whose_answer_does_not_end(registry: FakeRegistry, act: fake_registry.Act) -> None:
    registry.rule("CONNECT", "", act)
    with pytest.raises(Unavailable):
        ask(client_of(NAME, registry, timeout_s=0.3), NAME)


@pytest.mark.parametrize("who", [None, ("me", "p@ss")], ids=["anybody", "password"])
@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
def test_every_kind_of_proxy(registry: FakeRegistry, tmp_path: Path, tls: str, kind: str, who: "tuple[str, str] | None") -> None:
    """To a registry with TLS and to one without; a large blob, too, and one that goes up."""
    data = random.Random(3).randbytes(3 << 20)
    with FakeRegistry() as plain:
        for target, host in ((registry, NAME), (plain, "plain.test")):
            target.add_manifest("v1", {"schemaVersion": 2, "manifests": []}, media.OCI_INDEX)
            digest = target.add_blob(data)
            with FakeProxy(kind, target=target.host, tls=tls, who=who) as proxy:
                certs = trust(tmp_path / host, tls, host)
                trust(tmp_path / host, tls, proxy.host)
                url = proxy.url.replace("p@ss", "p%40ss")
                client = client_of(host, registry, certs_d=certs, insecure=["plain.test"], environment={"HTTPS_PROXY": url, "HTTP_PROXY": url})
                partial = Partial(str(tmp_path), digest, len(data))
                client.download("a/b", Descriptor("", digest, len(data)), partial)
                assert partial.read(0, len(data)) == data
                partial.discard()
                del target.blobs[digest]
                assert client.upload("a/b", lambda offset: io.BytesIO(data[offset:]))[0] == digest
                assert target.blobs[digest] == data
                ask(client, host)
                tunnel = {"socks5": "SOCKS"}.get(kind, "CONNECT")
                assert f"{tunnel} {host}:443" in proxy.asked
                if target is plain:
                    assert (f"{tunnel} {host}:80" if kind == "socks5" else f"GET http://{host}/v2/") in proxy.asked
            assert target is plain or all("proxy-authorization" not in request.headers for request in target.requests)


def test_a_proxy_with_tls_that_nobody_trusts(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    with FakeProxy("https", target=registry.host, tls=tls) as proxy:
        client = client_of(NAME, registry, certs_d=trust(tmp_path, tls, NAME), environment={"HTTPS_PROXY": proxy.url})
        with pytest.raises(Unavailable, match=rf'"https://{NAME}/[^ ]*": proxyconnect tcp: x509: certificate signed by unknown authority .*certs.d/{proxy.host}/ca.crt$'):
            ask(client, NAME)
        # and the registry behind a proxy that is trusted
        client = client_of(NAME, registry, certs_d=trust(tmp_path / "other", tls, proxy.host), environment={"HTTPS_PROXY": proxy.url})
        with pytest.raises(Unavailable, match=rf"unknown authority .*certs.d/{NAME}/ca.crt, or name the registry"):
            ask(client, NAME)
    with FakeRegistry() as plain:
        client = client_of(NAME, registry, environment={"HTTPS_PROXY": f"https://{plain.host}"})
        with pytest.raises(Unavailable, match="proxyconnect tcp: tls: "):
            ask(client, NAME)


def test_why_a_socks_proxy_will_not(registry: FakeRegistry) -> None:
    with FakeProxy("socks5", target=registry.host, who=("me", "secret")) as proxy:
        for url, words in ((f"socks5://{proxy.host}", "wants a name and a password"), (f"socks5h://me:wrong@{proxy.host}", "name or password is wrong")):
            with pytest.raises(Unavailable, match=f"the proxy refused: Tunnel: .*{words}"):
                ask(client_of(NAME, registry, environment={"HTTPS_PROXY": url}), NAME)
        proxy.refuse = 4
        with pytest.raises(Unavailable, match="the proxy refused: Tunnel: no route to host"):
            ask(client_of(NAME, registry, environment={"HTTPS_PROXY": proxy.url}), NAME)
    with pytest.raises(Unavailable, match=f"proxyconnect tcp: dial tcp {registry.host}: i/o timeout"):  # it waits for more of a TLS record
        ask(client_of(NAME, registry, timeout_s=0.3, environment={"HTTPS_PROXY": f"socks5://{registry.host}"}), NAME)


def test_a_connection_through_a_proxy_that_stalls_is_ended(registry: FakeRegistry, tmp_path: Path, tls: str) -> None:
    """From another thread, as when a client leaves."""
    registry.rule("GET", "/manifests/", stall)
    with FakeProxy("https", target=registry.host, tls=tls) as proxy:
        certs = trust(tmp_path, tls, NAME)
        client = client_of(NAME, registry, certs_d=trust(certs, tls, proxy.host), environment={"HTTPS_PROXY": proxy.url})
        failures: list[BerthError] = []

        def work() -> None:
            try:
                client.manifest(reference.parse(f"{NAME}/a/b:v1"))
            except BerthError as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert registry.stalled.wait(60)
        client.close()
        thread.join(60)
        assert isinstance(failures[0], Cancelled)


@pytest.mark.parametrize("proxy", ["ftp://secret:word@p.test:1", "socks4://p.test", "http://", "http://[", "https://a:word@p.test:99999", "socks5://:word@"])
def test_proxies_that_are_none(registry: FakeRegistry, proxy: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ask(client_of(NAME, registry, environment={"HTTPS_PROXY": proxy}), NAME)
    assert "word" not in str(caught.value)


# -- memory ---------------------------------------------------------------------------------------------------------


def peak_bytes(work: "Callable[[], None]") -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "act",
    [
        forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"fffffff\r\n" + b"x" * 0xFFFFFF),
        answer(200, b'{"manifests":[' + b"[]," * 1_300_000 + b"[]]}"),
        answer(404, b" " * (32 << 20)),
        forever(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000 + b"\r\n"),
    ],
    ids=["large chunks", "many manifests", "large refusal", "large head"],
)
def test_no_manifest_costs_more_than_memory_allows(registry: FakeRegistry, act: fake_registry.Act) -> None:
    registry.rule("GET", "/manifests/", act)

    def work() -> None:
        with pytest.raises(BerthError):
            ask(client_of(registry.host, registry, attempts=1), registry.host)

    # The registry itself runs in this process, and holds what it sends.
    assert peak_bytes(work) < 150 << 20


def test_a_large_blob_costs_no_more_than_a_small_one(registry: FakeRegistry, tmp_path: Path) -> None:
    data = bytes(24 << 20)
    digest = registry.add_blob(data)
    registry.rule("GET", "/blobs/", of_blob(chunk=1 << 20))
    partial = Partial(str(tmp_path), digest, len(data))

    def work() -> None:
        with client_of(registry.host, registry) as client:
            client.download("a/b", Descriptor("", digest, len(data)), partial)

    assert peak_bytes(work) < 12 << 20
    assert partial.missing() == []
    partial.discard()
