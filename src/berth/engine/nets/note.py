"""network.json beside a running container's bundle: what it has in its networks, and which ports are published.

Written, as one rename, before the program can run, and in the middle of each change to a container that runs. So it is where such a
change comes true: an engine that is killed before it is followed by one that undoes what was begun, one that is killed after it by one
that does the rest. What it says is never older than the database, which is written after it.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from berth.engine.nets.endpointnames import endpoints_of
from berth.engine.state import Record
from berth.errors import SystemFailure

_FILE = "network.json"
_PORT_KEYS = ("PortBindings", "PublishAllPorts")  # of HostConfig: an update of ports comes true here too


@dataclass(slots=True)
class Note:
    """endpoints, ports: of the record. host: what of HostConfig goes with them. leaving: what it has (`live`) of places that are to be taken down.

    unsettled: a change is under way: names, hosts and the way out may not be as the endpoints have it.
    """

    endpoints: dict[str, dict[str, Any]]
    ports: list[dict[str, Any]]
    host: dict[str, Any]
    leaving: list[dict[str, Any]] = field(default_factory=list)
    unsettled: bool = False


def write(
    record: Record, directory: str, *, leaving: list[dict[str, Any]] | None = None, unsettled: bool = False,
    endpoints: dict[str, dict[str, Any]] | None = None, host: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """endpoints, host: what the record will have, if that is more than it has. SystemFailure where the disk is full."""
    config = record.host if host is None else host
    note = Note(
        endpoints_of(record) if endpoints is None else endpoints, record.ports, {key: config.get(key) for key in _PORT_KEYS}, leaving or [], unsettled
    )
    path = f"{directory}/{_FILE}"
    try:
        with open(f"{path}.new", "w") as file:
            json.dump(asdict(note), file)
        os.rename(f"{path}.new", path)
    except OSError as error:
        raise SystemFailure(f"{path} cannot be written: {error.strerror}") from None


def read(directory: str) -> Note | None:
    """None where there is none, or none of this version."""
    try:
        with open(f"{directory}/{_FILE}") as file:
            return Note(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
