"""Requests to one registry: authenticated, redirected, tried again. One `Session` may be used by many threads.

A registry is not trusted: answers have bounds in size and time, redirects in number; what a person logged in with
goes to the registry itself and to the token server that it names over TLS, and nowhere else.
"""

import http.client
import logging
import random
import re
import threading
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from berth.errors import BerthError, Cancelled, DataLoss, InvalidParameter, Unavailable
from berth.registry.client import challenge
from berth.registry.client.answer import Answer
from berth.registry.client.authorization import Authorization
from berth.registry.client.challenge import Credentials
from berth.registry.client.connections import Connections
from berth.registry.client.failures import NO_LOGIN, RETRIED, Refusal, RefusedAnswer
from berth.registry.client.faults import Interrupted, named, reason, unreachable
from berth.registry.client.keeping import Keeper, Kept
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
    """registry: as in references. credentials: None for nobody. cancelled: set when nobody wants the result any more.

    keeper: what sessions before left for this one, and where `release` leaves it.
    """

    def __init__(
        self, registry: str, settings: Settings, credentials: Credentials | None = None, cancelled: threading.Event | None = None,
        keeper: Keeper | None = None,
    ) -> None:  # fmt: skip
        self.registry = registry
        self.settings = settings
        self._keeper = keeper
        self._key = keeper.key(registry, settings, credentials) if keeper else ()
        kept = keeper.take(self._key) if keeper else Kept()
        self._since_s = kept.since_s
        self.authorization = Authorization(self, credentials or Credentials(), kept.tokens)
        self.connections = Connections(settings, kept.idle)
        self._cancelled = cancelled or threading.Event()
        self._lock = threading.Lock()
        self._answering: dict[bool, Endpoint] = {}

    def close(self) -> None:
        """Ends every connection; a request under way fails with Cancelled or Unavailable."""
        self.connections.close()

    def release(self) -> None:
        """The work has come to a good end: closes, and leaves to the next session what it may go on with."""
        if self._keeper and not self._cancelled.is_set():
            self._keeper.give(self._key, Kept(self.connections.release(), self.authorization.tokens(), self._since_s))
        self.close()

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
            if ours and (authorization := self.authorization.value(endpoint, scope)):
                sent["Authorization"] = authorization
            answer = self.exchange(method, url, sent, body, size_bytes, endpoint.verify, slow)
            if answer.status == 401 and ours and not asked:
                header = answer.header("WWW-Authenticate")
                found, challenges = answer.refusal(), challenge.parse(header)
                if not self.authorization.answer(endpoint, challenges, scope, sent.get("Authorization", "")):
                    wants_login = any(one.scheme == "basic" for one in challenges) and not self.authorization.credentials_for(endpoint)
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

    def exchange(self, method: str, url: str, headers: dict[str, str], body: bytes | Stream, size_bytes: int | None, verify: bool, slow: bool = False) -> Answer:
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

    def ask_token_server(self, method: str, url: str, headers: dict[str, str], body: bytes, *, verify: bool) -> Answer:
        return self.persist(lambda: self.exchange(method, url, headers, body, None, verify), named(method, url.partition("?")[0]))

    # -- which address answers --------------------------------------------------------------------------

    def endpoint(self, *, pull: bool) -> Endpoint:
        """The first address that answers at all; for a registry with one address, that one, unasked."""
        with self._lock:
            if pull in self._answering:
                return self._answering[pull]
        choices = [one for one in self.settings.endpoints(self.registry, pull=pull) if not one.mirror]
        found = choices[0] if len(choices) == 1 else self._connected(choices) or self._first_answering(choices)
        with self._lock:
            self._answering[pull] = found
        return found

    def _connected(self, choices: list[Endpoint]) -> Endpoint | None:
        """The one that a session before was answered by, as long as the connection lives: so it is the same server still."""
        return next((one for one in choices if self.connections.has(one.scheme, one.host, verify=one.verify)), None)

    def _first_answering(self, choices: list[Endpoint]) -> Endpoint:
        failure: BerthError | None = None
        for one in choices:
            try:
                answer = self.exchange("GET", one.url("/v2/"), {}, b"", None, one.verify)
                answer.finish()
                return one
            except Interrupted as error:
                failure = Unavailable(f"{named('GET', one.url('/v2/'))}: {error}")
            except Unavailable as error:
                failure = error
        raise failure or Unavailable(f"the registry {self.registry} has no address")


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
