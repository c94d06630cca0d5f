"""state, list, ps, events, features: the verbs that only look."""

import os
import sys

from berth.cli.flags import Flag, UsageError
from berth.cli.oci.main import Invocation, parse_verb
from berth.errors import BerthError
from berth.models.jsonlite import dumps
from berth.runtime import lifecycle, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FORMAT: "Flag" = ("format", "f", "string", "FORMAT", "'table' or 'json'")
_LIST_FLAGS: "tuple[Flag, ...]" = (_FORMAT, ("quiet", "q", "bool", "", "Ids only"))
_EVENT_FLAGS: "tuple[Flag, ...]" = (
    ("interval", "", "string", "DURATION", "Between two readings of the usage (5s)"),
    ("stats", "", "bool", "", "Print the usage once and leave"),
)
_COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
_LEAST_COLUMN, _PADDING = 12, 3  # of runc's tables


def indented(value: object, indent: str = "") -> str:
    """JSON with two spaces a level, as runc prints it."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{dumps(str(key))}: {indented(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(deeper + indented(item, deeper) for item in value) + f"\n{indent}]"
    return dumps(value)


def state_verb(call: Invocation) -> int:
    """berth oci state"""
    parsed = parse_verb(call, (), "state CONTAINER")
    settings = call.settings()
    container = settings.load(parsed.arguments[0])
    print(indented(lifecycle.state_of(container, container.status(settings.hosts))))
    return 0


def list_(call: Invocation) -> int:
    """berth oci list"""
    parsed = parse_verb(call, _LIST_FLAGS, "list [OPTIONS]", at_least=0, at_most=0)
    form = _checked_format(parsed.text("format", "table"))
    settings = call.settings()
    found = []
    for identity in state.identities(settings.root):
        try:
            container = settings.load(identity)
            found.append(lifecycle.state_of(container, container.status(settings.hosts)))
        except BerthError as error:
            settings.warn(str(error))  # one that is being removed, or damaged, hides none of the others
    if parsed.flag("quiet"):
        for entry in found:
            print(entry["id"])
    elif form == "json":
        print(dumps(found) if found else "null")
    else:
        _print_table(_COLUMNS, [[str(entry[name.lower()]) for name in _COLUMNS] for entry in found])
    return 0


def _checked_format(form: str) -> str:
    if form not in ("table", "json"):
        raise UsageError(f"--format {form!r} is not one of table, json")
    return form


def _print_table(head: "tuple[str, ...]", rows: "list[list[str]]") -> None:
    lines = [list(head), *rows]
    widths = [max(_LEAST_COLUMN, *(len(line[i]) + _PADDING for line in lines)) for i in range(len(head))]
    for line in lines:
        print("".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)) + line[-1])


def ps(call: Invocation) -> int:
    """berth oci ps"""
    parsed = parse_verb(call, (_FORMAT,), "ps [OPTIONS] CONTAINER [PS OPTIONS]", at_most=-1, interspersed=False)
    # runc takes its own options behind the container's name as well.
    words = parsed.arguments[1:]
    form = parsed.text("format", "table")
    while (words and words[0].startswith(("--format", "-f=", "-fjson", "-ftable"))) or words[:1] == ["-f"]:
        flag, equals, value = words.pop(0).partition("=")
        form = value if equals else flag[2:] if flag.startswith("-f") and not flag.startswith("--") and flag != "-f" else words.pop(0) if words else ""
    _checked_format(form)
    settings = call.settings()
    pids = lifecycle.members(settings, settings.load(parsed.arguments[0]))
    if form == "json":
        print(dumps(pids))
        return 0
    return _print_processes(pids, words or ["-ef"])


def _print_processes(pids: "list[int]", words: "list[str]") -> int:
    """The lines of ps(1) that are about these processes."""
    import subprocess

    done = subprocess.run(["ps", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"ps {' '.join(words)}: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    columns = lines[0].split()
    if "PID" not in columns:
        raise UsageError(f"ps {' '.join(words)}: prints no PID column")
    at = columns.index("PID")
    print(lines[0])
    for line in lines[1:]:
        fields = line.split(None, at + 1)
        if len(fields) > at and fields[at].isdigit() and int(fields[at]) in pids:
            print(line)
    return 0


def events(call: Invocation) -> int:
    """berth oci events"""
    parsed = parse_verb(call, _EVENT_FLAGS, "events [OPTIONS] CONTAINER")
    interval_s = _seconds(parsed.text("interval", "5s"))
    settings = call.settings()
    container = settings.load(parsed.arguments[0])
    group = lifecycle.running_group(settings, container)
    from berth.linux import cgroup_stats

    def stats() -> None:
        print(dumps({"type": "stats", "id": container.id, "data": cgroup_stats.stats(group)}), flush=True)

    if parsed.flag("stats"):
        stats()
        return 0
    with cgroup_stats.oom_notifier(group) as notifier:
        _watch(lifecycle.open_init(container), notifier, stats, container.id, interval_s)
    return 0


def _watch(init_pidfd: int, notifier: "object", stats: "Callable[[], None]", identity: str, interval_s: float) -> None:
    import select

    poll = select.poll()
    if init_pidfd < 0:
        return
    poll.register(init_pidfd, select.POLLIN)
    oom_fd: int = notifier.fileno()  # type: ignore[attr-defined]
    poll.register(oom_fd, select.POLLIN | select.POLLPRI)
    try:
        while True:
            ready = dict(poll.poll(interval_s * 1000))
            if init_pidfd in ready:
                return
            if oom_fd in ready:
                if notifier.read():  # type: ignore[attr-defined]
                    print(dumps({"type": "oom", "id": identity}), flush=True)
            elif not ready:
                stats()
    finally:
        os.close(init_pidfd)


def _seconds(text: str) -> float:
    """Go's durations: `5s`, `500ms`, `1m30s`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "ns": 1e-9}
    total, number, unit = 0.0, "", ""
    for character in f"{text}\0":
        if character.isdigit() or character in ".\0":
            if unit:
                if unit not in units or not number:
                    break
                total += float(number) * units[unit]
                number, unit = "", ""
            number += character
        else:
            unit += character
    if number != "\0" or unit or total <= 0:
        raise UsageError(f"--interval {text!r}: expected a duration above zero like 5s or 500ms")
    return total


def features(call: Invocation) -> int:
    """berth oci features"""
    parse_verb(call, (), "features", at_least=0, at_most=0)
    from berth.runtime.features import describe

    sys.stdout.write(indented(describe()) + "\n")
    return 0
