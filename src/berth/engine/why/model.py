"""What `why` knows of a container, and what it says. Pure."""

import dataclasses

from berth.linux import signals

_NAMES = {number: f"SIG{name}" for name, number in signals.NUMBERS.items() if name not in ("CLD", "POLL", "IOT")}
# Which do not handle SIGTERM unless their script does; as process 1 of a pid namespace it then never reaches them.
_NO_HANDLER = ("sh", "bash", "ash", "dash", "busybox", "sleep", "tail", "cat", "python", "python3", "node")


@dataclasses.dataclass(frozen=True, slots=True)
class ProgramFile:
    """The first program's file as found beneath the container's root. problem: why it cannot be executed, '' if it can."""

    path: str
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """status to health: of the record; the rest is gathered for one answer."""

    name: str
    status: str
    now_ns: int
    started_ns: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    end: dict = dataclasses.field(default_factory=dict)  # what the monitor reported of the last run
    host: dict = dataclasses.field(default_factory=dict)  # HostConfig
    command: list[str] = dataclasses.field(default_factory=list)
    user: str = ""
    open_stdin: bool = False
    restarts: int = 0
    restart_due_ns: int = 0
    health: dict | None = None
    health_command: list[str] = dataclasses.field(default_factory=list)
    removed: bool = False
    lines: list[str] = dataclasses.field(default_factory=list)  # the last the program wrote in its last run
    granted: frozenset[str] = frozenset()  # names of capabilities
    seccomp: dict | None = None  # OCI's linux.seccomp; None: no filter
    program: ProgramFile | None = None
    kernel_line: str = ""  # of the kernel's log, about the first process
    killed_call: str = ""  # the system call that seccomp killed it for
    listeners: dict[int, str] = dataclasses.field(default_factory=dict)  # port -> who has it on the host
    free: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # place -> free bytes, free inodes


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """reason: a word for programs; sentence: what follows the container's name; advice: what to do, '' for nothing."""

    reason: str
    sentence: str
    advice: str = ""
    likely: bool = False  # read from the program's own words: no certainty


def size_text(size_bytes: int) -> str:
    """As memory limits are written: 64 MiB, 1.5 GiB."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def signal_name(number: int) -> str:
    """`SIGTERM`; real-time ones by number."""
    return _NAMES.get(number, f"signal {number}")


def without_stop(command: list[str], host: dict) -> bool:
    """Whether the first process is likely one that a stop signal never reaches."""
    first = command[0].rsplit("/", 1)[-1] if command else ""
    return not host.get("Init") and host.get("PidMode") != "host" and first in _NO_HANDLER
