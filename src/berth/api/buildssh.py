"""`RUN --mount=type=ssh`: a socket in the step whose connections are carried to the client's agent."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from berth import errors
from berth.api.buildlink import Link, Question

_READ_BYTES = 64 << 10
_BACKLOG = 16
_MOST_CONNECTIONS = 32


class Agents:
    """Of one build. new_scratch: makes a directory in memory."""

    def __init__(self, link: Link, new_scratch: Callable[[], str]) -> None:
        self._link = link
        self._new_scratch = new_scratch
        self._directory = ""
        self._servers: dict[tuple[str, int, int, int], asyncio.Task[tuple[asyncio.Server, str]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def socket(self, identity: str, uid: int, gid: int, mode: int) -> str:
        """The path of a socket with this owner, behind which is the client's agent of this name."""
        key = (identity, uid, gid, mode)
        if key not in self._servers:  # steps that run side by side share it
            self._directory = self._directory or self._new_scratch()
            path = f"{self._directory}/agent-{len(self._servers)}"
            self._servers[key] = asyncio.ensure_future(self._serve(identity, path, uid, gid, mode))
        return (await asyncio.shield(self._servers[key]))[1]

    async def _serve(self, identity: str, path: str, uid: int, gid: int, mode: int) -> tuple[asyncio.Server, str]:
        listening = _listening(path, uid, gid, mode)
        server = await asyncio.start_unix_server(lambda reader, writer: self._accept(identity, reader, writer), sock=listening, backlog=_BACKLOG)
        return server, path

    async def close(self) -> None:
        for started in await asyncio.gather(*self._servers.values(), return_exceptions=True):
            if isinstance(started, tuple):
                started[0].close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, identity: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= _MOST_CONNECTIONS:
            writer.close()
            return
        task = asyncio.ensure_future(self._carry(identity, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, identity: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends. The agent's words are not looked at: who may use it is the person's affair."""
        try:
            question = await self._link.ask("ssh", patient=False, id=identity)
        except errors.BerthError:
            writer.close()
            return
        to_client = asyncio.ensure_future(_to_client(reader, question))
        try:
            with contextlib.suppress(errors.BerthError, ConnectionError):
                while data := await question.read():
                    writer.write(data)
                    await writer.drain()
        finally:
            to_client.cancel()
            await asyncio.gather(to_client, return_exceptions=True)
            question.close()
            writer.close()


async def _to_client(reader: asyncio.StreamReader, question: Question) -> None:
    with contextlib.suppress(errors.BerthError, ConnectionError):
        while data := await reader.read(_READ_BYTES):
            await question.send(data)
        await question.end()


def _listening(path: str, uid: int, gid: int, mode: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    except BaseException:
        listening.close()
        raise
    return listening
