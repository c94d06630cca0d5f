"""SLSA provenance of a build: what it was made of, how it was asked for. Pure.

    mode=min   sources and the platform; no values of build arguments, labels or contexts
    mode=max   these too, and the steps with what they depend on. Never secrets: a step names their ids, nobody here has their values.

With SOURCE_DATE_EPOCH nothing of it tells one build from another: no times, no invocation id.

Sources: https://slsa.dev/spec/v0.2/provenance and /v1.0/provenance; https://docs.docker.com/build/metadata/attestations/slsa-definitions/
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from berth.build import graph
from berth.build.graph import Vertex
from berth.build.options import OCI_LAYOUT, Options
from berth.build.worker import Layers, Result, Tree
from berth.errors import InvalidParameter
from berth.models.times import moment
from berth.oci import reference

V02, V1 = "https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:berth:build:dockerfile:v1"
_MIN, _MAX = "min", "max"
_OWN = "urn:berth:build:metadata:v1"
_KEYS = ("mode", "version", "builder-id", "inline-only", "reproducible", "disabled", "type", "filename")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of it. version: 0.2 or 1."""

    mode: str = _MIN
    version: str = V02
    builder: str = ""
    reproducible: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Of a context that the engine has fetched. digest: of the download, or the commit; dockerfile: whether it was in there."""

    url: str
    digest: str
    dockerfile: bool

    def source(self) -> dict[str, Any]:
        return {"uri": _without_password(self.url), "digest": _digest(self.digest)}


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a build. images: (reference, platform) -> digest; dockerfile: what it is called and its bytes."""

    options: Options
    dockerfile: tuple[str, bytes]
    images: Mapping[tuple[str, str], str]
    results: Mapping[Vertex, Result]
    started_ns: int
    finished_ns: int
    invocation: str
    origin: Origin | None = None


def parse(given: Mapping[str, str]) -> Wanted:
    """Parameters of `--provenance`. InvalidParameter for others."""
    for key in given:
        if key not in _KEYS:
            raise InvalidParameter(f"provenance: unknown parameter {key!r}; there are {', '.join(_KEYS[:5])}")
    mode, version = given.get("mode", _MIN), given.get("version", "v0.2")
    if mode not in (_MIN, _MAX):
        raise InvalidParameter(f"provenance: mode {mode!r} is neither min nor max")
    if version not in ("v0.2", "v1"):
        raise InvalidParameter(f"provenance: version {version!r} is neither v0.2 nor v1")
    return Wanted(mode, V1 if version == "v1" else V02, given.get("builder-id", ""), given.get("reproducible", "") in ("true", "1"))


def predicate(wanted: Wanted, facts: Facts, target: Vertex, platform: str) -> dict[str, Any]:
    """Of one image."""
    vertices = _in_order(target)
    materials = [facts.origin.source()] if facts.origin else []
    materials += [found for vertex in vertices if (found := _material(vertex, facts))]
    unique = list({json.dumps(each, sort_keys=True): each for each in materials}.values())
    parameters = _parameters(wanted, facts)
    steps = _steps(vertices, facts) if wanted.mode == _MAX else None
    if wanted.version == V1:
        return _v1(wanted, facts, unique, parameters, steps, platform)
    times = {} if facts.options.epoch is not None else {
        "buildInvocationID": facts.invocation, "buildStartedOn": moment(facts.started_ns), "buildFinishedOn": moment(facts.finished_ns),
    }  # fmt: skip
    return {
        "builder": {"id": wanted.builder}, "buildType": BUILD_TYPE, "materials": unique,
        "invocation": {
            "configSource": {**_configured(facts), "entryPoint": facts.dockerfile[0]}, "parameters": parameters, "environment": {"platform": facts.options.build_platform},
        },
        **({"buildConfig": steps} if steps else {}),
        "metadata": {
            **times, "completeness": {"parameters": wanted.mode == _MAX, "environment": True, "materials": _complete(vertices)},
            "reproducible": wanted.reproducible, **({_OWN: _source(facts)} if wanted.mode == _MAX else {}),
        },
    }  # fmt: skip


def _v1(
    wanted: Wanted, facts: Facts, materials: list[dict], parameters: dict[str, Any], steps: dict[str, Any] | None, platform: str
) -> dict[str, Any]:
    times = {} if facts.options.epoch is not None else {
        "invocationID": facts.invocation, "startedOn": moment(facts.started_ns), "finishedOn": moment(facts.finished_ns),
    }  # fmt: skip
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"configSource": {**_configured(facts), "path": facts.dockerfile[0]}, "request": parameters},
            "internalParameters": {
                "builderPlatform": facts.options.build_platform, "platform": platform, **({"buildConfig": steps} if steps else {}),
                **({"source": _source(facts)} if wanted.mode == _MAX else {}),
            },
            "resolvedDependencies": materials,
        },
        "runDetails": {"builder": {"id": wanted.builder}, "metadata": times},
    }  # fmt: skip


def _configured(facts: Facts) -> dict[str, Any]:
    return facts.origin.source() if facts.origin and facts.origin.dockerfile else {}


def _sent(facts: Facts) -> list[str]:
    """What came from the client itself."""
    return [*([] if facts.origin else ["context"]), *([] if facts.origin and facts.origin.dockerfile else ["dockerfile"])]


def _parameters(wanted: Wanted, facts: Facts) -> dict[str, Any]:
    options = facts.options
    arguments: dict[str, str] = {"target": options.target} if options.target else {}
    if wanted.mode == _MAX:
        arguments |= {f"build-arg:{key}": value for key, value in options.build_args.items()}
        arguments |= {f"label:{key}": value for key, value in options.labels.items()}
        arguments |= {f"context:{key}": _without_password(value) for key, value in options.contexts.items()}
    return {
        "frontend": "dockerfile.v0", **({"args": dict(sorted(arguments.items()))} if arguments else {}),
        "locals": [{"name": name} for name in _sent(facts)],
    }  # fmt: skip


def _source(facts: Facts) -> dict[str, Any]:
    text = _without_password(facts.dockerfile[1].decode(errors="replace"))
    return {"filename": facts.dockerfile[0], "language": "Dockerfile", "data": text}


def _material(vertex: Vertex, facts: Facts) -> dict[str, Any] | None:
    op = vertex.op
    if isinstance(op, graph.ImageSource):
        digest = facts.images.get((op.reference, op.platform), "")
        return {"uri": image_uri(op.reference, op.platform), "digest": _digest(digest)}
    result = facts.results.get(vertex)
    if isinstance(op, (graph.UrlSource, graph.GitSource)):
        digest = op.checksum or (result.identity if isinstance(result, Tree) else "")
        return {"uri": _without_password(op.url), "digest": _digest(digest)}
    return None


def _digest(text: str) -> dict[str, str]:
    """A digest somewhere in what identifies a source; {} for none that is known by one."""
    if found := re.search(r"\b(sha(?:256|512)):([0-9a-f]{64,128})\b", text):
        return {found[1]: found[2]}
    found = re.search(r"\b[0-9a-f]{40}\b", text)
    return {"sha1": found[0]} if found else {}


def image_uri(name: str, platform: str) -> str:
    """A package URL of an image: https://github.com/package-url/purl-spec"""
    if name.startswith(OCI_LAYOUT):
        return f"pkg:oci/{quote(name.removeprefix(OCI_LAYOUT), safe='')}?platform={quote(platform, safe='')}"
    parsed = reference.parse(name)
    version = f"@{parsed.digest or parsed.tag}" if parsed.digest or parsed.tag else ""
    return f"pkg:docker/{parsed.familiar_name}{version}?platform={quote(platform, safe='')}"


def _without_password(text: str) -> str:
    """A person's password may be in an address; it is nobody else's business."""
    return re.sub(r"\b((?:https?|ftp|ssh)://)[^/@\s\"']+@", r"\1", text)


def _complete(vertices: Sequence[Vertex]) -> bool:
    """Whether all that came from outside has a name: a context of the client's has none, nor what a step fetches."""
    return not any(isinstance(each.op, (graph.ContextSource, graph.Run)) for each in vertices)


def _steps(vertices: Sequence[Vertex], facts: Facts) -> dict[str, Any]:
    numbers = {vertex: f"step{number}" for number, vertex in enumerate(vertices)}
    found = []
    for vertex, number in numbers.items():
        result = facts.results.get(vertex)
        found.append({
            "id": number, "op": _plain(vertex.op.definition()), "inputs": [numbers[each] for each in vertex.inputs],
            **({"name": vertex.label} if vertex.label else {}), **({"line": vertex.line} if vertex.line else {}),
            **({"platform": vertex.platform} if vertex.platform else {}),
            **({"layers": list(result.diffs)} if isinstance(result, Layers) else {}),
        })  # fmt: skip
    return dict(json.loads(_without_password(json.dumps({"steps": found}))))


def _plain(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing."""
    return {key: value for key, value in definition.items() if value not in ("", (), None, False)}


def _in_order(target: Vertex) -> list[Vertex]:
    """All that it needs, inputs first; the same order each time."""
    found: dict[Vertex, None] = {}
    pending: list[tuple[Vertex, bool]] = [(target, False)]
    while pending:
        each, ready = pending.pop()
        if each in found:
            continue
        if ready:
            found[each] = None
            continue
        pending.append((each, True))
        pending += [(below, False) for below in reversed(each.inputs) if below not in found]
    return list(found)
