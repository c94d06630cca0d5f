"""The runtime's pure half: what a specification must be, and what is planned from it."""

import copy
import json
import resource

import pytest

from berth.errors import InvalidSpec
from berth.linux import cgroup, libc, mount
from berth.runtime import frames, plan, rehearsal, spec
from berth.runtime.operations import OPERATIONS

NAMESPACES = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network", "cgroup")]


def minimal(**linux: object) -> dict:
    return {
        "ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process": {"args": ["/bin/true"], "cwd": "/"},
        "linux": {"namespaces": copy.deepcopy(NAMESPACES), **linux},
    }  # fmt: skip


def changed(path: str, value: object) -> dict:
    document = minimal()
    *parents, name = path.split(".")
    holder = document
    for part in parents:
        holder = holder.setdefault(part, {})
    holder[name] = value
    return document


def names(document: dict) -> list[str]:
    spec.check(document)
    return [operation.name for operation in plan.Plan(document, "/bundle").operations]


def operations(document: dict, name: str) -> list[tuple]:
    return [o.arguments for o in plan.Plan(document, "/bundle").operations if o.name == name]


# -- the specification ---------------------------------------------------------------------------


def test_a_minimal_specification_passes() -> None:
    spec.check(minimal())


def test_unknown_and_null_fields_pass() -> None:
    spec.check({**minimal(), "hooks": None, "x": 1, "mounts": None, "annotations": None, "linux": None})


def test_load(tmp_path) -> None:
    with pytest.raises(InvalidSpec, match="no such file; a bundle is a directory"):
        spec.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**minimal(), "kept": [1]}))
    assert spec.load(str(tmp_path))["kept"] == [1]


# -- the plan ------------------------------------------------------------------------------------


def test_order_of_a_plan() -> None:
    document = {
        **minimal(
            sysctl={"net.ipv4.ip_forward": "1"}, readonlyPaths=["/proc/sys"], maskedPaths=["/proc/kcore"], rootfsPropagation="shared",
        ),
        "hostname": "h", "domainname": "d",
        "mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup"},
            {"destination": "/data", "type": "bind", "source": "/srv"},
        ],
    }  # fmt: skip
    document["process"]["terminal"] = True
    document["root"]["readonly"] = True
    assert names(document) == [
        "prepare_root", "mount_filesystem", "enter_cgroup", "mount_cgroup", "bind_mount",
        *["make_device"] * 6, *["make_link"] * 5, "open_console", "raise_loopback", "write_sysctl", "set_hostname", "set_domainname",
        "pivot", "make_readonly", "mask", "set_root_propagation", "make_root_readonly", "enter_cgroup",
    ]  # fmt: skip


def test_the_smallest_plan_enters_its_cgroup_last() -> None:
    assert names(minimal()) == ["prepare_root", *["make_device"] * 6, *["make_link"] * 5, "raise_loopback", "pivot", "enter_cgroup"]


def test_every_planned_operation_can_be_executed() -> None:
    document = {**minimal(rootfsPropagation="shared"), "hostname": "h"}
    assert set(names(document)) <= set(OPERATIONS)
    assert {"mask", "make_readonly", "mount_cgroup", "write_sysctl", "open_console"} <= set(OPERATIONS)


def test_default_devices_and_one_of_the_containers_own() -> None:
    document = minimal(devices=[
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 1, "gid": 2},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0},
    ])  # fmt: skip
    made = {arguments[0]: arguments[1:] for arguments in operations(document, "make_device")}
    assert made["/dev/fuse"] == ("c", 10, 229, 0o640, 1, 2, False)
    assert made["/dev/null"] == ("c", 1, 3, 0, 0, 0, False)  # what is asked for replaces the default
    assert made["/dev/tty"] == ("c", 5, 0, 0o666, 0, 0, False)
    assert len(made) == 7


def test_in_a_user_namespace_devices_are_bound() -> None:
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    document = minimal(uidMappings=mappings, gidMappings=mappings)
    document["linux"]["namespaces"].append({"type": "user"})
    assert all(arguments[-1] is True for arguments in operations(document, "make_device"))
    found = plan.Plan(document, "/b")
    assert found.clone_flags & libc.CLONE_NEWUSER
    assert found.uid_mappings == mappings


def test_a_user_namespace_needs_mappings() -> None:
    document = minimal()
    document["linux"]["namespaces"].append({"type": "user"})
    with pytest.raises(InvalidSpec, match=r"^linux\.uidMappings"):
        plan.Plan(document, "/b")


def test_namespaces_to_make_and_to_join() -> None:
    document = minimal()
    document["linux"]["namespaces"] = [
        {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/proc/9/ns/net"}, {"type": "cgroup"}, {"type": "time"},
    ]  # fmt: skip
    found = plan.Plan(document, "/b")
    assert found.clone_flags == libc.CLONE_NEWNS | libc.CLONE_NEWPID
    assert found.join == [(libc.CLONE_NEWNET, "/proc/9/ns/net")]
    assert found.new_cgroup_namespace
    assert found.new_time_namespace


def test_the_hosts_mounts_are_never_used() -> None:
    document = minimal()
    document["linux"]["namespaces"] = [{"type": "pid"}]
    with pytest.raises(InvalidSpec, match=r"^linux\.namespaces: has no 'mount'"):
        plan.Plan(document, "/b")


@pytest.mark.parametrize(("path", "expected"), [("rootfs", "/bundle/rootfs"), ("/elsewhere", "/elsewhere")])
def test_root_path(path: str, expected: str) -> None:
    document = minimal()
    document["root"]["path"] = path
    assert plan.Plan(document, "/bundle").root_path == expected


@pytest.mark.parametrize(
    ("propagation", "first", "last"),
    [
        (None, mount.MS_SLAVE | mount.MS_REC, []), ("private", mount.MS_PRIVATE | mount.MS_REC, []),
        ("rslave", mount.MS_SLAVE | mount.MS_REC, []), ("shared", mount.MS_SLAVE | mount.MS_REC, [(mount.MS_SHARED,)]),
        ("rshared", mount.MS_SLAVE | mount.MS_REC, [(mount.MS_SHARED | mount.MS_REC,)]),
        ("unbindable", mount.MS_PRIVATE | mount.MS_REC, [(mount.MS_UNBINDABLE,)]),
    ],
)  # fmt: skip
def test_nothing_flows_back_to_the_host_before_the_pivot(propagation: str | None, first: int, last: list) -> None:
    document = minimal(**({} if propagation is None else {"rootfsPropagation": propagation}))
    assert operations(document, "prepare_root") == [("/bundle/rootfs", first)]
    assert operations(document, "set_root_propagation") == last


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1k", "rshared", "tmpcopyup"]},
            ("mount_copied", "tmpfs", "tmpfs", "/tmp", mount.MS_NOSUID, ("size=1k",), True),
        ),
        ({"destination": "/proc", "type": "proc"}, ("mount_filesystem", "proc", "proc", "/proc", 0, (), False)),
        (
            {"destination": "/d", "type": "bind", "source": "/s", "options": ["rbind", "ro", "rro", "exec", "rslave"]},
            (
                "bind_mount", "/s", "/d", True,
                (libc.MOUNT_ATTR_RDONLY, libc.MOUNT_ATTR_NOEXEC, libc.MOUNT_ATTR_RDONLY, 0, mount.MS_SLAVE | mount.MS_REC),
            ),
        ),
        ({"destination": "/d", "source": "/s", "options": ["bind"]}, ("bind_mount", "/s", "/d", False, (0, 0, 0, 0, 0))),
        ({"destination": "/c", "type": "cgroup2", "options": ["ro"]}, ("mount_cgroup", "/c", mount.MS_RDONLY)),
    ],
)  # fmt: skip
def test_mounts(entry: dict, expected: tuple) -> None:
    document = {**minimal(), "mounts": [entry]}
    assert plan.Operation(*expected) in plan.Plan(document, "/b").operations


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({**minimal(), "mounts": [{"destination": "/a", "type": "bind"}]}, "mounts[0].source: a bind mount needs one"),
        ({**minimal(), "mounts": [{"destination": "/a"}]}, "mounts[0].type: is missing"),
        (minimal(rootfsPropagation="all"), "linux.rootfsPropagation: 'all' is not one of"),
        (minimal(devices=[{"path": "x", "type": "c"}]), "linux.devices[0].path: 'x'"),
        (minimal(devices=[{"path": "/x", "type": "d"}]), "linux.devices[0].type: 'd'"),
        (minimal(personality={"domain": "BSD"}), "linux.personality.domain: 'BSD'"),
        (minimal(sysctl={"vm.swappiness": "1"}), "linux.sysctl: 'vm.swappiness' is not separate for each container"),
        (minimal(sysctl={"kernel.panic": "1"}), "linux.sysctl: 'kernel.panic'"),
        (minimal(sysctl={"kernel/core_pattern": "|x"}), "linux.sysctl: 'kernel/core_pattern'"),
        (minimal(sysctl={"net/../kernel/panic": "1"}), "linux.sysctl: 'net/../kernel/panic' is not a name of a sysctl"),
        (minimal(sysctl={"net..x": "1"}), "linux.sysctl: 'net..x' is not a name"),
        (changed("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "process.rlimits[0].type: 'RLIMIT_X'"),
        (changed("process.capabilities", {"effective": ["CHOWN"]}), "process.capabilities.effective: unknown capability 'CHOWN'"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be(document: dict, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        plan.Plan(document, "/b")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("net.ipv4.ip_forward", "network"), ("kernel.shmmax", "ipc"), ("fs.mqueue.msg_max", "ipc"), ("kernel.domainname", "uts")],
)
def test_a_sysctl_needs_its_namespace(name: str, namespace: str) -> None:
    document = minimal(sysctl={name: 1})
    assert operations(document, "write_sysctl") == [(name.replace(".", "/"), "1")]
    document["linux"]["namespaces"] = [n for n in NAMESPACES if n["type"] != namespace]
    with pytest.raises(InvalidSpec, match=rf"^linux\.sysctl: '{name}' needs a {namespace} namespace"):
        plan.Plan(document, "/b")


@pytest.mark.parametrize("key", ["hostname", "domainname"])
def test_the_hosts_name_is_left_alone(key: str) -> None:
    document = {**minimal(), key: "x"}
    document["linux"]["namespaces"] = [n for n in NAMESPACES if n["type"] != "uts"]
    with pytest.raises(InvalidSpec, match=f"^{key}: cannot be set without a uts namespace"):
        plan.Plan(document, "/b")


def test_process() -> None:
    document = minimal(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}, personality={"domain": "LINUX32"})
    document["annotations"] = {plan.LANDLOCK_ANNOTATION: "true"}
    document["process"] |= {
        "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o27}, "noNewPrivileges": True, "oomScoreAdj": 0,
        "consoleSize": {"height": 24, "width": 80}, "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}, {"type": "RLIMIT_CORE", "soft": -1, "hard": -1}],
    }  # fmt: skip
    process = plan.Plan(document, "/b").process
    assert (process.uid, process.gid, process.additional_gids, process.umask) == (5, 6, [7], 0o27)
    assert (process.bounding, process.effective, process.permitted, process.ambient) == (0b100001, 0b100000, 0, 0)
    assert process.limits_capabilities
    assert process.rlimits == [
        (resource.RLIMIT_NOFILE, 10, resource.RLIM_INFINITY), (resource.RLIMIT_CORE, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ]  # fmt: skip
    assert (process.personality, process.landlock, process.no_new_privileges) == (8, True, True)
    assert (process.oom_score_adj, process.console_size) == (0, (24, 80))


def test_absent_and_empty_capabilities_differ() -> None:
    assert not plan.Plan(minimal(), "/b").process.limits_capabilities
    empty = plan.Plan(changed("process.capabilities", {}), "/b").process
    assert empty.limits_capabilities
    assert empty.bounding == 0


def test_device_rules_keep_the_terminals_usable() -> None:
    found = plan.Plan(minimal(resources={"devices": [{"allow": False, "access": "rwm"}]}), "/b")
    assert found.resources["devices"][0] == {"allow": False, "access": "rwm"}
    assert {"allow": True, "type": "c", "major": 136, "minor": -1, "access": "rwm"} in found.resources["devices"]
    assert "devices" not in plan.Plan(minimal(resources={"pids": {"limit": 1}}), "/b").resources


def test_planning_changes_nothing_and_is_repeatable() -> None:
    document = {**minimal(resources={"devices": [{"allow": False}]}), "hostname": "h"}
    before = copy.deepcopy(document)
    first, second = plan.Plan(document, "/b"), plan.Plan(document, "/b")
    assert document == before
    assert first.operations == second.operations
    assert len(set(first.operations)) == len(first.operations)


def test_a_plan_can_be_read() -> None:
    lines = plan.Plan({**minimal(), "hostname": "box"}, "/b").describe().splitlines()
    assert lines[0].startswith("prepare_root('/b/rootfs', ")
    assert "set_hostname('box')" in lines
    assert lines[-2:] == ["pivot()", "enter_cgroup(True)"]


def test_names_of_limits() -> None:
    assert plan.rlimit_name(resource.RLIMIT_NOFILE) == "RLIMIT_NOFILE"
    assert plan.rlimit_name(99) == "99"


# -- frames and logs -----------------------------------------------------------------------------


def test_frames_byte_by_byte() -> None:
    sent = [(frames.STDOUT, b""), (frames.STDERR, b"x" * 300), (frames.EXITED, b"{}")]
    stream = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    decoder = frames.Decoder()
    got = [frame for byte in stream for frame in decoder.feed(bytes((byte,)))]
    assert got == sent
    assert frames.Decoder().feed(stream) == sent


def test_a_frame_that_cannot_be_is_refused() -> None:
    header = frames.encode(b"O", b"")[:1] + (frames.MAX_PAYLOAD_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(ValueError, match="1048577 bytes"):
        frames.Decoder().feed(header)
    assert frames.decode_header(b"O" + frames.MAX_PAYLOAD_BYTES.to_bytes(4, "big")) == (b"O", frames.MAX_PAYLOAD_BYTES)


def test_loopback_is_raised_only_in_a_network_of_its_own() -> None:
    document = minimal()
    document["linux"]["namespaces"] = [{"type": "mount"}, {"type": "network", "path": "/proc/9/ns/net"}]
    assert "raise_loopback" not in names(document)
    document["linux"]["namespaces"] = [{"type": "mount"}]
    assert "raise_loopback" not in names(document)


@pytest.mark.parametrize("hosts", [cgroup.Hierarchies({"pids": "/nowhere/pids"}, "/nowhere/unified"), cgroup.Hierarchies({}, "/nowhere")])
def test_a_rehearsal_needs_nothing_and_leaves_nothing(hosts: cgroup.Hierarchies) -> None:
    """What it goes through is sound: an error would be the next start's."""
    rehearsal.rehearse(hosts)
