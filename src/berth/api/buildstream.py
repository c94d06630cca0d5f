"""A build's events as the stream that Docker's clients read: steps one after the other, though they are not made so. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from berth import errors
from berth.build import progress
from berth.build.progress import Event

_SHORT = 12
_MOST_LEFT_OUT = 10_000


class _Step:
    def __init__(self, number: int, instruction: str) -> None:
        self.number = number
        self.instruction = instruction
        self.waiting: list[dict[str, Any]] = []
        self.ended = False


class BuildStream:
    """Of one build. Only the first step that has not ended speaks; what others say waits for its turn.

    quiet: nothing is said but the image's id, unless the build fails: then all that was left out, or the last of it.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._left_out: deque[dict[str, Any]] = deque(maxlen=_MOST_LEFT_OUT)
        self._steps: dict[int, _Step] = {}
        self._total = 0
        self._current = 0  # index into the steps
        self.began = False

    def messages(self, event: Event) -> Iterator[dict[str, Any]]:
        """What is said now."""
        if event.kind == progress.PLANNED:
            if event.instruction:
                self._total += 1
                self._steps[event.vertex] = _Step(self._total, event.instruction)
            return
        if event.kind == progress.WARNING:
            yield from self._tell({"stream": f"[Warning] {event.text}\n"})
            return
        if event.kind == progress.STATUS:
            yield from self._tell({"stream": event.text})
            return
        step = self._steps.get(event.vertex)
        if step is None:
            return
        if event.kind == progress.STARTED and step.ended:  # its layers in a cache elsewhere are lost
            step.ended = False
            self._current = min(self._current, step.number - 1)
        if event.kind in (progress.STARTED, progress.CACHED):
            step.waiting.append({"stream": f"Step {step.number}/{self._total} : {step.instruction}"})
            step.waiting.append({"stream": "\n"})
        if event.kind == progress.LOG:
            step.waiting.append({"stream": event.text})
        if event.kind == progress.CACHED:
            step.waiting.append({"stream": " ---> Using cache\n"})
        if event.kind in (progress.CACHED, progress.DONE):
            step.ended = True
            step.waiting.append({"stream": f" ---> {_short(event.result)}\n"})
        yield from self._flush()

    def _flush(self) -> Iterator[dict[str, Any]]:
        steps = list(self._steps.values())
        while self._current < len(steps):
            step = steps[self._current]
            waiting, step.waiting = step.waiting, []
            for message in waiting:
                yield from self._tell(message)
            if not step.ended:
                return
            self._current += 1

    def _tell(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.began = True
        if self._quiet:
            self._left_out.append(message)
        else:
            yield message

    def _rest(self) -> Iterator[dict[str, Any]]:
        for step in self._steps.values():
            waiting, step.waiting = step.waiting, []
            for message in waiting:
                yield from self._tell(message)

    def failure(self, error: errors.BerthError) -> Iterator[dict[str, Any]]:
        """The last message of a build that failed, after all that steps have said."""
        yield from self._rest()
        yield from self._left_out
        code = getattr(error, "exit_code", 0)
        detail = {"code": code, "message": str(error)} if code else {"message": str(error)}
        yield {"errorDetail": detail, "error": str(error)}

    def success(self, image: str, tags: list[str]) -> Iterator[dict[str, Any]]:
        yield from self._rest()
        if self._quiet:
            yield {"stream": f"{image}\n"}
            return
        yield {"aux": {"ID": image}}
        yield {"stream": f"Successfully built {_short(image)}\n"}
        for tag in tags:
            yield {"stream": f"Successfully tagged {tag}\n"}


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:_SHORT]
