"""`berth __complete WORDS...`: what could stand in place of the last word. The shells' scripts ask it (`completion.py`).

Answers a line for each candidate, `WORD` or `WORD<tab>DESCRIPTION`, and may end with `:files` or `:directories`, which the
shell completes by itself. A person waits for it: it never starts an engine, and whatever the engine does, it is silent
after two seconds.
"""

import os
import signal
import sys

from berth.cli.client import ApiError, NoEngine
from berth.cli.commands import COMMANDS, GLOBAL_FLAGS, GROUP_SUMMARIES, GROUPS, resolve
from berth.cli.completevalues import ARGUMENTS, FILTERS, KINDS_OF_PLACEHOLDERS, VALUES
from berth.cli.flags import Flag, UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Candidates = list[tuple[str, str]]
    Ask = Callable[[str], Candidates]

_TIMEOUT_S = 2
_MOST_CANDIDATES = 1000
_MOST_BYTES = 16 << 20
_FILES, _DIRECTORIES = (":files", ""), (":directories", "")


def main(words: "list[str]") -> int:
    """Prints the answer; never fails."""
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.alarm(_TIMEOUT_S)
    try:
        found = candidates(words or [""], Engine(words[:-1]).ask)
    except (ApiError, NoEngine, UsageError, OSError, ValueError, KeyError, TypeError):
        return 0  # there is nobody to tell
    sys.stdout.write("".join(f"{word}\t{text}\n" if text else f"{word}\n" for word, text in found[:_MOST_CANDIDATES]))
    return 0


# -- the words ----------------------------------------------------------------------------------------------------


class Scan:
    """What words amount to. pending: the flag whose value comes next. ended: whether no flag may come any more."""

    def __init__(self, words: "list[str]", flags: "tuple[Flag, ...]", *, interspersed: bool) -> None:
        by_long, by_short = {flag[0]: flag for flag in flags}, {flag[1]: flag for flag in flags if flag[1]}
        self.arguments: list[str] = []
        self.pending: Flag | None = None
        self.ended = False
        self.before = 0  # words before the first argument
        for index, word in enumerate(words):
            if self.pending:
                self.pending = None
            elif self.ended or not word.startswith("-") or word == "-":
                self.before = self.before if self.arguments else index
                self.arguments.append(word)
                self.ended = self.ended or not interspersed
            elif word == "--":
                self.ended = True
            elif word.startswith("--"):
                flag = by_long.get(word[2:])
                self.pending = flag if flag and flag[2] != "bool" else None
            else:
                self.pending = self._value_of_short(word[1:], by_short)
        if not self.arguments:
            self.before = len(words)

    @staticmethod
    def _value_of_short(letters: str, by_short: "dict[str, Flag]") -> "Flag | None":
        for position, letter in enumerate(letters):
            flag = by_short.get(letter)
            if flag and flag[2] != "bool":
                return flag if position == len(letters) - 1 else None
        return None


def candidates(words: "list[str]", ask: "Ask") -> "Candidates":
    """For the last of the words, those that begin as it does. ask: kind of name -> names. Pure but for it."""
    *before, current = words
    top = Scan(before, GLOBAL_FLAGS, interspersed=False)
    if top.pending:
        return _matching(_values("", top.pending, ask), current)
    if not top.arguments:
        return _flags("", GLOBAL_FLAGS, current, ask) if current.startswith("-") else _matching(_commands(), current)
    if top.arguments[0] == "help":
        top.arguments = top.arguments[1:]
        if not top.arguments:
            return _matching(_commands(), current)
    if len(top.arguments) == 1 and top.arguments[0] in GROUPS:
        return _matching([(verb, COMMANDS[name][2]) for verb, name in GROUPS[top.arguments[0]].items()], current)
    name, _, rest = resolve(top.arguments)
    if not name:
        return []
    if name == "oci":
        from berth.cli.oci.main import VERBS

        return [_FILES] if rest else _matching([(verb, entry[2]) for verb, entry in VERBS.items()], current)
    return _of_command(name, rest, current, ask)


def _of_command(name: str, rest: "list[str]", current: str, ask: "Ask") -> "Candidates":
    from berth.cli.helping import syntax_of

    syntax = syntax_of(name)
    assert syntax
    scan = Scan(rest, syntax.flags, interspersed=syntax.interspersed)
    if scan.pending:
        return _matching(_values(name, scan.pending, ask), current)
    if current.startswith("-") and not scan.ended:
        return _flags(name, syntax.flags, current, ask)
    position = len(scan.arguments)
    if syntax.at_most >= 0 and position >= syntax.at_most:
        return _matching([], current)
    kinds = ARGUMENTS.get(name, "").split()
    if not kinds:
        return []
    kind = kinds[position] if position < len(kinds) else kinds[-1] if kinds[-1].endswith("...") else ""
    kind = kind.removesuffix("...")
    return _matching([item for item in _of_kind(kind, ask) if item[0] not in scan.arguments], current)


def _commands() -> "Candidates":
    return [*((name, entry[2]) for name, entry in COMMANDS.items() if " " not in name), *GROUP_SUMMARIES.items(), ("help", "Show a page of help")]


def _flags(name: str, flags: "tuple[Flag, ...]", current: str, ask: "Ask") -> "Candidates":
    """Names of flags; behind `--flag=` its values."""
    long, equals, typed = current.partition("=")
    if equals:
        flag = next((flag for flag in flags if f"--{flag[0]}" == long), None)
        found = _matching(_values(name, flag, ask), typed) if flag else []
        return [(word, text) if word.startswith(":") else (f"{long}={word}", text) for word, text in found]
    known = [(f"--{flag[0]}", flag[4]) for flag in flags] + [("--help", "Show this command's page of help")]
    if not current.startswith("--"):
        known += [(f"-{flag[1]}", flag[4]) for flag in flags if flag[1]]
    return _matching(known, current)


def _values(name: str, flag: Flag, ask: "Ask") -> "Candidates":
    long, _, kind, placeholder, _ = flag
    if long == "filter":
        return [item for entry in FILTERS.get(name, ()) for item in _filter(*entry, ask)]
    if kind == "bool":
        return [("true", ""), ("false", "")]
    found = [(word, "") for word in VALUES.get(f"{name} --{long}") or VALUES.get(long, ())]
    wanted = KINDS_OF_PLACEHOLDERS.get(f"--{long}") or KINDS_OF_PLACEHOLDERS.get(placeholder, "")
    return found + _of_kind(wanted, ask)


def _filter(key: str, values: str, ask: "Ask") -> "Candidates":
    """values: words, or a kind in angle brackets; none: whatever one types."""
    if not values:
        return [(f"{key}=", "")]
    names = ask(values.strip("<>")) if values.startswith("<") else [(word, "") for word in values.split()]
    return [(f"{key}={word}", text) for word, text in names] or [(f"{key}=", "")]


def _of_kind(kind: str, ask: "Ask") -> "Candidates":
    if kind == "file":
        return [_FILES]
    if kind == "directory":
        return [_DIRECTORIES]
    if kind == "copy":  # a path here, or one in a container
        return [*((f"{name}:", text) for name, text in ask("container")), _FILES]
    if kind == "mountable":  # what `-v` may begin with
        return [*((f"{name}:", "volume") for name, _ in ask("volume")), _DIRECTORIES]
    if kind == "anything":
        return ask("container") + ask("image") + ask("network") + ask("volume")
    if kind.startswith("="):
        return [(word, "") for word in kind[1:].split("|")]
    if kind == "stage":
        return _stages()
    if kind == "variable":
        return [(name, "") for name in sorted(os.environ)]
    return ask(kind) if kind not in ("", "new") else []


def _stages() -> "Candidates":
    """Of the Dockerfile here."""
    try:
        with open("Dockerfile", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    return [(words[-1], " ".join(words[1:-2])) for words in lines if len(words) > 3 and words[0].upper() == "FROM" and words[-2].upper() == "AS"]


def _matching(found: "Candidates", current: str) -> "Candidates":
    """Those that begin so, each once; no word that a shell would take apart."""
    known: dict[str, str] = {}
    for word, text in found:
        if word.startswith(":") or (word.startswith(current) and word.isprintable() and " " not in word):
            known.setdefault(word, "".join(c if c.isprintable() else " " for c in text))
    return list(known.items())


# -- the engine ---------------------------------------------------------------------------------------------------

_STATES = {"running": '["running"]', "paused": '["paused"]', "stopped": '["created","exited","dead"]'}


class Engine:
    """The engine that the words before name. Asked only when a name is wanted."""

    def __init__(self, words: "list[str]") -> None:
        self._words = words

    def ask(self, kind: str) -> "Candidates":
        """Kinds: container, running, paused, stopped, image, repository, network, custom (network), volume, context, registry, runtime."""
        try:
            if kind == "context":
                return self._contexts()
            if kind == "registry":
                return self._registries()
            if kind in ("image", "repository"):
                return self._images(kind)
            if kind in ("network", "custom"):
                return self._networks(kind)
            if kind == "volume":
                return sorted((str(volume["Name"]), str(volume["Driver"])) for volume in self._get("/volumes")["Volumes"] or [])
            if kind == "runtime":
                return [(str(name), "") for name in self._get("/info")["Runtimes"]]
            return self._containers(kind)
        except (ApiError, NoEngine, OSError, UsageError):
            return []  # flags and files are still of use

    def _get(self, path: str) -> "Any":
        from berth.cli.main import address_of, client_of
        from berth.models.jsonlite import loads

        scan = Scan(self._words, GLOBAL_FLAGS, interspersed=False)
        parsed = parse(self._words[: scan.before], GLOBAL_FLAGS, interspersed=False)
        client = client_of(parsed, *address_of(parsed), may_start=False)
        data, size = [], 0
        for piece in client.request("GET", path).pieces():
            data.append(piece)
            size += len(piece)
            if size > _MOST_BYTES:
                raise NoEngine("more than anybody chooses from")
        return loads(b"".join(data).decode())

    def _config(self) -> str:
        """The directory of config.json and contexts."""
        from berth.cli.main import address_of

        scan = Scan(self._words, GLOBAL_FLAGS, interspersed=False)
        return address_of(parse([*self._words[: scan.before], "--host="], GLOBAL_FLAGS, interspersed=False))[0]

    def _registries(self) -> "Candidates":
        from berth.cli.configfile import read
        from berth.cli.credentials import HUB, host_of

        config = read(self._config())
        found = [name for key in ("auths", "credHelpers") for name in config.get(key) or {} if name != HUB]
        return [(host_of(name), "") for name in dict.fromkeys(found)]

    def _contexts(self) -> "Candidates":
        from berth.cli.contextstore import DEFAULT, every_meta

        metas = every_meta(self._config())
        return [(DEFAULT, "")] + [(str(meta.get("Name")), str((meta.get("Metadata") or {}).get("Description", ""))) for meta in metas]

    def _containers(self, kind: str) -> "Candidates":
        from berth.cli.client import query

        filters = f'{{"status":{_STATES[kind]}}}' if kind in _STATES else ""
        found = self._get(f"/containers/json{query(all=True, filters=filters)}")
        names = [(name.removeprefix("/"), f"{item['Image']}, {item['Status']}") for item in found for name in item["Names"]]
        return sorted(name for name in names if "/" not in name[0])

    def _networks(self, kind: str) -> "Candidates":
        from berth.cli.client import query

        filters = '{"type":["custom"]}' if kind == "custom" else ""
        found = self._get(f"/networks{query(filters=filters)}")
        return sorted((str(network["Name"]), str(network["Driver"])) for network in found)

    def _images(self, kind: str) -> "Candidates":
        names = [name for image in self._get("/images/json") for name in image["RepoTags"] or [] if name != "<none>:<none>"]
        if kind == "repository":
            names = [name.rpartition(":")[0] for name in names]
        return [(name, "") for name in sorted({*names, *(name.removesuffix(":latest") for name in names)})]
