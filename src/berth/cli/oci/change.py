"""kill, delete, pause, resume, update: the verbs that change a container there is."""

import sys

from berth.cli.flags import Flag, Parsed, UsageError
from berth.cli.oci.main import Invocation, parse_verb
from berth.errors import BerthError, Forbidden, InvalidParameter, NotFound
from berth.linux import signals
from berth.runtime import lifecycle, state

_REGEX: "Flag" = ("regex", "r", "bool", "", "CONTAINER is a regular expression: every one that matches")
_KILL_FLAGS: "tuple[Flag, ...]" = (("all", "a", "bool", "", "To every process of the container"), _REGEX)
_DELETE_FLAGS: "tuple[Flag, ...]" = (("force", "f", "bool", "", "End the container first, and do not mind if there is none"), _REGEX)
# name, placeholder, help, path into linux.resources
_LIMITS = (
    ("blkio-weight", "N", "Block I/O weight, 10 to 1000", "blockIO.weight"),
    ("cpu-period", "US", "CPU period", "cpu.period"),
    ("cpu-quota", "US", "CPU time in one period; -1 for no limit", "cpu.quota"),
    ("cpu-burst", "US", "CPU time that may be saved up", "cpu.burst"),
    ("cpu-rt-period", "US", "CPU period for real-time tasks", "cpu.realtimePeriod"),
    ("cpu-rt-runtime", "US", "CPU time for real-time tasks", "cpu.realtimeRuntime"),
    ("cpu-share", "N", "CPU shares", "cpu.shares"),
    ("cpu-idle", "N", "1: run only when nothing else wants to", "cpu.idle"),
    ("cpuset-cpus", "LIST", "CPUs to use", "cpu.cpus"),
    ("cpuset-mems", "LIST", "Memory nodes to use", "cpu.mems"),
    ("memory", "SIZE", "Memory limit; -1 for none", "memory.limit"),
    ("memory-reservation", "SIZE", "Soft limit of memory", "memory.reservation"),
    ("memory-swap", "SIZE", "Memory and swap together; -1 for no limit", "memory.swap"),
    ("kernel-memory", "SIZE", "Accepted for runc's sake: the kernel has no such limit any more", ""),
    ("kernel-memory-tcp", "SIZE", "Memory for TCP buffers", "memory.kernelTCP"),
    ("pids-limit", "N", "Number of processes; -1 for no limit", "pids.limit"),
)
_UPDATE_FLAGS: "tuple[Flag, ...]" = (
    ("resources", "r", "string", "FILE", "Read linux.resources from this JSON file, '-' for standard input; other options do not count"),
    *((name, "", "string", placeholder, text) for name, placeholder, text, _ in _LIMITS),
    ("l3-cache-schema", "", "string", "TEXT", "Intel RDT: L3 cache schema"),
    ("mem-bw-schema", "", "string", "TEXT", "Intel RDT: memory bandwidth schema"),
)
_TEXT_LIMITS = ("cpu.cpus", "cpu.mems")
_SUFFIXES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def kill(call: Invocation) -> int:
    """berth oci kill"""
    parsed = parse_verb(call, _KILL_FLAGS, "kill [OPTIONS] CONTAINER [SIGNAL]", at_most=2)
    settings = call.settings()
    word = parsed.arguments[1] if parsed.arguments[1:] else "TERM"
    number = 0 if word == "0" else signals.number_of(word)  # 0 asks whether there is somebody to signal (kill(2))
    for identity in _named(settings, parsed):
        lifecycle.kill(settings, settings.load(identity), number, everyone=parsed.flag("all"))
    return 0


def delete(call: Invocation) -> int:
    """berth oci delete"""
    parsed = parse_verb(call, _DELETE_FLAGS, "delete [OPTIONS] CONTAINER")
    settings = call.settings()
    force = parsed.flag("force")
    for identity in _named(settings, parsed):
        try:
            lifecycle.delete(settings, _load_damaged(settings, identity, force), force=force)
        except NotFound:
            if not force:
                raise
    return 0


def _load_damaged(settings: "lifecycle.Settings", identity: str, force: bool) -> state.Container:
    """With --force also what a crash has damaged: there is a directory, and it goes."""
    try:
        return settings.load(identity)
    except (NotFound, Forbidden):
        raise
    except BerthError:
        if not force:
            raise
        return state.Container(settings.root, identity)


def _named(settings: "lifecycle.Settings", parsed: Parsed) -> "list[str]":
    word = parsed.arguments[0]
    if not parsed.flag("regex"):
        return [word]
    import re

    try:
        pattern = re.compile(word)
    except re.error as error:
        raise InvalidParameter(f"--regex {word!r}: {error}") from None
    return [identity for identity in state.identities(settings.root) if pattern.search(identity)]


def pause(call: Invocation) -> int:
    """berth oci pause"""
    parsed = parse_verb(call, (), "pause CONTAINER")
    settings = call.settings()
    lifecycle.pause(settings, settings.load(parsed.arguments[0]), True)
    return 0


def resume(call: Invocation) -> int:
    """berth oci resume"""
    parsed = parse_verb(call, (), "resume CONTAINER")
    settings = call.settings()
    lifecycle.pause(settings, settings.load(parsed.arguments[0]), False)
    return 0


def update(call: Invocation) -> int:
    """berth oci update"""
    parsed = parse_verb(call, _UPDATE_FLAGS, "update [OPTIONS] CONTAINER")
    settings = call.settings()
    container = settings.load(parsed.arguments[0])
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if parsed.text(name):
            raise InvalidParameter(f"--{name} {parsed.text(name)!r}: berth does not drive resctrl (Intel RDT) yet; leave it out")
    resources = _resources(parsed)
    from berth.runtime.spec import check_resources

    check_resources(resources, "resources")
    if resources:
        lifecycle.update(settings, container, resources)
    return 0


def _resources(parsed: Parsed) -> dict:
    path = parsed.text("resources")
    if path == "-":
        return lifecycle.read_json(sys.stdin.read(), "standard input")
    if path:
        from berth.runtime.spec import read

        found = read(path)
        if not isinstance(found, dict):
            raise InvalidParameter(f"{path}: expected an object with the fields of linux.resources")
        return found
    resources: dict = {}
    for name, _, _, target in _LIMITS:
        if not target or not parsed.given(name):
            continue
        section, _, key = target.partition(".")
        text = parsed.text(name)
        resources.setdefault(section, {})[key] = text if target in _TEXT_LIMITS else _number(name, text)
    return resources


def _number(name: str, text: str) -> int:
    """`512m`, `-1`, `1000`."""
    digits = text.strip().lower().removesuffix("ib") if text.lower().endswith("ib") else text.strip().lower()
    suffix = digits[-1:] if digits[-1:].isalpha() else ""
    number = digits[: len(digits) - len(suffix)]
    if suffix not in _SUFFIXES or not number.removeprefix("-").isdigit():
        raise UsageError(f"--{name} {text!r}: expected a number, with b, k, m, g or t behind it for sizes")
    return int(number) * _SUFFIXES[suffix]
