"""A container's record: what it was made from and what became of it. Pure; the database keeps it as JSON.

    created ──start──▶ running ◀──pause/unpause──▶ paused
       │                  │ the program ended
       │ start failed     ├────────────────▶ restarting ──its time has come──▶ running
       └──(created)       ▼                      │ kill, stop, or the start failed
                       exited ◀──────────────────┘
                       exited ──start──▶ running
    created | exited ──rm──▶ removing ──▶ gone
"""

import json
import time

from berth.errors import Conflict

CREATED, RUNNING, PAUSED, RESTARTING, EXITED, REMOVING = "created", "running", "paused", "restarting", "exited", "removing"

_KEPT_WORDS, _KEPT_CHARACTERS = 8, 200
_MOVES = {
    CREATED: (RUNNING, REMOVING),
    RUNNING: (PAUSED, RESTARTING, EXITED),
    PAUSED: (RUNNING, RESTARTING, EXITED),
    RESTARTING: (RUNNING, EXITED),
    EXITED: (RUNNING, REMOVING),
    REMOVING: (),
}
RESTARTING_TEXT = "Container {} is restarting, wait until the container is running"


class Record:
    """One container. config, host: Docker's Config and HostConfig; *_ns: nanoseconds since the epoch, 0 for never.

    changes: how often a field has been set, for who keeps what was made of it (shown.py); it is not saved. So a
    field is changed by setting it: what it holds is never changed in place.
    """

    __slots__ = ("__dict__", "changes")
    changes: int

    def __new__(cls, *_: object) -> "Record":
        record = super().__new__(cls)
        object.__setattr__(record, "changes", 0)
        return record

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        object.__setattr__(self, "changes", self.changes + 1)

    def __init__(self, identity: str, name: str, image_id: str, image_name: str, config: dict, host: dict) -> None:
        self.id = identity
        self.name = name
        self.created_ns = time.time_ns()
        self.image_id = image_id
        self.image_name = image_name
        self.config = config
        self.host = host
        self.status = CREATED
        self.pid = 0
        self.pid_start_ticks = 0
        self.exit_code = 0
        self.started_ns = 0
        self.finished_ns = 0
        self.error = ""
        self.oom_killed = False
        self._set_later_fields()
        self.mounts: list | None = []  # see mountpoints.py; None: of a version that kept none

    def _set_later_fields(self) -> None:
        """Fields that records written by an earlier version do not have."""
        self.restarts = 0  # since a person started it
        self.restart_delay_ms = 0
        self.restart_due_ns = 0
        self.stopped_by_hand = False
        self.boot_id = ""  # of the host, as it was at the last start
        self.pending_update: dict | None = None  # of a running container: being written to its cgroup
        self.pending_mounts: dict | None = None  # being put into it and taken out of it, see remounting.py
        self.paused_for_commit = False  # and not by a person
        self.health: dict | None = None  # Docker's Health
        self.endpoints: dict | None = None  # its networks, see nets/records.py; None: of a version that had none
        self.ports: list = []  # published while it runs, see nets/records.py
        self.step: str | None = None  # of a build: the chain id of the layers it runs over ('' for none), as it has no image
        self.end: dict = {}  # of the last run: what its monitor reported, for `why`

    @property
    def running(self) -> bool:
        """Whether its program runs."""
        return self.status in (RUNNING, PAUSED)

    @property
    def active(self) -> bool:
        """What Docker calls running: one that waits to be started again counts."""
        return self.running or self.status == RESTARTING

    @property
    def auto_remove(self) -> bool:
        return bool(self.host.get("AutoRemove"))

    def move(self, status: str) -> None:
        """Changes the status; an illegal move names both."""
        if status not in _MOVES[self.status]:
            raise Conflict(f"container {self.id[:12]} cannot go from {self.status} to {status}")
        self.status = status

    def remnant(self) -> "Record":
        """What is worth keeping in memory of one that is removed; what a client may have made large is not in it."""
        command = [*(self.config.get("Entrypoint") or []), *(self.config.get("Cmd") or [])]
        config, host = {"Cmd": [word[:_KEPT_CHARACTERS] for word in command[:_KEPT_WORDS]]}, {"AutoRemove": self.auto_remove}
        kept = Record(self.id, self.name, self.image_id, self.image_name, config, host)
        for key in ("status", "exit_code", "started_ns", "finished_ns", "error", "oom_killed", "restarts", "end"):
            setattr(kept, key, getattr(self, key))
        return kept

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Record":
        record = cls.__new__(cls)
        record.mounts = None
        record._set_later_fields()
        record.__dict__.update(json.loads(text))
        return record
