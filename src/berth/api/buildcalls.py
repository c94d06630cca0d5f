"""`berth build --call`: what a Dockerfile says of itself, without building anything. Pure.

Each is first what BuildKit's subrequests give as JSON (`frontend.lint`, `frontend.outline`, `frontend.targets`); text is made of that.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from berth.build import planning
from berth.build.dockerfile import instructions as words
from berth.build.dockerfile.checks import check
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.rules import RULES
from berth.build.dockerfile.scopes import Scope, global_variables, predefined
from berth.build.dockerfile.stages import needed, select
from berth.build.options import Options
from berth.errors import InvalidParameter
from berth.oci import platforms

JSON = "json"
FORMATS = ("", "default", JSON)
_AROUND = 2
_ADDRESS = "https://docs.docker.com/go/dockerfile/rule/"


def call(kind: str, data: bytes, name: str, options: Options, form: str = "") -> dict[str, Any]:
    """{"text", "exit_code"}. InvalidParameter for a kind that is none, and for a Dockerfile that is wrong, which a check in JSON tells of itself."""
    if form not in FORMATS:
        raise InvalidParameter(f"--call {kind},format={form}: expected format=json or format=default")
    try:
        dockerfile = planning.read(data, name)
        if kind == "check":
            return _check(dockerfile, options, form)
        if kind == "targets":
            found = _targets(dockerfile)
            return {"text": _indented(found) if form == JSON else _targets_text(found["targets"]), "exit_code": 0}
        if kind == "outline":
            found = _outline(dockerfile, options)
            return {"text": _indented(found) if form == JSON else _outline_text(found), "exit_code": 0}
    except DockerfileError as error:
        if kind != "check" or form != JSON:
            raise
        wrong = {"message": str(error), "location": _location(error.place) if error.place else {}}
        return {"text": _indented({"warnings": [], "sources": [_source(name, data)], "buildError": wrong}), "exit_code": 1}
    raise InvalidParameter(f"--call {kind}: expected build, check, outline or targets")


def _indented(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _location(place: words.Place) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": place.line}, "end": {"line": place.end_line}}]}


def _source(name: str, data: bytes) -> dict[str, Any]:
    return {"filename": name, "data": base64.b64encode(data).decode(), "language": "Dockerfile"}


def _bytes(dockerfile: words.Dockerfile) -> bytes:
    return dockerfile.source.encode(errors="surrogateescape")


# -- check --------------------------------------------------------------------------------------------------------


def _check(dockerfile: words.Dockerfile, options: Options, form: str) -> dict[str, Any]:
    found = check(dockerfile, build_args=options.build_args)
    if form == JSON:
        warnings = [
            {
                "ruleName": warning.code, "description": RULES[warning.code], "url": _url(warning), "detail": warning.message,
                "location": _location(warning.place),
            }
            for warning in found
        ]  # fmt: skip
        return {"text": _indented({"warnings": warnings, "sources": [_source(dockerfile.name, _bytes(dockerfile))]}), "exit_code": int(bool(found))}
    if not found:
        return {"text": "Check complete, no warnings found.\n", "exit_code": 0}
    count = f"{len(found)} warning{'s have' if len(found) > 1 else ' has'}"
    lines = [f"Check complete, {count} been found!"]
    source = dockerfile.source.splitlines()
    for warning in found:
        lines += ["", f"WARNING: {warning.code} - {_url(warning)}", warning.message]
        lines += picture(dockerfile.name, source, warning.place.line, warning.place.end_line)
    return {"text": "\n".join(lines) + "\n", "exit_code": 1}


def _url(warning: words.Warning) -> str:
    return f"{_ADDRESS}{_dashed(warning.code)}/"


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


# -- targets ------------------------------------------------------------------------------------------------------


def _targets(dockerfile: words.Dockerfile) -> dict[str, Any]:
    last = dockerfile.stages[-1]
    found = [
        _given(
            name=stage.name, default=stage is last, description=dockerfile.descriptions.get((stage.base.place.line, stage.name), ""),
            base=stage.base.image, platform=stage.base.platform, location=_location(stage.base.place),
        )
        for stage in dockerfile.stages
    ]  # fmt: skip
    return {"targets": found, "sources": [base64.b64encode(_bytes(dockerfile)).decode()]}


def _given(**fields: Any) -> dict[str, Any]:
    """Without those that say nothing."""
    return {name: value for name, value in fields.items() if value}


def _targets_text(targets: Sequence[dict[str, Any]]) -> str:
    rows = []
    for number, each in enumerate(targets):
        if each.get("name") or each.get("default"):
            name = f"{each.get('name', number)}{' (default)' if each.get('default') else ''}"
            rows.append((name, each["base"], each.get("description", "")))
    return _table(("TARGET", "FROM", "DESCRIPTION"), rows)


# -- outline ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Parameters:
    """By name: what is said of each, and where, the last word of it."""

    arguments: dict[str, dict[str, Any]]
    secrets: dict[str, dict[str, Any]]
    agents: dict[str, dict[str, Any]]


def _outline(dockerfile: words.Dockerfile, options: Options) -> dict[str, Any]:
    """All parameters of the stages that the target needs."""
    target = select(dockerfile, options.target)
    found = _Parameters({}, {}, {})
    platform = platforms.parse((options.platforms or (options.build_platform,))[0])
    before = global_variables(dockerfile, options.build_args, predefined(platforms.parse(options.build_platform), platform, options.target))
    for arg in dockerfile.global_args:
        _note_arguments(dockerfile, arg, before, found)
    scopes: dict[int, Scope] = {}
    for index in needed(dockerfile, target, before):
        stage = dockerfile.stages[index]
        base = next((other for other in reversed(dockerfile.stages[:index]) if other.name and other.name == stage.base.image.lower()), None)
        scope = scopes[base.index].child() if base and base.index in scopes else Scope({}, options.build_args, before, dockerfile.escape)
        scopes[index] = scope
        for each in stage.instructions:
            scope.step(each)
            if isinstance(each, words.Arg):
                _note_arguments(dockerfile, each, scope.variables, found)
            elif isinstance(each, words.Run):
                _note_mounts(each, found)
    parts = {"args": found.arguments, "secrets": found.secrets, "ssh": found.agents}
    return _given(
        name=target.name, description=dockerfile.descriptions.get((target.base.place.line, target.name), ""),
        **{name: sorted(each.values(), key=_line) for name, each in parts.items()}, sources=[base64.b64encode(_bytes(dockerfile)).decode()],
    )  # fmt: skip


def _line(parameter: dict[str, Any]) -> int:
    return int(parameter["location"]["ranges"][0]["start"]["line"])


def _note_arguments(dockerfile: words.Dockerfile, arg: words.Arg, variables: dict[str, str], found: _Parameters) -> None:
    for name, _ in arg.pairs:
        known = found.arguments.get(name, {})
        said = dockerfile.descriptions.get((arg.place.line, name), known.get("description", ""))
        found.arguments[name] = {"name": name, **_given(description=said, value=variables.get(name, "")), "location": _location(arg.place)}


def _note_mounts(run: words.Run, found: _Parameters) -> None:
    for mount in run.mounts:
        where = {"required": mount.required, "location": _location(run.place)}
        if mount.type == "secret":
            name = mount.id or mount.target.rpartition("/")[2]
            found.secrets.setdefault(name, {"name": name, **where})["required"] |= mount.required
        elif mount.type == "ssh":
            name = mount.id or "default"
            found.agents.setdefault(name, {"name": name, **where})["required"] |= mount.required


def _outline_text(outline: dict[str, Any]) -> str:
    parts = [f"TARGET: {outline.get('name', '(default)')}\n" + (f"DESCRIPTION: {outline['description']}\n" if "description" in outline else "")]
    if arguments := outline.get("args"):
        parts.append(_table(("BUILD ARG", "VALUE", "DESCRIPTION"), [(each["name"], each.get("value", ""), each.get("description", "")) for each in arguments]))
    for head, key in (("SECRET", "secrets"), ("SSH", "ssh")):
        if rows := outline.get(key):
            parts.append(_table((head, "REQUIRED"), [(each["name"], "true" if each["required"] else "") for each in rows]))
    return "\n".join(parts)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A last column in which nothing stands is left out."""
    found = [heads, *rows]
    if len(heads) > 2 and not any(row[-1] for row in found[1:]):
        found = [row[:-1] for row in found]
    widths = [max(len(row[column]) for row in found) for column in range(len(found[0]))]
    return "".join("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in found)
