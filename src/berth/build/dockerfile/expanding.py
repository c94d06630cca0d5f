"""Puts variables into an instruction: in exactly those fields in which BuildKit does. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar, cast

from berth.build.dockerfile import mounts, words
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.instructions import (
    Add,
    Arg,
    Copy,
    Env,
    Expose,
    From,
    Instruction,
    Label,
    Run,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from berth.build.dockerfile.splitting import SplitError

_Instruction = TypeVar("_Instruction", bound=Instruction)
_NOTHING: Mapping[str, str] = {}


def expand_instruction(
    instruction: _Instruction, variables: Mapping[str, str], escape: str = "\\", *, given: Mapping[str, str] = _NOTHING
) -> tuple[_Instruction, frozenset[str]]:
    """The instruction with its variables put in, and the names that were used and are not set.

    `variables` is the environment before the instruction, build arguments included. The default of an ARG sees those of
    the same line before it, and is not looked at where `given` (`--build-arg`) has a value, which then is the pair's.
    Commands (CMD, ENTRYPOINT, RUN, SHELL, HEALTHCHECK) and ONBUILD stay as they are.
    """
    expanding = _EXPANDING.get(type(instruction))
    if expanding is None:
        return instruction, frozenset()
    expander = _Expander(variables, escape, given)
    try:
        return cast("_Instruction", expanding(instruction, expander)), frozenset(expander.undefined)
    except (DockerfileError, SplitError) as error:
        reason = error.reason if isinstance(error, DockerfileError) else str(error)
        raise placed(reason, instruction, expander.word) from None


def placed(reason: str, instruction: Instruction, word: str = "", suggestion: str = "") -> DockerfileError:
    """An error at a word of an instruction, whose text stands for the line."""
    column = max(0, instruction.text.find(word))
    place = replace(instruction.place, column=column)
    return DockerfileError(reason, place, suggestion=suggestion, line=instruction.text, length=len(word) or len(instruction.text))


class _Expander:
    """`word` is the one that is being read, for errors."""

    def __init__(self, variables: Mapping[str, str], escape: str, given: Mapping[str, str]) -> None:
        self.variables, self.escape, self.given = variables, escape, given
        self.undefined: set[str] = set()
        self.word = ""

    def one(self, word: str) -> str:
        if not word:
            return word
        self.word = word
        found = words.expand(word, self.variables, self.escape)
        self.undefined |= found.undefined
        return found.text

    def all(self, some: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.one(word) for word in some)

    def document(self, text: str) -> str:
        """A heredoc: quotation marks are text, and a backslash escapes whatever the file's escape character is."""
        self.word = ""
        found = words.expand(text, self.variables, "\\", quotes=False)
        self.undefined |= found.undefined
        return found.text

    def pairs(self, some: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple((self.one(name), self.one(value)) for name, value in some)


def _env(instruction: Env, to: _Expander) -> Instruction:
    return replace(instruction, pairs=to.pairs(instruction.pairs))


def _label(instruction: Label, to: _Expander) -> Instruction:
    return replace(instruction, pairs=to.pairs(instruction.pairs))


def _arg(instruction: Arg, to: _Expander) -> Instruction:
    seen = dict(to.variables)
    to.variables = seen
    pairs: list[tuple[str, str | None]] = []
    for name, default in instruction.pairs:
        value = to.given[name] if name in to.given else None if default is None else to.one(default)
        if value is not None:
            seen[name] = value
        pairs.append((name, value))
    return replace(instruction, pairs=tuple(pairs))


def _from(instruction: From, to: _Expander) -> Instruction:
    return replace(instruction, image=to.one(instruction.image), platform=to.one(instruction.platform))


def _inline(instruction: Copy | Add, to: _Expander) -> tuple[tuple[str, str], ...]:
    pairs = zip(instruction.inline, instruction.literal, strict=True)
    return tuple((name, content if literal else to.document(content)) for (name, content), literal in pairs)


def _copy(instruction: Copy, to: _Expander) -> Instruction:
    return replace(
        instruction,
        chown=to.one(instruction.chown),
        chmod=to.one(instruction.chmod),
        sources=to.all(instruction.sources),
        destination=to.one(instruction.destination),
        inline=_inline(instruction, to),
    )


def _add(instruction: Add, to: _Expander) -> Instruction:
    return replace(
        instruction,
        chown=to.one(instruction.chown),
        chmod=to.one(instruction.chmod),
        checksum=to.one(instruction.checksum),
        sources=to.all(instruction.sources),
        destination=to.one(instruction.destination),
        inline=_inline(instruction, to),
    )


def _expose(instruction: Expose, to: _Expander) -> Instruction:
    ports: list[str] = []
    for port in instruction.ports:
        to.one(port)  # for the names that are not set
        ports += words.split_expand(port, to.variables, to.escape)
    return replace(instruction, ports=tuple(ports))


def _run(instruction: Run, to: _Expander) -> Instruction:
    if not instruction.mounts:
        return instruction
    return replace(instruction, mounts=tuple(mounts.parse(mount.text, to.one) for mount in instruction.mounts))


def _user(instruction: User, to: _Expander) -> Instruction:
    return replace(instruction, user=to.one(instruction.user))


def _workdir(instruction: Workdir, to: _Expander) -> Instruction:
    return replace(instruction, path=to.one(instruction.path))


def _stopsignal(instruction: Stopsignal, to: _Expander) -> Instruction:
    return replace(instruction, signal=to.one(instruction.signal))


def _volume(instruction: Volume, to: _Expander) -> Instruction:
    paths = to.all(instruction.paths)
    if not all(paths):
        raise SplitError("VOLUME specified can not be an empty string")
    return replace(instruction, paths=paths)


_EXPANDING = cast(
    "dict[type[Instruction], Callable[[Instruction, _Expander], Instruction]]",
    {
        Add: _add, Arg: _arg, Copy: _copy, Env: _env, Expose: _expose, From: _from, Label: _label, Run: _run,
        Stopsignal: _stopsignal, User: _user, Volume: _volume, Workdir: _workdir,
    },
)  # fmt: skip
