"""Decides: an OCI specification -> what the monitor and init will do, in order. Pure, no I/O.

The monitor (parent) acts on `Plan`'s own fields: which namespaces to make or join, id maps, cgroup.
Init (child) executes `Plan.operations` one after the other and then becomes `Plan.process`.
An operation is data, a name and arguments, so a plan can be printed, compared and tested without a
kernel; `runtime.init` holds the function for each name.
"""

from berth.errors import InvalidParameter, InvalidSpec
from berth.linux import capabilities, libc, mount

CLONE_FLAGS = {
    "pid": libc.CLONE_NEWPID, "network": libc.CLONE_NEWNET, "mount": libc.CLONE_NEWNS, "ipc": libc.CLONE_NEWIPC,
    "uts": libc.CLONE_NEWUTS, "user": libc.CLONE_NEWUSER, "cgroup": libc.CLONE_NEWCGROUP, "time": libc.CLONE_NEWTIME,
}  # fmt: skip
NAMESPACE_KINDS = tuple(CLONE_FLAGS)

# config-linux.md#default-devices: path, major, minor
_DEFAULT_DEVICES = (
    ("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7),
    ("/dev/random", 1, 8), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0),
)  # fmt: skip
# What the cgroup lets every container do besides what its rules say: make any node (opening it is
# another matter), use the default devices, terminals and their multiplexer. The same set as runc's.
_DEFAULT_DEVICE_RULES: list[dict] = [
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for _, major, minor in (*_DEFAULT_DEVICES, ("/dev/ptmx", 5, 2), ("/dev/console", 5, 1), ("/dev/pts/*", 136, -1))
    ),
]
# config-linux.md#dev-symbolic-links
_DEFAULT_LINKS = (
    ("/proc/self/fd", "/dev/fd"), ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"), ("/proc/self/fd/2", "/dev/stderr"), ("pts/ptmx", "/dev/ptmx"),
)  # fmt: skip
# asm-generic/resource.h; the same on every architecture berth knows
_RLIMITS = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()
    )
}
# Operations of runtime.mounts, which a start imports only for them.
_RARE = frozenset(("attach_idmapped", "change_mount", "remount", "require_selinux", "set_label", "mount_copied"))
# Mounts that take no SELinux label: labelled by the policy, or (mqueue) afterwards.
_UNLABELLED = ("proc", "sysfs", "mqueue", "cgroup", "cgroup2")
# Sysctls whose value belongs to a namespace: any other would change the host.
_SYSCTLS = (
    ("kernel.msg", "ipc"), ("kernel.sem", "ipc"), ("kernel.shm", "ipc"), ("fs.mqueue.", "ipc"),
    ("net.", "network"), ("kernel.domainname", "uts"), ("kernel.hostname", "uts"),
)  # fmt: skip

LANDLOCK_ANNOTATION = "io.berth.landlock-scope-abstract-sockets"
# crun's, and what `podman run --group-add keep-groups` sets.
KEEP_GROUPS_ANNOTATION = "run.oci.keep_original_groups"


class Operation:
    """One step of init: `name` is a function of runtime.init, `arguments` are its plain values."""

    __slots__ = ("arguments", "name")

    def __init__(self, name: str, *arguments: object) -> None:
        self.name = name
        self.arguments = arguments

    def describe(self) -> str:
        """The step as a person reads it in a trace."""
        return f"{self.name}({', '.join(map(repr, self.arguments))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operation) and (self.name, self.arguments) == (other.name, other.arguments)

    def __hash__(self) -> int:
        return hash((self.name, self.arguments))

    __repr__ = describe


class Process:
    """What init turns into. Masks are capability bits, used only if limits_capabilities; ids are those inside the container."""

    __slots__ = (
        "additional_gids", "affinity", "ambient", "apparmor_profile", "args", "bounding", "console_size", "cwd", "effective", "env",
        "gid", "inheritable", "io_priority", "keeps_groups", "landlock", "limits_capabilities", "memory_policy", "no_new_privileges",
        "oom_score_adj", "permitted", "personality", "rlimits", "scheduler", "seccomp", "selinux_label", "terminal", "uid", "umask",
    )  # fmt: skip

    def __init__(self, process: dict, linux: dict, annotations: dict) -> None:
        user = process.get("user") or {}
        self.args: list[str] = process["args"]
        self.env: list[str] = process.get("env") or []
        self.cwd: str = process["cwd"]
        self.terminal: bool = bool(process.get("terminal"))
        size = process.get("consoleSize") or {}
        self.console_size = (size.get("height") or 0, size.get("width") or 0)
        self.uid: int = user.get("uid") or 0
        self.gid: int = user.get("gid") or 0
        self.umask: int | None = user.get("umask")
        self.additional_gids: list[int] = user.get("additionalGids") or []
        self.no_new_privileges = bool(process.get("noNewPrivileges"))
        self.oom_score_adj: int | None = process.get("oomScoreAdj")
        self.apparmor_profile: str = process.get("apparmorProfile") or ""
        self.selinux_label: str = process.get("selinuxLabel") or ""
        sets: dict | None = process.get("capabilities")
        self.limits_capabilities = sets is not None
        self.bounding, self.effective, self.inheritable, self.permitted, self.ambient = (
            _capability_set(sets or {}, name) for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
        )
        self.rlimits = [_rlimit(index, limit) for index, limit in enumerate(process.get("rlimits") or [])]
        self.seccomp: dict | None = linux.get("seccomp")
        self.personality = _personality(linux.get("personality") or {})
        self.scheduler = b""
        self.io_priority: int | None = None
        self.affinity: tuple[set[int], set[int]] | None = None
        self.memory_policy: tuple[int, bytes] | None = None
        if process.get("scheduler") or process.get("ioPriority") or process.get("execCPUAffinity") or linux.get("memoryPolicy"):
            self._schedule(process, linux)
        self.landlock = annotations.get(LANDLOCK_ANNOTATION) == "true"
        self.keeps_groups = annotations.get(KEEP_GROUPS_ANNOTATION) == "1"

    def _schedule(self, process: dict, linux: dict) -> None:
        from berth.runtime import schedule  # for the few that ask for it

        if process.get("scheduler"):
            self.scheduler = schedule.scheduler(process["scheduler"])
        if process.get("ioPriority"):
            self.io_priority = schedule.io_priority(process["ioPriority"])
        if process.get("execCPUAffinity"):
            self.affinity = schedule.affinity(process["execCPUAffinity"])
        if linux.get("memoryPolicy"):
            self.memory_policy = schedule.memory_policy(linux["memoryPolicy"])

    @property
    def is_scheduled(self) -> bool:
        """Whether the parent has something to set once the process has a pid."""
        return bool(self.scheduler) or self.io_priority is not None


class Plan:
    """clone_flags: namespaces to make; join: (flag, path) of those to enter; the rest as OCI names it."""

    __slots__ = (
        "cgroup_path", "clone_flags", "gid_mappings", "hooks", "idmapped", "join", "must_differ", "net_devices", "new_cgroup_namespace", "new_time_namespace",
        "operations", "process", "rare", "resources", "root_path", "root_propagation", "time_offsets", "uid_mappings",
    )  # fmt: skip

    def __init__(self, spec: dict, bundle: str) -> None:
        linux = spec.get("linux") or {}
        root = spec["root"]["path"]
        self.root_path = root if root.startswith("/") else f"{bundle}/{root}"
        namespaces = {ns["type"]: ns.get("path") or "" for ns in linux.get("namespaces") or []}
        if "mount" not in namespaces:
            raise InvalidSpec("linux.namespaces: has no 'mount'; without one the host's mounts would be changed")
        flags = [CLONE_FLAGS[kind] for kind, path in namespaces.items() if not path]
        # Both of these are made later, by unshare: a cgroup namespace takes the cgroup one is in by
        # then as its root, and clone(2) has no bit left for the time namespace.
        self.new_cgroup_namespace = libc.CLONE_NEWCGROUP in flags
        self.new_time_namespace = libc.CLONE_NEWTIME in flags
        self.clone_flags = sum(flags) & ~(libc.CLONE_NEWCGROUP | libc.CLONE_NEWTIME)
        self.join = [(CLONE_FLAGS[kind], path) for kind, path in namespaces.items() if path]
        self.uid_mappings: list[dict] = linux.get("uidMappings") or []
        self.gid_mappings: list[dict] = linux.get("gidMappings") or []
        if self.clone_flags & libc.CLONE_NEWUSER and not (self.uid_mappings and self.gid_mappings):
            raise InvalidSpec("linux.uidMappings: a new user namespace needs uidMappings and gidMappings")
        self.net_devices: dict[str, dict] = linux.get("netDevices") or {}
        self.time_offsets: dict = linux.get("timeOffsets") or {}
        self.cgroup_path: str = linux.get("cgroupsPath") or ""
        self.resources: dict = linux.get("resources") or {}
        if self.resources.get("devices"):
            self.resources = {**self.resources, "devices": self.resources["devices"] + _DEFAULT_DEVICE_RULES}
        self.process = Process(spec["process"], linux, spec.get("annotations") or {})
        self.hooks: dict[str, list[dict]] = {point: found for point, found in (spec.get("hooks") or {}).items() if found}
        # Of namespaces that are joined: what is set in them must not be set in the runtime's own.
        self.must_differ: dict[int, str] = {}
        if linux.get("sysctl"):
            needed = {_sysctl_namespace(name) or "" for name in linux["sysctl"]}
            self.must_differ = {CLONE_FLAGS[kind]: "linux.sysctl" for kind in needed if kind}
        if spec.get("hostname") or spec.get("domainname"):
            self.must_differ[libc.CLONE_NEWUTS] = "hostname" if spec.get("hostname") else "domainname"
        self.idmapped: list[IdMapped] = []
        self.operations = tuple(_operations(spec, linux, namespaces, bundle, self))
        self.rare = any(operation.name in _RARE for operation in self.operations)

    @property
    def user_namespace(self) -> bool:
        """Whether the container is in another user namespace than its runtime, a new one or one by path."""
        return bool(self.clone_flags & libc.CLONE_NEWUSER) or any(flag == libc.CLONE_NEWUSER for flag, _ in self.join)

    def describe(self) -> str:
        """The whole plan, one operation a line."""
        return "\n".join(operation.describe() for operation in self.operations)


def _operations(spec: dict, linux: dict, namespaces: dict[str, str], bundle: str, plan: Plan) -> list[Operation]:
    in_user_namespace = plan.user_namespace
    found = []
    if label := linux.get("mountLabel"):
        if '"' in label:
            raise InvalidSpec(f"linux.mountLabel: {label!r} is no label: it has a quotation mark")
        found.append(Operation("require_selinux", label))
    found += [Operation("prepare_root", plan.root_path, _root_propagation(linux))]
    for index, entry in enumerate(spec.get("mounts") or []):
        if entry.get("type") in ("cgroup", "cgroup2"):
            # A v2 mount shows the tree from the namespace's root, so we must be there.
            found.append(Operation("enter_cgroup", plan.new_cgroup_namespace))
        found += _mounts(index, entry, linux, bundle, plan)
        if plan.clone_flags & libc.CLONE_NEWUSER:
            _check_ids_of_mount(index, entry, plan)
    found += _devices(linux, in_user_namespace)
    if plan.process.terminal:
        found.append(Operation("open_console"))
    if plan.clone_flags & libc.CLONE_NEWNET:
        found.append(Operation("raise_loopback"))
    found += [Operation("write_sysctl", name, value) for name, value in _sysctls(linux, namespaces)]
    # A name can only be set in a namespace that is the container's: with the host's it would be the host's.
    for key, call in (("hostname", "set_hostname"), ("domainname", "set_domainname")):
        if spec.get(key):
            if "uts" not in namespaces:
                raise InvalidSpec(f"{key}: cannot be set without a uts namespace")
            found.append(Operation(call, spec[key]))
    if any(point in plan.hooks for point in ("prestart", "createRuntime", "createContainer")):
        found.append(Operation("enter_cgroup", plan.new_cgroup_namespace))  # hooks look at /proc/PID/cgroup
        found.append(Operation("run_create_hooks"))
    found.append(Operation("pivot"))
    found += [Operation("make_readonly", path) for path in linux.get("readonlyPaths") or []]
    found += [Operation("mask", path) for path in linux.get("maskedPaths") or []]
    propagation = linux.get("rootfsPropagation")
    if propagation and mount.PROPAGATION[propagation] & (mount.MS_SHARED | mount.MS_UNBINDABLE):
        found.append(Operation("set_root_propagation", mount.PROPAGATION[propagation]))
    if spec["root"].get("readonly"):
        found.append(Operation("make_root_readonly"))
    # As late as can be: systemd, who may have to be asked for the group, takes its time.
    found.append(Operation("enter_cgroup", plan.new_cgroup_namespace))
    return found


def _root_propagation(linux: dict) -> int:
    name = linux.get("rootfsPropagation") or "rslave"
    if name not in mount.PROPAGATION:
        raise InvalidSpec(f"linux.rootfsPropagation: {name!r} is not one of {', '.join(mount.PROPAGATION)}")
    # Until the old root is gone nothing may flow back to the host, so "shared" starts as "slave"; and what
    # is unbindable cannot become the container's root, so that starts as "private".
    start = {mount.MS_SHARED: mount.MS_SLAVE, mount.MS_UNBINDABLE: mount.MS_PRIVATE}
    kind = mount.PROPAGATION[name] & ~mount.MS_REC
    return start.get(kind, kind) | mount.MS_REC


def _mounts(index: int, entry: dict, linux: dict, bundle: str, plan: Plan) -> list[Operation]:
    """What one entry of `mounts` takes."""
    options = mount.parse_options(entry.get("options") or [])
    destination = entry["destination"]
    bind = entry.get("type") == "bind" or bool(options.flags & mount.MS_BIND)
    if options.flags & mount.MS_REMOUNT:
        flags = options.flags & ~mount.MS_REC | (mount.MS_BIND if bind else 0)
        found = [Operation("remount", destination, flags, options.cleared, tuple(options.data))]
    elif bind:
        return [_bind(index, entry, options, linux, bundle, plan)]
    elif options.idmap or entry.get("uidMappings"):
        raise InvalidSpec(f"mounts[{index}]: only a bind mount can be idmapped; {destination} is none")
    else:
        found = _new_mount(index, entry, options, linux.get("mountLabel") or "")
    if options.recursive_set or options.recursive_clear:
        found.append(Operation("change_mount", destination, options.recursive_set, options.recursive_clear))
    if options.propagation:
        found.append(Operation("set_mount_propagation", destination, options.propagation))
    return found


def _new_mount(index: int, entry: dict, options: mount.Options, label: str) -> list[Operation]:
    fstype, destination = entry.get("type") or "", entry["destination"]
    if fstype in ("cgroup", "cgroup2"):
        return [Operation("mount_cgroup", destination, options.flags)]
    if not fstype:
        raise InvalidSpec(f"mounts[{index}].type: is missing, and the mount is not a bind mount")
    data = list(options.data)
    if label and fstype not in _UNLABELLED:
        # In quotes, as the categories of a label have commas (security/selinux/hooks.c).
        data.append(f'context="{label}"')
    keep_mode = fstype == "tmpfs" and not any(option.startswith("mode=") for option in data)
    name = "mount_copied" if options.copy_up and fstype == "tmpfs" else "mount_filesystem"
    found = [Operation(name, fstype, entry.get("source") or fstype, destination, options.flags, tuple(data), keep_mode)]
    if label and fstype == "mqueue":
        found.append(Operation("set_label", destination, label))
    return found


def _bind(index: int, entry: dict, options: mount.Options, linux: dict, bundle: str, plan: Plan) -> Operation:
    source, destination = entry.get("source") or "", entry["destination"]
    if not source:
        raise InvalidSpec(f"mounts[{index}].source: a bind mount needs one")
    if not source.startswith("/"):
        source = f"{bundle}/{source}"  # config.md#mounts: relative to the bundle
    recursive = bool(options.flags & mount.MS_REC)
    changes = (*mount.attribute_changes(options), options.recursive_set, options.recursive_clear, options.propagation)
    if not (options.idmap or entry.get("uidMappings")):
        return Operation("bind_mount", source, destination, recursive, changes)
    plan.idmapped.append(IdMapped(f"mounts[{index}]", source, recursive, changes, entry, options, linux))
    return Operation("attach_idmapped", len(plan.idmapped) - 1, destination)


class IdMapped:
    """An idmapped bind mount: `at` is its JSON path, `whole_tree` says whether mounts below it are mapped too.

    The maps say which id of the file system (containerID) is seen as which one of the host (hostID);
    `namespace` is the path of a user namespace whose own are taken, or ''.
    """

    __slots__ = ("at", "changes", "gid_mappings", "namespace", "recursive", "source", "uid_mappings", "whole_tree")

    def __init__(
        self, at: str, source: str, recursive: bool, changes: tuple[int, int, int, int, int], entry: dict,
        options: mount.Options, linux: dict,
    ) -> None:  # fmt: skip
        self.at = at
        self.source = source
        self.recursive = recursive
        self.changes = changes
        self.whole_tree = options.idmap == "ridmap"
        self.namespace = ""
        self.uid_mappings: list[dict] = entry.get("uidMappings") or []
        self.gid_mappings: list[dict] = entry.get("gidMappings") or []
        if options.maps:
            self._take(options.maps, linux)
        if not self.uid_mappings:  # config.md#mounts: then the container's own are meant
            self.uid_mappings = linux.get("uidMappings") or []
            self.gid_mappings = linux.get("gidMappings") or []
            self.namespace = next((n.get("path") or "" for n in linux.get("namespaces") or [] if n["type"] == "user"), "")
        if not (self.namespace or (self.uid_mappings and self.gid_mappings)):
            raise InvalidSpec(f"{at}: option {options.idmap}: there are no maps: give it uidMappings and gidMappings, or the container a user namespace")

    def _take(self, maps: str, linux: dict) -> None:
        """crun(1): `uids=0-1000-1#1-2000-9;gids=...`, each FIRST-HOST-SIZE; `@` makes HOST an id of the container."""
        for part in maps.split(";"):
            name, _, text = part.partition("=")
            if name not in ("uids", "gids"):
                raise InvalidSpec(f"{self.at}: option idmap: {part!r} is not uids=FIRST-HOST-SIZE or gids=FIRST-HOST-SIZE")
            own = linux.get(f"{name[:3]}Mappings") or []
            found = [self._range(one, own) for one in text.split("#")]
            if name == "uids":
                self.uid_mappings = found
            else:
                self.gid_mappings = found
        if not (self.uid_mappings and self.gid_mappings):
            raise InvalidSpec(f"{self.at}: option idmap: expected both uids= and gids=, got {maps!r}")

    def _range(self, text: str, own: list[dict]) -> dict:
        numbers = text.removeprefix("@").split("-")
        if len(numbers) != 3 or not all(number.isdigit() and len(number) < 11 for number in numbers) or not int(numbers[2]):
            raise InvalidSpec(f"{self.at}: option idmap: {text!r} is not FIRST-HOST-SIZE, three numbers")
        first, host, size = map(int, numbers)
        if text.startswith("@"):
            inside = next((m for m in own if m["containerID"] <= host and host + size <= m["containerID"] + m["size"]), None)
            if inside is None:
                raise InvalidSpec(f"{self.at}: option idmap: {text!r}: the container's own maps have no such range")
            host += inside["hostID"] - inside["containerID"]
        return {"containerID": first, "hostID": host, "size": size}


def _check_ids_of_mount(index: int, entry: dict, plan: Plan) -> None:
    """The kernel takes no id that the user namespace lacks, and says no more than EINVAL."""
    for option in entry.get("options") or []:
        name, _, value = option.partition("=")
        mappings = {"uid": plan.uid_mappings, "gid": plan.gid_mappings}.get(name)
        if mappings is None or not (value.isdigit() and value.isascii()):
            continue
        if not any(m["containerID"] <= int(value) < m["containerID"] + m["size"] for m in mappings):
            raise InvalidSpec(
                f"mounts[{index}].options: {option!r} has no mapping in linux.{name}Mappings; map it or leave it out, as 'spec --rootless' does"
            )


def _devices(linux: dict, in_user_namespace: bool) -> list[Operation]:
    found: list[Operation] = []
    wanted = {path: (path, "c", major, minor, 0o666, 0, 0) for path, major, minor in _DEFAULT_DEVICES}
    for index, device in enumerate(linux.get("devices") or []):
        path, kind = device.get("path"), device.get("type")
        if not isinstance(path, str) or not path.startswith("/"):
            raise InvalidSpec(f"linux.devices[{index}].path: {path!r} is not an absolute path")
        if kind not in ("c", "u", "b", "p"):
            raise InvalidSpec(f"linux.devices[{index}].type: {kind!r} is not one of c, u, b, p")
        mode = device.get("fileMode")
        wanted[path] = (
            path, kind, device.get("major") or 0, device.get("minor") or 0,
            0o666 if mode is None else mode & 0o7777, device.get("uid") or 0, device.get("gid") or 0,
        )  # fmt: skip
    # A FIFO is no device, and may be made anywhere.
    found += [Operation("make_device", *device, in_user_namespace and device[1] != "p") for device in wanted.values()]
    found += [Operation("make_link", target, path) for target, path in _DEFAULT_LINKS]
    return found


def _sysctl_namespace(name: str) -> "str | None":
    dotted = name.replace("/", ".")
    return next((kind for prefix, kind in _SYSCTLS if dotted.startswith(prefix)), None)


def _sysctls(linux: dict, namespaces: dict[str, str]) -> list[tuple[str, str]]:
    found = []
    for name, value in (linux.get("sysctl") or {}).items():
        dotted = name.replace("/", ".")
        needs = _sysctl_namespace(name)
        if needs is None:
            raise InvalidSpec(f"linux.sysctl: {name!r} is not separate for each container; setting it would change the host")
        if needs not in namespaces:
            raise InvalidSpec(f"linux.sysctl: {name!r} needs a {needs} namespace of the container's own")
        if any(part in ("", "..") for part in dotted.split(".")):
            raise InvalidSpec(f"linux.sysctl: {name!r} is not a name of a sysctl")
        found.append((dotted.replace(".", "/"), str(value)))
    return found


def _capability_set(sets: dict, name: str) -> int:
    try:
        return capabilities.mask(sets.get(name))
    except InvalidParameter as error:
        raise InvalidSpec(f"process.capabilities.{name}: {error}") from None


def _rlimit(index: int, limit: dict) -> tuple[int, int, int]:
    number = _RLIMITS.get(limit["type"])
    if number is None:
        raise InvalidSpec(f"process.rlimits[{index}].type: {limit['type']!r} is not a limit of this kernel")
    # resource.setrlimit takes signed numbers; RLIM_INFINITY, all bits set, is -1 to it.
    soft, hard = (limit[key] - (1 << 64) if limit[key] >= 1 << 63 else limit[key] for key in ("soft", "hard"))
    return number, soft, hard


def rlimit_name(number: int) -> str:
    """RLIMIT_* name of a number, for messages."""
    return next((name for name, value in _RLIMITS.items() if value == number), str(number))


def _personality(entry: dict) -> int | None:
    if not entry:
        return None
    domains = {"LINUX": 0, "LINUX32": 8}
    if entry.get("domain") not in domains:
        raise InvalidSpec(f"linux.personality.domain: {entry.get('domain')!r} is not LINUX or LINUX32")
    return domains[entry["domain"]]
