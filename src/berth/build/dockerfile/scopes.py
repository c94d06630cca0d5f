"""Which variables are set where: the arguments of the platform, those before the first FROM, those of a stage. Pure."""

from collections.abc import Mapping

from berth.build.dockerfile.expanding import expand_instruction
from berth.build.dockerfile.instructions import Arg, Dockerfile, Env, Instruction
from berth.oci.platforms import Platform

NOT_IN_ENVIRONMENT = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})


def predefined(build: Platform, target: Platform, stage_name: str = "") -> dict[str, str]:
    """BUILDPLATFORM, TARGETARCH and so on: set for every FROM, in a stage once an ARG names them."""
    found: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        found |= {
            f"{prefix}PLATFORM": str(platform),
            f"{prefix}OS": platform.os,
            f"{prefix}OSVERSION": "",
            f"{prefix}ARCH": platform.architecture,
            f"{prefix}VARIANT": platform.variant,
        }
    return found | {"TARGETSTAGE": stage_name or "default"}


def global_variables(dockerfile: Dockerfile, build_args: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Those that FROM sees, and an ARG of a stage that has no default; `before` are the predefined ones."""
    found = {name: build_args.get(name, value) for name, value in before.items()}
    for arg in dockerfile.global_args:
        expanded, _ = expand_instruction(arg, found, dockerfile.escape, given=build_args)
        found |= {name: value for name, value in expanded.pairs if value is not None}
    return found


class Scope:
    """What is set in a stage while its instructions are gone through.

    variables: all of it. environment: what of it the image will have. declared: ARGs, with a value or without.
    """

    def __init__(self, environment: Mapping[str, str], build_args: Mapping[str, str], global_: Mapping[str, str], escape: str) -> None:
        self.environment = dict(environment)
        self.variables = dict(environment)
        self.declared: set[str] = set()
        self._build_args, self._global, self._escape = build_args, global_, escape

    def child(self) -> "Scope":
        """What a stage begins with that is FROM this one: also its ARGs."""
        scope = Scope(self.environment, self._build_args, self._global, self._escape)
        scope.variables = dict(self.variables)
        scope.declared = set(self.declared)
        return scope

    def step(self, instruction: Instruction) -> tuple[Instruction, frozenset[str]]:
        """The instruction expanded, and the names it used that are neither set nor declared; its own take effect."""
        expanded, undefined = expand_instruction(instruction, self.variables, self._escape, given=self._build_args)
        undefined -= self.declared | NOT_IN_ENVIRONMENT
        if isinstance(expanded, Env):
            self.environment |= dict(expanded.pairs)
            self.variables |= dict(expanded.pairs)
        elif isinstance(expanded, Arg):
            for name, value in expanded.pairs:
                value = self._global.get(name) if value is None else value
                self.declared.add(name)
                if value is not None and name not in NOT_IN_ENVIRONMENT:
                    self.variables[name] = value
        return expanded, undefined
