"""Fields of config.json turned into operations and numbers: pure, against the kernel's own headers and the spec's words."""

import struct

import pytest

from berth.errors import InvalidSpec
from berth.linux import libc, mount
from berth.runtime import plan, schedule

KINDS = ("mount", "pid", "ipc", "uts", "network", "cgroup")
MAPS = [{"containerID": 0, "hostID": 200_000, "size": 65536}]
OWN = [{"containerID": 5, "hostID": 7000, "size": 10}]


def make(mounts: "list[dict] | None" = None, process: "dict | None" = None, **linux: object) -> plan.Plan:
    document = {
        "ociVersion": "1.3.0", "root": {"path": "rootfs"}, "process": {"args": ["x"], "cwd": "/", **(process or {})},
        "mounts": mounts or [], "linux": {"namespaces": [{"type": kind} for kind in KINDS], **linux},
    }  # fmt: skip
    return plan.Plan(document, "/bundle")


def names(planned: plan.Plan) -> list[str]:
    return [operation.name for operation in planned.operations]


def arguments(planned: plan.Plan, name: str) -> list[tuple]:
    return [operation.arguments for operation in planned.operations if operation.name == name]


def bind(*options: str, **more: object) -> dict:
    return {"destination": "/d", "type": "bind", "source": "/s", "options": list(options), **more}


RDONLY, NOEXEC, ATIME = libc.MOUNT_ATTR_RDONLY, libc.MOUNT_ATTR_NOEXEC, libc.MOUNT_ATTR__ATIME
NOATIME, STRICTATIME = libc.MOUNT_ATTR_NOATIME, libc.MOUNT_ATTR_STRICTATIME


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["bind"], (0, 0, 0, 0, 0)),
        (["bind", "ro"], (RDONLY, 0, 0, 0, 0)),
        (["bind", "ro", "rw"], (0, RDONLY, 0, 0, 0)),
        (["bind", "rw", "ro"], (RDONLY, 0, 0, 0, 0)),
        (["bind", "rro"], (0, 0, RDONLY, 0, 0)),
        (["bind", "rrw"], (0, 0, 0, RDONLY, 0)),
        (["bind", "rro", "rrw"], (0, 0, 0, RDONLY, 0)),
        (["bind", "rrw", "rro"], (0, 0, RDONLY, 0, 0)),
        (["bind", "rnoexec", "rro"], (0, 0, NOEXEC | RDONLY, 0, 0)),
        (["bind", "rnoatime"], (0, 0, NOATIME, ATIME, 0)),
        (["bind", "rnoatime", "rstrictatime"], (0, 0, STRICTATIME, ATIME, 0)),
        (["bind", "rstrictatime", "ratime"], (0, 0, 0, ATIME, 0)),
        (["bind", "rrelatime"], (0, 0, 0, ATIME, 0)),
        (["bind", "rnorelatime"], (0, 0, 0, ATIME, 0)),
        (["bind", "noatime", "strictatime"], (STRICTATIME, 0, 0, 0, 0)),
        (["bind", "strictatime", "relatime"], (0, ATIME, 0, 0, 0)),
        (["bind", "rshared"], (0, 0, 0, 0, mount.MS_SHARED | mount.MS_REC)),
    ],
)  # fmt: skip
def test_changes_of_a_bind_mount(options: list[str], changes: tuple) -> None:
    assert arguments(make([bind(*options)]), "bind_mount") == [("/s", "/d", False, changes)]


def test_every_option_of_the_specification_is_known() -> None:
    # config.md#mounts, the table of Linux mount options, 1.3.
    words = (
        "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec"
        " noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime"
        " relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate"
        " rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid"
        " symfollow sync tmpcopyup unbindable idmap ridmap"
    ).split()
    assert set(words) <= set(mount.option_names())
    assert mount.parse_options(words).data == []


def test_a_source_is_relative_to_the_bundle() -> None:
    assert arguments(make([{**bind("rbind"), "source": "files/x"}]), "bind_mount")[0][:3] == ("/bundle/files/x", "/d", True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["remount", "ro", "bind", "nosuid"], ("/d", mount.MS_REMOUNT | mount.MS_RDONLY | mount.MS_BIND | mount.MS_NOSUID, 0, ())),
        (["remount", "rw", "size=1k"], ("/d", mount.MS_REMOUNT, mount.MS_RDONLY, ("size=1k",))),
    ],
)
def test_remount(options: list[str], expected: tuple) -> None:
    planned = make([{"destination": "/d", "type": "none", "source": "x", "options": options}])
    assert arguments(planned, "remount") == [expected]
    assert planned.rare


def test_propagation_and_recursive_attributes_of_every_kind_of_mount() -> None:
    for entry in ({"type": "tmpfs"}, {"type": "cgroup"}, {"type": "proc"}, {"type": "x", "options": ["remount"]}):
        planned = make([{"destination": "/d", "source": "x", **entry, "options": [*entry.get("options", []), "rslave", "rro"]}])
        assert arguments(planned, "set_mount_propagation") == [("/d", mount.MS_SLAVE | mount.MS_REC)]
        assert arguments(planned, "change_mount") == [("/d", RDONLY, 0)]
    assert not make([{"destination": "/d", "type": "tmpfs", "options": ["rslave"]}]).rare


def test_tmpcopyup_and_the_mode_beneath() -> None:
    assert arguments(make([{"destination": "/d", "type": "tmpfs", "options": ["tmpcopyup"]}]), "mount_copied")[0][-1] is True
    plain = make([{"destination": "/d", "type": "tmpfs", "options": ["mode=1777"]}])
    assert arguments(plain, "mount_filesystem") == [("tmpfs", "tmpfs", "/d", 0, ("mode=1777",), False)]


def test_mount_label() -> None:
    mounts = [{"destination": f"/{kind}", "type": kind} for kind in ("tmpfs", "proc", "sysfs", "mqueue", "devpts")]
    planned = make(mounts, mountLabel="system_u:object_r:x_t:s0:c1,c2")
    assert names(planned)[:2] == ["require_selinux", "prepare_root"]
    data = {found[2]: found[4] for found in arguments(planned, "mount_filesystem")}
    label = 'context="system_u:object_r:x_t:s0:c1,c2"'
    assert data == {"/tmpfs": (label,), "/proc": (), "/sysfs": (), "/mqueue": (), "/devpts": (label,)}
    assert arguments(planned, "set_label") == [("/mqueue", "system_u:object_r:x_t:s0:c1,c2")]
    with pytest.raises(InvalidSpec, match=r"^linux\.mountLabel: .*quotation"):
        make(mountLabel='x",size=1')


@pytest.mark.parametrize(
    ("entry", "linux", "expected"),
    [
        (bind("idmap", uidMappings=OWN, gidMappings=MAPS), {}, (OWN, MAPS, "", False)),
        (bind("ridmap", uidMappings=OWN, gidMappings=MAPS), {}, (OWN, MAPS, "", True)),
        (bind("bind", uidMappings=OWN, gidMappings=MAPS), {}, (OWN, MAPS, "", False)),
        (bind("ridmap"), {"user": ""}, (MAPS, MAPS, "", True)),
        (bind("idmap"), {"user": "/proc/9/ns/user"}, (MAPS, MAPS, "/proc/9/ns/user", False)),
        (
            bind("idmap=uids=0-1-10#20-2-3;gids=@5-6-7"), {"user": ""},
            (
                [{"containerID": 0, "hostID": 1, "size": 10}, {"containerID": 20, "hostID": 2, "size": 3}],
                [{"containerID": 5, "hostID": 200_006, "size": 7}], "", False,
            ),
        ),
    ],
)  # fmt: skip
def test_idmapped(entry: dict, linux: dict, expected: tuple) -> None:
    more: dict = {}
    if "user" in linux:
        spaces = [{"type": kind} for kind in KINDS] + [{"type": "user", "path": linux["user"]}]
        more = {"namespaces": spaces, "uidMappings": MAPS, "gidMappings": MAPS}
    planned = make([entry], **more)
    found = planned.idmapped[0]
    assert (found.uid_mappings, found.gid_mappings, found.namespace, found.whole_tree) == expected
    assert arguments(planned, "attach_idmapped") == [(0, "/d")]
    assert planned.rare


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (bind("idmap"), "mounts[0]: option idmap: there are no maps"),
        (bind("idmap=uids=0-1-1"), "mounts[0]: option idmap: expected both uids= and gids="),
        (bind("idmap=uids=0-1"), "mounts[0]: option idmap: '0-1' is not FIRST-HOST-SIZE"),
        (bind("idmap=uids=0-1-0"), "mounts[0]: option idmap: '0-1-0' is not FIRST-HOST-SIZE"),
        (bind("idmap=x=0-1-1"), "mounts[0]: option idmap: 'x=0-1-1' is not uids="),
        (bind("idmap=uids=@0-1-1;gids=0-0-1"), "mounts[0]: option idmap: '@0-1-1': the container's own maps have no such range"),
        ({"destination": "/d", "type": "tmpfs", "options": ["idmap"]}, "mounts[0]: only a bind mount can be idmapped"),
    ],
)
def test_idmapped_mounts_that_cannot_be(entry: dict, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        make([entry])
    assert str(caught.value).startswith(message)


def test_what_must_not_be_the_runtimes_own() -> None:
    assert make(sysctl={"net.x": "1", "kernel.shmmax": "1"}).must_differ == {
        libc.CLONE_NEWNET: "linux.sysctl", libc.CLONE_NEWIPC: "linux.sysctl",
    }  # fmt: skip
    assert make().must_differ == {}


def test_devices_in_a_user_namespace_are_bound_and_fifos_made() -> None:
    spaces = [{"type": kind} for kind in (*KINDS, "user")]
    devices = [{"path": "/p", "type": "p"}, {"path": "/c", "type": "c", "major": 1, "minor": 2}]
    planned = make(namespaces=spaces, uidMappings=MAPS, gidMappings=MAPS, devices=devices)
    assert {found[0]: found[-1] for found in arguments(planned, "make_device") if found[0] in ("/p", "/c")} == {"/p": False, "/c": True}


def test_every_limit_has_its_number() -> None:
    # asm-generic/resource.h
    for name, number in (("AS", 9), ("LOCKS", 10), ("SIGPENDING", 11), ("MSGQUEUE", 12), ("NICE", 13), ("RTPRIO", 14), ("RTTIME", 15)):
        limits = [{"type": f"RLIMIT_{name}", "soft": 1, "hard": 1 << 63}]
        assert make(process={"rlimits": limits}).process.rlimits == [(number, 1, -(1 << 63))]


def test_a_plain_process_is_not_scheduled() -> None:
    process = make().process
    assert (process.is_scheduled, process.affinity, process.memory_policy) == (False, None, None)


def test_scheduler() -> None:
    entry = {
        "policy": "SCHED_DEADLINE", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"],
        "runtime": 10, "deadline": 20, "period": 30,
    }  # fmt: skip
    attributes = make(process={"scheduler": entry}).process.scheduler
    # sched_setattr(2): struct sched_attr, 56 bytes with the two of util_clamp
    assert struct.unpack("=IIQiIQQQII", attributes) == (56, 6, 3, -5, 0, 10, 20, 30, 0, 0)
    assert struct.unpack_from("=IIQiI", schedule.scheduler({"policy": "SCHED_RR", "priority": 7})) == (56, 2, 0, 0, 7)


@pytest.mark.parametrize(
    ("entry", "number"),
    [
        ({"class": "IOPRIO_CLASS_RT", "priority": 3}, 0x2003), ({"class": "IOPRIO_CLASS_BE"}, 0x4000),
        ({"class": "IOPRIO_CLASS_IDLE", "priority": 7}, 0x6007),
    ],
)  # fmt: skip
def test_io_priority(entry: dict, number: int) -> None:
    assert make(process={"ioPriority": entry}).process.io_priority == number


@pytest.mark.parametrize(
    ("text", "found"),
    [("", set()), ("3", {3}), ("0-2,7", {0, 1, 2, 7}), ("0, 4-5", {0, 4, 5}), ("0-7:2/4", {0, 1, 4, 5}), ("2-9:1/3", {2, 5, 8})],
)
def test_lists_of_numbers(text: str, found: set[int]) -> None:
    assert schedule.numbers(text, 100, "x") == found


def test_a_number_beyond_the_kernels() -> None:
    with pytest.raises(InvalidSpec, match=r"^linux\.memoryPolicy\.nodes: 999999 is more than the kernel knows, 1023 is the last"):
        make(memoryPolicy={"mode": "MPOL_BIND", "nodes": "0-999999"})


def test_affinity_of_an_exec() -> None:
    affinity = make(process={"execCPUAffinity": {"initial": "0-1", "final": "3"}}).process.affinity
    assert affinity == ({0, 1}, {3})
    assert schedule.affinity({"final": "3"}) == (set(), {3})
    # After `initial` alone the container's default holds again, which is what its cgroup has.
    assert schedule.affinity({"initial": "0"}) == ({0}, set(range(schedule.MOST_CPUS)))


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"mode": "MPOL_DEFAULT"}, (0, b"")),
        ({"mode": "MPOL_BIND", "nodes": "0,2"}, (2, (5).to_bytes(8, "little"))),
        ({"mode": "MPOL_INTERLEAVE", "nodes": "64", "flags": ["MPOL_F_STATIC_NODES"]}, (3 | 1 << 15, bytes(8) + (1).to_bytes(8, "little"))),
        ({"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "1", "flags": ["MPOL_F_RELATIVE_NODES"]}, (6 | 1 << 14, (2).to_bytes(8, "little"))),
    ],
)
def test_memory_policy(entry: dict, found: tuple) -> None:
    assert make(memoryPolicy=entry).process.memory_policy == found
