"""Rights by repository, as docker, skopeo and curl meet them; and what a registry says of its limits."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd
from registry_host import RegistryHost, digest_of, registry_host, write_layout, write_users

from berth.registry.client.challenge import Credentials
from berth.registry.client.client import RegistryClient
from berth.registry.client.settings import Settings

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("skopeo") or not shutil.which("htpasswd"), reason="needs skopeo and htpasswd")]

RIGHTS = """
@web = alice
*       public/**          pull
@users  team/web           pull
@web    team/web, public/* push
bob     docker/*           push
bob     team/web           delete
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryHost]:
    top = tmp_path_factory.mktemp("rights")
    (top / "rights").write_text(RIGHTS)
    users = write_users(f"{top}/users", alice="a", bob="b", eve="e")
    with registry_host("--htpasswd", users, "--rights", f"{top}/rights") as running:
        running.rights = top / "rights"  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_layout(str(tmp_path_factory.mktemp("layout") / "image"), "words", layer=os.urandom(5000))


def skopeo(*words: str, code: int = 0) -> str:
    done = subprocess.run(["skopeo", "--insecure-policy", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def curl(host: RegistryHost, path: str, *options: str) -> tuple[int, dict]:
    done = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", *options, f"http://{host.address}{path}"], capture_output=True, text=True, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body) if body.strip() else {}


def push(host: RegistryHost, layout: str, name: str, who: str, code: int = 0) -> str:
    return skopeo("copy", "-q", "--dest-tls-verify=false", "--dest-creds", who, f"oci:{layout}:latest", f"docker://{host.address}/{name}", code=code)


def test_skopeo_with_rights_and_without(host: RegistryHost, layout: str, tmp_path: Path) -> None:
    push(host, layout, "team/web:1", "alice:a")
    push(host, layout, "public/one:1", "alice:a")
    for name, who in (("team/web:1", "eve:e"), ("team/web:1", "bob:b"), ("public/a/b:1", "alice:a")):
        assert f"{who[:-2]} may not push to {name[:-2]}: ask whoever runs this registry" in push(host, layout, name, who, code=1)
    assert "repository team/other: 403 (Forbidden)" in push(host, layout, "team/other:1", "alice:a", code=1)  # of a HEAD, which has no words

    def pull(name: str, *credentials: str, code: int = 0) -> str:
        return skopeo("inspect", "--raw", "--tls-verify=false", *credentials, f"docker://{host.address}/{name}", code=code)

    pull("public/one:1", "--no-creds")
    pull("team/web:1", "--creds", "eve:e")
    assert "authentication required" in pull("team/web:1", "--no-creds", code=1)
    # what is not there and what one may not see are told apart by nobody
    assert "eve may not pull from team/secret" in pull("team/secret:1", "--creds", "eve:e", code=1)
    # deleting is a right of its own
    digest = json.loads(skopeo("inspect", "--tls-verify=false", "--creds", "bob:b", f"docker://{host.address}/team/web:1"))["Digest"]
    assert curl(host, f"/v2/team/web/manifests/{digest}", "-X", "DELETE", "-u", "alice:a")[0] == 403
    assert curl(host, f"/v2/team/web/manifests/{digest}", "-X", "DELETE", "-u", "bob:b")[0] == 202
    assert curl(host, f"/v2/public/one/manifests/{digest}", "-X", "DELETE", "-u", "bob:b")[1]["errors"][0]["code"] == "DENIED"


def test_tokens_are_for_what_is_allowed_now(host: RegistryHost, layout: str) -> None:
    push(host, layout, "team/web:2", "alice:a")

    def granted(who: str, *scopes: str) -> tuple[str, list[dict]]:
        status, answer = curl(host, "/token", *(("-u", who) if who else ()), "-G", *(word for scope in scopes for word in ("--data-urlencode", f"scope={scope}")))
        assert status == 200
        payload = answer["token"].split(".")[1]
        return answer["token"], json.loads(base64.urlsafe_b64decode(payload + "=="))["access"]

    assert granted("", "repository:public/one:pull,push", "repository:team/web:pull")[1] == [{"type": "repository", "name": "public/one", "actions": ["pull"]}]
    assert granted("eve:e", "repository:team/web:*", "repository:x:pull")[1] == [{"type": "repository", "name": "team/web", "actions": ["pull"]}]
    token, access = granted("alice:a", "repository:team/web:pull,push,delete")
    assert access == [{"type": "repository", "name": "team/web", "actions": ["pull", "push"]}]
    bearer = ("-H", f"Authorization: Bearer {token}")
    assert curl(host, "/v2/team/web/tags/list", *bearer)[0] == 200
    # a token that says too little is asked for again, with the scope; a right that is taken away is gone at once
    pull_only = granted("alice:a", "repository:team/web:pull")[0]
    refused = host.ask("POST", "/v2/team/web/blobs/uploads/", headers={"Authorization": f"Bearer {pull_only}"})
    assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
    assert 'scope="repository:team/web:pull,push"' in refused.headers["WWW-Authenticate"]
    file: Path = host.rights  # type: ignore[attr-defined]
    try:
        file.write_text(RIGHTS.replace("@web = alice", "@web = zoe").replace("@users", "bob"))
        status, answer = curl(host, "/v2/team/web/tags/list", *bearer)
        assert (status, answer["errors"][0]["message"]) == (403, "alice may not pull from team/web: ask whoever runs this registry for the right")
        file.write_text("alice team/web everything\n")
        assert curl(host, "/v2/team/web/tags/list", *bearer)[0] == 403  # a file that is broken changes nothing
    finally:
        file.write_text(RIGHTS)
    assert curl(host, "/v2/team/web/tags/list", *bearer)[0] == 200
    assert "the rights stay as they were: --rights" in host.log()


def test_lists_show_what_one_may_pull(host: RegistryHost, layout: str) -> None:
    push(host, layout, "team/web:3", "alice:a")
    push(host, layout, "public/one:3", "alice:a")
    push(host, layout, "docker/mine:3", "bob:b")
    for who, names in (("", ["public/one"]), ("eve:e", ["public/one", "team/web"]), ("bob:b", ["docker/mine", "public/one", "team/web"])):
        user = ("-u", who) if who else ()
        scope = "registry:catalog:*"
        token = curl(host, "/token", *user, "-G", "--data-urlencode", f"scope={scope}")[1]["token"]
        assert curl(host, "/v2/_catalog", "-H", f"Authorization: Bearer {token}")[1]["repositories"] == names
        found = curl(host, "/v1/search?q=words", *(user or ("-H", f"Authorization: Bearer {token}")))[1]
        assert sorted(entry["name"] for entry in found["results"]) == names
        with RegistryClient(host.address, Settings(environment={}), Credentials(*who.split(":")) if who else None) as client:
            assert sorted(entry["name"] for entry in client.search("words", 25)) == names, "as `berth search` asks"
        page = subprocess.run(["curl", "-sS", *(user or ("-H", f"Authorization: Bearer {token}")), f"http://{host.address}/"], capture_output=True, text=True).stdout
        assert [name for name in ("docker/mine", "public/one", "team/web") if f'href="/r/{name}"' in page] == names
    assert curl(host, "/r/docker/mine", "-u", "eve:e")[0] == 403
    assert host.ask("GET", "/r/docker/mine").status == 401
    # a blob is mounted from where one may pull only
    blob = digest_of(b"of bob")
    assert curl(host, f"/v2/docker/mine/blobs/uploads/?digest={blob}", "-u", "bob:b", "-X", "POST", "--data-binary", "of bob", "-H", "Content-Type: application/octet-stream")[0] == 201
    assert curl(host, f"/v2/team/web/blobs/uploads/?mount={blob}&from=docker/mine", "-u", "alice:a", "-X", "POST", "-d", "")[0] == 202


def test_docker_says_who_may_not(host: RegistryHost, real: Dockerd) -> None:
    real("login", "-u", "bob", "--password-stdin", host.address, input="b")
    try:
        for name, code in (("docker/busy", 0), ("team/web", 1)):
            real("tag", "bb", f"{host.address}/{name}:d")
            done = real("push", f"{host.address}/{name}:d", code=code)
            assert ("denied: bob may not push to team/web: ask whoever runs this registry" in done.stderr) == bool(code), done.stderr
            real("rmi", f"{host.address}/{name}:d")
        real("pull", "-q", f"{host.address}/docker/busy:d")
        real("rmi", f"{host.address}/docker/busy:d")
        real("logout", host.address)
        assert "may not" not in real("pull", f"{host.address}/docker/busy:d", code=1).stderr
    finally:
        real("logout", host.address)


def test_what_cannot_be_started(tmp_path: Path) -> None:
    users = write_users(f"{tmp_path}/users", alice="a")
    (tmp_path / "rights").write_text("alice team pul\n")
    for words, message in (
        (("--htpasswd", users, "--rights", f"{tmp_path}/rights"), "rights, line 1: 'pul' is no right: there are pull, push, delete, all"),
        (("--rights", f"{tmp_path}/rights"), "give --htpasswd FILE"),
        (("--htpasswd", users, "--anonymous-pull", "--rights", f"{tmp_path}/rights"), "a line of that file says so: `* ** pull`"),
        (("--htpasswd", users, "--rights", f"{tmp_path}/none"), "none: No such file or directory"),
    ):
        with pytest.raises(AssertionError, match="did not start") as raised:
            RegistryHost(*words)
        assert message in str(raised.value)
