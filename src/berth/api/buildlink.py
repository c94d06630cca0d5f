"""The engine's end of a build's connection: frames in and out, questions and their answers. The words are in build/wire.py."""

import asyncio
from collections import deque
from typing import Any

from berth import errors
from berth.build import progress, wire
from berth.build.progress import Event
from berth.http.body import Disconnected
from berth.http.exchange import Hijacked

_MOST_WAITING_BYTES = 4 << 20  # of one answer: reading from the client stops meanwhile
_MOST_EVENTS_BYTES = 16 << 20  # that a client has not read yet
_WRITE_BYTES = 256 << 10
_MOST_QUESTIONS = 256


class Question:
    """One that the client is asked, and its answer. Close it when no more of it is wanted."""

    def __init__(self, link: "Link", number: int, *, patient: bool) -> None:
        self._link = link
        self._number = number
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._error: errors.BerthError | None = None
        self.patient = patient  # whether the connection may wait for whoever reads this answer

    def close(self) -> None:
        """What still comes is thrown away."""
        self._link.forget(self._number)
        self.fail(errors.Cancelled("the answer is not wanted any more"))

    async def read(self) -> bytes:
        """The next bytes of the answer; b'' at its end. A BerthError where the client has none."""
        while not self._chunks:
            if self._error:
                raise self._error
            if self._ended:
                return b""
            self._ready.clear()
            await self._ready.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        self._room.set()
        return data

    async def read_all(self, most_bytes: int) -> bytes:
        """The whole answer; TooLarge for more than this."""
        parts, size = [], 0
        while data := await self.read():
            size += len(data)
            if size > most_bytes:
                raise errors.TooLarge(f"the client answers with more than {most_bytes} bytes")
            parts.append(data)
        return b"".join(parts)

    async def send(self, data: bytes) -> None:
        """Bytes to the client, for questions that go both ways; waits while it is behind."""
        for start in range(0, len(data), wire.DATA_BYTES):
            await self._link.write(wire.encode_data(self._number, data[start : start + wire.DATA_BYTES]))

    async def end(self) -> None:
        """No more bytes to the client."""
        await self._link.write(wire.encode(wire.END, {"question": self._number}))

    # -- the link's side --------------------------------------------------------------------------------

    async def feed(self, data: bytes) -> None:
        if not data or self._ended or self._error:
            return
        self._chunks.append(data)
        self._size += len(data)
        self._ready.set()
        while self._size > _MOST_WAITING_BYTES and not self._error:
            if not self.patient:
                self.fail(errors.Cancelled("nobody reads the answer"))
                return
            self._room.clear()
            await self._room.wait()

    def finish(self, error: str = "") -> None:
        if error:
            self.fail(errors.InvalidParameter(error))
        self._ended = True
        self._ready.set()

    def fail(self, error: errors.BerthError) -> None:
        self._error = self._error or error
        self._chunks.clear()
        self._size = 0
        self._ready.set()
        self._room.set()


class Link:
    """One connection. `run` reads it until the client has gone or wants no more."""

    def __init__(self, raw: Hijacked) -> None:
        self._raw = raw
        self._decoder = wire.Decoder()
        self._frames: deque[tuple[bytes, bytes]] = deque()
        self._questions: dict[int, Question] = {}
        self._asked = 0
        self._gone = False
        self._events: deque[bytes] = deque()
        self._events_bytes = 0
        self._clipped: set[int] = set()
        self._wake = asyncio.Event()

    # -- reading ----------------------------------------------------------------------------------------

    async def _next(self) -> tuple[bytes, bytes] | None:
        """The next frame; None once there is none any more. ValueError for what is no frame."""
        while not self._frames:
            data = await self._raw.read()
            if not data:
                return None
            self._frames += self._decoder.feed(data)
        return self._frames.popleft()

    async def request(self) -> dict[str, Any]:
        """The first frame. InvalidParameter for anything else."""
        try:
            frame = await self._next()
            if frame is None or frame[0] != wire.REQUEST:
                raise ValueError("the first message is no request")
            return wire.decode(frame[1])
        except ValueError as error:
            raise errors.InvalidParameter(f"berth build: {error}") from None

    async def run(self) -> None:
        """Returns when the client has gone, or asks for the end."""
        try:
            while (frame := await self._next()) is not None and frame[0] != wire.CANCEL:
                await self._take(*frame)
        except ValueError:
            pass  # somebody who does not know the words: as good as gone
        finally:
            self._gone = True
            for question in list(self._questions.values()):
                question.fail(errors.Cancelled("the client has gone"))

    async def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == wire.DATA:
            number, data = wire.decode_data(payload)
            if question := self._questions.get(number):
                await question.feed(data)
        elif kind == wire.END:
            value = wire.decode(payload)
            asked = value.get("question")
            if isinstance(asked, int) and (question := self._questions.get(asked)):
                question.finish(str(value.get("error") or ""))
        else:
            raise ValueError(f"a message of kind {kind!r}")

    # -- asking -----------------------------------------------------------------------------------------

    async def ask(self, what: str, *, patient: bool = True, **fields: Any) -> Question:
        """Asks the client; the answer is the caller's to close."""
        if self._gone:
            raise errors.Cancelled("the client has gone")
        if len(self._questions) >= _MOST_QUESTIONS:
            raise errors.Unavailable("too many questions to the client at once")
        self._asked += 1
        question = self._questions[self._asked] = Question(self, self._asked, patient=patient)
        try:
            await self.write(wire.encode(wire.QUESTION, {"question": self._asked, "ask": what, **fields}))
        except BaseException:
            question.close()
            raise
        return question

    def forget(self, number: int) -> None:
        self._questions.pop(number, None)

    async def write(self, frame: bytes) -> None:
        """One frame; Cancelled where nobody is there to read it."""
        try:
            await self._raw.write(frame)
        except Disconnected:
            raise errors.Cancelled("the client has gone") from None

    # -- events -----------------------------------------------------------------------------------------

    def report(self, event: Event) -> None:
        """Tells the client when it can read it. Of output that it does not read, some is left out."""
        if self._gone:
            return
        if event.kind == progress.LOG and self._events_bytes > _MOST_EVENTS_BYTES:
            if event.vertex in self._clipped:
                return
            self._clipped.add(event.vertex)
            event = Event(progress.LOG, event.vertex, event.at_ns, stream=event.stream, text="\n[output clipped: the client reads too slowly]\n")
        frame = wire.encode(wire.EVENT, event.as_json())
        self._events.append(frame)
        self._events_bytes += len(frame)
        self._wake.set()

    async def send_events(self) -> None:
        """Until cancelled; `flush` sends the last ones."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        while self._events:
            parts, size = [], 0
            while self._events and size < _WRITE_BYTES:
                parts.append(self._events.popleft())
                size += len(parts[-1])
            self._events_bytes -= size
            await self.write(b"".join(parts))
        self._clipped.clear()
