"""`--chmod`: an octal number, or words as chmod(1) takes them. Pure."""

import re
from collections.abc import Callable

from berth.errors import InvalidParameter

ChangeMode = Callable[[int, bool], int]  # permissions and whether it is a directory -> permissions

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]+|[ugo]|)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0o1000}
_BITS = {"r": 4, "w": 2, "x": 1}


def parse_chmod(text: str) -> ChangeMode:
    """What the flag does to permissions. InvalidParameter for what is neither."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        number = int(text, 8)
        return lambda mode, is_directory: number
    clauses = []
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if not match:
            raise InvalidParameter(
                f"invalid chmod parameter: {text!r}; it is to be an octal number from 0 to 7777, or a symbolic mode such as u=rwX,go=rX"
            )
        clauses.append((match[1] or "a", _ACTION.findall(match[2])))

    def change(mode: int, is_directory: bool) -> int:
        mode &= 0o7777
        for who, actions in clauses:
            for operator, permissions in actions:
                mode = _applied(mode, is_directory, "ugo" if "a" in who else who, operator, permissions)
        return mode

    return change


def _applied(mode: int, is_directory: bool, who: str, operator: str, permissions: str) -> int:
    before = mode
    executable = is_directory or bool(before & 0o111)
    for one in who:
        shift = _SHIFTS[one]
        if permissions in ("u", "g", "o"):
            bits = before >> _SHIFTS[permissions] & 7
        else:
            bits = sum(_BITS[letter] for letter in set(permissions) & set("rwx"))
            bits |= 1 if "X" in permissions and executable else 0
        value = bits << shift
        if ("s" in permissions and one in "ug") or ("t" in permissions and one == "o"):
            value |= _SPECIAL[one]
        every = 7 << shift | (0 if is_directory and one != "o" else _SPECIAL[one])  # chmod(1) keeps a directory's s with `=`
        mode = {"+": mode | value, "-": mode & ~value, "=": mode & ~every | value}[operator]
    return mode
