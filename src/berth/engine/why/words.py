"""What a program's last words mean: the line that tells why, matched with what its container may and may not do. Pure.

What is concluded here is likely and no more: a program says "Operation not permitted", and its container lacks a
capability that the call it seems to have made needs.
"""

import re
from collections.abc import Callable

from berth.engine.why.denied import denied
from berth.engine.why.model import Facts, Verdict, size_text

_QUOTED_CHARACTERS = 160
_EMFILE = r"too many open files|\bEMFILE\b|\bENFILE\b"


def printable(text: str) -> str:
    """Without what a terminal would obey: control characters, and those that turn the direction of text."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def last_line(lines: list[str]) -> str:
    """The last that has anything in it, cut to a readable length."""
    return next((cut(line) for line in reversed(lines) if line.strip()), "")


def cut(line: str) -> str:
    text = line.strip()
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."


def shown_command(words: list[str]) -> str:
    """A command line for a person's eyes."""
    return printable(" ".join(words))[:_QUOTED_CHARACTERS]


def says_in_use(lines: list[str]) -> bool:
    """Whether who has a port is of interest."""
    return any(re.search(_IN_USE, line, re.IGNORECASE) for line in lines)


def ports(facts: Facts) -> list[int]:
    """Those that the last words, or else the command line, may mean: most likely first."""
    found: list[int] = []
    for line in reversed(facts.lines):
        if re.search(_IN_USE, line, re.IGNORECASE):
            found += [int(text) for text in re.findall(r"(?:port\s+|:)(\d{1,5})\b", line)]
    for word in facts.command:
        found += [int(text) for text in re.findall(r"(?:^|[:=\s])(\d{2,5})\b", word)]
    return [port for port in dict.fromkeys(found) if 0 < port < 65536]


def meaning(facts: Facts, code: int) -> Verdict | None:
    """The verdict that the last words give on an exit with this code; None where they say nothing known."""
    for line in reversed(facts.lines):
        for pattern, judge in _MEANINGS:
            found = re.search(pattern, line, re.IGNORECASE)
            if found:
                verdict = judge(facts, line, found)
                if verdict:
                    head = f"ended with exit code {code}; it said {cut(line)!r}: "
                    return Verdict(verdict.reason, f"{head}likely {verdict.sentence}", verdict.advice, likely=True)
                break
    return None


# -- one for each kind of words ---------------------------------------------------------------------------


def _in_use(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    mode = facts.host.get("NetworkMode") or "default"
    for port in ports(facts):
        if port in facts.listeners:
            return Verdict("port", f"port {port} is in use by {facts.listeners[port]}", f"stop that, or let the program listen elsewhere than on {port}")
    named = next((f"port {text} is in use" for text in re.findall(r"(?:port\s+|:)(\d{1,5})\b", line)), "the port it wants is in use")
    if mode == "host":
        return Verdict("port", f"{named} on the host, whose network it shares", "see who listens (`ss -ltnp` on the host), or choose another port")
    shared = "the network it shares with another container" if mode.startswith("container:") else "its own network"
    return Verdict("port", f"{named} in {shared}", "two of its programs want the same port, or one lingers from before: see its command line")


def _read_only(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    if facts.host.get("ReadonlyRootfs"):
        return Verdict("read-only", "it wanted to write to its root file system, which is read-only (--read-only)",
                       "give it a place to write: --tmpfs PATH or --volume")  # fmt: skip
    return Verdict("read-only", "it wanted to write where a mount is read-only", "see `berth inspect` for mounts with ro; /proc/sys and /sys need --privileged")


def _no_space(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    if "inotify" in line.lower() or "watch" in line.lower():
        return Verdict("inotify", "the host's limit of inotify watches is reached", "raise fs.inotify.max_user_watches on the host (sysctl)")
    if "/dev/shm" in line:
        return Verdict("shm", f"/dev/shm is full ({size_text(facts.host.get('ShmSize') or 64 << 20)})", "make it larger with --shm-size")
    for place, (size_bytes, inodes) in facts.free.items():
        if size_bytes < 16 << 20 or inodes == 0:
            what = f"{size_text(size_bytes)} are" if inodes else "no inodes are"
            return Verdict("disk", f"the disk is full: {what} left in {place}", "make room: `berth system df`, `berth system prune`")
    return Verdict("disk", "a disk, volume or tmpfs that it writes to is or was full", "make room there, or make the tmpfs larger (--tmpfs PATH:size=…)")


def _no_memory(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    limit = facts.end.get("memory_limit_bytes") or 0
    words = f" within its limit of {size_text(limit)}" if limit else ""
    return Verdict("memory", f"it found no memory{words}", "give it more (`berth update --memory`), or set the program's own limits lower")


def _no_process(facts: Facts, line: str, found: re.Match[str]) -> Verdict | None:
    limit = facts.end.get("pids_limit")
    if facts.end.get("pids_refused"):
        return Verdict("pids", f"it reached its limit of {limit} processes", "raise it with `berth update --pids-limit`")
    if re.search(r"fork|thread|clone|process", line, re.IGNORECASE):
        return Verdict("pids", "it could not start a process: a limit of processes (--pids-limit, --ulimit nproc) is reached", "raise it")
    return None


def _no_files(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("files", "it reached its limit of open files", "raise it with --ulimit nofile=SOFT:HARD")


def _too_large(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("files", "a file reached the size that its limit or file system allows", "raise it with --ulimit fsize=BYTES, if that is set")


def _no_network(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    mode = facts.host.get("NetworkMode") or "default"
    if mode in ("none", "default"):
        return Verdict("network", "it wanted to reach somebody, and its network is none: only itself is there", "give it one: --network host")
    return Verdict("network", "the name or the network it wanted cannot be reached from there", "try the same from the host; see --dns")


def _refused(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("network", "nobody listens where it wanted to connect to", "start the other side first, or let a restart policy try again (--restart on-failure)")


def _library(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("library", f"the library {found.group(1)} is not in the image", "put it in, or take an image that has it")


def _libc_version(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("library", f"it was built with a newer C library ({found.group(1)}) than the image has", "take a newer image, or build in this one")


def _exec_format(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("architecture", "a program is built for another machine, or a script has no '#!' line", "take the build for this machine (`uname -m`)")


def _not_found(facts: Facts, line: str, found: re.Match[str]) -> Verdict | None:
    name = next((group for group in found.groups() if group), "")
    if not name or facts.end.get("exit_code") != 127:
        return None
    more = ", or the interpreter in its first line is missing" if "/" in name else ""
    return Verdict("not-found", f"the command {name!r} is not in the image{more}", "put it into the image, or mend the name")


def _no_file(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("file", "a file that it needs is not there", "see that the image has it and that volumes are mounted where it looks")


def _access(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    port = re.search(r"bind|listen", line, re.IGNORECASE)
    if port and "CAP_NET_BIND_SERVICE" not in facts.granted:
        return Verdict("denied", "ports below 1024 need CAP_NET_BIND_SERVICE, which it lacks", "let it listen above 1023, or --cap-add NET_BIND_SERVICE")
    user = facts.user.partition(":")[0]
    who = f"user {user}, as whom it runs," if user not in ("", "0", "root") else "root without CAP_DAC_OVERRIDE"
    if user in ("", "0", "root") and "CAP_DAC_OVERRIDE" in facts.granted:
        return Verdict("permission", "a file is not executable, a mount is noexec, or the kernel's security modules refuse", "see the file's mode: chmod +x")
    return Verdict("permission", f"{who} may not do that with this file", "change its owner or mode in the image or volume, or run as another --user")


def _no_terminal(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    return Verdict("terminal", "it wants a terminal", "give it one: -it")


def _bad_call(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    inner = killed_by_seccomp(facts)
    return Verdict("seccomp", "a program under it made a call that the seccomp profile kills for", inner.advice)


def _no_call(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    more = " or the seccomp profile says so" if facts.seccomp else ""
    return Verdict("denied", f"this kernel does not have the call it made{more}", "try once with --security-opt seccomp=unconfined")


Judge = Callable[[Facts, str, "re.Match[str]"], Verdict | None]
_IN_USE = r"address (?:already )?in use|\bEADDRINUSE\b|port is already allocated|only one usage of each socket"
_MEANINGS: list[tuple[str, Judge]] = [
    (_IN_USE, _in_use),
    (r"read-only file ?system|\bEROFS\b", _read_only),
    (r"no space left on device|\bENOSPC\b|disk quota exceeded|\bEDQUOT\b", _no_space),
    (r"error while loading shared libraries: (\S+?):|Error loading shared library (?=(\S+?):)", _library),
    (r"version [`'\"](GLIBC\w*[\d.]+)'? not found", _libc_version),
    (r"operation not permitted|\bEPERM\b|are you root|must be (?:run as )?root|requires? (?:root|superuser)|you must be root", denied),
    (r"exec format error|\bENOEXEC\b|cannot execute binary file|syntax error: unexpected \"?\(|not a dynamic executable", _exec_format),
    (r"bad system call|\bSIGSYS\b", _bad_call),
    (r"function not implemented|\bENOSYS\b", _no_call),
    (r"(?:^|[\s:])([\w./+@-]+): (?:command )?not found\s*$|can't execute '([^']+)': No such|env: [‘'\"]?([\w./+@-]+)[’'\"]?: No such", _not_found),
    (_EMFILE, _no_files),
    (r"file too large|\bEFBIG\b", _too_large),
    (r"resource temporarily unavailable|can't fork|\bEAGAIN\b|unable to create (?:new )?(?:native )?thread|can't start new thread", _no_process),
    (r"cannot allocate memory|out of memory|\bMemoryError\b|OutOfMemoryError|bad_alloc|\bENOMEM\b", _no_memory),
    (r"temporary failure in name resolution|bad address '|could not resolve|name or service not known|\bEAI_AGAIN\b|\bENOTFOUND\b|"
     r"network is unreachable|\bENETUNREACH\b|no route to host|no such host|server misbehaving", _no_network),
    (r"connection refused|\bECONNREFUSED\b", _refused),
    (r"permission denied|\bEACCES\b", _access),
    (r"not a tty|not a terminal|inappropriate ioctl for device", _no_terminal),
    (r"no such file or directory|\bENOENT\b|FileNotFoundError", _no_file),
]  # fmt: skip


def killed_by_seccomp(facts: Facts) -> Verdict:
    """SIGSYS: the filter of this container, or one that the program made for itself."""
    advice = "allow it in a profile of your own: --security-opt seccomp=FILE"
    if facts.killed_call:
        return Verdict("seccomp", f"was killed by seccomp (SIGSYS) for the system call {facts.killed_call}", advice)
    names = killing_calls(facts.seccomp)
    if names:
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        return Verdict("seccomp", f"was killed by seccomp (SIGSYS); its profile kills for {shown}", advice, likely=len(names) > 1)
    if not facts.seccomp or not kills(facts.seccomp.get("defaultAction")):
        return Verdict("seccomp", "was killed by SIGSYS, and no rule of its profile kills: by a filter that the program made for itself, or by a signal sent",
                       "the program's own sandbox is too strict for this kernel or C library: update it")  # fmt: skip
    return Verdict("seccomp", "was killed by seccomp (SIGSYS) for a system call that its profile does not list",
                   "the kernel's log may name it (type=1326); try SCMP_ACT_ERRNO or SCMP_ACT_LOG as defaultAction to find out")  # fmt: skip


def kills(action: object) -> bool:
    return action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP")


def killing_calls(profile: dict | None) -> list[str]:
    """The calls that a profile names to kill for."""
    rules = (profile or {}).get("syscalls") or []
    return sorted({name for rule in rules if kills(rule.get("action")) for name in rule.get("names") or []})
