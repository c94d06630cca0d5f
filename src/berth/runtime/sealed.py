"""Runs this program again from a sealed copy of the interpreter in memory.

A container whose program is `/proc/self/exe` would otherwise hold the host's interpreter open, and could
write to it once we are gone (CVE-2019-5736). A sealed memfd cannot be written by anybody.
"""

import fcntl
import os
import sys

_F_SEAL_ALL = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NAME = "berth-sealed"
# Of `berth oci`: the verbs after which a program of a container runs in what was this process.
VERBS = frozenset(("create", "run", "exec", "restore"))


def is_sealed() -> bool:
    """Whether this interpreter is such a copy."""
    return os.readlink("/proc/self/exe").startswith(f"/memfd:{_NAME}")


def ensure(inheritable_fds: "tuple[int, ...]" = ()) -> None:
    """Returns in a sealed interpreter: at once, or after it has executed the same command line in one."""
    if is_sealed():
        return
    from berth.runtime import sealer

    sealer.keep(_NAME)  # so that the next command does not come here
    copy = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(source).st_size
    while os.sendfile(copy, source, None, size):
        pass
    os.close(source)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _F_SEAL_ALL)
    for fd in inheritable_fds:
        os.set_inheritable(fd, True)
    # argv[0] stays the interpreter's real name: it is how Python finds its library.
    os.execve(copy, [sys.executable, *sys.orig_argv[1:]], dict(os.environ))
