"""Docker's Config and HostConfig -> an OCI `config.json`. Pure: what must be looked up comes in `Facts`.

Source: Docker Engine API v1.51, ContainerConfig and HostConfig; OCI runtime specification 1.2.
"""

import json
import os
import re
from collections.abc import Sequence

from berth.engine import defaults, mountpoints
from berth.engine.seccomp_default import default_profile
from berth.errors import InvalidParameter, NotImplementedHere
from berth.linux import capabilities
from berth.oci.users import ResolvedUser
from berth.runtime.plan import LANDLOCK_ANNOTATION

APPARMOR_DEFAULT = "berth-default"
_TIME_OFFSET_ANNOTATION = "io.berth.time-offset."


class Facts:
    """What the host and the container's files say.

    machine: as `uname -m`; bounding: the engine's own capability bounding set, as a mask; apparmor,
    selinux, cgroup_version, landlock_abi: what the kernel has; id_maps: (uid, gid) mappings for a user
    namespace, or None; init: path of the program for --init; shared_pids: to share namespaces with; own_oom_score: the engine's; mounts: what
    the container mounts besides its pseudo file systems, as OCI has it; network_path: of the network namespace that was made for it, '' for
    none; user_path: of the user namespace that owns that, '' for a new one or none; etc_directory: of hostname, hosts and resolv.conf,
    another container's where its network is shared; link_variables: what the environment says of linked containers.
    """

    def __init__(
        self, *, machine: str, bounding: int, apparmor: bool, selinux: bool, cgroup_version: int, landlock_abi: int,
        id_maps: tuple[list[dict], list[dict]] | None, init: str, shared_pids: dict[str, int], user: ResolvedUser,
        directory: str, devices: list[dict], own_oom_score: int = 0, mounts: list[dict] | None = None,
    ) -> None:  # fmt: skip
        self.machine = machine
        self.bounding = bounding
        self.apparmor = apparmor
        self.selinux = selinux
        self.cgroup_version = cgroup_version
        self.landlock_abi = landlock_abi
        self.id_maps = id_maps
        self.init = init
        self.shared_pids = shared_pids
        self.user = user
        self.directory = directory
        self.devices = devices
        self.own_oom_score = own_oom_score
        self.mounts = mounts or []
        self.network_path = self.user_path = ""
        self.etc_directory = directory
        self.link_variables: list[str] = []


def specification(identity: str, config: dict, host: dict, facts: Facts) -> dict:
    """The whole `config.json` of a container. Raises InvalidParameter for what contradicts itself."""
    privileged = bool(host.get("Privileged"))
    granted = granted_capabilities(host, facts.bounding)
    arguments = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    security = security_options(host, facts)
    spec: dict = {
        "ociVersion": "1.0.2",
        "process": _process(config, host, facts, arguments, granted, security),
        "root": {"path": "rootfs", "readonly": bool(host.get("ReadonlyRootfs"))},
        "mounts": _mounts(host, config, facts, privileged),
        "linux": _linux(identity, host, facts, privileged, granted, security),
        "annotations": {**(host.get("Annotations") or {})},
    }
    if not _mode(host, "UTSMode"):
        spec["hostname"] = config.get("Hostname") or identity[:12]
        if config.get("Domainname"):
            spec["domainname"] = config["Domainname"]
    if host.get("NetworkMode") == "host" and not privileged and facts.landlock_abi >= 6 and security["landlock"]:
        spec["annotations"][LANDLOCK_ANNOTATION] = "true"
    return spec


def granted_capabilities(host: dict, bounding: int) -> list[str]:
    """--cap-add, --cap-drop and --privileged -> names, never more than the engine itself may give."""
    have = capabilities.names_of(bounding)
    if host.get("Privileged"):
        return have
    added, dropped = (_capability_names(host.get(key), key) for key in ("CapAdd", "CapDrop"))
    if "ALL" in added:
        chosen = set(have)
    elif "ALL" in dropped:
        chosen = set()
    else:
        chosen = set(defaults.CAPABILITIES)
    if "ALL" not in dropped:
        chosen -= set(dropped)
    elif "ALL" in added:
        chosen = set()
    chosen |= set(added) - {"ALL"}
    for name in added:
        if name != "ALL" and name not in have:
            raise InvalidParameter(f"capability {name} cannot be added: the engine does not have it itself")
    return [name for name in capabilities.NAMES if name in chosen and name in have]


def _capability_names(names: list[str] | None, field: str) -> list[str]:
    found = []
    for name in names or []:
        full = name.upper()
        if full != "ALL" and not full.startswith("CAP_"):
            full = f"CAP_{full}"
        if full != "ALL" and full not in capabilities.NUMBERS:
            raise InvalidParameter(f'invalid {field}: unknown capability: "{full}"; see capabilities(7)')
        found.append(full)
    return found


def security_options(host: dict, facts: Facts) -> dict:
    """--security-opt -> {seccomp: profile|None|..., apparmor: name, label, no_new_privileges, landlock}.

    Asking by name for a module that the kernel lacks is an error; the defaults simply use what is there.
    """
    found: dict = {
        "seccomp": "default", "apparmor": "", "label": "", "no_new_privileges": False, "landlock": True,
        "masked": not host.get("Privileged"),
    }  # fmt: skip
    label_parts = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}
    label_asked = False
    for option in host.get("SecurityOpt") or []:
        key, separator, value = option.partition("=")
        if not separator and ":" in option:
            key, _, value = option.partition(":")
        if option.startswith("no-new-privileges"):
            found["no_new_privileges"] = _switch(option)
        elif key == "seccomp":
            found["seccomp"] = value if value in ("unconfined", "builtin") else _profile(value)
        elif key == "apparmor":
            if value != "unconfined" and not facts.apparmor:
                raise NotImplementedHere(f"security-opt {option}: this kernel does not have AppArmor switched on")
            found["apparmor"] = value
        elif key == "label":
            if value != "disable" and not facts.selinux:
                raise NotImplementedHere(f"security-opt {option}: this kernel does not have SELinux switched on")
            label_asked = value != "disable"
            part, _, setting = value.partition(":")
            label_parts[part] = setting
        elif key == "landlock" and value == "unconfined":
            found["landlock"] = False
        elif key == "systempaths" and value == "unconfined":
            found["masked"] = False
        else:
            raise InvalidParameter(f'invalid --security-opt {2 if separator else 1}: "{option}"')
    if host.get("Privileged"):
        found["seccomp"] = "unconfined" if found["seccomp"] == "default" else found["seccomp"]
        found["apparmor"] = found["apparmor"] or "unconfined"
    if facts.apparmor and not found["apparmor"]:
        found["apparmor"] = APPARMOR_DEFAULT
    if label_asked:
        found["label"] = ":".join(label_parts[part] for part in ("user", "role", "type", "level"))
    return found


def _switch(option: str) -> bool:
    """`NAME`, `NAME=BOOLEAN` or `NAME:BOOLEAN` with what Go takes for a boolean, as Docker does."""
    value = option.removeprefix("no-new-privileges")
    if value in ("", *(f"{sign}{word}" for sign in "=:" for word in ("1", "t", "T", "true", "TRUE", "True"))):
        return True
    if value in [f"{sign}{word}" for sign in "=:" for word in ("0", "f", "F", "false", "FALSE", "False")]:
        return False
    raise InvalidParameter(f'invalid --security-opt 2: "{option}": expected no-new-privileges=true or =false')


def _profile(text: str) -> dict:
    """Clients send the file's content, in Docker's own form: OCI's plus conditions on architecture and capabilities."""
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"security-opt seccomp: the profile is not JSON: {error}") from None
    if not isinstance(profile, dict) or not profile.get("defaultAction"):
        raise InvalidParameter("security-opt seccomp: the profile has no defaultAction")
    return profile


def _oci_seccomp(profile: dict, machine: str, granted: list[str]) -> dict:
    """Docker's profile form -> OCI's: its conditions decided for this machine and these capabilities."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    own = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}.get(machine, "")
    found = {k: profile[k] for k in ("defaultAction", "defaultErrnoRet", "architectures", "flags") if k in profile}
    for entry in profile.get("archMap") or []:
        if entry.get("architecture") == own:
            found["architectures"] = [own, *(entry.get("subArchitectures") or [])]
    rules = []
    for rule in profile.get("syscalls") or []:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("arches") and arch not in includes["arches"]:
            continue
        if includes.get("caps") and not set(includes["caps"]) <= set(granted):
            continue
        if arch in (excludes.get("arches") or []) or set(excludes.get("caps") or []) & set(granted):
            continue
        names = rule.get("names") or ([rule["name"]] if rule.get("name") else [])
        kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
        rules.append({"names": names, **kept})
    found["syscalls"] = rules
    return found


def environment(config: dict, host_name: str, home: str, links: Sequence[str] = ()) -> list[str]:
    """Docker's: PATH, HOSTNAME, TERM with a terminal, those of links, HOME, each unless the person or image sets it."""
    given = {item.partition("=")[0]: item for item in config.get("Env") or [] if "=" in item}
    base = [defaults.PATH, f"HOSTNAME={host_name}"]
    if config.get("Tty"):
        base.append("TERM=xterm")
    base += links
    result = {item.partition("=")[0]: item for item in base} | given
    result.setdefault("HOME", f"HOME={home}")
    return list(result.values())


def _process(
    config: dict, host: dict, facts: Facts, arguments: list[str], granted: list[str], security: dict
) -> dict:
    if host.get("Init") and facts.init:
        arguments = ["/sbin/docker-init", "--", *arguments]
    size = host.get("ConsoleSize") or [0, 0]
    host_name = config.get("Hostname") or ""
    process: dict = {
        "terminal": bool(config.get("Tty")),
        "user": {
            "uid": facts.user.uid, "gid": facts.user.gid, "additionalGids": facts.user.additional_gids,
        },
        "args": arguments,
        "env": environment(config, host_name, facts.user.home, facts.link_variables),
        "cwd": os.path.normpath("/" + (config.get("WorkingDir") or "/").lstrip("/")),
        "capabilities": capability_sets(granted, facts.user.uid),
        "noNewPrivileges": security["no_new_privileges"],
    }  # fmt: skip
    if config.get("Tty") and all(size):
        process["consoleSize"] = {"height": size[0], "width": size[1]}
    # Whoever starts the engine may have lowered its own, as our systemd unit does: that is not for containers.
    if host.get("OomScoreAdj") or facts.own_oom_score < 0:
        process["oomScoreAdj"] = host.get("OomScoreAdj") or 0
    if security["apparmor"] not in ("", "unconfined"):
        process["apparmorProfile"] = security["apparmor"]
    if security["label"]:
        process["selinuxLabel"] = security["label"]
    limits = [
        {"type": f"RLIMIT_{limit['Name'].upper()}", "soft": limit.get("Soft", 0), "hard": limit.get("Hard", 0)}
        for limit in host.get("Ulimits") or []
    ]
    if limits:
        process["rlimits"] = limits
    return process


def capability_sets(granted: list[str], uid: int) -> dict[str, list[str]]:
    """Root has them; another user only keeps the bounding set, as execve(2) would leave it."""
    effective = granted if uid == 0 else []
    return {"bounding": granted, "effective": effective, "permitted": effective, "inheritable": [], "ambient": []}


def _mode(host: dict, key: str) -> str:
    """A namespace mode that is not the container's own: 'host' or 'container:ID', else ''."""
    value = host.get(key) or ""
    return value if value == "host" or value.startswith("container:") else ""


def _linux(identity: str, host: dict, facts: Facts, privileged: bool, granted: list[str], security: dict) -> dict:
    parent = (host.get("CgroupParent") or "/berth").strip("/")
    linux: dict = {
        "namespaces": _namespaces(host, facts),
        "cgroupsPath": f"/{parent}/{identity}",
        "resources": resources(host, privileged, facts.devices),
        "devices": [device for device in facts.devices if "path" in device],
    }
    if security["masked"]:
        linux["maskedPaths"] = _paths(host.get("MaskedPaths"), defaults.MASKED_PATHS)
        linux["readonlyPaths"] = _paths(host.get("ReadonlyPaths"), defaults.READONLY_PATHS)
    if host.get("Sysctls"):
        linux["sysctl"] = dict(host["Sysctls"])
    if security["seccomp"] in ("default", "builtin"):
        linux["seccomp"] = default_profile(facts.machine, frozenset(granted))
    elif isinstance(security["seccomp"], dict):
        linux["seccomp"] = _oci_seccomp(security["seccomp"], facts.machine, granted)
    if facts.id_maps:
        linux["uidMappings"], linux["gidMappings"] = facts.id_maps
    offsets = {
        key.removeprefix(_TIME_OFFSET_ANNOTATION): {"secs": int(value)}
        for key, value in (host.get("Annotations") or {}).items()
        if key.startswith(_TIME_OFFSET_ANNOTATION) and re.fullmatch(r"-?[0-9]+", value)
    }
    if offsets:
        linux["namespaces"].append({"type": "time"})
        linux["timeOffsets"] = offsets
    propagations = {option for mount in facts.mounts for option in mount["options"]}
    if propagations & {"shared", "rshared"}:
        linux["rootfsPropagation"] = "shared"
    elif propagations & {"slave", "rslave"}:
        linux["rootfsPropagation"] = "rslave"
    return linux


def _paths(given: list[str] | None, default: tuple[str, ...]) -> list[str]:
    return list(default) if given is None else list(given)


def _namespaces(host: dict, facts: Facts) -> list[dict]:
    found: list[dict] = [{"type": "mount"}]
    for kind, key, file in (
        ("pid", "PidMode", "pid"), ("ipc", "IpcMode", "ipc"), ("uts", "UTSMode", "uts"), ("network", "NetworkMode", "net"),
    ):  # fmt: skip
        mode = _mode(host, key)
        if mode and facts.id_maps and kind != "uts":
            _check_sharing(kind, mode, _mode(host, "NetworkMode"))
        if kind == "network" and facts.network_path:
            found.append({"type": kind, "path": facts.network_path})
        elif not mode:
            found.append({"type": kind})
        elif mode != "host":
            found.append({"type": kind, "path": _namespace_of(mode, facts, file)})
    private = host.get("CgroupnsMode") or ("private" if facts.cgroup_version == 2 else "host")
    if private == "private":
        found.append({"type": "cgroup"})
    if facts.id_maps:
        path = facts.user_path or _namespace_of(_mode(host, "NetworkMode"), facts, "user")
        found.append({"type": "user", **({"path": path} if path else {})})
    return found


def _namespace_of(mode: str, facts: Facts, file: str) -> str:
    """The path of another container's namespace; '' for none."""
    return f"/proc/{facts.shared_pids[mode.partition(':')[2]]}/ns/{file}" if mode.startswith("container:") else ""


def _check_sharing(kind: str, mode: str, network: str) -> None:
    """Root of a user namespace has no rights over a namespace that another user namespace owns: who shares another container's network is in
    that one's user namespace, too, and may share more of it."""
    words = {"pid": "PID", "ipc": "IPC"}.get(kind, kind)
    if mode == "host":
        owner = "host's" if kind == "network" else "host"
        raise InvalidParameter(
            f"cannot share the {owner} {words} namespace when user namespaces are enabled; --userns=host switches them off"
        )
    if mode != network:
        raise NotImplementedHere(
            f"sharing the {words} namespace of another container works with --userns-remap for one that shares its network, too: "
            f"add --network {mode}, or run both with --userns=host"
        )


def resources(host: dict, privileged: bool, devices: list[dict]) -> dict:
    """HostConfig's limits -> OCI resources. devices: entries with `rule`, as `Facts.devices`."""
    rules = [{"allow": True, "access": "rwm"}] if privileged else list(defaults.DEVICE_RULES)
    if not privileged:
        rules += [device["rule"] for device in devices]
        rules += [_device_rule(text) for text in host.get("DeviceCgroupRules") or []]
    found: dict = {"devices": rules}
    for section, values in (("memory", _memory(host)), ("cpu", _cpu(host)), ("blockIO", _block_io(host))):
        if values:
            found[section] = values
    if host.get("PidsLimit"):
        found["pids"] = {"limit": host["PidsLimit"]}
    return found


def _memory(host: dict) -> dict:
    memory: dict = {}
    limit, swap = host.get("Memory") or 0, host.get("MemorySwap") or 0
    if limit:
        memory["limit"] = limit
        # Docker: without --memory-swap a container may swap as much as it may hold in memory.
        memory["swap"] = swap or 2 * limit
    if host.get("MemoryReservation"):
        memory["reservation"] = host["MemoryReservation"]
    if host.get("MemorySwappiness") is not None and host["MemorySwappiness"] != -1:
        memory["swappiness"] = host["MemorySwappiness"]
    if host.get("OomKillDisable"):
        memory["disableOOMKiller"] = True
    return memory


def _cpu(host: dict) -> dict:
    cpu: dict = {}
    if host.get("NanoCpus"):
        cpu["period"] = 100_000
        cpu["quota"] = host["NanoCpus"] * 100_000 // 1_000_000_000
    names = (
        ("CpuShares", "shares"), ("CpuPeriod", "period"), ("CpuQuota", "quota"), ("CpusetCpus", "cpus"),
        ("CpusetMems", "mems"), ("CpuRealtimePeriod", "realtimePeriod"), ("CpuRealtimeRuntime", "realtimeRuntime"),
    )  # fmt: skip
    cpu.update({key: host[name] for name, key in names if host.get(name)})
    return cpu


def _block_io(host: dict) -> dict:
    block: dict = {}
    if host.get("BlkioWeight"):
        block["weight"] = host["BlkioWeight"]
    for name, key, value in (
        ("BlkioWeightDevice", "weightDevice", "Weight"), ("BlkioDeviceReadBps", "throttleReadBpsDevice", "Rate"),
        ("BlkioDeviceWriteBps", "throttleWriteBpsDevice", "Rate"), ("BlkioDeviceReadIOps", "throttleReadIOPSDevice", "Rate"),
        ("BlkioDeviceWriteIOps", "throttleWriteIOPSDevice", "Rate"),
    ):  # fmt: skip
        entries = []
        for device in host.get(name) or []:
            number = _device_number(device.get("Path") or "")
            entries.append({
                "major": os.major(number), "minor": os.minor(number), "weight" if value == "Weight" else "rate": device.get(value) or 0,
            })  # fmt: skip
        if entries:
            block[key] = entries
    return block


def _device_number(path: str) -> int:
    try:
        return os.stat(path).st_rdev
    except OSError as error:
        raise InvalidParameter(f"block device {path!r}: {error.strerror}") from None


def _device_rule(text: str) -> dict:
    """`c 1:3 mr` -> an OCI rule."""
    parts = text.split()
    numbers = parts[1].split(":") if len(parts) == 3 else []
    if (
        len(numbers) != 2 or parts[0] not in ("a", "b", "c") or not set(parts[2]) <= set("rwm")
        or not all(number == "*" or (number.isascii() and number.isdigit()) for number in numbers)
    ):  # fmt: skip
        raise InvalidParameter(f"invalid device cgroup rule {text!r}: expected e.g. 'c 10:200 rwm'")
    rule: dict = {"allow": True, "type": parts[0], "access": parts[2]}
    for key, number in zip(("major", "minor"), numbers, strict=True):
        if number != "*":
            rule[key] = int(number)
    return rule


# -- mounts ------------------------------------------------------------------------------------------


def _mounts(host: dict, config: dict, facts: Facts, privileged: bool) -> list[dict]:
    shm = host.get("ShmSize") or defaults.SHM_SIZE_BYTES
    found = {m["destination"]: m for m in defaults.mounts(shm, cgroup_writable=privileged)}
    if privileged:
        found["/sys"]["options"] = [o for o in found["/sys"]["options"] if o != "ro"]
    if host.get("IpcMode") == "host":
        # The mqueue file system mounted by default shows the host's queues too: it follows the namespace.
        found["/dev/shm"] = mountpoints.bind("/dev/shm", "/dev/shm", ["rbind", *defaults.PLAIN])
    elif _mode(host, "IpcMode"):
        pid = facts.shared_pids[host["IpcMode"].partition(":")[2]]
        found["/dev/shm"] = mountpoints.bind(f"/proc/{pid}/root/dev/shm", "/dev/shm", ["rbind", *defaults.PLAIN])
    elif host.get("IpcMode") == "none":
        del found["/dev/shm"]  # a private IPC namespace with nothing to share memory through
    for name in ("hostname", "hosts", "resolv.conf"):
        found[f"/etc/{name}"] = mountpoints.bind(f"{facts.etc_directory}/{name}", f"/etc/{name}", ["rbind", "rprivate"])
    if host.get("Init") and facts.init:
        found["/sbin/docker-init"] = mountpoints.bind(facts.init, "/sbin/docker-init", ["bind", "ro"])
    for destination, options in (host.get("Tmpfs") or {}).items():
        given = [option for option in options.split(",") if option]
        found[_clean(destination)] = mountpoints.tmpfs(_clean(destination), given)
    found |= {mount["destination"]: mount for mount in facts.mounts}
    # Parents before children, or the parent would hide the child; the order of equals is kept.
    return sorted(found.values(), key=lambda m: m["destination"].count("/") if m["destination"] != "/" else 0)


def _clean(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: {path!r}: mount path must be absolute")
    return os.path.normpath("/" + path.lstrip("/"))
