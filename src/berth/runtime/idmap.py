"""Id maps of a new user namespace, written by somebody who may not write any: an ordinary user.

The kernel lets such a user map one id, its own; for gids only after setgroups(2) has been given up in the
namespace, as dropping a group could be a way around a file that is closed to that group. More ids are
mapped by newuidmap and newgidmap, set-user-id programs that look the user up in /etc/subuid and subgid.
Source: user_namespaces(7), newuidmap(1). Imported late: the host's root never comes here.
"""

import errno
import os

from berth.errors import BerthError, Forbidden, InvalidSpec, StartFailed, SystemFailure
from berth.linux import cgroup, libc
from berth.runtime import hooks

_TOOLS = {"uid": "newuidmap", "gid": "newgidmap"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write(pid: int, kind: str, mappings: "list[dict]") -> None:
    """Maps the ids of process `pid`, which waits in a user namespace of this user's. kind: 'uid' or 'gid'.

    Raises InvalidSpec or Forbidden, with what newuidmap has said.
    """
    own = os.geteuid() if kind == "uid" else os.getegid()
    if len(mappings) == 1 and mappings[0]["hostID"] == own and mappings[0]["size"] == 1:
        _write_own(pid, kind, mappings[0])
        return
    words = arguments(mappings)
    tool = _find(_TOOLS[kind])
    if not tool:
        raise Forbidden(
            f"linux.{kind}Mappings: {' '.join(words)}: as an ordinary user, only your own id {own} can be mapped, "
            f"alone; for more install {_TOOLS[kind]} (Debian: uidmap) and get a range in /etc/sub{kind}"
        )
    try:
        hooks.run_program(tool, [_TOOLS[kind], str(pid), *words], dict(os.environ), b"", None)
    except StartFailed as error:
        raise Forbidden(
            f"linux.{kind}Mappings: {_TOOLS[kind]} {' '.join(words)} {error}; the ids a user may map are in /etc/sub{kind}"
        ) from None


def arguments(mappings: "list[dict]") -> "list[str]":
    """What newuidmap(1) takes after the pid: first id inside, first outside, count, of each range."""
    return [str(entry[key]) for entry in mappings for key in ("containerID", "hostID", "size")]


def _write_own(pid: int, kind: str, entry: dict) -> None:
    text = " ".join(arguments([entry]))
    try:
        if kind == "gid":
            cgroup.write_file(f"/proc/{pid}/setgroups", "deny")
        cgroup.write_file(f"/proc/{pid}/{kind}_map", text)
    except OSError as error:
        raise InvalidSpec(f"linux.{kind}Mappings: {text!r}: {error.strerror}") from None


def why_no_namespaces(flags: int, error: OSError) -> BerthError:
    """What clone(2) means by EPERM and ENOSPC."""
    if error.errno == errno.ENOSPC:
        return SystemFailure("linux.namespaces: there are too many already: raise the limits below /proc/sys/user, or nest less deep")
    if not flags & libc.CLONE_NEWUSER:
        return Forbidden(
            "linux.namespaces: an ordinary user can have others only with a 'user' namespace, which the bundle lacks; "
            "'berth oci spec --rootless' writes one that has it"
        )
    return Forbidden(
        "linux.namespaces: this kernel lets no ordinary user make a 'user' namespace; "
        "see the sysctls user.max_user_namespaces and, on Debian, kernel.unprivileged_userns_clone"
    )


def _find(name: str) -> str:
    for directory in (os.environ.get("PATH") or _PATH).split(":"):
        if directory.startswith("/") and os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    return ""
