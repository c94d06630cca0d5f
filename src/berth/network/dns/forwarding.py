"""Questions that are not about containers: out of the cache, or from a server; what several ask at once is asked once."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence

import dns.rcode

from berth.network import etcfiles
from berth.network.dns.cache import Cache
from berth.network.dns.questions import AD, CD, RD, Question, without_records
from berth.network.dns.replies import Reply
from berth.network.dns.upstream import Server, Upstream

log = logging.getLogger("berth.resolver")

_MOST_AT_ONCE = 2048
_FILE, _FILE_AGE_S = "/etc/resolv.conf", 1.0

_FAILURE_KEPT_S = 1  # RFC 9520: also what ends a loop through a server that asks us

Deliver = Callable[[bytes], None]  # gets an answer without its id


class HostServers:
    """The host's own servers, as its resolv.conf names them at the time: a laptop moves from network to network."""

    def __init__(self, path: str = _FILE) -> None:
        self._path = path
        self._looked_s, self._seen = float("-inf"), (0, 0)
        self._servers: tuple[Server, ...] = ()

    def get(self) -> tuple[Server, ...]:
        if time.monotonic() - self._looked_s > _FILE_AGE_S:
            self._looked_s = time.monotonic()
            try:
                status = os.stat(self._path)
                seen = (status.st_ino, status.st_mtime_ns)
                if seen != self._seen:
                    with open(self._path, errors="replace") as file:
                        self._servers = servers_of(etcfiles.parse(file.read()).servers)
                    self._seen = seen
            except OSError:
                pass  # it is being replaced: what was known still holds
        return self._servers or servers_of(etcfiles.DEFAULT_SERVERS)


class Forwarder:
    """Owns the cache and the questions that are out. tasks: of whoever waits for their end."""

    def __init__(self, tasks: asyncio.TaskGroup, host: HostServers) -> None:
        self._tasks, self._host = tasks, host
        self.cache = Cache()
        self._upstream = Upstream()
        self._out: dict[tuple, list[Deliver]] = {}
        self.count = 0  # of questions that went out

    def ask(self, question: Question, servers: Sequence[Server], deliver: Deliver) -> None:
        """Calls `deliver` at once or later. servers: none for the host's."""
        chosen = tuple(servers) or self._host.get()
        flags = question.flags & (RD | AD | CD)
        key = (chosen, question.name, question.kind, flags, question.payload_bytes > 0, question.dnssec_ok)
        if kept := self.cache.get(key):
            deliver(kept)
        elif waiting := self._out.get(key):
            waiting.append(deliver)
        elif len(self._out) >= _MOST_AT_ONCE:
            deliver(without_records(question, dns.rcode.SERVFAIL))
        else:
            self._out[key] = [deliver]
            self.count += 1
            self._tasks.create_task(self._fetch(key, chosen, question, flags))

    async def _fetch(self, key: tuple, servers: tuple[Server, ...], question: Question, flags: int) -> None:
        reply: Reply | None = None
        try:
            reply = await self._upstream.ask(servers, question, flags)
        except Exception:  # of one question, which must not end all others
            log.exception("a question could not be forwarded")
        reply = reply or Reply(without_records(question, dns.rcode.SERVFAIL), dns.rcode.SERVFAIL, False)
        if not reply.is_final:
            reply.keep_s = _FAILURE_KEPT_S
        self.cache.put(key, reply)
        for deliver in self._out.pop(key, []):
            deliver(reply.wire)


def servers_of(addresses: Sequence[str]) -> tuple[Server, ...]:
    """Those that are addresses, each once."""
    found: dict[Server, None] = {}
    for text in addresses:
        try:
            found[Server.of_text(text)] = None
        except ValueError:
            log.warning("%s is not the address of a name server", text)
    return tuple(found)
