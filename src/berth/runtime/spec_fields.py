"""What the runtime knows of `config.json`: every field for Linux, its type, range and words. Tables, no I/O.

Read it from the bottom: `CONFIG` is the whole file, made of the tables above it. A name that ends
in `!` is required. A field that is not here is kept and ignored, as the specification asks; so are
the sections of other platforms (`windows`, `solaris`, `vm`, `zos`, `freebsd`) as a whole. What two
fields may not say together is a rule, from `spec_rules`, and stands beside the table it looks at.

Source: OCI runtime specification 1.0 to 1.3, config.md, config-linux.md, schema/ and specs-go/config.go.
Where the kernel is stricter than the specification, so is the table: a number that no system call
takes is better refused here, by its name, than half-way through a start by an errno.
"""

from berth.runtime import spec_rules as rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.runtime.spec_rules import Problems, Rule

# -- what a table is made of -------------------------------------------------------------------------


class Node:
    """A place in the file: what is `expected` there, in words."""

    __slots__ = ("expected",)
    expected: str

    def check(self, value: object, path: str, found: "Problems") -> None:
        """Reports to `found` what is wrong with `value`, which stands at `path`. Does not change it."""
        raise NotImplementedError


class Kind(Node):
    """A single value: `accepts(value)` says whether it will do."""

    __slots__ = ("accepts",)

    def __init__(self, expected: str, accepts: "Callable[[object], bool]") -> None:
        self.expected = expected
        self.accepts = accepts

    def check(self, value: object, path: str, found: "Problems") -> None:
        if not self.accepts(value):
            found.wrong(path, self.expected, value)


class Object(Node):
    """A JSON object with known fields. Rules see it only if each of its fields is right by itself.

    A field that is null is the same as an absent one, because Go clients write one for the other.
    """

    __slots__ = ("fields", "required", "rules")

    def __init__(self, fields: dict[str, Node], *rules: "Rule") -> None:
        self.expected = "an object"
        self.fields = {name.rstrip("!"): node for name, node in fields.items()}
        self.required = [name[:-1] for name in fields if name[-1] == "!"]
        self.rules = rules

    def check(self, value: object, path: str, found: "Problems") -> None:
        if type(value) is not dict:
            found.wrong(path, self.expected, value)
            return
        before = found.count
        fields = self.fields
        prefix = f"{path}." if path else ""
        for name, item in value.items():
            node = fields.get(name)
            if node is None or item is None:
                continue
            if not isinstance(node, Kind):
                node.check(item, prefix + name, found)
            elif not node.accepts(item):  # asked here, so that no path is made for what is right
                found.wrong(prefix + name, node.expected, item)
        for name in self.required:
            if value.get(name) is None:
                found.missing(prefix + name, fields[name].expected)
        if found.count == before:
            for rule in self.rules:
                rule(value, path, found)


class Array(Node):
    """A JSON array of one kind of item, of which none may be null: nobody downstream expects that.

    filled: an empty one will not do.
    """

    __slots__ = ("filled", "item", "rules")

    def __init__(self, item: Node, *rules: "Rule", filled: bool = False) -> None:
        self.item = item
        self.rules = rules
        self.filled = filled
        self.expected = "an array with at least one entry" if filled else "an array"

    def check(self, value: object, path: str, found: "Problems") -> None:
        if type(value) is not list or (self.filled and not value):
            found.wrong(path, self.expected, value)
            return
        item = self.item
        if item is TEXT and _all_text(value):
            return
        before = found.count
        for index, entry in enumerate(value):
            if not isinstance(item, Kind) or not item.accepts(entry):
                item.check(entry, f"{path}[{index}]", found)
        if found.count == before:
            for rule in self.rules:
                rule(value, path, found)


class Map(Node):
    """A JSON object whose names are chosen by the bundle: `key` says which will do. No value may be null."""

    __slots__ = ("item", "key", "rules")

    def __init__(self, key: Kind, item: Node, *rules: "Rule") -> None:
        self.expected = "an object"
        self.key = key
        self.item = item
        self.rules = rules

    def check(self, value: object, path: str, found: "Problems") -> None:
        if type(value) is not dict:
            found.wrong(path, self.expected, value)
            return
        before = found.count
        for name, entry in value.items():
            if not self.key.accepts(name):
                found.wrong(f"{path}[{rules.show(name)}]", f"{self.key.expected} as the name", name)
            elif not isinstance(self.item, Kind) or not self.item.accepts(entry):
                self.item.check(entry, f"{path}[{rules.show(name)}]", found)
        if found.count == before:
            for rule in self.rules:
                rule(value, path, found)


# -- text ------------------------------------------------------------------------------------------------


def _is_text(value: object) -> bool:
    # NUL ends a string for the kernel, so what was checked would not be what is used. Half of a
    # surrogate pair ("\ud800") is legal JSON and no text at all: no system call could be given it.
    return type(value) is str and "\0" not in value and (value.isascii() or _encodes(value))


def _all_text(values: list) -> bool:
    """Whether all are text, in one go: a seccomp profile has hundreds of names."""
    try:
        return _is_text("".join(values))
    except TypeError:
        return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as os.fsencode in a UTF-8 locale: bytes of a file name pass


def _encodes(value: str) -> bool:
    try:
        _bytes(value)
    except UnicodeEncodeError:
        return False
    return True


def _text(expected: str, fits: "Callable[[str], bool]") -> Kind:
    """Text that fits besides; so each test below may take for granted that it has text before it."""
    return Kind(expected, lambda value: type(value) is str and _is_text(value) and fits(value))


def _or_nothing(kind: Kind) -> Kind:
    """Go's empty string for an absent one."""
    return Kind(kind.expected, lambda value: value == "" or kind.accepts(value))


def _is_version(text: str) -> bool:
    """SemVer 2.0.0 with major 1: `1.0.2`, `1.0.2-dev`, `1.3.0-rc.1+build.5`."""
    core, plus, build = text.partition("+")
    core, dash, pre = core.partition("-")
    parts = core.split(".")
    numbers = len(parts) == 3 and all(part.isdigit() and (part == "0" or part[0] != "0") for part in parts)
    marks = ((dash, pre), (plus, build))
    return text.isascii() and numbers and parts[0] == "1" and all(not mark or _are_identifiers(rest) for mark, rest in marks)


def _are_identifiers(text: str) -> bool:
    return all(part and part.replace("-", "a").isalnum() for part in text.split("."))


def _is_host_name(text: str) -> bool:
    return len(_bytes(text)) <= 64  # __NEW_UTS_LEN


def _is_cpu_list(text: str) -> bool:
    """The kernel's list format (Documentation/admin-guide/kernel-parameters): `0-3,7`, `0-15:2/4`."""
    return text.isascii() and (not text or all(_is_cpu_range(part.strip(" ")) for part in text.split(",")))


def _is_cpu_range(text: str) -> bool:
    text, colon, group = text.partition(":")
    first, dash, last = text.partition("-")
    used, slash, size = group.partition("/")
    numbers = [first, *([last] if dash else []), *([used, size] if colon else [])]
    if not all(number.isdigit() and len(number) <= 6 for number in numbers) or (colon and not (dash and slash)):
        return False
    return (not dash or int(first) <= int(last)) and (not colon or 0 < int(used) <= int(size))


def _is_device_name(text: str) -> bool:
    # net/core/dev.c, dev_valid_name(): shorter than IFNAMSIZ, not a directory, no '/', ':' or space. A
    # control character could forge a line of a cgroup file.
    short = len(_bytes(text)) < 16
    return short and text not in ("", ".", "..") and not any(c in "/:" or c.isspace() or c < " " for c in text)


def _is_file_name(text: str) -> bool:
    return text not in ("", ".", "..") and "/" not in text


def _is_page_size(text: str) -> bool:
    # It becomes part of a file's name (hugetlb.2MB.max), so nothing else may be in it.
    return text.isascii() and text[-2:] in ("KB", "MB", "GB") and text[:-2].isdigit() and text[0] != "0"


def _number(low: int, high: int, expected: str = "") -> Kind:
    # type() and not isinstance(): true is an int to Python.
    return Kind(expected or f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _one_of(names: str, words: str = "") -> Kind:
    known = frozenset(names.split())
    return Kind(words or f"one of {', '.join(names.split())}", lambda value: type(value) is str and value in known)


TEXT = Kind("a string without NUL", _is_text)
NAME = _text("a string that is not empty and has no NUL", bool)
LINE = _text("a string without NUL and line breaks", lambda text: "\n" not in text)
ANY_TEXT = Kind("a string", lambda value: type(value) is str and (value.isascii() or _encodes(value)))
NOTE_NAME = Kind("a string that is not empty", lambda value: ANY_TEXT.accepts(value) and value != "")
FLAG = Kind("true or false", lambda value: type(value) is bool)
PATH = _text("an absolute path", lambda text: text[:1] == "/")
PATH_OR_NOTHING = _or_nothing(PATH)
VERSION = _text("a version 1 of the specification, such as 1.2.0", _is_version)
# environ(7). runc refuses an entry without "=" or with an empty name, so no client depends on one.
VARIABLE = _text("NAME=VALUE without NUL", lambda text: text.find("=") > 0)
HOST_NAME = _text("a name of at most 64 bytes without NUL", _is_host_name)
CPU_LIST = _text("a list of numbers and ranges such as 0-3,7", _is_cpu_list)
DEVICE_NAME = _text("a network device's name: 1 to 15 bytes without '/', ':' and spaces", _is_device_name)
DEVICE_NAME_OR_NOTHING = _or_nothing(DEVICE_NAME)
# Both separators at once: an empty part is what '..' turns into on its way to a path below /proc/sys.
SYSCTL_NAME = _text("a sysctl's name such as net.ipv4.ip_forward", lambda text: all(text.replace("/", ".").split(".")))
CGROUP_PATH = _text("a path without '..' and line breaks", lambda text: ".." not in text.split("/") and "\n" not in text)
CGROUP_FILE = _text("a file name such as memory.high", _is_file_name)
RDMA_DEVICE = _text(
    "a device's name without '/' and spaces", lambda text: _is_file_name(text) and not any(map(str.isspace, text))
)
PAGE_SIZE = _text("a page size such as 64KB, 2MB or 1GB", _is_page_size)
RDT_CLASS = _or_nothing(_text("a directory's name", _is_file_name))
RDT_MEMORY = _or_nothing(_text("one line that begins with MB:", lambda text: text[:3] == "MB:" and "\n" not in text))
ACCESS = _text("some of the letters r, w and m", lambda text: not text.strip("rwm"))

# -- numbers, as wide as their Go types -----------------------------------------------------------------

UINT16 = _number(0, (1 << 16) - 1)
UINT32 = _number(0, (1 << 32) - 1)
UINT64 = _number(0, (1 << 64) - 1)
INT64 = _number(-(1 << 63), (1 << 63) - 1)
INT64_OR_ALL = _number(-1, (1 << 63) - 1, f"a number from 0 to {(1 << 63) - 1}, or -1 for no limit")
# To setresuid(2) and chown(2), -1 (which is 4294967295) means "as it is", and that would be 0.
ID = _number(0, (1 << 32) - 2, f"an id from 0 to {(1 << 32) - 2}")
ID_COUNT = _number(1, (1 << 32) - 1)
UMASK = _number(0, 0o777, "a mask from 0 to 511 (0777)")
RLIMIT = _number(-1, (1 << 64) - 1, f"a number from 0 to {(1 << 64) - 1}, or -1 for no limit")
OOM_SCORE = _number(-1000, 1000)
NICE = _number(-20, 19)
REALTIME_PRIORITY = _number(0, 99)
IO_PRIORITY = _number(0, 7)
# Longer than anybody waits, and short enough for any clock to be told.
TIMEOUT = _number(1, (1 << 31) - 1, f"seconds from 1 to {(1 << 31) - 1}")
NANOSECONDS = _number(0, 999_999_999)
# 12 and 20 bits is all that the kernel keeps of a device's numbers (kdev_t.h): more would be another device.
MAJOR, MINOR = _number(0, (1 << 12) - 1), _number(0, (1 << 20) - 1)
DEVICE_OR_ALL = _number(-1, (1 << 32) - 1, f"a number from 0 to {(1 << 32) - 1}, or -1 for all")
SWAPPINESS = _number(0, 100)
IDLE = _number(0, 1)
# kernel/sched/core.c, tg_set_cfs_bandwidth(): 1 ms to 1 s.
CPU_PERIOD = Kind(
    "microseconds from 1000 to 1000000, or 0 for the default",
    lambda value: type(value) is int and (value == 0 or 1000 <= value <= 1_000_000),
)
CPU_QUOTA = Kind(
    "microseconds of at least 1000, -1 for no limit, or 0 for the default",
    lambda value: type(value) is int and (-(1 << 63) <= value <= 0 or 1000 <= value < 1 << 63),
)
SECCOMP_ARGUMENT = _number(0, 5)

# -- names out of a list -------------------------------------------------------------------------------------

NAMESPACE = _one_of("pid network mount ipc uts user cgroup time")
RLIMIT_NAME = _one_of(
    "RLIMIT_AS RLIMIT_CORE RLIMIT_CPU RLIMIT_DATA RLIMIT_FSIZE RLIMIT_LOCKS RLIMIT_MEMLOCK RLIMIT_MSGQUEUE RLIMIT_NICE"
    " RLIMIT_NOFILE RLIMIT_NPROC RLIMIT_RSS RLIMIT_RTPRIO RLIMIT_RTTIME RLIMIT_SIGPENDING RLIMIT_STACK",
    "a limit of setrlimit(2) such as RLIMIT_NOFILE",
)
SCHEDULER_POLICY = _one_of("SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE SCHED_DEADLINE")
SCHEDULER_FLAG = _one_of(
    "SCHED_FLAG_RESET_ON_FORK SCHED_FLAG_RECLAIM SCHED_FLAG_DL_OVERRUN SCHED_FLAG_KEEP_POLICY SCHED_FLAG_KEEP_PARAMS"
    " SCHED_FLAG_UTIL_CLAMP_MIN SCHED_FLAG_UTIL_CLAMP_MAX"
)
IO_CLASS = _one_of("IOPRIO_CLASS_RT IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE")
CLOCK = _one_of("monotonic boottime")
DEVICE_TYPE = _one_of("c b u p")
DEVICE_RULE_TYPE = _or_nothing(_one_of("a b c"))
# The recursive ones are not in the specification; runc and crun take them.
PROPAGATION = _or_nothing(_one_of("private rprivate slave rslave shared rshared unbindable runbindable"))
MEMORY_MODE = _one_of(
    "MPOL_DEFAULT MPOL_BIND MPOL_INTERLEAVE MPOL_WEIGHTED_INTERLEAVE MPOL_PREFERRED MPOL_PREFERRED_MANY MPOL_LOCAL"
)
MEMORY_FLAG = _one_of("MPOL_F_NUMA_BALANCING MPOL_F_RELATIVE_NODES MPOL_F_STATIC_NODES")
DOMAIN = _one_of("LINUX LINUX32")
SECCOMP_ACTION = _one_of(
    "SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_TRAP SCMP_ACT_ERRNO SCMP_ACT_TRACE"
    " SCMP_ACT_ALLOW SCMP_ACT_LOG SCMP_ACT_NOTIFY"
)
SECCOMP_OPERATOR = _one_of("SCMP_CMP_NE SCMP_CMP_LT SCMP_CMP_LE SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT SCMP_CMP_MASKED_EQ")
SECCOMP_FLAG = _one_of(
    "SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
)
SECCOMP_ARCH = _one_of(
    " ".join(
        f"SCMP_ARCH_{name}"
        for name in "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE"
        " S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB".split()
    ),
    "an architecture of the specification such as SCMP_ARCH_X86_64",
)

# -- config.md#process -------------------------------------------------------------------------------------------

CAPABILITIES = Object({
    # Names are not looked up here: one that the kernel lacks is a warning, not an error (config.md).
    "bounding": Array(TEXT), "effective": Array(TEXT), "inheritable": Array(TEXT),
    "permitted": Array(TEXT), "ambient": Array(TEXT),
})  # fmt: skip

PROCESS = Object({
    "args!": Array(TEXT, filled=True),
    "cwd!": PATH,
    "env": Array(VARIABLE),
    "terminal": FLAG,
    "consoleSize": Object({"height!": UINT16, "width!": UINT16}),  # struct winsize has 16 bits for each
    "user": Object({"uid": ID, "gid": ID, "umask": UMASK, "additionalGids": Array(ID)}),
    "capabilities": CAPABILITIES,
    "rlimits": Array(
        Object({"type!": RLIMIT_NAME, "soft!": RLIMIT, "hard!": RLIMIT}, rules.soft_within_hard),
        rules.no_two_of("type"),
    ),
    "noNewPrivileges": FLAG,
    "oomScoreAdj": OOM_SCORE,
    "apparmorProfile": TEXT,
    "selinuxLabel": TEXT,
    "scheduler": Object(
        {
            "policy!": SCHEDULER_POLICY, "nice": NICE, "priority": REALTIME_PRIORITY, "flags": Array(SCHEDULER_FLAG),
            "runtime": UINT64, "deadline": UINT64, "period": UINT64,
        },
        rules.scheduler_fits_policy,
    ),
    "ioPriority": Object({"class!": IO_CLASS, "priority": IO_PRIORITY}),
    "execCPUAffinity": Object({"initial": CPU_LIST, "final": CPU_LIST}),
})  # fmt: skip

# -- config-linux.md ---------------------------------------------------------------------------------------------

ID_MAPPINGS = Array(
    Object({"containerID!": UINT32, "hostID!": UINT32, "size!": ID_COUNT}, rules.mapping_ends_within_ids),
    rules.mappings_are_apart,
)

BLOCK_RATES = Array(Object({"major!": MAJOR, "minor!": MINOR, "rate!": UINT64}))

RESOURCES = Object({
    "devices": Array(Object({
        "allow!": FLAG, "type": DEVICE_RULE_TYPE, "major": DEVICE_OR_ALL, "minor": DEVICE_OR_ALL, "access": ACCESS,
    })),
    "memory": Object(
        {
            "limit": INT64_OR_ALL, "reservation": INT64_OR_ALL, "swap": INT64_OR_ALL,
            "kernel": INT64_OR_ALL, "kernelTCP": INT64_OR_ALL, "swappiness": SWAPPINESS,
            "disableOOMKiller": FLAG, "useHierarchy": FLAG, "checkBeforeUpdate": FLAG,
        },
        rules.swap_holds_memory,
    ),
    "cpu": Object(
        {
            "shares": UINT64, "quota": CPU_QUOTA, "burst": UINT64, "period": CPU_PERIOD,
            "realtimeRuntime": INT64, "realtimePeriod": UINT64, "cpus": CPU_LIST, "mems": CPU_LIST, "idle": IDLE,
        },
        rules.burst_within_quota, rules.runtime_within_period,
    ),
    "pids": Object({"limit": INT64_OR_ALL}),  # the text requires it; without it nothing is asked for, which is no harm
    "blockIO": Object({
        "weight": UINT16, "leafWeight": UINT16,
        "weightDevice": Array(Object(
            {"major!": MAJOR, "minor!": MINOR, "weight": UINT16, "leafWeight": UINT16},
            rules.one_of_both("weight", "leafWeight"),
        )),
        "throttleReadBpsDevice": BLOCK_RATES, "throttleWriteBpsDevice": BLOCK_RATES,
        "throttleReadIOPSDevice": BLOCK_RATES, "throttleWriteIOPSDevice": BLOCK_RATES,
    }),
    "hugepageLimits": Array(Object({"pageSize!": PAGE_SIZE, "limit!": UINT64}), rules.no_two_of("pageSize")),
    "network": Object({"classID": UINT32, "priorities": Array(Object({"name!": DEVICE_NAME, "priority!": UINT32}))}),
    "rdma": Map(
        RDMA_DEVICE,
        Object({"hcaHandles": UINT32, "hcaObjects": UINT32}, rules.one_of_both("hcaHandles", "hcaObjects")),
    ),
    "unified": Map(CGROUP_FILE, TEXT),
})  # fmt: skip

SECCOMP = Object(
    {
        "defaultAction!": SECCOMP_ACTION, "defaultErrnoRet": UINT16, "architectures": Array(SECCOMP_ARCH),
        "flags": Array(SECCOMP_FLAG), "listenerPath": PATH_OR_NOTHING, "listenerMetadata": ANY_TEXT,
        "syscalls": Array(Object(
            {
                "names!": Array(TEXT, filled=True), "action!": SECCOMP_ACTION, "errnoRet": UINT16,
                "args": Array(Object({
                    "index!": SECCOMP_ARGUMENT, "value!": UINT64, "valueTwo": UINT64, "op!": SECCOMP_OPERATOR,
                })),
            },
            rules.errno_fits("action", "errnoRet"),
        )),
    },
    rules.errno_fits("defaultAction", "defaultErrnoRet"), rules.metadata_has_listener,
)  # fmt: skip

LINUX = Object({
    "namespaces": Array(Object({"type!": NAMESPACE, "path": PATH_OR_NOTHING}), rules.no_two_of("type")),
    "uidMappings": ID_MAPPINGS,
    "gidMappings": ID_MAPPINGS,
    "timeOffsets": Map(CLOCK, Object({"secs": INT64, "nanosecs": NANOSECONDS})),
    "devices": Array(Object(
        {
            "type!": DEVICE_TYPE, "path!": PATH, "major": MAJOR, "minor": MINOR,
            "fileMode": UINT32, "uid": ID, "gid": ID,
        },
        rules.device_has_numbers,
    )),
    "netDevices": Map(DEVICE_NAME, Object({"name": DEVICE_NAME_OR_NOTHING}), rules.net_names_are_apart),
    "cgroupsPath": CGROUP_PATH,
    "resources": RESOURCES,
    "intelRdt": Object({
        "closID": RDT_CLASS, "schemata": Array(LINE), "l3CacheSchema": TEXT, "memBwSchema": RDT_MEMORY,
        "enableCMT": FLAG, "enableMBM": FLAG, "enableMonitoring": FLAG,
    }),
    "memoryPolicy": Object({"mode!": MEMORY_MODE, "nodes": CPU_LIST, "flags": Array(MEMORY_FLAG)}, rules.nodes_fit_mode),
    "sysctl": Map(SYSCTL_NAME, TEXT),
    "seccomp": SECCOMP,
    "rootfsPropagation": PROPAGATION,
    "maskedPaths": Array(PATH),
    "readonlyPaths": Array(PATH),
    "mountLabel": TEXT,
    "personality": Object({"domain!": DOMAIN, "flags": Array(TEXT)}),
})  # fmt: skip

# -- config.md ---------------------------------------------------------------------------------------------------

HOOKS = Array(Object({"path!": PATH, "args": Array(TEXT), "env": Array(VARIABLE), "timeout": TIMEOUT}))

CONFIG = Object({
    "ociVersion!": VERSION,
    "process!": PROCESS,
    "root!": Object({"path!": NAME, "readonly": FLAG}),
    "mounts": Array(Object(
        {
            "destination!": PATH, "type": TEXT, "source": TEXT, "options": Array(TEXT),
            "uidMappings": ID_MAPPINGS, "gidMappings": ID_MAPPINGS,
        },
        rules.both_mappings,
    )),
    "hostname": HOST_NAME,
    "domainname": HOST_NAME,
    "hooks": Object({
        "prestart": HOOKS, "createRuntime": HOOKS, "createContainer": HOOKS,
        "startContainer": HOOKS, "poststart": HOOKS, "poststop": HOOKS,
    }),
    "annotations": Map(NOTE_NAME, ANY_TEXT),
    "linux": LINUX,
})  # fmt: skip
