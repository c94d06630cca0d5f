"""Security modules and other one-way doors a process goes through before execve.

AppArmor, SELinux and Landlock are used where the kernel has them; asking for one that is not there
is an error by the caller's decision, so the probes are here too.
"""

import os

from berth.errors import InvalidParameter, NotImplementedHere
from berth.linux import libc


def apparmor_enabled() -> bool:
    """Whether AppArmor is the kernel's module and switched on."""
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            return file.read(1) == "Y" and os.path.isdir("/sys/kernel/security/apparmor")
    except OSError:
        return False


def selinux_enabled() -> bool:
    """Whether a SELinux policy is loaded."""
    return os.path.exists("/sys/fs/selinux/enforce")


def landlock_abi() -> int:
    """Version of Landlock's interface, 0 where the kernel has none or it is switched off."""
    return libc.landlock_abi()


def _write_attribute(name: str, value: str, proc_fd: int) -> None:
    # Through a descriptor of a procfs that we opened ourselves: a path could lead into a procfs that
    # the container's image replaced (CVE-2019-16884, CVE-2025-52881).
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=proc_fd)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def apparmor_on_exec(profile: str, proc_fd: int) -> None:
    """The next execve enters `profile`. `proc_fd`: descriptor of this process's own /proc/self."""
    path = "attr/apparmor/exec"
    try:
        os.stat(path, dir_fd=proc_fd)
    except OSError:
        path = "attr/exec"
    try:
        _write_attribute(path, f"exec {profile}", proc_fd)
    except FileNotFoundError:
        raise InvalidParameter(
            f"apparmor profile {profile!r} is not loaded on this host; load it with apparmor_parser, or see aa-status"
        ) from None
    except OSError as error:
        raise NotImplementedHere(f"apparmor profile {profile!r} cannot be applied: {error.strerror}") from error


def selinux_on_exec(label: str, proc_fd: int) -> None:
    """The next execve gets the SELinux `label`."""
    try:
        _write_attribute("attr/exec", label, proc_fd)
    except OSError as error:
        raise NotImplementedHere(f"selinux label {label!r} cannot be applied: {error.strerror}") from error


def landlock_scope_abstract_sockets() -> None:
    """From now on, abstract unix sockets made outside this domain cannot be connected to.

    They are named in the network namespace, not the file system, so a container that shares the
    host's network reaches the host's (CVE-2020-15257). Landlock's ABI 6 closes that door.
    """
    fd = libc.landlock_create_ruleset(0, 0, libc.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET)
    try:
        libc.landlock_restrict_self(fd)
    finally:
        os.close(fd)
