"""Which capability or seccomp rule is likely behind "Operation not permitted". Pure.

The program's words, or else its command line, name what it tried; a table says which call that is and what it needs.
Source: capabilities(7) and the manual pages of the calls.
"""

import re

from berth.engine.why.model import Facts, Verdict

# What a line or command says -> the call, the capability it needs ('' for none: then only seccomp refuses).
_NEEDS: list[tuple[str, str, str]] = [
    (r"\bu?mount(?:ing)?\b|losetup|pivot_root|swapo(?:n|ff)", "mount", "SYS_ADMIN"),
    (r"\bnsenter|setns", "setns", "SYS_ADMIN"),
    (r"unshare|namespace|\bbwrap\b|bubblewrap|CLONE_NEW", "unshare", "SYS_ADMIN"),
    (r"settimeofday|clock_settime|set (?:the )?date|hwclock|adjtime|\bchronyd?\b|\bntpd\b", "clock_settime", "SYS_TIME"),
    (r"sethostname|\bhostname\b", "sethostname", "SYS_ADMIN"),
    (r"\bping6?\b|raw socket|SOCK_RAW|tcpdump|traceroute", "socket", "NET_RAW"),
    (r"rtnetlink|\biptables|\bnft\b|ifconfig|SIOC\w+|\bip6?tables|\broute\b|/dev/net/tun|\bip (?:link|addr|route)|wg\b|\btc\b", "socket", "NET_ADMIN"),
    (r"ptrace|strace|\bgdb\b", "ptrace", "SYS_PTRACE"),
    (r"ch(?:own|grp)|change owner", "chown", "CHOWN"),
    (r"mknod", "mknod", "MKNOD"),
    (r"chroot", "chroot", "SYS_CHROOT"),
    (r"insmod|modprobe|rmmod|init_module", "init_module", "SYS_MODULE"),
    (r"reboot|poweroff|halt\b|kexec", "reboot", "SYS_BOOT"),
    (r"setpriority|\bnice\b|renice|sched_set\w+|chrt|ionice|setaffinity", "sched_setscheduler", "SYS_NICE"),
    (r"setrlimit|ulimit|prlimit", "prlimit64", "SYS_RESOURCE"),
    (r"mlock|lock memory", "mlock", "IPC_LOCK"),
    (r"klogctl|dmesg|syslog\(", "syslog", "SYSLOG"),
    (r"set(?:res|re|fs)?gid|set ?groups|initgroups", "setgid", "SETGID"),
    (r"set(?:res|re|fs)?uid|\bsu\b|\bsudo\b|gosu|su-exec|can't set (?:uid|gid)|setpriv", "setuid", "SETUID"),
    (r"setcap|file cap", "setxattr", "SETFCAP"),
    (r"\bkill\b", "kill", "KILL"),
    (r"chattr|set flags", "ioctl", "LINUX_IMMUTABLE"),
    (r"bpf|xdp", "bpf", "BPF"),
    (r"perf_event_open|\bperf\b", "perf_event_open", "PERFMON"),
    (r"bind", "bind", "NET_BIND_SERVICE"),
    (r"io_uring", "io_uring_setup", ""),
    (r"keyctl|add_key", "keyctl", ""),
    (r"userfaultfd", "userfaultfd", ""),
    (r"chmod", "fchmodat", "FOWNER"),
]  # fmt: skip
_OTHERWISE = "to find out, try once with --security-opt seccomp=unconfined, then with --cap-add ALL; keep what helps and no more"


def denied(facts: Facts, line: str, found: re.Match[str]) -> Verdict:
    """What is likely missing; judged from the line first, then from the command line."""
    if facts.host.get("Privileged"):
        return Verdict("denied", "the kernel refused a call for a reason that no privilege of the container changes", "see capabilities(7) and the host's security modules")
    need = next((need for text in (line, " ".join(facts.command)) for need in _NEEDS if re.search(need[0], text, re.IGNORECASE)), None)
    user = facts.user.partition(":")[0]
    ordinary = user not in ("", "0", "root")
    if need is None:
        why = f"it runs as user {user}, who has no capabilities" if ordinary else "it lacks a capability, or its seccomp profile denies the call"
        return Verdict("denied", why, _OTHERWISE)
    _, call, capability = need
    if capability and ordinary:
        return Verdict("denied", f"{call} needs CAP_{capability}, and user {user} has no capabilities", f"run as root with --cap-add {capability}, or do without")
    if capability and f"CAP_{capability}" not in facts.granted:
        return Verdict("capability", f"{call} needs CAP_{capability}, which the container lacks", f"--cap-add {capability}, if you trust it with that")
    if refuses(facts.seccomp, call):
        return Verdict("seccomp", f"its seccomp profile denies {call}", f"allow {call} in a profile of your own: --security-opt seccomp=FILE")
    if capability:
        return Verdict("denied", f"{call} was refused although it has CAP_{capability}: by AppArmor, SELinux, a masked or read-only mount, or a user namespace",
                       "--security-opt apparmor=unconfined tells whether it is AppArmor")  # fmt: skip
    return Verdict("denied", f"{call} was refused", _OTHERWISE)


_PASSES = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY")


def refuses(profile: dict | None, call: str) -> bool:
    """Whether a profile denies a call whatever its arguments."""
    if not profile:
        return False
    refused = profile.get("defaultAction") not in _PASSES
    for rule in profile.get("syscalls") or []:
        if call in (rule.get("names") or []):
            if rule.get("action") in _PASSES:
                return False
            refused = refused or not rule.get("args")
    return refused
