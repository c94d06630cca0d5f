"""Reads and checks an OCI bundle's `config.json`. Errors start with the JSON path of what is wrong.

The specification stays a plain dict: unknown fields are kept, and a start needs no second model.
What may be in it is in the tables of `spec_fields`; here is the file around it, and what berth lacks.

Source: OCI runtime specification 1.0 to 1.3, config.md and config-linux.md.
"""

import os
import stat

from berth.errors import InvalidSpec, NotImplementedHere
from berth.models import jsonlite
from berth.runtime import spec_fields
from berth.runtime.spec_rules import BETWEEN, Problems

# Far more than any client writes (Podman: 20 KiB). The parsed form can take thirty times that in memory.
_MOST_BYTES = 16 << 20
# The specification needs 9. What reads the file later (json.dumps of a state file) recurses as well.
_MOST_LEVELS = 64

# Known to the specification, not to this runtime: JSON path -> what to say. An empty one asks for nothing.
_NOT_HERE = {
    "linux.intelRdt": "berth does not drive resctrl yet; leave it out",
    "linux.personality.flags": "the specification has no flags yet that could be meant; leave them out",
}


def load(bundle: str, config: str | None = None) -> dict:
    """The checked specification of the bundle directory, or of the file `config` in place of its own.

    Raises InvalidSpec with one line for each problem; NotImplementedHere for a field that berth lacks.
    """
    path = config or os.path.join(bundle, "config.json")
    if config is None and not os.path.exists(path):
        raise InvalidSpec(f"{path}: no such file; a bundle is a directory with config.json in it")
    spec = read(path)
    check(spec)
    return spec  # type: ignore[return-value]  # check has seen that it is a dict


def read(path: str) -> object:
    """The parsed JSON of a file (a config.json, a process, resources). Raises InvalidSpec."""
    try:
        # Without O_NONBLOCK the opening of a FIFO waits for a writer, who may never come.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InvalidSpec(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InvalidSpec(f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidSpec(f"{path}: is not a regular file")
        # Read and then measured: the size that fstat gives may be old by now, and is 0 in /proc.
        with open(fd, "rb", closefd=False) as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidSpec(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)
    return parse(data, path)


def parse(data: bytes, name: str) -> object:
    """The parsed JSON of `data`; `name` is what messages call it. Raises InvalidSpec.

    A key that is there twice has its last value, as with Go, so that everybody reads the same.
    """
    if len(data) > _MOST_BYTES:
        raise InvalidSpec(f"{name}: is larger than {_MOST_BYTES >> 20} MiB")
    try:
        document = jsonlite.loads(data.decode())
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"{name}: not JSON: byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise InvalidSpec(f"{name}: is nested more than {_MOST_LEVELS} levels deep") from None
    except ValueError as error:
        raise InvalidSpec(f"{name}: not JSON: {_where(data) or error}") from None
    if _deeper_than(document, _MOST_LEVELS):
        raise InvalidSpec(f"{name}: is nested more than {_MOST_LEVELS} levels deep")
    return document


def _where(data: bytes) -> str:
    """What json itself says, with line and column; it is 6 ms of imports that only a mistake pays for."""
    import json

    try:
        json.loads(data.decode())
    except ValueError as error:
        return str(error)
    return ""


def _deeper_than(document: object, levels: int) -> bool:
    """Goes down level by level, so the depth itself cannot hurt it."""
    level: list[dict | list] = [document] if isinstance(document, (dict, list)) else []
    for _ in range(levels):
        if not level:
            return False
        level = [
            item
            for holder in level
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, (dict, list))
        ]
    return bool(level)


def check(spec: object) -> None:
    """Raises InvalidSpec for all that is wrong with a config.json, NotImplementedHere for what berth lacks.

    Never changes what it is given.
    """
    if not isinstance(spec, dict):
        _check_alone(spec_fields.CONFIG, spec, "config.json")
        return
    found = Problems()
    spec_fields.CONFIG.check(spec, "", found)
    for reads, rule in BETWEEN:
        if not any(_touches(path, reads) for path in found.paths):
            rule(spec, found)
    found.raise_any()
    for path, why in _NOT_HERE.items():
        if _asks_for_something(_at(spec, path)):
            raise NotImplementedHere(f"{path}: {why}")


def check_process(process: object, path: str = "process") -> None:
    """The same for a process alone, as `exec --process FILE` has it; raises InvalidSpec."""
    _check_alone(spec_fields.PROCESS, process, path)


def check_resources(resources: object, path: str = "linux.resources") -> None:
    """The same for resources alone, as `update --resources FILE` has them; raises InvalidSpec."""
    _check_alone(spec_fields.RESOURCES, resources, path)


def _check_alone(table: spec_fields.Object, value: object, path: str) -> None:
    found = Problems()
    table.check(value, path, found)
    found.raise_any()


def _touches(path: str, reads: tuple[str, ...]) -> bool:
    """Whether a problem at `path` is about something that a rule reads, inside it or around it."""
    return path.startswith(reads) or any(read.startswith(path) for read in reads)


def _at(value: object, path: str) -> object:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _asks_for_something(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_asks_for_something, value.values()))
    return bool(value)
