"""What a transfer leaves for the next: used by the same person alone, for seconds, and never instead of a right answer."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_registry
from berth.errors import NotFound, Unauthorized, Unavailable
from berth.oci import reference
from berth.registry import media
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.keeping import Keeper, Kept
from berth.registry.client.settings import Settings
from certificates import make_certificates
from fake_registry import FakeRegistry, answer

ALICE, BOB = Credentials("alice", "secret"), Credentials("bob", "secret")
BEARER = 'Bearer realm="{}/token",service="registry.test"'


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("tls"))
    make_certificates(directory)
    return directory


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(clock: Clock) -> Iterator[Keeper]:
    one = Keeper(clock=clock)
    yield one
    one.close()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with with_image() as one:
        yield one


def with_image(tls: str = "", port: int = 0) -> FakeRegistry:
    one = FakeRegistry(tls, port)
    one.add_manifest("v1", {"schemaVersion": 2, "manifests": []}, media.OCI_INDEX)
    return one


def client_of(host: str, keeper: Keeper, who: Credentials | None = None, cancelled: threading.Event | None = None, **given: object) -> RegistryClient:
    values: dict = {"environment": {}, "certificate_directories": (), "timeout_s": 20.0, "back_off_s": 0.0, "attempts": 2, **given}
    return RegistryClient(host, Settings(**values), who, cancelled, keeper)


def pull(host: str, keeper: Keeper, who: Credentials | None = None, **given: object) -> None:
    with client_of(host, keeper, who, **given) as client:
        client.manifest(reference.parse(f"{host}/a/b:v1"))
        client.release()


def grants(registry: FakeRegistry, *tokens: str, life_s: int = 300) -> None:
    """Requests need the last of these tokens; the token server has given them in this order."""

    def act(exchange: fake_registry.Exchange) -> None:
        if exchange.request.headers.get("authorization") == f"Bearer {tokens[-1]}":
            fake_registry._proper(exchange)
        else:
            exchange.error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": BEARER.format(registry.url)})

    registry.rule("GET", "^/v2/a/", act)
    registry.rule("GET", "^/token", answer(200, f'{{"token":"{tokens[-1]}","expires_in":{life_s}}}'.encode()))


def test_a_second_pull_is_one_question_on_the_same_connection(registry: FakeRegistry, keeper: Keeper) -> None:
    grants(registry, "one")
    pull(registry.host, keeper, ALICE)
    asked, connections = len(registry.requests), registry.connections
    for _ in range(3):
        pull(registry.host, keeper, ALICE)
    assert [str(one) for one in registry.requests[asked:]] == ["GET /v2/a/b/manifests/v1"] * 3
    assert registry.connections == connections


def test_over_tls(tls: str, keeper: Keeper, tmp_path: Path) -> None:
    with with_image(tls) as registry:
        shutil.copytree(tls, tmp_path / registry.host)
        for _ in range(2):
            pull(registry.host, keeper, certificate_directories=(str(tmp_path),))
        assert registry.connections == 1


def test_nothing_is_kept_where_nobody_asked_for_it(registry: FakeRegistry, keeper: Keeper) -> None:
    client = client_of(registry.host, keeper)
    with client:
        client.manifest(reference.parse(f"{registry.host}/a/b:v1"))
    before = registry.connections
    pull(registry.host, keeper)
    assert registry.connections > before


def test_nothing_is_kept_of_what_was_cancelled(registry: FakeRegistry, keeper: Keeper) -> None:
    cancelled = threading.Event()
    with client_of(registry.host, keeper, cancelled=cancelled) as client:
        client.manifest(reference.parse(f"{registry.host}/a/b:v1"))
        cancelled.set()
        client.release()
    before = registry.connections
    pull(registry.host, keeper)
    assert registry.connections > before


@pytest.mark.parametrize("who", [BOB, None, Credentials("alice", "other"), Credentials("alice", identity_token="x"), Credentials(registry_token="x")])
def test_nothing_is_kept_for_somebody_else(registry: FakeRegistry, keeper: Keeper, who: Credentials | None) -> None:
    grants(registry, "alices")
    pull(registry.host, keeper, ALICE)
    registry.rule("GET", "^/token", answer(401))
    registry.rule("POST", "^/token", answer(401))
    asked, connections = len(registry.requests), registry.connections
    with pytest.raises((NotFound, Unauthorized)):
        pull(registry.host, keeper, who)
    assert registry.connections > connections
    assert "Bearer alices" not in [one.headers.get("authorization") for one in registry.requests[asked:]]
    pull(registry.host, keeper, ALICE)  # hers is there still


@pytest.mark.parametrize("given", [
    {"insecure": ["else.test"]}, {"environment": {"HTTPS_PROXY": "http://127.0.0.1:1"}}, {"mirrors": ["http://else.test"]},
    {"certificate_directories": ("/nonexistent",)},
])  # fmt: skip
def test_nothing_is_kept_for_other_settings(registry: FakeRegistry, keeper: Keeper, given: dict) -> None:
    pull(registry.host, keeper)
    before = registry.connections
    pull(registry.host, keeper, **given)
    assert registry.connections > before


def test_certificates_that_changed_are_asked_anew(tls: str, keeper: Keeper, tmp_path: Path) -> None:
    with with_image(tls) as registry:
        (tmp_path / registry.host).mkdir()
        shutil.copy(f"{tls}/ca.crt", tmp_path / registry.host)
        pull(registry.host, keeper, certificate_directories=(str(tmp_path),))
        (tmp_path / registry.host / "ca.crt").write_text("nonsense")
        with pytest.raises(Exception, match="cannot be used"):
            pull(registry.host, keeper, certificate_directories=(str(tmp_path),))


def test_a_token_that_is_no_longer_taken_is_asked_for_anew_once(registry: FakeRegistry, keeper: Keeper) -> None:
    grants(registry, "one")
    pull(registry.host, keeper, ALICE)
    grants(registry, "one", "two")
    asked = len(registry.requests)
    pull(registry.host, keeper, ALICE)
    assert [(one.target.partition("?")[0], one.headers.get("authorization")) for one in registry.requests[asked:]] == [
        ("/v2/a/b/manifests/v1", "Bearer one"), ("/token", ALICE.basic), ("/v2/a/b/manifests/v1", "Bearer two"),
    ]  # fmt: skip


def test_a_token_that_is_refused_is_not_kept(registry: FakeRegistry, keeper: Keeper) -> None:
    grants(registry, "one")
    pull(registry.host, keeper, ALICE)
    grants(registry, "one", "two")
    registry.rule("GET", "^/token", answer(401), times=1)
    with pytest.raises(NotFound):
        pull(registry.host, keeper, ALICE)
    asked = len(registry.requests)
    pull(registry.host, keeper, ALICE)
    assert "Bearer one" not in [one.headers.get("authorization") for one in registry.requests[asked:]]


def test_a_token_is_not_used_beyond_its_time(registry: FakeRegistry, keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    grants(registry, "one", life_s=100)
    pull(registry.host, keeper, ALICE)
    asked = len(registry.requests)
    real = time.monotonic
    monkeypatch.setattr("berth.registry.client.authorization.time.monotonic", lambda: real() + 95)
    pull(registry.host, keeper, ALICE)
    assert registry.requests[asked].headers.get("authorization") is None


def test_a_login_is_never_answered_from_what_is_kept(registry: FakeRegistry, keeper: Keeper) -> None:
    grants(registry, "one")
    pull(registry.host, keeper, ALICE)
    registry.rule("GET", "^/v2/$", answer(401, WWW_Authenticate=BEARER.format(registry.url)))
    registry.rule("GET", "^/token", answer(401))
    client = RegistryClient(registry.host, Settings(environment={}, certificate_directories=()), ALICE)  # as the engine does it
    with client, pytest.raises(Unauthorized):
        client.login()


def test_a_registry_that_has_restarted_is_asked_anew(keeper: Keeper) -> None:
    with with_image() as registry:
        pull(registry.host, keeper)
        port = int(registry.host.rpartition(":")[2])
    with with_image(port=port) as registry:
        pull(registry.host, keeper)
        assert [str(one) for one in registry.requests] == ["GET /v2/", "GET /v2/a/b/manifests/v1"]


@pytest.mark.parametrize("first", ["http", "https"])
def test_a_registry_that_has_changed_its_scheme(tls: str, keeper: Keeper, first: str) -> None:
    with with_image(tls if first == "https" else "") as registry:
        pull(registry.host, keeper, ALICE)
        port = int(registry.host.rpartition(":")[2])
    with with_image("" if first == "https" else tls, port=port) as registry:
        pull(registry.host, keeper, ALICE)
        assert registry.asked("GET", "/manifests/v1")


def test_what_was_said_over_tls_is_not_said_without(tls: str, keeper: Keeper) -> None:
    with with_image(tls) as registry:
        grants(registry, "one")
        pull(registry.host, keeper, ALICE)
        port = int(registry.host.rpartition(":")[2])
    with with_image(port=port) as registry:
        pull(registry.host, keeper, ALICE)
        assert [one.headers.get("authorization") for one in registry.requests] == [None, None]


def test_a_connection_that_ends_just_when_it_is_used_is_replaced_once(
    registry: FakeRegistry, keeper: Keeper
) -> None:
    pull(registry.host, keeper)
    registry.rule("GET", "/manifests/", fake_registry.hang_up, times=1)
    before = registry.connections
    pull(registry.host, keeper, attempts=1)
    assert registry.connections == before + 1
    registry.rule("GET", "/manifests/", fake_registry.hang_up, times=2)
    with pytest.raises(Unavailable, match="EOF"):
        pull(registry.host, keeper, attempts=1)


def test_bytes_nobody_has_asked_for_end_a_connection(registry: FakeRegistry, keeper: Keeper) -> None:
    """They would be taken for the answer to the next question."""
    sent = threading.Event()

    def more(exchange: fake_registry.Exchange) -> None:
        fake_registry._proper(exchange)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        sent.set()

    registry.rule("GET", "/manifests/", more, times=1)
    pull(registry.host, keeper)
    assert sent.wait(20)
    before = registry.connections
    pull(registry.host, keeper)
    assert registry.connections > before


def test_kept_for_seconds_and_never_longer_than_a_minute(clock: Clock, keeper: Keeper) -> None:
    assert keeper.take(("a",)).since_s == clock.now_s
    start_s, kept = clock.now_s, Kept(tokens={("x", "y"): ("t", 1e9)}, since_s=clock.now_s)
    for _ in range(6):
        keeper.give(("a",), kept)
        clock.now_s += 9.9
        kept = keeper.take(("a",))
        assert kept.tokens
        assert kept.since_s == start_s
    keeper.give(("a",), kept)
    clock.now_s += 0.7  # more than a minute since the first
    assert not keeper.take(("a",)).tokens
    keeper.give(("a",), Kept(tokens=kept.tokens))
    clock.now_s += 10
    assert not keeper.take(("a",)).tokens


class Connection:
    """As much of one as a keeper needs."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def of(connection: Connection) -> Kept:
    return Kept({("http", "h", False): [connection]})  # type: ignore[list-item]


def test_connections_that_wait_are_closed_in_time() -> None:
    keeper, one, two = Keeper(idle_s=0.05), Connection(), Connection()
    keeper.give(("a",), of(one))
    keeper.give(("b",), of(two))
    assert one.closed.wait(20)
    assert two.closed.wait(20)
    assert keeper._kept == {}
    keeper.close()


def test_connections_are_closed_with_the_engine_and_not_kept_after() -> None:
    keeper, one, two = Keeper(), Connection(), Connection()
    keeper.give(("a",), of(one))
    assert not one.closed.is_set()
    keeper.close()
    assert one.closed.is_set()
    keeper.give(("a",), of(two))
    assert two.closed.is_set()


def test_connections_in_somebodys_stead_are_closed() -> None:
    keeper, connections = Keeper(), [Connection() for _ in range(40)]
    for number, one in enumerate(connections[:2]):
        keeper.give(("same",), of(one))
        assert [other.closed.is_set() for other in connections[:2]] == [number == 1, False]
    for number, one in enumerate(connections[2:]):
        keeper.give((number,), of(one))
    assert sum(not one.closed.is_set() for one in connections) == 16
    keeper.close()
    assert all(one.closed.is_set() for one in connections)
