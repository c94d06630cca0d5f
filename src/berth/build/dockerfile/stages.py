"""Which stages a target needs, and what of the context they read. Pure."""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from berth.build.dockerfile import words
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.expanding import expand_instruction, placed
from berth.build.dockerfile.instructions import Add, Copy, Dockerfile, Instruction, Onbuild, Run, Stage
from berth.build.dockerfile.parse import quoted
from berth.build.dockerfile.scopes import Scope, global_variables, predefined
from berth.build.dockerfile.suggesting import nearest
from berth.errors import InvalidParameter
from berth.oci import platforms
from berth.oci.platforms import Platform

SCRATCH = "scratch"
_URL = re.compile(r"https?://")
_GIT = re.compile(r"(?:git|ssh)://|[a-zA-Z0-9_.-]+@[a-zA-Z0-9_.-]+:|https?://[^#]+\.git(?:#|\Z)")


def select(dockerfile: Dockerfile, target: str = "") -> Stage:
    """The stage to build: by name or number, the last one where `target` is ''."""
    if not target:
        return dockerfile.stages[-1]
    found = find(dockerfile, target)
    if found is None and target.isascii() and target.isdigit() and len(target) < 7 and int(target) < len(dockerfile.stages):
        found = dockerfile.stages[int(target)]
    if found is None:
        reason = f"target stage {quoted(target)} could not be found"
        raise DockerfileError(reason, suggestion=suggestion(dockerfile, target), name=dockerfile.name)
    return found


def find(dockerfile: Dockerfile, name: str, before: int | None = None) -> Stage | None:
    """The last stage of this name, of those before the one with the number `before`."""
    stages = dockerfile.stages[:before]
    return next((stage for stage in reversed(stages) if stage.name and stage.name == name.lower()), None)


def suggestion(dockerfile: Dockerfile, name: str) -> str:
    """The stage that was probably meant by a name that is none, for when there is no such image either."""
    return nearest(name, [stage.name for stage in dockerfile.stages if stage.name])


def base_of(stage: Stage, dockerfile: Dockerfile, variables: Mapping[str, str]) -> Stage | str:
    """What FROM names, its variables put in: an earlier stage or an image."""
    expanded, _ = expand_instruction(stage.base, variables, dockerfile.escape)
    if not expanded.image:
        found = words.expand(stage.base.image, variables, dockerfile.escape)
        meant = next((near for name in sorted(found.undefined) if (near := nearest(name, variables))), "")
        raise placed(f"base name ({stage.base.image}) should not be blank", stage.base, stage.base.image, meant)
    return find(dockerfile, expanded.image, stage.index) or expanded.image


def platform_of(stage: Stage, dockerfile: Dockerfile, variables: Mapping[str, str]) -> Platform | None:
    """What `--platform` of FROM says; None where it says nothing."""
    text = stage.base.platform
    if not text:
        return None
    try:
        found = words.expand(text, variables, dockerfile.escape)
    except DockerfileError as error:
        raise placed(f"failed to process arguments for platform {text}: {error.reason}", stage.base, text) from None
    meant = next((near for name in sorted(found.undefined) if (near := nearest(name, variables))), "")
    if not found.text:
        raise placed(f"empty platform value from expression {text}", stage.base, text, meant)
    if near := nearest_platform(found.text):
        raise placed(f"failed to parse platform {text}: {found.text} is none", stage.base, text, near)
    try:
        return platforms.parse(found.text)
    except InvalidParameter as error:
        raise placed(f"failed to parse platform {text}: {error}", stage.base, text, meant) from None


def nearest_platform(text: str) -> str:
    """The platform that was meant by one with a slip in it; '' where all words are known, or far from any: those may come yet."""
    parts = text.lower().split("/")
    known = [platforms.ARCHITECTURES | platforms.SYSTEMS] if len(parts) == 1 else [platforms.SYSTEMS, platforms.ARCHITECTURES]
    near = [word if word in some else nearest(word, sorted(some)) for word, some in zip(parts, known, strict=False)]
    return "/".join([*near, *parts[2:]]) if all(near) and near != parts[:2] else ""


def source_of(name: str, stage: Stage, dockerfile: Dockerfile, instruction: Instruction) -> Stage | str:
    """What `--from=name` of an instruction in `stage` means: a stage, by name or number, or an image."""
    found = _by_number(name, dockerfile, instruction) if re.fullmatch(r"[+-]?[0-9]{1,9}", name) else find(dockerfile, name)
    if found is None:
        return name
    if found.index == stage.index:
        raise placed(f"circular dependency detected on stage: {_shown(stage)}", instruction, name)
    if found.index > stage.index:
        reason = f"cannot copy from stage {quoted(name)}, it needs to be defined before current stage {quoted(_shown(stage))}"
        raise placed(reason, instruction, name)
    return found


def _by_number(name: str, dockerfile: Dockerfile, instruction: Instruction) -> Stage:
    index = int(name)
    if not 0 <= index < len(dockerfile.stages):
        raise placed(f"invalid stage index {index}", instruction, name)
    return dockerfile.stages[index]


def _shown(stage: Stage) -> str:
    return stage.name or f"stage-{stage.index}"


def sources_of(instruction: Instruction) -> Iterator[str]:
    """The names behind `--from` of one instruction. A cache mount without one begins empty, which is nobody's stage."""
    if isinstance(instruction, Copy) and instruction.from_:
        yield instruction.from_
    elif isinstance(instruction, Run):
        yield from (mount.from_ for mount in instruction.mounts if mount.from_)


def dependencies(stage: Stage, dockerfile: Dockerfile, variables: Mapping[str, str] | None = None) -> frozenset[int | str]:
    """Numbers of the stages, and names of the images, that a stage is made from; scratch is none.

    `variables` are those of `scopes.global_variables`; without them, as with no build arguments on linux/amd64.
    """
    base = base_of(stage, dockerfile, _defaults(dockerfile) if variables is None else variables)
    found: set[int | str] = {_key(base)}
    instructions = list(stage.instructions)
    if isinstance(base, Stage):
        instructions += [one.instruction for one in base.instructions if isinstance(one, Onbuild)]
    for instruction in instructions:
        for name in sources_of(instruction):
            found.add(_key(source_of(name, stage, dockerfile, instruction)))
    return frozenset(found - {SCRATCH})


def _key(source: Stage | str) -> int | str:
    return source.index if isinstance(source, Stage) else source


def _defaults(dockerfile: Dockerfile, build_args: Mapping[str, str] | None = None) -> dict[str, str]:
    platform = Platform("linux", "amd64")
    return global_variables(dockerfile, build_args or {}, predefined(platform, platform))


def needed(dockerfile: Dockerfile, target: Stage, variables: Mapping[str, str] | None = None) -> list[int]:
    """Numbers of the stages that the target needs, itself included, in the order of the file."""
    found: set[int] = set()
    left = [target.index]
    while left:
        index = left.pop()
        if index not in found:
            found.add(index)
            left += [one for one in dependencies(dockerfile.stages[index], dockerfile, variables) if isinstance(one, int)]
    return sorted(found)


def is_remote(source: str) -> bool:
    """Whether ADD fetches it: a URL or a Git repository."""
    return bool(_URL.match(source) or _GIT.match(source))


def context_paths(
    dockerfile: Dockerfile, target: str, build_args: Mapping[str, str], variables: Mapping[str, str] | None = None
) -> tuple[str, ...] | None:
    """What of the context the stages read that the target needs: paths relative to it, with COPY's wildcards.

    None where it could be all, also where a variable has a part that is not known here: an image's environment is not,
    nor are an image's ONBUILD triggers, which whoever pulls it adds by `paths_of`.
    """
    known = _defaults(dockerfile, build_args) if variables is None else variables
    wanted = needed(dockerfile, select(dockerfile, target), known)
    scopes: dict[int, Scope] = {}
    found: set[str] = set()
    for index in wanted:
        stage = dockerfile.stages[index]
        base = base_of(stage, dockerfile, known)
        scope = scopes[base.index].child() if isinstance(base, Stage) else Scope({}, build_args, known, dockerfile.escape)
        scopes[index] = scope
        triggers = [one.instruction for one in base.instructions if isinstance(one, Onbuild)] if isinstance(base, Stage) else []
        paths = paths_of([*triggers, *stage.instructions], scope)
        if paths is None:
            return None
        found |= paths
    return tuple(sorted(found))


def paths_of(instructions: Sequence[Instruction], scope: Scope) -> set[str] | None:
    """The context's paths that instructions read, one after the other; None where it could be all."""
    found: set[str] = set()
    for instruction in instructions:
        before = dict(scope.variables)
        expanded, _ = scope.step(instruction)
        sources = _read_from_context(expanded)
        if sources:
            _, undefined = expand_instruction(instruction, before)
            if undefined:
                return None
        for source in sources:
            path = posixpath.normpath(posixpath.join("/", source)).lstrip("/")
            if not path:
                return None
            found.add(path)
    return found


def _read_from_context(instruction: Instruction) -> tuple[str, ...]:
    if isinstance(instruction, Copy):
        return () if instruction.from_ else instruction.sources
    if isinstance(instruction, Add):
        return tuple(source for source in instruction.sources if not is_remote(source))
    if isinstance(instruction, Run):
        return tuple(mount.source or "/" for mount in instruction.mounts if mount.type == "bind" and not mount.from_)
    return ()
