"""`berth build --call`: what a Dockerfile says of itself, without building anything. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from berth.build import planning
from berth.build.dockerfile import instructions as words
from berth.build.dockerfile.checks import check
from berth.build.dockerfile.stages import needed, select
from berth.build.planning import Options
from berth.errors import InvalidParameter

_AROUND = 2
_RULES = "https://docs.docker.com/go/dockerfile/rule/"


def call(kind: str, data: bytes, name: str, options: Options) -> dict[str, Any]:
    """{"text", "exit_code"}. InvalidParameter for a kind that is none, and for a Dockerfile that is wrong."""
    dockerfile = planning.read(data, name)
    if kind == "check":
        return _check(dockerfile, options)
    if kind == "targets":
        return {"text": _targets(dockerfile), "exit_code": 0}
    if kind == "outline":
        return {"text": _outline(dockerfile, options), "exit_code": 0}
    raise InvalidParameter(f"--call {kind}: expected build, check, outline or targets")


def _check(dockerfile: words.Dockerfile, options: Options) -> dict[str, Any]:
    found = check(dockerfile, build_args=options.build_args)
    if not found:
        return {"text": "Check complete, no warnings found.\n", "exit_code": 0}
    count = f"{len(found)} warning{'s have' if len(found) > 1 else ' has'}"
    lines = [f"Check complete, {count} been found!"]
    source = dockerfile.source.splitlines()
    for warning in found:
        lines += ["", f"WARNING: {warning.code} - {_RULES}{_dashed(warning.code)}/", warning.message]
        lines += picture(dockerfile.name, source, warning.place.line, warning.place.end_line)
    return {"text": "\n".join(lines) + "\n", "exit_code": 1}


def picture(name: str, source: Sequence[str], start: int, end: int) -> list[str]:
    """The lines start to end and some around them, as BuildKit shows them."""
    if not start:
        return []
    rule = "-" * 20
    lines = [f"{name}:{start}", rule]
    for number in range(max(1, start - _AROUND), min(len(source), end + _AROUND) + 1):
        lines.append(f"{number:4} | {'>>>' if start <= number <= end else '   '} {source[number - 1]}".rstrip())
    return [*lines, rule]


def _dashed(code: str) -> str:
    """`JSONArgsRecommended` -> `json-args-recommended`."""
    out = []
    for index, letter in enumerate(code):
        begins = letter.isupper() and index and (code[index - 1].islower() or code[index + 1 : index + 2].islower())
        out.append(f"-{letter.lower()}" if begins else letter.lower())
    return "".join(out)


def _targets(dockerfile: words.Dockerfile) -> str:
    last = dockerfile.stages[-1]
    rows = [(f"{stage.name or stage.index}{' (default)' if stage is last else ''}", stage.base.image) for stage in dockerfile.stages if stage.name or stage is last]
    return _table(("TARGET", "FROM"), rows)


def _outline(dockerfile: words.Dockerfile, options: Options) -> str:
    target = select(dockerfile, options.target)
    stages = [dockerfile.stages[index] for index in needed(dockerfile, target)]
    arguments: dict[str, str] = {}
    secrets: dict[str, str] = {}
    agents: dict[str, str] = {}
    for each in [*dockerfile.global_args, *(each for stage in stages for each in stage.instructions)]:
        if isinstance(each, words.Arg):
            arguments |= {key: options.build_args.get(key, arguments.get(key) or value or "") for key, value in each.pairs}
        elif isinstance(each, words.Run):
            for mount in each.mounts:
                needs = "true" if mount.required else ""
                if mount.type == "secret":
                    secrets[mount.id or mount.target.rpartition("/")[2]] = needs
                elif mount.type == "ssh":
                    agents[mount.id or "default"] = needs
    parts = [f"TARGET: {target.name or target.index}\n"]
    parts += [_table(("BUILD ARG", "VALUE"), arguments.items())] if arguments else []
    parts += [_table(("SECRET", "REQUIRED"), secrets.items())] if secrets else []
    parts += [_table(("SSH", "REQUIRED"), agents.items())] if agents else []
    return "\n".join(parts)


def _table(heads: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    found = [heads, *rows]
    width = max(len(first) for first, _ in found)
    return "".join(f"{first:<{width}}   {second}".rstrip() + "\n" for first, second in found)
