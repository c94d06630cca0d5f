"""A config.json with every field that the runtime knows, and right and wrong values for each kind of value.

`FULL` is written by hand, not made from the tables it is used to test; test_spec.py asserts that no
field is left out of either.
"""

from berth.runtime import spec_fields as f

MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 65536}, {"containerID": 65536, "hostID": 1000, "size": 1}]
HOOK = [{"path": "/bin/hook", "args": ["hook", "x"], "env": ["A=1"], "timeout": 5}]
RATE = [{"major": 8, "minor": 0, "rate": 600}]

FULL: dict = {
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box", "domainname": "example.org",
    "mounts": [{
        "destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ridmap"],
        "uidMappings": MAPPINGS, "gidMappings": MAPPINGS,
    }],
    "annotations": {"org.example.note": "x"},
    "hooks": {
        "prestart": HOOK, "createRuntime": HOOK, "createContainer": HOOK,
        "startContainer": HOOK, "poststart": HOOK, "poststop": HOOK,
    },
    "process": {
        "args": ["sh", "-c", "true"], "cwd": "/", "env": ["PATH=/bin", "EMPTY="], "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [5, 6]},
        "capabilities": {
            "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"],
            "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        },
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}, {"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1},
        ],
        "noNewPrivileges": True, "oomScoreAdj": 100, "apparmorProfile": "profile", "selinuxLabel": "system_u:system_r:x_t:s0",
        "scheduler": {
            "policy": "SCHED_DEADLINE", "nice": 0, "priority": 0, "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 1000, "deadline": 2000, "period": 3000,
        },
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0", "final": "0-3,7"},
    },
    "linux": {
        "namespaces": [
            {"type": "network", "path": "/run/netns/a"},
            *({"type": kind} for kind in ("pid", "mount", "ipc", "uts", "user", "cgroup", "time")),
        ],
        "uidMappings": MAPPINGS, "gidMappings": MAPPINGS,
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 1}},
        "devices": [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
        "netDevices": {"eth0": {"name": "inside0"}},
        "cgroupsPath": "/berth/box",
        "resources": {
            "devices": [{"allow": False, "type": "c", "major": -1, "minor": 5, "access": "rwm"}],
            "memory": {
                "limit": 1 << 28, "reservation": 1 << 27, "swap": 1 << 29, "kernel": -1, "kernelTCP": -1, "swappiness": 60,
                "disableOOMKiller": False, "useHierarchy": True, "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 1024, "quota": 50000, "burst": 1000, "period": 100000, "realtimeRuntime": 950, "realtimePeriod": 1000,
                "cpus": "0-1", "mems": "0", "idle": 0,
            },
            "pids": {"limit": 100},
            "blockIO": {
                "weight": 500, "leafWeight": 300,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 20}],
                "throttleReadBpsDevice": RATE, "throttleWriteBpsDevice": RATE,
                "throttleReadIOPSDevice": RATE, "throttleWriteIOPSDevice": RATE,
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
            "unified": {"memory.high": "1073741824"},
        },
        "intelRdt": {
            "closID": "class", "schemata": ["L3:0=f"], "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20",
            "enableCMT": True, "enableMBM": True, "enableMonitoring": True,
        },
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/run/agent.sock", "listenerMetadata": "x",
            "syscalls": [{
                "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                "args": [{"index": 1, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}],
            }],
        },
        "rootfsPropagation": "slave", "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "mountLabel": "label",
        "personality": {"domain": "LINUX32", "flags": ["NONE_YET"]},
    },
}  # fmt: skip


def _span(low: int, high: int) -> tuple[list, list]:
    return [low, high], [low - 1, high + 1, str(low), float(low), True]


_NOT_TEXT: list = [1, True, ["x"], {"x": 1}, "a\0b", "\ud800"]
_BIG = 1 << 63

# kind -> values that pass, values that do not
VALUES: dict[f.Kind, tuple[list, list]] = {
    f.TEXT: (["", "x", "é", "\udcff"], _NOT_TEXT),
    f.NAME: (["x"], ["", *_NOT_TEXT]),
    f.ANY_TEXT: (["", "a\0b", "é"], [1, None, ["x"], "\ud800"]),
    f.NOTE_NAME: (["x"], [""]),
    f.PATH: (["/", "/a/../b"], ["", "a", "./a", "/\0", 1, ["/"]]),
    f.PATH_OR_NOTHING: (["", "/a"], ["a", "/\0", 1, {"a": 1}]),
    f.FLAG: ([True, False], [0, 1, "true", [], "x" * 200]),
    f.VERSION: (
        ["1.0.0", "1.0.2-dev", "1.1.0-rc.1", "1.2.0+dev", "1.3.0-rc.1+b-1.5", "1.20.0"],
        ["", "1", "1.0", "1.0.0.0", "2.0.0", "0.5.0", "01.0.0", "1.00.0", "1.0.0-", "1.0.0-a..b", "v1.0.0", "1.0.0 ", "1.0.²", 1],
    ),
    f.VARIABLE: (["A=", "A=b=c", "a.b=c"], ["", "A", "=b", "A=\0", 1, None]),
    f.HOST_NAME: (["", "box", "x" * 64], ["x" * 65, "é" * 33, "a\0", 1]),
    f.CPU_LIST: (["", "0", "0-3,7", "0-15:2/4", "0, 2"], ["x", "3-1", "-1", "1-", "0-1:2", "0-1:3/2", "0-1:0/2", "0:1/2", "²", "9" * 5000, 1]),
    f.DEVICE_NAME: (["eth0", "x" * 15, "a.100"], ["", ".", "..", "a/b", "a:b", "a b", "x" * 16, "a\n", "a\0", "a\x1b"]),
    f.DEVICE_NAME_OR_NOTHING: (["", "eth0"], ["..", "a/b", "x" * 16, 1]),
    f.SYSCTL_NAME: (["net.ipv4.ip_forward", "net/ipv4/ip_forward"], ["", ".", "..", "net..x", "net/../kernel/x", "/net", "net.", "a\0"]),
    f.CGROUP_PATH: (["", "/a/b", "a", "system.slice:berth:x", "/a..b"], ["..", "/a/..", "/../a", "/a\nb", "/a\0", 1]),
    f.CGROUP_FILE: (["memory.high", "hugetlb.1GB.max"], ["", ".", "..", "a/b", "../memory.max", "a\0"]),
    f.RDMA_DEVICE: (["mlx5_1"], ["", "..", "a/b", "a b", "a\nb", "a\0"]),
    f.PAGE_SIZE: (["64KB", "2MB", "1GB"], ["", "MB", "02MB", "2mb", "2 MB", "../2MB", "-2MB", "2TB", "²MB", 2]),
    f.LINE: (["", "L3:0=f"], ["a\nb", "a\0", 1]),
    f.RDT_CLASS: (["", "class"], [".", "..", "a/b", "a\0", 1]),
    f.RDT_MEMORY: (["", "MB:0=20"], ["L3:0=f", "MB:0=1\nL3:0=f", "MB:\0", 1]),
    f.ACCESS: (["", "r", "rwm", "mw"], ["x", "rwx", "r ", 1, ["r"]]),
    f.UINT16: _span(0, 65535),
    f.UINT32: _span(0, 4294967295),
    f.UINT64: _span(0, (1 << 64) - 1),
    f.INT64: _span(-_BIG, _BIG - 1),
    f.INT64_OR_ALL: _span(-1, _BIG - 1),
    f.ID: _span(0, 4294967294),
    f.ID_COUNT: _span(1, 4294967295),
    f.UMASK: _span(0, 511),
    f.RLIMIT: _span(-1, (1 << 64) - 1),
    f.OOM_SCORE: _span(-1000, 1000),
    f.NICE: _span(-20, 19),
    f.REALTIME_PRIORITY: _span(0, 99),
    f.IO_PRIORITY: _span(0, 7),
    f.TIMEOUT: _span(1, (1 << 31) - 1),
    f.NANOSECONDS: _span(0, 999999999),
    f.MAJOR: _span(0, 4095),
    f.MINOR: _span(0, 1048575),
    f.DEVICE_OR_ALL: _span(-1, 4294967295),
    f.SWAPPINESS: _span(0, 100),
    f.IDLE: _span(0, 1),
    f.CPU_PERIOD: ([0, 1000, 1000000], [-1, 1, 999, 1000001, "1000", 1e3, True]),
    f.CPU_QUOTA: ([-1, 0, 1000, _BIG - 1], [1, 999, _BIG, "1000", 1e3, False]),
    f.SECCOMP_ARGUMENT: _span(0, 5),
    f.NAMESPACE: (["pid", "time"], ["net", "PID", "", 1, ["pid"]]),
    f.RLIMIT_NAME: (["RLIMIT_NOFILE"], ["NOFILE", "RLIMIT_X", "rlimit_nofile", "", 7]),
    f.SCHEDULER_POLICY: (["SCHED_OTHER"], ["OTHER", "", 0]),
    f.SCHEDULER_FLAG: (["SCHED_FLAG_RECLAIM"], ["SCHED_FLAG_X", "", 1]),
    f.IO_CLASS: (["IOPRIO_CLASS_RT", "IOPRIO_CLASS_IDLE"], ["IOPRIO_CLASS_NONE", "", 1]),
    f.CLOCK: (["monotonic", "boottime"], ["realtime", "1", ""]),
    f.DEVICE_TYPE: (["c", "b", "u", "p"], ["a", "char", "", 1]),
    f.DEVICE_RULE_TYPE: (["a", "b", "c", ""], ["p", "u", "all", 1, ["c"]]),
    f.PROPAGATION: (["", "slave", "rshared"], ["master", "Slave", 1, ["slave"]]),
    f.MEMORY_MODE: (["MPOL_PREFERRED"], ["BIND", "", 2]),
    f.MEMORY_FLAG: (["MPOL_F_STATIC_NODES"], ["STATIC", "", 1]),
    f.DOMAIN: (["LINUX", "LINUX32"], ["linux", "", 0]),
    f.SECCOMP_ACTION: (["SCMP_ACT_KILL", "SCMP_ACT_NOTIFY"], ["ALLOW", "SCMP_ACT_X", "", 0]),
    f.SECCOMP_OPERATOR: (["SCMP_CMP_EQ"], ["==", "EQ", "", 1]),
    f.SECCOMP_FLAG: (["SECCOMP_FILTER_FLAG_TSYNC"], ["SECCOMP_FILTER_FLAG_NEW_LISTENER", "LOG", 1]),
    f.SECCOMP_ARCH: (["SCMP_ARCH_X86_64", "SCMP_ARCH_RISCV64"], ["x86_64", "SCMP_ARCH_X", "", 1]),
}  # fmt: skip
