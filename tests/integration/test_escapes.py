"""Ways out of a container that others had, each tried here. The mechanism is in the docstring."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Engine, read

pytestmark = pytest.mark.root
Up = Callable[..., str]


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def mounts_of(engine: Engine) -> list[str]:
    """The host's mounts but those of other engines, which tests beside this one have."""
    others = [name for name in os.listdir("/var/tmp") if name.startswith("berth-") and name not in engine.top]
    lines = read("/proc/self/mountinfo").splitlines()
    return [line for line in lines if not any(name in line for name in (*others, "berth-dockerd-", "/run/netns"))]


@pytest.mark.parametrize("link", ["evil", "evil-up"])
def test_mount_destination_through_a_link_of_the_image(engine: Engine, tmp_path: Path, link: str) -> None:
    """The image has a symbolic link to `/` (or `../../..`). A runtime that resolves the destination of a
    mount as a string on the host mounts over the host's directory (CVE-2019-16884, CVE-2021-30465)."""
    (tmp_path / "mark").write_text("bind\n")
    before = mounts_of(engine)
    target = f"/{link}/var/tmp/berth-escape"
    out = engine.sh("cat /var/tmp/berth-escape/mark; touch /evil/t/inside; ls /t", "-v", f"{tmp_path}:{target}", "--tmpfs", f"/{link}/t")
    assert out == "bind\ninside\n"
    assert mounts_of(engine) == before
    assert not os.path.lexists("/var/tmp/berth-escape")
    assert not os.path.lexists("/t")


def test_link_swapped_during_mounts(engine: Engine, tmp_path: Path) -> None:
    """CVE-2021-30465: one container swaps a directory of a shared bind for a link to `/` while another
    one is mounted onto it. Whatever the outcome of the race, nothing may appear on the host."""
    shared = tmp_path / "shared"
    (shared / "a").mkdir(parents=True)
    identity = engine.up("-v", f"{shared}:/s", command=("sh", "-c", "cd /s; while :; do mv a b; ln -s / a; rm a; mv b a; done"))
    before = mounts_of(engine)
    try:
        for _ in range(12):
            done = engine.run("-v", f"{shared}:/v", "--tmpfs", "/v/a/berth-swap", "bb", "sh", "-c", "grep -c berth-swap /proc/mounts", code=None)
            assert done.returncode in (0, 1, 125, 126, 127)
            assert not os.path.lexists("/berth-swap")
    finally:
        engine.rm(identity)
    assert mounts_of(engine) == before


def test_proc_as_a_link(engine: Engine, tmp_path: Path) -> None:
    """CVE-2019-19921: /proc of the image is a link to a volume, so that masks and labels go elsewhere."""
    import io
    import tarfile

    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "else"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        link = tarfile.TarInfo("proc")
        link.type, link.linkname = tarfile.SYMTYPE, "/else"
        tar.addfile(link)
        data = Path("/bin/busybox").read_bytes()
        entry = tarfile.TarInfo("bin/true")
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
    engine.docker("import", str(path), "linkproc")
    assert "symbolic link" in engine.run("linkproc", "true", code=None).stderr
    engine.docker("rmi", "linkproc")


def test_own_executable_overwritten(engine: Engine) -> None:
    """CVE-2019-5736: with `/proc/self/exe` as its program the container is, for a moment, the host's
    runtime, and other processes in it open /proc/PID/exe for writing once that ends."""
    interpreter = os.path.realpath(sys.executable)
    before = digest(interpreter)
    done = engine.run("--entrypoint", "/proc/self/exe", "bb", "-c", "print(open('/proc/self/exe', 'wb').write(b'x'))", code=None)
    assert done.returncode != 0
    # From an exec: /proc/self/exe of the joining process, seen by a program that is root inside.
    identity = engine.up("--cap-add", "SYS_PTRACE", command=(
        "sh", "-c", "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) "
        "{ echo x > $p/exe; } 2>/dev/null && echo WRITTEN $(readlink $p/exe);; esac; done; done"))  # fmt: skip
    for _ in range(5):
        engine.docker("exec", identity, "/proc/self/exe", code=None)
        engine.docker("exec", identity, "/bin/true", code=None)
    assert "WRITTEN" not in engine.docker("logs", identity).stdout
    engine.rm(identity)
    assert digest(interpreter) == before
    assert digest("/bin/busybox") == digest("/usr/bin/busybox")


def test_no_inherited_descriptor(engine: Engine, up: Up) -> None:
    """A descriptor of the host that comes through execve is a way out, whatever it is open on."""
    assert engine.sh("ls /proc/self/fd").split() == ["0", "1", "2", "3"]  # 3 is ls's own
    identity = up()
    assert sorted(os.listdir(f"/proc/{engine.pid(identity)}/fd")) == ["0", "1", "2"]
    assert engine.docker("exec", identity, "ls", "/proc/self/fd").stdout.split() == ["0", "1", "2", "3"]
    tty = up("-t")
    assert sorted(os.listdir(f"/proc/{engine.pid(tty)}/fd")) == ["0", "1", "2"]


@pytest.mark.parametrize("number", range(3, 16))
def test_work_directory_through_a_descriptor(engine: Engine, number: int) -> None:
    """CVE-2024-21626: a work directory of /proc/self/fd/N, N being a directory of the host left open."""
    done = engine.run("-w", f"/proc/self/fd/{number}", "bb", "sh", "-c", "cat ../../../../../../../etc/debian_version; pwd", code=None)
    assert done.returncode != 0
    assert read("/etc/debian_version").strip() not in done.stdout
    if number == 7:
        identity = engine.up()
        for other in range(3, 16):
            done = engine.docker("exec", "-w", f"/proc/self/fd/{other}", identity, "sh", "-c", "ls ../../../../../../work", code=None)
            assert done.returncode != 0
        engine.rm(identity)


def test_disk_of_the_host(engine: Engine) -> None:
    """CAP_MKNOD is in the default set: the node can be made, the devices cgroup denies opening it."""
    number = os.stat("/").st_dev
    out = engine.sh(f"mknod /disk b {os.major(number)} {os.minor(number)} && echo made; head -c 1 /disk", code=1)
    assert "Operation not permitted" in out
    out = engine.sh("mknod /kmem c 1 1; mknod /port c 1 4; for f in /kmem /port; do head -c 1 $f; done", code=1)
    assert out.count("not permitted") >= 2


@pytest.mark.parametrize(
    "script",
    [
        "unshare -m true", "unshare -U true", "unshare -n true", "mount -t tmpfs none /tmp", "mount --bind / /tmp", "umount /proc",
        "mount -o remount,rw /sys", "echo '|/x' > /proc/sys/kernel/core_pattern", "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/uevent_helper", "hostname other", "chroot /proc/1/root/../../.. ls /work", "! date -s 2001-01-01 2>&1 | grep 'not permitted'",
        "echo a > /sys/fs/cgroup/devices/devices.allow", "mkdir /sys/fs/cgroup/memory/x", "ip link add x type dummy", "swapon /bin/sh",
        "nsenter -t 1 -m -u true", "reboot -f", "insmod /bin/sh", "renice -n -5 1", "dmesg -n 1",
    ],
)  # fmt: skip
def test_denied_inside(engine: Engine, script: str) -> None:
    """What the default capabilities, filter, masks or read-only mounts deny. A success would be a way out, or towards one."""
    pattern, name = read("/proc/sys/kernel/core_pattern"), os.uname().nodename
    assert engine.run("bb", "sh", "-c", script, code=None).returncode != 0
    assert (read("/proc/sys/kernel/core_pattern"), os.uname().nodename) == (pattern, name)


def test_root_cannot_be_climbed_out_of(engine: Engine) -> None:
    """The classic escape from chroot(2): a second chroot and a work directory above it. pivot_root leaves nothing above."""
    script = "mkdir /jail; chroot /jail /no 2>/dev/null; cd /; i=0; while [ $i -lt 30 ]; do cd ..; i=$((i+1)); done; ls; ls /proc/1/root/"
    out = engine.sh(script, "--cap-add", "ALL")
    assert "work" not in out.split()
    assert "evil" in out.split()


def test_sysctls_of_the_host_with_all_capabilities(engine: Engine) -> None:
    """--privileged apart, not even --cap-add ALL may write to the host's sysctls: they are mounted read-only."""
    assert "Read-only" in engine.sh("echo x > /proc/sys/kernel/core_pattern", "--cap-add", "ALL", code=1)
