"""TLS on ssl.MemoryBIO, between a transport and a protocol that knows nothing of it.

asyncio's own TLS transport drops all that is written after the client's close_notify, that is: the whole output of
`docker exec -i` whose standard input has ended. Here the two directions end one by one, as they do in TCP.
"""

import asyncio
import logging
import ssl

from berth.errors import InvalidParameter

log = logging.getLogger("berth.api")

_READ_BYTES = 1 << 18
_WRITE_BYTES = 1 << 18
_HANDSHAKE_TIMEOUT_S = 30.0


def server_context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """authority: the CA file whose clients may come, or '' for all. InvalidParameter names the file that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for flag, path in (("--tlscert", certificate), ("--tlskey", key), *([("--tlscacert", authority)] if authority else [])):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise InvalidParameter(f"{flag} {path}: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidParameter(f"--tlscert {certificate} and --tlskey {key} are no certificate and its key: {error}") from None
    if authority:
        try:
            context.load_verify_locations(authority)
        except (ssl.SSLError, OSError) as error:
            raise InvalidParameter(f"--tlscacert {authority} is no list of certificates: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class TlsProtocol(asyncio.Protocol):
    """The protocol towards the network; its `TlsTransport` is what the inner protocol sees."""

    def __init__(self, context: ssl.SSLContext, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._transport: asyncio.Transport | None = None
        self._established = False
        self._inner_ended = False
        self._paused = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    # -- the network's side -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._timer = asyncio.get_running_loop().call_later(_HANDSHAKE_TIMEOUT_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._closed = True
        if self._established:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        self._pump()

    def eof_received(self) -> bool:
        self._incoming.write_eof()
        self._pump()
        return not self._closed and self._established  # the inner protocol decides when it ends

    def pause_writing(self) -> None:
        if self._established:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._established:
            self._inner.resume_writing()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _pump(self) -> None:
        """Everything decrypted that the inner protocol wants to have."""
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
                self._stop_timer()
                self._inner.connection_made(TlsTransport(self))
            while not (self._paused or self._closed or self._inner_ended):
                data = self._tls.read(_READ_BYTES)
                if not data:
                    self._end_of_input()
                    break
                self._inner.data_received(data)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._end_of_input()
        except ssl.SSLError as error:
            log.info("TLS: %s", error)
            self._flush()  # the alert
            self.close_now()
        self._flush()

    def _end_of_input(self) -> None:
        if not self._established:
            self.close_now()
        elif not self._inner_ended:
            self._inner_ended = True
            if not self._inner.eof_received():
                self.close()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._transport and not self._transport.is_closing():
            self._transport.write(data)

    # -- the inner protocol's side, through TlsTransport ---------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    @property
    def closing(self) -> bool:
        return self._closed or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view[:_WRITE_BYTES]) :]
                self._flush()
        except ssl.SSLError as error:
            log.info("TLS: %s", error)
            self.close_now()

    def pause_reading(self) -> None:
        self._paused = True
        if not self.closing:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if not self.closing:
            self.transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._pump)  # what was decrypted no socket will announce again

    def write_eof(self) -> None:
        """Says that nothing more will come; what comes in is still read."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass
        self._flush()

    def close(self) -> None:
        if not self._closed:
            self.write_eof()
            self.close_now()

    def close_now(self) -> None:
        self._closed = True
        self.transport.close()


class TlsTransport(asyncio.Transport):
    """What the inner protocol writes to."""

    def __init__(self, protocol: TlsProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._protocol.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._protocol.closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.write(bytes(data) if not isinstance(data, bytes) else data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._protocol.write_eof()

    def pause_reading(self) -> None:
        self._protocol.pause_reading()

    def resume_reading(self) -> None:
        self._protocol.resume_reading()

    def close(self) -> None:
        self._protocol.close()

    def abort(self) -> None:
        self._protocol.transport.abort()
