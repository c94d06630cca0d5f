"""An answer whose head has been read, and its body as it comes."""

import http.client
import time
from typing import Protocol
from urllib.parse import urlsplit

from berth.errors import DataLoss
from berth.registry.client.connections import Connections
from berth.registry.client.failures import Refusal, refusal
from berth.registry.client.faults import Interrupted
from berth.registry.client.settings import Settings
from berth.registry.client.wire import Response

_MOST_ERROR_BYTES = 64 << 10


class Owner(Protocol):
    """The session that asked."""

    settings: Settings
    connections: Connections

    def check(self) -> None: ...

    def interrupted(self, error: Exception, what: str) -> Exception: ...


class Answer:
    """A response whose body waits to be read. Read it to its end or `close` it."""

    def __init__(self, session: Owner, connection: http.client.HTTPConnection, response: Response, url: str, verify: bool) -> None:
        self._session = session
        self._connection: http.client.HTTPConnection | None = connection
        self._response = response
        self._verify = verify
        self.url = url
        self.status = response.status
        self.body = b""  # once `Session.fetch` has read it
        response.reader.body(session.settings.slowest_bytes_s)

    def header(self, name: str) -> str:
        return self._response.getheader(name) or ""

    @property
    def length_bytes(self) -> int | None:
        """How much of the body has to come yet, where the answer says."""
        return self._response.length

    def readinto(self, view: memoryview) -> int:
        """Bytes of the body as they come, 0 at its end. Interrupted where it breaks off, stalls or trickles.

        Every byte that came is handed out before an error is raised.
        """
        try:
            self._session.check()
            count = self._response.receive(view)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise self._session.interrupted(error, "the answer broke off") from None
        except BaseException:
            self.close()
            raise
        if not count:
            left = self._response.length
            self._finish()
            if left:
                raise Interrupted(f"the answer broke off {left} bytes before its end")
        return count

    def read_all(self, limit_bytes: int) -> bytes:
        """The whole body; DataLoss if it is larger than `limit_bytes`."""
        if (self._response.length or 0) > limit_bytes:
            self.close()
            raise DataLoss(f"{self.url} answered with {self._response.length} bytes; more than {limit_bytes} is refused")
        body, view = bytearray(), memoryview(bytearray(64 << 10))
        deadline_s = time.monotonic() + self._session.settings.timeout_s * 4
        while count := self.readinto(view):
            body += view[:count]
            if len(body) > limit_bytes:
                self.close()
                raise DataLoss(f"{self.url} answered with more than {limit_bytes} bytes: refused")
            if time.monotonic() > deadline_s:
                self.close()
                raise Interrupted("the answer does not come to an end")
        return bytes(body)

    def finish(self) -> None:
        """Reads a body nobody wants, so that the connection can be used again."""
        try:
            self.read_all(_MOST_ERROR_BYTES)
        except (Interrupted, DataLoss):
            self.close()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._response.length or self._response.will_close or self._response.reader.has_more:
            self._session.connections.drop(connection)
        else:
            self._response.close()
            parts = urlsplit(self.url)
            self._session.connections.give(connection, parts.scheme, parts.netloc, verify=self._verify)

    def close(self) -> None:
        """The connection is ended if the body has not been."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._session.connections.drop(connection)

    def refusal(self) -> Refusal:
        """What this answer, which is no success, says."""
        try:
            body = self.read_all(_MOST_ERROR_BYTES)
        except (Interrupted, DataLoss):
            body = b""
        return refusal(self.status, self.header("Content-Type"), body)
