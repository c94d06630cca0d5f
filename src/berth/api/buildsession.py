"""POST /berth/build: the builds of berth's own command line, over one connection. The words are in build/wire.py."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

from berth import errors
from berth.api import buildwords
from berth.api.build import archive_key, pull, receive_remote
from berth.api.buildlink import Link
from berth.api.buildssh import Agents
from berth.api.buildwords import Words
from berth.api.threads import in_thread_with_body, out_of_thread
from berth.build import listing, planning, progress, wire
from berth.build.dockerfile.errors import DockerfileError
from berth.build.files import context as contexts
from berth.build.files import git
from berth.build.files.ignore import Ignore
from berth.build.files.reading import read_file
from berth.build.progress import Event
from berth.build.provenance import Origin
from berth.build.worker import Output, Tree
from berth.engine import registryauth
from berth.engine.builds import repositories
from berth.engine.builds.mirrors import Mirror, key_of
from berth.engine.builds.request import CACHE_CONTEXT, T
from berth.engine.service import Engine
from berth.engine.tasks import stoppable, to_its_end, whole
from berth.http.exchange import Exchange
from berth.models.jsonlite import loads
from berth.models.units import human_size
from berth.oci.reference import Reference
from berth.registry.client.challenge import Credentials

log = logging.getLogger("berth.api")

_REQUEST_TIMEOUT_S = 60.0
_MOST_LISTING_BYTES = 512 << 20
_MOST_SECRET_BYTES = 1 << 20
_MOST_AUTH_BYTES = 64 << 10
_LINES_BEFORE, _LINES_AFTER = 3, 2
_TOLD_EVERY_S = 1.0


class BuildSessions:
    """One handler."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def session(self, exchange: Exchange) -> None:
        if exchange.headers.get("upgrade", "").lower() != wire.UPGRADE:
            raise errors.InvalidParameter(f"/berth/build speaks {wire.UPGRADE}: ask for it with the header Upgrade")
        head = f"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {wire.UPGRADE}\r\n\r\n"
        raw = exchange.hijack("", head=head)
        link = Link(raw)
        async with contextlib.AsyncExitStack() as leaving:  # what the client need not wait for
            leaving.callback(raw.close)
            result = await self._served(link, leaving)
            with contextlib.suppress(errors.Cancelled):
                await link.write(wire.encode(wire.RESULT, result))

    async def _served(self, link: Link, leaving: contextlib.AsyncExitStack) -> dict[str, Any]:
        """The result for the client. leaving: gets what is to be done once it has that."""
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                words = Words(await link.request())
        except TimeoutError:
            return _failure(errors.InvalidParameter(f"the request did not come within {_REQUEST_TIMEOUT_S:.0f} s"))
        except errors.BerthError as error:
            return _failure(error)
        reading, sending = asyncio.ensure_future(link.run()), asyncio.ensure_future(link.send_events())
        client = SessionClient(self._engine, link, words)
        leaving.push_async_callback(lambda: whole(self._engine.builds.let_go(client)))
        work = asyncio.ensure_future(client.build())
        try:
            await asyncio.wait({work, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()  # the client has gone, or wants no more
            result = await _outcome(work, client)
            with contextlib.suppress(errors.Cancelled):
                await link.flush()
            return result
        finally:
            work.cancel()
            await asyncio.wait({work})
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)


async def _outcome(work: "asyncio.Task[dict[str, Any]]", client: "SessionClient") -> dict[str, Any]:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if not work.cancelled():
            raise
        return _failure(errors.Cancelled("the build was cancelled"))
    except errors.BerthError as error:
        return {**_failure(error), **client.place_of(error)}
    except Exception as error:
        log.exception("a build failed")
        return _failure(errors.SystemFailure(f"a mistake in the engine: {type(error).__name__}: {error}"))


def _failure(error: errors.BerthError) -> dict[str, Any]:
    return {"error": str(error), "kind": type(error).__name__, "exit_code": getattr(error, "exit_code", 0)}


class SessionClient:
    """The build's client (engine/builds/request.py), who is asked over the connection. Close it when the build has ended."""

    def __init__(self, engine: Engine, link: Link, words: Words) -> None:
        self._engine = engine
        self._link = link
        self._words = words
        self._mirrors: list[Mirror] = []
        self._received: asyncio.Task[str] | None = None
        self._origin: Origin | None = None
        self._dockerfile = b""
        self._directories: list[str] = []
        self._agents = Agents(link, self._new_scratch)
        self._credentials: dict[str, asyncio.Task[Credentials]] = {}
        self._layouts: dict[str, asyncio.Lock] = {}  # a list and the files of it are two questions
        self._lines: dict[int, int] = {}  # vertex -> line of the Dockerfile
        self._failed_line = 0

    # -- the build --------------------------------------------------------------------------------------

    async def build(self) -> dict[str, Any]:
        """What the client is told at the end."""
        request = self._words.build_request()
        if self._words.call != "build":
            from berth.api.buildcalls import call

            data, name = await self.dockerfile()
            return {"called": await asyncio.to_thread(call, self._words.call, data, name, request.options, self._words.call_format)}
        built = await self._engine.builds.build(request, self, self._report)
        return {"image": built.image, "metadata": dict(built.metadata)}

    def _report(self, event: Event) -> None:
        if event.kind == progress.PLANNED:
            self._lines[event.vertex] = event.line
        elif event.kind == progress.FAILED:
            self._failed_line = self._failed_line or self._lines.get(event.vertex, 0)
        self._link.report(event)

    def place_of(self, error: errors.BerthError) -> dict[str, Any]:
        """The lines of the Dockerfile that failed; {} where the error shows them itself, or is about none."""
        if not self._failed_line or isinstance(error, DockerfileError):
            return {}
        return {"source": excerpt(self._dockerfile, self._words.dockerfile_name, self._failed_line)}

    async def close(self) -> None:
        """Nothing may be under way any more."""
        await self._agents.close()
        if self._received and not self._received.done():
            self._received.cancel()
            await asyncio.wait({self._received})
        for mirror in self._mirrors:
            self._engine.builds.contexts.give_back(mirror)
        for directory in self._directories:
            await asyncio.to_thread(self._engine.builds.remove_directory, directory)
        if self._mirrors:
            await asyncio.to_thread(self._engine.builds.contexts.trim)

    def _new_scratch(self) -> str:
        self._directories.append(self._engine.builds.new_scratch())
        return self._directories[-1]

    # -- files ------------------------------------------------------------------------------------------

    async def dockerfile(self) -> tuple[bytes, str]:
        if not self._dockerfile:
            self._dockerfile = await self._read_dockerfile() if self._words.dockerfile is None else self._words.dockerfile
        return self._dockerfile, self._words.dockerfile_name

    async def _read_dockerfile(self) -> bytes:
        if self._words.dockerfile_url:
            return await self._fetched_dockerfile(self._words.dockerfile_url)
        self._words.dockerfile_name = name = self._words.file
        fd = os.open(await self._archive(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            data = read_file(fd, name)
            if data is None and name == "Dockerfile":
                data = read_file(fd, name.lower())
        finally:
            os.close(fd)
        if data is None:
            raise errors.InvalidParameter(f"the build context has no {name}: name its Dockerfile with --file")
        return data

    async def _fetched_dockerfile(self, url: str) -> bytes:
        """One from the web, for a context that is somewhere else."""
        self._directories.append(self._engine.builds.new_directory())
        into = self._directories[-1]
        return await stoppable(lambda stop: contexts.dockerfile_from_url(url, into, environment=self.proxies(), stop=stop))

    async def context(self, name: str, paths: tuple[str, ...] | None, into: str, output: Output) -> Tree:
        given = self._words.contexts.get(name, {}) if name else self._words.context
        kind = buildwords.LOCAL if name.startswith(CACHE_CONTEXT) else given.get("kind")
        if kind == buildwords.LOCAL:
            return await self._local(name, str(given.get("name")), paths, output)
        if kind == buildwords.NONE and not name:
            return Tree(os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), into, "context:empty")
        if kind == buildwords.OTHER:
            await self._fetch(str(given.get("url")), into)
            return Tree(os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), into)
        if kind in (buildwords.TAR, buildwords.REMOTE) and not name:
            path = await self._archive()
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            text = read_file(fd, f"{self._words.file}.dockerignore")
            text = read_file(fd, ".dockerignore") if text is None else text
            return Tree(fd, path, "", Ignore.parse(text) if text else None)
        raise errors.NotFound(f"there is no build context {name!r}")

    async def _archive(self) -> str:
        """The directory of a context that comes as a whole; it is fetched once."""
        if self._received is None:
            self._received = asyncio.ensure_future(self._receive())
        return await asyncio.shield(self._received)

    async def _receive(self) -> str:
        if self._words.context.get("kind") == buildwords.REMOTE:
            self._directories.append(self._engine.builds.new_directory())
            into = self._directories[-1]
            url = str(self._words.context.get("url"))
            self._origin = Origin(url, await self._fetch(url, into), dockerfile=not (self._words.dockerfile_url or self._words.dockerfile))
            return into
        mirror = self._take_mirror(archive_key(self._words.file, self._words.build_request()))
        question = await self._link.ask("tar")
        try:
            stop = threading.Event()
            await in_thread_with_body(question, lambda stream: mirror.unpack(stream, stop), stop)
        finally:
            question.close()
        return mirror.files

    def _take_mirror(self, key: str) -> Mirror:
        mirror = self._engine.builds.contexts.take(key)
        self._mirrors.append(mirror)
        return mirror

    async def _fetch(self, url: str, into: str) -> str:
        access = await repositories.access(self, url) if git.is_repository(url, context=True) else None
        return await stoppable(lambda stop: receive_remote(url, into, self.proxies(), stop, access))

    async def _local(self, name: str, called: str, paths: tuple[str, ...] | None, output: Output) -> Tree:
        """A directory of the client's: only what its mirror does not have is sent."""
        # Who may speak to the engine may do anything: mirrors are told apart by name, not by who asks.
        key = key_of(called, name, self._words.dockerfile_name, self._words.build_request().options.target)
        mirror = self._take_mirror(key)
        question = await self._link.ask("list", context=name, patterns=paths)
        try:
            told = await question.read_all(_MOST_LISTING_BYTES)
        finally:
            question.close()
        numbers = await to_its_end(lambda: mirror.compare(told))
        if numbers:
            await self._files(name, mirror, numbers, output)
        await to_its_end(mirror.finish)
        return Tree(os.dup(mirror.fd), mirror.files, mirror.identity)

    async def _files(self, name: str, mirror: Mirror, numbers: list[int], output: Output) -> None:
        question = await self._link.ask("files", context=name, numbers=ranges(numbers))
        counted = _Counted(question.read, len(numbers), output)
        try:
            await in_thread_with_body(counted, mirror.receive)
        finally:
            question.close()
        counted.tell()

    async def layout_file(self, name: str, path: str, read: Callable[[IO[bytes]], T]) -> T:
        if self._words.contexts.get(name, {}).get("kind") != buildwords.LAYOUT:
            raise errors.NotFound(f"there is no OCI layout {name!r}")
        async with self._layouts.setdefault(name, asyncio.Lock()):
            question = await self._link.ask("list", context=name, patterns=[path])
            try:
                number = _number_in(await question.read_all(_MOST_LISTING_BYTES), path)
            finally:
                question.close()
            question = await self._link.ask("files", context=name, numbers=[[number, number]])
            try:
                return await in_thread_with_body(question, lambda stream: read(_OneFile(stream, path)))  # type: ignore[arg-type]
            finally:
                question.close()

    # -- what is asked for one by one --------------------------------------------------------------------

    def origin(self) -> Origin | None:
        return self._origin

    async def secret(self, identity: str) -> bytes | None:
        if identity not in self._words.secrets:
            return None
        question = await self._link.ask("secret", id=identity)
        try:
            return await question.read_all(_MOST_SECRET_BYTES)
        finally:
            question.close()

    async def ssh_socket(self, identity: str, uid: int, gid: int, mode: int) -> str | None:
        return await self._agents.socket(identity, uid, gid, mode) if identity in self._words.ssh else None

    async def pull(self, name: Reference, platform: str, tell: Callable[[str], None]) -> None:
        await pull(self._engine, name, platform, await self.credentials(name.registry), tell)

    async def credentials(self, registry: str) -> Credentials:
        """The client's login at a registry, asked for once."""
        if registry not in self._credentials:
            self._credentials[registry] = asyncio.ensure_future(self._ask_credentials(registry))
        return await asyncio.shield(self._credentials[registry])

    async def _ask_credentials(self, registry: str) -> Credentials:
        question = await self._link.ask("auth", registry=registry)
        try:
            answer = await question.read_all(_MOST_AUTH_BYTES)
        finally:
            question.close()
        try:
            return registryauth.credentials_from(loads(answer.decode()))
        except ValueError:
            raise errors.InvalidParameter(f"the client's login at {registry} is no JSON") from None

    def proxies(self) -> Mapping[str, str]:
        return self._engine.options.proxies()

    async def output(self, number: int, write: Callable[[IO[bytes]], None]) -> None:
        question = await self._link.ask("output", number=number)
        try:
            await out_of_thread(question.send, write)
            await question.end()
            await question.read_all(0)  # it has written all
        finally:
            question.close()


def _number_in(told: bytes, path: str) -> int:
    """The number of a file in a listing. NotFound."""
    for number, line in enumerate(told.split(b"\n")):
        try:
            if line and (entry := listing.parse(line)).path == path:
                if entry.is_file:
                    return number
                raise errors.InvalidParameter(f"{path} is a link or a directory: expected a file")
        except ValueError as error:
            raise errors.InvalidParameter(f"the client's list: {error}") from None
    raise errors.NotFound(f"it has no {path}")


class _OneFile:
    """The content of the one file that was asked for. DataLoss where it ends too early."""

    def __init__(self, stream: IO[bytes], path: str) -> None:
        self._stream = stream
        self._path = path
        head = stream.read(wire.FILE_HEAD.size)
        if len(head) < wire.FILE_HEAD.size:
            raise errors.DataLoss(f"the client ended before it had sent {path}")
        self._left: int = wire.FILE_HEAD.unpack(head)[2]

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        if not data and self._left and size:
            raise errors.DataLoss(f"the client ended {self._left} bytes before the end of {self._path}")
        self._left -= len(data)
        return data


class _Counted:
    """An answer on its way, of which the person is told."""

    def __init__(self, read: Callable[[], Any], files: int, output: Output) -> None:
        self._read = read
        self._files = files
        self._output = output
        self._size = 0
        self._told_s = asyncio.get_running_loop().time()

    async def read(self) -> bytes:
        data: bytes = await self._read()
        self._size += len(data)
        now = asyncio.get_running_loop().time()
        if now - self._told_s >= _TOLD_EVERY_S:
            self._told_s = now
            self.tell()
        return data

    def tell(self) -> None:
        files = f"{self._files} file{'s' if self._files != 1 else ''}"
        self._output(1, f"transferring context: {human_size(self._size)} of {files}\n".encode())


def ranges(numbers: list[int]) -> list[list[int]]:
    """[[first, last], …] of rising numbers: thousands of files next to each other are asked for in a few bytes. Pure."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def excerpt(dockerfile: bytes, name: str, line: int) -> dict[str, Any]:
    """The lines around an instruction that begins at `line`, and which of them it has."""
    end = line
    with contextlib.suppress(errors.BerthError):
        found = planning.read(dockerfile, name)
        places = [each.place for stage in found.stages for each in (stage.base, *stage.instructions)]
        end = max((place.end_line for place in places if place.line == line), default=line)
    lines = dockerfile.decode(errors="replace").splitlines()
    first = max(1, line - _LINES_BEFORE)
    return {"name": name, "first": first, "start": line, "end": end, "lines": lines[first - 1 : end + _LINES_AFTER]}
