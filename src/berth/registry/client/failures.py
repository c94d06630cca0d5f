"""A registry's refusals as errors of berth, in the words Docker's clients match on. Pure.

Source: OCI distribution specification 1.1, error codes; moby distribution/errors.go for how a pull words them.
"""

import http.client
import json

from berth.errors import BerthError, Conflict, DataLoss, Forbidden, InvalidParameter, NotFound, Unauthorized, Unavailable

_MOST_SHOWN = 200
NO_LOGIN = "no basic auth credentials"  # in Go's words: the registry wants a password, and there is none
RETRIED = (408, 429, 500, 502, 503, 504)

# What a code says where the registry sends no message with it.
_MEANING = {
    "DENIED": "requested access to the resource is denied", "UNAUTHORIZED": "authentication required",
    "MANIFEST_UNKNOWN": "manifest unknown", "NAME_UNKNOWN": "repository name not known to registry", "BLOB_UNKNOWN": "blob unknown to registry",
    "TOOMANYREQUESTS": "too many requests", "UNSUPPORTED": "the operation is unsupported",
}  # fmt: skip


class Refusal(Exception):
    """An answer that is no success: status, the registry's first error code and its message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = _printable(code)
        self.message = _printable(message)

    @property
    def words(self) -> str:
        """As Go's errcode package words it: `denied: requested access to the resource is denied`."""
        if not self.code:
            return self.message
        return f"{self.code.lower().replace('_', ' ')}: {self.message}"

_CODES = {401: "UNAUTHORIZED", 403: "DENIED"}


class RefusedAnswer(Exception):
    """The registry knows who asks, or will not be told, and says no."""

    def __init__(self, found: Refusal, *, by_token_server: bool = False) -> None:
        super().__init__(str(found))
        self.refusal = found
        self.by_token_server = by_token_server


def _printable(text: str) -> str:
    """It ends on somebody's terminal, and a registry is not trusted."""
    return "".join(character if character.isprintable() else " " for character in text)


def refusal(status: int, content_type: str, body: bytes) -> Refusal:
    """Reads the body of an answer that is no success, whatever it is."""
    try:
        value = json.loads(body)
        first = value["errors"][0]
        code, message = str(first.get("code") or ""), str(first.get("message") or "")
        if code or message:
            return Refusal(status, code[:_MOST_SHOWN], (message or _MEANING.get(code, "no reason given"))[:_MOST_SHOWN])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    try:
        value = json.loads(body)
        details = next(str(value[key]) for key in ("details", "message", "error_description", "error") if value.get(key))
        return Refusal(status, "", details[:_MOST_SHOWN])
    except (ValueError, StopIteration, TypeError, AttributeError, RecursionError):
        pass
    text = body[: 4 * _MOST_SHOWN].decode(errors="replace").strip()
    if "html" in content_type or text.startswith("<"):
        return Refusal(status, "", f"the registry answered {status} with a web page: is this the address of a registry?")
    printable = _printable(text)[:_MOST_SHOWN]
    if not printable and status in _CODES:  # to HEAD, for one
        return Refusal(status, _CODES[status], _MEANING[_CODES[status]])
    return Refusal(status, "", f"the registry answered {status}{': ' + printable if printable else ''}")


def refused_head(status: int, url: str) -> Refusal:
    """An answer to HEAD, which has no body that could say why."""
    code = _CODES.get(status, "")
    return Refusal(status, code, f"{_MEANING[code]} (HEAD {url})" if code else f"HEAD {url}: status {status}")


def of_pull(found: Refusal, familiar_name: str, familiar: str) -> BerthError:
    """Why an image cannot be had."""
    if found.code == "DENIED" or (found.status == 403 and not found.code):
        return NotFound(f"pull access denied for {familiar_name}, repository does not exist or may require 'docker login': {found.words}")
    if found.code == "MANIFEST_UNKNOWN" or (found.status == 404 and not found.code):
        return NotFound(f"manifest for {familiar} not found: {found.words or 'manifest unknown'}")
    if found.code == "NAME_UNKNOWN":
        return NotFound(f"repository {familiar_name} not found: {found.words}")
    if found.status == 401 and found.code in ("UNAUTHORIZED", ""):
        return NotFound(
            f"pull access denied for {familiar_name}, repository does not exist or may require 'docker login': "
            f"{found.words if found.code or found.message == NO_LOGIN else 'unauthorized: authentication required'}"
        )  # fmt: skip
    return of_request(found)


def of_request(found: Refusal) -> BerthError:
    """Any other refusal."""
    words = found.words
    if found.status == 401:
        return Unauthorized(words or "unauthorized: authentication required")
    if found.status == 403:
        return Forbidden(words)
    if found.status == 404:
        return NotFound(words)
    if found.code in ("DIGEST_INVALID", "SIZE_INVALID"):
        return DataLoss(words)
    if found.status in (400, 405, 413, 415, 416):
        return InvalidParameter(words)
    if found.status in (409, 412):
        return Conflict(words)
    if found.status >= 500:  # whatever its body says, as with Docker
        phrase = http.client.responses.get(found.status, "")
        return Unavailable(f"received unexpected HTTP status: {found.status} {phrase}".rstrip() + (f": {words}" if words else ""))
    if found.status == 429:
        return Unavailable(f"{words.rstrip('.')}; the registry limits how often it may be asked: log in, or try again later")
    return Unavailable(words)
