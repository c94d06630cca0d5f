"""`why` as a table: what is known of a container -> the reason, and words of the sentence and the advice."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.cli import why as cli_why
from berth.engine.state import Record
from berth.engine.why import answering as why
from berth.engine.why import denied as why_denied
from berth.engine.why import host as why_host
from berth.engine.why import program as why_program
from berth.engine.why import words as why_words
from berth.engine.why.model import Facts, ProgramFile, size_text
from berth.linux import libc, programs

MIB = 1 << 20
S = 1_000_000_000
DEFAULT_CAPS = frozenset({"CAP_CHOWN", "CAP_NET_RAW", "CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE", "CAP_KILL"})
DENYING = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read", "mount"], "action": "SCMP_ACT_ALLOW"}]}
KILLING = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"}]}


def ended(code: int, **more: object) -> dict:
    return {"exit_code": code, "finished_ns": 9 * S, "oom_killed": False, "started_ns": S, **more}


def asked(*signals: tuple[int, str]) -> list[dict]:
    return [{"signal": number, "by": by, "at_ns": (index + 1) * 10 * S} for index, (number, by) in enumerate(signals)]


def facts(status: str = "exited", **more: object) -> Facts:
    return Facts(**{"name": "web", "status": status, "now_ns": 100 * S, "command": ["app"], "granted": DEFAULT_CAPS, **more})  # type: ignore[arg-type]


CERTAIN = [
    # not ended
    (facts("running", started_ns=S), "running", "runs since about a minute", ""),
    (facts("running", started_ns=S, health={"Status": "healthy", "FailingStreak": 0, "Log": []}), "running", "healthy", ""),
    (facts("running", health={"Status": "unhealthy", "FailingStreak": 3, "Log": [{"ExitCode": 7, "Output": "x\nno answer\n"}]},
           health_command=["curl", "localhost"]), "unhealthy", "3 checks in a row failed, the last ended with 7; the last said: 'no answer'", "curl localhost"),
    (facts("running", health={"Status": "unhealthy", "FailingStreak": 1, "Log": [{"ExitCode": -1, "Output": ""}]}), "unhealthy",
     "could not run or took too long", ""),
    (facts("running", restarts=2, end=ended(3), lines=["boom"]), "running", "restarted 2 times, because it ended by itself with exit code 3", ""),
    (facts("running", oom_killed=True), "running", "killed a process in it for want of memory", "--memory"),
    (facts("paused"), "paused", "paused", "unpause"),
    (facts("restarting", restarts=4, restart_due_ns=112 * S, host={"RestartPolicy": {"Name": "always"}}, end=ended(3)), "restarting",
     "waits 12.0 s more for restart 4 under its policy always, because it ended by itself with exit code 3", ""),
    (facts("restarting", restart_due_ns=1, end=ended(3)), "restarting", "waits 0.0 s", ""),
    (facts("created"), "created", "created and never started", "start"),
    (facts("created", program=ProgramFile("/x", "it is a directory")), "created", "would not start: /x: it is a directory", ""),
    (facts("removing"), "removing", "being removed", ""),
    # would not start
    (facts("created", error='exec: "x": executable file not found in $PATH'), "not-found", "could not be started: exec", "PATH"),
    (facts(error='exec: "echo hi": executable file not found in $PATH', command=["echo hi"]), "not-found", "echo hi", "leave the quotes out"),
    (facts(error='exec: "-it": executable file not found in $PATH', command=["-it"]), "not-found", "-it", "before the image"),
    (facts(error="exec: \"/x\": no such file or directory: its interpreter '/bin/bash' does not exist in the container"), "interpreter", "bash",
     "put /bin/bash into the image"),
    (facts(error="its interpreter '/bin/sh\\r' does not exist in the container"), "interpreter", "", "Windows line ends"),
    (facts(error="its interpreter '/lib64/ld-linux-x86-64.so.2' does not exist"), "loader", "", "another C library"),
    (facts(error="exec format error: it is built for aarch64, this machine is x86_64"), "architecture", "aarch64", "for x86_64"),
    (facts(error="permission denied: it is a directory"), "directory", "", "name a program"),
    (facts(error="bind: address already in use"), "port", "", "stop who has the port"),
    (facts(error="something else"), "start", "could not be started: something else", ""),
    (facts(error="runc: no such file or directory", program=ProgramFile("/x", "its interpreter '/i' does not exist in the container")),
     "interpreter", "(its interpreter '/i'", ""),
    (facts(error="runc: exec: permission denied", program=ProgramFile("/etc", "it is a directory")), "directory", "(it is a directory)", "name a program"),
    # ended, and it is recorded why
    (facts(end=ended(0)), "done", "exit code 0", ""),
    (facts(end=ended(0), command=["/bin/sh"]), "done", "exit code 0", "-it"),
    (facts(end=ended(3)), "exited", "exit code 3", "wrote nothing"),
    (facts(end=ended(3), lines=["first", "boom", " "]), "exited", "its last words: 'boom'", ""),
    (facts(end=ended(137, signal=9, oom_killed=True, memory_limit_bytes=64 * MIB, memory_peak_bytes=64 * MIB)), "oom",
     "was killed by the kernel for want of memory (limit 64 MiB, peak 64 MiB)", "--memory"),
    (facts(end=ended(1, oom_killed=True, memory_limit_bytes=64 * MIB, memory_peak_bytes=64 * MIB)), "oom", "exit code 1 after the kernel had killed", "--memory"),
    (facts(end=ended(137, signal=9, oom_killed=True, memory_peak_bytes=64 * MIB)), "oom", "because the host", "look what else"),
    (facts(end=ended(137, signal=9, oom_killed=True, memory_limit_bytes=64 * MIB, memory_peak_bytes=9 * MIB)), "oom", "because the host", "look what else"),
    (facts(end=ended(137, signal=9, oom_killed=True), host={"Memory": 64 * MIB}), "oom", "want of memory (limit 64 MiB)", "--memory"),
    (facts(end=ended(137, signal=9)), "signal", "SIGKILL, and nobody had asked berth", "who sends it"),
    (facts(end=ended(137, signal=9, asked=asked((9, "kill")))), "killed", "was killed (SIGKILL) by `kill`", ""),
    (facts(end=ended(137, signal=9, asked=asked((9, "rm")))), "killed", "by `rm --force`", ""),
    (facts(end=ended(137, signal=9, oom_killed=True, asked=asked((9, "kill")))), "killed", "by `kill`", ""),
    (facts(end=ended(137, signal=9, asked=asked((15, "stop"), (9, "stop"))), command=["sleep", "9"]), "killed",
     "did not end on SIGTERM within 10 s and was killed by `stop`", "--init"),
    (facts(end=ended(137, signal=9, asked=asked((15, "stop"), (9, "stop"))), command=["own"]), "killed", "within 10 s", "handle the signal"),
    (facts(end=ended(137, signal=9, asked=asked((15, "engine"), (9, "engine")))), "killed", "by the engine", ""),
    (facts(end=ended(143, signal=15, asked=asked((15, "stop")))), "stopped", "ended by SIGTERM, which `stop` sent", ""),
    (facts(end=ended(143, asked=asked((15, "restart")))), "stopped", "exit code 143 on SIGTERM, which `restart` sent", ""),
    (facts(end=ended(0, asked=asked((15, "stop")))), "stopped", "exit code 0 on SIGTERM, which `stop` sent", ""),
    (facts(end=ended(7, asked=asked((2, "kill")))), "stopped", "exit code 7 after `kill` had sent SIGINT", ""),
    (facts(end=ended(7, asked=asked((1, "kill"))) | {"finished_ns": 30 * S}), "exited", "ended by itself with exit code 7", ""),
    (facts(end=ended(0, asked=asked((1, "kill"))) | {"finished_ns": 30 * S}), "done", "exit code 0", ""),
    (facts(end=ended(0, asked=asked((28, "kill")))), "done", "exit code 0", ""),
    (facts(end=ended(0, asked=asked((15, "stop"))) | {"finished_ns": 69 * S}), "stopped", "which `stop` sent", ""),
    (facts(end=ended(130, asked=asked((2, "kill"))) | {"finished_ns": 69 * S}), "stopped", "exit code 130 on SIGINT", ""),
    (facts(end=ended(143, signal=15)), "signal", "SIGTERM, and nobody", ""),
    (facts(end=ended(137, signal=9, asked=asked((1, "kill")))), "signal", "SIGKILL, and nobody", ""),
    (facts(end=ended(137, signal=9, oom_killed=True, memory_limit_bytes=MIB, memory_peak_bytes=MIB, asked=asked((1, "kill")))), "oom", "want of memory", ""),
    (facts(end=ended(139, signal=11, core=True), kernel_line="app[7]: segfault at 0"), "crashed", "crashed with SIGSEGV", "debugger"),
    (facts(end=ended(135, signal=7)), "crashed", "SIGBUS", "--shm-size"),
    (facts(end=ended(159, signal=31), seccomp=KILLING, killed_call="mkdir"), "seccomp", "for the system call mkdir", "seccomp=FILE"),
    (facts(end=ended(159, signal=31), seccomp=KILLING), "seccomp", "its profile kills for mkdir", ""),
    (facts(end=ended(159, signal=31), seccomp=None), "seccomp", "a filter that the program made for itself", ""),
    (facts(end=ended(159, signal=31), seccomp={"defaultAction": "SCMP_ACT_KILL"}), "seccomp", "does not list", ""),
    (facts(end=ended(153, signal=25)), "signal", "file size", "--ulimit"),
    (facts(end=ended(137, lost="monitor", error="gone"), error="gone"), "monitor", "its monitor", ""),
    (facts(end=ended(137, lost="socket", error="gone"), error="gone"), "monitor", "could not reach its monitor", "who cleans up"),
    (facts(end=ended(137, lost="host", error="gone"), error="gone"), "host", "restarted", "restart policy"),
    (facts(end=ended(3, cancelled_by="stop")), "stopped", "waited to be restarted when `stop` ended that; before, it ended by itself with exit code 3", ""),
    (facts(exit_code=3), "exited", "exit code 3", "earlier version"),
    # removed
    (facts(removed=True, host={"AutoRemove": True}, end=ended(9)), "removed", "removed with --rm; before that, it ended by itself with exit code 9", ""),
    (facts(removed=True, host={}, end={}), "removed", "was removed; before that, it was created and never started", ""),
    (facts("created", removed=True, host={"AutoRemove": True}, error="exec: executable file not found"), "removed", "could not be started", ""),
]  # fmt: skip


@pytest.mark.parametrize(("known", "reason", "sentence", "advice"), CERTAIN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_recorded(known: Facts, reason: str, sentence: str, advice: str) -> None:
    found = why.judge(known)
    assert (found.reason, found.likely) == (reason, False)
    assert sentence in found.sentence
    assert advice in found.advice


HOST = {"NetworkMode": "host"}
WORDS = [
    ("nc: bind: Address already in use", {"host": HOST, "command": ["nc", "-l", "-p", "8080"], "listeners": {8080: "'nginx'"}}, "port",
     "port 8080 is in use by 'nginx'"),
    ("Error: listen EADDRINUSE: address already in use 0.0.0.0:3000", {"host": HOST}, "port", "port 3000 is in use on the host"),
    ("[Errno 98] Address already in use", {}, "port", "in its own network"),
    ("[Errno 98] Address already in use", {"host": {"NetworkMode": "container:x"}}, "port", "shares with another container"),
    ("touch: /x: Read-only file system", {"host": {"ReadonlyRootfs": True}}, "read-only", "--read-only"),
    ("sh: can't create /proc/sys/x: Read-only file system", {}, "read-only", "a mount is read-only"),
    ("dd: error writing 'x': No space left on device", {"free": {"/var/lib/berth": (4096, 9)}}, "disk", "the disk is full: 4 KiB"),
    ("dd: error writing 'x': No space left on device", {"free": {"/var/lib/berth": (1 << 40, 0)}}, "disk", "no inodes are left"),
    ("dd: error writing '/dev/shm/x': No space left on device", {}, "shm", "64 MiB"),
    ("inotify_add_watch: No space left on device", {}, "inotify", "watches"),
    ("mount: permission denied (are you root?)", {}, "capability", "CAP_SYS_ADMIN"),
    ("mount: Operation not permitted", {"granted": DEFAULT_CAPS | {"CAP_SYS_ADMIN"}, "seccomp": DENYING}, "denied", "AppArmor"),
    ("unshare: Operation not permitted", {"granted": DEFAULT_CAPS | {"CAP_SYS_ADMIN"}, "seccomp": DENYING}, "seccomp", "denies unshare"),
    ("keyctl: Operation not permitted", {"seccomp": DENYING}, "seccomp", "denies keyctl"),
    ("date: can't set date: Operation not permitted", {}, "capability", "CAP_SYS_TIME"),
    ("RTNETLINK answers: Operation not permitted", {}, "capability", "CAP_NET_ADMIN"),
    ("chown: /x: Operation not permitted", {"user": "1000:1000"}, "denied", "user 1000 has no capabilities"),
    ("Operation not permitted", {"command": ["sh", "-c", "hostname x"]}, "capability", "CAP_SYS_ADMIN"),
    ("Operation not permitted", {}, "denied", "it lacks a capability"),
    ("Operation not permitted", {"host": {"Privileged": True}}, "denied", "no privilege"),
    ("sh: can't fork: Resource temporarily unavailable", {"end": ended(1, pids_refused=3, pids_limit=10)}, "pids", "limit of 10 processes"),
    ("java.lang.OutOfMemoryError: Java heap space", {"end": ended(1, memory_limit_bytes=64 * MIB)}, "memory", "64 MiB"),
    ("OSError: [Errno 24] Too many open files", {}, "files", "open files"),
    ("dd: error writing '/x': File too large", {}, "files", "reached the size"),
    ("wget: bad address 'example.com'", {"host": {"NetworkMode": "none"}}, "network", "its network is none"),
    ("curl: (6) Could not resolve host: x", {"host": HOST}, "network", "cannot be reached"),
    ("dial tcp 127.0.0.1:5432: connect: connection refused", {}, "network", "nobody listens"),
    ("app: error while loading shared libraries: libssl.so.3: cannot open shared object file: No such file or directory", {}, "library", "libssl.so.3"),
    ("Error loading shared library libssl.so.3: No such file or directory (needed by /app)", {}, "library", "libssl.so.3"),
    ("app: /lib/libc.so.6: version `GLIBC_2.34' not found (required by app)", {}, "library", "GLIBC_2.34"),
    ("sh: nothere: not found", {"end": ended(127)}, "not-found", "'nothere'"),
    ("bash: line 1: nothere: command not found", {"end": ended(127)}, "not-found", "'nothere'"),
    ("env: can't execute 'node': No such file or directory", {"end": ended(127)}, "not-found", "'node'"),
    ("/bin/sh: ./app: cannot execute binary file: Exec format error", {"end": ended(126)}, "architecture", "another machine"),
    ("sh: /app: Permission denied", {"end": ended(126), "user": "alice"}, "permission", "user alice"),
    ("sh: /app: Permission denied", {"end": ended(126)}, "permission", "not executable"),
    ("bind() to 0.0.0.0:80 failed (13: Permission denied)", {"granted": frozenset()}, "denied", "CAP_NET_BIND_SERVICE"),
    ("Bad system call", {"end": ended(159), "seccomp": KILLING}, "seccomp", "kills for"),
    ("cat: can't open '/etc/app.conf': No such file or directory", {}, "file", "not there"),
    ("stty: standard input: Inappropriate ioctl for device", {}, "terminal", "terminal"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "more", "reason", "sentence"), WORDS)
def test_what_its_last_words_say(line: str, more: dict, reason: str, sentence: str) -> None:
    found = why.judge(facts(**{"end": ended(1), "lines": ["starting", line, "bye"], **more}))
    assert (found.reason, found.likely) == (reason, True)
    assert sentence in found.sentence
    assert why_words.cut(line)[:40] in found.sentence or repr(line)[1:40] in found.sentence
    assert found.advice


def test_the_page_has_every_reason() -> None:
    page = (Path(__file__).parents[2] / "docs/why.md").read_text()
    rows = [line.split("|")[1].strip(" `").split() for line in page.splitlines() if line.startswith("| `")]
    told = {reason for row in rows for reason in row}
    assert {known[1] for known in CERTAIN} | {known[2] for known in WORDS} <= told


@pytest.mark.parametrize(
    ("code", "sentence"), [(126, "could not execute"), (127, "did not find a command"), (137, "ended by SIGKILL"), (255, "ended by itself with exit code 255")]
)
def test_exit_codes_of_shells(code: int, sentence: str) -> None:
    assert sentence in why.judge(facts(end=ended(code), lines=["x"])).sentence


def test_another_runtimes_program_that_cannot_be_executed() -> None:
    found = why.judge(facts(end=ended(1), lines=["exec /x: no such file or directory"], program=ProgramFile("/x", "its interpreter '/i' does not exist in the container")))
    assert (found.reason, found.likely) == ("interpreter", True)
    assert "/x cannot be executed: its interpreter '/i'" in found.sentence


def test_words_do_not_explain_success() -> None:
    assert why.judge(facts(end=ended(0), lines=["Operation not permitted"])).reason == "done"


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    assert why_words.printable("a\x1b[31mb\u202ec\td") == "a?[31mb?c\td"


@pytest.mark.parametrize(("profile", "call", "expected"), [
    (None, "mount", False), (DENYING, "mount", False), (DENYING, "unshare", True), (KILLING, "mkdir", True), (KILLING, "read", False),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [{}]}]}, "clone", False),
])  # fmt: skip
def test_what_a_profile_refuses(profile: dict | None, call: str, expected: bool) -> None:
    assert why_denied.refuses(profile, call) is expected


def test_ports_are_taken_from_words_first() -> None:
    known = facts(command=["app", "--listen=:9090", "70000"], lines=["bind 0.0.0.0:8080: address already in use"])
    assert why_words.ports(known) == [8080, 9090]


def test_sizes() -> None:
    assert [size_text(value) for value in (0, 1536, 64 * MIB, 3 << 30)] == ["0 B", "1.5 KiB", "64 MiB", "3 GiB"]


_NUMBERS = st.integers(0, 300)
_ENDS = st.fixed_dictionaries(
    {"exit_code": _NUMBERS, "finished_ns": st.integers(0, 1 << 62), "oom_killed": st.booleans(), "started_ns": st.integers(0, 1 << 62)},
    optional={
        "signal": st.integers(0, 64), "core": st.booleans(), "memory_limit_bytes": st.integers(0, 1 << 62), "memory_peak_bytes": st.integers(0, 1 << 62),
        "pids_refused": _NUMBERS, "pids_limit": _NUMBERS, "lost": st.sampled_from(["host", "monitor", "socket"]), "cancelled_by": st.text(max_size=9),
        "asked": st.lists(st.fixed_dictionaries({"signal": st.integers(0, 255), "by": st.sampled_from(["", "stop", "kill", "x"]), "at_ns": _NUMBERS}), max_size=3),
    },
)  # fmt: skip
_SAID = st.lists(st.sampled_from([line for line, *_ in WORDS]) | st.text(max_size=40).map(why_words.printable), max_size=4)


@given(
    status=st.sampled_from(["created", "running", "paused", "restarting", "exited", "removing"]), end=_ENDS | st.just({}), lines=_SAID,
    error=st.just("") | st.text(max_size=40), command=st.lists(st.text(max_size=9), max_size=3), user=st.text(max_size=9), removed=st.booleans(),
    restarts=st.integers(0, 9), host=st.sampled_from([{}, HOST, {"Privileged": True}, {"AutoRemove": True}, {"Memory": 9}]),
)  # fmt: skip
def test_there_is_always_a_verdict(**known: object) -> None:
    found = why.judge(facts(**known))
    assert found.reason
    assert found.sentence
    assert not found.advice or found.advice.strip()


# -- the program's file ---------------------------------------------------------------------------------------


def elf(machine: int, interpreter: str = "", *, wide: bool = True, order: str = "<") -> bytes:
    text = interpreter.encode() + b"\0"
    head = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    if wide:
        head += struct.pack(f"{order}HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        return head + struct.pack(f"{order}IIQQQQQQ", 3 if interpreter else 1, 4, 120, 0, 0, len(text), len(text), 1) + text
    head += struct.pack(f"{order}HHIIIIIHHHHHH", 2, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    return head + struct.pack(f"{order}IIIIIIII", 3 if interpreter else 1, 84, 0, 0, len(text), len(text), 4, 1) + text


@pytest.mark.parametrize(("head", "machine", "interpreter"), [
    (elf(62, "/lib64/ld-linux-x86-64.so.2"), "x86_64", "/lib64/ld-linux-x86-64.so.2"), (elf(62), "x86_64", ""),
    (elf(3, "/lib/ld-linux.so.2", wide=False), "i386", "/lib/ld-linux.so.2"), (elf(22, "/lib/ld64.so.1", order=">"), "s390x", "/lib/ld64.so.1"),
    (elf(21), "ppc64le", ""), (elf(62, wide=False), "x32", ""), (elf(4711), "another machine (number 4711)", ""), (elf(62, "/x")[:100], "x86_64", ""),
])  # fmt: skip
def test_elf_headers(head: bytes, machine: str, interpreter: str) -> None:
    assert programs.is_elf(head)
    assert (programs.elf_machine(head), programs.elf_interpreter(head)) == (machine, interpreter)


@pytest.mark.parametrize(
    ("head", "interpreter"), [(b"#! /bin/sh -e\nx", "/bin/sh"), (b"#!/bin/sh\r\n", "/bin/sh\r"), (b"#!\t/a\tb", "/a"), (b"x", ""), (b"#!", "")]
)
def test_script_lines(head: bytes, interpreter: str) -> None:
    assert programs.script_interpreter(head) == interpreter


@pytest.fixture
def root(tmp_path: Path) -> int:
    own = {"x86_64": 62, "aarch64": 183}[libc.MACHINE]
    files = {"own": elf(own), "dynamic": elf(own, "/lib/none.so"), "foreign": elf(243), "script": b"#!/bin/own\n", "noline": b"#!/none\n", "text": b"hello"}
    (tmp_path / "bin" / "dir").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / "bin" / name).write_bytes(content)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "plain").write_bytes(b"#!/bin/own\n")
    (tmp_path / "bin" / "out").symlink_to("/bin/own")  # of the container's root, not of this host
    os.mkfifo(tmp_path / "bin" / "fifo", 0o755)
    return os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)


@pytest.mark.parametrize(("name", "problem"), [
    ("own", ""), ("/bin/own", ""), ("bin/own", ""), ("out", ""), ("script", ""), ("dynamic", "its interpreter '/lib/none.so' does not exist"),
    ("noline", "its interpreter '/none' does not exist"), ("foreign", "it is built for riscv64"), ("text", "it is neither an ELF program"),
    ("plain", "it is not executable"), ("/bin/plain", "it is not executable"), ("/bin/dir", "it is a directory"), ("/bin/fifo", "it is not a file"),
    ("none", "it was not found in PATH (/sbin:/bin)"), ("/none", "it was not found"), ("/../../bin/own", ""),
])  # fmt: skip
def test_a_program_looked_at(root: int, name: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why_program, "_emulates", lambda: False)
    try:
        found = why_program.look(root, name, "/", "/sbin:/bin").problem
    finally:
        os.close(root)
    assert found.startswith(problem)
    assert bool(found) is bool(problem)


# -- the host -------------------------------------------------------------------------------------------------

SECCOMP_LINE = 'audit: type=1326 audit(1.2:2): auid=1 uid=0 gid=0 ses=1 pid={} comm="mkdir" exe="/bin/x" sig=31 arch={} syscall={} compat=0 ip=0x7f code=0x80000000'


@pytest.mark.skipif(libc.MACHINE != "x86_64", reason="numbers of x86_64")
def test_the_kernels_log() -> None:
    lines = [SECCOMP_LINE.format(7, "c000003e", 83), SECCOMP_LINE.format(77, "c000003e", 1), "app[7]: segfault at 0 ip 0 sp 0 error 4", "app[8]: hello",
             "traps: app[9] trap invalid opcode ip:1"]  # fmt: skip
    messages = [(1000 * S, line) for line in lines]
    end = ended(1, signal=11, pid=7) | {"started_ns": 900 * S, "finished_ns": 1001 * S}
    assert why_host.about(end | {"signal": 31}, messages) == {"killed_call": "mkdir"}
    assert why_host.about(end | {"signal": 31}, [(1000 * S, SECCOMP_LINE.format(7, "40000003", 39))]) == {"killed_call": "number 39 of architecture 40000003"}
    assert why_host.about(end, messages) == {"kernel_line": "app[7]: segfault at 0 ip 0 sp 0 error 4"}
    assert why_host.about(end | {"pid": 9}, messages) == {"kernel_line": "traps: app[9] trap invalid opcode ip:1"}
    assert why_host.about(end | {"pid": 8}, messages) == {}
    assert why_host.about(end | {"started_ns": 1100 * S, "finished_ns": 1101 * S}, messages) == {}  # another process had the number
    assert why_host.kernel_log({"signal": 15, "pid": 7}) == {}


def test_who_listens() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1\n"
        "   1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4243 1\n"
        "   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1\n"
    )
    assert why_host.listening(table, [8080, 9]) == {"4242": 8080}


def test_free_room_is_what_df_says() -> None:
    found = os.statvfs("/")
    assert why_host.free("/")["/"][0] == pytest.approx(found.f_bavail * found.f_frsize, rel=0.5)
    assert why_host.free("/no/such") == {}


# -- record and command line ----------------------------------------------------------------------------------


def test_what_is_kept_of_a_removed_one_is_small() -> None:
    record = Record("i" * 64, "web", "sha256:x", "bb", {"Cmd": ["x" * 10_000] * 100, "Labels": {"a": "b" * 10_000}}, {"AutoRemove": True, "Binds": ["x" * 10_000]})
    record.end, record.exit_code = {"exit_code": 3}, 3
    kept = record.remnant()
    assert (kept.id, kept.name, kept.exit_code, kept.end, kept.auto_remove) == (record.id, "web", 3, {"exit_code": 3}, True)
    assert len(kept.to_json()) < 4000


def test_the_line() -> None:
    answer = {"Name": "/web", "Summary": "was killed", "Advice": "give it more"}
    assert cli_why.line(answer) == "web was killed. Give it more."
    assert cli_why.line({**answer, "Advice": ""}) == "web was killed."
