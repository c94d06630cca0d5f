"""Namespaces and the root of the file system, seen from the host."""

import os
import subprocess
from collections.abc import Callable

import pytest
from harness import Engine, group_file, namespace, read, status

pytestmark = pytest.mark.root
Up = Callable[..., str]


def test_each_namespace_is_new(engine: Engine, up: Up) -> None:
    pid = engine.pid(up("--cgroupns", "private"))
    for kind in ("pid", "uts", "mnt", "ipc", "net", "cgroup"):
        assert namespace(pid, kind) != namespace("self", kind), kind
    for kind in ("user", "time"):
        assert namespace(pid, kind) == namespace("self", kind), kind
    assert status(pid)["NSpid"].split() == [str(pid), "1"]


def test_two_containers_share_no_namespace(engine: Engine, up: Up) -> None:
    first, second = engine.pid(up()), engine.pid(up())
    for kind in ("pid", "uts", "mnt", "ipc", "net"):
        assert namespace(first, kind) != namespace(second, kind), kind


@pytest.mark.parametrize(
    ("option", "kind"), [("--pid=host", "pid"), ("--ipc=host", "ipc"), ("--uts=host", "uts"), ("--cgroupns=host", "cgroup")]
)
def test_host_namespaces_on_request(engine: Engine, up: Up, option: str, kind: str) -> None:
    assert namespace(engine.pid(up(option)), kind) == namespace("self", kind)


def test_host_network(engine: Engine) -> None:
    identity = engine.docker("run", "-d", "--network", "host", "bb", "sleep", "100").stdout.strip()
    assert namespace(engine.pid(identity), "net") == namespace("self", "net")
    engine.rm(identity)


@pytest.mark.parametrize(("option", "kind"), [("--pid", "pid"), ("--ipc", "ipc")])
def test_namespace_of_another_container(engine: Engine, up: Up, option: str, kind: str) -> None:
    first = up("--ipc", "shareable")
    second = engine.pid(up(option, f"container:{first}"))
    assert namespace(second, kind) == namespace(engine.pid(first), kind)


def test_hostname_by_nsenter(engine: Engine, up: Up) -> None:
    pid = engine.pid(up("--hostname", "ship.example"))
    seen = subprocess.run(["nsenter", "-t", str(pid), "-u", "hostname"], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "ship.example" != os.uname().nodename
    default = up()
    seen = subprocess.run(["nsenter", "-t", str(engine.pid(default)), "-u", "hostname"], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == default[:12]


def test_network_none_has_only_loopback(engine: Engine, up: Up) -> None:
    lines = read(f"/proc/{engine.pid(up())}/net/dev").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert "LOOPBACK,UP" in engine.sh("ip link show lo")


def test_pids_of_the_host_are_not_seen(engine: Engine) -> None:
    assert engine.sh("echo $$; set -- /proc/[0-9]*; echo $*").split() == ["1", "/proc/1"]


def test_ipc_objects_of_the_host_are_not_seen(engine: Engine) -> None:
    identity = subprocess.run(["ipcmk", "-Q"], capture_output=True, text=True, check=True).stdout.split()[-1]
    try:
        assert identity in read("/proc/sysvipc/msg")
        assert len(engine.sh("cat /proc/sysvipc/msg").splitlines()) == 1
    finally:
        subprocess.run(["ipcrm", "-q", identity], check=True)


def test_cgroup_namespace_hides_the_path(engine: Engine) -> None:
    private = engine.sh("cat /proc/self/cgroup", "--cgroupns", "private")
    assert "berth" not in private
    assert ":/\n" in private


def test_root_is_pivoted_and_the_old_one_gone(engine: Engine, up: Up) -> None:
    pid = engine.pid(up())
    lines = [line.split() for line in read(f"/proc/{pid}/mountinfo").splitlines()]
    roots = [fields for fields in lines if fields[4] == "/"]
    assert len(roots) == 1
    assert "overlay" in roots[0]
    types = {fields[fields.index("-") + 1]: fields[4] for fields in lines}
    assert "ext4" not in {kind for kind, at in types.items() if not at.startswith("/etc/")}
    # A private tree: nothing that is mounted inside comes out.
    assert not [fields for fields in lines if "shared:" in " ".join(fields)]
    host_root, own_root = os.stat("/"), os.stat(f"/proc/{pid}/root/")
    assert (host_root.st_dev, host_root.st_ino) != (own_root.st_dev, own_root.st_ino)
    assert os.path.exists(f"/proc/{pid}/root/etc/plain")
    assert not os.path.exists(f"/proc/{pid}/root/work")
    assert not [fields for fields in lines if engine.top in fields[4]]


def test_mounts_do_not_come_out(engine: Engine) -> None:
    engine.sh("mount -t tmpfs comes-not-out /tmp && grep -q comes-not-out /proc/self/mountinfo", "--cap-add", "SYS_ADMIN")
    assert "comes-not-out" not in read("/proc/self/mountinfo")


def test_time_namespace(engine: Engine, up: Up) -> None:
    pid = engine.pid(up("--annotation", "io.berth.time-offset.monotonic=1000"))
    assert namespace(pid, "time") != namespace("self", "time")
    offsets = {line.split()[0]: line.split()[1] for line in read(f"/proc/{pid}/timens_offsets").splitlines()}
    assert offsets["monotonic"] == "1000"


def test_user_namespace(userns_engine: Engine) -> None:
    identity = userns_engine.up()
    pid = userns_engine.pid(identity)
    assert namespace(pid, "user") != namespace("self", "user")
    assert read(f"/proc/{pid}/uid_map").split() == read(f"/proc/{pid}/gid_map").split() == ["0", "200000", "65536"]
    assert status(pid)["Uid"].split() == ["200000"] * 4
    assert group_file(identity, "pids", "cgroup.procs").split() == [str(pid)]
    # The layer is on disk as it was: idmapped, neither copied nor chowned.
    assert userns_engine.docker("exec", identity, "stat", "-c", "%u:%g", "/bin/busybox", "/etc/passwd").stdout.split() == ["0:0"] * 2
    userns_engine.docker("exec", identity, "sh", "-c", "echo x > /made; chown 5:6 /made")
    made = os.stat(f"{userns_engine.data}/containers/{identity}/upper/made")
    assert (made.st_uid, made.st_gid) == (200005, 200006)
    userns_engine.rm(identity)


def test_user_namespace_has_no_power_over_the_host(userns_engine: Engine) -> None:
    out = userns_engine.sh(
        "echo h > /proc/sys/kernel/core_pattern; echo 1 > /proc/sysrq-trigger; mknod /d b 254 0; dmesg -c > /dev/null; id -u; "
        "head -c 4 /dev/zero | wc -c",
        "--cap-add", "ALL", "--security-opt", "systempaths=unconfined",
    )  # fmt: skip
    assert out.split("\n")[:2] == ["0", "4"]
    assert out.count("ermission") + out.count("not permitted") >= 3


def test_missing_work_directory_belongs_to_the_root_of_the_user_namespace(userns_engine: Engine) -> None:
    assert userns_engine.sh("stat -c %u:%g /new /new/deep; touch x && echo made", "-w", "/new/deep").split() == ["0:0", "0:0", "made"]


def test_user_namespace_switched_off_for_one(userns_engine: Engine) -> None:
    identity = userns_engine.up("--userns", "host")
    assert namespace(userns_engine.pid(identity), "user") == namespace("self", "user")
    userns_engine.rm(identity)


def test_user_namespace_with_terminal_user_and_mounts(userns_engine: Engine, tmp_path) -> None:  # type: ignore[no-untyped-def]
    os.chmod(tmp_path, 0o777)
    (tmp_path / "f").write_text("seen\n")
    words = ["-t", "-u", "alice", "--tmpfs", "/scratch", "-v", f"{tmp_path}:/host:ro", "--read-only"]
    assert userns_engine.sh("id -u; cat /host/f; tty; touch /scratch/x && echo made", *words).split() == [
        "1000", "seen", "/dev/pts/0", "made",
    ]  # fmt: skip
