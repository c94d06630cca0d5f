"""A program in the foreground: signals go to it, its terminal is ours, and its exit code becomes ours."""

import fcntl
import os
import select
import struct
import termios

from berth.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.runtime.container import Started

_COPY_BYTES = 32768
_NOT_FORWARDED = {"KILL", "STOP", "CHLD", "CLD", "URG", "PIPE", "SEGV", "BUS", "FPE", "ILL", "TRAP", "ABRT", "IOT", "PROF", "VTALRM", "ALRM"}


def attend(started: "Started") -> int:
    """Until the program ends; returns its exit code, 128+n for signal n. Closes the terminal."""
    pidfd = os.pidfd_open(started.pid)
    wakeup, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signals.wake(theirs)
    for name, number in signals.NUMBERS.items():
        if name not in _NOT_FORWARDED:
            signals.handle(number, lambda number, frame: None)
    saved = _raw_terminal() if started.terminal_fd >= 0 else None
    try:
        _copy_until_end(started, pidfd, wakeup)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        signals.wake(-1)
        for fd in (pidfd, wakeup, theirs):
            os.close(fd)
    _, status = os.waitpid(started.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _copy_until_end(started: "Started", pidfd: int, wakeup: int) -> None:
    terminal = started.terminal_fd
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(wakeup, select.POLLIN)
    if terminal >= 0:
        poll.register(terminal, select.POLLIN)
        poll.register(0, select.POLLIN)
        _resize(terminal)
    while True:
        ready = dict(poll.poll())
        if wakeup in ready:
            for number in os.read(wakeup, 512):
                if number == signals.SIGWINCH and terminal >= 0:
                    _resize(terminal)
                _forward(pidfd, number)
        if 0 in ready and terminal >= 0 and not _copy(0, terminal):
            poll.unregister(0)
        if terminal in ready and not _copy(terminal, 1):
            poll.unregister(terminal)
        if pidfd in ready:
            break
    if terminal >= 0:
        os.set_blocking(terminal, False)
        while _copy(terminal, 1):
            pass
        os.close(terminal)


def _copy(source: int, target: int) -> bool:
    """One piece; False at the end of either."""
    try:
        data = os.read(source, _COPY_BYTES)
        while data:
            written = os.write(target, data)
            data = data[written:]
            if not data:
                return True
    except OSError:  # EIO: the last holder of the terminal is gone
        pass
    return False


def _forward(pidfd: int, number: int) -> None:
    try:
        signals.pidfd_send(pidfd, number)
    except OSError:
        pass  # it has ended; the loop sees that next


def _resize(terminal: int) -> None:
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0)))
    except OSError:
        pass  # our own input is no terminal


def _raw_terminal() -> "list | None":
    try:
        saved = termios.tcgetattr(0)
    except termios.error:
        return None
    raw = [*saved]
    raw[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
    raw[1] &= ~termios.OPOST
    raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    termios.tcsetattr(0, termios.TCSADRAIN, raw)
    return saved
