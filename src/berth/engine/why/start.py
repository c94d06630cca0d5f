"""What a failed start's error means for a person, and what can be foreseen of one that was never started. Pure."""

import re

from berth.engine.why.model import Facts, Verdict

# A part of the error, what it is, what to do. The first that fits counts.
_CAUSES: list[tuple[str, str, str]] = [
    (r"interpreter '[^']*\\r'", "interpreter", "the script has Windows line ends: convert it (dos2unix, `sed -i 's/\\r$//'`)"),
    (r"interpreter '[^']*(?:ld-linux|ld64|ld-musl|ld\.so)[^']*'", "loader",
     "it was linked for another C library than the image has: take an image with that one (glibc: debian, musl: alpine) or link it statically"),
    (r"interpreter '([^']*)'", "interpreter", "put {0} into the image, or change the first line of the script"),
    (r"it is built for (\S+), this machine is (\S+)", "architecture", "take an image, or a build of the program, for {1}"),
    (r"neither an ELF program nor a script", "format", "start the script with '#!/bin/sh', or run it as `sh FILE`"),
    (r"it is a directory", "directory", "name a program in it, not the directory"),
    (r"it is not executable", "permission", ""),  # the error says what to do
    (r"executable file not found", "not-found", ""),
    (r"permission denied", "permission", "chmod +x it in the image, or run as a user who may"),
    (r"exec format error", "architecture", "see that the image is for this machine, and that a script begins with '#!'"),
    (r"[Aa]ddress already in use|port is already allocated", "port", "stop who has the port, or publish another one"),
    (r"No space left on device|[Dd]isk quota", "disk", "make room: `berth system df`, `berth system prune`"),
    (r"[Rr]ead-only file system", "read-only", "mount a volume or tmpfs there, or leave --read-only out"),
    (r"work directory", "workdir", "make it in the image, or give another --workdir"),
    (r"unable to find (?:user|group)|no matching entries", "user", "add it to the image's /etc/passwd or /etc/group, or give a number"),
    (r"seccomp", "seccomp", "see what is wrong in the --security-opt seccomp profile"),
    (r"No such container|container \S+ is not running", "other", "start the container whose namespace it shares first"),
    (r"no such file or directory", "not-found", "see that the image has it: `berth export` lists its files"),
    (r"memory", "memory", "give it more (`berth update --memory`)"),
]  # fmt: skip


def failed(facts: Facts) -> Verdict:
    """Of one whose last start failed: the error says why, and what is added is what to do."""
    problem = facts.program.problem if facts.program else ""
    detail = "" if not problem or problem in facts.error or "not found in $PATH" in facts.error else f" ({problem})"
    reason, advice = _cause(facts.error + detail)
    if reason == "not-found":
        advice = _not_found(facts) or advice
    return Verdict(reason, f"could not be started: {facts.error}{detail}", advice)


def _cause(error: str) -> tuple[str, str]:
    for pattern, reason, advice in _CAUSES:
        found = re.search(pattern, error)
        if found:
            return reason, advice.format(*found.groups()) if found.groups() else advice
    return "start", ""


def _not_found(facts: Facts) -> str:
    first = facts.command[0] if facts.command else ""
    if " " in first.strip():
        return "the whole command line is one word: leave the quotes out, or use `sh -c`"
    if first.startswith("-"):
        return "options of berth go before the image: what follows it is the command"
    return "see that the image has it and that PATH leads there; a name with a slash is looked up as it is" if "/" not in first else ""


def told_too_late(facts: Facts, code: int) -> Verdict | None:
    """Of one that another runtime reported as started before its `execve` had failed."""
    if not facts.program or not facts.program.problem:
        return None
    reason, advice = _cause(facts.program.problem)
    return Verdict(reason, f"ended with exit code {code}, because {facts.program.path} cannot be executed: {facts.program.problem}", advice, likely=True)


def foreseen(facts: Facts) -> Verdict | None:
    """Of one that was never started: whether it could be, as far as its program tells."""
    if not facts.program or not facts.program.problem:
        return None
    return Verdict("created", f"was created and never started, and would not start: {facts.program.path}: {facts.program.problem}",
                   _not_found(facts) if "not found" in facts.program.problem else "")  # fmt: skip
