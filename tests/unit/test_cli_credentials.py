"""Logins as they are kept: in config.json beside what Docker has there, or with a helper that speaks Docker's protocol."""

import base64
import json
import multiprocessing
import os
import stat
import sys
from pathlib import Path

import pytest

from berth.cli import configfile, credentials
from berth.cli.credentials import HUB, HelperError, encoded, erase, find, host_of, server_of, store
from berth.cli.flags import Misuse

HELPER = """#!{python} -IS
import json, sys
verb, words = sys.argv[1], sys.stdin.read()
known = json.load(open({file!r}))
if verb == "get":
    if words not in known:
        print("credentials not found in native keychain")
        sys.exit(1)
    if known[words] == "broken":
        print("the keychain is locked")
        sys.exit(3)
    print(json.dumps({{"ServerURL": words, "Username": known[words][0], "Secret": known[words][1]}}))
elif verb == "store":
    found = json.loads(words)
    known[found["ServerURL"]] = [found["Username"], found["Secret"]]
elif verb == "erase":
    known.pop(words, None)
json.dump(known, open({file!r}, "w"))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DOCKER_AUTH_CONFIG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # so that no keychain of this machine's is found
    return tmp_path


def helper(home: Path, known: "dict[str, object]", name: str = "test") -> Path:
    file, program = home / "known.json", home / "bin" / f"docker-credential-{name}"
    program.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(known))
    program.write_text(HELPER.format(python=sys.executable, file=str(file)))
    program.chmod(0o755)
    return file


def auth(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def write(home: Path, config: object) -> str:
    (home / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(home)


def test_names_of_servers() -> None:
    assert [server_of(name) for name in ("docker.io", "index.docker.io", "r.example.org:5000")] == [HUB, HUB, "r.example.org:5000"]
    for text in ("https://r.example.org:5000/v2/", "r.example.org:5000", "r.example.org:5000/team", "http://r.example.org:5000"):
        assert host_of(text) == "r.example.org:5000"


def test_a_login_is_kept_beside_what_was_there(home: Path) -> None:
    directory = write(home, {"HttpHeaders": {"A": "b"}, "auths": {"old.example.org": {"auth": auth("o", "p:q")}}, "nosuchkey": [1, {"ü": None}]})
    os.chmod(home / "config.json", 0o644)
    login = {"username": "ada", "password": "pass wörd", "serveraddress": "r.example.org"}
    assert store(directory, login)
    assert not store(directory, login)  # unchanged: nothing new stands there in clear
    config = json.loads((home / "config.json").read_text())
    assert list(config) == ["HttpHeaders", "auths", "nosuchkey"]
    assert config["nosuchkey"] == [1, {"ü": None}]
    assert config["auths"] == {"old.example.org": {"auth": auth("o", "p:q")}, "r.example.org": {"auth": auth("ada", "pass wörd")}}
    assert stat.S_IMODE(os.stat(home / "config.json").st_mode) == 0o600
    assert find(directory, "r.example.org") == login
    assert find(directory, "old.example.org")["password"] == "p:q"
    assert find(directory, "other.example.org") == {}
    erase(directory, "r.example.org")
    erase(directory, "never.example.org")
    assert list(json.loads((home / "config.json").read_text())["auths"]) == ["old.example.org"]
    assert os.listdir(home) == ["config.json"]


def test_a_first_login_makes_the_directory(home: Path) -> None:
    assert store(f"{home}/a/.docker", {"username": "u", "password": "p", "serveraddress": HUB})
    entry = f'\t\t"{HUB}": {{\n\t\t\t"auth": "{auth("u", "p")}"\n\t\t}}'  # as Docker lays it out
    assert (home / "a/.docker/config.json").read_text() == f'{{\n\t"auths": {{\n{entry}\n\t}}\n}}'
    assert stat.S_IMODE(os.stat(home / "a/.docker").st_mode) == 0o700


def test_a_symbolic_link_stays_one(home: Path) -> None:
    (home / "real").mkdir()
    (home / "real/c.json").write_text('{"x": 1}')
    (home / "config.json").symlink_to("real/c.json")
    store(str(home), {"username": "u", "password": "p", "serveraddress": "r"})
    assert (home / "config.json").is_symlink()
    assert json.loads((home / "real/c.json").read_text())["x"] == 1
    assert "r" in json.loads((home / "real/c.json").read_text())["auths"]


def _store_many(directory: str, who: int) -> None:
    for number in range(10):
        store(directory, {"username": "u", "password": "p", "serveraddress": f"{who}-{number}"})


def test_writers_at_the_same_time_lose_nothing(home: Path) -> None:
    writers = [multiprocessing.get_context("fork").Process(target=_store_many, args=(str(home), who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(json.loads((home / "config.json").read_text())["auths"]) == 40


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\udcff"])
def test_a_broken_file_is_said_and_left_alone(home: Path, text: str) -> None:
    (home / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Misuse, match=r"config\.json"):
        find(str(home), "r")
    with pytest.raises(Misuse, match=r"config\.json"):
        store(str(home), {"username": "u", "password": "p", "serveraddress": "r"})
    assert (home / "config.json").read_bytes() == text.encode(errors="surrogateescape")


@pytest.mark.parametrize("wrong", ["***", "bm9jb2xvbg=="])
def test_a_broken_login_is_said(home: Path, wrong: str) -> None:
    with pytest.raises(Misuse, match="auths: r: its `auth` is not base64"):
        find(write(home, {"auths": {"r": {"auth": wrong}}}), "r")


def test_older_forms(home: Path) -> None:
    directory = write(home, {"auths": {"https://r.example.org/v1/": {"username": "u", "password": "p"}, "t": {"auth": auth("x", ""), "identitytoken": "T"}}})
    assert find(directory, "r.example.org") == {"username": "u", "password": "p", "serveraddress": "r.example.org"}
    assert find(directory, "t") == {"username": "x", "identitytoken": "T", "serveraddress": "t"}


def test_a_token_instead_of_a_password(home: Path) -> None:
    assert not store(str(home), {"username": "u", "identitytoken": "T", "serveraddress": "r"})
    assert json.loads((home / "config.json").read_text())["auths"] == {"r": {"auth": auth("u", ""), "identitytoken": "T"}}
    assert find(str(home), "r") == {"username": "u", "identitytoken": "T", "serveraddress": "r"}


def test_the_header() -> None:
    login = {"username": "ÿ?>", "password": "~~~???", "serveraddress": "r"}
    assert set(encoded(login)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
    assert json.loads(base64.urlsafe_b64decode(encoded(login))) == login


def test_the_environment_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(home, {"auths": {"r": {"auth": auth("file", "p")}, "s": {"auth": auth("file", "p")}}})
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"r": {"auth": auth("env", "p")}}}))
    assert (find(directory, "r")["username"], find(directory, "s")["username"]) == ("env", "file")
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "x")
    with pytest.raises(Misuse, match="DOCKER_AUTH_CONFIG"):
        find(directory, "r")


def test_a_helper_for_all(home: Path) -> None:
    directory, known = write(home, {"credsStore": "test"}), helper(home, {HUB: ["ada", "s"], "t": ["<token>", "T"]})
    assert find(directory, HUB) == {"username": "ada", "password": "s", "serveraddress": HUB}
    assert find(directory, "t") == {"identitytoken": "T", "serveraddress": "t"}
    assert find(directory, "r") == {}
    assert not store(directory, {"username": "u", "password": "p", "serveraddress": "r"})
    assert json.loads(known.read_text())["r"] == ["u", "p"]
    assert json.loads((home / "config.json").read_text()) == {"credsStore": "test", "auths": {"r": {}}}
    store(directory, {"username": "u", "identitytoken": "I", "serveraddress": "r"})
    assert json.loads(known.read_text())["r"] == ["<token>", "I"]
    erase(directory, "r")
    assert "r" not in json.loads(known.read_text())
    assert json.loads((home / "config.json").read_text()) == {"credsStore": "test", "auths": {}}


def test_a_helper_for_one_server(home: Path) -> None:
    directory = write(home, {"credHelpers": {"r": "test"}, "auths": {"s": {"auth": auth("u", "p")}}})
    helper(home, {"r": ["ada", "s"]})
    assert (find(directory, "r")["username"], find(directory, "s")["username"]) == ("ada", "u")


def test_who_has_no_login_yet_gets_the_systems_keychain(home: Path) -> None:
    known = helper(home, {}, "secretservice")
    assert not store(str(home), {"username": "u", "password": "p", "serveraddress": "r"})
    assert json.loads(known.read_text()) == {"r": ["u", "p"]}
    assert json.loads((home / "config.json").read_text())["credsStore"] == "secretservice"


@pytest.mark.parametrize(
    ("name", "server", "said"),
    [
        ("none", "r", "'none', but there is no docker-credential-none in PATH"), ("../x", "r", "a name is wanted, not a path"),
        ("test", "broken", "docker-credential-test get failed with exit code 3: the keychain is locked"),
    ],
)  # fmt: skip
def test_a_helper_that_fails_is_named(home: Path, name: str, server: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    helper(home, {"broken": "broken"})
    directory = write(home, {"credsStore": name})
    with pytest.raises(HelperError) as caught:
        find(directory, server)
    assert said in str(caught.value)
    assert credentials.header(directory, server) == "X-Registry-Auth: e30=\r\n"  # {}: the image may be public
    assert f"WARNING: going on without credentials for {server}: " in capsys.readouterr().err


def test_an_answer_that_is_none(home: Path) -> None:
    helper(home, {})
    (home / "bin/docker-credential-test").write_text("#!/bin/sh\necho '[]'\n")
    with pytest.raises(HelperError, match="has no Username and Secret"):
        find(write(home, {"credsStore": "test"}), "r")


def test_what_does_not_change_is_not_written(home: Path) -> None:
    write(home, '{"a":   1}')
    assert not configfile.change(str(home), lambda config: None)
    assert (home / "config.json").read_text() == '{"a":   1}'
