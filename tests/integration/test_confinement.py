"""Capabilities, seccomp, no-new-privileges, masked paths, devices and mounts, seen from the host."""

import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Engine, group_file, read, status

pytestmark = pytest.mark.root
Up = Callable[..., str]
DEFAULT = {
    "cap_chown", "cap_dac_override", "cap_fsetid", "cap_fowner", "cap_mknod", "cap_net_raw", "cap_setgid", "cap_setuid",
    "cap_setfcap", "cap_setpcap", "cap_net_bind_service", "cap_sys_chroot", "cap_kill", "cap_audit_write",
}  # fmt: skip


def caps(pid: int, which: str) -> set[str]:
    """A set of capabilities of a process, decoded by capsh."""
    mask = status(pid)[f"Cap{which}"]
    text = subprocess.run(["capsh", f"--decode={mask}"], capture_output=True, text=True, check=True).stdout
    return set(text.strip().partition("=")[2].split(",")) - {""}


def test_root_has_dockers_default_set(engine: Engine, up: Up) -> None:
    pid = engine.pid(up())
    for which in ("Eff", "Prm", "Bnd"):
        assert caps(pid, which) == DEFAULT, which
    assert caps(pid, "Inh") == caps(pid, "Amb") == set()


def test_user_has_only_the_bounding_set(engine: Engine, up: Up) -> None:
    pid = engine.pid(up("--user", "alice"))
    assert status(pid)["Uid"].split() == ["1000"] * 4
    assert status(pid)["Gid"].split() == ["1000"] * 4
    assert set(status(pid)["Groups"].split()) >= {"50"}
    for which in ("Eff", "Prm", "Inh", "Amb"):
        assert caps(pid, which) == set(), which
    assert caps(pid, "Bnd") == DEFAULT


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--cap-add", "NET_ADMIN"), DEFAULT | {"cap_net_admin"}),
        (("--cap-add", "cap_sys_time"), DEFAULT | {"cap_sys_time"}),
        (("--cap-drop", "CHOWN", "--cap-drop", "kill"), DEFAULT - {"cap_chown", "cap_kill"}),
        (("--cap-drop", "ALL"), set()),
        (("--cap-drop", "ALL", "--cap-add", "CHOWN"), {"cap_chown"}),
    ],
)
def test_capabilities_added_and_dropped(engine: Engine, up: Up, options: tuple[str, ...], expected: set[str]) -> None:
    pid = engine.pid(up(*options))
    assert caps(pid, "Eff") == caps(pid, "Bnd") == expected


@pytest.mark.parametrize("options", [("--cap-add", "ALL"), ("--privileged",)])
def test_all_is_what_the_engine_has(engine: Engine, up: Up, options: tuple[str, ...]) -> None:
    assert caps(engine.pid(up(*options)), "Eff") == caps(os.getpid(), "Bnd")


def test_all_but_one(engine: Engine, up: Up) -> None:
    assert caps(engine.pid(up("--cap-add", "ALL", "--cap-drop", "SYS_ADMIN")), "Eff") == caps(os.getpid(), "Bnd") - {"cap_sys_admin"}


def test_exec_has_the_same_confinement(engine: Engine, up: Up) -> None:
    identity = up("--cap-drop", "CHOWN")
    inside = engine.docker("exec", identity, "cat", "/proc/self/status").stdout
    outside = read(f"/proc/{engine.pid(identity)}/status")
    for name in ("CapEff", "CapBnd", "CapPrm", "Seccomp", "NoNewPrivs"):
        line = [text for text in outside.splitlines() if text.startswith(f"{name}:")]
        assert line[0] in inside


def test_unknown_capability(engine: Engine) -> None:
    assert "unknown capability" in engine.run("--cap-add", "NO_SUCH", "bb", "true", code=125).stderr


def test_seccomp_filters_by_default(engine: Engine, up: Up) -> None:
    assert status(engine.pid(up()))["Seccomp"] == "2"
    # unshare needs CAP_SYS_ADMIN in Docker's profile, also where the kernel itself would allow it.
    assert "not permitted" in engine.sh("unshare -U true", "-u", "alice", code=None)
    assert engine.sh("unshare -U true && echo done", "-u", "alice", "--security-opt", "seccomp=unconfined") == "done\n"


def test_seccomp_unconfined_and_privileged(engine: Engine, up: Up) -> None:
    assert status(engine.pid(up("--security-opt", "seccomp=unconfined")))["Seccomp"] == "0"
    assert status(engine.pid(up("--privileged")))["Seccomp"] == "0"


def test_seccomp_profile_of_a_file(engine: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }))  # fmt: skip
    out = engine.sh("mkdir /x; touch /y && echo touched", "--security-opt", f"seccomp={profile}")
    assert "not supported" in out
    assert "touched" in out
    profile.write_text('{"defaultAction": "SCMP_ACT_NO_SUCH"}')
    engine.run("--security-opt", f"seccomp={profile}", "bb", "true", code=125)


def test_no_new_privileges(engine: Engine, up: Up) -> None:
    assert status(engine.pid(up()))["NoNewPrivs"] == "0"
    pid = engine.pid(up("--security-opt", "no-new-privileges", "-u", "alice"))
    assert status(pid)["NoNewPrivs"] == "1"
    assert status(pid)["Seccomp"] == "2"


@pytest.mark.parametrize("option", ["apparmor=some-profile", "label=type:container_t"])
def test_missing_security_module_asked_for_by_name(engine: Engine, option: str) -> None:
    if os.path.exists("/sys/kernel/security/apparmor") or os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("this kernel has the module")
    assert "this kernel does not have" in engine.run("--security-opt", option, "bb", "true", code=125).stderr


def test_masked_and_read_only_paths(engine: Engine, up: Up) -> None:
    pid = engine.pid(up())
    root = f"/proc/{pid}/root"
    mounts = {line.split()[4]: line.split()[5] for line in read(f"/proc/{pid}/mountinfo").splitlines()}
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/bus", "/proc/irq", "/proc/fs"):
        if os.path.exists(path):
            assert mounts[path].startswith("ro"), path
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"):
        if os.path.exists(path):
            assert os.stat(f"{root}{path}").st_rdev == os.makedev(1, 3), path
    for path in ("/proc/acpi", "/proc/scsi", "/sys/firmware"):
        if os.path.isdir(path):
            assert os.listdir(f"{root}{path}") == [], path
    assert mounts["/sys"].startswith("ro")
    assert mounts["/sys/fs/cgroup"].startswith("ro")


def test_privileged_and_systempaths_are_not_masked(engine: Engine, up: Up) -> None:
    for options in (("--privileged",), ("--security-opt", "systempaths=unconfined")):
        lines = read(f"/proc/{engine.pid(up(*options))}/mountinfo")
        assert " /proc/sys " not in lines
        assert " /proc/kcore " not in lines


def test_default_devices(engine: Engine, up: Up) -> None:
    root = f"/proc/{engine.pid(up())}/root/dev"
    numbers = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
    for name, (major, minor) in numbers.items():
        have = os.stat(f"{root}/{name}")
        assert have.st_rdev == os.makedev(major, minor), name
        assert have.st_mode & 0o777 == 0o666, name
    links = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}
    for name, target in links.items():
        assert os.readlink(f"{root}/{name}") == target
    assert set(os.listdir(root)) <= {*numbers, *links, "core", "pts", "shm", "mqueue", "console"}


def test_device_on_request(engine: Engine, up: Up) -> None:
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no /dev/loop-control")
    number = os.stat("/dev/loop-control").st_rdev
    identity = up("--device", "/dev/loop-control:/dev/ours:r")
    assert os.stat(f"/proc/{engine.pid(identity)}/root/dev/ours").st_rdev == number
    assert f"c {os.major(number)}:{os.minor(number)} r" in group_file(identity, "devices", "devices.list").splitlines()


def test_missing_device(engine: Engine) -> None:
    assert "/dev/no-such" in engine.run("--device", "/dev/no-such", "bb", "true", code=125).stderr


def test_read_only_root(engine: Engine) -> None:
    out = engine.sh("touch /x; touch /dev/shm/y && echo shm; touch /scratch/z && echo tmpfs", "--read-only", "--tmpfs", "/scratch")
    assert out == "shm\ntmpfs\ntouch: /x: Read-only file system\n"


def test_tmpfs_options(engine: Engine, up: Up) -> None:
    pid = engine.pid(up("--tmpfs", "/a:size=1m,mode=700", "--mount", "type=tmpfs,dst=/b,tmpfs-size=2m,tmpfs-mode=1770"))
    lines = {line.split()[4]: line for line in read(f"/proc/{pid}/mountinfo").splitlines()}
    assert "size=1024k" in lines["/a"]
    assert all(word in lines["/a"] for word in ("nosuid", "nodev", "noexec"))
    assert "size=2048k" in lines["/b"]
    assert os.stat(f"/proc/{pid}/root/a").st_mode & 0o7777 == 0o700
    assert os.stat(f"/proc/{pid}/root/b").st_mode & 0o7777 == 0o1770


def test_shm_size(engine: Engine, up: Up) -> None:
    for options, size in (((), 65536), (("--shm-size", "8m"), 8192)):
        lines = read(f"/proc/{engine.pid(up(*options))}/mountinfo").splitlines()
        assert f"size={size}k" in next(line for line in lines if line.split()[4] == "/dev/shm")


def test_binds(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("host\n")
    out = engine.sh("cat /rw/f /file; echo new > /rw/new; echo x > /ro/f; echo y > /m/f", "-v", f"{tmp_path}:/rw", "-v", f"{tmp_path}:/ro:ro",
                    "-v", f"{tmp_path}/f:/file:ro", "--mount", f"type=bind,src={tmp_path},dst=/m,readonly", code=1)  # fmt: skip
    assert out.startswith("host\nhost\n")
    assert out.count("Read-only file system") == 2
    assert (tmp_path / "new").read_text() == "new\n"
    assert (tmp_path / "f").read_text() == "host\n"


def test_read_only_bind_holds_for_mounts_beneath(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "sub"], check=True)
    try:
        assert "Read-only" in engine.sh("touch /b/sub/x", "-v", f"{tmp_path}:/b:ro", code=1)
    finally:
        subprocess.run(["umount", tmp_path / "sub"], check=True)


def test_bind_sources(engine: Engine, tmp_path: Path) -> None:
    missing = tmp_path / "made"
    engine.run("-v", f"{missing}:/x", "bb", "true")
    assert missing.is_dir()
    error = engine.run("--mount", f"type=bind,src={tmp_path}/none,dst=/x", "bb", "true", code=125).stderr
    assert f"bind source path does not exist: {tmp_path}/none" in error
    assert not (tmp_path / "none").exists()


def test_ulimit(engine: Engine, up: Up) -> None:
    limits = read(f"/proc/{engine.pid(up('--ulimit', 'nofile=100:200', '--ulimit', 'core=0'))}/limits")
    assert any(line.split()[3:5] == ["100", "200"] for line in limits.splitlines() if line.startswith("Max open files"))


def test_ulimit_above_the_hard_limit(engine: Engine) -> None:
    if "cap_sys_resource" in caps(os.getpid(), "Bnd"):
        pytest.skip("this host has CAP_SYS_RESOURCE")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = engine.run("--ulimit", f"nofile={hard + 1}:{hard + 1}", "bb", "true", code=None)
    assert done.returncode in (125, 126, 127, 128)
    assert "CAP_SYS_RESOURCE" in done.stderr
    assert str(hard + 1) in done.stderr


def test_sysctl(engine: Engine) -> None:
    before = read("/proc/sys/kernel/msgmax")
    assert engine.sh("cat /proc/sys/kernel/msgmax", "--sysctl", "kernel.msgmax=12345") == "12345\n"
    assert read("/proc/sys/kernel/msgmax") == before
    assert "vm.swappiness" in engine.run("--sysctl", "vm.swappiness=1", "bb", "true", code=None).stderr


def test_init(engine: Engine, up: Up) -> None:
    identity = up("--init")
    pid = engine.pid(identity)
    assert read(f"/proc/{pid}/cmdline").split("\0")[:2] == ["/sbin/docker-init", "--"]
    # sleep ignores nothing and is not the first process: SIGTERM ends it by the init.
    engine.docker("stop", "-t", "5", identity)
    assert engine.state(identity)["ExitCode"] == 143


def test_no_signal_is_ignored_or_blocked(engine: Engine, up: Up) -> None:
    """What launcher and monitor ignore must not come through execve: a stop signal would have no effect."""
    identity = up()
    inside = engine.docker("exec", identity, "cat", "/proc/self/status").stdout
    assert "SigIgn:\t0000000000000000\n" in inside
    table = status(engine.pid(identity))
    assert {table["SigIgn"], table["SigBlk"]} == {"0000000000000000"}


def test_oom_score(engine: Engine, up: Up) -> None:
    assert read(f"/proc/{engine.pid(up('--oom-score-adj', '500'))}/oom_score_adj") == "500\n"


def test_process_options(engine: Engine) -> None:
    out = engine.sh("pwd; id -u; id -g; echo $A $HOME $HOSTNAME; hostname; grep -c h.example /etc/hostname", "-w", "/var/new", "-u", "1000:50",
                    "-e", "A=b c", "--hostname", "h.example")  # fmt: skip
    assert out.splitlines() == ["/var/new", "1000", "50", "b c /home h.example", "h.example", "1"]


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_other_runtimes_confine_alike(engine: Engine, up: Up, runtime: str) -> None:
    identity = up("--runtime", runtime, "--pids-limit", "33", "--hostname", "other", "-e", "A=1")
    pid = engine.pid(identity)
    ours = engine.pid(up())
    for which in ("Eff", "Bnd", "Prm"):
        assert caps(pid, which) == caps(ours, which), which
    assert status(pid)["Seccomp"] == "2"
    assert group_file(identity, "pids", "pids.max") == "33"
    assert engine.docker("exec", identity, "sh", "-c", "hostname; exit 4", code=4).stdout == "other\n"
    assert engine.run("--runtime", runtime, "bb", "sh", "-c", "echo out; exit 9", code=9).stdout == "out\n"
    engine.docker("kill", identity)
    assert engine.state(identity)["ExitCode"] == 137
