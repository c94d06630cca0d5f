"""Signals on `_signal` alone: `import signal` brings `enum` along, 3 ms of a cold start.

`_signal` is private to CPython; where it is missing, `signal` serves. Source: signal(7).
"""

from berth.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    try:
        import _signal
    except ImportError:
        import signal as _signal

SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGPIPE, SIGTERM, SIGCHLD, SIGCONT, SIGXFSZ, SIGWINCH, SIGURG = (
    int(getattr(_signal, f"SIG{name}")) for name in "HUP INT QUIT KILL PIPE TERM CHLD CONT XFSZ WINCH URG".split()
)
SIG_DFL, SIG_IGN, SIG_BLOCK, SIG_SETMASK = _signal.SIG_DFL, _signal.SIG_IGN, _signal.SIG_BLOCK, _signal.SIG_SETMASK

# Name without SIG -> number, real-time ones included (RTMIN+3 is computed by `number_of`).
NUMBERS = {
    name[3:]: int(value)
    for name, value in vars(_signal).items()
    if name.startswith("SIG") and not name.startswith("SIG_") and isinstance(value, int)
}
LAST = 64

handle = _signal.signal
mask = _signal.pthread_sigmask
wait = _signal.sigwaitinfo
pidfd_send = _signal.pidfd_send_signal
wake = _signal.set_wakeup_fd


def number_of(text: str) -> int:
    """`TERM`, `SIGTERM`, `15`, `RTMIN+3` -> number; InvalidParameter for what is no signal."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and name.isascii() and 0 < int(name) <= LAST:
        return int(name)
    if name in NUMBERS:
        return NUMBERS[name]
    base, sign, offset = name[:5], name[5:6], name[6:]
    if base in ("RTMIN", "RTMAX") and sign in ("+", "-") and offset.isdigit() and offset.isascii():
        number = NUMBERS[base] + int(sign + offset)
        if NUMBERS["RTMIN"] <= number <= NUMBERS["RTMAX"]:
            return number
    raise InvalidParameter(f"{text!r} is not a signal; expected a name like TERM or a number from 1 to {LAST}")
