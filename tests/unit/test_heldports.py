"""Ports of a container that ends in the middle of a change: nothing of it is held, and nothing is led, afterwards."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from berth.engine.nets import heldports
from berth.engine.nets.heldports import HeldPorts
from berth.engine.nets.portmaps import Wish
from berth.errors import BerthError
from berth.network.model import PublishedPort

ANY = ip_address("0.0.0.0")


class Book:
    """Who is led and what is held; `at` is called in the middle of the N-th change of rules."""

    def __init__(self) -> None:
        self.led: set[PublishedPort] = set()
        self.held: set[int] = set()
        self.calls = 0
        self.end_at = 0
        self.ports: HeldPorts | None = None
        self.ending: asyncio.Task[None] | None = None

    async def publish(self, published: Sequence[PublishedPort], *, instead_of: Sequence[PublishedPort] = ()) -> None:
        self.calls += 1
        if self.calls == self.end_at:
            self.end()
        await asyncio.sleep(0)
        self.led = self.led - set(instead_of) | set(published)

    async def unpublish(self, published: Sequence[PublishedPort]) -> None:
        await self.publish((), instead_of=published)

    def end(self) -> None:
        assert self.ports
        found = self.ports.pop("c")
        assert found
        self.ending = asyncio.get_running_loop().create_task(self.ports.give_back(found))


class Socket:
    socket = None

    def __init__(self, book: Book, port: int) -> None:
        self.book, self.address, self.port = book, ANY, port
        book.held.add(port)

    def close(self) -> None:
        self.book.held.discard(self.port)


class Target:
    opened: tuple[Any, ...] = ()
    interface = "br"

    def of(self, address: Any) -> Any:
        return ip_address("10.0.0.2")


async def settled() -> None:
    pass


def wish(port: int) -> Wish:
    return Wish("tcp", 80, (ANY,), range(port, port + 1))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("end_at", [0, 1, 2, 3])
def test_it_ends_meanwhile(monkeypatch: pytest.MonkeyPatch, end_at: int, fails: bool) -> None:
    """end_at: 0 never, 1 while rules change, 2 in the commit, 3 while they are changed back."""
    book = Book()
    monkeypatch.setattr(heldports.hostports, "hold", lambda protocol, address, port: Socket(book, port))

    async def scenario() -> None:
        ports = book.ports = HeldPorts(book, settled)  # type: ignore[arg-type]
        await ports.hold("c", [wish(1), wish(2)], Target())  # type: ignore[arg-type]
        await ports.lead("c")
        book.calls, book.end_at = 0, 1 if end_at == 1 else 2 if fails and end_at == 3 else 0

        async def commit() -> None:
            if end_at == 2:
                book.end()
            await asyncio.sleep(0)
            if fails:
                raise BerthError("no")

        gone = [port for port in ports.of("c").published if port.host_port == 1]
        try:
            await ports.change("c", [wish(3)], gone, Target(), commit)  # type: ignore[arg-type]
            failed = False
        except BerthError:
            failed = True
        assert failed == (fails or end_at == 1)
        if book.ending:
            await book.ending
            assert (book.held, book.led) == (set(), set())
        else:
            have = {1, 2} if fails else {2, 3}
            assert (book.held, {port.host_port for port in book.led}) == (have, have)
            assert {port.host_port for port in ports.of("c").published} == have

    asyncio.run(scenario())
