"""The values of `# escape=` and `# check=`. Pure."""

from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.flags import BOOLEANS, UnknownWord
from berth.build.dockerfile.instructions import Check, Place
from berth.build.dockerfile.lines import Source
from berth.build.dockerfile.splitting import SplitError
from berth.build.dockerfile.suggesting import nearest

CHECK_ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"  # the build argument that takes the directive's place
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_KEYS = ("skip", "error", "experimental")


def escape(source: Source) -> str:
    value, number = source.directives.get("escape", ("\\", 1))
    if source.text.startswith("#!"):
        return "\\"  # BuildKit looks behind an interpreter's line for the others, not for this one
    if value not in ("\\", "`"):
        raise source.wrong(f"invalid escape token '{value}' does not match ` or \\", Place(number, number), value)
    return value


def check(source: Source) -> Check:
    value, number = source.directives.get("check", ("", 1))
    try:
        return _check(value)
    except UnknownWord as error:
        raise source.wrong(str(error), Place(number, number), error.word, known=error.known) from None
    except SplitError as error:
        raise source.wrong(str(error), Place(number, number), error.word) from None


def check_argument(text: str) -> Check:
    """The same from the build argument."""
    try:
        return _check(text)
    except SplitError as error:
        known = error.known if isinstance(error, UnknownWord) else ()
        raise DockerfileError(f"{CHECK_ARGUMENT}: {error}", suggestion=nearest(error.word, known)) from None


def _check(value: str) -> Check:
    """`skip=Rule,Rule;error=true;experimental=all`."""
    options: dict[str, str] = {}
    for part in value.strip().split(";") if value.strip() else []:
        key, equals, text = part.partition("=")
        key = key.strip()
        if not equals or key not in _KEYS:
            raise UnknownWord(f'invalid check option "{key if equals else part}"', key, _KEYS)
        options[key] = text.strip()
    error = options.get("error", "false")
    if error not in _TRUE + _FALSE:
        raise UnknownWord(f'failed to parse check option "error={error}": neither true nor false', error, BOOLEANS)
    skip, skip_all = _rules(options.get("skip", ""))
    experimental, experimental_all = _rules(options.get("experimental", ""))
    return Check(skip, skip_all, error in _TRUE, experimental, experimental_all)


def _rules(text: str) -> tuple[tuple[str, ...], bool]:
    if text == "all":
        return (), True
    return tuple(rule for part in text.split(",") if (rule := part.strip())), False
