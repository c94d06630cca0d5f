"""berth's registry as real clients see it: docker and dockerd, skopeo, curl, and a browser."""

import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd
from harness import wait_until
from registries import make_certificates
from registry_host import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, RegistryHost, digest_of, registry_host, write_layout, write_users

from berth.errors import BerthError, DataLoss
from berth.oci.reference import Reference
from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings
from berth.registry.documents import Descriptor
from berth.store.partial import Partial

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("skopeo") or not shutil.which("htpasswd"), reason="needs skopeo and htpasswd")]


def run(*words: str, code: "int | None" = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=110, stdin=subprocess.DEVNULL)
    assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def skopeo(verb: str, *words: str, code: "int | None" = 0) -> str:
    return run("skopeo", "--insecure-policy", verb, *words, code=code)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_users(str(tmp_path_factory.mktemp("users") / "htpasswd"), alice="wonder land", bob="builder")


@pytest.fixture(scope="module")
def guarded(users: str) -> Iterator[RegistryHost]:
    """Users push, everybody pulls, with tokens."""
    with registry_host("--htpasswd", users, "--anonymous-pull") as host:
        yield host


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_layout(str(tmp_path_factory.mktemp("layout") / "image"), "Says <b>hello</b> & more", layer=b"hello" * 100_000)


# -- docker ---------------------------------------------------------------------------------------------------


@pytest.fixture
def image(real: Dockerd, tmp_path: Path) -> Iterator[str]:
    """An image of dockerd's that shares no layer with any other."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/content").write_bytes(os.urandom(200_000))
    run("tar", "-C", f"{tmp_path}/files", "-cf", f"{tmp_path}/image.tar", ".")
    identity = real("import", f"{tmp_path}/image.tar").stdout.strip()
    yield identity
    real("rmi", "-f", identity, code=None)


def test_docker_logs_in_pushes_pulls_and_searches(guarded: RegistryHost, real: Dockerd, image: str) -> None:
    name = f"{guarded.address}/docker/busy"
    real("tag", image, f"{name}:1")
    try:
        refused = real("push", f"{name}:1", code=1)
        assert "unauthorized: authentication required" in refused.stderr
        assert "Retrying" not in refused.stdout  # dockerd knows that it would be no better the next time
        assert "unauthorized" in real("login", "-u", "alice", "--password-stdin", guarded.address, input="wrong", code=1).stderr
        assert "Login Succeeded" in real("login", "-u", "alice", "--password-stdin", guarded.address, input="wonder land").stdout
        pushed = real("push", f"{name}:1").stdout
        digest = re.search(r"digest: (sha256:[0-9a-f]{64})", pushed)
        assert digest, pushed
        real("tag", image, f"{guarded.address}/docker/other:1")
        assert "Mounted from docker/busy" in real("push", f"{guarded.address}/docker/other:1").stdout
        real("logout", guarded.address)
        for reference in (f"{name}:1", f"{name}@{digest[1]}"):
            real("rmi", "-f", image)
            real("pull", reference)
            assert real("image", "inspect", "-f", "{{.Id}}", reference).stdout.strip() == image
        found = real("search", "--format", "{{.Name}} {{.StarCount}}", f"{guarded.address}/busy").stdout.split()
        assert found[0] == "docker/busy"
        assert int(found[1]) >= 1  # dockerd may have kept the manifest of the first pull for the second
    finally:
        real("logout", guarded.address, code=None)


def test_docker_with_basic_authentication(users: str, real: Dockerd, image: str) -> None:
    with registry_host("--htpasswd", users, "--auth", "basic") as host:
        name = f"{host.address}/basic/busy:1"
        real("tag", image, name)
        try:
            real("login", "-u", "bob", "--password-stdin", host.address, input="builder")
            real("push", name)
            real("rmi", "-f", image)
            real("pull", name)
            real("logout", host.address)
            assert "no basic auth credentials" in real("pull", name, code=1).stderr
            assert host.ask("GET", "/v2/").headers["WWW-Authenticate"].startswith("Basic realm=")
        finally:
            real("logout", host.address, code=None)


# -- skopeo ---------------------------------------------------------------------------------------------------


def test_skopeo_copies_both_ways(guarded: RegistryHost, layout: str, tmp_path: Path) -> None:
    image, plain = f"docker://{guarded.address}/skopeo/image:1", "--{}-tls-verify=false"
    to, of = plain.format("dest"), plain.format("src")
    assert "authentication required" in skopeo("copy", to, f"oci:{layout}:latest", image, code=1)
    skopeo("copy", to, "--dest-creds", "alice:wonder land", f"oci:{layout}:latest", image)
    skopeo("copy", of, image, f"oci:{tmp_path}/back:latest")
    described = json.loads(skopeo("inspect", "--tls-verify=false", image))
    assert described["RepoTags"] == ["1"]
    assert json.loads((tmp_path / "back/index.json").read_text())["manifests"][0]["digest"] == described["Digest"]
    packed = (tmp_path / "back/blobs/sha256" / described["Layers"][0][7:]).read_bytes()
    assert b"hello" * 100_000 in gzip.decompress(packed)  # skopeo packs a layer as it pushes
    assert described["Labels"]["org.opencontainers.image.description"] == "Says <b>hello</b> & more"
    skopeo("copy", of, to, "--dest-creds", "bob:builder", image, f"docker://{guarded.address}/skopeo/copied:2")
    assert json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{guarded.address}/skopeo/copied"))["Tags"] == ["2"]
    skopeo("delete", "--tls-verify=false", "--creds", "bob:builder", f"docker://{guarded.address}/skopeo/copied:2")
    assert "skopeo/copied" not in guarded.ask("GET", "/v2/_catalog").json["repositories"]


def test_tls(layout: str, users: str, tmp_path: Path) -> None:
    make_certificates(str(tmp_path))
    (tmp_path / "authority").mkdir()
    shutil.copy(tmp_path / "ca.crt", tmp_path / "authority/ca.crt")
    with registry_host("--tlscert", f"{tmp_path}/server.crt", "--tlskey", f"{tmp_path}/server.key", "--htpasswd", users) as host:
        image = f"docker://{host.address}/secure/image:1"
        skopeo("copy", "--dest-cert-dir", f"{tmp_path}/authority", "--dest-creds", "bob:builder", f"oci:{layout}:latest", image)
        skopeo("copy", "--src-cert-dir", f"{tmp_path}/authority", "--src-creds", "bob:builder", image, f"dir:{tmp_path}/back")
        assert "certificate" in skopeo("copy", f"oci:{layout}:latest", image, code=1)
        big = b"tls" * 3_000_000
        upload = f"https://{host.address}/v2/secure/big/blobs/uploads/?digest={digest_of(big)}"
        (tmp_path / "big").write_bytes(big)
        run("curl", "-sSf", "-u", "bob:builder", "--cacert", f"{tmp_path}/ca.crt", "--data-binary", f"@{tmp_path}/big", "-H", "Content-Type: application/octet-stream", upload)
        run("curl", "-sSf", "-u", "bob:builder", "--cacert", f"{tmp_path}/ca.crt", "-o", f"{tmp_path}/fetched", f"https://{host.address}/v2/secure/big/blobs/{digest_of(big)}")
        assert (tmp_path / "fetched").read_bytes() == big
        make_certificates(str(tmp_path))  # of another authority now
        assert host.process
        host.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "read anew" in host.log(), "the old certificate", 30)
        run("curl", "-sSf", "-u", "bob:builder", "--cacert", f"{tmp_path}/ca.crt", f"https://{host.address}/v2/")
        (tmp_path / "server.crt").write_text("nonsense")
        host.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the certificate stays as it was" in host.log(), "no word of a certificate that is none", 30)
        run("curl", "-sSf", "-u", "bob:builder", "--cacert", f"{tmp_path}/ca.crt", f"https://{host.address}/v2/")


# -- berth's own client ---------------------------------------------------------------------------------------------


def test_berths_client(guarded: RegistryHost, tmp_path: Path) -> None:
    settings = Settings(environment={}, certificate_directories=())
    data = os.urandom(40_000_000)  # enough for several ranges at once
    repository = "own/image"
    with RegistryClient(guarded.address, settings, Credentials("alice", "wonder land")) as client:
        digest, size, mounted = client.upload(repository, lambda offset: io.BytesIO(data[offset:]))
        assert (digest, size, mounted) == (digest_of(data), len(data), False)
        assert client.upload("own/other", lambda offset: io.BytesIO(data[offset:]), digest=digest, size_bytes=size, mount_from=repository)[2]
        config = b'{"os": "linux", "architecture": "amd64"}'
        entries = [{"mediaType": OCI_LAYER, "digest": digest, "size": size}, {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)}]
        client.upload(repository, lambda offset: io.BytesIO(config[offset:]))
        manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[1], "layers": entries[:1]}).encode()
        named = client.put_manifest(repository, "1", manifest, OCI_MANIFEST)
        signature = json.dumps({**json.loads(manifest), "subject": {"mediaType": OCI_MANIFEST, "digest": named, "size": len(manifest)}}).encode()
        signed = client.put_manifest(repository, digest_of(signature), signature, OCI_MANIFEST)
        with pytest.raises(DataLoss):
            client.put_manifest(repository, digest_of(b"other"), manifest, OCI_MANIFEST)
    with RegistryClient(guarded.address, settings) as client:  # nobody
        assert client.tags(Reference(guarded.address, repository, "", "")) == ["1"]
        assert client.manifest(Reference(guarded.address, repository, "1", "")).digest == named
        assert [one.digest for one in client.referrers(repository, named)] == [signed]
        assert repository in client.repositories()
        assert [entry["name"] for entry in client.search("own/image", 5)] == [repository]
        partial = Partial(str(tmp_path), digest, size)
        try:
            client.download(repository, Descriptor(OCI_LAYER, digest, size), partial)
            assert Path(partial.path).read_bytes() == data
        finally:
            partial.discard()
        with pytest.raises(BerthError, match="authentication required"):
            client.upload(repository, lambda offset: io.BytesIO(b"no"))


# -- passwords and tokens ---------------------------------------------------------------------------------------


def token(host: RegistryHost, scope: str, credentials: str = "") -> str:
    user = ("-u", credentials) if credentials else ()
    return str(json.loads(run("curl", "-sS", *user, "-G", f"http://{host.address}/token", "--data-urlencode", f"scope={scope}"))["token"])


def test_a_token_allows_what_it_says_and_no_more(guarded: RegistryHost) -> None:
    pull = token(guarded, "repository:tokens/a:pull,push,delete")  # nobody gets only what nobody may
    push = token(guarded, "repository:tokens/a:pull,push", "alice:wonder land")
    bearer = {name: {"Authorization": f"Bearer {value}"} for name, value in (("pull", pull), ("push", push))}
    assert guarded.ask("POST", "/v2/tokens/a/blobs/uploads/", headers=bearer["push"]).status == 202
    digest = digest_of(b"abc")
    assert guarded.ask("POST", f"/v2/tokens/a/blobs/uploads/?digest={digest}", b"abc", bearer["push"]).status == 201
    assert guarded.ask("GET", f"/v2/tokens/a/blobs/{digest}", headers=bearer["pull"]).body == b"abc"
    for method, target, who in [("POST", "/v2/tokens/a/blobs/uploads/", "pull"), ("POST", "/v2/tokens/b/blobs/uploads/", "push"),
                                ("DELETE", f"/v2/tokens/a/blobs/{digest}", "push"), ("GET", f"/v2/tokens/b/blobs/{digest}", "push")]:  # fmt: skip
        refused = guarded.ask(method, target, headers=bearer[who])
        assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
        assert re.search(r'Bearer realm="http://127\.0\.0\.1:\d+/token",service="berth-registry",scope="repository:tokens/[ab]:', refused.headers["WWW-Authenticate"])
    # A blob of a repository that the token says nothing of is not mounted.
    both = {"Authorization": f"Bearer {token(guarded, 'repository:tokens/b:push', 'bob:builder')}"}
    digest = digest_of(b"of b alone")
    assert guarded.ask("POST", f"/v2/tokens/b/blobs/uploads/?digest={digest}", b"of b alone", both).status == 201
    assert guarded.ask("POST", f"/v2/tokens/a/blobs/uploads/?mount={digest}&from=tokens/b", headers=bearer["push"]).status == 202


def test_tokens_that_are_not_taken(guarded: RegistryHost) -> None:
    good = token(guarded, "repository:tokens/a:push", "bob:builder")
    head, body, signature = good.split(".")
    for bad in (f"{head}.{body}.{signature[::-1]}", "x.y.z", "", "eyJhbGciOiJub25lIn0." + body + "."):
        assert guarded.ask("POST", "/v2/tokens/a/blobs/uploads/", headers={"Authorization": f"Bearer {bad}"}).status == 401
    for credentials in ("bob:wrong", "nobody:builder", ":", "bob"):
        assert '"UNAUTHORIZED"' in run("curl", "-sS", "-u", credentials, f"http://{guarded.address}/token")
    assert guarded.ask("GET", "/v2/", headers={"Authorization": "Basic !!!"}).status == 401
    assert guarded.ask("GET", "/v2/", headers={"Authorization": "Digest x"}).status == 401
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    granted = guarded.ask("POST", "/token", b"grant_type=password&username=bob&password=builder&service=x&scope=repository:tokens/a:push&client_id=t", form)
    assert (granted.status, bool(granted.json["access_token"])) == (200, True)
    assert guarded.ask("POST", "/token", b"grant_type=refresh_token&refresh_token=x&username=bob&password=builder", form).status == 401


def test_tokens_outlive_a_restart_and_passwords_are_read_anew(tmp_path: Path) -> None:
    file = write_users(f"{tmp_path}/users", carol="one")
    with registry_host("--htpasswd", file) as host:
        assert host.ask("GET", "/v2/x/tags/list").status == 401
        assert host.ask("GET", "/v2/_catalog").status == 401
        bearer = {"Authorization": f"Bearer {token(host, 'repository:x:push', 'carol:one')}"}
        host.stop()
        host.start()
        assert host.ask("POST", "/v2/x/blobs/uploads/", headers=bearer).status == 202
        assert run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u", "dave:two", f"http://{host.address}/v2/") == "401"
        write_users(file, dave="two", carol="other")
        assert run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u", "dave:two", f"http://{host.address}/v2/") == "200"
        assert run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u", "carol:one", f"http://{host.address}/v2/") == "401"


# -- search and the page ------------------------------------------------------------------------------------------


def test_search_by_name_and_description() -> None:
    with registry_host() as host:
        host.push("team/web", "1", b"a", labels={"org.opencontainers.image.title": "Old words"})
        host.push("team/web", "2", b"b", labels={"org.opencontainers.image.description": "Serves pages"})
        host.push("webcam", "1", b"c", annotations={"org.opencontainers.image.description": "Looks at you"})
        host.push("other", "1", b"d", labels={"org.opencontainers.image.description": "A proxy for the web"})
        for _ in range(3):
            host.ask("GET", "/v2/other/manifests/1")

        def search(query: str) -> "list[tuple[str, str, int]]":
            return [(one["name"], one["description"], one["star_count"]) for one in host.ask("GET", f"/v1/search?{query}").json["results"]]

        expected = [("team/web", "Serves pages", 0), ("webcam", "Looks at you", 0), ("other", "A proxy for the web", 3)]
        assert search("q=web") == expected
        assert search("q=WEB%20proxy") == expected[2:]
        assert search("q=web&n=1") == expected[:1]
        assert search("q=words") == []
        assert len(search("q=")) == 3
        host.stop()  # counts and descriptions are there again
        host.start()
        wait_until(lambda: search("q=proxy") == expected[2:], "counts or descriptions missing", 30)  # read while it serves
        assert host.ask("GET", "/v1/_ping").status == 200


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    with registry_host() as host:
        evil = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
        digest = host.push("team/page", "v1", b"layer" * 1000, b"y" * 2_500_000, labels={"org.opencontainers.image.description": evil})
        host.push("team/plain", "v1", b"x")

        def dom(path: str) -> str:
            return run("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile",
                       "--dump-dom", f"http://{host.address}{path}")  # fmt: skip

        front = dom("/")
        assert f"<title>Images on {host.address}</title>" in front
        assert re.search(r'<a href="/r/team/page">team/page</a></td><td>&lt;script&gt;', front)
        assert "<img" not in front
        found = dom("/?q=plain")
        assert "team/plain" in found
        assert "team/page" not in found
        one = dom("/r/team/page")
        assert "<title>team/page</title>" in one
        assert digest in one
        assert digest_of(b"y" * 2_500_000) in one
        assert "2.5 MB" in one
        assert f"docker pull {host.address}/team/page:v1" in one
        policy = host.ask("GET", "/r/team/page").headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "https://" not in host.ask("GET", "/r/team/page").body.decode()
        assert host.ask("GET", "/r/team/none").status == 404
