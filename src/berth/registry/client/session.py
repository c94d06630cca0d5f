"""Requests to one registry: authenticated, redirected, tried again. One `Session` may be used by many threads.

A registry is not trusted: answers have bounds in size and time, redirects in number; what a person logged in with
goes to the registry itself and to the token server that it names over TLS, and nowhere else.
"""

import http.client
import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import urlencode, urljoin, urlsplit

from berth.errors import BerthError, Cancelled, DataLoss, InvalidParameter, Unauthorized, Unavailable
from berth.registry.client import challenge
from berth.registry.client.answer import Answer
from berth.registry.client.challenge import Credentials
from berth.registry.client.connections import Connections
from berth.registry.client.failures import NO_LOGIN, RETRIED, Refusal, of_request
from berth.registry.client.faults import Interrupted, named, reason, unreachable
from berth.registry.client.settings import Endpoint, Settings
from berth.registry.client.wire import Response

log = logging.getLogger("berth.registry")

_MOST_REDIRECTS = 10
_MOST_TOKEN_BYTES = 1 << 20
_LONGEST_WAIT_S = 30.0
_REDIRECTS = (301, 302, 303, 307, 308)
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_SLOW_TIMEOUTS = 20
_MIRROR_ATTEMPTS = 2  # there is somebody else to ask
_NOBODY = Credentials()
_BODY_PIECE_BYTES = 256 << 10  # one send has to come to its end within the timeout


Waiting = Callable[[float], None]  # is told for how many seconds nothing will happen


class Stream(Protocol):
    """A body that is made while it is sent."""

    def read(self, size: int, /) -> bytes: ...


class Session:
    """registry: as in references. credentials: None for nobody. cancelled: set when nobody wants the result any more."""

    def __init__(
        self, registry: str, settings: Settings, credentials: Credentials | None = None, cancelled: threading.Event | None = None
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.credentials = credentials or Credentials()
        self.connections = Connections(settings)
        self._cancelled = cancelled or threading.Event()
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}  # (host, scope) -> Authorization, good until
        self._answering: dict[bool, Endpoint] = {}
        self.wants_refresh_token = False  # to stand for the password from now on; `refresh_token` is it, if one was given
        self.refresh_token = ""

    def close(self) -> None:
        """Ends every connection; a request under way fails with Cancelled or Unavailable."""
        self.connections.close()

    def check(self) -> None:
        """Raises Cancelled once nobody waits."""
        if self._cancelled.is_set():
            raise Cancelled("the transfer was cancelled")

    def interrupted(self, error: Exception, what: str) -> Exception:
        """A fault of a connection as what to do about it."""
        if self._cancelled.is_set() or self.connections.closed:
            return Cancelled("the transfer was cancelled")
        return Interrupted(f"{what}: {reason(error)}")

    # -- requests -----------------------------------------------------------------------------------

    def request(
        self, method: str, endpoint: Endpoint, target: str, *, scope: str = "", headers: dict[str, str] | None = None, body: bytes = b"",
        follow: bool = True, slow: bool = False,
    ) -> Answer:  # fmt: skip
        """One request, tried again while that may help. target: a path below the endpoint, or a URL it gave.

        Answers of any status come back. slow: the registry may have to read a whole blob before it answers.
        """
        what = named(method, endpoint.url(target) if target.startswith("/") else target)
        return self.persist(lambda: self.once(method, endpoint, target, scope=scope, headers=headers, body=body, follow=follow, slow=slow), what)

    def fetch(
        self, method: str, endpoint: Endpoint, target: str, limit_bytes: int, *, scope: str = "", headers: dict[str, str] | None = None
    ) -> Answer:
        """`request`, and with status 200 its whole body, tried again where that breaks off; DataLoss above `limit_bytes`."""

        def work() -> Answer:
            answer = self.once(method, endpoint, target, scope=scope, headers=headers)
            if answer.status == 200:
                answer.body = answer.read_all(limit_bytes)
            return answer

        attempts = min(self.settings.attempts, _MIRROR_ATTEMPTS) if endpoint.mirror else self.settings.attempts
        return self.persist(work, named(method, endpoint.url(target) if target.startswith("/") else target), attempts)

    def persist(self, work: Callable[[], Answer], what: str, attempts: int = 0) -> Answer:
        """Calls `work` until it is not Interrupted and its answer is not of the kind to ask again; waits longer each time."""
        attempt, attempts = 0, attempts or self.settings.attempts
        while True:
            attempt += 1
            last = attempt >= attempts
            try:
                answer = work()
                if answer.status not in RETRIED or last:
                    return answer
                wait_s, why = retry_after_s(answer.header("Retry-After")), f"status {answer.status}"
                answer.finish()
            except Interrupted as error:
                if last:
                    raise Unavailable(f"{what}: {error}{f' (tried {attempt} times)' if attempt > 1 else ''}") from None
                wait_s, why = error.wait_s, str(error)
            log.info("%s: %s; attempt %d of %d", what, why, attempt, attempts)
            self.pause(attempt, wait_s)

    def pause(self, attempt: int, least_s: float = 0.0, waiting: Waiting | None = None) -> None:
        """Waits before attempt + 1: twice as long each time, with some chance in it, so that clients spread. Cancelled if so."""
        wait_s = max(least_s, self.settings.back_off_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
        if waiting:
            waiting(min(wait_s, _LONGEST_WAIT_S))
        self._cancelled.wait(min(wait_s, _LONGEST_WAIT_S))
        self.check()

    def once(
        self, method: str, endpoint: Endpoint, target: str, *, scope: str = "", headers: dict[str, str] | None = None,
        body: bytes | Stream = b"", size_bytes: int | None = None, follow: bool = True, slow: bool = False,
    ) -> Answer:  # fmt: skip
        """One request with its redirects and, where the registry asks for it, a token. A Stream of unknown size goes out in chunks."""
        url = self.absolute(endpoint, target)
        asked = False
        hops = 0
        while True:
            ours = urlsplit(url).netloc == endpoint.host and urlsplit(url).scheme == endpoint.scheme
            sent = dict(headers or {})
            if ours and (authorization := self._authorization(endpoint, scope)):
                sent["Authorization"] = authorization
            answer = self._exchange(method, url, sent, body, size_bytes, endpoint.verify, slow)
            if answer.status == 401 and ours and not asked:
                header = answer.header("WWW-Authenticate")
                found, challenges = answer.refusal(), challenge.parse(header)
                if not self._authenticate(endpoint, challenges, scope, sent.get("Authorization", "")):
                    wants_login = any(one.scheme == "basic" for one in challenges) and not self._credentials(endpoint)
                    raise RefusedAnswer(Refusal(401, "", NO_LOGIN) if wants_login else found)
                asked = True
                if not isinstance(body, bytes):
                    raise Interrupted("the registry wants a new token")
                continue
            if answer.status in _REDIRECTS and follow and method in ("GET", "HEAD"):
                hops += 1
                if hops > _MOST_REDIRECTS:
                    answer.close()
                    raise Unavailable(f"{self.absolute(endpoint, target)}: more than {_MOST_REDIRECTS} redirects, the last to {url}")
                url = self._redirected(answer, endpoint)
                continue
            return answer

    def absolute(self, endpoint: Endpoint, target: str) -> str:
        """A path below the endpoint, or a URL, as a URL that can be asked for."""
        if target.startswith("/") and not target.startswith("//"):
            url = _join(endpoint.url(target), "")
        else:
            url = _join(endpoint.url("/"), target)
        if not url:
            raise Unavailable(f"the registry {self.registry} names {target[:200]!r}, which is no address to ask")
        return url

    def _redirected(self, answer: Answer, endpoint: Endpoint) -> str:
        location = answer.header("Location")
        answer.finish()
        url = _join(answer.url, location) if location else ""
        if not url:
            raise Unavailable(f"{answer.url} redirects to {location[:200]!r}, which is no address to ask")
        if urlsplit(url).scheme == "http" and urlsplit(answer.url).scheme == "https" and endpoint.verify:
            raise Unavailable(f"{answer.url} redirects from https to {url[:200]!r}: refused, for what comes from there is not protected")
        return url

    def _exchange(self, method: str, url: str, headers: dict[str, str], body: bytes | Stream, size_bytes: int | None, verify: bool, slow: bool = False) -> Answer:
        parts = urlsplit(url)
        while True:
            self.check()
            try:
                connection, used = self.connections.take(parts.scheme, parts.netloc, verify=verify)
            except (OSError, http.client.HTTPException) as error:
                self.check()
                raise unreachable(method, url, error) from None
            try:
                cut = False
                if connection.sock is not None:
                    connection.sock.settimeout(self.settings.timeout_s * (_SLOW_TIMEOUTS if slow else 1))
                try:
                    _send(connection, method, url, headers, body, size_bytes, self.connections.proxied(parts.scheme, parts.netloc), self.settings.agent)
                except (BrokenPipeError, ConnectionResetError):
                    if isinstance(body, bytes):
                        raise
                    cut = True  # it may have said why before it stopped listening
                response = connection.getresponse()
                assert isinstance(response, Response)
                response.will_close = response.will_close or cut
                return Answer(self, connection, response, url, verify)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                self.connections.drop(connection)
                if used and isinstance(body, bytes):
                    continue  # it was closed while it waited; that says nothing of this request
                raise self.interrupted(error, "no answer") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.connections.drop(connection)
                raise self.interrupted(error, "no answer") from None
            except BaseException:
                self.connections.drop(connection)
                raise

    # -- who we are -----------------------------------------------------------------------------------

    def _credentials(self, endpoint: Endpoint) -> Credentials:
        """A mirror is another's machine: what a person logged in with at the registry is not for it."""
        return _NOBODY if endpoint.mirror else self.credentials

    def _authorization(self, endpoint: Endpoint, scope: str) -> str:
        if token := self._credentials(endpoint).registry_token:
            return f"Bearer {token}"
        host = endpoint.host
        with self._lock:
            value, until_s = self._tokens.get((host, scope)) or self._tokens.get((host, "*")) or ("", 0.0)
        return value if time.monotonic() < until_s else ""

    def _authenticate(self, endpoint: Endpoint, challenges: list[challenge.Challenge], scope: str, sent: str) -> bool:
        """Answers a challenge; whether it is worth asking again. sent: the authorization that was not enough."""
        credentials = self._credentials(endpoint)
        for one in challenges:
            if one.scheme == "bearer" and one.parameters.get("realm"):
                asked = " ".join(dict.fromkeys([*scope.split(), *one.parameters.get("scope", "").split()]))
                token, until_s = self._fetch_token(endpoint, one.parameters["realm"], one.parameters.get("service", ""), asked)
                with self._lock:
                    self._tokens[(endpoint.host, scope)] = (f"Bearer {token}", until_s)
                return True
            if one.scheme == "basic" and credentials.username:
                with self._lock:
                    self._tokens[(endpoint.host, "*")] = (credentials.basic, float("inf"))
                return sent != credentials.basic
        return False

    def _fetch_token(self, endpoint: Endpoint, realm: str, service: str, scope: str) -> tuple[str, float]:
        realm, credentials = self.absolute(endpoint, realm), self._credentials(endpoint)
        parts = urlsplit(realm)
        safe = parts.scheme == "https" or not endpoint.verify or endpoint.scheme == "http"
        if not safe and credentials:
            raise Unauthorized(f"the registry {self.registry} wants the password sent to {realm} without TLS: refused")
        verify = not self.settings.is_insecure(parts.netloc)
        scopes = [("scope", word) for word in scope.split()]
        headers: dict[str, str] = {}
        if credentials.identity_token:
            fields = [
                ("grant_type", "refresh_token"), ("service", service), ("client_id", self.settings.agent),
                ("refresh_token", credentials.identity_token), ("scope", scope),
            ]  # fmt: skip
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = self._ask_token("POST", realm, headers, urlencode(fields).encode(), verify)
        else:
            fields = [("service", service)] if service else []
            if credentials.username:
                fields.append(("account", credentials.username))
                if self.wants_refresh_token:
                    fields += [("client_id", self.settings.agent), ("offline_token", "true")]
                headers["Authorization"] = credentials.basic
            query = urlencode(fields + scopes)
            url = f"{realm}{'&' if parts.query else '?'}{query}" if query else realm
            answer = self._ask_token("GET", url, headers, b"", verify)
        return self._read_token(answer, realm)

    def _ask_token(self, method: str, url: str, headers: dict[str, str], body: bytes, verify: bool) -> Answer:
        return self.persist(lambda: self._exchange(method, url, headers, body, None, verify), named(method, url.partition("?")[0]))

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

    # -- which address answers --------------------------------------------------------------------------

    def endpoint(self, *, pull: bool) -> Endpoint:
        """The first address that answers at all; for a registry with one address, that one, unasked."""
        with self._lock:
            if pull in self._answering:
                return self._answering[pull]
        choices = [one for one in self.settings.endpoints(self.registry, pull=pull) if not one.mirror]
        found = choices[0] if len(choices) == 1 else self._first_answering(choices)
        with self._lock:
            self._answering[pull] = found
        return found

    def _first_answering(self, choices: list[Endpoint]) -> Endpoint:
        failure: BerthError | None = None
        for one in choices:
            try:
                answer = self._exchange("GET", one.url("/v2/"), {}, b"", None, one.verify)
                answer.finish()
                return one
            except Interrupted as error:
                failure = Unavailable(f"{named('GET', one.url('/v2/'))}: {error}")
            except Unavailable as error:
                failure = error
        raise failure or Unavailable(f"the registry {self.registry} has no address")


class RefusedAnswer(Exception):
    """The registry knows who asks, or will not be told, and says no."""

    def __init__(self, found: Refusal, *, by_token_server: bool = False) -> None:
        super().__init__(str(found))
        self.refusal = found
        self.by_token_server = by_token_server


def _join(base: str, target: str) -> str:
    """`target` as seen from `base`; '' where that is no address to ask."""
    try:
        url = urljoin(base, target)
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isascii() and not _CONTROL.search(url)
    except ValueError:
        return ""
    return url if good else ""


def _send(
    connection: http.client.HTTPConnection, method: str, url: str, headers: dict[str, str], body: bytes | Stream, size_bytes: int | None,
    proxied: dict[str, str] | None, agent: str,
) -> None:  # fmt: skip
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.putrequest(method, url if proxied is not None else path, skip_accept_encoding=True)
    except (http.client.InvalidURL, ValueError) as error:
        raise InvalidParameter(f"{url[:200]!r} is no address to ask: {error}") from None
    for name, value in {"User-Agent": agent, "Accept-Encoding": "identity", **(proxied or {}), **headers}.items():
        connection.putheader(name, value)
    if isinstance(body, bytes):
        if body or method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        return
    if size_bytes is None:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(_pieces(body, None), encode_chunked=True)
    else:
        connection.putheader("Content-Length", str(size_bytes))
        connection.endheaders(_pieces(body, size_bytes), encode_chunked=False)


def _pieces(stream: Stream, size_bytes: int | None) -> Iterable[bytes]:
    """No more than was announced, which the registry would take for another request; DataLoss where there is less."""
    left = size_bytes
    while left != 0:
        data = stream.read(_BODY_PIECE_BYTES if left is None else min(_BODY_PIECE_BYTES, left))
        if not data:
            break
        yield data
        left = None if left is None else left - len(data)
    if left:
        raise DataLoss(f"a blob that should have {size_bytes} bytes more ends {left} bytes before that; load or pull the image again")


def retry_after_s(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
