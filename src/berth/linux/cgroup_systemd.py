"""The `systemd` cgroup driver: the container's group is a transient scope (or slice) of systemd's.

    create      asks systemd's version and place in the hierarchy; a slice is started here
    apply       before the start: kept for it; after: SetUnitProperties, then the files
    add         the first process starts the scope (a scope cannot be empty): StartTransientUnit, wait
                for the job, then what systemd has no property for is written as `cgroupfs` does it
    remove      StopUnit, wait, ResetFailedUnit, then what is left of the directories

systemd writes a unit's limits again whenever it likes (daemon-reload, SetUnitProperties), so each
limit that it has a property for is told to it too: `properties`, pure, derived from the very files that
`cgroup_v1` and `cgroup_v2` would write. No connection is open while a child is cloned.

Source: org.freedesktop.systemd1(5), systemd.resource-control(5), CGROUP_DELEGATION.md; the form of
`cgroupsPath` is that of runc's and crun's --systemd-cgroup.
"""

import os

from berth.errors import Conflict, InvalidParameter, InvalidSpec, NotImplementedHere, SystemFailure, Unavailable
from berth.linux import cgroup, cgroup_v1, cgroup_v2, dbus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Property = tuple[str, str, "Any"]  # name, D-Bus signature, value

_DESTINATION = "org.freedesktop.systemd1"
_OBJECT = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_INFINITY = (1 << 64) - 1
_MAXIMUM_UNIT_NAME = 255
_UNIT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\")
_ASSUMED_VERSION = 257


# -- names ----------------------------------------------------------------------------------------


class Unit:
    """What a `cgroupsPath` names. path: of the group below systemd's own root."""

    __slots__ = ("description", "name", "path", "slice")

    def __init__(self, name: str, slice_: str, description: str) -> None:
        self.name = name
        self.slice = slice_
        self.description = description
        self.path = f"{expand_slice(slice_)}/{name}" if not self.is_slice else expand_slice(name)

    @property
    def is_slice(self) -> bool:
        return self.name.endswith(".slice")


def parse_path(path: str, *, rootless: bool = False) -> Unit:
    """The unit of `slice:prefix:name`. Raises InvalidSpec."""
    parts = path.split(":")
    if len(parts) != 3 or not parts[2]:
        raise InvalidSpec(f"linux.cgroupsPath: {path!r}: expected slice:prefix:name, as systemd is the cgroup manager")
    slice_, prefix, name = parts
    slice_ = slice_ or ("user.slice" if rootless else "system.slice")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
    if len(unit) > _MAXIMUM_UNIT_NAME or not set(unit) <= _UNIT_CHARACTERS:
        raise InvalidSpec(f"linux.cgroupsPath: {path!r}: {unit!r} is no name for a systemd unit")
    return Unit(unit, slice_, name)


def expand_slice(name: str) -> str:
    """Where a slice is: `a-b.slice` is `/a.slice/a-b.slice`, `-.slice` the root, ''. Raises InvalidSpec."""
    stem = name.removesuffix(".slice")
    parts = stem.split("-")
    if stem == "-" and name != stem:
        return ""
    if stem == name or not all(parts) or len(name) > _MAXIMUM_UNIT_NAME or not set(name) <= _UNIT_CHARACTERS:
        raise InvalidSpec(f"linux.cgroupsPath: {name!r} is no name for a systemd slice")
    return "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))


# -- resources to properties ----------------------------------------------------------------------


def properties(resources: dict, version: int, systemd: int = _ASSUMED_VERSION) -> list[Property]:
    """What systemd has to know of an OCI `linux.resources` on cgroup `version`; `systemd` is its version.

    Raises InvalidSpec for a value that is none.
    """
    if version == 2:
        files = {file: value for file, value, *_ in cgroup_v2.settings(resources)}
        found = _of_files_v2(files, systemd)
    else:
        files = {file: value for _, file, value, *_ in cgroup_v1.settings({**resources, "devices": None})}
        found = _of_files_v1(files, systemd)
    if resources.get("devices"):
        found += device_properties(resources["devices"], version)
    return found


def _of_files_v2(files: dict[str, str], systemd: int) -> list[Property]:
    sizes = (
        ("memory.max", "MemoryMax"), ("memory.high", "MemoryHigh"), ("memory.low", "MemoryLow"),
        ("memory.min", "MemoryMin"), ("memory.swap.max", "MemorySwapMax"), ("pids.max", "TasksMax"),
    )  # fmt: skip
    found: list[Property] = [(name, "t", _size(file, files[file])) for file, name in sizes if file in files]
    idle = files.get("cpu.idle", "0").strip() == "1" and systemd >= 252
    if idle:
        found.append(("CPUWeight", "t", 0))  # which is how systemd says cpu.idle
    elif "cpu.weight" in files:
        found.append(("CPUWeight", "t", _number("cpu.weight", files["cpu.weight"])))
    if "cpu.max" in files:
        quota, _, period = files["cpu.max"].strip().partition(" ")
        limit = -1 if quota == "max" else _number("cpu.max", quota)
        found += _cpu_quota(limit, _number("cpu.max", period or "100000"), systemd)
    if files.get("io.weight", "").startswith("default "):
        found.append(("IOWeight", "t", _number("io.weight", files["io.weight"].removeprefix("default "))))
    return found + _cpuset(files, systemd)


def _of_files_v1(files: dict[str, str], systemd: int) -> list[Property]:
    found: list[Property] = []
    if "memory.limit_in_bytes" in files:
        found.append(("MemoryLimit", "t", _size("memory.limit_in_bytes", files["memory.limit_in_bytes"])))
    if "cpu.shares" in files:
        found.append(("CPUShares", "t", _number("cpu.shares", files["cpu.shares"])))
    if "cpu.cfs_quota_us" in files or "cpu.cfs_period_us" in files:
        period = _number("cpu.cfs_period_us", files.get("cpu.cfs_period_us", "100000"))
        found += _cpu_quota(_number("cpu.cfs_quota_us", files.get("cpu.cfs_quota_us", "-1")), period, systemd)
    if "blkio.weight" in files:
        found.append(("BlockIOWeight", "t", _number("blkio.weight", files["blkio.weight"])))
    if "pids.max" in files:
        found.append(("TasksMax", "t", _size("pids.max", files["pids.max"])))
    return found + _cpuset(files, systemd)


def _number(file: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidSpec(f"linux.resources: {text!r} for {file} is not a number") from None


def _size(file: str, text: str) -> int:
    """A limit in bytes or tasks; systemd's infinity for `max` and anything negative."""
    number = -1 if text.strip() == "max" else _number(file, text)
    return _INFINITY if number < 0 else number


def _cpu_quota(quota_us: int, period_us: int, systemd: int) -> list[Property]:
    """systemd keeps whole percents of a CPU; rounded up, so that the exact value written later fits in."""
    if period_us <= 0:
        raise InvalidSpec(f"linux.resources.cpu.period: {period_us}: must be more than 0")
    per_second = _INFINITY
    if quota_us > 0:
        per_second = -(-(quota_us * 1_000_000 // period_us) // 10_000) * 10_000
    found: list[Property] = [("CPUQuotaPeriodUSec", "t", period_us)] if systemd >= 242 else []
    return [*found, ("CPUQuotaPerSecUSec", "t", per_second)]


def _cpuset(files: dict[str, str], systemd: int) -> list[Property]:
    names = (("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes"))
    if systemd < 244:
        return []
    return [(name, "ay", bits_of_ranges(files[file])) for file, name in names if files.get(file, "").strip()]


def bits_of_ranges(text: str) -> bytes:
    """A list such as `0-3,7` as a bit set, lowest number in the lowest bit of the first byte."""
    bits = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low = _number("cpuset", first)
        high = _number("cpuset", last) if dash else low
        if not 0 <= low <= high < 8192:  # the most CPUs that any kernel is configured for
            raise InvalidSpec(f"linux.resources.cpu: {text!r} is not a list of numbers and ranges")
        bits |= (1 << (high + 1)) - (1 << low)
    return bits.to_bytes(bits.bit_length() // 8 + 1, "little").rstrip(b"\0") or b"\0"


def device_properties(rules: list[dict], version: int) -> list[Property]:
    """Device rules as far as DeviceAllow can say them.

    The two versions need opposite approximations. v2: systemd's program and ours must both allow, so
    systemd's may only be wider; where it cannot be said at all, systemd has none. v1: systemd writes
    the same file as we do, and after a daemon-reload its rules stand alone, so they may only be narrower.
    """
    everything, exceptions = _emulate(rules)
    if everything and (version == 2 or not exceptions):
        return [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]
    entries: list[tuple[str, str]] = []
    for (kind, major, minor), access in exceptions.items() if not everything else ():
        if major < 0 <= minor and version == 1:
            continue  # systemd has no `*:5`
        group = "block" if kind == "b" else "char"
        number = f"{group}-{'*' if major < 0 else major}" if major < 0 or minor < 0 else f"/dev/{group}/{major}:{minor}"
        entries.append((number, access))
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", entries)]


def _emulate(rules: list[dict]) -> tuple[bool, dict[tuple[str, int, int], str]]:
    """Whether all is allowed but for exceptions, and the exceptions: (type, major, minor) -> access.

    A number of -1 is any. As in the kernel's v1 controller a hole cannot be made in a wider rule.
    """
    everything, found = False, dict[tuple[str, int, int], str]()
    for rule in rules:
        kind, allow = rule.get("type") or "a", bool(rule.get("allow"))
        if kind == "a":
            everything, found = allow, {}
            continue
        major, minor = (-1 if rule.get(key) is None else max(-1, rule[key]) for key in ("major", "minor"))
        access = rule.get("access") or "rwm"
        if allow != everything:
            have = found.get((kind, major, minor), "")
            found[kind, major, minor] = "".join(letter for letter in "rwm" if letter in have + access)
            continue
        for key in [key for key in found if key[0] == kind and major in (-1, key[1]) and minor in (-1, key[2])]:
            found[key] = "".join(letter for letter in found[key] if letter not in access)
            if not found[key]:
                del found[key]
    return everything, found


# -- annotations ----------------------------------------------------------------------------------

_ANNOTATION = "org.systemd.property."
# A unit's properties reach further than the unit: SuccessAction=poweroff, Conflicts=, OnFailure=. Only
# what concerns the container itself may come from a bundle.
_ANNOTATED_PREFIXES = (
    "Memory", "CPU", "IO", "BlockIO", "Tasks", "Allowed", "Startup", "IPAccounting", "IPAddress", "ManagedOOM",
    "DefaultMemory", "TimeoutStopUSec", "RuntimeMaxUSec", "CollectMode", "OOMPolicy", "KillMode", "KillSignal",
    "SendSIGHUP", "SendSIGKILL", "FinalKillSignal", "Description", "Documentation", "After", "Before",
)  # fmt: skip
_INTEGERS = {"byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t"}


def annotated_properties(annotations: dict[str, str]) -> list[Property]:
    """`org.systemd.property.NAME: VALUE`, the value as gvariant text, as runc has them. Raises InvalidSpec."""
    found: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(_ANNOTATION):
            continue
        where, name = f"annotations[{key!r}]", key.removeprefix(_ANNOTATION)
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise InvalidSpec(f"{where}: a systemd property's name has at least three letters and nothing else")
        signature, value = _annotated_value(where, text.strip())
        if name.endswith("Sec") and name[-4].islower():
            if not isinstance(value, int | float) or signature == "b":
                raise InvalidSpec(f"{where}: {text!r} is not a number of seconds")
            name, signature, value = f"{name[:-3]}USec", "t", int(value * 1_000_000)
        if not name.startswith(_ANNOTATED_PREFIXES):
            raise InvalidSpec(f"{where}: berth does not let a bundle set this property of systemd")
        found.append((name, signature, value))
    return found


def _annotated_value(where: str, text: str) -> "tuple[str, Any]":
    """One value of gvariant's text format: true, 'text', 5, uint64 5, 1.5, or a list of one kind of these."""
    if text.startswith("[") and text.endswith("]"):
        values = [_annotated_value(where, part) for part in _list_parts(text[1:-1])]
        if values and all(signature == values[0][0] and len(signature) == 1 for signature, _ in values):
            numbers = [value for _, value in values]
            return "a" + values[0][0], bytes(numbers) if values[0][0] == "y" else numbers
    elif text in ("true", "false"):
        return "b", text == "true"
    elif len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and not set(text[1:-1]) & {text[0], "\\", "\0"}:
        return "s", text[1:-1]
    else:
        kind, _, number = text.rpartition(" ")
        try:
            if not kind and "." in number:
                return "d", float(number)
            signature = _INTEGERS[kind.strip() or "int32"]
            value = int(number, 0)
            dbus.pack(signature, (value,))
            return signature, value
        except (KeyError, ValueError, InvalidParameter):
            pass
    raise InvalidSpec(f"{where}: {text!r} is not a value in gvariant's text format that is known here")


def _list_parts(text: str) -> list[str]:
    """Splits at commas outside of quotes."""
    parts, quote = [""], ""
    for character in text:
        if character == "," and not quote:
            parts.append("")
            continue
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


# -- systemd --------------------------------------------------------------------------------------


def addresses(*, rootless: bool = False) -> list[tuple[str, bool]]:
    """Where systemd listens, itself first: (socket, whether it is a bus). Raises NotImplementedHere.

    systemd's own socket takes root, or the owner of the user's instance, and needs no dbus-daemon.
    """
    advice = "use --cgroup-manager cgroupfs"
    if not rootless:
        if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
            raise NotImplementedHere(f"systemd does not run this host (no /run/systemd/system); {advice}")
        return [("/run/systemd/private", False), ("/run/dbus/system_bus_socket", True)]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    found = [(f"{runtime}/systemd/private", False)] if runtime else []
    found += [(name, True) for name in dbus.socket_names(os.environ.get("DBUS_SESSION_BUS_ADDRESS", ""))]
    found += [(f"{runtime}/bus", True)] if runtime else []
    present = [(name, bus) for name, bus in found if name.startswith("\0") or os.path.exists(name)]
    if not present:
        where = f"XDG_RUNTIME_DIR={runtime}" if runtime else "XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS are not set"
        raise NotImplementedHere(
            f"no systemd of uid {os.geteuid()} to be reached ({where}); log in, or have root run "
            f"'loginctl enable-linger' for the user, or {advice}"
        )
    return present


class Refused(SystemFailure):
    """systemd answered with an error: nothing was made, and what has the name is not ours."""


class Manager:
    """One connection to systemd, the system's or the user's. Own it with `with`."""

    __slots__ = ("_bus",)

    def __init__(self, *, rootless: bool = False, patience_s: float = 30.0) -> None:
        self._bus = dbus.connect(addresses(rootless=rootless), patience_s)

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.close()

    def _send(self, member: str, signature: str = "", *values: "Any") -> int:
        return self._bus.send(_OBJECT, _MANAGER, member, signature, values, destination=_DESTINATION)

    def _call(self, member: str, signature: str = "", *values: "Any") -> "tuple[Any, ...]":
        return self._bus.reply(self._send(member, signature, *values))

    def facts(self) -> tuple[int, str]:
        """systemd's version, and the group that everything of its is below: '' or `/user.slice/...`."""
        serials = [
            self._bus.send(_OBJECT, "org.freedesktop.DBus.Properties", "Get", "ss", (_MANAGER, name), destination=_DESTINATION)
            for name in ("Version", "ControlGroup")
        ]
        try:
            values = [self._bus.reply(serial) for serial in serials]
        except dbus.MethodError as error:
            raise SystemFailure(f"systemd does not answer at {self._bus.name}: {error.text}") from error
        (_, version), (_, group) = values[0][0], values[1][0]
        digits = str(version).lstrip("v").split(".")[0].split("-")[0].split("~")[0]
        return int(digits) if digits.isdecimal() else 0, str(group).rstrip("/")

    def _watch(self) -> list[int]:
        """Queues what makes a bus pass on systemd's signals; systemd itself sends them to all anyway."""
        if not self._bus.bus:
            return []
        rule = f"type='signal',sender='{_DESTINATION}',path='{_OBJECT}',interface='{_MANAGER}',member='JobRemoved'"
        at = "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", (rule,)
        return [self._bus.send(*at, destination="org.freedesktop.DBus"), self._send("Subscribe")]

    def _job(self, member: str, signature: str, *values: "Any") -> str:
        """Calls what queues a job and waits until it is done; the result, `done` or another word."""
        watched = self._watch()
        serial = self._send(member, signature, *values)
        for each in watched:
            self._bus.reply(each)
        job = self._bus.reply(serial)[0]
        # JobRemoved(u id, o job, s unit, s result)
        return str(self._bus.signal(_MANAGER, "JobRemoved", lambda found: len(found) == 4 and found[1] == job)[3])

    def start(self, unit: str, wanted: list[Property]) -> None:
        """StartTransientUnit. Raises Conflict if it exists and has not failed, Refused, or SystemFailure."""
        given = [(name, (signature, value)) for name, signature, value in wanted]
        for last in (False, True):
            try:
                result = self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", given, [])
                break
            except dbus.MethodError as error:
                if not error.name.endswith(".UnitExists"):
                    raise Refused(f"systemd does not start {unit}: {error.text}") from error
                if last:
                    raise Conflict(f"systemd has a unit {unit} already") from error
                self.reset(unit)  # one that failed stays loaded until somebody has taken note
        if result != "done":
            self.reset(unit)
            raise SystemFailure(f"systemd does not start {unit}: the job's result is {result!r}; see 'systemctl status {unit}'")

    def stop(self, unit: str) -> None:
        """StopUnit; one that is gone already is fine."""
        try:
            self._job("StopUnit", "ss", unit, "replace")
        except dbus.MethodError as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise SystemFailure(f"systemd does not stop {unit}: {error.text}") from error
            return
        self.reset(unit)

    def reset(self, unit: str) -> None:
        """ResetFailedUnit, so that a failed unit can be unloaded."""
        try:
            self._call("ResetFailedUnit", "s", unit)
        except dbus.MethodError:
            pass  # not loaded any more: what is wanted

    def set(self, unit: str, wanted: list[Property]) -> None:
        """SetUnitProperties, until the next boot."""
        given = [(name, (signature, value)) for name, signature, value in wanted]
        try:
            self._call("SetUnitProperties", "sba(sv)", unit, True, given)
        except dbus.MethodError as error:
            raise SystemFailure(f"systemd does not change {unit}: {error.text}") from error

    def attach(self, unit: str, pid: int) -> None:
        """AttachProcessesToUnit, for where we may not move a process ourselves."""
        try:
            self._call("AttachProcessesToUnit", "ssau", unit, "", [pid])
        except dbus.MethodError as error:
            raise SystemFailure(f"systemd does not take process {pid} into {unit}: {error.text}") from error


# -- the driver -----------------------------------------------------------------------------------

if TYPE_CHECKING:
    _Interface = cgroup.Cgroup
else:
    _Interface = object


class SystemdCgroup(_Interface):
    """A Cgroup whose group systemd makes and removes; everything else is the cgroupfs manager's (`files`).

    Nothing is killed or removed that this object, or one before it under the same name, did not start.
    """

    def __init__(
        self, unit: Unit, hosts: cgroup.Hierarchies, *, rootless: bool = False, path: str = "", extra: list[Property] | None = None,
        patience_s: float = 30.0,
    ) -> None:  # fmt: skip
        self.unit = unit
        self._hosts = hosts
        self._rootless = rootless
        self._extra = extra or []
        self._patience_s = patience_s
        self._given_path = path
        self._version = _ASSUMED_VERSION
        self._resources: dict = {}
        self._unborn = False  # create() was called, and systemd has not been asked for the unit yet
        self._files: cgroup.Cgroup | None = None
        if path or not rootless:
            self._locate(path or unit.path)

    def _manager(self) -> Manager:
        return Manager(rootless=self._rootless, patience_s=self._patience_s)

    def _locate(self, path: str) -> None:
        self._files = cgroup.open_cgroup(path, self._hosts)

    @property
    def files(self) -> cgroup.Cgroup:
        """The cgroupfs manager of the group; a user's systemd is asked where that is."""
        if self._files is None:
            with self._manager() as manager:
                self._version, root = manager.facts()
            self._locate(root + self.unit.path)
        assert self._files is not None
        return self._files

    def __getattr__(self, name: str) -> "Any":
        """path, directories, pids, freeze, oom_kills and whatever else a cgroupfs manager has."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.files, name)

    def create(self) -> None:
        """Finds out where the group will be, before there is a child to find it; a slice is made here."""
        if self._given_path:
            raise InvalidSpec(
                f"linux.cgroupsPath: {self._given_path!r}: expected slice:prefix:name, as systemd is the cgroup manager"
            )
        with self._manager() as manager:
            self._version, root = manager.facts()
            self._locate(root + self.unit.path)
            self._unborn = True
            if self.unit.is_slice:
                self._start(manager, [])
        if self.unit.is_slice and not self._rootless:
            self.files.create()

    def _start(self, manager: Manager, pids: list[int]) -> None:
        wanted: list[Property] = [("Description", "s", f"berth container {self.unit.description}")]
        if self.unit.is_slice:
            wanted.append(("Wants", "as", [self.unit.slice]))
        else:
            wanted += [("Slice", "s", self.unit.slice), ("Delegate", "b", True), ("PIDs", "au", pids)]
        io = "IOAccounting" if self._hosts.version == 2 else "BlockIOAccounting"
        # A controller that is off when the process moves in does not count what it had before.
        wanted += [(name, "b", True) for name in ("MemoryAccounting", "CPUAccounting", io, "TasksAccounting")]
        wanted += [("DefaultDependencies", "b", False), *self._extra, *self._properties(self._resources)]
        if (self._resources.get("unified") or {}).get("memory.oom.group") is not None and self._version >= 253:
            kill = str(self._resources["unified"]["memory.oom.group"]).strip() == "1"
            wanted.append(("OOMPolicy", "s", "kill" if kill else "continue"))
        try:
            manager.start(self.unit.name, wanted)
            self._unborn = False
        except (Conflict, Refused):
            raise
        except BaseException:
            self._unborn = False  # it may have come to be
            raise

    def _properties(self, resources: dict) -> list[Property]:
        kept = {**resources, "devices": None} if self._rootless else resources  # a user's systemd loads no BPF
        return properties(kept, self._hosts.version, self._version)

    def apply(self, resources: dict) -> None:
        """Before the start: kept for it, once it is clear that systemd can be told. After: an update."""
        if self._unborn:
            self._properties(resources)
            self._resources = resources
        else:
            self._tell(resources)
            self._apply_files(resources)

    def _tell(self, resources: dict) -> None:
        wanted = self._properties(self._completed(resources))
        if wanted:
            with self._manager() as manager:
                manager.set(self.unit.name, wanted)

    def _completed(self, resources: dict) -> dict:
        """An update's resources with what its properties need besides: systemd takes no half of a pair."""
        first = self.files.directories[0]
        memory, cpu = dict(resources.get("memory") or {}), dict(resources.get("cpu") or {})
        if self._hosts.version == 2:
            limit = cgroup.read_file(f"{first}/memory.max").strip()
            quota, _, period = cgroup.read_file(f"{first}/cpu.max").strip().partition(" ")
            if memory.get("swap") and not memory.get("limit") and limit.isdecimal():
                memory["limit"] = int(limit)
        else:
            at = self._hosts.v1.get("cpu", "") + self.files.path
            quota, period = (cgroup.read_file(f"{at}/cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if (cpu.get("quota") or cpu.get("period")) and period.isdecimal():
            cpu["quota"] = cpu.get("quota") or (int(quota) if quota.isdecimal() else -1)
            cpu["period"] = cpu.get("period") or int(period)
        return {**resources, "memory": memory, "cpu": cpu}

    def _apply_files(self, resources: dict) -> None:
        self.files.apply({**resources, "devices": None} if self._rootless else resources)

    def add(self, pid: int, beside: int = 0) -> None:
        """The first process of a new scope starts it; others join."""
        if self._unborn:
            with self._manager() as manager:
                self._start(manager, [pid])
            self._follow(pid)
            if not self._rootless:
                self.files.create()  # controllers that systemd leaves alone (hugetlb, rdma); all of v1's
            self._apply_files(self._resources)
            if self._hosts.version == 2:
                return
        try:
            self.files.add(pid, beside)
        except SystemFailure as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            # Moving takes the right to write to the common ancestor, which a user's session may not have.
            with self._manager() as manager:
                manager.attach(self.unit.name, pid)

    def _follow(self, pid: int) -> None:
        """Goes where systemd has put the process, should that be elsewhere (nested, or a namespace of ours)."""
        hierarchy = "0::" if self._hosts.version == 2 else "name=systemd:"
        for line in cgroup.read_file(f"/proc/{pid}/cgroup").splitlines():
            _, found, path = line.partition(hierarchy)
            if found and path.endswith(f"/{self.unit.name}") and "/../" not in path and path != self.files.path:
                self._locate(path)

    def saved(self) -> dict:
        """For `reopen`: by the real path, so that nobody has to be asked for it."""
        return {**self.files.saved(), "manager": "systemd", "rootless": self._rootless}

    def open_to_clone_into(self) -> int:
        """-1 before the scope is there: a directory of that name would be somebody else's unit."""
        return -1 if self._unborn else self.files.open_to_clone_into()

    def is_birthplace(self) -> None:
        self.files.is_birthplace()

    def enter(self) -> bool:
        return not self._unborn and self.files.enter()

    def kill(self) -> None:
        if not self._unborn:
            self.files.kill()

    def exists(self) -> bool:
        return not self._unborn and self.files.exists()

    def remove(self) -> bool:
        """Stops the unit; False while a process is still in it, which systemd would wait for much longer."""
        if self._unborn:
            return True
        if self.files.pids():
            return False
        try:
            with self._manager() as manager:
                manager.stop(self.unit.name)
        except (NotImplementedHere, Unavailable):
            if self.files.exists():
                raise
        return self.files.remove()


def open_cgroup(
    path: str, hosts: cgroup.Hierarchies, *, rootless: bool = False, annotations: dict[str, str] | None = None
) -> SystemdCgroup:
    """The manager for `slice:prefix:name`, or for the real path of a unit's group that exists; asks nobody yet.

    annotations: the bundle's, for `org.systemd.property.*`. Raises InvalidSpec, NotImplementedHere.
    """
    if rootless and hosts.version == 1:
        raise NotImplementedHere("cgroup v1 cannot be delegated to a user; use --cgroup-manager cgroupfs")
    name = path.rpartition("/")[2]
    if path.startswith("/") and name.endswith((".scope", ".slice")):
        return SystemdCgroup(Unit(name, "-.slice", ""), hosts, rootless=rootless, path=path)
    extra = annotated_properties(annotations or {})
    return SystemdCgroup(parse_path(path, rootless=rootless), hosts, rootless=rootless, extra=extra)
