"""A table-driven parser that reads flags as Docker's (pflag) does. No `re`, no `argparse`: start-up time.

A flag is (long name, short letter or '', kind, placeholder, help). Kinds are named as Docker names them: bool; the
numbers (int, uint16, ...); those that may be given several times (list, filter, ..., and those of SLICES, which
take a list in one word too: `a,b`); all else is one string.
`--flag=value`, `--flag value`, `-f value`, `-fvalue`, `-it` together; `--` ends the flags. With
`interspersed` false the first word that is no flag ends them too, so that `run IMAGE ls -l` works.
"""

Flag = tuple[str, str, str, str, str]
NUMBERS = ("int", "int64", "uint16", "uint", "uint64")
SLICES = ("stringSlice", "ipSlice", "ipNetSlice")
LISTS = ("list", "filter", "map", "ulimit", "mount", "network", "stringToString", *SLICES)
# Other names of flags, for the commands that have them: what is given by both stays in its order.
ALIASES = {"net": "network", "net-alias": "network-alias", "dns-opt": "dns-option"}


class UsageError(Exception):
    """A flag is wrong; the message says which. Docker ends with 125 then, and shows the usage."""

    code = 125


class Misuse(UsageError):
    """The flags are right, but what is asked for makes no sense: a number of arguments, two that exclude each other."""

    code = 1


class Refused(UsageError):
    """Flags of run or create that cannot be served together, or a file that cannot be read: 125, and no usage is shown."""


class Arity(Misuse):
    """The number of arguments is wrong; the usage is shown."""


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


class Syntax:
    """What may stand behind a command's name. usage: in words. at_most: -1 for any number."""

    __slots__ = ("at_least", "at_most", "flags", "interspersed", "usage")

    def __init__(
        self, usage: str, flags: "tuple[Flag, ...]" = (), *, at_least: int = 0, at_most: int = -1, interspersed: bool = True
    ) -> None:
        self.usage, self.flags, self.interspersed = usage, flags, interspersed
        self.at_least, self.at_most = at_least, at_most

    def parse(self, words: "list[str]", name: str) -> Parsed:
        """name: the command as it was called, for the messages. Raises UsageError or HelpRequested."""
        parsed = parse(words, self.flags, interspersed=self.interspersed)
        if wrong := self.wrong_count(len(parsed.arguments)):
            raise Arity(f"berth: 'berth {name}' {wrong}")
        return parsed

    def wrong_count(self, count: int) -> str:
        """What is wrong with a number of arguments, in Docker's words; '' if nothing is."""
        low, high = self.at_least, self.at_most
        if count >= low and (high < 0 or count <= high):
            return ""
        if high == 0:
            return "accepts no arguments"
        noun = "argument" if max(low, high) == 1 else "arguments"
        if low == high:
            return f"requires {low} {noun}"
        if high < 0:
            return f"requires at least {low} {noun}"
        return f"requires at least {low} and at most {high} {noun}" if low else f"requires at most {high} {noun}"


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
    flag = by_long.get(name) or by_long.get(ALIASES.get(name, ""))
    if flag is None:
        raise UsageError(f"unknown flag: --{name}{_nearest(name, by_long)}")
    if flag[2] == "bool":
        _store(parsed, flag, value if equals else "true")
    elif equals:
        _store(parsed, flag, value)
    elif index < len(words):
        _store(parsed, flag, words[index])
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
                _store(parsed, flag, rest[1:])
                return index
            _store(parsed, flag, "true")
            continue
        if rest:
            _store(parsed, flag, rest[1:] if rest.startswith("=") else rest)
            return index
        if index >= len(words):
            raise UsageError(f"flag needs an argument: '{letter}' in {word}")
        _store(parsed, flag, words[index])
        return index + 1
    return index


_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


def _store(parsed: Parsed, flag: Flag, text: str) -> None:
    name, kind = flag[0], flag[2]
    if kind == "bool":
        if text not in _TRUE + _FALSE:
            raise wrong_value(flag, text, "expected true or false")
        parsed.values[name] = text in _TRUE
    elif kind in NUMBERS:
        try:
            number = int(text, 0)
        except ValueError:
            raise wrong_value(flag, text, "it is not a number") from None
        if number < 0 and kind.startswith("u"):
            raise wrong_value(flag, text, "it cannot be negative")
        parsed.values[name] = number
    elif kind in LISTS:
        found = parsed.values.setdefault(name, [])
        assert isinstance(found, list)
        found.extend(_pieces(flag, text) if kind in SLICES else [text])
    else:
        parsed.values[name] = text


def _pieces(flag: Flag, text: str) -> "list[str]":
    """Of a list in one word, as CSV writes it: `"a,b"` in quotes is one piece."""
    if '"' not in text:
        return text.split(",") if text else []
    from berth.cli.fields import csv_fields

    try:
        return csv_fields(text)
    except ValueError as error:
        raise wrong_value(flag, text, str(error)) from None


def wrong_value(flag: Flag, text: str, why: str) -> UsageError:
    shown = f"-{flag[1]}, --{flag[0]}" if flag[1] else f"--{flag[0]}"
    return UsageError(f'invalid argument "{text}" for "{shown}" flag: {why}')


def _nearest(name: str, known: "dict[str, Flag]") -> str:
    """`; did you mean --x?` for a slip of a letter or two."""
    from berth.cli.helping import nearest

    close = nearest(name, list(known))
    return f"; did you mean --{close}?" if close else ""
