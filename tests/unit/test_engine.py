"""Docker's words to OCI's: users, capabilities, security options, environment, mounts, checks, states."""

import json
import os

import pytest

from berth.engine import bundle, defaults, mountpoints, mountrules, validate
from berth.engine.state import Record
from berth.errors import Conflict, InvalidParameter, NotImplementedHere
from berth.linux import capabilities
from berth.oci import users
from berth.runtime import plan, spec
from berth.runtime.plan import LANDLOCK_ANNOTATION

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
web:x:33:34:www:/var/www:/bin/false
nohome:x:40:40:::
evil:x:4294967295:0:::
long:x:99999999999999999999999:0:::
broken:x:abc:0::/:
short:x:1
1000:x:2000:2001:a name of digits:/n:
"""
GROUP = "root:x:0:\nwebs:x:34:\nvideo:x:44:web,other\naudio:x:29:web\nbad:x:y:web\n77:x:78:\n"
ALL = (1 << 41) - 1
ID = "0123456789abcdef" * 4


def facts(**changes: object) -> bundle.Facts:
    values: dict = {
        "machine": "x86_64", "bounding": ALL, "apparmor": False, "selinux": False, "cgroup_version": 2, "landlock_abi": 6,
        "id_maps": None, "init": "", "shared_pids": {}, "user": users.ResolvedUser(0, 0, [], "/root"), "directory": "/c", "devices": [],
    }  # fmt: skip
    return bundle.Facts(**{**values, **changes})


def own_mounts(host: dict) -> list[dict]:
    """As the engine has them, without volumes."""
    points = [each.point for each in mountrules.wanted(host, None, [])]
    return [mountpoints.oci_mount(point, point.source) for point in points]


def specified(config: dict | None = None, host: dict | None = None, **changes: object) -> dict:
    found = bundle.specification(ID, {"Cmd": ["sh"], **(config or {})}, host or {}, facts(mounts=own_mounts(host or {}), **changes))
    spec.check(found)  # what the engine writes, the runtime takes
    plan.Plan(found, "/bundle")
    json.dumps(found)
    return found


# -- users ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "uid", "gid", "additional", "home"),
    [
        ("", 0, 0, [], "/root"), ("root", 0, 0, [], "/root"), ("0", 0, 0, [], "/root"), ("web", 33, 34, [29, 44], "/var/www"),
        ("33", 33, 34, [29, 44], "/var/www"), ("web:video", 33, 44, [], "/var/www"), ("web:7", 33, 7, [], "/var/www"),
        ("5000", 5000, 0, [], "/"), ("5000:webs", 5000, 34, [], "/"), (":44", 0, 44, [], "/root"), ("nohome", 40, 40, [], "/"),
        ("1000", 2000, 2001, [], "/n"),  # a name wins over a number
        ("web:77", 33, 78, [], "/var/www"), ("2147483647", 2147483647, 0, [], "/"),
    ],
)  # fmt: skip
def test_users(user: str, uid: int, gid: int, additional: list[int], home: str) -> None:
    found = users.resolve(user, [], PASSWD, GROUP)
    assert (found.uid, found.gid, found.additional_gids, found.home) == (uid, gid, sorted({gid, *additional}), home)


def test_added_groups() -> None:
    assert users.resolve("web", ["video", "9", "audio"], PASSWD, GROUP).additional_gids == [9, 29, 34, 44]


def test_without_files() -> None:
    found = users.resolve("", [], "", "")
    assert (found.uid, found.gid, found.home) == (0, 0, "/")
    assert users.resolve("7:8", [], "", "").gid == 8


@pytest.mark.parametrize(
    ("user", "groups", "message"),
    [
        ("nobody", [], "unable to find user nobody: no matching entries in passwd file"),
        ("broken", [], "unable to find user broken"), ("-1", [], "unable to find user -1"), ("²", [], "unable to find user ²"),
        ("web:x", [], "unable to find group x: no matching entries in group file"), ("web", ["nope"], "unable to find group nope"),
        ("2147483648", [], "uids and gids must be in range 0-2147483647"), ("0:9999999999", [], "uids and gids must be in range"),
        ("9" * 5000, [], "unable to find user 9"), ("evil", [], "unable to find user evil"), ("long", [], "unable to find user long"),
    ],
)  # fmt: skip
def test_users_that_are_not_there(user: str, groups: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        users.resolve(user, groups, PASSWD, GROUP)
    assert str(caught.value).startswith(message)


# -- capabilities --------------------------------------------------------------------------------

DEFAULT = set(defaults.CAPABILITIES)
EVERY = set(capabilities.NAMES)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], DEFAULT), (["NET_ADMIN"], [], DEFAULT | {"CAP_NET_ADMIN"}), (["cap_sys_time"], [], DEFAULT | {"CAP_SYS_TIME"}),
        ([], ["CHOWN"], DEFAULT - {"CAP_CHOWN"}), ([], ["ALL"], set()), (["CHOWN"], ["all"], {"CAP_CHOWN"}), (["ALL"], [], EVERY),
        (["all"], ["SYS_ADMIN", "cap_bpf"], EVERY - {"CAP_SYS_ADMIN", "CAP_BPF"}), ([], ["SYS_ADMIN"], DEFAULT),
    ],
)  # fmt: skip
def test_capabilities_added_and_dropped(add: list[str], drop: list[str], expected: set[str]) -> None:
    granted = bundle.granted_capabilities({"CapAdd": add, "CapDrop": drop}, ALL)
    assert set(granted) == expected
    assert granted == [name for name in capabilities.NAMES if name in expected]


def test_default_capabilities_are_dockers_fourteen() -> None:
    assert len(DEFAULT) == len(defaults.CAPABILITIES) == 14
    assert not DEFAULT & {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_DAC_READ_SEARCH"}


def test_never_more_than_the_engine_has() -> None:
    few = capabilities.mask(["CAP_CHOWN", "CAP_KILL"])
    assert bundle.granted_capabilities({}, few) == ["CAP_CHOWN", "CAP_KILL"]
    assert bundle.granted_capabilities({"Privileged": True}, few) == ["CAP_CHOWN", "CAP_KILL"]
    assert bundle.granted_capabilities({"CapAdd": ["ALL"]}, few) == ["CAP_CHOWN", "CAP_KILL"]
    with pytest.raises(InvalidParameter, match="CAP_BPF cannot be added: the engine does not have it"):
        bundle.granted_capabilities({"CapAdd": ["BPF"]}, few)


@pytest.mark.parametrize("host", [{"CapAdd": ["FLY"]}, {"CapDrop": ["CAP_FLY"]}, {"CapAdd": [""]}])
def test_unknown_capabilities(host: dict) -> None:
    with pytest.raises(InvalidParameter, match="unknown capability"):
        bundle.granted_capabilities(host, ALL)


def test_other_users_keep_only_the_bounding_set() -> None:
    sets = specified(user=users.ResolvedUser(5, 5, [], "/"))["process"]["capabilities"]
    assert set(sets["bounding"]) == DEFAULT
    assert sets["effective"] == sets["permitted"] == sets["ambient"] == sets["inheritable"] == []
    root = specified()["process"]["capabilities"]
    assert set(root["effective"]) == set(root["permitted"]) == DEFAULT
    assert root["ambient"] == root["inheritable"] == []


# -- security options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("no-new-privileges", True), ("no-new-privileges=true", True), ("no-new-privileges:true", True), ("no-new-privileges=1", True),
        ("no-new-privileges:TRUE", True), ("no-new-privileges=false", False), ("no-new-privileges:0", False),
    ],
)  # fmt: skip
def test_no_new_privileges(option: str, expected: bool) -> None:
    assert specified(host={"SecurityOpt": [option]})["process"]["noNewPrivileges"] is expected


@pytest.mark.parametrize(
    "option",
    ["no-new-privileges=yes", "no-new-privilegesx", "no-new-privileges=", "nonsense", "seccomp", "x=y", "landlock=on", "systempaths=all", ""],
)
def test_security_options_that_are_none(option: str) -> None:
    with pytest.raises(InvalidParameter):
        bundle.security_options({"SecurityOpt": [option]}, facts())


@pytest.mark.parametrize("option", ["apparmor=mine", "label=type:x_t", "label:level:s0"])
def test_modules_the_kernel_lacks_are_not_skipped(option: str) -> None:
    with pytest.raises(NotImplementedHere, match="this kernel does not have"):
        bundle.security_options({"SecurityOpt": [option]}, facts())


def test_defaults_of_security() -> None:
    found = specified()
    assert found["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert found["linux"]["maskedPaths"] == list(defaults.MASKED_PATHS)
    assert found["linux"]["readonlyPaths"] == list(defaults.READONLY_PATHS)
    assert found["process"]["noNewPrivileges"] is False
    assert "apparmorProfile" not in found["process"]
    assert specified(apparmor=True)["process"]["apparmorProfile"] == bundle.APPARMOR_DEFAULT


def test_security_switched_off_by_name() -> None:
    host = {"SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined", "label=disable", "systempaths=unconfined"]}
    found = specified(host=host, apparmor=True, selinux=True)
    assert "seccomp" not in found["linux"]
    assert "maskedPaths" not in found["linux"]
    assert not {"apparmorProfile", "selinuxLabel"} & set(found["process"])


def test_security_by_name() -> None:
    host = {"SecurityOpt": ["apparmor=mine", "label=type:x_t", "label=level:s0:c1", "seccomp=builtin"]}
    found = specified(host=host, apparmor=True, selinux=True)
    assert found["process"]["apparmorProfile"] == "mine"
    assert found["process"]["selinuxLabel"] == "system_u:system_r:x_t:s0:c1"
    assert found["linux"]["seccomp"] == specified()["linux"]["seccomp"]


def test_privileged() -> None:
    found = specified(host={"Privileged": True}, apparmor=True)
    assert set(found["process"]["capabilities"]["effective"]) == EVERY
    assert not {"seccomp", "maskedPaths", "readonlyPaths"} & set(found["linux"])
    assert found["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "apparmorProfile" not in found["process"]
    options = {m["destination"]: m["options"] for m in found["mounts"]}
    assert "ro" not in options["/sys"]
    assert "rw" in options["/sys/fs/cgroup"]


def test_profiles_of_dockers_form() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
            {"names": ["swapon"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}, "args": []},
            {"names": ["swapoff"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
        ],
    }  # fmt: skip
    found = specified(host={"SecurityOpt": [f"seccomp={json.dumps(profile)}"]})["linux"]["seccomp"]
    assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert [rule["names"] for rule in found["syscalls"]] == [["read"], ["write"], ["chroot"], ["arch_prctl"]]


@pytest.mark.parametrize("text", ["{", "[]", "{}", "/etc/profile.json", "[" * 100_000])
def test_profiles_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match="security-opt seccomp"):
        bundle.security_options({"SecurityOpt": [f"seccomp={text}"]}, facts())


@pytest.mark.parametrize(
    ("host", "abi", "scoped"),
    [
        ({"NetworkMode": "host"}, 6, True), ({"NetworkMode": "host"}, 5, False), ({}, 6, False),
        ({"NetworkMode": "host", "Privileged": True}, 6, False), ({"NetworkMode": "host", "SecurityOpt": ["landlock=unconfined"]}, 6, False),
    ],
)  # fmt: skip
def test_abstract_sockets_of_the_host_are_out_of_reach(host: dict, abi: int, scoped: bool) -> None:
    assert (specified(host=host, landlock_abi=abi)["annotations"].get(LANDLOCK_ANNOTATION) == "true") is scoped


# -- the rest of the bundle ----------------------------------------------------------------------


def test_environment() -> None:
    assert bundle.environment({}, "box", "/root") == [defaults.PATH, "HOSTNAME=box", "HOME=/root"]
    given = {"Env": ["PATH=/bin", "A=1", "A=2=3", "HOME=/h", "UNSET"], "Tty": True}
    assert bundle.environment(given, "box", "/root") == ["PATH=/bin", "HOSTNAME=box", "TERM=xterm", "A=2=3", "HOME=/h"]


@pytest.mark.parametrize(
    ("host", "version", "expected"),
    [
        ({}, 2, {"mount": "", "pid": "", "ipc": "", "uts": "", "network": "", "cgroup": ""}),
        ({}, 1, {"mount": "", "pid": "", "ipc": "", "uts": "", "network": ""}),
        ({"CgroupnsMode": "private"}, 1, {"mount": "", "pid": "", "ipc": "", "uts": "", "network": "", "cgroup": ""}),
        ({"PidMode": "host", "IpcMode": "host", "UTSMode": "host", "NetworkMode": "host", "CgroupnsMode": "host"}, 2, {"mount": ""}),
        ({"NetworkMode": "none", "IpcMode": "private"}, 1, {"mount": "", "pid": "", "ipc": "", "uts": "", "network": ""}),
        (
            {"PidMode": "container:x", "NetworkMode": "container:x", "IpcMode": "container:x"}, 1,
            {"mount": "", "pid": "/proc/9/ns/pid", "ipc": "/proc/9/ns/ipc", "uts": "", "network": "/proc/9/ns/net"},
        ),
    ],
)  # fmt: skip
def test_namespaces(host: dict, version: int, expected: dict) -> None:
    found = specified(host=host, cgroup_version=version, shared_pids={"x": 9})["linux"]["namespaces"]
    assert {n["type"]: n.get("path", "") for n in found} == expected


def test_user_namespace_and_time_namespace() -> None:
    maps = ([{"containerID": 0, "hostID": 100000, "size": 65536}],) * 2
    host = {"Annotations": {"io.berth.time-offset.monotonic": "-5", "io.berth.time-offset.boottime": "x"}}
    linux = specified(host=host, id_maps=maps)["linux"]
    assert [n["type"] for n in linux["namespaces"]][-2:] == ["user", "time"]
    assert linux["timeOffsets"] == {"monotonic": {"secs": -5}}
    assert linux["uidMappings"] == maps[0]


def test_host_names() -> None:
    assert specified()["hostname"] == ID[:12]
    found = specified({"Hostname": "h", "Domainname": "d"})
    assert (found["hostname"], found["domainname"]) == ("h", "d")
    assert "hostname" not in specified({"Hostname": "h"}, {"UTSMode": "host"})


def test_parents_are_mounted_before_children() -> None:
    host = {"Binds": ["/srv:/a/b/c", "/srv:/a:ro"], "Tmpfs": {"/a/b": "size=1k,mode=700"}, "Mounts": [{"Type": "tmpfs", "Target": "/a/b/c/d"}]}
    places = [m["destination"] for m in specified(host=host)["mounts"]]
    assert [p for p in places if p.startswith("/a")] == ["/a", "/a/b", "/a/b/c", "/a/b/c/d"]
    for index, place in enumerate(places):
        assert not any(later != place and place.startswith(later + "/") for later in places[index:])
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("bind", "options"),
    [
        ("/s:/d", ["rbind", "rprivate"]), ("/s:/d:rw", ["rbind", "rprivate"]), ("/s:/d:ro", ["rbind", "rprivate", "ro", "rro"]),
        ("/s/../s/:/d/", ["rbind", "rprivate"]), ("/s:/d:ro,rslave", ["rbind", "rslave", "ro", "rro"]), ("/s:/d:z", ["rbind", "rprivate"]),
    ],
)  # fmt: skip
def test_binds(bind: str, options: list[str]) -> None:
    mounts = {m["destination"]: m for m in specified(host={"Binds": [bind]})["mounts"]}
    assert mounts["/d"] == {"destination": "/d", "type": "bind", "source": "/s", "options": options}


@pytest.mark.parametrize(
    ("mount", "options"),
    [
        ({}, ["rbind", "rprivate"]), ({"ReadOnly": True}, ["rbind", "rprivate", "ro", "rro"]),
        ({"BindOptions": {"NonRecursive": True, "Propagation": "rshared"}, "ReadOnly": True}, ["bind", "rshared", "ro"]),
        ({"BindOptions": {"ReadOnlyNonRecursive": True}, "ReadOnly": True}, ["rbind", "rprivate", "ro"]),
    ],
)  # fmt: skip
def test_mounts_of_type_bind(mount: dict, options: list[str]) -> None:
    assert own_mounts({"Mounts": [{"Type": "bind", "Source": "/usr", "Target": "/d", **mount}]})[0]["options"] == options


def test_mounts_of_type_tmpfs() -> None:
    mount = {"Type": "tmpfs", "Target": "/t", "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 5, "Mode": 0o1777}}
    assert own_mounts({"Mounts": [mount]}) == [
        {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", "size=5", "mode=1777", "ro"]}
    ]


@pytest.mark.parametrize(
    ("bind", "kind"),
    [
        ("s", InvalidParameter), ("/s:", InvalidParameter), (":/d", InvalidParameter), ("/s:d", InvalidParameter), ("/s:/", InvalidParameter),
        ("/s:/d:wo", InvalidParameter), ("/s:/d:ro:x", InvalidParameter), ("/s:/x/..", InvalidParameter), ("n:/d", InvalidParameter),
    ],
)  # fmt: skip
def test_binds_that_cannot_be(bind: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        mountrules.wanted({"Binds": [bind]}, None, [])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({"Memory": 100}, {"memory": {"limit": 100, "swap": 200}}), ({"Memory": 100, "MemorySwap": -1}, {"memory": {"limit": 100, "swap": -1}}),
        ({"MemoryReservation": 5, "MemorySwappiness": 0}, {"memory": {"reservation": 5, "swappiness": 0}}), ({"MemorySwappiness": -1}, {}),
        ({"NanoCpus": 1_500_000_000}, {"cpu": {"period": 100000, "quota": 150000}}), ({"CpuShares": 2, "CpusetCpus": "0"}, {"cpu": {"shares": 2, "cpus": "0"}}),
        ({"PidsLimit": 7}, {"pids": {"limit": 7}}), ({"PidsLimit": -1}, {"pids": {"limit": -1}}), ({"PidsLimit": 0}, {}),
        ({"BlkioWeight": 10}, {"blockIO": {"weight": 10}}),
    ],
)  # fmt: skip
def test_limits(host: dict, expected: dict) -> None:
    assert bundle.resources(host, False, []) == {"devices": [{"allow": False, "access": "rwm"}], **expected}


def test_device_rules() -> None:
    rule = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    found = bundle.resources({"DeviceCgroupRules": ["c 1:* mr", "b *:* w"]}, False, [{"rule": rule}])["devices"]
    assert found[1:] == [
        rule, {"allow": True, "type": "c", "access": "mr", "major": 1}, {"allow": True, "type": "b", "access": "w"},
    ]  # fmt: skip
    for text in ("", "c", "c 1 r", "d 1:2 r", "c 1:2 x", "c 1:2:3 r", "c a:b r", "c 1:2", "c -1:2 r"):
        with pytest.raises(InvalidParameter, match="invalid device cgroup rule"):
            bundle.resources({"DeviceCgroupRules": [text]}, False, [])


@pytest.mark.parametrize(("given", "expected"), [(None, "/"), ("", "/"), ("/a/./b/../c/", "/a/c"), ("//x", "/x"), ("/..", "/")])
def test_work_directory(given: str | None, expected: str) -> None:
    assert specified({"WorkingDir": given})["process"]["cwd"] == expected


def test_arguments_and_init() -> None:
    assert specified({"Entrypoint": ["a"], "Cmd": ["b"]})["process"]["args"] == ["a", "b"]
    found = specified({"Cmd": ["b"]}, {"Init": True}, init="/usr/bin/tini")
    assert found["process"]["args"] == ["/sbin/docker-init", "--", "b"]
    assert {"destination": "/sbin/docker-init", "type": "bind", "source": "/usr/bin/tini", "options": ["bind", "ro"]} in found["mounts"]


# -- checks --------------------------------------------------------------------------------------


def check(config: dict | None = None, host: dict | None = None) -> None:
    validate.create({"Cmd": ["sh"], **(config or {})}, host or {}, {"berth": ""})
    mountrules.wanted(host or {}, None, [])


def test_a_usual_request_passes() -> None:
    check({"StopSignal": "SIGRTMIN+3", "WorkingDir": "/x", "Hostname": "h" * 63}, {
        "Memory": 6 << 20, "MemorySwap": -1, "NetworkMode": "host", "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": -1}],
        "Runtime": "berth", "IpcMode": "container:x", "CpuPeriod": 1000, "OomScoreAdj": -1000, "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"}, "PortBindings": {"80/tcp": []}, "Tmpfs": {"/run": ""}, "Devices": [{"PathOnHost": "/dev/null"}],
    })  # fmt: skip


@pytest.mark.parametrize(
    ("config", "host", "message"),
    [
        ({"Cmd": []}, {}, "no command specified"),
        ({"StopSignal": "SIGNO"}, {}, "invalid signal: SIGNO"),
        ({"Hostname": "h" * 64}, {}, "invalid hostname format"),
        ({"WorkingDir": "x"}, {}, "the working directory 'x' is invalid, it needs to be an absolute path"),
        ({}, {"Memory": 1}, "Minimum memory limit allowed is 6MB"),
        ({}, {"MemorySwap": 7 << 20}, "You should always set the Memory limit when using Memoryswap limit"),
        ({}, {"Memory": 8 << 20, "MemorySwap": 7 << 20}, "Minimum memoryswap limit should be larger than memory limit"),
        ({}, {"MemorySwappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({}, {"NanoCpus": 1, "CpuQuota": 5000}, "Conflicting options: Nano CPUs and CPU Quota"),
        ({}, {"NanoCpus": 10**15}, "range of CPUs is from 0.01 to"), ({}, {"NanoCpus": -1}, "range of CPUs is from 0.01 to"),
        ({}, {"CpuQuota": 999}, "CPU cfs quota can not be less than 1ms"),
        ({}, {"CpuPeriod": 1000001}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s"),
        ({}, {"BlkioWeight": 9}, "Range of blkio weight is from 10 to 1000"),
        ({}, {"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({}, {"ShmSize": -1}, "SHM size can not be less than 0"),
        ({}, {"Ulimits": [{"Name": "x"}]}, "invalid ulimit type: x"),
        ({}, {"Ulimits": [{"Name": "core", "Soft": 2, "Hard": 1}]}, "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
        ({}, {"PidMode": "private"}, "invalid PidMode: 'private'"), ({}, {"UTSMode": "container:x"}, "invalid UTSMode"),
        ({}, {"Runtime": "x"}, "unknown or invalid runtime name: x; known: berth"),
        ({}, {"Binds": ["/a:/d", "/b:/d/"]}, "Duplicate mount point: /d"),
        ({}, {"Tmpfs": {"run": ""}}, "invalid mount path: 'run' mount path must be absolute"),
        ({}, {"Mounts": [{"Type": "bind", "Source": "/nowhere/x", "Target": "/d"}]}, 'invalid mount config for type "bind": bind source path does not exist'),
        ({}, {"Mounts": [{"Type": "bind", "Source": "x", "Target": "/d"}]}, 'invalid mount config for type "bind": invalid mount path: '),
        ({}, {"Mounts": [{"Type": "tmpfs", "Target": "d"}]}, 'invalid mount config for type "tmpfs": invalid mount path'),
        ({}, {"Devices": [{"PathOnHost": "/dev/no-such"}]}, "error gathering device information while adding custom device '/dev/no-such'"),
        ({}, {"Devices": [{"PathOnHost": "/etc/passwd"}]}, "error gathering device information while adding custom device '/etc/passwd'"),
        ({}, {"Devices": [{"PathOnHost": "/dev/null", "CgroupPermissions": "rx"}]}, "invalid device mode 'rx'"),
    ],
)  # fmt: skip
def test_requests_that_contradict_themselves(config: dict, host: dict, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check(config, host)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ({}, {"DeviceRequests": [{}]}), ({}, {"StorageOpt": {"size": "1"}}),
    ],
)  # fmt: skip
def test_what_is_not_there_yet_is_said(config: dict, host: dict) -> None:
    with pytest.raises(NotImplementedHere, match=r"berth|registered"):
        check(config, host)


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGKILL", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("64", 64), ("HUP", 1)],
)
def test_signals(text: str, number: int) -> None:
    assert validate.signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "0", "65", "-1", "FOO", "_BLOCK", "_DFL", "RTMIN+99", "RTMIN3", "²", "9" * 5000, "RTMIN+" + "9" * 5000, "٣"]
)
def test_no_signals(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid signal: "):
        validate.signal_number(text)


@pytest.mark.parametrize(("name", "good"), [("ab", True), ("a.b_c-1", True), ("a", False), ("_a", False), ("a b", False), ("a/b", False), ("ab\n", False)])
def test_container_names(name: str, good: bool) -> None:
    if good:
        validate.name(name)
        return
    with pytest.raises(InvalidParameter, match=r"^Invalid container name \("):
        validate.name(name)


def test_a_lowered_oom_score_of_the_engine_is_not_the_containers() -> None:
    assert "oomScoreAdj" not in specified()["process"]  # writing it would need CAP_SYS_RESOURCE where the engine's is raised
    assert specified(own_oom_score=-500)["process"]["oomScoreAdj"] == 0
    assert specified({}, {"OomScoreAdj": 300}, own_oom_score=-500)["process"]["oomScoreAdj"] == 300


def test_a_device_with_its_rule() -> None:
    entry = validate.device_entries({"PathOnHost": "/dev/null", "PathInContainer": "/dev/nil", "CgroupPermissions": "r"})[0]
    status = os.stat("/dev/null")
    assert (entry["path"], entry["type"], entry["major"], entry["minor"]) == ("/dev/nil", "c", os.major(status.st_rdev), os.minor(status.st_rdev))
    assert entry["rule"] == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}


# -- states --------------------------------------------------------------------------------------

MOVES = {("created", "running"), ("created", "removing"), ("running", "paused"), ("running", "exited"), ("paused", "running"),
         ("paused", "exited"), ("exited", "running"), ("exited", "removing")}  # fmt: skip
STATES = ("created", "running", "paused", "exited", "removing")


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_moves(before: str, after: str) -> None:
    record = Record(ID, "n", "sha256:1", "i", {}, {})
    record.status = before
    if (before, after) in MOVES:
        record.move(after)
        assert (record.status, record.running) == (after, after in ("running", "paused"))
        return
    with pytest.raises(Conflict, match=rf"^container {ID[:12]} cannot go from {before} to {after}$"):
        record.move(after)
    assert record.status == before


def test_a_record_survives_the_database() -> None:
    record = Record(ID, "n", "sha256:1", "i", {"Env": ["A=é"]}, {"AutoRemove": True})
    record.move("running")
    again = Record.from_json(record.to_json())
    assert vars(again) == vars(record)
    assert again.auto_remove
    assert again.running
