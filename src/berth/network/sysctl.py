"""Settings below /proc/sys/net, of the network namespace that this thread is in."""

from pathlib import Path

_TOP = Path("/proc/sys/net")


def read(name: str) -> str:
    """A setting's value, "" where the kernel has none."""
    try:
        return (_TOP / name).read_text().strip()
    except OSError:
        return ""


def write(name: str, value: str) -> bool:
    """Whether it has the value now. One that the kernel does not have is not missed: what it would keep away is not there either."""
    if read(name) in (value, ""):
        return True
    try:
        (_TOP / name).write_text(value)
    except OSError:
        return False
    return True
