"""What `docker build --check` warns of that needs variables: BuildKit's rules by their names. Pure."""

import re
from collections.abc import Callable, Mapping

from berth.build.dockerfile import directives, ports, words
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.instructions import (
    Add,
    Arg,
    Check,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Shell,
    Stage,
    Warning,
    Workdir,
)
from berth.build.dockerfile.parse import quoted
from berth.build.dockerfile.scopes import Scope, global_variables, predefined
from berth.build.dockerfile.stages import SCRATCH, base_of, is_remote
from berth.build.dockerfile.suggesting import nearest
from berth.errors import InvalidParameter
from berth.oci import platforms, reference

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_TARGET_PLATFORM = "TARGETPLATFORM"
EXPERIMENTAL = frozenset({"CopyIgnoredFile", "InvalidDefinitionDescription"})

ImageEnvironment = Callable[[str], Mapping[str, str] | None]


def check(
    dockerfile: Dockerfile, *, build_args: Mapping[str, str], ignored: Callable[[str], bool] | None = None,
    environment: ImageEnvironment | None = None, before: Mapping[str, str] | None = None,
) -> tuple[Warning, ...]:  # fmt: skip
    """All warnings, those of `parse` included, by line.

    ignored: whether .dockerignore keeps a path out. environment: that of an image, None where it is not known, and then
    nothing is said of variables in stages on top of it. before: the predefined arguments (`scopes.predefined`).
    """
    linux = platforms.Platform("linux", "amd64")
    return _Checker(dockerfile, build_args, ignored, environment, before or predefined(linux, linux)).run()


def options(dockerfile: Dockerfile, build_args: Mapping[str, str]) -> Check:
    """`# check=`, or what is given in its place by a build argument."""
    given = build_args.get(directives.CHECK_ARGUMENT)
    return dockerfile.check if given is None else directives.check_argument(given)


def violation(dockerfile: Dockerfile, build_args: Mapping[str, str], warnings: tuple[Warning, ...]) -> str:
    """The error that `# check=error=true` makes of warnings; '' where it makes none."""
    if not warnings or not options(dockerfile, build_args).error:
        return ""
    return f"lint violation found for rules: {', '.join(sorted({warning.code for warning in warnings}))}"


class _Checker:
    def __init__(
        self, dockerfile: Dockerfile, build_args: Mapping[str, str], ignored: Callable[[str], bool] | None,
        environment: ImageEnvironment | None, before: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._file, self._build_args, self._ignored = dockerfile, build_args, ignored
        self._environment, self._before = environment, before
        self._found: list[Warning] = list(dockerfile.warnings)
        self._global: dict[str, str] = {}
        self._scopes: dict[int, Scope] = {}
        self._known: dict[int, bool] = {}  # whether a stage's environment is
        self._workdir_set: dict[int, bool] = {}
        self._shell: dict[int, bool] = {}

    def run(self) -> tuple[Warning, ...]:
        try:
            self._check_defaults()
            self._global = global_variables(self._file, self._build_args, self._before)
        except DockerfileError:
            return self._sorted()  # the build fails by it and says where
        for stage in self._file.stages:
            try:
                self._from(stage)
                self._stage(stage)
            except DockerfileError:
                break
        return self._sorted()

    def _sorted(self) -> tuple[Warning, ...]:
        wanted = options(self._file, self._build_args)
        found = (one for one in dict.fromkeys(self._found) if _is_wanted(one.code, wanted))
        return tuple(sorted(found, key=lambda one: one.place.line))

    def _warn(self, code: str, message: str, instruction: Instruction) -> None:
        self._found.append(Warning(code, message, instruction.place))

    def _check_defaults(self) -> None:
        variables = global_variables(self._file, {}, self._before)
        for stage in self._file.stages:
            try:
                image = words.expand(stage.base.image, variables, self._file.escape).text
                reference.parse(image)
            except InvalidParameter:
                message = f"Default value for ARG {stage.base.image} results in empty or invalid base image name"
                self._warn("InvalidDefaultArgInFrom", message, stage.base)

    def _from(self, stage: Stage) -> None:
        base, name = stage.base, stage.name
        image = words.expand(base.image, self._global, self._file.escape)
        self._undeclared(image.undefined, base)
        if not base.platform:
            return
        platform = words.expand(base.platform, self._global, self._file.escape)
        self._undeclared(platform.undefined, base)
        if platform.used == {_TARGET_PLATFORM} and not platform.undefined and platform.text == self._global[_TARGET_PLATFORM]:
            message = f"Setting platform to predefined {base.platform} in FROM is redundant as this is the default behavior"
            self._warn("RedundantTargetPlatform", message, base)
        if not platform.used and not platform.undefined and not _names_platform(name, platform.text):
            message = f"FROM --platform flag should not use constant value {quoted(platform.text)}"
            self._warn("FromPlatformFlagConstDisallowed", message, base)

    def _undeclared(self, names: frozenset[str], base: Instruction) -> None:
        declared = [name for arg in self._file.global_args for name, _ in arg.pairs] + list(self._global)
        for name in sorted(names - set(declared)):
            meant = nearest(name, declared)
            hint = f" (did you mean {meant}?)" if meant else ""
            self._warn("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}", base)

    def _stage(self, stage: Stage) -> None:
        base = base_of(stage, self._file, self._global)
        if isinstance(base, Stage):
            scope = self._scopes[base.index].child()
            self._known[stage.index] = self._known[base.index]
            self._shell[stage.index] = self._shell[base.index]
            self._workdir_set[stage.index] = self._workdir_set[base.index]
        else:
            found = {} if base == SCRATCH else self._environment(base) if self._environment else None
            self._known[stage.index] = found is not None
            self._shell[stage.index] = False
            self._workdir_set[stage.index] = False
            scope = Scope({"PATH": "", **(found or {})}, self._build_args, self._global, self._file.escape)
        self._scopes[stage.index] = scope
        last: dict[type[Instruction], Instruction] = {}
        for instruction in stage.instructions:
            expanded, undefined = scope.step(instruction)
            if self._known[stage.index]:
                self._undefined(undefined, instruction, scope)
            self._shell[stage.index] |= isinstance(instruction, Shell)
            self._commands(instruction, last, self._shell[stage.index])
            self._one(expanded, stage)

    def _undefined(self, names: frozenset[str], instruction: Instruction, scope: Scope) -> None:
        for name in sorted(names):
            meant = nearest(name, [*scope.variables, *scope.declared])
            hint = f" (did you mean ${meant}?)" if meant else ""
            self._warn("UndefinedVar", f"Usage of undefined variable '${name}'{hint}", instruction)

    def _commands(self, instruction: Instruction, last: dict[type[Instruction], Instruction], shell: bool) -> None:
        if not isinstance(instruction, Cmd | Entrypoint | Healthcheck):
            return
        name = instruction.text.split(None, 1)[0]
        if earlier := last.get(type(instruction)):
            message = f"Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            self._warn("MultipleInstructionsDisallowed", message, earlier)
        last[type(instruction)] = instruction
        if isinstance(instruction, Cmd | Entrypoint) and instruction.command.shell and not shell:
            message = f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            self._warn("JSONArgsRecommended", message, instruction)

    def _one(self, instruction: Instruction, stage: Stage) -> None:
        if isinstance(instruction, Arg | Env):
            keyword = "ARG" if isinstance(instruction, Arg) else "ENV"
            for name, _ in instruction.pairs:
                if _SECRET.search(name) and not _NO_SECRET.search(name):
                    message = f"Do not use ARG or ENV instructions for sensitive data ({keyword} {quoted(name)})"
                    self._warn("SecretsUsedInArgOrEnv", message, instruction)
        elif isinstance(instruction, Workdir):
            if not self._workdir_set[stage.index] and not instruction.path.startswith("/"):
                message = f"Relative workdir {quoted(instruction.path)} can have unexpected results if the base image changes"
                self._warn("WorkdirRelativePath", message, instruction)
            self._workdir_set[stage.index] = True
        elif isinstance(instruction, Expose):
            self._ports(instruction)
        elif isinstance(instruction, Copy | Add):
            self._sources(instruction)

    def _ports(self, instruction: Expose) -> None:
        for port in instruction.ports:
            if ports.protocol(port) != ports.protocol(port).lower():
                message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                self._warn("ExposeProtoCasing", message, instruction)
            if ":" in port:
                message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                self._warn("ExposeInvalidFormat", message, instruction)

    def _sources(self, instruction: Copy | Add) -> None:
        if self._ignored is None or (isinstance(instruction, Copy) and instruction.from_):
            return
        keyword = "Copy" if isinstance(instruction, Copy) else "Add"
        for source in instruction.sources:
            if not is_remote(source) and self._ignored(source):
                message = f"Attempting to {keyword} file {quoted(source)} that is excluded by .dockerignore"
                self._warn("CopyIgnoredFile", message, instruction)


def _is_wanted(code: str, wanted: Check) -> bool:
    """Experimental rules are asked for by name, and not skipped with the others."""
    if code in EXPERIMENTAL:
        return wanted.experimental_all or code in wanted.experimental
    return not wanted.skip_all and code not in wanted.skip


def _names_platform(stage_name: str, text: str) -> bool:
    """Whether the stage's name says that it is for one platform, or the text is none, which the build will say."""
    try:
        platform = platforms.parse(text)
    except InvalidParameter:
        return True
    return platform.os in stage_name or platform.architecture in stage_name
