"""The values of `# escape=` and `# check=`. Pure."""

from berth.build.dockerfile.instructions import Check, Place
from berth.build.dockerfile.lines import Source

_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def escape(source: Source) -> str:
    value, number = source.directives.get("escape", ("\\", 1))
    if value not in ("\\", "`"):
        raise source.wrong(f"invalid escape token '{value}' does not match ` or \\", Place(number, number), value)
    return value


def check(source: Source) -> Check:
    """`skip=Rule,Rule;error=true;experimental=all`."""
    value, number = source.directives.get("check", ("", 1))
    place = Place(number, number)
    options: dict[str, str] = {}
    for part in value.split(";") if value else []:
        key, equals, text = part.partition("=")
        key = key.strip()
        if not equals or key not in ("skip", "error", "experimental"):
            raise source.wrong(f'invalid check option "{key if equals else part}"', place, key, known=("skip", "error", "experimental"))
        options[key] = text.strip()
    error = options.get("error", "false")
    if error not in _TRUE + _FALSE:
        raise source.wrong(f'failed to parse check option "error={error}": neither true nor false', place, error)
    skip, skip_all = _rules(options.get("skip", ""))
    experimental, experimental_all = _rules(options.get("experimental", ""))
    return Check(skip, skip_all, error in _TRUE, experimental, experimental_all)


def _rules(text: str) -> tuple[tuple[str, ...], bool]:
    if text == "all":
        return (), True
    return tuple(rule for part in text.split(",") if (rule := part.strip())), False
