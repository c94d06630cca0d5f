"""Who a person is at registries: config.json as Docker keeps it, and the helpers it names.

    {"auths": {SERVER: {"auth": base64 of user:password, "identitytoken": ...}}, "credsStore": NAME, "credHelpers": {SERVER: NAME}}

NAME means the program docker-credential-NAME, which has verbs get, store, erase and list, reads standard input and answers
in JSON. A login is a dict with the keys of the API's AuthConfig. DOCKER_AUTH_CONFIG, an object with `auths`, comes before the file.
"""

import binascii
import os
import sys

from berth.cli import configfile
from berth.cli.client import fail
from berth.cli.flags import Misuse
from berth.models.jsonlite import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Login = dict[str, str]

HUB = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"  # the user's name of a login whose secret is an identity token
_NOT_FOUND = "credentials not found in native keychain"
_KEYS = ("username", "password", "identitytoken", "registrytoken")
_MOST_ANSWER_BYTES = 1 << 20


class HelperError(Misuse):
    """A credential helper is missing or failed."""


def server_of(registry: str) -> str:
    """The key of a registry's login: its host, and for Docker Hub the address that Docker uses."""
    return HUB if registry in _HUB_NAMES else registry


def host_of(server: str) -> str:
    """`https://host:5000/v2/` -> `host:5000`."""
    rest = server.partition("://")[2] if "://" in server else server
    return rest.partition("/")[0].rpartition("@")[2]


def header(directory: str, registry: str) -> str:
    """The header of a request with which the engine logs in at a registry. A broken helper is said, and no reason to stop."""
    try:
        login = find(directory, server_of(registry))
    except HelperError as error:
        sys.stdout.flush()
        fail(f"WARNING: going on without credentials for {registry}: {error}")
        login = {}
    return f"X-Registry-Auth: {encoded(login)}\r\n"


def encoded(login: "Login") -> str:
    """base64 of the login's JSON, in the alphabet for URLs."""
    text = binascii.b2a_base64(dumps(login).encode(), newline=False).decode()
    return text.replace("+", "-").replace("/", "_")


def find(directory: str, server: str) -> "Login":
    """The login at a server; {} where there is none."""
    for auths in (_of_environment(), None):
        if auths is None:
            config = configfile.read(directory)
            if helper := _helper(config, server):
                return _get(helper, server)
            auths = _auths(config)
        entry = auths.get(server)
        if entry is None:
            entry = next((value for key, value in auths.items() if host_of(key) == server), None)
        if entry is not None and (login := _login(server, entry)):
            return login
    return {}


def store(directory: str, login: "Login") -> bool:
    """Keeps a login; whether its password now stands in the file as it is, which it did not before."""
    server = login["serveraddress"]
    helper = _helper(configfile.read(directory), server)
    if helper:
        user, secret = (_TOKEN_USER, login["identitytoken"]) if login.get("identitytoken") else (login["username"], login["password"])
        _call(helper, "store", dumps({"ServerURL": server, "Username": user, "Secret": secret}))

    def put(config: "dict[str, Any]") -> None:
        if "auths" not in config or not isinstance(config["auths"], dict):
            config["auths"] = {}
        config["auths"][server] = {} if helper else _entry(login)
        if helper and not config.get("credHelpers", {}).get(server):
            config["credsStore"] = helper

    changed = configfile.change(directory, put)
    return changed and not helper and bool(login.get("password"))


def erase(directory: str, server: str) -> None:
    """Forgets a login, if there is one."""
    if helper := _helper(configfile.read(directory), server):
        _call(helper, "erase", server)
    if server in _auths(configfile.read(directory)):
        configfile.change(directory, lambda config: config["auths"].pop(server, None))


def _auths(config: "dict[str, Any]") -> "dict[str, Any]":
    auths = config.get("auths")
    return auths if isinstance(auths, dict) else {}


def _of_environment() -> "dict[str, Any]":
    text = os.environ.get("DOCKER_AUTH_CONFIG")
    if not text:
        return {}
    try:
        return _auths(dict(loads(text)))
    except (ValueError, TypeError):
        raise Misuse("DOCKER_AUTH_CONFIG is no JSON object; it would be like {\"auths\": {\"registry.example.org\": {\"auth\": ...}}}") from None


def _login(server: str, entry: "Any") -> "Login":
    if not isinstance(entry, dict):
        return {}
    login = {key: str(entry[key]) for key in _KEYS if entry.get(key)}
    if entry.get("auth"):
        try:
            user, colon, password = binascii.a2b_base64(str(entry["auth"])).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise Misuse(f"config.json: auths: {server}: its `auth` is not base64 of user:password; log in again")
        login["username"], login["password"] = user, password.strip("\0")
    if login.get("identitytoken"):
        login.pop("password", None)
    return {**login, "serveraddress": server} if login else {}


def _entry(login: "Login") -> "dict[str, str]":
    entry = {}
    if login.get("username") or login.get("password"):
        entry["auth"] = binascii.b2a_base64(f"{login['username']}:{login.get('password', '')}".encode(), newline=False).decode()
    if login.get("identitytoken"):
        entry["identitytoken"] = login["identitytoken"]
    return entry


# -- helpers ------------------------------------------------------------------------------------------------------


def _helper(config: "dict[str, Any]", server: str) -> str:
    """The name of the helper that has a server's login, '' for the file itself."""
    helpers = config.get("credHelpers")
    if isinstance(helpers, dict) and helpers.get(server):
        return str(helpers[server])
    if config.get("credsStore"):
        return str(config["credsStore"])
    if _auths(config) or helpers:
        return ""
    # As Docker: who has never logged in gets the system's own keychain, where its helper is installed.
    import shutil

    name = "pass" if shutil.which("pass") else "secretservice"
    return name if shutil.which(f"docker-credential-{name}") else ""


def _get(helper: str, server: str) -> "Login":
    try:
        answer = loads(_call(helper, "get", server))
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise HelperError(f"docker-credential-{helper} get: its answer has no Username and Secret in JSON") from None
    except _NothingThere:
        return {}
    if user == _TOKEN_USER:
        return {"identitytoken": secret, "serveraddress": server}
    return {"username": user, "password": secret, "serveraddress": server}


class _NothingThere(Exception):
    pass


def _call(helper: str, verb: str, words: str) -> str:
    """What the helper answers; HelperError with its own words where it fails."""
    import subprocess

    program = f"docker-credential-{helper}"
    if "/" in helper:
        raise HelperError(f"config.json names the credential helper {helper!r}: a name is wanted, not a path")
    try:
        done = subprocess.run([program, verb], input=words.encode(), stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise HelperError(f"config.json names the credential helper {helper!r}, but there is no {program} in PATH") from None
    except OSError as error:
        raise HelperError(f"{program} cannot be run: {error.strerror}") from None
    answer = done.stdout[:_MOST_ANSWER_BYTES].decode(errors="replace").strip()
    if done.returncode == 0:
        return answer
    if answer == _NOT_FOUND:
        if verb == "erase":
            return ""
        raise _NothingThere
    raise HelperError(f"{program} {verb} failed with exit code {done.returncode}: {answer or 'it says nothing'}")
