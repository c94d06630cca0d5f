"""Each field of config.json, seen from outside: by the kernel's files and by other tools, never by asking berth."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from oci import Box, Oci, give_tree, with_user_namespace

pytestmark = pytest.mark.root


def test_harness(oci: Oci, runc: Oci) -> None:
    for runtime in (oci, runc):
        box = runtime.up({"hostname": "box"})
        assert box.exec("hostname").stdout == "box\n"
        assert box.mount("/sys")["fstype"] == "sysfs"
        assert box.status("NSpid").split()[1] == "1"
        assert runtime.run(runtime.bundle(args=["sh", "-c", "echo here; exit 3"]), code=3).stdout == "here\n"
        assert runtime.groups()
        assert runtime.processes()


def test_user_namespace(oci: Oci) -> None:
    assert oci.up(with_user_namespace()).status("Uid").split()[0] == "200000"


# -- mounts ---------------------------------------------------------------------------------------------


def bind(source: str, *options: str, at: str = "/data", **more: object) -> dict:
    return {"destination": at, "type": "bind", "source": source, "options": list(options), **more}


def tmpfs(at: str, *options: str) -> dict:
    return {"destination": at, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


class Host:
    """A directory to bind, with a tmpfs mounted at sub/; only in this test, by umount at its end."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(f"{path}/sub")
        subprocess.run(["mount", "-t", "tmpfs", "berth-test", f"{path}/sub"], check=True)
        for name in ("file", "sub/file"):
            with open(f"{path}/{name}", "w") as file:
                file.write(name)

    def remount(self, *options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,bind,{','.join(options)}", f"{self.path}/sub"], check=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    os.chmod(tmp_path, 0o755)
    found = Host(f"{tmp_path}/host")
    yield found
    subprocess.run(["umount", "-l", f"{found.path}/sub"], check=True)


def options_of(box: Box, at: str) -> set[str]:
    return set(box.mount(at)["options"].split(","))


@pytest.mark.parametrize(
    ("options", "top", "below"),
    [
        (["rbind"], {"rw", "relatime"}, {"rw", "relatime"}),
        (["rbind", "ro"], {"ro", "relatime"}, {"rw", "relatime"}),
        (["rbind", "rro"], {"ro", "relatime"}, {"ro", "relatime"}),
        (["rbind", "rro", "rrw"], {"rw", "relatime"}, {"rw", "relatime"}),
        (["rbind", "ro", "rnosuid", "rnodev", "rnoexec"], {"ro", "nosuid", "nodev", "noexec", "relatime"}, {"rw", "nosuid", "nodev", "noexec", "relatime"}),
        (["rbind", "rnoatime", "rnodiratime"], {"rw", "noatime", "nodiratime"}, {"rw", "noatime", "nodiratime"}),
        (["rbind", "rnoatime", "rstrictatime"], {"rw"}, {"rw"}),
        (["rbind", "rstrictatime", "rrelatime"], {"rw", "relatime"}, {"rw", "relatime"}),
        (["rbind", "noatime"], {"rw", "noatime"}, {"rw", "relatime"}),
        (["rbind", "rnosymfollow"], {"rw", "relatime", "nosymfollow"}, {"rw", "relatime", "nosymfollow"}),
        (["rbind", "nosymfollow"], {"rw", "relatime", "nosymfollow"}, {"rw", "relatime"}),
    ],
)  # fmt: skip
def test_bind_attributes(oci: Oci, host: Host, options: list[str], top: set[str], below: set[str]) -> None:
    box = oci.up(mounts=[bind(host.path, *options)])
    assert options_of(box, "/data") == top
    assert options_of(box, "/data/sub") == below


def test_recursive_clears(oci: Oci, host: Host) -> None:
    host.remount("ro", "nosuid", "nodev", "noexec", "noatime")
    assert options_of(oci.up(mounts=[bind(host.path, "rbind")]), "/data/sub") == {"ro", "nosuid", "nodev", "noexec", "noatime"}
    cleared = ["rrw", "rsuid", "rdev", "rexec", "ratime"]
    assert options_of(oci.up(mounts=[bind(host.path, "rbind", *cleared)]), "/data/sub") == {"rw", "relatime"}


def test_bind_is_not_recursive(oci: Oci, host: Host) -> None:
    box = oci.up(mounts=[bind(host.path, "bind")])
    assert not box.mount("/data/sub")
    assert os.listdir(box.path("/data/sub")) == []


@pytest.mark.parametrize("option", ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"])
def test_propagation(oci: Oci, runc: Oci, host: Host, option: str) -> None:
    seen = []
    for runtime in (oci, runc):
        mounts = [bind(host.path, "rbind", option), tmpfs("/scratch", option)]
        box = runtime.up(mounts=mounts)
        # The numbers of peer groups differ, the words do not.
        seen.append([[word.partition(":")[0] for word in box.mount(at)["propagation"].split()] for at in ("/data", "/data/sub", "/scratch")])
    assert seen[0] == seen[1]


def test_bind_of_a_file_over_what_is_there(oci: Oci, runc: Oci, host: Host) -> None:
    for runtime in (oci, runc):

        def prepare(bundle: str) -> str:
            root = f"{bundle}/rootfs"
            os.symlink("../run/made/resolv.conf", f"{root}/etc/resolv.conf")
            os.symlink("/etc/passwd", f"{root}/etc/link")
            os.symlink("/../../../etc/deep", f"{root}/etc/out")
            return bundle

        destinations = ["/etc/passwd", "/new/deep/file", "/etc/resolv.conf", "/etc/link", "/etc/out"]
        mounts = [bind(f"{host.path}/file", "bind", "ro", at=at) for at in destinations]
        box = runtime.create(prepare(runtime.bundle(mounts=mounts))).start()
        for at in ("/etc/passwd", "/new/deep/file", "/run/made/resolv.conf", "/etc/deep"):
            assert "ro" in options_of(box, at), at
            assert box.exec("cat", at).stdout == "file"
        assert not os.path.exists("/etc/deep")
    message = oci.fails(mounts=[bind(host.path, "bind", at="/etc/passwd")])
    assert "cannot mount a directory on /etc/passwd" in message
    message = oci.fails(mounts=[bind(f"{host.path}/file", "bind", at="/etc")])
    assert "cannot mount a file on /etc" in message


def test_a_links_loop_is_an_error(oci: Oci, host: Host) -> None:
    bundle = oci.bundle(mounts=[bind(f"{host.path}/file", "bind", at="/etc/a")])
    os.symlink("b", f"{bundle}/rootfs/etc/a")
    os.symlink("a", f"{bundle}/rootfs/etc/b")
    assert "Too many levels of symbolic links" in oci.refuses(bundle)


def test_source_relative_to_the_bundle(oci: Oci, runc: Oci) -> None:
    for runtime in (oci, runc):
        bundle = runtime.bundle(mounts=[bind("files", "bind"), bind("./files/one", "bind", at="/one")])
        os.mkdir(f"{bundle}/files")
        with open(f"{bundle}/files/one", "w") as file:
            file.write("relative")
        box = runtime.create(bundle).start()
        assert box.exec("cat", "/data/one", "/one").stdout == "relative" * 2


def test_remount(oci: Oci, runc: Oci) -> None:
    mounts = [
        tmpfs("/scratch", "nosuid", "size=64k"),
        {"destination": "/scratch", "type": "none", "source": "/", "options": ["bind", "remount", "ro", "noexec"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["remount", "nosuid", "noexec", "size=128k"]},
    ]
    seen = []
    for runtime in (oci, runc):
        box = runtime.up(mounts=mounts)
        seen.append((options_of(box, "/scratch"), options_of(box, "/dev/shm"), set(box.mount("/dev/shm")["super"].split(",")) & {"size=128k"}))
    assert seen[0][0] == {"ro", "noexec", "relatime"}
    assert seen[0] == seen[1]
    missing = {"destination": "/etc", "type": "none", "source": "/", "options": ["bind", "remount", "ro"]}
    assert "mounts: /etc: option remount: Invalid argument; it is not a mount" in oci.fails(mounts=[missing])


def test_read_only_bind_of_locked_flags_in_a_user_namespace(oci: Oci, host: Host) -> None:
    host.remount("nosuid", "nodev", "noexec", "noatime")
    box = oci.up(with_user_namespace(), mounts=[bind(f"{host.path}/sub", "rbind", "ro")])
    assert options_of(box, "/data") == {"ro", "nosuid", "nodev", "noexec", "noatime"}
    remount = {"destination": "/data", "type": "none", "source": "/", "options": ["bind", "remount", "ro"]}
    box = oci.up(with_user_namespace(), mounts=[bind(f"{host.path}/sub", "rbind"), remount])
    assert options_of(box, "/data") == {"ro", "nosuid", "nodev", "noexec", "noatime"}
    message = oci.fails(with_user_namespace(), mounts=[bind(f"{host.path}/sub", "rbind", "exec")])
    assert "mounts: /data:" in message
    assert "stays so in it" in message
    box.delete()


def test_tmpfs_has_the_mode_of_what_it_covers(oci: Oci, runc: Oci) -> None:
    for runtime in (oci, runc):
        box = runtime.up(mounts=[tmpfs("/tmp"), tmpfs("/etc"), tmpfs("/new")])
        assert box.exec("stat", "-c", "%a", "/tmp", "/etc", "/new").stdout.split() == ["1777", "755", "1777"]
    # runc 1.1 has 755 here: it forgets what the bundle asks for.
    assert oci.up(mounts=[tmpfs("/root", "mode=0710")]).exec("stat", "-c", "%a", "/root").stdout == "710\n"


def test_unknown_file_system_and_options(oci: Oci) -> None:
    nonsense = {"destination": "/x", "type": "nonsense", "source": "x"}
    assert "mounts: /x: type 'nonsense' is not a file system of this kernel" in oci.fails(mounts=[nonsense])
    assert "mounts: /x: tmpfs does not take the options 'nonsense=1" in oci.fails(mounts=[tmpfs("/x", "nonsense=1")])


def test_a_label_without_selinux_is_an_error(oci: Oci) -> None:
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    assert f"linux.mountLabel: '{label}': this kernel has no SELinux" in oci.fails({"linux": {"mountLabel": label}})


def test_tmpcopyup(oci: Oci, runc: Oci, host: Host) -> None:
    seen = []
    for runtime in (oci, runc):
        bundle = runtime.bundle(mounts=[tmpfs("/image", "tmpcopyup", "ro", "size=4m")])
        top = f"{bundle}/rootfs/image"
        os.makedirs(f"{top}/deep/er", 0o755)
        with open(f"{top}/deep/file", "wb") as file:
            file.write(os.urandom(100_000))
        os.link(f"{top}/deep/file", f"{top}/second")
        os.symlink(f"{host.path}/file", f"{top}/link")
        os.symlink(host.path, f"{top}/deep/dirlink")
        if runtime is oci:  # runc 1.1 fails on these
            os.mkfifo(f"{top}/fifo", 0o640)
            os.chown(f"{top}/fifo", 1, 2)
            os.mknod(f"{top}/node", 0o660 | stat.S_IFCHR, os.makedev(1, 3))
        os.setxattr(f"{top}/deep/file", "user.note", b"kept")
        os.chown(f"{top}/deep/file", 12, 34)
        os.chmod(f"{top}/deep/file", 0o4751)
        os.chown(f"{top}/link", 56, 78, follow_symlinks=False)
        os.utime(f"{top}/deep/file", (1_000_000, 2_000_000))
        os.chmod(top, 0o1750)
        box = runtime.create(bundle).start()
        inside = box.path("/image")
        found = {}
        for directory, directories, files in os.walk(inside):
            for name in [*directories, *files]:
                path = f"{directory}/{name}"
                st = os.lstat(path)
                found[path.removeprefix(inside)] = (oct(st.st_mode), st.st_uid, st.st_gid, st.st_rdev, os.readlink(path) if stat.S_ISLNK(st.st_mode) else "")
        seen.append((found, oct(os.stat(inside).st_mode)))
        with open(f"{inside}/deep/file", "rb") as copied, open(f"{top}/deep/file", "rb") as original:
            assert copied.read() == original.read()
        assert box.mount("/image")["fstype"] == "tmpfs"
        if runtime is oci:
            assert "ro" in options_of(box, "/image")
            one, other = os.stat(f"{inside}/deep/file"), os.stat(f"{inside}/second")
            assert (one.st_ino, one.st_nlink, one.st_mtime) == (other.st_ino, 2, 2_000_000)
            getfattr = subprocess.run(["getfattr", "--absolute-names", "-n", "user.note", "--only-values", f"{inside}/second"], capture_output=True, text=True) if shutil.which("getfattr") else None
            assert (getfattr.stdout if getfattr else os.getxattr(f"{inside}/second", "user.note").decode()) == "kept"
    assert seen[0][0].pop("/fifo") == (oct(stat.S_IFIFO | 0o640), 1, 2, 0, "")
    assert seen[0][0].pop("/node")[3] == os.makedev(1, 3)
    assert seen[0] == seen[1]
    bundle = oci.bundle(mounts=[tmpfs("/image", "tmpcopyup", "size=8k")])
    os.mkdir(f"{bundle}/rootfs/image")
    shutil.copy("/bin/busybox", f"{bundle}/rootfs/image/big")
    assert "option tmpcopyup: No space left on device; its size= is too small" in oci.refuses(bundle)


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_idmapped_mount_with_the_containers_maps(oci: Oci, host: Host, option: str) -> None:
    os.chown(f"{host.path}/file", 0, 1000)
    box = oci.up(with_user_namespace(), mounts=[bind(host.path, "rbind", option), bind(host.path, "rbind", at="/plain")])
    inside = box.exec("stat", "-c", "%u:%g", "/data/file", "/data/sub/file", "/plain/file").stdout.split()
    assert inside == ["0:1000", "0:0" if option == "ridmap" else "65534:65534", "65534:65534"]
    assert (os.stat(box.path("/data/file")).st_uid, os.stat(box.path("/data/file")).st_gid) == (200_000, 201_000)
    box.exec("sh", "-c", "echo x >/data/made")
    assert os.stat(f"{host.path}/made").st_uid == 0


def test_idmapped_mount_with_maps_of_its_own(oci: Oci, host: Host) -> None:
    maps = [{"containerID": 0, "hostID": 5000, "size": 10}]
    os.chown(f"{host.path}/file", 3, 4)
    box = oci.up(mounts=[bind(host.path, "bind", "ro", uidMappings=maps, gidMappings=maps)])
    assert box.exec("stat", "-c", "%u:%g", "/data/file").stdout == "5003:5004\n"
    assert "idmapped" in options_of(box, "/data")
    assert "ro" in options_of(box, "/data")
    box = oci.up(with_user_namespace(), mounts=[bind(host.path, "bind", "idmap=uids=@3-7-1;gids=4-200008-1")])
    assert box.exec("stat", "-c", "%u:%g", "/data/file").stdout == "7:8\n"


def test_idmapped_mount_in_a_namespace_by_path(oci: Oci, host: Host) -> None:
    first = oci.up(with_user_namespace())
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    namespaces.append({"type": "user", "path": f"/proc/{first.pid}/ns/user"})
    bundle = oci.bundle({"linux": {"namespaces": namespaces}}, mounts=[bind(host.path, "bind", "idmap")])
    give_tree(f"{bundle}/rootfs", 200_000)
    box = oci.create(bundle).start()
    assert os.readlink(f"/proc/{box.pid}/ns/user") == os.readlink(f"/proc/{first.pid}/ns/user")
    assert box.exec("stat", "-c", "%u", "/data/file").stdout == "0\n"


def test_idmapped_mounts_that_cannot_be(oci: Oci, host: Host) -> None:
    assert "mounts[6]: option idmap: there are no maps" in oci.fails(mounts=[bind(host.path, "bind", "idmap")])
    maps = [{"containerID": 0, "hostID": 5000, "size": 10}]
    entry = {**tmpfs("/x"), "uidMappings": maps, "gidMappings": maps}
    assert "mounts[6]: only a bind mount can be idmapped" in oci.fails(mounts=[entry])
    message = oci.fails(mounts=[bind("/proc/sys", "bind", uidMappings=maps, gidMappings=maps)])
    assert "mounts[6]: /proc/sys cannot be idmapped: Invalid argument" in message


# -- process ----------------------------------------------------------------------------------------------


def mounts_below(*tops: str) -> list[str]:
    """What the host has mounted there; other tests may mount elsewhere meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split(" ")[4].startswith(tops)]


def said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


SCHEDULERS = [
    ({"policy": "SCHED_BATCH", "nice": 7}, "SCHED_BATCH", "0"),
    ({"policy": "SCHED_OTHER", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, "SCHED_OTHER|SCHED_RESET_ON_FORK", "0"),
    ({"policy": "SCHED_IDLE"}, "SCHED_IDLE", "0"),
    ({"policy": "SCHED_FIFO", "priority": 11}, "SCHED_FIFO", "11"),
    ({"policy": "SCHED_RR", "priority": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, "SCHED_RR|SCHED_RESET_ON_FORK", "5"),
    (
        {"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 20_000_000, "period": 30_000_000},
        "SCHED_DEADLINE", "0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "policy", "priority"), SCHEDULERS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("user_namespace", [False, True], ids=["host", "userns"])
def test_scheduler(oci: Oci, scheduler: dict, policy: str, priority: str, user_namespace: bool) -> None:
    # cgroup v1 gives a new group no real-time at all (CONFIG_RT_GROUP_SCHED).
    real_time = {"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 20_000}} if "priority" in scheduler else {}
    changes: dict = {"process": {"scheduler": scheduler}, "linux": {"resources": real_time}}
    box = oci.up(with_user_namespace(changes) if user_namespace else changes)
    for pid in (str(box.pid), str(box.exec_detached("sleep", "1000"))):
        said = said_by("chrt", "-p", pid)
        assert f"policy: {policy}\n" in said
        assert f"priority: {priority}\n" in said
        if "runtime" in scheduler:
            assert "1000000/20000000/30000000" in said
        nice = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16]
        assert int(nice) == scheduler.get("nice", 0)


def test_scheduler_that_the_kernel_refuses(oci: Oci) -> None:
    assert "process.scheduler: SCHED_ISO, nice 0" in oci.fails({"process": {"scheduler": {"policy": "SCHED_ISO"}}})
    box = oci.up()
    process = {"args": ["true"], "cwd": "/", "scheduler": {"policy": "SCHED_ISO"}}
    Path(f"{oci.top}/process.json").write_text(json.dumps(process))
    said = oci.call("exec", "--process", f"{oci.top}/process.json", box.id, code=255)
    assert "process.scheduler: SCHED_ISO, nice 0, priority 0, flags 0x0: Invalid argument" in said.stderr


@pytest.mark.parametrize(
    ("priority", "said"),
    [
        ({"class": "IOPRIO_CLASS_BE", "priority": 6}, "best-effort: prio 6\n"), ({"class": "IOPRIO_CLASS_IDLE"}, "idle\n"),
        ({"class": "IOPRIO_CLASS_RT", "priority": 1}, "realtime: prio 1\n"),
    ],
)  # fmt: skip
def test_io_priority(oci: Oci, priority: dict, said: str) -> None:
    box = oci.up(with_user_namespace({"process": {"ioPriority": priority}}))
    for pid in (str(box.pid), str(box.exec_detached("sleep", "1000"))):
        assert said_by("ionice", "-p", pid) == said


def test_cpu_affinity_of_an_exec(oci: Oci) -> None:
    everything = said_by("taskset", "-cp", str(os.getpid())).rpartition(":")[2].strip()
    for affinity, expected in (
        ({"initial": "0", "final": "1"}, "1"), ({"final": "0"}, "0"), ({"initial": "0"}, everything), ({}, everything),
    ):  # fmt: skip
        box = oci.up({"process": {"execCPUAffinity": affinity}})
        assert said_by("taskset", "-cp", str(box.pid)).rpartition(":")[2].strip() == everything
        pid = str(box.exec_detached("sleep", "1000"))
        assert said_by("taskset", "-cp", pid).rpartition(":")[2].strip() == expected
    box = oci.up({"process": {"execCPUAffinity": {"final": "4000"}}})
    assert "process.execCPUAffinity.final: Invalid argument" in box.exec("true", code=255).stderr
    box = oci.up({"process": {"execCPUAffinity": {"initial": "4000"}}})
    assert "process.execCPUAffinity.initial: Invalid argument" in box.exec("true", code=255).stderr


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"), ({"mode": "MPOL_INTERLEAVE", "nodes": "0-0"}, "interleave:0"),
        ({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, "prefer=static:0"),
        ({"mode": "MPOL_PREFERRED_MANY", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}, "prefer (many)=relative:0"),
        ({"mode": "MPOL_LOCAL"}, "local"), ({"mode": "MPOL_DEFAULT"}, "default"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}, "bind=balancing:0"),
    ],
)  # fmt: skip
def test_memory_policy(oci: Oci, policy: dict, said: str) -> None:
    box = oci.up({"linux": {"memoryPolicy": policy}})
    for pid in (box.pid, box.exec_detached("sleep", "1000")):
        maps = Path(f"/proc/{pid}/numa_maps").read_text()
        assert {line.split(" ", 1)[1].split(" anon")[0].split(" stack")[0].split(" heap")[0].split(" file")[0] for line in maps.splitlines()} & {said}


def test_memory_policy_that_cannot_be(oci: Oci) -> None:
    message = oci.fails({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "63"}}})
    assert "linux.memoryPolicy: mode 0x2" in message
    assert "Invalid argument; a node is not there" in message


def test_every_limit(oci: Oci, runc: Oci) -> None:
    names = (
        "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK".split()
    )
    # Below what is there already: more takes CAP_SYS_RESOURCE.
    small = {"AS": 1 << 32, "DATA": 1 << 31, "NICE": 0, "RTPRIO": 0, "STACK": 4 << 20, "NPROC": 500, "MEMLOCK": 4096, "CORE": 0}
    limits = [{"type": f"RLIMIT_{name}", "soft": small.get(name, 900), "hard": small.get(name, 1000)} for name in names]
    seen = []
    for runtime in (oci, runc):
        box = runtime.up({"process": {"rlimits": limits}})
        seen.append([line.split() for line in box.proc("limits").splitlines()])
    assert seen[0] == seen[1]
    found = {" ".join(words[:-3]): words for words in seen[0]}
    assert len([words for words in seen[0][1:] if words[-1] != "us"]) == 15
    assert "Max file locks 900 1000 locks".split() in seen[0]
    assert found
    huge = oci.up({"process": {"rlimits": [{"type": "RLIMIT_FSIZE", "soft": (1 << 63) + 5, "hard": (1 << 64) - 1}]}})
    assert f"Max file size {(1 << 63) + 5} unlimited bytes".split() in [line.split() for line in huge.proc("limits").splitlines()]


def test_ids_umask_oom_and_no_new_privileges(oci: Oci, runc: Oci) -> None:
    user = {"uid": 5, "gid": 6, "umask": 0o27, "additionalGids": [7, 8], "username": "ignored"}
    seen = []
    for runtime in (oci, runc):
        box = runtime.up({"process": {"user": user, "noNewPrivileges": True, "oomScoreAdj": 500}, "annotations": {"org.example": "kept"}})
        fields = ("Uid", "Gid", "Groups", "Umask", "NoNewPrivs", "CapBnd", "CapInh", "CapAmb")
        seen.append(([box.status(field) for field in fields], box.proc("oom_score_adj"), runtime.state(box.id)["annotations"]))
    assert seen[0] == seen[1]
    assert seen[0][0][3] == "0027"
    assert seen[0][1:] == ("500\n", {"org.example": "kept"})


def test_personality(oci: Oci, runc: Oci) -> None:
    for domain, machine in (("LINUX32", "i686"), ("LINUX", os.uname().machine)):
        box = oci.up({"linux": {"personality": {"domain": domain}}})
        assert box.proc("personality") == ("00000008\n" if domain == "LINUX32" else "00000000\n")
        assert box.exec("uname", "-m").stdout == f"{machine}\n"


def test_a_terminal_needs_devpts(oci: Oci) -> None:
    def without(spec: dict) -> None:
        spec["mounts"] = [entry for entry in spec["mounts"] if entry["destination"] != "/dev/pts"]

    assert "process.terminal: /dev/pts is not a devpts file system; mount one there" in oci.fails({"process": {"terminal": True}}, edit=without)


def test_console_size(oci: Oci) -> None:
    done = oci.run(oci.bundle({"process": {"terminal": True, "consoleSize": {"height": 33, "width": 99}}}, args=["stty", "size"]))
    assert done.stdout.strip() == "33 99"


# -- linux -----------------------------------------------------------------------------------------------


@pytest.fixture
def devices_of_the_host() -> Iterator[tuple[str, str]]:
    """Two network devices of the host, the two ends of a cable, the first with addresses."""
    names = (f"bt{os.getpid()}a", f"bt{os.getpid()}b")
    subprocess.run(["ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1]], check=True)
    for address in ("10.123.4.5/24", "10.123.4.6/24", "fd12:3456::1/64"):
        subprocess.run(["ip", "addr", "add", address, "dev", names[0]], check=True)
    subprocess.run(["ip", "addr", "add", "10.123.9.9/32", "dev", names[0], "scope", "link"], check=True)
    subprocess.run(["ip", "addr", "add", "10.99.1.1/24", "dev", names[0], "valid_lft", "1000", "preferred_lft", "1000"], check=True)
    yield names
    for name in names:
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def links_of(pid: int) -> dict[str, dict]:
    return {link["ifname"]: link for link in json.loads(said_by("nsenter", "-t", str(pid), "-n", "ip", "-j", "addr"))}


def global_addresses(link: dict) -> set[str]:
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}


def test_net_devices(oci: Oci, devices_of_the_host: tuple[str, str]) -> None:
    first, second = devices_of_the_host
    box = oci.up({"linux": {"netDevices": {first: {"name": "inside0"}, second: {}}}})
    links = links_of(box.pid)
    assert set(links) == {"lo", "inside0", second}
    assert all("UP" in link["flags"] for link in links.values())
    assert global_addresses(links["inside0"]) == {"10.123.4.5/24", "10.123.4.6/24", "fd12:3456::1/64"}
    assert not os.path.exists(f"/sys/class/net/{first}")


def test_net_devices_come_back_when_a_start_fails(oci: Oci, devices_of_the_host: tuple[str, str]) -> None:
    first, second = devices_of_the_host
    changes = {"linux": {"netDevices": {first: {"name": "inside0"}, second: {"name": "inside1"}}}}
    oci.fails(changes, args=["missing"], code=1)
    links = {link["ifname"]: link for link in json.loads(said_by("ip", "-j", "addr"))}
    assert "10.123.4.5/24" in global_addresses(links[first])
    assert second in links
    message = oci.fails({"linux": {"netDevices": {first: {}, "no-such-dev": {}}}})
    assert "linux.netDevices['no-such-dev']: No such device" in message
    message = oci.fails({"linux": {"netDevices": {second: {}, first: {"name": "lo"}}}})
    assert f"linux.netDevices['{first}']: as 'lo': File exists" in message
    assert os.path.exists(f"/sys/class/net/{first}")
    assert os.path.exists(f"/sys/class/net/{second}")


def test_time_offsets_and_a_time_namespace_by_path(oci: Oci) -> None:
    kinds = ("pid", "network", "ipc", "uts", "mount", "time")
    offsets = {"monotonic": {"secs": 86400, "nanosecs": 5}, "boottime": {"secs": 172800}}
    box = oci.up({"linux": {"namespaces": [{"type": kind} for kind in kinds], "timeOffsets": offsets}})
    host = float(Path("/proc/uptime").read_text().split()[0])
    assert 172_000 < float(box.exec("cat", "/proc/uptime").stdout.split()[0]) - host < 173_000
    namespaces = [{"type": kind} for kind in kinds[:-1]] + [{"type": "time", "path": f"/proc/{box.pid}/ns/time"}]
    other = oci.up({"linux": {"namespaces": namespaces}})
    assert os.readlink(f"/proc/{other.pid}/ns/time") == os.readlink(f"/proc/{box.pid}/ns/time")
    assert 172_000 < float(other.exec("cat", "/proc/uptime").stdout.split()[0]) - host < 173_000


KINDS = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "user": "user"}


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), tuple(KINDS)], ids="+".join)
def test_namespaces_by_path(oci: Oci, kinds: tuple[str, ...]) -> None:
    first = oci.up(with_user_namespace())
    namespaces = [{"type": "mount"}]
    for kind, file in KINDS.items():
        if kind in kinds:
            namespaces.append({"type": kind, "path": f"/proc/{first.pid}/ns/{file}"})
        elif kind != "user":
            namespaces.append({"type": kind})
    bundle = oci.bundle({"linux": {"namespaces": namespaces}})
    if "user" in kinds:
        give_tree(f"{bundle}/rootfs", 200_000)
    second = oci.create(bundle).start()
    for kind, file in KINDS.items():
        same = os.readlink(f"/proc/{first.pid}/ns/{file}") == os.readlink(f"/proc/{second.pid}/ns/{file}")
        assert same == (kind in kinds), kind


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup"])
def test_a_namespace_that_is_not_listed_is_the_hosts(oci: Oci, kind: str) -> None:
    namespaces = [{"type": other} for other in ("pid", "network", "ipc", "uts", "cgroup", "mount") if other != kind]
    box = oci.up({"linux": {"namespaces": namespaces}})
    for other, file in KINDS.items():
        same = os.readlink(f"/proc/self/ns/{file}") == os.readlink(f"/proc/{box.pid}/ns/{file}")
        assert same == (other in (kind, "user")), other


def test_a_namespace_of_another_type_is_an_error(oci: Oci) -> None:
    namespaces = [{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/uts"}]
    assert "linux.namespaces: cannot join /proc/self/ns/uts" in oci.fails({"linux": {"namespaces": namespaces}})


def test_sysctl(oci: Oci) -> None:
    sysctl = {"kernel.shmmax": "1234567", "kernel/msgmax": "9000", "net.ipv4.ip_forward": "1", "kernel.domainname": "inside", "fs.mqueue.msg_max": "17"}
    box = oci.up({"linux": {"sysctl": sysctl}, "hostname": "box"})
    for name, value in sysctl.items():
        assert said_by("nsenter", "-t", str(box.pid), "-i", "-n", "-u", "cat", f"/proc/sys/{name.replace('.', '/')}") == f"{value}\n"
    namespaces = [{"type": kind} for kind in ("pid", "mount", "uts")] + [{"type": "network", "path": "/proc/self/ns/net"}]
    before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    message = oci.fails({"linux": {"namespaces": namespaces, "sysctl": {"net.ipv4.ip_forward": "1"}}})
    assert "linux.sysctl: would change the host: /proc/self/ns/net is the runtime's own namespace" in message
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before
    namespaces = [{"type": kind} for kind in ("pid", "mount")] + [{"type": "uts", "path": "/proc/self/ns/uts"}]
    assert "hostname: would change the host" in oci.fails({"linux": {"namespaces": namespaces}, "hostname": "berth-test"})
    assert os.uname().nodename != "berth-test"


def test_host_and_domain_name(oci: Oci) -> None:
    box = oci.up({"hostname": "box", "domainname": "example.org"})
    enter = ("nsenter", "-t", str(box.pid), "-u")
    assert said_by(*enter, "uname", "-n") == "box\n"
    assert said_by(*enter, "cat", "/proc/sys/kernel/domainname") == "example.org\n"


DEVICES = [
    {"path": "/dev/one", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
    {"path": "/dev/two", "type": "u", "major": 1, "minor": 5},
    {"path": "/deep/er/disk", "type": "b", "major": 7, "minor": 0, "fileMode": 0o100600},
    {"path": "/dev/fifo", "type": "p", "fileMode": 0o604},
]


def test_devices(oci: Oci) -> None:
    box = oci.up({"linux": {"devices": DEVICES}})
    said = box.exec("stat", "-c", "%F|%t:%T|%a|%u:%g", *(device["path"] for device in DEVICES)).stdout.splitlines()
    assert said == [
        "character special file|1:3|640|5:6", "character special file|1:5|666|0:0", "block special file|7:0|600|0:0", "fifo|0:0|604|0:0",
    ]  # fmt: skip


def test_devices_over_what_is_there(oci: Oci) -> None:
    device = {"path": "/etc/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}
    same, other, link = (oci.bundle({"linux": {"devices": [device]}}, args=["stat", "-c", "%a", "/etc/node"]) for _ in range(3))
    os.mknod(f"{same}/rootfs/etc/node", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    assert oci.run(same).stdout == "600\n"
    Path(f"{other}/rootfs/etc/node").write_text("x")
    os.symlink("/dev/null", f"{link}/rootfs/etc/node")
    for bundle in (other, link):
        assert "linux.devices: /etc/node exists in the container and is not that device" in oci.refuses(bundle)


def test_devices_in_a_user_namespace(oci: Oci) -> None:
    devices = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}, {"path": "/dev/fifo", "type": "p"}]
    box = oci.up(with_user_namespace({"linux": {"devices": devices}}))
    assert box.exec("stat", "-c", "%t:%T", "/dev/kmsg", "/dev/null", "/dev/fifo").stdout.split() == ["1:b", "1:3", "0:0"]
    assert box.mount("/dev/kmsg")["fstype"] == "devtmpfs" or box.mount("/dev/kmsg")
    wrong = [{"path": "/dev/kmsg", "type": "c", "major": 7, "minor": 7}]
    assert "/dev/kmsg on the host, to be bound in a user namespace, is not that device" in oci.fails(with_user_namespace({"linux": {"devices": wrong}}))
    missing = [{"path": "/dev/no-such", "type": "c", "major": 7, "minor": 7}]
    assert "/dev/no-such: in a user namespace it must be there on the host" in oci.fails(with_user_namespace({"linux": {"devices": missing}}))


@pytest.mark.parametrize("value", ["private", "rprivate", "slave", "rslave", None])
def test_root_propagation_as_with_runc(oci: Oci, runc: Oci, value: str | None) -> None:
    seen = []
    for runtime in (oci, runc):
        box = runtime.up({"linux": {"rootfsPropagation": value}})
        seen.append([word.partition(":")[0] for word in box.mount("/")["propagation"].split()])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("value", ["shared", "rshared", "unbindable", "runbindable"])
def test_root_propagation_that_runc_1_1_lacks(oci: Oci, host: Host, value: str) -> None:
    before = mounts_below(oci.top, host.path)
    box = oci.up({"linux": {"rootfsPropagation": value}}, mounts=[bind(host.path, "rbind")])
    assert [word.partition(":")[0] for word in box.mount("/")["propagation"].split()][:1] == [value.removeprefix("r")]
    assert ("shared" in box.mount("/data")["propagation"]) == (value == "rshared")
    said_by("nsenter", "-t", str(box.pid), "-m", "-p", "/bin/mount", "-t", "tmpfs", "none", "/tmp")
    assert mounts_below(oci.top, host.path) == before


def test_masked_and_read_only_paths(oci: Oci, runc: Oci) -> None:
    changes = {"linux": {
        "maskedPaths": ["/etc/hidden", "/etc/hidden.d", "/etc/link", "/no/such", "/etc/passwd/below", "/proc/kcore"],
        "readonlyPaths": ["/etc/fixed", "/etc/fixed.d", "/no/such", "/etc/fixed-link", "/proc/sys"],
    }}  # fmt: skip
    for runtime in (oci, runc):
        if runtime is runc:
            changes["linux"]["maskedPaths"].remove("/etc/passwd/below")
        bundle = runtime.bundle(changes)
        etc = Path(f"{bundle}/rootfs/etc")
        for name in ("hidden", "fixed", "behind", "fixed-behind"):
            (etc / name).write_text("secret")
        for name in ("hidden.d", "fixed.d"):
            (etc / name).mkdir()
            (etc / name / "file").write_text("secret")
        (etc / "link").symlink_to("behind")
        (etc / "fixed-link").symlink_to("fixed-behind")
        box = runtime.create(bundle).start()
        for name in ("hidden", "behind"):
            assert box.exec("cat", f"/etc/{name}").stdout == ""
            assert box.exec("stat", "-c", "%t:%T", f"/etc/{name}").stdout == "1:3\n"
        assert box.exec("ls", "/etc/hidden.d").stdout == ""
        assert "ro" in options_of(box, "/etc/hidden.d")
        for path in ("fixed", "fixed.d/file", "fixed-behind"):
            assert "Read-only file system" in box.exec("sh", "-c", f"echo x >/etc/{path}", code=1).stderr
        assert "ro" in options_of(box, "/proc/sys")


def test_read_only_root(oci: Oci) -> None:
    box = oci.up({"root": {"readonly": True}})
    assert "ro" in options_of(box, "/")
    assert "Read-only file system" in box.exec("touch", "/x", code=1).stderr


def test_without_pivot_root(oci: Oci, runc: Oci) -> None:
    for runtime in (oci, runc):
        before = mounts_below("/proc", "/sys", runtime.top)
        bundle = runtime.bundle({"root": {"readonly": True}})
        box = runtime.create(bundle, "--no-pivot").start()
        assert box.exec("ls", "/").stdout.split() == sorted(os.listdir(f"{bundle}/rootfs"))
        # Neither a second chroot nor .. leads out: what is below is not reached by any path.
        escape = "cd /../../.. && ls"
        assert box.exec("sh", "-c", escape).stdout == box.exec("ls", "/").stdout
        lines = box.proc("mountinfo").splitlines()
        assert [line.split()[4] for line in lines if " - proc " in line and line.split()[3] == "/"] == ["/proc"]
        assert lines[0].split()[4] == "/"
        assert "ro" in options_of(box, "/")
        assert mounts_below("/proc", "/sys", runtime.top) == before
