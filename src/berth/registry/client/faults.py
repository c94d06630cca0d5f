"""Faults of connections in the words that Go has for them, which people and scripts search for. Pure."""

import http.client
import ssl
from urllib.parse import urlsplit

from berth.errors import SystemFailure, Unavailable
from berth.registry.client.proxies import ProxyFailed
from berth.registry.client.wire import TooSlow


class Interrupted(Exception):
    """The connection broke or the registry said `later`: the same request may do better."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def reason(error: Exception) -> str:
    """What went wrong with a connection, in the words that Go has for it where people search for them."""
    if isinstance(error, TooSlow):
        return str(error)
    if isinstance(error, TimeoutError):
        return "i/o timeout: nothing came for too long"
    if isinstance(error, http.client.RemoteDisconnected):
        return "EOF: the registry closed the connection without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "unexpected EOF: the connection was closed before the end"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def unreachable(method: str, url: str, error: Exception) -> Exception:
    """Why no connection came about: an error that trying again would not change, or Interrupted."""
    what = named(method, url)
    host = urlsplit(url).netloc
    hop, advice = "", ", or name the registry in insecure-registries"
    if isinstance(error, ProxyFailed):
        what, hop, advice = f"{what}: proxyconnect tcp", "proxyconnect tcp: ", ""
        url, error = error.url, error.cause
        host = urlsplit(url).netloc
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unavailable(f"{what}: {_distrust(error)}; put the authority's certificate into certs.d/{host}/ca.crt{advice}")
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS and not hop:
        return Unavailable(f"{what}: http: server gave HTTP response to HTTPS client; a registry without TLS must stand in insecure-registries")
    if isinstance(error, ssl.SSLError):
        return Unavailable(f"{what}: tls: {(error.reason or str(error)).lower().replace('_', ' ')}")
    if isinstance(error, ConnectionRefusedError):
        return Unavailable(f"{what}: dial tcp {host}: connect: connection refused")
    if type(error).__name__ == "gaierror":
        return Unavailable(f"{what}: dial tcp: lookup {urlsplit(url).hostname}: no such host ({reason(error)})")
    if isinstance(error, OSError) and "Tunnel" in str(error):
        return Unavailable(f"{what}: the proxy refused: {error}")
    if isinstance(error, OSError | http.client.HTTPException):
        return Interrupted(f"{hop}dial tcp {host}: {reason(error)}")
    return SystemFailure(f"{what}: {error}")


def named(method: str, url: str) -> str:
    """A request as Go names it in errors: `Get "https://registry/v2/"`."""
    return f'{method.title()} "{url[:300]}"'


_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
_NO_AUTHORITY = (18, 19, 20, 21)  # X509_V_ERR_*: self-signed, or no issuer that is trusted
_NOT_NOW = (9, 10)
_OTHER_NAME = (62, 64)


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _NO_AUTHORITY:
        return f"x509: certificate signed by unknown authority ({error.verify_message})"
    if error.verify_code in _NOT_NOW:
        return f"x509: certificate has expired or is not yet valid ({error.verify_message})"
    if error.verify_code in _OTHER_NAME:
        return f"x509: certificate is not valid for this name ({error.verify_message})"
    return f"x509: {error.verify_message}"
