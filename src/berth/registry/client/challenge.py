"""`WWW-Authenticate` challenges (RFC 9110, 11.6.1) and the tokens they lead to. Pure."""

import base64
import re
import time

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?=,|$)')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)|[ \t]*(?=,|$)|[ \t]+(?={_TOKEN}[ \t]*=))")  # alone, with a token68, or before parameters
_SEPARATOR = re.compile(r"[ \t,]*")
_MOST_CHARACTERS = 16 << 10
_LEAST_LIFE_S = 60


class Credentials:
    """What a person logged in with. identity_token: a refresh token that stands for the password; registry_token: a bearer token."""

    __slots__ = ("identity_token", "password", "registry_token", "username")

    def __init__(self, username: str = "", password: str = "", *, identity_token: str = "", registry_token: str = "") -> None:
        self.username = username
        self.password = password
        self.identity_token = identity_token
        self.registry_token = registry_token

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Challenge:
    """One scheme, in lower case, with its parameters."""

    __slots__ = ("parameters", "scheme")

    def __init__(self, scheme: str, parameters: dict[str, str]) -> None:
        self.scheme = scheme
        self.parameters = parameters


def parse(header: str) -> list[Challenge]:
    """The challenges of a header's value, as far as it can be read."""
    header = header[:_MOST_CHARACTERS]
    found: list[Challenge] = []
    at = 0
    while (at := _end(_SEPARATOR.match(header, at))) < len(header):
        if found and (parameter := _PARAMETER.match(header, at)):
            key, quoted, plain = parameter.groups()
            found[-1].parameters.setdefault(key.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain)
            at = parameter.end()
        elif scheme := _SCHEME.match(header, at):
            found.append(Challenge(scheme.group(1).lower(), {}))
            at = scheme.end()
        else:
            break
    return found


def _end(match: re.Match[str] | None) -> int:
    assert match  # of a pattern that matches nothing, too
    return match.end()


def token_of(answer: dict, now_s: float | None = None) -> tuple[str, float]:
    """A token server's answer -> the token and the time it is good until; ('', 0) if there is none. Docker's token/README."""
    token = answer.get("token") or answer.get("access_token") or ""
    life_s = answer.get("expires_in")
    if not isinstance(life_s, int | float) or isinstance(life_s, bool) or not life_s >= _LEAST_LIFE_S:
        life_s = _LEAST_LIFE_S
    now_s = time.monotonic() if now_s is None else now_s
    return (token, now_s + min(life_s, 3600) * 0.9) if isinstance(token, str) else ("", 0.0)
