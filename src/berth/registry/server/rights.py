"""Who may do what to which repositories: a file of lines, read again when it changes.

    @web = alice, bob                 # a group
    *          public/**              pull
    @users     team/*                 pull
    @web, eve  team/web, team/web/**  push
    carol      **                     push, delete

Users, repositories and rights, apart by at least one blank; in a column, commas part. `*` among users is anybody, logged in or not;
`@users` whoever is logged in. In a repository's name `*` stands for part of a component, `**` for anything. Lines add up, and what no
line gives is refused. Who may push may pull.
"""

import logging
import os
import re

from berth.errors import InvalidParameter

log = logging.getLogger("berth.registry")

ANYBODY, LOGGED_IN = "*", "@users"
_ACTIONS = {"pull": {"pull"}, "push": {"pull", "push"}, "delete": {"delete"}, "all": {"pull", "push", "delete"}}
_PATTERN = re.compile(r"[a-z0-9._/*-]+")
_GROUP = re.compile(r"@[A-Za-z0-9._-]+")
_MOST_BYTES = 1 << 20


class Rule:
    """One line: for these users, on repositories that match, these actions."""

    __slots__ = ("actions", "repositories", "users")

    def __init__(self, users: set[str], repositories: "re.Pattern[str]", actions: set[str]) -> None:
        self.users, self.repositories, self.actions = users, repositories, actions

    def gives(self, user: str, name: str, action: str) -> bool:
        return action in self.actions and self.is_for(user) and bool(self.repositories.fullmatch(name))

    def is_for(self, user: str) -> bool:
        return ANYBODY in self.users or (bool(user) and (LOGGED_IN in self.users or user in self.users))


class Rights:
    """The rules of a file. Raises InvalidParameter for one that cannot be used; what it becomes later, unusable, is only logged."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed: tuple[int, int, int] = (0, 0, 0)
        self._rules: list[Rule] = []
        try:
            self._read()
        except OSError as error:
            raise InvalidParameter(f"--rights {path}: {error.strerror}") from None

    def may(self, user: str, name: str, action: str) -> bool:
        """user: '' for nobody; action: pull, push or delete."""
        return any(rule.gives(user, name, action) for rule in self._current())

    def any_for(self, user: str) -> bool:
        """Whether there is a repository for this user."""
        return any(rule.is_for(user) for rule in self._current())

    def _current(self) -> list[Rule]:
        try:
            self._read()
        except (OSError, InvalidParameter) as error:
            if self._changed != (-1, -1, -1):
                log.error("the rights stay as they were: %s", error)
            self._changed = (-1, -1, -1)
        return self._rules

    def _read(self) -> None:
        found = os.stat(self._path)
        changed = (found.st_mtime_ns, found.st_ino, found.st_size)
        if changed == self._changed:
            return
        with open(self._path, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_BYTES + 1)
        self._rules = parse(text, self._path)
        self._changed = changed


def parse(text: str, path: str) -> list[Rule]:
    """InvalidParameter that names the line, what is wrong in it, and what is right."""
    if len(text) > _MOST_BYTES:
        raise InvalidParameter(f"--rights {path}: larger than {_MOST_BYTES} bytes")
    groups: dict[str, set[str]] = {}
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        try:
            if line.startswith("@") and "=" in line:
                name, members = _group(line)
                groups[name] = members
            elif line:
                rules.append(_rule(line, groups))
        except ValueError as error:
            raise InvalidParameter(f"--rights {path}, line {number}: {error}") from None
    return rules


def _group(line: str) -> tuple[str, set[str]]:
    name, _, members = line.partition("=")
    name = name.strip()
    if not _GROUP.fullmatch(name) or name == LOGGED_IN:
        raise ValueError(f"{name[:80]!r} cannot be the name of a group: write @NAME = USER, USER; @users is whoever is logged in")
    return name, set(_words(members))


def _rule(line: str, groups: dict[str, set[str]]) -> Rule:
    columns = re.sub(r"\s*,\s*", ",", line).split()
    if len(columns) != 3:
        raise ValueError(f"{len(columns)} columns, not 3: write USERS REPOSITORIES RIGHTS, with commas within a column")
    users: set[str] = set()
    for user in _words(columns[0]):
        if user.startswith("@") and user != LOGGED_IN:
            if user not in groups:
                raise ValueError(f"{user[:80]!r} is no group above this line: write {user[:80]} = USER, USER first")
            users |= groups[user]
        else:
            users.add(user)
    actions: set[str] = set()
    for word in _words(columns[2]):
        if word not in _ACTIONS:
            raise ValueError(f"{word[:80]!r} is no right: there are {', '.join(_ACTIONS)}")
        actions |= _ACTIONS[word]
    return Rule(users, re.compile("|".join(_expression(pattern) for pattern in _words(columns[1]))), actions)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _expression(pattern: str) -> str:
    if not _PATTERN.fullmatch(pattern) or "***" in pattern:
        raise ValueError(f"{pattern[:80]!r} is no repository's name: lower-case letters, digits, '.', '_', '-' and '/', with * or ** for any")
    parts = re.split(r"(\*\*|\*)", pattern)
    return "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
