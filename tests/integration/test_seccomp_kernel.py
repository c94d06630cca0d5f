"""Compiled profiles in the kernel: what a process meets under berth's filter, libseccomp's and runc's own.

The kernel judges; the probe is a program that makes calls by number, through the 64-bit entry, with
x32's bit and through int 0x80, and prints what each gave.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.errors import InvalidSpec, StartFailed
from berth.linux import libc, seccomp
from berth.runtime import notify

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
import libseccomp

pytestmark = pytest.mark.skipif(libc.MACHINE != "x86_64", reason="the probe's calls are x86_64's")

RECV, SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND (linux/seccomp.h)
NOTIF_BYTES, NOTIF_RESP = 80, struct.Struct("@QqiI")

PROBE = r"""
#include <stdio.h>
#include <errno.h>
static long native(long nr, long a, long b) {
    long r; register long c __asm__("rdx") = 0;
    __asm__ volatile("syscall" : "=a"(r) : "0"(nr), "D"(a), "S"(b), "r"(c) : "rcx", "r11", "memory"); return r;
}
static long i386(long nr, long a, long b) {
    long r; __asm__ volatile("int $0x80" : "=a"(r) : "0"(nr), "b"(a), "c"(b), "d"(0) : "memory", "r8", "r9", "r10", "r11");
    return (int)r;
}
int main(void) {  /* clone's flags are such that it never makes a process */
    long x32 = 0x40000000, big = 1L << 32;
    long calls[][3] = {{135, 0xffffffff, 0}, {135, 8, 0}, {135, big | 8, 0}, {135, 1, 0}, {110, 0, 0}, {102, 0, 0}, {250, 0, 0},
        {41, 40, 1}, {41, 1, 99}, {56, 0x10010000, 0}, {435, 0, 0}, {440, -1, 0}, {449, 0, 0}, {600, 0, 0}, {165, 0, 0}};
    for (int i = 0; i < sizeof calls / sizeof *calls; i++) {
        long r = native(calls[i][0], calls[i][1], calls[i][2]);
        if (calls[i][0] == 110) r = r >= 0 ? 0 : r;
        printf("%ld(%ld)=%ld\n", calls[i][0], calls[i][1], r);
        r = native(calls[i][0] | x32, calls[i][1], calls[i][2]);
        if (calls[i][0] == 110) r = r >= 0 ? 0 : r;
        printf("x32 %ld(%ld)=%ld\n", calls[i][0], calls[i][1], r);
    }
    long old[][3] = {{136, 8, 0}, {136, 1, 0}, {64, 0, 0}, {102, 1, 0}, {102, 99, 0}, {117, 2, 0}, {359, 40, 1}, {288, 0, 0},
        {600, 0, 0}, {21, 0, 0}};
    for (int i = 0; i < sizeof old / sizeof *old; i++) {
        long r = i386(old[i][0], old[i][1], old[i][2]);
        if (old[i][0] == 64) r = r >= 0 ? 0 : r;
        printf("i386 %ld(%ld)=%ld\n", old[i][0], old[i][1], r);
    }
    return 0;
}
"""
BASE = """read write open close mmap mprotect munmap brk exit exit_group execve fstat newfstatat arch_prctl set_tid_address
 set_robust_list rseq prlimit64 readlink getrandom ioctl futex rt_sigaction rt_sigprocmask rt_sigreturn openat getdents64
 chdir setuid setgid setgroups setresuid setresgid capset capget prctl fcntl getpid getppid access epoll_ctl epoll_pwait
 nanosleep sched_yield sched_getaffinity sigaltstack madvise gettid tgkill clone fchown fchdir umask statfs fstatfs
 pread64 dup3 close_range getcwd socket setsid stat lstat faccessat faccessat2 getuid getgid getegid geteuid mount
 openat2""".split()


def profile(default: str, architectures: list[str], rules: list[dict]) -> dict:
    allowed = [name for name in BASE if name not in {name for rule in rules for name in rule["names"]}]
    own = [{"names": allowed, "action": "SCMP_ACT_ALLOW"}] if default != "SCMP_ACT_ALLOW" else []
    return {"defaultAction": default, "architectures": architectures, "syscalls": own + rules}


def argument(index: int, operator: str, value: int, two: int = 0) -> dict:
    return {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": two}


ALL = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
PERSONALITY = {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": [argument(0, "EQ", 8)]}
FAMILY = {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [argument(0, "NE", 40)]}
PROFILES = {
    "deny list": profile(
        "SCMP_ACT_ALLOW", ALL,
        [PERSONALITY, {"names": ["getuid", "keyctl"], "action": "SCMP_ACT_ERRNO"},
         {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [argument(0, "MASKED_EQ", 0x10000000, 0x10000000)]},
         {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78, "args": [argument(0, "EQ", 40)]}],
    ),
    "allow list": profile(
        "SCMP_ACT_ERRNO", ALL,
        [FAMILY, {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [argument(0, "EQ", 8)]},
         {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [argument(0, "GE", 0xFFFFFFFF)]}],
    ),
    "trace": profile(
        "SCMP_ACT_ALLOW", ALL, [{"names": ["keyctl", "getuid"], "action": "SCMP_ACT_TRACE", "errnoRet": 9}, PERSONALITY]
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not shutil.which("gcc"):
        pytest.skip("needs gcc for the probe")
    directory = tmp_path_factory.mktemp("probe")
    (directory / "probe.c").write_text(PROBE)
    subprocess.run(["gcc", "-O1", "-static", "-o", directory / "probe", directory / "probe.c"], check=True)
    return str(directory / "probe")


def under(program: bytes, path: str) -> str:
    def install() -> None:
        libc.seccomp_set_filter(program, 0)

    return subprocess.run([path], preexec_fn=install, stdout=subprocess.PIPE, check=True, text=True).stdout


@pytest.mark.parametrize("name", PROFILES)
def test_a_process_meets_the_same_as_under_libseccomp(name: str, probe: str) -> None:
    library = libseccomp.load()
    if library is None:
        pytest.skip("libseccomp.so.2 is not installed")
    given = PROFILES[name]
    ours = under(seccomp.compile_profile(given, "x86_64"), probe)
    # Without runc's stub: the highest number is allowed, and what it gives ENOSYS for the kernel does not have.
    theirs = under(libseccomp.Filter(library, given).program, probe)
    if given["defaultAction"] == "SCMP_ACT_ALLOW":
        assert ours == theirs
    else:
        assert [a for a, b in zip(ours.split(), theirs.split(), strict=True) if a != b and not a.endswith("=-38")] == []


@pytest.mark.parametrize("name", PROFILES)
def test_a_process_meets_the_same_as_under_runc(name: str, probe: str, tmp_path: Path) -> None:
    if not shutil.which("runc"):
        pytest.skip("runc is not installed")
    root = tmp_path / "rootfs"
    root.mkdir()
    shutil.copy(probe, root / "probe")
    spec = {
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "process": {"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": True,
                    "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted")}},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")], "seccomp": PROFILES[name]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(spec))
    ran = subprocess.run(
        ["runc", "--root", tmp_path / "state", "run", "--bundle", tmp_path, f"seccomp-{os.getpid()}"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    program = seccomp.compile_profile(PROFILES[name], "x86_64")
    # The same identity as inside, as far as these calls tell.
    command = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs", "--clear-groups"]
    loader = f"import ctypes,os,sys; sys.path.insert(0, {os.fspath(Path(libc.__file__).parents[2])!r}); from berth.linux import libc;"
    loader += f"libc.seccomp_set_filter(bytes.fromhex({program.hex()!r}), 0); os.execv({probe!r}, ['probe'])"
    ours = subprocess.run([*command, sys.executable, "-c", loader], capture_output=True, text=True)
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout.split("\n") == ran.stdout.split("\n")


def forked(body: Callable[[socket.socket], int]) -> tuple[int, socket.socket]:
    """A child that runs `body` with its end of a socket pair and exits with what it returns."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        status = 255
        try:
            here.close()
            status = body(there)
        finally:
            os._exit(status)
    there.close()
    return pid, here


NOTIFIED = {
    "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/unused", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
}  # fmt: skip


@pytest.mark.parametrize("long_path", [False, True])
def test_a_listener_answers_for_the_kernel(long_path: bool, tmp_path: Path) -> None:
    program, flags = seccomp.compile_profile(NOTIFIED, "x86_64"), seccomp.filter_flags(NOTIFIED)
    target = str(tmp_path / "made")

    def body(channel: socket.socket) -> int:
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        fd = libc.seccomp_set_filter(program, flags)
        socket.send_fds(channel, [b"s"], [fd])
        if not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
            return 1
        try:
            os.mkdir(target)
        except OSError as error:
            return error.errno or 2
        return 3

    pid, channel = forked(body)
    with channel:
        _, fds, _, _ = socket.recv_fds(channel, 1, 1)
    directory = tmp_path
    for _ in range(8 if long_path else 0):
        directory /= "d" * 40
    directory.mkdir(parents=True, exist_ok=True)
    path, state = f"{directory}/agent.sock", {"ociVersion": "1.2.0", "id": "c1", "status": "creating", "pid": pid}
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(directory, os.O_PATH)
        listening.bind(f"/proc/self/fd/{here}/agent.sock")
        os.close(here)
        listening.listen(1)
        notify.send_listener(path, fds[0], state, "META=1", pid)
        os.close(fds[0])
        agent, _ = listening.accept()
        with agent:
            data, received, _, _ = socket.recv_fds(agent, 65536, 4)
            assert agent.recv(1) == b""  # one state per connection, and it is closed
    assert json.loads(data) == {"ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": pid, "metadata": "META=1", "state": state}
    assert len(received) == 1
    request = bytearray(NOTIF_BYTES)
    fcntl.ioctl(received[0], RECV, request)
    identity, who = struct.unpack_from("@QI", request)
    assert who == pid
    assert struct.unpack_from("@i", request, 16)[0] in (83, 258)
    fcntl.ioctl(received[0], SEND, NOTIF_RESP.pack(identity, 0, -errno.EADDRNOTAVAIL, 0))
    os.close(received[0])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EADDRNOTAVAIL
    assert not os.path.exists(target)


def test_an_agent_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_TIMEOUT_S", 1)
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        dead.bind(f"{tmp_path}/dead")
        full.bind(f"{tmp_path}/full")
        full.listen(0)
        first.connect(f"{tmp_path}/full")
        for name, why in (
            ("none", "No such file"), ("file", "nobody listens there"), ("dead", "nobody listens there"),
            ("full", "has not answered for 1 s"), ("n" * 200, "No such file"),
        ):  # fmt: skip
            with pytest.raises(StartFailed, match=rf"listenerPath: cannot connect to .*{why}"):
                notify.send_listener(f"{tmp_path}/{name}", 0, {}, "", 1)


def test_an_agent_that_does_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_TIMEOUT_S", 1)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(f"{tmp_path}/agent")
        agent.listen(1)
        with pytest.raises(StartFailed, match="does not take the listener: it has not answered for 1 s"):
            notify.send_listener(f"{tmp_path}/agent", 0, {"annotations": {"a": "x" * (8 << 20)}}, "", 1)


def test_a_filter_that_not_every_thread_can_have_is_an_error() -> None:
    script = """
import sys, threading
from berth.linux import libc, seccomp
program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW"}, "x86_64")
libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
ready, end = threading.Event(), threading.Event()
def other():
    libc.seccomp_set_filter(program, 0)
    ready.set()
    end.wait()
threading.Thread(target=other).start()
ready.wait()
try:
    libc.seccomp_set_filter(program, 1)
except OSError as error:
    print(error)
end.set()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(libc.__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "cannot be given the filter" in ran.stdout


@pytest.mark.parametrize(
    ("action", "number"),
    [("KILL", signal.SIGSYS), ("KILL_THREAD", signal.SIGSYS), ("KILL_PROCESS", signal.SIGSYS), ("TRAP", signal.SIGSYS)],
)
def test_actions_that_end_a_process(action: str, number: int) -> None:
    given = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": f"SCMP_ACT_{action}"}]}
    program = seccomp.compile_profile(given, "x86_64")

    def body(channel: socket.socket) -> int:
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        libc.seccomp_set_filter(program, seccomp.filter_flags(given))
        os.getppid()
        return 0

    pid, channel = forked(body)
    channel.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number


def test_this_kernel_has_what_it_says() -> None:
    listed = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    for name, action in seccomp.ACTIONS.items():
        kernel_name = {"kill": "kill_thread", "notify": "user_notif"}.get(short := name[9:].lower(), short)
        assert libc.seccomp_has_action(action) == (kernel_name in listed), name
    assert not libc.seccomp_has_action(0x00120000)
    assert not libc.seccomp_has_flag(1 << 30)
    seccomp.check_kernel(NOTIFIED, libc.seccomp_has_action, libc.seccomp_has_flag)
    with pytest.raises(InvalidSpec, match="this kernel does not have SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"):
        seccomp.check_kernel(NOTIFIED, libc.seccomp_has_action, lambda flag: False)
