"""Warnings that a look at the instructions as written gives: casing, names of stages, old forms, descriptions. Pure."""

from collections.abc import Sequence

from berth.build.dockerfile import splitting
from berth.build.dockerfile.instructions import Arg, Env, From, Instruction, Label, Maintainer, Warning
from berth.build.dockerfile.lines import Line

Read = Sequence[tuple[Line, Instruction]]
_RESERVED = ("context", "scratch")


def check(read: Read) -> list[Warning]:
    """Whether they are wanted is for `checks` to say."""
    found = _casing(read) + _names(read)
    for line, instruction in read:
        keyword = _keyword(line)
        if isinstance(instruction, From):
            found += _from(line, instruction)
        elif isinstance(instruction, Maintainer):
            message = "Maintainer instruction is deprecated in favor of using label"
            found.append(Warning("MaintainerDeprecated", message, instruction.place))
        elif isinstance(instruction, Env | Label) and _is_old_form(line):
            message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
            found.append(Warning("LegacyKeyValueFormat", message, instruction.place))
        found += _description(line, instruction)
    return found


def _keyword(line: Line) -> str:
    return splitting.split(line.text).keyword


def _from(line: Line, instruction: From) -> list[Warning]:
    words = splitting.SPACES.split(splitting.split(line.text).arguments)
    if len(words) < 3:
        return []
    found = []
    if words[2] != words[2].lower():
        found.append(Warning("StageNameCasing", f"Stage name '{words[2]}' should be lowercase", instruction.place))
    keyword, as_ = _keyword(line), words[1]
    if _cased_alike(keyword) and as_ != (as_.lower() if keyword.islower() else as_.upper()):
        found.append(Warning("FromAsCasing", f"'{as_}' and '{keyword}' keywords' casing do not match", instruction.place))
    return found


def _cased_alike(word: str) -> bool:
    return word in (word.lower(), word.upper())


def _casing(read: Read) -> list[Warning]:
    """All keywords as most of them are. ARGs before the first FROM don't count."""
    first = next((index for index, (_, instruction) in enumerate(read) if isinstance(instruction, From)), len(read))
    keywords = [(_keyword(line), instruction) for line, instruction in read[first:]]
    lower = sum(keyword.islower() for keyword, _ in keywords)
    upper = sum(keyword.isupper() for keyword, _ in keywords)
    wanted = "lowercase" if lower > upper else "uppercase"
    return [
        Warning(
            "ConsistentInstructionCasing",
            f"Command '{keyword}' should match the case of the command majority ({wanted})",
            instruction.place,
        )
        for keyword, instruction in keywords
        if keyword != (keyword.lower() if wanted == "lowercase" else keyword.upper())
    ]


def _names(read: Read) -> list[Warning]:
    found: list[Warning] = []
    seen: set[str] = set()
    for _, instruction in read:
        if not isinstance(instruction, From) or not instruction.name:
            continue
        name = instruction.name
        if name in _RESERVED:
            message = f'Stage name should not use the same name as reserved stage "{name}"'
            found.append(Warning("ReservedStageName", message, instruction.place))
        if name in seen:
            message = f'Duplicate stage name "{name}", stage names should be unique'
            found.append(Warning("DuplicateStageName", message, instruction.place))
        seen.add(name)
    return found


def _is_old_form(line: Line) -> bool:
    first = splitting.words(splitting.split(line.text).arguments, "\\")
    return bool(first) and "=" not in first[0]


def descriptions(read: Read) -> dict[tuple[int, str], str]:
    """What comments right above say of a stage or of arguments, by line and name."""
    found: dict[tuple[int, str], str] = {}
    for line, instruction in read:
        if line.comments:
            for name in _described(instruction):
                said = [comment.removeprefix(f"{name} ").strip() for comment in line.comments if comment.startswith(f"{name} ")]
                found |= {(instruction.place.line, name): said[0]} if said else {}
    return found


def _described(instruction: Instruction) -> list[str]:
    if isinstance(instruction, From):
        return [instruction.name] if instruction.name else []
    return [name for name, _ in instruction.pairs] if isinstance(instruction, Arg) else []


def _description(line: Line, instruction: Instruction) -> list[Warning]:
    keyword, names = "FROM" if isinstance(instruction, From) else "ARG", _described(instruction)
    if not names or not line.comments or line.comments[-1].split(" ")[0] in names:
        return []
    example = names[0] if len(names) == 1 else "<arg_key>"
    message = f"Comment for {keyword} should follow the format: `# {example} <description>`"
    return [Warning("InvalidDefinitionDescription", message, instruction.place)]
