"""Ways out of a container that other runtimes had, each tried against berth-oci. The mechanism is in the docstring.

What an attack did is looked at from outside of the container: the host's files, /proc/PID, mountinfo.
"""

import contextlib
import hashlib
import json
import os
import select
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY
from oci import SPEC, Oci, merged

pytestmark = pytest.mark.root

STARTS = int(os.environ.get("BERTH_RACE_STARTS", "25"))
_KINDS = ("bounding", "effective", "permitted")
_DEFAULT = SPEC["process"]["capabilities"]["bounding"]
_TRACER = {"process": {"capabilities": {kind: [*_DEFAULT, "CAP_SYS_PTRACE"] for kind in _KINDS}}}
_FILTER = {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]}}}  # fmt: skip
# Exchanges two names for as long as it lives, some 100 000 times a second; says when it has begun.
_SWAP = """
import ctypes, os, sys
rename, a, b = ctypes.CDLL(None).renameat2, os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
assert rename(-100, a, -100, b, 2) == 0
os.write(1, b"x")
while True:
    rename(-100, a, -100, b, 2)
"""


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def host_mounts() -> "list[str]":
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def rootfs(bundle: str) -> Path:
    return Path(bundle) / "rootfs"


@contextlib.contextmanager
def swapping(one: "Path | str", other: "Path | str") -> "Iterator[None]":
    """Another process exchanges the two all the time."""
    with subprocess.Popen([sys.executable, "-ISc", _SWAP, str(one), str(other)], stdout=subprocess.PIPE) as racer:
        try:
            assert racer.stdout
            assert racer.stdout.read(1) == b"x"
            yield
        finally:
            racer.kill()


@contextlib.contextmanager
def nothing_on_the_host(*names: str) -> "Iterator[None]":
    """None of these paths is there afterwards, nor a mount at one."""
    yield
    assert not [at for at in host_mounts() if at in names]
    assert [name for name in names if os.path.lexists(name)] == []


def without(destination: str) -> "list[dict]":
    return [entry for entry in SPEC["mounts"] if entry["destination"] != destination]


def wait_for(box: object, text: str, timeout_s: float = 60) -> None:
    """Until a container has printed `text`."""
    deadline = time.monotonic() + timeout_s
    while text not in (seen := box.output()):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, f"no {text!r} in {seen[-2000:]!r}"
        select.poll().poll(10)


# -- the runtime's own program ------------------------------------------------------------------------


@pytest.fixture
def unharmed() -> "Iterator[None]":
    """Interpreter, sealer and busybox of the host are afterwards what they were."""
    paths = [os.path.realpath(sys.executable), "/bin/busybox", f"{REPOSITORY}/berth-oci"]
    sealer = f"{REPOSITORY}/src/berth/runtime/__pycache__/sealer"
    paths += [sealer] if os.path.exists(sealer) else []
    before = {path: digest(path) for path in paths}
    yield
    assert {path: digest(path) for path in paths} == before


def _elf_with_interpreter(interpreter: bytes) -> bytes:
    """An x86-64 program that says only who is to load it."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    text = interpreter + b"\0"
    interp = struct.pack("<IIQQQQQQ", 3, 4, 176, 176, 176, len(text), len(text), 1)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 4096, 4096, 4096)
    return (header + interp + load + text).ljust(4096, b"\0")


@pytest.mark.parametrize("how", ["program", "script", "interpreter"])
@pytest.mark.usefixtures("unharmed")
def test_own_executable_as_program(oci: Oci, how: str) -> None:
    """CVE-2019-5736: `/proc/self/exe` as the program, as that of a script (`#!/proc/self/exe`) or as an ELF file's
    interpreter makes the container, for a moment, a process of the runtime's file on the host. Whoever else is in
    there opens /proc/PID/exe and writes as soon as nobody runs it any more."""
    program = {"program": "/proc/self/exe", "script": "/script", "interpreter": "/elf"}[how]
    bundle = oci.bundle(merged(_TRACER, {"process": {"args": [program, "-c", "open('/proc/self/exe', 'r+b').write(b'x')"]}}))
    (rootfs(bundle) / "script").write_text("#!/proc/self/exe\nopen('/proc/self/exe', 'r+b').write(b'x')\n")
    (rootfs(bundle) / "elf").write_bytes(_elf_with_interpreter(b"/proc/self/exe"))
    for name in ("script", "elf"):
        (rootfs(bundle) / name).chmod(0o755)
    assert oci.run(bundle, code=None).returncode != 0


@pytest.mark.usefixtures("unharmed")
def test_own_executable_from_a_hostile_container(oci: Oci) -> None:
    """CVE-2019-5736, the other half: a process that waits for an `exec` opens that one's /proc/PID/exe, again and
    again, for writing: at first ETXTBSY, then the host's file. A sealed copy in memory takes no write at all."""
    script = (
        "echo ready; while :; do for p in /proc/[0-9]*; do case $p in /proc/1) ;; *) "
        "{ echo x > $p/exe && echo WRITTEN; } 2>/dev/null;; esac; done; done"
    )
    box = oci.up(merged(_TRACER, {"process": {"args": ["sh", "-c", script]}}))
    wait_for(box, "ready")
    for program in ("/proc/self/exe", "/bin/true") * 5:
        oci.call("exec", box.id, program, code=None)
    assert "WRITTEN" not in box.output()


# -- mounts -----------------------------------------------------------------------------------------


def test_link_swapped_during_mounts(oci: Oci, tmp_path: Path) -> None:
    """CVE-2021-30465: a directory of a shared volume is exchanged with a link to `/` while a mount is made below it.
    A runtime that resolves the destination twice checks the one and mounts on the other: the host's root."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("/")
    mounts = [
        {"destination": "/v", "type": "bind", "source": str(tmp_path), "options": ["rbind"]},
        {"destination": "/v/a/berth-swap", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/v/a/berth-swap-bind", "type": "bind", "source": "/", "options": ["bind"]},
    ]
    bundle = oci.bundle(args=["true"], mounts=mounts)
    with nothing_on_the_host("/berth-swap", "/berth-swap-bind"), swapping(tmp_path / "a", tmp_path / "b"):
        codes = {oci.run(bundle, code=None).returncode for _ in range(2 * STARTS)}
    assert codes <= {0, 1}


@pytest.mark.parametrize(
    "destination", ["/up/berth-out", "/up/var/tmp/berth-out", "/tmp/../../../berth-out", "/abs/berth-out", "/in/../../berth-out", "/loop/x"]
)
def test_destination_through_links_and_dots(oci: Oci, destination: str) -> None:
    """The image has links to `/`, to `../../..` and to itself, and the bundle names destinations through them and
    through `..`: what is resolved on the host and not beneath the root ends up on the host."""
    bundle = oci.bundle(args=["true"], mounts=[{"destination": destination, "type": "bind", "source": "/", "options": ["rbind"]}])
    for name, target in (("up", "../../../../../.."), ("abs", "/"), ("in", "tmp"), ("loop", "loop")):
        (rootfs(bundle) / name).symlink_to(target)
    with nothing_on_the_host("/berth-out", "/var/tmp/berth-out"):
        done = oci.run(bundle, code=None)
    assert done.returncode in (0, 1)
    assert "mistake in berth" not in done.stderr


def test_root_as_a_link(oci: Oci) -> None:
    """root.path is a link to the host's `/`, or is exchanged with one while the container starts: its root would be
    the host's. runc refuses links; so do we, at the moment of opening."""
    script = "[ -e /etc/debian_version ] || [ -d /work ] && echo ESCAPED; true"
    bundle = oci.bundle(args=["sh", "-c", script])
    link = Path(bundle) / "link"
    link.symlink_to("/")
    with swapping(rootfs(bundle), link):
        done = [oci.run(bundle, code=None) for _ in range(STARTS)]
    assert "ESCAPED" not in "".join(entry.stdout for entry in done)
    oci.write_spec(bundle, merged(SPEC, {"root": {"path": "link"}, "process": {"args": ["true"]}}))
    if not link.is_symlink():
        os.rename(link, f"{bundle}/real")
        os.rename(rootfs(bundle), link)
    assert "root.path" in oci.run(bundle, code=1).stderr


@pytest.mark.parametrize("place", ["/proc", "/sys"])
def test_proc_as_a_link(oci: Oci, place: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys of the image is a link, so that what is mounted
    there, its masks and the labels written to it, is elsewhere; or it becomes one while the container starts."""
    name, kind = place[1:], {"/proc": "proc", "/sys": "sysfs"}[place]
    bundle = oci.bundle(args=["sh", "-c", "cat /proc/mounts /else/mounts 2>/dev/null; true"])
    (rootfs(bundle) / "else").mkdir()
    (rootfs(bundle) / "link").symlink_to("/else")
    with swapping(rootfs(bundle) / name, rootfs(bundle) / "link"):
        done = [oci.run(bundle, code=None) for _ in range(STARTS)]
    for entry in done:
        mounted = [line.split()[1] for line in entry.stdout.splitlines() if line.split()[2] == kind]
        # A name that is exchanged later takes its mount along; it is never mounted beside its masks.
        assert entry.returncode == 1 or "/else" not in mounted
    if not (rootfs(bundle) / name).is_symlink():
        os.rename(rootfs(bundle) / name, rootfs(bundle) / "dir")
        os.rename(rootfs(bundle) / "link", rootfs(bundle) / name)
    assert "symbolic link" in oci.run(bundle, code=1).stderr


# -- masks and console ---------------------------------------------------------------------------------

_MASKED = {"linux": {"maskedPaths": ["/secret", "/hidden"], "readonlyPaths": []}}


def _with_secrets(bundle: str) -> Path:
    top = rootfs(bundle)
    (top / "secret").write_text("SECRET\n")
    (top / "hidden").mkdir()
    (top / "hidden" / "file").write_text("SECRET\n")
    return top


@pytest.mark.parametrize("kind", ["link", "file", "block"])
def test_masks_with_a_false_null_device(oci: Oci, kind: str) -> None:
    """CVE-2025-31133: masked paths are covered with the container's /dev/null. If that is a link, a file or a block
    device of the same numbers, put there while the container starts, what is bound is the attacker's choice: a
    masked path stays readable, or a link's target becomes writable."""
    bundle = oci.bundle(merged(_MASKED, {"mounts": without("/dev"), "process": {"args": ["cat", "/secret", "/hidden/file"]}}))
    oci.write_spec(bundle, merged(SPEC, merged(_MASKED, {
        "mounts": [entry for entry in SPEC["mounts"] if not entry["destination"].startswith("/dev")],
        "process": {"args": ["sh", "-c", "cat /secret /hidden/file; echo x > /secret"]}})))  # fmt: skip
    top = _with_secrets(bundle)
    null, other = top / "dev" / "null", top / "dev" / "other"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    if kind == "link":
        other.symlink_to("/secret")
    elif kind == "file":
        other.write_text("mine\n")
    else:
        os.mknod(other, stat.S_IFBLK | 0o666, os.makedev(1, 3))
    with swapping(null, other):
        done = [oci.run(bundle, code=None) for _ in range(STARTS)]
    assert not [entry.stdout for entry in done if "SECRET" in entry.stdout or "mine" in entry.stdout]
    assert (top / "secret").read_text() == "SECRET\n"


def test_masks_in_a_container_with_a_false_proc(oci: Oci, tmp_path: Path) -> None:
    """CVE-2025-52881: a mount made on `/proc/self/fd/N` after the root is entered trusts the container's own /proc.
    Here it is a volume whose self/fd/N all lead elsewhere, so the mask would be mounted there."""
    fds = tmp_path / "self" / "fd"
    fds.mkdir(parents=True)
    for number in range(3, 64):
        (fds / str(number)).symlink_to("/decoy")
    bundle = oci.bundle(merged(_MASKED, {"process": {"args": ["cat", "/secret", "/hidden/file"]}}))
    spec = merged(SPEC, merged(_MASKED, {
        "mounts": [*without("/proc"), {"destination": "/proc", "type": "bind", "source": str(tmp_path), "options": ["bind"]}],
        "process": {"args": ["sh", "-c", "cat /secret /hidden/file"]}}))  # fmt: skip
    oci.write_spec(bundle, spec)
    (_with_secrets(bundle) / "decoy").mkdir()
    done = oci.run(bundle, code=None)
    assert "SECRET" not in done.stdout
    assert "No such file" in done.stderr


_TERMINAL = {"process": {"terminal": True}}


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd", "/proc/self/fd/0", "/dev/pts/ptmx"])
def test_console_through_links(oci: Oci, target: str) -> None:
    """CVE-2025-52565: /dev/pts/N is bound over /dev/console before the masks are made. With /dev/console a link the
    pty would cover something else; with /dev/pts/N a link a file of /proc would be bound, writable, to /dev/console."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    script = "echo '|/evil' > /dev/console; [ ! -f /dev/console ] && [ ! -f /dev/pts/0 ] && echo CLEAN"
    bundle = oci.bundle(merged(_TERMINAL, {"process": {"args": ["sh", "-c", script]}}))
    devices = [entry for entry in SPEC["mounts"] if entry["destination"] != "/dev"]
    oci.write_spec(bundle, merged(SPEC, merged(_TERMINAL, {"process": {"args": ["sh", "-c", script]}, "mounts": devices})))
    (rootfs(bundle) / "dev" / "console").symlink_to(target)
    with nothing_on_the_host():
        done = oci.run(bundle, code=None)
    assert done.returncode == 1 or "CLEAN" in done.stdout
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


def test_terminals_in_a_directory_of_the_image(oci: Oci, tmp_path: Path) -> None:
    """CVE-2025-52565 without a race: /dev/pts is a volume in which every N is a link to core_pattern, and ptmx a
    device, a fifo (which would block who opens it), a link or a file."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    for number in range(10):
        (tmp_path / str(number)).symlink_to("/proc/sys/kernel/core_pattern")
    mounts = [*without("/dev/pts"), {"destination": "/dev/pts", "type": "bind", "source": str(tmp_path), "options": ["bind"]}]
    box = oci.up({"mounts": mounts})
    for make in (
        lambda at: os.mknod(at, stat.S_IFCHR | 0o666, os.makedev(5, 2)), lambda at: os.mkfifo(at, 0o666),
        lambda at: at.symlink_to("/dev/null"), lambda at: at.write_text("x"), lambda at: os.mknod(at, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    ):  # fmt: skip
        ptmx = tmp_path / "ptmx"
        make(ptmx)
        spec = merged(SPEC, merged(_TERMINAL, {"mounts": mounts, "process": {"args": ["sh", "-c", "echo '|/evil' > /dev/console"]}}))
        bundle = oci.bundle()
        oci.write_spec(bundle, spec)
        assert "process.terminal" in oci.run(bundle, code=1).stderr
        assert "process.terminal" in oci.call("exec", "-t", box.id, "true", code=255, timeout=60).stderr
        ptmx.unlink()
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


# -- descriptors ----------------------------------------------------------------------------------------


# Runs a command with the host's root open at some numbers, as a careless caller would.
_LEAK = """
import os, sys
fd = os.open("/", os.O_RDONLY)
for number in sys.argv[1].split(","):
    os.dup2(fd, int(number))
    os.set_inheritable(int(number), True)
os.execv(sys.argv[2], sys.argv[2:])
"""


def leaking(numbers: str, command: "list[str]") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-ISc", _LEAK, numbers, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20
    )  # fmt: skip


@pytest.mark.parametrize("link", [False, True])
def test_work_directory_through_a_descriptor(oci: Oci, link: bool) -> None:
    """CVE-2024-21626: a work directory of /proc/self/fd/N, N a directory of the host that the runtime or its caller
    has open, in the bundle or through a link of the image; from there `../..` is the host."""
    first = oci.bundle()
    box = oci.create(first).start()
    bundle = oci.bundle()
    for number in (*range(3, 16), 30):
        cwd = f"/proc/self/fd/{number}"
        if link:
            for top in (rootfs(first), rootfs(bundle)):
                (top / "w").unlink(missing_ok=True)
                (top / "w").symlink_to(cwd)
            cwd = "/w"
        oci.write_spec(bundle, merged(SPEC, {"process": {"cwd": cwd, "args": ["sh", "-c", "ls ../../../../work; pwd"]}}))
        done = leaking("5,9,30", oci.command("run", "--bundle", bundle, oci.identity()))
        assert done.returncode == 1
        assert "work directory" in done.stderr
        done = leaking("5,9,30", oci.command("exec", "--cwd", cwd, box.id, "pwd"))
        assert done.returncode == 255
        assert "work directory" in done.stderr
    # Handed over on purpose it may be used, but not as the work directory.
    oci.write_spec(bundle, merged(SPEC, {"process": {"cwd": "/proc/self/fd/3", "args": ["pwd"]}}))
    done = leaking("3", oci.command("run", "--preserve-fds", "1", "--bundle", bundle, oci.identity()))
    assert (done.returncode, "outside" in done.stderr) == (1, True)
    done = leaking("3", oci.command("exec", "--preserve-fds", "1", "--cwd", "/proc/self/fd/3", box.id, "pwd"))
    assert (done.returncode, "work directory" in done.stderr) == (255, True)


def test_no_inherited_descriptor(oci: Oci) -> None:
    """A descriptor of the host that comes through execve is a way out. The caller leaks some, with gaps; with
    --preserve-fds only what was asked for goes on, and a number that is not open is refused: it would be ours."""
    bundle = oci.bundle(args=["ls", "/proc/self/fd"])
    for words in ((), ("--preserve-fds", "0")):
        done = leaking("5,11,40", oci.command("run", *words, "--bundle", bundle, oci.identity()))
        assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is ls's own
    box = oci.up()
    assert sorted(os.listdir(f"/proc/{box.pid}/fd")) == ["0", "1", "2"]
    assert leaking("5,11,40", oci.command("exec", box.id, "ls", "/proc/self/fd")).stdout.split() == ["0", "1", "2", "3"]
    done = leaking("3,4,9,40", oci.command("exec", "--preserve-fds", "2", box.id, "ls", "/proc/self/fd"))
    assert done.stdout.split() == ["0", "1", "2", "3", "4", "5"]
    for verb in (("run", "--bundle", bundle, oci.identity()), ("exec", box.id, "true")):
        done = leaking("3,5", oci.command(verb[0], "--preserve-fds", "3", *verb[1:]))
        assert "descriptor 4 is not open" in done.stderr


def test_created_container_holds_nothing(oci: Oci) -> None:
    """Between `create` and `start` the first program is still the runtime's. An `exec` with CAP_SYS_PTRACE that looks
    into /proc/1/fd must find no directory (the host's procfs would be one: its sys/kernel/core_pattern is root), no
    file of the runtime, and no more rights than its own."""
    box = oci.create(oci.bundle(merged(_TRACER, _FILTER)))
    seen = {os.readlink(f"/proc/{box.pid}/fd/{name}") for name in os.listdir(f"/proc/{box.pid}/fd") if int(name) > 2}
    assert len(seen) == 1
    assert all(name.startswith("socket:") for name in seen)
    out = box.exec("sh", "-c", "for f in /proc/1/fd/*; do [ -d $f ] && echo DIRECTORY $f; done; cat /proc/1/status").stdout
    assert "DIRECTORY" not in out
    mine = box.exec("cat", "/proc/self/status").stdout
    for field in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "Seccomp:"):
        line = next(line for line in mine.splitlines() if line.startswith(field))
        assert line in out.splitlines()
    oci.call("delete", box.id, timeout=60)  # nor the lock, for which `delete` would wait for ever


# -- a false /proc ---------------------------------------------------------------------------------------

_WRITES = {
    "process": {"oomScoreAdj": 700},
    "linux": {
        "sysctl": {"net.ipv4.ip_default_ttl": "77", "kernel.shmmni": "111"},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup", "time")],
        "timeOffsets": {"boottime": {"secs": 1000}}, "maskedPaths": [], "readonlyPaths": [],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ["volume", "tmpfs", "files"])
def test_writes_to_a_false_proc(oci: Oci, tmp_path: Path, kind: str) -> None:
    """CVE-2019-16884, CVE-2025-52881: what a runtime writes to /proc (sysctls, oom_score_adj, attr/exec, time offsets)
    goes to another file if the container has put one there: a volume or tmpfs as /proc, or files bound into it."""
    fakes = ["self/oom_score_adj", "self/attr/exec", "self/timens_offsets", "sys/net/ipv4/ip_default_ttl", "sys/kernel/shmmni"]
    for name in fakes:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("fake\n")
    if kind == "volume":
        mounts = [*without("/proc"), {"destination": "/proc", "type": "bind", "source": str(tmp_path), "options": ["bind"]}]
    elif kind == "tmpfs":
        mounts = [*without("/proc"), {"destination": "/proc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}]
        mounts[-1]["options"] = ["mode=755"]
    else:
        mounts = [*SPEC["mounts"], *({"destination": f"/proc/{name}", "type": "bind", "source": str(tmp_path / name), "options": ["bind"]}
                                     for name in fakes if name.startswith("sys/"))]  # fmt: skip
    box = oci.up(merged(_WRITES, {"mounts": mounts}))
    assert box.proc("oom_score_adj").strip() == "700"
    assert "boottime 1000" in " ".join(box.proc("timens_offsets").split())
    entered = ["nsenter", "-t", str(box.pid), "-n", "-i", "cat", "/proc/sys/net/ipv4/ip_default_ttl", "/proc/sys/kernel/shmmni"]
    assert subprocess.run(entered, capture_output=True, text=True, check=True).stdout.split() == ["77", "111"]
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip() != "77"
    pid_file = f"{oci.top}/exec.pid"
    process = {"args": ["sleep", "1000"], "cwd": "/", "oomScoreAdj": 800, "env": ["PATH=/bin"]}
    Path(f"{oci.top}/process.json").write_text(json.dumps(process))
    words = oci.command("exec", "--detach", "--process", f"{oci.top}/process.json", "--pid-file", pid_file, box.id)
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)
    assert Path(f"/proc/{Path(pid_file).read_text()}/oom_score_adj").read_text().strip() == "800"
    assert {(tmp_path / name).read_text() for name in fakes} == {"fake\n"}


def test_false_proc_in_a_joined_mount_namespace(oci: Oci, tmp_path: Path) -> None:
    """CVE-2025-52881 by way of linux.namespaces: a mount namespace given by path belongs to a container, and so does
    the /proc in it. What is written while the second container starts must not go through that."""
    for name in ("self/oom_score_adj", "self/attr/exec", "self/timens_offsets", "sys/net/ipv4/ip_default_ttl", "sys/kernel/shmmni"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("fake\n")
    box = oci.up({"mounts": [*without("/proc"), {"destination": "/proc", "type": "bind", "source": str(tmp_path), "options": ["bind"]}]})
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "cgroup", "time")]
    changes = merged(_WRITES, {"root": {"path": "/"}, "process": {"args": ["true"]}, "mounts": []})
    changes["linux"]["namespaces"] = [*namespaces, {"type": "mount", "path": f"/proc/{box.pid}/ns/mnt"}]
    oci.run(oci.bundle(changes), code=None)  # whether that makes sense is another matter
    assert {entry.read_text() for entry in tmp_path.rglob("*") if entry.is_file()} == {"fake\n"}


# -- exec into a hostile container -------------------------------------------------------------------------


def test_exec_gives_no_inheritable_capability(oci: Oci) -> None:
    """CVE-2022-29162: `exec --cap` that sets the inheritable set as well gives the capability to every program with
    that file capability, for any user. Nor may one be ambient."""
    box = oci.up()
    out = box.exec("cat", "/proc/self/status").stdout + oci.call("exec", "--cap", "CAP_NET_ADMIN", box.id, "cat", "/proc/self/status").stdout
    for line in out.splitlines():
        assert not line.startswith(("CapInh", "CapAmb")) or int(line.split()[1], 16) == 0
    assert out.count("CapEff") == 2


def test_tracer_sees_no_more_than_it_has(oci: Oci) -> None:
    """CVE-2016-9962: a process of the container with CAP_SYS_PTRACE finds the joining `exec` in /proc and takes its
    descriptors or its rights. Whatever appears in there may have no capability, no descriptor on a directory and no
    lack of a filter that the container does not have itself."""
    script = (
        "echo ready; while :; do for p in /proc/[0-9]*; do case $p in /proc/1) continue;; esac; "
        "for f in $p/fd/*; do [ -d $f/. ] && echo DIRECTORY $f; done; [ -d $p/root/work ] && echo HOST $p; "
        "while read -r k v r; do case $k in Cap*|Seccomp:|NoNewPrivs:) echo $k $v;; esac; done < $p/status; done 2>/dev/null; done"
    )
    box = oci.up(merged(merged(_TRACER, _FILTER), {"process": {"args": ["sh", "-c", script]}}))
    wait_for(box, "ready")
    for number in range(STARTS):
        oci.call("exec", *(["-t"] if number % 5 == 0 else []), box.id, "true")
    seen = set(box.output().splitlines()) - {"ready"}
    mine = {" ".join(line.split()[:2]) for line in box.proc("status").splitlines() if line.startswith(("Cap", "Seccomp:", "NoNewPrivs:"))}
    assert seen <= mine, seen - mine
    assert len(seen) == len(mine), "the tracer has seen nobody: the test is void"


def test_joiner_is_never_in_the_container_with_its_rights(oci: Oci) -> None:
    """CVE-2016-9962, without luck: of all that `exec` calls, as strace logs it, what is done by a process of the
    container's pid namespace is next to nothing, and nothing there gives up a right: it was given up before."""
    box = oci.up(merged(_TRACER, _FILTER))
    log = f"{oci.top}/strace"
    done = subprocess.run(["strace", "-f", "-o", log, "--", *oci.command("exec", box.id, "true")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = Path(log).read_text().splitlines()
    program = next(line.split()[0] for line in lines if 'execve("/bin/true"' in line)
    before = []
    for line in lines:
        if line.startswith(f"{program} "):
            if "execve(" in line:
                break
            before.append(line.split(None, 1)[1])
    calls = {line.partition("(")[0] for line in before if "(" in line and not line.startswith(("<...", "+++"))}
    assert calls & {"capset", "setresuid", "setresgid", "setgroups", "setns", "unshare", "mount", "chroot", "openat", "openat2"} == set()
    # And nothing of the host's Python was looked for in the container: an import there would run its code.
    joined = next(number for number, line in enumerate(lines) if " setns(" in line)
    theirs = (f"{program} ", f"{lines[joined].split()[0]} ")
    opened = [line for line in lines[joined:] if line.startswith(theirs) and ("open" in line or "stat" in line)]
    assert not [line for line in opened if "python" in line or "/berth/" in line]


def test_nothing_is_imported_in_the_container(oci: Oci) -> None:
    """Python imports late, and after pivot_root or setns the name of a module is one of the container's: the image
    brings the paths of the host's library, with code that leaves a mark. None may run, on no way that fails."""
    library = os.path.dirname(os.path.realpath(json.__file__)).rsplit("/", 1)[0]
    bundle = oci.bundle()
    top = rootfs(bundle)
    hostile = "open('/PWNED', 'a').write(__name__ + chr(10))\n"
    for directory in (library, f"{REPOSITORY}/src", f"{library}/encodings", f"{REPOSITORY}/src/berth", f"{REPOSITORY}/src/berth/runtime",
                      f"{REPOSITORY}/src/berth/linux", f"{REPOSITORY}/src/berth/models"):  # fmt: skip
        source, at = Path(directory), top / directory.lstrip("/")
        at.mkdir(parents=True, exist_ok=True)
        for name in source.glob("*.py"):
            (at / name.name).write_text(hostile)
    box = oci.create(bundle)
    box.start()
    for words in (["true"], ["/nonexistent"], ["/etc/passwd"], ["/etc"], ["no such"], ["\udcff"]):
        oci.call("exec", box.id, *[word.encode("utf-8", "surrogateescape") for word in words], code=None)  # type: ignore[arg-type]
        oci.call("exec", "--cwd", "/nonexistent", box.id, "true", code=255)
        oci.call("exec", "--user", "7:8", "-t", box.id, *[word.encode("utf-8", "surrogateescape") for word in words], code=None)  # type: ignore[arg-type]
    hook = {"hooks": {"startContainer": [{"path": "/bin/false"}]}}
    oci.write_spec(bundle, merged(SPEC, hook))
    oci.run(bundle, code=1)
    assert not (top / "PWNED").exists(), (top / "PWNED").read_text()


def test_hostile_files_of_a_container(oci: Oci) -> None:
    """What an `exec` looks at in the container, before it is one of its processes, is the container's: /dev/null a
    fifo (a device's opening acts: the host's watchdog would start), /etc/passwd a fifo that blocks, a device or a
    link out; a fifo or device as the program; LD_PRELOAD, PATH and HOME in the environment."""
    box = oci.up({"process": {"env": ["PATH=/bin", "LD_PRELOAD=/evil.so", "LD_LIBRARY_PATH=/"]}})
    inside = Path(box.path("/"))
    script = "rm /dev/null; mkfifo /dev/null /fifo; chmod 777 /fifo; mknod /node c 1 3; chmod 777 /node; mv /etc/passwd /p; mkfifo /etc/passwd; exit 0"
    box.exec("sh", "-c", script)
    waiter = subprocess.Popen(["nsenter", "-t", str(box.pid), "-m", "-r", "sh", "-c", "read x < /dev/null; echo OPENED"],
                              stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)  # fmt: skip
    try:
        for program, code in (("true", 0), ("/fifo", 255), ("/node", 255), ("/proc/self/fd/0", 255)):
            done = oci.call("exec", box.id, program, code=code, timeout=60)
            assert "mistake in berth" not in done.stderr
        assert oci.call("exec", box.id, "sh", "-c", "echo $HOME", timeout=60).stdout == "/\n"
        box.exec("sh", "-c", "rm /etc/passwd; mknod /etc/passwd c 1 5")
        assert oci.call("exec", box.id, "sh", "-c", "echo $HOME", timeout=60).stdout == "/\n"
        assert waiter.poll() is None, "the fifo at /dev/null was opened"
    finally:
        waiter.kill()
        assert waiter.communicate()[0] == ""
    assert stat.S_ISFIFO(os.lstat(inside / "dev/null").st_mode)
    process = {"args": ["/bin/true"], "cwd": "/", "env": [f"V{n}={'x' * 100_000}" for n in range(30)]}
    Path(f"{oci.top}/process.json").write_text(json.dumps(process))
    assert "too long" in oci.call("exec", "--process", f"{oci.top}/process.json", box.id, code=255, timeout=60).stderr


# -- devices, cgroups, hooks -----------------------------------------------------------------------------------


def test_device_with_the_hosts_numbers(oci: Oci) -> None:
    """CAP_MKNOD makes any node; the devices cgroup denies opening it, in the container and in what `exec` adds."""
    number = os.stat("/").st_dev
    script = f"mknod /disk b {os.major(number)} {os.minor(number)}; mknod /mem c 1 1; head -c 1 /disk; head -c 1 /mem; echo done"
    done = oci.run(oci.bundle(args=["sh", "-c", script]))
    assert done.stderr.count("not permitted") == 2
    assert oci.up().exec("sh", "-c", script).stderr.count("not permitted") == 2


def test_device_over_what_is_there(oci: Oci) -> None:
    """linux.devices names a path where the image has another device, a link to one or a file: nothing is taken for
    the device that it is not, and nothing is made through the link."""
    for make in (
        lambda at: os.mknod(at, stat.S_IFBLK | 0o666, os.makedev(1, 7)), lambda at: os.mknod(at, stat.S_IFCHR | 0o666, os.makedev(1, 1)),
        lambda at: at.symlink_to("/etc/passwd"), lambda at: at.write_text(""),
    ):  # fmt: skip
        bundle = oci.bundle(args=["true"])
        device = {"path": "/x/full", "type": "c", "major": 1, "minor": 7}
        oci.write_spec(bundle, merged(SPEC, {"process": {"args": ["true"]}, "linux": {"devices": [device]}}))
        (rootfs(bundle) / "x").mkdir()
        make(rootfs(bundle) / "x" / "full")
        mode = (rootfs(bundle) / "etc/passwd").stat().st_mode
        assert "/x/full exists in the container" in oci.run(bundle, code=1).stderr
        assert (rootfs(bundle) / "etc/passwd").stat().st_mode == mode


def test_hostile_cgroups(oci: Oci) -> None:
    """A container with its cgroups mounted writable makes groups of its own, moves into them, freezes them, and asks
    for a release agent (CVE-2022-0492). `kill`, `exec` and `delete` work all the same, and nothing is left."""
    mounts = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}]
    admin = {"process": {"capabilities": {kind: [*_DEFAULT, "CAP_SYS_ADMIN"] for kind in _KINDS}}}
    script = (
        "cd /sys/fs/cgroup; for d in *; do [ -d $d ] || continue; mkdir -p $d/a/b; sleep 1000 & echo $! > $d/a/b/cgroup.procs; "
        "echo /evil > $d/release_agent && echo AGENT; echo 1 > $d/notify_on_release; done; "
        "echo FROZEN > freezer/a/freezer.state; echo ready; sleep 1000"
    )
    box = oci.up(merged(admin, {"process": {"args": ["sh", "-c", script]}}), mounts=mounts)
    wait_for(box, "ready")
    assert "AGENT" not in box.output()
    assert box.exec("true").returncode == 0
    oci.call("delete", "--force", box.id, timeout=60)
    oci.assert_nothing_left()


def test_hooks_are_those_of_create(oci: Oci, tmp_path: Path) -> None:
    """Hooks run on the host. Whoever can write to the bundle while the container runs, as a container can whose
    volume it is, must not be able to add one: `start` and `delete` go by what `create` has read."""
    bundle = oci.bundle()
    box = oci.create(bundle)
    evil = {"path": "/bin/touch", "args": ["touch", str(tmp_path / "evil")]}
    oci.write_spec(bundle, merged(SPEC, {"hooks": {point: [evil] for point in ("poststart", "poststop", "startContainer", "createRuntime")}}))
    box.start().delete()
    assert not (tmp_path / "evil").exists()


def test_start_hook_is_a_program_of_the_container(oci: Oci) -> None:
    """A startContainer hook is a file of the image: it has the container's rights and descriptors, and no more."""
    script = "for f in /proc/self/fd/*; do [ -d $f/. ] && echo DIRECTORY; done; cat /proc/self/status > /seen; ls /proc/1/fd/ >> /seen; exit 0"
    hook = {"hooks": {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}}
    box = oci.up(merged(_FILTER, hook))
    seen = Path(box.path("/seen")).read_text()
    assert "DIRECTORY" not in seen
    for line in box.proc("status").splitlines():
        assert not line.startswith(("Cap", "Seccomp:")) or line in seen.splitlines()


# -- one pid namespace for several containers --------------------------------------------------------------------


def test_init_in_a_shared_pid_namespace(oci: Oci) -> None:
    """A pod: the second container joins the first one's pid namespace, where a hostile process waits for its init,
    which has the host's rights while it mounts. Without CAP_SYS_PTRACE the first must not get at its descriptors,
    root, memory or environment (docs/security.md says what CAP_SYS_PTRACE in such a namespace means)."""
    script = (
        "echo ready; while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac; "
        "for f in $p/fd/*; do [ -d $f/. ] && echo DIRECTORY $f; done; [ -d $p/root/work ] && echo HOST $p; [ -d $p/cwd/work ] && echo HOST $p; "
        "read -r x < $p/environ && case $x in *BERTH_SECRET*) echo SECRET;; esac; echo seen; done 2>/dev/null; done"
    )
    first = oci.up({"process": {"args": ["sh", "-c", script]}})
    wait_for(first, "ready")
    kinds = [{"type": kind} for kind in ("network", "ipc", "uts", "mount", "cgroup")]
    namespaces = [*kinds, {"type": "pid", "path": f"/proc/{first.pid}/ns/pid"}]
    bundle = oci.bundle({"linux": {"namespaces": namespaces}}, args=["true"])
    for _ in range(STARTS):
        oci.run(bundle, env={**os.environ, "BERTH_SECRET": "x"})
    assert set(first.output().split("\n")) == {"ready", "seen", ""}
