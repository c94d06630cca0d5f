"""What a build tells of itself while it goes on. Pure."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from berth.build.kinds import CACHED, CANCELLED, DONE, FAILED, LOG, PLANNED, STARTED, STATUS, WARNING, WHY


@dataclass(frozen=True, slots=True)
class Event:
    """kind: one of the above. vertex: a number, 0 for the build itself; label: of the vertex, with PLANNED and STARTED.

    text: what a program wrote (LOG; stream 1 or 2), why it failed, which input changed (WHY); result: short, of what was made;
    at_ns: when; instruction and line: of the Dockerfile, with PLANNED.
    """

    kind: str
    vertex: int = 0
    at_ns: int = 0
    label: str = ""
    text: str = ""
    stream: int = 0
    result: str = ""
    instruction: str = ""
    line: int = 0
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        """For a client: what says nothing is left out."""
        return {key: value for key, value in asdict(self).items() if value}


Report = Callable[[Event], None]

__all__ = ["CACHED", "CANCELLED", "DONE", "FAILED", "LOG", "PLANNED", "STARTED", "STATUS", "WARNING", "WHY", "Event", "Report"]
