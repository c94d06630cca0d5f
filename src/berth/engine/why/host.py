"""What the host knows of a container's end: the kernel's log, who listens on a port, how full the disk is."""

import os
import re
import time

from berth.linux import libc, syscall_tables

_RECORD_BYTES, _MAX_RECORDS = 8192, 20_000
_FACILITY = 8  # priorities below are the kernel's
_CLOCKS_DIFFER_NS = 60 * 1_000_000_000
_MAX_LINKS = 50_000
_CRASHES = (4, 5, 7, 8, 11)  # SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV
_SECCOMP_SIGNAL = 31
_NATIVE_AUDIT_ARCH = {"x86_64": "c000003e", "aarch64": "c00000b7"}
_TABLES = {"x86_64": "X86_64", "aarch64": "AARCH64"}
_LISTENS = "0A"


def free(place: str) -> dict[str, tuple[int, int]]:
    """Free bytes and inodes for who is not root, by place; without a limit of inodes there is always one."""
    try:
        found = os.statvfs(place)
    except OSError:
        return {}
    return {place: (found.f_bavail * found.f_frsize, found.f_favail if found.f_files else 1)}


# -- the kernel's log ---------------------------------------------------------------------------------------


def kernel_log(end: dict) -> dict[str, str]:
    """Of a first process that crashed or that seccomp killed: what the kernel noted, as `kernel_line` or `killed_call`."""
    if not end.get("pid") or end.get("signal") not in (*_CRASHES, _SECCOMP_SIGNAL):
        return {}
    return about(end, _kernel_messages())


def about(end: dict, messages: list[tuple[int, str]]) -> dict[str, str]:
    """Pure part of `kernel_log`: the newest message about this process, of its time: numbers are used again."""
    pid = end["pid"]
    for at_ns, text in reversed(messages):
        if not end["started_ns"] - _CLOCKS_DIFFER_NS < at_ns < end["finished_ns"] + _CLOCKS_DIFFER_NS:
            continue
        if end["signal"] == _SECCOMP_SIGNAL:
            found = re.search(rf"type=1326 .*\bpid={pid}\b.*\barch=([0-9a-f]+) syscall=(\d+)", text)
            if found:
                return {"killed_call": _call_name(found.group(1), int(found.group(2)))}
        elif re.search(rf"\[{pid}\]:? (?:trap |general protection|segfault|bad frame)", text):
            return {"kernel_line": text[:200]}
    return {}


def _call_name(arch: str, number: int) -> str:
    if arch == _NATIVE_AUDIT_ARCH.get(libc.MACHINE):
        for name, known in syscall_tables.numbers(_TABLES[libc.MACHINE]).items():
            if known == number:
                return name
    return f"number {number} of architecture {arch}"


def _kernel_messages() -> list[tuple[int, str]]:
    """Time (ns since the epoch) and text of all that is still in the kernel's log and is its own: who writes to
    /dev/kmsg has another facility."""
    found: list[tuple[int, str]] = []
    boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        for _ in range(_MAX_RECORDS):
            try:
                head, _, text = os.read(fd, _RECORD_BYTES).decode(errors="replace").partition(";")
            except BrokenPipeError:  # overwritten while we read: go on with the oldest that is left
                continue
            fields = head.split(",")
            if len(fields) > 2 and fields[0].isdigit() and int(fields[0]) < _FACILITY and fields[2].isdigit():
                found.append((boot_ns + int(fields[2]) * 1000, text.partition("\n")[0]))
    except OSError:  # EAGAIN: that was the last
        pass
    finally:
        os.close(fd)
    return found


# -- who listens ----------------------------------------------------------------------------------------------


def listeners(ports: list[int], names: dict[str, str]) -> dict[int, str]:
    """Port -> program (and container) that listens on it on the host. names: container id -> name."""
    inodes: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        inodes |= listening(_read(f"/proc/net/{table}"), ports)
    found = {port: "another program" for port in inodes.values()}
    for pid, inode in _socket_owners(set(inodes)):
        found[inodes[inode]] = _described(pid, names)
    return found


def listening(table: str, ports: list[int]) -> dict[str, int]:
    """Inode -> port of the sockets in a /proc/net/tcp that listen on one of these ports. Pure."""
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENS:
            port = int(fields[1].rpartition(":")[2], 16)
            if port in ports:
                found[fields[9]] = port
    return found


def _socket_owners(inodes: set[str]) -> list[tuple[int, str]]:
    found, looked = [], 0
    for name in os.listdir("/proc") if inodes else ():
        if not name.isdigit():
            continue
        try:
            for fd in os.listdir(f"/proc/{name}/fd"):
                looked += 1
                target = os.readlink(f"/proc/{name}/fd/{fd}")
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    found.append((int(name), target[8:-1]))
        except OSError:
            continue
        if looked > _MAX_LINKS:
            break
    return found


def _described(pid: int, names: dict[str, str]) -> str:
    program = _read(f"/proc/{pid}/comm").strip()
    shown = f"{''.join(c if c.isprintable() else '?' for c in program)!r} (process {pid} of the host)"
    groups = _read(f"/proc/{pid}/cgroup")
    return next((f"container {name}, {shown}" for identity, name in names.items() if identity in groups), shown)


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""
