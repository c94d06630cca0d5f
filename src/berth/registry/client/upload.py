"""Sends a blob: not at all where it is there, mounted where another repository has it, else as a stream that resumes."""

import hashlib
import logging
from collections.abc import Callable
from typing import IO, Protocol
from urllib.parse import quote, urlsplit

from berth.errors import BerthError, Cancelled, DataLoss, Forbidden, InvalidParameter, NotFound, Unauthorized, Unavailable
from berth.registry.client.answer import Answer
from berth.registry.client.failures import RETRIED, RefusedAnswer, of_request
from berth.registry.client.faults import Interrupted
from berth.registry.client.session import Session, Waiting, retry_after_s
from berth.registry.client.settings import Endpoint

log = logging.getLogger("berth.registry")

# Of an upload: the registry has forgotten it, counts otherwise, or (Distribution 2) saw its request end too early.
_LOST = (404, 416, 499)
_GOES_ON = (Cancelled, Unavailable, Unauthorized, Forbidden)  # after these another push may do better
_SKIP_BYTES = 1 << 20
_LEAST_GAIN_BYTES = 64 << 10  # an attempt that leaves less there is one of those in vain

Progress = Callable[[int], None]
Source = Callable[[int], IO[bytes]]  # the blob from an offset on; the same bytes each time


class Memory(Protocol):
    """What outlives a push that is cut off: where the registry keeps what it has, and the whole blob's digest once that is known."""

    @property
    def location(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    def note(self, location: str, digest: str = "", size_bytes: int = 0) -> None: ...
    def forget(self) -> None: ...


class Upload:
    """Of one blob into `repository`. source: called again, with the offset reached, after a cut; memory: of earlier pushes of it."""

    def __init__(
        self, session: Session, endpoint: Endpoint, repository: str, scope: str, source: Source, progress: Progress | None = None,
        memory: Memory | None = None, waiting: Waiting | None = None,
    ) -> None:  # fmt: skip
        self._session = session
        self._endpoint = endpoint
        self._path = f"/v2/{repository}/blobs/uploads/"
        self._scope = scope
        self._source = source
        self._progress = progress or (lambda count: None)
        self._memory = memory
        self._waiting = waiting

    def run(self, *, digest: str = "", size_bytes: int | None = None, mount_from: str = "") -> tuple[str, int, bool]:
        """-> digest, size, whether it was mounted. digest '': it is not known before the bytes are read."""
        if self._memory and self._memory.location and (found := self._go_on(self._memory, digest, size_bytes)):
            return found
        answer = self._start(digest, mount_from)
        if answer.status == 201:
            answer.finish()
            return digest, size_bytes or 0, True
        location = self._location(answer)
        answer.finish()
        self._note(location)
        return self._send(location, _Body(self._source, self._progress), digest, size_bytes)

    def _go_on(self, memory: Memory, digest: str, size_bytes: int | None) -> tuple[str, int, bool] | None:
        """With what an earlier push has sent. None where the registry knows nothing of it any more, or has something else."""
        if memory.digest:
            digest, size_bytes = memory.digest, memory.size_bytes
            if self._is_there(digest, size_bytes):
                return digest, size_bytes, False
        try:
            reached = self._reached(memory.location)
        except Cancelled:
            raise
        except BerthError as error:
            log.info("what was uploaded to %s cannot be gone on with: %s", self._session.registry, error)
            reached = None
        body = _Body(self._source, self._progress)
        try:
            if reached and body.skip(reached[1]):
                return self._send(reached[0], body, digest, size_bytes)
        except (DataLoss, InvalidParameter, NotFound) as error:  # other bytes, by an older compressor, or the upload is gone
            log.info("upload to %s begins anew: %s", self._session.registry, error)
        finally:
            body.close()
        return None

    def _note(self, location: str, digest: str = "", size_bytes: int = 0) -> None:
        if self._memory:
            self._memory.note(location, digest, size_bytes)

    def mount(self, digest: str, other: str) -> bool:
        """Only that; an upload that the registry starts instead is given up."""
        answer = self._start(digest, other)
        mounted = answer.status == 201
        location = "" if mounted else self._location(answer)
        answer.finish()
        if location:
            self._abandon(location)
        return mounted

    def _start(self, digest: str, mount_from: str) -> Answer:
        if digest and mount_from:
            target = f"{self._path}?mount={quote(digest, safe=':')}&from={quote(mount_from, safe='')}"
            try:
                answer = self._session.request("POST", self._endpoint, target, scope=f"{self._scope} repository:{mount_from}:pull")
                if answer.status in (201, 202):
                    return answer
                answer.finish()
            except RefusedAnswer:
                pass  # no right to the other repository is no reason not to send
        answer = self._request("POST", self._path, self._scope)
        if answer.status not in (201, 202):
            raise of_request(answer.refusal())
        if answer.status == 201:
            answer.close()
            raise Unavailable(f"the registry {self._session.registry} says a blob is there that nobody has sent")
        return answer

    def _request(self, method: str, target: str, scope: str) -> Answer:
        try:
            return self._session.request(method, self._endpoint, target, scope=scope)
        except RefusedAnswer as refused:
            raise of_request(refused.refusal) from None

    def _location(self, answer: Answer) -> str:
        location = answer.header("Location")
        if not location:
            answer.close()
            raise Unavailable(f"the registry {self._session.registry} started an upload without saying where")
        try:
            return self._session.absolute(self._endpoint, location)
        except BerthError:
            answer.close()
            raise

    def _send(self, location: str, body: "_Body", digest: str, size_bytes: int | None) -> tuple[str, int, bool]:
        attempt, kept = 0, body.reached
        start, answered = kept, -1
        try:
            while size_bytes is None or body.reached < size_bytes:
                try:
                    location = self._patch(location, body, size_bytes)
                    self._note(location)
                    break
                except Interrupted as broken:
                    attempt += 1
                    if attempt >= self._session.settings.attempts:
                        if self._memory and answered == start:  # the registry knows the upload, but takes no more of it
                            self._memory.forget()
                        raise Unavailable(f"upload to {self._session.registry}: {broken} (tried {attempt} times)") from None
                    self._session.pause(attempt, broken.wait_s, self._waiting)
                    location = self._resume(location, body)
                    answered = body.reached
                    if body.reached >= kept + _LEAST_GAIN_BYTES:  # by what the registry says, not by what was sent
                        attempt, kept = 0, body.reached
            have = body.digest
            if digest and have != digest:
                raise DataLoss(f"blob {digest} on disk has digest {have}; load or pull the image again")
            self._note(location, have, body.reached)
            self._finish(location, have, body.reached)
            return have, body.reached, False
        except BaseException as error:
            if not (self._memory and self._memory.location and isinstance(error, _GOES_ON)):
                self._abandon(location)
            raise
        finally:
            body.close()

    def _patch(self, location: str, body: "_Body", size_bytes: int | None) -> str:
        headers = {"Content-Type": "application/octet-stream"}
        start = body.reached
        if size_bytes is not None:
            headers["Content-Range"] = f"{start}-{size_bytes - 1}"
        left = None if size_bytes is None else size_bytes - start
        try:
            answer = self._session.once("PATCH", self._endpoint, location, scope=self._scope, headers=headers, body=body, size_bytes=left)
        except RefusedAnswer as refused:
            raise of_request(refused.refusal) from None
        if answer.status in (*RETRIED, *_LOST):
            wait_s = retry_after_s(answer.header("Retry-After"))
            raise Interrupted(answer.refusal().words, wait_s)
        if answer.status not in (202, 204, 201):
            raise of_request(answer.refusal())
        location = self._location(answer)
        answer.finish()
        return location

    def _resume(self, location: str, body: "_Body") -> str:
        """Takes the source up where the registry has got."""
        reached = self._reached(location)
        if reached:
            location = reached[0]
        else:
            answer = self._start("", "")
            location = self._location(answer)
            answer.finish()
        body.restart(reached[1] if reached else 0)
        self._note(location)
        return location

    def _reached(self, location: str) -> tuple[str, int] | None:
        """Asks the registry how far it has got -> where to go on, and at which byte; None if it knows nothing of it."""
        answer = self._request("GET", location, self._scope)
        if answer.status in (400, *_LOST):  # Distribution 2 says 400 of an upload that was cut in the middle of a request
            answer.finish()
            return None
        if answer.status not in (202, 204):
            raise of_request(answer.refusal())
        end = answer.header("Range").rpartition("-")[2]
        location = self._location(answer) if answer.header("Location") else location
        answer.finish()
        reached = int(end) + 1 if end.isascii() and end.isdigit() and len(end) < 19 else 0
        return location, 0 if reached == 1 else reached  # `0-0` is how registries say that nothing has come

    def _finish(self, location: str, digest: str, size_bytes: int) -> None:
        joint = "&" if urlsplit(location).query else "?"
        target = f"{location}{joint}digest={quote(digest, safe='')}"
        try:
            answer = self._session.request("PUT", self._endpoint, target, scope=self._scope, slow=True)
        except RefusedAnswer as refused:
            raise of_request(refused.refusal) from None
        if answer.status in (201, 202, 204):
            answer.finish()
            return
        refusal = answer.refusal()
        if answer.status == 404 and self._is_there(digest, size_bytes):
            return  # the answer to an earlier attempt was lost
        raise of_request(refusal)

    def _is_there(self, digest: str, size_bytes: int) -> bool:
        answer = self._request("HEAD", f"{self._path.removesuffix('uploads/')}{digest}", self._scope)
        answer.finish()
        return answer.status == 200 and answer.header("Content-Length") == str(size_bytes)

    def _abandon(self, location: str) -> None:
        """Best effort: registries clean up by themselves, later."""
        if self._memory:
            self._memory.forget()
        try:
            self._session.once("DELETE", self._endpoint, location, scope=self._scope).finish()
        except (BerthError, Interrupted, RefusedAnswer, OSError):
            pass


class _Body:
    """The source as a body to send, hashed from its first byte however often it is taken up again."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self._stream: IO[bytes] | None = None
        self._hasher = hashlib.sha256()
        self._hashed = 0
        self.reached = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hasher.hexdigest()}"

    def read(self, size: int, /) -> bytes:
        if self._stream is None:
            self._stream = self._source(self.reached)
        data = self._stream.read(size)
        fresh = self.reached + len(data) - self._hashed
        if fresh > 0:
            self._hasher.update(data[len(data) - fresh :])
            self._hashed += fresh
            self._progress(fresh)
        self.reached += len(data)
        return data

    def skip(self, offset: int) -> bool:
        """Reads, and hashes, what need not be sent; False where the blob is shorter."""
        while self.reached < offset:
            if not self.read(min(_SKIP_BYTES, offset - self.reached)):
                return False
        return True

    def restart(self, offset: int) -> None:
        """The next byte to send is `offset`, which lies before or at what was read."""
        self.close()
        if offset > self._hashed:
            raise Unavailable(f"the registry claims to have {offset} bytes of a blob of which {self._hashed} were sent")
        self.reached = offset

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
