"""POST /build, /build/prune, /build/cancel: builds for clients that send a context as an archive."""

import asyncio
import contextlib
import io
import json
import os
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import IO, Any

from berth import errors
from berth.api.buildstream import BuildStream
from berth.api.request import parse_filters
from berth.api.threads import Incoming, in_thread_with_body
from berth.build import outputs, planning
from berth.build.files import context as contexts
from berth.build.files import git
from berth.build.files.cloning import Access
from berth.build.files.ignore import Ignore
from berth.build.files.reading import read_file
from berth.build.options import Options
from berth.build.progress import Event
from berth.build.provenance import Origin
from berth.build.worker import Output, Tree
from berth.engine import registryauth
from berth.engine.builds.mirrors import Mirror, key_of
from berth.engine.builds.request import BuildRequest, T
from berth.engine.service import Engine
from berth.engine.tasks import stoppable, to_its_end, whole
from berth.http.body import Disconnected
from berth.http.exchange import Exchange
from berth.oci import platforms, reference
from berth.oci.reference import Reference
from berth.registry.client.challenge import Credentials

_DEFAULT_NAME, _JSON = "Dockerfile", "application/json"
_SMALL_BYTES, _TINY_BYTES = 64 << 10, 16 << 10
_OUTSIDE = ".dockerfile."  # what Docker's client calls a Dockerfile that is not in the context, and random digits
_MAGIC_AT = 257  # of an archive that is not compressed
_NUMBERS = {
    "memory": "Memory", "memswap": "MemorySwap", "cpushares": "CpuShares", "cpuperiod": "CpuPeriod", "cpuquota": "CpuQuota", "shmsize": "ShmSize",
}  # fmt: skip
_TEXTS = {"cpusetcpus": "CpusetCpus", "cpusetmems": "CpusetMems", "cgroupparent": "CgroupParent"}


class Build:
    """Handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def build(self, exchange: Exchange) -> None:
        request = _request(exchange, self._engine)
        credentials = registryauth.credentials_by_registry(exchange.headers.get("x-registry-config", ""))
        client = ArchiveClient(self._engine, exchange, credentials, request)
        try:
            await self._build(exchange, request, client)
        finally:
            await whole(self._engine.builds.let_go(client))

    async def _build(self, exchange: Exchange, request: BuildRequest, client: "ArchiveClient") -> None:
        await client.receive()
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        work = asyncio.ensure_future(
            self._engine.builds.build(request, client, events.put_nowait, exchange.query.get("buildid", ""))
        )
        work.add_done_callback(lambda _: events.put_nowait(None))
        stream = BuildStream(quiet=exchange.flag("q"))
        try:
            told: list[Event | None] = []
            while None not in told:
                told = [await events.get()]
                while not events.empty():  # what is known by now goes in one piece
                    told.append(events.get_nowait())
                await _say(exchange, [message for event in told if event for message in stream.messages(event)])
            try:
                built = work.result()
            except errors.BerthError as error:
                if not exchange.streaming and not stream.began:
                    raise
                last = _lines(stream.failure(error))
            else:
                last = _lines(stream.success(built.image, [reference.parse(tag).familiar for tag in request.tags]))
        finally:
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError, errors.BerthError, Disconnected):
                    await work
        if not exchange.streaming:
            exchange.start_stream(_JSON)
        exchange.end_stream(last)

    async def prune(self, exchange: Exchange) -> None:
        filters = parse_filters(exchange.query.get("filters", ""))
        keep = exchange.number("reserved-space") or exchange.number("keep-storage") or 0
        most, least_free = exchange.number("max-used-space") or 0, exchange.number("min-free-space") or 0
        removed, reclaimed = await self._engine.builds.prune(
            everything=exchange.flag("all"), filters=filters, keep_bytes=keep, most_bytes=most, least_free_bytes=least_free
        )
        exchange.respond(200, {"CachesDeleted": removed or None, "SpaceReclaimed": reclaimed})

    async def cancel(self, exchange: Exchange) -> None:
        if not (identity := exchange.query.get("id", "")):
            raise errors.InvalidParameter("build ID not provided")
        self._engine.builds.cancel(identity)
        exchange.respond(204)


async def _while_there(exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
    """Awaits what nobody needs once the client has gone; Disconnected then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(exchange.gone())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Disconnected
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # it is about the end


async def _say(exchange: Exchange, messages: Iterable[dict[str, Any]]) -> None:
    data = _lines(messages)
    if data and not exchange.streaming:
        exchange.start_stream(_JSON, first=data)
    else:
        await exchange.send(data)


def _lines(messages: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)


async def pull(engine: Engine, name: Reference, platform: str, credentials: Credentials, tell: Callable[[str], None]) -> None:
    """Fetches an image for a build, which is told what goes on but for the counts of bytes."""
    async for message in engine.distribution.pull(name, platform, credentials):
        if "status" in message and not message.get("progressDetail"):
            tell(f"{message.get('id', '')}{': ' if message.get('id') else ''}{message['status']}\n")


class ArchiveClient:
    """A client that has sent its files as one archive, or named an address to take them from."""

    def __init__(self, engine: Engine, exchange: Exchange, credentials: Mapping[str, Credentials], request: BuildRequest) -> None:
        self._engine = engine
        self._exchange = exchange
        self._credentials = credentials
        self._key = archive_key(exchange.query.get("dockerfile", ""), request)
        self._mirror: Mirror | None = None
        self._origin: Origin | None = None
        self._directory = ""
        self._top = ""
        self._fd = -1

    async def receive(self) -> None:
        """Unpacks what the client sends, or fetches it."""
        remote = self._exchange.query.get("remote", "")
        if remote:
            into = self._new_directory()
            with contextlib.suppress(Disconnected):
                await self._exchange.body.read_all(1 << 20)
            digest = await _while_there(self._exchange, stoppable(lambda stop: receive_remote(remote, into, self.proxies(), stop)))
            self._origin = Origin(remote, digest, dockerfile=True)
            return
        if self._exchange.headers.get("content-length") == "0":
            raise errors.InvalidParameter("the build context is empty: send a tar archive, or name one with the parameter remote")
        small = Beginning(self._exchange.body)
        if not await small.whole():
            self._mirror = self._engine.builds.contexts.take(self._key)
            self._top = self._mirror.files
            mirror, stop = self._mirror, threading.Event()
            await _while_there(self._exchange, in_thread_with_body(small, lambda stream: mirror.unpack(stream, stop), stop))
            return
        into = self._new_directory()
        if len(small.data) <= _TINY_BYTES and small.data[_MAGIC_AT : _MAGIC_AT + 5] == b"ustar":
            contexts.receive_tar(io.BytesIO(small.data), into)  # some thirty files at most: less than a thread's turn
        else:
            await _while_there(self._exchange, stoppable(lambda stop: contexts.receive_tar(io.BytesIO(small.data), into, stop=stop)))

    def _new_directory(self) -> str:
        self._directory = self._top = self._engine.builds.new_directory()
        return self._directory

    async def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._directory:
            await to_its_end(lambda: self._engine.builds.remove_directory(self._directory))
        if self._mirror:
            self._engine.builds.contexts.give_back(self._mirror)
            await to_its_end(self._engine.builds.contexts.trim)

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._fd

    async def dockerfile(self) -> tuple[bytes, str]:
        name = self._exchange.query.get("dockerfile", "") or _DEFAULT_NAME
        data = read_file(self._open(), name)
        if data is None and name == _DEFAULT_NAME:
            data = read_file(self._open(), name.lower())
        if data is None:
            raise errors.InvalidParameter(f"Cannot locate specified Dockerfile: {name}")
        return data, name

    async def context(self, name: str, paths: tuple[str, ...] | None, into: str, output: Output) -> Tree:
        if name:
            raise errors.NotFound(f"there is no build context {name!r}")
        fd = self._open()
        dockerfile = self._exchange.query.get("dockerfile", "") or _DEFAULT_NAME
        text = read_file(fd, f"{dockerfile}.dockerignore")
        text = read_file(fd, ".dockerignore") if text is None else text
        return Tree(os.dup(fd), self._top, "", _left_out(text, (dockerfile, ".dockerignore")) if text else None)

    async def layout_file(self, name: str, path: str, read: Callable[[IO[bytes]], T]) -> T:
        raise errors.NotFound(f"there is no OCI layout {name!r}")

    def origin(self) -> Origin | None:
        return self._origin

    async def secret(self, identity: str) -> bytes | None:
        return None

    async def ssh_socket(self, identity: str, uid: int, gid: int, mode: int) -> str | None:
        return None

    async def pull(self, name: Reference, platform: str, tell: Callable[[str], None]) -> None:
        await pull(self._engine, name, platform, self._credentials.get(name.registry) or Credentials(), tell)

    async def credentials(self, registry: str) -> Credentials:
        return self._credentials.get(registry) or Credentials()

    async def output(self, number: int, write: Callable[[IO[bytes]], None]) -> None:
        raise errors.NotImplementedHere("POST /build can send nothing but its messages back: use `berth build`")

    def proxies(self) -> Mapping[str, str]:
        return self._engine.options.proxies()


def archive_key(dockerfile: str, request: BuildRequest) -> str:
    """Of the mirror for a context that comes as an archive. Names without tags: many a build has a tag of its own."""
    names = sorted({reference.parse(tag).familiar_name for tag in request.tags})
    name = "" if dockerfile.startswith(_OUTSIDE) else dockerfile
    return key_of("archive", name, request.options.target, *names)


class Beginning:
    """A body whose first bytes may be all: those need no thread that waits for a client."""

    def __init__(self, body: Incoming) -> None:
        self._body = body
        self.data = b""

    async def whole(self) -> bool:
        """Whether `data` is all of it; else `read` begins with that."""
        while len(self.data) <= _SMALL_BYTES:
            if not (more := await self._body.read()):
                return True
            self.data += more
        return False

    async def read(self) -> bytes:
        data, self.data = self.data, b""
        return data or await self._body.read()


def _left_out(text: bytes, names: tuple[str, ...]) -> Ignore | None:
    """Of an archive: the client has left out what it wanted to, but must send the two files that say what; dockerd does the same."""
    ignore = Ignore.parse(text)
    found = [re.sub(r"([][*?!\\#])", r"\\\1", name) for name in names if ignore.ignores(os.path.normpath(name))]
    return Ignore(found) if found else None


def receive_remote(remote: str, into: str, environment: Mapping[str, str], stop: threading.Event, access: Access | None = None) -> str:
    """Fills a directory from a Git repository, or from the web: an archive, or a Dockerfile alone -> its commit or digest. Blocks."""
    if git.is_repository(remote, context=True):
        return contexts.from_git(remote, into, environment=environment, access=access, stop=stop)
    if remote.startswith(("http://", "https://")):
        return contexts.from_url(remote, into, environment=environment, stop=stop)
    raise errors.InvalidParameter(f"unable to prepare context: {remote!r} is neither a repository's address nor one of the web")


def _request(exchange: Exchange, engine: Engine) -> BuildRequest:
    query = exchange.query
    arguments = {key: value for key, value in _map(exchange, "buildargs").items() if value is not None}
    tags = tuple(tag for tag in exchange.query_lists.get("t", []) if tag)
    for tag in tags:
        reference.parse(tag)
    epoch = arguments.get("SOURCE_DATE_EPOCH", "")
    wanted = query.get("platform", "")
    if query.get("version", "1") not in ("", "1"):
        raise errors.NotImplementedHere("this engine does not speak BuildKit's protocol: set DOCKER_BUILDKIT=0, or use `berth build`")
    options = Options(
        build_platform=str(platforms.host()), platforms=tuple(planning.platform_named(text) for text in wanted.split(",") if text),
        target=query.get("target", ""), build_args=arguments, labels={key: value or "" for key, value in _map(exchange, "labels").items()},
        hosts=tuple(host for text in exchange.query_lists.get("extrahosts", []) for host in text.split(",") if host),
        network="" if query.get("networkmode", "") == "default" else query.get("networkmode", ""), limits=tuple(_limits(exchange)),
        epoch=int(epoch) if epoch.isdecimal() else None, no_cache=exchange.flag("nocache"),
        slot=f"{query.get('dockerfile', '')}|{query.get('t', '')}|{query.get('target', '')}",
    )  # fmt: skip
    return BuildRequest(
        options=options, tags=tags, pull=exchange.flag("pull"), squash=exchange.flag("squash"),
        outputs=_outputs(exchange), cache_from=_caches(exchange),
    )  # fmt: skip


def _limits(exchange: Exchange) -> Iterator[tuple[str, str]]:
    """A number 0 is what Docker's client sends where nothing is asked for; processor 0 is a processor."""
    for key, field in _NUMBERS.items():
        if number := exchange.number(key):
            yield field, str(number)
    for key, field in _TEXTS.items():
        if text := exchange.query.get(key, ""):
            yield field, text
    if ulimits := _json(exchange, "ulimits", list):
        yield "Ulimits", json.dumps(ulimits)


def _caches(exchange: Exchange) -> tuple[dict[str, str], ...]:
    """cachefrom: names of images, here or in a registry, that say of themselves which steps made them (--cache-to type=inline)."""
    found = _json(exchange, "cachefrom", list)
    if not all(isinstance(name, str) for name in found):
        raise errors.InvalidParameter("cachefrom is not a JSON list of strings")
    return tuple({"type": "registry", "ref": name, "store": "true"} for name in found)


def _outputs(exchange: Exchange) -> tuple[dict[str, str], ...]:
    """outputs: [{"Type", "Attrs"}]; the answer is messages, so that none can go to the client."""
    found: list[dict[str, str]] = []
    for each in _json(exchange, "outputs", list):
        kind, fields = (each.get("Type"), each.get("Attrs") or {}) if isinstance(each, dict) else (None, {})
        if not isinstance(kind, str) or not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
            raise errors.InvalidParameter('outputs is not a JSON list of {"Type": …, "Attrs": {…}}')
        given = {**fields, "type": kind}
        if outputs.parse(len(found), given).to_client:
            raise errors.NotImplementedHere(f"POST /build has no way for output type {kind} to reach the client: use `berth build`")
        found.append(given)
    return tuple(found)


def _json(exchange: Exchange, name: str, kind: type) -> Any:
    """A parameter of this type; an empty one where it is not given, or null."""
    text = exchange.query.get(name, "")
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        found = 0
    if found is not None and not isinstance(found, kind):
        raise errors.InvalidParameter(f"{name}: {text[:200]!r} is not a JSON {kind.__name__}")
    return kind() if found is None else found


def _map(exchange: Exchange, name: str) -> dict[str, str | None]:
    text = exchange.query.get(name, "")
    if not text:
        return {}
    try:
        found = json.loads(text)
        if found is None:
            return {}
        if isinstance(found, dict) and all(isinstance(value, (str, type(None))) for value in found.values()):
            return found
    except (ValueError, RecursionError):
        pass
    raise errors.InvalidParameter(f"{name}: {text[:200]!r} is not a JSON object of strings")
