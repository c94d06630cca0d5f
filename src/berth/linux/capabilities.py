"""Capability names and the five sets of a process: names to masks (pure), and setting them.

Source: capabilities(7), linux/capability.h.
"""

import errno

from berth.errors import InvalidParameter
from berth.linux import libc

NAMES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE"
        " NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT"
        " SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL"
        " SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def mask(names: list[str] | tuple[str, ...] | None) -> int:
    """Names -> bit mask; raises InvalidParameter for a name that Linux does not have."""
    value = 0
    for name in names or ():
        if name not in NUMBERS:
            raise InvalidParameter(f"unknown capability {name!r}; see capabilities(7) for the names")
        value |= 1 << NUMBERS[name]
    return value


def names_of(value: int) -> list[str]:
    """Bit mask -> names, lowest number first; bits that have no name here are left out."""
    return [name for name, number in NUMBERS.items() if value >> number & 1]


def bounding_set() -> int:
    """This process's bounding set as a mask: more than this nobody can be given.

    Asked of the kernel and not read from /proc, which in a container is the container's.
    """
    found = 0
    for number in range(64):
        try:
            found |= libc.prctl(libc.PR_CAPBSET_READ, number) << number
        except OSError as error:
            if error.errno != errno.EINVAL:  # above the last one this kernel has; else the rest would not be dropped
                raise
            break
    return found


def drop_bounding(keep: int) -> None:
    """Drops every capability outside `keep` from the bounding set; needs CAP_SETPCAP."""
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            libc.prctl(libc.PR_CAPBSET_DROP, number)  # no error where it is not in the set: asking first would double the calls
        except OSError as error:
            if error.errno == errno.EINVAL:  # above the last one this kernel has
                return
            if error.errno != errno.EPERM or libc.prctl(libc.PR_CAPBSET_READ, number):
                raise


def set_ambient(value: int) -> None:
    """Makes the ambient set exactly `value`; each bit must be permitted and inheritable already."""
    libc.prctl(libc.PR_CAP_AMBIENT, libc.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(value.bit_length()):
        if value >> number & 1:
            libc.prctl(libc.PR_CAP_AMBIENT, libc.PR_CAP_AMBIENT_RAISE, number)
