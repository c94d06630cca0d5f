"""Who we are to one registry: answers to its challenges, and the tokens that come of them."""

import json
import re
import threading
import time
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from berth.errors import DataLoss, Unauthorized, Unavailable
from berth.registry.client import challenge
from berth.registry.client.answer import Answer
from berth.registry.client.challenge import Credentials
from berth.registry.client.failures import Refusal, RefusedAnswer, of_request
from berth.registry.client.faults import Interrupted
from berth.registry.client.keeping import Tokens
from berth.registry.client.settings import Endpoint, Settings

_MOST_TOKEN_BYTES = 1 << 20
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_NOBODY = Credentials()


class Asker(Protocol):
    """The session that asks a token server."""

    registry: str
    settings: Settings

    def absolute(self, endpoint: Endpoint, target: str) -> str: ...

    def ask_token_server(self, method: str, url: str, headers: dict[str, str], body: bytes, *, verify: bool) -> Answer: ...


class Authorization:
    """Of one session, for many threads. tokens: that the same person got before, for this registry."""

    def __init__(self, session: Asker, credentials: Credentials, tokens: Tokens) -> None:
        self.credentials = credentials
        self.wants_refresh_token = False  # to stand for the password from now on; `refresh_token` is it, if one was given
        self.refresh_token = ""
        self._session = session
        self._lock = threading.Lock()
        self._tokens = dict(tokens)

    def tokens(self) -> Tokens:
        """Those that are good now."""
        now_s = time.monotonic()
        with self._lock:
            return {key: token for key, token in self._tokens.items() if now_s < token[1]}

    def credentials_for(self, endpoint: Endpoint) -> Credentials:
        """A mirror is another's machine: what a person logged in with at the registry is not for it."""
        return _NOBODY if endpoint.mirror else self.credentials

    def value(self, endpoint: Endpoint, scope: str) -> str:
        """The header `Authorization` of a request, or ''."""
        if token := self.credentials_for(endpoint).registry_token:
            return f"Bearer {token}"
        with self._lock:
            value, until_s = self._tokens.get(_key(endpoint, scope)) or self._tokens.get(_key(endpoint, "*")) or ("", 0.0)
        return value if time.monotonic() < until_s else ""

    def answer(self, endpoint: Endpoint, challenges: list[challenge.Challenge], scope: str, sent: str) -> bool:
        """Answers a challenge; whether it is worth asking again. sent: the authorization that was not enough."""
        credentials = self.credentials_for(endpoint)
        self._forget(sent)
        for one in challenges:
            if one.scheme == "bearer" and one.parameters.get("realm"):
                asked = " ".join(dict.fromkeys([*scope.split(), *one.parameters.get("scope", "").split()]))
                token, until_s = self._fetch_token(endpoint, one.parameters["realm"], one.parameters.get("service", ""), asked)
                with self._lock:
                    self._tokens[_key(endpoint, scope)] = (f"Bearer {token}", until_s)
                return True
            if one.scheme == "basic" and credentials.username:
                with self._lock:
                    self._tokens[_key(endpoint, "*")] = (credentials.basic, float("inf"))
                return sent != credentials.basic
        return False

    def _forget(self, sent: str) -> None:
        with self._lock:
            self._tokens = {key: token for key, token in self._tokens.items() if token[0] != sent}

    def _fetch_token(self, endpoint: Endpoint, realm: str, service: str, scope: str) -> tuple[str, float]:
        realm, credentials = self._session.absolute(endpoint, realm), self.credentials_for(endpoint)
        parts = urlsplit(realm)
        safe = parts.scheme == "https" or not endpoint.verify or endpoint.scheme == "http"
        if not safe and credentials:
            raise Unauthorized(f"the registry {self._session.registry} wants the password sent to {realm} without TLS: refused")
        verify = not self._session.settings.is_insecure(parts.netloc)
        scopes = [("scope", word) for word in scope.split()]
        headers: dict[str, str] = {}
        if credentials.identity_token:
            fields = [
                ("grant_type", "refresh_token"), ("service", service), ("client_id", self._session.settings.agent),
                ("refresh_token", credentials.identity_token), ("scope", scope),
            ]  # fmt: skip
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = self._session.ask_token_server("POST", realm, headers, urlencode(fields).encode(), verify=verify)
        else:
            fields = [("service", service)] if service else []
            if credentials.username:
                fields.append(("account", credentials.username))
                if self.wants_refresh_token:
                    fields += [("client_id", self._session.settings.agent), ("offline_token", "true")]
                headers["Authorization"] = credentials.basic
            query = urlencode(fields + scopes)
            url = f"{realm}{'&' if parts.query else '?'}{query}" if query else realm
            answer = self._session.ask_token_server("GET", url, headers, b"", verify=verify)
        return self._read_token(answer, realm)

    def _read_token(self, answer: Answer, realm: str) -> tuple[str, float]:
        if answer.status != 200:
            found = answer.refusal()
            if answer.status in (400, 401, 403):
                message = found.message if found.code else "incorrect username or password"
                raise RefusedAnswer(Refusal(401, "UNAUTHORIZED", message), by_token_server=True)
            raise of_request(found)
        try:
            value = json.loads(answer.read_all(_MOST_TOKEN_BYTES))
            token, until_s = challenge.token_of(value)
            refresh = value.get("refresh_token")
            self.refresh_token = refresh if isinstance(refresh, str) and not _CONTROL.search(refresh) else ""
        except (ValueError, AttributeError, RecursionError, DataLoss):
            token, until_s = "", 0.0
        except Interrupted as error:
            raise Unavailable(f"{realm}: {error}") from None
        if not token or not token.isascii() or _CONTROL.search(token):
            raise Unauthorized(f"the token server {realm} answered without a token")
        return token, until_s


def _key(endpoint: Endpoint, scope: str) -> tuple[str, str]:
    """With the scheme: what was said over TLS is not said again without."""
    return f"{endpoint.scheme}://{endpoint.host}", scope
