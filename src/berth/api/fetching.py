"""POST /images/create with a URL: the archive comes from a web server, which is as little trusted as a client."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from berth.errors import BerthError, Cancelled, DataLoss, InvalidParameter, Unavailable

_TIMEOUT_S = 30.0
_SLOWEST_BYTES_S = 1024
_MOST_SHOWN = 1000


class WebArchive:
    """What a URL gives, to read once. Any method may raise an error of berth's."""

    def __init__(self, url: str) -> None:
        """Blocks until the server has begun to answer."""
        self.url = url
        self._stopped = False
        self.progress: Callable[[int, int], None] | None = None  # bytes that came, bytes announced or 0
        self._began_s, self._count = time.monotonic(), 0
        # No FileHandler, no FTPHandler: a redirect leads to the web, or nowhere.
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler(),
        ):  # fmt: skip
            opener.add_handler(handler)
        try:
            opened = opener.open(urllib.request.Request(url, headers={"User-Agent": "berth"}), timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(_MOST_SHOWN).decode(errors="replace")
            raise Unavailable(f"failed to GET {url} with status {error.code} {error.reason}: {text}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"failed to GET {url}: {getattr(error, 'reason', None) or error}") from None
        except ValueError as error:
            raise InvalidParameter(f"{url!r} is no address of a web server: {error}") from None
        if opened is None:
            raise InvalidParameter(f"{url!r} leads to something else than a web server")
        self._answer: Any = opened
        length = opened.headers.get("Content-Length") or ""
        self._size_bytes = int(length) if length.isascii() and length.isdigit() else None

    def read(self, size: int = -1) -> bytes:
        """As a file's: b'' at the end, which is where the server said."""
        if self._stopped:
            raise Cancelled(f"import from {self.url}: whoever asked for it has gone")
        try:
            data: bytes = self._answer.read(size if size >= 0 else None)
        except (OSError, http.client.HTTPException) as error:
            raise self._cut(str(error) or type(error).__name__) from None
        self._count += len(data)
        if self.progress:
            self.progress(self._count, self._size_bytes or 0)
        if not data and size and self._size_bytes is not None and self._count < self._size_bytes:
            raise self._cut(f"{self._size_bytes} bytes were announced")
        waited_s = time.monotonic() - self._began_s
        if waited_s > _TIMEOUT_S and self._count < waited_s * _SLOWEST_BYTES_S:
            raise self._cut(f"slower than {_SLOWEST_BYTES_S} bytes a second")
        return data

    def _cut(self, why: str) -> BerthError:
        return DataLoss(f"import from {self.url}: cut off after {self._count} bytes: {why}")

    def stop(self) -> None:
        """The next read, in whatever thread, raises Cancelled."""
        self._stopped = True

    def close(self) -> None:
        self._answer.close()
