"""A Dockerfile's bytes become stages and instructions, as BuildKit's frontend reads them. Pure.

Every error is a DockerfileError (or TooLarge) with the line, a caret, and the nearest right word.
"""

import json
from collections.abc import Iterator

from berth.build.dockerfile import casing, directives, reading
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.flags import UnknownWord
from berth.build.dockerfile.instructions import Arg, Dockerfile, From, Instruction, Stage
from berth.build.dockerfile.lines import Line, Source, logical_lines
from berth.build.dockerfile.splitting import SplitError

_MAX_INSTRUCTIONS = 100_000
_MAX_STAGES = 1000


def parse(data: bytes, name: str = "Dockerfile") -> Dockerfile:
    source = Source(data, name)
    escape = directives.escape(source)
    check = directives.check(source)
    read = list(_instructions(source, escape))
    if not read:
        raise DockerfileError("file with no instructions", name=name)
    global_args, stages = _stages(source, [instruction for _, instruction in read])
    warnings = [*source.warnings, *casing.check(read)]
    return Dockerfile(
        syntax=source.directive("syntax"),
        escape=escape,
        check=check,
        global_args=global_args,
        stages=stages,
        warnings=tuple(sorted(warnings, key=lambda one: one.place.line)),
        source=source.text,
        name=name,
        descriptions=casing.descriptions(read),
    )


def parse_trigger(text: str, base: From) -> Instruction:
    """A line of the base image's OnBuild, with the place of the FROM that brought it in."""
    source = Source(text.encode("utf-8", "replace"), "ONBUILD")
    read = list(_instructions(source, "\\"))
    if len(read) != 1:
        raise DockerfileError("onbuild trigger should be a single expression", base.place)
    _, instruction = read[0]
    if isinstance(instruction, From):
        raise DockerfileError("FROM isn't allowed as an ONBUILD trigger", base.place)
    return reading.moved(instruction, base.place)


def _instructions(source: Source, escape: str) -> Iterator[tuple[Line, Instruction]]:
    for count, line in enumerate(logical_lines(source, escape)):
        if count == _MAX_INSTRUCTIONS:
            raise source.wrong(f"more than {_MAX_INSTRUCTIONS} instructions", line.place)
        try:
            yield line, reading.read(line, escape)
        except UnknownWord as error:
            raise source.wrong(str(error), line.place, error.word, known=error.known) from None
        except SplitError as error:
            raise source.wrong(str(error), line.place, error.word) from None


def _stages(source: Source, instructions: list[Instruction]) -> tuple[tuple[Arg, ...], tuple[Stage, ...]]:
    global_args: list[Arg] = []
    found: list[tuple[From, list[Instruction]]] = []
    for instruction in instructions:
        if isinstance(instruction, From):
            if len(found) == _MAX_STAGES:
                raise source.wrong(f"more than {_MAX_STAGES} stages", instruction.place)
            found.append((instruction, []))
        elif found:
            found[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            word = instruction.text.split(None, 1)[0]
            reason = f"no build stage in current context: {word} before the first FROM"
            raise source.wrong(reason, instruction.place, word)
    if not found:
        raise DockerfileError("dockerfile contains no stages to build", name=source.name)
    stages = tuple(Stage(base.name, index, base, tuple(own)) for index, (base, own) in enumerate(found))
    return tuple(global_args), stages


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
