"""Fetches a blob into a `Partial`: what is missing and nothing else, in several ranges at once where it is large."""

import threading
from collections.abc import Callable

from berth.errors import BerthError, Cancelled, DataLoss, Unavailable
from berth.registry.client.failures import RETRIED, of_request
from berth.registry.client.session import Answer, Interrupted, RefusedAnswer, Session
from berth.registry.client.settings import Endpoint
from berth.store.partial import Partial

_PIECE_BYTES = 1 << 20
_LEAST_PARALLEL_BYTES = 32 << 20
_MOST_RANGES = 4

Progress = Callable[[int], None]  # bytes that have arrived now


class Download:
    """One blob from one address. targets: paths or URLs to ask, in order, until one has it."""

    def __init__(
        self, session: Session, endpoint: Endpoint, targets: list[str], scope: str, partial: Partial, progress: Progress | None = None
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._targets = targets
        self._scope = scope
        self._partial = partial
        self._progress = progress or (lambda count: None)
        self._lock = threading.Lock()
        self._spans: list[tuple[int, int]] = []
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Until all is there; on failure the partial's readers get the error too."""
        try:
            self._run()
        except BaseException as error:
            self._partial.fail(error if isinstance(error, BerthError) else Cancelled(f"the transfer was given up: {error}"))
            raise

    def _run(self) -> None:
        spans = self._partial.missing()
        if not spans:
            return
        left = sum(end - start for start, end in spans)
        workers = min(_MOST_RANGES, len(spans)) if left >= _LEAST_PARALLEL_BYTES else 1
        if workers == 1:
            self._sequence(spans)
            return
        self._spans = spans[::-1]
        first = self._spans.pop()
        if not self._span(*first, ranges_only=True):
            return  # the registry knows no ranges; the whole has come in one answer
        threads = [threading.Thread(target=self._work, name=f"blob-{index}") for index in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure:
            raise self._failure

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._failure or not self._spans:
                    return
                start, end = self._spans.pop()
            try:
                self._span(start, end, ranges_only=False)
            except BaseException as error:
                with self._lock:
                    self._failure = self._failure or error
                self._partial.fail(error if isinstance(error, BerthError) else Unavailable(str(error)))
                return

    def _sequence(self, spans: list[tuple[int, int]]) -> None:
        """Neighbours in one request."""
        merged: list[tuple[int, int]] = []
        for start, end in spans:
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        for start, end in merged:
            if not self._span(start, end, ranges_only=False):
                return

    def _span(self, start: int, end: int, *, ranges_only: bool) -> bool:
        """Fetches [start, end), going on where an answer breaks off. False if one answer has brought all the rest of the blob."""
        attempt = 0
        while start < end:
            attempt += 1
            before = start
            try:
                answer = self._ask(start, end)
                whole = answer.status == 200 and not (start == 0 and end == self._partial.size_bytes)
                start = self._receive(answer, start, self._partial.size_bytes if whole else end, skip=start if answer.status == 200 else 0)
                if whole:
                    return False
            except _Broken as broken:
                start = broken.reached
                attempt = 0 if start > before else attempt  # it gets on
                if attempt >= self._session.settings.attempts:
                    raise Unavailable(f"blob {self._partial.digest}: {broken} (tried {attempt} times)") from None
                self._session.pause(max(1, attempt), broken.wait_s)
        return True

    def _ask(self, start: int, end: int) -> Answer:
        whole = start == 0 and end == self._partial.size_bytes
        headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        answer: Answer | None = None
        for index, target in enumerate(self._targets):
            try:
                answer = self._session.once("GET", self._endpoint, target, scope=self._scope, headers=headers)
            except Interrupted as error:
                raise _Broken(str(error), start, error.wait_s) from None
            except RefusedAnswer as refused:
                raise of_request(refused.refusal) from None
            if answer.status in (200, 206):
                break
            if answer.status in RETRIED:
                answer.finish()
                raise _Broken(f"status {answer.status}", start)
            found = answer.refusal()
            if index + 1 == len(self._targets):
                raise of_request(found)
        assert answer is not None
        if answer.status == 206:
            self._check_range(answer, start, end)
        return answer

    def _check_range(self, answer: Answer, start: int, end: int) -> None:
        """A registry may send less than was asked, but not something else."""
        unit, _, rest = answer.header("Content-Range").partition(" ")
        span, _, total = rest.partition("/")
        if unit != "bytes" or span.partition("-")[0] != str(start) or total not in ("*", str(self._partial.size_bytes)):
            answer.close()
            raise DataLoss(
                f"blob {self._partial.digest} has {self._partial.size_bytes} bytes by its manifest; asked for those from {start} to "
                f"{end - 1}, the registry answered with {answer.header('Content-Range')[:100]!r}"
            )  # fmt: skip

    def _receive(self, answer: Answer, start: int, end: int, skip: int) -> int:
        """Writes the answer's body from `start`, the first `skip` bytes of it left out, until `end` or its own end."""
        view = memoryview(bytearray(_PIECE_BYTES))
        while start < end or skip:
            try:
                count = answer.readinto(view[: min(_PIECE_BYTES, skip or end - start)])
            except Interrupted as error:
                raise _Broken(str(error), start, error.wait_s) from None
            if not count:
                raise _Broken(f"the answer ended {end - start} bytes early", start)
            if skip:
                skip -= count
                continue
            self._partial.write(start, view[:count])
            start += count
            self._progress(count)
        try:
            if answer.readinto(view[:1]):
                answer.close()
        except Interrupted:
            pass  # all that was asked for is here
        return start


class _Broken(Exception):
    """An answer broke off; what is before `reached` is here."""

    def __init__(self, why: str, reached: int, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.reached = reached
        self.wait_s = wait_s
