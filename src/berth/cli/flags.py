"""A table-driven parser that reads flags as Docker's (pflag) does. No `re`, no `argparse`: start-up time.

A flag is (long name, short letter or '', kind, placeholder, help). Kinds: bool, string, int, list.
`--flag=value`, `--flag value`, `-f value`, `-fvalue`, `-it` together; `--` ends the flags. With
`interspersed` false the first word that is no flag ends them too, so that `run IMAGE ls -l` works.
"""

Flag = tuple[str, str, str, str, str]


class UsageError(Exception):
    """The command line is wrong; the message says which word and how to see the help."""


class HelpRequested(Exception):
    """`--help` was among the flags."""


class Parsed:
    """Values by long name: bool, str, int or list of str; only what was given is in `values`."""

    __slots__ = ("arguments", "values")

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.arguments: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        value = self.values.get(name, default)
        return value if isinstance(value, str) else default

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.values.get(name, default))

    def number(self, name: str, default: int = 0) -> int:
        value = self.values.get(name, default)
        return value if isinstance(value, int) else default

    def list(self, name: str) -> "list[str]":
        value = self.values.get(name)
        return value if isinstance(value, list) else []

    def given(self, name: str) -> bool:
        return name in self.values


def parse(words: "list[str]", flags: "tuple[Flag, ...]", *, interspersed: bool = True) -> Parsed:
    """Raises UsageError or HelpRequested."""
    by_long = {flag[0]: flag for flag in flags}
    by_short = {flag[1]: flag for flag in flags if flag[1]}
    parsed = Parsed()
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            parsed.arguments += words[index:]
            break
        if word.startswith("--"):
            index = _long(word, words, index, by_long, parsed)
        elif word.startswith("-") and len(word) > 1:
            index = _short(word, words, index, by_short, parsed)
        else:
            parsed.arguments.append(word)
            if not interspersed:
                parsed.arguments += words[index:]
                break
    return parsed


def _long(word: str, words: "list[str]", index: int, by_long: "dict[str, Flag]", parsed: Parsed) -> int:
    name, equals, value = word[2:].partition("=")
    if name == "help":
        raise HelpRequested
    flag = by_long.get(name)
    if flag is None:
        raise UsageError(f"unknown flag: --{name}{_nearest(name, by_long)}")
    if flag[2] == "bool":
        _store(parsed, flag, value if equals else "true", f"--{name}")
    elif equals:
        _store(parsed, flag, value, f"--{name}")
    elif index < len(words):
        _store(parsed, flag, words[index], f"--{name}")
        index += 1
    else:
        raise UsageError(f"flag needs an argument: --{name}")
    return index


def _short(word: str, words: "list[str]", index: int, by_short: "dict[str, Flag]", parsed: Parsed) -> int:
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        flag = by_short.get(letter)
        if flag is None:
            if letter == "h" and len(word) == 2:
                raise HelpRequested
            raise UsageError(f"unknown shorthand flag: '{letter}' in {word}")
        if flag[2] == "bool":
            if rest.startswith("="):
                _store(parsed, flag, rest[1:], f"-{letter}")
                return index
            _store(parsed, flag, "true", f"-{letter}")
            continue
        if rest:
            _store(parsed, flag, rest[1:] if rest.startswith("=") else rest, f"-{letter}")
            return index
        if index >= len(words):
            raise UsageError(f"flag needs an argument: '{letter}' in {word}")
        _store(parsed, flag, words[index], f"-{letter}")
        return index + 1
    return index


_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


def _store(parsed: Parsed, flag: Flag, text: str, shown: str) -> None:
    name, kind = flag[0], flag[2]
    if kind == "bool":
        if text not in _TRUE + _FALSE:
            raise UsageError(f'invalid argument "{text}" for "{shown}" flag: expected true or false')
        parsed.values[name] = text in _TRUE
    elif kind == "int":
        try:
            parsed.values[name] = int(text, 0)
        except ValueError:
            raise UsageError(f'invalid argument "{text}" for "{shown}" flag: it is not a number') from None
    elif kind == "list":
        found = parsed.values.setdefault(name, [])
        assert isinstance(found, list)
        found.append(text)
    else:
        parsed.values[name] = text


def _nearest(name: str, known: "dict[str, Flag]") -> str:
    """` (did you mean --x?)` for a slip of a letter or two."""
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean --{close[0]}?" if close else ""


def help_text(usage: str, summary: str, flags: "tuple[Flag, ...]") -> str:
    """A command's help page."""
    lines = [f"Usage:  berth {usage}", "", summary, ""]
    if flags:
        heads = []
        for long, short, kind, placeholder, _ in flags:
            head = f"  -{short}, --{long}" if short else f"      --{long}"
            heads.append(f"{head} {placeholder or kind}" if kind != "bool" else head)
        width = max(map(len, heads)) + 3
        lines.append("Options:")
        lines += [head.ljust(width) + flag[4] for head, flag in zip(heads, flags, strict=True)]
    return "\n".join(lines).rstrip() + "\n"
