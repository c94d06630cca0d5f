"""Files from web servers, for ADD and for contexts. A server is as little trusted as whoever named it.

Nothing but http and https is spoken, wherever a redirect leads; a file appears under its name only when its digest is right.
"""

import base64
import email.message
import email.utils
import hashlib
import http.client
import os
import posixpath
import ssl
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from threading import Event
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from berth.errors import Cancelled, DataLoss, InvalidParameter, TooLarge, Unavailable
from berth.oci import digest as digests

_MOST_REDIRECTS = 10
_TIMEOUT_S = 30.0
_SLOWEST_BYTES_S = 1024
_MOST_BYTES = 16 << 30
_READ_BYTES = 1 << 20
_MOST_NAME_BYTES = 255
_REDIRECTS = (301, 302, 303, 307, 308)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Fetched:
    """path: of the file. name: what ADD calls it. etag, last_modified: as the server sent them, '' where it did not. digest: of the content."""

    __slots__ = ("digest", "etag", "last_modified", "name", "path")

    def __init__(self, path: str, name: str, *, etag: str, last_modified: str, digest: str) -> None:
        self.path = path
        self.name = name
        self.etag = etag
        self.last_modified = last_modified
        self.digest = digest


def fetch(
    url: str, *, checksum: str = "", into: str, known: Fetched | None = None, environment: Mapping[str, str] | None = None,
    most_bytes: int = _MOST_BYTES, stop: Event | None = None, tls: ssl.SSLContext | None = None,
) -> Fetched:  # fmt: skip
    """Writes what `url` gives to the file `into`, which is not there, 0600, with the server's time. Blocks.

    checksum: what its digest has to be, '' for any. known: what an earlier call returned, which is returned again if the server says that
    nothing has changed. environment: where variables such as https_proxy are. stop: set by another thread that wants no more of it.
    tls: in the place of the system's certificates.

    InvalidParameter for a URL that is none, a checksum that is none, or a file that is not there; DataLoss for one with another digest or that is cut
    off; TooLarge; Unavailable; Cancelled. Nothing is left of any of them.
    """
    if checksum and not digests.is_known(checksum):
        raise InvalidParameter(f"invalid checksum {checksum!r}: it is to be sha256: and 64 hexadecimal digits")
    fetching = _Fetching(environment or {}, stop or Event(), tls, most_bytes)
    partial = f"{into}.partial"
    try:
        found = fetching.run(url, partial, known)
        if found is not known:
            if checksum and not _matches(partial, checksum, found.digest):
                raise DataLoss(f"digest mismatch for {shown(url)}: it is {found.digest}, and was to be {checksum}")
            os.rename(partial, into)
            found.path = into
        elif checksum and not _matches(found.path, checksum, found.digest):
            raise DataLoss(f"digest mismatch for {shown(url)}: it is {found.digest}, and was to be {checksum}")
        return found
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def _matches(path: str, checksum: str, digest: str) -> bool:
    if checksum.startswith("sha256:"):
        return checksum == digest
    with open(path, "rb") as file:
        return hashlib.file_digest(file, checksum.partition(":")[0]).hexdigest() == digests.hexadecimal(checksum)


def shown(url: str) -> str:
    """A URL without name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url


def name_of(url: str, disposition: str = "") -> str:
    """What a file from there is called: the last part of the path, or else what the server says; '' where neither is a name."""
    named = posixpath.basename(unquote(urlsplit(url).path, errors="surrogateescape"))
    if not _is_name(named) and disposition:
        header = email.message.Message()
        header["Content-Disposition"] = disposition.replace("\r", "").replace("\n", "")
        named = posixpath.basename(header.get_filename() or "")
    return named if _is_name(named) else ""


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name and len(os.fsencode(name)) <= _MOST_NAME_BYTES


class _Fetching:
    def __init__(self, environment: Mapping[str, str], stop: Event, tls: ssl.SSLContext | None, most_bytes: int) -> None:
        self._environment = environment
        self._stop = stop
        self._tls = tls
        self._most_bytes = most_bytes
        self._began_s = time.monotonic()

    def run(self, url: str, partial: str, known: Fetched | None) -> Fetched:
        at = url
        for _ in range(_MOST_REDIRECTS + 1):
            parts = _checked(at)
            connection, headers, target = self._connect(parts)
            try:
                if parts.username is not None:
                    headers["Authorization"] = _basic(parts.username, parts.password or "")
                if known:
                    headers.update(_conditions(known))
                answer = self._ask(connection, headers, target, at)
                if answer.status in _REDIRECTS and (location := answer.getheader("Location")):
                    at = _redirected(at, location)
                    continue
                if answer.status == 304 and known:
                    return known
                if answer.status != 200:
                    raise _refused(at, answer)
                return self._receive(answer, url, partial)
            finally:
                connection.close()
        raise InvalidParameter(f"{shown(url)}: stopped after {_MOST_REDIRECTS} redirects")

    def _ask(self, connection: http.client.HTTPConnection, headers: dict[str, str], target: str, url: str) -> http.client.HTTPResponse:
        if self._stop.is_set():
            raise Cancelled(f"nobody wants {shown(url)} any more")
        try:
            connection.request("GET", target, headers=headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise Unavailable(f"failed to GET {shown(url)}: {error or type(error).__name__}") from None

    def _connect(self, parts: SplitResult) -> tuple[http.client.HTTPConnection, dict[str, str], str]:
        """A connection to the server or to a proxy, headers, and the request's target."""
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "berth", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
        proxy = self._proxy(parts.scheme, host, port)
        if proxy is None:
            return self._to(parts.scheme, host, port), headers, target
        via = _checked(proxy if "://" in proxy else f"http://{proxy}")
        authorization = {"Proxy-Authorization": _basic(via.username, via.password or "")} if via.username is not None else {}
        if parts.scheme == "http":
            connection = self._to(via.scheme, via.hostname or "", via.port or _DEFAULT_PORTS[via.scheme])
            return connection, {**headers, **authorization}, f"http://{parts.netloc.rpartition('@')[2]}{target}"
        if via.scheme != "http":
            raise InvalidParameter(f"proxy {via.hostname}: https is reached by proxies that are spoken to by http, not by {via.scheme}")
        connection = self._to("https", via.hostname or "", via.port or 80)
        connection.set_tunnel(host, port, authorization)
        return connection, headers, target

    def _to(self, scheme: str, host: str, port: int) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=self._tls or ssl.create_default_context())

    def _proxy(self, scheme: str, host: str, port: int) -> str | None:
        """As curl and Go have it: lower-case names first, and HTTP_PROXY in capitals only for https."""
        get = self._environment.get
        proxy = get(f"{scheme}_proxy") or get(f"{scheme.upper()}_PROXY") or get("all_proxy") or get("ALL_PROXY")
        bypass = get("no_proxy") or get("NO_PROXY") or ""
        if not proxy or host == "localhost" or host.startswith("127.") or host == "::1":
            return None
        # getproxies_environment's own form; the stubs do not know the function's second argument.
        outside = urllib.request.proxy_bypass_environment(f"{host}:{port}", {"no": bypass})  # type: ignore[attr-defined]
        return None if outside else proxy

    def _receive(self, answer: http.client.HTTPResponse, url: str, partial: str) -> Fetched:
        length = answer.length
        if not answer.headers:  # http.client takes what is cut off behind its first line for an empty file
            raise DataLoss(f"{shown(url)} was cut off before its first byte")
        if length is not None and length > self._most_bytes:
            raise TooLarge(f"{shown(url)} has {length} bytes; more than {self._most_bytes} are not taken")
        hashing, count = hashlib.sha256(), 0
        modified = answer.getheader("Last-Modified") or ""
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            while data := self._read(answer, url, count):
                hashing.update(data)
                file.write(data)
                count += len(data)
                if count > self._most_bytes:
                    raise TooLarge(f"{shown(url)} has more than {self._most_bytes} bytes, which are not taken")
            if length is not None and count < length:
                raise DataLoss(f"{shown(url)} was cut off after {count} of {length} bytes")
            file.flush()
            os.utime(file.fileno(), (_moment_s(modified), _moment_s(modified)))
        name = name_of(url, answer.getheader("Content-Disposition") or "")
        return Fetched(
            partial, name, etag=answer.getheader("ETag") or "", last_modified=modified, digest=f"sha256:{hashing.hexdigest()}"
        )  # fmt: skip

    def _read(self, answer: http.client.HTTPResponse, url: str, count: int) -> bytes:
        if self._stop.is_set():
            raise Cancelled(f"nobody wants {shown(url)} any more")
        waited_s = time.monotonic() - self._began_s
        if waited_s > _TIMEOUT_S and count < (waited_s - _TIMEOUT_S) * _SLOWEST_BYTES_S:
            raise Unavailable(f"{shown(url)} comes with less than {_SLOWEST_BYTES_S} bytes a second: given up")
        try:
            return answer.read1(_READ_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise DataLoss(f"{shown(url)} was cut off after {count} bytes: {error or type(error).__name__}") from None


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        ok = parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        ok = False
    if not ok or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise InvalidParameter(f"{url!r} is no address of a web server")
    return parts._replace(path=_ascii(parts.path), query=_ascii(parts.query))


def _ascii(text: str) -> str:
    return "".join(letter if letter.isascii() else "".join(f"%{byte:02X}" for byte in os.fsencode(letter)) for letter in text)


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        before, after = urlsplit(url), urlsplit(target)
    except ValueError:
        raise InvalidParameter(f"{shown(url)} redirects to {location!r}, which is no address of a web server") from None
    if before.scheme == "https" and after.scheme == "http":
        raise InvalidParameter(f"{shown(url)} redirects to {shown(target)}, which is not encrypted: refused")
    if "@" in before.netloc and "@" not in after.netloc and before.hostname == after.hostname and before.port == after.port:
        target = after._replace(netloc=f"{before.netloc.rpartition('@')[0]}@{after.netloc}").geturl()
    return target


def _refused(url: str, answer: http.client.HTTPResponse) -> Exception:
    text = f"failed to GET {shown(url)}: the server answers {answer.status} {answer.reason}"
    return Unavailable(text) if answer.status >= 500 or answer.status in (408, 429) else InvalidParameter(text)


def _conditions(known: Fetched) -> dict[str, str]:
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": known.last_modified} if known.last_modified else {}


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()


def _moment_s(text: str) -> float:
    """A header's time; the beginning of time where there is none, so that the same file makes the same layer."""
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp()) if text else 0.0
    except (ValueError, OverflowError):
        return 0.0
