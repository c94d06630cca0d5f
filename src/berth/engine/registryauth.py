"""Who asks a registry, and which: what Docker's clients send along. Pure; without the registry client's imports."""

import base64
import binascii
import json
import re
from contextlib import suppress
from urllib.parse import urlsplit

from berth.errors import InvalidParameter
from berth.registry.client.challenge import Credentials

_DOCKER_HUB = "docker.io"
_HUB_LOGIN = ("index.docker.io", "registry-1.docker.io", "docker.io", "")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_MOST_AUTH_BYTES = 64 << 10


def credentials_of(header: str) -> Credentials:
    """An X-Registry-Auth header: base64url of Docker's AuthConfig as JSON. Empty: nobody. InvalidParameter otherwise."""
    if not header:
        return Credentials()
    try:
        value = _decoded(header)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise InvalidParameter(f"invalid X-Registry-Auth header: {error}") from None
    return credentials_from(value)


def credentials_by_registry(header: str) -> dict[str, Credentials]:
    """An X-Registry-Config header: AuthConfigs by registry, as clients send with a build. What cannot be read says nothing, as with Docker."""
    found: dict[str, Credentials] = {}
    with suppress(ValueError, binascii.Error, RecursionError):
        value = _decoded(header) if header else {}
        for address, entry in value.items() if isinstance(value, dict) else ():
            with suppress(InvalidParameter):
                found[login_registry(address)] = credentials_from(entry)
    return found


def credentials_for(registry: str, headers: dict[str, str]) -> Credentials:
    """Of a request that is about one registry: X-Registry-Auth, or its entry in X-Registry-Config. headers: names in lower case."""
    if header := headers.get("x-registry-auth", ""):
        return credentials_of(header)
    return credentials_by_registry(headers.get("x-registry-config", "")).get(registry) or Credentials()


def _decoded(header: str) -> object:
    if len(header) > _MOST_AUTH_BYTES:
        raise ValueError(f"it has {len(header)} characters")
    padded = header.replace("+", "-").replace("/", "_").rstrip("=")
    return json.loads(base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4)) or b"{}")


def credentials_from(value: object) -> Credentials:
    """Docker's AuthConfig."""
    if not isinstance(value, dict):
        raise InvalidParameter("invalid X-Registry-Auth header: expected a JSON object")
    fields = {key.lower(): item for key, item in value.items() if isinstance(item, str)}
    username, password = fields.get("username", ""), fields.get("password", "")
    if not username and fields.get("auth"):
        try:
            username, _, password = base64.b64decode(fields["auth"]).decode().partition(":")
        except (ValueError, binascii.Error):
            raise InvalidParameter("invalid X-Registry-Auth header: its auth is not base64 of user:password") from None
    return Credentials(
        username, password, identity_token=fields.get("identitytoken", ""), registry_token=fields.get("registrytoken", "")
    )


def login_registry(address: str) -> str:
    """The registry that a login is for: `https://index.docker.io/v1/` is Docker Hub's old name."""
    try:
        host = urlsplit(address if "://" in address else f"//{address}").netloc
    except ValueError:
        host = " "
    if host and not _HOST.fullmatch(host):
        raise InvalidParameter(f"{address[:200]!r} is not the address of a registry: write HOST or HOST:PORT")
    return _DOCKER_HUB if host in _HUB_LOGIN else host


def split_term(term: str) -> tuple[str, str]:
    """`host/term` or `term` -> the registry to ask, and for what."""
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return login_registry(first), rest
    return _DOCKER_HUB, term.removeprefix("library/")
