"""A start that nobody asked for, up to where it would have effects: what it writes to is memory of the starter's own then.

Of a forked interpreter's time most goes into copying such pages; a starter that waits does it before anybody waits for it.
"""

from berth.linux import cgroup, cgroup_v1, cgroup_v2
from berth.models.jsonlite import dumps
from berth.runtime import spec
from berth.runtime.container import seccomp_path
from berth.runtime.plan import NAMESPACE_KINDS, Plan

_MOUNT_OPTIONS = ["nosuid", "noexec", "nodev", "mode=1777", "ro"]
_CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SYS_CHROOT"] * 3
# With as much of everything as most have.
_CONFIG = dumps({
    "ociVersion": "1.0.2", "hostname": "rehearsed", "root": {"path": "rootfs", "readonly": True},
    "process": {
        "args": ["true"], "cwd": "/", "env": ["PATH=/bin"] * 4, "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 0,
        "capabilities": {name: _CAPABILITIES for name in ("bounding", "effective", "permitted")},
    },
    "mounts": [{"destination": f"/{kind}", "type": kind, "source": kind, "options": _MOUNT_OPTIONS}
               for kind in ("proc", "tmpfs", "devpts", "sysfs", "cgroup", "mqueue", "bind") for _ in range(1 + (kind == "bind"))],
    "linux": {
        "namespaces": [{"type": kind} for kind in NAMESPACE_KINDS if kind not in ("user", "time")], "cgroupsPath": "/rehearsed",
        "resources": {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 1 << 30}, "pids": {"limit": 100}},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["read", "write", "openat", "close"] * 90, "action": "SCMP_ACT_ALLOW"}, *(
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]} for value in range(8)
            )],
        },
        "maskedPaths": [f"/proc/{number}" for number in range(12)], "readonlyPaths": [f"/sys/{number}" for number in range(6)],
    },
}).encode()  # fmt: skip


def rehearse(hosts: cgroup.Hierarchies) -> None:
    """Reads, checks and plans, and thinks about limits and the filter's name."""
    config = spec.parse(_CONFIG, "rehearsal")
    spec.check(config)
    plan = Plan(config, "/rehearsed")  # type: ignore[arg-type]  # checked
    cgroup.open_cgroup(plan.cgroup_path, hosts)
    (cgroup_v1 if hosts.version == 1 else cgroup_v2).settings({**plan.resources, "devices": plan.resources["devices"][:1]})
    if plan.process.seccomp:
        seccomp_path(plan.process.seccomp, "")
