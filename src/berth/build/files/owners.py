"""`--chown` and USER as numbers, by the files of the root they are for."""

from berth.errors import InvalidParameter
from berth.oci import users
from berth.store import rootfiles


def resolve(text: str, root_fd: int) -> tuple[int, int]:
    """uid and gid of `user`, `user:group`, each a name or a number; a number alone stands for the group, too.

    InvalidParameter for a name that is not in the root's /etc/passwd or /etc/group.
    """
    user, colon, group = text.partition(":")
    if not user or (colon and not group) or ":" in group:
        raise InvalidParameter(f"invalid chown string: {text!r}; it is to be user, or user:group")
    passwd, groups = (rootfiles.read_beneath(root_fd, f"etc/{name}") for name in ("passwd", "group"))
    if _is_number(user):  # whatever the files call by a number
        passwd, group = "", group or user
    found = users.resolve(f"{user}:{group}" if group else user, [], passwd, "" if _is_number(group) else groups)
    return found.uid, found.gid


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
