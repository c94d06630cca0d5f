"""Traces a command and makes one of its system calls fail, or kills the process that makes it. x86-64.

    python faults.py '{"log": FILE, "after": CALL, "at": [PROCESS, N], "do": "error" | "kill"}' COMMAND...

strace's `inject` counts for every process alike; here the N-th call of one process is meant, where PROCESS is 0
for the command, 1 for the first it forks, and so on. Only calls that change something count, from the first
`after` of process 0 on. Everything counted goes to the log, one JSON list [process, n, name, what] a line. Leaves
with the command; what it leaves behind runs on, untraced. Source: ptrace(2).
"""

import ctypes
import errno
import json
import os
import signal
import sys

from berth.linux import syscall_tables

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_GETREGS, _SETREGS, _SYSCALL, _GETEVENTMSG, _SEIZE = 12, 13, 24, 0x4201, 0x4206
_OPTIONS = 1 | 2 | 4 | 8 | 16  # TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, TRACEEXEC
_NAMES = {number: name for name, number in syscall_tables.numbers("X86_64").items()}
# struct user_regs_struct: where what is
_RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _REGISTERS = 10, 12, 13, 14, 15, 27
# What reads, waits, or is the interpreter's own housekeeping.
_HARMLESS = frozenset(
    "read pread64 readv close stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents64 lseek mmap munmap"
    " mprotect mremap brk madvise rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack exit exit_group futex getpid gettid getppid getuid"
    " geteuid getgid getegid getcwd uname ioctl poll ppoll wait4 waitid clock_gettime clock_nanosleep getrandom execve capget getrlimit"
    " prlimit64 sched_getaffinity set_robust_list set_tid_address rseq arch_prctl recvfrom recvmsg pause restart_syscall getsockname sysinfo"
    " getsockopt getpgrp getsid getpgid geteuid fadvise64 statfs fstatfs kill pidfd_send_signal".split()
)  # fmt: skip


def _ptrace(request: int, pid: int, data: object = 0) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request}, {pid})")


def _text(pid: int, address: int) -> str:
    try:
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(address)
            return memory.read(200).split(b"\0")[0].decode(errors="replace")
    except (OSError, ValueError, OverflowError):
        return ""


class Tracer:
    """One traced command. run() returns its exit code."""

    def __init__(self, orders: dict, log: int) -> None:
        self.log = log
        self.after: str = orders.get("after", "")
        self.at: list = orders.get("at") or [-1, -1]
        self.do: str = orders.get("do", "error")
        self.number = errno.EIO
        self.counting = not self.after
        self.ordinals: dict[int, int] = {}
        self.counts: dict[int, int] = {}
        self.programs: set[int] = set()  # what is no longer the runtime but a program
        self.inside: dict[int, int] = {}  # pid -> 1 in a call, 2 in the one that shall fail

    def run(self, command: "list[str]") -> int:
        first = os.fork()
        if first == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            os.execvp(command[0], command)
        os.waitpid(first, os.WUNTRACED)
        # Not PTRACE_TRACEME: with that a child begins with SIGSTOP, and stays stopped if we leave by then.
        _ptrace(_SEIZE, first, _OPTIONS)
        self.ordinals[first] = 0
        os.kill(first, signal.SIGCONT)
        while True:
            pid, status = os.waitpid(-1, 0x40000000)  # __WALL
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if pid == first:
                    return os.waitstatus_to_exitcode(status)
                continue
            try:
                self._stopped(pid, status)
            except ProcessLookupError:
                continue

    def _stopped(self, pid: int, status: int) -> None:
        number, event, passed_on = os.WSTOPSIG(status), status >> 16, 0
        if number == signal.SIGTRAP | 0x80:
            self._at_call(pid)
        elif event:
            if event in (1, 2, 3):
                child = ctypes.c_ulong()
                _ptrace(_GETEVENTMSG, pid, ctypes.byref(child))
                self._ordinal(child.value)
            elif event == 4:
                self.inside[pid] = 1
                if self.ordinals.get(pid):
                    self.programs.add(pid)
        else:
            passed_on = number
        self.inside.setdefault(pid, 0)
        _ptrace(_SYSCALL, pid, passed_on)

    def _ordinal(self, pid: int) -> int:
        return self.ordinals.setdefault(pid, len(self.ordinals))

    def _at_call(self, pid: int) -> None:
        registers = (ctypes.c_ulong * _REGISTERS)()
        _ptrace(_GETREGS, pid, ctypes.byref(registers))
        state = self.inside.get(pid, 0)
        self.inside[pid] = 0
        if state == 2:
            registers[_RAX] = (1 << 64) - self.number
            _ptrace(_SETREGS, pid, ctypes.byref(registers))
        if state:
            return
        self.inside[pid] = 1
        name = _NAMES.get(registers[_ORIG_RAX], str(registers[_ORIG_RAX]))
        ordinal = self._ordinal(pid)
        if not self.counting:
            self.counting = ordinal == 0 and name == self.after
            if not self.counting:
                return
        if pid in self.programs or name in _HARMLESS or (name == "openat" and not registers[_RDX] & 0o103):
            return
        index = self.counts[ordinal] = self.counts.get(ordinal, -1) + 1
        what = _text(pid, registers[_RSI] if name.endswith("at") or name in ("openat2", "write") else registers[_RDI])
        os.write(self.log, json.dumps([ordinal, index, name, what]).encode() + b"\n")
        if [ordinal, index] == self.at:
            if self.do == "kill":
                os.kill(pid, signal.SIGKILL)
                raise ProcessLookupError
            registers[_ORIG_RAX] = (1 << 64) - 1
            _ptrace(_SETREGS, pid, ctypes.byref(registers))
            self.inside[pid] = 2


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    code = Tracer(given, os.open(given["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)).run(sys.argv[2:])
    os._exit(code if code >= 0 else 128 - code)
