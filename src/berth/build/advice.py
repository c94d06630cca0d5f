"""What is said of a Dockerfile beside what is made of it: broken rules, and names that nothing answers to. Pure."""

from collections.abc import Iterable, Mapping

from berth.build.dockerfile import checks
from berth.build.dockerfile import instructions as words
from berth.build.dockerfile.rules import RULES
from berth.build.dockerfile.scopes import predefined
from berth.build.dockerfile.stages import sources_of
from berth.build.dockerfile.suggesting import nearest
from berth.build.options import PROXIES, Bases, Options, split_pair
from berth.build.planning import short_name
from berth.errors import InvalidParameter
from berth.oci import platforms

_EPOCH, _OF_BUILDKIT = "SOURCE_DATE_EPOCH", "BUILDKIT_"


def unused_arguments(dockerfile: words.Dockerfile, given: Mapping[str, str], bases: Bases) -> str:
    """What is to be said of build arguments that no ARG declares, of an image's triggers neither, and that mean nothing by themselves."""
    triggers = (text.split() for base in bases.values() for text in (base.config.get("config") or {}).get("OnBuild") or [])
    stages = (each for stage in dockerfile.stages for each in stage.instructions if isinstance(each, words.Arg))
    declared = {name for each in (*dockerfile.global_args, *stages) for name, _ in each.pairs}
    declared |= {word.partition("=")[0] for trigger in triggers if trigger[:1] == ["ARG"] for word in trigger[1:]}
    unused = sorted(name for name in given if name not in declared | PROXIES | {_EPOCH} and not name.startswith(_OF_BUILDKIT))
    near = ", ".join(dict.fromkeys(found for name in unused if (found := nearest(name, sorted(declared)))))
    hint = f" (did you mean {near}?)" if near else ""
    return f"One or more build-args [{' '.join(unused)}] were not consumed{hint}" if unused else ""


def slips(dockerfile: words.Dockerfile, options: Options) -> list[str]:
    """What is to be said of names that the Dockerfile has nothing for, where BuildKit says nothing and does nothing."""
    stages = [stage.name for stage in dockerfile.stages if stage.name]
    found = [
        f"--no-cache-filter {name}: there is no such stage{_hint(name, stages)}"
        for name in sorted(options.no_cache_stages) if name not in stages and not (name.isdecimal() and int(name) < len(dockerfile.stages))
    ]  # fmt: skip
    check = checks.options(dockerfile, options.build_args)
    found += [f"check: there is no rule {name}{_hint(name, RULES)}" for name in (*check.skip, *check.experimental) if name not in RULES]
    if not options.contexts:
        return found
    named = {stage.base.image for stage in dockerfile.stages} | {name for stage in dockerfile.stages for each in stage.instructions for name in sources_of(each)}
    known = {short_name(name) for name in (*named, *stages)}
    unused = [name for name in options.contexts if short_name(name) not in known]
    return found + [f"--build-context {name} is not used{hint}" for name in unused if (hint := _hint(short_name(name), known))]


def _hint(word: str, known: Iterable[str]) -> str:
    near = nearest(word, sorted(known))
    return f" (did you mean {near}?)" if near else ""


def checked(dockerfile: words.Dockerfile, options: Options, bases: Bases) -> tuple[words.Warning, ...]:
    """What BuildKit's rules say of a Dockerfile. InvalidParameter where `# check=error=true` makes an error of that."""
    environments = {name: dict(split_pair(pair) for pair in (base.config.get("config") or {}).get("Env") or []) for (name, _), base in bases.items()}
    target = (options.platforms or (options.build_platform,))[0]
    before = predefined(platforms.parse(options.build_platform), platforms.parse(target), options.target)
    found = checks.check(dockerfile, build_args=options.build_args, environment=environments.get, before=before)
    if text := checks.violation(dockerfile, options.build_args, found):
        lines = "".join(f"\n{dockerfile.name}:{warning.place.line}: {warning.code}: {warning.message}" for warning in found)
        raise InvalidParameter(text + lines)
    return found
