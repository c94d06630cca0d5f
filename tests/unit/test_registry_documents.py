"""Manifests and indexes, challenges and tokens, refusals, addresses and proxies: what a registry or a person may say."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import BerthError, DataLoss, InvalidParameter, NotImplementedHere
from berth.oci import platforms
from berth.registry import documents, media
from berth.registry.client import challenge, failures
from berth.registry.client.settings import Settings

DIGEST = "sha256:" + "a" * 64
DESCRIPTOR = {"mediaType": media.OCI_CONFIG, "digest": DIGEST, "size": 7}
MANIFEST = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}
INDEX = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [DESCRIPTOR]}
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=9)


def parse(value: object, content_type: str = "") -> documents.Document:
    return documents.parse(json.dumps(value).encode(), content_type)


# -- manifests and indexes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "header", "media_type"),
    [
        (MANIFEST, "", media.OCI_MANIFEST), (INDEX, "", media.OCI_INDEX), (MANIFEST, media.DOCKER_MANIFEST, media.OCI_MANIFEST),
        ({**MANIFEST, "mediaType": None}, f"{media.DOCKER_MANIFEST}; charset=utf-8", media.DOCKER_MANIFEST),
        ({**MANIFEST, "mediaType": "x/y"}, "text/plain", media.OCI_MANIFEST), ({**INDEX, "mediaType": None}, media.DOCKER_LIST, media.DOCKER_LIST),
        ({**INDEX, "mediaType": None}, "application/json", media.OCI_INDEX),
    ],
)  # fmt: skip
def test_what_a_document_is(value: dict, header: str, media_type: str) -> None:
    found = parse(value, header)
    assert found.media_type == media_type
    assert found.is_index == ("manifests" in value)
    assert documents.digest_of(json.dumps(value).encode()) == found.digest


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ({**MANIFEST, "manifests": []}, DataLoss, "refused as ambiguous"),
        ({**MANIFEST, "mediaType": media.OCI_INDEX}, DataLoss, "which its fields contradict"),
        ({**INDEX, "mediaType": media.DOCKER_MANIFEST}, DataLoss, "which its fields contradict"),
        ({"schemaVersion": 1, "fsLayers": []}, NotImplementedHere, "schema 1"),
        ({**MANIFEST, "layers": {}}, DataLoss, "no list at `layers`"),
        ({**MANIFEST, "layers": [DESCRIPTOR] * 1001}, DataLoss, "lists 1001 layers"),
        ({**INDEX, "manifests": [DESCRIPTOR] * 4097}, DataLoss, "lists 4097 manifests"),
        ({**MANIFEST, "config": None}, DataLoss, "no descriptor at `config`"),
        ({**MANIFEST, "layers": [7]}, DataLoss, r"no descriptor at `layers\[0\]`"),
        ({**MANIFEST, "layers": [{**DESCRIPTOR, "digest": "sha256:../../x"}]}, DataLoss, r"'sha256:../../x' at `layers\[0\].digest`"),
        ({**MANIFEST, "config": {**DESCRIPTOR, "digest": "sha512:" + "a" * 127}}, DataLoss, "not a sha256 or sha512 digest"),
        ({**MANIFEST, "config": {**DESCRIPTOR, "digest": "md5:" + "a" * 32}}, DataLoss, "not a sha256 or sha512 digest"),
        ({**MANIFEST, "config": {**DESCRIPTOR, "size": -1}}, DataLoss, "has -1 at `config.size`"),
        ({**MANIFEST, "config": {**DESCRIPTOR, "size": 1.5}}, DataLoss, "has 1.5 at"),
        ({**MANIFEST, "config": {**DESCRIPTOR, "size": True}}, DataLoss, "has True at"),
        ({**MANIFEST, "config": {**DESCRIPTOR, "size": 10**300}}, DataLoss, "not a size in bytes"),
        ({**MANIFEST, "subject": "x"}, DataLoss, "no descriptor at `subject`"),
    ],
)  # fmt: skip
def test_documents_that_are_refused(value: dict, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        parse(value)


@given(JSON, st.sampled_from(["", *media.ACCEPTED]))
def test_any_json_is_read_or_refused(value: object, header: str) -> None:
    for whole in (value, {**MANIFEST, "config": value}, {**INDEX, "manifests": [value]}, {**MANIFEST, "mediaType": value}):
        try:
            parse(whole, header)
        except BerthError:
            pass


@given(st.binary(max_size=99))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(BerthError):
        documents.parse(raw, "")


@given(st.dictionaries(st.sampled_from(sorted(DESCRIPTOR)), JSON))
def test_any_field_of_a_descriptor(change: dict) -> None:
    try:
        found = parse({**MANIFEST, "layers": [{**DESCRIPTOR, **change}]}).layers[0]
    except DataLoss:
        return
    assert documents.digests.is_known(found.digest)
    assert 0 <= found.size_bytes <= 1 << 43


def entry(platform: "str | None", **more: object) -> dict:
    os, architecture, variant = (*(platform or "//").split("/"), "")[:3]
    described = {"platform": {"os": os, "architecture": architecture, "variant": variant}} if platform else {}
    return {**DESCRIPTOR, "digest": documents.digest_of(repr((platform, more)).encode()), **described, **more}


def test_the_manifest_for_a_platform() -> None:
    index = parse({**INDEX, "manifests": [
        entry("unknown/unknown", annotations={"vnd.docker.reference.type": "attestation-manifest"}), entry("linux/arm64"), entry("linux/arm/v6"), entry(None),
    ]})  # fmt: skip
    assert documents.choose(index, platforms.parse("linux/arm/v7")).platform == platforms.parse("linux/arm/v6")
    with pytest.raises(InvalidParameter, match="no matching manifest for linux/s390x in the manifest list entries; there are: linux/arm/v6, linux/arm64"):
        documents.choose(index, platforms.parse("linux/s390x"))
    assert documents.choose(parse({**INDEX, "manifests": [entry(None)]}), platforms.parse("linux/s390x")).platform is None
    with pytest.raises(InvalidParameter, match="there are: none"):
        documents.choose(parse({**INDEX, "manifests": []}), platforms.host())


# -- challenges -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Bearer realm="https://a/t",service="r",scope="repository:x:pull,push"', [("bearer", {"realm": "https://a/t", "service": "r", "scope": "repository:x:pull,push"})]),
        ('Basic realm="x", Bearer realm=y', [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        ('Negotiate, Basic realm="a b"', [("negotiate", {}), ("basic", {"realm": "a b"})]),
        ('Negotiate abc==, Basic Realm="x\\"y"', [("negotiate", {}), ("basic", {"realm": 'x"y'})]),
        (" ,, Basic", [("basic", {})]), ("", []), ("=", []), ('"', []), ('Bearer realm="unclosed', [("bearer", {})]),
        ('bearer realm="a",realm="b"', [("bearer", {"realm": "a"})]),
    ],
)  # fmt: skip
def test_challenges(header: str, found: list) -> None:
    assert [(one.scheme, one.parameters) for one in challenge.parse(header)] == found


@given(st.text(max_size=60) | st.text(alphabet='aB=", \\\t', max_size=60))
def test_any_header_is_read_or_left(header: str) -> None:
    challenge.parse(header)


QUOTED = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["Bearer", "Basic"]), st.dictionaries(st.sampled_from(["realm", "service", "scope"]), QUOTED, min_size=1)), min_size=1, max_size=3))
def test_what_was_quoted_is_read_again(given: list) -> None:
    def quote(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(f"{scheme} " + ", ".join(f"{key}={quote(value)}" for key, value in parameters.items()) for scheme, parameters in given)
    assert [(one.scheme, one.parameters) for one in challenge.parse(header)] == [(scheme.lower(), parameters) for scheme, parameters in given]


@pytest.mark.parametrize("pattern", ["a", "a=b,", 'a="', "a ", "a=", ",", '\\"', "a a"])
def test_a_challenge_of_megabytes_is_read_in_no_time(pattern: str) -> None:
    """http.client gives as much as 100 headers of 64 KiB; a pattern that backtracks would not end within the test's time."""
    challenge.parse(pattern * (6_500_000 // len(pattern)))


@pytest.mark.parametrize(
    ("answer", "token", "life_s"),
    [
        ({"token": "t"}, "t", 60), ({"access_token": "a", "expires_in": 300}, "a", 300), ({"token": "t", "expires_in": 1}, "t", 60),
        ({"token": "t", "expires_in": 10**30}, "t", 3600), ({"token": "t", "expires_in": float("nan")}, "t", 60), ({"token": "t", "expires_in": float("inf")}, "t", 3600),
        ({"token": "t", "expires_in": "300"}, "t", 60), ({"token": "t", "expires_in": True}, "t", 60), ({"token": "t", "expires_in": -5}, "t", 60),
    ],
)  # fmt: skip
def test_tokens(answer: dict, token: str, life_s: float) -> None:
    assert challenge.token_of(answer, 1000.0) == (token, pytest.approx(1000 + life_s * 0.9))


@pytest.mark.parametrize("answer", [{}, {"token": ["t"]}, {"token": None}, {"access_token": 7}])
def test_answers_without_a_token(answer: dict) -> None:
    assert challenge.token_of(answer)[0] == ""


# -- refusals ---------------------------------------------------------------------------------------------------


@given(st.sampled_from([400, 401, 403, 404, 405, 409, 416, 429, 500, 503]), st.sampled_from(["application/json", "text/html", ""]), st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(lambda value: json.dumps({"errors": [value]}).encode()))
def test_any_refusal_becomes_a_short_printable_error(status: int, content_type: str, body: bytes) -> None:
    for error in (failures.of_request(failures.refusal(status, content_type, body)), failures.of_pull(failures.refusal(status, content_type, body), "x", "x:v1")):
        assert str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 700


# -- addresses and proxies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "insecure"),
    [
        ("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("127.9.9.9", True), ("[::1]:5000", True), ("10.1.2.3:5000", True),
        ("10.1.2.3", True), ("11.1.2.3", False), ("plain.test:5000", True), ("plain.test", False), ("any.test:1", True), ("any.test", True),
        ("localhost.evil.test", False), ("127.0.0.1.evil.test", False), ("docker.io", False),
    ],
)  # fmt: skip
def test_which_registries_are_insecure(registry: str, insecure: bool) -> None:
    settings = Settings(insecure=["10.0.0.0/8", "plain.test:5000", "any.test"], environment={}, look_up=lambda host: [])
    assert settings.is_insecure(registry) == insecure
    assert [one.scheme for one in settings.endpoints(registry, pull=True)] == (["https", "http"] if insecure else ["https"])
    assert next(one.verify for one in settings.endpoints(registry, pull=True)) == (not insecure)


NAMES = {
    "inside.test": ["10.1.2.3", "fd00::7"], "outside.test": ["11.1.2.3"], "both.test": ["10.1.2.3", "11.1.2.3"], "here.test": ["127.0.0.1", "::1"], "none.test": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("registry", "insecure"),
    [("inside.test", True), ("inside.test:5000", True), ("outside.test", False), ("both.test", False), ("here.test:1", True), ("none.test", False)],
)
def test_a_name_is_as_insecure_as_all_its_addresses(registry: str, insecure: bool) -> None:
    settings = Settings(insecure=["10.0.0.0/8", "fd00::/8"], environment={}, look_up=lambda host: NAMES[host])
    host = registry.partition(":")[0]
    assert settings.addresses(host) == []
    assert settings.is_insecure(registry) == insecure
    assert settings.addresses(host) == (NAMES[host] if insecure else [])  # no other way is taken there


def test_names_that_a_proxy_looks_up_or_nobody_has_to() -> None:
    def look_up(host: str) -> list[str]:
        raise AssertionError(host)

    for environment, registry in (({"HTTPS_PROXY": "p:1"}, "inside.test"), ({"HTTP_PROXY": "p:1"}, "inside.test:5000"), ({}, "11.2.3.4"), ({}, "[fe80::1]:5")):
        assert not Settings(insecure=["10.0.0.0/8"], environment=environment, look_up=look_up).is_insecure(registry)
    assert not Settings(insecure=["10.0.0.0/8"], environment={}, look_up=look_up).endpoints("docker.io", pull=True)[0].scheme == "http"
    assert not Settings(foreign=["a.test"], environment={}, look_up=look_up).takes_foreign("b.test")


def test_which_registries_take_foreign_layers() -> None:
    settings = Settings(foreign=["a.test", "b.test:5000", "10.0.0.0/8"], environment={}, look_up=lambda host: NAMES.get(host, []))
    found = {name for name in ("a.test", "a.test:1", "b.test", "b.test:5000", "10.1.1.1:5", "127.0.0.1", "inside.test", "both.test", "here.test") if settings.takes_foreign(name)}
    assert found == {"a.test", "a.test:1", "b.test:5000", "10.1.1.1:5"}  # inside.test has an address elsewhere


def test_mirrors_are_of_docker_hub_and_for_pulls() -> None:
    settings = Settings(mirrors=["http://one.test:5000/base/", "two.test"], environment={})
    assert [one.url("/v2/") for one in settings.endpoints("docker.io", pull=True)] == ["http://one.test:5000/base/v2/", "https://two.test/v2/", "https://registry-1.docker.io/v2/"]
    assert [one.host for one in settings.endpoints("docker.io", pull=False)] == ["registry-1.docker.io"]
    assert [one.host for one in settings.endpoints("other.test", pull=True)] == ["other.test"]


@pytest.mark.parametrize("text", ["ftp://x", "https://user:password@x", "https://x?y", "https://", "http:///path", "https://x#y", "http://[", "http://x:99999"])
def test_mirrors_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="registry mirror"):
        Settings(mirrors=[text], environment={})


PROXIES = {"HTTPS_PROXY": "http://secure:1", "http_proxy": "plain:2"}


@pytest.mark.parametrize(
    ("scheme", "host", "no_proxy", "proxy"),
    [
        ("https", "a.test", "", "http://secure:1"), ("http", "a.test:80", "", "http://plain:2"), ("https", "localhost:5000", "", ""), ("http", "127.0.0.1", "", ""),
        ("http", "[::1]:5000", "", ""), ("https", "a.test", "*", ""), ("https", "a.test", "b.test, A.test", ""), ("https", "sub.a.test", "a.test", ""),
        ("https", "a.test", ".a.test", "http://secure:1"), ("https", "sub.a.test", ".a.test", ""), ("https", "sub.a.test", "*.a.test", ""), ("https", "a.test", "*.a.test", "http://secure:1"),
        ("https", "nota.test", "a.test", "http://secure:1"), ("https", "a.test:5000", "a.test:5000", ""), ("https", "a.test", "a.test:5000", "http://secure:1"),
        ("https", "a.test", "a.test:443", ""), ("https", "10.1.2.3:5000", "10.0.0.0/8", ""), ("https", "11.1.2.3", "10.0.0.0/8", "http://secure:1"),
        ("https", "10.1.2.3", "10.1.2.3", ""), ("https", "[fd00::7]:5000", "fd00::/8", ""), ("https", "[fd00::7]:5000", "fd00::7", ""), ("https", "[fd00::7]:5000", "[fd00::7]:5000", ""),
        ("https", "[fd00::7]:5000", "[fd00::7]:5001", "http://secure:1"), ("https", "a.test", ",,.", "http://secure:1"), ("https", "a.test.", "a.test", ""),
    ],
)  # fmt: skip
def test_proxies_as_go_reads_them(scheme: str, host: str, no_proxy: str, proxy: str) -> None:
    assert Settings(environment={**PROXIES, "NO_PROXY": no_proxy}).proxy(scheme, host) == proxy
    assert Settings(environment={}).proxy(scheme, host) == ""


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_rule_and_any_host(rules: str, host: str) -> None:
    Settings(environment={**PROXIES, "no_proxy": rules}).proxy("https", host)


def test_certificates_of_a_registry(tmp_path: Path) -> None:
    directory = tmp_path / "r.test:5000"
    directory.mkdir()
    for name in ("ca.crt", "b.crt", "client.cert", "client.key", "README"):
        (directory / name).touch()
    settings = Settings(certificate_directories=(str(tmp_path), "/nonexistent"), environment={})
    assert settings.certificates("r.test:5000") == ([f"{directory}/b.crt", f"{directory}/ca.crt"], [(f"{directory}/client.cert", f"{directory}/client.key")])
    assert settings.certificates("r.test") == ([], [])
    (tmp_path / "x.crt").touch()
    for name in ("..", ".", "", "../r.test:5000", "r.test:5000/"):
        assert settings.certificates(name) == ([], [])
    (directory / "other.cert").touch()
    with pytest.raises(InvalidParameter, match=r"other\.cert has no other\.key beside it"):
        settings.certificates("r.test:5000")
