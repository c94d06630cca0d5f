"""Logins beside Docker's: without a terminal, through credential helpers, with identity tokens; and who may not search."""

import base64
import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd
from harness import REPOSITORY, Engine
from registries import HAVE_DOCKER_REGISTRY, docker_registry
from registry_host import RegistryHost, registry_host, write_users

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("htpasswd"), reason="needs apache2-utils")]

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
HELPER = """#!/bin/sh
input=$(cat)
echo "$1 $input" >> "$LAB/log"
case $1 in
  store) echo "$input" > "$LAB/stored" ;;
  get) cat "$LAB/stored" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
  erase) rm -f "$LAB/stored" ;;
esac
"""


class Side:
    """One command line on one engine, with a config.json and helpers of its own."""

    def __init__(self, program: list[str], env: dict[str, str], top: Path) -> None:
        self.program, self.config, self.lab = program, top / "config", top / "lab"
        self.lab.mkdir(parents=True)
        self.config.mkdir()
        self.env = {**env, "DOCKER_CONFIG": str(self.config), "LAB": str(self.lab), "PATH": f"{top / 'bin'}:{os.environ['PATH']}"}
        for name, text in (("lab", HELPER), ("bad", "#!/bin/sh\necho 'the keychain is locked'; exit 3\n")):
            path = top / "bin" / f"docker-credential-{name}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def __call__(self, *words: str, input: str | None = None) -> tuple[int, str, str]:
        stdin: dict = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run([*self.program, *words], env=self.env, capture_output=True, text=True, timeout=60, **stdin)
        return done.returncode, done.stdout, done.stderr.replace(str(self.config), "CONFIG").replace("docker", "berth")

    def settings(self) -> dict:
        path = self.config / "config.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}


@pytest.fixture(params=["dockerd", "berth"])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Side, Side]:
    """Docker's command line and berth's, on one engine."""
    running: Dockerd | Engine = request.getfixturevalue("real" if request.param == "dockerd" else "engine")
    return Side(["docker"], running.env, tmp_path / "docker"), Side(BERTH, running.env, tmp_path / "berth")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryHost]:
    users = write_users(f"{tmp_path_factory.mktemp('users')}/users", ada="secret")
    with registry_host("--htpasswd", users) as running:
        yield running


def test_without_a_terminal(sides: tuple[Side, Side], host: RegistryHost) -> None:
    for words, given, code in (
        ((), None, 1), (("-u", "ada"), None, 1), (("-p", "secret"), None, 1), (("-u", "ada", "-p", ""), None, 1), (("-u", "", "-p", "x"), None, 1),
        (("--password-stdin",), "secret", 1), (("-u", "ada", "--password-stdin"), "", 1), (("-u", "ada", "--password-stdin"), "\n", 1),
        (("-u", "ada", "--password-stdin"), "wrong", 1), (("-u", "ada", "-p", "wrong"), None, 1),
        (("-u", "ada", "--password-stdin"), "secret", 0), (("-u", "ada", "--password-stdin"), "secret\r\n", 0), (("-u", "ada", "--password-stdin"), " secret \n\n", 0),
        (("-u", " ada ", "-p", " secret "), None, 0),
    ):  # fmt: skip
        theirs, ours = (side("login", *words, host.address, input=given) for side in sides)
        assert ours == theirs, (words, given)
        assert ours[0] == code
        assert sides[1].settings() == sides[0].settings()
    assert sides[1]("login", host.address)[:2] == (0, "Login Succeeded\n")  # with what is stored
    assert sides[1]("login")[2] == sides[0]("login")[2]  # Docker Hub, where Docker's on a terminal would open a browser
    for address in ("a b", "http://[", "x:y:z"):
        assert sides[1]("login", "-u", "ada", "-p", "x", address)[0] == 1


def test_addresses_that_are_none_are_named(engine: Engine, tmp_path: Path) -> None:
    side = Side(BERTH, engine.env, tmp_path / "side")
    for address in ("a b", "x:y:z", "host:"):
        assert f"{address!r} is not the address of a registry: write HOST or HOST:PORT" in side("login", "-u", "ada", "--password-stdin", address, input="x")[2]


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_keeps_the_password(sides: tuple[Side, Side], host: RegistryHost, key: str) -> None:
    for side in sides:
        (side.config / "config.json").write_text(json.dumps({key: "lab" if key == "credsStore" else {host.address: "lab"}}))
        assert side("login", "-u", "ada", "--password-stdin", host.address, input="secret") == (0, "Login Succeeded\n", "")
        assert json.loads((side.lab / "stored").read_text()) == {"ServerURL": host.address, "Username": "ada", "Secret": "secret"}
        assert "secret" not in (side.config / "config.json").read_text()
    for words in (("login", host.address), ("search", f"{host.address}/x"), ("pull", f"{host.address}/a/none")):
        theirs, ours = (side(*words) for side in sides)
        assert ours == theirs, words
    for side in sides:
        assert side("logout", host.address)[0] == 0
        assert not (side.lab / "stored").exists()
    logs = [list(dict.fromkeys((side.lab / "log").read_text().splitlines())) for side in sides]
    assert logs[1] == logs[0]
    assert sides[1].settings() == sides[0].settings()


def test_a_helper_that_fails_is_named(sides: tuple[Side, Side], host: RegistryHost) -> None:
    for name, words in (("bad", "docker-credential-bad store failed with exit code 3: the keychain is locked"), ("none", "there is no docker-credential-none in PATH")):
        for side in sides:
            (side.config / "config.json").write_text(json.dumps({"credsStore": name}))
            code, _, errors = side("login", "-u", "ada", "--password-stdin", host.address, input="secret")
            assert code == 1
            assert errors.startswith("Error saving credentials: ")
            assert side.settings() == {"credsStore": name}
        assert words.replace("docker", "berth") in errors
        assert words.replace("docker", "berth").replace("store", "get") in sides[1]("search", f"{host.address}/x")[2]


def test_who_may_not_search_is_told_where_to_log_in(engine: Engine, host: RegistryHost, tmp_path: Path) -> None:
    """By both command lines on berth's engine: Docker's would ask for a name and password at 401, also in a script."""
    for number, program in enumerate((["docker"], BERTH)):
        side = Side(program, engine.env, tmp_path / str(number))
        code, _, errors = side("search", f"{host.address}/x")
        assert code == 1
        assert errors == f"Error response from daemon: no basic auth credentials: log in at {host.address} first, or again\n"
        entry = {"auth": base64.b64encode(b"ada:old").decode()}
        (side.config / "config.json").write_text(json.dumps({"auths": {host.address: entry}}))
        assert f"incorrect username or password: log in at {host.address} first, or again\n" in side("search", f"{host.address}/x")[2]
        assert side("login", "-u", "ada", "--password-stdin", host.address, input="secret")[0] == 0
        assert side("search", f"{host.address}/x")[0] == 0


@pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")
def test_a_registry_without_an_index_is_said(engine: Engine, tmp_path: Path) -> None:
    with docker_registry() as plain:
        for number, program in enumerate((["docker"], BERTH)):
            said = Side(program, engine.env, tmp_path / str(number))("search", f"{plain}/x")
            assert said[:2] == (1, "")
            assert f"{plain} cannot be searched: it answered 404 to http://{plain}/v1/search, as registries do that have no index" in said[2]


# -- identity tokens ----------------------------------------------------------------------------------


class TokenServer:
    """A registry whose token server gives a refresh token for the password `pw`, and takes `refresh` afterwards. asked: of it."""

    def __init__(self) -> None:
        self.refresh, self.asked = "REFRESH", []  # type: tuple[str, list[tuple[str, dict[str, str], str]]]
        lab = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                lab.answer(self)

            do_GET = do_POST = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
        path, _, query = handler.path.partition("?")
        authorization = handler.headers.get("Authorization", "")
        headers = {}
        if path == "/token":
            fields = {key: values[0] for key, values in urllib.parse.parse_qs(query or body).items()}
            self.asked.append((handler.command, fields, authorization))
            known = authorization == "Basic " + base64.b64encode(b"ada:pw").decode() or fields.get("refresh_token") == self.refresh
            found = {"token": "T", "access_token": "T", "expires_in": 300, **({} if "refresh_token" in fields else {"refresh_token": self.refresh})}
            status, value = (200, found) if known else (401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
        elif authorization == "Bearer T":
            status, value = (200, {}) if path == "/v2/" else (404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})
        else:
            status, value = 401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
            scope = "" if path == "/v2/" else ',scope="repository:x:pull"'
            headers = {"WWW-Authenticate": f'Bearer realm="http://{self.address}/token",service="lab"{scope}'}
        data = json.dumps(value).encode()
        handler.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, text)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)


@contextlib.contextmanager
def token_server() -> Iterator[TokenServer]:
    lab = TokenServer()
    thread = threading.Thread(target=lab.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield lab
    finally:
        lab.server.shutdown()
        thread.join()
        lab.server.server_close()


def test_an_identity_token_stands_for_the_password(sides: tuple[Side, Side]) -> None:
    with token_server() as lab:
        for side in sides:
            assert side("login", "-u", "ada", "--password-stdin", lab.address, input="pw") == (0, "Login Succeeded\n", "")
            [(_, fields, _)] = lab.asked
            assert (fields["offline_token"], fields["account"], fields["service"]) == ("true", "ada", "lab")
            lab.asked.clear()
            assert side("pull", f"{lab.address}/x")[0] == 1  # which is not there; the token was taken
            method, fields, authorization = lab.asked[-1]
            assert (method, fields["grant_type"], fields["refresh_token"], authorization) == ("POST", "refresh_token", "REFRESH", "")
            lab.asked.clear()
        assert (sides[1].config / "config.json").read_bytes() == (sides[0].config / "config.json").read_bytes()
        assert sides[1].settings()["auths"][lab.address] == {"auth": base64.b64encode(b"ada:").decode(), "identitytoken": "REFRESH"}
        # the other side's file serves as well; a token that has been withdrawn is said
        (sides[0].config / "config.json").write_bytes((sides[1].config / "config.json").read_bytes())
        assert "manifest unknown" in sides[0]("pull", f"{lab.address}/x")[2]
        lab.refresh = "OTHER"
        for side in sides:
            assert "incorrect username or password" in side("pull", f"{lab.address}/x")[2]


def test_an_identity_token_in_a_helper(sides: tuple[Side, Side]) -> None:
    with token_server() as lab:
        for side in sides:
            (side.config / "config.json").write_text(json.dumps({"credsStore": "lab"}))
            assert side("login", "-u", "ada", "--password-stdin", lab.address, input="pw")[0] == 0
            assert json.loads((side.lab / "stored").read_text()) == {"ServerURL": lab.address, "Username": "<token>", "Secret": "REFRESH"}
            lab.asked.clear()
            side("pull", f"{lab.address}/x")
            assert lab.asked[-1][1]["refresh_token"] == "REFRESH"
