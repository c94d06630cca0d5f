"""`--user` to numbers, by the container's own passwd and group files, given as text. Pure.

Follows Docker: `user`, `user:group`, each a name or a number; a name that is not there is an error,
a number need not be.
"""

from berth.errors import InvalidParameter

_MAX_ID = (1 << 31) - 1
_MAX_FILE_LINES = 100_000


class ResolvedUser:
    """Ids inside the container and the home directory."""

    __slots__ = ("additional_gids", "gid", "home", "uid")

    def __init__(self, uid: int, gid: int, additional_gids: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.additional_gids = additional_gids
        self.home = home


def resolve(user: str, extra_groups: list[str], passwd: str, group: str) -> ResolvedUser:
    """Raises InvalidParameter in Docker's words for a user or group that does not exist."""
    user_part, _, group_part = user.partition(":")
    accounts = _fields(passwd, 6)
    groups = _fields(group, 3)
    account = _find_account(user_part or "0", accounts)
    if account:
        name, uid, gid, home = account[0], int(account[2]), int(account[3]), account[5] or "/"
    elif _number(user_part) is not None:
        name, uid, gid, home = "", _checked_id(user_part), 0, "/"
    elif not user_part:
        name, uid, gid, home = "root", 0, 0, "/root" if passwd else "/"
    else:
        raise InvalidParameter(f"unable to find user {user_part}: no matching entries in passwd file")
    additional = []
    if group_part:
        gid = _group_id(group_part, groups)
    elif name:
        additional = [int(entry[2]) for entry in groups if len(entry) > 3 and name in entry[3].split(",")]
    additional += [_group_id(text, groups) for text in extra_groups]
    # The first group is among them, as with Docker since CVE-2022-36109: setgroups takes the place of all that were there.
    return ResolvedUser(uid, gid, sorted({gid, *additional}), home)


def _fields(text: str, at_least: int) -> list[list[str]]:
    """Lines of a colon-separated file whose number fields are ids; others are passed over."""
    found = []
    for line in text.splitlines()[:_MAX_FILE_LINES]:
        fields = line.strip().split(":")
        numbers = fields[2:4] if at_least > 3 else fields[2:3]
        if len(fields) >= at_least and all(-1 < _id_or(-1, field) <= _MAX_ID for field in numbers):
            found.append(fields)
    return found


def _find_account(user: str, accounts: list[list[str]]) -> list[str] | None:
    for fields in accounts:
        if fields[0] == user:
            return fields
    for fields in accounts:
        if fields[2] == user:
            return fields
    return None


def _group_id(text: str, groups: list[list[str]]) -> int:
    for fields in groups:
        if fields[0] == text:
            return int(fields[2])
    if _number(text) is not None:
        return _checked_id(text)
    raise InvalidParameter(f"unable to find group {text}: no matching entries in group file")


def _number(text: str) -> int | None:
    # Not longer than any id: int() refuses thousands of digits with an error of its own.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _id_or(default: int, text: str) -> int:
    number = _number(text)
    return default if number is None else number


def _checked_id(text: str) -> int:
    value = int(text)
    if value > _MAX_ID:
        raise InvalidParameter(f"uids and gids must be in range 0-{_MAX_ID}: {text}")
    return value
