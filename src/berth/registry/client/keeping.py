"""What a transfer leaves for the next within seconds: connections that are open, and tokens. So a pull of what is here is one question.

It is for who asks the same registry with the same credentials and settings, certificates' files included; one session has it at a
time. Nothing is used for longer than a minute before all is asked anew, and nobody keeps a connection open that waits.
"""

import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from berth.registry.client.challenge import Credentials
from berth.registry.client.settings import Settings

_IDLE_S = 10.0
_LONGEST_S = 60.0  # what was checked and granted at the first of many transfers
_MOST_KEPT = 16

Key = tuple[str, str, bool]  # of a connection: scheme, host with port, whether certificates are checked
Tokens = dict[tuple[str, str], tuple[str, float]]  # (address, scope) -> Authorization, good until
Idle = dict[Key, list[http.client.HTTPConnection]]


class Kept:
    """idle: connections on which nothing is under way; since_s: when the first session began that had it, None for now."""

    __slots__ = ("idle", "since_s", "tokens", "until_s")

    def __init__(self, idle: Idle | None = None, tokens: Tokens | None = None, since_s: float | None = None) -> None:
        self.idle = idle or {}
        self.tokens = tokens or {}
        self.since_s = since_s
        self.until_s = 0.0

    def close(self) -> None:
        for connection in (one for waiting in self.idle.values() for one in waiting):
            connection.close()


class Keeper:
    """Of one engine; any thread may call. `close` ends what waits, and keeps nothing more."""

    def __init__(self, idle_s: float = _IDLE_S, longest_s: float = _LONGEST_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_s = idle_s
        self._longest_s = longest_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[tuple, Kept] = {}
        self._timer: threading.Timer | None = None
        self._closed = False

    def key(self, registry: str, settings: Settings, credentials: Credentials | None) -> tuple:
        """What has to be the same of two sessions for the second to go on with what the first has left."""
        who = credentials or Credentials()
        return (
            registry, who.username, who.password, who.identity_token, who.registry_token, settings.identity(),
            tuple(_stamps([*_certificates(settings.certificate_directories), *_authorities()])),
        )  # fmt: skip

    def take(self, key: tuple) -> Kept:
        """It is the caller's then; an empty one where there is nothing, or nothing that may still be used."""
        now_s = self._clock()
        with self._lock:
            found = self._kept.pop(key, None)
        if found and now_s < found.until_s:
            return found
        if found:
            found.close()
        return Kept(since_s=now_s)

    def give(self, key: tuple, kept: Kept) -> None:
        now_s = self._clock()
        since_s = now_s if kept.since_s is None else kept.since_s
        kept.until_s = min(now_s + self._idle_s, since_s + self._longest_s)
        gone = [kept]
        with self._lock:
            if not self._closed and now_s < kept.until_s:
                gone = [found for found in (self._kept.pop(key, None),) if found]
                self._kept[key] = kept
                if len(self._kept) > _MOST_KEPT:
                    gone.append(self._kept.pop(next(iter(self._kept))))
                self._await_end(self._idle_s)
        for one in gone:
            one.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            gone = list(self._kept.values())
            self._kept.clear()
            if self._timer:
                self._timer.cancel()
        for one in gone:
            one.close()

    def _await_end(self, wait_s: float) -> None:
        """Under the lock. One thread that sleeps, while there is something."""
        if self._timer is None:
            self._timer = threading.Timer(wait_s, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        now_s = self._clock()
        with self._lock:
            self._timer = None
            gone = [key for key, kept in self._kept.items() if kept.until_s <= now_s]
            ended = [self._kept.pop(key) for key in gone]
            if self._kept:
                self._await_end(max(0.01, min(kept.until_s for kept in self._kept.values()) - now_s))
        for one in ended:
            one.close()


def _certificates(directories: Iterable[str]) -> Iterator[str]:
    """All that may be asked of certs.d."""
    for directory in directories:
        yield directory
        for name in _names(directory):
            yield f"{directory}/{name}"
            yield from (f"{directory}/{name}/{file}" for file in _names(f"{directory}/{name}"))


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _authorities() -> list[str]:
    """The host's own."""
    paths = ssl.get_default_verify_paths()
    return [path for path in (paths.cafile, paths.capath) if path]


def _stamps(paths: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            yield (path,)
        else:
            yield path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
