"""Fetches a blob into a `Partial`: what is missing and nothing else, in several ranges at once where it is large."""

import threading
from collections.abc import Callable

from berth.errors import BerthError, Cancelled, DataLoss, Unavailable
from berth.registry.client.answer import Answer
from berth.registry.client.failures import RETRIED, RefusedAnswer, of_request
from berth.registry.client.faults import Interrupted
from berth.registry.client.session import Session, Waiting, retry_after_s
from berth.registry.client.settings import Endpoint
from berth.store.partial import Partial

_PIECE_BYTES = 1 << 20
_LEAST_PARALLEL_BYTES = 32 << 20
_MOST_RANGES = 4
# An attempt that brings less is one of those in vain, or a registry that sends a byte an answer would be asked for ever.
_LEAST_GAIN_BYTES = 64 << 10

Progress = Callable[[int], None]  # bytes that have arrived now
Span = tuple[int, int]


class Download:
    """One blob from one address. targets: paths or URLs to ask, in order, until one has it."""

    def __init__(
        self, session: Session, endpoint: Endpoint, targets: list[str], scope: str, partial: Partial, progress: Progress | None = None,
        waiting: Waiting | None = None,
    ) -> None:  # fmt: skip
        self._session = session
        self._endpoint = endpoint
        self._targets = targets
        self._scope = scope
        self._partial = partial
        self._progress = progress or (lambda count: None)
        self._waiting = waiting
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Until all is there. On failure what has come stays in the partial, whose readers are the caller's to tell."""
        spans = self._partial.missing()
        if len(spans) > 1 and sum(end - start for start, end in spans) >= _LEAST_PARALLEL_BYTES:
            self._side_by_side(spans)
        self._in_order()

    def _side_by_side(self, spans: list[Span]) -> None:
        """Every span, unless the registry turns out not to know ranges: then the rest is left for `_in_order`."""
        self._spans = spans[::-1]
        try:
            self._fetch(*self._spans.pop(), alone=True)
        except _NoRanges:
            return
        threads = [threading.Thread(target=self._work, name=f"blob-{index}") for index in range(min(_MOST_RANGES, len(self._spans)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failure, self._failure = self._failure, None
        if failure and not isinstance(failure, _NoRanges):
            raise failure

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._failure or not self._spans:
                    return
                span = self._spans.pop()
            try:
                self._fetch(*span, alone=False)
            except BaseException as error:
                with self._lock:
                    self._failure = self._failure or error
                return

    def _in_order(self) -> None:
        """Neighbours in one request."""
        while spans := merged(self._partial.missing()):
            try:
                self._fetch(*spans[0], alone=True)
            except _NoRanges:
                continue

    def _fetch(self, start: int, end: int, *, alone: bool) -> None:
        """Fetches [start, end), going on where an answer breaks off. _NoRanges where an answer has brought, or begins with, something else.

        alone: nobody else writes, so that an answer with the whole blob can be used for all that is missing.
        """
        attempt = 0
        while span := self._left(start, end):
            before = self._partial.present_bytes if alone else span[0]
            try:
                answer = self._ask(*span)
                if answer.status == 200 and span != (0, self._partial.size_bytes):
                    self._receive_whole(answer, alone)
                    raise _NoRanges
                self._receive(answer, span[0], [span])
            except _Broken as broken:
                gained = (self._partial.present_bytes if alone else (self._left(start, end) or (end, end))[0]) - before
                attempt = 0 if gained >= _LEAST_GAIN_BYTES else attempt + 1
                if attempt >= self._session.settings.attempts:
                    raise Unavailable(f"blob {self._partial.digest}: {broken} (tried {attempt} times)") from None
                self._session.pause(max(1, attempt), broken.wait_s, self._waiting)

    def _left(self, start: int, end: int) -> Span | None:
        """What is missing of [start, end), which was missing as a whole and is filled from its start."""
        at = self._partial.missing_from(start, end)
        return (at, end) if at < end else None

    def _ask(self, start: int, end: int) -> Answer:
        whole = start == 0 and end == self._partial.size_bytes
        headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        broken: _Broken | None = None
        failure: BerthError | None = None
        for target in self._targets:
            try:
                answer = self._session.once("GET", self._endpoint, target, scope=self._scope, headers=headers)
            except Interrupted as error:
                broken = _Broken(str(error), error.wait_s)
                continue
            except RefusedAnswer as refused:
                failure = of_request(refused.refusal)
                continue
            except Cancelled:
                raise
            except BerthError as error:  # nobody there, or no address to ask
                failure = error
                continue
            if answer.status in (200, 206):
                self._check_span(answer, start, end)
                return answer
            if answer.status in RETRIED:
                wait_s = retry_after_s(answer.header("Retry-After"))
                broken = _Broken(answer.refusal().words, wait_s)
                continue
            if answer.status == 416:
                raise self._other_size(answer, "less than was asked for")
            failure = of_request(answer.refusal())
        assert broken or failure
        raise broken or failure or AssertionError  # what may pass is asked for again, whoever else has refused

    def _check_span(self, answer: Answer, start: int, end: int) -> None:
        """A registry may send less than was asked, but not something else."""
        if answer.status == 200:
            if answer.length_bytes not in (None, self._partial.size_bytes):
                raise self._other_size(answer, f"{answer.length_bytes} bytes")
            return
        unit, _, rest = answer.header("Content-Range").partition(" ")
        span, _, total = rest.partition("/")
        if unit != "bytes" or span.partition("-")[0] != str(start) or total not in ("*", str(self._partial.size_bytes)):
            words = answer.header("Content-Range")[:100]
            answer.close()
            raise DataLoss(
                f"blob {self._partial.digest} has {self._partial.size_bytes} bytes by its manifest; asked for those from {start} to "
                f"{end - 1}, the registry answered with {words!r}"
            )  # fmt: skip

    def _other_size(self, answer: Answer, what: str) -> DataLoss:
        answer.close()
        return DataLoss(f"blob {self._partial.digest} has {self._partial.size_bytes} bytes by its manifest, and the registry has {what}")

    def _receive_whole(self, answer: Answer, alone: bool) -> None:
        """The registry ignored the range: of the whole blob, what is missing is kept."""
        if alone:
            self._receive(answer, 0, merged(self._partial.missing()))
        else:
            answer.close()

    def _receive(self, answer: Answer, at: int, spans: list[Span]) -> None:
        """The answer's body starts at `at` of the blob: what falls into `spans` is written."""
        view = memoryview(bytearray(_PIECE_BYTES))
        try:
            for start, end in spans:
                while at < end:
                    if self._failure:
                        raise Cancelled("another part of the blob could not be had")
                    count = answer.readinto(view[: min(_PIECE_BYTES, (start if at < start else end) - at)])
                    if not count:
                        raise _Broken(f"the answer ended {end - at} bytes early")
                    if at >= start:
                        self._partial.write(at, view[:count])
                        self._progress(count)
                    at += count
            self._drain(answer, view[:1])
        except Interrupted as error:
            raise _Broken(str(error), error.wait_s) from None
        except BaseException:
            answer.close()
            raise

    def _drain(self, answer: Answer, view: memoryview) -> None:
        """All that was asked for is here; where the answer's end is, too, the connection can be used again."""
        try:
            if answer.length_bytes in (None, 0) and not answer.readinto(view):
                return
        except Interrupted:
            pass
        answer.close()


def tell(partial: Partial, error: BaseException) -> None:
    """Readers of a partial whose download has failed for good get the error."""
    partial.fail(error if isinstance(error, BerthError | OSError) else Cancelled(f"the transfer was given up: {error}"))


def merged(spans: list[Span]) -> list[Span]:
    """Neighbours put together."""
    found: list[Span] = []
    for start, end in spans:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


class _Broken(Exception):
    """An answer broke off; what came before is in the partial."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _NoRanges(Exception):
    """The registry answers with the whole blob whatever part is asked for."""
