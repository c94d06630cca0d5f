"""Every case below `dockerfiles/`: a Dockerfile and what it means (`result.json`) or the whole error (`error.txt`).

`options.json`, where there is one: build arguments, environments of images, ignored paths, a target, whether to expand.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from berth.build.dockerfile import checks, stages
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.instructions import Command, Dockerfile, From, Instruction, Mount, Place, Stage
from berth.build.dockerfile.parse import parse
from berth.build.dockerfile.scopes import Scope, global_variables, predefined
from berth.oci.platforms import Platform

HERE = Path(__file__).parent / "dockerfiles"
CASES = sorted(path.parent.name for path in HERE.glob("*/Dockerfile"))
ARM = Platform("linux", "arm64")
AMD = Platform("linux", "amd64")


def shown(value: object) -> Any:
    """A value as JSON: fields that are as they would be without being given are left out."""
    if isinstance(value, Command):
        return {"shell": value.words[0]} if value.shell else {"exec": list(value.words)}
    if isinstance(value, Mount):
        return {"type": value.type} | fields_of(value, Mount(value.type, read_only=value.type not in ("cache", "tmpfs")), "text", "type")
    if isinstance(value, Instruction):
        return [type(value).__name__.upper(), fields_of(value, None, "place", "text")]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_of(value, None)
    return [shown(one) for one in value] if isinstance(value, tuple) else value


def fields_of(value: Any, plain: object, *without: str) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        default = getattr(plain, field.name) if plain is not None else field.default
        if field.name not in without and content != default and content not in ("", ()):
            found[field.name] = shown(content)
    return found


def lines(place: Place) -> str:
    return f"{place.line}" if place.line == place.end_line else f"{place.line}-{place.end_line}"


def all_of(dockerfile: Dockerfile) -> list[Instruction]:
    return [*dockerfile.global_args, *(one for stage in dockerfile.stages for one in (stage.base, *stage.instructions))]


def result_of(data: bytes, options: dict[str, Any]) -> dict[str, Any]:
    dockerfile = parse(data)
    build_args = options.get("build_args", {})
    ignored = options.get("ignored")
    warnings = checks.check(
        dockerfile,
        build_args=build_args,
        ignored=None if ignored is None else ignored.__contains__,
        environment=options.get("environment", {}).get,
    )
    result: dict[str, Any] = {
        name: content
        for name in ("syntax", "escape", "check")
        if (content := shown(getattr(dockerfile, name))) not in ("", "\\", {})
    }
    result["instructions"] = [[lines(one.place), one.text, *shown(one)] for one in all_of(dockerfile)]
    result["warnings"] = [[lines(one.place), one.code, one.message] for one in warnings]
    if violation := checks.violation(dockerfile, build_args, warnings):
        result["violation"] = violation
    if options.get("expand"):
        result["expanded"] = expanded(dockerfile, build_args, options.get("environment", {}))
    if "target" in options:
        target = stages.select(dockerfile, options["target"])
        variables = global_variables(dockerfile, build_args, predefined(AMD, ARM))
        result["needs"] = stages.needed(dockerfile, target, variables)
        found = [stages.dependencies(dockerfile.stages[index], dockerfile, variables) for index in result["needs"]]
        result["from"] = [sorted(one, key=str) for one in found]
        paths = stages.context_paths(dockerfile, options["target"], build_args, variables)
        result["context"] = None if paths is None else list(paths)
    return result


def expanded(dockerfile: Dockerfile, build_args: dict[str, str], environment: dict[str, dict[str, str]]) -> list[Any]:
    """Each instruction that variables change, as the stages are gone through; built on amd64 for arm64."""
    before = global_variables(dockerfile, build_args, predefined(AMD, ARM))
    found = []
    scopes: dict[int, Scope] = {}
    for stage in dockerfile.stages:
        base = stages.base_of(stage, dockerfile, before)
        stages.platform_of(stage, dockerfile, before)
        if isinstance(base, Stage):
            scope = scopes[base.index].child()
        else:
            scope = Scope(environment.get(base, {}), build_args, before, dockerfile.escape)
        scopes[stage.index] = scope
        for instruction in (stage.base, *stage.instructions):
            own = Scope(before, build_args, before, dockerfile.escape) if isinstance(instruction, From) else scope
            after, undefined = own.step(instruction)
            if after != instruction or undefined:
                found.append([lines(after.place), *shown(after), *([sorted(undefined)] if undefined else [])])
    return found


def options_of(directory: Path) -> dict[str, Any]:
    path = directory / "options.json"
    return json.loads(path.read_text()) if path.exists() else {}  # type: ignore[no-any-return]


def test_there_are_a_hundred() -> None:
    assert len(CASES) >= 100
    wrong = [name for name in CASES if (HERE / name / "error.txt").exists()]
    assert len(wrong) >= 30
    assert all((HERE / name / "error.txt").exists() != (HERE / name / "result.json").exists() for name in CASES)


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    directory = HERE / name
    data = (directory / "Dockerfile").read_bytes()
    options = options_of(directory)
    if (directory / "result.json").exists():
        assert result_of(data, options) == json.loads((directory / "result.json").read_text())
        return
    with pytest.raises(DockerfileError) as caught:
        result_of(data, options)
    assert str(caught.value) + "\n" == (directory / "error.txt").read_text()
    if caught.value.place is not None:
        assert f"line {caught.value.place.line}:" in str(caught.value)
