"""One logical line becomes one instruction. Pure. Wrong ones raise SplitError, which `parse` gives a place."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from berth.build.dockerfile import devices, flags, mounts, splitting
from berth.build.dockerfile.flags import Flags, UnknownWord
from berth.build.dockerfile.instructions import (
    HEREDOC_DIRECTORY,
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Place,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)  # fmt: skip
from berth.build.dockerfile.lines import Line, chomped, heredoc_of, joined
from berth.build.dockerfile.splitting import Parts, SplitError
from berth.models import durations

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_NETWORKS, _SECURITY = ("default", "none", "host"), ("sandbox", "insecure")
_SHORTEST_NS = 1_000_000


def read(line: Line, escape: str) -> Instruction:
    return _read(line, splitting.split(line.text), escape)


def _read(line: Line, parts: Parts, escape: str) -> Instruction:
    keyword = parts.keyword.upper()
    reader = _readers().get(keyword)
    if reader is None:
        raise UnknownWord(f"unknown instruction: {parts.keyword}", parts.keyword, tuple(_readers()))
    return reader(line, parts, escape)


def moved(instruction: Instruction, place: Place) -> Instruction:
    return replace(instruction, place=place)


@cache
def _readers() -> dict[str, Callable[[Line, Parts, str], Instruction]]:
    return {
        "ADD": _add, "ARG": _arg, "CMD": _cmd, "COPY": _copy, "ENTRYPOINT": _entrypoint, "ENV": _env, "EXPOSE": _expose,
        "FROM": _from, "HEALTHCHECK": _healthcheck, "LABEL": _label, "MAINTAINER": _maintainer, "ONBUILD": _onbuild, "RUN": _run,
        "SHELL": _shell, "STOPSIGNAL": _stopsignal, "USER": _user, "VOLUME": _volume, "WORKDIR": _workdir,
    }  # fmt: skip


def _text(line: Line) -> str:
    return line.text.strip()


def _flags(parts: Parts) -> Flags:
    return flags.parse(parts.flags, parts.keyword.upper())


def _one(parts: Parts) -> str:
    keyword = parts.keyword.upper()
    if not parts.arguments:
        raise SplitError(f"{keyword} requires exactly one argument", parts.keyword)
    _flags(parts)
    return parts.arguments


def _at_least_one(parts: Parts) -> SplitError:
    return SplitError(f"{parts.keyword.upper()} requires at least one argument", parts.keyword)


# --- names and values


def _pairs(parts: Parts, escape: str) -> tuple[tuple[str, str], ...]:
    keyword = parts.keyword.upper()
    found = splitting.pairs(parts.arguments, keyword, escape)
    _flags(parts)
    if not found:
        raise _at_least_one(parts)
    for name, value, _ in found:
        if not name:
            raise SplitError(f"{keyword} names can not be blank", f"={value}")
    return tuple((name, value) for name, value, _ in found)


def _env(line: Line, parts: Parts, escape: str) -> Instruction:
    return Env(line.place, _text(line), _pairs(parts, escape))


def _label(line: Line, parts: Parts, escape: str) -> Instruction:
    return Label(line.place, _text(line), _pairs(parts, escape))


def _arg(line: Line, parts: Parts, escape: str) -> Instruction:
    found: list[tuple[str, str | None]] = []
    for word in splitting.words(parts.arguments, escape):
        name, equals, value = word.partition("=")
        if equals and not name:
            raise SplitError("ARG names can not be blank", word)
        found.append((name, value if equals else None))
    if not found:
        raise _at_least_one(parts)
    return Arg(line.place, _text(line), tuple(found))


# --- FROM


def _from(line: Line, parts: Parts, escape: str) -> Instruction:
    words = splitting.SPACES.split(parts.arguments) if parts.arguments else []
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            quoted = json.dumps(words[2], ensure_ascii=False)
            raise SplitError(f"invalid name for build stage: {quoted}, name can't start with a number or contain symbols", words[2])
    elif len(words) != 1:
        raise UnknownWord("FROM requires either one or three arguments", words[1] if len(words) > 1 else parts.keyword, ("AS",))
    return From(line.place, _text(line), words[0], name, _flags(parts).text("platform"))


# --- commands


def _command(arguments: str) -> Command:
    words = splitting.json_list(arguments) if arguments else None
    if words is not None:
        return Command(tuple(words), shell=False)
    return Command((arguments,), shell=True)  # nothing is a command for the shell, too


def _cmd(line: Line, parts: Parts, escape: str) -> Instruction:
    command = _command(parts.arguments)
    _flags(parts)
    return Cmd(line.place, _text(line), command)


def _entrypoint(line: Line, parts: Parts, escape: str) -> Instruction:
    command = _command(parts.arguments)
    _flags(parts)
    return Entrypoint(line.place, _text(line), command)


def _shell(line: Line, parts: Parts, escape: str) -> Instruction:
    words = splitting.json_list(parts.arguments)
    _flags(parts)
    if words is None and parts.arguments:
        raise SplitError('SHELL requires the arguments to be in JSON form, as in SHELL ["/bin/sh", "-c"]', parts.arguments)
    if not words:
        raise _at_least_one(parts)
    return Shell(line.place, _text(line), tuple(words))


def _run(line: Line, parts: Parts, escape: str) -> Instruction:
    command, script, text = _run_command(line, parts)
    given = _flags(parts)
    network, security = given.text("network", "default"), given.text("security", "sandbox")
    if network not in _NETWORKS:
        raise UnknownWord(f'invalid network mode "{network}"', network, _NETWORKS)
    if security not in _SECURITY:
        raise UnknownWord(f'security "{security}" is not valid', security, _SECURITY)
    return Run(
        line.place, text, command, line.heredocs, tuple(mounts.parse(one) for one in given.lists.get("mount", ())),
        network, security, script, tuple(devices.parse(one) for one in given.lists.get("device", ())),
    )  # fmt: skip


def _run_command(line: Line, parts: Parts) -> tuple[Command, str, str]:
    """What runs, the script if a heredoc is all of it, and the instruction's text."""
    command = _command(parts.arguments)
    text = _text(line)
    if not line.heredocs or not command.shell:
        return command, "", text
    first = line.heredocs[0]
    if len(line.heredocs) == 1 and heredoc_of(parts.arguments) is not None:
        script = chomped(first)
        lines = script.strip().splitlines() or [""]
        text += f" ({lines[0]}{'...' if len(lines) > 1 else ''})"
        if script.startswith("#!"):
            return Command((f"{HEREDOC_DIRECTORY}/{first.name}",), shell=False), script, text
        return Command((script,), shell=True), script, text
    full = parts.arguments + "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in line.heredocs)
    return Command((full,), shell=True), "", text


# --- files


def _files(line: Line, parts: Parts) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], str, tuple[bool, ...]]:
    """Sources, heredocs with their contents, the destination, and which heredocs take no variables."""
    keyword = parts.keyword.upper()
    words, is_json = splitting.words_or_json(parts.arguments)
    words = words if is_json else joined(words)
    if len(words) < 2:
        reason = f"{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        raise SplitError(reason, words[0] if words else parts.keyword)
    destination = words.pop()
    if heredoc_of(destination) is not None:
        raise SplitError(f"{keyword} cannot accept a heredoc as a destination", destination)
    contents = {heredoc.name: chomped(heredoc) for heredoc in line.heredocs}
    sources: list[str] = []
    inline: list[tuple[str, str]] = []
    literal: list[bool] = []
    for word in words:
        heredoc = heredoc_of(word)
        if heredoc is None:
            sources.append(word)
        else:
            inline.append((heredoc.name, contents.get(heredoc.name, "")))
            literal.append(not heredoc.expand)
    return tuple(sources), tuple(inline), destination, tuple(literal)


def _copy(line: Line, parts: Parts, escape: str) -> Instruction:
    sources, inline, destination, literal = _files(line, parts)
    given = _flags(parts)
    return Copy(
        line.place, _text(line), sources, inline, destination, given.text("from"), given.text("chown"), given.text("chmod"),
        given.is_set("link"), given.is_set("parents"), tuple(given.lists.get("exclude", ())), literal,
    )  # fmt: skip


def _add(line: Line, parts: Parts, escape: str) -> Instruction:
    sources, inline, destination, literal = _files(line, parts)
    given = _flags(parts)
    return Add(
        line.place, _text(line), sources, inline, destination, given.text("chown"), given.text("chmod"), given.is_set("link"),
        given.is_set("parents"), tuple(given.lists.get("exclude", ())), given.text("checksum"), given.is_set("keep-git-dir"),
        given.booleans.get("unpack"), literal,
    )  # fmt: skip


# --- the image's configuration


def _expose(line: Line, parts: Parts, escape: str) -> Instruction:
    if not parts.arguments:
        raise _at_least_one(parts)
    _flags(parts)
    return Expose(line.place, _text(line), tuple(sorted(splitting.SPACES.split(parts.arguments))))


def _volume(line: Line, parts: Parts, escape: str) -> Instruction:
    words, _ = splitting.words_or_json(parts.arguments)
    if not words:
        raise _at_least_one(parts)
    _flags(parts)
    paths = tuple(word.strip() for word in words)
    if not all(paths):
        raise SplitError("VOLUME specified can not be an empty string", '""')
    return Volume(line.place, _text(line), paths)


def _user(line: Line, parts: Parts, escape: str) -> Instruction:
    return User(line.place, _text(line), _one(parts))


def _workdir(line: Line, parts: Parts, escape: str) -> Instruction:
    return Workdir(line.place, _text(line), _one(parts))


def _stopsignal(line: Line, parts: Parts, escape: str) -> Instruction:
    return Stopsignal(line.place, _text(line), _one(parts))


def _maintainer(line: Line, parts: Parts, escape: str) -> Instruction:
    return Maintainer(line.place, _text(line), _one(parts))


def _healthcheck(line: Line, parts: Parts, escape: str) -> Instruction:
    pieces = parts.arguments.split(None, 1)
    if not pieces:
        raise _at_least_one(parts)
    kind, rest = pieces[0].upper(), pieces[1] if len(pieces) > 1 else ""
    if kind == "NONE":
        if rest:
            raise SplitError("HEALTHCHECK NONE takes no arguments", rest)
        return Healthcheck(line.place, _text(line), True, None)
    given = _flags(parts)
    if kind != "CMD":
        raise UnknownWord(f"Unknown type {json.dumps(kind, ensure_ascii=False)} in HEALTHCHECK (try CMD)", pieces[0], ("NONE",))
    command = _command(rest)
    if not any(command.words):
        raise SplitError("Missing command after HEALTHCHECK CMD", pieces[0])
    return Healthcheck(
        line.place, _text(line), False, command, _interval(given, "interval"), _interval(given, "timeout"),
        _interval(given, "start-period"), _interval(given, "start-interval"), _retries(given.text("retries")),
    )  # fmt: skip


def _interval(given: Flags, name: str) -> int:
    text = given.text(name)
    if not text:
        return 0
    try:
        nanoseconds = durations.parse_ns(text)
    except ValueError as error:
        raise SplitError(str(error), text) from None
    if nanoseconds == 0:
        return 0
    if nanoseconds < _SHORTEST_NS:
        raise SplitError(f'Interval "{name}" cannot be less than 1ms', text)
    return nanoseconds


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", text) or int(text) >= 1 << 31:
        raise SplitError(f'--retries is no number: "{text}"', text)
    if int(text) < 0:
        raise SplitError(f"--retries cannot be negative ({text})", text)
    return int(text)


def _onbuild(line: Line, parts: Parts, escape: str) -> Instruction:
    inner = splitting.split(parts.arguments)
    keyword = inner.keyword.upper()
    if not keyword:
        raise _at_least_one(parts)
    _flags(parts)
    if keyword == "ONBUILD":
        raise SplitError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", inner.keyword)
    if keyword in ("MAINTAINER", "FROM"):
        raise SplitError(f"{keyword} isn't allowed as an ONBUILD trigger", inner.keyword)
    trigger = _ONBUILD.sub("", line.text, count=1).strip()
    instruction = _read(replace(line, text=parts.arguments), inner, escape)
    trigger += "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in line.heredocs)
    return Onbuild(line.place, _text(line), instruction, trigger)
